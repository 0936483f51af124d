# Make a key and a certificate of its own, for ten years, or take what an authority gave before.
# Usage: sh -euc "$(cat make_certificate.sh)" sh PAIR NAME PURPOSE [SAN [FOLDER]]
# PAIR is their path without .key and .crt, and FOLDER has what certbot received.
pair=$1
if ! { [ "${5:-}" ] && cp "$5/fullchain.pem" "$pair.crt.new" && cp "$5/privkey.pem" "$pair.key.new"; } 2> /dev/null; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 \
        -subj "/CN=$(printf %.64s "$2")" -addext "extendedKeyUsage=$3" ${4:+-addext "subjectAltName=$4"} \
        -keyout "$pair.key.new" -out "$pair.crt.new"
fi
# Without power at any moment there is a whole pair, or a missing certificate, with which both are made again.
sync "$pair.key.new" "$pair.crt.new"
rm -f "$pair.crt"
mv "$pair.key.new" "$pair.key"
mv "$pair.crt.new" "$pair.crt"

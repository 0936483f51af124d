# Make a key and a certificate of its own for a database server, for ten years; both come whole or not at all.
# Usage: sh -euc "$(cat self_signed.sh)" sh FOLDER ADDRESS IP|DNS OWNER STATE
umask 022
mkdir -p "$1" "${5%/*}"
# Should the run end here, the next one has the server read them, as after a call of database_service that was cut off.
mkdir -p -m 0700 "$5"
[ -e "$5/before.json" ] || echo '{}' > "$5/before.json"
cd "$1"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 \
    -subj "/CN=$(printf %.64s "$2")" -addext "subjectAltName=$3:$2" -addext extendedKeyUsage=serverAuth \
    -keyout server.key.new -out server.crt.new
chown "$4:" server.key.new
chmod 0644 server.crt.new
# Without power at any moment a certificate that is there is whole, and so is its key.
sync server.key.new server.crt.new
mv server.key.new server.key
mv server.crt.new server.crt

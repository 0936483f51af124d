#!/bin/sh
# How many requests per second the proxy answers, by how the passwords in its htpasswd are hashed.
# Runs as root on a host of the lab, and leaves the proxy changed. deploy.py runs it.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -q --no-install-recommends wrk > /dev/null
site=/etc/nginx/conf.d/orthanc.conf users=/etc/pacs/nginx/htpasswd
password=correct-horse-battery-staple
login=$(printf 'bench:%s' "$password" | base64 --wrap 0)

measure() {
    systemctl reload nginx
    # Old workers end as soon as they have nothing to do.
    sleep 1
    wrk --threads 1 --connections 4 --duration 4s --header "Authorization: Basic $login" https://127.0.0.1/system > /tmp/wrk
    ! grep 'Non-2xx' /tmp/wrk
    printf '%s\t%s\n' "$(sed -n 's/^Requests.sec: *//p' /tmp/wrk)" "$1"
}

hashed() {
    printf 'bench:%s\n' "$(perl -e 'print crypt($ARGV[0], $ARGV[1])' "$password" "$1")" > "$users"
    measure "$2"
}

printf 'bench:%s\n' "$(openssl passwd -apr1 -salt 0123abcd "$password")" > "$users"
measure apr1
# shellcheck disable=SC2016 # These dollar signs are part of the hashes.
{
    hashed '$6$rounds=1000$0123456789abcdef$' 'sha512-crypt, 1000 rounds (ours)'
    hashed '$6$0123456789abcdef$' 'sha512-crypt, 5000 rounds (its default)'
    hashed '$2b$10$0123456789abcdefghijku' 'bcrypt, cost 10'
}
sed -i 's/auth_basic Orthanc;/auth_basic off;/' "$site"
grep -q 'auth_basic off;' "$site"
measure 'no login'

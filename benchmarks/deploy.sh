#!/bin/sh
# What the playbook does, as plainly as a shell script can: the same packages, kept from starting
# before they are configured, the same files, and the same wait until both services answer.
# Runs as root on a new host, with the files in /tmp/files.tar. deploy.py runs it.
set -eu
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d
# Like the playbook: lists that are younger than a day will do.
[ -n "$(find /var/lib/apt/lists -maxdepth 0 -mtime -1)" ] || apt-get update -q
apt-get install -y -q --no-install-recommends -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    orthanc ca-certificates tzdata orthanc-dicomweb nftables nginx openssl logrotate
rm /usr/sbin/policy-rc.d

rm -f /etc/nginx/sites-enabled/default
tar --extract --preserve-permissions --file /tmp/files.tar --directory /
install --directory /var/log/pacs
install --owner www-data --group adm --mode 0640 /dev/null /var/log/pacs/audit.log
install --directory --owner orthanc --group orthanc --mode 0750 /var/lib/orthanc/db-v6
systemctl daemon-reload
systemctl enable --now orthanc nginx

login=$(sed -n 's/.*orthanc_login "\(.*\)";/\1/p' /etc/pacs/nginx/upstream.conf)
name=$(sed -n 's/.*server_name \(.*\);/\1/p' /etc/nginx/conf.d/orthanc.conf | head -n 1)
ask='curl --silent --output /dev/null --write-out %{http_code}'
until [ "$($ask --header "Authorization: $login" 'http://127.0.0.1:8042/changes?last')" = 200 ]; do sleep 0.1; done
until [ "$($ask --header "Host: $name" http://127.0.0.1/)" = 301 ]; do sleep 0.1; done

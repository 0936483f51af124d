# Have those leave a cluster of etcd whom the inventory does not have any more, once all that it has are there. Names them.
# Usage: env ETCDCTL_…=… sh -euc "$(cat leave.sh)" sh URLS-OF-ALL [look]
members=$(etcdctl member list)
echo "$members" | awk -F ', ' -v wanted=",$1," '!index(wanted, "," $4 ",") { print $1, $3, $4 }' | while read -r id name url; do
    [ -n "${2-}" ] || etcdctl member remove "$id" > /dev/null
    echo "left: $name, $url"
done

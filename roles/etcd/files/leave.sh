# Have those leave a cluster of etcd whom the inventory does not have any more, by address nor by name. Names them.
# Usage: env ETCDCTL_…=… sh -euc "$(cat leave.sh)" sh URLS-OF-ALL NAMES-OF-ALL [look]
members=$(etcdctl member list)
echo "$members" | awk -F ', ' -v urls=",$1," -v names=",$2," \
    '!index(urls, "," $4 ",") && !($3 != "" && index(names, "," $3 ",")) { print $1, $4, $3 }' | while read -r id url name; do
    [ -n "${3-}" ] || etcdctl member remove "$id" > /dev/null
    echo "left: $name, $url"
done

# Have the members of a cluster take in one that has no data, in place of one that the inventory does not have any more, if there
# is such. Says "added" if it was none of them, or had data before.
# Usage: env ETCDCTL_…=… sh -euc "$(cat join.sh)" sh NAME URL URLS-OF-ALL
name=$1 url=$2 wanted=",$3,"
told="Most of etcd's members have to take one in, and did not. Where most of them are gone, docs/cluster.md tells what to do."
trap '[ $? = 0 ] || echo "$told" >&2' EXIT
members=$(etcdctl member list)
known=$(echo "$members" | awk -F ', ' -v url="$url" '$4 == url { print $1, $2 }')
case $known in
    *' unstarted') exit ;;
    *' started') etcdctl member remove "${known% *}" > /dev/null ;;
    *)
        # etcd refuses to let one go without whom the rest is not most of it: that is one who works, and another one does not.
        for one in $(echo "$members" | awk -F ', ' -v wanted="$wanted" '!index(wanted, "," $4 ",") { print $1 }'); do
            ! etcdctl member remove "$one" > /dev/null || break
        done
        ;;
esac
# Those that are left have to have seen each other for a while.
for try in 1 2 3 4 5 6 7 8 9 10; do
    ! etcdctl member add "$name" --peer-urls="$url" > /dev/null || { echo added; exit; }
    sleep 2
done
exit 1

# Have the members of a cluster take in one that has no data. Says "added" if it was none of them, or had data before.
# Usage: env ETCDCTL_…=… sh -euc "$(cat join.sh)" sh NAME URL
known=$(etcdctl member list | awk -F ', ' -v url="$2" '$4 == url { print $1, $2 }')
case $known in
    *' unstarted') exit ;;
    *' started') etcdctl member remove "${known% *}" > /dev/null ;;
esac
# Those that are left have to have seen each other for a while.
for try in 1 2 3 4 5 6 7 8 9 10; do
    ! etcdctl member add "$1" --peer-urls="$2" > /dev/null || { echo added; exit; }
    sleep 2
done
exit 1

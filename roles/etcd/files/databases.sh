# Tell how far the data of servers go that Patroni has run on this host, and where Patroni runs. What was shut down is told exactly.
# Usage: sh -euc "$(cat databases.sh)"
for sign in /var/lib/postgresql/*/main/patroni.dynamic.json; do
    [ -e "$sign" ] || continue
    data=${sign%/*} version=${sign#/var/lib/postgresql/}
    LC_ALL=C "/usr/lib/postgresql/${version%%/*}/bin/pg_controldata" "$data" | awk -F ': +' -v data="$data" '
        # Places in the log as they are written have no leading zeros.
        function later(one, other) { return length(one) != length(other) ? length(one) > length(other) : one > other }
        function place(text, parts) { split(text, parts, "/"); return parts[1] "/" sprintf("%8s", parts[2]) }
        $1 == "Database cluster state" { state = $2 }
        $1 == "Latest checkpoint location" || $1 == "Minimum recovery ending location" {
            if (later(place($2), place(at))) at = $2
        }
        $1 == "Latest checkpoint'"'"'s TimeLineID" || $1 == "Min recovery ending loc'"'"'s timeline" {
            if ($2 + 0 > timeline) timeline = $2 + 0
        }
        END { print "data: timeline " timeline ", at " at ", " state " (" data ")" }'
done
if [ -n "$(systemctl list-units --plain --no-legend --state active,activating 'patroni@*')" ]; then echo "runs: Patroni"; fi

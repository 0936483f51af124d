"""What is broken of a cluster, and the checks that have to fail then: ``make test-cluster``.

The hosts are named by what they do at that moment: ``primary``, ``standby`` (one of them) and ``standbys``.
"""

from __future__ import annotations

from tests.breakages.hosts import Breakage

CHECKS = (
    "test_cluster::test_one_server_is_primary",
    "test_cluster::test_all_others_follow_it",
    "test_cluster::test_what_is_acknowledged_is_on_two_hosts",
    "test_cluster::test_etcd_has_all_its_members",
    "test_cluster::test_another_server_could_take_its_place",
)
PRIMARY, FOLLOW, TWO_HOSTS, ETCD, PLACE = CHECKS
STOP, START = "systemctl stop 'patroni@*-main.service'", "systemctl start $(cat /root/unit)"
UNIT = "systemctl list-units --plain --no-legend 'patroni@*-main.service' | cut -d ' ' -f 1 > /root/unit"
PATRONI = "patronictl -c /etc/patroni/*-main.yml"
SQL = "runuser -u postgres -- psql -XAtqc"
# Without a word to others, as one that was primary for a while.
ALONE = """
version=$(sed -E 's/.*@([0-9]+)-.*/\\1/' /root/unit); data=/var/lib/postgresql/$version/main
rm $data/standby.signal
own() { runuser -u postgres -- /usr/lib/postgresql/$version/bin/pg_ctl -w -D $data -l /tmp/alone.log "$@"; }
own -o "-c config_file=/etc/postgresql/$version/main/postgresql.conf -c listen_addresses=" start
"""
NAME = "$(sed -n 's/^name: //p' /etc/patroni/*-main.yml)"
ANEW = f"{PATRONI} reinit $(basename /etc/patroni/*-main.yml .yml) {NAME} --force --wait"
FILL = "select pg_logical_emit_message(false, 'filler', repeat('x', 1000000)) from generate_series(1, %d)"

CLUSTER = (
    Breakage("a standby is away", (FOLLOW,), f"{UNIT}; {STOP}", hosts=("standby",), undo=START),
    Breakage(
        "the primary is alone",
        (FOLLOW, TWO_HOSTS, PLACE),
        f"{UNIT}; {STOP}",
        hosts=("standbys",),
        undo=START,
    ),
    Breakage(
        "a member of etcd is away",
        (ETCD, PLACE),
        "systemctl stop etcd",
        hosts=("standby",),
        undo="systemctl start etcd",
    ),
    Breakage(
        "Patroni is to do nothing by itself",
        (PLACE,),
        f"{PATRONI} pause --wait",
        hosts=("primary",),
        undo=f"{PATRONI} resume --wait",
    ),
    Breakage(
        "nobody is primary any more",
        (PRIMARY, FOLLOW, PLACE),
        f"{UNIT}; {PATRONI} pause --wait; {STOP}",
        hosts=("primary",),
        undo=f"{START}; sleep 5; {PATRONI} resume --wait",
    ),
    Breakage(
        "a standby takes nothing of what it gets",
        (FOLLOW,),
        f"""{SQL} 'select pg_wal_replay_pause()'; told=$({SQL} 'show primary_conninfo')
        runuser -u postgres -- psql -XAtqd "$told dbname=postgres user=pacs_rewind" -c "{FILL % 100}" > /dev/null""",
        hosts=("standby",),
        undo=f"{SQL} 'select pg_wal_replay_resume()'",
    ),
    Breakage(
        "a standby has another history",
        (FOLLOW,),
        f"""set -e; {UNIT}; {STOP}; {ALONE} {SQL} "{FILL % 9}" > /dev/null; own -m fast stop; {START}""",
        hosts=("standby",),
        undo=ANEW,
    ),
)

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
)

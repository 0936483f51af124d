"""The cluster of the database: who is primary, who follows, and whether another one could take its place."""

from __future__ import annotations

import json
import pathlib
from dataclasses import dataclass
from typing import Any

import pytest

from verification.expect import Unexpected, expect
from verification.reach import Host
from verification.report import Member, Report
from verification.site import Site

ON_CLUSTER = (pathlib.Path(__file__).parent / "on_cluster.py").read_text("utf-8")
# How far behind its primary a standby may be, in bytes: four segments of its log.
BEHIND = 64 << 20
PARTS = {"leader": "primary", "sync_standby": "standby in step", "replica": "standby"}
GOOD = ("running", "streaming")
SEE = "patronictl -c /etc/patroni/*-main.yml list; journalctl -u 'patroni@*'; docs/cluster.md"
SEE_ETCD = "journalctl -u etcd; playbooks/site.yml; docs/cluster.md"


@dataclass(frozen=True)
class Cluster:
    """What Patroni says of the servers by their names, and the members of etcd by theirs.

    :ivar places: how far each server is in its log, in bytes.
    """

    servers: dict[str, dict[str, Any]]
    etcd: dict[str, dict[str, Any]]
    paused: bool
    places: dict[str, dict[str, int]]

    @property
    def primary(self) -> dict[str, Any]:
        return next((one for one in self.servers.values() if one["role"] == "leader"), {})

    @property
    def ready(self) -> list[str]:
        """The standbys that have all that was acknowledged, and may take the place of the primary."""
        return [
            name
            for name, one in self.servers.items()
            if one["role"] == "sync_standby" and one["state"] in GOOD and not one.get("tags", {}).get("nofailover")
        ]

    @property
    def leader(self) -> set[str]:
        """Whom the members of etcd take for their leader."""
        return {one["leader"] for one in self.etcd.values() if "leader" in one}


@pytest.fixture(scope="session")
def cluster(site: Site, pytestconfig: pytest.Config, report: Report) -> Cluster:
    """What the first of the servers that answers says."""
    if not site.cluster:
        pytest.skip("no host is in the group etcd: the database is on one server")
    reasons = []
    for name, connection in site.cluster_connections.items():
        try:
            asked = Host(name, connection, pytestconfig.getoption("--sites")).run(
                f"/usr/bin/python3 -c %s{' %s' * len(site.etcd)}", ON_CLUSTER, *site.etcd.values()
            )
        except Unexpected as error:
            reasons.append(str(error))
            continue
        if asked.rc == 0:
            said = json.loads(asked.stdout)
            break
        reasons.append(f"{name}: {asked.stderr.strip().rpartition(chr(10))[2]}")
    else:
        expect("a server of the database that tells of the cluster", "one", "; ".join(reasons), SEE)
    found = Cluster(
        {one["name"]: one for one in said["patroni"]["members"]},
        {name: said["etcd"][place] for name, place in site.etcd.items()},
        bool(said["patroni"].get("pause")),
        said["places"],
    )
    report.clusters[site.label] = told(site, found)
    return found


def told(site: Site, cluster: Cluster) -> list[Member]:
    """Return a row for each host of it."""
    rows = []
    for name, address in (site.cluster | {name: place.rpartition(":")[0] for name, place in site.etcd.items()}).items():
        one, member = cluster.servers.get(name), cluster.etcd.get(name)
        lag = one.get("lag") if one else None
        rows.append(
            Member(
                name,
                address,
                PARTS.get(one["role"], one["role"]) if one else "away" if name in site.cluster else "no server",
                one["state"] if one else "",
                str(one.get("timeline", "")) if one else "",
                "" if lag is None else f"{lag / 2**20:.1f} MiB" if isinstance(lag, int) else str(lag),
                ""
                if member is None
                else member.get("problem") or ("leader" if member["id"] in cluster.leader else "member"),
            )
        )
    return rows


def test_one_server_is_primary(site: Site, cluster: Cluster) -> None:
    found = [name for name, one in cluster.servers.items() if one["role"] == "leader" and one["state"] == "running"]
    expect("how many servers are primary", 1, len(found), SEE)
    expect("the primary is a host of the inventory", True, found[0] in site.cluster, "the group postgresql")


def test_all_others_follow_it(site: Site, cluster: Cluster) -> None:
    wanted = {name: "follows" for name in site.cluster if name != cluster.primary.get("name")}
    got = {name: following(cluster, cluster.servers.get(name)) for name in wanted}
    expect("what the standbys do", wanted, got, SEE)


def following(cluster: Cluster, one: dict[str, Any] | None) -> str:
    if not one:
        return "is away"
    if one["state"] not in GOOD or one["role"] not in PARTS:
        return str(one["state"])
    if one.get("timeline") != cluster.primary.get("timeline"):
        return f"is on timeline {one.get('timeline')}, and the primary on {cluster.primary.get('timeline')}"
    lag = one.get("lag", 0)
    if not isinstance(lag, int):
        return "does not tell how far behind it is"
    place, end = cluster.places.get(one["name"], {}), cluster.places.get(cluster.primary.get("name", ""), {})
    if end and max(place.values(), default=0) > end["location"]:
        return "has another history, in which it is further than the primary"
    if end and "replayed_location" in place:
        lag = max(lag, end["location"] - place["replayed_location"])
    return "follows" if lag <= BEHIND else f"is {lag / 2**20:.0f} MiB behind"


def test_what_is_acknowledged_is_on_two_hosts(cluster: Cluster) -> None:
    expect("a standby that has all that is acknowledged", True, bool(cluster.ready), SEE)


def test_etcd_has_all_its_members(site: Site, cluster: Cluster) -> None:
    problems = {name: one["problem"] for name, one in cluster.etcd.items() if "problem" in one}
    expect("members of etcd that do not answer", {}, problems, SEE_ETCD)
    expect("how many leaders they know", 1, len(cluster.leader - {""}), SEE_ETCD)
    counts = {name: len(one["members"]) for name, one in cluster.etcd.items()}
    expect("how many members each of them knows", dict.fromkeys(counts, len(site.etcd)), counts, SEE_ETCD)
    alarms = {name: one["alarms"] for name, one in cluster.etcd.items() if one["alarms"]}
    expect("alarms of etcd", {}, alarms, "etcdctl alarm list; docs/cluster.md")


def test_another_server_could_take_its_place(site: Site, cluster: Cluster) -> None:
    working = sum("problem" not in one for one in cluster.etcd.values())
    reasons = {
        "Patroni was told to do nothing by itself (patronictl pause)": cluster.paused,
        "no standby has all that is acknowledged": not cluster.ready,
        "the primary's host may not be one of etcd's that is lost besides": working - 1 <= len(site.etcd) // 2,
    }
    expect("why the loss of a host would be felt", [], [reason for reason, holds in reasons.items() if holds], SEE)

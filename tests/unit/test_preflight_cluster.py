"""What the roles etcd and postgresql ask of an inventory whose database is on several servers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general

from tests.unit.good_host import POSTGRESQL, PROBE, host, pair, problems

ADDRESSES = {"pacs": "192.0.2.1", "pacs2": "192.0.2.2", "pacs3": "192.0.2.3"}
CERTIFICATE, KEY = pair(("192.0.2.1", "pacs"))
OTHER, _ = pair(("192.0.2.9",))


def good(prefix: str) -> dict[str, Any]:
    """Return what a host of a cluster has of its own, with the certificates of an authority."""
    of_site = {f"{prefix}_tls_certificate": CERTIFICATE, f"{prefix}_tls_private_key": KEY}
    return of_site | {f"{prefix}_tls_authority": OTHER, f"{prefix}_address": "192.0.2.1"}


def etcd(servers: bool = True, **changes: Any) -> list[str]:
    """Return what is wrong with a member of etcd."""
    known = {"etcd_members": ADDRESSES, "etcd_clients": list(ADDRESSES.values())} | good("etcd")
    made = host(("etcd",), known | changes, PROBE)
    groups = {"postgresql": list(ADDRESSES)} if servers else {}
    return list(general.problems(dataclasses.replace(made, groups=groups, name="pacs")))


def server(**changes: Any) -> list[str]:
    """Return what is wrong with a server of PostgreSQL among others."""
    known = {"postgresql_etcd": ["192.0.2.1:2379"], "postgresql_servers": ADDRESSES, "postgresql_clients": []}
    return problems(("postgresql",), **(known | good("postgresql") | changes))


def test_good_cluster() -> None:
    assert etcd() == []
    assert etcd(etcd_settings={"election-timeout": 5000, "quota-backend-bytes": None}) == []
    five = ADDRESSES | {"four": "192.0.2.4", "five": "2001:db8::5"}
    assert etcd(etcd_members=five) == []
    assert server() == []
    assert server(postgresql_settings={"max_connections": 200, "work_mem": "8MB"}) == []
    assert server(postgresql_settings={"synchronous_commit": "remote_apply", "fsync": True, "max_wal_senders": 3}) == []
    assert server(postgresql_settings={"fsync": None, "max_wal_senders": None}) == []
    # One that is alone is its owner's.
    assert server(postgresql_settings={"synchronous_commit": "off"}, postgresql_etcd=[]) == []
    assert server(listening={"8008": "patroni", "5432": "postgres"}) == []
    assert server(postgresql_watchdog="/dev/watchdog0", watchdog=True) == []


@pytest.mark.parametrize(
    "changes, told, part",
    [
        ({"etcd_members": dict(list(ADDRESSES.items())[:2])}, "etcd_members", "has 2 hosts"),
        ({"etcd_members": {"pacs": "192.0.2.1"}}, "etcd_members", "has 1 hosts"),
        ({"etcd_members": ADDRESSES | {"pacs4": "192.0.2.4"}}, "etcd_members", "has 4 hosts"),
        ({"etcd_members": ADDRESSES | {"pacs3": "192.0.2.1"}}, "etcd_address", "is the one of pacs3 as well"),
        ({"etcd_members": ADDRESSES | {"pacs3": "three"}}, "etcd_address", "'three' of pacs3 is no IP address"),
        ({"etcd_members": ADDRESSES | {"pacs3": ""}}, "etcd_address", "'' of pacs3 is no IP address"),
        ({"servers": False}, "etcd_members", "without a host in the group 'postgresql'"),
        ({"etcd_settings": {"name": "x"}}, "etcd_settings.name", "the role needs it as it is"),
        ({"etcd_settings": {"enable-v2": False}}, "etcd_settings.enable-v2", "the role needs it as it is"),
        ({"etcd_settings": {"listen-peer-urls": "x"}}, "etcd_settings.listen-peer-urls", "set etcd_address and"),
        ({"etcd_settings": {"ETCD_NAME": "x"}}, "etcd_settings", "'ETCD_NAME' is no name of a flag"),
        ({"etcd_settings": {"log-level": "a\nb"}}, "etcd_settings.log-level", "it has a line break"),
        ({"etcd_tls_certificate": "", "etcd_tls_private_key": ""}, "etcd_tls_certificate", "run `make certificates"),
        ({"etcd_tls_authority": ""}, "etcd_tls_certificate", "run `make certificates"),
        ({"etcd_tls_certificate": OTHER}, "etcd_tls_private_key", "it does not belong to"),
        ({"etcd_client_port": 2380}, "etcd_peer_port", "port 2380 is the one of etcd_client_port already"),
        ({"listening": {"2379": "nginx"}}, "etcd_client_port", "is taken on this host by nginx"),
    ],
)
def test_wrong_etcd(changes: dict[str, Any], told: str, part: str) -> None:
    found = {name: changes.pop(name) for name in PROBE.keys() & changes.keys()}
    if found:
        made = host(("etcd",), {"etcd_members": ADDRESSES} | good("etcd") | changes, PROBE | found)
        said = list(general.problems(dataclasses.replace(made, groups={"postgresql": ["pacs"]}, name="pacs")))
    else:
        said = etcd(**changes)
    assert [one for one in said if one.startswith(f"{told}: ") and part in one], said


@pytest.mark.parametrize(
    "changes, told, part",
    [
        ({"postgresql_servers": {"pacs": "192.0.2.1"}}, "postgresql_servers", "there is nobody to take its place"),
        ({"postgresql_servers": ADDRESSES | {"pacs3": "three"}}, "postgresql_servers", "'three' of pacs3 is no IP"),
        ({"postgresql_shared": True}, "postgresql_shared", "a server of others is none of a cluster"),
        ({"postgresql_settings": {"hot_standby": False}}, "postgresql_settings.hot_standby", "Patroni sets it"),
        ({"postgresql_settings": {"primary_conninfo": "x"}}, "postgresql_settings.primary_conninfo", "Patroni sets it"),
        ({"postgresql_settings": {"fsync": False}}, "postgresql_settings.fsync", "with false an image"),
        ({"postgresql_settings": {"full_page_writes": "off"}}, "postgresql_settings.full_page_writes", "with off an"),
        (
            {"postgresql_settings": {"synchronous_commit": "local"}},
            "postgresql_settings.synchronous_commit",
            "local an",
        ),
        ({"postgresql_settings": {"wal_level": "minimal"}}, "postgresql_settings.wal_level", "with minimal an image"),
        ({"postgresql_settings": {"max_wal_senders": 2}}, "postgresql_settings.max_wal_senders", "choose 3 or more"),
        ({"listening": {"8008": "java"}}, "postgresql_etcd", "Patroni's port 8008 is taken on this host by java"),
        ({"postgresql_tls_authority": ""}, "postgresql_tls_certificate", "run `make certificates"),
        ({"postgresql_address": "192.0.2.7"}, "postgresql_tls_certificate", "not for postgresql_address '192.0.2.7'"),
        ({"postgresql_failover_seconds": 29}, "postgresql_failover_seconds", "choose a number from 30 to 600"),
        ({"postgresql_watchdog": "watchdog"}, "postgresql_watchdog", "'watchdog' is no device such as /dev/watchdog"),
        ({"postgresql_watchdog": "/dev/../x"}, "postgresql_watchdog", "'/dev/../x' is no device"),
        ({"postgresql_watchdog": "/dev/watchdog"}, "postgresql_watchdog", "/dev/watchdog is no device of this host"),
        ({"postgresql_watchdog": "/dev/watchdog", "postgresql_etcd": []}, "postgresql_watchdog", "stands alone"),
    ],
)
def test_wrong_server_of_a_cluster(changes: dict[str, Any], told: str, part: str) -> None:
    said = server(**changes)
    assert [one for one in said if one.startswith(f"{told}: ") and part in one], said


@pytest.mark.parametrize("place, part", [("192.0.2.1,db 2", "'db 2' is neither"), ("192.0.2.1,", "'' is neither")])
def test_wrong_one_of_several_servers(place: str, part: str) -> None:
    assert problems(**POSTGRESQL | {"orthanc_database_host": "192.0.2.1,2001:db8::5,db.example.org"}) == []
    (problem,) = problems(**POSTGRESQL | {"orthanc_database_host": place})
    assert problem.startswith("orthanc_database_host: ")
    assert part in problem


def test_several_servers_are_of_postgresql() -> None:
    (problem,) = problems(**POSTGRESQL | {"orthanc_database": "mysql", "orthanc_database_host": "192.0.2.1,192.0.2.2"})
    assert "are several, and mysql has one" in problem


def test_server_that_has_no_part_in_the_run_is_told_of() -> None:
    known = {"postgresql_etcd": ["192.0.2.1:2379"], "postgresql_servers": ADDRESSES} | good("postgresql")

    def told(*played: str, **changes: Any) -> list[str]:
        made = host(("postgresql",), known | changes, PROBE)
        return list(general.notices(dataclasses.replace(made, site=lambda _name: played)))

    assert [one for one in told("pacs", "pacs2") if one.startswith("postgresql_servers: this run leaves pacs3 out, ")]
    assert not [one for one in told(*ADDRESSES) if "leaves" in one]
    assert not [one for one in told("pacs", postgresql_etcd=[]) if "leaves" in one]

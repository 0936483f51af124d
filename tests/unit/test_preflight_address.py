"""What the roles haproxy and keepalived ask of an inventory, and those of what is behind them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.probe import address as probe
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general, haproxy, keepalived

from tests.unit.good_host import PROBE, host, pair, problems

ADDRESS = "192.0.2.9"
MEMBERS = {"pacs": "192.0.2.1", "pacs2": "192.0.2.2"}
SERVERS = [
    {"name": name, "address": place, "https_port": 8444, "health_port": 8445, "dicom_port": 4242}
    for name, place in MEMBERS.items()
]
SEEN = {"device": "eth0", "network": "192.0.2.0/24", "held": False, "taken": ""}
GROUPS = {"orthanc": list(MEMBERS), "nginx": list(MEMBERS), "haproxy": list(MEMBERS), "keepalived": list(MEMBERS)}
GOOD = {
    "haproxy_address": ADDRESS,
    "haproxy_server_name": "pacs.example.org",
    "haproxy_servers": SERVERS,
    "haproxy_senders": [{"aet": "CT", "address": "192.0.2.7"}],
    "keepalived_address": ADDRESS,
    "keepalived_members": MEMBERS,
}
CERTIFICATE, KEY = pair(("192.0.2.1", "pacs.example.org", ADDRESS))
BEHIND = {
    "nginx_server_name": "192.0.2.1",
    "nginx_tls_certificate": CERTIFICATE,
    "nginx_tls_private_key": KEY,
    "nginx_balancers": list(MEMBERS.values()),
    "nginx_addresses": ["192.0.2.1"],
    "nginx_balanced_names": ["pacs.example.org", ADDRESS],
    "orthanc_balancers": list(MEMBERS.values()),
}


def of(site: Mapping[str, Any] = {}, groups: Mapping[str, list[str]] = GROUPS, **changes: Any) -> Any:
    """Return a host with a balancer beside its Orthanc."""
    known = (
        PROBE | {"address": SEEN} | {name: changes.pop(name) for name in ("address", "listening") if name in changes}
    )
    made = host(("haproxy", "keepalived", "orthanc", "nginx"), GOOD | BEHIND | changes, known)
    of_site = {"site_address": "192.0.2.1", "site_balanced_apart": []} | dict(site)
    return dataclasses.replace(made, name="pacs", groups=groups, site=of_site.get)


def told(**changes: Any) -> list[str]:
    return list(general.problems(of(**changes)))


def test_good_address() -> None:
    assert told() == []
    assert told(address=SEEN | {"held": True}) == []
    assert told(address={}) == []
    assert told(haproxy_senders_checked=False, haproxy_senders=[{"aet": "CT", "address": "ct.example.org"}]) == []
    assert told(listening={"443": "nginx", "104": "haproxy", "8446": "haproxy", "4242": "Orthanc"}) == []
    made = of()
    assert list(haproxy.inventory(made)) == list(keepalived.inventory(made)) == []
    assert keepalived.look(made) == {"address": [ADDRESS, "192.0.2.1", *MEMBERS.values()]}
    assert "--limit '!pacs'" in keepalived.away(made)
    assert "--limit '!pacs'" in haproxy.away(made)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"keepalived_address": ""}, "keepalived_address: it is empty"),
        ({"keepalived_address": "pacs"}, "keepalived_address: 'pacs' is no address of IPv4"),
        ({"keepalived_address": "2001:db8::9"}, "keepalived_address: '2001:db8::9' is no address of IPv4"),
        ({"keepalived_address": "192.0.2.2"}, "keepalived_address: 192.0.2.2 is the own one of pacs2"),
        (
            {"keepalived_members": {"pacs": "192.0.2.1"}},
            "keepalived_members: the group 'keepalived' has 1 host; take two",
        ),
        ({"keepalived_members": {f"h{n}": f"192.0.2.{n}" for n in range(1, 7)}}, "has 6 hosts; take two"),
        (
            {"keepalived_members": MEMBERS | {"pacs2": "pacs2"}},
            "keepalived_members: 'pacs2' of pacs2 is no address of IPv4",
        ),
        ({"keepalived_router_id": 0}, "keepalived_router_id: 0 is out of range"),
        ({"keepalived_router_id": 256}, "keepalived_router_id: 256 is out of range"),
        ({"address": SEEN | {"network": ""}}, "keepalived_members: this host does not have 192.0.2.1 itself"),
        ({"address": SEEN | {"network": "192.0.2.0/29"}}, "keepalived_address: 192.0.2.9 is not in 192.0.2.0/29"),
        (
            {"address": SEEN | {"taken": "02:42:00:00:00:01"}},
            "taken by another machine, with the hardware address 02:42",
        ),
        ({"haproxy_address": "pacs"}, "haproxy_address: 'pacs' is no IP address"),
        ({"haproxy_server_name": "p_x y"}, "haproxy_server_name: 'p_x y' is neither"),
        ({"haproxy_servers": [SERVERS[0] | {"address": "pacs"}]}, "haproxy_servers: 'pacs' of pacs is no IP address"),
        ({"haproxy_servers": [SERVERS[0] | {"name": "p s"}]}, "haproxy_servers: 'p s' is no name"),
        ({"haproxy_servers": [SERVERS[0] | {"dicom_port": 0}]}, "haproxy_servers.dicom_port: 0 is out of range"),
        ({"haproxy_senders": [{"aet": "CT", "address": "ct"}]}, "haproxy_senders: 'ct' of CT is a name"),
        ({"haproxy_senders": [{"aet": "C" * 17, "address": ADDRESS}]}, "is no application entity title"),
        ({"haproxy_timeout": 0}, "haproxy_timeout: 0 is out of range"),
        ({"haproxy_http_port": 443}, "haproxy_http_port: port 443 is the one of haproxy_https_port already"),
        (
            {"haproxy_dicom_port": 4242},
            "haproxy_dicom_port: port 4242 is the one of orthanc_dicom_port on this host, which Orthanc has at every",
        ),
        (
            {"haproxy_address": "192.0.2.1"},
            "haproxy_https_port: port 443 is the one of nginx_https_port on this host, at the same address",
        ),
        ({"listening": {"104": "dcmqrscp"}}, "haproxy_dicom_port: port 104 is taken on this host by dcmqrscp"),
        ({"listening": {"443": "apache2"}}, "haproxy_https_port: port 443 is taken on this host by apache2"),
        ({"haproxy_health_port": 8042}, "port 8042 is the one of "),
        ({"nginx_balanced_port": 443}, "nginx_balanced_port: port 443 is the one of nginx_https_port already"),
        ({"nginx_health_port": 8444}, "nginx_health_port: port 8444 is the one of nginx_balanced_port already"),
        ({"listening": {"8445": "java"}}, "nginx_health_port: port 8445 is taken on this host by java"),
        ({"nginx_balancers": ["pacs"]}, "nginx_balancers: 'pacs' is no IP address"),
        ({"nginx_addresses": ["pacs"]}, "nginx_addresses: 'pacs' is no IP address"),
        ({"nginx_balanced_names": ["a b"]}, "nginx_balanced_names: 'a b' is neither"),
        ({"nginx_balanced_names": ["x.example.org:8443"]}, "not for nginx_balanced_names 'x.example.org'"),
        (
            {"nginx_tls_certificate": "", "nginx_tls_private_key": ""},
            "nginx_tls_certificate: clients come to several proxies by one address",
        ),
        ({"nginx_ban_after": 5}, "nginx_ban_after: the packet filter of this host does not see"),
        ({"orthanc_balancers": ["pacs"]}, "orthanc_balancers: 'pacs' is no IP address"),
        (
            {"orthanc_settings": {"DicomCheckModalityHost": True}},
            "orthanc_settings.DicomCheckModalityHost: behind a balancer every sender has its address",
        ),
        (
            {
                "orthanc_modalities": {
                    "ct": {"AET": "CT", "Host": "192.0.2.7", "Port": 104},
                    "ct2": {"AET": "CT", "Host": "192.0.2.8", "Port": 104, "AllowStore": False},
                }
            },
            "orthanc_modalities.ct2: its title is the one of ct, and behind a balancer",
        ),
    ],
)
def test_wrong_address(changes: dict[str, Any], words: str) -> None:
    assert any(words in one for one in told(**changes)), told(**changes)


def test_balancer_on_a_host_of_its_own() -> None:
    """Without keepalived it has the ports of the host's own address, which nobody else has there."""
    alone = {"haproxy_address": "192.0.2.3"}
    made = host(("haproxy",), GOOD | alone, PROBE | {"listening": {"443": "nginx"}})
    made = dataclasses.replace(made, site={"site_address": "192.0.2.3"}.get)
    assert list(general.problems(made)) == [
        "haproxy_https_port: port 443 is taken on this host by nginx; choose another or stop that program."
    ]


@pytest.mark.parametrize(
    "groups, site, words",
    [
        ({"orthanc": ["pacs"], "nginx": []}, {}, "no host is in both of the groups orthanc and nginx"),
        ({"nginx": ["pacs"]}, {}, "the Orthanc of pacs2 has no proxy beside it"),
        ({}, {"site_balanced_apart": ["pacs2"]}, "pacs2 have an archive of their own"),
    ],
)
def test_orthancs_that_no_balancer_can_stand_before(
    groups: dict[str, list[str]], site: dict[str, Any], words: str
) -> None:
    assert any(words in one for one in haproxy.inventory(of(site, GROUPS | groups)))


def test_address_without_a_balancer() -> None:
    (said,) = keepalived.inventory(of({}, GROUPS | {"haproxy": ["pacs2"]}))
    assert "pacs is in the group 'keepalived' and not in 'haproxy'" in said


def test_what_is_lost_is_told() -> None:
    assert list(haproxy.notices(of())) == []
    (said,) = haproxy.notices(of(haproxy_senders_encrypt=True))
    assert "whoever has the address of one modality may use the title of another one" in said
    (said,) = haproxy.notices(of(haproxy_senders_checked=False))
    assert "everybody gets to the DICOM ports" in said


def test_nothing_of_it_counts_without_a_balancer() -> None:
    assert problems(nginx_balanced_port=443, nginx_ban_after=5) == []


SHOWN = [
    {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "prefixlen": 8}]},
    {"ifname": "eth0", "addr_info": [{"local": "192.0.2.1", "prefixlen": 24}]},
]


@pytest.mark.parametrize(
    "asked, neighbours, network, taken",
    [
        # Nobody answers; another of the group has it; a stranger does.
        (ADDRESS, {ADDRESS: ("", "FAILED"), "192.0.2.2": ("aa", "REACHABLE")}, "192.0.2.0/24", ""),
        (ADDRESS, {ADDRESS: ("aa", "REACHABLE"), "192.0.2.2": ("aa", "STALE")}, "192.0.2.0/24", ""),
        (ADDRESS, {ADDRESS: ("bb", "REACHABLE"), "192.0.2.2": ("aa", "REACHABLE")}, "192.0.2.0/24", "bb"),
        (ADDRESS, {ADDRESS: ("bb", "DELAY"), "192.0.2.2": ("", "FAILED")}, "192.0.2.0/24", "bb"),
        # Of another network nobody is asked.
        ("198.51.100.9", {"198.51.100.9": ("bb", "REACHABLE")}, "192.0.2.0/24", ""),
    ],
)
def test_address_that_somebody_has(
    asked: str, neighbours: dict[str, tuple[str, str]], network: str, taken: str
) -> None:
    calls: list[tuple[str, ...]] = []

    def run(*command: str) -> str:
        calls.append(command)
        if "neigh" not in command:
            return json.dumps(SHOWN)
        rows = [
            {"dst": place, "state": [state]} | ({"lladdr": holder} if holder else {})
            for place, (holder, state) in neighbours.items()
        ]
        return json.dumps(rows) if "show" in command else ""

    found = probe.look(run, asked, "192.0.2.1", *MEMBERS.values())
    assert found == {"device": "eth0", "network": network, "held": False, "taken": taken}
    # What the kernel remembers of it may be of yesterday.
    assert (("ip", "neigh", "delete", asked, "dev", "eth0") in calls) == asked.startswith("192.0.2.")


def test_address_that_it_has_itself_and_own_one_that_it_has_not() -> None:
    def run(*command: str) -> str:
        assert "neigh" not in command
        return json.dumps(
            [{"ifname": "eth0", "addr_info": [*SHOWN[1]["addr_info"], {"local": ADDRESS, "prefixlen": 24}]}]
        )

    assert probe.look(run, ADDRESS, "192.0.2.1")["held"]
    assert probe.look(run, ADDRESS, "203.0.113.7")["network"] == ""
    assert probe.look(lambda *_: "", ADDRESS, "192.0.2.1")["network"] == ""

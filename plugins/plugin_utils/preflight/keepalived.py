# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role keepalived asks of an inventory."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host

RANGES = {"keepalived_router_id": (1, 255)}
PROGRAMS = ("keepalived",)
# The balancer has it.
PORTS_ELSEWHERE = ("keepalived_health_port",)
# More would each be told of all others twice a second.
MOST = 5


def packages(_host: Host) -> str:
    return "__keepalived_packages"


def inventory(host: Host) -> Iterator[str]:
    """Hosts without a balancer, to which the address would lead nobody."""
    if host.name not in host.groups.get("haproxy", []):
        yield (
            f"keepalived_members: {host.name} is in the group 'keepalived' and not in 'haproxy', and nothing would"
            " answer at the address there; put it into both, or into none."
        )


def look(host: Host) -> dict[str, Any]:
    address, own = str(host.variables["keepalived_address"]), _own(host)
    others = [str(other) for other in host.variables["keepalived_members"].values() if _is_ipv4(other)]
    return {"address": [address, own, *others]} if _is_ipv4(address) and _is_ipv4(own) else {}


def _own(host: Host) -> str:
    return str(host.variables["keepalived_members"].get(host.name, ""))


def _is_ipv4(address: Any) -> bool:
    return values.is_address(str(address)) and ":" not in str(address)


def problems(host: Host) -> Iterator[str]:
    variables = host.variables
    members, address = variables["keepalived_members"], str(variables["keepalived_address"])
    if not 2 <= len(members) <= MOST:
        yield (
            f"keepalived_members: the group 'keepalived' has {len(members)} host{'s' * (len(members) != 1)}; take two,"
            f" of which either has the address when the other one is gone, and {MOST} at most."
        )
    for name, other in members.items():
        if not _is_ipv4(other):
            yield (
                f"keepalived_members: '{other}' of {name} is no address of IPv4, by which they know each other; give"
                f" {name} an ansible_host that is one."
            )
    if not address:
        yield "keepalived_address: it is empty; give an address of the hosts' network that nobody else has."
    elif not _is_ipv4(address):
        yield f"keepalived_address: '{address}' is no address of IPv4; no other is served."
    elif address in members.values():
        name = next(name for name, other in members.items() if other == address)
        yield f"keepalived_address: {address} is the own one of {name}; give one that no host has by itself."
    else:
        yield from _seen(host, address)


def _seen(host: Host, address: str) -> Iterator[str]:
    """What was found of the address in the network."""
    found = (host.probe or {}).get("address") or {}
    if found and not found["network"]:
        yield (
            f"keepalived_members: this host does not have {_own(host)} itself, such as behind NAT; give ansible_host an"
            " address of its own, at which the others reach it."
        )
    elif found and ipaddress.ip_address(address) not in ipaddress.ip_network(found["network"]):
        yield (
            f"keepalived_address: {address} is not in {found['network']}, the network of {_own(host)}, so that nobody"
            " would look for it there; give one of that network that nobody else has."
        )
    elif found and found["taken"]:
        yield (
            f"keepalived_address: {address} is taken by another machine, with the hardware address {found['taken']};"
            " give one of the network that nobody else has."
        )


def away(host: Host) -> str:
    return values.without(host)

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role etcd asks of an inventory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host

PROGRAMS = ("etcd",)
NULL = ("etcd_settings",)
# Of one member less the others have to be the most.
MEMBERS = (3, 5, 7)
OURS = (
    *("initial-cluster", "initial-cluster-state", "initial-cluster-token", "data-dir"),
    *("client-cert-auth", "peer-client-cert-auth", "enable-v2"),
)
# Settings that the role has from elsewhere, and the variable for it, if there is one.
SETTINGS: Mapping[str, str] = {
    "name": "",
    **dict.fromkeys(OURS, ""),
    **dict.fromkeys(("listen-client-urls", "advertise-client-urls"), "etcd_address and etcd_client_port"),
    **dict.fromkeys(("listen-peer-urls", "initial-advertise-peer-urls"), "etcd_address and etcd_peer_port"),
    **dict.fromkeys(("cert-file", "peer-cert-file"), "etcd_tls_certificate"),
    **dict.fromkeys(("key-file", "peer-key-file"), "etcd_tls_private_key"),
    **dict.fromkeys(("trusted-ca-file", "peer-trusted-ca-file"), "etcd_tls_authority"),
}


def problems(host: Host) -> Iterator[str]:
    variables = host.variables
    members, address = variables["etcd_members"], str(variables["etcd_address"])
    if len(members) not in MEMBERS:
        yield (
            f"etcd_members: the group 'etcd' has {len(members)} hosts, and most of them have to agree: take 3, which"
            " lose one without harm, or 5, which lose two."
        )
    others = [name for name, other in members.items() if other == address and name != host.name]
    if others:
        yield f"etcd_address: {address} is the one of {' and '.join(others)} as well; each member has its own."
    for name, other in members.items():
        if not values.is_address(str(other)):
            yield (
                f"etcd_address: '{other}' of {name} is no IP address, and etcd listens at no name. Give {name} an"
                " ansible_host that is an address, or etcd_address."
            )
    if not host.groups.get("postgresql"):
        yield "etcd_members: nothing asks etcd without a host in the group 'postgresql'; add three, or take 'etcd' out."
    yield from values.settings("etcd_settings", variables, {})
    for name in variables["etcd_settings"]:
        if name in SETTINGS:
            way = f"set {SETTINGS[name]}." if SETTINGS[name] else "the role needs it as it is. Take it out."
            yield f"etcd_settings.{name}: this setting comes from elsewhere; {way}"
        elif not re.fullmatch(r"[a-z][a-z0-9-]*", str(name)):
            yield f"etcd_settings: '{name}' is no name of a flag; they are written as in election-timeout."
    yield from values.among("etcd_tls", "etcd_address", host)


def away(host: Host) -> str:
    return values.without(host)


def notices(host: Host) -> Iterator[str]:
    if host.variables["etcd_tls_certificate"]:
        yield from values.ending("etcd_tls_certificate", host.variables)

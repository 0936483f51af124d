# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role haproxy asks of an inventory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.dicom import is_aet

RANGES = {
    "haproxy_timeout": (1, 86_400),
    "haproxy_servers.https_port": (1, 65_535),
    "haproxy_servers.health_port": (1, 65_535),
    "haproxy_servers.dicom_port": (1, 65_535),
}
PROGRAMS = ("haproxy",)
# They are those of its address, which others on this host do not have.
PORTS = ("haproxy_https_port", "haproxy_http_port", "haproxy_dicom_port")
PORTS_ELSEWHERE = PORTS


def packages(_host: Host) -> str:
    return "__haproxy_packages"


def inventory(host: Host) -> Iterator[str]:
    """What would be behind it, and is not, or not as it has to be."""
    behind = [name for name in host.groups.get("orthanc", []) if name in host.groups.get("nginx", [])]
    if not behind:
        yield (
            "the group haproxy has this host, and no host is in both of the groups orthanc and nginx: a balancer stands"
            " before Orthancs that have their proxy beside them."
        )
    for name in host.groups.get("orthanc", []):
        if behind and name not in behind:
            yield (
                f"haproxy_servers: the Orthanc of {name} has no proxy beside it, and a balancer stands before such that"
                f" have; put {name} into the group 'nginx' too."
            )
    apart = host.site("site_balanced_apart") or []
    if apart:
        yield (
            f"haproxy_servers: {' and '.join(apart)} have an archive of their own, and a client would find its images"
            f" at one of several Orthancs only; have all of them share one database, or take the group 'haproxy' out."
        )


def problems(host: Host) -> Iterator[str]:
    variables = host.variables
    address = str(variables["haproxy_address"])
    if not values.is_address(address):
        yield f"haproxy_address: '{address}' is no IP address; give the one at which clients reach it."
    name = str(variables["haproxy_server_name"])
    if not values.is_address(name) and not values.HOST_NAME.fullmatch(name):
        yield f"haproxy_server_name: '{name}' is neither a host name nor an address."
    for server in variables["haproxy_servers"]:
        if not re.fullmatch(r"[A-Za-z0-9_.:-]+", server["name"]):
            yield f"haproxy_servers: '{server['name']}' is no name of letters, digits, dots and hyphens."
        if not values.is_address(str(server.get("address"))):
            yield (
                f"haproxy_servers: '{server.get('address')}' of {server.get('name')} is no IP address, and a balancer"
                " asks nobody for one; give that host an ansible_host that is an address."
            )
    for sender in variables["haproxy_senders"]:
        if not is_aet(sender["aet"]):
            yield (
                f"haproxy_senders: '{sender['aet']}' is no application entity title of 1 to 16 printable ASCII"
                " characters."
            )
    for sender in variables["haproxy_senders"] if variables["haproxy_senders_checked"] else []:
        if not values.is_address(str(sender.get("address"))):
            yield (
                f"haproxy_senders: '{sender.get('address')}' of {sender.get('aet')} is a name, and it is compared with"
                " the address of the sender; give the address in orthanc_modalities."
            )
    yield from _ports(host, address)


def _ports(host: Host, address: str) -> Iterator[str]:
    """Ports that others have at its address."""
    variables, listening = host.variables, (host.probe or {}).get("listening", {})
    own = str(host.site("site_address") or "")
    for place, name in enumerate(PORTS):
        port = int(variables[name])
        for other in PORTS[:place]:
            if port == int(variables[other]):
                yield f"{name}: port {port} is the one of {other} already; choose another."
        # An Orthanc has it at all addresses; others beside it have it at this one, if it is the host's own.
        rivals = ["orthanc_dicom_port"] if host.has("orthanc") else []
        rivals += [one for one in ("nginx_https_port", "nginx_http_port") if host.has("nginx") and address == own]
        for other in rivals:
            if port == int(variables[other]):
                where = "which Orthanc has at every address" if other == "orthanc_dicom_port" else "at the same address"
                yield f"{name}: port {port} is the one of {other} on this host, {where}; choose another."
        holder = listening.get(str(port))
        if holder and holder not in (*PROGRAMS, *(("nginx",) if address != own and host.has("nginx") else ())):
            yield f"{name}: port {port} is taken on this host by {holder}; choose another or stop that program."


def away(host: Host) -> str:
    return values.without(host)


def notices(host: Host) -> Iterator[str]:
    variables = host.variables
    if not variables["haproxy_senders_checked"]:
        yield (
            "haproxy_senders_checked: DicomCheckModalityHost is false, so everybody gets to the DICOM ports, and to"
            " Orthanc by any title that it knows."
        )
    elif variables["haproxy_senders_encrypt"]:
        yield (
            "haproxy_senders_encrypt: over TLS the balancer sees no title, and to Orthanc each sender has its address:"
            " whoever has the address of one modality may use the title of another one."
        )

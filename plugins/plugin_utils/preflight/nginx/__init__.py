# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role nginx asks of an inventory."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import nearest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.nginx import directives

_ROUTE_PART = r"(\*|[A-Za-z0-9._~-]+)"
RANGES = {
    "nginx_audit_days": (1, 36_500),
    "nginx_ban_after": (0, 1000),
    "nginx_browser_cache": (0, 31_536_000),
    "nginx_timeout": (1, 86400),
}
PROGRAMS = ("nginx",)
# Its package has a page of its own.
MASKED = {"nginx": "/usr/sbin/nginx"}
# The files of nginx that are the toolkit's: what refuses there is written anew, or goes.
OURS = re.compile(r"/etc/pacs/(nginx|ohif)/.*|/etc/nginx/conf\.d/orthanc[^/]*\.conf")
RELAY = "nginx_relay_"
# Ports that it has behind a balancer alone.
PORTS_ELSEWHERE = ("nginx_balanced_port", "nginx_health_port")
# What a host serves, as site_probe finds it, and how its administrator makes room.
SERVES = {
    "proxied": ("proxy", "rm /etc/nginx/conf.d/orthanc.conf"),
    "relayed": ("relay", "rm /etc/nginx/conf.d/orthanc-relay.conf"),
}


def part(host: Host) -> Callable[[str], bool] | None:
    """Tell which variables count: a host has the site, or the relay for a proxy elsewhere."""
    if host.has("nginx"):
        return lambda name: not name.startswith(RELAY)
    if host.has("orthanc") and host.site("site_relayed"):
        return lambda name: name.startswith(RELAY)
    return None


def packages(host: Host) -> str:
    return "__nginx_packages" if host.has("nginx") else "__nginx_relay_packages"


def inventory(host: Host) -> Iterator[str]:
    """A proxy with nothing behind it, or in a place that nobody has made."""
    if not host.groups.get("orthanc"):
        yield "the group nginx has this host, and the group orthanc is empty: nothing to serve."
    yield from host.site("site_unserved") or []


def look(_host: Host) -> dict[str, Any]:
    return {"nginx": True}


def problems(host: Host) -> Iterator[str]:
    yield from served(host)
    for variables in sites(host):
        yield from values.logins("nginx_users", variables)
        if not variables["nginx_users"]:
            yield (
                "nginx_users: no user is named, so nobody could log in; name one in orthanc_users, from which they are"
                f" derived, and {values.SECRETS}"
            )
        yield from site(variables)
        yield from entry(variables)
    yield from upstream(host)
    for variable in (directives.SETTINGS, directives.SERVER):
        yield from directives.problems(variable, host.variables[variable])
    yield from refused(host)
    yield from balanced(host)


def balanced(host: Host) -> Iterator[str]:
    """What does not go with a balancer before it."""
    variables = host.variables
    for variable in ("nginx_balancers", "nginx_addresses"):
        for address in variables[variable]:
            if not values.is_address(str(address)):
                yield f"{variable}: '{address}' is no IP address; give that host an ansible_host that is one."
    for name in variables["nginx_balanced_names"]:
        if not re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", name):
            yield f"nginx_balanced_names: '{name}' is neither a host name nor an address, with a port or without."
            return
    if not variables["nginx_balancers"]:
        return
    yield from balanced_ports(host)
    if variables["nginx_acme_directory"]:
        yield (
            "nginx_acme_directory: the authority would ask the balancer, which has no answer for it; run `make"
            f" certificates INVENTORY={host.inventory}`, or set nginx_tls_certificate on each host."
        )
    elif not variables["nginx_tls_certificate"]:
        yield (
            "nginx_tls_certificate: clients come to several proxies by one address, and each would show another"
            f" certificate that it made itself; run `make certificates INVENTORY={host.inventory}`."
        )
    else:
        for name in variables["nginx_balanced_names"]:
            asked = {"nginx_balanced_names": urllib.parse.urlsplit(f"//{name}").hostname}
            yield from values.names("nginx_tls_certificate", "nginx_balanced_names", {**variables, **asked})
    if int(variables["nginx_ban_after"]):
        yield (
            "nginx_ban_after: the packet filter of this host does not see who comes by way of the balancer, so that"
            " nobody would be shut out; set it to 0, and nginx_allowed_clients to those who may come."
        )


def balanced_ports(host: Host) -> Iterator[str]:
    """Those of the ports for balancers that something else has."""
    ports = {name: int(value) for name, value in host.variables.items() if name.endswith("_port")}
    for place, name in enumerate(PORTS_ELSEWHERE):
        # Those of a balancer beside it are at another address.
        rivals = [one for one in ports if not one.startswith(("haproxy_", *PORTS_ELSEWHERE[place:]))]
        for other in [one for one in rivals if ports[one] == ports[name]][:1]:
            yield f"{name}: port {ports[name]} is the one of {other} already; choose another."
        holder = (host.probe or {}).get("listening", {}).get(str(ports[name]))
        if holder and holder not in PROGRAMS:
            yield f"{name}: port {ports[name]} is taken on this host by {holder}; choose another or stop that program."


def of_part(host: Host) -> Iterator[str]:
    """The relay, on a host whose proxy is another one."""
    yield from refused(host)
    yield from taken(
        host, "proxied", host.name, "nginx_relay_port", "the relay of this Orthanc", "have this Orthanc on another host"
    )


def refused(host: Host) -> Iterator[str]:
    """What nginx says against files of others."""
    said = (host.probe or {}).get("nginx_refusal", "")
    # What is ours is written anew, and tried before it is put in place.
    if any(not OURS.fullmatch(path) for path in re.findall(r" in (/\S+?):\d+", said)):
        yield (
            "ansible_host: nginx on this host refuses a file that is not of this toolkit, and would not take the site"
            f" either: {said} Mend that file, or take it out; `nginx -t` tells."
        )


def sites(host: Host) -> list[values.Variables]:
    """The variables of each site: those of the host, and what several Orthancs behind it have of their own."""
    upstreams, logins = host.site("site_upstreams") or [], host.site("site_upstream_logins") or {}
    return [
        {
            **host.variables,
            **{f"nginx_{name}": upstream[name] for name in ("server_name", "prefix", "readonly_users")},
            "nginx_users": logins[upstream["orthanc"]]["users"],
        }
        for upstream in upstreams
    ] or [host.variables]


def found(host: Host) -> dict[str, Any]:
    """Who nginx's workers are."""
    return {"nginx": (host.probe or {})["nginx"]}


def notices(host: Host) -> Iterator[str]:
    if host.variables["nginx_tls_certificate"]:
        yield from values.ending("nginx_tls_certificate", host.variables)


def served(host: Host) -> Iterator[str]:
    """A host that serves the Orthanc of another inventory."""
    now = str(host.variables["nginx_upstream_server"]) or host.name
    for kind, mine in (("proxied", now), ("relayed", host.name)):
        yield from taken(host, kind, mine, "nginx_upstream_server", now, "put another host into the group 'nginx'")


def taken(host: Host, kind: str, mine: str, variable: str, now: str, way: str) -> Iterator[str]:
    """See that a file of nginx that would be removed or written anew is of this inventory.

    :param mine: an Orthanc that has it, besides those in the group.
    """
    found = (host.probe or {}).get(kind, ())
    what, command = SERVES[kind]
    for before in [name for name in found if name not in (mine, *host.groups.get("orthanc", ()))][:1]:
        yield (
            f"{variable}: this host is the {what} of {before}, which this inventory does not have, and {now} would"
            f" take its place; {way}. If it is to, since that Orthanc is no more or has another name, run"
            f" `{command}` on this host first."
        )


def site(variables: values.Variables) -> Iterator[str]:
    """The public face: name, prefix and certificate."""
    name = str(variables["nginx_server_name"])
    if not values.is_address(name) and not values.HOST_NAME.fullmatch(name):
        yield f"nginx_server_name: '{name}' is neither a host name nor an address."
    yield from values.prefix("nginx_prefix", variables)
    yield from values.pair("nginx_tls", variables)
    yield from values.names("nginx_tls_certificate", "nginx_server_name", variables)
    directory, mail = (str(variables[f"nginx_acme_{option}"]) for option in ("directory", "email"))
    if directory:
        if not re.fullmatch(r"https://[^\s/?#]+/\S*", directory):
            yield f"nginx_acme_directory: '{directory}' is no URL that begins with https:// and has a path."
        if values.is_address(name):
            yield f"nginx_server_name: '{name}' is an address; nginx_acme_directory needs a name that the public knows."
        if variables["nginx_tls_certificate"]:
            yield (
                "nginx_acme_directory: there is a certificate as well; leave nginx_tls_certificate and"
                " nginx_tls_private_key empty (''), or take this out."
            )
    if mail and not re.fullmatch(r"[^\s@]+@[^\s@]+\.[^\s@]+", mail):
        yield f"nginx_acme_email: '{mail}' is no address of e-mail."
    if variables["nginx_acme_ca"]:
        yield from values.pem("nginx_acme_ca", str(variables["nginx_acme_ca"]))


def upstream(host: Host) -> Iterator[str]:
    """The way to Orthanc."""
    url = host.variables["nginx_upstream"]
    if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?(?<!/)", url):
        yield f"nginx_upstream: '{url}' is no URL like http://127.0.0.1:8042, without a slash at its end."
    yield from values.of_inventory("nginx_upstream_server", host)
    if host.variables["nginx_upstream_ca"]:
        yield from values.pem("nginx_upstream_ca", host.variables["nginx_upstream_ca"])


def entry(variables: values.Variables) -> Iterator[str]:
    """Who may enter the site, from where, and with what."""
    machines, users = variables["nginx_client_names"], variables["nginx_users"]
    for name in variables["nginx_readonly_users"]:
        if name not in [*users, *machines]:
            yield f"nginx_readonly_users: there is no user '{name}'.{nearest(str(name), [*map(str, users), *machines])}"
    if users and not {*users, *machines} - {*variables["nginx_readonly_users"]}:
        yield (
            "nginx_readonly_users: every user is in it, so nobody could store, correct or delete anything over the"
            " proxy; leave one out."
        )
    for client in variables["nginx_allowed_clients"]:
        try:
            ipaddress.ip_network(client)
        except ValueError as error:
            yield f"nginx_allowed_clients: {error}; write it like 192.0.2.7 or 192.0.2.0/24."
    for origin in variables["nginx_allowed_origins"]:
        if not _is_origin(origin):
            yield (
                f"nginx_allowed_origins: '{origin}' is no origin; write it as browsers do, in small letters and without"
                " a path or the usual port, like https://viewer.example.org or http://192.0.2.7:3000."
            )
    for route in variables["nginx_refused_routes"]:
        if not re.fullmatch(rf"{_ROUTE_PART}(/{_ROUTE_PART})*", route):
            yield (
                f"nginx_refused_routes: '{route}' is no route; write it without a slash at either end, and with * for"
                " one part of it, as in instances/*/export."
            )
    authority = str(variables["nginx_client_ca"])
    if authority:
        yield from values.pem("nginx_client_ca", authority)
    for name in machines:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}", name):
            yield (
                f"nginx_client_names: '{name}' is no common name of a machine;"
                " it has up to 64 letters, digits, blanks, '.', '_' and '-'."
            )
        if name in users:
            yield f"nginx_client_names: '{name}' is a user as well, and the audit trail could not tell them apart."
    if machines and not authority:
        yield "nginx_client_ca: it is empty while nginx_client_names lets certificates in; give the authority's."
    if authority and not machines and variables["nginx_client_certificate"] == "optional":
        yield (
            "nginx_client_names: it is empty, so certificates of nginx_client_ca would let nobody in;"
            " name machines, or set nginx_client_certificate to required."
        )
    if not authority and variables["nginx_client_certificate"] == "required":
        yield "nginx_client_ca: it is empty while nginx_client_certificate is required; give the authority's."


def _is_origin(text: str) -> bool:
    """Tell whether a browser may name a page's origin so."""
    usual = {"http": 80, "https": 443}
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    netloc = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
    named = values.is_address(host) or values.HOST_NAME.fullmatch(host)
    return bool(named and port != usual.get(parts.scheme, port) and text == f"{parts.scheme}://{netloc}")

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site as a picture, out of its inventory: hosts, services, ports, and who talks to whom, and how protected."""

from __future__ import annotations

import functools
import html
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible.errors import AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.dicom.orthanc.plugins.filter.topology import SERVERS, Host, Topology, number
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import by_field

PRODUCTS = {"postgresql": "PostgreSQL", "mysql": "MariaDB"}
# Those who are no hosts of the inventory: to the left of the picture, and to its right.
USERS, SENDERS = "users", "modalities"
TARGETS = ("other modalities", "peers", "DICOMweb servers", "webhooks", "database of others")
PLAIN, HERE, TLS, BOTH = "plain DICOM", "within the host", "TLS", "TLS, certificates of both sides"
MODALITY = ("AET", "Host", "Port", "Manufacturer")
PEER = ("Url", "Username", "Password")
INK, SOFT, RED = "#1c2733", "#5b6b7b", "#b3261e"
# In the picture's own units: a service, what an Orthanc has more for lines of others, the room around it, and a column.
WIDE, HIGH, MORE, GAP, COLUMN = 150, 46, 80, 26, 290


class Connections:
    """The connections of one Orthanc's host, or of one proxy's. Nothing of it is secret."""

    def __init__(self, hostvars: Any, groups: Mapping[str, list[str]]) -> None:
        self._groups = groups
        self._host: Callable[[str], Host] = functools.cache(functools.partial(Host, hostvars))
        self._topology: Callable[[str], Topology] = functools.cache(functools.partial(Topology, hostvars, groups))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return each of them: from where to where, the port, what is spoken, and what protects it."""
        for balancer in self._groups.get("haproxy", []):
            yield from self._of_balancer(balancer)
        for proxy in self._groups.get("nginx", []):
            yield from self._of_proxy(proxy)
        for orthanc in self._groups.get("orthanc", []):
            yield from self._to(orthanc)
            yield from self._from(orthanc)

    @staticmethod
    def _row(source: str, target: str, port: Any, spoken: str, protection: str, name: str = "") -> dict[str, Any]:
        """:param name: of one of several targets or sources that the picture has as one."""
        return {
            "source": source,
            "target": target,
            "name": name,
            "port": number(port),
            "spoken": spoken,
            "protection": protection,
        }

    def _of_balancer(self, balancer: str) -> Iterator[dict[str, Any]]:
        host, here = self._host(balancer), f"{balancer}/HAProxy"
        yield self._row(USERS, here, host["haproxy_https_port"], "HTTPS", "TLS, up to the proxy")
        yield self._row(USERS, here, host["haproxy_http_port"], "HTTP", "nothing but a redirection to HTTPS")
        behind = self._topology(balancer).balanced_servers
        spoken = self._spoken(behind[0]["name"]) if behind else PLAIN
        yield self._row(SENDERS, here, host["haproxy_dicom_port"], "DICOM", spoken)
        for server in behind:
            yield self._row(here, f"{server['name']}/nginx", server["https_port"], "HTTPS", "TLS, from the client")
            yield self._row(here, f"{server['name']}/Orthanc", server["dicom_port"], "DICOM", spoken)

    def _spoken(self, orthanc: str) -> str:
        """What protects the DICOM port of an Orthanc."""
        host = self._host(orthanc)
        if not host["orthanc_dicom_tls_certificate"] or not host["orthanc_settings"].get("DicomTlsEnabled", True):
            return PLAIN
        return BOTH if boolean(host["orthanc_dicom_tls_remote_certificate_required"], strict=False) else TLS

    def _of_proxy(self, proxy: str) -> Iterator[dict[str, Any]]:
        host, topology = self._host(proxy), self._topology(proxy)
        login = "TLS, password"
        if host["nginx_client_ca"]:
            required = host["nginx_client_certificate"] == "required"
            login = "TLS, certificate and password" if required else "TLS, password or certificate"
        here = f"{proxy}/nginx"
        yield self._row(USERS, here, host["nginx_https_port"], "HTTPS", login)
        if number(host["nginx_http_port"]):
            yield self._row(USERS, here, host["nginx_http_port"], "HTTP", "nothing but a redirection to HTTPS")
        for upstream in topology.upstreams or [{"orthanc": topology.orthanc}]:
            orthanc = upstream["orthanc"]
            if orthanc == proxy:
                yield self._row(here, f"{orthanc}/Orthanc", host["orthanc_http_port"], "HTTP", HERE)
            elif orthanc:
                relay = self._host(orthanc)["nginx_relay_port"]
                yield self._row(here, f"{orthanc}/Orthanc", relay, "HTTPS", BOTH)

    def _to(self, name: str) -> Iterator[dict[str, Any]]:
        """Who sends to an Orthanc, and what it keeps its index in."""
        host, topology, here = self._host(name), self._topology(name), f"{name}/Orthanc"
        yield self._row(SENDERS, here, host["orthanc_dicom_port"], "DICOM", self._spoken(name))
        engine = host["orthanc_database"]
        if engine in SERVERS:
            server = topology.database_server
            target = f"{server}/{PRODUCTS[engine]}" if server else TARGETS[4]
            encrypted = boolean(host["orthanc_database_tls"], strict=False)
            port = topology.database_port if server else host["orthanc_database_port"]
            protection = HERE if server == name else TLS if encrypted else "nothing"
            yield self._row(here, target, port, PRODUCTS[engine], f"{protection}, password")

    def _from(self, name: str) -> Iterator[dict[str, Any]]:
        """Whom an Orthanc sends to and asks."""
        host, here = self._host(name), f"{name}/Orthanc"
        for title, given in host["orthanc_modalities"].items():
            entry = by_field(given, MODALITY)
            protection = TLS if entry.get("UseDicomTls") else PLAIN
            label = f"{title} ({entry.get('AET')} at {entry.get('Host')})"
            yield self._row(here, TARGETS[0], entry.get("Port", 104), "DICOM", protection, label)
        web = host["orthanc_settings"].get("DicomWeb", {}).get("Servers", {})
        urls = [(TARGETS[1], title, by_field(given, PEER)) for title, given in host["orthanc_peers"].items()]
        urls += [(TARGETS[2], title, by_field(given, PEER)) for title, given in web.items()]
        urls += [(TARGETS[3], "", {"Url": hook["url"]}) for hook in host["orthanc_webhooks"]]
        for target, title, entry in urls:
            # What stands before the name of a host may be a login.
            to = urlsplit(str(entry.get("Url", "")))
            port = to.port or (443 if to.scheme == "https" else 80)
            protection = TLS if to.scheme == "https" else "nothing"
            if entry.get("CertificateFile"):
                protection = BOTH
            label = f"{title} ({to.hostname})" if title else str(to.hostname)
            yield self._row(here, target, port, to.scheme.upper(), protection, label)


def connections(hostvars: Any, groups: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Return all connections of a site."""
    return list(Connections(hostvars, groups).rows())


class Drawing:
    """Hosts as frames with their services, those of one kind below one another, and lines between them."""

    def __init__(self, rows: list[dict[str, Any]], names: Mapping[str, list[str]]) -> None:
        self._names = names
        if any(row["target"].endswith("/HAProxy") for row in rows):
            # They may come past a balancer, too; a line for it would be one through the balancer.
            rows = [row for row in rows if row["source"] != USERS or row["target"].endswith("/HAProxy")]
        ends = [end for row in rows for end in (row["source"], row["target"])]
        self._hosts: dict[str, list[str]] = {}
        for end in dict.fromkeys(ends):
            host, _, service = end.partition("/")
            if service:
                self._hosts.setdefault(host, []).append(service)
        # A balancer has a column of its own, before the others.
        self._first = 1 + any("HAProxy" in services for services in self._hosts.values())
        self._left = [end for end in (USERS, SENDERS) if end in ends]
        self._right = [end for end in TARGETS if end in ends]
        self._places: dict[str, tuple[int, int]] = {}
        self._lines: dict[tuple[str, str], list[str]] = {}
        named = Counter((row["source"], row["target"]) for row in rows if row["name"])
        for row in rows:
            ends_of_line, several = (row["source"], row["target"]), named[row["source"], row["target"]]
            words = f"{row['spoken']} {row['port']}" if several < 2 else f"{row['spoken']}, {several} of them"
            line = self._lines.setdefault(ends_of_line, [])
            if words not in line:
                line.append(words)
        # What nothing protects on its way between hosts.
        self._bare = {
            (row["source"], row["target"])
            for row in rows
            if row["protection"] in ("nothing", "nothing, password", PLAIN)
        }

    def _column(self, service: str) -> int:
        return {"HAProxy": 0, "nginx": 0, "Orthanc": 1}.get(service, 2) + (1 if service == "HAProxy" else self._first)

    def svg(self) -> str:
        """Return it."""
        frames, below = [], dict.fromkeys(range(1, self._first + 3), GAP)
        for host, services in self._hosts.items():
            columns = [self._column(service) for service in services]
            covered = range(min(columns), max(columns) + 1)
            top = max(below[column] for column in covered)
            frames.append((host, min(columns), len(covered), top))
            for service in services:
                self._places[f"{host}/{service}"] = (self._column(service) * COLUMN, top + 40)
            for column in covered:
                below[column] = top + 40 + HIGH + MORE + 2 * GAP
        high = max(*below.values(), GAP + 2 * (HIGH + GAP) * max(len(self._left), len(self._right)))
        for column, names in ((0, self._left), (self._first + 3, self._right)):
            for place, name in enumerate(names):
                self._places[name] = (column * COLUMN, GAP + 40 + place * 2 * (HIGH + GAP))
        parts = [self._frame(*frame) for frame in frames]
        parts += [self._line(*ends, words) for ends, words in self._lines.items()]
        parts += [self._service(name) for name in self._places]
        if self._bare:
            parts.append(_text(0, high, "dashed: not encrypted on its way", "start", 11, RED))
            high += GAP
        width = (self._first + 2 + bool(self._right)) * COLUMN + WIDE + 2 * GAP
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-GAP} 0 {width} {high}" role="img"'
            ' font-family="system-ui, Noto Sans, DejaVu Sans, sans-serif">'
            '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
            ' orient="auto"><path d="M0 0L8 4L0 8z" fill="#5b6b7b"/></marker></defs>' + "".join(parts) + "</svg>"
        )

    def _frame(self, host: str, column: int, columns: int, top: int) -> str:
        width, height = (columns - 1) * COLUMN + WIDE + 2 * GAP, 40 + HIGH + MORE + GAP
        address = next((name for name in reversed(self._names[host]) if name != host), "")
        title = f"{host} ({address})" if address else host
        return (
            f'<rect x="{column * COLUMN - GAP}" y="{top}" width="{width}" height="{height}" rx="8" fill="#f4f7f9"'
            f' stroke="#dbe2e8"/>{_text(column * COLUMN - GAP + 10, top + 22, title, "start")}'
        )

    def _service(self, name: str) -> str:
        x, y = self._places[name]
        host, _, service = name.partition("/")
        height = HIGH + MORE * (service == "Orthanc")
        look = f'stroke="{INK}"' if service else f'stroke="{SOFT}" stroke-dasharray="4 3"'
        return (
            f'<rect x="{x}" y="{y}" width="{WIDE}" height="{height}" rx="6" fill="#fff" {look}/>'
            f"{_text(x + WIDE // 2, y + height // 2 + 5, service or host)}"
        )

    @staticmethod
    def _of_others(end: str) -> bool:
        return ("/" not in end and end != TARGETS[-1]) or end.endswith("/HAProxy")

    def _port(self, end: str, other: str, leaves: bool) -> tuple[int, int]:
        """Return where a line leaves a service, or comes to it."""
        x, y = self._places[end]
        x += leaves * WIDE
        if end.endswith("/HAProxy") and other.endswith((SENDERS, "/Orthanc")):
            return x, y + HIGH - 6
        if end.endswith("/nginx") and other.endswith("/HAProxy"):
            return x, y + 16
        if not end.endswith("/Orthanc") or not self._of_others(other):
            return x, y + HIGH // 2
        # Those of others are spread over its lower part.
        lines = [line if leaves else line[::-1] for line in self._lines]
        others = [far for near, far in lines if near == end and self._of_others(far)]
        return x, y + HIGH + MORE * (others.index(other) + 1) // (len(others) + 1)

    def _line(self, source: str, target: str, words: list[str]) -> str:
        (x1, y1), (x2, y2) = self._port(source, target, True), self._port(target, source, False)
        bare = (source, target) in self._bare
        color, dashes = (RED, ' stroke-dasharray="5 4"') if bare else (SOFT, "")
        if target in self._right:
            # Below what is beside the Orthanc, and between the columns to its end.
            turn = f"L{(self._first + 3) * COLUMN - 2 * GAP} {y1}"
            labels = [(x1 + 12, y1, "start")]
        else:
            turn = f"L{x1 + GAP if '/' in source else COLUMN - 2 * GAP} {y1 if '/' in source else y2}"
            labels = [(x2 - 12, y2, "end")]
        written = "".join(
            _text(x, y - 6 - 14 * place, text, anchor, 11)
            for x, y, anchor in labels
            for place, text in enumerate(reversed(words))
        )
        return (
            f'<path d="M{x1} {y1}{turn}L{x2} {y2}" stroke="{color}" stroke-width="1.4" fill="none"'
            f' marker-end="url(#end)"{dashes}/>{written}'
        )


def _text(x: int, y: int, words: str, anchor: str = "middle", size: int = 13, color: str = INK) -> str:
    look = f'text-anchor="{anchor}" font-size="{size}" fill="{color}"'
    return f'<text x="{x}" y="{y}" {look}>{html.escape(words)}</text>'


def picture(rows: list[dict[str, Any]], names: Mapping[str, list[str]]) -> str:
    """Return the connections of a site as a drawing in SVG.

    :param names: of each host, its own among them, and its address last if that is another one.
    """
    if not rows:
        raise AnsibleFilterError("There is nothing to draw: no host is in the groups orthanc and nginx.")
    return Drawing(rows, names).svg()

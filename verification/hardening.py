"""What listens on a host, as whom and how protected, and what Orthanc's process may do."""

from __future__ import annotations

import ipaddress
import re
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from verification.site import Site

# All at once, since each command takes a moment on the way: sockets, processes, and our packet filter if it is there.
LOOK = (
    "ss --no-header --listening --numeric --tcp --udp --processes; echo;"
    " ps --no-headers -eo pid,user:32; echo;"
    # A host without a packet filter has no such program; what it complains of elsewhere is no missing table.
    " if command -v nft > /dev/null; then"
    " tables=$(nft list tables inet) || exit 1;"
    " case $tables in *'table inet orthanc'*) nft list table inet orthanc ;; esac; fi"
)
# Which time the host has, and who sees to it.
ASK_CLOCK = (
    "date +%s.%N; timedatectl show --property=NTPSynchronized --value; systemd-detect-virt --quiet --container; echo $?"
)


@dataclass(frozen=True)
class Listener:
    """A port that a program listens on."""

    port: int
    protocol: str
    addresses: tuple[str, ...]
    process: str
    users: tuple[str, ...]
    pids: tuple[int, ...]
    filtered: bool

    @property
    def where(self) -> str:
        """The port with its addresses, as people write them."""
        return f"{self.port}/{self.protocol} on {', '.join(self.addresses)}"

    @property
    def local(self) -> bool:
        """Whether other hosts are not even heard."""
        return all(_loopback(address) for address in self.addresses)


def _loopback(address: str) -> bool:
    bare = address.partition("%")[0].strip("[]")
    return bare != "*" and ipaddress.ip_address(bare).is_loopback


def listeners(seen: str) -> list[Listener]:
    """Read what ``LOOK`` printed; the order is that of the ports."""
    sockets, processes, rules = [*seen.split("\n\n"), "", ""][:3]
    users = dict(line.split() for line in processes.splitlines() if line.strip())
    filtered = set(re.findall(r"dport (\d+) reject", rules))
    found: dict[tuple[int, str, str], set[tuple[str, str]]] = defaultdict(set)
    for line in sockets.splitlines():
        protocol, _state, _received, _sent, local, *_rest = line.split()
        address, _, port = local.rpartition(":")
        holders = re.findall(r'\("([^"]*)",pid=(\d+)', line) or [("", "")]
        for process, pid in holders:
            found[int(port), protocol, process].add((address, pid))
    return [
        Listener(
            port=port,
            protocol=protocol,
            addresses=tuple(sorted({address for address, _ in sightings})),
            process=process or "not of this host's processes",
            users=tuple(sorted({users.get(pid, "") for _, pid in sightings} - {""})),
            pids=tuple(sorted({int(pid) for _, pid in sightings if pid})),
            filtered=str(port) in filtered,
        )
        for (port, protocol, process), sightings in sorted(found.items())
    ]


def protection(site: Site, listener: Listener, options: dict[str, Any], proxy: bool) -> str:
    """Say what stands between other hosts and a port.

    :param options: what Orthanc is configured with, see ``on_host.py``.
    :param proxy: whether the host is that of the proxy.
    """
    known = []
    if listener.process == "Orthanc" and listener.port == site.http_port:
        known = ["login"] if options.get("AuthenticationEnabled", True) else ["none"]
    elif listener.process == "Orthanc" and listener.port == site.dicom_port:
        known = ["TLS"] if site.dicom_certificate else []
        known += ["certificate of the caller"] if site.dicom_certificate and site.dicom_asks else []
        open_to_all = any(options.get(f"DicomAlwaysAllow{what}") for what in ("Store", "Find", "Get", "Move"))
        known += ["open to any title" if open_to_all else "declared titles"]
        known += ["from their addresses"] if options.get("DicomCheckModalityHost") and not open_to_all else []
    elif listener.process == "nginx" and proxy and listener.port == site.port:
        known = ["TLS", "login"]
    elif listener.process == "nginx" and proxy and listener.port == site.plain_port:
        known = ["leads to HTTPS"]
    elif listener.process == "nginx" and listener.port == site.relay_port:
        known = ["TLS", "the proxy's certificate", "login"]
    if listener.filtered:
        known += ["packet filter refuses other hosts"]
    if listener.local:
        known += ["this host alone"]
    return ", ".join(known) or "not of this toolkit"


def privileges(status: str) -> dict[str, str]:
    """Return of /proc/PID/status what tells which power a process has."""
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "root": "yes" if "0" in lines["Uid"].split() else "no",
        "capabilities": f"{int(lines['CapEff'], 16) | int(lines['CapBnd'], 16):x}",
        "may gain privileges": "no" if lines["NoNewPrivs"].strip() == "1" else "yes",
        "system calls": "filtered" if lines["Seccomp"].strip() == "2" else "all",
    }


@dataclass(frozen=True)
class Clock:
    """How far a host's clock is from ours, in seconds, and whether somebody keeps it right."""

    apart: float
    synchronised: bool
    contained: bool

    @classmethod
    def read(cls, answer: str, asked: float) -> Clock:
        """Read what ``ASK_CLOCK`` printed. :param asked: when it was sent, in seconds since 1970."""
        told, synchronised, contained = answer.split()
        # It was told at some time between the question and now.
        now = min(max(float(told), asked), time.time())
        return cls(abs(float(told) - now), synchronised == "yes", contained == "0")

    def __str__(self) -> str:
        kept = "synchronised" if self.synchronised else "not synchronised"
        kept = "that of the machine around the container" if self.contained else kept
        return f"{kept}, {self.apart:.1f} s from that of the verifying machine"

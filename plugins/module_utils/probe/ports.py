# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which program has which TCP port of a host, and which ports of other hosts are within reach."""

from __future__ import annotations

import concurrent.futures
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

# How long all others together are waited for at most, and how long each of them, in seconds.
PATIENCE = 6
EACH = 2


def listening(run: Callable[..., str], shared: str = "") -> dict[str, str]:
    """Return the ports that are in use, each with its program.

    :param shared: an address at which only a balancer listens, beside others that have the same ports elsewhere.
    """
    found = {}
    for line in run("ss", "-Hltnp").splitlines():
        if shared and line.split()[3].rpartition(":")[0] == shared:
            continue
        program = re.search(r'users:\(\("([^"]+)",pid=(\d+)', line)
        named = holder(program[1], group_of(program[2]), run) if program else "another program"
        found[line.split()[3].rpartition(":")[2]] = named
    return found


def holder(name: str, group: str, run: Callable[..., str]) -> str:
    """Say which program has a port: an Orthanc is ours only where our unit has started it.

    :param group: what /proc/PID/cgroup says.
    :param run: runs a command and returns what it prints, nothing where it fails.
    """
    unit = group.strip().rpartition("/")[2]
    if name != "Orthanc" or unit in ("", "orthanc.service"):
        return name
    container = re.search("[0-9a-f]{64}", unit)
    if not container:
        return f"Orthanc of {unit}"
    asked = ("docker", "ps", "--format", "{{.Names}}", "--filter", f"id={container[0]}")
    if run(*asked, "--filter", "label=orthanc.service").strip():
        return name
    return f"Orthanc in the container {run(*asked).strip() or container[0][:12]}"


def group_of(process: str) -> str:
    """Return what the kernel says of the unit or container of a process; nothing if it has ended."""
    try:
        with open(f"/proc/{process}/cgroup", encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def no_way(host: str, port: str, timeout: float = 5) -> str:
    """Say why nothing answers there: ``name …`` if the name is not known here, ``port …`` otherwise."""
    try:
        socket.create_connection((host, int(port)), timeout=timeout).close()
    except socket.gaierror as error:
        return f"name {error.strerror}"
    except OSError as error:
        return f"port {error.strerror or error}"
    except (OverflowError, ValueError) as error:
        # What is neither a port nor a name, the preflight tells.
        return f"name {error}"
    return ""


def silent(others: Iterable[str], settings: Mapping[str, Any]) -> list[str]:
    """Return those of others, each ``ADDRESS PORT``, where nothing takes a connection.

    :param settings: of the Orthanc that is there; whom it knows already is not asked.
    """
    asked = sorted(set(others) - set(known(settings)))
    end = time.monotonic() + PATIENCE

    def closed(other: str) -> bool:
        host, _, port = other.rpartition(" ")
        # Who had no turn is not told to be silent.
        return time.monotonic() < end and bool(no_way(host, port, EACH))

    # They may all be off, and are waited for side by side.
    with concurrent.futures.ThreadPoolExecutor(256) as pool:
        return [other for other, is_closed in zip(asked, pool.map(closed, asked), strict=True) if is_closed]


def known(settings: Mapping[str, Any]) -> list[str]:
    """Return the modalities and peers in the configuration of an Orthanc, in the same form; spoilt ones are none."""
    found = []
    for section, keys in (("DicomModalities", ("AET", "Host", "Port")), ("OrthancPeers", ("Url",))):
        entries = settings.get(section)
        for entry in entries.values() if isinstance(entries, dict) else ():
            given = dict(zip(keys, entry, strict=False)) if isinstance(entry, list) else entry
            if isinstance(given, dict):
                found.append(of_url(str(given.get("Url"))) or f"{given.get('Host')} {given.get('Port')}")
    return found


def of_url(url: str) -> str:
    """Return address and port of a URL in the same form; nothing if it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80}.get(parts.scheme, 443)
    except ValueError:
        return ""
    return f"{parts.hostname} {port}" if parts.hostname else ""

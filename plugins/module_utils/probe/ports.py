# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which program has which TCP port of a host, and which port of another host is within reach."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable


def listening(run: Callable[..., str]) -> dict[str, str]:
    """Return the ports that are in use, each with its program."""
    found = {}
    for line in run("ss", "-Hltnp").splitlines():
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


def no_way(host: str, port: str) -> str:
    """Say why nothing answers there: ``name …`` if the name is not known here, ``port …`` otherwise."""
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except socket.gaierror as error:
        return f"name {error.strerror}"
    except OSError as error:
        return f"port {error.strerror or error}"
    except (OverflowError, UnicodeError) as error:
        # What is neither a port nor a name, the preflight tells.
        return f"name {error}"
    return ""

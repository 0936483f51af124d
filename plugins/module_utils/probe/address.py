# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An address that several hosts are to have one at a time: whether it is of their network, and nobody else has it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import time
from collections.abc import Callable
from typing import Any

# How long an answer is waited for, in seconds: what the kernel takes to give up, and a bit.
PATIENCE = 3.5
SILENT = {"INCOMPLETE", "FAILED"}


def look(run: Callable[..., str], address: str, own: str, *others: str) -> dict[str, Any]:
    """Return the device and network of a host's own address, and who else has the one that is asked for.

    :param others: the hosts that may have it, by their own addresses.
    :return: ``network`` is empty where the host does not have its own address; ``taken`` has the hardware's address of
        a machine that is none of the others.
    """
    shown = json.loads(run("ip", "-json", "-4", "address", "show") or "[]")
    local = [(link["ifname"], one["local"], one["prefixlen"]) for link in shown for one in link["addr_info"]]
    device, length = next(((name, length) for name, place, length in local if place == own), ("", 0))
    network = str(ipaddress.ip_network(f"{own}/{length}", strict=False)) if device else ""
    found = {"device": device, "network": network, "held": address in [place for _, place, _ in local], "taken": ""}
    if device and not found["held"] and ipaddress.ip_address(address) in ipaddress.ip_network(network):
        # What the kernel remembers may be of yesterday.
        run("ip", "neigh", "delete", address, "dev", device)
        known = neighbours(run, device, {address, *others} - {own})
        holder = known.pop(address, "")
        found["taken"] = holder if holder not in known.values() else ""
    return found


def neighbours(run: Callable[..., str], device: str, asked: set[str]) -> dict[str, str]:
    """Have the kernel ask for the hardware's addresses of others, and return those that it got."""
    known: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for address in asked:
            # To a port at which nobody listens; the question goes before it.
            with contextlib.suppress(OSError):
                sender.sendto(b"", (address, 9))
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        shown = json.loads(run("ip", "-json", "-4", "neigh", "show", "dev", device) or "[]")
        silent = {one["dst"] for one in shown if SILENT & set(one["state"])}
        known = {one["dst"]: one["lladdr"] for one in shown if one["dst"] in asked and "lladdr" in one}
        if asked <= known.keys() | {one["dst"] for one in shown if "FAILED" in one["state"]}:
            break
        time.sleep(0.1)
    return {place: holder for place, holder in known.items() if place not in silent}

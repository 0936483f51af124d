# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every role: types, names, ports, numbers, and the host itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import nearest, version_tuple
from ansible_collections.dicom.orthanc.plugins.module_utils.probe.packages import POLICY
from ansible_collections.dicom.orthanc.plugins.plugin_utils import preflight
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import spec
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.values import Variables

# What /run has to have free, in bytes: what systemd asks for at a reload, and a copy of nginx's files.
RUN = 20 * 2**20
# The oldest releases of the distributions that the roles are made for.
DISTRIBUTIONS = {"debian": "12", "ubuntu": "22.04"}


def told(sentence: str) -> str:
    """Return a sentence as it can be shown: in one line, and without a value that fills the screen."""
    line = spec.CONTROL.sub(lambda found: repr(found[0])[1:-1], sentence)
    return line if len(line) <= 1000 else f"{line[:500]} [...] {line[-400:]}"


def misspelled(names: set[str], known: set[str], derived: set[str], prefixes: set[str]) -> Iterator[str]:
    """Find the names that look like variables of the toolkit and are none.

    :param names: the names that the inventory gives this host.
    :param known: the public variables of all roles.
    :param derived: the ``site_*`` names, which are not for an inventory to set.
    :param prefixes: the prefixes of the roles, such as ``orthanc_``.
    """
    for name in sorted(names - known):
        if name in derived:
            yield f"{name}: this name is derived; set the role's variable that it comes from, see docs/variables.md."
        elif name.startswith((*prefixes, "site_")) or difflib.get_close_matches(name, known, n=1, cutoff=0.85):
            yield f"{name}: no such variable.{nearest(name, known)}"


def arguments(options: Mapping[str, Mapping[str, Any]], variables: Variables) -> Iterator[str]:
    """Hold the variables against the argument spec of a role: type, choices, required."""
    for name, option in options.items():
        if name in variables:
            takes_null = name in preflight.of(preflight.role_of(name), "NULL", ())
            yield from spec.problems(name, variables[name], option, takes_null)
        elif option.get("required"):
            yield f"{name}: it is missing."


def _no_ports(host: Host) -> Iterator[str]:
    for name in sorted(name for name in host.variables if name.endswith("_port")):
        if not 1 <= int(host.variables[name]) <= 65535:
            yield f"{name}: {host.variables[name]} is not a TCP port; choose one from 1 to 65535."


def ports(host: Host) -> Iterator[str]:
    """Ports out of range, asked for twice, or taken by another program."""
    seen: dict[int, str] = {}
    yield from _no_ports(host)
    for name in sorted(name for name in host.variables if name.endswith("_port")):
        value = int(host.variables[name])
        role = preflight.role_of(name)
        if name in preflight.of(role, "PORTS_ELSEWHERE", ()):
            continue
        if value in seen:
            yield f"{name}: port {value} is the one of {seen[value]} already; choose another."
        seen.setdefault(value, name)
        holder = (host.probe or {}).get("listening", {}).get(str(value))
        if holder and holder not in preflight.of(role, "PROGRAMS", ()):
            yield f"{name}: port {value} is taken on this host by {holder}; choose another or stop that program."


def ranges(host: Host) -> Iterator[str]:
    limits = {name: limit for role in preflight.ROLES for name, limit in preflight.of(role, "RANGES", {}).items()}
    for name, (low, high) in limits.items():
        variable, _, field = name.partition(".")
        given = [host.variables[variable]] if variable in host.variables else []
        for value in [entry[field] for entry in given[0] if field in entry] if given and field else given:
            if not low <= float(value) <= high:
                yield f"{name}: {value} is out of range; choose a number from {low} to {high}."


def numbers(host: Host) -> list[str]:
    """Ports and other numbers that are out of range, of roles that the host does not have."""
    return [*ranges(host), *_no_ports(host)]


def machine(host: Host) -> Iterator[str]:
    """What was found on the host itself."""
    probe = host.probe
    if not probe:
        return
    oldest = DISTRIBUTIONS.get(probe["distribution"])
    if oldest is None or version_tuple(probe["release"]) < version_tuple(oldest):
        yield (
            f"ansible_host: this host runs {probe['distribution'] or 'an unknown system'} {probe['release']};"
            " the roles are made for Debian from 12 and Ubuntu from 22.04."
        )
        return
    # By a run of ours that was cut off: this one does the rest.
    if probe["interrupted"] and probe["policy"] != "ours":
        yield (
            "ansible_host: dpkg was interrupted on this host, and no package can be installed. Run"
            " `dpkg --configure -a` there; what is not configured yet stays closed."
        )
    if probe["free_run"] < RUN:
        yield (
            f"ansible_host: /run of this host has {probe['free_run'] / 2**20:.0f} MiB free, and a run takes"
            f" {RUN >> 20}: for systemd at a changed unit, and to try nginx's files. Make room; `du -ax /run | sort -n`"
            " tells what fills it."
        )
    if not probe["systemd"]:
        yield "ansible_host: systemd does not run on this host, and the service is a systemd unit."


def problems(host: Host) -> Iterator[str]:
    """All that is wrong with a host whose variables have the right types."""
    yield from ports(host)
    yield from ranges(host)
    for role in host.roles:
        yield from preflight.ask(role, "problems", host, ())
    for role in host.parts:
        yield from preflight.ask(role, "of_part", host, ())
    yield from machine(host)


def notices(host: Host) -> Iterator[str]:
    """What nobody has looked at, or what is not what it seems to be."""
    for role in host.roles:
        yield from preflight.ask(role, "notices", host, ())
    if host.probe and host.probe["policy"] == "others":
        yield (
            f"ansible_host: {host.name} has {POLICY}, which keeps packages from restarting what they upgrade: that goes"
            " on as it was, with its known holes. Remove that file there, unless it is meant so."
        )

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a Docker engine that others may use too: ours are added to theirs, which all stay."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

DAEMON = "/etc/docker/daemon.json"
# What was added there by us; the rest is of others.
OURS = "/var/lib/pacs/docker_engine/daemon.json"
# What was before a call that did not get to its end.
BEFORE = "/var/lib/pacs/docker_engine/before.json"
# What an engine that runs takes at a reload. Of an option that is taken out it forgets nothing before it restarts.
RELOADED = {
    *("debug", "features", "insecure-registries", "labels", "live-restore", "max-concurrent-downloads"),
    *("max-concurrent-uploads", "max-download-attempts", "registry-mirrors", "runtimes", "shutdown-timeout"),
}


class Broken(Exception):
    """A file that is no JSON dictionary; the argument is its path and what is wrong."""


class Merged(NamedTuple):
    """What the engine is to have, what of it is ours, and what stands in the way."""

    options: dict[str, Any]
    ours: dict[str, Any]
    conflicts: dict[str, Any]
    restart: list[str]


def read(path: str) -> dict[str, Any]:
    """Return the options in a file, nothing where there is none. :raises Broken: if it is no JSON dictionary."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Broken(f"{path}: {error}") from error
    return parse(path, text)


def parse(path: str, text: str) -> dict[str, Any]:
    """Return the options in the text of a file. :raises Broken: if it is no JSON dictionary."""
    try:
        found = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise Broken(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise Broken(f"{path}: it holds no options")
    return found


def merge(
    found: Mapping[str, Any],
    ours: Mapping[str, Any],
    wanted: Mapping[str, Any],
    running: Mapping[str, Any] | None = None,
) -> Merged:
    """Put what is wanted to what others have.

    :param found: the options that there are.
    :param ours: those which were added by us. What somebody has changed since is of others.
    :param running: those that the engine runs with, where it has not heard of those that there are.
    """
    read = found if running is None else running
    foreign = {name: value for name, value in found.items() if name not in ours or ours[name] != value}
    options = {**foreign, **wanted}
    # What is empty says nothing: nobody has decided on it, and an earlier release of ours wrote it so.
    taken = {name: value for name, value in foreign.items() if value not in ("", [], {}, None)}
    conflicts = {name: taken[name] for name in wanted if name in taken and taken[name] != wanted[name]}
    changed = {name for name in wanted if name not in read or read[name] != wanted[name]}
    return Merged(
        options=options,
        ours={name: value for name, value in wanted.items() if name not in taken},
        conflicts=conflicts,
        restart=sorted(changed - RELOADED - set(conflicts)),
    )


def look(run: Callable[..., str]) -> dict[str, Any]:
    """Return what the engine on this host has and whom it would take along if it went down.

    :param run: runs a command and returns what it prints, nothing where it fails.
    """
    problem, found, ours = "", {}, {}
    try:
        found, ours = read(DAEMON), read(OURS)
    except Broken as error:
        problem = str(error)
    running = os.path.exists("/run/docker.sock") and run("systemctl", "is-active", "docker").strip() == "active"
    everybody, own = (
        set(run("docker", "ps", "--format", "{{.Names}}", *also).split()) if running else set()
        for also in ((), ("--filter", "label=orthanc.service"))
    )
    survive = bool(everybody) and run("docker", "info", "--format", "{{.LiveRestoreEnabled}}").strip() == "true"
    return {
        "problem": problem,
        "options": found,
        "ours": ours,
        "cut_off": os.path.exists(BEFORE),
        "others": [] if survive else sorted(everybody - own),
    }


# Options of the engine that have a variable of their own.
VARIABLES = {
    "default-address-pools": "address_pools",
    "log-opts": "log_options",
    "registry-mirrors": "registry_mirrors",
}


def variable(name: str) -> str:
    """Return the variable that an option comes from."""
    return f"docker_engine_{VARIABLES.get(name, f'settings.{name}')}"


def options(log_options: Any, registry_mirrors: Any, address_pools: Any, settings: Any) -> dict[str, Any]:
    """Return what the engine is asked to have; what is empty is left to it and to others."""
    own = {
        "log-opts": {name: str(value) for name, value in log_options.items()},
        "registry-mirrors": registry_mirrors,
        "default-address-pools": address_pools,
    }
    return {**{name: value for name, value in own.items() if value}, **settings}


def problems(seen: Mapping[str, Any], merged: Merged) -> Iterator[str]:
    """Say why the engine cannot have what is wanted, without harm to those who use it too.

    :param seen: what ``look`` returned.
    """
    if seen["problem"]:
        yield f"docker_engine_settings: {seen['problem']}. Docker does not start with that; repair it."
        return
    for name, value in merged.conflicts.items():
        yield (
            f"{variable(name)}: {DAEMON} has {json.dumps(value)} for {name}, which is not of this toolkit. Give the"
            " same here, or leave it out; or take it out there, if nobody needs it."
        )
    if merged.restart and seen["others"]:
        yield (
            f"{', '.join(map(variable, merged.restart))}: Docker takes this at a restart only, and other containers"
            f" would go down with it: {', '.join(seen['others'])}. Put it into {DAEMON} yourself, as this asks for it,"
            " and restart Docker when they may; or leave it out."
        )

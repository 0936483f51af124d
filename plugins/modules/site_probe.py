#!/usr/bin/python
# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a host before anything is changed on it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_probe
short_description: What a host brings for a deployment
version_added: 0.1.0
description:
  - Reads what the checks of the action C(dicom.orthanc.check_site) compare the inventory with. Changes nothing.
author: The dicom.orthanc authors
options:
  storage_dir:
    description: Where the DICOM files are or will be.
    type: path
    default: /var/lib
  config_dir:
    description: Where the configuration of Orthanc is or will be.
    type: path
    default: /etc/pacs/orthanc
  index_dir:
    description: Where the SQLite index is or would be.
    type: path
    default: /var/lib/orthanc/db-v6
  database:
    description: The database that is asked for; only what is in another one is counted.
    type: str
    default: sqlite
  offers:
    description: Ask the package sources even where Orthanc is installed, which takes half a second.
    type: bool
    default: false
attributes:
  check_mode:
    description: Works as usual, since it only reads.
    support: full
"""

EXAMPLES = r"""
- name: Look at the host
  dicom.orthanc.site_probe:
    storage_dir: /data/orthanc
  register: probe
"""

RETURN = r"""
distribution:
  description: The C(ID) of C(/etc/os-release).
  type: str
  returned: always
  sample: debian
release:
  description: The C(VERSION_ID) of C(/etc/os-release); empty on Debian unstable.
  type: str
  returned: always
  sample: "13"
systemd:
  description: Whether systemd runs the host.
  type: bool
  returned: always
orthanc:
  description: The version of Orthanc that is installed, or empty.
  type: str
  returned: always
offered:
  description: The versions of Orthanc that the package sources offer, best first; empty where they were not asked.
  type: list
  elements: str
  returned: always
packages:
  description: The Debian packages that are installed, by their names.
  type: list
  elements: str
  returned: always
services:
  description: The services of the roles that run and are started at boot.
  type: list
  elements: str
  returned: always
  sample: [orthanc, nginx]
free:
  description: Free space in bytes on the file system of the storage folder.
  type: int
  returned: always
database:
  description: The database that an Orthanc on this host keeps its index in, or empty if there is none yet.
  type: str
  returned: always
  sample: sqlite
images:
  description: How many instances it holds; -1 if they were not counted or could not be.
  type: int
  returned: always
machine:
  description: The kind of processor.
  type: str
  returned: always
  sample: x86_64
apt_upstream:
  description: Whether the host knows the packages of Orthanc's makers.
  type: bool
  returned: always
memory:
  description: Memory of the host in bytes.
  type: int
  returned: always
listening:
  description: TCP ports that are in use, each with the name of the program, or C(another program).
  type: dict
  returned: always
  sample: {"8042": Orthanc}
"""

import base64
import json
import os
import re
import sqlite3
import urllib.request
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def os_release() -> dict[str, str]:
    """Return the fields of /etc/os-release, or nothing where it is missing."""
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            return {name: value.strip().strip("\"'") for name, _, value in (line.partition("=") for line in file)}
    except OSError:
        return {}


def free_bytes(path: str) -> int:
    """Return what is free at the path, or at the nearest folder above it that is there."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def configuration(folder: str) -> dict[str, Any]:
    """Return what the files in our configuration folder say, or nothing where it is missing."""
    found: dict[str, Any] = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if name.endswith(".json"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                found.update(json.load(file))
    return found


def archive(settings: dict[str, Any], index_dir: str, asked: str) -> tuple[str, int]:
    """Tell in which database the images of this host are indexed, and how many there are (-1: unknown).

    They are counted only if that is not the database which is asked for.
    """
    index = os.path.join(settings.get("IndexDirectory", index_dir), "index")
    database = next((name for name in ("PostgreSQL", "MySQL") if name in settings), "")
    if not database and not os.path.exists(index):
        return "", 0
    if asked == (database.lower() or "sqlite"):
        return asked, -1
    try:
        user, password = next(iter(settings["RegisteredUsers"].items()))
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{settings['HttpPort']}/statistics", headers={"Authorization": f"Basic {login}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return database.lower() or "sqlite", int(json.load(answer)["CountInstances"])
    except (OSError, ValueError, KeyError, StopIteration):
        pass
    if database:
        return database.lower(), -1
    # It does not run. While it does, it keeps everybody else off its index.
    try:
        with sqlite3.connect(f"file:{index}?mode=ro", uri=True) as connection:
            # 4 is the level of instances.
            return "sqlite", int(
                connection.execute("SELECT COUNT(*) FROM Resources WHERE resourceType=4").fetchone()[0]
            )
    except sqlite3.Error:
        return "sqlite", -1


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "storage_dir": {"type": "path", "default": "/var/lib"},
            "config_dir": {"type": "path", "default": "/etc/pacs/orthanc"},
            "index_dir": {"type": "path", "default": "/var/lib/orthanc/db-v6"},
            "database": {"type": "str", "default": "sqlite"},
            "offers": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )

    def run(*command: str) -> str:
        if not module.get_bin_path(command[0]):
            return ""
        return str(module.run_command(list(command), environ_update={"LC_ALL": "C"})[1])

    release = os_release()
    # Versions and states of all packages in one call; the roles compare them with what they need.
    shown = run("dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Status}\\n")
    states = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    packages = {name: state[0] for name, state in states.items() if state[1:] == ["install", "ok", "installed"]}
    installed = re.match(r"(?:\d+:)?(\d[\d.]*)", packages.get("orthanc", ""))
    offers = run("apt-cache", "madison", "orthanc") if module.params["offers"] or not installed else ""
    offered = re.findall(r"\| (?:\d+:)?(\d[\d.]*)", offers)
    names = ("orthanc", "nginx")
    active, enabled = (run("systemctl", f"is-{state}", *names).split() for state in ("active", "enabled"))
    services = [name for name, *states in zip(names, active, enabled, strict=False) if states == ["active", "enabled"]]
    listening = {}
    for line in run("ss", "-Hltnp").splitlines():
        program = re.search(r'users:\(\("([^"]+)"', line)
        listening[line.split()[3].rpartition(":")[2]] = program[1] if program else "another program"
    settings = configuration(module.params["config_dir"])
    database, images = archive(settings, module.params["index_dir"], module.params["database"])
    module.exit_json(
        database=database,
        images=images,
        apt_upstream=os.path.exists("/etc/apt/sources.list.d/orthanc.sources"),
        machine=os.uname().machine,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        distribution=release.get("ID", ""),
        release=release.get("VERSION_ID", ""),
        systemd=os.path.isdir("/run/systemd/system"),
        packages=sorted(packages),
        services=services,
        orthanc=installed[1] if installed else "",
        offered=list(dict.fromkeys(offered)),
        free=free_bytes(module.params["storage_dir"]),
        listening=listening,
    )


if __name__ == "__main__":
    main()

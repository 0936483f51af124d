#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a host before anything is changed on it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_probe
short_description: What a host brings for a deployment
version_added: 0.1.0
description:
  - Reads what the checks of the action C(dicom.orthanc.check_site) compare the inventory with. Changes nothing.
author: The dicom.orthanc authors (!UNKNOWN)
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
    description: The database that is asked for; images are only counted if they are in another one.
    type: str
    default: sqlite
  files:
    description: The database that is to hold the DICOM files, or empty. Images are only counted if it is another one.
    type: str
    default: ""
  server:
    description: Name or address and TCP port of a database server that others run, if there is one.
    type: list
    elements: str
    default: []
  program:
    description: Where the Orthanc binary is or will be; empty where it is in an image.
    type: str
    default: ""
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
binary:
  description: The version of the binary that was asked, and the types of the options that it knows; empty without one.
  type: dict
  returned: always
  sample: {version: 1.12.7, options: {HttpPort: int}}
packages:
  description: The Debian packages that are installed, by their names.
  type: list
  elements: str
  returned: always
services:
  description: The services that run and are started at boot, of those that a role would look for otherwise.
  type: list
  elements: str
  returned: always
  sample: [docker]
free:
  description: Free space in bytes on the file system of the storage folder.
  type: int
  returned: always
database:
  description: The database that an Orthanc on this host keeps its index in, or empty if there is none yet.
  type: str
  returned: always
  sample: sqlite
files:
  description: The database that holds its DICOM files, or empty if they are in a folder.
  type: str
  returned: always
images:
  description: How many instances it holds; -1 if they were not counted or could not be.
  type: int
  returned: always
no_way:
  description: Why the server of others cannot be reached from this host; the first word is C(name) or C(port).
  type: str
  returned: always
  sample: port Connection refused
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
import socket
import sqlite3
import urllib.request
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import ask_binary, read_folder


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


def archive(settings: dict[str, Any], index_dir: str, asked: tuple[str, str]) -> tuple[str, str, int]:
    """Tell which databases have the index and the DICOM files of this host, and how many images there are.

    They are counted only if these are not the databases which are asked for; -1 if they were not, or could not be.
    """
    index = os.path.join(settings.get("IndexDirectory", index_dir), "index")
    database, files = (
        next((name.lower() for name in ("PostgreSQL", "MySQL") if settings.get(name, {}).get(option)), "")
        for option in ("EnableIndex", "EnableStorage")
    )
    if not database and not os.path.exists(index):
        return "", files, 0
    found = database or "sqlite", files
    if found == asked:
        return *found, -1
    try:
        user, password = next(iter(settings["RegisteredUsers"].items()))
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{settings['HttpPort']}/statistics", headers={"Authorization": f"Basic {login}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return *found, int(json.load(answer)["CountInstances"])
    except (OSError, ValueError, KeyError, StopIteration):
        pass
    if database:
        return *found, -1
    # It does not run. While it does, it keeps everybody else off its index.
    try:
        with sqlite3.connect(f"file:{index}?mode=ro", uri=True) as connection:
            # 4 is the level of instances.
            counted = connection.execute("SELECT COUNT(*) FROM Resources WHERE resourceType=4").fetchone()[0]
            return *found, int(counted)
    except sqlite3.Error:
        return *found, -1


def no_way(host: str, port: str) -> str:
    """Say why nothing answers there: ``name …`` if the name is not known here, ``port …`` otherwise."""
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except socket.gaierror as error:
        return f"name {error.strerror}"
    except OSError as error:
        return f"port {error.strerror or error}"
    return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "storage_dir": {"type": "path", "default": "/var/lib"},
            "config_dir": {"type": "path", "default": "/etc/pacs/orthanc"},
            "index_dir": {"type": "path", "default": "/var/lib/orthanc/db-v6"},
            "database": {"type": "str", "default": "sqlite"},
            "files": {"type": "str", "default": ""},
            "server": {"type": "list", "elements": "str", "default": []},
            "program": {"type": "str", "default": ""},
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
    names = ("fail2ban", "docker")
    # A paragraph for each, also for one that is not there.
    shown = run("systemctl", "show", "--property=ActiveState,UnitFileState", *names)
    running = {"ActiveState=active", "UnitFileState=enabled"}
    services = [name for name, told in zip(names, shown.split("\n\n"), strict=False) if running <= set(told.split())]
    listening = {}
    for line in run("ss", "-Hltnp").splitlines():
        program = re.search(r'users:\(\("([^"]+)"', line)
        listening[line.split()[3].rpartition(":")[2]] = program[1] if program else "another program"
    program = module.params["program"]
    # A binary that does not run any more is no reason to stop: it may be about to be replaced.
    version, options = ask_binary(lambda argument: run(program, argument)) if program else ("", {})
    settings = read_folder(module.params["config_dir"])
    asked = (module.params["database"], module.params["files"])
    database, files, images = archive(settings, module.params["index_dir"], asked)
    module.exit_json(
        binary={"version": version, "options": options},
        database=database,
        files=files,
        images=images,
        no_way=no_way(*module.params["server"]) if module.params["server"] else "",
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

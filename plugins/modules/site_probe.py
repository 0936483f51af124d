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
  - Reads what the checks of the action C(dicom.orthanc.preflight) compare the inventory with. Changes nothing.
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
  database_host:
    description: Name or address of the database server that is asked for.
    type: str
    default: 127.0.0.1
  database_name:
    description: Name of the database that is asked for.
    type: str
    default: orthanc
  state:
    description: File in which M(dicom.orthanc.orthanc_service) keeps what worked last.
    type: path
    default: /var/lib/pacs/orthanc/last.json
  server:
    description: Name or address and TCP port of a database server that others run, if there is one.
    type: list
    elements: str
    default: []
  program:
    description: Where the Orthanc binary is or will be; empty where it is in an image.
    type: str
    default: ""
  engine:
    description: Look at the Docker engine too.
    type: bool
    default: false
  image:
    description: A container image that the Docker engine is asked for, or empty.
    type: str
    default: ""
  answers:
    description: File in which M(dicom.orthanc.orthanc_info) keeps what that image has answered.
    type: path
    default: ""
  nginx:
    description: Ask nginx what it says against its configuration.
    type: bool
    default: false
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
masked:
  description: Those of these services that are kept from starting.
  type: list
  elements: str
  returned: always
  sample: [nginx]
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
elsewhere:
  description: Folders of the archive, by C(storage) and C(index), that are not the ones asked for, which are empty.
  type: dict
  returned: always
  sample: {storage: /data/dicom}
lost:
  description: Folders of what worked last that hold nothing any more, nor the toolkit's mark.
  type: list
  elements: str
  returned: always
other_server:
  description: Host and name of the database of an Orthanc that others set up, if it is not the one asked for.
  type: list
  elements: str
  returned: always
configuration:
  description: What an Orthanc that others set up is started with, or empty.
  type: str
  returned: always
  sample: /etc/orthanc
unread:
  description: Files of it that cannot be read.
  type: list
  elements: str
  returned: always
interrupted:
  description: Whether dpkg left something half done.
  type: bool
  returned: always
no_way:
  description: Why the server of others cannot be reached from this host; the first word is C(name) or C(port).
  type: str
  returned: always
  sample: port Connection refused
proxied:
  description: Whose Orthancs the proxy on this host stands before, by the names in the inventory.
  type: list
  elements: str
  returned: always
relayed:
  description: Whose relay, for proxies on other hosts, is on this host, in the same way.
  type: list
  elements: str
  returned: always
nginx:
  description: The user and the group of nginx's workers; those of Debian's package where there is no nginx yet.
  type: dict
  returned: always
  sample: {user: www-data, group: www-data}
ipv6:
  description: Whether the kernel has IPv6.
  type: bool
  returned: always
machine:
  description: The kind of processor.
  type: str
  returned: always
  sample: x86_64
engine:
  description:
    - The options of the Docker engine, which of them were added by this toolkit, and the containers of others that
      would go down with it; empty where that was not asked.
  type: dict
  returned: always
  sample: {problem: "", options: {data-root: /srv/docker}, ours: {}, others: [wiki]}
image:
  description: The number of the image that was asked for; empty if the engine does not have it.
  type: str
  returned: always
asked:
  description: The commands that the image was asked with; empty if its answers are not at hand.
  type: list
  elements: str
  returned: always
account:
  description: Of the user C(orthanc) the numbers of user and group, comment, home and shell; empty if there is none.
  type: list
  elements: str
  returned: always
  sample: ["998", "998", Orthanc DICOM server, /var/lib/orthanc, /usr/sbin/nologin]
nginx_refusal:
  description:
    - What nginx says against its configuration; empty if it takes it, if it is not installed or kept from starting, and
      where that was not asked.
  type: str
  returned: always
apt_lists:
  description: Whether apt knows any package that it could fetch; cloud images and containers come without.
  type: bool
  returned: always
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

import contextlib
import fcntl
import glob
import json
import locale
import os
import pwd
import re
import socket
import sqlite3
import subprocess
import urllib.parse
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import docker_daemon
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import (
    ask_binary,
    read_files,
    read_folder,
    read_text,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.files import MARK, marked
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_client import Orthanc, Unready

# How a host calls itself.
LOCAL = ("", "localhost", "127.0.0.1", "::1")
# What nginx serves of ours, and where it says whose Orthanc that is.
SITES = {
    "proxied": ("/etc/nginx/conf.d/orthanc.conf", r"(?m)^# The Orthanc of (\S+)$"),
    "relayed": ("/etc/nginx/conf.d/orthanc-relay.conf", r"(?m)^    server_name (\S+);$"),
}
NGINX = "/etc/nginx/nginx.conf"


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


class Archive:
    """The archive of an Orthanc that is on this host, by its configuration."""

    def __init__(self, settings: dict[str, Any], folder: str) -> None:
        """:param folder: that its relative paths start from."""
        self._settings = settings
        self.storage = os.path.join(folder, str(settings.get("StorageDirectory", "OrthancStorage")))
        self.index = os.path.join(folder, str(settings.get("IndexDirectory", self.storage)))
        # Which databases have the index and the files.
        self.database, self.files = (
            next((name.lower() for name in ("PostgreSQL", "MySQL") if self._section(name).get(option)), "")
            for option in ("EnableIndex", "EnableStorage")
        )
        if not self.database and os.path.exists(os.path.join(self.index, "index")):
            self.database = "sqlite"

    def _section(self, name: str) -> dict[str, Any]:
        section = self._settings.get(name)
        return section if isinstance(section, dict) else {}

    @property
    def server(self) -> tuple[str, str]:
        """Host and name of the database; the host is empty if it is this one."""
        section = self._section({"postgresql": "PostgreSQL", "mysql": "MySQL"}.get(self.database, ""))
        parts = urllib.parse.urlsplit(str(section.get("ConnectionUri", "")))
        host = parts.hostname or str(section.get("Host", ""))
        return "" if host in LOCAL else host, parts.path.strip("/") or str(section.get("Database", ""))

    def count(self) -> int:
        """Return how many images there are; -1 if they cannot be counted."""
        with contextlib.suppress(Unready, ValueError, KeyError, TypeError, AttributeError):
            return int(Orthanc(self._settings).get("/statistics", timeout=30)["CountInstances"])
        # It does not run. While it does, it keeps everybody else off its index.
        return indexed(self.index) if self.database == "sqlite" else -1


def indexed(folder: str) -> int:
    """Return how many images an index of SQLite has; -1 if they cannot be counted."""
    path = urllib.parse.quote(os.path.join(folder, "index"))
    with contextlib.suppress(sqlite3.Error), sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        # 4 is the level of instances.
        return int(connection.execute("SELECT COUNT(*) FROM Resources WHERE resourceType=4").fetchone()[0])
    return -1


def holds(folder: str, kind: str) -> bool:
    """Tell whether a folder holds an index, or DICOM files."""
    try:
        names = os.listdir(folder) if os.path.isdir(folder) else []
    except PermissionError:
        # Root has no say in what NFS brings from elsewhere. Who made it so has put something there.
        return True
    # Besides the mark there may be the reserve for a full disk.
    return "index" in names if kind == "index" else not all(name.startswith(MARK) for name in names)


def filled(folder: str, kind: str) -> bool:
    """Tell whether a folder holds images: Debian's package makes an empty index where it is started once."""
    if kind == "index":
        return holds(folder, kind) and indexed(folder) != 0
    try:
        return os.path.isdir(folder) and any(re.fullmatch("[0-9a-f]{2}", name) for name in os.listdir(folder))
    except PermissionError:
        return True


def proven(state: str) -> dict[str, Any]:
    """Return the settings that worked last, or nothing."""
    try:
        with open(state, encoding="utf-8") as file:
            kept = json.load(file)
        texts = [kept[name][0] for name in sorted(kept) if name.endswith(".json")]
        return {name: value for text in texts for name, value in read_text(text).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def started_with() -> tuple[str, str]:
    """Return the configuration that an Orthanc of others runs with, or is started with, and where its paths start.

    :returns: an empty configuration where it has none, and nothing in both where there is no such Orthanc.
    """
    calls = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            # Of a program that an upgrade has replaced, the kernel says so.
            name = os.path.basename(os.readlink(f"/proc/{process}/exe")).removesuffix(" (deleted)")
            # In a container, paths are others.
            if name == "Orthanc" and os.path.samefile(f"/proc/{process}/root", "/"):
                with open(f"/proc/{process}/cmdline", encoding="utf-8", errors="replace") as file:
                    words = file.read().strip("\0").split("\0")[1:]
                calls.append((words, os.readlink(f"/proc/{process}/cwd")))
    if not calls:
        with contextlib.suppress(OSError):
            shown = subprocess.run(
                ["systemctl", "show", "orthanc", "--property=ExecStart,WorkingDirectory"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout
            calls = started_by(shown)
    for words, folder in calls:
        path = next((word for word in reversed(words) if not word.startswith("-")), "")
        path = os.path.normpath(os.path.join(folder, path)) if path else ""
        return path, path if os.path.isdir(path) else os.path.dirname(path) or folder
    return "", ""


def started_by(shown: str) -> list[tuple[list[str], str]]:
    """Return with which arguments a unit starts Orthanc, and in which folder; nothing where it does not."""
    found = re.search(r"argv\[\]=(\S*Orthanc\b.*?) ;", shown)
    folder = re.search(r"(?m)^WorkingDirectory=[-!]*(/.*)", shown)
    return [(found[1].split()[1:], folder[1] if folder else "/")] if found else []


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


def interrupted() -> bool:
    """Tell whether dpkg left something half done, and does not run."""
    try:
        # The lock is not taken without need: a dpkg that begins meanwhile would not wait for it.
        if not any(name.isdigit() for name in os.listdir("/var/lib/dpkg/updates")):
            return False
        with open("/var/lib/dpkg/lock", "r+", encoding="ascii") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def served(file: str, line: str) -> list[str]:
    """Return the hosts whose Orthancs this host's nginx serves, as the role has noted them down."""
    try:
        with open(file, encoding="utf-8") as opened:
            return re.findall(line, opened.read())
    except OSError:
        return []


def workers(file: str = NGINX) -> dict[str, str]:
    """Return the user and the group of nginx's workers."""
    found = None
    with contextlib.suppress(OSError), open(file, encoding="utf-8", errors="replace") as opened:
        found = re.search(r"(?m)^\s*user\s+([^\s;]+)(?:\s+([^\s;]+))?\s*;", opened.read())
    user = found[1] if found else "www-data"
    return {"user": user, "group": (found and found[2]) or user}


def account(name: str) -> list[str]:
    """Return the numbers of a user and its group, its comment, home and shell; nothing if there is no such user."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return []
    return [str(found.pw_uid), str(found.pw_gid), found.pw_gecos, found.pw_dir, found.pw_shell]


def said_of(image: str, file: str) -> tuple[list[str], tuple[str, dict[str, str]]]:
    """Return the commands by which an image was asked, and its version and options; nothing if it was not."""
    kept = State(file).read() if image and file else {}
    asked, told = kept.get("asked") or [], kept.get("told") or []
    return (asked, (told[0], told[1])) if image in asked and len(told) > 1 else ([], ("", {}))


def no_way(host: str, port: str) -> str:
    """Say why nothing answers there: ``name …`` if the name is not known here, ``port …`` otherwise."""
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except socket.gaierror as error:
        return f"name {error.strerror}"
    except OSError as error:
        return f"port {error.strerror or error}"
    return ""


def look(params: dict[str, Any]) -> dict[str, Any]:
    """Return what archive is on this host, and where it is not where it is asked for."""
    unread: list[str] = []
    last = proven(params["state"])
    path = folder = params["config_dir"]
    settings = last | read_folder(path)
    ours = bool(settings)
    if not ours:
        path, folder = started_with()
        settings, unread = read_files(path)
    there = Archive(settings, folder)
    wanted = {"storage": params["storage_dir"], "index": params["index_dir"]}
    found = {
        "storage": there.storage if not there.files else "",
        "index": there.index if last or there.database else "",
    }
    if there.database not in ("", "sqlite"):
        found["index"] = ""
    # What is where it is not looked for, unless it was taken there.
    elsewhere = {
        kind: folder
        for kind, folder in found.items()
        if folder and os.path.realpath(folder) != os.path.realpath(wanted[kind])
        if holds(folder, kind) and not filled(wanted[kind], kind)
    }
    # What was there, and is not: the disk is missing, as its mark is.
    lost = [
        folder for kind, folder in found.items() if last and folder and not holds(folder, kind) and not marked(folder)
    ]
    server = ("" if params["database_host"] in LOCAL else params["database_host"], params["database_name"])
    moved = there.server if not ours and there.database not in ("", "sqlite") and there.server != server else ()
    asked = (params["database"], params["files"])
    differs = (there.database, there.files) != asked or elsewhere or lost or moved
    images = 0 if not there.database and not lost else there.count() if differs else -1
    return {
        "database": there.database,
        "files": there.files,
        "images": images,
        "elsewhere": elsewhere,
        "lost": sorted(set(lost)),
        "other_server": list(moved),
        "unread": unread,
        "configuration": "" if ours else path,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "storage_dir": {"type": "path", "default": "/var/lib"},
            "config_dir": {"type": "path", "default": "/etc/pacs/orthanc"},
            "index_dir": {"type": "path", "default": "/var/lib/orthanc/db-v6"},
            "database": {"type": "str", "default": "sqlite"},
            "files": {"type": "str", "default": ""},
            "database_host": {"type": "str", "default": "127.0.0.1"},
            "database_name": {"type": "str", "default": "orthanc"},
            "state": {"type": "path", "default": "/var/lib/pacs/orthanc/last.json"},
            "server": {"type": "list", "elements": "str", "default": []},
            "program": {"type": "str", "default": ""},
            "engine": {"type": "bool", "default": False},
            "image": {"type": "str", "default": ""},
            "answers": {"type": "path", "default": ""},
            "nginx": {"type": "bool", "default": False},
            "offers": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    # What the system says is told in English, as everything is; the module has set the host's language.
    locale.setlocale(locale.LC_MESSAGES, "C")

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
    names = ("fail2ban", "docker", "nginx")
    # A paragraph for each, also for one that is not there.
    shown = run("systemctl", "show", "--property=ActiveState,UnitFileState,LoadState", *names)
    told = {name: set(part.split()) for name, part in zip(names, shown.split("\n\n"), strict=False)}
    services = [name for name in told if {"ActiveState=active", "UnitFileState=enabled"} <= told[name]]
    masked = [name for name in told if "LoadState=masked" in told[name]]
    # One of ours that was kept from starting may still be half configured.
    nginx = module.get_bin_path("nginx", opt_dirs=["/usr/sbin"]) if "nginx" not in masked else None
    rc, _out, err = module.run_command([nginx, "-t", "-q"]) if nginx and module.params["nginx"] else (0, "", "")
    listening = {}
    for line in run("ss", "-Hltnp").splitlines():
        program = re.search(r'users:\(\("([^"]+)",pid=(\d+)', line)
        named = holder(program[1], group_of(program[2]), run) if program else "another program"
        listening[line.split()[3].rpartition(":")[2]] = named
    program = module.params["program"]
    # To ask an engine that does not run would start it.
    image = module.params["image"] if "ActiveState=active" in told.get("docker", ()) else ""
    image = run("docker", "image", "inspect", "--format={{.Id}}", image).strip() if image else ""
    asked, answered = said_of(image, module.params["answers"])
    # A binary that does not run any more is no reason to stop: it may be about to be replaced.
    version, options = ask_binary(lambda argument: run(program, argument)) if program else answered
    module.exit_json(
        **look(module.params),
        interrupted=interrupted(),
        binary={"version": version, "options": options},
        no_way=no_way(*module.params["server"]) if module.params["server"] else "",
        engine=docker_daemon.look(run) if module.params["engine"] else {},
        apt_lists=bool(glob.glob("/var/lib/apt/lists/*_Packages*")),
        apt_upstream=os.path.exists("/etc/apt/sources.list.d/orthanc.sources"),
        **{name: served(*site) for name, site in SITES.items()},
        nginx=workers(),
        # Booted without it (ipv6.disable=1), no address of it can be bound.
        ipv6=os.path.exists("/proc/net/if_inet6"),
        machine=os.uname().machine,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        distribution=release.get("ID", ""),
        release=release.get("VERSION_ID", ""),
        systemd=os.path.isdir("/run/systemd/system"),
        packages=sorted(packages),
        services=services,
        masked=masked,
        image=image,
        asked=asked,
        account=account("orthanc"),
        nginx_refusal=err.strip() if rc else "",
        orthanc=installed[1] if installed else "",
        offered=list(dict.fromkeys(offered)),
        free=free_bytes(module.params["storage_dir"]),
        listening=listening,
    )


if __name__ == "__main__":
    main()

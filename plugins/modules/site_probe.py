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
  storage_mount:
    description: Where others provide a file system for the storage folder, or empty. It is looked at first.
    type: path
    default: ""
  state:
    description: File in which M(dicom.orthanc.orthanc_service) keeps what worked last.
    type: path
    default: /var/lib/pacs/orthanc/last.json
  release:
    description: The release of Orthanc that is asked for, or empty; the index is only looked at where another one runs.
    type: str
    default: ""
  dump_dir:
    description: Folder to which the index would be dumped before that, or empty.
    type: path
    default: ""
  server:
    description: Name or address and TCP port of a database server that others run, if there is one.
    type: list
    elements: str
    default: []
  others:
    description: Modalities and peers that are to be within reach, each by address and port with a space between them.
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
  address:
    description: An address that hosts are to have one at a time, that of this host, and those of the others.
    type: list
    elements: str
    default: []
  watchdog:
    description: The device of a watchdog that is to be there, or empty.
    type: path
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
nginx_version:
  description: The version of nginx that is installed, or empty.
  type: str
  returned: always
offered:
  description: The versions of Orthanc that the package sources offer, best first; empty where they were not asked.
  type: list
  elements: str
  returned: always
withheld:
  description: Those that a pin in apt's preferences has it never install; empty where they were not asked.
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
free_index:
  description: The same, of the folder of the index.
  type: int
  returned: always
free_build:
  description: The same, of the folder in which a build would be done.
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
index:
  description:
    - Where another release runs than the one that is asked for, its version, and of its index the size, the room for a
      dump (in bytes; -1 where none is made), and the revision of the schema on a database server, else 0.
    - Empty elsewhere, and where that cannot be told.
  type: dict
  returned: always
  sample: {running: 1.10.1, where: the database orthanc on 127.0.0.1, size: 9000000, free: 20000000000, revision: 6}
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
foreign:
  description: Folders that are asked for, by C(storage), C(index) and C(config), and have something of others in them.
  type: dict
  returned: always
  sample: {storage: /etc/ssh}
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
theirs:
  description: The release of that Orthanc, or empty.
  type: str
  returned: always
  sample: 1.10.1
unread:
  description: Files of it that cannot be read.
  type: list
  elements: str
  returned: always
interrupted:
  description: Whether dpkg left something half done.
  type: bool
  returned: always
policy:
  description: Who keeps packages from restarting what they upgrade, C(ours) or C(others); empty if nobody does.
  type: str
  returned: always
no_way:
  description: Why the server of others cannot be reached from this host; the first word is C(name) or C(port).
  type: str
  returned: always
  sample: port Connection refused
silent:
  description: Modalities and peers, of those that Orthanc does not know yet, where nothing takes a connection now.
  type: list
  elements: str
  returned: always
  sample: [192.0.2.7 104]
trusted:
  description: SHA-256 of the certificates by which Orthanc knows modalities over TLS, or empty.
  type: str
  returned: always
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
viewer:
  description: Whether something of a viewer of ours is on this host.
  type: bool
  returned: always
viewed:
  description: The path at which nginx serves it, or empty.
  type: str
  returned: always
  sample: /ohif/
viewer_release:
  description: The folder of the release that nginx serves, or empty.
  type: str
  returned: always
  sample: 3.13.2-0f6159c5
nginx:
  description: The user and the group of nginx's workers; those of Debian's package where there is no nginx yet.
  type: dict
  returned: always
  sample: {user: www-data, group: www-data}
clock:
  description: What the host's clock says, in seconds since 1970.
  type: float
  returned: always
ipv6:
  description: Whether the kernel has IPv6.
  type: bool
  returned: always
storage:
  description:
    - Kind, source and options of what is mounted for the storage folder, its mark, whether something else is in it, its
      owner, and whether root and Orthanc may write there; empty where nothing is mounted, and where that was not asked.
  type: dict
  returned: always
  sample: {kind: nfs4, source: "nas:/dicom", options: [rw, hard], mark: hospital 0b0e9d52, used: true}
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
free_run:
  description: Free space in bytes on C(/run), where systemd keeps what it knows.
  type: int
  returned: always
address:
  description:
    - The device and network of the host's own address, whether it has the one that is asked for, and the hardware's
      address of a stranger that does; empty where that was not asked.
  type: dict
  returned: always
  sample: {device: eth0, network: 192.0.2.0/24, held: false, taken: ""}
watchdog:
  description: Whether the device that was asked for is there.
  type: bool
  returned: always
listening:
  description: TCP ports that are in use, each with the name of the program, or C(another program).
  type: dict
  returned: always
  sample: {"8042": Orthanc}
"""

import hashlib
import locale
import os
import pwd
import stat
import time

from ansible.module_utils import distro
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import docker_daemon, storage_mount
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import ask_binary, read_folder
from ansible_collections.dicom.orthanc.plugins.module_utils.files import free_bytes
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State
from ansible_collections.dicom.orthanc.plugins.module_utils.probe import (
    address,
    archive,
    index,
    nginx,
    packages,
    ports,
    viewer,
)


def account(name: str) -> list[str]:
    """Return the numbers of a user and its group, its comment, home and shell; nothing if there is no such user."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return []
    return [str(found.pw_uid), str(found.pw_gid), found.pw_gecos, found.pw_dir, found.pw_shell]


def trusted(folder: str) -> str:
    """Return the SHA-256 of the certificates that Orthanc has for modalities; nothing if it has none."""
    try:
        with open(os.path.join(folder, "dicom-trusted.crt"), "rb") as file:
            return hashlib.sha256(file.read().strip()).hexdigest()
    except OSError:
        return ""


def is_device(path: str) -> bool:
    """Tell whether something is there that the kernel writes to; to open a watchdog would start it."""
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def said_of(image: str, file: str) -> tuple[list[str], tuple[str, dict[str, str]]]:
    """Return the commands by which an image was asked, and its version and options; nothing if it was not."""
    kept = State(file).read() if image and file else {}
    asked, told = kept.get("asked") or [], kept.get("told") or []
    return (asked, (told[0], told[1])) if image in asked and len(told) > 1 else ([], ("", {}))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "storage_dir": {"type": "path", "default": "/var/lib"},
            "config_dir": {"type": "path", "default": "/etc/pacs/orthanc"},
            "index_dir": {"type": "path", "default": "/var/lib/orthanc/db-v6"},
            "storage_mount": {"type": "path", "default": ""},
            "database": {"type": "str", "default": "sqlite"},
            "files": {"type": "str", "default": ""},
            "database_host": {"type": "str", "default": "127.0.0.1"},
            "database_name": {"type": "str", "default": "orthanc"},
            "state": {"type": "path", "default": "/var/lib/pacs/orthanc/last.json"},
            "release": {"type": "str", "default": ""},
            "dump_dir": {"type": "path", "default": ""},
            "server": {"type": "list", "elements": "str", "default": []},
            "others": {"type": "list", "elements": "str", "default": []},
            "program": {"type": "str", "default": ""},
            "engine": {"type": "bool", "default": False},
            "image": {"type": "str", "default": ""},
            "answers": {"type": "path", "default": ""},
            "nginx": {"type": "bool", "default": False},
            "address": {"type": "list", "elements": "str", "default": []},
            "watchdog": {"type": "path", "default": ""},
            "offers": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    # What the system says is told in English, as everything is; the module has set the host's language.
    locale.setlocale(locale.LC_MESSAGES, "C")

    def run(*command: str) -> str:
        if not module.get_bin_path(command[0]):
            return ""
        try:
            return str(module.run_command(list(command), environ_update={"LC_ALL": "C"}, handle_exceptions=False)[1])
        except OSError:
            # Half of a file, as after a loss of power.
            return ""

    names = ("fail2ban", "docker", "nginx")
    mount, who, storage = params["storage_mount"], account("orthanc"), {}
    try:
        storage = storage_mount.look(mount, params["storage_dir"], [int(one) for one in who[:2]]) if mount else {}
    except storage_mount.Silent as error:
        module.fail_json(
            f"orthanc_storage_mount: what is mounted at {mount} on this host cannot be looked at: {error}. Have it"
            " answer, or mounted anew, and run again. Nothing was changed."
        )
    # A paragraph for each, also for one that is not there.
    shown = run("systemctl", "show", "--property=ActiveState,UnitFileState,LoadState", *names)
    told = {name: set(part.split()) for name, part in zip(names, shown.split("\n\n"), strict=False)}
    services = [name for name in told if {"ActiveState=active", "UnitFileState=enabled"} <= told[name]]
    masked = [name for name in told if "LoadState=masked" in told[name]]
    program = params["program"]
    # To ask an engine that does not run would start it.
    image = params["image"] if "ActiveState=active" in told.get("docker", ()) else ""
    image = run("docker", "image", "inspect", "--format={{.Id}}", image).strip() if image else ""
    asked, answered = said_of(image, params["answers"])
    # A binary that does not run any more is no reason to stop: it may be about to be replaced.
    version, options = ask_binary(lambda argument: run(program, argument)) if program else answered
    module.exit_json(
        **archive.look(params, run),
        **packages.look(run, params["offers"]),
        index=index.look(module, params),
        **{name: nginx.served(*site) for name, site in nginx.SITES.items()},
        **viewer.look(),
        nginx=nginx.workers(),
        # One of ours that was kept from starting may still be half configured.
        nginx_refusal=nginx.refusal(module) if params["nginx"] and "nginx" not in masked else "",
        address=address.look(run, *params["address"]) if params["address"] else {},
        watchdog=bool(params["watchdog"]) and is_device(params["watchdog"]),
        listening=ports.listening(run, *params["address"][:1]),
        no_way=ports.no_way(*params["server"]) if params["server"] else "",
        silent=ports.silent(params["others"], read_folder(params["config_dir"])) if params["others"] else [],
        trusted=trusted(params["config_dir"]),
        engine=docker_daemon.look(run) if params["engine"] else {},
        image=image,
        asked=asked,
        binary={"version": version, "options": options},
        clock=time.time(),
        # Booted without it (ipv6.disable=1), no address of it can be bound.
        ipv6=os.path.exists("/proc/net/if_inet6"),
        machine=os.uname().machine,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        distribution=distro.os_release_attr("id"),
        release=distro.os_release_attr("version_id"),
        systemd=os.path.isdir("/run/systemd/system"),
        services=services,
        masked=masked,
        account=who,
        storage=storage,
        free=free_bytes(params["storage_dir"]),
        free_run=free_bytes("/run"),
        free_index=free_bytes(params["index_dir"]),
        free_build=free_bytes("/var/tmp"),
    )


if __name__ == "__main__":
    main()

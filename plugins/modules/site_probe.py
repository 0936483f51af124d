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
  description: The versions of Orthanc that the package sources offer, best first.
  type: list
  elements: str
  returned: always
free:
  description: Free space in bytes on the file system of the storage folder.
  type: int
  returned: always
listening:
  description: TCP ports that are in use, each with the name of the program, or C(another program).
  type: dict
  returned: always
  sample: {"8042": Orthanc}
"""

import os
import re

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


def main() -> None:
    module = AnsibleModule(
        argument_spec={"storage_dir": {"type": "path", "default": "/var/lib"}}, supports_check_mode=True
    )

    def run(*command: str) -> str:
        if not module.get_bin_path(command[0]):
            return ""
        return str(module.run_command(list(command), environ_update={"LC_ALL": "C"})[1])

    release = os_release()
    installed = re.search(r"Orthanc (\d[\d.]*)", run("Orthanc", "--version"))
    listening = {}
    for line in run("ss", "-Hltnp").splitlines():
        program = re.search(r'users:\(\("([^"]+)"', line)
        listening[line.split()[3].rpartition(":")[2]] = program[1] if program else "another program"
    module.exit_json(
        distribution=release.get("ID", ""),
        release=release.get("VERSION_ID", ""),
        systemd=os.path.isdir("/run/systemd/system"),
        orthanc=installed[1] if installed else "",
        offered=list(dict.fromkeys(re.findall(r"\| (?:\d+:)?(\d[\d.]*)", run("apt-cache", "madison", "orthanc")))),
        free=free_bytes(module.params["storage_dir"]),
        listening=listening,
    )


if __name__ == "__main__":
    main()

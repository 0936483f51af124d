#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build Orthanc and its plugins from their tarballs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: source_build
short_description: Build Orthanc and its plugins from tarballs
version_added: 0.1.0
description:
  - Builds with CMake, each tarball as a unit of systemd of its own. It runs as a user that is there for the build
    alone, after everything else on the host, writes into a folder that goes with it, and reaches no network unless its
    options ask for downloads.
  - What comes out is fetched to the control node (C(~/.cache/dicom.orthanc)), and built only where that does not have
    it. Of hosts that need the same, the first one builds, and the others wait for it.
  - A run that is cut off leaves the build going, and the next one comes back to it.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  builds:
    description: What to build, as the filter P(dicom.orthanc.builds#filter) names it.
    type: list
    elements: dict
    required: true
  release:
    description: Release of Orthanc.
    type: str
    required: true
  platform:
    description: Distribution, release and machine for which it has to be built, such as C(debian-13-x86_64).
    type: str
    required: true
  packages:
    description: Packages that every build takes.
    type: list
    elements: str
    default: []
  jobs:
    description: How many compilers run side by side. 0 takes as many as there are processors and memory for.
    type: int
    default: 0
  step:
    description: What the action asks of the host; nothing for a playbook.
    type: str
    choices: [prepare, start, wait]
    default: prepare
  received:
    description: Tarballs that the action has brought, by their SHA-256; nothing for a playbook.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Tells that it would build what the control node does not have.
    support: full
"""

EXAMPLES = r"""
- name: Build a release
  dicom.orthanc.source_build:
    release: 1.12.7
    platform: debian-13-x86_64
    builds: "{{ builds }}"
"""

RETURN = r"""
archives:
  description: Paths on the control node of what was built, now or before.
  type: list
  elements: str
  returned: always
packages:
  description: The packages with the libraries that it needs.
  type: list
  elements: str
  returned: always
built:
  description: What was built now.
  type: list
  elements: str
  returned: always
"""

import os
import re
import shutil
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import building, lsb
from ansible_collections.dicom.orthanc.plugins.module_utils.files import lock, make_folders, plain_files, remove

UNIT = "pacs-build"
CACHE = f"/var/cache/private/{UNIT}"
LOG = f"{building.FOLDER}/build.log"
# How long one call waits, in seconds.
WAIT = 20


def archive(build: dict[str, Any]) -> str:
    return os.path.join(building.FOLDER, f"{building.stem(build, building.platform())}.tar.gz")


def available() -> int:
    """Return the memory in bytes that programs can still have."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return int(re.findall(r"MemAvailable: +(\d+) kB", file.read())[0]) << 10


def processes(jobs: int) -> int:
    """Return how many compilers run side by side."""
    return jobs or max(1, min(len(os.sched_getaffinity(0)), available() // building.JOB_MEMORY))


def room(jobs: int) -> None:
    """See whether there is memory and disk for a build."""
    memory, disk = available(), shutil.disk_usage(os.path.dirname(building.WORK)).free
    needed = building.JOB_MEMORY * max(jobs, 1)
    if memory < needed:
        raise building.BuildError(
            f"{memory / 2**30:.1f} GiB of memory are free, and to compile {max(jobs, 1)} at a time takes"
            f" {needed / 2**30:.1f}; see orthanc_source_jobs, or name another orthanc_source_build_host."
        )
    if disk < building.BUILD_DISK:
        raise building.BuildError(
            f"{disk / 2**30:.1f} GiB are free in {os.path.dirname(building.WORK)}, and a build takes"
            f" {building.BUILD_DISK / 2**30:.0f}; make room, or name another orthanc_source_build_host."
        )


def have(one: dict[str, str], received: dict[str, str], variable: str) -> None:
    """Have a tarball under its SHA-256."""
    path = os.path.join(building.FOLDER, one["sha256"])
    if lsb.digest(path) == one["sha256"]:
        return
    came = f"{path}.new"
    if one["sha256"] in received:
        shutil.copyfile(received[one["sha256"]], came)
        found = lsb.digest(came)
    else:
        found = lsb.fetch(one["from"], lsb.trust(""), came, variable)
    if found != one["sha256"]:
        remove(came)
        raise building.BuildError(
            f"{one['from']} has the SHA-256 {found}, and {variable} says {one['sha256']}; find out why before you take"
            " another one."
        )
    # The build reads it as another user, whatever the host's umask is.
    os.chmod(came, 0o644)
    os.replace(came, path)


def prepare(module: AnsibleModule) -> dict[str, Any]:
    """See that all that a build takes is there and right, but for the compiler, before the host is changed."""
    params = module.params
    if params["platform"] != building.platform():
        raise building.BuildError(
            f"this host is {building.platform()}, and what it is to build is for {params['platform']}; name an"
            " orthanc_source_build_host of that kind."
        )
    make_folders(building.FOLDER)
    busy = active(module)
    for build in params["builds"]:
        if not busy:
            # It ended after a run that was cut off.
            take(os.path.join(CACHE, os.path.basename(archive(build))), archive(build))
    needed = [build for build in params["builds"] if not os.path.exists(archive(build))]
    # One that is going on has what it takes.
    if needed and not busy:
        room(params["jobs"])
    sources = [one for build in needed for one in (*build["sources"], *build["framework"])]
    for build in needed:
        variable = f"orthanc_source_tarballs.{build['name']}"
        for one in (*build["sources"], *build["framework"]):
            have(one, params["received"], variable)
        paths = [os.path.join(building.FOLDER, one["sha256"]) for one in build["sources"]]
        building.look_into(build, paths, params["release"])
    # What others were made of, or came out of them.
    wanted = {LOG, *(os.path.join(building.FOLDER, one["sha256"]) for one in sources), *map(archive, params["builds"])}
    for path in plain_files(building.FOLDER):
        if path not in wanted:
            remove(path)
    return {"changed": False, "needed": [build["name"] for build in needed]}


def active(module: AnsibleModule) -> str:
    """Return what is being built, or an empty string."""
    command = ["systemctl", "show", UNIT, "--property=ActiveState", "--property=Description"]
    shown = module.run_command(command, check_rc=True)[1]
    told = dict(line.partition("=")[::2] for line in shown.splitlines())
    if not told.get("ActiveState"):
        raise building.BuildError("systemd does not answer on this host; run again.")
    return told["Description"] if told["ActiveState"] in ("active", "activating", "deactivating") else ""


def start(module: AnsibleModule, build: dict[str, Any]) -> dict[str, Any]:
    """Start the unit, unless it runs already, for this build or another one."""
    name = building.stem(build, building.platform())
    running = active(module)
    if running or os.path.exists(archive(build)):
        return {"changed": False, "busy": running not in ("", name)}
    missing = [tool for tool in ("cmake", "c++", "make") if not module.get_bin_path(tool)]
    if missing:
        raise building.BuildError(f"there is no {' and no '.join(missing)} on this host; see its sources of packages.")
    jobs, options = processes(module.params["jobs"]), build["options"]
    asked = {options.get(name, "OFF").upper() for name in ("ALLOW_DOWNLOADS", "STATIC_BUILD")}
    downloads = bool(asked & {"ON", "YES", "TRUE", "Y", "1"})
    properties = {
        "DynamicUser": "yes",
        # Said so, it is on the disk; from systemd 257 on a dynamic user's would be in memory.
        "PrivateTmp": "yes",
        "CacheDirectory": UNIT,
        "ProtectHome": "yes",
        "PrivateDevices": "yes",
        "PrivateNetwork": "no" if downloads else "yes",
        # Images come first.
        "Nice": "19",
        "CPUWeight": "1",
        "IOSchedulingClass": "idle",
        "OOMScoreAdjust": "1000",
        "StandardOutput": f"truncate:{LOG}",
        "StandardError": "inherit",
    }
    module.run_command(
        [
            *("systemd-run", "--quiet", "--collect", f"--unit={UNIT}", f"--description={name}"),
            *(f"--property={key}={value}" for key, value in properties.items()),
            # A dollar sign is systemd's otherwise.
            *("/bin/sh", "-c", building.script(build, building.platform(), jobs).replace("$", "$$")),
        ],
        check_rc=True,
    )
    return {"changed": True, "busy": False}


def log() -> str:
    with open(LOG, encoding="utf-8", errors="replace") as file:
        return file.read()


def take(came: str, path: str) -> None:
    """Take what has come out of a build, if something has."""
    if os.path.lexists(came):
        # Somebody else's file, who could have put a link there.
        with open(os.open(came, os.O_RDONLY | os.O_NOFOLLOW), "rb") as given, open(f"{path}.new", "wb") as file:
            shutil.copyfileobj(given, file)
        os.chmod(f"{path}.new", 0o644)
        os.replace(f"{path}.new", path)
        remove(came)


def wait(module: AnsibleModule, build: dict[str, Any]) -> dict[str, Any]:
    """Wait for the unit for a while, and take what has come out of it."""
    end = time.monotonic() + WAIT
    while active(module):
        if time.monotonic() > end:
            return {"changed": False, "running": building.progress(log())}
        time.sleep(0.5)
    path = archive(build)
    with lock(module):
        take(os.path.join(CACHE, os.path.basename(path)), path)
    if not os.path.exists(path):
        raise building.BuildError(f"{build['name']} cannot be built; all of it is in {LOG}:\n{building.failure(log())}")
    return {"changed": True, "running": "", "archive": path, "sha256": lsb.digest(path)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "builds": {"type": "list", "elements": "dict", "required": True},
            "release": {"type": "str", "required": True},
            "platform": {"type": "str", "required": True},
            "packages": {"type": "list", "elements": "str", "default": []},
            "jobs": {"type": "int", "default": 0},
            "step": {"type": "str", "choices": ["prepare", "start", "wait"], "default": "prepare"},
            "received": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    builds, step = module.params["builds"], module.params["step"]
    try:
        if step == "wait":
            module.exit_json(**wait(module, builds[0]))
        with lock(module):
            module.exit_json(**(prepare(module) if step == "prepare" else start(module, builds[0])))
    except (building.BuildError, lsb.MirrorError) as error:
        module.fail_json(f"Nothing of Orthanc was changed: {error}")
    except OSError as error:
        module.fail_json(f"Nothing of Orthanc was changed: {error}.")


if __name__ == "__main__":
    main()

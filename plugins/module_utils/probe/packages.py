# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages of a host: which are installed, and which apt could fetch."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import stat
import tempfile
from collections.abc import Callable
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.files import remove
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import found, put_back

# By this file packages start and restart nothing. Ansible's apt puts it there, and takes it away, unless it is killed.
POLICY = "/usr/sbin/policy-rc.d"
# To a shell, which counts to 255, that is the 101 by which nothing is started; nobody else writes it so. The number is
# that of site_policy_rc_d.
OURS = "#!/bin/sh\nexit 13413\n"


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


def left() -> bool:
    """Tell whether packages are kept from starting anything by a run of ours, be it at work or cut off."""
    try:
        with open(POLICY, encoding="utf-8", errors="replace") as file:
            return file.read() == OURS
    except OSError:
        return False


def put_aside() -> list[str]:
    """Return the files of others that Ansible's apt has put aside, each in a folder of root's, the newest last."""
    paths = []
    for path in glob.glob(os.path.join(tempfile.gettempdir(), "ansible*", os.path.basename(POLICY))):
        folder = os.lstat(os.path.dirname(path))
        # Whoever else makes such a folder would have root run what is in it.
        if stat.S_ISDIR(folder.st_mode) and (folder.st_uid, stat.S_IMODE(folder.st_mode)) == (os.geteuid(), 0o700):
            paths.append(path)
    return sorted(paths, key=lambda path: os.lstat(path).st_ctime)


def go_back() -> None:
    """Have at its place what was there before the collection's own."""
    paths = put_aside()
    others = [file for file in found(paths).values() if file and file[0] != OURS]
    put_back({POLICY: others[-1] if others else None})
    for path in paths:
        remove(path)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))


def policy(run: Callable[..., str]) -> str:
    """Return who keeps packages from restarting what they upgrade: ``ours``, ``others``, or nothing."""
    if left():
        return "ours"
    there = os.path.exists(POLICY)
    said = run("sh", "-c", f"timeout 5 {POLICY} orthanc restart > /dev/null 2>&1; echo $?") if there else ""
    return "others" if said.strip() == "101" else ""


def look(run: Callable[..., str], offers: bool) -> dict[str, Any]:
    """Return what is installed, and what is on offer of Orthanc, unless it is installed and ``offers`` is not set."""
    # Versions and states of all packages in one call; the roles compare them with what they need.
    shown = run("dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Status}\\n")
    states = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    # One that is held by `apt-mark` is there as well.
    whole = (["install", "ok", "installed"], ["hold", "ok", "installed"])
    packages = {name: state[0] for name, state in states.items() if state[1:] in whole}
    orthanc = re.match(r"(?:\d+:)?(\d[\d.]*)", packages.get("orthanc", ""))
    offered = run("apt-cache", "madison", "orthanc") if offers or not orthanc else ""
    # Explicitly asked for as well, apt takes none that a pin puts below 0.
    pinned = run("apt-cache", "policy", "orthanc") if offers else ""
    table = re.findall(r"(?m)^ (?:\*{3}| {3}) (?:\d+:)?(\d[\d.]*)\S* (-?\d+)$", pinned)
    # Another source may have the same release.
    free = {release for release, priority in table if int(priority) >= 0}
    return {
        "packages": sorted(packages),
        "orthanc": orthanc[1] if orthanc else "",
        "nginx_version": packages.get("nginx", "").partition("-")[0].rpartition(":")[2],
        "offered": list(dict.fromkeys(re.findall(r"\| (?:\d+:)?(\d[\d.]*)", offered))),
        "withheld": [release for release, _priority in table if release not in free],
        "interrupted": interrupted(),
        "policy": policy(run),
        "apt_lists": bool(glob.glob("/var/lib/apt/lists/*_Packages*")),
        "apt_upstream": os.path.exists("/etc/apt/sources.list.d/orthanc.sources"),
    }

#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finish what apt had begun when a run was cut off."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_finish
short_description: Finish what apt had begun when a run was cut off
version_added: 0.2.0
description:
  - While the collection installs packages, C(/usr/sbin/policy-rc.d) keeps them from starting anything. A run whose apt
    was killed, or whose host went down, leaves it, and later upgrades would restart nothing.
  - Where that file is there and nobody is at work, configures the packages that wait for it, and installs those again
    that were half unpacked, which starts nothing; then takes the file away, or puts that of others back which was there
    before.
  - A file that is not the collection's own is left alone.
author: The dicom.orthanc authors (!UNKNOWN)
attributes:
  check_mode:
    description: Tells whether there is something to finish.
    support: full
"""

EXAMPLES = r"""
- name: Finish what apt had begun when a run was cut off
  dicom.orthanc.apt_finish:
"""

RETURN = r"""
said:
  description: What dpkg and apt said.
  type: str
  returned: when it was called
"""

import contextlib
import fcntl
import glob
import os
import pathlib
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.probe.packages import POLICY, go_back, left

# Who installs packages has it.
FRONTEND = "/var/lib/dpkg/lock-frontend"
# Another run may have written its file and not called apt yet: for so many seconds it is taken to be at work.
FRESH = 10
# How long one that is at work is waited for, in seconds, as by apt itself.
PATIENCE = 600
# As Ansible's apt has it: what somebody changed stays.
KEEP = ("--force-confdef", "--force-confold")
CONFIGURE = ["dpkg", *KEEP, "--configure", "--pending"]
STATES = ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${binary:Package}\\n"]
# Of a package that had been removed once, apt takes half of it for all of it.
REINSTALL = ["apt-get", *(f"--option=Dpkg::Options::={option}" for option in KEEP), "--option=Debug::NoLocking=1"]
REINSTALL += ["--yes", "--no-remove", "--reinstall", "install"]
# The caller has the lock.
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "DPKG_FRONTEND_LOCKED": "1", "LC_ALL": "C"}


def at_work() -> bool:
    """Tell whether apt runs, be it that it waits for its turn, or is about to."""
    for process in map(pathlib.Path, glob.glob("/proc/[0-9]*")):
        with contextlib.suppress(OSError):
            name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
            # In a container, it is for that one.
            if name in ("apt-get", "dpkg") and os.path.samefile(process / "root", "/"):
                return True
    try:
        return 0 <= time.time() - os.stat(POLICY).st_mtime < FRESH
    except FileNotFoundError:
        return True


def complete(module: AnsibleModule) -> str:
    """Have what was unpacked configured, and what was half unpacked installed again. Return what was said."""
    # Where root is reached by `su`, what dpkg calls is not in the path.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

    def run(*command: str, well: bool = True) -> str:
        rc, out, err = module.run_command(list(command), environ_update=ENVIRONMENT | {"PATH": path})
        if rc and well:
            module.warn(f"Not all that a run which was cut off has left could be finished: {err.strip()}")
        return str(out)

    # Half unpacked; or dpkg says itself that it has to be installed again, and cannot configure it.
    half = [line.split()[-1] for line in run(*STATES).splitlines() if line[1] == "H" or line[2] == "R"]
    said = run(*CONFIGURE, well=not half)
    return said + (run(*REINSTALL, *half) if half else "")


def finished(module: AnsibleModule) -> str | None:
    """Finish it and return what was said, or nothing while somebody is at work."""
    # On a new system no apt has made it yet.
    with open(FRONTEND, "a", encoding="ascii") as frontend:
        try:
            fcntl.lockf(frontend, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None
        if at_work() or not left():
            return None
        said = complete(module)
        go_back()
        return said


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    if module.check_mode:
        module.exit_json(changed=left())
    deadline = time.monotonic() + PATIENCE
    # One that is at work may take it away itself.
    while left() and time.monotonic() < deadline:
        said = finished(module)
        if said is not None:
            module.exit_json(changed=True, said=said)
        time.sleep(0.5)
    if left():
        module.warn(
            f"{POLICY} of a run that was cut off is still there, since apt-get or dpkg is at work: as long as it is,"
            " packages restart nothing that they upgrade. See what runs there, and run again."
        )
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()

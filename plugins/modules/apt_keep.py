#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the packages that Orthanc runs from, before others take their place."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_keep
short_description: Keep the packages that Orthanc runs from, before others take their place
version_added: 0.2.0
description:
  - Has a file of each package that is installed, for the way back of M(dicom.orthanc.orthanc_service); and of no other
    version, so that there is one set of them.
  - Takes it as apt has kept it in its archive, or as a source of packages still offers it, or else makes it of what is
    installed by C(dpkg-repack), which is installed for that where it is missing.
  - Where others have been installed since Orthanc worked last, and do not serve or were never started, those of before
    are what is kept, as long as they are to be had.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  packages:
    description: Their names. Those that are not installed do not count.
    type: list
    elements: str
    required: true
  config_dir:
    description: Folder of Orthanc's configuration, by which it is asked whether it works.
    type: path
    required: true
  unit:
    description: The unit that runs it.
    type: str
    default: orthanc.service
  state_dir:
    description: Folder, for root alone, that keeps what worked last, and the files of packages in C(packages).
    type: path
    default: /var/lib/pacs/orthanc
attributes:
  check_mode:
    description: Tells whether there is one to keep.
    support: full
"""

EXAMPLES = r"""
- name: Keep the packages that are installed
  dicom.orthanc.apt_keep:
    packages: [orthanc, orthanc-dicomweb]
    config_dir: /etc/pacs/orthanc
"""

RETURN = r"""
kept:
  description: Those that were not kept yet, each with its version.
  type: list
  elements: str
  returned: success
"""

import contextlib
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import read_folder
from ansible_collections.dicom.orthanc.plugins.module_utils.files import STARTED, Refused, lock, since_1970, told
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_client import Orthanc, Unready
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_packages import Packages
from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import Unit


def answers(config_dir: str) -> bool:
    """Tell whether Orthanc answers from its index."""
    try:
        Orthanc(read_folder(config_dir)).get("/changes?last", timeout=5)
    except (Unready, KeyError, TypeError):
        return False
    return True


def keep(module: AnsibleModule) -> list[str]:
    """Keep them, and return those that were not kept yet. :raises Refused: if there is none to be had."""
    params = module.params
    packages = Packages(module, params["state_dir"], params["packages"])
    state = State(os.path.join(params["state_dir"], "last.json"), lasting=True)
    last, there = state.read(), packages.installed()
    before = (last.get(packages.path) or [""])[0]
    started = since_1970(Unit(module, params["unit"]).show()[STARTED])
    proved = packages.unpacked() <= started and answers(params["config_dir"])
    if before and before != there and not proved:
        # Others have come, by a run that was cut off or by somebody else, and do not work, or were never started.
        if module.check_mode:
            return []
        with contextlib.suppress(Refused):
            packages.have(before)
            return []
        # A way back to what there is, is better than none.
    missing = packages.missing(there)
    if not module.check_mode:
        packages.keep(there)
        if last:
            packages.note()
            # Those that others have installed since are what goes back. When something worked last stays as it was.
            times = os.stat(state.path)
            state.keep(last | {packages.path: packages.entry()})
            os.utime(state.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return missing


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "required": True},
            "config_dir": {"type": "path", "required": True},
            "unit": {"type": "str", "default": "orthanc.service"},
            "state_dir": {"type": "path", "default": "/var/lib/pacs/orthanc"},
        },
        supports_check_mode=True,
    )
    with lock(module):
        try:
            missing = keep(module)
        except (OSError, Refused) as error:
            module.fail_json(
                f"Nothing was changed. The packages of this release cannot be kept for the way back: {told(error)}"
                ' Where you need no way back, set orthanc_dump_dir to "".'
            )
    module.exit_json(changed=bool(missing), kept=missing)


if __name__ == "__main__":
    main()

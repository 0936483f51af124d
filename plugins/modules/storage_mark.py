#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the mark of an archive on a file system that others provide."""

from __future__ import annotations

DOCUMENTATION = r"""
module: storage_mark
short_description: Have the mark of an archive on a file system that others provide
version_added: 0.2.0
description:
  - Looks whether the file system is mounted, whether the mark there is that of this site, and whether the user
    C(orthanc) may write there, by its numbers on this host. An empty one gets the mark.
  - A file system that does not answer within seconds is told, and not waited for.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  mount:
    description: Where it is mounted.
    type: path
    required: true
  folder:
    description: Folder there for the DICOM files. It is made where it is missing.
    type: path
    required: true
  name:
    description: The word by which the site knows its archive.
    type: str
    required: true
  expected:
    description: The whole mark that another host has seen, such as C(hospital 0b0e9d52-...). Empty where none has.
    type: str
    default: ""
attributes:
  check_mode:
    description: Tells whether the mark would be made.
    support: full
"""

EXAMPLES = r"""
- name: Have the mark
  dicom.orthanc.storage_mark:
    mount: /srv/dicom
    folder: /srv/dicom
    name: hospital
"""

RETURN = r"""
mark:
  description: What the mark says; empty where there will be one, in check mode.
  type: str
  returned: always
  sample: hospital 0b0e9d52-6f0c-4a4b-9a52-3d1c3a4f0b7e
source:
  description: What is mounted.
  type: str
  returned: always
  sample: nas.example.org:/dicom
"""

import pwd

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import storage_mount


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "mount": {"type": "path", "required": True},
            "folder": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "expected": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    mount, folder, name, expected = (module.params[key] for key in ("mount", "folder", "name", "expected"))
    try:
        found = pwd.getpwnam("orthanc")
        account = [found.pw_uid, found.pw_gid]
    except KeyError:
        # In check mode a new host has none yet.
        account = []
    changed = False
    try:
        seen = storage_mount.look(mount, folder, account)
        problems = list(storage_mount.wrong(seen, mount, folder, name, account))
        if not problems and expected and seen["mark"] != expected:
            problems.append(
                f"orthanc_storage_mount: {folder} of {seen['source']} has not the mark that other hosts have seen there"
                f" ({expected}), so that it is another file system. Have the same one mounted on all."
            )
        if not problems and not seen["mark"]:
            changed = True
            if not module.check_mode:
                storage_mount.begin(folder, name, account)
                seen = storage_mount.look(mount, folder, account)
    except storage_mount.Silent as error:
        problems = [f"orthanc_storage_mount: what is mounted at {mount} cannot be used: {error}."]
    if problems:
        module.fail_json(f"Nothing of Orthanc was changed on this host. {' '.join(problems)}")
    module.exit_json(changed=changed, mark=seen["mark"], source=seen["source"])


if __name__ == "__main__":
    main()

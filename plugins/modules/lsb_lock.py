#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write down the checksums of LSB binaries."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lsb_lock
short_description: Write the checksums of LSB binaries into an inventory
version_added: 0.1.0
description:
  - Orthanc's download site publishes no checksums. This downloads what a site needs, once, and writes the SHA-256 of
    each file as C(orthanc_lsb_checksums), which every later download is held against.
  - What stands there already stays as it is, and is not asked for again.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  url:
    description: Root of the download site or of a mirror of it.
    type: str
    required: true
  ca:
    description: The authority to verify the site by, as PEM text. Empty takes those of the operating system.
    type: str
    default: ""
  files:
    description: Paths C(component/version/file) below the root of the site.
    type: list
    elements: str
    required: true
  dest:
    description: The file to write, with C(orthanc_lsb_checksums) and nothing else in it.
    type: path
    required: true
attributes:
  check_mode:
    description: Tells which files have no checksum yet.
    support: full
"""

EXAMPLES = r"""
- name: Lock a release
  dicom.orthanc.lsb_lock:
    url: https://mirror.example.org/orthanc
    files: [orthanc/1.12.7/Orthanc]
    dest: inventories/hospital/group_vars/all/lsb-lock.yml
  delegate_to: localhost
"""

RETURN = r"""
added:
  description: The paths whose checksums were added.
  type: list
  elements: str
  returned: always
"""

import os
import re
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.lsb import MirrorError, fetch_all

HEAD = """\
---
# The LSB binaries that this site may run, by their SHA-256. `make lsb-lock` adds what is missing, and changes nothing.
orthanc_lsb_checksums:
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "ca": {"type": "str", "default": ""},
            "files": {"type": "list", "elements": "str", "required": True},
            "dest": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    dest = module.params["dest"]
    known: dict[str, str] = {}
    if os.path.exists(dest):
        with open(dest, encoding="utf-8") as file:
            known = dict(re.findall(r"(?m)^  ([^\s:]+): [\"']?([0-9a-f]{64})[\"']?$", file.read()))
    added = [path for path in module.params["files"] if path not in known]
    if added and not module.check_mode:
        with tempfile.TemporaryDirectory() as folder:
            try:
                targets = {path: os.path.join(folder, str(number)) for number, path in enumerate(added)}
                known |= fetch_all(module.params["url"], module.params["ca"], targets)
            except MirrorError as error:
                module.fail_json(f"Nothing was written: {error}")
        os.makedirs(os.path.dirname(dest), exist_ok=True)
        with open(f"{dest}.new", "w", encoding="utf-8") as file:
            file.write(HEAD + "".join(f'  {path}: "{known[path]}"\n' for path in sorted(known)))
        os.replace(f"{dest}.new", dest)
    module.exit_json(changed=bool(added), added=added)


if __name__ == "__main__":
    main()

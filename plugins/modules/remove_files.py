#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove what the toolkit has on a host, and nothing that others have beside it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: remove_files
short_description: Remove files of the toolkit, and folders that are empty then
version_added: 0.2.0
description:
  - Removes files by their names, and the plain files of folders with the toolkit's mark.
  - Everything else stays. No folder is removed that has something in it.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  files:
    description: Files and links.
    type: list
    elements: path
    default: []
  folders:
    description: >-
      Folders that go once nothing is in them. In one with the toolkit's mark, the file C(.pacs), all plain files go
      first.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    description: Tells what would be removed.
    support: full
  diff_mode:
    description: Names every file.
    support: full
"""

EXAMPLES = r"""
- name: Remove what nginx has for Orthanc
  dicom.orthanc.remove_files:
    files: [/etc/nginx/conf.d/orthanc.conf]
    folders: [/etc/pacs/nginx]
"""

RETURN = r"""
paths:
  description: What was removed.
  type: list
  elements: str
  returned: always
"""

import contextlib
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import MARK, lock, marked, plain_files, remove


def main() -> None:
    module = AnsibleModule(
        argument_spec={name: {"type": "list", "elements": "path", "default": []} for name in ("files", "folders")},
        supports_check_mode=True,
    )
    params = module.params
    with lock(module):
        paths = [path for path in params["files"] if os.path.lexists(path)]
        paths += [path for folder in params["folders"] if marked(folder) for path in plain_files(folder)]
        if not module.check_mode:
            for path in paths:
                remove(path)
            for folder in filter(os.path.isdir, params["folders"]):
                if os.listdir(folder) == [MARK]:
                    remove(os.path.join(folder, MARK))
                # What has something in it stays, and what is mounted.
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
                    paths.append(folder)
    diff = [{"before_header": path, "after_header": path, "before": "there\n", "after": ""} for path in paths]
    module.exit_json(changed=bool(paths), paths=paths, diff=diff)


if __name__ == "__main__":
    main()

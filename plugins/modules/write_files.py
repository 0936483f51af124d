#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the files of a role in one go."""

from __future__ import annotations

DOCUMENTATION = r"""
module: write_files
short_description: Write folders and files in one go, and take out what does not belong there
version_added: 0.1.0
description:
  - Does for a whole list of files what M(ansible.builtin.template), M(ansible.builtin.file) and M(ansible.builtin.find)
    do one by one. Each task costs about half a second per host, and a role has some ten files.
author: The dicom.orthanc authors (!UNKNOWN)
extends_documentation_fragment: dicom.orthanc.files
attributes:
  check_mode:
    description: Tells what would change. Validation is left out, as is an owner who is not there yet.
    support: full
"""

EXAMPLES = r"""
- name: Write the configuration
  dicom.orthanc.write_files:
    folders:
      - {path: /etc/pacs/orthanc, group: orthanc, mode: "0750", marked: true}
    files:
      - path: /etc/pacs/orthanc/orthanc.json
        template: etc/pacs/orthanc/orthanc.json.j2
        group: orthanc
        mode: "0640"
    purge: [/etc/pacs/orthanc]
"""

RETURN = r"""
paths:
  description: What was changed, made or removed.
  type: list
  elements: str
  returned: always
"""

from ansible_collections.dicom.orthanc.plugins.module_utils.files import ARGUMENTS, QuietModule, write


def main() -> None:
    module = QuietModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    writer = write(module)
    module.exit_json(changed=bool(writer.paths), paths=writer.paths, diff=writer.diffs)


if __name__ == "__main__":
    main()

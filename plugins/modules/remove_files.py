#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove what the toolkit has on a host, and nothing that others have beside it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: remove_files
short_description: Remove files of the toolkit, and folders that are empty then
version_added: 0.1.0
description:
  - Removes files by their names, the plain files of folders with the toolkit's mark, and, where that is asked for, what
    Orthanc itself keeps in the folders of its archive.
  - Everything else stays, and is named. No folder is removed that has something in it.
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
  archives:
    description: >-
      Folders with DICOM files or the index of SQLite, of which Orthanc has given every name. What has another name
      stays.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    description: Tells what would be removed.
    support: full
  diff_mode:
    description: Names every file, of an archive only how many.
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
  description: What was removed, without the files of archives.
  type: list
  elements: str
  returned: always
images:
  description: How many files of archives were removed.
  type: int
  returned: always
left:
  description: What stays in the folders and archives, each by its first three names.
  type: dict
  returned: always
"""

import contextlib
import os
import re
from collections.abc import Iterator

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import MARK, lock, marked, plain_files, remove

# Below the folder of the archive: a DICOM file or another attachment, the index, and our reserve beside it.
OF_ORTHANC = re.compile(
    r"([0-9a-f]{2})/([0-9a-f]{2})/\1\2[0-9a-f]{4}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\./(index(-wal|-shm|-journal)?|\.pacs-reserve)"
)
OF_FOLDERS = re.compile(r"[0-9a-f]{2}(/[0-9a-f]{2})?")


def of_archive(archive: str) -> Iterator[tuple[str, int]]:
    """Return the names of Orthanc's files in an archive, each with the folder that it is in, which stays open."""
    for folder, _names, files, opened in os.fwalk(archive, topdown=False):
        below = os.path.relpath(folder, archive)
        yield from ((name, opened) for name in files if OF_ORTHANC.fullmatch(f"{below}/{name}"))


def empty(archive: str) -> int:
    """Remove Orthanc's files and the folders that it made for them. Return how many files it were."""
    count = 0
    for name, opened in of_archive(archive):
        # By the open folder: Orthanc's user could put a link in the place of a name.
        os.unlink(name, dir_fd=opened)
        count += 1
    for folder, names, _files, opened in os.fwalk(archive, topdown=False):
        for name in names:
            if OF_FOLDERS.fullmatch(os.path.relpath(os.path.join(folder, name), archive)):
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=opened)
    return count


def rest(folder: str) -> list[str]:
    """Return the names of what is in a folder beside the toolkit's mark, three at most and how many more."""
    names = sorted(name for name in os.listdir(folder) if name != MARK)
    return names[:3] + ([f"and {len(names) - 3} more"] if names[3:] else [])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            name: {"type": "list", "elements": "path", "default": []} for name in ("files", "folders", "archives")
        },
        supports_check_mode=True,
    )
    params = module.params
    folders = [folder for folder in params["folders"] + params["archives"] if os.path.isdir(folder)]
    with contextlib.nullcontext() if module.check_mode else lock(module):
        paths = [path for path in params["files"] if os.path.lexists(path)]
        paths += [path for folder in params["folders"] if marked(folder) for path in plain_files(folder)]
        images, left = 0, {}
        for archive in filter(os.path.isdir, params["archives"]):
            images += sum(1 for _file in of_archive(archive)) if module.check_mode else empty(archive)
        if not module.check_mode:
            for path in paths:
                remove(path)
            for folder in folders:
                mark = os.path.join(folder, MARK)
                names = rest(folder)
                if names:
                    left[folder] = names
                    continue
                if os.path.lexists(mark):
                    remove(mark)
                # The disk of an archive stays where it is mounted.
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
                    paths.append(folder)
    diff = [{"before_header": path, "after_header": path, "before": "there\n", "after": ""} for path in paths]
    if images:
        diff.append({"before_header": "archive", "after_header": "archive", "before": f"{images} files\n", "after": ""})
    module.exit_json(changed=bool(paths or images), paths=paths, images=images, left=left, diff=diff)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove the images and the index of an Orthanc that is gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: archive_remove
short_description: Remove the images and the index of an Orthanc that is gone
version_added: 0.2.0
description:
  - Removes what Orthanc itself has named in its folders, which are the files of images, C(ab/cd/abcd…), and the index
    of SQLite, and the dumps of the index. No other file is touched, and a folder goes only if it is empty then.
  - Fails while an Orthanc runs on the host.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  storage_dir:
    description: Folder of the images.
    type: path
    required: true
  index_dir:
    description: Folder of the index of SQLite.
    type: path
    required: true
  dump_dir:
    description: Folder of dumps of the index, or empty.
    type: path
    default: ""
attributes:
  check_mode:
    description: Counts what would be removed.
    support: full
"""

EXAMPLES = r"""
- name: Remove the images
  dicom.orthanc.archive_remove:
    storage_dir: /var/lib/orthanc/db-v6
    index_dir: /var/lib/orthanc/db-v6
"""

RETURN = r"""
files:
  description: How many files of images were removed.
  type: int
  returned: success
index:
  description: Which files of the index were removed.
  type: list
  elements: str
  returned: success
"""

import contextlib
import glob
import os
import pathlib
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import lock, remove
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_upgrade import NAME as NAMED
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_upgrade import remove_dump

INDEX = ("index", "index-wal", "index-shm", "index-journal", ".pacs-reserve")
LEVEL = re.compile(r"[0-9a-f]{2}")
NAME = re.compile(r"([0-9a-f]{2})([0-9a-f]{2})[0-9a-f]{4}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def running() -> bool:
    """Tell whether an Orthanc runs here, be it in a container."""
    for path in glob.glob("/proc/[0-9]*/comm"):
        with contextlib.suppress(OSError):
            name = pathlib.Path(path).read_text(encoding="utf-8", errors="replace").strip()
            if name == "Orthanc":
                return True
    return False


def images(storage: str, dry: bool) -> int:
    """Remove the files of images, and the folders that are empty then. Return how many files there were."""
    count = 0
    # By open folders: who owns them could have put links there.
    for folder, _folders, names, opened in os.fwalk(storage, topdown=False, follow_symlinks=False):
        levels = os.path.relpath(folder, storage).split(os.sep)
        if not all(map(LEVEL.fullmatch, levels)) or len(levels) > 2:
            continue
        found = [name for name in names if (match := NAME.fullmatch(name)) and list(match.groups()[:2]) == levels]
        count += len(found)
        if dry:
            continue
        for name in found:
            os.unlink(name, dir_fd=opened)
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return count


def main() -> None:
    module = AnsibleModule(
        argument_spec={name: {"type": "path", "required": True} for name in ("storage_dir", "index_dir")}
        | {"dump_dir": {"type": "path", "default": ""}},
        supports_check_mode=True,
    )
    params = module.params
    with lock(module):
        # In check mode the service is not gone yet.
        if not module.check_mode and running():
            module.fail_json("An Orthanc runs on this host, and no image was removed; stop it, and run again.")
        # Without its index nobody takes what is left of the files for an archive, if this is cut off.
        index = [path for name in INDEX for path in [os.path.join(params["index_dir"], name)] if os.path.isfile(path)]
        dumps = [path for path in glob.glob(f"{params['dump_dir']}/*") if NAMED.fullmatch(os.path.basename(path))]
        if not module.check_mode:
            for path in index:
                remove(path)
            for folder in dumps:
                remove_dump(folder)
        try:
            count = images(params["storage_dir"], module.check_mode)
        except OSError as error:
            module.fail_json(f"{error.filename}: {error.strerror}. The rest of the images stays; run again.")
    module.exit_json(changed=bool(count or index or dumps), files=count, index=index)


if __name__ == "__main__":
    main()

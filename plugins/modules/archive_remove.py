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
  - Fails while an Orthanc runs on the host, and where a folder does not bear the toolkit's mark, C(.pacs).
author: The dicom.orthanc authors (!UNKNOWN)
options:
  storage_dir:
    description: Folder of the images.
    type: path
    required: true
  index_dir:
    description: Folder of the index of SQLite, or empty.
    type: path
    default: ""
  dump_dir:
    description: Folder of dumps of the index, or empty.
    type: path
    default: ""
  may_run:
    description: Whether an Orthanc may run, since nothing is going to be removed.
    type: bool
    default: false
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
from ansible_collections.dicom.orthanc.plugins.module_utils.files import MARK, lock, marked, remove
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_upgrade import NAME as NAMED
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_upgrade import remove_dump

# With the name by which backups know an archive: what comes next is another one.
INDEX = ("index", "index-wal", "index-shm", "index-journal", ".pacs-reserve", ".pacs-archive")
# Of pacs_routes.py, wherever the index is.
ROUTES = (".pacs-routes", ".pacs-routes-journal")
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
    """Remove the files of images, and the folders that are empty then. Return how many files there were.

    :raises OSError: where a folder cannot be read, or a file not be removed.
    """
    count = 0

    def unread(error: OSError) -> None:
        raise error

    # The folder itself may be reached by a link, as the role lets it be. Below it, who owns the folders could have put
    # links there, so that they are opened first.
    storage = os.path.realpath(storage)
    walk = os.fwalk(storage, topdown=False, onerror=unread) if os.path.exists(storage) else ()
    for folder, _folders, names, opened in walk:
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
        argument_spec={
            "storage_dir": {"type": "path", "required": True},
            "index_dir": {"type": "path", "default": ""},
            "dump_dir": {"type": "path", "default": ""},
            "may_run": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    index_dir = params["index_dir"]
    with lock(module):
        if not params["may_run"] and running():
            module.fail_json(
                "An Orthanc runs on this host, and nothing of the archive was removed; stop it, and run again."
            )
        for folder in filter(None, {params["storage_dir"], index_dir}):
            if os.path.isdir(folder) and os.listdir(folder) and not marked(folder):
                module.fail_json(
                    f"{folder} has not the mark {MARK} of this toolkit: nothing of the archive was removed."
                )
        named = [(index_dir, name) for name in (*INDEX, *ROUTES) if index_dir]
        named += [(params["storage_dir"], name) for name in ROUTES if params["storage_dir"] != index_dir]
        index = [path for folder, name in named for path in [os.path.join(folder, name)] if os.path.isfile(path)]
        there = glob.glob(f"{params['dump_dir']}/*") if params["dump_dir"] else []
        dumps = [path for path in there if NAMED.fullmatch(os.path.basename(path))]
        try:
            count = images(params["storage_dir"], dry=True)
            if not module.check_mode:
                # Without its index nobody takes what is left of the files for an archive, if this is cut off.
                for path in index:
                    remove(path)
                for folder in dumps:
                    remove_dump(folder)
                count = images(params["storage_dir"], dry=False)
        except OSError as error:
            module.fail_json(f"{error.filename}: {error.strerror}. What is left of the images stays; run again.")
    module.exit_json(changed=bool(count or index or dumps), files=count, index=index)


if __name__ == "__main__":
    main()

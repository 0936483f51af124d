# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files as they were, in memory and on disk, for the way back."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.files import (
    make_folders,
    put,
    put_link,
    remove,
    sync_folder,
)

# By path: content, owner, group and mode of a file; what a link leads to; nothing where there is neither.
Files = dict[str, list[Any] | None]


def found(paths: Iterable[str]) -> Files:
    """Return files and links as they are. A folder is neither."""
    files: Files = {}
    for path in paths:
        if os.path.islink(path):
            files[path] = [os.readlink(path)]
        elif os.path.isfile(path):
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                state = os.fstat(file.fileno())
                files[path] = [file.read(), state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)]
        elif not os.path.exists(path):
            files[path] = None
    return files


def put_back(files: Files) -> list[str]:
    """Have files and links as they were, the last one first: what names another is never there without it.

    Return the paths of those that were otherwise.
    """
    now = found(files)
    changed = [path for path in now if now[path] != files[path]]
    for path in reversed(changed):
        file = files[path]
        if file is None:
            remove(path)
            continue
        make_folders(os.path.dirname(path))
        if len(file) == 1:
            put_link(path, file[0])
        else:
            put(path, file[0], (file[1], file[2]), file[3])
    return changed


class State:
    """Files that are kept on disk, for root alone: those of before a call, or those that worked last (``lasting``)."""

    def __init__(self, path: str, lasting: bool = False) -> None:
        self.path, self.lasting = path, lasting

    @property
    def kept(self) -> bool:
        return os.path.exists(self.path)

    def read(self) -> Files:
        """Return the files; none where there are none, or where a loss of power cut them short."""
        try:
            with open(self.path, encoding="utf-8") as file:
                files = json.load(file)
        except (OSError, ValueError):
            return {}
        return files if isinstance(files, dict) else {}

    def keep(self, files: Files) -> None:
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        put(self.path, json.dumps(files), (os.geteuid(), os.getegid()), 0o600)

    def forget(self) -> None:
        """Have nothing kept any more of what was before, now that the call is at its end."""
        if self.kept and not self.lasting:
            remove(self.path)
            sync_folder(os.path.dirname(self.path))

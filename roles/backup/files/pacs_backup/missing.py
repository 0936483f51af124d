# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that the index of the archive knows, and that are gone or damaged, out of the backups that have them."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import pathlib
import pwd
import time
from typing import Any

from .backup import Backup
from .beside import Beside
from .common import NAME, STATE, Failed, open_folder, owned, read, sync_folder, way
from .index import copy_file
from .orthanc import Orthanc
from .repository import epoch, tagged

# What playbooks/reconcile.yml has found, and for how many seconds that holds.
FOUND, HOLDS = pathlib.Path("/var/lib/pacs/orthanc/reconcile.json"), 86400
KINDS = ("missing", "cut off", "damaged")


class Missing(Beside):
    """Files that are taken from backups, each into its place, while Orthanc works: a file never changes."""

    NAME = ".pacs-restore-files"

    def __init__(self, backup: Backup) -> None:
        super().__init__(backup)
        self.orthanc = Orthanc(backup.settings)

    def run(self, count: int) -> dict[str, Any]:
        """Have them again. Return how many, and which no backup has.

        :param count: how many there are, as it was told.
        """
        if (STATE / "moves.json").exists():
            raise Failed("A restore was cut off in the middle; run playbooks/restore.yml again, which goes on.")
        report = read(FOUND)
        if not report or epoch(report["time"]) < time.time() - HOLDS:
            raise Failed(
                "Nobody has held files and index against one another today; run playbooks/reconcile.yml first."
            )
        left = {file["uuid"]: file for kind in KINDS for file in report[kind] if NAME.fullmatch(file["uuid"])}
        if len(left) != count:
            raise Failed(
                f"playbooks/reconcile.yml has found {len(left)} such files, and not {count}; nothing was done."
            )
        self.backup.same(self.repository.number())
        self.anew()
        self.room({}, sum(file["size"] for file in left.values()), "Nothing was brought; make room.")
        name = self.backup.name()
        snapshots = [one for one in self.repository.snapshots()[::-1] if tagged(one, "archive") == name]
        gone = [one for one, file in left.items() if not self.orthanc.knows(file["owner"])]
        wanted = {one: (file["size"], file["md5"]) for one, file in left.items() if one not in gone}
        found = self.gathered(snapshots, wanted)
        for one, path in found.items():
            self.put_back(one, path)
        lacked = sorted(f"{one} of {left[one]['owner']}" for one in wanted if one not in found)
        return {"brought": len(found), "deleted since": len(gone), "left": lacked}

    def put_back(self, name: str, path: pathlib.Path) -> None:
        """Have a file in its place; what is there is kept aside. Orthanc's user may rename above it at any moment."""
        owner, folder = pwd.getpwnam("orthanc"), open_folder(self.backup.storage)
        for level in (name[:2], name[2:4]):
            if level not in os.listdir(folder):
                os.mkdir(level, 0o755, dir_fd=folder)
                os.chown(level, owner.pw_uid, owner.pw_gid, dir_fd=folder, follow_symlinks=False)
            above, folder = folder, os.open(level, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(above)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        # First in the same folder, whatever that takes.
        new = f".pacs-{name}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=folder)
        try:
            os.link(path, new, dst_dir_fd=folder, follow_symlinks=False)
        except OSError:
            # A file system without links, or one of its own.
            copy_file(str(path), way(folder) / new, "--archive")
        if name in os.listdir(folder):
            os.link(name, name, src_dir_fd=folder, dst_dir_fd=self.aside, follow_symlinks=False)
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
        sync_folder(way(folder))
        os.close(folder)

    @functools.cached_property
    def aside(self) -> int:
        """Where what is damaged is kept."""
        return owned(pathlib.Path(self.backup.storage, f".pacs-before-{datetime.datetime.now():%Y-%m-%dT%H%M%S%f}"))[0]


def found_again(missing: Missing, count: int) -> dict[str, Any]:
    """Have files again, and leave nothing else behind."""
    try:
        return missing.run(count)
    finally:
        missing.away()

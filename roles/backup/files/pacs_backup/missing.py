# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that the index of the archive knows, and that are gone or damaged, out of the backups that have them."""

from __future__ import annotations

import datetime
import functools
import json
import os
import pathlib
import pwd
import time
from typing import Any

from .beside import Beside, settle
from .common import NAME, STATE, Failed, open_folder, owned, place, read, sync_folder, way
from .index import md5
from .repository import epoch, tagged

# What playbooks/reconcile.yml has found, and for how many seconds that holds.
FOUND, HOLDS = pathlib.Path("/var/lib/pacs/orthanc/reconcile.json"), 86400
KINDS = ("missing", "cut off", "damaged")


class Missing(Beside):
    """Files that are taken from backups, each into its place, while Orthanc works: a file never changes."""

    NAME = ".pacs-restore-files"

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
        name = self.backup.name()
        for snapshot in [one for one in self.repository.snapshots()[::-1] if tagged(one, "archive") == name]:
            if not left:
                break
            told = json.loads(
                self.repository.ask("dump", str(snapshot["id"]), f"{tagged(snapshot, 'index')}/backup.json")
            )
            needed = sum(file["size"] for file in left.values())
            self.room({}, needed, "Nothing was brought; make room.")
            self.fetch(tagged(snapshot, "files"), [str(place(told["storage_dir"], one)) for one in left])
            self.fetch(str(snapshot["id"]), [f"{told['held']}/{one}" for one in left])
            settle(self.tree, told)
            for one in list(left):
                path, file = place(self.inside(told["storage_dir"]), one), left[one]
                if path.is_file() and path.stat().st_size == file["size"] and file["md5"] in ("", md5(path)):
                    self.put_back(one, path)
                    del left[one]
        return {"brought": count - len(left), "left": sorted(f"{one} of {left[one]['owner']}" for one in left)}

    def put_back(self, name: str, path: pathlib.Path) -> None:
        """Have a file in its place; what is there is kept aside. Orthanc's user may rename above it at any moment."""
        owner, folder = pwd.getpwnam("orthanc"), open_folder(self.backup.storage)
        for level in (name[:2], name[2:4]):
            if level not in os.listdir(folder):
                os.mkdir(level, 0o755, dir_fd=folder)
                os.chown(level, owner.pw_uid, owner.pw_gid, dir_fd=folder, follow_symlinks=False)
            above, folder = folder, os.open(level, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(above)
        if name in os.listdir(folder):
            os.rename(name, name, src_dir_fd=folder, dst_dir_fd=self.aside)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        os.link(path, name, dst_dir_fd=folder, follow_symlinks=False)
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

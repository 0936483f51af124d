# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Single patients and studies of a backup, into the archive that works: what is there stays as it is."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import re
import zlib
from typing import Any

from .backup import Backup
from .beside import Beside
from .common import MIB, NAME, STATE, Failed, now, put
from .index import opened
from .orthanc import Orthanc
from .repository import tagged

# What is asked for, by its tag in the index.
TAGS = {"patient": (0x0010, 0x0020), "study": (0x0020, 0x000D)}
# All that is below a patient or a study.
BELOW = """WITH RECURSIVE below(id) AS (
    SELECT id FROM MainDicomTags WHERE tagGroup = ? AND tagElement = ? AND value = ?
    UNION SELECT internalId FROM Resources JOIN below ON parentId = below.id)
SELECT publicId, uuid, compressedSize, coalesce(compressedMD5, ''), coalesce(uncompressedMD5, '') FROM below
    JOIN Resources ON internalId = below.id JOIN AttachedFiles ON AttachedFiles.id = below.id
WHERE resourceType = 4 AND fileType = 1 ORDER BY publicId"""
OWNER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
# How many names of images are told.
TOLD = 20


class Images(Beside):
    """Images of some patients and studies, out of the newest backups that have them."""

    NAME = ".pacs-restore-images"

    def __init__(self, backup: Backup) -> None:
        super().__init__(backup)
        self.orthanc = Orthanc(backup.settings)

    def run(self, asked: dict[str, list[str]], wanted: str) -> dict[str, Any]:
        """Bring them. Return what came of each patient and study.

        :param asked: PatientIDs by `patient`, StudyInstanceUIDs by `study`.
        :param wanted: the number of a backup, or `latest` for the newest one that has them, each for itself.
        """
        if (STATE / "moves.json").exists():
            raise Failed("A restore was cut off in the middle; run playbooks/restore.yml again, which goes on.")
        self.backup.same(self.repository.number())
        left = [(kind, value) for kind, values in asked.items() for value in values]
        found: list[dict[str, Any]] = []
        snapshots = self.snapshots(wanted)
        for snapshot in snapshots:
            if not left:
                break
            here = self.known(snapshot, left)
            for kind, value in [one for one in left if here[one]]:
                others = [one for one in snapshots if one is not snapshot]
                came = self.brought([snapshot, *others], here[kind, value])
                found.append({kind: value, "snapshot": str(snapshot["id"]), **came})
                self.note(found)
            left = [one for one in left if not here[one]]
        found += [{kind: value, "wrong": "no backup has it"} for kind, value in left]
        self.note(found)
        return {"found": found, "wrong": any(one.get("wrong") for one in found)}

    def note(self, found: list[dict[str, Any]]) -> None:
        """Have it known what was brought, also should it end in the middle."""
        put(STATE / "brought.json", {"host": self.backup.settings["host"], "time": now(), "found": found}, 0o600)

    def snapshots(self, wanted: str) -> list[dict[str, Any]]:
        """Return the backups in which is looked, the newest first."""
        snapshots = self.repository.snapshots()[::-1]
        if wanted != "latest":
            snapshots = [one for one in snapshots if str(one["id"]).startswith(wanted)]
        if not snapshots:
            raise Failed(f"{self.repository.url} has no backup '{wanted}' of {self.backup.settings['host']}.")
        return snapshots

    def known(self, snapshot: dict[str, Any], asked: list[tuple[str, str]]) -> dict[tuple[str, str], list[Any]]:
        """Return of each patient and study the images of which the index of a backup knows."""
        self.anew()
        stage = tagged(snapshot, "index")
        told = json.loads(self.repository.ask("dump", str(snapshot["id"]), f"{stage}/backup.json"))
        self.room(told, 0, "Nothing was brought; make room.")
        index = f"{stage}/index"
        self.fetch(str(snapshot["id"]), [index])
        if not self.inside(index).exists():
            raise Failed(
                f"The index of the backup {str(snapshot['id'])[:8]} cannot be read; name another one (snapshot)."
            )
        os.chmod(self.inside(index), 0o600)
        with opened(self.inside(index), "rw") as connection:
            # A backup of a release that did not list this.
            columns = {row[1] for row in connection.execute("PRAGMA table_info(Resources)")}
            if "parentId" not in columns:
                raise Failed(
                    f"The backup {str(snapshot['id'])[:8]} does not list patients and studies; name a newer one."
                )
            found = {(kind, value): connection.execute(BELOW, (*TAGS[kind], value)).fetchall() for kind, value in asked}
        return {one: [row for row in rows if OWNER.fullmatch(row[0])] for one, rows in found.items()}

    def brought(self, snapshots: list[dict[str, Any]], rows: list[Any]) -> dict[str, Any]:
        """Bring images that the archive does not have. Return how many were brought, and what became of the others."""
        there = {owner: digest for owner, *_, digest in rows if self.orthanc.has(owner)}
        lacked = [row for row in rows if row[0] not in there]
        if any(not NAME.fullmatch(row[1]) for row in lacked):
            raise Failed(
                f"The backup {str(snapshots[0]['id'])[:8]} has its images in the database; restore it as a whole."
            )
        self.room({}, sum(row[2] for row in lacked), "Nothing was brought; make room.")
        files = self.gathered(snapshots, {row[1]: (row[2], row[3]) for row in lacked})
        results: dict[str, list[str]] = {"missing": [], "refused": [], "changed": []}
        brought = 0
        for owner, name, _, _, digest in lacked:
            image = plain(files[name], digest) if name in files else None
            if image is None:
                results["missing"].append(owner)
            elif problem := self.orthanc.store(image):
                results["refused"].append(f"{owner}: {problem}")
            else:
                brought += 1
                if self.orthanc.digest(owner) != digest:
                    results["changed"].append(owner)
        other = [owner for owner, digest in there.items() if self.orthanc.digest(owner) != digest]
        wrong = "; ".join(f"{len(found)} {kind}" for kind, found in results.items() if found and kind != "changed")
        counts: dict[str, Any] = {"images": len(rows), "brought": brought, "there": len(there), "other": other[:TOLD]}
        return counts | {kind: found[:TOLD] for kind, found in results.items()} | {"wrong": wrong}


def brought(images: Images, asked: dict[str, list[str]], wanted: str) -> dict[str, Any]:
    """Bring images, and leave nothing behind."""
    try:
        return images.run(asked, wanted)
    finally:
        images.away()


def plain(path: pathlib.Path, digest: str) -> Any:
    """Return an image as it was sent, opened; nothing if its file is not there, or not as it was.

    Orthanc may have it compressed: then its length comes first, in eight bytes.
    """
    try:
        # Who sends it closes it.
        file = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")  # noqa: SIM115
    except FileNotFoundError:
        return None
    if not digest or summed(file) == digest:
        file.seek(0)
        return file
    file.seek(8)
    try:
        content = zlib.decompress(file.read())
    except zlib.error:
        return None
    finally:
        file.close()
    return io.BytesIO(content) if hashlib.md5(content, usedforsecurity=False).hexdigest() == digest else None


def summed(file: Any) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    while block := file.read(MIB):
        digest.update(block)
    return digest.hexdigest()

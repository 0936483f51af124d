#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hold the files of an archive in use against its index, and mend what does not agree."""

from __future__ import annotations

DOCUMENTATION = r"""
module: archive_reconcile
short_description: Hold the files of an archive in use against its index, and mend what does not agree
version_added: 0.2.0
description:
  - Finds files that the index knows and that are missing, cut off or damaged, and files that the index does not know
    (orphans). Orthanc serves images meanwhile.
  - Changes nothing unless O(mend) says what, and O(count) how many there are of it. What is younger than an hour is
    left alone.
  - Reads with the lowest priority for CPU and disk.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  config_dir:
    description: Folder of Orthanc's configuration.
    type: path
    required: true
  storage_dir:
    description: Folder of the images.
    type: path
    required: true
  engine:
    description: Where the index is.
    type: str
    choices: [sqlite, postgresql, mysql]
    default: sqlite
  percent:
    description:
      - Of how much of the archive each file is read, and its MD5 compared, in percent. It goes on where the last call
        has ended. The presence and the size of all others are looked at.
    type: int
    default: 100
  report:
    description: File for the report, as JSON, for root alone.
    type: path
    required: true
  mend:
    description:
      - V(import) gives Orthanc the images that the index does not know, and removes the file of each that Orthanc then
        hands out bit for bit.
      - V(remove) removes orphans that Orthanc hands out bit for bit, the beginnings of such images, and what is no
        DICOM.
      - V(discard) removes the images that V(import) would import, and those that do not end as DICOM has to.
    type: str
    choices: ["", import, remove, discard]
    default: ""
  count:
    description: How many files there are to mend, as the last call has told. Nothing is changed if there are others.
    type: int
    default: 0
attributes:
  check_mode:
    description: Tells what does not agree, and mends nothing.
    support: full
"""

EXAMPLES = r"""
- name: Hold the archive against its index
  dicom.orthanc.archive_reconcile:
    config_dir: /etc/pacs/orthanc
    storage_dir: /var/lib/orthanc/db-v6
    report: /var/lib/pacs/orthanc/reconcile.json

- name: Give Orthanc three images that a loss of power has taken out of the index
  dicom.orthanc.archive_reconcile:
    config_dir: /etc/pacs/orthanc
    storage_dir: /var/lib/orthanc/db-v6
    report: /var/lib/pacs/orthanc/reconcile.json
    mend: import
    count: 3
"""

RETURN = r"""
found:
  description: >-
    How many files the index knows (C(files)), how many of them were read (C(read)), and how many are C(missing),
    C(cut off) or C(damaged); how many orphans are images that the index lacks (C(unknown images)), that it has
    (C(known images)) or has with other content (C(other versions)), how many are compressed and not looked into
    (C(compressed)), do not end as DICOM has to (C(broken images)), or are no DICOM or the beginning of what Orthanc has
    (C(remnants)).
  type: dict
  returned: success
  sample: {files: 5120, read: 5120, missing: 0, unknown images: 3}
mended:
  description: How many files were mended.
  type: int
  returned: success
not_taken:
  description: >-
    The orphans that Orthanc did not take, or does not hand out as they are, which stay; each with the reason.
  type: dict
  returned: success
studies:
  description: >-
    The StudyInstanceUIDs of the files that the index knows and that are not as they were, the first thousand.
  type: list
  elements: str
  returned: success
"""

import contextlib
import hashlib
import json
import mmap
import os
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.archive_files import (
    LEVELS,
    Found,
    Unreachable,
    Unread,
    hold,
    open_file,
    place,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import read_folder
from ansible_collections.dicom.orthanc.plugins.module_utils.files import Refused, open_folder, put
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_client import Declined, Orthanc, Unready
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import header

# What is younger may be on its way into the index, or just have been restored.
HOUR = 3600
NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
UNKNOWN = "unknown images"
KNOWN = "known images"
OTHER = "other versions"
COMPRESSED = "compressed"
BROKEN = "broken images"
REMNANT = "remnants"
MENDS = {"import": [UNKNOWN], "discard": [UNKNOWN, BROKEN], "remove": [KNOWN, REMNANT]}
# Of Orthanc's own compression: how long it was, and then how zlib begins.
ZLIB = re.compile(rb"[\s\S]{8}\x78[\x01\x5e\x9c\xda]")
# Of so many instances the study is asked for.
ASKED = 1000


class Archive:
    """The archive of this host."""

    def __init__(self, params: dict[str, Any]) -> None:
        options = read_folder(params["config_dir"])
        self._orthanc = Orthanc(options)
        self._storage = params["storage_dir"]
        self.not_taken: dict[str, str] = {}
        self.mended = 0
        before: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError), open(params["report"], encoding="utf-8") as file:
            before = json.load(file)
        first, count = before.get("next folder", 0), -(-len(LEVELS) * params["percent"] // 100)
        read = frozenset((LEVELS * 2)[first : first + count])
        self.next = (first + count) % len(LEVELS)
        self.found: Found = hold(options, self._storage, params["engine"], young=HOUR, read=read)
        self.orphans: dict[str, list[str]] = {kind: [] for kind in (UNKNOWN, KNOWN, OTHER, COMPRESSED, BROKEN, REMNANT)}
        for uuid in sorted(filter(NAME.fullmatch, self.found.orphans)):
            with contextlib.suppress(FileNotFoundError):
                self.orphans[self._kind(uuid)].append(uuid)

    def _content(self, uuid: str) -> bytes | mmap.mmap:
        """Return what is in a file, of which no more is read than is looked at."""
        opened = open_file(place(self._storage, uuid))
        try:
            return mmap.mmap(opened, 0, access=mmap.ACCESS_READ) if os.fstat(opened).st_size else b""
        finally:
            os.close(opened)

    def _kind(self, uuid: str) -> str:
        """Tell what an orphan is. :raises Unready: if Orthanc does not tell what it has."""
        try:
            data: Any = self._content(uuid)
        except FileNotFoundError:
            raise
        except OSError:
            return REMNANT
        if ZLIB.match(data[:10]):
            return COMPRESSED
        if not header.is_dicom(data[:256]):
            return REMNANT
        whole, instance = header.whole(data), ""
        with contextlib.suppress(header.Broken):
            read = header.read(data)
            # By other letters than plain ones Orthanc may know it otherwise: it tells when it gets it.
            instance = read.orthanc_id(3) if read.complete else ""
        handed_out = self._orthanc.md5(instance, len(data)) if instance else ("", "")
        if _md5(data) in handed_out:
            return KNOWN if handed_out[1] == _md5(data) else REMNANT
        if not whole:
            return BROKEN
        return OTHER if handed_out[1] else UNKNOWN

    def studies(self) -> list[str]:
        """Return the studies of what is not as it was, as far as the index tells."""
        found = set()
        for owner in sorted({file.owner for file in self.found.lost.values()})[:ASKED]:
            with contextlib.suppress(Declined):
                found.add(self._orthanc.get(f"/instances/{owner}/study")["MainDicomTags"]["StudyInstanceUID"])
        return sorted(found)

    def mend(self, how: str) -> None:
        """Mend what there is of a kind. :raises Unready: if Orthanc does not answer."""
        for uuid in (uuid for kind in MENDS[how] for uuid in self.orphans[kind]):
            reason = self._taken(uuid) if how == "import" else ""
            if reason:
                self.not_taken[uuid] = reason
                continue
            folder = open_folder(os.path.dirname(place(self._storage, uuid)))
            try:
                os.unlink(uuid, dir_fd=folder)
            finally:
                os.close(folder)
            self.mended += 1

    def _taken(self, uuid: str) -> str:
        """Give an image to Orthanc. Return why its file has to stay, if it does."""
        image = bytes(self._content(uuid))
        try:
            _, handed_out = self._orthanc.md5(self._orthanc.store(image))
        except Declined as error:
            return str(error)
        return "" if handed_out == _md5(image) else "Orthanc does not hand it out as it is"

    def counts(self) -> dict[str, int]:
        """Return how many files there are of each kind."""
        found = self.found
        counts = {"files": found.files, "read": found.read, "missing": len(found.missing)}
        counts |= {"cut off": len(found.cut_off), "damaged": len(found.damaged)}
        return counts | {kind: len(names) for kind, names in self.orphans.items()}

    def report(self, studies: list[str]) -> dict[str, Any]:
        """Return all that is known of it."""
        lost = {"missing": self.found.missing, "cut off": self.found.cut_off, "damaged": self.found.damaged}
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "next folder": self.next,
            "found": self.counts(),
            "mended": self.mended,
            "not taken": self.not_taken,
            "studies": studies,
            **{kind: [file._asdict() for file in files.values()] for kind, files in lost.items()},
            **self.orphans,
        }


def _md5(data: bytes | mmap.mmap) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def gently() -> Iterator[None]:
    """Leave processor and disk to those who need them."""

    def ask_for(nice: int, kind: str) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        # Where the kernel has no such classes, it is left out.
        subprocess.run(["ionice", "--class", kind, "--pid", str(os.getpid())], check=False, capture_output=True)

    before = os.getpriority(os.PRIO_PROCESS, 0)
    ask_for(19, "idle")
    try:
        yield
    finally:
        # The process may have other work to do.
        ask_for(before, "none")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config_dir": {"type": "path", "required": True},
            "storage_dir": {"type": "path", "required": True},
            "engine": {"type": "str", "choices": ["sqlite", "postgresql", "mysql"], "default": "sqlite"},
            "percent": {"type": "int", "default": 100},
            "report": {"type": "path", "required": True},
            "mend": {"type": "str", "choices": ["", "import", "remove", "discard"], "default": ""},
            "count": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    how, done = params["mend"], ""
    try:
        with gently():
            archive = Archive(params)
        there = sum(len(archive.orphans[kind]) for kind in MENDS.get(how, ()))
        if how and there != params["count"]:
            module.fail_json(f"There are {there} files to {how}, and not {params['count']}; nothing was changed.")
        if how and not module.check_mode:
            try:
                archive.mend(how)
            finally:
                done = f" {archive.mended} files were mended before that; run it again for the others."
        studies = archive.studies()
        if not module.check_mode:
            put(params["report"], json.dumps(archive.report(studies), indent=1), (0, 0), 0o600)
    except (Unread, Unreachable, Unready, Refused, OSError) as error:
        module.fail_json(f"The archive was not held against its index: {error}.{done}")
    module.exit_json(
        changed=bool(archive.mended),
        found=archive.counts(),
        mended=archive.mended,
        not_taken=archive.not_taken,
        studies=studies,
    )


if __name__ == "__main__":
    main()

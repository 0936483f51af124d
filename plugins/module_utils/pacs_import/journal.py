# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of every file: a database beside the report, by which an import goes on where it was cut off."""

from __future__ import annotations

import csv
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO

from .fates import ARCHIVE, CONFLICT, NEW, PRESENT, SETTLED, STORED, rank

# What is written outlives the program after so many seconds, and a cut of the power once the system has it on the disk,
# which is not waited for: the server is asked again for what was lost.
INTERVAL = 1.0
# When that changed which does not, so that its size need not be known.
NEVER = -1
# What fits into its numbers, and into a sum of some: a damaged archive may name larger sizes, and a disk later times.
LARGEST = 1 << 48, (1 << 63) - 1
TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
    name BLOB PRIMARY KEY, size INTEGER, changed INTEGER, fate TEXT, reason TEXT,
    instance TEXT, series TEXT, study TEXT, patient TEXT, md5 TEXT, syntax TEXT, run INTEGER
) WITHOUT ROWID;
"""
# What an archive is called from here on, where images come in without their patient: by which key.
ANONYMOUS = " anonymous "
COLUMNS = ("fate", "file", "bytes", "reason", "instance", "series", "StudyInstanceUID", "PatientID", "md5")


class Busy(Exception):
    """The report cannot be used: another import writes it, or there is no room."""


@dataclass
class Row:
    """What is known of a file. ``instance`` and ``series`` are Orthanc's identifiers, ``study`` is DICOM's."""

    name: bytes
    size: int
    changed: int
    fate: str
    reason: str = ""
    instance: str = ""
    series: str = ""
    study: str = ""
    patient: str = ""
    md5: str = ""
    syntax: str = ""


class Journal:
    """The files of this import and of those before it.

    :param path: of the database, which is for its owner alone: it names patients.
    :param archive: to which they go; what went to another one is no hint.
    :raises Busy: while another import has it, or where others may write to it or to its folder.
    """

    def __init__(self, path: str, archive: str) -> None:
        alone(os.path.dirname(path) or ".", os.stat(os.path.dirname(path) or "."))
        # No pipe is waited for.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        number = os.open(path, flags, 0o600)
        try:
            alone(path, os.fstat(number))
        finally:
            os.close(number)
        self._lock = threading.Lock()
        self._base = sqlite3.connect(path, timeout=1, check_same_thread=False, isolation_level=None)
        try:
            self._base.executescript(
                "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                # In KB; what it would keep beyond that is read once.
                "PRAGMA cache_size = -512;"
                "BEGIN EXCLUSIVE;" + TABLES
            )
            about = dict(self._base.execute("SELECT name, value FROM about"))
            self.run = int(about.get("run", 0)) + 1
            before = about.get("archive", archive)
            key = before.partition(ANONYMOUS)[2]
            if key and key != archive.partition(ANONYMOUS)[2]:
                self._base.close()
                how = "by another key" if ANONYMOUS in archive else "without their patients"
                raise Busy(f"by the report of {path} images came in {how}; do that again, or name another folder")
            if before != archive:
                self._base.execute("DELETE FROM files")
            values = [("run", str(self.run)), ("archive", archive)]
            self._base.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", values)
            self._written = time.monotonic()
            self.commit()
        except sqlite3.Error as error:
            hint = "; is another import running with this report?" if "locked" in str(error) else ""
            raise Busy(f"the journal {path}: {error}{hint}") from error

    def settled(self, name: bytes, size: int, changed: int) -> tuple[str, str, str] | None:
        """Return instance, series, and the sum if it was taken, of a file that an earlier run has left as it is now."""
        query = (
            "SELECT instance, series, md5 FROM files"
            " WHERE name = ? AND (size = ? OR changed = ?) AND changed = ? AND run < ? AND fate IN (?, ?)"
        )
        size, changed = map(min, (size, changed), LARGEST)
        values = (name, size, NEVER, changed, self.run, *SETTLED)
        with self._lock:
            found: tuple[str, str, str] | None = self._base.execute(query, values).fetchone()
        return found if found and found[0] and found[1] else None

    def moved(self, name: bytes) -> int:
        """Return how many images there were of a series when an earlier run had it sent as a whole; 0 for none."""
        query = "SELECT changed FROM files WHERE name = ? AND run < ? AND fate = ?"
        with self._lock:
            found = self._base.execute(query, (name, self.run, ARCHIVE)).fetchone()
        return int(found[0]) if found else 0

    def add(self, row: Row) -> None:
        """Note what became of a file; if that is better than what became of it before in this run, not."""
        with self._lock:
            query = "SELECT fate FROM files WHERE name = ? AND run = ?"
            before = self._base.execute(query, (row.name, self.run)).fetchone()
            if before and rank(before[0]) >= rank(row.fate):
                return
            row.size, row.changed = map(min, (row.size, row.changed), LARGEST)
            marks = ", ".join("?" * 12)
            # In the order of its fields.
            self._base.execute(f"INSERT OR REPLACE INTO files VALUES ({marks})", (*vars(row).values(), self.run))
            self._now_and_then()

    def confirm(self, name: bytes) -> None:
        """Note that a file is where it was taken to be before."""
        with self._lock:
            values = (PRESENT, "as an earlier run has left it", self.run, name)
            self._base.execute("UPDATE files SET fate = ?, reason = ?, run = ? WHERE name = ?", values)
            self._now_and_then()

    def mark(self, name: bytes, fate: str, reason: str) -> None:
        """Correct what became of a file."""
        with self._lock:
            self._base.execute("UPDATE files SET fate = ?, reason = ? WHERE name = ?", (fate, reason, name))

    def commit(self) -> None:
        """Have all of it on the disk."""
        with self._lock:
            self._base.execute("COMMIT")
            self._base.execute("BEGIN")

    def close(self) -> None:
        """Let others have it."""
        with self._lock:
            self._base.execute("COMMIT")
            self._base.close()

    def size(self) -> int:
        """Return how many bytes all runs have brought."""
        ((size,),) = self._rows("SELECT CAST(TOTAL(size) AS INTEGER) FROM files WHERE fate IN (?, ?)", *SETTLED)
        return int(size)

    def fates(self) -> dict[str, tuple[int, int]]:
        """Return how many files and bytes have had which fate in this run."""
        query = "SELECT fate, COUNT(*), CAST(TOTAL(size) AS INTEGER) FROM files WHERE run = ? GROUP BY fate"
        return {fate: (count, size) for fate, count, size in self._rows(query, self.run)}

    def links(self) -> int:
        """Return how many of what was left out are links, and no images."""
        ((number,),) = self._rows("SELECT COUNT(*) FROM files WHERE run = ? AND reason LIKE 'a link%'", self.run)
        return int(number)

    def counts(self) -> dict[str, int]:
        """Return of how many patients, studies and series the images of this run are, and how many they are."""
        query = (
            "SELECT COUNT(DISTINCT patient), COUNT(DISTINCT study), COUNT(DISTINCT series), COUNT(DISTINCT instance)"
            " FROM files WHERE run = ? AND fate IN (?, ?, ?)"
        )
        (found,) = self._rows(query, self.run, STORED, PRESENT, NEW)
        return dict(zip(("patients", "studies", "series", "instances"), found, strict=True))

    def shared(self) -> Iterator[tuple[str, str, str]]:
        """Return the studies of this run that several patients have, each with two of these."""
        query = (
            "SELECT study, MIN(patient), MAX(patient) FROM files"
            " WHERE run = ? AND study != '' AND fate IN (?, ?, ?, ?) GROUP BY study HAVING COUNT(DISTINCT patient) > 1"
        )
        yield from self._rows(query, self.run, STORED, PRESENT, NEW, CONFLICT)

    def studies(self) -> Iterator[tuple[str, str]]:
        """Return each study of this run, with its patient; others, which may be originals, are named to no archive."""
        query = "SELECT DISTINCT study, patient FROM files WHERE run = ? AND study != '' AND fate IN (?, ?, ?, ?)"
        yield from self._rows(query, self.run, STORED, PRESENT, NEW, CONFLICT)

    def images(self) -> Iterator[tuple[bytes, str, str, str]]:
        """Return each image that the archive has by this run: its file, its instance, its sum, and how it is coded."""
        query = "SELECT name, instance, md5, syntax FROM files WHERE run = ? AND fate IN (?, ?) AND instance != ''"
        yield from self._rows(query, self.run, *SETTLED)

    def examples(self, fate: str, number: int) -> list[tuple[str, str]]:
        """Return some files of this run that had a fate, with the reason."""
        query = "SELECT name, reason FROM files WHERE run = ? AND fate = ? LIMIT ?"
        return [(shown(name), reason) for name, reason in self._rows(query, self.run, fate, number)]

    def write(self, path: str) -> None:
        """Write a line for each file of this run."""
        query = (
            "SELECT fate, name, size, reason, instance, series, study, patient, md5"
            " FROM files WHERE run = ? ORDER BY name"
        )
        with written(path) as file:
            lines = csv.writer(file)
            lines.writerow(COLUMNS)
            for fate, name, *rest in self._rows(query, self.run):
                lines.writerow([fate, shown(name), *rest])

    def _rows(self, query: str, *values: Any) -> Iterator[Any]:
        """Go through an answer without holding the database, nor all of it in memory."""
        with self._lock:
            cursor = self._base.execute(query, values)
        while True:
            with self._lock:
                part = cursor.fetchmany(1000)
            if not part:
                return
            yield from part

    def _now_and_then(self) -> None:
        if time.monotonic() - self._written > INTERVAL:
            self._base.execute("COMMIT")
            self._base.execute("BEGIN")
            self._written = time.monotonic()


def alone(path: str, status: os.stat_result, secret: bool = False) -> None:
    """See that nobody else can write to the report, where patients are named, nor read what is secret.

    :raises Busy: if anybody can.
    """
    if status.st_uid != os.geteuid():
        raise Busy(f"{path} belongs to another user; name a folder of your own for the report")
    if status.st_mode & 0o022:
        raise Busy(f"others may write to {path}; take that right away (chmod go-w), or name another folder")
    if secret and status.st_mode & 0o077:
        raise Busy(f"others can read {path}, which tells who the patients were; take that right away (chmod go=)")


@contextmanager
def written(path: str) -> Iterator[TextIO]:
    """Write a file anew, for its owner alone, which is there as a whole or as it was."""
    beside = f"{path}.new"
    # One that a crash has left.
    with suppress(FileNotFoundError):
        os.unlink(beside)
    number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "w", encoding="utf-8", newline="") as file:
        yield file
    os.replace(beside, path)


def shown(name: bytes) -> str:
    """Write a name for people: what is not UTF-8, and what would move a terminal's cursor, by its number."""
    text = name.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

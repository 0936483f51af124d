# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hold the files of an archive against the index of its Orthanc, which serves images meanwhile.

Runs on the host, as root, with nothing but Python and the database's driver. What it takes of memory is bounded, and of
the disk of /var/tmp, however big the archive is. As a program it prints a summary as JSON; its arguments are the folder
of the configuration, that of the images, the index's database, and how many files are looked at, at most.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib
import json
import os
import shutil
import sqlite3
import ssl
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

# Of uploads that are on their way there is a file first.
SECONDS = 60
# For how long the summary looks at sizes, the newest first.
LOOKING = 60
# How many names of each kind the summary has; and with how many that do not agree it is no archive.
NAMED, MANY = 20, 100_000
# On the disk: with Debian 13, /tmp is memory.
TEMPORARY = "/var/tmp"
LEVELS = [f"{number:02x}" for number in range(256)]
DRIVERS = {"sqlite": "sqlite3", "postgresql": "psycopg2", "mysql": "pymysql"}
COUNT = "SELECT COUNT(*) FROM AttachedFiles"
QUESTION = (
    "SELECT uuid, publicId, fileType, compressedSize, compressed{} FROM AttachedFiles"
    " JOIN Resources ON Resources.internalId = AttachedFiles.id ORDER BY Resources.internalId DESC"
)


class Unread(Exception):
    """Why files and index are not held against one another."""


class Unreachable(Exception):
    """The database does not let us read the index; the message has its words."""


class File(NamedTuple):
    """A file, as the index knows it: its name, whose it is, of what kind (1 is the image), size in bytes, and MD5."""

    uuid: str
    owner: str
    kind: int
    size: int
    md5: str


class Found:
    """What does not agree."""

    def __init__(self) -> None:
        self.files = self.read = self.bytes = 0
        # The file that the index knows is not there, has another size, or another MD5.
        self.missing: dict[str, File] = {}
        self.cut_off: dict[str, File] = {}
        self.damaged: dict[str, File] = {}
        # Files that the index does not know, and their sizes.
        self.orphans: dict[str, int] = {}

    @property
    def lost(self) -> dict[str, File]:
        """What cannot be handed out as it came."""
        return self.missing | self.cut_off | self.damaged


class Index:
    """The index of an Orthanc, by its own configuration.

    :param private: a folder that nobody else gets at, for copies.
    """

    def __init__(self, options: dict[str, Any], storage: str, engine: str, private: str) -> None:
        self._options, self._storage, self._engine, self._private = options, storage, engine, private
        # When the index was written to of which there is a copy.
        self._copied = 0

    def files(self, most: int = 0) -> Iterator[File]:
        """Return all files that it knows.

        :raises Unread: if they are more than that, or there is no room for a copy.
        :raises Unreachable: if the database does not let us in.
        """
        errors = importlib.import_module(DRIVERS[self._engine]).Error
        try:
            yield from self._files(most)
        except errors as error:
            raise Unreachable(" ".join(str(error).split())) from error

    def _files(self, most: int) -> Iterator[File]:
        with contextlib.closing(self._connect()) as connection:
            if most:
                cursor = connection.cursor()
                cursor.execute(COUNT)
                (files,) = cursor.fetchone()
                if files > most:
                    raise Unread(f"the index has {files} files")
            # Else the driver would have all of them in memory.
            cursor = connection.cursor(*self._streaming())
            cursor.execute(QUESTION.format("MD5" if self._engine == "sqlite" else "Hash"))
            for uuid, owner, kind, size, md5 in cursor:
                yield File(uuid, owner, kind, size, md5 or "")

    def _streaming(self) -> tuple[Any, ...]:
        if self._engine == "postgresql":
            return ("pacs",)
        return (importlib.import_module("pymysql").cursors.SSCursor,) if self._engine == "mysql" else ()

    def _connect(self) -> Any:
        if self._engine == "sqlite":
            return self._copy()
        if self._engine == "postgresql":
            return importlib.import_module("psycopg2").connect(self._options["PostgreSQL"]["ConnectionUri"])
        server = self._options["MySQL"]
        context = None
        if server["EnableSsl"]:
            context = ssl.create_default_context(cafile=server["SslCACertificates"])
            # Newer Pythons would hold the authority to rules that Orthanc does not know.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return importlib.import_module("pymysql").connect(
            host=server["Host"],
            port=server["Port"],
            user=server["Username"],
            # As bytes, since as text it may hold Latin-1 only.
            password=server["Password"].encode(),
            database=server["Database"],
            ssl=context,
        )

    def _copy(self) -> sqlite3.Connection:
        """Open a copy, since Orthanc lets nobody else at its file; one during which SQLite has not tidied up.

        Until it tidies up again, only what it puts beside the index (``-wal``) is new.
        """
        index = os.path.join(str(self._options.get("IndexDirectory") or self._storage), "index")

        def state() -> tuple[int, bytes]:
            try:
                with open(f"{index}-wal", "rb") as file:
                    return os.stat(index).st_mtime_ns, file.read(32)
            except FileNotFoundError:
                return os.stat(index).st_mtime_ns, b""

        copy = os.path.join(self._private, "index")
        for _ in range(10):
            before = state()
            self._room(index)
            if self._copied != before[0]:
                shutil.copy(index, copy)
                self._copied = before[0]
            if before[1]:
                shutil.copy(f"{index}-wal", f"{copy}-wal")
            elif os.path.exists(f"{copy}-wal"):
                os.remove(f"{copy}-wal")
            if state() == before:
                return sqlite3.connect(copy)
        raise Unread("the index changes all the time")

    def _room(self, index: str) -> None:
        """Give up unless as much again stays free beside a copy: Orthanc may write to the same disk."""
        needed = sum(os.stat(name).st_size for name in (index, f"{index}-wal") if os.path.exists(name))
        # Copies of before are written over.
        copies = sum(entry.stat().st_size for entry in os.scandir(self._private) if entry.name.startswith("index"))
        free = shutil.disk_usage(self._private).free + copies
        if 2 * needed > free:
            raise Unread(f"a copy of the index takes {needed >> 20} MB, and {TEMPORARY} has {free >> 20} MB free")


def configured(folder: str) -> dict[str, Any]:
    """Return the options of an Orthanc."""
    options: dict[str, Any] = {}
    for name in sorted(glob.glob(f"{folder}/*.json")):
        with open(name, encoding="utf-8") as file:
            options.update(json.load(file))
    return options


def place(storage: str, uuid: str) -> str:
    return os.path.join(storage, uuid[:2], uuid[2:4], uuid)


def open_file(path: str) -> int:
    """Open a file below a folder that Orthanc's user owns, who could have put something else there.

    :raises OSError: if it is none.
    """
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(f"{path} is no file")
    return opened


def md5(path: str) -> str:
    """Return the MD5 of a file. What was read does not push out what others have in memory."""
    digest = hashlib.md5(usedforsecurity=False)
    with os.fdopen(open_file(path), "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return digest.hexdigest()


def hold(
    options: dict[str, Any],
    storage: str,
    engine: str,
    *,
    most: int = 0,
    looking: float = 0,
    young: float = SECONDS,
    read: frozenset[str] = frozenset(),
) -> Found:
    """Hold all files against the index.

    :param most: of how many files it is done, 0 for any number.
    :param looking: for how many seconds sizes are looked at, 0 for as long as it takes.
    :param young: how old in seconds a file is that counts as an orphan.
    :param read: the folders of which each file is read, and its MD5 compared.
    :raises Unread: where that cannot be done.
    """
    found = Found()
    with tempfile.TemporaryDirectory(dir=TEMPORARY) as private:
        index = Index(options, storage, engine, private)
        with contextlib.ExitStack() as stack:
            lists = {}
            for level in LEVELS:
                path = os.path.join(private, level)
                lists[level] = stack.enter_context(open(path, "w", encoding="ascii", errors="replace"))
            for file in index.files(most):
                lists.get(file.uuid[:2], lists["00"]).write("\t".join(map(str, file)) + "\n")
                found.files += 1
        there = 0
        for level in LEVELS:
            names = {name for path in glob.glob(f"{storage}/{level}/[0-9a-f][0-9a-f]") for name in os.listdir(path)}
            there += len(names)
            if most and there > most:
                raise Unread(f"there are more than {most} files")
            _hold_level(
                found, storage, os.path.join(private, level), names, looking / len(LEVELS), young, level in read
            )
            if not most and max(len(found.lost), len(found.orphans)) > MANY:
                raise Unread(f"more than {MANY} files do not agree: are index and disk of the same archive?")
        if found.lost or found.orphans:
            _look_again(found, storage, index, young)
    found.bytes = sum(found.orphans.values())
    return found


def _hold_level(
    found: Found, storage: str, listed: str, names: set[str], looking: float, young: float, read: bool
) -> None:
    """Hold the files of one folder against the list of those that the index knows there."""
    end = time.monotonic() + looking
    with open(listed, encoding="ascii") as lines:
        for line in lines:
            uuid, owner, kind, size, digest = line.rstrip("\n").split("\t")
            file = File(uuid, owner, int(kind), int(size), digest)
            path = place(storage, uuid)
            if uuid not in names and not os.path.exists(path):
                found.missing[uuid] = file
            elif not looking or time.monotonic() < end:
                # It may have been deleted meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    # On a full disk Orthanc takes what is below 8 KB, and leaves an empty file.
                    if os.stat(path).st_size != file.size:
                        found.cut_off[uuid] = file
                    elif read and digest:
                        found.read += 1
                        _compare(found, path, file)
            names.discard(uuid)
    for uuid in names:
        with contextlib.suppress(FileNotFoundError):
            state = os.lstat(place(storage, uuid))
            if state.st_mtime < time.time() - young:
                found.orphans[uuid] = state.st_size


def _compare(found: Found, path: str, file: File) -> None:
    try:
        if md5(path) != file.md5:
            found.damaged[file.uuid] = file
    except FileNotFoundError:
        raise
    except OSError:
        # A bad sector, or no file at all.
        found.damaged[file.uuid] = file


def _look_again(found: Found, storage: str, index: Index, young: float) -> None:
    """Leave out what has come or gone since."""
    asked = found.lost.keys() | found.orphans.keys()
    known = {file.uuid for file in index.files() if file.uuid in asked}
    for kind in (found.missing, found.cut_off, found.damaged):
        for uuid in kind.keys() - known:
            del kind[uuid]
    for uuid in list(found.orphans):
        if uuid in known or not os.path.lexists(place(storage, uuid)):
            del found.orphans[uuid]


def main(folder: str, storage: str, engine: str, most: str) -> None:
    summary: dict[str, Any] = {"reason": ""}
    found = Found()
    try:
        found = hold(configured(folder), storage, engine, most=int(most), looking=LOOKING)
    except Unread as error:
        found, summary["reason"] = Found(), str(error)
    summary["bytes"] = found.bytes
    named = {"missing": {file.owner for file in found.lost.values()}, "orphans": set(found.orphans)}
    for kind, names in named.items():
        summary[kind] = {"count": len(names), "first": sorted(names)[:NAMED]}
    print(json.dumps(summary))


if __name__ == "__main__":
    main(*sys.argv[1:])

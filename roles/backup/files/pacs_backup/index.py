# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The index, which its Orthanc alone may read: it is copied, and Orthanc stands still for as long as that has to be."""

from __future__ import annotations

import concurrent.futures
import contextlib
import glob
import hashlib
import itertools
import os
import pathlib
import re
import select
import signal
import sqlite3
import stat
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from .common import INSIDE, MIB, NAME, Failed, place, size

# What SQLite has beside the index in use.
LOGS = ("-wal", "-journal")
# What orthanc_routes has still to send, and how far it has read the log of changes, beside the index.
QUEUE = ".pacs-routes"
# For how many seconds somebody may have it locked.
LOCKED = 60
# What SQLite says at the end of a copy.
DONE = 101
# How often the index is copied while it is in use, until nothing has come in between.
TRIES = 10
# How many files are read at a time where each is held against its MD5, and for how many of them that is asked at once.
READERS, TAKEN = 4, 1000
# A column that Orthanc adds to its index from 1.12.8 on, and the oldest release that still writes to such an index.
COLUMN, WRITER = "customData", "1.12.7"


def writes(path: str) -> bool:
    """Tell whether a file is open for writing, as /proc has it: a scanner of viruses reads alone."""
    told = pathlib.Path(path.replace("/fd/", "/fdinfo/")).read_text(encoding="utf-8")
    found = re.search(r"^flags:\s*([0-7]+)", told, re.M)
    return not found or int(found[1], 8) & os.O_ACCMODE != os.O_RDONLY


def holders(index: str) -> set[int]:
    """Return the processes that write to a file: Orthanc, in a container too."""
    try:
        wanted = os.stat(index)
    except FileNotFoundError:
        return set()
    found = set()
    for path in glob.iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            seen = os.stat(path)
            if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino) and writes(path):
                found.add(int(path.split("/")[2]))
    return found - {os.getpid()}


def stopped(pid: int) -> bool:
    """Tell whether every thread of a process stands still; what it had asked of the disk has come to its end then."""
    for path in glob.glob(f"/proc/{pid}/task/*/stat"):
        with contextlib.suppress(OSError):
            text = pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
            # Behind the name, which may hold anything.
            if text.rpartition(")")[2].split()[0] not in "tT":
                return False
    return os.path.exists(f"/proc/{pid}")


def tell(opened: Iterable[int], number: signal.Signals) -> None:
    for file in opened:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(file, number)


class Frozen:
    """Processes that stand still, for so many seconds at most, whatever becomes of whoever has stopped them."""

    def __init__(self, pids: Iterable[int], seconds: float) -> None:
        self._pids, self._seconds = sorted(pids), seconds
        self._opened: list[int] = []
        self.lasted = 0.0

    def __enter__(self) -> Frozen:
        with contextlib.suppress(ProcessLookupError):
            self._opened = [os.pidfd_open(pid) for pid in self._pids]
        reading, self._pipe = os.pipe()
        # Another process, since this one may hang on a disk, or be killed: then the pipe ends.
        self._watcher = os.fork()
        if self._watcher == 0:
            with contextlib.suppress(BaseException):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.close(self._pipe)
                select.select([reading], [], [], self._seconds)
                tell(self._opened, signal.SIGCONT)
            os._exit(0)
        os.close(reading)
        self._began = time.monotonic()
        tell(self._opened, signal.SIGSTOP)
        while not self.holds() and time.monotonic() < self._began + self._seconds / 2:
            time.sleep(0.001)
        return self

    def holds(self) -> bool:
        """Tell whether they all stand still."""
        return len(self._opened) == len(self._pids) and all(map(stopped, self._pids))

    def __exit__(self, *_error: object) -> None:
        tell(self._opened, signal.SIGCONT)
        self.lasted = time.monotonic() - self._began
        os.close(self._pipe)
        os.waitpid(self._watcher, 0)
        for file in self._opened:
            os.close(file)


def thaw(index: str) -> None:
    """Have all go on that use the index: whoever had stopped them was killed together with what watched it."""
    for pid in holders(index):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def head(path: str) -> bytes:
    """Return the head of SQLite's log: another one begins as soon as what stands in this one is in the index."""
    try:
        with open(path, "rb") as file:
            return file.read(32)
    except FileNotFoundError:
        return b""


def in_log(index: str) -> bool:
    """Tell whether the index is written through a log (WAL), which holds all that has changed in it since."""
    with open(index, "rb") as file:
        return file.read(20)[18:] == b"\2\2"


def copy_file(source: str, target: pathlib.Path, *options: str) -> None:
    subprocess.run(["cp", "--reflink=auto", *options, "--", source, str(target)], check=True, capture_output=True)


def copy_logs(index: str, target: pathlib.Path) -> None:
    """Copy the log alone: Orthanc has no other, and a journal that somebody has put there may name files to remove."""
    copy = target.with_name(f"{target.name}-wal")
    copy.unlink(missing_ok=True)
    if size(f"{index}-wal"):
        copy_file(f"{index}-wal", copy)


def written(index: str) -> list[tuple[int, int] | None]:
    """Return when index and log were written last, and how big they are."""
    found: list[tuple[int, int] | None] = []
    for path in (index, f"{index}-wal"):
        try:
            seen = os.stat(path)
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((seen.st_mtime_ns, seen.st_size))
    return found


def copy_index(index: str, target: pathlib.Path, limit: float, also: Callable[[], None] = lambda: None) -> float:
    """Copy an index that is in use, as it was at one moment. Return for how many seconds Orthanc was stopped.

    :param also: what else is done with the copy before Orthanc goes on.

    The index itself is copied while Orthanc works, and Orthanc is stopped for its log alone, which is small. What has
    gone from the log into the index meanwhile is still in the log, unless that was begun anew: then all is done again.
    """
    whole, took = not in_log(index), 0.0
    for tried in range(TRIES + 1):
        pids, before, seen = holders(index), head(index + "-wal"), written(index)
        if whole or tried == TRIES:
            if took > limit / 2:
                raise Failed(
                    f"The index changes all the time, and to copy it whole takes {took:.1f} s, for which Orthanc would"
                    f" have to be stopped: more than half of backup_pause_seconds ({limit:g}). Choose an hour in which"
                    " fewer images come (backup_calendar), or raise it."
                )
            with Frozen(pids, limit) as frozen:
                good = stood = frozen.holds()
                if good:
                    copy_file(index, target)
                    copy_logs(index, target)
                    also()
                    good = frozen.holds()
        else:
            began = time.monotonic()
            copy_file(index, target)
            took = time.monotonic() - began
            with Frozen(pids, limit) as frozen:
                stood = frozen.holds()
                good = stood and head(index + "-wal") == before
                if good:
                    copy_logs(index, target)
                    also()
                    good = frozen.holds()
        # Another Orthanc may have been started meanwhile, and have ended as well.
        same = holders(index) == pids and (bool(pids) or written(index) == seen)
        if good and same:
            return frozen.lasted if pids else 0.0
        if frozen.lasted >= limit or (same and not stood):
            raise Failed(
                f"Orthanc would not stand still, or its index could not be copied, within {limit:g} s; it goes on. Look"
                " at the disk of the index, or raise backup_pause_seconds."
            )
    raise Failed("Orthanc was started again and again while its index was copied; see journalctl -u orthanc.")


@contextlib.contextmanager
def opened(index: str | os.PathLike[str], mode: str = "ro") -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{urllib.parse.quote(os.fspath(index))}?mode={mode}", uri=True)
    try:
        yield connection
    finally:
        connection.close()


def copy_queue(folder: str | os.PathLike[str], target: pathlib.Path) -> None:
    """Copy what is still to be sent, while Orthanc works. :raises Failed: if it cannot be read.

    Who has it copied before the index has read no change in it that the index does not know.
    """
    path = pathlib.Path(folder, QUEUE)
    end = time.monotonic() + LOCKED

    def waits(status: int, _remaining: int, _total: int) -> None:
        if status != DONE and time.monotonic() > end:
            raise Failed(f"{path} cannot be copied: it is locked for {LOCKED} s.")

    target.unlink(missing_ok=True)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Failed(f"{path} cannot be copied: it is no plain file.")
        with opened(path) as source, opened(target, "rwc") as copy:
            source.backup(copy, progress=waits)
            copy.execute("SELECT change FROM position").fetchall()
            if copy.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
                raise Failed(f"{path} cannot be copied: it is damaged.")
    except FileNotFoundError:
        return
    except (Failed, sqlite3.Error) as error:
        target.unlink(missing_ok=True)
        raise error if isinstance(error, Failed) else Failed(f"{path} cannot be copied: {error}.") from error


def check_index(index: pathlib.Path) -> dict[str, Any]:
    """See whether a copy of an index is sound, and return what it knows. :raises Failed: if it is not."""
    try:
        with opened(index, "rw") as connection:
            said = connection.execute("PRAGMA integrity_check(3)").fetchall()
            if said != [("ok",)]:
                raise Failed(f"The copy of the index is damaged: {said[0][0]}.")
            # Of the log, all that is good is in the index then.
            connection.execute("PRAGMA journal_mode = DELETE")
            (instances,) = connection.execute("SELECT count(*) FROM Resources WHERE resourceType = 4").fetchone()
            # Where the database has them, their names are none of files.
            held = "sum(CASE WHEN uuid LIKE '%:%' THEN 0 ELSE compressedSize END)"
            files, held = connection.execute(f"SELECT count(*), coalesce({held}, 0) FROM AttachedFiles").fetchone()
            (top,) = connection.execute("SELECT coalesce(max(internalId), 0) FROM Resources").fetchone()
            columns = {row[1] for row in connection.execute("PRAGMA table_info(AttachedFiles)")}
    except sqlite3.Error as error:
        raise Failed(f"The copy of the index cannot be read: {error}.") from error
    writer = WRITER if COLUMN in columns else ""
    return {"instances": instances, "files": files, "bytes": held, "top": top, "writer": writer}


def known(index: str | os.PathLike[str]) -> Iterator[tuple[str, str, int, str]]:
    """Return of each file that a copy of an index knows its name, whose it is, its size, and its MD5, if it has one."""
    with opened(index) as connection:
        rows = connection.execute(
            "SELECT uuid, publicId, compressedSize, coalesce(compressedMD5, '') FROM AttachedFiles"
            " JOIN Resources ON Resources.internalId = AttachedFiles.id"
        )
        # Root goes by these names, and Orthanc has written them.
        yield from (row for row in rows if NAME.fullmatch(row[0]))


def differ(index: pathlib.Path, other: pathlib.Path) -> list[str]:
    """Return the names of the files that two lists of an index do not have alike."""
    rows = "SELECT uuid, id, fileType, compressedSize, compressedMD5 FROM {}.AttachedFiles"
    here, there = rows.format("main"), rows.format("other")
    with opened(index) as connection:
        connection.execute("ATTACH ? AS other", (f"file:{urllib.parse.quote(os.fspath(other))}?mode=ro",))
        found = [connection.execute(f"{one} EXCEPT {two}").fetchall() for one, two in ((here, there), (there, here))]
    return sorted({name for rows in found for name, *_ in rows})


def compare(
    index: pathlib.Path, storage: pathlib.Path, folders: set[str], sums: bool, only: set[str] | None = None
) -> tuple[int, dict[str, list[str]]]:
    """Hold files against a copy of their index, those of some folders. Return how many, and what is wrong with which.

    :param sums: whether each is read, and its MD5 compared; else its size alone is.
    :param only: the names of those that are looked at, if not all are.
    """
    wrong: dict[str, list[str]] = {"missing": [], "damaged": [], "unknown": []}
    expected: set[str] = set()

    def looked_at(row: tuple[str, str, int, str]) -> str:
        name, _owner, length, digest = row
        path = f"{storage}/{name[:2]}/{name[2:4]}/{name}"
        try:
            found = os.stat(path).st_size
        except OSError:
            return "missing"
        return "damaged" if found != length or (sums and digest and md5(pathlib.Path(path)) != digest) else ""

    rows = (row for row in known(index) if row[0][:2] in folders and (only is None or row[0] in only))
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        while some := list(itertools.islice(rows, TAKEN)):
            for row, what in zip(some, (pool.map if sums else map)(looked_at, some), strict=True):
                expected.add(row[0])
                if what:
                    wrong[what].append(f"{row[0]} of {row[1]}")
    for folder in sorted(folders) if only is None else ():
        wrong["unknown"] += [path.name for path in storage.glob(f"{folder}/*/*") if path.name not in expected]
    return len(expected), wrong


def handed(
    index: str | os.PathLike[str],
    storage: pathlib.Path,
    folders: Collection[str],
    count: int,
    but: Collection[str] = (),
) -> dict[str, str]:
    """Return some images whose files are there, from all over an index, each with the MD5 that it is handed out with.

    :param but: the names of files that are known not to be as they were.
    """
    with opened(index) as connection:
        rows = connection.execute(
            "SELECT publicId, uncompressedMD5, uuid FROM AttachedFiles JOIN Resources"
            " ON Resources.internalId = AttachedFiles.id WHERE fileType = 1 AND uncompressedMD5 <> ''"
        )
        found = [
            (owner, digest)
            for owner, digest, name in rows
            if name.startswith(INSIDE)
            or (name[:2] in folders and NAME.fullmatch(name) and name not in but and place(storage, name).exists())
        ]
    return dict(found[:: max(1, len(found) // count)][:count])


def md5(path: pathlib.Path) -> str:
    """Return the MD5 of a file, as Orthanc has it in its index."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()

#!/usr/bin/python3
# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back up the Orthanc of this host by restic, and prove that what was backed up can be had again.

Runs on the host, as root, with what Debian's Python has: by its units, and by the playbooks. What it is told stands
beside it, in settings.json. docs/backup.md says what it promises.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import fcntl
import functools
import glob
import hashlib
import http.client
import itertools
import json
import os
import pathlib
import pwd
import re
import select
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

HERE = pathlib.Path(__file__).resolve().parent
STATE = pathlib.Path("/var/lib/pacs/backup")
LOCK = STATE / "lock"
UNIT, TIMER, DRILL = "pacs-backup.service", "pacs-backup.timer", "pacs-drill.service"
# Beside the index, so that a file system that can share blocks copies it in no time.
STAGE = ".pacs-backup"
ARCHIVE = ".pacs-archive"
# Where this is, the toolkit has made the folder, or has taken it over.
MARK = ".pacs"
# What is in the folder of the files beside them, and is no part of an archive.
OURS = (".pacs-reserve", ".pacs-drill", ".pacs-restore", ".pacs-before-*")
# What SQLite has beside the index in use, and has to be copied together with it.
LOGS = ("-wal", "-journal")
# How often the index is copied while it is in use, until nothing has come in between.
TRIES = 10
# How often restic takes the files, where that took longer than so many seconds: what has come meanwhile is held then.
PASSES, LONG = 3, 600
# For how long a repository may be silent, in seconds, before it is called unreachable.
SILENT = 120
NAMED = 20
# A column that Orthanc adds to its index from 1.12.8 on, and the oldest release that still writes to such an index.
COLUMN, WRITER = "customData", "1.12.7"
# From how many earlier backups a restore takes what the wanted one lacks; with how many names restic is called at most.
EARLIER, INCLUDES = 5, 1000
# How much of a disk stays free for images that come.
SPARE = 20
# Where a clock may be wrong, in seconds.
SKEW = 600
# For how many seconds older backups may stay before that is a failure.
UNTIDY = 14 * 86400
# For how many seconds a report may look whether one is at work.
BRIEF = 2
# For how many seconds backups, drills and restores wait for one another.
PATIENCE = 12 * 3600
MIB = 1 << 20


class Failed(Exception):
    """It cannot be done; the message says why, and what to do."""


class Busy(Failed):
    """Another one is at work."""


def now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def size(path: str | os.PathLike[str]) -> int:
    """Return how big a file is; nothing if there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def put(path: pathlib.Path, value: Any, mode: int = 0o644) -> None:
    """Write JSON in one step, so that nobody reads half of it, and a loss of power leaves one or the other."""
    candidate = path.with_name(f".{path.name}.new")
    candidate.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(candidate, flags, mode), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    os.replace(candidate, path)
    sync_folder(path.parent)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Have the names in a folder outlast a loss of power."""
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def read(path: pathlib.Path) -> dict[str, Any]:
    """Return what a file of JSON has; nothing if there is none, or half of one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def open_folder(path: str | os.PathLike[str]) -> int:
    """Open a folder without following a link in its last part: root renames there what is Orthanc's."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def way(opened: int) -> pathlib.Path:
    """Return a path to what is open, which stays whatever others rename."""
    return pathlib.Path(f"/proc/{os.getpid()}/fd/{opened}")


def owned(path: str | os.PathLike[str]) -> tuple[int, pathlib.Path]:
    """Have a folder of our own in one that is Orthanc's. Return it opened, and a way to it that stays.

    Whoever has taken Orthanc over could have put a folder or a link of his own in its place, at any moment.

    :raises Failed: if it is somebody else's.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    opened = open_folder(path)
    if os.fstat(opened).st_uid != os.geteuid():
        raise Failed(f"{path} is not root's, who alone writes there; look who has made it, and remove it.")
    return opened, way(opened)


# ---- The index, which its Orthanc alone may read: it is copied, and Orthanc is stopped for as long as that has to be.


def holders(index: str) -> set[int]:
    """Return the processes that have a file open: Orthanc, in a container too."""
    try:
        wanted = os.stat(index)
    except FileNotFoundError:
        return set()
    found = set()
    for path in glob.iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            seen = os.stat(path)
            if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
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
    for end in LOGS:
        with contextlib.suppress(FileNotFoundError):
            target.with_name(target.name + end).unlink()
        if size(index + end):
            copy_file(index + end, target.with_name(target.name + end))


def copy_index(index: str, target: pathlib.Path, limit: float, also: Callable[[], None] = lambda: None) -> float:
    """Copy an index that is in use, as it was at one moment. Return for how many seconds Orthanc was stopped.

    :param also: what else is done with the copy before Orthanc goes on.

    The index itself is copied while Orthanc works, and Orthanc is stopped for its log alone, which is small. What has
    gone from the log into the index meanwhile is still in the log, unless that was begun anew: then all is done again.
    """
    whole, took = not in_log(index), 0.0
    for tried in range(TRIES + 1):
        pids, before = holders(index), head(index + "-wal")
        if whole or tried == TRIES:
            if took > limit / 2:
                raise Failed(
                    f"The index changes all the time, and to copy it whole takes {took:.1f} s, for which Orthanc would"
                    f" have to be stopped: more than half of backup_pause_seconds ({limit:g}). Choose an hour in which"
                    " fewer images come (backup_calendar), or raise it."
                )
            with Frozen(pids, limit) as frozen:
                copy_file(index, target)
                copy_logs(index, target)
                also()
                good = not pids or frozen.holds()
        else:
            began = time.monotonic()
            copy_file(index, target)
            took = time.monotonic() - began
            with Frozen(pids, limit) as frozen:
                good = head(index + "-wal") == before
                if good:
                    copy_logs(index, target)
                    also()
                    good = not pids or frozen.holds()
        # Another Orthanc may have been started meanwhile.
        if good and holders(index) == pids:
            return frozen.lasted if pids else 0.0
        if frozen.lasted >= limit:
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
            counted = "SELECT count(*), coalesce(sum(compressedSize), 0) FROM AttachedFiles"
            files, held = connection.execute(counted).fetchone()
            (top,) = connection.execute("SELECT coalesce(max(internalId), 0) FROM Resources").fetchone()
            columns = {row[1] for row in connection.execute("PRAGMA table_info(AttachedFiles)")}
    except sqlite3.Error as error:
        raise Failed(f"The copy of the index cannot be read: {error}.") from error
    writer = WRITER if COLUMN in columns else ""
    return {"instances": instances, "files": files, "bytes": held, "top": top, "writer": writer}


# As Orthanc names a file.
NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def known(index: str | os.PathLike[str]) -> Iterator[tuple[str, str, int, str]]:
    """Return of each file that a copy of an index knows its name, whose it is, its size, and its MD5, if it has one."""
    with opened(index) as connection:
        rows = connection.execute(
            "SELECT uuid, publicId, compressedSize, coalesce(compressedMD5, '') FROM AttachedFiles"
            " JOIN Resources ON Resources.internalId = AttachedFiles.id"
        )
        # Root goes by these names, and Orthanc has written them.
        yield from (row for row in rows if NAME.fullmatch(row[0]))


def compare(
    index: pathlib.Path, storage: pathlib.Path, folders: set[str], sums: bool, only: set[str] | None = None
) -> tuple[int, dict[str, list[str]]]:
    """Hold files against a copy of their index, those of some folders. Return how many, and what is wrong with which.

    :param sums: whether each is read, and its MD5 compared; else its size alone is.
    :param only: the names of those that are looked at, if not all are.
    """
    wrong: dict[str, list[str]] = {"missing": [], "damaged": [], "unknown": []}
    expected: set[str] = set()
    for name, owner, length, digest in known(index):
        if name[:2] not in folders or (only is not None and name not in only):
            continue
        expected.add(name)
        path = place(storage, name)
        if not path.exists():
            wrong["missing"].append(f"{name} of {owner}")
        elif size(path) != length or (sums and digest and md5(path) != digest):
            wrong["damaged"].append(f"{name} of {owner}")
    for folder in sorted(folders) if only is None else ():
        wrong["unknown"] += [path.name for path in storage.glob(f"{folder}/*/*") if path.name not in expected]
    return len(expected), wrong


def md5(path: pathlib.Path) -> str:
    """Return the MD5 of a file, as Orthanc has it in its index."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def place(storage: str | os.PathLike[str], name: str) -> pathlib.Path:
    return pathlib.Path(storage, name[:2], name[2:4], name)


# ---- The repository.

ELSEWHERE = (
    (
        r"wrong password or no key found",
        "it has another key than backup_password; without the right one nobody can read it",
    ),
    (r"ciphertext verification failed|invalid data returned|Pack ID does not match|not loaded", "it is damaged"),
    (r"already locked", "somebody else is at work in it"),
    (r"no space left|disk quota|QuotaExceeded|file system is full", "it is full"),
    (r"read-only file system", "it cannot be written to"),
    (r"(?i)permission denied|access ?denied|access key id|SignatureDoesNotMatch|forbidden", "it does not let us in"),
    (
        r"(?i)dial tcp|no route to host|connection (refused|timed out|reset)|no such host|could not resolve|host key"
        r"|i/o timeout|x509|unable to start the sftp session|network is unreachable",
        "it cannot be reached",
    ),
)
NOT_THERE = re.compile(
    r"unable to open config file.*(no such file or directory|(key|bucket|file) does not exist)", re.S
)


class Repository:
    """What restic keeps, by the settings."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.url: str = settings["repository"]
        self._options: list[str] = []
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin",
            "HOME": "/nonexistent",
            "LC_ALL": "C.UTF-8",
            "RESTIC_REPOSITORY": self.url,
            "RESTIC_PASSWORD_FILE": str(HERE / "password"),
            "RESTIC_CACHE_DIR": "/var/cache/pacs-backup",
            "RESTIC_PROGRESS_FPS": "0.01",
            "TMPDIR": os.environ.get("TMPDIR", "/var/tmp"),
        }
        self._environment |= read(HERE / "s3.json")
        if (HERE / "ca.crt").exists():
            self._options += ["--cacert", str(HERE / "ca.crt")]
        far = re.fullmatch(r"sftp:(?://)?([^@/:]+)@(\[[^]]+\]|[^:/]+)(?::(\d+)/|[:/])(/?.*)", self.url)
        if far:
            words = [
                "ssh",
                "-F/dev/null",
                f"-i{HERE}/sftp.key",
                f"-oUserKnownHostsFile={HERE}/known_hosts",
                f"-l{far[1]}",
            ]
            words += [f"-o{word}" for word in ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes")]
            words += ["-oConnectTimeout=30", "-oServerAliveInterval=30", *([f"-p{far[3]}"] if far[3] else [])]
            self._options += ["-o", f"sftp.command={' '.join([*words, far[2].strip('[]'), '-s', 'sftp'])}"]

    def run(self, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run restic, and return what came of it."""
        try:
            return subprocess.run(
                ["restic", *self._options, *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            said = error.stderr or b""
            lines = (said if isinstance(said, str) else said.decode(errors="replace")).strip().splitlines()
            raise Failed(
                f"The repository {self.url} cannot be reached: no answer in {timeout:.0f} s."
                f" {' '.join(lines[-1:])}".strip()
            ) from error

    def refused(self, done: subprocess.CompletedProcess[str]) -> Failed:
        """Return what restic failed with, in words."""
        # Passing tries come before what it ends with.
        said = " ".join(done.stderr.split()) or " ".join(done.stdout.split()[-30:])
        why = next((text for pattern, text in ELSEWHERE if re.search(pattern, said)), "restic fails")
        return Failed(f"The repository {self.url}: {why}. restic says: {said[-600:]}")

    def ask(self, *arguments: str, timeout: float | None = None) -> str:
        """Run restic, which has to succeed, and return what it prints. :raises Failed: if it does not."""
        done = self.run(*arguments, timeout=timeout)
        if done.returncode:
            raise self.refused(done)
        return done.stdout

    def number(self) -> str:
        """Return by what the repository is known; nothing if there is none at that place."""
        done = self.run("--no-lock", "cat", "config", timeout=SILENT)
        if done.returncode == 0:
            return str(json.loads(done.stdout)["id"])
        if done.returncode == 10 or NOT_THERE.search(done.stderr):
            return ""
        raise self.refused(done)

    def snapshots(self, tag: str = "pacs") -> list[dict[str, Any]]:
        """Return the backups, the oldest first: those of an index, each of which names its files."""
        words = ["--no-lock", "--json", "snapshots", "--tag", tag]
        found: list[dict[str, Any]] = json.loads(self.ask(*words, timeout=5 * SILENT) or "[]")
        return sorted(found or [], key=taken)


def taken(snapshot: dict[str, Any]) -> datetime.datetime:
    """Return when a backup was begun; restic counts nanoseconds, and Python does not."""
    text = re.sub(r"\.\d+", "", str(snapshot["time"])).replace("Z", "+00:00")
    return datetime.datetime.fromisoformat(text).astimezone()


def tagged(snapshot: dict[str, Any], name: str) -> str:
    """Return what a backup says of itself: by what its archive is known, or where the copy of the index is in it."""
    return next((tag.partition("=")[2] for tag in snapshot.get("tags") or [] if tag.startswith(f"{name}=")), "")


# ---- What this host does.


class Backup:
    """The backups of this host."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        # restic keeps a link as a link.
        self.storage: str = os.path.realpath(settings["storage_dir"])
        self.index = os.path.join(os.path.realpath(settings["index_dir"]), "index")
        self.stage = pathlib.Path(self.index).with_name(STAGE)
        self.mark = pathlib.Path(self.index).with_name(ARCHIVE)
        # Where files are held, on the disk that they are on.
        self.held = pathlib.Path(self.storage, STAGE, "files")
        self.repository = Repository(settings)

    @functools.cached_property
    def copy(self) -> pathlib.Path:
        """The copy of the index."""
        return owned(self.stage)[1] / "index"

    @functools.cached_property
    def holding(self) -> pathlib.Path:
        """The folder of files that are held."""
        return owned(self.held.parent)[1] / self.held.name

    # What is kept of it on the host.

    def status(self) -> dict[str, Any]:
        return read(STATE / "status.json")

    def note(self, **changes: Any) -> None:
        """Tell a monitor how it stands."""
        common = {"host": self.settings["host"], "repository": self.repository.url}
        put(STATE / "status.json", common | self.status() | common | changes)

    def same(self, found: str) -> None:
        """See whether the repository is the one of before. :raises Failed: if it is not."""
        before = read(STATE / "repository.json")
        url = self.repository.url
        if before.get("url") == url and before["id"] != found:
            what = "is not there any more" if not found else "is another one by now"
            raise Failed(
                f"The repository {url}, which had the backups of this host, {what}. Is its disk mounted? If it is gone"
                f" for good, remove {STATE}/repository.json, and run playbooks/site.yml for a new one."
            )

    def ours(self) -> str:
        """Return by what this archive is known. :raises Failed: if the last backup by this name is of another one."""
        mine = self.name()
        snapshots = self.repository.snapshots()
        last = tagged(snapshots[-1], "archive") if snapshots else mine
        if last != mine and read(STATE / "begun.json") != {"archive": mine, "after": last}:
            host, when = self.settings["host"], f"{taken(snapshots[-1]):%Y-%m-%d %H:%M}"
            raise Failed(
                f"The last backup of {host} in {self.repository.url} is of another archive than the one on this host"
                f" ({when}): nothing was backed up, since it would take its place. If this host is to have it, run"
                " playbooks/restore.yml. If it is another host's, give each a repository of its own."
                f' If the archive of before is given up, run playbooks/backup.yml with -e \'{{"begin": "new archive of'
                f" {host}\"}}'."
            )
        return mine

    def begin(self) -> None:
        """Take the archive on this host for another one than the one that was backed up last, which it follows."""
        snapshots = self.repository.snapshots()
        self.named(str(uuid.uuid4()))
        if snapshots:
            after = tagged(snapshots[-1], "archive")
            put(STATE / "begun.json", {"archive": self.name(), "after": after})

    def named(self, archive: str) -> None:
        """Have the archive on this host known by a name."""
        folder = way(open_folder(self.mark.parent))
        (folder / ARCHIVE).unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(folder / ARCHIVE, flags, 0o644), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(f"{archive}\n")
            file.flush()
            os.fsync(file.fileno())

    def name(self) -> str:
        """Return by what name the archive on this host is known; nothing if by none."""
        try:
            with open(os.open(self.mark, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="utf-8") as file:
                found = file.read(100).strip()
        except FileNotFoundError:
            return ""
        return found if NAME.fullmatch(found) else "?"

    # What it is asked for.

    def prepared(self) -> bool:
        """Tell whether nothing has to be done. :raises Failed: if the repository is not the one of before."""
        found = self.repository.number()
        self.same(found)
        there = read(STATE / "repository.json") == {"url": self.repository.url, "id": found}
        return there and (self.mark.exists() or bool(self.repository.snapshots()))

    def prepare(self) -> bool:
        """Have a repository. Return whether that, or anything else, is new."""
        found, changed = self.repository.number(), False
        self.same(found)
        if not found:
            self.repository.ask("init", timeout=SILENT)
            found, changed = self.repository.number(), True
        here = {"url": self.repository.url, "id": found}
        if read(STATE / "repository.json") != here:
            put(STATE / "repository.json", here, 0o600)
            changed = True
        # Else it is told at the first backup: on a new host, the archive of before may not be there yet.
        if not self.mark.exists() and not self.repository.snapshots():
            self.begin()
            changed = True
        return changed

    def whole(self) -> None:
        """See whether the archive is there. :raises Failed: if its disk is not mounted, or a part of it elsewhere."""
        for folder in sorted({self.storage, os.path.dirname(self.index)}):
            if not os.path.isfile(os.path.join(folder, MARK)):
                raise Failed(
                    f"{folder} does not have the mark {MARK} of an archive, and nothing was backed up. Is its disk"
                    " mounted? If it is the right one, run playbooks/site.yml."
                )
        levels = "[0-9a-f]" * 2
        for pattern in (levels, f"{levels}/{levels}"):
            for path in glob.iglob(f"{glob.escape(self.storage)}/{pattern}"):
                if os.path.islink(path):
                    raise Failed(
                        f"{path} is a link, of which restic would keep the link alone: nothing was backed up. Have the"
                        " folder itself there (mount --bind), or all of the archive on one disk."
                    )

    def dated(self) -> None:
        """See whether the clock is right. :raises Failed: if the last backup is of the future."""
        snapshots = self.repository.snapshots()
        if snapshots and taken(snapshots[-1]).timestamp() > time.time() + SKEW:
            raise Failed(
                f"The last backup is of {taken(snapshots[-1]):%Y-%m-%d %H:%M}, and it is {now()} on this host: nothing"
                " was backed up, since they are forgotten by their dates. Set the clock; if it is right, have"
                f" restic forget snapshot {str(snapshots[-1]['id'])[:8]}."
            )

    def run(self, began: float) -> None:
        """Back up. :raises Failed: also if it was done, and something is wrong with what there is."""
        self.same(self.repository.number())
        archive = self.ours()
        self.whole()
        self.dated()
        # Of a run that was killed: no other host has this repository.
        self.repository.ask("unlock", timeout=5 * SILENT)
        pause = 0.0
        for _ in range(PASSES):
            lasted = self.copied()
            pause = max(pause, lasted)
            try:
                counts, before = check_index(self.copy), {name for name, *_ in known(self.copy)}
            except Failed as error:
                files, *_ = self.saved(["pacs-files"], self.paths())
                raise Failed(f"{error} The files alone were backed up, as snapshot {files}.") from error
            lost = {name for name in before if not place(self.storage, name).exists()}
            passed = time.monotonic()
            files, added, seen, unread = self.saved(["pacs-files"], self.paths())
            if time.monotonic() - passed < LONG:
                break
        # What restic may have missed has come since: it is held until restic has that, too.
        lasted = self.copied(lambda: self.hold_new(counts["top"]))
        pause, counts = max(pause, lasted), check_index(self.copy)
        here = {name for name, *_ in known(self.copy)}
        gone = {name for name in here - before if not self.hold(name)}
        missing = sorted((lost & here) | gone)
        # Those were there all the time.
        steady = len((before & here) - lost) - len(unread)
        told = {"host": self.settings["host"], "storage_dir": self.storage, "index_dir": os.path.dirname(self.index)}
        told |= {name: counts[name] for name in ("instances", "files", "bytes", "writer")}
        told |= {"index_bytes": size(self.copy), "missing": missing, "held": str(self.held)}
        put(self.copy.with_name("backup.json"), {**told, "archive": archive, "time": now()}, 0o600)
        tags = ["pacs", f"archive={archive}", f"index={self.stage}", f"files={files}"]
        snapshot, new, _, other = self.saved(tags, sorted({str(self.stage), str(self.held.parent)}))
        if self.name() != archive:
            raise Failed("Another archive took the place of this one meanwhile.")
        self.note(missing=len(missing))
        wrong = self.against(missing, steady, seen, unread + other)
        if wrong:
            self.clear()
            raise Failed(
                f"{' '.join(wrong)} What is there was backed up, as {snapshot}, and no older backup forgotten."
            )
        success = {
            "snapshot": snapshot,
            "time": now(),
            "epoch": int(time.time()),
            "seconds": round(time.monotonic() - began, 1),
            "pause_seconds": round(pause, 3),
            "instances": counts["instances"],
            "files": counts["files"],
            "bytes": counts["bytes"],
            "added_bytes": added + new,
            "missing": len(missing),
            "not_tidied": self.forgotten(snapshot),
        }
        earlier = self.status().get("success") or {}
        if success["not_tidied"]:
            success["untidy_since"] = earlier.get("untidy_since") or success["epoch"]
        self.clear()
        self.note(running="", problem="", success=success, accepted=0)
        size_of = f"{counts['bytes'] >> 20} MiB in {counts['files']} files, {added + new >> 20} MiB of them new"
        stood = f"Orthanc stood still for {pause * 1000:.0f} ms"
        say(f"Backed up {counts['instances']} images ({size_of}) as {snapshot} in {success['seconds']} s; {stood}.")

    def against(self, missing: list[str], steady: int, seen: int, unread: list[str]) -> list[str]:
        """Return what keeps a backup from taking the place of older ones."""
        status, wrong = self.status(), []
        success = status.get("success")
        before = max(success["missing"] if success else 0, status.get("accepted", 0))
        # The first one takes nothing away.
        if success and len(missing) > before:
            host = self.settings["host"]
            wrong.append(
                f"{len(missing)} files that the index knows are not there ({before} were not before), such as"
                f" {missing[0]}. Is a disk not mounted? playbooks/restore.yml takes them from an earlier backup; if"
                f' they are given up, run playbooks/backup.yml with -e \'{{"lost": "{len(missing)} files of'
                f" {host}\"}}'."
            )
        if seen < steady:
            wrong.append(f"restic took {seen} files, and there are {steady} of images.")
        if unread:
            wrong.append(f"{len(unread)} files could not be read, such as {', '.join(unread[:3])}. See to the disk.")
        return wrong

    def accept(self, count: int) -> None:
        """Take so many files for lost. :raises Failed: if that is not how many are missing."""
        missing = self.status().get("missing", 0)
        if count != missing:
            raise Failed(f"At the last backup {missing} files were missing, and not {count}; nothing was done.")
        self.note(accepted=count)

    def copied(self, also: Callable[[], None] = lambda: None) -> float:
        """Have a copy of the index. Return for how long Orthanc stood still."""
        self.clear()
        takes = size(self.index) + sum(size(self.index + end) for end in LOGS)
        free = shutil.disk_usage(self.stage).free
        if not os.path.exists(self.index):
            raise Failed(f"There is no index in {self.settings['index_dir']}; see systemctl status orthanc.")
        # Orthanc writes to the same disk.
        if free < 2 * takes + 256 * MIB:
            raise Failed(
                f"A copy of the index takes {takes // MIB} MiB beside it, and {self.settings['index_dir']} has"
                f" {free // MIB} MiB free; make room for {(2 * takes) // MIB + 256}."
            )
        return copy_index(self.index, self.copy, self.settings["pause_seconds"], also)

    def hold_new(self, top: int) -> None:
        """Hold the files of what has come after a resource, while nobody can delete them."""
        with opened(self.copy, "rw") as connection:
            # Orthanc waits for it, and a copy that is lost is made again.
            connection.execute("PRAGMA synchronous = OFF")
            names = connection.execute("SELECT uuid FROM AttachedFiles WHERE id > ?", (top,)).fetchall()
        self.holding.mkdir(exist_ok=True)
        for (name,) in names:
            if NAME.fullmatch(name):
                self.hold(name)

    def hold(self, name: str) -> bool:
        """Have a file outlast that Orthanc deletes it. Return whether it was there."""
        try:
            os.link(place(self.storage, name), self.holding / name, follow_symlinks=False)
        except FileExistsError:
            return True
        except FileNotFoundError:
            # Orthanc has deleted it, before or after it was held.
            return (self.holding / name).exists()
        except OSError:
            # A file system without links.
            copy_file(str(place(self.storage, name)), self.holding / name, "--no-dereference")
        return True

    def saved(self, tags: list[str], paths: list[str]) -> tuple[str, int, int, list[str]]:
        """Have restic take paths. Return its snapshot, how many bytes are new, of how many files, and what is unread.

        What went meanwhile is not among that, and the index knows it.
        """
        skipped = [self.index + end for end in ("", *LOGS, "-shm")]
        skipped += [os.path.join(self.storage, name) for name in OURS]
        if self.storage in paths:
            skipped += [str(self.stage), str(self.held.parent)]
        arguments = ["--json", "--quiet", "backup", "--host", self.settings["host"]]
        arguments += [word for tag in tags for word in ("--tag", tag)]
        arguments += [f"--exclude={path}" for path in skipped]
        done = self.repository.run(*arguments, "--", *paths)
        lines = [line for line in map(parsed, done.stdout.splitlines()) if line.get("message_type") == "summary"]
        if done.returncode not in (0, 3) or not lines:
            raise self.repository.refused(done)
        unread = [line["item"] for line in map(parsed, done.stderr.splitlines()) if line.get("message_type") == "error"]
        there = [path for path in unread if os.path.lexists(path)]
        if done.returncode == 3 and not unread:
            there = [" ".join(done.stderr.split())[-300:]]
        last = lines[-1]
        return str(last["snapshot_id"]), int(last.get("data_added", 0)), int(last["total_files_processed"]), there

    def paths(self) -> list[str]:
        """Return what is backed up beside the index, each for itself: what is in another one comes with it."""
        found: list[str] = []
        for path in [self.storage, "/etc/pacs", *self.settings["paths"]]:
            if os.path.exists(path) and not any(os.path.commonpath([path, other]) == other for other in found):
                found.append(path)
        return found

    def forgotten(self, made: str) -> str:
        """Have restic forget what is not kept any more. Return why it does not: the backup is made all the same.

        Without anything to keep that is done elsewhere, by whoever may.

        :raises Failed: if the backup that was just made went with it.
        """
        keep = [word for name, count in self.settings["keep"].items() for word in (f"--keep-{name}", str(count))]
        words = ["--quiet", "forget", "--tag", "pacs", "--group-by", ""]
        try:
            if not keep:
                return ""
            self.repository.ask(*words, *keep)
            left = self.repository.snapshots()
            # The files of an index go with it.
            named = {tagged(one, "files")[:8] for one in left}
            files = [str(one["id"]) for one in self.repository.snapshots("pacs-files")]
            spare = [number for number in files if number[:8] not in named]
            if spare:
                self.repository.ask("--quiet", "forget", "--prune", *spare)
        except Failed as error:
            return str(error)
        if made[:8] not in {str(one["id"])[:8] for one in left}:
            raise Failed(f"The backup {made} was forgotten as soon as it was made: see to the clock of this host.")
        return ""

    def clear(self) -> None:
        """Remove the copy, and what is held: Orthanc has each of these files under its own name, or not any more."""
        for name in ("index", *(f"index{end}" for end in (*LOGS, "-shm")), "backup.json", ".backup.json.new"):
            self.copy.with_name(name).unlink(missing_ok=True)
        for path in self.holding.glob("*-*"):
            path.unlink()

    def ended(self) -> None:
        """After a run, however it ended: Orthanc goes on, and a run that was killed is a failure."""
        thaw(self.index)
        # What is there may be of another one, which this one has waited for.
        with contextlib.suppress(Busy), alone(BRIEF):
            if self.status().get("running"):
                result = os.environ.get("SERVICE_RESULT", "unknown")
                self.note(
                    running="", problem=f"The backup was ended from outside ({result}); see journalctl -u pacs-backup."
                )
            self.clear()

    def doubt(self, success: dict[str, Any], age: int | None, gap: int, running: str) -> str:
        """Return what is wrong though the last backup has not failed."""
        if (STATE / "moves.json").exists():
            return "A restore was cut off, and Orthanc does not start before its end; run playbooks/restore.yml again."
        if running:
            with contextlib.suppress(Busy), alone(0):
                return (
                    f"The backup that was begun at {running} was cut off, as by a loss of power; the next one is due."
                )
        if age is None:
            return "" if running else "There is no backup yet; run playbooks/backup.yml."
        if age < -SKEW:
            return f"The last backup is of the future ({success['time']}): see to the clock of this host."
        if age > 2 * gap:
            return (
                f"The last backup is {age // 3600} h old, and one is due every {gap // 3600} h; see systemctl status"
                " pacs-backup.timer."
            )
        if success.get("untidy_since", time.time()) < time.time() - UNTIDY:
            return f"Older backups have not been forgotten for weeks: {success['not_tidied']}"
        return ""

    def report(self) -> dict[str, Any]:
        """Return how it stands, and what is wrong with that."""
        found = self.status()
        success, wrong = found.get("success"), str(found.get("problem", ""))
        age = int(time.time()) - success["epoch"] if success else None
        gap = widest(self.settings["calendar"])
        wrong = wrong or self.doubt(success or {}, age, gap, str(found.get("running", "")))
        told = found.get("drill", {}).get("wrong")
        if not wrong and told:
            wrong = f"The last drill has failed: {told}"
        drill = read(pathlib.Path(found.get("drill", {}).get("report", "/nowhere")))
        return {**found, "age_seconds": age, "due_seconds": gap, "wrong": wrong, "drill_report": drill}


# ---- The drill.

DRILLED = "pacs-drill-orthanc"
# How many images the restored Orthanc is asked for, at most.
ASKED = 200
# It answers nobody but this host, sends nothing, listens to no modality and goes on with no job.
QUIET = {
    "Name": "DRILL",
    "Plugins": [],
    "HttpPort": 8042,
    "RemoteAccessAllowed": False,
    "AuthenticationEnabled": False,
    "DicomServerEnabled": False,
    "SaveJobs": False,
}


class Beside:
    """A folder beside the images, in which a backup is restored."""

    NAME = ""

    def __init__(self, backup: Backup, above: str = "") -> None:
        self.backup, self.repository = backup, backup.repository
        self.folder = pathlib.Path(above or backup.storage, self.NAME)
        self.report: dict[str, Any] = {}

    @functools.cached_property
    def opened(self) -> tuple[int, pathlib.Path]:
        return owned(self.folder)

    @property
    def tree(self) -> pathlib.Path:
        """What was restored."""
        return self.opened[1] / "tree"

    def inside(self, path: str) -> pathlib.Path:
        return self.tree / path.lstrip("/")

    def real(self, path: pathlib.Path) -> str:
        """Return the path of something in it that holds for other processes as well."""
        return str(self.folder / path.relative_to(self.opened[1]))

    def clear(self, ours: re.Pattern[str] | None = None) -> None:
        """Remove what was restored: files by the names that Orthanc gives them, and folders that are empty then."""
        for _path, folders, names, at in os.fwalk(".", topdown=False, dir_fd=self.opened[0]):
            for name in filter((ours or FILE).fullmatch, names):
                os.unlink(name, dir_fd=at)
            for name in folders:
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=at)

    def away(self, ours: re.Pattern[str] | None = None) -> None:
        """Remove the folder as well."""
        self.clear(ours)
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)

    def holds(self) -> int:
        """Return how many bytes were restored already."""
        found = 0
        for _path, _folders, names, at in os.fwalk(".", dir_fd=self.opened[0]):
            found += sum(os.stat(name, dir_fd=at, follow_symlinks=False).st_size for name in names)
        return found

    def room(self, told: dict[str, Any], files: int, way_out: str) -> None:
        """See whether index and files fit beside the archive, which is in use. :raises Failed: if not."""
        needed = max(0, files + told.get("index_bytes", 0) - self.holds())
        disk = shutil.disk_usage(self.folder.parent)
        spare = max(disk.total // SPARE, 1024 * MIB)
        if disk.free < needed + spare:
            raise Failed(
                f"The backup takes {needed // MIB} MiB more in {self.folder}, whose disk has {disk.free // MIB} MiB"
                f" free, of which {spare // MIB} are for images that come. {way_out}"
            )


class Drill(Beside):
    """The last backup, restored beside the archive, with an Orthanc of its own that nobody reaches."""

    NAME = ".pacs-drill"

    def __init__(self, backup: Backup) -> None:
        super().__init__(backup, os.path.realpath(backup.settings.get("drill_folder") or backup.storage))

    def run(self) -> None:
        """Restore, compare and start it. :raises Failed: if anything is not as it has to be."""
        began = time.monotonic()
        percent = self.backup.settings["drill_percent"]
        self.backup.same(self.repository.number())
        snapshots = self.repository.snapshots()
        if not snapshots:
            raise Failed(f"There is no backup of {self.backup.settings['host']} in {self.repository.url} to restore.")
        last = snapshots[-1]
        stage = tagged(last, "index")
        told = json.loads(self.repository.ask("dump", str(last["id"]), f"{stage}/backup.json"))
        before = self.backup.status().get("drill", {})
        folders = chosen(percent, before.get("next", 0))
        self.report = {
            "host": self.backup.settings["host"],
            "repository": self.repository.url,
            "time": now(),
            "snapshot": str(last["id"]),
            "backed_up": told["time"],
            "percent": percent,
            "folders": sorted(folders) if percent < 100 else "all",
        }
        if not self.folder.parent.is_dir():
            raise Failed(f"backup_drill_folder: {self.folder.parent} is not there. Is its disk mounted?")
        self.clear()
        way_out = "Have the drill restore less (backup_drill_percent), or on another disk (backup_drill_folder)."
        self.room(told, told["bytes"] * len(folders) // 256, way_out)
        damage = self.read_all(percent, before.get("part", 0))
        self.restored(last, told, folders)
        damage += self.report.pop("unrestored")
        index, storage = self.inside(stage) / "index", self.inside(told["storage_dir"])
        counts = check_index(index)
        compared, wrong = compare(index, storage, folders, sums=True)
        self.report |= {"images": counts["instances"], "files": compared}
        # Those have come while the files were read, after the index.
        self.report |= {**wrong, "unknown": len(wrong["unknown"])}
        # It was missing in the archive, which is told there.
        lost = set(told.get("missing", []))
        self.report["missing_before"] = [line for line in wrong["missing"] if line.split()[0] in lost]
        self.report["missing"] = wrong["missing"] = [line for line in wrong["missing"] if line.split()[0] not in lost]
        self.report["damage"] = damage
        # The next one goes on from there.
        self.report["next"] = (before.get("next", 0) + len(folders)) % 256
        self.report["served"] = self.served(index, storage, folders, counts["instances"])
        self.report["seconds"] = round(time.monotonic() - began, 1)
        if damage or wrong["missing"] or wrong["damaged"]:
            raise Failed(
                f"The backup of {told['time']} is not whole: {len(wrong['missing'])} files are missing and"
                f" {len(wrong['damaged'])} damaged, of {compared}. {' '.join(damage[:3])}".strip()
            )
        if counts["instances"] != told["instances"]:
            raise Failed(f"The index has {counts['instances']} images, and was backed up with {told['instances']}.")

    def read_all(self, percent: int, before: int) -> list[str]:
        """Have restic read what is in the repository, or the part after that of before. Return what is damaged."""
        parts = -(-100 // percent)
        number = before % parts + 1
        self.report["part"] = number
        done = self.repository.run(
            "--no-lock", "check", *(["--read-data"] if percent == 100 else [f"--read-data-subset={number}/{parts}"])
        )
        if done.returncode == 0:
            return []
        return [str(self.repository.refused(done))]

    def restored(self, snapshot: dict[str, Any], told: dict[str, Any], folders: set[str]) -> None:
        """Restore the index and the files of some folders."""
        began = time.monotonic()
        names = ["[0-9a-f][0-9a-f]"] if len(folders) == 256 else sorted(folders)
        said = restore(self.repository, snapshot, told, self.tree, names)
        self.report["restore_seconds"] = round(time.monotonic() - began, 1)
        self.report["unrestored"] = said
        if not (self.inside(tagged(snapshot, "index")) / "index").exists():
            raise Failed(f"The index is not in the backup, or cannot be read. {' '.join(said)}")
        os.chown(self.opened[0], -1, pwd.getpwnam("orthanc").pw_gid)
        os.chmod(self.opened[0], 0o750)

    def served(self, index: pathlib.Path, storage: pathlib.Path, folders: set[str], images: int) -> int:
        """Have an Orthanc serve it, in a network of its own. Return how many images it has handed out as they were.

        :raises Failed: if it does not start, or another number of images, or another image, comes from it.
        """
        with opened(index) as connection:
            rows = connection.execute(
                "SELECT publicId, uncompressedMD5, uuid FROM AttachedFiles JOIN Resources"
                " ON Resources.internalId = AttachedFiles.id WHERE fileType = 1 AND uncompressedMD5 <> ''"
            )
            known_sums = [
                (owner, digest)
                for owner, digest, name in rows
                if name[:2] in folders and NAME.fullmatch(name) and place(storage, name).exists()
            ]
        asked = dict(known_sums[:: max(1, len(known_sums) // ASKED)][:ASKED])
        settings = self.folder / "orthanc.json"
        folders_of = {"StorageDirectory": self.real(storage), "IndexDirectory": self.real(index.parent)}
        put(self.opened[1] / settings.name, {**QUIET, **folders_of})
        command, container = orthanc_command(str(settings), str(self.folder))
        properties = ["PrivateNetwork=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "Nice=19"]
        properties += [f"ReadWritePaths={self.folder}", f"User={'root' if container else 'orthanc'}"]
        run = ["systemd-run", "--quiet", "--collect", f"--unit={DRILLED}", *(f"--property={one}" for one in properties)]
        try:
            subprocess.run([*run, "--", *command], check=True, capture_output=True, text=True)
            answers = ask_inside(container, asked)
        finally:
            stop_drilled()
        self.report["orthanc"] = answers["version"]
        if answers["images"] != images:
            raise Failed(f"Orthanc has {answers['images']} images of the backup, and its index {images}.")
        if answers["other"]:
            raise Failed(
                f"Orthanc does not hand out {len(answers['other'])} images as they were: {answers['other'][:3]}"
            )
        return len(asked)

    def note(self, problem: str) -> str:
        """Leave the report, dated, and tell a monitor. Return where it is."""
        self.report["wrong"] = problem
        # One that did not get that far does not begin anew.
        before = self.backup.status().get("drill", {})
        self.report = {name: before[name] for name in ("next", "part") if name in before} | self.report
        path = STATE / "drills" / f"{datetime.datetime.now():%Y-%m-%dT%H%M%S}.json"
        path.parent.mkdir(mode=0o755, exist_ok=True)
        put(path, self.report)
        self.backup.note(
            drilling="", drill={"time": now(), "epoch": int(time.time()), "report": str(path), **self.report}
        )
        return str(path)


FILE = re.compile(rf"{NAME.pattern}|index(-wal|-shm|-journal)?|\.?(backup|moves|orthanc|report)\.json(\.new)?")


def chosen(percent: int, first: int) -> set[str]:
    """Return which of the 256 folders of an archive are restored: each time the next ones."""
    count = -(-256 * percent // 100)
    return {f"{(first + number) % 256:02x}" for number in range(count)}


def orthanc_command(settings: str, folder: str) -> tuple[list[str], bool]:
    """Return how the very Orthanc of this host is started with other settings, and whether it is in a container."""
    said = subprocess.run(
        ["systemctl", "show", "orthanc", "--property=ExecStart"], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"argv\[\]=(.*?) ;", said)
    if not found:
        raise Failed("There is no orthanc.service on this host, whose Orthanc could be tried; run playbooks/site.yml.")
    words = found[1].split()
    if os.path.basename(words[0]) != "docker":
        return [words[0], settings], False
    kept = [word for word in words if re.match(r"--(user|userns)=", word)]
    options = ["--rm", "--pull=never", "--no-healthcheck", "--log-driver=none", "--network=none", "--read-only"]
    options += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--volume=/etc/localtime:/etc/localtime:ro"]
    options += ["--volume=/tmp", f"--volume={folder}:{folder}"]
    return [words[0], "run", f"--name={DRILLED}", *options, *kept, "--entrypoint=Orthanc", words[-2], settings], True


def restore(
    repository: Repository,
    snapshot: dict[str, Any],
    told: dict[str, Any],
    tree: pathlib.Path,
    names: Iterable[str],
    index: bool = True,
) -> list[str]:
    """Restore some files, with their index, for Orthanc's user. Return what restic has against it."""
    said = []
    words = [word for name in names for word in ("--include", f"{told['storage_dir']}/{name}")]
    for asked in ([tagged(snapshot, "files"), *words], *([[str(snapshot["id"])]] if index else [])):
        done = repository.run("restore", "--target", str(tree), *asked)
        said += [str(repository.refused(done))] if done.returncode else []
    settle(tree, told)
    return said


def settle(tree: pathlib.Path, told: dict[str, Any]) -> None:
    """Have what was restored be Orthanc's, and what was held be in its place.

    Whoever had taken Orthanc over could have had links backed up: nothing is followed, and none is left.
    """
    owner = pwd.getpwnam("orthanc")
    for _path, folders, files, at in os.fwalk(tree):
        for name in (*folders, *files):
            if stat.S_IFMT(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode) in (stat.S_IFDIR, stat.S_IFREG):
                os.chown(name, owner.pw_uid, owner.pw_gid, dir_fd=at, follow_symlinks=False)
            else:
                os.unlink(name, dir_fd=at)
    storage = pathlib.Path(tree, told["storage_dir"].lstrip("/"))
    for path in pathlib.Path(tree, told["held"].lstrip("/")).glob("*-*"):
        target = place(storage, path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
        for one in (target.parent.parent, target.parent):
            os.chown(one, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def stop_drilled() -> None:
    subprocess.run(["systemctl", "stop", f"{DRILLED}.service"], check=False, capture_output=True)


def ask_inside(container: bool, asked: dict[str, str]) -> dict[str, Any]:
    """Ask the Orthanc of the drill from inside of its network."""
    show = ["systemctl", "show", f"{DRILLED}.service", "--property=MainPID", "--value"]
    if container:
        show = ["docker", "inspect", "--format={{.State.Pid}}", DRILLED]
    end = time.monotonic() + 120
    pid = "0"
    while pid in ("", "0") and time.monotonic() < end:
        pid = subprocess.run(show, check=False, capture_output=True, text=True).stdout.strip()
        time.sleep(0.2)
    if pid in ("", "0"):
        raise Failed(f"The Orthanc of the drill does not start; see journalctl -u {DRILLED}.")
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, __file__, "ask"]
    done = subprocess.run(command, input=json.dumps(asked), check=False, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"The Orthanc of the drill does not answer: {done.stderr.strip()}; see journalctl -u {DRILLED}.")
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def ask(asked: dict[str, str]) -> dict[str, Any]:
    """Ask the only Orthanc of this network how many images it has, and for some of them."""
    end = time.monotonic() + 120
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", 8042, timeout=60)
            version = json.loads(got(connection, "/system"))["Version"]
            break
        except (OSError, http.client.HTTPException):
            if time.monotonic() > end:
                raise Failed("no answer in 120 s") from None
            time.sleep(0.5)
    images = json.loads(got(connection, "/statistics"))["CountInstances"]
    other = []
    for name, digest in asked.items():
        content = got(connection, f"/instances/{name}/file")
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
            other.append(name)
    return {"version": version, "images": images, "other": other}


def got(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()


# ---- The restore.

# What of an archive lies in its folders, by the names that Orthanc gives it.
LEVEL = re.compile(r"[0-9a-f]{2}")
INDEX = ("index", "index-wal", "index-shm", "index-journal")


# What is left in the folder once all is in its place.
LEFT = re.compile(r"index|\.?backup\.json(\.new)?")
EVERYTHING = frozenset(f"{number:02x}" for number in range(256))


class Restore(Beside):
    """A backup in the place of the archive; what is there is kept beside it."""

    NAME = ".pacs-restore"

    def __init__(self, backup: Backup) -> None:
        super().__init__(backup)
        # Where nobody but root writes. As long as the first is there, systemd does not start Orthanc.
        self.moves, self.begun = STATE / "moves.json", STATE / "restore.json"

    def images(self) -> int:
        """Return how many files of images there are."""
        levels = "[0-9a-f]" * 2
        return sum(1 for _ in glob.iglob(f"{glob.escape(self.backup.storage)}/{levels}/{levels}/*"))

    def asks(self, there: int) -> Failed:
        """Return what is said where images would make way without words."""
        host = self.backup.settings["host"]
        return Failed(
            f"Nothing was restored, since {self.backup.storage} has {there} files of images. To have the backup in"
            f' their place, say -e \'{{"restore": "archive of {host}"}}\': what is there is kept beside it then.'
        )

    def run(self, wanted: str, over: bool, lacking: int = 0) -> dict[str, Any]:
        """Restore. Return what came of it. :raises Failed: if nothing was changed, or if it does not work.

        :param over: whether images that are there may make way.
        :param lacking: without how many files it is good enough, where not all of the repository can be read.
        """
        if self.moves.exists():
            # Of a run that was cut off in the middle, what it had restored takes its place first.
            return self.placed(over)
        if not over and (there := self.images()):
            raise self.asks(there)
        self.backup.same(self.repository.number())
        snapshot, others = self.picked(wanted)
        stage = tagged(snapshot, "index")
        told = json.loads(self.repository.ask("dump", str(snapshot["id"]), f"{stage}/backup.json"))
        self.fits(snapshot, told)
        said = restore(self.repository, snapshot, told, self.tree, ["[0-9a-f][0-9a-f]"])
        index, storage = self.inside(stage) / "index", self.inside(told["storage_dir"])
        if not index.exists():
            raise Failed(f"Nothing was restored: the index cannot be read. {' '.join(said)}")
        check_index(index)
        compared, wrong = compare(index, storage, set(EVERYTHING), sums=True)
        self.earlier(index, storage, told, others, wrong)
        lost = len(wrong["missing"]) + len(wrong["damaged"])
        if said and lost > lacking:
            raise Failed(
                f"Nothing of the archive was changed: {lost} of {compared} files cannot be had. {' '.join(said)} To"
                f' have what can be had, which is in {self.folder}, say -e \'{{"lacking": "{lost} files"}}\'.'
            )
        storage.mkdir(parents=True, exist_ok=True)
        self.beside_index(index)
        report = {"host": self.backup.settings["host"], "snapshot": str(snapshot["id"]), "backed_up": told["time"]}
        report |= {"files": compared, **wrong, "images": told["instances"], "archive": told["archive"]}
        paths = {"storage": str(storage.relative_to(self.tree)), "index": str(index.parent.relative_to(self.tree))}
        put(self.moves, {"report": report, **paths, "over": over}, 0o600)
        return self.placed(over)

    def fits(self, snapshot: dict[str, Any], told: dict[str, Any]) -> None:
        """See whether this host can take it, before anything is restored. :raises Failed: if it cannot."""
        version = orthanc_version(str(self.folder)) if told.get("writer") else ""
        if version and numbers(version) < numbers(told["writer"]):
            raise Failed(
                f"Nothing was restored: Orthanc {version} of this host would refuse every image, since the index of the"
                f" backup has columns that Orthanc adds from 1.12.8 on. Have Orthanc {told['writer']} or newer first."
            )
        storage = self.backup.storage
        device = os.stat(storage).st_dev
        mounts = [one.path for one in os.scandir(storage) if LEVEL.fullmatch(one.name) and one.stat().st_dev != device]
        if mounts:
            raise Failed(f"Nothing was restored: {mounts[0]} is on another disk than {storage}, or a link.")
        if read(self.begun) != {"snapshot": snapshot["id"]}:
            # Files of another backup would come into the archive.
            self.clear()
            put(self.begun, {"snapshot": snapshot["id"]}, 0o600)
        self.room(told, told["bytes"], "Nothing was restored; make room.")
        beside = shutil.disk_usage(os.path.dirname(self.backup.index))
        if beside.free < told.get("index_bytes", 0) + beside.total // SPARE:
            raise Failed(
                f"Nothing was restored: the index takes {told['index_bytes'] // MIB} MiB in"
                f" {os.path.dirname(self.backup.index)}, which has {beside.free // MIB} MiB free."
            )

    def earlier(
        self,
        index: pathlib.Path,
        storage: pathlib.Path,
        told: dict[str, Any],
        others: list[dict[str, Any]],
        wrong: dict[str, list[str]],
    ) -> None:
        """Take what is not there, or not as it was, from earlier backups: files never change."""
        for other in others[:EARLIER]:
            names = {line.split()[0] for line in wrong["missing"] + wrong["damaged"]}
            if not names:
                return
            asked = {str(place("", name)) for name in names} if len(names) <= INCLUDES else {name[:2] for name in names}
            restore(self.repository, other, told, self.tree, sorted(asked), index=False)
            _, left = compare(index, storage, set(EVERYTHING), sums=True, only=names)
            wrong["missing"], wrong["damaged"] = left["missing"], left["damaged"]

    def beside_index(self, index: pathlib.Path) -> None:
        """Have the index on the disk that it is to be on, where that is another folder."""
        if os.path.dirname(self.backup.index) != self.backup.storage:
            target = self.staged[1] / "index"
            shutil.copyfile(index, target)
            found = os.stat(index)
            opened = os.open(target, os.O_RDONLY | os.O_NOFOLLOW)
            os.fchown(opened, found.st_uid, found.st_gid)
            os.fchmod(opened, stat.S_IMODE(found.st_mode))
            os.fsync(opened)
            os.close(opened)

    @functools.cached_property
    def staged(self) -> tuple[int, pathlib.Path]:
        """A folder of ours beside the index."""
        return owned(pathlib.Path(os.path.dirname(self.backup.index), self.NAME))

    def picked(self, wanted: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the backup that is wanted, and the others of the same archive, the newest first."""
        snapshots = self.repository.snapshots()
        if wanted != "latest":
            # By its number also one of a host with another name.
            said = self.repository.ask("--no-lock", "--json", "snapshots", wanted, timeout=5 * SILENT)
            found = json.loads(said or "[]")
        else:
            found = snapshots[-1:]
        if len(found) != 1 or not tagged(found[0], "index"):
            listed = self.repository.ask("--no-lock", "--json", "snapshots", "--tag", "pacs", timeout=5 * SILENT)
            hosts = sorted({str(one["hostname"]) for one in json.loads(listed or "[]")})
            raise Failed(
                f"Nothing was restored: {self.repository.url} has no backup '{wanted}' of"
                f" {self.backup.settings['host']}; it has those of {', '.join(hosts) or 'nobody'}."
            )
        archive = tagged(found[0], "archive")
        others = [one for one in snapshots if tagged(one, "archive") == archive and one["id"] != found[0]["id"]]
        return found[0], others[::-1]

    def plan(self, told: dict[str, Any]) -> dict[str, Any]:
        """Return what is moved: what is there is kept, what was restored takes its place, and its index comes last."""
        levels = [
            sorted(filter(LEVEL.fullmatch, os.listdir(at))) for at in (self.backup.storage, self.tree / told["storage"])
        ]
        there = os.listdir(os.path.dirname(self.backup.index))
        return {
            "aside": f".pacs-before-{datetime.datetime.now():%Y-%m-%dT%H%M%S%f}",
            "kept": levels[0],
            "kept_index": [name for name in INDEX if name in there],
            "levels": levels[1],
        }

    def move(self, told: dict[str, Any]) -> None:
        """Move what is planned, from and to folders that are open: whoever had taken Orthanc over may rename there."""
        folders = [open_folder(self.backup.storage), open_folder(os.path.dirname(self.backup.index))]
        storage, beside = folders
        if not told.get("kept_all"):
            for at, names in ((storage, told["kept"]), (beside, told["kept_index"])):
                aside = owned(way(at) / told["aside"])[0] if names else -1
                for name in names:
                    moved(name, at, aside)
            os.fsync(storage)
            os.fsync(beside)
            put(self.moves, told | {"kept_all": True}, 0o600)
        restored = open_folder(self.tree / told["storage"])
        for name in told["levels"]:
            moved(name, restored, storage)
        separate = os.path.dirname(self.backup.index) != self.backup.storage
        moved("index", self.staged[0] if separate else open_folder(self.tree / told["index"]), beside)
        os.fsync(storage)
        os.fsync(beside)

    def placed(self, over: bool) -> dict[str, Any]:
        """Have what was restored in its place, and Orthanc serve it."""
        told = read(self.moves)
        if "aside" not in told:
            told = self.stopped(told, over or told["over"])
        else:
            service("stop", "orthanc")
        self.move(told)
        report, storage = told["report"], pathlib.Path(self.backup.storage)
        _, wrong = compare(pathlib.Path(self.backup.index), storage, set(EVERYTHING), sums=False)
        lost = {line for name in ("missing", "damaged") for line in wrong[name]}
        lost -= {line for name in ("missing", "damaged") for line in report[name]}
        if lost:
            raise Failed(
                f"{len(lost)} files that were restored are not in {storage}, such as {sorted(lost)[0]}: somebody else"
                f" is at work there. Orthanc was not started; what was there before is in {storage}/{told['aside']}."
            )
        self.backup.named(report["archive"])
        both = {str(storage), os.path.dirname(self.backup.index)}
        aside = [path for one in sorted(both) for path in [f"{one}/{told['aside']}"] if os.path.exists(path)]
        found = {**report, "time": now(), "aside": aside}
        put(STATE / "restored.json", found)
        self.moves.unlink()
        self.begun.unlink(missing_ok=True)
        service("start", "orthanc")
        found["images_now"] = self.counted()
        put(STATE / "restored.json", found)
        self.away(LEFT)
        if str(storage) != os.path.dirname(self.backup.index):
            with contextlib.suppress(OSError):
                os.rmdir(pathlib.Path(os.path.dirname(self.backup.index), self.NAME))
        if found["images_now"] < report["images"]:
            raise Failed(
                f"Orthanc has {found['images_now']} images, and the backup {report['images']}; see journalctl -u"
                " orthanc."
            )
        return found

    def stopped(self, told: dict[str, Any], over: bool) -> dict[str, Any]:
        """Stop Orthanc, which nothing starts then, and plan. :raises Failed: if images have come that may not go."""
        try:
            service("stop", "orthanc")
            if not over and (there := self.images()):
                raise self.asks(there)
            told = told | self.plan(told)
            put(self.moves, told, 0o600)
        except BaseException:
            self.moves.unlink()
            service("start", "orthanc")
            raise
        return told

    def counted(self) -> int:
        """Return how many images Orthanc has, once it answers."""
        users = read(pathlib.Path(self.backup.settings["config_dir"], "credentials.json"))["RegisteredUsers"]
        login = base64.b64encode(":".join(next(iter(users.items()))).encode()).decode()
        end = time.monotonic() + 600
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.backup.settings["http_port"], timeout=60)
                connection.request("GET", "/statistics", headers={"Authorization": f"Basic {login}"})
                return int(json.loads(connection.getresponse().read())["CountInstances"])
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                if time.monotonic() > end:
                    raise Failed(
                        "Orthanc does not answer with what was restored; see journalctl -u orthanc. What was there"
                        f" before is in {self.backup.storage}/.pacs-before-*."
                    ) from error
                time.sleep(1)


def moved(name: str, source: int, target: int) -> None:
    """Move a name from a folder to another one, if a run that was cut off has not. :raises Failed: if it cannot be."""
    here, there = name in os.listdir(source), name in os.listdir(target)
    if here and not there:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    elif here == there:
        places = [os.readlink(f"/proc/self/fd/{at}") for at in (source, target)]
        raise Failed(
            f"{name} is in {'both' if here else 'neither'} of {' and '.join(places)}: somebody else is at work there."
            " Orthanc was not started, and nothing was removed."
        )


def orthanc_version(folder: str) -> str:
    """Return which release this host has; nothing where it does not say a number."""
    command, _ = orthanc_command("--version", folder)
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"\d+(\.\d+)+", said.partition("\n")[0])
    return found[0] if found else ""


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def service(verb: str, unit: str) -> None:
    subprocess.run(["systemctl", verb, unit], check=True, capture_output=True, text=True)


def parsed(line: str) -> dict[str, Any]:
    """Return a line of JSON; nothing if it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def check_calendar(calendar: str) -> None:
    """See whether systemd knows the times of a timer. :raises Failed: if it does not."""
    done = subprocess.run(["systemd-analyze", "calendar", calendar], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"backup_calendar: systemd does not know '{calendar}': {' '.join(done.stderr.split())}")


def widest(calendar: str) -> int:
    """Return how many seconds there are at most between two of the next runs."""
    done = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=12", calendar],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )
    found = re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", done.stdout)
    times = sorted({datetime.datetime.fromisoformat(text) for text in found})
    gaps = [int((after - before).total_seconds()) for before, after in itertools.pairwise(times)]
    return max(gaps, default=86400)


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def alone(wait: float) -> Iterator[TextIO]:
    """Keep others of this host's off its backups. :raises Failed: if one is at work for so many seconds."""
    with open(os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+", encoding="utf-8") as file:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Busy("A backup, a drill or a restore is at work on this host; wait for its end.") from None
                time.sleep(0.5)
        yield file


def act(verb: str, backup: Backup) -> None:
    """Do what is asked for."""
    if verb in ("report", "now", "drill-now"):
        # One that a timer has begun is waited for instead.
        if verb != "report":
            subprocess.run(["systemctl", "start", UNIT if verb == "now" else DRILL], check=False)
        say(json.dumps(backup.report()))
    elif verb == "check":
        check_calendar(backup.settings["calendar"])
    elif verb == "clean":
        subprocess.run(["systemctl", "clean", "--what=cache", UNIT], check=True)
        # When it has run last.
        subprocess.run(["systemctl", "clean", "--what=state", TIMER], check=True)
    elif verb == "ended":
        backup.ended()
    elif verb == "ask":
        say(json.dumps(ask(json.load(sys.stdin))))
    elif verb == "drilled":
        with contextlib.suppress(Busy), alone(BRIEF):
            stop_drilled()
            Drill(backup).away()
            if backup.status().get("drilling"):
                Drill(backup).note(f"It was ended from outside ({os.environ.get('SERVICE_RESULT')}).")
    elif verb == "drill":
        with alone(PATIENCE):
            backup.note(drilling=now())
            drilled(Drill(backup))
    elif verb == "prepare":
        # A first backup may take days.
        if backup.prepared():
            say(json.dumps({"changed": False}))
            return
        with alone(60):
            say(json.dumps({"changed": backup.prepare()}))
    elif verb == "begin":
        with alone(60):
            backup.begin()
    else:
        with alone(PATIENCE):
            backup.note(running=now())
            backup.run(time.monotonic())


def restored(restore: Restore, snapshot: str, over: bool, lacking: int) -> dict[str, Any]:
    """Restore, and leave no folder behind where nothing was begun."""
    try:
        return restore.run(snapshot, over, lacking)
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(restore.folder)


def drilled(drill: Drill) -> None:
    """Drill, and leave a report whatever comes of it."""
    problem = ""
    try:
        drill.run()
    except (Failed, OSError, ValueError, sqlite3.Error, subprocess.SubprocessError) as error:
        problem = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        raise
    finally:
        say(f"The report is {drill.note(problem)}.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "verb",
        choices=[
            "check",
            "prepare",
            "run",
            "now",
            "ended",
            "report",
            "begin",
            "clean",
            "drill",
            "drill-now",
            "drilled",
            "ask",
            "restore",
            "accept",
        ],
    )
    parser.add_argument("--settings", type=pathlib.Path, default=HERE / "settings.json")
    parser.add_argument("--snapshot", default="latest")
    parser.add_argument("--over", action="store_true")
    parser.add_argument("--lacking", type=int, default=0)
    parser.add_argument("--missing", type=int, default=0)
    arguments = parser.parse_args()
    verb, backup = arguments.verb, Backup(read(arguments.settings))
    os.umask(0o077)
    # Only what it was begun by may end it in the middle: it goes through its own ends then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if verb == "restore":
            with alone(600):
                say(json.dumps(restored(Restore(backup), arguments.snapshot, arguments.over, arguments.lacking)))
        elif verb == "accept":
            with alone(60):
                backup.accept(arguments.missing)
        else:
            act(verb, backup)
    except (Failed, OSError, sqlite3.Error, subprocess.SubprocessError) as error:
        problem = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        if verb == "run":
            # What runs is another one, if it did not get its turn.
            backup.note(problem=problem, **({} if isinstance(error, Busy) else {"running": ""}))
        print(problem, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

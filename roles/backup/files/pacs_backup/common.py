# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all parts of it have in common: where things stand, how they are written, and who is at work."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any, TextIO

HERE = pathlib.Path(__file__).resolve().parent.parent
STATE = pathlib.Path("/var/lib/pacs/backup")
LOCK = STATE / "lock"
# Which of the folders beside the images are root's.
FOLDERS = "folders.json"
# For how long a repository may be silent, in seconds, before it is called unreachable.
SILENT = 120
# Where a clock may be wrong, in seconds.
SKEW = 600
# For how many seconds a report may look whether one is at work.
BRIEF = 2
# For how many seconds one waits for what takes no time.
PATIENT = 60
# For how many seconds backups, drills and restores wait for one another.
PATIENCE = 12 * 3600
MIB = 1 << 20
# How much of a disk stays free for images that come.
SPARE = 20
# What stands before the name of a file that is in a database: it is none of a file on the disk.
INSIDE = "database:"
# As Orthanc names a file.
NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


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


def owned(path: str | os.PathLike[str], empty: frozenset[str] = frozenset()) -> tuple[int, pathlib.Path]:
    """Have a folder of our own in one that is Orthanc's. Return it opened, and a way to it that stays.

    Whoever has taken Orthanc over could have put a folder or a link of his own in its place, at any moment, or one of
    root's own by another name, as an archive that is kept. So root's state knows which folder has which name; one that
    it does not know has to be empty.

    :param empty: what may be in one that is empty.
    :raises Failed: if it is somebody else's, or another one.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    opened = open_folder(path)
    found, above = os.fstat(opened), os.path.realpath(os.path.dirname(path))
    if found.st_uid != os.geteuid():
        raise Failed(f"{path} is not root's, who alone writes there; look who has made it, and remove it.")
    os.fchmod(opened, 0o700)
    with alone(PATIENT, "folders.lock"):
        known = read(STATE / FOLDERS)
        here = known.setdefault(above, {})
        name = os.path.basename(path)
        if here.get(name) != found.st_ino:
            if set(os.listdir(opened)) - empty:
                raise Failed(
                    f"{above}/{name} is not the folder that root has made by this name, and nothing in it was touched:"
                    " somebody has put another one there. Look what it has, as an archive that is kept, and give it"
                    " another name."
                )
            # A number is given anew once its folder is gone.
            known[above] = {other: number for other, number in here.items() if number != found.st_ino}
            known[above][name] = found.st_ino
            put(STATE / FOLDERS, known, 0o600)
    return opened, way(opened)


def place(storage: str | os.PathLike[str], name: str) -> pathlib.Path:
    return pathlib.Path(storage, name[:2], name[2:4], name)


def service(verb: str, unit: str) -> None:
    """Start or stop a unit. :raises Failed: if systemd cannot."""
    done = subprocess.run(["systemctl", verb, unit], check=False, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"systemd cannot {verb} {unit}; see journalctl -u {unit}. {' '.join(done.stderr.split())}")


def parsed(line: str) -> dict[str, Any]:
    """Return a line of JSON; nothing if it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def alone(wait: float, what: str = "lock") -> Iterator[TextIO]:
    """Keep others of this host's off its backups. :raises Busy: if one is at work for so many seconds.

    :param what: the lock of all, or that of the verb which is at work: by it its own end knows that nobody is.
    """
    with open(
        os.open(LOCK.with_name(what), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+", encoding="utf-8"
    ) as file:
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

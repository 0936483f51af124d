# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file system that others provide, such as NFS, with the files of an archive: whether it is there, and whose it is.

What asks it something may never come back: a child does so, which is left alone where it takes too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.files import MARK, nearest

# Whose archive it is: a word for people, and a number that no other one has.
NAME = ".pacs-storage"
# How long an answer is waited for, in seconds.
PATIENCE = 15.0
# What a file system may have in it without being used.
UNUSED = re.compile(rf"{re.escape(MARK)}|{re.escape(NAME)}|[.]pacs-alive-.*|lost[+]found|[.]snapshot|[.]zfs")


class Silent(Exception):
    """The file system does not answer."""


def mounted(mount: str, table: str = "/proc/self/mountinfo") -> dict[str, Any]:
    """Return kind, source and options of what is mounted there, by the kernel's table; nothing if nothing is."""
    found: dict[str, Any] = {}
    with open(table, encoding="utf-8", errors="replace") as file:
        for fields in map(str.split, file):
            if fields[4] == mount:
                kind, source, options = fields[fields.index("-") + 1 :][:3]
                found = {
                    "kind": kind,
                    "source": source,
                    "options": sorted({*fields[5].split(","), *options.split(",")}),
                }
    return found


def in_time(ask: Callable[[], dict[str, Any]], patience: float = PATIENCE) -> dict[str, Any]:
    """Return what a function returns, called by a child. :raises Silent: if it takes too long, or fails."""
    here, there = os.pipe()
    child = os.fork()
    if not child:
        # Who waits for the end of what this process prints would wait for a child that hangs.
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        said: dict[str, Any] = {"error": "who asks it has ended"}
        try:
            said = ask()
        except OSError as error:
            said = {"error": f"{error.filename or 'it'}: {error.strerror}"}
        finally:
            os.write(there, json.dumps(said).encode())
            os._exit(0)
    os.close(there)
    end, text = time.monotonic() + patience, b""
    with os.fdopen(here, "rb", buffering=0) as answers:
        while select.select([answers], [], [], max(0.0, end - time.monotonic()))[0]:
            part = answers.read(65536)
            if not part:
                break
            text += part
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    # One that hangs may take its time to die.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0 if text else os.WNOHANG)
    found: dict[str, Any] = json.loads(text) if text else {"error": f"it does not answer within {patience:.0f} s"}
    if "error" in found:
        raise Silent(str(found["error"]))
    return found


def become(account: list[int]) -> None:
    """Have the rights of a user, by its numbers, for good."""
    os.setgroups([])
    os.setgid(account[1])
    os.setuid(account[0])


def _read(folder: str, seen: dict[str, Any]) -> None:
    with contextlib.suppress(PermissionError, FileNotFoundError):
        found = os.stat(folder)
        seen["owner"] = [found.st_uid, found.st_gid]
        names = os.listdir(folder)
        seen["used"] = not all(map(UNUSED.fullmatch, names))
        with open(os.path.join(folder, NAME), encoding="utf-8", errors="replace") as file:
            seen["mark"] = " ".join(file.read(200).split())


def look(mount: str, folder: str, account: list[int]) -> dict[str, Any]:
    """Return what is mounted, and of the folder there its mark, whether something else is in it, its owner, and who may
    write: root, to whom the server may not leave that, and Orthanc.

    :param account: Orthanc's numbers of user and group; nothing where it has none yet.
    :raises Silent: where it does not answer.
    """
    found = mounted(mount)
    if not found:
        return {}

    def ask() -> dict[str, Any]:
        seen: dict[str, Any] = {"mark": "", "used": False, "owner": []}
        place = nearest(folder)
        _read(folder, seen)
        seen["root"], seen["orthanc"] = os.access(place, os.W_OK | os.X_OK), False
        if account:
            if os.getuid() != account[0]:
                become(account)
            # What root may not see.
            _read(folder, seen)
            seen["orthanc"] = os.access(place, os.R_OK | os.W_OK | os.X_OK)
        return seen

    return found | in_time(ask)


def begin(folder: str, name: str, account: list[int]) -> None:
    """Have the folder, and the mark in it.

    :raises Silent: where it does not answer, or neither root nor Orthanc may do that.
    """

    def make() -> dict[str, Any]:
        root = os.access(nearest(folder), os.W_OK | os.X_OK)
        if not root and os.getuid() != account[0]:
            become(account)
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o750)
            if root:
                os.chown(folder, *account)
        opened = os.open(os.path.join(folder, NAME), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            os.fchmod(opened, 0o644)
            os.write(opened, f"{name} {uuid.uuid4()}\n".encode())
            os.fsync(opened)
        finally:
            os.close(opened)
        return {"made": True}

    in_time(make)


def wrong(seen: dict[str, Any], mount: str, folder: str, name: str, account: list[int]) -> Iterator[str]:
    """Say what is against having an archive there: sentences with the variable and the way out.

    :param seen: what :func:`look` returned.
    """
    if not seen:
        yield (
            f"orthanc_storage_mount: nothing is mounted at {mount} on this host. Have it mounted, by a line in"
            " /etc/fstab so that it is after a restart as well, and run again."
        )
        return
    source = seen["source"]
    for option, why in (
        ("soft", "by which an image may be lost in silence when the server is slow; mount it with hard"),
        ("ro", "so that nothing can be stored; mount it with rw"),
    ):
        if option in seen["options"]:
            yield f"orthanc_storage_mount: {source} is mounted at {mount} with the option {option}, {why}."
    if seen["mark"] and seen["mark"].split()[0] != name:
        yield (
            f"orthanc_storage_mark: {folder}/{NAME} of {source} says '{seen['mark'].split()[0]}', so that this is the"
            " archive of another site. Have the right one mounted, or correct this."
        )
    elif not seen["mark"] and seen["used"]:
        yield (
            f"orthanc_storage_mark: {folder} of {source} has something in it, and no file {NAME} that says whose"
            f" archive it is. If it is that of this site, `echo {name} > {folder}/{NAME}`; else have the right one"
            " mounted."
        )
    elif seen["mark"] and account and seen["owner"] and seen["owner"] != account:
        there, here = ("{} and {}".format(*one) for one in (seen["owner"], account))
        yield (
            f"orthanc_storage_mount: {folder} of {source} belongs to the numbers {there} of user and group, and orthanc"
            f" has {here} on this host; all hosts with that storage need the same. Stop Orthanc here,"
            f" `usermod --uid {seen['owner'][0]} orthanc`, `groupmod --gid {seen['owner'][1]} orthanc`, and run again;"
            " or give it to orthanc where it is exported."
        )
    elif account and not seen["root"] and not seen["orthanc"]:
        yield (
            f"orthanc_storage_mount: {source} lets neither root nor orthanc (the numbers {account[0]} and {account[1]}"
            f" of user and group) write to {folder}. Give it to these numbers, with mode 0750, where it is exported."
        )

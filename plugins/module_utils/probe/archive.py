# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive of an Orthanc that is on a host, whoever set it up: its configuration, its index and its DICOM files."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import sqlite3
import urllib.parse
from collections.abc import Callable
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import read_files, read_folder, read_text
from ansible_collections.dicom.orthanc.plugins.module_utils.files import MARK, OURS, marked, nearest
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_client import Orthanc, Unready

# How a host calls itself.
LOCAL = ("", "localhost", "127.0.0.1", "::1")
# Whoever may start a program on the host could call it Orthanc.
AS_NOBODY = ("timeout", "5", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")


class Archive:
    """The archive of an Orthanc that is on this host, by its configuration."""

    def __init__(self, settings: dict[str, Any], folder: str) -> None:
        """:param folder: that its relative paths start from."""
        self._settings = settings
        self.storage = os.path.join(folder, str(settings.get("StorageDirectory", "OrthancStorage")))
        self.index = os.path.join(folder, str(settings.get("IndexDirectory", self.storage)))
        # Which databases have the index and the files.
        self.database, self.files = (
            next((name.lower() for name in ("PostgreSQL", "MySQL") if self._section(name).get(option)), "")
            for option in ("EnableIndex", "EnableStorage")
        )
        if not self.database and os.path.exists(os.path.join(self.index, "index")):
            self.database = "sqlite"

    def _section(self, name: str) -> dict[str, Any]:
        section = self._settings.get(name)
        return section if isinstance(section, dict) else {}

    @property
    def server(self) -> tuple[str, str]:
        """Host and name of the database; the host is empty if it is this one. Several have commas between them."""
        section = self._section({"postgresql": "PostgreSQL", "mysql": "MySQL"}.get(self.database, ""))
        parts = urllib.parse.urlsplit(str(section.get("ConnectionUri", "")))
        places = [urllib.parse.urlsplit(f"//{place}") for place in parts.netloc.rpartition("@")[2].split(",")]
        host = ",".join(place.hostname or "" for place in places) or str(section.get("Host", ""))
        return "" if host in LOCAL else host, parts.path.strip("/") or str(section.get("Database", ""))

    def count(self) -> int:
        """Return how many images there are; -1 if they cannot be counted."""
        with contextlib.suppress(Unready, ValueError, KeyError, TypeError, AttributeError):
            return int(Orthanc(self._settings).get("/statistics", timeout=30)["CountInstances"])
        # It does not run. While it does, it keeps everybody else off its index.
        return indexed(self.index) if self.database == "sqlite" else -1


def indexed(folder: str) -> int:
    """Return how many images an index of SQLite has; -1 if they cannot be counted."""
    path = urllib.parse.quote(os.path.join(folder, "index"))
    with contextlib.suppress(sqlite3.Error), sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        # 4 is the level of instances.
        return int(connection.execute("SELECT COUNT(*) FROM Resources WHERE resourceType=4").fetchone()[0])
    return -1


def holds(folder: str, kind: str) -> bool:
    """Tell whether a folder holds an index, or DICOM files."""
    try:
        names = os.listdir(folder) if os.path.isdir(folder) else []
    except PermissionError:
        # Root has no say in what NFS brings from elsewhere. Who made it so has put something there.
        return True
    # Besides the mark there may be the reserve for a full disk.
    return "index" in names if kind == "index" else not all(name.startswith(MARK) for name in names)


def filled(folder: str, kind: str) -> bool:
    """Tell whether a folder holds images: Debian's package makes an empty index where it is started once."""
    if kind == "index":
        return holds(folder, kind) and indexed(folder) != 0
    try:
        return os.path.isdir(folder) and any(re.fullmatch("[0-9a-f]{2}", name) for name in os.listdir(folder))
    except PermissionError:
        return True


def foreign(folder: str) -> bool:
    """Tell whether others have something there: Orthanc would become the owner of the folder."""
    if not os.path.isdir(folder):
        # It is something else, or lies below something else.
        return not os.path.isdir(nearest(folder))
    if marked(folder) or holds(folder, "index") or filled(folder, "storage"):
        return False
    try:
        mine = pwd.getpwnam("orthanc").pw_uid == os.stat(folder).st_uid
    except KeyError:
        mine = False
    return not mine and any(not name.startswith(".") and name != "lost+found" for name in os.listdir(folder))


def proven(state: str) -> dict[str, Any]:
    """Return the settings that worked last, or nothing."""
    try:
        with open(state, encoding="utf-8") as file:
            kept = json.load(file)
        texts = [kept[name][0] for name in sorted(kept) if name.endswith(".json")]
        return {name: value for text in texts for name, value in read_text(text).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def started_with(run: Callable[..., str]) -> tuple[str, str, str]:
    """Return the configuration that an Orthanc of others runs with, or is started with, where its paths start, and its
    program.

    :returns: an empty configuration where it has none, and nothing in all where there is no such Orthanc.
    """
    calls = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            # Of a program that an upgrade has replaced, the kernel says so.
            program = os.readlink(f"/proc/{process}/exe").removesuffix(" (deleted)")
            # In a container, paths are others.
            if os.path.basename(program) == "Orthanc" and os.path.samefile(f"/proc/{process}/root", "/"):
                with open(f"/proc/{process}/cmdline", encoding="utf-8", errors="replace") as file:
                    words = file.read().strip("\0").split("\0")[1:]
                calls.append(([program, *words], os.readlink(f"/proc/{process}/cwd")))
    if not calls:
        calls = started_by(run("systemctl", "show", "orthanc", "--property=ExecStart,WorkingDirectory"))
    for (program, *words), folder in calls:
        path = next((word for word in reversed(words) if not word.startswith("-")), "")
        path = os.path.normpath(os.path.join(folder, path)) if path else ""
        return path, path if os.path.isdir(path) else os.path.dirname(path) or folder, program
    return "", "", ""


def started_by(shown: str) -> list[tuple[list[str], str]]:
    """Return by which command a unit starts Orthanc, and in which folder; nothing where it does not."""
    found = re.search(r"argv\[\]=(\S*Orthanc\b.*?) ;", shown)
    folder = re.search(r"(?m)^WorkingDirectory=[-!]*(/.*)", shown)
    return [(found[1].split(), folder[1] if folder else "/")] if found else []


def look(params: dict[str, Any], run: Callable[..., str]) -> dict[str, Any]:
    """Return what archive is on this host, and where it is not where it is asked for."""
    unread: list[str] = []
    release = ""
    last = proven(params["state"])
    path = folder = params["config_dir"]
    settings = last | read_folder(path)
    ours = bool(settings)
    if not ours:
        path, folder, program = started_with(run)
        settings, unread = read_files(path)
        # It calls itself as it was called.
        told = re.match(r"\S+ (\d+\.\d+\.\d+)", run(*AS_NOBODY, program, "--version") if program else "")
        release = told[1] if told else ""
    there = Archive(settings, folder)
    wanted = {"storage": params["storage_dir"], "index": params["index_dir"]}
    on_server = there.database not in ("", "sqlite")
    found = {
        "storage": there.storage if not there.files else "",
        "index": there.index if (last or there.database) and not on_server else "",
    }
    # What is where it is not looked for, unless it was taken there.
    elsewhere = {
        kind: folder
        for kind, folder in found.items()
        if folder and os.path.realpath(folder) != os.path.realpath(wanted[kind])
        if holds(folder, kind) and not filled(wanted[kind], kind)
    }
    # What was there, and is not: the disk is missing, as its mark is.
    lost = [
        folder for kind, folder in found.items() if last and folder and not holds(folder, kind) and not marked(folder)
    ]
    config = params["config_dir"]
    # What was written before there were marks is ours too.
    known = os.path.dirname(config) == OURS or bool(read_folder(config))
    asked_for = wanted if known else {**wanted, "config": config}
    server = ("" if params["database_host"] in LOCAL else params["database_host"], params["database_name"])
    # Of a cluster one server may go, and another one come.
    same = there.server[1] == server[1] and set(there.server[0].split(",")) & set(server[0].split(","))
    moved = there.server if not ours and on_server and not same else ()
    differs = (there.database, there.files) != (params["database"], params["files"]) or elsewhere or lost or moved
    another = release not in ("", params["release"])
    images = 0 if not there.database and not lost else there.count() if differs or another else -1
    return {
        "database": there.database,
        "files": there.files,
        "images": images,
        "elsewhere": elsewhere,
        "lost": sorted(set(lost)),
        "foreign": {kind: folder for kind, folder in asked_for.items() if foreign(folder)},
        "other_server": list(moved),
        "unread": unread,
        "configuration": "" if ours else path,
        "theirs": release,
    }

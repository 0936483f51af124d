"""Hold the storage folder against the index of the Orthanc on this host. Runs on the host, as root.

Arguments: the configuration folder, the storage folder, the index's database and how many files are looked at, at most.
Prints JSON: the resources a file of which is missing or has another size than the index says, by Orthanc's identifiers;
the files that the index does not know, and what they take in bytes; or why nothing was counted. The host serves images
meanwhile: what this takes of its memory and its disk is bounded, however big the archive is.
"""

import glob
import importlib
import json
import os
import shutil
import sqlite3
import ssl
import sys
import tempfile
import time
from typing import Any

folder, storage, engine, most = sys.argv[1:]
# Of uploads that are on their way there is a file first.
SECONDS = 60
# For how long their sizes are looked at, the newest first.
LOOKING = 60
# How many names of each kind are printed.
NAMED = 20
# On the disk: with Debian 13, /tmp is memory.
TEMPORARY = "/var/tmp"
COUNT = "SELECT COUNT(*) FROM AttachedFiles"
QUESTION = (
    "SELECT uuid, publicId, compressedSize FROM AttachedFiles JOIN Resources ON Resources.internalId = AttachedFiles.id"
    " ORDER BY Resources.internalId DESC"
)

# When the index of which there is a copy was written to.
copied: dict[str, int] = {}
options: dict[str, Any] = {}
for name in glob.glob(f"{folder}/*.json"):
    with open(name, encoding="utf-8") as file:
        options.update(json.load(file))


def path(uuid: str) -> str:
    return os.path.join(storage, uuid[:2], uuid[2:4], uuid)


def tell(missing: set[str], orphans: set[str], size: int, reason: str = "") -> None:
    found: dict[str, Any] = {"bytes": size, "reason": reason}
    for kind, names in (("missing", missing), ("orphans", orphans)):
        found[kind] = {"count": len(names), "first": sorted(names)[:NAMED]}
    print(json.dumps(found))


def give_up(reason: str) -> None:
    tell(set(), set(), 0, reason)
    sys.exit()


def ask(connection: Any) -> dict[str, tuple[str, int]]:
    try:
        cursor = connection.cursor()
        cursor.execute(COUNT)
        (files,) = cursor.fetchone()
        if files > int(most):
            give_up(f"the index has {files} files")
        cursor.execute(QUESTION)
        return {uuid: (name, size) for uuid, name, size in cursor.fetchall()}
    finally:
        connection.close()


def room(index: str, private: str) -> None:
    """Give up unless as much again stays free beside a copy: Orthanc may write to the same disk."""
    needed = sum(os.stat(name).st_size for name in (index, f"{index}-wal") if os.path.exists(name))
    # Copies of before are written over.
    free = shutil.disk_usage(private).free + sum(entry.stat().st_size for entry in os.scandir(private))
    if 2 * needed > free:
        give_up(f"a copy of the index takes {needed >> 20} MB, and {TEMPORARY} has {free >> 20} MB free")


def of_sqlite(private: str) -> dict[str, tuple[str, int]]:
    """Ask a copy, since Orthanc lets nobody else at its file; one during which SQLite has not tidied up.

    Until it tidies up again, only what it puts beside the index (``-wal``) is new.
    """
    index = os.path.join(str(options.get("IndexDirectory") or storage), "index")

    def state() -> tuple[int, bytes]:
        try:
            with open(f"{index}-wal", "rb") as file:
                return os.stat(index).st_mtime_ns, file.read(32)
        except FileNotFoundError:
            return os.stat(index).st_mtime_ns, b""

    for _ in range(10):
        before = state()
        room(index, private)
        if copied.get(index) != before[0]:
            shutil.copy(index, f"{private}/index")
            copied[index] = before[0]
        if before[1]:
            shutil.copy(f"{index}-wal", f"{private}/index-wal")
        elif os.path.exists(f"{private}/index-wal"):
            os.remove(f"{private}/index-wal")
        if state() == before:
            return ask(sqlite3.connect(f"{private}/index"))
    give_up("the index changes all the time")
    return {}


def known(private: str) -> dict[str, tuple[str, int]]:
    """Return the names of all files that the index knows, whose they are, and their sizes."""
    if engine == "sqlite":
        return of_sqlite(private)
    if engine == "postgresql":
        return ask(importlib.import_module("psycopg2").connect(options["PostgreSQL"]["ConnectionUri"]))
    server = options["MySQL"]
    context = None
    if server["EnableSsl"]:
        context = ssl.create_default_context(cafile=server["SslCACertificates"])
        # Newer Pythons would hold the authority to rules that Orthanc does not know.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return ask(
        importlib.import_module("pymysql").connect(
            host=server["Host"],
            port=server["Port"],
            user=server["Username"],
            # As bytes, since as text it may hold Latin-1 only.
            password=server["Password"].encode(),
            database=server["Database"],
            ssl=context,
        )
    )


def stored() -> set[str]:
    """Return the names of all files in the folder, apart from the index and what is ours."""
    found: set[str] = set()
    for first in glob.glob(f"{storage}/[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]"):
        found.update(os.listdir(first))
        if len(found) > int(most):
            give_up(f"there are more than {most} files")
    return found


def cut_off(expected: dict[str, tuple[str, int]]) -> set[str]:
    """Return the files of another size: on a full disk Orthanc takes what is below 8 KB, and leaves an empty file."""
    found, end = set(), time.monotonic() + LOOKING
    for uuid, (_, size) in expected.items():
        if time.monotonic() > end:
            break
        try:
            if os.stat(path(uuid)).st_size != size:
                found.add(uuid)
        except FileNotFoundError:
            # It is missing, or was deleted.
            continue
    return found


there = stored()
with tempfile.TemporaryDirectory(dir=TEMPORARY) as folder_of_copies:
    expected = known(folder_of_copies)
    missing = {uuid for uuid in expected if uuid not in there and not os.path.exists(path(uuid))} | cut_off(expected)
    orphans = {
        uuid
        for uuid in there - expected.keys()
        if os.path.exists(path(uuid)) and os.stat(path(uuid)).st_mtime < time.time() - SECONDS
    }
    if missing or orphans:
        # Something may have been deleted meanwhile.
        expected = known(folder_of_copies)
        missing &= expected.keys()
        orphans = {uuid for uuid in orphans - expected.keys() if os.path.exists(path(uuid))}
tell({expected[uuid][0] for uuid in missing}, orphans, sum(os.stat(path(uuid)).st_size for uuid in orphans))

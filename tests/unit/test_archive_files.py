"""What is found in a storage folder, by an index of SQLite that Orthanc has for itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.repository import ROOT, run
from verification.test_storage import named

PROGRAM = ROOT / "plugins" / "module_utils" / "archive_files.py"
# Of what the files here hold.
MD5 = hashlib.md5(b"image", usedforsecurity=False).hexdigest()
KNOWN, LOST, ORPHAN, NEW = (f"{number}{number}{number}{number}0000-0000-0000-0000-000000000000" for number in "1234")


def stored(folder: pathlib.Path, uuid: str, seconds: int = 3600) -> None:
    path = folder / uuid[:2] / uuid[2:4] / uuid
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("image", encoding="utf-8")
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture
def index(tmp_path: pathlib.Path) -> Iterator[sqlite3.Connection]:
    """An index that somebody has open as Orthanc does, and has not tidied up."""
    (tmp_path / "storage").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "storage" / "index", isolation_level=None)) as open_index:
        for statement in ("locking_mode = exclusive", "journal_mode = wal", "wal_autocheckpoint = 0"):
            open_index.execute(f"PRAGMA {statement}")
        columns = "id INTEGER, uuid TEXT, fileType INTEGER, compressedSize INTEGER, compressedMD5 TEXT"
        open_index.execute(f"CREATE TABLE AttachedFiles ({columns})")
        open_index.execute("CREATE TABLE Resources (internalId INTEGER, publicId TEXT)")
        open_index.execute("INSERT INTO AttachedFiles VALUES (1, ?, 1, 5, ?), (2, ?, 1, 5, NULL)", (KNOWN, MD5, LOST))
        open_index.execute("INSERT INTO Resources VALUES (1, 'here'), (2, 'gone')")
        yield open_index


@pytest.fixture
def folder(tmp_path: pathlib.Path, index: sqlite3.Connection) -> pathlib.Path:
    """The storage folder of this index."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "orthanc.json").write_text("{}", encoding="utf-8")
    (tmp_path / "storage" / ".pacs").touch()
    return tmp_path / "storage"


def script(before: str = "") -> str:
    future = "from __future__ import annotations\n"
    return PROGRAM.read_text("utf-8").replace(future, future + before)


def command(folder: pathlib.Path, most: int = 10, before: str = "") -> list[str]:
    """Return the probe's command; it fails rather than fill the disk of whoever tests it."""
    arguments = [str(folder.parent / "config"), str(folder), "sqlite", str(most)]
    return ["prlimit", "--fsize=10000000", sys.executable, "-c", script(before), *arguments]


def looked(folder: pathlib.Path, most: int = 10) -> dict[str, Any]:
    done = run(*command(folder, most))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) < 4096
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def answer(missing: Sequence[str] = (), orphans: Sequence[str] = (), size: int = 0, reason: str = "") -> dict[str, Any]:
    return {
        "missing": {"count": len(missing), "first": list(missing[:20])},
        "orphans": {"count": len(orphans), "first": list(orphans[:20])},
        "bytes": size,
        "reason": reason,
    }


def test_folder_and_index_agree(folder: pathlib.Path) -> None:
    stored(folder, KNOWN)
    stored(folder, LOST)
    assert looked(folder) == answer()


def test_missing_and_unknown_files(folder: pathlib.Path) -> None:
    """What has arrived in this minute may not be in the index yet."""
    for uuid, seconds in {KNOWN: 3600, ORPHAN: 3600, NEW: 1}.items():
        stored(folder, uuid, seconds)
    assert looked(folder) == answer(["gone"], [ORPHAN], 5)


@pytest.mark.parametrize("size", [0, 4])
def test_files_that_a_full_disk_cut_off(folder: pathlib.Path, size: int) -> None:
    stored(folder, KNOWN)
    stored(folder, LOST)
    os.truncate(folder / LOST[:2] / LOST[2:4] / LOST, size)
    assert looked(folder) == answer(["gone"])


def test_archive_too_big_for_a_probe(folder: pathlib.Path, index: sqlite3.Connection) -> None:
    index.execute("DELETE FROM AttachedFiles WHERE uuid = ?", (LOST,))
    stored(folder, KNOWN)
    stored(folder, ORPHAN)
    assert looked(folder, 1) == answer(reason="there are more than 1 files")


def test_folder_that_is_not_mounted(folder: pathlib.Path) -> None:
    """All is missing; where the index knows more than a probe may ask for, nothing is asked for."""
    assert looked(folder, 2) == answer(["gone", "here"])
    assert looked(folder, 1) == answer(reason="the index has 2 files")


def test_only_the_first_names_are_printed(folder: pathlib.Path, index: sqlite3.Connection) -> None:
    names = [f"{number:04x}0000-0000-0000-0000-000000000000" for number in range(100)]
    index.execute("BEGIN")
    for number, uuid in enumerate(names, 10):
        index.execute("INSERT INTO AttachedFiles VALUES (?, ?, 1, 5, NULL)", (number, f"f{uuid}"))
        index.execute("INSERT INTO Resources VALUES (?, ?)", (number, uuid))
        stored(folder, uuid)
    index.execute("COMMIT")
    found = looked(folder, 1000)
    assert found == answer([*names, "gone", "here"], names, 500)
    assert named(found["missing"]) == [*names[:20], "and 82 more"]
    assert named({"count": 20, "first": names[:20]}) == names[:20]


@pytest.mark.parametrize("name", ["index", "index-wal"])
def test_index_too_big_for_a_copy(folder: pathlib.Path, name: str) -> None:
    """As much again has to stay free. The file takes nothing here, since it has holes."""
    os.truncate(folder / name, shutil.disk_usage("/var/tmp").free * 3 // 4)
    reason = looked(folder)["reason"]
    assert re.fullmatch(r"a copy of the index takes \d+ MB, and /var/tmp has \d+ MB free", reason)


@pytest.mark.parametrize("tidied_up", ["", "PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)"])
def test_second_look_sees_what_was_deleted(folder: pathlib.Path, index: sqlite3.Connection, tidied_up: str) -> None:
    """It copies the index again only where SQLite has written to it."""
    hook = """import sys
def hook(event, arguments):
    if event == "shutil.copyfile":
        print(arguments[1], file=sys.stderr)
    if event == "sqlite3.connect":
        print("asks", flush=True)
        input()
sys.addaudithook(hook)
"""
    stored(folder, KNOWN)
    with subprocess.Popen(
        command(folder, before=hook), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as probe:
        assert probe.stdin
        assert probe.stdout
        assert probe.stderr
        assert probe.stdout.readline() == "asks\n"
        if tidied_up:
            index.execute(tidied_up)
        index.execute("DELETE FROM AttachedFiles WHERE id = 2")
        probe.stdin.write("\n\n")
        probe.stdin.flush()
        assert probe.stdout.readline() == "asks\n"
        assert json.loads(probe.stdout.readline()) == answer()
        copies = [pathlib.Path(path) for path in probe.stderr.read().split()]
    again = ["index", "index-wal"] if tidied_up else ["index-wal"]
    assert [path.name for path in copies] == ["index", "index-wal", *again]
    assert not copies[0].parent.exists()

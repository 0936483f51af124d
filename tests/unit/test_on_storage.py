"""What the verification finds in a storage folder, by an index of SQLite that Orthanc has for itself."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sqlite3
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.repository import ROOT, run

KNOWN, LOST, ORPHAN, NEW = (f"{number}{number}{number}{number}0000-0000-0000-0000-000000000000" for number in "1234")


def stored(folder: pathlib.Path, uuid: str, seconds: int = 3600) -> None:
    path = folder / uuid[:2] / uuid[2:4] / uuid
    path.parent.mkdir(parents=True)
    path.write_text("image", encoding="utf-8")
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A storage folder, while somebody has its index open as Orthanc does, and has not tidied up."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "orthanc.json").write_text("{}", encoding="utf-8")
    index = tmp_path / "storage" / "index"
    index.parent.mkdir()
    with contextlib.closing(sqlite3.connect(index, isolation_level=None)) as open_index:
        for statement in ("locking_mode = exclusive", "journal_mode = wal", "wal_autocheckpoint = 0"):
            open_index.execute(f"PRAGMA {statement}")
        open_index.execute("CREATE TABLE AttachedFiles (id INTEGER, uuid TEXT)")
        open_index.execute("CREATE TABLE Resources (internalId INTEGER, publicId TEXT)")
        open_index.execute("INSERT INTO AttachedFiles VALUES (1, ?), (2, ?)", (KNOWN, LOST))
        open_index.execute("INSERT INTO Resources VALUES (1, 'here'), (2, 'gone')")
        (index.parent / ".pacs").touch()
        yield index.parent


def looked(folder: pathlib.Path, most: int = 10) -> dict[str, Any]:
    script = (ROOT / "verification" / "on_storage.py").read_text("utf-8")
    done = run(sys.executable, "-c", script, str(folder.parent / "config"), str(folder), "sqlite", str(most))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_folder_and_index_agree(folder: pathlib.Path) -> None:
    stored(folder, KNOWN)
    stored(folder, LOST)
    assert looked(folder) == {"missing": [], "orphans": [], "bytes": 0, "reason": ""}


def test_missing_and_unknown_files(folder: pathlib.Path) -> None:
    """What has arrived in this minute may not be in the index yet."""
    for uuid, seconds in {KNOWN: 3600, ORPHAN: 3600, NEW: 1}.items():
        stored(folder, uuid, seconds)
    assert looked(folder) == {"missing": ["gone"], "orphans": [ORPHAN], "bytes": 5, "reason": ""}


def test_archive_too_big_for_a_probe(folder: pathlib.Path) -> None:
    stored(folder, KNOWN)
    stored(folder, ORPHAN)
    assert looked(folder, 1) == {"missing": [], "orphans": [], "bytes": 0, "reason": "there are more than 1 files"}

"""What does not agree of an archive, and what becomes of it with the operator's words."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pydicom
import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import header
from ansible_collections.dicom.orthanc.plugins.modules import archive_reconcile

from tests.unit.module import run
from tests.unit.orthanc_stand_in import StandIn
from tests.unit.test_import_header import written
from tests.unit.test_import_run import image

FILES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
Call = Callable[..., dict[str, Any]]


def uuid(number: int) -> str:
    return f"{number:02x}{number:02x}0000-0000-0000-0000-00000000{number:04x}"


class Archive:
    """Files and an index, which somebody has open as Orthanc does, and the Orthanc that hands them out."""

    def __init__(self, folder: pathlib.Path, orthanc: StandIn, index: sqlite3.Connection) -> None:
        self.storage, self.orthanc, self._index = folder / "storage", orthanc, index

    def path(self, number: int) -> pathlib.Path:
        name = uuid(number)
        return self.storage / name[:2] / name[2:4] / name

    def put(self, number: int, data: bytes, seconds: int = 7200) -> None:
        path = self.path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (time.time() - seconds,) * 2)

    def knows(self, number: int) -> bytes:
        """Have an image that Orthanc knows."""
        data = image(number)
        self.put(number, data)
        self.orthanc.images[header.read(data).orthanc_id(3)] = data
        digest = hashlib.md5(data).hexdigest()
        self._index.execute(
            "INSERT INTO AttachedFiles VALUES (?, ?, 1, ?, ?)", (number, uuid(number), len(data), digest)
        )
        self._index.execute("INSERT INTO Resources VALUES (?, ?)", (number, header.read(data).orthanc_id(3)))
        return data


@pytest.fixture
def archive(tmp_path: pathlib.Path) -> Iterator[Archive]:
    orthanc = StandIn()
    port = int(orthanc.url.rpartition(":")[2].partition("/")[0])
    for folder in ("storage", "config", "state"):
        (tmp_path / folder).mkdir()
    settings = {"HttpPort": port, "RegisteredUsers": {"user": "passäword"}}
    (tmp_path / "config" / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    with contextlib.closing(sqlite3.connect(tmp_path / "storage" / "index", isolation_level=None)) as index:
        for statement in ("locking_mode = exclusive", "journal_mode = wal", "wal_autocheckpoint = 0"):
            index.execute(f"PRAGMA {statement}")
        columns = "id INTEGER, uuid TEXT, fileType INTEGER, compressedSize INTEGER, compressedMD5 TEXT"
        index.execute(f"CREATE TABLE AttachedFiles ({columns})")
        index.execute("CREATE TABLE Resources (internalId INTEGER, publicId TEXT)")
        yield Archive(tmp_path, orthanc, index)
    orthanc.close()


@pytest.fixture
def call(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Call:
    given = {
        "config_dir": str(tmp_path / "config"),
        "storage_dir": str(tmp_path / "storage"),
        "report": str(tmp_path / "state" / "reconcile.json"),
    }
    return lambda **more: run(archive_reconcile, capsys, **given | more)


def report(archive: Archive) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((archive.storage.parent / "state" / "reconcile.json").read_text("utf-8"))
    return found


def counts(said: dict[str, Any]) -> dict[str, int]:
    """Return what there is any of."""
    return {kind: count for kind, count in said["found"].items() if count}


def test_all_as_it_was(archive: Archive, call: Call) -> None:
    for number in range(5):
        archive.knows(number)
    said = call()
    assert (counts(said), said["changed"], said["studies"]) == ({"files": 5, "read": 5}, False, [])
    assert (archive.storage.parent / "state" / "reconcile.json").stat().st_mode & 0o777 == 0o600


def test_what_is_lost_is_told_with_its_study(archive: Archive, call: Call) -> None:
    for number in range(4):
        archive.knows(number)
    archive.path(1).unlink()
    os.truncate(archive.path(2), 7)
    with archive.path(3).open("r+b") as file:
        file.seek(200)
        file.write(b"!")
    said = call()
    assert counts(said) == {"files": 4, "read": 2, "missing": 1, "cut off": 1, "damaged": 1}
    assert said["studies"] == ["1.2.3"]
    assert [[file["uuid"] for file in report(archive)[kind]] for kind in ("missing", "cut off", "damaged")] == [
        [uuid(1)],
        [uuid(2)],
        [uuid(3)],
    ]


def test_pipe_instead_of_a_file_is_not_waited_for(archive: Archive, call: Call) -> None:
    data = archive.knows(1)
    archive.path(1).unlink()
    os.mkfifo(archive.path(1))
    assert counts(call(percent=0)) == {"files": 1, "cut off": 1}
    assert len(data) > 0
    archive.path(2).parent.mkdir(parents=True)
    os.mkfifo(archive.path(2))
    os.utime(archive.path(2), (1, 1))
    assert counts(call()) == {"files": 1, "cut off": 1, "remnants": 1}


def orphans(archive: Archive) -> None:
    """Have an orphan of each kind."""
    known = archive.knows(1)
    archive.put(0x11, image(17))
    archive.put(0x12, known)
    archive.put(0x13, known.replace(b"x" * 50, b"y" * 50, 1))
    archive.put(0x14, len(known).to_bytes(8, "little") + zlib.compress(known))
    archive.put(0x15, b"")
    archive.put(0x16, known[:-3])
    archive.put(0x17, b"{}")
    archive.put(0x19, image(25)[:-3])
    # What others have put there, and what is on its way.
    (archive.storage / "11" / "11" / "notes.txt").write_text("ours", encoding="utf-8")
    os.utime(archive.storage / "11" / "11" / "notes.txt", (1, 1))
    archive.put(0x18, image(24), seconds=600)


def test_orphans_by_kind(archive: Archive, call: Call) -> None:
    orphans(archive)
    said = call()
    assert counts(said) == {
        "files": 1,
        "read": 1,
        "unknown images": 1,
        "known images": 1,
        "other versions": 1,
        "compressed": 1,
        "broken images": 1,
        "remnants": 3,
    }
    assert said["changed"] is False
    assert report(archive)["unknown images"] == [uuid(0x11)]


def left(archive: Archive) -> list[str]:
    found = sorted(archive.storage.glob("??/??/*"))
    return [path.name[:2] if len(path.name) > 30 else path.name for path in found]


ALL = ["01", "11", "notes.txt", "12", "13", "14", "15", "16", "17", "18", "19"]


@pytest.mark.parametrize(
    "mend, count, gone",
    [("import", 1, ["11"]), ("discard", 2, ["11", "19"]), ("remove", 4, ["12", "15", "16", "17"])],
)
def test_mended_with_words(archive: Archive, call: Call, mend: str, count: int, gone: list[str]) -> None:
    orphans(archive)
    held = header.read(image(17)).orthanc_id(3)
    assert call(mend=mend, count=count, _ansible_check_mode=True)["mended"] == 0
    assert left(archive) == ALL
    assert held not in archive.orthanc.images
    said = call(mend=mend, count=count)
    assert (said["changed"], said["mended"], said["not_taken"]) == (True, count, {})
    assert left(archive) == [name for name in ALL if name not in gone]
    assert archive.orthanc.images.get(held) == (image(17) if mend == "import" else None)


@pytest.mark.parametrize("mend", ["import", "discard", "remove"])
def test_another_number_than_was_told_changes_nothing(archive: Archive, call: Call, mend: str) -> None:
    orphans(archive)
    said = call(mend=mend, count=3)
    assert said["failed"]
    assert f"files to {mend}, and not 3; nothing was changed" in said["msg"]
    assert left(archive) == ALL


def test_what_orthanc_refuses_or_changes_stays(archive: Archive, call: Call) -> None:
    for number in (0x11, 0x12, 0x13):
        archive.put(number, image(number))
    first = header.read(image(0x11)).orthanc_id(3)

    def fault(method: str, path: str, number: int) -> Any:
        if (method, path) == ("POST", "/instances"):
            return 400 if number == 2 else None
        if path == f"/instances/{first}/file" and number > 1:
            return 200, {}, b"another"
        return None

    archive.orthanc.fault = fault
    said = call(mend="import", count=3)
    assert said["mended"] == 1
    assert sorted(said["not_taken"]) == [uuid(0x11), uuid(0x12)]
    assert said["not_taken"][uuid(0x11)] == "Orthanc does not hand it out as it is"
    assert "answers 400" in said["not_taken"][uuid(0x12)]
    assert left(archive) == ["11", "12"]


@pytest.mark.parametrize("mend", ["import", "remove", ""])
def test_orthanc_that_does_not_answer(archive: Archive, call: Call, mend: str) -> None:
    orphans(archive)
    archive.orthanc.fault = lambda *_: 503
    said = call(mend=mend, count=4 if mend == "remove" else 1)
    assert said["failed"]
    assert "answers 503" in said["msg"]
    assert left(archive) == ALL


def test_orthanc_that_goes_in_the_middle(archive: Archive, call: Call) -> None:
    for number in (0x11, 0x12):
        archive.put(number, image(number))
    archive.orthanc.fault = lambda method, _path, number: 0 if method == "POST" and number == 2 else None
    said = call(mend="import", count=2)
    assert said["failed"]
    assert "1 files were mended before that; run it again for the others" in said["msg"]
    assert left(archive) == ["12"]


def test_parts_go_on_where_the_last_one_ended(archive: Archive, call: Call) -> None:
    for number in range(256):
        archive.knows(number)
    with archive.path(200).open("r+b") as file:
        file.seek(200)
        file.write(b"!")
    found = [counts(call(percent=40)) for _ in range(3)]
    assert [one["read"] for one in found] == [103, 103, 103]
    # Folders 0 to 102, 103 to 205, and then 206 to 255 and the first ones again.
    assert [one.get("damaged", 0) for one in found] == [0, 1, 0]
    assert report(archive)["next folder"] == 309 % 256


def test_disk_of_another_archive(archive: Archive, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.dicom.orthanc.plugins.module_utils.archive_files.MANY", 3)
    for number in range(4):
        archive.put(number, image(number))
    said = call(mend="discard", count=4)
    assert said["failed"]
    assert "more than 3 files do not agree" in said["msg"]
    assert left(archive) == ["00", "01", "02", "03"]


def test_priority_is_given_back(archive: Archive, call: Call) -> None:
    archive.knows(1)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    call()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_files_that_devices_have_written_are_whole() -> None:
    """Of pydicom's, those that end too early are not, nor what is not written as it says, or is CT without pixels."""
    broken = {path.name for path in FILES.glob("*.dcm") if not header.whole(path.read_bytes())}
    early = {"MR_truncated.dcm", "rtplan_truncated.dcm"}
    strange = {"SC_rgb_jpeg.dcm", "meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm", "no_meta.dcm"}
    stripped = {"UN_sequence.dcm", "empty_charset_LEI.dcm", "no_meta_group_length.dcm", "priv_SQ.dcm"}
    assert broken == early | strange | stripped


def test_files_that_end_early_are_not_whole() -> None:
    for name in ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm"):
        data = (FILES / name).read_bytes()
        assert header.whole(data)
        # Also where an element ends, and the next one would begin.
        ends = [*range(150, min(len(data), 3000)), *range(3000, len(data), 997), len(data) - 1]
        assert [end for end in ends if header.whole(data[:end])] == []


def test_image_without_its_pixels_is_not_whole() -> None:
    """As Orthanc may keep it beside the image."""
    assert header.whole(image(1))
    assert header.whole(written("1.2.840.10008.1.2.1", Rows=1, PixelData=b"xx"))
    assert not header.whole(written("1.2.840.10008.1.2.1", Rows=1))

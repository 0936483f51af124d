"""Exports: every image comes out as the archive has it, or nothing does."""

from __future__ import annotations

import io
import json
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pydicom
import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import client, export, header

from tests.repository import ROOT
from tests.unit.orthanc_stand_in import DROP, Answered, StandIn, identifier
from tests.unit.test_import_run import PASSWORD, image
from tests.unit.test_import_sources import zipped

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("PACS_IMPORT_PASSWORD", PASSWORD)
    monkeypatch.setattr(client, "SHORTEST", 0.01)
    made = StandIn()
    for number in range(6):
        made._store(image(number, patient=f"P{number % 2}", study=f"1.{number % 2}"))
    yield made
    made.close()


def run(archive: StandIn, output: pathlib.Path, *more: str) -> int:
    return export.main(["--url", archive.url, "--user", "user", "--patience", "2", *more, str(output)])


def packs(archive: StandIn, change: Callable[[dict[str, bytes]], None] = lambda _: None) -> None:
    """Have it pack what it is asked for, as a medium or by names."""

    def fault(method: str, path: str, number: int) -> Answered:
        if not path.endswith(("/archive", "/media", "/create-archive", "/create-media")):
            return None
        asked = path.split("/")[2:3]
        some = [data for data in archive.images.values() if method == "POST" or asked[0] in archive._parents(data)]
        members = {f"IMAGES/IM{number}": data for number, data in enumerate(some)}
        if path.endswith("media"):
            members["DICOMDIR"] = dicomdir(members)
        change(members)
        return 200, {}, zipped(members)

    archive.fault = fault


def dicomdir(members: dict[str, bytes]) -> bytes:
    """Make the list of a medium by pydicom."""
    records = pydicom.Dataset()
    records.DirectoryRecordSequence = []
    for name in members:
        record = pydicom.Dataset()
        record.ReferencedFileID = name.split("/")
        records.DirectoryRecordSequence.append(record)
    records.file_meta = pydicom.dataset.FileMetaDataset()
    records.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    records.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    records.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.3")
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, records, enforce_file_format=True)
    return buffer.getvalue()


def images(output: pathlib.Path) -> list[bytes]:
    if output.is_file():
        with zipfile.ZipFile(output) as packed:
            return sorted(packed.read(name) for name in packed.namelist())
    return sorted(path.read_bytes() for path in output.rglob("*") if path.is_file() and path.name != "DICOMDIR")


@pytest.mark.parametrize("form", ["medium", "folder", "zip"])
@pytest.mark.parametrize(
    "wanted, number", [(["--patient", "P0"], 3), (["--study", "1.1"], 3), (["--study", "1.1", "--patient", "P0"], 6)]
)
def test_all_comes_out(
    archive: StandIn, tmp_path: pathlib.Path, form: str, wanted: list[str], number: int, capsys: Capture
) -> None:
    packs(archive)
    assert run(archive, tmp_path / "out", "--form", form, *wanted) == 0
    made = images(tmp_path / "out")
    patient = {"--patient": "P0", "--study": "P1"}[wanted[0]]
    assert made == sorted(
        data for data in archive.images.values() if number == 6 or header.read(data).patient == patient
    )
    assert f"{number} images, as the archive has them" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0
    if form == "medium":
        assert (tmp_path / "out" / "DICOMDIR").exists()


def drop(members: dict[str, bytes]) -> None:
    members.pop("IMAGES/IM1")


def change(members: dict[str, bytes]) -> None:
    members["IMAGES/IM1"] = members["IMAGES/IM1"][:-1] + b"y"


def add(members: dict[str, bytes]) -> None:
    members["IMAGES/IM77"] = members["IMAGES/IM0"]


def forget(members: dict[str, bytes]) -> None:
    members.pop("DICOMDIR")


def unlisted(members: dict[str, bytes]) -> None:
    members["DICOMDIR"] = dicomdir({"IMAGES/IM0": members["IMAGES/IM0"]})


def outside(members: dict[str, bytes]) -> None:
    members["../../IM1"] = members.pop("IMAGES/IM1")


@pytest.mark.parametrize(
    "wrong, told",
    [
        (drop, "of 3 images 1 did not come out as they are, and 0 others did"),
        (change, "of 3 images 1 did not come out as they are, and 1 others did"),
        (add, "of 3 images 0 did not come out as they are, and 1 others did"),
        (forget, "no item named 'DICOMDIR'"),
        (unlisted, "the DICOMDIR names 1 of 3 images"),
        (outside, "the DICOMDIR names 2 of 3 images"),
    ],
)
def test_what_is_not_complete_does_not_come_out(
    archive: StandIn, tmp_path: pathlib.Path, wrong: Callable[[dict[str, bytes]], None], told: str, capsys: Capture
) -> None:
    packs(archive, wrong)
    assert run(archive, tmp_path / "out", "--patient", "P0") == 1
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_names_do_not_lead_outside(archive: StandIn, tmp_path: pathlib.Path, capsys: Capture) -> None:
    packs(archive, outside)
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    assert run(archive, folder / "out", "--patient", "P0", "--form", "folder") == 1
    assert "leads outside of the folder" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", folder]


def test_archive_that_was_cut_off_on_its_way(archive: StandIn, tmp_path: pathlib.Path) -> None:
    """Once in the middle, once before it began."""
    packs(archive)
    whole = archive.fault

    def fault(method: str, path: str, number: int) -> Answered:
        if path.endswith("/archive") and number == 1:
            return 200, {"Content-Length": "999999"}, b"PK\3\4"
        return DROP if path.endswith("/archive") and number == 2 else whole(method, path, number)

    archive.fault = fault
    assert run(archive, tmp_path / "out", "--patient", "P0", "--form", "zip") == 0
    assert len(images(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    "answer, told",
    [
        ((500, {}, json.dumps({"Message": "No room"}).encode()), "does not pack them: 500, No room"),
        ((200, {}, b"no archive"), "cannot be read"),
        (507, "no room left"),
        (401, "refuses the login"),
    ],
)
def test_archive_that_does_not_pack(
    archive: StandIn, tmp_path: pathlib.Path, answer: Any, told: str, capsys: Capture
) -> None:
    archive.fault = lambda method, path, number: answer if path.endswith("/media") else None
    assert run(archive, tmp_path / "out", "--patient", "P0") == 1
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wanted, told", [(["--patient", "nobody"], "no patient nobody"), (["--study", "P0"], "no study P0")]
)
def test_what_is_not_there(
    archive: StandIn, tmp_path: pathlib.Path, wanted: list[str], told: str, capsys: Capture
) -> None:
    assert run(archive, tmp_path / "out", *wanted) == 1
    assert told in capsys.readouterr().err


def test_what_is_there_is_not_written_over(archive: StandIn, tmp_path: pathlib.Path, capsys: Capture) -> None:
    packs(archive)
    (tmp_path / "out").mkdir()
    assert run(archive, tmp_path / "out", "--patient", "P0") == 1
    assert "is there already" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_file_of_the_name_of_what_is_packed(archive: StandIn, tmp_path: pathlib.Path, capsys: Capture) -> None:
    packs(archive)
    mine = tmp_path / "out.new.zip"
    mine.write_bytes(b"mine")
    assert run(archive, tmp_path / "out", "--patient", "P0") == 1
    assert "out.new.zip is there already" in capsys.readouterr().err
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("wrong", [(404, {}, b'{"Message": "x"}'), (200, {}, b'["x"]'), (200, {}, b"<html>")])
@pytest.mark.parametrize("path", ["/tools/lookup", "/patients/"])
def test_answers_that_are_none(
    archive: StandIn, tmp_path: pathlib.Path, path: str, wrong: Answered, capsys: Capture
) -> None:
    archive.fault = lambda method, asked, number: wrong if asked.startswith(path) else None
    assert run(archive, tmp_path / "out", "--patient", "P0") == 1
    assert "gives no list of resources" in capsys.readouterr().err


@pytest.mark.parametrize("more, told", [("ä", "/system gives 404"), ("?x", "no address"), (":x/", "no address")])
def test_address_that_is_none(archive: StandIn, tmp_path: pathlib.Path, more: str, told: str, capsys: Capture) -> None:
    url = archive.url + more if more[0] != ":" else "http://localhost" + more
    assert run(archive, tmp_path / "out", "--patient", "P0", "--url", url) == 1
    assert told in capsys.readouterr().err


def test_archive_that_never_comes(
    archive: StandIn, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(client, "UNANSWERED", 2)
    archive.fault = lambda method, path, number: DROP if path.endswith("/archive") else None
    assert run(archive, tmp_path / "out", "--patient", "P0", "--form", "zip", "--patience", "30") == 1
    assert "gives no answer" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_disk_without_room(archive: StandIn, tmp_path: pathlib.Path, monkeypatch: Any, capsys: Capture) -> None:
    packs(archive)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    assert run(archive, tmp_path / "out", "--patient", "P0") == 1
    assert "out.new cannot be written: No space left on device; remove it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.new"]
    assert run(archive, tmp_path / "out", "--patient", "P0") == 1
    assert "out.new is there already" in capsys.readouterr().err


def test_disk_without_room_for_what_comes(archive: StandIn, tmp_path: pathlib.Path) -> None:
    """Files that cannot become larger; the archive is not taken for what fails."""
    packs(archive)
    given = ["--url", archive.url, "--user", "user", "--patience", "2", "--patient", "P0", str(tmp_path / "out")]
    # Python would write its compiled modules too, and leave them cut short for whoever comes next.
    within = 'ulimit -f 1; exec env PYTHONDONTWRITEBYTECODE=1 "$@"'
    limited = ["sh", "-c", within, "sh", sys.executable, str(ROOT / "tools" / "pacs-export"), *given]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "out.new.zip cannot be written: File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_wanted_is_something(archive: StandIn, tmp_path: pathlib.Path) -> None:
    with pytest.raises(SystemExit):
        run(archive, tmp_path / "out")


def test_sums_that_are_not_kept(archive: StandIn, tmp_path: pathlib.Path) -> None:
    packs(archive)
    whole = archive.fault
    archive.fault = lambda method, path, number: (
        (404, {}, b"") if path.endswith("/md5") else whole(method, path, number)
    )
    assert run(archive, tmp_path / "out", "--patient", "P0") == 0
    assert identifier(header.read(images(tmp_path / "out")[0]), 0) in archive._parents(
        next(iter(archive.images.values()))
    )

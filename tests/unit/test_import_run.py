"""Imports into a server that does what it is told, and into one that fails in every way: each file has its fate."""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import http.client
import io
import json
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import tarfile
import termios
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pydicom
import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import __main__ as command
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import (
    client,
    connect,
    load,
    progress,
    risks,
    sources,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import origin as origin_module
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.client import Archive, Ended
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.journal import Busy, shown
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.load import Import, Options
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.progress import Progress

from tests.hosts.certificates import pem
from tests.repository import ROOT
from tests.unit.orthanc_stand_in import DROP, LOSE, NOISE, Answered, StandIn
from tests.unit.test_import_header import written
from tests.unit.test_import_sources import put, tar, zipped

FILES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
PROGRAM = ROOT / "tools" / "pacs-import"
PASSWORD = "passäword"


@functools.cache
def image(
    number: int, patient: str = "P1", study: str = "1.2.3", series: str = "1", size: int = 100, **more: Any
) -> bytes:
    return written(
        more.pop("syntax", "1.2.840.10008.1.2.1"),
        PatientID=patient,
        StudyInstanceUID=study,
        SeriesInstanceUID=f"{study}.{series}",
        SOPInstanceUID=f"{study}.{series}.{number}",
        Modality=more.pop("modality", "CT"),
        StudyDate=more.pop("date", "20200229"),
        EncapsulatedDocument=b"x" * size,
        **more,
    )


@pytest.fixture
def archive() -> Iterator[StandIn]:
    made = StandIn()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SHORTEST", 0.01)
    monkeypatch.setattr(client, "LONGEST", 0.05)
    monkeypatch.setattr(client, "UNANSWERED", 100)


class Folder:
    """A folder with images, and imports of it."""

    def __init__(self, folder: pathlib.Path, archive: StandIn) -> None:
        self.folder, self.archive = folder, archive
        self.input = folder / "in"
        self.input.mkdir()

    def put(self, name: str, data: bytes) -> pathlib.Path:
        return put(self.input, name, data)

    def fill(self, number: int, **more: Any) -> None:
        for one in range(number):
            self.put(f"IM{one:04}", image(one, **more))

    def run(self, report: str = "report", **more: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "sources": [os.fsencode(self.input)],
            "url": self.archive.url,
            "report": str(self.folder / report),
            "login": ("user", PASSWORD),
            "connections": 4,
            "gentle": False,
            "patience": 5,
        }
        return Import(Options(**given | more), Progress(None)).run()

    def fates(self, report: str = "report") -> dict[str, tuple[str, str]]:
        with (self.folder / report / "files.csv").open(encoding="utf-8", newline="") as file:
            return {pathlib.Path(row["file"]).name: (row["fate"], row["reason"]) for row in csv.DictReader(file)}


@pytest.fixture
def folder(tmp_path: pathlib.Path, archive: StandIn) -> Folder:
    return Folder(tmp_path, archive)


def test_connection_that_is_reset_as_it_is_made(archive: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends just then does so, and none is there to say why."""

    def reset(_connection: http.client.HTTPConnection) -> None:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(http.client.HTTPConnection, "connect", reset)
    with pytest.raises(client.Lost, match="gives no answer: reset by peer"):
        Archive(archive.url, ("user", PASSWORD), None, client.Gate(5)).ask("GET", "/system")


def test_every_file_has_its_fate(folder: Folder, archive: StandIn) -> None:
    folder.put("a/IM1", image(1))
    folder.put("a/IM2", image(2))
    folder.put("a/copy of IM2", image(2))
    folder.put("b.tar", tar({"IM3": image(3, series="2"), "text": b"x"}))
    folder.put("c.zip", zipped({"IM4": image(4, study="1.4")}))
    folder.put("broken", image(5)[:300])
    folder.put("no series", written("1.2.840.10008.1.2.1", PatientID="x", SeriesInstanceUID=""))
    folder.put("text", b"No image.")
    folder.put("empty", b"")
    summary = folder.run()
    assert summary["files"] == {"stored": 4, "already there": 1, "archive": 2, "no DICOM": 3, "rejected": 2}
    assert summary["images"] == {"patients": 1, "studies": 2, "series": 3, "instances": 4}
    assert summary["bytes"]["stored"] == sum(map(len, archive.images.values()))
    assert (summary["complete"], summary["studies_of_several_patients"]) == (True, [])
    fates = folder.fates()
    assert fates["broken"] == ("rejected", "400, Bad file format: Cannot parse it")
    assert fates["no series"] == ("rejected", "404, it lacks an identifier that each image has to have")
    assert {fates["IM2"][0], fates["copy of IM2"][0]} == {"stored", "already there"}
    assert fates["empty"] == ("no DICOM", "it is empty")
    assert json.loads((folder.folder / "report" / "summary.json").read_text("utf-8")) == summary
    assert set(archive.images.values()) == {image(1), image(2), image(3, series="2"), image(4, study="1.4")}


def test_report_is_for_its_owner_alone(folder: Folder) -> None:
    folder.fill(2)
    os.umask(0)
    try:
        folder.run()
    finally:
        os.umask(0o022)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder.folder / "report").iterdir()}
    assert (folder.folder / "report").stat().st_mode & 0o777 == 0o700
    assert {"files.csv", "journal.sqlite", "summary.json"} <= set(modes)
    assert set(modes.values()) == {0o600}


def test_second_run_sends_nothing(folder: Folder, archive: StandIn) -> None:
    folder.fill(30)
    folder.put("b.tar", tar({f"IM1{one}": image(one, series="2") for one in range(9)}))
    folder.run()
    archive.asked.clear()
    summary = folder.run()
    assert summary["files"] == {"already there": 39, "archive": 1}
    assert not archive.sent()
    # The journal knew: the archive was asked once for each series and study, for what it is, and for no image.
    assert sorted(path.split("/")[1] for _, path in archive.asked) == ["plugins", "series", "series", "system", "tools"]


@pytest.mark.parametrize("answer", [None, (200, {}, b"[]"), (200, {}, b'["0a1b"]'), (404, {}, b"")])
def test_second_run_over_many_studies_asks_little(folder: Folder, archive: StandIn, answer: Answered) -> None:
    """As X-rays are, each of which is a study; an archive that does not answer for several is asked for each."""
    for one in range(250):
        folder.put(f"IM{one:03}", image(one, study=f"1.2.{one}"))
    folder.run()
    del archive.images[next(iter(archive.images))]
    archive.asked.clear()
    together = ("/tools/bulk-content", "/tools/find")
    archive.fault = lambda method, path, number: answer if path in together else None
    assert folder.run()["files"] == {"already there": 249, "stored": 1}
    of_all = [path for _, path in archive.asked if path in together]
    # In hundreds of files, and twenties of studies.
    assert sorted(of_all) == 3 * ["/tools/bulk-content"] + 13 * ["/tools/find"]
    # What it is, its plugins, and what is not there.
    assert len(archive.asked) - len(of_all) == (4 if answer is None else 2 + 250 + 1 + 250)


def test_archive_that_fails_on_many_is_asked_for_each(folder: Folder, archive: StandIn) -> None:
    """A failure is tried again for seconds, and that for each hundred files would add up."""
    for one in range(250):
        folder.put(f"IM{one:03}", image(one, study=f"1.2.{one}"))
    folder.run()
    archive.asked.clear()
    archive.fault = lambda method, path, number: 500 if path == "/tools/bulk-content" else None
    assert folder.run()["files"] == {"already there": 250}
    assert archive.asked.count(("POST", "/tools/bulk-content")) == client.ATTEMPTS


def test_sums_that_are_forgotten_meanwhile(archive: StandIn) -> None:
    """Another thread may need the room while one asks."""
    there = load.Instances(Archive(archive.url, ("user", PASSWORD), None, client.Gate(5)))
    there.sums = True

    class Forgetful(dict[str, dict[str, str]]):
        def __setitem__(self, series: str, sums: dict[str, str]) -> None:
            """As if it went at once."""

    there._sums = Forgetful()
    archive._store(image(1))
    (name,) = archive.images
    assert there.md5(archive._parents(image(1))[2], name) == hashlib.md5(image(1)).hexdigest()


def test_one_thread_asks_for_a_series(folder: Folder, archive: StandIn) -> None:
    """The others come to it at the same time, and each request keeps images waiting."""

    def fault(method: str, path: str, number: int) -> None:
        if path.startswith("/series/"):
            time.sleep(0.2)

    folder.fill(30)
    archive.fault = fault
    assert folder.run(connections=8)["files"] == {"stored": 30}
    assert len([path for _, path in archive.asked if path.startswith("/series/")]) == 1


@pytest.mark.parametrize("sent", [True, False])
def test_what_is_remembered_of_the_archive_is_bounded(
    folder: Folder, archive: StandIn, monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    monkeypatch.setattr(load, "REMEMBERED", 25)
    most = []
    has = load.Instances.has

    def counted(there: load.Instances, series: str, name: str) -> bool:
        found = has(there, series, name)
        most.append(sum(images.count("\n") for images in there._series.values()))
        assert there._number == most[-1]
        assert set(there._sums) <= set(there._series)
        return found

    monkeypatch.setattr(load.Instances, "has", counted)
    archive.system["Capabilities"] = {"HasExtendedFind": True}
    for series in range(12):
        for one in range(10):
            folder.put(f"{series:02}-{one}", image(one, series=str(series)))
    if not sent:
        folder.run("elsewhere")
        most.clear()
    folder.run(connections=1)
    # It forgets when it comes to the next series.
    assert 20 <= max(most) <= 25 + 10


def test_members_of_one_name_are_all_sent(folder: Folder, archive: StandIn) -> None:
    """Also where the first of them is in the journal by the time that the second comes."""
    same = [image(one) for one in (1, 2)]
    assert len(same[0]) == len(same[1])
    between = [(f"IM{one}", image(one)) for one in range(10, 100)]
    folder.put("a.tar", tar([("CT1", same[0]), *between, ("CT1", same[1])]))
    assert folder.run(connections=1)["files"] == {"stored": 92, "archive": 1}
    assert same[1] in archive.images.values()
    archive.asked.clear()
    assert folder.run()["files"] == {"already there": 92, "archive": 1}
    assert not [path for _, path in archive.asked if "md5" in path]


def test_good_member_does_not_hide_a_bad_one_of_its_name(folder: Folder, archive: StandIn) -> None:
    folder.put("a.tar", tar([("IM1", image(1)[:300]), ("IM1", image(1))]))
    assert folder.run()["files"] == {"stored": 1, "rejected": 1, "archive": 1}


def test_sources_that_overlap(folder: Folder, archive: StandIn) -> None:
    """What was stored is told as stored, and what was wrong as wrong."""
    folder.fill(20)
    folder.put("broken", image(5)[:300])
    folder.put("a.tar", tar({"IM": image(50)}))
    both = [os.fsencode(folder.input), os.fsencode(folder.input)]
    assert folder.run(sources=both, connections=1)["files"] == {"stored": 21, "rejected": 1, "archive": 1}
    assert folder.run(sources=both)["files"] == {"already there": 21, "rejected": 1, "archive": 1}


def test_files_are_known_from_wherever_they_are_named(
    folder: Folder, archive: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.fill(3)
    folder.run()
    archive.asked.clear()
    monkeypatch.chdir(folder.folder)
    assert folder.run(sources=[b"in/../in"])["files"] == {"already there": 3}
    assert not [path for _, path in archive.asked if "md5" in path]


def test_another_machine_sends_nothing(folder: Folder, archive: StandIn) -> None:
    """Without the journal the archive is asked."""
    folder.fill(30)
    folder.put("letters", image(99, patient="患者", SpecificCharacterSet="ISO_IR 192"))
    folder.run()
    archive.asked.clear()
    summary = folder.run(report="elsewhere")
    assert summary["files"] == {"already there": 31}
    assert not archive.sent()


@pytest.mark.parametrize(
    "answer, asked",
    [
        (None, 0),
        ((200, {}, b"[]"), 30),
        ((200, {}, b'["0a1b"]'), 30),
        ((200, {}, b'[{"ID": "0a1b", "Attachments": [{"ContentType": 1}]}]'), 30),
        ((200, {}, b"null"), 30),
        ((404, {}, b""), 30),
        (500, 30),
    ],
)
def test_sums_of_a_series_are_asked_for_together(
    folder: Folder, archive: StandIn, answer: Answered, asked: int
) -> None:
    """Orthanc from 1.12.5 on tells them so; where it does not after all, each is asked for."""
    archive.system["Capabilities"] = {"HasExtendedFind": True}
    archive.fault = lambda method, path, number: answer if path == "/tools/find" else None
    for one in range(30):
        folder.put(f"IM{one}", image(one, series=str(one % 2)))
    folder.put("conflict", image(99))
    folder.run()
    archive.asked.clear()
    folder.put("conflict", image(99, size=200))
    summary = folder.run(report="elsewhere")
    assert summary["files"] == {"already there": 30, "conflict": 1}
    assert not archive.sent()
    # Two series, and what studies there are; each try counts.
    assert archive.asked.count(("POST", "/tools/find")) == (12 if answer == 500 else 3)
    assert len([path for _, path in archive.asked if path.endswith("/md5")]) == (asked + 1 if asked else 0)


def test_images_that_come_twice_do_not_have_a_series_asked_for_again(folder: Folder, archive: StandIn) -> None:
    archive.system["Capabilities"] = {"HasExtendedFind": True}
    for one in range(20):
        folder.put(f"IM{one:02}", image(one))
        folder.put(f"IM{one:02}-again", image(one))
    assert folder.run(connections=1)["files"] == {"stored": 20, "already there": 20}
    # Once for the series, and once for the study.
    assert archive.asked.count(("POST", "/tools/find")) == 2


def test_what_the_archive_has_lost_is_sent_again(folder: Folder, archive: StandIn) -> None:
    folder.fill(5)
    folder.run()
    gone = next(iter(archive.images))
    del archive.images[gone]
    assert folder.run()["files"] == {"already there": 4, "stored": 1}
    assert gone in archive.images


def test_journal_of_another_archive_is_no_hint(folder: Folder, archive: StandIn) -> None:
    folder.fill(3)
    folder.run()
    other = StandIn()
    try:
        assert folder.run(url=other.url)["files"] == {"stored": 3}
        assert len(other.images) == 3
    finally:
        other.close()


def test_changed_file_is_looked_at_again(folder: Folder, archive: StandIn) -> None:
    folder.fill(3)
    folder.run()
    folder.put("IM0001", image(1, size=50))
    assert folder.run()["files"] == {"already there": 2, "conflict": 1}


# Whose identifier Orthanc reads by its own settings.
LATIN = {"patient": "Müller", "SpecificCharacterSet": "ISO_IR 100"}


@pytest.mark.parametrize("overwrites", [False, True, None])
@pytest.mark.parametrize("whose", [{}, LATIN])
def test_conflict_is_told_and_nothing_overwritten(
    folder: Folder, archive: StandIn, whose: dict[str, str], overwrites: bool | None
) -> None:
    """Also where nobody can tell what Orthanc calls an image, and where an old one does not tell what it does."""
    if overwrites is not None:
        archive.system["OverwriteInstances"] = overwrites
    folder.put("IM1", image(1, **whose))
    folder.run()
    folder.put("IM1", image(1, size=50, **whose))
    archive.asked.clear()
    summary = folder.run()
    assert summary["files"] == {"conflict": 1}
    assert summary["wrong"][0]["reason"] == "the archive has other bytes under the same identifiers"
    assert archive.sent() == (bool(whose) and overwrites is False)
    assert list(archive.images.values()) == [image(1, **whose)]
    # By its own identifier alone it is not the same one.
    folder.put("IM1", image(1, study="1.2.4", **whose).replace(b"1.2.4.1.1", b"1.2.3.1.1"))
    assert folder.run()["files"] == {"stored": 1}


def test_image_that_is_there_beside_another_patients(folder: Folder, archive: StandIn) -> None:
    """Both have the same identifiers but the patient's; the other one comes first."""
    archive.system["OverwriteInstances"] = True
    folder.put("IM1", image(1, **LATIN))
    folder.run()
    folder.put("IM2", image(1, size=50))
    assert folder.run()["files"] == {"already there": 1, "stored": 1}
    archive.images = dict(reversed(archive.images.items()))
    assert folder.run(report="elsewhere")["files"] == {"already there": 2}


@pytest.mark.parametrize("whose", [{}, LATIN])
def test_two_files_of_one_image_that_differ(folder: Folder, archive: StandIn, whose: dict[str, str]) -> None:
    """One of them is stored, also where the archive would let the other one win."""
    archive.system["OverwriteInstances"] = True
    for number in range(20):
        folder.put(f"a{number}", image(number, **whose))
        folder.put(f"b{number}", image(number, size=50, **whose))
    assert folder.run(connections=8)["files"] == {"stored": 20, "conflict": 20}
    assert archive.sent() == 20


@pytest.mark.parametrize("status", [429, 502, 503, 504, DROP, NOISE])
def test_archive_that_is_away_for_a_while(folder: Folder, archive: StandIn, status: int) -> None:
    folder.fill(40)
    archive.fault = lambda method, path, number: status if path == "/instances" and number in range(5, 25) else None
    summary = folder.run()
    assert summary["files"] == {"stored": 40}
    assert summary["waits"] > 0
    assert len(archive.images) == 40


def test_archive_says_how_long_to_wait(folder: Folder, archive: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST", 5)
    folder.fill(1)
    archive.fault = lambda method, path, number: (
        (429, {"Retry-After": "1"}, b"") if path == "/instances" and number == 1 else None
    )
    summary = folder.run()
    assert summary["files"] == {"stored": 1}
    assert 1 <= summary["seconds"] < 4


def test_answer_that_was_lost(folder: Folder, archive: StandIn) -> None:
    """The archive has stored it, and nobody has heard so: it is held against what the archive has."""
    folder.fill(20)
    archive.fault = lambda method, path, number: LOSE if path == "/instances" and number % 3 == 0 else None
    assert folder.run()["files"] == {"stored": 20}
    assert len(archive.images) == 20


def test_entry_without_its_file_is_told(folder: Folder, archive: StandIn) -> None:
    """What Orthanc leaves where its database went away at the wrong moment: it says that it has the image."""
    folder.fill(1)

    def fault(method: str, path: str, number: int) -> int | None:
        if path != "/instances" or number > 1:
            return None
        answer = archive._store(image(0))
        archive.lost.add(json.loads(answer[2])["ID"])
        return 503

    archive.fault = fault
    summary = folder.run()
    assert summary["files"] == {"rejected": 1}
    assert summary["wrong"][0]["reason"] == load.LOST


def test_one_image_on_which_the_archive_fails(folder: Folder, archive: StandIn) -> None:
    folder.fill(5)
    folder.put("bad", image(66))

    def fault(method: str, path: str, number: int) -> int | None:
        return 500 if path == "/instances" and number in (1, 2, 3, 4) else None

    archive.fault = fault
    summary = folder.run(connections=1)
    assert summary["files"] == {"stored": 5, "rejected": 1}
    assert "as it was told" in summary["wrong"][0]["reason"]


def test_one_image_that_gets_no_answer(folder: Folder, archive: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one on which the archive, or what is before it, breaks off each time."""
    monkeypatch.setattr(client, "UNANSWERED", 6)
    folder.fill(5)

    def fault(method: str, path: str, number: int) -> int | None:
        return DROP if path == "/instances" and number < 9 else None

    archive.fault = fault
    summary = folder.run(connections=1)
    assert summary["files"] == {"stored": 5 - 1, "rejected": 1}
    assert "whenever it is sent" in summary["wrong"][0]["reason"]
    archive.fault = lambda *_: None
    assert folder.run()["files"] == {"already there": 4, "stored": 1}


def test_archive_that_fails_on_every_image(folder: Folder, archive: StandIn) -> None:
    folder.fill(60)
    archive.fault = lambda method, path, number: 500 if path == "/instances" else None
    summary = folder.run()
    assert not summary["complete"]
    assert "20 images, one after the other" in summary["ended"]
    assert summary["files"]["rejected"] + summary["files"].get("not sent", 0) <= 60


def test_image_that_is_too_large_for_the_proxy(folder: Folder, archive: StandIn) -> None:
    folder.fill(3)
    folder.put("large", image(9, size=50_000))
    archive.fault = lambda method, path, number: 413 if path == "/instances" and number == 4 else None
    summary = folder.run(connections=1)
    assert summary["files"] == {"stored": 3, "rejected": 1}
    assert summary["wrong"][0]["reason"].startswith("413, it is larger than")


@pytest.mark.parametrize(
    "status, told",
    [
        (401, "refuses the login"),
        (403, "may not do this"),
        (405, "takes no images as Orthanc does"),
        (507, "no room left"),
        (301, "refers to https://elsewhere/"),
    ],
)
def test_answer_after_which_none_will_be_better(folder: Folder, archive: StandIn, status: int, told: str) -> None:
    folder.fill(30)
    archive.fault = lambda method, path, number: (
        (status, {"Location": "https://elsewhere/"}, b"{}") if path == "/instances" and number > 10 else None
    )
    summary = folder.run()
    assert not summary["complete"]
    assert told in summary["ended"]
    assert summary["files"]["stored"] == len(archive.images) == 10
    assert summary["files"]["not sent"] >= 1
    archive.fault = lambda *_: None
    archive.asked.clear()
    again = folder.run()
    assert again["files"] == {"already there": 10, "stored": 20}
    assert archive.sent() == 20


def test_archive_that_does_not_come_back(folder: Folder, archive: StandIn) -> None:
    folder.fill(30)
    archive.fault = lambda method, path, number: DROP if len(archive.images) >= 12 else None
    summary = folder.run(patience=0.5)
    assert not summary["complete"]
    assert "nothing useful for" in summary["ended"]
    assert summary["seconds"] < 10
    archive.fault = lambda *_: None
    assert folder.run()["files"]["already there"] == 12


@pytest.mark.parametrize(
    "url, login, told",
    [
        ("http://127.0.0.1:1/", PASSWORD, "Connection refused"),
        (None, "wrong", "refuses the login"),
        ("http://nowhere.invalid/", PASSWORD, "gives no answer"),
        ("ftp://pacs/", PASSWORD, "is no address of an archive"),
        ("http://user:secret@pacs/", PASSWORD, "a login goes elsewhere"),
    ],
)
def test_archive_that_cannot_be_reached(folder: Folder, url: str | None, login: str, told: str) -> None:
    folder.fill(2)
    try:
        summary = folder.run(url=url or folder.archive.url, login=("user", login))
        ended = summary["ended"]
    except Ended as error:
        ended = str(error)
    assert told in ended
    assert not folder.archive.sent()


@pytest.mark.parametrize("path", ["/system", "/plugins"])
def test_interrupted_before_it_begins(
    folder: Folder, archive: StandIn, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    folder.fill(2)
    real = client.Archive.ask

    def ask(self: client.Archive, method: str, asked: str, *more: Any, **named: Any) -> Any:
        if asked == path:
            raise KeyboardInterrupt
        return real(self, method, asked, *more, **named)

    monkeypatch.setattr(client.Archive, "ask", ask)
    summary = folder.run()
    assert (summary["complete"], summary["ended"]) == (False, "interrupted")
    assert not archive.sent()


def test_image_that_the_archive_takes_for_an_archive(folder: Folder, archive: StandIn) -> None:
    """A file may be both; then Orthanc answers with what it found in it."""
    folder.fill(3)
    archive.fault = lambda method, path, number: (200, {}, b"[]") if path == "/instances" and number == 1 else None
    summary = folder.run(connections=1)
    assert (summary["complete"], summary["files"]) == (True, {"stored": 2, "rejected": 1})
    assert "took it for an archive" in summary["wrong"][0]["reason"]


def test_server_that_is_no_orthanc(folder: Folder, archive: StandIn) -> None:
    folder.fill(2)
    archive.fault = lambda *_: (200, {}, b"<html><title>Welcome</title>")
    assert "an Orthanc would describe itself" in folder.run()["ended"]


PAGE = (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html><title>Log in, please</title>")


@pytest.mark.parametrize(
    "path", ["/series/", "/tools/lookup", "/tools/find", "/md5", "/file", "/instances", "/studies/"]
)
@pytest.mark.parametrize("answer", [PAGE, (200, {}, b"[1]"), (200, {}, b"3"), (200, {}, b'"x"')])
def test_answer_of_another_shape(folder: Folder, archive: StandIn, path: str, answer: Answered) -> None:
    """As by a proxy whose login has run out in the middle: nothing is told as a conflict, nor as a fault of ours."""
    folder.put("IM1", image(1))
    folder.put("IM2", image(2, patient="P2"))
    folder.put("letters", image(3, patient="患者", SpecificCharacterSet="ISO_IR 192"))
    folder.run(verify=True)
    folder.put("IM4", image(4, series="2"))

    def fault(method: str, asked: str, number: int) -> Answered:
        # A study is asked for where several are not told together.
        unable = path == "/studies/" and asked == "/tools/find"
        return (404, {}, b"") if unable else answer if path in asked + "/" else None

    archive.fault = fault
    summary = folder.run(report="other", verify=True)
    if answer == PAGE:
        assert "with a page for people, as one to log in by is" in summary["ended"]
        assert set(summary["files"]) <= {"already there", "not sent", "stored"}
    assert "fault of the program" not in summary["ended"]
    archive.fault = lambda *_: None
    assert "not sent" not in folder.run(report="other")["files"]


def test_server_that_answers_without_end(folder: Folder, archive: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LARGEST", 1000)
    archive.system["more"] = "x" * 2000
    assert "an answer of more than" in folder.run()["ended"]


def test_address_with_other_letters(folder: Folder, archive: StandIn) -> None:
    assert "gives 404 where an Orthanc" in folder.run(url=archive.url + "ä ö")["ended"]
    assert archive.asked[-1] == ("GET", "/%C3%A4%20%C3%B6/system")


def test_large_image_is_streamed(folder: Folder, archive: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """And read anew for each try."""
    monkeypatch.setattr(sources, "SMALL", 1000)
    folder.fill(4, size=300_000)
    archive.fault = lambda method, path, number: 503 if path == "/instances" and number % 2 else None
    assert folder.run()["files"] == {"stored": 4}
    assert set(archive.images.values()) == {image(one, size=300_000) for one in range(4)}


def test_large_image_to_which_somebody_writes(
    folder: Folder, archive: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive has parts of both."""
    monkeypatch.setattr(sources, "SMALL", 1000)
    path = folder.put("IM", image(1, size=300_000))

    def fault(method: str, path_: str, number: int) -> None:
        if path_ == "/instances":
            with path.open("ab") as file:
                file.write(b"more")

    archive.fault = fault
    assert folder.run()["files"] == {"not as sent": 1}
    archive.fault = lambda *_: None
    assert folder.run()["files"] == {"conflict": 1}


def test_later_verification_needs_no_sums_of_before(folder: Folder, archive: StandIn) -> None:
    folder.fill(5)
    assert folder.run()["verified"] == 0
    assert folder.run(verify=True)["verified"] == 5
    assert folder.run(verify=True)["files"] == {"already there": 5}


def test_verification_that_is_cut_off_is_repeated(folder: Folder, archive: StandIn) -> None:
    folder.fill(3)
    archive.fault = lambda method, path, number: (
        (200, {"Content-Length": "99999"}, b"x") if path.endswith("/file") and number == 1 else None
    )
    assert folder.run(verify=True)["verified"] == 3


def test_connections_are_kept_and_used_side_by_side(folder: Folder, archive: StandIn) -> None:
    def fault(method: str, path: str, number: int) -> None:
        time.sleep(0.01)

    folder.fill(60)
    archive.fault = fault
    folder.run(connections=6)
    assert archive.connections <= 3 * 6 + 1
    assert 3 <= archive.busiest <= 6


def test_gentle_import_leaves_half_of_the_time_to_others(folder: Folder, archive: StandIn) -> None:
    def fault(method: str, path: str, number: int) -> None:
        if path == "/instances":
            time.sleep(0.05)

    folder.fill(10)
    archive.fault = fault
    began = time.monotonic()
    folder.run(connections=1, gentle=True)
    assert archive.busiest == 1
    assert time.monotonic() - began > 0.9


@pytest.mark.parametrize(
    "rules, taken",
    [
        ({"modalities": frozenset(["CT"])}, {"ct", "old"}),
        ({"since": "20200101"}, {"ct", "mr"}),
        ({"until": "20191231"}, {"old"}),
        ({"since": "20200101", "modalities": frozenset(["MR", "US"])}, {"mr"}),
    ],
)
def test_rules(folder: Folder, archive: StandIn, rules: dict[str, Any], taken: set[str]) -> None:
    folder.put("ct", image(1))
    folder.put("mr", image(2, series="2", modality="MR"))
    folder.put("old", image(3, date="20191231").replace(b"DA\x08\x0020191231", b"DA\x0a\x002019.12.31"))
    folder.put("dateless", image(4, series="4", modality="OT", date=""))
    folder.put("broken", image(5)[:200])
    folder.run(**rules)
    fates = folder.fates()
    assert {name for name, (fate, _) in fates.items() if fate == "stored"} == taken
    assert fates["broken"][0] == "rejected"
    assert {fate for name, (fate, _) in fates.items() if name not in {*taken, "broken"}} == {"left out"}


@pytest.mark.parametrize("size", [100, 300_000])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_other_patient_identifiers(
    folder: Folder, archive: StandIn, monkeypatch: pytest.MonkeyPatch, size: int, syntax: str
) -> None:
    """Nothing else of an image is another one, and what came under another name before is no hint."""
    monkeypatch.setattr(sources, "SMALL", 1000)
    folder.put("IM1", image(1, size=size, syntax=syntax))
    folder.put("IM2", image(2, "P2", "1.9", size=size, syntax=syntax))
    for patient in ("NEW-17", "X"):
        summary = folder.run(patients={"P1": patient}, verify=True)
        assert summary["files"] == {"stored": 2} if patient != "X" else {"stored": 1, "already there": 1}
        assert summary["verified"] == 2
        assert image(1, patient, size=size, syntax=syntax) in archive.images.values()
        assert folder.run(patients={"P1": patient})["files"] == {"already there": 2}
    assert image(2, "P2", "1.9", size=size, syntax=syntax) in archive.images.values()
    assert len(archive.images) == 3


def test_identifier_with_blanks_before_it_is_the_same(folder: Folder, archive: StandIn) -> None:
    """By DICOM they mean nothing."""
    folder.put("IM1", image(1, " 0815"))
    summary = folder.run(patients={"0815": "NEW"}, verify=True)
    assert (summary["files"], summary["verified"]) == ({"stored": 1}, 1)
    assert list(archive.images.values()) == [image(1, "NEW")]


def test_identifier_that_cannot_be_replaced(folder: Folder, archive: StandIn) -> None:
    folder.put("IM1", image(1, syntax="1.2.840.10008.1.2.1.99"))
    folder.put("broken", image(2)[:300])
    assert folder.run(patients={"P1": "P7"})["files"] == {"rejected": 2}
    assert not archive.sent()


@pytest.mark.parametrize("text", ["a", "a,b,c", ",b", "a,", "a,b\na,c", "a,é", "a,b\\c", "a, b", f"a,{'b' * 65}"])
def test_file_with_identifiers_that_do_not_fit(tmp_path: pathlib.Path, text: str) -> None:
    good = put(tmp_path, "good", "\ufeffA é,B\r\nC,D E\r\nA é,B\r\n".encode())
    assert connect.patients(str(good)) == {"A é": "B", "C": "D E"}
    with pytest.raises(ValueError, match="line"):
        connect.patients(str(put(tmp_path, "bad", text.encode())))


def test_dry_run_sends_nothing(folder: Folder, archive: StandIn) -> None:
    folder.put("IM1", image(1))
    folder.run()
    folder.put("IM1 changed", image(1, size=50))
    folder.put("IM2", image(2))
    archive.asked.clear()
    summary = folder.run(dry_run=True)
    assert summary["files"] == {"already there": 1, "conflict": 1, "to be stored": 1}
    assert not archive.sent()
    assert folder.run()["files"] == {"already there": 1, "conflict": 1, "stored": 1}


def test_verify(folder: Folder, archive: StandIn) -> None:
    folder.fill(10)
    assert folder.run(verify=True)["verified"] == 10
    served = list(archive.images)
    archive.images[served[0]] = image(0, size=50)
    archive.lost.add(served[1])
    summary = folder.run(verify=True)
    assert summary["verified"] == 8
    assert {one["fate"] for one in summary["wrong"]} == {"not as sent"}
    assert {one["reason"] for one in summary["wrong"]} == {"the archive serves other bytes", load.LOST}


def test_transcoded_image_is_no_conflict_where_the_archive_transcodes(folder: Folder, archive: StandIn) -> None:
    folder.put("IM1", image(1))
    folder.run()
    (stored,) = archive.images
    archive.images[stored] = image(1, syntax="1.2.840.10008.1.2")
    assert folder.run(report="other")["files"] == {"conflict": 1}
    archive.system["IngestTranscoding"] = "1.2.840.10008.1.2"
    summary = folder.run(report="third", verify=True)
    assert (summary["files"], summary["verified"], summary["transcoded"]) == ({"already there": 1}, 0, 1)
    # Older releases do not tell; then somebody has to.
    del archive.system["IngestTranscoding"]
    assert folder.run(report="fourth")["files"] == {"conflict": 1}
    known = {"IngestTranscoding": "1.2.840.10008.1.2"}
    assert folder.run(report="fifth", settings=known)["files"] == {"already there": 1}
    assert folder.run(report="sixth", accepted=frozenset(["transcoding"]))["files"] == {"already there": 1}


def test_study_of_two_patients(folder: Folder, archive: StandIn) -> None:
    folder.put("IM1", image(1))
    folder.put("IM2", image(2, patient="P2"))
    folder.put("IM3", image(3, study="1.9", patient="P3"))
    assert folder.run()["studies_of_several_patients"] == [{"study": "1.2.3", "patients": ["P1", "P2"]}]
    other = put(folder.folder, "later/IM4", image(4, study="1.9", patient="P4"))
    summary = folder.run(sources=[os.fsencode(other)], report="later-report")
    assert summary["studies_of_several_patients"] == [{"study": "1.9", "patients": ["P3", "P4"]}]


LIMITS = {"MaximumStorageSize": 1, "MaximumStorageMode": "Recycle"}


@pytest.mark.parametrize(
    "system, settings, told",
    [
        (LIMITS, None, "MaximumStorageSize is 1"),
        ({}, LIMITS, "MaximumStorageSize is 1"),
        ({}, {"LuaScripts": ["a.lua"]}, "LuaScripts may send"),
        ({}, {"PythonScript": "a.py"}, "PythonScript may send"),
        (LIMITS | {"MaximumStorageMode": "Reject"}, None, ""),
        ({}, {"LuaScripts": []}, ""),
    ],
)
def test_import_that_would_harm_does_not_begin(
    folder: Folder, archive: StandIn, system: dict[str, Any], settings: dict[str, Any] | None, told: str
) -> None:
    archive.system |= system
    archive.statistics["TotalDiskSize"] = str(1 << 20)
    folder.fill(2)
    summary = folder.run(settings=settings)
    assert (told in summary["ended"], summary["complete"]) == (True, not told)
    assert bool(archive.sent()) == (not told)
    accepted = frozenset(["recycling", "routing"])
    assert folder.run(settings=settings, accepted=accepted)["complete"]


@pytest.mark.parametrize("plugin, settings, told", [("python", None, True), ("python", {}, False), ("java", {}, True)])
def test_plugins_that_route(
    folder: Folder, archive: StandIn, plugin: str, settings: dict[str, Any] | None, told: bool
) -> None:
    archive.plugins = ["dicom-web", plugin]
    folder.fill(1)
    assert ("may send the images on" in folder.run(settings=settings)["ended"]) == told


@pytest.mark.parametrize("answer", [404, (200, {}, b"{}"), (200, {}, b"")])
def test_archive_that_does_not_tell_its_plugins(folder: Folder, archive: StandIn, answer: Answered) -> None:
    archive.fault = lambda method, path, number: answer if path == "/plugins" else None
    folder.fill(1)
    assert "does not tell which plugins it has" in folder.run()["ended"]
    assert folder.run(accepted=frozenset(["routing"]))["files"] == {"stored": 1}


@pytest.mark.parametrize("missing", ["MaximumStorageSize", "MaximumPatientCount"])
def test_archive_that_does_not_tell_its_limits(folder: Folder, archive: StandIn, missing: str) -> None:
    """Before 1.12. Who knows its settings knows that it has none."""
    del archive.system[missing]
    folder.fill(1)
    assert "does not tell whether it removes the oldest patients" in folder.run()["ended"]
    assert not archive.sent()
    assert folder.run(settings={})["files"] == {"stored": 1}
    assert folder.run(accepted=frozenset(["recycling"]))["complete"]


def test_second_run_needs_no_room(folder: Folder, archive: StandIn) -> None:
    folder.fill(3, size=150_000)
    archive.system |= LIMITS
    assert folder.run()["complete"]
    archive.statistics["TotalDiskSize"] = str(sum(map(len, archive.images.values())))
    folder.fill(4, size=150_000)
    summary = folder.run()
    assert (summary["complete"], summary["files"]) == (True, {"already there": 3, "stored": 1})


def test_import_stops_before_recycling_begins(folder: Folder, archive: StandIn) -> None:
    """Where it could not be told beforehand, as with archives that are small until they are inflated."""
    archive.system |= LIMITS
    members = {f"IM{one}": image(one, size=100_000) for one in range(30)}
    folder.put("a.zip", zipped(members))
    summary = folder.run()
    assert "MaximumStorageSize is reached" in summary["ended"]
    assert 0 < sum(map(len, archive.images.values())) <= 1 << 20


@pytest.mark.parametrize("after, size", [("IMAGES", 100), ("SECONDS", 100), ("", 35_000)])
def test_room_that_others_take_meanwhile(
    folder: Folder, archive: StandIn, monkeypatch: pytest.MonkeyPatch, after: str, size: int
) -> None:
    """It is looked at again after some images, after some time, and where the rest of it becomes less."""
    if after:
        monkeypatch.setattr(risks, after, {"IMAGES": 3, "SECONDS": 0.0}[after])
    archive.system |= LIMITS | {"MaximumPatientCount": 9}
    folder.fill(20, size=size)

    def fault(method: str, path: str, number: int) -> None:
        if (method, path, number) == ("POST", "/instances", 5):
            archive.statistics["TotalDiskSize"] = str(1 << 20)

    archive.fault = fault
    summary = folder.run(connections=1)
    assert "MaximumStorageSize is reached" in summary["ended"]
    assert 5 <= archive.sent() <= 8


@pytest.mark.parametrize("answer", [404, (200, {}, b"[]"), (200, {}, b"{}")])
def test_archive_that_does_not_tell_how_full_it_is(folder: Folder, archive: StandIn, answer: Answered) -> None:
    archive.system |= LIMITS
    archive.fault = lambda method, path, number: answer if path == "/statistics" else None
    folder.fill(1)
    assert "does not tell how full it is" in folder.run()["ended"]


def test_import_stops_before_patients_are_recycled(folder: Folder, archive: StandIn) -> None:
    archive.images[client.Archive.__name__] = image(1, patient="old")
    archive.system |= {"MaximumPatientCount": 4}
    archive.statistics["CountPatients"] = 2
    for number in range(8):
        folder.put(f"IM{number}", image(number, patient=f"P{number}", study=f"1.{number}"))
    folder.put("IM-old", image(9, patient="old"))
    summary = folder.run(connections=1)
    assert "MaximumPatientCount is reached" in summary["ended"]
    assert summary["files"]["stored"] <= 3


def test_size_of_the_input(tmp_path: pathlib.Path) -> None:
    put(tmp_path, "a/b/c", b"x" * 10)
    put(tmp_path, "d", b"x" * 5)
    assert risks.size_of(os.fsencode(tmp_path)) == 15
    assert risks.size_of(os.fsencode(tmp_path / "d")) == 5
    assert risks.size_of(b"/nowhere") == 0


def test_one_import_at_a_time(folder: Folder, archive: StandIn) -> None:
    folder.fill(5)
    waiting, go = threading.Event(), threading.Event()

    def fault(method: str, path: str, number: int) -> None:
        waiting.set()
        go.wait(10)

    archive.fault = fault
    first = threading.Thread(target=folder.run)
    first.start()
    waiting.wait(10)
    with pytest.raises(Busy, match="another import"):
        folder.run()
    go.set()
    first.join()
    assert len(archive.images) == 5


@pytest.mark.parametrize("name", ["", "journal.sqlite"])
@pytest.mark.parametrize("wrong", ["mode", "owner"])
def test_report_that_others_can_write_to(
    folder: Folder, archive: StandIn, monkeypatch: pytest.MonkeyPatch, name: str, wrong: str
) -> None:
    """They could put files there beforehand that stay theirs."""
    folder.fill(1)
    report = folder.folder / "report"
    report.mkdir(mode=0o700)
    (report / "journal.sqlite").touch(mode=0o600)
    if wrong == "mode":
        (report / name).chmod(0o770)
    else:
        if os.geteuid():
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
        else:
            os.chown(report / name, 12345, -1)
    with pytest.raises(Busy, match="others may write" if wrong == "mode" else "belongs to another user"):
        folder.run()
    assert not archive.asked


@pytest.mark.parametrize("kind", ["file", "pipe", "link"])
def test_what_lies_in_the_report_is_not_written_to(folder: Folder, kind: str) -> None:
    folder.fill(1)
    report = folder.folder / "report"
    report.mkdir(mode=0o700)
    for name in ("files.csv.new", "summary.json.new"):
        if kind == "file":
            (report / name).touch()
            (report / name).chmod(0o666)
        elif kind == "pipe":
            os.mkfifo(report / name)
        else:
            (report / name).symlink_to(folder.folder / "elsewhere")
    done = threading.Thread(target=folder.run, daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()
    assert {path.stat().st_mode & 0o777 for path in report.iterdir()} == {0o600}
    assert (report / "files.csv").is_file()
    assert not (folder.folder / "elsewhere").exists()


def test_journal_that_is_a_pipe(folder: Folder) -> None:
    (folder.folder / "report").mkdir(mode=0o700)
    os.mkfifo(folder.folder / "report" / "journal.sqlite", 0o600)
    with pytest.raises(OSError, match="No such device"):
        folder.run()


def test_report_that_is_something_else(folder: Folder) -> None:
    put(folder.folder, "report/journal.sqlite", b"No database at all, but a text of some length." * 50)
    with pytest.raises(Busy, match="not a database"):
        folder.run()


def test_fault_of_the_program_is_no_success(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.fill(3)

    def broken(*_: Any) -> None:
        raise AssertionError("a fault")

    monkeypatch.setattr(Import, "_judge", broken)
    with pytest.raises(AssertionError, match="a fault"):
        folder.run()


def test_fault_of_the_program_leaves_a_report(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is in what goes through the sources."""
    folder.fill(3)
    real = sources.Sources._entry

    def entry(self: sources.Sources, given: os.DirEntry[bytes]) -> Iterator[sources.Item]:
        if given.name == b"broken":
            raise AssertionError("a fault")
        return real(self, given)

    monkeypatch.setattr(sources.Sources, "_entry", entry)
    folder.put("z/broken", b"")
    with pytest.raises(AssertionError, match="a fault"):
        folder.run()
    assert list(folder.fates()) == ["IM0000", "IM0001", "IM0002"]
    summary = json.loads((folder.folder / "report" / "summary.json").read_text("utf-8"))
    assert (summary["complete"], summary["ended"]) == (False, "a fault of the program: AssertionError('a fault')")


def test_numbers_beyond_those_of_the_journal(folder: Folder, archive: StandIn) -> None:
    """Times that no clock has had, and sizes that no disk has."""
    folder.fill(3)
    for name, year in (("IM0001", 10_413_792_000), ("IM0002", -2_000_000_000)):
        os.utime(folder.input / name, (year, year))
    huge = tarfile.TarInfo("IM")
    huge.size = 2**70
    for name in ("a.tar", "b.tar"):
        folder.put(name, huge.tobuf(tarfile.GNU_FORMAT) + image(7))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        made.writestr("IM", image(9))
        made.filelist[0].file_size = 2**63 + 5
    folder.put("c.zip", data.getvalue())
    assert folder.run()["files"] == {"stored": 3, "rejected": 3, "archive": 1}
    assert folder.run()["files"] == {"already there": 3, "rejected": 3, "archive": 1}


def hold(archive: StandIn, images: int) -> threading.Event:
    """Have it answer so many images, and the others once it is told to."""
    told = threading.Event()

    def fault(_method: str, path: str, number: int) -> None:
        if path == "/instances" and number > images:
            told.wait(60)

    archive.fault = fault
    return told


def until(found: Callable[[], bool], process: subprocess.Popen[Any] | None = None) -> None:
    """Wait for something, as long as a process goes on if it comes from one."""
    end = time.monotonic() + 60
    while not found():
        assert process is None or process.poll() is None, "it has ended"
        assert time.monotonic() < end, "it does not go on"
        time.sleep(0.005)


class TestCommand:
    """The command itself, as people call it."""

    @pytest.fixture(autouse=True)
    def _password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PACS_IMPORT_PASSWORD", PASSWORD)

    def start(self, folder: Folder, *more: str) -> subprocess.Popen[str]:
        given = ["--url", folder.archive.url, "--user", "user", "--report", str(folder.folder / "report"), *more]
        # Whoever calls the tests may ignore signals, as a shell does for what is in the background.
        return subprocess.Popen(
            ["env", "--default-signal=HUP,INT,TERM", sys.executable, str(PROGRAM), *given, str(folder.input)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_good_run(self, folder: Folder) -> None:
        folder.fill(3)
        process = self.start(folder, "--full-speed", "--verify")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "3 stored" in out
        assert "3 images in 1 series, 1 studies, of 1 patients" in out
        assert "3 are served as they were sent" in out

    def test_as_a_module(self, folder: Folder) -> None:
        command = [sys.executable, "-m", "pacs_import", "--help"]
        with_path = os.environ | {"PYTHONPATH": str(ROOT / "plugins" / "module_utils")}
        done = subprocess.run(command, env=with_path, capture_output=True, text=True, check=True)
        assert "usage: pacs-import" in done.stdout

    def test_json(self, folder: Folder) -> None:
        folder.fill(3)
        process = self.start(folder, "--json", "--quiet", "--dry-run")
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert json.loads(out)["files"] == {"to be stored": 3}

    def test_hangs_up_with_nohup(self, folder: Folder, archive: StandIn) -> None:
        folder.fill(100)
        given = ["--url", archive.url, "--user", "user", "--report", str(folder.folder / "report"), "--full-speed"]
        process = subprocess.Popen(["nohup", sys.executable, str(PROGRAM), *given, str(folder.input)])
        until(lambda: len(archive.images) >= 20, process)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
        assert len(archive.images) == 100

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_interrupted(self, folder: Folder, archive: StandIn, number: int) -> None:
        """It ends after what is on its way, says so, and goes on from there."""
        folder.fill(120)
        told = hold(archive, 30)
        process = self.start(folder, "--full-speed")
        until(lambda: len(archive.images) >= 20, process)
        process.send_signal(number)
        # So that it has heard of it before what it waits for is answered.
        time.sleep(1)
        told.set()
        out, err = process.communicate(timeout=60)
        assert process.returncode == 3, err
        assert "interrupted" in out
        before = len(archive.images)
        assert before < 120
        archive.asked.clear()
        again = self.start(folder, "--full-speed")
        out, _ = again.communicate(timeout=60)
        assert again.returncode == 0
        assert archive.sent() == 120 - before
        assert f"{before} already there" in out

    def test_killed(self, folder: Folder, archive: StandIn) -> None:
        folder.fill(120)
        told = hold(archive, 30)
        process = self.start(folder, "--full-speed")
        until(lambda: len(archive.images) >= 20, process)
        process.kill()
        process.communicate(timeout=60)
        told.set()
        until(archive.idle)
        before = len(archive.images)
        archive.asked.clear()
        again = self.start(folder, "--full-speed")
        again.communicate(timeout=60)
        assert again.returncode == 0
        assert archive.sent() == 120 - before
        assert len(archive.images) == 120

    def test_report_without_room(self, folder: Folder, archive: StandIn) -> None:
        """As on a full disk: files that cannot become larger."""
        folder.fill(120)
        given = ["--url", archive.url, "--user", "user", "--report", str(folder.folder / "report"), "--full-speed"]
        # Python would write its compiled modules too, and leave them cut short for whoever comes next.
        within = 'ulimit -f 64; exec env PYTHONDONTWRITEBYTECODE=1 "$@"'
        limited = ["sh", "-c", within, "sh", sys.executable, str(PROGRAM), *given]
        done = subprocess.run([*limited, str(folder.input)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 3, done
        assert "the report cannot be written" in done.stderr
        assert archive.images
        process = self.start(folder, "--full-speed")
        assert "120 images in 1 series" in process.communicate(timeout=60)[0]

    def test_something_is_wrong(self, folder: Folder) -> None:
        folder.fill(1)
        folder.put("bad\x1b[2J", image(2)[:300])
        process = self.start(folder)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "bad\\x1b[2J: 400, Bad file format" in out

    def test_nothing_found(self, folder: Folder) -> None:
        """A mistyped path, or a disc that is not mounted, is no success."""
        folder.put("text", b"x")
        process = self.start(folder)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "No image was found" in out

    def test_links_alone(self, folder: Folder) -> None:
        (folder.input / "link").symlink_to("/nowhere")
        process = self.start(folder)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "No image was found" in out

    def test_identifiers_do_not_reach_the_terminal(self, folder: Folder) -> None:
        for number, patient in enumerate(("P1", "P\x1b]0;x\x07")):
            folder.put(f"IM{number}", image(number, patient=patient))
        process = self.start(folder)
        out, _ = process.communicate(timeout=60)
        assert "One study of several patients: 1.2.3 (P\\x1b]0;x\\x07, P1)" in out
        assert "\x1b" not in out

    def test_bar_on_a_terminal(self, folder: Folder) -> None:
        folder.fill(30)
        read, write = os.openpty()
        termios.tcsetwinsize(write, (24, 120))
        given = ["--url", folder.archive.url, "--user", "user", "--report", str(folder.folder / "report")]
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *given, str(folder.input)], stdout=subprocess.PIPE, stderr=write, text=True
        )
        out, _ = process.communicate(timeout=60)
        os.close(write)
        assert process.returncode == 0, out
        shown_there = ""
        # It ends in an error once nobody has the other end.
        with contextlib.suppress(OSError):
            while part := os.read(read, 100_000):
                shown_there += part.decode()
        os.close(read)
        assert "30 files" in shown_there
        assert "B/s" in shown_there

    @pytest.mark.parametrize(
        "arguments",
        [[], ["--connections", "3"], ["--since", "1.1.2020"], ["--accept", "all"], ["--spool-size", "0"]],
    )
    def test_wrong_arguments(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            command.main([*arguments, *(["--url", "http://x/", "y"] if arguments else [])])
        assert ended.value.code == 2
        assert capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--ca", "--password-file", "--certificate"])
    def test_file_that_is_not_there(self, option: str, tmp_path: pathlib.Path, capsys: Any) -> None:
        arguments = ["--url", "https://x/", "--user", "u", "--report", str(tmp_path), option, "/nowhere", "y"]
        assert command.main(arguments) == 2
        assert "No such file" in capsys.readouterr().err

    def test_password_of_a_file(self, tmp_path: pathlib.Path) -> None:
        path = put(tmp_path, "password", b" with blanks \n")
        assert connect.password("u", str(path), "PACS_IMPORT_PASSWORD") == " with blanks "
        assert connect.password("", str(path), "PACS_IMPORT_PASSWORD") == ""
        assert connect.password("u", None, "PACS_IMPORT_PASSWORD") == PASSWORD


def test_lines_where_there_is_no_terminal(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0)
    stream = io.StringIO()
    shows = Progress(stream)
    shows.expect(4 << 20)
    shows.add("stored", 100, 1 << 20)
    shows.add("conflict", 100, 1 << 20)
    shows.close()
    last = stream.getvalue().splitlines()[-1]
    assert "2 files" in last
    assert "1 stored, 1 conflict, 2 MB of 4 MB" in last
    assert last.endswith("s left")


@pytest.mark.parametrize(
    "name, text", [(b"a", "a"), (b"\xff", "\\xff"), ("é".encode(), "é"), (b"a\nb\x1b", "a\\nb\\x1b")]
)
def test_names_for_people(name: bytes, text: str) -> None:
    assert shown(name) == text


class TestOtherOrthanc:
    """Images that come from another Orthanc."""

    @pytest.fixture
    def origin(self) -> Iterator[StandIn]:
        made = StandIn()
        for number in range(30):
            made._store(image(number, series=str(1 + number % 3)))
        yield made
        made.close()

    def run(self, folder: Folder, origin: StandIn, **more: Any) -> dict[str, Any]:
        return folder.run(sources=[os.fsencode(origin.url)], from_login=("user", PASSWORD), **more)

    def test_all(self, folder: Folder, archive: StandIn, origin: StandIn) -> None:
        summary = self.run(folder, origin, verify=True)
        assert (summary["files"], summary["verified"]) == ({"stored": 30}, 30)
        assert summary["bytes"] == {"stored": sum(map(len, origin.images.values()))}
        assert archive.images == origin.images
        origin.asked.clear()
        assert self.run(folder, origin)["files"] == {"already there": 30}
        assert not [path for _, path in origin.asked if path.endswith("/file")]

    def test_another_machine_fetches_nothing(self, folder: Folder, archive: StandIn, origin: StandIn) -> None:
        self.run(folder, origin)
        origin.asked.clear()
        assert self.run(folder, origin, report="other", verify=True)["verified"] == 30
        assert not [path for _, path in origin.asked if path.endswith("/file")]

    def test_conflict(self, folder: Folder, archive: StandIn, origin: StandIn) -> None:
        archive._store(image(0, size=50))
        summary = self.run(folder, origin)
        assert summary["files"] == {"conflict": 1, "stored": 29}

    def test_away_and_cut_off(self, folder: Folder, archive: StandIn, origin: StandIn) -> None:
        def fault(method: str, path: str, number: int) -> int | tuple[int, dict[str, str], bytes] | None:
            if not path.endswith("/file") or number > 2:
                return None
            # Less than was announced.
            return (200, {"Content-Length": "999999"}, b"x" * 100) if number == 1 else 503

        origin.fault = fault
        assert self.run(folder, origin)["files"] == {"stored": 30}
        assert archive.images == origin.images

    def test_large(self, folder: Folder, archive: StandIn, origin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(origin_module, "SMALL", 10)
        summary = self.run(folder, origin)
        assert summary["files"] == {"stored": 30}
        assert archive.images == origin.images

    def test_too_large_for_the_spool(self, folder: Folder, origin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(origin_module, "SMALL", 10)
        summary = self.run(folder, origin, spool_size=100)
        assert summary["files"] == {"rejected": 30}
        assert "spool" in summary["wrong"][0]["reason"]

    def test_spool_that_is_not_there(self, folder: Folder, origin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        """That is no matter of the archive, and not waited for."""
        monkeypatch.setattr(origin_module, "SMALL", 10)
        summary = self.run(folder, origin, spool=str(folder.folder / "nowhere"))
        assert summary["files"] == {"rejected": 30}
        assert "the spool cannot be written: No such file" in summary["wrong"][0]["reason"]

    def test_image_that_is_never_answered(
        self, folder: Folder, origin: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It does not end the import, each time at this image."""
        monkeypatch.setattr(client, "UNANSWERED", 3)
        never = next(iter(origin.images))
        origin.fault = lambda method, path, number: DROP if path == f"/instances/{never}/file" else None
        summary = self.run(folder, origin, connections=1)
        assert (summary["files"], summary["complete"]) == ({"stored": 29, "unreadable": 1}, True)
        assert "whenever it is fetched" in summary["wrong"][0]["reason"]

    @pytest.mark.parametrize("answer", [500, 404, (200, {}, b'{"a": 1}')])
    def test_that_it_does_not_list(self, folder: Folder, origin: StandIn, answer: Answered) -> None:
        origin.fault = lambda method, path, number: answer if path.startswith("/series?") else None
        assert "/series gives no list of series" in self.run(folder, origin)["ended"]

    def test_that_it_lists_the_same_for_ever(self, folder: Folder, origin: StandIn) -> None:
        series = json.dumps([origin._parents(next(iter(origin.images.values())))[2]]).encode()
        origin.fault = lambda method, path, number: (200, {}, series) if path.startswith("/series?") else None
        assert "the same series again and again" in self.run(folder, origin)["ended"]

    @pytest.mark.parametrize("path", ["/series/", "/statistics"])
    def test_answers_that_are_none(self, folder: Folder, origin: StandIn, path: str) -> None:
        origin.fault = lambda method, asked, number: (200, {}, b'["x"]') if asked.startswith(path) else None
        assert "unreadable" in self.run(folder, origin)["files"]

    def test_many_series(self, folder: Folder, origin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(origin_module, "PAGE", 2)
        assert self.run(folder, origin)["files"] == {"stored": 30}

    def test_that_it_changed_meanwhile_is_told(self, folder: Folder, origin: StandIn) -> None:
        origin.statistics["CountInstances"] = 31
        summary = self.run(folder, origin)
        assert summary["files"] == {"stored": 30, "unreadable": 1}
        assert "it has 31 images, and named 30" in summary["wrong"][0]["reason"]

    def test_image_that_it_has_lost(self, folder: Folder, origin: StandIn) -> None:
        origin.lost.add(next(iter(origin.images)))
        summary = self.run(folder, origin)
        assert summary["files"] == {"stored": 29, "unreadable": 1}

    def test_dry_run_and_rules(self, folder: Folder, archive: StandIn, origin: StandIn) -> None:
        assert self.run(folder, origin, dry_run=True)["files"] == {"to be stored": 30}
        assert self.run(folder, origin, modalities=frozenset(["US"]))["files"] == {"left out": 30}
        assert not archive.sent()

    def test_wrong_login(self, folder: Folder, origin: StandIn) -> None:
        summary = folder.run(sources=[os.fsencode(origin.url)], from_login=("user", "wrong"))
        assert "refuses the login" in summary["ended"]
        assert origin.url.rstrip("/") in summary["ended"]


class TestTls:
    """An archive behind TLS, with authorities and client certificates of its own."""

    @pytest.fixture
    def files(self, tmp_path: pathlib.Path) -> dict[str, str]:
        authority = pem("authority")
        made = {"authority": authority, "server": pem("127.0.0.1", by=authority), "client": pem("client", by=authority)}
        made |= {"other": pem("127.0.0.1"), "expired": pem("127.0.0.1", days=-1), "elsewhere": pem("pacs.example.org")}
        return {
            f"{name}{ending}": str(put(tmp_path, f"{name}{ending}", text.encode()))
            for name, pair in made.items()
            for ending, text in zip((".crt", ".key"), pair, strict=True)
        }

    def import_into(
        self, tmp_path: pathlib.Path, files: dict[str, str], server: str, asks: bool = False, **more: Any
    ) -> tuple[dict[str, Any], StandIn]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files[f"{server}.crt"], files[f"{server}.key"])
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(files["authority.crt"])
        archive = StandIn(context)
        try:
            folder = Folder(tmp_path, archive)
            folder.fill(20)
            return folder.run(**more), archive
        finally:
            archive.close()

    @pytest.mark.parametrize("server, trusted", [("server", "authority"), ("other", "other"), ("server", "server")])
    def test_trusted(self, tmp_path: pathlib.Path, files: dict[str, str], server: str, trusted: str) -> None:
        summary, _ = self.import_into(tmp_path, files, server, authority=files[f"{trusted}.crt"])
        assert summary["files"] == {"stored": 20}

    @pytest.mark.parametrize(
        "server, trusted", [("other", "authority"), ("server", ""), ("expired", "expired"), ("elsewhere", "elsewhere")]
    )
    def test_not_trusted(self, tmp_path: pathlib.Path, files: dict[str, str], server: str, trusted: str) -> None:
        authority = files[f"{trusted}.crt"] if trusted else ""
        summary, archive = self.import_into(tmp_path, files, server, authority=authority)
        assert "certificate is not trusted" in summary["ended"]
        assert not archive.asked

    def test_client_certificate(self, tmp_path: pathlib.Path, files: dict[str, str]) -> None:
        shown_there = {"certificate": files["client.crt"], "key": files["client.key"]}
        summary, _ = self.import_into(tmp_path, files, "server", True, authority=files["authority.crt"], **shown_there)
        assert summary["files"] == {"stored": 20}

    @pytest.mark.parametrize("certificate, key", [("client", "authority"), ("client", ""), ("key", "")])
    def test_client_certificate_without_its_key(
        self, tmp_path: pathlib.Path, files: dict[str, str], certificate: str, key: str
    ) -> None:
        given = {
            "certificate": files["client.key" if certificate == "key" else f"{certificate}.crt"],
            "key": files[f"{key}.key"] if key else "",
        }
        with pytest.raises(Ended, match="are no certificate in PEM form with its own key"):
            self.import_into(tmp_path, files, "server", True, authority=files["authority.crt"], **given)

    def test_client_certificate_that_is_missing(self, tmp_path: pathlib.Path, files: dict[str, str]) -> None:
        summary, archive = self.import_into(tmp_path, files, "server", True, authority=files["authority.crt"])
        assert "certificate" in summary["ended"]
        assert not archive.asked

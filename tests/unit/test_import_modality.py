"""Images that the archive has an old PACS send: which are asked for, and what becomes of those that do not come."""

from __future__ import annotations

import datetime
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import client, modality
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.orthanc_stand_in import Answered, StandIn, read
from tests.unit.test_import_run import LIMITS, Folder, image

DAYS = st.dates(datetime.date(1970, 1, 1), datetime.date(2100, 1, 1))


class Old:
    """A PACS that the archive asks; of the images ``kept`` it names all and sends none."""

    def __init__(self, archive: StandIn) -> None:
        self._archive = archive
        self.images = [
            image(number, study=f"1.{number % 3}", series=str(number % 2), date=f"202002{1 + number % 3:02}")
            for number in range(12)
        ]
        self.kept: set[int] = set()
        # How many it names at most of each level, and whether it says how many there are, and looks at times.
        self.limit = {"Study": 1000, "Series": 1000, "Instance": 1000}
        self.counts = self.times = True
        self.hour = "10"
        self.broken: tuple[str, Answered] = ("", None)
        self.asked: list[dict[str, Any]] = []
        self.moved: list[str] = []
        self._answers: list[dict[str, str]] = []
        archive.fault = self.answer
        real = archive.answer

        def heard(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
            self._body = body
            return real(method, path, body)

        archive.answer = heard  # type: ignore[method-assign]

    def answer(self, method: str, path: str, number: int) -> Answered:
        end, wrong = self.broken
        if end and path.startswith(end):
            return wrong
        if path.endswith("/configuration"):
            return (200 if "/old/" in path else 404), {}, b"{}"
        if path.endswith("/query"):
            asked = json.loads(self._body)
            self.asked.append(asked)
            self._answers = self._found(asked["Level"], asked["Query"])
            return 200, {}, b'{"ID": "q"}'
        if path.startswith("/queries/q/answers"):
            return 200, {}, json.dumps(self._answers).encode()
        if path.endswith("/move"):
            (wanted,) = json.loads(self._body)["Resources"]
            self.moved.append(wanted.get("SeriesInstanceUID", wanted["StudyInstanceUID"]))
            for place, one in enumerate(self.images):
                said = {"StudyInstanceUID": read(one).study, "SeriesInstanceUID": read(one).series}
                if place not in self.kept and wanted.items() <= said.items():
                    self._archive._store(one)
            return 200, {}, b'{"ID": "j"}'
        if path == "/jobs/j":
            ended = {"State": "Failure", "ErrorDescription": "A fault"} if self.kept else {"State": "Success"}
            return 200, {}, json.dumps(ended).encode()
        if path.startswith(("/series/", "/studies/")) and path.endswith("/instances"):
            found = [
                {
                    "ID": kept,
                    "ParentSeries": self._archive._parents(one)[2],
                    "MainDicomTags": {"SOPInstanceUID": read(one).instance},
                }
                for kept, one in self._archive.images.items()
                if path.split("/")[2] in self._archive._parents(one)
            ]
            return 200, {}, json.dumps(found).encode()
        return None

    def _found(self, level: str, query: dict[str, str]) -> list[dict[str, str]]:
        found = {}
        first, _, last = query.get("StudyDate", "0-9").partition("-")
        early, _, late = (query.get("StudyTime") or "0-9").partition("-")
        heads = list(map(read, self.images))
        for one in heads:
            said = {"StudyInstanceUID": one.study, "SeriesInstanceUID": one.series, "SOPInstanceUID": one.instance}
            time = f"{self.hour}{int(one.study.rpartition('.')[2]):02}30" if self.times else ""
            if not all(said[key] == query[key] for key in said if query.get(key)) or not first <= one.date <= last:
                continue
            if self.times and not early <= time <= late:
                continue
            uid = said[{"Study": "StudyInstanceUID", "Series": "SeriesInstanceUID"}.get(level, "SOPInstanceUID")]
            found[uid] = said | {"PatientID": one.patient, "Modality": one.modality, "StudyTime": time}
            if self.counts:
                found[uid] |= {
                    "NumberOfStudyRelatedSeries": str(len({head.series for head in heads if head.study == one.study})),
                    "NumberOfStudyRelatedInstances": str(sum(head.study == one.study for head in heads)),
                    "NumberOfSeriesRelatedInstances": str(sum(head.series == one.series for head in heads)) + " ",
                }
        return list(found.values())[: self.limit[level]]


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(client, "SHORTEST", 0.01)
    monkeypatch.setattr(modality, "POLL", 0.01)
    made = StandIn()
    yield made
    made.close()


@pytest.fixture
def old(archive: StandIn) -> Old:
    return Old(archive)


@pytest.fixture
def folder(tmp_path: pathlib.Path, archive: StandIn) -> Folder:
    return Folder(tmp_path, archive)


def run(folder: Folder, **more: Any) -> dict[str, Any]:
    given = {"sources": [b"dicom:old"], "since": "20200115", "until": "20200310"}
    return folder.run(**given | more)


def test_all(folder: Folder, archive: StandIn, old: Old) -> None:
    assert run(folder, dry_run=True)["files"] == {"to be stored": 12}
    archive._store(old.images[0])
    summary = run(folder, verify=True)
    assert (summary["files"], summary["verified"]) == ({"already there": 1, "stored": 11}, 12)
    assert summary["images"] == {"patients": 1, "studies": 3, "series": 6, "instances": 12}
    assert sorted(archive.images.values()) == sorted(old.images)
    assert len(old.moved) == 6
    assert run(folder)["files"] == {"already there": 12}
    assert len(old.moved) == 6


def test_what_does_not_come_is_told(folder: Folder, old: Old) -> None:
    old.kept = {3, 5}
    summary = run(folder)
    assert summary["files"] == {"stored": 10, "unreadable": 2}
    assert "it was named, and has not come: A fault" in summary["wrong"][0]["reason"]


def test_month_with_many_studies_is_asked_for_by_days(
    folder: Folder, old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modality, "MANY", 3)
    assert run(folder)["files"] == {"stored": 12}
    days = [asked["Query"]["StudyDate"] for asked in old.asked if asked["Level"] == "Study"]
    assert days[:2] == ["20200301-20200310", "20200201-20200229"]
    assert days[2:31] == [f"202002{day:02}-202002{day:02}" for day in range(1, 30)]
    assert days[31:] == ["20200115-20200131"]


def day_of_many(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve studies of one day, of which it names five at most."""
    monkeypatch.setattr(modality, "MANY", 5)
    old.images = [image(number, study=f"1.{number}") for number in range(12)]
    old.limit["Study"] = 5


def test_day_with_many_studies_is_asked_for_by_minutes(
    folder: Folder, old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    day_of_many(old, monkeypatch)
    assert run(folder)["files"] == {"stored": 12}


@pytest.mark.parametrize("times, hour", [(False, "10"), (True, "30")])
def test_day_that_cannot_be_asked_for_by_times_is_told(
    folder: Folder, old: Old, monkeypatch: pytest.MonkeyPatch, times: bool, hour: str
) -> None:
    """It does not look at times, or they are none."""
    day_of_many(old, monkeypatch)
    old.times, old.hour = times, hour
    summary = run(folder)
    assert summary["files"] == {"stored": 5, "unreadable": 1}
    assert "it names 5 studies of this day, and may have more" in summary["wrong"][0]["reason"]
    assert summary["wrong"][0]["file"] == "dicom:old/20200229"
    assert len([asked for asked in old.asked if asked["Level"] == "Study"]) < 100


@pytest.mark.parametrize("level, limit", [("Instance", 0), ("Instance", 1), ("Series", 0), ("Series", 1)])
def test_what_it_does_not_name_comes_by_what_it_counts(folder: Folder, old: Old, level: str, limit: int) -> None:
    """A series or a study is sent as a whole; what the archive has of it is no reason not to ask for the rest."""
    old._archive._store(old.images[0])
    old.limit[level] = limit
    # A dry run cannot know the rest by name: six series of two images, or three studies of four.
    assert set(run(folder, dry_run=True)["files"]) == {"already there", "to be stored"}
    assert run(folder)["files"] == {"already there": 1, "stored": 11}
    moved = len(old.moved)
    assert run(folder)["files"] == {"already there": 12}
    assert len(old.moved) == moved == (6 if level == "Instance" else 3)


@pytest.mark.parametrize("level, times", [("Instance", 6), ("Series", 3)])
def test_what_it_neither_names_nor_counts_is_told(folder: Folder, old: Old, level: str, times: int) -> None:
    old.limit[level], old.counts = 0, False
    summary = run(folder)
    assert summary["files"] == {"stored": 12, "unreadable": times}
    assert "it does not say how many images it has, and names 0" in summary["wrong"][0]["reason"]


def test_large_series_that_is_not_counted_is_sent_once(
    folder: Folder, archive: StandIn, old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it names nobody knows whether that is all; once it was sent as a whole, that is known."""
    monkeypatch.setattr(modality, "MANY", 2)
    old.images = [image(number, study="1.1") for number in range(6)]
    old.limit["Instance"], old.counts, old.kept = 4, False, {1}
    assert run(folder)["files"] == {"stored": 5, "unreadable": 2}
    old.kept = set()
    assert run(folder)["files"] == {"already there": 5, "stored": 1, "archive": 1}
    assert len(old.moved) == 2
    for _ in range(2):
        assert run(folder)["files"] == {"already there": 6, "archive": 1}
    assert len(old.moved) == 2
    # What is lost here, or new there, has it sent again.
    archive.images.popitem()
    assert run(folder)["files"]["stored"] == 1
    assert len(old.moved) == 3


def test_what_it_counts_and_neither_names_nor_sends_is_told(folder: Folder, old: Old) -> None:
    old.limit["Instance"], old.kept = 0, {3}
    summary = run(folder)
    assert summary["files"] == {"stored": 11, "unreadable": 1}
    told = "it says that it has 2 images, and names 0; the archive has 1: A fault"
    assert summary["wrong"][0]["reason"] == told


def test_series_of_a_study_that_are_not_named_are_told_where_only_some_are_wanted(folder: Folder, old: Old) -> None:
    old.limit["Series"] = 1
    summary = run(folder, modalities=frozenset(["CT"]))
    assert summary["files"] == {"stored": 6, "unreadable": 3}
    assert "it says that it has 2 series, and names 1" in summary["wrong"][0]["reason"]


@pytest.mark.parametrize("wrong", [(404, {}, b'{"Message": "x"}'), (200, {}, b'["x"]'), (200, {}, b"<html>")])
@pytest.mark.parametrize("path", ["/queries/", "/tools/lookup", "/series/"])
def test_answers_that_are_none(folder: Folder, old: Old, path: str, wrong: Answered) -> None:
    old._archive._store(old.images[0])
    old.broken = path, wrong
    assert "gives no list of resources" in run(folder)["ended"]


def test_other_modalities_are_left_out(folder: Folder, old: Old) -> None:
    assert run(folder, modalities=frozenset(["MR"]))["files"] == {"left out": 6}
    assert not old.moved


@pytest.mark.parametrize(
    "wrong, told",
    [
        ("nobody", "knows no modality nobody"),
        ("query", "does not answer by C-FIND: 500"),
        ("recycling", "nobody knows how much a modality will send"),
    ],
)
def test_not_begun(folder: Folder, archive: StandIn, old: Old, wrong: str, told: str) -> None:
    whole = archive.fault
    if wrong == "query":
        archive.fault = lambda method, path, number: 500 if path.endswith("/query") else whole(method, path, number)
    if wrong == "recycling":
        archive.system |= LIMITS
    assert told in run(folder, sources=[b"dicom:nobody" if wrong == "nobody" else b"dicom:old"])["ended"]
    assert not old.moved


@given(st.tuples(DAYS, DAYS).map(sorted))
def test_months(days: list[datetime.date]) -> None:
    """Each day is asked for once, and no slice is of two months."""
    first, last = days
    slices = list(modality.months(first, last))
    assert (slices[0][1], slices[-1][0]) == (last, first)
    for (begin, _), (_, end) in itertools.pairwise(slices):
        assert begin - end == datetime.timedelta(days=1)
    assert all((begin.year, begin.month) == (end.year, end.month) for begin, end in slices)

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
            self.moved.append(wanted["SeriesInstanceUID"])
            for place, one in enumerate(self.images):
                if place not in self.kept and read(one).series == wanted["SeriesInstanceUID"]:
                    self._archive._store(one)
            return 200, {}, b'{"ID": "j"}'
        if path == "/jobs/j":
            ended = {"State": "Failure", "ErrorDescription": "A fault"} if self.kept else {"State": "Success"}
            return 200, {}, json.dumps(ended).encode()
        if path.startswith("/series/") and path.endswith("/instances"):
            found = [
                {"ID": kept, "MainDicomTags": {"SOPInstanceUID": read(one).instance}}
                for kept, one in self._archive.images.items()
                if self._archive._parents(one)[2] == path.split("/")[2]
            ]
            return 200, {}, json.dumps(found).encode()
        return None

    def _found(self, level: str, query: dict[str, str]) -> list[dict[str, str]]:
        found = {}
        first, _, last = query.get("StudyDate", "0-9").partition("-")
        for one in map(read, self.images):
            said = {"StudyInstanceUID": one.study, "SeriesInstanceUID": one.series, "SOPInstanceUID": one.instance}
            if all(said[key] == query[key] for key in said if query.get(key)) and first <= one.date <= last:
                uid = said[{"Study": "StudyInstanceUID", "Series": "SeriesInstanceUID"}.get(level, "SOPInstanceUID")]
                found[uid] = said | {"PatientID": one.patient, "Modality": one.modality}
        return list(found.values())


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

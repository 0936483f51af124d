"""What the verification says of a script by its own test, with a stand-in for the site."""

from __future__ import annotations

import io
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from tests.unit.test_guard import OTHER
from verification import test_scripts as checks
from verification.actions import sweep
from verification.expect import Unexpected
from verification.patient import MARK, ROOT, SCRIPT_ID

TEST = {"send": str(get_testdata_file("CT_small.dcm"))}


class Answer:
    def __init__(self, told: Any, code: int = 200) -> None:
        self.told, self.status_code, self.ok = told, code, code == 200

    def json(self) -> Any:
        return self.told


class Orthanc:
    """Says of each image what it is told to."""

    def __init__(self, status: str, *tags: dict[str, str]) -> None:
        self.status, self.tags = status, list(tags)
        self.calls: list[str] = []
        self.sent: Any = None

    def post(self, path: str, data: bytes) -> Answer:
        self.calls.append(f"POST {path}")
        self.sent = dcmread(io.BytesIO(data))
        return Answer({"ID": OTHER, "Status": self.status}) if self.status else Answer("", 500)

    def get(self, path: str) -> Answer:
        return Answer(self.tags.pop(0) if len(self.tags) > 1 else self.tags[0])

    def delete(self, path: str) -> None:
        self.calls.append(f"DELETE {path}")


def outcome(orthanc: Orthanc, **test: Any) -> None:
    client: Any = orthanc
    checks.expect_outcome(client, "route.lua", TEST | test)


def test_image_is_of_the_disposable_patient_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    # As it works on the image after it is stored, it takes its time.
    orthanc = Orthanc("Success", {"PatientName": "A"}, {"PatientName": "B", "Rows": "128"})
    outcome(orthanc, tags={"PatientName": "B", "InstitutionName": ""})
    assert orthanc.calls == ["POST /instances", f"DELETE /instances/{OTHER}"]
    assert str(orthanc.sent.PatientID).startswith(MARK)
    uids = {str(orthanc.sent[name].value) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    assert len(uids) == 3
    again = Orthanc("FilteredOut")
    outcome(again, stored=False)
    assert str(again.sent.SOPInstanceUID) not in uids
    assert all(uid.startswith(f"{ROOT}.") for uid in uids)
    assert orthanc.sent.file_meta.MediaStorageSOPInstanceUID == orthanc.sent.SOPInstanceUID


@pytest.mark.parametrize("status, test", [("FilteredOut", {"stored": False}), ("Success", {})])
def test_good_ones_pass(status: str, test: dict[str, Any]) -> None:
    orthanc = Orthanc(status, {})
    outcome(orthanc, **test)
    assert len(orthanc.calls) == 1 + (status == "Success")


@pytest.mark.parametrize(
    "status, test, told",
    [
        ("FilteredOut", {}, "'FilteredOut'"),
        ("AlreadyStored", {}, "'AlreadyStored'"),
        ("AlreadyStored", {"stored": False}, "'AlreadyStored'"),
        ("", {"stored": True}, "'answer 500'"),
        ("", {"stored": False}, "'answer 500'"),
        ("Success", {"stored": False}, "'Success'"),
        ("Success", {"tags": {"PatientName": "B"}}, "tags of"),
        ("Success", {"tags": {"PatientName": ""}}, "tags of"),
    ],
)
def test_bad_ones_are_told_and_removed(
    monkeypatch: pytest.MonkeyPatch, status: str, test: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(checks, "PATIENCE", 0)
    orthanc = Orthanc(status, {"PatientName": "A"})
    with pytest.raises(Unexpected) as found:
        outcome(orthanc, **test)
    assert told in str(found.value)
    assert "orthanc_scripts: route.lua" in str(found.value)
    assert (f"DELETE /instances/{OTHER}" in orthanc.calls) is (status == "Success")


@pytest.mark.parametrize("identifier, ours", [(SCRIPT_ID, True), (f"{MARK}-OTHER", False)])
def test_what_a_killed_run_has_left_is_removed_whatever_its_name_is(identifier: str, ours: bool) -> None:
    """A script may have given it another name."""
    there = [{"ID": OTHER, "MainDicomTags": {"PatientID": identifier, "PatientName": "Doe^Jane"}}]

    class Archive:
        def __init__(self) -> None:
            self.own: set[str] = set()

        def post(self, *_: Any, **__: Any) -> Answer:
            return Answer(list(there))

        def delete(self, path: str) -> Answer:
            there.clear()
            return Answer({})

        def json_at(self, path: str) -> list[str]:
            return []

    archive: Any = Archive()
    if ours:
        sweep(archive)
        return
    with pytest.raises(Unexpected):
        sweep(archive)
    assert there

"""The module orthanc_import: what it reports, changed or not, and what it refuses."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.modules import orthanc_import

from tests.unit.module import run
from tests.unit.orthanc_stand_in import StandIn
from tests.unit.test_import_run import PASSWORD, image
from tests.unit.test_import_sources import put, tar

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def archive() -> Iterator[StandIn]:
    made = StandIn()
    yield made
    made.close()


@pytest.fixture
def given(tmp_path: pathlib.Path, archive: StandIn) -> dict[str, Any]:
    for number in range(3):
        put(tmp_path, f"in/IM{number}", image(number))
    put(tmp_path, "in/a.tar", tar({"IM9": image(9)}))
    return {
        "sources": [str(tmp_path / "in")],
        "report": str(tmp_path / "report"),
        "url": archive.url,
        "user": "user",
        "password": PASSWORD,
        "connections": 2,
    }


def test_second_call_changes_nothing_and_says_so(given: dict[str, Any], archive: StandIn, capsys: Capture) -> None:
    done = run(orthanc_import, capsys, **given)
    assert (done["changed"], done["files"]) == (True, {"archive": 1, "stored": 4})
    assert done["images"]["instances"] == 4
    assert len(archive.images) == 4
    again = run(orthanc_import, capsys, **given)
    assert (again["changed"], again["files"]) == (False, {"already there": 4, "archive": 1})
    assert again["told"][0] == "Nothing to import: the archive has every image already."
    assert archive.sent() == 4


def test_check_mode_sends_nothing(given: dict[str, Any], archive: StandIn, capsys: Capture) -> None:
    done = run(orthanc_import, capsys, **given, _ansible_check_mode=True)
    assert (done["changed"], done["files"]["to be stored"], archive.sent()) == (True, 4, 0)
    run(orthanc_import, capsys, **given)
    assert run(orthanc_import, capsys, **given, _ansible_check_mode=True)["changed"] is False


def test_image_that_was_not_taken_fails(given: dict[str, Any], tmp_path: pathlib.Path, capsys: Capture) -> None:
    put(tmp_path, "in/broken", image(5)[:300])
    done = run(orthanc_import, capsys, **given)
    assert (done["failed"], done["changed"]) == (True, True)
    assert "broken: 400, Bad file format" in done["msg"]
    assert done["wrong"][0]["fate"] == "rejected"


def test_other_archive_and_other_patients(given: dict[str, Any], archive: StandIn, capsys: Capture) -> None:
    """By a login of its own, and under the names that it is told, also where YAML has read numbers."""
    other = StandIn()
    try:
        other._store(image(1, patient="815"))
        other._store(image(2, patient="P2", study="1.9"))
        more = {"sources": [other.url], "from_user": "user", "from_password": PASSWORD, "patients": {815: "NEW-1"}}
        done = run(orthanc_import, capsys, **given | more)
        assert done["files"] == {"stored": 2}
        assert set(archive.images.values()) == {image(1, patient="NEW-1"), image(2, patient="P2", study="1.9")}
        assert run(orthanc_import, capsys, **given | more)["changed"] is False
        refused = run(orthanc_import, capsys, **given | more | {"from_password": "wrong"})
        assert "refuses the login" in refused["msg"]
        assert "wrong" not in str(refused["invocation"])
    finally:
        other.close()


def test_verify(given: dict[str, Any], archive: StandIn, capsys: Capture) -> None:
    done = run(orthanc_import, capsys, **given, verify=True)
    assert any("4 are served as they were sent" in line for line in done["told"])
    archive.images[next(iter(archive.images))] = image(77)
    assert run(orthanc_import, capsys, **given, verify=True)["failed"]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"since": "2020"}, "since: '2020' is no day"),
        ({"until": "x"}, "until: 'x' is no day"),
        ({"url": "ftp://x"}, "is no address of an archive"),
        ({"password": "wrong"}, "refuses the login"),
        ({"sources": ["/nowhere"]}, "/nowhere: No such file or directory"),
        ({"ca": "/nowhere.crt"}, "No such file"),
        ({"from_ca": "/nowhere.crt", "sources": ["https://127.0.0.1:1/"]}, "No such file"),
        ({"patients": {"P1": "Zoë"}}, "patients: what 'P1' is to become is no PatientID of plain letters"),
        ({"anonymize": True, "orthanc": "/nowhere/Orthanc"}, "there is no Orthanc on this machine"),
        ({"ca": "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"}, "certificate"),
        ({"settings": {"PythonScript": "route.py"}}, "PythonScript may send the images on; accept routing"),
        ({"modalities": ["US"], "sources": []}, "No image was found"),
    ],
)
def test_refused(given: dict[str, Any], archive: StandIn, capsys: Capture, changes: dict[str, Any], told: str) -> None:
    done = run(orthanc_import, capsys, **given | changes)
    assert done["failed"]
    assert told in done["msg"]
    assert PASSWORD not in str(done)
    assert not archive.sent()


def test_accepted_risk(given: dict[str, Any], capsys: Capture) -> None:
    risky = given | {"settings": {"PythonScript": "route.py"}, "accepted_risks": ["routing"]}
    assert run(orthanc_import, capsys, **risky)["changed"]


def test_left_out_images_are_no_failure(given: dict[str, Any], archive: StandIn, capsys: Capture) -> None:
    done = run(orthanc_import, capsys, **given, modalities=["US"], until="20300101")
    assert not done.get("failed")
    assert (done["changed"], done["files"]["left out"], archive.sent()) == (False, 4, 0)


def test_patients_are_in_no_log(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Each module's arguments go to the system's log, which others read."""
    logged: list[str] = []
    monkeypatch.setattr(AnsibleModule, "log", lambda _, message, **more: logged.append(f"{message} {more}"))
    run(orthanc_import, capsys, **given, patients={"OLD-1": "NEW-1"})
    assert "sources" in logged[0]
    assert not [line for line in logged if "OLD-1" in line or "NEW-1" in line]


def test_patients_mask_no_numbers(given: dict[str, Any], capsys: Capture) -> None:
    """Ansible masks each number that has a secret in it."""
    done = run(orthanc_import, capsys, **given, patients={"P1": "0", "P2": "4"})
    assert all(isinstance(count, int) for count in done["files"].values()), done["files"]
    assert done["invocation"]["module_args"]["patients"] == {}

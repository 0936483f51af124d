"""Anonymised and modified copies: new UIDs, nothing left of the patient, the original as it was."""

from __future__ import annotations

import io

import pytest
from pydicom import dcmread

from verification.actions import finished
from verification.client import Client
from verification.expect import expect
from verification.patient import COPY_ID, COPY_NAME, MARK, PATIENT_ID, ROOT, Image

COPY = {"PatientID": COPY_ID, "PatientName": COPY_NAME}
# What the original says of the patient and of where it was made.
IDENTIFYING = ["Verification^Disposable", "VERIFY-OTHER-ID", "VERIFY-0815", "VERIFY-4711", "19010203", "Institute"]
IDENTIFYING += ["a private value", ROOT]


def files_of(client: Client, study: str) -> list[bytes]:
    """Return the files of a study that this run had made."""
    return [client.get(f"/instances/{instance}/file").content for instance in client.adopt(study)]


@pytest.mark.parametrize("level", ["patients", "studies"])
def test_anonymized_copy_tells_nothing(patient: Client, series: list[Image], level: str) -> None:
    source = {"patients": series[0].patient, "studies": series[0].study}[level]
    body = {"Replace": COPY, "Force": True}
    answer = patient.post(f"/{level}/{source}/anonymize", json=body)
    expect(f"POST /{level}/…/anonymize", 200, answer.status_code)
    made = answer.json()["ID"]
    studies = patient.json_at(f"/patients/{made}")["Studies"] if level == "patients" else [made]
    patient.own.update(studies)
    files = [file for study in studies for file in files_of(patient, study)]
    expect("images of the copy are as many at least", True, len(files) >= len(series))
    for file in files:
        left = [text for text in IDENTIFYING if text.encode() in file]
        expect("what the anonymised copy still tells", [], left, "orthanc_settings: DeidentifyLogs, plugins")
        copy = dcmread(io.BytesIO(file))
        expect("patient of the copy", (COPY_ID, COPY_NAME), (copy.PatientID, str(copy.PatientName)))
    expect("the original is still there", 200, patient.get(f"/{level}/{source}").status_code)
    patient.delete(f"/{level}/{made}")


def test_anonymized_file_tells_nothing(patient: Client, series: list[Image]) -> None:
    body = {"Replace": COPY, "Force": True}
    answer = patient.post(f"/instances/{series[0].instance}/anonymize", json=body)
    expect("POST /instances/…/anonymize", 200, answer.status_code)
    left = [text for text in IDENTIFYING if text.encode() in answer.content]
    expect("what the anonymised file still tells", [], left)


def test_anonymization_by_a_job(patient: Client, series: list[Image]) -> None:
    body = {"Replace": COPY, "Force": True, "Asynchronous": True}
    job = patient.post(f"/studies/{series[0].study}/anonymize", json=body).json()["ID"]
    state = finished(patient, job)
    expect("type of the job", "ResourceModification", state["Type"])
    made = state["Content"]["ID"]
    # The guard knows what an answer brings, not what a job does later.
    patient.own.add(made)
    expect("images of the copy", len(series), len(patient.adopt(made)))
    expect("DELETE of the copy", 200, patient.delete(f"/studies/{made}").status_code)


def test_modified_copy_has_uids_of_its_own(patient: Client, series: list[Image]) -> None:
    original = series[0].dataset
    body = {"Replace": {"StudyDescription": f"{MARK} modified"}, "Remove": ["InstitutionName"]}
    answer = patient.post(f"/studies/{series[0].study}/modify", json=body)
    expect("POST /studies/…/modify", 200, answer.status_code)
    made = answer.json()["ID"]
    files = [dcmread(io.BytesIO(file)) for file in files_of(patient, made)]
    expect("images of the copy", len(series), len(files))
    for level in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        kept = {str(file[level].value) for file in files} & {str(image.dataset[level].value) for image in series}
        expect(f"{level} that the copy has kept", set(), kept)
    for file in files:
        expect("StudyDescription of the copy", f"{MARK} modified", file.StudyDescription)
        expect("InstitutionName of the copy", False, "InstitutionName" in file)
        expect("AccessionNumber of the copy", original.AccessionNumber, file.AccessionNumber)
    source = patient.json_at(f"/studies/{series[0].study}")
    expect("StudyDescription of the original", original.StudyDescription, source["MainDicomTags"]["StudyDescription"])
    came = patient.json_at(f"/studies/{made}/metadata?expand").get("ModifiedFrom")
    expect("ModifiedFrom of the copy", series[0].study, came)
    expect("DELETE of the copy", 200, patient.delete(f"/studies/{made}").status_code)


@pytest.mark.since("a study given to another patient")
def test_study_is_given_to_another_patient(patient: Client, series: list[Image]) -> None:
    answer = patient.post(f"/studies/{series[0].study}/modify", json={"Replace": COPY, "Force": True})
    expect("POST /studies/…/modify", 200, answer.status_code)
    made = patient.json_at(f"/studies/{answer.json()['ID']}")["PatientMainDicomTags"]
    expect("patient of the copy", (COPY_ID, COPY_NAME), (made["PatientID"], made["PatientName"]))
    expect("DELETE of the copy", 200, patient.delete(f"/studies/{answer.json()['ID']}").status_code)


def test_modified_series_keeps_the_patient(patient: Client, series: list[Image]) -> None:
    body = {"Replace": {"SeriesDescription": f"{MARK} modified"}}
    answer = patient.post(f"/series/{series[0].series}/modify", json=body)
    expect("POST /series/…/modify", 200, answer.status_code)
    made = patient.json_at(f"/series/{answer.json()['ID']}")
    expect("another series", True, made["ID"] != series[0].series)
    expect("SeriesDescription of the copy", f"{MARK} modified", made["MainDicomTags"]["SeriesDescription"])
    owner = patient.json_at(f"/series/{made['ID']}/patient")["ID"]
    expect("patient of the copy", series[0].patient, owner)
    expect("DELETE of the copy", 200, patient.delete(f"/series/{made['ID']}").status_code)


def test_modified_file_is_only_returned(patient: Client, series: list[Image]) -> None:
    answer = patient.post(f"/instances/{series[0].instance}/modify", json={"Replace": {"StudyID": "modified"}})
    expect("POST /instances/…/modify", 200, answer.status_code)
    copy = dcmread(io.BytesIO(answer.content))
    expect("StudyID and PatientID of the file", ("modified", PATIENT_ID), (copy.StudyID, copy.PatientID))
    tags = patient.json_at(f"/instances/{series[0].instance}/simplified-tags")
    expect("StudyID of the original", False, tags.get("StudyID") == "modified")

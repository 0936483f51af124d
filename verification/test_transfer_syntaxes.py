"""Real images of many kinds and makers: in, right, and out again as they were."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from pydicom.multival import MultiValue
from pydicom.uid import UID

from verification.client import Client
from verification.expect import expect
from verification.patient import NAMED, Image, transfer_syntaxes


@pytest.mark.parametrize("name", [*transfer_syntaxes(), *NAMED])
def test_image_is_kept(patient: Client, stored: dict[str, Image], kept: Callable[[Image], UID], name: str) -> None:
    image = stored[name]
    path = f"/instances/{image.instance}"
    found = patient.json_at(path)
    family = (image.series, str(image.dataset.SOPInstanceUID))
    expect(f"GET {path}", family, (found["ParentSeries"], found["MainDicomTags"]["SOPInstanceUID"]))
    metadata = patient.json_at(f"{path}/metadata?expand")
    expect("SopClassUid", str(image.dataset.SOPClassUID), metadata.get("SopClassUid"))
    expect("TransferSyntax", str(kept(image)), metadata.get("TransferSyntax"), "orthanc_settings.IngestTranscoding")
    if kept(image) != image.syntax:
        return
    content = patient.get(f"{path}/file").content
    expected, got = ((len(file), hashlib.sha256(file).hexdigest()) for file in (image.content, content))
    expect("GET …/file, size and SHA-256", expected, got)


@pytest.mark.parametrize("name", [*transfer_syntaxes(), *NAMED])
def test_tags_are_right(patient: Client, stored: dict[str, Image], name: str) -> None:
    image = stored[name]
    tags: dict[str, Any] = patient.json_at(f"/instances/{image.instance}/simplified-tags")
    for keyword in ("PatientName", "StudyDescription", "Modality", "Rows", "NumberOfFrames", "SpecificCharacterSet"):
        if image.dataset.get(keyword) not in (None, ""):
            value = image.dataset[keyword].value
            expected = "\\".join(value) if isinstance(value, MultiValue) else str(value)
            expect(f"{keyword} in …/simplified-tags", expected, tags.get(keyword))


@pytest.mark.parametrize(
    "name", [name for name, image in transfer_syntaxes().items() if "NumberOfFrames" in image.dataset]
)
def test_frames_are_all_there(patient: Client, stored: dict[str, Image], name: str) -> None:
    image = stored[name]
    expect("…/frames", image.dataset.NumberOfFrames, len(patient.json_at(f"/instances/{image.instance}/frames")))


@pytest.mark.parametrize("language", NAMED)
def test_patient_is_found_by_the_name(patient: Client, stored: dict[str, Image], language: str) -> None:
    image = stored[language]
    query = {"PatientName": str(image.dataset.PatientName), "PatientID": str(image.dataset.PatientID)}
    answer = patient.post("/tools/find", json={"Level": "Patient", "Query": query})
    expect("/tools/find by the name", [image.patient], answer.json())

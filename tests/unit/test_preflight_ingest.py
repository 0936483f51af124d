"""Rules for images as they come that would do nothing, or what nobody can want."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.good_host import LSB, one_problem, problems

INGEST = "orthanc_ingest"
PYTHON: dict[str, Any] = {"orthanc_plugins": ["dicomweb", "python"]}


def test_good_ones_pass() -> None:
    rules = [
        {"unless": {"Modality": ["CT", "MR"]}, "refuse": True},
        {"when": {"PatientID": ""}, "refuse": True},
        {"set": {"InstitutionName": "Klinik S\u00fcd", "StudyDate": "", "PatientName": "M\u00fcller^Anna"}},
        {"when": {"Modality": "CT"}, "remove": ["OtherPatientIDsSequence", "PatientComments"]},
        {"set": {"ImageType": "DERIVED\\SECONDARY", "SeriesNumber": "3"}},
    ]
    assert problems(**PYTHON | {INGEST: rules}) == []


@pytest.mark.parametrize(
    "rule, part",
    [
        ({}, "it has to say either refuse: true, or what to set or remove"),
        ({"when": {"Modality": "CT"}}, "it has to say either"),
        ({"when": {"Modality": "CT"}, "refuse": False}, "it has to say either"),
        ({"set": {"PatientName": "x"}, "refuse": False}, "it has to say either"),
        ({"when": {"Modality": "CT"}, "refuse": True, "remove": ["PatientName"]}, "it has to say either"),
        ({"refuse": True}, "it would refuse every image"),
        ({"when": {"Modalty": "CT"}, "refuse": True}, "DICOM knows no keyword 'Modalty'. Did you mean 'Modality'?"),
        ({"unless": {"PixelData": "CT"}, "refuse": True}, "has no text that could be compared"),
        ({"unless": {"Modality": 1}, "refuse": True}, "Modality has to be a text or a list of texts"),
        ({"set": {"InstitutionNme": "x"}}, "DICOM knows no keyword 'InstitutionNme'"),
        ({"remove": ["Institution"]}, "DICOM knows no keyword 'Institution'"),
        ({"set": {"SOPInstanceUID": "1.2"}}, "SOPInstanceUID tells this image from others"),
        ({"remove": ["SpecificCharacterSet"]}, "SpecificCharacterSet tells this image from others"),
        ({"remove": ["BitsAllocated"]}, "BitsAllocated is what pixels are read by"),
        ({"remove": ["PixelData"]}, "PixelData is what pixels are read by"),
        ({"remove": ["TransferSyntaxUID"]}, "TransferSyntaxUID is what pixels are read by"),
        ({"set": {"InstitutionName": "a\nb"}}, "InstitutionName has a control character in it"),
        ({"set": {"Rows": "3"}}, "Rows is no text, and cannot be set"),
        ({"set": {"OtherPatientIDsSequence": "3"}}, "is no text, and cannot be set"),
        ({"set": {"SeriesNumber": 3}}, "SeriesNumber has to be a text; put it in quotes"),
        ({"set": {"PatientName": "x"}, "remove": ["PatientName"]}, "PatientName is set and removed"),
        ({"set": {"StudyDate": "2026-01-31"}}, "StudyDate: Invalid value for VR DA"),
        ({"set": {"Modality": "ct"}}, "Modality: Invalid value for VR CS"),
        ({"set": {"StationName": "x" * 17}}, "StationName: The value length (17) exceeds the maximum length of 16"),
    ],
)
def test_bad_ones(rule: dict[str, Any], part: str) -> None:
    good = {"when": {"PatientID": ""}, "refuse": True}
    one_problem(PYTHON | {INGEST: [good, rule]}, INGEST, part)
    assert problems(**PYTHON | {INGEST: [good, rule]})[0].startswith(f"{INGEST}: entry 2: ")


def test_it_takes_python() -> None:
    rules = {INGEST: [{"when": {"PatientID": ""}, "refuse": True}]}
    one_problem(rules, INGEST, "it takes the plugin python; add it to orthanc_plugins")
    found = [text for text in problems(**rules | LSB) if text.startswith(INGEST)]
    assert len(found) == 1
    assert "is not to be had with" in found[0]

"""What the module orthanc_ready finds different from what was asked for."""

from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.modules.orthanc_ready import differences

ASKED = {"version": "1.12.7", "plugins": ["dicom-web"], "database": "sqlite"}
SYSTEM = {"Version": "1.12.7", "DatabaseBackendPlugin": None}


@pytest.mark.parametrize(
    "asked, system, plugins",
    [
        ({}, {}, ["dicom-web"]),
        ({}, {}, ["dicom-web", "explorer.js"]),
        ({"version": ""}, {"Version": "1.13.0"}, ["dicom-web"]),
        ({"plugins": []}, {}, []),
    ],
)
def test_no_difference(asked: dict[str, Any], system: dict[str, Any], plugins: list[str]) -> None:
    assert differences(ASKED | asked, SYSTEM | system, plugins) == []


@pytest.mark.parametrize(
    "asked, system, plugins, expected",
    [
        ({}, {"Version": "1.10.1"}, ["dicom-web"], ["orthanc_version asks for 1.12.7, but 1.10.1 runs"]),
        ({}, {}, ["gdcm"], ["did not load: dicom-web"]),
        ({"plugins": ["a", "b"]}, {}, [], ["did not load: a", "did not load: b"]),
        (
            {},
            {"DatabaseBackendPlugin": "/x/libOrthancOther.so"},
            ["dicom-web"],
            ["the index is in /x/libOrthancOther.so"],
        ),
    ],
)
def test_difference(asked: dict[str, Any], system: dict[str, Any], plugins: list[str], expected: list[str]) -> None:
    found = differences(ASKED | asked, SYSTEM | system, plugins)
    assert len(found) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, found, strict=True))

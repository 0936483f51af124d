"""What of a change Orthanc takes while it runs."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_live import changes

CT = {"AET": "CT1", "Host": "192.0.2.7", "Port": 104}
WEB = {"Url": "https://192.0.2.9/dicom-web/"}


@pytest.mark.parametrize(
    "before, after, wanted",
    [
        ({}, {"DicomModalities": {"ct": CT}}, [("/modalities/ct", CT)]),
        ({"DicomModalities": {"ct": CT}}, {"DicomModalities": {}}, [("/modalities/ct", None)]),
        ({"DicomModalities": {"ct": CT}}, {}, [("/modalities/ct", None)]),
        (
            {"DicomModalities": {"ct": CT, "us": CT}, "Name": "x"},
            {"Name": "x", "DicomModalities": {"us": CT, "ct": CT | {"Port": 105}, "mr": ["MR", "192.0.2.8", 104]}},
            [("/modalities/ct", CT | {"Port": 105}), ("/modalities/mr", ["MR", "192.0.2.8", 104])],
        ),
        ({"OrthancPeers": {}}, {"OrthancPeers": {"b": ["https://b/"]}}, [("/peers/b", ["https://b/"])]),
        (
            {"DicomWeb": {"Root": "/pacs/web/", "Servers": {}}},
            {"DicomWeb": {"Root": "/pacs/web/", "Servers": {"a/b": WEB}}},
            [("/pacs/web/servers/a%2Fb", WEB)],
        ),
        ({"DicomWeb": {}}, {"DicomWeb": {"Servers": {"b": WEB}}}, [("/dicom-web/servers/b", WEB)]),
        (
            {"DicomModalities": {"ct": CT}},
            {"DicomModalities": {}, "OrthancPeers": {"b": ["https://b/"]}},
            [("/modalities/ct", None), ("/peers/b", ["https://b/"])],
        ),
    ],
)
def test_entries_are_told(before: dict[str, Any], after: dict[str, Any], wanted: list[Any]) -> None:
    assert changes(before, after) == wanted


@pytest.mark.parametrize(
    "before, after",
    [
        ({}, {}),
        ({"Name": "x"}, {"Name": "y", "DicomModalities": {"ct": CT}}),
        ({}, {"DicomAlwaysAllowEcho": False, "DicomModalities": {"ct": CT}}),
        ({"DicomWeb": {"Root": "/a/"}}, {"DicomWeb": {"Root": "/b/", "Servers": {"b": WEB}}}),
        # The plugin has no options yet: it may not be there either.
        ({}, {"DicomWeb": {"Servers": {"b": WEB}}}),
        ({"DicomModalitiesInDatabase": True}, {"DicomModalitiesInDatabase": True, "DicomModalities": {"ct": CT}}),
        ({"OrthancPeersInDatabase": True}, {"OrthancPeersInDatabase": True, "OrthancPeers": {"b": ["https://b/"]}}),
        ({"DicomWeb": {"ServersInDatabase": True}}, {"DicomWeb": {"ServersInDatabase": True, "Servers": {"b": WEB}}}),
        # What is no section of entries is for Orthanc to refuse.
        ({"DicomModalities": {}}, {"DicomModalities": "none"}),
    ],
)
def test_anything_else_takes_a_start(before: dict[str, Any], after: dict[str, Any]) -> None:
    asked = repr((before, after))
    assert changes(before, after) == []
    assert repr((before, after)) == asked

"""Routes that lead nowhere, in a circle, or fit nothing."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general

from tests.unit.good_host import LSB, PROBE, host, notices, one_problem, problems

ROUTES, HOOKS = "orthanc_routes", "orthanc_webhooks"
PYTHON: dict[str, Any] = {"orthanc_plugins": ["dicomweb", "python"]}
KNOWN: dict[str, Any] = PYTHON | {
    "orthanc_modalities": {
        "ct": {"AET": "CT1", "Host": "192.0.2.7", "Port": 104},
        "old": ["OLD", "192.0.2.8", 104],
        "loop": {"AET": "ORTHANC", "Host": "127.0.0.1", "Port": 4242},
        "self": ["ELSE", "192.0.2.1", 4242],
        "beside": {"AET": "BESIDE", "Host": "192.0.2.1", "Port": 11112},
        "both": {"AET": "BOTH", "Host": "192.0.2.9", "Port": 104},
    },
    "orthanc_peers": {
        "archive": {"Url": "https://archive.example.org/"},
        "mirror": ["https://pacs.example.org/"],
        "inside": {"Url": "http://localhost:8042/"},
        "both": {"Url": "https://both.example.org/"},
    },
}


def told(routes: list[dict[str, Any]], routers: tuple[str, ...] = (), **more: Any) -> list[str]:
    """Return what is said of routes on a host whose names and whose place are known."""
    site = {
        "site_routers": list(routers),
        "site_hosts": {"pacs": ["pacs.example.org", "pacs", "192.0.2.1"]},
        "site_faces": [{"url": "https://pacs.example.org/"}],
    }
    made = host(("orthanc",), KNOWN | {ROUTES: routes} | more, PROBE)
    found = general.problems(dataclasses.replace(made, name="pacs", site=site.get))
    return [text for text in found if ROUTES in text or HOOKS in text]


def hooks(found: list[str]) -> list[str]:
    return [text for text in found if text.startswith(HOOKS)]


def test_good_ones_pass() -> None:
    when = {"Modality": ["CT", "MR"], "StudyDescription": "*Sch\u00e4del*", "InstitutionName": ""}
    assert told([{"to": "ct"}, {"to": "old", "when": when}, {"to": "archive", "when": {}}, {"to": "beside"}]) == []
    assert told([{"to": "ct"}, {"to": "ct", "when": when}], routers=("pacs",)) == []


@pytest.mark.parametrize(
    "route, part",
    [
        (
            {"to": "archiv"},
            "neither orthanc_modalities nor orthanc_peers has it; add it there. Did you mean 'archive'?",
        ),
        ({"to": ""}, "neither orthanc_modalities nor orthanc_peers has it"),
        ({"to": "both"}, "orthanc_modalities and orthanc_peers both have it"),
        ({"to": "loop"}, "that is this Orthanc itself (127.0.0.1:4242)"),
        ({"to": "self"}, "that is this Orthanc itself (192.0.2.1:4242)"),
        ({"to": "mirror"}, "that is this Orthanc itself (https://pacs.example.org/)"),
        ({"to": "inside"}, "that is this Orthanc itself (http://localhost:8042/)"),
        ({"to": "ct", "when": {"Modalty": "CT"}}, "DICOM knows no keyword 'Modalty'. Did you mean 'Modality'?"),
        ({"to": "ct", "when": {"0008,0060": "CT"}}, "DICOM knows no keyword '0008,0060'"),
        ({"to": "ct", "when": {"OtherStudyNumbers": ""}}, "OtherStudyNumbers is retired"),
        ({"to": "ct", "when": {"PixelData": "x"}}, "PixelData has no text that could be compared"),
        ({"to": "ct", "when": {"ReferencedStudySequence": "x"}}, "has no text that could be compared"),
        ({"to": "ct", "when": {"SeriesNumber": 3}}, "SeriesNumber has to be a text or a list of texts, with quotes"),
        ({"to": "ct", "when": {"Modality": []}}, "Modality has to be a text or a list of texts"),
        ({"to": "ct", "when": {"Modality": ["CT", 1]}}, "Modality has to be a text or a list of texts"),
        ({"to": "ct", "when": {"Modality": {"is": "CT"}}}, "Modality has to be a text or a list of texts"),
    ],
)
def test_bad_ones(route: dict[str, Any], part: str) -> None:
    (problem,) = told([{"to": "old"}, route])
    assert problem.startswith(f"{ROUTES}: entry 2, to '{route['to']}': ")
    assert part in problem


def test_one_twice() -> None:
    (problem,) = told([{"to": "ct"}, {"to": "ct"}])
    assert problem == "orthanc_routes: entry 2, to 'ct': it stands there twice; take one out."


def test_another_orthanc_of_the_same_database_routes_too() -> None:
    (problem,) = told([{"to": "ct"}], routers=("pacs", "second"))
    assert "pacs and second have one database" in problem


@pytest.mark.parametrize(
    "hook, part",
    [
        ({"url": "ris.example.org"}, "'ris.example.org' is no URL like"),
        ({"url": "https://user:word@ris.example.org/"}, "is no URL like"),
        ({"url": "https://ris.example.org:port/"}, "is no URL like"),
        ({"url": "https://ris.example.org/#x"}, "is no URL like"),
        ({"url": "https://ris.example.org/a b"}, "is no URL like"),
        ({"url": "https://ris.example.org/?key=x"}, "is no URL like"),
        ({"url": "https://ris.example.org:8443/a", "token": "Other"}, "stands there with another token too"),
        ({"url": "ftp://ris.example.org/"}, "is no URL like"),
        ({"url": "http://ris.example.org/"}, "take https"),
        ({"url": "https://ris.example.org/", "token": "a b"}, "token has blanks"),
        ({"url": "https://ris.example.org/", "when": {"Modalty": "CT"}}, "DICOM knows no keyword 'Modalty'"),
    ],
)
def test_bad_webhooks(hook: dict[str, Any], part: str) -> None:
    good = [{"url": "https://ris.example.org:8443/a", "token": "Secret.1"}, {"url": "http://127.0.0.1:8000/"}]
    assert told([], orthanc_webhooks=good) == []
    problem = hooks(told([], orthanc_webhooks=[*good, hook]))[-1]
    assert problem.startswith("orthanc_webhooks: entry 3")
    assert part in problem
    (problem,) = hooks(told([], routers=("second",), orthanc_webhooks=good))
    assert "pacs and second have one database" in problem


def test_it_takes_python(tmp_path: pathlib.Path) -> None:
    routes = {ROUTES: [{"to": "ct"}]}
    one_problem(routes, ROUTES, "it takes the plugin python; add it to orthanc_plugins")
    found = [text for text in problems(**routes | LSB) if text.startswith(ROUTES)]
    assert len(found) == 1
    assert "is not to be had with" in found[0]
    assert "Take it out, or choose another install method." in found[0]
    for variable in ("orthanc_settings", "orthanc_settings_unchecked"):
        changes = routes | PYTHON | {variable: {"PythonScript": "/srv/own.py"}}
        found = [text for text in problems(**changes) if text.startswith(f"{variable}.PythonScript")]
        assert found == [
            f"{variable}.PythonScript: orthanc_routes is a script too, and Orthanc takes one; add yours to"
            " orthanc_scripts, and take this out."
        ]
    (tmp_path / "pacs_routes.py").touch()
    changes = PYTHON | {"orthanc_scripts": [{"file": str(tmp_path / "pacs_routes.py")}]}
    one_problem(changes, "orthanc_scripts", "a module of Python or of Orthanc is called pacs_routes too")


@pytest.mark.parametrize("overwrite, told", [(False, False), ("IfChanged", False), (True, True), ("Always", True)])
def test_circle_that_would_never_end_is_told(overwrite: Any, told: bool) -> None:
    """Back from a peer, or a modality by its name, an image is taken for new; who has sent another is known."""
    modalities = KNOWN["orthanc_modalities"] | {"named": {"AET": "NAMED", "Host": "ws.example.org", "Port": 104}}
    asked = KNOWN | {"orthanc_modalities": modalities, "orthanc_settings": {"OverwriteInstances": overwrite}}
    found = notices(**asked | {ROUTES: [{"to": "ct"}, {"to": "archive"}, {"to": "named"}, {"to": "old"}]})
    circles = [text for text in found if text.startswith(f"{ROUTES}: with OverwriteInstances a circle over")]
    assert len(circles) == int(told)
    assert all(
        text.startswith(f"{ROUTES}: with OverwriteInstances a circle over archive, named would") for text in circles
    )
    assert not [text for text in notices(**asked | {ROUTES: [{"to": "ct"}]}) if "a circle" in text]

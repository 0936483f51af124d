"""Images that come by DICOMweb from a server that does what it is told; hosts have real ones."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import client, dicomweb
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.streams import Refused

from tests.unit.orthanc_stand_in import DROP, Answered, StandIn, read
from tests.unit.test_import_run import PASSWORD, Folder, image

JSON = {"Content-Type": "application/dicom+json"}
MIXED = {"Content-Type": 'multipart/related; type="application/dicom"; boundary="b-1"'}


class Web:
    """What answers by DICOMweb; ``pages`` tells whether it knows of pages, ``more`` how many images it only counts."""

    def __init__(self, server: StandIn) -> None:
        self.images = [image(number, study=f"1.{number % 5}", series=str(number % 2)) for number in range(30)]
        self.pages, self.more, self.end = True, 0, b"\r\n--b-1--\r\n"
        self.unfit: tuple[str, Answered] = ("", None)
        self.url = server.url
        self.asked = server.asked
        server.fault = self.answer

    def answer(self, method: str, path: str, number: int) -> Answered:
        path, _, query = path.partition("?")
        end, wrong = self.unfit
        if end and path.endswith(end):
            return wrong
        if path == "/system":
            return 404, {}, b""
        parts = path.split("/")[1:]
        level, wanted = parts[-1] if len(parts) % 2 else "", parts[1::2]
        heads = [(head.study, head.series, head.instance) for head in map(read, self.images)]
        if not level:
            body = self.images[heads.index((wanted[0], wanted[1], wanted[2]))]
            return 200, MIXED, b"--b-1\r\nContent-Type: application/dicom\r\n\r\n" + body + self.end
        depth = ("studies", "series", "instances").index(level)
        found = sorted({head[: depth + 1] for head in heads if list(head[:depth]) == wanted})
        given = dict(part.split("=") for part in query.split("&"))
        if self.pages:
            found = found[int(given["offset"]) if "offset" in given else 0 :][: int(given["limit"])]
        tags = (dicomweb.STUDY, dicomweb.SERIES, dicomweb.INSTANCE)
        said = [
            {tag: {"vr": "UI", "Value": [uid]} for tag, uid in zip(tags, one, strict=False)}
            | {dicomweb.MODALITY: {"vr": "CS", "Value": ["CT"]}}
            | {dicomweb.NUMBER: {"vr": "IS", "Value": [sum(head[:2] == one for head in heads) + self.more]}}
            for one in found
        ]
        return (200, JSON, json.dumps(said).encode()) if said else (204, JSON, b"")


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(client, "SHORTEST", 0.01)
    monkeypatch.setattr(dicomweb, "PAGE", 4)
    made = StandIn()
    yield made
    made.close()


@pytest.fixture
def web() -> Iterator[Web]:
    made = StandIn()
    yield Web(made)
    made.close()


@pytest.fixture
def folder(tmp_path: pathlib.Path, archive: StandIn) -> Folder:
    return Folder(tmp_path, archive)


def run(folder: Folder, web: Web, **more: Any) -> dict[str, Any]:
    return folder.run(sources=[os.fsencode(web.url)], from_login=("user", PASSWORD), **more)


@pytest.mark.parametrize("pages", [True, False])
def test_all(folder: Folder, archive: StandIn, web: Web, pages: bool) -> None:
    web.pages = pages
    summary = run(folder, web, verify=True)
    assert (summary["files"], summary["verified"]) == ({"stored": 30}, 30)
    assert sorted(archive.images.values()) == sorted(web.images)
    web.asked.clear()
    assert run(folder, web)["files"] == {"already there": 30}
    assert not [path for _, path in web.asked if "/instances/" in path]


def test_rules(folder: Folder, archive: StandIn, web: Web) -> None:
    """Series of other modalities are left out without a look at their images, and only the days are asked for."""
    summary = run(folder, web, modalities=frozenset(["MR"]), since="20200101")
    assert summary["files"] == {"left out": 10}
    assert not [path for _, path in web.asked if "/instances" in path]
    assert {path.rpartition("&")[2] for _, path in web.asked if "offset" in path and "series" not in path} == {
        "StudyDate=20200101-"
    }


def test_series_that_has_more_than_it_names(folder: Folder, web: Web) -> None:
    web.more = 1
    summary = run(folder, web)
    assert summary["files"] == {"stored": 30, "unreadable": 10}
    assert "it says that it has 4 images, and names 3" in summary["wrong"][0]["reason"]


@pytest.mark.parametrize(
    "end, wrong, files, told",
    [
        ("/studies/1.2/series", (400, {}, b""), {"stored": 24, "unreadable": 1}, "cannot be listed: 400"),
        ("/studies/1.2/series", (200, {}, b"<html>"), {"stored": 24, "unreadable": 1}, "cannot be listed: 200"),
        ("/studies/1.2/series", (200, {}, b'["x"]'), {"stored": 24, "unreadable": 1}, "it is no list of resources"),
        ("/studies/1.2/series", (200, {}, b'[{"0020000E": "x"}]'), {"stored": 24, "unreadable": 1}, "no identifier"),
        ("/instances/1.2.0.2", (404, {}, b""), {"stored": 29, "unreadable": 1}, "not served there: 404"),
        ("/instances/1.2.0.2", (200, MIXED, b"x" * 99), {"stored": 29, "rejected": 1}, "a part without head or end"),
        ("/instances/1.2.0.2", (200, {}, b"<html>"), {"stored": 29, "rejected": 1}, "it lacks an identifier"),
    ],
)
def test_bad_answers(folder: Folder, web: Web, end: str, wrong: Answered, files: dict[str, int], told: str) -> None:
    web.unfit = end, wrong
    summary = run(folder, web)
    assert summary["files"] == files
    assert told in summary["wrong"][0]["reason"]


def test_image_that_ends_too_early(folder: Folder, archive: StandIn, web: Web) -> None:
    web.end = b""
    assert run(folder, web)["files"] == {"rejected": 30}
    assert not archive.sent()


def test_image_that_is_never_answered(folder: Folder, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "UNANSWERED", 3)
    web.unfit = "/instances/1.2.0.2", DROP
    summary = run(folder, web, connections=1)
    assert (summary["files"], summary["complete"]) == ({"stored": 29, "unreadable": 1}, True)


def test_what_is_no_archive(folder: Folder, web: Web) -> None:
    web.unfit = "/studies", (404, {}, b"<title>404 Not Found</title>")
    assert "is neither an Orthanc nor DICOMweb: 404" in run(folder, web)["ended"]


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("body", [b"", b"x" * 300_000, b"\r\n--b" * 9])
def test_parts(size: int, body: bytes) -> None:
    whole = b"\r\n--b-1\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n--b-1--"
    pieces = [whole[place : place + size] for place in range(0, len(whole), size)]
    if len(pieces) < 100_000:
        assert b"".join(dicomweb.only_part(pieces, b"b-1")) == body
        with pytest.raises(Refused):
            list(dicomweb.only_part([whole[:-20]], b"b-1"))

"""What the verification finds out of modalities, from the host of an Orthanc that a stand-in is."""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.repository import ROOT, run
from verification.report import Report, Server
from verification.test_modalities import declared, row

SCRIPT = (ROOT / "verification" / "on_modalities.py").read_text("utf-8")
# What is said of one that refuses, and of one that opens and never answers.
REFUSED = 'DicomAssociation - connecting to AET "CT1": DUL Association Rejected'
LOG = """\
1796000300.5 pacs Orthanc[1]: I1129 (dicom) Association Received from AET OLD SCANNER on IP 127.0.0.1
1796000200.5 pacs Orthanc[1]: I1129 (dicom) Association Received from AET OLD SCANNER on IP 127.0.0.1
1796000400.5 pacs Orthanc[1]: I1129 (dicom) Association Received from AET CT1 on IP 192.0.2.99
"""


class Orthanc(http.server.BaseHTTPRequestHandler):
    """Answers what is in ``answers``, and keeps what it was asked."""

    answers: dict[str, Any]
    asked: list[str]

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append(self.path)
        answer = self.answers.get(self.path, {})
        status = answer.get("HttpStatus", 200) if isinstance(answer, dict) else 500 if isinstance(answer, str) else 200
        said = {"Details": answer} if isinstance(answer, str) else answer
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *_: Any) -> None:
        pass


class Site:
    def __init__(self, folder: pathlib.Path, port: int, stand_in: type[Orthanc]) -> None:
        self.folder, self.port, self.stand_in = folder, port, stand_in

    def look(self, *spared: str, script: str = SCRIPT) -> dict[str, dict[str, Any]]:
        return self.both(*spared, script=script)["modalities"]

    def both(self, *spared: str, script: str = SCRIPT) -> dict[str, dict[str, dict[str, Any]]]:
        path = f"{self.folder}:{os.environ['PATH']}"
        done = run(sys.executable, "-c", script, str(self.folder), str(self.port), *spared, env={"PATH": path})
        assert done.returncode == 0, done.stderr
        found: dict[str, dict[str, dict[str, Any]]] = json.loads(done.stdout)
        return found


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[Site]:
    (tmp_path / "credentials.json").write_text('{"RegisteredUsers": {"admin": "long enough"}}', encoding="utf-8")
    (tmp_path / "journalctl").write_text(f"#!/bin/sh\ncat <<'END'\n{LOG}END\n", encoding="utf-8")
    (tmp_path / "journalctl").chmod(0o755)

    class StandIn(Orthanc):
        answers: dict[str, Any] = {"/system": {}, "/changes?last": {"Last": 0}}  # noqa: RUF012
        asked: list[str] = []  # noqa: RUF012

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Site(tmp_path, server.server_address[1], StandIn)
        server.shutdown()


@pytest.fixture
def opened() -> Iterator[int]:
    """A port at which something listens."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def modality(title: str, port: int, host: str = "127.0.0.1") -> dict[str, Any]:
    return {"AET": title, "Host": host, "Port": port}


def test_each_is_asked_and_told(site: Site, opened: int, closed: int) -> None:
    site.stand_in.answers["/modalities?expand"] = {
        "here": modality("HERE", opened),
        "ct": modality("CT1", opened),
        "off": modality("OLD SCANNER", closed),
        "me": modality("VERIFIER", closed),
        "none": modality("NONE", 104, "no.such.name.invalid"),
    }
    site.stand_in.answers["/modalities/ct/echo"] = REFUSED
    found = site.look("me")
    assert {name: one["refused"] for name, one in found.items() if one["refused"]} == {"ct": "DUL Association Rejected"}
    assert found["off"]["closed"] == "Connection refused"
    assert found["none"]["closed"]
    assert not found["here"]["closed"] + found["me"]["closed"]
    assert [one["asked"] for one in found.values()] == [True, True, True, False, True]
    # By title and address, the newest of several; never that of somebody else.
    assert {name: one["associated"] for name, one in found.items() if one["associated"]} == {"off": 1796000300.5}
    assert sorted(path for path in site.stand_in.asked if "echo" in path) == [
        "/modalities/ct/echo",
        "/modalities/here/echo",
    ]


@pytest.mark.parametrize(
    "system, path",
    [
        ({}, "/changes?since=3000&limit=5000"),
        ({"Capabilities": {"HasExtendedChanges": True}}, "/changes?type=NewSeries&to=8000&limit=200"),
    ],
)
def test_who_has_sent_series(site: Site, closed: int, system: dict[str, Any], path: str) -> None:
    changes = [{"ChangeType": "NewSeries", "ID": name} for name in ("a", "b", "gone", "upload")]
    site.stand_in.answers |= {
        "/modalities?expand": {"ct": modality("CT1", closed), "us": modality("US1", closed)},
        "/system": system,
        "/changes?last": {"Last": 8000},
        path: {"Changes": [*changes, {"ChangeType": "NewInstance", "ID": "c"}]},
        "/series/a/metadata?expand": {"RemoteAET": "CT1", "LastUpdate": "20261129T120000"},
        "/series/b/metadata?expand": {"RemoteAET": "CT1", "LastUpdate": "20261129T110000"},
        "/series/gone/metadata?expand": "Unknown resource",
        "/series/upload/metadata?expand": {"LastUpdate": "20261129T130000"},
    }
    found = site.look()
    assert found["us"]["sent"] == 0
    assert row("ct", found["ct"]).seen == "2026-11-29 12:00 UTC, by series"
    assert row("us", found["us"]).seen == "not seen"
    assert "/series/c/metadata?expand" not in site.stand_in.asked


def test_hundreds_end_by_the_limit(site: Site, opened: int) -> None:
    site.stand_in.answers |= {
        "/modalities?expand": {f"m{n}": modality(f"M{n}", opened) for n in range(50)},
        "/system": {},
        "/changes?last": {"Last": 8},
        "/changes?since=0&limit=5000": {"Changes": [{"ChangeType": "NewSeries", "ID": "a"}]},
    }
    found = site.look(script=SCRIPT.replace("LIMIT = 30", "LIMIT = -1"))
    assert {one["closed"] for one in found.values()} == {"not asked: -1 s were over"}
    assert not [path for path in site.stand_in.asked if "echo" in path or "series" in path]
    assert "/changes?since=0&limit=5000" in site.stand_in.asked


CURL = "E1130 HttpClient.cpp:1] Error in the network protocol: libCURL error: SSL peer certificate was not OK"


@pytest.mark.parametrize("root", ["", "/pacs/web/"])
def test_dicomweb_servers_are_asked(site: Site, opened: int, closed: int, root: str) -> None:
    if root:
        # Beside its servers, whose passwords are for few.
        options = {"RegisteredUsers": {"admin": "long enough"}, "DicomWeb": {"Root": root}}
        (site.folder / "credentials.json").write_text(json.dumps(options), encoding="utf-8")
    (site.folder / "journalctl").write_text(f"#!/bin/sh\necho '{CURL} while accessing https://x/'\n", encoding="utf-8")
    here, urls = root.rstrip("/") or "/dicom-web", {"off": f"http://user:secret@127.0.0.1:{closed}/web/"}
    answers: dict[str, Any] = {
        "good": [],
        "empty": b"",
        "a b": [{"0020000D": {}}],
        "password": {"HttpStatus": 401, "HttpError": "Unauthorized"},
        "path": {"HttpStatus": 404, "HttpError": "Not Found"},
        "page": b"<html>",
        "other": {"Version": "1"},
        "certificate": "Error in the network protocol",
    }
    urls["spoilt"] = "http://127.0.0.1:99999/"
    urls |= dict.fromkeys(answers, f"http://127.0.0.1:{opened}/web/")
    site.stand_in.answers |= {
        "/modalities?expand": {},
        f"{here}/servers?expand": {name: {"Url": url, "Username": "u"} for name, url in urls.items()},
        **{f"{here}/servers/{name.replace(' ', '%20')}/get": answer for name, answer in answers.items()},
    }
    found = site.both()["servers"]
    assert {name: one["wrong"] for name, one in found.items() if one["wrong"]} == {
        "off": "Connection refused",
        "spoilt": "invalid literal for int() with base 10: 'no port'",
        "password": "it answers 401 (Unauthorized)",
        "path": "it answers 404 (Not Found)",
        "page": "it answers no list of studies",
        "other": "it answers no list of studies",
        "certificate": "libCURL error: SSL peer certificate was not OK",
    }
    assert found["off"]["Url"] == f"http://127.0.0.1:{closed}/web/"
    assert f"{here}/servers/off/get" not in site.stand_in.asked


def test_without_dicomweb_there_are_no_servers(site: Site) -> None:
    site.stand_in.answers |= {
        "/modalities?expand": {},
        "/dicom-web/servers?expand": {"HttpStatus": 404, "Message": "Unknown resource"},
    }
    assert site.both()["servers"] == {}


def test_servers_have_a_row_in_the_report() -> None:
    report = Report()
    report.servers["pacs"] += [
        Server("good", "DICOMweb", "https://a/", ""),
        Server("bad", "peer", "https://b/", "no <b>"),
    ]
    other = Report()
    other.add(*report.state)
    assert other.servers["pacs"] == report.servers["pacs"]


def test_silent_ones_are_told_once() -> None:
    report = Report()
    assert report.silent() == []
    known = {"AET": "CT1", "Host": "192.0.2.7", "Port": 104, "sent": 0, "associated": 0, "asked": True, "refused": ""}
    rows = [row(f"m{n}", known | {"closed": "no answer within 3 s" if n else ""}) for n in range(8)]
    assert [one.answer for one in rows[:2]] == ["answers", "no answer within 3 s"]
    assert row("me", known | {"asked": False, "closed": ""}).answer == "this machine"
    report.modalities["pacs"] += rows
    (line,) = report.silent()
    assert line.startswith(
        "NOTICE on pacs: 7 of 8 modalities do not answer Orthanc now, which may be as it should: m1 (no"
    )
    assert line.endswith("m5 (no answer within 3 s) and 2 more")
    other = Report()
    other.add(*report.state)
    assert other.silent() == report.silent()


@pytest.mark.parametrize("given", [["CT1", "192.0.2.7", 104, "GE"], {"AET": "CT1", "Host": "192.0.2.7", "Port": 104}])
def test_either_form_of_an_entry(given: Any) -> None:
    assert declared(given) == ("CT1", "192.0.2.7", 104)

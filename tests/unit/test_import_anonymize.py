"""Images whose patient is taken out on the way: what they refer to, and an Orthanc for it that misbehaves.

tests/hosts/test_import.py does it by real ones.
"""

from __future__ import annotations

import csv
import json
import os
import pathlib
import socket
import stat
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import (
    anonymize,
    client,
    content,
    header,
    origin,
    sources,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.anonymize import Names
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.client import Ended
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.journal import Busy

from tests.repository import ROOT
from tests.unit.orthanc_stand_in import StandIn
from tests.unit.test_import_header import written
from tests.unit.test_import_run import Folder
from tests.unit.test_import_sources import put, tar

# Answers as Orthanc does, by a configuration of the import; what it does wrong stands beside it.
PROGRAM = """#!{python}
import http.server, json, os, struct, sys, threading
sys.path.insert(0, "{modules}")
from pacs_import import header

options, wrong, kept = json.load(open(sys.argv[1])), open(sys.argv[0] + ".wrong").read(), {{}}
os.makedirs(options["StorageDirectory"] + "/ab/cd")
open(options["StorageDirectory"] + "/index", "w").close()
print("W an Orthanc")
if wrong == "link":
    os.unlink(options["StorageDirectory"] + "/../log")
    os.symlink("{modules}/../../README.md", options["StorageDirectory"] + "/../log")
print("E its last words,", *os.environ, flush=True)
if wrong in ("start", "link"):
    sys.exit(1)


def element(group, number, kind, value):
    value = value.encode() + b"\\0" * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, data = self.answer(body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_DELETE = do_GET

    def answer(self, body):
        if self.path == "/system":
            return 200, json.dumps({{"ApiVersion": 1, "Version": "1", "Name": options["Name"]}}).encode()
        if self.path == "/instances":
            head = header.read(body)
            kept[head.instance] = head
            open(options["StorageDirectory"] + "/ab/cd/" + "0" * 36, "w").close()
            if wrong == "file":
                open(options["StorageDirectory"] + "/somebody's", "w").close()
            return (400, b"x") if wrong == "store" else (200, json.dumps({{"ID": head.instance}}).encode())
        if self.path == "/changes":
            return 200, b"{{}}"
        name = self.path.split("/")[2]
        if self.command == "DELETE":
            del kept[name]
            return 200, b"{{}}"
        if "/tags" in self.path:
            if wrong == "die" or (wrong == "one" and name.endswith(".7")):
                os._exit(1)
            if wrong == "once":
                open(sys.argv[0] + ".wrong", "r+").write("start")
                os._exit(1)
            if wrong == "hang" and name.endswith(".7"):
                threading.Event().wait()
            burned = "YES" if wrong == "burned" else "NO"
            tags = {{
                "0008,0018": {{"Name": "SOPInstanceUID", "Type": "String", "Value": name}},
                "0028,0301": {{"Name": "BurnedInAnnotation", "Type": "String", "Value": burned}},
            }}
            if wrong == "nested":
                begin = b'{{"0008,1140": {{"Name": "X", "Type": "Sequence", "Value": ['
                return 200, 5000 * begin + 5000 * b"]}}}}"
            if wrong == "many":
                tags["0008,2111"] = {{"Name": "X", "Type": "String", "Value": "x" * (33 << 20)}}
            if wrong == "opaque":
                tags["0008,fff0"] = {{"Name": "Unknown Tag & Data", "Type": "Null", "Value": None}}
            if wrong == "text":
                tags["0040,0275"] = {{"Name": "X", "Type": "String", "Value": "??"}}
            if wrong == "refused":
                return 404, json.dumps({{"Message": "Unknown resource", "HttpStatus": 404}}).encode()
            if wrong == "document":
                tags["0042,0011"] = {{"Name": "EncapsulatedDocument", "Type": "Null", "Value": None}}
            return 200, json.dumps(["x"] if wrong == "tags" else tags).encode()
        asked = json.loads(body)["Replace"]
        if wrong == "anonymize":
            return 400, b"x"
        if wrong == "nothing":
            asked["0010,0020"] = kept[name].patient
        return 200, b"".join([
            bytes(128), b"DICM",
            element(2, 16, b"UI", "1.2.840.10008.1.2.1"),
            element(8, 24, b"UI", asked["0008,0018"]),
            element(16, 32, b"LO", asked["0010,0020"]),
            element(32, 13, b"UI", asked["0020,000d"]),
            element(32, 14, b"UI", asked["0020,000e"]),
            element(32, 0x4000, b"LT", "of " + kept[name].study if wrong == "kept" else "of 1.2.33, 71.2.3"),
            struct.pack("<HH2sHI", 64, 0x275, b"UN", 0, 2) + b"??" if wrong in ("unknown", "text") else b"",
        ])

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", options["HttpPort"]), Handler).serve_forever()
"""


def image(number: int, patient: str = "P1", **more: Any) -> bytes:
    given = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1", "SOPInstanceUID": f"1.2.3.1.{number}"}
    return written("1.2.840.10008.1.2.1", **{"PatientID": patient, "PatientName": "Doe", **given, **more})


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(client, "SHORTEST", 0.01)
    made = StandIn()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: pathlib.Path, archive: StandIn) -> Folder:
    return Folder(tmp_path, archive)


@pytest.fixture
def given(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what is asked of each import. The program is not run as nobody, who would not find it."""
    modules = ROOT / "plugins" / "module_utils"
    program = put(tmp_path, "bin/Orthanc", PROGRAM.format(python=sys.executable, modules=modules).encode())
    program.chmod(0o755)
    setpriv = put(tmp_path, "bin/setpriv", b'#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    setpriv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{setpriv.parent}:{os.environ['PATH']}")
    made = {"anonymize": True, "orthanc": str(program)}
    go_wrong(made, "")
    return made


def go_wrong(given: dict[str, Any], wrong: str) -> None:
    """Tell what it does wrong from its next start on."""
    pathlib.Path(given["orthanc"] + ".wrong").write_text(wrong)


def test_nobody_is_left(folder: Folder, archive: StandIn, given: dict[str, Any]) -> None:
    """Of any source, with the same names at each run, by each key its own; the report is for its owner alone."""
    for number in range(6):
        folder.put(f"IM{number}", image(number))
    folder.put("a.tar", tar({"IM7": image(7, patient="P2", StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1")}))
    dry = folder.run(**given, dry_run=True)
    assert (dry["files"], archive.sent()) == ({"to be stored": 7, "archive": 1}, 0)
    summary = folder.run(**given, verify=True)
    assert (summary["files"], summary["verified"]) == ({"stored": 7, "archive": 1}, 7)
    assert summary["images"] == {"patients": 2, "studies": 2, "series": 2, "instances": 7}
    heads = [header.read(data) for data in archive.images.values()]
    assert {head.patient[:5] for head in heads} == {"ANON-"}
    assert not [data for data in archive.images.values() if b"P1" in data or b"Doe" in data]
    report = folder.folder / "report"
    assert sorted(os.listdir(report)) == ["anonymize.key", "files.csv", "journal.sqlite", "summary.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in report.iterdir()} == {0o600}
    archive.asked.clear()
    assert folder.run(**given)["files"] == {"already there": 7, "archive": 1}
    # Another machine, with the key alone.
    (folder.folder / "other").mkdir(0o700)
    (folder.folder / "other" / "anonymize.key").write_bytes((report / "anonymize.key").read_bytes())
    (folder.folder / "other" / "anonymize.key").chmod(0o600)
    assert folder.run("other", **given, verify=True)["files"] == {"already there": 7, "archive": 1}
    assert not archive.sent()
    assert folder.run("third", **given)["files"] == {"stored": 7, "archive": 1}
    assert len(archive.images) == 14


def test_dry_run_tells_what_would_not_come(folder: Folder, archive: StandIn, given: dict[str, Any]) -> None:
    """As far as an image tells it, without an Orthanc."""
    folder.put("IM1", image(1))
    folder.put("burned", image(2, BurnedInAnnotation="YES"))
    folder.put("PDF", image(3, EncapsulatedDocument=b"%PDF"))
    folder.put("large-PDF", image(4, EncapsulatedDocument=bytes(9 << 20)))
    folder.put("cut", image(5) + b"\xe0\x7f")
    summary = folder.run(**given, dry_run=True)
    assert summary["files"] == {"left out": 2, "rejected": 1, "to be stored": 2}
    fates = folder.fates()
    assert "whose content the profile takes out" in fates["PDF"][1]
    assert fates["large-PDF"] == fates["PDF"]
    assert "its pixels show who the patient is" in fates["burned"][1]
    assert not archive.sent()


def test_it_forgets(folder: Folder, archive: StandIn, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anonymize, "MANY", 2)
    for number in range(5):
        folder.put(f"IM{number}", image(number))
    assert folder.run(**given)["files"] == {"stored": 5}


def test_large_ones_do_not_wait_for_one_another(
    folder: Folder, archive: StandIn, given: dict[str, Any], monkeypatch: Any
) -> None:
    """An original keeps its room in the spool until what was made of it was sent."""
    for module in (sources, origin):
        monkeypatch.setattr(module, "SMALL", 64)
    folder.put("a.tar", tar({f"IM{number}": image(number, PatientComments="x" * 1000) for number in range(9)}))
    done: list[dict[str, Any]] = []
    running = threading.Thread(target=lambda: done.append(folder.run(**given, spool_size=3000)), daemon=True)
    running.start()
    running.join(30)
    assert done[0]["files"] == {"stored": 9, "archive": 1}


def test_names_of_the_site(folder: Folder, archive: StandIn, given: dict[str, Any]) -> None:
    folder.put("IM1", image(1))
    folder.put("IM2", image(2, patient="P2"))
    assert folder.run(**given, patients={"P1": "CASE-1"})["files"] == {"stored": 2}
    assert sorted(header.read(data).patient[:5] for data in archive.images.values()) == ["ANON-", "CASE-"]


def test_another_key_or_none_is_refused(folder: Folder, archive: StandIn, given: dict[str, Any]) -> None:
    """All would come in again, under other names or with their patients, and nobody had asked for that."""
    folder.put("IM1", image(1))
    assert folder.run()["files"] == {"stored": 1}
    # What came with its patient is not taken to be there.
    assert folder.run(**given)["files"] == {"stored": 1}
    with pytest.raises(Busy, match=r"without their patients.*name another folder"):
        folder.run()
    key = folder.folder / "report" / "anonymize.key"
    old = key.read_bytes()
    key.unlink()
    with pytest.raises(Busy, match=r"by another key.*name another folder"):
        folder.run(**given)
    key.write_bytes(old)
    assert folder.run(**given)["files"] == {"already there": 1}
    assert len(archive.images) == 2


def test_originals_are_named_to_nobody(folder: Folder, archive: StandIn, given: dict[str, Any]) -> None:
    """Nor are those that are left out: the archive is asked about the studies that came alone."""
    said: list[bytes] = []
    real = archive._do

    def do(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        said.append(path.encode() + body)
        return real(method, path, body)

    archive._do = do  # type: ignore[method-assign]
    folder.put("IM1", image(1, Modality="CT"))
    folder.put("IM2", image(2, Modality="MR", StudyInstanceUID="1.2.77", SeriesInstanceUID="1.2.77.1"))
    assert folder.run(**given, modalities=frozenset(["CT"]))["files"] == {"left out": 1, "stored": 1}
    assert not [one for one in said if b"1.2.77" in one]


def test_it_knows_nothing_of_the_import(folder: Folder, given: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setenv("PACS_IMPORT_PASSWORD", "secret")
    go_wrong(given, "start")
    folder.put("IM1", image(1))
    said = folder.run(**given)["ended"].split("words, ")[1].partition(" (")[0]
    assert set(said.split()) <= {"PATH", "LANG", "PWD"}


@pytest.mark.skipif(os.geteuid() != 0, reason="of root alone more is asked")
def test_root_lets_it_run_as_nobody_or_not_at_all(folder: Folder, given: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", str(folder.folder))
    assert "setpriv" in folder.run(**given)["ended"]


# Runs what it is given beside it, and tells with which words, and what that is called.
DOCKER = """#!/bin/sh
printf '%s\\n' "$@" >> "$0.said"
[ "$1" = run ] || exit 0
for last; do :; done
cp "$last" "$0.options"
exec "${0%/*}/Orthanc" "$last"
"""


def test_in_a_container(folder: Folder, archive: StandIn, given: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """By its own name it is known, which nobody else reads; its folder is anywhere, and nothing of it is left."""
    docker = put(tmp_path, "bin/docker", DOCKER.encode())
    docker.chmod(0o755)
    folder.put("IM1", image(1))
    report = 'a, "b"'
    assert folder.run(report, **given | {"orthanc": "docker:image"})["files"] == {"stored": 1}
    said = pathlib.Path(f"{docker}.said").read_text("utf-8").splitlines()
    options = json.loads(pathlib.Path(f"{docker}.options").read_text("utf-8"))
    for secret in (options["Name"], options["RegisteredUsers"]["import"]):
        assert secret
        assert not [word for word in said if secret in word]
    (mount,) = csv.reader(word.removeprefix("--mount=") for word in said if word.startswith("--mount="))
    path = str(tmp_path / report / ".anonymizing")
    assert mount == ["type=bind", f"source={path}", f"target={path}"]
    (name,) = [word.removeprefix("--name=") for word in said if word.startswith("--name=")]
    assert said[-4:] == ["rm", "--force", "--volumes", name]


def test_folder_of_one_that_was_killed(folder: Folder, given: dict[str, Any]) -> None:
    """It was passable meanwhile, for nobody, and is not to stay so."""
    folder.put("IM1", image(1))
    report = folder.folder / "report"
    report.mkdir(0o701)
    assert folder.run(**given)["files"] == {"stored": 1}
    assert stat.S_IMODE(report.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="others run it as themselves")
def test_folder_that_nobody_may_enter(folder: Folder, given: dict[str, Any]) -> None:
    (folder.folder / "closed").mkdir(0o700)
    go_wrong(given, "start")
    folder.put("IM1", image(1))
    assert f"nobody may not pass {folder.folder}/closed" in folder.run("closed/report", **given)["ended"]


def test_who_takes_its_port_gets_nothing(tmp_path: pathlib.Path, given: dict[str, Any]) -> None:
    """It is started again at another one."""
    report = tmp_path / "report"
    report.mkdir(0o700)
    names = Names(str(report))
    made = anonymize.Anonymizer(given["orthanc"], str(report), names, sources.Sources(str(report), 1000, 1000))
    port = made._orthanc._port
    assert port
    made._process.kill()
    made._process.wait()
    with socket.create_server(("127.0.0.1", port)) as other:
        other.settimeout(0.1)
        made.content(content.Content(image(1)), names.header(header.read(image(1)), "")).close()
        with pytest.raises(TimeoutError):
            other.accept()
    made.close()


@pytest.mark.parametrize(
    "wrong, fate, told",
    [
        ("store", "rejected", "it cannot be anonymised: 400"),
        ("tags", "rejected", "its elements cannot be listed"),
        ("anonymize", "rejected", "it cannot be anonymised: 400"),
        ("burned", "rejected", "its pixels show who the patient is"),
        ("document", "left out", "whose content the profile takes out"),
        ("nothing", "rejected", "has other identifiers than it should have"),
        ("refused", "rejected", "its elements cannot be listed: 404"),
        ("nested", "rejected", "its elements cannot be listed"),
        ("many", "rejected", "its elements cannot be listed: they take more than 32 MB"),
        ("opaque", "rejected", "nobody can look into its (0008,fff0)"),
        ("kept", "rejected", "it was anonymised, and still has 1.2.3"),
        ("unknown", "rejected", "nobody can look into its (0040,0275)"),
        ("text", "stored", ""),
    ],
)
def test_image_that_does_not_become_another(
    folder: Folder, archive: StandIn, given: dict[str, Any], wrong: str, fate: str, told: str
) -> None:
    go_wrong(given, wrong)
    folder.put("IM1", image(1))
    summary = folder.run(**given)
    assert (summary["complete"], summary["files"]) == (True, {fate: 1})
    assert told in folder.fates()["IM1"][1]
    assert archive.sent() == (fate == "stored")


@pytest.mark.parametrize(
    "wrong, told",
    [
        ("start", "does not start: E its last words"),
        ("link", "does not start: E its last words"),
        ("die", "has ended on 3 images, one after the other: E its last words"),
    ],
)
def test_its_orthanc_ends(
    folder: Folder, archive: StandIn, given: dict[str, Any], monkeypatch: Any, wrong: str, told: str
) -> None:
    """What it has said comes from where it was written to, whatever lies in its folder by then."""
    monkeypatch.setattr(anonymize, "IN_A_ROW", 3)
    go_wrong(given, wrong)
    for number in range(30):
        folder.put(f"IM{number}", image(number))
    summary = folder.run(**given)
    assert told in summary["ended"]
    assert not archive.sent()
    assert ".anonymizing" not in os.listdir(folder.folder / "report")
    go_wrong(given, "")
    assert folder.run(**given)["files"] == {"stored": 30}


def test_all_hear_that_it_does_not_start_again(
    folder: Folder, archive: StandIn, given: dict[str, Any], monkeypatch: Any
) -> None:
    """Those that come after it was given up, too."""
    ended: list[BaseException] = []
    real = anonymize.Anonymizer.content

    def content(self: anonymize.Anonymizer, *arguments: Any) -> Any:
        try:
            return real(self, *arguments)
        except BaseException as error:
            ended.append(error)
            # Whoever comes next finds it as it is by now.
            with pytest.raises(Ended, match=r"cannot be started: .* does not start: E its last words"):
                real(self, *arguments)
            assert self._said() == self._given_up
            raise

    monkeypatch.setattr(anonymize.Anonymizer, "content", content)
    go_wrong(given, "once")
    for number in range(30):
        folder.put(f"IM{number}", image(number))
    assert "does not start: E its last words" in folder.run(**given, connections=8)["ended"]
    assert {type(error) for error in ended} == {Ended}
    assert not archive.sent()


@pytest.mark.parametrize("wrong", ["one", "hang"])
def test_image_that_ends_its_orthanc(
    folder: Folder, archive: StandIn, given: dict[str, Any], monkeypatch: Any, wrong: str
) -> None:
    """That one has its fate, and those beside it come in."""
    if wrong == "hang":
        # A good one that is alone takes far less, however busy the machine is.
        monkeypatch.setattr(client, "TIMEOUT", 3)
        monkeypatch.setattr(anonymize, "PATIENCE", 0)
    go_wrong(given, wrong)
    for number in range(30):
        folder.put(f"IM{number}", image(number))
    summary = folder.run(**given, connections=8)
    assert (summary["complete"], summary["files"]) == (True, {"rejected": 1, "stored": 29})
    assert "Orthanc ends whenever it is to do that: E its last words" in folder.fates()["IM7"][1]
    assert ".anonymizing" not in os.listdir(folder.folder / "report")
    go_wrong(given, "")
    assert folder.run(**given)["files"] == {"already there": 29, "stored": 1}


@pytest.mark.parametrize("program", ["/nowhere/Orthanc", "/etc/passwd", "/bin/false", "/dev"])
def test_no_orthanc(folder: Folder, archive: StandIn, given: dict[str, Any], program: str) -> None:
    folder.put("IM1", image(1))
    summary = folder.run(**given | {"orthanc": program})
    assert any(words in summary["ended"] for words in ("there is no Orthanc", "does not start", "cannot be started"))
    assert not archive.sent()
    assert ".anonymizing" not in os.listdir(folder.folder / "report")


def test_what_lies_in_its_folder_stays(folder: Folder, archive: StandIn, given: dict[str, Any]) -> None:
    """What an import that was killed has left goes; what somebody else has put there does not, and is told."""
    folder.put("IM1", image(1))
    folder.run(**given)
    left = folder.folder / "report" / ".anonymizing"
    for name in ("store/index", "log", "store/ab/cd/" + str(uuid.uuid4())):
        put(left, name, b"x")
    folder.put("IM2", image(2))
    assert folder.run(**given)["files"] == {"already there": 1, "stored": 1}
    assert not left.exists()
    go_wrong(given, "file")
    folder.put("IM3", image(3))
    assert folder.run(**given)["files"] == {"already there": 2, "stored": 1}
    assert os.listdir(left / "store") == ["somebody's"]
    assert "cannot be started: [Errno 17] File exists" in folder.run(**given)["ended"]
    assert os.listdir(left / "store") == ["somebody's"]


@pytest.mark.parametrize("bad", [{"StudyInstanceUID": ""}, {"SeriesInstanceUID": ""}, {"SOPInstanceUID": ""}])
def test_image_without_identifiers(
    folder: Folder, archive: StandIn, given: dict[str, Any], bad: dict[str, str]
) -> None:
    folder.put("IM1", image(1, **bad))
    folder.put("broken", image(1)[:200])
    assert folder.run(**given)["files"] == {"rejected": 2}
    assert not archive.sent()


def test_what_a_modality_sends_is_refused(folder: Folder, archive: StandIn, given: dict[str, Any]) -> None:
    summary = folder.run(**given, sources=[b"dicom:old"])
    assert "for what passes here" in summary["ended"]
    assert ("POST", "/modalities/old/query") not in archive.asked


def test_key_of_others(folder: Folder, given: dict[str, Any]) -> None:
    """Whoever may write to it, or read it, could tell afterwards who the patients were."""
    report = folder.folder / "report"
    report.mkdir(0o700)
    key = put(report, "anonymize.key", b"0" * 64)
    key.chmod(0o666)
    with pytest.raises(Busy, match="others may write to"):
        folder.run(**given)
    key.chmod(0o640)
    with pytest.raises(Busy, match=r"others can read .*anonymize.key.*chmod go="):
        folder.run(**given)
    key.chmod(0o600)
    for bad in (b"short", b"\xff" * 64):
        key.write_bytes(bad)
        with pytest.raises(Ended, match="is no key"):
            folder.run(**given)
    key.unlink()
    key.symlink_to(put(folder.folder, "elsewhere", b"0" * 64))
    with pytest.raises(OSError, match="symbolic links"):
        folder.run(**given)
    key.unlink()
    report.chmod(0o770)
    with pytest.raises(Busy, match="others may write to"):
        folder.run(**given)
    assert not key.exists()


def element(name: str, value: Any) -> dict[str, Any]:
    return {"Name": name, "Type": "Sequence" if isinstance(value, list) else "String", "Value": value}


def test_what_is_replaced(tmp_path: pathlib.Path) -> None:
    """Whatever names a thing, at any depth; what names a kind of things stays, and so does all else."""
    names = Names(str(tmp_path))
    inner = {"0008,1150": element("ReferencedSOPClassUID", "1.3.12.2.1"), "0008,1155": element("X", "1.2.3")}
    deep = {"0008,1155": element("ReferencedSOPInstanceUID", "1.2.3 ")}
    of_other = {"0010,0010": element("PatientName", "Doe"), "0010,0020": element("PatientID", "4711")}
    tags = {
        "0008,0016": element("SOPClassUID", "1.3.12.2.1107.5.9.1"),
        "0008,0017": element("Unknown Tag & Data", "1.2.3.4\\1.2"),
        "0008,0058": element("FailedSOPInstanceUIDList", "1.2.3"),
        "0008,0062": element("SOPClassesInStudy", "1.2.3"),
        "0009,0010": element("PrivateCreator", "1.2.3.4"),
        "0009,1001": element("Unknown Tag & Data", "1.2.3.4"),
        "0010,0027": element("GroupOfPatientsIdentificationSequence", [of_other]),
        "0020,0242": element("SOPInstanceUIDOfConcatenationSource", "1.2.3"),
        "0040,e030": element("RepositoryUniqueID", "1.2.3"),
        "0008,0018": element("SOPInstanceUID", "1.2.3"),
        "0008,010c": element("CodingSchemeUID", "2.16.840.1.113883.6.96"),
        "0008,1140": element("ReferencedImageSequence", [inner, {"0008,9124": element("Deep", [deep])}]),
        "0008,3010": element("IrradiationEventUID", "1.2.3\\1.2.4"),
        "0010,0010": element("PatientName", "1.2.3"),
        "0018,1002": element("DeviceUID", None),
        "0020,0052": element("FrameOfReferenceUID", "1.2.840.10008.1.4.1.1"),
        "0028,1199": element("PaletteColorLookupTableUID", ""),
    }
    assert dict(names.replacements(tags, "ANON-1")) == {
        "0008,0017": f"{names.uid('1.2.3.4')}\\1.2",
        "0008,0058": names.uid("1.2.3"),
        "0010,0027[0].0010,0010": "ANON-1",
        "0010,0027[0].0010,0020": "ANON-1",
        "0020,0242": names.uid("1.2.3"),
        "0040,e030": names.uid("1.2.3"),
        "0008,0018": names.uid("1.2.3"),
        "0008,1140[1].0008,9124[0].0008,1155": names.uid("1.2.3"),
        "0008,3010": f"{names.uid('1.2.3')}\\{names.uid('1.2.4')}",
    }
    made = names.uid("1.2.3")
    assert uuid.UUID(int=int(made.removeprefix("2.25."))).version == 4
    assert len({names.uid(f"1.2.{number}") for number in range(100)}) == 100


@pytest.mark.parametrize("name, kind", [("ReferencedSOPInstanceUID", "TooLong"), ("Unknown Tag & Data", "Null")])
def test_what_cannot_be_looked_at(tmp_path: pathlib.Path, name: str, kind: str) -> None:
    hidden = {"0008,1155": {"Name": name, "Type": kind, "Value": None}}
    with pytest.raises(header.Broken, match="nobody can look into its"):
        list(Names(str(tmp_path)).replacements({"0008,1140": element("X", [hidden])}, ""))
    # What is private goes.
    assert not list(Names(str(tmp_path)).replacements({"0009,1155": hidden["0008,1155"]}, ""))


def test_those_without_an_identifier_are_not_one_patient(tmp_path: pathlib.Path) -> None:
    names = Names(str(tmp_path))
    first, second = (names.header(header.Header(study=study), "") for study in ("1.2", "1.3"))
    assert first.patient != second.patient
    assert first.patient == names.header(header.Header(study="1.2", series="1.9", instance="1.9.1"), "").patient
    padded, plain = (names.header(header.Header(patient=one, study="1.2"), "") for one in (" 0815", "0815"))
    assert padded == plain
    assert names.header(header.Header(patient="患者", study="1.2", exact=False), "").exact

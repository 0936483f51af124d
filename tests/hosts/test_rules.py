"""The rules that come with the role, on both releases: what becomes of images as they come, and where they go then.

Studies are sent on while the destination is away and Orthanc is killed, again and again.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import http.server
import io
import json
import pathlib
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pydicom
import pytest
import requests
import yaml
from pydicom.data import get_testdata_file
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, MRImageStorage  # type: ignore[attr-defined]

from tests.hosts.conftest import QUICKSTART, Lab
from tests.unit.good_host import pair

pytestmark = pytest.mark.later
LAB = {"name": "rules", "pacs": "trixie-installed", "old": "bookworm-installed"}
STUDIES, LATE = 200, 20
FIND = b'{"Level": "Instance", "Query": {"PatientID": "PACS-VERIFICATION*"}}'
PEER_PORT, HOOK_PORT, TOKEN = 11180, 11143, "Not-for-others.1"
TRIALS = "journalctl --unit pacs-orthanc-trial --output cat --quiet | grep -c ^Started; true"
SETTINGS: dict[str, Any] = {
    "orthanc_plugins": ["dicomweb", "python"],
    "orthanc_settings": {"StableAge": 3, "JobsHistorySize": 1},
    "verification_level": "probe",
}
ROUTES = [
    {"to": "verifier", "when": {"Modality": "CT", "InstitutionName": ["JFK*", ""]}},
    {"to": "mirror", "when": {"StudyDescription": "*Sch\u00e4del*"}},
]


INGEST = [
    {"unless": {"Modality": ["CT", "MR"]}, "refuse": True},
    {
        "when": {"InstitutionName": "Old name"},
        "set": {"InstitutionName": "Klinik S\u00fcd"},
        "remove": ["PatientComments"],
    },
    {"when": {"InstitutionName": "Wrong name"}, "set": {"InstitutionName": "\u0416"}},
]


def image(host: str, study: int, number: int, file: str = "CT_small.dcm", **tags: str) -> tuple[str, bytes]:
    """Return the UID of an image, and its content."""
    dataset = pydicom.dcmread(str(get_testdata_file(file)))
    root = f"2.25.{7 + len(host)}{study:04}"
    dataset.PatientID, dataset.StudyInstanceUID = f"ROUTES-{study}", root
    dataset.SeriesInstanceUID = f"{root}.{ord(file[0])}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"{root}.7.{number}")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return dataset.SOPInstanceUID, buffer.getvalue()


class Destination:
    """A modality on this machine, which is there when it listens."""

    def __init__(self, title: str, address: str, port: int) -> None:
        self._title, self._place = title, (address, port)
        self.received: set[str] = set()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        entity = AE(ae_title=self._title)
        entity.add_supported_context(CTImageStorage)
        entity.add_supported_context(MRImageStorage)
        server = entity.start_server(self._place, block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        assert server
        try:
            yield
        finally:
            server.shutdown()

    def _store(self, event: evt.Event) -> int:
        self.received.add(str(event.file_meta.MediaStorageSOPInstanceUID))
        return 0


class Peer(http.server.BaseHTTPRequestHandler):
    """An Orthanc that takes all that comes."""

    received: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.add(str(pydicom.dcmread(io.BytesIO(body), stop_before_pixels=True).SOPInstanceUID))
        answer = json.dumps({"ID": "x", "Status": "Success"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_given: Any) -> None:
        pass


class Hook(Peer):
    """A server that is told of studies."""

    told: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            self.told.add(body["StudyInstanceUID"])
        self.send_response(204)
        self.end_headers()


@contextlib.contextmanager
def serving(address: str, port: int, handler: type[Peer], *certificate: pathlib.Path) -> Iterator[None]:
    """Serve on this machine; over TLS with a certificate and its key."""
    server = http.server.ThreadingHTTPServer((address, port), handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate[0], certificate[1])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class Site:
    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory, self.report = lab, folder / "inventory", folder / "report"
        self.inventory.mkdir()
        for file in (QUICKSTART / "group_vars").rglob("*.yml"):
            copy = self.inventory / "group_vars" / file.relative_to(QUICKSTART / "group_vars")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
        both = {"hosts": dict.fromkeys(lab.address)}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump({"orthanc": both, "nginx": both}), encoding="utf-8")
        self.machine: dict[str, Any] = lab.modalities["verifier"]
        self.hook = f"https://{self.machine['Host']}:{HOOK_PORT}/told"
        self.certificate = (folder / "hook.crt", folder / "hook.key")
        for file, text in zip(self.certificate, pair((self.machine["Host"],)), strict=True):
            file.write_text(text, encoding="utf-8")

    def play(
        self,
        playbook: str = "site",
        *routes: dict[str, Any],
        arguments: tuple[str, ...] = (),
        check: bool = True,
        **more: Any,
    ) -> str:
        peers = {"mirror": {"Url": f"http://{self.machine['Host']}:{PEER_PORT}/"}}
        given = SETTINGS | {"orthanc_peers": peers, "orthanc_routes": list(routes)} | more
        if routes:
            given["orthanc_ingest"] = INGEST
            given["orthanc_webhooks"] = [{"url": self.hook, "token": TOKEN, "when": {"Modality": "CT"}}]
            given["orthanc_https_ca"] = self.certificate[0].read_text(encoding="utf-8")
        return self.lab.play(playbook, given, arguments, self.inventory, check).stdout

    def ask(self, host: str, method: str, path: str, data: bytes | None = None) -> requests.Response | None:
        """Ask an Orthanc, which may have been killed; nothing where it does not answer well."""
        with contextlib.suppress(requests.RequestException):
            answer = self.sessions[host].request(method, self.lab.url(path, host), data=data, timeout=60)
            return answer if answer.ok else None
        return None

    def store(self, host: str, images: list[bytes]) -> None:
        def send(content: bytes) -> None:
            wait(lambda: self.ask(host, "POST", "/instances", content))

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(send, images))

    def waiting(self, host: str) -> dict[str, Any]:
        told: dict[str, Any] = wait(lambda: self.ask(host, "GET", "/pacs/routes")).json()
        return told

    def kill(self, host: str) -> None:
        pid = "$(systemctl show orthanc --property MainPID --value)"
        self.lab.shell(f"kill -9 {pid}", host)

    @property
    def sessions(self) -> dict[str, requests.Session]:
        if not hasattr(self, "_sessions"):
            self._sessions = {host: self.lab.session(host) for host in self.lab.address}
        return self._sessions


def wait(look: Callable[[], Any], seconds: float = 300) -> Any:
    """Wait until there is something, and return it."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("routes"))
    made.play()
    return made


def test_routes_are_tried_and_stay(site: Site) -> None:
    tried = {host: int(site.lab.shell(TRIALS, host)) for host in site.lab.address}
    # A library that the run brings is not there for a dry run.
    site.play("site", *ROUTES, arguments=("--check",))
    site.play("site", *ROUTES)
    assert {host: int(site.lab.shell(TRIALS, host)) for host in site.lab.address} == {
        host: number + 1 for host, number in tried.items()
    }
    for host in site.lab.address:
        told = site.waiting(host)
        assert (told["Problem"], sorted(told["Destinations"])) == ("", [site.hook, "mirror", "verifier"])
        files = site.lab.shell(
            "grep -l Not-for-others /etc/pacs/orthanc/*; journalctl | grep -c Not-for-others; true", host
        )
        assert files.split() == ["/etc/pacs/orthanc/credentials.json", "0"]
    assert re.findall(r" changed=(\d+) ", site.play("site", *ROUTES)) == ["0", "0"]


@pytest.mark.parametrize("host", ["pacs", "old"])
def test_images_are_changed_as_they_come(site: Site, host: str) -> None:
    for number, (institution, wanted) in enumerate(
        (
            ("Old name", ("Klinik S\u00fcd", None)),
            ("Wrong name", ("Wrong name", "none")),
            ("Right name", ("Right name", "none")),
        )
    ):
        _uid, content = image(
            host, 4000, number, SpecificCharacterSet="ISO_IR 100", InstitutionName=institution, PatientComments="none"
        )
        stored = wait(functools.partial(site.ask, host, "POST", "/instances", content)).json()
        path = f"/instances/{stored['ID']}"
        file = wait(functools.partial(site.ask, host, "GET", f"{path}/file")).content
        now, was = (pydicom.dcmread(io.BytesIO(one)) for one in (file, content))
        assert (now.InstitutionName, now.get("PatientComments")) == wanted
        assert now.PixelData == was.PixelData
        assert site.ask(host, "DELETE", path)
    assert "stays as it is: ValueError" in site.lab.shell("journalctl -u orthanc --output cat", host)


@pytest.mark.parametrize("host", ["pacs", "old"])
def test_refused_images_stay_with_their_sender(site: Site, host: str) -> None:
    """Whichever way they come, nobody is told that they were stored."""
    uid, content = image(host, 5000, 0, Modality="OT")
    assert site.sessions[host].post(site.lab.url("/instances", host), data=content, timeout=60).status_code == 400
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--"
    answer = site.sessions[host].post(
        site.lab.url("/dicom-web/studies", host),
        data=body,
        headers={"Content-Type": kind, "Accept": "application/dicom+json"},
        timeout=60,
    )
    # Debian 12's plugin names it among neither.
    assert not answer.ok or not answer.json().get("00081199", {}).get("Value"), answer.text
    entity = AE(ae_title=site.machine["AET"])
    entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate(site.lab.address[host], 4242, ae_title="ORTHANC")
    assert association.is_established
    assert association.send_c_store(pydicom.dcmread(io.BytesIO(content))).Status == 0x0124
    _uid, taken = image(host, 5000, 1)
    assert association.send_c_store(pydicom.dcmread(io.BytesIO(taken))).Status == 0
    association.release()
    found = wait(lambda: site.ask(host, "POST", "/tools/lookup", uid.encode())).json()
    assert found == []
    log = site.lab.shell("journalctl -u orthanc --output cat", host)
    assert f"orthanc_ingest: image {uid}, which came by DICOM, is refused" in log
    assert f"orthanc_ingest: image {uid}, which came by HTTP, is refused" in log


@pytest.mark.parametrize("host", ["pacs", "old"])
def test_every_study_arrives(site: Site, host: str) -> None:
    """The destination is away while 200 studies come, and Orthanc is killed on the way in and on the way out."""
    machine = site.machine
    destination = Destination(machine["AET"], machine["Host"], machine["Port"])
    studies = [[image(host, study, number) for number in range(2)] for study in range(STUDIES)]
    others = [
        image(host, 1000 + number, 0, "MR_small.dcm", StudyDescription="Sch\u00e4del nativ") for number in range(5)
    ]
    foreign = [image(host, 2000 + number, 0, InstitutionName="Somewhere else") for number in range(5)]
    with (
        serving(machine["Host"], PEER_PORT, Peer),
        serving(machine["Host"], HOOK_PORT, Hook, *site.certificate),
    ):
        contents = [content for study in (*studies, others, foreign) for _uid, content in study]
        for part in range(3):
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                sending = pool.submit(site.store, host, contents[part::3])
                if part:
                    time.sleep(1)
                    site.kill(host)
                sending.result()
        wait(lambda: site.waiting(host)["Destinations"]["verifier"]["Studies"] == STUDIES)
        # A series of another modality goes with its study.
        late = [image(host, study, 9, "MR_small.dcm") for study in range(LATE)]
        site.store(host, [content for _uid, content in late])
        wait(lambda: site.waiting(host)["Destinations"]["verifier"]["Images"] == 2 * STUDIES + LATE)
        told = wait(lambda: [site.waiting(host)] * (site.waiting(host)["Destinations"]["verifier"]["Failed"] > 2))[0]
        failed = [row for row in told["Waiting"] if row["Attempts"]]
        assert len(failed) > len(wait(lambda: site.ask(host, "GET", "/jobs")).json()), "more than Orthanc remembers"
        assert all(row["To"] == "verifier" and row["Error"] for row in failed), failed
        wait(lambda: {uid for uid, _content in others} <= Peer.received)
        site.kill(host)
        wait(lambda: site.ask(host, "GET", "/system"))
        with destination.listening():
            assert wait(lambda: site.ask(host, "POST", "/pacs/routes"))
            wait(lambda: len(destination.received) > 50)
            site.kill(host)
            wait(lambda: not site.waiting(host)["Waiting"], 600)
        assert destination.received == {uid for study in (*studies, late) for uid, _content in study}
        assert Hook.told >= {pydicom.dcmread(io.BytesIO(study[0][1])).StudyInstanceUID for study in studies}
        assert not Peer.received & {uid for study in (*studies, foreign) for uid, _content in study}


def test_verification_proves_what_is_refused(site: Site) -> None:
    """Its own images are none that a rule is for, but for those that it sends for that."""
    command = [
        "{{ ansible_playbook_python }}",
        "-m",
        "pytest",
        "-rA",
        "-k",
        "test_ingest or scripts",
    ]
    command += ["--config-file={{ __verification_suite }}/pytest.ini", "--sites={{ __verification_folder.path }}"]
    asked: dict[str, Any] = {"verification_level": "conform", "verification_accepted_risks": ["routing"]}
    asked |= {"__verification_command": [*command, "{{ __verification_suite }}"]}
    said = site.play("verify", *ROUTES, arguments=("-v",), **asked)
    for check in ("images_become_what_the_entries_say", "modalities_are_told_what_is_refused"):
        passed = re.findall(rf"PASSED \S*test_ingest\.py::test_{check}\[(\w+)\]", said)
        assert {*passed} == {*site.lab.address}, said[-4000:]
    for host in site.lab.address:
        found = wait(functools.partial(site.ask, host, "POST", "/tools/find", FIND)).json()
        assert found == []


def test_verification_tells_what_waits(site: Site) -> None:
    _uid, content = image("pacs", 3000, 0)
    site.store("pacs", [content])
    wait(lambda: site.waiting("pacs")["Destinations"]["verifier"]["Failed"])
    said = site.play("verify", *ROUTES, check=False, verification_report_dir=str(site.report))
    # The peer is a stand-in that does not run now.
    assert re.findall(r"FAILED on [^:]*: ([^:]*):", " ".join(said.split())) == ["Peers answer"], said
    page = (site.report / "report.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr><th>Sent on to (\w+)</th><td>(.*?)</td></tr>", page)
    assert ("mirror", "nothing waits") in rows
    assert ("verifier", "1 study waits, 1 image, the first for 0.0 h; tried in vain so far") in rows
    assert ("verifier", "nothing waits") in rows
    # What somebody ends is not sent any more, and what is deleted is nobody's affair.
    for row in site.waiting("pacs")["Waiting"][:1]:
        dropped = json.dumps({"To": row["To"], "Study": row["Study"]}).encode()
        assert site.ask("pacs", "POST", "/pacs/routes/drop", dropped)
        assert not site.ask("pacs", "POST", "/pacs/routes/drop", dropped)
    (study,) = {row["Study"] for row in site.waiting("pacs")["Waiting"]}
    assert site.ask("pacs", "DELETE", f"/studies/{study}")
    assert wait(lambda: site.ask("pacs", "POST", "/pacs/routes"))
    wait(lambda: not site.waiting("pacs")["Waiting"])
    assert site.waiting("pacs")["Problem"] == ""


@pytest.mark.parametrize("host", ["pacs", "old"])
def test_it_ends_with_orthanc(site: Site, host: str) -> None:
    before = time.monotonic()
    site.lab.shell("systemctl stop orthanc", host)
    assert time.monotonic() - before < 60
    assert site.lab.shell("systemctl show orthanc --property Result --value", host).strip() == "success"
    assert "Traceback" not in site.lab.shell("journalctl -u orthanc --output cat", host)
    site.lab.shell("systemctl start orthanc", host)


def test_without_routes_nothing_is_left(site: Site) -> None:
    site.play()
    for host in site.lab.address:
        assert not site.lab.shell("ls /etc/pacs/orthanc | grep py$; true", host)

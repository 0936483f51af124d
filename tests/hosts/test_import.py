"""Existing images into a real Orthanc: through its proxy, by the playbook from both sides, and while it is killed."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import lzma
import os
import pathlib
import shlex
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pydicom
import pytest
import requests
import zstandard
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import header
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.hosts.certificates import pem
from tests.hosts.conftest import ENVIRONMENT, ROOT, Lab, run
from tests.unit.test_import_run import image
from tests.unit.test_import_sources import ENCRYPTED, put, tar, zipped

pytestmark = pytest.mark.later
LAB = {"name": "import", "pacs": "trixie-installed", "old": "bookworm-installed"}
FILES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
ORTHANCS = ("pacs", "old")
# A public element that came with no edition of DICOM yet: the identifier of a thing.
NEWER = (0x0008FFF0, "UI", "1.2.15.1.55")
# What all images of a study have in common.
SAME = ("StudyInstanceUID", "PatientID", "PatientName", "FrameOfReferenceUID", "DeviceUID")


def with_patient(number: int, study: str = "1.2.15", *, element: tuple[int, str, Any] = NEWER, **more: Any) -> bytes:
    """Make an image that tells who its patient is in many places, and that refers to the next one of twelve.

    :param element: one that no Orthanc knows.
    """

    def referred() -> Dataset:
        made = Dataset()
        made.ReferencedSOPClassUID = CTImageStorage
        made.ReferencedSOPInstanceUID = f"{study}.1.{number % 12 + 1}"
        return made

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if number % 2 else ImplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, f"{study}.1.{number}"
    made.StudyInstanceUID, made.SeriesInstanceUID = study, f"{study}.2.{number % 3}"
    made.PatientID, made.PatientName, made.PatientBirthDate = "Q4711", "Doe^Jane", "19700101"
    made.StudyDate, made.Modality, made.InstanceNumber = "20200229", "CT", number
    made.InstitutionName = "General Hospital"
    made.FrameOfReferenceUID, made.DeviceUID = f"{study}.77", "1.2.15.78"
    made.ReferencedImageSequence, made.SourceImageSequence = [referred()], [referred()]
    made.ReferencedStudySequence = [referred()]
    made.SOPInstanceUIDOfConcatenationSource = f"{study}.1.99"
    patient = Dataset()
    patient.PatientID, patient.PatientName = "4711", "Doe^Jane"
    made.GroupOfPatientsIdentificationSequence, made.OtherPatientIDsSequence = [patient], [patient]
    # Without types nobody can look into it.
    if number % 2 or element != NEWER:
        made.add_new(*element)
    block = made.private_block(0x0009, "DOE", create=True)
    block.add_new(1, "LO", "Q4711")
    made.Rows = made.Columns = 8
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation, made.SamplesPerPixel = 7, 0, 1
    made.PhotometricInterpretation, made.PixelData = "MONOCHROME2", bytes([number % 256] * 64)
    for name, value in more.items():
        setattr(made, name, value)
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


class Site:
    """Two Orthancs of two releases, each with its proxy."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.folder = lab, folder
        inventory = folder / "inventory"
        inventory.mkdir()
        (inventory / "group_vars").symlink_to(ROOT / "inventories" / "quickstart" / "group_vars")
        hosts = {"hosts": dict.fromkeys(ORTHANCS)}
        put(inventory, "hosts.yml", json.dumps({"orthanc": hosts, "nginx": hosts}).encode())
        self.inventory = inventory
        self.password = lab.secrets["vault_orthanc_admin_password"]
        self.authority = pem("authority")

    def deploy(self, *arguments: str, **more: Any) -> None:
        others = {host: {"AET": host.upper(), "Host": self.lab.address[host], "Port": 4242} for host in ORTHANCS}
        others["dcmtk"] = {"AET": "DCMTK", "Host": self.lab.address["old"], "Port": 11113}
        own = {
            "orthanc_aet": "{{ inventory_hostname | upper }}",
            "orthanc_modalities": {**self.lab.modalities, **others},
            "nginx_client_ca": self.authority[0],
            "nginx_client_names": ["importer"],
        }
        self.lab.play(variables=own | more, arguments=arguments, inventory=self.inventory)

    def play(self, host: str, variables: dict[str, Any], *arguments: str, check: bool = True) -> str:
        given = ("--limit", host, *arguments)
        done = self.lab.play("import", variables, given, inventory=self.inventory, check=check)
        assert self.password not in done.stdout
        assert check or done.returncode, "it passes"
        return " ".join(done.stdout.split())

    def certificate(self, host: str) -> pathlib.Path:
        certificate = self.folder / f"{host}.crt"
        used = "sed -n 's/.*ssl_certificate \\(.*\\);/\\1/p' /etc/nginx/conf.d/orthanc.conf | xargs cat"
        certificate.write_text(self.lab.shell(used, host), "utf-8")
        return certificate

    def start(self, host: str, report: str, *arguments: str | pathlib.Path) -> subprocess.Popen[str]:
        """Start the command; what is told twice is meant as it comes last."""
        certificate = self.certificate(host)
        given: tuple[str | pathlib.Path, ...] = (
            "--url",
            self.lab.url("/", host),
            "--user",
            "admin",
            "--ca",
            certificate,
        )
        # The old one does not tell that it does not recycle.
        given += ("--json", "--quiet", *(("--accept", "recycling") if host == "old" else ()))
        command = [sys.executable, ROOT / "tools" / "pacs-import", *given, "--report", self.folder / report, *arguments]
        secrets = {"PACS_IMPORT_PASSWORD": self.password, "PACS_IMPORT_FROM_PASSWORD": self.password}
        return subprocess.Popen(
            [str(part) for part in command],
            env=ENVIRONMENT | secrets,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, host: str, report: str, *arguments: str | pathlib.Path, code: int | None = 0) -> dict[str, Any]:
        process = self.start(host, report, *arguments)
        out, err = process.communicate(timeout=600)
        assert code in (process.returncode, None), out + err
        summary: dict[str, Any] = json.loads(out)
        return summary

    def rows(self, report: str) -> list[dict[str, str]]:
        with (self.folder / report / "files.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def client(self, name: str, authority: tuple[str, str]) -> tuple[pathlib.Path, pathlib.Path]:
        """Return the files of a client certificate and its key."""
        pair = pem(name, by=authority)
        return put(self.folder, f"{name}.crt", pair[0].encode()), put(self.folder, f"{name}.key", pair[1].encode())

    def copy(self, host: str, name: str, data: bytes) -> str:
        """Have a file in /srv of a host, which everybody may read, and return its path."""
        path = put(self.folder, name, data)
        path.chmod(0o644)
        run("docker", "cp", path, f"{self.lab.container(host)}:/srv/{path.name}")
        return f"/srv/{path.name}"

    def command(self, host: str) -> str:
        """Have the command on a host, and return its path."""
        self.lab.shell("mkdir -p /srv/pacs-import/tools /srv/pacs-import/plugins/module_utils", host)
        for path in ("tools/pacs-import", "plugins/module_utils/pacs_import"):
            run(
                "docker", "cp", ROOT / path, f"{self.lab.container(host)}:/srv/pacs-import/{pathlib.Path(path).parent}/"
            )
        return "/srv/pacs-import/tools/pacs-import"

    def script(self, host: str, arguments: str) -> bytes:
        """Return a script that runs the command on a host."""
        authority = self.copy(host, "site.crt", self.certificate(host).read_bytes())
        given = f"--url {self.lab.url('/', host)} --user admin --ca {authority} --accept recycling --quiet {arguments}"
        secret = f"export PACS_IMPORT_PASSWORD={shlex.quote(self.password)}"
        return f"#!/bin/sh\n{secret}\nexec python3 {self.command(host)} {given}".encode()

    def served(self, host: str, uid: str) -> list[bytes]:
        """Return the bytes of all images that have an identifier, as Orthanc serves them."""
        session = self.lab.session(host)
        found = session.post(self.lab.url("/tools/lookup", host), data=uid).json()
        return [session.get(self.lab.url(f"{one['Path']}/file", host)).content for one in found]

    def images(self, host: str) -> set[str]:
        found: list[str] = self.lab.session(host).get(self.lab.url("/instances", host)).json()
        return set(found)


# Ten uploads in a second, so that there is time to do something in the middle.
SLOWLY = "limit_req zone=slow burst=100;"
TWO = ("--full-speed", "--connections", "2")


class Front:
    """An nginx of the tests' own before the site's. What it does to uploads can be changed while it runs.

    At another port it shows a certificate of another name.
    """

    def __init__(self, site: Site) -> None:
        self.site, self.number = site, 0
        address = site.lab.address["pacs"]
        self.url, self.other = f"https://{address}:9443/", f"https://{address}:9444/"
        self.session = site.lab.session("pacs")
        own = site.lab.shell("grep ssl_certificate /etc/nginx/conf.d/orthanc.conf | sort -u", "pacs")
        certificate, key = pem("elsewhere.example.org")
        other = (site.copy("pacs", "other.crt", certificate.encode()), site.copy("pacs", "other.key", key.encode()))
        config = f"""
            worker_processes 1; pid /run/front.pid; error_log stderr; events {{}}
            http {{
                log_format short "$msec $request_method $uri $status"; access_log /srv/front.log short;
                client_max_body_size 0; limit_req_zone $server_port zone=slow:64k rate=10r/s;
                server {{
                    listen 9443 ssl; {own}
                    location = /instances {{ include /srv/upload.conf; proxy_pass https://127.0.0.1; }}
                    location = /number {{ include /srv/number.conf; }}
                    location / {{ proxy_pass https://127.0.0.1; }}
                }}
                server {{ listen 9444 ssl; ssl_certificate {other[0]}; ssl_certificate_key {other[1]}; }}
            }}"""
        site.copy("pacs", "front.conf", config.encode())
        self.does("", reload=False)
        self.start()

    def start(self) -> None:
        self.site.lab.shell(
            "systemctl stop front || true; systemd-run --unit=front nginx -c /srv/front.conf -g 'daemon off;'", "pacs"
        )
        self.wait(self._ready)

    def stop(self) -> None:
        self.site.lab.shell("systemctl stop front", "pacs")

    def does(self, directives: str = "", reload: bool = True) -> None:
        """From now on do that to each upload; nothing to let it pass."""
        self.number += 1
        self.site.copy("pacs", "upload.conf", directives.encode())
        self.site.copy("pacs", "number.conf", f"return 200 {self.number};".encode())
        if reload:
            self.site.lab.shell("nginx -c /srv/front.conf -s reload", "pacs")
            self.wait(self._ready)

    def uploads(self, status: int = 200) -> list[float]:
        """Return when an upload was answered so."""
        lines = self.site.lab.shell(f"grep 'POST /instances {status}' /srv/front.log || true", "pacs").splitlines()
        return [float(line.split()[0]) for line in lines]

    def forget(self) -> None:
        self.site.lab.shell(": > /srv/front.log", "pacs")

    def wait(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < until, "it does not come"
            time.sleep(0.05)

    def _ready(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return self.session.get(f"{self.url}number", headers={"Connection": "close"}).text == str(self.number)
        return False


@contextlib.contextmanager
def another_orthanc(site: Site, host: str, **options: Any) -> Iterator[str]:
    """Have one more Orthanc on a host, by options of the test's own and without a login, and return its URL."""
    own = {"StorageDirectory": "/srv/another", "IndexDirectory": "/srv/another", "HttpPort": 8099}
    closed = {"RemoteAccessAllowed": True, "AuthenticationEnabled": False, "DicomServerEnabled": False}
    file = site.copy(host, "another.json", json.dumps(own | closed | options).encode())
    url = f"http://{site.lab.address[host]}:8099/"
    site.lab.shell(f"rm -rf /srv/another; systemd-run --unit=another /usr/sbin/Orthanc {file}", host)
    try:
        site.lab.shell(
            "for i in $(seq 300); do curl -fs http://127.0.0.1:8099/system && exit; sleep 0.2; done; exit 1", host
        )
        yield url
    finally:
        site.lab.shell("systemctl stop another || systemctl reset-failed another", host)


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("import"))
    made.deploy()
    return made


@pytest.fixture(scope="module")
def front(site: Site) -> Front:
    return Front(site)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(600):
        put(folder, f"{number % 7}/IM{number}", image(number, study="1.2.9", series=str(1 + number % 7), size=20_000))
    return folder


@pytest.mark.parametrize("host", ORTHANCS)
def test_real_files(site: Site, host: str) -> None:
    """Each has a fate, and what is stored has the identifiers that were told beforehand, out of the file alone."""
    before = site.images(host)
    summary = site.run(host, f"real-{host}", "--full-speed", "--verify", FILES, code=1)
    assert summary["complete"]
    assert summary["verified"] == summary["files"]["stored"] + summary["files"].get("already there", 0)
    assert "not as sent" not in summary["files"]
    rows = site.rows(f"real-{host}")
    assert len(rows) == sum(path.is_file() for path in FILES.rglob("*")) + 1, "one of them is an archive"
    there = {row["file"]: row["instance"] for row in rows if row["fate"] in ("stored", "already there")}
    assert site.images(host) - before == set(there.values()) - before
    heads = {file: header.read(pathlib.Path(file).read_bytes()) for file in there if pathlib.Path(file).exists()}
    told = {file: head.orthanc_id(3) for file, head in heads.items() if head.complete}
    assert len(told) > 100
    assert told == {file: there[file] for file in told}
    # On another machine: by the identifiers alone nothing is sent again.
    again = site.run(host, f"real-again-{host}", "--full-speed", FILES, code=1)
    assert "stored" not in again["files"]
    fates = {row["file"]: row["fate"] for row in site.rows(f"real-again-{host}")}
    assert {file for file, fate in fates.items() if fate == "already there"} == set(there)


def test_orthanc_is_killed_meanwhile(site: Site, many: pathlib.Path) -> None:
    process = site.start("pacs", "killed", "--full-speed", "--verify", many)
    for _ in range(3):
        time.sleep(1.5)
        site.lab.kill("orthanc", "curl --silent --max-time 5 --output /dev/null http://127.0.0.1:8042/")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    summary = json.loads(out)
    assert summary["verified"] == 600
    assert summary["images"]["instances"] == 600


def test_command_is_killed(site: Site, many: pathlib.Path) -> None:
    process = site.start("old", "cut-off", "--full-speed", many)
    time.sleep(2)
    process.kill()
    process.communicate()
    summary = site.run("old", "cut-off", "--full-speed", "--verify", many)
    assert summary["verified"] == summary["images"]["instances"] == 600
    again = site.run("old", "cut-off", "--full-speed", many)
    assert again["files"] == {"already there": 600}


def test_who_may_not_enter(site: Site, many: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "password", "wrong")
    summary = site.run("pacs", "wrong", many, code=3)
    assert "refuses the login" in summary["ended"]
    other = put(site.folder, "other.crt", pem("other")[0].encode())
    summary = site.run("pacs", "untrusted", "--ca", other, many, code=3)
    assert "is not trusted" in summary["ended"]


def test_from_another_orthanc(site: Site, many: pathlib.Path) -> None:
    """What both have is not fetched; then they have the same."""
    site.run("old", "before", "--full-speed", many)
    given = ("--from-user", "admin", "--from-ca", site.certificate("old"), "--full-speed", "--verify")
    other = site.lab.url("/", "old")
    for _ in range(2):
        # Of files with the same identifiers each has kept the one that came first.
        summary = site.run("pacs", "from-old", *given, other, code=None)
        assert summary["complete"]
        assert set(summary["files"]) <= {"stored", "already there", "conflict"}
    assert "stored" not in summary["files"]
    assert site.images("old") <= site.images("pacs")


@pytest.mark.parametrize("host, other", [ORTHANCS, ORTHANCS[::-1]])
def test_by_dicomweb(site: Site, tmp_path: pathlib.Path, host: str, other: str) -> None:
    study, day = f"1.2.13.{ORTHANCS.index(host)}", f"1999022{ORTHANCS.index(host)}"
    images = [image(number, study=study, series=str(number % 3), date=day) for number in range(20)]
    site.run(other, f"before-web-{other}", put(tmp_path, "a.tar", tar({str(n): one for n, one in enumerate(images)})))
    given = ("--from-user", "admin", "--from-ca", site.certificate(other), "--full-speed", "--verify")
    web = site.lab.url("/dicom-web", other)
    for fate, report in (("stored", "web"), ("already there", "web"), ("already there", "web-elsewhere")):
        summary = site.run(host, f"{report}-{other}", *given, "--since", day, "--until", day, web)
        assert (summary["files"], summary["verified"]) == ({fate: 20}, 20)
    # All that it has; what is one image to DICOMweb and two to Orthanc, since two patients have it, it does not serve.
    studies = site.lab.session(other).get(site.lab.url("/studies?expand", other)).json()
    times = Counter(study["MainDicomTags"]["StudyInstanceUID"] for study in studies)
    summary = site.run(host, f"web-all-{other}", *given, web, code=None)
    assert summary["complete"]
    lost = [one["file"] for one in summary["wrong"] if one["fate"] != "conflict"]
    assert all(any(f"/studies/{one}/" in file for one in times if times[one] > 1) for file in lost), lost
    assert summary["images"]["studies"] >= len(times) - len([one for one in times if times[one] > 1])


@pytest.mark.parametrize("host, other", [ORTHANCS, ORTHANCS[::-1]])
def test_by_c_find_and_c_move(site: Site, tmp_path: pathlib.Path, host: str, other: str) -> None:
    images = [image(number, study=f"1.2.12.{ORTHANCS.index(host)}", series=str(number % 3)) for number in range(20)]
    site.run(other, f"before-move-{other}", put(tmp_path, "a.tar", tar({str(n): one for n, one in enumerate(images)})))
    ids = {header.read(one).orthanc_id(3) for one in images}
    assert not ids & site.images(host)
    given = ("--since", "20200201", "--until", "20200301", f"dicom:{other}")
    dry = site.run(host, f"moved-{other}", "--dry-run", *given)
    assert dry["files"]["to be stored"] >= 20
    assert not ids & site.images(host)
    done = site.run(host, f"moved-{other}", "--verify", *given)
    assert set(done["files"]) <= {"stored", "already there"}
    assert done["verified"] == done["images"]["instances"]
    assert ids <= site.images(host)
    assert set(site.run(host, f"moved-{other}", *given)["files"]) == {"already there"}


def test_from_an_archive_of_another_make(site: Site) -> None:
    """One of DCMTK, which counts nothing: what it has comes once, also a series of which it may not name all."""
    images = {f"IM{number}": image(number, study=f"1.2.20.{number // 120}", date="19990226") for number in range(125)}
    table = f"pacs = (PACS, {site.lab.address['pacs']}, 4242)"
    config = (
        "NetworkTCPPort = 11113\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\n{table}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        "AETable BEGIN\nDCMTK /srv/dcmtk RW (200, 1024mb) ANY\nAETable END\n"
    )
    for name, data in {"dcmqrscp.cfg": config.encode(), "dcmtk.tar": tar(images)}.items():
        run("docker", "cp", put(site.folder, name, data), f"{site.lab.container('old')}:/srv/{name}")
    site.lab.shell(
        "set -e; apt-get -q install -y dcmtk; mkdir -p /srv/dcmtk /srv/in; tar xf /srv/dcmtk.tar -C /srv/in;"
        " systemd-run --unit=dcmqrscp dcmqrscp -v -c /srv/dcmqrscp.cfg; sleep 1;"
        " storescu -aec DCMTK 127.0.0.1 11113 +sd /srv/in",
        "old",
    )
    given = ("--since", "19990226", "--until", "19990226", "dicom:dcmtk")
    done = site.run("pacs", "dcmtk", "--verify", *given)
    assert (done["files"], done["verified"]) == ({"stored": 125, "archive": 1}, 125)
    moved = "journalctl --unit=dcmqrscp | grep -ci move"
    before = site.lab.shell(moved, "old")
    again = site.run("pacs", "dcmtk", *given)
    assert again["files"] == {"already there": 125, "archive": 1}
    assert site.lab.shell(moved, "old") == before
    site.lab.shell("systemctl stop dcmqrscp", "old")
    assert "does not answer by C-FIND" in site.run("pacs", "dcmtk", *given, code=3)["ended"]


def test_modality_that_is_away(site: Site) -> None:
    given = ("--since", "20200201", "--until", "20200301")
    assert "does not answer by C-FIND" in site.run("pacs", "away", *given, "dicom:verifier", code=3)["ended"]
    assert "knows no modality nobody" in site.run("pacs", "away", *given, "dicom:nobody", code=3)["ended"]


@pytest.mark.parametrize("host", ORTHANCS)
def test_bad_input(site: Site, tmp_path: pathlib.Path, host: str) -> None:
    """Each file has its fate, what is good comes in, and nothing is written but the report."""
    good = [image(number, study="1.2.17") for number in range(8)]
    put(tmp_path, "truncated", good[7][:-60])
    put(tmp_path, "headless", good[7][:200])
    put(tmp_path, "corrupt", good[7][:160] + bytes(range(256)) + good[7][416:])
    put(tmp_path, "empty", b"")
    put(tmp_path, "text", b"No image.")
    put(tmp_path, "encrypted.zip", ENCRYPTED)
    put(tmp_path, "cut.tar.xz", lzma.compress(tar({"IM": good[0]}))[:-20])
    put(tmp_path, "ways/out.tar", tar({"../../escape": good[1], "/srv/escape": good[2]}))
    put(tmp_path, "in/zip.tar", tar({"inner.zip": zipped({"IM": good[3]})}))
    put(tmp_path, "two", image(9, patient="P2", study="1.2.17"))
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    with open(os.fsencode(tmp_path) + b"/\xe4\xff", "wb") as file:
        file.write(good[4])
    before = set(tmp_path.rglob("*"))
    summary = site.run(host, f"bad-{host}", "--full-speed", "--verify", tmp_path, code=1)
    assert summary["complete"]
    assert summary["studies_of_several_patients"] == [{"study": "1.2.17", "patients": ["P1", "P2"]}]
    fates = {row["file"].removeprefix(f"{tmp_path}/"): row["fate"] for row in site.rows(f"bad-{host}")}
    assert fates == {
        "truncated": "rejected",
        "headless": "rejected",
        "corrupt": "rejected",
        "empty": "no DICOM",
        "text": "no DICOM",
        "encrypted.zip": "archive",
        "encrypted.zip/IM": "rejected",
        "cut.tar.xz": "rejected",
        "cut.tar.xz/IM": "stored",
        "ways/out.tar": "archive",
        "ways/out.tar/../../escape": "stored",
        "ways/out.tar//srv/escape": "stored",
        "in/zip.tar": "archive",
        "in/zip.tar/inner.zip/IM": "stored",
        "two": "stored",
        "link": "left out",
        "pipe": "no DICOM",
        "\\xe4\\xff": "stored",
    }
    assert summary["verified"] == 6
    assert set(tmp_path.rglob("*")) == before
    assert not pathlib.Path("/srv/escape").exists()


@pytest.mark.parametrize("host", ORTHANCS)
def test_export_is_read_by_dcmtk(site: Site, tmp_path: pathlib.Path, host: str) -> None:
    site.run(host, f"medium-{host}", "--full-speed", FILES / "dicomdirtests")
    output = site.folder / f"medium-of-{host}"
    given = ("--url", site.lab.url("/", host), "--user", "admin", "--ca", site.folder / f"{host}.crt")
    program = ROOT / "tools" / "pacs-export"
    run(sys.executable, program, *given, "--patient", "77654033", output, env={"PACS_IMPORT_PASSWORD": site.password})
    site.lab.shell("apt-get -q install -y dcmtk", host)
    run("docker", "cp", output, f"{site.lab.container(host)}:/srv/medium")
    count = "dcmdump DICOMDIR | grep -c ReferencedFileID; ls IMAGES | wc -l"
    said = site.lab.shell(f"set -e; cd /srv/medium; dcmftest IMAGES/* > /dev/null; {count}", host)
    assert said.split() == ["7", "7"]
    # Of several, by patient and by study, as a folder and as a ZIP archive.
    site.run(host, f"exported-{host}", put(tmp_path, "IM", image(1, patient="P9", study="1.2.18")))
    for form, check in (("folder", ""), ("zip", "python3 -m zipfile -e /srv/{0} /srv/{0}.out; cd /srv/{0}.out;")):
        name = f"{form}-of-{host}"
        both = ("--form", form, "--patient", "77654033", "--study", "1.2.18")
        run(sys.executable, program, *given, *both, site.folder / name, env={"PACS_IMPORT_PASSWORD": site.password})
        run("docker", "cp", site.folder / name, f"{site.lab.container(host)}:/srv/{name}")
        check = check.format(name) or f"cd /srv/{name};"
        said = site.lab.shell(f"set -e; {check} find . -type f -exec dcmftest {{}} + | grep -c ^yes", host)
        assert said.strip() == "8"


def test_playbook_from_the_control_node(site: Site, tmp_path: pathlib.Path) -> None:
    members = {f"IM{number}": image(number, study="1.2.10") for number in range(20)}
    sources = [str(put(tmp_path, "a.tar.xz", lzma.compress(tar(members))))]
    given: dict[str, Any] = {"orthanc_import_sources": sources, "orthanc_import_report_dir": str(tmp_path / "report")}
    dry = site.play("pacs", given, "--check")
    assert "20 to be stored" in dry
    done = site.play("pacs", given | {"orthanc_import_verify": True})
    assert "20 stored" in done
    assert "20 are served as they were sent" in done
    again = site.play("pacs", given)
    assert "Nothing to import: the archive has every image already." in again
    assert "changed=0" in again


@pytest.mark.parametrize("host", ORTHANCS)
def test_playbook_on_the_host(site: Site, tmp_path: pathlib.Path, host: str) -> None:
    members = {f"IM{number}": image(number, study="1.2.11") for number in range(20)}
    packed = put(tmp_path, "a.tar.zst", zstandard.ZstdCompressor().compress(tar(members)))
    plain = put(tmp_path, "b.tar", tar(members))
    for path in (packed, plain):
        run("docker", "cp", path, f"{site.lab.container(host)}:/srv/{path.name}")

    def given(*sources: str) -> dict[str, Any]:
        return {"orthanc_import_from": "host", "orthanc_import_sources": list(sources)}

    refused = site.play(host, given("/srv/a.tar.zst"), check=False)
    assert "python3-zstandard" in refused
    done = site.play(host, given("/srv/b.tar"))
    assert "20 stored" in done
    # By the Python of the host, which the distribution has mended in its own way.
    site.lab.shell("sed 's/^IM7/IN7/; s/IM7\\x00/IN7\\x00/' /srv/b.tar > /srv/damaged.tar", host)
    assert "damaged or missing" in site.play(host, given("/srv/damaged.tar"), check=False)
    site.lab.shell("apt-get -q install -y python3-zstandard", host)
    again = site.play(host, given("/srv/a.tar.zst", "/srv/b.tar"))
    assert "Nothing to import" in again
    assert "changed=0" in again
    modes = site.lab.shell("stat -c '%a %U' /var/lib/pacs/import /var/lib/pacs/import/files.csv", host).split()
    assert modes == ["700", "root", "600", "root"]


def test_playbook_from_other_archives(site: Site) -> None:
    """From an Orthanc, and from what speaks DICOMweb, by a login of its own; the second run imports nothing."""
    images = [image(number, patient="0815", study="1.2.14", date="19990225") for number in range(20)]
    site.run("old", "before-play", put(site.folder, "play.tar", tar({str(n): one for n, one in enumerate(images)})))
    secret = site.lab.secrets["vault_orthanc_admin_password"]
    given = {
        "orthanc_import_source_user": "admin",
        "orthanc_import_source_password": secret,
        "orthanc_import_source_ca": site.certificate("old").read_text("utf-8"),
        "orthanc_import_since": "19990225",
        "orthanc_import_until": "19990225",
    }
    for name, path, more in (
        ("web", "/dicom-web", {}),
        ("orthanc", "/", {"orthanc_import_patients": {"0815": "HOSPITAL-0815"}}),
    ):
        report = {"orthanc_import_report_dir": str(site.folder / f"play-{name}")}
        every = given | report | more | {"orthanc_import_sources": [site.lab.url(path, "old")]}
        assert "20 stored" in site.play("pacs", every)
        again = site.play("pacs", every)
        assert "Nothing to import: the archive has every image already." in again
        assert "changed=0" in again
    found = site.lab.session("pacs").post(site.lab.url("/tools/lookup", "pacs"), data="1.2.14").json()
    patients = site.lab.session("pacs").get(site.lab.url("/patients?expand", "pacs")).json()
    ids = {one["MainDicomTags"]["PatientID"] for one in patients}
    assert len(found) == 2
    assert {"0815", "HOSPITAL-0815"} <= ids
    wrong = every | {"orthanc_import_source_password": "wrong"}
    assert "refuses the login" in site.play("pacs", wrong, check=False)


def test_certificate_instead_of_a_login(site: Site, tmp_path: pathlib.Path) -> None:
    """By the command, and by the playbook, whose login is a wrong one."""
    study = "1.2.58"
    for number in range(1, 4):
        put(tmp_path, f"a/IM{number}", with_patient(number, study=study))
        put(tmp_path, f"b/IM{number}", with_patient(number + 3, study=study))
    shown = {
        name: site.client(name, authority)
        for name, authority in (("importer", site.authority), ("stranger", site.authority), ("other", pem("other")))
    }
    for name, told in (("stranger", "refuses the login"), ("other", "400, ")):
        given = ("--user", "", "--certificate", shown[name][0], "--key", shown[name][1])
        assert told in site.run("pacs", f"as-{name}", *given, tmp_path / "a", code=3)["ended"]
    given = ("--user", "", "--certificate", shown["importer"][0], "--key", shown["importer"][1])
    assert site.run("pacs", "as-importer", *given, "--verify", tmp_path / "a")["verified"] == 3
    play = {
        "vault_orthanc_admin_password": "wrong-one",
        "orthanc_import_sources": [str(tmp_path / "b")],
        "orthanc_import_report_dir": str(site.folder / "play-certificate"),
    }
    refused = site.play("pacs", play, check=False)
    assert "refuses the login" in refused
    files = {
        f"orthanc_import_{kind}_file": str(path)
        for kind, path in zip(("certificate", "key"), shown["importer"], strict=True)
    }
    assert "3 stored" in site.play("pacs", play | files)
    again = site.play("pacs", play | files)
    assert "Nothing to import: the archive has every image already." in again
    assert "changed=0" in again
    assert count(site, study) == 6
    assert shown["importer"][1].read_text("utf-8").splitlines()[1] not in again


def test_playbook_wants_one_orthanc(site: Site) -> None:
    assert "name one by --limit" in site.play("all", {"orthanc_import_sources": ["/srv"]}, check=False)
    assert "orthanc_import_sources" in site.play("pacs", {}, check=False)


@pytest.mark.parametrize("host", ORTHANCS)
def test_patients_are_taken_out(site: Site, host: str) -> None:
    """No original comes in, what belongs together still does, and neither a second run nor another machine adds any."""
    originals = [with_patient(number) for number in range(1, 13)]
    burned = with_patient(13, BurnedInAnnotation="YES")
    report = with_patient(14, ContentSequence=[Dataset()])
    document = with_patient(15, EncapsulatedDocument=b"%PDF Doe")
    opaque = [with_patient(number, element=(0x0040FFF0, "UN", b"Doe ")) for number in (16, 17)]
    members = {f"IM{number}": one for number, one in enumerate([*originals, burned, report, document, *opaque])}
    run("docker", "cp", put(site.folder, "patients.tar", tar(members)), f"{site.lab.container(host)}:/srv/patients.tar")
    folder = "/var/lib/pacs/anonymous"

    def given(name: str) -> dict[str, Any]:
        return {
            "orthanc_import_from": "host",
            "orthanc_import_sources": ["/srv/patients.tar"],
            "orthanc_import_anonymize": True,
            "orthanc_import_verify": True,
            "orthanc_import_report_dir": f"{folder}{name}",
        }

    before = site.images(host)
    said = site.play(host, given(""), check=False)
    assert "12 stored" in said
    assert "2 left out" in said
    assert "its pixels show who the patient is" in said
    assert said.count("nobody can look into its (0040,fff0)") >= 2
    session = site.lab.session(host)
    new = site.images(host) - before
    assert len(new) == 12
    found = [
        pydicom.dcmread(io.BytesIO(session.get(site.lab.url(f"/instances/{one}/file", host)).content)) for one in new
    ]
    by_original = {int(one.InstanceNumber): one for one in found}
    assert sorted(by_original) == list(range(1, 13))
    for number, one in by_original.items():
        assert one.PatientIdentityRemoved == "YES"
        assert not one.StudyDate
        assert "InstitutionName" not in one
        assert "OtherPatientIDsSequence" not in one
        assert (0x0009, 0x1001) not in one
        assert one.PixelData == pydicom.dcmread(io.BytesIO(originals[number - 1])).PixelData
        # Each refers to the one after it, wherever that lies.
        other = by_original[number % 12 + 1]
        for inside in (one.ReferencedImageSequence[0], one.SourceImageSequence[0]):
            assert inside.ReferencedSOPInstanceUID == other.SOPInstanceUID
        assert one.ReferencedImageSequence[0].ReferencedSOPClassUID == CTImageStorage
    assert len({one.SeriesInstanceUID for one in found}) == 3
    assert {len({getattr(one, name) for one in found}) for name in SAME} == {1}
    for instance in new:
        data = session.get(site.lab.url(f"/instances/{instance}/file", host)).content
        assert not [word for word in (b"Doe", b"Q4711", b"1.2.15.", b"General") if word in data]
    again = site.play(host, given(""), check=False)
    assert "12 already there" in again
    assert "stored" not in again
    # Another machine has the key alone.
    key = f"install -d -m 700 {folder}2 && cp {folder}/anonymize.key {folder}2/"
    left = site.lab.shell(f"ls -A {folder}; stat -c %a {folder}; {key}; pgrep -c Orthanc", host).split()
    assert ".anonymizing" not in left
    assert left[-2:] == ["700", "1"]
    again = site.play(host, given("2"), check=False)
    assert "12 already there" in again
    assert site.images(host) - before == new


def test_anonymised_meanwhile_killed(site: Site) -> None:
    """Neither the import's Orthanc nor an original outlives it, and what is there is not brought again."""
    host = "pacs"
    images = {f"IM{number}": with_patient(number, study="1.2.16") for number in range(1, 1501)}
    source = site.copy(host, "cut.tar", tar(images))
    site.copy(host, "cut.sh", site.script(host, f"--report /var/lib/pacs/cut --full-speed --anonymize {source}"))
    before = site.images(host)
    started = "sh /srv/cut.sh & echo $! > /srv/cut.pid; wait"
    process = subprocess.Popen(["docker", "exec", site.lab.container(host), "sh", "-c", started])
    until = time.monotonic() + 60
    while len(site.images(host) - before) < 20 and time.monotonic() < until:
        time.sleep(0.1)
    left = site.lab.shell("pgrep -c Orthanc; kill -9 $(cat /srv/cut.pid); sleep 0.5; pgrep -c Orthanc", host)
    process.wait(timeout=60)
    assert left.split() == ["2", "1"]
    assert ".anonymizing" in site.lab.shell("ls -A /var/lib/pacs/cut", host)
    some = site.images(host) - before
    assert 0 < len(some) < 1500
    said = site.lab.shell("sh /srv/cut.sh", host)
    assert "already there" in said
    assert "1,500 images in 3 series, 1 studies, of 1 patients" in said
    assert len(site.images(host) - before) == 1500
    assert some <= site.images(host)
    assert ".anonymizing" not in site.lab.shell("ls -A /var/lib/pacs/cut", host)


@pytest.mark.parametrize("host", ORTHANCS)
def test_other_bytes_under_the_same_identifiers(site: Site, tmp_path: pathlib.Path, host: str) -> None:
    """The archive keeps what it has, byte for byte, and each file that it does not have is told, at each run."""
    study = f"1.2.40.{ORTHANCS.index(host)}"
    there, other, twin, differs = (
        with_patient(number, study=study, PatientSex=sex) for number in (1, 2) for sex in ("F", "M")
    )
    site.lab.session(host).post(site.lab.url("/instances", host), data=there).raise_for_status()
    files = {"a/same": there, "b/other": other, "c/twin": twin, "d/differs": differs, "e/again": twin}
    for name, data in files.items():
        put(tmp_path, name, data)
    before = site.images(host)
    for report, fate in (
        ("conflict", "stored"),
        ("conflict", "already there"),
        ("conflict-elsewhere", "already there"),
    ):
        summary = site.run(host, f"{report}-{host}", "--verify", tmp_path, code=1)
        assert (summary["complete"], summary["verified"]) == (True, 3)
        rows = {row["file"].removeprefix(f"{tmp_path}/"): row for row in site.rows(f"{report}-{host}")}
        fates = {name: row["fate"] for name, row in rows.items()}
        assert fates == {
            "a/same": "already there",
            "b/other": "conflict",
            "c/twin": fate,
            "d/differs": "conflict",
            "e/again": "already there",
        }
        assert summary["files"] == Counter(fates.values())
        assert summary["bytes"]["conflict"] == len(other) + len(differs)
        assert {one["file"] for one in summary["wrong"]} == {f"{tmp_path}/b/other", f"{tmp_path}/d/differs"}
        assert {one["fate"] for one in summary["wrong"]} == {"conflict"}
        for name in ("b/other", "d/differs"):
            assert (rows[name]["md5"], rows[name]["bytes"]) == (
                hashlib.md5(files[name]).hexdigest(),
                str(len(files[name])),
            )
            assert (rows[name]["StudyInstanceUID"], rows[name]["PatientID"]) == (study, "Q4711")
        assert site.served(host, f"{study}.1.1") == [there]
        assert site.served(host, f"{study}.1.2") == [twin]
    assert len(site.images(host) - before) == 1


@pytest.mark.parametrize("host", ORTHANCS)
def test_archive_that_overwrites(site: Site, tmp_path: pathlib.Path, host: str) -> None:
    """What it has stays, also of a patient whose identifier it reads in its own way."""
    patients: dict[str, dict[str, Any]] = {
        "plain": {},
        "latin": {"SpecificCharacterSet": "ISO_IR 100", "PatientID": "Müller"},
    }
    with another_orthanc(site, host, OverwriteInstances=True) as url:
        session = requests.Session()
        session.trust_env = False
        paths = {}
        for name, more in patients.items():
            first = with_patient(1, study=f"1.2.42.{len(name)}", **more)
            paths[name] = session.post(f"{url}instances", data=first).json()["Path"], first
            put(tmp_path, name, with_patient(1, study=f"1.2.42.{len(name)}", PatientSex="F", **more))
        given = ("--url", url, "--user", "", "--accept", "recycling")
        summary = site.run(host, f"overwrites-{host}", *given, tmp_path, code=1)
        assert summary["files"] == {"conflict": 2}
        for path, first in paths.values():
            assert session.get(f"{url}{path.removeprefix('/')}/file").content == first


def deflated(head: bytes, megabytes: int) -> bytes:
    """Deflate zeros behind a beginning, without going through all of them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    part = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + part * megabytes + packer.flush()


def bomb(head: bytes, megabytes: int, number: int = 1) -> bytes:
    """Make a zip of files that are far larger than it."""
    packed, size = deflated(head, megabytes), len(head) + (megabytes << 20)
    files, directory = b"", b""
    for one in range(number):
        name = b"IM%d" % one
        both = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, len(packed), size, len(name), 0)
        directory += b"PK\1\2" + struct.pack("<H", 20) + both + struct.pack("<HHHII", 0, 0, 0, 0, len(files)) + name
        files += b"PK\3\4" + both + name + packed
    end = struct.pack("<HHHHIIH", 0, 0, number, number, len(directory), len(files), 0)
    return files + directory + b"PK\5\6" + end


def test_bad_input_of_one_who_may_little(site: Site) -> None:
    """In a sandbox, where it can write to its report alone, have little memory, and make no large file."""
    host, study = "pacs", "1.2.43"
    good = [with_patient(number, study=study) for number in range(1, 9)]
    inner = zipped({"IM": good[0]})
    for number in range(6):
        inner = zipped({f"{number}.zip": inner})
    low = bomb(good[1], 20, number=8)
    links = io.BytesIO()
    with tarfile.open(fileobj=links, mode="w") as archive:
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../../etc/passwd")):
            info = tarfile.TarInfo(f"link{kind.decode()}")
            info.type, info.linkname = kind, target
            archive.addfile(info)
    files = {
        "truncated": good[2][:-30],
        "corrupt": good[2][:200] + bytes(range(256)) + good[2][456:],
        "empty": b"",
        "umlaut-\udce4\udcff": good[3],
        "closed/IM": good[2],
        "closed-file": good[2],
        "huge.zip": bomb(good[1], 4000),
        "deep.zip": inner,
        "layers.zip": zipped({f"{a}.zip": zipped({f"{b}.zip": low for b in range(8)}) for a in range(8)}),
        "out.zip": zipped({"../../../../srv/little/escape": good[4], "/tmp/escape": good[5], "..\\escape": b"x"}),
        "links.tar": links.getvalue(),
        "nested.zip": zipped({"a.zip": zipped({"b.zip": zipped({"IM": good[6]})})}),
        "secret": good[7],
    }
    site.copy(host, "little.tar", tar(files))
    site.lab.shell(
        "set -e; apt-get -q install -y zip dcmtk; id little || useradd --system little; rm -rf /srv/little;"
        " mkdir -p /srv/little/in; cd /srv/little/in; tar xf /srv/little.tar; zip -q -P secret secret.zip secret;"
        " rm secret; mkfifo pipe; chown -R little: /srv/little; chown root: closed closed-file;"
        " chmod 0 closed closed-file; install -d -m 700 -o little /srv/little/report",
        host,
    )
    authority = site.copy(host, "site.crt", site.certificate(host).read_bytes())
    # Only who runs it has this one.
    site.copy(host, "little.password", site.password.encode())
    site.lab.shell("chown little /srv/little.password; chmod 400 /srv/little.password", host)
    closed = (
        "User=little ProtectSystem=strict ReadWritePaths=/srv/little/report InaccessiblePaths=/tmp"
        " InaccessiblePaths=/var/tmp LimitAS=700M LimitFSIZE=32M NoNewPrivileges=true"
    )
    given = (
        f"--url {site.lab.url('/', host)} --user admin --ca {authority} --password-file /srv/little.password --quiet"
        " --verify --full-speed --connections 2 --spool-size 16 --report /srv/little/report"
    )
    limits = " ".join(f"-p {one}" for one in closed.split())
    program = f"systemd-run --pipe --wait --collect --quiet {limits} python3 {site.command(host)} {given}"
    said = site.lab.shell(f"{program} /srv/little/in; echo code $?", host)
    assert said.endswith("code 1\n"), said
    summary = json.loads(site.lab.shell("cat /srv/little/report/summary.json", host))
    assert summary["complete"], said
    lines = csv.DictReader(io.StringIO(site.lab.shell("cat /srv/little/report/files.csv", host)))
    rows = {row["file"].removeprefix("/srv/little/in/"): (row["fate"], row["reason"]) for row in lines}
    layers = [rows.pop(name) for name in list(rows) if name.startswith("layers.zip/")]
    assert {fate for fate, _ in layers} == {"rejected"}
    assert 200 < len(layers) < 300
    spool = " or more of a spool of 16 MB"
    told = {
        "truncated": ("rejected", "400, "),
        "corrupt": ("rejected", "400, "),
        "empty": ("no DICOM", "it is empty"),
        "umlaut-\\xe4\\xff": ("stored", ""),
        "closed": ("unreadable", "Permission denied"),
        "closed-file": ("unreadable", "Permission denied"),
        "huge.zip": ("archive", ""),
        "huge.zip/IM0": ("rejected", spool),
        "deep.zip": ("archive", ""),
        "deep.zip/5.zip/4.zip/3.zip/2.zip": ("rejected", "archives lie in one another without end"),
        "layers.zip": ("rejected", "more than 4,096 MB come out of it"),
        "out.zip": ("archive", ""),
        "out.zip/../../../../srv/little/escape": ("stored", ""),
        "out.zip//tmp/escape": ("stored", ""),
        "out.zip/..\\escape": ("no DICOM", ""),
        "links.tar": ("archive", ""),
        "links.tar/link2": ("left out", "a link in an archive"),
        "links.tar/link1": ("left out", "a link in an archive"),
        "nested.zip": ("archive", ""),
        "nested.zip/a.zip/b.zip/IM": ("stored", ""),
        "secret.zip": ("archive", ""),
        "secret.zip/secret": ("rejected", "it is encrypted"),
        "pipe": ("no DICOM", "no file, but a pipe, a socket or a device"),
    }
    assert {name: fate for name, (fate, _) in rows.items()} == {name: fate for name, (fate, _) in told.items()}
    assert not [name for name, (_, reason) in told.items() if reason not in rows[name][1]], rows
    assert all(reason.isprintable() for _, reason in rows.values())
    assert summary["verified"] == 4
    for number in (4, 5, 6, 7):
        assert site.served(host, f"{study}.1.{number}") == [good[number - 1]]
    for number in (1, 2, 3, 8):
        assert site.served(host, f"{study}.1.{number}") == []
    assert not site.lab.shell("find / -xdev -name '*escape' -newer /srv/little.tar", host)
    assert site.lab.shell("ls -A /srv/little /srv/little/report", host).split() == [
        *("/srv/little:", "in", "report", "/srv/little/report:"),
        *("files.csv", "journal.sqlite", "summary.json"),
    ]


def test_archive_that_recycles(site: Site, tmp_path: pathlib.Path) -> None:
    """It keeps the patients that it has, unless that is wanted otherwise."""
    for number in range(4):
        put(tmp_path, f"IM{number}", with_patient(1, study=f"1.2.44.{number}", PatientID=f"R{number}"))
    new = ("--url", f"http://{site.lab.address['pacs']}:8099/", "--user", "", tmp_path)
    session = requests.Session()
    session.trust_env = False

    def patients(url: str) -> set[str]:
        found = session.get(f"{url}patients?expand").json()
        return {one["MainDicomTags"]["PatientID"] for one in found}

    with another_orthanc(site, "pacs", MaximumPatientCount=3) as url:
        for number in (8, 9):
            old = with_patient(1, study=f"1.2.44.{number}", PatientID=f"R{number}")
            session.post(f"{url}instances", data=old).raise_for_status()
        full = site.run("pacs", "recycles", *new, code=3)
        assert "MaximumPatientCount is reached" in full["ended"]
        assert full["files"]["stored"] == 1
        assert {"R8", "R9"} < patients(url)
        assert len(patients(url)) == 3
        assert site.run("pacs", "recycles", *new, "--accept", "recycling")["files"]["stored"] == 3
        assert patients(url) != {"R8", "R9"} | patients(url)
    with another_orthanc(site, "pacs", MaximumStorageSize=1) as url:
        put(tmp_path, "large", image(1, study="1.2.44.5", size=2_000_000))
        full = site.run("pacs", "recycles-bytes", *new, code=3)
        assert "MaximumStorageSize is 1" in full["ended"]
        assert "stored" not in full["files"]
        assert not patients(url)
    with another_orthanc(site, "pacs", MaximumStorageSize=1, MaximumStorageMode="Reject") as url:
        kept = site.run("pacs", "rejects", *new, code=3)
        assert "no room left" in kept["ended"]
    # An old release does not tell its limits.
    with another_orthanc(site, "old", MaximumPatientCount=1) as url:
        unknown = site.run("pacs", "recycles-old", "--url", url, "--user", "", tmp_path, code=3)
        assert "does not tell whether it removes the oldest patients" in unknown["ended"]
        assert not patients(url)


def test_archive_that_routes(site: Site, tmp_path: pathlib.Path) -> None:
    put(tmp_path, "IM", with_patient(1, study="1.2.45"))
    script = (
        b"import orthanc\ndef changed(kind, level, resource):\n    pass\northanc.RegisterOnChangeCallback(changed)\n"
    )
    site.lab.shell("apt-get -q install -y orthanc-python", "pacs")
    path = site.copy("pacs", "route.py", script)
    plugins = "/usr/share/orthanc/plugins/libOrthancPython.so"
    with another_orthanc(site, "pacs", Plugins=[plugins], PythonScript=path) as url:
        given = ("--url", url, "--user", "", tmp_path)
        refused = site.run("pacs", "routes-there", *given, code=3)
        assert "the plugin python may send the images on" in refused["ended"]
        assert "stored" not in refused["files"]
        assert site.run("pacs", "routes-there", *given, "--accept", "routing")["files"] == {"stored": 1}


def test_site_that_routes_is_not_begun(site: Site, many: pathlib.Path) -> None:
    given = {"orthanc_import_sources": [str(many)], "orthanc_import_report_dir": str(site.folder / "routes")}
    routes = {"orthanc_settings": {"LuaScripts": ["/etc/route.lua"]}}
    said = site.play("pacs", given | routes, check=False)
    assert "LuaScripts may send the images on; accept routing" in said


def test_archive_that_takes_no_more(site: Site, many: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Through a proxy that wants certificates and takes no large files: what is left over comes once there is room."""
    certificate, key = site.client("importer", site.authority)
    shown = ("--certificate", certificate, "--key", key)
    statistics = site.lab.session("pacs").get(site.lab.url("/statistics", "pacs")).json()
    limits = {"MaximumStorageMode": "Reject", "MaximumStorageSize": 5 + int(statistics["TotalDiskSizeMB"])}
    entry = {"nginx_client_certificate": "required"}
    narrow = {"nginx_server_directives": {"client_max_body_size": "1m"}}
    site.deploy("--limit", "pacs", orthanc_settings=limits, **entry, **narrow)
    try:
        report = "full"
        for number in range(600):
            put(tmp_path, f"IM{number}", image(number, study="1.2.19", size=20_000))
        large = put(tmp_path, "0large", image(1000, study="1.2.19", size=2_000_000))
        without = site.run("pacs", report, tmp_path, code=3)
        assert "No required SSL certificate was sent" in without["ended"]
        refused = site.run("pacs", f"{report}-413", *shown, large, code=1)
        assert refused["wrong"][0]["reason"].startswith("413, it is larger than")
        large.unlink()
        full = site.run("pacs", report, "--full-speed", *shown, tmp_path, code=3)
        assert "no room left" in full["ended"]
        assert 100 < full["files"]["stored"] < 300
    finally:
        site.deploy("--limit", "pacs")
    done = site.run("pacs", report, "--full-speed", "--verify", tmp_path)
    assert done["files"] == {"already there": full["files"]["stored"], "stored": 600 - full["files"]["stored"]}
    assert done["verified"] == 600


def images_of(folder: pathlib.Path, study: str, number: int) -> pathlib.Path:
    for one in range(number):
        put(folder, f"{study}/IM{one}", image(one, study=study, size=20_000))
    return folder / study


def count(site: Site, study: str, host: str = "pacs") -> int:
    """Return how many images of a study Orthanc has."""
    session = site.lab.session(host)
    found = session.post(site.lab.url("/tools/lookup", host), data=study).json()
    said = [session.get(site.lab.url(f"{one['Path']}/statistics", host)).json() for one in found]
    return sum(int(one["CountInstances"]) for one in said)


@pytest.mark.parametrize(
    "status, told",
    [(507, "the archive has no room left: 507"), (401, "refuses the login"), (403, "may not do this")],
)
def test_archive_that_refuses_in_the_middle(
    site: Site, front: Front, tmp_path: pathlib.Path, status: int, told: str
) -> None:
    """The import ends and says why; the next one brings what is left, and nothing twice."""
    study, report = f"1.2.46.{status}", f"refuses-{status}"
    folder = images_of(tmp_path, study, 120)
    front.does(SLOWLY)
    front.forget()
    process = site.start("pacs", report, "--url", front.url, *TWO, folder)
    front.wait(lambda: len(front.uploads()) > 20)
    front.does(f"return {status};")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, out + err
    ended = json.loads(out)
    stored = len(front.uploads())
    assert told in ended["ended"]
    assert ended["files"]["stored"] == count(site, study) == stored < 120
    assert 1 <= len(front.uploads(status)) <= 2
    front.does()
    done = site.run("pacs", report, "--url", front.url, "--verify", folder)
    assert done["files"] == {"already there": stored, "stored": 120 - stored}
    assert (done["verified"], count(site, study), len(front.uploads())) == (120, 120, 120)


def test_archive_that_has_too_much_to_do(site: Site, front: Front, tmp_path: pathlib.Path) -> None:
    """As long as it asks for, it is left alone; what it takes no more than so often comes all the same."""
    folder = images_of(tmp_path, "1.2.47.1", 25)
    front.does("add_header Retry-After 3 always; return 503;")
    front.forget()
    process = site.start("pacs", "busy", "--url", front.url, folder)
    front.wait(lambda: len(front.uploads(503)) > 2)
    front.does()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert json.loads(out)["files"] == {"stored": 25}
    tries = front.uploads(503)
    assert min(later - earlier for earlier, later in pairwise(tries)) > 2.9
    folder = images_of(tmp_path, "1.2.47.2", 25)
    front.does("limit_req zone=slow; limit_req_status 429;")
    front.forget()
    done = site.run("pacs", "often", "--url", front.url, "--full-speed", "--verify", folder)
    assert (done["files"], done["verified"], count(site, "1.2.47.2")) == ({"stored": 25}, 25, 25)
    assert front.uploads(429)
    assert len(front.uploads()) == 25


def test_image_that_is_too_large_for_a_proxy(site: Site, front: Front, tmp_path: pathlib.Path) -> None:
    """That one alone is not taken."""
    folder = images_of(tmp_path, "1.2.48", 10)
    put(folder, "IM3", image(3, study="1.2.48", size=200_000))
    put(folder, "IM4", image(4, study="1.2.48", size=20_000_000))
    front.does("client_max_body_size 100k;")
    done = site.run("pacs", "large", "--url", front.url, folder, code=1)
    assert done["files"] == {"rejected": 2, "stored": 8}
    assert {one["reason"] for one in done["wrong"]} == {"413, it is larger than the archive or its proxy lets through"}
    front.does()
    done = site.run("pacs", "large", "--url", front.url, "--verify", folder)
    assert (done["files"], done["verified"]) == ({"already there": 8, "stored": 2}, 10)


def test_archive_that_goes_away(site: Site, front: Front, tmp_path: pathlib.Path) -> None:
    """Orthanc, and then the proxy, are stopped in the middle; then the proxy, for longer than anybody waits."""
    folder = images_of(tmp_path, "1.2.49", 150)
    front.does(SLOWLY)
    front.forget()
    process = site.start("pacs", "away-for-a-while", "--url", front.url, *TWO, "--verify", folder)
    front.wait(lambda: len(front.uploads()) > 20)
    site.lab.shell("systemctl stop orthanc", "pacs")
    front.wait(lambda: bool(front.uploads(503)))
    site.lab.shell("systemctl start orthanc", "pacs")
    before = len(front.uploads())
    front.wait(lambda: len(front.uploads()) > before + 20)
    front.stop()
    front.start()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    done = json.loads(out)
    assert (done["files"], done["verified"], count(site, "1.2.49")) == ({"stored": 150}, 150, 150)
    folder = images_of(tmp_path, "1.2.50", 150)
    process = site.start("pacs", "stays-away", "--url", front.url, *TWO, "--patience", "2", folder)
    front.wait(lambda: count(site, "1.2.50") > 20)
    front.stop()
    out, err = process.communicate(timeout=120)
    front.start()
    assert process.returncode == 3, out + err
    ended = json.loads(out)
    assert "has answered nothing useful for 2 s" in ended["ended"]
    there = count(site, "1.2.50")
    # The last ones came without an answer.
    assert there - 2 <= ended["files"]["stored"] <= there
    assert 20 < there < 150
    front.does()
    done = site.run("pacs", "stays-away", "--url", front.url, "--verify", folder)
    assert (done["files"], done["verified"]) == ({"already there": there, "stored": 150 - there}, 150)


def test_certificate_of_another_name(site: Site, front: Front, tmp_path: pathlib.Path) -> None:
    put(tmp_path, "IM", with_patient(1, study="1.2.51"))
    given = ("--url", front.other, "--ca", site.folder / "other.crt")
    said = site.run("pacs", "another-name", *given, tmp_path, code=3)
    assert "its certificate is not trusted" in said["ended"]
    assert "is not valid for" in said["ended"]


def test_killed_and_resumed_elsewhere(site: Site, front: Front, tmp_path: pathlib.Path) -> None:
    """Without its journal, as on another machine, nothing is sent twice."""
    folder = images_of(tmp_path, "1.2.52", 120)
    front.does(SLOWLY)
    front.forget()
    process = site.start("pacs", "killed-here", "--url", front.url, *TWO, folder)
    front.wait(lambda: len(front.uploads()) > 20)
    process.kill()
    process.communicate()
    front.does()
    there, sent = count(site, "1.2.52"), len(front.uploads())
    assert 20 < there < 120
    done = site.run("pacs", "resumed-elsewhere", "--url", front.url, "--verify", folder)
    assert done["files"] == {"already there": there, "stored": 120 - there}
    assert (done["verified"], len(front.uploads()) - sent) == (120, 120 - there)
    # Where it was killed, all of it is there by now.
    assert site.run("pacs", "killed-here", "--url", front.url, folder)["files"] == {"already there": 120}
    assert len(front.uploads()) - sent == 120 - there


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_file_that_changes_while_it_is_sent(site: Site, front: Front, tmp_path: pathlib.Path, change: str) -> None:
    """It is open already, and waits for the archive: neither counts as stored, nor is it lost in silence."""
    study = f"1.2.53.{len(change)}"
    file = put(tmp_path, "IM", image(1, study=study, size=20_000_000))
    front.does("add_header Retry-After 1 always; return 503;")
    front.forget()
    process = site.start("pacs", f"changes-{change}", "--url", front.url, tmp_path)
    front.wait(lambda: bool(front.uploads(503)))
    opened = {os.path.realpath(one) for one in pathlib.Path(f"/proc/{process.pid}/fd").iterdir()}
    assert str(file) in opened
    with file.open("r+b") as written:
        written.seek(0, os.SEEK_END)
        if change == "longer":
            written.write(b"more")
        else:
            written.truncate(10_000_000)
    front.does()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    (row,) = site.rows(f"changes-{change}")
    if change == "longer":
        assert (row["fate"], row["reason"]) == ("not as sent", "somebody wrote to it while it was sent")
    else:
        assert (row["fate"], row["reason"]) == ("unreadable", "it became shorter while it was read")
        assert count(site, study) == 0


@pytest.mark.parametrize("host", ORTHANCS)
def test_rules_on_the_way_in(site: Site, tmp_path: pathlib.Path, host: str) -> None:
    """Only what is wanted comes in, and of what gets another PatientID nothing else is changed."""
    study = f"1.2.54.{ORTHANCS.index(host)}"
    wanted = {"CT", "MR"}
    days = ("20191231", "20200101", "20201231", "20210101")
    files = {
        f"{modality}-{day}": with_patient(
            1, study=f"{study}.{number}", Modality=modality, StudyDate=day, PatientID=f"P{number % 3}"
        )
        for number, (modality, day) in enumerate((one, day) for one in ("CT", "MR", "US") for day in days)
    }
    for name, data in files.items():
        put(tmp_path, f"in/{name}", data)
    mapping = put(tmp_path, "patients.csv", b"P1,NEW-1\nP2,A longer one\n")
    given = ("--modality", "ct", "--modality", "MR", "--since", "20200101", "--until", "20201231")
    before = site.images(host)
    report = f"rules-{host}"
    done = site.run(host, report, *given, "--patients", mapping, "--verify", tmp_path / "in")
    assert (done["files"], done["verified"]) == ({"left out": 8, "stored": 4}, 4)
    rows = {pathlib.Path(row["file"]).name: row for row in site.rows(report)}
    assert rows["US-20200101"]["reason"] == "its modality is US"
    assert rows["CT-20210101"]["reason"] == "its study is of 20210101"
    assert {row["instance"] for row in rows.values() if row["fate"] == "stored"} == site.images(host) - before
    for name, row in rows.items():
        modality, day = name.split("-")
        assert (row["fate"] == "stored") == (modality in wanted and day in days[1:3])
        if row["fate"] != "stored":
            continue
        original = pydicom.dcmread(io.BytesIO(files[name]))
        (served,) = site.served(host, str(original.SOPInstanceUID))
        came = pydicom.dcmread(io.BytesIO(served))
        old = str(original.PatientID)
        assert came.PatientID == row["PatientID"] == {"P1": "NEW-1", "P2": "A longer one"}.get(old, old)
        came.PatientID = old
        assert came == original
        assert came.file_meta == original.file_meta


@pytest.mark.parametrize("host", ORTHANCS)
def test_study_of_several_patients(site: Site, tmp_path: pathlib.Path, host: str) -> None:
    """Both are in the input, or one of them was in the archive before."""
    first, second = (f"1.2.55.{ORTHANCS.index(host)}.{number}" for number in (1, 2))
    for number, patient in enumerate(("ONE", "TWO")):
        put(tmp_path, f"a{number}", with_patient(number, study=first, PatientID=patient))
    there = with_patient(1, study=second, PatientID="THERE")
    site.lab.session(host).post(site.lab.url("/instances", host), data=there).raise_for_status()
    put(tmp_path, "b", with_patient(2, study=second, PatientID="NEW"))
    expected = [{"study": first, "patients": ["ONE", "TWO"]}, {"study": second, "patients": ["NEW", "THERE"]}]
    for arguments in (["--dry-run"], [], []):
        done = site.run(host, f"several-{host}", *arguments, tmp_path)
        assert done["studies_of_several_patients"] == expected


@pytest.mark.parametrize("host", ORTHANCS)
def test_image_that_ends_the_orthanc_that_anonymises(site: Site, host: str) -> None:
    """Its own script kills it there. That image has its fate, none of the others is lost, and no original is left."""
    folder, study = "/var/lib/pacs/crashes", f"1.2.56.{ORTHANCS.index(host)}"
    files = {f"IM{number}": with_patient(number, study=study) for number in range(1, 41)}
    for number in (7, 8, 31):
        files[f"IM{number}"] = with_patient(number, study=study, PatientComments="crash")
    lua = (
        b"function ReceivedInstanceFilter(image, origin)\n"
        b"if image.PatientComments == 'crash' then os.execute('kill -SEGV $PPID; sleep 60') end\nreturn true\nend\n"
    )
    script = site.copy(host, "crash.lua", lua)
    program = (
        "#!/usr/bin/python3\nimport json, os, sys\n"
        f"options = json.load(open(sys.argv[1])) | {{'LuaScripts': [{script!r}]}}\n"
        "with open(sys.argv[1], 'w') as file:\n    json.dump(options, file)\n"
        "os.execv('/usr/sbin/Orthanc', ['Orthanc', sys.argv[1]])\n"
    )
    orthanc = site.copy(host, "crashing-orthanc", program.encode())
    source = site.copy(host, "crashes.tar", tar(files))
    given = f"--anonymize --report {folder} --full-speed --verify {source}"
    site.copy(host, "crash.sh", site.script(host, f"--orthanc {orthanc} {given}"))
    before = site.images(host)
    said = site.lab.shell(f"rm -rf {folder}; chmod 755 {orthanc}; sh /srv/crash.sh; echo code $?", host)
    assert said.endswith("code 1\n"), said
    assert "37 stored" in said
    assert "3 rejected" in said
    assert "37 are served as they were sent" in said
    for number in (7, 8, 31):
        assert f"rejected: /srv/crashes.tar/IM{number}: it cannot be anonymised: Orthanc ends whenever" in said
    assert len(site.images(host) - before) == 37
    assert ".anonymizing" not in site.lab.shell(f"ls -A {folder}; pgrep -a Orthanc", host)
    # By one that does not end there, the rest comes in.
    site.copy(host, "crash.sh", site.script(host, given))
    said = site.lab.shell("sh /srv/crash.sh; echo code $?", host)
    assert said.endswith("code 0\n"), said
    assert "3 stored" in said
    assert "37 already there" in said


def test_anonymised_by_an_orthanc_in_docker(site: Site, tmp_path: pathlib.Path) -> None:
    """It ends with the import, also with one that is killed."""
    study, report = "1.2.59", site.folder / "in-docker"
    for number in range(1, 301):
        put(tmp_path, f"IM{number}", with_patient(number, study=study))
    given = ("--anonymize", "--orthanc", "docker:pacs-lab:trixie-installed", "--full-speed", tmp_path)
    before = site.images("pacs")

    def running() -> str:
        filters = f"volume={report}/.anonymizing"
        return run("docker", "ps", "--all", "--quiet", "--filter", filters).stdout

    def volumes() -> set[str]:
        """Return those of the container, which have parts of the originals."""
        shown = ("docker", "inspect", "--format", "{{range .Mounts}}{{println .Name}}{{end}}", *running().split())
        return set(run(*shown).stdout.split())

    process = site.start("pacs", report.name, *given)
    until = time.monotonic() + 120
    while len(site.images("pacs") - before) < 5 and time.monotonic() < until:
        time.sleep(0.1)
    assert len(running().split()) == 1
    left = volumes()
    assert left
    process.kill()
    process.communicate()
    there = site.images("pacs") - before
    assert 5 <= len(there) < 300
    while running() and time.monotonic() < until:
        time.sleep(0.1)
    assert not running()
    process = site.start("pacs", report.name, *given, "--verify")
    while not running() and process.poll() is None:
        time.sleep(0.1)
    left |= volumes()
    assert len(left) == 2
    done = json.loads(process.communicate(timeout=600)[0])
    assert done["files"]["already there"] + done["files"]["stored"] == done["verified"] == 300
    assert not running()
    assert not left & set(run("docker", "volume", "ls", "--quiet").stdout.split())
    assert there < site.images("pacs") - before
    assert len(site.images("pacs") - before) == 300
    assert not site.served("pacs", study)
    assert ".anonymizing" not in os.listdir(report)
    missing = (*given[:2], "docker:pacs-lab:nowhere", tmp_path)
    assert "docker: " in site.run("pacs", "in-docker-nowhere", *missing, code=3)["ended"]


def test_dry_run_tells_what_would_come(site: Site, tmp_path: pathlib.Path) -> None:
    """Documents are images to an archive; without their patient nothing would be left of them."""
    study = "1.2.57"
    files = {
        "IM1": with_patient(1, study=study),
        "IM2": with_patient(2, study=study),
        "PDF": with_patient(3, study=study, EncapsulatedDocument=b"%PDF Doe"),
        "SR": with_patient(4, study=study, ContentSequence=[Dataset()]),
        "burned": with_patient(5, study=study, BurnedInAnnotation="YES"),
    }
    for name, data in files.items():
        put(tmp_path, name, data)
    before = site.images("pacs")
    assert site.run("pacs", "dry", "--dry-run", tmp_path)["files"] == {"to be stored": 5}
    dry = site.run("pacs", "dry-anonymous", "--dry-run", "--anonymize", tmp_path, code=1)
    fates = {pathlib.Path(row["file"]).name: row["fate"] for row in site.rows("dry-anonymous")}
    assert dry["files"] == Counter(fates.values())
    assert fates == {
        "IM1": "to be stored",
        "IM2": "to be stored",
        "PDF": "left out",
        "SR": "left out",
        "burned": "rejected",
    }
    assert site.images("pacs") == before
    source = site.copy("pacs", "dry.tar", tar(files))
    site.copy("pacs", "dry.sh", site.script("pacs", f"--anonymize --report /var/lib/pacs/dry {source}"))
    said = site.lab.shell("sh /srv/dry.sh || true", "pacs")
    assert "2 stored" in said
    assert "2 left out" in said
    assert "1 rejected" in said
    assert site.run("pacs", "dry", tmp_path)["files"] == {"stored": 5}

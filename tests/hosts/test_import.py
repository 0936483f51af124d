"""Existing images into a real Orthanc: through its proxy, by the playbook from both sides, and while it is killed."""

from __future__ import annotations

import csv
import io
import json
import lzma
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pydicom
import pytest
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

    def deploy(self, *arguments: str, **more: Any) -> None:
        others = {host: {"AET": host.upper(), "Host": self.lab.address[host], "Port": 4242} for host in ORTHANCS}
        others["dcmtk"] = {"AET": "DCMTK", "Host": self.lab.address["old"], "Port": 11113}
        own = {
            "orthanc_aet": "{{ inventory_hostname | upper }}",
            "orthanc_modalities": {**self.lab.modalities, **others},
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
        certificate = self.certificate(host)
        given = ("--url", self.lab.url("/", host), "--user", "admin", "--ca", certificate, "--json", "--quiet")
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

    def images(self, host: str) -> set[str]:
        found: list[str] = self.lab.session(host).get(self.lab.url("/instances", host)).json()
        return set(found)


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("import"))
    made.deploy()
    return made


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
    site.lab.shell("mkdir -p /srv/pacs-import/tools /srv/pacs-import/plugins/module_utils", host)
    for path in ("tools/pacs-import", "plugins/module_utils/pacs_import"):
        run("docker", "cp", ROOT / path, f"{site.lab.container(host)}:/srv/pacs-import/{path}")
    run("docker", "cp", put(site.folder, "cut.tar", tar(images)), f"{site.lab.container(host)}:/srv/cut.tar")
    run("docker", "cp", site.certificate(host), f"{site.lab.container(host)}:/srv/site.crt")
    given = f"--url {site.lab.url('/', host)} --user admin --ca /srv/site.crt --full-speed --anonymize --quiet"
    script = (
        f"#!/bin/sh\nexport PACS_IMPORT_PASSWORD={shlex.quote(site.password)}\n"
        f"exec python3 /srv/pacs-import/tools/pacs-import {given} --report /var/lib/pacs/cut /srv/cut.tar"
    )
    run("docker", "cp", put(site.folder, "cut.sh", script.encode()), f"{site.lab.container(host)}:/srv/cut.sh")
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


def test_site_that_routes_is_not_begun(site: Site, many: pathlib.Path) -> None:
    given = {"orthanc_import_sources": [str(many)], "orthanc_import_report_dir": str(site.folder / "routes")}
    routes = {"orthanc_settings": {"LuaScripts": ["/etc/route.lua"]}}
    said = site.play("pacs", given | routes, check=False)
    assert "LuaScripts may send the images on; accept routing" in said


def test_archive_that_takes_no_more(site: Site, many: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Through a proxy that wants certificates and takes no large files: what is left over comes once there is room."""
    authority = pem("authority")
    certificate, key = pem("importer", by=authority)
    shown = (
        "--certificate",
        put(site.folder, "i.crt", certificate.encode()),
        "--key",
        put(site.folder, "i.key", key.encode()),
    )
    statistics = site.lab.session("pacs").get(site.lab.url("/statistics", "pacs")).json()
    limits = {"MaximumStorageMode": "Reject", "MaximumStorageSize": 5 + int(statistics["TotalDiskSizeMB"])}
    entry = {"nginx_client_ca": authority[0], "nginx_client_certificate": "required"}
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

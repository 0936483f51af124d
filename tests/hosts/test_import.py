"""Existing images into a real Orthanc: through its proxy, by the playbook from both sides, and while it is killed."""

from __future__ import annotations

import csv
import json
import lzma
import pathlib
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pydicom
import pytest
import zstandard
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import header

from tests.hosts.certificates import pem
from tests.hosts.conftest import ENVIRONMENT, ROOT, Lab, run
from tests.unit.test_import_run import image
from tests.unit.test_import_sources import put, tar

pytestmark = pytest.mark.later
LAB = {"name": "import", "pacs": "trixie-installed", "old": "bookworm-installed"}
FILES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
ORTHANCS = ("pacs", "old")


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
    names = {"orthanc_aet": "{{ inventory_hostname | upper }}"}
    others = {host: {"AET": host.upper(), "Host": lab.address[host], "Port": 4242} for host in ORTHANCS}
    lab.play(variables=names | {"orthanc_modalities": {**lab.modalities, **others}}, inventory=made.inventory)
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
    # All that it has; what is one image to DICOMweb and two to Orthanc, since two patients have it there, is not served.
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


def test_modality_that_is_away(site: Site) -> None:
    given = ("--since", "20200201", "--until", "20200301")
    assert "does not answer by C-FIND" in site.run("pacs", "away", *given, "dicom:verifier", code=3)["ended"]
    assert "knows no modality nobody" in site.run("pacs", "away", *given, "dicom:nobody", code=3)["ended"]


@pytest.mark.parametrize("host", ORTHANCS)
def test_export_is_read_by_dcmtk(site: Site, host: str) -> None:
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


def test_playbook_wants_one_orthanc(site: Site) -> None:
    assert "name one by --limit" in site.play("all", {"orthanc_import_sources": ["/srv"]}, check=False)
    assert "orthanc_import_sources" in site.play("pacs", {}, check=False)


def test_site_that_routes_is_not_begun(site: Site, many: pathlib.Path) -> None:
    given = {"orthanc_import_sources": [str(many)], "orthanc_import_report_dir": str(site.folder / "routes")}
    routes = {"orthanc_settings": {"LuaScripts": ["/etc/route.lua"]}}
    said = site.play("pacs", given | routes, check=False)
    assert "LuaScripts may send the images on; accept routing" in said

"""The programs of docs/clients, each against a deployed site of either release, through its proxy."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import zipfile
from typing import Any

import pydicom
import pydicom.data
import pytest
import requests
import yaml

from tests.hosts.conftest import QUICKSTART, ROOT, Lab, run

pytestmark = pytest.mark.later
LAB = {"name": "clients", "pacs": "trixie-installed", "other": "bookworm-installed"}
TITLES = {"pacs": "PACS", "other": "OTHER"}
CT, MR = (pathlib.Path(str(pydicom.data.get_testdata_file(name))) for name in ("CT_small.dcm", "MR_small.dcm"))


class Site:
    """One of two Orthancs that know each other."""

    def __init__(self, lab: Lab, host: str) -> None:
        self.lab, self.host = lab, host
        self.session = lab.session(host)
        self.certificate = self.session.verify

    def run(self, program: str, *arguments: str, good: bool = True, **environment: str) -> str:
        """Run a program as the documentation has it, and return what it printed."""
        password = self.lab.secrets["vault_orthanc_admin_password"]
        given = {"PACS_URL": self.lab.url("/", self.host), "PACS_USER": "admin", "PACS_PASSWORD": password}
        given |= {"PACS_CA": str(self.certificate)} | environment
        done = run(sys.executable, f"{program}.py", *arguments, cwd=ROOT / "docs/clients", env=given, check=good)
        assert good or done.returncode == 1, done.stdout
        assert "Traceback" not in done.stdout, done.stdout
        assert password not in done.stdout
        return done.stdout.strip()

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        return self.session.request(method, self.lab.url(path, self.host), timeout=60, **more)

    def has(self, *images: pathlib.Path) -> dict[str, str]:
        """Have these images and no others; return the study of each by its patient."""
        for study in self.ask("GET", "/studies").json():
            self.ask("DELETE", f"/studies/{study}")
        found = {}
        for image in images:
            answer = self.ask("POST", "/instances", data=image.read_bytes()).json()
            found[str(pydicom.dcmread(image).PatientID)] = answer["ParentStudy"]
        return found

    def study(self, number: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/studies/{number}").json()
        return found


@pytest.fixture(scope="module")
def sites(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Site]:
    folder = tmp_path_factory.mktemp("clients")
    both = {"hosts": dict.fromkeys(LAB.keys() - {"name"})}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"orthanc": both, "nginx": both}), encoding="utf-8")
    (folder / "group_vars").symlink_to(QUICKSTART / "group_vars")
    known = {
        name: {"AET": title, "Host": lab.address[name], "Port": 4242} for name, title in TITLES.items()
    } | lab.modalities
    title = f"{{{{ {TITLES}[inventory_hostname] }}}}"
    lab.play(variables={"orthanc_aet": title, "orthanc_modalities": known}, inventory=folder)
    return {name: Site(lab, name) for name in TITLES}


@pytest.fixture(params=TITLES)
def site(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Site:
    return sites[request.param]


def test_list(site: Site) -> None:
    known = site.has(CT, MR)
    lines = [line.split("\t") for line in site.run("list").splitlines()]
    assert {line[1]: line[0] for line in lines} == known
    assert ["CompressedSamples^CT1", "20040119", "e+1"] in [line[2:] for line in lines]


def test_list_goes_on_with_the_next_page(site: Site) -> None:
    known = site.has(CT, MR)
    program = ROOT / "docs/clients/list.py"
    script = program.read_text(encoding="utf-8").replace("PAGE = 100", "PAGE = 1")
    small = program.with_name("small-pages.py")
    small.write_text(script, encoding="utf-8")
    try:
        lines = site.run("small-pages").splitlines()
    finally:
        small.unlink()
    assert sorted(line.partition("\t")[0] for line in lines) == sorted(known.values())


def test_find(site: Site) -> None:
    known = site.has(CT, MR)
    uid = str(pydicom.dcmread(MR).StudyInstanceUID)
    asked = ("PatientName=Compressed*", "StudyDate=20040101-20041231", "ModalitiesInStudy=MR")
    assert site.run("find", *asked).split("\t") == [known["4MR1"], "4MR1", "MR", uid]
    assert site.run("find", "PatientID=nobody") == ""
    # Orthanc would find everything.
    assert "'PatientNam=x' is not like PatientID=4711" in site.run("find", "PatientNam=x", good=False)


def test_modify(site: Site) -> None:
    old = site.has(CT)["1CT1"]
    new = site.run("modify", old, "StudyDescription=Thorax = ok")
    assert site.study(new)["MainDicomTags"]["StudyDescription"] == "Thorax = ok"
    assert site.study(new)["PatientMainDicomTags"]["PatientID"] == "1CT1"
    assert site.study(old)["MainDicomTags"]["StudyDescription"] == "e+1"
    assert site.run("modify", "--instead", old, "AccessionNumber=4711")
    assert site.ask("GET", f"/studies/{old}").status_code == 404


def test_anonymize(site: Site) -> None:
    old = site.has(CT)["1CT1"]
    new = site.study(site.run("anonymize", old, "PatientID=T-7", "PatientName=T-7"))
    assert new["PatientMainDicomTags"]["PatientID"] == new["PatientMainDicomTags"]["PatientName"] == "T-7"
    (series,) = new["Series"]
    (instance,) = site.ask("GET", f"/series/{series}").json()["Instances"]
    told = site.ask("GET", f"/instances/{instance}/simplified-tags").text
    assert not [word for word in ("CompressedSamples", "1CT1", "JFK IMAGING") if word in told]
    assert site.study(old)["PatientMainDicomTags"]["PatientID"] == "1CT1"


def test_export(site: Site, tmp_path: pathlib.Path) -> None:
    study = site.has(CT, MR)["1CT1"]
    path = tmp_path / "study.zip"
    assert site.run("export", study, str(path)) == f"{path}\t1"
    with zipfile.ZipFile(path) as archive:
        (image,) = (archive.read(name) for name in archive.namelist() if name != "DICOMDIR")
    (tmp_path / "image.dcm").write_bytes(image)
    assert pydicom.dcmread(tmp_path / "image.dcm").PixelData == pydicom.dcmread(CT).PixelData
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert "404" in site.run("export", "nothing", str(path), good=False)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["image.dcm", "study.zip"]


def test_move(site: Site, sites: dict[str, Site]) -> None:
    other = next(one for one in sites.values() if one is not site)
    known = other.has(CT, MR)
    site.has()
    uid = str(pydicom.dcmread(CT).StudyInstanceUID)
    assert site.run("move", other.host, "PatientID=1CT1") == f"{uid}\te+1"
    assert site.ask("GET", "/studies").json() == [known["1CT1"]]
    assert site.run("move", other.host, "PatientID=nobody") == ""
    # And back, where it is asked for by title.
    other.has(MR)
    assert other.run("move", site.host, f"--to={TITLES[other.host]}", "PatientID=1CT1")
    assert set(other.ask("GET", "/studies").json()) == set(known.values())
    assert "verifier does not answer C-ECHO" in site.run("move", "verifier", "PatientID=1CT1", good=False)


def test_job_that_fails_is_no_success(site: Site) -> None:
    """The other archive has it, and nobody listens where it is to go."""
    other = next(name for name in TITLES if name != site.host)
    site.has(CT)
    there = Site(site.lab, other)
    there.has(CT)
    said = site.run("move", other, "--to=VERIFIER", "PatientID=1CT1", good=False)
    assert "has ended with Failure" in said


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"PACS_PASSWORD": "another one"}, "401"),
        ({"PACS_CA": ""}, "certificate verify failed"),
        ({"PACS_URL": "https://127.0.0.1:9/"}, "Connection refused"),
    ],
)
def test_site_that_refuses_is_told_in_a_line(sites: dict[str, Site], wrong: dict[str, str], said: str) -> None:
    told = sites["pacs"].run("list", good=False, **wrong)
    assert said in told


def test_what_is_not_set_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "list.py"],
        cwd=ROOT / "docs/clients",
        env={"PATH": "/usr/bin:/bin", "PACS_URL": "https://pacs.example.org/", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("set PACS_USER; ")

"""Images for research, on both releases: whichever way they come, nothing of the patient is on the host then."""

from __future__ import annotations

import io
import pathlib
import re
from typing import Any

import pydicom
import pytest
import requests
import yaml
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, SecondaryCaptureImageStorage  # type: ignore[attr-defined]

from tests.hosts.conftest import QUICKSTART, Lab
from tests.unit.test_deidentify import TRACES, flat, marks, traced

pytestmark = pytest.mark.later
LAB = {"name": "deidentify", "pacs": "trixie-installed", "old": "bookworm-installed"}
HOSTS = ["pacs", "old"]
SECRET = "Not-for-others:a-secret-of-many-letters"
RULES = [
    {"when": {"StudyDescription": "*TRIAL*"}},
    {"from": ["RESEARCH"], "dates": "shift", "keep": ["PatientSex", "StudyDescription"]},
]
TRIALS = "journalctl --unit pacs-orthanc-trial --output cat --quiet | grep -c ^Started; true"
# Elements that Orthanc's own anonymisation removes or changes, and this one does not.
EXCEPTIONS: dict[str, str] = {}


class Site:
    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory = lab, folder / "inventory"
        self.inventory.mkdir()
        (self.inventory / "group_vars").symlink_to(QUICKSTART / "group_vars")
        both = {"hosts": dict.fromkeys(lab.address)}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump({"orthanc": both, "nginx": both}), encoding="utf-8")
        self.machine: dict[str, Any] = lab.modalities["verifier"]
        self.sessions: dict[str, requests.Session] = {}

    def play(self, playbook: str = "site", *arguments: str, check: bool = True, **more: Any) -> str:
        research = {"AET": "RESEARCH", "Host": self.machine["Host"], "Port": self.machine["Port"]}
        given = {
            "orthanc_plugins": ["dicomweb", "python"],
            "orthanc_modalities": self.lab.modalities | {"research": research},
            "orthanc_deidentify": RULES,
            "orthanc_deidentify_secret": SECRET,
            "verification_level": "probe",
        }
        return self.lab.play(playbook, given | more, arguments, self.inventory, check).stdout

    def session(self, host: str) -> requests.Session:
        return self.sessions.setdefault(host, self.lab.session(host))

    def post(self, host: str, path: str, data: bytes | str, **headers: str) -> requests.Response:
        return self.session(host).post(self.lab.url(path, host), data=data, headers=headers, timeout=60)

    def get(self, host: str, path: str) -> requests.Response:
        return self.session(host).get(self.lab.url(path, host), timeout=60)

    def send(self, host: str, image: bytes, title: str) -> int:
        """Send an image by C-STORE, and return the status."""
        entity = AE(ae_title=title)
        for kind in (CTImageStorage, SecondaryCaptureImageStorage):
            entity.add_requested_context(kind, "1.2.840.10008.1.2.1")
        association = entity.associate(self.lab.address[host], 4242, ae_title="ORTHANC")
        assert association.is_established
        status = association.send_c_store(pydicom.dcmread(io.BytesIO(image))).Status
        association.release()
        return int(status)

    def there(self, host: str) -> dict[str, pydicom.Dataset]:
        """Return all images of a host by their resource."""
        found: dict[str, pydicom.Dataset] = {}
        for name in self.get(host, "/instances").json():
            content = self.get(host, f"/instances/{name}/file").content
            found[name] = pydicom.dcmread(io.BytesIO(content))
        return found

    def empty(self, host: str) -> None:
        for name in self.get(host, "/patients").json():
            assert self.session(host).delete(self.lab.url(f"/patients/{name}", host), timeout=60).ok


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("deidentify"))
    made.play(orthanc_deidentify=[], orthanc_deidentify_secret="")
    return made


def traces(site: Site, host: str) -> list[str]:
    """Search every byte that Orthanc has on the host: images, index, and what is beside it."""
    words = [mark.decode() for mark in marks() if b"Head" not in mark]
    patterns = "\n".join(words)
    site.lab.shell(f"cat > /root/marks <<'END'\n{patterns}\nEND", host)
    # What is deleted in the index stands there until it is written over, so Orthanc is asked to tidy up first.
    found = site.lab.shell("LC_ALL=C grep -r -a -o -h -F -f /root/marks /var/lib/orthanc; true", host)
    return sorted({line for line in found.splitlines() if line})


def test_it_is_tried_and_stays(site: Site) -> None:
    tried = {host: int(site.lab.shell(TRIALS, host)) for host in HOSTS}
    site.play("site", "--check")
    site.play()
    assert {host: int(site.lab.shell(TRIALS, host)) for host in HOSTS} == {host: tried[host] + 1 for host in HOSTS}
    assert re.findall(r" changed=(\d+) ", site.play()) == ["0", "0"]
    for host in HOSTS:
        files = site.lab.shell(
            "grep -l Not-for-others /etc/pacs/orthanc/*; journalctl | grep -c Not-for-others; true", host
        )
        assert files.split() == ["/etc/pacs/orthanc/credentials.json", "0"]
    assert ": as wanted." in " ".join(site.play("verify").split())


def test_a_wrong_one_changes_nothing(site: Site) -> None:
    before = site.lab.shell("sha256sum /etc/pacs/orthanc/*")
    for wrong, told in (
        ({"orthanc_deidentify_secret": "short"}, "orthanc_deidentify_secret"),
        ({"orthanc_deidentify": [{"from": ["RESAERCH"]}]}, "no entry of orthanc_modalities has the title 'RESAERCH'"),
        ({"orthanc_deidentify": [{"dates": "blur"}]}, "orthanc_deidentify"),
        ({"orthanc_deidentify": [{"keep": ["PatientName"]}]}, "orthanc_deidentify"),
        ({"orthanc_deidentify": [{"burned_in": "never"}]}, "orthanc_deidentify"),
    ):
        said = " ".join(site.play("site", check=False, **wrong).split())
        assert told in said
        assert " failed=1 " in said
    assert site.lab.shell("sha256sum /etc/pacs/orthanc/*") == before


@pytest.mark.parametrize("host", HOSTS)
def test_nothing_of_the_patient_is_on_the_host(site: Site, host: str) -> None:
    site.empty(host)
    images = [
        traced(SOPInstanceUID=f"1.2.276.0.7230010.3.1.3.{number}", StudyDescription=text, PatientSex="F")
        for number, text in enumerate(("TRIAL 7", "Knee", "A TRIAL", "TRIAL 8"))
    ]
    assert site.post(host, "/instances", images[0]).json()["Status"] == "Success"
    assert site.send(host, images[1], "RESEARCH") == 0xB000
    assert site.send(host, images[3], site.machine["AET"]) == 0
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + images[2] + b"\r\n--b--"
    answer = site.post(host, "/dicom-web/studies", body, **{"Content-Type": kind, "Accept": "application/dicom+json"})
    assert answer.ok, answer.text
    found = list(site.there(host).values())
    assert len(found) == 4
    assert {one.PatientIdentityRemoved for one in found} == {"YES"}
    # Those of one study are still of one study, and of one patient.
    for tag in ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({str(one[tag].value) for one in found}) == 1, tag
    assert len({one.SOPInstanceUID for one in found}) == 4
    assert traces(site, host) == []
    # It is what was sent by the modality that is known by its title alone.
    (moved,) = [one for one in found if one.get("PatientSex")]
    assert (moved.StudyDescription, moved.LongitudinalTemporalInformationModified) == ("Knee", "MODIFIED")


def test_pseudonyms_are_the_same_on_both_hosts(site: Site) -> None:
    found = [
        {(one.PatientID, one.StudyInstanceUID, one.SOPInstanceUID) for one in site.there(host).values()}
        for host in HOSTS
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 4


@pytest.mark.parametrize("host", HOSTS)
def test_what_cannot_be_done_is_not_stored(site: Site, host: str) -> None:
    site.empty(host)
    bad = traced(StudyDescription="TRIAL", BurnedInAnnotation="YES")
    assert site.post(host, "/instances", bad).status_code == 400
    status = site.send(host, bad, site.machine["AET"])
    assert status >= 0xA000, hex(status)
    assert site.send(host, bad, "RESEARCH") not in (0, 0xB000)
    assert site.send(host, traced(PatientID=""), "RESEARCH") == 0x0124
    captured = traced(SOPClassUID=UID("1.2.840.10008.5.1.4.1.1.7"))
    assert site.send(host, captured, "RESEARCH") == 0x0124
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + bad + b"\r\n--b--"
    answer = site.post(host, "/dicom-web/studies", body, **{"Content-Type": kind, "Accept": "application/dicom+json"})
    assert not answer.ok or not answer.json().get("00081199", {}).get("Value"), answer.text
    # By its keyword, what Orthanc would refuse itself, and tell in its log whose it is.
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        dataset = pydicom.dcmread(io.BytesIO(traced(StudyDescription="TRIAL")))
        delattr(dataset, keyword)
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        assert site.post(host, "/instances", buffer.getvalue()).status_code == 400
        if keyword != "SOPInstanceUID":
            for title in (site.machine["AET"], "RESEARCH"):
                assert site.send(host, buffer.getvalue(), title) not in (0, 0xB000)
    assert site.there(host) == {}
    assert traces(site, host) == []
    log = site.lab.shell("journalctl -u orthanc --output cat", host)
    assert "is refused: it says of itself that something is drawn into its pixels" in log
    assert "is refused: it has no PatientID" in log
    assert "is refused: it has not all UIDs that an image has" in log
    assert not [mark for mark in (TRACES["PatientID"], "Brankovich", TRACES["AccessionNumber"]) if mark in log]
    assert "Traceback" not in log


@pytest.mark.parametrize("host", HOSTS)
def test_others_stay_as_they_came(site: Site, host: str) -> None:
    site.empty(host)
    assert site.send(host, traced(StudyDescription="Head"), site.machine["AET"]) == 0
    ((name, stored),) = site.there(host).items()
    assert (stored.PatientID, stored.SOPInstanceUID) == (TRACES["PatientID"], TRACES["SOPInstanceUID"])
    assert traces(site, host), "traces would be found"
    # What Orthanc's own anonymisation takes out is taken out here, too.
    answer = site.post(host, f"/instances/{name}/anonymize", "{}")
    theirs, before = flat(pydicom.dcmread(io.BytesIO(answer.content))), flat(stored)
    site.empty(host)
    assert site.post(host, "/instances", traced(StudyDescription="TRIAL")).ok
    (research,) = site.there(host).values()
    ours = flat(research)
    left = {
        str(path[-1])
        for path, value in before.items()
        if value and theirs.get(path) != value and ours.get(path) == value
    }
    assert left == {*EXCEPTIONS}
    site.empty(host)


def test_without_it_nothing_is_left(site: Site) -> None:
    site.play(orthanc_deidentify=[], orthanc_deidentify_secret="")
    for host in HOSTS:
        assert not site.lab.shell(
            "ls /etc/pacs/orthanc | grep py$; grep -l Not-for-others /etc/pacs/orthanc/*; true", host
        )

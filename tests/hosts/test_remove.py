"""The other way: what site.yml has put on a host is taken off it. What was there before stays, and so do the images."""

from __future__ import annotations

import io

import pydicom.uid
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset

from tests.hosts.conftest import ROOT, Lab

LAB = {"name": "remove", "pacs": "trixie-installed"}
SINGLE = ROOT / "inventories" / "single"
SERVICE = {"remove": ["service of pacs"]}
# What a host has in the folders where the toolkit writes, and what belongs to it there.
LISTED = "find /etc /opt /var/lib/pacs /var/lib/orthanc /var/log/pacs ! -path '/etc/ssl/*' | sort"
# What a host keeps with Orthanc in its name: the archive, and that the package's script does not start at boot.
KEPT = ("/var/lib/orthanc", "/var/log/pacs", "/etc/rc")


def image() -> bytes:
    """Return a small DICOM file of a new patient."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientID = "REMOVE"
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    written = io.BytesIO()
    dataset.save_as(written)
    return written.getvalue()


@pytest.fixture(scope="module")
def before(lab: Lab) -> set[str]:
    """What was on the host before a first run."""
    found = set(lab.shell(LISTED).splitlines())
    lab.play(inventory=SINGLE)
    return found


@pytest.fixture(scope="module")
def stored(lab: Lab, before: set[str]) -> str:
    """The path of an image on the proxy."""
    assert before
    answer = lab.session().post(lab.url("/instances"), data=image())
    assert answer.status_code == 200, answer.text
    return str(answer.json()["Path"])


@pytest.mark.parametrize("words", ["", "yes", "service of pacs1", ["service of pacs "]])
def test_without_the_exact_words_nothing_changes(lab: Lab, stored: str, words: object) -> None:
    ended = lab.play("remove", {"remove": words}, inventory=SINGLE, check=False)
    assert ended.returncode != 0
    assert "service of pacs" in ended.stdout
    assert "Nothing was changed" in ended.stdout
    assert lab.session().get(lab.url(stored)).status_code == 200


def test_check_mode_tells_and_changes_nothing(lab: Lab, stored: str) -> None:
    there = lab.shell(LISTED)
    told = lab.play("remove", SERVICE, arguments=["--check", "--diff"], inventory=SINGLE).stdout
    assert "/etc/pacs/orthanc/orthanc.json" in told
    assert "/etc/nginx/conf.d/orthanc.conf" in told
    assert lab.shell(LISTED) == there
    assert lab.session().get(lab.url(stored)).status_code == 200


def test_service_goes_and_comes_back_with_its_images(lab: Lab, before: set[str], stored: str) -> None:
    """Also where the first run was cut off before nginx was told."""
    lab.shell("mv /usr/sbin/nginx /root")
    assert lab.play("remove", SERVICE, inventory=SINGLE, check=False).returncode != 0
    lab.shell("mv /root/nginx /usr/sbin")
    told = " ".join(lab.play("remove", SERVICE, inventory=SINGLE).stdout.split())
    assert "keeps the images in /var/lib/orthanc/db-v6, the index in the database orthanc on pacs" in told
    new = set(lab.shell(LISTED).splitlines()) - before
    assert not [path for path in new if "orthanc" in path.lower() and not path.startswith(KEPT)]
    assert not [path for path in new if path.startswith(("/etc/pacs/nginx", "/var/lib/pacs/nginx"))]
    listening = lab.shell("ss -Hltn | awk '{print $4}'")
    assert not [port for port in ("80", "443", "4242", "8042") if f":{port}\n" in listening]
    assert "orthanc" not in lab.shell("nft list tables")
    assert "changed=0" in lab.play("remove", SERVICE, inventory=SINGLE).stdout

    lab.play(inventory=SINGLE)
    assert lab.session().get(lab.url(stored)).status_code == 200


def test_orthanc_of_others_stays(lab: Lab, stored: str) -> None:
    """One that was set up by hand has its own unit, which starts it with its own configuration."""
    assert stored
    lab.play("remove", SERVICE, inventory=SINGLE)
    unit = "/etc/systemd/system/orthanc.service"
    lab.shell(f"echo '[Service]\nExecStart=/usr/sbin/Orthanc /root/by-hand.json' > {unit}; systemctl daemon-reload")
    there = lab.shell(LISTED)
    told = " ".join(lab.play("remove", SERVICE, inventory=SINGLE).stdout.split())
    assert "No Orthanc of this inventory runs here, and nothing was removed." in told
    assert lab.shell(LISTED) == there

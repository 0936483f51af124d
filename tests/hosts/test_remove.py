"""The other way: what site.yml has put on a host is taken off it. What was there before stays, and so does the data."""

from __future__ import annotations

import io

import pydicom.uid
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset

from tests.hosts.conftest import ROOT, Lab

LAB = {"name": "remove", "pacs": "trixie-installed"}
SINGLE, SINGLE_MYSQL = (ROOT / "inventories" / name for name in ("single", "single-mysql"))
SERVICE, DATA = {"remove": "service of pacs"}, {"remove": ["service and all data of pacs"]}
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


@pytest.mark.parametrize("words", ["", "yes", "service of pacs1", "service and all data", ["service of pacs "]])
def test_without_the_exact_words_nothing_changes(lab: Lab, stored: str, words: object) -> None:
    ended = lab.play("remove", {"remove": words}, inventory=SINGLE, check=False)
    assert ended.returncode != 0
    assert "service of pacs" in ended.stdout
    assert "Nothing was changed" in ended.stdout
    assert lab.session().get(lab.url(stored)).status_code == 200


def test_check_mode_tells_and_changes_nothing(lab: Lab, stored: str) -> None:
    there = lab.shell(LISTED)
    told = lab.play("remove", DATA, arguments=["--check", "--diff"], inventory=SINGLE).stdout
    assert "/etc/pacs/orthanc/orthanc.json" in told
    assert "/etc/nginx/conf.d/orthanc.conf" in told
    assert lab.shell(LISTED) == there
    assert lab.session().get(lab.url(stored)).status_code == 200


def test_service_goes_and_comes_back_with_its_images(lab: Lab, before: set[str], stored: str) -> None:
    told = " ".join(lab.play("remove", SERVICE, inventory=SINGLE).stdout.split())
    assert "keeps all images in /var/lib/orthanc/db-v6" in told
    assert "keeps PostgreSQL as it is set up, with its databases" in told
    new = set(lab.shell(LISTED).splitlines()) - before
    assert not [path for path in new if "orthanc" in path.lower() and not path.startswith(KEPT)]
    assert not [path for path in new if path.startswith(("/etc/pacs/nginx", "/var/lib/pacs/nginx"))]
    listening = lab.shell("ss -Hltn | awk '{print $4}'")
    assert not [port for port in ("80", "443", "4242", "8042") if f":{port}\n" in listening]
    assert "orthanc" not in lab.shell("nft list tables")
    assert "changed=0" in lab.play("remove", SERVICE, inventory=SINGLE).stdout

    lab.play(inventory=SINGLE)
    assert lab.session().get(lab.url(stored)).status_code == 200


def test_data_goes_with_its_words_and_what_is_of_others_stays(lab: Lab, stored: str) -> None:
    foreign = "/var/lib/orthanc/db-v6/notes.txt"
    lab.shell(f"touch '{foreign}'")
    told = " ".join(lab.play("remove", DATA, inventory=SINGLE).stdout.split())
    assert "In /var/lib/orthanc/db-v6 there is still notes.txt." in told
    assert lab.shell("find /var/lib/orthanc -type f ! -name .pacs").splitlines() == [foreign]
    databases = lab.shell("runuser -u postgres -- psql -XAtc 'select datname from pg_database'").split()
    assert sorted(databases) == ["postgres", "template0", "template1"]
    assert '"orthanc"' not in lab.shell("cat /etc/postgresql/*/main/pg_hba.conf")
    assert "changed=0" in lab.play("remove", DATA, inventory=SINGLE).stdout

    lab.play(inventory=SINGLE)
    assert lab.session().get(lab.url(stored)).status_code == 404


@pytest.mark.later
def test_data_in_mariadb_goes_too(lab: Lab) -> None:
    lab.play("remove", DATA, inventory=SINGLE)
    lab.play(inventory=SINGLE_MYSQL)
    lab.shell("mariadb -e 'create database notes; create user radiologist@localhost'")
    told = " ".join(lab.play("remove", SERVICE, inventory=SINGLE_MYSQL).stdout.split())
    assert "keeps MariaDB as it is set up, with its databases orthanc" in told
    lab.play("remove", DATA, inventory=SINGLE_MYSQL)
    databases = lab.shell("mariadb -Ne 'show databases'").split()
    assert "notes" in databases
    assert "orthanc" not in databases
    users = lab.shell("mariadb -Ne 'select user from mysql.user'").split()
    assert "radiologist" in users
    assert "orthanc" not in users
    assert "changed=0" in lab.play("remove", DATA, inventory=SINGLE_MYSQL).stdout

"""The other way: what site.yml has put on a host is taken off it. What was there before stays, and so do the images."""

from __future__ import annotations

import io
import re

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
# What Orthanc calls a file.
NAMED = "ef120000-0000-0000-0000-000000000000"
IMAGE = r"/db-v6/(..)/(..)/\1\2[0-9a-f]{4}-"
DATABASES = {
    "quickstart": "true",
    "single": "runuser -u postgres -- psql -XAtqc 'SELECT datname FROM pg_database'",
    "single-mysql": "mariadb -N -e 'SHOW DATABASES'",
}
CONNECTED = {
    "single": "runuser -u postgres -- psql -XAtqc 'SELECT pg_sleep(300)' orthanc > /dev/null 2>&1 &",
    "single-mysql": "mariadb orthanc -N -e 'SELECT SLEEP(300)' > /dev/null 2>&1 &",
}


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


@pytest.mark.parametrize(
    "words", ["", "yes", "service of pacs1", ["service of pacs "], ["service of pacs", "images of pacs"]]
)
def test_without_the_exact_words_nothing_changes(lab: Lab, stored: str, words: object) -> None:
    ended = lab.play("remove", {"remove": words}, inventory=SINGLE, check=False)
    assert ended.returncode != 0
    assert "service of pacs" in " ".join(ended.stdout.split())
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


@pytest.mark.later
@pytest.mark.parametrize("inventory", ["quickstart", "single", "single-mysql"])
def test_archive_goes_with_words_of_its_own(inventory: str) -> None:
    """And nothing else does, such as what somebody has put beside them."""
    site = ROOT / "inventories" / inventory
    lab = Lab(f"remove-{inventory}", pacs="trixie-installed")
    lab.play(inventory=site)
    assert lab.session().post(lab.url("/instances"), data=image()).status_code == 200
    storage = "/var/lib/orthanc/db-v6"
    lab.shell(f"mkdir -p {storage}/ab/cd; echo mine | tee {storage}/ab/cd/report {storage}/notes; mkdir /srv/elsewhere")
    lab.shell(f"ln -s /srv/elsewhere {storage}/ef; touch /srv/elsewhere/{NAMED}")
    archive = f"find {storage}; {DATABASES[inventory]}"
    words = ["service of pacs", "archive of pacs"]

    before = lab.shell(archive)
    lab.play("remove", {"remove": words}, arguments=["--check"], inventory=site)
    assert lab.shell(archive) == before
    # The service alone; then the archive, be it by a run of its own.
    lab.play("remove", {"remove": words[:1]}, inventory=site)
    kept = lab.shell(archive)
    assert re.search(IMAGE, kept)
    told = " ".join(lab.play("remove", {"remove": words}, inventory=site).stdout.split())
    assert f"pacs has lost its archive, of which 1 files were in {storage}" in told
    left = lab.shell(archive)
    assert not re.search(IMAGE, left)
    assert "orthanc\n" not in left.rpartition(storage)[2]
    assert f"{storage}/index" not in left
    assert lab.shell(f"cat {storage}/ab/cd/report {storage}/notes; ls /srv/elsewhere") == f"mine\nmine\n{NAMED}\n"
    assert "changed=0" in lab.play("remove", {"remove": words}, inventory=site).stdout
    # From nothing to an empty archive.
    lab.play(inventory=site)
    assert lab.session().get(lab.url("/instances")).json() == []
    if inventory == "single":
        psql = "runuser -u postgres -- psql -XAtqc"
        table = "CREATE TABLE public.ris (); ALTER TABLE public.ris OWNER TO ris"
        lab.shell(f"{psql} 'CREATE ROLE ris'; {psql} '{table}' orthanc")
        refused = lab.play("remove", {"remove": words}, inventory=site, check=False).stdout
        assert "others have something in it" in " ".join(refused.split())
        lab.shell(f"{psql} 'DROP TABLE public.ris' orthanc")
    if inventory != "quickstart":
        # Somebody works there.
        lab.shell(CONNECTED[inventory])
        refused = lab.play("remove", {"remove": words}, inventory=site, check=False).stdout
        assert "somebody is connected to it" in " ".join(refused.split())
        assert "orthanc\n" in lab.shell(DATABASES[inventory])
    lab.destroy()

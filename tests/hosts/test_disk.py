"""An Orthanc that was set up by hand, on a disk of its own, is taken over; then the disk fills up and goes away."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.hosts.conftest import RELEASE, Lab
from tests.hosts.test_database import image
from tests.hosts.test_site import changed

pytestmark = pytest.mark.later
LAB = {"name": "disk", "pacs": RELEASE}
FOLDER = "/srv/images/dicom"
HERE = {"orthanc_storage_dir": FOLDER, "orthanc_storage_minimum_free_gb": 0}
# What of a host a refused run leaves as it was.
STATE = """
find /etc -xdev -type f | sort | xargs sha256sum; dpkg -l; find /srv /var/lib/orthanc | grep -v journal | sort
systemctl show orthanc --property=InvocationID,ActiveState
"""


class Site:
    """The host, and the image that was in its archive before the toolkit came."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.instance = lab, ""

    def deploy(self, variables: Mapping[str, Any] | None = None, check: bool = True) -> str:
        return " ".join(self.lab.play(variables=variables, check=check).stdout.split())

    def has_image(self) -> bool:
        with self.lab.session() as session:
            return session.get(self.lab.url(f"/instances/{self.instance}/file"), timeout=30).content == image(1)


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    """Debian's Orthanc with its images on a disk, and a sudo that lets nobody else read what it makes."""
    made = Site(lab)
    lab.shell("mkdir -p /srv/images && mount -t tmpfs -o size=400m tmpfs /srv/images")
    lab.shell("printf 'Defaults umask=0077\\nDefaults umask_override\\n' > /etc/sudoers.d/umask")
    lab.shell(
        "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends orthanc curl"
    )
    settings = "{ // by hand\n" + f'"StorageDirectory": "{FOLDER}", "AuthenticationEnabled": false, "Name": "OLD"' + "}"
    lab.shell(
        f"install -d -o orthanc -g orthanc {FOLDER}; rm /etc/orthanc/*.json; cat > /etc/orthanc/hand.json <<'END'\n"
        f"{settings}\nEND\nsystemctl restart orthanc; for i in $(seq 100); do curl -sf http://127.0.0.1:8042/system"
        " > /dev/null && exit; sleep 0.2; done; exit 1"
    )
    lab.shell(f"echo {image(1).hex()} | python3 -c 'import sys; sys.stdout.buffer.write(bytes.fromhex(input()))' > /1")
    answer = lab.shell("curl --silent --fail --data-binary @/1 http://127.0.0.1:8042/instances")
    made.instance = json.loads(answer)["ID"]
    return made


def test_archive_of_others_is_not_replaced_by_an_empty_one(site: Site) -> None:
    before = site.lab.shell(STATE)
    said = site.deploy(check=False)
    assert "Nothing was changed" in said
    for kind, what in (("storage", "DICOM files"), ("index", "index")):
        assert f"orthanc_{kind}_dir: the Orthanc of /etc/orthanc on this host has its {what} in {FOLDER}." in said
    assert site.lab.shell(STATE) == before


def test_other_release_is_refused_for_an_archive_of_others(site: Site) -> None:
    """It would change the index, and nothing is known to go back to."""
    before = site.lab.shell(STATE)
    image = {"orthanc_install_method": "docker", "orthanc_docker_image": "orthancteam/orthanc:26.8.1"}
    said = site.deploy({**HERE, **image, "orthanc_version": "1.13.0"}, check=False)
    assert "the Orthanc of /etc/orthanc on this host is 1.12.7, which others set up, and 1.13.0 would open its" in said
    assert "Nothing was changed" in said
    assert site.lab.shell(STATE) == before


def test_archive_of_others_is_taken_over(site: Site) -> None:
    """With a umask that closes all that is made without a mode of its own."""
    site.deploy(HERE)
    assert site.has_image()
    assert not changed(site.lab.play(variables=HERE).stdout)
    said = site.deploy(check=False)
    assert f"orthanc_storage_dir: the Orthanc on this host has its DICOM files in {FOLDER}" in said
    assert site.has_image()


def test_images_can_be_deleted_on_a_full_disk(site: Site) -> None:
    disk = f"cd {FOLDER} && "
    assert site.lab.shell(disk + "stat --format %s .pacs-reserve") == f"{64 << 20}\n"
    site.lab.shell(disk + "dd if=/dev/zero of=/srv/images/full bs=1M 2> /dev/null; df --output=avail . | grep -x ' *0'")
    site.lab.shell("systemctl restart orthanc")
    try:
        site.deploy(HERE)
        assert site.has_image()
        with site.lab.session() as session:
            second = session.post(site.lab.url("/instances"), data=image(2), timeout=30).json()["ID"]
            assert session.delete(site.lab.url(f"/instances/{second}"), timeout=30).status_code == 200
    finally:
        site.lab.shell("rm /srv/images/full; systemctl restart orthanc")
    site.deploy(HERE)
    assert site.lab.shell(disk + "stat --format %s .pacs-reserve") == f"{64 << 20}\n"


def test_disk_that_is_not_mounted_makes_no_empty_archive(site: Site) -> None:
    site.lab.shell("systemctl stop orthanc; umount /srv/images")
    before = site.lab.shell(STATE)
    said = site.deploy(HERE, check=False)
    assert f"orthanc_storage_dir: {FOLDER} had the archive of this host when Orthanc worked last" in said
    assert site.lab.shell(STATE) == before

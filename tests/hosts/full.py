"""The disks of the images, of the index and of the database are full while images arrive: ``make test-full``.

Clients are told, nothing that was acknowledged is lost, preflight and verification name the folder, and all goes on by
itself once there is room. What Orthanc acknowledges all the same, small images, the verification names.
"""

from __future__ import annotations

import collections
import os
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts.conftest import Lab
from tests.hosts.crashes import Site

IMAGES, INDEX = "/srv/images", "/srv/index"
HERE = {
    "orthanc_storage_dir": f"{IMAGES}/dicom",
    "orthanc_index_dir": f"{INDEX}/orthanc",
    "orthanc_storage_minimum_free_gb": 0,
    # By the memory of a big machine it takes as much as the disk.
    "mysql_settings": {"innodb_log_file_size": "96M"},
}
# By database: its disk, and the size of that in MB.
DATABASES = {"sqlite": (INDEX, 300), "postgresql": ("/var/lib/postgresql", 600), "mariadb": ("/var/lib/mysql", 600)}
MOUNT = """
mkdir -p {disk} && mount -t tmpfs -o size={size}m,mode=755 tmpfs /mnt && chown --reference={disk} /mnt &&
cp --archive {disk}/. /mnt && mount --bind /mnt {disk} && umount /mnt
"""
# To the last byte.
FILL = "for size in 1M 4k 1; do dd if=/dev/zero of={disk}/full-$size bs=$size 2> /dev/null; done; df {disk}"
# PostgreSQL asks for a new file of its log as soon as one is full. It ends where there is no room for that.
LOG = "runuser -u postgres -- psql -c 'SELECT pg_switch_wal()' -c CHECKPOINT 2>&1"
CASES = {
    "images": ("sqlite", [IMAGES]),
    "index": ("sqlite", [INDEX]),
    "images and index": ("sqlite", [IMAGES, INDEX]),
    "images with postgresql": ("postgresql", [IMAGES]),
    "postgresql": ("postgresql", ["/var/lib/postgresql"]),
    "images with mariadb": ("mariadb", [IMAGES]),
    "mariadb": ("mariadb", ["/var/lib/mysql"]),
}


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    lab = Lab(f"full-{request.param}", pacs="trixie-installed")
    disk, size = DATABASES[request.param]
    lab.shell(MOUNT.format(disk=IMAGES, size=300) + MOUNT.format(disk=disk, size=size))
    yield Site(request.param, lab, HERE)
    if not os.environ.get("PACS_KEEP_LABS"):
        lab.destroy()


def small_image(site: Site) -> str:
    """Return the identifier of a small image that Orthanc acknowledges, or nothing if it does not."""
    with site.lab.session() as session:
        made = session.post(site.lab.url("/tools/create-dicom"), json={"Tags": {"PatientID": "small"}})
        return str(made.json()["ID"]) if made.ok else ""


def repair(site: Site, said: str) -> None:
    """Remove what the index has of files that are empty, as docs/troubleshooting.md tells."""
    names = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}", said.partition("of which a file is missing")[2])
    with site.lab.session() as session:
        for name in dict.fromkeys(names):
            series = site.lab.url(f"/series/{name}")
            path = f"{series}/attachments/4301" if session.get(series).ok else site.lab.url(f"/instances/{name}")
            session.delete(path).raise_for_status()


@pytest.mark.parametrize("site, disks", CASES.values(), ids=CASES, indirect=["site"], scope="module")
def test_full(site: Site, disks: list[str], tmp_path: pathlib.Path) -> None:
    lab, clients, begin = site.lab, site.senders, time.monotonic()
    probe: dict[str, Any] = {"verification_level": "probe", "verification_report_dir": str(tmp_path)}
    before, clients.refused, clients.pause = len(clients.acknowledged), collections.Counter(), 1.0
    with clients:
        clients.more(50, within=120)
        for disk in disks:
            lab.shell(FILL.format(disk=disk))
        if "/var/lib/postgresql" in disks:
            print(lab.shell(LOG, check=False))
        clients.until_refused(16, within=300)
        small = small_image(site) if IMAGES in disks else ""
        full = site.play("verify", check=False, **probe)
        # The disk of the database is looked at by its role.
        refused = site.play(
            check=False, orthanc_storage_minimum_free_gb=int(site.database == "sqlite" or IMAGES in disks)
        )
        told, room = clients.told(), time.monotonic()
        for disk in disks:
            lab.shell(f"rm {disk}/full-*")
        clients.more(50, within=240)
        back = clients.longest_wait(room)
    lost = clients.lost(lambda when: when >= begin)
    # Of what arrived within the last minute nothing is called an orphan.
    lab.shell(f"find {IMAGES} -type f -exec touch --date '2 minutes ago' {{}} +")
    said = site.play("verify", check=False, **probe)
    report = (tmp_path / "report.html").read_text("utf-8")
    found = re.search(r"(\d+) files with \d+ bytes that the index does not know", report)
    orphans = int(found[1]) if found else 0
    print(
        f"{site.database}, {' and '.join(disks)} full: {len(clients.acknowledged) - before} images acknowledged,"
        f" {len(lost)} lost; {orphans} orphans; serves {back:.1f} s after there is room; clients were told: {told}"
    )
    assert not lost, lost
    assert not clients.wrong
    if "of which a file is missing" in said:
        repair(site, said)
        said = site.play("verify", **probe)
    assert " 0 failed" in said, said
    assert small in full, full
    with lab.session() as session:
        known: int = session.get(lab.url("/statistics")).json()["CountInstances"]
        # DICOMweb keeps a file with each series that is complete.
        for series in session.get(lab.url("/series")).json():
            known += len(session.get(lab.url(f"/series/{series}/attachments")).json())
    assert orphans == int(lab.shell(f"find {IMAGES}/dicom/??/?? -type f | wc -l")) - known
    for disk in disks:
        assert re.search(rf"folders with less than 100 MB free.*'{disk}", full), full
    assert "Nothing was changed" in refused, refused
    assert all(disk in refused for disk in disks), refused

"""The disk of images, of the index and of the database is full in the middle: part of ``make test-crashes``.

Clients are told, nothing that was acknowledged is lost, preflight and verification name the folder, and all goes on by
itself once there is room.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts.conftest import Lab
from tests.hosts.crashes import Site

STORAGE, INDEX = "/srv/images/dicom", "/srv/index/orthanc"
HERE = {"orthanc_storage_dir": STORAGE, "orthanc_storage_minimum_free_gb": 0}
# By case: the database, the disk, and its size in MB.
CASES = {
    "storage and index": ("sqlite", "/srv/images", 300, HERE),
    "index": ("sqlite", "/srv/index", 300, HERE | {"orthanc_index_dir": INDEX}),
    "storage": ("postgresql", "/srv/images", 300, HERE),
    "postgresql": ("postgresql", "/var/lib/postgresql", 500, {}),
    "mariadb": ("mariadb", "/var/lib/mysql", 900, {}),
}
MOUNT = """
mkdir -p {disk} && mount -t tmpfs -o size={size}m,mode=755 tmpfs /mnt && cp --archive {disk}/. /mnt &&
mount --bind /mnt {disk} && umount /mnt
"""
# To the last byte.
FILL = "for size in 1M 4k 1; do dd if=/dev/zero of={disk}/full-$size bs=$size 2> /dev/null; done; df {disk}"


@pytest.fixture(params=CASES)
def site(request: pytest.FixtureRequest) -> Iterator[tuple[Site, str]]:
    database, disk, size, variables = CASES[request.param]
    lab = Lab(f"full-{request.param.replace(' ', '-')}", pacs="trixie-installed")
    lab.shell(MOUNT.format(disk=disk, size=size))
    yield Site(database, lab, variables), disk
    if not os.environ.get("PACS_KEEP_LABS"):
        lab.destroy()


def test_full(site: tuple[Site, str], tmp_path: pathlib.Path) -> None:
    deployed, disk = site
    lab, clients = deployed.lab, deployed.senders
    probe: dict[str, Any] = {"verification_level": "probe", "verification_report_dir": str(tmp_path)}
    with clients:
        clients.more(50, within=120)
        lab.shell(FILL.format(disk=disk))
        clients.until_refused(16, within=300)
        told = clients.told()
        full = deployed.play("verify", check=False, **probe)
        refused = deployed.play(check=False, orthanc_storage_minimum_free_gb=1)
        lab.shell(f"rm {disk}/full-*")
        clients.more(50, within=120)
    lost = clients.lost()
    print(
        f"{disk} of {deployed.database} full: {len(clients.acknowledged)} images acknowledged, {len(lost)} lost; {told}"
    )
    assert not lost, lost
    assert not clients.wrong
    assert disk in full, full
    assert "folders with less than 100 MB free" in full, full
    assert "Nothing was changed" in refused, refused
    assert disk in refused, refused
    said = deployed.play("verify", **probe)
    assert " 0 failed" in said, said
    report = (tmp_path / "report.html").read_text("utf-8")
    found = re.search(
        r"(none|\d+) ?(files with \d+ bytes that the index does not know)?", report.partition("Orphans")[2]
    )
    print(found)

"""The power of a host is cut while eight clients send images: ``make test-power``.

A container that is killed leaves what its kernel has not written yet. So here images, index and database are on a file
system of their own, which is shut down at once, as ext4's developers do to test it (``EXT4_IOC_SHUTDOWN``): what the
kernel had not written to the disk by then is gone, and nothing more is written. Then the host is killed, the disk is
mounted anew by its journal, and the host starts. What the disk had been given stays: a disk that loses its own cache is
not tried.
"""

from __future__ import annotations

import os
import pathlib
import random
import time
from collections.abc import Iterator

import pytest

from tests.hosts.conftest import ROOT, Lab, run
from tests.hosts.senders import Senders
from tests.hosts.test_reconcile import reconcile

INVENTORIES = {"sqlite": "quickstart", "postgresql": "single", "mariadb": "single-mysql"}
CUTS = int(os.environ.get("PACS_CUTS", "10"))
SUDO = () if os.geteuid() == 0 else ("sudo",)
DATA = ("/var/lib/orthanc", "/var/lib/postgresql", "/var/lib/mysql")
# Mounted from the disk at each start, before any service.
ON_DISK = """
mkdir -p {folder} /disk{folder} && chown --reference={folder} /disk{folder} && cp --archive {folder}/. /disk{folder} &&
sync --file-system /disk && echo '/disk{folder} {folder} none bind' >> /etc/fstab && mount {folder}
"""
# Its argument is EXT4_GOING_FLAGS_NOLOGFLUSH: the journal is not written either.
SHUT_DOWN = "import fcntl, os, struct; fcntl.ioctl(os.open('{}', 0), 0x8004587D, struct.pack('I', 2))"


class Disk:
    """A file system in a file, mounted at a folder of this machine."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.mounted, self._file = folder / "disk", folder / "image"
        self.mounted.mkdir()
        with self._file.open("wb") as file:
            file.truncate(3 << 30)
        run(*SUDO, "mkfs.ext4", "-q", self._file)
        self.mount()

    def mount(self) -> None:
        # Not by `mount -o loop`, which might take the one that is shut down, if somebody has it still.
        self._loop = run(*SUDO, "losetup", "--find", "--show", self._file).stdout.strip()
        run(*SUDO, "mount", self._loop, self.mounted)

    def unmount(self) -> None:
        run(*SUDO, "umount", self.mounted)
        run(*SUDO, "losetup", "--detach", self._loop)

    def end(self) -> None:
        self.unmount()
        # Of what tests leave, pytest keeps the last three.
        self._file.unlink()

    def shut_down(self) -> None:
        run(*SUDO, "python3", "-c", SHUT_DOWN.format(self.mounted))


class Site:
    """A deployed site with its data on a disk, and the clients that send to it."""

    def __init__(self, database: str, disk: Disk) -> None:
        self.database, self.disk = database, disk
        host = {"release": "trixie-installed", "volumes": [f"{disk.mounted}:/disk"]}
        self.lab = Lab(f"power-{database}", pacs=host)
        for path in DATA:
            self.lab.shell(ON_DISK.format(folder=path))
        self.lab.play(inventory=ROOT / "inventories" / INVENTORIES[database])
        with self.lab.session() as session:
            certificate = str(session.verify)
        self.senders = Senders(self.lab.address["pacs"], certificate, self.lab.secrets["vault_orthanc_admin_password"])

    def cut_once(self) -> float:
        """Cut its power, have it come back, and return when it was cut. Nobody starts anything but the host."""
        self.disk.shut_down()
        when = time.monotonic()
        run("docker", "kill", self.lab.container())
        self.disk.unmount()
        self.disk.mount()
        run("docker", "start", self.lab.container())
        self.senders.wait_until_served(within=300)
        return when

    def cut(self, times: int, pause: float = 0.0) -> dict[str, str]:
        """Cut its power again and again while images arrive, or a while after the last of them; tell what is lost."""
        begin, chance, cuts = time.monotonic(), random.Random(times), []
        for _ in range(times):
            with self.senders:
                self.senders.more(100, within=300)
                time.sleep(2 * chance.random())
                if not pause:
                    cuts.append(self.cut_once())
            if pause:
                time.sleep(pause)
                cuts.append(self.cut_once())
        sent = {name: when for name, (_, when) in self.senders.acknowledged.items() if when >= begin}
        lost = self.senders.lost(lambda when: when >= begin)
        ages = [min((cut - sent[name] for cut in cuts if cut >= sent[name]), default=0.0) for name in lost]
        print(
            f"{self.database}, cut {times} times, {pause:.0f} s after the last image: {len(sent)} images acknowledged,"
            f" {len(lost)} lost, the oldest {max(ages, default=0):.1f} s before the cut; clients were told:"
            f" {self.senders.told()}"
        )
        assert not self.senders.wrong
        return lost


@pytest.fixture(scope="module", params=INVENTORIES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    disk = Disk(tmp_path_factory.mktemp("disk"))
    try:
        made = Site(request.param, disk)
        yield made
        made.lab.destroy()
    finally:
        disk.end()


def test_power_is_cut_while_images_arrive(site: Site) -> None:
    """SQLite's index is left to the kernel; the files are not, and come back as the docs tell."""
    lost = site.cut(CUTS)
    if site.database != "sqlite":
        assert not lost, lost
        return
    site.lab.shell("find /var/lib/orthanc/db-v6/??/?? -type f -exec touch -d '2 hours ago' {} +")
    told = reconcile(site.lab, INVENTORIES[site.database])
    assert all(word in told for word in {f"import {len(lost)} files of pacs"} if lost), told
    reconcile(site.lab, INVENTORIES[site.database], f"import {len(lost)} files of pacs" if lost else "")
    assert not site.senders.lost()


def test_power_is_cut_a_while_after(site: Site) -> None:
    """What the kernel writes by itself is written by then."""
    if site.database != "sqlite":
        pytest.skip("nothing is lost while they arrive")
    assert not site.cut(1, pause=60)


def test_index_that_is_written_at_once_loses_nothing(site: Site) -> None:
    if site.database != "sqlite":
        pytest.skip("nothing is lost as it is")
    folder = f"{site.disk.mounted}/var/lib/orthanc/db-v6"
    site.lab.shell("systemctl stop orthanc")
    run(*SUDO, "sh", "-c", f"chattr +S {folder} {folder}/index*")
    site.lab.shell("systemctl start orthanc")
    site.senders.wait_until_served(within=60)
    assert not site.cut(CUTS)

"""The power of a host is cut while eight clients send images: ``make test-power``.

A container that is killed leaves what its kernel has not written yet; so here the disk of a deployed host is put into a
virtual machine, by emulation alone, whose process is killed. Its disk has no cache (``cache=none``): what the guest has
not written is gone, as with a disk that keeps its own cache when the power fails.
"""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.hosts.conftest import ROOT, Lab, run
from tests.hosts.senders import Senders

INVENTORIES = {"sqlite": "quickstart", "postgresql": "single", "mariadb": "single-mysql"}
CUTS = int(os.environ.get("PACS_CUTS", "3"))
# They would be for the memory of this machine.
SMALL = {
    "postgresql_settings": {"shared_buffers": "128MB"},
    "mysql_settings": {"innodb_buffer_pool_size": "128M"},
}
# A kernel, and what of a host Docker does otherwise. With the word on its command line all that is written to the index
# is written at once.
PREPARE = r"""
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends linux-image-cloud-amd64 initramfs-tools udev e2fsprogs
printf '[Match]\nName=en*\n[Network]\nDHCP=yes\n' > /etc/systemd/network/80-all.network
systemctl enable systemd-networkd
cat > /etc/systemd/system/at-once.service <<'UNIT'
[Unit]
ConditionKernelCommandLine=at-once
Before=orthanc.service
[Service]
Type=oneshot
ExecStart=/usr/bin/chattr -R +S /var/lib/orthanc/db-v6
[Install]
WantedBy=multi-user.target
UNIT
systemctl enable at-once
systemctl stop orthanc nginx postgresql mariadb 2> /dev/null || true
sync
"""


class Machine:
    """A virtual machine with the disk of a deployed host."""

    def __init__(self, lab: Lab, folder: pathlib.Path, words: str) -> None:
        self._folder, self._words = folder, words
        root = folder / "root"
        root.mkdir()
        export = subprocess.Popen(["docker", "export", lab.container()], stdout=subprocess.PIPE)
        subprocess.run(["tar", "--extract", "--directory", root], stdin=export.stdout, check=True)
        assert export.wait() == 0
        (root / "etc" / "hosts").write_text("127.0.0.1 localhost pacs\n", encoding="utf-8")
        (root / "etc" / "hostname").write_text("pacs\n", encoding="utf-8")
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(root / name, folder / name)
        run("mkfs.ext4", "-q", "-d", root, folder / "disk", "6G")
        shutil.rmtree(root)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = (
            "qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 2048 -smp 2 -display none -monitor none"
            " -serial stdio -kernel vmlinuz -initrd initrd.img -drive file=disk,format=raw,if=virtio,cache=none"
            f" -netdev user,id=n,hostfwd=tcp:127.0.0.1:{self.port}-:443 -device virtio-net-pci,netdev=n -append"
        )
        with (self._folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                [*command.split(), f"root=/dev/vda rw console=ttyS0 {self._words}"],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )

    def cut(self) -> None:
        """Cut its power."""
        if self._process:
            self._process.kill()
            self._process.wait()


class Site:
    """A deployed site in a virtual machine, and the clients that send to it."""

    def __init__(self, database: str, folder: pathlib.Path) -> None:
        self.database, _, words = database.partition(" ")
        lab = Lab(f"power-{self.database}", pacs="trixie-installed")
        lab.play(inventory=ROOT / "inventories" / INVENTORIES[self.database], variables=SMALL)
        with lab.session() as session:
            certificate = str(session.verify)
        lab.shell(PREPARE)
        self.machine = Machine(lab, folder, words)
        self.senders = Senders("127.0.0.1", certificate, lab.secrets["vault_orthanc_admin_password"], self.machine.port)
        lab.destroy()


@pytest.fixture(scope="module", params=["sqlite", "sqlite at-once", "postgresql", "mariadb"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(request.param, tmp_path_factory.mktemp("machine"))
    made.machine.start()
    made.senders.wait_until_served(within=900)
    yield made
    made.machine.cut()


def again(site: Site, what: str, begin: float) -> dict[str, str]:
    """Give it power again, and tell what is lost."""
    site.machine.start()
    site.senders.wait_until_served(within=900)
    lost = site.senders.lost(lambda when: when >= begin)
    sent = [when for _, when in site.senders.acknowledged.values() if when >= begin]
    print(f"{site.database}, {what}: {len(sent)} images acknowledged, {len(lost)} lost")
    return lost


def test_power_is_cut_while_images_arrive(site: Site) -> None:
    begin, chance = time.monotonic(), random.Random(1)
    with site.senders:
        for _ in range(CUTS):
            site.senders.more(100, within=300)
            time.sleep(5 * chance.random())
            site.machine.cut()
            site.machine.start()
            site.senders.wait_until_served(within=900)
    # Also those of before, which the last cut must not have taken.
    lost = again(site, f"cut {CUTS} times", begin)
    assert not site.senders.wrong
    assert not lost or site.database == "sqlite", lost


def test_power_is_cut_soon_after(site: Site) -> None:
    begin = time.monotonic()
    with site.senders:
        site.senders.more(20, within=300)
    time.sleep(3)
    site.machine.cut()
    lost = again(site, "cut three seconds after the last of them", begin)
    assert not lost or site.database == "sqlite", lost

"""Two Orthancs with their DICOM files on a file system of others, which goes and hangs: ``make test-mount``.

The stand-in for NFS is a file system in user space (bindfs) on each host, before one volume that both hosts have: it
can be taken away, and stopped, on one of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts.balancer import BUSY, PAIR, Balanced, Users, told
from tests.hosts.cluster import NAMES, PATIENCE
from tests.hosts.conftest import RELEASE, Lab, run
from tests.hosts.test_site import changed

MOUNT, MARK = "/srv/dicom", "hospital"
STORAGE = {"orthanc_database_storage": False, "orthanc_storage_mount": MOUNT, "orthanc_storage_mark": MARK}
# A container has no device for it, and loses the one that it gets with each start.
DEVICE = (
    "test -e /dev/fuse || mknod -m 666 /dev/fuse c 10 229; echo 'c 10:229 rwm' >"
    " /sys/fs/cgroup/devices$(sed -n 's/.*:devices://p' /proc/self/cgroup)/devices.allow"
)
FSTAB = f"echo '/export {MOUNT} fuse.bindfs allow_other,nofail 0 0' >> /etc/fstab; mkdir -p {MOUNT}"
INSTALL = "apt-get update -q && apt-get install -q -y --no-install-recommends bindfs && systemctl daemon-reload"
# On Debian 12 what mounts by FUSE takes what is said to systemd for an option of bindfs.
HELPER = """cat > /sbin/mount.fuse.bindfs <<'END'
#!/bin/sh
exec bindfs -o "$(printf %s "$4" | sed 's/,nofail//')" "$1" "$2"
END
chmod 755 /sbin/mount.fuse.bindfs"""
UNMOUNT, ANEW = f"umount --lazy {MOUNT}", f"mount {MOUNT}"
STOP, GO_ON = "pkill -STOP bindfs", "pkill -CONT bindfs"
# How long it is away, in seconds.
AWAY = 60


class Mounted(Balanced):
    """The shipped inventory with another choice for the files."""

    def __init__(self, lab: Lab) -> None:
        (lab.folder / "group_vars" / "all").mkdir(parents=True, exist_ok=True)
        (lab.folder / "group_vars" / "all" / "storage.json").write_text(json.dumps(STORAGE), encoding="utf-8")
        for name in PAIR:
            lab.shell("; ".join([INSTALL, FSTAB, DEVICE, *([HELPER] if RELEASE == "bookworm" else [])]), name)
        lab.shell(ANEW)
        self.lab = lab
        # What was said while one host did not have it.
        self.refused = ""
        super().__init__(lab)

    def play(self, *arguments: str, **options: Any) -> str:
        if not self.refused and options.get("playbook", "site") == "site":
            self.refused = super().play(check=False)
            self.lab.shell(ANEW, PAIR[1])
        return super().play(*arguments, **options)

    def state(self, host: str) -> str:
        return self.lab.shell("systemctl is-active orthanc pacs-storage", host, check=False).replace("\n", " ").strip()

    def wait_for(self, host: str, wanted: str) -> None:
        end = time.monotonic() + PATIENCE
        while self.state(host) != wanted:
            assert time.monotonic() < end, self.state(host)
            time.sleep(0.5)

    def wait_until_out(self, host: str) -> None:
        """Wait until neither balancer takes the Orthanc of a host for working."""
        wanted, end = [f"dicom/{host}", f"https/{host}"], time.monotonic() + PATIENCE
        found: list[list[str]] = []
        while found != [wanted, wanted]:
            assert time.monotonic() < end, found
            time.sleep(0.5)
            # One that has just been started has no balancer yet.
            with contextlib.suppress(pytest.fail.Exception):
                found = [sorted(self.out(name)) for name in PAIR]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"mount-{RELEASE}"
    volume = f"pacs-{name}-{os.getpid()}"
    pair = {host: {"release": RELEASE, "volumes": [f"{volume}:/export"]} for host in PAIR}
    made = Lab(name, **pair, **dict.fromkeys(NAMES[2:], RELEASE))
    yield made
    if not os.environ.get("PACS_KEEP_LABS"):
        made.destroy()
        run("docker", "volume", "rm", volume)


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Mounted:
    return Mounted(lab)


def test_refused_where_it_is_not_mounted(cluster: Mounted) -> None:
    said = " ".join(cluster.refused.split())
    assert f"host {PAIR[1]}: - orthanc_storage_mount: nothing is mounted at {MOUNT} on this host" in said
    assert f"host {PAIR[0]}:" not in said
    assert said.count("changed=0") == len(NAMES)


def test_second_run_changes_nothing(cluster: Mounted) -> None:
    cluster.wait_until_balanced()
    assert not changed(cluster.play())
    assert not changed(cluster.play("--check"))


def test_what_one_has_taken_the_other_one_serves(cluster: Mounted) -> None:
    cluster.wait_until_balanced()
    senders = cluster.senders(PAIR[0])
    with senders:
        senders.more(50, within=240)
    assert not senders.lost()
    (name, *_) = senders.acknowledged
    with cluster.lab.session(PAIR[1]) as session:
        assert session.get(cluster.lab.url(f"/instances/{name}/file", PAIR[1]), timeout=60).status_code == 200
    count = "find {} -name '????????-????-????-????-????????????' | wc -l"
    there = [int(cluster.lab.shell(count.format(folder), host)) for host in PAIR for folder in ("/export", MOUNT)]
    assert min(there) >= 50
    assert len(set(there)) == 1
    marks = {cluster.lab.shell(f"cat {MOUNT}/.pacs-storage", host) for host in PAIR}
    assert len(marks) == 1
    assert marks.pop().startswith(f"{MARK} ")


FAULTS = {"absent": (UNMOUNT, ANEW), "hanging": (STOP, GO_ON)}


@pytest.mark.parametrize("what", FAULTS)
def test_storage_of_one_host_is_away(cluster: Mounted, what: str) -> None:
    """For a minute, on the host that serves: the other one does, and nobody is needed."""
    cluster.move_primary()
    holder = cluster.wait_until_balanced()
    host = cluster.serves(holder)
    do, undo = FAULTS[what]
    senders = cluster.senders_by_address()
    with senders, Users(cluster) as users:
        senders.more(50, within=240)
        when = time.monotonic()
        cluster.lab.shell(do, host)
        try:
            cluster.wait_until_out(host)
            senders.more(100, within=300)
            time.sleep(max(0.0, when + AWAY - time.monotonic()))
        finally:
            back = time.monotonic()
            cluster.lab.shell(undo, host)
        cluster.wait_until_balanced()
        again = time.monotonic()
        senders.more(50, within=300)
    waits = {one: users.longest(one, when) for one in users.answered}
    lost = senders.lost()
    print(
        f"{what} ({host}): {told(senders, users, when)}; in the balancer again {again - back:.1f} s after it was back"
    )
    assert not senders.wrong
    assert not lost
    assert max(waits.values()) < BUSY
    assert senders.longest_wait(when) < PATIENCE
    assert cluster.state(host) == "active active"


def test_host_starts_without_it(cluster: Mounted) -> None:
    """Orthanc does not, until it is mounted; and what is below stays empty."""
    cluster.wait_until_balanced()
    host = PAIR[1]
    container = cluster.lab.container(host)
    run("docker", "kill", container)
    run("docker", "start", container)
    cluster.wait_until_out(host)
    assert not cluster.state(host).startswith("active")
    # As somebody does who takes it for a mishap.
    cluster.lab.shell("systemctl start orthanc", host, check=False, timeout=120)
    assert not cluster.state(host).startswith("active")
    assert not cluster.lab.shell(f"ls -A {MOUNT}", host).strip()
    cluster.lab.shell(f"{DEVICE}; {ANEW}", host)
    cluster.wait_for(host, "active active")
    cluster.wait_until_balanced()


def test_orthanc_does_not_start_while_it_hangs(cluster: Mounted) -> None:
    cluster.wait_until_balanced()
    host = PAIR[1]
    cluster.lab.shell(STOP, host)
    try:
        cluster.wait_until_out(host)
        said = cluster.play("--limit", host, check=False)
        assert "cannot be looked at: it does not answer within" in " ".join(said.split())
        assert " changed=0 " in said
        cluster.lab.shell("systemctl kill --signal KILL orthanc; sleep 5", host)
        assert not cluster.state(host).startswith("active")
        told = cluster.lab.shell("journalctl -u pacs-storage --no-pager --lines 1", host)
        assert "The storage does not answer: nothing within 3 s." in told
    finally:
        cluster.lab.shell(GO_ON, host)
    cluster.wait_for(host, "active active")
    cluster.wait_until_balanced()


@pytest.mark.parametrize(
    "do, undo, part",
    [
        (f"echo clinic > {MOUNT}/.pacs-storage", "", "says 'clinic', so that this is the archive of another site"),
        (f"rm {MOUNT}/.pacs-storage", "", f"`echo {MARK} > {MOUNT}/.pacs-storage`"),
        (f"chown 4711 {MOUNT}", f"chown orthanc {MOUNT}", "belongs to the numbers 4711 and"),
        (f"mount -t tmpfs tmpfs {MOUNT}", f"umount {MOUNT}", "is empty and without a mark, and pacs may have"),
    ],
)
def test_wrong_storage_is_told(cluster: Mounted, do: str, undo: str, part: str) -> None:
    """Before anything changes, and the balancer hears of it as well where it is not ours."""
    cluster.wait_until_balanced()
    host = PAIR[1]
    mark = cluster.lab.shell(f"cat {MOUNT}/.pacs-storage").strip()
    cluster.lab.shell(do, host)
    try:
        said = " ".join(cluster.play("--limit", host, check=False).split())
    finally:
        cluster.lab.shell(undo or f"echo {mark} > {MOUNT}/.pacs-storage", host)
    assert part in said
    assert " changed=0 " in said
    cluster.wait_until_balanced()


def test_other_file_system_with_the_same_word_is_told(cluster: Mounted) -> None:
    cluster.wait_until_balanced()
    host = PAIR[1]
    other = f"mount -t tmpfs tmpfs {MOUNT}; echo {MARK} 1234 > {MOUNT}/.pacs-storage; touch {MOUNT}/.pacs"
    other += f"; chown -R orthanc: {MOUNT}"
    cluster.lab.shell(other, host)
    try:
        said = " ".join(cluster.play(check=False).split())
    finally:
        cluster.lab.shell(f"umount {MOUNT}", host)
    assert "another file system" in said
    assert said.count("changed=0") == len(NAMES)
    cluster.wait_until_balanced()


def test_each_has_its_own_jobs(cluster: Mounted) -> None:
    """In one index, by its identifier there: also after both were started anew, while both save theirs."""
    cluster.wait_until_balanced()
    senders = cluster.senders(PAIR[0])
    with senders:
        senders.more(5, within=240)
    resources = list(senders.acknowledged)[:5]
    made: dict[str, str] = {}
    for host in PAIR:
        with cluster.lab.session(host) as session:
            # Nobody takes them there. A job that has failed is saved as any other.
            asked = {"Resources": resources, "Synchronous": False}
            url = cluster.lab.url("/modalities/verifier/store", host)
            made[host] = session.post(url, json=asked, timeout=60).json()["ID"]
    for host in PAIR:
        cluster.wait_until_balanced()
        cluster.lab.shell("sleep 12; systemctl restart orthanc", host)
    cluster.wait_until_balanced()
    for host, other in (PAIR, PAIR[::-1]):
        with cluster.lab.session(host) as session:
            known = session.get(cluster.lab.url("/jobs", host), timeout=60).json()
        assert made[host] in known
        assert made[other] not in known


def test_taken_off(cluster: Mounted) -> None:
    """Nothing of it stays on a host but what is on the file system."""
    cluster.wait_until_balanced()
    cluster.play("--limit", PAIR[1], playbook="remove", remove=f"service of {PAIR[1]}")
    assert cluster.state(PAIR[1]) == "inactive inactive"
    left = "cd /etc/systemd/system; ls -d /etc/pacs/storage pacs-storage.service *.mount.wants 2> /dev/null"
    assert not cluster.lab.shell(left, PAIR[1], check=False).strip()
    cluster.play()
    cluster.wait_until_balanced()
    assert not changed(cluster.play())

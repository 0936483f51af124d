"""An archive whose index is in MariaDB is backed up while images come and go, proved, lost, and had again."""

from __future__ import annotations

import json
import pathlib
import re
import threading
import time
from typing import Any

import pytest
import yaml

from tests.hosts.conftest import ROOT, Lab, run
from tests.hosts.test_backup import ARCHIVE, KEPT, PASSWORD, REPOSITORY, STATE
from tests.hosts.test_backup_postgresql import Databases
from tests.hosts.test_database import image
from tests.hosts.test_site import changed

pytestmark = pytest.mark.later
HOSTS = {"pacs": "1.12.7", "old": "1.10.1"}
LAB = {"name": "backup-mariadb", "pacs": "trixie-installed", "old": "bookworm-installed"}
# A host that has lost its archive, and all that knew of it.
LOST = f"""systemctl stop nginx orthanc pacs-backup.timer; mariadb -e 'DROP DATABASE orthanc'
rm -rf /etc/pacs /var/lib/pacs /var/cache/pacs-backup {ARCHIVE}
rm -f /etc/nginx/conf.d/orthanc* /etc/systemd/system/orthanc.service"""
# A program in the place of the one that dumps.
INSTEAD = """cat > /usr/local/bin/mariadb-dump <<'END'
#!/bin/sh
{does}
END
chmod 755 /usr/local/bin/mariadb-dump"""


# A dump with words to the client that reads it, and without those by which it mistrusts them.
ATTACKS = r"""/usr/bin/mariadb-dump "$@" | sed '1d; s,^-- Dump completed,{attack}\n&,'"""


class Dumped(Databases):
    """Orthancs of both releases with MariaDB beside them, whose backups go to folders."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory = lab, folder / "inventory"
        self.inventory.mkdir()
        groups = {group: {"hosts": dict.fromkeys(HOSTS)} for group in ("orthanc", "mysql", "nginx", "backup")}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
        (self.inventory / "group_vars").symlink_to(ROOT / "inventories" / "single-mysql" / "group_vars")
        self.variables: dict[str, Any] = {
            "backup_repository": REPOSITORY,
            "backup_password": PASSWORD,
            # Of one day, too.
            "backup_keep": {"last": 30},
            "orthanc_settings": {"OverwriteInstances": True},
        }

    def left(self, host: str = "pacs") -> str:
        return self.lab.shell(
            f"ls -a {ARCHIVE} /run | grep -E 'pacs-(drill|restore)'; pgrep -u orthanc mariadbd", host, False
        )


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Dumped:
    made = Dumped(lab, tmp_path_factory.mktemp("backup"))
    made.play()
    return made


def test_second_run_changes_nothing(site: Dumped) -> None:
    for arguments in ([], ["--check", "--diff"]):
        done = site.lab.play("site", site.variables, arguments, site.inventory).stdout
        assert not changed(done)
        assert PASSWORD not in done


@pytest.mark.parametrize("host", HOSTS)
def test_backup_while_images_come_and_go(site: Dumped, host: str) -> None:
    """Every image that was acknowledged before it began is in it, and no upload fails or waits for it."""
    lab, over, slowest = site.lab, threading.Event(), [0.0]
    sent = site.send(range(1, 41), host)

    def come_and_go(number: int) -> None:
        with lab.session(host) as session:
            while not over.is_set():
                number += 1
                for data in (image(number), image(number), image(1 + number % 40)):
                    began = time.monotonic()
                    assert session.post(lab.url("/instances", host), data=data, timeout=60).status_code == 200
                    slowest[0] = max(slowest[0], time.monotonic() - began)

    before = lab.shell(STATE, host)
    clients = [threading.Thread(target=come_and_go, args=[first]) for first in (1000, 5000)]
    for client in clients:
        client.start()
    try:
        said = site.play("backup", limit=host)
    finally:
        over.set()
        for client in clients:
            client.join()
    found = re.search(r"Backed up (\d+) images of (\w+) .* The index stood still for (\d+) ms", said)
    assert found, said
    print(f"{host}: {found[0]}; the slowest upload took {slowest[0]:.2f} s")
    assert int(found[1]) >= sent
    assert site.status(host)["success"]["missing"] == 0
    # What an upload waits for it; the rest is the machine's.
    assert site.status(host)["success"]["pause_seconds"] < 1
    assert site.wrong(host) == ""
    assert lab.shell(STATE, host) == before


@pytest.mark.parametrize("host", HOSTS)
def test_drill(site: Dumped, host: str) -> None:
    """Of what was backed up while images came and went."""
    lab = site.lab
    before = lab.shell(f"{STATE}; ss -ltn | sort", host)
    said = site.play("drill", limit=host)
    success = site.status(host)["success"]
    assert f"and Orthanc {HOSTS[host]}, started on it, has all {success['instances']} images" in said
    assert lab.shell(f"{STATE}; ss -ltn | sort", host) == before
    report = json.loads(lab.shell(f"cat $(ls {KEPT}/drills/*.json | tail -n 1)", host))
    assert (report["wrong"], report["missing"], report["damaged"], report["damage"]) == ("", [], [], [])
    assert report["served"] > 0
    assert report["files"] == success["files"]
    assert site.left(host) == ""


def test_dump_that_is_cut_off_is_no_backup(site: Dumped) -> None:
    lab, before = site.lab, site.status()["success"]
    lab.shell(INSTEAD.format(does='/usr/bin/mariadb-dump "$@" 2> /dev/null | head --bytes=5000'))
    try:
        assert "The index could not be dumped: " in site.play("backup", limit="pacs", check=False)
    finally:
        lab.shell("rm /usr/local/bin/mariadb-dump")
    assert site.status()["success"] == before
    assert "Backed up" in site.play("backup", limit="pacs")


def test_somebody_who_holds_the_index(site: Dumped) -> None:
    """We wait for a transaction that does not end, and images wait no longer for us than half a second at a time."""
    lab = site.lab
    lab.shell(
        "systemd-run --quiet --unit=holder mariadb orthanc --execute"
        " 'START TRANSACTION; UPDATE Resources SET publicId = publicId LIMIT 0; SELECT SLEEP(15); ROLLBACK'"
    )
    lab.shell("systemctl start --no-block pacs-backup; sleep 3")
    with lab.session("pacs") as session:
        for number in range(600, 620):
            began = time.monotonic()
            assert session.post(lab.url("/instances"), data=image(number), timeout=60).status_code == 200
            assert time.monotonic() - began < 10
    assert "Backed up" in site.play("backup", limit="pacs")


def test_killed_while_it_holds_the_index(site: Dumped) -> None:
    """Nobody waits for a program that is gone."""
    lab = site.lab
    lab.shell(INSTEAD.format(does="touch /run/dumps; sleep 100"))
    lab.shell(
        " systemctl start --no-block pacs-backup; until [ -e /run/dumps ]; do sleep 0.05; done;"
        " systemctl kill --signal KILL pacs-backup; rm /usr/local/bin/mariadb-dump /run/dumps;"
        " while systemctl show pacs-backup --property=ActiveState | grep -q activating; do sleep 0.1; done"
    )
    site.send(range(620, 622))
    assert "ended from outside" in site.wrong()
    assert "Backed up" in site.play("backup", limit="pacs")
    assert site.wrong() == ""


@pytest.mark.parametrize("host", HOSTS)
def test_restore_onto_a_host_that_has_lost_all(site: Dumped, host: str) -> None:
    """With inventory, vault and repository alone: first the site, then its archive, every image bit for bit."""
    lab, numbers = site.lab, range(300, 330)
    site.send(numbers, host)
    site.play("backup", limit=host)
    before = site.status(host)["success"]
    lab.shell(LOST, host)
    site.play(limit=host)
    assert "is of another archive than the one on this host" in site.play("backup", limit=host, check=False)
    said = site.play("restore", limit=host)
    assert f"Orthanc serves its {before['instances']} images" in said
    assert site.images(host) == before["instances"]
    site.has(numbers, host)
    assert site.left(host) == ""
    site.send(range(330, 332), host)
    assert "Backed up" in site.play("backup", limit=host)
    assert site.wrong(host) == ""
    done = site.lab.play("site", site.variables, ["--limit", host], site.inventory).stdout
    assert [task for task in done.split("TASK [")[1:] if "\nchanged: " in task] == []


def test_restore_over_an_archive(site: Dumped) -> None:
    """With the exact words alone; the database of before is kept beside the images."""
    lab = site.lab
    site.play("backup", limit="pacs")
    count = site.images()
    site.send(range(700, 703))
    seen = lab.shell(STATE)
    assert "Nothing was restored, since" in site.play("restore", limit="pacs", check=False)
    assert lab.shell(STATE) == seen
    said = site.play("restore", limit="pacs", restore="archive of pacs")
    assert f"Orthanc serves its {count} images" in said
    assert site.images() == count
    aside = f"{ARCHIVE}/.pacs-before-*/index.sql"
    kept = lab.shell(f"tail -n 1 {aside}; grep -c RESTART-701 {aside}")
    assert re.match(r"-- Dump completed.*\n[1-9]", kept)
    assert site.left() == ""
    lab.shell(f"rm -r {ARCHIVE}/.pacs-before-*")


@pytest.mark.parametrize("host", HOSTS)
def test_patient_and_study_that_were_deleted_come_back(site: Dumped, host: str) -> None:
    """Into the archive that works, which keeps what has come since; nobody else is touched."""
    lab, sent = site.lab, range(500, 504)
    site.send(sent, host)
    site.play("backup", limit=host)
    count = site.images(host)
    names = [f"RESTART-{number}" for number in (500, 501)]
    with lab.session(host) as session:
        (found,) = session.post(lab.url("/tools/lookup", host), data=names[1], timeout=30).json()
        (study,) = session.get(lab.url(f"{found['Path']}/studies", host), timeout=30).json()
        for name in names:
            (patient,) = session.post(lab.url("/tools/lookup", host), data=name, timeout=30).json()
            assert session.delete(lab.url(patient["Path"], host), timeout=30).status_code == 200
    site.send(range(510, 512), host)
    # The newest backup does not have them.
    site.play("backup", limit=host)
    assert site.images(host) == count
    before = lab.shell(STATE, host)
    wanted = {"patients": names[:1], "studies": [study["MainDicomTags"]["StudyInstanceUID"]]}
    said = site.play("restore", limit=host, check=True, **wanted)
    assert said.count("brought: 1") == 2, said
    assert site.images(host) == count + 2
    site.has(range(500, 504), host)
    site.has(range(510, 512), host)
    assert lab.shell(STATE, host) == before
    assert site.left(host) == ""
    assert "no backup has it" in site.play("restore", limit=host, check=False, patients=["nobody"])
    assert "Nothing was restored" in site.play("restore", limit=host, check=False, patients="RESTART-500")
    assert "Nothing was restored" in site.play("restore", limit=host, check=False, studies=["RESTART-500"])
    together: dict[str, Any] = {"patients": names, "restore": f"archive of {host}"}
    assert "Nothing was restored" in site.play("restore", limit=host, check=False, **together)
    assert names[0] not in lab.shell("journalctl --no-pager -u ssh -t sudo -t python3 | cat", host)


def test_files_that_are_gone_or_damaged_come_back(site: Dumped) -> None:
    """As many as were told, each as the index has it."""
    lab = site.lab
    site.send(range(520, 524))
    site.play("backup", limit="pacs")
    names = [f"RESTART-{number}" for number in (520, 521)]
    first, second = (lab.shell(f"grep -rl {name} {ARCHIVE} --include='*-*' | head -n 1").strip() for name in names)
    lab.shell(f"cp -p {second} /root/damaged; rm {first}; printf X | dd of={second} bs=1 seek=400 conv=notrunc")
    said = site.play("reconcile", limit="pacs", check=False)
    assert "1 of them are missing, 0 are cut off, and 1 have another content" in said
    assert "Nothing was restored" in site.play("restore", limit="pacs", check=False, missing="2 files of old")
    assert "has found 2 such files, and not 3" in site.play(
        "restore", limit="pacs", check=False, missing="3 files of pacs"
    )
    assert "brought: 2 deleted since: 0 left: []" in site.play("restore", limit="pacs", missing="2 files of pacs")
    assert "All of them are there as they were." in site.play("reconcile", limit="pacs")
    site.has(range(520, 524))
    assert site.left() == ""
    lab.shell(f"cmp {second} /root/damaged; ls {ARCHIVE}/.pacs-before-*/*-*; rm -r {ARCHIVE}/.pacs-before-*")


@pytest.mark.parametrize("cut", ["index-recovered", "loaded"])
def test_restore_that_was_cut_off_goes_on(site: Dumped, cut: str) -> None:
    """Before anything is changed, and in the middle of the dump that is read."""
    lab = site.lab
    site.play("backup", limit="pacs")
    before = site.images()
    lab.shell(
        "python3 -B - <<'END'\nimport os, sys\n"
        "sys.path.insert(0, '/etc/pacs/backup')\n"
        "from pacs_backup import mariadb, restore\n"
        "from pacs_backup.backup import Backup\n"
        "from pacs_backup.common import HERE, read\n"
        "from pathlib import Path\n"
        "made, loaded, differ = restore.Restore(Backup(read(HERE / 'settings.json'))),"
        " mariadb.Mariadb.loaded, restore.differ\n"
        "def half(self, dump):\n"
        f"    if 'loaded' == '{cut}' and not self._socket:\n"
        "        text = dump.read_bytes(); open('/root/half', 'wb').write(text[:len(text) // 2])\n"
        "        try: loaded(self, Path('/root/half'))\n"
        "        finally: os._exit(0)\n"
        "    loaded(self, dump)\n"
        "def compared(*lists):\n"
        f"    if '{cut}' == 'index-recovered': os._exit(0)\n"
        "    return differ(*lists)\n"
        "mariadb.Mariadb.loaded, restore.differ = half, compared\n"
        "made.run('latest', True)\nEND"
    )
    if cut != "index-recovered":
        lab.shell("systemctl start orthanc", check=False)
        assert lab.shell("systemctl is-active orthanc", check=False) == "inactive\n"
        assert "A restore was cut off" in site.wrong()
    said = site.play("restore", limit="pacs", restore="archive of pacs")
    assert f"Orthanc serves its {before} images" in said
    site.has(range(300, 305))
    assert site.left() == ""
    lab.shell(f"rm -rf {ARCHIVE}/.pacs-before-*")


def test_restore_onto_the_other_release(site: Dumped) -> None:
    """The dump of Debian 12's MariaDB is read by that of Debian 13, and its Orthanc goes on with the index."""
    lab = site.lab
    site.send(range(800, 805), "old")
    site.play("backup", limit="old")
    there = site.status("old")["success"]
    lab.shell(f"mv {REPOSITORY} {REPOSITORY}.mine; rm {KEPT}/repository.json")
    copied = f"docker exec {lab.container('old')} tar -c {REPOSITORY} | docker exec -i {lab.container()} tar -x -C /"
    run("sh", "-euc", copied)
    site.play(limit="pacs")
    said = site.play("restore", limit="pacs", restore="archive of pacs", snapshot=there["snapshot"][:8])
    assert f"Orthanc serves its {there['instances']} images" in said
    site.has(range(800, 805))
    site.send(range(900, 902))
    assert site.images() == there["instances"] + 2


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("attack", [r"\\! id > OWNED", "system id > OWNED", r"\\T OWNED", r"\\. /etc/passwd", "edit"])
def test_dump_that_attacks_gives_nobody_a_shell(site: Dumped, host: str, attack: str) -> None:
    """Neither by a drill nor by a restore, which leaves the archive as it is; to call an editor does nothing."""
    lab, count = site.lab, site.images(host)
    lab.shell(f"printf '#!/bin/sh\ntouch {ARCHIVE}/owned\n' > /usr/local/bin/vi; chmod 755 /usr/local/bin/vi", host)
    lab.shell(INSTEAD.format(does=ATTACKS.format(attack=attack.replace("OWNED", f"{ARCHIVE}/owned"))), host)
    try:
        assert "Backed up" in site.play("backup", limit=host)
    finally:
        lab.shell("rm /usr/local/bin/mariadb-dump", host)
    said = site.play("drill", limit=host, check=False)
    said += site.play("restore", limit=host, check=False, restore=f"archive of {host}")
    assert said.count("The dump of the index cannot be read") >= 2 or attack == "edit"
    assert lab.shell(f"ls {ARCHIVE} | grep owned; rm /usr/local/bin/vi", host, check=False) == ""
    assert site.images(host) == count
    assert "Backed up" in site.play("backup", limit=host)


def test_removal(site: Dumped) -> None:
    """The repository stays, and the database works without it."""
    site.play("backup", limit="old")
    site.play("remove", limit="old", remove="service of old")
    left = "find /etc /var/lib /var/cache -path '*pacs*backup*' -o -path '*pacs*drill*'"
    assert site.lab.shell(f"{left} | grep -v {ARCHIVE}", "old", check=False) == ""
    assert "snapshots" in site.lab.shell(f"ls {REPOSITORY}", "old")

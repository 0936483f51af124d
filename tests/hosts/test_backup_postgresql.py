"""An archive whose index is in PostgreSQL is backed up, proved, lost, and had again as it was at some moment."""

from __future__ import annotations

import json
import pathlib
import re
import threading
import time
from typing import Any

import pytest
import yaml

from tests.hosts.conftest import ROOT, Lab
from tests.hosts.test_backup import ARCHIVE, KEPT, PASSWORD, REPOSITORY, STATE, Site
from tests.hosts.test_database import image
from tests.hosts.test_site import changed

pytestmark = pytest.mark.later
# The one with its DICOM files in a folder, the other with all of it in the database.
HOSTS = {"pacs": "1.12.7", "old": "1.10.1"}
LAB = {"name": "backup-postgresql", "pacs": "trixie-installed", "old": "bookworm-installed"}
BESIDE = f"{REPOSITORY}-postgresql"
# A host that has lost its archive, and all that knew of it.
LOST = f"""systemctl stop nginx orthanc pacs-backup.timer; cluster=$(pg_lsclusters --no-header | cut -d ' ' -f 1)
pg_dropcluster --stop $cluster main; rm -rf /etc/pacs /var/lib/pacs /var/cache/pacs-backup {ARCHIVE}
rm -f /etc/nginx/conf.d/orthanc* /etc/systemd/system/orthanc.service; pg_createcluster $cluster main"""
# One file of those that a command prints has its middle changed.
DAMAGE = """file=$({find} | head -n 1); cp -a $file /root/kept; echo $file > /root/damaged
python3 - $file <<'END'
import sys
with open(sys.argv[1], "r+b") as file:
    content = bytearray(file.read())
    content[len(content) // 2] ^= 1
    file.seek(0)
    file.write(content)
END"""


class Databases(Site):
    """Orthancs of both releases with PostgreSQL beside them, whose backups go to folders."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory = lab, folder / "inventory"
        self.inventory.mkdir()
        groups = {group: {"hosts": dict.fromkeys(HOSTS)} for group in ("orthanc", "postgresql", "nginx", "backup")}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
        (self.inventory / "group_vars").symlink_to(ROOT / "inventories" / "single" / "group_vars")
        (lab.folder / "host_vars").mkdir(exist_ok=True)
        inside = json.dumps({"orthanc_database_storage": True})
        (lab.folder / "host_vars" / "old.json").write_text(inside, encoding="utf-8")
        self.variables: dict[str, Any] = {
            "backup_repository": REPOSITORY,
            "backup_password": PASSWORD,
            # Of one day, too.
            "backup_keep": {"last": 30},
            "orthanc_settings": {"OverwriteInstances": True},
        }

    def images(self, host: str = "pacs") -> int:
        with self.lab.session(host) as session:
            found = session.get(self.lab.url("/statistics", host), timeout=30).json()
        return int(found["CountInstances"])

    def has(self, numbers: range, host: str = "pacs") -> None:
        """See that images are handed out bit for bit."""
        with self.lab.session(host) as session:
            for number in numbers:
                name = f"RESTART-{number}"
                (patient,) = session.post(self.lab.url("/tools/lookup", host), data=name, timeout=30).json()
                (one,) = session.get(self.lab.url(f"{patient['Path']}/instances", host), timeout=30).json()
                file = session.get(self.lab.url(f"/instances/{one['ID']}/file", host), timeout=30)
                assert file.content == image(number)

    def moment(self) -> str:
        """Return a time at which nothing happens, and before and after which something may."""
        return self.lab.shell("sleep 1.1; date '+%F %T'; sleep 1.1").strip()

    def left(self, host: str = "pacs") -> str:
        return self.lab.shell(
            f"ls -a {ARCHIVE} /var/lib/postgresql/* /run | grep -E 'pacs-(drill|restore)'", host, False
        )


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Databases:
    made = Databases(lab, tmp_path_factory.mktemp("backup"))
    for host in HOSTS:
        # The file system of a lab's host renames no folder that is in its image.
        lab.shell("cd /var/lib/postgresql/*; cp -a main copy; rm -r main; mv copy main", host)
    made.play()
    return made


def test_second_run_changes_nothing(site: Databases) -> None:
    for arguments in ([], ["--check", "--diff"]):
        done = site.lab.play("site", site.variables, arguments, site.inventory).stdout
        assert not changed(done)
        assert PASSWORD not in done


def test_key_is_for_root_and_the_server_alone(site: Databases) -> None:
    found = f"grep -rlF '{PASSWORD}' /etc /var/lib/pacs /var/log || true"
    cipher = (
        "key=$(sed -n 's/repo1-cipher-pass=//p' /etc/pacs/pgbackrest/pgbackrest.conf); grep -rlF $key /etc /var || true"
    )
    for host in HOSTS:
        assert site.lab.shell(found, host).split() == ["/etc/pacs/backup/password"]
        assert site.lab.shell(cipher, host).split() == ["/etc/pacs/pgbackrest/pgbackrest.conf"]
        assert site.lab.shell("stat --format '%a %U %G' /etc/pacs/pgbackrest/*.conf", host) == "640 root postgres\n"


@pytest.mark.parametrize("host", HOSTS)
def test_backup_while_images_come_and_go(site: Databases, host: str) -> None:
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
def test_drill(site: Databases, host: str) -> None:
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
    assert report["files"] == (success["files"] if host == "pacs" else 0)
    assert site.left(host) == ""


def test_drill_lets_nobody_be_the_server(site: Databases) -> None:
    """Orthanc gets to its index there, and to nothing that runs programs."""
    folder = "/run/pacs-drill-postgresql/sockets"
    said = site.lab.shell(
        f"ask() {{ runuser -u orthanc -- psql -h {folder} -U $1 -XAtc 'select 77' $2 2>&1; }}; cd /;"
        ' systemctl start --no-block pacs-drill; until [ "$(ask orthanc orthanc)" = 77 ]; do sleep 0.1; done;'
        " ask postgres postgres; ask postgres orthanc;"
        " while systemctl is-active pacs-drill | grep -q activating; do sleep 0.5; done"
    )
    assert said.count('Peer authentication failed for user "postgres"') == 2
    assert site.status()["drill"]["wrong"] == ""


def test_autovacuum_gives_way(site: Databases) -> None:
    """On a big index it takes hours."""
    lab, psql = site.lab, "runuser -u postgres -- psql -XAtqc"
    slow = "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 1"
    worker = "select count(*) from pg_stat_activity where query like 'autovacuum: VACUUM%attachedfiles%'"
    updates = "do 'begin for i in 1..40 loop update attachedfiles set compressedsize = compressedsize; end loop; end'"
    cancelled = "cat /var/log/postgresql/*.log | grep -c 'canceling autovacuum task' || true"
    before = int(lab.shell(cancelled))
    lab.shell(
        f"""cd /; {psql} 'alter table attachedfiles set ({slow})' orthanc
        {psql} "alter system set autovacuum_naptime = '1s'"; {psql} 'select pg_reload_conf()'
        {psql} "{updates}" orthanc; until [ "$({psql} "{worker}")" = 1 ]; do sleep 0.1; done"""
    )
    try:
        assert "Backed up" in site.play("backup", limit="pacs")
        assert int(lab.shell(cancelled)) > before
        assert site.wrong() == ""
    finally:
        names = ", ".join(one.split(" = ")[0] for one in slow.split(", "))
        lab.shell(
            f"cd /; {psql} 'alter table attachedfiles reset ({names})' orthanc;"
            f" {psql} 'alter system reset autovacuum_naptime'; {psql} 'select pg_reload_conf()'"
        )


@pytest.mark.parametrize(
    "find",
    [
        f"find {BESIDE}/backup/pacs/*F/pg_data/base -type f -size +20k | sort",
        f"find {BESIDE}/archive/pacs/*-1 -name '0*-*' -type f | sort -r",
    ],
    ids=["database", "log"],
)
def test_byte_changed_in_the_repository_is_found(site: Databases, find: str) -> None:
    lab = site.lab
    lab.shell(DAMAGE.format(find=find))
    try:
        said = site.play("drill", limit="pacs", check=False)
        assert "failed=1" in said
        assert site.status()["drill"]["wrong"]
        assert site.left() == ""
    finally:
        lab.shell("cp -a --remove-destination /root/kept $(cat /root/damaged)")
    assert "is whole" in site.play("drill", limit="pacs")


def test_log_that_does_not_get_to_the_repository(site: Databases) -> None:
    """It is told, waits, and goes there as soon as it can."""
    lab = site.lab
    switch = "runuser -u postgres -- psql -Xqc 'select pg_switch_wal()' postgres"
    waits = "until ls /var/lib/postgresql/*/main/pg_wal/archive_status/*.ready; do sleep 0.2; done"
    failed = "select count(*) from pg_stat_archiver where last_failed_time > coalesce(last_archived_time, '-infinity')"
    told = f'until [ $(runuser -u postgres -- psql -XAtc "{failed}") = 1 ]; do sleep 0.5; done'
    lab.shell("mv /srv/backup /srv/away")
    try:
        site.send(range(50, 52))
        lab.shell(f"{switch}; {waits}; {told}")
        assert "does not get to the repository" in site.wrong()
    finally:
        lab.shell("mv /srv/away /srv/backup")
    lab.shell("until ! ls /var/lib/postgresql/*/main/pg_wal/archive_status/*.ready; do sleep 0.5; done")
    assert site.wrong() == ""


def test_repository_with_another_key(site: Databases) -> None:
    site.lab.shell("cd /etc/pacs/pgbackrest; cp -a pgbackrest.conf /root/; sed -i 's/-pass=./-pass=x/' pgbackrest.conf")
    try:
        said = site.play("backup", limit="pacs", check=False)
        assert "it has another key, or is damaged" in said
    finally:
        site.lab.shell("cp -a /root/pgbackrest.conf /etc/pacs/pgbackrest/")
    assert "Backed up" in site.play("backup", limit="pacs")


def test_killed_while_pgbackrest_is_at_work(site: Databases) -> None:
    lab = site.lab
    lab.shell(
        "systemctl start --no-block pacs-backup; until pgrep -f 'pgbackrest .* backup$'; do sleep 0.01; done;"
        " systemctl kill --signal KILL pacs-backup;"
        " while systemctl show pacs-backup --property=ActiveState | grep -q activating; do sleep 0.1; done"
    )
    assert "ended from outside" in site.wrong()
    assert "Backed up" in site.play("backup", limit="pacs")
    assert site.wrong() == ""


@pytest.mark.parametrize("host", HOSTS)
def test_restore_onto_a_host_that_has_lost_all(site: Databases, host: str) -> None:
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
    lab.shell("rm -r /var/lib/postgresql/*/.pacs-before-*", host)
    site.send(range(330, 332), host)
    assert "Backed up" in site.play("backup", limit=host)
    assert site.wrong(host) == ""
    done = site.lab.play("site", site.variables, ["--limit", host], site.inventory).stdout
    assert [task for task in done.split("TASK [")[1:] if "\nchanged: " in task] == []


@pytest.mark.parametrize("host", HOSTS)
def test_as_it_was_at_a_moment(site: Databases, host: str) -> None:
    """With the images of then, also those that were deleted since; where no backup has the file of one, it is told."""
    lab = site.lab
    site.send(range(400, 410), host)
    site.play("backup", limit=host)
    with lab.session(host) as session:
        wanted = [session.post(lab.url("/instances", host), data=image(n), timeout=60).json()["ID"] for n in (410, 411)]
    count, moment = site.images(host), site.moment()
    with lab.session(host) as session:
        (patient,) = session.post(lab.url("/tools/lookup", host), data="RESTART-405", timeout=30).json()
        for path in (patient["Path"], f"/instances/{wanted[0]}"):
            assert session.delete(lab.url(path, host), timeout=30).status_code == 200
    site.send(range(412, 415), host)
    site.play("backup", limit=host)
    newest = site.images(host)
    seen = lab.shell(STATE, host)
    assert "Nothing was restored, since" in site.play("restore", limit=host, check=False, at=moment)
    assert "Nothing was restored" in site.play("restore", limit=host, check=False, at="yesterday")
    assert lab.shell(STATE, host) == seen
    words: dict[str, Any] = {"restore": f"archive of {host}"}
    said = site.play("restore", limit=host, at=moment, **words)
    assert f"Orthanc serves its {count} images" in said
    site.has(range(400, 410), host)
    site.has(range(411, 412), host)
    # Of the one that came and went between two backups there is no file, but where the database has it.
    (missing,) = re.findall(r"missing: (\[\]|- [0-9a-f-]{36} of [0-9a-f-]{44})", said)
    assert missing == "[]" if host == "old" else wanted[0] in missing
    # And from there to what came after that moment: nothing of it is lost.
    said = site.play("restore", limit=host, **words)
    assert f"Orthanc serves its {newest} images" in said
    site.has(range(412, 415), host)
    assert site.left(host) == ""
    lab.shell(f"rm -r /var/lib/postgresql/*/.pacs-before-* {ARCHIVE}/.pacs-before-*", host, False)
    assert "Backed up" in site.play("backup", limit=host)
    assert "is whole" in site.play("drill", limit=host)


def test_moment_that_a_restore_has_left_behind(site: Databases) -> None:
    """And moments after it, of which there is no backup yet: each is had from a backup before all of them."""
    lab = site.lab
    words: dict[str, Any] = {"restore": "archive of old"}
    site.send(range(500, 503), "old")
    site.play("backup", limit="old")
    first, count = site.moment(), site.images("old")
    site.send(range(510, 512), "old")
    left = site.moment()
    assert "still to come" in site.play("restore", limit="old", check=False, at="2999-01-01 00:00", **words)
    assert f"Orthanc serves its {count} images" in site.play("restore", limit="old", at=first, **words)
    site.send(range(520, 525), "old")
    assert f"Orthanc serves its {count + 5} images" in site.play("restore", limit="old", at=site.moment(), **words)
    site.has(range(520, 525), "old")
    site.send(range(530, 532), "old")
    assert f"Orthanc serves its {count + 7} images" in site.play("restore", limit="old", at="end", **words)
    assert f"Orthanc serves its {count + 2} images" in site.play("restore", limit="old", at=left, **words)
    site.has(range(510, 512), "old")
    lab.shell(f"rm -r /var/lib/postgresql/*/.pacs-before-* {ARCHIVE}/.pacs-before-*", "old", False)


@pytest.mark.parametrize("cut", ["main", "start"])
def test_restore_that_was_cut_off_goes_on(site: Databases, cut: str) -> None:
    """When the database of before is out of the way and the other not in its place, and when it is to start."""
    lab = site.lab
    site.send(range(400, 405))
    site.play("backup", limit="pacs")
    before = site.status()["success"]["instances"]
    lab.shell(
        "python3 -B - <<'END'\nimport os, sys\n"
        "sys.path.insert(0, '/etc/pacs/backup')\n"
        "from pacs_backup import restore\n"
        "from pacs_backup.backup import Backup\n"
        "from pacs_backup.common import HERE, read\n"
        "made, rename, service = restore.Restore(Backup(read(HERE / 'settings.json'))), os.rename, restore.service\n"
        "seen = []\n"
        "def cut(*words, **folders):\n"
        "    seen.append(words[0])\n"
        f"    if seen.count('{cut}') == {3 if cut == 'main' else 1}: os._exit(0)\n"
        "    (rename if folders else service)(*words, **folders)\n"
        "os.rename = restore.service = cut\n"
        "made.run('latest', True)\nEND"
    )
    lab.shell("systemctl start orthanc", check=False)
    assert lab.shell("systemctl is-active orthanc", check=False) == "inactive\n"
    assert "A restore was cut off" in site.wrong()
    said = site.play("restore", limit="pacs")
    assert f"Orthanc serves its {before} images" in said
    site.has(range(400, 405))
    assert site.left() == ""
    lab.shell(f"rm -r /var/lib/postgresql/*/.pacs-before-* {ARCHIVE}/.pacs-before-*", check=False)


def test_restore_onto_the_other_release(site: Databases) -> None:
    """PostgreSQL of Debian 12 does not read what that of Debian 13 has written."""
    lab, snapshot = site.lab, site.status()["success"]["snapshot"][:8]
    lab.shell(
        "cp -a /etc/pacs/backup/pacs_backup/cluster.py /root/;"
        " sed -i 's/self.found\\[0\\]:/\"15\":/' /etc/pacs/backup/pacs_backup/cluster.py"
    )
    try:
        seen = lab.shell(STATE)
        said = site.play("restore", limit="pacs", check=False, restore="archive of pacs", snapshot=snapshot)
        assert "Nothing was restored: the backup is of PostgreSQL 17, and this host has" in said
        assert lab.shell(STATE) == seen
    finally:
        lab.shell("cp -a /root/cluster.py /etc/pacs/backup/pacs_backup/")


def test_removal(site: Databases) -> None:
    """The repository stays, and the database works without it; what a restore has kept is told."""
    site.play("backup", limit="old")
    kept = site.lab.shell(
        "cd /var/lib/postgresql/15; mkdir .pacs-before-x .pacs-drill-postgresql; ls -d $PWD/.pacs-*", "old"
    )
    said = site.play("remove", limit="old", remove="service of old")
    assert ", ".join(kept.split()) in said
    site.lab.shell(f"rmdir {' '.join(kept.split())}", "old")
    left = "find /etc /var/lib /var/cache -path '*pacs*backup*' -o -path '*pacs*drill*' -o -path '*pacs/pgbackrest*'"
    assert site.lab.shell(f"{left} | grep -v {ARCHIVE}", "old", check=False) == ""
    switch = "runuser -u postgres -- psql -XAtqc 'select pg_switch_wal()' postgres"
    site.lab.shell(f"{switch}; sleep 1; ! ls /var/lib/postgresql/*/main/pg_wal/archive_status/*.ready", "old")
    assert site.lab.shell(f"ls {BESIDE}", "old").split() == ["archive", "backup"]

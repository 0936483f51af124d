"""An archive that two Orthancs have on one database of three servers is backed up, proved and had again.

Whichever host is primary: ``make test-cluster-backup``. The store is a stand-in, as in ``test_backup_stores``.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.hosts.cluster import NAMES, PATIENCE, Cluster
from tests.hosts.conftest import ENVIRONMENT, RELEASE, Lab, run
from tests.hosts.test_backup import PASSWORD
from tests.hosts.test_backup_stores import ALLOWED, SECRET, STORE
from tests.hosts.test_database import image
from tests.hosts.test_site import changed

ORTHANCS = NAMES[:2]
REPORT = "python3 -B /etc/pacs/backup/backup.py report"
# A backup as the timer begins it.
BACKUP = "systemctl start pacs-backup"
TOOL = "patronictl -c /etc/patroni/*-main.yml"
STATE = "systemctl show orthanc patroni@17-main --property=InvocationID,NRestarts,ActiveState"
PSQL = "runuser -u postgres -- psql -XAtc"
# As soon as nobody gets into the database, somebody has the list of databases for himself.
HOLDS = """cat > /root/holds.sql <<'END'
do $$ begin
  while (select datallowconn from pg_database where datname = 'orthanc') loop perform pg_sleep(0.001); end loop;
  lock table pg_database in share mode; perform pg_sleep(600);
end $$;
END
systemd-run --quiet --collect --unit=holds --uid=postgres --property=StandardInput=file:/root/holds.sql psql -Xq"""
WAITS = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ~ '^ALTER.*RENAME'"
LETS = "select pg_terminate_backend(pid) from pg_stat_activity where query ~ '^do .. begin'"
# A restore that is killed, with all that it has begun.
RESTORES = (
    "systemd-run --quiet --collect --unit=restores --property=KillMode=control-group"
    " python3 -B /etc/pacs/backup/backup.py restore --over"
)
KILLED = "systemctl kill --signal KILL restores; while systemctl is-active --quiet restores; do sleep 0.1; done"
# A host that has lost its archive, and all that knew of it.
LOST = """systemctl stop nginx haproxy keepalived orthanc pacs-backup.timer 'patroni@*' etcd 2> /dev/null || true
rm -rf /etc/pacs /var/lib/pacs /var/cache/pacs-backup /var/lib/orthanc/db-v6 /etc/patroni/*-main.yml /var/lib/etcd/pacs
rm -rf /var/lib/postgresql/*/main /etc/postgresql/*/main /var/lib/postgresql/*/.pacs-*
rm -f /etc/nginx/conf.d/orthanc* /etc/systemd/system/orthanc.service"""


class Backed(Cluster):
    """The shipped inventory, whose backups go to a bucket."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.numbers = lab, 0
        self.prepare()
        super().__init__(lab)

    def prepare(self) -> None:
        lab = self.lab
        credentials = [{"accessKey": "CLUSTER", "secretKey": SECRET}]
        actions = [f"{action}:cluster" for action in ALLOWED]
        keeper = [{"accessKey": "KEEPER", "secretKey": f"{SECRET}: keeper"}]
        identities = [
            {"name": "cluster", "credentials": credentials, "actions": actions},
            {"name": "keeper", "credentials": keeper, "actions": ["Admin"]},
        ]
        weed = shutil.which("weed", path=ENVIRONMENT["PATH"])
        assert weed, "The store is not installed: make .venv/done-test"
        run("docker", "cp", weed, f"{lab.container('store')}:/usr/local/bin/weed")
        lab.shell(STORE.replace("IDENTITIES", json.dumps({"identities": identities})), "store")
        lab.shell("printf 'lock\\ns3.bucket.create -name cluster\\nunlock\\n' | weed shell -master=store:9333", "store")
        (lab.folder / "backup.json").write_text(
            json.dumps({"backup": {"hosts": dict.fromkeys(NAMES)}}), encoding="utf-8"
        )
        variables = {
            "backup_repository": "s3:https://store/cluster/of/it",
            "backup_s3_key": "CLUSTER",
            "backup_s3_secret": SECRET,
            "backup_ca": lab.shell("cat /etc/store/ca.crt", "store"),
            "backup_password": PASSWORD,
            # Of one day, too.
            "backup_keep": {"last": 30},
        }
        (lab.folder / "group_vars" / "all").mkdir(parents=True, exist_ok=True)
        (lab.folder / "group_vars" / "all" / "backup.json").write_text(json.dumps(variables), encoding="utf-8")

    def play(self, *arguments: str, playbook: str = "site", **options: Any) -> str:
        said = super().play(*arguments, playbook=playbook, **options)
        # What is told is broken into lines.
        return said if playbook == "site" else " ".join(said.split())

    # What hosts say.

    def status(self, host: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.lab.shell(REPORT, host))
        return found

    def wrong(self) -> dict[str, str]:
        return {host: self.status(host)["wrong"] for host in NAMES}

    def images(self, host: str = "pacs") -> int:
        end = time.monotonic() + PATIENCE
        while True:
            with self.lab.session(host) as session:
                answer = session.get(self.lab.url("/statistics", host), timeout=60)
            if answer.status_code == 200:
                return int(answer.json()["CountInstances"])
            assert time.monotonic() < end, answer.text
            time.sleep(0.5)

    def send(self, numbers: range, host: str = "pacs") -> None:
        """Send images, each until it is taken."""
        with self.lab.session(host) as session:
            for number in numbers:
                end = time.monotonic() + PATIENCE
                url = self.lab.url("/instances", host)
                while session.post(url, data=image(number), timeout=60).status_code != 200:
                    assert time.monotonic() < end
                    time.sleep(0.5)

    def found(self, number: int, host: str) -> bytes:
        """Return an image as a host hands it out; nothing if it does not have it."""
        with self.lab.session(host) as session:
            there = session.post(self.lab.url("/tools/lookup", host), data=f"RESTART-{number}", timeout=60).json()
            if not there:
                return b""
            (one,) = session.get(self.lab.url(f"{there[0]['Path']}/instances", host), timeout=60).json()
            return session.get(self.lab.url(f"/instances/{one['ID']}/file", host), timeout=60).content

    def has(self, numbers: range) -> None:
        """See that both hand out images bit for bit."""
        for host in ORTHANCS:
            for number in numbers:
                assert self.found(number, host) == image(number), (number, host)

    def moment(self) -> str:
        """Return a time at which nothing happens, and before and after which something may."""
        return self.lab.shell("sleep 2.1; date '+%F %T'; sleep 2.1").strip()

    def switch(self, host: str) -> None:
        """Have a server be primary."""
        self.wait_until_whole()
        for _ in range(6):
            primary, ready = self.primary(), [n for n, one in self.members().items() if one["Role"] == "Sync Standby"]
            if primary == host:
                return
            self.lab.shell(
                f"{TOOL} switchover $(basename /etc/patroni/*-main.yml .yml) --leader {primary}"
                f" --candidate {host if host in ready else ready[0]} --force"
            )
            self.wait_until_whole()
        pytest.fail(f"{host} does not become primary: {self.members()}")

    def restore(self, check: bool = True, **words: Any) -> str:
        return self.play("-e", json.dumps(words), playbook="restore", check=check)

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[float]]:
        """Tell for how long a client got nothing from either, each time."""
        over, waits = threading.Event(), [0.0]

        def look() -> None:
            last = time.monotonic()
            while not over.is_set():
                for host in ORTHANCS:
                    with contextlib.suppress(requests.RequestException), self.lab.session(host) as session:
                        if session.get(self.lab.url("/statistics", host), timeout=10).status_code == 200:
                            waits.append(time.monotonic() - last)
                            last = time.monotonic()
                time.sleep(0.1)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield waits
        finally:
            over.set()
            watcher.join()

    def taken_back(self, kept: str) -> list[str]:
        """Return whether what a restore has kept can be had by hand."""
        allow = f"cd /; {PSQL} 'alter database {kept} allow_connections {{}}'"
        asked = f"{PSQL} 'select count(*) > 0 from resources' {kept}"
        return self.lab.shell(
            f"{allow.format('true')} > /dev/null; {asked}; {allow.format('false')} > /dev/null"
        ).split()

    def tidied(self) -> None:
        """Remove what restores have kept."""
        for name in self.databases(self.primary())[1:]:
            self.lab.shell(f"cd /; {PSQL} 'drop database {name} with (force)'", self.primary())

    def databases(self, host: str) -> list[str]:
        return self.lab.shell(
            f"cd /; {PSQL} \"select datname from pg_database where datname ~ '^orthanc' order by 1\"", host
        ).split()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Backed]:
    lab = Lab(f"cluster-backup-{RELEASE}", **dict.fromkeys((*NAMES, "store"), RELEASE))
    yield Backed(lab)
    if not os.environ.get("PACS_KEEP_LABS"):
        lab.destroy()


def test_second_run_changes_nothing(cluster: Backed) -> None:
    cluster.wait_until_whole()
    for arguments in ([], ["--check", "--diff"]):
        done = cluster.play(*arguments)
        assert not changed(done)
        assert SECRET not in done
    for host in NAMES:
        found = cluster.lab.shell("stat --format '%a %U %G' /etc/pacs/backup/s3.json /etc/pacs/pgbackrest/*.conf", host)
        assert found.splitlines() == ["600 root root", "640 root postgres"]


@pytest.mark.parametrize("primary", [NAMES[0], NAMES[2], NAMES[1]])
def test_one_of_them_makes_the_backup(cluster: Backed, primary: str) -> None:
    """Whoever is primary, or the first Orthanc where that is on a host without one; the others say who does."""
    lab, keeper = cluster.lab, primary if primary in ORTHANCS else ORTHANCS[0]
    cluster.switch(primary)
    cluster.send(range(cluster.numbers, cluster.numbers + 20), keeper)
    cluster.numbers += 20
    begin = int(lab.shell("date +%s"))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: lab.shell(BACKUP, host, timeout=1800), NAMES))
    told = {host: cluster.status(host) for host in NAMES}
    assert {host: one["wrong"] for host, one in told.items()} == dict.fromkeys(NAMES, "")
    assert {host: one["elsewhere"] for host, one in told.items()} == dict.fromkeys(NAMES, keeper) | {keeper: ""}
    assert told[keeper]["success"]["instances"] == cluster.images()
    assert told[keeper]["success"]["epoch"] >= begin
    assert told[keeper]["success"]["pause_seconds"] < 1.5
    said = cluster.play(playbook="backup")
    assert said.count("Backed up ") == 1
    assert said.count(f"{keeper} makes the backups of the archive of") == 2


def test_drill(cluster: Backed) -> None:
    """Beside a primary, and beside a standby."""
    cluster.switch(ORTHANCS[1])
    before = {host: cluster.lab.shell(STATE, host) for host in ORTHANCS}
    said = cluster.play(playbook="drill")
    assert said.count(f"has all {cluster.status(ORTHANCS[1])['success']['instances']} images") == 2
    assert {host: cluster.lab.shell(STATE, host) for host in ORTHANCS} == before
    for host in ORTHANCS:
        assert cluster.lab.shell("ls -a /var/lib/postgresql/* | grep pacs-", host, check=False) == ""


def test_backups_go_on_where_the_host_of_the_primary_is_lost(cluster: Backed) -> None:
    """What came before and after is had, and nobody is needed."""
    lab, lost = cluster.lab, NAMES[0]
    cluster.switch(lost)
    cluster.send(range(cluster.numbers, cluster.numbers + 5), ORTHANCS[1])
    run("docker", "kill", lab.container(lost))
    end, primary = time.monotonic() + PATIENCE, lost
    while primary in ("", lost):
        assert time.monotonic() < end
        primary = next((name for name, one in cluster.members(lost).items() if one["Role"] == "Leader"), "")
        time.sleep(1)
    cluster.send(range(cluster.numbers + 5, cluster.numbers + 10), ORTHANCS[1])
    cluster.numbers += 10
    left = [name for name in NAMES if name != lost]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: lab.shell(BACKUP, host, timeout=1800), left))
    assert {host: cluster.status(host)["wrong"] for host in left} == dict.fromkeys(left, "")
    keeper = cluster.status(ORTHANCS[1])
    assert keeper["elsewhere"] == ""
    assert keeper["success"]["instances"] == cluster.images(ORTHANCS[1])
    run("docker", "start", lab.container(lost))
    cluster.wait_until_whole()
    assert "is whole" in cluster.play("--limit", ORTHANCS[1], playbook="drill")


def test_as_it_was_at_a_moment(cluster: Backed) -> None:
    """On both Orthancs and all servers, which stay what they are; and what came after that is had as well."""
    lab, first = cluster.lab, cluster.numbers
    cluster.switch(ORTHANCS[0])
    cluster.send(range(first, first + 5))
    count, moment = cluster.images(), cluster.moment()
    with lab.session() as session:
        (patient,) = session.post(lab.url("/tools/lookup"), data=f"RESTART-{first}", timeout=60).json()
        assert session.delete(lab.url(patient["Path"]), timeout=60).status_code == 200
    cluster.send(range(first + 5, first + 8), ORTHANCS[1])
    newest, later = cluster.images(), cluster.moment()
    cluster.numbers += 8
    before, members = {host: lab.shell(STATE, host) for host in NAMES}, cluster.members()
    assert "Nothing was restored, since" in cluster.restore(check=False, at=moment)
    assert "One archive is restored at a time" in cluster.play("--limit", "pacs", playbook="restore", check=False)
    assert {host: lab.shell(STATE, host) for host in NAMES} == before
    words: dict[str, Any] = {"restore": f"archive of {ORTHANCS[0]}"}
    # Clients go on meanwhile: for how long nobody is served.
    with cluster.watched() as waits:
        said = cluster.restore(at=moment, **words)
    print(f"a restore of {count} images: nobody was served for {max(waits):.1f} s")
    assert f"Orthanc serves its {count} images" in said
    assert [cluster.images(host) for host in ORTHANCS] == [count, count]
    cluster.has(range(first, first + 5))
    assert not cluster.found(first + 6, ORTHANCS[1])
    assert len(set(cluster.rows())) == 1
    assert [one["Role"] for one in cluster.members().values()] == [one["Role"] for one in members.values()]
    assert cluster.members()["pacs"]["TL"] == members["pacs"]["TL"]
    (kept,) = re.findall(r"the database (orthanc_before_\d+) of its servers", said)
    assert all(cluster.databases(host) == ["orthanc", kept] for host in NAMES)
    assert cluster.taken_back(kept) == ["t"]
    # Of what came after that moment nothing is lost by it.
    assert f"Orthanc serves its {newest} images" in cluster.restore(at=later, **words)
    cluster.has(range(first + 5, first + 8))
    assert not cluster.found(first, ORTHANCS[0])
    assert not changed(cluster.play())
    assert "Backed up" in cluster.play(playbook="backup")
    assert not any(cluster.wrong().values())
    cluster.tidied()


def test_last_backup_where_the_primary_is_on_a_host_without_an_orthanc(cluster: Backed) -> None:
    cluster.switch(NAMES[2])
    said = cluster.play(playbook="backup")
    (count,) = re.findall(r"Backed up (\d+) images", said)
    cluster.send(range(cluster.numbers, cluster.numbers + 3))
    cluster.numbers += 3
    said = cluster.restore(restore=f"archive of {ORTHANCS[0]}")
    assert f"Orthanc serves its {count} images" in said
    assert [cluster.images(host) for host in ORTHANCS] == [int(count)] * 2
    cluster.wait_until_whole()
    assert cluster.primary() in ORTHANCS
    assert len(set(cluster.rows())) == 1
    cluster.tidied()


def test_killed_while_it_is_loaded(cluster: Backed) -> None:
    """The archive is as it was, and the next run begins anew."""
    lab = cluster.lab
    cluster.switch(ORTHANCS[0])
    assert "Backed up" in cluster.play(playbook="backup")
    count = cluster.images()
    lab.shell(f"{RESTORES} --stage; until pgrep -x pg_restore; do sleep 0.01; done; {KILLED}")
    assert [cluster.images(host) for host in ORTHANCS] == [count, count]
    cluster.send(range(cluster.numbers, cluster.numbers + 2), ORTHANCS[1])
    cluster.numbers += 2
    said = cluster.restore(restore=f"archive of {ORTHANCS[0]}")
    assert f"Orthanc serves its {count} images" in said
    assert lab.shell("ls -a /var/lib/postgresql/* /run | grep -E 'pacs-restore'", check=False) == ""
    cluster.tidied()


def test_killed_while_the_two_swap(cluster: Backed) -> None:
    """Nobody gets in, on whatever host, until the next run has done it."""
    lab = cluster.lab
    cluster.switch(ORTHANCS[0])
    assert "Backed up" in cluster.play(playbook="backup")
    count = cluster.images()
    lab.shell("python3 -B /etc/pacs/backup/backup.py restore --over --stage")
    # What is renamed has to wait for this one.
    lab.shell(HOLDS)
    lab.shell(f'{RESTORES}; cd /; until {PSQL} "{WAITS}" | grep -qx 1; do sleep 0.1; done; {KILLED}; {PSQL} "{LETS}"')
    # It does not end by itself while it waits for its database.
    lab.shell("systemctl kill --signal KILL orthanc; sleep 5", ORTHANCS[1])
    for host in ORTHANCS:
        with contextlib.suppress(requests.RequestException), lab.session(host) as session:
            status = session.post(lab.url("/instances", host), data=image(9999), timeout=60).status_code
            assert status != 200
    assert "Orthanc does not start before its end" in cluster.status(ORTHANCS[0])["wrong"]
    said = cluster.restore(restore=f"archive of {ORTHANCS[0]}")
    assert f"Orthanc serves its {count} images" in said
    assert [cluster.images(host) for host in ORTHANCS] == [count, count]
    assert not cluster.found(9999, ORTHANCS[1])
    cluster.tidied()


def test_cluster_that_has_lost_all(cluster: Backed) -> None:
    """With inventory, vault and store alone: first the site, then its archive, every image bit for bit."""
    lab, numbers = cluster.lab, range(cluster.numbers, cluster.numbers + 10)
    cluster.switch(ORTHANCS[0])
    cluster.send(numbers)
    assert "Backed up" in cluster.play(playbook="backup")
    count = cluster.images()
    # One that waits for its database does not end by itself.
    for host in ORTHANCS:
        lab.shell("systemctl stop nginx orthanc", host)
    for host in NAMES:
        lab.shell(LOST, host)
    cluster.play()
    cluster.wait_until_whole()
    assert cluster.images() == 0
    assert "is of another archive than the one on this host" in cluster.play(playbook="backup", check=False)
    said = cluster.restore()
    assert f"Orthanc serves its {count} images" in said
    assert [cluster.images(host) for host in ORTHANCS] == [count, count]
    cluster.has(numbers)
    assert "Backed up" in cluster.play(playbook="backup")
    assert not any(cluster.wrong().values())
    assert "is whole" in cluster.play(playbook="drill")
    assert not changed(cluster.play())


def test_removal(cluster: Backed) -> None:
    cluster.play("-e", json.dumps({"remove": f"service of {NAMES[2]}"}), "--limit", NAMES[2], playbook="remove")
    left = "find /etc /var/lib /var/cache -path '*pacs*backup*' -o -path '*pacs/pgbackrest*'"
    assert cluster.lab.shell(left, NAMES[2]) == ""

"""Processes and whole hosts are killed while eight clients send images: ``make test-crashes``.

Every image that got 200 has to be served bit for bit, and all comes back without a person. A killed container is a
crash of the host, not a power cut: what the kernel had not written yet is not lost.
"""

from __future__ import annotations

import collections
import os
import pathlib
import random
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.hosts.conftest import ROOT, Lab, run
from tests.hosts.senders import Senders

INVENTORIES = {"sqlite": "quickstart", "postgresql": "single", "mariadb": "single-mysql"}
TIMES = int(os.environ.get("PACS_KILLS", "10"))
# A server that serves again already may still be starting for systemd, which has no process of it then.
PID = """
for _ in $(seq 300); do
    pid=$(systemctl show '{}' --property MainPID --value)
    [ "${{pid:-0}}" -eq 0 ] || exec kill -9 "$pid"
    sleep 0.1
done
exit 1
"""
# The unit that has the main process of the database server, and how one of its connections is killed.
SERVERS = {"postgresql": "postgresql@*-main.service", "mariadb": "mariadb"}
CONNECTIONS = {
    "postgresql": "runuser -u postgres -- psql -Atqc"
    " \"select pid from pg_stat_activity where usename = 'orthanc' limit 1\" | xargs kill -9",
    # They are threads of one process.
    "mariadb": "mariadb -Ne \"select id from information_schema.processlist where user = 'orthanc' limit 1\""
    " | sed 's/.*/KILL CONNECTION &/' | mariadb",
}
OF_SERVER = ("server", "connection", "restart")
# What of the index is flushed, by the file that is written first.
LOGS = {"sqlite": "/db-v6/index", "postgresql": "/pg_wal/", "mariadb": "/ib_logfile0"}
FLUSHED = """
pids=$(pgrep -d , 'Orthanc|postgres|mariadbd')
timeout {seconds} strace -f -y -e trace=fsync,fdatasync -o /run/flushed -p $pids > /dev/null 2>&1 & sleep 3
"""
ALONE = "the database of SQLite is in Orthanc itself"


class Site:
    """A deployed site, and the clients that send to it."""

    def __init__(self, database: str, lab: Lab, variables: Mapping[str, Any] | None = None) -> None:
        self.database, self.lab, self._variables = database, lab, variables or {}
        self.play()
        with lab.session() as session:
            certificate = str(session.verify)
        self.senders = Senders(lab.address["pacs"], certificate, lab.secrets["vault_orthanc_admin_password"])

    def play(self, playbook: str = "site", check: bool = True, **variables: Any) -> str:
        inventory = ROOT / "inventories" / INVENTORIES[self.database]
        done = self.lab.play(playbook, {**self._variables, **variables}, inventory=inventory, check=check)
        return " ".join(done.stdout.split())

    def kill(self, what: str) -> None:
        if what == "host":
            run("docker", "kill", self.lab.container())
            run("docker", "start", self.lab.container())
            return
        kill = {
            "orthanc": PID.format("orthanc"),
            "proxy": PID.format("nginx"),
            "server": PID.format(SERVERS.get(self.database)),
            "connection": CONNECTIONS.get(self.database, ""),
            # In order.
            "restart": f"systemctl restart {self.database}",
        }
        self.lab.shell(kill[what])


@pytest.fixture(scope="module", params=INVENTORIES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(request.param, Lab(f"crashes-{request.param}", pacs="trixie-installed"))
    yield made
    if not os.environ.get("PACS_KEEP_LABS"):
        made.lab.destroy()


def killed(site: Site, what: str) -> dict[str, str]:
    """Kill it again and again while images arrive, and tell which are lost of those that were acknowledged."""
    begin, waits, chance = time.monotonic(), [], random.Random(what)
    before, site.senders.refused = len(site.senders.acknowledged), collections.Counter()
    with site.senders:
        for _ in range(TIMES):
            site.senders.more(50, within=120)
            time.sleep(chance.random())
            when = time.monotonic()
            site.kill(what)
            # More than what was on its way.
            site.senders.more(50, within=240)
            waits.append(site.senders.longest_wait(when))
    lost = site.senders.lost(lambda when: when >= begin)
    print(
        f"{site.database}, {what} killed {TIMES} times: {len(site.senders.acknowledged) - before} images acknowledged,"
        f" {len(lost)} lost; away for {statistics.median(waits):.1f} s, at most {max(waits):.1f} s;"
        f" clients were told: {site.senders.told()}"
    )
    assert not site.senders.wrong
    return lost


@pytest.mark.parametrize("what", ["orthanc", "proxy", "server", "connection", "restart", "host"])
def test_what_was_acknowledged_stays(site: Site, what: str) -> None:
    """Where the server had stored an image and could not say so any more, Orthanc removes its file, and the row stays.

    So the client is told that it was not taken, and when it sends it again, that it is there already.
    """
    if site.database not in SERVERS and what in OF_SERVER:
        pytest.skip(ALONE)
    lost = killed(site, what)
    # In order Orthanc ends before it.
    known = site.senders.repeated if what in ("server", "connection") else set()
    assert lost.keys() <= known, lost


@pytest.mark.parametrize("seconds", [20, 90])
def test_database_goes_away_for_a_while(site: Site, seconds: int) -> None:
    """Orthanc needs nobody to start it again, and acknowledges nothing meanwhile. It goes with MariaDB, in order."""
    if site.database not in SERVERS:
        pytest.skip(ALONE)
    state = "systemctl show orthanc --property=NRestarts --value"
    begin, before, site.senders.refused = time.monotonic(), site.lab.shell(state), collections.Counter()
    with site.senders:
        site.senders.more(50, within=120)
        site.lab.shell(f"systemctl stop {site.database}")
        # The last answers are on their way.
        time.sleep(2)
        stopped = len(site.senders.acknowledged)
        time.sleep(seconds)
        meanwhile = len(site.senders.acknowledged) - stopped
        up = time.monotonic()
        site.lab.shell(f"systemctl start {site.database}")
        site.senders.more(50, within=120)
        back = site.senders.longest_wait(up)
    assert not meanwhile, "acknowledged without a database"
    lost = site.senders.lost(lambda when: when >= begin)
    restarts = int(site.lab.shell(state)) - int(before)
    print(
        f"{site.database} away for {seconds} s: {len(lost)} images lost; Orthanc ended {restarts} times, and serves"
        f" {back:.1f} s after it; clients were told: {site.senders.told()}"
    )
    assert not site.senders.wrong
    assert not lost, lost


def test_what_is_flushed_before_an_answer(site: Site) -> None:
    """Not by a power cut, but by strace: what the answer waits for. SQLite's index is left to the kernel."""
    images = 20
    site.lab.shell("DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends strace procps")
    site.lab.shell(FLUSHED.format(seconds=120))
    site.senders.one_by_one(images)
    site.lab.shell("pkill strace; sleep 1")
    lines = site.lab.shell("cat /run/flushed").splitlines()
    files = len([line for line in lines if re.search(r"/db-v6/../../[0-9a-f-]{36}>", line)])
    index = len([line for line in lines if LOGS[site.database] in line])
    print(f"{site.database}: {images} images one by one, {files} flushes of files, {index} of the index's log")
    assert files >= images
    assert index >= images or site.database == "sqlite"


def test_verification_names_what_is_lost(site: Site, tmp_path: pathlib.Path) -> None:
    """And it can be sent again. Nothing else is wrong."""
    probe: dict[str, Any] = {"verification_level": "probe", "verification_report_dir": str(tmp_path)}
    lost = site.senders.lost()
    print(f"{site.database}: of {len(site.senders.acknowledged)} images in all {len(lost)} are lost")
    if lost:
        said = site.play("verify", check=False, **probe)
        assert [name for name in lost if name not in said] == [], said
        for name in lost:
            site.senders.send_again(name)
        assert site.senders.lost() == {}
    said = site.play("verify", **probe)
    assert " 0 failed" in said, said
    assert " changed=0 " in site.play()


def test_nothing_is_lost_where_what_is_sent_again_replaces(site: Site) -> None:
    if site.database not in SERVERS:
        pytest.skip(ALONE)
    site.play(orthanc_settings={"OverwriteInstances": True})
    assert killed(site, "connection") == {}

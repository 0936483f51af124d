"""An archive that two Orthancs have on one database of three servers is backed up, proved and had again.

Whichever host is primary: ``make test-cluster-backup``. The store is a stand-in, as in ``test_backup_stores``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts.cluster import NAMES, PATIENCE, Cluster
from tests.hosts.conftest import ENVIRONMENT, RELEASE, Lab, run
from tests.hosts.test_backup import PASSWORD
from tests.hosts.test_backup_stores import ALLOWED, SECRET, STORE
from tests.hosts.test_database import image

ORTHANCS = NAMES[:2]
REPORT = "python3 -B /etc/pacs/backup/backup.py report"
# A backup as the timer begins it.
BACKUP = "systemctl start pacs-backup"
TOOL = "patronictl -c /etc/patroni/*-main.yml"
STATE = "systemctl show orthanc patroni@17-main --property=InvocationID,NRestarts,ActiveState"
PSQL = "runuser -u postgres -- psql -XAtc"


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

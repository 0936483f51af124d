"""Archives are backed up while eight clients send images, and had again from their backups: ``make test-drills``.

Ten times in all, thrice after a crash in the middle of a backup. Each time a drill proves the backup while images go on
coming; then it takes the place of the archive, which has to serve, bit for bit, every image that was acknowledged
before the moment of the backup.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.hosts.conftest import ROOT, Lab, run
from tests.hosts.senders import Senders

INVENTORIES = {"sqlite": "quickstart", "postgresql": "single", "mariadb": "single-mysql"}
GROUPS = {"postgresql": ["postgresql"], "mariadb": ["mysql"]}
DRILLS = {"sqlite": 3, "postgresql": 4, "mariadb": 3}
# Of which this one, counted from 0, comes after a crash.
CRASHED = 1
# How many images come before a backup, 5,000 in all, and while it is made and proved.
BEFORE, BESIDE = 500, 50
ARCHIVE, REPOSITORY = "/var/lib/orthanc/db-v6", "/srv/backup/pacs"
BACKUP = "python3 /etc/pacs/backup/backup.py"
# restic goes on so slowly that it is in the middle, with its lock in the repository, when what is to be killed is.
SLOW = f"""cat > /usr/local/bin/restic <<'END'
#!/bin/sh
case "$*" in *" backup "*) exec /usr/bin/restic --limit-upload 300 "$@" ;; esac
exec /usr/bin/restic "$@"
END
chmod 755 /usr/local/bin/restic; systemctl start --no-block pacs-backup
until pgrep -f '/usr/bin/restic .* backup ' && ls {REPOSITORY}/locks/* && sleep 1 && ls {REPOSITORY}/locks/*; do
    sleep 0.1
done
rm /usr/local/bin/restic
"""
# The host is killed from outside.
SERVER = "kill -9 $(systemctl show mariadb --property MainPID --value)"
ENDED = "while systemctl show pacs-backup --property=ActiveState | grep -q activating; do sleep 0.2; done"
# The file system of a lab's host renames no folder that is in its image.
RENAMED = "cd /var/lib/postgresql/*; cp -a main copy; rm -r main; mv copy main"


class Site:
    """An Orthanc whose backups go to a folder."""

    def __init__(
        self, database: str, lab: Lab, folder: pathlib.Path, variables: Mapping[str, Any] | None = None
    ) -> None:
        self.database, self.lab, self._inventory = database, lab, folder
        groups = ["orthanc", "nginx", "backup", *GROUPS.get(database, [])]
        hosts: dict[str, Any] = {group: {"hosts": {"pacs": {}}} for group in groups}
        (folder / "hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")
        (folder / "group_vars").symlink_to(ROOT / "inventories" / INVENTORIES[database] / "group_vars")
        self._variables = {"backup_repository": REPOSITORY, "backup_password": "the key of a test", **(variables or {})}
        if database == "postgresql":
            lab.shell(RENAMED)
        self.play()

    def play(self, playbook: str = "site", **variables: Any) -> str:
        done = self.lab.play(playbook, self._variables | variables, inventory=self._inventory)
        return " ".join(done.stdout.split())

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.lab.shell("cat /var/lib/pacs/backup/status.json"))
        return found

    def crash(self, senders: Senders) -> None:
        """Have it crash in the middle of a backup."""
        before = self.status().get("success")
        self.lab.shell(SLOW)
        if self.database == "mariadb":
            self.lab.shell(f"{SERVER}; {ENDED}")
        else:
            run("docker", "kill", self.lab.container())
            run("docker", "start", self.lab.container())
            senders.wait_until_served(within=240)
            assert self.status().get("success") == before
        # More than what was on its way.
        senders.more(BESIDE, within=240)


@pytest.fixture(scope="module", params=INVENTORIES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    lab = Lab(f"drills-{request.param}", pacs="trixie-installed")
    # What a client sends again takes the place of what may have been stored by half.
    again = {"orthanc_settings": {"OverwriteInstances": True}}
    yield Site(request.param, lab, tmp_path_factory.mktemp("drills"), again)
    if not os.environ.get("PACS_KEEP_LABS"):
        lab.destroy()


def gone(senders: Senders, began: float) -> tuple[list[str], dict[str, str]]:
    """Tell which images are lost, and which just came after the moment of a backup that was begun at some time.

    That moment is not before any was sent that is there.
    """
    without = senders.lost()
    there = [number for name, (number, _) in senders.acknowledged.items() if name not in without]
    moment = max([began, *(senders.begun[number] for number in there)])
    return [name for name in without if senders.acknowledged[name][1] < moment], without


def test_what_was_acknowledged_before_a_backup_comes_back(site: Site) -> None:
    lab, images, all_lost = site.lab, 0, []
    with lab.session() as session:
        certificate = str(session.verify)
    senders = Senders(lab.address["pacs"], certificate, lab.secrets["vault_orthanc_admin_password"])
    for drill in range(DRILLS[site.database]):
        senders.rest = 0.0
        with senders:
            senders.more(BEFORE, within=600)
            if drill == CRASHED:
                site.crash(senders)
            # Most of them come after the moment, and are given up by the restore.
            began, senders.rest = time.monotonic(), 0.2
            assert "Backed up" in site.play("backup")
            senders.more(BESIDE, within=240)
            proved = site.play("drill")
        images = site.status()["success"]["instances"]
        assert f"has all {images} images" in proved
        assert f"Orthanc serves its {images} images" in site.play("restore", restore="archive of pacs")
        lab.shell(f"rm -r {ARCHIVE}/.pacs-before-* /var/lib/postgresql/*/.pacs-before-* 2> /dev/null || :")
        lost, without = gone(senders, began)
        sent = len(senders.acknowledged)
        print(
            f"{site.database}, drill {drill + 1}{' after a crash' * (drill == CRASHED)}: of {sent} images that were"
            f" acknowledged {images} restored, {len(without)} came after the backup's moment, {len(lost)} lost;"
            f" clients were told: {senders.told()}"
        )
        assert images == sent - len(without)
        all_lost += lost
        # Nobody has them any more.
        for name in without:
            del senders.acknowledged[name]
    assert not senders.wrong
    assert not all_lost, all_lost
    assert images >= DRILLS[site.database] * BEFORE

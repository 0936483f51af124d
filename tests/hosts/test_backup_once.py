"""An archive is backed up, the backup proved, and brought back: what `make test-backup` goes through in full."""

from __future__ import annotations

import pathlib
from typing import Any

import yaml

from tests.hosts.conftest import QUICKSTART, Lab
from tests.hosts.test_database import image

LAB = {"name": "backup-once", "pacs": "trixie-installed"}
ARCHIVE = "/var/lib/orthanc/db-v6"


def test_archive_that_was_lost_is_brought_back(lab: Lab, tmp_path: pathlib.Path) -> None:
    groups: dict[str, Any] = {group: {"hosts": {"pacs": {}}} for group in ("orthanc", "nginx", "backup")}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
    (tmp_path / "group_vars").symlink_to(QUICKSTART / "group_vars")
    given = {"backup_repository": "/srv/backup", "backup_password": "the key of a test"}

    def play(playbook: str) -> str:
        return " ".join(lab.play(playbook, given, inventory=tmp_path).stdout.split())

    play("site")
    with lab.session() as session:
        for number in range(10):
            assert session.post(lab.url("/instances"), data=image(number), timeout=60).status_code == 200
        before = session.get(lab.url("/instances"), timeout=60).json()
        assert "Backed up 10 images" in play("backup")
        assert "and handed out 10 of them as they were" in play("drill")
        lab.shell(f"systemctl stop orthanc; rm -r {ARCHIVE}/?? {ARCHIVE}/index*; systemctl start orthanc")
        assert "serves its 10 images, and handed out 10 of them as they were" in play("restore")
        assert sorted(session.get(lab.url("/instances"), timeout=60).json()) == sorted(before)
        assert session.post(lab.url("/instances"), data=image(10), timeout=60).status_code == 200

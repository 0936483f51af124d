"""The last backup of the archive, as the host tells of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from verification.expect import expect
from verification.reach import Host
from verification.site import Site

PROGRAM = "/etc/pacs/backup/backup.py"


def test_last_backup_is_good_and_new(site: Site, host: Host, facts: dict[str, str]) -> None:
    there = host.run("test -e %s", PROGRAM).rc == 0
    if not there and not site.backup:
        pytest.skip(f"{site.name} is not in the group backup")
    expect(f"{PROGRAM} is there", True, there, "playbooks/site.yml")
    told: dict[str, Any] = json.loads(host.check_output("/usr/bin/python3 %s report", PROGRAM))
    success = told.get("success")
    if success:
        size = f"{success['instances']} images, {success['bytes'] / 2**30:.1f} GiB"
        facts["Last backup"] = f"{success['time']}, {told['age_seconds'] / 3600:.1f} h old, {size}"
    else:
        facts["Last backup"] = "none"
    drill = told.get("drill")
    facts["Last drill"] = f"{drill['time']}: {drill['wrong'] or 'whole'}" if drill else "none"
    expect("what is wrong with the last backup", "", told["wrong"], "docs/backup.md; journalctl -u pacs-backup")

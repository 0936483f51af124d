"""A new password of a MariaDB on another host: it goes back with Orthanc, or is proved with it."""

from __future__ import annotations

import pathlib
import time

import pytest
import yaml

from tests.hosts.conftest import QUICKSTART, Lab

LAB = {"name": "password", "pacs": "trixie", "db": "trixie"}
STORED = "mariadb -BNe \"SELECT Host, plugin, authentication_string FROM mysql.user WHERE User = 'orthanc'\""
pytestmark = pytest.mark.later


class Site:
    """The quickstart with its database on a host of its own."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory = lab, folder
        (folder / "group_vars").symlink_to(QUICKSTART / "group_vars")
        groups = {"orthanc": "pacs", "nginx": "pacs", "mysql": "db"}
        hosts = {group: {"hosts": {host: None}} for group, host in groups.items()}
        (folder / "hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")

    def deploy(self, password: str, check: bool = True, **variables: object) -> str:
        given = {"orthanc_database": "mysql", "orthanc_database_password": password} | variables
        return " ".join(self.lab.play(inventory=self.inventory, variables=given, check=check).stdout.split())

    def restart(self) -> None:
        """Restart Orthanc, which has to get into its database."""
        self.lab.shell("systemctl restart orthanc")
        with self.lab.session() as session:
            deadline = time.monotonic() + 60
            while session.get(self.lab.url("/changes?last"), timeout=30).status_code != 200:
                assert time.monotonic() < deadline, "Orthanc does not get into its database"
                time.sleep(1)


def test_password(lab: Lab, tmp_path: pathlib.Path) -> None:
    site = Site(lab, tmp_path)
    site.deploy("the first one")
    before = lab.shell(STORED, "db")
    bad = {"orthanc_settings_unchecked": {"DefaultEncoding": "Klingon"}}
    said = site.deploy("the second one", check=False, **bad)
    assert "The configuration that worked last is back, and Orthanc serves with it." in said
    assert "The database takes the password of before again." in said
    assert "*" in before
    assert lab.shell(STORED, "db") == before
    site.restart()
    # One that works stays, and nothing is kept of the other.
    site.deploy("the second one")
    assert lab.shell(STORED, "db") != before
    assert "logins.json" not in lab.shell("ls -a /var/lib/pacs/mysql", "db")
    site.restart()
    assert " changed=0 " in site.deploy("the second one").split("pacs :")[1]


def test_firewall_before_the_database(lab: Lab, tmp_path: pathlib.Path) -> None:
    """On the site of the test before."""
    site = Site(lab, tmp_path)
    lab.shell("nft 'table inet closed { chain o { type filter hook output priority 0; tcp dport 3306 drop; }; }'")
    try:
        said = site.deploy("the second one", check=False)
    finally:
        lab.shell("nft delete table inet closed")
    assert "The database server on db does not answer pacs at" in said
    assert "TCP port 3306. Let pacs through the firewall before it, and run again" in said

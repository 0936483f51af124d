"""A real MySQL 9.7, run by others, which Orthanc reaches with Debian's plugin: `make test-mysql`.

It is in Debian unstable only, and runs as the one process of a container on the lab's network.
"""

from __future__ import annotations

import pathlib
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts.conftest import Lab, run
from tests.hosts.test_foreign_database import CERTIFICATE, KEY, Site

LAB = {"name": "foreign-mysql", "pacs": "trixie"}
IMAGE = "pacs-lab:mysql"
START = f"""
echo {shlex.quote(CERTIFICATE)} > /var/lib/mysql/db.crt
echo {shlex.quote(KEY)} > /var/lib/mysql/db.key
chown mysql: /var/lib/mysql/db.*
install -d -o mysql /run/mysqld
exec mysqld --no-defaults --user=mysql --ssl-cert=db.crt --ssl-key=db.key --require-secure-transport=on
"""


def image() -> None:
    """Make the image, if it is not there."""
    if run("docker", "image", "inspect", IMAGE, check=False).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "root.tar"
        # The list of packages is a frozen one on some machines.
        option = '--aptopt=Acquire::Check-Valid-Until "false"'
        run("mmdebstrap", "--quiet", "--variant=minbase", "--include=mysql-server", option, "sid", root)
        run("docker", "import", root, IMAGE)


@pytest.fixture(scope="module")
def site(lab: Lab) -> Iterator[Site]:
    image()
    name = lab.container("db")
    label = f"pacs.lab={lab.folder.parent}"
    run("docker", "rm", "--force", name, check=False)
    run(
        *("docker", "run", "--detach", "--name", name, "--label", label),
        *("--network", lab.prefix, "--network-alias", "db", IMAGE, "sh", "-c", START),
    )
    deadline = time.monotonic() + 120
    while "alive" not in lab.shell("mysqladmin ping 2>&1", host="db", check=False):
        assert time.monotonic() < deadline, run("docker", "logs", name).stdout
        time.sleep(1)
    yield Site(lab, "mysql", "mysql")
    run("docker", "rm", "--force", "--volumes", name)


def test_it_is_mysql(site: Site) -> None:
    assert site.lab.shell("mysql -NBe 'SELECT VERSION()'", host="db").startswith("9.7")


def test_host_that_is_not_listed(site: Site) -> None:
    site.administrate(site.refused("lets nobody in from this host"), "\\'")


def test_certificate_that_is_not_trusted(site: Site) -> None:
    site.refused("orthanc_database_ca", "not trusted", orthanc_database_ca="")


def test_login_that_is_refused(site: Site) -> None:
    site.lab.shell("mysql -Ne \"SELECT Host FROM mysql.user WHERE User = 'orthanc'\" > /tmp/from", host="db")
    site.lab.shell("mysql -e \"ALTER USER orthanc@'$(cat /tmp/from)' IDENTIFIED BY 'another'\"", host="db")
    site.administrate(site.refused("orthanc_database_password", "refuses the login"), "\\'")


def test_connection_without_tls(site: Site) -> None:
    site.refused("orthanc_database_tls", orthanc_database_tls=False)


def test_rights_that_are_missing(site: Site) -> None:
    wrong = "REVOKE TRIGGER, ALTER ON orthanc.* FROM orthanc@'$(cat /tmp/from)'"
    site.lab.shell(f'mysql -e "{wrong}; SET GLOBAL log_bin_trust_function_creators = 0"', host="db")
    site.administrate(site.refused("lacks rights in orthanc: ALTER, TRIGGER", "binary log"), "\\'")


def test_rights_that_come_by_a_role(site: Site) -> None:
    """Those of a role count as soon as the login has them from the start."""
    by_role = """
        CREATE ROLE pacs;
        GRANT ALL PRIVILEGES ON orthanc.* TO pacs;
        REVOKE ALTER ON orthanc.* FROM pacs;
        GRANT pacs TO {login};
        SET DEFAULT ROLE pacs TO {login};
        REVOKE ALL PRIVILEGES ON orthanc.* FROM {login};
    """
    login = f"orthanc@'{site.lab.shell('cat /tmp/from', host='db').strip()}'"
    site.lab.shell(f"mysql -e {shlex.quote(by_role.format(login=login))}", host="db")
    site.refused("lacks rights in orthanc: ALTER.")
    site.lab.shell('mysql -e "GRANT ALTER ON orthanc.* TO pacs"', host="db")


def test_site_works_with_what_was_asked_for(site: Site) -> None:
    everything: dict[str, Any] = {"orthanc_database_storage": True}
    assert "failed=0" in site.play(**everything)
    assert "changed=0" in site.play("site", "--check", **everything).rpartition("pacs ")[2]
    printed = site.play("verify", **everything)
    assert re.search(r"\d+ passed, 0 failed", printed)

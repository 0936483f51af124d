"""Hosts where others have PostgreSQL, MariaDB, a Docker engine, Apache and a site on nginx: `make test-neighbours`.

Each of them has a configuration of its own, and a client that asks it all the time and must never be left alone.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts.conftest import ROOT, Lab
from tests.hosts.test_bad_input import STATE

SINGLE, SINGLE_MYSQL, QUICKSTART = (ROOT / "inventories" / name for name in ("single", "single-mysql", "quickstart"))
DAEMON = {"insecure-registries": ["wiki.example.org:5000"], "log-driver": "journald"}
# The packages as their administrators have them: without the drivers that Orthanc's check needs, and with lists that
# are empty and new.
SET_UP = f"""
set -e
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get update -q
apt-get install -y -q --no-install-recommends postgresql mariadb-server docker.io apache2 nginx curl busybox-static
apt-get install -y -q --no-install-recommends docker-cli || true
rm /usr/sbin/policy-rc.d
mkdir -p /etc/docker
echo {shlex.quote(json.dumps(DAEMON))} > /etc/docker/daemon.json
cd /etc/postgresql/*/main
echo 'wal_keep_size = 32MB' > conf.d/hospital.conf
echo 'host wiki wiki 127.0.0.1/32 scram-sha-256 # the wiki of the hospital' >> pg_hba.conf
printf '[mysqld]\\nmax_connections = 77\\n' > /etc/mysql/mariadb.conf.d/99-wiki.cnf
printf '[client-server]\\nsocket = /run/mysqld/wiki.sock\\n' > /etc/mysql/mariadb.conf.d/60-place.cnf
rm /etc/nginx/sites-enabled/default
echo 'server {{ listen 8081; return 200 wiki; }}' > /etc/nginx/conf.d/wiki.conf
systemctl restart postgresql mariadb docker apache2 nginx
cd /
runuser -u postgres -- psql -c "CREATE ROLE wiki LOGIN PASSWORD 'wiki'" -c 'CREATE DATABASE wiki OWNER wiki'
mariadb -e "CREATE DATABASE wiki; CREATE TABLE wiki.page (id INT); CREATE USER wiki@localhost IDENTIFIED BY 'wiki';
    GRANT ALL ON wiki.* TO wiki@localhost; CREATE USER ''@localhost"
tar -c -C / bin/busybox usr/bin/busybox 2> /dev/null | docker import - wiki:1 > /dev/null
docker run --detach --name wiki --network host wiki:1 /usr/bin/busybox httpd -f -p 8090 -h /
"""
# Each asks some ten times a second, and writes down what was not answered.
CLIENTS = {
    "postgresql": "PGPASSWORD=wiki /usr/lib/postgresql/*/bin/psql -h 127.0.0.1 -U wiki -d wiki -Atc 'SELECT 1'",
    "mariadb": "mariadb -uwiki -pwiki wiki -e 'SELECT 1'",
    "docker": "curl -sSf http://127.0.0.1:8090/usr/bin/busybox -o /dev/null",
    "apache": "curl -sSf http://127.0.0.1:80/ -o /dev/null",
    "nginx": "curl -sSf http://127.0.0.1:8081/ -o /dev/null",
}
ASK = """
while :; do
    if {} > /run/{name}.last 2>&1; then echo >> /run/{name}.ok; else cat /run/{name}.last >> /run/{name}.bad; fi
    sleep 0.1
done
"""
UNITS = "systemctl show postgresql@*-main.service mariadb docker apache2 nginx --property=Id,InvocationID,NRestarts"
# What the ports of others leave.
PORTS = {"nginx_http_port": 8080, "nginx_https_port": 8443}
SHARED = {"postgresql_shared": True, "mysql_shared": True}


class Site:
    """One host with everything on it, and what was asked of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.shell(SET_UP)
        lab.shell("rm -rf /var/lib/apt/lists/*")
        for name, command in CLIENTS.items():
            lab.shell(f"systemd-run --unit ask-{name} sh -c {shlex.quote(ASK.format(command, name=name))}")

    def deploy(self, inventory: Any = SINGLE, check: bool = True, **variables: Any) -> str:
        return " ".join(self.lab.play(variables=PORTS | variables, inventory=inventory, check=check).stdout.split())

    def unchanged(self, inventory: Any, **variables: Any) -> None:
        """Deploy once more, and see that there is nothing more to do."""
        printed = self.lab.play(variables=PORTS | variables, inventory=inventory, arguments=["--diff"]).stdout
        assert " changed=0 " in printed, printed

    def refused(self, *words: str, **options: Any) -> None:
        """Deploy in vain, and see that nothing has changed."""
        before = self.lab.shell(STATE + UNITS)
        printed = self.deploy(check=False, **options)
        assert [word for word in ("failed=1", *words) if word not in printed] == [], printed
        assert self.lab.shell(STATE + UNITS) == before

    def answered(self) -> None:
        """See that nobody has been left without an answer, and that all were asked since the last look."""
        for name in CLIENTS:
            self.lab.shell(f": > /run/{name}.ok; until [ -s /run/{name}.ok ]; do sleep 0.1; done")
            assert self.lab.shell(f"cat /run/{name}.bad", check=False).endswith("No such file or directory\n"), name


@pytest.fixture(scope="module", params=os.environ.get("PACS_RELEASE", "trixie bookworm").split())
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Lab(f"neighbours-{request.param}", pacs={"release": request.param, "volumes": ["/var/lib/docker"]})
    yield Site(made)
    if not os.environ.get("PACS_KEEP_LABS"):
        made.destroy()


def test_apache_keeps_its_port(site: Site) -> None:
    site.refused("nginx_http_port: port 80 is taken on this host by apache2", nginx_http_port=80, inventory=QUICKSTART)


def test_servers_of_others_are_not_taken_over(site: Site) -> None:
    site.refused("postgresql_shared: others use this server (databases wiki; logins wiki)")
    site.refused(
        "mysql_shared: others use this server (databases wiki; accounts wiki@localhost)", inventory=SINGLE_MYSQL
    )
    site.answered()


def test_engine_of_others_is_not_taken_over(site: Site) -> None:
    docker: dict[str, Any] = {
        "inventory": QUICKSTART,
        "orthanc_install_method": "docker",
        "orthanc_docker_image": "127.0.0.1:5999/orthanc:1.12.7",
    }
    site.refused(
        "docker_engine_settings.log-driver", "journald", **docker, docker_engine_settings={"log-driver": "local"}
    )
    pool = {"base": "10.99.0.0/16", "size": 24}
    site.refused("docker_engine_address_pools", "go down with it: wiki", **docker, docker_engine_address_pools=[pool])
    # What was asked for is added, and taken out again; and nobody went down for it.
    mirrors = ["http://127.0.0.1:5998"]
    printed = site.deploy(check=False, **docker, docker_engine_registry_mirrors=mirrors)
    assert "Nothing of Orthanc was changed" in printed, printed
    assert json.loads(site.lab.shell("cat /etc/docker/daemon.json")) == DAEMON | {"registry-mirrors": mirrors}
    assert "127.0.0.1:5998" in site.lab.shell("docker info")
    site.deploy(check=False, **docker)
    assert json.loads(site.lab.shell("cat /etc/docker/daemon.json")) == DAEMON
    site.answered()


def test_names_of_others_are_not_taken_over(site: Site) -> None:
    taken = {"orthanc_database_name": "wiki", "orthanc_database_user": "wiki"}
    site.refused("postgresql_clients: wiki is in use", **SHARED, **taken)
    site.refused("mysql_clients: wiki is in use", inventory=SINGLE_MYSQL, **SHARED, **taken)


def test_orthanc_beside_others(site: Site) -> None:
    """On either server, which gets nothing but a database, a login and rules."""
    hba = site.lab.shell("cat /etc/postgresql/*/main/pg_hba.conf")
    state = (
        "cd /etc; sha256sum mysql/mariadb.conf.d/* postgresql/*/main/conf.d/* apache2/*.conf nginx/conf.d/wiki.conf;"
    )
    state += "systemctl show postgresql@*-main.service mariadb docker apache2 nginx --property=Id,InvocationID"
    before = site.lab.shell(state)
    # Debian 13's MariaDB comes with what has Orthanc refuse images.
    if "ON" in site.lab.shell("mariadb -NBe \"SHOW GLOBAL VARIABLES LIKE 'innodb_snapshot_isolation'\""):
        site.refused("mysql_shared: innodb_snapshot_isolation is on", inventory=SINGLE_MYSQL, **SHARED)
        site.lab.shell("mariadb -e 'SET GLOBAL innodb_snapshot_isolation = OFF'")
    for inventory in (SINGLE, SINGLE_MYSQL):
        printed = site.deploy(inventory, **SHARED)
        assert ("as an account without a name" in printed) == (inventory == SINGLE_MYSQL), printed
        site.unchanged(inventory, **SHARED)
        verified = site.lab.play("verify", PORTS | SHARED, inventory=inventory, check=False).stdout
        assert " 0 failed" in verified, verified
    assert site.lab.shell(state) == before
    assert site.lab.shell("cat /etc/postgresql/*/main/pg_hba.conf").endswith(hba)
    site.answered()


def test_orthanc_of_another_inventory(site: Site) -> None:
    """It lives elsewhere, has the names that everybody takes, and is not cut off."""
    rule = 'hostssl "orthanc" "orthanc" 192.0.2.9/32 scram-sha-256'
    site.lab.shell(f"sed -i '/^host \"orthanc\"/a {rule}' /etc/postgresql/*/main/pg_hba.conf")
    site.lab.shell("mariadb -e \"CREATE USER orthanc@'192.0.2.9'; GRANT ALL ON orthanc.* TO orthanc@'192.0.2.9'\"")
    site.refused("postgresql_clients: orthanc is in use", **SHARED)
    site.refused("mysql_clients: orthanc is in use", inventory=SINGLE_MYSQL, **SHARED)
    site.refused(f"in pg_hba.conf {rule}")
    site.refused("orthanc@192.0.2.9", inventory=SINGLE_MYSQL)


def test_servers_that_others_have_left(site: Site) -> None:
    """They are Orthanc's now, with settings of their own, and come back when they are killed."""
    for name in CLIENTS:
        site.lab.shell(f"systemctl stop ask-{name}")
    site.lab.shell("sed -i /192.0.2.9/d /etc/postgresql/*/main/pg_hba.conf; cat /etc/postgresql/*/main/pg_hba.conf")
    site.lab.shell("runuser -u postgres -- psql -c 'DROP DATABASE wiki' -c 'DROP ROLE wiki'")
    site.lab.shell("mariadb -e \"DROP DATABASE wiki; DROP USER wiki@localhost, orthanc@'192.0.2.9'\"")
    # But for those who look after them.
    site.lab.shell("runuser -u postgres -- psql -c 'CREATE ROLE monitor LOGIN' -c 'GRANT pg_monitor TO monitor'")
    site.lab.shell("mariadb -e 'CREATE USER monitor@localhost; GRANT PROCESS ON *.* TO monitor@localhost'")
    # A file that comes after ours is told of, and what it does.
    printed = site.deploy(SINGLE_MYSQL, check=False)
    assert "set max_connections = 77" in printed, printed
    site.lab.shell("rm /etc/mysql/mariadb.conf.d/99-wiki.cnf; systemctl restart mariadb")
    for inventory in (SINGLE_MYSQL, SINGLE):
        assert "without a database of their own: monitor" in site.deploy(inventory)
        site.unchanged(inventory)
    assert "the wiki of the hospital" in site.lab.shell("cat /etc/postgresql/*/main/pg_hba.conf")
    site.lab.kill("postgresql@*-main.service", "runuser -u postgres -- psql -Atqc 'SELECT 1'")
    site.lab.kill("mariadb", "mariadb -e 'DO 0'")
    site.lab.kill("nginx", "curl -sSk -o /dev/null https://127.0.0.1:8443/")


@pytest.mark.parametrize(
    "inventory, settings, words",
    [
        (SINGLE, {"postgresql_settings": {"shared_preload_libraries": "missing"}}, 'could not access file "missing"'),
        (SINGLE_MYSQL, {"mysql_settings": {"innodb_page_size": "8k"}}, "InnoDB: Data file './ibdata1' uses page size"),
    ],
)
def test_way_back(site: Site, inventory: Any, settings: dict[str, Any], words: str) -> None:
    """Settings that the server takes for good, and does not start with."""
    before = site.lab.shell("cd /etc; find mysql postgresql pacs -type f | sort | xargs sha256sum")
    printed = site.deploy(inventory, check=False, **settings)
    assert words in printed, printed
    assert "The configuration that worked last is back, and " in printed
    assert site.lab.shell("cd /etc; find mysql postgresql pacs -type f | sort | xargs sha256sum") == before
    site.lab.shell("systemctl is-active mariadb postgresql@*-main.service")
    assert "failed=0" in site.deploy(inventory)

"""What the roles of the databases ask of an inventory, before any host is asked."""

from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils import preflight

from tests.unit.good_host import GOOD, pair, problems

CLIENT = {"engine": "", "server": "db", "address": "127.0.0.1", "name": "orthanc", "user": "orthanc", "connections": 3}
OTHER = {"name": "other", "user": "other"}
FAR = {"address": "192.0.2.9"}


def found(engine: str, *clients: dict[str, Any], shared: bool = False, **settings: Any) -> list[str]:
    """Return what is wrong with a server that has some clients and settings."""
    known = [CLIENT | {"engine": engine, "password": "long enough"} | client for client in clients or ({},)]
    common = {f"{engine}_address": "db", "orthanc_database": engine}
    return problems(
        (engine,),
        **common,
        **{f"{engine}_clients": known, f"{engine}_settings": settings, f"{engine}_shared": shared},
    )


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_good_server(engine: str) -> None:
    assert found(engine) == []
    assert found(engine, {}, OTHER, FAR | OTHER | {"connections": "2"}) == []
    assert found(engine, {}, {}, max_connections=26) == []
    assert found(engine, max_connections=None) == []
    assert found(engine, shared=True) == []


@pytest.mark.parametrize(
    "engine, client, part",
    [
        ("postgresql", {"name": "pg_own"}, '"pg_own" cannot be the name of a database or a role here'),
        ("postgresql", {"name": "other", "user": "postgres"}, '"postgres" cannot be the name'),
        ("postgresql", {"name": "a" * 64}, "take up to 63 letters"),
        ("postgresql", {"user": "other"}, "a database has one owner"),
        ("postgresql", {"name": "other", "password": "another one"}, "a role has one password"),
        ("postgresql", OTHER | {"password": ""}, "other has no password."),
        ("mysql", {"name": "sys"}, "'sys' is no name for a database of Orthanc"),
        ("mysql", {"name": "a-b"}, "'a-b' is no name for a database"),
        ("mysql", {"user": "mariadb.sys"}, "'mariadb.sys' is no name for a user of Orthanc"),
        ("mysql", {"user": "a" * 33}, "take 1 to 32 letters"),
        ("mysql", OTHER | {"user": "orthanc", "password": "another one"}, "has two passwords"),
        ("mysql", OTHER | {"password": ""}, "a password is empty"),
        ("postgresql", {"address": "my host"}, "'my host' is neither a host name nor an address"),
        ("mysql", {"address": "pacs'"}, "is neither a host name nor an address"),
    ],
)
def test_wrong_client(engine: str, client: dict[str, Any], part: str) -> None:
    (problem,) = found(engine, {}, client)
    assert problem.startswith(f"{engine}_clients: ")
    assert part in problem


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_wrong_server(engine: str) -> None:
    (problem,) = found(engine, {}, OTHER, max_connections=25)
    assert problem.startswith(f"{engine}_settings")
    assert "max_connections" in problem
    assert "26" in problem
    strange: dict[str, Any] = {"Work Mem": 1}
    (problem,) = found(engine, **strange)
    assert "Work Mem" in problem
    for text in ("x\ny = z", ["x", "y\r"]):
        (problem,) = found(engine, init_file=text)
        assert problem.startswith(f"{engine}_settings.init_file: it has a line break")
    assert found(engine, init_file="x\ty") == []
    (problem,) = found(engine, shared=True, max_connections=100)
    assert problem.startswith(f"{engine}_settings: the settings of a server that others use stay")
    (problem,) = found(engine, FAR, shared=True)
    assert problem.startswith(f"{engine}_shared: an Orthanc on another host")


def test_mysql_of_others_is_not_replaced() -> None:
    """MariaDB is, in place of itself; and what only reads from a server is none."""

    def found(*packages: str) -> list[str]:
        return problems(("mysql",), packages=list(packages), mysql_address="db")

    for name in ("mysql-server-8.0", "mysql-community-server", "percona-server-server"):
        (problem,) = found("mysql-client", name)
        assert problem.startswith(f"orthanc_database_host: this host has MySQL ({name})")
        assert "out of the group 'mysql'" in problem
    assert found("mariadb-server", "mysql-server", "default-mysql-server") == []
    assert found("default-mysql-server", "mysql-common", "mysql-client-8.0") == []
    (problem,) = problems(("mysql",), listening={"3306": "mysqld"}, mysql_address="db")
    assert problem.startswith("mysql_port: port 3306 is taken on this host by mysqld")


def test_null_leaves_the_connections_to_mysql() -> None:
    """Which lets 151 in."""
    (problem,) = found("mysql", {"connections": 140}, max_connections=None)
    assert "mysql_settings.max_connections: 151 is too few" in problem
    assert found("postgresql", {"connections": 140}, max_connections=None) == []


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
@pytest.mark.parametrize(
    "changes, name, message",
    [
        ({"private_key": ""}, "private_key", "it is missing"),
        ({"certificate": ""}, "certificate", "it is missing"),
        ({"certificate": "/etc/ssl/db.crt"}, "certificate", "no certificate in PEM form"),
        ({"private_key": pair(("other",))[1]}, "private_key", "does not belong"),
        (
            dict(zip(("certificate", "private_key"), pair(("other",)), strict=True)),
            "certificate",
            "it is for other, not",
        ),
        (dict(zip(("certificate", "private_key"), pair(("db",), -9, -2), strict=True)), "certificate", "it expired on"),
    ],
)
def test_certificate_of_a_database_server(engine: str, changes: dict[str, str], name: str, message: str) -> None:
    given = dict(zip(("certificate", "private_key"), pair(("db",)), strict=True))
    common: dict[str, Any] = {f"{engine}_address": "db", f"{engine}_port": 5555}

    def found(values: dict[str, str]) -> list[str]:
        return problems((engine,), **common | {f"{engine}_tls_{part}": text for part, text in values.items()})

    assert found(given) == []
    (problem,) = found(given | changes)
    assert problem.startswith(f"{engine}_tls_{name}: ")
    assert message in problem


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_settings_of_a_database_server_that_the_role_has_from_elsewhere(engine: str) -> None:
    def found(**settings: Any) -> list[str]:
        return problems((engine,), **{f"{engine}_settings": settings, "free": 50 * 2**30})

    assert found(max_connections=50) == []
    for name, own in preflight.of(engine, "SETTINGS", {}).items():
        (problem,) = found(**{name: "x"})
        assert problem.startswith(f"{engine}_settings.{name}: ")
        assert own in problem
        assert not own or own in GOOD
    for name in ("Port", "loose-port"):
        assert f"set {engine}_port." in found(**{name: 1})[0]

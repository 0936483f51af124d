"""What the module database_check makes of a server's answers, and the SQL that it asks the administrator to run."""

from __future__ import annotations

import ctypes
import pathlib
import socket
import time
import types
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import database_postgresql
from ansible_collections.dicom.orthanc.plugins.module_utils.database_answers import Finding
from ansible_collections.dicom.orthanc.plugins.module_utils.database_mysql import (
    PRIVILEGES,
    granted,
    mysql_findings,
    mysql_refusal,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.database_postgresql import (
    POLL_OK,
    POLL_READ,
    first_address,
    numbered,
    postgresql_findings,
    postgresql_refusal,
)
from ansible_collections.dicom.orthanc.plugins.modules.database_check import advice, newest_revision

POSTGRESQL: dict[str, Any] = {
    "encoding": "UTF8",
    "may_create": True,
    "extension": True,
    "extension_there": True,
    "extension_creatable": False,
    "tables": {},
    "properties": {},
}
MYSQL: dict[str, Any] = {
    "address": "192.0.2.7",
    "privileges": PRIVILEGES | {"EVENT"},
    "binary_log": False,
    "trust": False,
    "snapshot": False,
    "tables": {},
    "properties": {},
}
OURS = {"GlobalProperties": True, "Resources": True}
PROPERTIES = {1: "6", 4: "1"}


@pytest.mark.parametrize(
    "message, tls, words, statement",
    [
        (
            "server does not support SSL, but SSL was required",
            True,
            "orthanc_database_tls: the server offers no TLS",
            "ALTER SYSTEM",
        ),
        ("SSL error: certificate verify failed", True, "orthanc_database_ca: ", ""),
        ('server certificate for "x" does not match host name "db"', True, "orthanc_database_host", ""),
        ('root certificate file "/x" does not exist', True, "orthanc_database_ca: ", ""),
        (
            'FATAL: 28000: no pg_hba.conf entry for host "192.0.2.7", user "u", database "d", SSL encryption',
            True,
            "hostssl d u 192.0.2.7/32 scram-sha-256",
            "pg_reload_conf",
        ),
        (
            'FATAL: 28000: no pg_hba.conf entry for host "2001:db8::7", user "u", database "d", no encryption',
            False,
            "host d u 2001:db8::7/128 scram-sha-256. Or it lets it in over TLS only",
            "pg_reload_conf",
        ),
        (
            'FATAL: 28P01: password authentication failed for user "u"',
            True,
            "orthanc_database_password",
            "SET password_encryption = 'scram-sha-256';\nALTER ROLE u LOGIN PASSWORD 'PASSWORD';",
        ),
        ('FATAL: 3D000: database "d" does not exist', True, "orthanc_database_name", "ALTER DATABASE d OWNER TO u;"),
        (
            'FATAL: 42501: permission denied for database "d"',
            True,
            "orthanc_database_name",
            "ALTER DATABASE d OWNER TO u;",
        ),
        (
            "FATAL: 28000: pg_hba.conf lehnt Verbindung ab für Host »192.0.2.7«, Benutzer »u«, Datenbank »d«",
            True,
            "above any that rejects it: hostssl d u 192.0.2.7/32 scram-sha-256",
            "pg_reload_conf",
        ),
        ("FATAL: 28000: Rolle »u« existiert nicht", True, "orthanc_database_password", "ALTER ROLE u LOGIN"),
        ('ВАЖНО: 3D000: база данных "d" не существует', True, "orthanc_database_name", "ALTER DATABASE d OWNER"),
        ('FATAL: 28000: certificate of "u" is not valid', True, "orthanc_database_password", "ALTER ROLE u LOGIN"),
        ("FATAL: 57P03: Datenbanksystem startet", True, "does not let Orthanc in: FATAL: 57P03: ", ""),
        ("timeout expired", True, "does not let Orthanc in: timeout expired", ""),
    ],
)
def test_refusal_of_postgresql(message: str, tls: bool, words: str, statement: str) -> None:
    finding = postgresql_refusal(message, "d", "u", tls)
    assert words in finding.sentence
    assert statement in "\n".join(finding.statements)


@pytest.mark.parametrize(
    "text, address",
    [
        ("host »192.0.2.7«", "192.0.2.7"),
        ("in 9.6.1 at 12:30 of [2001:db8::7], 192.0.2.7", "2001:db8::7"),
        ("dead.beef 1.2.3", "ADDRESS"),
        ("", "ADDRESS"),
    ],
)
def test_first_address_in_a_text(text: str, address: str) -> None:
    assert first_address(text) == address


class Driver:
    """The driver of PostgreSQL with one connection, of which it says what it waits for, or how it ended."""

    class Error(Exception):
        pass

    def __init__(self, *states: int | str, readable: bool) -> None:
        self._psycopg = types.SimpleNamespace(__file__="libpq")
        self._states = iter(states)
        self._far, self._near = socket.socketpair()
        if readable:
            self._far.send(b"x")
        self.pgconn_ptr, self.closed = 7, False
        self.given: dict[str, Any] = {}

    def connect(self, **given: Any) -> Driver:
        self.given = given
        return self

    def poll(self) -> int:
        state = next(self._states)
        if isinstance(state, str):
            raise self.Error(state)
        return state

    def fileno(self) -> int:
        return self._near.fileno()

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    "states, readable, said",
    [
        ((POLL_OK,), False, ""),
        ((POLL_READ, POLL_OK), True, ""),
        ((POLL_READ, "FATAL:  28P01: no\nLOCATION:  auth_failed, auth.c:333\n"), True, "FATAL: 28P01: no"),
        ((2, "FATAL: 3D000: none"), False, "FATAL: 3D000: none"),
        # It says nothing any more.
        ((POLL_READ, "FATAL"), False, ""),
    ],
)
def test_server_is_asked_for_the_number_of_its_error(
    monkeypatch: pytest.MonkeyPatch, states: tuple[int | str, ...], readable: bool, said: str
) -> None:
    asked: list[tuple[str, Any, int]] = []

    def library(path: str) -> Any:
        return types.SimpleNamespace(
            PQsetErrorVerbosity=lambda connection, verbosity: asked.append((path, connection.value, verbosity))
        )

    monkeypatch.setattr(ctypes, "CDLL", library)
    monkeypatch.setattr(database_postgresql, "SECONDS", 0.2)
    driver, start = Driver(*states, readable=readable), time.monotonic()
    assert numbered(driver, {"host": "db"}) == said
    assert (driver.given, asked) == ({"host": "db", "async_": 1}, [("libpq", 7, 2)])
    assert driver.closed is (said == "")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "code, message, tls, words, statement",
    [
        (2026, "SSL connection error: SSL is required but the server doesn't support it", True, "offers no TLS", ""),
        (
            2003,
            "Can't connect ([SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed)",
            True,
            "orthanc_database_ca",
            "",
        ),
        (3159, "Connections using insecure transport are prohibited", False, "orthanc_database_tls", ""),
        (0, "'cryptography' package is required for caching_sha2_password", False, "orthanc_database_tls", ""),
        (
            1045,
            "Access denied for user 'u'@'192.0.2.7' (using password: YES)",
            False,
            "TLS only",
            "CREATE USER IF NOT EXISTS 'u'@'192.0.2.7'",
        ),
        (
            1130,
            "Host '192.0.2.7' is not allowed to connect",
            True,
            "lets nobody in from this host (192.0.2.7)",
            "TO 'u'@'192.0.2.7';",
        ),
        (
            1045,
            "Benutzer 'u'@'192.0.2.7' hat keine Zugriffsberechtigung (verwendetes Passwort: JA)",
            True,
            "orthanc_database_password",
            "CREATE USER IF NOT EXISTS 'u'@'192.0.2.7'",
        ),
        (
            1130,
            "Host '192.0.2.7' hat keine Berechtigung, sich mit diesem MariaDB-Server zu verbinden",
            True,
            "lets nobody in from this host (192.0.2.7)",
            "TO 'u'@'192.0.2.7';",
        ),
        (
            1698,
            "Access denied for user 'u'@'192.0.2.7'",
            True,
            "is not known there for this host (192.0.2.7), or has another password.",
            "ALTER USER 'u'@'192.0.2.7'",
        ),
        (3158, "Something", False, "does not let Orthanc in: Something", ""),
        (3160, "Something", False, "does not let Orthanc in: Something", ""),
        (1043, "Something", True, "does not let Orthanc in: Something", ""),
        (1131, "Something", True, "does not let Orthanc in: Something", ""),
        (1049, "Unknown database 'd_1'", True, "orthanc_database_name", "CREATE DATABASE IF NOT EXISTS `d_1`"),
        # An underscore would stand for any letter.
        (
            1044,
            "Access denied for user 'u'@'192.0.2.7' to database 'd_1'",
            True,
            "d_1",
            r"ON `d\_1`.* TO 'u'@'192.0.2.7'",
        ),
        (2013, "Lost connection", True, "does not let Orthanc in: Lost connection", ""),
    ],
)
def test_refusal_of_mysql(code: int, message: str, tls: bool, words: str, statement: str) -> None:
    finding = mysql_refusal(code, message, "d_1", "u", tls)
    assert words in finding.sentence
    assert statement in "\n".join(finding.statements)


@pytest.mark.parametrize(
    "found, newest, words, statement",
    [
        ({"encoding": "SQL_ASCII"}, 1, "UTF8", "ALTER DATABASE d RENAME TO d_sql_ascii;"),
        ({"may_create": False}, 1, "has to own", "ALTER DATABASE d OWNER TO u;"),
        ({"extension": False}, 1, "pg_trgm", "CREATE EXTENSION IF NOT EXISTS pg_trgm;"),
        ({"extension": False, "extension_there": False}, 1, "postgresql-contrib", "CREATE EXTENSION"),
        (
            {"tables": {"globalproperties": False, "labels": True}},
            1,
            "another role",
            'ALTER TABLE "globalproperties" OWNER TO u;',
        ),
        ({"tables": {"invoices": True}}, 1, "something else, such as invoices", ""),
        ({"tables": {"globalproperties": True}, "properties": {1: "5"}}, 1, "schema 5", ""),
        ({"tables": {"globalproperties": True}, "properties": {1: "6", 4: "2"}}, 1, "newer release", ""),
    ],
)
def test_finding_of_postgresql(found: dict[str, Any], newest: int, words: str, statement: str) -> None:
    (finding,) = postgresql_findings(POSTGRESQL | found, "d", "u", newest)
    assert words in finding.sentence
    assert statement in "\n".join(finding.statements)


@pytest.mark.parametrize(
    "found, words, statement",
    [
        ({"privileges": PRIVILEGES - {"TRIGGER", "ALTER"}}, "lacks rights in d: ALTER, TRIGGER", "GRANT ALL"),
        ({"binary_log": True}, "binary log", "SET GLOBAL log_bin_trust_function_creators = 1;"),
        ({"snapshot": True}, "innodb_snapshot_isolation", "SET GLOBAL innodb_snapshot_isolation = OFF;"),
        ({"tables": {"invoices": True}}, "something else", ""),
        ({"tables": OURS, "properties": {1: "6", 4: "9"}}, "newer release", ""),
    ],
)
def test_finding_of_mysql(found: dict[str, Any], words: str, statement: str) -> None:
    (finding,) = mysql_findings(MYSQL | found, "d", "u", 1)
    assert words in finding.sentence
    assert statement in "\n".join(finding.statements)


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"extension": False, "extension_creatable": True},
        {"tables": {"globalproperties": True}, "properties": PROPERTIES},
    ],
)
def test_good_postgresql(found: dict[str, Any]) -> None:
    assert list(postgresql_findings(POSTGRESQL | found, "d", "u", 1)) == []
    # Of a plugin that is not known, nothing is said.
    assert list(postgresql_findings(POSTGRESQL | found | {"properties": {1: "6", 4: "9"}}, "d", "u", None)) == []


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"binary_log": True, "trust": True},
        # Only while the schema is made.
        {"binary_log": True, "tables": OURS, "properties": PROPERTIES},
    ],
)
def test_good_mysql(found: dict[str, Any]) -> None:
    assert list(mysql_findings(MYSQL | found, "d", "u", 1)) == []


@pytest.mark.parametrize(
    "grants, rights",
    [
        ([], set()),
        (["GRANT USAGE ON *.* TO `u`@`%` REQUIRE SSL"], {"USAGE"}),
        (["GRANT ALL PRIVILEGES ON `d\\_1`.* TO `u`@`%`"], PRIVILEGES),
        # By a role, which MariaDB names without an address.
        (
            [
                "GRANT `r` TO `u`@`%`",
                "GRANT SELECT, LOCK TABLES ON `d\\_1`.* TO `r`",
                "SET DEFAULT ROLE `r` FOR `u`@`%`",
            ],
            {"SELECT", "LOCK TABLES"},
        ),
        (["GRANT ALL PRIVILEGES ON *.* TO `u`@`%` WITH GRANT OPTION"], PRIVILEGES | {"SUPER"}),
        (["GRANT SELECT ON `d_%`.* TO `u`@`%`", "GRANT INSERT ON `d%`.* TO `u`@`%`"], {"SELECT", "INSERT"}),
        # Another database, a table of this one, and somebody whom the login may speak for.
        (["GRANT SELECT ON `d`.* TO `u`@`%`", "GRANT SELECT ON `d\\_2`.* TO `u`@`%`"], set()),
        (["GRANT SELECT, INSERT (`a`) ON `d_1`.`t` TO `u`@`%`", "GRANT PROXY ON ''@'%' TO 'u'@'%'"], set()),
    ],
)
def test_rights_that_grants_give(grants: list[str], rights: set[str]) -> None:
    assert granted(grants, "d_1") == rights


def test_schema_is_judged_by_the_version_of_the_plugin(tmp_path: pathlib.Path) -> None:
    library = tmp_path / "libOrthancMySQLIndex.so"
    library.symlink_to(tmp_path / "libOrthancMySQLIndex.so.4.3")
    assert newest_revision("mysql", str(library)) == 6
    assert newest_revision("mysql", "/opt/libOrthancMySQLIndex.so") is None
    assert newest_revision("mysql", "") is None


def test_advice_has_each_statement_once_and_where_it_belongs() -> None:
    findings = [Finding("a", ["A;", "\\connect d", "B;"]), Finding("b", ["\\connect d", "C;", "A;"]), Finding("c")]
    text = advice(findings, "postgresql", "db:5432")
    assert "- a\n- b\n- c\n" in text
    assert text.endswith("repeated:\nA;\n\\connect d\nB;\nC;")
    assert "stands for" not in text


@pytest.mark.parametrize("engine, words", [("postgresql", "each ' is doubled"), ("mysql", "each ' and \\ is doubled")])
def test_advice_says_what_to_put_in_place_of_the_password(engine: str, words: str) -> None:
    assert advice([Finding("a", ["SET PASSWORD 'PASSWORD';"])], engine, "db:1").endswith(f"{words}.")
    assert "runs there" not in advice([Finding("a")], engine, "db:1")

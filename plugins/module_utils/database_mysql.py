# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A MySQL or MariaDB that others run: what it is asked, and what its administrator is to do. Names are plain words."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.database_answers import (
    PLACEHOLDER,
    TRUST,
    Finding,
    Refused,
    rows,
    schema_findings,
    untrusted,
)

# What the plugin does with its database at each start and at work; it makes triggers and functions.
PRIVILEGES = {
    *("SELECT", "INSERT", "UPDATE", "DELETE", "EXECUTE", "LOCK TABLES", "CREATE TEMPORARY TABLES"),
    *("CREATE", "ALTER", "DROP", "INDEX", "REFERENCES", "TRIGGER", "CREATE ROUTINE", "ALTER ROUTINE"),
}


def create_user(user: str, address: str) -> list[str]:
    return [
        f"{verb} '{user}'@'{address}' IDENTIFIED BY '{PLACEHOLDER}' REQUIRE SSL;"
        for verb in ("CREATE USER IF NOT EXISTS", "ALTER USER")
    ]


def grant(name: str, user: str, address: str) -> list[str]:
    # In a grant, an underscore stands for any letter.
    pattern = name.replace("_", r"\_")
    return [
        f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;",
        f"GRANT ALL PRIVILEGES ON `{pattern}`.* TO '{user}'@'{address}';",
    ]


# The number by which MySQL's own client says that the server has no TLS.
NO_TLS = 2026


def mysql_refusal(code: int, message: str, name: str, user: str, tls: bool) -> Finding:
    """Say in the terms of the inventory why the server did not let the login in.

    :param code: the number of the error, by which server and driver tell one from another.
    """
    # The words around it are in the server's language.
    seen = re.search(r"^[^']*'([^']+)'" if code == 1130 else r"'@'([^']+)'", message)
    address = seen[1] if seen else "%"
    if code == NO_TLS:
        return Finding(
            "orthanc_database_tls: the server offers no TLS. Its administrator gives it a certificate (ssl_cert,"
            " ssl_key); or set this to false, where nobody can listen on the way."
        )
    if re.search(r"certificate|SSL|TLS", message, re.IGNORECASE):
        return untrusted(message)
    if code == 3159 or (not tls and "cryptography" in message):
        return Finding("orthanc_database_tls: the server lets this login in over TLS only; set this to true.")
    if code in (1044, 1049):
        return Finding(
            f"orthanc_database_name: the server has no database {name}, or {user} may not use it.",
            grant(name, user, address),
        )
    if code == 1130:
        return Finding(
            f"orthanc_database_host: the server lets nobody in from this host ({address}).",
            [*create_user(user, address), *grant(name, user, address), TRUST],
        )
    if code in (1045, 1698):
        hint = "" if tls else " Or it lets it in over TLS only: set orthanc_database_tls to true."
        return Finding(
            f"orthanc_database_password: the server refuses the login; {user} (orthanc_database_user) is not known"
            f" there for this host ({address}), or has another password.{hint}",
            [*create_user(user, address), *grant(name, user, address), TRUST],
        )
    return Finding(f"orthanc_database_host: the server does not let Orthanc in: {message}.")


def granted(grants: Iterable[str], name: str) -> set[str]:
    """Return the rights in a database.

    :param grants: what the server answers to ``SHOW GRANTS``.
    """
    rights: set[str] = set()
    for statement in grants:
        found = re.match(r"GRANT (.+?) ON (\*|`.+?`)\.\* TO ", statement)
        if found and re.fullmatch(_pattern(found[2].strip("`")), name, re.DOTALL):
            given = set(found[1].split(", "))
            # Those of the server that go by names of their own do not come with a single database.
            everything = PRIVILEGES | ({"SUPER"} if found[2] == "*" else set())
            rights |= everything if "ALL PRIVILEGES" in given else given
    return rights


def _pattern(name: str) -> str:
    """Turn the name of a database in a grant, in which ``%`` and ``_`` stand for others, into a regular expression."""
    signs = {"*": ".*", "%": ".*", "_": "."}
    return "".join(signs.get(part) or re.escape(part.removeprefix("\\")) for part in re.findall(r"\\.|.", name))


def mysql_findings(found: Mapping[str, Any], name: str, user: str, newest: int | None) -> Iterator[Finding]:
    """Hold what the server tells after the login against what the plugin needs.

    The character set is no matter here: the plugin sets that of its database at each start.

    :param found: what ``ask_mysql`` returns.
    :param newest: the newest revision of the schema that the plugin reads, if that is known.
    """
    missing = sorted(PRIVILEGES - found["privileges"])
    if missing:
        yield Finding(
            f"orthanc_database_user: {user} lacks rights in {name}: {', '.join(missing)}.",
            grant(name, user, found["address"]),
        )
    made = "GlobalProperties" in found["tables"]
    if not made and found["binary_log"] and not found["trust"] and "SUPER" not in found["privileges"]:
        yield Finding(
            "orthanc_database_host: the server writes a binary log, and does not let Orthanc make its triggers"
            " (log_bin_trust_function_creators); after a first start without it the database is spoilt."
            " Orthanc needs it until it has started once.",
            [TRUST],
        )
    if found["snapshot"]:
        yield Finding(
            "orthanc_database_host: the server has innodb_snapshot_isolation on, by which many images are refused that"
            " come over several connections at a time. Have it off in the configuration of the server too.",
            ["SET GLOBAL innodb_snapshot_isolation = OFF;"],
        )
    yield from schema_findings(found, name, newest)


def connection_class(driver: Any) -> Any:
    """Return the driver's connection, made to stop where the server offers no TLS: it would log in without."""

    class Connection(driver.connections.Connection):  # type: ignore[misc]  # the driver carries no types
        def _request_authentication(self) -> None:
            if self.ssl and not self.server_capabilities & driver.constants.CLIENT.SSL:
                raise driver.OperationalError(NO_TLS, "the server offers no TLS")
            super()._request_authentication()

    return Connection


def ask_mysql(driver: Any, params: Mapping[str, Any], ca: str) -> dict[str, Any]:
    """Log in, and read what ``mysql_findings`` judges. :raises Refused: with the finding."""
    trust = ssl.create_default_context(cafile=ca)
    # Newer Pythons would hold the authority to rules that Orthanc does not know.
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        connection = connection_class(driver)(
            host=params["host"],
            port=params["port"],
            user=params["user"],
            # As bytes, since as text it may hold Latin-1 only.
            password=params["password"].encode(),
            database=params["name"],
            ssl=trust if params["tls"] else None,
            ssl_disabled=not params["tls"],
            connect_timeout=10,
        )
    except (driver.Error, RuntimeError, OSError) as error:
        code, *words = error.args if isinstance(error, driver.Error) else (0, error)
        message = " ".join(" ".join(map(str, words)).split())
        raise Refused(mysql_refusal(code, message, params["name"], params["user"], params["tls"])) from error
    try:
        address = rows(connection, "SELECT CURRENT_USER()")[0][0].rpartition("@")[2]
        role = rows(connection, "SELECT CURRENT_ROLE()")[0][0] or ""
        # MySQL tells what its quoted roles give only of those that are named; MariaDB has one at most, and tells.
        of_roles = f" FOR CURRENT_USER() USING {role}".replace("%", "%%") if role.startswith("`") else ""
        grants = [row[0] for row in rows(connection, f"SHOW GRANTS{of_roles}")]
        privileges = granted(grants, params["name"])
        variables = dict(rows(connection, "SHOW GLOBAL VARIABLES"))
        tables = rows(
            connection,
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_TYPE = 'BASE TABLE'",
            [params["name"]],
        )
        found: dict[str, Any] = {
            "address": address,
            "privileges": privileges,
            "powerful": any(" ON *.* " in grant and not grant.startswith("GRANT USAGE ON") for grant in grants),
            "binary_log": variables.get("log_bin") == "ON",
            # A server that does not know it any more does not ask for it.
            "trust": variables.get("log_bin_trust_function_creators", "ON") == "ON",
            "snapshot": variables.get("innodb_snapshot_isolation") == "ON",
            "packet": int(variables["max_allowed_packet"]),
            "tables": {row[0]: True for row in tables},
            "properties": {},
        }
        if "GlobalProperties" in found["tables"] and "SELECT" in privileges:
            found["properties"] = dict(rows(connection, "SELECT property, value FROM GlobalProperties"))
        return found
    finally:
        connection.close()

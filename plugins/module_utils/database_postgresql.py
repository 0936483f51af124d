# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL that others run: what it is asked, and what its administrator is to do. Names are plain words."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import locale
import re
import select
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.database_answers import (
    PLACEHOLDER,
    Finding,
    Refused,
    rows,
    schema_findings,
    untrusted,
)


def create_role(user: str) -> list[str]:
    return [
        f"SELECT 'CREATE ROLE {user}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{user}') \\gexec",
        # Some servers still have md5 for their default.
        "SET password_encryption = 'scram-sha-256';",
        f"ALTER ROLE {user} LOGIN PASSWORD '{PLACEHOLDER}';",
    ]


def create_database(name: str, user: str) -> list[str]:
    return [
        f"SELECT 'CREATE DATABASE {name} TEMPLATE template0 ENCODING ''UTF8'' LC_COLLATE ''C.UTF-8'' LC_CTYPE ''C.UTF-8"
        f"''' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{name}') \\gexec",
        f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC;",
        *own_database(name, user),
        f"\\connect {name}",
        "CREATE EXTENSION IF NOT EXISTS pg_trgm;",
    ]


def own_database(name: str, user: str) -> list[str]:
    return [
        f"ALTER DATABASE {name} OWNER TO {user};",
        f"\\connect {name}",
        f"GRANT ALL ON SCHEMA public TO {user};",
    ]


def postgresql_refusal(message: str, name: str, user: str, tls: bool) -> Finding:
    """Say in the terms of the inventory why the server did not let the login in.

    :param message: what libpq says, in English, or the server, in its own language behind the number of the error.
    """
    found = re.search(r": (?=\w*\d)([0-9A-Z]{5}): (.*)", message)
    code, said = found.groups() if found else ("", message)
    if re.search(r"does not support SSL", message):
        return Finding(
            "orthanc_database_tls: the server offers no TLS. Its administrator gives it a certificate (ssl_cert_file,"
            " ssl_key_file); or set this to false, where nobody can listen on the way.",
            ["ALTER SYSTEM SET ssl = on;", "SELECT pg_reload_conf();"],
        )
    if not code and re.search(r"certificate|SSL error", message):
        return untrusted(message)
    if code == "28000" and "pg_hba.conf" in said:
        address = first_address(said)
        line = f"{'hostssl' if tls else 'host'} {name} {user} {address}/{128 if ':' in address else 32} scram-sha-256"
        hint = "" if tls else " Or it lets it in over TLS only: set orthanc_database_tls to true."
        return Finding(
            f"orthanc_database_host: the server lets {user} in from nowhere, or not from this host ({address})."
            f" This line has to stand in its pg_hba.conf, above any that rejects it: {line}.{hint}",
            ["SELECT pg_reload_conf();"],
        )
    if code in ("28000", "28P01"):
        return Finding(
            f"orthanc_database_password: the server refuses the login; {user} (orthanc_database_user) is not known"
            " there, or has another password.",
            [*create_role(user), *create_database(name, user)],
        )
    if code == "3D000":
        return Finding(f"orthanc_database_name: the server has no database {name}.", create_database(name, user))
    if code == "42501":
        return Finding(f"orthanc_database_name: {user} may not use {name}.", own_database(name, user))
    return Finding(f"orthanc_database_host: the server does not let Orthanc in: {message}.")


def first_address(text: str) -> str:
    """Return the first IP address in a text."""
    for word in re.findall(r"[0-9A-Fa-f.:]{3,}", text):
        try:
            return str(ipaddress.ip_address(word))
        except ValueError:
            continue
    return "ADDRESS"


def postgresql_findings(found: Mapping[str, Any], name: str, user: str, newest: int | None) -> Iterator[Finding]:
    """Hold what the server tells after the login against what the plugin needs.

    :param found: what ``ask_postgresql`` returns.
    :param newest: the newest revision of the schema that the plugin reads, if that is known.
    """
    if found["encoding"] != "UTF8":
        yield Finding(
            f"orthanc_database_name: the encoding of {name} is {found['encoding']}, which does not hold every name;"
            " it has to be UTF8.",
            [f"ALTER DATABASE {name} RENAME TO {name}_{found['encoding'].lower()};", *create_database(name, user)],
        )
        return
    if not found["may_create"]:
        yield Finding(
            f"orthanc_database_name: {user} may not make tables in {name}; it has to own the database.",
            own_database(name, user),
        )
    strange = [table for table, own in found["tables"].items() if not own]
    if "globalproperties" in found["tables"] and strange:
        yield Finding(
            f"orthanc_database_user: tables of Orthanc in {name} belong to another role than {user}.",
            [f"\\connect {name}", *(f'ALTER TABLE "{table}" OWNER TO {user};' for table in strange)],
        )
    if not found["extension"] and not found["extension_creatable"]:
        yield Finding(
            f"orthanc_database_name: {name} lacks the extension pg_trgm, which makes searches fast, and {user} cannot"
            " add it." + ("" if found["extension_there"] else " The server has it in the package postgresql-contrib."),
            [f"\\connect {name}", "CREATE EXTENSION IF NOT EXISTS pg_trgm;"],
        )
    yield from schema_findings(found, name, newest)


def ask_postgresql(driver: Any, params: Mapping[str, Any], ca: str) -> dict[str, Any]:
    """Log in, and read what ``postgresql_findings`` judges. :raises Refused: with the finding."""
    arguments = {
        "host": params["host"],
        "port": params["port"],
        "dbname": params["name"],
        "user": params["user"],
        "password": params["password"],
        "sslmode": "verify-full" if params["tls"] else "disable",
        "sslrootcert": ca,
        "connect_timeout": 10,
    }
    # What libpq itself says is judged by its words.
    locale.setlocale(locale.LC_MESSAGES, "C")
    # A login that is refused is not tried twice, since the server may count.
    message = numbered(driver, arguments)
    if not message:
        try:
            connection = driver.connect(**arguments)
        except driver.Error as error:
            message = " ".join(str(error).split())
    if message:
        raise Refused(postgresql_refusal(message, params["name"], params["user"], params["tls"]))
    try:
        connection.set_session(readonly=True)
        keys = ("encoding", "may_create", "powerful", "extension", "extension_there", "extension_creatable")
        found: dict[str, Any] = dict(zip(keys, rows(connection, POSTGRESQL)[0], strict=True))
        found["tables"] = dict(rows(connection, POSTGRESQL_TABLES))
        found["properties"] = {}
        if found["tables"].get("globalproperties"):
            found["properties"] = dict(rows(connection, "SELECT property, value FROM globalproperties"))
        return found
    finally:
        connection.close()


def numbered(driver: Any, arguments: Mapping[str, Any]) -> str:
    """Log in, and return what the server says against it, with the number of the error; nothing if it is silent.

    The words alone do not tell: they are in the server's language, and the driver has no number for them.
    """
    try:
        connection = driver.connect(**arguments, async_=1)
        # That libpq which the driver has; where it is hidden, words have to do.
        with contextlib.suppress(AttributeError, OSError):
            libpq = ctypes.CDLL(driver._psycopg.__file__)
            libpq.PQsetErrorVerbosity(ctypes.c_void_p(connection.pgconn_ptr), VERBOSE)
        end = time.monotonic() + SECONDS
        while (state := connection.poll()) != POLL_OK:
            reads, writes = ([connection], []) if state == POLL_READ else ([], [connection])
            if not any(select.select(reads, writes, [], max(0.0, end - time.monotonic()))):
                break
        connection.close()
        return ""
    except driver.Error as error:
        return " ".join(str(error).split()).partition(" LOCATION: ")[0]


# Of libpq and of the driver.
VERBOSE = 2
POLL_OK, POLL_READ = 0, 1
SECONDS = 10
POSTGRESQL = """
SELECT pg_encoding_to_char(encoding), COALESCE(has_schema_privilege(current_schema(), 'CREATE'), false),
  rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls,
  EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm'),
  EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm'),
  rolsuper OR has_database_privilege(current_database(), 'CREATE') AND
    -- PostgreSQL before 13 has no such column.
    EXISTS (SELECT FROM pg_available_extension_versions v WHERE name = 'pg_trgm' AND to_jsonb(v) ->> 'trusted' = 'true')
FROM pg_database, pg_roles WHERE datname = current_database() AND rolname = current_user
"""
# Without the tables of extensions; each with whether the login has the rights of its owner.
POSTGRESQL_TABLES = """
SELECT relname, pg_has_role(relowner, 'USAGE') FROM pg_class
WHERE relkind IN ('r', 'p') AND relnamespace = to_regnamespace(quote_ident(current_schema()))
  AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
"""

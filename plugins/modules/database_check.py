#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a database server that somebody else runs whether Orthanc can work with it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_check
short_description: Whether a database server that somebody else runs is ready for Orthanc
version_added: 0.1.0
description:
  - Logs in from this host as Orthanc will, and looks at TLS, the rights of the login, and what is in the database.
  - Fails with one sentence per problem, and with the SQL that the administrator of that server has to run.
  - Changes nothing on the server. Needs C(psycopg2) or C(pymysql) on this host.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  engine:
    description: What the server is.
    type: str
    choices: [postgresql, mysql]
    required: true
  host:
    description: Name or address of the server.
    type: str
    required: true
  port:
    description: TCP port of the server.
    type: int
    required: true
  name:
    description: Name of the database.
    type: str
    required: true
  user:
    description: User to log in as.
    type: str
    required: true
  password:
    description: Password of that user.
    type: str
    required: true
  tls:
    description: Encrypt the connection and verify the server's certificate.
    type: bool
    default: true
  ca:
    description: The certificates to verify it by, as PEM text. Empty takes those of the operating system.
    type: str
    default: ""
  storage:
    description: Whether the DICOM files go into the database too.
    type: bool
    default: false
  library:
    description: The plugin's file, by whose version the schema in the database is judged; empty if it is not to be.
    type: path
    default: ""
attributes:
  check_mode:
    description: Works as usual, since it only reads; without the driver it does nothing.
    support: full
"""

EXAMPLES = r"""
- name: Ask the server
  dicom.orthanc.database_check:
    engine: postgresql
    host: db.example.org
    port: 5432
    name: orthanc
    user: orthanc
    password: "{{ vault_orthanc_database_password }}"
"""

RETURN = r""" # """

import importlib
import os
import re
import ssl
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

# In place of the password, which no output may show.
PLACEHOLDER = "PASSWORD"
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
# The version of the schema that every Orthanc has, and the newest revision of it that a plugin of a major version
# reads. Other plugins are not judged here; they refuse by themselves what they do not read.
SCHEMA = "6"
REVISIONS = {"postgresql": {4: 1, 5: 1}, "mysql": {4: 6, 5: 7}}
# What the plugin does with its database at each start and at work; it makes triggers and functions.
PRIVILEGES = {
    *("SELECT", "INSERT", "UPDATE", "DELETE", "EXECUTE", "LOCK TABLES", "CREATE TEMPORARY TABLES"),
    *("CREATE", "ALTER", "DROP", "INDEX", "REFERENCES", "TRIGGER", "CREATE ROUTINE", "ALTER ROUTINE"),
}


class Finding(NamedTuple):
    """What is wrong, and the statements by which the administrator of the server puts it right."""

    sentence: str
    statements: Sequence[str] = ()


class Refused(Exception):
    """The server keeps the login out; the argument is the finding."""


# PostgreSQL. Names are plain words, see site_check.database.


def create_role(user: str) -> list[str]:
    return [
        f"SELECT 'CREATE ROLE {user}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{user}') \\gexec",
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

    :param message: what libpq says.
    """
    closed = re.search(r'no pg_hba\.conf entry for host "([^"]+)"', message)
    if re.search(r"does not support SSL", message):
        return Finding(
            "orthanc_database_tls: the server offers no TLS. Its administrator gives it a certificate (ssl_cert_file,"
            " ssl_key_file); or set this to false, where nobody can listen on the way.",
            ["ALTER SYSTEM SET ssl = on;", "SELECT pg_reload_conf();"],
        )
    if re.search(r"certificate|SSL error", message):
        return _untrusted(message)
    if closed:
        line = (
            f"{'hostssl' if tls else 'host'} {name} {user} {closed[1]}/{128 if ':' in closed[1] else 32} scram-sha-256"
        )
        hint = "" if tls else " Or it lets it in over TLS only: set orthanc_database_tls to true."
        return Finding(
            f"orthanc_database_host: the server lets {user} in from nowhere, or not from this host ({closed[1]})."
            f" This line has to stand in its pg_hba.conf: {line}.{hint}",
            ["SELECT pg_reload_conf();"],
        )
    if re.search(r"password authentication failed|role \".*\" does not exist|not permitted to log in", message):
        return Finding(
            f"orthanc_database_password: the server refuses the login; {user} (orthanc_database_user) is not known"
            " there, or has another password.",
            [*create_role(user), *create_database(name, user)],
        )
    if re.search(r"database \".*\" does not exist", message):
        return Finding(f"orthanc_database_name: the server has no database {name}.", create_database(name, user))
    if "permission denied for database" in message:
        return Finding(f"orthanc_database_name: {user} may not use {name}.", own_database(name, user))
    return Finding(f"orthanc_database_host: the server does not let Orthanc in: {message}.")


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


# MySQL and MariaDB.


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
# Until the server restarts; the plugin needs it when it makes its schema, not later.
TRUST = "SET GLOBAL log_bin_trust_function_creators = 1;"


def mysql_refusal(code: int, message: str, name: str, user: str, tls: bool) -> Finding:
    """Say in the terms of the inventory why the server did not let the login in.

    :param code: the number of the error, by which server and driver tell one from another.
    """
    seen = re.search(r"Access denied for user '[^']*'@'([^']+)'|Host '([^']+)' is not allowed", message)
    address = (seen[1] or seen[2]) if seen else "%"
    if code == NO_TLS:
        return Finding(
            "orthanc_database_tls: the server offers no TLS. Its administrator gives it a certificate (ssl_cert,"
            " ssl_key); or set this to false, where nobody can listen on the way."
        )
    if re.search(r"certificate|SSL|TLS", message, re.IGNORECASE):
        return _untrusted(message)
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


# Both.


def _untrusted(message: str) -> Finding:
    return Finding(
        "orthanc_database_ca: the server's certificate is not trusted, or is not for the name in orthanc_database_host."
        f" Give the certificate of its authority here, and the name that it is for there. The driver says: {message}."
    )


def schema_findings(found: Mapping[str, Any], name: str, newest: int | None) -> Iterator[Finding]:
    """Say whether the database is an empty one, or one that the plugin at hand reads."""
    tables = {table.lower() for table in found["tables"]}
    if tables and "globalproperties" not in tables:
        yield Finding(
            f"orthanc_database_name: {name} has tables of something else, such as {min(tables)}, and none of Orthanc;"
            " give Orthanc a database of its own."
        )
    version, revision = found["properties"].get(1), found["properties"].get(4)
    if version is not None and str(version) != SCHEMA:
        yield Finding(f"orthanc_database_name: {name} has schema {version} of Orthanc, and {SCHEMA} is needed.")
    elif newest is not None and revision is not None and int(revision) > newest:
        yield Finding(
            f"orthanc_database_name: {name} was used by a newer release of the plugin (revision {revision} of the"
            f" schema); the one on this host reads {newest}. Take that release, or another database."
        )


def advice(findings: Sequence[Finding], engine: str, server: str) -> str:
    """Put the findings together, with each statement once and in order."""
    lines = [f"Nothing was configured. The database server {server}, run by others, is not ready for Orthanc:"]
    lines += [f"- {finding.sentence}" for finding in findings]
    statements: list[str] = []
    for statement in (statement for finding in findings for statement in finding.statements):
        if statement.startswith("\\connect"):
            # That of the last one still holds.
            if statement in [line for line in statements if line.startswith("\\connect")][-1:]:
                continue
        elif statement in statements:
            continue
        statements.append(statement)
    if statements:
        lines.append(f"Its administrator runs there, in {ENGINES[engine].tool}, and then this run is repeated:")
        lines += statements
    if any(PLACEHOLDER in statement for statement in statements):
        lines.append(
            f"{PLACEHOLDER} stands for the value of orthanc_database_password,"
            f" in which each {ENGINES[engine].doubled} is doubled."
        )
    return "\n".join(lines)


def rows(connection: Any, question: str, values: Sequence[Any] = ()) -> list[Any]:
    cursor = connection.cursor()
    cursor.execute(question, values)
    return list(cursor.fetchall())


def ask_postgresql(driver: Any, params: Mapping[str, Any], ca: str) -> dict[str, Any]:
    """Log in, and read what ``postgresql_findings`` judges. :raises Refused: with the finding."""
    try:
        connection = driver.connect(
            host=params["host"],
            port=params["port"],
            dbname=params["name"],
            user=params["user"],
            password=params["password"],
            sslmode="verify-full" if params["tls"] else "disable",
            sslrootcert=ca,
            connect_timeout=10,
        )
    except driver.Error as error:
        message = " ".join(str(error).split())
        raise Refused(postgresql_refusal(message, params["name"], params["user"], params["tls"])) from error
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


class Engine(NamedTuple):
    """What is different about the two kinds of server."""

    library: str
    tool: str
    doubled: str
    ask: Callable[[Any, Mapping[str, Any], str], dict[str, Any]]
    findings: Callable[[Mapping[str, Any], str, str, int | None], Iterator[Finding]]


ENGINES = {
    "postgresql": Engine("psycopg2", "psql as superuser", "'", ask_postgresql, postgresql_findings),
    "mysql": Engine("pymysql", "mysql as root", "' and \\", ask_mysql, mysql_findings),
}


def newest_revision(engine: str, library: str) -> int | None:
    """Return the newest revision of the schema that a plugin reads, if its file tells its version as Debian's do."""
    found = re.search(r"\.so\.(\d+)\.", os.path.realpath(library))
    return REVISIONS[engine].get(int(found[1])) if found else None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "engine": {"type": "str", "choices": ["postgresql", "mysql"], "required": True},
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "name": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "tls": {"type": "bool", "default": True},
            "ca": {"type": "str", "default": ""},
            "storage": {"type": "bool", "default": False},
            "library": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    engine, name, user = params["engine"], params["name"], params["user"]
    library = ENGINES[engine].library
    try:
        driver = importlib.import_module(library)
    except ImportError as error:
        if module.check_mode:
            module.exit_json(skipped=True, msg=f"A dry run does not install {library}.")
        module.fail_json(f"This host has no {library} for {module.params['engine']}: {error}")
    newest = newest_revision(engine, params["library"])
    findings: list[Finding]
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as ca:
            ca.write(params["ca"])
            ca.flush()
            found = ENGINES[engine].ask(driver, params, ca.name if params["ca"] else SYSTEM_CA)
        findings = list(ENGINES[engine].findings(found, name, user, newest))
    except Refused as refused:
        findings = [refused.args[0]]
    except driver.Error as error:
        findings = [Finding(f"orthanc_database_name: the server does not tell what is in {name}: {error}.")]
    if findings:
        module.fail_json(advice(findings, engine, f"{params['host']}:{params['port']}"))
    if found["powerful"]:
        module.warn(f"orthanc_database_user: {user} may do more on the database server than Orthanc needs.")
    if params["storage"] and found.get("packet", 2**30) < 2**30:
        module.warn(
            f"orthanc_database_storage: a DICOM file of more than {found['packet'] // 2**20} MiB cannot be stored in"
            " the database; max_allowed_packet of its server limits it."
        )
    module.exit_json()


if __name__ == "__main__":
    main()

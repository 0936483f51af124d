# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role mysql asks of an inventory; what the server on the host has to say to it, the role asks itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host

NULL = ("mysql_settings",)
RANGES = {"mysql_clients.connections": (1, 10_000), "mysql_reserved_connections": (1, 10_000)}
PROGRAMS = ("mariadbd",)
# MySQL, which is another server; Debian's default-mysql-server is MariaDB.
MYSQL = re.compile(r"(mysql-(community-)?|percona-server-)server(-.*)?")
# Settings that the role has from elsewhere, and the variable for it, if there is one.
SETTINGS: Mapping[str, str] = {
    "bind_address": "mysql_listen_addresses",
    "port": "mysql_port",
    "ssl_cert": "mysql_tls_certificate",
    "ssl_key": "mysql_tls_private_key",
    **dict.fromkeys(("datadir", "pid_file", "skip_grant_tables", "skip_networking", "skip_ssl", "ssl", "user"), ""),
}
DATABASE = re.compile(r"(?!(mysql|sys|test|information_schema|performance_schema)$)[A-Za-z0-9_$]{1,64}")
USER = re.compile(
    r"(?!(root|mysql|mariadb\.sys|mysql\.(sys|session|infoschema)|debian-sys-maint)$)[A-Za-z0-9_.-]{1,32}"
)
# What the server lets in where nothing is said.
CONNECTIONS = 151


def problems(host: Host) -> Iterator[str]:
    variables = host.variables
    yield from values.pair("mysql_tls", variables)
    yield from values.names("mysql_tls_certificate", "mysql_address", variables)
    yield from values.settings("mysql_settings", variables, SETTINGS)
    yield from values.reached_at("mysql_address", variables["mysql_address"])
    yield from values.clients("mysql_clients", host)
    yield from _clients(host)
    yield from _another(host)
    settings, shared = variables["mysql_settings"], variables["mysql_shared"]
    strange = [str(name) for name in settings if not re.fullmatch(r"[a-z][a-z0-9_.]*", str(name))]
    if strange:
        yield f"mysql_settings: write the names in lower case and with underscores, not {', '.join(strange)}."
    if shared and settings:
        yield "mysql_settings: the settings of a server that others use stay (mysql_shared); take this out."
    asked = [int(client["connections"]) for client in clients_of(host)]
    needed = sum(asked) + int(variables["mysql_reserved_connections"])
    # Null leaves it to the server.
    most = settings.get("max_connections", needed) or CONNECTIONS
    if not shared and str(most).isdigit() and int(most) < needed:
        yield (
            f"mysql_settings.max_connections: {most} is too few. The Orthancs hold up to {sum(asked)} connections"
            f" ({' + '.join(map(str, asked))}), and {variables['mysql_reserved_connections']} are reserved"
            f" (mysql_reserved_connections): that makes {needed}. Leave it out, or lower what the Orthancs may hold."
        )


def clients_of(host: Host) -> list[Mapping[str, str]]:
    """Return the Orthancs that keep their data here."""
    return [client for client in host.variables["mysql_clients"] if client["engine"] == "mysql"]


def _clients(host: Host) -> Iterator[str]:
    clients = clients_of(host)
    for key, pattern, what in (
        ("name", DATABASE, "a database of Orthanc; take 1 to 64 letters, digits, '_' and '$'"),
        ("user", USER, "a user of Orthanc; take 1 to 32 letters, digits, '_', '.' and '-'"),
    ):
        wrong = dict.fromkeys(str(client[key]) for client in clients if not pattern.fullmatch(str(client[key])))
        if wrong:
            quoted = "', '".join(wrong)
            yield f"mysql_clients: '{quoted}' is no name for {what}, and no name of the server's own."
    accounts = {(client["user"], client["address"]) for client in clients}
    if len({(client["user"], client["address"], client["password"]) for client in clients}) > len(accounts):
        yield (
            "mysql_clients: a user at one address has two passwords; give Orthancs on one host the same, or two users."
        )
    if not all(client["password"] for client in clients):
        yield "mysql_clients: a password is empty."
    yield from values.shared("mysql_shared", host.variables, clients)


def _another(host: Host) -> Iterator[str]:
    """A MySQL on this host, which MariaDB would push out."""
    installed = (host.probe or {}).get("packages", [])
    there = [name for name in installed if MYSQL.fullmatch(name)]
    # Of MariaDB there were packages with these names.
    if there and "mariadb-server" not in installed:
        yield (
            f"orthanc_database_host: this host has MySQL ({', '.join(there)}), which the role mysql, with its MariaDB,"
            " would replace. Take the host out of the group 'mysql', and name that server with the Orthanc as one that"
            " others run (docs/databases.md)."
        )


def notices(host: Host) -> Iterator[str]:
    if host.variables["mysql_tls_certificate"]:
        yield from values.ending("mysql_tls_certificate", host.variables)

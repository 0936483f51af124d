# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role postgresql asks of an inventory; what the server on the host has to say to it, the role asks itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host

NULL = ("postgresql_settings",)
RANGES = {"postgresql_clients.connections": (1, 10_000), "postgresql_reserved_connections": (5, 10_000)}
PROGRAMS = ("postgres",)
# Settings that the role has from elsewhere, and the variable for it, if there is one.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "postgresql_address",
    "port": "postgresql_port",
    "ssl_cert_file": "postgresql_tls_certificate",
    "ssl_key_file": "postgresql_tls_private_key",
    **dict.fromkeys(("config_file", "data_directory", "external_pid_file", "hba_file", "ident_file", "ssl"), ""),
    "unix_socket_directories": "",
}
NAME = re.compile(r"(?!(postgres|template[01]|public|none|pg_.*)$)[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")
SETTING = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")


def problems(host: Host) -> Iterator[str]:
    variables = host.variables
    yield from values.pair("postgresql_tls", variables)
    yield from values.names("postgresql_tls_certificate", "postgresql_address", variables)
    yield from values.settings("postgresql_settings", variables, SETTINGS)
    yield from values.reached_at("postgresql_address", variables["postgresql_address"])
    yield from values.clients("postgresql_clients", host)
    yield from _clients(host)
    settings, shared = variables["postgresql_settings"], variables["postgresql_shared"]
    strange = [json.dumps(name) for name in settings if not SETTING.fullmatch(str(name))]
    if strange:
        yield f"postgresql_settings: {', '.join(strange)} is no name of a setting; they are written in small letters."
    if shared and settings:
        yield "postgresql_settings: the settings of a server that others use stay (postgresql_shared); take this out."
    clients = variables["postgresql_clients"]
    asked, reserved = (
        sum(int(client["connections"]) for client in clients),
        variables["postgresql_reserved_connections"],
    )
    most = settings.get("max_connections") or asked + int(reserved)
    if not shared and str(most).isdigit() and int(most) < asked + int(reserved):
        yield (
            f"postgresql_settings: max_connections is {most}, and {asked + int(reserved)} are needed: {asked} for"
            f" {len(clients)} clients and postgresql_reserved_connections, {reserved}. Raise it, or leave it out."
        )


def _clients(host: Host) -> Iterator[str]:
    """The Orthancs that keep their data here."""
    clients = host.variables["postgresql_clients"]
    names = dict.fromkeys([str(client[key]) for key in ("name", "user") for client in clients])
    wrong = [json.dumps(name) for name in names if not NAME.fullmatch(name)]
    if wrong:
        yield (
            f"postgresql_clients: {', '.join(wrong)} cannot be the name of a database or a role here; take up to 63"
            " letters, digits, _ and -, and no name of PostgreSQL's own."
        )
    if len({(client["name"], client["user"]) for client in clients}) > len({client["name"] for client in clients}):
        yield "postgresql_clients: a database has one owner; give all that share it the same user."
    if len({(client["user"], client["password"]) for client in clients}) > len({client["user"] for client in clients}):
        yield "postgresql_clients: a role has one password; give all that log in as it the same one."
    nobody = dict.fromkeys(str(client["user"]) for client in clients if not client["password"])
    if nobody:
        yield f"postgresql_clients: {', '.join(nobody)} has no password."
    yield from values.shared("postgresql_shared", host.variables, clients)


def notices(host: Host) -> Iterator[str]:
    if host.variables["postgresql_tls_certificate"]:
        yield from values.ending("postgresql_tls_certificate", host.variables)

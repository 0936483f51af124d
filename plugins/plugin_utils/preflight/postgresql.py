# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role postgresql asks of an inventory; what the server on the host has to say to it, the role asks itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host

NULL = ("postgresql_settings",)
RANGES = {
    "postgresql_clients.connections": (1, 10_000),
    "postgresql_failover_seconds": (30, 600),
    "postgresql_reserved_connections": (5, 10_000),
}
PROGRAMS = ("postgres",)
DEVICE = re.compile(r"/dev/[A-Za-z0-9_-]{1,64}")
# Of its REST interface, by which the servers ask each other.
PATRONI_PORT = "8008"
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


def look(host: Host) -> dict[str, Any]:
    device = str(host.variables["postgresql_watchdog"])
    return {"watchdog": device} if DEVICE.fullmatch(device) else {}


def problems(host: Host) -> Iterator[str]:
    variables = host.variables
    yield from _watchdog(host)
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
    if variables["postgresql_etcd"]:
        yield from _cluster(host)
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


def _watchdog(host: Host) -> Iterator[str]:
    """What restarts a host; without it none becomes primary that has been told of one."""
    device = str(host.variables["postgresql_watchdog"])
    if not device:
        return
    if not DEVICE.fullmatch(device):
        yield f"postgresql_watchdog: '{device}' is no device such as /dev/watchdog."
    elif not host.variables["postgresql_etcd"]:
        yield "postgresql_watchdog: this server stands alone, and nobody takes its place; it is for one of a cluster."
    elif host.probe and not host.probe["watchdog"]:
        yield (
            f"postgresql_watchdog: {device} is no device of this host, and without it this server would never become"
            " primary. Load the module of its hardware (softdog where it has none), or leave it empty."
        )


# Settings that Patroni has its own way with.
OF_PATRONI = ("cluster_name", "hot_standby", "restore_command", "synchronous_standby_names", "wal_log_hints")
OF_PRIMARY = ("primary_conninfo", "primary_slot_name", "recovery_target_timeline")

# With these values what was acknowledged is not on two hosts, or not on their disks.
OFF = ("false", "off", "no", "0")
UNSAFE: Mapping[str, tuple[str, ...]] = {
    "fsync": OFF,
    "full_page_writes": OFF,
    "synchronous_commit": (*OFF, "local"),
    "wal_level": ("minimal",),
}
# Of less Patroni says nothing, and takes its own number.
LEAST = {
    "max_connections": 25,
    "max_locks_per_transaction": 32,
    "max_replication_slots": 4,
    "max_wal_senders": 3,
    "max_worker_processes": 2,
}


def _cluster(host: Host) -> Iterator[str]:
    """Several servers of which one is primary."""
    variables = host.variables
    servers = variables["postgresql_servers"]
    if len(servers) < 2:
        yield (
            "postgresql_servers: this is one of a cluster (postgresql_etcd), and there is nobody to take its place; put"
            " three hosts into the group 'postgresql', or take those of the group 'etcd' out, and the server stays"
            " alone."
        )
    for name, address in servers.items():
        if not values.is_address(str(address)):
            yield (
                f"postgresql_servers: '{address}' of {name} is no IP address, and the servers know each other by"
                f" theirs. Give {name} an ansible_host that is an address."
            )
    if servers.get(host.name, variables["postgresql_address"]) != variables["postgresql_address"]:
        yield "postgresql_address: the other servers reach this one at its ansible_host; set that instead."
    if variables["postgresql_shared"]:
        yield "postgresql_shared: a server of others is none of a cluster; set it to false, or empty the group 'etcd'."
    for name in variables["postgresql_settings"]:
        if name in OF_PATRONI + OF_PRIMARY:
            yield f"postgresql_settings.{name}: Patroni sets it. Take it out."
    for name, value in variables["postgresql_settings"].items():
        said = str(value).lower()
        if said in UNSAFE.get(name, ()):
            yield (
                f"postgresql_settings.{name}: with {said} an image that was acknowledged may be lost with the primary,"
                " which is what the other servers are for. Take it out."
            )
        if said.isdigit() and int(said) < LEAST.get(name, 0):
            yield (
                f"postgresql_settings.{name}: {said} is less than Patroni takes for a server of a cluster; choose"
                f" {LEAST[name]} or more, or take it out."
            )
    holder = (host.probe or {}).get("listening", {}).get(PATRONI_PORT, "patroni")
    if holder not in ("patroni", "python3"):
        yield f"postgresql_etcd: Patroni's port {PATRONI_PORT} is taken on this host by {holder}; stop that program."
    yield from values.among("postgresql_tls", "postgresql_address", host)


def away(host: Host) -> str:
    return values.without(host) if host.variables["postgresql_etcd"] and not host.has("etcd") else ""


def _left_out(host: Host) -> Iterator[str]:
    """Servers of its cluster that have no part in this run."""
    servers = host.variables["postgresql_servers"]
    left = set(servers) - set(host.site("ansible_play_hosts_all") or servers)
    if left and host.variables["postgresql_etcd"]:
        yield (
            f"postgresql_servers: this run leaves {' and '.join(sorted(left))} out, where rules and settings stay as"
            " they are, also should a primary come from there. Run for all of them as soon as they answer."
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
    yield from _left_out(host)
    if host.variables["postgresql_tls_certificate"]:
        yield from values.ending("postgresql_tls_certificate", host.variables)

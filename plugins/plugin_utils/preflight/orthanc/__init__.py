# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role orthanc asks of an inventory and a host: a file for each subject, and for each install method."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import (
    database,
    deidentify,
    dicom,
    folders,
    imports,
    ingest,
    opened,
    options,
    peers,
    plugins,
    routes,
    scripts,
    storage,
    worklists,
)
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import RELEASE, Orthanc, tables

RANGES = {
    "orthanc_database_connections": (1, 100),
    "orthanc_docker_cpus": (0, 1024),
    "orthanc_import_connections": (0, 64),
    "orthanc_journal_days": (0, 36_500),
    "orthanc_journal_mb": (0, 1_000_000),
    "orthanc_lsb_keep": (1, 100),
    "orthanc_ready_timeout": (1, 3600),
    "orthanc_source_jobs": (0, 256),
    "orthanc_source_keep": (1, 100),
    "orthanc_storage_minimum_free_gb": (0, 1_000_000),
}
PROGRAMS = ("Orthanc",)
# The server's, which may be this host and have a role of its own.
PORTS_ELSEWHERE = ("orthanc_database_port",)
# Debian's Orthanc is open to all until it is configured.
MASKED = {"orthanc": "/usr/sbin/Orthanc"}


def _of_method(host: Host, name: str, default: Any) -> Any:
    """Return what the file of the install method has under a name."""
    method = host.variables["orthanc_install_method"]
    return getattr(importlib.import_module(f"{__name__}.{method}"), name, default)


def comes_with(host: Host) -> list[str]:
    """The proof, and what the install method brings along, whatever the groups are."""
    return ["verification", *host.constants["orthanc"].get("__orthanc_roles", [])]


def packages(host: Host) -> str:
    choose = _of_method(host, "packages", None)
    return str(choose(Orthanc(host))) if choose else "__orthanc_packages"


def inventory(host: Host) -> Iterator[str]:
    """An Orthanc in a place that nobody has made."""
    yield from host.site("site_unserved") or []


def look(host: Host) -> dict[str, Any]:
    variables, orthanc = host.variables, Orthanc(host)
    kind = variables["orthanc_database"]
    server = (variables["orthanc_database_host"], variables["orthanc_database_port"])
    of_method = _of_method(host, "look", None)
    return {
        "storage_dir": variables["orthanc_storage_dir"],
        "config_dir": variables["orthanc_config_dir"],
        "index_dir": variables["orthanc_index_dir"] or variables["orthanc_storage_dir"],
        "database": kind if variables["orthanc_database_index"] else "sqlite",
        "files": kind if variables["orthanc_database_storage"] else "",
        "database_host": variables["orthanc_database_host"],
        "database_name": variables["orthanc_database_name"],
        "release": str(variables["orthanc_version"]),
        "dump_dir": database.dump_dir(orthanc),
        "others": sorted({*dicom.places(orthanc).values(), *peers.places(orthanc).values()}),
        "server": list(map(str, server)) if orthanc.foreign_database else [],
        "program": next(iter(host.internal("orthanc", "__orthanc_command")), ""),
        "storage_mount": variables["orthanc_storage_mount"],
        **(of_method(orthanc) if of_method else {}),
    }


def problems(host: Host) -> Iterator[str]:
    orthanc = Orthanc(host)
    yield from _users(host)
    variables = host.variables
    if not variables["orthanc_name"]:
        yield "orthanc_name: it is empty, and it is what people know this Orthanc by; leave it out, or write it out."
    if not dicom.is_aet(variables["orthanc_aet"]):
        yield (
            f"orthanc_aet: '{variables['orthanc_aet']}' is no application entity title;"
            " it has 1 to 16 printable ASCII characters, no backslash."
        )
    if variables["orthanc_version"] and not re.fullmatch(RELEASE, str(variables["orthanc_version"])):
        yield f"orthanc_version: '{variables['orthanc_version']}' is no release; write it like 1.12.7, with quotes."
    yield from values.prefix("orthanc_public_prefix", variables)
    yield from folders.problems(orthanc, _of_method(host, "FOLDERS", ()))
    yield from _of_method(host, "problems", None)(orthanc)
    checks = (
        database.problems,
        storage.problems,
        storage.identifiers,
        plugins.problems,
        options.problems,
        dicom.modalities,
        dicom.tls,
        peers.problems,
    )
    rules = (scripts.problems, ingest.problems, deidentify.problems, worklists.problems, routes.problems)
    for check in (*checks, *rules, imports.problems):
        yield from check(orthanc)
    if host.probe:
        yield from storage.seen(orthanc)
        yield from database.left_behind(variables, host.probe)
        yield from database.taken_over(orthanc)
        yield from _room(variables, host.probe)
        yield from database.another_release(orthanc, host.probe["index"])


def _room(variables: Mapping[str, Any], probe: Mapping[str, Any]) -> Iterator[str]:
    """See whether there is room for files, and for an index that is elsewhere on this host."""
    wanted = int(variables["orthanc_storage_minimum_free_gb"])
    found = {"orthanc_storage_dir": probe["free"]}
    sqlite = variables["orthanc_database"] == "sqlite" or not variables["orthanc_database_index"]
    if sqlite and variables["orthanc_index_dir"]:
        found["orthanc_index_dir"] = probe["free_index"]
    for name, free in found.items():
        if free / 2**30 < wanted:
            yield (
                f"{name}: {free / 2**30:.1f} GiB are free at {variables[name]},"
                f" and orthanc_storage_minimum_free_gb asks for {wanted}. Make room or choose another folder."
            )


def _users(host: Host) -> Iterator[str]:
    variables = host.variables
    yield from values.logins("orthanc_users", variables)
    if variables["orthanc_proxied"]:
        if not variables["orthanc_proxy_user"] or ":" in variables["orthanc_proxy_user"]:
            yield f"orthanc_proxy_user: '{variables['orthanc_proxy_user']}' is empty or has a colon in it; take proxy."
        if not variables["orthanc_proxy_password"]:
            yield f"orthanc_proxy_password: it is empty; {values.SECRETS}"
    elif not variables["orthanc_users"]:
        yield f"orthanc_users: no user is named, so nobody could log in; name one, and {values.SECRETS}"


def notices(host: Host) -> Iterator[str]:
    orthanc = Orthanc(host)
    if host.probe and host.probe["index"]:
        yield from database.dumped(orthanc, host.probe["index"])
    rules = (deidentify.notices, worklists.notices, routes.notices)
    for check in (options.notices, plugins.notices, dicom.notices, peers.notices, *rules):
        yield from check(orthanc)


def risks(host: Host) -> tuple[list[str], list[str]]:
    return opened.findings(Orthanc(host))


def found(host: Host) -> dict[str, Any]:
    """What is there, by the answers of the very binary; the image, and the user that the service runs as."""
    probe = host.probe or {}
    command = probe["asked"] or list(host.internal("orthanc", "__orthanc_command"))[:1]
    return {
        "orthanc": {"command": command, **probe["binary"]},
        "image": probe["image"],
        "account": probe["account"],
        "storage_mark": probe["storage"].get("mark", ""),
    }


def expected(host: Host) -> dict[str, Any]:
    """What is known of the release that apt is going to install, where none is there."""
    probe = host.probe or {}
    offered = next(iter(probe["offered"]), "")
    known = not probe["orthanc"] and Orthanc(host).installs_what_is_offered and offered in tables("known")
    return {"orthanc": {"version": offered, "options": tables("known")[offered]}} if known else {}

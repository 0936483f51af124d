# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to the database, and what an archive that is there has in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import version_tuple
from ansible_collections.dicom.orthanc.plugins.module_utils.database_answers import REVISIONS
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_index import WRITER, unwritten
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc

# What the servers call their own.
SERVER_NAMES = re.compile(
    "postgres|template[01]|public|none|all|sameuser|samerole|replication|pg_.*"
    "|root|mysql|sys|test|information_schema|performance_schema|mariadb.sys|debian-sys-maint",
    re.IGNORECASE,
)


# How long the dump of an index takes, and its way back, in seconds per GiB of it; benchmarks/README.md.
SECONDS = {"sqlite": (2, 4), "postgresql": (5, 15), "mysql": (15, 150)}


def problems(orthanc: Orthanc) -> Iterator[str]:
    """The way to the database."""
    variables = orthanc.variables
    engine = variables["orthanc_database"]
    if engine == "sqlite":
        if variables["orthanc_database_storage"]:
            yield "orthanc_database_storage: SQLite holds no DICOM files; take it out or change orthanc_database."
        return
    if not variables["orthanc_database_index"] and not variables["orthanc_database_storage"]:
        yield (
            f"orthanc_database_index: neither the index nor the DICOM files would be in {engine}; set this or"
            " orthanc_database_storage to true, or orthanc_database to sqlite."
        )
    if not variables["orthanc_database_password"]:
        yield f"orthanc_database_password: it is empty; {values.SECRETS}"
    yield from values.of_inventory("orthanc_database_server", orthanc.host)
    server = str(variables["orthanc_database_host"])
    if not server:
        yield (
            f"orthanc_database_host: no host of the inventory is in the group '{engine}' and none is named here;"
            " put a host into that group, or name the server that somebody else runs."
        )
    elif "," in server and engine != "postgresql":
        yield f"orthanc_database_host: '{server}' are several, and {engine} has one; name that."
    elif strange := [one for one in server.split(",") if not _is_place(one)]:
        yield f"orthanc_database_host: '{strange[0]}' is neither a host name nor an address."
    elif orthanc.probe and orthanc.probe["no_way"]:
        yield _no_way(server, int(variables["orthanc_database_port"]), orthanc.probe["no_way"])
    if "-----BEGIN CERTIFICATE-----" not in str(variables["orthanc_database_ca"] or "-----BEGIN CERTIFICATE-----"):
        yield "orthanc_database_ca: this is no certificate in PEM form; give its text, not its path."
    for name in ("orthanc_database_name", "orthanc_database_user"):
        # What every server and both plugins take without quotes.
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,31}", str(variables[name])):
            yield f"{name}: '{variables[name]}' is no plain name; use up to 32 letters, digits and underscores."
        elif SERVER_NAMES.fullmatch(str(variables[name])):
            yield f"{name}: '{variables[name]}' is a name of the server's own; choose another, such as orthanc."


def _is_place(text: str) -> bool:
    return values.is_address(text) or bool(values.HOST_NAME.fullmatch(text))


def _no_way(server: str, port: int, reason: str) -> str:
    kind, _, words = reason.partition(" ")
    if kind == "name":
        return (
            f"orthanc_database_host: this host does not know the name '{server}' ({words});"
            " correct it, or give the address."
        )
    return (
        f"orthanc_database_port: nothing answers this host at '{server}', port {port} ({words}); correct this and"
        " orthanc_database_host, or have the server listen there and the firewalls on the way let this host through."
    )


_KINDS = {"storage": "DICOM files", "index": "index"}


def left_behind(variables: values.Variables, probe: Mapping[str, Any]) -> Iterator[str]:
    """Find that a host with images would start with an empty archive in another database, or in another folder."""
    database = variables["orthanc_database"]
    for path in probe["unread"]:
        yield (
            f"ansible_host: an Orthanc runs here that others set up, and what it runs with cannot be read: {path} is no"
            " JSON. Mend that file, or move it away."
        )
    if probe["images"]:
        for folder in probe["lost"]:
            name = "index" if variables["orthanc_index_dir"] == folder else "storage"
            yield (
                f"orthanc_{name}_dir: {folder} had the archive of this host when Orthanc worked last, and is missing or"
                f" empty. Mount its disk; or, if it is right like this, `mkdir -p {folder} && touch {folder}/.pacs`."
            )
    whose = f" of {probe['configuration']}" if probe["configuration"] else ""
    if probe["images"] and not variables["orthanc_database_leave_images_behind"]:
        for kind, folder in probe["elsewhere"].items():
            if kind == "storage" or not (variables["orthanc_database_index"] and database != "sqlite"):
                yield (
                    f"orthanc_{kind}_dir: the Orthanc{whose} on this host has its {_KINDS[kind]} in {folder}. Set it to"
                    f" {folder}, or stop that Orthanc and take everything there to the new folder first."
                )
        if probe["other_server"] and probe["database"] == database:
            there, name = probe["other_server"]
            yield (
                f"orthanc_database_host: the Orthanc{whose} on this host has its index in the database '{name}' of"
                f" {there or 'this host'}. Set it and orthanc_database_name to that; or set"
                " orthanc_database_leave_images_behind to true, to start with an empty archive."
            )
    found, asked = probe["database"], database if variables["orthanc_database_index"] else "sqlite"
    if not found or not probe["images"]:
        return
    count = f"{probe['images']} images" if probe["images"] > 0 else "an unknown number of images"
    if found == asked:
        files, wanted = probe["files"], database if variables["orthanc_database_storage"] else ""
        if files != wanted:
            here, there = (name or variables["orthanc_storage_dir"] for name in (files, wanted))
            yield (
                f"orthanc_database_storage: the files of {count} are in {here}, and Orthanc would look for them in"
                f" {there}. Set it back; or export them, delete them in Orthanc, and import them after the change."
            )
        return
    if variables["orthanc_database_leave_images_behind"]:
        return
    yield (
        f"orthanc_database: this host has {count} in {found}, and with {asked} it would start with none."
        f" Set it back to {found}, or export them first and then set orthanc_database_leave_images_behind to true;"
        " files and old index stay where they are."
    )


def taken_over(orthanc: Orthanc) -> Iterator[str]:
    """Refuse another release for an archive of others: nothing is known to go back to, and no dump would be made."""
    probe, variables = orthanc.probe or {}, orthanc.variables
    asked = variables["orthanc_database"] if variables["orthanc_database_index"] else "sqlite"
    same = probe["database"] == asked and not probe["elsewhere"] and not probe["other_server"]
    if probe["theirs"] not in ("", orthanc.release) and probe["images"] and same and dump_dir(orthanc):
        theirs, release = probe["theirs"], orthanc.release or f"what {orthanc.source['name']} brings"
        yield (
            f"orthanc_version: the Orthanc of {probe['configuration'] or 'others'} on this host is {theirs}, which"
            f" others set up, and {release} would open its index with no way back. Take it over as it is first, with"
            f' orthanc_version: "{theirs}" by whichever method has that, and ask for another release then. Where you'
            ' have dumped the index yourself, set orthanc_dump_dir to "".'
        )


def dump_dir(orthanc: Orthanc) -> str:
    """Return where the index is dumped to before another release; nothing where it is not this Orthanc's alone."""
    return str(orthanc.variables["orthanc_dump_dir"]) if orthanc.variables["orthanc_database_lock"] else ""


def another_release(orthanc: Orthanc, index: Mapping[str, Any]) -> Iterator[str]:
    """See whether the release that is asked for reads the index, and whether there is room for a dump of it.

    :param index: what the module ``site_probe`` returned; nothing where that release runs.
    """
    if not index:
        return
    engine, folder = str(orthanc.variables["orthanc_database"]), dump_dir(orthanc)
    package, plugin = _plugin(orthanc)
    newest = REVISIONS.get(engine, {}).get(plugin, 0)
    if newest and index["revision"] > newest:
        yield (
            f"orthanc_version: Orthanc {orthanc.release} comes with {package} {plugin}, which reads an index up to"
            f" revision {newest} of the schema, and {index['where']} has {index['revision']}. Stay with a newer one, or"
            " have the dump back that was made before it (docs/operations.md)."
        )
    old = orthanc.release and version_tuple(orthanc.release) < version_tuple(WRITER)
    if index["revision"] and old and (engine == "sqlite" or not orthanc.variables["orthanc_database_index"]):
        yield f"orthanc_version: {unwritten(orthanc.release, index['where'])}"
    if folder and index["free"] < index["size"]:
        yield (
            f"orthanc_dump_dir: {index['where']} is dumped before another release opens it, which takes up to"
            f" {index['size'] / 2**20:.0f} MiB, and {folder} has {index['free'] / 2**20:.0f} free. Make room there, or"
            " choose another folder."
        )


def _plugin(orthanc: Orthanc) -> tuple[str, str]:
    """Return package and version of the database's plugin in the release that is asked for, where they are known."""
    engine = str(orthanc.variables["orthanc_database"])
    package = next(iter(orthanc.databases[engine]["packages"]), "")
    # What that family of images has comes from the download site.
    image = orthanc.from_where == "docker" and "jodogne/" in str(orthanc.variables["orthanc_docker_image"])
    if not orthanc.source["plugins_of_debian"] and not image:
        return package, ""
    named = orthanc.variables["orthanc_lsb_plugin_versions"].get(engine, "")
    return package, str(named or orthanc.lsb_versions.get(orthanc.release, {}).get(package, ""))


def dumped(orthanc: Orthanc, index: Mapping[str, Any]) -> Iterator[str]:
    """Say what is done before another release runs."""
    folder, variables = dump_dir(orthanc), orthanc.variables
    if folder and index["size"]:
        engine = str(variables["orthanc_database"]) if variables["orthanc_database_index"] else "sqlite"
        there, back = (max(1, round(seconds * index["size"] / 2**30)) for seconds in SECONDS[engine])
        yield (
            f"orthanc_version: Orthanc {orthanc.release} is to take the place of {index['running'] or 'a stopped one'}."
            f" Before that, {index['where']} ({index['size'] / 2**20:.0f} MiB) is dumped to {folder} if its schema may"
            f" change, in about {there} s; to come back would take it about {back} s more. Until the new release is"
            " proved nobody reaches it."
        )

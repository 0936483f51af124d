# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Orthanc says of itself and in its journal, in the terms of the inventory."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import Unit

# What a database says, and what it means in the terms of the inventory.
MEANINGS = (
    (
        r"password authentication failed|Access denied for user",
        "The database refuses the login: orthanc_database_user and orthanc_database_password are not the server's.",
    ),
    (
        r"locked by another instance|database is already locked|is locked by",
        "Another Orthanc holds the database: orthanc_database_name is in use by a second site.",
    ),
    (
        r"permission denied for schema|command denied to user|must be owner",
        "The login may not make tables: it has to own the database that orthanc_database_name names.",
    ),
    (
        r"remaining connection slots|too many connections|Too many connections",
        "The server has no connection left: orthanc_database_connections of all nodes exceed its max_connections.",
    ),
    (
        r"certificate verify failed|SSL error|SSL connection error|server certificate",
        "The server's certificate is not trusted: see orthanc_database_ca and orthanc_database_host.",
    ),
    (
        r"database \"[^\"]*\" does not exist|Unknown database",
        "There is no such database on the server: see orthanc_database_name.",
    ),
    (
        r"no pg_hba.conf entry|is not allowed to connect",
        "The server lets nobody in from this host: its rules for clients do not name it.",
    ),
    (
        r"revision|[Ii]ncompatible version of the",
        "The database was made by another release of the plugin, which this one does not read.",
    ),
    (
        r"could not connect|Connection refused|Can't connect|could not translate|Unknown .*server host|timeout expired",
        "The database does not answer: see orthanc_database_host and orthanc_database_port, and whether it runs.",
    ),
)


def journal(unit: Unit, since: float) -> str:
    """Return the newest error lines of the unit, or its last lines where none is marked so.

    :param since: in seconds since 1970; what an earlier Orthanc said would be taken for what is wrong now.
    """
    lines = unit.log(200, since)
    errors = [line for line in lines if re.match(r"E\d{4} ", line)]
    # A service that is started again and again says the same again and again.
    newest = {line.partition("] ")[2] or line: line for line in errors or lines}
    return "\n".join(list(newest.values())[-5:])


def meaning(lines: str) -> str:
    """Say in the terms of the inventory what the journal tells, or nothing if that is not known."""
    return next((f"{text} " for pattern, text in MEANINGS if re.search(pattern, lines)), "")


def differences(params: dict[str, Any], system: dict[str, Any], plugins: list[str]) -> list[str]:
    """Say where the running Orthanc is not the one that was asked for."""
    wanted, running = str(params["version"]), str(system["Version"])
    found = []
    if wanted and running != wanted:
        found.append(
            f"orthanc_version asks for {wanted}, but {running} runs. Take another release, or free the choice."
        )
    found += [
        f"orthanc_plugins asks for a plugin that Orthanc did not load: {name}. The journal says why."
        for name in params["plugins"]
        if name not in plugins
    ]
    # Reported is the path of the plugin, or nothing for what is built in.
    for field, asked, variable in (
        ("DatabaseBackendPlugin", params["database"], "orthanc_database"),
        ("StorageAreaPlugin", params["storage"], "orthanc_database_storage with orthanc_plugins"),
    ):
        backend = str(system.get(field) or "")
        expected = "" if asked in ("", "sqlite") else str(asked)
        if (expected.lower() not in backend.lower()) or (backend and not expected):
            found.append(
                f"{variable} asks for {asked or 'the file system'}, but {field} is {backend or 'the built-in one'}."
            )
    return found

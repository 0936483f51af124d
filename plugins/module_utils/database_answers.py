# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server of a database says that others run, in the terms of the inventory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

# In place of the password, which no output may show.
PLACEHOLDER = "PASSWORD"
# The version of the schema that every Orthanc has.
SCHEMA = "6"
# The newest revision of the schema that Debian's plugins read. Others are not judged beforehand, as MySQL 5.2 with 8;
# they refuse what they do not read.
REVISIONS: Mapping[str, Mapping[str, int]] = {"postgresql": {"4.0": 1, "5.0": 1}, "mysql": {"4.3": 6, "5.0": 7}}
# What lets a login make triggers where MySQL or MariaDB keeps a binary log, until the server restarts: the plugin makes
# some with its schema, and a newer one when it raises that.
TRUST = "SET GLOBAL log_bin_trust_function_creators = 1;"


class Finding(NamedTuple):
    """What is wrong, and the statements by which the administrator of the server puts it right."""

    sentence: str
    statements: Sequence[str] = ()


class Refused(Exception):
    """The server keeps the login out; the argument is the finding."""


def untrusted(message: str) -> Finding:
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


def rows(connection: Any, question: str, values: Sequence[Any] = ()) -> list[Any]:
    cursor = connection.cursor()
    cursor.execute(question, values)
    return list(cursor.fetchall())

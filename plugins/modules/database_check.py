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
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.database_answers import (
    PLACEHOLDER,
    REVISIONS,
    Finding,
    Refused,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.database_mysql import ask_mysql, mysql_findings
from ansible_collections.dicom.orthanc.plugins.module_utils.database_postgresql import (
    ask_postgresql,
    postgresql_findings,
)

SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"


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
    found = re.search(r"\.so\.(\d+\.\d+)$", os.path.realpath(library))
    return REVISIONS[engine].get(found[1]) if found else None


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
            module.exit_json(skipped=True, msg=f"Check mode does not install {library}.")
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

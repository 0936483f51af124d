#!/usr/bin/python
# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until an Orthanc answers from its index, and compare what runs with what was asked for."""

from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_ready
short_description: Wait for Orthanc and compare it with what was asked for
version_added: 0.1.0
description:
  - Polls C(/changes?last), which reads the index. C(/system) is answered from memory even while the database is down.
  - Then compares the version, the plugins and the database that Orthanc reports with those asked for.
  - On failure tells Orthanc's own error lines from the journal.
author: The dicom.orthanc authors
options:
  port:
    description: Port of the REST API on the host itself.
    type: int
    default: 8042
  username:
    description: User to log in as.
    type: str
    required: true
  password:
    description: Password of that user.
    type: str
    required: true
  version:
    description: Release that has to run, such as C(1.12.7). Empty if any will do.
    type: str
    default: ""
  plugins:
    description: Plugins that have to be loaded, by the names that Orthanc reports in C(/plugins).
    type: list
    elements: str
    default: []
  database:
    description: Where the index has to be.
    type: str
    choices: [sqlite, postgresql, mysql]
    default: sqlite
  storage:
    description: The database in which the DICOM files have to be; empty for the file system.
    type: str
    choices: ["", postgresql, mysql]
    default: ""
  timeout:
    description: How long to wait for the first answer, in seconds.
    type: int
    default: 120
  unit:
    description: The systemd unit whose journal is read on failure.
    type: str
    default: orthanc.service
attributes:
  check_mode:
    description: Waits and compares if the service runs, and does nothing otherwise.
    support: full
"""

EXAMPLES = r"""
- name: Wait until Orthanc answers
  dicom.orthanc.orthanc_ready:
    username: proxy
    password: "{{ vault_orthanc_proxy_password }}"
    plugins: [dicom-web]
"""

RETURN = r"""
version:
  description: The release that runs.
  type: str
  returned: success
  sample: 1.12.7
plugins:
  description: The plugins that are loaded.
  type: list
  elements: str
  returned: success
seconds:
  description: How long it took until the first answer, in seconds.
  type: float
  returned: success
"""

import base64
import json
import re
import time
import urllib.error
import urllib.request
from typing import Any

from ansible.module_utils.basic import AnsibleModule

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


class Unready(Exception):
    """Orthanc does not answer as it should; the message says how."""


class Orthanc:
    """The REST API of the Orthanc on this host, past any proxy that the environment names."""

    def __init__(self, port: int, username: str, password: str) -> None:
        self._base = f"http://127.0.0.1:{port}"
        login = base64.b64encode(f"{username}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> Any:
        """Return the JSON at this path. :raises Unready: if there is none."""
        request = urllib.request.Request(self._base + path, headers=self._headers)
        try:
            with self._opener.open(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Unready(f"{self._base}{path} answers {error.code} {error.reason}") from error
        except (OSError, ValueError) as error:
            raise Unready(f"{self._base}{path} does not answer: {error}") from error


def unit_state(module: AnsibleModule, unit: str) -> dict[str, str]:
    """Return ``ActiveState`` and ``NRestarts`` of the unit."""
    _rc, out, _err = module.run_command(["systemctl", "show", unit, "--property=ActiveState,NRestarts,InvocationID"])
    return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)


def journal(module: AnsibleModule, unit: str) -> str:
    """Return the newest error lines of the unit, or its last lines where none is marked so."""
    _rc, out, _err = module.run_command(
        ["journalctl", "--unit", unit, "--lines", "200", "--output", "cat", "--no-pager"]
    )
    lines = [line for line in out.splitlines() if line.strip()]
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
        ("StorageAreaPlugin", params["storage"], "orthanc_database_storage"),
    ):
        backend = str(system.get(field) or "")
        expected = "" if asked in ("", "sqlite") else str(asked)
        if (expected not in backend.lower()) or (backend and not expected):
            found.append(
                f"{variable} asks for {asked or 'the file system'}, but {field} is {backend or 'the built-in one'}."
            )
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "port": {"type": "int", "default": 8042},
            "username": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "version": {"type": "str", "default": ""},
            "plugins": {"type": "list", "elements": "str", "default": []},
            "database": {"type": "str", "choices": ["sqlite", "postgresql", "mysql"], "default": "sqlite"},
            "storage": {"type": "str", "choices": ["", "postgresql", "mysql"], "default": ""},
            "timeout": {"type": "int", "default": 120},
            "unit": {"type": "str", "default": "orthanc.service"},
        },
        supports_check_mode=True,
    )
    unit = module.params["unit"]
    if module.check_mode and unit_state(module, unit).get("ActiveState") != "active":
        module.exit_json(skipped=True, msg="The service does not run, and a dry run does not start it.")

    orthanc = Orthanc(module.params["port"], module.params["username"], module.params["password"])
    start = time.monotonic()
    restarts = unit_state(module, unit).get("NRestarts")
    while True:
        try:
            orthanc.get("/changes?last")
            break
        except Unready as error:
            waited = time.monotonic() - start
            again = unit_state(module, unit).get("NRestarts") != restarts
            if waited > module.params["timeout"] or again or " answers 40" in str(error):
                lines = journal(module, unit)
                module.fail_json(
                    f"Orthanc is not ready after {waited:.0f} s: {error}. {meaning(lines)}"
                    + ("It ends again and again. " if again else "")
                    + f"Its journal (journalctl -u {unit}) says:\n{lines}"
                )
            time.sleep(0.25)
    seconds = round(time.monotonic() - start, 2)
    try:
        system = orthanc.get("/system")
        plugins = orthanc.get("/plugins")
    except Unready as error:
        module.fail_json(f"Orthanc answered and then did not: {error}\n{journal(module, unit)}")
    found = differences(module.params, system, plugins)
    if found:
        module.fail_json(" ".join(found) + "\n" + journal(module, unit))
    module.exit_json(version=system["Version"], plugins=plugins, seconds=seconds)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at the MariaDB of a host, and at who uses it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_info
short_description: What MariaDB a host has, and who uses it
version_added: 0.2.0
description:
  - Asks the server as C(root) by the socket that its configuration names, for its databases, accounts and rights,
    without those of its own.
author: The dicom.orthanc authors (!UNKNOWN)
extends_documentation_fragment: dicom.orthanc.database_server
options:
  ours:
    description: >-
      A file that only this collection writes. Where it is, databases that cannot be seen are no surprise, and a socket
      in it is none of the host's own.
    type: path
    default: /etc/mysql/mariadb.conf.d/99-pacs.cnf
"""

EXAMPLES = r"""
- name: Look at the host
  dicom.orthanc.mysql_info:
    address: db.example.org
    certificate: /etc/pacs/mysql/server.crt
  register: mysql
"""

RETURN = r"""
host:
  description: >-
    C(addresses) of O(clients);
    C(memory) in MiB; C(data), its folder, and C(free) in MiB on the disk of it;
    C(certificate), whether it is for the address; C(socket), the server's without our settings;
    C(running), and C(inside) what it answered;
    C(hidden), whether it has databases of others and does not answer.
  type: dict
  returned: always
"""

import json
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.database_host import (
    LOOK,
    addresses,
    certified,
    free,
    memory,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import Unit

INSIDE = r"""
SELECT JSON_OBJECT(
'databases', (SELECT JSON_ARRAYAGG(SCHEMA_NAME) FROM information_schema.SCHEMATA
  WHERE SCHEMA_NAME NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')
  AND (SCHEMA_NAME <> 'test' OR EXISTS (SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'test'))),
'filled', (SELECT JSON_ARRAYAGG(DISTINCT TABLE_SCHEMA) FROM information_schema.TABLES),
'filled by Orthanc', (SELECT JSON_ARRAYAGG(DISTINCT TABLE_SCHEMA) FROM information_schema.TABLES
  WHERE TABLE_NAME IN ('GlobalProperties', 'StorageArea')),
'nameless', (SELECT JSON_ARRAYAGG(Host) FROM mysql.user WHERE User = '' AND is_role = 'N'),
'accounts', (SELECT JSON_ARRAYAGG(CONCAT(User, '@', Host)) FROM mysql.user
  WHERE is_role = 'N' AND User NOT IN ('', 'root', 'mysql', 'mariadb.sys', 'debian-sys-maint')),
'grants', (SELECT JSON_ARRAYAGG(JSON_ARRAY(CONCAT(User, '@', Host), REPLACE(Db, '\\', ''))) FROM mysql.db
  WHERE User <> ''),
'set', (SELECT JSON_ARRAYAGG(CONCAT(VARIABLE_NAME, '=', VARIABLE_VALUE)) FROM information_schema.GLOBAL_VARIABLES
  WHERE VARIABLE_NAME IN ('INNODB_SNAPSHOT_ISOLATION', 'LOG_BIN', 'LOG_BIN_TRUST_FUNCTION_CREATORS')),
'max_connections', @@max_connections, 'port', @@port)
"""
# Where they are if no file says so.
PLACES = {"datadir": "/var/lib/mysql", "socket": "/run/mysqld/mysqld.sock"}
OWN = {"mysql", "performance_schema", "sys"}


def places(module: AnsibleModule, ours: str) -> tuple[dict[str, str], str]:
    """Return where the server has its databases and its socket, and where it would have the latter without our file."""
    reader = module.get_bin_path("my_print_defaults")

    def read(*where: str) -> list[list[str]]:
        lines = module.run_command([reader, *where, "--mysqld"])[1].splitlines() if reader else []
        return [line.removeprefix("--").split("=", 1) for line in lines if line.startswith(("--datadir=", "--socket="))]

    everything, of_ours = read(), read(f"--defaults-file={ours}")
    # Of a setting that stands twice the last one counts.
    found = PLACES | dict(everything)
    without = PLACES | dict(pair for pair in everything if pair not in of_ours)
    folder = found["datadir"]
    return found | {"socket": os.path.join(folder, found["socket"])}, os.path.join(folder, without["socket"])


def filled(folder: str) -> bool:
    """Tell whether a server has databases of anybody, by its folder."""
    entries = list(os.scandir(folder)) if os.path.isdir(folder) else []
    names = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(("#", "."))}
    # The database that everybody has comes without tables.
    unused = set() if "test" in names and set(os.listdir(os.path.join(folder, "test"))) - {"db.opt"} else {"test"}
    return bool(names - OWN - unused)


def main() -> None:
    module = AnsibleModule(
        argument_spec=LOOK | {"ours": {"type": "path", "default": "/etc/mysql/mariadb.conf.d/99-pacs.cnf"}},
        supports_check_mode=True,
    )
    params = module.params
    place, socket = places(module, params["ours"])
    host: dict[str, Any] = {
        "memory": memory() // 2**20,
        "certificate": certified(module, params["certificate"], params["address"], params["certificate_days"] * 86400),
        "addresses": addresses(params["clients"]),
        "data": place["datadir"],
        "free": free(place["datadir"]),
        "socket": socket,
        "running": False,
        "hidden": False,
        "inside": {},
    }
    client = module.get_bin_path("mariadb")
    if client:
        command = [client, f"--socket={place['socket']}", "--batch", "--raw", "--skip-column-names"]
        rc, out, _err = module.run_command([*command, "--execute", INSIDE])
        if rc == 0:
            # What there is none of is left out.
            inside = {name: value for name, value in json.loads(out).items() if value is not None}
            host |= {"running": True, "inside": inside}
    if not host["running"] and not os.path.exists(params["ours"]):
        host["hidden"] = filled(place["datadir"]) or Unit(module, "mariadb").active
    module.exit_json(host=host)


if __name__ == "__main__":
    main()

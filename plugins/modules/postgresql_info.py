#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at the PostgreSQL of a host, and at who uses it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_info
short_description: What PostgreSQL a host has, and who uses it
version_added: 0.2.0
description:
  - Looks for the cluster at the port, or the only one that there is, and asks it as C(postgres) for its databases,
    their owners, and logins.
author: The dicom.orthanc authors (!UNKNOWN)
extends_documentation_fragment: dicom.orthanc.database_server
options:
  port:
    description: Port of the cluster that is meant, where there are several.
    type: int
    required: true
  name:
    description: >-
      The cluster that somebody is going to make where there is none. Of this C(version) is that of the newest programs,
      and empty where there are none.
    type: str
    default: ""
  databases:
    description: Databases that are looked into for what Orthanc makes.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Look at the host
  dicom.orthanc.postgresql_info:
    port: 5432
    address: db.example.org
    certificate: /etc/pacs/postgresql/server.crt
    databases: [orthanc]
  register: postgresql
"""

RETURN = r"""
host:
  description: >-
    C(addresses) of O(clients);
    C(memory) in bytes, C(cores); C(free) in MiB, on the disk of the data; C(certificate), whether it is for the
    address; C(version), C(cluster), C(port) and C(data) of the cluster, of which C(version) is C(several) where it is
    not known which one is meant, and empty where there is none; C(rules), the lines for clients that this collection
    wrote; C(running), and C(inside) what it answered; C(orthancs), the databases that have what Orthanc makes;
    C(patroni), whether Patroni runs the cluster; C(made), whether it has data; C(hidden), whether it has databases and
    does not answer.
  type: dict
  returned: always
"""

import glob
import json
import os
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.database_host import (
    LOOK,
    addresses,
    certified,
    cores,
    free,
    memory,
)

# Databases with their comments and owners, whoever may log in, tables in the database that everybody has, where the
# server listens, unless our file says so, and whether it is no standby.
INSIDE = """
select json_build_object(
'databases', (select coalesce(json_object_agg(datname, coalesce(shobj_description(oid, 'pg_database'), '')), '{}')
  from pg_database where datname not in ('postgres', 'template0', 'template1')),
'owners', (select json_object_agg(datname, pg_get_userbyid(datdba)) from pg_database),
'logins', (select json_agg(rolname order by rolname) from pg_roles where rolcanlogin),
'tables', (select coalesce(json_agg(oid::regclass order by relname), '[]') from pg_class
  where relkind in ('r', 'p', 'm') and relnamespace not in (select oid from pg_namespace
    where nspname ~ '^pg_' or nspname = 'information_schema')
  and not exists (select from pg_depend where objid = pg_class.oid and deptype = 'e')),
'listens', (select case when sourcefile like '%/conf.d/pacs.conf' then '' else setting end
  from pg_settings where name = 'listen_addresses'),
'max_connections', current_setting('max_connections')::int,
'primary', not pg_is_in_recovery())
"""
ORTHANC = "select 1 from pg_tables where tablename in ('globalproperties', 'storagearea') limit 1"
NOTHING: dict[str, Any] = {
    "databases": {},
    "owners": {},
    "logins": [],
    "tables": [],
    "listens": "",
    "max_connections": 0,
    "primary": False,
}
# Numbers below are of databases that PostgreSQL makes for itself.
FIRST_OF_OTHERS = 16384


def chosen(listed: str, port: int) -> list[str]:
    """Return version, name, port, state, owner and folder of the cluster that is meant, as pg_lsclusters prints it."""
    clusters = [line.split() for line in listed.splitlines() if line.strip()]
    at_port = [cluster for cluster in clusters if cluster[2] == str(port)]
    if len(at_port) != 1 and len(clusters) > 1:
        return ["several"]
    return next(iter(at_port or clusters), [])


def rules(path: str) -> list[str]:
    """Return the lines for clients that were written by this collection, by this inventory or another one."""
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        part = re.search(r"(?ms)^# Begin of what dicom\.orthanc.*?(^# End of what dicom\.orthanc|\Z)", file.read())
    return [line for line in part[0].splitlines() if line.startswith("host")] if part else []


def made_soon(name: str) -> list[str]:
    """Return version, name and folder of the cluster that is going to be made by the newest programs."""
    versions = [int(path.split("/")[4]) for path in glob.glob("/usr/lib/postgresql/[0-9]*/bin/postgres")]
    return [str(max(versions)), name, f"/var/lib/postgresql/{max(versions)}/{name}"] if name and versions else []


def filled(data: str) -> bool:
    """Tell whether a cluster has databases of anybody."""
    folder = os.path.join(data, "base")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return any(name.isdigit() and int(name) >= FIRST_OF_OTHERS for name in names)


def main() -> None:
    module = AnsibleModule(
        argument_spec=LOOK
        | {
            "port": {"type": "int", "required": True},
            "name": {"type": "str", "default": ""},
            "databases": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    days = params["certificate_days"] * 86400
    host: dict[str, Any] = {
        "memory": memory(),
        "cores": cores(),
        "free": free("/var/lib/postgresql"),
        "certificate": certified(module, params["certificate"], params["address"], days),
        "cluster": "",
        "port": params["port"],
        "data": "",
        "rules": [],
        "addresses": addresses(params["clients"]),
        "running": False,
        "inside": NOTHING,
        "orthancs": [],
        "patroni": False,
        "made": False,
        "hidden": False,
    }
    lister = module.get_bin_path("pg_lsclusters")
    cluster = chosen(module.run_command([lister, "-h"])[1], params["port"]) if lister else []
    host["version"] = cluster[0] if cluster else ""
    if len(cluster) > 1:
        version, name, port, _state, _owner, data = cluster[:6]
        host |= {"cluster": name, "port": int(port), "data": data}
        host["free"] = free(data)
        # The latter stands in its data, also where Patroni was taken off the host.
        signs = (f"/etc/patroni/{version}-{name}.yml", f"{data}/patroni.dynamic.json")
        host["patroni"] = any(map(os.path.exists, signs))
        host["made"] = os.path.exists(f"{data}/PG_VERSION")
        host["rules"] = rules(f"/etc/postgresql/{version}/{name}/pg_hba.conf")
        psql = [module.get_bin_path("runuser", required=True), "-u", "postgres", "--", "psql"]
        psql += ["--cluster", f"{version}/{name}", "-XAtqw"]
        rc, out, _err = module.run_command([*psql, "-c", INSIDE], cwd="/")
        if rc == 0:
            host |= {"running": True, "inside": json.loads(out)}
            host["orthancs"] = [
                database
                for database in params["databases"]
                if module.run_command([*psql, "-d", database, "-c", ORTHANC], cwd="/")[1].strip()
            ]
        else:
            # Of one that Patroni runs, whatever state it is in, we know what is in it.
            host["hidden"] = filled(data) and not host["patroni"]
    elif not cluster and made_soon(params["name"]):
        host["version"], host["cluster"], host["data"] = made_soon(params["name"])
        host["patroni"] = True
    module.exit_json(host=host)


if __name__ == "__main__":
    main()

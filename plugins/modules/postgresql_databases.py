#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make databases of Orthanc in PostgreSQL, and the logins that own them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_databases
short_description: Make databases in PostgreSQL, each with the login that owns it
version_added: 0.2.0
description:
  - Makes logins without further rights, and databases in UTF-8 with the extension C(pg_trgm), in which nobody but their
    owner and the superuser may connect. What is there already is put right; nothing is removed.
  - A password is stored as C(scram-sha-256), whatever the server's default is. It goes neither into an argument of a
    program nor into the server's log.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  command:
    description: The command that reads statements from its input as the superuser; C(-d) and a database can follow.
    type: list
    elements: str
    required: true
  passwords:
    description: The password of each login.
    type: dict
    required: true
  owners:
    description: The login that owns each database.
    type: dict
    required: true
  comment:
    description: By which the databases are known as ours.
    type: str
    required: true
attributes:
  check_mode:
    description: Tells what would be made.
    support: full
"""

EXAMPLES = r"""
- name: Make a database for Orthanc
  dicom.orthanc.postgresql_databases:
    command: [runuser, -u, postgres, --, psql, -XAtqw, -v, ON_ERROR_STOP=1]
    passwords: {orthanc: "{{ vault_orthanc_database_password }}"}
    owners: {orthanc: orthanc}
    comment: Orthanc
"""

RETURN = r"""
statements:
  description: What was said to the server, without passwords.
  type: list
  elements: str
  returned: always
"""

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.database_host import Sql, quoted, verifies

RIGHTS = "login nosuperuser nocreatedb nocreaterole noreplication nobypassrls"
LOGIN = """
select json_build_object('password', rolpassword, 'rights', rolcanlogin and not
(rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls)) from pg_authid where rolname = {}
"""
DATABASE = """
select json_build_object('owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding),
'comment', coalesce(shobj_description(oid, 'pg_database'), ''),
'open', has_database_privilege('public', oid, 'connect')) from pg_database where datname = {}
"""


class Databases:
    """The logins and databases of a server."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._sql = Sql(module, "postgresql", module.params["command"])
        self.statements: list[str] = []

    def login(self, name: str, password: str) -> None:
        """Have a login with this password and no further rights."""
        found = self._ask(LOGIN.format(quoted(name)))
        if not found:
            self._say(f'create role "{name}" {RIGHTS}')
        elif not found["rights"]:
            self._say(f'alter role "{name}" {RIGHTS}')
        if not verifies(found.get("password") or "", password):
            # So that a backslash is one, whether or not standard_conforming_strings is on.
            text = password.replace("\\", "\\\\").replace("'", "''")
            self._say(f'alter role "{name}" password ', secret=f"E'{text}'")

    def database(self, name: str, owner: str, comment: str) -> None:
        """Have a database of this owner, where nobody else connects."""
        found = self._ask(DATABASE.format(quoted(name)))
        if not found:
            locale = "encoding 'UTF8' lc_collate 'C.UTF-8' lc_ctype 'C.UTF-8'"
            self._say(f'create database "{name}" owner "{owner}" template template0 {locale}')
        elif found["encoding"] != "UTF8":
            self._module.fail_json(
                f"orthanc_database_name: the database {name} has the encoding {found['encoding']}, which does not hold"
                " every name; it has to be UTF8. Rename it, or take another name."
            )
        elif found["owner"] != owner:
            self._say(f'alter database "{name}" owner to "{owner}"')
        if found.get("comment") != comment:
            self._say(f'comment on database "{name}" is {quoted(comment)}')
        if found.get("open", True):
            self._say(f'revoke connect on database "{name}" from public')
        inside = Sql(self._module, "postgresql", [*self._module.params["command"], "-d", name])
        # Check mode cannot look into a database that is not there yet.
        there = bool(found) or not self._module.check_mode
        if not (there and inside.run("select 1 from pg_extension where extname = 'pg_trgm'")):
            self._say("create extension if not exists pg_trgm", sql=inside)

    def _ask(self, question: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._sql.run(question.strip()) or "{}")
        return found

    def _say(self, statement: str, secret: str = "", sql: Sql | None = None) -> None:
        self.statements.append(statement + ("…" if secret else ""))
        if not self._module.check_mode:
            (sql or self._sql).run(statement + secret)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "list", "elements": "str", "required": True},
            "passwords": {"type": "dict", "required": True, "no_log": True},
            "owners": {"type": "dict", "required": True},
            "comment": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    databases = Databases(module)
    for name, password in module.params["passwords"].items():
        databases.login(name, str(password))
    for name, owner in module.params["owners"].items():
        databases.database(name, owner, module.params["comment"])
    module.exit_json(changed=bool(databases.statements), statements=databases.statements)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep what a database server has stored of passwords, until they are proved or go back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_login
short_description: Have a changed password of a database server go back where Orthanc does not come up with it
version_added: 0.2.0
description:
  - With O(state=kept), keeps what the server has stored of passwords that are about to change. That is no password, but
    what one is verified by. Of a login whose new password was never proved, what is kept already stays.
  - With O(state=back), has the server take the passwords of before; with O(state=proved), forgets them.
  - What is kept is for root alone. It is neither printed nor given to a program as an argument.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  engine:
    description: Which server.
    type: str
    choices: [postgresql, mysql]
    required: true
  state:
    description: What to do.
    type: str
    choices: [kept, back, proved]
    required: true
  passwords:
    description: The passwords that logins are to have, with O(state=kept). With MySQL a login is C(user@host).
    type: dict
    default: {}
  users:
    description: The users, at all hosts, with O(state=back) and O(state=proved).
    type: list
    elements: str
    default: []
  command:
    description: The command that reads statements from its input, with O(state=kept). It is kept too.
    type: list
    elements: str
    default: []
  state_dir:
    description: Folder, for root alone, that has a folder for each engine.
    type: path
    default: /var/lib/pacs
attributes:
  check_mode:
    description: Tells whether something would go back.
    support: full
"""

EXAMPLES = r"""
- name: Keep what is stored of the password
  dicom.orthanc.database_login:
    engine: postgresql
    state: kept
    passwords: {orthanc: "{{ vault_orthanc_database_password }}"}
    command: [runuser, -u, postgres, --, psql, -XAtq]
"""

RETURN = r"""
logins:
  description: The logins that were kept, went back, or were forgotten.
  type: list
  elements: str
  returned: always
ansible_facts:
  description: C(pacs_logins_kept), whether any password of this server is not proved.
  type: dict
  returned: always
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.database_host import LOGINS, Sql, changing, user_of
from ansible_collections.dicom.orthanc.plugins.module_utils.files import lock
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State


def keep(module: AnsibleModule, state: State) -> list[str]:
    """Keep what is stored of the logins, unless something of them is kept already."""
    params, kept = module.params, state.read()
    sql = Sql(module, params["engine"], params["command"])
    new = [login for login in changing(sql, params["passwords"]) if login not in kept]
    if new and not module.check_mode:
        state.keep(kept | {"": params["command"]} | {login: sql.stored(login) for login in new})
    return new


def end(module: AnsibleModule, state: State) -> list[str]:
    """Have the logins of these users go back, or forget them."""
    params, kept = module.params, state.read()
    logins = [login for login in kept if login and user_of(login) in params["users"]]
    if module.check_mode or not logins:
        return logins
    if params["state"] == "back":
        sql = Sql(module, params["engine"], kept[""] or [])
        for login in logins:
            sql.store(login, kept[login] or [])
    left = {login: stored for login, stored in kept.items() if login not in logins}
    if left.keys() <= {""}:
        state.forget()
    else:
        state.keep(left)
    return logins


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "engine": {"type": "str", "choices": ["postgresql", "mysql"], "required": True},
            "state": {"type": "str", "choices": ["kept", "back", "proved"], "required": True},
            "passwords": {"type": "dict", "default": {}, "no_log": True},
            "users": {"type": "list", "elements": "str", "default": []},
            "command": {"type": "list", "elements": "str", "default": []},
            "state_dir": {"type": "path", "default": "/var/lib/pacs"},
        },
        supports_check_mode=True,
    )
    params = module.params
    state = State(os.path.join(params["state_dir"], params["engine"], LOGINS))
    with lock(module):
        logins = (keep if params["state"] == "kept" else end)(module, state)
    facts = {"pacs_logins_kept": state.kept}
    module.exit_json(changed=params["state"] == "back" and bool(logins), logins=logins, ansible_facts=facts)


if __name__ == "__main__":
    main()

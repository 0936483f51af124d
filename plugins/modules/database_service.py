#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the files of a database server, have it run with them, or go back to those that worked."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_service
short_description: Write the files of a database server and have it run with them, or go back
version_added: 0.1.0
description:
  - Writes the files, and what is ours of files that others own too. If anything changed, if a run before was cut off,
    or if the server does not run, it is reloaded or restarted, and asked whether it works.
  - If it does not, the files that were there before come back, the server runs with them, and the module fails with
    what the server said.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  unit:
    description: The server's systemd unit.
    type: str
    required: true
  enabled:
    description: >-
      Units that have to be started at boot too. Debian's packages start no PostgreSQL again after an upgrade where
      V(postgresql) is not.
    type: list
    elements: str
    default: []
  parts:
    description:
      - Those of the files that others own too. What is given for them stands at their head, between two marks; the rest
        of them stays as it is.
    type: list
    elements: path
    default: []
  changed:
    description: Whether something else has changed that the server has to read.
    type: bool
    default: false
  reload:
    description: >-
      A command that has the running server read its files; it ends with 0 if that was enough, and with 2 if the server
      must not be restarted, and tells why.
    type: list
    elements: str
    default: []
  may_restart:
    description: Whether the server may be restarted where a reload was not enough.
    type: bool
    default: true
  ready:
    description: A command that prints nothing and ends with 0 when the server works; what it prints is wrong.
    type: list
    elements: str
    required: true
  starting:
    description: >-
      A command that ends with 1 while the server comes up and lets nobody in yet, which is waited for as long as it
      takes.
    type: list
    elements: str
    default: []
  overridden:
    description: A command that prints which of our settings something else overrides. The module fails with it.
    type: list
    elements: str
    default: []
  state_dir:
    description: Folder, for root alone, that keeps the files of before until the server works with the new ones.
    type: path
    required: true
  timeout:
    description: How long to wait until the server works, in seconds.
    type: int
    default: 60
extends_documentation_fragment: dicom.orthanc.files
attributes:
  check_mode:
    description: Tells what would be written and whether the server would be started.
    support: full
"""

EXAMPLES = r"""
- name: Run MariaDB with our settings
  dicom.orthanc.database_service:
    files:
      - path: /etc/mysql/mariadb.conf.d/99-pacs.cnf
        template: etc/mysql/mariadb.conf.d/99-pacs.cnf.j2
    unit: mariadb
    ready: [mariadb, --execute, DO 0]
    state_dir: /var/lib/pacs/mysql
"""

RETURN = r"""
paths:
  description: What was changed, made or removed.
  type: list
  elements: str
  returned: always
"""

import errno
import os
import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import (
    ARGUMENTS,
    QuietModule,
    Refused,
    Writer,
    lock,
    open_folder,
    plan,
    told,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State
from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import Unit
from ansible_collections.dicom.orthanc.plugins.module_utils.way_back import WayBack, Wrong

BEGIN = "# Begin of what dicom.orthanc manages; the rest of this file is of others and stays."
END = "# End of what dicom.orthanc manages."
# By this an earlier release of ours marked a pg_hba.conf that it had written as a whole, and what it had in it.
FORMER = "# The role postgresql of dicom.orthanc owns this file."
FORMER_LINES = re.compile(r'\s*|#.*|local all postgres peer|host(ssl)? "[^"]*" "[^"]*" \S+ scram-sha-256')


def with_part(text: str, part: str) -> str:
    """Put a part at the head of a text, in place of the one that is there."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    if begin and END in rest:
        text = before + rest.partition(f"{END}\n")[2]
    if FORMER in text.splitlines():
        # Each of its lines is in our part now, or gone from the inventory. What others have added since stays.
        lines = [line for line in text.splitlines(keepends=True) if not FORMER_LINES.fullmatch(line.strip())]
        text = "".join(lines) if "local all postgres peer" in part else text
    return f"{BEGIN}\n{part.rstrip()}\n{END}\n{text}" if part.strip() else text


class Server:
    """The server, by its unit."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._unit = Unit(module, module.params["unit"])
        self._enabled = [self._unit, *(Unit(module, name) for name in module.params["enabled"])]

    @property
    def runs(self) -> bool:
        """Whether it runs, and is started at boot, if that is ours to say."""
        enabled = all(unit.enabled for unit in self._enabled)
        return self._unit.active and (enabled or not self._module.params["may_restart"])

    def apply(self) -> None:
        """Have it run with the files that there are. Whether it does is seen afterwards."""
        self._unit.reload_files()
        for unit in self._enabled:
            unit.enable()
        params, active = self._module.params, self._unit.active
        rc, _, said = self._module.run_command(params["reload"]) if active and params["reload"] else (1, "", "")
        if rc == 2:
            raise Wrong(f"{self._unit.name} was not restarted with its new settings. {said.strip()}")
        if rc == 0:
            return
        if not active or params["may_restart"]:
            self._unit.tell("reset-failed")
            self._unit.tell("restart")

    def prove(self, before: bool) -> None:
        """Wait until it works. :raises Wrong: if it does not."""
        problem = f"{self._unit.name} does not work{'' if before else ' with its new settings'}."
        deadline = time.monotonic() + self._module.params["timeout"]
        while True:
            rc, out, err = self._module.run_command(self._module.params["ready"])
            if rc == 0 and out.strip():
                raise Wrong(problem, f"It says:\n{out.strip()}")
            if rc == 0:
                return
            # One that ended by itself does not come in time.
            ended = not self._unit.active
            if ended or (time.monotonic() > deadline and not self._starting):
                said = self._said() or str(err).strip()
                raise Wrong(problem, f"It says:\n{said}")
            time.sleep(0.2)

    @property
    def _starting(self) -> bool:
        """Whether it reads its log, as after a crash, which takes as long as it takes."""
        command = self._module.params["starting"]
        return bool(command) and self._module.run_command(command)[0] == 1

    def _said(self) -> str:
        """Return its newest error lines from the journal, or its last lines where none is marked so."""
        lines = self._unit.log(100)
        errors = [line for line in lines if "[ERROR]" in line or "FATAL:" in line]
        return "\n".join(list(dict.fromkeys(errors or lines))[-6:])


def put_together(module: AnsibleModule) -> None:
    """Put what is ours of files of others together with the rest of them."""
    for item in module.params["files"]:
        if item["path"] in module.params["parts"]:
            item["content"] = with_part(text_of(item["path"]), item["content"])


def text_of(path: str) -> str:
    """Return what a file says; nothing where there is none.

    :raises Refused: if it is a link: its folder is the server's user's, who could have what is root's alone copied.
    """
    try:
        folder = open_folder(os.path.dirname(path))
    except FileNotFoundError:
        return ""
    try:
        opened = os.open(os.path.basename(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused(f"{path}: it is a link, which is not followed; put the file itself there.") from error
        raise
    finally:
        os.close(folder)
    with os.fdopen(opened, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


def serve(module: AnsibleModule) -> None:
    """Write the server's files and run it with them, or go back to those of before."""
    params = module.params
    server = Server(module)
    way = WayBack(
        module, params["unit"], State(os.path.join(params["state_dir"], "before.json")), server.apply, server.prove
    )
    try:
        put_together(module)
    except (OSError, Refused) as error:
        way.refuse(told(error))
    planned = plan(module)
    needed = bool(planned.paths) or params["changed"] or way.cut_off or not server.runs
    if needed and not module.check_mode:
        planned = way.change(planned.paths)
    ending(module, needed, planned)


def main() -> None:
    module = QuietModule(
        argument_spec=ARGUMENTS
        | {
            "unit": {"type": "str", "required": True},
            "enabled": {"type": "list", "elements": "str", "default": []},
            "parts": {"type": "list", "elements": "path", "default": []},
            "changed": {"type": "bool", "default": False},
            "reload": {"type": "list", "elements": "str", "default": []},
            "may_restart": {"type": "bool", "default": True},
            "ready": {"type": "list", "elements": "str", "required": True},
            "starting": {"type": "list", "elements": "str", "default": []},
            "overridden": {"type": "list", "elements": "str", "default": []},
            "state_dir": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    with lock(module):
        serve(module)


def ending(module: AnsibleModule, changed: bool, writer: Writer) -> None:
    """Say what was done, unless other files have undone it."""
    command = module.params["overridden"]
    if command and not (module.check_mode and changed):
        rc, out, err = module.run_command(command)
        if rc or out.strip():
            module.fail_json((out or err).strip())
    module.exit_json(changed=changed, paths=writer.paths, diff=writer.diffs)


if __name__ == "__main__":
    main()

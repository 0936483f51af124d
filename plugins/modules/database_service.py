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
    description: A shell script that has the running server read its files; it ends with 0 if that was enough.
    type: str
    default: ""
  may_restart:
    description: Whether the server may be restarted where a reload was not enough.
    type: bool
    default: true
  ready:
    description: A command that prints nothing and ends with 0 when the server works; what it prints is wrong.
    type: list
    elements: str
    required: true
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

import contextlib
import json
import os
import pathlib
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import ARGUMENTS, QuietModule, Writer, remove, write

BEGIN = "# Begin of what dicom.orthanc manages; the rest of this file is of others and stays."
END = "# End of what dicom.orthanc manages."

# Content, owner, group and mode of each file, or nothing where there is none.
Files = dict[str, list[Any] | None]


def with_part(text: str, part: str) -> str:
    """Put a part at the head of a text, in place of the one that is there."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    if begin and END in rest:
        text = before + rest.partition(f"{END}\n")[2]
    return f"{BEGIN}\n{part.rstrip()}\n{END}\n{text}" if part.strip() else text


def found(paths: list[str]) -> Files:
    """Return the files as they are."""
    files: Files = {}
    for path in map(pathlib.Path, paths):
        files[str(path)] = None
        if path.is_file():
            state = path.stat()
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            files[str(path)] = [text, state.st_uid, state.st_gid, state.st_mode & 0o7777]
    return files


def put(path: pathlib.Path, file: list[Any]) -> None:
    """Put a file in place in one step, for root alone until its owner and mode are set."""
    content, owner, group, mode = file
    candidate = path.with_name(f".{path.name}.new")
    if os.path.lexists(candidate):
        remove(str(candidate))
    candidate.touch(0o600)
    with candidate.open("w", encoding="utf-8", errors="surrogateescape") as file_:
        file_.write(content)
        file_.flush()
        os.fsync(file_.fileno())
    os.chown(candidate, owner, group)
    candidate.chmod(mode)
    candidate.replace(path)


def put_back(files: Files) -> None:
    """Bring back the files of before."""
    for path, file in files.items():
        if file is not None:
            put(pathlib.Path(path), file)
        elif os.path.lexists(path):
            remove(path)


class Server:
    """The server, by its unit."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._unit = module.params["unit"]

    def _systemctl(self, *words: str) -> bool:
        return bool(self._module.run_command(["systemctl", *words])[0] == 0)

    @property
    def runs(self) -> bool:
        """Whether it runs, and is started at boot."""
        return self._systemctl("is-active", "--quiet", self._unit) and self._systemctl(
            "is-enabled", "--quiet", self._unit
        )

    def apply(self) -> None:
        """Have it run with the files that there are. Whether it does is seen afterwards."""
        self._systemctl("daemon-reload")
        if not self._systemctl("is-enabled", "--quiet", self._unit):
            self._systemctl("enable", "--quiet", self._unit)
        params = self._module.params
        active = self._systemctl("is-active", "--quiet", self._unit)
        if active and params["reload"] and self._module.run_command(["sh", "-c", params["reload"]])[0] == 0:
            return
        if not active or params["may_restart"]:
            self._systemctl("reset-failed", self._unit)
            self._systemctl("restart", self._unit)

    def wrong(self) -> str:
        """Wait until it works. Return what it says if it does not."""
        deadline = time.monotonic() + self._module.params["timeout"]
        while True:
            rc, out, err = self._module.run_command(self._module.params["ready"])
            if rc == 0:
                return str(out).strip()
            # One that ended by itself does not come in time.
            ended = not self._systemctl("is-active", "--quiet", self._unit)
            # After a crash it reads its log first, which takes as long as it takes.
            recovering = "starting up" in err or "not yet accepting connections" in err
            if ended or (time.monotonic() > deadline and not recovering):
                return self._said() or str(err).strip()
            time.sleep(0.2)

    def _said(self) -> str:
        """Return its newest error lines from the journal, or its last lines where none is marked so."""
        command = ["journalctl", "--unit", self._unit, "--lines", "100", "--output", "cat", "--no-pager"]
        lines = str(self._module.run_command(command)[1]).splitlines()
        errors = [line for line in lines if "[ERROR]" in line or "FATAL:" in line]
        return "\n".join(list(dict.fromkeys(errors or lines))[-6:])


def put_together(module: AnsibleModule) -> None:
    """Put what is ours of files of others together with the rest of them."""
    for item in module.params["files"]:
        if item["path"] in module.params["parts"]:
            item["content"] = with_part((found([item["path"]])[item["path"]] or [""])[0], item["content"])


def main() -> None:
    module = QuietModule(
        argument_spec=ARGUMENTS
        | {
            "unit": {"type": "str", "required": True},
            "parts": {"type": "list", "elements": "path", "default": []},
            "changed": {"type": "bool", "default": False},
            "reload": {"type": "str", "default": ""},
            "may_restart": {"type": "bool", "default": True},
            "ready": {"type": "list", "elements": "str", "required": True},
            "overridden": {"type": "list", "elements": "str", "default": []},
            "state_dir": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params = module.params
    server = Server(module)
    kept = pathlib.Path(params["state_dir"], "before.json")
    cut_off = kept.exists()
    put_together(module)
    dry, module.check_mode = module.check_mode, True
    planned = write(module)
    module.check_mode = dry
    needed = bool(planned.paths) or params["changed"] or cut_off or not server.runs
    if dry or not needed:
        ending(module, needed, planned)

    before: Files = found([item["path"] for item in params["files"]])
    if cut_off:
        # What worked last is what that run found.
        with contextlib.suppress(ValueError):
            before |= json.loads(kept.read_text(encoding="utf-8"))
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept.parent.chmod(0o700)
    put(kept, [json.dumps(before), 0, 0, 0o600])
    try:
        # Held to the end: its lock keeps other runs off.
        written = write(module)
    except (OSError, SystemExit):
        # Half of a change is none.
        put_back(before)
        remove(str(kept))
        raise
    server.apply()
    wrong = server.wrong()
    if wrong:
        put_back(before)
        server.apply()
        again = server.wrong()
        remove(str(kept))
        back = f" With those of before it does not work either: {again}" if again else " Those of before are back."
        module.fail_json(f"{params['unit']} does not work with its new settings.{back} It says:\n{wrong}")
    remove(str(kept))
    ending(module, True, written)


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

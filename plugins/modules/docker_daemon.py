#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give a Docker engine options beside those that it has, and run it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_daemon
short_description: Add options to those of a Docker engine, and have it run with them
version_added: 0.1.0
description:
  - Adds what is given to C(/etc/docker/daemon.json). Options of others stay; those that an earlier call has added, and
    which are not asked for any more, are taken out. One that others have set otherwise is refused.
  - Has the engine read them at a reload, where that is enough. It is restarted only if no containers of others run on
    it that would go down with it. If it does not start, the options that it had come back.
  - Starts it, now and at boot.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  log_options:
    description: The option C(log-opts).
    type: dict
    default: {}
  registry_mirrors:
    description: The option C(registry-mirrors).
    type: list
    elements: str
    default: []
  address_pools:
    description: The option C(default-address-pools).
    type: list
    elements: dict
    default: []
  settings:
    description: Any other options, by the product's own names.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Tells what would change.
    support: full
"""

EXAMPLES = r"""
- name: Ask a mirror first
  dicom.orthanc.docker_daemon:
    registry_mirrors: ["https://mirror.example.org"]
"""

RETURN = r"""
restarted:
  description: Whether the engine was restarted.
  type: bool
  returned: always
"""

import json
import os
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import docker_daemon
from ansible_collections.dicom.orthanc.plugins.module_utils.docker_daemon import DAEMON, OURS
from ansible_collections.dicom.orthanc.plugins.module_utils.files import make_folders, remove

# It reads the file before it finds that it cannot run a second time. Debian 12's has no --validate.
TRY = 'dockerd --host=unix:///dev/null/x --pidfile=/dev/null/x --config-file "$0" 2>&1 | grep "unable to configure"'


def text(options: dict[str, Any]) -> str:
    return json.dumps(options, indent=4, sort_keys=True) + "\n"


def write(path: str, content: str | None, mode: int) -> None:
    """Put a file in place in one step, or take it away."""
    if content is None:
        if os.path.exists(path):
            remove(path)
        return
    folder, name = os.path.split(path)
    handle, candidate = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(candidate, mode)
    os.replace(candidate, path)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "log_options": {"type": "dict", "default": {}},
            "registry_mirrors": {"type": "list", "elements": "str", "default": []},
            "address_pools": {"type": "list", "elements": "dict", "default": []},
            "settings": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    wanted = docker_daemon.options(**module.params)

    def run(*command: str) -> str:
        rc, out, _err = module.run_command(list(command)) if module.get_bin_path(command[0]) else (1, "", "")
        return "" if rc else str(out)

    seen = docker_daemon.look(run)
    merged = docker_daemon.merge(seen["options"], seen["ours"], wanted)
    problems = list(docker_daemon.problems(seen, merged))
    if problems:
        module.fail_json("Nothing was changed. " + " ".join(problems))

    shown = run("systemctl", "show", "docker", "--property=ActiveState,UnitFileState").split()
    active, enabled = "ActiveState=active" in shown, "UnitFileState=enabled" in shown
    different = merged.options != seen["options"]
    result = {
        "changed": different or not (active and enabled),
        "restarted": False,
        "diff": {
            "before_header": DAEMON,
            "after_header": DAEMON,
            "before": text(seen["options"]) if seen["options"] else "",
            "after": text(merged.options) if merged.options else "",
        },
    }
    if module.check_mode:
        module.exit_json(**result)

    before = None
    if os.path.exists(DAEMON):
        with open(DAEMON, encoding="utf-8") as file:
            before = file.read()
    if different:
        make_folders(os.path.dirname(DAEMON))
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as candidate:
            candidate.write(text(merged.options))
            candidate.flush()
            rc, out, _err = module.run_command(["sh", "-c", TRY, candidate.name])
        if rc == 0:
            module.fail_json(f"{DAEMON}: the new content is refused and was not put in place: {out.strip()}")
        write(DAEMON, text(merged.options), 0o644)
    if merged.ours != seen["ours"]:
        make_folders(os.path.dirname(OURS))
        write(OURS, text(merged.ours), 0o600)

    # What is only taken out waits for the next restart where one would take others along.
    removed = set(seen["options"]) - set(merged.options)
    restart = active and (bool(merged.restart) or bool(removed and not seen["others"]))
    if not enabled:
        module.run_command(["systemctl", "enable", "--quiet", "docker"], check_rc=True)
    verb = "restart" if restart else "start" if not active else "reload" if different else ""
    if verb:
        rc, _out, _err = module.run_command(["systemctl", verb, "docker"])
        if rc:
            said = run("journalctl", "--unit", "docker", "--lines", "5", "--output", "cat", "--no-pager").strip()
            back = ""
            if different:
                write(DAEMON, before, 0o644)
                write(OURS, text(seen["ours"]), 0o600)
                module.run_command(["systemctl", "reset-failed", "docker"])
                rc = module.run_command(["systemctl", "start", "docker"])[0] if active else 0
                back = f" The options that it had are back{', and it does not run' if rc else ''}."
            module.fail_json(f"Docker does not {verb} (docker_engine_settings and the like).{back} It says:\n{said}")
    module.exit_json(**result | {"restarted": restart})


if __name__ == "__main__":
    main()

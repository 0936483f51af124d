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
from ansible_collections.dicom.orthanc.plugins.module_utils.docker_daemon import BEFORE, DAEMON, OURS, Broken
from ansible_collections.dicom.orthanc.plugins.module_utils.files import lock, make_folders, plain
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State
from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import Unit
from ansible_collections.dicom.orthanc.plugins.module_utils.way_back import WayBack, Wrong

# It reads the file before it finds that it cannot run a second time. Debian 12's has no --validate.
TRY = (
    """sh -c '! dockerd --host=unix:///dev/null/x --pidfile=/dev/null/x --config-file "$0" 2>&1 |"""
    """ grep "unable to configure"' """
)
# What it is told there instead: it takes each from one place only.
TOLD = ("hosts", "pidfile")


def text(options: dict[str, Any]) -> str:
    return json.dumps(options, indent=4, sort_keys=True) + "\n"


def options_of(state: State) -> dict[str, Any] | None:
    """Return the options that the engine had before a call that was cut off, or nothing if that is not known."""
    if DAEMON not in state.read():
        return None
    try:
        return docker_daemon.parse(DAEMON, (state.read()[DAEMON] or [""])[0])
    except Broken:
        return None


class Engine:
    """Docker's engine."""

    def __init__(self, module: AnsibleModule) -> None:
        self._unit = Unit(module, "docker")
        shown = self._unit.show()
        self.active = shown["ActiveState"] == "active"
        self.runs = self.active and shown["UnitFileState"] == "enabled"
        self.verb = ""
        self._took = True

    def apply(self) -> None:
        """Have it run with the options that there are."""
        self._unit.enable()
        if self.verb:
            self._unit.tell("reset-failed")
            self._took = self._unit.tell(self.verb)

    def spare(self) -> None:
        """On the way back, do not stop what runs."""
        self.verb = "reload" if self._unit.active else "start"

    def prove(self, before: bool) -> None:
        """:raises Wrong: if it did not take them."""
        if not self._took or not self._unit.active:
            problem = f"Docker does not {self.verb or 'run'} (docker_engine_settings and the like)."
            self.spare()
            raise Wrong(problem, "" if before else "It says:\n" + "\n".join(self._unit.log(5)))


def configure(module: AnsibleModule) -> None:
    """Write the engine's options and have it run with them, or go back to those of before."""
    wanted = docker_daemon.options(**module.params)

    def run(*command: str) -> str:
        rc, out, _err = module.run_command(list(command)) if module.get_bin_path(command[0]) else (1, "", "")
        return "" if rc else str(out)

    engine, state = Engine(module), State(BEFORE)
    way = WayBack(module, "Docker", state, engine.apply, engine.prove)
    seen = docker_daemon.look(run)
    running = options_of(state) if way.cut_off else None
    merged = docker_daemon.merge(seen["options"], seen["ours"], wanted, running)
    problems = list(docker_daemon.problems(seen, merged))
    # What is only taken out waits for the next restart where one would take others along.
    removed = set(seen["options"] if running is None else running) - set(merged.options)
    different = way.cut_off or merged.options != seen["options"]
    restart = engine.active and (bool(merged.restart) or bool(removed and not seen["others"]))
    engine.verb = "restart" if restart else "start" if not engine.active else "reload" if different else ""
    result = {
        "changed": different or not engine.runs,
        "restarted": False,
        "diff": {
            "before_header": DAEMON,
            "after_header": DAEMON,
            "before": text(seen["options"]) if seen["options"] else "",
            "after": text(merged.options) if merged.options else "",
        },
    }
    if problems and module.check_mode:
        module.fail_json("Nothing was changed. " + " ".join(problems))
    if problems:
        engine.spare()
        way.refuse(f"{'' if way.cut_off else 'Nothing was changed. '}{' '.join(problems)}")
    if module.check_mode:
        module.exit_json(**result)
    files = []
    # For root alone, and gone when the module ends.
    tried = tempfile.NamedTemporaryFile("w", prefix="pacs-docker-", dir="/run", encoding="utf-8")  # noqa: SIM115
    tried.write(text({name: value for name, value in merged.options.items() if name not in TOLD}))
    tried.flush()
    if merged.options != seen["options"]:
        files.append(plain(DAEMON, text(merged.options), "0644", validate=TRY + tried.name))
    if merged.ours != seen["ours"]:
        files.append(plain(OURS, text(merged.ours), "0600"))
    if files or result["changed"]:
        for path in (DAEMON, OURS):
            make_folders(os.path.dirname(path))
        module.params |= {"folders": [], "files": files, "purge": [], "absent": [], "restart": {}}
        way.change([DAEMON, OURS])
    module.exit_json(**result | {"restarted": restart})


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
    with lock(module):
        configure(module)


if __name__ == "__main__":
    main()

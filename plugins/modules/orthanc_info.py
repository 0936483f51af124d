#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the Orthanc binary of a host for its version and for the options that it knows."""

from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_info
short_description: Version and known options of the Orthanc binary of a host
version_added: 0.1.0
description:
  - Runs the binary with C(--version) and C(--config=-) and reads the options out of the sample that it prints.
  - Where the binary is not installed yet, tells the version that the package source offers.
  - Changes nothing on the host but O(answers), which check mode leaves alone.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  command:
    description:
      - How the Orthanc binary is called; the first part is an absolute path.
      - Empty where it is known not to be there, such as before the image of a container is.
    type: list
    elements: str
    default: [/usr/sbin/Orthanc]
  list_command:
    description: How the files are listed among which the binary finds its libraries.
    type: list
    elements: str
    default: [ls]
  version:
    description: The version that is asked for; a binary of another one is an error. Empty if any will do.
    type: str
    default: ""
  libraries:
    description: Paths of plugin libraries. One that is missing on a host where Orthanc is installed is an error.
    type: list
    elements: path
    default: []
  answers:
    description:
      - File that keeps the answers to these very commands, for root alone, so that they are not run again. For commands
        that always answer the same, such as those of an image by its number. Empty has them run each time,
        and so does a library that is missing.
    type: path
    default: ""
  asked_options:
    description:
      - The type of each top-level option that is asked for, in the terms of the result C(options).
      - One that the binary does not know, or of which it wants another type, is an error.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Works as usual, since it only reads.
    support: full
"""

EXAMPLES = r"""
- name: Ask the binary
  dicom.orthanc.orthanc_info:
    asked_options: {HttpPort: int}
  register: orthanc
"""

RETURN = r"""
installed:
  description: Whether the binary is there.
  type: bool
  returned: always
version:
  description: The version of the binary, else of the package on offer, else empty.
  type: str
  returned: always
  sample: 1.12.7
options:
  description: Name and type of the top-level options; empty where nothing is installed.
  type: dict
  returned: always
  sample: {HttpPort: int, DicomAet: str}
"""

import os
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import ask_binary, unfit
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State


def candidate(module: AnsibleModule) -> str:
    """Return the version of the package that apt would install, or an empty string."""
    if not module.get_bin_path("apt-cache"):
        return ""
    _rc, out, _err = module.run_command(["apt-cache", "policy", "orthanc"], environ_update={"LC_ALL": "C"})
    found = re.search(r"Candidate: (?:\d+:)?(\d[\d.]*)", out)
    return found[1] if found else ""


def missing(module: AnsibleModule) -> list[str]:
    """Return the libraries that are not there. Check mode looks at a host that may not have got them yet."""
    libraries: list[str] = module.params["libraries"]
    if module.check_mode or not libraries:
        return []
    command = [*module.params["list_command"], *libraries]
    rc, out, err = module.run_command(command, environ_update={"LC_ALL": "C"})
    if rc and not out.strip() and "No such file" not in err:
        module.fail_json(f"{' '.join(command)} fails: {err.strip()}")
    return [library for library in libraries if library not in out.splitlines()]


def ask(module: AnsibleModule) -> list[Any]:
    """Return the version of the binary, its options, and the libraries that it lacks."""
    command = module.params["command"]

    def run(argument: str) -> str:
        return str(module.run_command([*command, argument], check_rc=True)[1])

    version, options = ask_binary(run)
    if not version:
        module.fail_json(f"{command[0]} --version does not print an Orthanc version but: {run('--version')[:200]}")
    return [version, options, missing(module)]


def answers(module: AnsibleModule) -> list[Any]:
    """Return the same, from the file that keeps it if these very commands were run before."""
    params = module.params
    if not params["answers"]:
        return ask(module)
    state = State(params["answers"], lasting=True)
    asked = [*params["command"], *params["list_command"], *params["libraries"]]
    kept = state.read()
    if kept.get("asked") == asked and kept.get("told"):
        return list(kept["told"] or [])
    told = ask(module)
    # What is missing has to be told each time.
    if not module.check_mode and not told[2]:
        state.keep({"asked": asked, "told": told})
    return told


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "list", "elements": "str", "default": ["/usr/sbin/Orthanc"]},
            "list_command": {"type": "list", "elements": "str", "default": ["ls"]},
            "version": {"type": "str", "default": ""},
            "libraries": {"type": "list", "elements": "path", "default": []},
            "answers": {"type": "path", "default": ""},
            "asked_options": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    command = module.params["command"]
    if not command or not os.access(command[0], os.X_OK):
        module.exit_json(installed=False, version=module.params["version"] or candidate(module), options={})

    version, options, lacking = answers(module)

    # Check mode on a host whose packages are older than the inventory has nothing to compare yet.
    wanted = module.params["version"]
    if wanted not in ("", version) and not module.check_mode:
        module.fail_json(
            f"orthanc_version: {wanted} is asked for, and Orthanc {version} is what was installed; it does not run yet."
            " Choose the package or image that holds that release, or leave orthanc_version empty."
        )
    problems = unfit(module.params["asked_options"], options, version) + [
        f"orthanc_plugins: {library} is missing; Orthanc {version} of this host does not bring"
        " that plugin. Take it out of orthanc_plugins or install a newer Orthanc."
        for library in lacking
    ]
    if problems:
        module.fail_json(" ".join(problems))
    module.exit_json(installed=True, version=version, options=options)


if __name__ == "__main__":
    main()

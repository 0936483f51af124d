#!/usr/bin/python
# Copyright the dicom.orthanc authors
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
  - Changes nothing, in check mode or otherwise.
author: The dicom.orthanc authors
options:
  command:
    description: How the Orthanc binary is called; the first part is an absolute path.
    type: list
    elements: str
    default: [/usr/sbin/Orthanc]
  libraries:
    description: Paths of plugin libraries. One that is missing on a host where Orthanc is installed is an error.
    type: list
    elements: path
    default: []
  required_options:
    description: Top-level options that the binary has to know. One that it does not know is an error.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Works as usual, since it only reads.
    support: full
"""

EXAMPLES = r"""
- name: Ask the binary
  dicom.orthanc.orthanc_info:
    required_options: [HttpPort]
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import (
    nearest,
    sample_options,
    version_tuple,
)


def candidate(module: AnsibleModule) -> str:
    """Return the version of the package that apt would install, or an empty string."""
    if not module.get_bin_path("apt-cache"):
        return ""
    _rc, out, _err = module.run_command(["apt-cache", "policy", "orthanc"], environ_update={"LC_ALL": "C"})
    found = re.search(r"Candidate: (?:\d+:)?(\d[\d.]*)", out)
    return found[1] if found else ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "list", "elements": "str", "default": ["/usr/sbin/Orthanc"]},
            "libraries": {"type": "list", "elements": "path", "default": []},
            "required_options": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    command = module.params["command"]
    if not os.access(command[0], os.X_OK):
        module.exit_json(installed=False, version=candidate(module), options={})

    _rc, out, _err = module.run_command([*command, "--version"], check_rc=True)
    found = re.search(r"Orthanc (\S+)", out)
    version = found[1] if found else ""
    if not version:
        module.fail_json(f"{command[0]} --version does not print an Orthanc version but: {out[:200]}")
    # An older release takes an option that it does not know for none, and starts a server.
    newer = version_tuple(version) >= (1, 13) or version == "mainline"
    sample = ""
    for option in ["--config=-"] + (["--advanced-config=-"] if newer else []):
        sample += module.run_command([*command, option], check_rc=True)[1]
    options = sample_options(sample)

    # A dry run on a host whose packages are older than the inventory has nothing to compare yet.
    problems = [
        f"orthanc_settings.{name}: Orthanc {version} on this host does not know this option."
        f"{nearest(name, options)} Correct it or take it out."
        for name in module.params["required_options"]
        if name not in options
    ] + [
        f"orthanc_plugins: {library} is missing; Orthanc {version} of this host does not bring"
        " that plugin. Take it out of orthanc_plugins or install a newer Orthanc."
        for library in module.params["libraries"]
        if not os.path.exists(library) and not module.check_mode
    ]
    if problems:
        module.fail_json(" ".join(problems))
    module.exit_json(installed=True, version=version, options=options)


if __name__ == "__main__":
    main()

# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of the action of the same name, which does the work on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Check the inventory and a host before a run
version_added: 0.1.0
description:
  - Checks, for the roles that bear the names of the host's groups, that every variable exists, has the right type and
    makes sense together with the others, and that the host can do what they ask for.
  - Fails with one sentence per problem, which names the variable and the remedy. Changes nothing.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  reach:
    description: Look at the host too. Without it no host is connected to, and the inventory alone is checked.
    type: bool
    default: true
  role:
    description: A role to check that has no group of its own.
    type: str
    default: ""
attributes:
  action:
    description: Runs on the control node and looks at the host once.
    support: full
  check_mode:
    description: Works as usual, since it only reads.
    support: full
"""

EXAMPLES = r"""
- name: Check every variable and every host
  dicom.orthanc.preflight:
  register: preflight

- name: Check the inventory alone
  dicom.orthanc.preflight:
    reach: false
"""

RETURN = r"""
found:
  description: What is on the host, for this run only.
  type: dict
  returned: when the host was looked at
  contains:
    release:
      description: The distribution and its release.
      type: str
      sample: debian-13
    packages:
      description: The packages that are installed.
      type: list
      elements: str
    services:
      description: The services that run and are started at boot, of those that a role would look for otherwise.
      type: list
      elements: str
    masked:
      description: Those of these services that are kept from starting.
      type: list
      elements: str
    apt_lists:
      description: Whether apt knows any package that it could fetch.
      type: bool
    apt_upstream:
      description: Whether the host knows the packages of Orthanc's makers.
      type: bool
    policy:
      description: Who keeps packages from restarting what they upgrade, C(ours) or C(others); empty if nobody does.
      type: str
    ipv6:
      description: Whether the kernel has IPv6.
      type: bool
    nginx:
      description: The user and the group of nginx's workers.
      type: dict
    orthanc:
      description: How the Orthanc that is there is called, its version and the options that it knows.
      type: dict
expected:
  description: What C(playbooks/site.yml) is going to add, which is not there yet.
  type: dict
  returned: when the host was looked at
  contains:
    packages:
      description: The packages that are missing.
      type: list
      elements: str
    masked:
      description: Links to C(/dev/null) that keep services from starting before they are configured, by their paths,
        and the program of each, beside which it is not made.
      type: dict
    orthanc:
      description: Version and options of the Orthanc that will be installed, where none is there and they are known.
      type: dict
"""

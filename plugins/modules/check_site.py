# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of the action of the same name, which does the work on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_site
short_description: Check the variables of a host and the host itself, before anything changes
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
  dicom.orthanc.check_site:

- name: Check the inventory alone
  dicom.orthanc.check_site:
    reach: false
"""

RETURN = r""" # """

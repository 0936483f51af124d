# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that look at a database server of this host take."""

from __future__ import annotations


class ModuleDocFragment:
    """The options whose arguments are in plugins/module_utils/database_host.py."""

    DOCUMENTATION = r"""
description:
  - Changes nothing, in check mode or otherwise.
options:
  address:
    description: What the certificate has to be for.
    type: str
    required: true
  certificate:
    description: Path of the server's certificate.
    type: path
    required: true
  certificate_days:
    description: For how many days it has to be good.
    type: int
    default: 0
  clients:
    description: Names whose addresses are looked up, as this host finds them.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Works as usual, since it only reads.
    support: full
"""

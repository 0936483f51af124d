#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell a running Orthanc of a modality."""

from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_modality
short_description: Have a modality known to a running Orthanc, or have it forgotten
version_added: 0.2.0
description:
  - Adds, changes or removes an entry of Orthanc's C(DicomModalities) by the REST API.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  aet:
    description: Application entity title of the modality, of at most 16 characters. Required for a new one.
    type: str
  host:
    description: >-
      Its address. Orthanc compares it with the sender's, unless
      C(DicomCheckModalityHost) is off. Required for a new one.
    type: str
  port:
    description: Its TCP port. Required for a new one.
    type: int
extends_documentation_fragment: [dicom.orthanc.entries, ansible.builtin.url]
"""

EXAMPLES = r"""
- name: Let a scanner in that is here for a day
  dicom.orthanc.orthanc_modality:
    url: "{{ orthanc_url }}"
    url_username: admin
    url_password: "{{ orthanc_password }}"
    ca_path: /etc/ssl/certs/pacs.crt
    name: ct2
    aet: CT2
    host: 192.0.2.8
    port: 104
    options: {Manufacturer: GE, AllowFind: false, AllowMove: false}

- name: And out again
  dicom.orthanc.orthanc_modality:
    url: "{{ orthanc_url }}"
    url_username: admin
    url_password: "{{ orthanc_password }}"
    ca_path: /etc/ssl/certs/pacs.crt
    name: ct2
    state: absent
"""

RETURN = r"""
entry:
  description: What Orthanc knows of it by then, without passwords and the values of headers; empty if it knows nothing.
  type: dict
  returned: always
  sample: {AET: CT2, Host: 192.0.2.8, Port: 104, Manufacturer: GE, AllowFind: false, AllowMove: false}
"""

from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_entries import run


def main() -> None:
    fields: dict[str, tuple[str, dict[str, Any]]] = {
        "aet": ("AET", {"type": "str"}),
        "host": ("Host", {"type": "str"}),
        "port": ("Port", {"type": "int"}),
    }
    run("/modalities", fields, needed=tuple(fields))


if __name__ == "__main__":
    main()

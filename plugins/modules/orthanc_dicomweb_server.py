#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell a running Orthanc of a DICOMweb server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_dicomweb_server
short_description: Have a DICOMweb server known to a running Orthanc, or have it forgotten
version_added: 0.2.0
description:
  - Adds, changes or removes an entry of Orthanc's C(DicomWeb.Servers) by the REST API.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  address:
    description: URL of the DICOMweb server, such as C(https://archive.example.org/dicom-web/). Required for a new one.
    type: str
extends_documentation_fragment: [dicom.orthanc.entries, dicom.orthanc.entries.web, ansible.builtin.url]
"""

EXAMPLES = r"""
- name: Know a DICOMweb server with a login
  dicom.orthanc.orthanc_dicomweb_server:
    url: "{{ orthanc_url }}"
    url_username: admin
    url_password: "{{ orthanc_password }}"
    ca_path: /etc/ssl/certs/pacs.crt
    name: archive-web
    address: https://archive.example.org/dicom-web/
    username: pacs
    password: "{{ archive_password }}"

- name: Forget it
  dicom.orthanc.orthanc_dicomweb_server:
    url: "{{ orthanc_url }}"
    url_username: admin
    url_password: "{{ orthanc_password }}"
    ca_path: /etc/ssl/certs/pacs.crt
    name: archive-web
    state: absent
"""

RETURN = r"""
entry:
  description: What Orthanc knows of it by then, without passwords and the values of headers; empty if it knows nothing.
  type: dict
  returned: always
  sample: {Url: https://archive.example.org/dicom-web/, Username: pacs}
"""

from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_entries import WEB, run


def main() -> None:
    run("/dicom-web/servers", WEB, needed=("address",))


if __name__ == "__main__":
    main()

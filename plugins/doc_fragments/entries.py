# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules take that tell a running Orthanc of others."""

from __future__ import annotations


class ModuleDocFragment:
    """The options whose arguments are in plugins/module_utils/orthanc_entries.py."""

    DOCUMENTATION = r"""
description:
  - Orthanc takes it up without a restart, and forgets it at its next start, where its configuration says something
    else. What is to last belongs into the inventory.
  - What of an entry is not given stays as it is. A field that Orthanc does not keep as it was told, such as a
    misspelled one, is an error.
options:
  url:
    description: URL of Orthanc or of the proxy before it, such as C(https://pacs.example.org/).
    type: str
    required: true
  ca_path:
    description:
      - File with the certificates that the server's is trusted by, on the host of the task; those of that host if not
        given.
    type: path
  name:
    description: By what Orthanc is to call it, of letters, digits, C(-) and C(_). It is the key in its configuration.
    type: str
    required: true
  state:
    description: Whether Orthanc is to know it.
    type: str
    choices: [present, absent]
    default: present
  options:
    description: >-
      Whatever else it is to have, in Orthanc's own terms, such as C(AllowFind) and C(Manufacturer) of a modality, or
      C(Timeout).
    type: dict
    default: {}
  url_username:
    description: User by whom the task logs in to Orthanc, or to the proxy.
    type: str
  url_password:
    description: The password of that user.
    type: str
  force_basic_auth:
    description: The login goes with the first request, whatever this says.
    type: bool
    default: false
attributes:
  check_mode:
    description: Tells what Orthanc would be told.
    support: full
  diff_mode:
    description: Shows the entry before and after, without passwords and the values of headers.
    support: full
"""

    WEB = r"""
options:
  username:
    description: User by whom Orthanc logs in there.
    type: str
  password:
    description: The password of that user.
    type: str
  http_headers:
    description: Headers to send along, by their names.
    type: dict
  certificate_file:
    description: Path of a client certificate on the host of Orthanc, as PEM text.
    type: path
  certificate_key_file:
    description: Path of its key there.
    type: path
  certificate_key_password:
    description: Password of that key.
    type: str
  update_secrets:
    description:
      - Whether to tell Orthanc passwords and headers of an entry that it has already. It does not tell what they are,
        so that the task has changed something each time. Otherwise they go with an entry that is new or different.
    type: bool
    default: false
"""

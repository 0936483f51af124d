# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role verification asks of an inventory."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import nearest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host


def problems(host: Host) -> Iterator[str]:
    name = host.variables["verification_modality"]
    known = host.variables["orthanc_modalities"]
    if name and name not in known:
        yield f"verification_modality: '{name}' is not in orthanc_modalities.{nearest(name, map(str, known))}"
    address = str(host.variables["verification_dicom_address"])
    if not values.is_address(address) and not values.HOST_NAME.fullmatch(address):
        yield f"verification_dicom_address: '{address}' is neither a host name nor an address."
    url, folder = host.variables["verification_url"], host.variables["verification_report_dir"]
    if not re.fullmatch(values.URL, url):
        yield f"verification_url: '{url}' is no address of a site; it begins with https:// or http://."
    # Only a report is written there, so that it may be any folder.
    if not folder.startswith("/") or not values.is_folder("/" + posixpath.normpath(folder).lstrip("/")):
        yield f"verification_report_dir: '{folder}' is no absolute path that a folder can have, such as /tmp/report."
    yield from values.pair("verification", host.variables)

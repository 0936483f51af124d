# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role verification asks of an inventory."""

from __future__ import annotations

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
    yield from values.pair("verification", host.variables)

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orthanc from the binaries of its makers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ansible_collections.dicom.orthanc.plugins.module_utils import lsb as site_of_lsb
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import nearest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import plugins
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import RELEASE, Orthanc
from cryptography import x509

# Folders that are Orthanc's alone too: a host that goes from one method to the other keeps both.
FOLDERS = ("orthanc_lsb_dir", "orthanc_source_dir")


def problems(orthanc: Orthanc) -> Iterator[str]:
    """What the download of LSB binaries needs."""
    variables, release = orthanc.variables, orthanc.release
    url = str(variables["orthanc_lsb_url"])
    if not re.fullmatch(values.URL, url):
        yield f"orthanc_lsb_url: '{url}' is no address of a site; it begins with https:// or http://."
    if variables["orthanc_lsb_ca"]:
        try:
            x509.load_pem_x509_certificates(str(variables["orthanc_lsb_ca"]).encode())
        except ValueError:
            yield "orthanc_lsb_ca: this is no certificate in PEM form."
    sums = variables["orthanc_lsb_checksums"]
    for path in sorted(path for path, value in sums.items() if not re.fullmatch(r"[0-9a-fA-F]{64}", str(value))):
        yield f"orthanc_lsb_checksums: that of {path} is no SHA-256 of 64 hexadecimal digits."
    machine = (orthanc.probe or {}).get("machine", "x86_64")
    if machine != "x86_64":
        yield f"orthanc_install_method: the LSB binaries are for x86_64, and this host is {machine}; take apt."
    if not release:
        yield "orthanc_version: it is empty, and orthanc_install_method lsb needs a release, such as '1.12.7'."
        return
    if next(plugins.problems(orthanc), "") or not re.fullmatch(RELEASE, release):
        # That has been told; which files they would need is of no interest.
        return
    wanted = {name: orthanc.plugins[name] for name in variables["orthanc_plugins"]}
    database = orthanc.databases.get(variables["orthanc_database"], {})
    if database.get("packages"):
        libraries = [
            *(database["index"] if variables["orthanc_database_index"] else []),
            *(database["storage"] if variables["orthanc_database_storage"] else []),
        ]
        wanted[variables["orthanc_database"]] = {"package": database["packages"][0], "library": libraries}
    known = [*wanted, *(name for name, other in orthanc.databases.items() if other["packages"]), *orthanc.plugins]
    for name in variables["orthanc_lsb_plugin_versions"]:
        if name not in known:
            yield f"orthanc_lsb_plugin_versions: there is no plugin '{name}'.{nearest(name, known)}"
    try:
        paths = site_of_lsb.paths(release, wanted, orthanc.lsb_versions, variables["orthanc_lsb_plugin_versions"])
    except site_of_lsb.MirrorError as error:
        yield str(error)
        return
    missing = [path for path in paths if path not in sums]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        yield (
            f"orthanc_lsb_checksums: there is no SHA-256 of {missing[0]}{more};"
            f" run `make lsb-lock INVENTORY={orthanc.inventory}`."
        )

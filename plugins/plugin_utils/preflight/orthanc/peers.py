# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other Orthanc servers that this one could not talk to, or that would end it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import by_field
from ansible_collections.dicom.orthanc.plugins.module_utils.probe.ports import of_url
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.entries import NAME, entry, silent
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc

FIELDS = ("Url", "Username", "Password")
PEER = {
    "Url": "str",
    "Username": "str",
    "Password": "str",
    "HttpHeaders": "dict",
    "CertificateFile": "str",
    "CertificateKeyFile": "str",
    "CertificateKeyPassword": "str",
    "Pkcs11": "bool",
    "Timeout": "int",
}


def problems(orthanc: Orthanc) -> Iterator[str]:
    """Check the other Orthanc servers."""
    for name, peer in orthanc.variables["orthanc_peers"].items():
        here = f"orthanc_peers.{name}"
        if not NAME.fullmatch(str(name)):
            yield f"{here}: a name has letters, digits, '-' and '_' only."
        peer = by_field(peer, FIELDS)
        if "Url" not in peer:
            yield f"{here}: give Url, and Username and Password where it asks for them."
            continue
        yield from entry(here, peer, PEER)
        if isinstance(peer["Url"], str) and not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", peer["Url"]):
            yield f"{here}.Url: '{peer['Url']}' is not like https://pacs.example.org/; a login has fields of its own."
        if bool(peer.get("Username")) != bool(peer.get("Password")):
            given, other = ("Username", "Password") if peer.get("Username") else ("Password", "Username")
            yield f"{here}.{other}: it is missing while {given} is given."
    if orthanc.variables["orthanc_https_ca"]:
        yield from values.pem("orthanc_https_ca", str(orthanc.variables["orthanc_https_ca"]))
    yield from values.pair("orthanc_client", orthanc.variables)


def places(orthanc: Orthanc) -> dict[str, str]:
    """Return address and port of each peer; none where a proxy is asked for them."""
    if orthanc.settings.get("HttpProxy"):
        return {}
    urls = {name: by_field(one, FIELDS).get("Url") for name, one in orthanc.variables["orthanc_peers"].items()}
    return {name: of_url(url) for name, url in urls.items() if isinstance(url, str) and of_url(url)}


def notices(orthanc: Orthanc) -> Iterator[str]:
    yield from silent("orthanc_peers", places(orthanc), (orthanc.probe or {}).get("silent", ()))
    if orthanc.variables["orthanc_client_certificate"]:
        yield from values.ending("orthanc_client_certificate", orthanc.variables)

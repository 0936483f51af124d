# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orthanc from packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc


def problems(orthanc: Orthanc) -> Iterator[str]:
    if orthanc.from_where == "upstream":
        yield from _upstream(orthanc)
    elif orthanc.probe:
        asked, offered = str(orthanc.variables["orthanc_version"] or ""), orthanc.probe["offered"]
        if asked and offered and asked not in offered and asked != orthanc.probe["orthanc"]:
            yield f"orthanc_version: {asked} is not on offer here; the package sources have {', '.join(offered)}."
        elif asked in orthanc.probe["withheld"] and asked != orthanc.probe["orthanc"]:
            yield (
                f"orthanc_version: {asked} is on offer here, and a pin below 0 has apt never install it"
                " (`apt-cache policy orthanc`); take it out of /etc/apt/preferences.d, or choose another release."
            )


def packages(orthanc: Orthanc) -> str:
    """Return the variable with the packages, unless apt has to be told more than their names."""
    return "__orthanc_packages" if orthanc.installs_what_is_offered else ""


def look(orthanc: Orthanc) -> dict[str, Any]:
    return {"offers": bool(orthanc.variables["orthanc_version"])}


def _upstream(orthanc: Orthanc) -> Iterator[str]:
    """The source of packages of Orthanc's makers."""
    url, key = str(orthanc.variables["orthanc_apt_url"]), str(orthanc.variables["orthanc_apt_key"])
    if url and not re.fullmatch(values.URL, url):
        yield f"orthanc_apt_url: '{url}' is no address of a site; it begins with https:// or http://."
    if not re.fullmatch(r"[A-Za-z0-9._/-]*", str(orthanc.variables["orthanc_apt_suite"])):
        yield f"orthanc_apt_suite: '{orthanc.variables['orthanc_apt_suite']}' is no suite, such as trixie."
    if not re.fullmatch(values.URL, key) and not key.strip().startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----"):
        yield "orthanc_apt_key: this is neither a URL nor a public key in ASCII armour."

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plugins that do not exist, not here, not yet, or not together."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import nearest, version_tuple
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc


def problems(orthanc: Orthanc) -> Iterator[str]:
    """Find plugins that do not exist, not here, not yet, or not together."""
    asked, known = orthanc.asked, orthanc.known
    by_library = {str(plugin["library"]).lower(): name for name, plugin in known.plugins.items()}
    for name in asked.plugins:
        plugin = known.plugins.get(name, {})
        lacking, since = plugin.get("lacking", {}).get(orthanc.from_where), str(plugin.get("since", ""))
        if name in ("imagej", "orthanc-imagej"):
            yield (
                "orthanc_plugins: orthanc-imagej extends ImageJ on a workstation;"
                " it is no plugin of the server. Take it out."
            )
        elif name in orthanc.databases and name != "sqlite":
            yield f"orthanc_plugins: '{name}' comes with orthanc_database; set that to {name} and take this out."
        elif not plugin:
            file = by_library.get(str(name).rpartition("/")[2].lower())
            meant = f" Did you mean '{file}'?" if file else nearest(name, known.plugins)
            yield f"orthanc_plugins: there is no plugin '{name}'.{meant}"
        elif lacking:
            yield (
                f"orthanc_plugins: '{name}' is not to be had with {orthanc.source['name']}: {lacking}."
                " Take it out or choose another install method."
            )
        elif asked.release and since and version_tuple(asked.release) < version_tuple(since):
            yield (
                f"orthanc_plugins: '{name}' came with Orthanc {since}, and this host has {asked.release};"
                " take it out or use a newer release."
            )
        for needed in plugin.get("needs", []):
            if needed not in asked.plugins:
                yield f"orthanc_plugins: '{name}' needs '{needed}'; add it."
    for name in sorted({name for name in asked.plugins if asked.plugins.count(name) > 1}):
        yield f"orthanc_plugins: '{name}' stands there twice."
    keepers = [name for name in asked.plugins if known.plugins.get(name, {}).get("storage")]
    in_database = asked.database != "sqlite" and orthanc.variables["orthanc_database_storage"]
    keepers += ["orthanc_database_storage"] if in_database else []
    if len(keepers) > 1:
        yield (
            f"orthanc_plugins: {' and '.join(keepers)} each want to keep the DICOM files, and Orthanc would use one of"
            " them without a word; leave one."
        )
    if weak_gdcm(orthanc) and orthanc.settings.get("IngestTranscoding"):
        yield (
            "orthanc_plugins: gdcm of Debian's packages ends Orthanc when it transcodes, which"
            " orthanc_settings.IngestTranscoding has it do; leave gdcm out, since all but JPEG 2000 needs no plugin."
        )


def notices(orthanc: Orthanc) -> Iterator[str]:
    if weak_gdcm(orthanc) and orthanc.settings.get("TranscodeDicomProtocol") is not False:
        yield (
            "orthanc_plugins: gdcm of Debian's packages ends Orthanc when JPEG 2000 goes to a modality that does"
            " not take it; orthanc_settings.TranscodeDicomProtocol: false has that transfer fail instead."
        )


def weak_gdcm(orthanc: Orthanc) -> bool:
    """Whether the plugin gdcm is one that was seen to end Orthanc by a segmentation fault: Debian 12's and 13's."""
    return "gdcm" in orthanc.variables["orthanc_plugins"] and bool(orthanc.source["of_distribution"])

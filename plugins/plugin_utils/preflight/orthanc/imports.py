# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is imported, and where that is told."""

from __future__ import annotations

import datetime
import posixpath
from collections.abc import Iterator

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc


def problems(orthanc: Orthanc) -> Iterator[str]:
    """Paths and days that there cannot be."""
    variables = orthanc.variables
    report = str(variables["orthanc_import_report_dir"])
    if not report.startswith("/") or not values.is_folder("/" + posixpath.normpath(report).lstrip("/")):
        yield f"orthanc_import_report_dir: '{report}' is no absolute path that a folder can have, such as /srv/report."
    own = ("orthanc_config_dir", "orthanc_storage_dir", "orthanc_index_dir")
    taken = [name for name in own if variables[name] and posixpath.normpath(report) == variables[name]]
    if taken and variables["orthanc_import_from"] == "host":
        yield f"orthanc_import_report_dir: '{report}' is {taken[0]}; choose a folder for the report alone."
    for source in variables["orthanc_import_sources"]:
        modality = source.removeprefix("dicom:")
        if modality != source and modality not in variables["orthanc_modalities"]:
            yield f"orthanc_import_sources: '{source}' names no entry of orthanc_modalities."
        elif modality == source and not source.startswith(("/", "~/")):
            yield f"orthanc_import_sources: '{source}' is neither an absolute path, as /srv/images, nor as dicom:old."
    days = {name: variables[name] for name in ("orthanc_import_since", "orthanc_import_until") if variables[name]}
    for name, day in days.items():
        if not _is_day(day):
            yield f"{name}: '{day}' is no day such as \"20260131\"."
    if len(days) == 2 and days["orthanc_import_since"] > days["orthanc_import_until"]:
        yield "orthanc_import_since: it is later than orthanc_import_until, so nothing would be imported."


def _is_day(text: str) -> bool:
    try:
        return len(text) == 8 and text.isdigit() and bool(datetime.datetime.strptime(text, "%Y%m%d"))
    except ValueError:
        return False

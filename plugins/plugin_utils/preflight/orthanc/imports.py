# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is imported, and where that is told."""

from __future__ import annotations

import datetime
import os
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.connect import PATIENT
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
        elif modality != source and (variables["orthanc_import_patients"] or variables["orthanc_import_anonymize"]):
            yield (
                f"orthanc_import_sources: '{source}' sends its images itself, with the patients that it has; leave it"
                " out, or orthanc_import_patients and orthanc_import_anonymize."
            )
        elif modality == source and not source.startswith(("/", "~/")):
            yield from _url(source)
    yield from _certificate(variables)
    yield from _patients(variables)
    days = {name: variables[name] for name in ("orthanc_import_since", "orthanc_import_until") if variables[name]}
    for name, day in days.items():
        if not _is_day(day):
            yield f"{name}: '{day}' is no day such as \"20260131\"."
    if len(days) == 2 and days["orthanc_import_since"] > days["orthanc_import_until"]:
        yield "orthanc_import_since: it is later than orthanc_import_until, so nothing would be imported."


def _certificate(variables: Mapping[str, Any]) -> Iterator[str]:
    """Files of the control node, on which this runs, too."""
    given = {name: variables[name] for name in ("orthanc_import_certificate_file", "orthanc_import_key_file")}
    given = {name: path for name, path in given.items() if path}
    if given and variables["orthanc_import_from"] == "host":
        yield (
            f"{min(given)}: with orthanc_import_from host the import goes past the proxy, and nobody asks for it; leave"
            " it out."
        )
        return
    if list(given) == ["orthanc_import_key_file"]:
        yield "orthanc_import_certificate_file: it is missing, and orthanc_import_key_file is there."
    # Others may work with this inventory on machines that never import.
    for name, path in given.items() if variables["orthanc_import_sources"] else ():
        file = os.path.expanduser(path)
        if not os.path.isabs(file) or not os.path.isfile(file) or not os.access(file, os.R_OK):
            yield f"{name}: '{path}' is no file of the control node that can be read, by its absolute path."


def _url(source: str) -> Iterator[str]:
    if not source.startswith(("http://", "https://")):
        yield (
            f"orthanc_import_sources: '{source}' is neither an absolute path, as /srv/images, nor as dicom:old, nor a"
            " URL, as https://old.example.org/."
        )
        return
    try:
        parts = urlsplit(source)
        fits = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
        login = parts.username is not None
    except ValueError:
        fits = login = False
    if login:
        # It is not shown.
        yield "orthanc_import_sources: a login is no part of a URL; see orthanc_import_source_user."
    elif not fits:
        yield f"orthanc_import_sources: '{source}' is no URL of an archive, such as https://old.example.org/."


def _patients(variables: Mapping[str, Any]) -> Iterator[str]:
    """What becomes of the patients."""
    for old, new in variables["orthanc_import_patients"].items():
        if not isinstance(old, str) or not isinstance(new, str):
            yield f"orthanc_import_patients: put {old} and {new} in quotes, or YAML may read other numbers."
        elif not old or not PATIENT.fullmatch(new):
            yield f"orthanc_import_patients: '{old}' cannot become '{new}', which is no PatientID of plain letters."
    if variables["orthanc_import_source_ca"]:
        yield from values.pem("orthanc_import_source_ca", variables["orthanc_import_source_ca"])
    if variables["orthanc_import_source_password"] and not variables["orthanc_import_source_user"]:
        yield "orthanc_import_source_user: it is missing, and orthanc_import_source_password is there."
    if variables["orthanc_import_anonymize"] and variables["orthanc_import_from"] != "host":
        yield (
            "orthanc_import_anonymize: the Orthanc that does it is the one on the host; copy the images there, and set"
            " orthanc_import_from to host."
        )


def _is_day(text: str) -> bool:
    try:
        return len(text) == 8 and text.isdigit() and bool(datetime.datetime.strptime(text, "%Y%m%d"))
    except ValueError:
        return False

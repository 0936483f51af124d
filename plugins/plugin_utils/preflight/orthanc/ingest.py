# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules for images as they come that would do nothing, or what nobody can want."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import scripts
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.routes import (
    conditions,
    keyword,
    tag_of,
    vr,
)

# What can be set, being a text; and what tells images, and their letters, from others.
TEXTS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UT")
FIXED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SpecificCharacterSet", "StudyInstanceUID")


def problems(orthanc: Orthanc) -> Iterator[str]:
    """Find what is wrong with them."""
    if not orthanc.variables["orthanc_ingest"]:
        return
    yield from scripts.of_role(orthanc, "orthanc_ingest")
    for number, rule in enumerate(orthanc.variables["orthanc_ingest"], 1):
        here = f"orthanc_ingest: entry {number}"
        changes, refuses = bool(rule.get("set") or rule.get("remove")), rule.get("refuse")
        if bool(refuses) == changes or refuses is False:
            yield f"{here}: it has to say either refuse: true, or what to set or remove."
        elif refuses and not (rule.get("when") or rule.get("unless")):
            yield f"{here}: it would refuse every image; say which by when or unless."
        yield from conditions(here, rule)
        yield from _changes(here, rule)


def _changes(here: str, rule: Mapping[str, Any]) -> Iterator[str]:
    given, removed = rule.get("set") or {}, rule.get("remove") or []
    for tag in (*given, *removed):
        yield from keyword(here, tag)
        if tag in FIXED:
            yield f"{here}: {tag} tells this image from others; leave it as it is."
    for tag in removed:
        if (tag_of(tag) or 0) >> 16 in (0x0002, 0x0028, 0x7FE0):
            yield f"{here}: {tag} is what pixels are read by, or the file; leave it."
        if tag in given:
            yield f"{here}: {tag} is set and removed; leave one of them."
    for tag, value in given.items():
        if tag in FIXED or not vr(tag):
            continue
        if vr(tag) not in TEXTS:
            yield f"{here}: {tag} is no text, and cannot be set; name another tag, such as InstitutionName."
        elif not isinstance(value, str):
            yield f"{here}: {tag} has to be a text; put it in quotes."
        elif re.search(r"[\x00-\x1f\x7f]", value) and vr(tag) not in ("LT", "ST", "UT"):
            yield f"{here}: {tag} has a control character in it; take it out."
        else:
            yield from _value(here, tag, value)


def _value(here: str, tag: str, value: str) -> Iterator[str]:
    representations, config = map(importlib.import_module, ("pydicom.valuerep", "pydicom.config"))
    try:
        for one in value.split("\\"):
            representations.validate_value(vr(tag), one, config.RAISE)
    except ValueError as error:
        yield f"{here}: {tag}: {str(error).rstrip('.')}."

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of modalities and peers, whose misspelled fields Orthanc ignores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import fits, nearest, type_of

NAME = re.compile(r"[A-Za-z0-9_-]+")


def by_field(given: Any, fields: Sequence[str]) -> Mapping[str, Any]:
    """Return a modality or a peer by its fields, in whichever form it is written; nothing if that is none.

    :param fields: what a list has, in this order, of which the last ones may be left out.
    """
    if isinstance(given, list) and len(given) <= len(fields):
        return dict(zip(fields, given, strict=False))
    return given if isinstance(given, Mapping) else {}


def entry(here: str, entry: Mapping[str, Any], fields: Mapping[str, str]) -> Iterator[str]:
    """Check the fields of a modality or a peer, all of which Orthanc ignores when they are misspelled."""
    for field, value in entry.items():
        if field not in fields:
            yield f"{here}.{field}: there is no such field.{nearest(str(field), fields)}"
        elif not fits(value, fields[field]):
            yield f"{here}.{field}: Orthanc wants a value of type {fields[field]}, not {value!r} ({type_of(value)})."

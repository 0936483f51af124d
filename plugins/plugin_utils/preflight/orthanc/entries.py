# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of modalities and peers, whose misspelled fields Orthanc ignores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import fits, nearest, type_of

NAME = re.compile(r"[A-Za-z0-9_-]+")


def entry(here: str, entry: Mapping[str, Any], fields: Mapping[str, str]) -> Iterator[str]:
    """Check the fields of a modality or a peer, all of which Orthanc ignores when they are misspelled."""
    for field, value in entry.items():
        if field not in fields:
            yield f"{here}.{field}: there is no such field.{nearest(str(field), fields)}"
        elif not fits(value, fields[field]):
            yield f"{here}.{field}: Orthanc wants a value of type {fields[field]}, not {value!r} ({type_of(value)})."


def silent(variable: str, places: Mapping[str, str], found: Sequence[str]) -> Iterator[str]:
    """Tell which entries are not within reach.

    :param places: address and port of each, as the module ``site_probe`` has them.
    :param found: those where nothing takes a connection.
    """
    names = [f"{name} ({place.replace(' ', ':')})" for name, place in places.items() if place in found]
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield (
            f"{variable}: nothing takes a connection from this host at {', '.join(names[:5])}{more}. They are written"
            " nevertheless; if they are not just switched off, see address and port, and the firewalls on the way."
        )

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of Orthanc's configuration a running Orthanc takes by its REST API, so that no association has to be dropped."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

# Of an entry: its path in the REST API, and what it is to be there; nothing if it is to go.
Change = tuple[str, Any]

# Where the entries stand in the configuration, and in the REST API.
SECTIONS = {
    ("DicomModalities",): "/modalities",
    ("OrthancPeers",): "/peers",
    ("DicomWeb", "Servers"): "/{root}/servers",
}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return what to tell an Orthanc that runs with the options ``before`` to make them those of ``after``.

    :returns: nothing where they differ in what Orthanc reads at its start alone.
    """
    both = [copy.deepcopy(dict(options)) for options in (before, after)]
    web = after.get("DicomWeb")
    root = str(web.get("Root", "/dicom-web/") if isinstance(web, dict) else "").strip("/")
    found: list[Change] = []
    for (*parents, section), path in SECTIONS.items():
        old, new = (_taken_out(options, parents, section) for options in both)
        if old is None or new is None:
            return []
        found += [
            (f"{path.format(root=root)}/{quote(name, safe='')}", new.get(name))
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
    return found if both[0] == both[1] else []


def _taken_out(options: dict[str, Any], parents: list[str], section: str) -> dict[str, Any] | None:
    """Take the entries of a section out of the options and return them; nothing where Orthanc has them elsewhere."""
    for key in parents:
        options = options[key] if isinstance(options.get(key), dict) else {}
    entries = options.pop(section, {})
    return entries if isinstance(entries, dict) and not options.get(f"{section}InDatabase") else None

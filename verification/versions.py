"""What came with which release: the one reason for which a check may be left out on an older one."""

from __future__ import annotations

import re

# The first release that can do it, of Orthanc itself or of a plugin, by what Orthanc calls it.
SINCE = {
    "a study given to another patient": ("orthanc", "1.11.2"),
    # 1.7 does not just fail at it: it takes the whole of Orthanc down.
    "an image uncompressed by WADO-RS": ("dicom-web", "1.20"),
    "names of QIDO-RS in all letters": ("dicom-web", "1.20"),
    "arrays for numpy": ("orthanc", "1.11.0"),
    "RequestedTags in /tools/find": ("orthanc", "1.11.0"),
}


def number(version: str) -> tuple[int, ...]:
    """Make versions comparable; one that is no number, as of a build from the sources, is the newest."""
    parts = re.findall(r"\d+", version)
    return tuple(int(part) for part in parts) if parts else (9999,)


def lacking(feature: str, running: dict[str, str]) -> str:
    """Tell why something cannot be done with what runs; nothing if it can.

    :param running: versions by component: ``orthanc``, and the plugins that are loaded.
    :raises KeyError: for a feature that is not in the table.
    """
    component, since = SINCE[feature]
    found = running.get(component, "")
    if found and number(found) >= number(since):
        return ""
    return f"{feature}: since {component} {since}, here it is {found or 'not loaded'}"

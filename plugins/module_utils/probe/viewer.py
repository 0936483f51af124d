# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The viewer on a host: whether something of it is there, and what nginx serves of it."""

from __future__ import annotations

import os
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.files import MARK
from ansible_collections.dicom.orthanc.plugins.module_utils.ohif import sums
from ansible_collections.dicom.orthanc.plugins.module_utils.probe import nginx


def look(root: str = "") -> dict[str, Any]:
    """Return what was found. A folder alone tells nothing: somebody else may have something in it.

    :param root: what all paths are below.
    """
    site, releases = f"{root}/etc/pacs/ohif", f"{root}/var/lib/pacs/viewer"
    parts = (f"{site}/site.conf", f"{site}/named.conf")
    files = (*parts, f"{site}/app-config.js", f"{root}/etc/nginx/conf.d/orthanc-ohif.conf")
    inside = {folder: os.listdir(folder) for folder in (site, releases) if os.path.isdir(folder)}
    return {
        "viewer": any(map(os.path.lexists, files))
        # Of a removal that was cut off.
        or [MARK] in inside.values()
        or any(sums(os.path.join(releases, name)) for name in inside.get(releases, ())),
        # Beside Orthanc; and wherever.
        "viewed": "".join(nginx.served(parts[0], r"(?m)^location (/\S*/) \{$")),
        "viewer_path": "".join(
            path for part in parts for path in nginx.served(part, r"(?m)^location (/(?:\S*/)?) \{$")
        ),
        "viewer_release": "".join(
            name for part in parts for name in nginx.served(part, r"(?m)^    root /\S*/([^/\s]+);$")
        ),
    }

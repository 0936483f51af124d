# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scripts that come with the role orthanc, by what the inventory asks of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOADER = "pacs_scripts.py"
# The variables of the role by which they come, and the option of Orthanc that each of them is.
OPTIONS = {
    "orthanc_ingest": "PacsIngest",
    "orthanc_routes": "PacsRoutes",
    "orthanc_webhooks": "PacsWebhooks",
    "orthanc_deidentify": "PacsDeidentify",
    "orthanc_worklists_table": "PacsWorklists",
}
# In the order in which they run; each is there for any of these variables.
SCRIPTS = {
    "pacs_tags.py": ("orthanc_ingest", "orthanc_routes", "orthanc_webhooks", "orthanc_deidentify"),
    "pacs_ingest.py": ("orthanc_ingest",),
    "pacs_routes.py": ("orthanc_routes", "orthanc_webhooks"),
    "pacs_worklist_table.py": ("orthanc_worklists_table",),
    "pacs_worklists.py": ("orthanc_worklists_table",),
    # The last one, after what others make of an image.
    "pacs_profile.py": ("orthanc_deidentify",),
    "pacs_deidentify.py": ("orthanc_deidentify",),
}


def scripts(asked: Mapping[str, Any]) -> list[str]:
    """Name those that run, in their order."""
    return [name for name, variables in SCRIPTS.items() if any(asked[variable] for variable in variables)]


def options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what they read in Orthanc's configuration."""
    return {option: asked[variable] for variable, option in OPTIONS.items() if asked[variable]}

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The index that another release than the one that runs is asked to open."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import read_folder
from ansible_collections.dicom.orthanc.plugins.module_utils.files import Refused, free_bytes
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_client import Orthanc, Unready
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_index import index_of


def look(module: AnsibleModule, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an index is like; nothing where the release runs that is asked for, or where it cannot be told."""
    settings = read_folder(params["config_dir"])
    if not params["release"] or not settings:
        return {}
    running = ""
    with contextlib.suppress(Unready, KeyError, TypeError):
        running = str(Orthanc(settings).get("/system", timeout=5)["Version"])
    if running == params["release"]:
        return {}
    with contextlib.suppress(Refused, ValueError):
        index = index_of(module, params["database"], settings)
        found = {
            "running": running,
            "where": index.where,
            "size": index.size(),
            "free": free_bytes(params["dump_dir"]) if params["dump_dir"] else -1,
            "revision": 0,
        }
        # A damaged one takes its room all the same.
        with contextlib.suppress(Refused):
            found["revision"] = index.revision()
        return found
    return {}

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site as a picture; the documentation of the filters stands in the YAML files beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils.picture import connections, picture


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"connections": connections, "picture": picture}

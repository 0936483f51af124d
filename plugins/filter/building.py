# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over tarballs of sources; their documentation stands in the YAML files beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils import building


def builds(
    tarballs: Any, release: str, plugins: Any, database: Any, known: Any, table: Any, options: Any, plugin_options: Any
) -> list[dict[str, Any]]:
    """Name what is built from which tarballs."""
    wanted = building.targets(release, plugins, database, known)
    return building.builds(building.good(tarballs), wanted, table, options, plugin_options)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"builds": builds}

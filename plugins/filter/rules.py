# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over the rules of the role orthanc; their documentation stands in the YAML files beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils.rules import options, scripts


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"rule_options": options, "rule_scripts": scripts}

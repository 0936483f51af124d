# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over Orthanc's download site; their documentation stands in the YAML files beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.dicom.orthanc.plugins.module_utils.lsb import MirrorError, paths


def lsb_files(wanted: Any, release: str, versions: Any, named: Any) -> list[str]:
    """Name the files that a release with some plugins needs."""
    try:
        return paths(release, wanted, versions, named)
    except MirrorError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"lsb_files": lsb_files}

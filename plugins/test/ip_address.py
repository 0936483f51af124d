# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests on addresses; their documentation stands in the YAML file beside."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable


def ip_address(value: object) -> bool:
    """Tell whether the value is the text of an IPv4 or IPv6 address; the library takes a number for one too."""
    if not isinstance(value, str):
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


class TestModule:
    """The tests of this file."""

    def tests(self) -> dict[str, Callable[[object], bool]]:
        return {"ip_address": ip_address}

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over Orthanc's configuration as a dictionary; their documentation stands in the YAML files beside."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import type_of, version_tuple

_SECRET = re.compile(
    r"(password|passphrase|secret|token|pin|(access|account|private|secret)_?key|connection_?(string|uri))$",
    re.IGNORECASE,
)
# User and password inside of an address, as HttpProxy may have them.
_LOGIN = re.compile(r"[^\s/:@]:[^\s/@]+@")
# Users and their passwords; and peers, where a password may stand in a list without a name.
_ALWAYS = ("RegisteredUsers", "OrthancPeers")


def _has_secret(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(
            (isinstance(inner, str) and _SECRET.search(str(name))) or _has_secret(inner)
            for name, inner in value.items()
        )
    if isinstance(value, str):
        return bool(_LOGIN.search(value))
    return isinstance(value, list) and any(_has_secret(inner) for inner in value)


def secret_sections(configuration: Mapping[str, Any]) -> list[str]:
    """Name the top-level keys that hold a password, a token or the like, at any depth."""
    return [
        name
        for name, value in configuration.items()
        if name in _ALWAYS or _has_secret({name: value}) or (name == "DicomWeb" and "Servers" in value)
    ]


def options_for(tables: Mapping[str, Mapping[str, str]], version: str) -> Mapping[str, str]:
    """Pick the table of the newest known release that is not newer than the version."""
    releases = sorted(tables, key=version_tuple)
    older = [release for release in releases if version_tuple(release) <= version_tuple(version)]
    return tables[older[-1] if older else releases[0]]


def option_types(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the type of each value."""
    return {name: type_of(value) for name, value in options.items()}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"option_types": option_types, "options_for": options_for, "secret_sections": secret_sections}

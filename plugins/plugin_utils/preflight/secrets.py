# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets that can be read in the files of an inventory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

_SECRET = re.compile(r"vault_|.*(password|passphrase|secret|token|private_key)$", re.IGNORECASE)


class _Loader(yaml.SafeLoader):
    """Reads a file of an inventory; what bears a tag, as an encrypted value does, is nothing."""


_Loader.add_multi_constructor("!", lambda _loader, _suffix, _node: None)


def plain(text: str) -> set[str]:
    """Name the variables in the text of an inventory's file whose secret can be read there."""
    if text.startswith("$ANSIBLE_VAULT"):
        return set()
    try:
        return set(_plain(yaml.load(text, _Loader)))  # a subclass of the safe loader
    except yaml.YAMLError:
        # Ansible has said so already.
        return set()


def _plain(value: Any, users: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            secret = users or _SECRET.match(str(name))
            if secret and isinstance(inner, str) and inner and "{{" not in inner:
                yield f"{users}.{name}" if users else str(name)
            yield from _plain(inner, str(name) if str(name).endswith("_users") else "")
    elif isinstance(value, list):
        for inner in value:
            yield from _plain(inner)

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of the inventory, as the rules see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass
class Host:
    """One host: its roles, its variables and what was found on it.

    ``constants`` has of each role what stands in its folder vars, as it is written there, those of its install method
    included; ``internal`` evaluates one of them for this host. ``site`` evaluates a derived name
    (playbooks/group_vars/all.yml), and ``groups`` are those of the inventory, whose path ``inventory`` is, for commands
    that an error names.
    ``probe`` is what the module ``site_probe`` returned, or nothing if the host was not asked.
    ``plain_secrets`` names the variables whose secret can be read in the inventory's files.
    """

    roles: list[str]
    variables: Mapping[str, Any]
    constants: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    internal: Callable[[str, str], Any] = lambda _role, _name: None
    site: Callable[[str], Any] = lambda _name: None
    groups: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    name: str = ""
    inventory: str = "inventories/<site>"
    probe: Mapping[str, Any] | None = None
    plain_secrets: frozenset[str] = frozenset()

    @property
    def parts(self) -> list[str]:
        """The roles of which it has a part only."""
        return [role for role in self.constants if role not in self.roles]

    def has(self, role: str) -> bool:
        return role in self.roles

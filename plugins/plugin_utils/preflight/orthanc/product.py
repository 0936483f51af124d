# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Orthanc that a host has, or is to have."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import ROOT
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host

RELEASE = r"\d+\.\d+\.\d+"


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of the options.

    :param options: for each release the types of the top-level options.
    :param plugin_options: for each release and section the types of the plugin's options; those of the section
        ``""`` stand at the top level.
    :param plugins: ``__orthanc_plugins`` of the role.
    """

    options: Mapping[str, Mapping[str, str]]
    plugin_options: Mapping[str, Mapping[str, Mapping[str, str]]]
    plugins: Mapping[str, Mapping[str, Any]]

    def readers(self, name: str) -> list[str]:
        """Return the plugins that read a top-level option or section."""
        return [
            plugin
            for plugin, known in self.plugins.items()
            if name in (*known.get("settings", {}), *known.get("sections", []), *known.get("options", []))
        ]

    def tried(self, section: str) -> bool:
        """Tell whether the options of a section are known."""
        return any(section in table for table in self.plugin_options.values())


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a host is to have.

    :param release: of Orthanc; empty if it is not known yet.
    :param plugins: those that are switched on.
    :param database: ``sqlite``, ``postgresql`` or ``mysql``.
    :param debian_plugins: whether the plugins are those that Debian has with that release, so that an option which
        they do not know is none.
    :param proxied: whether a proxy stands before it.
    """

    release: str
    plugins: list[str]
    database: str
    debian_plugins: bool = True
    proxied: bool = True


@functools.cache
def tables(name: str) -> Mapping[str, Any]:
    """Return ``known`` or ``plugin`` options, for each release that was tried."""
    loaded: dict[str, Any] = json.loads((ROOT / "roles/orthanc/files" / f"{name}_options.json").read_text("utf-8"))
    return loaded


class Orthanc:
    """The Orthanc of a host.

    ``source`` says where its programs come from, and what follows from that: a row of ``__orthanc_sources``, which
    stands in the variables of the install method.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.variables, self.probe, self.inventory = host.variables, host.probe, host.inventory
        constants = host.constants["orthanc"]
        self.plugins: Mapping[str, Mapping[str, Any]] = constants["__orthanc_plugins"]
        self.databases: Mapping[str, Mapping[str, Any]] = constants["__orthanc_databases"]
        self.lsb_versions: Mapping[str, Mapping[str, str]] = constants["__orthanc_lsb_versions"]
        self._distribution_versions: Mapping[str, str] = constants["__orthanc_distribution_versions"]
        sources: Mapping[str, Mapping[str, Any]] = constants["__orthanc_sources"]
        # Packages have two, anything else has one.
        self.from_where = str(host.variables["orthanc_apt_source"]) if len(sources) > 1 else next(iter(sources))
        self.source = sources[self.from_where]

    @property
    def installs_what_is_offered(self) -> bool:
        """Whether it is the release that the distribution offers now."""
        return bool(self.source["of_distribution"]) and not self.variables["orthanc_version"]

    @property
    def release(self) -> str:
        """The release that this host has, or will get; empty if that is not known."""
        asked = str(self.variables["orthanc_version"] or "")
        if asked or not self.probe or not self.source["of_distribution"]:
            return asked
        return str(
            self.probe["orthanc"]
            or next(iter(self.probe["offered"]), "")
            or self._distribution_versions.get(f"{self.probe['distribution']}-{self.probe['release']}", "")
        )

    @property
    def settings(self) -> dict[str, Any]:
        """All options that the inventory sets, looked at or not."""
        return {**self.variables["orthanc_settings"], **self.variables["orthanc_settings_unchecked"]}

    @property
    def asked(self) -> Asked:
        """What it is to have."""
        variables = self.variables
        plugins, database = variables["orthanc_plugins"], variables["orthanc_database"]
        debian, proxied = bool(self.source["plugins_of_debian"]), bool(variables["orthanc_proxied"])
        return Asked(self.release, plugins, database, debian, proxied)

    @property
    def known(self) -> Known:
        """What is known of the options; the very binary on the host knows best."""
        binary = (self.probe or {}).get("binary") or {"options": {}}
        options = tables("known")
        return Known(
            {**options, binary["version"]: binary["options"]} if binary["options"] else options,
            tables("plugin"),
            self.plugins,
        )

    @property
    def foreign_database(self) -> bool:
        """Whether it uses a database server that somebody else runs."""
        variables = self.variables
        return (
            variables["orthanc_database"] != "sqlite"
            and not variables["orthanc_database_server"]
            and bool(variables["orthanc_database_host"])
        )

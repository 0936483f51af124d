# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orthanc that is built from its sources."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils import building
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import nearest
from ansible_collections.dicom.orthanc.plugins.module_utils.lsb import digest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import plugins
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import RELEASE, Orthanc

# As with LSB binaries.
FOLDERS = ("orthanc_lsb_dir", "orthanc_source_dir")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def problems(orthanc: Orthanc) -> Iterator[str]:
    """What a build needs."""
    variables, release = orthanc.variables, orthanc.release
    yield from values.of_inventory("orthanc_source_build_host", orthanc.host)
    tarballs: Mapping[str, Any] = variables["orthanc_source_tarballs"]
    wrong = [problem for name, given in tarballs.items() for problem in _tarball(orthanc, name, given)]
    yield from wrong
    if not release:
        yield "orthanc_version: it is empty, and orthanc_install_method source needs a release, such as '1.12.7'."
    if wrong or any(plugins.problems(orthanc)) or not re.fullmatch(RELEASE, release):
        # That has been told; which tarballs they would need is of no interest.
        return
    wanted = building.targets(
        release, variables["orthanc_plugins"], orthanc.databases[variables["orthanc_database"]], orthanc.plugins
    )
    missing = [name for name in wanted if name not in tarballs]
    if missing:
        yield (
            f"orthanc_source_tarballs: there is no tarball of {' and none of '.join(missing)}; name it, as in"
            f" {{{missing[0]}: {{from: 'https://…/{missing[0]}.tar.gz', sha256: …}}}}."
        )
    if orthanc.probe and not variables["orthanc_source_build_host"] and _builds(orthanc, orthanc.probe):
        yield from _room(orthanc.probe, int(variables["orthanc_source_jobs"]))


def _builds(orthanc: Orthanc, probe: Mapping[str, Any]) -> bool:
    """Tell whether this host may have to build: it does not have the release, nor has the control node."""
    platform = f"{probe['distribution']}-{probe['release']}-{probe['machine']}"
    names = [building.stem(build, platform) for build in orthanc.host.internal("orthanc", "__orthanc_builds") or []]
    built = [os.path.exists(os.path.join(building.cache(), f"{name}.tar.gz")) for name in names]
    return not probe["binary"]["version"] and not (built and all(built))


def _room(probe: Mapping[str, Any], jobs: int) -> Iterator[str]:
    """See whether a host could build at all; how much memory is free is seen when it is about to."""
    memory, disk, compilers = probe["memory"], probe["free_build"], max(jobs, 1)
    needed = building.JOB_MEMORY * compilers
    if memory < needed:
        yield (
            f"orthanc_source_jobs: this host has {memory / 2**30:.1f} GiB of memory, and to compile {compilers} at a"
            f" time takes {needed / 2**30:.1f}; choose fewer, or name an orthanc_source_build_host."
        )
    if disk < building.BUILD_DISK:
        yield (
            f"orthanc_source_build_host: {disk / 2**30:.1f} GiB are free in /var/tmp of this host, and a build takes"
            f" {building.BUILD_DISK / 2**30:.0f}; make room there, or name a host that has more."
        )


def _tarball(orthanc: Orthanc, name: str, given: Any) -> Iterator[str]:
    here = f"orthanc_source_tarballs.{name}"
    known = {plugin["package"] for plugin in orthanc.plugins.values()}
    known |= {package for database in orthanc.databases.values() for package in database["packages"]}
    if name not in known:
        yield f"orthanc_source_tarballs: there is nothing named '{name}' to build.{nearest(name, known)}"
        return
    if not isinstance(given, Mapping):
        yield f"{here}: it has to be a dictionary with from and sha256."
        return
    yield from _fields(here, given, building.FIELDS)
    yield from _source(here, given)
    also = given.get("also", [])
    for number, one in enumerate(also if isinstance(also, list) else []):
        there = f"{here}.also[{number}]"
        if isinstance(one, Mapping):
            yield from _fields(there, one, dict.fromkeys(building.ALSO, str))
            yield from _source(there, one)
        else:
            yield f"{there}: it has to be a dictionary with from and sha256."
    yield from _rest(here, given)


def _fields(here: str, given: Mapping[str, Any], fields: Mapping[str, type]) -> Iterator[str]:
    kinds: Mapping[type, str] = {str: "a text", list: "a list", dict: "a dictionary"}
    for field, value in given.items():
        if field not in fields:
            yield f"{here}: there is no field '{field}' in it.{nearest(field, fields)}"
        elif not isinstance(value, fields[field]):
            yield f"{here}.{field}: it has to be {kinds[fields[field]]}."


def _source(here: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Where a tarball comes from, and what it has to be."""
    origin, sha256 = given.get("from", ""), given.get("sha256", "")
    if not isinstance(origin, str) or not isinstance(sha256, str):
        return
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        yield f"{here}.sha256: this is no SHA-256 of 64 hexadecimal digits."
    elif re.fullmatch(values.URL, origin):
        return
    elif not os.path.isabs(origin):
        yield f"{here}.from: '{origin}' is neither an address (https://, http://) nor an absolute path."
    elif not os.access(origin, os.R_OK) or not os.path.isfile(origin):
        yield f"{here}.from: there is no file {origin} on the machine that runs the playbook, or it cannot be read."
    elif (found := _digest(origin, os.stat(origin).st_mtime_ns)) != sha256.lower():
        yield f"{here}.sha256: {origin} has {found}; find out why before you take another one."


@functools.cache
def _digest(path: str, _time: int) -> str:
    """Each host asks for the same."""
    return digest(path)


def _rest(here: str, given: Mapping[str, Any]) -> Iterator[str]:
    folder, packages, options = given.get("folder", "."), given.get("packages", []), given.get("options", {})
    if isinstance(folder, str) and not re.fullmatch(r"(?!/)(?!.*\.\.)[\w./-]+", folder):
        yield f"{here}.folder: '{folder}' is no folder in a tarball, such as PostgreSQL."
    for package in packages if isinstance(packages, list) else []:
        if not isinstance(package, str) or not _PACKAGE.fullmatch(package):
            yield f"{here}.packages: '{package}' is no name of a package."
    for option, value in options.items() if isinstance(options, dict) else ():
        if not _OPTION.fullmatch(option) or isinstance(value, (list, dict)) or re.search(r"[\r\n]", str(value)):
            yield f"{here}.options.{option}: an option of CMake is a name, and a text, a number or a truth."

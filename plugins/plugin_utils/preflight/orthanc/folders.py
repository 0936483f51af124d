# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders that are not Orthanc's alone."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc

# Folders in which Orthanc sees nothing, which are gone at the next boot, or in which packages have their programs, ...
CLOSED_FOLDERS = (
    *(
        "/bin",
        "/boot",
        "/dev",
        "/home",
        "/lib",
        "/lib64",
        "/proc",
        "/root",
        "/run",
        "/sbin",
        "/sys",
        "/tmp",
        "/usr/bin",
    ),
    *("/usr/lib", "/usr/sbin", "/usr/share", "/var/run", "/var/tmp"),
)
# ... and those of others.
TAKEN_FOLDERS = (
    *(
        "/etc/docker",
        "/etc/mysql",
        "/etc/nginx",
        "/etc/orthanc",
        "/etc/pacs/docker",
        "/etc/pacs/mysql",
        "/etc/pacs/nginx",
        "/etc/pacs/ohif",
    ),
    *("/etc/pacs/postgresql", "/etc/postgresql", "/etc/systemd", "/usr/lib/orthanc", "/usr/share/orthanc"),
    *("/var/lib/docker", "/var/lib/mysql", "/var/lib/pacs", "/var/lib/postgresql", "/var/log"),
)
# Where dumps go unless the inventory says otherwise: below what the toolkit keeps for itself.
DUMPS = "/var/lib/pacs/orthanc/dumps"
# Files and index may share a folder, however they lie: nothing is removed from either.
_IMAGES = {"orthanc_storage_dir", "orthanc_index_dir"}


def problems(orthanc: Orthanc, of_method: tuple[str, ...]) -> Iterator[str]:
    """Folders that are not the toolkit's alone: it sets their owner, and removes files in that of the configuration.

    :param of_method: the variables of folders that the install method has besides.
    """
    names = ("orthanc_config_dir", "orthanc_storage_dir", "orthanc_index_dir", "orthanc_dump_dir", *of_method)
    # Those of the index and of dumps may be left out.
    found = {
        name: str(orthanc.variables[name])
        for name in names
        if orthanc.variables[name] or name not in ("orthanc_index_dir", "orthanc_dump_dir")
        if (name, orthanc.variables[name]) != ("orthanc_dump_dir", DUMPS)
    }
    for name, value in list(found.items()):
        normal = "/" + posixpath.normpath(value).lstrip("/")
        if not re.fullmatch(r"/[^\s:%\\\"']*", value):
            yield f"{name}: '{value}' is not an absolute path without white space, quotes, colon or percent sign."
        elif name == "orthanc_config_dir" and normal == "/etc/orthanc":
            yield f"{name}: /etc/orthanc belongs to the packages, whose files collide with ours; choose another."
        elif normal != value:
            yield f"{name}: write '{value}' as {normal}."
        elif not values.is_folder(value):
            yield f"{name}: a name in it is longer than 255 characters, which no disk takes."
        elif value in values.SYSTEM_FOLDERS or value.startswith(tuple(f"{folder}/" for folder in CLOSED_FOLDERS)):
            yield f"{name}: {value} is a folder of the system or of its users; choose one for Orthanc alone."
        else:
            continue
        del found[name]
    for kind, folder in (orthanc.probe or {}).get("foreign", {}).items():
        variable = f"orthanc_{kind}_dir"
        if found.get(variable) == folder:
            fate = "be removed" if kind == "config" else "become Orthanc's"
            yield (
                f"{variable}: others have something in {folder} on this host, and it would be Orthanc's alone; choose"
                f" another folder, or, if all that is in it may {fate}, `touch {folder}/.pacs`."
            )
    seen: dict[str, str] = {}
    for name, value in found.items():
        others = {folder: other for folder, other in seen.items() if {name, other} != _IMAGES}
        others |= dict.fromkeys(TAKEN_FOLDERS, "what others have there")
        seen.setdefault(value, name)
        if name == "orthanc_config_dir":
            others["/var/lib/orthanc"] = "the service's own folder"
        for folder, whose in others.items():
            common = posixpath.commonpath([value, folder])
            if common in (value, folder):
                where = "is" if value == folder else "holds" if common == value else "is in"
                yield f"{name}: {value} {where} {folder} ({whose}); choose a folder apart from it."

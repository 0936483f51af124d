# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several Orthancs with one index share, and a file system of others with their DICOM files."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils import storage_mount
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.folders import CLOSED_FOLDERS
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc

# What a unit of systemd is called by, without its escapes but for the hyphen.
MOUNT = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# By the width of its column.
IDENTIFIER = 64


def problems(orthanc: Orthanc) -> Iterator[str]:
    variables = orthanc.variables
    if variables["orthanc_storage_mount"]:
        yield from _mounted(variables)
    elif variables["orthanc_storage_mark"]:
        yield (
            "orthanc_storage_mark: it is for a file system that others provide, and orthanc_storage_mount names none;"
            " set that, or take this out."
        )
    others: Mapping[str, Mapping[str, Any]] = orthanc.host.site("site_sharers") or {}
    if len(others) > 1:
        yield from _one_storage(orthanc, others)
        yield from _nodes(orthanc, others)


def _mounted(variables: values.Variables) -> Iterator[str]:
    mount, mark = str(variables["orthanc_storage_mount"]), str(variables["orthanc_storage_mark"])
    storage = str(variables["orthanc_storage_dir"])
    if not MOUNT.fullmatch(mount):
        yield (
            f"orthanc_storage_mount: '{mount}' is no absolute path of letters, digits, dots, underscores and hyphens;"
            " give the one that /etc/fstab has, such as /srv/dicom."
        )
    elif mount in values.SYSTEM_FOLDERS or f"{mount}/".startswith(tuple(f"{one}/" for one in CLOSED_FOLDERS)):
        yield f"orthanc_storage_mount: {mount} is a folder of the system or of its users; mount it elsewhere."
    elif not _is_in(storage, mount):
        yield (
            f"orthanc_storage_dir: {storage} is not on what is mounted at {mount} (orthanc_storage_mount); leave it"
            " out, or choose a folder there."
        )
    if not WORD.fullmatch(mark):
        yield (
            f"orthanc_storage_mark: '{mark}' is no word of up to 64 letters, digits, dots, underscores and hyphens;"
            " give one by which this site knows its archive, such as hospital."
        )
    if _is_in(str(variables["orthanc_index_dir"] or storage), mount):
        yield (
            f"orthanc_index_dir: it is at {mount} (orthanc_storage_mount), and what Orthanc and its plugins keep there"
            " beside the images is of one host alone; leave it out, or choose a folder of this host."
        )
    if variables["orthanc_database_storage"]:
        yield (
            "orthanc_database_storage: the DICOM files go into the database, and orthanc_storage_mount has a place for"
            " them as well; take one of both out."
        )


def _is_in(folder: str, mount: str) -> bool:
    return f"{folder}/".startswith(f"{mount}/")


def shared_folder(mount: Any, mark: Any, storage: Any) -> str:
    """Return what a host's storage is for others: the mark, and the folder from there on; nothing on its own disk."""
    return f"{mark}:{posixpath.relpath(str(storage), str(mount))}" if mount else ""


def _one_storage(orthanc: Orthanc, others: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What several Orthancs on one index would each have for themselves."""
    mine = others[orthanc.host.name]["storage"]
    differ = [name for name, one in others.items() if one["storage"] != mine]
    mounts = any(one["storage"] not in ("", "database") for one in others.values())
    if mine == "" and not mounts:
        if orthanc.host.site("site_database_clustered"):
            yield (
                "orthanc_database_storage: several Orthancs have this index, and a folder of files each, so that none"
                " serves what another one has taken. Set this to true for all; or give all of them one file system, by"
                " orthanc_storage_mount and orthanc_storage_mark."
            )
    elif differ and (mounts or orthanc.host.site("site_database_clustered")):
        kinds = {"": "on its own disk", "database": "in the database"}
        where = "; ".join(f"{name}: {kinds.get(one['storage'], one['storage'])}" for name, one in others.items())
        yield (
            f"orthanc_storage_mark: the Orthancs with this index have their DICOM files in different places ({where}),"
            " so that none serves what another one has taken. Have orthanc_storage_mount and orthanc_storage_mark, and"
            " the folder there, alike for all; or orthanc_database_storage."
        )


def _nodes(orthanc: Orthanc, others: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What each of them has to have for itself, and what one of them alone may do."""
    own = others[orthanc.host.name]
    same = [name for name, one in others.items() if one["identifier"] == own["identifier"] and one is not own]
    if same:
        yield (
            f"orthanc_settings.DatabaseServerIdentifier: '{own['identifier']}' is the one of {' and '.join(same)} as"
            " well, and by it each of several Orthancs with one index finds its own jobs there: one would overwrite"
            " those of the other. Take it out."
        )
    if own["locks"]:
        yield (
            f"orthanc_database_lock: {' and '.join(sorted({*others} - {orthanc.host.name}))} share this database, and"
            " whoever comes second would not start; take it out."
        )
    keepers = [name for name, one in others.items() if one["housekeeper"]]
    if own["housekeeper"] and len(keepers) > 1:
        yield (
            f"orthanc_plugins: {' and '.join(keepers)} have one index, and each would go through all of it with"
            " housekeeper; have that on one of them, rather not on the first, which takes what modalities send."
        )


def identifiers(orthanc: Orthanc) -> Iterator[str]:
    """By this an index on a server knows each Orthanc, also one that is alone."""
    variables = orthanc.variables
    given = str(orthanc.settings.get("DatabaseServerIdentifier") or orthanc.host.name)
    if variables["orthanc_database"] != "sqlite" and len(given.encode()) > IDENTIFIER:
        yield (
            f"orthanc_settings.DatabaseServerIdentifier: '{given}' is longer than {IDENTIFIER} bytes, which the index"
            " has room for; set a shorter one for this host, and leave it then."
        )


def seen(orthanc: Orthanc) -> Iterator[str]:
    """What was found of the file system on this host."""
    variables, probe = orthanc.variables, orthanc.probe or {}
    mount, folder, name = (str(variables[f"orthanc_storage_{one}"]) for one in ("mount", "dir", "mark"))
    if not mount or variables["orthanc_database_storage"]:
        return
    account = [int(number) for number in probe["account"][:2]]
    yield from storage_mount.wrong(probe["storage"], mount, folder, name, account)
    if probe["storage"] and not probe["storage"]["root"] and orthanc.host.has("backup"):
        yield (
            f"orthanc_storage_mount: {probe['storage']['source']} leaves root on this host no rights, and it is root"
            " who makes backups of it. Export it without that (no_root_squash) to this host, or take the host out of"
            " the group 'backup' and have backups made where the file system is."
        )
    if probe["storage"] and not probe["storage"]["mark"] and not probe["storage"]["used"]:
        others = set(orthanc.host.site("site_sharers") or ())
        left = others - set(orthanc.host.site("ansible_play_hosts_all") or others)
        if left:
            yield (
                f"orthanc_storage_mount: {folder} of {probe['storage']['source']} is empty and without a mark, and"
                f" {' and '.join(sorted(left))} may have the archive of this site elsewhere. Have the same file system"
                " mounted on all; or, where there are no images yet, run for all hosts."
            )

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an archive would do with new images that nobody may want: remove older ones, send them on."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from .client import Archive, Ended
from .modality import SCHEME
from .streams import MEGABYTE, megabytes

if TYPE_CHECKING:
    from .header import Header
    from .load import Options

UNLIMITED = 1 << 62
ROUTERS = ("java", "python")


class Reserve:
    """What fits into the archive before it would remove older images."""

    def __init__(self, size: int = UNLIMITED, patients: int = UNLIMITED, archive: Archive | None = None) -> None:
        self._size, self._patients, self._archive = size, patients, archive
        self._lock = threading.Lock()
        self._known: set[str] = set()

    def take(self, size: int, header: Header) -> None:
        """Take room for an image. :raises Ended: where there is none."""
        if self._archive is None:
            return
        if self._patients != UNLIMITED:
            self._patient(self._archive, header)
        with self._lock:
            self._size -= size
            if self._size < 0:
                raise Ended(
                    "MaximumStorageSize is reached: with one image more, Orthanc would remove the oldest patients"
                )

    def _patient(self, archive: Archive, header: Header) -> None:
        name = header.orthanc_id(0) if header.exact else header.patient
        with self._lock:
            if name in self._known:
                return
            self._known.add(name)
        if header.exact and archive.get(f"/patients/{name}").status == 200:
            return
        with self._lock:
            self._patients -= 1
            if self._patients < 0:
                raise Ended(
                    "MaximumPatientCount is reached: with one patient more, Orthanc would remove the oldest ones"
                )


def reserve(archive: Archive, system: dict[str, Any], options: Options, there: int) -> Reserve:
    """Look at what would become of older images and of new ones, and return how much may be sent.

    :param there: how many bytes of the input earlier runs have brought.
    :raises Ended: where the import should not even begin.
    """
    known = options.settings
    settings = system | (known or {})
    if "routing" not in options.accepted:
        plugins = archive.get("/plugins").json() or []
        active = [name for name in ("LuaScripts", "PythonScript") if settings.get(name)]
        # Without the settings nobody can tell what these do.
        active += [f"the plugin {name}" for name in ROUTERS if name in plugins and (known is None or name == "java")]
        if active:
            raise Ended(f"{' and '.join(active)} may send the images on; accept routing, if that is wanted")
    if "recycling" in options.accepted or settings.get("MaximumStorageMode") == "Reject":
        return Reserve()
    limit, patients = (int(settings.get(name) or 0) for name in ("MaximumStorageSize", "MaximumPatientCount"))
    if not limit and not patients:
        return Reserve()
    if any(source.startswith(SCHEME) for source in options.sources):
        raise Ended(
            "MaximumStorageSize or MaximumPatientCount is set, and nobody knows how much a modality will send: Orthanc"
            " might remove the oldest patients; accept recycling, if that is wanted"
        )
    held = archive.get("/statistics").json() or {}
    left = limit * MEGABYTE - int(held.get("TotalDiskSize", 0)) if limit else UNLIMITED
    needed = sum(map(size_of, options.sources)) - there if limit else 0
    if needed > left:
        raise Ended(
            f"MaximumStorageSize is {limit}, and {megabytes(max(left, 0))} are left of it for {megabytes(needed)}:"
            " Orthanc would remove the oldest patients; accept recycling, if that is wanted"
        )
    return Reserve(left, patients - int(held.get("CountPatients", 0)) if patients else UNLIMITED, archive)


def size_of(path: bytes) -> int:
    """Return how much lies at a path, archives as they are."""
    if not os.path.isdir(path):
        return os.path.getsize(path) if os.path.exists(path) else 0
    size = 0
    for folder, _, files in os.walk(path):
        for file in files:
            # Some go away meanwhile.
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(folder, file)).st_size
    return size

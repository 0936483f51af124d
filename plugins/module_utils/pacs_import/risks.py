# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an archive would do with new images that nobody may want: remove older ones, send them on."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from .client import Archive, Ended
from .modality import SCHEME
from .streams import MEGABYTE, megabytes

if TYPE_CHECKING:
    from .header import Header
    from .load import Options

UNLIMITED = 1 << 62
# What modalities send meanwhile takes room, too: after so many seconds or images, and wherever a tenth of what was left
# is taken, it is looked at again.
SECONDS, IMAGES = 60.0, 500
ROUTERS = ("java", "python")


class Reserve:
    """What fits into the archive before it would remove older images.

    :param size: MaximumStorageSize in bytes, 0 for none.
    :param patients: MaximumPatientCount, 0 for none.
    :param archive: none where nothing is ever removed.
    """

    def __init__(self, size: int = 0, patients: int = 0, archive: Archive | None = None) -> None:
        self._limits, self._archive = (size, patients), archive
        self._size = self._patients = UNLIMITED
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._looked, self._taken, self._tenth = 0.0, 0, 0
        if archive:
            self._look(archive)

    def left(self) -> int:
        """Return how many bytes fit."""
        return self._size

    def _look(self, archive: Archive) -> None:
        """Ask how full it is; more room than before is not counted on. :raises Ended: where it does not tell."""
        answer = archive.get("/statistics")
        held = answer.json()
        self._looked, self._taken = time.monotonic(), 0
        size, patients = self._limits
        try:
            if size:
                self._size = min(self._size, size - int(held["TotalDiskSize"]))
            if patients:
                self._patients = min(self._patients, patients - int(held["CountPatients"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Ended(f"the archive does not tell how full it is: {answer.reason}") from error
        self._tenth = self._size * 9 // 10

    def take(self, size: int, header: Header) -> None:
        """Take room for an image. :raises Ended: where there is none."""
        if self._archive is None:
            return
        with self._lock:
            self._taken += 1
            if self._taken > IMAGES or self._size < self._tenth or time.monotonic() - self._looked > SECONDS:
                self._look(self._archive)
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
        answer = archive.get("/plugins")
        plugins = answer.json()
        if answer.status != 200 or not isinstance(plugins, list):
            raise Ended(
                f"the archive does not tell which plugins it has ({answer.reason}), and these may send the images on;"
                " accept routing, if that is wanted"
            )
        active = [name for name in ("LuaScripts", "PythonScript") if settings.get(name)]
        # Without the settings nobody can tell what these do.
        active += [f"the plugin {name}" for name in ROUTERS if name in plugins and (known is None or name == "java")]
        if active:
            raise Ended(f"{' and '.join(active)} may send the images on; accept routing, if that is wanted")
    if "recycling" in options.accepted or settings.get("MaximumStorageMode") == "Reject":
        return Reserve()
    if known is None and not {"MaximumStorageSize", "MaximumPatientCount"} <= system.keys():
        raise Ended(
            f"{archive.url} does not tell whether it removes the oldest patients once it is full, as Orthanc does from"
            " 1.12 on; accept recycling, if its configuration has neither MaximumStorageSize nor MaximumPatientCount"
        )
    limit, patients = (int(settings.get(name) or 0) for name in ("MaximumStorageSize", "MaximumPatientCount"))
    if not limit and not patients:
        return Reserve()
    if any(source.startswith(SCHEME) for source in options.sources):
        raise Ended(
            "MaximumStorageSize or MaximumPatientCount is set, and nobody knows how much a modality will send: Orthanc"
            " might remove the oldest patients; accept recycling, if that is wanted"
        )
    made = Reserve(limit * MEGABYTE, patients, archive)
    left = made.left()
    needed = sum(map(size_of, options.sources)) - there if limit else 0
    if needed > left:
        raise Ended(
            f"MaximumStorageSize is {limit}, and {megabytes(max(left, 0))} are left of it for {megabytes(needed)}:"
            " Orthanc would remove the oldest patients; accept recycling, if that is wanted"
        )
    return made


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

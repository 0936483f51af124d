# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bytes of an image, in memory, or in a file where they are many."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO

from . import header

# How much of a large file is looked at for its identifiers: private elements may hold pictures before them.
HEADS = (1 << 16, 1 << 24)


def md5(data: bytes = b"") -> Any:
    """Begin the sum by which Orthanc knows its files."""
    return hashlib.md5(data, usedforsecurity=False)


class Content:
    """The bytes of an image.

    :param release: called once it is not needed any more.
    """

    def __init__(
        self, data: bytes = b"", file: BinaryIO | None = None, size: int = 0, release: Callable[[], None] = lambda: None
    ) -> None:
        self._data, self._file, self._release = data, file, release
        # Of a file that is changed, what comes instead of its beginning.
        self._head, self._skipped = b"", 0
        self._stamp = _stamp(file)
        self.size = size if file else len(data)

    def header(self) -> header.Header:
        """Read the identifiers. :raises header.Broken: if there are none to read."""
        if not self._file:
            return header.read(self._data)
        for size in HEADS:
            self._file.seek(0)
            try:
                return header.read(self._file.read(size))
            except header.Broken:
                continue
        raise header.Broken

    def beginning(self) -> bytes:
        """Return as much of it as is looked at for identifiers."""
        if not self._file:
            return self._data
        self._file.seek(0)
        return self._file.read(HEADS[-1])

    def rename(self, patient: str) -> None:
        """Give it another PatientID. :raises header.Broken: where it has none that can be replaced."""
        if not self._file:
            self._data = header.with_patient(self._data, patient)
            self.size = len(self._data)
            return
        for size in HEADS:
            self._file.seek(0)
            head = self._file.read(size)
            with contextlib.suppress(header.Broken):
                self._head, self._skipped = header.with_patient(head, patient), len(head)
                self.size += len(self._head) - self._skipped
                return
        raise header.Broken

    def md5(self) -> str:
        """Return the sum of all bytes."""
        if not self._file:
            return str(md5(self._data).hexdigest())
        self._file.seek(self._skipped)
        made = md5(self._head)
        while part := self._file.read(1 << 20):
            made.update(part)
        return str(made.hexdigest())

    def body(self) -> bytes | Exactly:
        """Return it as the body of a request, from its beginning."""
        if not self._file:
            return self._data
        self._file.seek(self._skipped)
        return Exactly(self._file, self.size, self._head)

    def touched(self) -> bool:
        """Tell whether somebody has written to it since it was opened."""
        return _stamp(self._file) != self._stamp

    def close(self) -> None:
        """Give back what it holds."""
        release, self._release = self._release, lambda: None
        self._data = b""
        release()

    # What a zip in an archive is read by.
    def __enter__(self) -> BinaryIO:
        file = self._file or io.BytesIO(self._data)
        file.seek(0)
        return file

    def __exit__(self, *_: object) -> None:
        self.close()


def _stamp(file: BinaryIO | None) -> tuple[int, int]:
    """Return when a file was written to, and its size."""
    if not file:
        return 0, 0
    status = os.fstat(file.fileno())
    return status.st_mtime_ns, status.st_size


class Changed(Exception):
    """A file has less bytes than it had."""


class Exactly(io.RawIOBase):
    """So many bytes of a file, neither more, where it grows, nor less, without a word.

    :param first: what comes before them, and is counted too.
    """

    def __init__(self, file: BinaryIO, size: int, first: bytes = b"") -> None:
        super().__init__()
        self._file, self._left, self._first = file, size, first

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._left:
            return b""
        wanted = min(size, self._left) if size >= 0 else self._left
        part, self._first = self._first[:wanted], self._first[wanted:]
        part = part or self._file.read(wanted)
        if not part:
            raise Changed("it became shorter while it was read")
        self._left -= len(part)
        return part

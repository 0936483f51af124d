# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams out of archives: what they are by their first bytes, inflated as they are read, within bounds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO

from . import header

MEGABYTE = 1 << 20
# What an archive may hold, all that lies in it included: images without content shrink by a factor of a thousand, and
# of such there are some megabytes.
FLOOR, RATIO = 4096 * MEGABYTE, 200
# What xz and zstd may keep in memory to inflate, and what a tar may have before a member.
DICTIONARY, LONGEST_NAME = 256 * MEGABYTE, MEGABYTE
AFTER = "something follows its end, as where archives were joined, or a block was lost; unpack it, and import that"
HEAD = 1024
# By their first bytes; a tar is found by the sum of its first block.
KINDS = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    # One that was to have several parts.
    b"PK\x07\x08": "zip",
    b"PK00": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    # What some write before it.
    b"\x50\x2a\x4d\x18": "zstd",
}
# What is read nowhere here, and may hold images.
FOREIGN = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x1f\x9d": "packed by compress",
    b"\x04\x22\x4d\x18": "packed by lz4",
    b"\x02\x21\x4c\x18": "packed by lz4",
    b"LZIP": "packed by lzip",
    b"\x89LZO\0": "packed by lzop",
    b"MSCF\0\0\0\0": "a cabinet",
    b"070701": "a cpio archive",
    b"070702": "a cpio archive",
    b"070707": "a cpio archive",
}
# Where a file has this, it is the image of a disc.
DISC, DISC_AT = b"CD001", 32769


class Refused(Exception):
    """What cannot or must not be read; the message says why."""


# What the libraries raise at what is damaged.
DAMAGE = (EOFError, OSError, lzma.LZMAError, struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error, ValueError)


def ends_as_zip(file: Any) -> bool:
    """Tell whether a file that begins as nothing known ends as a zip: as a program does that unpacks itself."""
    size: int = file.seek(0, os.SEEK_END)
    # Its last record, and a comment, whose length stands there.
    file.seek(max(0, size - 22 - 0xFFFF))
    tail: bytes = file.read(22 + 0xFFFF)
    file.seek(0)
    place = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - 18))
    return place >= 0 and place + 22 + int.from_bytes(tail[place + 20 : place + 22], "little") == len(tail)


def kind(head: bytes) -> str:
    """Tell what begins with these bytes: dicom, zip, tar, how it is compressed, or nothing that is known."""
    if header.is_dicom(head):
        return "dicom"
    for magic, name in KINDS.items():
        if head.startswith(magic):
            return name
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return ""
    return "tar"


class Room:
    """So many bytes, of which parts are taken and given back, so that what waits for the server stays bounded."""

    def __init__(self, size: int) -> None:
        self.size, self.used, self.kept = size, 0, 0
        self._free = threading.Condition()

    def take(self, size: int, keep: bool = False, before: int = 0) -> None:
        """Wait until there is room, and take it.

        :param keep: whether it is given back by the caller alone, who may need more before.
        :param before: what the same has taken, and does not give back before it has all.
        :raises Refused: where there will never be enough.
        """
        with self._free:
            kept = self.kept - before if keep else self.kept
            if kept + before + size > self.size:
                raise Refused(
                    f"it needs {megabytes(before + size)} or more of a spool of {megabytes(self.size - kept)}"
                )
            self._free.wait_for(lambda: self.used + size <= self.size)
            self.used += size
            self.kept += size if keep else 0

    def give(self, size: int, kept: bool = False) -> None:
        """Give room back."""
        with self._free:
            self.used -= size
            self.kept -= size if kept else 0
            self._free.notify_all()


class Limit:
    """How much may come out of an archive and of all that lies in it, and which names were given there."""

    def __init__(self, size: int) -> None:
        self.size = self.left = size
        # By their sums, since an archive may have millions.
        self._named: dict[int, int] = {}

    def name(self, name: bytes) -> bytes:
        """Return a name under which nothing else came out of it: archives may have one several times."""
        first, given = hash(name), name
        while hash(given) in self._named:
            self._named[first] += 1
            given = name + b"#%d" % self._named[first]
        self._named[hash(given)] = 1
        return given

    def charge(self, size: int) -> None:
        """Count bytes that came out. :raises Refused: once they are too many."""
        self.left -= size
        if self.left < 0:
            raise Refused(f"more than {megabytes(self.size)} come out of it, as out of an archive that is made to harm")


class Counted(io.RawIOBase):
    """A stream whose first bytes are known before it is read, and whose bytes are counted where they were inflated."""

    def __init__(self, source: Any, limit: Limit | None = None) -> None:
        super().__init__()
        self._source, self._limit = source, limit
        self._rest = self.head = b""
        while len(self.head) < HEAD:
            part = self._more(HEAD - len(self.head))
            if not part:
                break
            self.head += part
        self._rest = self.head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._rest[: len(buffer)]
        self._rest = self._rest[len(part) :]
        part = part or self._more(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def _more(self, size: int) -> bytes:
        part = bytes(self._source.read(size))
        if self._limit:
            self._limit.charge(len(part))
        return part


class _Xz(io.RawIOBase):
    """Inflates xz with a bound on its memory, which the library's own class does not take."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self._source = source
        self._inflate = lzma.LZMADecompressor(memlimit=DICTIONARY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = b""
        while not part:
            if self._inflate.eof:
                # Several streams may follow one another, with zeros between them.
                rest = self._inflate.unused_data.lstrip(b"\0") or self._source.read(MEGABYTE).lstrip(b"\0")
                if not rest:
                    return 0
                self._inflate = lzma.LZMADecompressor(memlimit=DICTIONARY)
            else:
                rest = self._source.read(MEGABYTE // 16) if self._inflate.needs_input else b""
                if self._inflate.needs_input and not rest:
                    raise EOFError("it ends in the middle")
            part = self._inflate.decompress(rest, len(buffer))
        buffer[: len(part)] = part
        return len(part)


def _zstd(source: Any) -> Any:
    """Inflate zstd by the library that Python before 3.14 does not bring."""
    try:
        import zstandard
    except ImportError:
        raise Refused("zstd is read with the package python3-zstandard, which this machine does not have") from None
    inflate: Any = zstandard.ZstdDecompressor(max_window_size=DICTIONARY)
    frames = _Frames(source)
    return _Zstd(inflate.stream_reader(frames, read_across_frames=True), frames, zstandard.ZstdError)


class _Frames:
    """Follows the frames of zstd that are read through it (RFC 8878): the library ends in silence within one."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._inside = False
        self._follower = self._follow()
        self._skip, self._wanted = next(self._follower)
        self._had = b""

    @property
    def whole(self) -> bool:
        """Whether what was read ends where a frame does."""
        return not (self._inside or self._skip or self._had)

    def read(self, size: int = -1) -> bytes:
        part = bytes(self._source.read(size))
        place = 0
        while place < len(part):
            if self._skip:
                step = min(self._skip, len(part) - place)
                self._skip -= step
            else:
                step = self._wanted - len(self._had)
                self._had += part[place : place + step]
                if len(self._had) == self._wanted:
                    (self._skip, self._wanted), self._had = self._follower.send(self._had), b""
            place += step
        return part

    def _follow(self) -> Generator[tuple[int, int], bytes, None]:
        """Ask, again and again, for so many bytes after so many that do not matter."""
        skip = 0
        while True:
            self._inside = False
            magic = yield skip, 4
            self._inside = True
            if magic.endswith(b"\x2a\x4d\x18"):
                skip = int.from_bytes((yield 0, 4), "little")
                continue
            (about,) = yield 0, 1
            single = about >> 5 & 1
            skip = 1 - single + (0, 1, 2, 4)[about & 3] + (single, 2, 4, 8)[about >> 6]
            last = 0
            while not last:
                block = int.from_bytes((yield skip, 3), "little")
                last = block & 1
                # One of a single byte that is repeated has that alone.
                skip = 1 if block >> 1 & 3 == 1 else block >> 3
            skip += 4 if about & 4 else 0


class _Zstd(io.RawIOBase):
    """Tells damage of zstd by exceptions that are known here."""

    def __init__(self, inflate: Any, frames: _Frames, damage: type[Exception]) -> None:
        super().__init__()
        self._inflate, self._frames, self._damage = inflate, frames, damage

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            size = int(self._inflate.readinto(buffer))
        except self._damage as error:
            raise OSError(str(error)) from error
        if not size and not self._frames.whole:
            raise EOFError("it ends in the middle")
        return size


INFLATE: dict[str, Callable[[Any], Any]] = {
    "gzip": lambda source: gzip.GzipFile(fileobj=source),
    "bzip2": bz2.BZ2File,
    "xz": _Xz,
    "zstd": _zstd,
}


class _Watched:
    """What a tar is read from. It knows what was read last, and how far may be read."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._place, self._last = 0, b""
        self.limit: int | None = LONGEST_NAME

    def read(self, size: int) -> bytes:
        part = bytes(self._source.read(size))
        self._place += len(part)
        self._last = (self._last + part)[-4 * tarfile.RECORDSIZE :]
        if self.limit is not None and self._place > self.limit + 2 * tarfile.RECORDSIZE:
            raise Refused(f"a name in it has more than {megabytes(LONGEST_NAME)}")
        return part

    def ends(self, place: int) -> bool:
        """Tell whether there is what ends a tar at a place that was read lately: a block of zeros."""
        start = place - self._place + len(self._last)
        return start >= 0 and self._last[start : start + tarfile.BLOCKSIZE] == bytes(tarfile.BLOCKSIZE)

    def empty(self, place: int) -> bool:
        """Read all that is left, and tell whether it is zeros from a place on that was read lately."""
        part = self._last[place - self._place + len(self._last) :]
        while not part.strip(b"\0"):
            part = bytes(self._source.read(MEGABYTE))
            if not part:
                return True
        return False


def members(stream: BinaryIO) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Go through a tar as a stream; what is not read of a member before the next one is asked for is left out.

    :raises Refused: where a name has a length that no file has; the library reads it into memory.
    :raises EOFError: also where a later block is damaged or missing; the library ends there in silence. Behind its end
        nothing else is read, so that what it lies in never came to the sums at its own end.
    """
    watched: Any = _Watched(stream)
    with tarfile.open(fileobj=watched, mode="r|", encoding="utf-8", errors="surrogateescape") as archive:
        while True:
            # From where the next member begins; names come before it.
            watched.limit = archive.offset + LONGEST_NAME
            info = archive.next()
            watched.limit = None
            if info is None:
                break
            # It would keep them all.
            archive.members = []  # type: ignore[attr-defined]
            yield archive, info
        if not watched.ends(archive.offset):
            raise EOFError("what follows is damaged or missing")
        if not watched.empty(archive.offset):
            raise EOFError(AFTER)


def megabytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / MEGABYTE:,.0f} MB" if size >= 10 * MEGABYTE else f"{size:,} bytes"

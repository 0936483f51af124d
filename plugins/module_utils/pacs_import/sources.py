# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where images come from: folders, archives within archives, a DICOMDIR. Nothing is unpacked, no link followed."""

from __future__ import annotations

import itertools
import os
import stat
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from . import header
from .content import Content
from .fates import ARCHIVE, LEFT_OUT, NO_DICOM, REJECTED, UNREADABLE
from .streams import (
    DAMAGE,
    DISC,
    DISC_AT,
    FLOOR,
    FOREIGN,
    INFLATE,
    MEGABYTE,
    RATIO,
    Counted,
    Limit,
    Refused,
    Room,
    ends_as_zip,
    kind,
    members,
)

# By these a file is opened as an archive at once; any other is, once it was seen that it is one.
ARCHIVES = (b".zip", b".tar", b".tgz", b".gz", b".tbz", b".tbz2", b".bz2", b".txz", b".xz", b".tzst", b".zst")
# What is larger goes through a file.
SMALL = 8 * MEGABYTE
# A DICOMDIR has some 500 bytes for an image.
LARGEST_LIST = 512 * MEGABYTE
# So deep archives lie in one another. There are some that hold themselves.
DEEPEST = 4
# A file is read again so many times when it changes meanwhile.
ATTEMPTS = 3
IMAGE_OF_DISC = "the image of a disc; mount it, and import from there"
METHOD = "packed by a method that is not read here; unpack the zip, and import what was in it"
LINK = "a link, and none is followed; name what it leads to"
OUTSIDE = "it leads outside of its folder"


@dataclass
class Item:
    """A file: in a folder, by its path, or out of an archive, with its content; or its fate, where that is known.

    ``weight`` is how much of the input was gone through with it, in bytes. What another archive has is known by the
    last four, as in the journal.
    """

    name: bytes
    size: int = 0
    changed: int = 0
    weight: int = 0
    path: bytes = b""
    content: Content | None = None
    fate: str = ""
    reason: str = ""
    instance: str = ""
    series: str = ""
    study: str = ""
    patient: str = ""


# Tells of a file by name, size and time whether it need not be looked at again.
Known = Callable[[bytes, int, int], bool]


class Sources:
    """All that is to be imported.

    :param spool: the folder, on a disk, for what is too large for memory.
    :param known: what was settled before; no content is read of it.
    """

    def __init__(self, spool: str, spool_size: int, memory: int, known: Known = lambda *_: False) -> None:
        self._folder, self._known = spool, known
        self._spool, self._memory = Room(spool_size), Room(memory)
        # Two that are not complete could wait for each other's room for ever.
        self._one = threading.Lock()
        # Archives that do not look like one, found by whoever has read them.
        self.found: list[bytes] = []

    def walk(self, paths: list[bytes]) -> Iterator[Item]:
        """Go through all of them."""
        for path in paths:
            yield from self._source(path)

    def late(self) -> Iterator[Item]:
        """Go through what turned out to be an archive."""
        while self.found:
            yield from self._archive_file(self.found.pop())

    def _source(self, path: bytes) -> Iterator[Item]:
        try:
            status = os.stat(path)
        except OSError as error:
            yield Item(path, fate=UNREADABLE, reason=cause(error))
            return
        if stat.S_ISDIR(status.st_mode):
            yield from self._walk(path)
        elif os.path.basename(path).upper() == b"DICOMDIR":
            yield from self._medium(path, everything=False)
        else:
            # A link that is named is followed, as one to a folder is.
            yield from self._archive_file(path, os.path.realpath(path))

    def _walk(self, top: bytes) -> Iterator[Item]:
        """Go through a folder, its own files first, with one open folder at a time."""
        left = [top]
        while left:
            folder = left.pop()
            below = []
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            below.append(entry.path)
                        else:
                            yield from self._entry(entry)
            except OSError as error:
                yield Item(folder, fate=UNREADABLE, reason=cause(error))
            left += sorted(below, reverse=True)

    def _entry(self, entry: os.DirEntry[bytes]) -> Iterator[Item]:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            yield Item(entry.path, fate=UNREADABLE, reason=cause(error))
            return
        item = Item(entry.path, status.st_size, status.st_mtime_ns, status.st_size, entry.path)
        if entry.is_symlink():
            item.fate, item.reason = LEFT_OUT, LINK
        elif not stat.S_ISREG(status.st_mode):
            item.fate, item.reason = NO_DICOM, "no file, but a pipe, a socket or a device"
        elif entry.name.lower().endswith(ARCHIVES):
            yield from self._archive_file(entry.path)
            return
        elif entry.name.upper() == b"DICOMDIR":
            yield from self._medium(entry.path, everything=True)
        yield item

    def _medium(self, path: bytes, everything: bool) -> Iterator[Item]:
        """Look for the files that a DICOMDIR names.

        :param everything: whether the folder is gone through anyway, so that only those are told which are not there.
        """
        try:
            with open(path, "rb") as file:
                named = header.referenced(file.read(LARGEST_LIST))
        except (OSError, header.Broken) as error:
            reason = cause(error) if isinstance(error, OSError) else f"a DICOMDIR that cannot be read: {error}"
            yield Item(path, fate=UNREADABLE, reason=reason)
            return
        folder = os.path.dirname(path)
        for name in dict.fromkeys(named):
            inside = b".." not in name.split(b"/") and not name.startswith(b"/") and name
            there = locate(folder, name) if inside else None
            if there and not os.path.realpath(there).startswith(os.path.realpath(folder) + b"/"):
                # By a link.
                there, inside = None, b""
            if there is None:
                reason = "a DICOMDIR names it, and it is not there" if inside else OUTSIDE
                yield Item(folder + b"/" + name, fate=UNREADABLE if inside else REJECTED, reason=reason)
            elif not everything:
                yield from self._regular(there)

    def _regular(self, path: bytes) -> Iterator[Item]:
        try:
            status = os.lstat(path)
        except OSError as error:
            yield Item(path, fate=UNREADABLE, reason=cause(error))
            return
        yield Item(path, status.st_size, status.st_mtime_ns, status.st_size, path)

    def _archive_file(self, path: bytes, real: bytes = b"") -> Iterator[Item]:
        """Go through a file that may be an archive; it is handed on as it is where it is none.

        :param real: where it lies, if that is not what it is called.
        """
        item = Item(path, path=real or path)
        try:
            number = os.open(item.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            yield Item(path, fate=UNREADABLE, reason=cause(error))
            return
        with os.fdopen(number, "rb") as file:
            status = os.fstat(number)
            item.size = item.weight = status.st_size
            item.changed = status.st_mtime_ns
            if not stat.S_ISREG(status.st_mode):
                item.fate, item.reason = NO_DICOM, "no file, but a pipe, a socket or a device"
                yield item
                return
            try:
                form = kind(_first(file)) or ("zip" if ends_as_zip(file) else "")
            except OSError as error:
                item.fate, item.reason = UNREADABLE, cause(error)
            if item.fate or form in ("dicom", ""):
                yield item
                return
            done = 0
            limit = Limit(max(FLOOR, RATIO * status.st_size))
            for member in self._archive(file, path, status.st_mtime_ns, limit, 1):
                if member.name == path:
                    # What is wrong with it as a whole.
                    item.fate, item.reason = member.fate, member.reason
                    continue
                now = file.tell()
                member.weight, done = max(0, now - done), max(now, done)
                yield member
            item.weight = max(0, status.st_size - done)
            item.path, item.fate = b"", item.fate or ARCHIVE
            yield item

    def _archive(self, file: Any, name: bytes, changed: int, limit: Limit, depth: int) -> Iterator[Item]:
        """Go through an archive, whatever its kind, and tell what is wrong with it."""
        try:
            if depth > DEEPEST:
                raise Refused("archives lie in one another without end")
            stream = file if isinstance(file, Counted) else None
            head = stream.head if stream else _first(file)
            form = kind(head)
            if form == "zip" or not form:
                yield from self._zip(file, name, changed, limit, depth)
            elif form == "tar":
                yield from self._tar(file, name, changed, limit, depth)
            else:
                inside = Counted(INFLATE[form](file), limit)
                if kind(inside.head) == "tar":
                    yield from self._tar(inside, name, changed, limit, depth)
                else:
                    yield from self._member(inside, limit.name(name + b"/" + _stem(name)), -1, changed, limit, depth)
        except Refused as error:
            yield Item(name, 0, changed, fate=REJECTED, reason=str(error))
        except DAMAGE as error:
            yield Item(
                name, 0, changed, fate=REJECTED, reason=f"the archive is damaged: {error or 'it ends too early'}"
            )
        except (RuntimeError, LookupError, OverflowError) as error:
            # Among them is that a format is newer than the library.
            yield Item(name, 0, changed, fate=REJECTED, reason=f"the archive cannot be unpacked: {error}")

    def _tar(self, file: Any, name: bytes, changed: int, limit: Limit, depth: int) -> Iterator[Item]:
        for archive, info in members(file):
            if info.isdir():
                continue
            inside = limit.name(name + b"/" + info.name.encode("utf-8", "surrogateescape"))
            item = Item(inside, info.size, changed)
            if info.issym() or info.islnk():
                item.fate, item.reason = LEFT_OUT, "a link in an archive"
                yield item
            elif not info.isfile():
                item.fate, item.reason = NO_DICOM, "no file, but a pipe or a device"
                yield item
            elif not self._known(inside, info.size, changed):
                # Holes come out of nothing.
                content = Counted(archive.extractfile(info), limit if info.issparse() else None)
                yield from self._member(content, inside, info.size, changed, limit, depth)

    def _zip(self, file: Any, name: bytes, changed: int, limit: Limit, depth: int) -> Iterator[Item]:
        if isinstance(file, Counted):
            # Its directory stands at its end.
            with self.spooled(_parts(file), keep=True) as spooled:
                yield from self._zip(spooled, name, changed, limit, depth)
            return
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                coding = "utf-8" if info.flag_bits & 0x800 else "cp437"
                # There are some without a name.
                if info.filename.endswith("/"):
                    continue
                inside = limit.name(name + b"/" + info.orig_filename.encode(coding))
                if self._known(inside, info.file_size, changed):
                    continue
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not info.flag_bits & 1:
                    # The library inflates others without a bound.
                    yield Item(inside, info.file_size, changed, fate=REJECTED, reason=METHOD)
                    continue
                try:
                    with archive.open(info) as content:
                        counted = Counted(content, limit)
                        yield from self._member(counted, inside, info.file_size, changed, limit, depth)
                except (RuntimeError, NotImplementedError) as error:
                    reason = "it is encrypted" if info.flag_bits & 1 else f"it cannot be unpacked: {error}"
                    yield Item(inside, info.file_size, changed, fate=REJECTED, reason=reason)
                except DAMAGE as error:
                    reason = f"it is damaged: {error or 'it ends too early'}"
                    yield Item(inside, info.file_size, changed, fate=REJECTED, reason=reason)

    def _member(
        self, stream: Counted, name: bytes, size: int, changed: int, limit: Limit, depth: int
    ) -> Iterator[Item]:
        """Take a file out of an archive. :param size: what it should have; -1 if nobody knows."""
        form = kind(stream.head)
        if form not in ("dicom", ""):
            yield from self._archive(stream, name, changed, limit, depth + 1)
            return
        item = Item(name, max(size, 0), changed)
        if form == "":
            item.fate, item.reason = judge(_read(stream, DISC_AT + len(DISC)))
            yield item
            return
        try:
            item.content = self._memorised(stream, size) if 0 <= size <= SMALL else self.spooled(_parts(stream))
        except Refused as error:
            if limit.left < 0:
                raise
            item.fate, item.reason = REJECTED, str(error)
        else:
            if size >= 0 and item.content.size != size:
                item.content.close()
                item.content = None
                raise EOFError("it ends too early")
            item.size = item.content.size
        yield item

    def _memorised(self, stream: Counted, size: int) -> Content:
        self._memory.take(size)
        try:
            data = stream.read()
        except BaseException:
            self._memory.give(size)
            raise
        return Content(data or b"", release=lambda: self._memory.give(size))

    def spooled(self, parts: Iterable[bytes], keep: bool = False) -> Content:
        """Write what comes to a file without a name, within what the spool has room for."""
        parts, begun, size = iter(parts), [], 0
        for part in parts:
            begun.append(part)
            size += len(part)
            if size > SMALL:
                # Until here, several are fetched at a time.
                break
        try:
            file: BinaryIO = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # it is closed with the content
        except OSError as error:
            raise Refused(f"the spool cannot be written: {cause(error)}: {self._folder}") from error
        taken = 0

        def release() -> None:
            file.close()
            self._spool.give(taken, keep)

        try:
            with self._one:
                for part in itertools.chain(begun, parts):
                    self._spool.take(len(part), keep, taken)
                    taken += len(part)
                    try:
                        file.write(part)
                        file.flush()
                    except OSError as error:
                        raise Refused(f"the spool in {self._folder} cannot be written: {cause(error)}") from error
        except BaseException:
            release()
            raise
        return Content(file=file, size=taken, release=release)

    def read(self, item: Item) -> Content | None:
        """Read a file of a folder; nothing where it is no image, and then its fate stands in the item.

        A file that changes meanwhile is read again, and given up where it does not come to rest.
        """
        for _ in range(ATTEMPTS):
            try:
                # Neither a link that came meanwhile is followed, nor a pipe waited for.
                number = os.open(item.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                item.fate, item.reason = UNREADABLE, cause(error)
                return None
            file: Any = os.fdopen(number, "rb", buffering=0)
            try:
                before = os.fstat(number)
                head = file.read(DISC_AT + len(DISC)) or b""
                form = kind(head)
                if form != "dicom":
                    form = form or ("zip" if head and ends_as_zip(file) else "")
                    if form:
                        self.found.append(item.path)
                    item.fate, item.reason = ("", "") if form else judge(head)
                    return None
                item.size, item.changed = before.st_size, before.st_mtime_ns
                if before.st_size > SMALL:
                    content = Content(file=file, size=before.st_size, release=file.close)
                    file = None
                    return content
                data = head + (file.readall() or b"")
                after = os.fstat(number)
                if len(data) == before.st_size == after.st_size and before.st_mtime_ns == after.st_mtime_ns:
                    return Content(data)
            except OSError as error:
                item.fate, item.reason = UNREADABLE, cause(error)
                return None
            finally:
                if file is not None:
                    file.close()
        item.fate, item.reason = UNREADABLE, "it changes while it is read"
        return None


def _parts(stream: Counted) -> Iterator[bytes]:
    while part := stream.read(MEGABYTE):
        yield part


def _read(stream: Counted, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := stream.read(size - len(data))):
        data += part
    return data


def judge(head: bytes) -> tuple[str, str]:
    """Tell what becomes of a file that is neither DICOM nor an archive that is read here."""
    if not head:
        return NO_DICOM, "it is empty"
    foreign = next((name for magic, name in FOREIGN.items() if head.startswith(magic)), "")
    if foreign:
        return REJECTED, f"{foreign}; unpack it, and import what was in it"
    if head[DISC_AT : DISC_AT + len(DISC)] == DISC:
        return REJECTED, IMAGE_OF_DISC
    return NO_DICOM, ""


def locate(folder: bytes, name: bytes) -> bytes | None:
    """Find a file that a DICOMDIR names: media have its name in other letters, with a dot or a version at its end."""
    for part in name.split(b"/"):
        exact = os.path.join(folder, part)
        if not os.path.lexists(exact):
            try:
                entries = os.listdir(folder)
            except OSError:
                return None
            like = [entry for entry in entries if entry.upper().partition(b";")[0].rstrip(b".") == part.upper()]
            if not like:
                return None
            exact = os.path.join(folder, like[0])
        folder = exact
    return folder


def cause(error: OSError) -> str:
    """Say what the system says."""
    return error.strerror or str(error)


def _first(file: BinaryIO) -> bytes:
    head = file.read(1024)
    file.seek(0)
    return head


def _stem(name: bytes) -> bytes:
    return os.fsencode(PurePosixPath(os.fsdecode(name)).stem)

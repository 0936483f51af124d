# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who and what a DICOM file is about, read out of its first elements.

pydicom needs 0.4 ms for it, a fifth of all that an image costs, the server included; and hosts do not have it. The
unit tests hold this against pydicom, on all files that it brings and on generated ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

PREFIX = b"DICM"
# Types whose length has four bytes, after two that are empty.
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
KNOWN = LONG | frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
UNDEFINED = 0xFFFFFFFF
ITEMS, ITEM, ITEM_END, SEQUENCE_END = 0xFFFE, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
CLASS, SYNTAX, LAST_OF_META = 0x00020002, 0x00020010, 0x0002FFFF
INSTANCE, DATE, MODALITY = 0x00080018, 0x00080020, 0x00080060
# How long its group is, where somebody wrote that, as was usual once.
PATIENT_GROUP = 0x00100000
PATIENT, STUDY, SERIES = 0x00100020, 0x0020000D, 0x0020000E
IDENTIFIERS = frozenset([INSTANCE, PATIENT, STUDY, SERIES])
WANTED = IDENTIFIERS | {CLASS, SYNTAX, DATE, MODALITY}
# How many lines it has, and what they are in: integers, numbers with a fraction, data of spectroscopy, or a document.
ROWS, PIXELS = 0x00280010, frozenset([0x7FE00008, 0x7FE00009, 0x7FE00010, 0x56000020, 0x00420011])
# Classes that are pictures: of radiography, CT, ultrasound, MR, secondary capture, angiography, nuclear medicine,
# visible light, PET and radiotherapy (PS3.4 B.5).
PICTURES = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(1|2|3|4|6|7|12|13|14|20|77\.1|128|130|481\.[12])(\..*)?")
REFERENCED, RECORDS = 0x00041500, 0x00041220
IMPLICIT, DEFLATED, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
DIRECTORY = "1.2.840.10008.1.3.10"
PLAIN = re.compile(rb"[ -~]*\0?")
# Of an object that is compressed as a whole, no more than this is inflated for its identifiers.
INFLATED = 1 << 20
# Of the values that are only looked at.
SHORT = 64
# So deep no device nests sequences.
DEEPEST = 32


class Broken(Exception):
    """The bytes are no DICOM as it should be."""

    def __init__(self, reason: str = "it ends, or makes no sense, before its identifiers") -> None:
        super().__init__(reason)


@dataclass(frozen=True)
class Header:
    """The identifiers of an image, without what pads them; empty where the file has none.

    ``exact`` is false where Orthanc may read them otherwise: letters beyond ASCII by its settings, values whose type
    is said to be unknown with all that pads them.
    """

    patient: str = ""
    study: str = ""
    series: str = ""
    instance: str = ""
    modality: str = ""
    date: str = ""
    syntax: str = ""
    directory: bool = False
    exact: bool = True

    @property
    def complete(self) -> bool:
        """Whether Orthanc's identifiers can be told from it."""
        return bool(self.exact and self.study and self.series and self.instance)

    def orthanc_id(self, level: int) -> str:
        """Return Orthanc's identifier of the patient, the study, the series or the instance (0 to 3)."""
        parts = (self.patient, self.study, self.series, self.instance)[: level + 1]
        digest = hashlib.sha1("|".join(parts).encode("ascii"), usedforsecurity=False).hexdigest()
        return "-".join(digest[place : place + 8] for place in range(0, 40, 8))


class Coding:
    """How elements are written: in which order of bytes, and whether their types stand there."""

    def __init__(self, order: str, explicit: bool) -> None:
        self.order, self.explicit = order, explicit
        self.tag, self.short, self.long = (struct.Struct(order + form).unpack_from for form in ("HH", "H", "I"))

    def element(self, data: bytes, place: int) -> tuple[int, bytes, int, int]:
        """Read what stands before a value: tag and type, where the value begins, and its length."""
        group, number = self.tag(data, place)
        if not self.explicit or group == ITEMS:
            return group << 16 | number, b"", place + 8, self.long(data, place + 4)[0]
        kind = data[place + 4 : place + 6]
        if kind in LONG:
            return group << 16 | number, kind, place + 12, self.long(data, place + 8)[0]
        if kind not in KNOWN:
            raise Broken(f"({group:04x},{number:04x}) has no type that DICOM knows")
        return group << 16 | number, kind, place + 8, self.short(data, place + 6)[0]

    def end(self, data: bytes, kind: bytes, start: int, length: int, depth: int = 0) -> int:
        """Return where a value ends."""
        if length != UNDEFINED:
            return start + length
        if depth > DEEPEST:
            raise Broken("its sequences lie in one another without end")
        # What is of unknown type is written without types inside.
        inside = CODINGS[self.order, False] if kind == b"UN" else self
        place = start
        while True:
            tag, _, place, length = inside.element(data, place)
            if tag == SEQUENCE_END:
                return place
            if tag != ITEM:
                raise Broken("a sequence has something else than items")
            if length != UNDEFINED:
                place += length
                continue
            while True:
                tag, kind, start, length = inside.element(data, place)
                if tag == ITEM_END:
                    place = start
                    break
                place = inside.end(data, kind, start, length, depth + 1)


CODINGS = {(order, explicit): Coding(order, explicit) for order in "<>" for explicit in (True, False)}


def is_dicom(data: bytes) -> bool:
    """Tell by its first bytes whether a file is DICOM, also one that was written without the preamble."""
    if data[128:132] == PREFIX:
        return True
    if data[:2] == b"\x00\x08":
        return data[4:6] in KNOWN
    if len(data) < 16 or data[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    element, length = struct.unpack_from("<HI", data, 2)
    # The type of the first element stands there, or else its length, which is short and even.
    return element < 0x1000 and (data[4:6] in KNOWN or (length < 256 and length % 2 == 0))


def read(data: bytes) -> Header:
    """Read the identifiers out of a file, or of its beginning.

    :raises Broken: where it ends, or makes no sense, before they were found.
    """
    try:
        found, data, place, coding = _meta(data)
        directory = text(found.get(CLASS, b"")) == DIRECTORY
        if not directory:
            _collect(data, place, coding, SERIES, found)
    except (struct.error, zlib.error) as error:
        raise Broken from error
    return Header(
        patient=text(found.get(PATIENT, b"")),
        study=text(found.get(STUDY, b"")),
        series=text(found.get(SERIES, b"")),
        instance=text(found.get(INSTANCE, b"")),
        modality=text(found.get(MODALITY, b"")),
        date=text(found.get(DATE, b"")),
        syntax=text(found.get(SYNTAX, b"")),
        directory=directory,
        exact=-1 not in found and all(PLAIN.fullmatch(found.get(tag, b"")) for tag in IDENTIFIERS),
    )


def with_patient(data: bytes, patient: str) -> bytes:
    """Return a file, or its beginning, with another PatientID.

    :raises Broken: where it has none that can be replaced.
    """
    try:
        _, body, place, coding = _meta(data)
        group = 0
        while body is data and place < len(data):
            tag, kind, start, length = coding.element(data, place)
            if tag == PATIENT and kind in (b"LO", b"") and start + length <= len(data):
                value = patient.encode("ascii") + b" " * (len(patient) % 2)
                size = struct.pack(coding.order + ("H" if kind else "I"), len(value))
                if group:
                    long = struct.pack(coding.order + "I", coding.long(data, group)[0] + len(value) - length)
                    data = data[:group] + long + data[group + 4 :]
                return data[: place + 4] + kind + size + value + data[start + length :]
            if tag >= PATIENT:
                break
            if tag == PATIENT_GROUP and length == 4:
                group = start
            place = coding.end(data, kind, start, length)
    except (struct.error, zlib.error) as error:
        raise Broken from error
    raise Broken("its PatientID is not where it can be replaced")


def referenced(data: bytes) -> list[bytes]:
    """Return the files that a DICOMDIR names, with slashes between the parts of their paths.

    :raises Broken: where it cannot be read.
    """
    files = []
    try:
        _, data, place, coding = _meta(data)
        while place < len(data):
            tag, kind, start, length = coding.element(data, place)
            # The records are gone through one after the other, wherever they lie.
            inside = tag >> 16 == ITEMS or tag == RECORDS
            place = start if inside else coding.end(data, kind, start, length)
            if tag == REFERENCED:
                files.append(b"/".join(part.strip(b" \0") for part in data[start:place].split(b"\\")))
    except (struct.error, zlib.error) as error:
        raise Broken from error
    return files


def unknown(data: bytes) -> Iterator[str]:
    """Return each public element, at any depth, whose value is written as of unknown type.

    :raises Broken: where it makes no sense.
    """
    try:
        _, data, place, coding = _meta(data)
        while coding.explicit and place < len(data):
            tag, kind, start, length = coding.element(data, place)
            if kind == b"UN" and length not in (0, UNDEFINED) and not tag >> 16 & 1:
                yield f"{tag >> 16:04x},{tag & 0xFFFF:04x}"
            # What lies in sequences is gone through as well, wherever it lies.
            inside = tag >> 16 == ITEMS or kind == b"SQ"
            place = start if inside else coding.end(data, kind, start, length)
    except zlib.error as error:
        raise Broken from error
    except struct.error:
        # A file that goes on.
        return


def whole(data: bytes) -> bool:
    """Tell whether an object has its identifiers and its pixels, and ends where its file does."""
    tags = set()
    try:
        read(data)
        found, data, place, coding = _meta(data)
        picture = PICTURES.fullmatch(text(found.get(CLASS, b"")))
        while place < len(data):
            tag, kind, start, length = coding.element(data, place)
            place = coding.end(data, kind, start, length)
            tags.add(tag)
    except (Broken, struct.error, zlib.error):
        return False
    return place == len(data) and (not tags.isdisjoint(PIXELS) or not (picture or ROWS in tags))


def elements(data: bytes) -> Iterator[tuple[str, str]]:
    """Return each element of an object itself, and the beginning of its value as text, as far as they can be read."""
    with contextlib.suppress(Broken, struct.error, zlib.error):
        _, data, place, coding = _meta(data)
        while place < len(data):
            tag, kind, start, length = coding.element(data, place)
            yield f"{tag >> 16:04x},{tag & 0xFFFF:04x}", text(data[start : start + min(length, SHORT)])
            place = coding.end(data, kind, start, length)


def text(value: bytes) -> str:
    """Return a value without what pads it."""
    try:
        return value.decode("utf-8").rstrip(" \0")
    except UnicodeDecodeError:
        return value.decode("latin-1").rstrip(" \0")


def _meta(data: bytes) -> tuple[dict[int, bytes], bytes, int, Coding]:
    """Read what comes before the object, and return that, the object, where it begins, and how it is written."""
    found: dict[int, bytes] = {}
    place = 132 if data[128:132] == PREFIX else 0
    if data[place : place + 2] == b"\x02\x00":
        place = _collect(data, place, CODINGS["<", True], LAST_OF_META, found)
    syntax = text(found.get(SYNTAX, b""))
    if syntax == DEFLATED:
        data, place = zlib.decompressobj(-15).decompress(data[place:], INFLATED), 0
    big = syntax == BIG or (not syntax and data[place : place + 2] == b"\x00\x08")
    explicit = syntax != IMPLICIT if syntax else data[place + 4 : place + 6] in KNOWN
    return found, data, place, CODINGS[">" if big else "<", explicit]


def _collect(data: bytes, place: int, coding: Coding, last: int, found: dict[int, bytes]) -> int:
    """Keep of the elements up to a tag those that are wanted, and return where the next one begins."""
    size, beyond = len(data), last >> 16
    while place < size:
        # What comes after the meta information may be written in another way.
        if coding.short(data, place)[0] > beyond:
            return place
        tag, kind, start, length = coding.element(data, place)
        place = coding.end(data, kind, start, length)
        if place > size:
            raise Broken
        if tag in WANTED and length != UNDEFINED:
            found.setdefault(tag, data[start:place])
            if kind == b"UN" and tag in IDENTIFIERS:
                found[-1] = b""
        if tag >= last:
            return place
    raise Broken

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that an archive of any make has, by DICOMweb: named by QIDO-RS, fetched by WADO-RS."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from . import origin
from .client import Archive, parts
from .content import Content
from .fates import LEFT_OUT, UNREADABLE
from .journal import NEVER
from .sources import Item, Sources
from .streams import Refused

# So many studies, series or images are asked for at a time.
PAGE = 200
JSON = "application/dicom+json"
# As they are kept there.
DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
STUDY, SERIES, INSTANCE, MODALITY, NUMBER = "0020000D", "0020000E", "00080018", "00080060", "00201209"
LONGEST_HEAD = 1 << 16


class Unfit(Exception):
    """What was answered is no list of DICOMweb."""


class Dicomweb:
    """An archive that images come from.

    :param archive: below which its studies are, such as https://pacs.example.org/dicom-web.
    :param days: of which studies are asked for, as DICOM writes it (20200101-20201231); empty for all.
    :param modalities: of which series are gone through; empty for all.
    """

    def __init__(self, archive: Archive, sources: Sources, days: str, modalities: frozenset[str]) -> None:
        self.archive, self._sources, self._days, self._modalities = archive, sources, days, modalities

    def fits(self) -> bool:
        """Tell whether it is DICOMweb. :raises Ended: where it cannot be asked."""
        try:
            self._list("/studies?limit=1")
        except Unfit:
            return False
        return True

    def walk(self) -> Iterator[Item]:
        """Name each of its images, by series; and tell of each series that it does not have as many as it says."""
        days = f"&StudyDate={self._days}" if self._days else ""
        for study in self._listed("/studies", STUDY, days):
            if isinstance(study, Item):
                yield study
                continue
            path = f"/studies/{quote(value(study, STUDY))}/series"
            for series in self._listed(path, SERIES):
                if isinstance(series, Item):
                    yield series
                else:
                    yield from self._series(f"{path}/{quote(value(series, SERIES))}", series)

    def _series(self, path: str, series: dict[str, Any]) -> Iterator[Item]:
        modality = value(series, MODALITY)
        if self._modalities and modality and modality not in self._modalities:
            yield self._item(path, LEFT_OUT, f"its modality is {modality}")
            return
        named = 0
        for instance in self._listed(f"{path}/instances", INSTANCE):
            if isinstance(instance, Item):
                yield instance
                return
            named += 1
            uid = value(instance, INSTANCE)
            item = self._item(f"{path}/instances/{quote(uid)}")
            item.instance = uid
            yield item
        said = value(series, NUMBER)
        if said and said != str(named):
            yield self._item(path, UNREADABLE, f"it says that it has {said} images, and names {named}")

    def fetch(self, item: Item) -> Content | None:
        """Fetch an image; nothing where it is not served, and then its fate stands in the item.

        :raises Refused: where it is too large for the spool, or what comes is no image.
        """

        def image(answer: http.client.HTTPResponse) -> Iterable[bytes]:
            boundary = answer.headers.get_boundary()
            return only_part(parts(answer), boundary.encode()) if boundary else parts(answer)

        path = os.fsdecode(item.name).removeprefix(self.archive.url)
        return origin.fetch(self.archive, self._sources, item, path, DICOM, image)

    def _item(self, path: str, fate: str = "", reason: str = "") -> Item:
        return Item(os.fsencode(self.archive.url + path), changed=NEVER, fate=fate, reason=reason)

    def _listed(self, path: str, tag: str, query: str = "") -> Iterator[dict[str, Any] | Item]:
        """List what lies there, page by page; or tell that it cannot be listed."""
        first, there = "", 0
        try:
            while found := self._list(f"{path}?limit={PAGE}&offset={there}{query}"):
                if not all(value(one, tag) for one in found):
                    raise Unfit("something in it has no identifier")
                # Some know no pages, and begin anew.
                if value(found[0], tag) == first:
                    return
                first = first or value(found[0], tag)
                there += len(found)
                yield from found
        except Unfit as error:
            yield self._item(path, UNREADABLE, f"it cannot be listed: {error}")

    def _list(self, path: str) -> list[dict[str, Any]]:
        answer, _ = self.archive.patiently("GET", path, accept=JSON)
        found = [] if answer.status == 204 else answer.json()
        if answer.status not in (200, 204) or not isinstance(found, list):
            raise Unfit(answer.reason)
        if not all(isinstance(one, dict) for one in found):
            raise Unfit("it is no list of resources")
        return found


def value(answer: dict[str, Any], tag: str) -> str:
    """Return the first value of an element, as text; empty where there is none."""
    element = answer.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


def only_part(stream: Iterable[bytes], boundary: bytes) -> Iterator[bytes]:
    """Take the one part out of an answer of several, as it comes.

    :raises Refused: where it has no head, or no end.
    """
    end = b"\r\n--" + boundary
    held, begun = b"", False
    for part in stream:
        held += part
        if not begun:
            _, begins, rest = held.partition(b"\r\n\r\n")
            if not begins:
                if len(held) > LONGEST_HEAD:
                    break
                continue
            begun, held = True, rest
        # What ends it stands in the last bytes, with little behind it.
        yield held[: -LONGEST_HEAD or None] if len(held) > LONGEST_HEAD else b""
        held = held[-LONGEST_HEAD:]
    place = held.rfind(end)
    if not begun or place < 0:
        raise Refused("what it serves is no image as DICOMweb has it: a part without head or end")
    yield held[:place]

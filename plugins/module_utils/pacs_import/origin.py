# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that another Orthanc has."""

from __future__ import annotations

import http.client
import os
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote

from .client import JSON, Archive, Ended, Lost, parts, whole
from .content import Content
from .fates import UNREADABLE
from .journal import NEVER
from .sources import SMALL, Item, Sources

# So many series are asked for at a time.
PAGE = 500


def fetch(
    archive: Archive,
    sources: Sources,
    item: Item,
    path: str,
    accept: str = JSON,
    image: Callable[[http.client.HTTPResponse], Iterable[bytes]] = parts,
) -> Content | None:
    """Fetch an image of another archive; nothing where it is not served, and then its fate stands in the item.

    :param image: returns the image out of an answer.
    :raises Refused: where it is too large for the spool.
    """
    made: list[Content] = []

    def keep(answer: http.client.HTTPResponse) -> bytes:
        if answer.status != 200:
            return whole(answer)
        made.append(kept(sources, answer, image))
        return b""

    try:
        answer, _ = archive.patiently("GET", path, read=keep, accept=accept)
    except Lost as error:
        item.fate, item.reason = UNREADABLE, f"whenever it is fetched, {error}"
        return None
    if answer.status != 200:
        item.fate, item.reason = UNREADABLE, f"it is not served there: {answer.reason}"
        return None
    # An earlier try may have been cut off.
    item.size = made[-1].size
    return made[-1]


def kept(
    sources: Sources,
    answer: http.client.HTTPResponse,
    image: Callable[[http.client.HTTPResponse], Iterable[bytes]] = parts,
) -> Content:
    """Take an image out of an answer: into memory, or into the spool where it is large or its size not known."""
    small = answer.length is not None and answer.length <= SMALL
    came = image(answer)
    return Content(b"".join(came)) if small else sources.spooled(came)


class Origin:
    """The Orthanc that images come from. :raises Ended: where it cannot be asked."""

    def __init__(self, archive: Archive, sources: Sources) -> None:
        self.archive, self._sources = archive, sources
        self._name = os.fsencode(archive.url)

    def walk(self) -> Iterator[Item]:
        """Name each of its images, by series; and tell where it does not have as many as it has named."""
        named = seen = 0
        before: list[str] = []
        while series := self._page(seen):
            if series == before:
                raise Ended(f"{self.archive.url}/series gives the same series again and again")
            before = series
            for one in series:
                for instance in self._instances(one):
                    named += 1
                    name = self._name + f"/instances/{instance}".encode()
                    yield Item(name, changed=NEVER, instance=instance, series=one)
            seen += len(series)
        said = self.archive.get("/statistics").json()
        there = str(said.get("CountInstances", "")) if isinstance(said, dict) else ""
        if there != str(named):
            reason = f"it has {there or '?'} images, and named {named}: it changed meanwhile; import from it again"
            yield Item(self._name, fate=UNREADABLE, reason=reason)

    def _page(self, since: int) -> list[str]:
        answer = self.archive.get(f"/series?since={since}&limit={PAGE}")
        series = answer.json()
        if answer.status != 200 or not isinstance(series, list):
            raise Ended(f"{self.archive.url}/series gives no list of series: {answer.reason}")
        return list(map(str, series))

    def _instances(self, series: str) -> list[str]:
        """Return the images of a series; none where it is gone, which the number of all tells in the end."""
        said = self.archive.get(f"/series/{quote(series)}").json()
        found = said.get("Instances") if isinstance(said, dict) else None
        return list(map(str, found)) if isinstance(found, list) else []

    def fetch(self, item: Item) -> Content | None:
        """Fetch an image; nothing where it is not served, and then its fate stands in the item.

        :raises Refused: where it is too large for the spool.
        """
        return fetch(self.archive, self._sources, item, f"/instances/{item.instance}/file")

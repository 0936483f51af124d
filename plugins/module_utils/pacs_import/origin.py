# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that another Orthanc has."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator

from .client import Archive, parts
from .content import Content
from .fates import UNREADABLE
from .journal import NEVER
from .sources import SMALL, Item, Sources

# So many series are asked for at a time.
PAGE = 500


class Origin:
    """The Orthanc that images come from. :raises Ended: where it cannot be asked."""

    def __init__(self, archive: Archive, sources: Sources) -> None:
        self.archive, self._sources = archive, sources
        self._name = os.fsencode(archive.url)

    def walk(self) -> Iterator[Item]:
        """Name each of its images, by series; and tell where it does not have as many as it has named."""
        named = seen = 0
        while series := self.archive.get(f"/series?since={seen}&limit={PAGE}").json():
            for one in series:
                said = self.archive.get(f"/series/{one}").json() or {}
                for instance in said.get("Instances", []):
                    named += 1
                    name = self._name + f"/instances/{instance}".encode()
                    yield Item(name, changed=NEVER, instance=str(instance), series=str(one))
            seen += len(series)
        there = int((self.archive.get("/statistics").json() or {}).get("CountInstances", 0))
        if there != named:
            reason = f"it has {there:,} images, and named {named:,}: it changed meanwhile; import from it again"
            yield Item(self._name, fate=UNREADABLE, reason=reason)

    def fetch(self, item: Item) -> Content | None:
        """Fetch an image; nothing where it is not served, and then its fate stands in the item.

        :raises Refused: where it is too large for the spool.
        """
        made: list[Content] = []

        def keep(answer: http.client.HTTPResponse) -> bytes:
            if answer.status != 200 or (answer.length is not None and answer.length <= SMALL):
                return answer.read()
            made.append(self._sources.spooled(parts(answer)))
            return b""

        answer, _ = self.archive.patiently("GET", f"/instances/{item.instance}/file", read=keep)
        if answer.status != 200:
            item.fate, item.reason = UNREADABLE, f"it is not served there: {answer.reason}"
            return None
        content = made[0] if made else Content(answer.body)
        item.size = content.size
        return content

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that an old PACS has: the archive itself asks it by C-FIND, and has it send them by C-MOVE."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .client import Archive, Ended
from .fates import LEFT_OUT, NEW, PRESENT, STORED, UNREADABLE
from .journal import NEVER
from .sources import Item

if TYPE_CHECKING:
    from .load import Options

# What such a source begins with.
SCHEME = b"dicom:"
# The first day that is asked for where none is named, and how many studies of a slice are too many to be sure that the
# answer has all of them: many archives leave out the rest.
FIRST, MANY = datetime.date(1970, 1, 1), 100
# Seconds between two looks at a transfer.
POLL = 0.2
UNDER_WAY = ("Pending", "Running", "Retry", "Paused")


class Modality:
    """What the archive knows under a name of its ``DicomModalities``, and what knows the archive."""

    def __init__(self, archive: Archive, name: str, options: Options) -> None:
        self._archive, self._name, self._options = archive, name, options
        # Until tomorrow, since clocks differ.
        self._since = day(options.since) if options.since else FIRST
        self._until = day(options.until) if options.until else datetime.date.today() + datetime.timedelta(days=1)

    def walk(self) -> Iterator[Item]:
        """Have each of its series sent, and tell of each image whether it has come.

        :raises Ended: where it does not answer.
        """
        if self._archive.get(f"/modalities/{quote(self._name, safe='')}/configuration").status == 404:
            raise Ended(f"the archive knows no modality {self._name}; see orthanc_modalities")
        for first, last in months(self._since, self._until):
            studies = self._studies(first, last)
            if len(studies) >= MANY:
                days = (first + datetime.timedelta(days=number) for number in range((last - first).days + 1))
                studies = {uid: patient for one in days for uid, patient in self._studies(one, one).items()}
            for study, patient in studies.items():
                for series in self._find("Series", StudyInstanceUID=study, SeriesInstanceUID="", Modality=""):
                    yield from self._series(patient, study, series["SeriesInstanceUID"], series.get("Modality", ""))

    def _series(self, patient: str, study: str, series: str, modality: str) -> Iterator[Item]:
        name = os.fsencode(f"dicom:{self._name}/{study}/{series}")
        if self._options.modalities and modality not in self._options.modalities:
            yield Item(name, changed=NEVER, fate=LEFT_OUT, reason=f"its modality is {modality or 'not said'}")
            return
        asked = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        named = [one["SOPInstanceUID"] for one in self._find("Instance", **asked, SOPInstanceUID="")]
        before, why = self._there(series), ""
        if not before.keys() >= set(named) and not self._options.dry_run:
            why = self._move(asked)
        there = self._there(series)
        for uid in named:
            item = Item(name + f"/{uid}".encode(), changed=NEVER, study=study, patient=patient)
            if uid in there:
                item.fate = PRESENT if uid in before else STORED
                item.series, item.instance = there[uid]
            elif self._options.dry_run:
                item.fate = NEW
            else:
                item.fate, item.reason = UNREADABLE, f"it was named, and has not come{why}"
            yield item

    def _studies(self, first: datetime.date, last: datetime.date) -> dict[str, str]:
        days = f"{first:%Y%m%d}-{last:%Y%m%d}"
        found = self._find("Study", StudyDate=days, StudyInstanceUID="", PatientID="")
        return {one["StudyInstanceUID"]: one.get("PatientID", "") for one in found}

    def _find(self, level: str, **query: str) -> list[dict[str, str]]:
        """Ask it. :raises Ended: where it does not answer."""
        asked = json.dumps({"Level": level, "Query": query}).encode()
        path = f"/modalities/{quote(self._name, safe='')}/query"
        answer, _ = self._archive.patiently("POST", path, lambda: asked)
        made = answer.json()
        if answer.status != 200 or not isinstance(made, dict):
            raise Ended(f"{self._name} does not answer by C-FIND: {answer.reason}")
        found: list[dict[str, Any]] = self._archive.get(f"/queries/{made['ID']}/answers?expand&simplify").json() or []
        wanted = {"Study": "StudyInstanceUID", "Series": "SeriesInstanceUID", "Instance": "SOPInstanceUID"}[level]
        return [{key: str(value) for key, value in one.items()} for one in found if one.get(wanted)]

    def _there(self, series: str) -> dict[str, tuple[str, str]]:
        """Return the images of a series that the archive has: by their identifiers, those of Orthanc."""
        found = self._archive.patiently("POST", "/tools/lookup", series.encode)[0].json() or []
        return {
            str(one["MainDicomTags"]["SOPInstanceUID"]): (str(kept["ID"]), str(one["ID"]))
            for kept in found
            if kept.get("Type") == "Series"
            for one in self._archive.get(f"/series/{kept['ID']}/instances").json() or []
        }

    def _move(self, asked: dict[str, str]) -> str:
        """Have a series sent, and return what went wrong, in Orthanc's words."""
        began = time.monotonic()
        body = json.dumps({"Level": "Series", "Resources": [asked], "Asynchronous": True}).encode()
        path = f"/modalities/{quote(self._name, safe='')}/move"
        answer, _ = self._archive.patiently("POST", path, lambda: body)
        job = (answer.json() or {}).get("ID", "") if answer.status == 200 else ""
        why = "" if job else f": {answer.reason}"
        while job:
            time.sleep(POLL)
            answer = self._archive.get(f"/jobs/{job}")
            # Orthanc forgets jobs that have ended.
            said = (answer.json() or {}) if answer.status == 200 else {}
            if said.get("State") not in UNDER_WAY:
                why = f": {said.get('ErrorDescription', '')}" if said.get("State") == "Failure" else ""
                break
        if self._options.gentle:
            # Half of the time is for others.
            time.sleep(time.monotonic() - began)
        return why


def months(first: datetime.date, last: datetime.date) -> Iterator[tuple[datetime.date, datetime.date]]:
    """Cut a time into months, the newest one first."""
    while first <= last:
        begin = max(first, last.replace(day=1))
        yield begin, last
        last = begin - datetime.timedelta(days=1)


def day(text: str) -> datetime.date:
    """Read a day as DICOM writes it. :raises ValueError: where it is none."""
    if len(text) != 8:
        raise ValueError(f"'{text}' is no day such as 20261231")
    return datetime.datetime.strptime(text, "%Y%m%d").date()

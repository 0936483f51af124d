# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that an old PACS has: the archive itself asks it by C-FIND, and has it send them by C-MOVE."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

from .client import Archive, Ended
from .fates import ARCHIVE, LEFT_OUT, NEW, PRESENT, STORED, UNREADABLE
from .journal import NEVER
from .sources import Item

if TYPE_CHECKING:
    from .load import Options

# What such a source begins with.
SCHEME = b"dicom:"
# The first day that is asked for where none is named, and how many studies, series or images are too many to be sure
# that an answer has all of them: many archives leave out the rest.
FIRST, MANY = datetime.date(1970, 1, 1), 100
# Seconds between two looks at a transfer.
POLL = 0.2
UNDER_WAY = ("Pending", "Running", "Retry", "Paused")


class Modality:
    """What the archive knows under a name of its ``DicomModalities``, and what knows the archive.

    :param moved: returns how many images the archive had of a series when an earlier run had it sent as a whole.
    """

    def __init__(self, archive: Archive, name: str, options: Options, moved: Callable[[bytes], int]) -> None:
        self._archive, self._name, self._options, self._moved = archive, name, options, moved
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
            if len(studies) < MANY:
                yield from self._each(studies)
                continue
            for one in (first + datetime.timedelta(days=number) for number in range((last - first).days + 1)):
                yield from self._day(one)

    def _day(self, one: datetime.date) -> Iterator[Item]:
        """Go through the studies of a day: by their hours and minutes, where one answer may not have all of them."""
        studies, sure = self._studies(one, one), True
        if len(studies) >= MANY:
            timed: dict[str, dict[str, str]] = {}
            for hour in range(24):
                found = self._studies(one, one, f"{hour:02}0000-{hour:02}5959.999999")
                few: dict[str, dict[str, str]] = {}
                for minute in range(60 if len(found) >= MANY else 0):
                    some = self._studies(one, one, f"{hour:02}{minute:02}00-{hour:02}{minute:02}59.999999")
                    few |= some
                    sure = sure and len(some) < MANY
                    if some.keys() == found.keys():
                        # It does not look at times, or all are of this minute.
                        break
                # One without a time, or with one that is none, is not found by it, and others like it may be there.
                sure = sure and (len(found) < MANY or found.keys() <= few.keys())
                timed |= found | few
            sure = sure and studies.keys() <= timed.keys()
            studies |= timed
        yield from self._each(studies)
        if not sure:
            reason = (
                f"it names {len(studies)} studies of this day, and may have more, which are not found by their times"
            )
            yield Item(self._named(f"{one:%Y%m%d}"), changed=NEVER, fate=UNREADABLE, reason=reason)

    def _each(self, studies: dict[str, dict[str, str]]) -> Iterator[Item]:
        for uid, study in studies.items():
            yield from self._study(uid, study)

    def _study(self, uid: str, study: dict[str, str]) -> Iterator[Item]:
        """Have a study sent, by its series where it names as many as it says that it has."""
        patient, said = study.get("PatientID", ""), count(study, "NumberOfStudyRelatedSeries")
        asked = {"SeriesInstanceUID": "", "Modality": "", "NumberOfSeriesRelatedInstances": ""}
        found = {one["SeriesInstanceUID"]: one for one in self._find("Series", StudyInstanceUID=uid, **asked)}
        if found and (len(found) == said or (said is None and len(found) < MANY)):
            pass
        elif self._options.modalities:
            reason = f"{told(said, 'series')}, and names {len(found)}"
            yield Item(self._named(uid), changed=NEVER, study=uid, patient=patient, fate=UNREADABLE, reason=reason)
        else:
            images = count(study, "NumberOfStudyRelatedInstances")
            yield from self._send("Study", {"StudyInstanceUID": uid}, patient, [], images)
            return
        for one in found.values():
            yield from self._series(patient, uid, one)

    def _series(self, patient: str, study: str, series: dict[str, str]) -> Iterator[Item]:
        uid, modality = series["SeriesInstanceUID"], series.get("Modality", "")
        if self._options.modalities and modality not in self._options.modalities:
            reason = f"its modality is {modality or 'not said'}"
            yield Item(self._named(study, uid), changed=NEVER, fate=LEFT_OUT, reason=reason)
            return
        asked = {"StudyInstanceUID": study, "SeriesInstanceUID": uid}
        named = [one["SOPInstanceUID"] for one in self._find("Instance", **asked, SOPInstanceUID="")]
        yield from self._send("Series", asked, patient, named, count(series, "NumberOfSeriesRelatedInstances"))

    def _send(
        self, level: str, asked: dict[str, str], patient: str, named: list[str], said: int | None
    ) -> Iterator[Item]:
        """Have a study or a series sent where the archive lacks some of it, and tell what became of its images.

        :param named: its images, of which an answer may leave out some.
        :param said: how many it has, if that was said.
        """
        study, why = asked["StudyInstanceUID"], ""
        name = self._named(*asked.values())
        # Whether these are all.
        listed = len(set(named)) == said or (said is None and 0 < len(named) < MANY)
        before = there = self._there(level, asked)
        # Where there may be more than were named, and nobody says how many, it was sent as a whole once.
        whole = listed or len(before) == said or (said is None and 0 < self._moved(name) <= len(before))
        lacking = not before.keys() >= set(named) or not whole
        if lacking and not self._options.dry_run:
            why = self._move(level, asked)
            there = self._there(level, asked)
        for uid in dict.fromkeys([*named, *(uid for uid in there if not listed or uid not in before)]):
            item = Item(name + f"/{uid}".encode(), changed=NEVER, study=study, patient=patient)
            if uid in there:
                item.fate = PRESENT if uid in before else STORED
                item.series, item.instance = there[uid]
            elif self._options.dry_run:
                item.fate = NEW
            else:
                item.fate, item.reason = UNREADABLE, f"it was named, and has not come{why}"
            yield item
        if listed or len(there) == said:
            return
        item = Item(name, changed=NEVER, study=study, patient=patient)
        if said is None and named and not why:
            if not self._options.dry_run:
                item.changed, item.fate = len(there), ARCHIVE
                item.reason = "it was sent as a whole, since it may have more images than it names"
                yield item
            return
        item.fate = NEW if self._options.dry_run else UNREADABLE
        item.reason = f"{told(said, 'images')}, and names {len(named)}; the archive has {len(there)}{why}"
        yield item

    def _named(self, *parts: str) -> bytes:
        return os.fsencode("/".join([f"dicom:{self._name}", *parts]))

    def _studies(self, first: datetime.date, last: datetime.date, times: str = "") -> dict[str, dict[str, str]]:
        asked = dict.fromkeys(("PatientID", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"), "")
        days = f"{first:%Y%m%d}-{last:%Y%m%d}"
        found = self._find("Study", StudyDate=days, StudyTime=times, StudyInstanceUID="", **asked)
        return {one["StudyInstanceUID"]: one for one in found}

    def _find(self, level: str, **query: str) -> list[dict[str, str]]:
        """Ask it. :raises Ended: where it does not answer."""
        asked = json.dumps({"Level": level, "Query": query}).encode()
        path = f"/modalities/{quote(self._name, safe='')}/query"
        answer, _ = self._archive.patiently("POST", path, lambda: asked)
        made = answer.json()
        if answer.status != 200 or not isinstance(made, dict) or "ID" not in made:
            raise Ended(f"{self._name} does not answer by C-FIND: {answer.reason}")
        found = self._archive.listed(f"/queries/{made['ID']}/answers?expand&simplify")
        wanted = {"Study": "StudyInstanceUID", "Series": "SeriesInstanceUID", "Instance": "SOPInstanceUID"}[level]
        return [{key: str(value) for key, value in one.items()} for one in found if one.get(wanted)]

    def _there(self, level: str, asked: dict[str, str]) -> dict[str, tuple[str, str]]:
        """Return the images of a study or a series that the archive has: by their identifiers, those of Orthanc."""
        kind = {"Study": "studies", "Series": "series"}[level]
        return {
            str(one["MainDicomTags"]["SOPInstanceUID"]): (str(one["ParentSeries"]), str(one["ID"]))
            for kept in self._archive.lookup(asked[f"{level}InstanceUID"], level)
            for one in self._archive.listed(f"/{kind}/{kept}/instances")
        }

    def _move(self, level: str, asked: dict[str, str]) -> str:
        """Have it sent, and return what went wrong, in Orthanc's words."""
        began = time.monotonic()
        body = json.dumps({"Level": level, "Resources": [asked], "Asynchronous": True}).encode()
        path = f"/modalities/{quote(self._name, safe='')}/move"
        answer, _ = self._archive.patiently("POST", path, lambda: body)
        said = answer.json()
        job = str(said.get("ID", "")) if answer.status == 200 and isinstance(said, dict) else ""
        why = "" if job else f": {answer.reason}"
        while job:
            time.sleep(POLL)
            answer = self._archive.get(f"/jobs/{job}")
            # Orthanc forgets jobs that have ended.
            said = answer.json() if answer.status == 200 else {}
            if not isinstance(said, dict) or said.get("State") not in UNDER_WAY:
                failed = isinstance(said, dict) and said.get("State") == "Failure"
                why = f": {said.get('ErrorDescription', '')}" if failed else ""
                break
        if self._options.gentle:
            # Half of the time is for others.
            time.sleep(time.monotonic() - began)
        return why


def count(answer: dict[str, str], name: str) -> int | None:
    """Return how many there are, if that was said."""
    text = answer.get(name, "").strip()
    return int(text) if text.isdecimal() else None


def told(said: int | None, things: str) -> str:
    """Write for people how many it has."""
    return f"it does not say how many {things} it has" if said is None else f"it says that it has {said} {things}"


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

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The import: files are read and sent by threads, and each gets a fate."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import queue
import re
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .anonymize import Anonymizer, Names, Nothing, foresee
from .client import Answer, Archive, Ended, Gate, Lost, trust
from .content import Changed, Content
from .dicomweb import Dicomweb
from .fates import (
    CONFLICT,
    DIFFERS,
    LEFT_OUT,
    NEW,
    NO_DICOM,
    PRESENT,
    REJECTED,
    STORED,
    UNREADABLE,
    UNSENT,
    WRONG,
)
from .header import Broken, Header
from .journal import ANONYMOUS, Journal, Row, shown, written
from .modality import SCHEME, Modality
from .origin import Origin
from .progress import Progress
from .risks import Reserve, reserve, size_of
from .sources import Item, Sources
from .streams import MEGABYTE, Refused

Work = TypeVar("Work")
# So many images that are there are remembered, in 5 MB, or 20 MB where their sums were asked for.
REMEMBERED = 100_000
# For so many files that an earlier run knows, the archive is asked together, and for so many studies: an X-ray is both.
KNOWN, STUDIES = 100, 20
# What members of archives may take of memory while they wait to be sent.
MEMORY = 128 * MEGABYTE
# After so many images in a row of which the server says that it failed, none is sent any more.
FAILURES = 20
# Of what a summary lists, no more than this; the CSV has all.
LISTED = 1000
URLS = (b"http://", b"https://")
LOST = "the archive lists it, and has lost its file: see docs/operations.md, and send it again once it is gone there"


@dataclass
class Options:
    """What is imported, to where, and how.

    A source that is a URL is another archive, which has a login and an authority of its own. ``patients`` tells which
    PatientIDs become which. With ``anonymize`` images come in without their patient, by an Orthanc of this machine,
    whose binary is ``orthanc``. ``accepted`` are the risks that are taken knowingly, ``settings`` those of Orthanc,
    where they are known.
    """

    sources: list[bytes]
    url: str
    report: str
    login: tuple[str, str] = ("", "")
    authority: str = ""
    certificate: str = ""
    key: str = ""
    from_login: tuple[str, str] = ("", "")
    from_authority: str = ""
    connections: int = 4
    spool: str = ""
    spool_size: int = 4096 * MEGABYTE
    patience: float = 600
    dry_run: bool = False
    verify: bool = False
    gentle: bool = True
    modalities: frozenset[str] = frozenset()
    since: str = ""
    until: str = ""
    patients: dict[str, str] = field(default_factory=dict)
    anonymize: bool = False
    orthanc: str = ""
    accepted: frozenset[str] = frozenset()
    settings: dict[str, Any] | None = field(default=None, repr=False)


class Import:
    """One run of it."""

    def __init__(self, options: Options, progress: Progress) -> None:
        """:raises Ended: where it cannot begin."""
        # By its whole path a file is the same one wherever the command is called.
        elsewhere = (*URLS, SCHEME)
        options.sources = [one if one.startswith(elsewhere) else os.path.abspath(one) for one in options.sources]
        self._options, self._progress = options, progress
        self._why = ""
        self._faults: list[BaseException] = []
        context = trust(options.authority, options.certificate, options.key)
        self._archive = Archive(options.url, options.login, context, self._gate())
        os.makedirs(options.report, mode=0o700, exist_ok=True)
        self._names = Names(options.report) if options.anonymize else None
        # What came under other names is no hint either.
        names = hashlib.sha256(repr(sorted(options.patients.items())).encode()).hexdigest() if options.patients else ""
        names += ANONYMOUS + self._names.mark() if self._names else ""
        self._journal = Journal(os.path.join(options.report, "journal.sqlite"), f"{self._archive.url} {names}".strip())
        spool = options.spool or options.report
        self._sources = Sources(spool, options.spool_size, MEMORY, self._known)
        self._there = Instances(self._archive)
        self._origins = {
            source: Archive(os.fsdecode(source), options.from_login, trust(options.from_authority), self._gate())
            for source in options.sources
            if source.startswith(URLS)
        }
        self._reserve: Reserve = Reserve()
        self._anonymizer: Anonymizer | None = None
        self._failures = self._verified = self._transcoded = 0
        self._lock = threading.Lock()
        self._transcodes = self._overwrites = False

    def run(self) -> dict[str, Any]:
        """Do it, and return the summary, which is in the report as well."""
        began = time.monotonic()
        shared: list[dict[str, Any]] = []
        try:
            system = self._archive.begin()
            settings = system | (self._options.settings or {})
            can = system.get("Capabilities")
            self._there.sums = isinstance(can, dict) and bool(can.get("HasExtendedFind"))
            self._transcodes = bool(settings.get("IngestTranscoding")) or "transcoding" in self._options.accepted
            # Old ones do not tell.
            self._overwrites = bool(system.get("OverwriteInstances", True))
            self._reserve = reserve(self._archive, system, self._options, self._journal.size())
            if self._names and not self._options.dry_run:
                # What is made of an original never waits for room that the original has itself.
                spool = Sources(self._options.spool or self._options.report, self._options.spool_size, MEMORY)
                self._anonymizer = Anonymizer(self._options.orthanc, self._options.report, self._names, spool)
            threading.Thread(target=self._measure, daemon=True).start()
            with self._stoppable():
                files = [one for one in self._options.sources if not one.startswith((*URLS, SCHEME))]
                self._parallel(self._new(self._sources.walk(files)), self._take)
                self._parallel(self._new(self._sources.late()), self._take)
                for origin in map(self._meet, self._origins.values()):
                    self._parallel(self._new(origin.walk()), functools.partial(self._take, origin=origin))
                for modality in map(self._modality, self._options.sources):
                    self._parallel(modality, self._take)
                if self._options.verify and not self._options.dry_run:
                    self._journal.commit()
                    self._parallel(self._journal.images(), self._check)
            with self._stoppable():
                shared = self._shared()
        except Ended as error:
            self._end(str(error))
        except KeyboardInterrupt:
            self._end("interrupted")
        finally:
            self._progress.close()
            if self._anonymizer:
                self._anonymizer.close()
        self._journal.commit()
        summary = self._summary(shared, time.monotonic() - began)
        self._journal.write(os.path.join(self._options.report, "files.csv"))
        self._journal.close()
        with written(os.path.join(self._options.report, "summary.json")) as file:
            json.dump(summary, file, indent=2)
        if self._faults:
            raise self._faults[0]
        return summary

    def _meet(self, archive: Archive) -> Origin | Dicomweb:
        """Find out what archive images come from. :raises Ended: where it is none, or cannot be asked."""
        options, (answer, orthanc) = self._options, archive.meet()
        if orthanc:
            return Origin(archive, self._sources)
        days = f"{options.since}-{options.until}" if options.since or options.until else ""
        web = Dicomweb(archive, self._sources, days, options.modalities)
        if not web.fits():
            raise Ended(f"{archive.url} is neither an Orthanc nor DICOMweb: {answer.reason}")
        return web

    def _modality(self, source: bytes) -> Iterator[Item]:
        if source.startswith(SCHEME):
            if self._options.patients or self._names:
                raise Ended("other PatientIDs, or none, are for what passes here, and not for what a modality sends")
            name = os.fsdecode(source.removeprefix(SCHEME))
            yield from Modality(self._archive, name, self._options, self._journal.moved).walk()

    def _gate(self) -> Gate:
        return Gate(self._options.patience, lambda: bool(self._why))

    def _measure(self) -> None:
        # What goes away meanwhile is told elsewhere.
        with contextlib.suppress(OSError):
            self._progress.expect(sum(map(size_of, self._options.sources)))

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self._end("interrupted")

    def _end(self, why: str) -> None:
        """Let no further image be sent."""
        self._why = self._why or why

    def _fault(self, error: BaseException) -> None:
        """Note what nobody has thought of; it is raised once the report is written."""
        self._faults.append(error)
        self._end(f"a fault of the program: {error!r}")

    def _parallel(self, work: Iterable[Work], do: Callable[[Work], None]) -> None:
        """Hand work to threads, as it comes, until there is none, or until the end came earlier."""
        waiting: queue.Queue[Work | None] = queue.Queue(maxsize=4 * self._options.connections)

        def worker() -> None:
            while (got := waiting.get()) is not None:
                try:
                    do(got)
                except (Ended, sqlite3.Error) as error:
                    self._end(told(error))
                except BaseException as error:
                    self._fault(error)
            self._archive.drop()

        threads = [threading.Thread(target=worker, daemon=True) for _ in range(self._options.connections)]
        for thread in threads:
            thread.start()
        try:
            for piece in work:
                if self._why:
                    # It is noted as not sent.
                    do(piece)
                    break
                waiting.put(piece)
        except (Ended, sqlite3.Error) as error:
            self._end(told(error))
        except KeyboardInterrupt:
            self._end("interrupted")
        except BaseException as error:
            self._fault(error)
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            thread.join()

    def _new(self, items: Iterator[Item]) -> Iterator[Item]:
        """Leave out what was settled before."""
        waiting: list[Item] = []
        try:
            for item in items:
                # Members of archives are looked up before they are read.
                if item.fate or not (item.path or item.instance):
                    yield item
                    continue
                waiting.append(item)
                if len(waiting) == KNOWN:
                    yield from self._unknown(waiting)
                    waiting = []
        except Exception:
            # What came before has its fate.
            yield from self._unknown(waiting)
            raise
        yield from self._unknown(waiting)

    def _unknown(self, items: list[Item]) -> Iterator[Item]:
        before = (self._journal.settled(item.name, item.size, item.changed) for item in items)
        self._there.ask({settled[1] for settled in before if settled})
        for item in items:
            if not self._known(item.name, item.size, item.changed, item.weight):
                yield item

    def _known(self, name: bytes, size: int, changed: int, weight: int = 0) -> bool:
        """Tell whether an earlier run has brought this very file to the archive, where it still is."""
        before = self._journal.settled(name, size, changed)
        if not before or not self._there.has(before[1], before[0]) or (self._options.verify and not before[2]):
            return False
        if not self._why:
            self._journal.confirm(name)
            self._progress.add(PRESENT, size, weight)
        return True

    def _take(self, item: Item, origin: Origin | Dicomweb | None = None) -> None:
        """Find out what becomes of a file, and note it."""
        row = Row(item.name, item.size, item.changed, item.fate, item.reason)
        if item.fate:
            row.instance, row.series, row.study, row.patient = item.instance, item.series, item.study, item.patient
        content = item.content
        try:
            if self._why:
                row.fate, row.reason = row.fate or UNSENT, row.reason or self._why
            elif not row.fate and not (origin and self._same(row, item, origin)):
                content = content or (origin.fetch(item) if origin else self._sources.read(item))
                row = Row(item.name, item.size, item.changed, item.fate, item.reason)
                if content:
                    self._send(row, content)
                elif not item.fate:
                    # An archive, which is gone through in the end.
                    return
        except Refused as error:
            row.fate, row.reason = REJECTED, str(error)
        except Ended as error:
            self._end(str(error))
            row.fate, row.reason = UNSENT, self._why
        finally:
            if content:
                content.close()
        # An archive says what it has read.
        row.reason = shown(row.reason.encode("utf-8", "backslashreplace"))
        self._journal.add(row)
        self._progress.add(row.fate, row.size, item.weight)

    def _same(self, row: Row, item: Item, origin: Origin | Dicomweb) -> bool:
        """Tell without fetching it whether the archive has what another Orthanc has under the same identifiers."""
        if self._options.patients or self._names or not item.series or not self._there.has(item.series, item.instance):
            return False
        row.md5 = origin.archive.md5(item.instance)
        if not row.md5 or row.md5 != self._there.md5(item.series, item.instance):
            return False
        row.fate, row.instance, row.series = PRESENT, item.instance, item.series
        return True

    def _send(self, row: Row, content: Content) -> None:
        """Find out what becomes of an image."""
        broken = ""
        try:
            header = content.header()
        except Broken as error:
            header, broken = Header(exact=False), str(error)
        row.study, row.patient, row.syntax = header.study, header.patient, header.syntax
        row.fate, row.reason = self._left_out(header, broken)
        if row.fate:
            return
        # Blanks before it mean nothing, as those behind it.
        patients = self._options.patients
        patient = patients.get(header.patient) or patients.get(header.patient.lstrip(" ")) or ""
        if self._names:
            header = self._names.header(header, patient)
            row.study, row.patient = header.study, header.patient
        elif patient:
            try:
                content.rename(patient)
            except Broken as error:
                row.fate, row.reason = REJECTED, str(error)
                return
            row.patient, row.reason = patient, f"its PatientID was {header.patient}"
            header = dataclasses.replace(header, patient=patient)
        if self._options.verify and not self._names:
            row.md5 = content.md5()
        if header.complete:
            row.series, row.instance = header.orthanc_id(2), header.orthanc_id(3)
        with self._there.claimed(row.instance or header.instance):
            if self._present(row, header, content):
                return
            row.fate = NEW if self._options.dry_run else ""
            if not self._names:
                if not row.fate:
                    self._deliver(row, header, content)
                return
            try:
                if not self._anonymizer:
                    foresee(content.beginning())
                    return
                anonymous = self._anonymizer.content(content, header)
            except (Broken, Changed, Nothing) as error:
                fates = {Broken: REJECTED, Changed: UNREADABLE, Nothing: LEFT_OUT}
                row.fate, row.reason, row.instance, row.series = fates[type(error)], str(error), "", ""
                return
            with contextlib.closing(anonymous):
                row.md5 = anonymous.md5() if self._options.verify else ""
                self._deliver(row, header, anonymous)
            if row.fate == STORED and content.touched():
                row.fate, row.reason = DIFFERS, "somebody wrote to it while it was read"

    def _deliver(self, row: Row, header: Header, content: Content) -> None:
        """Send an image, and note what becomes of it."""
        self._reserve.take(content.size, header)
        began = time.monotonic()
        try:
            answer, repeated = self._archive.patiently("POST", "/instances", content.body, content.size)
        except Changed as error:
            row.fate, row.reason = UNREADABLE, str(error)
            return
        except Lost as error:
            row.fate, row.reason = REJECTED, f"whenever it is sent, {error}"
            return
        self._judge(row, header, content, answer, repeated)
        if row.fate == STORED:
            self._there.add(row.series, row.instance)
            if content.touched():
                row.fate, row.reason = DIFFERS, "somebody wrote to it while it was sent"
        if self._options.gentle:
            # Half of the time is for others.
            time.sleep(min(2.0, time.monotonic() - began))

    def _left_out(self, header: Header, broken: str) -> tuple[str, str]:
        """Tell whether an image is not to be imported at all."""
        if header.directory:
            return NO_DICOM, "a DICOMDIR, which lists what is on a medium"
        options = self._options
        if not (options.modalities or options.since or options.until or options.patients or self._names):
            return "", ""
        if broken:
            return REJECTED, f"nobody can tell whether it is wanted: {broken}"
        if self._names and not (header.study and header.series and header.instance):
            return REJECTED, "it lacks an identifier that each image has to have"
        if options.modalities and header.modality not in options.modalities:
            return LEFT_OUT, f"its modality is {header.modality or 'not said'}"
        # Old ones have dots in it.
        day = header.date.replace(".", "")
        if (options.since or options.until) and not (options.since or "0") <= day <= (options.until or "9"):
            return LEFT_OUT, f"its study is of {day or 'no date'}"
        return "", ""

    def _present(self, row: Row, header: Header, content: Content) -> bool:
        """Tell whether the archive has the image, and whether it has the same bytes."""
        if row.instance:
            if not self._there.has(row.series, row.instance):
                return False
            if self._names:
                # As it was made without its patient, it is nowhere else.
                row.fate = PRESENT
            else:
                self._compare(row, header, content)
            return True
        # How Orthanc reads the patient's identifier is not known: it is asked by the image's own, which several have.
        found = None
        for instance in self._lookup(header.instance, "Instance"):
            candidate = Row(row.name, row.size, row.changed, "", instance=instance, md5=row.md5)
            self._compare(candidate, header, content)
            if candidate.fate == PRESENT:
                found = candidate
                break
            if self._overwrites and candidate.fate == CONFLICT and self._of_the_same(instance, header):
                found = candidate
        if not found:
            return False
        row.fate, row.reason, row.instance, row.md5 = found.fate, found.reason, found.instance, found.md5
        return True

    def _of_the_same(self, instance: str, header: Header) -> bool:
        """Tell whether an image of the archive is of a file's study and series; by its patient nobody can tell."""
        found = []
        for level, name in (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID")):
            tags = self._archive.described(f"/instances/{instance}/{level}").get("MainDicomTags")
            found.append(str(tags.get(name, "")) if isinstance(tags, dict) else "")
        return found == [header.study, header.series]

    def _lookup(self, uid: str, level: str) -> list[str]:
        return self._archive.lookup(uid, level) if uid else []

    def _judge(self, row: Row, header: Header, content: Content, answer: Answer, repeated: bool) -> None:
        """Tell by the answer to an image what became of it. :raises Ended: if it means that none will be taken."""
        said = answer.json()
        if answer.status == 200 and isinstance(said, dict) and "ID" in said:
            self._failures = 0
            status = said.get("Status")
            row.instance, row.series = str(said["ID"]), str(said.get("ParentSeries", row.series))
            if status == "Success":
                row.fate = STORED
            elif status == "AlreadyStored":
                self._compare(row, header, content)
                if repeated and row.fate == PRESENT:
                    self._repeated(row)
            else:
                row.fate, row.reason, row.instance = REJECTED, f"the archive's own rules: {status}", ""
            return
        if answer.status == 200 and isinstance(said, list):
            row.fate, row.reason = REJECTED, "the archive took it for an archive of images, and not for an image"
            return
        if answer.status in (200, 405) or (answer.status == 404 and not isinstance(said, dict)):
            raise Ended(f"{self._archive.url} takes no images as Orthanc does: {answer.reason}")
        row.fate, row.reason, row.instance, row.series = REJECTED, answer.reason, "", ""
        if answer.status == 413:
            row.reason = "413, it is larger than the archive or its proxy lets through"
        if answer.status == 404:
            row.reason = "404, it lacks an identifier that each image has to have"
        self._failures = self._failures + 1 if answer.status >= 500 else 0
        if self._failures >= FAILURES:
            raise Ended(f"the archive has failed on {FAILURES} images, one after the other: {answer.reason}")

    def _repeated(self, row: Row) -> None:
        """See whether an image whose first try had no answer is there: Orthanc may have kept its entry alone."""
        row.fate, row.reason = (STORED, "") if self._whole(row.instance) else (REJECTED, LOST)

    def _whole(self, instance: str) -> bool:
        """Tell whether the archive can read what it has, and whether that is as it came."""
        if not self._archive.md5(instance):
            return bool(self._archive.digest(f"/instances/{instance}/file"))
        path = f"/instances/{instance}/attachments/dicom/verify-md5"
        return self._archive.patiently("POST", path, lambda: b"{}")[0].status == 200

    def _compare(self, row: Row, header: Header, content: Content) -> None:
        """Tell whether the archive has the bytes of an image that it has."""
        row.md5 = row.md5 or content.md5()
        # Where no sums are kept, the image itself has to be fetched.
        there = self._there.md5(row.series, row.instance) or self._archive.digest(f"/instances/{row.instance}/file")
        row.fate, row.reason = PRESENT, ""
        if there == row.md5:
            return
        if not there:
            row.fate, row.reason = REJECTED, LOST
        elif self._transcodes and self._syntax(row.instance) not in ("", header.syntax):
            row.reason = "there in another transfer syntax, as the archive keeps its images"
        else:
            row.fate, row.reason = CONFLICT, "the archive has other bytes under the same identifiers"

    def _syntax(self, instance: str) -> str:
        answer = self._archive.get(f"/instances/{instance}/metadata/TransferSyntax")
        return answer.body.decode("ascii", "replace").strip() if answer.status == 200 else ""

    def _check(self, image: tuple[bytes, str, str, str]) -> None:
        """Compare what the archive serves with what it was given."""
        name, instance, given, syntax = image
        if self._why:
            return
        # What a modality has sent, nobody else has seen.
        served = self._archive.digest(f"/instances/{instance}/file") if given else ""
        good = served == given if given else self._whole(instance)
        with self._lock:
            self._verified += good
        if good:
            return
        if served and self._transcodes and self._syntax(instance) not in ("", syntax):
            with self._lock:
                self._transcoded += 1
            return
        self._journal.mark(name, DIFFERS, "the archive serves other bytes" if served else LOST)

    def _shared(self) -> list[dict[str, Any]]:
        """List the studies that more than one patient has, in what was imported or in the archive."""
        found = {study: {first, last} for study, first, last in self._journal.shared()}
        studies = self._journal.studies()
        while not self._why and len(found) < LISTED and (some := list(itertools.islice(studies, STUDIES))):
            there = self._patients({study for study, _ in some})
            for study, patient in some:
                others = set(there[study]) - {patient}
                # The only one is who it was sent for, whatever the letters are that it is read in.
                if others and (len(there[study]) > 1 or self._options.dry_run):
                    found.setdefault(study, {patient}).update(others)
        return [{"study": study, "patients": sorted(patients)} for study, patients in sorted(found.items())]

    def _patients(self, studies: set[str]) -> dict[str, list[str]]:
        """Return the patients of studies that the archive has."""
        found: dict[str, list[str]] = {study: [] for study in studies}
        # An empty query would be one for everything.
        plain = [study for study in studies if re.fullmatch("[0-9.]+", study)]
        if plain:
            query = {"Level": "Study", "Query": {"StudyInstanceUID": "\\".join(plain)}, "Expand": True}
            with contextlib.suppress(AttributeError, KeyError, Lost, TypeError):
                for said in self._archive.patiently("POST", "/tools/find", json.dumps(query).encode)[0].json():
                    of = found[said["MainDicomTags"]["StudyInstanceUID"]]
                    of.append(str(said["PatientMainDicomTags"].get("PatientID", "")))
        # Such as what goes beyond the archive's own limit.
        for study in [study for study, patients in found.items() if not patients]:
            ids = self._lookup(study, "Study")
            for one in ids if len(ids) > 1 or self._options.dry_run else []:
                whose = self._archive.described(f"/studies/{one}").get("PatientMainDicomTags")
                found[study].append(str(whose.get("PatientID", "")) if isinstance(whose, dict) else "")
        return found

    def _summary(self, shared: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
        fates = self._journal.fates()
        wrong = {fate: self._journal.examples(fate, LISTED) for fate in WRONG if fate in fates}
        return {
            "archive": self._archive.url,
            "sources": [shown(source) for source in self._options.sources],
            "dry_run": self._options.dry_run,
            "complete": not self._why,
            "ended": self._why,
            "files": {fate: count for fate, (count, _) in sorted(fates.items())},
            "bytes": {fate: size for fate, (_, size) in sorted(fates.items())},
            "links": self._journal.links(),
            "images": self._journal.counts(),
            "verified": self._verified,
            "transcoded": self._transcoded,
            "wrong": [
                {"file": name, "fate": fate, "reason": why} for fate, some in wrong.items() for name, why in some
            ],
            "studies_of_several_patients": shared,
            "waits": self._archive.gate.closed,
            "seconds": round(seconds, 1),
            "report": os.path.abspath(self._options.report),
        }


def told(error: Ended | sqlite3.Error) -> str:
    """Say why an import has ended."""
    return str(error) if isinstance(error, Ended) else f"the journal cannot be written: {error}"


class Instances:
    """Which images the archive has, by their series; some of what it said is remembered."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lock = threading.Condition()
        # A line for each image: a set would take three times the memory.
        self._series: OrderedDict[str, str] = OrderedDict()
        self._sums: dict[str, dict[str, str]] = {}
        self._number = 0
        self._claimed: set[str] = set()
        # Whether it tells the sums of a series together, as Orthanc does from 1.12.5 on, by its database.
        self.sums = False
        self._together = True

    def has(self, series: str, image: str) -> bool:
        """Tell whether the archive has an image of a series."""
        # Several threads come to a series at a time, and one asks for all of them.
        with self.claimed(series):
            with self._lock:
                if series in self._series:
                    self._series.move_to_end(series)
                    return f"{image}\n" in self._series[series]
            # The images alone take Orthanc half of the time.
            answer = self._archive.get(f"/series/{series}/instances?expand=false") if self.sums else None
            there = answer.json() if answer and answer.status == 200 else []
            if not answer or not isinstance(there, list):
                there = self._archive.described(f"/series/{series}").get("Instances")
            return self._keep(series, there if isinstance(there, list) else [], image)

    def ask(self, wanted: set[str]) -> None:
        """Ask for several series at once; those that do not come are asked for when they are wanted."""
        with self._lock:
            new = [series for series in wanted if series not in self._series]
        # Few, of many images each, are told faster one by one.
        if len(new) > KNOWN // 10 and self._together:
            query = {"Level": "Series", "Resources": new}
            with contextlib.suppress(AttributeError, KeyError, Lost, TypeError):
                answer, _ = self._archive.patiently("POST", "/tools/bulk-content", json.dumps(query).encode)
                # It took seconds, and would again.
                self._together = answer.status < 500
                for said in answer.json():
                    self._keep(str(said["ID"]), said["Instances"])

    def _keep(self, series: str, images: list[str], image: str = "") -> bool:
        """Remember the images of a series, and tell whether one is among them."""
        with self._lock:
            if series not in self._series:
                self._series[series] = "".join(f"{one}\n" for one in images)
                self._number += len(images)
            there = f"{image}\n" in self._series[series]
            while self._number > REMEMBERED and len(self._series) > 1:
                forgotten, gone = self._series.popitem(last=False)
                self._number -= gone.count("\n")
                self._sums.pop(forgotten, None)
            return there

    def md5(self, series: str, image: str) -> str:
        """Return the sum that is kept of an image, or nothing if none is. :raises Ended: as Archive does."""
        if self.sums and series:
            with self.claimed(series):
                # Others forget it meanwhile where there are too many.
                sums = self._sums.get(series)
                if sums is None:
                    sums = self._sums[series] = self._ask(series)
                found = sums.get(image)
            if found is not None:
                return found
        return self._archive.md5(image)

    def _ask(self, series: str) -> dict[str, str]:
        """Return all sums of a series; those that do not come are asked for one by one."""
        query = {"Level": "Instance", "Query": {}, "ParentSeries": series, "ResponseContent": ["Attachments"]}
        found = {}
        with contextlib.suppress(AttributeError, KeyError, Lost, TypeError):
            answer, _ = self._archive.patiently("POST", "/tools/find", json.dumps(query).encode)
            for image in answer.json():
                for file in image["Attachments"]:
                    # That of the image itself.
                    if file["ContentType"] == 1:
                        found[str(image["ID"])] = str(file["UncompressedMD5"])
        return found

    def add(self, series: str, image: str) -> None:
        """Note an image that was stored."""
        with self._lock:
            if series in self._series and f"{image}\n" not in self._series[series]:
                self._series[series] += f"{image}\n"
                self._number += 1

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Have an image, since a file may be there twice, or a series for this thread alone."""
        with self._lock:
            self._lock.wait_for(lambda: not name or name not in self._claimed)
            self._claimed.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._claimed.discard(name)
                self._lock.notify_all()

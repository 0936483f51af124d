# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `pacs-export`: patients or studies as a medium, a folder or a ZIP archive, complete, or not at all."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from . import header
from .client import Archive, Ended, Gate, Lost, parts, trust, whole
from .connect import add_archive, login
from .content import md5
from .journal import shown

# What Orthanc makes of resources for each form, and what it calls the list of a medium.
FORMS = {"medium": "media", "folder": "archive", "zip": "archive"}
LIST = "DICOMDIR"
PIECE = 1 << 20


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = argparse.ArgumentParser(prog="pacs-export", description="Export patients or studies from an Orthanc.")
    add = made.add_argument
    add("output", help="folder or ZIP archive that is not there yet")
    add_archive(made)
    add("--patient", action="append", default=[], help="PatientID; may be given again")
    add("--study", action="append", default=[], help="StudyInstanceUID; may be given again")
    add("--form", choices=sorted(FORMS), default="medium", help="a folder with a DICOMDIR, one by names, a ZIP archive")
    return made


class Export:
    """What is to leave an archive.

    :param archive: that has it.
    :param output: what it becomes; it is there only once all of it is.
    """

    def __init__(self, archive: Archive, form: str, output: Path) -> None:
        self._archive, self._form, self._output = archive, form, output
        self._packed = output.with_name(f"{output.name}.new.zip")
        self._folder = output.with_name(f"{output.name}.new")

    def run(self, patients: Sequence[str], studies: Sequence[str]) -> int:
        """Export them, and return how many images they have. :raises Ended: where not every image came out."""
        for path in (self._output, self._folder, self._packed):
            if os.path.lexists(path):
                raise Ended(f"{path} is there already")
        self._archive.begin()
        wanted = {
            **{one: "patients" for patient in patients for one in self._find(patient, "Patient")},
            **{one: "studies" for study in studies for one in self._find(study, "Study")},
        }
        expected = self._expected(wanted)
        # Nobody else's, from here on.
        number = os.open(self._packed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            self._fetch(wanted, number)
            with zipfile.ZipFile(self._packed) as packed:
                self._compare(expected, _packed(packed), packed.read(LIST) if self._form == "medium" else b"")
                if self._form == "zip":
                    os.replace(self._packed, self._output)
                else:
                    self._unpack(packed)
                    self._compare(expected, _unpacked(self._folder))
                    os.replace(self._folder, self._output)
        except (zipfile.BadZipFile, header.Broken, KeyError) as error:
            raise Ended(f"what the archive made cannot be read: {error}") from error
        finally:
            self._packed.unlink(missing_ok=True)
        return expected.total()

    def _find(self, name: str, level: str) -> list[str]:
        ids = self._archive.lookup(name, level)
        if not ids:
            raise Ended(f"the archive has no {level.lower()} {name}")
        return ids

    def _expected(self, wanted: dict[str, str]) -> Counter[str]:
        """Return the sums of all images; one that several resources have counts once."""
        instances = {
            str(instance["ID"])
            for one, level in wanted.items()
            for instance in self._archive.listed(f"/{level}/{one}/instances")
        }
        sums = (self._archive.md5(one) or self._archive.digest(f"/instances/{one}/file") for one in instances)
        return Counter(sums)

    def _fetch(self, wanted: dict[str, str], number: int) -> None:
        """Have the archive pack them, and keep that in a file.

        :raises Lost: where it never does.
        """
        kind = FORMS[self._form]
        with open(number, "wb", buffering=0) as file:

            def keep(answer: http.client.HTTPResponse) -> bytes:
                if answer.status != 200:
                    return whole(answer)
                # An earlier try may have been cut off.
                file.seek(0)
                file.truncate()
                for part in parts(answer):
                    self._write(file, part)
                return b""

            if len(wanted) == 1:
                # One alone has a route of its own.
                ((one, level),) = wanted.items()
                answer, _ = self._archive.patiently("GET", f"/{level}/{one}/{kind}", read=keep)
            else:
                asked = json.dumps({"Resources": list(wanted), "Synchronous": True}).encode()
                answer, _ = self._archive.patiently("POST", f"/tools/create-{kind}", lambda: asked, read=keep)
            os.fsync(number)
        if answer.status != 200:
            raise Ended(f"the archive does not pack them: {answer.reason}")

    def _write(self, file: IO[bytes], part: bytes) -> None:
        while part:
            try:
                part = part[file.write(part) :]
            except OSError as error:
                raise Ended(f"{self._packed} cannot be written: {error.strerror}") from error

    def _unpack(self, packed: zipfile.ZipFile) -> None:
        """Unpack what is complete; where the disk is not big enough, what was written stays to be looked at."""
        for info in packed.infolist():
            path = PurePosixPath(info.filename)
            if path.is_absolute() or ".." in path.parts:
                raise Ended(f"what the archive made leads outside of the folder: {info.filename}")
        self._folder.mkdir(mode=0o700)
        try:
            packed.extractall(self._folder)
        except OSError as error:
            raise Ended(f"{self._folder} cannot be written: {error.strerror}; remove it") from error

    @staticmethod
    def _compare(expected: Counter[str], made: Iterator[tuple[str, str]], listed: bytes = b"") -> None:
        """See whether just these images are there. :raises Ended: if not.

        :param listed: the list of a medium, if there is to be one.
        """
        names = {name: total for name, total in made if name != LIST}
        found = Counter(names.values())
        if found != expected:
            missing, other = (expected - found).total(), (found - expected).total()
            raise Ended(f"of {expected.total()} images {missing} did not come out as they are, and {other} others did")
        if listed:
            named = {name.decode("ascii", "replace") for name in header.referenced(listed)}
            if named != set(names):
                raise Ended(f"the DICOMDIR names {len(named & set(names))} of {len(names)} images")


def _packed(packed: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """Return the names and sums of what is in a ZIP archive."""
    for info in packed.infolist():
        if not info.is_dir():
            with packed.open(info) as file:
                yield info.filename, _sum(file)


def _unpacked(folder: Path) -> Iterator[tuple[str, str]]:
    """Return the names and sums of what lies in a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                yield path.relative_to(folder).as_posix(), _sum(file)


def _sum(file: IO[bytes]) -> str:
    made = md5()
    while part := file.read(PIECE):
        made.update(part)
    return str(made.hexdigest())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code: 0 if every image came out, else 1."""
    reader = parser()
    given = reader.parse_args(arguments)
    if not given.patient and not given.study:
        reader.error("name a --patient or a --study")
    try:
        context = trust(given.ca, given.certificate, given.key)
        archive = Archive(given.url, login(given), context, Gate(given.patience))
        number = Export(archive, given.form, Path(given.output)).run(given.patient, given.study)
    except (Ended, Lost, OSError, ValueError) as error:
        # What the archive says may hold anything.
        why = shown(str(error).encode("utf-8", "backslashreplace"))
        print(f"pacs-export: {why}. Nothing was exported.", file=sys.stderr)
        return 1
    print(f"{number:,} images, as the archive has them: {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

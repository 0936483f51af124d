# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments by which commands reach an archive."""

from __future__ import annotations

import argparse
import csv
import getpass
import os
import re

# What Orthanc reads in one way alone, whatever its settings.
PATIENT = re.compile(r"[!-\[\]-~]([ -\[\]-~]{0,62}[!-\[\]-~])?")


def add_archive(parser: argparse.ArgumentParser) -> None:
    """Add them to those of a command."""
    add = parser.add_argument
    add("--url", required=True, help="of the archive, such as https://pacs.example.org/")
    add("--user", default="", help="to log in as")
    add("--password-file", help="holds the password; else it is in $PACS_IMPORT_PASSWORD, or asked for")
    add("--ca", default="", help="certificate that the archive is trusted by, or that of its authority (PEM)")
    add("--certificate", default="", help="client certificate (PEM), where the archive asks for one")
    add("--key", default="", help="its private key, if that is another file")
    add("--patience", type=number, default=600, help="seconds to wait for an archive that is away (%(default)s)")


def number(text: str) -> int:
    """Read a number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)


def login(given: argparse.Namespace) -> tuple[str, str]:
    """Return user and password."""
    return given.user, password(given.user, given.password_file, "PACS_IMPORT_PASSWORD")


def patients(file: str) -> dict[str, str]:
    """Read which PatientIDs become which. :raises ValueError: where the file does not tell that."""
    found: dict[str, str] = {}
    with open(file, encoding="utf-8-sig", newline="") as opened:
        for line, row in enumerate(csv.reader(opened), 1):
            if len(row) != 2 or not row[0] or found.get(row[0], row[1]) != row[1]:
                raise ValueError(f"{file}, line {line}: not one PatientID, and the one that it becomes")
            if not PATIENT.fullmatch(row[1]):
                raise ValueError(f"{file}, line {line}: '{row[1]}' is no PatientID of plain letters")
            found[row[0]] = row[1]
    return found


def password(user: str, file: str | None, variable: str) -> str:
    """Find a password, which is never among the arguments, where others could read it."""
    if not user:
        return ""
    if file:
        with open(file, encoding="utf-8") as opened:
            return opened.read().removesuffix("\n")
    if variable in os.environ:
        return os.environ[variable]
    return getpass.getpass(f"Password of {user}: ")

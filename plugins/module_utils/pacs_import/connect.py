# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments by which commands reach an archive."""

from __future__ import annotations

import argparse
import getpass
import os


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

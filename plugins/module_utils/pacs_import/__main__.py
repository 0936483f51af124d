# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `pacs-import`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence

from .client import Ended
from .connect import add_archive, login, number, password, patients
from .journal import Busy
from .load import Import, Options
from .modality import day
from .progress import Progress
from .streams import MEGABYTE
from .verdict import CUT_OFF, NO_REPORT, UNFIT, exit_code, told

SOURCES = (
    "folder, zip, tar (gz, bz2, xz, zst), DICOMDIR or file; or the URL of another Orthanc, or of DICOMweb;"
    " or dicom:NAME, by C-FIND and C-MOVE from one of the archive's own modalities"
)
ACCEPT = (
    "recycling, routing: begin although the archive would remove older images, or send these on; transcoding: an image"
    " there in another transfer syntax is the same (Orthanc from 1.12 on tells of itself whether it transcodes)"
)
EPILOG = """
Exit code: 0 if the archive has every image, 1 if some were not taken or nothing was found, 2 for wrong arguments,
3 if it ended before all was done; then the same command goes on.
"""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = argparse.ArgumentParser(prog="pacs-import", description="Import images into an Orthanc.", epilog=EPILOG)
    add = made.add_argument
    add("sources", nargs="+", metavar="SOURCE", help=SOURCES)
    add_archive(made)
    add("--from-user", default="", help="to log in to the other archive as")
    add("--from-password-file", help="holds that password; else it is in $PACS_IMPORT_FROM_PASSWORD, or asked for")
    add("--from-ca", default="", help="certificate that the other archive is trusted by (PEM)")
    add("--report", default="pacs-import", help="folder for journal, summary and list of files (%(default)s)")
    add("--full-speed", action="store_true", help="take all that the archive can give, instead of half of the time")
    add("--connections", type=number, help="how many at full speed (8)")
    add("--modality", action="append", default=[], help="only images of this modality; may be given again")
    add("--since", type=date, help="only studies of this day (YYYYMMDD) or later")
    add("--until", type=date, help="only studies of this day or earlier")
    add("--patients", help="CSV of two columns without a head: PatientIDs, and what they become")
    add("--anonymize", action="store_true", help="take the patient out of every image, by an Orthanc of this machine")
    add("--orthanc", default="", help="its binary, if not the one in $PATH or in /usr/sbin; or docker:IMAGE")
    add("--dry-run", action="store_true", help="send nothing, and tell what would be")
    add("--verify", action="store_true", help="compare every image with what the archive serves afterwards")
    add("--accept", action="append", default=[], choices=["recycling", "routing", "transcoding"], help=ACCEPT)
    add("--spool", default="", help="folder on a disk for what does not fit into memory (that of the report)")
    add("--spool-size", type=number, default=4096, help="its bound in MB (%(default)s)")
    add("--json", action="store_true", help="print the summary as JSON")
    add("--quiet", action="store_true", help="show no progress")
    return made


def date(text: str) -> str:
    """Read a day as DICOM writes it."""
    try:
        day(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no day such as 20261231") from error
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    reader = parser()
    given = reader.parse_args(arguments)
    if given.connections and not given.full_speed:
        reader.error("--connections is for --full-speed; otherwise there is one")
    for stop in (signal.SIGTERM, signal.SIGHUP):
        # With nohup it is to go on.
        if signal.getsignal(stop) != signal.SIG_IGN:
            signal.signal(stop, signal.default_int_handler)
    try:
        options = Options(
            sources=[os.fsencode(source) for source in given.sources],
            url=given.url,
            report=given.report,
            login=login(given),
            from_login=(
                given.from_user,
                password(given.from_user, given.from_password_file, "PACS_IMPORT_FROM_PASSWORD"),
            ),
            from_authority=given.from_ca,
            authority=given.ca,
            certificate=given.certificate,
            key=given.key,
            connections=(given.connections or 8) if given.full_speed else 1,
            spool=given.spool,
            spool_size=given.spool_size * MEGABYTE,
            patience=given.patience,
            dry_run=given.dry_run,
            verify=given.verify,
            gentle=not given.full_speed,
            modalities=frozenset(map(str.upper, given.modality)),
            since=given.since or "",
            until=given.until or "",
            patients=patients(given.patients) if given.patients else {},
            anonymize=given.anonymize,
            orthanc=given.orthanc,
            accepted=frozenset(given.accept),
        )
        made = Import(options, Progress(None if given.quiet else sys.stderr))
    except (Busy, Ended, OSError, ValueError) as error:
        print(f"pacs-import: {error}", file=sys.stderr)
        return UNFIT
    try:
        summary = made.run()
    except (OSError, sqlite3.Error) as error:
        print(f"pacs-import: {NO_REPORT}: {error}", file=sys.stderr)
        return CUT_OFF
    print(json.dumps(summary, indent=2) if given.json else "\n".join(told(summary)))
    return exit_code(summary)


if __name__ == "__main__":
    sys.exit(main())

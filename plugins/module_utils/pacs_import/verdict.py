# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How an import has ended: for the shell, and for people."""

from __future__ import annotations

from typing import Any

from .fates import ARCHIVE, CONFLICT, LEFT_OUT, NEW, PRESENT, STORED, WRONG
from .journal import shown
from .streams import megabytes

GOOD, WRONG_FILES, UNFIT, CUT_OFF = 0, 1, 2, 3
NO_REPORT = "the report cannot be written, and the import ended early; what the archive has acknowledged stays there"
# Of what went wrong, so many files are shown.
SHOWN = 20


def exit_code(summary: dict[str, Any]) -> int:
    """Return the exit code."""
    if not summary["complete"]:
        return CUT_OFF
    return WRONG_FILES if _nothing(summary) or set(summary["files"]) & set(WRONG) else GOOD


def _nothing(summary: dict[str, Any]) -> bool:
    """Tell whether no image was found at all: a mistyped path, a disc that is not mounted, links alone."""
    files = summary["files"]
    return not {STORED, PRESENT, NEW, CONFLICT} & set(files) and files.get(LEFT_OUT, 0) == summary["links"]


def told(summary: dict[str, Any]) -> list[str]:
    """Write the summary for people."""
    images, files, sizes = summary["images"], summary["files"], summary["bytes"]
    lines = []
    if not {STORED, NEW, *WRONG} & set(files) and PRESENT in files:
        lines.append("Nothing to import: the archive has every image already.")
    lines += [f"{count:>10,} {fate} ({megabytes(sizes[fate])})" for fate, count in files.items() if fate != ARCHIVE]
    lines.append(
        f"{images['instances']:,} images in {images['series']:,} series, {images['studies']:,} studies, of"
        f" {images['patients']:,} patients, in {summary['seconds']:,.0f} s"
    )
    if summary["verified"] or summary["transcoded"]:
        lines.append(f"{summary['verified']:,} are served as they were sent, {summary['transcoded']:,} transcoded")
    lines += [f"{one['fate']}: {one['file']}: {one['reason']}" for one in summary["wrong"][:SHOWN]]
    if len(summary["wrong"]) > SHOWN:
        lines.append("… and more")
    lines += [
        f"One study of several patients: {one['study']} ({', '.join(one['patients'])})"
        for one in summary["studies_of_several_patients"][:SHOWN]
    ]
    if _nothing(summary) and not summary["ended"]:
        lines.append("No image was found.")
    if summary["ended"]:
        lines.append(f"It ended early: {summary['ended']}. The same command goes on from there.")
    lines.append(f"Every file with its fate: {summary['report']}/files.csv")
    # Identifiers and reasons come from others.
    return [shown(line.encode("utf-8", "backslashreplace")) for line in lines]

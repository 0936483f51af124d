# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can become of a file."""

from __future__ import annotations

STORED = "stored"
PRESENT = "already there"
CONFLICT = "conflict"  # The archive has other bytes under the same identifiers.
NEW = "to be stored"  # By a dry run.
NO_DICOM = "no DICOM"
ARCHIVE = "archive"  # What was in it has fates of its own.
LEFT_OUT = "left out"
REJECTED = "rejected"
UNREADABLE = "unreadable"
UNSENT = "not sent"
DIFFERS = "not as sent"  # By what the archive serves afterwards.

# What the archive has, byte for byte as far as anybody could tell.
SETTLED = (STORED, PRESENT)
# What somebody has to look at.
WRONG = (CONFLICT, REJECTED, UNREADABLE, UNSENT, DIFFERS)


def rank(fate: str) -> int:
    """Tell which of two fates is told of a file that has had both in one run: the higher one."""
    return 3 if fate in WRONG else 2 if fate in (STORED, NEW) else 1 if fate == PRESENT else 0

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases of Orthanc side by side, each in a folder of its own, and a link that says which one runs."""

from __future__ import annotations

import contextlib
import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import (
    MARK,
    MARK_TEXT,
    marked,
    plain_files,
    remove,
    sync_folder,
)

# How the name of a folder begins to which a release is downloaded.
NEW = ".new-"
# A release, and behind it what else tells two builds of it apart; and what is in its folder.
RELEASE = re.compile(r"\d+\.\d+\.\d+(-[0-9a-f]{8})?")
FILES = re.compile(r"Orthanc(RecoverCompressedFile)?|.*\.so|[\w.-]+\.(packages|sums)")


def remove_release(folder: str) -> None:
    """Remove the files in a folder of a release, and the folder if there was nothing else in it."""
    for path in plain_files(folder):
        remove(path)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def mark(path: str) -> None:
    """Have the mark in a folder that is ours."""
    if not marked(path):
        with open(os.path.join(path, MARK), "w", encoding="utf-8") as file:
            file.write(MARK_TEXT)


def is_ours(path: str) -> bool:
    """Tell whether all that is in a folder of releases is ours.

    Releases of others may be there, if the folder was before us; from before there were marks there is our link.
    """
    ours = marked(path) or os.path.islink(os.path.join(path, "current"))
    return ours or not os.path.isdir(path) or all(name.startswith(NEW) for name in os.listdir(path))


def tidy(path: str) -> None:
    """Remove what calls that were cut off have left."""
    for entry in list(os.scandir(path)):
        if entry.name.startswith(NEW) and entry.is_dir(follow_symlinks=False):
            remove_release(entry.path)


def refusal(module: AnsibleModule, binary: str, release: str) -> str:
    """Return what a binary says if it does not run on this host, or is another release; nothing if there is none."""
    if not os.path.exists(binary):
        return ""
    try:
        rc, out, err = module.run_command([binary, "--version"], handle_exceptions=False)
    except OSError as error:
        # Half of a file, or one for other processors.
        return str(error.strerror)
    return (err or out).strip()[:500] or "nothing" if rc or f"Orthanc {release}" not in out else ""


def settle(files: list[str], folder: str) -> None:
    """Move the files of a release to their folder."""
    os.makedirs(folder, mode=0o755, exist_ok=True)
    os.chmod(folder, 0o755)
    for path in files:
        # A link would lead to it that outlasts a loss of power.
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        os.replace(path, os.path.join(folder, os.path.basename(path)))
    sync_folder(folder)


def outdated(path: str, release: str, keep: int) -> list[str]:
    """Return the releases to remove: all but the asked one, the one that the link names, and the latest others.

    A folder in which is more than the files of a release is somebody's.
    """
    current = os.path.basename(os.path.realpath(os.path.join(path, "current")))
    found = [entry for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)] if os.path.isdir(path) else []
    others = [entry for entry in found if RELEASE.fullmatch(entry.name) and entry.name != release]
    others = [entry for entry in others if all(map(FILES.fullmatch, os.listdir(entry)))]
    # A folder is touched when its release is asked for.
    others.sort(key=lambda entry: (entry.name == current, entry.stat().st_mtime), reverse=True)
    return [entry.name for entry in others[max(keep, 1) :]]

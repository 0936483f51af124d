#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the files of an Orthanc release in a folder of their own."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lsb_release
short_description: Download the LSB binaries of an Orthanc release
version_added: 0.1.0
description:
  - Has all files of a release in C(path/release), each known by its SHA-256. Only what is missing or different is
    downloaded, side by side.
  - A file that is there stays as it is. Where another one of that name is asked for, as with another version of a
    plugin, the release gets a folder beside, C(path/release-digest), so that there is a way back.
  - Nothing is put in place before everything has come whole, has the right checksum, and the binary runs on this host.
    Which release runs is for somebody else to say, by the link C(path/current).
  - Removes the releases that were left the longest ago; never the one that the link names.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  url:
    description: Root of the download site or of a mirror of it.
    type: str
    required: true
  ca:
    description: The authority to verify the site by, as PEM text. Empty takes those of the operating system.
    type: str
    default: ""
  path:
    description: Folder of all releases.
    type: path
    default: /opt/orthanc
  release:
    description: Release of Orthanc.
    type: str
    required: true
  files:
    description: SHA-256 of each file, by its path C(component/version/file) below the root of the site.
    type: dict
    required: true
  keep:
    description: How many other releases may stay.
    type: int
    default: 2
attributes:
  check_mode:
    description: Tells what would be downloaded and removed.
    support: full
"""

EXAMPLES = r"""
- name: Download the release
  dicom.orthanc.lsb_release:
    url: https://mirror.example.org/orthanc
    release: 1.12.7
    files:
      orthanc/1.12.7/Orthanc: 0fdb5a4d6c3b2e1f00112233445566778899aabbccddeeff0011223344556677
"""

RETURN = r"""
name:
  description: What the folder of the release is called.
  type: str
  returned: always
  sample: 1.12.7
downloaded:
  description: Paths below the root of the site of what was downloaded.
  type: list
  elements: str
  returned: always
removed:
  description: The releases that were removed.
  type: list
  elements: str
  returned: always
seconds:
  description: How long the downloads took together, in seconds.
  type: float
  returned: always
"""

import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import lock, nearest
from ansible_collections.dicom.orthanc.plugins.module_utils.lsb import MirrorError, digest, fetch_all
from ansible_collections.dicom.orthanc.plugins.module_utils.releases import (
    NEW,
    is_ours,
    mark,
    outdated,
    refusal,
    remove_release,
    settle,
    tidy,
)


def place(path: str, release: str, files: dict[str, str], sums: Callable[[str], str]) -> str:
    """Return the name of the first folder in which no file has to make way for another one: that runs, or may again.

    :param sums: tells the SHA-256 of a file.
    """
    asked = json.dumps(sorted(files.items()))
    current = os.path.basename(os.path.realpath(os.path.join(path, "current")))

    def fits(name: str) -> bool:
        there = {os.path.join(path, name, os.path.basename(source)): files[source].lower() for source in files}
        others = [file for file in there if os.path.isfile(file) and sums(file) != there[file]]
        return bool(re.fullmatch(rf"{re.escape(release)}(-[0-9a-f]{{8}})?", name)) and not others

    # Where the folder of these files has a spoilt one, there is another.
    named = (hashlib.sha256((asked + " " * number).encode()).hexdigest()[:8] for number in itertools.count())
    return next(filter(fits, itertools.chain((current, release), (f"{release}-{one}" for one in named))))


def put(module: AnsibleModule, missing: dict[str, str], folder: str, ours: bool) -> None:
    """Download to a folder beside, prove everything there, and only then move it to its place.

    :param missing: where to have each from, if it is on this host already.
    """
    path, release, files = (module.params[name] for name in ("path", "release", "files"))
    staging = tempfile.mkdtemp(prefix=NEW, dir=path)
    try:
        targets = {source: os.path.join(staging, os.path.basename(source)) for source in missing}
        for source, here in missing.items():
            if here:
                shutil.copyfile(here, targets[source])
        away = {source: targets[source] for source, here in missing.items() if not here}
        for source, found in fetch_all(module.params["url"], module.params["ca"], away).items():
            if found != files[source].lower():
                raise MirrorError(
                    f"{source} has the SHA-256 {found}, and orthanc_lsb_checksums says {files[source]};"
                    " find out why before you take another one."
                )
        for source, target in targets.items():
            os.chmod(target, 0o644 if source.endswith(".so") else 0o755)
        said = refusal(module, os.path.join(staging, "Orthanc"), release)
        if said:
            raise MirrorError(
                f"the binary that the mirror has for Orthanc {release} does not run on this host, or is another"
                f" release: {said}."
            )
        if ours:
            mark(path)
        settle(list(targets.values()), folder)
    finally:
        remove_release(staging)


def have(module: AnsibleModule) -> dict[str, Any]:
    """Have the release, and say what was done for it."""
    path, release, files = (module.params[name] for name in ("path", "release", "files"))
    # Each is read once, before anything changes.
    sums = functools.cache(digest)
    name = place(path, release, files, sums)
    folder = os.path.join(path, name)
    above = nearest(folder)
    if not os.path.isdir(above):
        module.fail_json(
            f"Orthanc {release} is not in place, and nothing has changed: {above} is no folder, so that {folder} cannot"
            " be made (orthanc_lsb_dir)."
        )

    def of(name: str, source: str) -> str:
        """Return the path of a file in a folder, if it is there and right."""
        file = os.path.join(path, name, os.path.basename(source))
        return file if sums(file) == files[source].lower() else ""

    missing = {source: of("current", source) or of(release, source) for source in files if not of(name, source)}
    ours = is_ours(path)
    removed = outdated(path, name, module.params["keep"]) if ours else []
    start = time.monotonic()
    if not module.check_mode:
        try:
            # Open to all, whatever the host's umask is.
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o755)
            if ours:
                tidy(path)
            if missing:
                put(module, missing, folder, ours)
            if ours:
                mark(path)
        except MirrorError as error:
            module.fail_json(f"Orthanc {release} is not in place, and nothing has changed: {error}")
        except OSError as error:
            module.fail_json(f"Orthanc {release} is not in place, and nothing has changed: {error} (orthanc_lsb_dir).")
        if os.path.realpath(os.path.join(path, "current")) != folder:
            os.utime(folder)
        for other in removed:
            remove_release(os.path.join(path, other))
    seconds = round(time.monotonic() - start, 2)
    downloaded = [source for source, here in missing.items() if not here]
    changed = bool(missing or removed)
    return {"changed": changed, "name": name, "downloaded": downloaded, "removed": removed, "seconds": seconds}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "ca": {"type": "str", "default": ""},
            "path": {"type": "path", "default": "/opt/orthanc"},
            "release": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
            "keep": {"type": "int", "default": 2},
        },
        supports_check_mode=True,
    )
    # What is missing, and what may go, is decided while no other run changes it.
    with lock(module):
        module.exit_json(**have(module))


if __name__ == "__main__":
    main()

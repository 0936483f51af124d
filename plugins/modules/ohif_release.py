#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the files of a release of the OHIF viewer in a folder of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ohif_release
short_description: Have a release of the OHIF viewer on a host
version_added: 0.2.0
description:
  - Looks whether a release is there, and every file of it as it was written. Where it is not, the control node has it
    fetched, proves it, makes it fit for its path, and brings it to the host.
  - It is not served by that. Which release is served is for nginx to say, that is asked for it afterwards.
  - Releases that are not asked for are named, and removed if O(others) says so. Of each, only the files that it was
    written with are removed.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  path:
    description: Folder of all releases.
    type: path
    default: /var/lib/pacs/viewer
  name:
    description: Name of the folder of this one, C(version-digest). Empty if there is to be none.
    type: str
    default: ""
  url:
    description: Path of the viewer on its site, with a slash at both ends.
    type: str
    default: /ohif/
  version:
    description: The release, by its version.
    type: str
    default: ""
  integrity:
    description: By what its package is known, C(sha512-) and the hash in base64.
    type: str
    default: ""
  source:
    description: >-
      Path on the control node, or URL, of its package. Empty has the control node's npm fetch it.
    type: str
    default: ""
  archive:
    description: What the control node has made of the package, as a file on the host. For the action alone.
    type: path
    default: ""
  others:
    description: Whether other releases stay.
    type: str
    choices: [stay, go]
    default: stay
attributes:
  action:
    description: Fetches and adapts the package on the control node.
    support: full
  check_mode:
    description: Tells whether the release would be brought, and what would be removed. Nothing is fetched.
    support: full
"""

EXAMPLES = r"""
- name: Have the release
  dicom.orthanc.ohif_release:
    name: 3.13.2-0a1b2c3d
    url: /ohif/
    version: 3.13.2
    integrity: sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==
"""

RETURN = r"""
missing:
  description: Whether it was not there, or not as it was written.
  type: bool
  returned: always
scripts:
  description: >-
    The hash of each script that stands in its page itself, as a Content-Security-Policy names it. Empty where it is
    not there.
  type: list
  elements: str
  returned: always
  sample: ["'sha256-0a1b2c3d...='"]
others:
  description: The names of other releases that are there, or were.
  type: list
  elements: str
  returned: always
"""

import contextlib
import hashlib
import os
import stat
import tarfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import MARK, Refused, lock, make_folders, own, remove
from ansible_collections.dicom.orthanc.plugins.module_utils.lsb import digest
from ansible_collections.dicom.orthanc.plugins.module_utils.ohif import SUMS, above, scripts, sums
from ansible_collections.dicom.orthanc.plugins.module_utils.releases import mark


def whole(folder: str) -> bool:
    """Tell whether a folder has all that it was written with."""
    known = sums(folder)
    return bool(known) and all(has(os.path.join(folder, name), known[name]) for name in known)


def has(path: str, sha256: str) -> bool:
    """Tell whether this very file is there, and no link to it."""
    return not os.path.islink(path) and digest(path) == sha256


def awry(folder: str) -> dict[str, int]:
    """Return what in a release nginx could not read, or others could change, with the mode that it is to have."""
    known = sums(folder)
    wanted = dict.fromkeys([os.path.join(folder, name) for name in (*known, SUMS)] if known else [], 0o644)
    wanted |= {os.path.join(folder, name): 0o755 for name in (*above(known), "") if known}
    found = {path: os.lstat(path) for path in wanted if os.path.lexists(path) and not os.path.islink(path)}
    ours = (os.geteuid(), os.getegid())
    return {
        path: wanted[path]
        for path, state in found.items()
        if (state.st_uid, state.st_gid) != ours or stat.S_IMODE(state.st_mode) != wanted[path]
    }


def straighten(folder: str) -> None:
    """Set owner and mode as they are to be."""
    for path, mode in awry(folder).items():
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            own(opened, path, (os.geteuid(), os.getegid()), mode)
        finally:
            os.close(opened)


def page(folder: str, url: str) -> str:
    """Return the page of the viewer; nothing where it is not there."""
    try:
        with open(f"{folder}{url}index.html", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def put(path: str, content: bytes) -> None:
    """Write a file beside, and take its place; whoever is reading it reads on."""
    beside = f"{path}.new"
    if os.path.lexists(beside):
        remove(beside)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o644)
    os.replace(beside, path)


def unpack(archive: str, folder: str) -> None:
    """Write what is not there as it is to be, the list of it first: by that it goes again one day."""
    with tarfile.open(archive) as tar:
        for member in tar:
            given = tar.extractfile(member)
            content = given.read() if given else b""
            path = os.path.join(folder, member.name)
            if not has(path, hashlib.sha256(content).hexdigest()):
                make_folders(os.path.dirname(path))
                put(path, content)
    # nginx is told of it next, and that outlasts a loss of power.
    os.sync()


def remove_release(folder: str) -> None:
    """Remove what a release was written with, and its folders where there is nothing else in them."""
    known = sums(folder)
    for name in known:
        for path in (os.path.join(folder, name), os.path.join(folder, f"{name}.new")):
            if os.path.isfile(path) or os.path.islink(path):
                remove(path)
    for name in [*above(known), ""]:
        if not name and os.path.exists(os.path.join(folder, SUMS)):
            remove(os.path.join(folder, SUMS))
        # What has something of others in it stays.
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(folder, name))


def have(module: AnsibleModule) -> dict[str, Any]:
    """Have the release, and say what was done for it."""
    path, name, archive = (module.params[option] for option in ("path", "name", "archive"))
    folder = os.path.join(path, name)
    missing = bool(name) and not whole(folder)
    crooked = bool(name) and bool(awry(folder))
    there = sorted(os.listdir(path)) if os.path.isdir(path) else []
    others = [other for other in there if other != name and sums(os.path.join(path, other))]
    going = others if module.params["others"] == "go" else []
    if not module.check_mode:
        if missing and archive:
            make_folders(folder)
            mark(path)
            unpack(archive, folder)
            if not whole(folder):
                module.fail_json(f"{folder}: what was written there is not what came; run again, and look at the disk.")
        if crooked:
            straighten(folder)
        for other in going:
            remove_release(os.path.join(path, other))
        if not name and there and os.listdir(path) == [MARK]:
            remove(os.path.join(path, MARK))
            os.rmdir(path)
    return {
        "changed": missing or crooked or bool(going),
        "missing": missing,
        "scripts": scripts(page(folder, module.params["url"])) if name else [],
        "others": others,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/var/lib/pacs/viewer"},
            "name": {"type": "str", "default": ""},
            "url": {"type": "str", "default": "/ohif/"},
            "version": {"type": "str", "default": ""},
            "integrity": {"type": "str", "default": ""},
            "source": {"type": "str", "default": ""},
            "archive": {"type": "path", "default": ""},
            "others": {"type": "str", "choices": ["stay", "go"], "default": "stay"},
        },
        supports_check_mode=True,
    )
    with lock(module):
        try:
            module.exit_json(**have(module))
        except OSError as error:
            # A full disk names no file.
            where = error.filename or module.params["path"]
            module.fail_json(f"{where}: {error.strerror}. Nothing that is served has changed.")
        except Refused as error:
            module.fail_json(f"{error} Nothing that is served has changed.")


if __name__ == "__main__":
    main()

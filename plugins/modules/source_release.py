#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have what was built of an Orthanc release in a folder of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
module: source_release
short_description: Have what M(dicom.orthanc.source_build) has built
version_added: 0.1.0
description:
  - Without O(archives), looks whether all of it is there and as it was built. With them, puts it there.
  - Nothing is in place before everything is there, and the binary runs on this host. Which release runs is for somebody
    else to say, by the link C(path/current).
  - Removes the releases that were left the longest ago; never the one that the link names.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  path:
    description: Folder of all releases.
    type: path
    default: /opt/orthanc-source
  name:
    description: Name of the folder of this one, C(release-digest).
    type: str
    required: true
  release:
    description: Release of Orthanc.
    type: str
    required: true
  builds:
    description: What it consists of, as the filter P(dicom.orthanc.builds#filter) names it.
    type: list
    elements: dict
    required: true
  archives:
    description: Paths on the control node of what was built.
    type: list
    elements: str
    default: []
  keep:
    description: How many other releases may stay.
    type: int
    default: 2
attributes:
  check_mode:
    description: Tells whether it is there, and what would be removed.
    support: full
"""

EXAMPLES = r"""
- name: Look whether it is there
  dicom.orthanc.source_release:
    name: 1.12.7-0a1b2c3d
    release: 1.12.7
    builds: "{{ builds }}"
  register: there
"""

RETURN = r"""
missing:
  description: Whether something of it is not there, or not as it was built.
  type: bool
  returned: always
platform:
  description: Distribution, release and machine, for which it has to be built.
  type: str
  returned: always
  sample: debian-13-x86_64
removed:
  description: The releases that were removed.
  type: list
  elements: str
  returned: always
"""

import os
import re
import tarfile
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.building import BuildError, file_of, platform, stem
from ansible_collections.dicom.orthanc.plugins.module_utils.files import lock, nearest
from ansible_collections.dicom.orthanc.plugins.module_utils.lsb import digest
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


def whole(folder: str, builds: list[dict[str, Any]]) -> bool:
    """Tell whether a folder has all that was built, as it was built for a host like this one."""
    for build in builds:
        try:
            with open(os.path.join(folder, f"{stem(build, platform())}.sums"), encoding="ascii") as file:
                sums = {name: sha256 for sha256, name in re.findall(r"(?m)^([0-9a-f]{64})  ([\w.-]+)$", file.read())}
        except OSError:
            return False
        wanted = map(file_of, build["targets"])
        if any(not sums.get(name) or digest(os.path.join(folder, name)) != sums[name] for name in wanted):
            return False
    return True


def unpack(archive: str, build: dict[str, Any], folder: str) -> list[str]:
    """Unpack what was built, and nothing else; the list by which it is known to be whole comes last."""
    files = [file_of(target) for target in build["targets"]]
    lists = [f"{stem(build, platform())}.{ending}" for ending in ("packages", "sums")]
    with tarfile.open(archive) as tar:
        inside = {member.name: member for member in tar if member.isreg()}
        lacking = [name for name in (*files, *lists) if name not in inside]
        if lacking:
            raise BuildError(f"what was built of {build['name']} lacks {', '.join(lacking)}; build it again.")
        for name in (*files, *lists):
            given = tar.extractfile(inside[name])
            path = os.path.join(folder, name)
            with open(path, "wb") as file:
                file.write(given.read() if given else b"")
            os.chmod(path, 0o755 if name in files and not name.endswith(".so") else 0o644)
    return [os.path.join(folder, name) for name in (*files, *lists)]


def put(module: AnsibleModule, folder: str, ours: bool) -> None:
    """Unpack to a folder beside, prove it there, and only then move it to its place."""
    path, builds = module.params["path"], module.params["builds"]
    staging = tempfile.mkdtemp(prefix=NEW, dir=path)
    try:
        pairs = zip(module.params["archives"], builds, strict=True)
        files = [name for archive, build in pairs for name in unpack(archive, build, staging)]
        if not whole(staging, builds):
            raise BuildError("what was built did not come whole; run again.")
        said = refusal(module, os.path.join(staging, "Orthanc"), module.params["release"])
        if said:
            raise BuildError(f"what was built does not run on this host, or is another release: {said}.")
        if ours:
            mark(path)
        settle(files, folder)
    finally:
        remove_release(staging)


def have(module: AnsibleModule) -> dict[str, Any]:
    """Look whether it is there, put it there if it was given, and say what was done for it."""
    path, name = module.params["path"], module.params["name"]
    folder = os.path.join(path, name)
    above = nearest(folder)
    if not os.path.isdir(above):
        module.fail_json(
            f"Orthanc {module.params['release']} is not in place, and nothing has changed: {above} is no folder, so"
            f" that {folder} cannot be made (orthanc_source_dir)."
        )
    missing = not whole(folder, module.params["builds"])
    ours = is_ours(path)
    only_looks = missing and not module.params["archives"]
    removed = outdated(path, name, module.params["keep"]) if ours and not only_looks else []
    said = {"missing": missing, "platform": platform(), "removed": removed, "changed": missing or bool(removed)}
    if module.check_mode or only_looks:
        return said
    try:
        # Open to all, whatever the host's umask is.
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o755)
        if ours:
            tidy(path)
        if missing:
            put(module, folder, ours)
        if ours:
            mark(path)
    except BuildError as error:
        module.fail_json(f"Orthanc {module.params['release']} is not in place, and nothing has changed: {error}")
    except OSError as error:
        module.fail_json(
            f"Orthanc {module.params['release']} is not in place, and nothing has changed: {error}"
            " (orthanc_source_dir)."
        )
    if os.path.realpath(os.path.join(path, "current")) != folder:
        os.utime(folder)
    for old in removed:
        remove_release(os.path.join(path, old))
    return said


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/opt/orthanc-source"},
            "name": {"type": "str", "required": True},
            "release": {"type": "str", "required": True},
            "builds": {"type": "list", "elements": "dict", "required": True},
            "archives": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "int", "default": 2},
        },
        supports_check_mode=True,
    )
    # What is missing, and what may go, is decided while no other run changes it.
    with lock(module):
        module.exit_json(**have(module))


if __name__ == "__main__":
    main()

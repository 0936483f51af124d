#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have what scripts in Python import, in a virtual environment that is known by what it was made of."""

from __future__ import annotations

DOCUMENTATION = r"""
module: python_environment
short_description: Have a virtual environment of locked requirements
version_added: 0.2.0
description:
  - Makes a virtual environment, in a folder that is named after the requirements and the release of Python. It is never
    changed - other requirements make another one, so that what uses the one before can go back to it.
  - Takes wheels alone, each with its hash; nothing is built on the host. Where they come from is what the requirements
    say, or the configuration of C(pip) on the host.
  - When one is made, others go that O(named_in) does not name. Their files are removed by a list that was written when
    they were made.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  path:
    description: Folder of the environments.
    type: path
    default: /opt/orthanc-python
  requirements:
    description: What C(pip) reads as a requirements file, with hashes. Empty to remove all environments.
    type: str
    default: ""
  named_in:
    description:
      - Files, and folders of files, whose text names the environments that are in use, by their paths, and those that
        the way back leads to.
    type: list
    elements: path
    default: []
  python:
    description: The Python that it is for.
    type: path
    default: /usr/bin/python3
attributes:
  check_mode:
    description: Tells whether it would be made, and where. Nothing is fetched.
    support: full
  diff_mode:
    description: There is none.
    support: none
"""

EXAMPLES = r"""
- name: Have what the scripts import
  dicom.orthanc.python_environment:
    requirements: "{{ lookup('ansible.builtin.file', inventory_dir ~ '/scripts/requirements.txt', rstrip=false) }}"
    named_in: [/etc/pacs/orthanc, /var/lib/pacs/orthanc/last.json]
"""

RETURN = r"""
packages:
  description: The folder that has the modules, to be put on Python's path. Empty without requirements.
  type: str
  returned: always
  sample: /opt/orthanc-python/0a1b2c3d4e5f/lib/python3.13/site-packages
"""

import contextlib
import hashlib
import os
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import (
    MARK,
    Refused,
    lock,
    make_folders,
    marked,
    plain_files,
    remove,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.releases import mark
from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import Unit

# The list of what an environment consists of: written last, so that one without it is not whole.
FILES = "files"
NAME = re.compile(r"[0-9a-f]{12}")
PIP = (
    *("-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir"),
    *("--require-hashes", "--only-binary=:all:", "--retries=2", "--requirement=/dev/stdin"),
)


def below(folder: str) -> list[str]:
    """Return the files and links in a folder and below, by their paths from there."""
    return sorted(
        os.path.relpath(os.path.join(path, name), folder)
        for path, folders, files in os.walk(folder)
        for name in [*files, *(one for one in folders if os.path.islink(os.path.join(path, one)))]
    )


def texts(paths: list[str]) -> str:
    """Return the text of files, and of those in folders, as far as they are there."""
    found = []
    for path in (one for named in paths for one in (plain_files(named) if os.path.isdir(named) else [named])):
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
            found.append(file.read())
    return "\n".join(found)


def make(module: AnsibleModule, folder: str) -> None:
    """Make an environment. :raises Refused: if that fails, with what was said."""
    # Orthanc has to read it, whatever the host's umask is.
    before = os.umask(0o022)
    try:
        make_folders(os.path.dirname(folder))
        mark(os.path.dirname(folder))
        python = os.path.join(folder, "bin", "python3")
        # Only pip reads what is asked for: a command that has ended before it is written fails for that alone.
        venv = [module.params["python"], "-m", "venv", "--clear", folder]
        for command, data in ((venv, None), ([python, *PIP], module.params["requirements"])):
            rc, out, err = module.run_command(command, data=data, cwd="/")
            if rc:
                lines = [line.strip() for line in f"{out}\n{err}".splitlines() if line.strip()]
                errors = [line for line in lines if line.startswith("ERROR")] or lines[-3:]
                raise Refused(" ".join(errors[:5]))
        files = "".join(f"{name}\n" for name in below(folder))
        with open(os.path.join(folder, FILES), "w", encoding="utf-8") as file:
            file.write(files)
        os.sync()
    finally:
        os.umask(before)


def remove_environment(folder: str) -> None:
    """Remove what an environment was made of, and its folders where there is nothing else in them."""
    try:
        with open(os.path.join(folder, FILES), encoding="utf-8") as file:
            names = [*file.read().splitlines(), FILES]
    except FileNotFoundError:
        # It could not be made whole.
        names = below(folder)
    for name in names:
        # A list that somebody has changed leads nowhere else.
        if ".." not in name.split("/") and not name.startswith("/") and os.path.lexists(os.path.join(folder, name)):
            remove(os.path.join(folder, name))
    for path, _folders, _files in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def have(module: AnsibleModule) -> dict[str, Any]:
    """Have the environment, and say what was done for it."""
    path, requirements, packages, missing = module.params["path"], module.params["requirements"], "", False
    ours = [name for name in (os.listdir(path) if marked(path) else []) if NAME.fullmatch(name)]
    whole = [name for name in ours if os.path.exists(os.path.join(path, name, FILES))]
    # What others have left in one that went is none.
    half = [name for name in ours if name not in whole and os.path.exists(os.path.join(path, name, "pyvenv.cfg"))]
    going = whole + half
    if requirements:
        ask = "import sys; print('python%d.%d' % sys.version_info[:2])"
        release = str(module.run_command([module.params["python"], "-c", ask], check_rc=True)[1]).strip()
        name = hashlib.sha256(f"{release}\n{requirements}".encode()).hexdigest()[:12]
        folder = os.path.join(path, name)
        packages, missing = os.path.join(folder, "lib", release, "site-packages"), name not in whole
        # Orthanc has not proved the new one yet: it runs with one of these, or goes back to it.
        used = texts(module.params["named_in"]) if missing else ""
        unused = [other for other in going if other != name and os.path.join(path, other) not in used]
        going = unused if missing else []
        if missing and not module.check_mode:
            make(module, folder)
    if not module.check_mode:
        for other in going:
            remove_environment(os.path.join(path, other))
        if not packages and marked(path) and os.listdir(path) == [MARK]:
            remove(os.path.join(path, MARK))
            os.rmdir(path)
    return {"changed": missing or bool(going), "packages": packages}


def still(module: AnsibleModule) -> str:
    """Return what has become of Orthanc, which has not been told anything yet."""
    return "Orthanc runs as before" if Unit(module, "orthanc.service").active else "Orthanc was not started"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/opt/orthanc-python"},
            "requirements": {"type": "str", "default": ""},
            "named_in": {"type": "list", "elements": "path", "default": []},
            "python": {"type": "path", "default": "/usr/bin/python3"},
        },
        supports_check_mode=True,
    )
    with lock(module):
        try:
            module.exit_json(**have(module))
        except OSError as error:
            module.fail_json(f"{error.filename or module.params['path']}: {error.strerror}. {still(module)}.")
        except Refused as error:
            module.fail_json(f"orthanc_python_requirements: they cannot be installed, and {still(module)}: {error}")


if __name__ == "__main__":
    main()

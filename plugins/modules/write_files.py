#!/usr/bin/python
# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the files of a role in one go."""

from __future__ import annotations

DOCUMENTATION = r"""
module: write_files
short_description: Write folders and files in one go, and take out what does not belong there
version_added: 0.1.0
description:
  - Does for a whole list of files what M(ansible.builtin.template), M(ansible.builtin.file) and M(ansible.builtin.find)
    do one by one. Each task costs about half a second per host, and a role has some ten files.
  - Files are written in the order of the list, each replaced in one step, with its owner and mode set beforehand.
  - Contents given as O(files[].secret) appear neither in diffs nor in logs.
author: The dicom.orthanc authors
options:
  folders:
    description: Folders to have. Missing ones above them are made too, for root and with mode 0755.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      owner:
        description: Owning user.
        type: str
        default: root
      group:
        description: Owning group.
        type: str
        default: root
      mode:
        description: Mode as an octal number in quotes.
        type: str
        default: "0755"
  files:
    description: Files to have. Their folders have to be there or in O(folders).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description:
          - What the file holds. Give this, O(files[].template), O(files[].secret), O(files[].secret_template),
            O(files[].made_by) or O(files[].link).
        type: str
      template:
        description: Template of the role, which is rendered to O(files[].content) on the control node.
        type: str
      link:
        description: What the path is a symbolic link to.
        type: str
      made_by:
        description: Shell command that makes the file where it is missing. Otherwise only owner and mode are set.
        type: str
      secret:
        description: What the file holds, if it must not be shown.
        type: str
      secret_template:
        description: Template of the role, which is rendered to O(files[].secret) on the control node.
        type: str
      owner:
        description: Owning user.
        type: str
        default: root
      group:
        description: Owning group.
        type: str
        default: root
      mode:
        description: Mode as an octal number in quotes.
        type: str
        default: "0644"
      validate:
        description: Command that must succeed before the file is replaced; C(%s) stands for the candidate.
        type: str
  template_vars:
    description: Variables for all templates, worked out once. Otherwise a derived one is derived at each use.
    type: dict
    default: {}
  purge:
    description: Folders in which nothing but the given files and folders may be.
    type: list
    elements: path
    default: []
  absent:
    description: Files and links that may not be there.
    type: list
    elements: path
    default: []
attributes:
  action:
    description: Renders the templates on the control node.
    support: full
  check_mode:
    description: Tells what would change. Validation is left out, as is an owner who is not there yet.
    support: full
  diff_mode:
    description: Shows the difference of every file whose content is no secret.
    support: full
"""

EXAMPLES = r"""
- name: Write the configuration
  dicom.orthanc.write_files:
    folders:
      - {path: /etc/pacs/orthanc, group: orthanc, mode: "0750"}
    files:
      - path: /etc/pacs/orthanc/orthanc.json
        template: etc/pacs/orthanc/orthanc.json.j2
        group: orthanc
        mode: "0640"
    purge: [/etc/pacs/orthanc]
"""

RETURN = r"""
paths:
  description: What was changed, made or removed.
  type: list
  elements: str
  returned: always
"""

import grp
import os
import pwd
import shlex
import shutil
import stat
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def make_folders(path: str) -> None:
    """Make a folder and those above it, open to all whatever the host's umask is.

    Below a folder that a hardened host's umask closes, nginx's workers would not find their users.
    """
    if not os.path.isdir(path):
        make_folders(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)


class Writer:
    """Brings folders and files to the wished state and keeps account of what changed."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.paths: list[str] = []
        self.diffs: list[dict[str, str]] = []

    def changed(self, path: str, before: str, after: str) -> None:
        self.paths.append(path)
        self.diffs.append({"before_header": path, "after_header": path, "before": before, "after": after})

    def ids(self, item: dict[str, Any]) -> tuple[int, int]:
        """Return user and group number, -2 for one that is not there in a dry run."""
        try:
            return pwd.getpwnam(item["owner"]).pw_uid, grp.getgrnam(item["group"]).gr_gid
        except KeyError as error:
            if self.module.check_mode:
                return -2, -2
            self.module.fail_json(f"{item['path']}: {error.args[0]}.")
            raise

    def attributes(self, item: dict[str, Any]) -> str | None:
        """Return owner and mode of what is at the path as text, or nothing if nothing is there."""
        try:
            found = os.lstat(item["path"])
        except FileNotFoundError:
            return None
        return f"{found.st_uid}:{found.st_gid} {stat.S_IMODE(found.st_mode):04o}\n"

    def wished(self, item: dict[str, Any], ids: tuple[int, int]) -> str:
        return f"{ids[0]}:{ids[1]} {int(item['mode'], 8):04o}\n"

    def folder(self, item: dict[str, Any]) -> None:
        ids = self.ids(item)
        before, after = self.attributes(item), self.wished(item, ids)
        if before == after and os.path.isdir(item["path"]):
            return
        self.changed(item["path"], before or "", after)
        if not self.module.check_mode:
            make_folders(item["path"])
            os.chown(item["path"], *ids)
            os.chmod(item["path"], int(item["mode"], 8))

    def made(self, item: dict[str, Any]) -> None:
        """Have the file made if it is missing, and set its owner and mode."""
        ids = self.ids(item)
        before, after = self.attributes(item), self.wished(item, ids)
        if before == after:
            return
        self.changed(item["path"], before or "", after)
        if self.module.check_mode:
            return
        if before is None:
            rc, out, err = self.module.run_command(["sh", "-euc", item["made_by"]])
            if rc or not os.path.isfile(item["path"]):
                self.module.fail_json(f"{item['path']}: the command that makes it fails: {(err or out).strip()}")
        os.chown(item["path"], *ids)
        os.chmod(item["path"], int(item["mode"], 8))

    def link(self, item: dict[str, Any]) -> None:
        """Have a symbolic link, replaced in one step."""
        path = item["path"]
        before = os.readlink(path) if os.path.islink(path) else ""
        if before == item["link"]:
            return
        self.changed(path, f"link to {before}\n" if before else "", f"link to {item['link']}\n")
        if not self.module.check_mode:
            candidate = f"{path}.new"
            if os.path.lexists(candidate):
                os.unlink(candidate)
            os.symlink(item["link"], candidate)
            os.replace(candidate, path)

    def file(self, item: dict[str, Any]) -> None:
        if item["link"] is not None:
            self.link(item)
            return
        if item["made_by"] is not None:
            self.made(item)
            return
        path, ids = item["path"], self.ids(item)
        content = item["content"] if item["secret"] is None else item["secret"]
        before = ""
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                before = file.read()
        attributes, wished = self.attributes(item), self.wished(item, ids)
        same = before == content and not os.path.islink(path) and attributes is not None
        if same and attributes == wished:
            return
        if same:
            self.changed(path, str(attributes), wished)
        elif item["secret"] is None:
            self.changed(path, before, content)
        else:
            self.changed(path, "(old secret content)\n" if before else "", "(new secret content)\n")
        if not self.module.check_mode:
            self.replace(item, content, ids)

    def replace(self, item: dict[str, Any], content: str, ids: tuple[int, int]) -> None:
        """Write beside the file, for root alone until owner and mode are set, and take its place."""
        folder, name = os.path.split(item["path"])
        if not os.path.isdir(folder):
            self.module.fail_json(f"{item['path']}: its folder is missing.")
        handle, candidate = tempfile.mkstemp(prefix=f".{name}.", suffix=".new", dir=folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chown(candidate, *ids)
            os.chmod(candidate, int(item["mode"], 8))
            if item["validate"]:
                command = [part.replace("%s", candidate) for part in shlex.split(item["validate"])]
                rc, out, err = self.module.run_command(command)
                if rc:
                    self.module.fail_json(
                        f"{item['path']}: the new content is refused and was not put in place: {(err or out).strip()}"
                    )
            os.replace(candidate, item["path"])
        finally:
            if os.path.lexists(candidate):
                os.unlink(candidate)

    def purge(self, folder: str, wanted: set[str]) -> None:
        if not os.path.isdir(folder):
            return
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.path not in wanted:
                self.absent(entry.path)

    def absent(self, path: str) -> None:
        if not os.path.lexists(path):
            return
        self.changed(path, "not in the inventory\n", "")
        if self.module.check_mode:
            return
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


class QuietModule(AnsibleModule):  # type: ignore[misc]
    """A module whose call is not put into the host's journal as it is.

    Of a text in a list Ansible masks there what has no line break and no quote in it, which leaves keys and whole
    files; and everybody who may read the journal would have them.
    """

    def _log_invocation(self) -> None:
        self.log("Invoked for " + " ".join(item["path"] for item in self.params["files"]))


def main() -> None:
    attributes = {
        "path": {"type": "path", "required": True},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
    }
    module = QuietModule(
        argument_spec={
            "folders": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": attributes | {"mode": {"type": "str", "default": "0755"}},
            },
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": attributes
                | {
                    "content": {"type": "str"},
                    # The action has rendered it to content, and the other one to secret.
                    "template": {"type": "str"},
                    "link": {"type": "str"},
                    "made_by": {"type": "str"},
                    "secret": {"type": "str", "no_log": True},
                    "secret_template": {"type": "str", "no_log": False},
                    "mode": {"type": "str", "default": "0644"},
                    "validate": {"type": "str"},
                },
                "mutually_exclusive": [("content", "link", "made_by", "secret")],
                "required_one_of": [("content", "link", "made_by", "secret")],
            },
            "template_vars": {"type": "dict", "default": {}},
            "purge": {"type": "list", "elements": "path", "default": []},
            "absent": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    writer = Writer(module)
    for item in module.params["folders"]:
        writer.folder(item)
    for item in module.params["files"]:
        writer.file(item)
    wanted = {item["path"] for kind in ("files", "folders") for item in module.params[kind]}
    for folder in module.params["purge"]:
        writer.purge(folder, wanted)
    for path in module.params["absent"]:
        writer.absent(path)
    module.exit_json(changed=bool(writer.paths), paths=writer.paths, diff=writer.diffs)


if __name__ == "__main__":
    main()

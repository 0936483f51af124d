# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folders and files of a role, for the modules that write them; documented in plugins/doc_fragments/files.py."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import shutil
import stat
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

_OWNED: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}
ARGUMENTS: dict[str, Any] = {
    "folders": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": _OWNED | {"mode": {"type": "str", "default": "0755"}},
    },
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": _OWNED
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
    "restart": {"type": "dict", "default": {}},
}


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


def write(module: AnsibleModule) -> Writer:
    """Bring the folders and files that the module was given to the wished state. Return the account of it."""
    writer = Writer(module)
    params = module.params
    for item in params["folders"]:
        writer.folder(item)
    for item in params["files"]:
        writer.file(item)
    wanted = {item["path"] for kind in ("files", "folders") for item in params[kind]}
    for folder in params["purge"]:
        writer.purge(folder, wanted)
    for path in params["absent"]:
        writer.absent(path)
    for path, service in params["restart"].items():
        if path in writer.paths and not module.check_mode:
            module.run_command(["systemctl", "restart", service], check_rc=True)
    return writer

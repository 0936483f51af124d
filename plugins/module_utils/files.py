# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folders and files of a role, for the modules that write them; documented in plugins/doc_fragments/files.py."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import re
import shlex
import stat
import time
from collections.abc import Callable
from typing import Any, TextIO

from ansible.module_utils.basic import AnsibleModule

# Where something may be removed, this file is: the toolkit made the folder, or has taken it over.
MARK = ".pacs"
MARK_TEXT = "Deployed by the collection dicom.orthanc, which may remove files here that the inventory does not name.\n"
# Below it everything is the toolkit's, marked or not: it was before there were marks.
OURS = "/etc/pacs"
LOCK = "/run/pacs.lock"
LOCK_SECONDS = 300
# When the process of a unit was started, in microseconds of the monotonic clock.
STARTED = "ExecMainStartTimestampMonotonic"

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
        "options": _OWNED | {"mode": {"type": "str", "default": "0755"}, "marked": {"type": "bool", "default": False}},
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
            "item": {"type": "raw"},
            "link": {"type": "str"},
            "made_by": {"type": "str"},
            "secret": {"type": "str", "no_log": True},
            "secret_template": {"type": "str", "no_log": False},
            "mode": {"type": "str", "default": "0644"},
            "validate": {"type": "str"},
            "unless": {"type": "path"},
        },
        "mutually_exclusive": [("content", "link", "made_by", "secret")],
        "required_one_of": [("content", "link", "made_by", "secret")],
    },
    "template_vars": {"type": "dict", "default": {}},
    "once": {"type": "list", "elements": "str", "default": []},
    "by_name": {"type": "dict", "default": {}},
    "purge": {"type": "list", "elements": "path", "default": []},
    "absent": {"type": "list", "elements": "path", "default": []},
    "restart": {"type": "dict", "default": {}},
}


def plain(path: str, content: str, mode: str, validate: str | None = None) -> dict[str, Any]:
    """Return a file of root's, as a module is given it."""
    unused = dict.fromkeys(("link", "made_by", "secret", "unless"))
    given = {"path": path, "content": content, "mode": mode, "owner": "root", "group": "root", "validate": validate}
    return unused | given


class Refused(Exception):
    """Something cannot be written as asked; the message says what and why."""


def nearest(path: str) -> str:
    """Return the path, or the nearest one above it that is there. If that is no folder, nothing can be below it."""
    path = os.path.abspath(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def free_bytes(path: str) -> int:
    """Return what is free at the path, or at the nearest folder above it that is there."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def make_folders(path: str) -> None:
    """Make a folder and those above it, open to all whatever the host's umask is.

    Below a folder that a hardened host's umask closes, nginx's workers would not find their users.
    """
    if not os.path.isdir(path):
        make_folders(os.path.dirname(path))
        os.mkdir(path)
        # Whoever owns the folder above could have put a link in its place since.
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchmod(opened, 0o755)
        finally:
            os.close(opened)


def open_folder(path: str) -> int:
    """Open a folder, through links of root's alone: who may write beside it could have put another in its place.

    :raises Refused: if a link on the way is somebody else's.
    """
    real = "/"
    for part in path.split("/"):
        beside = os.path.join(real, part)
        if os.path.islink(beside) and os.lstat(beside).st_uid:
            raise Refused(f"{path}: {beside} is a link that is not root's; name the folder that it leads to.")
        real = os.path.realpath(beside)
    opened = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        # What became a link since then is none to follow.
        for part in real.strip("/").split("/"):
            below = os.open(part or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened)
            os.close(opened)
            opened = below
    except OSError:
        os.close(opened)
        raise
    return opened


def marked(folder: str) -> bool:
    """Tell whether a folder bears the toolkit's mark."""
    return os.path.isfile(os.path.join(folder, MARK))


def plain_files(folder: str) -> list[str]:
    """Return the paths of the files and links in a folder, without the mark and without folders."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if os.path.isdir(folder) else []
    return [entry.path for entry in entries if entry.name != MARK and not entry.is_dir(follow_symlinks=False)]


def remove(path: str) -> None:
    """Remove a file or a link. A folder is none of it: there are images in folders."""
    os.unlink(path)


def sync_folder(path: str) -> None:
    """Have the names in a folder outlast a loss of power."""
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def own(opened: int, path: str, owner: tuple[int, int], mode: int) -> None:
    """Set owner and mode of what is open at the path: of a name, others could make a link to anything.

    :raises Refused: where not even root may, as with storage that comes by NFS or CIFS.
    """
    try:
        os.fchown(opened, *owner)
        os.fchmod(opened, mode)
    except PermissionError as error:
        try:
            name = pwd.getpwuid(owner[0]).pw_name
        except KeyError:
            name = "a user"
        raise Refused(
            f"{path}: has to belong to {name} (uid {owner[0]}) with mode {mode:04o}, and root may not set that here;"
            " set it where the storage is exported."
        ) from error


def put(path: str, content: str, owner: tuple[int, int], mode: int, check: Callable[[str], None] | None = None) -> None:
    """Write beside the file, for root alone until owner and mode are set, and take its place.

    :param check: is given the path of what was written, and raises what it has against it.
    """
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise Refused(f"{path}: its folder is missing.")
    candidate = os.path.join(folder, f".{name}.new")
    # Of a call that was cut off.
    if os.path.lexists(candidate):
        remove(candidate)
    # In a folder of somebody else's there may be a link again by now.
    handle = os.open(candidate, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(content)
            file.flush()
            own(file.fileno(), path, owner, mode)
            os.fsync(file.fileno())
        if check:
            check(candidate)
        os.replace(candidate, path)
    finally:
        if os.path.lexists(candidate):
            remove(candidate)
    sync_folder(folder)


def put_link(path: str, target: str) -> None:
    """Have a symbolic link, replaced in one step."""
    candidate = f"{path}.new"
    if os.path.lexists(candidate):
        remove(candidate)
    os.symlink(target, candidate)
    os.replace(candidate, path)


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
        """Return user and group number, -2 for one that is not there in check mode."""
        try:
            return pwd.getpwnam(item["owner"]).pw_uid, grp.getgrnam(item["group"]).gr_gid
        except KeyError as error:
            if self.module.check_mode:
                return -2, -2
            raise Refused(f"{item['path']}: {error.args[0]}.") from error

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
        path, ids = item["path"], self.ids(item)
        there = os.path.isdir(path)
        before = self.attributes({"path": os.path.realpath(path)}) if there else None
        after = self.wished(item, ids)
        mark = os.path.join(path, MARK)
        # Root may not write to what NFS brings from elsewhere; nothing is ever removed there.
        unmarked = item["marked"] and not marked(path) and (not there or os.access(path, os.W_OK))
        if before != after:
            self.changed(path, before or "", after)
        if unmarked:
            self.changed(mark, "", MARK_TEXT)
        if self.module.check_mode or (before == after and not unmarked):
            return
        make_folders(path)
        opened = open_folder(path)
        try:
            if unmarked:
                made = os.open(MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=opened)
                with os.fdopen(made, "w", encoding="utf-8") as file:
                    file.write(MARK_TEXT)
                    os.fchmod(file.fileno(), 0o644)
            if before != after:
                own(opened, path, ids, int(item["mode"], 8))
        finally:
            os.close(opened)

    def against(self, item: dict[str, Any], path: str) -> str | None:
        """Return what the command that looks at a file says against it, or nothing if it takes it."""
        if not item["validate"]:
            return None
        command = [part.replace("%s", path) for part in shlex.split(item["validate"])]
        rc, out, err = self.module.run_command(command)
        return (err or out).strip() if rc else None

    def made(self, item: dict[str, Any]) -> None:
        """Have the file made if it is missing or spoilt, and set its owner and mode."""
        ids = self.ids(item)
        before, after = self.attributes(item), self.wished(item, ids)
        # A loss of power can leave a file that has nothing in it.
        spoilt = before is not None and self.against(item, item["path"]) is not None
        if before == after and not spoilt:
            return
        self.changed(item["path"], "(spoilt)\n" if spoilt else before or "", after)
        if self.module.check_mode:
            return
        if before is None or spoilt:
            rc, out, err = self.module.run_command(["sh", "-euc", item["made_by"]])
            if rc or not os.path.isfile(item["path"]):
                raise Refused(f"{item['path']}: the command that makes it fails: {(err or out).strip()}")
        opened = os.open(item["path"], os.O_RDONLY | os.O_NOFOLLOW)
        try:
            own(opened, item["path"], ids, int(item["mode"], 8))
        finally:
            os.close(opened)

    def link(self, item: dict[str, Any]) -> None:
        path = item["path"]
        if item["unless"] and (os.path.lexists(path) or os.path.lexists(item["unless"])):
            return
        before = os.readlink(path) if os.path.islink(path) else ""
        if before == item["link"]:
            return
        self.changed(path, f"link to {before}\n" if before else "", f"link to {item['link']}\n")
        if not self.module.check_mode:
            put_link(path, item["link"])

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
        def check(candidate: str) -> None:
            said = self.against(item, candidate)
            if said is not None:
                raise Refused(f"{item['path']}: the new content is refused and was not put in place: {said}")

        put(item["path"], content, ids, int(item["mode"], 8), check if item["validate"] else None)

    def take_over(self, folder: str, wanted: set[str]) -> None:
        """Look whether a folder without a mark may be taken for ours. :raises Refused: if it may not."""
        foreign = [path for path in plain_files(folder) if path not in wanted]
        if foreign and not marked(folder) and os.path.dirname(folder) != OURS:
            raise Refused(
                f"{folder}: there is {foreign[0]}, which is none of ours, and this folder may hold nothing else than"
                f" files of ours. Choose another folder; or have the others removed, with `touch {folder}/{MARK}`."
            )

    def purge(self, folder: str, wanted: set[str]) -> None:
        """Take out the plain files that are not wanted, of a folder that is ours."""
        if marked(folder) or (self.module.check_mode and os.path.isdir(folder)):
            for path in plain_files(folder):
                if path not in wanted:
                    self.absent(path)

    def absent(self, path: str) -> None:
        if not os.path.lexists(path):
            return
        if os.path.isdir(path) and not os.path.islink(path):
            raise Refused(f"{path}: it is a folder, where a file was expected that is to be removed.")
        self.changed(path, "not in the inventory\n", "")
        if not self.module.check_mode:
            remove(path)


class QuietModule(AnsibleModule):  # type: ignore[misc]
    """A module whose call is not put into the host's journal as it is.

    Of a text in a list Ansible masks there what has no line break and no quote in it, which leaves keys and whole
    files; and everybody who may read the journal would have them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Where root is reached by `su`, its programs are not in the path: nginx's check, for one.
        os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

    def _log_invocation(self) -> None:
        self.log("Invoked for " + " ".join(item["path"] for item in self.params["files"]))


def lock(module: AnsibleModule) -> TextIO:
    """Keep other runs off what this module is to change, if it is, until the file is closed or the process ends."""
    if module.check_mode:
        return open(os.devnull, "w", encoding="ascii")
    try:
        opened = os.fdopen(os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+", encoding="utf-8")
    except OSError as error:
        module.fail_json(f"{told(error)} Nothing was changed.")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            user, now = os.environ.get("SUDO_USER", "root"), time.strftime("%Y-%m-%d %H:%M:%S %z")
            # Where there is no room for the words, it keeps others off all the same.
            with contextlib.suppress(OSError):
                os.ftruncate(opened.fileno(), 0)
                os.pwrite(opened.fileno(), f"by {user}, process {os.getpid()}, since {now}".encode(), 0)
            return opened
        except BlockingIOError:
            if time.monotonic() > deadline:
                opened.seek(0)
                module.fail_json(
                    f"Another run has been changing this host for {LOCK_SECONDS} s ({opened.read()}); wait for its end,"
                    " and run again."
                )
            time.sleep(0.2)


def write(module: AnsibleModule) -> Writer:
    """Bring the folders and files that the module was given to the wished state, while no other run does so."""
    with lock(module):
        return bring(module)


def plan(module: AnsibleModule) -> Writer:
    """Return the account of what would be brought to the wished state."""
    real, module.check_mode = module.check_mode, True
    try:
        return bring(module)
    finally:
        module.check_mode = real


def bring(module: AnsibleModule, back: Callable[[], str] | None = None) -> Writer:
    """Bring the folders and files that the module was given to the wished state. Return the account of it.

    :param back: goes back to what was before, and says so; called before the module fails.
    """
    writer = Writer(module)
    params = module.params
    try:
        for kind in ("folders", "files"):
            for item in params[kind]:
                item["path"] = os.path.normpath(item["path"])
        wanted = {item["path"] for kind in ("files", "folders") for item in params[kind]}
        purged = [os.path.normpath(folder) for folder in params["purge"]]
        for folder in purged:
            writer.take_over(folder, wanted)
        for item in params["folders"]:
            writer.folder(item)
        for item in params["files"]:
            writer.file(item)
        for folder in purged:
            writer.purge(folder, wanted)
        for path in params["absent"]:
            writer.absent(path)
        for path, service in params["restart"].items():
            if path not in writer.paths and newer(module, path, service):
                writer.changed(path, f"not read by {service}\n", "")
            if path in writer.paths and not module.check_mode:
                rc, _out, err = module.run_command(["systemctl", "restart", service])
                if rc:
                    raise Refused(f"{service} cannot be restarted: {err.strip()}")
    except Exception as error:
        # Half of a change is none: the next start would take it.
        module.fail_json(f"{told(error)} {back() if back and not module.check_mode else ''}".strip())
    return writer


def newer(module: AnsibleModule, path: str, service: str) -> bool:
    """Tell whether a file was written since its service was started, as by a call that was cut off."""
    if not os.path.exists(path):
        return False
    said = re.search(
        rf"{STARTED}=(\d+)", module.run_command(["systemctl", "show", service, f"--property={STARTED}"])[1]
    )
    return said is not None and os.stat(path).st_mtime > since_1970(said[1])


def since_1970(started: str) -> float:
    """Return in seconds since 1970 when a process was started, as files are dated.

    :param started: what systemd says, in microseconds of the monotonic clock; empty or 0 if it was not.
    """
    return time.time() - time.monotonic() + int(started or 0) / 1e6


def told(error: Exception) -> str:
    """Say what has gone wrong."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}."
    return str(error) if isinstance(error, Refused) else f"This is a mistake of the toolkit: {error!r}."

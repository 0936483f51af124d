# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup that is restored in a folder of its own, and the very Orthanc of this host."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable
from typing import Any

from .backup import Backup
from .common import MIB, SPARE, Failed, owned, place
from .index import md5
from .repository import Repository, tagged

DRILLED = "pacs-drill-orthanc"
ANY = re.compile(r".*", re.DOTALL)
# With how many names restic is called at most.
INCLUDES = 1000


class Beside:
    """A folder beside the images, in which a backup is restored."""

    NAME = ""

    def __init__(self, backup: Backup, above: str = "") -> None:
        self.backup, self.repository = backup, backup.repository
        self.folder = pathlib.Path(above or backup.storage, self.NAME)
        self.report: dict[str, Any] = {}

    @functools.cached_property
    def opened(self) -> tuple[int, pathlib.Path]:
        return owned(self.folder)

    @property
    def tree(self) -> pathlib.Path:
        """What was restored."""
        return self.opened[1] / "tree"

    def inside(self, path: str) -> pathlib.Path:
        return self.tree / path.lstrip("/")

    def real(self, path: pathlib.Path) -> str:
        """Return the path of something in it that holds for other processes as well."""
        return str(self.folder / path.relative_to(self.opened[1]))

    def clear(self, ours: re.Pattern[str] = ANY) -> None:
        """Remove what was restored, files and links by their names, and folders that are empty then."""
        for _path, folders, names, at in os.fwalk(".", topdown=False, dir_fd=self.opened[0]):
            # A link to a folder is among the folders.
            links = [name for name in folders if stat.S_ISLNK(os.lstat(name, dir_fd=at).st_mode)]
            for name in filter(ours.fullmatch, [*names, *links]):
                os.unlink(name, dir_fd=at)
            for name in set(folders) - set(links):
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=at)

    def anew(self) -> None:
        """Have nothing in the folder but a new one for what is restored. :raises Failed: if something stays."""
        self.clear()
        if left := os.listdir(self.opened[0]):
            raise Failed(f"{self.folder}/{left[0]} cannot be removed: somebody else is at work there.")
        os.mkdir("tree", 0o700, dir_fd=self.opened[0])

    def away(self, ours: re.Pattern[str] = ANY) -> None:
        """Remove the folder as well."""
        self.clear(ours)
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)

    def holds(self) -> int:
        """Return how many bytes were restored already."""
        found = 0
        for _path, _folders, names, at in os.fwalk(".", dir_fd=self.opened[0]):
            found += sum(os.stat(name, dir_fd=at, follow_symlinks=False).st_size for name in names)
        return found

    def fetch(self, snapshot: str, paths: list[str]) -> None:
        """Have restic restore some files; what it lacks is seen later."""
        for first in range(0, len(paths), INCLUDES):
            words = [word for path in paths[first : first + INCLUDES] for word in ("--include", escaped(path))]
            self.repository.run("restore", "--target", str(self.tree), snapshot, *words)

    def gathered(self, snapshots: list[dict[str, Any]], wanted: dict[str, tuple[int, str]]) -> dict[str, pathlib.Path]:
        """Have files, each from the first of some backups that has it. Return where they are, by their names.

        :param wanted: of each file its size and its MD5, if that is known: it never changes.
        """
        found: dict[str, pathlib.Path] = {}
        for snapshot in snapshots:
            left = [name for name in wanted if name not in found]
            if not left:
                break
            said = self.repository.ask("dump", str(snapshot["id"]), f"{tagged(snapshot, 'index')}/backup.json")
            told = json.loads(said)
            self.fetch(tagged(snapshot, "files"), [str(place(told["storage_dir"], name)) for name in left])
            self.fetch(str(snapshot["id"]), [f"{told['held']}/{name}" for name in left])
            settle(self.tree, told)
            for name in left:
                path, (length, digest) = place(self.inside(told["storage_dir"]), name), wanted[name]
                if path.is_file() and path.stat().st_size == length and digest in ("", md5(path)):
                    found[name] = path
        return found

    def room(self, told: dict[str, Any], files: int, way_out: str) -> None:
        """See whether index and files fit beside the archive, which is in use. :raises Failed: if not."""
        needed = max(0, files + told.get("index_bytes", 0) - self.holds())
        disk = shutil.disk_usage(self.folder.parent)
        spare = max(disk.total // SPARE, 1024 * MIB)
        if disk.free < needed + spare:
            raise Failed(
                f"The backup takes {needed // MIB} MiB more in {self.folder}, whose disk has {disk.free // MIB} MiB"
                f" free, of which {spare // MIB} are for images that come. {way_out}"
            )


def escaped(path: str) -> str:
    """Return a path as restic takes it for this one alone."""
    return re.sub(r"([\\*?\[])", r"\\\1", path)


def orthanc_command(settings: str, *folders: str) -> tuple[list[str], bool]:
    """Return how the very Orthanc of this host is started with other settings, and whether it is in a container."""
    said = subprocess.run(
        ["systemctl", "show", "orthanc", "--property=ExecStart"], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"argv\[\]=(.*?) ;", said)
    if not found:
        raise Failed("There is no orthanc.service on this host, whose Orthanc could be tried; run playbooks/site.yml.")
    words = found[1].split()
    if os.path.basename(words[0]) != "docker":
        return [words[0], settings], False
    kept = [word for word in words if re.match(r"--(user|userns)=", word)]
    options = ["--rm", "--pull=never", "--no-healthcheck", "--log-driver=none", "--network=none", "--read-only"]
    options += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--volume=/etc/localtime:/etc/localtime:ro"]
    # It is dockerd that it is a child of.
    options += ["--volume=/tmp", "--cpu-shares=64", "--oom-score-adj=800"]
    options += [f"--volume={folder}:{folder}" for folder in folders]
    return [words[0], "run", f"--name={DRILLED}", *options, *kept, "--entrypoint=Orthanc", words[-2], settings], True


def restore(
    repository: Repository,
    snapshot: dict[str, Any],
    told: dict[str, Any],
    tree: pathlib.Path,
    names: Iterable[str],
    index: bool = True,
) -> list[str]:
    """Restore some files, with their index, for Orthanc's user. Return what restic has against it."""
    said = []
    words = [word for name in names for word in ("--include", f"{told['storage_dir']}/{name}")]
    for asked in ([tagged(snapshot, "files"), *words], *([[str(snapshot["id"])]] if index else [])):
        done = repository.run("restore", "--target", str(tree), *asked)
        said += [str(repository.refused(done))] if done.returncode else []
    settle(tree, told)
    return said


def settle(tree: pathlib.Path, told: dict[str, Any]) -> None:
    """Have what was restored be Orthanc's, and what was held be in its place.

    Whoever had taken Orthanc over could have had links backed up: nothing is followed, and none is left.
    """
    owner = pwd.getpwnam("orthanc")
    os.chown(tree, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    for _path, folders, files, at in os.fwalk(tree):
        for name in (*folders, *files):
            if stat.S_IFMT(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode) in (stat.S_IFDIR, stat.S_IFREG):
                os.chown(name, owner.pw_uid, owner.pw_gid, dir_fd=at, follow_symlinks=False)
            else:
                os.unlink(name, dir_fd=at)
    storage = pathlib.Path(tree, told["storage_dir"].lstrip("/"))
    for path in pathlib.Path(tree, told["held"].lstrip("/")).glob("*-*"):
        target = place(storage, path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
        for one in (target.parent.parent, target.parent):
            os.chown(one, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def orthanc_version(folder: str) -> str:
    """Return which release this host has; nothing where it does not say a number."""
    command, _ = orthanc_command("--version", folder)
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"\d+(\.\d+)+", said.partition("\n")[0])
    return found[0] if found else ""


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]

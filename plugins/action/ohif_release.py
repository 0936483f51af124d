# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch, prove and adapt a release of the viewer; documented in plugins/modules/ohif_release.py."""

from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.urls import open_url
from ansible.plugins.action import ActionBase
from ansible_collections.dicom.orthanc.plugins.module_utils import building, ohif

PACKAGE = "@ohif/app"


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible carries no types
    """Runs on the control node, which may reach what the host may not, and brings the host what it lacks."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        # Where the package comes from is nothing for the host.
        arguments = {name: value for name, value in self._task.args.items() if name != "source"}
        found = dict(self._execute_module(self._task.action, arguments, task_vars=task_vars))
        if not found.get("missing") or self._task.check_mode:
            return found
        with tempfile.NamedTemporaryFile(prefix="ohif-") as file:
            file.write(made(dict(self._task.args)))
            file.flush()
            if not self._connection._shell.tmpdir:
                self._make_tmp_path()
            there = self._connection._shell.join_path(self._connection._shell.tmpdir, "ohif.tar.gz")
            arguments["archive"] = self._transfer_file(file.name, there)
        return dict(self._execute_module(self._task.action, arguments, task_vars=task_vars))


def made(arguments: dict[str, Any]) -> bytes:
    """Return the archive for the host.

    :raises AnsibleActionFail: if the package cannot be had, or is another one than the inventory names.
    """
    version, wanted, url = (arguments[name] for name in ("version", "integrity", "url"))
    package = fetched(version, wanted, arguments.get("source") or "")
    found = ohif.integrity(package)
    if found != wanted:
        raise AnsibleActionFail(
            f"ohif_integrity: the package of OHIF {version} has {found}, and the inventory says {wanted}. Nothing"
            " has changed of the viewer. With another ohif_version comes another ohif_integrity (docs/viewers.md); else"
            " find out why before you take this one."
        )
    try:
        return ohif.packed(ohif.adapted(ohif.unpacked(package), url), url)
    except ohif.LayoutError as error:
        raise AnsibleActionFail(
            f"ohif_version: the package of OHIF {version} is built in another way than this toolkit knows: {error}."
            " Nothing has changed of the viewer. Take the release that is the default, or a newer toolkit."
        ) from error


def fetched(version: str, integrity: str, source: str) -> bytes:
    """Return a package: from where the inventory has it, or else by npm, which is kept for the next host."""
    if source.startswith(("http://", "https://")):
        try:
            return bytes(open_url(source, timeout=60).read())
        except Exception as error:
            raise AnsibleActionFail(f"ohif_archive: {source} cannot be fetched: {error}") from error
    if source:
        try:
            return pathlib.Path(source).expanduser().read_bytes()
        except OSError as error:
            raise AnsibleActionFail(f"ohif_archive: {source} cannot be read: {error.strerror}.") from error
    folder = pathlib.Path(building.cache())
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"ohif-app-{version}.tgz"
    with (folder / "ohif.lock").open("w", encoding="utf-8") as held:
        # Whoever needs the same waits here, and finds it there.
        fcntl.flock(held, fcntl.LOCK_EX)
        if not kept.exists() or ohif.integrity(kept.read_bytes()) != integrity:
            by_npm(version, kept)
        return kept.read_bytes()


def by_npm(version: str, kept: pathlib.Path) -> None:
    """Have npm fetch a package, from the registry that it is configured for."""
    if not shutil.which("npm"):
        raise AnsibleActionFail(
            "ohif_archive: npm fetches the viewer, and this machine does not have it. Install it (Debian: apt-get"
            " install npm), or name a file or a URL with the package (docs/viewers.md)."
        )
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        command = ["npm", "pack", f"{PACKAGE}@{version}", "--pack-destination", folder, "--loglevel", "error"]
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        files = list(pathlib.Path(folder).glob("*.tgz"))
        if done.returncode or len(files) != 1:
            said = " ".join(done.stderr.split())[:500] or "it says nothing"
            raise AnsibleActionFail(f"ohif_version: npm cannot fetch OHIF {version}: {said}")
        os.replace(files[0], kept)

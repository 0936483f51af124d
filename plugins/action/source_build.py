# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build what the control node does not have, on the host of the task; documented in plugins/modules/source_build.py."""

from __future__ import annotations

import fcntl
import pathlib
import tarfile
import time
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.dicom.orthanc.plugins.module_utils import building, lsb

# Between two lines about how far it is, in seconds.
TELL = 60


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible carries no types
    """Runs on the control node, which holds what is carried from the host that builds to all others."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        self._variables = task_vars or {}
        super().run(tmp, self._variables)
        arguments = dict(self._task.args)
        platform, folder = arguments["platform"], pathlib.Path(building.cache())
        folder.mkdir(parents=True, exist_ok=True)
        archives = {build["key"]: folder / f"{building.stem(build, platform)}.tar.gz" for build in arguments["builds"]}
        if self._task.check_mode:
            missing = [build["name"] for build in arguments["builds"] if not archives[build["key"]].exists()]
            return {"changed": bool(missing), "archives": [], "packages": [], "built": missing}
        with (folder / f"{platform}.lock").open("a+", encoding="utf-8") as held:
            self._alone(held, platform)
            missing = [build for build in arguments["builds"] if not archives[build["key"]].exists()]
            if missing:
                self._build(arguments | {"builds": missing}, archives, held)
        found = list(map(str, archives.values()))
        packages = sorted({package for path in found for package in needed(path)})
        built = [build["name"] for build in missing]
        return {"changed": bool(built), "archives": found, "packages": packages, "built": built}

    def _alone(self, held: Any, platform: str) -> None:
        """Wait until nobody else has something built for the same kind of host; it may be what this one needs."""
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Also one of a run that was killed: Ansible's workers live on until their task has ended.
            here = self._play_context.remote_addr
            Display().display(f"  {here} waits for another host or run, which has something built for {platform}.")
            fcntl.flock(held, fcntl.LOCK_EX)

    def _build(self, arguments: dict[str, Any], archives: Mapping[str, pathlib.Path], held: Any) -> None:
        """Have it built on the host. A failure is told to all who wait for the same in this run."""
        held.seek(0)
        run, _, said = held.read().partition("\n")
        if run == self._task._uuid:
            raise AnsibleActionFail(said)
        try:
            needed = self._ask(arguments, step="prepare", received=self._bring(arguments["builds"]))["needed"]
            if needed:
                of_each = [package for build in arguments["builds"] for package in build["packages"]]
                self._install(sorted({*arguments.get("packages", []), *of_each}))
            for build in arguments["builds"]:
                self._one(arguments | {"builds": [build]}, archives[build["key"]])
        except AnsibleActionFail as error:
            held.truncate(0)
            held.write(f"{self._task._uuid}\n{error}")
            raise

    def _one(self, arguments: dict[str, Any], archive: pathlib.Path) -> None:
        """Build from one tarball and fetch what has come out of it."""
        name, told = arguments["builds"][0]["name"], 0.0
        while self._ask(arguments, step="start")["busy"]:
            time.sleep(TELL)
        while True:
            done = self._ask(arguments, step="wait")
            if not done["running"]:
                break
            if time.monotonic() > told + TELL:
                told = time.monotonic()
                Display().display(f"  {self._play_context.remote_addr} builds {name}: {done['running']}")
        new = archive.with_name(f".{archive.name}.new")
        self._connection.fetch_file(done["archive"], str(new))
        if lsb.digest(str(new)) != done["sha256"]:
            raise AnsibleActionFail(f"What was built of {name} did not come whole; run again.")
        new.replace(archive)

    def _install(self, packages: list[str]) -> None:
        given = {
            "name": packages,
            "install_recommends": False,
            "update_cache": True,
            # Where another host builds, nothing is known of its lists of packages.
            "cache_valid_time": 0,
            # By which the next run knows what one that was cut off has left.
            "policy_rc_d": self._variables.get("site_policy_rc_d", 101),
            "lock_timeout": 600,
            "fail_on_autoremove": True,
        }
        try:
            self._module("ansible.builtin.apt", given)
        except AnsibleActionFail as error:
            raise AnsibleActionFail(
                "Nothing of Orthanc was changed: a compiler or library that the build takes cannot be installed; see"
                f" the host's sources of packages, or name another orthanc_source_build_host. {error}"
            ) from error

    def _bring(self, builds: list[dict[str, Any]]) -> dict[str, str]:
        """Bring tarballs that are files of the control node."""
        ours = {one["sha256"]: one["from"] for build in builds for one in (*build["sources"], *build["framework"])}
        ours = {sha256: path for sha256, path in ours.items() if "://" not in path}
        if ours and not self._connection._shell.tmpdir:
            self._make_tmp_path()
        tmpdir = self._connection._shell.tmpdir
        return {
            sha256: self._transfer_file(path, self._connection._shell.join_path(tmpdir, sha256))
            for sha256, path in ours.items()
        }

    def _ask(self, arguments: dict[str, Any], **step: Any) -> dict[str, Any]:
        return self._module("dicom.orthanc.source_build", arguments | step)

    def _module(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        result = dict(self._execute_module(name, arguments, task_vars=self._variables))
        if result.get("failed") or result.get("unreachable"):
            # A module that crashed has no message.
            said = [result.get(key) for key in ("msg", "module_stderr", "module_stdout", "exception")]
            raise AnsibleActionFail(str(next(filter(None, said), "no answer"))[:4000])
        return result


def needed(archive: str) -> list[str]:
    """Return the packages that what is in an archive needs."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith(".packages"):
                file = tar.extractfile(member)
                return file.read().decode().split() if file else []
    return []

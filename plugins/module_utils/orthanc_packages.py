# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages that Orthanc comes from: which ones are there, and those of before, kept as files for the way back."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import (
    Refused,
    plain_files,
    put,
    remove,
    sync_folder,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import found, put_back
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_index import copy
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_kept import newest
from ansible_collections.dicom.orthanc.plugins.module_utils.probe import packages as probe
from ansible_collections.dicom.orthanc.plugins.module_utils.releases import mark

# Where dpkg has the list of files of each package, which it writes when it unpacks it.
INFO = "/var/lib/dpkg/info"
ARCHIVES = "/var/cache/apt/archives"
# Where the role orthanc puts the source of packages of Orthanc's makers.
SOURCE = "/etc/apt/sources.list.d/orthanc.sources"
# As Ansible's apt has it: what somebody changed stays.
OPTIONS = ("DPkg::Lock::Timeout=600", "Dpkg::Options::=--force-confdef", "Dpkg::Options::=--force-confold")
APT = ["apt-get", "--yes", *(f"--option={option}" for option in OPTIONS)]
# No other package goes for it. Those that somebody holds at what does not work go back too.
BACK = ["--allow-downgrades", "--allow-change-held-packages", "--no-remove", "--no-install-recommends", "install"]


class Packages:
    """Orthanc's packages, each as a line of its name and its version.

    :ivar path: the file that says which ones are there, or have to be: it goes back with the configuration.
    """

    def __init__(self, module: AnsibleModule, state_dir: str, names: list[str]) -> None:
        """:param names: of those that it may come from; none where Orthanc does not come from packages."""
        self._module, self._names = module, names
        self._folder = os.path.join(state_dir, "packages")
        self._new = os.path.join(self._folder, "new")
        self.path = os.path.join(self._folder, "installed") if names else ""
        # Where root is reached by `su`, what dpkg calls is not in the path.
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        self._environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "PATH": path}

    def installed(self) -> str:
        """Return which ones are there, be it half of them."""
        form = "${db:Status-Abbrev} ${Package} ${Version}\\n"
        # It fails where one of them was never there.
        out = self._module.run_command(["dpkg-query", "--show", "--showformat", form, *self._names])[1]
        lines = [line.split() for line in str(out).splitlines()]
        return "".join(sorted(f"{line[1]} {line[2]}\n" for line in lines if len(line) == 3 and line[0][1] not in "nc"))

    def unpacked(self) -> float:
        """Return when the last of those that are there was unpacked, in seconds since 1970."""
        names = [glob.escape(line.split()[0]) for line in self.installed().splitlines()]
        lists = [f"{INFO}/{name}{of}.list" for name in names for of in ("", ":*")]
        return newest([], [path for pattern in lists for path in glob.glob(pattern)])

    def entry(self) -> list[Any] | None:
        """Return the file that says which ones have to be there, as what worked last has it."""
        return found([self.path])[self.path] if self.path else None

    def noted(self) -> str:
        """Return which ones have to be there; nothing where that is not known."""
        return str((self.entry() or [""])[0])

    def note(self) -> None:
        """Write down which ones are there."""
        there = self.installed() if self.path else ""
        if there != self.noted():
            self._make()
            put(self.path, there, (os.geteuid(), os.getegid()), 0o600)

    def differ(self) -> bool:
        """Tell whether others have to be there than are."""
        wanted = self.noted()
        return bool(wanted) and not set(wanted.splitlines()) <= set(self.installed().splitlines())

    def missing(self, wanted: str) -> list[str]:
        """Return those of which there is no file."""
        return sorted(set(wanted.splitlines()) - self._files(self._folder).keys())

    def have(self, wanted: str) -> None:
        """Have a file of each in these versions. :raises Refused: if there is none to be had."""
        missing = self.missing(wanted)
        if missing:
            self._make()
            # Of a call that was cut off; what dpkg-repack has copied by then has passwords in it.
            for folder, _folders, _names in os.walk(self._new, topdown=False):
                for path in plain_files(folder):
                    remove(path)
                if folder != self._new:
                    os.rmdir(folder)
        for line in missing:
            said = self._get(line)
            made = self._files(self._new)
            if line not in made:
                raise Refused(f"There is no file of the package {line.replace(' ', ' in version ')} to be had: {said}")
            target = os.path.join(self._folder, os.path.basename(made[line]))
            with open(made[line], "rb") as file:
                os.fchmod(file.fileno(), 0o600)
                os.fsync(file.fileno())
            os.replace(made[line], target)
            sync_folder(self._folder)

    def keep(self, wanted: str) -> None:
        """Have a file of each in these versions, and of no other. :raises Refused: if there is none to be had."""
        self.have(wanted)
        for line, path in self._files(self._folder).items():
            if line not in wanted.splitlines():
                remove(path)

    def install(self, *options: str) -> None:
        """Have those that have to be there, of which there are files. :raises Refused: if that fails.

        :param options: of apt.
        """
        files = self._files(self._folder)
        lines = sorted(set(self.noted().splitlines()) - set(self.installed().splitlines()))
        with starting_nothing():
            self._run(*APT, *options, *BACK, *(files[line] for line in lines))
        if options:
            return
        if os.path.exists(SOURCE):
            # The next run tries again what the source offers.
            os.utime(SOURCE)
        self._module.warn(
            f"Packages are those of before: {', '.join(lines)}. An upgrade by apt brings the others again, unless"
            " `apt-mark hold` keeps it from that."
        )

    def _files(self, folder: str) -> dict[str, str]:
        """Return the paths of the packages in a folder, each by its line."""
        return {self._line(path): path for path in plain_files(folder) if path.endswith(".deb")}

    def _line(self, path: str) -> str:
        """Return name and version of a package in a file; nothing where it is none."""
        form = "${Package} ${Version}"
        rc, out, _err = self._module.run_command(["dpkg-deb", "--show", f"--showformat={form}", path])
        return "" if rc else str(out)

    def _make(self) -> None:
        for folder in (os.path.dirname(self._folder), self._folder, self._new):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        for folder in (self._folder, self._new):
            mark(folder)

    def _get(self, line: str) -> str:
        """Have a package as a file: apt's own, what apt offers, or made of what is there. Return what was said."""
        name, _, version = line.partition(" ")
        for path in glob.glob(os.path.join(ARCHIVES, f"{glob.escape(name)}_*.deb")):
            # A loss of power may have cut it short, which its head does not tell.
            if self._line(path) == line and not self._module.run_command(["dpkg-deb", "--contents", path])[0]:
                copy(path, os.path.join(self._new, os.path.basename(path)))
                return ""
        try:
            self._run(*APT, "download", f"{name}={version}")
        except Refused as error:
            if line not in self.installed().splitlines():
                return str(error)
            try:
                self._repack(name)
            except Refused as also:
                return f"{error} {also}"
        return ""

    def _repack(self, name: str) -> None:
        """Have a package made of what is there. :raises Refused: if that fails."""
        if not self._module.get_bin_path("dpkg-repack"):
            with starting_nothing():
                self._run(*APT, "--no-install-recommends", "install", "dpkg-repack")
        self._run("dpkg-repack", name)

    def _run(self, *command: str) -> None:
        """Run a command in the folder of what is new. :raises Refused: if it fails, with what it says."""
        rc, out, err = self._module.run_command(list(command), environ_update=self._environment, cwd=self._new)
        if rc:
            said = [line for line in str(err or out).splitlines() if not line.startswith(("W:", "N:"))]
            words = " ".join(" ".join(said).split())[-600:].rstrip(".")
            raise Refused(f"{' '.join(command[-2:])} fails: {words}.")


@contextlib.contextmanager
def starting_nothing() -> Iterator[None]:
    """Have packages start and restart nothing meanwhile. If that is killed, or dpkg, ``apt_finish`` does the rest."""
    there = found([probe.POLICY])[probe.POLICY]
    if there and not probe.left():
        # As Ansible's apt puts it aside.
        put_back({os.path.join(tempfile.mkdtemp(prefix="ansible"), os.path.basename(probe.POLICY)): there})
    put(probe.POLICY, probe.OURS, (os.geteuid(), os.getegid()), 0o755)
    try:
        yield
    finally:
        if not probe.interrupted():
            probe.go_back()

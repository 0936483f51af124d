# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of an Orthanc: its configuration and what starts it, as they worked last."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import marked, plain_files, put
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import Files, State, found
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_answers import MEANINGS
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_live import Change, changes

# The files with the login to a database.
DATABASES = ("postgresql.json", "mysql.json")
# Under which name the start of a process stands among the files that it runs with.
STARTED = "started"


class Kept:
    """The configuration and what starts it: as they are, and as they worked last."""

    def __init__(
        self, state: State, config_dir: str, unit: str, others: Iterable[str] = (), packages: str = ""
    ) -> None:
        """
        :param others: paths of links and units that go back too.
        :param packages: that of the file that says which packages are there; empty where there are none.
        """
        self._state, self._config_dir, self._unit = state, config_dir, unit
        self._single = [unit, *others]
        self._packages = packages
        # Whether others have started those that are there, so that they are the last to go back.
        self.packages_stay = True
        # Since nothing was written.
        self._before, self._before_changed = self._now(), self.changed()
        # Whether what worked last does not read its database any more.
        self.raised = False
        # Whether the database of a server has been opened by what is there now.
        self.opened = False

    def _now(self) -> Files:
        single = [*self._single, self._packages] if self._packages else self._single
        files = found(sorted([*plain_files(self._config_dir), *single]))
        return {path: file for path, file in files.items() if file is not None}

    def changed(self) -> float:
        """Return when the newest of what Orthanc reads at its start was changed, in seconds since 1970."""
        return newest([self._config_dir, self._unit, *plain_files(self._config_dir)], [])

    def keep(self, started: str) -> None:
        """Take what is there now for what worked last, of the process that was started then."""
        now = self._now() | {STARTED: [started]}
        if now != self._state.read():
            self._state.keep(now)

    def runs(self, started: str) -> bool:
        """Tell whether the process that was started then runs with what is there now, in other words or not.

        That it is what worked last is known of no other process.
        """
        return self._state.read().get(STARTED) == [started] and self.proved

    def live(self, started: str, since: float) -> list[Change]:
        """Return what makes the process that was started then run with what is there now, without a start.

        :param since: the same in seconds since 1970.
        :returns: nothing where it takes a start, or where it is not known with what that process runs.
        """
        last = self._state.read()
        if last.get(STARTED) != [started]:
            # Others have started it. It has read what was there before this call, unless that is newer.
            last = self._before if self._before_changed < since else {}
        return self._since(last)

    @property
    def differs_in_entries(self) -> bool:
        """Tell whether what is there now is what worked last, but for modalities, peers and DICOMweb servers."""
        return bool(self._since(self._state.read()))

    def _since(self, files: Files) -> list[Change]:
        before, now = self._meant(files), self._meant(self._now())
        options = before.pop(""), now.pop("")
        return changes(*options) if before == now else []

    def doubt(self) -> None:
        """Know no process by its start any more: one that is told something else may have it, and not its files."""
        last = self._state.read()
        if STARTED in last:
            self._state.keep(last | {STARTED: [""]})

    @property
    def proved(self) -> bool:
        """Tell whether what is there now, in other words or not, is what worked last."""
        return self._meant(self._state.read()) == self._meant(self._now())

    def _meant(self, files: Files) -> dict[str, Any]:
        """Return what the files say: the options of Orthanc, however they are spread and written, and the rest."""
        meant: dict[str, Any] = {"": {}}
        for path, file in files.items():
            text = file[0] if file else ""
            if path.endswith(".json") and os.path.dirname(path) == self._config_dir:
                try:
                    meant[""].update(json.loads(text))
                    continue
                except ValueError:
                    pass
            # Another package, if it is, has been started already.
            if path not in (STARTED, self._packages):
                meant[path] = text
        return meant

    def another(self, programs: Iterable[str], asked: Files | None = None) -> bool:
        """Tell whether another release than the one that worked last is there now: one of its programs is newer, or the
        unit starts something else.

        :param asked: what is going to be there instead.
        """
        last, now = self._state.read(), asked or self._now()
        links = [os.path.join(os.path.dirname(path), target) for path, target in self._links(now)]
        used = [path for path in programs if not links or os.path.dirname(path) in links]
        return bool(last) and (newest([], used) > os.stat(self._state.path).st_mtime or self._differ(last, now))

    def started(self, asked: Files, started: float) -> bool:
        """Tell whether the release in these files is there already, and was started since.

        :param started: when the process was, in seconds since 1970.
        """
        now = self._now()
        paths = [path for path, file in now.items() if path == self._unit or (file and len(file) == 1)]
        return self._release(asked) == self._release(now) and newest([], paths) <= started

    def crosses(self) -> bool:
        """Tell whether on the way back another release would have the same index on a database server."""
        last, now = self._state.read(), self._now()
        return bool(last) and self._server(last) and self._server(now) and self._differ(last, now)

    def _server(self, files: Files) -> bool:
        return any(os.path.basename(path) in DATABASES for path in files)

    def _links(self, files: Files) -> list[tuple[str, str]]:
        """Return the links by which the unit starts something, and where they lead; what is left of others is none."""
        unit = (files.get(self._unit) or [""])[0]
        return [
            (path, file[0]) for path, file in sorted(files.items()) if file and len(file) == 1 and f"{path}/" in unit
        ]

    def _differ(self, one: Files, other: Files) -> bool:
        """Tell whether one release is another one than the other. Which packages there were is not always known."""
        packages = {file[0] for files in (one, other) for file in [files.get(self._packages)] if file}
        return self._release(one) != self._release(other) or (len(packages) > 1 and not self.packages_stay)

    def _release(self, files: Files) -> list[Any]:
        """Return what is started, be it a program or an image, and where the links to it lead."""
        starts = re.findall(r"(?m)^ExecStart=.*?(\S+) \S+$", (files.get(self._unit) or [""])[0])
        return [starts, self._links(files)]

    def release(self) -> list[Any]:
        """Return what tells what is started now from what else may be."""
        return self._release(self._now())

    def upgraded(self) -> str:
        """Say which packages have been upgraded since it worked last, and were started then."""
        files = [states.get(self._packages) for states in (self._state.read(), self._now())]
        last, now = (set(file[0].splitlines()) if file else set() for file in files)
        if not (self.packages_stay and last - now):
            return ""
        return f"Since it worked last, {', '.join(sorted(last - now))} has become {', '.join(sorted(now - last))}."

    def login(self) -> list[Files]:
        """Return what is there now, with the login to the database that worked last."""
        last, now = self._state.read(), self._now()
        return [now | self._logins(now, last)]

    def _logins(self, files: Files, others: Files) -> Files:
        """Return the files of databases with the logins of other ones."""
        found: Files = {}
        for path in files.keys() & others.keys():
            file, other = files[path], others[path]
            if file and other and os.path.basename(path) in DATABASES:
                with contextlib.suppress(ValueError):
                    found[path] = [with_login(file[0], other[0]), *file[1:]]
        return found

    def resort(self) -> Callable[[], tuple[Files, str]]:
        """Return what to say to run instead where what worked last does not read its database any more.

        That is what was there before, if it is another release already, or else what is asked for.
        """
        last, asked = self._state.read(), self._now()
        newer = self._before if self._release(self._before) != self._release(last) else asked
        files = dict.fromkeys(last.keys() | asked.keys()) | newer | self._logins(newer, asked)
        files.pop(STARTED, None)
        why = "A newer release has changed its database, and is the only one to read it now: it was started again."
        return lambda: (files, why) if self.raised else ({}, "")

    def ways(self, problem: str) -> list[Files]:
        """Return what to go back to.

        The login to the database is not part of what was wrong, unless the database said so: by now its server takes
        the new one only.
        """
        last, now = self._state.read(), self._now()
        last.pop(STARTED, None)
        if not last:
            return []
        for path in now.keys() - last.keys() - {self._packages}:
            if path in self._single or marked(self._config_dir):
                last[path] = None
        new = last | self._logins(last, now)
        ways = [last] if new == last else [last, new] if MEANINGS[0][1] in problem else [new, last]
        packages = now.get(self._packages)
        if not self.packages_stay or packages == last.get(self._packages, packages):
            return ways
        # A setting is the more likely reason. A release that has opened the database of a server stays.
        stay = [files | {self._packages: packages} for files in ways]
        return stay if self.opened else stay + ways


def with_login(last: str, new: str) -> str:
    """Return a text of database sections with the logins of another one, or as it is if these are the same."""
    sections, others = json.loads(last), json.loads(new)
    before = json.dumps(sections)
    for name in sections.keys() & others.keys():
        section, other = sections[name], others[name]
        for key in {"Username", "Password"} & section.keys() & other.keys():
            section[key] = other[key]
        if "ConnectionUri" in section.keys() & other.keys():
            uris = section["ConnectionUri"].partition("@"), other["ConnectionUri"].partition("@")
            section["ConnectionUri"] = uris[1][0] + "".join(uris[0][1:])
    # As in the templates, since Orthanc expands ${NAME}.
    return last if json.dumps(sections) == before else json.dumps(sections, indent=4).replace("$", "\\u0024")


def newest(configuration: Iterable[str], programs: Iterable[str]) -> float:
    """Return when the newest of the files was changed, in seconds since 1970.

    A configuration with another mode is the same; a program that another file took the place of is
    another one, however old that file says it is.
    """
    times = [os.stat(path).st_mtime for path in configuration if os.path.exists(path)]
    for path in programs:
        if os.path.exists(path):
            times += [os.lstat(path).st_ctime, os.stat(path).st_ctime]
    return max(times, default=0.0)


def keep_unit(module: AnsibleModule, state: State) -> None:
    """Keep a copy of a unit of others that is about to be replaced, and say so."""
    path, folder = module.params["unit"], module.params["config_dir"]
    there = found([path]).get(path)
    # Ours starts Orthanc with our configuration. What is no more than a link keeps it from starting.
    if state.kept or not there or len(there) == 1 or re.search(rf"(?m)^ExecStart=.* {re.escape(folder)}$", there[0]):
        return
    copy = os.path.join(os.path.dirname(state.path), f"{os.path.basename(path)}.found")
    module.warn(f"{path} is of others, and is replaced. As it was, it is kept as {copy}.")
    if not module.check_mode:
        os.makedirs(os.path.dirname(copy), mode=0o700, exist_ok=True)
        put(copy, there[0], (os.geteuid(), os.getegid()), 0o600)

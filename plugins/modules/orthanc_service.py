#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the files of Orthanc, run it with them, prove that it works, or go back to what worked last."""

from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_service
short_description: Write Orthanc's configuration and run it, or go back to the last one that worked
version_added: 0.1.0
description:
  - Writes the configuration and the unit first. In the same call, since each costs about half a second per host, and
    so that nothing can come in between that leaves one without the other.
  - Restarts the unit if it does not run, or if its configuration, its file or one of O(programs) is newer than it.
    A configuration that was only written in other words is the same.
  - Polls C(/changes?last), which reads the index. C(/system) is answered from memory even while the database is down.
  - Then compares the version, the plugins and the database that Orthanc reports with those asked for.
  - What worked is kept in O(state_dir). If Orthanc does not work, the configuration and the unit that worked last come
    back, Orthanc is started with them, and the module fails with Orthanc's own error lines from the journal.
  - Port and login are read from the configuration itself.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  config_dir:
    description: Folder of the configuration, with nothing else in it.
    type: path
    required: true
  unit:
    description: Path of the systemd unit.
    type: path
    default: /etc/systemd/system/orthanc.service
  programs:
    description: Paths of the binary and of the plugins, as far as they are files of this host.
    type: list
    elements: path
    default: []
  state_dir:
    description: Folder, for root alone, that keeps what worked last.
    type: path
    default: /var/lib/pacs/orthanc
  version:
    description: Release that has to run, such as C(1.12.7). Empty if any will do.
    type: str
    default: ""
  plugins:
    description: Plugins that have to be loaded, by the names that Orthanc reports in C(/plugins).
    type: list
    elements: str
    default: []
  database:
    description: Where the index has to be.
    type: str
    choices: [sqlite, postgresql, mysql]
    default: sqlite
  storage:
    description:
      - What has to keep the DICOM files, by a part of the name of its library, such as C(mysql) or
        C(libDelayedDeletion); empty for Orthanc itself.
    type: str
    default: ""
  timeout:
    description: How long to wait for the first answer, in seconds.
    type: int
    default: 120
  guard:
    description: >-
      What C(nft) is told for the table C(inet orthanc), where the one that is there has been flushed or changed. Empty
      has that table removed.
    type: str
    default: ""
  guard_rule:
    description: The rule by which that table is known, without quotes.
    type: str
    default: ""
extends_documentation_fragment: dicom.orthanc.files
attributes:
  check_mode:
    description: Tells what would be written and whether the service would be restarted; compares it if not.
    support: full
"""

EXAMPLES = r"""
- name: Run Orthanc
  dicom.orthanc.orthanc_service:
    files:
      - path: /etc/pacs/orthanc/orthanc.json
        template: etc/pacs/orthanc/orthanc.json.j2
        group: orthanc
        mode: "0640"
    config_dir: /etc/pacs/orthanc
    programs: [/usr/sbin/Orthanc]
    plugins: [dicom-web]
"""

RETURN = r"""
paths:
  description: What was changed, made or removed.
  type: list
  elements: str
  returned: always
version:
  description: The release that runs.
  type: str
  returned: when it was asked
  sample: 1.12.7
plugins:
  description: The plugins that are loaded.
  type: list
  elements: str
  returned: when it was asked
seconds:
  description: How long it took until the first answer, in seconds.
  type: float
  returned: when it was asked
"""

import base64
import contextlib
import json
import os
import pathlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import read_folder
from ansible_collections.dicom.orthanc.plugins.module_utils.files import (
    ARGUMENTS,
    QuietModule,
    marked,
    plain_files,
    put,
    put_link,
    remove,
    write,
)

# What a database says, and what it means in the terms of the inventory.
MEANINGS = (
    (
        r"password authentication failed|Access denied for user",
        "The database refuses the login: orthanc_database_user and orthanc_database_password are not the server's.",
    ),
    (
        r"locked by another instance|database is already locked|is locked by",
        "Another Orthanc holds the database: orthanc_database_name is in use by a second site.",
    ),
    (
        r"permission denied for schema|command denied to user|must be owner",
        "The login may not make tables: it has to own the database that orthanc_database_name names.",
    ),
    (
        r"remaining connection slots|too many connections|Too many connections",
        "The server has no connection left: orthanc_database_connections of all nodes exceed its max_connections.",
    ),
    (
        r"certificate verify failed|SSL error|SSL connection error|server certificate",
        "The server's certificate is not trusted: see orthanc_database_ca and orthanc_database_host.",
    ),
    (
        r"database \"[^\"]*\" does not exist|Unknown database",
        "There is no such database on the server: see orthanc_database_name.",
    ),
    (
        r"no pg_hba.conf entry|is not allowed to connect",
        "The server lets nobody in from this host: its rules for clients do not name it.",
    ),
    (
        r"revision|[Ii]ncompatible version of the",
        "The database was made by another release of the plugin, which this one does not read.",
    ),
    (
        r"could not connect|Connection refused|Can't connect|could not translate|Unknown .*server host|timeout expired",
        "The database does not answer: see orthanc_database_host and orthanc_database_port, and whether it runs.",
    ),
)


# How long another release may take to raise the schema of its database, in seconds: nothing may come in between.
SCHEMA = 3600
# The files with the login to a database.
DATABASES = ("postgresql.json", "mysql.json")
# Under which name the start of a process stands among the files that it runs with.
STARTED = "started"
NFT = "/usr/sbin/nft"


class Unready(Exception):
    """Orthanc does not answer as it should; the message says how."""


class Starting(Unready):
    """Orthanc runs, and does not answer yet."""


class Orthanc:
    """The REST API of the Orthanc on this host, past any proxy that the environment names."""

    def __init__(self, config_dir: str) -> None:
        settings = read_folder(config_dir)
        if "HttpPort" not in settings or not settings.get("RegisteredUsers"):
            raise Unready(f"{config_dir} has no configuration of ours.")
        self._base = f"http://127.0.0.1:{settings['HttpPort']}"
        login = ":".join(next(iter(settings["RegisteredUsers"].items())))
        self._headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> Any:
        """Return the JSON at this path. :raises Unready: if there is none."""
        request = urllib.request.Request(self._base + path, headers=self._headers)
        try:
            with self._opener.open(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Unready(f"{self._base}{path} answers {error.code} {error.reason}") from error
        except (OSError, ValueError) as error:
            raise Unready(f"{self._base}{path} does not answer: {error}") from error


class Kept:
    """The configuration and the unit that worked last, in a file that root alone reads."""

    def __init__(self, state_dir: str, config_dir: str, unit: str, links: Iterable[str] = ()) -> None:
        self._file = pathlib.Path(state_dir, "last.json")
        self._config_dir = pathlib.Path(config_dir)
        self._single = [pathlib.Path(unit), *map(pathlib.Path, links)]

    def _found(self) -> dict[str, list[Any]]:
        """Return content, owner, group and mode of each file there is now, and what each link leads to."""
        found: dict[str, list[Any]] = {}
        for path in sorted([*map(pathlib.Path, plain_files(str(self._config_dir))), *self._single]):
            if path.is_symlink():
                found[str(path)] = [os.readlink(path)]
            elif path.is_file():
                state = path.stat()
                text = path.read_text(encoding="utf-8", errors="surrogateescape")
                found[str(path)] = [text, state.st_uid, state.st_gid, state.st_mode & 0o7777]
        return found

    def _last(self) -> dict[str, list[Any]]:
        """Return the same of what worked last, or nothing."""
        try:
            last = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # Cut short by a loss of power, it says nothing.
            return {}
        return last if isinstance(last, dict) else {}

    def keep(self, started: str) -> None:
        """Take what is there now for what worked last, of the process that was started then."""
        found = self._found() | {STARTED: [started]}
        if found != self._last():
            os.makedirs(self._file.parent, mode=0o700, exist_ok=True)
            put(str(self._file), json.dumps(found), (os.geteuid(), os.getegid()), 0o600)

    def runs(self, started: str) -> bool:
        """Tell whether the process that was started then runs with what is there now, in other words or not.

        That it is what worked last is known of no other process.
        """
        last, found = self._last(), self._found()
        return last.get(STARTED) == [started] and self._meant(last) == self._meant(found)

    def _meant(self, files: dict[str, list[Any]]) -> dict[str, Any]:
        """Return what the files say: the options of Orthanc, however they are spread and written, and the rest."""
        meant: dict[str, Any] = {"": {}}
        for path, file in files.items():
            if path.endswith(".json") and pathlib.Path(path).parent == self._config_dir:
                try:
                    meant[""].update(json.loads(file[0]))
                    continue
                except ValueError:
                    pass
            if path != STARTED:
                meant[path] = file[0]
        return meant

    @property
    def known(self) -> bool:
        """Whether anything worked before."""
        return bool(self._last())

    def older(self, programs: Iterable[str]) -> bool:
        """Tell whether another release is there now: a program is newer, or the unit starts something else."""
        units = [files.get(str(self._single[0]), [""])[0] for files in (self._last(), self._found())]
        starts = [re.findall("(?m)^ExecStart=.*", unit) for unit in units]
        return self.known and (newest([], programs) > self._file.stat().st_mtime or starts[0] != starts[1])

    def new_logins(self) -> dict[str, str]:
        """Return the files of what worked last that log in to a database, with the login that stands there now."""
        last, found, texts = self._last(), self._found(), {}
        for path in last.keys() & found.keys():
            if os.path.basename(path) in DATABASES:
                with contextlib.suppress(ValueError):
                    texts[path] = with_login(last[path][0], found[path][0])
        return {path: text for path, text in texts.items() if text != last[path][0]}

    def restore(self, texts: Mapping[str, str] | None = None) -> bool:
        """Bring back what worked last. Return whether that is something else than what is there.

        :param texts: what some of its files are to say instead.
        """
        last, found = self._last(), self._found()
        last.pop(STARTED, None)
        for path, text in (texts or {}).items():
            last[path] = [text, *last[path][1:]]
        if not last or {path: file[0] for path, file in last.items()} == {
            path: file[0] for path, file in found.items()
        }:
            return False
        for path in found.keys() - last.keys():
            if pathlib.Path(path) in self._single or marked(str(self._config_dir)):
                remove(path)
        for path, file in last.items():
            if found.get(path) != file:
                _write(path, file)
        return True


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


def _write(path: str, file: list[Any]) -> None:
    """Put a file or a link back in place."""
    if len(file) == 1:
        put_link(path, file[0])
    else:
        content, owner, group, mode = file
        put(path, content, (owner, group), mode)


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


class Unit:
    """A systemd unit."""

    def __init__(self, module: AnsibleModule, name: str) -> None:
        self._module = module
        self.name = name

    def _systemctl(self, *words: str, check: bool = True) -> str:
        return str(self._module.run_command(["systemctl", *words], check_rc=check)[1])

    def show(self) -> dict[str, str]:
        """Return its state, and in microseconds of the monotonic clock when its process was started."""
        names = "ActiveState,SubState,UnitFileState,ExecMainStartTimestampMonotonic"
        lines = self._systemctl("show", self.name, f"--property={names}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def enabled(self) -> bool:
        return self.show()["UnitFileState"] == "enabled"

    @property
    def ended(self) -> bool:
        """Whether its process ended by itself, be it to be started again or not."""
        state = self.show()
        return state["ActiveState"] in ("failed", "inactive") or state["SubState"] == "auto-restart"

    def restart(self) -> None:
        self._systemctl("daemon-reload")
        # The package may have done so. With its script for init, Debian's systemctl then reads all units twice more.
        if not self.enabled:
            self._systemctl("enable", "--quiet", self.name)
        # A unit that cannot be started shows as one that ended.
        self._systemctl("restart", self.name, check=False)


def start_of(state: dict[str, str]) -> str:
    """Return the start of a unit's process: which boot of the host, and how many microseconds later."""
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {state['ExecMainStartTimestampMonotonic']}"


def wait(orthanc: Orthanc, unit: Unit, timeout: int) -> float:
    """Wait for an answer from the index and return how many seconds it took. :raises Unready: if none comes."""
    start = time.monotonic()
    while True:
        try:
            orthanc.get("/changes?last")
            return round(time.monotonic() - start, 2)
        except Unready as error:
            waited = time.monotonic() - start
            if unit.ended:
                raise Unready(f"Orthanc ended after {waited:.0f} s.") from error
            if waited > timeout or " answers 40" in str(error):
                kind = Starting if waited > timeout else Unready
                raise kind(f"Orthanc is not ready after {waited:.0f} s: {error}.") from error
            time.sleep(0.05)


def guarded(module: AnsibleModule) -> bool:
    """Tell whether the packet filter has our table as it is to be: with the rule, or not at all."""
    params = module.params
    if not os.path.exists(NFT):
        return not params["guard"]
    there, out, _err = module.run_command([NFT, "list", "table", "inet", "orthanc"])
    return params["guard_rule"] in out.replace('"', "") if params["guard"] else there != 0


def journal(module: AnsibleModule, unit: str) -> str:
    """Return the newest error lines of the unit, or its last lines where none is marked so."""
    _rc, out, _err = module.run_command(
        ["journalctl", "--unit", unit, "--lines", "200", "--output", "cat", "--no-pager"]
    )
    lines = [line for line in out.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"E\d{4} ", line)]
    # A service that is started again and again says the same again and again.
    newest = {line.partition("] ")[2] or line: line for line in errors or lines}
    return "\n".join(list(newest.values())[-5:])


def meaning(lines: str) -> str:
    """Say in the terms of the inventory what the journal tells, or nothing if that is not known."""
    return next((f"{text} " for pattern, text in MEANINGS if re.search(pattern, lines)), "")


def differences(params: dict[str, Any], system: dict[str, Any], plugins: list[str]) -> list[str]:
    """Say where the running Orthanc is not the one that was asked for."""
    wanted, running = str(params["version"]), str(system["Version"])
    found = []
    if wanted and running != wanted:
        found.append(
            f"orthanc_version asks for {wanted}, but {running} runs. Take another release, or free the choice."
        )
    found += [
        f"orthanc_plugins asks for a plugin that Orthanc did not load: {name}. The journal says why."
        for name in params["plugins"]
        if name not in plugins
    ]
    # Reported is the path of the plugin, or nothing for what is built in.
    for field, asked, variable in (
        ("DatabaseBackendPlugin", params["database"], "orthanc_database"),
        ("StorageAreaPlugin", params["storage"], "orthanc_database_storage with orthanc_plugins"),
    ):
        backend = str(system.get(field) or "")
        expected = "" if asked in ("", "sqlite") else str(asked)
        if (expected.lower() not in backend.lower()) or (backend and not expected):
            found.append(
                f"{variable} asks for {asked or 'the file system'}, but {field} is {backend or 'the built-in one'}."
            )
    return found


def prove(module: AnsibleModule, unit: Unit, timeout: int) -> dict[str, Any]:
    """Return what Orthanc says of itself. :raises Unready: if that is not what was asked for."""
    params = module.params
    try:
        orthanc = Orthanc(params["config_dir"])
        seconds = wait(orthanc, unit, timeout)
        system, plugins = orthanc.get("/system"), orthanc.get("/plugins")
        found = differences(params, system, plugins)
        if found:
            raise Unready(" ".join(found))
    except Unready as error:
        lines = journal(module, unit.name)
        told = f"{error} {meaning(lines)}Its journal (journalctl -u {unit.name}) says:\n{lines}\n"
        raise type(error)(told) from error
    return {"version": system["Version"], "plugins": plugins, "seconds": seconds}


def back(module: AnsibleModule, unit: Unit, kept: Kept, problem: str) -> str:
    """Go back to what worked last, if that is something else, and say how it went.

    The login to the database is not part of what was wrong, unless the database said so: by now its server takes the
    new one only.
    """
    if not kept.known:
        return ""
    ways = [kept.new_logins(), {}]
    if MEANINGS[0][1] in problem or not ways[0]:
        ways.reverse()
    told = ""
    for texts in ways if ways[0] != ways[1] else ways[:1]:
        if not kept.restore(texts):
            # That is what does not work.
            continue
        unit.restart()
        try:
            wait(Orthanc(module.params["config_dir"]), unit, module.params["timeout"])
        except Unready as error:
            told = f"The configuration that worked last is back, and does not work any more either: {error}"
            continue
        if texts:
            kept.keep(start_of(unit.show()))
        return "The configuration that worked last is back, and Orthanc serves with it."
    if told and kept.restore(ways[0]):
        unit.restart()
    return told


def main() -> None:
    module = QuietModule(
        argument_spec=ARGUMENTS
        | {
            "config_dir": {"type": "path", "required": True},
            "unit": {"type": "path", "default": "/etc/systemd/system/orthanc.service"},
            "programs": {"type": "list", "elements": "path", "default": []},
            "state_dir": {"type": "path", "default": "/var/lib/pacs/orthanc"},
            "version": {"type": "str", "default": ""},
            "plugins": {"type": "list", "elements": "str", "default": []},
            "database": {"type": "str", "choices": ["sqlite", "postgresql", "mysql"], "default": "sqlite"},
            "storage": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 120},
            "guard": {"type": "str", "default": ""},
            "guard_rule": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    unit, folder = Unit(module, os.path.basename(params["unit"])), params["config_dir"]
    # The links say which release runs; they go back with the configuration.
    links = [item["path"] for item in params["files"] if item["link"]]
    # What other units have of ours names a port of the configuration, and goes back with it too.
    units = {item["path"] for item in params["files"]} | set(params["absent"])
    beside = sorted(path for path in units - {params["unit"]} if path.startswith("/etc/systemd/system/"))
    kept = Kept(params["state_dir"], folder, params["unit"], links + beside)

    def undo() -> str:
        kept.restore()
        return "Orthanc runs as before, and its files are those of before." if kept.known else ""

    written = write(module, undo)
    if module.check_mode and written.paths:
        module.exit_json(changed=True, paths=written.paths, diff=written.diffs)

    files = [folder, params["unit"], *plain_files(folder)]
    state = unit.show()
    # In seconds since 1970.
    started = time.time() - time.monotonic() + int(state["ExecMainStartTimestampMonotonic"] or 0) / 1e6
    restart = (
        (state["ActiveState"], state["UnitFileState"]) != ("active", "enabled")
        or newest([], params["programs"] + links) > started
        # Files that were written anew may still say the same.
        or (newest(files, []) > started and not kept.runs(start_of(state)))
    )
    unguarded = not guarded(module)
    if module.check_mode and (restart or unguarded):
        module.exit_json(changed=True, paths=[])

    other = kept.older(params["programs"] + links)
    if restart:
        unit.restart()
    elif any(path.startswith("/etc/systemd/system/") for path in written.paths):
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
    # The unit has done so where it was started.
    if unguarded and not guarded(module):
        words = [params["guard"]] if params["guard"] else ["delete", "table", "inet", "orthanc"]
        module.run_command([NFT, *words], check_rc=True)
    try:
        proven = prove(module, unit, max(params["timeout"], SCHEMA) if other else params["timeout"])
    except Starting as error:
        if module.check_mode or not other:
            module.fail_json(f"{error}{'' if module.check_mode else back(module, unit, kept, str(error))}".strip())
        module.fail_json(
            f"{error}It was left running: another release may be changing its database, which must be left to its end."
        )
    except Exception as error:
        told = str(error) if isinstance(error, Unready) else f"This is a mistake of the toolkit: {error!r}. "
        module.fail_json(f"{told}{'' if module.check_mode else back(module, unit, kept, told)}".strip())
    if not module.check_mode:
        kept.keep(start_of(unit.show()))
    module.exit_json(
        changed=restart or unguarded or bool(written.paths), paths=written.paths, diff=written.diffs, **proven
    )


if __name__ == "__main__":
    main()

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
    A configuration that was only written in other words is the same. Modalities, peers and DICOMweb servers are told to
    the running Orthanc by its REST API instead, if nothing else is new.
  - Polls C(/changes?last), which reads the index. C(/system) is answered from memory even while the database is down.
  - Then compares the version, the plugins and the database that Orthanc reports with those asked for.
  - With O(dump_dir), the index is dumped before another release opens it. Until that release has proved itself, nobody
    but root on the host itself reaches it. If it does not work and has changed the schema, the index comes back too.
  - Without that, another release that has opened the index on a database server stays, whatever is wrong with it. The
    one before may not read that database any more.
  - Scripts in O(config_dir), which end with C(.lua) or C(.py), are tried before they are written, if others worked
    last, or another release - by O(trial), apart from the site, without a network, with limits of time and memory.
    Where Orthanc does not start and end with them, nothing is changed, and packages that the run has brought go back.
  - Of a unit that others have made, a copy is kept in O(state_dir) before the first call replaces it.
  - What worked is kept there too. If Orthanc does not work, the configuration and the unit that worked last come
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
  reload:
    description:
      - Services that read from that folder too. Those that run are reloaded whenever Orthanc is restarted, on the way
        back as well; one that cannot be is a reason to go back.
    type: list
    elements: str
    default: []
  programs:
    description: Paths of the binary and of the plugins, as far as they are files of this host.
    type: list
    elements: path
    default: []
  trial:
    description:
      - Command that runs the Orthanc that is asked for once, as somebody without rights, with the configuration for
        whose path C(FILE) stands. By what it says, another release is refused that does not read the index on a server.
      - Empty where nothing is tried.
    type: list
    elements: str
    default: []
  packages:
    description:
      - Names of the packages that Orthanc may come from; none where it comes from something else. Those that
        M(dicom.orthanc.apt_keep) has kept go back with the configuration.
    type: list
    elements: str
    default: []
  state_dir:
    description: Folder, for root alone, that keeps what worked last.
    type: path
    default: /var/lib/pacs/orthanc
  dump_dir:
    description: Folder for the dump of the index before another release, for root alone; empty where none is made.
    type: path
    default: ""
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
    description: How long to wait for the first answer, and for the trial of scripts, in seconds.
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
  login_goes_back:
    description: >-
      Whether the database will take the password of before again if Orthanc does not work. What worked last is then
      kept with that password, though for the moment Orthanc serves with the new one.
    type: bool
    default: false
  back:
    description: Whether to go back to the login to the database that worked last, and do nothing else.
    type: bool
    default: false
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

import contextlib
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import read_folder, read_text
from ansible_collections.dicom.orthanc.plugins.module_utils.files import (
    ARGUMENTS,
    STARTED,
    QuietModule,
    Refused,
    lock,
    since_1970,
    told,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import Files, State, put_back
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_answers import differences, journal, meaning
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_client import Orthanc, Unready
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_index import index_of
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_kept import Kept, keep_unit, newest
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_live import Change
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_packages import Packages
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_scripts import Unfit, scripts_of, try_scripts
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_upgrade import (
    AGAIN,
    Gate,
    Unread,
    Upgrade,
    ports,
    readable,
    same_plugin,
    watch,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import Unit
from ansible_collections.dicom.orthanc.plugins.module_utils.way_back import Undecided, WayBack, Wrong

# How long another release may take to raise the schema of its database, in seconds: nothing may come in between.
SCHEMA = 3600
# What a plugin says of a database that a newer one has changed. It leaves it as it is.
RAISED = "incompatible with database schema"
NFT = "/usr/sbin/nft"
UNITS = "/etc/systemd/system/"


class Starting(Unready):
    """Orthanc runs, and does not answer yet."""


def start_of(state: dict[str, str]) -> str:
    """Return the start of a unit's process: which boot of the host, and how many microseconds later."""
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {state[STARTED]}"


def wait(orthanc: Orthanc, unit: Unit, timeout: int, works: Callable[[], bool] = lambda: False) -> float:
    """Wait for an answer from the index and return how many seconds it took. :raises Unready: if none comes.

    :param timeout: in seconds, from its start, or from when it was seen to work last.
    :param works: tells whether it works on the index meanwhile.
    """
    start = asked = worked = time.monotonic()
    while True:
        try:
            orthanc.get("/changes?last")
            # One that is started again and again may answer before its unit ends it.
            if not unit.active:
                raise Unready(f"{unit.name} is not active, although it answers")
            return round(time.monotonic() - start, 2)
        except Unready as error:
            now = time.monotonic()
            if unit.ended:
                raise Unready(f"Orthanc ended after {now - start:.0f} s.") from error
            # To ask a server takes a program.
            if now - asked > min(5, timeout / 4):
                worked, asked = now if works() else worked, now
            late = now - worked > timeout
            if late or " answers 40" in str(error):
                kind = Starting if late else Unready
                raise kind(f"Orthanc is not ready after {now - start:.0f} s: {error}.") from error
            time.sleep(0.05)


def guarded(module: AnsibleModule) -> bool:
    """Tell whether the packet filter has our table as it is to be: with the rule, or not at all."""
    params = module.params
    if not os.path.exists(NFT):
        return not params["guard"]
    there, out, _err = module.run_command([NFT, "list", "table", "inet", "orthanc"])
    return params["guard_rule"] in out.replace('"', "") if params["guard"] else there != 0


class Service:
    """Orthanc with what is asked for, or with what worked last."""

    def __init__(self, module: AnsibleModule, kept: Kept, unit: Unit, files: list[str], packages: Packages) -> None:
        """:param files: links and units that count as part of what is started."""
        self._module, self._params, self._kept, self._unit = module, module.params, kept, unit
        self.packages = packages
        # What is done for another release besides its files, where this Orthanc has the index to itself.
        self.upgrade: Upgrade | None = None
        # Whether another release keeps its index by the same plugin, so that it changes nothing there.
        self.same = False
        # Whether the one of before runs still, and is not to be the next that is started.
        self.leaves = False
        self._programs = module.params["programs"] + files
        self.restart = self.unguarded = self._other = self._untold = False
        # What was asked for, of all that may be started.
        self._asked: list[Any] = []
        # What the running Orthanc is told instead of being started anew.
        self._live: list[Change] = []
        # Who has not read what Orthanc's folder has for it.
        self._unread: list[str] = []
        # In seconds since 1970, where it was this call.
        self._started = 0.0

    def decide(self, written: list[str]) -> bool:
        """Look whether Orthanc has to be started anew, or the packet filter told of it."""
        state = self._unit.show()
        started = since_1970(state[STARTED])
        # Files that were written anew may still say the same.
        new = self._kept.changed() > started and not self._kept.runs(start_of(state))
        self._live = self._kept.live(start_of(state), started) if new else []
        self.restart = (
            (state["ActiveState"], state["UnitFileState"]) != ("active", "enabled")
            or newest([], self._programs) > started
            or (new and not self._live)
        )
        self.unguarded = not guarded(self._module)
        self._other, self._asked = self._kept.another(self._params["programs"]), self._kept.release()
        # Written by this call, or by one that was cut off, be it after it had started Orthanc.
        worked = self._kept.proved or (bool(self._live) and self._kept.differs_in_entries)
        self._untold = not worked or any(path.startswith(UNITS) for path in written)
        return self.restart or bool(self._live) or self.unguarded or self._untold or self._unlinked()

    def _unlinked(self) -> bool:
        """Tell whether one of the units that its file wants it to be started by does not start it."""
        file = pathlib.Path(self._params["unit"])
        wanted = re.findall(r"^WantedBy=(\S+)$", file.read_text("utf-8") if file.exists() else "", re.MULTILINE)
        return not all(os.path.lexists(f"{UNITS}{name}.wants/{self._unit.name}") for name in wanted)

    def apply(self) -> None:
        """Have it run with the files that there are."""
        restart = self.restart or bool(self._live and not self._told())
        # What was told is not taken back by the files of before: on the way back it takes a start.
        self.restart, self._live = restart or bool(self._live), []
        # On the way back, of which the file of packages is a part.
        others = restart and self.packages.differ()
        if others:
            self.packages.have(self.packages.noted())
        if restart or self._untold:
            self._unit.reload_files()
        if restart:
            if self.upgrade:
                # On the way back from another method, or to other packages, the programs that are there say nothing.
                asked = self._kept.release() == self._asked and not others
                self.upgrade.before_start(self._kept.another(self._params["programs"] if asked else []))
            if others:
                self._install()
            if self.upgrade:
                self.upgrade.let_start()
            self._unit.enable()
        if self._unlinked():
            # It is enabled by what its file said before.
            self._unit.must("enable", "--quiet", self._unit.name)
        if restart:
            self._started = time.time()
            # A unit that cannot be started shows as one that ended.
            self._unit.tell("restart")
        if restart or self._untold:
            # As soon as the one that asked for another login is gone, and before the new one listens.
            told = {name: Unit(self._module, name).tell("try-reload-or-restart") for name in self._params["reload"]}
            self._unread = [name for name, well in told.items() if not well]
        # The unit has done so where it was started.
        if self.unguarded and not guarded(self._module):
            guard = self._params["guard"]
            words = [guard] if guard else ["delete", "table", "inet", "orthanc"]
            there = os.path.exists(NFT)
            rc, _out, err = self._module.run_command([NFT, *words]) if there else (1, "", "it is not installed")
            if rc:
                raise Wrong(f"The packet filter ({NFT}) refuses the rule before Orthanc's port: {err.strip()}.")
        # On the way back it is started in any case, and its unit tells the packet filter.
        self.restart, self.unguarded = True, False

    def _told(self) -> bool:
        """Tell the running Orthanc what is new, and return whether it takes that.

        If not, it may take it at a start, or it then says why not.
        """
        self._kept.doubt()
        orthanc = Orthanc(read_folder(self._params["config_dir"]))
        try:
            for path, value in self._live:
                if value is None:
                    orthanc.delete(path)
                else:
                    orthanc.put(path, value)
        except Unready as error:
            self._module.warn(f"Orthanc is started anew, since it does not take a change while it runs: {error}")
            return False
        return True

    def _install(self) -> None:
        """Have the packages of before, with Orthanc stopped. :raises Refused: if that fails."""
        try:
            # It waits for others who install something, and refuses what it can refuse, as long as Orthanc runs.
            self.packages.install("--download-only")
            watch(self._module, self._unit)
            self._unit.tell("stop")
            self.packages.install()
        except (OSError, Refused) as error:
            if self.upgrade and self.upgrade.coming_back:
                # What did not work would be open to all, on the index of before.
                raise Refused(f"{told(error)} {AGAIN}") from error
            # Whatever there is by now, it may serve.
            self._unit.tell("start")
            raise Refused(told(error)) from error

    def prove(self, before: bool) -> dict[str, Any]:
        """Return what Orthanc says of itself. :raises Wrong: if it does not work, or is not what was asked for."""
        params = self._params
        other, system = self._other and not before and not self.same, {}
        dumped = self.upgrade if self.upgrade and self.upgrade.dump else None
        if self._unread and not before:
            names = ", ".join(self._unread)
            raise Wrong(f"It cannot be reloaded, and presents a login to Orthanc: {names}.")
        try:
            settings = read_folder(params["config_dir"])
            if "HttpPort" not in settings or not settings.get("RegisteredUsers"):
                raise Unready(f"{params['config_dir']} has no configuration of ours.")
            orthanc = Orthanc(settings)
            timeout = max(params["timeout"], SCHEMA) if other and not dumped else params["timeout"]
            seconds = wait(orthanc, self._unit, timeout, dumped.works if other and dumped else lambda: False)
            system, plugins = orthanc.get("/system"), orthanc.get("/plugins")
            differing = [] if before else differences(params, system, plugins)
            if differing:
                raise Unready(" ".join(differing))
        except Unready as error:
            lines = journal(self._unit, self._started)
            said = self._unit.log(200, self._started) if before else []
            self._kept.raised |= any(RAISED in line for line in said)
            log = "" if before else f"Its journal (journalctl -u {self._unit.name}) says:\n{lines}"
            told = f"{error} {meaning(lines)}{'' if before else self._kept.upgraded()}".strip()
            opened = system or " answers 40" in str(error)
            self._kept.opened |= bool(opened and not before and params["database"] != "sqlite")
            why = ""
            # Where the index was dumped nobody else has reached it, and what it has done there goes back.
            if other and isinstance(error, Starting) and not dumped:
                why = "another release may be changing its database, which must be left to its end."
            elif opened and not before and not dumped and not self.same and self._kept.crosses():
                why = "this release has opened the database, which the one before may not read any more. Correct what"
                why += " is wrong, and run again."
            if why:
                raise Undecided(f"{told} It was left running: {why}", log) from error
            raise Wrong(told, log) from error
        if not self._module.check_mode and not (before and params["login_goes_back"]):
            self._kept.keep(start_of(self._unit.show()))
        if self.upgrade:
            self.upgrade.proved = True
        return {"version": system["Version"], "plugins": plugins, "seconds": seconds}


def beside(params: dict[str, Any], state: State) -> list[str]:
    """Return the paths of what goes back beside Orthanc's folder: what other units have of ours, since it names a port
    of ours, and the links of another method.
    """
    last = {path: file for path, file in state.read().items() if path.startswith("/") and path != params["unit"]}
    if params["back"]:
        # Such a call is given no files: what worked last has their names, and those of the links.
        return [path for path in last if os.path.dirname(path) != params["config_dir"]]
    units = {item["path"] for item in params["files"]} | set(params["absent"])
    links = [path for path, file in last.items() if file and len(file) == 1]
    return sorted(path for path in units - {params["unit"]} if path.startswith(UNITS)) + links


def asked(params: dict[str, Any]) -> Files:
    """Return the files that are asked for."""
    files: Files = {}
    for item in params["files"]:
        text = item["secret"] if item["content"] is None else item["content"]
        if text is not None or item["link"]:
            files[item["path"]] = [item["link"]] if item["link"] else [text, item["owner"], item["group"], item["mode"]]
    return files


def upgrade_of(service: Service, module: AnsibleModule, kept: Kept, unit: Unit, last: State) -> Upgrade | None:
    """Return what is done for another release, if one is asked for or on its way.

    :raises Refused: where that cannot be done. Nothing is changed until then.
    """
    params, files = module.params, asked(module.params)
    state = State(os.path.join(params["state_dir"], "upgrade.json"))
    if params["back"] or not (state.kept or kept.another(params["programs"], files)):
        return None
    process = unit.show()
    service.same = kept.runs(start_of(process)) and same_plugin(params["programs"], process["MainPID"])
    # One that was started since is no other any more, whoever did it.
    started = since_1970(process[STARTED])
    programs = [path for path in params["programs"] if newest([], [path]) > started]
    there = not programs and kept.started(files, started)
    kept.packages_stay = there
    service.leaves = process["ActiveState"] == "active" and not there
    another = kept.another(programs, files) and not there and not service.same
    settings: dict[str, Any] = {}
    for path, file in files.items():
        if file and os.path.dirname(path) == params["config_dir"] and path.endswith(".json"):
            settings |= read_text(file[0])
    # By apt: what runs cannot be started again, and the next crash would start the other release.
    by_apt = replaced(process["MainPID"])
    if another and not state.kept and not by_apt:
        readable(module, settings)
    if not (another and params["dump_dir"]) and not state.kept:
        return None
    index = index_of(module, params["database"], settings)
    upgrade = Upgrade(module, unit, index, Gate(module, ports(settings)), last, state)
    # Where nobody has reached it yet, it is the one of a call that was cut off.
    kept.packages_stay = there and not upgrade.dump
    # In check mode what dumps it may not be installed yet.
    if another and params["dump_dir"] and not module.check_mode:
        try:
            if by_apt:
                readable(module, settings)
            upgrade.expect()
        except Refused as error:
            if state.kept or not by_apt:
                raise
            if packages_go_back(service.packages, last):
                raise
            unread = "Another release is started all the same, since the one of before cannot be"
            undumped = "The index is not dumped before another release runs"
            module.warn(f"{unread if isinstance(error, Unread) else undumped}: {error}")
            return None
    return upgrade


def packages_go_back(packages: Packages, last: State) -> bool:
    """Have the packages that worked last, while Orthanc goes on to run; tell whether there are files of them."""
    before = last.read().get(packages.path)
    if not before or packages.noted() == before[0] or packages.missing(before[0]):
        return False
    put_back({packages.path: before})
    packages.install()
    return True


def replaced(process: str) -> bool:
    """Tell whether the program of a process is no longer there."""
    try:
        return os.readlink(f"/proc/{process}/exe").endswith(" (deleted)")
    except OSError:
        return False


def try_new_scripts(service: Service, module: AnsibleModule, kept: Kept, unit: Unit, last: State) -> None:
    """Try the scripts that are asked for, if others worked last, or another release is going to run them.

    :raises Unfit: if Orthanc does not start with them.
    """
    params, files = module.params, asked(module.params)
    new, old = (scripts_of(some, params["config_dir"]) for some in (files, last.read()))
    if not new or not params["trial"] or (module.check_mode and not last.kept):
        # In check mode there may be no Orthanc yet, and no other one.
        return
    another = kept.another(params["programs"], files)
    if new == old and (module.check_mode or not (another and service.leaves)):
        return
    try:
        try_scripts(module, files, new)
    except Unfit as error:
        # What has ended cannot be left as it is. By apt: what runs cannot be started again, and the next crash would
        # start the other release.
        ended, by_apt = another and not unit.active, replaced(unit.show()["MainPID"])
        if module.check_mode or (not ended and (not by_apt or packages_go_back(service.packages, last))):
            raise
        module.warn(f"Another release is started all the same, since the one of before cannot be: {told(error)}")


@contextlib.contextmanager
def refusing(way: WayBack, unit: Unit | None = None) -> Iterator[None]:
    """Fail where there can be no way back from another release. Nothing is written yet.

    :param unit: where it may not run at all; nothing where it is started again after the dump of its index.
    """
    try:
        yield
    except (OSError, Refused) as error:
        own = ' Where you dump the index yourself, and need no way back, set orthanc_dump_dir to "".'
        own = "" if isinstance(error, (Unfit, Unread)) else own
        still = "was not started" if unit and not unit.active else "runs as before"
        way.refuse(f"{told(error)}{own} Orthanc {still}, and its configuration is as it was.")


def serve(module: AnsibleModule) -> None:
    """Write Orthanc's files and run it with them, or go back to what worked last."""
    params = module.params
    unit = Unit(module, os.path.basename(params["unit"]))
    # The links say which release runs; they go back with the configuration.
    links = [item["path"] for item in params["files"] if item["link"]]
    state = State(os.path.join(params["state_dir"], "last.json"), lasting=True)
    packages = Packages(module, params["state_dir"], params["packages"])
    if not module.check_mode:
        packages.note()
    kept = Kept(state, params["config_dir"], params["unit"], links + beside(params, state), packages.path)
    service = Service(module, kept, unit, links, packages)
    way = WayBack(module, "Orthanc", state, service.apply, service.prove)
    way.ways = kept.ways

    if params["back"]:
        # The login too: the database takes the one of before.
        way.ways = lambda _problem: kept.login()
        service.restart = True
        if (State(os.path.join(params["state_dir"], "upgrade.json")).read().get("upgrade") or ["", "", False])[2]:
            module.fail_json("Orthanc stays stopped until the next run, which brings its index back from the dump.")
        paths = [] if module.check_mode else way.again()
        module.exit_json(changed=bool(paths), paths=paths)

    with refusing(way, unit):
        service.upgrade = upgrade_of(service, module, kept, unit, state)
        try_new_scripts(service, module, kept, unit, state)
    keep_unit(module, state)
    upgrade = None if module.check_mode else service.upgrade
    try:
        if upgrade:
            with refusing(way):
                upgrade.prepare()
        written = way.write()
        # What is not there yet cannot be looked at.
        changed = bool(module.check_mode and written.paths) or service.decide(written.paths) or bool(written.paths)
        way.resort = kept.resort()
        proven = {} if changed and module.check_mode else way.run()
    finally:
        if upgrade:
            upgrade.end()
    module.exit_json(changed=changed, paths=written.paths, diff=written.diffs, **proven)


def main() -> None:
    module = QuietModule(
        argument_spec=ARGUMENTS
        | {
            "config_dir": {"type": "path", "required": True},
            "unit": {"type": "path", "default": "/etc/systemd/system/orthanc.service"},
            "reload": {"type": "list", "elements": "str", "default": []},
            "programs": {"type": "list", "elements": "path", "default": []},
            "trial": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "state_dir": {"type": "path", "default": "/var/lib/pacs/orthanc"},
            "dump_dir": {"type": "path", "default": ""},
            "version": {"type": "str", "default": ""},
            "plugins": {"type": "list", "elements": "str", "default": []},
            "database": {"type": "str", "choices": ["sqlite", "postgresql", "mysql"], "default": "sqlite"},
            "storage": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 120},
            "guard": {"type": "str", "default": ""},
            "guard_rule": {"type": "str", "default": ""},
            "login_goes_back": {"type": "bool", "default": False},
            "back": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    with lock(module):
        serve(module)


if __name__ == "__main__":
    main()

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another release on the index of before: that is dumped first, and comes back where the release does not work.

Until its proof nobody but root on the host itself reaches the release, so a dump that comes back takes no image along
that somebody was told is stored.
"""

from __future__ import annotations

import contextlib
import datetime
import filecmp
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import files
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import version_tuple
from ansible_collections.dicom.orthanc.plugins.module_utils.database_answers import REVISIONS
from ansible_collections.dicom.orthanc.plugins.module_utils.files import (
    MARK,
    MARK_TEXT,
    STARTED,
    Refused,
    free_bytes,
    marked,
    plain_files,
    remove,
    sync_folder,
    told,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_index import WRITER, Index, index_of, unwritten
from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import Unit

NFT = "/usr/sbin/nft"
TABLE = "orthanc_proof"
WATCH = "pacs-orthanc-proof"
# How long an orderly end may take, in seconds, of a release that does not work.
PATIENCE = 15
# How often it is told what is waited for, in seconds.
MINUTE = 60
# What is said where the way back is not at its end.
AGAIN = "The next run tries it again; until then Orthanc stays stopped."
# Where others than root can read the configuration of a trial, which says nothing of the site.
TRIALS = "/run"
# What stands for its path in the command, alone or as part of a volume; a folder may be called so.
FILE = re.compile(r"(?<![^=:])FILE(?![^:])")
# What a dump is called: when it was begun.
NAME = re.compile(r"\d{8}T\d{6}\.\d{6}")


def ports(settings: Mapping[str, Any]) -> list[int]:
    """Return the TCP ports that an Orthanc with these settings listens on."""
    tenants = (settings.get("MultitenantDicom") or {}).get("Servers") or []
    found = [settings.get("HttpPort", 8042), *(one.get("Port", 0) for one in tenants)]
    # Else another program may have that port.
    found += [settings.get("DicomPort", 4242)] if settings.get("DicomServerEnabled", True) else []
    return sorted({int(port) for port in found if port})


def same_plugin(programs: Iterable[str], process: str) -> bool:
    """Tell whether the plugin that keeps the index is the one that a process has loaded, be it deleted since."""
    new = next((path for path in programs if "SQLIndex" in os.path.basename(path)), "")
    try:
        with open(f"/proc/{process}/maps", encoding="utf-8", errors="replace") as file:
            loaded = [line.split()[0] for line in file if "SQLIndex" in line]
        return bool(new and loaded) and filecmp.cmp(new, f"/proc/{process}/map_files/{loaded[0]}", shallow=False)
    except OSError:
        return False


class Unread(Refused):
    """The release that is asked for does not read the index."""


def readable(module: AnsibleModule, settings: Mapping[str, Any]) -> None:
    """See whether the release that is asked for reads the index and writes there, as far as it is known which ones do.

    :param settings: the options that are asked for.
    :raises Unread: if it does not.
    """
    params, known = module.params, REVISIONS.get(module.params["database"], {})
    paths = [*params["programs"], *settings.get("Plugins", [])]
    plugin = next((path for path in paths if "SQLIndex" in os.path.basename(path)), "")
    if not params["trial"] or not (params["database"] == "sqlite" or (known and plugin)):
        return
    try:
        index = index_of(module, params["database"], settings)
        revision = index.revision()
    except (Refused, ValueError):
        # Why not is told by what needs it.
        return
    if params["database"] == "sqlite":
        version = said_version(module, [], r"Orthanc version: (\d[\d.]*)") if revision else ""
        if version and version_tuple(version) < version_tuple(WRITER):
            raise Unread(f"orthanc_version, orthanc_docker_image: {unwritten(version, index.where)}")
        return
    asked = r"Registering plugin '[^']+' \(version ([^)]+)\)"
    version = said_version(module, [plugin], asked) if revision > min(known.values()) else ""
    if revision > known.get(version, revision):
        raise Unread(
            f"orthanc_version, orthanc_docker_image: {os.path.basename(plugin)} {version}, which comes with the Orthanc"
            f" that is asked for, reads an index up to revision {known[version]} of the schema, and {index.where} has"
            f" {revision}. Stay with a newer one, or have the dump back that was made before it (docs/operations.md)."
        )


def said_version(module: AnsibleModule, plugins: list[str], pattern: str) -> str:
    """Return what Orthanc says of itself, or of a plugin that it registers; nothing if it does not.

    :param pattern: of the line that tells the version.

    The plugin of a database does nothing without its section; and Orthanc ends, since it may make no index there.
    """
    none = {"StorageDirectory": "/nonexistent/orthanc", "IndexDirectory": "/nonexistent/orthanc"}
    with tempfile.NamedTemporaryFile("w", dir=TRIALS, prefix="pacs-", suffix=".json", encoding="utf-8") as file:
        json.dump({"Plugins": plugins, "HttpServerEnabled": False, "DicomServerEnabled": False} | none, file)
        file.flush()
        os.chmod(file.name, 0o644)
        command = [FILE.sub(file.name, word) for word in module.params["trial"]]
        try:
            _rc, out, err = module.run_command(["timeout", "--kill-after=10", "60", *command], handle_exceptions=False)
        except OSError:
            return ""
    found = re.search(pattern, f"{out}{err}")
    return found[1] if found else ""


def write(path: str, text: str) -> None:
    """Write a file that is not there yet, for root alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(text)


def remove_dump(folder: str) -> None:
    """Remove a dump; a folder without the mark is somebody else's, unless it is empty."""
    if marked(folder):
        for path in [*plain_files(folder), os.path.join(folder, MARK)]:
            remove(path)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


class Gate:
    """A table of the packet filter that turns away all but root on this host itself."""

    def __init__(self, module: AnsibleModule, closed: Iterable[int]) -> None:
        """:param closed: the ports."""
        self._module = module
        to = f"tcp dport {{ {', '.join(map(str, closed))} }} reject with tcp reset;"
        self._rules = (
            f"table inet {TABLE} {{ chain elsewhere {{ type filter hook input priority -1; iif != lo {to} }};"
            f" chain here {{ type filter hook output priority -1; oif lo meta skuid != 0 {to} }}; }}"
        )

    def _nft(self, *words: str) -> str:
        """Return what the packet filter has against it, or nothing."""
        if not os.path.exists(NFT):
            return "it is not installed"
        rc, _out, err = self._module.run_command([NFT, *words])
        return (str(err).strip() or f"it ends with {rc}") if rc else ""

    @property
    def closed(self) -> bool:
        return not self._nft("list", "table", "inet", TABLE)

    def close(self, check: bool = False) -> None:
        """Close it, or only see whether it can be closed. :raises Refused: if it cannot."""
        option = ["--check"] if check else []
        said = self._nft(*option, f"table inet {TABLE}; delete table inet {TABLE}; {self._rules}")
        if said:
            raise Refused(f"The packet filter ({NFT}) cannot keep others off until the proof: {said}.")

    def open(self) -> None:
        said = self.closed and self._nft("delete", "table", "inet", TABLE)
        if said:
            self._module.warn(f"Others are still kept off, since the packet filter does not change: {said}.")


def watch(module: AnsibleModule, unit: Unit) -> None:
    """Have the host start Orthanc and let everybody in, should this call be killed: then it gets the lock."""
    script = (
        f"systemctl is-enabled --quiet {unit.name} || exit 0;"
        f" {NFT} delete table inet {TABLE} 2> /dev/null; systemctl start --no-block {unit.name}"
    )
    waits = ["flock", files.LOCK, "sh", "-c", script]
    # One that waits already does it too.
    module.run_command(["systemd-run", "--quiet", "--collect", f"--unit={WATCH}", *waits])


class Upgrade:
    """What is done for another release besides its files.

    :ivar dump: the folder of the dump that this call, or one that was cut off, has made; empty without one.
    :ivar proved: whether an Orthanc works with the index, be it the release of before.
    """

    def __init__(self, module: AnsibleModule, unit: Unit, index: Index, gate: Gate, last: State, state: State) -> None:
        """
        :param last: the configuration and what starts it, as they worked last.
        :param state: keeps what a call that is cut off has begun.
        """
        self._module, self._unit, self._index, self._gate = module, unit, index, gate
        self._last, self._state, self._folder = last, state, str(module.params["dump_dir"])
        self.proved = self._due = self._stopped = False
        self._told = 0.0
        # The schema when it was dumped, and whether that is coming back.
        self.dump, self._schema, self._back = (state.read().get("upgrade") or ["", "", False])[:3]
        self._half = ""
        if not self._schema:
            self._half, self.dump = self.dump, ""
        # Where the gate is open, others may have reached the release: nothing is taken from them any more. While the
        # index is coming back, none is started, be the host restarted.
        if self.dump and not gate.closed and (unit.active or not self._back):
            self.dump, self._back = "", False

    def expect(self) -> None:
        """See whether all is there that another release takes, before anything is changed. :raises Refused: if not."""
        self._gate.close(check=True)
        self._index.check()
        size, free = self._index.size(), free_bytes(self._folder)
        # Where there is no index yet, nothing can be lost.
        self._due = size > 0
        if not self.dump and free < size:
            raise Refused(
                f"orthanc_dump_dir: {self._index.where} takes up to {size / 2**20:.0f} MiB to dump before another"
                f" release changes it, and {self._folder} has {free / 2**20:.0f} MiB free. Make room there, or choose"
                " another folder."
            )

    def prepare(self) -> None:
        """Stop Orthanc and dump its index, as long as nothing is written: a host that is restarted meanwhile starts the
        release of before. :raises Refused: if that fails.
        """
        if self._due or self.dump:
            watch(self._module, self._unit)
        if self._due and not self.dump:
            # Whoever starts Orthanc meanwhile, as the restart of a database does, lets nobody send to it.
            self._gate.close()
            self._stopped = True
            self._unit.must("stop", self._unit.name)
            before = self._unit.show()[STARTED]
            self._make()
            if self._unit.active or self._unit.show()[STARTED] != before:
                remove_dump(self.dump)
                self.dump = ""
                raise Refused("Orthanc was started while its index was dumped.")

    def before_start(self, another: bool) -> None:
        """Have the index as what starts now expects it, and the gate closed. :raises Refused: if that fails.

        :param another: whether that is another release than the one of before.
        """
        self._stopped = False
        if self.dump and not (another or self._back or self._gate.closed):
            self._module.warn(
                f"The rule of the packet filter that kept others off ({TABLE}) is gone: others may have reached the"
                f" release, so that {self._index.where} stays as it has made it. {self.dump} has it as it was before."
            )
            self.dump = ""
        if not self.dump:
            return
        if self._back or not another:
            self._end()
            self._restore()
        else:
            self._unit.must("stop", self._unit.name)
        if another:
            # The one of before may serve again, whatever the packet filter says.
            self._gate.close()

    def let_start(self) -> None:
        """Have it started from now on, by whomever: index and packages are what they are to be."""
        if self._back:
            self._back = False
            self._keep()

    @property
    def coming_back(self) -> bool:
        """Whether the index came back by this call, or has to, so that nothing may be started yet."""
        return bool(self._back)

    def works(self) -> bool:
        """Tell whether the release that does not answer yet works on the index, and the journal what it does there."""
        what, now = self._index.works(), time.monotonic()
        if what and now - self._told > MINUTE:
            self._told = now
            self._module.log(f"Orthanc does not answer yet, and {self._index.where} is worked on: {what}")
        return bool(what)

    def end(self) -> None:
        """Let everybody in, now that the release is proved or given up; and have one dump, the newest."""
        if self._back:
            # It did not come back, which the next call tries again.
            return
        self._gate.open()
        self._state.forget()
        if self._stopped:
            # It has come to no start.
            self._unit.tell("start")
        if self._half:
            remove_dump(self._half)
        # Of a release that was never proved, an earlier dump may be the only one that an older one reads.
        dumps = os.path.dirname(self.dump)
        names = filter(NAME.fullmatch, os.listdir(dumps) if self.proved and os.path.isdir(dumps) else ())
        for folder in (os.path.join(dumps, name) for name in names):
            if folder != self.dump:
                remove_dump(folder)

    def _end(self) -> None:
        """Stop a release that does not work, and may not even hear of it: nobody has been told anything by it."""
        self._unit.tell("stop", "--no-block")
        deadline = time.monotonic() + PATIENCE
        while not self._unit.ended and time.monotonic() < deadline:
            time.sleep(0.1)
        with contextlib.suppress(OSError), open(f"/proc/{self._unit.show()['MainPID']}/comm", encoding="utf-8") as file:
            name = file.read().strip()
            if name == "Orthanc":
                self._unit.tell("kill", "--signal=KILL")
            elif name == "docker":
                # Its command would wait for the container for ten minutes.
                self._module.run_command(["docker", "kill", "orthanc"])
        self._unit.must("stop", self._unit.name)

    def _keep(self) -> None:
        self._state.keep({"upgrade": [self.dump, self._schema, self._back]})

    def _make(self) -> None:
        """Dump the index, and put the configuration that worked last beside it, for root alone."""
        start, schema = time.monotonic(), self._index.schema()
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        folder = os.path.join(self._folder, f"{datetime.datetime.now():%Y%m%dT%H%M%S.%f}")
        # Without a schema, the next call takes it for half of one, and removes it.
        self._state.keep({"upgrade": [folder, "", False]})
        os.mkdir(folder, mode=0o700)
        try:
            write(os.path.join(folder, MARK), MARK_TEXT)
            kept = {path: file[0] for path, file in self._last.read().items() if file and path.startswith("/")}
            names = [os.path.basename(path) for path in kept]
            for (path, text), name in zip(kept.items(), names, strict=True):
                # Of a link, where it led: that says which release it was. Two methods have one of the same name.
                alone = name if names.count(name) == 1 else path[1:].replace("/", "_")
                write(os.path.join(folder, alone), text)
            self._index.dump(folder)
            for path in plain_files(folder):
                os.chmod(path, 0o600)
                with open(path, "rb") as made:
                    os.fsync(made.fileno())
        except (OSError, Refused):
            # On a full disk, half of it would be in the way of the next one.
            remove_dump(folder)
            raise
        sync_folder(folder)
        sync_folder(self._folder)
        self.dump, self._schema = folder, schema
        self._keep()
        took = f"in {time.monotonic() - start:.0f} s"
        self._module.warn(f"Before another release runs, {self._index.where} was dumped to {folder}, {took}.")

    def _restore(self) -> None:
        """Have the index of before back, if its schema is another one by now."""
        if not self._back and self._index.schema() == self._schema:
            return
        start = time.monotonic()
        # Cut off in the middle, it is begun anew, and nothing is started until then: of what is half there, Orthanc
        # would make an archive without images; and while its packages are not back, the release that did not work would
        # be open to everybody.
        self._back = True
        self._keep()
        self._unit.must("disable", "--quiet", self._unit.name)
        try:
            self._index.restore(self.dump)
            if self._index.schema() != self._schema:
                raise Refused("Its schema is another one than before.")
        except (OSError, Refused) as error:
            raise Refused(f"{self._index.where} does not come back from {self.dump}: {told(error)} {AGAIN}") from error
        took = f"after {time.monotonic() - start:.0f} s"
        self._module.warn(f"{self._index.where} is as it was dumped to {self.dump}, {took}.")

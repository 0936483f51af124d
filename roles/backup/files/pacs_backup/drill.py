# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last backup, restored and started, for a try."""

from __future__ import annotations

import functools
import hashlib
import http.client
import json
import os
import pathlib
import pwd
import re
import sqlite3
import subprocess
import sys
import time
from typing import Any

from .backup import Backup
from .beside import ANY, DRILLED, Beside, orthanc_command, restore
from .cluster import Recovered
from .common import HERE, STATE, Failed, now, put, say
from .index import check_index, compare, differ, handed
from .mariadb import DUMP, Loaded
from .repository import epoch, tagged

# How many images the restored Orthanc is asked for, at most.
ASKED = 200
RECOVERED = "pacs-drill-postgresql"
LOADED = "pacs-drill-mariadb"
# It answers nobody but this host, sends nothing, listens to no modality and goes on with no job.
QUIET = {
    "Name": "DRILL",
    "Plugins": [],
    "HttpPort": 8042,
    "RemoteAccessAllowed": False,
    "AuthenticationEnabled": False,
    "DicomServerEnabled": False,
    "SaveJobs": False,
}


class Drill(Beside):
    """The last backup, restored beside the archive, with an Orthanc of its own that nobody reaches."""

    NAME = ".pacs-drill"

    def __init__(self, backup: Backup) -> None:
        super().__init__(backup, os.path.realpath(backup.settings.get("drill_folder") or backup.storage))
        self.loaded: Loaded | None = None
        if backup.mariadb:
            self.loaded = Loaded(backup.settings, self.folder.with_name(f"{self.NAME}-mariadb"), LOADED)

    @functools.cached_property
    def recovered(self) -> Recovered | None:
        """The database of the backup, where it has one; looked for once what becomes of the drill is told."""
        if not (cluster := self.backup.cluster):
            return None
        beside = self.folder.parent if self.backup.settings.get("drill_folder") else cluster.data.parent
        return Recovered(cluster, beside / f"{self.NAME}-postgresql", RECOVERED, "orthanc")

    def run(self) -> None:
        """Restore, compare and start it. :raises Failed: if anything is not as it has to be."""
        began = time.monotonic()
        percent = self.backup.settings["drill_percent"]
        self.backup.same(self.repository.number())
        snapshots = self.repository.snapshots()
        if not snapshots:
            raise Failed(f"There is no backup of {self.backup.settings['host']} in {self.repository.url} to restore.")
        last = snapshots[-1]
        stage = tagged(last, "index")
        told = json.loads(self.repository.ask("dump", str(last["id"]), f"{stage}/backup.json"))
        self.backup.suits(told)
        before = self.backup.status().get("drill", {})
        folders = chosen(percent, before.get("next", 0))
        self.report = {
            "host": self.backup.settings["host"],
            "repository": self.repository.url,
            "time": now(),
            "snapshot": str(last["id"]),
            "backed_up": told["time"],
            "percent": percent,
            "folders": sorted(folders) if percent < 100 else "all",
        }
        if not self.folder.parent.is_dir():
            raise Failed(f"backup_drill_folder: {self.folder.parent} is not there. Is its disk mounted?")
        # Of one that was killed, and whatever Orthanc's user has put there while one was served.
        self.anew()
        way_out = "Have the drill restore less (backup_drill_percent), or on another disk (backup_drill_folder)."
        self.room(told, told["bytes"] * len(folders) // 256, way_out)
        if self.recovered:
            self.recovered.cluster.room(self.recovered.folder.parent, way_out)
        damage = self.read_all(percent, before.get("part", 0))
        try:
            self.proved(last, told, folders, damage)
        except Failed as error:
            if not damage or str(error).startswith("The backup of "):
                raise
            raise Failed(f"The backup of {told['time']} is not whole: {' '.join(damage[:3])} {error}") from error
        finally:
            self.report |= {"damage": damage, "seconds": round(time.monotonic() - began, 1)}

    def proved(self, last: dict[str, Any], told: dict[str, Any], folders: set[str], damage: list[str]) -> None:
        """Restore and serve it. :raises Failed: if anything is not as it has to be.

        :param damage: what of the repository cannot be read, to which comes what could not be restored.
        """
        self.restored(last, told, folders)
        damage += self.report.pop("unrestored")
        stage = tagged(last, "index")
        index, storage = self.inside(stage) / "index", self.inside(told["storage_dir"])
        counts = check_index(index)
        compared, wrong = compare(index, storage, folders, sums=True)
        self.report |= {"images": counts["instances"], "files": compared}
        # Those have come while the files were read, after the index.
        self.report |= {**wrong, "unknown": len(wrong["unknown"])}
        self.database(index, told)
        # It was missing in the archive, which is told there.
        lost = set(told.get("missing", []))
        self.report["missing_before"] = [line for line in wrong["missing"] if line.split()[0] in lost]
        self.report["missing"] = wrong["missing"] = [line for line in wrong["missing"] if line.split()[0] not in lost]
        # The next one goes on from there.
        self.report["next"] = (self.backup.status().get("drill", {}).get("next", 0) + len(folders)) % 256
        self.report["served"] = self.served(index, storage, folders, counts["instances"], told)
        if damage or wrong["missing"] or wrong["damaged"]:
            raise Failed(
                f"The backup of {told['time']} is not whole: {len(wrong['missing'])} files are missing and"
                f" {len(wrong['damaged'])} damaged, of {compared}. {' '.join(damage[:3])}".strip()
            )
        if counts["instances"] != told["instances"]:
            raise Failed(f"The index has {counts['instances']} images, and was backed up with {told['instances']}.")

    def database(self, index: pathlib.Path, told: dict[str, Any]) -> None:
        """Restore the database as well, and hold it against the list of what it knew. :raises Failed: if it differs."""
        began, recovered = time.monotonic(), index.with_name("index-recovered")
        if self.recovered:
            moment = told["moment"]
            label, target = self.recovered.cluster.chosen(moment, epoch(told["time"]))
            self.recovered.restored(moment, label, target)
            # By the login that owns it: what stands there is Orthanc's, and a view may be a program.
            self.recovered.database(moment["database"], moment["user"]).listed(recovered)
        elif self.loaded:
            name, label = told["moment"]["database"], DUMP
            self.loaded.restored(index.with_name(DUMP), name)
            self.loaded.index(name).listed(recovered)
        else:
            return
        self.report["database"] = {"backup": label, "seconds": round(time.monotonic() - began, 1)}
        if other := differ(index, recovered):
            raise Failed(
                f"The database does not have what it had when it was backed up: {len(other)} files differ, such as"
                f" {other[0]}."
            )

    def read_all(self, percent: int, before: int) -> list[str]:
        """Have restic read what is in the repository, or the part after that of before. Return what is damaged."""
        parts = -(-100 // percent)
        number = before % parts + 1
        self.report["part"] = number
        done = self.repository.run(
            "--no-lock", "check", *(["--read-data"] if percent == 100 else [f"--read-data-subset={number}/{parts}"])
        )
        found = [] if done.returncode == 0 else [str(self.repository.refused(done))]
        return found + (self.recovered.cluster.damage() if self.recovered and percent == 100 else [])

    def restored(self, snapshot: dict[str, Any], told: dict[str, Any], folders: set[str]) -> None:
        """Restore the index and the files of some folders."""
        began = time.monotonic()
        names = ["[0-9a-f][0-9a-f]"] if len(folders) == 256 else sorted(folders)
        said = restore(self.repository, snapshot, told, self.tree, names)
        self.report["restore_seconds"] = round(time.monotonic() - began, 1)
        self.report["unrestored"] = said
        if not (self.inside(tagged(snapshot, "index")) / "index").exists():
            raise Failed(f"The index is not in the backup, or cannot be read. {' '.join(said)}")

    def served(
        self, index: pathlib.Path, storage: pathlib.Path, folders: set[str], images: int, told: dict[str, Any]
    ) -> int:
        """Have an Orthanc serve it, in a network of its own. Return how many images it has handed out as they were.

        :raises Failed: if it does not start, or another number of images, or another image, comes from it.
        """
        asked = handed(index, storage, folders, ASKED)
        # Only now, since root has opened the index as one that nobody else can reach.
        os.chown(self.opened[0], -1, pwd.getpwnam("orthanc").pw_gid)
        os.chmod(self.opened[0], 0o750)
        settings = self.folder / "orthanc.json"
        folders_of = {"StorageDirectory": self.real(storage), "IndexDirectory": self.real(index.parent)}
        put(self.opened[1] / settings.name, {**QUIET, **folders_of, **self.plugin(told)})
        beside = [str(server.sockets) for server in (self.recovered, self.loaded) if server]
        command, container = orthanc_command(str(settings), str(self.folder), *beside)
        properties = ["PrivateNetwork=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "Nice=19"]
        properties += [f"ReadWritePaths={self.folder}", f"User={'root' if container else 'orthanc'}"]
        run = ["systemd-run", "--quiet", "--collect", f"--unit={DRILLED}", *(f"--property={one}" for one in properties)]
        try:
            subprocess.run([*run, "--", *command], check=True, capture_output=True, text=True)
            answers = ask_inside(container, asked)
        finally:
            stop_drilled()
        self.report["orthanc"] = answers["version"]
        if answers["images"] != images:
            raise Failed(f"Orthanc has {answers['images']} images of the backup, and its index {images}.")
        if answers["other"]:
            raise Failed(
                f"Orthanc does not hand out {len(answers['other'])} images as they were: {answers['other'][:3]}"
            )
        return len(asked)

    def plugin(self, told: dict[str, Any]) -> dict[str, Any]:
        """Return what Orthanc is told of its database."""
        if self.loaded:
            index = self.loaded.index(told["moment"]["database"])
            return {"Plugins": index.plugins(), "MySQL": {**index.section, "Lock": False}}
        if not self.recovered:
            return {}
        database, moment = self.recovered.cluster.database, told["moment"]
        uri = self.recovered.uri(moment["user"], moment["database"])
        return {"Plugins": database.plugins(), "PostgreSQL": {**database.section, "ConnectionUri": uri, "Lock": False}}

    def away(self, ours: re.Pattern[str] = ANY) -> None:
        for server in (self.recovered, self.loaded):
            if server:
                server.away()
        super().away(ours)

    def note(self, problem: str) -> str:
        """Leave the report, dated, and tell a monitor. Return where it is."""
        self.report["wrong"] = problem
        # One that did not get that far does not begin anew.
        before = self.backup.status().get("drill", {})
        self.report = {name: before[name] for name in ("next", "part") if name in before} | self.report
        path = STATE / "drills" / time.strftime("%Y-%m-%dT%H%M%SZ.json", time.gmtime())
        path.parent.mkdir(mode=0o755, exist_ok=True)
        put(path, self.report)
        self.backup.note(
            drilling="", drill={"time": now(), "epoch": int(time.time()), "report": str(path), **self.report}
        )
        return str(path)


def chosen(percent: int, first: int) -> set[str]:
    """Return which of the 256 folders of an archive are restored: each time the next ones."""
    count = -(-256 * percent // 100)
    return {f"{(first + number) % 256:02x}" for number in range(count)}


def stop_drilled() -> None:
    subprocess.run(["systemctl", "stop", f"{DRILLED}.service"], check=False, capture_output=True)


def ask_inside(container: bool, asked: dict[str, str]) -> dict[str, Any]:
    """Ask the Orthanc of the drill from inside of its network."""
    show = ["systemctl", "show", f"{DRILLED}.service", "--property=MainPID", "--value"]
    if container:
        show = ["docker", "inspect", "--format={{.State.Pid}}", DRILLED]
    end = time.monotonic() + 120
    pid = "0"
    while pid in ("", "0") and time.monotonic() < end:
        pid = subprocess.run(show, check=False, capture_output=True, text=True).stdout.strip()
        time.sleep(0.2)
    if pid in ("", "0"):
        raise Failed(f"The Orthanc of the drill does not start; see journalctl -u {DRILLED}.")
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, str(HERE / "backup.py"), "ask"]
    done = subprocess.run(command, input=json.dumps(asked), check=False, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"The Orthanc of the drill does not answer: {done.stderr.strip()}; see journalctl -u {DRILLED}.")
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def ask(asked: dict[str, str]) -> dict[str, Any]:
    """Ask the only Orthanc of this network how many images it has, and for some of them."""
    end = time.monotonic() + 120
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", 8042, timeout=60)
            version = json.loads(got(connection, "/system"))["Version"]
            break
        except (OSError, http.client.HTTPException):
            if time.monotonic() > end:
                raise Failed("no answer in 120 s") from None
            time.sleep(0.5)
    images = json.loads(got(connection, "/statistics"))["CountInstances"]
    other = []
    for name, digest in asked.items():
        content = got(connection, f"/instances/{name}/file")
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
            other.append(name)
    return {"version": version, "images": images, "other": other}


def got(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()


def drilled(drill: Drill) -> None:
    """Drill, and leave a report whatever comes of it."""
    problem = ""
    try:
        drill.run()
    except (Failed, OSError, ValueError, sqlite3.Error, subprocess.SubprocessError) as error:
        problem = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        raise
    finally:
        say(f"The report is {drill.note(problem)}.")

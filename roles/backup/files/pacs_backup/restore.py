# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup in the place of the archive."""

from __future__ import annotations

import contextlib
import datetime
import functools
import glob
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from typing import Any

from .backup import LEVEL, Backup
from .beside import INCLUDES, Beside, numbers, orthanc_version, restore
from .cluster import LAST, LOG, Recovered, moment_of
from .common import (
    MIB,
    NAME,
    SILENT,
    SPARE,
    STATE,
    Failed,
    now,
    open_folder,
    owned,
    parsed,
    place,
    put,
    read,
    service,
    sync_folder,
    way,
)
from .database import Database
from .index import QUEUE, check_index, compare, differ, handed
from .mariadb import DUMP, Loaded, Mariadb
from .members import Members
from .orthanc import Orthanc
from .repository import tagged, taken

INDEX = ("index", "index-wal", "index-shm", "index-journal", QUEUE, f"{QUEUE}-journal")
# What is left in the folder once all is in its place.
LEFT = re.compile(rf"index(-recovered|\.sql)?|{re.escape(QUEUE)}|\.?backup\.json(\.new)?")
# As the database's folder is called for a moment, in which it is seen whether it can be renamed.
TRIED = ".pacs-try-"
# How many images the restored Orthanc is asked for, at most.
ASKED = 20
EVERYTHING = frozenset(f"{number:02x}" for number in range(256))


class Restore(Beside):
    """A backup in the place of the archive; what is there is kept beside it."""

    NAME = ".pacs-restore"

    def __init__(self, backup: Backup) -> None:
        super().__init__(backup)
        # Where nobody but root writes. As long as the first is there, systemd does not start Orthanc.
        self.moves, self.begun = STATE / "moves.json", STATE / "restore.json"
        self.recovered: Recovered | None = None
        if cluster := backup.cluster:
            self.recovered = Recovered(cluster, cluster.data.parent / self.NAME, "pacs-restore-postgresql")
        self.loaded: Loaded | None = None
        if backup.mariadb:
            beside = self.folder.with_name(f"{self.NAME}-mariadb")
            self.loaded = Loaded(backup.settings, beside, "pacs-restore-mariadb")

    @property
    def database(self) -> Database | Mariadb | None:
        """Where the index is, if it is not beside the files."""
        return self.recovered.cluster.database if self.recovered else self.backup.mariadb

    def images(self) -> str:
        """Return how many images there are, in words; nothing if there are none."""
        levels = "[0-9a-f]" * 2
        files = sum(1 for _ in glob.iglob(f"{glob.escape(self.backup.storage)}/{levels}/{levels}/*"))
        found = f"{self.backup.storage} has {files} files of images" if files else ""
        if not found and (database := self.database):
            try:
                known, others = database.images(), database.others()
                found = f"the database knows {known} images" if known else ""
                found = found or (f"its server has what somebody else has made ({others})" if others else "")
            except Failed as error:
                found = f"nobody can say what the database has ({error})"
        return found

    def asks(self, there: str) -> Failed:
        """Return what is said where images would make way without words."""
        host = self.backup.settings["host"]
        return Failed(
            f"Nothing was restored, since {there}. To have the backup in"
            f' their place, say -e \'{{"restore": "archive of {host}"}}\': what is there is kept beside it then.'
        )

    @property
    def members(self) -> Members | None:
        """Those whose servers have the database: it is loaded there, and their data stay where they are."""
        return self.backup.members

    @property
    def placing(self) -> Recovered | None:
        """The data that take the place of others, where the server is of this host alone."""
        return None if self.members else self.recovered

    def run(self, wanted: str, over: bool, lacking: int = 0, at: str = "", stage_only: bool = False) -> dict[str, Any]:
        """Restore. Return what came of it. :raises Failed: if nothing was changed, or if it does not work.

        :param at: the moment as of which the database is wanted, if it is not that of the backup.
        :param over: whether images that are there may make way.
        :param lacking: without how many files it is good enough, where not all of the repository can be read.
        :param stage_only: whether another call is to have it take the place, once all Orthancs stand still.
        """
        if self.placing:
            self.untried(self.placing)
        if self.moves.exists():
            if stage_only:
                return {}
            # Of a run that was cut off in the middle, what it had restored takes its place first.
            return self.placed(over)
        if not over and (there := self.images()):
            raise self.asks(there)
        self.backup.same(self.repository.number())
        if at and moment_of(at) > time.time():
            raise Failed(f"Nothing was restored: {at} is still to come, and it is {now()} on this host.")
        if self.members:
            self.members.lead()
        if at and self.recovered:
            self.recovered.cluster.current()
        snapshot, others = self.picked(wanted, at)
        stage = tagged(snapshot, "index")
        told = json.loads(self.repository.ask("dump", str(snapshot["id"]), f"{stage}/backup.json"))
        if at:
            # Of the same server.
            told["moment"] = told.get("moment", {}) | {"at": in_utc(at)}
        self.fits(snapshot, told)
        index, storage = self.inside(stage) / "index", self.inside(told["storage_dir"])
        with written():
            began = time.monotonic()
            said = restore(self.repository, snapshot, told, self.tree, ["[0-9a-f][0-9a-f]"])
            os.sync()
            seconds = round(time.monotonic() - began, 1)
            if not index.exists():
                raise Failed(f"Nothing was restored: the index cannot be read. {' '.join(said)}")
            images = self.recover(index, told, at)
            compared, wrong = compare(index, storage, set(EVERYTHING), sums=True)
        self.earlier(index, storage, told, others, wrong)
        if at:
            self.still_there(index, storage, wrong)
        if at:
            # What has come since, and what was to be deleted.
            for name in filter(NAME.fullmatch, wrong["unknown"]):
                place(storage, name).unlink(missing_ok=True)
            wrong["unknown"] = []
        wrong["missing"] += self.unsent(told, index)
        names = {line.split()[0] for line in wrong["missing"] + wrong["damaged"]}
        lost = len(names)
        # What was missing when it was backed up was told then.
        before = {*told.get("missing", []), *([] if told.get("queue") else [QUEUE])}
        # Of another moment some are always missing.
        if (said or (names - before and not at)) and lost > lacking:
            why = " ".join([f"{lost} of {compared} files cannot be had.", *said])
            raise Failed(
                f"Nothing of the archive was changed: {why} To"
                f' have what can be had, which is in {self.folder}, say -e \'{{"lacking": "{lost} files"}}\'.'
            )
        storage.mkdir(parents=True, exist_ok=True)
        self.beside_index(index)
        os.sync()
        report = {"host": self.backup.settings["host"], "snapshot": str(snapshot["id"])}
        report |= {
            "backed_up": told["moment"]["at"] if at else told["time"],
            "files": compared,
            "files_seconds": seconds,
            **wrong,
            "images": images,
            "archive": told["archive"],
        }
        paths = {"storage": str(storage.relative_to(self.tree)), "index": str(index.parent.relative_to(self.tree))}
        put(self.moves, {"report": report, **paths, "over": over}, 0o600)
        return {} if stage_only else self.placed(over)

    def recover(self, index: pathlib.Path, told: dict[str, Any], at: str) -> int:
        """Have the database as it was, beside the one that works. Return how many images it knows.

        :raises Failed: if it does not know what it knew when it was backed up.
        """
        if self.loaded:
            return self.tried_index(self.loaded, index, told)
        if not self.recovered:
            return int(check_index(index)["instances"])
        moment, cluster = told["moment"], self.recovered.cluster
        self.recovered.restored(moment, *cluster.chosen(moment, moment_of(moment.get("at", told["time"]))))
        try:
            self.recovered.settled(cluster.database.section["ConnectionUri"])
            known = index.with_name("index-recovered")
            # By the login that owns it: what stands there is Orthanc's, and a view may be a program.
            self.recovered.database(moment["database"], moment["user"]).listed(known)
            if not at and (other := differ(index, known)):
                raise Failed(
                    f"Nothing was restored: the database does not have what it had when it was backed up: {len(other)}"
                    f" files differ, such as {other[0]}. Take another backup (snapshot)."
                )
            os.replace(known, index)
            if self.members:
                self.members.copied(self.recovered, moment)
                self.members.listed(known)
                if other := differ(index, known):
                    raise Failed(f"Nothing was restored: {len(other)} files were not loaded, such as {other[0]}.")
                known.unlink()
        finally:
            self.recovered.stop()
        return int(check_index(index)["instances"])

    def tried_index(self, loaded: Loaded, index: pathlib.Path, told: dict[str, Any]) -> int:
        """Have a server of its own read the dump. :raises Failed: if it does not have what the index had."""
        known, name = index.with_name("index-recovered"), told["moment"]["database"]
        try:
            loaded.restored(index.with_name(DUMP), name)
            loaded.index(name).listed(known)
        finally:
            loaded.away()
        if other := differ(index, known):
            raise Failed(
                f"Nothing was restored: the dump does not have what the index had when it was backed up: {len(other)}"
                f" files differ, such as {other[0]}. Take another backup (snapshot)."
            )
        return int(check_index(index)["instances"])

    def fits(self, snapshot: dict[str, Any], told: dict[str, Any]) -> None:
        """See whether this host can take it, before anything is restored. :raises Failed: if it cannot."""
        self.backup.suits(told)
        version = orthanc_version(str(self.folder)) if told.get("writer") else ""
        if version and numbers(version) < numbers(told["writer"]):
            raise Failed(
                f"Nothing was restored: Orthanc {version} of this host would refuse every image, since the index of the"
                f" backup has columns that Orthanc adds from 1.12.8 on. Have Orthanc {told['writer']} or newer first."
            )
        storage = self.backup.storage
        device = os.stat(storage).st_dev
        mounts = [one.path for one in os.scandir(storage) if LEVEL.fullmatch(one.name) and one.stat().st_dev != device]
        if mounts:
            raise Failed(f"Nothing was restored: {mounts[0]} is on another disk than {storage}, or a link.")
        if not self.tree.is_dir() or read(self.begun) != self.beginning(snapshot):
            # Files of another backup would come into the archive.
            self.begun.unlink(missing_ok=True)
            self.anew()
            put(self.begun, self.beginning(snapshot), 0o600)
        self.room(told, told["bytes"], "Nothing was restored; make room.")
        if self.recovered:
            cluster, moment = self.recovered.cluster, told["moment"]
            cluster.fits(moment)
            cluster.chosen(moment, moment_of(moment.get("at", told["time"])))
            # Where it is loaded it takes its room once more.
            given = (2, LOG) if self.members else (1, 0)
            cluster.room(self.recovered.folder.parent, "Nothing was restored; make room.", *given)
        if self.backup.mariadb:
            self.takes(self.backup.mariadb, told["dump_bytes"])
        beside = shutil.disk_usage(os.path.dirname(self.backup.index))
        if beside.free < told.get("index_bytes", 0) + beside.total // SPARE:
            raise Failed(
                f"Nothing was restored: the index takes {told['index_bytes'] // MIB} MiB in"
                f" {os.path.dirname(self.backup.index)}, which has {beside.free // MIB} MiB free."
            )

    def beginning(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """Return by what a restore that was cut off is known: its backup, and the very folder that it was given."""
        return {"snapshot": snapshot["id"], "tree": os.lstat(self.tree).st_ino}

    def earlier(
        self,
        index: pathlib.Path,
        storage: pathlib.Path,
        told: dict[str, Any],
        others: list[dict[str, Any]],
        wrong: dict[str, list[str]],
    ) -> None:
        """Take what is not there, or not as it was, from earlier backups: files never change."""
        for other in others:
            names = {line.split()[0] for line in wrong["missing"] + wrong["damaged"]}
            if not names:
                return
            # Nights in which all of it was missing already are many, and may be the last ones.
            if names <= self.lacked(other):
                continue
            asked = {str(place("", name)) for name in names} if len(names) <= INCLUDES else {name[:2] for name in names}
            restore(self.repository, other, told, self.tree, sorted(asked), index=False)
            _, left = compare(index, storage, set(EVERYTHING), sums=True, only=names)
            wrong["missing"], wrong["damaged"] = left["missing"], left["damaged"]
            if len(names) > INCLUDES:
                # With whole folders comes what was deleted since.
                _, now_there = compare(index, storage, set(EVERYTHING), sums=False)
                for name in filter(NAME.fullmatch, set(now_there["unknown"]) - set(wrong["unknown"])):
                    place(storage, name).unlink(missing_ok=True)

    def still_there(self, index: pathlib.Path, storage: pathlib.Path, wrong: dict[str, list[str]]) -> None:
        """Take from the archive that makes way what no backup has, as what came since the last one."""
        names = {line.split()[0] for line in wrong["missing"] + wrong["damaged"]}
        storage.mkdir(parents=True, exist_ok=True)
        for name in names:
            source, target = place(self.backup.storage, name), place(storage, name)
            # Not there, not to be read, or a link that somebody has put there.
            with contextlib.suppress(OSError):
                opened = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                with open(opened, "rb") as file:
                    found = os.fstat(opened)
                    if not stat.S_ISREG(found.st_mode):
                        continue
                    target.unlink(missing_ok=True)
                    for folder in (target.parent.parent, target.parent):
                        folder.mkdir(exist_ok=True)
                        os.chown(folder, found.st_uid, found.st_gid)
                    with open(target, "xb") as copy:
                        shutil.copyfileobj(file, copy)
                        os.fchown(copy.fileno(), found.st_uid, found.st_gid)
                        os.fchmod(copy.fileno(), stat.S_IMODE(found.st_mode))
        if names:
            _, left = compare(index, storage, set(EVERYTHING), sums=True, only=names)
            wrong["missing"], wrong["damaged"] = left["missing"], left["damaged"]

    def unsent(self, told: dict[str, Any], index: pathlib.Path) -> list[str]:
        """Return what is to be said of the queue that does not come with the index; nothing if there was none."""
        what = f"{QUEUE} of what is still to be sent"
        if told.get("unsent"):
            return [f"{what}, which was not backed up: {told['unsent']}"]
        if told.get("queue"):
            return [] if index.with_name(QUEUE).exists() else [what]
        if "queue" in told or not os.path.lexists(os.path.join(os.path.dirname(self.backup.index), QUEUE)):
            return []
        return [f"{what}, which backups did not have yet: that of the host is kept aside"]

    def lacked(self, snapshot: dict[str, Any]) -> set[str]:
        """Return which files a backup says it does not have."""
        try:
            said = self.repository.ask("dump", str(snapshot["id"]), f"{tagged(snapshot, 'index')}/backup.json")
        except Failed:
            # Its files may be whole.
            return set()
        return set(parsed(said).get("missing", []))

    def beside_index(self, index: pathlib.Path) -> None:
        """Have index and queue on the disk that they are to be on, where that is another folder."""
        if os.path.dirname(self.backup.index) == self.backup.storage:
            return
        for source in (*([] if self.database else [index]), index.with_name(QUEUE)):
            copied = self.staged[1] / source.name
            copied.unlink(missing_ok=True)
            if source.exists():
                shutil.copyfile(source, copied)
                found = os.stat(source)
                opened = os.open(copied, os.O_RDONLY | os.O_NOFOLLOW)
                os.fchown(opened, found.st_uid, found.st_gid)
                os.fchmod(opened, stat.S_IMODE(found.st_mode))
                os.fsync(opened)
                os.close(opened)

    @functools.cached_property
    def staged(self) -> tuple[int, pathlib.Path]:
        """A folder of ours beside the index."""
        return owned(pathlib.Path(os.path.dirname(self.backup.index), self.NAME))

    def picked(self, wanted: str, at: str = "") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the backup that is wanted, and the others of the same archive, the newest first."""
        snapshots = self.repository.snapshots()
        if wanted != "latest":
            # By its number also one of a host with another name.
            said = self.repository.ask("--no-lock", "--json", "snapshots", wanted, timeout=5 * SILENT)
            found = json.loads(said or "[]")
        elif at:
            # What was there at a moment is in the next one, or, if it was deleted before that, in those before.
            when = moment_of(at)
            earlier = [one for one in snapshots if taken(one).timestamp() < when]
            later = [one for one in snapshots if taken(one).timestamp() >= when]
            # One that was begun since is of another database.
            ours = {tagged(one, "archive") for one in earlier[-1:]}
            found = [one for one in later if not ours or tagged(one, "archive") in ours][:1] or earlier[-1:]
        else:
            found = snapshots[-1:]
        if len(found) != 1 or not tagged(found[0], "index"):
            listed = self.repository.ask("--no-lock", "--json", "snapshots", "--tag", "pacs", timeout=5 * SILENT)
            hosts = sorted({str(one["hostname"]) for one in json.loads(listed or "[]")})
            raise Failed(
                f"Nothing was restored: {self.repository.url} has no backup '{wanted}' of"
                f" {self.backup.settings['host']}; it has those of {', '.join(hosts) or 'nobody'}."
            )
        archive = tagged(found[0], "archive")
        others = [one for one in snapshots if tagged(one, "archive") == archive and one["id"] != found[0]["id"]]
        if at:
            return found[0], sorted(others, key=lambda one: abs(taken(one).timestamp() - when))
        return found[0], others[::-1]

    def plan(self, told: dict[str, Any]) -> dict[str, Any]:
        """Return what is moved: what is there is kept, what was restored takes its place, and its index comes last."""
        levels = [
            sorted(filter(LEVEL.fullmatch, os.listdir(at))) for at in (self.backup.storage, self.tree / told["storage"])
        ]
        there = os.listdir(os.path.dirname(self.backup.index))
        return {
            "aside": f".pacs-before-{datetime.datetime.now():%Y-%m-%dT%H%M%S%f}",
            "database": f"{self.members.name}_before_{datetime.datetime.now():%Y%m%d%H%M%S}" if self.members else "",
            "kept": levels[0],
            "kept_index": [name for name in INDEX if name in there],
            "levels": levels[1],
            "queue": (self.tree / told["index"] / QUEUE).exists(),
            "cluster": self.placing.data.name if self.placing else "",
        }

    def move(self, told: dict[str, Any]) -> None:
        """Move what is planned, from and to folders that are open: whoever had taken Orthanc over may rename there."""
        folders = [open_folder(self.backup.storage), open_folder(os.path.dirname(self.backup.index))]
        storage, beside = folders
        if self.placing:
            # It is an index that is not beside the files.
            service("stop", self.placing.cluster.unit)
            cluster = open_folder(self.placing.cluster.data.parent)
        if not told.get("kept_all"):
            for at, names in ((storage, told["kept"]), (beside, told["kept_index"])):
                aside = owned(way(at) / told["aside"])[0] if names else -1
                for name in names:
                    moved(name, at, aside)
            if self.placing:
                moved(told["cluster"], cluster, owned(way(cluster) / told["aside"])[0])
                os.fsync(cluster)
            os.fsync(storage)
            os.fsync(beside)
            put(self.moves, told | {"kept_all": True}, 0o600)
        restored = open_folder(self.tree / told["storage"])
        for name in told["levels"]:
            moved(name, restored, storage)
        separate = os.path.dirname(self.backup.index) != self.backup.storage
        source = self.staged[0] if separate else open_folder(self.tree / told["index"])
        for name in ([QUEUE] if told.get("queue") else []) + ([] if self.database else ["index"]):
            moved(name, source, beside)
        if self.placing:
            moved(told["cluster"], self.placing.opened[0], cluster)
            os.fsync(cluster)
        if self.members:
            self.members.lead()
            self.members.swapped(told["database"])
        if self.backup.mariadb:
            # A run that is cut off in it begins it anew.
            try:
                self.backup.mariadb.loaded(self.tree / told["index"] / DUMP)
            except Failed as error:
                raise Failed(
                    f"{error} The files are in their places, the database has a part of its dump, and Orthanc does not"
                    " start. Once the cause is gone, run playbooks/restore.yml again, which goes on. What was there"
                    f" before is in {self.backup.storage}/{told['aside']}, the database as {DUMP}."
                ) from error
        os.fsync(storage)
        os.fsync(beside)

    def placed(self, over: bool) -> dict[str, Any]:
        """Have what was restored in its place, and Orthanc serve it."""
        told = read(self.moves)
        if "aside" not in told:
            told = self.stopped(told, over or told["over"])
        else:
            service("stop", "orthanc")
        self.move(told)
        report, storage = told["report"], pathlib.Path(self.backup.storage)
        index = self.tree / told["index"] / "index" if self.database else pathlib.Path(self.backup.index)
        _, wrong = compare(index, storage, set(EVERYTHING), sums=False)
        lost = {line for name in ("missing", "damaged") for line in wrong[name]}
        lost -= {line for name in ("missing", "damaged") for line in report[name]}
        if lost:
            raise Failed(
                f"{len(lost)} files that were restored are not in {storage}, such as {sorted(lost)[0]}: somebody else"
                f" is at work there. Orthanc was not started; what was there before is in {storage}/{told['aside']}."
            )
        self.backup.named(report["archive"])
        both = {str(storage), os.path.dirname(self.backup.index)}
        if self.placing:
            service("start", self.placing.cluster.unit)
            both |= {str(self.placing.cluster.data.parent)}
        aside = [path for one in sorted(both) for path in [f"{one}/{told['aside']}"] if os.path.exists(path)]
        if self.members and self.recovered:
            aside.append(f"the database {told['database']} of its servers")
            # One that was made anew has another number than that of the backups.
            self.recovered.cluster.begin()
        found = {**report, "time": now(), "aside": aside}
        put(STATE / "restored.json", found)
        spoilt = {line.split()[0] for name in ("missing", "damaged") for line in report[name]}
        asked = handed(index, storage, EVERYTHING, ASKED, spoilt)
        self.begun.unlink(missing_ok=True)
        # The last thing before: as long as it is there, it is told that this was cut off.
        self.moves.unlink()
        service("start", "orthanc")
        sync_folder(STATE)
        found |= {"images_now": self.counted(), "handed_out": len(asked)}
        put(STATE / "restored.json", found)
        self.away(LEFT)
        if self.recovered:
            self.recovered.away()
        if str(storage) != os.path.dirname(self.backup.index):
            with contextlib.suppress(OSError):
                os.rmdir(pathlib.Path(os.path.dirname(self.backup.index), self.NAME))
        if found["images_now"] < report["images"]:
            raise Failed(
                f"Orthanc has {found['images_now']} images, and the backup {report['images']}; see journalctl -u"
                " orthanc."
            )
        other = [
            name
            for name, digest in asked.items()
            if hashlib.md5(self.image(name), usedforsecurity=False).hexdigest() != digest
        ]
        if other:
            raise Failed(
                f"Orthanc does not hand out {len(other)} of {len(asked)} images as they are in its index, such as"
                f" {other[0]}; see journalctl -u orthanc."
            )
        return found

    def stopped(self, told: dict[str, Any], over: bool) -> dict[str, Any]:
        """Stop Orthanc, which nothing starts then, and plan. :raises Failed: if images have come that may not go."""
        try:
            service("stop", "orthanc")
            if not over and (there := self.images()):
                raise self.asks(there)
            if self.placing:
                self.tried(self.placing)
            told = told | self.plan(told)
            if self.backup.mariadb and self.backup.mariadb.images():
                self.kept(self.backup.mariadb, told["aside"])
            put(self.moves, told, 0o600)
        except BaseException:
            self.moves.unlink()
            if self.placing:
                service("start", self.placing.cluster.unit)
            service("start", "orthanc")
            raise
        return told

    def takes(self, mariadb: Mariadb, dump: int) -> None:
        """See whether MariaDB can take a dump, and what it has can be kept. :raises Failed: if not."""
        try:
            mariadb.takes_triggers()
            kept, data = 3 * mariadb.takes() // 2, mariadb.data()
        except Failed as error:
            raise self.broken(error) from error
        # Beside the images the dump, the server for a try, and what is there now.
        for path, needed in ((self.backup.storage, 4 * dump + kept), (data, 2 * dump)):
            disk = shutil.disk_usage(path)
            if disk.free < needed + disk.total // SPARE:
                raise Failed(
                    f"Nothing was restored: the index takes up to {needed // MIB} MiB in {path}, whose disk has"
                    f" {disk.free // MIB} MiB free; make room."
                )

    def broken(self, error: Failed) -> Failed:
        """Return what is said of a database that can be had no more."""
        name = self.backup.mariadb.section.get("Database") if self.backup.mariadb else ""
        return Failed(
            f"Nothing was restored, since what the database has cannot be kept. {error} If it is of no use any more,"
            f" say mariadb -e 'DROP DATABASE IF EXISTS `{name}`' as root, have site.yml make an empty one, and"
            " run this again."
        )

    def kept(self, mariadb: Mariadb, aside: str) -> None:
        """Keep what the database has, before anything is moved. :raises Failed: if it cannot be kept."""
        folder = owned(pathlib.Path(self.backup.storage, aside))[1]
        try:
            mariadb.dumped(folder / DUMP)
        except Failed as error:
            # Half of one is of no use to anybody.
            (folder / DUMP).unlink(missing_ok=True)
            os.rmdir(pathlib.Path(self.backup.storage, aside))
            raise self.broken(error) from error
        sync_folder(folder)

    def tried(self, recovered: Recovered) -> None:
        """See whether the database's folder can be renamed, before anything is. :raises Failed: if it cannot be."""
        service("stop", recovered.cluster.unit)
        parent, name = open_folder(recovered.cluster.data.parent), recovered.data.name
        try:
            if name in os.listdir(parent):
                os.rename(name, f"{TRIED}{name}", src_dir_fd=parent, dst_dir_fd=parent)
            self.untried(recovered)
        except OSError as error:
            raise Failed(
                f"Nothing was restored: {recovered.cluster.data} cannot be renamed ({error.strerror}), so that no other"
                " database can take its place. Have it as a plain folder of one file system."
            ) from error

    def untried(self, recovered: Recovered) -> None:
        """Have the database's folder under its name, also after a run that was cut off right there."""
        parent, name = open_folder(recovered.cluster.data.parent), recovered.data.name
        there = os.listdir(parent)
        if f"{TRIED}{name}" in there and name not in there:
            os.rename(f"{TRIED}{name}", name, src_dir_fd=parent, dst_dir_fd=parent)

    def answer(self, path: str) -> bytes:
        """Return what Orthanc answers. :raises OSError: also if it is an error."""
        return Orthanc(self.backup.settings).answer(path)

    def image(self, name: str) -> bytes:
        """Return an image as it is handed out; nothing if it is not."""
        try:
            return self.answer(f"/instances/{name}/file")
        except (OSError, http.client.HTTPException):
            return b""

    def counted(self) -> int:
        """Return how many images Orthanc has, once it answers."""
        end = time.monotonic() + 600
        while True:
            try:
                return int(json.loads(self.answer("/statistics"))["CountInstances"])
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                if time.monotonic() > end:
                    raise Failed(
                        "Orthanc does not answer with what was restored; see journalctl -u orthanc. What was there"
                        f" before is in {self.backup.storage}/.pacs-before-*."
                    ) from error
                time.sleep(0.2)


@contextlib.contextmanager
def written() -> Iterator[None]:
    """Have the disk at work meanwhile: restic leaves it to the kernel, which may begin when all is there."""
    over = threading.Event()

    def write() -> None:
        while not over.wait(1):
            os.sync()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()


def moved(name: str, source: int, target: int) -> None:
    """Move a name from a folder to another one, if a run that was cut off has not. :raises Failed: if it cannot be."""
    here, there = name in os.listdir(source), name in os.listdir(target)
    if here and not there:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    elif here == there:
        places = [os.readlink(f"/proc/self/fd/{at}") for at in (source, target)]
        raise Failed(
            f"{name} is in {'both' if here else 'neither'} of {' and '.join(places)}: somebody else is at work there."
            " Orthanc was not started, and nothing was removed."
        )


def in_utc(at: str) -> str:
    """Return a time as PostgreSQL and pgBackRest both understand it."""
    return at if at == LAST else time.strftime("%Y-%m-%d %H:%M:%S+00", time.gmtime(moment_of(at)))


def restored(
    restore: Restore, snapshot: str, over: bool, lacking: int, at: str, stage_only: bool = False
) -> dict[str, Any]:
    """Restore, and leave no folder behind where nothing was begun."""
    try:
        return restore.run(snapshot, over, lacking, at, stage_only)
    finally:
        for path in (restore.folder / "tree", restore.folder):
            with contextlib.suppress(OSError):
                os.rmdir(path)

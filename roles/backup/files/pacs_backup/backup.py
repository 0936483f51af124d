# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backups of this host: how they are made, forgotten and told of."""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import uuid
from typing import Any

from .cluster import LOG, Cluster
from .common import (
    BRIEF,
    MIB,
    NAME,
    PATIENCE,
    SILENT,
    SKEW,
    STATE,
    Busy,
    Failed,
    alone,
    now,
    open_folder,
    owned,
    parsed,
    place,
    put,
    read,
    say,
    size,
    way,
)
from .index import LOGS, QUEUE, check_index, copy_file, copy_index, copy_queue, known, opened, thaw
from .mariadb import DUMP, Mariadb
from .members import Members
from .repository import Repository, epoch, tagged, taken

# Beside the index, so that a file system that can share blocks copies it in no time.
STAGE = ".pacs-backup"
ARCHIVE = ".pacs-archive"
# Where this is, the toolkit has made the folder, or has taken it over.
MARK = ".pacs"
# What is in the folder of the files beside them, and is no part of an archive.
OURS = (".pacs-reserve", ".pacs-drill*", ".pacs-restore*", ".pacs-before-*")
# What of an archive lies in its folders, by the names that Orthanc gives it.
LEVEL = re.compile(r"[0-9a-f]{2}")
# How often restic takes the files, where that took longer than so many seconds: what has come meanwhile is held then.
PASSES, LONG = 3, 600
# How many gaps in the log of a database are remembered.
GAPS = 100
# For how many seconds older backups may stay before that is a failure.
UNTIDY = 14 * 86400


class Backup:
    """The backups of this host."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        # restic keeps a link as a link.
        self.storage: str = os.path.realpath(settings["storage_dir"])
        self.index = os.path.join(os.path.realpath(settings["index_dir"]), "index")
        self.stage = pathlib.Path(self.index).with_name(STAGE)
        self.mark = pathlib.Path(self.index).with_name(ARCHIVE)
        # Where files are held, on the disk that they are on.
        self.held = pathlib.Path(self.storage, STAGE, "files")
        self.repository = Repository(settings)
        # What keeps the queue of what is still to be sent from being backed up.
        self.unsent = ""
        # Where the index is in PostgreSQL, a list of what it knows goes where SQLite's copy does.
        self.cluster = Cluster(settings) if settings.get("database_port") else None
        # In MariaDB, its dump comes beside that.
        self.mariadb = Mariadb(settings) if settings.get("mariadb") else None
        self.moment: dict[str, Any] = {}

    @property
    def members(self) -> Members | None:
        """The hosts that have the archive together, where it is not of this one alone."""
        return self.cluster.members if self.cluster else None

    @property
    def kind(self) -> str:
        """Where its images and its index are."""
        if not self.cluster:
            return "MariaDB" if self.mariadb else "SQLite"
        return "PostgreSQL" if self.settings.get("files", True) else "PostgreSQL, with the DICOM files"

    def suits(self, told: dict[str, Any]) -> None:
        """See whether a backup is of such an archive. :raises Failed: if it is not."""
        kind = told.get("kind", "SQLite")
        if kind != self.kind:
            raise Failed(
                f"The backup has its index in {kind}, and this host has it in {self.kind}: nothing was restored. Have"
                " orthanc_database and orthanc_database_storage as they were, and run playbooks/site.yml first."
            )

    @functools.cached_property
    def copy(self) -> pathlib.Path:
        """The copy of the index."""
        return staged(self.stage) / "index"

    @functools.cached_property
    def holding(self) -> pathlib.Path:
        """The folder of files that are held."""
        return owned(staged(self.held.parent) / self.held.name)[1]

    # What is kept of it on the host.

    def status(self) -> dict[str, Any]:
        return read(STATE / "status.json")

    def note(self, **changes: Any) -> None:
        """Tell a monitor how it stands."""
        common = {"host": self.settings["host"], "repository": self.repository.url}
        put(STATE / "status.json", common | self.status() | common | changes)

    def same(self, found: str) -> None:
        """See whether the repository is the one of before. :raises Failed: if it is not."""
        before = read(STATE / "repository.json")
        url = self.repository.url
        if before.get("url") == url and before["id"] != found:
            what = "is not there any more" if not found else "is another one by now"
            raise Failed(
                f"The repository {url}, which had the backups of this host, {what}. Is its disk mounted? If it is gone"
                f" for good, remove {STATE}/repository.json, and run playbooks/site.yml for a new one."
            )

    def ours(self, snapshots: list[dict[str, Any]]) -> str:
        """Return by what this archive is known. :raises Failed: if the last backup by this name is of another one."""
        mine = self.name()
        if self.members and not mine and not snapshots:
            raise Failed(f"The database {self.members.name} has no name yet as an archive; run playbooks/site.yml.")
        last = tagged(snapshots[-1], "archive") if snapshots else mine
        if last != mine and read(STATE / "begun.json") != {"archive": mine, "after": last}:
            host, when = self.settings["host"], f"{taken(snapshots[-1]):%Y-%m-%d %H:%M}"
            raise Failed(
                f"The last backup of {host} in {self.repository.url} is of another archive than the one on this host"
                f" ({when}): nothing was backed up, since it would take its place. If this host is to have it, run"
                " playbooks/restore.yml. If it is another host's, give each a repository of its own."
                f' If the archive of before is given up, run playbooks/backup.yml with -e \'{{"begin": "new archive of'
                f" {host}\"}}'."
            )
        return mine

    def begin(self) -> None:
        """Take the archive on this host for another one than the one that was backed up last, which it follows."""
        snapshots = self.repository.snapshots()
        if self.cluster:
            self.cluster.begin()
        self.named(str(uuid.uuid4()))
        if snapshots:
            after = tagged(snapshots[-1], "archive")
            put(STATE / "begun.json", {"archive": self.name(), "after": after})

    def named(self, archive: str) -> None:
        """Have the archive on this host known by a name."""
        if self.members:
            self.members.named(archive)
            return
        folder = way(open_folder(self.mark.parent))
        (folder / ARCHIVE).unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(folder / ARCHIVE, flags, 0o644), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(f"{archive}\n")
            file.flush()
            os.fsync(file.fileno())

    def name(self) -> str:
        """Return by what name the archive on this host is known; nothing if by none."""
        if self.members:
            return self.members.archive()
        try:
            with open(os.open(self.mark, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="utf-8") as file:
                found = file.read(100).strip()
        except FileNotFoundError:
            return ""
        return found if NAME.fullmatch(found) else "?"

    # What it is asked for.

    def prepared(self) -> bool:
        """Tell whether nothing has to be done. :raises Failed: if the repository is not the one of before."""
        found = self.repository.number()
        self.same(found)
        there = read(STATE / "repository.json") == self.known_by(found)
        # What keeps its database from being had again is told by each backup.
        there = there and (not self.cluster or self.cluster.prepared())
        return there and (self.marked() or bool(self.repository.snapshots()))

    def marked(self) -> bool:
        """Tell whether the archive has a name."""
        return bool(self.members.archive()) if self.members else self.mark.exists()

    def known_by(self, number: str) -> dict[str, Any]:
        """Return by what the repository is known again."""
        return {"url": self.repository.url, "id": number} | ({"database": True} if self.cluster else {})

    def prepare(self) -> bool:
        """Have a repository. Return whether that, or anything else, is new."""
        found, changed = self.repository.number(), False
        self.same(found)
        if self.cluster:
            # It is asked by Orthanc's login.
            if unfit := self.cluster.unfit() if self.serves() else "":
                raise Failed(unfit)
            self.cluster.folder()
        if not found:
            self.repository.ask("init", timeout=SILENT)
            found, changed = self.repository.number(), True
        leads = not self.members or self.members.leads()
        if self.cluster and not self.cluster.prepared():
            if not leads:
                # It takes the primary.
                return changed
            if read(STATE / "repository.json") == self.known_by(found):
                raise Failed(
                    f"What {self.repository.url} had of the database of this host is not there any more. If it is gone"
                    f" for good, remove {STATE}/repository.json, and run playbooks/site.yml for a new one."
                )
            self.cluster.prepare()
            changed = True
        here = self.known_by(found)
        if read(STATE / "repository.json") != here:
            put(STATE / "repository.json", here, 0o600)
            changed = True
        # Else it is told at the first backup: on a new host, the archive of before may not be there yet.
        if leads and not self.marked() and not self.repository.snapshots():
            self.begin()
            changed = True
        return changed

    def serves(self) -> bool:
        """Tell whether this host has an Orthanc, which those of a cluster need not."""
        members: dict[str, bool] = self.settings.get("members") or {}
        return members.get(self.settings["host"], True)

    def whole(self) -> None:
        """See whether the archive is there. :raises Failed: if its disk is not mounted, or a part of it elsewhere."""
        for folder in sorted({self.storage, os.path.dirname(self.index)}):
            if not os.path.isfile(os.path.join(folder, MARK)):
                raise Failed(
                    f"{folder} does not have the mark {MARK} of an archive, and nothing was backed up. Is its disk"
                    " mounted? If it is the right one, run playbooks/site.yml."
                )
        for folder in (self.storage, *(one.path for one in leveled(self.storage))):
            for one in leveled(folder):
                if one.is_symlink():
                    raise Failed(
                        f"{one.path} is a link, of which restic would keep the link alone: nothing was backed up. Have"
                        " the folder itself there (mount --bind), or all of the archive on one disk."
                    )

    def dated(self, snapshots: list[dict[str, Any]]) -> None:
        """See whether the clock is right. :raises Failed: if the last backup is of the future."""
        if snapshots and taken(snapshots[-1]).timestamp() > time.time() + SKEW:
            raise Failed(
                f"The last backup is of {taken(snapshots[-1]):%Y-%m-%d %H:%M}, and it is {now()} on this host: nothing"
                " was backed up, since they are forgotten by their dates. Set the clock; if it is right, have"
                f" restic forget snapshot {str(snapshots[-1]['id'])[:8]}."
            )

    def run(self, began: float) -> None:
        """Back up. :raises Failed: also if it was done, and something is wrong with what there is."""
        if (STATE / "moves.json").exists():
            raise Failed(
                "A restore was cut off in the middle, and there is half of an archive: nothing was backed up. Run"
                " playbooks/restore.yml, which goes on."
            )
        self.same(self.repository.number())
        # Each call of restic takes half a second for the key alone.
        snapshots = self.repository.snapshots()
        if self.members and not self.members.keeps():
            self.elsewhere(self.members)
            return
        archive = self.ours(snapshots)
        missed = self.missed([one for one in snapshots if tagged(one, "archive") == archive])
        self.whole()
        self.dated(snapshots)
        # Of a run that was killed: no other host has this repository.
        self.repository.ask("unlock", timeout=5 * SILENT)
        pause, kept = 0.0, self.saved_database()
        leads = not self.members or self.members.leads()
        if self.cluster and not leads:
            self.cluster.based()
        for _ in range(PASSES):
            try:
                lasted = self.copied()
            except Failed as error:
                if not (self.cluster or self.mariadb):
                    raise
                raise self.files_alone(error) from error
            pause = max(pause, lasted)
            try:
                counts, before = check_index(self.copy), {name for name, *_ in known(self.copy)}
            except Failed as error:
                raise self.files_alone(error) from error
            lost = {name for name in before if not os.path.exists(f"{self.storage}/{name[:2]}/{name[2:4]}/{name}")}
            passed = time.monotonic()
            files, added, seen, unread = self.saved(["pacs-files"], self.paths())
            if time.monotonic() - passed < LONG:
                break
        # What restic may have missed has come since: it is held until restic has that, too.
        try:
            lasted = self.copied(counts["top"])
        except Failed as error:
            if not (self.cluster or self.mariadb):
                raise
            raise Failed(f"{error} The files alone were backed up, as snapshot {files}.") from error
        pause, counts = max(pause, lasted), check_index(self.copy)
        here = {name for name, *_ in known(self.copy)}
        gone = {name for name in here - before if not self.hold(name)}
        missing = sorted((lost & here) | gone)
        # Those were there all the time.
        steady = len((before & here) - lost) - len(unread)
        told = {"host": self.settings["host"], "storage_dir": self.storage, "index_dir": os.path.dirname(self.index)}
        told |= {name: counts[name] for name in ("instances", "files", "bytes", "writer")}
        queue, dump = self.copy.with_name(QUEUE), self.copy.with_name(DUMP)
        told |= {"index_bytes": size(self.copy) + size(queue) + size(dump), "missing": missing, "held": str(self.held)}
        told |= {"queue": queue.exists(), "unsent": self.unsent}
        told |= {"dump_bytes": size(dump), "kind": self.kind} | ({"moment": self.moment} if self.moment else {})
        put(self.copy.with_name("backup.json"), {**told, "archive": archive, "time": now()}, 0o600)
        tags = ["pacs", f"archive={archive}", f"index={self.stage}", f"files={files}"]
        if self.cluster:
            # It is the last one from now on, and has to be had.
            if leads:
                self.cluster.logged()
            else:
                self.cluster.reached(self.moment)
        snapshot, new, _, other = self.saved(tags, sorted({str(self.stage), str(self.held.parent)}))
        if self.name() != archive:
            raise Failed("Another archive took the place of this one meanwhile.")
        self.note(missing=len(missing))
        wrong = self.against(missing, missed, steady, seen, unread + other)
        if wrong:
            self.clear()
            raise Failed(
                f"{' '.join(wrong)} What is there was backed up, as {snapshot}, and no older backup forgotten."
            )
        success = {
            "snapshot": snapshot,
            "time": now(),
            "epoch": int(time.time()),
            "seconds": round(time.monotonic() - began, 1),
            "pause_seconds": round(pause, 3),
            "instances": counts["instances"],
            "files": counts["files"],
            "bytes": counts["bytes"],
            "added_bytes": added + new + kept,
            "missing": len(missing),
            "not_tidied": self.forgotten(snapshot),
        }
        earlier = self.status().get("success") or {}
        if success["not_tidied"]:
            success["untidy_since"] = earlier.get("untidy_since") or success["epoch"]
        if self.cluster and self.cluster.gap:
            success["gap"] = gap_told(self.cluster.gap)
        self.clear()
        self.note(running="", problem="", success=success, accepted=0, elsewhere="", looked=time.time())
        size_of = f"{counts['bytes'] >> 20} MiB in {counts['files']} files, {added + new + kept >> 20} MiB of them new"
        stood = f"{'The index' if self.moment else 'Orthanc'} stood still for {pause * 1000:.0f} ms"
        say(
            f"Backed up {counts['instances']} images ({size_of}) as {snapshot} in {success['seconds']} s; {stood}."
            f" {success.get('gap', '')}".strip()
        )

    def missed(self, snapshots: list[dict[str, Any]]) -> int | None:
        """Return how many files were missing before; nothing where no backup is there that could lose any."""
        if success := self.status().get("success"):
            return int(success["missing"])
        # On a host that was installed anew. Some of them may have failed for what they miss.
        told = [self.repository.ask("dump", str(one["id"]), f"{tagged(one, 'index')}/backup.json") for one in snapshots]
        return min((len(json.loads(text)["missing"]) for text in told), default=None)

    def saved_database(self) -> int:
        """Have pgBackRest back up the database, where there is one. Return how many bytes are new."""
        if not self.cluster or (self.members and not self.members.leads()):
            return 0
        self.cluster.ours()
        try:
            kept = self.cluster.save()
        except Failed as error:
            if not self.serves():
                raise
            raise self.files_alone(error) from error
        if self.cluster.gap:
            # Whatever becomes of this backup: the next one does not look there any more.
            self.note(gaps=[*self.status().get("gaps", []), self.cluster.gap][-GAPS:])
        return kept

    def elsewhere(self, members: Members) -> None:
        """Do what this host has to, where another one makes the backups, and tell of the last one.

        :raises Failed: if there is none, or if it is of another archive.
        """
        self.saved_database()
        end = time.monotonic() + PATIENCE
        while not (snapshots := self.repository.snapshots()):
            # The first one may take its time.
            if time.monotonic() > end:
                raise Failed(f"{members.who[1]} makes the backups of this archive, and there is none yet; see there.")
            time.sleep(10)
        self.ours(snapshots)
        if self.cluster and members.leads():
            # Whoever backs it up forgets it as well.
            self.cluster.forgotten(taken(snapshots[0]).timestamp())
        last = snapshots[-1]
        told = json.loads(self.repository.ask("dump", str(last["id"]), f"{tagged(last, 'index')}/backup.json"))
        success = {name: told[name] for name in ("time", "instances", "files", "bytes")}
        success |= {"snapshot": str(last["id"]), "epoch": int(epoch(told["time"])), "missing": len(told["missing"])}
        success |= {"seconds": 0.0, "pause_seconds": 0.0, "added_bytes": 0, "not_tidied": ""}
        self.note(running="", problem="", success=success, elsewhere=members.who[1], looked=time.time())
        say(f"{members.who[1]} makes the backups of this archive; the last one is of {told['time']}.")

    def files_alone(self, error: Failed) -> Failed:
        """Back up the files of an index that cannot be, and return what is said then."""
        files, *_ = self.saved(["pacs-files"], self.paths())
        return Failed(f"{error} The files alone were backed up, as snapshot {files}.")

    def where(self) -> dict[str, Any]:
        """Return which host is to have a backup in its place, whether one was cut off here, and what it lacks here."""
        found = {"goes_on": (STATE / "moves.json").exists(), "host": self.settings["host"], "lacks": ""}
        if self.cluster and self.members:
            found["host"] = self.members.best()
            try:
                self.cluster.room(self.cluster.data, "Nothing was restored; make room.", 1, LOG)
            except Failed as error:
                found["lacks"] = str(error)
        return found

    def against(self, missing: list[str], missed: int | None, steady: int, seen: int, unread: list[str]) -> list[str]:
        """Return what keeps a backup from taking the place of older ones."""
        wrong = []
        before = max(missed or 0, self.status().get("accepted", 0))
        # The first one takes nothing away.
        if missed is not None and len(missing) > before:
            host = self.settings["host"]
            wrong.append(
                f"{len(missing)} files that the index knows are not there ({before} were not before), such as"
                f" {missing[0]}. Is a disk not mounted? playbooks/restore.yml takes them from an earlier backup; if"
                f' they are given up, run playbooks/backup.yml with -e \'{{"lost": "{len(missing)} files of'
                f" {host}\"}}'."
            )
        if seen < steady:
            wrong.append(f"restic took {seen} files, and there are {steady} of images.")
        if unread:
            wrong.append(f"{len(unread)} files could not be read, such as {', '.join(unread[:3])}. See to the disk.")
        if self.cluster and (unfit := self.cluster.unfit()):
            wrong.append(unfit)
        if self.unsent:
            wrong.append(f"What orthanc_routes has still to send was not backed up: {self.unsent}")
        return wrong

    def accept(self, count: int) -> None:
        """Take so many files for lost. :raises Failed: if that is not how many are missing."""
        missing = self.status().get("missing", 0)
        if count != missing:
            raise Failed(f"At the last backup {missing} files were missing, and not {count}; nothing was done.")
        self.note(accepted=count)

    def copied(self, top: int | None = None) -> float:
        """Have a copy of the index, and of the queue beside it. Return for how long nobody could write to the index.

        :param top: the last resource of the copy before: what has come since is held then.
        """
        self.clear()
        beside, pause = os.path.dirname(self.index), self.settings["pause_seconds"]
        if self.cluster:
            self.copied_queue(beside)
            self.holding.mkdir(exist_ok=True)
            takes, free = self.cluster.database.takes(), shutil.disk_usage(self.stage).free
            if free < takes + 256 * MIB:
                raise Failed(
                    f"The list of what the database knows takes {takes // MIB} MiB in {self.settings['index_dir']}, and"
                    f" {free // MIB} MiB are free there; make room for {takes // MIB + 256}."
                )
            here = not self.members or self.members.leads()
            lasted, self.moment = self.cluster.database.copied(self.copy, pause, top, self.hold, here)
            return lasted
        if self.mariadb:
            takes, free = 3 * self.mariadb.takes() // 2, shutil.disk_usage(self.stage).free
            if free < takes + 256 * MIB:
                raise Failed(
                    f"A dump of the index takes up to {takes // MIB} MiB in {self.settings['index_dir']}, which has"
                    f" {free // MIB} MiB free; make room for {takes // MIB + 256}."
                )
            self.copied_queue(beside)
            self.holding.mkdir(exist_ok=True)
            lasted, self.moment = self.mariadb.copied(self.copy, pause, top, self.hold)
            return lasted
        takes = size(self.index) + sum(size(self.index + end) for end in LOGS) + size(os.path.join(beside, QUEUE))
        free = shutil.disk_usage(self.stage).free
        if not os.path.exists(self.index):
            raise Failed(f"There is no index in {self.settings['index_dir']}; see systemctl status orthanc.")
        # Orthanc writes to the same disk.
        if free < 2 * takes + 256 * MIB:
            raise Failed(
                f"A copy of the index takes {takes // MIB} MiB beside it, and {self.settings['index_dir']} has"
                f" {free // MIB} MiB free; make room for {(2 * takes) // MIB + 256}."
            )
        self.copied_queue(beside)
        return copy_index(self.index, self.copy, pause, lambda: self.hold_new(top))

    def copied_queue(self, beside: str) -> None:
        """Have a copy of what is still to be sent. Without one, the images come first, and it is told."""
        self.unsent = ""
        try:
            copy_queue(beside, self.copy.with_name(QUEUE))
        except Failed as error:
            self.unsent = str(error)

    def hold_new(self, top: int | None) -> None:
        """Hold the files of what has come after a resource, while nobody can delete them."""
        if top is None:
            return
        with opened(self.copy, "rw") as connection:
            # Orthanc waits for it, and a copy that is lost is made again.
            connection.execute("PRAGMA synchronous = OFF")
            names = connection.execute("SELECT uuid FROM AttachedFiles WHERE id > ?", (top,)).fetchall()
        for (name,) in names:
            if NAME.fullmatch(name):
                self.hold(name)

    def hold(self, name: str) -> bool:
        """Have a file outlast that Orthanc deletes it. Return whether it was there."""
        try:
            os.link(place(self.storage, name), self.holding / name, follow_symlinks=False)
        except FileExistsError:
            return True
        except FileNotFoundError:
            # Orthanc has deleted it, before or after it was held.
            return (self.holding / name).exists()
        except OSError:
            # A file system without links.
            copy_file(str(place(self.storage, name)), self.holding / name, "--no-dereference")
        return True

    def saved(self, tags: list[str], paths: list[str]) -> tuple[str, int, int, list[str]]:
        """Have restic take paths. Return its snapshot, how many bytes are new, of how many files, and what is unread.

        What went meanwhile is not among that, and the index knows it.
        """
        skipped = [self.index + end for end in ("", *LOGS, "-shm")]
        skipped += [os.path.join(os.path.dirname(self.index), QUEUE + end) for end in ("", "-journal")]
        skipped += [os.path.join(self.storage, name) for name in OURS]
        if self.storage in paths:
            skipped += [str(self.stage), str(self.held.parent)]
        arguments = ["--json", "--quiet", "backup", "--host", self.settings["host"]]
        arguments += [word for tag in tags for word in ("--tag", tag)]
        arguments += [f"--exclude={path}" for path in skipped]
        if self.settings["upload_mib"]:
            # Counted in KiB.
            arguments.append(f"--limit-upload={1024 * self.settings['upload_mib']}")
        done = self.repository.run(*arguments, "--", *paths)
        lines = [line for line in map(parsed, done.stdout.splitlines()) if line.get("message_type") == "summary"]
        if done.returncode not in (0, 3) or not lines:
            raise self.repository.refused(done)
        unread = [line["item"] for line in map(parsed, done.stderr.splitlines()) if line.get("message_type") == "error"]
        there = [path for path in unread if os.path.lexists(path)]
        if done.returncode == 3 and not unread:
            there = [" ".join(done.stderr.split())[-300:]]
        last = lines[-1]
        return str(last["snapshot_id"]), int(last.get("data_added", 0)), int(last["total_files_processed"]), there

    def paths(self) -> list[str]:
        """Return what is backed up beside the index, each for itself: what is in another one comes with it."""
        found: list[str] = []
        for path in [self.storage, "/etc/pacs", *self.settings["paths"]]:
            if os.path.exists(path) and not any(os.path.commonpath([path, other]) == other for other in found):
                found.append(path)
        return found

    def forgotten(self, made: str) -> str:
        """Have restic forget what is not kept any more. Return why it does not: the backup is made all the same.

        Without anything to keep that is done elsewhere, by whoever may.

        :raises Failed: if the backup that was just made went with it.
        """
        keep = [word for name, count in self.settings["keep"].items() for word in (f"--keep-{name}", str(count))]
        words = ["--quiet", "forget", "--tag", "pacs", "--group-by", ""]
        try:
            if not keep:
                return ""
            self.repository.ask(*words, *keep)
            found = self.repository.snapshots("pacs", "pacs-files")
            left = [one for one in found if "pacs" in one["tags"]]
            # The files of an index go with it.
            named = {tagged(one, "files")[:8] for one in left}
            files = [str(one["id"]) for one in found if "pacs-files" in one["tags"]]
            spare = [number for number in files if number[:8] not in named]
            if spare:
                self.repository.ask("--quiet", "forget", "--prune", *spare)
            if self.cluster and left and (not self.members or self.members.leads()):
                # As far back as there are files, and no further.
                self.cluster.forgotten(taken(left[0]).timestamp())
        except Failed as error:
            return str(error)
        if made[:8] not in {str(one["id"])[:8] for one in left}:
            raise Failed(f"The backup {made} was forgotten as soon as it was made: see to the clock of this host.")
        return ""

    def clear(self) -> None:
        """Remove the copy, and what is held: Orthanc has each of these files under its own name, or not any more."""
        if not self.serves():
            return
        index = (f"index{end}" for end in ("", *LOGS, "-shm"))
        for name in (*index, DUMP, QUEUE, "backup.json", ".backup.json.new"):
            self.copy.with_name(name).unlink(missing_ok=True)
        for name in filter(NAME.fullmatch, os.listdir(self.holding)):
            (self.holding / name).unlink()

    def ended(self) -> None:
        """After a run, however it ended: Orthanc goes on, and a run that was killed is a failure."""
        thaw(self.index)
        # What is there may be of another one, which this one has waited for.
        with contextlib.suppress(Busy), alone(BRIEF, "run.lock"):
            if self.status().get("running"):
                result = os.environ.get("SERVICE_RESULT", "unknown")
                self.note(
                    running="", problem=f"The backup was ended from outside ({result}); see journalctl -u pacs-backup."
                )
            self.clear()

    def doubt(self, success: dict[str, Any], age: int | None, gap: int, running: str) -> str:
        """Return what is wrong though the last backup has not failed."""
        if (STATE / "moves.json").exists():
            return "A restore was cut off, and Orthanc does not start before its end; run playbooks/restore.yml again."
        if running:
            with contextlib.suppress(Busy), alone(0, "run.lock"):
                return (
                    f"The backup that was begun at {running} was cut off, as by a loss of power; the next one is due."
                )
        if age is None and running:
            # The first one may take days.
            long = datetime.datetime.fromisoformat(running).timestamp() < time.time() - UNTIDY
            return f"The first backup, begun at {running}, has not come to its end for weeks." if long else ""
        if age is None:
            return "There is no backup yet; run playbooks/backup.yml."
        if age < -SKEW:
            return f"The last backup is of the future ({success['time']}): see to the clock of this host."
        # Where another one makes them, this host looks once in that time, and perhaps before it is made.
        if age > (3 if self.status().get("elsewhere") else 2) * gap:
            return (
                f"The last backup is {age // 3600} h old, and one is due every {gap // 3600} h; see systemctl status"
                " pacs-backup.timer."
            )
        if success.get("untidy_since", time.time()) < time.time() - UNTIDY:
            return f"Older backups have not been forgotten for weeks: {success['not_tidied']}"
        return ""

    def report(self) -> dict[str, Any]:
        """Return how it stands, and what is wrong with that."""
        found = self.status()
        success, wrong = found.get("success"), str(found.get("problem", ""))
        age = int(time.time()) - success["epoch"] if success else None
        gap = widest(self.settings["calendar"])
        wrong = wrong or self.doubt(success or {}, age, gap, str(found.get("running", "")))
        wrong = wrong or (self.cluster.doubt() if self.cluster else "")
        # A backup is no worse for the drill of another one.
        backup, told = wrong, found.get("drill", {}).get("wrong")
        if not wrong and told:
            wrong = f"The last drill has failed: {told}"
        drill = read(pathlib.Path(found.get("drill", {}).get("report", "/nowhere")))
        return {
            **found,
            "age_seconds": age,
            "due_seconds": gap,
            "wrong": wrong,
            "backup_wrong": backup,
            "drill_report": drill,
        }


def gap_told(gap: dict[str, Any]) -> str:
    """Return in words when a database cannot be had."""
    since, until = (f"{datetime.datetime.fromtimestamp(gap[one]):%Y-%m-%d %H:%M:%S}" for one in ("since", "until"))
    return (
        f"The database cannot be had as it was between {since} and {until}: {gap['pieces']} pieces of its log of that"
        " time never got to the repository."
    )


def leveled(folder: str) -> list[os.DirEntry[str]]:
    """Return what of an archive lies in a folder, by the names that Orthanc gives it."""
    # Orthanc may have removed it meanwhile, or it is none.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        return [one for one in found if LEVEL.fullmatch(one.name)]
    return []


def staged(folder: pathlib.Path) -> pathlib.Path:
    """Return a way to a folder for copies, which site.yml has made."""
    return owned(folder, frozenset({"files"}))[1]


def check_calendar(calendar: str) -> None:
    """See whether systemd knows the times of a timer. :raises Failed: if it does not."""
    done = subprocess.run(["systemd-analyze", "calendar", calendar], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"backup_calendar: systemd does not know '{calendar}': {' '.join(done.stderr.split())}")


def widest(calendar: str) -> int:
    """Return how many seconds there are at most between two of the next runs."""
    done = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=12", calendar],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )
    found = re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", done.stdout)
    times = sorted({datetime.datetime.fromisoformat(text) for text in found})
    gaps = [int((after - before).total_seconds()) for before, after in itertools.pairwise(times)]
    return max(gaps, default=86400)

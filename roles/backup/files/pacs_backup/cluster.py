# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PostgreSQL of this host, kept by pgBackRest: its data and all of its log, to be had again as of any moment."""

from __future__ import annotations

import contextlib
import datetime
import functools
import grp
import json
import locale
import math
import os
import pathlib
import pwd
import re
import shutil
import stat
import subprocess
import time
from typing import Any

from .common import MIB, PATIENCE, SILENT, SPARE, Failed, open_folder, owned
from .database import Database, login_of
from .members import SENT, Members, quoted
from .repository import ELSEWHERE, epoch

CONFIG = pathlib.Path("/etc/pacs/pgbackrest/pgbackrest.conf")
SENDS = CONFIG.with_name("archive")
KEPT = pathlib.Path("/var/lib/pacs/pgbackrest")
RUN = pathlib.Path("/run")
# By what all of it is known in a repository, which is of this host alone.
STANZA = "pacs"
# How long its log may wait for the repository, in seconds.
LOGGED = 600
# How much of it waits at most for standbys while a database is loaded, in bytes (max_slot_wal_keep_size, and some).
LOG = 20 << 30
# How old a piece of it may be that is not there, in seconds.
LATE = 900
# As pgBackRest names a piece of it.
PIECE = re.compile(r"[0-9A-F]{24}-[0-9a-f]{40}")
# What pgBackRest says beside what restic says.
SAYS = (
    (
        r"FormatError|cipher header invalid|unable to decrypt|CryptoError(?!.*certificate)",
        "it has another key, or is damaged",
    ),
    (r"\[ChecksumError\]|checksum .* does not match", "it is damaged"),
    (r"\[HostConnectError\]|unable to connect|\[ServiceError\]|timeout after waiting", "it cannot be reached"),
    (r"No space left on device|Disk quota exceeded", "it is full"),
    (r"\[ArchiveTimeoutError\]", "the log of the database does not get there"),
)
# How much of a server is started beside the one that works: nobody but us reaches it, and its log goes nowhere. It is
# given with the command, since what ALTER SYSTEM has set comes with the data.
BESIDE = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0777",
    "hba_file": "{beside}/pg_hba.conf",
    "ident_file": "{beside}/pg_ident.conf",
    "external_pid_file": "",
    "archive_mode": "on",
    "archive_command": "/bin/false",
    "archive_library": "",
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "lc_messages": "C",
    "log_destination": "stderr",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "hot_standby": "off",
    "max_connections": "20",
    "shared_buffers": "256MB",
    "logging_collector": "off",
    "ssl": "off",
}
# As late as there is something.
LAST = "end"
# Behind all places in a log.
END = 1 << 64
# Who is let in there: Orthanc as the login that it had, and root and the server's user as that user.
ENTERS = "local all postgres peer map=pacs\nlocal {database} {user} trust\n"
KNOWN_AS = "pacs root postgres\npacs postgres postgres\n"
# What says up to where its log is read back.
TARGETS = ("", "_lsn", "_time", "_name", "_xid", "_inclusive", "_action", "_timeline")


class Cluster:
    """The server whose database has the index."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.database = Database(settings)
        # Where several hosts have it together.
        self.members = Members(self) if settings.get("members") else None
        # Where the log lacks between the backup that was made and the one before.
        self.gap: dict[str, Any] = {}

    @functools.cached_property
    def found(self) -> list[str]:
        """Return of the server its version, name, port, state, owner and folder."""
        said = subprocess.run(["pg_lsclusters", "--no-header"], check=True, capture_output=True, text=True).stdout
        port = str(self.settings["database_port"])
        lines = [line.split() for line in said.splitlines()]
        if one := next((words for words in lines if words[2] == port), None):
            return one
        raise Failed(f"There is no PostgreSQL at port {port} of this host; run playbooks/site.yml.")

    @property
    def data(self) -> pathlib.Path:
        return pathlib.Path(os.path.realpath(self.found[5]))

    @property
    def unit(self) -> str:
        return f"{'patroni' if self.members else 'postgresql'}@{self.found[0]}-{self.found[1]}"

    # pgBackRest.

    def run(
        self, *arguments: str, data: str | os.PathLike[str] = "", timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run pgBackRest as the user of the server, who alone may read it."""
        words = ["pgbackrest", f"--config={CONFIG}", f"--stanza={STANZA}"]
        if not {"info", "verify", "expire", "repo-ls", "repo-get"} & set(arguments):
            words += [f"--pg1-path={data or self.data}"]
        if {"backup", "check", "stanza-create", "stanza-upgrade"} & set(arguments):
            words += [f"--pg1-port={self.found[2]}"]
        try:
            return subprocess.run(
                [*words, *arguments],
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                **user(),
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"pgBackRest's repository cannot be reached: no answer in {timeout:.0f} s.") from error

    def refused(self, done: subprocess.CompletedProcess[str]) -> Failed:
        """Return what pgBackRest failed with, in words."""
        lines = [line for line in (done.stdout + done.stderr).splitlines() if re.search(r"ERROR|WARN|HINT|P0", line)]
        said = re.sub(r"[^ -~]+", " ", " ".join(" ".join(lines or [done.stderr]).split()))
        why = next((text for pattern, text in (*SAYS, *ELSEWHERE) if re.search(pattern, said)), "pgBackRest fails")
        return Failed(f"The repository of the database: {why}. pgBackRest says: {said[:600]}")

    def ask(self, *arguments: str, timeout: float | None = None) -> str:
        """Run pgBackRest, which has to succeed. :raises Failed: if it does not."""
        done = self.run(*arguments, timeout=timeout)
        if done.returncode:
            raise self.refused(done)
        return done.stdout

    def info(self) -> dict[str, Any]:
        """Return what the repository has of this server."""
        said = self.ask("--output=json", "info", timeout=SILENT)
        try:
            # What it could not decrypt may stand in it.
            found: list[dict[str, Any]] = json.loads(said or "[]", strict=False)
        except ValueError:
            raise self.refused(subprocess.CompletedProcess([], 1, f"ERROR {' '.join(said.split())}", "")) from None
        for one in found:
            code = one["status"]["code"]
            # Neither that there is nothing, nor that there is no backup yet.
            if code not in (0, 1, 2, 3):
                said = " ".join(str(repo["status"]["message"]) for repo in one.get("repo", []))
                raise self.refused(
                    subprocess.CompletedProcess([], code, f"ERROR {said or one['status']['message']}", "")
                )
            return one if code in (0, 2) else {}
        return {}

    @functools.cached_property
    def control(self) -> str:
        """What PostgreSQL tells of its data."""
        return subprocess.run(
            [f"/usr/lib/postgresql/{self.found[0]}/bin/pg_controldata", str(self.data)],
            check=True,
            capture_output=True,
            text=True,
            env={"LC_ALL": "C", "PATH": os.defpath},
        ).stdout

    @functools.cached_property
    def system(self) -> str:
        """By what PostgreSQL knows a database; its copies bear the same number."""
        found = re.search(r"Database system identifier: +(\d+)", self.control)
        return found[1] if found else ""

    @functools.cached_property
    def piece(self) -> int:
        """How many bytes of its log are in one piece."""
        found = re.search(r"Bytes per WAL segment: +(\d+)", self.control)
        return int(found[1]) if found else 16 * MIB

    def same(self, info: dict[str, Any]) -> bool:
        """Tell whether the repository is of this very database."""
        return bool(info) and str(info["db"][-1]["system-id"]) == self.system

    # What it is asked for.

    def prepared(self) -> bool:
        return bool(self.info())

    def prepare(self) -> None:
        """Have a repository for it. That of another database stays; the first backup tells."""
        if not self.info():
            self.ask("stanza-create", timeout=LOGGED)

    def folder(self) -> None:
        """Have the folder of its repository. :raises Failed: if the user of the server does not get to it."""
        if not (place := self.settings["database_repository"]):
            return
        if not os.path.isdir(place):
            for path in (*reversed(pathlib.Path(place).parents), place):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path)
                    # Others pass there, who may not look.
                    os.chmod(path, 0o711)
            owner = pwd.getpwnam("postgres")
            os.chown(place, owner.pw_uid, owner.pw_gid)
            os.chmod(place, 0o700)
        if subprocess.run(["test", "-w", place], check=False, **user()).returncode:
            raise Failed(
                f"backup_repository: the user postgres of this host cannot write to {place}, where the database goes."
                " Let him pass each folder above it (chmod o+x), and have that one be his."
            )

    def unfit(self) -> str:
        """Return what keeps the database from being had again here; nothing if nothing does."""
        place, disk = self.settings["database_repository"], self.settings["repository"]
        if place and not os.path.ismount(place) and device(place) != device(disk):
            return (
                f"backup_repository: {disk} is on another disk than {place}, where the database goes. Take a folder on"
                f" that disk, such as {disk.rstrip('/')}/pacs."
            )
        if os.path.ismount(self.data):
            return (
                f"{self.data} is a disk of its own, in whose place no database can be restored. Have it mounted at a"
                " folder above."
            )
        (spaces,) = self.database.asked("SELECT string_agg(spcname, ', ') FROM pg_tablespace WHERE spcname !~ '^pg_'")
        if spaces:
            return (
                f"The database has tablespaces ({spaces}), which are not restored beside the others. Move what is in"
                " them (ALTER TABLE … SET TABLESPACE pg_default), and drop them."
            )
        return ""

    def begin(self) -> None:
        """Have the repository go on with another database than the one of before."""
        info = self.info()
        if info and not self.same(info):
            self.ask("stanza-upgrade", timeout=LOGGED)

    def ours(self) -> dict[str, Any]:
        """Return what there is of it. :raises Failed: if the repository is of another database."""
        info, host = self.info(), self.settings["host"]
        if not info:
            raise Failed("The repository has nothing of the database of this host; run playbooks/site.yml.")
        if not self.same(info):
            raise Failed(
                f"The repository has another database of {host} than the one on this host: nothing was backed up. If"
                " this host is to have it, run playbooks/restore.yml. If it is given up, or PostgreSQL has another"
                f' release now, run playbooks/backup.yml with -e \'{{"begin": "new archive of {host}"}}\'.'
            )
        return info

    def save(self) -> int:
        """Back up what has changed, and all of it now and then. Return how many bytes are new."""
        self.gap, info = {}, self.ours()
        full = [one["timestamp"]["stop"] for one in info["backup"] if one["type"] == "full" and not one["error"]]
        fresh = bool(full) and max(full) > time.time() - self.settings["database_full_days"] * 86400
        # PostgreSQL sends that once, when it begins its log anew, as after a restore: perhaps to another repository.
        for history in sorted(self.data.glob("pg_wal/*.history"))[-1:]:
            self.ask("archive-push", str(history), timeout=LOGGED)
        self.ask(f"--type={'incr' if fresh else 'full'}", "--no-expire-auto", "backup")
        made = self.info()["backup"]
        # What was given up meanwhile may be what comes after it.
        if all(name < made[-1]["archive"]["start"] for name in dropped()):
            (KEPT / "dropped").unlink(missing_ok=True)
        before = [one for one in made[:-1] if one["database"]["id"] == made[-1]["database"]["id"]]
        if before:
            # What was just made is no worse for what cannot be told of the log before it.
            with contextlib.suppress(Failed):
                self.gap = self.lacking(before[-1], made[-1])
        return int(made[-1]["info"]["repository"]["delta"])

    def lacking(self, before: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
        """Return between which moments of two backups the database cannot be had, since its log lacks; nothing if it
        can be had throughout.

        What the second one begins with is there: pgBackRest has waited for it.
        """
        line, lines = line_of(made), 1 << 32
        (place,) = (
            f"archive/{STANZA}/{one['id']}"
            for one in self.info()["archive"]
            if one["database"]["id"] == made["database"]["id"]
        )

        def number(name: str) -> int:
            return int(name[8:16], 16) * (lines // self.piece) + int(name[16:24], 16)

        first, last = number(before["archive"]["stop"]) + 1, number(made["archive"]["start"])
        # From where a restore has come between, or another server has taken the primary's place, it is another log.
        spans: list[tuple[int, int, int]] = []
        if line_of(before) != line:
            said = self.ask("repo-get", f"{place}/{line:08X}.history", timeout=SILENT)
            for words in map(str.split, said.splitlines()):
                if words and words[0].isdigit():
                    ended = position(words[1]) // self.piece
                    # A restore has read what was before it.
                    told = self.members and int(words[0]) >= line_of(before)
                    spans += [(int(words[0]), first, ended)] if told else []
                    first = ended
        there: dict[tuple[int, int], float] = {}
        for on, begin, end in (spans := [*spans, (line, first, last)]):
            for part in range(begin * self.piece // lines, end * self.piece // lines + 1):
                listed = self.ask("--output=json", "repo-ls", f"{place}/{on:08X}{part:08X}", timeout=SILENT)
                found = json.loads(listed or "{}").items()
                there |= {(on, number(name)): one["time"] for name, one in found if PIECE.match(name)}
        wanted = [(on, one) for on, begin, end in spans for one in range(begin, end)]
        gone = [one for one in wanted if one not in there]
        if not gone:
            return {}
        since = there.get((gone[0][0], gone[0][1] - 1), before["timestamp"]["stop"])
        return {"pieces": len(gone), "since": int(since), "until": int(made["timestamp"]["stop"])}

    def logged(self) -> None:
        """Have the log in the repository, up to now. :raises Failed: if it does not get there."""
        self.ask("check", timeout=LOGGED)

    def reached(self, moment: dict[str, Any]) -> None:
        """Wait for the log of a moment, which another host sends. :raises Failed: if it does not get there."""
        place, end = position(moment["lsn"]), time.monotonic() + LATE
        name = f"{moment['timeline']}{place >> 32:08X}{(place & (1 << 32) - 1) // self.piece:08X}"
        while max((str(one["max"]) for one in self.info().get("archive", []) if one["max"]), default="") < name:
            if time.monotonic() > end:
                raise Failed(
                    f"The log of the database does not get to the repository: {name} is not there after {LATE} s; see"
                    " what the primary's own backup says of it."
                )
            time.sleep(10)

    def based(self) -> None:
        """Wait until the repository has the database as it was at some moment. :raises Failed: if it is not ours."""
        end = time.monotonic() + PATIENCE
        while not any(not one["error"] for one in self.ours()["backup"]):
            if time.monotonic() > end:
                raise Failed("The primary has not backed up the database; see what its own backup says.")
            time.sleep(10)

    def forgotten(self, since: float) -> None:
        """Have forgotten what nobody needs who wants the database as of that time, or later."""
        days = max(1, math.ceil((time.time() - since) / 86400))
        self.ask("--repo1-retention-full-type=time", f"--repo1-retention-full={days}", "expire")

    def doubt(self) -> str:
        """Return what is wrong with its log, without which it cannot be had as of any moment."""
        if names := dropped():
            return (
                "The log of the database did not get to the repository until its disk was nearly full, and"
                f" {len(names)} pieces of it were given up: the database cannot be had as it was between the last"
                " backup and the next one. Run playbooks/backup.yml once the repository can be reached."
            )
        if not SENDS.exists():
            return (
                f"{SENDS} is not there, by which the log of the database goes to the repository. Run"
                " playbooks/site.yml, and playbooks/backup.yml then, since what came meanwhile may lack."
            )
        if waiting := self.waiting(time.time() - LATE):
            return (
                f"The log of the database does not get to the repository: {waiting} pieces of it wait for more than"
                f" {LATE // 60} minutes on the disk of the database; see journalctl -u {self.unit}."
            )
        try:
            failed, when, done = self.members.sent() if self.members else self.database.asked(SENT)
        except Failed as error:
            return str(error)
        if not failed:
            return ""
        return (
            f"The log of the database does not get to the repository (since {when}; the last piece did {done}), and"
            f" waits on the disk of the database; see journalctl -u {self.unit} and its log in /var/log/postgresql."
        )

    def waiting(self, since: float) -> int:
        """Return how many pieces of the log are older, and not in the repository."""
        found = 0
        for path in (self.data / "pg_wal" / "archive_status").glob("*.ready"):
            # It may get there right now.
            with contextlib.suppress(FileNotFoundError):
                found += os.lstat(path).st_mtime < since
        return found

    # What is had again.

    def current(self) -> None:
        """Have the log in the repository up to now, where it is that of this server."""
        # Without it, what is there already is to be had all the same.
        with contextlib.suppress(Failed):
            if self.same(self.info()):
                # It is read back up to a time alone where something has come after that.
                self.database.asked("SELECT pg_current_xact_id()")
                self.logged()

    def kept(self, moment: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the backups of the database of a moment, the oldest first, and where its log is."""
        info = self.info()
        # One that was given up for another one, and was had again, has two.
        numbers = {one["id"] for one in info.get("db", []) if str(one["system-id"]) == moment["system"]}
        found = [
            [one for one in info.get(what, []) if one["database"]["id"] in numbers] for what in ("backup", "archive")
        ]
        return found[0], [f"archive/{STANZA}/{one['id']}" for one in found[1]]

    def timeline(self, moment: dict[str, Any], backups: list[dict[str, Any]], places: list[str]) -> dict[int, int]:
        """Return on which lines of time the log comes to a moment, each with the place at which it is left.

        Each restore begins one, from its moment on; what came after that, until the restore, is on the one before.
        """
        begun = {}
        for place in places:
            listed = json.loads(self.ask("--output=json", "repo-ls", place, timeout=SILENT) or "{}")
            begun |= {
                int(name[:8], 16): (one["time"], f"{place}/{name}")
                for name, one in listed.items()
                if name.endswith(".history")
            }
        line = int(moment["timeline"], 16)
        if "at" in moment:
            when = moment_of(moment["at"])
            of = [(line_of(one), one["timestamp"]) for one in backups]
            # Each backup is on that of its time; between two, the files may bear the time at which they were copied.
            low = max((one for one, times in of if times["stop"] <= when), default=1)
            high = min((one for one, times in of if times["start"] >= when), default=max([low, *begun]))
            line = max([low, *(one for one in begun if low < one <= high and begun[one][0] <= when)])
        said = self.ask("repo-get", begun[line][1], timeout=SILENT) if line in begun else ""
        words = [text.split() for text in said.splitlines()]
        return {int(one[0]): position(one[1]) for one in words if one and one[0].isdigit()} | {line: END}

    def chosen(self, moment: dict[str, Any], when: float) -> tuple[str, list[str]]:
        """Return the backup from which a moment is had, and how it is asked for. :raises Failed: if there is none."""
        backups, places = self.kept(moment)
        lines = self.timeline(moment, backups, places) if backups else {}
        most = END if "at" in moment else position(moment["lsn"])
        for one in reversed(backups):
            stop = position(one["lsn"]["stop"])
            if not one["error"] and one["timestamp"]["stop"] <= when and stop <= min(most, lines.get(line_of(one), -1)):
                return str(one["label"]), target(moment, max(lines))
        times = [one["timestamp"]["stop"] for one in backups]
        since = f"{datetime.datetime.fromtimestamp(min(times)):%Y-%m-%d %H:%M}" if times else "nowhere"
        raise Failed(
            "The repository does not have the database as it was then:"
            f" it reaches back to {since} (backup_keep says for how long)."
        )

    def fits(self, moment: dict[str, Any]) -> None:
        """See whether this host can take it. :raises Failed: if not."""
        there = str(moment["version"])
        if there != self.found[0]:
            raise Failed(
                f"Nothing was restored: the backup is of PostgreSQL {there}, and this host has {self.found[0]}, which"
                f" cannot read it. Restore it on a host with the release of Debian that has {there}, and upgrade that."
            )
        if os.path.ismount(self.data):
            raise Failed(f"Nothing was restored: {self.data} is a disk of its own, which cannot be renamed.")
        lacking = [name for name in moment.get("locales") or [] if not speaks(name)]
        if lacking:
            raise Failed(
                f"Nothing was restored: the database of the backup has the locale {lacking[0]}, and this host does not"
                " have it. Have it made first (package locales, /etc/locale.gen, locale-gen)."
            )

    def damage(self) -> list[str]:
        """Have pgBackRest read all that is in the repository. Return what is damaged."""
        done = self.run("--output=text", "verify")
        wrong = re.compile(r"(invalid|missing|mismatch|other): *[1-9]|error")
        bad = [line for line in done.stdout.splitlines() if wrong.search(line)]
        if done.returncode or bad:
            return [f"{self.refused(done)} {' '.join(' '.join(bad).split())}".strip()]
        return []

    def takes(self) -> int:
        """Return how many bytes the database takes."""
        backups = self.info().get("backup", [])
        return int(backups[-1]["info"]["size"]) if backups else 0

    def room(self, at: pathlib.Path, way_out: str, times: int = 1, log: int = 0) -> None:
        disk, takes = shutil.disk_usage(at), self.takes()
        needed = times * takes + min(log, takes)
        spare = max(disk.total // SPARE, 1024 * MIB)
        if disk.free < needed + spare:
            raise Failed(
                f"The database takes {needed // MIB} MiB in {at}, whose disk has {disk.free // MIB} MiB free, of which"
                f" {spare // MIB} stay so. {way_out}"
            )


class Recovered:
    """A server of its own with the database as of some moment, that nobody but us and one group reaches."""

    def __init__(self, cluster: Cluster, folder: pathlib.Path, unit: str, group: str = "postgres") -> None:
        self.cluster, self.folder, self.unit = cluster, folder, unit
        self.data, self._made, self._group = folder / cluster.data.name, RUN / unit, group
        self.sockets = self._made / "sockets"

    @functools.cached_property
    def opened(self) -> tuple[int, pathlib.Path]:
        """The folder: PostgreSQL's user may rename there, and root follows him nowhere."""
        made = owned(self.folder)
        os.fchown(made[0], -1, pwd.getpwnam("postgres").pw_gid)
        os.fchmod(made[0], 0o710)
        return made

    def database(self, name: str, user: str = "postgres") -> Database:
        return Database(self.cluster.settings, self.uri(user, name))

    def uri(self, user: str, name: str) -> str:
        return f"postgresql://{user}@/{name}?host={self.sockets}&port=5432"

    def restored(self, moment: dict[str, Any], label: str, target: list[str]) -> None:
        """Have pgBackRest restore it into the folder, and read its log up to a moment. :raises Failed: if it cannot."""
        self.clear()
        owner, data = pwd.getpwnam("postgres"), self.opened[1] / self.data.name
        data.mkdir(mode=0o700)
        os.chown(data, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
        done = self.cluster.run(f"--set={label}", *target, "restore", data=self.data)
        if done.returncode:
            raise self.cluster.refused(done)
        self.start(moment)

    def start(self, moment: dict[str, Any]) -> None:
        """Start it, and wait until it has read its log. :raises Failed: if it does not get there."""
        # Root writes nothing where PostgreSQL's user may.
        self._made.mkdir(mode=0o755)
        self._made.chmod(0o755)
        self.sockets.mkdir(mode=0o700)
        self.sockets.chmod(0o750)
        os.chown(self.sockets, pwd.getpwnam("postgres").pw_uid, grp.getgrnam(self._group).gr_gid)
        quiet = {name: text.format(beside=self._made) for name, text in BESIDE.items()}
        quiet |= {"data_directory": str(self.data), "unix_socket_directories": str(self.sockets)}
        enters = ENTERS.format(database=quoted(moment["database"]), user=quoted(moment["user"]))
        for name, text in (("pg_hba.conf", enters), ("pg_ident.conf", KNOWN_AS), ("postgresql.conf", "")):
            (self._made / name).write_text(text, encoding="utf-8")
            (self._made / name).chmod(0o644)
        programs = f"/usr/lib/postgresql/{self.cluster.found[0]}/bin"
        properties = ["User=postgres", "KillSignal=SIGINT", "TimeoutStopSec=600", "Nice=10", "ProtectHome=yes"]
        properties += ["NoNewPrivileges=yes", "PrivateTmp=yes", "ProtectSystem=strict"]
        # It runs what was backed up, and whoever had that in his hands.
        properties += [f"ReadWritePaths={self.folder} {self.sockets}", f"InaccessiblePaths=-{self.cluster.data}"]
        if self.cluster.settings["database_repository"]:
            properties += ["PrivateNetwork=yes"]
        run = ["systemd-run", "--quiet", f"--unit={self.unit}", *(f"--property={one}" for one in properties)]
        run += ["--", f"{programs}/postgres", "-D", str(self.data), f"--config-file={self._made}/postgresql.conf"]
        run += [word for name, text in quiet.items() for word in ("-c", f"{name}={text}")]
        subprocess.run(run, check=True, capture_output=True, text=True)
        ready = [f"{programs}/pg_isready", "--quiet", f"--host={self.sockets}", "--port=5432"]
        ready += ["--username=postgres", "--dbname=postgres"]
        while subprocess.run(ready, check=False, capture_output=True).returncode:
            if self.state() not in ("active", "activating"):
                raise Failed(f"The database could not be had as of that moment: {self.said()}")
            time.sleep(0.5)
        # Whoever is not let in by now never is.
        self.database(moment["database"]).asked("SELECT 1")

    def state(self) -> str:
        """Return what systemd says of it."""
        asked = ["systemctl", "is-active", self.unit]
        return subprocess.run(asked, check=False, capture_output=True, text=True).stdout.strip()

    def said(self) -> str:
        """Return what the server ended with."""
        asked = ["journalctl", "--unit", self.unit, "--output=cat", "--lines=30"]
        done = subprocess.run(asked, check=False, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if re.search(r"FATAL|PANIC|ERROR|last completed", line)]
        return " ".join(lines[-3:]) or f"see journalctl -u {self.unit}."

    def settled(self, uri: str) -> None:
        """Have it be the server of this host: Orthanc gets in by its login of now, and nothing is read back any more.

        :raises Failed: if it has no such database or login.
        """
        from psycopg2.extensions import encrypt_password

        login = login_of(uri)
        with self.database("postgres").opened() as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("SELECT datname FROM pg_database")
            names = {name for (name,) in cursor}
            cursor.execute("SELECT rolname FROM pg_roles")
            roles = {name for (name,) in cursor}
            if login["dbname"] not in names or login["user"] not in roles:
                raise Failed(
                    f"Nothing was restored: the backup does not have the database {login['dbname']} of the user"
                    f" {login['user']}, by which Orthanc logs in (orthanc_database_name, orthanc_database_user)."
                )
            # The server never sees it, nor does its log.
            secret = encrypt_password(login["password"], login["user"], scope=connection, algorithm="scram-sha-256")
            cursor.execute(f"ALTER ROLE {quoted(login['user'])} PASSWORD %s", (secret,))
            for name in ("restore_command", *(f"recovery_target{end}" for end in TARGETS)):
                cursor.execute(f"ALTER SYSTEM RESET {name}")

    def stop(self) -> None:
        """Stop it. :raises Failed: if it goes on: nothing of its is removed then."""
        for verb in ("stop", "reset-failed"):
            subprocess.run(["systemctl", verb, self.unit], check=False, capture_output=True)
        if (state := self.state()) in ("active", "activating", "deactivating"):
            raise Failed(f"{self.unit} does not stop: it is {state}; see journalctl -u {self.unit}.")
        with contextlib.suppress(FileNotFoundError):
            emptied(open_folder(self._made))
            self._made.rmdir()

    def clear(self) -> None:
        """Remove what was restored."""
        self.stop()
        emptied(self.opened[0])

    def away(self) -> None:
        self.clear()
        os.rmdir(self.folder)


def emptied(opened: int) -> None:
    """Remove what is in a folder of our own, in which a server has restored and written; no link is followed."""
    for _path, folders, names, at in os.fwalk(".", topdown=False, dir_fd=opened):
        for name in names:
            os.unlink(name, dir_fd=at)
        for name in folders:
            if stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=at)
            else:
                os.rmdir(name, dir_fd=at)


def dropped() -> list[str]:
    """Return which pieces of the log were given up since the last backup, each by its name, the line of time first."""
    with contextlib.suppress(FileNotFoundError):
        # It is that of PostgreSQL's user.
        opened = os.open(KEPT / "dropped", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(opened, encoding="utf-8", errors="replace") as file:
            return [line.rpartition("/")[2] for line in file.read().split()]
    return []


def user() -> dict[str, Any]:
    """Return how something is run as the user of PostgreSQL."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


def device(path: str | os.PathLike[str]) -> int:
    """Return on which disk something is, or will be."""
    here = pathlib.Path(path)
    return os.stat(next(one for one in (here, *here.parents) if one.exists())).st_dev


def speaks(name: str) -> bool:
    """Tell whether this host has a locale."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, name)
    except locale.Error:
        return False
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    return True


def position(lsn: str) -> int:
    """Return a place in the log as a number."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def moment_of(at: str) -> float:
    """Return when a moment is that was asked for. :raises Failed: if it is no time."""
    if at == LAST:
        return time.time()
    try:
        return epoch(at)
    except ValueError as error:
        raise Failed(f"at: '{at}' is no time ({error}); say it as 2026-11-30 14:05, or end.") from error


def line_of(backup: dict[str, Any]) -> int:
    """Return on which line of time a backup is: the names of its pieces of the log begin with that."""
    return int(backup["archive"]["start"][:8], 16)


def target(moment: dict[str, Any], line: int) -> list[str]:
    """Return a moment as pgBackRest has it: a place in the log, or a time."""
    if moment.get("at") == LAST:
        words = ["--type=default"]
    elif "at" in moment:
        words = ["--type=time", f"--target={moment['at']}", "--target-action=promote"]
    else:
        words = ["--type=lsn", f"--target={moment['lsn']}", "--target-exclusive", "--target-action=promote"]
    return [*words, f"--target-timeline={line}"]

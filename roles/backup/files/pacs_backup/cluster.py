# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PostgreSQL of this host, kept by pgBackRest: its data and all of its log, to be had again as of any moment."""

from __future__ import annotations

import contextlib
import datetime
import functools
import grp
import json
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

from .common import MIB, SILENT, SPARE, Failed, open_folder, owned
from .database import Database
from .repository import ELSEWHERE, epoch

CONFIG = pathlib.Path("/etc/pacs/pgbackrest/pgbackrest.conf")
KEPT = pathlib.Path("/var/lib/pacs/pgbackrest")
RUN = pathlib.Path("/run")
# By what all of it is known in a repository, which is of this host alone.
STANZA = "pacs"
# How long its log may wait for the repository, in seconds.
LOGGED = 600
# What pgBackRest says beside what restic says.
SAYS = (
    (r"FormatError|cipher header invalid|unable to decrypt|CryptoError", "it has another key, or is damaged"),
    (r"\[ChecksumError\]|checksum .* does not match", "it is damaged"),
    (r"\[HostConnectError\]|unable to connect|\[ServiceError\]|timeout after waiting", "it cannot be reached"),
    (r"No space left on device|Disk quota exceeded", "it is full"),
    (r"\[ArchiveTimeoutError\]", "the log of the database does not get there"),
)
# How much of a server is started beside the one that works: nobody but us reaches it, and its log goes nowhere.
BESIDE = {
    "listen_addresses": "",
    "unix_socket_permissions": "0777",
    "hba_file": "{beside}/pg_hba.conf",
    "ident_file": "",
    "external_pid_file": "",
    "archive_mode": "on",
    "archive_command": "/bin/false",
    "hot_standby": "off",
    "max_connections": "20",
    "shared_buffers": "256MB",
    "logging_collector": "off",
    "ssl": "off",
}
# Behind all places in a log.
END = 1 << 64
# What says up to where its log is read back.
TARGETS = ("", "_lsn", "_time", "_name", "_xid", "_inclusive", "_action", "_timeline")


class Cluster:
    """The server whose database has the index."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.database = Database(settings)

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
        return f"postgresql@{self.found[0]}-{self.found[1]}"

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
    def system(self) -> str:
        """By what PostgreSQL knows a database; its copies bear the same number."""
        said = subprocess.run(
            [f"/usr/lib/postgresql/{self.found[0]}/bin/pg_controldata", str(self.data)],
            check=True,
            capture_output=True,
            text=True,
            env={"LC_ALL": "C", "PATH": os.defpath},
        ).stdout
        found = re.search(r"Database system identifier: +(\d+)", said)
        return found[1] if found else ""

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
        disk = self.settings["repository"]
        if os.path.ismount(disk) and not os.path.ismount(place):
            raise Failed(
                f"backup_repository: a disk is mounted at {disk}, and the database goes beside it, to {place}, which is"
                f" on another one. Take a folder on that disk, such as {disk.rstrip('/')}/pacs."
            )
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
        info = self.ours()
        full = [one["timestamp"]["stop"] for one in info["backup"] if one["type"] == "full" and not one["error"]]
        fresh = bool(full) and max(full) > time.time() - self.settings["database_full_days"] * 86400
        self.ask(f"--type={'incr' if fresh else 'full'}", "--no-expire-auto", "backup")
        (KEPT / "dropped").unlink(missing_ok=True)
        return int(self.info()["backup"][-1]["info"]["repository"]["delta"])

    def logged(self) -> None:
        """Have the log in the repository, up to now. :raises Failed: if it does not get there."""
        self.ask("check", timeout=LOGGED)

    def forgotten(self, since: float) -> None:
        """Have forgotten what nobody needs who wants the database as of that time, or later."""
        days = max(1, math.ceil((time.time() - since) / 86400))
        self.ask("--repo1-retention-full-type=time", f"--repo1-retention-full={days}", "expire")

    def doubt(self) -> str:
        """Return what is wrong with its log, without which it cannot be had as of any moment."""
        with contextlib.suppress(FileNotFoundError):
            # It is that of PostgreSQL's user.
            opened = os.open(KEPT / "dropped", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(opened, encoding="utf-8", errors="replace") as file:
                dropped = file.read().split()
            return (
                "The log of the database did not get to the repository until its disk was nearly full, and"
                f" {len(dropped)} pieces of it were given up: the database cannot be had as it was between the last"
                " backup and the next one. Run playbooks/backup.yml once the repository can be reached."
            )
        try:
            failed, when, done = self.database.asked(
                "SELECT coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),"
                " last_failed_time::text, coalesce(last_archived_time::text, 'never') FROM pg_stat_archiver"
            )
        except Failed as error:
            return str(error)
        if not failed:
            return ""
        return (
            f"The log of the database does not get to the repository (since {when}; the last piece did {done}), and"
            f" waits on the disk of the database; see journalctl -u {self.unit} and its log in /var/log/postgresql."
        )

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
            when = epoch(moment["at"])
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

    def room(self, at: pathlib.Path, way_out: str) -> None:
        disk, needed = shutil.disk_usage(at), self.takes()
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

    def database(self, name: str) -> Database:
        return Database(self.cluster.settings, self.uri("postgres", name))

    def uri(self, user: str, name: str) -> str:
        return f"postgresql://{user}@/{name}?host={self.sockets}&port=5432"

    def restored(self, label: str, target: list[str]) -> None:
        """Have pgBackRest restore it into the folder, and read its log up to a moment. :raises Failed: if it cannot."""
        self.clear()
        owner, data = pwd.getpwnam("postgres"), self.opened[1] / self.data.name
        data.mkdir(mode=0o700)
        os.chown(data, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
        done = self.cluster.run(f"--set={label}", *target, "--target-action=promote", "restore", data=self.data)
        if done.returncode:
            raise self.cluster.refused(done)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it has read its log. :raises Failed: if it does not get there."""
        # Root writes nothing where PostgreSQL's user may.
        self._made.mkdir(mode=0o755)
        self._made.chmod(0o755)
        self.sockets.mkdir(mode=0o700)
        self.sockets.chmod(0o750)
        os.chown(self.sockets, pwd.getpwnam("postgres").pw_uid, grp.getgrnam(self._group).gr_gid)
        quiet = {name: text.format(beside=self._made) for name, text in BESIDE.items()}
        quiet |= {"data_directory": str(self.data), "unix_socket_directories": str(self.sockets), "port": "5432"}
        lines = "".join(f"{name} = '{text}'\n" for name, text in quiet.items())
        for name, text in (("pg_hba.conf", "local all all trust\n"), ("postgresql.conf", lines)):
            (self._made / name).write_text(text, encoding="utf-8")
            (self._made / name).chmod(0o644)
        program = f"/usr/lib/postgresql/{self.cluster.found[0]}/bin/postgres"
        properties = ["User=postgres", "KillSignal=SIGINT", "TimeoutStopSec=600", "Nice=10", "ProtectHome=yes"]
        run = ["systemd-run", "--quiet", f"--unit={self.unit}", *(f"--property={one}" for one in properties)]
        run += ["--", program, "-D", str(self.data), f"--config-file={self._made}/postgresql.conf"]
        subprocess.run(run, check=True, capture_output=True, text=True)
        while True:
            try:
                self.database("postgres").asked("SELECT 1")
                return
            except Failed as error:
                asked = ["systemctl", "is-active", self.unit]
                state = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.strip()
                if state not in ("active", "activating"):
                    raise Failed(f"The database could not be had as of that moment: {self.said()}") from error
                time.sleep(0.5)

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
            cursor.execute("SET log_statement = 'none'; SET log_min_error_statement = 'panic'")
            cursor.execute("SET password_encryption = 'scram-sha-256'")
            cursor.execute(f"ALTER ROLE {quoted(login['user'])} PASSWORD %s", (login["password"],))
            for name in ("restore_command", *(f"recovery_target{end}" for end in TARGETS)):
                cursor.execute(f"ALTER SYSTEM RESET {name}")

    def stop(self) -> None:
        for verb in ("stop", "reset-failed"):
            subprocess.run(["systemctl", verb, self.unit], check=False, capture_output=True)
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


def user() -> dict[str, Any]:
    """Return how something is run as the user of PostgreSQL."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


def login_of(uri: str) -> dict[str, str]:
    """Return what a login is made of."""
    import psycopg2.extensions

    found: dict[str, str] = psycopg2.extensions.parse_dsn(uri)
    return found


def quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def position(lsn: str) -> int:
    """Return a place in the log as a number."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def line_of(backup: dict[str, Any]) -> int:
    """Return on which line of time a backup is: the names of its pieces of the log begin with that."""
    return int(backup["archive"]["start"][:8], 16)


def target(moment: dict[str, Any], line: int) -> list[str]:
    """Return a moment as pgBackRest has it: a place in the log, or a time."""
    if "at" in moment:
        words = ["--type=time", f"--target={moment['at']}"]
    else:
        words = ["--type=lsn", f"--target={moment['lsn']}", "--target-exclusive"]
    return [*words, f"--target-timeline={line}"]

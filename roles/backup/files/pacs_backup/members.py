# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several hosts with one archive, whose servers Patroni runs: who makes its backups, and how it is had again.

Patroni, etcd and the standbys are left as they are at a restore: the database of then is loaded into the primary beside
the one that works, the standbys get it from there as all else, and in the end the two swap their names.
"""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .common import Failed
from .database import Database, acting

if TYPE_CHECKING:
    from .cluster import Cluster, Recovered

# As what every part of the archive is known, whichever host is primary: it goes with the database.
NAME = "pacs.archive"
GOOD = ("running", "streaming")
# For how many seconds a standby takes a primary's place, and whoever is in the database goes.
PATIENCE = 180
NAMED = """SELECT split_part(one, '=', 2) FROM pg_db_role_setting
    JOIN pg_database ON pg_database.oid = setdatabase, unnest(setconfig) AS one
    WHERE datname = %s AND setrole = 0 AND one LIKE 'pacs.archive=%%'"""
DATABASE = """SELECT pg_get_userbyid(datdba), coalesce(shobj_description(oid, 'pg_database'), '')
    FROM pg_database WHERE datname = %s"""
SENT = """SELECT NOT pg_is_in_recovery()
    AND coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),
    last_failed_time::text, coalesce(last_archived_time::text, 'never') FROM pg_stat_archiver"""


class Members:
    """The hosts that have an archive together."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.settings = cluster, cluster.settings
        self.here: str = self.settings["host"]
        self.name: str = self.settings["database_name"]
        self.sockets = "/var/run/postgresql"

    # Who does what.

    @property
    def scope(self) -> str:
        return "-".join(self.cluster.found[:2])

    def tell(self, *words: str) -> str:
        """Give a command to Patroni. :raises Failed: if it does not take it."""
        command = ["patronictl", "-c", f"/etc/patroni/{self.scope}.yml", *words]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"Patroni does not answer in {PATIENCE} s; see journalctl -u patroni@{self.scope}.") from error
        if done.returncode:
            said = " ".join((done.stdout + done.stderr).split())
            raise Failed(f"patronictl {words[0]} fails: {said[-300:]}; see journalctl -u patroni@{self.scope}.")
        return done.stdout

    def servers(self) -> dict[str, dict[str, Any]]:
        return {str(one["Member"]): one for one in json.loads(self.tell("list", "--format", "json"))}

    @functools.cached_property
    def who(self) -> tuple[str, str]:
        """Who is primary, and who makes the backups: the same, if it has an Orthanc.

        :raises Failed: if nobody is, or can.
        """
        servers, makers = self.servers(), [name for name, orthanc in self.settings["members"].items() if orthanc]
        primary = next((name for name, one in servers.items() if one["Role"] == "Leader"), "")
        if not primary:
            raise Failed("No server of the database is primary; see patronictl list, and docs/cluster.md.")
        able = [name for name in makers if servers.get(name, {}).get("State") in GOOD]
        keeper = primary if primary in makers else next(iter(able), "")
        if not keeper:
            raise Failed(f"{primary} is primary, and no server beside an Orthanc ({', '.join(makers)}) runs.")
        return primary, keeper

    def leads(self) -> bool:
        return self.who[0] == self.here

    def keeps(self) -> bool:
        return self.who[1] == self.here

    def best(self) -> str:
        """Return where a restore is done: where the primary is, or where it can be at once."""
        primary, keeper = self.who
        standby = (name for name, one in self.servers().items() if one["Role"] == "Sync Standby")
        near = next((name for name in standby if self.settings["members"].get(name)), keeper)
        return primary if primary == keeper else near

    def lead(self) -> None:
        """Have the server of this host be primary. :raises Failed: if it cannot be."""
        if self.leads():
            return
        primary, words = self.who[0], ["--leader", self.who[0], "--candidate", self.here, "--force"]
        try:
            self.tell("switchover", self.scope, *words)
        except Failed as error:
            raise Failed(
                f"The database is loaded where its primary is, and {primary} is. {self.here} does not take its place:"
                f" {error} Once it can, say there: patronictl -c /etc/patroni/{self.scope}.yml switchover {self.scope}"
                f" {' '.join(words)}; and run playbooks/restore.yml again."
            ) from error
        end = time.monotonic() + PATIENCE
        while True:
            del self.who
            # For a moment nobody is.
            with contextlib.suppress(Failed):
                if self.leads() and not self.asked("SELECT pg_is_in_recovery()")[0]:
                    return
            if time.monotonic() > end:
                raise Failed(f"{self.here} has not become primary in {PATIENCE} s; see patronictl list.")
            time.sleep(1)

    # What the server of this host is asked.

    @contextlib.contextmanager
    def opened(self, user: str = "postgres", name: str = "postgres") -> Iterator[Any]:
        """Log in to the server of this host, with each statement for itself."""
        database = Database(self.settings, self.uri(user, name))
        with contextlib.ExitStack() as stack:
            with acting("postgres"):
                connection = stack.enter_context(database.opened())
            connection.autocommit = True
            yield connection

    def uri(self, user: str, name: str) -> str:
        return f"postgresql://{user}@/{name}?host={self.sockets}&port={self.settings['database_port']}"

    def asked(self, question: str, *given: str) -> tuple[Any, ...]:
        """Return the first row that answers; nothing if there is none."""
        with self.opened() as connection, connection.cursor() as cursor:
            cursor.execute(question, given or None)
            found: tuple[Any, ...] = cursor.fetchone() or ()
            return found

    def archive(self) -> str:
        """Return as what the archive is known; nothing if as nothing."""
        found = self.asked(NAMED, self.name)
        return str(found[0]) if found else ""

    def named(self, archive: str) -> None:
        """Have it known as something. :raises Failed: if the server of this host is not primary."""
        if not self.leads():
            raise Failed(f"{self.who[0]} is primary, and not {self.here}: say it of that one, with --limit.")
        with self.opened() as connection, connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {quoted(self.name)} SET {NAME} = %s", (archive,))

    def sent(self) -> tuple[Any, ...]:
        """Return whether the log does not get away, since when, and when it last did."""
        return self.asked(SENT)

    # How the database is had again.

    def copied(self, recovered: Recovered, moment: dict[str, Any]) -> None:
        """Load what a server of its own has into another database of the primary. :raises Failed: if it cannot be."""
        new, found = f"{self.name}_restored", self.asked(DATABASE, self.name)
        if not found:
            raise Failed(f"There is no database {self.name} on the servers; run playbooks/site.yml.")
        (user, comment), there = found, self.asked(DATABASE, new)
        if there and there[1] not in ("", comment):
            raise Failed(f"The database {new} is somebody else's; nothing was restored.")
        with self.opened() as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {quoted(new)} WITH (FORCE)")
            cursor.execute(
                f"CREATE DATABASE {quoted(new)} OWNER {quoted(user)} TEMPLATE template0 ENCODING 'UTF8'"
                " LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
            )
            cursor.execute(f"COMMENT ON DATABASE {quoted(new)} IS %s", (comment,))
            cursor.execute(f"REVOKE CONNECT ON DATABASE {quoted(new)} FROM PUBLIC")
        programs = f"/usr/lib/postgresql/{self.cluster.found[0]}/bin"
        # By the login that owns it, on both sides: whatever stands there is Orthanc's, and no program of the server's.
        dump = [f"{programs}/pg_dump", f"--host={recovered.sockets}", "--port=5432", f"--username={moment['user']}"]
        dump += ["--no-password", "--format=custom", "--compress=0", moment["database"]]
        load = [f"{programs}/pg_restore", f"--host={self.sockets}", f"--port={self.settings['database_port']}"]
        load += [f"--username={user}", "--no-password", "--no-owner", "--no-acl", "--no-comments", "--exit-on-error"]
        load += [f"--dbname={new}"]
        done = piped(dump, load)
        if done:
            raise Failed(f"Nothing was restored: the database of then cannot be loaded beside the one of now. {done}")
        with self.opened(user, new) as connection, connection.cursor() as cursor:
            # What is not its own it passes over.
            cursor.execute("ANALYZE")

    def listed(self, target: pathlib.Path) -> None:
        """Write a list of what was loaded."""
        new = f"{self.name}_restored"
        (user, _) = self.asked(DATABASE, new)
        with self.opened(user, new) as connection:
            connection.autocommit = False
            Database(self.settings).noted(connection, target)

    def swapped(self, before: str) -> None:
        """Have what was loaded be the database, and that of before be kept by another name, in one step.

        From the first moment on nobody gets into it, whichever host he is on. :raises Failed: if it is not there.
        """
        new = f"{self.name}_restored"
        if not self.asked(DATABASE, new):
            if self.asked(DATABASE, before):
                return
            raise Failed(f"There is no database {new}, which was loaded before; nothing was restored.")
        with self.opened() as connection, connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {quoted(self.name)} ALLOW_CONNECTIONS false")
            end, left = time.monotonic() + PATIENCE, 1
            while left:
                if time.monotonic() > end:
                    raise Failed(f"{left} connections to the database {self.name} do not end in {PATIENCE} s.")
                cursor.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname IN (%s, %s)",
                    (self.name, new),
                )
                (left,) = cursor.fetchone()
                time.sleep(0.2 * bool(left))
            cursor.execute("BEGIN")
            cursor.execute(f"ALTER DATABASE {quoted(self.name)} RENAME TO {quoted(before)}")
            cursor.execute(f"ALTER DATABASE {quoted(new)} RENAME TO {quoted(self.name)}")
            cursor.execute("COMMIT")


def piped(source: list[str], target: list[str]) -> str:
    """Have a program read what another one writes, both as the server's user. Return what either fails with."""
    from .cluster import user

    with tempfile.TemporaryFile() as said:
        options: dict[str, Any] = {"stderr": said, "cwd": "/", "env": {"LC_ALL": "C.UTF-8"}, **user()}
        with subprocess.Popen(source, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, **options) as writes:
            reads = subprocess.run(target, stdin=writes.stdout, stdout=subprocess.DEVNULL, check=False, **options)
            if writes.stdout:
                writes.stdout.close()
        if not writes.returncode and not reads.returncode:
            return ""
        said.seek(0)
        return " ".join(said.read().decode(errors="replace").split())[-600:] or "It was killed."


def quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'

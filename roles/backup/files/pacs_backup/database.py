# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An index in PostgreSQL: what it knew at one moment, of which its log has the place.

Nobody has to stop Orthanc for that: as long as we hold two of its tables, whoever would write to them waits.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .common import INSIDE, NAME, Failed, read

# How long an image waits for us to get hold of the tables, in milliseconds, and how often we try.
WAITS, ATTEMPTS = 500, 40
# And where the server is another host's, whose user we are not: an autovacuum gives way after a second then.
WAITS_ELSEWHERE = 1500
# How many milliseconds later an autovacuum gives way to us.
YIELDS = 100
# How many bytes a row takes in a list, at most.
ROW = 250
# The list of an index has the shape of SQLite's, so that all that compares can compare it.
LIST = """
CREATE TABLE Resources(internalId INTEGER PRIMARY KEY, resourceType INTEGER, publicId TEXT, parentId INTEGER);
CREATE INDEX Parents ON Resources(parentId);
CREATE TABLE MainDicomTags(id INTEGER, tagGroup INTEGER, tagElement INTEGER, value TEXT);
CREATE TABLE AttachedFiles(id INTEGER, fileType INTEGER, uuid TEXT, compressedSize INTEGER, uncompressedMD5 TEXT,
    compressedMD5 TEXT);
CREATE INDEX Files ON AttachedFiles(id);
"""
# SQLite counts them from 1.
RESOURCES = "SELECT internalId, resourceType + 1, publicId, parentId FROM Resources"
# By what patients and studies are found again: PatientID and StudyInstanceUID.
TAGS = """SELECT id, tagGroup, tagElement, value FROM MainDicomTags JOIN Resources ON internalId = id
    WHERE resourceType IN (0, 1) AND ((tagGroup = 16 AND tagElement = 32) OR (tagGroup = 32 AND tagElement = 13))"""
FILES = "SELECT id, fileType, %s || uuid, compressedSize, uncompressedHash, compressedHash FROM AttachedFiles"
# Where the log stands, and of which server it is. The number that is taken for it has the log go on behind that place.
MOMENT = """SELECT pg_current_wal_insert_lsn()::text, substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8),
    (SELECT system_identifier::text FROM pg_control_system()), current_setting('server_version_num')::int / 10000,
    current_database(), current_user, (SELECT array_agg(DISTINCT locale) FROM pg_database,
    unnest(ARRAY[datcollate::text, datctype::text]) AS locale), pg_current_xact_id()::text"""
Row = tuple[Any, ...]
WORDS = ("lsn", "timeline", "system", "version", "database", "user", "locales")
TABLES = "('Resources'::regclass, 'AttachedFiles'::regclass)"
# Who writes there.
WRITERS = f"""SELECT coalesce(string_agg(DISTINCT format('%s (process %s)',
    coalesce(nullif(application_name, ''), backend_type), pid), ', '), 'nobody by now')
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE granted AND relation IN {TABLES} AND mode NOT IN ('AccessShareLock', 'RowShareLock', 'ShareLock')"""
COUNTED = f"SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint FROM pg_class WHERE oid IN {TABLES}"


class Database:
    """The index, as its Orthanc logs in to it."""

    def __init__(self, settings: dict[str, Any], uri: str = "") -> None:
        self._config, self._uri, self._port = settings["config_dir"], uri, settings.get("database_port")
        # The names of files that are in the database are no names of files on the disk.
        self._prefix = "" if settings.get("files", True) else INSIDE

    @property
    def section(self) -> dict[str, Any]:
        """What Orthanc was told of it."""
        found: dict[str, Any] = read(pathlib.Path(self._config, "postgresql.json")).get("PostgreSQL", {})
        return found

    def plugins(self) -> list[str]:
        """Return what Orthanc reaches it by."""
        asked = read(pathlib.Path(self._config, "orthanc.json")).get("Plugins", [])
        return [path for path in asked if "PostgreSQL" in path]

    @contextlib.contextmanager
    def opened(self, level: str = "READ COMMITTED", first: bool = False) -> Iterator[Any]:
        """Log in. :raises Failed: if the database does not let us in, or does not answer.

        :param first: whether as the server's own user.
        """
        # Where the index is in SQLite, a host does not have it.
        import psycopg2

        try:
            given = {"dsn": self._uri or self.section["ConnectionUri"]}
            if first:
                given = {"dbname": login_of(given["dsn"])["dbname"], "user": "postgres", "port": self._port}
            with acting("postgres") if first else contextlib.nullcontext():
                connection = psycopg2.connect(**given, connect_timeout=30, application_name="pacs-backup")
        except (psycopg2.Error, KeyError) as error:
            raise Failed(f"The database of the index cannot be reached: {' '.join(str(error).split())}") from error
        try:
            connection.set_session(isolation_level=level)
            yield connection
        except psycopg2.Error as error:
            raise Failed(f"The database of the index: {' '.join(str(error).split())}") from error
        finally:
            connection.close()

    def asked(self, question: str) -> tuple[Any, ...]:
        """Return the one row that answers."""
        with self.opened() as connection, connection.cursor() as cursor:
            cursor.execute(question)
            found: tuple[Any, ...] = cursor.fetchone()
            return found

    def takes(self) -> int:
        """Return how many bytes a list of it takes, about."""
        return int(self.asked(COUNTED)[0]) * ROW

    def images(self) -> int:
        return int(self.asked("SELECT count(*) FROM Resources WHERE resourceType = 3")[0])

    def others(self) -> str:
        """Return which databases of the server are not Orthanc's, in words; nothing if there are none."""
        found = self.asked(
            "SELECT string_agg(datname, ', ' ORDER BY datname) FROM pg_database"
            " WHERE NOT datistemplate AND datname NOT IN ('postgres', current_database())"
            # What restores in a cluster have left, or have begun.
            " AND datname !~ ('^' || current_database() || '_(restored|before_[0-9]+)$')"
        )
        return found[0] or ""

    def copied(
        self,
        target: pathlib.Path,
        limit: float,
        top: int | None = None,
        hold: Callable[[str], Any] = lambda name: None,
        here: bool = True,
    ) -> tuple[float, dict[str, Any]]:
        """Write a list of all that the index knows at one moment. Return how long nobody could write, and the moment.

        :param top: the last resource of the list before; the files of what has come since are held meanwhile.
        :param here: whether the server that takes what is written is on this host.
        """
        with self.opened("REPEATABLE READ") as reading, reading.cursor() as cursor:
            with self.held(limit, here) as (holding, began):
                cursor.execute(MOMENT)
                moment = dict(zip(WORDS, cursor.fetchone(), strict=False))
                if top is not None:
                    cursor.execute("SELECT %s || uuid FROM AttachedFiles WHERE id > %s", (self._prefix, top))
                    for (name,) in cursor:
                        if NAME.fullmatch(name):
                            hold(name)
                # It fails if we took so long that the server has ended it.
                holding.commit()
                lasted = time.monotonic() - began
            written(reading, target, self._prefix)
            # Now the log goes on.
            reading.commit()
        return lasted, moment

    @contextlib.contextmanager
    def held(self, limit: float, here: bool = True) -> Iterator[tuple[Any, float]]:
        """Have nobody write to the index, as soon as nobody does; the server gives it back after so many seconds.

        Since when others wait is returned as well. The server's user has an autovacuum give way before we do: it would
        keep us off for hours where there are many images.
        """
        import psycopg2

        settings = {"lock_timeout": WAITS if here else WAITS_ELSEWHERE}
        settings |= {"deadlock_timeout": YIELDS} if here else {}
        settings |= {"idle_in_transaction_session_timeout": int(limit * 1000)}
        with self.opened(first=here) as connection:
            for tried in range(ATTEMPTS):
                try:
                    with connection.cursor() as cursor:
                        for name, value in settings.items():
                            cursor.execute("SELECT set_config(%s, %s, true)", (name, str(value)))
                        began = time.monotonic()
                        cursor.execute("LOCK TABLE Resources, AttachedFiles IN SHARE MODE")
                    break
                except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected) as error:
                    connection.rollback()
                    if tried == ATTEMPTS - 1:
                        with connection.cursor() as cursor:
                            cursor.execute(WRITERS)
                            (writers,) = cursor.fetchone()
                        raise Failed(
                            f"Somebody writes to the index all the time: {ATTEMPTS} times nobody would pause for half a"
                            f" second. What has it: {writers}."
                        ) from error
                    time.sleep(1)
            yield connection, began

    def listed(self, target: pathlib.Path) -> None:
        """Write a list of what an index knows that nobody else writes to."""
        with self.opened("REPEATABLE READ") as connection:
            self.noted(connection, target)

    def noted(self, connection: Any, target: pathlib.Path) -> None:
        written(connection, target, self._prefix)


@contextlib.contextmanager
def acting(name: str) -> Iterator[None]:
    """Be another user of the system: the server knows its own by that."""
    before = os.geteuid()
    os.seteuid(pwd.getpwnam(name).pw_uid)
    try:
        yield
    finally:
        os.seteuid(before)


def login_of(uri: str) -> dict[str, str]:
    """Return what a login is made of."""
    import psycopg2.extensions

    found: dict[str, str] = psycopg2.extensions.parse_dsn(uri)
    return found


def written(connection: Any, target: pathlib.Path, prefix: str) -> None:
    """Write what a transaction sees, some rows at a time."""

    def of(table: str, question: str, *given: str) -> Iterator[Row]:
        with connection.cursor(name=table) as cursor:
            cursor.itersize = 10_000
            cursor.execute(question, given or None)
            yield from cursor

    noted(target, of("resources", RESOURCES), of("attachedfiles", FILES, prefix), of("tags", TAGS))


def noted(target: pathlib.Path, resources: Iterable[Row], files: Iterable[Row], tags: Iterable[Row]) -> None:
    """Write a list of an index."""
    target.unlink(missing_ok=True)
    made = sqlite3.connect(target)
    try:
        # It is made again where it gets lost.
        made.executescript(f"PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF; {LIST}")
        for question, rows in (
            ("INSERT INTO Resources VALUES (?, ?, ?, ?)", resources),
            ("INSERT INTO AttachedFiles VALUES (?, ?, ?, ?, ?, ?)", files),
            ("INSERT INTO MainDicomTags VALUES (?, ?, ?, ?)", tags),
        ):
            made.executemany(question, ([text if text is not None else "" for text in row] for row in rows))
        made.commit()
    finally:
        made.close()

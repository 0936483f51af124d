# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An index in MariaDB: its dump, with a list of what it knew at the same moment, and how it is had again.

A dump, and not the files of the server: it has the database of this Orthanc alone, and another release reads it, too.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pathlib
import pwd
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from .cluster import emptied
from .common import MIB, NAME, SPARE, Failed, open_folder, owned, read
from .database import ATTEMPTS, RESOURCES, TAGS, WAITS, noted

DUMP = "index.sql"
FILES = "SELECT id, fileType, uuid, compressedSize, uncompressedHash, compressedHash FROM AttachedFiles"
# Of a dump, what it begins its first table with, and ends with.
BEGUN, ENDED = b"CREATE TABLE", b"-- Dump completed"
# In whose name a trigger or a routine works: nobody may make one in the name of another. Without quotes, since it may
# stand in a text as well, which would have another end without them.
DEFINER = re.compile(rb" ?DEFINER=`[^`'\"\\]*`@`[^`'\"\\]*`")
# As the first line it has a client run no program and read no file; a dump of MariaDB's begins with it, and one that
# somebody has changed may not.
SANDBOX = b"/*M!999999\\- enable the sandbox mode */\n"
MAKES = (b"/*!", b"/*M!", b"CREATE ")
# What stands in the database, in the order in which it can go.
THINGS = """SELECT CONCAT('DROP TABLE `', TABLE_NAME, '`') FROM information_schema.TABLES
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE'
    UNION ALL SELECT CONCAT('DROP ', ROUTINE_TYPE, ' `', ROUTINE_NAME, '`') FROM information_schema.ROUTINES
    WHERE ROUTINE_SCHEMA = DATABASE()"""
SIZE = "SELECT COALESCE(SUM(DATA_LENGTH), 0) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
# Without them nobody but an administrator may make the triggers of an index.
TRUSTED = "SELECT @@log_bin = 0 OR @@log_bin_trust_function_creators = 1"
# Tables of which no moment can be had.
STRANGE = """SELECT GROUP_CONCAT(TABLE_NAME) FROM information_schema.TABLES
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE' AND ENGINE <> 'InnoDB'"""
# How long it may take until a server for a try answers, in seconds.
STARTS = 600
# A server beside the one that works is reached by its socket alone, and is thrown away.
BESIDE = [
    "--skip-networking",
    "--local-infile=OFF",
    "--innodb-buffer-pool-size=256M",
    "--innodb-flush-log-at-trx-commit=0",
    "--loose-innodb-snapshot-isolation=OFF",
    "--max-allowed-packet=1G",
    "--character-set-server=utf8mb4",
]


class Mariadb:
    """The index, as its Orthanc logs in to it, or that of a server which was started for a try."""

    def __init__(self, settings: dict[str, Any], socket: str = "", name: str = "") -> None:
        self._config, self._socket, self._name = settings["config_dir"], socket, name

    @property
    def section(self) -> dict[str, Any]:
        """What Orthanc was told of it."""
        found: dict[str, Any] = read(pathlib.Path(self._config, "mysql.json")).get("MySQL", {})
        if self._socket:
            # By another name of the host the plugin would not go by the socket.
            found |= {"UnixSocket": self._socket, "Host": "localhost", "EnableSsl": False}
            found |= {"Username": "root", "Password": "", "Database": self._name}
        return found

    def plugins(self) -> list[str]:
        """Return what Orthanc reaches it by."""
        asked = read(pathlib.Path(self._config, "orthanc.json")).get("Plugins", [])
        return [path for path in asked if "MySQL" in path]

    @contextlib.contextmanager
    def opened(self, database: bool = True) -> Iterator[Any]:
        """Log in. :raises Failed: if the database does not let us in, or does not answer."""
        # Where the index is in SQLite, a host does not have it.
        import pymysql

        section, context = self.section, None
        if section.get("EnableSsl"):
            context = ssl.create_default_context(cafile=section["SslCACertificates"])
            # Newer Pythons would hold the authority to rules that Orthanc does not know.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        where = {"unix_socket": self._socket} if self._socket else {}
        try:
            connection = pymysql.connect(
                host=str(section.get("Host", "")),
                port=int(section.get("Port", 3306)),
                user=str(section.get("Username", "")),
                # As bytes, since as text it may hold Latin-1 only.
                password=str(section.get("Password", "")).encode(),
                database=str(section["Database"]) if database else None,
                connect_timeout=30,
                charset="utf8mb4",
                ssl=context,
                **where,
            )
        except (pymysql.Error, KeyError, OSError) as error:
            raise Failed(f"The database of the index cannot be reached: {' '.join(str(error).split())}") from error
        try:
            yield connection
        except pymysql.Error as error:
            raise Failed(f"The database of the index: {' '.join(map(str, error.args))}") from error
        finally:
            with contextlib.suppress(pymysql.Error):
                connection.close()

    def asked(self, question: str) -> tuple[Any, ...]:
        """Return the one row that answers."""
        with self.opened() as connection, connection.cursor() as cursor:
            cursor.execute(question)
            found: tuple[Any, ...] = cursor.fetchone()
            return found

    def images(self) -> int:
        """Return how many images it knows."""
        with self.opened() as connection, connection.cursor() as cursor:
            # Before its first start there is none.
            if not cursor.execute("SHOW TABLES LIKE 'Resources'"):
                return 0
            cursor.execute("SELECT COUNT(*) FROM Resources WHERE resourceType = 3")
            return int(cursor.fetchone()[0])

    def others(self) -> str:
        """Nobody else loses anything by a restore of this database."""
        return ""

    def takes(self) -> int:
        """Return how many bytes a dump takes, more or less."""
        return int(self.asked(SIZE)[0])

    def data(self) -> str:
        """Return where the server has its data, which Orthanc's login may ask."""
        return str(self.asked("SELECT @@datadir")[0])

    def login(self) -> tuple[list[str], dict[str, str]]:
        """Return how a client of MariaDB logs in: its options, and its environment, in which the password is."""
        section = self.section
        words = ["--no-defaults", f"--user={section['Username']}"]
        if self._socket:
            words += [f"--socket={self._socket}"]
        else:
            words += ["--protocol=tcp", f"--host={section['Host']}", f"--port={section['Port']}"]
            tls = ["--ssl", f"--ssl-ca={section.get('SslCACertificates')}", "--ssl-verify-server-cert"]
            words += tls if section.get("EnableSsl") else ["--skip-ssl"]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
        # A client goes to an editor where it is told to.
        environment |= {"EDITOR": "/bin/false", "VISUAL": "/bin/false"}
        return words, environment | {"MYSQL_PWD": str(section.get("Password", ""))}

    # What is backed up.

    def listed(self, target: pathlib.Path) -> None:
        """Write a list of what it knows."""
        with self.opened() as connection:
            snapshot(connection)
            rows(connection, target)

    def copied(
        self, target: pathlib.Path, limit: float, top: int | None = None, hold: Callable[[str], Any] = lambda name: None
    ) -> tuple[float, dict[str, Any]]:
        """Write a list of what it knows at one moment. Return how long nobody could write to it, and the moment.

        :param top: the last resource of the list before; then its dump of that moment is written beside the list, and
            the files of what has come since are held before anybody may delete them.
        """
        if top is None:
            self.listed(target)
            return 0.0, {}
        version = str(self.asked("SELECT VERSION()")[0])
        if strange := self.asked(STRANGE)[0]:
            raise Failed(f"Tables of the index are not InnoDB's ({strange}), and cannot be had as of one moment.")
        with self.opened() as reading:
            dumped, lasted = self.begun(reading, limit, top, hold)
            try:
                # The server waits a minute for who does not read on.
                with open(os.open(target.with_name(DUMP), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    dumped.finish(file)
                rows(reading, target)
            finally:
                dumped.close()
        return lasted, {"database": self.section["Database"], "version": version}

    def begun(self, reading: Any, limit: float, top: int, hold: Callable[[str], Any]) -> tuple[Dump, float]:
        """Begin a dump, and what we read ourselves, at one moment: as long as we hold two tables, nobody writes."""
        import pymysql

        # So that its program is in memory once others wait for it.
        subprocess.run(["mariadb-dump", "--version"], check=True, capture_output=True)
        for tried in range(ATTEMPTS):
            with self.opened() as holding, holding.cursor() as cursor:
                # If we hang, the server gives them back; and nobody waits for long behind us.
                cursor.execute(f"SET wait_timeout = {max(1, int(limit))}, max_statement_time = {WAITS / 1000}")
                began = time.monotonic()
                try:
                    cursor.execute("LOCK TABLES Resources READ, AttachedFiles READ")
                except pymysql.OperationalError:
                    time.sleep(1 + tried)
                    continue
                cursor.execute("SET max_statement_time = 0")
                snapshot(reading)
                dumped = Dump(self)
                try:
                    if dumped.begins(began + 2 * WAITS / 1000):
                        cursor.execute("SELECT uuid FROM AttachedFiles WHERE id > %s", (top,))
                        for (name,) in cursor.fetchall():
                            if NAME.fullmatch(name):
                                hold(name)
                        # It fails if we took so long that the server has ended it.
                        cursor.execute("UNLOCK TABLES")
                        return dumped, time.monotonic() - began
                except BaseException:
                    dumped.close()
                    raise
                dumped.close()
            time.sleep(1 + tried)
        raise Failed(
            f"Somebody writes to the index all the time, or the database is slow: {ATTEMPTS} times it could not be held"
            " for half a second. Look for what has a transaction open there (SHOW FULL PROCESSLIST)."
        )

    # What is had again.

    def dumped(self, target: pathlib.Path) -> None:
        """Write a dump of a database to which nobody else writes."""
        made = Dump(self)
        try:
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
                made.finish(file)
                os.fsync(file.fileno())
        finally:
            made.close()

    def takes_triggers(self) -> None:
        """See whether what is in a dump can be made here. :raises Failed: if not."""
        if not self.asked(TRUSTED)[0]:
            raise Failed(
                "Nothing was restored: MariaDB keeps a binary log, and lets Orthanc make no trigger. Have its"
                " administrator say SET GLOBAL log_bin_trust_function_creators = 1."
            )

    def loaded(self, dump: pathlib.Path) -> None:
        """Have in the database what a dump has, and nothing else. :raises Failed: if it cannot be read to its end."""
        with self.opened() as connection, connection.cursor() as cursor:
            cursor.execute(THINGS)
            gone = [str(row[0]) for row in cursor.fetchall()]
            cursor.execute("SET foreign_key_checks = 0")
            for statement in gone:
                cursor.execute(statement)
        words, environment = self.login()
        # Whoever had taken Orthanc over may have said what is in it, also to the client, which can do no more than he.
        options = ["--skip-local-infile", "--comments", "--max-allowed-packet=1G"]
        client = subprocess.Popen(
            ["mariadb", *words, *options, self.section["Database"]],
            env=environment,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **mere_user(),
        )
        assert client.stdin
        assert client.stderr
        last = b""
        with contextlib.suppress(BrokenPipeError), open(dump, "rb") as file, client.stdin:
            client.stdin.write(SANDBOX)
            for line in file:
                client.stdin.write(DEFINER.sub(b"", line) if line.startswith(MAKES) else line)
                last = line if line.strip() else last
        said = " ".join(client.stderr.read().decode(errors="replace").split())
        if client.wait() or not last.startswith(ENDED):
            raise Failed(f"The dump of the index cannot be read: {said or 'it has no end'}")


class Dump:
    """A dump that is being made."""

    def __init__(self, index: Mariadb) -> None:
        words, environment = index.login()
        what = ["--single-transaction", "--quick", "--routines", "--triggers", "--no-tablespaces", "--hex-blob"]
        self._process = subprocess.Popen(
            ["mariadb-dump", *words, *what, "--max-allowed-packet=1G", index.section["Database"]],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **mere_user(),
        )
        self._seen = b""

    def begins(self, end: float) -> bool:
        """Wait until it sees the database as it is now, which is before its first table. Return whether it does."""
        assert self._process.stdout
        opened = self._process.stdout.fileno()
        os.set_blocking(opened, False)
        try:
            while BEGUN not in self._seen:
                ended = self._process.poll() is not None
                # None, as long as nothing is there.
                if read_now := self._process.stdout.read(MIB):
                    self._seen += read_now
                elif ended:
                    raise self.failed()
                elif time.monotonic() > end:
                    return False
                else:
                    time.sleep(0.002)
        finally:
            os.set_blocking(opened, True)
        return True

    def finish(self, file: Any) -> None:
        """Write it. :raises Failed: if it does not come to its end."""
        assert self._process.stdout
        file.write(self._seen)
        last = self._seen[-1024:]
        while block := self._process.stdout.read(MIB):
            file.write(block)
            last = (last + block)[-1024:]
        # Its last words come after all of the data.
        if self._process.wait() or not last.strip().rpartition(b"\n")[2].startswith(ENDED):
            raise self.failed()

    def failed(self) -> Failed:
        """Return what it ended with."""
        said = self._process.stderr.read().decode(errors="replace") if self._process.stderr else ""
        return Failed(f"The index could not be dumped: {' '.join(said.split()) or 'the dump has no end'}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()


class Loaded:
    """A server of its own that has read a dump, which nobody but us and Orthanc's user reaches."""

    def __init__(self, settings: dict[str, Any], folder: pathlib.Path, unit: str) -> None:
        self.settings, self.folder, self.unit = settings, folder, unit
        self.sockets = pathlib.Path("/run", unit)

    @functools.cached_property
    def opened(self) -> tuple[int, pathlib.Path]:
        """The folder, which stays root's: Orthanc's user renames nothing there."""
        made = owned(self.folder)
        os.fchown(made[0], -1, grp.getgrnam("orthanc").gr_gid)
        os.fchmod(made[0], 0o710)
        return made

    def index(self, name: str) -> Mariadb:
        return Mariadb(self.settings, str(self.sockets / "socket"), name)

    def restored(self, dump: pathlib.Path, name: str) -> None:
        """Start it, and have it read a dump. :raises Failed: if it cannot."""
        self.clear()
        needed, disk = 3 * dump.stat().st_size, shutil.disk_usage(self.folder)
        if disk.free < needed + max(disk.total // SPARE, 1024 * MIB):
            free = f"whose disk has {disk.free // MIB} MiB free"
            raise Failed(f"To try the index takes {needed // MIB} MiB in {self.folder}, {free}; make room.")
        owner = pwd.getpwnam("orthanc")
        os.mkdir("data", 0o700, dir_fd=self.opened[0])
        os.chown("data", owner.pw_uid, owner.pw_gid, dir_fd=self.opened[0], follow_symlinks=False)
        self.sockets.mkdir(mode=0o700)
        os.chown(self.sockets, 0, owner.pw_gid)
        os.chmod(self.sockets, 0o770)
        install = "mariadb-install-db --no-defaults --auth-root-authentication-method=normal --skip-test-db"
        start = 'exec mariadbd --no-defaults --socket="$2" --pid-file="$2.pid" "${@:3}"'
        properties = ["User=orthanc", "PrivateTmp=yes", "ProtectHome=yes", "PrivateNetwork=yes", "NoNewPrivileges=yes"]
        properties += ["TimeoutStopSec=600", "Nice=10", "CPUWeight=20", "IOSchedulingClass=idle", "OOMScoreAdjust=800"]
        properties += ["ProtectSystem=strict", "InaccessiblePaths=-/etc/pacs"]
        properties += [f"ReadWritePaths={self.folder / 'data'} {self.sockets}"]
        run = ["systemd-run", "--quiet", f"--unit={self.unit}", *(f"--property={one}" for one in properties)]
        run += ["--", "bash", "-euc", f'{install} --datadir="$1"; {start} --datadir="$1"', "bash"]
        run += [str(self.folder / "data"), str(self.sockets / "socket"), *BESIDE]
        subprocess.run(run, check=True, capture_output=True, text=True)
        end = time.monotonic() + STARTS
        while True:
            try:
                with self.index(name).opened(False) as connection, connection.cursor() as cursor:
                    cursor.execute(f"CREATE DATABASE `{name.replace('`', '``')}`")
                break
            except Failed as error:
                asked = ["systemctl", "is-active", self.unit]
                state = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.strip()
                if state not in ("active", "activating") or time.monotonic() > end:
                    raise Failed(
                        f"No MariaDB could be started for a try; see journalctl -u {self.unit}. {error}"
                    ) from error
                time.sleep(0.5)
        self.index(name).loaded(dump)

    def clear(self) -> None:
        """Stop it, and remove what it had."""
        for verb in ("stop", "reset-failed"):
            subprocess.run(["systemctl", verb, self.unit], check=False, capture_output=True)
        with contextlib.suppress(FileNotFoundError):
            emptied(open_folder(self.sockets))
            self.sockets.rmdir()
        emptied(self.opened[0])

    def away(self) -> None:
        self.clear()
        os.rmdir(self.folder)


def mere_user() -> dict[str, Any]:
    """Return how something is run as the user of Orthanc."""
    return {"user": "orthanc", "group": "orthanc", "extra_groups": []}


def snapshot(connection: Any) -> None:
    """Have all that is read from now on be of this moment."""
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")


def rows(connection: Any, target: pathlib.Path) -> None:
    """Write what a transaction sees."""
    import pymysql.cursors

    def of(question: str) -> Iterator[tuple[Any, ...]]:
        with connection.cursor(pymysql.cursors.SSCursor) as cursor:
            cursor.execute(question)
            yield from cursor

    noted(target, of(RESOURCES), of(FILES), of(TAGS))

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The index of an Orthanc, where it is kept: how big it is, what its schema is like, and its dump.

DICOM files in a database are no part of it: nobody has room for a second copy of an archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
import urllib.parse
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.database_answers import TRUST
from ansible_collections.dicom.orthanc.plugins.module_utils.files import Refused, own, remove, sync_folder

# In SQLite, what Orthanc has written into since 1.12.8, and the oldest release that is known to write there then: 1.10
# opens such an index, answers, and refuses every image.
COLUMN, WRITER = "customData", "1.12.7"
# What a plugin keeps of its schema there; others are jobs, modalities and the like, which change while Orthanc works.
PROPERTIES = "property < 20 AND property NOT IN (2, 3, 5)"
FILES = "storagearea"


def copy(source: str, target: str) -> None:
    """Copy a file so that it outlasts a loss of power; what is new is for root alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(source, "rb") as read, os.fdopen(os.open(target, flags, 0o600), "wb") as written:
        shutil.copyfileobj(read, written, 2**20)
        written.flush()
        os.fsync(written.fileno())


def unwritten(version: str, where: str) -> str:
    """Say that a release does not write to an index in SQLite."""
    return (
        f"Orthanc {version} would refuse every image, since {where} has columns that Orthanc adds from 1.12.8 on. Stay"
        f" with {WRITER} or newer, or have the dump back that was made before them (docs/operations.md)."
    )


class Sqlite:
    """An index in SQLite, whose Orthanc is stopped: while it runs, it keeps everybody else off it."""

    NAMES = ("index", "index-wal")

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._uri = f"file:{urllib.parse.quote(os.path.join(folder, 'index'))}"
        self.where = f"the index in {folder}"
        self._seen: list[Any] = []

    def _paths(self, *names: str) -> list[str]:
        return [path for name in names for path in [os.path.join(self._folder, name)] if os.path.exists(path)]

    def size(self) -> int:
        """Return how many bytes a dump takes; nothing where there is no index yet."""
        return sum(map(os.path.getsize, self._paths(*self.NAMES)))

    def check(self) -> None:
        """See whether it can be dumped, while Orthanc runs. :raises Refused: if not."""

    def works(self) -> str:
        """Return how big it is, if Orthanc has written there since this was asked last; else nothing."""
        states = [os.stat(path) for path in self._paths("index", "index-wal", "index-journal")]
        before, self._seen = self._seen, [(state.st_ino, state.st_size, state.st_mtime_ns) for state in states]
        return f"{self.size()} bytes" if before != self._seen else ""

    def revision(self) -> int:
        """Return 1 where it has the columns that Orthanc adds from 1.12.8 on, else 0.

        :raises Refused: if it does not tell.
        """
        if not self._paths("index"):
            return 0
        # Its Orthanc lets nobody in while it runs; what stands in its log alone has the word in it.
        try:
            with contextlib.closing(sqlite3.connect(f"{self._uri}?immutable=1", uri=True)) as connection:
                columns = {row[1] for row in connection.execute("PRAGMA table_info(AttachedFiles)")}
            for path in self._paths("index-wal"):
                with open(path, "rb") as log:
                    columns |= {COLUMN} if f"{COLUMN} BLOB".encode() in log.read() else set()
        except (OSError, sqlite3.Error) as error:
            raise Refused(f"{self.where} cannot be read: {error}.") from error
        return int(COLUMN in columns)

    def schema(self) -> str:
        """Return what tells one schema from another."""
        # A log that a killed Orthanc left is taken in at the end; SQLite gives what it makes to the owner of the index.
        try:
            with contextlib.closing(sqlite3.connect(f"{self._uri}?mode=rw", uri=True)) as connection:
                found = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
                found += connection.execute(f"SELECT * FROM GlobalProperties WHERE {PROPERTIES} ORDER BY 1").fetchall()
        except sqlite3.Error as error:
            raise Refused(f"{self.where} cannot be read: {error}.") from error
        return hashlib.sha256(repr(found).encode()).hexdigest()

    def dump(self, folder: str) -> None:
        """Copy it."""
        for path in self._paths(*self.NAMES):
            copy(path, os.path.join(folder, os.path.basename(path)))

    def restore(self, folder: str) -> None:
        """Have it as it was dumped, with the owner that it has."""
        index = os.path.join(self._folder, "index")
        state = os.stat(index)
        for path in self._paths("index-wal", "index-shm"):
            remove(path)
        for name in self.NAMES:
            source, target = os.path.join(folder, name), os.path.join(self._folder, name)
            if os.path.exists(source):
                copy(source, target)
                opened = os.open(target, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    own(opened, target, (state.st_uid, state.st_gid), state.st_mode & 0o7777)
                finally:
                    os.close(opened)
        sync_folder(self._folder)


class Server:
    """An index on a database server, by the login that Orthanc has. No password is in an argument."""

    PACKAGE = ""
    DUMP = ""
    WORKS = ""

    def __init__(self, module: AnsibleModule, where: str, environment: Mapping[str, str]) -> None:
        self._module, self.where = module, where
        self._environment = {"LC_ALL": "C.UTF-8", **environment}

    def _run(self, *command: str) -> str:
        """Return what a command prints. :raises Refused: if it fails, with what it says."""
        if not self._module.get_bin_path(command[0]):
            raise Refused(f"{self.where}: this host has no {command[0]} (package {self.PACKAGE}).")
        rc, out, err = self._module.run_command(list(command), environ_update=self._environment)
        if rc:
            raise Refused(f"{self.where}: {command[0]} fails: {' '.join(str(err).split())}")
        return str(out)

    def check(self) -> None:
        """See whether it can be dumped, while Orthanc runs. :raises Refused: if not."""
        self.schema()

    def revision(self) -> int:
        """Return the revision of its schema, 0 where it has none yet. :raises Refused: if it does not tell."""
        found = dict(line.split("\t", 1) for line in self._properties().splitlines())
        return int(found.get("4", 0))

    def works(self) -> str:
        """Return what the server does for Orthanc; nothing if it waits for somebody else."""
        try:
            return " ".join(self._ask(self.WORKS).split())
        except Refused:
            # One that is restarted itself does nothing.
            return ""

    def _ask(self, question: str) -> str:
        raise NotImplementedError

    def _tables(self) -> str:
        raise NotImplementedError

    def _properties(self) -> str:
        raise NotImplementedError

    def schema(self) -> str:
        """Return what tells one schema from another."""
        return hashlib.sha256((self._tables() + self._properties()).encode()).hexdigest()

    def restore(self, folder: str) -> None:
        """Have it as it was dumped, and nothing of what came since."""
        self._restore(os.path.join(folder, self.DUMP))

    def _restore(self, path: str) -> None:
        raise NotImplementedError


# All that Orthanc has there but the DICOM files, and nothing of others or of extensions.
POSTGRESQL_GONE = f"""
DO $$ DECLARE gone text; BEGIN
  FOR gone IN SELECT format('DROP TABLE %s CASCADE', oid::regclass) FROM pg_class c
    WHERE relkind IN ('r', 'p') AND relname <> '{FILES}' AND relowner = current_user::regrole
      AND relnamespace = to_regnamespace(quote_ident(current_schema()))
      AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e')
  LOOP EXECUTE gone; END LOOP;
  FOR gone IN SELECT format('DROP ROUTINE %s CASCADE', oid::regprocedure) FROM pg_proc p
    WHERE pronamespace = to_regnamespace(quote_ident(current_schema())) AND proowner = current_user::regrole
      AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
  LOOP EXECUTE gone; END LOOP;
END $$;
"""


# Views and foreign keys of others on what Orthanc has.
POSTGRESQL_OTHERS = """
SELECT string_agg(DISTINCT other.oid::regclass::text, ', ') FROM (
  SELECT refobjid AS mine, ev_class AS theirs FROM pg_depend JOIN pg_rewrite r ON r.oid = objid
    WHERE classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass
  UNION SELECT confrelid, conrelid FROM pg_constraint WHERE contype = 'f'
) AS pairs JOIN pg_class own ON own.oid = mine JOIN pg_class other ON other.oid = theirs
WHERE own.relowner = current_user::regrole AND other.relowner <> current_user::regrole
"""


class Postgresql(Server):
    """An index in PostgreSQL."""

    PACKAGE, DUMP = "postgresql-client", "index.dump"
    WORKS = (
        "SELECT format('for %s: %s', clock_timestamp() - query_start, left(query, 100)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
        " AND state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock' LIMIT 1"
    )

    def __init__(self, module: AnsibleModule, section: Mapping[str, Any]) -> None:
        """:raises Refused: where the section has no URI as the role writes it."""
        found = re.fullmatch(r"(\w+://[^:@/]*):([^@]*)(@(.*?)(:\d+)?/(\w+).*)", str(section.get("ConnectionUri", "")))
        if not found:
            raise Refused("PostgreSQL.ConnectionUri is none that has user, password, server and database.")
        # With the name of a host, Debian's wrapper takes the newest client.
        environment = {"PGPASSWORD": urllib.parse.unquote(found[2]), "PGHOST": found[4], "PGCONNECT_TIMEOUT": "10"}
        environment["PGOPTIONS"] = "-c client_min_messages=warning"
        super().__init__(module, f"the database {found[6]} on {found[4]}", environment)
        self._uri, self._user = found[1] + found[3], found[1].partition("://")[2]

    def _ask(self, question: str) -> str:
        options = ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--field-separator=\t"]
        return self._run("psql", *options, f"--command={question}", self._uri)

    def size(self) -> int:
        """Return how many bytes a dump takes at most; nothing where there is no index yet."""
        size = self._ask(
            "SELECT COALESCE(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relkind = 'r'"
            f" AND relnamespace = to_regnamespace(quote_ident(current_schema())) AND relname <> '{FILES}'"
        )
        return int(size)

    def _dump(self, *options: str) -> str:
        # The files are large objects, which a table names.
        return self._run("pg_dump", f"--exclude-table={FILES}", "--no-blobs", *options, self._uri)

    def check(self) -> None:
        super().check()
        others = self._ask(POSTGRESQL_OTHERS).strip()
        if others:
            raise Refused(
                f"{self.where} has objects of others that hang on Orthanc's tables, and would go with them: {others}."
                " Have them taken out until the other release is proved."
            )

    def _tables(self) -> str:
        # What others have there is no part of it, nor an extension, which harms no other release. With each call, newer
        # ones have another word there that lets no dump end early.
        objects = re.split(r"(?m)^--\n-- (?=Name: )", self._dump("--schema-only"))
        own = re.compile(rf"Name: .*Type: (?!ACL;).* Owner: {re.escape(self._user)}(;|$)")
        lines = "".join(part for part in objects if own.match(part.partition("\n")[0])).splitlines()
        besides = ("\\restrict ", "\\unrestrict ", "--", "Name: ")
        return "\n".join(line for line in lines if line and not line.startswith(besides))

    def _properties(self) -> str:
        there = self._ask("SELECT to_regclass('globalproperties')").strip()
        where = f"SELECT property, value FROM globalproperties WHERE {PROPERTIES} ORDER BY property, value"
        return self._ask(where) if there else ""

    def dump(self, folder: str) -> None:
        """Dump it. Little is gained by what compresses it more, for a multiple of the time."""
        self._dump("--format=custom", "--compress=1", f"--file={os.path.join(folder, self.DUMP)}")

    def _restore(self, path: str) -> None:
        # In one transaction, which ends well only if all of the dump could be read. What others have there has stayed.
        # From 17 on pg_restore sets, before any data, what servers up to 16 do not know.
        script = (
            '{ echo "BEGIN; $3"; pg_restore --list "$1" | grep " $4\\$"'
            ' | pg_restore --no-owner --use-list=/dev/stdin --file=- "$1" && echo "COMMIT;"; }'
            " | sed '1,40 { /^SET transaction_timeout = 0;$/d; }'"
            ' | psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --output=/dev/null "$2"'
        )
        self._run("sh", "-euc", script, "sh", path, self._uri, POSTGRESQL_GONE, self._user)


# In whose name a trigger or a routine works. Nobody may make one in the name of another, be it of the same user from
# another address.
DEFINER = r" ?DEFINER=`[^`'\"\\]*`@`[^`'\"\\]*`"


class Mysql(Server):
    """An index in MariaDB or MySQL."""

    PACKAGE, DUMP = "mariadb-client", "index.sql"
    WORKS = (
        "SELECT CONCAT('for ', TIME, ' s: ', COALESCE(LEFT(INFO, 100), COMMAND)) FROM information_schema.PROCESSLIST"
        " WHERE DB = DATABASE() AND ID <> CONNECTION_ID() AND COMMAND NOT IN ('Sleep', 'Daemon')"
        " AND LOWER(COALESCE(STATE, '')) NOT LIKE '%lock%' LIMIT 1"
    )

    def __init__(self, module: AnsibleModule, section: Mapping[str, Any]) -> None:
        name, host = str(section.get("Database", "")), str(section.get("Host", ""))
        environment = {"MYSQL_PWD": str(section.get("Password", ""))}
        # What stands in a dump may tell a client to go to an editor, or to read files of its own user.
        environment |= {"EDITOR": "/bin/false", "VISUAL": "/bin/false"}
        super().__init__(module, f"the database {name} on {host}", environment)
        tls = ["--ssl", f"--ssl-ca={section.get('SslCACertificates')}", "--ssl-verify-server-cert"]
        login = [f"--host={host}", f"--port={section.get('Port', 3306)}", f"--user={section.get('Username', '')}"]
        self._name, self._login = name, ["--no-defaults", "--protocol=tcp", *login]
        self._login += tls if section.get("EnableSsl") else ["--skip-ssl"]

    def _ask(self, question: str) -> str:
        return self._run("mariadb", *self._login, "--batch", "--skip-column-names", f"--execute={question}", self._name)

    def size(self) -> int:
        """Return how many bytes a dump takes, more or less; nothing where there is no index yet."""
        return int(
            self._ask(
                "SELECT COALESCE(SUM(DATA_LENGTH + INDEX_LENGTH), 0) FROM information_schema.TABLES"
                f" WHERE TABLE_SCHEMA = DATABASE() AND LOWER(TABLE_NAME) <> '{FILES}'"
            ).partition(".")[0]
        )

    def _dump(self, *options: str) -> str:
        what = ["--single-transaction", "--quick", "--routines", "--triggers", "--no-tablespaces", "--hex-blob"]
        without = f"--ignore-table={self._name}.StorageArea"
        return self._run("mariadb-dump", *self._login, *what, without, *options, self._name)

    def check(self) -> None:
        super().check()
        rows = (line.split("\t") for line in self._ask("SHOW GLOBAL VARIABLES LIKE 'log_bin%'").splitlines())
        found = {row[0]: row[-1] for row in rows}
        if (found.get("log_bin"), found.get("log_bin_trust_function_creators")) == ("ON", "OFF"):
            raise Refused(
                f"{self.where} keeps a binary log, and lets Orthanc make no trigger: neither the other release nor the"
                f" index that comes back could have its own. Have the server's administrator say: {TRUST}"
            )

    def _tables(self) -> str:
        told = self._dump("--no-data", "--skip-comments", "--skip-dump-date")
        return re.sub(rf" AUTO_INCREMENT=\d+|(?m:^--.*\n)|{DEFINER}", "", told)

    def _properties(self) -> str:
        there = self._ask("SHOW TABLES LIKE 'GlobalProperties'").strip()
        where = f"SELECT property, value FROM GlobalProperties WHERE {PROPERTIES} ORDER BY property, value"
        return self._ask(where) if there else ""

    def dump(self, folder: str) -> None:
        """Dump it."""
        self._dump(f"--result-file={os.path.join(folder, self.DUMP)}")

    def _restore(self, path: str) -> None:
        gone = self._ask(
            "SELECT CONCAT('DROP TABLE `', TABLE_NAME, '`;') FROM information_schema.TABLES"
            f" WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE' AND LOWER(TABLE_NAME) <> '{FILES}'"
            " UNION ALL SELECT CONCAT('DROP ', ROUTINE_TYPE, ' `', ROUTINE_NAME, '`;') FROM information_schema.ROUTINES"
            " WHERE ROUTINE_SCHEMA = DATABASE()"
        )
        # Data stand in other lines.
        mine = rf"/^(\/\*M?!|CREATE )/ s/{DEFINER}//"
        script = '{ echo "SET foreign_key_checks = 0; $2"; LC_ALL=C sed -E "$3" "$1"; } | { shift 3; mariadb "$@"; }'
        # The comments in triggers are part of them.
        self._run(
            "sh", "-euc", script, "sh", path, gone, mine, *self._login, "--comments", "--skip-local-infile", self._name
        )


Index = Sqlite | Postgresql | Mysql


def index_of(module: AnsibleModule, database: str, settings: Mapping[str, Any]) -> Index:
    """Return the index of an Orthanc with these settings. :raises Refused: where they do not tell."""
    if database == "postgresql":
        return Postgresql(module, settings.get("PostgreSQL") or {})
    if database == "mysql":
        return Mysql(module, settings.get("MySQL") or {})
    return Sqlite(str(settings.get("IndexDirectory") or settings.get("StorageDirectory") or ""))

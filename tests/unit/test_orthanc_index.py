"""The index of an Orthanc and its dump: SQLite for real, the servers by programs that stand in for their clients."""

from __future__ import annotations

import os
import pathlib
import sqlite3
import stat
import subprocess
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.files import Refused
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_index import Mysql, Postgresql, Sqlite, index_of

SECRET = "p w'\"@/%"
URI = "postgresql://orthanc:p%20w%27%22%40%2F%25@db.example:5433/pacs?sslmode=disable"


class Host:
    """What the servers' classes use of a module: its programs are scripts in a folder, and what they get is kept."""

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        self.calls: list[list[str]] = []

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
        path.chmod(0o755)

    def get_bin_path(self, name: str) -> str | None:
        path = self.folder / name
        return str(path) if path.exists() else "/bin/sh" if name == "sh" else None

    def run_command(self, command: list[str], environ_update: dict[str, str]) -> tuple[int, str, str]:
        self.calls.append(command)
        done = subprocess.run(command, env=os.environ | environ_update, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path / "bin", monkeypatch)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with an index of SQLite, and one for its dump."""
    made = tmp_path / "db"
    made.mkdir()
    (tmp_path / "dump").mkdir()
    with sqlite3.connect(made / "index") as connection:
        connection.executescript(
            "CREATE TABLE GlobalProperties (property INTEGER PRIMARY KEY, value TEXT);"
            "INSERT INTO GlobalProperties VALUES (1, '6'), (5, 'jobs'), (6, '1');"
        )
    connection.close()
    (made / "index").chmod(0o640)
    return made


def execute(folder: pathlib.Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "index")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_schema_is_tables_and_what_plugins_keep_of_it(folder: pathlib.Path) -> None:
    index = Sqlite(str(folder))
    before = index.schema()
    execute(folder, "UPDATE GlobalProperties SET value = 'others' WHERE property = 5")
    assert index.schema() == before, "jobs come and go"
    execute(folder, "INSERT INTO GlobalProperties VALUES (4, '2')")
    raised = index.schema()
    assert raised != before
    execute(folder, "CREATE TABLE Labels (id INTEGER)")
    assert index.schema() not in (before, raised)
    assert index.revision() == 0
    assert sorted(os.listdir(folder)) == ["index"]


def test_columns_of_newer_releases_are_seen_while_orthanc_keeps_others_off(folder: pathlib.Path) -> None:
    index = Sqlite(str(folder))
    execute(folder, "CREATE TABLE AttachedFiles (id INTEGER, compressedMD5 TEXT)")
    assert (index.revision(), Sqlite(str(folder / "none")).revision()) == (0, 0)
    theirs = sqlite3.connect(folder / "index", isolation_level=None)
    theirs.execute("PRAGMA locking_mode = EXCLUSIVE")
    theirs.execute("PRAGMA journal_mode = WAL")
    theirs.execute("ALTER TABLE AttachedFiles ADD COLUMN customData BLOB")
    assert index.revision() == 1, "in the log alone"
    theirs.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    theirs.execute("INSERT INTO AttachedFiles VALUES (1, '', '')")
    assert index.revision() == 1
    theirs.close()
    assert index.revision() == 1
    (folder / "index").write_bytes(b"no database")
    with pytest.raises(Refused, match="/db cannot be read: file is not a database"):
        index.revision()


def test_orthanc_that_works_on_its_index_writes_there(folder: pathlib.Path) -> None:
    index = Sqlite(str(folder))
    size = index.size()
    assert [index.works(), index.works()] == [f"{size} bytes", ""]
    (folder / "index-wal").write_bytes(b"x")
    assert [index.works(), index.works()] == [f"{size + 1} bytes", ""]
    os.utime(folder / "index", (1, 1))
    assert [index.works(), index.works()] == [f"{size + 1} bytes", ""]


def test_index_comes_back_as_it_was(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    index, dump = Sqlite(str(folder)), str(tmp_path / "dump")
    before, content = index.schema(), (folder / "index").read_bytes()
    index.dump(dump)
    assert stat.S_IMODE(os.stat(tmp_path / "dump" / "index").st_mode) == 0o600
    execute(folder, "CREATE TABLE Labels (id INTEGER)")
    for name in ("index-wal", "index-shm"):
        (folder / name).write_bytes(b"of the new release")
    index.restore(dump)
    assert (folder / "index").read_bytes() == content
    assert index.schema() == before
    assert sorted(os.listdir(folder)) == ["index"]
    assert stat.S_IMODE((folder / "index").stat().st_mode) == 0o640


def test_log_of_an_orthanc_that_was_killed_is_part_of_the_dump(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    index = Sqlite(str(folder))
    size = index.size()
    (folder / "index-wal").write_bytes(b"x" * 100)
    assert index.size() == size + 100
    index.dump(str(tmp_path / "dump"))
    (folder / "index-wal").unlink()
    index.restore(str(tmp_path / "dump"))
    assert (folder / "index-wal").read_bytes() == b"x" * 100
    assert stat.S_IMODE((folder / "index-wal").stat().st_mode) == 0o640


def test_index_that_is_not_there_or_spoilt(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert Sqlite(str(tmp_path / "dump")).size() == 0
    (folder / "index").write_bytes(b"nothing of SQLite's" * 100)
    with pytest.raises(Refused, match=f"^the index in {folder} cannot be read: file is not a database"):
        Sqlite(str(folder)).schema()


@pytest.mark.parametrize(
    "database, settings, kind, where",
    [
        ("sqlite", {"StorageDirectory": "/s"}, Sqlite, "the index in /s"),
        ("sqlite", {"StorageDirectory": "/s", "IndexDirectory": "/i"}, Sqlite, "the index in /i"),
        ("postgresql", {"PostgreSQL": {"ConnectionUri": URI}}, Postgresql, "the database pacs on db.example"),
        ("mysql", {"MySQL": {"Host": "db", "Database": "pacs"}}, Mysql, "the database pacs on db"),
    ],
)
def test_where_the_index_is(host: Host, database: str, settings: dict[str, Any], kind: type, where: str) -> None:
    found = index_of(host, database, settings)
    assert (type(found), found.where) == (kind, where)


@pytest.mark.parametrize("section", [{}, {"Host": "db"}, {"ConnectionUri": "postgresql://db/pacs"}])
def test_uri_of_others_is_not_understood(host: Host, section: dict[str, str]) -> None:
    with pytest.raises(Refused, match=r"^PostgreSQL\.ConnectionUri is none that has user, password"):
        Postgresql(host, section)


def servers(host: Host) -> dict[str, Postgresql | Mysql]:
    tls = {"EnableSsl": True, "SslCACertificates": "/ca.crt"}
    login = {"Host": "db.example", "Port": 3307, "Database": "pacs", "Username": "orthanc", "Password": SECRET}
    return {
        "postgresql": Postgresql(host, {"ConnectionUri": URI}),
        "mysql": Mysql(host, login | tls),
    }


# Each says what is asked of it, and what password it has got.
ASKED = """
case "$*" in
*to_regclass*|*"SHOW TABLES"*) cat there ;;
*"property < 20"*) cat properties ;;
*pg_stat_activity*|*PROCESSLIST*) [ ! -e busy ] || echo "for 3 s:  ALTER" ;;
*"relation_size"*|*DATA_LENGTH*) echo 4096 ;;
*"DROP TABLE"*) echo "DROP TABLE \\`Labels\\`;" ;;
esac
"""


@pytest.fixture(params=["postgresql", "mysql"])
def server(host: Host, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Postgresql | Mysql:
    monkeypatch.chdir(host.folder)
    for name, text in {"there": "globalproperties", "properties": "1\t6\n4\t7\n", "tables": "CREATE a;\n"}.items():
        (host.folder / name).write_text(text, "utf-8")
    known = '[ "${PGPASSWORD:-$MYSQL_PWD}" = "$(cat secret)" ] || { echo "who are you?" >&2; exit 1; }\n'
    (host.folder / "secret").write_text(SECRET, "utf-8")
    # Without a question they are given a script.
    asked = f'{known}case "$*" in *--command*|*--execute*) ;; *) cat > script; exit ;; esac\n{ASKED}'
    for name in ("psql", "mariadb"):
        host.program(name, asked)
    dump = (
        f'{known}for word; do case $word in --file=*|--result-file=*) echo "data" > "${{word#*=}}"; exit ;; esac; done;'
        ' echo "-- at $$"; cat tables'
    )
    host.program("mariadb-dump", dump)
    # As those of PostgreSQL do from 2025 on.
    host.program("pg_dump", f"{dump}; printf '%s %s\\n' '\\restrict' $$")
    # Of what it lists, it is to take what is Orthanc's.
    restore = (
        "if [ $1 = --list ]; then echo '1; TABLE public resources orthanc'; echo '2; EXTENSION - pg_trgm '; exit; fi;"
        ' cat > list; for last; do true; done; cat "$last"; [ ! -e unreadable ]'
    )
    host.program("pg_restore", restore)
    return servers(host)[request.param]


def test_server_is_asked_without_its_password_in_an_argument(
    server: Postgresql | Mysql, host: Host, tmp_path: pathlib.Path
) -> None:
    server.check()
    assert (server.size(), server.revision()) == (4096, 7)
    server.dump(str(tmp_path))
    server.restore(str(tmp_path))
    words = [word for call in host.calls for word in call]
    assert not [word for word in words if "p w" in word or "p%20w" in word]
    assert "--exclude-table=storagearea" in words or "--ignore-table=pacs.StorageArea" in words
    assert not [call for call in host.calls if call[0] == "mariadb" and "--ssl-ca=/ca.crt" not in call]


def test_schema_of_a_server(server: Postgresql | Mysql, host: Host) -> None:
    before = server.schema()
    assert server.schema() == before, "what is another word in each dump is none of it"
    (host.folder / "properties").write_text("1\t6\n4\t8\n", "utf-8")
    assert server.schema() != before
    (host.folder / "properties").write_text("1\t6\n4\t7\n", "utf-8")
    (host.folder / "tables").write_text(named("a", "CREATE a;") + named("labels", "CREATE labels;"), "utf-8")
    assert server.schema() != before
    (host.folder / "there").write_text("", "utf-8")
    assert server.revision() == 0, "a database in which nothing is yet"


def named(name: str, text: str, owner: str = "orthanc") -> str:
    """Return what pg_dump says of an object; to the other client it is a comment before it."""
    return f"--\n-- Name: {name}; Type: TABLE; Schema: public; Owner: {owner}\n--\n\n{text}\n\n\n"


def test_what_others_have_in_postgresql_is_no_schema(server: Postgresql | Mysql, host: Host) -> None:
    if isinstance(server, Postgresql):
        mine = named("a", "CREATE a;") + named("b", "CREATE b;")
        (host.folder / "tables").write_text(mine, "utf-8")
        before = server.schema()
        grant = named("TABLE a", "GRANT SELECT ON a TO bi;").replace("Type: TABLE", "Type: ACL")
        (host.folder / "tables").write_text(named("v", "CREATE v;", "bi") + mine + grant, "utf-8")
        assert server.schema() == before
        (host.folder / "tables").write_text(mine.replace("CREATE b", "CREATE other"), "utf-8")
        assert server.schema() != before


def test_what_a_way_back_would_break_is_refused_before(server: Postgresql | Mysql, host: Host) -> None:
    """Views of others on Orthanc's tables; triggers that nobody could make again."""
    server.check()
    for name in ("psql", "mariadb"):
        program = host.folder / "bin" / name if (host.folder / "bin").exists() else host.folder / name
        text = program.read_text("utf-8")
        found = """case "$*" in *pg_rewrite*) echo bi.images; exit ;; *log_bin*) cat log; exit ;; esac\n"""
        program.write_text(text.replace("#!/bin/sh\n", f"#!/bin/sh\n{found}", 1), "utf-8")
    (host.folder / "log").write_text("log_bin\tON\nlog_bin_trust_function_creators\tOFF\n", "utf-8")
    with pytest.raises(Refused, match=r"objects of others .* bi\.images|SET GLOBAL log_bin_trust"):
        server.check()
    if isinstance(server, Mysql):
        (host.folder / "log").write_text("log_bin\tON\nlog_bin_trust_function_creators\tON\n", "utf-8")
        server.check()


def test_server_that_works_for_orthanc(server: Postgresql | Mysql, host: Host) -> None:
    assert server.works() == ""
    (host.folder / "busy").touch()
    assert server.works() == "for 3 s: ALTER"
    (host.folder / "secret").write_text("another", "utf-8")
    assert server.works() == "", "one that does not answer does not work"


def test_next_number_is_no_schema(server: Postgresql | Mysql, host: Host) -> None:
    """MariaDB's dump has it in the table."""
    if isinstance(server, Mysql):
        found = set()
        for number in (3, 40):
            (host.folder / "tables").write_text(f"ENGINE=InnoDB AUTO_INCREMENT={number} DEFAULT\n", "utf-8")
            found.add(server.schema())
        assert len(found) == 1


def test_maker_is_no_schema_and_comes_not_back(server: Postgresql | Mysql, host: Host, tmp_path: pathlib.Path) -> None:
    """MariaDB lets nobody make a trigger in the name of the same user from another address. Data are left alone."""
    if isinstance(server, Mysql):
        made = "/*!50003 CREATE*/ /*!50017 DEFINER=`o`@`{}`*/ /*!50003 TRIGGER\nCREATE DEFINER=`o`@`{}` PROCEDURE\n"
        found = set()
        for address in ("localhost", "%"):
            (host.folder / "tables").write_text(made.replace("{}", address), "utf-8")
            found.add(server.schema())
        assert len(found) == 1
        data = "INSERT INTO a VALUES (' DEFINER=`o`@`%`');\n"
        (tmp_path / "index.sql").write_text(made + data, "utf-8")
        server.restore(str(tmp_path))
        script = (host.folder / "script").read_text("utf-8")
        assert script.endswith("\n/*!50003 CREATE*/ /*!50017*/ /*!50003 TRIGGER\nCREATE PROCEDURE\n" + data)


def test_extension_is_no_schema(server: Postgresql | Mysql, host: Host) -> None:
    """One that a newer plugin of PostgreSQL has made stays where its tables go back."""
    if isinstance(server, Postgresql):
        before = server.schema()
        text = (host.folder / "tables").read_text("utf-8")
        made = "--\n\nCREATE EXTENSION IF NOT EXISTS pg_trgm;\n\n\n--\nCOMMENT ON EXTENSION pg_trgm IS 'x';\n"
        (host.folder / "tables").write_text(made + text, "utf-8")
        assert server.schema() == before


def test_all_goes_that_came_since(server: Postgresql | Mysql, host: Host, tmp_path: pathlib.Path) -> None:
    server.dump(str(tmp_path))
    server.restore(str(tmp_path))
    script = (host.folder / "script").read_text("utf-8")
    first, _, rest = script.partition("data\n")
    assert "DROP TABLE" in first
    if isinstance(server, Postgresql):
        assert first.startswith("BEGIN; ")
        assert rest == "COMMIT;\n"
        assert (host.folder / "list").read_text("utf-8") == "1; TABLE public resources orthanc\n"


def test_dump_that_cannot_be_read_to_its_end_is_no_transaction(
    server: Postgresql | Mysql, host: Host, tmp_path: pathlib.Path
) -> None:
    if isinstance(server, Postgresql):
        server.dump(str(tmp_path))
        (host.folder / "unreadable").touch()
        server.restore(str(tmp_path))
        assert "COMMIT" not in (host.folder / "script").read_text("utf-8")


def test_server_that_refuses(server: Postgresql | Mysql, host: Host) -> None:
    (host.folder / "secret").write_text("another", "utf-8")
    with pytest.raises(Refused, match=r"^the database pacs on db\.example: \S+ fails: who are you\?$"):
        server.check()


def test_client_that_is_missing(server: Postgresql | Mysql, host: Host) -> None:
    for name in ("pg_dump", "mariadb-dump"):
        (host.folder / name).unlink()
    with pytest.raises(
        Refused, match=r"this host has no (pg_dump|mariadb-dump) \(package (postgresql|mariadb)-client\)"
    ):
        server.check()

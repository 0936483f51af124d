"""What backs up an index in MariaDB, with stand-ins for the server and for its clients."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import ssl
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.test_backup import (  # noqa: F401
    Host,
    archive,
    backed,
    host,
    orthanc,
    program,
    restored,
    services,
)

NAMES = [f"0000000{number}-0000-4000-8000-000000000001" for number in range(4)]
PASSWORD = "quite $secret \u4e00"
# What the clients of MariaDB do in its place, with the password that they are given.
CLIENTS = {
    "mariadb-dump": """[ "$1" != --version ] || exit 0
echo "$MYSQL_PWD $*" >> "$SAID"; sleep {delay}; cat "$DUMP"; echo {said} >&2; exit {code}""",
    "mariadb": 'echo "$MYSQL_PWD $*" >> "$SAID"; cat > "$SAID.in"; echo {said} >&2; exit {code}',
}
DUMP = """-- MariaDB dump
CREATE TABLE `AttachedFiles` (x int);
INSERT INTO `AttachedFiles` VALUES ('CREATE DEFINER=`a`@`b` of an image');
/*!50003 CREATE*/ /*!50017 DEFINER=`orthanc`@`10.0.0.1`*/ /*!50003 TRIGGER x */;;
CREATE DEFINER=`orthanc`@`%` PROCEDURE `y`()
-- Dump completed on 2026-11-30
"""


class Error(Exception):
    pass


class Server:
    """Stands in for MariaDB, as its driver reaches it: keeps in which order it was asked for what."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.logins: list[dict[str, Any]] = []
        self.busy = 0
        # What it answers with an error.
        self.fails = ""
        self.strange: str | None = None

    def connect(self, **given: Any) -> Any:
        self.logins.append(given)
        return Connection(self)


class Connection:
    def __init__(self, server: Server) -> None:
        self.server = server

    @contextlib.contextmanager
    def cursor(self, _kind: Any = None) -> Iterator[Any]:
        yield Cursor(self.server)

    def close(self) -> None:
        self.server.asked.append("close")


class Cursor:
    def __init__(self, server: Server) -> None:
        self.server, self.rows = server, list[tuple[Any, ...]]()

    def execute(self, question: str, given: Any = ()) -> int:
        server, words = self.server, question.split()
        server.asked.append(question)
        if words[0] == "LOCK" and server.busy:
            server.busy -= 1
            raise sys.modules["pymysql"].OperationalError(1969, "Query execution was interrupted")
        if server.fails and question.startswith(server.fails):
            raise sys.modules["pymysql"].OperationalError(2013, "Lost connection")
        self.rows = []
        if "FROM Resources" in question:
            self.rows = [(number + 1, 4, f"owner-{number}", None) for number in range(4)]
        elif "FROM MainDicomTags" in question:
            self.rows = [(1, 16, 32, "PATIENT")]
        elif question.startswith("SELECT id, fileType"):
            self.rows = [(number + 1, 1, name, 7, "", None) for number, name in enumerate(NAMES)]
        elif given:
            self.rows = [(name,) for name in [*NAMES[given[0] :], "../../etc/passwd"]]
        elif "information_schema.ROUTINES" in question:
            self.rows = [("DROP TABLE `Changes`",), ("DROP PROCEDURE `y`",)]
        elif "ENGINE" in question:
            self.rows = [(server.strange,)]
        elif words[0] == "SELECT":
            self.rows = [(1,)]
        return len(self.rows)

    def fetchone(self) -> tuple[Any, ...]:
        return self.rows[0]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made, driver, cursors = Server(), types.ModuleType("pymysql"), types.ModuleType("pymysql.cursors")
    driver.__dict__.update(connect=made.connect, Error=Error, OperationalError=type("E", (Error,), {}), cursors=cursors)
    cursors.__dict__.update(SSCursor=None)
    monkeypatch.setitem(sys.modules, "pymysql", driver)
    monkeypatch.setitem(sys.modules, "pymysql.cursors", cursors)
    return made


class Clients:
    """What stands in for the clients of MariaDB."""

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.said, self.dump = folder, folder / "said", folder / "dump"
        self.dump.write_text(DUMP, "utf-8")
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        for name in CLIENTS:
            self.does(name)

    def does(self, name: str, delay: float = 0, said: str = "", code: int = 0) -> None:
        text = CLIENTS[name].format(delay=delay, said=said, code=code)
        text = text.replace("$SAID", str(self.said)).replace("$DUMP", str(self.dump))
        (self.folder / name).write_text(f"#!/bin/sh\n{text}\n", "utf-8")
        (self.folder / name).chmod(0o755)


@pytest.fixture
def clients(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Clients:
    folder = tmp_path / "clients"
    folder.mkdir()
    return Clients(folder, monkeypatch)


@pytest.fixture
def index(
    program: Any,  # noqa: F811
    server: Server,
    clients: Clients,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    section = {"Host": "127.0.0.1", "Port": 3306, "Username": "orthanc", "Password": PASSWORD, "Database": "archive"}
    (tmp_path / "mysql.json").write_text(json.dumps({"MySQL": section}), "utf-8")
    # Nobody is called so here.
    monkeypatch.setattr(program, "mere_user", dict)
    # However long a dump takes to begin on a busy machine.
    monkeypatch.setattr(program, "WAITS", 60_000)
    return program.Mariadb({"config_dir": str(tmp_path)})


def test_list_and_dump_are_of_the_moment_at_which_nobody_writes(
    program: Any,  # noqa: F811
    index: Any,
    server: Server,
    clients: Clients,
    tmp_path: pathlib.Path,
) -> None:
    """And what has come is held before anybody may delete it."""
    held: list[str] = []

    def hold(name: str) -> None:
        held.append(name)
        server.asked.append(f"hold {name}")

    list_of_it = tmp_path / "index"
    lasted, moment = index.copied(list_of_it, 10, 2, hold)
    assert lasted > 0
    assert moment["database"] == "archive"
    assert held == NAMES[2:]
    order = server.asked
    locked, freed = order.index("LOCK TABLES Resources READ, AttachedFiles READ"), order.index("UNLOCK TABLES")
    assert locked < order.index("START TRANSACTION WITH CONSISTENT SNAPSHOT") < freed
    assert all(locked < order.index(f"hold {name}") < freed for name in held)
    # Long lists are none of their business.
    assert freed < next(number for number, question in enumerate(order) if question.startswith("SELECT id, fileType"))
    counts = program.check_index(list_of_it)
    assert (counts["instances"], counts["files"], counts["bytes"]) == (4, 4, 28)
    assert (tmp_path / "index.sql").read_text("utf-8") == DUMP
    # Who looks at the processes of the host does not see the password.
    said = clients.said.read_text("utf-8")
    assert said.startswith(f"{PASSWORD} --no-defaults --user=orthanc --protocol=tcp --host=127.0.0.1 --port=3306")
    assert "--single-transaction" in said
    assert said.count(PASSWORD) == 1


def test_first_list_makes_nobody_wait(index: Any, server: Server, clients: Clients, tmp_path: pathlib.Path) -> None:
    assert index.copied(tmp_path / "index", 10) == (0.0, {})
    assert not [question for question in server.asked if question.startswith("LOCK")]
    assert not clients.said.exists()


def test_images_do_not_wait_for_who_writes_for_long(
    program: Any,  # noqa: F811
    index: Any,
    server: Server,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program, "ATTEMPTS", 3)
    slept: list[float] = []
    monkeypatch.setattr(program.time, "sleep", slept.append)
    server.busy = 3
    with pytest.raises(program.Failed, match="3 times it could not be held"):
        index.copied(tmp_path / "index", 10, 2)
    assert any("max_statement_time = 60.0" in question for question in server.asked)
    # Each time it lets go before it waits.
    assert server.asked.count("close") >= 3
    server.busy = 2
    index.copied(tmp_path / "index", 10, 2)


def test_images_do_not_wait_for_a_dump_that_does_not_begin(
    program: Any,  # noqa: F811
    index: Any,
    server: Server,
    clients: Clients,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program, "ATTEMPTS", 2)
    monkeypatch.setattr(program, "WAITS", 50)
    clients.does("mariadb-dump", delay=30)
    with pytest.raises(program.Failed, match="2 times it could not be held"):
        index.copied(tmp_path / "index", 10, 2)
    assert server.asked.count("LOCK TABLES Resources READ, AttachedFiles READ") == 2
    assert not (tmp_path / "index.sql").exists()


def test_tables_that_the_server_has_given_back(
    program: Any,  # noqa: F811
    index: Any,
    server: Server,
    tmp_path: pathlib.Path,
) -> None:
    server.fails = "UNLOCK"
    with pytest.raises(program.Failed, match="Lost connection"):
        index.copied(tmp_path / "index", 10, 2)


@pytest.mark.parametrize(
    "dump, said, code, part",
    [
        (DUMP.replace("-- Dump completed", "-- Dump"), "", 0, "the dump has no end"),
        (DUMP, "Got error 2013 Lost connection", 2, "Got error 2013"),
        # An image may have these words.
        (DUMP.replace("-- Dump completed on 2026-11-30\n", "INSERT '-- Dump completed'"), "", 0, "has no end"),
        ("", "Access denied", 2, "Access denied"),
    ],
)
def test_dump_that_has_no_end(
    program: Any,  # noqa: F811
    index: Any,
    clients: Clients,
    tmp_path: pathlib.Path,
    dump: str,
    said: str,
    code: int,
    part: str,
) -> None:
    clients.dump.write_text(dump, "utf-8")
    clients.does("mariadb-dump", said=f"'{said}'", code=code)
    with pytest.raises(program.Failed, match=f"could not be dumped: .*{part}"):
        index.copied(tmp_path / "index", 10, 2)


def test_dump_takes_the_place_of_what_is_there(index: Any, server: Server, clients: Clients) -> None:
    """In the name of who reads it, and by a client that runs nothing, whatever stands in it."""
    index.loaded(clients.dump)
    drops = [question for question in server.asked if question.startswith(("DROP", "SET foreign"))]
    assert drops == ["SET foreign_key_checks = 0", "DROP TABLE `Changes`", "DROP PROCEDURE `y`"]
    said = clients.said.read_text("utf-8")
    assert "--skip-local-infile" in said
    assert said.endswith(" archive\n")
    sandbox, *read = clients.said.with_name("said.in").read_text("utf-8").splitlines()
    assert sandbox == "/*M!999999\\- enable the sandbox mode */"
    assert read[2] == "INSERT INTO `AttachedFiles` VALUES ('CREATE DEFINER=`a`@`b` of an image');"
    assert read[3] == "/*!50003 CREATE*/ /*!50017*/ /*!50003 TRIGGER x */;;"
    assert read[4] == "CREATE PROCEDURE `y`()"


@pytest.mark.parametrize(
    "dump, code, part", [(DUMP, 1, "ERROR 1064 at line 3"), (DUMP.replace("-- Dump completed", "--"), 0, "has no end")]
)
def test_dump_that_cannot_be_read(
    program: Any,  # noqa: F811
    index: Any,
    clients: Clients,
    dump: str,
    code: int,
    part: str,
) -> None:
    clients.dump.write_text(dump, "utf-8")
    clients.does("mariadb", said="ERROR 1064 at line 3" if code else "", code=code)
    with pytest.raises(program.Failed, match=f"cannot be read: .*{part}"):
        index.loaded(clients.dump)


def test_clients_are_run_as_orthanc(
    program: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    index: Any,
    clients: Clients,
) -> None:
    """A dump may tell a client to run, to edit or to send a file; it has no more rights than whoever had written it."""
    started: list[dict[str, Any]] = []

    def start(words: list[str], **options: Any) -> Any:
        started.append({"words": words, **options})
        raise program.Failed("started")

    monkeypatch.setattr(program, "mere_user", lambda: {"user": "orthanc"})
    monkeypatch.setattr(program.subprocess, "Popen", start)
    with pytest.raises(program.Failed):
        index.loaded(clients.dump)
    with pytest.raises(program.Failed):
        program.Dump(index)
    assert [one["user"] for one in started] == ["orthanc", "orthanc"]
    assert {one["env"][name] for one in started for name in ("EDITOR", "VISUAL")} == {"/bin/false"}


def test_text_that_looks_like_a_head_stays(index: Any, clients: Clients) -> None:
    """Else quotes would go with it, and what is a text would be a command."""
    body = "CREATE DEFINER=`', @b=(select 1 as`@`), @c=(select 1 as`z`), @d='; END\n"
    clients.dump.write_text(DUMP.replace("-- Dump completed", f"{body}-- Dump completed"), "utf-8")
    index.loaded(clients.dump)
    assert body in clients.said.with_name("said.in").read_text("utf-8")


def test_dump_is_read_before_the_list(
    program: Any,  # noqa: F811
    index: Any,
    clients: Clients,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server would end it after a minute in which nobody reads on."""
    clients.dump.write_text(DUMP.replace("-- Dump completed", "x" * (1 << 20) + "\n-- Dump completed"), "utf-8")
    read, of = [], program.rows

    def rows(connection: Any, target: pathlib.Path) -> None:
        read.append((tmp_path / "index.sql").stat().st_size)
        of(connection, target)

    monkeypatch.setattr(program, "rows", rows)
    index.copied(tmp_path / "index", 10, 2)
    assert read == [clients.dump.stat().st_size]


def test_tables_of_another_engine(program: Any, index: Any, server: Server, tmp_path: pathlib.Path) -> None:  # noqa: F811
    server.strange = "Changes"
    with pytest.raises(program.Failed, match=r"not InnoDB's \(Changes\)"):
        index.copied(tmp_path / "index", 10, 2)


@pytest.mark.parametrize("calls", [1, 2])
def test_files_alone_where_the_index_cannot_be_dumped(
    host: Host,  # noqa: F811
    orthanc: Any,  # noqa: F811
    index: Any,
    monkeypatch: pytest.MonkeyPatch,
    calls: int,
) -> None:
    orthanc()
    host.backup().prepare()
    made = host.backup()
    made.mariadb = index

    copied, seen = index.copied, []

    def fails(*given: Any) -> Any:
        seen.append(given)
        if len(seen) == calls:
            raise host.program.Failed("The database of the index cannot be reached.")
        return copied(*given)

    monkeypatch.setattr(index, "copied", fails)
    with pytest.raises(host.program.Failed, match="The files alone were backed up, as snapshot 00000000"):
        made.run(0)


def test_server_that_lets_orthanc_make_no_trigger(program: Any, index: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    index.takes_triggers()
    monkeypatch.setattr(index, "asked", lambda _question: (0,))
    with pytest.raises(program.Failed, match="log_bin_trust_function_creators"):
        index.takes_triggers()


def test_images_of_a_database_without_tables(index: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert index.images() == 0
    monkeypatch.setattr(Cursor, "execute", lambda self, question, given=(): self.rows.append((3,)) or 1)
    assert index.images() == 3


def test_server_for_a_try_is_reached_by_its_socket(
    program: Any,  # noqa: F811
    index: Any,
    server: Server,
    tmp_path: pathlib.Path,
) -> None:
    made = program.Loaded({"config_dir": str(tmp_path)}, tmp_path / "beside", "unit").index("archive")
    assert made.section["Username"] == "root"
    assert (made.section["Host"], made.section["UnixSocket"]) == ("localhost", "/run/unit/socket")
    made.listed(tmp_path / "list")
    assert server.logins[-1]["unix_socket"] == "/run/unit/socket"
    words, environment = made.login()
    assert words == ["--no-defaults", "--user=root", "--socket=/run/unit/socket"]
    assert environment["MYSQL_PWD"] == ""


def test_encrypted_connection_is_verified(
    index: Any, server: Server, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def context(cafile: str) -> ssl.SSLContext:
        made.append(cafile)
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    monkeypatch.setattr(ssl, "create_default_context", context)
    section = json.loads((tmp_path / "mysql.json").read_text("utf-8"))["MySQL"]
    section |= {"EnableSsl": True, "SslCACertificates": "/etc/pacs/database.crt"}
    (tmp_path / "mysql.json").write_text(json.dumps({"MySQL": section}), "utf-8")
    index.images()
    assert made == ["/etc/pacs/database.crt"]
    assert server.logins[-1]["ssl"].verify_mode == ssl.CERT_REQUIRED
    assert server.logins[-1]["ssl"].check_hostname
    assert server.logins[-1]["password"] == PASSWORD.encode()
    assert "--ssl-verify-server-cert" in index.login()[0]


def test_backup_of_another_kind(host: Host) -> None:  # noqa: F811
    made = host.backup()
    made.mariadb = object()
    assert made.kind == "MariaDB"
    with pytest.raises(host.program.Failed, match="has its index in SQLite, and this host has it in MariaDB"):
        made.suits({})
    made.suits({"kind": "MariaDB"})


def test_no_room_for_a_dump(host: Host, index: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    made = host.backup()
    made.mariadb = index
    monkeypatch.setattr(index, "takes", lambda: 1 << 60)
    with pytest.raises(host.program.Failed, match="A dump of the index takes up to"):
        made.copied()

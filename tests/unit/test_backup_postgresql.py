"""What backs up an index in PostgreSQL, with stand-ins for the server and for pgBackRest."""

from __future__ import annotations

import contextlib
import datetime
import errno
import importlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.test_backup import (  # noqa: F401
    FILES,
    Backed,
    Host,
    answers,
    archive,
    backed,
    host,
    orthanc,
    program,
    restored,
    services,
)

MOMENT = ("0/5000028", "0000000A", "77", 17, "orthanc", "orthanc", ["C.UTF-8"], "900")
WORDS = ("lsn", "timeline", "system", "version", "database", "user", "locales")
NAMES = [f"0000000{number}-0000-4000-8000-000000000001" for number in range(4)]


class Server:
    """Stands in for PostgreSQL, as its driver reaches it: keeps in which order it was asked for what."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.busy, self.rows = 0, 8

    def connect(self, user: str = "", **_more: Any) -> Any:
        if user:
            self.asked.append(f"{user} logs in")
        return Connection(self)

    @contextlib.contextmanager
    def acting(self, name: str) -> Iterator[None]:
        self.asked.append(f"as {name}")
        yield
        self.asked.append("as root")


class Connection:
    autocommit = False

    def __init__(self, server: Server) -> None:
        self.server, self.level = server, ""

    def set_session(self, isolation_level: str) -> None:
        self.level = isolation_level.split()[0]

    @contextlib.contextmanager
    def cursor(self, name: str = "") -> Iterator[Any]:
        yield Cursor(self)

    def commit(self) -> None:
        self.server.asked.append(f"{self.level} commit")

    def rollback(self) -> None:
        self.server.asked.append(f"{self.level} rollback")

    def close(self) -> None:
        self.server.asked.append(f"{self.level} close")


class Cursor:
    itersize = 0

    def __init__(self, connection: Connection) -> None:
        self.connection, self.rows = connection, list[tuple[Any, ...]]()

    def execute(self, question: str, given: Any = None) -> None:
        server, words = self.connection.server, question.split()
        kind = "moment" if "pg_current_wal_insert_lsn" in question else words[-1] if "FROM" in words else words[0]
        kind = next((name for name in ("pg_locks", "pg_class", "pg_tablespace") if name in words), kind)
        server.asked.append(f"{self.connection.level} {kind}")
        if words[0] == "LOCK" and server.busy:
            server.busy -= 1
            raise importlib.import_module("psycopg2.errors").LockNotAvailable
        prefix = str(given[0]) if given else ""
        answers: dict[str, list[tuple[Any, ...]]] = {
            "moment": [MOMENT],
            "pg_locks": [("autovacuum worker (process 7)",)],
            "pg_class": [(server.rows,)],
            "pg_tablespace": [(None,)],
            "Resources": [(number + 1, 3 + ("+ 1" in question), f"owner-{number}", None) for number in range(4)],
            "AttachedFiles": [(number + 1, 1, prefix + name, 7, "", None) for number, name in enumerate(NAMES)],
            "13))": [(1, 16, 32, "PATIENT")],
            "%s": [(prefix + name,) for name in [*NAMES[2:], "../../etc/passwd"]],
        }
        self.rows = answers.get(kind, [])

    def fetchone(self) -> tuple[Any, ...]:
        return self.rows[0]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)


@pytest.fixture
def server(program: Any, monkeypatch: pytest.MonkeyPatch) -> Server:  # noqa: F811
    made = Server()
    monkeypatch.setattr("psycopg2.connect", made.connect)
    monkeypatch.setattr(importlib.import_module("pacs_backup.database"), "acting", made.acting)
    return made


def database(program: Any, folder: pathlib.Path, **settings: Any) -> Any:  # noqa: F811
    section = {"PostgreSQL": {"ConnectionUri": "postgresql://orthanc:x@127.0.0.1/orthanc"}}
    (folder / "postgresql.json").write_text(json.dumps(section), "utf-8")
    return program.Database({"config_dir": str(folder), **settings})


def test_list_is_of_the_moment_at_which_nobody_writes(
    program: Any,  # noqa: F811
    server: Server,
    tmp_path: pathlib.Path,
) -> None:
    """And what has come is held before anybody may delete it."""
    held: list[str] = []

    def hold(name: str) -> None:
        held.append(name)
        server.asked.append(f"hold {name}")

    list_of_it = tmp_path / "index"
    lasted, moment = database(program, tmp_path).copied(list_of_it, 10, 2, hold)
    assert lasted >= 0
    assert (moment["lsn"], moment["timeline"], moment["version"]) == ("0/5000028", "0000000A", 17)
    assert held == NAMES[2:]
    order = server.asked
    locked, freed = order.index("READ LOCK"), order.index("READ commit")
    assert locked < order.index("REPEATABLE moment") < freed
    assert all(locked < order.index(f"hold {name}") < freed for name in held)
    # Nobody else makes an autovacuum give way.
    first = order.index("as postgres")
    assert order[first : first + 3] == ["as postgres", "postgres logs in", "as root"]
    # Long lists are none of their business, and the log goes on after that.
    assert freed < order.index("REPEATABLE AttachedFiles") < order.index("REPEATABLE commit")
    counts = program.check_index(list_of_it)
    assert (counts["instances"], counts["files"], counts["bytes"], counts["writer"]) == (4, 4, 28, "")
    assert [name for name, *_ in program.known(list_of_it)] == NAMES


def test_files_in_the_database_are_none_on_the_disk(
    program: Any,  # noqa: F811
    server: Server,
    tmp_path: pathlib.Path,
) -> None:
    held: list[str] = []
    database(program, tmp_path, files=False).copied(tmp_path / "index", 10, 2, held.append)
    assert held == []
    assert list(program.known(tmp_path / "index")) == []
    counts = program.check_index(tmp_path / "index")
    assert (counts["instances"], counts["files"], counts["bytes"]) == (4, 4, 0)


def test_server_that_is_had_again_lists_as_the_other_one(
    program: Any,  # noqa: F811
    cluster: Any,
    server: Server,
    tmp_path: pathlib.Path,
) -> None:
    for files in (True, False):
        cluster.settings["files"] = files
        database(program, tmp_path, files=files).listed(tmp_path / "here")
        recovered = program.Recovered(cluster, tmp_path / "there", "unit")
        recovered.database("orthanc").listed(tmp_path / "index")
        assert program.differ(tmp_path / "here", tmp_path / "index") == []


def test_images_do_not_wait_for_who_writes_for_long(
    program: Any,  # noqa: F811
    server: Server,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program, "ATTEMPTS", 3)
    monkeypatch.setattr(program.time, "sleep", lambda _seconds: None)
    server.busy = 2
    database(program, tmp_path).copied(tmp_path / "index", 10)
    assert server.asked.count("READ rollback") == 2
    server.busy = 3
    with pytest.raises(program.Failed, match=r"3 times nobody would pause .* What has it: autovacuum worker"):
        database(program, tmp_path).copied(tmp_path / "index", 10)


def test_lists_that_differ(program: Any, server: Server, tmp_path: pathlib.Path) -> None:  # noqa: F811
    made = database(program, tmp_path)
    for name in ("one", "other"):
        made.listed(tmp_path / name)
    assert program.differ(tmp_path / "one", tmp_path / "other") == []
    with program.opened(tmp_path / "other", "rw") as connection:
        connection.execute("DELETE FROM AttachedFiles WHERE id = 2")
        connection.execute("UPDATE AttachedFiles SET compressedSize = 8 WHERE id = 3")
        connection.commit()
    assert program.differ(tmp_path / "one", tmp_path / "other") == NAMES[1:3]


# ---- pgBackRest.


class Rest:
    """Stands in for pgBackRest."""

    def __init__(self, cluster: Any) -> None:
        self.calls: list[list[str]] = []
        self.info: dict[str, Any] = {
            "status": {"code": 0, "message": "ok"},
            "db": [{"id": 1, "system-id": 77, "version": "17"}],
            "archive": [{"id": "17-1", "database": {"id": 1}}],
            "backup": [],
        }
        # When a line of time was begun, and which it has left where.
        self.lines: dict[int, tuple[float, str]] = {}
        # Which pieces of the log there are, and since when.
        self.log: dict[str, float] = {}
        self.answers: dict[str, tuple[int, str]] = {}
        cluster.run = self

    def __call__(self, *arguments: str, **_more: Any) -> subprocess.CompletedProcess[str]:
        self.calls.append(list(arguments))
        if arguments[-1] in self.answers:
            code, said = self.answers[arguments[-1]]
            return subprocess.CompletedProcess([], code, said, "")
        if re.fullmatch("archive/pacs/17-1/[0-9A-F]{16}", arguments[-1]):
            pieces = {f"{name}-{'0' * 40}.zst": {"time": when} for name, when in self.log.items()}
            there = {name: one for name, one in pieces.items() if name.startswith(arguments[-1][-16:])}
            return subprocess.CompletedProcess([], 0, json.dumps(there), "")
        if arguments[-2:-1] == ("repo-ls",):
            there = {f"{line:08X}.history": {"time": when} for line, (when, _) in self.lines.items()}
            return subprocess.CompletedProcess([], 0, json.dumps({".": {"type": "path"}} | there), "")
        if arguments[-2:-1] == ("repo-get",):
            place, name = arguments[-1].rsplit("/", 1)
            assert place == "archive/pacs/17-1"
            return subprocess.CompletedProcess([], 0, self.lines[int(name[:8], 16)][1], "")
        if arguments[-1] == "backup":
            self.made(time.time(), "0/6000000")
        return subprocess.CompletedProcess([], 0, json.dumps([self.info]) if arguments[-1] == "info" else "", "")

    def made(self, when: float, stop: str, kind: str = "full", line: int = 10, database: int = 1) -> None:
        number = f"backup-{len(self.info['backup'])}"
        one = {"label": number, "type": kind, "error": False, "timestamp": {"start": when, "stop": when}}
        high, low = (int(part, 16) for part in stop.split("/"))
        piece = f"{line:08X}{high:08X}{low >> 24:08X}"
        one |= {"lsn": {"stop": stop}, "archive": {"start": piece, "stop": piece}}
        one |= {"database": {"id": database}}
        self.info["backup"].append(one | {"info": {"size": 4 << 20, "repository": {"delta": 9}}})


@pytest.fixture
def cluster(program: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    monkeypatch.setattr(program, "KEPT", tmp_path)
    monkeypatch.setattr(program, "SENDS", tmp_path)
    settings = {"host": "pacs", "config_dir": str(tmp_path), "database_port": 5432, "database_repository": ""}
    settings |= {"files": True, "repository": str(tmp_path)}
    made = program.Cluster(settings | {"database_full_days": 28})
    (tmp_path / "17" / "main").mkdir(parents=True)
    made.__dict__ |= {"control": "Database system identifier:     77\nBytes per WAL segment:          16777216\n"}
    made.__dict__ |= {"found": ["17", "main", "5432", "online", "postgres", str(tmp_path / "17" / "main"), "log"]}
    return made


@pytest.mark.parametrize("age, kind", [(None, "full"), (27, "incr"), (29, "full")])
def test_all_of_the_database_is_backed_up_now_and_then(cluster: Any, age: int | None, kind: str) -> None:
    rest = Rest(cluster)
    if age is not None:
        rest.made(time.time() - age * 86400, "0/1")
        rest.made(time.time() - 3600, "0/2", "incr")
    dropped = pathlib.Path(cluster.database._config, "dropped")
    dropped.write_text("pg_wal/0000000A0000000000000005\n", "utf-8")
    assert cluster.save() == 9
    # Nothing older is forgotten before the backup is good.
    assert [f"--type={kind}", "--no-expire-auto", "backup"] in rest.calls
    assert not dropped.exists()


def test_what_is_given_up_beside_a_backup_is_told_until_the_next_one(cluster: Any) -> None:
    """Unless that begins after it: while the disk is nearly full, what waits goes on to be given up."""
    Rest(cluster)
    dropped = pathlib.Path(cluster.database._config, "dropped")
    for name, stays in (("0000000900000001000000FF", False), ("0000000A0000000000000006", True)):
        dropped.write_text(f"pg_wal/0000000A0000000000000005\npg_wal/{name}\n", "utf-8")
        cluster.save()
        assert dropped.exists() is stays
        assert ("2 pieces of it were given up" in cluster.doubt()) is stays


def test_line_of_time_is_in_each_repository(cluster: Any) -> None:
    """PostgreSQL sends where its line has begun once, perhaps to another repository, and reads no log without that."""
    rest = Rest(cluster)
    log = cluster.data / "pg_wal"
    log.mkdir()
    for name in ("00000002.history", "0000000A.history", "0000000A0000000000000007"):
        (log / name).touch()
    cluster.save()
    verbs = [call[-1] for call in rest.calls]
    assert verbs.index(str(log / "0000000A.history")) < verbs.index("backup")
    assert not any("00000002.history" in word for call in rest.calls for word in call)


@pytest.mark.parametrize("gone", [(), ("07",), ("07", "08"), ("FF",)])
def test_log_that_lacks_between_two_backups_is_told(
    host: Host,  # noqa: F811
    cluster: Any,
    gone: tuple[str, ...],
) -> None:
    rest, made = Rest(cluster), host.backup()
    made.cluster = cluster
    rest.made(1000.0, "0/6000000")
    rest.log = {f"0000000A00000000000000{one:02X}": 1000.0 + one for one in range(7, 256)}
    rest.log["0000000A0000000100000000"] = 2000.0
    for one in gone:
        del rest.log[f"0000000A00000000000000{one}"]
    before = rest.info["backup"][-1]
    rest.made(3000.0, "1/1000000")
    found = cluster.lacking(before, rest.info["backup"][-1])
    since = {(): None, ("FF",): 1000 + 0xFE}.get(gone, 1000)
    assert found == ({"pieces": len(gone), "since": since, "until": 3000} if gone else {})
    # A backup tells of it and of no other one, and goes on where it cannot.
    rest.answers["archive/pacs/17-1/0000000A00000000"] = (42, "P00  ERROR: [042]: it is not there")
    assert made.saved_database() == 9
    assert cluster.gap == {}


def test_gap_before_a_restore_is_none_of_the_log_since(cluster: Any) -> None:
    rest = Rest(cluster)
    rest.made(100.0, "0/3000000", line=1)
    rest.lines = {2: (400.0, "1\t0/9000000\tbefore\n")}
    rest.made(500.0, "0/B000000", line=2)
    rest.log = {f"00000002000000000000000{one}": 450.0 for one in "9A"}
    assert cluster.lacking(*rest.info["backup"]) == {}
    del rest.log["000000020000000000000009"]
    assert cluster.lacking(*rest.info["backup"]) == {"pieces": 1, "since": 100, "until": 500}


def test_repository_of_another_database(program: Any, cluster: Any) -> None:  # noqa: F811
    rest = Rest(cluster)
    rest.info["db"].append({"id": 2, "system-id": 78, "version": "17"})
    with pytest.raises(program.Failed, match=r"has another database of pacs .* \"new archive of pacs\""):
        cluster.save()
    assert ["backup"] not in [call[-1:] for call in rest.calls]
    cluster.begin()
    assert rest.calls[-1] == ["stanza-upgrade"]
    rest.info["db"].append({"id": 3, "system-id": 77, "version": "17"})
    cluster.begin()
    assert rest.calls.count(["stanza-upgrade"]) == 1


def test_repository_is_made_once(cluster: Any) -> None:
    rest = Rest(cluster)
    assert cluster.prepared()
    rest.info |= {"status": {"code": 1, "message": "missing stanza path"}, "db": []}
    assert not cluster.prepared()
    cluster.prepare()
    assert rest.calls[-1] == ["stanza-create"]


def test_database_that_is_gone_from_a_repository_is_not_begun_anew(
    host: Host,  # noqa: F811
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "unfit", lambda: "")
    rest, made = Rest(cluster), host.backup()
    made.cluster, there = cluster, dict(rest.info)
    rest.info |= {"status": {"code": 1, "message": "missing stanza path"}, "db": []}
    assert made.prepare()
    assert ["stanza-create"] in rest.calls
    with pytest.raises(host.program.Failed, match=r"of the database of this host is not there any more"):
        made.prepare()
    rest.info |= there
    assert made.prepared()


def test_what_another_key_makes_of_a_repository(program: Any, cluster: Any) -> None:  # noqa: F811
    rest = Rest(cluster)
    said = "[FormatError] unable to load info file: FormatError: key/value outside of section: \x01\ufffd"
    rest.info |= {"status": {"code": 99, "message": "other"}, "repo": [{"status": {"message": said}}]}
    with pytest.raises(program.Failed, match="it has another key, or is damaged"):
        cluster.info()
    rest.answers["info"] = (0, f'[{{"status": "{said}')
    with pytest.raises(program.Failed, match="it has another key, or is damaged"):
        cluster.info()


@pytest.mark.parametrize("keep, expired", [({"daily": 2}, True), ({}, False)])
def test_database_reaches_as_far_back_as_the_files(
    host: Host,  # noqa: F811
    cluster: Any,
    keep: dict[str, int],
    expired: bool,
) -> None:
    rest, made = Rest(cluster), host.backup()
    made.cluster, made.settings["keep"] = cluster, keep
    day = datetime.timedelta(days=1)
    for number in (9, 2):
        when = f"{datetime.datetime.now(datetime.UTC) - number * day:%Y-%m-%dT%H:%M:%SZ}"
        host.restic.snapshots.append(
            {"time": when, "tags": ["pacs", "files=f"], "id": f"{number:08}", "hostname": "pacs"}
        )
    assert made.forgotten("00000002") == ""
    words = ["--repo1-retention-full-type=time", "--repo1-retention-full=10", "expire"]
    assert rest.calls == ([words] if expired else [])


def of_time(when: float, system: str = "77") -> dict[str, Any]:
    return {"at": f"{datetime.datetime.fromtimestamp(when, datetime.UTC)}", "timeline": "0000000A", "system": system}


def test_moment_is_had_from_the_last_backup_before_it(program: Any, cluster: Any) -> None:  # noqa: F811
    rest = Rest(cluster)
    for when, stop in ((100.0, "0/100"), (200.0, "0/200"), (300.0, "1/0")):
        rest.made(when, stop)
    moment = {"lsn": "0/FFFFFF", "timeline": "0000000A", "system": "77"}
    words = ["--type=lsn", "--target=0/FFFFFF", "--target-exclusive", "--target-action=promote", "--target-timeline=10"]
    assert cluster.chosen(moment, 250.0) == ("backup-1", words)
    # A clock was put back.
    assert cluster.chosen(moment, 350.0)[0] == "backup-1"
    assert cluster.chosen(of_time(350), 350.0) == (
        "backup-2",
        ["--type=time", "--target=1970-01-01 00:05:50+00:00", "--target-action=promote", "--target-timeline=10"],
    )
    # As late as there is something.
    last = {"at": "end", "timeline": "00000001", "system": "77"}
    assert cluster.chosen(last, time.time()) == ("backup-2", ["--type=default", "--target-timeline=10"])
    assert cluster.chosen(of_time(150), 150.0)[0] == "backup-0"
    with pytest.raises(program.Failed, match="it reaches back to 1970-01-01"):
        cluster.chosen(of_time(50), 50.0)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize(
    "when, backup, line",
    [(150, 0, 1), (250, 1, 1), (350, 1, 1), (450, 0, 2), (550, 3, 2), (650, 3, 3)],
)
def test_moment_after_a_restore_is_on_another_line_of_time(
    program: Any,  # noqa: F811
    cluster: Any,
    when: int,
    backup: int,
    line: int,
    copied: bool,
) -> None:
    """At 400 the database was had again as of 150, and at 600 as of 550: what there was between is had as well."""
    rest = Rest(cluster)
    rest.made(100, "0/100", line=1)
    rest.made(200, "0/200", line=1)
    rest.made(300, "0/300", line=1)
    rest.info["backup"][2]["error"] = True
    rest.made(500, "0/500", line=2)
    rest.lines = {2: (400, "1\t0/150\tbefore 1970\n"), 3: (600, "1\t0/150\tbefore\n\n2\t0/550\tbefore\n")}
    rest.made(700, "0/700", line=3)
    if copied:
        # As by a copy of the repository: then the backups tell, and what is between two is on the later one.
        rest.lines = {number: (1000.0, text) for number, (_, text) in rest.lines.items()}
        backup, line = {450: (1, 1), 650: (3, 2)}.get(when, (backup, line))
    label, words = cluster.chosen(of_time(when), float(when))
    assert (label, words[-1]) == (f"backup-{backup}", f"--target-timeline={line}")
    # A place in the log tells its line itself, and a backup beside it is none before it.
    moment = {"lsn": "0/250", "timeline": "00000002", "system": "77"}
    assert cluster.chosen(moment, 450.0) == (
        "backup-0",
        ["--type=lsn", "--target=0/250", "--target-exclusive", "--target-action=promote", "--target-timeline=2"],
    )


def test_moment_of_a_database_that_was_given_up(program: Any, cluster: Any) -> None:  # noqa: F811
    rest = Rest(cluster)
    rest.made(100, "0/100", line=1)
    rest.info["db"].append({"id": 2, "system-id": 78, "version": "17"})
    rest.made(200, "0/10", line=1, database=2)
    assert cluster.chosen(of_time(300), 300.0)[0] == "backup-0"
    assert cluster.chosen({"lsn": "0/200", "timeline": "00000001", "system": "77"}, 300.0)[0] == "backup-0"
    with pytest.raises(program.Failed, match="reaches back to nowhere"):
        cluster.chosen(of_time(300, "79"), 300.0)


def test_moment_of_just_now_is_in_the_repository(
    program: Any,  # noqa: F811
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And something that comes after it, without which PostgreSQL does not get there."""
    rest, asked = Rest(cluster), list[str]()
    monkeypatch.setattr(cluster.database, "asked", asked.append)
    cluster.current()
    assert asked == ["SELECT pg_current_xact_id()"]
    assert rest.calls[-1] == ["check"]
    # Where it is not reached, and on a host that has another database.
    rest.answers["check"] = (82, "it does not get there")
    cluster.current()
    rest.info["db"].append({"id": 2, "system-id": 78, "version": "17"})
    cluster.current()
    assert len(asked) == 2


def test_time_is_of_this_host(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert program.in_utc("2026-11-30 14:05") == "2026-11-30 13:05:00+00"
        assert program.in_utc("2026-07-01T14:05:06") == "2026-07-01 12:05:06+00"
        assert program.in_utc("2026-11-30 14:05+03:00") == "2026-11-30 11:05:00+00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_release_that_cannot_read_it(program: Any, cluster: Any) -> None:  # noqa: F811
    cluster.fits({"version": 17})
    with pytest.raises(program.Failed, match="is of PostgreSQL 15, and this host has 17"):
        cluster.fits({"version": 15})
    cluster.fits({"version": 17, "locales": ["C"]})
    with pytest.raises(program.Failed, match="has the locale tlh_TLH, and this host does not have it"):
        cluster.fits({"version": 17, "locales": ["C", "tlh_TLH"]})


def test_log_that_was_given_up_or_waits_is_told(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    answer: list[tuple[Any, ...]] = [(False, None, "2026-11-30 02:00:00")]
    monkeypatch.setattr(cluster.database, "asked", lambda _question: answer[0])
    assert cluster.doubt() == ""
    answer[0] = (True, "2026-11-30 03:00:00", "never")
    assert "since 2026-11-30 03:00:00; the last piece did never" in cluster.doubt()
    # One that hangs fails not.
    status, (first, second) = cluster.data / "pg_wal" / "archive_status", (time.time() - 600, time.time() - 1200)
    status.mkdir(parents=True)
    answer[0] = (False, None, "2026-11-30 02:00:00")
    for name, written in (("1.ready", first), ("2.ready", second), ("3.done", second)):
        (status / name).touch()
        os.utime(status / name, (written, written))
    assert "1 pieces of it wait for more than 15 minutes" in cluster.doubt()
    monkeypatch.setitem(cluster.doubt.__globals__, "SENDS", tmp_path / "archive")
    assert f"{tmp_path}/archive is not there, by which the log of the database goes" in cluster.doubt()
    (tmp_path / "dropped").write_text("1\n2\n3\n", "utf-8")
    assert "3 pieces of it were given up" in cluster.doubt()


def test_root_follows_no_link_of_postgresql(
    program: Any,  # noqa: F811
    cluster: Any,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has taken it over may put one wherever he may write, as soon as he may."""
    victim, chown = tmp_path / "victim", os.chown
    victim.write_text("as it was", "utf-8")

    def planted(path: Any, *_owner: Any, **_more: Any) -> None:
        chown(path, -1, -1)
        for name in ("pg_hba.conf", "postgresql.conf"):
            (pathlib.Path(path) / name).symlink_to(victim)

    ours = type("Entry", (), {"pw_uid": os.getuid(), "pw_gid": os.getgid(), "gr_gid": os.getgid()})
    monkeypatch.setattr(program, "RUN", tmp_path)
    monkeypatch.setattr(program.pwd, "getpwnam", lambda _name: ours)
    monkeypatch.setattr(program.grp, "getgrnam", lambda _name: ours)
    monkeypatch.setattr(program.os, "chown", planted)
    calls: list[list[str]] = []

    def run(words: list[str], **_more: Any) -> subprocess.CompletedProcess[str]:
        calls.append(words)
        return subprocess.CompletedProcess([], codes.get(words[0].rpartition("/")[2], 0), state[0], "")

    codes, state = dict[str, int](), [""]
    monkeypatch.setattr(program.subprocess, "run", run)
    recovered = program.Recovered(cluster, tmp_path / "there", "unit")
    asked: list[Any] = []
    answers = type("Answers", (), {"asked": lambda *_question: asked.append(1)})()
    monkeypatch.setattr(recovered, "database", lambda _name: answers)
    recovered.start({"database": "pacs", "user": 'o"'})
    assert victim.read_text("utf-8") == "as it was"
    # Nobody is the server's user there who is not anyway.
    lines = (tmp_path / "unit" / "pg_hba.conf").read_text("utf-8").splitlines()
    assert lines == ["local all postgres peer map=pacs", 'local "pacs" "o""" trust']
    (tmp_path / "unit" / "postgresql.conf").read_text("utf-8")
    # What ALTER SYSTEM has set beats every file.
    given = next(words for words in calls if words[0] == "systemd-run")
    pairs = {one for flag, one in itertools.pairwise(given) if flag == "-c"}
    assert {"archive_command=/bin/false", "listen_addresses=", "port=5432", "log_statement=none"} <= pairs
    assert len(asked) == 1
    state[0] = "deactivating"
    with pytest.raises(program.Failed, match="unit does not stop"):
        recovered.stop()
    assert (tmp_path / "unit").exists()
    state[0] = "failed"
    recovered.stop()
    # One that is up and lets nobody in, and one that has ended.
    codes["pg_isready"] = 2
    with pytest.raises(program.Failed, match="could not be had as of that moment"):
        recovered.start({"database": "pacs", "user": "pacs"})
    recovered.stop()
    codes.clear()

    def refused(*_question: Any) -> None:
        raise program.Failed("database locale is incompatible")

    state[0] = "active"
    monkeypatch.setattr(type(answers), "asked", refused)
    with pytest.raises(program.Failed, match="locale is incompatible"):
        recovered.start({"database": "pacs", "user": "pacs"})
    state[0] = "failed"
    recovered.stop()
    assert victim.exists()
    assert not (tmp_path / "unit").exists()
    (tmp_path / "dropped").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        cluster.doubt()


@pytest.mark.parametrize(
    "said, words",
    [
        ("P00  ERROR: [029]: unable to load info file: FormatError: cipher header invalid", "has another key"),
        ("P00  ERROR: [049]: [HostConnectError] unable to connect to 's3.example.org:443'", "cannot be reached"),
        (
            "ERROR: [095]: [CryptoError] unable to verify certificate presented by 'store:443': [20] unable to get",
            "its certificate is not trusted; see to backup_ca",
        ),
        (
            "ERROR: [CryptoError] unable to find hostname '192.0.2.7' in certificate common name or subject",
            "its certificate is not trusted; see to backup_ca",
        ),
        ("ERROR: [ProtocolError] HTTP request failed with 404 (Not Found): <Code>NoSuchBucket</Code>", "its bucket is"),
        ("ERROR: [101]: [500] Internal Server Error", "look whether it is full"),
        ("P00  ERROR: [082]: [ArchiveTimeoutError] WAL segment was not archived", "the log of the database does not"),
        ("P01  ERROR: [041]: unable to write '/srv/x': [28] No space left on device", "it is full"),
        ("P00  ERROR: [041]: unable to open '/srv/x' for write: [13] Permission denied", "does not let us in"),
    ],
)
def test_what_pgbackrest_says_in_words(cluster: Any, said: str, words: str) -> None:
    assert words in str(cluster.refused(subprocess.CompletedProcess([], 41, f"{said}\n", "")))


@pytest.mark.parametrize(
    "said, code, good",
    [
        ("stanza: pacs\nstatus: ok\n", 0, True),
        ("stanza: pacs\nstatus: error\n  archiveId: 17-1, total WAL checked: 4, total valid WAL: 3\n", 0, False),
        ("    missing: 0, checksum invalid: 1, size invalid: 0, other: 0\n", 0, False),
        ("", 25, False),
    ],
)
def test_damage_in_the_repository(cluster: Any, said: str, code: int, good: bool) -> None:
    Rest(cluster).answers["verify"] = (code, said)
    assert (cluster.damage() == []) is good


@pytest.mark.parametrize(
    "free, said, code, most, told",
    [
        (30_000, "", 0, 0, False),
        (19_000, "", 0, 1024, False),
        (600, "", 0, 0, False),
        # A small disk never has 1 GiB of them.
        (40, "", 0, 250, False),
        (40, "P00   WARN: dropped WAL file '0000000100000001' because archive queue exceeded 1GB", 0, 250, True),
        (600, "P00  ERROR: [103]: unable to find a valid repository", 103, 0, False),
    ],
)
def test_log_is_given_up_before_the_disk_is_full(
    tmp_path: pathlib.Path, free: int, said: str, code: int, most: int, told: bool
) -> None:
    """And no sooner: the server would stop with it, and Orthanc with that."""
    script = tmp_path / "archive"
    text = (FILES / "archive.sh").read_text("utf-8").replace("/var/lib/pacs/pgbackrest", str(tmp_path))
    script.write_text(text, "utf-8")
    for name, lines in (
        ("df", f"echo '1M-blocks Avail'; echo '  {1_000_000 if free > 1000 else 1000} {free}'"),
        ("pgbackrest", f'echo "$@" > {tmp_path}/called; echo "{said}" >&2; exit {code}'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n", "utf-8")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", script, "pg_wal/0000000100000001"],
        env={"PATH": f"{tmp_path}:{os.defpath}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    # Above 125, PostgreSQL would not count it.
    assert done.returncode == (1 if code else 0)
    assert done.stderr.strip() == said
    called = (tmp_path / "called").read_text("utf-8").split()
    assert called[-2:] == ["archive-push", "pg_wal/0000000100000001"]
    assert f"--pg1-path={tmp_path}" in called
    limits = [word for word in called if "queue-max" in word]
    assert limits == ([f"--archive-push-queue-max={most}MiB"] if most else [])
    assert (tmp_path / "dropped").exists() is told


@pytest.mark.parametrize("does", ["sleep 600", "trap '' TERM; while :; do sleep 1; done", "no place for a note"])
def test_log_is_tried_again_where_a_repository_hangs(tmp_path: pathlib.Path, does: str) -> None:
    """Else it would never be given up; and what is given up has to be told."""
    script, folder = tmp_path / "archive", tmp_path / "gone" if does.startswith("no") else tmp_path
    text = (FILES / "archive.sh").read_text("utf-8").replace("/var/lib/pacs/pgbackrest", str(folder))
    script.write_text(text.replace("--kill-after=10 300", "--kill-after=1 1"), "utf-8")
    dropped = "echo \"WARN: dropped WAL file 'x'\""
    for name, lines in (("df", "echo; echo '1000 40'"), ("pgbackrest", dropped if folder != tmp_path else does)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n", "utf-8")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", script, "pg_wal/1"],
        env={"PATH": f"{tmp_path}:{os.defpath}"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert 0 < done.returncode < 126


# ---- A backup.


def test_backup_is_none_before_its_log_is_there(host: Host, cluster: Any, server: Server) -> None:  # noqa: F811
    """The newest one is what a restore takes."""
    rest, made = Rest(cluster), host.backup()
    made.cluster = cluster
    database(host.program, pathlib.Path(cluster.database._config))
    made.prepare()
    rest.answers["check"] = (82, "P00  ERROR: [082]: [ArchiveTimeoutError] WAL segment was not archived")
    with pytest.raises(host.program.Failed, match="the log of the database does not get there"):
        made.run(time.monotonic())
    assert [one for one in host.restic.snapshots if "pacs" in one["tags"]] == []
    del rest.answers["check"]
    made.run(time.monotonic())
    assert host.status()["success"]["instances"] == 4
    # A list that has no room.
    server.rows = 1 << 50
    taken = len(host.restic.snapshots)
    with pytest.raises(host.program.Failed, match=r"list of what the database knows takes .* The files alone were"):
        made.run(time.monotonic())
    assert [one["tags"][0] for one in host.restic.snapshots[taken:]] == ["pacs-files"]


def test_database_that_cannot_be_had_again_is_told(
    host: Host,  # noqa: F811
    cluster: Any,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before it is needed: by site.yml, and by each backup."""
    program, made, beside = host.program, host.backup(), str(tmp_path / "beside")  # noqa: F811
    Rest(cluster)
    made.cluster = cluster
    spaces: list[tuple[Any, ...]] = [(None,)]
    monkeypatch.setattr(cluster.database, "asked", lambda _question: spaces[0])
    assert cluster.unfit() == ""
    spaces[0] = ("fast",)
    assert "The database has tablespaces (fast)" in made.against([], 0, 0, 0, [])[0]
    with pytest.raises(program.Failed, match="has tablespaces"):
        made.prepare()
    spaces[0] = (None,)
    monkeypatch.setattr(program.os.path, "ismount", lambda path: path == cluster.data)
    assert "is a disk of its own" in cluster.unfit()
    # A disk that is mounted right at the repository: what is beside it is none of it.
    cluster.settings |= {"database_repository": beside}
    monkeypatch.setitem(cluster.unfit.__globals__, "device", lambda path: 2 if path == beside else 1)
    assert f"is on another disk than {beside}" in cluster.unfit()
    monkeypatch.setattr(program.os.path, "ismount", lambda path: path == beside)
    assert cluster.unfit() == ""


# ---- A restore.


class Recovered:
    """Stands in for the server that has the database as it was."""

    def __init__(self, program: Any, cluster: Any, index: pathlib.Path) -> None:  # noqa: F811
        self.cluster, self.index, self._program = cluster, index, program
        self.folder = cluster.data.parent / ".pacs-restore"
        self.data = self.folder / cluster.data.name
        self.target: list[str] = []

    @property
    def opened(self) -> Any:
        return self._program.owned(self.folder)

    def restored(self, _moment: dict[str, Any], _label: str, target: list[str]) -> None:
        self.target = target
        assert self.opened
        self.data.mkdir(exist_ok=True)
        (self.data / "of").write_text("the backup", "utf-8")

    def settled(self, _uri: str) -> None: ...

    def stop(self) -> None: ...

    def database(self, _name: str, user: str = "postgres") -> Any:
        index = self.index
        # What stands there is Orthanc's.
        assert user == "orthanc"

        class Listed:
            def listed(self, target: pathlib.Path) -> None:
                target.write_bytes(index.read_bytes())

        return Listed()

    def away(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.folder.rmdir()


@pytest.fixture
def served(backed: Backed, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Backed:  # noqa: F811
    """An archive that was backed up, whose index is in PostgreSQL."""
    rest = Rest(cluster)
    rest.made(0.0, "0/1")
    database(backed.host.program, pathlib.Path(cluster.database._config))
    monkeypatch.setattr(cluster.database, "images", lambda: 0)
    monkeypatch.setattr(cluster.database, "others", lambda: "")
    monkeypatch.setattr(cluster, "room", lambda *_given: None)
    (cluster.data / "of").write_text("now", "utf-8")
    backed.told["kind"] = "PostgreSQL"
    backed.told["moment"] = dict(zip(WORDS, MOMENT, strict=False))
    (backed.host.archive / "index").unlink()
    backed.backup.cluster = cluster
    monkeypatch.setattr(
        backed.host.program, "Recovered", lambda cluster, *_more: Recovered(backed.host.program, cluster, backed.index)
    )
    return backed


def test_database_goes_where_the_other_one_was(served: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = served.backup.cluster
    found = restored(served, monkeypatch)
    assert (cluster.data / "of").read_text("utf-8") == "the backup"
    (kept,) = [path for path in found["aside"] if "/17/" in path]
    assert pathlib.Path(kept, "main", "of").read_text("utf-8") == "now"
    assert archive(served.host.archive) == served.files
    calls = [call for call in served.restic.calls if call[0] in ("start", "stop")]
    names = list(dict.fromkeys(f"{verb} {unit}" for verb, unit in calls))
    assert names == ["stop orthanc", "stop postgresql@17-main", "start postgresql@17-main", "start orthanc"]
    assert not (served.host.archive / "index").exists()
    assert not (served.host.archive / ".pacs-restore").exists()


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL, with the DICOM files"])
def test_backup_of_another_kind_of_archive(served: Backed, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    served.told["kind"] = kind
    with pytest.raises(served.host.program.Failed, match=f"has its index in {kind}, and this host has it in Postgre"):
        restored(served, monkeypatch)
    with pytest.raises(served.host.program.Failed, match=f"has its index in {kind}, and this host has it in Postgre"):
        served.host.program.Drill(served.backup).run()
    assert services(served) == []


def test_drill_without_a_server_is_told(served: Backed) -> None:
    program, cluster = served.host.program, served.backup.cluster  # noqa: F811
    del cluster.__dict__["found"]
    cluster.settings["database_port"] = 1
    with pytest.raises((program.Failed, OSError)):
        program.drilled(program.Drill(served.backup))
    assert served.host.status()["drill"]["wrong"]


@pytest.mark.parametrize("images", [0, 3])
def test_database_with_images_takes_words(served: Backed, monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Where it has the files as well, none is on the disk."""
    for path in served.host.archive.glob("??/??/*"):
        path.unlink()
    monkeypatch.setattr(served.backup.cluster.database, "images", lambda: images)
    if not images:
        restored(served, monkeypatch, over=False)
        return
    with pytest.raises(served.host.program.Failed, match="the database knows 3 images"):
        restored(served, monkeypatch, over=False)
    assert services(served) == []


def test_database_of_which_nobody_knows_takes_words(served: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    def images() -> int:
        raise served.host.program.Failed("it does not answer")

    for path in served.host.archive.glob("??/??/*"):
        path.unlink()
    monkeypatch.setattr(served.backup.cluster.database, "images", images)
    with pytest.raises(served.host.program.Failed, match="nobody can say what the database has"):
        restored(served, monkeypatch, over=False)


def test_database_that_is_another_one_than_was_backed_up(
    served: Backed, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    program, other = served.host.program, tmp_path / "other"  # noqa: F811
    other.write_bytes(served.index.read_bytes())
    with program.opened(other, "rw") as connection:
        connection.execute("DELETE FROM AttachedFiles WHERE id = 2")
        connection.commit()
    monkeypatch.setattr(program, "Recovered", lambda cluster, *_more: Recovered(program, cluster, other))
    with pytest.raises(program.Failed, match="does not have what it had when it was backed up: 1 files differ"):
        restored(served, monkeypatch)
    assert services(served) == []
    assert (served.backup.cluster.data / "of").read_text("utf-8") == "now"


def test_database_that_cannot_be_renamed(served: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a part of a file system of its own, or of an image: all goes on as it was."""
    rename, before = os.rename, archive(served.host.archive)

    def across(source: Any, target: Any, **folders: Any) -> None:
        if source == "main":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target, **folders)

    monkeypatch.setattr(served.host.program.os, "rename", across)
    with pytest.raises(served.host.program.Failed, match=r"main cannot be renamed \(Invalid cross-device link\)"):
        restored(served, monkeypatch)
    assert (served.backup.cluster.data / "of").read_text("utf-8") == "now"
    assert archive(served.host.archive) == before
    assert [call for call in served.restic.calls if call[0] in ("start", "stop")] == [
        ["stop", "orthanc"],
        ["stop", "postgresql@17-main"],
        ["start", "postgresql@17-main"],
        ["start", "orthanc"],
    ]
    assert not (served.host.state / "moves.json").exists()


@pytest.mark.parametrize("cut", range(19))
def test_restore_of_a_database_that_is_cut_off_goes_on(
    served: Backed, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """After each of what it moves, starts and stops."""
    program, seen = served.host.program, list[str]()  # noqa: F811
    rename, service = os.rename, program.service

    def once(*words: Any, **folders: Any) -> None:
        seen.append(words[0])
        if len(seen) == cut + 1:
            raise KeyboardInterrupt
        (rename if folders else service)(*words, **folders)

    monkeypatch.setattr(program.os, "rename", once)
    monkeypatch.setattr(program, "service", once)
    with contextlib.suppress(KeyboardInterrupt):
        restored(served, monkeypatch)
    monkeypatch.setattr(program.os, "rename", rename)
    monkeypatch.setattr(program, "service", service)
    restored(served, monkeypatch, over=True)
    assert (served.backup.cluster.data / "of").read_text("utf-8") == "the backup"
    assert archive(served.host.archive) == served.files
    assert not (served.host.archive / ".pacs-restore").exists()


def test_as_it_was_takes_from_the_backups_around(served: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one after it first; what has come since is not in its index, and does not stay."""
    program = served.host.program  # noqa: F811
    restore = program.Restore(served.backup)
    monkeypatch.setattr(restore, "answer", lambda path: answers(served, path))
    gone = sorted(served.files)[0]
    with program.opened(served.index, "rw") as connection:
        connection.execute("DELETE FROM AttachedFiles WHERE uuid = ?", (gone,))
        connection.commit()
    with pytest.raises(program.Failed, match="2999-01-01 00:00 is still to come"):
        restore.run("latest", True, 0, "2999-01-01 00:00")
    with pytest.raises(program.Failed, match="'2026-02-31 10:00' is no time"):
        restore.run("latest", True, 0, "2026-02-31 10:00")
    found = restore.run("latest", True, 0, "2026-11-30 00:30+00:00")
    asked = [call[3] for call in served.restic.calls if call[0] == "restore"]
    assert asked[0] == "files-1"
    assert restore.recovered.target == [
        "--type=time",
        "--target=2026-11-30 00:30:00+00",
        "--target-action=promote",
        "--target-timeline=10",
    ]
    assert found["unknown"] == []
    assert gone not in archive(served.host.archive)
    assert (found["missing"], found["backed_up"]) == ([], "2026-11-30 00:30:00+00")


def test_as_it_was_takes_what_is_still_there(served: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came since the last backup is in no other place than the archive that makes way."""
    program = served.host.program  # noqa: F811
    restore, (first, other) = program.Restore(served.backup), sorted(served.files)[:2]
    monkeypatch.setattr(restore, "answer", lambda path: answers(served, path))
    monkeypatch.setattr(restore, "earlier", lambda *_given: None)
    compare = program.compare

    def gone(index: Any, storage: pathlib.Path, *given: Any, **more: Any) -> Any:
        # No backup has them.
        for name in (first, other):
            if not more.get("only") and more.get("sums"):
                program.place(storage, name).unlink()
        return compare(index, storage, *given, **more)

    monkeypatch.setattr(program, "compare", gone)
    place = program.place(served.host.archive, other)
    place.unlink()
    place.symlink_to(program.place(served.host.archive, first))
    found = restore.run("latest", True, 0, "2026-11-30 00:30+00:00")
    assert [line.split()[0] for line in found["missing"]] == [other]
    assert archive(served.host.archive)[first] == served.files[first]


def test_as_it_was_before_another_archive_was_begun(served: Backed) -> None:
    """The next backup is of the new one, and knows nothing of then."""
    restore = served.host.program.Restore(served.backup)
    served.restic.snapshots[:] = [
        {"time": f"2026-11-{day}T02:00:00Z", "tags": ["pacs", f"archive={one}", "index=/x"], "id": day, "hostname": "p"}
        for day, one in (("10", "a"), ("12", "a"), ("20", "b"), ("22", "b"))
    ]
    for at, wanted in (("2026-11-11", "12"), ("2026-11-15", "12"), ("2026-11-21", "22"), ("2026-11-23", "22")):
        assert restore.picked("latest", f"{at} 00:00")[0]["id"] == wanted
    assert restore.picked("latest", "2026-11-01 00:00")[0]["id"] == "10"
    assert restore.picked("latest", "end")[0]["id"] == "22"


def test_databases_of_others_take_words(served: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in served.host.archive.glob("??/??/*"):
        path.unlink()
    monkeypatch.setattr(served.backup.cluster.database, "others", lambda: "wiki")
    with pytest.raises(served.host.program.Failed, match=r"its server has what somebody else has made \(wiki\)"):
        restored(served, monkeypatch, over=False)


def test_restore_that_was_cut_off_in_a_try(served: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database has its folder again, whatever becomes of the next one."""
    program, data = served.host.program, served.backup.cluster.data  # noqa: F811
    rename = os.rename

    def cut(source: Any, target: Any, **folders: Any) -> None:
        rename(source, target, **folders)
        if str(target).startswith(".pacs-try-"):
            raise KeyboardInterrupt

    monkeypatch.setattr(program.os, "rename", cut)
    monkeypatch.setattr(program.Restore, "stopped", lambda self, *_given: self.tried(self.recovered))
    with pytest.raises(KeyboardInterrupt):
        restored(served, monkeypatch)
    assert not data.exists()
    monkeypatch.setattr(program.os, "rename", rename)
    (served.host.state / "moves.json").unlink()
    with pytest.raises(program.Failed, match="Nothing was restored, since"):
        restored(served, monkeypatch, over=False)
    assert (data / "of").read_text("utf-8") == "now"

"""Several hosts with one archive: who makes its backups, and how it is had again. Patroni and SQL have stand-ins."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.test_backup import Host, host, program  # noqa: F401
from tests.unit.test_backup_postgresql import Rest

MEMBERS = {"pacs": True, "pacs2": True, "pacs3": False}


class Patroni:
    """Stands in for patronictl, and for SQL on the server of this host."""

    def __init__(self, members: Any) -> None:
        self.roles = {"pacs": "Leader", "pacs2": "Sync Standby", "pacs3": "Replica"}
        self.states = {"pacs": "running"}
        self.told: list[str] = []
        self.said: list[str] = []
        self.databases = {"orthanc": ("orthanc", "Orthanc, by dicom.orthanc")}
        self.archive, self.connected = "", 0
        self.refuses, self.failed = "", Exception
        members.tell, members.asked, members.opened = self.tell, self.asked, self.opened

    def tell(self, *words: str) -> str:
        self.told.append(" ".join(words))
        if words[0] == "switchover":
            if self.refuses:
                raise self.failed(self.refuses)
            self.roles = dict.fromkeys(self.roles, "Sync Standby") | {words[-2]: "Leader"}
        listed = [
            {"Member": name, "Role": role, "State": self.states.get(name, "streaming")}
            for name, role in self.roles.items()
        ]
        return json.dumps(listed)

    def asked(self, question: str, *given: str) -> tuple[Any, ...]:
        if "pg_db_role_setting" in question:
            return (self.archive,) if self.archive else ()
        if "shobj_description" in question:
            return self.databases.get(given[0], ())
        return (False,)

    @contextlib.contextmanager
    def opened(self, user: str = "postgres", name: str = "postgres") -> Iterator[Any]:
        self.said.append(f"as {user} in {name}")
        yield self

    def cursor(self) -> Any:
        return contextlib.nullcontext(self)

    def execute(self, statement: str, given: tuple[Any, ...] = ()) -> None:
        words = " ".join(statement.split())
        self.said.append(words)
        if words.startswith("ALTER DATABASE") and " RENAME " in words:
            old, new = (words.split('"')[place] for place in (1, 3))
            self.databases[new] = self.databases.pop(old)
        if words.startswith("CREATE DATABASE"):
            self.databases[words.split('"')[1]] = ("orthanc", "")
        if words.startswith("ALTER DATABASE") and "pacs.archive" in words:
            self.archive = str(given[0])

    def fetchone(self) -> tuple[Any, ...]:
        self.connected = max(0, self.connected - 1)
        return (self.connected,)


@pytest.fixture
def cluster(program: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    monkeypatch.setattr(program, "KEPT", tmp_path)
    monkeypatch.setattr(program, "SENDS", tmp_path)
    settings: dict[str, Any] = {"host": "pacs", "config_dir": str(tmp_path), "database_port": 5432}
    settings |= {"database_repository": "", "members": MEMBERS, "database_name": "orthanc", "files": False}
    made = program.Cluster(settings | {"database_full_days": 28, "repository": "s3:https://s3/x"})
    (tmp_path / "17" / "main").mkdir(parents=True)
    made.__dict__ |= {"control": "Database system identifier:     77\nBytes per WAL segment:          16777216\n"}
    made.__dict__ |= {"found": ["17", "main", "5432", "online", "postgres", str(tmp_path / "17" / "main"), "log"]}
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    return made


@pytest.mark.parametrize(
    "primary, away, keeper",
    [("pacs", (), "pacs"), ("pacs2", (), "pacs2"), ("pacs3", (), "pacs"), ("pacs3", ("pacs",), "pacs2")],
)
def test_who_is_primary_makes_the_backups_or_else_the_first_with_an_orthanc(
    cluster: Any, primary: str, away: tuple[str, ...], keeper: str
) -> None:
    patroni = Patroni(cluster.members)
    patroni.roles = dict.fromkeys(MEMBERS, "Replica") | {primary: "Leader"}
    patroni.states = dict.fromkeys(away, "stopped")
    assert cluster.members.who == (primary, keeper)
    assert cluster.members.leads() == (primary == "pacs")
    assert cluster.members.keeps() == (keeper == "pacs")


def test_nobody_who_could_is_told(program: Any, cluster: Any) -> None:  # noqa: F811
    patroni = Patroni(cluster.members)
    patroni.roles = dict.fromkeys(MEMBERS, "Replica")
    with pytest.raises(program.Failed, match="No server of the database is primary"):
        cluster.members.leads()
    patroni.roles["pacs3"] = "Leader"
    patroni.states = {"pacs": "stopped", "pacs2": "start failed"}
    with pytest.raises(program.Failed, match=r"pacs3 is primary, and no server beside an Orthanc \(pacs, pacs2\) runs"):
        cluster.members.leads()


@pytest.mark.parametrize(
    "roles, place",
    [
        ({}, "pacs"),
        ({"pacs": "Replica", "pacs3": "Leader"}, "pacs2"),
        ({"pacs": "Replica", "pacs2": "Leader"}, "pacs2"),
        ({"pacs2": "Replica", "pacs3": "Leader", "pacs": "Replica"}, "pacs"),
    ],
)
def test_restore_is_where_the_primary_is_or_can_be_at_once(cluster: Any, roles: dict[str, str], place: str) -> None:
    Patroni(cluster.members).roles |= roles
    assert cluster.members.best() == place


def test_primary_comes_to_where_it_is_restored(program: Any, cluster: Any) -> None:  # noqa: F811
    patroni = Patroni(cluster.members)
    cluster.members.lead()
    assert not [one for one in patroni.told if one.startswith("switchover")]
    patroni.roles = {"pacs": "Sync Standby", "pacs2": "Replica", "pacs3": "Leader"}
    del cluster.members.who
    patroni.failed = program.Failed
    patroni.refuses = "candidate name does not match with sync_standby"
    with pytest.raises(program.Failed, match=r"pacs does not take its place: candidate .* --leader pacs3 --candidate"):
        cluster.members.lead()
    patroni.refuses = ""
    cluster.members.lead()
    assert "switchover 17-main --leader pacs3 --candidate pacs --force" in patroni.told
    assert cluster.members.leads()


def test_name_of_an_archive_is_in_its_database(program: Any, cluster: Any, host: Host) -> None:  # noqa: F811
    patroni, made = Patroni(cluster.members), host.backup()
    made.cluster = cluster
    assert made.name() == ""
    made.named("3f1c0000-0000-4000-8000-000000000001")
    assert made.name() == "3f1c0000-0000-4000-8000-000000000001"
    assert made.marked()
    patroni.roles |= {"pacs": "Replica", "pacs2": "Leader"}
    del cluster.members.who
    with pytest.raises(program.Failed, match="pacs2 is primary, and not pacs: say it of that one"):
        made.named("other")


def test_swap_lets_nobody_in_from_the_beginning_and_is_one_step(program: Any, cluster: Any) -> None:  # noqa: F811
    patroni = Patroni(cluster.members)
    with pytest.raises(program.Failed, match="There is no database orthanc_restored"):
        cluster.members.swapped("orthanc_before_1")
    patroni.databases["orthanc_restored"] = ("orthanc", "new")
    patroni.connected = 3
    cluster.members.swapped("orthanc_before_1")
    said = [one for one in patroni.said if not one.startswith("as ")]
    assert said[0] == 'ALTER DATABASE "orthanc" ALLOW_CONNECTIONS false'
    assert said[-4:] == [
        "BEGIN",
        'ALTER DATABASE "orthanc" RENAME TO "orthanc_before_1"',
        'ALTER DATABASE "orthanc_restored" RENAME TO "orthanc"',
        "COMMIT",
    ]
    assert patroni.databases["orthanc"] == ("orthanc", "new")
    # A run that was cut off after that does not do it again.
    count = len(patroni.said)
    cluster.members.swapped("orthanc_before_1")
    assert len(patroni.said) == count


def test_swap_waits_for_who_does_not_go_and_changes_nothing(
    program: Any,  # noqa: F811
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patroni = Patroni(cluster.members)
    patroni.databases["orthanc_restored"] = ("orthanc", "new")
    monkeypatch.setattr(patroni, "fetchone", lambda: (2,))
    monkeypatch.setattr(time, "monotonic", iter(range(0, 100_000, 100)).__next__)
    with pytest.raises(program.Failed, match="2 connections to the database orthanc do not end"):
        cluster.members.swapped("orthanc_before_1")
    assert "orthanc_restored" in patroni.databases


def test_database_is_loaded_by_its_own_login(
    program: Any,  # noqa: F811
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patroni, calls = Patroni(cluster.members), []

    def piped(source: list[str], target: list[str]) -> str:
        calls.append((source, target))
        return said

    monkeypatch.setattr(program, "piped", piped)
    recovered: Any = type("Recovered", (), {"sockets": "/run/x/sockets"})
    moment, said = {"user": "then", "database": "archive"}, ""
    patroni.databases["orthanc_restored"] = ("orthanc", "Orthanc, by dicom.orthanc")
    cluster.members.copied(recovered, moment)
    ((source, target),) = calls
    assert {"--host=/run/x/sockets", "--username=then", "archive"} <= set(source)
    assert {"--username=orthanc", "--dbname=orthanc_restored", "--no-owner", "--exit-on-error"} <= set(target)
    # What a run has left that was cut off goes first.
    drop = next(number for number, one in enumerate(patroni.said) if one.startswith("DROP DATABASE IF EXISTS"))
    assert patroni.said[drop + 1].startswith('CREATE DATABASE "orthanc_restored" OWNER "orthanc" TEMPLATE template0')
    said = "pg_restore: error: it is full"
    with pytest.raises(program.Failed, match=r"Nothing was restored: .* it is full"):
        cluster.members.copied(recovered, moment)
    patroni.databases["orthanc_restored"] = ("somebody", "theirs")
    with pytest.raises(program.Failed, match="orthanc_restored is somebody else's"):
        cluster.members.copied(recovered, moment)


def test_what_a_pipe_fails_with_is_told(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(program, "user", dict)
    assert program.piped(["printf", "x"], ["cat"]) == ""
    assert program.piped(["sh", "-c", "echo no dump >&2; exit 3"], ["cat"]) == "no dump"
    assert program.piped(["printf", "x"], ["sh", "-c", "echo no room >&2; exit 1"]) == "no room"
    assert program.piped(["printf", "x"], ["sh", "-c", "kill -9 $$"]) == "It was killed."


@pytest.mark.parametrize("gone, pieces", [((), 0), (("00000001", 5), 1), (("00000002", 9), 1), (("00000001", 9), 0)])
def test_log_that_lacks_where_another_server_became_primary_is_told(
    cluster: Any, gone: tuple[str, int], pieces: int
) -> None:
    Patroni(cluster.members)
    rest = Rest(cluster)
    rest.made(100.0, "0/3000000", line=1)
    rest.lines = {2: (400.0, "1\t0/9000000\tno recovery target specified\n")}
    rest.made(500.0, "0/B000000", line=2)
    there = [("00000001", one) for one in range(4, 9)] + [("00000002", one) for one in (9, 10)]
    rest.log = {f"{line}00000000{one:08X}": 300.0 for line, one in there if (line, one) != gone}
    assert cluster.lacking(*rest.info["backup"]).get("pieces", 0) == pieces


def test_log_of_another_host_is_waited_for(
    program: Any,  # noqa: F811
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rest = Rest(cluster)
    rest.info["archive"] = [{"id": "17-1", "database": {"id": 1}, "max": "000000020000000000000009"}]
    cluster.reached({"lsn": "0/9000028", "timeline": "00000002"})
    cluster.reached({"lsn": "0/FF000028", "timeline": "00000001"})
    monkeypatch.setattr(time, "monotonic", iter(range(0, 100_000, 600)).__next__)
    with pytest.raises(program.Failed, match="00000002000000000000000A is not there"):
        cluster.reached({"lsn": "0/A000028", "timeline": "00000002"})

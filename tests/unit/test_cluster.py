"""What is done to a cluster, with stand-ins for the programs that know it, and what the verification tells of it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import types
from typing import Any

import pytest

from tests.repository import ROOT
from verification import test_cluster as checks
from verification.expect import Unexpected

FILES = ROOT / "roles" / "postgresql" / "files"
AGREED = {"loop_wait": 0, "postgresql": {"parameters": {"max_connections": 26}}}
WANTED = {"loop_wait": 0, "postgresql": {"parameters": {"max_connections": 77}}}


class Patroni:
    """Three servers, and what was asked of them.

    :ivar lower: whether the new number is lower, so that a standby takes it after its primary alone.
    :ivar ill: who does not come back from a restart with what is wanted.
    """

    def __init__(self, lower: bool = False, ill: str = "") -> None:
        self.agreed: Any = AGREED
        self.members = {
            "a": {"Member": "a", "Role": "Leader", "State": "running"},
            "b": {"Member": "b", "Role": "Sync Standby", "State": "streaming"},
            "c": {"Member": "c", "Role": "Replica", "State": "streaming"},
        }
        self.lower, self.ill, self.asked = lower, ill, []  # type: tuple[bool, str, list[str]]

    @property
    def leader(self) -> str:
        return next(name for name, one in self.members.items() if one["Role"] == "Leader")

    def __call__(self, *command: str, given: str | None = None) -> Any:
        verb, rest = command[3], command[4:]
        out = ""
        if verb == "list":
            out = json.dumps(list(self.members.values()))
        elif verb == "show-config":
            out = json.dumps(self.agreed)
        elif verb == "edit-config":
            self.agreed = json.loads(given or "")
            self.asked.append(f"agree on {self.agreed['postgresql']['parameters']['max_connections']}")
            for one in self.members.values():
                one["Pending restart"] = "*"
        elif verb == "restart":
            name = rest[1]
            self.asked.append(f"restart {name}")
            later = self.lower and name != self.leader and self.members[self.leader].get("Pending restart")
            if not later:
                self.members[name].pop("Pending restart", None)
            self.members[name]["State"] = "stopped" if name == self.ill and self.agreed == WANTED else "streaming"
        elif verb == "switchover":
            old, new = rest[2], rest[4]
            self.asked.append(f"{new} for {old}")
            self.members[old]["Role"], self.members[new]["Role"] = "Sync Standby", "Leader"
        return types.SimpleNamespace(returncode=0, stdout=out, stderr="")


@pytest.fixture
def program() -> Any:
    made: dict[str, Any] = {"__name__": "cluster"}
    exec(compile((FILES / "cluster.py").read_text("utf-8"), "cluster.py", "exec"), made)
    made["PATIENCE"] = made["PAUSE"] = 0.0
    made["Cluster"].wait.__defaults__ = (0.0,)
    return made


def agree(program: Any, patroni: Patroni, look: bool = False) -> list[str]:
    program["run"] = patroni
    program["agree"](program["Cluster"]("/etc/patroni/17-main.yml", "17-main"), WANTED, look)
    return patroni.asked


def test_primary_is_restarted_last_and_as_a_standby(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = agree(program, Patroni())
    assert asked == ["agree on 77", "restart b", "restart c", "b for a", "restart a"]
    assert capsys.readouterr().out == "changed\n"


def test_lower_number_is_for_the_primary_first(program: Any) -> None:
    patroni = Patroni(lower=True)
    asked = agree(program, patroni)
    assert asked == ["agree on 77", "restart b", "restart c", "restart a", "restart b", "restart c"]
    assert patroni.leader == "a"


def test_first_that_fails_is_the_last(program: Any) -> None:
    patroni = Patroni(ill="b")
    with pytest.raises(program["Stuck"], match=r"b has not come back.*All servers agree on what they did before"):
        agree(program, patroni)
    assert patroni.asked[:3] == ["agree on 77", "restart b", "agree on 26"]
    assert patroni.agreed == AGREED


def test_nothing_is_done_twice_nor_in_check_mode(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    patroni = Patroni()
    assert agree(program, patroni, look=True) == []
    assert capsys.readouterr().out == "changed\n"
    patroni.agreed = WANTED
    assert agree(program, patroni) == []
    assert capsys.readouterr().out == ""
    # What a run that was cut off has left.
    patroni.members["c"]["Pending restart"] = "*"
    assert agree(program, patroni) == ["restart c"]


@pytest.mark.parametrize(
    "name, pending, ended, asked", [("a", "0", 0, []), ("a", "1", 1, ["b for a"]), ("b", "1", 1, [])]
)
def test_primary_gives_its_place_away_before_it_is_restarted(
    program: Any, name: str, pending: str, ended: int, asked: list[str]
) -> None:
    patroni = Patroni()

    def run(*command: str, given: str | None = None) -> Any:
        if command[0] == "patronictl":
            return patroni(*command, given=given)
        said = pending if "pending_restart" in command[-1] else "t"
        return types.SimpleNamespace(returncode=0, stdout=said, stderr="")

    program["run"] = run
    cluster = program["Cluster"]("/etc/patroni/17-main.yml", "17-main")
    assert program["reload"](cluster, name, "patroni@17-main") == ended
    assert patroni.asked == asked


MEMBERS = """\
1, started, pacs, https://192.0.2.1:2380, https://192.0.2.1:2379, false
2, started, pacs2, https://192.0.2.2:2380, https://192.0.2.2:2379, false
3, started, pacs3, https://192.0.2.3:2380, https://192.0.2.3:2379, false
"""
ETCDCTL = """#!/bin/sh
case "$2" in
    list) cat "$FOLDER/members"; exit;;
esac
echo "$@" >> "$FOLDER/asked"
[ "$2 $3" != "remove $REFUSED" ]
"""


def etcd(folder: pathlib.Path, script: str, *arguments: str, refused: str = "") -> tuple[str, list[str]]:
    """Run a script of the role; return what it said, and what it asked of etcd."""
    program = folder / "etcdctl"
    program.write_text(ETCDCTL, encoding="utf-8")
    program.chmod(0o755)
    (folder / "asked").write_text("", encoding="utf-8")
    text = (ROOT / "roles" / "etcd" / "files" / script).read_text("utf-8")
    surroundings = {"PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": str(folder), "REFUSED": refused}
    done = subprocess.run(
        ["sh", "-euc", text, "sh", *arguments], env=surroundings, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), (folder / "asked").read_text(encoding="utf-8").splitlines()


def url(number: int) -> str:
    return f"https://192.0.2.{number}:2380"


@pytest.mark.parametrize(
    "members, numbers, refused, said, asked",
    [
        # It has lost its data.
        (MEMBERS, (1, 2, 3), "", "added", ["member remove 3", f"member add new --peer-urls={url(3)}"]),
        # It was let in by a run that was cut off.
        (MEMBERS.replace("3, started", "3, unstarted"), (1, 2, 3), "", "", []),
        # It is in the place of another one, and of one that works and one that does not the latter goes.
        (MEMBERS, (1, 2, 4), "", "added", ["member remove 3", f"member add new --peer-urls={url(4)}"]),
        (
            MEMBERS,
            (1, 5, 4),
            "2",
            "added",
            ["member remove 2", "member remove 3", f"member add new --peer-urls={url(4)}"],
        ),
        # It is one more.
        (MEMBERS, (1, 2, 3, 4), "", "added", [f"member add new --peer-urls={url(4)}"]),
    ],
)
def test_member_of_etcd_joins(
    tmp_path: pathlib.Path, members: str, numbers: tuple[int, ...], refused: str, said: str, asked: list[str]
) -> None:
    (tmp_path / "members").write_text(members, encoding="utf-8")
    wanted = ",".join(map(url, numbers))
    assert etcd(tmp_path, "join.sh", "new", url(numbers[-1]), wanted, refused=refused) == (said, asked)


def test_members_of_etcd_that_the_inventory_does_not_have_leave(tmp_path: pathlib.Path) -> None:
    (tmp_path / "members").write_text(MEMBERS, encoding="utf-8")
    urls, told = f"{url(1)},{url(2)}", f"left: pacs3, {url(3)}"
    assert etcd(tmp_path, "leave.sh", urls, "pacs,pacs2") == (told, ["member remove 3"])
    assert etcd(tmp_path, "leave.sh", urls, "pacs,pacs2", "look") == (told, [])
    assert etcd(tmp_path, "leave.sh", f"{urls},{url(3)}", "pacs,pacs2,other") == ("", [])
    # One that has moved is none of others.
    assert etcd(tmp_path, "leave.sh", f"{urls},{url(4)}", "pacs,pacs2,pacs3") == ("", [])
    (tmp_path / "members").write_text(MEMBERS.replace("started, pacs3", "unstarted, "), encoding="utf-8")
    assert etcd(tmp_path, "leave.sh", urls, "pacs,pacs2")[1] == ["member remove 3"]


SITE: Any = types.SimpleNamespace(
    cluster={"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3"},
    etcd={"a": "192.0.2.1:2379", "b": "192.0.2.2:2379", "d": "192.0.2.4:2379"},
)


def seen(**changes: dict[str, Any] | None) -> checks.Cluster:
    """Return a cluster as it has to be, but for the changes to its servers, or to etcd's members in capitals."""
    servers: dict[str, dict[str, Any]] = {
        "a": {"name": "a", "role": "leader", "state": "running", "timeline": 3},
        "b": {"name": "b", "role": "sync_standby", "state": "streaming", "timeline": 3, "lag": 0},
        "c": {"name": "c", "role": "replica", "state": "streaming", "timeline": 3, "lag": 1 << 20},
    }
    etcd: dict[str, dict[str, Any]] = {
        name: {"id": name, "leader": "b", "members": ["1", "2", "3"], "alarms": []} for name in "abd"
    }
    for name, change in changes.items():
        known = etcd if name.isupper() else servers
        if change is None:
            del known[name.lower()]
        else:
            known[name.lower()] |= change
    return checks.Cluster(servers, etcd, False)


def test_cluster_as_it_has_to_be() -> None:
    cluster = seen()
    checks.test_one_server_is_primary(SITE, cluster)
    checks.test_all_others_follow_it(SITE, cluster)
    checks.test_what_is_acknowledged_is_on_two_hosts(cluster)
    checks.test_etcd_has_all_its_members(SITE, cluster)
    checks.test_another_server_could_take_its_place(SITE, cluster)
    assert [server.words for server in checks.told(SITE, cluster)] == [
        "a: primary, running, timeline 3; etcd: member",
        "b: standby in step, streaming, timeline 3, 0.0 MiB behind; etcd: leader",
        "c: standby, streaming, timeline 3, 1.0 MiB behind",
        "d: no server; etcd: member",
    ]


@pytest.mark.parametrize(
    "change, words",
    [
        (None, "is away"),
        ({"state": "start failed"}, "start failed"),
        ({"timeline": 2}, "is on timeline 2, and the primary on 3"),
        ({"lag": 65 << 20}, "is 65 MiB behind"),
        ({"lag": "unknown"}, "does not tell"),
    ],
)
def test_standby_that_does_not_follow(change: dict[str, Any] | None, words: str) -> None:
    with pytest.raises(Unexpected, match=words):
        checks.test_all_others_follow_it(SITE, seen(c=change))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"problem": "refused"}, "refused"),
        ({"leader": "a"}, "how many leaders"),
        ({"members": ["1", "2", "3", "4"]}, "how many members"),
        ({"alarms": ["NOSPACE"]}, "NOSPACE"),
    ],
)
def test_etcd_that_is_not_as_it_has_to_be(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Unexpected, match=words):
        checks.test_etcd_has_all_its_members(SITE, seen(D=change))


@pytest.mark.parametrize(
    "changes, words",
    [({"b": {"tags": {"nofailover": True}}}, "no standby"), ({"D": {"problem": "refused"}}, "one of etcd's")],
)
def test_place_that_nobody_could_take(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Unexpected, match=words):
        checks.test_another_server_could_take_its_place(SITE, seen(**changes))


def test_nobody_is_primary() -> None:
    with pytest.raises(Unexpected, match="how many servers are primary"):
        checks.test_one_server_is_primary(SITE, seen(a=None))

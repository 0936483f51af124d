"""What is done to a cluster, with stand-ins for the programs that know it, and what the verification tells of it."""

from __future__ import annotations

import itertools
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
        self.lower, self.ill, self.cut_off, self.asked = lower, ill, False, []  # type: tuple[bool, str, bool, list[str]]

    @property
    def bad(self) -> bool:
        return bool(self.agreed["postgresql"] == WANTED["postgresql"])

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
        elif verb == "reinit":
            self.asked.append(f"{rest[1]} anew")
            self.members[rest[1]]["State"] = "creating replica"
        elif verb == "edit-config":
            self.agreed, before = json.loads(given or ""), self.agreed
            if self.agreed["postgresql"] != before["postgresql"]:
                self.asked.append(f"agree on {self.agreed['postgresql']['parameters']['max_connections']}")
                for one in self.members.values():
                    one["Pending restart"] = "*"
            if self.cut_off:
                raise KeyboardInterrupt
        elif verb == "restart":
            name = rest[1]
            self.asked.append(f"restart {name}")
            later = self.lower and name != self.leader and self.members[self.leader].get("Pending restart")
            if not later:
                self.members[name].pop("Pending restart", None)
            self.members[name]["State"] = "stopped" if name == self.ill and self.bad else "streaming"
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


def test_run_that_was_cut_off_is_gone_back_from(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What they did before is kept beside what they agree on, for whoever comes next, until that is proved."""
    patroni = Patroni()
    patroni.cut_off = True
    with pytest.raises(KeyboardInterrupt):
        agree(program, patroni)
    patroni.cut_off = False
    assert patroni.agreed == {**WANTED, "pacs_before": AGREED}
    kept = patroni.agreed
    assert agree(program, patroni)[-1] == "restart a"
    assert patroni.agreed == WANTED
    patroni.agreed = kept
    capsys.readouterr()
    # Before a server is changed, be it that it does not even start with that.
    assert follow(program, patroni, "c", active=False) == 0
    assert patroni.agreed == AGREED
    assert "on what they did before a run that was cut off" in capsys.readouterr().out
    assert follow(program, patroni, "c", active=False) == 0
    assert capsys.readouterr().out == ""


def test_server_that_was_stopped_is_started(
    program: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = tmp_path / "17-main.yml"
    configuration.touch()
    patroni = Patroni()
    assert follow(program, patroni, "c", False, str(configuration), follows="t", look="look") == 0
    assert (patroni.asked, capsys.readouterr().out) == ([], "")
    assert follow(program, patroni, "c", False, str(configuration), follows="t") == 0
    assert (patroni.asked, capsys.readouterr().out) == (["start patroni@17-main"], "c was started.\n")


def follow(
    program: Any,
    patroni: Patroni,
    name: str,
    active: bool = True,
    configuration: str = "/etc/patroni/17-main.yml",
    **said: str,
) -> int:
    """Have a server follow its primary, which answers each question by a word: ``t`` to ``follows`` where it does."""
    questions = {
        "pg_stat_wal_receiver": "follows",
        "greatest": "place",
        "primary_conninfo": "told",
        "pg_ls_dir": "gone",
    }

    def run(*command: str, given: str | None = None) -> Any:
        if command[0] == "patronictl":
            return patroni(*command, given=given)
        if command[0] == "systemctl":
            patroni.asked += [" ".join(command[1:])] * (command[1] == "start")
            runs = active or "start patroni@17-main" in patroni.asked
            return types.SimpleNamespace(returncode=0 if runs else 3, stdout="", stderr="")
        (word,) = [word for part, word in questions.items() if part in command[-1]]
        if word == "gone":
            assert command[command.index("-d") + 1] == "host=a connect_timeout=5 dbname=postgres user=pacs_rewind"
            assert "'0/5'" in command[-1]
        if word == "follows" and patroni.members[name]["State"].startswith("creating"):
            patroni.members[name]["State"] = "streaming"
            return types.SimpleNamespace(returncode=0, stdout="t\n", stderr="")
        return types.SimpleNamespace(returncode=0, stdout=said.get(word, "") + "\n", stderr="")

    program["run"] = run
    cluster = program["Cluster"](configuration, "17-main")
    ended: int = program["follow"](cluster, name, "patroni@17-main", "pacs_rewind", said.get("look") == "look")
    return ended


def test_standby_that_was_away_too_long_gets_all_anew(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    program["PATIENCE"], program["STILL"] = 0.5, 0.0
    lost: dict[str, Any] = {"place": "0/5", "told": "host=a", "gone": "t"}
    patroni = Patroni()
    assert follow(program, patroni, "c", follows="t", **lost) == 0
    assert patroni.asked == []
    assert capsys.readouterr().out == ""
    assert follow(program, patroni, "c", **lost, look="look") == 0
    assert patroni.asked == []
    assert "c gets all data anew" in capsys.readouterr().out
    assert follow(program, patroni, "c", **lost) == 0
    assert patroni.asked == ["c anew"]
    assert "c gets all data anew" in capsys.readouterr().out


def test_standby_that_never_gets_its_data_is_not_waited_for_without_end(program: Any) -> None:
    program["PATIENCE"] = 0.2
    patroni = Patroni()
    states = itertools.cycle(["creating replica", "stopped"])

    def run(*command: str, given: str | None = None) -> Any:
        if command[0] == "patronictl":
            patroni.members["c"]["State"] = next(states)
            return patroni(*command, given=given)
        return types.SimpleNamespace(returncode=0, stdout="", stderr="")

    program["run"] = run
    cluster = program["Cluster"]("/etc/patroni/17-main.yml", "17-main")
    assert program["follow"](cluster, "c", "patroni@17-main", "pacs_rewind", False) == 1


@pytest.mark.parametrize(
    "still, said",
    [
        # What it lacks is there, as after a short time away; the primary does not answer, or is none; it reads its log.
        (0.0, {"place": "0/5", "told": "host=a", "gone": "f"}),
        (0.0, {"place": "0/5", "told": "host=a", "gone": ""}),
        (0.0, {"place": "0/5"}),
        (9.0, {"place": "0/5", "told": "host=a", "gone": "t"}),
        (0.0, {}),
    ],
)
def test_standby_keeps_its_data(
    program: Any, capsys: pytest.CaptureFixture[str], still: float, said: dict[str, Any]
) -> None:
    program["PATIENCE"], program["STILL"] = 0.1, still
    patroni = Patroni()
    assert follow(program, patroni, "c", **said) == 1
    assert patroni.asked == []
    assert capsys.readouterr().out == ""


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
[ "$2 $3" != "$REFUSED" ]
"""


def etcd(
    folder: pathlib.Path, script: str, *arguments: str, refused: str = "", verb: str = "remove"
) -> tuple[str, list[str]]:
    """Run a script of the role; return what it said, and what it asked of etcd."""
    program = folder / "etcdctl"
    program.write_text(ETCDCTL, encoding="utf-8")
    program.chmod(0o755)
    (folder / "asked").write_text("", encoding="utf-8")
    text = (ROOT / "roles" / "etcd" / "files" / script).read_text("utf-8")
    surroundings = {"PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": str(folder), "REFUSED": f"{verb} {refused}"}
    done = subprocess.run(
        ["sh", "-euc", text, "sh", *arguments], env=surroundings, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), (folder / "asked").read_text(encoding="utf-8").splitlines()


CONTROL = """\
Database cluster state:               {state}
Latest checkpoint location:           {checkpoint}
Latest checkpoint's REDO location:    0/1
Latest checkpoint's TimeLineID:       {timeline}
Latest checkpoint's PrevTimeLineID:   9
Minimum recovery ending location:     {reached}
Min recovery ending loc's timeline:   {reached_timeline}
"""


@pytest.mark.parametrize(
    "control, told",
    [
        (("shut down", "0/5001C508", 1, "0/0", 0), "timeline 1, at 0/5001C508, shut down"),
        (
            ("shut down in recovery", "0/FFFFFF", 1, "0/1000000", 2),
            "timeline 2, at 0/1000000, shut down in recovery",
        ),
        (("shut down in recovery", "9/FFFFFF", 12, "A/1", 12), "timeline 12, at A/1, shut down in recovery"),
        (("shut down in recovery", "F/FF", 1, "10/1", 1), "timeline 1, at 10/1, shut down in recovery"),
    ],
)
def test_how_far_data_go_is_told(tmp_path: pathlib.Path, control: tuple[Any, ...], told: str) -> None:
    """For people, who have to choose where etcd has lost what it knew."""
    names = ("state", "checkpoint", "timeline", "reached", "reached_timeline")
    (tmp_path / "control").write_text(CONTROL.format(**dict(zip(names, control, strict=True))), encoding="utf-8")
    data, programs, listed = tmp_path / "15" / "main", tmp_path / "15" / "bin", tmp_path / "systemctl"
    for folder in (data, programs):
        folder.mkdir(parents=True)
    for program, file in ((programs / "pg_controldata", "control"), (listed, "units")):
        program.write_text(f"#!/bin/sh\ncat {tmp_path / file}\n", encoding="utf-8")
        program.chmod(0o755)
    (tmp_path / "units").touch()
    text = (ROOT / "roles" / "etcd" / "files" / "databases.sh").read_text("utf-8")
    text = text.replace("/var/lib/postgresql", str(tmp_path)).replace("/usr/lib/postgresql", str(tmp_path))

    def say() -> str:
        surroundings = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.run(["sh", "-euc", text], env=surroundings, capture_output=True, text=True, check=True).stdout

    assert say() == ""
    # What was moved away goes nowhere.
    data.with_name("main.before").mkdir()
    (data.with_name("main.before") / "patroni.dynamic.json").touch()
    assert say() == ""
    (data / "patroni.dynamic.json").touch()
    assert say() == f"data: {told} ({data})\n"
    (tmp_path / "units").write_text("patroni@15-main.service loaded active running\n", encoding="utf-8")
    assert say() == f"data: {told} ({data})\nruns: Patroni\n"


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


def test_member_of_etcd_that_the_others_cannot_take_in_is_told_what_helps(tmp_path: pathlib.Path) -> None:
    (tmp_path / "members").write_text(MEMBERS, encoding="utf-8")
    (tmp_path / "sleep").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "sleep").chmod(0o755)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        etcd(tmp_path, "join.sh", "new", url(3), ",".join(map(url, (1, 2, 3))), refused="new", verb="add")
    assert "Where most of them are gone, docs/cluster.md tells what to do." in failed.value.stderr


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
    places = {
        "a": {"location": 9 << 30},
        "b": {"received_location": 9 << 30, "replayed_location": 9 << 30},
        # A server that is older than that, or ends meanwhile, says nothing.
        "c": {},
    }
    for name, change in changes.items():
        if change and "places" in change:
            places[name] = change["places"]
            continue
        known = etcd if name.isupper() else servers
        if change is None:
            del known[name.lower()]
        else:
            known[name.lower()] |= change
    return checks.Cluster(servers, etcd, False, places)


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
        ({"places": {"received_location": (9 << 30) + 8, "replayed_location": 5}}, "has another history"),
        ({"places": {"received_location": 9 << 30, "replayed_location": 8 << 30}}, "is 1024 MiB behind"),
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

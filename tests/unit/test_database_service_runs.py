"""The module database_service from its call to its end, with stand-ins for systemd and the server."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import files
from ansible_collections.dicom.orthanc.plugins.modules import database_service

from tests.unit.module import OWNER, SYSTEMCTL, Systemd, killed, run

UNIT = "postgresql@17-main"
START = ["daemon-reload", f"unmask --quiet --no-reload {UNIT}", f"enable --quiet --no-reload {UNIT}", "daemon-reload"]
AGAIN = ["daemon-reload", f"reset-failed {UNIT}", f"restart {UNIT}"]
Call = Callable[..., dict[str, Any]]


@pytest.fixture
def systemd(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setattr(files, "LOCK", str(tmp_path / "lock"))
    return Systemd(tmp_path / "bin", monkeypatch)


@pytest.fixture
def call(tmp_path: pathlib.Path, systemd: Systemd, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the module with a file; the server takes what has no ``bad`` in it, and says so."""
    systemd.program("ready", f"echo why >&2; [ -e {systemd.folder}/active ] && ! grep -q bad {tmp_path}/pacs.conf")

    def called(content: str = "port = 1\n", **more: Any) -> dict[str, Any]:
        file = OWNER | {"path": str(tmp_path / "pacs.conf"), "content": content, "mode": "0644"}
        arguments = {"unit": UNIT, "files": [file], "ready": ["ready"], "state_dir": str(tmp_path / "state")}
        return run(database_service, capsys, **(arguments | {"timeout": 1} | more))

    return called


def test_server_is_started_once(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    path = str(tmp_path / "pacs.conf")
    dry = call(_ansible_check_mode=True)
    assert (dry["changed"], dry["paths"], systemd.calls(), os.path.exists(path)) == (True, [path], [], False)
    said = call()
    assert (said["changed"], said["paths"], said["diff"][0]["after"]) == (True, [path], "port = 1\n")
    assert systemd.calls() == [*START, *AGAIN[1:]]
    said = call()
    assert (said["changed"], said["paths"], systemd.calls()) == (False, [], [])
    assert os.listdir(tmp_path / "state") == []


@pytest.mark.parametrize("lacking", ["active", "enabled"])
def test_server_that_was_stopped_is_started(systemd: Systemd, call: Call, lacking: str) -> None:
    call()
    (systemd.folder / lacking).unlink()
    systemd.calls()
    assert call()["changed"]
    assert systemd.calls() == (AGAIN if lacking == "active" else [*START, *AGAIN[1:]])


def test_cluster_that_nobody_starts_at_boot(systemd: Systemd, call: Call) -> None:
    """systemd says that it is enabled, while the service that starts all clusters is not."""
    call()
    systemd.write("generated")
    systemd.calls()
    assert not call()["changed"]
    assert systemd.calls() == []
    (systemd.folder / "enabled").unlink()
    assert call(may_restart=False)["changed"] is False, "that of others is theirs"
    assert systemd.calls() == []
    assert call()["changed"]
    assert systemd.calls() == [*START, *AGAIN[1:]]


def test_unit_that_the_packages_look_at_is_enabled(systemd: Systemd, call: Call) -> None:
    """Where it is not, an upgrade leaves the server down."""
    call()
    systemd.calls()
    name = systemd.folder / "systemctl"
    own = """case "$*" in "is-enabled postgresql") test -e "$0-all"; exit ;;
enable*postgresql) touch "$0-all"; exit ;; esac
"""
    systemd.program("systemctl", own + name.read_text("utf-8"))
    assert call(enabled=["postgresql"], _ansible_check_mode=True)["changed"]
    assert call(enabled=["postgresql"])["changed"]
    assert pathlib.Path(f"{name}-all").exists()
    assert systemd.calls()[:2] == [START[0], "unmask --quiet --no-reload postgresql"]
    assert not call(enabled=["postgresql"])["changed"]


def test_what_else_was_changed_is_a_reason_too(systemd: Systemd, call: Call) -> None:
    call()
    systemd.calls()
    assert call(changed=True)["changed"]
    assert systemd.calls() == AGAIN


@pytest.mark.parametrize(
    "reload, may_restart, expected",
    [(["true"], True, AGAIN[:1]), (["false"], True, AGAIN), (["false"], False, AGAIN[:1]), ([], False, AGAIN[:1])],
)
def test_server_that_runs_is_reloaded_where_that_is_enough(
    systemd: Systemd, call: Call, reload: list[str], may_restart: bool, expected: list[str]
) -> None:
    call()
    systemd.calls()
    call("port = 2\n", reload=reload, may_restart=may_restart)
    assert systemd.calls() == expected


def test_server_that_must_not_be_restarted_goes_back(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    """Such as a primary whose place nobody takes."""
    call()
    systemd.calls()
    systemd.program("refuses", f"! grep -q 'port = 2' {tmp_path}/pacs.conf || {{ echo Nobody follows. >&2; exit 2; }}")
    said = call("port = 2\n", reload=["refuses"])
    assert said["failed"]
    assert "was not restarted with its new settings. Nobody follows." in said["msg"]
    assert "The configuration that worked last is back" in said["msg"]
    assert (tmp_path / "pacs.conf").read_text("utf-8") == "port = 1\n"
    assert not [command for command in systemd.calls() if command.startswith("restart")]


def test_server_that_does_not_run_is_not_reloaded(systemd: Systemd, call: Call) -> None:
    call(reload=["true"], may_restart=False)
    assert systemd.calls() == [*START, *AGAIN[1:]]


def test_bad_setting_goes_back(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    call()
    said = call("bad\n")
    assert said["msg"].startswith(f"{UNIT} does not work with its new settings.")
    assert f"The configuration that worked last is back, and {UNIT} serves with it." in said["msg"]
    assert said["msg"].endswith("It says:\nwhy")
    assert (tmp_path / "pacs.conf").read_text("utf-8") == "port = 1\n"
    assert not call()["changed"]


def test_server_that_says_something_against_its_settings(systemd: Systemd, call: Call) -> None:
    """It runs with the others of them, and would not start the next time."""
    call()
    systemd.program("ready", "echo 'line 7: no such setting'")
    assert "It says:\nline 7: no such setting" in call("port = 2\n")["msg"]


@pytest.mark.parametrize(
    "journal, told",
    [
        ("LOG: 1\nFATAL: a\nLOG: 2\nFATAL: b\nFATAL: a\n", "FATAL: a\nFATAL: b"),
        ("[Note] 1\n[ERROR] a\n", "[ERROR] a"),
        ("\n".join(f"LOG: {number}" for number in range(9)), "\n".join(f"LOG: {number}" for number in range(3, 9))),
    ],
)
def test_what_the_journal_says_of_it(systemd: Systemd, call: Call, journal: str, told: str) -> None:
    systemd.write("journal", journal)
    systemd.write("works", "false")
    said = call()
    assert said["failed"]
    assert said["msg"].endswith(f"It says:\n{told}")


@pytest.mark.parametrize("later, told", [(99, "FATAL: why"), (100, "LOG: 99")])
def test_how_far_back_the_journal_is_read(systemd: Systemd, call: Call, later: int, told: str) -> None:
    """What an earlier start has said is not what is wrong now."""
    systemd.write("journal", "FATAL: why\n" + "".join(f"LOG: {number}\n" for number in range(later)))
    systemd.write("works", "false")
    assert call()["msg"].endswith(f"\n{told}")


def test_call_that_was_cut_off_is_done_again(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    call()
    (tmp_path / "state" / "before.json").write_text("{}", "utf-8")
    systemd.calls()
    assert call()["changed"]
    assert systemd.calls() == AGAIN
    assert not call()["changed"]


def test_setting_that_another_file_overrides(systemd: Systemd, call: Call) -> None:
    systemd.program("overridden", "echo port is overridden by z.conf")
    assert call(overridden=["overridden"])["msg"] == "port is overridden by z.conf"
    # What is not written yet cannot be undone.
    assert call("port = 2\n", overridden=["overridden"], _ansible_check_mode=True)["changed"]
    assert call(overridden=["overridden"], _ansible_check_mode=True)["failed"]
    systemd.program("overridden", "echo why >&2; exit 1")
    assert call(overridden=["overridden"])["msg"] == "why"
    assert not call(overridden=["true"])["changed"]


def test_part_in_a_file_of_others(tmp_path: pathlib.Path, call: Call) -> None:
    path = tmp_path / "pacs.conf"
    path.write_text("theirs\n", "utf-8")
    call("ours\n", parts=[str(path)])
    assert path.read_text("utf-8") == f"{database_service.BEGIN}\nours\n{database_service.END}\ntheirs\n"
    assert not call("ours\n", parts=[str(path)])["changed"]
    assert call("ours\n")["changed"], "no part"


def test_part_in_what_cannot_be_read_changes_nothing(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    path = tmp_path / "pacs.conf"
    path.mkdir()
    assert "Is a directory" in call("ours\n", parts=[str(path)])["msg"]
    assert (path.is_dir(), systemd.calls()) == (True, [])


def test_part_in_a_link_changes_nothing(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    path = tmp_path / "pacs.conf"
    path.symlink_to("key")
    said = call("ours\n", parts=[str(path)])
    assert said["msg"] == f"{path}: it is a link, which is not followed; put the file itself there."
    assert (path.is_symlink(), systemd.calls()) == (True, [])


def test_killed_call_is_brought_to_its_end(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    """Wherever it was killed: the server has read what was written, and what was kept is gone."""
    read = systemd.folder / "read"
    systemd.program("systemctl", f"case $1 in restart) cp {tmp_path}/pacs.conf {read} ;; esac\n{SYSTEMCTL}")
    call()
    for step in itertools.count(1):
        text = f"port = {step}\n"
        if not killed(lambda text=text: call(text), step):  # type: ignore[misc]
            break
        call(text)
        assert (read.read_text("utf-8"), os.listdir(tmp_path / "state")) == (text, []), step
        assert call(text)["changed"] is False
    assert step > 10

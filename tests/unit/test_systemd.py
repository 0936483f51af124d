"""What is asked of systemd about a unit, and what its answers mean."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.files import Refused
from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import Unit

from tests.unit.module import Module, Systemd


@pytest.fixture
def systemd(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    return Systemd(tmp_path / "bin", monkeypatch)


def test_unit_is_told_and_says_how_it_went(systemd: Systemd) -> None:
    unit = Unit(Module(), "orthanc.service")
    assert not unit.active
    assert unit.tell("restart")
    assert unit.active
    systemd.write("works", "false")
    assert not unit.tell("restart", "--no-block")
    assert systemd.calls() == ["restart orthanc.service", "restart --no-block orthanc.service"]
    assert not unit.active


def test_unit_is_enabled_once(systemd: Systemd) -> None:
    unit = Unit(Module(), "orthanc.service")
    assert not unit.enabled
    unit.enable()
    assert unit.enabled
    unit.enable()
    assert systemd.calls() == [
        "unmask --quiet --no-reload orthanc.service",
        "enable --quiet --no-reload orthanc.service",
        "daemon-reload",
    ]


def test_what_systemd_has_to_do_and_refuses(systemd: Systemd) -> None:
    Unit(Module(), "x").reload_files()
    systemd.program("systemctl", "echo ' no such unit' >&2; exit 1")
    with pytest.raises(Refused, match=r"^systemctl daemon-reload fails: no such unit$"):
        Unit(Module(), "x").reload_files()


def test_state_has_what_stands_in_it(systemd: Systemd) -> None:
    systemd.program("systemctl", "echo ActiveState=active; echo MainPID=7; echo Description=a=b")
    module = Module()
    assert Unit(module, "x").show() == {"ActiveState": "active", "MainPID": "7", "Description": "a=b"}
    (command,) = module.commands
    assert "MainPID" in command[-1]


@pytest.mark.parametrize(
    "active, sub, ended",
    [
        ("active", "running", False),
        ("activating", "start", False),
        ("activating", "auto-restart", True),
        ("deactivating", "stop-sigterm", False),
        ("failed", "failed", True),
        ("inactive", "dead", True),
    ],
)
def test_process_that_has_ended(systemd: Systemd, active: str, sub: str, ended: bool) -> None:
    """Of one that is started again after a second, systemd does not say that it failed."""
    systemd.program("systemctl", f"echo ActiveState={active}; echo SubState={sub}")
    assert Unit(Module(), "x").ended is ended


def test_journal(systemd: Systemd) -> None:
    systemd.write("journal", "1\n2\n  \n3\n\n4\n")
    module = Module()
    assert Unit(module, "x").log(4) == ["3", "4"], "an empty line is one, and says nothing"
    assert Unit(module, "x").log(4, 1.25) == ["3", "4"]
    assert ["--since" in word for command in module.commands for word in command].count(True) == 1
    assert "--since=@1.250000" in module.commands[1]

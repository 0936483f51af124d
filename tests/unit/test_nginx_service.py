"""What nginx's files are to others, and how it is known that nginx serves them."""

from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.way_back import Wrong
from ansible_collections.dicom.orthanc.plugins.modules import nginx_service
from ansible_collections.dicom.orthanc.plugins.modules.nginx_service import Server, restart_readers

from tests.unit.module import Failed, Module

LINES = [f"wrong jail {number}" for number in range(9)]
READERS = {"/etc/fail2ban/jail.d/pacs.conf": "fail2ban", "/etc/x": "x"}


def systemd(active: bool, starts: bool = True) -> Module:
    def run(command: list[str]) -> tuple[int, str, str]:
        if command[0] == "journalctl":
            return 0, "\n".join(LINES[-int(command[command.index("--lines") + 1]) :]), ""
        return int(not (active if command[1] == "is-active" else starts)), "", ""

    return Module(run, readers=READERS)


def restarted(module: Module) -> list[str]:
    return [command[-1] for command in module.commands if command[1] == "restart"]


@pytest.mark.parametrize(
    "active, written, cut_off, expected",
    [
        (True, ["/etc/x"], False, ["x"]),
        (True, [], False, []),
        (True, [], True, ["fail2ban", "x"]),
        (False, ["/etc/x"], True, []),
    ],
)
def test_readers_hear_of_their_files(active: bool, written: list[str], cut_off: bool, expected: list[str]) -> None:
    module = systemd(active)
    restart_readers(module, written, cut_off)
    assert restarted(module) == expected


def test_reader_that_does_not_start() -> None:
    with pytest.raises(Failed) as failed:
        restart_readers(systemd(True, starts=False), ["/etc/x"], False)
    said = "x does not start with /etc/x. Its log (journalctl -u x) says:"
    assert str(failed.value).splitlines() == [said, *LINES[3:]]


def server(monkeypatch: pytest.MonkeyPatch, answers: list[str], old: bool = False, active: bool = True) -> Server:
    """nginx that answers one after the other, and then the last for good."""
    module = Module(
        lambda command: (int(command[1] == "is-active" and not active), "MainPID=1\n", ""),
        url="http://127.0.0.1/",
        server_name="",
        ca=None,
        status=301,
        timeout=0.3,
    )
    given: Any = iter(answers)
    last = answers[-1]
    monkeypatch.setattr(nginx_service, "answer", lambda *_asked: next(given, last))
    monkeypatch.setattr(nginx_service, "workers", lambda _unit: {"7"} if old else {"8"})
    made = Server(module)
    made._old = {"7"}
    return made


def test_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server(monkeypatch, ["Connection refused", "502", "301"]).prove(False)


@pytest.mark.parametrize(
    "answers, old, words",
    [
        (["502"], False, "written: http://127.0.0.1/ gives 502 instead of 301."),
        (["301"], True, "written: it goes on as before."),
    ],
)
def test_it_does_not_serve(monkeypatch: pytest.MonkeyPatch, answers: list[str], old: bool, words: str) -> None:
    with pytest.raises(Wrong) as wrong:
        server(monkeypatch, answers, old).prove(False)
    assert str(wrong.value) == f"nginx does not serve what was {words}"
    assert wrong.value.log.startswith("Its logs (journalctl -u nginx, /var/log/nginx/error.log) say:")


def test_what_was_before_has_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is to answer is not known."""
    server(monkeypatch, ["502"], old=True).prove(True)
    with pytest.raises(Wrong):
        server(monkeypatch, ["502"], active=False).prove(True)

"""The module orthanc_service from its call to its end, with stand-ins for systemd, the packet filter and Orthanc."""

from __future__ import annotations

import base64
import http.server
import itertools
import json
import os
import pathlib
import stat
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import files
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_client import Orthanc, Unready
from ansible_collections.dicom.orthanc.plugins.modules import orthanc_service

from tests.unit.module import OWNER, SYSTEMCTL, Systemd, killed, run

Call = Callable[..., dict[str, Any]]
ANSWERS: dict[str, Any] = {
    "/changes?last": {"Last": 7},
    "/system": {"Version": "1.12.7", "DatabaseBackendPlugin": None},
    "/plugins": ["dicom-web"],
    "/spoilt": "{",
    "/modalities": ["ct", "us"],
}
ENABLE = ["unmask --quiet --no-reload orthanc.service", "enable --quiet --no-reload orthanc.service", "daemon-reload"]
START = [*ENABLE, "restart orthanc.service"]


class Handler(http.server.BaseHTTPRequestHandler):
    """Orthanc, as long as its unit is active, for who logs in."""

    folder: pathlib.Path
    told: list[tuple[str, str, Any]]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.told.append((self.command, self.path, json.loads(body) if body else None))
        status = 400 if self.path == "/modalities/refused" else 200
        self.send_response(status if (self.folder / "active").exists() else 503)
        self.end_headers()

    do_DELETE = do_PUT

    def do_GET(self) -> None:
        if not (self.folder / "active").exists():
            self.close_connection = True
            return
        login = base64.b64encode(b"admin:secret").decode()
        known = self.headers["Authorization"] == f"Basic {login}"
        answer = ANSWERS.get(self.path, "")
        self.send_response((200 if answer else 404) if known else 401)
        self.end_headers()
        self.wfile.write((answer if isinstance(answer, str) else json.dumps(answer)).encode())

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def systemd(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setattr(files, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(orthanc_service, "NFT", str(tmp_path / "bin" / "nft"))
    monkeypatch.setattr(orthanc_service, "UNITS", f"{tmp_path}/units/")
    (tmp_path / "units").mkdir()
    made = Systemd(tmp_path / "bin", monkeypatch)
    made.write("works", f"! grep -q bad {tmp_path}/orthanc/orthanc.json")
    return made


@pytest.fixture
def told() -> list[tuple[str, str, Any]]:
    """Return what Orthanc was told by its REST API, in that order."""
    return []


@pytest.fixture
def port(systemd: Systemd, told: list[tuple[str, str, Any]]) -> Iterator[int]:
    handler = type("Of", (Handler,), {"folder": systemd.folder, "told": told})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def call(tmp_path: pathlib.Path, port: int, capsys: pytest.CaptureFixture[str]) -> Call:
    folder, unit = str(tmp_path / "orthanc"), str(tmp_path / "units" / "orthanc.service")

    def called(
        content: str = '{"Name": "good"}',
        password: str = "secret",
        beside: str = "",
        start: str = "/usr/sbin/Orthanc",
        install: str = "",
        proxy: str = "",
        scripts: dict[str, str] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        login = json.dumps({"HttpPort": port, "RegisteredUsers": {"admin": password}})
        wanted = [
            {"path": f"{folder}/orthanc.json", "content": content},
            {"path": f"{folder}/credentials.json", "secret": login},
            {"path": unit, "content": f"ExecStart={start} {folder}\n{install}"},
        ]
        wanted += [{"path": f"{folder}/proxy.conf", "content": proxy}] if proxy else []
        wanted += [{"path": path, "content": text} for path, text in (scripts or {}).items()]
        # Of another unit.
        wanted += [{"path": str(tmp_path / "units" / "pacs.conf"), "content": beside}] if beside else []
        arguments = {
            "folders": [OWNER | {"path": folder, "marked": True}],
            "files": [OWNER | {"mode": "0644"} | item for item in wanted],
            "purge": [folder],
            "config_dir": folder,
            "unit": unit,
            "state_dir": str(tmp_path / "state"),
            "timeout": 1,
        }
        return run(orthanc_service, capsys, **(arguments | more))

    return called


def test_orthanc_is_started_once(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    dry = call(_ansible_check_mode=True)
    assert (dry["changed"], systemd.calls(), os.listdir(tmp_path / "units")) == (True, [], [])
    said = call()
    assert (said["changed"], said["version"], said["plugins"]) == (True, "1.12.7", ["dicom-web"])
    assert 0 <= said["seconds"] < 60
    assert str(tmp_path / "orthanc" / "orthanc.json") in said["paths"]
    assert "RegisteredUsers" not in str(said["diff"])
    assert systemd.calls() == ["daemon-reload", *START]
    kept = tmp_path / "state" / "last.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    before = kept.stat().st_mtime_ns
    said = call()
    assert (said["changed"], said["paths"], said["version"], systemd.calls()) == (False, [], "1.12.7", [])
    assert kept.stat().st_mtime_ns == before
    assert call(_ansible_check_mode=True)["changed"] is False


CT = {"AET": "CT1", "Host": "192.0.2.7", "Port": 104}


def of(**modalities: Any) -> str:
    return json.dumps({"Name": "good", "DicomModalities": modalities})


def test_modality_is_told_to_an_orthanc_that_goes_on(systemd: Systemd, call: Call, told: list[Any]) -> None:
    call(of())
    systemd.calls()
    assert call(of(ct=CT), _ansible_check_mode=True)["changed"]
    assert (told, systemd.calls()) == ([], [])
    said = call(of(ct=CT))
    assert (said["changed"], said["version"]) == (True, "1.12.7")
    assert (told, systemd.calls()) == ([("PUT", "/modalities/ct", CT)], [])
    # The process is older than its file, and has what stands there.
    assert not call(of(ct=CT))["changed"]
    assert call(of(ct=CT | {"Port": 105}, us=CT))["changed"]
    assert call(of(us=CT))["changed"]
    assert told[1:] == [
        ("PUT", "/modalities/ct", CT | {"Port": 105}),
        ("PUT", "/modalities/us", CT),
        ("DELETE", "/modalities/ct", None),
    ]
    assert not systemd.calls()


def test_modality_that_is_gone_already(systemd: Systemd, call: Call, told: list[Any]) -> None:
    call(of(gone=CT))
    systemd.calls()
    assert call(of())["changed"]
    assert (told, systemd.calls()) == ([], [])
    assert not call(of())["changed"]


def test_what_a_running_orthanc_does_not_take_it_is_started_with(
    systemd: Systemd, call: Call, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    call(of())
    systemd.calls()
    call(of(refused=CT))
    assert "since it does not take a change while it runs: " in warnings[0]
    assert "/modalities/refused answers 400" in warnings[0]
    assert (told, systemd.calls()) == ([("PUT", "/modalities/refused", CT)], START[2:])
    assert not call(of(refused=CT))["changed"]


def test_modality_with_another_option_takes_a_start(systemd: Systemd, call: Call, told: list[Any]) -> None:
    call(of())
    systemd.calls()
    assert call('{"Name": "better", "DicomModalities": {"ct": {}}}')["changed"]
    assert (told, systemd.calls()) == ([], START[2:])


def test_modality_of_a_call_that_was_cut_off(
    tmp_path: pathlib.Path, systemd: Systemd, call: Call, told: list[Any]
) -> None:
    """It was written, and nobody was told."""
    call(of())
    systemd.calls()
    (tmp_path / "orthanc" / "orthanc.json").write_text(of(ct=CT), encoding="utf-8")
    assert call(of(ct=CT))["changed"]
    assert (told, systemd.calls()) == ([("PUT", "/modalities/ct", CT)], [])
    assert not call(of(ct=CT))["changed"]


def test_modality_after_a_start_by_others(systemd: Systemd, call: Call, told: list[Any]) -> None:
    call(of())
    others_start(systemd)
    assert call(of(ct=CT))["changed"]
    assert (told, systemd.calls()) == ([("PUT", "/modalities/ct", CT)], [])
    assert not call(of(ct=CT))["changed"]


def test_modality_that_others_wrote_after_their_start(
    tmp_path: pathlib.Path, systemd: Systemd, call: Call, told: list[Any]
) -> None:
    """With what that process runs is not known."""
    call(of())
    others_start(systemd)
    file = tmp_path / "orthanc" / "orthanc.json"
    file.write_text(of(us=CT), encoding="utf-8")
    # Clocks of file systems are late by some milliseconds.
    os.utime(file, (time.time() + 1, time.time() + 1))
    assert call(of(ct=CT))["changed"]
    assert (told, systemd.calls()) == ([], START[2:])


def test_what_was_told_is_taken_back_by_a_start(
    tmp_path: pathlib.Path, systemd: Systemd, call: Call, told: list[Any]
) -> None:
    """Something else goes wrong after that."""
    call(of())
    systemd.calls()
    systemd.program("nft", "exit 1")
    said = call(of(ct=CT), guard="table inet orthanc", guard_rule="rule")
    assert "refuses the rule before Orthanc's port" in said["msg"]
    assert (told, systemd.calls()) == ([("PUT", "/modalities/ct", CT)], ["daemon-reload", *START][-2:])
    assert json.loads((tmp_path / "orthanc" / "orthanc.json").read_text("utf-8")) == json.loads(of())


@pytest.mark.parametrize("then", [of(), of(us=CT)])
def test_what_was_told_by_a_call_that_was_killed_then(
    systemd: Systemd, call: Call, told: list[Any], monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """No file may name it, and Orthanc knows it."""
    call(of())
    systemd.calls()

    def killed_here(*_arguments: Any, **_more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(orthanc_service.Service, "prove", killed_here)
        with pytest.raises(KeyboardInterrupt):
            call(of(ct=CT))
    assert told == [("PUT", "/modalities/ct", CT)]
    assert call(then)["changed"]
    assert (told[1:], systemd.calls()) == ([], START[2:])
    assert not call(then)["changed"]


def test_who_was_not_told_of_a_login_is_told_beside_a_modality(
    tmp_path: pathlib.Path, systemd: Systemd, call: Call, told: list[Any]
) -> None:
    """A call was cut off after Orthanc's start, and before that of who logs in there."""
    more = {"reload": ["nginx"]}
    call(of(), proxy="login", **more)
    (tmp_path / "orthanc" / "proxy.conf").write_text("another login", encoding="utf-8")
    others_start(systemd)
    assert call(of(ct=CT), proxy="another login", **more)["changed"]
    assert told == [("PUT", "/modalities/ct", CT)]
    assert "try-reload-or-restart nginx" in systemd.calls()


def others_start(systemd: Systemd) -> None:
    (systemd.folder / "started").write_text(str(int(1e6 * time.monotonic())), "utf-8")
    systemd.calls()


def test_what_works_is_noted_by_a_run_and_not_by_a_dry_one(tmp_path: pathlib.Path, call: Call) -> None:
    call()
    kept = tmp_path / "state" / "last.json"
    kept.unlink()
    assert call(_ansible_check_mode=True)["changed"]
    assert not kept.exists()
    assert call()["changed"], "of what was never proved, nobody knows that it works"
    assert kept.exists()
    before = kept.stat().st_mtime_ns
    assert call(_ansible_check_mode=True)["version"] == "1.12.7"
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"version": "1.12.8"}, "orthanc_version asks for 1.12.8, but 1.12.7 runs."),
        ({"plugins": ["dicom-web", "gdcm"]}, "that Orthanc did not load: gdcm."),
        ({"database": "mysql"}, "asks for mysql, but DatabaseBackendPlugin is the built-in one."),
        ({"storage": "mysql"}, "asks for mysql, but StorageAreaPlugin is the built-in one."),
        ({"version": "1.12.7", "plugins": ["dicom-web"], "database": "sqlite", "storage": ""}, ""),
    ],
)
def test_orthanc_that_is_not_the_one_that_was_asked_for(call: Call, asked: dict[str, Any], words: str) -> None:
    call()
    for dry in (True, False):
        said = call(**asked, _ansible_check_mode=dry)
        assert said.get("failed", False) == bool(words)
        assert words in said.get("msg", "")


@pytest.mark.parametrize("lacking", ["active", "enabled"])
def test_orthanc_that_was_stopped_is_started(systemd: Systemd, call: Call, lacking: str) -> None:
    call()
    systemd.calls()
    (systemd.folder / lacking).unlink()
    assert call(_ansible_check_mode=True)["changed"]
    assert systemd.calls() == []
    said = call()
    assert (said["changed"], said["paths"]) == (True, [])
    assert systemd.calls() == ["daemon-reload", *(START if lacking == "enabled" else START[3:])]


def test_orthanc_is_started_by_all_that_its_unit_names(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    """With Docker by the engine too, which may have come later than Orthanc."""
    at_boot, by_docker = (tmp_path / "units" / f"{name}.wants" for name in ("multi-user.target", "docker.service"))
    at_boot.mkdir()
    by_docker.mkdir()
    (at_boot / "orthanc.service").touch()
    install = "WantedBy=multi-user.target\n"
    call(install=install)
    systemd.calls()
    install += "WantedBy=docker.service\n"
    systemd.program("systemctl", f"[ $1 != enable ] || touch {by_docker}/orthanc.service\n{SYSTEMCTL}")
    for _ in range(2):
        assert call(install=install)["changed"]
        assert "enable --quiet orthanc.service" in systemd.calls()
        assert call(install=install)["changed"] is False
        assert systemd.calls() == []
        # As an earlier release of ours left it.
        (by_docker / "orthanc.service").unlink()
        assert call(install=install, _ansible_check_mode=True)["changed"]
    assert systemd.calls() == []


def test_orthanc_runs_with_what_is_there(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    """A file that was written since counts, unless it says the same; so does a program."""
    program, path = tmp_path / "Orthanc", tmp_path / "orthanc" / "orthanc.json"
    program.touch()
    call(programs=[str(program)])
    systemd.calls()
    path.write_text('{\n"Name": "good"}', "utf-8")
    said = call('{\n"Name": "good"}', programs=[str(program)])
    assert (said["changed"], said["paths"]) == (False, [])
    assert systemd.calls() == []
    assert call('{"Name": "other"}', programs=[str(program)])["changed"]
    assert systemd.calls() == ["daemon-reload", START[3]]
    program.chmod(0o755)
    assert call('{"Name": "other"}', programs=[str(program)])["changed"]
    assert systemd.calls() == ["daemon-reload", START[3]]


def test_bad_setting_goes_back(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    call()
    lines = [f"E1120 1 a.cpp:{number}] wrong {min(number, 6)}" for number in range(9)]
    systemd.write("journal", "I1120 1 a.cpp:1] starting\n" + "\n".join(lines))
    said = call('{"Name": "bad"}')
    assert said["msg"].startswith("Orthanc ended after 0 s. The configuration that worked last is back, and Orthanc")
    told = "\n".join(lines[2:6] + lines[8:])
    assert said["msg"].endswith(f"Its journal (journalctl -u orthanc.service) says:\n{told}")
    assert "good" in (tmp_path / "orthanc" / "orthanc.json").read_text("utf-8")
    assert call()["changed"] is False


def test_journal_without_a_line_that_is_marked_as_an_error(systemd: Systemd, call: Call) -> None:
    call()
    systemd.write("journal", "1\n2\n3\n4\n5\n6\n")
    assert call('{"Name": "bad"}')["msg"].endswith("says:\n2\n3\n4\n5\n6")


@pytest.mark.parametrize("later, told", [(199, "E1120 1 a.cpp:1] why"), (200, "I199")])
def test_how_far_back_the_journal_is_read(systemd: Systemd, call: Call, later: int, told: str) -> None:
    call()
    systemd.write("journal", "E1120 1 a.cpp:1] why\n" + "".join(f"I{number}\n" for number in range(later)))
    assert call('{"Name": "bad"}')["msg"].endswith(f"\n{told}")


def test_login_that_orthanc_does_not_take(systemd: Systemd, call: Call, port: int) -> None:
    """It answers, so nobody waits for another answer."""
    said = call(password="other", timeout=60)
    assert (
        f"Orthanc is not ready after 0 s: http://127.0.0.1:{port}/changes?last answers 401 Unauthorized." in said["msg"]
    )


def test_client_tells_what_came(systemd: Systemd, port: int) -> None:
    orthanc = Orthanc({"HttpPort": port, "RegisteredUsers": {"admin": "secret"}})
    with pytest.raises(Unready, match=rf"^http://127\.0\.0\.1:{port}/system does not answer: "):
        orthanc.get("/system")
    systemd.write("active")
    assert orthanc.get("/system")["Version"] == "1.12.7"
    with pytest.raises(Unready, match=r"/none answers 404 Not Found$"):
        orthanc.get("/none")
    with pytest.raises(Unready, match=r"/spoilt does not answer: Expecting"):
        orthanc.get("/spoilt")
    with pytest.raises(Unready, match="401"):
        Orthanc({"HttpPort": port}).get("/system")
    with pytest.raises(Unready, match=r"^http://127\.0\.0\.1:8042/"):
        Orthanc({}).get("/")


TABLE = 'table inet orthanc { tcp dport 8042 iifname != "lo" drop }'


@pytest.mark.parametrize(
    "filter_has, guard, expected",
    [
        (TABLE, "/etc/rule", None),
        ("", "/etc/rule", "/etc/rule"),
        ("table inet orthanc { }", "/etc/rule", "/etc/rule"),
        ("", "", None),
        (TABLE, "", "delete table inet orthanc"),
    ],
)
def test_packet_filter_is_told_where_it_has_to_be(
    systemd: Systemd, call: Call, filter_has: str, guard: str, expected: str | None
) -> None:
    call()
    systemd.calls()
    systemd.write("table", filter_has)
    systemd.program(
        "nft", 'cd "$(dirname "$0")"; [ "$1" = list ] || { echo "$*" > told; exit; }; cat table; [ -s table ]'
    )
    said = call(guard=guard, guard_rule="tcp dport 8042 iifname != lo drop")
    told = systemd.folder / "told"
    assert (told.read_text("utf-8").strip() if told.exists() else None) == expected
    assert (said["changed"], systemd.calls()) == (expected is not None, [])


def test_packet_filter_was_told_by_the_unit(systemd: Systemd, call: Call) -> None:
    """Which runs before Orthanc does."""
    systemd.write("table")
    systemd.program("nft", 'cd "$(dirname "$0")"; [ "$1" = list ] || { echo "$*" > told; exit; }; cat table')
    systemd.write("works", f"echo 'tcp dport 8042 drop' > {systemd.folder}/table")
    assert call(guard="/etc/rule", guard_rule="tcp dport 8042 drop")["changed"]
    assert not (systemd.folder / "told").exists()
    systemd.write("table")
    systemd.write("works", "true")
    (systemd.folder / "active").unlink()
    call(guard="/etc/rule", guard_rule="tcp dport 8042 drop")
    assert (systemd.folder / "told").read_text("utf-8") == "/etc/rule\n", "that was not enough"


def test_packet_filter_is_not_told_in_a_dry_run(systemd: Systemd, call: Call) -> None:
    call()
    systemd.program("nft", 'cd "$(dirname "$0")"; [ "$1" = list ] || touch told')
    assert call(guard="/etc/rule", guard_rule="x", _ansible_check_mode=True)["changed"]
    assert not (systemd.folder / "told").exists()


def test_packet_filter_refuses(systemd: Systemd, call: Call) -> None:
    call()
    systemd.calls()
    systemd.program("nft", "echo why >&2; exit 1")
    said = call(guard="/etc/rule", guard_rule="x")
    assert f"The packet filter ({systemd.folder}/nft) refuses the rule before Orthanc's port: why." in said["msg"]


def test_packet_filter_that_is_not_there(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    call()
    assert call(guard_rule="x")["changed"] is False
    said = call('{"Name": "new"}', guard="/etc/rule", guard_rule="x")
    why = f"The packet filter ({systemd.folder}/nft) refuses the rule before Orthanc's port: it is not installed."
    assert said["msg"].startswith(f"{why} The configuration that worked last is back, and does not work")
    assert "good" in (tmp_path / "orthanc" / "orthanc.json").read_text("utf-8")


def test_unit_of_others_is_kept(
    tmp_path: pathlib.Path, systemd: Systemd, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    unit, copy = tmp_path / "units" / "orthanc.service", tmp_path / "state" / "orthanc.service.found"
    unit.write_text("ExecStart=/opt/Orthanc /etc/orthanc\n", "utf-8")
    warned = f"{unit} is of others, and is replaced. As it was, it is kept as {copy}."
    call(_ansible_check_mode=True)
    assert (warnings, copy.exists()) == ([warned], False)
    call()
    assert warnings == [warned] * 2
    assert copy.read_text("utf-8") == "ExecStart=/opt/Orthanc /etc/orthanc\n"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (copy, copy.parent)] == [0o600, 0o700]
    call()
    assert len(warnings) == 2


def test_way_back_alone(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    """As a run calls it where another host's part of a change has failed."""
    call()
    path = tmp_path / "orthanc" / "mysql.json"
    old, new = (json.dumps({"MySQL": {"Password": word}}) for word in ("old", "new"))
    path.write_text(old, "utf-8")
    systemd.write("active")
    more = {"purge": [], "timeout": 1}
    assert call(**more)["changed"]
    path.write_text(new, "utf-8")
    systemd.calls()
    given = {"back": True, "files": [], "folders": [], "purge": []}
    assert call(_ansible_check_mode=True, **given)["changed"] is False
    said = call(**given)
    assert (said["changed"], said["paths"]) == (True, [str(path)])
    assert json.loads(path.read_text("utf-8")) == json.loads(old)
    assert systemd.calls() == ["daemon-reload", START[3]]
    assert call(**given)["changed"] is False
    assert systemd.calls() == []


def test_drop_in_of_another_unit_has_systemd_read_it(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    call()
    drop_in = tmp_path / "units" / "nftables.service.d"
    drop_in.mkdir()
    (drop_in / "pacs.conf").write_text("[Unit]\n", "utf-8")
    systemd.calls()
    said = call(absent=[str(drop_in / "pacs.conf")])
    assert said["paths"] == [str(drop_in / "pacs.conf")]
    assert systemd.calls() == ["daemon-reload"]


def test_nobody_goes_without_what_a_killed_call_has_written(
    tmp_path: pathlib.Path, systemd: Systemd, call: Call
) -> None:
    """nginx presents a login out of Orthanc's folder, and systemd knows what its units say."""
    nginx, units = systemd.folder / "nginx", systemd.folder / "units"
    systemd.program(
        "systemctl",
        f"case $1 in try-*) cp {tmp_path}/orthanc/orthanc.json {nginx} ;;"
        f" daemon-reload) cp {tmp_path}/units/pacs.conf {units} ;; esac\n{SYSTEMCTL}",
    )
    call(beside="0")
    for step in itertools.count(1):
        given = (f'{{"Name": "{step}"}}', "secret", str(step))
        if not killed(lambda given=given: call(*given, reload=["nginx"]), step):  # type: ignore[misc]
            break
        call(*given, reload=["nginx"])
        assert (nginx.read_text("utf-8"), units.read_text("utf-8")) == given[::2], step
        assert call(*given, reload=["nginx"])["changed"] is False
    assert step > 15

"""The module nginx_service from its call to its end, with stand-ins for systemd and nginx."""

from __future__ import annotations

import http.server
import itertools
import os
import pathlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import files
from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import Unit
from ansible_collections.dicom.orthanc.plugins.modules import nginx_service
from ansible_collections.dicom.orthanc.plugins.modules.nginx_service import answer, workers

from tests.unit.module import OWNER, SYSTEMCTL, Module, Systemd, killed, run

Call = Callable[..., dict[str, Any]]
# Files are tried in folders of the call's own.
MAY_MOUNT = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0
pytestmark = pytest.mark.skipif(not MAY_MOUNT or not os.access("/run", os.W_OK), reason="nginx is run by root")
NGINX = """
# What it would serve, with the files as they are where this runs.
[ "$*" = "-t -q" ] || exit 9
cat {etc}/*.conf > {folder}/tried
! grep -q bad {etc}/*.conf || {{ echo 'nginx: [emerg] bad in {etc}/a.conf' >&2; exit 1; }}
"""


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives the status that stands in a file, and tells which host it was asked for."""

    folder: pathlib.Path

    def do_GET(self) -> None:
        if self.path == "/garbage":
            self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            return
        self.send_response(int((self.folder / "status").read_text("utf-8")), self.headers["Host"])
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def url(tmp_path: pathlib.Path) -> Iterator[str]:
    (tmp_path / "status").write_text("301", "utf-8")
    handler = type("Of", (Handler,), {"folder": tmp_path})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def systemd(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setattr(files, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(nginx_service, "CONFIGURATION", str(tmp_path / "etc"))
    monkeypatch.setattr(nginx_service, "ERRORS", tmp_path / "error.log")
    monkeypatch.setattr(nginx_service, "MEMORY", str(tmp_path / "run"))
    for name in ("etc", "run"):
        (tmp_path / name).mkdir()
    made = Systemd(tmp_path / "bin", monkeypatch)
    made.program("nginx", NGINX.format(etc=tmp_path / "etc", folder=tmp_path))
    return made


@pytest.fixture
def call(tmp_path: pathlib.Path, url: str, systemd: Systemd, capsys: pytest.CaptureFixture[str]) -> Call:
    def called(content: str = "listen 80;\n", more: tuple[dict[str, Any], ...] = (), **params: Any) -> dict[str, Any]:
        file = {"path": str(tmp_path / "etc" / "a.conf"), "content": content}
        wanted = [OWNER | {"mode": "0644"} | item for item in (file, *more)]
        arguments = {"files": wanted, "url": url, "status": 301, "timeout": 1, "state_dir": str(tmp_path / "state")}
        return run(nginx_service, capsys, **(arguments | params))

    return called


def test_site_is_served_once(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    path = str(tmp_path / "etc" / "a.conf")
    dry = call(_ansible_check_mode=True)
    assert (dry["changed"], dry["paths"], os.path.exists(path), systemd.calls()) == (True, [path], False, [])
    assert not (tmp_path / "tried").exists()
    said = call()
    assert (said["changed"], said["paths"], said["diff"][0]["after"]) == (True, [path], "listen 80;\n")
    assert (tmp_path / "tried").read_text("utf-8") == "listen 80;\n"
    assert systemd.calls() == [
        "unmask --quiet --no-reload nginx",
        "enable --quiet --no-reload nginx",
        "daemon-reload",
        "reload-or-restart nginx",
    ]
    said = call()
    assert (said["changed"], said["paths"], systemd.calls()) == (False, [], [])
    assert os.listdir(tmp_path / "state") == []
    assert subprocess.run(["grep", str(tmp_path), "/proc/mounts"], check=False).returncode == 1


def test_file_that_nginx_refuses_is_not_put_in_place(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    call()
    systemd.calls()
    said = call("bad;\n", variables={str(tmp_path / "etc" / "a.conf"): "nginx_settings", "/none": "other"})
    assert said["msg"] == (
        "nginx refuses what was to be written, and it was not put in place: nginx: [emerg] bad in"
        f" {tmp_path}/etc/a.conf See nginx_settings."
    )
    assert (tmp_path / "etc" / "a.conf").read_text("utf-8") == "listen 80;\n"
    assert systemd.calls() == []


def test_what_is_tried_is_all_that_will_be_there(tmp_path: pathlib.Path, call: Call) -> None:
    """With what others have, without what goes, and with what is made; a file elsewhere is none of it."""
    etc, other, logs = tmp_path / "etc", tmp_path / "pacs", tmp_path / "log" / "nginx"
    for name in ("z.conf", "gone.conf", "kept.conf"):
        (etc / name).write_text(f"{name}\n", "utf-8")
    made = {"path": str(etc / "made.conf"), "made_by": f"echo made >> {etc}/made.conf"}
    kept = {"path": str(etc / "kept.conf"), "made_by": f"echo again >> {etc}/kept.conf"}
    spoilt = {"path": str(etc / "z.conf"), "made_by": f"echo new > {etc}/z.conf", "validate": "grep -q new %s"}
    secret = {"path": str(other / "secret.conf"), "secret": "key\n"}
    elsewhere = {"path": str(tmp_path / "b.conf"), "content": "bad\n"}
    away = {"path": str(tmp_path / "away.key"), "made_by": f"echo away >> {tmp_path}/away.key"}
    absent = [str(etc / "gone.conf"), str(etc / "none.conf"), str(tmp_path / "none")]
    folders = [OWNER | {"path": str(logs)}, OWNER | {"path": str(other), "marked": True}]
    systemd_file = f"cat {etc}/*.conf {other}/*.conf > {tmp_path}/tried; [ -d {logs} ]"
    (tmp_path / "bin" / "nginx").write_text(f"#!/bin/sh\n{systemd_file}\n", "utf-8")
    said = call(more=(made, kept, spoilt, secret, elsewhere, away), absent=absent, folders=folders, purge=[str(other)])
    assert "msg" not in said, said["msg"]
    assert (tmp_path / "tried").read_text("utf-8") == "listen 80;\nkept.conf\nmade\nnew\nkey\n"
    assert (tmp_path / "away.key").read_text("utf-8") == "away\n", "made once, and not for the trial"
    assert (etc / "kept.conf").read_text("utf-8") == "kept.conf\n"


def test_bad_answer_goes_back_and_what_was_made_stays(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    call()
    systemd.write("journal", "".join(f"systemd: {number}\n" for number in range(9)))
    (tmp_path / "error.log").write_text("1\n2\n3\n4\n", "utf-8")
    (tmp_path / "status").write_text("502", "utf-8")
    key = {"path": str(tmp_path / "etc" / "key"), "made_by": f"touch {tmp_path}/etc/key"}
    said = call("listen 81;\n", (key,))
    assert "nginx does not serve what was written: http://127.0.0.1:" in said["msg"]
    assert "/ gives 502 instead of 301." in said["msg"]
    assert "The configuration that worked last is back, and nginx serves with it." in said["msg"]
    assert said["msg"].endswith(
        "error.log) say:\n" + "".join(f"systemd: {number}\n" for number in range(3, 9)) + "2\n3\n4"
    )
    assert (tmp_path / "etc" / "a.conf").read_text("utf-8") == "listen 80;\n"
    assert (tmp_path / "etc" / "key").exists()


@pytest.mark.parametrize("lacking", ["enabled", "answer", "end"])
def test_nginx_that_does_not_serve_is_told_again(
    tmp_path: pathlib.Path, systemd: Systemd, call: Call, lacking: str
) -> None:
    call()
    systemd.calls()
    if lacking == "enabled":
        (systemd.folder / "enabled").unlink()
    elif lacking == "end":
        (tmp_path / "state" / "before.json").write_text("{}", "utf-8")
    else:
        (tmp_path / "status").write_text("404", "utf-8")
        systemd.write("works", f"echo 301 > {tmp_path}/status")
    (tmp_path / "tried").unlink()
    assert call()["changed"]
    assert systemd.calls()[-1] == "reload-or-restart nginx"
    assert not (tmp_path / "tried").exists(), "nothing is written"


def test_unit_of_nginx_is_read_anew(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    drop_in = {"path": "/etc/systemd/system/nginx.service.d/pacs.conf", "made_by": "false", "unless": None}
    call()
    systemd.calls()
    call("listen 81;\n", more=(drop_in,), _ansible_check_mode=True)
    server = nginx_service.Server(Module(files=[drop_in]))
    server.apply()
    assert systemd.calls() == ["daemon-reload", "reload-or-restart nginx"]


def test_reader_of_what_was_written_is_restarted(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    call(readers={str(tmp_path / "etc" / "a.conf"): "fail2ban"})
    assert systemd.calls()[-1] == "restart fail2ban"
    call(readers={str(tmp_path / "etc" / "a.conf"): "fail2ban"})
    assert systemd.calls() == []


def test_answer(url: str, tmp_path: pathlib.Path) -> None:
    assert answer(url, "", None) == "301"
    (tmp_path / "status").write_text("404", "utf-8")
    assert answer(url, "pacs.example.org", None) == "404"
    assert "refused" in answer("http://127.0.0.1:9/", "", None)
    assert "SSL" in answer(url.replace("http", "https"), "", None)
    assert answer(f"{url}garbage", "", None).startswith("SSH-2.0")


def test_workers_are_those_that_take_requests(tmp_path: pathlib.Path, systemd: Systemd) -> None:
    """Real processes, with the names that nginx gives its own."""
    names = ("nginx: worker process", "nginx: worker process is shutting down", "nginx: cache manager process")
    script = "".join(f'(exec -a "{name}" cat <&3) & echo $!; ' for name in names)
    with subprocess.Popen(
        ["bash", "-c", f"exec 3<&0; {script} wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as master:
        assert master.stdout
        assert master.stdin
        pids = [master.stdout.readline().strip() for _ in names]
        systemd.write("pid", str(master.pid))
        end = time.monotonic() + 20
        while b"cat" in b"".join(pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
            assert time.monotonic() < end
        found = workers(Unit(Module(), "nginx"))
        master.stdin.close()
    assert found == {pids[0]}
    systemd.write("pid", str(master.pid))
    assert workers(Unit(Module(), "nginx")) == set()


def test_killed_call_is_brought_to_its_end(tmp_path: pathlib.Path, systemd: Systemd, call: Call) -> None:
    """Wherever it was killed: nginx has read what was written, and what was kept is gone."""
    read = systemd.folder / "read"
    systemd.program("systemctl", f"case $1 in reload-*) cp {tmp_path}/etc/a.conf {read} ;; esac\n{SYSTEMCTL}")
    call()
    for step in itertools.count(1):
        text = f"listen {step};\n"
        if not killed(lambda text=text: call(text), step):  # type: ignore[misc]
            break
        call(text)
        assert (read.read_text("utf-8"), os.listdir(tmp_path / "state")) == (text, []), step
        assert len(os.listdir(tmp_path / "run")) <= 1, "what was tried goes with the next trial"
        assert call(text)["changed"] is False
    assert step > 15


def test_no_room_to_try_the_files_in(tmp_path: pathlib.Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nginx_service, "MEMORY", "/dev/full")
    before = sorted(path.name for path in (tmp_path / "etc").iterdir())
    said = call("new")
    assert said["msg"].startswith("What was to be written cannot be tried, for which nginx's files are copied to ")
    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == before


@pytest.fixture
def beside(tmp_path: pathlib.Path, systemd: Systemd) -> list[str]:
    """Files that another role wrote, of which the one includes what the other lacks."""
    other = tmp_path / "other"
    other.mkdir()
    paths = [other / "site.conf", tmp_path / "etc" / "z.conf"]
    for path in paths:
        path.write_text("theirs;\n", "utf-8")
    refused = f"! grep -qs broken {other}/site.conf || {{ echo 'unknown variable' >&2; exit 1; }}"
    systemd.program("nginx", NGINX.format(etc=tmp_path / "etc", folder=tmp_path) + refused)
    return [str(path) for path in paths]


def test_site_comes_up_whatever_lies_beside_it(
    tmp_path: pathlib.Path, systemd: Systemd, call: Call, beside: list[str]
) -> None:
    """With a change, and with none, as where nginx does not run any more. What is no reason stays."""
    call(spare=beside)
    assert all(map(os.path.exists, beside))
    said = call("bad;\n", spare=beside)
    assert "nginx refuses what was to be written" in said["msg"]
    assert all(map(os.path.exists, beside))
    pathlib.Path(beside[0]).write_text("broken;\n", "utf-8")
    call("listen 81;\n", spare=beside, _ansible_check_mode=True)
    assert all(map(os.path.exists, beside))
    said = call("listen 81;\n", spare=beside)
    assert (said["changed"], said["paths"]) == (True, [str(tmp_path / "etc" / "a.conf"), *beside])
    assert not any(map(os.path.exists, beside))
    # Nothing to write, and nginx down since.
    pathlib.Path(beside[0]).write_text("broken;\n", "utf-8")
    systemd.program("systemctl", f"case $1 in reload-*) echo 301 > {tmp_path}/status ;; esac\n{SYSTEMCTL}")
    (tmp_path / "status").write_text("500", "utf-8")
    said = call("listen 81;\n", spare=beside)
    assert (said["changed"], said["paths"]) == (True, beside[:1])
    assert call("listen 81;\n", spare=beside)["changed"] is False


def test_mistake_of_both_is_told_by_what_is_left(call: Call, beside: list[str]) -> None:
    call(spare=beside)
    pathlib.Path(beside[0]).write_text("broken;\n", "utf-8")
    said = call("bad;\n", spare=beside)
    assert said["msg"].endswith("a.conf")
    assert all(map(os.path.exists, beside))


@pytest.mark.parametrize(
    "listening, listens, verb",
    [
        # It has a port at all addresses, and is to have it at some; the other way round; and as it is.
        ("0.0.0.0:443", "127.0.0.1:443 ssl", "restart"),
        ("[::]:443", "192.0.2.1:443 ssl", "restart"),
        ("192.0.2.1:443", "443 ssl", "restart"),
        ("192.0.2.1:443", "[::]:443 ssl", "restart"),
        ("0.0.0.0:443", "443 ssl", "reload-or-restart"),
        ("192.0.2.1:443", "192.0.2.7:443 ssl", "reload-or-restart"),
        ("0.0.0.0:8080", "127.0.0.1:443 ssl", "reload-or-restart"),
    ],
)
def test_addresses_that_it_cannot_take_beside_those_that_it_has(
    tmp_path: pathlib.Path, systemd: Systemd, call: Call, listening: str, listens: str, verb: str
) -> None:
    users = 'users:(("nginx",pid=1,fd=6))'
    systemd.program("ss", f"echo 'LISTEN 0 511 {listening} 0.0.0.0:* {users}'; echo 'LISTEN 0 5 0.0.0.0:443 0.0.0.0:*'")
    (tmp_path / "etc" / "conf.d").mkdir()
    site = {"path": str(tmp_path / "etc/conf.d/orthanc.conf"), "content": f"server {{\n    listen {listens};\n}}\n"}
    call(more=(site,))
    assert systemd.calls()[-1] == f"{verb} nginx"

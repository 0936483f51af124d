"""A file system of others: what is seen of it, what is refused, and who watches whether it answers."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.dicom.orthanc.plugins.module_utils import storage_mount
from ansible_collections.dicom.orthanc.plugins.modules import storage_mark

from tests.repository import ROOT, evaluated
from tests.unit.module import run
from tests.unit.test_preflight_storage import SEEN as BY_ROOT

WATCH = ROOT / "roles" / "orthanc" / "files" / "storage_watch.py"
MINE = [os.getuid(), os.getgid()]
TABLE = """\
21 1 8:1 / / rw,relatime - ext4 /dev/vda1 rw
22 21 0:40 / /srv/dicom rw,relatime - nfs4 old:/dicom rw,soft
23 21 0:41 / /srv/dicom rw,nosuid shared:5 - nfs4 nas:/dicom rw,vers=4.2,hard
"""
SEEN: dict[str, Any] = BY_ROOT | {"root": False}


def told(account: tuple[int, ...] = (105, 110), **changes: Any) -> list[str]:
    return list(storage_mount.wrong(SEEN | changes, "/srv/dicom", "/srv/dicom/a", "hospital", list(account)))


@pytest.fixture
def silent(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder whose mark nobody can read to its end."""
    os.mkfifo(tmp_path / storage_mount.NAME)
    return tmp_path


def test_what_is_mounted_is_told_by_the_kernel(tmp_path: pathlib.Path) -> None:
    (tmp_path / "table").write_text(TABLE, encoding="ascii")
    found = storage_mount.mounted("/srv/dicom", str(tmp_path / "table"))
    assert (found["kind"], found["source"]) == ("nfs4", "nas:/dicom"), "the one on top"
    assert "hard" in found["options"]
    assert "nosuid" in found["options"]
    assert "soft" not in found["options"]
    assert storage_mount.mounted("/srv", str(tmp_path / "table")) == {}


def test_good_storage() -> None:
    assert told() == []
    assert told(root=True, orthanc=False, owner=[105, 110]) == []
    assert told(mark="", used=False, owner=[0, 0], root=True, orthanc=False) == [], "root gives it to Orthanc"
    assert told(account=(), owner=[105, 110], orthanc=False) == [], "nobody knows the number yet"


@pytest.mark.parametrize(
    "changes, variable, part",
    [
        ({"options": ["rw", "soft"]}, "orthanc_storage_mount", "mount it with hard"),
        ({"options": ["hard", "ro"]}, "orthanc_storage_mount", "mount it with rw"),
        ({"mark": "clinic 1234"}, "orthanc_storage_mark", "says 'clinic', so that this is the archive of another site"),
        ({"mark": "hospitals"}, "orthanc_storage_mark", "says 'hospitals'"),
        ({"mark": ""}, "orthanc_storage_mark", "`echo hospital > /srv/dicom/a/.pacs-storage`"),
        (
            {"owner": [106, 110]},
            "orthanc_storage_mount",
            "the numbers 106 and 110 of user and group, and orthanc has 105",
        ),
        ({"owner": [105, 111]}, "orthanc_storage_mount", "`groupmod --gid 111 orthanc`"),
        ({"orthanc": False}, "orthanc_storage_mount", "lets neither root nor orthanc (the numbers 105 and 110"),
    ],
)
def test_wrong_storage(changes: dict[str, Any], variable: str, part: str) -> None:
    (problem,) = told(**changes)
    assert problem.startswith(f"{variable}: ")
    assert part in problem


def test_nothing_is_mounted() -> None:
    (problem,) = storage_mount.wrong({}, "/srv/dicom", "/srv/dicom", "hospital", [1, 1])
    assert "nothing is mounted at /srv/dicom on this host" in problem


def test_folder_is_seen(tmp_path: pathlib.Path) -> None:
    here = {"owner": [tmp_path.stat().st_uid, tmp_path.stat().st_gid], "root": True, "orthanc": True}
    folder = str(tmp_path)
    (tmp_path / "lost+found").mkdir()

    def look(folder: str = folder) -> dict[str, Any]:
        seen = storage_mount.look("/", folder, MINE)
        return {name: seen[name] for name in ("mark", "used", "owner", "root", "orthanc")}

    assert look() == here | {"mark": "", "used": False}
    (tmp_path / ".pacs").touch()
    assert look() == here | {"mark": "", "used": False}
    (tmp_path / ".pacs-backup").mkdir()
    assert look() == here | {"mark": "", "used": True}, "somebody has had an archive there"
    assert look(f"{folder}/a/b") == {"mark": "", "used": False, "owner": [], "root": True, "orthanc": True}
    storage_mount.begin(f"{folder}/a/b", "hospital", MINE)
    word, number = str(look(f"{folder}/a/b")["mark"]).split()
    assert (word, len(number)) == ("hospital", 36)
    assert look(f"{folder}/a/b")["used"] is False
    assert storage_mount.look("/nowhere", folder, MINE) == {}


def test_other_user_is_asked(tmp_path: pathlib.Path) -> None:
    if os.getuid():
        pytest.skip("root alone can be somebody else")
    (tmp_path / "a").mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    assert storage_mount.look("/", str(tmp_path / "a"), [65534, 65534])["orthanc"] is False
    os.chown(tmp_path / "a", 65534, 65534)
    assert storage_mount.look("/", str(tmp_path / "a"), [65534, 65534])["orthanc"] is True


def test_silence_is_not_waited_for(silent: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.monotonic()
    monkeypatch.setattr(storage_mount.in_time, "__defaults__", (0.5,))
    with pytest.raises(storage_mount.Silent, match="it does not answer within"):
        storage_mount.look("/", str(silent), MINE)
    assert time.monotonic() < begin + 30


def test_failure_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / storage_mount.NAME).mkdir()
    with pytest.raises(storage_mount.Silent, match="Is a directory"):
        storage_mount.look("/", str(tmp_path), MINE)


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Return what the module says, with this process's user for Orthanc's."""
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: pwd.getpwuid(os.getuid()))

    def call(folder: pathlib.Path, check: bool = False, mount: str = "/", **options: str) -> dict[str, Any]:
        asked = {"mount": mount, "folder": str(folder), "name": "hospital", **options}
        return run(storage_mark, capsys, **asked, _ansible_check_mode=check)

    return call


def test_mark_is_made_once(tmp_path: pathlib.Path, marked: Callable[..., dict[str, Any]]) -> None:
    folder = tmp_path / "images"
    planned = marked(folder, check=True)
    assert (planned["changed"], planned["mark"], folder.exists()) == (True, "", False)
    made = marked(folder)
    assert made["changed"] is True
    assert made["mark"].startswith("hospital ")
    assert marked(folder) == made | {"changed": False}
    assert marked(folder, expected=made["mark"])["changed"] is False
    assert "is another file system" in marked(folder, expected="hospital 0815")["msg"]
    assert "another site" in marked(folder, name="clinic")["msg"]


def test_mark_is_not_made(tmp_path: pathlib.Path, marked: Callable[..., dict[str, Any]]) -> None:
    said = marked(tmp_path, expected="hospital 0815")
    assert "is another file system" in said["msg"]
    assert not list(tmp_path.iterdir())
    assert "nothing is mounted" in marked(tmp_path, mount="/nowhere")["msg"]
    (tmp_path / "image").touch()
    assert "has something in it" in marked(tmp_path)["msg"]
    assert not (tmp_path / storage_mount.NAME).exists()
    (tmp_path / storage_mount.NAME).write_text("hospital\n", encoding="ascii")
    assert marked(tmp_path)["mark"] == "hospital"


class Watched:
    """A storage, and who watches it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.storage, self.socket = folder / "storage", folder / "alive"
        self.settings, self.script = folder / "settings.json", folder / "watch"
        self.storage.mkdir()
        self.mark = self.storage / storage_mount.NAME
        self.mark.write_text("hospital 1234\n", encoding="ascii")
        self.script.write_bytes(WATCH.read_bytes())
        self.set()

    def set(self, **changes: str) -> None:
        known = {"mount": "/", "folder": str(self.storage), "mark": "hospital", "socket": str(self.socket)}
        self.settings.write_text(json.dumps(known | changes), encoding="ascii")

    def start(self) -> None:
        # A file of its own would not be read before it ends.
        self.process = subprocess.Popen([sys.executable, str(self.script), str(self.settings)])

    def said(self) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.socket))
            connection.sendall(b"GET /alive HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return b"".join(iter(lambda: connection.recv(4096), b"")).decode()

    def until(self, part: str) -> str:
        """Wait for an answer with some words."""
        end, said = time.monotonic() + 120, ""
        while part not in said:
            assert time.monotonic() < end, said
            with contextlib.suppress(OSError):
                said = self.said()
            time.sleep(0.05)
        return said


@pytest.fixture
def watched(tmp_path: pathlib.Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    made.start()
    yield made
    made.process.kill()
    made.process.wait()


def test_storage_that_answers(watched: Watched) -> None:
    assert watched.until("HTTP/1.0 204 ").endswith("\r\n\r\n")
    (written,) = watched.storage.glob(".pacs-alive-*")
    assert written.stat().st_size == 21
    before, end = written.read_text(encoding="ascii"), time.monotonic() + 60
    while written.read_text(encoding="ascii") == before:
        assert time.monotonic() < end, "it is not asked again"
        time.sleep(0.1)


@pytest.mark.parametrize(
    "spoil, part",
    [
        (lambda watched: watched.mark.unlink(), "No such file or directory"),
        (lambda watched: watched.mark.write_text("clinic 1234\n", encoding="ascii"), "is that of another site"),
        (lambda watched: watched.mark.write_text("", encoding="ascii"), "is that of another site"),
        (lambda watched: watched.set(mount="/nowhere"), "nothing is mounted at /nowhere"),
    ],
)
def test_storage_that_is_not_ours(watched: Watched, spoil: Callable[[Watched], None], part: str) -> None:
    watched.until(" 204 ")
    spoil(watched)
    assert part in watched.until(" 503 ")
    watched.set()
    watched.mark.write_text("hospital 1234\n", encoding="ascii")
    watched.until(" 204 ")


def test_storage_that_hangs(watched: Watched) -> None:
    """Who asks it is given up, again and again, and a new one finds that it answers."""
    watched.until(" 204 ")
    kept = watched.mark.rename(watched.storage / "kept")
    os.mkfifo(watched.mark)
    begin = time.monotonic()
    assert "nothing within 3 s" in watched.until("nothing within")
    assert time.monotonic() > begin + 2
    time.sleep(1)
    assert " 503 " in watched.said(), "the next one hangs as well"
    kept.rename(watched.mark)
    watched.until(" 204 ")


def test_who_asks_may_end(watched: Watched) -> None:
    watched.until(" 204 ")
    children = pathlib.Path(f"/proc/{watched.process.pid}/task/{watched.process.pid}/children")
    (child,) = map(int, children.read_text(encoding="ascii").split())
    os.kill(child, signal.SIGKILL)
    end = time.monotonic() + 60
    while children.read_text(encoding="ascii").split() in ([], [str(child)]):
        assert time.monotonic() < end
        time.sleep(0.05)
    watched.until(" 204 ")


def test_who_says_nothing_keeps_nobody_waiting(watched: Watched) -> None:
    watched.until(" 204 ")
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            mute = stack.enter_context(socket.socket(socket.AF_UNIX))
            mute.connect(str(watched.socket))
        assert " 204 " in watched.said()


def test_it_ends_once_nobody_needs_it(watched: Watched) -> None:
    watched.until(" 204 ")
    watched.settings.unlink()
    assert watched.process.wait(60) == 0


def asked(watched: Watched) -> subprocess.CompletedProcess[str]:
    # Not as long as on a host.
    script = watched.script.with_name("asks")
    script.write_text(
        watched.script.read_text(encoding="utf-8").replace("ASKED = 20.0", "ASKED = 1.0"), encoding="utf-8"
    )
    command = [sys.executable, str(script), str(watched.settings), "ask"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_unit_waits_for_it(watched: Watched) -> None:
    watched.until(" 204 ")
    assert asked(watched).returncode == 0
    watched.mark.unlink()
    watched.until(" 503 ")
    found = asked(watched)
    assert found.returncode == 1
    assert found.stderr.startswith("Orthanc's storage does not answer: ")
    assert found.stderr.count("\n") == 1, "each reason once"
    watched.process.kill()
    watched.process.wait()
    assert "who watches it does not say: Connection refused" in asked(watched).stderr


def unit(**given: Any) -> str:
    """Render Orthanc's unit, as far as it is about the storage."""
    loader = DataLoader()
    variables: dict[str, Any] = {**evaluated(), "ansible_managed": "Ansible", "orthanc_database": "postgresql"} | given
    for path in ("main/storage", "apt"):
        variables |= loader.load_from_file(str(ROOT / f"roles/orthanc/vars/{path}.yml"), trusted_as_template=True)
    variables |= dict.fromkeys(("__orthanc_openssl", "__orthanc_guarded", "orthanc_https_ca"), "")
    variables |= {"__orthanc_index_dir": "/var/lib/orthanc/db-v6", "orthanc_worklists_table": ""}
    text = (ROOT / "templates/etc/systemd/system/orthanc.service.j2").read_text(encoding="utf-8")
    return str(Templar(loader=loader, variables=variables).template(trust_as_template(text)))


def test_unit_of_orthanc() -> None:
    plain = unit()
    assert "BindsTo" not in plain
    assert "pacs-storage" not in plain
    mounted = unit(orthanc_storage_mount="/srv/dicom-a.b", orthanc_storage_dir="/srv/dicom-a.b/images")
    assert r"BindsTo=srv-dicom\x2da.b.mount" in mounted
    assert mounted.split("WantedBy=")[1:] == ["multi-user.target\n", "srv-dicom\\x2da.b.mount\n"]
    before, _, after = mounted.partition("ExecStartPre=+/usr/bin/python3 /etc/pacs/storage/watch ")
    assert "ExecStart" not in before, "the first that is done"
    assert after.startswith("/etc/pacs/storage/settings.json ask\n")

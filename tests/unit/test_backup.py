"""The program that backs an Orthanc up, with a stand-in for Orthanc that writes its index, and one for restic."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import importlib
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.repository import ROOT

FILES = ROOT / "roles" / "backup" / "files"
PROGRAM = FILES / "backup.py"
ARCHIVE = "5e0e3f4c-0000-4000-8000-000000000001"
# Holds its index as Orthanc does, and writes to it; what is acknowledged stands in a file.
ORTHANC = """
import hashlib, os, sqlite3, sys, time, uuid
folder, pause = sys.argv[1], float(sys.argv[2])
index = sqlite3.connect(f"{folder}/index", isolation_level=None)
for line in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", f"wal_autocheckpoint = {sys.argv[3]}"):
    index.execute(f"PRAGMA {line}").fetchall()
index.execute("CREATE TABLE IF NOT EXISTS Resources(internalId INTEGER PRIMARY KEY, resourceType, publicId TEXT)")
columns = "id, fileType, uuid, compressedSize INTEGER, compressedMD5, uncompressedMD5"
index.execute(f"CREATE TABLE IF NOT EXISTS AttachedFiles({columns})")
told = os.open(sys.argv[4], os.O_WRONLY | os.O_CREAT)
number = 0
while True:
    number += 1
    name = str(uuid.UUID(int=number * 2**64 + number * 2654435761 % 2**32 * 2**96))
    os.makedirs(f"{folder}/{name[:2]}/{name[2:4]}", exist_ok=True)
    with open(f"{folder}/{name[:2]}/{name[2:4]}/{name}", "w") as file:
        file.write(str(number))
    index.execute("BEGIN")
    index.execute("INSERT INTO Resources VALUES (?, 4, ?)", (number, f"{number} " + "x" * 500))
    digest = hashlib.md5(str(number).encode()).hexdigest()
    row = (number, name, len(str(number)), digest, digest)
    index.execute("INSERT INTO AttachedFiles VALUES (?, 1, ?, ?, ?, ?)", row)
    index.execute("COMMIT")
    os.pwrite(told, b"%12d" % number, 0)
    time.sleep(pause)
"""


class Program:
    """All parts of the program as one: what is changed in one is changed in all that know it by that name."""

    def __init__(self) -> None:
        parts = [path.stem for path in sorted((FILES / "pacs_backup").glob("*.py"))]
        self.__dict__["_parts"] = [importlib.import_module(f"pacs_backup.{part}") for part in parts]
        self.__dict__["_first"] = [dict(vars(part)) for part in self._parts]

    def __getattr__(self, name: str) -> Any:
        found = [getattr(part, name) for part in self._parts if hasattr(part, name)]
        if not found:
            raise AttributeError(name)
        return found[0]

    def __setattr__(self, name: str, value: Any) -> None:
        for part in self._parts:
            if hasattr(part, name):
                setattr(part, name, value)

    def __delattr__(self, name: str) -> None:
        """So pytest takes back what it has changed."""
        for part, first in zip(self._parts, self._first, strict=True):
            if name in first:
                setattr(part, name, first[name])


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    """Leave to other tests the mask of this process, which the program sets for itself."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="module")
def program() -> Iterator[Any]:
    sys.path.insert(0, str(FILES))
    yield Program()
    sys.path.remove(str(FILES))


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Orthanc:
    """A process that writes to an index."""

    def __init__(self, folder: pathlib.Path, pause: float = 0.001, checkpoint: int = 1000) -> None:
        self.index, self._told = str(folder / "index"), folder.with_name("acknowledged")
        command = [sys.executable, "-c", ORTHANC, str(folder), str(pause), str(checkpoint), str(self._told)]
        self.process = subprocess.Popen(command)
        until(self.acknowledged)

    def acknowledged(self) -> int:
        return int(self._told.read_text("utf-8") or 0) if self._told.exists() else 0

    def written(self) -> int:
        """Return the number of the next image that it acknowledges: it goes on."""
        before = self.acknowledged()
        until(lambda: self.acknowledged() > before)
        return self.acknowledged()

    def stands(self) -> bool:
        state = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text("utf-8")
        return state.rpartition(")")[2].split()[0] == "T"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def orthanc(tmp_path: pathlib.Path) -> Iterator[Callable[..., Orthanc]]:
    started: list[Orthanc] = []
    folder = tmp_path / "archive"
    folder.mkdir(exist_ok=True)

    def start(**options: Any) -> Orthanc:
        started.append(Orthanc(folder, **options))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_copy_of_an_index_in_use_is_sound(
    program: Any, orthanc: Callable[..., Orthanc], tmp_path: pathlib.Path
) -> None:
    running = orthanc()
    for number in range(5):
        target = tmp_path / f"copy-{number}"
        before = running.written()
        pause = program.copy_index(running.index, target, 10.0)
        assert 0 < pause < 10
        assert not running.stands()
        found = program.check_index(target)
        assert found["instances"] >= before
        assert found["files"] == found["instances"]
        assert not target.with_name(target.name + "-wal").exists()
        running.written()


def test_index_alone_is_not_enough(program: Any, orthanc: Callable[..., Orthanc], tmp_path: pathlib.Path) -> None:
    """What was acknowledged is in its log."""
    running = orthanc(checkpoint=100_000)
    before = [running.written() for _ in range(50)][-1]
    program.copy_index(running.index, tmp_path / "copy", 10.0)
    (tmp_path / "copy-wal").unlink()
    with contextlib.suppress(program.Failed):
        assert program.check_index(tmp_path / "copy")["instances"] < before


def test_log_that_is_begun_anew_all_the_time(
    program: Any, orthanc: Callable[..., Orthanc], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the index is copied whole while Orthanc stands still."""
    running, copied, copy = orthanc(checkpoint=2), [], program.copy_file

    def slow(source: str, target: pathlib.Path) -> None:
        copied.append((pathlib.Path(source).name, running.stands()))
        copy(source, target)
        if not running.stands():
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                running.written()

    seconds = 0.01
    monkeypatch.setattr(program, "copy_file", slow)
    program.copy_index(running.index, tmp_path / "copy", 10.0)
    assert ("index", True) in copied[-2:]
    assert len(copied) > program.TRIES
    program.check_index(tmp_path / "copy")
    assert not running.stands()

    seconds = 0.3
    with pytest.raises(program.Failed, match="changes all the time"):
        program.copy_index(running.index, tmp_path / "copy", 0.5)
    assert not running.stands()


def test_nothing_is_copied_while_orthanc_does_not_stand_still(
    program: Any, orthanc: Callable[..., Orthanc], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, done = orthanc(), list[str]()
    running.written()
    monkeypatch.setattr(program, "stopped", lambda _pid: False)
    monkeypatch.setattr(program, "copy_logs", lambda *_arguments: done.append("logs"))
    with pytest.raises(program.Failed, match="would not stand still"):
        program.copy_index(running.index, tmp_path / "copy", 0.2, lambda: done.append("also"))
    assert done == []
    running.written()


def test_index_without_its_orthanc(program: Any, orthanc: Callable[..., Orthanc], tmp_path: pathlib.Path) -> None:
    running = orthanc()
    before = running.written()
    running.end()
    assert program.copy_index(running.index, tmp_path / "copy", 10.0) == 0
    assert program.check_index(tmp_path / "copy")["instances"] >= before


def test_disk_that_hangs_does_not_hold_orthanc(
    program: Any, orthanc: Callable[..., Orthanc], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on when its time is over, and what was copied until then is no copy."""
    running = orthanc()

    def hang(_index: str, _target: pathlib.Path) -> None:
        assert running.stands()
        until(lambda: not running.stands())

    monkeypatch.setattr(program, "copy_logs", hang)
    with pytest.raises(program.Failed, match=r"within 0\.5 s; it goes on"):
        program.copy_index(running.index, tmp_path / "copy", 0.5)
    running.written()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_while_orthanc_stands_still(
    program: Any, orthanc: Callable[..., Orthanc], number: signal.Signals
) -> None:
    running = orthanc()
    script = (
        f"import sys, time; sys.path.insert(0, {str(FILES)!r}); from pacs_backup.index import Frozen\n"
        f"with Frozen([{running.process.pid}], 600): print('stands', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "stands\n"
        assert running.stands()
        other.send_signal(number)
    until(lambda: not running.stands())
    running.written()


def test_all_of_the_backup_killed_while_orthanc_stands_still(program: Any, orthanc: Callable[..., Orthanc]) -> None:
    """What systemd calls then has it go on."""
    running = orthanc()
    os.kill(running.process.pid, signal.SIGSTOP)
    until(running.stands)
    program.thaw(running.index)
    running.written()


@pytest.mark.parametrize("place", [0, 4096])
def test_damaged_copy_is_noticed(
    program: Any, orthanc: Callable[..., Orthanc], tmp_path: pathlib.Path, place: int
) -> None:
    running = orthanc(checkpoint=1)
    for _ in range(50):
        running.written()
    running.end()
    program.copy_index(running.index, tmp_path / "copy", 10.0)
    # What is in its log is mended by that.
    program.check_index(tmp_path / "copy")
    with (tmp_path / "copy").open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 3000)
    with pytest.raises(program.Failed, match="copy of the index"):
        program.check_index(tmp_path / "copy")


class Restic:
    """Stands in for restic: keeps what it is asked for, and answers."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.number, self.snapshots = "abc", [dict[str, Any]()][:0]
        self.paths: tuple[str, ...] = ()
        # By the number of each: its backup.json.
        self.told: dict[str, str] = {}
        self.meanwhile: Callable[[], None] = lambda: None
        self.answers: dict[str, tuple[int, str]] = {}
        self.takes: Callable[[int], int] = lambda seen: seen
        self.unread = ""

    def __call__(self, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        self.calls.append(list(arguments))
        verb = next(word for word in arguments if not word.startswith("--"))
        if verb in self.answers:
            code, said = self.answers[verb]
            return subprocess.CompletedProcess([], code, "", said)
        out = ""
        if verb == "cat":
            out = json.dumps({"id": self.number})
            if not self.number:
                said = "Fatal: unable to open config file: stat /x/config: no such file or directory"
                return subprocess.CompletedProcess([], 1, "", said)
        if verb == "init":
            self.number = "new"
        tags = [after for word, after in itertools.pairwise(arguments) if word == "--tag"]
        if verb == "snapshots":
            out = json.dumps([one for one in self.snapshots if not tags or {*tags} & {*one["tags"]}])
        if verb == "dump":
            out = self.told[arguments[1]]
        if verb == "backup":
            number = f"{len(self.snapshots):08}"
            taken = datetime.datetime.now(datetime.UTC)
            time = f"{taken:%Y-%m-%dT%H:%M:%S}.{len(self.snapshots):09}Z"
            self.snapshots.append({"time": time, "tags": tags, "id": number * 8, "hostname": "pacs"})
            self.paths = arguments[arguments.index("--") + 1 :]
            for file in (pathlib.Path(path, "backup.json") for path in self.paths):
                if file.exists():
                    self.told[number * 8] = file.read_text("utf-8")
            self.meanwhile()
            # A link is kept as one.
            seen = sum(len(names) for path in self.paths if not os.path.islink(path) for *_, names in os.walk(path))
            out = json.dumps(
                {
                    "message_type": "summary",
                    "snapshot_id": number,
                    "data_added": 5,
                    "total_files_processed": self.takes(seen),
                }
            )
            if self.unread and tags[0] == "pacs-files":
                said = json.dumps({"message_type": "error", "item": self.unread})
                return subprocess.CompletedProcess([], 3, out, said)
        return subprocess.CompletedProcess([], 0, out, "")

    def verbs(self) -> list[str]:
        return [next(word for word in call if not word.startswith("--")) for call in self.calls]


class Host:
    """A host with an archive, and restic."""

    def __init__(self, program: Any, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.program, self.restic = program, Restic()
        self.archive, self.state = folder / "archive", folder / "state"
        for path in (self.archive / ".pacs-backup", self.state):
            path.mkdir(parents=True, exist_ok=True)
        (self.archive / ".pacs").touch()
        monkeypatch.setattr(program, "STATE", self.state)
        monkeypatch.setattr(program, "LOCK", self.state / "lock")
        self.settings = {
            "host": "pacs",
            "repository": "/srv/backup",
            "calendar": "daily",
            "keep": {"daily": 14},
            "pause_seconds": 10,
            "upload_mib": 50,
            "storage_dir": str(self.archive),
            "index_dir": str(self.archive),
            "paths": ["/nowhere"],
        }

    def backup(self) -> Any:
        made = self.program.Backup(self.settings)
        made.repository.run = self.restic
        return made

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "status.json").read_text("utf-8"))
        return found


@pytest.fixture
def host(program: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(program, tmp_path, monkeypatch)


def test_backup(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    running = orthanc()
    assert host.backup().prepare()
    assert not host.backup().prepare()
    before = running.written()
    host.backup().run(time.monotonic())
    success = host.status()["success"]
    assert success["instances"] >= before
    assert 0 < success["pause_seconds"] < 10
    assert (success["snapshot"], success["added_bytes"], success["missing"]) == ("00000001", 10, 0)
    assert host.restic.verbs()[-7:] == ["cat", "snapshots", "unlock", "backup", "backup", "forget", "snapshots"]
    files, index = (call for call in host.restic.calls if "backup" in call)
    assert files[files.index("--") + 1 :] == [str(host.archive), "/etc/pacs"][: 1 + os.path.exists("/etc/pacs")]
    # The index in use would be half of one, and the copy comes for itself.
    skipped = {f"--exclude={host.archive}/{name}" for name in ("index", "index-wal", "index-shm", ".pacs-backup")}
    assert skipped <= set(files)
    assert index[index.index("--") + 1 :] == [f"{host.archive}/.pacs-backup"]
    assert not [word for word in index if word.startswith("--exclude=") and ".pacs-backup" in word]
    assert {"pacs", "files=00000000", "--limit-upload=51200"} <= set(index)
    assert "--keep-daily" in host.restic.calls[-2]
    assert [path.name for path in (host.archive / ".pacs-backup").rglob("*")] == ["files"]
    assert host.backup().report()["wrong"] == ""


def test_images_that_come_and_go_meanwhile(
    host: Host, orthanc: Callable[..., Orthanc], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the index knows is in one of the two: what has come is held, though it is deleted before it is taken."""
    running = orthanc()
    host.backup().prepare()
    taken: set[str] = set()
    hold = host.program.Backup.hold

    def held_and_deleted(made: Any, name: str) -> bool:
        found = bool(hold(made, name))
        # As soon as Orthanc goes on; by then it is looked for once more.
        gone.append(name)
        host.program.place(host.archive, name).unlink(missing_ok=True)
        return found

    def take() -> None:
        for folder in map(pathlib.Path, host.restic.paths):
            taken.update(path.name for path in folder.rglob("*-*-*"))
        before = running.acknowledged()
        until(lambda: running.acknowledged() > before + 20)
        for name in gone:
            host.program.place(host.archive, name).unlink(missing_ok=True)

    gone: list[str] = []
    monkeypatch.setattr(host.program.Backup, "hold", held_and_deleted)
    host.restic.meanwhile = take
    known: set[str] = set()
    clear = host.program.Backup.clear

    def look(made: Any) -> None:
        copy = made.stage / "index"
        known.clear()
        known.update(name for name, *_ in host.program.known(copy) if copy.exists()) if copy.exists() else None
        clear(made)

    monkeypatch.setattr(host.program.Backup, "clear", look)
    host.backup().run(time.monotonic())
    assert len(gone) > 20
    assert len(known) == host.status()["success"]["files"]
    assert known <= taken
    assert host.status()["success"]["missing"] == 0


def test_files_that_are_missing_already_are_told(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    running = orthanc()
    host.backup().prepare()
    running.end()
    for path in sorted(host.archive.glob("??/??/*"))[:2]:
        path.unlink()
    host.backup().run(time.monotonic())
    assert host.status()["success"]["missing"] == 2


def test_first_backup_that_takes_days(
    host: Host, orthanc: Callable[..., Orthanc], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come in days would be too much to hold while Orthanc stands still: the files are taken once more."""
    orthanc()
    host.backup().prepare()
    monkeypatch.setattr(host.program, "LONG", -1)
    host.backup().run(time.monotonic())
    assert host.restic.verbs().count("backup") == host.program.PASSES + 1


def test_files_of_a_backup_go_with_it(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    orthanc()
    host.backup().prepare()
    for _ in range(2):
        host.backup().run(time.monotonic())
    files = [one for one in host.restic.snapshots if "pacs-files" in one["tags"]]
    assert ["forget", "--prune"] not in [call[1:3] for call in host.restic.calls]
    host.restic.snapshots = [one for one in host.restic.snapshots if f"files={files[0]['id'][:8]}" not in one["tags"]]
    host.backup().run(time.monotonic())
    assert host.restic.calls[-1] == ["--quiet", "forget", "--prune", files[0]["id"]]


def test_file_system_without_links(
    host: Host, orthanc: Callable[..., Orthanc], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_source: object, _target: object, follow_symlinks: bool) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(host.program.os, "link", refuse)
    running = orthanc(pause=0.01)
    host.backup().prepare()
    host.restic.meanwhile = lambda: until(lambda: running.written())
    host.backup().run(time.monotonic())
    assert host.status()["success"]["missing"] == 0


def test_repository_that_is_gone_or_another_one(host: Host) -> None:
    """Where its disk is not mounted no other one is made."""
    host.backup().prepare()
    host.restic.number = ""
    for call in (host.backup().prepare, lambda: host.backup().run(0)):
        with pytest.raises(host.program.Failed, match=r"is not there any more\. Is its disk mounted"):
            call()
    assert "init" not in host.restic.verbs()
    host.restic.number = "other"
    with pytest.raises(host.program.Failed, match="is another one by now"):
        host.backup().prepare()
    # At another place it is meant to be.
    host.settings["repository"] = "/srv/other"
    assert host.backup().prepare()


def test_new_host_does_not_take_the_place_of_the_archive_that_was_lost(
    host: Host, orthanc: Callable[..., Orthanc]
) -> None:
    orthanc()
    tags = ["pacs", f"archive={ARCHIVE}"]
    host.restic.snapshots = [{"time": "2026-11-29T02:00:00Z", "tags": tags, "id": "1", "hostname": "pacs"}]
    host.backup().prepare()
    for _ in range(2):
        with pytest.raises(host.program.Failed, match="of another archive than the one on this host"):
            host.backup().run(0)
        # Nor if somebody has given it a name.
        (host.archive / ".pacs-archive").write_text("x\n", "utf-8")
    assert "backup" not in host.restic.verbs()
    host.backup().begin()
    host.backup().run(time.monotonic())
    host.backup().run(time.monotonic())
    assert host.restic.verbs().count("backup") == 4
    # And not after yet another one.
    other = {"time": "2026-12-01T12:00:00+02:00", "tags": ["pacs", "archive=third"], "id": "9", "hostname": "pacs"}
    host.restic.snapshots.append(other)
    with pytest.raises(host.program.Failed, match="of another archive"):
        host.backup().run(0)


def test_run_that_was_killed_is_a_failure(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_RESULT", "signal")
    host.backup().note(running="2026-11-30T02:00:00+00:00", success={"epoch": int(time.time())})
    host.backup().copy.write_text("half", "utf-8")
    host.backup().ended()
    assert "ended from outside (signal)" in host.status()["problem"]
    assert host.backup().report()["wrong"] == host.status()["problem"]
    assert not (host.archive / ".pacs-backup" / "index").exists()
    # One that ended by itself has said so.
    host.backup().note(problem="")
    host.backup().ended()
    assert host.status()["problem"] == ""


def test_backup_that_is_too_old(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.program, "widest", lambda _calendar: 86400)
    assert "There is no backup yet" in host.backup().report()["wrong"]
    host.backup().note(success={"epoch": int(time.time()) - 2 * 86400 + 100})
    assert host.backup().report()["wrong"] == ""
    host.backup().note(success={"epoch": int(time.time()) - 2 * 86400 - 100})
    assert "48 h old, and one is due every 24 h" in host.backup().report()["wrong"]


def test_half_of_a_status_is_none(host: Host) -> None:
    (host.state / "status.json").write_text('{"problem": ', "utf-8")
    host.backup().note(running="now")
    assert host.status()["running"] == "now"


def test_full_disk_is_noticed_before(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.archive / "index").write_bytes(b"x")
    free = host.program.shutil.disk_usage(host.archive)._replace(free=1 << 20)
    monkeypatch.setattr(host.program.shutil, "disk_usage", lambda _path: free)
    with pytest.raises(host.program.Failed, match="1 MiB free; make room for 256"):
        host.backup().copied()


@pytest.mark.parametrize(
    "said, words",
    [
        ("Fatal: wrong password or no key found", "another key than backup_password"),
        (
            'Fatal: unable to open config file: Stat: Get "https://s3/x": dial tcp 192.0.2.1:443: no route to host\n'
            "Is there a repository at the following location?\ns3:https://s3/x",
            "cannot be reached",
        ),
        (
            "Fatal: unable to open config file: The Access Key Id you provided does not exist in our records.",
            "let us in",
        ),
        ("Fatal: unable to open repository: unable to start the sftp session, error: EOF", "cannot be reached"),
        (
            'Get "https://store/x": tls: failed to verify certificate: x509: certificate signed by unknown authority',
            "its certificate is not trusted; see to backup_ca",
        ),
        ("Fatal: unable to open config file: Stat: The specified bucket does not exist", "its bucket is not there"),
        (
            "We encountered an internal error, please try again.\nclient.PutObject\n"
            "github.com/restic/restic/internal/backend/s3.(*Backend).Save\n\tgithub.com/restic/restic/s3.go:307\n"
            "runtime.goexit\n\truntime/asm_amd64.s:1594\nunable to create lock in backend",
            "look whether it is full. restic says: We encountered an internal error, please try again. client.PutObject"
            " unable to create lock in backend",
        ),
        ("Fatal: unable to create lock in backend: repository is already locked by PID 5", "somebody else is at work"),
        ("Fatal: unable to save snapshot: write /srv/x: no space left on device", "it is full"),
        ("error for tree 1234: ciphertext verification failed", "it is damaged"),
        ("Fatal: something new", "restic fails. restic says: Fatal: something new"),
    ],
)
def test_what_restic_says_in_words(host: Host, said: str, words: str) -> None:
    """And none of it is taken for a place where a repository has to be made."""
    host.restic.answers["cat"] = (1, said)
    with pytest.raises(host.program.Failed) as failed:
        host.backup().prepare()
    assert words in str(failed.value)
    assert "init" not in host.restic.verbs()


def in_its_place(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have a script be called in the place of restic."""
    restic = folder / "restic"
    restic.write_text(script, "utf-8")
    restic.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    "said, words",
    [
        (
            "Stat(<config/>) returned error, retrying after 5s: The request signature we calculated does not match",
            "it does not let us in; no answer in 1 s. Stat",
        ),
        ("", "it cannot be reached; no answer in 1 s."),
    ],
)
def test_restic_that_goes_on_asking(
    host: Host, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, said: str, words: str
) -> None:
    """Where it is refused, too: that is told, and not that nobody answers."""
    in_its_place(tmp_path, monkeypatch, f"#!/bin/sh\necho '{said}' >&2; exec sleep 60\n")
    with pytest.raises(host.program.Failed, match=re.escape(words)):
        host.program.Repository(host.settings).run("cat", timeout=1)


@pytest.mark.parametrize("verb, policy", [("backup", "SCHED_IDLE"), ("dump", "SCHED_OTHER")])
def test_images_come_first(
    host: Host, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, verb: str, policy: str
) -> None:
    """A backup has what others leave of the processors; whoever waits for an answer does not wait for that."""
    in_its_place(tmp_path, monkeypatch, "#!/bin/sh\nexec chrt --pid $$\n")
    assert policy in host.program.Repository(host.settings).run("--quiet", verb).stdout


@pytest.mark.parametrize("verb, many", [("restore", True), ("backup", False)])
def test_restore_reads_many_files_at_a_time(
    host: Host, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, verb: str, many: bool
) -> None:
    """A restore has the processors and the disk to itself; a backup leaves them to images."""
    in_its_place(tmp_path, monkeypatch, '#!/bin/sh\necho "$@"\n')
    words = host.program.Repository(host.settings).run(verb).stdout.split()
    assert ("local.connections=6" in words) is many
    assert words[-1] == verb


def test_older_backups_that_stay_are_told(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    orthanc()
    host.backup().prepare()
    host.restic.answers["forget"] = (1, "unable to create lock in backend: repository is already locked")
    host.backup().run(time.monotonic())
    assert "somebody else is at work" in host.status()["success"]["not_tidied"]


@pytest.mark.parametrize("items, good", [(["/nowhere/x"], True), ([str(PROGRAM)], False), ([], False)])
def test_file_that_cannot_be_read_fails_and_one_that_went_does_not(host: Host, items: list[str], good: bool) -> None:
    lines = [json.dumps({"message_type": "error", "during": "archival", "item": item}) for item in items]

    def run(*_arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        summary = {"message_type": "summary", "snapshot_id": "1", "data_added": 0, "total_files_processed": 7}
        return subprocess.CompletedProcess([], 3, json.dumps(summary), "\n".join(lines))

    made = host.backup()
    made.repository.run = run
    *counts, unread = made.saved(["pacs"], ["/srv"])
    assert counts == ["1", 0, 7]
    assert (not unread) is good


@pytest.mark.parametrize(
    "url, words",
    [
        ("sftp:backup@nas:/srv/pacs", ["-lbackup", "nas", "-s", "sftp"]),
        ("sftp://backup@nas.example.org:2222//srv/pacs", ["-lbackup", "-p2222", "nas.example.org", "-s", "sftp"]),
        ("sftp://backup@[fd00::1]:22//srv/pacs", ["-lbackup", "-p22", "fd00::1", "-s", "sftp"]),
    ],
)
def test_sftp_server_is_known_by_its_key_alone(host: Host, url: str, words: list[str]) -> None:
    host.settings["repository"] = url
    option, command = host.program.Backup(host.settings).repository._options
    assert option == "-o"
    assert command.startswith("sftp.command=ssh -F/dev/null ")
    found = command.split()
    assert [word for word in found if word in words] == words
    assert "-oStrictHostKeyChecking=yes" in found


def test_one_at_a_time(host: Host) -> None:
    with (
        host.program.alone(0),
        pytest.raises(host.program.Failed, match="is at work on this host"),
        host.program.alone(0),
    ):
        pass


def test_drills_of_a_part_come_to_all_in_the_end(program: Any) -> None:
    everything = {f"{number:02x}" for number in range(256)}
    assert program.chosen(100, 7) == everything
    days = [program.chosen(10, 26 * day) for day in range(10)]
    assert {len(day) for day in days} == {26}
    assert set().union(*days) == everything


class Backed:
    """An archive of ten images that was backed up, and restic that restores it."""

    def __init__(self, host: Host, orthanc: Callable[..., Orthanc]) -> None:
        running = orthanc(pause=0.01)
        until(lambda: running.acknowledged() >= 10)
        running.end()
        self.host, self.backup = host, host.backup()
        self.stage = str(self.backup.stage)
        self.index = host.archive.with_name("index")
        host.program.copy_index(str(host.archive / "index"), self.index, 10.0)
        self.counts = host.program.check_index(self.index)
        self.files = {path.name: path.read_text("utf-8") for path in host.archive.glob("??/??/*")}
        self.told = {**host.settings, **self.counts, "time": "2026-11-30T02:00:00", "archive": ARCHIVE}
        self.told["held"] = str(self.backup.held)
        self.lost: set[str] = set()
        self.missing: dict[str, list[str]] = {}
        self.broken: set[str] = set()
        self.queue: str | None = None
        self.restic = host.restic
        host.restic.snapshots = [self.snapshot("1"), self.snapshot("2")]
        self.backup.repository.run = self

    def snapshot(self, number: str) -> dict[str, Any]:
        tags = ["pacs", f"archive={ARCHIVE}", f"index={self.stage}", f"files=files-{number}"]
        return {"time": f"2026-11-30T0{number}:00:00Z", "id": number, "tags": tags, "hostname": "pacs"}

    def __call__(self, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "dump":
            if arguments[1] in self.broken:
                return subprocess.CompletedProcess([], 1, "", "Pack ID does not match")
            missing = {"missing": self.missing[arguments[1]]} if arguments[1] in self.missing else {}
            return subprocess.CompletedProcess([], 0, json.dumps({**self.told, **missing}), "")
        if arguments[0] != "restore":
            return self.restic(*arguments, timeout=timeout)
        self.restic.calls.append(list(arguments))
        tree, wanted = pathlib.Path(arguments[arguments.index("--target") + 1]), arguments[3]
        copy = tree / self.stage[1:] / "index"
        if not wanted.startswith("files-"):
            # With it is what has come while the files were taken.
            (copy.parent / "files").mkdir(parents=True, exist_ok=True)
            for name in sorted(self.files)[-2:]:
                (copy.parent / "files" / name).write_text(self.files[name], "utf-8")
            copy.write_bytes(self.index.read_bytes())
            if self.queue is not None:
                copy.with_name(".pacs-routes").write_text(self.queue, "utf-8")
            (copy.parent / "backup.json").write_text("{}", "utf-8")
            return subprocess.CompletedProcess([], 0, "", "")
        for name in sorted(self.files)[:-2]:
            # The last one lacks some.
            if wanted == "files-1" or name not in self.lost:
                path = self.host.program.place(tree / str(self.host.archive)[1:], name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self.files[name], "utf-8")
        return subprocess.CompletedProcess([], 0, "", "")


@pytest.fixture
def backed(host: Host, orthanc: Callable[..., Orthanc], monkeypatch: pytest.MonkeyPatch) -> Backed:
    monkeypatch.setattr(host.program, "service", lambda verb, unit: host.restic.calls.append([verb, unit]))
    monkeypatch.setattr(host.program.pwd, "getpwnam", lambda _name: type("owner", (), {"pw_uid": -1, "pw_gid": -1}))
    host.settings["drill_percent"] = 100
    return Backed(host, orthanc)


def drilled(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    drill = backed.host.program.Drill(backed.backup)
    monkeypatch.setattr(drill, "served", lambda *_arguments: 3)
    with contextlib.suppress(backed.host.program.Failed):
        backed.host.program.drilled(drill)
    told = backed.host.status()["drill"]
    report = json.loads(pathlib.Path(told["report"]).read_text("utf-8"))
    assert report["wrong"] == told["wrong"]
    return str(told["wrong"]), report


def test_drill(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, report = drilled(backed, monkeypatch)
    assert wrong == ""
    assert (report["files"], report["images"], report["snapshot"]) == (*[len(backed.files)] * 2, "2")
    folder = backed.host.archive / ".pacs-drill"
    assert folder.exists()
    backed.host.program.Drill(backed.backup).away()
    assert not folder.exists()
    assert len(list(backed.host.archive.glob("??/??/*"))) == len(backed.files)


def test_drill_on_another_disk(backed: Backed, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    backed.host.settings["drill_folder"] = str(tmp_path / "drill")
    assert "backup_drill_folder: " in drilled(backed, monkeypatch)[0]
    (tmp_path / "drill").mkdir()
    assert drilled(backed, monkeypatch)[0] == ""
    assert (tmp_path / "drill" / ".pacs-drill" / "tree").exists()
    assert not (backed.host.archive / ".pacs-drill").exists()


def test_older_backups_are_forgotten_elsewhere(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    orthanc()
    host.settings["keep"] = {}
    host.backup().prepare()
    host.backup().run(time.monotonic())
    assert "forget" not in host.restic.verbs()
    assert host.status()["success"]["not_tidied"] == ""


def test_backup_that_was_cut_off_by_a_loss_of_power(host: Host) -> None:
    host.backup().note(running="2026-11-30T02:00:00+00:00", success={"epoch": int(time.time())})
    assert "that was begun at 2026-11-30T02:00:00+00:00 was cut off" in host.backup().report()["wrong"]
    with host.program.alone(0, "run.lock"):
        assert host.backup().report()["wrong"] == ""


def test_drill_finds_what_is_missing_or_damaged(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(backed.files)
    backed.lost = {names[0]}
    # Of the same size.
    backed.files[names[1]] = "x" * len(backed.files[names[1]])
    wrong, report = drilled(backed, monkeypatch)
    assert "1 files are missing and 1 damaged, of" in wrong
    assert report["missing"][0].startswith(names[0])
    assert report["damaged"][0].startswith(names[1])


def test_drill_finds_damage_that_touches_no_image(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    backed.restic.answers["check"] = (1, "pack 1234: ciphertext verification failed")
    wrong, _report = drilled(backed, monkeypatch)
    assert "is not whole: 0 files are missing and 0 damaged" in wrong
    assert "it is damaged" in wrong


@pytest.mark.parametrize("read", [True, False])
def test_index_that_is_damaged_is_the_repository_s_fault_where_that_is_damaged(
    backed: Backed, monkeypatch: pytest.MonkeyPatch, read: bool
) -> None:
    """Restic leaves holes where it could not read."""
    if read:
        backed.restic.answers["check"] = (1, "pack 1234: ciphertext verification failed")
    with open(backed.index, "r+b") as file:
        file.seek(4096)
        file.write(bytes(8192))
    wrong, report = drilled(backed, monkeypatch)
    assert "The copy of the index is damaged" in wrong
    assert ("is not whole: " in wrong and "it is damaged" in wrong) is read
    assert len(report["damage"]) == read


def test_drill_without_room_is_not_begun(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    free = backed.host.program.shutil.disk_usage("/")._replace(free=1 << 29, total=1 << 30)
    monkeypatch.setattr(backed.host.program.shutil, "disk_usage", lambda _path: free)
    assert "512 MiB free, of which 1024 are for images that come" in drilled(backed, monkeypatch)[0]
    backed.host.program.Drill(backed.backup).away()
    # The index is counted as well, and a part of a big disk stays free.
    free = free._replace(free=3 << 30, total=40 << 30)
    backed.told["index_bytes"] = 2 << 30
    assert "3072 MiB free, of which 2048 are" in drilled(backed, monkeypatch)[0]


def answers(backed: Backed, path: str) -> bytes:
    """Return what an Orthanc with the archive on the host answers."""
    kind, *name = path.split("/")[1:]
    if kind == "statistics":
        return json.dumps({"CountInstances": backed.counts["instances"]}).encode()
    with backed.host.program.opened(backed.index if backed.backup.cluster else backed.backup.index) as index:
        wanted = "SELECT uuid FROM AttachedFiles JOIN Resources ON internalId = id WHERE publicId = ?"
        (file,) = index.execute(wanted, (name[0],)).fetchone()
    return bytes(backed.host.program.place(backed.host.archive, file).read_bytes())


def restored(backed: Backed, monkeypatch: pytest.MonkeyPatch, over: bool = True, lacking: int = 0) -> dict[str, Any]:
    restore = backed.host.program.Restore(backed.backup)
    monkeypatch.setattr(restore, "answer", lambda path: answers(backed, path))
    found: dict[str, Any] = restore.run("latest", over, lacking)
    return found


def services(backed: Backed) -> list[str]:
    return [call[0] for call in backed.restic.calls if call[1:] == ["orthanc"]]


def archive(folder: pathlib.Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in folder.glob("??/??/*")}


def test_restore_keeps_what_is_there(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = backed.host.archive
    (name, *_) = backed.files
    backed.host.program.place(folder, name).write_text("changed since", "utf-8")
    (folder / "ff" / "ff").mkdir(parents=True)
    (folder / "ff" / "ff" / "ffffffff-0000-4000-8000-000000000001").write_text("new since", "utf-8")
    with pytest.raises(backed.host.program.Failed, match=r"say -e .* \"archive of pacs\""):
        restored(backed, monkeypatch, over=False)
    before = archive(folder)
    found = restored(backed, monkeypatch)
    assert archive(folder) == backed.files
    (aside,) = found["aside"]
    assert archive(pathlib.Path(aside)) == before
    assert (pathlib.Path(aside) / "index").exists()
    assert (found["missing"], found["damaged"], found["unknown"]) == ([], [], [])
    assert (folder / ".pacs-archive").read_text("utf-8").strip() == ARCHIVE
    assert not (folder / ".pacs-restore").exists()
    assert services(backed) == ["stop", "start"]


def test_restore_takes_from_earlier_backups_what_the_last_one_lacks(
    backed: Backed, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed.lost = set(sorted(backed.files)[:2])
    assert restored(backed, monkeypatch)["missing"] == []
    assert archive(backed.host.archive) == backed.files
    backed.host.restic.snapshots = backed.host.restic.snapshots[1:]
    # Words are asked for, but for what was missing when it was backed up.
    with pytest.raises(backed.host.program.Failed, match=r'2 of \d+ files cannot be had\. To .*"lacking": "2 files"'):
        restored(backed, monkeypatch)
    assert archive(backed.host.archive) == backed.files
    backed.told["missing"] = sorted(backed.lost)
    found = restored(backed, monkeypatch)
    assert {line.split()[0] for line in found["missing"]} == backed.lost


def test_one_good_backup_and_then_many_that_lack_the_same(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    backed.lost = set(sorted(backed.files)[:2])
    backed.restic.snapshots = [backed.snapshot(str(number)) for number in range(1, 9)]
    backed.missing = {str(number): sorted(backed.lost) for number in range(2, 9)}
    backed.broken = {"4"}
    assert restored(backed, monkeypatch)["missing"] == []
    assert archive(backed.host.archive) == backed.files
    taken = [call[3] for call in backed.restic.calls if call[0] == "restore"]
    # One that does not say what it lacks is tried.
    assert taken == ["files-8", "8", "files-4", "files-1"]


@pytest.mark.parametrize("moves", [0, 1, 7, 10, 11, 12, 13, 17, 20, 21, 22])
def test_restore_that_is_cut_off_goes_on(backed: Backed, monkeypatch: pytest.MonkeyPatch, moves: int) -> None:
    """After any number of moves, and with what it had restored, whatever the repository has by then."""
    rename, seen = os.rename, []

    def cut(source: str, target: str, **folders: int) -> None:
        seen.append(source)
        if len(seen) > moves:
            raise KeyboardInterrupt
        rename(source, target, **folders)

    monkeypatch.setattr(backed.host.program.os, "rename", cut)
    with pytest.raises(KeyboardInterrupt):
        restored(backed, monkeypatch)
    assert services(backed) == ["stop"]
    # systemd does not start it as long as that is there.
    assert (backed.host.state / "moves.json").exists()
    assert "A restore was cut off" in backed.backup.report()["wrong"]
    monkeypatch.setattr(backed.host.program.os, "rename", rename)
    backed.restic.snapshots = []
    restored(backed, monkeypatch, over=False)
    assert archive(backed.host.archive) == backed.files
    assert not (backed.host.archive / ".pacs-restore").exists()


def test_restore_of_what_there_is_none(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    backed.restic.snapshots = [{**backed.snapshot("1"), "tags": ["pacs"]}]
    with pytest.raises(backed.host.program.Failed, match=r"has no backup 'latest' of pacs; it has those of pacs"):
        restored(backed, monkeypatch)
    assert archive(backed.host.archive) == backed.files


@pytest.mark.parametrize(
    "said, expected",
    [
        ("/usr/sbin/Orthanc ; argv[]=/usr/sbin/Orthanc /etc/pacs/orthanc ; ignore", ["/usr/sbin/Orthanc", "/x.json"]),
        (
            "argv[]=/usr/bin/docker run --rm --user=1:2 --userns=host --name=orthanc --network=host --volume=/a:/a"
            " --entrypoint=Orthanc sha256:abc /etc/pacs/orthanc ; ignore",
            ["/usr/bin/docker", "run", "--user=1:2", "--network=none", "--entrypoint=Orthanc", "sha256:abc", "/x.json"],
        ),
    ],
)
def test_very_orthanc_of_the_host_is_started(
    program: Any, monkeypatch: pytest.MonkeyPatch, said: str, expected: list[str]
) -> None:
    done = subprocess.CompletedProcess([], 0, f"ExecStart={{ path={said}=no }}\n", "")
    monkeypatch.setattr(program.subprocess, "run", lambda *_arguments, **_options: done)
    command, container = program.orthanc_command("/x.json", "/srv/drill")
    assert container is (len(expected) > 2)
    assert set(expected) <= set(command)
    assert (command[0], command[-1]) == (expected[0], expected[-1])
    assert not {"--network=host", "--volume=/a:/a", "--name=orthanc"} & set(command)


@pytest.mark.parametrize("name", [".pacs-backup", ".pacs-drill", ".pacs-restore"])
def test_folder_that_somebody_else_has_put_there(backed: Backed, tmp_path: pathlib.Path, name: str) -> None:
    """Who has taken Orthanc over may write beside the images: no link of his is followed, no folder of his is used."""
    folder, program = backed.host.archive / name, backed.host.program
    if folder.exists():
        folder.rename(tmp_path / "away")
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        program.owned(folder)
    folder.unlink()
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        with pytest.raises(program.Failed, match="is not root's"):
            program.owned(folder)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_folder_stays_though_another_takes_its_place(host: Host, tmp_path: pathlib.Path) -> None:
    _, way = host.program.owned(tmp_path / "ours")
    (tmp_path / "ours").rename(tmp_path / "moved")
    (tmp_path / "ours").symlink_to("/etc")
    (way / "file").write_text("x", "utf-8")
    assert (tmp_path / "moved" / "file").exists()


def test_verbs_that_playbooks_and_units_call_are_there() -> None:
    folders = ["roles/backup/tasks/*.yml", "roles/backup/vars/main.yml"]
    folders += ["templates/etc/systemd/system/pacs-*.service.j2"]
    texts = "".join(path.read_text("utf-8") for folder in folders for path in ROOT.glob(folder))
    called = set(re.findall(r"__backup_program(?:, '?| \}\} |\}\}\", )\"?([a-z-]+)", texts))
    called |= set(re.findall(r"\"\{\{ __backup_program \}\}\", ([a-z-]+)", texts))
    assert {"restore", "run", "drill-now", "prepare", "clean", "ended"} <= called
    said = subprocess.run([sys.executable, PROGRAM, "--help"], capture_output=True, text=True, check=True).stdout
    known = re.search(r"\{(.*?)\}", "".join(said.split()))
    assert known
    assert called <= set(known[1].split(","))


def test_verbs_have_what_they_take(program: Any, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = host.state / "settings.json"
    settings.write_text(json.dumps(host.settings), "utf-8")
    asked: list[tuple[Any, ...]] = []

    def ask(_restore: object, *given: Any) -> dict[str, Any]:
        asked.append(given)
        return {}

    monkeypatch.setattr(program, "restored", ask)
    words = ["backup.py", "restore", "--settings", str(settings), "--snapshot", "12345678", "--over"]
    monkeypatch.setattr(sys, "argv", words)
    assert program.main() == 0
    assert asked == [("12345678", True, 0, "", False)]
    host.backup().note(missing=3)
    monkeypatch.setattr(sys, "argv", ["backup.py", "accept", "--settings", str(settings), "--missing", "3"])
    assert program.main() == 0
    assert host.status()["accepted"] == 3


# ---- What a review has found, each of which had lost images, or a host.


def lose(backed: Backed) -> None:
    """Make the host a bare one."""
    for path in backed.host.archive.glob("??"):
        shutil.rmtree(path)


def came(backed: Backed) -> pathlib.Path:
    """Have an image come, in a folder that the backup has as well."""
    first = sorted(backed.files)[0][:2]
    path = backed.host.archive / first / "99" / f"{first}99ffff-0000-4000-8000-000000000001"
    path.parent.mkdir(parents=True)
    path.write_text("came meanwhile", "utf-8")
    return path


@pytest.mark.parametrize("moment", ["restore", "service"])
def test_image_that_comes_during_a_restore_stays(backed: Backed, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Up to the moment at which Orthanc is stopped; with the words it is kept, and takes no restored folder's place."""
    program, seen = backed.host.program, list[pathlib.Path]()
    call = getattr(program, moment)

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        if not seen:
            seen.append(came(backed))
        return call(*arguments, **options)

    lose(backed)
    monkeypatch.setattr(program, moment, meanwhile)
    with pytest.raises(program.Failed, match="has 1 files of images"):
        restored(backed, monkeypatch, over=False)
    assert archive(backed.host.archive) == {seen[0].name: "came meanwhile"}
    assert services(backed) == ["stop", "start"]
    assert not (backed.host.state / "moves.json").exists()
    (aside,) = restored(backed, monkeypatch)["aside"]
    assert archive(backed.host.archive) == backed.files
    assert archive(pathlib.Path(aside)) == {seen[0].name: "came meanwhile"}


@pytest.mark.parametrize("moves", [3, 15])
def test_folder_that_is_at_both_places_is_nobodys_to_choose(
    backed: Backed, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """As when an Orthanc was started after a restore was cut off."""
    rename, seen = os.rename, list[str]()

    def cut(source: str, target: str, **folders: int) -> None:
        seen.append(source)
        if len(seen) > moves:
            raise KeyboardInterrupt
        rename(source, target, **folders)

    monkeypatch.setattr(backed.host.program.os, "rename", cut)
    with pytest.raises(KeyboardInterrupt):
        restored(backed, monkeypatch)
    monkeypatch.setattr(backed.host.program.os, "rename", rename)
    # One that was moved aside before the cut, or one whose turn is next.
    new = backed.host.archive / seen[0 if moves < 10 else -1]
    new.mkdir()
    before = set(backed.host.archive.rglob("*-*-*"))
    with pytest.raises(backed.host.program.Failed, match=r"is in both of .* nothing was removed"):
        restored(backed, monkeypatch)
    assert "start" not in services(backed)
    assert {path.name for path in before} <= {path.name for path in backed.host.archive.rglob("*-*-*")}
    new.rmdir()
    restored(backed, monkeypatch)
    assert archive(backed.host.archive) == backed.files


def test_restored_files_are_looked_at_before_orthanc_has_them(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    move = backed.host.program.Restore.move

    def spoil(made: Any, told: dict[str, Any]) -> None:
        move(made, told)
        next(backed.host.archive.glob("??/??/*")).unlink()

    monkeypatch.setattr(backed.host.program.Restore, "move", spoil)
    with pytest.raises(backed.host.program.Failed, match=r"1 files that were restored are not in .* not started"):
        restored(backed, monkeypatch)
    assert services(backed) == ["stop"]


def test_what_is_left_of_a_restore_is_kept(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in it are not removed with its folder."""
    move = backed.host.program.Restore.move
    name = "ffffffff-0000-4000-8000-000000000001"

    def more(made: Any, told: dict[str, Any]) -> None:
        move(made, told)
        (made.tree / name).write_text("an image", "utf-8")

    monkeypatch.setattr(backed.host.program.Restore, "move", more)
    restored(backed, monkeypatch)
    assert (backed.host.archive / ".pacs-restore" / "tree" / name).exists()


def test_orthanc_does_not_start_on_half_of_an_archive(program: Any) -> None:
    unit = (ROOT / "templates/etc/systemd/system/orthanc.service.d/pacs-backup.conf.j2").read_text("utf-8")
    assert "ConditionPathExists=!{{ __backup_state }}/moves.json" in unit
    assert str(program.STATE) == "/var/lib/pacs/backup"


def test_index_on_a_disk_of_its_own(backed: Backed, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    beside, rename = tmp_path / "disk", os.rename
    beside.mkdir()
    (beside / "index").write_text("the old one", "utf-8")

    def between_disks(source: str, target: str, src_dir_fd: int, dst_dir_fd: int) -> None:
        places = [os.readlink(f"/proc/self/fd/{at}").startswith(str(beside)) for at in (src_dir_fd, dst_dir_fd)]
        if places[0] != places[1]:
            raise OSError(18, "Invalid cross-device link")
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(backed.host.program.os, "rename", between_disks)
    backed.host.settings["index_dir"] = str(beside)
    backed.backup = backed.host.backup()
    backed.backup.repository.run = backed
    found = restored(backed, monkeypatch)
    assert archive(backed.host.archive) == backed.files
    assert backed.host.program.check_index(beside / "index")["instances"] == len(backed.files)
    assert [path for path in found["aside"] if (pathlib.Path(path) / "index").exists()]
    assert not list(beside.glob(".pacs-restore"))
    assert not (backed.host.archive / ".pacs-restore").exists()
    assert (beside / ".pacs-archive").exists()


def test_folder_of_the_archive_that_is_another_disk(
    backed: Backed, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Here a link to one; what is moved does not come there."""
    if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.fail("/dev/shm is no disk of its own here")
    (backed.host.archive / "zz").mkdir()
    (backed.host.archive / "ff").symlink_to("/dev/shm")
    with pytest.raises(backed.host.program.Failed, match=r"ff is on another disk"):
        restored(backed, monkeypatch)
    assert services(backed) == []


def test_moves_that_orthanc_has_planted_are_nobodys(
    backed: Backed, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    victim, folder = tmp_path / "shadow", backed.host.archive / ".pacs-restore"
    victim.write_text("x", "utf-8")
    folder.mkdir()
    for name in ("moves.json", "report.json"):
        content = {"moves": [[str(victim), str(tmp_path / "stolen")]], "aside": "x", "archive": "x", "images": 0}
        (folder / name).write_text(json.dumps(content), "utf-8")
    with pytest.raises(backed.host.program.Failed, match="is not the folder that root has made by this name"):
        restored(backed, monkeypatch)
    assert victim.exists()
    shutil.rmtree(folder)
    restored(backed, monkeypatch)
    assert victim.exists()
    assert archive(backed.host.archive) == backed.files


@pytest.mark.parametrize("what", [".pacs-drill", ".pacs-restore"])
def test_what_was_left_in_a_folder_leads_nowhere(
    backed: Backed, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, what: str
) -> None:
    """Orthanc's user reaches what is restored for a drill while that is served."""
    victim, name = tmp_path / "etc", sorted(backed.files)[0]
    victim.mkdir()
    _, folder = backed.host.program.owned(backed.host.archive / what)
    above = folder / "tree" / str(backed.host.archive)[1:] / name[:2]
    above.mkdir(parents=True)
    (above / name[2:4]).symlink_to(victim)
    (above / "of no image").write_text("x", "utf-8")
    (folder / "index").symlink_to(victim / "index")
    if what == ".pacs-drill":
        assert drilled(backed, monkeypatch)[0] == ""
        assert not list((backed.host.archive / what).rglob("of no image"))
        assert not (backed.host.archive / what / "index").is_symlink()
    else:
        restored(backed, monkeypatch)
        assert archive(backed.host.archive) == backed.files
        assert not (backed.host.archive / what).exists()
    assert list(victim.iterdir()) == []


@pytest.mark.parametrize(
    "kept, name",
    [
        (".pacs-before-x", ".pacs-backup"),
        (".pacs-before-x", ".pacs-drill"),
        (".pacs-before-x", ".pacs-restore"),
        (".pacs-drill", ".pacs-restore"),
        (".pacs-restore", ".pacs-backup"),
    ],
)
def test_folder_of_roots_by_another_name(backed: Backed, monkeypatch: pytest.MonkeyPatch, kept: str, name: str) -> None:
    """Who has taken Orthanc over may rename what is in its folder, as an archive that is kept."""
    program, folder = backed.host.program, backed.host.archive / name
    _, made = program.owned(backed.host.archive / kept)
    image = made / "tree" / "00" / "00" / sorted(backed.files)[0]
    image.parent.mkdir(parents=True)
    for path in (image, made / "index", made / "index-wal"):
        path.write_text("x", "utf-8")
    if folder.exists():
        folder.rmdir()
    (backed.host.archive / kept).rename(folder)
    if name == ".pacs-drill":
        assert "is not the folder that root has made by this name" in drilled(backed, monkeypatch)[0]
    removes: dict[str, Callable[[], Any]] = {
        ".pacs-backup": backed.backup.clear,
        ".pacs-drill": lambda: program.Drill(backed.backup).away(),
        ".pacs-restore": lambda: restored(backed, monkeypatch),
    }
    with pytest.raises(program.Failed, match="is not the folder that root has made by this name"):
        removes[name]()
    assert image.exists()
    assert (made / "index-wal").exists()


def test_number_of_a_folder_that_is_given_anew(host: Host) -> None:
    program, kept = host.program, host.archive / ".pacs-before-x"
    kept.mkdir()
    number = {".pacs-drill": kept.stat().st_ino}
    program.put(host.state / "folders.json", {str(host.archive): number})
    program.owned(kept)
    (kept / "index").touch()
    program.owned(kept)
    kept.rename(host.archive / ".pacs-drill")
    with pytest.raises(program.Failed, match="is not the folder that root has made by this name"):
        program.owned(host.archive / ".pacs-drill")


def test_folder_of_roots_is_nobody_elses_to_read(host: Host) -> None:
    (host.archive / ".pacs-drill").mkdir(mode=0o750)
    host.program.owned(host.archive / ".pacs-drill")
    assert (host.archive / ".pacs-drill").stat().st_mode & 0o777 == 0o700


def test_files_that_are_held_are_in_no_folder_of_others(host: Host, tmp_path: pathlib.Path) -> None:
    victim = tmp_path / "etc" / "0000000a-0000-4000-8000-000000000001"
    victim.parent.mkdir()
    victim.touch()
    held = host.archive / ".pacs-backup" / "files"
    held.symlink_to(victim.parent)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        host.backup().clear()
    assert victim.exists()
    held.unlink()
    held.mkdir()
    if os.geteuid() == 0:
        os.chown(held, 65534, 65534)
        with pytest.raises(host.program.Failed, match="is not root's"):
            host.backup().clear()
        os.chown(held, 0, 0)
    # What has another name than an image is none of what was held.
    assert host.backup().holding
    for name in (victim.name, "index-wal"):
        (held / name).touch()
    host.backup().clear()
    assert [path.name for path in held.iterdir()] == ["index-wal"]


@pytest.mark.parametrize("what", ["drill", "restore"])
def test_links_in_a_backup_lead_nowhere(
    backed: Backed, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, what: str
) -> None:
    """Whoever had taken Orthanc over had them backed up: also one where a file that was held would go."""
    victim, chowned = tmp_path / "etc", list[str]()
    victim.mkdir()
    (victim / "shadow").write_text("x", "utf-8")
    held = sorted(backed.files)[-1]
    run = backed.backup.repository.run

    def with_links(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = run(*arguments, timeout=timeout)
        if arguments[0] == "restore":
            storage = pathlib.Path(arguments[arguments.index("--target") + 1], str(backed.host.archive)[1:])
            storage.mkdir(parents=True, exist_ok=True)
            if not (storage / held[:2]).exists():
                (storage / held[:2]).symlink_to(victim)
        return done

    def chown(path: Any, *_arguments: Any, dir_fd: int | None = None, **_options: Any) -> None:
        above = os.readlink(f"/proc/self/fd/{path if dir_fd is None and isinstance(path, int) else dir_fd or 0}")
        chowned.append(above if isinstance(path, int) else os.path.join(above, os.fspath(path)))

    backed.backup.repository.run = with_links
    monkeypatch.setattr(backed.host.program.os, "chown", chown)
    if what == "drill":
        assert drilled(backed, monkeypatch)[0] == ""
    else:
        restored(backed, monkeypatch)
        assert archive(backed.host.archive) == backed.files
    assert [path.name for path in victim.iterdir()] == ["shadow"]
    # Orthanc has to get there.
    assert [path for path in chowned if path.endswith("/tree")]
    assert not [path for path in chowned if os.path.realpath(path).startswith(str(victim))]


def test_names_in_an_index_are_no_paths(
    host: Host, orthanc: Callable[..., Orthanc], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Orthanc writes them, and root links and removes by them."""
    running = orthanc()
    running.written()
    running.end()
    with sqlite3.connect(host.archive / "index") as index:
        index.execute("INSERT INTO Resources VALUES (99999, 4, 'x')")
        index.execute(
            "INSERT INTO AttachedFiles VALUES (99999, 1, ?, 1, NULL, NULL)", (str(tmp_path / "planted-by-it"),)
        )
    index.close()
    (tmp_path / "planted-by-it").write_text("x", "utf-8")
    made, held = host.backup(), list[str]()
    monkeypatch.setattr(made, "hold", held.append)
    made.copied(99998)
    assert held == []
    host.program.check_index(made.copy)
    assert not [name for name, *_ in host.program.known(made.copy) if "/" in name]


def test_root_writes_through_no_link(host: Host, tmp_path: pathlib.Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x", "utf-8")
    (tmp_path / ".report.json.new").symlink_to(victim)
    host.program.put(tmp_path / "report.json", {})
    (host.archive / ".pacs-archive").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        host.backup().name()
    host.backup().named(ARCHIVE)
    assert host.backup().name() == ARCHIVE
    assert victim.read_text("utf-8") == "x"


def test_drill_is_in_a_sandbox() -> None:
    unit = (ROOT / "templates/etc/systemd/system/pacs-drill.service.j2").read_text("utf-8")
    for line in ("ProtectSystem=strict", "NoNewPrivileges=true", "ProtectHome=true", "CapabilityBoundingSet=CAP_"):
        assert f"\n{line}" in unit


def test_folder_of_the_archive_that_is_a_link(
    host: Host, orthanc: Callable[..., Orthanc], tmp_path: pathlib.Path
) -> None:
    """restic keeps a link as a link."""
    running = orthanc()
    running.written()
    running.end()
    (tmp_path / "link").symlink_to(host.archive)
    host.settings |= {"storage_dir": str(tmp_path / "link"), "index_dir": str(tmp_path / "link")}
    host.backup().prepare()
    host.backup().run(time.monotonic())
    files, index = (call for call in host.restic.calls if "backup" in call)
    assert str(host.archive) in files
    assert f"--exclude={host.archive}/index" in files
    assert str(host.archive / ".pacs-backup") in index
    # One below it is none of ours to follow.
    level = next(path for path in host.archive.glob("??/??"))
    level.rename(tmp_path / "elsewhere")
    level.symlink_to(tmp_path / "elsewhere")
    before = host.restic.verbs().count("backup")
    with pytest.raises(host.program.Failed, match="is a link, of which restic would keep the link alone"):
        host.backup().run(time.monotonic())
    assert host.restic.verbs().count("backup") == before


def test_archive_whose_disk_is_not_mounted(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    orthanc()
    host.backup().prepare()
    (host.archive / ".pacs").unlink()
    with pytest.raises(host.program.Failed, match="Is its disk mounted"):
        host.backup().run(time.monotonic())
    assert "backup" not in host.restic.verbs()


def again(host: Host, match: str) -> str:
    """Have a backup that is made, and fails. Return with what words."""
    host.restic.calls.clear()
    with pytest.raises(host.program.Failed, match=match) as failed:
        host.backup().run(time.monotonic())
    assert host.restic.verbs().count("backup") == 2
    assert "forget" not in host.restic.verbs()
    assert not (host.archive / ".pacs-backup" / "index").exists()
    return str(failed.value)


def test_files_that_went_since_keep_the_backups_that_have_them(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    running = orthanc()
    host.backup().prepare()
    running.written()
    host.backup().run(time.monotonic())
    running.end()
    gone = sorted(host.archive.glob("??/??/*"))[:2]
    for path in gone:
        path.unlink()
    for _ in range(2):
        said = again(host, r"2 files that the index knows are not there \(0 were not before\)")
    assert gone[0].name in said
    (words,) = re.findall(r"-e '(.*?)'", said)
    assert json.loads(words) == {"lost": "2 files of pacs"}
    with pytest.raises(host.program.Failed, match="2 files were missing, and not 3"):
        host.backup().accept(3)
    host.backup().accept(2)
    host.backup().run(time.monotonic())
    assert host.status()["success"]["missing"] == 2
    # For that once.
    assert host.status()["accepted"] == 0
    assert "forget" in host.restic.verbs()


def test_host_that_was_installed_anew_gives_up_no_file(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    """Nothing is known of earlier backups there, and the repository has them; one of a red night counts for nothing."""
    running = orthanc()
    host.backup().prepare()
    running.written()
    host.backup().run(time.monotonic())
    running.end()
    for path in sorted(host.archive.glob("??/??/*"))[:2]:
        path.unlink()
    again(host, r"2 files that the index knows are not there \(0 were not before\)")
    (host.program.STATE / "status.json").unlink()
    again(host, r"2 files that the index knows are not there \(0 were not before\)")
    host.backup().accept(2)
    host.backup().run(time.monotonic())


def test_no_backup_of_half_an_archive(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    orthanc().written()
    host.backup().prepare()
    moves = host.program.STATE / "moves.json"
    moves.write_text("{}", encoding="utf-8")
    with pytest.raises(host.program.Failed, match="A restore was cut off in the middle"):
        host.backup().run(time.monotonic())
    assert "backup" not in host.restic.verbs()
    moves.unlink()
    host.backup().run(time.monotonic())


@pytest.mark.parametrize("verb", ["now", "drill-now"])
@pytest.mark.parametrize("code", [0, 1])
def test_service_that_was_not_begun(
    backed: Backed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str, code: int
) -> None:
    """What is known of the one before is not told for it."""
    drilled(backed, monkeypatch)
    success = {"epoch": int(time.time()), "time": "now", "missing": 0, "snapshot": "00000001"}
    backed.host.backup().note(success=success)
    program, real = backed.host.program, subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if command[:2] == ["systemctl", "start"]:
            return subprocess.CompletedProcess(command, code, "", "A dependency job has failed." * code)
        return real(command, **options)

    monkeypatch.setattr(program.subprocess, "run", run)
    unit = "pacs-backup" if verb == "now" else "pacs-drill"
    with pytest.raises(program.Failed, match=rf"{unit}.service has not done it; systemd says: (A dependency|nothing)"):
        program.act(verb, backed.host.backup())
    if code:
        return
    # And one that was is told.
    kind = "success" if verb == "now" else "drill"
    made = {**backed.host.status()[kind], "epoch": int(time.time()) + 1, "snapshot": "00000009"}
    monkeypatch.setattr(
        program.subprocess,
        "run",
        lambda *_a, **_o: backed.host.backup().note(**{kind: made}) or subprocess.CompletedProcess([], 0, "", ""),
    )
    capsys.readouterr()
    monkeypatch.setattr(program, "widest", lambda _calendar: 86400)
    program.act(verb, backed.host.backup())
    assert json.loads(capsys.readouterr().out)[kind]["snapshot"] == "00000009"


def test_drill_that_did_not_get_its_turn_is_told(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    drilled(backed, monkeypatch)
    program = backed.host.program
    monkeypatch.setattr(program, "PATIENCE", 0)
    monkeypatch.setattr(
        program,
        "read",
        lambda _path, real=program.read: backed.host.settings if "settings" in str(_path) else real(_path),
    )
    monkeypatch.setattr(sys, "argv", ["backup.py", "drill"])
    with program.alone(1):
        assert program.main() == 1
    assert "at work on this host" in backed.host.status()["drill"]["wrong"]


def test_restic_that_took_less_than_there_is(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    orthanc().written()
    host.backup().prepare()
    host.restic.takes = lambda _seen: 0
    again(host, r"restic took 0 files, and there are \d+ of images")


def test_file_that_cannot_be_read_does_not_stop_the_others(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    """Just when a disk dies."""
    orthanc().written()
    host.backup().prepare()
    host.restic.unread = str(next(host.archive.glob("??/??/*")))
    assert host.restic.unread in again(host, "1 files could not be read")
    assert [one for one in host.restic.snapshots if "pacs" in one["tags"]]


def test_files_of_a_damaged_index_are_backed_up(
    host: Host, orthanc: Callable[..., Orthanc], monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_index: pathlib.Path) -> None:
        raise host.program.Failed("The copy of the index is damaged.")

    orthanc()
    host.backup().prepare()
    monkeypatch.setattr(host.program, "check_index", damaged)
    with pytest.raises(host.program.Failed, match=r"is damaged\. The files alone were backed up, as snapshot 0"):
        host.backup().run(time.monotonic())
    assert host.restic.verbs().count("backup") == 1
    assert "forget" not in host.restic.verbs()


def test_clock_that_goes_back(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    orthanc()
    host.backup().prepare()
    host.backup().run(time.monotonic())
    ahead = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    host.restic.snapshots[-1]["time"] = ahead.isoformat()
    host.restic.calls.clear()
    with pytest.raises(host.program.Failed, match=r"Set the clock; .* forget snapshot 00000001"):
        host.backup().run(time.monotonic())
    assert "backup" not in host.restic.verbs()
    host.backup().note(success=host.status()["success"] | {"epoch": int(time.time()) + 3600})
    assert "is of the future" in host.backup().report()["wrong"]


def test_backup_that_restic_forgets_at_once(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    orthanc()
    host.backup().prepare()
    made, run = host.backup(), host.restic

    def forgets(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        if "forget" in arguments:
            host.restic.snapshots = []
        return run(*arguments, timeout=timeout)

    made.repository.run = forgets
    with pytest.raises(host.program.Failed, match="was forgotten as soon as it was made"):
        made.run(time.monotonic())


def test_backup_is_good_though_the_repository_goes_right_after_it(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    orthanc()
    host.backup().prepare()
    made, run, forgot = host.backup(), host.restic, list[bool]()

    def goes(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        if forgot and "snapshots" in arguments:
            return subprocess.CompletedProcess([], 1, "", "dial tcp: i/o timeout")
        forgot.extend([True] * ("forget" in arguments))
        return run(*arguments, timeout=timeout)

    made.repository.run = goes
    made.run(time.monotonic())
    assert "cannot be reached" in host.status()["success"]["not_tidied"]
    assert host.backup().report()["wrong"] == ""
    late = host.status()["success"] | {"untidy_since": int(time.time()) - host.program.UNTIDY - 100}
    host.backup().note(success=late)
    assert "Older backups have not been forgotten for weeks" in host.backup().report()["wrong"]


def test_one_that_did_not_get_its_turn_leaves_the_other_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    program, settings = host.program, host.state / "settings.json"
    settings.write_text(json.dumps(host.settings), "utf-8")
    staged = host.archive / ".pacs-backup" / "index"
    monkeypatch.setattr(program, "PATIENCE", 0)
    monkeypatch.setattr(sys, "argv", ["backup.py", "run", "--settings", str(settings)])
    assert host.backup().copy
    with program.alone(0), program.alone(0, "run.lock"):
        staged.write_text("of the one at work", "utf-8")
        host.backup().note(running="now")
        assert program.main() == 1
        host.backup().ended()
        assert host.status()["running"] == "now"
        assert "is at work on this host" in host.status()["problem"]
        assert staged.exists()
    # Its own end does not wait for a drill that was waiting for it.
    with program.alone(0):
        host.backup().ended()
    assert not staged.exists()


def test_end_of_a_drill_does_not_wait_for_the_backup_that_waited_for_it(
    backed: Backed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a second archive stays beside the first one."""
    monkeypatch.setattr(backed.host.program, "stop_drilled", lambda: None)
    drilled(backed, monkeypatch)
    assert (backed.host.archive / ".pacs-drill" / "tree").exists()
    with backed.host.program.alone(0):
        backed.host.program.act("drilled", backed.backup)
    assert not (backed.host.archive / ".pacs-drill").exists()


def test_site_is_deployed_while_a_backup_is_at_work(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.backup().prepare()
    with host.program.alone(0):
        host.program.act("prepare", host.backup())
    assert json.loads(capsys.readouterr().out) == {"changed": False}


def test_drill_that_has_failed_is_wrong_until_a_good_one(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    backed.backup.note(success={"epoch": int(time.time())})
    backed.lost = set(sorted(backed.files)[:1])
    drilled(backed, monkeypatch)
    assert "The last drill has failed: The backup of" in backed.backup.report()["wrong"]
    assert backed.backup.report()["backup_wrong"] == ""
    backed.lost = set()
    drilled(backed, monkeypatch)
    assert backed.backup.report()["wrong"] == ""


def test_drill_of_an_archive_that_had_lost_a_file_before(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and is no reason not to hear the next alarm."""
    backed.lost = set(sorted(backed.files)[:1])
    backed.told["missing"] = sorted(backed.lost)
    wrong, report = drilled(backed, monkeypatch)
    assert wrong == ""
    assert [line.split()[0] for line in report["missing_before"]] == backed.told["missing"]
    assert report["missing"] == []


@pytest.mark.parametrize("percent", [10, 25, 50, 75])
def test_drills_go_on_where_the_last_one_has_ended(
    backed: Backed, monkeypatch: pytest.MonkeyPatch, percent: int
) -> None:
    backed.host.settings["drill_percent"] = percent
    parts, folders = -(-100 // percent), set[str]()
    for _ in range(parts):
        folders.update(drilled(backed, monkeypatch)[1]["folders"])
    assert len(folders) == 256
    read = [word for call in backed.restic.calls for word in call if word.startswith("--read-data-subset=")]
    assert read == [f"--read-data-subset={number + 1}/{parts}" for number in range(parts)]
    # One that fails before has proved nothing.
    before = backed.host.status()["drill"]["next"]
    backed.restic.snapshots = []
    drilled(backed, monkeypatch)
    assert backed.host.status()["drill"]["next"] == before


def test_file_that_no_backup_has_does_not_have_all_read_again(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    program, read = backed.host.program, list[str]()
    md5 = program.md5
    name = sorted(backed.files)[0]
    backed.files.pop(name)
    backed.restic.snapshots = [backed.snapshot(str(number)) for number in range(1, 10)]
    # Those before do not say so.
    backed.missing = {"9": [name]}

    def seen(path: pathlib.Path) -> str:
        read.append(path.name)
        return str(md5(path))

    monkeypatch.setattr(program, "md5", seen)
    assert len(restored(backed, monkeypatch)["missing"]) == 1
    assert sorted(read) == sorted(backed.files)
    calls = [call for call in backed.restic.calls if call[0] == "restore"]
    assert len(calls) == 2 + 8


def test_damaged_file_is_taken_from_an_earlier_backup(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    run, name = backed.backup.repository.run, sorted(backed.files)[0]

    def damaged(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = run(*arguments, timeout=timeout)
        if arguments[0] == "restore" and arguments[3] == "files-2":
            tree = pathlib.Path(arguments[arguments.index("--target") + 1], str(backed.host.archive)[1:])
            path = backed.host.program.place(tree, name)
            path.write_text("x" * len(backed.files[name]), "utf-8")
        return done

    backed.backup.repository.run = damaged
    assert restored(backed, monkeypatch)["damaged"] == []
    assert archive(backed.host.archive) == backed.files


def test_many_files_that_are_missing(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command has only so many words."""
    run, deleted = backed.backup.repository.run, "ffffffff-0000-4000-8000-000000000001"

    def with_deleted(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "restore" and arguments[3] == "files-1":
            tree = pathlib.Path(arguments[arguments.index("--target") + 1], str(backed.host.archive)[1:])
            path = backed.host.program.place(tree, deleted)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            # No name of Orthanc's, and one that is not where its name says.
            for name in ("Thumbs.db", "ffff notes", f"00{deleted[2:]}"):
                (path.parent / name).touch()
        done: subprocess.CompletedProcess[str] = run(*arguments, timeout=timeout)
        return done

    backed.backup.repository.run = with_deleted
    monkeypatch.setattr(backed.host.program, "INCLUDES", 2)
    backed.lost = set(sorted(backed.files)[:5])
    assert restored(backed, monkeypatch)["missing"] == []
    last = [call for call in backed.restic.calls if call[0] == "restore"][-1]
    assert len(last[last.index("--include") + 1]) == len(f"{backed.host.archive}/00")
    there = archive(backed.host.archive)
    assert deleted not in there
    assert set(there) - set(backed.files) == {"Thumbs.db", "ffff notes", f"00{deleted[2:]}"}


def test_damaged_pack_leaves_all_the_rest(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    run = backed.backup.repository.run

    def damaged(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = run(*arguments, timeout=timeout)
        if arguments[0] == "restore":
            return subprocess.CompletedProcess([], 1, "", "Pack ID does not match")
        return done

    backed.backup.repository.run = damaged
    backed.lost = set(sorted(backed.files)[:1])
    # An earlier backup has it.
    assert restored(backed, monkeypatch)["missing"] == []
    backed.restic.snapshots = backed.restic.snapshots[1:]
    before = archive(backed.host.archive)
    with pytest.raises(backed.host.program.Failed, match=r'1 of \d+ files cannot be had\. .*"lacking": "1 files"'):
        restored(backed, monkeypatch)
    assert archive(backed.host.archive) == before
    assert len(restored(backed, monkeypatch, lacking=1)["missing"]) == 1
    assert set(archive(backed.host.archive)) == set(backed.files) - backed.lost


@pytest.mark.parametrize("version, good", [("1.10.1", False), ("1.12.6", False), ("1.12.7", True), ("1.13.0", True)])
def test_index_of_a_newer_orthanc(backed: Backed, monkeypatch: pytest.MonkeyPatch, version: str, good: bool) -> None:
    with sqlite3.connect(backed.index) as index:
        index.execute("ALTER TABLE AttachedFiles ADD COLUMN customData")
    index.close()
    backed.told |= backed.host.program.check_index(backed.index)
    assert backed.told["writer"] == "1.12.7"
    said = f"Orthanc {version}\nCopyright"
    command = [sys.executable, "-c", f"print({said!r})"]
    monkeypatch.setattr(backed.host.program, "orthanc_command", lambda *_arguments: (command, False))
    if good:
        restored(backed, monkeypatch)
    else:
        with pytest.raises(backed.host.program.Failed, match=rf"Orthanc {version} of this host would refuse every"):
            restored(backed, monkeypatch)
        assert "restore" not in [call[0] for call in backed.restic.calls]


def test_restore_goes_on_with_what_it_has_and_with_nothing_else(
    backed: Backed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three GiB are there already, and room for one is left; those of another backup are none of it."""
    program = backed.host.program
    stray = "ffffffff-0000-4000-8000-000000000001"

    def cut(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(program, "check_index", cut)
        with pytest.raises(KeyboardInterrupt):
            restored(backed, patched)
    tree = program.Restore(backed.backup).inside(str(backed.host.archive))
    program.place(tree, stray).parent.mkdir(parents=True)
    program.place(tree, stray).touch()
    os.truncate(program.place(tree, stray), 2 << 30)
    backed.told["bytes"] = 3 << 30
    usage = shutil.disk_usage("/")._replace(free=(5 << 30) // 2, total=1 << 30)
    monkeypatch.setattr(program.shutil, "disk_usage", lambda _path: usage)
    assert restored(backed, monkeypatch)["unknown"] == [stray]

    with monkeypatch.context() as patched:
        patched.setattr(program, "check_index", cut)
        backed.told["bytes"] = 0
        with pytest.raises(KeyboardInterrupt):
            restored(backed, patched)
    tree = program.Restore(backed.backup).inside(str(backed.host.archive))
    program.place(tree, stray).parent.mkdir(parents=True)
    program.place(tree, stray).touch()
    backed.restic.snapshots.append(backed.snapshot("3"))
    assert restored(backed, monkeypatch)["unknown"] == []
    assert archive(backed.host.archive) == backed.files


# ---- What is to be sent on, which is beside the index.


def queue(folder: pathlib.Path, change: int) -> pathlib.Path:
    """Make a queue that has read so many changes."""
    path = folder / ".pacs-routes"
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        base.execute("CREATE TABLE position (change INTEGER NOT NULL)")
        base.execute("INSERT INTO position VALUES (?)", (change,))
    return path


def test_queue_is_backed_up_as_it_was_before_the_index(host: Host, orthanc: Callable[..., Orthanc]) -> None:
    """So it knows no change that the index does not: what it has not read is read once more."""
    running, told, read = orthanc(), dict[str, Any](), list[int]()
    path = queue(host.archive, 0)
    with contextlib.closing(sqlite3.connect(path)) as base, contextlib.closing(sqlite3.connect(path)) as other:
        # Its script is in the middle of something, and what it has not committed is not there.
        with base:
            base.execute("UPDATE position SET change = ?", (running.written(),))
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE position SET change = 1000000")
        copy = host.program.copy_queue

        def later(folder: str, target: pathlib.Path) -> None:
            copy(folder, target)
            running.written()

        def take() -> None:
            stage = host.archive / ".pacs-backup"
            if host.restic.paths == (str(stage),):
                told.update(json.loads((stage / "backup.json").read_text("utf-8")))
                with contextlib.closing(sqlite3.connect(stage / ".pacs-routes")) as taken:
                    read.extend(taken.execute("SELECT change FROM position").fetchone())

        host.backup().prepare()
        host.restic.meanwhile = take
        host.program.copy_queue = later
        try:
            host.backup().run(time.monotonic())
        finally:
            host.program.copy_queue = copy
    assert told["queue"]
    assert 0 < read[0] < told["instances"]
    files, _index = (call for call in host.restic.calls if "backup" in call)
    assert {f"--exclude={path}", f"--exclude={path}-journal"} <= set(files)
    assert not (host.archive / ".pacs-backup" / ".pacs-routes").exists()


@pytest.mark.parametrize(
    "what, words",
    [
        ("damaged", "file is not a database"),
        ("pipe", "it is no plain file"),
        ("link", "it is no plain file"),
        ("another", "no such table: position"),
        ("locked", r"it is locked for 0\.5 s"),
    ],
)
def test_images_are_backed_up_without_the_queue(
    host: Host,
    orthanc: Callable[..., Orthanc],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    what: str,
    words: str,
) -> None:
    orthanc()
    host.backup().prepare()
    path = host.archive / ".pacs-routes"
    monkeypatch.setattr(host.program, "LOCKED", 0.5)
    base = sqlite3.connect(tmp_path / "other" if what in ("another", "link") else path)
    if what == "damaged":
        path.write_bytes(b"x" * 5000)
    elif what == "pipe":
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    elif what in ("link", "another"):
        base.execute("CREATE TABLE secrets (text)")
        if what == "link":
            path.symlink_to(tmp_path / "other")
        else:
            shutil.copyfile(tmp_path / "other", path)
    else:
        base.execute("CREATE TABLE position (change)")
        base.execute("PRAGMA locking_mode = EXCLUSIVE")
        base.execute("BEGIN EXCLUSIVE")
    told = dict[str, Any]()

    def take() -> None:
        if host.restic.paths == (str(host.archive / ".pacs-backup"),):
            told.update(json.loads((host.archive / ".pacs-backup" / "backup.json").read_text("utf-8")))

    host.restic.meanwhile = take
    with pytest.raises(
        host.program.Failed, match=rf"has still to send was not backed up: .*{words}.*What is there was"
    ):
        host.backup().run(time.monotonic())
    base.close()
    assert re.search(words, told["unsent"])
    assert "forget" not in host.restic.verbs()
    assert host.restic.verbs().count("backup") == 2


@pytest.mark.parametrize("had", [True, False])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_queue_of_a_backup_comes_with_its_index(
    backed: Backed, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, had: bool, apart: bool, there: bool
) -> None:
    """That of the host belongs to another log of changes: it is kept beside."""
    beside = backed.host.archive
    if apart:
        beside = tmp_path / "disk"
        beside.mkdir()
        (beside / "index").write_text("the old one", "utf-8")
        backed.host.settings["index_dir"] = str(beside)
        backed.backup = backed.host.backup()
        backed.backup.repository.run = backed
    for name in (".pacs-routes", ".pacs-routes-journal") if there else ():
        (beside / name).write_text("the host's", "utf-8")
    backed.queue = "the backup's" if had else None
    backed.told["queue"] = had
    found = restored(backed, monkeypatch)
    path = beside / ".pacs-routes"
    assert (path.read_text("utf-8") if path.exists() else None) == backed.queue
    assert not (beside / ".pacs-routes-journal").exists()
    aside = [pathlib.Path(one, path.name) for one in found["aside"]]
    assert [one.read_text("utf-8") for one in aside if one.exists()] == ["the host's"] * there
    assert not list(beside.glob(".pacs-restore"))
    assert not (backed.host.archive / ".pacs-restore").exists()


def test_queue_that_cannot_be_had_is_told(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    backed.told["queue"] = True
    with pytest.raises(backed.host.program.Failed, match='"lacking": "1 files"'):
        restored(backed, monkeypatch)
    assert restored(backed, monkeypatch, lacking=1)["missing"] == [".pacs-routes of what is still to be sent"]


@pytest.mark.parametrize(
    "told, there, words",
    [
        ({"queue": False, "unsent": ""}, True, None),
        ({"queue": False, "unsent": "it is no database"}, False, ", which was not backed up: it is no database"),
        ({}, True, ", which backups did not have yet: that of the host is kept aside"),
        ({}, False, None),
    ],
)
def test_queue_that_was_not_backed_up_is_told(
    backed: Backed, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], there: bool, words: str | None
) -> None:
    """No words are asked for: it was told when it was backed up, or was not known then."""
    if there:
        (backed.host.archive / ".pacs-routes").write_text("the host's", "utf-8")
    backed.told |= told
    found = restored(backed, monkeypatch)
    assert found["missing"] == ([] if words is None else [f".pacs-routes of what is still to be sent{words}"])
    aside = pathlib.Path(found["aside"][0], ".pacs-routes")
    assert aside.exists() == there


# ---- What is handed out, and what was left of the review.


def test_restore_is_not_done_before_images_are_handed_out(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    program = backed.host.program
    told = restored(backed, monkeypatch)
    assert told["handed_out"] == len(backed.files)
    assert told["files_seconds"] < 60
    lose(backed)
    restore, asked = program.Restore(backed.backup), list[str]()

    def other(path: str) -> bytes:
        asked.append(path)
        if path.endswith("/file") and len(asked) == 3:
            raise OSError("Orthanc answers 500")
        content = answers(backed, path)
        return content + b"x" if path.endswith("/file") and len(asked) == 4 else content

    monkeypatch.setattr(restore, "answer", other)
    with pytest.raises(program.Failed, match=rf"does not hand out 2 of {len(backed.files)} images as they are"):
        restore.run("latest", True)
    assert archive(backed.host.archive) == backed.files


def test_restore_is_told_of_up_to_the_start_of_orthanc(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    program, done = backed.host.program, list[str]()
    service, unlink, sync = program.service, pathlib.Path.unlink, program.sync_folder

    def gone(path: pathlib.Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        done.append(path.name)

    def started(verb: str, unit: str) -> None:
        service(verb, unit)
        done.append(verb)

    def synced(path: Any) -> None:
        sync(path)
        done.append(str(path))

    def counted(_restore: Any) -> int:
        done.append("counted")
        return int(backed.counts["instances"])

    monkeypatch.setattr(program, "service", started)
    monkeypatch.setattr(program, "sync_folder", synced)
    monkeypatch.setattr(pathlib.Path, "unlink", gone)
    monkeypatch.setattr(program.Restore, "counted", counted)
    restored(backed, monkeypatch)
    end = done.index("counted")
    assert done[end - 4 : end] == ["restore.json", "moves.json", "start", str(backed.host.state)]


def test_orthanc_is_asked_with_its_user(host: Host, tmp_path: pathlib.Path) -> None:
    asked: list[str] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            self.send_response(200 if self.path == "/statistics" else 404)
            self.end_headers()
            self.wfile.write(b'{"CountInstances": 7}')

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host.settings |= {"config_dir": str(tmp_path), "http_port": server.server_port}
        (tmp_path / "credentials.json").write_text('{"RegisteredUsers": {"someone": "secret"}}', "utf-8")
        restore = host.program.Restore(host.backup())
        found = restore.counted(), restore.image("none")
        server.shutdown()
    assert found == (7, b"")
    assert asked == ["Basic c29tZW9uZTpzZWNyZXQ="] * 2


def test_who_reads_the_index_does_not_stand_still(program: Any, orthanc: Callable[..., Orthanc]) -> None:
    """A scanner of viruses, say; whoever else writes to it does."""
    running = orthanc()
    script = "import sys; opened = open(sys.argv[1], sys.argv[2]); print('open', flush=True); sys.stdin.read()"
    for mode in ("rb", "r+b"):
        command = [sys.executable, "-c", script, running.index, mode]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout
            assert other.stdin
            other.stdout.readline()
            assert program.holders(running.index) - {other.pid} == {running.process.pid}
            assert (other.pid in program.holders(running.index)) == (mode == "r+b")
            other.stdin.close()


def test_orthanc_that_came_and_went_during_the_copy(
    program: Any, orthanc: Callable[..., Orthanc], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has the index open before and after, and it is another one: it is copied again."""
    running = orthanc()
    running.written()
    running.end()
    # As one leaves it that was stopped: without a log.
    with contextlib.closing(sqlite3.connect(running.index)) as index, index:
        index.execute("INSERT INTO Resources VALUES (999999, 4, 'last')")
    assert not pathlib.Path(f"{running.index}-wal").exists()
    copy, copied = program.copy_file, list[str]()

    def slow(source: str, target: pathlib.Path) -> None:
        copy(source, target)
        copied.append(source)
        if len(copied) == 1:
            with contextlib.closing(sqlite3.connect(source)) as again, again:
                again.execute("INSERT INTO Resources VALUES (1000000, 4, 'came meanwhile')")

    monkeypatch.setattr(program, "copy_file", slow)
    assert program.copy_index(running.index, tmp_path / "copy", 10.0) == 0
    assert copied.count(running.index) == 2
    assert program.check_index(tmp_path / "copy")["top"] == 1000000


def test_journal_that_orthanc_has_planted_removes_nothing(
    program: Any, orthanc: Callable[..., Orthanc], tmp_path: pathlib.Path
) -> None:
    """SQLite removes what a journal names, and root would be the one that opens it."""
    running = orthanc()
    running.written()
    pathlib.Path(f"{running.index}-journal").write_text("planted", "utf-8")
    program.copy_index(running.index, tmp_path / "copy", 10.0)
    assert not (tmp_path / "copy-journal").exists()


def test_restored_index_is_read_before_orthanc_reaches_it(backed: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    program, modes = backed.host.program, list[int]()
    check, folder = program.check_index, backed.host.archive / ".pacs-drill"
    folder.mkdir(mode=0o750)

    def seen(index: pathlib.Path) -> Any:
        modes.append(folder.stat().st_mode & 0o777)
        return check(index)

    monkeypatch.setattr(program, "check_index", seen)
    assert drilled(backed, monkeypatch)[0] == ""
    assert modes == [0o700]


def test_first_backup_that_hangs(host: Host) -> None:
    began = datetime.datetime.now().astimezone() - datetime.timedelta(days=15)
    host.backup().note(running=began.isoformat(timespec="seconds"))
    with host.program.alone(0, "run.lock"):
        assert "has not come to its end for weeks" in host.backup().report()["wrong"]


@pytest.mark.parametrize(
    "url, words, repository",
    [
        ("rclone:backup@nas.example.org:/srv/pacs", ["-lbackup", "nas.example.org", "rclone"], "rclone:/srv/pacs"),
        ("rclone://backup@[fd00::1]:2222//srv/pacs", ["-p2222", "fd00::1", "rclone"], "rclone:/srv/pacs"),
    ],
)
def test_rclone_is_reached_by_ssh(host: Host, url: str, words: list[str], repository: str) -> None:
    made = host.program.Repository({**host.settings, "repository": url})
    assert made._options[0] == "-o"
    assert made._options[1].startswith("rclone.program=ssh -F/dev/null ")
    assert set(words) <= set(made._options[1].split())
    assert made._environment["RESTIC_REPOSITORY"] == repository
    assert made.url == url

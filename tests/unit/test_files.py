"""What is written on a host, with which owner and mode, and the account of it."""

from __future__ import annotations

import itertools
import os
import pathlib
import resource
import stat
import threading
import time
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import files
from ansible_collections.dicom.orthanc.plugins.module_utils.files import (
    MARK,
    MARK_TEXT,
    STARTED,
    Refused,
    Writer,
    bring,
    marked,
    plain,
    plain_files,
    plan,
    put,
    put_link,
    remove,
    write,
)
from ansible_collections.dicom.orthanc.plugins.modules import write_files

from tests.unit.module import OWNER, Failed, Module, killed, run

IDS = (os.geteuid(), os.getegid())


@pytest.fixture(autouse=True)
def _lock(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK", str(tmp_path / "lock"))


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def written(check: bool = False, **params: Any) -> Writer:
    module = Module(**params)
    module.check_mode = check
    return write(module)


def test_put_takes_the_place_in_one_step(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a"
    path.write_text("old", encoding="utf-8")
    seen: list[tuple[str, str, int]] = []

    def look(candidate: str) -> None:
        seen.append((path.read_text("utf-8"), os.path.dirname(candidate), mode(pathlib.Path(candidate))))

    put(str(path), "new\r\n\udcff", IDS, 0o640, look)
    assert seen == [("old", str(tmp_path), 0o640)]
    assert (path.read_bytes(), mode(path)) == (b"new\r\n\xff", 0o640)
    assert os.listdir(tmp_path) == ["a"]


def test_put_takes_what_a_killed_call_has_left(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "a")
    for step in itertools.count(1):
        if not killed(lambda: put(path, "x" * step, IDS, 0o600), step):  # noqa: B023
            break
        put(path, "y" * step, IDS, 0o640)
        assert ((tmp_path / "a").read_text("utf-8"), os.listdir(tmp_path)) == ("y" * step, ["a"])
    assert step > 3


def test_put_that_is_refused_leaves_nothing(tmp_path: pathlib.Path) -> None:
    def refuse(_candidate: str) -> None:
        raise Refused("no")

    with pytest.raises(Refused, match="no"):
        put(str(tmp_path / "a"), "x", IDS, 0o644, refuse)
    assert os.listdir(tmp_path) == []
    with pytest.raises(Refused, match=r"/none/a: its folder is missing\."):
        put("/none/a", "x", IDS, 0o644)


@pytest.mark.parametrize("moment", ["fsync", "mkdir"])
def test_name_that_becomes_a_link_meanwhile_opens_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whoever owns the folder can swap a name of ours for a link to what is root's alone."""
    folder, closed = tmp_path / "folder", tmp_path / "closed"
    folder.mkdir()
    closed.mkdir(0o700)
    (closed / "key").touch(0o600)
    real = getattr(os, moment)

    def swap(given: Any) -> None:
        real(given)
        monkeypatch.setattr(os, moment, real)
        for name in os.listdir(folder):
            (folder / name).rename(tmp_path / "away")
            (folder / name).symlink_to(closed / "key" if moment == "fsync" else closed)

    monkeypatch.setattr(os, moment, swap)
    if moment == "fsync":
        put(str(folder / "a"), "x", IDS, 0o644)
    else:
        with pytest.raises(NotADirectoryError):
            files.make_folders(str(folder / "a"))
    assert (mode(closed), mode(closed / "key")) == (0o700, 0o600)


def test_storage_whose_owner_root_may_not_set(tmp_path: pathlib.Path) -> None:
    """As with NFS and CIFS; the kernel's own folders are such too."""
    folder = f"/proc/{os.getpid()}/task"
    told = rf"^{folder}: has to belong to \S+ \(uid {IDS[0]}\) with mode 0750, and root may not set that here; set it"
    with pytest.raises(Failed, match=told):
        written(folders=[{"path": folder, "mode": "0750"}])


def test_storage_whose_owner_nobody_here_knows() -> None:
    folder = os.open(f"/proc/{os.getpid()}/task", os.O_RDONLY)
    with pytest.raises(
        Refused, match=r"^/nfs: has to belong to a user \(uid 4000000\) with mode 0750, and root may not"
    ):
        files.own(folder, "/nfs", (4_000_000, IDS[1]), 0o750)
    os.close(folder)


def test_put_link_replaces_a_link_and_what_a_run_has_left(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "current"
    path.symlink_to("1")
    (tmp_path / "current.new").symlink_to("0")
    put_link(str(path), "2")
    assert (os.readlink(path), os.listdir(tmp_path)) == ("2", ["current"])


def test_remove_takes_no_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match=r"Is a directory|Operation not permitted"):
        remove(str(tmp_path))


def test_plain_files_are_neither_folders_nor_the_mark(tmp_path: pathlib.Path) -> None:
    assert plain_files(str(tmp_path / "none")) == []
    for name in ("b", "a", MARK):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    assert plain_files(str(tmp_path)) == [str(tmp_path / name) for name in ("a", "b", "link")]
    assert marked(str(tmp_path))
    assert not marked(str(tmp_path / "folder"))


def test_plain_is_a_file_of_roots() -> None:
    made = plain("/a", "x", "0600", "true %s")
    assert made == dict.fromkeys(("link", "made_by", "secret", "unless")) | {
        "path": "/a",
        "content": "x",
        "mode": "0600",
        "owner": "root",
        "group": "root",
        "validate": "true %s",
    }


def test_account_of_a_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a"
    file = {"path": str(path), "content": "one\n", "mode": "0640"}
    diff = {"before_header": str(path), "after_header": str(path)}
    assert written(files=[file]).diffs == [diff | {"before": "", "after": "one\n"}]
    assert mode(path) == 0o640
    assert written(files=[file]).diffs == []
    assert written(files=[file | {"content": "two\n"}]).diffs == [diff | {"before": "one\n", "after": "two\n"}]
    ids = f"{IDS[0]}:{IDS[1]}"
    owner = {"before": f"{ids} 0640\n", "after": f"{ids} 0600\n"}
    assert written(files=[file | {"content": "two\n", "mode": "0600"}]).diffs == [diff | owner]
    assert mode(path) == 0o600


def test_account_of_a_secret_has_none(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a"
    file = {"path": str(path), "secret": "one", "mode": "0600"}
    (first,) = written(files=[file]).diffs
    (second,) = written(files=[file | {"secret": "two"}]).diffs
    assert (first["before"], first["after"]) == ("", "(new secret content)\n")
    assert (second["before"], second["after"]) == ("(old secret content)\n", "(new secret content)\n")
    assert path.read_text("utf-8") == "two"


def test_link_in_the_place_of_a_file_is_replaced(tmp_path: pathlib.Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    other.write_text("x", encoding="utf-8")
    path.symlink_to("b")
    assert written(files=[{"path": str(path), "content": "x"}]).paths == [str(path)]
    assert not path.is_symlink()


def test_account_of_a_link(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "current"
    link = {"path": str(path), "link": "1.12.7"}
    assert [(diff["before"], diff["after"]) for diff in written(files=[link]).diffs] == [("", "link to 1.12.7\n")]
    assert written(files=[link]).diffs == []
    changes = written(files=[link | {"link": "1.13.0"}]).diffs
    assert [(diff["before"], diff["after"]) for diff in changes] == [("link to 1.12.7\n", "link to 1.13.0\n")]
    assert written(check=True, files=[link]).paths == [str(path)]
    assert os.readlink(path) == "1.13.0"
    assert written(files=[link]).paths == [str(path)]
    assert os.readlink(path) == "1.12.7"


def test_made_file_is_made_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "key"
    file = {"path": str(path), "made_by": f"echo made >> {path}", "mode": "0600"}
    assert written(check=True, files=[file]).paths == [str(path)]
    assert not path.exists()
    assert written(files=[file]).diffs[0]["before"] == ""
    assert (path.read_text("utf-8"), mode(path)) == ("made\n", 0o600)
    assert written(files=[file]).paths == []
    path.chmod(0o644)
    assert written(files=[file]).paths == [str(path)]
    assert (path.read_text("utf-8"), mode(path)) == ("made\n", 0o600)


@pytest.mark.parametrize("command, words", [("echo why >&2; false", "why"), ("echo done", "done")])
def test_file_that_cannot_be_made(tmp_path: pathlib.Path, command: str, words: str) -> None:
    path = tmp_path / "key"
    with pytest.raises(Failed, match=f"^{path}: the command that makes it fails: {words}$"):
        written(files=[{"path": str(path), "made_by": command}])


def test_validation_is_told_the_candidate(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a"
    file = {"path": str(path), "validate": "grep -q good %s"}
    written(files=[file | {"content": "good"}])
    with pytest.raises(Failed, match=r"^.*/a: the new content is refused and was not put in place:$"):
        written(files=[file | {"content": "bad"}])
    with pytest.raises(Failed, match=r"not put in place: out$"):
        written(files=[file | {"content": "bad", "validate": "sh -c 'echo out; exit 2'"}])
    assert path.read_text("utf-8") == "good"
    assert written(check=True, files=[file | {"content": "bad"}]).paths == [str(path)]


def test_folder_gets_mode_and_mark(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "a" / "b"
    given = {"path": str(folder), "mode": "0750"}
    assert written(check=True, folders=[given]).paths == [str(folder)]
    assert not folder.exists()
    assert written(folders=[given]).diffs[0]["before"] == ""
    assert (mode(folder), mode(folder.parent), os.listdir(folder)) == (0o750, 0o755, [])
    assert written(folders=[given]).paths == []
    assert written(folders=[given | {"marked": True}]).paths == [str(folder / MARK)]
    assert ((folder / MARK).read_text("utf-8"), mode(folder / MARK), mode(folder)) == (MARK_TEXT, 0o644, 0o750)
    assert written(folders=[given | {"mode": "0700"}]).diffs[0]["after"] == f"{IDS[0]}:{IDS[1]} 0700\n"
    assert mode(folder) == 0o700


def test_owner_who_is_not_there_yet(tmp_path: pathlib.Path) -> None:
    """A dry run comes before the package that makes the user."""
    file = OWNER | {"path": str(tmp_path / "a"), "content": "x", "owner": "nobody-of-that-name"}
    assert written(check=True, files=[file]).paths == [file["path"]]
    with pytest.raises(Failed, match="nobody-of-that-name"):
        written(files=[file])


def test_absent_is_told_and_gone(tmp_path: pathlib.Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    path.touch()
    link.symlink_to(tmp_path)
    changes = written(check=True, absent=[str(path), str(link), str(tmp_path / "none")]).diffs
    assert [diff["before"] for diff in changes] == ["not in the inventory\n"] * 2
    assert path.exists()
    written(absent=[str(path), str(link)])
    assert not path.exists()
    assert not link.is_symlink()


def test_service_of_a_file_is_restarted(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "a")
    module = Module(lambda _command: (0, "", ""), files=[{"path": path, "content": "x"}], restart={path: "journald"})
    module.check_mode = True
    write(module)
    assert module.commands == []
    module.check_mode = False
    write(module)
    assert module.commands == [["systemctl", "restart", "journald"]]
    assert write(module).paths == []
    # Started before the file was written, by a call that was cut off.
    module = Module(lambda _command: (0, f"{STARTED}=1\n", ""), **module.params)
    assert write(module).paths == [path]
    assert module.commands[1:] == [["systemctl", "restart", "journald"]]
    bad = Module(lambda _command: (1, "", "why\n"), files=[{"path": path, "content": "y"}], restart={path: "journald"})
    with pytest.raises(Failed, match=r"^journald cannot be restarted: why$"):
        write(bad)


def test_plan_writes_nothing_and_leaves_the_mode_of_the_run(tmp_path: pathlib.Path) -> None:
    module = Module(files=[{"path": str(tmp_path / "a"), "content": "x"}])
    assert plan(module).paths == [str(tmp_path / "a")]
    assert not module.check_mode
    assert not (tmp_path / "a").exists()
    module.params["absent"] = [str(tmp_path)]
    with pytest.raises(Failed):
        plan(module)
    assert not module.check_mode


def test_nothing_goes_back_in_a_dry_run(tmp_path: pathlib.Path) -> None:
    module = Module(absent=[str(tmp_path)])
    module.check_mode = True
    calls: list[int] = []

    def back() -> str:
        calls.append(1)
        return "It is as before."

    told = f"{tmp_path}: it is a folder, where a file was expected that is to be removed."
    with pytest.raises(Failed) as failed:
        bring(module, back)
    assert (str(failed.value), calls) == (told, [])
    module.check_mode = False
    with pytest.raises(Failed) as failed:
        bring(module, back)
    assert (str(failed.value), calls) == (f"{told} It is as before.", [1])


def test_other_run_is_waited_for(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 60)
    other = files.lock(Module())
    threading.Timer(0.5, other.close).start()
    start = time.monotonic()
    files.lock(Module()).close()
    assert 0.3 < time.monotonic() - start < 30


def test_other_run_is_not_waited_for_at_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.5)
    monkeypatch.setenv("SUDO_USER", "deploy")
    other, start = files.lock(Module()), time.monotonic()
    monkeypatch.setenv("SUDO_USER", "not-he")
    told = rf"^Another run has been changing this host for 0\.5 s \(by deploy, process {os.getpid()}, since 20\S+ "
    with pytest.raises(Failed, match=told):
        files.lock(Module())
    assert 0.5 < time.monotonic() - start < 30
    assert mode(pathlib.Path(files.LOCK)) == 0o600
    other.close()


def test_lock_that_others_have_made_a_link_of(tmp_path: pathlib.Path) -> None:
    (tmp_path / "key").write_text("x", "utf-8")
    pathlib.Path(files.LOCK).symlink_to("key")
    with pytest.raises(Failed, match=r"symbolic links\. Nothing was changed\.$"):
        files.lock(Module())
    assert (tmp_path / "key").read_text("utf-8") == "x"


def test_lock_where_there_is_no_room_for_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.5)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        other = files.lock(Module())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert pathlib.Path(files.LOCK).read_text("utf-8") == ""
    with pytest.raises(Failed, match="Another run has been changing this host"):
        files.lock(Module())
    other.close()
    files.lock(Module()).close()


def test_call_is_not_put_into_the_journal(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(AnsibleModule, "log", lambda _module, text, **_more: logged.append(text))
    monkeypatch.setenv("PATH", "/bin")
    wanted = [
        OWNER | {"path": str(tmp_path / "a"), "secret": "one word or two"},
        OWNER | {"path": str(tmp_path / "b"), "made_by": f"cat {tmp_path}/a >&2; exit 1"},
    ]
    said = run(write_files, capsys, files=wanted)
    assert logged == [f"Invoked for {tmp_path}/a {tmp_path}/b"]
    assert "the command that makes it fails" in said["msg"]
    assert "two" not in str(said), "what is secret is masked in what a program says too"
    assert os.environ["PATH"] == "/bin:/usr/sbin:/sbin"


@pytest.mark.parametrize("given", [{"content": "x", "link": "y"}, {"secret": "x", "made_by": "y"}, {}])
def test_file_is_one_thing(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], given: dict[str, str]) -> None:
    said = run(write_files, capsys, files=[OWNER | {"path": str(tmp_path / "a")} | given])
    assert said["failed"]
    assert "content" in said["msg"] or "secret" in said["msg"]
    assert os.listdir(tmp_path) == []


def test_file_and_folder_have_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("files", "folders"):
        assert "path" in run(write_files, capsys, **{kind: [{"owner": "root"}]})["msg"]


def test_folder_of_ours_from_before_there_were_marks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known by the folder above it; a folder elsewhere, or deeper, is not."""
    monkeypatch.setattr(files, "OURS", str(tmp_path / "pacs"))
    for name in ("orthanc", "a/deeper"):
        (tmp_path / "pacs" / name).mkdir(parents=True)
        (tmp_path / "pacs" / name / "old.json").touch()
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "old.json").touch()
    written(purge=[str(tmp_path / "pacs" / "orthanc")])
    assert (tmp_path / "pacs" / "orthanc" / "old.json").exists(), "not marked yet"
    for other in ("pacs/a/deeper", "z"):
        with pytest.raises(Failed, match="which is none of ours"):
            written(purge=[str(tmp_path / other)])


def test_mark_on_storage_that_root_may_not_write_to(tmp_path: pathlib.Path) -> None:
    """The kernel's own folders are such."""
    folder = f"/proc/{os.getpid()}/task"
    state = os.stat(folder)
    given = {"path": folder, "marked": True, "mode": f"{stat.S_IMODE(state.st_mode):04o}"}
    assert written(check=True, folders=[given]).paths == (
        [] if not os.access(folder, os.W_OK) else [f"{folder}/{MARK}"]
    )


def test_made_file_that_is_a_link_is_not_followed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "key").touch(0o600)
    path = tmp_path / "made"
    with pytest.raises(Failed, match=r"/made: Too many levels of symbolic links\.$"):
        written(files=[{"path": str(path), "made_by": f"ln -s key {path}", "mode": "0644"}])
    assert mode(tmp_path / "key") == 0o600


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(28, "No space left on device", "/a"), "/a: No space left on device."),
        (Refused("/a: no."), "/a: no."),
        (KeyError("x"), "This is a mistake of the toolkit: KeyError('x')."),
    ],
)
def test_what_has_gone_wrong(error: Exception, said: str) -> None:
    assert files.told(error) == said

"""What goes of an archive with the operator's exact words, and what stays."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from ansible_collections.dicom.orthanc.plugins.module_utils import files
from ansible_collections.dicom.orthanc.plugins.modules import archive_remove

from tests import repository
from tests.unit.module import run

NAMED = "abcd0000-1111-2222-3333-444455556666"


@pytest.fixture
def call(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    monkeypatch.setattr(files, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(archive_remove, "running", lambda: False)
    folders = {
        "storage_dir": str(tmp_path / "db"),
        "index_dir": str(tmp_path / "db"),
        "dump_dir": str(tmp_path / "dumps"),
    }
    return lambda **more: run(archive_remove, capsys, **folders | more)


@pytest.fixture
def archive(tmp_path: pathlib.Path) -> pathlib.Path:
    storage = tmp_path / "db"
    dump = tmp_path / "dumps" / "20261129T120000.000000"
    for folder in (
        storage / "ab" / "cd",
        storage / "ab" / "ce",
        storage / "other" / "cd",
        tmp_path / "else" / "cd",
        dump,
    ):
        folder.mkdir(parents=True)
        (folder / NAMED).touch()
    (storage / "ab" / "cd" / "report").touch()
    (storage / "ab" / NAMED).touch()
    (storage / "ac").symlink_to(tmp_path / "else")
    for name in ("index", "index-wal", "notes", ".pacs", ".pacs-reserve", ".pacs-routes"):
        (storage / name).touch()
    return storage


def listed(folder: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.parent.rglob("*") if path.is_relative_to(folder))


def test_what_orthanc_has_named_goes(archive: pathlib.Path, call: Callable[..., dict[str, Any]]) -> None:
    before = listed(archive)
    dry = call(_ansible_check_mode=True)
    assert (dry["changed"], dry["files"]) == (True, 1)
    assert listed(archive) == before
    done = call()
    assert (done["changed"], done["files"]) == (True, 1)
    assert [os.path.basename(path) for path in done["index"]] == ["index", "index-wal", ".pacs-reserve", ".pacs-routes"]
    gone = {f"ab/cd/{NAMED}", "index", "index-wal", ".pacs-reserve", ".pacs-routes"}
    assert listed(archive) == sorted(set(before) - gone)
    assert (archive.parent / "else" / "cd" / NAMED).exists()
    assert (archive.parent / "dumps" / "20261129T120000.000000" / NAMED).exists(), "without the mark it is of others"
    (archive / "ab" / "cd" / "report").unlink()
    call()
    assert not (archive / "ab" / "cd").exists()
    (archive.parent / "dumps" / "20261129T120000.000000" / ".pacs").touch()
    assert call()["changed"]
    assert os.listdir(archive.parent / "dumps") == []
    assert call()["changed"] is False


def test_orthanc_that_runs_keeps_its_images(
    archive: pathlib.Path, call: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_remove, "running", lambda: True)
    before = listed(archive)
    for dry in (False, True):
        assert "nothing of the archive was removed" in call(_ansible_check_mode=dry)["msg"]
    assert call(_ansible_check_mode=True, may_run=True)["files"] == 1
    assert listed(archive) == before


def test_archive_without_the_mark_stays(archive: pathlib.Path, call: Callable[..., dict[str, Any]]) -> None:
    """Such as one that was set up by hand, where Debian's package has it."""
    elsewhere = archive.parent / "index"
    elsewhere.mkdir()
    (elsewhere / "index").touch()
    (archive.parent / "lock").touch()
    before = listed(archive.parent)
    assert f"{elsewhere} has not the mark .pacs" in call(index_dir=str(elsewhere))["msg"]
    (archive / ".pacs").rename(elsewhere / ".pacs")
    assert f"{archive} has not the mark .pacs" in call(index_dir=str(elsewhere))["msg"]
    (elsewhere / ".pacs").rename(archive / ".pacs")
    assert listed(archive.parent) == before


def test_archive_behind_a_link_and_what_cannot_be_read(
    archive: pathlib.Path, call: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = archive.parent / "link"
    link.symlink_to(archive)
    scandir = os.scandir

    def unread(folder: Any = ".") -> Any:
        if isinstance(folder, int) and os.readlink(f"/proc/self/fd/{folder}").endswith("/ab/cd"):
            raise PermissionError(13, "Permission denied", "ab/cd")
        return scandir(folder)

    before = listed(archive)
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", unread)
        assert "Permission denied" in call(storage_dir=str(link), index_dir=str(link))["msg"]
    assert listed(archive) == before, "the index too"
    assert call(storage_dir=str(link), index_dir=str(link))["files"] == 1
    assert not (archive / "ab" / "cd" / NAMED).exists()


def test_several_orthancs_keep_what_they_share(tmp_path: pathlib.Path) -> None:
    """Asked for on one of them, it would be gone for the others. It ends before any host is reached."""
    variables = {"orthanc_database": "mysql", "ansible_host": "192.0.2.9"}
    groups = {"orthanc": {"hosts": dict.fromkeys(("a", "b"), variables)}, "mysql": {"hosts": {"a": variables}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
    words = ["service of a", "service of b", "archive of b"]
    given = ("-i", str(tmp_path), "-e", yaml.safe_dump({"remove": words}, default_flow_style=True))
    done = repository.run("ansible-playbook", *given, "playbooks/remove.yml")
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "Variable remove: b shares its archive with other Orthancs" in said, said
    assert "Nothing was changed." in said
    assert "a shares" not in said

"""Which files playbooks/remove.yml removes, and which it leaves."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.modules import remove_files

from tests.unit.module import run


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The module, without the lock that is root's."""
    monkeypatch.setattr(remove_files, "lock", lambda _module: contextlib.nullcontext())
    return lambda **arguments: run(remove_files, capsys, **arguments)


def there(folder: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def test_folder_with_the_mark_goes_and_one_without_only_if_it_is_empty(removed: Any, tmp_path: pathlib.Path) -> None:
    for name, files in {"ours": [".pacs", "a"], "others": ["a"], "empty": [], "deep": [".pacs", "a", "b/c"]}.items():
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text("")
        (tmp_path / name).mkdir(exist_ok=True)
    removed(folders=[str(tmp_path / name) for name in ("ours", "others", "empty", "deep", "nowhere")])
    assert there(tmp_path) == ["deep/.pacs", "deep/b/c", "others/a"]
    assert not (tmp_path / "ours").exists()
    assert not (tmp_path / "empty").exists()


def test_files_go_by_their_names_and_a_second_time_nothing_is_left_to_do(removed: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    os.symlink("/nowhere", tmp_path / "link")
    files = [str(tmp_path / name) for name in ("file", "link", "never")]
    assert removed(files=files)["paths"] == files[:2]
    assert there(tmp_path) == []
    assert removed(files=files)["changed"] is False


def test_check_mode_tells_and_removes_nothing(removed: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "ours").mkdir()
    for name in ("file", "ours/.pacs", "ours/a"):
        (tmp_path / name).write_text("")
    before = there(tmp_path)
    said = removed(files=[str(tmp_path / "file")], folders=[str(tmp_path / "ours")], _ansible_check_mode=True)
    assert said["paths"] == [str(tmp_path / "file"), str(tmp_path / "ours" / "a")]
    assert said["changed"] is True
    assert there(tmp_path) == before


def test_second_file_is_not_removed_through_a_link(removed: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    os.symlink(tmp_path / "elsewhere", tmp_path / "link")
    removed(files=[str(tmp_path / "link")])
    assert there(tmp_path) == ["elsewhere"]

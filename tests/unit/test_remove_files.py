"""Which files playbooks/remove.yml removes, and which it leaves."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.modules import remove_files

from tests.unit.module import run

UUID = "0a1b{}-0000-4000-8000-00000000000{}"


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The module, without the lock that is root's."""
    monkeypatch.setattr(remove_files, "lock", lambda _module: contextlib.nullcontext())
    return lambda **arguments: run(remove_files, capsys, **arguments)


@pytest.fixture
def archive(tmp_path: pathlib.Path) -> pathlib.Path:
    """An archive with two files of Orthanc, its index, and what others have put beside."""
    made = tmp_path / "archive"
    (made / "0a" / "1b").mkdir(parents=True)
    for number in (1, 2):
        (made / "0a" / "1b" / UUID.format("0000", number)).write_text("DICM")
    for name in (".pacs", ".pacs-reserve", "index", "index-wal", "index-shm"):
        (made / name).write_text("")
    return made


def there(folder: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def test_archive_of_orthanc_goes_whole(removed: Any, archive: pathlib.Path) -> None:
    said = removed(archives=[str(archive)])
    assert (said["changed"], said["images"], said["left"]) == (True, 6, {})
    assert not archive.exists()


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "index.bak",
        "0a/notes.txt",
        "0a/1b/notes.txt",
        # Not where Orthanc would put it.
        "0a/1c/" + UUID.format("0000", 1),
        UUID.format("0000", 1),
        "0a/1b/x/" + UUID.format("0000", 1),
        "0a/1b/" + UUID.format("0000", 1).upper(),
    ],
)
def test_what_is_of_others_stays_and_is_named(removed: Any, archive: pathlib.Path, name: str) -> None:
    (archive / name).parent.mkdir(parents=True, exist_ok=True)
    (archive / name).write_text("mine")
    said = removed(archives=[str(archive)])
    assert there(archive) == sorted([".pacs", name])
    assert said["left"] == {str(archive): [name.split("/", maxsplit=1)[0]]}


def test_links_are_not_followed(removed: Any, archive: pathlib.Path, tmp_path: pathlib.Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "1b").mkdir(parents=True)
    image = elsewhere / "1b" / UUID.format("0000", 1).replace("0a", "0b", 1)
    image.write_text("DICM")
    os.symlink(elsewhere, archive / "0b")
    removed(archives=[str(archive)])
    assert image.exists()
    assert (archive / "0b").is_symlink()


def test_folder_with_the_mark_goes_and_one_without_only_if_it_is_empty(removed: Any, tmp_path: pathlib.Path) -> None:
    for name, files in {"ours": [".pacs", "a"], "others": ["a"], "empty": [], "deep": [".pacs", "a", "b/c"]}.items():
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text("")
        (tmp_path / name).mkdir(exist_ok=True)
    said = removed(folders=[str(tmp_path / name) for name in ("ours", "others", "empty", "deep", "nowhere")])
    assert there(tmp_path) == ["deep/.pacs", "deep/b/c", "others/a"]
    assert said["left"] == {str(tmp_path / "others"): ["a"], str(tmp_path / "deep"): ["b"]}
    assert not (tmp_path / "empty").exists()


def test_files_go_by_their_names_and_a_second_time_nothing_is_left_to_do(removed: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    os.symlink("/nowhere", tmp_path / "link")
    files = [str(tmp_path / name) for name in ("file", "link", "never")]
    assert removed(files=files)["paths"] == files[:2]
    assert there(tmp_path) == []
    assert removed(files=files)["changed"] is False


def test_more_than_three_names_are_counted(removed: Any, tmp_path: pathlib.Path) -> None:
    for name in "abcde":
        (tmp_path / name).write_text("")
    assert removed(folders=[str(tmp_path)])["left"] == {str(tmp_path): ["a", "b", "c", "and 2 more"]}


def test_check_mode_tells_and_removes_nothing(removed: Any, archive: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    before = there(tmp_path)
    said = removed(files=[str(tmp_path / "file")], archives=[str(archive)], _ansible_check_mode=True)
    assert (said["changed"], said["paths"], said["images"]) == (True, [str(tmp_path / "file")], 6)
    assert there(tmp_path) == before

"""How files are written and removed, where a host could make it behave otherwise."""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import files
from ansible_collections.dicom.orthanc.plugins.module_utils.files import MARK, bring, make_folders, open_folder, write
from ansible_collections.dicom.orthanc.plugins.module_utils.releases import outdated, remove_release

from tests.unit.module import Failed, Module


@pytest.fixture(autouse=True)
def _paths(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(files, "OURS", str(tmp_path / "etc/pacs"))


def written(back: Callable[[], str] | None = None, check: bool = False, **params: Any) -> list[str]:
    module = Module(**params)
    module.check_mode = check
    return (bring(module, back) if back else write(module)).paths


def configure(folder: str, **params: Any) -> list[str]:
    """Write a configuration into a folder as the role does."""
    path = os.path.join(folder, "orthanc.json")
    return written(folders=[{"path": folder, "marked": True}], files=[{"path": path, "content": "{}"}], purge=[folder])


def test_umask_of_the_host_closes_no_folder(tmp_path: pathlib.Path) -> None:
    before = os.umask(0o077)
    try:
        make_folders(str(tmp_path / "etc" / "pacs" / "nginx"))
    finally:
        os.umask(before)
    for folder in ("etc", "etc/pacs", "etc/pacs/nginx"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o755
    make_folders(str(tmp_path / "etc" / "pacs" / "nginx"))


def test_folder_is_marked_and_holds_what_is_asked_for(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "orthanc"
    assert configure(str(folder)) == [str(folder), str(folder / MARK), str(folder / "orthanc.json")]
    assert configure(str(folder)) == []
    (folder / "old.json").touch()
    assert configure(str(folder)) == [str(folder / "old.json")]
    assert sorted(os.listdir(folder)) == [MARK, "orthanc.json"]


def test_trailing_slash_purges_nothing_of_what_was_written(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "orthanc"
    configure(f"{folder}//")
    assert configure(f"{folder}/") == []
    assert (folder / "orthanc.json").exists()


def test_folder_in_a_purged_one_stays_whole(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "orthanc"
    configure(str(folder))
    image = folder / "data" / "images" / "1.dcm"
    image.parent.mkdir(parents=True)
    image.touch()
    assert configure(str(folder)) == []
    assert image.exists()


def test_folder_of_others_is_left_alone(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "srv"
    folder.mkdir()
    (folder / "thesis.txt").touch()
    with pytest.raises(Failed, match=rf"thesis\.txt, which is none of ours.*touch {folder}/\.pacs"):
        configure(str(folder))
    assert os.listdir(folder) == ["thesis.txt"]
    (folder / MARK).touch()
    assert configure(str(folder))
    assert sorted(os.listdir(folder)) == [MARK, "orthanc.json"]


@pytest.mark.parametrize("names", [[], ["orthanc.json"]])
def test_folder_with_nothing_of_others_is_taken_over(tmp_path: pathlib.Path, names: list[str]) -> None:
    folder = tmp_path / "orthanc"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    configure(str(folder))
    assert (folder / MARK).exists()


def test_folder_from_before_there_were_marks_is_taken_over(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "etc/pacs/orthanc"
    folder.mkdir(parents=True)
    (folder / "mysql.json").touch()
    configure(str(folder))
    assert sorted(os.listdir(folder)) == [MARK, "orthanc.json"]


def test_nothing_is_removed_in_a_dry_run(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "orthanc"
    configure(str(folder))
    (folder / "old.json").touch()
    assert written(purge=[str(folder)], check=True) == [str(folder / "old.json"), str(folder / "orthanc.json")]
    assert len(os.listdir(folder)) == 3


def test_file_to_be_removed_is_no_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    assert written(absent=[str(tmp_path / "file"), str(tmp_path / "none")]) == [str(tmp_path / "file")]
    (tmp_path / "folder").mkdir()
    with pytest.raises(Failed, match="it is a folder"):
        written(absent=[str(tmp_path / "folder")])


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a link of somebody else's")
def test_link_of_others_is_not_followed(tmp_path: pathlib.Path) -> None:
    """The service's user may write beside its storage: what it puts there must not become its own."""
    (tmp_path / "etc").mkdir()
    link = tmp_path / "storage"
    link.symlink_to("etc")
    os.close(open_folder(str(link)))
    os.lchown(link, 65534, 65534)
    for path in (link, link / "below"):
        with pytest.raises(Failed, match=f"{link} is a link that is not root's"):
            written(folders=[{"path": str(path), "mode": "0700"}])
    assert stat.S_IMODE((tmp_path / "etc").stat().st_mode) == 0o755


def test_link_of_root_leads_to_the_images(tmp_path: pathlib.Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "storage").symlink_to("disk")
    folders = [{"path": str(tmp_path / "storage"), "mode": "0750", "marked": True}]
    assert written(folders=folders)
    assert written(folders=folders) == []
    assert stat.S_IMODE((tmp_path / "disk").stat().st_mode) == 0o750
    assert (tmp_path / "disk" / MARK).exists()


def test_mask_is_for_what_is_not_there_yet(tmp_path: pathlib.Path) -> None:
    path, program = tmp_path / "orthanc.service", tmp_path / "Orthanc"
    mask = [{"path": str(path), "link": "/dev/null", "unless": str(program)}]
    program.touch()
    assert not written(files=mask)
    program.unlink()
    assert written(files=mask)
    assert path.readlink() == pathlib.Path("/dev/null")
    path.unlink()
    path.write_text("[Unit]\n", encoding="utf-8")
    assert not written(files=mask)
    assert not path.is_symlink()


@pytest.mark.parametrize(
    "file, told",
    [
        ({"content": "", "owner": "nobody-of-that-name"}, "nobody-of-that-name"),
        ({"content": "", "validate": "sh -c 'echo wrong >&2; exit 1' %s"}, "refused and was not put in place: wrong"),
        ({"content": "", "path": "/none/of/it"}, "its folder is missing"),
        ({"content": 7}, "a mistake of the toolkit: TypeError"),
    ],
)
def test_half_of_a_change_goes_back(tmp_path: pathlib.Path, file: dict[str, Any], told: str) -> None:
    """Whatever it is that ends it."""
    calls: list[int] = []

    def back() -> str:
        calls.append(1)
        return "It is as before."

    with pytest.raises(Failed, match=rf"(?s){told}.*It is as before\.$"):
        written(back, files=[{"path": str(tmp_path / "a"), "content": "a"}, {"path": str(tmp_path / "b")} | file])
    assert calls == [1]
    assert os.listdir(tmp_path) == ["a"]


def test_runs_wait_for_one_another(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.3)
    other = files.lock(Module())
    with pytest.raises(Failed, match="Another run has been changing this host"):
        written(files=[{"path": str(tmp_path / "a"), "content": "a"}])
    other.close()
    assert written(files=[{"path": str(tmp_path / "a"), "content": "a"}])


def test_old_releases_go_without_what_others_put_there(tmp_path: pathlib.Path) -> None:
    for number, name in enumerate(("1.9.7", "1.10.1", "1.12.7")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Orthanc").touch()
        os.utime(tmp_path / name, (number, number))
    assert outdated(str(tmp_path), "1.13.0", 1) == ["1.10.1", "1.9.7"]
    (tmp_path / "1.9.7" / "images").mkdir()
    assert outdated(str(tmp_path), "1.13.0", 1) == ["1.10.1"]
    remove_release(str(tmp_path / "1.10.1"))
    remove_release(str(tmp_path / "1.9.7"))
    assert sorted(os.listdir(tmp_path)) == ["1.12.7", "1.9.7"]
    assert os.listdir(tmp_path / "1.9.7") == ["images"]


@pytest.mark.parametrize("text, again", [(None, True), ("", True), ("whole", False)])
def test_spoilt_file_is_made_again(tmp_path: pathlib.Path, text: str | None, again: bool) -> None:
    """A loss of power can leave a file that has nothing in it."""
    path = tmp_path / "site.crt"
    if text is not None:
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
    item = {"path": str(path), "made_by": f"echo made > {path}", "validate": "grep -q . %s"}
    assert written(files=[item], check=True) == ([str(path)] if again else [])
    assert written(files=[item]) == ([str(path)] if again else [])
    assert path.read_text(encoding="utf-8") == ("made\n" if again else "whole")
    assert written(files=[item]) == []


def test_empty_file_is_no_spoilt_one(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "audit.log"
    item = {"path": str(path), "made_by": f"touch {path}"}
    assert written(files=[item]) == [str(path)]
    assert written(files=[item]) == []

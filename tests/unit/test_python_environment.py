"""What scripts in Python import comes from a virtual environment that is known by what it was made of."""

from __future__ import annotations

import json
import os
import pathlib
import stat
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import files
from ansible_collections.dicom.orthanc.plugins.modules import python_environment

from tests.unit.module import Systemd, run

Call = Callable[..., dict[str, Any]]
# Python, with the modules venv and pip: what is asked for with "bad" in it cannot be had.
PYTHON = """#!/bin/sh
case "$*" in
"-c "*) echo python3.13 ;;
"-m venv --clear "*)
    for folder; do true; done
    find "$folder" -mindepth 1 -delete 2> /dev/null
    mkdir -p "$folder/bin" "$folder/lib/python3.13/site-packages"; ln -s lib "$folder/lib64"
    touch "$folder/pyvenv.cfg"
    cp "$0" "$folder/bin/python3" ;;
"-m pip install "*)
    [ "$*" = "${*#*--require-hashes --only-binary=:all:}" ] && exit 2
    asked=$(cat /dev/stdin)
    site="${0%/bin/python3}/lib/python3.13/site-packages"
    mkdir "$site/one"; echo "$asked" > "$site/one/module.py"
    case "$asked" in *bad*) echo "Looking"; echo "ERROR: No such thing as bad==1" >&2; exit 1 ;; esac ;;
esac
"""


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "opt" / "python"


@pytest.fixture
def systemd(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    made = Systemd(tmp_path / "bin", monkeypatch)
    made.write("active")
    return made


@pytest.fixture
def call(
    tmp_path: pathlib.Path,
    path: pathlib.Path,
    systemd: Systemd,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Call:
    monkeypatch.setattr(files, "LOCK", str(tmp_path / "lock"))
    python = tmp_path / "python3"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)

    def called(requirements: str = "", **more: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"path": str(path), "python": str(python), "requirements": requirements}
        given |= {"named_in": [str(tmp_path / "orthanc"), str(tmp_path / "last.json")]}
        return run(python_environment, capsys, **(given | more))

    return called


def made(path: pathlib.Path) -> set[str]:
    return {one.name for one in path.iterdir() if one.is_dir()} if path.exists() else set()


def test_it_is_made_once_and_can_be_read(call: Call, path: pathlib.Path) -> None:
    dry = call("one==1", _ansible_check_mode=True)
    assert dry["changed"]
    assert not path.exists()
    before = os.umask(0o077)
    try:
        said = call("one==1")
    finally:
        os.umask(before)
    assert said["changed"]
    assert said["packages"] == dry["packages"]
    packages = pathlib.Path(said["packages"])
    assert (packages / "one" / "module.py").read_text("utf-8") == "one==1\n"
    for one in (packages / "one" / "module.py", packages, path):
        assert stat.S_IMODE(one.stat().st_mode) & 0o055 == 0o055 & (0o044 if one.is_file() else 0o055)
    assert not call("one==1")["changed"]


def test_those_in_use_stay_and_others_go(call: Call, path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The one that worked last and the one that runs are needed until Orthanc has proved another, be it tried often."""
    worked, runs, other = (call(f"one=={number}")["packages"] for number in (1, 2, 3))
    (tmp_path / "orthanc").mkdir()
    (tmp_path / "orthanc" / "orthanc.json").write_text(json.dumps({"PacsPythonPackages": runs}), "utf-8")
    (tmp_path / "last.json").write_text(json.dumps({"x": [json.dumps({"PacsPythonPackages": worked})]}), "utf-8")
    last = other.split("/")[-4]
    assert made(path) == {last}, "nothing has named one yet"
    # Something of others in it stays.
    (path / last / "theirs").write_text("", encoding="utf-8")
    (path / "other").mkdir()
    names = [call(f"one=={number}")["packages"].split("/")[-4] for number in (1, 2)]
    for number in (4, 5, 6):
        tried = call(f"one=={number}")["packages"].split("/")[-4]
        assert made(path) == {*names, tried, last, "other"}
        assert not call(f"one=={number}")["changed"]
    assert [one.name for one in (path / last).rglob("*")] == ["theirs"]
    # Back again: nothing is made, and nothing goes.
    assert not call("one==2")["changed"]
    assert made(path) == {*names, tried, last, "other"}


def test_what_cannot_be_had_changes_nothing(
    call: Call, path: pathlib.Path, tmp_path: pathlib.Path, systemd: Systemd
) -> None:
    packages = call("one==1")["packages"]
    (tmp_path / "last.json").write_text(packages, "utf-8")
    first = packages.split("/")[-4]
    said = call("bad==1")
    assert said["failed"]
    assert "orthanc_python_requirements: they cannot be installed, and Orthanc runs as before: ERROR: No" in said["msg"]
    assert (path / first / "files").exists()
    # What is half there is no environment, and made anew.
    (half,) = made(path) - {first}
    assert not (path / half / "files").exists()
    (systemd.folder / "active").unlink()
    assert "be installed, and Orthanc was not started: ERROR: No" in call("bad==1")["msg"]
    # It goes with the next one that can be had.
    second = call("one==2")["packages"].split("/")[-4]
    assert made(path) == {first, second}
    assert call("bad==1")["failed"]
    assert call()["changed"]
    assert not path.exists()


def test_all_go(call: Call, path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert not call()["changed"]
    (tmp_path / "last.json").write_text(call("one==1")["packages"], "utf-8")
    call("one==2")
    assert call(_ansible_check_mode=True)["changed"]
    assert len(made(path)) == 2
    assert call()["changed"]
    assert not path.exists()


def test_a_list_leads_nowhere_else(call: Call, path: pathlib.Path) -> None:
    name = call("one==1")["packages"].split("/")[-4]
    precious = path.parent / "precious"
    precious.write_text("", encoding="utf-8")
    (path / name / "files").write_text(f"../../precious\n{precious}\n", encoding="utf-8")
    call()
    assert precious.exists()


def test_a_folder_of_others_is_left_alone(call: Call, path: pathlib.Path) -> None:
    (path / "0123456789ab").mkdir(parents=True)
    (path / "0123456789ab" / "files").write_text("x\n", encoding="utf-8")
    assert not call()["changed"]
    assert (path / "0123456789ab" / "files").exists()

"""What the module orthanc_service finds different from what was asked for, and what it goes back to."""

import os
import pathlib
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.modules.orthanc_service import Kept, differences, meaning, newest

ASKED = {"version": "1.12.7", "plugins": ["dicom-web"], "database": "sqlite", "storage": ""}
SYSTEM = {"Version": "1.12.7", "DatabaseBackendPlugin": None}


@pytest.mark.parametrize(
    "asked, system, plugins",
    [
        ({}, {}, ["dicom-web"]),
        ({}, {}, ["dicom-web", "explorer.js"]),
        ({"version": ""}, {"Version": "1.13.0"}, ["dicom-web"]),
        ({"plugins": []}, {}, []),
        ({"database": "postgresql"}, {"DatabaseBackendPlugin": "/x/libOrthancPostgreSQLIndex.so"}, ["dicom-web"]),
        (
            {"database": "mysql", "storage": "mysql"},
            {
                "DatabaseBackendPlugin": "/x/libOrthancMySQLIndex.so.5.0",
                "StorageAreaPlugin": "/x/libOrthancMySQLStorage.so",
            },
            ["dicom-web"],
        ),
        (
            {"storage": "libDelayedDeletion"},
            {"StorageAreaPlugin": "/usr/lib/orthanc/libDelayedDeletion.so.1.12.7"},
            ["dicom-web"],
        ),
    ],
)
def test_no_difference(asked: dict[str, Any], system: dict[str, Any], plugins: list[str]) -> None:
    assert differences(ASKED | asked, SYSTEM | system, plugins) == []


@pytest.mark.parametrize(
    "asked, system, plugins, expected",
    [
        ({}, {"Version": "1.10.1"}, ["dicom-web"], ["orthanc_version asks for 1.12.7, but 1.10.1 runs"]),
        ({}, {}, ["gdcm"], ["did not load: dicom-web"]),
        ({"plugins": ["a", "b"]}, {}, [], ["did not load: a", "did not load: b"]),
        (
            {},
            {"DatabaseBackendPlugin": "/x/libOrthancOther.so"},
            ["dicom-web"],
            ["DatabaseBackendPlugin is /x/libOrthancOther.so"],
        ),
        # Older releases run on SQLite when the plugin of the database is missing.
        (
            {"database": "postgresql"},
            {},
            ["dicom-web"],
            ["asks for postgresql, but DatabaseBackendPlugin is the built-in one"],
        ),
        (
            {"storage": "mysql", "database": "mysql"},
            {"DatabaseBackendPlugin": "MySQL"},
            ["dicom-web"],
            ["StorageAreaPlugin"],
        ),
        ({"storage": "libDelayedDeletion"}, {}, ["dicom-web"], ["StorageAreaPlugin is the built-in one"]),
        ({}, {"StorageAreaPlugin": "/x/libDelayedDeletion.so"}, ["dicom-web"], ["asks for the file system"]),
    ],
)
def test_difference(asked: dict[str, Any], system: dict[str, Any], plugins: list[str], expected: list[str]) -> None:
    found = differences(ASKED | asked, SYSTEM | system, plugins)
    assert len(found) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    "line, variable",
    [
        (
            'E1120 PostgreSQL error: FATAL:  password authentication failed for user "orthanc"',
            "orthanc_database_password",
        ),
        ("E1120 MySQL error: Access denied for user 'orthanc'@'127.0.0.1'", "orthanc_database_password"),
        ("E1120 The PostgreSQL database is locked by another instance of Orthanc", "second site"),
        ("E1120 permission denied for schema public", "own the database"),
        ("E1120 remaining connection slots are reserved", "max_connections"),
        ('E1120 FATAL:  database "pacs" does not exist', "orthanc_database_name"),
        ("E1120 connection to server failed: Connection refused", "orthanc_database_host"),
    ],
)
def test_meaning(line: str, variable: str) -> None:
    assert variable in meaning(line)


def test_no_meaning() -> None:
    assert meaning("E1120 Parameter out of range") == ""


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a configuration folder with a file in it, beside a unit."""
    made = tmp_path / "orthanc"
    made.mkdir()
    (made / "orthanc.json").write_text('{"Name": "old ü\\u0024"}', "utf-8")
    (made / "orthanc.json").chmod(0o640)
    (tmp_path / "orthanc.service").write_text("[Unit]\n", "utf-8")
    return made


def kept(folder: pathlib.Path) -> Kept:
    return Kept(str(folder.parent / "state"), str(folder), str(folder.parent / "orthanc.service"))


def test_what_worked_comes_back_whole(folder: pathlib.Path) -> None:
    before = (folder / "orthanc.json").read_bytes()
    kept(folder).keep("boot 1")
    (folder / "orthanc.json").write_text("{", "utf-8")
    (folder / "orthanc.json").chmod(0o600)
    (folder / "mysql.json").write_text("{}", "utf-8")
    (folder.parent / "orthanc.service").unlink()
    assert kept(folder).restore()
    assert (folder / "orthanc.json").read_bytes() == before
    assert (folder / "orthanc.json").stat().st_mode & 0o777 == 0o640
    assert os.listdir(folder) == ["orthanc.json"]
    assert (folder.parent / "orthanc.service").read_text("utf-8") == "[Unit]\n"


def test_release_comes_back_with_its_configuration(folder: pathlib.Path) -> None:
    link = folder.parent / "current"
    link.symlink_to("1.10.1")
    links = [str(link)]
    Kept(str(folder.parent / "state"), str(folder), "/none", links).keep("boot 1")
    link.unlink()
    link.symlink_to("1.12.7")
    assert Kept(str(folder.parent / "state"), str(folder), "/none", links).restore()
    assert link.readlink() == pathlib.Path("1.10.1")


def test_nothing_comes_back_where_nothing_worked_or_nothing_changed(folder: pathlib.Path) -> None:
    assert not kept(folder).restore()
    kept(folder).keep("boot 1")
    assert not kept(folder).restore()


def test_same_options_in_other_words_are_no_change(folder: pathlib.Path) -> None:
    kept(folder).keep("boot 1")
    (folder / "orthanc.json").write_text('{\n  "Name":"old \\u00fc$"}\n', "utf-8")
    assert kept(folder).runs("boot 1")
    assert not kept(folder).runs("boot 2"), "of another process nobody knows what it read"
    (folder / "more.json").write_text('{"HttpPort": 8042}', "utf-8")
    assert not kept(folder).runs("boot 1")
    (folder / "more.json").unlink()
    (folder.parent / "orthanc.service").write_text("[Unit]\n\n", "utf-8")
    assert not kept(folder).runs("boot 1")
    (folder / "orthanc.json").write_text("{", "utf-8")
    assert not kept(folder).runs("boot 1")


def test_what_worked_is_for_root_alone(folder: pathlib.Path) -> None:
    kept(folder).keep("boot 1")
    state = folder.parent / "state"
    assert [path.stat().st_mode & 0o777 for path in (state, state / "last.json")] == [0o700, 0o600]


def test_newest_is_a_change_that_counts(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file, program = folder / "orthanc.json", tmp_path / "Orthanc"
    program.touch()
    for path in (file, program):
        os.utime(path, (1000, 1000))
    assert newest([str(file), str(folder / "none")], []) == 1000
    file.chmod(0o600)
    assert newest([str(file)], []) == 1000, "another mode is not another configuration"
    assert newest([], [str(program), str(tmp_path / "none")]) > 1000, "a program that was put in place is a new one"

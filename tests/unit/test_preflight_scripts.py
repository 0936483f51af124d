"""Scripts that are not there, that nobody could run, or that would get in the way of others."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from tests.unit.good_host import LSB, UPSTREAM, one_problem, problems

SCRIPTS = "orthanc_scripts"
PYTHON = {"orthanc_plugins": ["dicomweb", "python"]}


def asked(folder: pathlib.Path, *names: str, content: bytes = b"-- nothing") -> dict[str, Any]:
    """Return the variable for some files, each of which is there."""
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return {SCRIPTS: [{"file": str(folder / name)} for name in names]}


def test_good_ones_pass(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = asked(tmp_path, "route.lua", "route.py", "de_identify-2.py")
    assert problems(**given | PYTHON) == []
    monkeypatch.setenv("HOME", str(tmp_path))
    assert problems(orthanc_scripts=[{"file": "~/route.lua"}]) == []
    # What the other language has is another option.
    settings = {"orthanc_settings": {"PythonScript": "/srv/own.py"}}
    assert problems(**asked(tmp_path, "route.lua") | PYTHON | settings) == []


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("route.js", b"", "is neither .lua nor .py"),
        ("route", b"", "is neither .lua nor .py"),
        ("route.LUA", b"", "is neither .lua nor .py"),
        ("my route.lua", b"", "name the file with letters"),
        ("a.b.lua", b"", "name the file with letters"),
        ("route\u00e9.lua", b"", "name the file with letters"),
        ("-- a\n.lua", b"", "name the file with letters"),
        ("json.py", b"", "a module of Python or of Orthanc is called json too"),
        ("orthanc.py", b"", "is called orthanc too"),
        ("pacs_scripts.py", b"", "is called pacs_scripts too"),
        ("latin.lua", b"-- one\n-- \xe4\n", "is no text in UTF-8, by its line 2; save it as UTF-8"),
        ("zero.lua", b"a\0", "has a zero byte in it"),
        ("large.lua", b" " * (2**20 + 1), "has more than 1 MiB"),
        (
            "secret.lua",
            b"$ANSIBLE_VAULT;1.1;AES256\n33",
            "read its secret from a section of its own in orthanc_settings",
        ),
    ],
)
def test_bad_files(tmp_path: pathlib.Path, name: str, content: bytes, told: str) -> None:
    one_problem(asked(tmp_path, name, content=content) | PYTHON, SCRIPTS, told)


@pytest.mark.parametrize("path", ["/nowhere/route.lua", "route.lua", "~nobody-there/route.lua", "{}"])
def test_files_that_are_not_there(tmp_path: pathlib.Path, path: str) -> None:
    (tmp_path / "folder.lua").mkdir()
    given = [{"file": str(tmp_path / "folder.lua") if path == "{}" else path}]
    one_problem({SCRIPTS: given}, SCRIPTS, "is no file of the control node that can be read")


def test_the_same_name_twice(tmp_path: pathlib.Path) -> None:
    one_problem(asked(tmp_path, "a/route.lua", "b/route.lua"), SCRIPTS, "'route.lua' stands there twice")


def test_python_takes_its_plugin(tmp_path: pathlib.Path) -> None:
    given = asked(tmp_path, "route.py")
    one_problem(given, SCRIPTS, "route.py takes the plugin python; add it to orthanc_plugins")
    for method in (LSB, UPSTREAM):
        found = [text for text in problems(**given | method) if text.startswith(SCRIPTS)]
        assert len(found) == 1
        assert "which is not to be had with" in found[0]
        assert "Write it in Lua" in found[0]


@pytest.mark.parametrize("option, name", [("LuaScripts", "route.lua"), ("PythonScript", "route.py")])
@pytest.mark.parametrize("variable", ["orthanc_settings", "orthanc_settings_unchecked"])
def test_one_place_for_each_kind(tmp_path: pathlib.Path, option: str, name: str, variable: str) -> None:
    value = "/srv/own.py" if option == "PythonScript" else ["/srv/own.lua"]
    given = asked(tmp_path, name) | PYTHON | {variable: {option: value}}
    one_problem(given, f"{variable}.{option}", "add yours to orthanc_scripts, and take this out")


IMAGE = str(get_testdata_file("CT_small.dcm"))


@pytest.mark.parametrize(
    "test, told",
    [
        ({"send": "/nowhere.dcm"}, "'/nowhere.dcm' is no file of the control node"),
        ({"send": __file__}, "is no DICOM file"),
        ({"send": IMAGE, "stored": False, "tags": {"PatientID": "A"}}, "has no meaning for what is not stored"),
        ({"send": IMAGE, "tags": {"Institution": "A"}}, "'Institution': DICOM knows no such keyword"),
        ({"send": IMAGE, "tags": {"CommandGroup": "A"}}, "'CommandGroup': DICOM knows no such keyword"),
        ({"send": IMAGE, "tags": {"StudyInstanceUID": "1.2"}}, "the verification gives its own"),
        ({"send": IMAGE, "tags": {"Rows": 128}}, "the value of Rows has to be a text"),
    ],
)
def test_bad_tests(tmp_path: pathlib.Path, test: dict[str, Any], told: str) -> None:
    given = asked(tmp_path, "route.lua")[SCRIPTS]
    one_problem({SCRIPTS: [given[0] | {"test": test}]}, SCRIPTS, told)


def test_good_tests_pass(tmp_path: pathlib.Path) -> None:
    given = asked(tmp_path, "route.lua")[SCRIPTS]
    for more in ({}, {"stored": False}, {"tags": {"InstitutionName": "", "PatientID": "A"}}):
        assert problems(orthanc_scripts=[given[0] | {"test": {"send": IMAGE, **more}}]) == []


HASH = "--hash=sha256:" + "0" * 64
REQUIREMENTS = "orthanc_python_requirements"


def required(folder: pathlib.Path, content: str | bytes) -> dict[str, Any]:
    file = folder / "requirements.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return asked(folder, "route.py") | PYTHON | {REQUIREMENTS: str(file)}


@pytest.mark.parametrize(
    "content, told",
    [
        ("", "asks for nothing"),
        ("# pydicom\n--no-index\n", "asks for nothing"),
        ("pydicom==3.0.1\n", "'pydicom==3.0.1' has no hash"),
        (f"a==1 {HASH}\nb==1 \\\n    --hash=md5:00\n", "'b==1' has no hash"),
        (f"a==1 {HASH}\n-r other.txt\n", "'-r' leads to files"),
        (f"a==1 {HASH}\n--requirement=other.txt\n", "'--requirement' leads to files"),
        (f"a==1 {HASH}\n-e .\n", "'-e' leads to files"),
        (f"a==1 {HASH}\n--index-url https://jane:secret@index.example.org/\n", "belongs into /etc/pip.conf"),
        (f"a @ https://jane:secret@wheels.example.org/a.whl {HASH}\n", "belongs into /etc/pip.conf"),
        (b"\xff", "is no text in UTF-8"),
    ],
)
def test_bad_requirements(tmp_path: pathlib.Path, content: str | bytes, told: str) -> None:
    one_problem(required(tmp_path, content), REQUIREMENTS, told)


def test_good_requirements(tmp_path: pathlib.Path) -> None:
    text = f"# made\n--find-links /srv/wheels\na==1 ; python_version > '3' \\\n    {HASH} \\\n    {HASH}\n    # via b\n"
    text += f"b==2 {HASH}\n"
    assert problems(**required(tmp_path, text)) == []


def test_requirements_for_nothing(tmp_path: pathlib.Path) -> None:
    given = required(tmp_path, f"a==1 {HASH}\n")
    one_problem(given | {SCRIPTS: []}, REQUIREMENTS, "orthanc_scripts has no script in Python")
    one_problem(given | {REQUIREMENTS: "/nowhere.txt"}, REQUIREMENTS, "is no file of the control node")
    found = problems(**given | UPSTREAM | {"orthanc_plugins": ["dicomweb"]})
    assert any(text.startswith(REQUIREMENTS) and "which Python the plugin has" in text for text in found)

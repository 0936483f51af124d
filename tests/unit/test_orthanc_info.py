"""What the module orthanc_info asks of an image, and how often."""

import pathlib
import stat
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.modules.orthanc_info import answers

from tests.unit.module import Failed, Module

SAMPLE = '{\n  "HttpPort" : 8042,\n  // "Name" : "x"\n}'


def run(command: list[str]) -> tuple[int, str, str]:
    return 0, {"--version": "Orthanc 1.12.7", "--config=-": SAMPLE}.get(command[-1], "/p/a.so\n"), ""


def image(number: str, answers: str, **params: Any) -> Module:
    docker = ["/usr/bin/docker", "run", number]
    given = {"libraries": ["/p/a.so"]} | params
    return Module(run, command=docker, list_command=[*docker, "ls"], answers=answers, **given)


def test_image_is_asked_once(tmp_path: pathlib.Path) -> None:
    """Each question is a container of its own."""
    file = tmp_path / "pacs" / "image.json"
    expected = ["1.12.7", {"HttpPort": "int", "Name": "str"}, []]
    asked = image("sha256:1", str(file))
    assert answers(asked) == expected
    assert len(asked.commands) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = image("sha256:1", str(file))
    assert answers(again) == expected
    assert again.commands == []
    # A plugin that it lacks is told each time.
    for _ in range(2):
        lacking = image("sha256:1", str(file), libraries=["/p/a.so", "/p/b.so"])
        assert answers(lacking) == [*expected[:2], ["/p/b.so"]]
        assert len(lacking.commands) == 3
    # Another image, other plugins, and a file that was cut short.
    for number, libraries in (("sha256:2", ["/p/a.so"]), ("sha256:2", [])):
        other = image(number, str(file), libraries=libraries)
        assert answers(other) == [*expected[:2], []]
        assert len(other.commands) == 2 + len(libraries)
    file.write_text('{"asked": [', encoding="utf-8")
    spoilt = image("sha256:2", str(file), libraries=[])
    assert answers(spoilt) == [*expected[:2], []]
    assert len(spoilt.commands) == 2


def test_binary_is_asked_each_time(tmp_path: pathlib.Path) -> None:
    binary = image("x", "")
    answers(binary)
    answers(binary)
    assert len(binary.commands) == 6
    assert list(tmp_path.iterdir()) == []


def test_check_mode_keeps_nothing(tmp_path: pathlib.Path) -> None:
    looked = image("sha256:1", str(tmp_path / "image.json"))
    looked.check_mode = True
    answers(looked)
    assert list(tmp_path.iterdir()) == []


def test_image_that_cannot_be_asked_lacks_nothing(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "image.json"
    asked = image("sha256:1", str(file))
    asked._run = lambda command: (125, "", "no space left") if command[-1] == "/p/a.so" else run(command)
    with pytest.raises(Failed, match=r"ls /p/a\.so fails: no space left"):
        answers(asked)
    assert not file.exists()

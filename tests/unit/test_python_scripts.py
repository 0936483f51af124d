"""Several scripts in Python share an Orthanc that takes one of them, and most callbacks once."""

from __future__ import annotations

import json
import pathlib
import runpy
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from tests.repository import ROOT

LOADER = ROOT / "roles" / "orthanc" / "files" / "pacs_scripts.py"
KEEP, MODIFY, DISCARD = 1, 2, 3


class Orthanc(types.ModuleType):
    """Orthanc's module, which takes each callback once."""

    ReceivedInstanceAction = types.SimpleNamespace(KEEP_AS_IS=KEEP, MODIFY=MODIFY, DISCARD=DISCARD)

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__("orthanc")
        self.folder = folder
        self.callbacks: dict[str, Any] = {}
        self.said: list[str] = []
        self.seen: list[Any] = []
        for name in ("OnChange", "OnStoredInstance", "ReceivedInstance", "Find", "Rest"):
            setattr(self, f"Register{name}Callback", self._register(name))
        for name in ("IncomingHttpRequest", "IncomingCStoreInstance"):
            setattr(self, f"Register{name}Filter", self._register(name))
        # As an older one, it has no others.
        for name in ("Move", "Worklist"):
            setattr(self, f"Register{name}Callback", self._register(name))
        self.RegisterStorageArea = self._register("StorageArea")
        self.LogError = self.LogInfo = self.said.append

    def _register(self, name: str) -> Any:
        def register(*callbacks: Any) -> None:
            assert name == "Rest" or name not in self.callbacks, "Orthanc ends"
            self.callbacks[name] = callbacks[-1]

        return register

    def run(self, *scripts: str) -> None:
        """Run scripts, called a, b and so on."""
        paths = [self.folder / f"script_{letter}.py" for letter, _text in zip("abc", scripts, strict=False)]
        for path, text in zip(paths, scripts, strict=True):
            path.write_text(text, encoding="utf-8")
        self.GetConfiguration = lambda: json.dumps({"PacsPythonScripts": list(map(str, paths))})
        runpy.run_path(str(LOADER))


@pytest.fixture
def orthanc(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orthanc]:
    made = Orthanc(tmp_path)
    monkeypatch.setitem(sys.modules, "orthanc", made)
    # As it is on a host, and again after the test.
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield made
    for name in set(sys.modules) - before:
        del sys.modules[name]


def on(register: str, body: str) -> str:
    return f"import orthanc\ndef called(*given, **named):\n    {body}\northanc.{register}(called)\n"


def test_they_run_in_order_and_know_each_other(orthanc: Orthanc) -> None:
    seen = "import orthanc; orthanc.seen.append(__name__)"
    orthanc.run(f"import script_b; {seen}", seen)
    assert orthanc.seen == ["script_b", "script_a"]
    assert [line.rpartition("/")[2] for line in orthanc.said] == ["script_a.py", "script_b.py"]
    assert orthanc.said[0].startswith("Running the Python script: /")


@pytest.mark.parametrize("name", ["OnChange", "OnStoredInstance"])
def test_all_are_told_whatever_one_of_them_does(orthanc: Orthanc, name: str) -> None:
    register = f"Register{name}Callback"
    noted = "orthanc.seen.append((__name__, *given))"
    orthanc.run(on(register, noted), on(register, "raise SystemExit('why')"), on(register, noted))
    orthanc.said.clear()
    orthanc.callbacks[name](1, "x")
    assert orthanc.seen == [("script_a", 1, "x"), ("script_c", 1, "x")]
    (said,) = orthanc.said
    assert said.startswith("script_b.py: Traceback")
    assert "SystemExit: why" in said


@pytest.mark.parametrize(
    "first, second, permitted", [("True", "True", True), ("True", "False", False), ("1 / 0", "True", False)]
)
def test_a_request_has_to_pass_all_filters(orthanc: Orthanc, first: str, second: str, permitted: bool) -> None:
    register = "RegisterIncomingHttpRequestFilter"
    orthanc.run(on(register, f"return {first}"), on(register, f"return given[0] == '/' and {second}"))
    assert orthanc.callbacks["IncomingHttpRequest"]("/", method=1) is permitted
    assert any("ZeroDivisionError" in line for line in orthanc.said) is ("/" in first)


@pytest.mark.parametrize(
    "first, second, status", [("0", "0", 0), ("0", "0xA700", 0xA700), ("0xC000", "0", 0xC000), ("1 / 0", "0", 0x0110)]
)
def test_an_image_has_to_pass_all_filters(orthanc: Orthanc, first: str, second: str, status: int) -> None:
    register = "RegisterIncomingCStoreInstanceFilter"
    orthanc.run(on(register, f"return {first}"), on(register, f"return {second}"))
    assert orthanc.callbacks["IncomingCStoreInstance"]("image") == status


@pytest.mark.parametrize(
    "answers, expected",
    [
        (("1, None", "1, None"), (KEEP, None)),
        (("2, given[0] + b'a'", "2, given[0] + b'b'"), (MODIFY, b"imageab")),
        (("2, given[0] + b'a'", "1, None"), (MODIFY, b"imagea")),
        (("3, None", "2, b'other'"), (DISCARD, None)),
        (("3", "2, b'other'"), (DISCARD, None)),
        (("2, None", "2, given[0] + b'b'"), (MODIFY, b"imageb")),
        (("2, b'other'", "3, None"), (DISCARD, None)),
    ],
)
def test_each_gets_what_the_one_before_has_made(orthanc: Orthanc, answers: Any, expected: Any) -> None:
    orthanc.run(*(on("RegisterReceivedInstanceCallback", f"return {answer}") for answer in answers))
    assert orthanc.callbacks["ReceivedInstance"](b"image", 0) == expected


def test_no_image_is_lost_where_one_throws(orthanc: Orthanc) -> None:
    register = "RegisterReceivedInstanceCallback"
    orthanc.run(*(on(register, f"return {answer}") for answer in ("2, given[0] + b'a'", "1 / 0", "2, given[0] + b'c'")))
    assert orthanc.callbacks["ReceivedInstance"](b"image", 0) == (MODIFY, b"imageac")
    assert orthanc.said[-1].startswith("script_b.py: Traceback")


def test_what_only_one_can_answer_is_refused_to_the_next(orthanc: Orthanc) -> None:
    register = "RegisterFindCallback"
    with pytest.raises(RuntimeError, match=r"^script_a\.py has called RegisterFindCallback already"):
        orthanc.run(on(register, "return None"), on(register, "return None"))
    rest = on("RegisterRestCallback", "return None")
    orthanc.run(rest, rest)


def test_later_registrations_are_known_by_their_module(orthanc: Orthanc) -> None:
    later = "import orthanc\ndef fail(*given):\n    raise ValueError\n"
    later += "def called(*given):\n    orthanc.RegisterOnChangeCallback(fail)\n"
    later += "orthanc.RegisterOnStoredInstanceCallback(called)\n"
    orthanc.run(later)
    orthanc.callbacks["OnStoredInstance"]()
    orthanc.callbacks["OnChange"]()
    assert orthanc.said[-1].startswith("script_a: Traceback")

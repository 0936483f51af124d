"""Wrong values for every public variable, made out of its argument spec, which alone says what is right."""

from __future__ import annotations

import dataclasses
import datetime
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from tests.repository import ROLES, defaults, options

# What YAML makes of values, each by its name, and which of them each type of an argument spec takes.
VALUES: Mapping[str, Any] = {
    "text": "x y",
    "number": 7,
    "fraction": 7.5,
    "truth": True,
    "date": datetime.date(2026, 11, 29),
    "list": ["x"],
    "dict": {"x": "x"},
}
TAKES = {
    "bool": ("truth",),
    "dict": ("dict",),
    "float": ("number", "fraction"),
    "int": ("number",),
    "list": ("list",),
    "path": ("text",),
    "str": ("text",),
}
TEMPLATES = {
    "undefined": "{{ nowhere.to.be }}",
    "syntax": "{{ 1 + }}",
    "division": "{{ 1 // 0 }}",
    "unknown filter": "{{ 1 | nobody_has_this }}",
    "missing file": "{{ lookup('ansible.builtin.file', '/nowhere/to/be') }}",
}
# What no file, form or command line takes.
TEXTS = {
    "line break": "x\ny",
    "NUL": "x\0y",
    "escape": "x\x1b[2Jy",
    "half a character": "x\ud800y",
    "over-long": "x" * 5000,
    "blank": " ",
}
NUMBERS: Mapping[str, Any] = {
    "huge": 10**30,
    "billion": 10**9,
    "infinite": float("inf"),
    "no number": float("nan"),
    "number and more": "7 8",
    "empty": "",
}
# Folders of the system, and what is no path; and what the service's host has besides, where that is where they are.
FOLDERS = (
    *("/", "/etc", "/usr", "/usr/bin", "/home", "/root", "/tmp", "/boot", "/proc", "/var", "/var/lib", "/var/log"),
    *("x", "~/x", "/srv/../etc", "/etc/.", "//srv/x", "/srv/x/", f"/srv/{'x' * 300}", "/srv" + "/x" * 3000),
)
FOLDERS_OF_HOST = (
    *("/home/x", "/root/x", "/tmp/x", "/proc/x", "/usr/lib/x", "/etc/nginx", "/etc/postgresql/x", "/var/lib/mysql/x"),
    *("/var/lib/postgresql", "/var/lib/pacs/x", "/srv/x y", "/srv/x:y", "/srv/%x", "/srv/x'y"),
)
# Names that the servers have themselves, of databases and of users.
OWN_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "postgresql": {"name": ("postgres", "template1", "pg_x"), "user": ("postgres", "pg_x", "public", "none")},
    "mysql": {"name": ("mysql", "sys", "information_schema"), "user": ("root", "mysql", "mariadb.sys")},
}
# An entry of a list of dictionaries with nothing wrong.
GOOD: Mapping[str, Any] = {
    "engine": "postgresql",
    "server": "pacs",
    "address": "127.0.0.1",
    "name": "orthanc",
    "user": "orthanc",
    "password": "long enough",
    "connections": 1,
}
Made = Iterator[tuple[str, Any, bool]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A value of a variable, and whether it is wrong by the spec; else what the rules say of it is their own matter."""

    variable: str
    kind: str
    value: Any
    wrong: bool

    @property
    def id(self) -> str:
        return f"{self.variable}-{self.kind}".replace(" ", "_")

    def is_one_of(self, number: int) -> bool:
        """Tell whether this is among a sample of one in so many, which is the same each time."""
        return zlib.crc32(self.id.encode()) % number == 0


def cases() -> list[Case]:
    found = []
    for role in ROLES:
        for name, option in options(role).items():
            itself = ("itself", "{{ " + name + " }}", True)
            made = (itself, *of_option(name, option, defaults(role).get(name)), *beside_others(name, option))
            found += [Case(name, *one) for one in made]
    return found


def said(option: Mapping[str, Any]) -> str:
    """Return the text that describes an option."""
    text = option.get("description", "")
    return " ".join(text if isinstance(text, list) else [text])


def limits(option: Mapping[str, Any]) -> tuple[int, int]:
    """Return the lowest and the highest number that the text names; there is no number without."""
    found = re.search(r"\b(\d+) to (\d+)\b", said(option))
    assert found, f"the spec has no limits: {said(option)}"
    return int(found[1]), int(found[2])


def is_folder(option: Mapping[str, Any]) -> bool:
    """Tell whether this is a folder of a host, be it the one that runs the playbook."""
    return said(option).startswith("Folder") and "inside of the image" not in said(option)


def is_of_report(option: Mapping[str, Any]) -> bool:
    """Tell whether a report is all that is written there, so that it may be anybody's folder."""
    return said(option).startswith("Folder of the report")


def is_on_host(option: Mapping[str, Any]) -> bool:
    return is_folder(option) and "on the machine that runs" not in said(option)


def of_option(name: str, option: Mapping[str, Any], default: Any = None) -> Made:
    """Make values of one option.

    :param name: that of the variable, or of the field in an entry of a list.
    """
    yield "null", None, True
    for kind, template in TEMPLATES.items():
        yield kind, template, True
    for kind, value in VALUES.items():
        if kind not in TAKES[option["type"]]:
            yield kind, value, True
    if option["type"] == "bool":
        yield "2", 2, True
    if option["type"] in ("int", "float"):
        low, high = limits(option)
        for kind, value in {**NUMBERS, "too low": low - 1, "too high": high + 1}.items():
            yield kind, value, True
    if option["type"] in ("str", "path"):
        yield from of_text(name, option, default)
    if option["type"] == "list":
        yield from of_list(name, option)
    if option["type"] == "dict":
        yield from of_dict(option)


def of_text(name: str, option: Mapping[str, Any], default: Any) -> Made:
    for kind, text in TEXTS.items():
        yield kind, text, True
    yield "text", VALUES["text"], "choices" in option
    may_be_empty = default is None or default == "" or "default('')" in str(default) or "mpty" in said(option)
    yield "empty", "", not may_be_empty or bool(option.get("required"))
    for choice in option.get("choices", ())[:1]:
        yield "with more", f"{choice} ", True
        yield "in capitals", f"X{choice.upper()}", True
    for path in FOLDERS if is_folder(option) else ():
        too_long = any(len(part) > 255 for part in path.split("/")) or len(path) > 4096
        yield f"folder {path[:20]}", path, not is_of_report(option) or path[0] != "/" or too_long
    for path in FOLDERS_OF_HOST if is_on_host(option) else ():
        yield f"folder {path}", path, True
    if found := re.fullmatch(r"(?:orthanc_database_)?(name|user)", name):
        for engine, own in OWN_NAMES.items():
            for known in own[found[1]]:
                yield f"{known} of {engine}", known, True


def of_list(name: str, option: Mapping[str, Any]) -> Made:
    yield "empty", [], False
    yield "many", ["x"] * 1000, option["elements"] != "str" or "choices" in option
    yield "null in it", [None], True
    if option["elements"] == "str":
        for kind, text in {**TEXTS, "empty": ""}.items():
            yield f"{kind} in it", [text], True
        yield "twice in it", ["x", "x"], "choices" in option
    for kind, value in VALUES.items():
        if kind not in TAKES[option["elements"]]:
            yield f"{kind} in it", [value], True
    for kind in ("undefined", "syntax"):
        yield f"{kind} in it", [TEMPLATES[kind]], True
    if option["elements"] == "dict":
        yield "nothing in it", [{}], True
        yield "strange in it", [{"x": 7}], True
    for field, inner in option.get("options", {}).items():
        good = {**GOOD, "engine": name.partition("_")[0]}
        if inner.get("required"):
            yield f"without {field}", [{key: value for key, value in good.items() if key != field}], True
        for kind, value, wrong in of_option(field, inner):
            # Names of the other server's are none of this one.
            if not kind.endswith(tuple(f"of {engine}" for engine in OWN_NAMES if engine != good["engine"])):
                yield f"{field} {kind}", [good | {field: value}], wrong


def of_dict(option: Mapping[str, Any]) -> Made:
    yield "empty", {}, False
    for kind, key in {"null": None, "number": 7, "truth": True, "date": VALUES["date"], "empty": "", **TEXTS}.items():
        yield f"{kind} as a key", {key: "x"}, True
    # In some of them null has a meaning.
    yield "null in it", {"x": None}, not re.search(r"\bnull\b", said(option), re.IGNORECASE)
    yield "null deep in it", {"x": {"x": [None]}}, True
    for kind, text in TEXTS.items():
        # The program that it goes to may read several lines.
        yield f"{kind} in it", {"x": text}, text != TEXTS["line break"]
        yield f"{kind} deep in it", {"x": {"x": ["x", text]}}, text != TEXTS["line break"]
    for kind, number in {"huge": 10**30, "infinite": float("inf"), "no number": float("nan")}.items():
        yield f"{kind} in it", {"x": number}, True
    # What it holds is of no type.
    for kind, value in {**VALUES, "empty": "", "empty list": [], "empty dict": {}, "lists": [[]]}.items():
        yield f"{kind} in it", {"x": value}, kind == "date"
    yield "undefined in it", {"x": TEMPLATES["undefined"]}, True
    yield "syntax deep in it", {"x": {"x": [TEMPLATES["syntax"]]}}, True


def beside_others(name: str, option: Mapping[str, Any]) -> Made:
    """Make folders that are others of the same host, are in them, or have them inside."""
    known = {other: one for role in ROLES for other, one in options(role).items() if is_on_host(one) and other != name}
    for other, one in known.items() if is_on_host(option) else ():
        path = next(defaults(role)[other] for role in ROLES if other in options(role))
        words = f"{said(option)} {said(one)}"
        apart = not ("beside the DICOM files" in words and "Folder of the DICOM files" in words)
        if path:
            yield f"is {other}", path, apart
            yield f"in {other}", f"{path}/x", apart
            yield f"around {other}", path.rpartition("/")[0], apart

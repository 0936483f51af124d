# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an Orthanc binary says of its own configuration options."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_KEY = re.compile(r'^\s*(?:\*\s*)?(?P<comment>//\s*)?"(?P<name>[A-Z]\w*)"\s*:\s*(?P<value>.*)')
_CODE = re.compile(r'^\s*["{}\[\]]')
_STRING = re.compile(r'"(?:\\.|[^"\\])*"')
_TYPES = (
    (re.compile(r"(true|false)\b"), "bool"),
    (re.compile(r"-?\d+\.\d"), "float"),
    (re.compile(r"-?\d"), "int"),
    (re.compile(r'"'), "str"),
    (re.compile(r"\["), "list"),
    (re.compile(r"\{|$"), "dict"),
)


def sample_options(sample: str) -> dict[str, str]:
    """Read the top-level options out of the sample that ``Orthanc --config=-`` prints.

    The sample is JSON with comments, in which many options stand commented out:
    as ``// "Name" : value`` or inside a comment block. Both count as known options.

    :param sample: the text of the sample, of one or of several files one after the other.
    :returns: the name of each option and the type of its sample value, one of
        ``bool``, ``int``, ``float``, ``str``, ``list`` and ``dict``.
    """
    options: dict[str, str] = {}
    depth = 0
    for line in sample.splitlines():
        key = _KEY.match(line)
        if key and depth == 1:
            value = key["value"].strip()
            options.setdefault(key["name"], next((name for start, name in _TYPES if start.match(value)), "str"))
        if (key and not key["comment"]) or _CODE.match(line):
            code = _STRING.sub("", line).split("//")[0]
            depth += code.count("{") + code.count("[") - code.count("}") - code.count("]")
    return options


def ask_binary(run: Callable[[str], str]) -> tuple[str, dict[str, str]]:
    """Ask an Orthanc binary for its version and for the types of its options.

    :param run: runs the binary with one argument and returns what it prints.
    :returns: nothing in both where it does not print a version.
    """
    found = re.search(r"Orthanc (\S+)", run("--version"))
    if not found:
        return "", {}
    # An older release takes an option that it does not know for none, and starts a server.
    newer = version_tuple(found[1]) >= (1, 13) or found[1] == "mainline"
    samples = ["--config=-"] + (["--advanced-config=-"] if newer else [])
    return found[1], sample_options("".join(map(run, samples)))


def type_of(value: Any) -> str:
    """Return the type of a value in the terms of ``sample_options``; to JSON, a truth is no number."""
    kinds = ((bool, "bool"), (int, "int"), (float, "float"), (str, "str"), (list, "list"), (dict, "dict"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "nothing")


def fits(value: Any, kind: str) -> bool:
    """Tell whether Orthanc takes the value for an option of that type."""
    return takes(kind, type_of(value))


def by_field(given: Any, fields: Sequence[str]) -> Mapping[str, Any]:
    """Return a modality or a peer by its fields, in whichever form it is written; nothing if that is none.

    :param fields: what a list has, in this order, of which the last ones may be left out.
    """
    if isinstance(given, list) and len(given) <= len(fields):
        return dict(zip(fields, given, strict=False))
    return given if isinstance(given, Mapping) else {}


def takes(kind: str, given: str) -> bool:
    """Tell the same of the type of a value."""
    return given == kind or (kind == "float" and given == "int")


def unfit(types: Mapping[str, str], options: Mapping[str, str], version: str) -> list[str]:
    """Hold the options of ``orthanc_settings`` against what a binary knows.

    :param types: the type of each option that is asked for.
    :param options: the type of each option that the binary knows.
    :param version: of the binary.
    :returns: one sentence for each option that it does not know, or not so.
    """
    found = []
    for name, kind in types.items():
        here = f"orthanc_settings.{name}: Orthanc {version} on this host"
        if name not in options:
            found.append(f"{here} does not know this option.{nearest(name, options)} Correct it or take it out.")
        # This truth became a text with 1.13.0, which reads both.
        elif not takes(options[name], kind) and (name, kind) != ("OverwriteInstances", "bool"):
            found.append(f"{here} wants a value of type {options[name]}, not {kind}.")
    return found


_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)


def read_text(text: str) -> dict[str, Any]:
    """Return what a text of Orthanc's configuration says, which is JSON with comments. :raises ValueError: if none."""
    found = json.loads(_COMMENT.sub(lambda match: match[1] or " ", text))
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def read_files(path: str) -> tuple[dict[str, Any], list[str]]:
    """Return what a configuration says, be it a file or a folder of files, and which files cannot be read.

    One that a hand has spoilt, or that was cut short, says nothing.
    """
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    files = [os.path.join(path, name) for name in names if name.endswith(".json")]
    found: dict[str, Any] = {}
    unread = []
    for name in files or ([path] if os.path.isfile(path) else []):
        try:
            with open(name, encoding="utf-8") as file:
                found.update(read_text(file.read()))
        except (OSError, ValueError):
            unread.append(name)
    return found, unread


def read_folder(folder: str) -> dict[str, Any]:
    """Return what the files in a configuration folder say together, or nothing where it is missing."""
    return read_files(folder)[0]


def version_tuple(version: str) -> tuple[int, ...]:
    """Turn ``1.12.7`` into ``(1, 12, 7)``; anything that is not a number ends it."""
    number = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, number[0].split("."))) if number else ()


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the most similar of the names, or an empty string."""
    by_folded = {candidate.lower(): candidate for candidate in names}
    found = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return f" Did you mean '{by_folded[found[0]]}'?" if found else ""

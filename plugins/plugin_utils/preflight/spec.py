# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds a value against its option of an argument spec, and against what no file, form or command line takes.

Ansible's own check converts, and leaves the role with what was written: there a number is a text, or a list of one.
"""

from __future__ import annotations

import datetime
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

# What the values of YAML are, in the words of an argument spec; a truth is a number to Python.
KINDS = (
    *((bool, "bool"), (int, "int"), (float, "float"), (str, "str"), (list, "list"), (dict, "dict")),
    (datetime.date, "date"),
)
# With -e name=value, what is given is a text.
TEXTS = {"int": r"-?[0-9]{1,18}", "float": r"-?[0-9]{1,18}(\.[0-9]{1,18})?"}
# Half of a character outside of Unicode's first plane can be written in YAML, but not into a file.
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# A dictionary goes to a program whose texts may have tabs and line breaks, as those of JSON; rules refuse what others
# would misread.
CONTROL_OF_DICT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
# Certificates, keys: their lines end, with the authorities of a whole system they are long, and what they are may stand
# before each.
PEM = re.compile(r"(?=(?s:.*)-----BEGIN )[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]*")
TRUTH = (
    "write true or false without quotes in YAML, True or False in an INI inventory, and JSON with -e, such as"
    " '{\"name\": true}'"
)
# In characters, beyond every path, name, URL and directive.
LONGEST = 4096
# How much is told of one variable: whoever has a thousand wrong entries has one mistake.
MOST = 5


def problems(name: str, value: Any, option: Mapping[str, Any], takes_null: bool = False) -> Iterator[str]:
    """Find what an option does not take.

    :param takes_null: whether null has a meaning in this dictionary.
    """
    if takes_null and isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if inner is not None}
    yield from itertools.islice(_of_type(name, value, option), MOST)


def _of_type(here: str, value: Any, option: Mapping[str, Any]) -> Iterator[str]:
    kind = "str" if option["type"] == "path" else option["type"]
    if not _fits(value, kind):
        quotes = kind == "str" and isinstance(value, (bool, int, float, datetime.date))
        way = "put it in quotes" if quotes else "write it out, or take it out" if value is None else ""
        # To a template, the text false is true.
        way = TRUTH if (kind_of(value), kind) == ("str", "bool") else way
        yield f"{here}: it has to be of type {kind}, not {kind_of(value)}{way and '; '}{way}."
    elif kind == "list":
        inner = {"type": option["elements"]} | {key: option[key] for key in ("choices", "options") if key in option}
        for number, item in enumerate(value):
            if item == "":
                yield f"{here}[{number}]: it is empty; write it out, or take it out."
            else:
                yield from _of_type(f"{here}[{number}]", item, inner)
    elif "choices" in option and value not in option["choices"]:
        yield f"{here}: {value[:50]!r} is none of {', '.join(option['choices'])}."
    elif "options" in option:
        yield from _fields(here, value, option["options"])
    elif kind == "str":
        yield from _text(here, value)
    else:
        yield from _anything(here, value)


def _fields(here: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[str]:
    for name, option in options.items():
        if name in given:
            yield from _of_type(f"{here}.{name}", given[name], option)
        elif option.get("required"):
            yield f"{here}.{name}: it is missing."
    for name in given:
        if name not in options:
            yield f"{here}: there is no field {name!r} in it."


def _anything(here: str, value: Any) -> Iterator[str]:
    """Look at what holds for every value, at any depth of a dictionary."""
    if isinstance(value, str):
        yield from _text(here, value, CONTROL_OF_DICT)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _anything(f"{here}[{number}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield f"{here}: its key {'null' if key is None else key} is of type {kind_of(key)}; put it in quotes."
            elif not key or any(_text("", key)):
                yield f"{here}: a key in it is empty, longer than {LONGEST} characters, or has a control character."
            else:
                yield from _anything(f"{here}.{key}", item)
    elif value is None:
        yield f"{here}: it is empty (null); write it out, or take it out."
    elif not isinstance(value, (int, float)):
        yield f"{here}: it is of type {kind_of(value)}, which nothing takes; put it in quotes."
    elif not -(2**63) <= value < 2**63:
        yield f"{here}: {value} is no number that fits anywhere."


def _text(here: str, text: str, control: re.Pattern[str] = CONTROL) -> Iterator[str]:
    if PEM.fullmatch(text):
        return
    if control.search(text) and control is CONTROL_OF_DICT:
        yield f"{here}: it has a control character, of which it may have tabs and line breaks alone."
    elif control.search(text):
        yield (
            f"{here}: it has a line break or another control character, which only PEM text may have (-----BEGIN); a"
            " block of YAML (|) ends with one."
        )
    elif len(text) > LONGEST:
        yield f"{here}: it has {len(text)} characters, and {LONGEST} is what it may have."
    elif text.isspace():
        yield f"{here}: it has nothing but white space."


def kind_of(value: Any) -> str:
    """Name the type of a value as an inventory's writer would."""
    if value is None:
        return "null"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return next((name for kind, name in KINDS if isinstance(value, kind)), "something else")


def _fits(value: Any, kind: str) -> bool:
    found = kind_of(value)
    if kind in TEXTS and found == "str":
        return bool(re.fullmatch(TEXTS[kind], value))
    return found == kind or (found, kind) == ("int", "float")

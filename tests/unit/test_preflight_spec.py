"""Types, and what no file, form or command line takes: where the limits are."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general, spec

from tests.unit.good_host import problems

PEM = "-----BEGIN CERTIFICATE-----\nMII\t=\r\n-----END CERTIFICATE-----\n"
CONTROL = (
    "it has a line break or another control character, which only PEM text may have (-----BEGIN); a block of YAML (|)"
    " ends with one."
)
FIELDS: dict[str, Any] = {"a": {"type": "str", "required": True}, "b": {"type": "int"}}


def said(value: Any, kind: str, takes_null: bool = False, **option: Any) -> list[str]:
    return list(spec.problems("v", value, {"type": kind, **option}, takes_null))


@pytest.mark.parametrize(
    "value, kind",
    [
        ("x" * 4096, "str"),
        ("", "path"),
        ("long enough with blanks", "str"),
        ("ä €", "str"),
        (PEM, "str"),
        (PEM * 1000, "str"),
        (f"# An authority\n{PEM}", "str"),
        (True, "bool"),
        (80, "int"),
        ("-80", "int"),
        ("9" * 18, "int"),
        (2, "float"),
        (2.5, "float"),
        ("2", "float"),
        ("-2.5", "float"),
        ({}, "dict"),
        ({"a": {"b": [1, 1.5, True, "", PEM, [], {}]}}, "dict"),
        ({"a": "x\ny", "b": ["x\ty", {"c": "x\r\n"}]}, "dict"),
        ({"a": 2**63 - 1, "b": -(2**63)}, "dict"),
    ],
)
def test_right(value: Any, kind: str) -> None:
    assert said(value, kind) == []


@pytest.mark.parametrize(
    "value, kind, sentence",
    [
        ("x" * 4097, "path", "v: it has 4097 characters, and 4096 is what it may have."),
        ("MII=\n", "str", f"v: {CONTROL}"),
        (f"{PEM}\0", "str", f"v: {CONTROL}"),
        (f"\0{PEM}", "str", f"v: {CONTROL}"),
        ("x\ny", "path", f"v: {CONTROL}"),
        ("x\ty", "str", f"v: {CONTROL}"),
        (
            {"a": ["x\x1b"]},
            "dict",
            "v.a[0]: it has a control character, of which it may have tabs and line breaks alone.",
        ),
        ({"a": "\n" + "x" * 4096}, "dict", "v.a: it has 4097 characters, and 4096 is what it may have."),
        ({"a": "\n\t"}, "dict", "v.a: it has nothing but white space."),
        (" \u3000", "str", "v: it has nothing but white space."),
        (7, "str", "v: it has to be of type str, not int; put it in quotes."),
        (1.3, "str", "v: it has to be of type str, not float; put it in quotes."),
        (False, "path", "v: it has to be of type str, not bool; put it in quotes."),
        (datetime.date(2026, 1, 1), "str", "v: it has to be of type str, not date; put it in quotes."),
        ([], "str", "v: it has to be of type str, not list."),
        (None, "str", "v: it has to be of type str, not null; write it out, or take it out."),
        (b"x", "str", "v: it has to be of type str, not something else."),
        (True, "int", "v: it has to be of type int, not bool."),
        (1.0, "int", "v: it has to be of type int, not float."),
        ("", "int", "v: it has to be of type int, not str."),
        ("1 ", "int", "v: it has to be of type int, not str."),
        ("1" * 19, "int", "v: it has to be of type int, not str."),
        ("٣", "float", "v: it has to be of type float, not str."),
        (float("nan"), "float", "v: it has to be of type float, not nan."),
        ("1e3", "float", "v: it has to be of type float, not str."),
        (
            "true",
            "bool",
            "v: it has to be of type bool, not str; write true or false without quotes in YAML, True or False in an INI"
            " inventory, and JSON with -e, such as '{\"name\": true}'.",
        ),
        ({"a": {"b": [None]}}, "dict", "v.a.b[0]: it is empty (null); write it out, or take it out."),
        ({7: "x"}, "dict", "v: its key 7 is of type int; put it in quotes."),
        ({None: "x"}, "dict", "v: its key null is of type null; put it in quotes."),
        ({"": "x"}, "dict", "v: a key in it is empty, longer than 4096 characters, or has a control character."),
        ({"a\nb": 1}, "dict", "v: a key in it is empty, longer than 4096 characters, or has a control character."),
        ({"a": b"x"}, "dict", "v.a: it is of type something else, which nothing takes; put it in quotes."),
        ({"a": 2**63}, "dict", f"v.a: {2**63} is no number that fits anywhere."),
        ({"a": -(2**63) - 1}, "dict", f"v.a: {-(2**63) - 1} is no number that fits anywhere."),
        ({"a": float("nan")}, "dict", "v.a: nan is no number that fits anywhere."),
    ],
)
def test_wrong(value: Any, kind: str, sentence: str) -> None:
    assert said(value, kind) == [sentence]


def test_entries_of_a_list() -> None:
    assert said(["a", "b"], "list", elements="str") == []
    assert said(["a", ""], "list", elements="str") == ["v[1]: it is empty; write it out, or take it out."]
    assert said(["a", "c"], "list", elements="str", choices=["a", "b"]) == ["v[1]: 'c' is none of a, b."]
    assert said([7] * 9, "list", elements="str") == [
        f"v[{number}]: it has to be of type str, not int; put it in quotes." for number in range(5)
    ]
    assert said(["x\ny"], "list", elements="str") == [f"v[0]: {CONTROL}"]
    assert said([{"a": "x\ny"}], "list", elements="dict") == []
    assert said([{"a": "x\ny"}], "list", elements="dict", options=FIELDS) == [f"v[0].a: {CONTROL}"]
    inner: dict[str, Any] = {"elements": "dict", "options": FIELDS}
    assert said([{"a": "x", "b": 1}, {"a": "x"}], "list", **inner) == []
    assert said([{"b": "x", "c\n": 1}], "list", **inner) == [
        "v[0].a: it is missing.",
        "v[0].b: it has to be of type int, not str.",
        "v[0]: there is no field 'c\\n' in it.",
    ]


def test_choice_that_fills_the_screen() -> None:
    assert said("x" * 99, "str", choices=["a", "b"]) == [f"v: '{'x' * 50}' is none of a, b."]


def test_null_with_a_meaning() -> None:
    assert said({"a": None}, "dict", takes_null=True) == []
    assert said({"a": [None]}, "dict", takes_null=True) != []
    assert said(None, "dict", takes_null=True) != []
    options = {name: {"type": "dict"} for name in ("postgresql_settings", "mysql_settings", "orthanc_settings")}
    found = general.arguments(options, {name: {"a": None} for name in options})
    assert list(found) == ["orthanc_settings.a: it is empty (null); write it out, or take it out."]


def test_sentence_that_can_be_shown() -> None:
    assert general.told("a\n'b\x1b[2J\ud800'.") == "a\\n'b\\x1b[2J\\ud800'."
    assert general.told("x" * 1000) == "x" * 1000
    assert general.told("a" * 500 + "b" * 101 + "c" * 400) == "a" * 500 + " [...] " + "c" * 400


def test_names_in_certificates_have_no_line_break() -> None:
    """Which a dictionary may have, by its type."""
    for name in ("pacs\nx", "pacs\t", ""):
        (problem,) = problems(("certificates",), certificates_hosts={"pacs": [name]})
        assert problem == "certificates_hosts.pacs: it has to be a list of names and addresses."
    assert problems(("certificates",), certificates_hosts={"pacs": ["pacs.example.org", "192.0.2.1"]}) == []

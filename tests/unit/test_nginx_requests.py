"""The patterns by which nginx judges a request."""

from __future__ import annotations

import re

import pytest

from tests.hosts import raw
from tests.repository import ROOT, load

NORMAL = load("roles/nginx/vars/main.yml")["__nginx_normal"]
SITE = (ROOT / "templates/etc/nginx/conf.d/orthanc.conf.j2").read_text(encoding="utf-8")


def matches(pattern: str, text: str) -> bool:
    """Tell whether a pattern of a map takes a text, as nginx reads it."""
    assert pattern.startswith("~*")
    return re.search(pattern[2:].replace("\\\\", "\\"), text, re.IGNORECASE) is not None


def normal(target: bytes) -> bool:
    return matches(NORMAL, f"GET {target.decode('latin-1')} HTTP/1.1")


@pytest.mark.parametrize("query", [b"", b"?_method=DELETE"])
@pytest.mark.parametrize("target", raw.of(raw.TRICKS, "/orthanc/", "a-b"))
def test_tricks(target: bytes, query: bytes) -> None:
    assert not normal(target + query)


@pytest.mark.parametrize("target", raw.of(raw.USUAL, "/orthanc/", "a-b"))
def test_usual(target: bytes) -> None:
    assert normal(target)
    assert not disguised(target.decode("latin-1").partition("?")[2])


def disguised(arguments: str) -> bool:
    table = SITE.partition("map $args $orthanc_disguised {")[2].partition("}\n")[0]
    patterns = re.findall(r'^ +"(~.*)" 1;$', table, re.MULTILINE)
    assert patterns
    return any(matches(pattern, arguments) for pattern in patterns)


@pytest.mark.parametrize(
    "arguments",
    [
        *("_method=DELETE", "x=1&_METHOD=DELETE", "%5fmethod=DELETE", "_%6d%65thod=DELETE", "%5F%4d%45%54%48%4f%44=x"),
        # What releases up to 1.9.7 take for an underscore, and other halves of a letter.
        *("%5Vmethod=DELETE", "x=1&%5vmethod=DELETE", "%V5method=DELETE", "_%6=", "x=%", "x=%&y", "x=%zz"),
    ],
)
def test_disguises(arguments: str) -> None:
    assert disguised(arguments)


@pytest.mark.parametrize("arguments", ["", "since=0&limit=10", "x=%20%C3%bc%255", "method=DELETE"])
def test_plain_arguments(arguments: str) -> None:
    assert not disguised(arguments)

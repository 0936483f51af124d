"""Wrong values by generation: no crash, a sentence with the variable for the host, and nothing done there.

One of twenty; the others are the shard ``test-values`` (tests/unit/values.py).
"""

from __future__ import annotations

import pathlib

import pytest

from tests.unit.values import ASKED, CASES, Sites, hold, sites, untold
from tests.unit.wrong_values import Case

__all__ = ["sites"]


# A variable that refers to itself is not found out within milliseconds.
QUICK = [case for case in CASES if case.is_one_of(20) and case.kind != "itself"]


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.id)
def test_wrong_value(sites: Sites, case: Case) -> None:
    hold(case, *sites.say(case))


def test_command(tmp_path: pathlib.Path) -> None:
    assert untold([case for case in ASKED if case.is_one_of(150)], tmp_path) == []

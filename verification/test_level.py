"""What comes before anything is written"""

from __future__ import annotations

from typing import Any

import pytest

from verification.expect import expect
from verification.risks import risks
from verification.site import Site


def test_conform_may_begin(site: Site, inside: dict[str, Any]) -> None:
    if site.level != "conform":
        pytest.skip("verification_level is probe: nothing is written")
    expect("reasons against conform", [], risks(site, inside))

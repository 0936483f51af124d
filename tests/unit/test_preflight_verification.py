"""What the role verification asks of an inventory."""

from typing import Any

import pytest

from tests.unit.good_host import one_problem, pair

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"verification_certificate": pair()[0]}, "verification_private_key", "it is missing"),
    ({"verification_private_key": pair()[1]}, "verification_certificate", "it is missing"),
    (
        {"verification_certificate": pair()[0], "verification_private_key": pair(("other",))[1]},
        "verification_private_key",
        "does not belong",
    ),
    ({"verification_modality": "cta"}, "verification_modality", "Did you mean 'ct'?"),
    ({"verification_dicom_address": "http://pacs"}, "verification_dicom_address", "neither a host name nor an address"),
]


@pytest.mark.parametrize("changes, variable, part", WRONG)
def test_one_thing_wrong(changes: dict[str, Any], variable: str, part: str) -> None:
    one_problem(changes, variable, part)

"""What the role verification asks of an inventory."""

from typing import Any

import pytest

from tests.unit.good_host import one_problem, pair, problems

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
    ({"verification_report_dir": "report"}, "verification_report_dir", "'report' is no absolute path"),
    ({"verification_report_dir": "~/report"}, "verification_report_dir", "is no absolute path"),
    ({"verification_report_dir": ""}, "verification_report_dir", "is no absolute path"),
    ({"verification_report_dir": f"/srv/{'x' * 256}"}, "verification_report_dir", "is no absolute path"),
]


@pytest.mark.parametrize("changes, variable, part", WRONG)
def test_one_thing_wrong(changes: dict[str, Any], variable: str, part: str) -> None:
    one_problem(changes, variable, part)


@pytest.mark.parametrize("folder", ["/root", "/tmp", "/srv/report/", "/srv/../tmp", "//srv/x", "/", "/home/me/a b"])
def test_report_goes_anywhere(folder: str) -> None:
    """Such as where one is, by -e verification_report_dir=$PWD: only a report is written there."""
    assert problems(verification_report_dir=folder) == []

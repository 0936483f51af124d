"""Rules for research that would let an image in as it comes, or that nobody could repeat."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
import yaml

from tests.repository import ROOT
from tests.unit.good_host import LSB, notices, one_problem, problems

RULES = "orthanc_deidentify"
GOOD: dict[str, Any] = {
    "orthanc_plugins": ["dicomweb", "python"],
    "orthanc_modalities": {"mr": {"AET": "MR1", "Host": "192.0.2.7", "Port": 104}, "ct": ["CT1", "192.0.2.8", 104]},
    "orthanc_deidentify_secret": "x" * 32,
}


def test_good_ones_pass() -> None:
    rules = [
        {"from": ["MR1", "CT?"], "dates": "shift", "keep": ["PatientSex", "PatientAge"]},
        {"when": {"StudyDescription": "*TRIAL*"}, "unless": {"Modality": "US"}, "burned_in": "unless_denied"},
        {},
    ]
    assert problems(**GOOD | {RULES: rules}) == []
    assert problems(**GOOD | {"orthanc_deidentify_secret": ""}) == []
    stranger = {"orthanc_settings": {"DicomAlwaysAllowStore": True}, RULES: [{"from": ["ELSEWHERE"]}]}
    assert not [text for text in problems(**GOOD | stranger) if text.startswith(RULES)]


@pytest.mark.parametrize(
    "rule, part",
    [
        ({"from": ["MR2"]}, "entry 1: no entry of orthanc_modalities has the title 'MR2'"),
        ({"when": {"Modalty": "CT"}}, "entry 1: DICOM knows no keyword 'Modalty'"),
        ({"unless": {"Modality": 1}}, "entry 1: Modality has to be a text"),
        ({}, "entry 1: it is for all images, so those after it never count"),
        ({"dates": "shift"}, "entry 1: it is for all images, so those after it never count"),
    ],
)
def test_bad_ones(rule: dict[str, Any], part: str) -> None:
    one_problem(GOOD | {RULES: [rule, {}]}, RULES, part)


@pytest.mark.parametrize("secret", ["", "x" * 31])
def test_short_secrets(secret: str) -> None:
    one_problem(
        GOOD | {RULES: [{}], "orthanc_deidentify_secret": secret}, "orthanc_deidentify_secret", "at least 32 letters"
    )


def test_it_takes_python() -> None:
    rules = {RULES: [{}], "orthanc_deidentify_secret": "x" * 32}
    one_problem(rules, RULES, "it takes the plugin python; add it to orthanc_plugins")
    assert [text for text in problems(**rules | LSB) if text.startswith(RULES) and "is not to be had with" in text]


def test_what_can_be_kept_is_what_the_script_knows() -> None:
    known = runpy.run_path(str(ROOT / "roles" / "orthanc" / "files" / "pacs_profile.py"))["KEEPABLE"]
    specs = yaml.safe_load((ROOT / "roles" / "orthanc" / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    choices = specs["argument_specs"]["main"]["options"][RULES]["options"]["keep"]["choices"]
    assert sorted(choices) == sorted(word for words in known.values() for word in words)


def test_titles_in_small_letters() -> None:
    """Orthanc takes them for the same, unless it is told otherwise."""
    assert problems(**GOOD | {RULES: [{"from": ["mr1"]}]}) == []
    strict = {"orthanc_settings": {"StrictAetComparison": True}, RULES: [{"from": ["mr1"]}]}
    one_problem(GOOD | strict, RULES, "no entry of orthanc_modalities has the title 'mr1'")


@pytest.mark.parametrize("plugin", ["advanced-storage", "indexer"])
def test_ways_past_the_script(plugin: str) -> None:
    asked = GOOD | {RULES: [{}], "orthanc_plugins": ["dicomweb", "python", plugin]}
    found = [text for text in problems(**asked) if "no script is asked" in text]
    assert len(found) == 1
    assert f"orthanc_plugins: {plugin} takes in files" in found[0]


@pytest.mark.parametrize(
    "rules, told",
    [
        ([], 0),
        ([{}], 0),
        ([{"from": ["MR1"]}, {"dates": "shift"}], 0),
        ([{"when": {"StudyDescription": "*TRIAL*"}}], 1),
        ([{"unless": {"Modality": "US"}}], 1),
        ([{"from": ["MR1"]}], 1),
    ],
)
def test_what_no_entry_fits_is_told(rules: list[dict[str, Any]], told: int) -> None:
    found = [text for text in notices(**GOOD | {RULES: rules}) if text.startswith(f"{RULES}: no entry is for all")]
    assert len(found) == told

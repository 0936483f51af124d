"""Which images the verification makes for the entries of orthanc_ingest, and what it expects of them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from pydicom.uid import UID

from verification.expect import Unexpected
from verification.patient import MARK
from verification.test_ingest import Probe, expect_nobody, expect_tags, for_research, probes, texts


def only(*rules: dict[str, Any]) -> Probe:
    (probe,) = list(probes(list(rules)))
    return probe


@pytest.mark.parametrize(
    "rule, tag, text",
    [
        ({"when": {"Modality": "US"}}, "Modality", "US"),
        ({"when": {"Modality": ["MG", "US"]}}, "Modality", "MG"),
        ({"when": {"StudyDescription": "*HEAD?"}}, "StudyDescription", "HEAD0"),
        ({"when": {"InstitutionName": ""}}, "InstitutionName", ""),
        ({"unless": {"Modality": ["CT", "MR"]}}, "Modality", "OT"),
        ({"unless": {"StationName": "*"}, "when": {"StationName": "x"}}, None, None),
        ({"unless": {"StationName": "?*"}}, "StationName", ""),
        ({"unless": {"PatientName": "Nobody"}}, "Modality", "CT"),
        # Nobody but the disposable patient is sent.
        ({"when": {"PatientID": ""}}, None, None),
        ({"unless": {"PatientID": "*"}}, None, None),
        ({"when": {"PatientID": f"{MARK}*"}}, "Modality", "CT"),
        ({"when": {"Rows": "17"}}, None, None),
        ({"when": {"Rows": "128"}}, "Rows", "128"),
    ],
)
def test_image_is_one_that_the_entry_is_for(rule: dict[str, Any], tag: str | None, text: str | None) -> None:
    found = list(probes([rule | {"refuse": True}]))
    assert len(found) == (tag is not None)
    for probe in found:
        assert probe.refused
        assert str(probe.dataset.PatientID).startswith(MARK)
        assert texts(probe.dataset).get(str(tag), "") == text


def test_entries_follow_each_other() -> None:
    rules: list[dict[str, Any]] = [
        {"when": {"InstitutionName": "Old"}, "set": {"InstitutionName": "New"}, "remove": ["PatientComments"]},
        {"when": {"InstitutionName": "New"}, "refuse": True},
        {"unless": {"Modality": "CT"}, "set": {"StationName": "x"}},
    ]
    old, new, other = probes(rules)
    assert (old.entry, old.refused, old.tags) == (1, True, {})
    assert (new.entry, new.refused) == (2, True)
    assert (other.entry, other.refused, other.tags) == (3, False, {"StationName": "x"})
    del rules[1]
    assert next(probes(rules)).tags == {"InstitutionName": "New", "PatientComments": ""}


def test_texts_are_as_orthanc_has_them() -> None:
    told = texts(only({"when": {"Modality": "CT"}, "refuse": True}).dataset)
    assert told["PatientName"] == "Verification^Disposable"
    assert told["ReferringPhysicianName"] == ""
    assert told["PixelSpacing"] == "0.661468\\0.661468"


def test_nobody_else_gets_an_image() -> None:
    assert not list(probes([{"set": {"PatientID": "4711"}}]))
    assert only({"set": {"PatientID": f"{MARK}-RULE"}}).tags == {"PatientID": f"{MARK}-RULE"}


def test_tags_are_compared() -> None:
    probe = only({"set": {"StationName": "x"}, "remove": ["StudyDescription"]})

    class Archive:
        def __init__(self, **other: Any) -> None:
            self.tags = texts(probe.dataset) | {"StationName": "x", "StudyDescription": None} | other

        def json_at(self, _path: str) -> dict[str, Any]:
            return self.tags

    good: Any = Archive()
    expect_tags(good, "/instances/x", probe)
    for tag, text in (("StationName", "y"), ("StudyDescription", "x"), ("Manufacturer", "")):
        bad: Any = Archive(**{tag: text})
        with pytest.raises(Unexpected, match=f"entry 1 of orthanc_ingest: .*{tag}"):
            expect_tags(bad, "/instances/x", probe)


def test_images_for_research() -> None:
    rules: list[dict[str, Any]] = [
        {"from": ["MR1"]},
        {"when": {"StudyDescription": "*TRIAL"}},
        {"when": {"PatientID": ""}},
    ]
    (probe,) = for_research(rules, [{"when": {"Modality": "US"}, "refuse": True}])
    assert (probe.entry, probe.dataset.StudyDescription, probe.dataset.BurnedInAnnotation) == (2, "TRIAL", "NO")
    assert not list(for_research(rules, [{"when": {"StudyDescription": "TRIAL"}, "refuse": True}]))
    with pytest.raises(Unexpected, match="PatientIdentityRemoved of it: expected 'YES'"):
        expect_nobody(probe.content, probe, "it", "there")
    dataset = probe.dataset
    dataset.PatientIdentityRemoved, dataset.PatientID, dataset.PatientName = "YES", "X", "X"
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    with pytest.raises(Unexpected, match="what is known of the patient in it"):
        expect_nobody(buffer.getvalue(), probe, "it", "there")
    for level in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, level, "1.2.3")
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    expect_nobody(buffer.getvalue(), probe, "it", "there")

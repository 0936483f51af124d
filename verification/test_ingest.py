"""What orthanc_ingest and orthanc_deidentify make of images: one is made for each entry, as it wants them."""

from __future__ import annotations

import importlib.util
import io
import pathlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

from verification.client import Client
from verification.expect import expect
from verification.patient import MARK, PATIENT_NAME, SCRIPT_ID, identifiers, uid
from verification.site import Site
from verification.test_dicom import association, expect_outcome

SEE = "orthanc_ingest; journalctl -u orthanc"
# What an entry may not ask for of an image that has to stay the disposable patient's, and be known again.
FIXED = ("PatientID", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SpecificCharacterSet")
TEXTS = ("AE", "AS", "CS", "DA", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UT")
# PS3.7, C.5: refused, not authorized.
REFUSED = 0x0124


def _tags() -> Any:
    """Load what the role itself asks whether an entry is for an image."""
    file = pathlib.Path(__file__).parents[1] / "roles" / "orthanc" / "files" / "pacs_tags.py"
    spec = importlib.util.spec_from_file_location("pacs_tags", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fits = _tags().fits


@dataclass(frozen=True)
class Probe:
    """An image for an entry, and what has to become of it: refused, or other tags."""

    entry: int
    content: bytes
    refused: bool
    tags: dict[str, str]

    @property
    def dataset(self) -> Dataset:
        return dcmread(io.BytesIO(self.content))


def probes(rules: list[dict[str, Any]]) -> Iterator[Probe]:
    """Make an image for each entry, where the disposable patient may have one that it is for."""
    for number, rule in enumerate(rules, 1):
        dataset = _disposable()
        if not _made_fit(dataset, rule):
            continue
        now = texts(dataset)
        changed: dict[str, str] = {}
        for one in rules:
            if not one.get("refuse") and fits(one, now):
                new = dict.fromkeys(one.get("remove") or [], "") | (one.get("set") or {})
                changed |= new
                now |= new
        refused = any(one.get("refuse") and fits(one, now) for one in rules)
        # Under another number it would not be found again, if this run were killed.
        if refused or str(now["PatientID"]).startswith(MARK):
            yield Probe(number, _content(dataset), refused, {} if refused else changed)


def for_research(rules: list[dict[str, Any]], ingest: list[dict[str, Any]]) -> Iterator[Probe]:
    """Make an image for each entry of orthanc_deidentify that says by tags which images it is for."""
    for number, rule in enumerate(rules, 1):
        dataset = _disposable()
        dataset.BurnedInAnnotation = "NO"
        if rule.get("from") or not _made_fit(dataset, rule):
            continue
        if not any(one.get("refuse") and fits(one, texts(dataset)) for one in ingest):
            yield Probe(number, _content(dataset), False, {})


def _disposable() -> Dataset:
    dataset = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 192", PATIENT_NAME
    dataset.PatientID = SCRIPT_ID
    for level in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, level, uid(f"rule {uuid.uuid4()}"))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _content(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _made_fit(dataset: Dataset, rule: dict[str, Any]) -> bool:
    """Give an image the tags that an entry wants; tell whether it is for it then."""
    when, unless = rule.get("when") or {}, rule.get("unless") or {}
    for tag, wanted in when.items():
        pattern = wanted if isinstance(wanted, str) else wanted[0]
        _give(dataset, tag, pattern.replace("*", "").replace("?", "0"))
    for tag in unless:
        for other in ("OT", ""):
            if tag not in when and not fits(rule, texts(dataset)):
                _give(dataset, tag, other)
    return bool(fits(rule, texts(dataset)))


def _give(dataset: Dataset, tag: str, text: str) -> None:
    if tag not in FIXED and dictionary_VR(tag_for_keyword(tag) or 0x00080060) in TEXTS:
        setattr(dataset, tag, text)


def texts(dataset: Dataset) -> dict[str, str]:
    """Return the tags as Orthanc tells them to a rule."""
    found = {}
    for one in dataset:
        if one.VR not in ("SQ", "OB", "OW", "UN") and one.keyword:
            values = one.value if one.VM > 1 else [one.value] if one.VM else []
            # Numbers as they are written there; a name has bytes for that.
            written = (value if one.VR == "PN" else getattr(value, "original_string", value) for value in values)
            found[one.keyword] = "\\".join(map(str, written))
    return found


@pytest.fixture
def made(site: Site) -> list[Probe]:
    if not site.ingest:
        pytest.skip("orthanc_ingest is empty")
    if any(name.endswith(".py") for name in site.scripts):
        pytest.skip("orthanc_scripts has scripts that may change an image before")
    found = list(probes(site.ingest))
    if not found:
        pytest.skip("the disposable patient has no image for an entry of orthanc_ingest")
    return found


def test_images_become_what_the_entries_say(site: Site, patient: Client, made: list[Probe]) -> None:
    for probe in made:
        what = f"an image for entry {probe.entry} of orthanc_ingest, sent to /instances"
        answer = patient.post("/instances", data=probe.content)
        instance = f"/instances/{answer.json()['ID']}" if answer.ok else ""
        try:
            expect(what, "refused" if probe.refused else "stored", "stored" if instance else "refused", SEE)
            if instance:
                expect_tags(patient, instance, probe)
        finally:
            # It may have the name of another patient now, whom the end of the run does not know.
            if instance:
                patient.delete(instance)


def expect_tags(client: Client, instance: str, probe: Probe) -> None:
    tags = client.json_at(f"{instance}/simplified-tags")
    # What nobody has asked for stays, as far as it is a text.
    sent = texts(probe.dataset)
    expected = {tag: text for tag, text in sent.items() if dictionary_VR(tag_for_keyword(tag) or 0) in TEXTS}
    expected |= probe.tags
    got = {tag: str(tags.get(tag) or "") for tag in expected}
    wrong = {tag: got[tag] for tag in expected if got[tag].strip() != str(expected[tag]).strip()}
    wanted = {tag: expected[tag] for tag in wrong}
    expect(f"tags of an image for entry {probe.entry} of orthanc_ingest", wanted, wrong, SEE)


def test_modalities_are_told_what_is_refused(scp: Site, modality: str, patient: Client, made: list[Probe]) -> None:
    refused = [probe for probe in made if probe.refused]
    if not refused:
        pytest.skip("orthanc_ingest refuses no image of the disposable patient")
    with association(scp, modality, scp.aet, [build_context(CTImageStorage)]) as opened:
        expect_outcome(scp, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        for probe in refused:
            patient.own.update(identifiers(probe.dataset))
            what = f"status of C-STORE as {modality}, entry {probe.entry} of orthanc_ingest"
            expect(what, REFUSED, opened.send_c_store(probe.dataset).get("Status"), SEE)
            found = patient.post("/tools/lookup", data=str(probe.dataset.SOPInstanceUID))
            expect("a refused image is found", [], found.json(), SEE)


def test_images_for_research_have_no_patient(site: Site, patient: Client) -> None:
    found = list(for_research(site.deidentify, site.ingest))
    if not found:
        pytest.skip("the disposable patient has no image for an entry of orthanc_deidentify")
    for probe in found:
        what, see = (
            f"an image for entry {probe.entry} of orthanc_deidentify",
            "orthanc_deidentify; journalctl -u orthanc",
        )
        answer = patient.post("/instances", data=probe.content)
        expect(f"status of {what}", 200, answer.status_code, see)
        instance = f"/instances/{answer.json()['ID']}"
        try:
            expect_nobody(patient.get(f"{instance}/file").content, probe, what, see)
        finally:
            # It is under a pseudonym, which the end of the run does not know.
            patient.delete(instance)


def expect_nobody(file: bytes, probe: Probe, what: str, see: str) -> None:
    stored, sent = dcmread(io.BytesIO(file)), probe.dataset
    expect(f"PatientIdentityRemoved of {what}", "YES", str(stored.get("PatientIdentityRemoved")), see)
    known = [
        SCRIPT_ID,
        *PATIENT_NAME.split("^"),
        *(str(sent[name].value) for name in FIXED if name.endswith("InstanceUID")),
    ]
    expect(f"what is known of the patient in {what}", [], [one for one in known if one.encode() in file], see)

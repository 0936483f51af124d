"""The script that refuses images and sets their tags, with real images."""

from __future__ import annotations

import io
import json
import pathlib
import runpy
import sys
import types
from collections.abc import Callable
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.repository import ROOT

FILES = ROOT / "roles" / "orthanc" / "files"
KEEP, MODIFY, DICOM, HTTP = 1, 2, 1, 2
REFUSED = (MODIFY, b"Refused by orthanc_ingest")
Ingest = Callable[..., tuple[Any, bytes | None]]


class Instance:
    """An image as Orthanc hands it over."""

    def __init__(self, image: bytes) -> None:
        self.dataset = pydicom.dcmread(io.BytesIO(image), stop_before_pixels=True)

    def GetInstanceSimplifiedJson(self) -> str:
        found = {one.keyword: str(one.value) for one in self.dataset if one.VR not in ("SQ", "OB", "OW", "UN")}
        return json.dumps(found | {"LongText": None})


@pytest.fixture
def orthanc(monkeypatch: pytest.MonkeyPatch) -> Any:
    made: Any = types.ModuleType("orthanc")
    made.said = []
    made.ReceivedInstanceAction = types.SimpleNamespace(KEEP_AS_IS=KEEP, MODIFY=MODIFY)
    made.InstanceOrigin = types.SimpleNamespace(DICOM_PROTOCOL=DICOM)
    made.CreateDicomInstance = Instance
    made.RegisterReceivedInstanceCallback = lambda callback: setattr(made, "received", callback)
    made.RegisterIncomingCStoreInstanceFilter = lambda callback: setattr(made, "stored", callback)
    made.LogError = made.LogWarning = made.said.append
    made.stored = None
    monkeypatch.setitem(sys.modules, "orthanc", made)
    monkeypatch.syspath_prepend(str(FILES))
    return made


@pytest.fixture
def run(orthanc: Any) -> Callable[..., Ingest]:
    """Runs the script with some rules, and returns what an image goes through."""

    def made(*rules: dict[str, Any]) -> Ingest:
        orthanc.GetConfiguration = lambda: json.dumps({"PacsIngest": rules})
        runpy.run_path(str(FILES / "pacs_ingest.py"))
        received = orthanc.received
        return lambda image, origin=HTTP: received(image, origin)

    return made


def content(name: str = "CT_small.dcm") -> bytes:
    return pathlib.Path(str(get_testdata_file(name))).read_bytes()


CT, MR = content(), content("MR_small.dcm")


def test_refused(run: Callable[..., Ingest], orthanc: Any) -> None:
    ingest = run({"unless": {"Modality": ["CT", "US"]}, "refuse": True}, {"when": {"PatientID": ""}, "refuse": True})
    assert ingest(CT) == (KEEP, None)
    assert ingest(MR) == REFUSED
    assert "which came by HTTP, is refused" in orthanc.said.pop()
    # By C-STORE it is told to the modality, which keeps it.
    assert ingest(MR, DICOM) == (KEEP, None)
    assert orthanc.stored(Instance(MR)) == 0x0124
    assert "which came by DICOM, is refused" in orthanc.said.pop()
    assert orthanc.stored(Instance(CT)) == 0
    assert orthanc.said == []


def test_set_and_removed(run: Callable[..., Ingest]) -> None:
    ingest = run(
        {"when": {"InstitutionName": "JFK*"}, "set": {"InstitutionName": "Other", "PatientComments": "a\\b"}},
        {"when": {"InstitutionName": "Other"}, "remove": ["StudyDescription", "AccessionNumber"]},
        {"when": {"Modality": "MR"}, "set": {"PatientName": "Nobody"}},
    )
    action, changed = ingest(CT)
    assert action == MODIFY
    assert changed
    was, now = (pydicom.dcmread(io.BytesIO(one)) for one in (CT, changed))
    assert (now.InstitutionName, now.PatientComments) == ("Other", "a\\b")
    assert "StudyDescription" not in now
    assert "AccessionNumber" not in now
    assert now.PatientName == was.PatientName
    for one in (was, now):
        for tag in ("InstitutionName", "PatientComments", "StudyDescription", "AccessionNumber"):
            if tag in one:
                delattr(one, tag)
    assert was == now
    assert was.file_meta == now.file_meta
    assert ingest(b"".join((CT[:128], CT[128:])))[0] == MODIFY
    assert run({"when": {"Modality": "US"}, "set": {"PatientName": "Nobody"}})(CT) == (KEEP, None)


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "image_dfl.dcm",
        "JPEG2000.dcm",
        "MR_small_RLE.dcm",
        "examples_ybr_color.dcm",
        "rtplan.dcm",
        "reportsi.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_the_rest_is_as_it_was(run: Callable[..., Ingest], name: str) -> None:
    image = content(name)
    action, changed = run({"set": {"InstitutionName": "Other"}})(image)
    assert action == MODIFY
    assert changed
    was, now = (pydicom.dcmread(io.BytesIO(one)) for one in (image, changed))
    assert now.InstitutionName == "Other"
    was.InstitutionName = "Other"
    assert was == now
    assert was.file_meta.TransferSyntaxUID == now.file_meta.TransferSyntaxUID


def test_letters_that_the_character_set_has_not(run: Callable[..., Ingest], orthanc: Any) -> None:
    ingest = run(
        {"set": {"InstitutionName": "Klinik S\u00fcd"}}, {"when": {"InstitutionName": "Klinik*"}, "refuse": True}
    )
    assert ingest(MR) == (KEEP, None), "an image that could not be changed is judged as it is"
    assert "stays as it is" in orthanc.said.pop()
    for charset in ("ISO_IR 100", "ISO_IR 192"):
        dataset = pydicom.dcmread(io.BytesIO(MR))
        dataset.SpecificCharacterSet = charset
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        assert ingest(buffer.getvalue()) == REFUSED
        action, changed = run({"set": {"InstitutionName": "Klinik S\u00fcd"}})(buffer.getvalue())
        assert action == MODIFY
        assert changed
        assert pydicom.dcmread(io.BytesIO(changed)).InstitutionName == "Klinik S\u00fcd"


@pytest.mark.parametrize(
    "charset, text, fits",
    [
        ("ISO_IR 13", "\u75c5\u9662", False),
        ("\\ISO 2022 IR 87", "\u75c5\u9662", True),
        ("ISO_IR 144", "\u0416", True),
        ("ISO_IR 100", "\u0416", False),
    ],
)
def test_no_question_marks_are_written(run: Callable[..., Ingest], charset: str, text: str, fits: bool) -> None:
    dataset = pydicom.dcmread(io.BytesIO(MR))
    dataset.SpecificCharacterSet = charset.split("\\")
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    action, changed = run({"set": {"InstitutionName": text}})(buffer.getvalue())
    assert action == (MODIFY if fits else KEEP)
    assert not changed or pydicom.dcmread(io.BytesIO(changed)).InstitutionName == text


def test_refusals_alone_read_an_image_once(run: Callable[..., Ingest], orthanc: Any) -> None:
    ingest = run({"when": {"Modality": "US"}, "refuse": True})
    orthanc.CreateDicomInstance = None
    assert ingest(CT, DICOM) == (KEEP, None)


def test_what_cannot_be_read_stays_as_it_is(run: Callable[..., Ingest], orthanc: Any) -> None:
    ingest = run({"set": {"InstitutionName": "Other"}})
    orthanc.CreateDicomInstance = lambda _image: Instance(CT)
    assert ingest(b"no DICOM at all") == (KEEP, None)
    assert "InvalidDicomError" in orthanc.said.pop()


def test_without_changes_no_library_is_needed(run: Callable[..., Ingest], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom.charset", None)
    run({"when": {"Modality": "US"}, "refuse": True})
    with pytest.raises(ImportError):
        run({"set": {"InstitutionName": "Other"}})


def test_without_refusals_no_filter_is_registered(run: Callable[..., Ingest], orthanc: Any) -> None:
    run({"set": {"InstitutionName": "Other"}})
    assert orthanc.stored is None

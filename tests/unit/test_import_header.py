"""Identifiers of images: read as pydicom reads them, out of real files and out of generated ones."""

from __future__ import annotations

import contextlib
import io
import pathlib
import struct
import zlib
from typing import Any

import pydicom
import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import header
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

FILES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
FIELDS = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "instance": "SOPInstanceUID",
    "modality": "Modality",
    "date": "StudyDate",
}
# What pydicom reads all the same: types that the transfer syntax says are there and are not.
LIARS = {"SC_rgb_jpeg.dcm"}
UIDS = st.from_regex(r"[12](\.[1-9][0-9]{0,8}){1,6}", fullmatch=True)
PLAIN = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\"), max_size=16)


def files() -> list[pathlib.Path]:
    found = [path for path in sorted(FILES.rglob("*")) if path.is_file() and path.name not in LIARS]
    return [path for path in found if header.is_dicom(path.read_bytes()[:1024])]


def written(syntax: str, **values: Any) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.3")
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID = CTImageStorage
    for name, value in values.items():
        setattr(made, name, value)
    buffer = io.BytesIO()
    kind = pydicom.uid.UID(syntax)
    pydicom.dcmwrite(
        buffer,
        made,
        implicit_vr=kind.is_implicit_VR,
        little_endian=kind.is_little_endian,
        enforce_file_format=True,
    )
    return buffer.getvalue()


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_real_file_is_read_as_by_pydicom(path: pathlib.Path) -> None:
    expected = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    values = {name: str(expected.get(keyword) or "").rstrip() for name, keyword in FIELDS.items()}
    try:
        found = header.read(path.read_bytes())
    except header.Broken:
        assert not values["series"], "pydicom reads it"
        return
    if not found.directory:
        assert {name: getattr(found, name) for name in FIELDS} == values
    assert found.directory == ("DirectoryRecordSequence" in expected)


def test_enough_real_files() -> None:
    assert len(files()) > 150


@pytest.mark.parametrize("path", sorted(FILES.rglob("DICOMDIR*")), ids=lambda path: path.name)
def test_files_of_a_dicomdir(path: pathlib.Path) -> None:
    if path.is_dir():
        pytest.skip("a folder of that name")
    records = pydicom.dcmread(path).DirectoryRecordSequence or []
    expected = [record.ReferencedFileID for record in records if "ReferencedFileID" in record]
    joined = [name if isinstance(name, str) else "/".join(name) for name in expected]
    assert [name.decode() for name in header.referenced(path.read_bytes())] == joined


@settings(max_examples=50)
@given(
    syntax=st.sampled_from(
        [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
    ),
    patient=PLAIN,
    uids=st.tuples(UIDS, UIDS, UIDS),
    nested=st.booleans(),
    depth=st.integers(0, 4),
)
def test_generated_file(syntax: str, patient: str, uids: tuple[str, str, str], nested: bool, depth: int) -> None:
    """Sequences before the identifiers, of known and unknown length, hide identifiers of others."""
    inside = Dataset()
    for _ in range(depth):
        outside = Dataset()
        inside.SOPInstanceUID = "9.9.9"
        outside.ReferencedImageSequence = Sequence([inside, Dataset()])
        outside["ReferencedImageSequence"].is_undefined_length = nested
        inside.is_undefined_length_sequence_item = nested
        inside = outside
    sequence = Sequence([inside])
    data = written(
        syntax,
        PatientID=patient,
        StudyInstanceUID=uids[0],
        SeriesInstanceUID=uids[1],
        SOPInstanceUID=uids[2],
        Modality="CT",
        SourceImageSequence=sequence,
    )
    found = header.read(data)
    assert (found.patient, found.study, found.series, found.instance) == (patient, *uids)
    assert found.complete
    assert not found.directory


@pytest.mark.parametrize(
    "patient, charset, exact",
    [("A1", None, True), ("", None, True), ("é", "ISO_IR 100", False), ("患者", "ISO_IR 192", False)],
)
def test_identifier_that_orthanc_may_read_otherwise_is_not_exact(patient: str, charset: str, exact: bool) -> None:
    more = {"SpecificCharacterSet": charset} if charset else {}
    uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "SOPInstanceUID": "1.4"}
    found = header.read(written(ExplicitVRLittleEndian, PatientID=patient, **uids, **more))
    assert (found.patient, found.exact, found.complete) == (patient, exact, exact)


def test_identifier_of_unknown_type_is_not_exact() -> None:
    assert not header.read((FILES / "rtdose_rle.dcm").read_bytes()).exact
    assert header.read((FILES / "rtdose.dcm").read_bytes()).exact


def test_orthanc_identifiers() -> None:
    """As Orthanc 1.12.7 has given them to this file."""
    found = header.read((FILES / "CT_small.dcm").read_bytes())
    assert found.orthanc_id(3) == "f689ddd2-662f8fe1-8b18180d-ec2a2cee-937917af"
    assert found.orthanc_id(2) == "93034833-163e42c3-bc9a428b-194620cf-2c5799e5"
    assert len({found.orthanc_id(level) for level in range(4)}) == 4


@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for prefix in (b"", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM\x02\0\0\0UL\x04\0"):
        header.is_dicom(prefix + data)
        for read in (header.read, header.referenced):
            with contextlib.suppress(header.Broken):
                read(prefix + data)


@given(place=st.integers(0, 39205), flipped=st.integers(1, 255))
def test_any_flipped_byte_is_read_or_refused(place: int, flipped: int) -> None:
    data = bytearray((FILES / "CT_small.dcm").read_bytes())
    data[place] ^= flipped
    with contextlib.suppress(header.Broken):
        header.read(bytes(data))


def test_another_patient() -> None:
    whole = (FILES / "CT_small.dcm").read_bytes()
    made = header.with_patient(whole, "A longer one")
    assert pydicom.dcmread(io.BytesIO(made)).PatientID == header.read(made).patient == "A longer one"
    assert header.with_patient(made, header.read(whole).patient) == whole
    place = whole.index(header.read(whole).patient.encode())
    for cut in range(place - 9, place + len(header.read(whole).patient)):
        with pytest.raises(header.Broken):
            header.with_patient(whole[:cut], "x")


@pytest.mark.parametrize("order, explicit", [("<", True), ("<", False), (">", True)])
def test_another_patient_where_the_group_has_a_length(order: str, explicit: bool) -> None:
    def element(number: int, kind: bytes, value: bytes) -> bytes:
        size = kind + struct.pack(order + "H", len(value)) if explicit else struct.pack(order + "I", len(value))
        return struct.pack(order + "HH", 0x0010, number) + size + value

    def group(patient: bytes) -> bytes:
        inside = element(0x0010, b"PN", b"A^B ") + element(0x0020, b"LO", patient)
        return element(0, b"UL", struct.pack(order + "I", len(inside))) + inside

    syntax = {("<", True): b"1.2.840.10008.1.2.1\0", ("<", False): b"1.2.840.10008.1.2\0", (">", True): b""}
    syntax[">", True] = b"1.2.840.10008.1.2.2\0"
    meta = b"\0" * 128 + b"DICM\x02\0\x10\0UI" + struct.pack("<H", len(syntax[order, explicit]))
    meta += syntax[order, explicit]
    assert header.with_patient(meta + group(b"P1"), "A longer") == meta + group(b"A longer")
    assert header.with_patient(meta + group(b"A longer"), "P1") == meta + group(b"P1")


@pytest.mark.parametrize("length", [0, 1, 132, 140, 200, 400])
def test_beginning_of_a_file_is_broken(length: int) -> None:
    with pytest.raises(header.Broken, match="ends"):
        header.read((FILES / "CT_small.dcm").read_bytes()[:length])


def test_sequences_in_one_another_without_end_are_refused() -> None:
    deep = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    with pytest.raises(header.Broken, match="without end"):
        header.read(deep)


def test_deflated_file_is_not_inflated_as_a_whole() -> None:
    bomb = zlib.compressobj(9, wbits=-15)
    body = bomb.compress(b"\0" * (64 << 20)) + bomb.flush()
    meta = b"\x02\0\x10\0UI\x16\0" + b"1.2.840.10008.1.2.1.99"
    with pytest.raises(header.Broken):
        header.read(b"\0" * 128 + b"DICM" + meta + body)


@pytest.mark.parametrize("data", [b"", b"\x08\0", b"PK\x03\x04" * 40, b"<html>" * 40, b"\0" * 600, b"\xff" * 600])
def test_other_files_are_no_dicom(data: bytes) -> None:
    assert not header.is_dicom(data)


@pytest.mark.parametrize("name", ["ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm"])
def test_file_without_preamble_is_dicom(name: str) -> None:
    assert header.is_dicom((FILES / name).read_bytes())


def hidden(kind: str, private: bool, length: bool) -> Dataset:
    """Return an item of a sequence with an element of some type, and pixels before it."""
    made = Dataset()
    made.is_undefined_length_sequence_item = not length
    made.PixelData = bytes(8)
    made["PixelData"].VR = "OW"
    made.add_new(0x7FE11001 if private else 0x7FE00100, kind, b"4711")
    return made


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("kind, private, told", [("UN", False, ["7fe0,0100"]), ("UN", True, []), ("OB", False, [])])
def test_public_element_of_unknown_type_is_found(kind: str, private: bool, length: bool, told: list[str]) -> None:
    """At any depth, however the sequences before it are written, and not in an image that does not tell types."""
    outer = Dataset()
    outer.IconImageSequence = Sequence([Dataset(), hidden(kind, private, length)])
    outer["IconImageSequence"].is_undefined_length = not length
    for syntax in (ExplicitVRLittleEndian, ExplicitVRBigEndian):
        data = written(syntax, ReferencedImageSequence=Sequence([outer]))
        assert list(header.unknown(data)) == told
        assert list(header.unknown(data[:-1])) == told
    assert not list(header.unknown(written(ImplicitVRLittleEndian, ReferencedImageSequence=Sequence([outer]))))


def test_real_files_are_looked_through_to_their_end() -> None:
    """As those are whose pixels are compressed."""
    last = b"\xfc\xff\xfe\xffUN\0\0\2\0\0\0xx"
    for name in ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "SC_rgb_rle_2frame.dcm"):
        data = (FILES / name).read_bytes()
        assert not list(header.unknown(data))
        assert list(header.unknown(data + last)) == ["fffc,fffe"]

"""The disposable patient: real images from pydicom's own collection under a marked name."""

from __future__ import annotations

import functools
import hashlib
import io
import uuid
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG4HP41,
    UID,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    VideoEndoscopicImageStorage,
)

# With what every patient of this suite begins, and the UID root under which its images are.
MARK = "PACS-VERIFICATION"
ROOT = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, MARK).int}"
PATIENT_ID = MARK
# Of images by which scripts are tested. Their name is that of a file of the inventory, or what a script makes of it.
SCRIPT_ID = f"{MARK}-SCRIPT"
PATIENT_NAME = "Verification^Disposable"
# What anonymised and modified copies bear.
COPY_ID = f"{MARK}-COPY"
COPY_NAME = "Verification^Copy"


def orthanc_id(*parts: str) -> str:
    """Return Orthanc's identifier of a resource, by its definition.

    It is the SHA-1 of the DICOM identifiers from the patient down, joined by ``|`` and written as
    five groups of eight hexadecimal digits.
    """
    digest = hashlib.sha1("|".join(parts).encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def identifiers(dataset: Dataset) -> list[str]:
    """Return Orthanc's identifiers of an image: patient, study, series, instance."""
    keys = [dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID]
    return [orthanc_id(*keys[: level + 1]) for level in range(4)]


def uid(name: str) -> UID:
    """Return the same UID for the same name in every run, so that leftovers are recognised."""
    return UID(f"{ROOT}.{uuid.uuid5(uuid.NAMESPACE_OID, f'{PATIENT_ID} {name}').int % 10**17}")


@dataclass(frozen=True, repr=False)
class Image:
    """One DICOM file of the disposable patient."""

    dataset: Dataset
    content: bytes

    @property
    def patient(self) -> str:
        return identifiers(self.dataset)[0]

    @property
    def study(self) -> str:
        return identifiers(self.dataset)[1]

    @property
    def series(self) -> str:
        return identifiers(self.dataset)[2]

    @property
    def instance(self) -> str:
        return identifiers(self.dataset)[3]

    @property
    def syntax(self) -> UID:
        """The transfer syntax of the file."""
        return UID(self.dataset.file_meta.TransferSyntaxUID)


def image(
    source: str | Dataset,
    study: str,
    number: int = 1,
    repeat: int = 1,
    change: Callable[[Dataset], None] = lambda dataset: None,
) -> Image:
    """Make an image out of one that comes with pydicom, or of one that is made here.

    :param source: its name there, such as ``CT_small.dcm``, or what it is made of.
    :param study: a name for the study; the series is its only one.
    :param number: the number of the image in the series.
    :param repeat: how many copies of the picture stand below each other, for a bigger file.
    :param change: what else to do to it.
    """
    dataset = source if isinstance(source, Dataset) else dcmread(str(get_testdata_file(source, download=False)))
    dataset.PatientID, dataset.PatientName = PATIENT_ID, PATIENT_NAME
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(study), uid(f"{study} series")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(f"{study} {number}")
    dataset.StudyDescription, dataset.InstanceNumber = f"Verification: {study}", number
    if repeat > 1:
        dataset.Rows *= repeat
        dataset.PixelData *= repeat
    change(dataset)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return Image(dataset, buffer.getvalue())


def _made(storage: UID, syntax: UID, modality: str) -> Dataset:
    """Begin an image that no file is at hand for."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = storage
    dataset.Modality, dataset.SeriesNumber = modality, 1
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200102", "030405", "1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "", ""
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    return dataset


def _slice(number: int) -> Image:
    """Make a slice of a CT series, each one a millimetre above the one before."""

    def place(dataset: Dataset) -> None:
        dataset.StudyDate, dataset.AccessionNumber = "20180324", "VERIFY-0815"
        dataset.DeviceSerialNumber, dataset.StudyDescription = "VERIFY-4711", "Verification: Chest series"
        dataset.ImagePositionPatient, dataset.SliceThickness = [0, 0, number], 1
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.SliceLocation, dataset.InstitutionName = number, "Verification Institute"
        dataset.OtherPatientIDs, dataset.PatientBirthDate = "VERIFY-OTHER-ID", "19010203"
        code = Dataset()
        code.CodeMeaning, code.CodeValue, code.CodingSchemeDesignator = "supine", "F-10340", "99SDM"
        position = Dataset()
        position.CodeMeaning, position.CodeValue, position.CodingSchemeDesignator = "recumbent", "F-10450", "99SDM"
        position.PatientOrientationModifierCodeSequence = [code]
        dataset.PatientOrientationCodeSequence = [position]
        block = dataset.private_block(0x0099, "PACS VERIFICATION", create=True)
        block.add_new(0x01, "LO", "a private value")

    return image("CT_small.dcm", "series", number, change=place)


def _named(language: str, charset: str | Sequence[str], name: str) -> Image:
    """Make an image of a patient whose name is not in Latin letters."""

    def rename(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = charset
        dataset.PatientID, dataset.PatientName = f"{MARK}-{language.upper()}", name

    return image("MR_small.dcm", language, change=rename)


PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
)
# The head of an MP4 file and a piece of media: a server stores a video without looking into it.
VIDEO = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + b"\x00\x00\x04\x08mdat" + bytes(range(256)) * 4


def _pdf() -> Image:
    dataset = _made(EncapsulatedPDFStorage, ExplicitVRLittleEndian, "DOC")
    dataset.MIMETypeOfEncapsulatedDocument, dataset.DocumentTitle = "application/pdf", "Verification"
    dataset.EncapsulatedDocument = PDF + b"\0" * (len(PDF) % 2)
    return image(dataset, "pdf")


def _video() -> Image:
    dataset = _made(VideoEndoscopicImageStorage, MPEG4HP41, "ES")
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 1080, 1920, 1
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 3, 0, "YBR_PARTIAL_420"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = encapsulate([VIDEO], has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    return image(dataset, "video")


def zipped(images: Sequence[Image]) -> bytes:
    """Put images into a ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, one in enumerate(images):
            archive.writestr(f"{number}.dcm", one.content)
    return buffer.getvalue()


CT = image("CT_small.dcm", "upload")
ZIPPED = [image("MR_small.dcm", "archive", number) for number in (1, 2)]
BIG = image("CT_small.dcm", "big", repeat=90)
DELETED = image("MR_small.dcm", "deleted")
# Of another patient, who may be deleted without the first one.
OTHER = _named("other", "ISO_IR 100", PATIENT_NAME)
STOWED = image("CT_small.dcm", "dicomweb")
SENT = image("MR_small.dcm", "modality")
LENT = image("MR_small.dcm", "lent")
TOGETHER = [image("MR_small.dcm", "together", number) for number in range(32)]
SERIES = [_slice(number) for number in (1, 2, 3)]
DOCUMENT = _pdf()
FILM = _video()
NAMED = {
    "chinese": _named("chinese", "GB18030", "Wang^XiaoDong=王^小东"),
    "japanese": _named("japanese", ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "arabic": _named("arabic", "ISO_IR 127", "قباني^لنزار"),
    "unicode": _named("unicode", "ISO_IR 192", "Müller^Łukasz=王^小東"),
}
NAMES = {PATIENT_NAME, COPY_NAME, *(str(image.dataset.PatientName) for image in NAMED.values())}


@functools.cache
def transfer_syntaxes() -> dict[str, Image]:
    """Return real images of many kinds, by what is special about each."""
    files = {
        "CT, explicit little endian": "CT_small.dcm",
        "MR, implicit little endian": "MR_small_implicit.dcm",
        "MR, explicit big endian": "MR_small_bigendian.dcm",
        "MR, RLE": "MR_small_RLE.dcm",
        "MR, JPEG-LS": "MR_small_jpeg_ls_lossless.dcm",
        "MR, JPEG 2000": "MR_small_jp2klossless.dcm",
        "Colour, JPEG": "SC_rgb_jpeg_dcmtk.dcm",
        "Colour, lossless JPEG": "SC_rgb_jpeg_gdcm.dcm",
        "Colour, two frames, RLE": "SC_rgb_rle_2frame.dcm",
        "Colour, palette": "examples_palette.dcm",
        "Colour, 30 frames, JPEG": "examples_ybr_color.dcm",
        "12 bits, JPEG": "JPEG-lossy.dcm",
        "Deflated": "image_dfl.dcm",
        "Segmentation, one bit": "liver_1frame.dcm",
        "Dose, 15 frames": "rtdose.dcm",
        "Treatment plan": "rtplan.dcm",
        "Structured report": "test-SR.dcm",
        "Electrocardiogram": "waveform_ecg.dcm",
    }
    return {
        **{name: image(file, f"transfer syntax {file}") for name, file in files.items()},
        "Encapsulated PDF": DOCUMENT,
        "Video": FILM,
    }

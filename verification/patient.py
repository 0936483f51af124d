"""The disposable patient: real images from pydicom's own collection under a marked name."""

from __future__ import annotations

import hashlib
import io
import uuid
from dataclasses import dataclass

from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import UID

PATIENT_ID = "PACS-VERIFICATION"
PATIENT_NAME = "Verification^Disposable"


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
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{PATIENT_ID} {name}').int}")


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


def image(file: str, study: str, number: int = 1, repeat: int = 1) -> Image:
    """Make an image out of one that comes with pydicom.

    :param file: its name there, such as ``CT_small.dcm``.
    :param study: a name for the study; the series is its only one.
    :param number: the number of the image in the series.
    :param repeat: how many copies of the picture stand below each other, for a bigger file.
    """
    dataset = dcmread(str(get_testdata_file(file, download=False)))
    dataset.PatientID, dataset.PatientName = PATIENT_ID, PATIENT_NAME
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(study), uid(f"{study} series")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(f"{study} {number}")
    dataset.StudyDescription, dataset.InstanceNumber = f"Verification: {study}", number
    if repeat > 1:
        dataset.Rows *= repeat
        dataset.PixelData *= repeat
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return Image(dataset, buffer.getvalue())


CT = image("CT_small.dcm", "upload")
ZIPPED = [image("MR_small.dcm", "archive", number) for number in (1, 2)]
BIG = image("CT_small.dcm", "big", repeat=90)
DELETED = image("MR_small.dcm", "deleted")
STOWED = image("CT_small.dcm", "dicomweb")
SENT = image("MR_small.dcm", "modality")
TOGETHER = [image("MR_small.dcm", "together", number) for number in range(32)]

"""What the load is made of: a CT slice, and requests by DICOM's own protocol, as bytes that the host fills in.

The numbers of patient, study, series and instance stand in them at a fixed width, so that benchmarks/load.py
makes any number of valid files out of one, without a library and in no time.
"""

from __future__ import annotations

import io
import random
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dimse_messages import C_FIND_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_FIND, C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.pdu import A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from benchmarks.load import FIRST, PATIENT, SERIES, STUDY, UID

CALLING, CALLED = "BENCH", "ORTHANC"


def ct_slice(side: int) -> bytes:
    """Make a CT slice with as many rows and columns of two bytes each."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"{UID}{FIRST}"  # type: ignore[assignment]
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID = f"{STUDY}{FIRST}", f"{SERIES}{FIRST}"
    made.PatientID, made.PatientName, made.PatientBirthDate = f"{PATIENT}{FIRST}", "Bench^Mark", "19700101"
    made.PatientSex, made.StudyDate, made.StudyTime, made.StudyID = "O", "20260105", "120000", "1"
    made.AccessionNumber, made.ReferringPhysicianName = f"{PATIENT}{FIRST}", "Referrer^One"
    made.StudyDescription, made.SeriesDescription = "CT of the chest", "Axial, 1 mm"
    made.Modality, made.Manufacturer, made.InstitutionName = "CT", "Bench", "Bench hospital"
    made.SeriesNumber, made.InstanceNumber, made.FrameOfReferenceUID = 1, 1, f"{STUDY}{FIRST}.1"
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing, made.SliceThickness, made.RescaleSlope, made.RescaleIntercept = [1, 1], 1, 1, -1024
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = side, side, 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    # Noise, of which nothing can be compressed; the upper four bits are not used.
    pixels = random.Random(1).randbytes(2 * side * side)
    made.PixelData = bytes(byte & 0x0F if place % 2 else byte for place, byte in enumerate(pixels))
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def association(
    calling: str = CALLING,
    wanted: str = StudyRootQueryRetrieveInformationModelFind,
    syntax: str = ImplicitVRLittleEndian,
) -> bytes:
    """Make the request by which an association begins, for queries if nothing else is said."""
    asked = A_ASSOCIATE()
    asked.application_context_name = "1.2.840.10008.3.1.1.1"
    asked.calling_ae_title, asked.called_ae_title = calling, CALLED
    context = build_context(wanted, syntax)
    context.context_id = 1
    asked.presentation_context_definition_list = [context]
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16384
    implementation.implementation_class_uid = f"{STUDY}1"
    asked.user_information = [length, implementation]
    return A_ASSOCIATE_RQ(asked).encode()


def query() -> bytes:
    """Make the request that finds the studies of a patient, for an association that stands."""
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.PatientID = "STUDY", f"{PATIENT}{FIRST}"
    wanted.PatientName = wanted.StudyDate = wanted.StudyInstanceUID = wanted.NumberOfStudyRelatedInstances = None
    asked = C_FIND()
    asked.MessageID, asked.Priority = 1, 2
    asked.AffectedSOPClassUID = StudyRootQueryRetrieveInformationModelFind
    asked.Identifier = io.BytesIO(encode(wanted, is_implicit_vr=True, is_little_endian=True) or b"")
    return _request(C_FIND_RQ(), asked)


def store(image: bytes) -> bytes:
    """Make the request that stores an image, for an association in the image's own syntax."""
    meta = dcmread(io.BytesIO(image), stop_before_pixels=True).file_meta
    asked = C_STORE()
    asked.MessageID, asked.Priority = 1, 2
    asked.AffectedSOPClassUID = meta.MediaStorageSOPClassUID
    asked.AffectedSOPInstanceUID = meta.MediaStorageSOPInstanceUID
    # After the preamble, its mark, and the meta information, whose length stands first in it.
    asked.DataSet = io.BytesIO(image[144 + meta.FileMetaInformationGroupLength :])
    return _request(C_STORE_RQ(), asked)


def _request(message: Any, asked: Any) -> bytes:
    message.primitive_to_message(asked)
    return b"".join(P_DATA_TF(part).encode() for part in message.encode_msg(1, 16384))

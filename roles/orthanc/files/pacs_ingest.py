"""Sets tags of images as they come, and refuses some, as orthanc_ingest says.

Whoever sends such an image is told so, and keeps it. What goes wrong here is in the log, and the
image is stored as it came, or stays with its sender.
"""

import io
import json
import threading
from typing import Any

import orthanc
from pacs_tags import STORING, fits

RULES = json.loads(orthanc.GetConfiguration())["PacsIngest"]
CHANGES = [rule for rule in RULES if not rule.get("refuse")]
REFUSALS = [rule for rule in RULES if rule.get("refuse")]
# PS3.7, C.5: refused, not authorized.
REFUSED = 0x0124

if CHANGES:
    # Where it is missing, Orthanc does not start, which the trial tells.
    import pydicom
    import pydicom.charset
    import pydicom.uid


def tags_of(dicom: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dicom.GetInstanceSimplifiedJson())
    return found


def refused(tags: dict[str, Any], by: str) -> bool:
    """Tell whether an image is refused, and say so in the log."""
    if not any(fits(rule, tags) for rule in REFUSALS):
        return False
    orthanc.LogWarning(f"orthanc_ingest: image {tags.get('SOPInstanceUID')}, which came by {by}, is refused")
    return True


def coerced(image: bytes, tags: dict[str, str | None]) -> bytes:
    """Return an image with other tags, its pixels as they came.

    :param tags: by their keywords; nothing for one that has to go.
    :raises ValueError: if the image's character set has not the letters of a text.
    """
    opened = io.BytesIO(image)
    dataset = pydicom.dcmread(opened, stop_before_pixels=True)
    rest = memoryview(image)[opened.tell() :]
    if dataset.file_meta.TransferSyntaxUID == pydicom.uid.DeflatedExplicitVRLittleEndian:
        dataset, rest = pydicom.dcmread(io.BytesIO(image)), memoryview(b"")
    encodings = pydicom.charset.convert_encodings(dataset.get("SpecificCharacterSet") or "ISO_IR 6")
    for tag, value in tags.items():
        if value is not None:
            # What nobody declares is ASCII. For letters that it has not, pydicom would write question marks.
            written = pydicom.charset.encode_string(value, encodings)
            undeclared = encodings == [pydicom.charset.default_encoding]
            if (undeclared and not value.isascii()) or (
                pydicom.charset.decode_bytes(written, encodings, set()) != value
            ):
                raise ValueError(f"its character set has not the letters of {tag}")
            setattr(dataset, tag, value)
        elif tag in dataset:
            delattr(dataset, tag)
    header = io.BytesIO()
    dataset.save_as(header)
    return b"".join((header.getvalue(), rest))


def received(image: bytes, origin: Any) -> tuple[Any, bytes | None]:
    seen = threading.get_ident() in STORING
    if seen or (not CHANGES and origin == orthanc.InstanceOrigin.DICOM_PROTOCOL):
        return orthanc.ReceivedInstanceAction.KEEP_AS_IS, None
    tags = tags_of(orthanc.CreateDicomInstance(image))
    changed, wanted = dict(tags), {}
    for rule in CHANGES:
        if fits(rule, changed):
            new = dict.fromkeys(rule.get("remove") or []) | (rule.get("set") or {})
            wanted |= new
            changed |= new
    done = None
    if wanted:
        try:
            done, tags = coerced(image, wanted), changed
        except Exception as error:
            orthanc.LogError(f"orthanc_ingest: image {tags.get('SOPInstanceUID')} stays as it is: {error!r}")
    # What comes by DICOM is refused by a status, below. Of what is discarded, DICOMweb says that it was stored; so it
    # becomes something that Orthanc refuses by itself.
    if origin != orthanc.InstanceOrigin.DICOM_PROTOCOL and refused(tags, "HTTP"):
        return orthanc.ReceivedInstanceAction.MODIFY, b"Refused by orthanc_ingest"
    if done is None:
        return orthanc.ReceivedInstanceAction.KEEP_AS_IS, None
    return orthanc.ReceivedInstanceAction.MODIFY, done


def stored(dicom: Any) -> int:
    return REFUSED if refused(tags_of(dicom), "DICOM") else 0


orthanc.RegisterReceivedInstanceCallback(received)
if REFUSALS:
    orthanc.RegisterIncomingCStoreInstanceFilter(stored)

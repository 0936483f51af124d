"""In which transfer syntax Orthanc keeps an image: as it came, unless ``IngestTranscoding`` says another one."""

from __future__ import annotations

from typing import Any

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from verification.patient import Image

# Where pixels stand in the file as they are.
PLAIN = {ImplicitVRLittleEndian, ExplicitVRLittleEndian}
UNCOMPRESSED = PLAIN | {ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
# Orthanc's own codecs write these; JPEG 2000 is read and written by the plugin gdcm alone.
OWN = {JPEGLossless, JPEGLosslessSV1, JPEGLSLossless}
# Others lose details and so give images other UIDs, or depend on the release.
KNOWN = UNCOMPRESSED | OWN | {JPEG2000Lossless}


def kept_syntax(image: Image, options: dict[str, Any], gdcm: bool) -> UID:
    """Tell in which transfer syntax an image that was sent is kept.

    Seen alike with Orthanc 1.10.1 and 1.12.7. What cannot be transcoded is kept as it came.

    :param options: of the running Orthanc; what it is not told is missing or None.
    :param gdcm: whether that plugin is loaded.
    """
    dataset, came, wanted = image.dataset, image.syntax, UID(options.get("IngestTranscoding") or "")
    part = "IngestTranscodingOfUncompressed" if came in UNCOMPRESSED else "IngestTranscodingOfCompressed"
    if not wanted or options.get(part) is False or came.name.startswith("MPEG"):
        return came
    if came.name.startswith("JPEG 2000") and not gdcm:
        return came
    pixels = int(dataset.BitsAllocated) if "PixelData" in dataset else 0
    able = (
        wanted in UNCOMPRESSED
        or (wanted in OWN and pixels in (0, 8, 16))
        or (wanted == JPEG2000Lossless and gdcm and pixels in (8, 16, 32))
    )
    return wanted if able else came

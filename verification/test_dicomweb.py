"""DICOMweb through the proxy: QIDO-RS, WADO-RS and STOW-RS, with links that the public can follow."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from dicomweb_client.api import DICOMwebClient
from PIL import Image as Picture
from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian

from verification.actions import expect_array, unwritable
from verification.client import Client
from verification.expect import expect
from verification.patient import CT, MARK, NAMED, PATIENT_ID, STOWED, Image, uid
from verification.site import Site
from verification.transcoding import PLAIN
from verification.versions import lacking

STUDY, SERIES = str(CT.dataset.StudyInstanceUID), str(CT.dataset.SeriesInstanceUID)
INSTANCE = str(CT.dataset.SOPInstanceUID)
PUBLIC = "nginx_server_name, nginx_https_port, nginx_prefix"


@pytest.fixture(scope="session")
def root(public: Site) -> str:
    """The public URL of DICOMweb."""
    if "dicomweb" not in public.plugins:
        pytest.skip("orthanc_plugins does not have dicomweb")
    return f"{public.url}dicom-web"


@pytest.fixture(scope="session")
def dicomweb(root: str, patient: Client) -> DICOMwebClient:
    """A DICOMweb client that shares the session of the guarded one."""
    return DICOMwebClient(root, session=patient)


def values(found: dict[str, Any], tag: str) -> list[Any]:
    """Return the values of a tag in DICOM JSON."""
    return list(found.get(tag, {}).get("Value", []))


def test_qido_finds_the_study(dicomweb: DICOMwebClient, root: str) -> None:
    found = dicomweb.search_for_studies(search_filters={"PatientID": PATIENT_ID, "StudyInstanceUID": STUDY})
    expect("QIDO-RS studies", [[STUDY]], [values(study, "0020000D") for study in found])
    expect("RetrieveURL", [f"{root}/studies/{STUDY}"], values(found[0], "00081190"), PUBLIC)


def test_qido_finds_the_instance(dicomweb: DICOMwebClient) -> None:
    found = dicomweb.search_for_instances(STUDY, SERIES)
    expect("QIDO-RS instances", [[INSTANCE]], [values(instance, "00080018") for instance in found])


def test_wado_metadata_has_tags_and_links(
    dicomweb: DICOMwebClient, patient: Client, root: str, kept: Callable[[Image], UID]
) -> None:
    (metadata,) = dicomweb.retrieve_study_metadata(STUDY)
    expect("PatientID in WADO-RS metadata", [PATIENT_ID], values(metadata, "00100020"))
    link = metadata["7FE00010"].get("BulkDataURI", "")
    expect(f"BulkDataURI {link} is below {root}", True, link.startswith(f"{root}/studies/{STUDY}/"), PUBLIC)
    answer = patient.get(link, headers={"Accept": 'multipart/related; type="application/octet-stream"'})
    expect(f"GET {link}", 200, answer.status_code)
    if kept(CT) in PLAIN:
        expect(f"GET {link} gives the pixels that were sent", True, CT.dataset.PixelData in answer.content)


def expect_ct(what: str, got: Dataset, kept: Callable[[Image], UID]) -> None:
    """See whether something is the CT image: by its pixels, or, where the site transcodes it, by how it is kept."""
    if kept(CT) in PLAIN:
        expect(f"{what} has the pixels that were sent", True, got.PixelData == CT.dataset.PixelData)
    else:
        came = (str(got.SOPInstanceUID), got.file_meta.TransferSyntaxUID)
        expect(f"UID and transfer syntax of {what}", (INSTANCE, kept(CT)), came, "orthanc_settings.IngestTranscoding")


def test_wado_gives_the_image(dicomweb: DICOMwebClient, kept: Callable[[Image], UID]) -> None:
    expect_ct("the image by WADO-RS", dicomweb.retrieve_instance(STUDY, SERIES, INSTANCE), kept)


def test_qido_finds_the_series(dicomweb: DICOMwebClient) -> None:
    found = dicomweb.search_for_series(STUDY, fields=["SeriesDescription"])
    expect("QIDO-RS series", [[SERIES]], [values(series, "0020000E") for series in found])


def test_qido_pages_and_ranges(dicomweb: DICOMwebClient, series: list[Image]) -> None:
    study = str(series[0].dataset.StudyInstanceUID)
    pages = [dicomweb.search_for_instances(study, limit=2, offset=offset) for offset in (0, 2)]
    expect("sizes of pages of 2", [2, 1], [len(page) for page in pages])
    uids = {uid for page in pages for found in page for uid in values(found, "00080018")}
    expect("instances on both pages", {str(image.dataset.SOPInstanceUID) for image in series}, uids)
    only = {"PatientID": PATIENT_ID, "StudyDate": "20180323-20180325"}
    found = dicomweb.search_for_studies(search_filters=only)
    expect("QIDO-RS of a range of dates", [[study]], [values(study, "0020000D") for study in found])


@pytest.mark.parametrize("language", NAMED)
def test_name_in_other_letters(
    dicomweb: DICOMwebClient, stored: dict[str, Image], running: dict[str, str], inside: dict[str, Any], language: str
) -> None:
    image = stored[language].dataset
    if lacking("names of QIDO-RS in all letters", running):
        unwritable(image, inside)
    (found,) = dicomweb.search_for_studies(search_filters={"PatientID": str(image.PatientID)})
    (name,) = values(found, "00100010")
    expect("PatientName by QIDO-RS", str(image.PatientName), "=".join(name.values()))
    (metadata,) = dicomweb.retrieve_study_metadata(str(image.StudyInstanceUID))
    (name,) = values(metadata, "00100010")
    expect("PatientName in WADO-RS metadata", str(image.PatientName), "=".join(name.values()))


def test_wado_gives_a_whole_series(dicomweb: DICOMwebClient, series: list[Image]) -> None:
    one = series[0].dataset
    got = dicomweb.retrieve_series(str(one.StudyInstanceUID), str(one.SeriesInstanceUID))
    expected = sorted(str(image.dataset.SOPInstanceUID) for image in series)
    expect("images of a series by WADO-RS", expected, sorted(str(image.SOPInstanceUID) for image in got))


@pytest.mark.parametrize("name", ["CT, explicit little endian", "Colour, two frames, RLE"])
def test_wado_gives_frames(dicomweb: DICOMwebClient, stored: dict[str, Image], name: str) -> None:
    image = stored[name].dataset
    frames = int(image.get("NumberOfFrames", 1))
    uids = (str(image.StudyInstanceUID), str(image.SeriesInstanceUID), str(image.SOPInstanceUID))
    plain = "application/octet-stream"
    types = ((plain, str(ExplicitVRLittleEndian)),)
    got = dicomweb.retrieve_instance_frames(*uids, frame_numbers=list(range(1, frames + 1)), media_types=types)
    expected = image.pixel_array.tobytes()
    size = len(expected) // frames
    expect("sizes of the frames by WADO-RS", [size] * frames, [len(frame) for frame in got])
    expect("the frames by WADO-RS are those that were sent", True, b"".join(got) == expected)


@pytest.mark.since("an image uncompressed by WADO-RS")
def test_wado_gives_an_uncompressed_image(dicomweb: DICOMwebClient, stored: dict[str, Image]) -> None:
    image = stored["MR, RLE"].dataset
    uids = (str(image.StudyInstanceUID), str(image.SeriesInstanceUID), str(image.SOPInstanceUID))
    types = (("application/dicom", str(ExplicitVRLittleEndian)),)
    got = dicomweb.retrieve_instance(*uids, media_types=types)
    expect_array("the pixels by WADO-RS", image.pixel_array, got.pixel_array, "TranscodeDicomProtocol")


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_wado_renders(
    dicomweb: DICOMwebClient, exhibit: Callable[[str, bytes], None], patient: Client, kind: str
) -> None:
    got = dicomweb.retrieve_instance_rendered(STUDY, SERIES, INSTANCE, media_types=(f"image/{kind}",))
    expect_picture(f"rendered {kind} by WADO-RS", kind, got)
    exhibit(f"CT by DICOMweb, {kind}", got)


def expect_picture(what: str, kind: str, content: bytes) -> None:
    """See whether something is a picture of the CT image."""
    with Picture.open(io.BytesIO(content)) as picture:
        low, high = picture.convert("L").getextrema()
        expect(what, (kind.upper(), (CT.dataset.Columns, CT.dataset.Rows)), (picture.format, picture.size))
    expect(f"{what} has light and shade", True, low != high)


@pytest.mark.parametrize("kind", ["application/dicom", "image/jpeg"])
def test_wado_uri(root: str, patient: Client, kept: Callable[[Image], UID], kind: str) -> None:
    """The older way, beside the root of DICOMweb."""
    # The slash in the type stays as it is: the plugin does not decode it.
    query = f"requestType=WADO&studyUID={STUDY}&seriesUID={SERIES}&objectUID={INSTANCE}&contentType={kind}"
    answer = patient.get(f"{root.removesuffix('dicom-web')}wado?{query}")
    expect("GET /wado", 200, answer.status_code, "orthanc_settings.DicomWeb (EnableWado, WadoRoot)")
    if kind == "image/jpeg":
        expect_picture("picture by WADO-URI", "jpeg", answer.content)
    else:
        expect_ct("the image by WADO-URI", dcmread(io.BytesIO(answer.content)), kept)


def test_unknown_study_is_not_found(dicomweb: DICOMwebClient, root: str, patient: Client) -> None:
    answer = patient.get(f"{root}/studies/{uid('nobody')}/metadata", headers={"Accept": "application/dicom+json"})
    expect("WADO-RS metadata of a study that is not there", 404, answer.status_code)


def test_dicomweb_answers(root: str, client: Client) -> None:
    """Read-only: an index that answers to nobody's patient."""
    answer = client.get(f"{root}/studies?PatientID={MARK}-NOBODY", headers={"Accept": "application/dicom+json"})
    expect("QIDO-RS for nobody", (200, []), (answer.status_code, answer.json() if answer.content else []))


def test_stow_stores_an_image(dicomweb: DICOMwebClient, patient: Client, root: str) -> None:
    answer = dicomweb.store_instances([dcmread(io.BytesIO(STOWED.content))])
    stored = [item.ReferencedSOPInstanceUID for item in answer.get("ReferencedSOPSequence", [])]
    expect("STOW-RS", [STOWED.dataset.SOPInstanceUID], stored)
    study = f"{root}/studies/{STOWED.dataset.StudyInstanceUID}"
    expect("RetrieveURL of STOW-RS", study, answer.get("RetrieveURL"), PUBLIC)
    expect("the image in REST", 200, patient.get(f"/instances/{STOWED.instance}").status_code)

"""DICOMweb through the proxy: QIDO-RS, WADO-RS and STOW-RS, with links that the public can follow."""

from __future__ import annotations

import io
from typing import Any

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread

from verification.client import Client
from verification.expect import expect
from verification.patient import CT, PATIENT_ID, STOWED
from verification.site import Site

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


def test_wado_metadata_has_tags_and_links(dicomweb: DICOMwebClient, patient: Client, root: str) -> None:
    (metadata,) = dicomweb.retrieve_study_metadata(STUDY)
    expect("PatientID in WADO-RS metadata", [PATIENT_ID], values(metadata, "00100020"))
    link = metadata["7FE00010"].get("BulkDataURI", "")
    expect(f"BulkDataURI {link} is below {root}", True, link.startswith(f"{root}/studies/{STUDY}/"), PUBLIC)
    answer = patient.get(link, headers={"Accept": 'multipart/related; type="application/octet-stream"'})
    expect(f"GET {link}", 200, answer.status_code)
    expect(f"GET {link} gives the pixels that were sent", True, CT.dataset.PixelData in answer.content)


def test_wado_gives_the_image(dicomweb: DICOMwebClient) -> None:
    got = dicomweb.retrieve_instance(STUDY, SERIES, INSTANCE)
    expect("WADO-RS gives the pixels that were sent", True, got.PixelData == CT.dataset.PixelData)


def test_stow_stores_an_image(dicomweb: DICOMwebClient, patient: Client, root: str) -> None:
    answer = dicomweb.store_instances([dcmread(io.BytesIO(STOWED.content))])
    stored = [item.ReferencedSOPInstanceUID for item in answer.get("ReferencedSOPSequence", [])]
    expect("STOW-RS", [STOWED.dataset.SOPInstanceUID], stored)
    study = f"{root}/studies/{STOWED.dataset.StudyInstanceUID}"
    expect("RetrieveURL of STOW-RS", study, answer.get("RetrieveURL"), PUBLIC)
    expect("the image in REST", 200, patient.get(f"/instances/{STOWED.instance}").status_code)

"""The REST API through the proxy, with the disposable patient: in, found, seen, out again."""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import zipfile
from typing import Any

import pytest
from PIL import Image as Picture

from verification.client import Client
from verification.expect import expect
from verification.patient import BIG, CT, DELETED, PATIENT_ID, PATIENT_NAME, TOGETHER, ZIPPED, Image
from verification.site import Site


def upload(client: Client, content: bytes) -> Any:
    """Upload a file, and return what Orthanc says of it."""
    answer = client.post("/instances", data=content)
    expect(f"POST /instances, {len(content)} bytes", 200, answer.status_code)
    return answer.json()


def expect_unchanged(site: Site, client: Client, image: Image) -> None:
    """Compare the file that comes back with the one that was sent."""
    if site.settings.get("IngestTranscoding"):
        pytest.skip("orthanc_settings.IngestTranscoding makes Orthanc change what it stores")
    content = client.get(f"/instances/{image.instance}/file").content
    expected, got = ((len(file), hashlib.sha256(file).hexdigest()) for file in (image.content, content))
    expect("GET …/file, size and SHA-256", expected, got)


def test_system_names_the_server(site: Site, client: Client) -> None:
    expect("DicomAet in /system", site.aet, client.json_at("/system")["DicomAet"], "orthanc_aet")


def test_identifiers_follow_their_definition(patient: Client) -> None:
    answer = upload(patient, CT.content)
    expected = {"ID": CT.instance, "ParentSeries": CT.series, "ParentStudy": CT.study, "ParentPatient": CT.patient}
    expect("SHA-1 of the DICOM identifiers", expected, {key: answer.get(key) for key in expected})


def test_file_comes_back_bit_for_bit(site: Site, patient: Client) -> None:
    expect_unchanged(site, patient, CT)


def test_big_file_passes_the_proxy(site: Site, patient: Client) -> None:
    assert len(BIG.content) > 2 * 2**20
    upload(patient, BIG.content)
    expect_unchanged(site, patient, BIG)


def test_archive_is_unpacked(patient: Client) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, image in enumerate(ZIPPED):
            archive.writestr(f"{number}.dcm", image.content)
    got = {result["ID"] for result in upload(patient, buffer.getvalue())}
    expect("images out of a ZIP archive", {image.instance for image in ZIPPED}, got)


def test_images_of_several_clients_at_a_time_are_accepted(patient: Client) -> None:
    """A database can have its own mind about transactions that meet; MariaDB from 11.6.2 has, by its default."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda image: patient.post("/instances", data=image.content).status_code, TOGETHER)
        refused = [status for status in answers if status != 200]
    expect(f"answers other than 200 to {len(TOGETHER)} uploads", [], refused, "journalctl -u orthanc")


@pytest.mark.parametrize(
    "path, family",
    [
        (f"/patients/{CT.patient}", {"Studies": CT.study}),
        (f"/studies/{CT.study}", {"ParentPatient": CT.patient, "Series": CT.series}),
        (f"/series/{CT.series}", {"ParentStudy": CT.study, "Instances": CT.instance}),
        (f"/instances/{CT.instance}", {"ParentSeries": CT.series}),
    ],
    ids=["patient", "study", "series", "instance"],
)
def test_resource_knows_its_family(patient: Client, path: str, family: dict[str, str]) -> None:
    found = patient.json_at(path)
    for key, relative in family.items():
        expect(f"{relative} in {key} of {path}", True, relative in found[key])


def test_tags_are_those_of_the_image(patient: Client) -> None:
    path = f"/instances/{CT.instance}"
    expected = {
        "PatientID": PATIENT_ID,
        "PatientName": PATIENT_NAME,
        "Modality": "CT",
        "SOPInstanceUID": CT.dataset.SOPInstanceUID,
        "Rows": str(CT.dataset.Rows),
    }
    simplified = patient.json_at(f"{path}/simplified-tags")
    expect("…/simplified-tags", expected, {key: simplified.get(key) for key in expected})
    expect("0010,0020 in …/tags", PATIENT_ID, patient.json_at(f"{path}/tags")["0010,0020"]["Value"])
    expect("…/content/0010-0020", PATIENT_ID, patient.get(f"{path}/content/0010-0020").text.rstrip("\x00 "))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_preview_is_a_picture(patient: Client, kind: str) -> None:
    answer = patient.get(f"/instances/{CT.instance}/preview", headers={"Accept": f"image/{kind}"})
    expect(f"preview as {kind}", 200, answer.status_code)
    with Picture.open(io.BytesIO(answer.content)) as picture:
        low, high = picture.convert("L").getextrema()
        expect("preview", (kind.upper(), (CT.dataset.Columns, CT.dataset.Rows)), (picture.format, picture.size))
    expect("preview has light and shade", True, low != high)


def test_find_by_patient(patient: Client) -> None:
    query = {"PatientID": PATIENT_ID, "StudyInstanceUID": CT.dataset.StudyInstanceUID}
    answer = patient.post("/tools/find", json={"Level": "Instance", "Query": query})
    expect("/tools/find", [CT.instance], answer.json())


@pytest.mark.parametrize(
    "value, kind, identifier",
    [
        (PATIENT_ID, "Patient", CT.patient),
        (CT.dataset.StudyInstanceUID, "Study", CT.study),
        (CT.dataset.SeriesInstanceUID, "Series", CT.series),
        (CT.dataset.SOPInstanceUID, "Instance", CT.instance),
    ],
    ids=["patient", "study", "series", "instance"],
)
def test_lookup_by_dicom_identifier(patient: Client, value: str, kind: str, identifier: str) -> None:
    found = patient.post("/tools/lookup", data=value).json()
    expect(f"/tools/lookup {value}", [(kind, identifier)], [(entry["Type"], entry["ID"]) for entry in found])


def test_changes_tell_of_an_upload_and_a_deletion_is_complete(patient: Client) -> None:
    since = patient.json_at("/changes?last")["Last"]
    upload(patient, DELETED.content)
    expect("the upload is among the changes", True, ("NewInstance", DELETED.instance) in changes(patient, since))

    expect("DELETE of a study", 200, patient.delete(f"/studies/{DELETED.study}").status_code)
    for path in (f"/studies/{DELETED.study}", f"/instances/{DELETED.instance}"):
        expect(f"GET {path} after the deletion", 404, patient.get(path).status_code)
    left = patient.post("/tools/lookup", data=str(DELETED.dataset.SOPInstanceUID))
    expect("/tools/lookup after the deletion", [], left.json())


def changes(client: Client, since: int) -> set[tuple[str, str]]:
    """Return what happened after a change, as kinds and identifiers."""
    found, done = set(), False
    while not done:
        page = client.json_at(f"/changes?since={since}&limit=100")
        found |= {(change["ChangeType"], change["ID"]) for change in page["Changes"]}
        since, done = page["Last"], page["Done"]
    return found

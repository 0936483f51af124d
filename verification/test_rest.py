"""The REST API through the proxy, with the disposable patient: in, found, seen, out again."""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
from collections.abc import Callable

import pytest
from pydicom import dcmread
from pydicom.uid import UID

from verification.actions import expect_pixels, upload
from verification.client import Client
from verification.expect import expect
from verification.patient import (
    BIG,
    CT,
    DELETED,
    OTHER,
    PATIENT_ID,
    PATIENT_NAME,
    TOGETHER,
    ZIPPED,
    Image,
    zipped,
)
from verification.site import Site

LEVELS = {"patient": "patients", "study": "studies", "series": "series", "instance": "instances"}


def expect_whole(client: Client, image: Image, kept: Callable[[Image], UID]) -> None:
    """Compare the file that comes back with the one that was sent; what the site transcodes, by its pixels."""
    content = client.get(f"/instances/{image.instance}/file").content
    if kept(image) == image.syntax:
        expected, got = ((len(file), hashlib.sha256(file).hexdigest()) for file in (image.content, content))
        expect("GET …/file, size and SHA-256", expected, got)
        return
    syntax = dcmread(io.BytesIO(content), stop_before_pixels=True).file_meta.TransferSyntaxUID
    expect("GET …/file, transfer syntax", kept(image), syntax, "orthanc_settings.IngestTranscoding")
    expect_pixels("the image", client, image)


def test_system_names_the_server(site: Site, client: Client) -> None:
    expect("DicomAet in /system", site.aet, client.json_at("/system")["DicomAet"], "orthanc_aet")


def test_explorer_is_there(client: Client) -> None:
    answer = client.get("/app/explorer.html")
    expect("GET /app/explorer.html", 200, answer.status_code)
    expect("it is a page", "text/html", answer.headers.get("Content-Type", "").partition(";")[0])


def test_identifiers_follow_their_definition(patient: Client) -> None:
    answer = upload(patient, CT.content)
    expected = {"ID": CT.instance, "ParentSeries": CT.series, "ParentStudy": CT.study, "ParentPatient": CT.patient}
    expect("SHA-1 of the DICOM identifiers", expected, {key: answer.get(key) for key in expected})


def test_file_comes_back_bit_for_bit(patient: Client, kept: Callable[[Image], UID]) -> None:
    expect_whole(patient, CT, kept)


def test_big_file_passes_the_proxy(patient: Client, kept: Callable[[Image], UID]) -> None:
    assert len(BIG.content) > 2 * 2**20
    upload(patient, BIG.content)
    expect_whole(patient, BIG, kept)


@pytest.mark.parametrize("expecting", [True, False], ids=["asking first", "at once"])
def test_upload_asks_first_or_not(patient: Client, expecting: bool) -> None:
    """Tools like curl ask whether a body is welcome before they send it, unless they are told not to."""
    headers = {"Expect": "100-continue"} if expecting else {}
    answer = patient.post("/instances", data=DELETED.content, headers=headers)
    expect(f"POST /instances with {headers or 'no Expect'}", 200, answer.status_code)
    # It was not there before.
    path = f"/instances/{DELETED.instance}"
    expect(f"GET {path} afterwards", 200, patient.get(path).status_code)
    expect(f"DELETE {path}", 200, patient.delete(path).status_code)


def test_archive_is_unpacked(patient: Client) -> None:
    got = {result["ID"] for result in upload(patient, zipped(ZIPPED))}
    expect("images out of a ZIP archive", {image.instance for image in ZIPPED}, got)
    for image in ZIPPED:
        expect("GET of one of them", 200, patient.get(f"/instances/{image.instance}").status_code)


def test_images_of_several_clients_at_a_time_are_accepted(patient: Client) -> None:
    """A database can have its own mind about transactions that meet; MariaDB from 11.6.2 has, by its default."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda image: patient.post("/instances", data=image.content).status_code, TOGETHER)
        refused = [status for status in answers if status != 200]
    expect(f"answers other than 200 to {len(TOGETHER)} uploads", [], refused, "journalctl -u orthanc")
    kept = patient.json_at(f"/studies/{TOGETHER[0].study}/statistics")["CountInstances"]
    expect("images of those uploads that are there", len(TOGETHER), kept)


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


def test_ancestors_of_an_image_are_reached(patient: Client) -> None:
    for kind in ("patient", "study", "series"):
        path = f"/instances/{CT.instance}/{kind}"
        expect(f"GET {path}", getattr(CT, kind), patient.json_at(path)["ID"])


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


def test_tags_are_listed(patient: Client) -> None:
    listed = patient.json_at(f"/instances/{CT.instance}/content")
    expect("0010-0010 in …/content", True, "0010-0010" in listed)
    name = patient.get(f"/instances/{CT.instance}/content/0010-0010").text.rstrip("\x00 ")
    expect("…/content/0010-0010", PATIENT_NAME, name)


def test_sequences_are_reached(patient: Client, series: list[Image]) -> None:
    path = f"/instances/{series[0].instance}"
    content = patient.get(f"{path}/content/0054-0410/0/0054-0412/0/0008-0104").text.rstrip("\x00 ")
    expect("…/content/0054-0410/0/0054-0412/0/0008-0104", "supine", content)
    simplified = patient.json_at(f"{path}/simplified-tags")
    meaning = simplified["PatientOrientationCodeSequence"][0]["PatientOrientationModifierCodeSequence"][0]
    expect("the same in …/simplified-tags", "supine", meaning["CodeMeaning"])


def test_private_tags_are_kept(patient: Client, series: list[Image]) -> None:
    got = patient.get(f"/instances/{series[0].instance}/content/0099-1001").text.rstrip("\x00 ")
    expect("…/content/0099-1001", "a private value", got)


@pytest.mark.parametrize("level", ["patients", "studies", "series", "instances"])
def test_resources_are_listed(patient: Client, level: str) -> None:
    ours = {"patients": CT.patient, "studies": CT.study, "series": CT.series, "instances": CT.instance}[level]
    count = patient.json_at("/statistics")[f"Count{level.capitalize()}"]
    expect(f"size of a page of /{level}", 1, len(patient.json_at(f"/{level}?since=0&limit=1")))
    # On a big site the whole list would be a burden.
    if count < 20000:
        expect(f"our own in /{level}", True, ours in patient.json_at(f"/{level}"), "orthanc_database")


@pytest.mark.parametrize(
    "level, query, found",
    [
        ("Patient", {"PatientName": "verif*"}, "patient"),
        ("Study", {"StudyDescription": "*Chest*"}, "study"),
        ("Study", {"StudyDate": "20180323-"}, "study"),
        ("Study", {"StudyDate": "20180323-20180325"}, "study"),
        ("Study", {"StudyDate": "-20180324", "AccessionNumber": "VERIFY-????"}, "study"),
        ("Study", {"StudyDate": "20180325-20180331"}, ""),
        ("Series", {"DeviceSerialNumber": "VERIFY-4711"}, "series"),
        ("Series", {"DeviceSerialNumber": "abc\\VERIFY-4711"}, "series"),
        ("Series", {"DeviceSerialNumber": "abc\\123"}, ""),
        ("Instance", {"Modality": "CT", "StudyDate": "20180323-", "InstanceNumber": "1"}, "instance"),
    ],
    ids=["wildcard", "part", "from", "range", "until", "elsewhen", "one", "list", "none", "instance"],
)
def test_find(patient: Client, series: list[Image], level: str, query: dict[str, str], found: str) -> None:
    only = {"PatientID": PATIENT_ID} | ({} if level == "Patient" else {"StudyInstanceUID": study_uid(series[0])})
    answer = patient.post("/tools/find", json={"Level": level, "Query": only | query})
    expected = [getattr(series[0], found)] if found else []
    see = "orthanc_settings: CaseSensitivePN, StorageAccessOnFind"
    expect(f"/tools/find {level} {query}", (200, expected), (answer.status_code, answer.json()), see)


def study_uid(image: Image) -> str:
    """Return the study's UID as text."""
    return str(image.dataset.StudyInstanceUID)


def test_find_expands_and_limits(patient: Client, series: list[Image]) -> None:
    query = {"PatientID": PATIENT_ID, "StudyInstanceUID": study_uid(series[0])}
    limited = patient.post("/tools/find", json={"Level": "Instance", "Query": query, "Limit": 2}).json()
    expect("results of /tools/find with a Limit of 2", 2, len(limited))
    (study,) = patient.post("/tools/find", json={"Level": "Study", "Query": query, "Expand": True}).json()
    expected = (series[0].study, [series[0].series], "VERIFY-0815")
    got = (study["ID"], study["Series"], study["MainDicomTags"].get("AccessionNumber"))
    expect("/tools/find with Expand", expected, got)


@pytest.mark.since("RequestedTags in /tools/find")
def test_find_gives_requested_tags(patient: Client, series: list[Image]) -> None:
    query = {"PatientID": PATIENT_ID, "StudyInstanceUID": study_uid(series[0])}
    tags = {"PatientID": PATIENT_ID, "ModalitiesInStudy": "CT", "NumberOfStudyRelatedSeries": "1"}
    asked = {"Level": "Studies", "Query": query, "Expand": True, "RequestedTags": list(tags)}
    (study,) = patient.post("/tools/find", json=asked).json()
    expect("RequestedTags of /tools/find", tags, study["RequestedTags"])


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


def test_changes_tell_of_an_upload(patient: Client) -> None:
    since = patient.json_at("/changes?last")["Last"]
    upload(patient, DELETED.content)
    # In small pages, so that there are several.
    found = changes(patient, since, 2)
    for kind, identifier in (("NewInstance", DELETED.instance), ("NewStudy", DELETED.study)):
        expect(f"{kind} is among the changes", True, (kind, identifier) in found)


def test_changes_begin_at_the_first(patient: Client) -> None:
    for path, most in (("/changes", 100), ("/changes?limit=100", 100), ("/changes?limit=1", 1)):
        page = patient.json_at(path)
        expect(f"{path} has some", True, 0 < len(page["Changes"]) <= most)
        expect(f"{path} lacks", set(), {"Changes", "Done", "Last"} - set(page))


def changes(client: Client, since: int, limit: int) -> set[tuple[str, str]]:
    """Return what happened after a change, as kinds and identifiers."""
    found, done = set(), False
    while not done:
        page = client.json_at(f"/changes?since={since}&limit={limit}")
        expect("size of a page of /changes is kept", True, len(page["Changes"]) <= limit)
        found |= {(change["ChangeType"], change["ID"]) for change in page["Changes"]}
        since, done = page["Last"], page["Done"]
    return found


def test_exports_are_listed(patient: Client) -> None:
    for path in ("/exports", "/exports?limit=1"):
        expect(f"keys of {path}", {"Done", "Exports", "Last"}, set(patient.json_at(path)))


@pytest.mark.parametrize("level", ["patient", "study", "series", "instance"])
def test_deletion_is_complete(patient: Client, level: str) -> None:
    # Patients are one for the whole run; another one of ours is deleted here.
    image = OTHER if level == "patient" else DELETED
    upload(patient, image.content)
    path = (
        f"/{'studies' if level == 'study' else 'series' if level == 'series' else level + 's'}/{getattr(image, level)}"
    )
    answer = patient.delete(path)
    expect(f"DELETE {path}", 200, answer.status_code)
    remaining = (answer.json()["RemainingAncestor"] or {}).get("ID")
    expect("RemainingAncestor", None if level == "patient" else image.patient, remaining)
    for gone in (path, f"/instances/{image.instance}"):
        expect(f"GET {gone} after the deletion", 404, patient.get(gone).status_code)
    left = patient.post("/tools/lookup", data=str(image.dataset.SOPInstanceUID))
    expect("/tools/lookup after the deletion", [], left.json())


def test_bulk_delete(patient: Client) -> None:
    for image in (DELETED, OTHER):
        upload(patient, image.content)
    ours = [DELETED.instance, OTHER.instance]
    expect("/tools/bulk-delete", 200, patient.post("/tools/bulk-delete", json={"Resources": ours}).status_code)
    got = [patient.get(f"/instances/{instance}").status_code for instance in ours]
    expect("GET of both images after /tools/bulk-delete", [404, 404], got)


def test_bad_file_is_refused(patient: Client) -> None:
    answer = patient.post("/instances", data=CT.content[:-1000])
    expect("POST /instances of a file that ends too early", 400, answer.status_code)


def test_statistics_count_what_was_sent(patient: Client, series: list[Image]) -> None:
    counted = patient.json_at(f"/studies/{series[0].study}/statistics")
    expected = {"CountSeries": 1, "CountInstances": len(series)}
    expect("/studies/…/statistics", expected, {key: counted.get(key) for key in expected})
    whole = patient.json_at("/statistics")
    expect("CountInstances of /statistics holds ours", True, whole["CountInstances"] >= len(series) + 1)


@pytest.mark.parametrize("level", ["patient", "study", "series", "instance"])
def test_metadata_come_and_go(patient: Client, level: str) -> None:
    path = f"/{LEVELS[level]}/{getattr(CT, level)}/metadata"
    expect(f"PUT {path}/1024", 200, patient.put(f"{path}/1024", data=b"verified").status_code)
    expect(f"GET {path}/1024", "verified", patient.get(f"{path}/1024").text)
    expect(f"1024 in {path}", True, "1024" in patient.json_at(path))
    expect(f"DELETE {path}/1024", 200, patient.delete(f"{path}/1024").status_code)
    expect(f"GET {path}/1024 after its deletion", 404, patient.get(f"{path}/1024").status_code)


def test_attachments_come_and_go(patient: Client) -> None:
    path, content = f"/studies/{CT.study}/attachments/1024", b"a report about the study" * 100
    expect(f"PUT {path}", 200, patient.put(path, data=content).status_code, "orthanc_storage_dir")
    expect(f"GET {path}/data", True, patient.get(f"{path}/data").content == content)
    expect(f"GET {path}/size", str(len(content)), patient.get(f"{path}/size").text)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    see = "orthanc_settings.StoreMD5ForAttachments"
    expect(f"GET {path}/md5", digest, patient.get(f"{path}/md5").text, see)
    expect(f"POST {path}/verify-md5", 200, patient.post(f"{path}/verify-md5").status_code, see)
    expect(f"DELETE {path}", 200, patient.delete(path).status_code)
    expect(f"GET {path}/data after its deletion", 404, patient.get(f"{path}/data").status_code)


def test_system_routes_answer(client: Client, running: dict[str, str], facts: dict[str, str]) -> None:
    """Read-only, and the same on every site."""
    expect("Version in /system", running["orthanc"], client.json_at("/system")["Version"])
    plugins = client.json_at("/plugins")
    named = [name for name in plugins if not name.endswith(".js")]
    facts["Plugins"] = ", ".join(f"{name} {running.get(name, '')}".strip() for name in named) or "none"
    for name in named:
        expect(f"ID in /plugins/{name}", name, client.json_at(f"/plugins/{name}")["ID"])
    kinds = {"/statistics": dict, "/changes?last": dict, "/modalities?expand": dict, "/peers?expand": dict}
    for path, kind in (kinds | {"/jobs": list}).items():
        expect(f"kind of {path}", kind, type(client.json_at(path)))
    expect("GET /tools/now", 200, client.get("/tools/now").status_code)
    metrics = client.get("/tools/metrics-prometheus")
    expect("orthanc_count_instances in /tools/metrics-prometheus", True, "orthanc_count_instances" in metrics.text)

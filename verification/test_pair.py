"""Two Orthancs of one run: what one sends, the other one has, and what one asks for, it gets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from verification.actions import expect_pixels, finished, sweep, upload
from verification.client import Client
from verification.expect import expect
from verification.patient import CT, LENT, PATIENT_ID, Image
from verification.site import Site
from verification.test_remote import PEERS

Others = dict[str, tuple[Site, dict[str, Any]]]
IDENTITY = ("Name", "DicomAet", "DatabaseServerIdentifier", "Version")
NODES = "orthanc_modalities of both hosts (AET, Host, Port, AllowStore, AllowFind, AllowMove)"


def _visit(found: dict[str, Site]) -> Iterator[dict[str, Client]]:
    """Log in to the others, and leave nothing there in the end."""
    clients = {other.name: Client(other.url, other.trust(), other.login) for other in found.values()}
    try:
        yield {name: clients[other.name] for name, other in found.items()}
    finally:
        for client in clients.values():
            client.recover()
            sweep(client)


@pytest.fixture(scope="session")
def peers(patient: Client, others: Others) -> Iterator[dict[str, Client]]:
    """The peers that are hosts of this run, each known by what it says of itself over the very connection."""
    found = {}
    for name in patient.json_at("/peers") if others else []:
        answer = patient.get(f"/peers/{name}/system")
        system = answer.json() if answer.ok else {}
        for other, own in others.values():
            if all(system.get(key) == own.get(key) for key in IDENTITY):
                found[name] = other
    if not found:
        pytest.skip("no entry of orthanc_peers is another host of this run")
    patient.peers |= set(found)
    yield from _visit(found)


@pytest.fixture(scope="session")
def nodes(patient: Client, others: Others) -> Iterator[dict[str, Client]]:
    """The modalities that are hosts of this run."""
    found = {}
    for name, modality in patient.json_at("/modalities?expand").items() if others else []:
        for other, _ in others.values():
            declared = (modality["AET"], modality["Host"], int(modality["Port"]))
            if declared == (other.aet, other.dicom_address, other.dicom_port):
                found[name] = other
    if not found:
        pytest.skip("no entry of orthanc_modalities is another host of this run")
    patient.modalities |= set(found)
    yield from _visit(found)


def expect_moved(name: str, there: Client, images: list[Image], see: str) -> None:
    """See whether images have come to the other one whole, and take them away from there."""
    for image in images:
        there.own.update([image.study])
        answer = there.get(f"/instances/{image.instance}/file")
        expect(f"{name} has the image", 200, answer.status_code, see)
        expect_pixels(f"the image at {name}", there, image)
    for study in {image.study for image in images}:
        expect(f"DELETE of the study at {name}", 200, there.delete(f"/studies/{study}").status_code)


def test_peer_takes_one(patient: Client, peers: dict[str, Client]) -> None:
    for name, there in peers.items():
        answer = patient.post(f"/peers/{name}/store", data=CT.instance)
        expect(f"POST /peers/{name}/store", 200, answer.status_code, PEERS)
        expect_moved(name, there, [CT], PEERS)


def test_peer_takes_several(patient: Client, peers: dict[str, Client], series: list[Image]) -> None:
    for name, there in peers.items():
        answer = patient.post(f"/peers/{name}/store", json=[series[0].study, CT.instance])
        expect(f"POST /peers/{name}/store of several", 200, answer.status_code, PEERS)
        expect_moved(name, there, [*series, CT], PEERS)


def test_peer_takes_them_by_a_job(patient: Client, peers: dict[str, Client], series: list[Image]) -> None:
    for name, there in peers.items():
        body = {"Resources": [series[0].study], "Synchronous": False}
        state = finished(patient, patient.post(f"/peers/{name}/store", json=body).json()["ID"])
        expect("type of the job", "OrthancPeerStore", state["Type"], PEERS)
        expect_moved(name, there, series, PEERS)


def test_peer_gets_images_alone(patient: Client, peers: dict[str, Client]) -> None:
    """What is told about an image stays here."""
    path = f"/instances/{CT.instance}/metadata/1025"
    expect(f"PUT {path}", 200, patient.put(path, data=b"ours").status_code)
    for name, there in peers.items():
        expect(f"POST /peers/{name}/store", 200, patient.post(f"/peers/{name}/store", data=CT.instance).status_code)
        expect(f"metadata 1025 at {name}", 404, there.get(path).status_code)
        expect_moved(name, there, [CT], PEERS)
    expect(f"DELETE {path}", 200, patient.delete(path).status_code)


def test_modality_takes_several(site: Site, patient: Client, nodes: dict[str, Client], series: list[Image]) -> None:
    for name, there in nodes.items():
        answer = patient.post(f"/modalities/{name}/store", json=[series[0].study, CT.instance])
        expect(f"POST /modalities/{name}/store of several", 200, answer.status_code, NODES)
        sender = there.get(f"/instances/{CT.instance}/metadata/RemoteAET")
        expect(f"RemoteAET of the image at {name}", (200, site.aet), (sender.status_code, sender.text), NODES)
        expect_moved(name, there, [*series, CT], NODES)


def test_modality_takes_them_by_a_job(patient: Client, nodes: dict[str, Client], series: list[Image]) -> None:
    for name, there in nodes.items():
        body = {"Resources": [series[0].series], "Synchronous": False, "Timeout": 10}
        state = finished(patient, patient.post(f"/modalities/{name}/store", json=body).json()["ID"])
        expect("type of the job", "DicomModalityStore", state["Type"], NODES)
        expect_moved(name, there, series, NODES)


@pytest.mark.parametrize("way", ["query", "query by a job", "move"])
def test_image_is_fetched_from_the_modality(site: Site, patient: Client, nodes: dict[str, Client], way: str) -> None:
    study = str(LENT.dataset.StudyInstanceUID)
    for name, there in nodes.items():
        path = f"/modalities/{name}"
        upload(there, LENT.content)
        if way == "move":
            body = {"Level": "Study", "Resources": [{"StudyInstanceUID": study}], "TargetAet": site.aet}
            expect(f"POST {path}/move", 200, patient.post(f"{path}/move", json=body).status_code, NODES)
        else:
            asked = {"Level": "Study", "Query": {"PatientID": PATIENT_ID, "StudyInstanceUID": study}}
            answer = patient.post(f"{path}/query", json=asked)
            expect(f"POST {path}/query", 200, answer.status_code, NODES)
            made = answer.json()["Path"]
            expect(f"answers of {name}", ["0"], patient.json_at(f"{made}/answers"), NODES)
            target = {"TargetAet": site.aet, "Synchronous": way == "query"}
            answer = patient.post(f"{made}/retrieve", json=target)
            expect(f"POST {made}/retrieve", 200, answer.status_code, NODES)
            if way != "query":
                finished(patient, answer.json()["ID"])
        patient.own.add(LENT.study)
        got = patient.get(f"/instances/{LENT.instance}/file")
        expect(f"the image that was fetched from {name}", 200, got.status_code, NODES)
        expect_pixels("the image that was fetched", patient, LENT)
        expect("DELETE of its study here", 200, patient.delete(f"/studies/{LENT.study}").status_code)
        expect_moved(name, there, [LENT], NODES)

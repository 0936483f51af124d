"""Orthanc as a client of other systems: a modality on this machine that it sends to, asks and fetches from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydicom.uid import UID

from verification.actions import finished
from verification.client import DECLARED, Client
from verification.expect import expect
from verification.patient import CT, PATIENT_ID, PATIENT_NAME, Image
from verification.reach import KNOCK, Host
from verification.receiver import OFFERED, Receiver
from verification.report import Report, Server
from verification.site import Site
from verification.transcoding import PLAIN

REACH = "orthanc_modalities (Host, Port: where this machine is reached from the site), firewall"
PEERS = (
    "orthanc_peers (Url; Username and Password for 401; for certificates orthanc_https_ca, CertificateFile),"
    " orthanc_client_certificate; make certificates"
)
RIGHTS = "orthanc_modalities (AllowEcho, AllowFind, AllowMove, AllowStore)"


@pytest.fixture
def path(site: Site, receiver: Receiver) -> str:
    """The modality that this machine is, in REST."""
    receiver.received.clear()
    return f"/modalities/{site.modality_name}"


@pytest.mark.parametrize("body", [{}, {"Timeout": 10}], ids=["plain", "timeout"])
def test_echo(patient: Client, path: str, receiver: Receiver, body: dict[str, int]) -> None:
    before = receiver.echoed
    expect(f"POST {path}/echo {body}", 200, patient.post(f"{path}/echo", json=body).status_code, REACH)
    expect("C-ECHOs that have come to the receiver", 1, receiver.echoed - before, REACH)


def expect_received(receiver: Receiver, images: list[Image], kept: Callable[[Image], UID]) -> None:
    """See whether images have come, whole and as the site keeps them."""
    for image in images:
        came = receiver.took(image)
        expect("the image has come to the receiver", True, came is not None, REACH)
        assert came
        if kept(image) in PLAIN:
            expect("its pixels are those that were sent", True, came.PixelData == image.dataset.PixelData)
        else:
            expect("its transfer syntax", kept(image), came.file_meta.TransferSyntaxUID)


def test_store_one(patient: Client, path: str, receiver: Receiver, kept: Callable[[Image], UID]) -> None:
    answer = patient.post(f"{path}/store", data=CT.instance)
    expect(f"POST {path}/store", 200, answer.status_code, REACH)
    expect_received(receiver, [CT], kept)


def test_store_several(
    patient: Client, path: str, receiver: Receiver, series: list[Image], kept: Callable[[Image], UID]
) -> None:
    answer = patient.post(f"{path}/store", json=[series[0].study, CT.instance])
    expect(f"POST {path}/store of several", 200, answer.status_code, REACH)
    expect("FailedInstancesCount", 0, answer.json()["FailedInstancesCount"])
    expect_received(receiver, [*series, CT], kept)


def test_store_by_a_job(
    patient: Client, site: Site, path: str, receiver: Receiver, kept: Callable[[Image], UID]
) -> None:
    body = {
        "Resources": [CT.instance],
        "Synchronous": False,
        "LocalAet": site.aet,
        "MoveOriginatorAet": site.aet,
        "MoveOriginatorID": 1234,
        "Timeout": 10,
        "StorageCommitment": False,
    }
    state = finished(patient, patient.post(f"{path}/store", json=body).json()["ID"])
    expect("job and the modality that it went to", "DicomModalityStore", state["Type"], REACH)
    expect_received(receiver, [CT], kept)


def test_storage_is_committed(patient: Client, path: str, receiver: Receiver) -> None:
    """The receiver is asked for it, and tells so over an association of its own."""
    receiver.entrusted.clear()
    answer = patient.post(f"{path}/storage-commitment", json={"Resources": [CT.instance]})
    expect(f"POST {path}/storage-commitment", 200, answer.status_code, REACH)
    transaction = answer.json()["ID"]

    def state() -> str:
        return str(patient.json_at(f"/storage-commitment/{transaction}")["Status"])

    Receiver.wait(lambda: state() != "Pending")
    expect("status of the storage commitment", "Success", state(), f"{RIGHTS}, AllowStorageCommitment")
    expect("images that the receiver was asked to keep", [str(CT.dataset.SOPInstanceUID)], receiver.entrusted)


def query(client: Client, path: str, **more: Any) -> str:
    """Ask the modality for a study, and return the path of the query."""
    asked = {"PatientID": "", "StudyDescription": "*fetched*", "PatientName": "", "StudyInstanceUID": ""}
    answer = client.post(f"{path}/query", json={"Level": "Study", "Query": asked, **more})
    expect(f"POST {path}/query", 200, answer.status_code, REACH)
    return str(answer.json()["Path"])


def test_query(patient: Client, site: Site, path: str, receiver: Receiver) -> None:
    made = query(patient, path)
    expect("StudyDescription that the modality was asked for", "*fetched*", receiver.asked[-1].StudyDescription)
    expect("level of the query", "Study", patient.get(f"{made}/level").text)
    expect("modality of the query", site.modality_name, patient.get(f"{made}/modality").text)
    expect(
        "the query itself", True, any("fetched" in str(value) for value in patient.json_at(f"{made}/query").values())
    )
    expect("answers of the query", ["0"], patient.json_at(f"{made}/answers"))
    tag = patient.json_at(f"{made}/answers/0/content")["0010,0020"]
    expect("PatientID in the answer", PATIENT_ID, tag["Value"])
    content = patient.json_at(f"{made}/answers/0/content?simplify")
    expected = {"PatientID": PATIENT_ID, "PatientName": PATIENT_NAME}
    expect("content of the answer", expected, {key: content.get(key) for key in expected})
    expect(f"DELETE {made}", 200, patient.delete(made).status_code)


@pytest.mark.parametrize("normalize, sent", [(False, True), (True, False)], ids=["as it is", "normalized"])
def test_query_is_normalized(patient: Client, path: str, receiver: Receiver, normalize: bool, sent: bool) -> None:
    """By default what does not belong to the level is not asked for."""
    asked = {"Level": "Study", "Query": {"SliceThickness": "1"}, "Normalize": normalize}
    expect(f"POST {path}/query", 200, patient.post(f"{path}/query", json=asked).status_code, REACH)
    expect("SliceThickness is asked for at the level Study", sent, "SliceThickness" in receiver.asked[-1])


@pytest.fixture
def absent(patient: Client) -> str:
    """The image that the receiver offers, not on the site."""
    patient.own.update([OFFERED.study, OFFERED.instance])
    patient.delete(f"/studies/{OFFERED.study}")
    return f"/instances/{OFFERED.instance}"


@pytest.mark.parametrize("what", ["/retrieve", "/answers/0/retrieve"], ids=["all", "one"])
def test_retrieve(patient: Client, site: Site, path: str, absent: str, what: str) -> None:
    made = query(patient, path)
    answer = patient.post(f"{made}{what}", data=site.aet)
    expect(f"POST …{what}", 200, answer.status_code, RIGHTS)
    expect("the retrieved image", 200, patient.get(absent).status_code, RIGHTS)


def test_retrieve_by_a_job(patient: Client, site: Site, path: str, absent: str) -> None:
    made = query(patient, path)
    answer = patient.post(f"{made}/retrieve", json={"TargetAet": site.aet, "Synchronous": False})
    state = finished(patient, answer.json()["ID"])
    expect("type of the job", "DicomMoveScu", state["Type"])
    expect("the retrieved image", 200, patient.get(absent).status_code, RIGHTS)


def test_move(patient: Client, site: Site, path: str, absent: str) -> None:
    resources = [{"StudyInstanceUID": str(OFFERED.dataset.StudyInstanceUID)}]
    body = {"Level": "Study", "Resources": resources, "TargetAet": site.aet, "Timeout": 60}
    expect(f"POST {path}/move", 200, patient.post(f"{path}/move", json=body).status_code, RIGHTS)
    expect("the image that was moved", 200, patient.get(absent).status_code, RIGHTS)


@pytest.mark.parametrize(
    "kind, body",
    [
        # Addresses that are for documents, so that nothing is ever sent there.
        ("modalities", {"AET": "PACSVERIFY", "Host": "192.0.2.1", "Port": 2002, "AllowEcho": False}),
        ("peers", {"Url": "https://192.0.2.1/"}),
    ],
)
def test_declared_for_a_moment(patient: Client, kind: str, body: dict[str, Any]) -> None:
    path = f"/{kind}/{DECLARED}"
    expect(f"PUT {path}", 200, patient.put(path, json=body).status_code)
    expect(f"{DECLARED} in /{kind}?expand", True, DECLARED in patient.json_at(f"/{kind}?expand"))
    expect(f"DELETE {path}", 200, patient.delete(path).status_code)
    expect(f"{DECLARED} in /{kind} afterwards", False, DECLARED in patient.json_at(f"/{kind}"))


def test_peers_answer(site: Site, client: Client, host: Host, report: Report) -> None:
    """Each peer that Orthanc knows, without anything being sent to it."""
    peers = client.json_at("/peers?expand")
    if not peers:
        pytest.skip("orthanc_peers is empty")
    problems = {name: why_not(site, client, host, name, str(peer["Url"])) for name, peer in peers.items()}
    report.servers[site.label] += [
        Server(name, "peer", re.sub("//[^/@]*@", "//", str(peer["Url"])), problems[name])
        for name, peer in sorted(peers.items())
    ]
    wrong = {name: problem for name, problem in problems.items() if problem}
    expect("peers that do not answer as an Orthanc would", {}, wrong, PEERS)


def why_not(site: Site, client: Client, host: Host, name: str, url: str) -> str:
    """Say why a peer does not answer Orthanc; nothing if it does."""
    where = urlsplit(url)
    port = where.port or {"http": 80}.get(where.scheme, 443)
    if not site.settings.get("HttpProxy"):
        # Orthanc would wait for a minute.
        knocked = host.run("/usr/bin/python3 -c %s %s %s", KNOCK, str(where.hostname), str(port))
        if knocked.rc:
            return knocked.stderr.strip().rpartition("\n")[2]
    answer = client.get(f"/peers/{name}/system")
    if answer.status_code == 500:
        said = answer.json()
        # Which status it has got, and from whom, Orthanc tells its log alone.
        log = host.run("journalctl --unit=orthanc --lines=200 --output=cat --no-pager").stdout
        told = re.findall(rf"received HTTP status (\d+ \(.*?\)).*\n.*remote Orthanc peer: {re.escape(url)}", log)
        return f"it answers {told[-1]}" if told else str(said.get("Details") or said.get("Message"))
    if answer.status_code != 200:
        return f"status {answer.status_code}"
    try:
        return "" if "Version" in answer.json() else "it tells no version of Orthanc"
    except AssertionError as error:
        return str(error)

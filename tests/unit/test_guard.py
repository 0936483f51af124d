"""The client's own guard: it sends no write to anything that this run did not make."""

from __future__ import annotations

import concurrent.futures
import io
import json
import socket
import ssl
import zipfile

import pytest
import requests
from pydicom import dcmread
from requests.adapters import BaseAdapter

from verification.client import DECLARED, Client, Refused
from verification.patient import COPY_ID, CT, orthanc_id

OTHER = orthanc_id("somebody else")
TASK = "01234567-89ab-cdef-0123-456789abcdef"


class _Trap(BaseAdapter):
    """Stands where the network would be, so that nothing leaves even if the guard fails."""

    # What each answer says.
    told: object = None

    def send(self, *args: object, **kwargs: object) -> requests.Response:
        answer = requests.Response()
        answer.status_code = 200
        if self.told:
            answer.headers["Content-Type"] = "application/json"
            answer.raw = io.BytesIO(json.dumps(self.told).encode())
        return answer

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def guarded() -> Client:
    client = Client("https://site.invalid/orthanc/", ssl.create_default_context())
    client.mount("https://", _Trap())
    client.post("/instances", data=CT.content)
    return client


@pytest.mark.parametrize(
    "method, path",
    [
        ("DELETE", f"/patients/{OTHER}"),
        ("DELETE", f"/studies/{OTHER}"),
        ("DELETE", f"/patients/{CT.patient}/../{OTHER}"),
        ("DELETE", f"/patients/{CT.patient}%2f..%2f{OTHER}"),
        ("DELETE", "/changes"),
        ("DELETE", "/exports"),
        ("DELETE", "/modalities/other"),
        ("DELETE", "/peers/other"),
        ("DELETE", f"/queries/{TASK}"),
        ("DELETE", f"/instances/{OTHER}/metadata/1024"),
        ("DELETE", f"/instances/{OTHER}/attachments/1024"),
        ("PUT", "/modalities/other"),
        ("PUT", "/peers/other"),
        ("PUT", f"/modalities/{DECLARED}-2"),
        ("PUT", f"/instances/{OTHER}/metadata/1024"),
        ("PUT", f"/instances/{OTHER}/attachments/1024"),
        ("PUT", "/tools/log-level"),
        ("POST", f"/instances/{OTHER}/attachments/dicom/verify-md5"),
        ("POST", f"/studies/{OTHER}/archive"),
        ("POST", f"/studies/{OTHER}/media"),
        ("POST", f"/studies/{CT.study}/split"),
        ("POST", f"/studies/{CT.study}/merge"),
        ("POST", f"/jobs/{TASK}/cancel"),
        ("POST", f"/queries/{TASK}/retrieve"),
        ("POST", "/modalities/other/echo"),
        ("POST", "/modalities/other/query"),
        ("POST", "/modalities/other/move"),
        ("POST", "/tools/create-dicom"),
        ("POST", "/tools/shutdown"),
        ("PATCH", f"/patients/{CT.patient}"),
        ("POST", "/tools/reset"),
        ("POST", "/tools/execute-script"),
        ("POST", f"/patients/{OTHER}/anonymize"),
        ("POST", f"/patients/{CT.patient}/modify"),
        ("POST", "/tools/find/../reset"),
        ("DELETE", f"https://site.invalid/patients/{CT.patient}"),
        ("GET", "https://elsewhere.invalid/system"),
        ("GET", f"/patients/{CT.patient}?_method=DELETE"),
        ("GET", f"/patients/{CT.patient}?%5fmethod=PUT"),
    ],
)
def test_guard_refuses(guarded: Client, method: str, path: str) -> None:
    with pytest.raises(Refused):
        guarded.request(method, path)


OURS = {"PatientID": COPY_ID}


@pytest.mark.parametrize(
    "path, body",
    [
        # What is not ours stands in the body.
        ("/tools/bulk-delete", {"Resources": [CT.instance, OTHER]}),
        ("/tools/bulk-delete", {"Resources": []}),
        ("/tools/bulk-delete", {}),
        ("/tools/create-archive", [OTHER]),
        ("/tools/create-media", {"Resources": [OTHER]}),
        ("/modalities/ours/store", [CT.instance, OTHER]),
        ("/modalities/ours/storage-commitment", {"Resources": [OTHER]}),
        ("/modalities/other/store", [CT.instance]),
        ("/peers/other/store", [CT.instance]),
        # A copy that nobody would find again.
        (f"/patients/{CT.patient}/anonymize", {}),
        (f"/patients/{CT.patient}/anonymize", {"Replace": {"PatientID": "somebody else"}}),
        (f"/studies/{CT.study}/anonymize", {"Keep": ["PatientID"]}),
        (f"/studies/{CT.study}/modify", {"Replace": {"PatientID": "somebody else"}}),
        (f"/studies/{CT.study}/modify", {"Remove": ["PatientID"]}),
        (f"/studies/{OTHER}/modify", {"Replace": OURS}),
        (f"/studies/{OTHER}/anonymize", {"Replace": OURS}),
    ],
)
def test_guard_refuses_by_the_body(guarded: Client, path: str, body: object) -> None:
    guarded.modalities = {"ours"}
    with pytest.raises(Refused):
        guarded.post(path, json=body)


@pytest.mark.parametrize(
    "method, path",
    [("POST", "/instances"), ("DELETE", f"/patients/{CT.patient}"), ("PUT", f"/modalities/{DECLARED}")],
)
def test_guard_refuses_every_write_of_a_probe(guarded: Client, method: str, path: str) -> None:
    guarded.writes = False
    with pytest.raises(Refused):
        guarded.request(method, path, data=CT.content)
    assert guarded.get(f"/patients/{OTHER}").ok


def _foreign(kind: str) -> bytes:
    dataset = dcmread(io.BytesIO(CT.content))
    dataset.PatientID = "somebody else"
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    if kind == "file":
        return buffer.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("1.dcm", CT.content)
        target.writestr("2.dcm", buffer.getvalue())
    return archive.getvalue()


@pytest.mark.parametrize("kind", ["file", "archive"])
def test_guard_refuses_images_of_others(guarded: Client, kind: str) -> None:
    with pytest.raises(Refused):
        guarded.post("/instances", data=_foreign(kind))
    with pytest.raises(Refused):
        guarded.delete(f"/patients/{orthanc_id('somebody else')}")


def test_guard_lets_pass_what_is_ours(guarded: Client) -> None:
    guarded.modalities = {"ours"}
    assert guarded.post(f"/patients/{CT.patient}/anonymize", json={"Replace": OURS}).ok
    assert guarded.post("/tools/bulk-delete", json={"Resources": [CT.instance]}).ok
    assert guarded.post("/modalities/ours/store", data=CT.instance).ok
    assert guarded.put(f"/instances/{CT.instance}/metadata/1024", data=b"x").ok
    assert guarded.delete(f"/patients/{CT.patient}").ok
    assert guarded.post("/tools/find", json={"Level": "Patient", "Query": {}}).ok
    assert guarded.get(f"/patients/{OTHER}").ok


def test_answer_that_is_no_json_says_what_it_is() -> None:
    """On a line of its own, as a proxy without an Orthanc gives it."""
    with socket.create_server(("127.0.0.1", 0)) as server, concurrent.futures.ThreadPoolExecutor() as pool:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(9999)
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\n<h1>")

        pool.submit(serve)
        client = Client(f"http://127.0.0.1:{server.getsockname()[1]}", ssl.create_default_context())
        client.mount("http://", client.adapters["https://"])
        with pytest.raises(AssertionError, match="GET /changes gave 502 and '<h1>' instead of JSON"):
            client.get("/changes").json()


@pytest.mark.parametrize("status, ours", [("Success", True), ("AlreadyStored", False)])
def test_what_a_script_makes_of_our_image_is_ours_if_nobody_has_it(
    guarded: Client, monkeypatch: pytest.MonkeyPatch, status: str, ours: bool
) -> None:
    monkeypatch.setattr(_Trap, "told", {"ID": OTHER, "Status": status})
    guarded.post("/instances", data=CT.content)
    assert (OTHER in guarded.own) is ours

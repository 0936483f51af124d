"""The client's own guard: it sends no write to anything that this run did not make."""

from __future__ import annotations

import io
import ssl
import zipfile

import pytest
import requests
from pydicom import dcmread
from requests.adapters import BaseAdapter

from verification.client import Client, Refused
from verification.patient import CT, orthanc_id

OTHER = orthanc_id("somebody else")


class _Trap(BaseAdapter):
    """Stands where the network would be, so that nothing leaves even if the guard fails."""

    def send(self, *args: object, **kwargs: object) -> requests.Response:
        answer = requests.Response()
        answer.status_code = 200
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
        ("PUT", "/modalities/other"),
        ("PUT", f"/instances/{CT.instance}/metadata/1024"),
        ("PATCH", f"/patients/{CT.patient}"),
        ("POST", "/tools/reset"),
        ("POST", "/tools/execute-script"),
        ("POST", f"/patients/{OTHER}/anonymize"),
        ("POST", f"/patients/{CT.patient}/modify"),
        ("POST", "/tools/find/../reset"),
        ("DELETE", f"https://site.invalid/patients/{CT.patient}"),
        ("GET", "https://elsewhere.invalid/system"),
    ],
)
def test_guard_refuses(guarded: Client, method: str, path: str) -> None:
    with pytest.raises(Refused):
        guarded.request(method, path)


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
    assert guarded.delete(f"/patients/{CT.patient}").ok
    assert guarded.post("/tools/find", json={"Level": "Patient", "Query": {}}).ok
    assert guarded.get(f"/patients/{OTHER}").ok

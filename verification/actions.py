"""What several checks do with a site."""

from __future__ import annotations

import time
from typing import Any

import numpy
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from verification.client import DECLARED, Client
from verification.expect import expect
from verification.patient import MARK, NAMES, SCRIPT_ID, Image


def upload(client: Client, content: bytes) -> Any:
    """Upload a file, and return what Orthanc says of it."""
    answer = client.post("/instances", data=content)
    expect(f"POST /instances, {len(content)} bytes", 200, answer.status_code)
    return answer.json()


def finished(client: Client, job: str, seconds: float = 30) -> dict[str, Any]:
    """Wait for a job that is ours, and return what Orthanc says of it.

    :raises Unexpected: if it fails, or takes longer.
    """
    end = time.monotonic() + seconds
    while True:
        state: dict[str, Any] = client.json_at(f"/jobs/{job}")
        if state["State"] in ("Success", "Failure") or time.monotonic() > end:
            expect(f"state of job {state['Type']}", "Success", state["State"], "journalctl -u orthanc")
            return state
        time.sleep(0.05)


# How Python calls what Orthanc calls so.
ENCODINGS = {
    "Arabic": "iso8859_6",
    "Ascii": "ascii",
    "Chinese": "gb18030",
    "JapaneseKanji": "iso2022_jp",
    "Latin1": "latin_1",
    "Utf8": "utf_8",
}


def unwritable(dataset: Dataset, inside: dict[str, Any]) -> None:
    """Leave a name out that Orthanc's answers have no letters for, as it is configured."""
    encoding = inside["options"]["DefaultEncoding"] or "Latin1"
    try:
        str(dataset.PatientName).encode(ENCODINGS.get(encoding, "ascii"))
    except UnicodeEncodeError:
        pytest.skip(f"orthanc_settings.DefaultEncoding is {encoding}, which has no letters for this name; Utf8 has all")


def pam(content: bytes) -> NDArray[Any]:
    """Read a picture in the PAM format."""
    head, _, body = content.partition(b"ENDHDR\n")
    fields = dict(line.split(" ", 1) for line in head.decode().splitlines()[1:])
    kind = ">u2" if int(fields["MAXVAL"]) > 255 else "u1"
    return numpy.frombuffer(body, kind).reshape(int(fields["HEIGHT"]), int(fields["WIDTH"]))


def expect_array(what: str, expected: NDArray[Any], got: NDArray[Any], see: str = "") -> None:
    """Compare arrays by shape, and then by values."""
    expect(f"shape of {what}", expected.shape, got.shape, see)
    expect(f"values of {what} that differ", 0, int((expected != got).sum()), see)


def expect_pixels(what: str, client: Client, image: Image, route: str = "image-int16", see: str = "") -> None:
    """Compare the pixels of an image, as Orthanc reads them, with those that were sent: shape, and then values."""
    answer = client.get(f"/instances/{image.instance}/{route}", headers={"Accept": "image/x-portable-arbitrarymap"})
    expect(f"GET …/{route} as PAM, {what}", 200, answer.status_code, see)
    expected, got = image.dataset.pixel_array.astype(int), pam(answer.content).astype(int)
    expect(f"shape of {what}", expected.shape, got.shape)
    expect(f"pixels of {what} that differ", 0, int((expected != got).sum()), see)


def sweep(client: Client) -> None:
    """Remove what this suite made, now or in a run that was killed, and nothing else: it bears our marks.

    :raises Unexpected: if somebody else's patient has an ID of ours, or if something stays.
    """
    see = f"playbooks/verify.yml removes what is left of {MARK} when it runs again"
    for patient in _marked(client):
        # If it is somebody else's, neither name nor ID is for a report.
        tags = patient["MainDicomTags"]
        ours = tags.get("PatientName") in NAMES or tags["PatientID"] == SCRIPT_ID
        expect(f"a patient whose ID begins with {MARK} has a name of this suite", True, ours)
        client.own.add(patient["ID"])
        expect("DELETE of a disposable patient", 200, client.delete(f"/patients/{patient['ID']}").status_code, see)
    for kind in ("modalities", "peers"):
        if DECLARED in client.json_at(f"/{kind}"):
            expect(f"DELETE of {DECLARED} in {kind}", 200, client.delete(f"/{kind}/{DECLARED}").status_code)
    expect("disposable patients in the end", 0, len(_marked(client)), see)


def _marked(client: Client) -> list[dict[str, Any]]:
    answer = client.post("/tools/find", json={"Level": "Patient", "Query": {"PatientID": f"{MARK}*"}, "Expand": True})
    expect("/tools/find for disposable patients", 200, answer.status_code)
    return [found for found in answer.json() if found["MainDicomTags"]["PatientID"].startswith(MARK)]

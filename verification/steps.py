"""What several checks do with a site."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydicom import Dataset

from verification.client import Client
from verification.expect import expect


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

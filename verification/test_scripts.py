"""Scripts of the site that say what has to come out of an image."""

from __future__ import annotations

import io
import time
import uuid
from typing import Any

from pydicom import dcmread

from verification.client import Client
from verification.expect import expect
from verification.patient import SCRIPT_ID, uid
from verification.site import Site

# How long a script may take that works on an image after it is stored, in seconds.
PATIENCE = 15


def test_scripts_do_what_their_tests_say(site: Site, patient: Client) -> None:
    for name, test in site.script_tests.items():
        if test:
            expect_outcome(patient, name, test)


def expect_outcome(client: Client, name: str, test: dict[str, Any]) -> None:
    """Send the image as one of the disposable patient's, and compare what Orthanc has of it then."""
    dataset = dcmread(test["send"])
    dataset.PatientID = SCRIPT_ID
    # New ones each time: what a script has made of those of a run that was killed is in nobody's way.
    for level in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, level, uid(f"script {uuid.uuid4()}"))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    answer = client.post("/instances", data=buffer.getvalue())
    told = answer.json() if answer.ok else {}
    see = f"orthanc_scripts: {name}; journalctl -u orthanc"
    status = told.get("Status", f"answer {answer.status_code}")
    instance = f"/instances/{told['ID']}" if status == "Success" else ""
    wanted = "FilteredOut" if test.get("stored") is False else "Success"
    try:
        expect(f"what becomes of {test['send']}", wanted, status, see)
        if instance:
            expect_tags(client, instance, test, see)
    finally:
        # A script may have given it to another patient, whom the end of the run does not know.
        if instance:
            client.delete(instance)


def expect_tags(client: Client, instance: str, test: dict[str, Any], see: str) -> None:
    expected = {tag: str(value) for tag, value in (test.get("tags") or {}).items()}
    end = time.monotonic() + PATIENCE
    while True:
        found = client.get(f"{instance}/tags?simplify")
        tags = found.json() if found.ok else {}
        got = {tag: str(tags.get(tag, "")) for tag in expected}
        if got == expected or time.monotonic() > end:
            break
        time.sleep(0.2)
    expect(f"tags of {test['send']}, as it is stored", expected, got, see)

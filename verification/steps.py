"""What several checks do with a site."""

from __future__ import annotations

import time
from typing import Any

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

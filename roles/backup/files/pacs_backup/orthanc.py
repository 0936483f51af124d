# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Orthanc of this host, as the first of its users reaches it from the host itself."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import pathlib
from typing import Any, BinaryIO

from .common import MIB, read

# For how long it may take, in seconds; and for an image that is big.
USUAL, SLOW = 60, 600


class Orthanc:
    """The Orthanc of this host."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    def asked(
        self, method: str, path: str, body: BinaryIO | None = None, seconds: float = SLOW
    ) -> http.client.HTTPResponse:
        """Ask it. :raises OSError: if it does not answer."""
        users = read(pathlib.Path(self._settings["config_dir"], "credentials.json"))["RegisteredUsers"]
        login = base64.b64encode(":".join(next(iter(users.items()))).encode()).decode()
        headers = {"Authorization": f"Basic {login}"}
        if body:
            length = body.seek(0, 2)
            body.seek(0)
            headers["Content-Length"] = str(length)
        connection = http.client.HTTPConnection("127.0.0.1", self._settings["http_port"], timeout=seconds)
        connection.request(method, path, body=body, headers=headers)
        return connection.getresponse()

    def answer(self, path: str) -> bytes:
        """Return what it answers. :raises OSError: also if it is an error."""
        answer = self.asked("GET", path, seconds=USUAL)
        content = answer.read()
        if answer.status != 200:
            raise OSError(f"Orthanc answers {answer.status} to {path}")
        return content

    def has(self, image: str, level: str = "instances") -> bool:
        """Tell whether it has an image."""
        answer = self.asked("GET", f"/{level}/{image}")
        answer.read()
        if answer.status not in (200, 404):
            raise OSError(f"Orthanc answers {answer.status} to /{level}/{image}")
        return answer.status == 200

    def knows(self, owner: str) -> bool:
        """Tell whether it has something, of whatever level."""
        return any(self.has(owner, level) for level in ("instances", "series", "studies", "patients"))

    def digest(self, image: str) -> str:
        """Return the MD5 of an image as it is handed out; nothing if it is not."""
        answer, digest = self.asked("GET", f"/instances/{image}/file"), hashlib.md5(usedforsecurity=False)
        while block := answer.read(MIB):
            digest.update(block)
        return digest.hexdigest() if answer.status == 200 else ""

    def store(self, image: BinaryIO) -> str:
        """Store an image. Return why it was not."""
        try:
            with image:
                answer = self.asked("POST", "/instances", image)
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            # As one that answers before it has read all.
            return f"Orthanc hangs up ({type(error).__name__})"
        if answer.status != 200:
            return f"Orthanc answers {answer.status}"
        try:
            state = str(json.loads(content)["Status"])
        except (ValueError, KeyError, TypeError):
            state = "nothing"
        return "" if state in ("Success", "AlreadyStored") else f"Orthanc says {state}"

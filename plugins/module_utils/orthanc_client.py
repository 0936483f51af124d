# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The REST API of the Orthanc on this host."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any


class Unready(Exception):
    """Orthanc does not answer as it should; the message says how."""


class Declined(Unready):
    """Orthanc answers, and with an error."""


class Orthanc:
    """The Orthanc on this host by its configuration, past any proxy that the environment names."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """:param settings: what is not among them has Orthanc's own default."""
        self._base = f"http://127.0.0.1:{settings.get('HttpPort', 8042)}"
        users = settings.get("RegisteredUsers") or {"": ""}
        login = ":".join(next(iter(users.items())))
        self._headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, timeout: int = 10) -> Any:
        """Return the JSON at this path. :raises Unready: if there is none."""
        return self._ask("GET", path, None, timeout)

    def put(self, path: str, value: Any) -> None:
        """Have this JSON at this path. :raises Unready: if it is not taken."""
        self._ask("PUT", path, json.dumps(value).encode())

    def delete(self, path: str) -> None:
        """Have nothing at this path. :raises Unready: if that is refused."""
        folder, _, name = path.rpartition("/")
        # To ask for what is not there is a mistake to some parts of Orthanc.
        if urllib.parse.unquote(name) in self.get(folder):
            self._ask("DELETE", path)

    def store(self, image: bytes) -> str:
        """Store an image. Return Orthanc's identifier of it. :raises Declined: if it is not taken."""
        return str(self._ask("POST", "/instances", image, timeout=600)["ID"])

    def md5(self, instance: str, size: int = 0) -> tuple[str, str]:
        """Return the MD5 of so many first bytes of an image as it is handed out, and that of all of them.

        :raises Unready: if it is not told. An image that is not there has empty ones.
        """
        first, digest = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False)
        request = urllib.request.Request(f"{self._base}/instances/{instance}/file", headers=self._headers)
        try:
            with self._opener.open(request, timeout=600) as answer:
                while block := answer.read(1 << 20):
                    digest.update(block)
                    first.update(block[:size])
                    size -= min(size, len(block))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return "", ""
            raise Declined(f"{request.full_url} answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unready(f"{request.full_url} does not answer: {error}") from error
        return first.hexdigest(), digest.hexdigest()

    def _ask(self, method: str, path: str, body: bytes | None = None, timeout: int = 10) -> Any:
        request = urllib.request.Request(self._base + path, body, self._headers, method=method)
        try:
            with self._opener.open(request, timeout=timeout) as answer:
                return json.load(answer) if method in ("GET", "POST") else None
        except urllib.error.HTTPError as error:
            raise Declined(f"{self._base}{path} answers {error.code} {error.reason}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unready(f"{self._base}{path} does not answer: {error}") from error

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The REST API of the Orthanc on this host."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any


class Unready(Exception):
    """Orthanc does not answer as it should; the message says how."""


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

    def _ask(self, method: str, path: str, body: bytes | None = None, timeout: int = 10) -> Any:
        request = urllib.request.Request(self._base + path, body, self._headers, method=method)
        try:
            with self._opener.open(request, timeout=timeout) as answer:
                return json.load(answer) if method == "GET" else None
        except urllib.error.HTTPError as error:
            raise Unready(f"{self._base}{path} answers {error.code} {error.reason}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unready(f"{self._base}{path} does not answer: {error}") from error

"""An HTTP client that can do no harm: it writes only what belongs to the disposable patient."""

from __future__ import annotations

import base64
import io
import re
import ssl
import zipfile
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from pydicom import dcmread
from requests.adapters import HTTPAdapter

from verification.expect import expect
from verification.patient import PATIENT_ID, identifiers

READS = {"GET", "HEAD", "OPTIONS"}
QUERIES = {"/tools/find", "/tools/lookup"}
UPLOADS = {"/instances", "/dicom-web/studies"}
RESOURCE = re.compile(r"/(?:patients|studies|series|instances)/([0-9a-f]{8}(?:-[0-9a-f]{8}){4})")


class Refused(Exception):
    """A request that would change what this run did not make; it was not sent."""


class _Trust(HTTPAdapter):
    """Carries the one certificate that the site is trusted by."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave the context as it is; the library would add the authorities that it ships."""
        conn.cert_reqs = "CERT_REQUIRED"


class Client(requests.Session):
    """A session with one site. Paths begin with a slash and are those of Orthanc's REST API.

    ``own`` holds the Orthanc identifiers of what this run made: only that may be deleted.
    """

    def __init__(self, url: str, trust: ssl.SSLContext, login: tuple[str, str] | None = None) -> None:
        super().__init__()
        # Variables of the environment would name other certificates, proxies and passwords.
        self.trust_env = False
        self.base = url.rstrip("/")
        self.own: set[str] = set()
        self.mount("https://", _Trust(trust))
        if login:
            # A password may hold any character; the library would encode it as Latin-1.
            self.headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request to a path of the site, or to a URL on it."""
        kwargs["timeout"] = kwargs.get("timeout") or 60
        kwargs.setdefault("allow_redirects", False)
        target = url if isinstance(url, str) else url.decode()
        return super().request(method, self.base + target if target.startswith("/") else target, *args, **kwargs)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send what the guard lets pass. :raises Refused: for anything else."""
        self._guard(request)
        return super().send(request, **kwargs)

    def json_at(self, path: str) -> Any:
        """Return the JSON at a path."""
        answer = self.get(path)
        expect(f"GET {path}", 200, answer.status_code)
        return answer.json()

    def _guard(self, request: requests.PreparedRequest) -> None:
        url, method = str(request.url), str(request.method)
        if not url.startswith(f"{self.base}/"):
            raise Refused(f"{method} {url} is not on {self.base}")
        path = urlsplit(url).path[len(urlsplit(self.base).path) :]
        resource = RESOURCE.fullmatch(path)
        if method in READS or (method == "POST" and path in QUERIES):
            return
        if method == "POST" and path in UPLOADS:
            for content in _files(request):
                dataset = dcmread(io.BytesIO(content), stop_before_pixels=True)
                if dataset.PatientID != PATIENT_ID:
                    raise Refused(f"{method} {path}: an image of another patient than {PATIENT_ID}")
                self.own.update(identifiers(dataset))
        elif not (method == "DELETE" and resource and resource[1] in self.own):
            raise Refused(f"{method} {unquote(path)}: this run did not make it")


def _files(request: requests.PreparedRequest) -> list[bytes]:
    """Take the DICOM files out of a body: one file, a ZIP archive, or the parts of a STOW-RS request."""
    body, kind = request.body, str(request.headers.get("Content-Type", ""))
    if not isinstance(body, bytes):
        raise Refused("an upload that the guard cannot read")
    boundary = re.search(r'boundary="?([^";]+)', kind)
    if boundary:
        parts = body.split(b"--" + boundary[1].encode())[1:-1]
        return [part.partition(b"\r\n\r\n")[2] for part in parts]
    if body.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            return [archive.read(name) for name in archive.namelist()]
    return [body]

"""An HTTP client that can do no harm: it writes only what belongs to the disposable patient."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import ssl
import time
import zipfile
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import requests
from pydicom import dcmread
from requests.adapters import HTTPAdapter

from verification.expect import expect
from verification.patient import MARK, ROOT, identifiers

READS = {"GET", "HEAD", "OPTIONS"}
QUERIES = {"/tools/find", "/tools/lookup"}
UPLOAD = re.compile(r"/instances|/dicom-web/studies(?:/[0-9.]+)?")
# The name of the modality and of the peer that the run declares for a moment.
DECLARED = "pacs-verification"
RESOURCE = r"/(?:patients|studies|series|instances)/(?P<own>[0-9a-f]{8}(?:-[0-9a-f]{8}){4})"
# Jobs and queries have a name that Orthanc gives them.
TASK = r"(?P<own>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
# What may be done, with ``own`` made by this run and ``modality`` or ``peer`` named by its inventory.
WRITES = [
    re.compile(rule)
    for rule in (
        rf"DELETE {RESOURCE}",
        rf"(?:PUT|DELETE) {RESOURCE}/(?:metadata|attachments)/[\w-]+",
        rf"POST {RESOURCE}/attachments/[\w-]+/(?:compress|uncompress|verify-md5)",
        rf"POST {RESOURCE}/(?P<copy>anonymize|modify)",
        rf"POST {RESOURCE}/(?:archive|media)",
        r"POST /tools/(?P<list>bulk-delete|create-archive|create-media)",
        rf"(?:PUT|DELETE) /(?:modalities|peers)/{DECLARED}",
        r"POST /modalities/(?P<modality>[^/]+)/(?:echo|move|query)",
        r"POST /modalities/(?P<modality>[^/]+)/(?P<list>store|storage-commitment)",
        r"POST /peers/(?P<peer>[^/]+)/(?P<list>store)",
        rf"POST /queries/{TASK}(?:/answers/\d+)?/retrieve",
        rf"DELETE /queries/{TASK}",
        rf"POST /jobs/{TASK}/(?:cancel|pause|resume|resubmit)",
    )
]
# What differs from run to run in a path, and what stands for it in the report.
VARIES = {
    r"(?<=/modalities/)[^/]+|(?<=/peers/)[^/]+|(?<=/plugins/)[^/]+": "{name}",
    rf"{TASK.replace('?P<own>', '?:')}|[0-9a-f]{{8}}(?:-[0-9a-f]{{8}}){{4}}": "{id}",
    r"(?<=/)[0-9a-f]{4}[-,][0-9a-f]{4}(?=/|$)": "{tag}",
    r"(?<=/)\d+(?:\.\d+){2,}": "{uid}",
}
PATIENCE = 30
# After so many requests in a row that Orthanc did not answer, none is sent any more.
GIVEN_UP = 3
ABSENT = {502, 503, 504}


class Refused(Exception):
    """A request that would change what this run did not make; it was not sent."""


class Answer(requests.Response):
    """An answer that says what it is, where it is not the JSON that was asked for."""

    def json(self, **kwargs: Any) -> Any:
        """Return the JSON in the answer.

        :raises AssertionError: if there is none, with the status and the beginning of what came instead.
        """
        try:
            return super().json(**kwargs)
        except requests.JSONDecodeError:
            said = f"{self.status_code} and {self.text[:200]!r}"
            raise AssertionError(f"{self.request.method} {self.request.path_url} gave {said} instead of JSON") from None


class _Trust(HTTPAdapter):
    """Carries the one certificate that the site is trusted by."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def build_response(self, req: Any, resp: Any) -> Any:
        """Return an answer of the class above, which is the library's with words added."""
        answer = super().build_response(req, resp)
        answer.__class__ = Answer
        return answer

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave the context as it is; the library would add the authorities that it ships."""
        conn.cert_reqs = "CERT_REQUIRED"


class Client(requests.Session):
    """A session with one site. Paths begin with a slash and are those of Orthanc's REST API.

    ``own`` holds the identifiers of what this run made: only that may be changed or deleted, and sent
    only to ``modalities`` and ``peers``. Without ``writes`` nothing may.
    """

    # What was sent, by all of them.
    sent: ClassVar[list[str]] = []

    def __init__(
        self, url: str, trust: ssl.SSLContext, login: tuple[str, str] | None = None, writes: bool = True
    ) -> None:
        super().__init__()
        # Variables of the environment would name other certificates, proxies and passwords.
        self.trust_env = False
        self.base = url.rstrip("/")
        self.writes = writes
        self.own: set[str] = set()
        self.modalities: set[str] = set()
        self.peers: set[str] = set()
        self.unanswered = 0
        self.mount("https://", _Trust(trust))
        if login:
            # A password may hold any character; the library would encode it as Latin-1.
            self.headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request to a path of the site, or to a URL on it."""
        kwargs["timeout"] = kwargs.get("timeout") or PATIENCE
        kwargs.setdefault("allow_redirects", False)
        target = url if isinstance(url, str) else url.decode()
        return super().request(method, self.base + target if target.startswith("/") else target, *args, **kwargs)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send what the guard lets pass.

        :raises Refused: for anything else.
        :raises requests.ConnectionError: at once, when the site has left several requests without an answer.
        """
        creates = self._guard(request)
        if self.unanswered >= GIVEN_UP:
            reason = f"{self.base} has stopped to answer and is not asked any more; journalctl -u orthanc"
            raise requests.ConnectionError(reason)
        self.sent.append(self.call(request))
        try:
            answer = super().send(request, **kwargs)
        except requests.RequestException:
            self.unanswered += 1
            raise
        self.unanswered = self.unanswered + 1 if answer.status_code in ABSENT else 0
        if creates and answer.ok and answer.headers.get("Content-Type", "").startswith("application/json"):
            made = answer.json()
            # What a script has made of an image of ours is ours, unless somebody else has that already.
            made = {} if isinstance(made, dict) and made.get("Status") == "AlreadyStored" else made
            self.own.update(str(made[key]) for key in ("ID", "PatientID") if isinstance(made, dict) and key in made)
        return answer

    def recover(self, seconds: float = 30) -> None:
        """Wait until a site that fell silent answers again, for what has to be done there all the same."""
        end = time.monotonic() + seconds
        while self.unanswered and time.monotonic() < end:
            self.unanswered = 0
            with contextlib.suppress(requests.RequestException):
                self.get("/changes?last", timeout=5)
            if self.unanswered:
                time.sleep(1)

    def json_at(self, path: str) -> Any:
        """Return the JSON at a path."""
        answer = self.get(path)
        expect(f"GET {path}", 200, answer.status_code)
        return answer.json()

    def adopt(self, study: str) -> list[str]:
        """Count what a study of this run consists of to what it made, and return its instances."""
        if study not in self.own:
            raise Refused(f"study {study}: this run did not make it")
        instances = [str(instance["ID"]) for instance in self.json_at(f"/studies/{study}/instances")]
        self.own.update(instances, (str(series["ID"]) for series in self.json_at(f"/studies/{study}/series")))
        return instances

    def call(self, request: requests.PreparedRequest) -> str:
        """Name a call as documentation does: without identifiers, and of its query the keys alone."""
        parts = urlsplit(str(request.url))
        path = parts.path[len(urlsplit(self.base).path) :]
        for pattern, word in VARIES.items():
            path = re.sub(pattern, word, path)
        keys = sorted({key.partition("=")[0] for key in parts.query.split("&")} - {""})
        return f"{request.method} {path}{'?' if keys else ''}{'&'.join(keys)}"

    def _guard(self, request: requests.PreparedRequest) -> bool:
        """Tell whether what is asked for makes something that is ours then."""
        url, method = str(request.url), str(request.method)
        if not url.startswith(f"{self.base}/"):
            raise Refused(f"{method} {url} is not on {self.base}")
        path = urlsplit(url).path[len(urlsplit(self.base).path) :]
        # Orthanc takes GET …?_method=DELETE for a DELETE.
        disguised = "_method" in parse_qs(urlsplit(url).query) or "X-HTTP-Method-Override" in request.headers
        if not disguised and (method in READS or (method == "POST" and path in QUERIES)):
            return False
        if not self.writes:
            raise Refused(f"{method} {unquote(path)}: this run only reads")
        if method == "POST" and UPLOAD.fullmatch(path):
            for content in _files(request):
                dataset = dcmread(io.BytesIO(content), stop_before_pixels=True)
                ours = str(dataset.PatientID).startswith(MARK) and str(dataset.StudyInstanceUID).startswith(f"{ROOT}.")
                if not ours:
                    raise Refused(f"{method} {path}: an image of another patient than {MARK}")
                self.own.update(identifiers(dataset))
            return True
        rule = next(filter(None, (rule.fullmatch(f"{method} {path}") for rule in WRITES)), None)
        if not rule or not self._ours(rule.groupdict(), request):
            raise Refused(f"{method} {unquote(path)}: this run did not make it")
        return method == "POST"

    def _ours(self, named: dict[str, str | None], request: requests.PreparedRequest) -> bool:
        """Tell whether a write touches only what this run made, by the parts of its path and its body."""
        if named.get("own", "") and named["own"] not in self.own:
            return False
        for kind, allowed in (("modality", self.modalities), ("peer", self.peers)):
            if named.get(kind) and named[kind] not in allowed:
                return False
        try:
            body = json.loads(request.body or "{}") if named.get("list") or named.get("copy") else {}
        except ValueError:
            # A single resource may stand there without quotes.
            body = [(request.body if isinstance(request.body, str) else bytes(request.body or b"").decode()).strip()]
        if named.get("list"):
            resources = body.get("Resources") if isinstance(body, dict) else body
            return isinstance(resources, list) and bool(resources) and set(resources) <= self.own
        if named.get("copy"):
            # A copy has to be found again when this run is killed.
            if not isinstance(body, dict) or not body:
                return False
            given = str(body.get("Replace", {}).get("PatientID", "" if named["copy"] == "anonymize" else MARK))
            return given.startswith(MARK) and "PatientID" not in body.get("Remove", [])
        return True


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

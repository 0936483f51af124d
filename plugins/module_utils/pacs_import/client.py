# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive: kept connections, one for each thread, and what its answers mean for an import."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import quote, urlsplit

from .content import Changed, Exactly, md5
from .streams import Refused

# Seconds. While its database is away, Orthanc itself tries for 50 s before it answers.
TIMEOUT, SHORTEST, LONGEST = 120, 0.5, 30.0
# How often an image is sent of which the server says that it fails, and not that it is the image; and how often one
# that gets no answer, while everything else does.
ATTEMPTS, UNANSWERED = 4, 6
BLOCK = 1 << 18
# No answer that is kept in memory is larger.
LARGEST = 1 << 28
JSON = "application/json"
# The server, or what is before it, is not there at the moment, or has too much to do.
AWAY = {429, 502, 503, 504}


class Ended(Exception):
    """No further image can be sent; the message says why, and what to do."""


class Silent(Ended):
    """The server has given nothing useful for too long."""


class Lost(Exception):
    """A request without an answer: whether it arrived is not known.

    :param kept: whether the connection had carried others before.
    """

    def __init__(self, why: str, kept: bool) -> None:
        super().__init__(why)
        self.kept = kept


@dataclass(frozen=True)
class Answer:
    """What the server has answered."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        """Return the JSON in it, or nothing if it has none."""
        try:
            return json.loads(self.body)
        except (RecursionError, ValueError):
            return None

    @property
    def reason(self) -> str:
        """What is wrong, in the server's own words."""
        said = self.json()
        if isinstance(said, dict):
            words = [str(said[key]) for key in ("Message", "Details") if said.get(key)]
            return f"{self.status}, {': '.join(words)}" if words else str(self.status)
        page = self.body[:1000].decode("utf-8", "replace")
        title = re.search(r"<title>(?:\d+ )?([^<]*)</title>", page)
        first = title[1] if title else page.strip().partition("\n")[0][:200]
        return f"{self.status}, {first}" if first else str(self.status)


def trust(authority: str = "", certificate: str = "", key: str = "") -> ssl.SSLContext:
    """Trust one authority, or one certificate itself, or else what this machine trusts; and show a certificate.

    :param authority: a file, or its text; the others are files. Empty for none.
    :raises Ended: where certificate and key are no pair that can be shown.
    """
    text = authority if "-----BEGIN" in authority else None
    context = ssl.create_default_context(cafile=None if text else authority or None, cadata=text)
    if authority:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # Newer Pythons hold a site's own authority to rules that older ones do not know.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if certificate:
        try:
            # Without a terminal nobody can be asked for the password of a key.
            context.load_cert_chain(certificate, key or None, password=lambda: "")
        except ssl.SSLError as error:
            raise Ended(
                f"{certificate} and {key or 'what else is in it'} are no certificate in PEM form with its own key,"
                f" without a password ({error})"
            ) from error
    return context


class Gate:
    """Keeps all threads from a server that takes nothing at the moment, and gives it up after a time without success.

    :param patience: in seconds.
    :param stopped: whether the import is to end anyway.
    """

    def __init__(self, patience: float, stopped: Callable[[], bool] = lambda: False) -> None:
        self._patience, self._stopped = patience, stopped
        self._lock = threading.Lock()
        self._opens, self._delay = 0.0, SHORTEST
        # Reading may go well for long where nothing can be written.
        self._since: dict[str, float] = {}
        self.closed = 0

    def wait(self) -> None:
        """Wait until the server may be asked again. :raises Ended: if the import is to end."""
        while (left := self._opens - time.monotonic()) > 0:
            if self._stopped():
                raise Ended("interrupted")
            time.sleep(min(left, 0.2))

    def failed(self, method: str, why: str, after: str = "") -> None:
        """Close it for a while, for longer each time.

        :param after: the seconds that the server asks for, as it writes them.
        :raises Silent: where it has failed for so long that nobody should wait any more.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._since.setdefault(method, now) > self._patience:
                raise Silent(f"the archive has answered nothing useful for {self._patience:.0f} s: {why}")
            if now < self._opens:
                return
            asked = float(after) if after.isdigit() else 0.0
            # Not all at the same moment.
            self._opens = now + min(LONGEST, max(asked, self._delay * random.uniform(0.5, 1.5)))
            self._delay = min(LONGEST, self._delay * 2)
            self.closed += 1

    def passed(self, method: str) -> None:
        """Note that the server has done what it was asked."""
        if self._since:
            with self._lock:
                self._since.pop(method, None)
                self._delay = SHORTEST


# What is made of an answer while it is read.
Reader = Callable[[http.client.HTTPResponse], bytes]


def whole(answer: http.client.HTTPResponse, largest: int = 0, error: Exception | None = None) -> bytes:
    """Read an answer at once. :raises Ended: where it is without end, or what is to be raised then."""
    largest = largest or LARGEST
    body = bytearray()
    for part in parts(answer):
        body += part
        if len(body) > largest:
            raise error or Ended(f"an answer of more than {largest >> 20} MB, which is none of an archive")
    return bytes(body)


def parts(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Read an answer piece by piece. :raises http.client.IncompleteRead: where it ends too early."""
    while part := answer.read(1 << 20):
        yield part
    if answer.length:
        # The library says so only where it is read at once.
        raise http.client.IncompleteRead(b"", answer.length)


def summed(answer: http.client.HTTPResponse) -> bytes:
    """Return the sum of an answer instead of itself, since an image may be large."""
    made = md5()
    for part in parts(answer):
        made.update(part)
    return str(made.hexdigest()).encode()


class Archive:
    """An Orthanc, directly or behind a proxy.

    :param login: user and password; empty where a certificate is enough, or nothing is asked.
    """

    def __init__(self, url: str, login: tuple[str, str], context: ssl.SSLContext | None, gate: Gate) -> None:
        try:
            parts = urlsplit(url)
            port, fits = parts.port, parts.scheme in ("http", "https") and not parts.query and not parts.username
        except ValueError:
            fits = False
        if not fits or not parts.hostname:
            raise Ended(
                f"{url} is no address of an archive, such as https://pacs.example.org/ (a login goes elsewhere)"
            )
        self.url, self._path = url.rstrip("/"), quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        self._host, self._port, self._context = parts.hostname, port, context if parts.scheme == "https" else None
        self._headers: dict[str, str] = {}
        if any(login):
            # A password may hold any character.
            self._headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        self.gate = gate
        self._local = threading.local()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Exactly | None = None,
        size: int = 0,
        read: Reader = whole,
        accept: str = JSON,
    ) -> Answer:
        """Send one request over this thread's connection.

        :param size: of a body that is read meanwhile.
        :param read: makes of an answer what is kept of its body.
        :raises Lost: where no answer came.
        :raises Ended: where none will come, since the certificate is not trusted.
        :raises Changed: where the body became shorter.
        """
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        kept = connection is not None
        if connection is None:
            connection = self._local.connection = self._connect()
        headers = self._headers | {"Accept": accept}
        if body is not None:
            length = size if isinstance(body, Exactly) else len(body)
            headers |= {"Content-Type": "application/dicom", "Content-Length": str(length)}
        try:
            if connection.sock is None:
                connection.connect()
            # A server may say why, before it closes the connection on what it does not want.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, self._path + path, body, headers)
            answer = connection.getresponse()
            kept_of_it = Answer(answer.status, answer.headers, read(answer))
        except ssl.SSLCertVerificationError as error:
            raise Ended(f"{self.url}: its certificate is not trusted ({error.verify_message})") from error
        except (OSError, http.client.HTTPException) as error:
            self.drop()
            hint = "; does it ask for a client certificate?" if isinstance(error, ssl.SSLError) else ""
            raise Lost(f"{self.url} gives no answer: {error or type(error).__name__}{hint}", kept) from error
        except (Changed, Refused, Ended):
            self.drop()
            raise
        if answer.will_close:
            self.drop()
        return kept_of_it

    def drop(self) -> None:
        """Close this thread's connection; the next request makes another one."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
        self._local.connection = None

    def patiently(
        self,
        method: str,
        path: str,
        body: Callable[[], bytes | Exactly] | None = None,
        size: int = 0,
        read: Reader = whole,
        accept: str = JSON,
    ) -> tuple[Answer, bool]:
        """Ask again and again as long as there is hope, and return whether an earlier try may have arrived, too.

        :param body: makes the body anew for each try.
        :raises Ended: where there is no hope.
        :raises Lost: where there is none for this body alone, or for what is to be fetched.
        """
        repeated, failures, lost = False, 0, 0
        while True:
            self.gate.wait()
            try:
                answer = self.ask(method, path, body() if body else None, size, read, accept)
            except Lost as error:
                # A server may close a connection just when it is taken up again.
                if not error.kept or repeated:
                    self.gate.failed(method, str(error))
                    lost += 1
                if (body or read is not whole) and lost >= UNANSWERED and self._answers():
                    raise
                repeated = True
                continue
            if answer.status in AWAY:
                repeated = True
                self.gate.failed(method, answer.reason, answer.headers.get("Retry-After", ""))
                continue
            if answer.status == 500 and failures < ATTEMPTS - 1:
                # That may be this one image's own matter.
                repeated, failures = True, failures + 1
                time.sleep(SHORTEST * failures)
                continue
            self.refuse(answer)
            if answer.status == 200 and answer.headers.get_content_type() == "text/html":
                # By its login, a proxy answers whatever is asked.
                raise Ended(f"{self.url} answers {method} {path} with a page for people, as one to log in by is")
            self.gate.passed(method)
            return answer, repeated

    def _answers(self) -> bool:
        try:
            # DICOMweb has no such path.
            return self.ask("GET", "/system").status < 500
        except Lost:
            return False

    def get(self, path: str) -> Answer:
        """Ask for something. :raises Ended: see above."""
        return self.patiently("GET", path)[0]

    def described(self, path: str) -> dict[str, Any]:
        """Return what a resource is; nothing where there is none. :raises Ended: where something else is answered."""
        answer = self.get(path)
        said = answer.json()
        if answer.status != 200:
            return {}
        if not isinstance(said, dict):
            raise Ended(f"{self.url}{path} describes nothing: {answer.reason}")
        return said

    def listed(self, path: str) -> list[dict[str, Any]]:
        """Ask for a list of resources. :raises Ended: where something else is answered, and above."""
        return self._resources(self.get(path), path)

    def lookup(self, name: str, level: str) -> list[str]:
        """Return what Orthanc calls the resources of a level that have an identifier. :raises Ended: see above."""
        path = "/tools/lookup"
        answer, _ = self.patiently("POST", path, name.encode)
        return [str(one["ID"]) for one in self._resources(answer, path) if one.get("Type") == level]

    def _resources(self, answer: Answer, path: str) -> list[dict[str, Any]]:
        said = answer.json()
        good = answer.status == 200 and isinstance(said, list)
        if not good or not all(isinstance(one, dict) for one in said):
            raise Ended(f"{self.url}{path} gives no list of resources: {answer.reason}")
        return list(said)

    def md5(self, instance: str) -> str:
        """Return the sum that is kept of an image, or nothing if none is. :raises Ended: see above."""
        answer = self.get(f"/instances/{instance}/attachments/dicom/md5")
        return answer.body.decode("ascii", "replace").strip() if answer.status == 200 else ""

    def digest(self, path: str) -> str:
        """Return the sum of what is served there, or nothing if nothing is. :raises Ended: see above."""
        try:
            answer, _ = self.patiently("GET", path, read=summed)
        except Lost:
            # Everything else is answered.
            return ""
        return answer.body.decode() if answer.status == 200 else ""

    def begin(self) -> dict[str, Any]:
        """Meet the server, and return what it says of itself. :raises Ended: where it is no Orthanc, or not there."""
        answer, system = self.meet()
        if not system:
            raise Ended(f"{self.url}/system gives {answer.reason} where an Orthanc would describe itself")
        return system

    def meet(self) -> tuple[Answer, dict[str, Any]]:
        """Meet the server, and return what it says of itself if it is an Orthanc. :raises Ended: if it is not there."""
        try:
            answer = self.ask("GET", "/system")
        except Lost as error:
            raise Ended(str(error)) from error
        self.refuse(answer)
        system = answer.json()
        known = answer.status == 200 and isinstance(system, dict) and "ApiVersion" in system
        return answer, system if known else {}

    def refuse(self, answer: Answer) -> None:
        """Tell the answers after which no other will be better. :raises Ended: for these."""
        if answer.status == 401:
            raise Ended(f"401, the archive refuses the login ({self.url})")
        if answer.status == 403:
            raise Ended(f"403, the user may not do this ({self.url}): {answer.reason}")
        if answer.status == 507:
            raise Ended(f"the archive has no room left: {answer.reason}")
        if 300 <= answer.status < 400:
            raise Ended(f"{self.url} refers to {answer.headers.get('Location', 'elsewhere')}; import to that address")

    def _connect(self) -> http.client.HTTPConnection:
        if self._context:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=TIMEOUT, context=self._context, blocksize=BLOCK
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT, blocksize=BLOCK)

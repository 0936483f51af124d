"""Stands in for an Orthanc where it has to misbehave: a server that keeps images, and fails when it is told to."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import ssl
import threading
from collections.abc import Callable
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import header

LOGIN = "Basic dXNlcjpwYXNzw6R3b3Jk"  # user:passäword
# What is done instead of an answer: nothing, or the answer is lost after it was done, or bytes that are none.
DROP, LOSE, NOISE = 0, -1, -2
# The status with which it fails, or a whole answer; nothing to let it pass.
Answered = int | tuple[int, dict[str, str], bytes] | None
# Tells that by method, path and the number of the request.
Fault = Callable[[str, str, int], Answered]

read = functools.cache(header.read)


class StandIn:
    """One server on this machine, with what it was asked."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.images: dict[str, bytes] = {}
        self.lost: set[str] = set()
        self.system: dict[str, Any] = {"ApiVersion": 27, "Version": "1.12.7", "IngestTranscoding": ""}
        self.system |= {"MaximumStorageSize": 0, "MaximumPatientCount": 0}
        self.plugins: list[str] = []
        self.statistics: dict[str, Any] = {"TotalDiskSize": "0", "CountPatients": 0}  # and CountInstances, if not set
        self.fault: Fault = lambda *_: None
        self.asked: list[tuple[str, str]] = []
        self.login = LOGIN
        self.connections = self.open = 0
        self.busiest = self._busy = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stand_in = self
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self._server.server_port}/pacs/"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def idle(self) -> bool:
        """Tell whether nobody is connected any more: what a killed one has sent is still read to its end."""
        return not self.open

    def count(self, by: int) -> None:
        with self._lock:
            self.open += by

    def sent(self) -> int:
        """Return how many images were sent to it, whatever it has answered."""
        return self.asked.count(("POST", "/instances"))

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        with self._lock:
            self.asked.append((method, path))
            number = self.asked.count((method, path))
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            wrong = self.fault(method, path, number)
            if isinstance(wrong, tuple):
                return wrong
            if wrong == LOSE:
                self._do(method, path, body)
            if wrong is not None:
                return wrong, {}, json.dumps({"Message": "A fault", "Details": "as it was told"}).encode()
            return self._do(method, path, body)
        finally:
            with self._lock:
                self._busy -= 1

    def _do(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = path.strip("/").split("/")
        if path in ("/system", "/plugins"):
            return 200, {}, json.dumps(getattr(self, parts[0])).encode()
        if path == "/statistics":
            return 200, {}, json.dumps({"CountInstances": len(self.images), **self.statistics}).encode()
        if path.startswith("/series?"):
            since, limit = (int(part.partition("=")[2]) for part in path.partition("?")[2].split("&"))
            series = sorted({self._parents(data)[2] for data in self.images.values()})
            return 200, {}, json.dumps(series[since : since + limit]).encode()
        if (method, path) == ("POST", "/instances"):
            return self._store(body)
        if path == "/tools/lookup":
            return 200, {}, json.dumps(self._lookup(body.decode())).encode()
        if path == "/tools/bulk-content":
            return 200, {}, json.dumps(self._content(json.loads(body)["Resources"])).encode()
        if path == "/tools/find":
            return 200, {}, json.dumps(self._find(json.loads(body))).encode()
        found = [image for image, data in self.images.items() if parts[1] in (image, *self._parents(data))]
        if not found:
            return 404, {}, b""
        if parts[0] == "series" and len(parts) == 2:
            return 200, {}, json.dumps({"Instances": found}).encode()
        if parts[2:] == ["instances?expand=false"]:
            return 200, {}, json.dumps(found).encode()
        if parts[2:] == ["instances"]:
            return 200, {}, json.dumps([{"ID": image} for image in found]).encode()
        if parts[0] == "studies":
            patient = read(self.images[found[0]]).patient
            return 200, {}, json.dumps({"PatientMainDicomTags": {"PatientID": patient}}).encode()
        if parts[0] == "patients":
            return 200, {}, b"{}"
        data = self.images[parts[1]]
        if parts[2:] in (["study"], ["series"]):
            own = {"StudyInstanceUID": read(data).study, "SeriesInstanceUID": read(data).series}
            return 200, {}, json.dumps({"MainDicomTags": own}).encode()
        if parts[2:] == ["attachments", "dicom", "md5"]:
            return 200, {}, hashlib.md5(data).hexdigest().encode()
        if parts[1] in self.lost:
            return 404 if method == "GET" else 400, {}, b""
        if parts[2:] == ["attachments", "dicom", "verify-md5"]:
            return 200, {}, b"{}"
        if parts[2:] == ["metadata", "TransferSyntax"]:
            return 200, {}, read(data).syntax.encode()
        return 200, {}, data

    def _store(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        try:
            found = read(body)
        except header.Broken:
            return 400, {}, json.dumps({"Message": "Bad file format", "Details": "Cannot parse it"}).encode()
        if not found.series:
            return 404, {}, json.dumps({"Message": "Inexistent tag"}).encode()
        image = identifier(found, 3)
        with self._lock:
            status = "AlreadyStored" if image in self.images else "Success"
            if status == "Success" or self.system.get("OverwriteInstances"):
                self.images[image] = body
        return 200, {}, json.dumps({"ID": image, "ParentSeries": identifier(found, 2), "Status": status}).encode()

    def _lookup(self, uid: str) -> list[dict[str, str]]:
        found = {}
        for image, data in self.images.items():
            of = read(data)
            if of.instance == uid:
                found[image] = "Instance"
            if of.study == uid:
                found[identifier(of, 1)] = "Study"
            if of.series == uid:
                found[identifier(of, 2)] = "Series"
            if of.patient == uid:
                found[identifier(of, 0)] = "Patient"
        return [{"ID": one, "Type": level} for one, level in found.items()]

    def _find(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        # As 1.12.7 answers, but that it tells more.
        if query["Level"] == "Study":
            wanted = query["Query"]["StudyInstanceUID"].split("\\")
            assert wanted != [""]
            found = {identifier(read(data), 1): read(data) for data in self.images.values()}
            tags = {study: ({"StudyInstanceUID": of.study}, {"PatientID": of.patient}) for study, of in found.items()}
            return [
                {"ID": study, "MainDicomTags": own, "PatientMainDicomTags": patient}
                for study, (own, patient) in tags.items()
                if own["StudyInstanceUID"] in wanted
            ]
        assert (query["Level"], query["Query"], query["ResponseContent"]) == ("Instance", {}, ["Attachments"])
        return [
            {"Attachments": [{"ContentType": 1, "UncompressedMD5": hashlib.md5(data).hexdigest()}], "ID": image}
            for image, data in self.images.items()
            if query["ParentSeries"] in self._parents(data)
        ]

    def _content(self, wanted: list[str]) -> list[dict[str, Any]]:
        """Describe several series; those that are not there are left out."""
        series: dict[str, list[str]] = {}
        for image, data in self.images.items():
            series.setdefault(self._parents(data)[2], []).append(image)
        return [{"ID": one, "Instances": series[one]} for one in wanted if one in series]

    @staticmethod
    def _parents(data: bytes) -> list[str]:
        return [identifier(read(data), level) for level in range(3)]


def identifier(of: header.Header, level: int) -> str:
    """Return what Orthanc would call it; it reads patients' identifiers in all letters."""
    parts = (of.patient, of.study, of.series, of.instance)[: level + 1]
    digest = hashlib.sha1("|".join(parts).encode()).hexdigest()
    return "-".join(digest[place : place + 8] for place in range(0, 40, 8))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    stand_in: StandIn

    def handle_error(self, *_: Any) -> None:
        """A connection that breaks is a part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 10
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.stand_in.connections += 1
        self.server.stand_in.count(1)

    def finish(self) -> None:
        self.server.stand_in.count(-1)
        super().finish()

    def do_GET(self) -> None:
        stand_in = self.server.stand_in
        path = self.path.removeprefix("/pacs")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, data = 401, dict[str, str](), b"<html><title>401 Authorization Required</title></html>"
        if self.headers.get("Authorization", "") == stand_in.login:
            status, headers, data = stand_in.answer(self.command, path, body)
        if status in (DROP, LOSE, NOISE):
            if status == NOISE:
                self.wfile.write(b"\0\1\2\3\r\n\r\n")
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        # What was announced and does not come is not waited for.
        self.close_connection |= int(headers.get("Content-Length", 0)) > len(data)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Its tests look at what it was asked."""

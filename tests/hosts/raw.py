"""Requests as bytes, as no client library would send them."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl

CONTEXT = ssl.create_default_context()
# It is about what the host lets in, not about who it is.
CONTEXT.check_hostname = False
CONTEXT.verify_mode = ssl.CERT_NONE


def send(address: str, data: bytes, port: int = 443, context: ssl.SSLContext = CONTEXT, wait: float = 60) -> bytes:
    """Send bytes over TLS and return what comes back until the server closes, or is silent for so many seconds."""
    received = b""
    with (
        socket.create_connection((address, port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=address) as secured,
        contextlib.suppress(OSError),
    ):
        secured.settimeout(wait)
        secured.sendall(data)
        while part := secured.recv(65536):
            received += part
    return received


def status(answer: bytes) -> int:
    """Return the status code of the first answer in these bytes; 0 if there is none."""
    words = answer.split(b" ", 2)
    return int(words[1]) if answer.startswith(b"HTTP/") else 0


def basic(user: str, password: str) -> bytes:
    """Return the header of a login."""
    return b"Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()) + b"\r\n"


def request(target: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    """Return a request for a target as it stands here, after which the connection ends."""
    return b"%s %s HTTP/1.1\r\nHost: x\r\n%sConnection: close\r\n\r\n" % (method, target, b"".join(headers))


# Targets that lead two servers to two resources; {} stands for the way to Orthanc, with its slashes, and ID for a
# patient. With ?_method=DELETE after them each would delete that patient if the proxy took it for another resource.
TRICKS = [
    b"{}dicom-web/#/../../../patients/ID",
    b"{}dicom-web/\\../../patients/ID",
    b"{}dicom-web/..\\..\\..\\patients\\ID",
    b"{}dicom-web/%5c../../patients/ID",
    b"{}dicom-web/..%5c..%5c..%5cpatients%5cID",
    b"{}dicom-web/%2e%2e/%2e%2e/patients/ID",
    b"{}dicom-web/.%2e/patients/ID",
    b"{}dicom-web/..%2f..%2fpatients%2fID",
    b"{}dicom-web/%252e%252e/%252e%252e/patients/ID",
    b"{}dicom-web/%252e%252e%252f%252e%252e%252fpatients/ID",
    b"{}dicom-web//../../patients/ID",
    b"{}dicom-web/%2f../patients/ID",
    b"{}dicom-web/x/..;/..;/..;/patients/ID",
    b"{}dicom-web/%c0%ae%c0%ae/patients/ID",
    b"{}dicom-web/studies?x#/../../../../patients/ID",
    b"{}dicom-web/%00/../../patients/ID",
    b"{}dicom-web/\x00/../../patients/ID",
    b"{}dicom-web/%0d%0aX:%20y/../../../patients/ID",
    b"{}dicom-web/\t/../../../patients/ID",
    b"{}dicom-web/ /../../../patients/ID",
    b"{}./patients/ID",
    b"{}..patients/ID",
    b"{}patients/..ID",
    b"{}.../patients/ID",
    b"{}x/../patients/ID",
    b"/{}patients/ID",
    b"{}patients//ID",
    b"{}patients/ID/.",
    b"{}patients/ID/..",
    b"{}patients/./ID",
    b"http://x{}patients/ID",
    b"https://x{}patients/ID",
    b"http://127.0.0.1:8042/patients/ID",
    b"patients/ID",
    b"*",
]
# What clients really send.
USUAL = [
    b"{}system",
    b"{}%73ystem",
    b"{}patients/ID",
    b"{}patients/ID/?expand",
    b"{}patients?since=0&limit=10&expand=",
    b"{}studies?x=%2F..%2F%23%5C%00%252e//../",
    b"{}dicom-web/studies?PatientName=M%C3%BCller%5EJ*&includefield=00081030&limit=5&fuzzymatching=true",
    b'{}dicom-web/studies?PatientName=Doe^J*&StudyDate=20200101-20261231&00100020=[a]|{b}"<c>',
    b"{}dicom-web/instances?StudyInstanceUID=1.2.3,4.5.6",
    b"{}wado?requestType=WADO&contentType=application/dicom%2Bjson&studyUID=1.2",
    b"{}modalities/a%20b",
    b"{}modalities/a^b[c]|{d}~!$&'()*+,;=:@-._",
    b"{}modalities/M%C3%BCller%5E%5BJ%5D%25",
    b"{}modalities/100%25",
    b"{}modalities/a..b.",
]


def of(targets: list[bytes], prefix: str, patient: str) -> list[bytes]:
    """Fill in the targets above."""
    return [target.replace(b"{}", prefix.encode(), 1).replace(b"ID", patient.encode()) for target in targets]

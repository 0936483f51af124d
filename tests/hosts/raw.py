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


Fields = list[tuple[bytes, bytes]]


def _field(name: bytes, value: bytes) -> bytes:
    """Return a field as HTTP/2 has it, neither compressed nor remembered."""
    text = b"\0"
    for part in (name, value):
        rest = len(part) - 127
        text += bytes([min(len(part), 127)])
        while rest >= 128:
            text, rest = text + bytes([rest % 128 + 128]), rest // 128
        text += (bytes([rest]) if rest >= 0 else b"") + part
    return text


def _frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def _status2(block: bytes) -> int:
    """Return the status that a block of fields begins with, as nginx writes it."""
    known = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
    return known[block[0]] if block[0] in known else int(block[2:5])


def send2(address: str, requests: list[tuple[Fields, bytes]], context: ssl.SSLContext, wait: float = 30) -> list[int]:
    """Send requests over one connection of HTTP/2, all at once. Return the status of each; 0 where there is none."""
    data = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0) + _frame(4, 1, 0)
    for number, (fields, body) in enumerate(requests):
        block = b"".join(_field(*field) for field in fields)
        data += _frame(1, 4 if body else 5, 2 * number + 1, block)
        data += _frame(0, 1, 2 * number + 1, body) if body else b""
    found, received = [0] * len(requests), b""
    left = {2 * number + 1 for number in range(len(requests))}
    with (
        socket.create_connection((address, 443), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=address) as secured,
        contextlib.suppress(OSError),
    ):
        assert secured.selected_alpn_protocol() == "h2"
        secured.settimeout(wait)
        secured.sendall(data)
        while left and (part := secured.recv(65536)):
            received += part
            while len(received) >= 9 and len(received) >= 9 + (size := int.from_bytes(received[:3], "big")):
                kind, flags, stream = received[3], received[4], int.from_bytes(received[5:9], "big")
                if kind == 1:
                    found[stream // 2] = _status2(received[9:])
                if kind == 3 or (kind in (0, 1) and flags & 1):
                    left.discard(stream)
                received = received[9 + size :]
    return found


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
    b"{}patients./ID",
    b"{}patients../ID",
    b"{}patients/ID.",
    b"{}patients/ID./",
    b"{}patients/ID...",
    b"{}patients/ID%2e",
    b"{}modalities/a..b.",
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
    b"{}modalities/a..b",
]


def of(targets: list[bytes], prefix: str, patient: str) -> list[bytes]:
    """Fill in the targets above."""
    return [target.replace(b"{}", prefix.encode(), 1).replace(b"ID", patient.encode()) for target in targets]

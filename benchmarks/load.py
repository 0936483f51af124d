"""Send images to the Orthanc of this host, and ask it meanwhile: standard library only, since it runs there.

Reads what to do as JSON from its first argument, and prints JSON: the seconds that the images took, what each
request took in milliseconds, by its kind, and the number of requests that failed. The clients are processes, each
with one connection that it keeps, but for the queries by DICOM's own protocol, which make a new one as viewers do.
"""

from __future__ import annotations

import base64
import http.client
import json
import multiprocessing
import os
import pathlib
import re
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

# Each is followed by a number of eight digits.
ROOT = "1.2.826.0.1.3680043.8.498."
STUDY, SERIES, UID, PATIENT = f"{ROOT}1.", f"{ROOT}2.", f"{ROOT}3.", "BENCH-"
FIRST = 10000000
PER_SERIES, PER_STUDY = 50, 100
# How an association ends.
RELEASE = b"\5\0\0\0\0\4\0\0\0\0"
HTTP, DICOM = ("127.0.0.1", 8042), ("127.0.0.1", 4242)


class Template:
    """A file or a request with numbers in it that are still to be filled in."""

    def __init__(self, path: pathlib.Path) -> None:
        self.data = bytearray(path.read_bytes())
        self.places = [
            (per, found.start() + len(mark))
            for mark, per in ((STUDY, PER_STUDY), (SERIES, PER_SERIES), (UID, 1), (PATIENT, PER_STUDY))
            for found in re.finditer(re.escape(f"{mark}{FIRST}".encode()), self.data)
        ]

    def fill(self, number: int) -> bytes:
        for per, place in self.places:
            self.data[place : place + 8] = b"%d" % (FIRST + number // per)
        return bytes(self.data)


class Client:
    """A client of the REST API."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.headers = {"Authorization": "Basic " + base64.b64encode(task["login"].encode()).decode()}
        self.connection = http.client.HTTPConnection(*HTTP, timeout=120)
        self.connection.connect()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bool:
        try:
            self.connection.request(method, path, body, self.headers | headers)
            answer = self.connection.getresponse()
            return bool(answer.read()) and answer.status == 200
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return False


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("closed")
        data += part
    return data


def find(association: bytes, query: bytes) -> bool:
    """Ask for studies over an association of its own; whether some came."""
    try:
        with socket.create_connection(DICOM, timeout=120) as connection:
            connection.sendall(association)
            found, status = False, b""
            while True:
                kind, size = struct.unpack(">BxL", receive(connection, 6))
                data = receive(connection, size)
                if kind == 2:
                    connection.sendall(query)
                elif kind == 4:
                    # Of the command its element Status: pending as long as there is more.
                    status = data.partition(b"\0\0\0\x09\x02\0\0\0")[2][:2] or status
                    found = found or status in (b"\x00\xff", b"\x01\xff")
                    if status == b"\0\0":
                        connection.sendall(RELEASE)
                else:
                    return kind == 6 and found
    except OSError:
        return False


def timed(times: list[float], action: Callable[..., bool], *arguments: Any, **options: str) -> int:
    """Do something, note how long it took, and return 1 if it failed."""
    start = time.perf_counter()
    done = action(*arguments, **options)
    times.append(round((time.perf_counter() - start) * 1000, 2))
    return not done


def store(task: dict[str, Any], client: int, ready: Any, over: Any, results: Any) -> None:
    """Send this client's share of the images, one after the other."""
    images = Template(pathlib.Path(task["image"]))
    first, last = (task["first"] + task["images"] * end // task["clients"] for end in (client, client + 1))
    orthanc = Client(task)
    times: list[float] = []
    ready.wait()
    failed = sum(timed(times, orthanc.ask, "POST", "/instances", images.fill(n)) for n in range(first, last))
    results.put(("store", times, failed))


def read(task: dict[str, Any], kind: str, ready: Any, over: Any, results: Any) -> None:
    """Ask for images that are there, so many times a second, until the last one has arrived."""
    orthanc = Client(task)
    association = pathlib.Path("association").read_bytes()
    query = Template(pathlib.Path("query"))
    times: list[float] = []
    failed, turn, period = 0, 0, 1 / task["queries"]
    ready.wait()
    start = time.monotonic()
    while not over.wait(max(0.0, start + turn * period - time.monotonic())):
        turn += 1
        # Spread over all that was there before this load.
        number = turn * 7919 % task["first"]
        study, series, uid = FIRST + number // PER_STUDY, FIRST + number // PER_SERIES, FIRST + number
        path = f"/dicom-web/studies/{STUDY}{study}/series"
        if kind == "C-FIND":
            failed += timed(times, find, association, query.fill(number))
        elif kind == "WADO-RS":
            wanted = 'multipart/related; type="application/dicom"'
            failed += timed(times, orthanc.ask, "GET", f"{path}/{SERIES}{series}/instances/{UID}{uid}", Accept=wanted)
        else:
            failed += timed(times, orthanc.ask, "GET", f"/dicom-web/studies?PatientID={PATIENT}{study}")
    results.put((kind, times, failed))


def main() -> None:
    task: dict[str, Any] = json.loads(sys.argv[1])
    os.chdir(pathlib.Path(task["image"]).parent)
    os.sync()
    readers = ("QIDO-RS", "WADO-RS", "C-FIND") if task["queries"] else ()
    context = multiprocessing.get_context("fork")
    ready, over = context.Barrier(task["clients"] + len(readers) + 1), context.Event()
    results = context.SimpleQueue()
    work = [(store, client) for client in range(task["clients"])] + [(read, kind) for kind in readers]
    processes = [context.Process(target=what, args=(task, which, ready, over, results)) for what, which in work]
    for process in processes:
        process.start()
    ready.wait()
    start = time.monotonic()
    done = [results.get() for _ in range(task["clients"])]
    seconds = time.monotonic() - start
    over.set()
    done += [results.get() for _ in readers]
    for process in processes:
        process.join()
    times: dict[str, list[float]] = {}
    for kind, taken, _ in done:
        times.setdefault(kind, []).extend(taken)
    print(json.dumps({"seconds": seconds, "times": times, "failed": sum(failed for _, _, failed in done)}))


if __name__ == "__main__":
    main()

"""Clients that send images through the proxy, each again and again until it is acknowledged, and remember which."""

from __future__ import annotations

import base64
import collections
import concurrent.futures
import hashlib
import http.client
import itertools
import json
import ssl
import threading
import time
from collections.abc import Callable

from tests.hosts.test_database import image

CLIENTS = 8
# What takes its number; a study of its own for each hundred, which all clients send to.
FIRST = 10**8
ORIGINAL = image(FIRST)
# How long a client waits for one answer, and how long until an image has to be acknowledged.
PATIENCE, MOST = 60, 900


def numbered(number: int) -> bytes:
    """Make an image that differs from all others; by pydicom it would take the time that ten uploads take."""
    of_its_own = ORIGINAL.replace(b"2.25.3%d" % FIRST, b"2.25.3%d" % (FIRST + number))
    return of_its_own.replace(b"%d" % FIRST, b"%d" % (FIRST + number // 100))


class Senders:
    """Eight clients, and what the site has told them."""

    def __init__(
        self, address: str, certificate: str, password: str, port: int = 443, patience: float = PATIENCE
    ) -> None:
        """:param certificate: the file with that of the proxy.
        :param patience: how long a client waits for one answer.
        """
        self._address, self._port, self._patience = address, port, patience
        self._context = ssl.create_default_context(cafile=certificate)
        # It has the address that the site was deployed at.
        self._context.check_hostname = port == 443
        login = base64.b64encode(f"admin:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"}
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        # For how many seconds a client waits before it sends again what was not taken.
        self.pause = 0.1
        # And before it sends the next one.
        self.rest = 0.0
        # When an image was sent for the first time, by its number.
        self.begun: dict[int, float] = {}
        # By Orthanc's identifier: the number of the image, and when it was acknowledged.
        self.acknowledged: dict[str, tuple[int, float]] = {}
        # Of these, what was answered with "AlreadyStored", once a client had been told that it was not taken.
        self.repeated: set[str] = set()
        # Every other answer by its status, "cut" where there was none; and what no client should ever be told.
        self.refused: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._address, self._port, timeout=self._patience, context=self._context)

    def _send(self) -> None:
        connection = self._connect()
        while not self._stop.is_set():
            number = next(self._numbers)
            self.begun[number] = time.monotonic()
            end = self.begun[number] + MOST
            while not self._acknowledged(connection, number):
                connection.close()
                if time.monotonic() > end:
                    self.wrong.append(f"an image was not acknowledged in {MOST} s")
                    return
                time.sleep(self.pause)
            time.sleep(self.rest)

    def _ask(
        self, connection: http.client.HTTPSConnection, method: str, path: str, content: bytes | None = None
    ) -> tuple[int, bytes]:
        connection.request(method, path, content, self._headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def _acknowledged(self, connection: http.client.HTTPSConnection, number: int) -> bool:
        try:
            status, said = self._ask(connection, "POST", "/instances", numbered(number))
        except (OSError, http.client.HTTPException) as error:
            self.refused["silence" if isinstance(error, TimeoutError) else "cut"] += 1
            return False
        if status == 200:
            told = json.loads(said)
            self.acknowledged[told["ID"]] = number, time.monotonic()
            if told["Status"] == "AlreadyStored":
                self.repeated.add(told["ID"])
            return True
        self.refused[str(status)] += 1
        if status < 500:
            self.wrong.append(f"{status} {said[:200]!r}")
        return False

    def __enter__(self) -> Senders:
        self._stop.clear()
        self._pool = concurrent.futures.ThreadPoolExecutor(CLIENTS)
        self._tasks = [self._pool.submit(self._send) for _ in range(CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        """Let each have its last image acknowledged."""
        self._stop.set()
        self._pool.shutdown()
        for task in self._tasks:
            task.result()

    def one_by_one(self, images: int) -> None:
        """Send so many by one client, which waits for each answer."""
        connection = self._connect()
        for _ in range(images):
            assert self._acknowledged(connection, next(self._numbers)), self.told()

    def more(self, images: int, within: float) -> None:
        """Wait until so many more are acknowledged."""
        wanted, end = len(self.acknowledged) + images, time.monotonic() + within
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < end, f"no {images} images in {within:.0f} s: {self.told()}"
            time.sleep(0.02)

    def begin_at(self, number: int) -> None:
        """Send images that nobody has sent before: of those that are there already none is lost."""
        self._numbers = itertools.count(number)

    def until_refused(self, times: int, within: float) -> None:
        """Wait until clients were told so often that an image was not taken."""
        end = time.monotonic() + within
        while self.refused.total() < times:
            assert time.monotonic() < end, f"refused only {self.refused.total()} times: {self.told()}"
            time.sleep(0.02)

    def longest_wait(self, since: float) -> float:
        """Return for how long nothing was acknowledged, at most, since then."""
        times = sorted(when for _, when in self.acknowledged.values() if when >= since)
        return max((later - sooner for sooner, later in itertools.pairwise([since, *times])), default=0.0)

    def told(self) -> str:
        return ", ".join(f"{count} times {what}" for what, count in sorted(self.refused.items())) or "no refusal"

    def lost(self, among: Callable[[float], bool] = lambda when: True) -> dict[str, str]:
        """Ask for each image that was acknowledged, and tell which are not served bit for bit, and how."""
        asked = [(name, number) for name, (number, when) in list(self.acknowledged.items()) if among(when)]

        def check(some: list[tuple[str, int]]) -> dict[str, str]:
            connection, gone = self._connect(), {}
            for name, number in some:
                status, content = self._ask(connection, "GET", f"/instances/{name}/file")
                if hashlib.sha256(content).digest() != hashlib.sha256(numbered(number)).digest():
                    gone[name] = f"{status}, {len(content)} bytes"
            return gone

        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            found = pool.map(check, (asked[number::CLIENTS] for number in range(CLIENTS)))
            return {name: how for some in found for name, how in some.items()}

    def send_again(self, name: str) -> None:
        """Remove what the index has of an image, and send it once more."""
        connection = self._connect()
        assert self._ask(connection, "DELETE", f"/instances/{name}")[0] == 200
        assert self._acknowledged(connection, self.acknowledged[name][0])

    def wait_until_served(self, within: float) -> None:
        """Wait until Orthanc reads its index."""
        end, said = time.monotonic() + within, ""
        while True:
            try:
                connection = self._connect()
                said = str(self._ask(connection, "GET", "/changes?last")[0])
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                said = str(error)
            if said == "200":
                return
            assert time.monotonic() < end, f"the site does not come back: {said}"
            time.sleep(0.2)

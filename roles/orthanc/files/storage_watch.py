# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches whether the storage of Orthanc answers, and says so at a socket: to nginx for a balancer, and to the unit.

    watch SETTINGS         asks the storage again and again
    watch SETTINGS ask     ends well once the storage answers, else with the reason

A file system of others may hang, and whoever asks it then hangs with it. So a process of its own does so, which is
given up after seconds; the one at the socket never asks it anything. Should that one end, nobody hears that the storage
answers.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any

MARK = ".pacs-storage"
# How often the storage is asked, and how long it may take, in seconds.
EACH, PATIENCE = 0.5, 3.0
# How long Orthanc's unit waits for an answer before it starts anew.
ASKED = 20.0
# As many may hang for good, as on a disk that is gone: each would be one more.
HANGING = 8
# There is no room, and what is there can be read: that is for Orthanc to say.
FULL = (errno.ENOSPC, errno.EDQUOT)


def mounted(mount: str) -> bool:
    """Tell whether something is mounted there, by the kernel's table."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        return any(line.split(" ", 5)[4] == mount for line in table)


def answer(settings: dict[str, Any]) -> str:
    """Ask the storage, and return what is wrong with it. What is in memory is no answer: something is written."""
    folder = settings["folder"]
    if not mounted(settings["mount"]):
        return f"nothing is mounted at {settings['mount']}"
    try:
        with open(os.path.join(folder, MARK), encoding="utf-8", errors="replace") as file:
            mark = file.read(200).split()
        if mark[:1] != [settings["mark"]]:
            return f"{folder}/{MARK} is that of another site"
        written = os.open(os.path.join(folder, f".pacs-alive-{socket.gethostname()}"), os.O_RDWR | os.O_CREAT, 0o640)
        try:
            os.pwrite(written, b"%020d\n" % time.time_ns(), 0)
            os.fsync(written)
        finally:
            os.close(written)
    except OSError as error:
        if error.errno not in FULL:
            return f"{error.filename or folder}: {error.strerror}"
    return ""


class Worker:
    """The process that asks the storage, as often as it is told to."""

    def __init__(self, settings: dict[str, Any]) -> None:
        there, self.socket = socket.socketpair()
        self.asked: float | None = None
        self.process = os.fork()
        if not self.process:
            # Nothing that others wait for may stay open in a process that hangs.
            os.dup2(there.fileno(), 3)
            os.closerange(4, 1024)
            with socket.socket(fileno=3) as connection:
                while connection.recv(1):
                    connection.sendall(json.dumps(answer(settings)).encode() + b"\n")
            os._exit(0)
        there.close()

    def ask(self) -> None:
        self.asked = time.monotonic()
        self.socket.sendall(b"?")

    def heard(self) -> str:
        """Return what is wrong with the storage. :raises OSError: if the process has ended."""
        text = self.socket.recv(4096)
        if not text:
            raise ConnectionResetError("the process that asks has ended")
        self.asked = None
        return str(json.loads(text))

    def give_up(self) -> None:
        self.socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)


class Watch:
    """Whether the storage answers, and who wants to know."""

    def __init__(self, path: str) -> None:
        self._path, self._known = path, self._read(path)
        self._settings: dict[str, Any] = json.loads(self._known[0])
        self._wrong = "it has not been asked yet"
        self._given_up: set[int] = set()
        self._worker: Worker | None = None
        self._next = 0.0
        self._selector = selectors.DefaultSelector()
        self._asking: dict[socket.socket, float] = {}
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._settings["socket"])
        self._listener = socket.socket(socket.AF_UNIX)
        # Whoever is on this host may know.
        before = os.umask(0o111)
        self._listener.bind(self._settings["socket"])
        os.umask(before)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    @staticmethod
    def _read(path: str) -> tuple[str, str]:
        texts = []
        for name in (path, os.path.abspath(__file__)):
            with open(name, encoding="utf-8") as file:
                texts.append(file.read())
        return texts[0], texts[1]

    def _note(self, wrong: str) -> None:
        if wrong != self._wrong:
            print(f"The storage does not answer: {wrong}." if wrong else "The storage answers.", flush=True)
        self._wrong = wrong

    def _begin(self) -> None:
        self._worker = Worker(self._settings)
        self._selector.register(self._worker.socket, selectors.EVENT_READ)

    def _end(self) -> None:
        if self._worker:
            self._selector.unregister(self._worker.socket)
            self._worker.give_up()
            self._given_up.add(self._worker.process)
        self._worker = None

    def _storage(self, now: float) -> None:
        """Ask it, or give up who does."""
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitpid(-1, os.WNOHANG)[0]:
                self._given_up.discard(ended)
        if self._worker and self._worker.asked and now > self._worker.asked + PATIENCE:
            self._note(f"nothing within {PATIENCE:.0f} s")
            self._end()
        if not self._worker and len(self._given_up) < HANGING:
            self._begin()
        if self._worker and not self._worker.asked and now >= self._next:
            self._next = now + EACH
            with contextlib.suppress(OSError):
                self._worker.ask()

    def _hear(self) -> None:
        if self._worker:
            try:
                self._note(self._worker.heard())
            except (OSError, ValueError) as error:
                self._note(str(error))
                self._end()

    def _tell(self, asking: socket.socket) -> None:
        """Answer whoever has asked, in the words of HTTP."""
        status = "503 Service Unavailable" if self._wrong else "204 No Content"
        with contextlib.suppress(OSError):
            if asking.recv(4096):
                asking.send(f"HTTP/1.0 {status}\r\nContent-Type: text/plain\r\n\r\n{self._wrong}".encode())
        self._forget(asking)

    def _forget(self, asking: socket.socket) -> None:
        self._selector.unregister(asking)
        del self._asking[asking]
        asking.close()

    def _settled(self) -> bool:
        """Tell whether the settings and this very file are as they were. Once they are gone, so is the need."""
        try:
            return self._read(self._path) == self._known
        except FileNotFoundError:
            sys.exit(0)

    def run(self) -> None:
        looked = 0.0
        while True:
            now = time.monotonic()
            self._storage(now)
            for asking in [one for one, since in self._asking.items() if now > since + PATIENCE]:
                self._forget(asking)
            if now > looked + PATIENCE:
                looked = now
                if not self._settled():
                    self._end()
                    os.execv(sys.executable, [sys.executable, *sys.argv])
            for key, _events in self._selector.select(EACH / 2):
                if key.fileobj is self._listener:
                    with contextlib.suppress(OSError):
                        asking, _ = self._listener.accept()
                        asking.setblocking(False)
                        self._asking[asking] = now
                        self._selector.register(asking, selectors.EVENT_READ)
                elif self._worker and key.fileobj is self._worker.socket:
                    self._hear()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._asking:
                    self._tell(key.fileobj)


def ask(path: str) -> str:
    """Return what is wrong with the storage, by who watches it and listens at a socket."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(path)
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
    except OSError as error:
        return f"who watches it does not say: {error.strerror or error}"
    head, _, wrong = said.partition("\r\n\r\n")
    return "" if " 204 " in head else wrong or "who watches it has ended"


def wait(settings: dict[str, Any]) -> int:
    """Wait until the storage answers, and return how to end."""
    told, end = "", time.monotonic() + ASKED
    while wrong := ask(settings["socket"]):
        if wrong != told:
            print(f"Orthanc's storage does not answer: {wrong}.", file=sys.stderr, flush=True)
        told = wrong
        if time.monotonic() > end:
            return 1
        time.sleep(EACH)
    return 0


if __name__ == "__main__":
    if sys.argv[2:] == ["ask"]:
        with open(sys.argv[1], encoding="utf-8") as given:
            sys.exit(wait(json.load(given)))
    Watch(sys.argv[1]).run()

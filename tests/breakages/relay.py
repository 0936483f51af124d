"""Stands on the way to a DICOM port, and replaces in both directions what it is told to."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Sequence

# So much comes at a time at most; what is replaced is far from the ends of what comes.
CHUNK = 2**20


class Relay:
    """Listens on this machine, and hands on to a port elsewhere."""

    def __init__(self, address: str, port: int) -> None:
        self._target = (address, port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        # Direction (in, out), pattern, and what takes its place, of the same length.
        self.rules: Sequence[tuple[str, bytes, bytes]] = ()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            here, _ = self._listening.accept()
            there = socket.create_connection(self._target, timeout=60)
            for source, target, direction in ((here, there, "in"), (there, here, "out")):
                threading.Thread(target=self._hand_on, args=(source, target, direction), daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        try:
            while content := source.recv(CHUNK):
                for wanted, pattern, new in self.rules:
                    content = re.sub(pattern, new, content) if wanted == direction else content
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            # One of the two has hung up, and so does this.
            source.close()
            target.close()

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far it is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any, TextIO

from .fates import ARCHIVE, NO_DICOM, PRESENT, STORED, WRONG
from .streams import MEGABYTE

# Seconds between two lines.
INTERVAL = 10.0


class Progress:
    """Counts what was done.

    :param stream: where it is shown; None for nowhere.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._fates: Counter[str] = Counter()
        self._done = self._size = self._total = 0
        self._began = self._shown = time.monotonic()
        self._bar: Any = None
        if stream and stream.isatty():
            self._bar = _bar(stream)

    def expect(self, size: int) -> None:
        """Tell how many bytes of input there are in all, once that is known."""
        with self._lock:
            self._total = size
            if self._bar is not None:
                self._bar.total = size

    def add(self, fate: str, size: int, weight: int) -> None:
        """Count a file. :param weight: how many bytes of the input were gone through with it."""
        with self._lock:
            self._fates[fate] += 1
            self._size += size
            self._done += weight
            if self._bar is not None:
                self._bar.set_postfix_str(self._files(), refresh=False)
                self._bar.update(weight)
            elif self._stream and time.monotonic() - self._shown > INTERVAL:
                self._shown = time.monotonic()
                print(self._line(), file=self._stream, flush=True)

    def close(self) -> None:
        """Show nothing more."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
            self._bar = self._stream = None

    def _files(self) -> str:
        files = sum(self._fates.values()) - self._fates[ARCHIVE]
        rate = files / max(0.001, time.monotonic() - self._began)
        parts = [f"{files:,} files", f"{rate:,.0f}/s"]
        parts += [f"{self._fates[fate]:,} {fate}" for fate in (STORED, PRESENT, NO_DICOM, *WRONG) if self._fates[fate]]
        return ", ".join(parts)

    def _line(self) -> str:
        text = f"{self._files()}, {self._done / MEGABYTE:,.0f} MB"
        if self._total and self._done:
            passed = time.monotonic() - self._began
            text += f" of {self._total / MEGABYTE:,.0f} MB, {passed * (self._total / self._done - 1):,.0f} s left"
        return text


def _bar(stream: TextIO) -> Any:
    """Make the bar, if its library is there; lines do without."""
    try:
        import tqdm
    except ImportError:
        return None
    return tqdm.tqdm(unit="B", unit_scale=True, unit_divisor=1024, file=stream, dynamic_ncols=True)

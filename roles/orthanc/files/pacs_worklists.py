"""Answers modalities that ask for their worklist, out of the table that orthanc_worklists_table says, and of files.

The table is looked at whenever somebody asks, and read again where it is another one: so it may be on whatever file
system, and nothing has to be told of a change. Orthanc asks one plugin for worklists, so this one takes the files, too.
"""

import contextlib
import errno
import io
import json
import os
import pathlib
import stat
import threading
from collections.abc import Iterator
from typing import Any

import orthanc
import pydicom
from pacs_worklist_table import Problem, rows, told

# How many bytes a table has at most, and a file of a folder.
TABLE, FILE = 1 << 25, 1 << 21


def opened(path: str | os.PathLike[str], most: int) -> int:
    """Open a file that others write. :raises OSError: if it is none, or too big."""
    found = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    state = os.fstat(found)
    if not stat.S_ISREG(state.st_mode) or state.st_size > most:
        os.close(found)
        raise OSError(errno.EINVAL, f"it is no file of at most {most >> 20} MiB")
    return found


class Table:
    """The steps of a table, as they were when it could be read last."""

    def __init__(self, path: str, encoding: str) -> None:
        self.path, self.encoding, self.lock = path, encoding, threading.Lock()
        self.seen: Any = None
        self.steps: list[bytes] = []
        self.wrong: dict[int, str] = {}
        self.problem = ""

    def read(self) -> list[bytes]:
        """Return the steps that are in it now; where it cannot be read, those of before."""
        with self.lock:
            try:
                with os.fdopen(opened(self.path, TABLE), "rb") as file:
                    state = os.fstat(file.fileno())
                    seen = (state.st_ino, state.st_size, state.st_mtime_ns)
                    if seen == self.seen:
                        return self.steps
                    steps, wrong = rows(file.read(), self.encoding)
            except Exception as error:
                # What others say may have a value in it.
                known = error.strerror if isinstance(error, OSError) else isinstance(error, Problem) and str(error)
                why = f"{self.path}: {known or type(error).__name__}"
                self.seen = None
                self.tell(why, self.wrong)
                return self.steps
            self.seen, self.steps = seen, steps
            self.tell("", wrong)
            return steps

    def tell(self, problem: str, wrong: dict[int, str]) -> None:
        if problem and problem != self.problem:
            orthanc.LogError(f"orthanc_worklists_table: {problem}; what it had before is answered")
        # What a line has is about a patient, and is not for the log.
        for line, why in sorted(wrong.items()):
            if self.wrong.get(line) != why:
                orthanc.LogWarning(f"orthanc_worklists_table: line {line} is left out: {why}")
        self.problem, self.wrong = problem, wrong


OPTIONS = json.loads(orthanc.GetConfiguration())
# As the plugin worklists has them: who gets the steps of its own title alone, and how many anybody gets; 0 is no limit.
HEEDED = OPTIONS.get("Worklists") or {}
OWN, LIMIT = bool(HEEDED.get("FilterIssuerAet")), int(HEEDED.get("LimitAnswers") or 0)
FOLDER = OPTIONS["PacsWorklists"]["Folder"]
table = Table(OPTIONS["PacsWorklists"]["Table"], OPTIONS.get("DefaultEncoding") or "Latin1")


def files() -> Iterator[bytes]:
    """Return the files that others write; one that goes meanwhile is none."""
    paths: list[pathlib.Path] = []
    with contextlib.suppress(OSError):
        paths = sorted(pathlib.Path(FOLDER).glob("*.wl"))
    for path in paths:
        with contextlib.suppress(OSError), os.fdopen(opened(path, FILE), "rb") as file:
            yield file.read(FILE)


def is_for(step: bytes, title: str) -> bool:
    """Tell whether a step is for the station of this title."""
    parts = pydicom.dcmread(io.BytesIO(step), force=True).get("ScheduledProcedureStepSequence") or []
    return any(title in listed(part.get("ScheduledStationAETitle")) for part in parts)


def listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def found(answers: Any, query: Any, sender: str, _title: str) -> None:
    number = 0
    for step in (*table.read(), *files()):
        try:
            if not query.WorklistIsMatch(step) or (OWN and not is_for(step, sender)):
                continue
            if LIMIT and number == LIMIT:
                answers.WorklistMarkIncomplete()
                return
            answers.WorklistAddAnswer(query, step)
            number += 1
        except orthanc.OrthancException as error:
            orthanc.LogWarning(f"orthanc_worklists_dir: a file is no worklist: {error}")


def answer(output: Any, _uri: str, **request: Any) -> None:
    """GET tells how many steps there are, and which lines are left out."""
    if request["method"] != "GET":
        output.SendMethodNotAllowed("GET")
        return
    steps = table.read()
    state = {"Table": table.path, "Steps": len(steps), "Problem": table.problem, "LeftOut": told(table.wrong)}
    output.AnswerBuffer(json.dumps(state, indent=2, ensure_ascii=False) + "\n", "application/json")


orthanc.RegisterWorklistCallback(found)
orthanc.RegisterRestCallback("/pacs/worklists", answer)

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What its units and the playbooks call."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time

from .backup import Backup, check_calendar
from .common import BRIEF, HERE, PATIENCE, Busy, Failed, alone, now, read, say
from .drill import Drill, ask, drilled, stop_drilled
from .images import Images, brought
from .missing import Missing, found_again
from .restore import Restore, restored

UNIT, TIMER, DRILL = "pacs-backup.service", "pacs-backup.timer", "pacs-drill.service"
DATABASES = [f"pacs-{verb}-{kind}.service" for verb in ("restore", "drill") for kind in ("postgresql", "mariadb")]


def act(verb: str, backup: Backup) -> None:
    """Do what is asked for."""
    if verb == "where":
        say(json.dumps(backup.where()))
    elif verb == "report":
        say(json.dumps(backup.report()))
    elif verb in ("now", "drill-now"):
        unit, kind = (UNIT, "success") if verb == "now" else (DRILL, "drill")
        before = [backup.status().get(one) for one in (kind, "looked")]
        # One that a timer has begun is waited for instead.
        started = subprocess.run(["systemctl", "start", unit], check=False, capture_output=True, text=True)
        report = backup.report()
        wrong = report["backup_wrong"] if verb == "now" else (report.get(kind) or {}).get("wrong")
        # It may not have come to its own first line, as where a disk that it needs is not mounted.
        if not wrong and (started.returncode or [report.get(one) for one in (kind, "looked")] == before):
            said = " ".join(started.stderr.split()) or "nothing"
            raise Failed(f"{unit} has not done it; systemd says: {said} Look at journalctl -u {unit}.")
        say(json.dumps(report))
    elif verb == "check":
        check_calendar(backup.settings["calendar"])
    elif verb == "clean":
        # Of one that was killed.
        for unit in DATABASES:
            subprocess.run(["systemctl", "stop", unit], check=False, capture_output=True)
        subprocess.run(["systemctl", "clean", "--what=cache", UNIT], check=True)
        # When it has run last.
        subprocess.run(["systemctl", "clean", "--what=state", TIMER], check=True)
    elif verb == "ended":
        backup.ended()
    elif verb == "ask":
        say(json.dumps(ask(json.load(sys.stdin))))
    elif verb == "drilled":
        with contextlib.suppress(Busy), alone(BRIEF, "drill.lock"):
            stop_drilled()
            Drill(backup).away()
            if backup.status().get("drilling"):
                Drill(backup).note(f"It was ended from outside ({os.environ.get('SERVICE_RESULT')}).")
    elif verb == "drill":
        with alone(PATIENCE), alone(BRIEF, "drill.lock"):
            backup.note(drilling=now())
            drilled(Drill(backup))
    elif verb == "prepare":
        # A first backup may take days.
        if backup.prepared():
            say(json.dumps({"changed": False}))
            return
        with alone(60):
            say(json.dumps({"changed": backup.prepare()}))
    elif verb == "begin":
        with alone(60):
            backup.begin()
    else:
        with alone(PATIENCE), alone(BRIEF, "run.lock"):
            backup.note(running=now())
            backup.run(time.monotonic())


def main() -> int:
    parser = argparse.ArgumentParser(prog="backup.py", description=__doc__)
    parser.add_argument(
        "verb",
        choices=[
            "check",
            "prepare",
            "run",
            "now",
            "ended",
            "report",
            "where",
            "begin",
            "clean",
            "drill",
            "drill-now",
            "drilled",
            "ask",
            "restore",
            "images",
            "files",
            "accept",
        ],
    )
    parser.add_argument("--settings", type=pathlib.Path, default=HERE / "settings.json")
    parser.add_argument("--snapshot", default="latest")
    parser.add_argument("--at", default="")
    parser.add_argument("--over", action="store_true")
    parser.add_argument("--stage", action="store_true")
    parser.add_argument("--lacking", type=int, default=0)
    parser.add_argument("--missing", type=int, default=0)
    arguments = parser.parse_args()
    verb, backup = arguments.verb, Backup(read(arguments.settings))
    os.umask(0o077)
    # Only what it was begun by may end it in the middle: it goes through its own ends then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if verb == "restore":
            with alone(600):
                asked = (arguments.snapshot, arguments.over, arguments.lacking, arguments.at, arguments.stage)
                say(json.dumps(restored(Restore(backup), *asked)))
        elif verb == "images":
            # Whom it is about, nobody sees who looks at the processes of the host.
            with alone(600):
                say(json.dumps(brought(Images(backup), json.load(sys.stdin), arguments.snapshot)))
        elif verb == "files":
            with alone(600):
                say(json.dumps(found_again(Missing(backup), arguments.missing)))
        elif verb == "accept":
            with alone(60):
                backup.accept(arguments.missing)
        else:
            act(verb, backup)
    except (Failed, OSError, LookupError, ValueError, sqlite3.Error, subprocess.SubprocessError) as error:
        problem = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        if verb == "drill" and isinstance(error, Busy):
            Drill(backup).note(problem)
        if verb == "run":
            # What runs is another one, if it did not get its turn.
            backup.note(problem=problem, **({} if isinstance(error, Busy) else {"running": ""}))
        print(problem, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What restic keeps."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
from typing import Any

from .common import HERE, SILENT, Failed, read

ELSEWHERE = (
    (
        r"wrong password or no key found",
        "it has another key than backup_password; without the right one nobody can read it",
    ),
    (r"ciphertext verification failed|invalid data returned|Pack ID does not match|not loaded", "it is damaged"),
    (r"x509|certificate presented|in certificate common name", "its certificate is not trusted; see to backup_ca"),
    (r"bucket does not exist|NoSuchBucket", "its bucket is not there; have it made first, or see to its name"),
    (r"already locked", "somebody else is at work in it"),
    (r"no space left|disk quota|QuotaExceeded|file system is full", "it is full"),
    (r"read-only file system", "it cannot be written to"),
    (
        r"(?i)permission denied|access ?denied|access key id|SignatureDoesNotMatch|request signature|forbidden",
        "it does not let us in",
    ),
    (
        r"(?i)dial tcp|no route to host|connection (refused|timed out|reset)|no such host|could not resolve|host key"
        r"|i/o timeout|unable to start the sftp session|network is unreachable",
        "it cannot be reached",
    ),
    # As a store says of itself that has no room.
    (r"(?i)internal (server )?error", "it has an error of its own; look whether it is full"),
)
# Where in restic it was, as its older releases say.
TRACE = re.compile(r"^\S+\n\t\S+:\d+$\n?", re.M)
# Out of a folder it reads two files at a time by default, for which processors and disk wait.
READERS = ["-o", "local.connections=6"]
NOT_THERE = re.compile(
    r"unable to open config file.*(no such file or directory|(key|file|<config/>) does not exist)", re.S
)


class Repository:
    """What restic keeps, by the settings."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.url: str = settings["repository"]
        self._options: list[str] = []
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin",
            "HOME": "/nonexistent",
            "LC_ALL": "C.UTF-8",
            "RESTIC_REPOSITORY": self.url,
            "RESTIC_PASSWORD_FILE": str(HERE / "password"),
            "RESTIC_CACHE_DIR": "/var/cache/pacs-backup",
            "RESTIC_PROGRESS_FPS": "0.01",
            "TMPDIR": os.environ.get("TMPDIR", "/var/tmp"),
        }
        self._environment |= read(HERE / "s3.json")
        if (HERE / "ca.crt").exists():
            self._options += ["--cacert", str(HERE / "ca.crt")]
        far = re.fullmatch(r"(sftp|rclone):(?://)?([^@/:]+)@(\[[^]]+\]|[^:/]+)(?::(\d+)/|[:/])(/?.*)", self.url)
        if far:
            words = [
                "ssh",
                "-F/dev/null",
                f"-i{HERE}/sftp.key",
                f"-oUserKnownHostsFile={HERE}/known_hosts",
                f"-l{far[2]}",
            ]
            words += [f"-o{word}" for word in ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes")]
            words += ["-oConnectTimeout=30", "-oServerAliveInterval=30", *([f"-p{far[4]}"] if far[4] else [])]
            words.append(far[3].strip("[]"))
            if far[1] == "sftp":
                self._options += ["-o", f"sftp.command={' '.join([*words, '-s', 'sftp'])}"]
            else:
                # What runs there, and on which folder, is said by the server alone.
                self._options += ["-o", f"rclone.program={' '.join([*words, 'rclone'])}"]
                self._environment["RESTIC_REPOSITORY"] = f"rclone:{far[5]}"

    def run(self, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run restic, and return what came of it."""
        # What others leave of the processors. We ourselves have more: images wait while we hold the index.
        first = ["chrt", "--idle", "0"] if "backup" in arguments else []
        options = [*self._options, *(READERS if "restore" in arguments else [])]
        try:
            return subprocess.run(
                [*first, "restic", *options, *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            said = error.stderr or b""
            lines = (said if isinstance(said, str) else said.decode(errors="replace")).strip().splitlines()
            last = " ".join(lines[-1:])
            # It tries again also where it is refused.
            why = next((text for pattern, text in ELSEWHERE if re.search(pattern, last)), "it cannot be reached")
            raise Failed(f"The repository {self.url}: {why}; no answer in {timeout:.0f} s. {last}".strip()) from error

    def refused(self, done: subprocess.CompletedProcess[str]) -> Failed:
        """Return what restic failed with, in words."""
        # Passing tries come before what it ends with.
        said = " ".join(TRACE.sub("", done.stderr).split()) or " ".join(done.stdout.split()[-30:])
        why = next((text for pattern, text in ELSEWHERE if re.search(pattern, said)), "restic fails")
        return Failed(f"The repository {self.url}: {why}. restic says: {said[-600:]}")

    def ask(self, *arguments: str, timeout: float | None = None) -> str:
        """Run restic, which has to succeed, and return what it prints. :raises Failed: if it does not."""
        done = self.run(*arguments, timeout=timeout)
        if done.returncode:
            raise self.refused(done)
        return done.stdout

    def number(self) -> str:
        """Return by what the repository is known; nothing if there is none at that place."""
        done = self.run("--no-lock", "cat", "config", timeout=SILENT)
        if done.returncode == 0:
            return str(json.loads(done.stdout)["id"])
        if done.returncode == 10 or NOT_THERE.search(done.stderr):
            return ""
        raise self.refused(done)

    def snapshots(self, *tags: str) -> list[dict[str, Any]]:
        """Return the backups, the oldest first: those of an index, each of which names its files."""
        words = ["--no-lock", "--json", "snapshots", *(word for tag in tags or ["pacs"] for word in ("--tag", tag))]
        found: list[dict[str, Any]] = json.loads(self.ask(*words, timeout=5 * SILENT) or "[]")
        return sorted(found or [], key=taken)


def taken(snapshot: dict[str, Any]) -> datetime.datetime:
    """Return when a backup was begun; restic counts nanoseconds, and Python does not."""
    text = re.sub(r"\.\d+", "", str(snapshot["time"])).replace("Z", "+00:00")
    return datetime.datetime.fromisoformat(text).astimezone()


def epoch(text: str) -> float:
    """Return when something was, by what it says in a backup."""
    return datetime.datetime.fromisoformat(text).timestamp()


def tagged(snapshot: dict[str, Any], name: str) -> str:
    """Return what a backup says of itself: by what its archive is known, or where the copy of the index is in it."""
    return next((tag.partition("=")[2] for tag in snapshot.get("tags") or [] if tag.startswith(f"{name}=")), "")

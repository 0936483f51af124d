# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images without their patient: an Orthanc of its own on this machine takes that out by its profile, one by one.

It lasts as long as the import, and forgets each image at once. So no original ever comes into the archive, nor to
where that would send it. By itself Orthanc makes up identifiers anew at each call, which would tear a study apart;
those that come instead are made out of a key, so that they are the same for every image, at every run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import http.client
import itertools
import json
import os
import pathlib
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .client import Archive, Ended, Gate, Lost, Silent, whole
from .content import Content
from .header import Broken, Header, elements, unknown
from .journal import alone
from .origin import kept
from .sources import Sources
from .streams import Refused

KEY = "anonymize.key"
# In the report's folder; and what may be in there, which alone is removed.
FOLDER = ".anonymizing"
OWN = re.compile(r"(orthanc\.json|log|store/index(-wal|-shm|-journal)?|store/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f-]{36})")
# Where Debian has it, besides $PATH; and what a container's image is named by instead.
PROGRAM, CONTAINER = "/usr/sbin/Orthanc", "docker:"
# In a container nobody tells it that the import has ended, but for its input, which ends then.
WITHIN = 'exec 3<&0; Orthanc "$0" < /dev/null & pid=$!; (read -r end <&3; kill -9 $pid) & wait $pid'
# Seconds that it has to start, and to answer.
START, PATIENCE = 60, 120
# After so many images it forgets that they were there; and of what it says, so much is read.
MANY, LAST = 1000, 1 << 16
# How often an image may end it that it has for itself, and how many in a row may.
CRASHES, IN_A_ROW = 2, 20
# By DICOM's own root kinds of things are named, and not things.
PUBLIC = "1.2.840.10008."
# So do these, whoever names them.
KINDS = re.compile("(Class|Syntax|Scheme|Context|Resource)UID")
THINGS = re.compile("UID|UniqueID|CommunityID")
# Of an element that is newer than it, Orthanc knows no name: then what looks like an identifier is one.
UNKNOWN, LIKE_ONE = "Unknown", re.compile(r"[0-2](\.[0-9]+){3,}")
# Elements have that many bytes together, by far. Of long ones it tells nothing, but for those of irradiation events.
LARGEST = 32 << 20
TAGS = "tags?ignore-length=0008-3010"
# Means nothing around an identifier.
PADDING = " \0"
DOCUMENT, CONTENT, BURNED = "0042,0011", "0040,a730", "0028,0301"
DECIDES = {DOCUMENT, CONTENT, BURNED}
PATIENT = ("0010,0010", "0010,0020")


UNLISTED = "its elements cannot be listed"


class Crashed(Exception):
    """The Orthanc that anonymises has ended, or hangs."""


class Nothing(Exception):
    """Nothing would be left of an object without its patient."""


class Names:
    """What identifiers become.

    :param report: the folder that has the key to them, or gets it: who has it finds out who a patient was.
    :raises Busy: where others may read it or write to it.
    """

    def __init__(self, report: str) -> None:
        alone(report, os.stat(report))
        path = os.path.join(report, KEY)
        with contextlib.suppress(FileExistsError):
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(number, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(number)
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as key:
            alone(path, os.fstat(number), secret=True)
            self._key = key.read(65)
        if not re.fullmatch(rb"[0-9a-f]{64}", self._key):
            raise Ended(f"{path} is no key to other identifiers; bring back the one that it was, or remove it")

    def mark(self) -> str:
        """Tell this key from others."""
        return self._sum("key", "").hex()

    def uid(self, value: str) -> str:
        """Return what comes instead of a unique identifier."""
        return f"2.25.{uuid.UUID(bytes=self._sum('uid', value.strip(PADDING)), version=4).int}"

    def header(self, header: Header, patient: str) -> Header:
        """Return what an image will have. :param patient: its new PatientID, if that was told."""
        # Those who have none are not all the same one.
        whose = header.patient.strip(PADDING) or header.study
        made = patient or f"ANON-{self._sum('patient', whose).hex()[:16].upper()}"
        study, series, instance = map(self.uid, (header.study, header.series, header.instance))
        return dataclasses.replace(header, patient=made, study=study, series=series, instance=instance, exact=True)

    def replacements(self, tags: dict[str, Any], patient: str, path: str = "") -> Iterator[tuple[str, str]]:
        """Return for each unique identifier of a thing its place, and within sequences also for each patient.

        :param patient: who comes there.
        :raises Broken: where an element may hold one and cannot be looked at.
        """
        for tag, element in tags.items():
            value, name, kind = element.get("Value"), str(element.get("Name", "")), element.get("Type")
            unknown = name.startswith(UNKNOWN)
            # What is private goes.
            if int(tag[:4], 16) % 2:
                continue
            if kind == "Sequence":
                for number, inside in enumerate(value):
                    yield from self.replacements(inside, patient, f"{path}{tag}[{number}].")
            elif path and tag in PATIENT:
                # Orthanc replaces these at the top alone, once it is told by what.
                yield path + tag, patient
            elif not unknown and (not THINGS.search(name) or KINDS.search(name)):
                continue
            elif isinstance(value, str):
                parts = [part.strip(PADDING) for part in value.split("\\")]
                made = [self._other(part, unknown) for part in parts]
                if made != parts:
                    yield path + tag, "\\".join(made)
            elif unknown or kind == "TooLong":
                raise Broken(f"nobody can look into its ({tag}), which may name the patient")

    def _other(self, uid: str, unknown: bool) -> str:
        kept = not uid or uid.startswith(PUBLIC) or (unknown and not LIKE_ONE.fullmatch(uid))
        return uid if kept else self.uid(uid)

    def _sum(self, kind: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{kind}|{value}".encode("utf-8", "surrogateescape"), hashlib.sha256)[:16]


class Own(Archive):
    """An Orthanc that this import has started. :param ended: tells that it has, since its port is anybody's then."""

    def __init__(self, url: str, login: tuple[str, str], gate: Gate, ended: Callable[[], bool]) -> None:
        super().__init__(url, login, None, gate)
        self._ended = ended

    def _connect(self) -> http.client.HTTPConnection:
        if self._ended():
            raise Ended("it has ended")
        return super()._connect()


class Turns:
    """Lets many do something at a time, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._many, self._one = 0, False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Be one of many."""
        with self._changed:
            self._changed.wait_for(lambda: not self._one)
            self._many += 1
        try:
            yield
        finally:
            with self._changed:
                self._many -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one."""
        with self._changed:
            self._changed.wait_for(lambda: not self._one)
            self._one = True
            self._changed.wait_for(lambda: not self._many)
        try:
            yield
        finally:
            with self._changed:
                self._one = False
                self._changed.notify_all()


class Anonymizer:
    """The Orthanc that images pass through.

    :param program: its binary, or ``docker:`` and an image that has it; empty for the one that this machine has.
    :param report: the import's own folder, in which its files are for a while.
    :raises Ended: where it does not start.
    """

    def __init__(self, program: str, report: str, names: Names, sources: Sources) -> None:
        self._names, self._sources, self._number = names, sources, itertools.count(1)
        self._turns = Turns()
        self._crashed = 0
        self._report = os.path.abspath(report)
        # One that was killed has left it passable to all.
        self._mode = os.stat(report).st_mode & 0o776
        self._log, self._given_up = -1, ""
        self._folder = os.path.join(self._report, FOLDER)
        # What it is started by lasts as long as the import: it is killed with that.
        self._starter = ThreadPoolExecutor(max_workers=1)
        self._image = program.removeprefix(CONTAINER) if program.startswith(CONTAINER) else ""
        self._container = ""
        if self._image:
            self._program = shutil.which("docker") or "docker"
        else:
            self._program = program or shutil.which("Orthanc") or PROGRAM
        if not os.access(self._program, os.X_OK):
            what = "Docker that could run" if self._image else "Orthanc on this machine that could anonymise"
            raise Ended(f"there is no {what} ({program or self._program}); name its binary")
        self._begin()

    def _begin(self) -> None:
        """Start it. :raises Ended: where it does not start."""
        # What one that was killed has left.
        self._remove()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        # Nobody else's server is taken for it, should it get the port first.
        name, password = secrets.token_hex(16), secrets.token_hex(16)
        try:
            self._starter.submit(self._start, name, password, port).result()
            gate = Gate(PATIENCE, lambda: not self._alive())
            self._orthanc = Own(f"http://127.0.0.1:{port}/", ("import", password), gate, lambda: not self._alive())
            system = self._wait(name)
        except BaseException as error:
            self._given_up = f"the Orthanc that is to anonymise cannot be started: {error}"
            self._stop()
            if isinstance(error, (OSError, KeyError)):
                raise Ended(self._given_up) from error
            raise
        self._method = f"Orthanc {system.get('Version')} by its profile of PS 3.15, Table E.1-1"

    def content(self, content: Content, header: Header) -> Content:
        """Return an image without its patient.

        Where it ends meanwhile, it is started again, and the images that it had are tried again, each for itself.

        :param header: the identifiers that it is to have.
        :raises Broken: where that cannot be.
        :raises Nothing: where nothing would be left.
        :raises Refused: where it is too large for the spool.
        :raises Ended: where it cannot be started again, or ends on whatever it is given.
        """
        with self._turns.shared(), contextlib.suppress(Crashed):
            if self._given_up:
                raise Ended(self._given_up)
            return self._content(content, header)
        why = ""
        for _ in range(CRASHES):
            with self._turns.alone():
                if self._given_up:
                    raise Ended(self._given_up)
                if not self._alive():
                    self._stop()
                    self._begin()
                try:
                    return self._content(content, header)
                except Crashed as error:
                    why = str(error)
        with self._turns.alone():
            self._crashed += 1
            if self._crashed >= IN_A_ROW:
                raise Ended(f"the Orthanc that anonymises has ended on {IN_A_ROW} images, one after the other: {why}")
        raise Broken(f"it cannot be anonymised: Orthanc ends whenever it is to do that: {why}")

    def _content(self, content: Content, header: Header) -> Content:
        """Do it once. :raises Crashed: where it ended meanwhile."""
        made: Content | None = None
        try:
            if not self._alive():
                raise Crashed
            answer, _ = self._orthanc.patiently("POST", "/instances", content.body, content.size)
            said = answer.json()
            if answer.status != 200 or not isinstance(said, dict) or "ID" not in said:
                raise Broken(f"it cannot be anonymised: {answer.reason}")
            path = f"/instances/{said['ID']}"
            try:
                made, texts = self._made(path, header)
            finally:
                self._orthanc.patiently("DELETE", path)
            if next(self._number) % MANY == 0:
                # What it notes of each would add up.
                self._orthanc.patiently("DELETE", "/changes")
            if identity(made.header()) != identity(header):
                raise Broken("it was anonymised, and has other identifiers than it should have")
            seen(made.beginning(), texts, content.header())
        except BaseException as error:
            if made:
                made.close()
            if isinstance(error, Silent):
                # It hangs.
                self._process.kill()
                self._process.wait()
            if isinstance(error, Lost):
                raise Broken(f"whenever it is to be anonymised, {error}") from error
            if isinstance(error, (Ended, Crashed)):
                if self._alive():
                    raise Ended(f"the Orthanc that anonymises: {error}") from error
                raise Crashed(self._said()) from error
            raise
        self._crashed = 0
        return made

    def _made(self, path: str, header: Header) -> tuple[Content, set[str]]:
        answer, _ = self._orthanc.patiently("GET", f"{path}/{TAGS}", read=listed)
        tags = answer.json()
        if answer.status != 200 or not isinstance(tags, dict):
            raise Broken(f"it cannot be anonymised: {UNLISTED}: {answer.reason}")
        judge({tag: str(element.get("Value")) for tag, element in tags.items() if tag in DECIDES})
        asked = {
            "Replace": {
                **dict(self._names.replacements(tags, header.patient)),
                "0010,0010": header.patient,
                "0010,0020": header.patient,
                "0020,000d": header.study,
                "0020,000e": header.series,
                "0008,0018": header.instance,
                "0012,0063": self._method,
            },
            # It is told that the identifiers are meant so.
            "Force": True,
        }
        body = json.dumps(asked).encode()
        made: list[Content] = []

        def keep(answer: http.client.HTTPResponse) -> bytes:
            if answer.status != 200:
                return whole(answer)
            made.append(kept(self._sources, answer))
            return b""

        answer, _ = self._orthanc.patiently("POST", f"{path}/anonymize", lambda: body, read=keep)
        if answer.status != 200:
            raise Broken(f"it cannot be anonymised: {answer.reason}")
        return made[-1], {tag for tag, element in tags.items() if element.get("Type") == "String"}

    def close(self) -> None:
        """End it for good."""
        self._starter.shutdown()
        self._stop()

    def _stop(self) -> None:
        """End it, and leave nothing behind."""
        process: subprocess.Popen[bytes] | None = getattr(self, "_process", None)
        if process:
            # It has nothing to lose.
            process.kill()
            process.communicate()
        if self._container:
            # What Docker's command was for may last longer than it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                command = [self._program, "rm", "--force", "--volumes", self._container]
                subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
            self._container = ""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        os.chmod(self._report, self._mode)
        self._remove()

    def _start(self, name: str, password: str, port: int) -> None:
        """Start it as nobody, where that can be, and so that it does not outlive the import."""
        os.mkdir(self._folder, 0o700)
        store, file = os.path.join(self._folder, "store"), os.path.join(self._folder, "orthanc.json")
        options = {
            "Name": name,
            "StorageDirectory": store,
            "IndexDirectory": store,
            "HttpPort": port,
            "HttpBindAddresses": ["127.0.0.1"],
            # What it answers may wait for room in the spool, and that for an archive that is away.
            "HttpRequestTimeout": 3600,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"import": password},
            "DicomServerEnabled": False,
            "OverwriteInstances": True,
            "SyncStorageArea": False,
        }
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
            json.dump(options, opened)
        # From here on only by its number: what is called so later, in a folder of nobody's, may be anything.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._log = os.open(os.path.join(self._folder, "log"), flags, 0o600)
        user, group = os.geteuid(), os.getegid()
        if user == 0:
            nobody = pwd.getpwnam("nobody")
            user, group = nobody.pw_uid, nobody.pw_gid
            # The folder last, so that nobody puts another file there before.
            for path in (file, self._folder):
                os.chown(path, user, group)
        command = self._contained(file, user, group) if self._image else self._alone(file, user, group)
        self._process = subprocess.Popen(
            command,
            # It ends with the import, and what is in a container sees that.
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            cwd="/",
            # Passwords of the import are none of its business.
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            # Ctrl-C is for the import, which ends in order.
            start_new_session=True,
        )

    def _alone(self, file: str, user: int, group: int) -> list[str]:
        before, setpriv = [], shutil.which("setpriv")
        if setpriv:
            before = [setpriv, "--no-new-privs", "--pdeathsig=KILL"]
        elif os.geteuid() == 0:
            raise Ended("an Orthanc that is to anonymise is not run as root, and setpriv (util-linux) is not there")
        if os.geteuid() == 0:
            before += [f"--reuid={user}", f"--regid={group}", "--clear-groups", "--inh-caps=-all"]
            # It has to pass, and can neither list nor read what is in there.
            os.chmod(self._report, self._mode | 0o001)
        return [*before, os.path.abspath(self._program), file]

    def _contained(self, file: str, user: int, group: int) -> list[str]:
        # All may read this one.
        self._container = f"pacs-anonymize-{secrets.token_hex(8)}"
        # The folder alone is there, and the network of this machine, where it answers to the import.
        closed = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host"]
        # As CSV, since a path may have a comma.
        path = self._folder.replace('"', '""')
        folder = f'--mount=type=bind,"source={path}","target={path}"'
        # Without a time zone Orthanc does not start, and not every image has one.
        zone = ["--volume=/etc/localtime:/etc/localtime:ro"] if os.path.exists("/etc/localtime") else []
        own = [f"--user={user}:{group}", "--userns=host", folder, "--volume=/tmp", *zone]
        how = ["--rm", "--interactive", "--pull=never", "--no-healthcheck", "--log-driver=none"]
        given = [f"--name={self._container}", *how, *closed, *own, "--entrypoint=sh", self._image]
        return [self._program, "run", *given, "-c", WITHIN, file]

    def _wait(self, name: str) -> dict[str, Any]:
        until = time.monotonic() + START
        while self._alive() and time.monotonic() < until:
            with contextlib.suppress(Lost, Ended):
                system = self._orthanc.ask("GET", "/system").json()
                if isinstance(system, dict) and system.get("Name") == name:
                    return dict(system)
            time.sleep(0.05)
        why = self._said()
        closed = [str(one) for one in pathlib.Path(self._report).parents if not os.stat(one).st_mode & 0o001]
        if closed and os.geteuid() == 0 and not self._image:
            why += f" (nobody may not pass {closed[0]}, where the report lies, and it runs as nobody)"
        raise Ended(f"the Orthanc that is to anonymise does not start: {why}")

    def _alive(self) -> bool:
        return self._process.poll() is None

    def _said(self) -> str:
        """Return what it has said last."""
        if self._log < 0:
            return self._given_up
        said = os.pread(self._log, LAST, max(0, os.fstat(self._log).st_size - LAST))
        lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E", "docker: "))]
        return (errors or lines or [""])[-1]

    def _remove(self) -> None:
        """Remove what it has had of images, and nothing else that may lie there."""
        if not os.path.isdir(self._folder):
            return
        for place, folders, files, number in os.fwalk(self._folder, topdown=False):
            for file in files:
                if OWN.fullmatch(os.path.relpath(os.path.join(place, file), self._folder)):
                    os.unlink(file, dir_fd=number)
            for folder in folders:
                with contextlib.suppress(OSError):
                    os.rmdir(folder, dir_fd=number)
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)


def judge(found: dict[str, str]) -> None:
    """Tell by some elements of an image whether it can be anonymised at all.

    :raises Broken: where its pixels show the patient.
    :raises Nothing: where nothing would be left.
    """
    if found.get(BURNED) == "YES":
        raise Broken("it says that its pixels show who the patient is, which no profile takes out")
    if found.keys() & {DOCUMENT, CONTENT}:
        raise Nothing("a report or a document, whose content the profile takes out as a whole")


def foresee(beginning: bytes) -> None:
    """Tell so by an image alone, where nothing is to be done. :raises Broken, Nothing: as above."""
    judge({tag: value for tag, value in elements(beginning) if tag in DECIDES})


def listed(answer: http.client.HTTPResponse) -> bytes:
    """Read the elements of an image. :raises Refused: where they are too many; several images are read at a time."""
    return whole(answer, LARGEST, Refused(f"{UNLISTED}: they take more than {LARGEST >> 20} MB"))


def seen(made: bytes, texts: set[str], original: Header) -> None:
    """See that what was made of an image tells nothing of it.

    :param texts: the elements that were read as text, whatever type they are said to have.
    :raises Broken: where it does.
    """
    for element in unknown(made):
        if element not in texts:
            raise Broken(f"nobody can look into its ({element}), which may name the patient")
    for uid in (original.study, original.series, original.instance):
        name = uid.strip(PADDING).encode("utf-8", "surrogateescape")
        # Most often it is nowhere, which is seen at once.
        if name in made and re.search(rb"(?<![0-9.])" + re.escape(name) + rb"(?![0-9.])", made):
            raise Broken(f"it was anonymised, and still has {uid}")


def identity(header: Header) -> tuple[str, str, str, str]:
    """Return what an image is known by."""
    return header.patient, header.study, header.series, header.instance

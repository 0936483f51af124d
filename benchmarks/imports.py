"""Measure how fast `pacs-import` is beside other ways to send images, what it needs, and what a modality feels of it.

Usage: python -m benchmarks.imports [ROUNDS]     (three by default; `make bench-import` runs it)

All of them send to the same Orthanc, through its proxy, from this machine. Prints Markdown on standard output, and what
it is doing on standard error.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import multiprocessing
import os
import pathlib
import shutil
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from benchmarks.host import ROOT, SECRETS, Host, say
from benchmarks.images import association, ct_slice, store
from benchmarks.load import RELEASE, Template, receive

USER, PASSWORD = "admin", SECRETS["vault_orthanc_admin_password"]
CERTIFICATE = "sed -n 's/.*ssl_certificate \\(.*\\);/\\1/p' /etc/nginx/conf.d/orthanc.conf | xargs cat"
# Pixels at a side: what the rates are of, and small ones, of which there are many.
SLICE, SMALL = 256, 32
NUMBER, BY_CURL, FEW, MANY, STORED = 2000, 100, 2000, 20_000, 50
# One image of more than a gigabyte.
FRAMES, SIDE = 1100, 1024
SWEEP = (1, 2, 4, 8, 16)
# What is to be reached.
RATE, RESUMED, FLAT, FELT = 0.9, 20, 1.1, 1.5
# A minute after its last image, the DICOMweb plugin goes through each series, and whatever is measured then is slower.
QUIET = {"orthanc_settings": {"StableAge": 86400}}


class Images:
    """Files on the disk, each set with images that are in no other one."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder, self._next = folder, 0

    def make(self, number: int, side: int = SLICE) -> pathlib.Path:
        template = self._folder / f"{side}.dcm"
        if not template.exists():
            template.write_bytes(ct_slice(side))
        image = Template(template)
        made = self._folder / f"set-{self._next}"
        for one in range(number):
            folder = made / f"{one // 500:03}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"IM{one:05}").write_bytes(image.fill(self._next + one))
        # Of another series and study than the next ones.
        self._next += (number + 99) // 100 * 100
        # Not while something is measured.
        os.sync()
        return made

    def large(self) -> pathlib.Path:
        """Make a single one of FRAMES times as many pixels."""
        one = self.make(1, SIDE)
        (file,) = files(one)
        data, pixels = file.read_bytes(), 2 * SIDE * SIDE
        with file.open("wb") as written:
            written.write(data[: -pixels - 4] + struct.pack("<I", FRAMES * pixels))
            for _ in range(FRAMES):
                written.write(data[-pixels:])
        return one


def files(images: pathlib.Path) -> list[pathlib.Path]:
    """Return the images of a set, always in one order."""
    return sorted(path for path in images.rglob("*") if path.is_file())


def answer(modality: socket.socket) -> tuple[int, bytes]:
    """Receive what is answered by DICOM's own protocol, and of which kind it is."""
    kind, size = struct.unpack(">BxL", receive(modality, 6))
    return kind, receive(modality, size)


def packed(images: pathlib.Path, form: str) -> pathlib.Path:
    """Put a set into an archive, beside it."""
    made = images.with_name(f"{images.name}.{form}")
    if form == "zip":
        with zipfile.ZipFile(made, "w") as archive:
            for file in files(images):
                archive.write(file, file.relative_to(images))
    else:
        with tarfile.open(made, "w") as archive:
            archive.add(images, "")
    return made


class Bench:
    """An Orthanc of the lab, and the ways to send to it."""

    def __init__(self, host: Host, folder: pathlib.Path) -> None:
        self.address = str(host.variables["ansible_host"])
        self.certificate = folder / "site.crt"
        self.certificate.write_bytes(host.run(CERTIFICATE))
        self.folder = folder

    def loop(self, images: pathlib.Path, clients: int) -> float:
        """Send them by a loop that does nothing else, from several processes; return the seconds."""
        context = multiprocessing.get_context("fork")
        ready = context.Barrier(clients + 1)
        parts = [files(images)[client::clients] for client in range(clients)]
        processes = [context.Process(target=self._send, args=(part, ready)) for part in parts]
        for process in processes:
            process.start()
        ready.wait()
        began = time.monotonic()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        return time.monotonic() - began

    def _send(self, part: list[pathlib.Path], ready: Any) -> None:
        trust = ssl.create_default_context(cadata=self.certificate.read_text("ascii"))
        connection = http.client.HTTPSConnection(self.address, context=trust, timeout=120, blocksize=1 << 18)
        connection.connect()
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/dicom"}
        ready.wait()
        for file in part:
            connection.request("POST", "/instances", file.read_bytes(), headers)
            answer = connection.getresponse()
            assert answer.read()
            assert answer.status == 200

    def curl(self, images: pathlib.Path) -> float:
        """Send them by a program each."""
        login = self.folder / "curl"
        login.touch(mode=0o600)
        quoted = f"{USER}:{PASSWORD}".replace("\\", "\\\\").replace('"', '\\"')
        login.write_text(f'user = "{quoted}"\n', "utf-8")
        began = time.monotonic()
        for file in files(images):
            trusted = ["--config", str(login), "--cacert", str(self.certificate)]
            sent = ["--output", "/dev/null", "--data-binary", f"@{file}", f"https://{self.address}/instances"]
            subprocess.run(["curl", "--silent", "--fail", *trusted, *sent], check=True)
        return time.monotonic() - began

    def start(self, images: pathlib.Path, report: str, *options: str) -> subprocess.Popen[bytes]:
        program = [sys.executable, str(ROOT / "tools" / "pacs-import"), "--quiet", "--user", USER]
        given = ["--url", f"https://{self.address}/", "--ca", str(self.certificate)]
        command = [*program, *given, "--report", str(self.folder / report), *options, str(images)]
        environment = os.environ | {"PACS_IMPORT_PASSWORD": PASSWORD}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def imported(self, images: pathlib.Path, report: str = "") -> tuple[float, float]:
        """Send them by `pacs-import`; return the seconds, and the most memory that it had, in MB."""
        began, most = time.monotonic(), 0
        process = self.start(images, report or f"{images.name}.report", "--full-speed")
        while process.poll() is None:
            # Its usage of resources, as the system keeps it, would begin with this program's own memory.
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text("utf-8")
            most = max(most, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
            time.sleep(0.02)
        assert process.returncode == 0, f"it has ended with {process.returncode}"
        return time.monotonic() - began, most / 1024

    def felt(self, images: pathlib.Path) -> float:
        """Store images by DICOM as a modality does; return how long one takes, in milliseconds."""
        requests = [store(file.read_bytes()) for file in files(images)]
        times = []
        with socket.create_connection((self.address, 4242), timeout=120) as modality:
            modality.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            modality.sendall(association("VERIFIER", CTImageStorage, ExplicitVRLittleEndian))
            assert answer(modality)[0] == 2
            for request in requests:
                began = time.monotonic()
                modality.sendall(request)
                # Else the answer waits until the system acknowledges its first part: 40 ms, whatever Orthanc does.
                modality.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                kind, said = answer(modality)
                times.append((time.monotonic() - began) * 1000)
                # A part of a message, and in it the element Status.
                assert (kind, said.partition(b"\0\0\0\x09\x02\0\0\0")[2][:2]) == (4, b"\0\0")
            modality.sendall(RELEASE)
        # Without the slowest tenth, which waits for the disk that this machine has for all.
        return statistics.mean(sorted(times)[: len(times) * 9 // 10])

    def beside(self, images: pathlib.Path, imported: pathlib.Path, *options: str) -> float:
        """Do that while others are imported."""
        process = self.start(imported, "beside", *options)
        time.sleep(1)
        milliseconds = self.felt(images)
        assert process.poll() is None, "the import was over before"
        process.terminate()
        process.wait()
        return milliseconds


def row(*cells: str) -> str:
    """Make the row of a table."""
    return f"| {' | '.join(cells)} |"


def rates(bench: Bench, images: Images, rounds: int) -> dict[str, list[float]]:
    """Return the images that each way sends in a second, in each round."""
    found: dict[str, list[float]] = defaultdict(list)
    ways: dict[str, Callable[[pathlib.Path], float]] = {
        "`pacs-import --full-speed`": lambda made: bench.imported(made)[0],
        "`curl`, one after the other": bench.curl,
        **{f"loop, {clients} connections": _loop(bench, clients) for clients in SWEEP},
    }
    for number in range(rounds):
        # Each way comes early once, and late once, since the archive grows.
        order = list(ways) if number % 2 else list(reversed(ways))
        for way in order:
            wanted = BY_CURL if "curl" in way else NUMBER
            say(f"round {number + 1}: {way}")
            made = images.make(wanted)
            found[way].append(wanted / ways[way](made))
            shutil.rmtree(made)
    return found


def _loop(bench: Bench, clients: int) -> Callable[[pathlib.Path], float]:
    return lambda made: bench.loop(made, clients)


def report(found: dict[str, list[float]]) -> Iterator[str]:
    """Write the rates, and their ratios to the best loop of the round."""
    loops = [values for way, values in found.items() if way.startswith("loop")]
    best = [max(values) for values in zip(*loops, strict=True)]
    yield row("Way", "Images in a second", f"Ratio to the best loop (goal: {RATE})")
    yield row("---", "---:", "---:")
    for way, values in found.items():
        ratio = statistics.median(value / most for value, most in zip(values, best, strict=True))
        yield row(way, f"{statistics.median(values):.0f}", f"{ratio:.2f}")


def needs(bench: Bench, images: Images) -> Iterator[str]:
    """Import many images, and what is large; write what it took."""
    say(f"{FEW} and {MANY} images")
    few, many = images.make(FEW, SMALL), images.make(MANY, SMALL)
    memory = {"folder": (bench.imported(few)[1], bench.imported(many)[1])}
    resumed, _ = bench.imported(many)
    elsewhere, _ = bench.imported(many, "elsewhere")
    for form in ("tar", "zip"):
        say(f"a {form} of them")
        memory[form] = (bench.imported(packed(few, form))[1], bench.imported(packed(many, form))[1])
    say("a large one")
    large = images.large()
    size = sum(file.stat().st_size for file in files(large))
    _, most = bench.imported(large)
    yield row("", "Measured", "Goal")
    yield row("---", "---:", "---")
    for form, (little, much) in memory.items():
        yield row(f"memory for a {form} of {MANY:,} images : of {FEW:,}", f"{much / little:.2f}", f"at most {FLAT}")
        yield row(f"memory for a {form} of {MANY:,} images", f"{much:.0f} MB", "")
    yield row(f"memory for one image of {size >> 20:,} MB", f"{most:.0f} MB", "")
    yield row(f"{MANY:,} known images, by the journal", f"{resumed:.1f} s", f"less than {RESUMED} s")
    yield row(f"{MANY:,} known images, from another machine", f"{elsewhere:.1f} s", f"less than {RESUMED} s")


def felt(bench: Bench, images: Images, rounds: int) -> Iterator[str]:
    """Store by DICOM alone and beside imports, in turn; write how much longer it takes."""
    say("a modality")
    ways = {"gently": (), "with `--full-speed`": ("--full-speed",)}
    ratios: dict[str, list[float]] = defaultdict(list)
    alone = []
    # Of what disturbs one of many short rounds, a median is free.
    for _ in range(3 * rounds):
        alone.append(bench.felt(images.make(STORED)))
        for way, given in ways.items():
            imported = images.make(NUMBER)
            ratios[way].append(bench.beside(images.make(STORED), imported, *given) / alone[-1])
            shutil.rmtree(imported)
    for (way, values), goal in zip(ratios.items(), (f"at most {FELT}", ""), strict=True):
        told = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        yield row(f"C-STORE beside an import {way} : without", told, goal)
    yield row("C-STORE without an import", f"{statistics.median(alone):.1f} ms", "")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder = ROOT / ".cache" / "bench-import"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    host = Host("bench-import", "quickstart", SECRETS | QUIET, "trixie-installed")
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(shutil.rmtree, folder, ignore_errors=True)
        say("deploying")
        host.create()
        cleaning.callback(host.destroy)
        host.deploy()
        bench, images = Bench(host, folder), Images(folder)
        bench.loop(images.make(100), 4)
        # While the archive is small, as the ways that are compared with one another.
        modality = list(felt(bench, images, rounds))
        print("\n".join(report(rates(bench, images, rounds))), "\n")
        print("\n".join([*needs(bench, images), *modality]))


if __name__ == "__main__":
    main()

"""Measure how fast `pacs-import` is beside other ways to send images, what it needs, and what a modality feels of it.

Usage: python -m benchmarks.imports [ROUNDS]     (three by default; `make bench-import` runs it)

All of them send to the same Orthanc, through its proxy, from this machine. Prints Markdown on standard output, and what
it is doing on standard error.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import multiprocessing
import os
import pathlib
import shutil
import ssl
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pydicom
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

from benchmarks.host import ROOT, SECRETS, Host, say
from benchmarks.images import ct_slice
from benchmarks.load import Template

USER, PASSWORD = "admin", SECRETS["vault_orthanc_admin_password"]
CERTIFICATE = "sed -n 's/.*ssl_certificate \\(.*\\);/\\1/p' /etc/nginx/conf.d/orthanc.conf | xargs cat"
# Pixels at a side: what the rates are of, and small ones, of which there are many.
SLICE, SMALL = 256, 32
NUMBER, BY_CURL, FEW, MANY, STORED = 1000, 100, 2000, 20_000, 200
SWEEP = (1, 2, 4, 8, 16)
# What is to be reached.
RATE, RESUMED, FLAT, FELT = 0.9, 20, 1.1, 1.5


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
        files = sorted(path for path in images.rglob("*") if path.is_file())
        context = multiprocessing.get_context("fork")
        ready = context.Barrier(clients + 1)
        parts = [files[client::clients] for client in range(clients)]
        processes = [context.Process(target=self._send, args=(part, ready)) for part in parts]
        for process in processes:
            process.start()
        ready.wait()
        began = time.monotonic()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        return time.monotonic() - began

    def _send(self, files: list[pathlib.Path], ready: Any) -> None:
        trust = ssl.create_default_context(cadata=self.certificate.read_text("ascii"))
        connection = http.client.HTTPSConnection(self.address, context=trust, timeout=120, blocksize=1 << 18)
        connection.connect()
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/dicom"}
        ready.wait()
        for file in files:
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
        for file in sorted(path for path in images.rglob("*") if path.is_file()):
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

    def imported(self, images: pathlib.Path, report: str, *options: str) -> tuple[float, float]:
        """Send them by `pacs-import`; return the seconds, and the most memory that it had, in MB."""
        began = time.monotonic()
        process = self.start(images, report, *(options or ("--full-speed",)))
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, f"it has ended with {status}"
        return time.monotonic() - began, used.ru_maxrss / 1024

    def felt(self, images: pathlib.Path) -> float:
        """Store images by DICOM as a modality does; return how long one takes, in milliseconds."""
        sender = AE("VERIFIER")
        sender.add_requested_context(CTImageStorage)
        association = sender.associate(self.address, 4242, ae_title="ORTHANC")
        assert association.is_established
        times = []
        for file in sorted(path for path in images.rglob("*") if path.is_file()):
            dataset = pydicom.dcmread(io.BytesIO(file.read_bytes()))
            began = time.monotonic()
            assert association.send_c_store(dataset).Status == 0
            times.append((time.monotonic() - began) * 1000)
        association.release()
        return statistics.mean(times)


def row(*cells: str) -> str:
    """Make the row of a table."""
    return f"| {' | '.join(cells)} |"


def rates(bench: Bench, images: Images, rounds: int) -> dict[str, list[float]]:
    """Return the images that each way sends in a second, in each round."""
    found: dict[str, list[float]] = defaultdict(list)
    ways: dict[str, Callable[[pathlib.Path], float]] = {
        "`pacs-import --full-speed`": lambda made: bench.imported(made, made.name)[0],
        "`curl`, one after the other": bench.curl,
        **{f"loop, {clients} connections": _loop(bench, clients) for clients in SWEEP},
    }
    for number in range(rounds):
        # Each way comes early once, and late once, since the archive grows.
        order = list(ways) if number % 2 else list(reversed(ways))
        for way in order:
            wanted = BY_CURL if "curl" in way else NUMBER
            say(f"round {number + 1}: {way}")
            found[way].append(wanted / ways[way](images.make(wanted)))
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


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder = ROOT / ".cache" / "bench-import"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    host = Host("bench-import", "quickstart", SECRETS, "trixie-installed")
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(shutil.rmtree, folder, ignore_errors=True)
        say("deploying")
        host.create()
        cleaning.callback(host.destroy)
        host.deploy()
        bench, images = Bench(host, folder), Images(folder)
        bench.loop(images.make(100), 4)
        print("\n".join(report(rates(bench, images, rounds))), "\n")
        say(f"{FEW} and {MANY} images")
        few, many = images.make(FEW, SMALL), images.make(MANY, SMALL)
        _, little = bench.imported(few, "few")
        _, much = bench.imported(many, "many")
        resumed, _ = bench.imported(many, "many")
        elsewhere, _ = bench.imported(many, "elsewhere")
        say("a modality")
        alone = bench.felt(images.make(STORED))
        process = bench.start(images.make(NUMBER * 2), "gentle")
        time.sleep(2)
        beside = bench.felt(images.make(STORED))
        assert process.poll() is None, "the import was over before"
        process.terminate()
        process.wait()
        print(row("", "Measured", "Goal"), row("---", "---:", "---"), sep="\n")
        print(row(f"memory with {MANY:,} images : with {FEW:,}", f"{much / little:.2f}", f"at most {FLAT}"))
        print(row(f"memory with {MANY:,} images", f"{much:.0f} MB", ""))
        print(row(f"{MANY:,} known images, by the journal", f"{resumed:.1f} s", f"less than {RESUMED} s"))
        print(row(f"{MANY:,} known images, from another machine", f"{elsewhere:.1f} s", f"less than {RESUMED} s"))
        print(row("C-STORE beside an import : without", f"{beside / alone:.2f}", f"at most {FELT}"))


if __name__ == "__main__":
    main()

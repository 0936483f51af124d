"""Measure the install methods side by side: a run that changes nothing, and how long a switch of release is felt.

Usage: python -m benchmarks.methods [ROUNDS [METHOD...]]
(three rounds of all methods by default; `make bench-methods BENCH='1 apt source'` is one round of two)

Prints Markdown on standard output, and what it is doing on standard error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import requests

from benchmarks.deploy import row
from benchmarks.host import ROOT, SECRETS, Host, say
from tests.hosts.releases import OFFER
from tests.hosts.source import COLLECT, NAMES, QUICK

OLD, NEW = "1.10.1", "1.12.7"
IMAGES = {
    OLD: "registry:5000/jodogne/orthanc-plugins:1.10.1",
    NEW: "registry:5000/orthancteam/orthanc:1.12.7",
}
# Of packages: Debian's own under another version, from a source of packages on the host itself.
NEXT = "1.12.8"
# What makes a release of the one that runs, by method; each has the last one first.
SWITCHES: dict[str, dict[str, dict[str, Any]]] = {
    "apt": {release: {"orthanc_version": release} for release in (NEXT, NEW)},
    "lsb": {release: {"orthanc_version": release} for release in IMAGES},
    "docker": {
        release: {"orthanc_version": release, "orthanc_docker_image": image} for release, image in IMAGES.items()
    },
    # Another plugin of another tarball is another build, in a folder of its own.
    "source": {f"{NEW} and gdcm": {"orthanc_plugins": ["worklists", "gdcm"]}, NEW: {}},
}
# What all runs of a method are given.
GIVEN: dict[str, dict[str, Any]] = {method: {} for method in SWITCHES}
# What is built once, and taken from there later.
BUILT = ROOT / ".cache" / "built"
GDCM = "apt-get source -q --download-only --tar-only orthanc-gdcm"
SECONDS_MORE = 5


class Watch:
    """Asks the site again and again, through its proxy.

    ``gap`` is the longest time that passed from one answer of the index to the next, in seconds.
    """

    def __init__(self, host: Host) -> None:
        self.gap = 0.0
        self._url = f"https://{host.variables['ansible_host']}/changes?last"
        self._session = requests.Session()
        self._session.trust_env = False
        # What is measured is time; the certificate is one that the host made itself.
        self._session.verify = False
        self._session.auth = (b"admin", SECRETS["vault_orthanc_admin_password"].encode())  # type: ignore[assignment]
        self._stop = threading.Event()
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._stop.wait(0.02):
            with contextlib.suppress(requests.RequestException):
                if self._session.get(self._url, timeout=30).status_code == 200:
                    now = time.monotonic()
                    self.gap, self._last = max(self.gap, now - self._last), now

    def __enter__(self) -> Watch:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        # What ended last is answered too before the watch ends.
        end = time.monotonic()
        while self._last < end and time.monotonic() < end + 60:
            time.sleep(0.02)
        self._stop.set()
        self._thread.join()
        self.gap = max(self.gap, time.monotonic() - self._last)


def hosts(methods: list[str]) -> dict[str, Host]:
    """Return a host for each method."""

    def variables(method: str) -> dict[str, Any]:
        return SECRETS | {"orthanc_install_method": method} | SWITCHES[method][NEW]

    made = {
        "apt": Host("bench-apt", "quickstart", SECRETS),
        "lsb": Host("bench-lsb", "quickstart", variables("lsb"), "lsb", {"mirror": "lsb-mirror"}),
        "docker": Host("bench-docker", "quickstart", variables("docker"), helpers={"registry": "trixie"}),
        # DICOMweb's tarball is nowhere to be had.
        "source": Host("bench-source", "quickstart", variables("source") | {"orthanc_plugins": ["worklists"]}),
    }
    return {method: made[method] for method in methods}


def tarballs(host: Host) -> dict[str, dict[str, Any]]:
    """Return what the inventory says of Debian's tarballs, which a host fetches once."""
    folder = BUILT / "sources"
    names = {name: NAMES[name] for name in ("orthanc", "explorer")} | {"orthanc-gdcm": "orthanc-gdcm.orig.tar.xz"}
    if not all((folder / name).exists() for name in names.values()):
        folder.mkdir(parents=True, exist_ok=True)
        host.run(f"{COLLECT}\n{GDCM}\nmv orthanc-gdcm_*.orig.tar.xz orthanc-gdcm.orig.tar.xz")
        for name in names.values():
            (folder / name).write_bytes(host.run(f"cat /srv/mirror/sources/{name}"))
    found: dict[str, dict[str, Any]] = {}
    for name, file in names.items():
        path = folder / file
        found[name] = {"from": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    found["orthanc"] |= {"also": [found.pop("explorer")], "options": QUICK}
    # Debian's tarball has no copy of Orthanc's headers.
    found["orthanc-gdcm"] |= {"options": QUICK | {"USE_SYSTEM_ORTHANC_SDK": True}, "packages": ["orthanc-dev"]}
    return found


def prepare(method: str, host: Host) -> None:
    """Make the host, with the newer release on it, and all that is built or offered."""
    say(f"A host for {method}")
    host.create()
    if method == "lsb":
        host.play("lab/stand-in/prepare.yml")
        host.play("playbooks/lsb_lock.yml", "--extra-vars", f"orthanc_version={OLD}")
    if method == "source":
        say("  what is not built yet is built now, which takes half an hour")
        GIVEN[method] = {"orthanc_version": NEW, "orthanc_source_tarballs": tarballs(host)}
        host.deploy(GIVEN[method] | next(iter(SWITCHES[method].values())))
    host.deploy(GIVEN[method])
    if method == "apt":
        host.run(f"set -- {NEXT} good\n{OFFER}")


def unchanged(host: Host, variables: Mapping[str, Any]) -> float:
    """Return how long a run that changes nothing takes, in seconds."""
    start = time.monotonic()
    output = host.deploy(variables)
    taken = time.monotonic() - start
    if b"changed=0" not in output:
        sys.exit(f"A run that should change nothing did:\n{output.decode()}")
    return taken


def switch(host: Host, variables: Mapping[str, Any]) -> tuple[float, float]:
    """Return for how long nobody has an answer at a switch of release, and at a plain restart of that release."""
    with Watch(host) as switching:
        host.deploy(variables)
    with Watch(host) as restarting:
        host.run("systemctl restart orthanc")
    return switching.gap, restarting.gap


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seconds: dict[str, list[float]] = {}
    gaps: dict[str, list[tuple[float, float]]] = {}
    made = hosts(sys.argv[2:] or list(SWITCHES))
    os.environ["XDG_CACHE_HOME"] = str(BUILT)
    requests.packages.urllib3.disable_warnings()  # type: ignore[attr-defined]
    try:
        for method, host in made.items():
            prepare(method, host)
        for number in range(1, rounds + 1):
            say(f"Round {number} of {rounds}")
            for method, host in made.items():
                seconds.setdefault(method, []).append(unchanged(host, GIVEN[method]))
                say(f"  nothing to change with {method}: {seconds[method][-1]:.1f} s")
            for method, host in made.items():
                for release, variables in SWITCHES[method].items():
                    name = f"{method}, to {release}"
                    gaps.setdefault(name, []).append(switch(host, GIVEN[method] | variables))
                    say(f"  no answer with {name}, at a restart: %.1f s, %.1f s" % gaps[name][-1])
    finally:
        for host in made.values():
            host.destroy()

    print("| Run that changes nothing, in seconds | Median | In each round |\n| --- | ---: | --- |")
    for method, values in seconds.items():
        print(row(method, values, ".1f"))
    if "apt" in seconds:
        print("\n| Ratio to apt | Median | In each round |\n| --- | ---: | --- |")
        for method, values in seconds.items():
            print(row(method, [value / apt for value, apt in zip(values, seconds["apt"], strict=True)], ".2f"))
    print("\n| Seconds without an answer | Median | In each round |\n| --- | ---: | --- |")
    for name, pairs in gaps.items():
        switched, restarted = zip(*pairs, strict=True)
        print(row(f"{name}: switch", list(switched), ".1f"))
        print(row(f"{name}: restart", list(restarted), ".1f"))
    print("\n| Seconds more than a restart | Median | In each round | Goal |\n| --- | ---: | --- | --- |")
    for name, pairs in gaps.items():
        print(row(name, [switched - restarted for switched, restarted in pairs], ".1f"), f"under {SECONDS_MORE} |")


if __name__ == "__main__":
    main()

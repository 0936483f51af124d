"""Measure what more Orthancs on one database bring to reading and to ingest, and what a cluster costs ingest.

Usage: python -m benchmarks.nodes [ROUNDS]     (five; `make bench-nodes` runs it)

Prints Markdown on standard output, and what it is doing on standard error.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import http.client
import ipaddress
import itertools
import json
import pathlib
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from benchmarks.host import SECRETS, say
from benchmarks.images import ct_slice
from benchmarks.load import FIRST, PATIENT, PER_STUDY, STUDY, Template
from tests.hosts.conftest import ROOT, Lab, run

NODES = (1, 2, 4)
# What each node has of a core: all of them together less than one. The database, which is not held to anything, and
# the clients have the rest.
SHARE = 0.15
CLIENTS, SIDE, STUDIES = 8, 256, 10
# How long each is measured for, in seconds.
EACH = 15
NAMES = ("pacs", "pacs2", "pacs3", "pacs4")
HEADERS = {
    "Authorization": "Basic " + base64.b64encode(f"admin:{SECRETS['vault_orthanc_admin_password']}".encode()).decode()
}
READS = {
    "QIDO-RS": "/dicom-web/studies?PatientID={patient}",
    "WADO-RS of a study of 100 images": "/dicom-web/studies/{study}",
}
INGEST = "ingest"


class Clients:
    """Eight clients of some addresses, each of which keeps its connection."""

    numbers = itertools.count()

    def __init__(self, addresses: list[str], authority: str) -> None:
        context = ssl.create_default_context(cadata=authority)
        # How often an image was sent once more.
        self.again = 0
        places = itertools.islice(itertools.cycle(addresses), CLIENTS)
        self._connections = [http.client.HTTPSConnection(one, timeout=120, context=context) for one in places]
        with tempfile.NamedTemporaryFile() as file:
            pathlib.Path(file.name).write_bytes(ct_slice(SIDE))
            self._template = Template(pathlib.Path(file.name))

    def _ask(self, connection: http.client.HTTPSConnection, method: str, path: str, **given: Any) -> int:
        connection.request(method, path, headers=HEADERS | given.pop("headers", {}), **given)
        answer = connection.getresponse()
        if not answer.read() or answer.status not in (200, 503):
            raise SystemExit(f"{method} {path}: {answer.status}")
        return answer.status

    def send(self, connection: http.client.HTTPSConnection) -> None:
        """Send the next image, again where the other node was in the way."""
        image = self._template.fill(next(self.numbers))
        while self._ask(connection, "POST", "/instances", body=image) != 200:
            self.again += 1

    def read(self, what: str) -> Callable[[http.client.HTTPSConnection], None]:
        turns = itertools.count()

        def ask(connection: http.client.HTTPSConnection) -> None:
            number = FIRST + next(turns) % STUDIES
            path = READS[what].format(patient=f"{PATIENT}{number}", study=f"{STUDY}{number}")
            if self._ask(connection, "GET", path) != 200:
                raise SystemExit(f"{path}: not served")

        return ask

    def count(self, act: Callable[[http.client.HTTPSConnection], None], seconds: float = EACH, most: int = 0) -> float:
        """Return how often it is done in a second by all clients together.

        :param most: after how many times it ends, if not after the seconds.
        """
        end, turns = time.monotonic() + seconds, itertools.count()

        def again(connection: http.client.HTTPSConnection) -> int:
            done = 0
            while next(turns) < most if most else time.monotonic() < end:
                act(connection)
                done += 1
            return done

        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            done = sum(pool.map(again, self._connections))
        return done / (time.monotonic() - begun)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@contextlib.contextmanager
def deployed(name: str, inventory: str, hosts: tuple[str, ...], **variables: Any) -> Iterator[tuple[Lab, str]]:
    """Have a site of a shipped inventory; give the lab, and who its proxies are trusted by."""
    say(f"{inventory}: deploying")
    shipped = ROOT / "inventories" / inventory
    groups = yaml.safe_load((shipped / "hosts.yml").read_text("utf-8"))
    # A host with a server already is not turned into one of a cluster.
    lab = Lab(name, **dict.fromkeys(hosts, "trixie" if "etcd" in groups else "trixie-installed"))
    if "pacs4" in hosts:
        added = {group: {"hosts": dict.fromkeys(NAMES)} for group in ("orthanc", "nginx")}
        (lab.folder / "nodes.yml").write_text(yaml.safe_dump(added), "utf-8")
    if "etcd" in groups:
        variables["keepalived_address"] = str(ipaddress.ip_network(f"{lab.address['pacs']}/24", strict=False)[200])
        lab.address["address"] = variables["keepalived_address"]
    (lab.folder / "group_vars" / "all").mkdir(parents=True, exist_ok=True)
    (lab.folder / "group_vars" / "all" / "bench.json").write_text(json.dumps(variables), "utf-8")
    lab.play("certificates", inventory=shipped)
    lab.play(inventory=shipped, timeout=1800)
    used = "sed -n 's/.*ssl_certificate \\(.*\\);/\\1/p' /etc/nginx/conf.d/orthanc.conf | xargs cat"
    # An authority of its own has signed them, or each has signed its own.
    authority = "\n".join(lab.shell(used, host) for host in hosts if host != "db")
    yield lab, authority
    lab.destroy()


def told(values: list[float], form: str = ".2f") -> str:
    """Return the median of what was measured, and all of it."""
    return f"{statistics.median(values):{form}} ({', '.join(f'{value:{form}}' for value in values)})"


def nodes(rounds: int) -> None:
    """Print what one, two and four nodes do."""
    given = {"orthanc_database_storage": True, "orthanc_settings": {"OverwriteInstances": True, "StableAge": 86400}}
    with deployed("bench-nodes", "remote-database", (*NAMES, "db"), **given) as (lab, authority):
        filled = Clients([lab.address["pacs"]], authority)
        filled.count(filled.send, most=STUDIES * PER_STUDY)
        filled.close()
        for name in NAMES:
            run("docker", "update", "--cpus", str(SHARE), lab.container(name))
        found: dict[str, dict[int, list[float]]] = {}
        again: dict[int, list[float]] = {}
        for number, many in itertools.product(range(rounds), NODES):
            say(f"round {number + 1}, {many} nodes")
            clients = Clients([lab.address[name] for name in NAMES[:many]], authority)
            for what in (*READS, INGEST):
                act = clients.send if what == INGEST else clients.read(what)
                # Each has its connection by then.
                clients.count(act, 2)
                clients.again = 0
                found.setdefault(what, {}).setdefault(many, []).append(clients.count(act))
            # Of the last of them, which is the ingest.
            again.setdefault(many, []).append(clients.again / EACH)
            clients.close()
    print(f"| A second | {' | '.join(f'{many} nodes' for many in NODES)} | 2 : 1 | 4 : 1 |\n| --- |{' ---: |' * 5}")
    for what, by in found.items():
        ratios = [told([one / alone for one, alone in zip(by[many], by[1], strict=True)]) for many in NODES[1:]]
        print(f"| {' | '.join([what, *(f'{statistics.median(by[many]):.1f}' for many in NODES), *ratios])} |")
    print(f"| images sent once more | {' | '.join(f'{statistics.median(again[many]):.1f}' for many in NODES)} | | |")


def cluster(rounds: int) -> None:
    """Print what a cluster takes of images beside one host with the same database."""
    quiet = {"orthanc_settings": {"OverwriteInstances": True, "StableAge": 86400}}
    with (
        deployed("bench-alone", "single", ("pacs",), orthanc_database_storage=True, **quiet) as (alone, trusted),
        deployed("bench-cluster", "cluster", NAMES[:3], **quiet) as (three, authority),
    ):
        found: dict[str, list[float]] = {}
        for number in range(rounds):
            say(f"ingest, round {number + 1}")
            for what, address, by in (
                ("one host", alone.address["pacs"], trusted),
                ("three hosts", three.address["address"], authority),
            ):
                clients = Clients([address], by)
                clients.count(clients.send, 2)
                found.setdefault(what, []).append(clients.count(clients.send))
                clients.close()
    ratio = [many / one for many, one in zip(found["three hosts"], found["one host"], strict=True)]
    print("\n| Images in a second | Median (each round) |\n| --- | ---: |")
    for what, rates in found.items():
        print(f"| {what} | {told(rates, '.0f')} |")
    print(f"| three hosts : one host | {told(ratio)} |")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    nodes(rounds)
    cluster(rounds)


if __name__ == "__main__":
    main()

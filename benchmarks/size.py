"""Measure what an image costs a database beside its file, and what archives of some sizes need by that.

Usage: python -m benchmarks.size [IMAGES]     (4,000; `make bench-size` runs it)

Prints Markdown on standard output, and what it is doing on standard error. Bytes do not depend on what else the
machine does.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import requests

from benchmarks.host import say
from benchmarks.images import ct_slice
from benchmarks.load import Template
from tests.hosts.conftest import ROOT, Lab

SIDE, CLIENTS = 256, 4
# So many are there before it is measured, and so many are sent with a checkpoint before each.
BEFORE, ALONE = 400, 100
ASK = "SELECT pg_database_size('orthanc'), (pg_current_wal_lsn() - '0/0')::bigint"
GIB = 1 << 30
# Of the table: images of an archive, kept for five years; the size of each; and what part of a day's comes in its
# busiest hour.
ARCHIVES, YEARS, SIZE, BUSIEST = (10**6, 10**7, 10**8), 5, 512 << 10, 0.15


class Site:
    """One host with PostgreSQL, by the shipped inventory."""

    def __init__(self, storage: bool) -> None:
        self.lab = Lab("bench-size", pacs="trixie-installed")
        given = {"orthanc_database_storage": storage}
        self.lab.play(variables=given, inventory=ROOT / "inventories" / "single")
        self._numbers = itertools.count()
        self._session: requests.Session = self.lab.session()

    def sql(self, statement: str) -> list[int]:
        said = self.lab.shell(f'runuser -u postgres -- psql -qAt orthanc -c "{statement}"')
        return [int(one) for one in said.replace("|", " ").split()]

    def send(self, content: Sequence[bytes]) -> None:
        url = self.lab.url("/instances")

        def one(file: bytes) -> int:
            return self._session.post(url, data=file, timeout=120).status_code

        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            if set(pool.map(one, content)) != {200}:
                sys.exit("an image was not taken")

    def cost(self, files: Iterator[bytes], number: int, alone: bool) -> tuple[float, float]:
        """Return by how many bytes an image lets the database and its log grow.

        :param alone: with a checkpoint before each image, so that every page that it touches is logged whole. That is
            how it is where the index is so big that two images hardly ever touch the same page between two checkpoints.
        """
        self.sql("CHECKPOINT")
        before = self.sql(ASK)
        for _ in range(number if alone else 1):
            if alone:
                self.sql("CHECKPOINT")
            self.send(list(itertools.islice(files, 1 if alone else number)))
        size, log = ((now - then) / number for now, then in zip(self.sql(ASK), before, strict=True))
        return size, log


def measure(storage: bool, number: int) -> tuple[float, float, float]:
    """Return what an image costs the database, and its log at least and at most, in bytes."""
    say(f"PostgreSQL, DICOM files {'in it' if storage else 'in a folder'}")
    site = Site(storage)
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(ct_slice(SIDE))
        template = Template(Path(file.name))
    files = map(template.fill, itertools.count(1))
    site.send(list(itertools.islice(files, BEFORE)))
    size, least = site.cost(files, number, alone=False)
    _, most = site.cost(files, ALONE, alone=True)
    site.lab.destroy()
    return size, least, most


def kib(number: float) -> str:
    return f"{number / 1024:.1f}"


def needs(images: int, index: float, log: float, log_inside: float) -> str:
    """Return a row of the table."""
    day = images / YEARS / 365
    second = day * BUSIEST / 3600
    told = [
        f"{images // 10**6} million",
        f"{day:,.0f}, {second:.2f}",
        f"{images * SIZE / GIB:,.0f}",
        f"{images * index / GIB:,.1f}",
        f"{day * log / GIB:,.2f}",
        f"{day * log_inside / GIB:,.1f}",
        f"{second * SIZE * 8 / 10**6:.1f}",
        f"{second * log * 8 / 10**6:.2f}, {second * log_inside * 8 / 10**6:.1f}",
    ]
    return f"| {' | '.join(told)} |"


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    content = len(ct_slice(SIDE))
    found = {storage: measure(storage, number) for storage in (False, True)}
    print(f"| DICOM files of {kib(content)} KiB | Database, KiB | Log, KiB, at least | Log, KiB, at most |")
    print("| --- | ---: | ---: | ---: |")
    for storage, costs in found.items():
        print(f"| {'in the database' if storage else 'in a folder'} | {' | '.join(map(kib, costs))} |")
    (index, _, log), (_, _, inside) = found[False], found[True]
    # What the file itself costs the log grows with it, the rest does not.
    inside = log + (inside - log) * SIZE / content
    print(
        f"\n| Images | a day, a second | Files, GiB | Index, GiB | Log a day, GiB | with the files, GiB |"
        f" Clients, Mbit/s | To each standby, Mbit/s |\n|{' ---: |' * 8}"
    )
    print("\n".join(needs(images, index, log, inside) for images in ARCHIVES))


if __name__ == "__main__":
    main()

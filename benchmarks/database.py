"""Measure how fast images go into Orthanc on each database, as deployed, by the defaults, and by a sweep of settings.

`make bench-database` runs it; BENCH='--quick' hands options on. Prints Markdown on standard output, and what it is
doing on standard error. What was measured is kept in .cache/bench-database-RELEASE.json, for --tables.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import images, tables
from benchmarks.host import ROOT, SECRETS, Host, say
from benchmarks.points import DEFAULTS, INVENTORIES, NAMES, PASSWORD, POINTS, SHIPPED, Point

FOLDER = pathlib.Path(__file__).parent
LOGIN = f"proxy:{SECRETS['vault_orthanc_proxy_password']}"
VARIABLES = SECRETS | {
    "vault_orthanc_database_password": PASSWORD,
    # The lab has named it for the verification; here it is on the host itself.
    "orthanc_modalities": {"verifier": {"AET": images.CALLING, "Host": "127.0.0.1", "Port": 11112}},
}
QUERIES = tables.LOAD[1]
# The loads: clients, and queries. Of the comparison in this order, so that each has found as many images.
SWEEP = [tables.LOAD]
CLOSER = [*SWEEP, (8, QUERIES)]
COMPARISON = [*CLOSER, (1, QUERIES), (4, 0), (8, 0), (1, 0)]
# So many images at a time go to the one host and then to the other, so that both see the same machine.
SLICE = {"slice": 250, "small": 500}
READS = ("QIDO-RS", "WADO-RS", "C-FIND")

Result = dict[str, Any]
# As deployed, and what is compared with it.
Pair = tuple["Archive", "Archive"]


class Archive:
    """An Orthanc on one of the databases, deployed by the shipped playbook with the inventory for it."""

    def __init__(self, database: str, release: str, name: str) -> None:
        self.database = database
        self.host = Host(f"bench-db-{database}-{name}", INVENTORIES[database], VARIABLES, release)

    def deploy(self) -> None:
        self.host.create()
        self.host.deploy()
        files = {"load.py": b"", "point.py": b"", "slice": images.ct_slice(256), "small": images.ct_slice(16)}
        files |= {"association": images.association(), "query": images.query()}
        self.host.run("mkdir --parents /root/bench")
        for name, content in files.items():
            self.host.run(f"cat > /root/bench/{name}", given=content or (FOLDER / name).read_bytes())
        self.host.run("python3 /root/bench/point.py remember")

    def set(self, point: Point) -> None:
        """Set a point, with an archive that is empty but for the images that are asked for from the start."""
        self._python("point.py", point.task(self.database, LOGIN))
        self.load(images=100, clients=1, first=0, queries=0)

    def rest(self) -> None:
        """Stop Orthanc, so that others are measured without it; the next point starts with nothing."""
        self.host.run("systemctl kill --signal KILL orthanc; systemctl stop orthanc")

    def load(self, images: int, clients: int, first: int, queries: int, image: str = "slice") -> Result:
        task = {"images": images, "clients": clients, "first": first, "queries": queries, "login": LOGIN}
        done: Result = json.loads(self._python("load.py", task | {"image": f"/root/bench/{image}"}))
        return done

    def _python(self, program: str, task: dict[str, Any]) -> bytes:
        # Not as an argument of the shell: it holds passwords with everything in them.
        return self.host.run(
            f'python3 /root/bench/{program} "$(cat)"', given=json.dumps(task, ensure_ascii=True).encode()
        )


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98] if len(times) > 1 else 0.0


def summary(parts: list[Result]) -> Result:
    """Return images per second, and p99 in milliseconds, of a load that came in parts."""
    times = {kind: [time for part in parts for time in part["times"].get(kind, [])] for kind in ("store", *READS)}
    return {
        "rate": len(times["store"]) / sum(part["seconds"] for part in parts),
        "p99": p99(times["store"]),
        "reads": p99([time for kind in READS for time in times[kind]]),
        "p99s": {kind: p99(times[kind]) for kind in READS},
        "failed": sum(part["failed"] for part in parts),
    }


def by_turns(
    archives: Sequence[Archive], clients: int, queries: int, first: int, images: int, image: str = "slice"
) -> list[Result]:
    """Put a load on several archives, a slice on each by turns."""
    parts: list[list[Result]] = [[] for _ in archives]
    size = SLICE[image]
    for number, start in enumerate(range(first, first + images, size)):
        pairs = list(zip(archives, parts, strict=True))
        for archive, part in reversed(pairs) if number % 2 else pairs:
            part.append(archive.load(min(size, first + images - start), clients, start, queries, image))
    return [summary(part) for part in parts]


def order(points: dict[str, list[Point]], backwards: bool) -> Iterator[tuple[str, Point]]:
    """Go through the points of all databases in turns."""
    longest = max(map(len, points.values()))
    for index in reversed(range(longest)) if backwards else range(longest):
        yield from ((database, chosen[index]) for database, chosen in points.items() if index < len(chosen))


def measure(archives: dict[str, Pair], options: argparse.Namespace) -> list[Result]:
    """Measure every point beside what is deployed, in rounds; every second round goes backwards."""
    points = {
        database: [
            point
            for point in POINTS[database]
            if point.name in (options.points or [point.name]) and point.name != SHIPPED
        ]
        for database in archives
    }
    results = []
    for number in range(1, options.rounds + 1):
        say(f"Round {number} of {options.rounds}")
        for database, point in order(points, backwards=number % 2 == 0):
            pair, first = archives[database], 100
            for archive, chosen in zip(pair, (Point(SHIPPED), point), strict=True):
                archive.set(chosen)
            whole = options.points or point.name == DEFAULTS
            share = options.images if whole else options.images // 2
            for clients, queries in CLOSER if options.points else COMPARISON if whole else SWEEP:
                done = by_turns(pair, clients, queries, first, share)
                first += share
                key = {"database": database, "beside": point.name, "load": [clients, queries], "round": number}
                results += [key | {"shipped": which == 0} | one for which, one in enumerate(done)]
                say(f"  {NAMES[database]}, {clients} clients{', mixed' * bool(queries)}: {line(done, point.name)}")
            for archive in pair:
                archive.rest()
            keep(options, results=results)
    return results


def line(done: list[Result], name: str) -> str:
    return "; ".join(
        f"{what} {one['rate']:.0f}/s, p99 {one['p99']:.0f}, queries {one['reads']:.0f} ms"
        f"{', failed: ' + str(one['failed']) if one['failed'] else ''}"
        for what, one in zip((SHIPPED, name), done, strict=True)
    )


def grow(archives: dict[str, Pair], options: argparse.Namespace) -> list[Result]:
    """Fill archives with small images, under mixed load, and note how they slow down."""
    results = []
    chosen = [archive for archive, _ in archives.values()]
    for archive in chosen:
        archive.set(Point(SHIPPED))
    step = options.growth // 10
    for first in range(100, options.growth, step):
        for archive, done in zip(chosen, by_turns(chosen, *tables.LOAD, first, step, "small"), strict=True):
            results.append({"database": archive.database, "images": first + step} | done)
            say(f"  {NAMES[archive.database]}, {first + step} images: {done['rate']:.0f}/s, p99 {done['p99']:.0f} ms")
        keep(options, growth=results)
    return results


def kept(options: argparse.Namespace) -> pathlib.Path:
    return ROOT / ".cache" / f"bench-database-{options.release}{'-points' * bool(options.points)}.json"


def keep(options: argparse.Namespace, **results: list[Result]) -> None:
    """Write down what was measured so far, beside what is there from before."""
    path = kept(options)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(before | results), encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--databases", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--release", choices=["bookworm", "trixie"], default="trixie", help="of Debian")
    parser.add_argument("--images", type=int, default=2000, help="for a load in a round; the sweep takes half of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--points", nargs="+", help="a closer look at these of points.py, with 8 clients too")
    parser.add_argument("--growth", type=int, default=50000, help="how far archives are filled; 0 leaves it out")
    parser.add_argument("--quick", action="store_true", help="a small round, to see that it works")
    parser.add_argument("--tables", action="store_true", help="only print what was measured last")
    options = parser.parse_args()
    if options.quick:
        options.images, options.rounds, options.growth = 200, 1, 2000
    return options


def main() -> None:
    options = arguments()
    if not options.tables:
        archives = {
            one: (Archive(one, options.release, "a"), Archive(one, options.release, "b")) for one in options.databases
        }
        every = [archive for pair in archives.values() for archive in pair]
        kept(options).unlink(missing_ok=True)
        try:
            for archive in every:
                say(f"Deployment with {NAMES[archive.database]}")
                archive.deploy()
                archive.rest()
            if options.rounds:
                measure(archives, options)
            if options.growth:
                say("Growth")
                grow(archives, options)
        finally:
            for archive in every:
                archive.host.destroy()
    tables.show(json.loads(kept(options).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()

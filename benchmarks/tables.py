"""The tables of what benchmarks/database.py has measured, in Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.points import DEFAULTS, NAMES, POINTS, SHIPPED

Result = dict[str, Any]
# Clients that send, and queries of each kind per second.
Load = tuple[int, int]
# The load of the sweep.
LOAD = (4, 10)


class Results:
    """What was measured of a database: points, each beside the one as deployed, under loads."""

    def __init__(self, database: str, results: list[Result]) -> None:
        self.results = [one for one in results if one["database"] == database]
        there = {one["beside"] for one in self.results}
        self.points = [point for point in POINTS[database] if point.name in there]

    def values(self, point: str, load: Load, what: str) -> list[float]:
        """Return what was measured at a point in each round."""
        if point == SHIPPED:
            return [one[what] for one in self.results if one["shipped"] and tuple(one["load"]) == load]
        return self._beside(point, load, what, False)

    def loads(self, but: str = "") -> list[Load]:
        """Return the loads, in their order, of all points but one."""
        loads = {(one["load"][0], one["load"][1]) for one in self.results if one["beside"] != but}
        return sorted(loads, key=lambda load: (load[1], load[0]))

    def _beside(self, point: str, load: Load, what: str, shipped: bool) -> list[float]:
        wanted = (point, load, shipped)
        return [one[what] for one in self.results if (one["beside"], tuple(one["load"]), one["shipped"]) == wanted]

    def median(self, point: str, load: Load, what: str) -> float:
        return statistics.median(self.values(point, load, what))

    def ratios(self, point: str, load: Load, what: str = "rate") -> list[float]:
        """Return the ratios to what was measured at the same time, as deployed."""
        pairs = zip(self.values(point, load, what), self._beside(point, load, what, True), strict=False)
        return [one / other for one, other in pairs]

    def ratio(self, point: str, load: Load, what: str = "rate") -> float:
        return 1.0 if point == SHIPPED else statistics.median(self.ratios(point, load, what))


def named(load: Load) -> str:
    clients, queries = load
    return f"{clients} client{'s' * (clients > 1)}{', mixed' * bool(queries)}"


def comparison(results: dict[str, Results]) -> None:
    """Images per second and p99 of each database, as deployed and by the defaults."""
    loads = next(iter(results.values())).loads()
    heads = [named(load) for load in loads]
    print(f"| Images per second (p99 in ms) | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")
    for database, found in results.items():
        for point in (SHIPPED, DEFAULTS):
            medians = [[found.median(point, load, what) for what in ("rate", "p99")] for load in loads]
            cells = [f"{rate:.0f} ({tail:.0f})" for rate, tail in medians]
            print(f"| {NAMES[database]}, {point} | {' | '.join(cells)} |")
        for what in ("rate", "p99"):
            cells = [f"{1 / found.ratio(DEFAULTS, load, what):.2f}" for load in loads]
            print(f"| ratio of the {what} | {' | '.join(cells)} |")


def sweep(database: str, found: Results, load: Load) -> None:
    """All points of a database under one load, the fastest first."""
    failed = {point.name: sum(found.values(point.name, load, "failed")) for point in POINTS[database]}
    there = [POINTS[database][0], *(point for point in found.points if found.values(point.name, load, "rate"))]
    there.sort(key=lambda point: -found.ratio(point.name, load))
    heads = [f"{NAMES[database]}, {named(load)}", "Images per second", "To as deployed", "In each round"]
    print(f"\n| {' | '.join(heads)} | p99 in ms | To as deployed | p99 of queries | Failed |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for point in there:
        name = point.name
        ratios = [] if name == SHIPPED else found.ratios(name, load)
        cells = [
            name if point.durable else f"{name} (not durable)",
            f"{found.median(name, load, 'rate'):.0f}",
            f"{found.ratio(name, load):.2f}",
            ", ".join(f"{ratio:.2f}" for ratio in ratios),
            f"{found.median(name, load, 'p99'):.0f}",
            f"{found.ratio(name, load, 'p99'):.2f}",
            f"{found.median(name, load, 'reads'):.0f}",
            f"{failed[name] or ''}",
        ]
        print(f"| {' | '.join(cells)} |")
    best = next(point.name for point in there if point.durable and not failed[point.name])
    rate, tail = 1 / found.ratio(best, load), 1 / found.ratio(best, load, "p99")
    print(f"\nThe best durable point is: {best}. What is deployed has {rate:.2f} of its rate (goal: at least 0.9)")
    print(f"and {tail:.2f} times its p99 (goal: at most 1.5).")


def growth(results: list[Result]) -> None:
    """How archives slow down while they grow."""
    databases = list(dict.fromkeys(one["database"] for one in results))
    heads = [f"{NAMES[database]}: images per second (p99) | p99 of QIDO-RS, WADO-RS, C-FIND" for database in databases]
    print(f"\n| Images in the archive | {' | '.join(heads)} |\n| ---: |{' ---: | ---: |' * len(databases)}")
    for fill in dict.fromkeys(one["images"] for one in results):
        cells = []
        for database in databases:
            for one in results:
                if (one["database"], one["images"]) == (database, fill):
                    cells.append(f"{one['rate']:.0f} ({one['p99']:.0f})")
                    cells.append(", ".join(f"{value:.0f}" for value in one["p99s"].values()))
        print(f"| {fill} | {' | '.join(cells)} |")


def show(measured: dict[str, list[Result]]) -> None:
    if every := measured.get("results"):
        there = {one["database"] for one in every}
        results = {database: Results(database, every) for database in NAMES if database in there}
        compared = {name: found for name, found in results.items() if DEFAULTS in [one.name for one in found.points]}
        if compared:
            comparison(compared)
        for database, found in results.items():
            # By the defaults alone it is in the table above.
            for load in found.loads(but=DEFAULTS):
                sweep(database, found, load)
    if every := measured.get("growth"):
        growth(every)

"""The tables of what benchmarks/database.py has measured, in Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.points import DEFAULTS, NAMES, POINTS, SHIPPED

Result = dict[str, Any]


class Results:
    """What was measured, by database, point and load."""

    def __init__(self, results: list[Result]) -> None:
        self.results = results
        self.databases = [name for name in NAMES if any(one["database"] == name for one in results)]
        self.loads = list(dict.fromkeys((one["clients"], one["queries"]) for one in results))

    def values(self, database: str, point: str, load: tuple[int, int], what: str) -> list[float]:
        """Return what was measured in each round."""
        key = (database, point, *load)
        return [
            one[what] for one in self.results if key == (one["database"], one["point"], one["clients"], one["queries"])
        ]

    def median(self, database: str, point: str, load: tuple[int, int], what: str) -> float:
        return statistics.median(self.values(database, point, load, what))

    def ratio(self, database: str, point: str, other: str, load: tuple[int, int], what: str = "rate") -> float:
        """Return the median of the ratios to another point within a round."""
        pairs = zip(self.values(database, point, load, what), self.values(database, other, load, what), strict=False)
        return statistics.median(one / reference for one, reference in pairs)

    def points(self, database: str) -> list[str]:
        there = {one["point"] for one in self.results if one["database"] == database}
        return [point.name for point in POINTS[database] if point.name in there]


def comparison(results: Results) -> None:
    """Images per second and p99 of each database, as deployed and by the defaults."""
    loads = sorted(results.loads, key=lambda load: (load[1], load[0]))
    heads = [f"{clients} client{'s' * (clients > 1)}{', mixed' * bool(queries)}" for clients, queries in loads]
    print(f"| Images per second (p99 in ms) | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")
    for database in results.databases:
        for point in (SHIPPED, DEFAULTS):
            medians = [[results.median(database, point, load, what) for what in ("rate", "p99")] for load in loads]
            cells = [f"{rate:.0f} ({tail:.0f})" for rate, tail in medians]
            print(f"| {NAMES[database]}, {point} | {' | '.join(cells)} |")
        cells = [f"{results.ratio(database, SHIPPED, DEFAULTS, load):.2f}" for load in loads]
        print(f"| ratio of the rates | {' | '.join(cells)} |")


def sweep(results: Results, database: str, load: tuple[int, int]) -> None:
    """All points of a database under the mixed load of so many clients, the fastest first."""
    durable = {point.name: point.durable for point in POINTS[database]}
    failed = {name: sum(results.values(database, name, load, "failed")) for name in results.points(database)}
    names = sorted(results.points(database), key=lambda name: -results.median(database, name, load, "rate"))
    heads = [f"{NAMES[database]}, {load[0]} clients, mixed", "Images per second", "In each round", "To as deployed"]
    print(f"\n| {' | '.join(heads)} | p99 in ms | Of queries | Failed |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for name in names:
        rates = results.values(database, name, load, "rate")
        cells = [
            name if durable[name] else f"{name} *",
            f"{statistics.median(rates):.0f}",
            ", ".join(f"{rate:.0f}" for rate in rates),
            f"{results.ratio(database, name, SHIPPED, load):.2f}",
            f"{results.median(database, name, load, 'p99'):.0f}",
            f"{results.median(database, name, load, 'reads'):.0f}",
            f"{failed[name] or ''}",
        ]
        print(f"| {' | '.join(cells)} |")
    kept = [name for name in names if durable[name] and not failed[name]]
    best = max(results.ratio(database, name, SHIPPED, load) for name in kept)
    fastest = max(kept, key=lambda name: results.ratio(database, name, SHIPPED, load))
    tail = results.median(database, SHIPPED, load, "p99") / results.median(database, fastest, load, "p99")
    print(f"\nOf the best durable point ({fastest}) what is deployed has {1 / best:.2f} of the rate", end="")
    print(f" (goal: at least 0.9) and {tail:.2f} times its p99 (goal: at most 1.5).")


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
    if "results" in measured:
        results = Results(measured["results"])
        comparison(results)
        for database in results.databases:
            for load in results.loads:
                if load[1] and len(results.values(database, results.points(database)[-1], load, "rate")):
                    sweep(results, database, load)
    if "growth" in measured:
        growth(measured["growth"])

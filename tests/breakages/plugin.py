"""A plugin of pytest for the verification's suite: which checks it runs, and under which lies.

With ``--only`` it runs the checks that are named. With ``--lies`` it runs those of each lie while that one is told,
beside a few that have nothing to do with it; before the first lie and after the last one all of them without any.
What came of each goes into ``--outcomes``.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Generator
from typing import Any

import pytest
import requests

from tests.breakages.lies import LIES, Lie
from tests.breakages.names import HONEST, LIAR_PORT, SAMPLE, covered, named
from tests.breakages.relay import Relay
from verification.client import DECLARED, Client
from verification.patient import CT, MARK, NAMED, SERIES, transfer_syntaxes
from verification.site import Site

# What the fixtures have put there, for all checks.
KEPT = {image.instance for image in (CT, *SERIES, *transfer_syntaxes().values(), *NAMED.values())}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only", type=pathlib.Path, help="JSON file with the names of the checks to run")
    parser.addoption("--lies", action="store_true", help="tell lies to the first site")
    parser.addoption("--outcomes", type=pathlib.Path, help="where what came of each check goes")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--outcomes"):
        made = Outcomes(config)
        config.pluginmanager.register(made, "outcomes")
        if config.getoption("--lies"):
            made.relay = between(config.getoption("--sites") / "pacs.json")


def between(file: pathlib.Path) -> Relay:
    """Have a site's DICOM port reached through a relay: its description is changed before it is read."""
    described = json.loads(file.read_text(encoding="utf-8"))
    relay = Relay(described["dicom_address"], described["dicom_port"])
    described |= {"dicom_address": "127.0.0.1", "dicom_port": relay.port}
    file.write_text(json.dumps(described), encoding="utf-8")
    return relay


class Outcomes:
    """Runs checks, and notes what comes of them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.step = ""
        self.lie: Lie | None = None
        self.sites: list[Site] = []
        self.relay: Relay | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave what is asked for, of the first site alone."""
        wanted = json.loads(self.config.getoption("--only").read_text(encoding="utf-8"))
        sites = {site.name: site for item in items if (site := site_of(item))}
        first = sites.pop(wanted["site"])
        self.sites = [first, *sites.values()]
        items[:] = [item for item in items if site_of(item) is first and covered(named(item.nodeid), wanted["checks"])]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run each check under each lie that is about it."""
        if not self.config.getoption("--lies"):
            return None
        items = {named(item.nodeid): item for item in session.items}
        turns: list[tuple[str, Lie | None, str]] = [(HONEST[0], None, name) for name in items]
        for told in LIES:
            own = [name for name in items if covered(name, told.checks)]
            # None runs twice in a row: its fixtures would not be made anew.
            others = [name for name in SAMPLE if name in items and name not in (*own, turns[-1][2])]
            # A few of them at a time, in turns.
            place, few = LIES.index(told) % len(others), min(3, len(others))
            others = (others * 2)[place : place + few]
            turns += [(told.what, told, name) for name in (*others, *own)]
        turns += [(HONEST[1], None, name) for name in items if name != turns[-1][2]]
        untidy = True
        for (self.step, self.lie, name), following in zip(turns, [*turns[1:], None], strict=True):
            if self.lie and untidy:
                self.tidy()
            untidy = not self.lie or covered(name, self.lie.checks)
            nextitem = items[following[2]] if following else None
            session.config.hook.pytest_runtest_protocol(item=items[name], nextitem=nextitem)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        """Lie while a check runs, and not while its fixtures are made or go."""
        self._tell(self.lie)
        try:
            return (yield)
        finally:
            self._tell(None)

    def _tell(self, lie: Lie | None) -> None:
        if self.relay:
            self.relay.rules = lie.wire if lie else ()
        if self.config.getoption("--lies"):
            for site in self.sites:
                rules = list(lie.rules) if lie else []
                answer = requests.put(f"http://{site.address}:{LIAR_PORT}/.rules", json=rules, timeout=30)
                answer.raise_for_status()

    def tidy(self) -> None:
        """Take away what a check has left under a lie, so that the next one finds what it would find on a site."""
        for number, site in enumerate(self.sites):
            client = Client(site.url, site.trust(), site.login)
            query = {"Level": "Instance", "Query": {"PatientID": f"{MARK}*"}}
            left = set(client.post("/tools/find", json=query).json()) - (set() if number else KEPT)
            client.own.update(left)
            if left:
                client.post("/tools/bulk-delete", json={"Resources": sorted(left)}).raise_for_status()
            for kind in ("modalities", "peers"):
                if DECLARED in client.json_at(f"/{kind}"):
                    client.delete(f"/{kind}/{DECLARED}").raise_for_status()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            about = {"step": self.step, "check": named(report.nodeid), "outcome": report.outcome}
            about |= {"when": str(report.when), "said": str(report.longrepr or "")[-500:]}
            with self.config.getoption("--outcomes").open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(about)}\n")


def site_of(item: pytest.Item) -> Site | None:
    """Return the site that a check is about."""
    found = getattr(item, "callspec", None) and item.callspec.params.get("site")  # type: ignore[attr-defined]
    return found if isinstance(found, Site) else None

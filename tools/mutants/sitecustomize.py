"""Measures which test runs what, in every process: Python imports this by its name, and pytest as a plugin."""

import json
import os
from typing import Any

import coverage

coverage.process_startup()


def pytest_runtest_protocol(item: Any) -> None:
    running = coverage.Coverage.current()
    assert running
    running.switch_context(item.nodeid)


def pytest_runtest_logreport(report: Any) -> None:
    with open(os.environ["MUTANTS_TIMES"], "a", encoding="utf-8") as file:
        file.write(json.dumps([report.nodeid, report.duration, report.failed]) + "\n")

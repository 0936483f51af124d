"""Hosts are verified side by side: a process for each, forked when all checks are collected.

What the checks say comes back through a pipe, so that there is one report and one exit code. A process that is asked
to stop removes what it made, as it does in the end; so does one whose parent is gone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import traceback
from collections import defaultdict
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

from verification.report import REPORT
from verification.site import Site

# As many as Ansible does with `forks`.
AT_ONCE = 20
# What ends a run politely.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop_once() -> None:
    """Have the first of the polite signals end the run, and none after it disturb what is removed then."""

    def stop(*_: object) -> None:
        for name in SIGNALS:
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    for name in SIGNALS:
        signal.signal(name, stop)


def shares(items: list[pytest.Item]) -> tuple[list[list[pytest.Item]], list[pytest.Item]]:
    """Return the checks of each host, and those that need two hosts, where nothing else may go on meanwhile."""
    by_site: dict[str, list[pytest.Item]] = defaultdict(list)
    together = []
    for item in items:
        site = getattr(item, "callspec", None) and item.callspec.params.get("site")  # type: ignore[attr-defined]
        if "others" in getattr(item, "fixturenames", ()):
            together.append(item)
        else:
            by_site[site.name if isinstance(site, Site) else ""].append(item)
    return list(by_site.values()), together


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    alone, together = shares(session.items)
    if len(alone) < 2 or session.testsfailed or session.config.option.collectonly:
        # One host needs nothing of this.
        return None
    asked: list[int] = []
    for name in SIGNALS:
        # Noted alone: raised in the middle of a message it would leave half of one in the pipe.
        signal.signal(name, lambda number, _: asked.append(number))
    running: dict[Connection, Any] = {}
    for waiting in (alone, [together] if together else []):
        while (waiting and not asked) or running:
            while waiting and not asked and len(running) < AT_ONCE:
                _begin(session, waiting.pop(0), running)
            _receive(session, running)
            for process in running.values() if asked else ():
                process.terminate()
    if asked:
        raise KeyboardInterrupt
    return True


def _begin(session: pytest.Session, items: list[pytest.Item], running: dict[Connection, Any]) -> None:
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_verify, args=(session, items, there, [*running, here])
    )
    process.start()
    # Else its end would not be seen.
    there.close()
    running[here] = process


def _receive(session: pytest.Session, running: dict[Connection, Any]) -> None:
    """Take in what has come, and see who has ended."""
    for pipe in wait(list(running), timeout=1):
        assert isinstance(pipe, Connection)
        try:
            kind, content = pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            # The end, or half a message of one that was killed while it spoke.
            process = running.pop(pipe)
            pipe.close()
            process.join()
            # One that was killed has checks left that did not run, which is no success.
            session.testsfailed += process.exitcode != 0
            continue
        if kind == "report":
            report = session.config.hook.pytest_report_from_serializable(config=session.config, data=content)
            session.config.hook.pytest_runtest_logreport(report=report)
        else:
            session.config.stash[REPORT].add(*content)


def _verify(session: pytest.Session, items: list[pytest.Item], pipe: Connection, others: list[Connection]) -> None:
    """Run checks in a process of their own."""
    stop_once()
    for other in others:
        # Else nobody would see that the parent is gone.
        other.close()
    _be_silent(session.config)
    courier = _Courier(session.config, pipe)
    session.config.pluginmanager.register(courier)
    code, item = 0, items[0]
    try:
        for item, following in zip(items, [*items[1:], None], strict=True):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    except KeyboardInterrupt:
        code = 2
    finally:
        try:
            # All that is still set up; after the last check that is nothing.
            session._setupstate.teardown_exact(None)
        except BaseException as error:
            code = code or 1
            said = session.config.stash[REPORT].clean("".join(traceback.format_exception_only(error)).strip())
            told = f"what was made could not be removed: {said}"
            with contextlib.suppress(KeyboardInterrupt):
                courier.pytest_runtest_logreport(
                    pytest.TestReport(item.nodeid, item.location, {}, "failed", told, "teardown")
                )
        with contextlib.suppress(OSError):
            pipe.send(("state", session.config.stash[REPORT].state))
    # Nothing of the parent's is to be ended here.
    os._exit(code)


def _be_silent(config: pytest.Config) -> None:
    """Print nothing, and catch nothing either: the files that output is caught in are those of the parent."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture:
        capture.stop_global_capturing()
        config.pluginmanager.unregister(capture)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


class _Courier:
    """Sends what the checks say to the parent."""

    def __init__(self, config: pytest.Config, pipe: Connection) -> None:
        self._config, self._pipe = config, pipe

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        try:
            self._pipe.send(("report", data))
        except OSError:
            # The parent is gone: nobody wants to hear more, and what was made has to be removed.
            raise KeyboardInterrupt from None

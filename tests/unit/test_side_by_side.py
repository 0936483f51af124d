"""Hosts are verified side by side: one report, one exit code, and nothing stays, whoever is ended and how."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest

from tests.repository import ROOT

# Of seconds, on a machine that does much else: each wait is for something that comes.
LIMIT = 600
# Hosts that have something on them as long as their checks run. Each check waits for what the test here tells it.
SUITE = """
import dataclasses, pathlib, time
import pytest
from verification.site import Site

pytest_plugins = ["verification.report", "verification.side_by_side"]
HERE = pathlib.Path(__file__).parent


def site(name):
    values = {field.name: "" for field in dataclasses.fields(Site)} | {"name": name, "users": {}, "level": "conform"}
    return Site(**values)


def pytest_configure():
    from verification.side_by_side import stop_once
    stop_once()


def pytest_generate_tests(metafunc):
    if "site" in metafunc.fixturenames:
        hosts = (HERE / "hosts").read_text().split()
        metafunc.parametrize("site", [site(name) for name in hosts], ids=hosts, scope="session")


def wait(*files):
    end = time.monotonic() + 600
    while not all((HERE / file).exists() for file in files):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="session")
def patient(site, facts):
    path = HERE / f"patient-{site.name}"
    path.touch()
    facts["told"] = f"by {site.name}"
    yield path
    if (HERE / "stuck").exists():
        raise OSError(f"{path.name} stays")
    path.unlink()


@pytest.fixture(scope="session")
def others():
    return sorted(HERE.glob("patient-*"))
"""
CHECKS = '''
"""Checks"""
import os
from conftest import HERE, wait


def test_pair(site, others, patient):
    assert [path.name for path in HERE.glob("patient-*")] == [patient.name]
    assert not others or site.name != "a"


def test_one(site, patient):
    (HERE / f"{site.name}-{os.getpid()}").touch()
    wait("go")
    assert site.name != "bad", "what is wrong"


def test_two(site, patient):
    pass
'''


class Run:
    """The suite in the background."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        for name, text in (("conftest.py", SUITE), ("test_checks.py", CHECKS), ("pytest.ini", "[pytest]\n")):
            (folder / name).write_text(text, encoding="utf-8")

    def begin(self, *hosts: str) -> None:
        (self.folder / "hosts").write_text(" ".join(hosts), encoding="utf-8")
        options = ("-q", "--tb=no", "-p", "no:cacheprovider", "--junitxml=junit.xml", "--report=report.html")
        libraries = os.pathsep.join([str(ROOT), *sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-c", "pytest.ini", *options, "."],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": libraries, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def until(self, found: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not found():
            assert self.process.poll() is None, "it has ended"
            assert time.monotonic() < end, "it does not go on"
            time.sleep(0.01)

    def pid(self, host: str) -> int:
        """The process of a host, as soon as its first check has begun."""
        self.until(lambda: bool([*self.folder.glob(f"{host}-*")]))
        return int(next(self.folder.glob(f"{host}-*")).name.rpartition("-")[2])

    @property
    def patients(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("patient-*"))

    def go(self) -> None:
        (self.folder / "go").touch()

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, said


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    return Run(tmp_path)


def test_side_by_side_and_pairs_alone(run: Run) -> None:
    run.begin("a", "b")
    # Both are in the middle of their first check.
    assert run.pid("a") != run.pid("b")
    assert run.patients == ["patient-a", "patient-b"]
    run.go()
    code, said = run.end()
    assert code == 0, said
    assert "a (conform), b (conform): as wanted. 6 passed, 0 failed, 0 left out" in said
    assert run.patients == []
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "by a" in page
    assert "by b" in page
    names = [case.get("name") for case in ElementTree.parse(run.folder / "junit.xml").iter("testcase")]
    assert sorted(map(str, names)) == sorted(f"test_{test}[{host}]" for test in ("one", "two", "pair") for host in "ab")


def test_finding_on_one_host(run: Run) -> None:
    run.begin("a", "bad")
    run.go()
    code, said = run.end()
    assert code == 1
    assert "FAILED on bad: One:" in said
    assert "NOT AS WANTED. 5 passed, 1 failed" in said
    assert run.patients == []


@pytest.mark.parametrize("end, name", [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)], ids=["all", "parent"])
def test_interrupted(run: Run, end: Callable[[int, int], None], name: signal.Signals) -> None:
    run.begin("a", "b")
    run.pid("a"), run.pid("b")
    end(run.process.pid, name)
    code, said = run.end()
    assert code == 2
    assert "NOT AS WANTED" in said
    assert run.patients == []


def test_what_cannot_be_removed_is_told(run: Run) -> None:
    run.begin("a", "b")
    run.pid("a"), run.pid("b")
    (run.folder / "stuck").touch()
    os.kill(run.process.pid, signal.SIGTERM)
    code, said = run.end()
    assert code == 2
    for host in "ab":
        assert f"FAILED on {host}: One: what was made could not be removed: OSError: patient-{host} stays" in said
    assert run.patients == ["patient-a", "patient-b"]


def test_parent_is_killed(run: Run) -> None:
    run.begin("a", "b")
    run.pid("a"), run.pid("b")
    run.process.kill()
    run.process.wait()
    run.go()
    end = time.monotonic() + LIMIT
    while run.patients:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_host_whose_process_is_killed(run: Run) -> None:
    run.begin("a", "b")
    os.kill(run.pid("b"), signal.SIGKILL)
    run.pid("a")
    run.go()
    code, said = run.end()
    assert code == 1
    assert "NOT RUN on b: " in said
    assert "NOT AS WANTED" in said
    # What it left there the checks that came last have found, as the next run would.
    assert run.patients == []


def test_one_host_needs_no_process_more(run: Run) -> None:
    run.begin("a")
    assert run.pid("a") == run.process.pid
    run.go()
    assert run.end()[0] == 0

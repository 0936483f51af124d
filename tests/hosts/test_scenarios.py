"""Molecule's scenarios: each holds one promise, on a shared base."""

import pathlib
import re

import pytest

from tests.checks import outcomes
from tests.hosts.conftest import ROOT, run

# In `make test`, the quickstart is the demo; databases and the relay have tests of their own.
pytestmark = pytest.mark.later
SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, logs: pathlib.Path) -> None:
    done = run("molecule", "test", "--scenario-name", scenario, timeout=1200, check=False)
    log = logs / f"molecule-{scenario}.log"
    log.write_text(done.stdout, encoding="utf-8")
    assert done.returncode == 0, f"{log}:\n{done.stdout[-6000:]}"
    # Every step has run, the verification with its tests too.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    for step in ("check", "converge", "idempotence", "side_effect", "verify"):
        # The arrow is a plain one where the locale has no other.
        assert re.search(f"{scenario} [➜>] {step}: Executed: Successful", plain), f"{step} did not run; see {log}"
    assert " passed" in done.stdout, f"the verification ran no test; see {log}"
    if scenario == "pair":
        found = outcomes(logs / scenario / "junit.xml", "test_pair")
        assert len(found) == 18
        assert set(found.values()) == {"passed"}, found

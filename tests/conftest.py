"""Lets the tests import the collection, from where `make setup` links this clone, and repeats them alike."""

from typing import Any

import pytest
from ansible.plugins.loader import init_plugin_loader
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from tests.repository import ROOT

# As playbooks do, so that templates find its filters by their names too.
init_plugin_loader([str(ROOT / ".cache" / "collections")])
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


# What takes minutes on hosts begins first, the longest before all, so that none is left to one worker in the end.
LONGEST = (
    "cut",
    "demo",
    "docker",
    "verification",
    "certificates",
    "site",
    "lsb",
    "entry",
    "database",
    "closed",
    "remove",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {ROOT / "tests" / "hosts" / f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


class ByLab(LoadFileScheduling):  # type: ignore[misc]  # xdist carries no types
    """Keeps the tests of a file on one worker, since they share a lab, but for those that have one each, or none."""

    def _split_scope(self, nodeid: str) -> str:
        alone = ("test_scenario[", "test_matrix[", "unit/values.py", "cut_inside.py")
        own = any(part in nodeid for part in alone)
        return nodeid if own else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByLab:
    # In the order above; its own would be by the number of tests.
    config.option.loadscopereorder = False
    return ByLab(config, log)

"""Runs that are killed on the host at a few fixed steps; ``make test-cut-inside`` has all steps."""

from __future__ import annotations

import itertools
import re

import pytest

from tests.hosts.conftest import ROOT, Lab
from tests.hosts.cuts import KILLABLE, Host, Point, changes, open_ports

LAB = {"name": "cut", "pacs": {"release": "trixie-installed", "vars": KILLABLE}}
SINGLE = ROOT / "inventories" / "single"
FIRST = (
    Point("database_service.1", "rename", 3),
    Point("orthanc_service.1", "fsync", 6),
    Point("nginx_service.1", "rename", 2),
)
# By what is changed: the modules that do it.
KINDS = {
    "password": ("database_login", "postgresql_databases"),
    "certificate": ("database_service", "nginx_service"),
    "plugin": ("orthanc_service",),
}


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    return Host(lab, inventory=SINGLE)


def test_cut(host: Host) -> None:
    old, new = changes(host.lab)
    for step in FIRST:
        host.kill(old, step)
        assert open_ports(host.lab) <= {22, 4242}
    host.deploy(old)
    host.upload()
    host.well()
    host.keep("new", new)
    host.keep("old", old)
    steps, names = host.points("new"), itertools.cycle(("old", "new"))
    for modules in KINDS.values():
        of = [step for step in steps if step.module.partition(".")[0] in modules]
        for part in (1, 2, 3):
            step = of[len(of) * part // 4]
            assert host.cut(next(names), step, "the first one", "the second one", idle=part == 3), step
    assert not re.search(r" changed=[1-9]", host.deploy(old))

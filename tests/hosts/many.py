"""Twenty Orthancs are proved side by side, in under a minute: ``make test-many``."""

from __future__ import annotations

import os
import pathlib
import re
import time
from collections.abc import Iterator

import pytest
import yaml

from tests.hosts.conftest import QUICKSTART, Lab

HOSTS = ["pacs", *(f"pacs-{number:02}" for number in range(2, 21))]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, pathlib.Path]]:
    """All hosts with what their own inventory wants, and that inventory."""
    lab = Lab("many", **dict.fromkeys(HOSTS, "trixie-installed"))
    inventory = tmp_path_factory.mktemp("many") / "inventory"
    inventory.mkdir()
    (inventory / "group_vars").symlink_to(QUICKSTART / "group_vars")
    hosts = {"hosts": dict.fromkeys(HOSTS)}
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"orthanc": hosts, "nginx": hosts}), encoding="utf-8")
    lab.play(inventory=inventory, timeout=1800)
    yield lab, inventory
    lab.destroy()


def test_probed_in_a_minute(many: tuple[Lab, pathlib.Path], tmp_path: pathlib.Path) -> None:
    lab, inventory = many
    # Their own boot and deployment are over, as on a site; where more goes on, the figure would be another.
    cores, end = os.cpu_count() or 1, time.monotonic() + 300
    while os.getloadavg()[0] > cores:
        assert time.monotonic() < end, "this machine does something else"
        time.sleep(1)
    begin = time.monotonic()
    options = {"verification_level": "probe", "verification_report_dir": str(tmp_path)}
    said = " ".join(lab.play("verify", options, inventory=inventory, timeout=1800).stdout.split())
    seconds = time.monotonic() - begin
    print(f"{len(HOSTS)} hosts probed in {seconds:.0f} s")
    assert said.count("(probe)") >= len(HOSTS)
    assert "(probe): as wanted." in said
    assert seconds < 60


def test_conform_leaves_nothing_anywhere(many: tuple[Lab, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """Each listens in its turn where this machine is a modality."""
    lab, inventory = many
    hosts = HOSTS[:4]
    options = {"verification_report_dir": str(tmp_path)}
    limit = ("--limit", ",".join(hosts))
    said = " ".join(lab.play("verify", options, limit, inventory=inventory, timeout=1800).stdout.split())
    found = re.search(r": as wanted. .* 0 failed", said)
    assert found, said
    for host in hosts:
        assert lab.session(host).get(lab.url("/statistics", host), timeout=20).json()["CountInstances"] == 0

"""Several Orthancs get another release one after the other; one that does not work with it stops the rest."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.hosts.conftest import QUICKSTART, Lab
from tests.hosts.releases import OFFER
from tests.hosts.test_database import image
from tests.hosts.test_lsb import NEW, OLD, STATE

pytestmark = pytest.mark.later
HOSTS = ("pacs", "second", "third")
# By which a unit starts the old release alone.
DROP_IN = "/etc/systemd/system/orthanc.service.d"
ONLY_OLD = f"/bin/sh -c 'test $$(readlink /opt/orthanc/current) = {OLD}'"


class Site:
    """Three Orthancs of one inventory, each with its proxy, from one mirror."""

    def __init__(self, lab: Lab, inventory: pathlib.Path) -> None:
        self.lab, self._inventory, self.method = lab, inventory, "lsb"

    def play(self, playbook: str, release: str, check: bool = True, **variables: Any) -> str:
        asked = {"orthanc_install_method": self.method, "orthanc_version": release} | variables
        printed = self.lab.play(playbook, asked, inventory=self._inventory, check=check).stdout
        return " ".join(printed.split())

    def releases(self, hosts: tuple[str, ...] = HOSTS) -> list[str]:
        """Return which release serves on each of the hosts."""
        found = []
        for host in hosts:
            with self.lab.session(host) as session:
                found.append(session.get(self.lab.url("/system", host), timeout=30).json()["Version"])
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All on the old release, each with one image."""
    lab = Lab("upgrade", mirror="lsb-mirror", **dict.fromkeys(HOSTS, "lsb"))
    inventory = tmp_path_factory.mktemp("upgrade") / "inventory"
    inventory.mkdir()
    (inventory / "group_vars").symlink_to(QUICKSTART / "group_vars")
    hosts = {"hosts": dict.fromkeys(HOSTS)}
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"orthanc": hosts, "nginx": hosts}), encoding="utf-8")
    lab.play("../lab/stand-in/prepare", inventory=inventory)
    made = Site(lab, inventory)
    made.play("lsb_lock", NEW)
    made.play("lsb_lock", OLD)
    made.play("site", OLD)
    for host in HOSTS:
        with lab.session(host) as session:
            assert session.post(lab.url("/instances", host), data=image(1), timeout=30).status_code == 200
    yield made
    lab.destroy()


def test_one_that_fails_stops_the_rest_and_serves_as_before(site: Site) -> None:
    """On the second one the new release ends at its start; the third one is not touched."""
    assert site.releases() == [OLD] * 3
    lines = f"[Service]\nExecStartPre={ONLY_OLD}\n"
    site.lab.shell(f"mkdir {DROP_IN}; cat > {DROP_IN}/test.conf <<'END'\n{lines}END", "second")
    third = site.lab.shell(STATE, "third")
    printed = site.play("upgrade", NEW, check=False)
    assert "Stopped at second:" in printed
    assert "Orthanc serves with it" in printed
    assert "Done are pacs; not touched yet are third." in printed
    assert site.releases() == [NEW, OLD, OLD]
    assert site.lab.shell(STATE, "third") == third


# By which the new release takes its host off the network as soon as it is to start.
CUT = "/bin/sh -c 'systemctl stop ssh; pkill sshd; true'"


def test_one_that_is_not_reached_any_more_stops_the_rest(site: Site) -> None:
    """It may run either release by then; the third one is not touched."""
    lines = f"[Service]\nExecStartPre=+{CUT}\n"
    site.lab.shell(f"cat > {DROP_IN}/test.conf <<'END'\n{lines}END\nsystemctl daemon-reload", "second")
    third = site.lab.shell(STATE, "third")
    printed = site.play("upgrade", NEW, check=False)
    site.lab.shell("systemctl start ssh", "second")
    assert "UNREACHABLE" in printed, printed
    assert site.lab.shell(STATE, "third") == third
    assert site.releases(("pacs", "third")) == [NEW, OLD]


def test_next_run_goes_on_from_there(site: Site) -> None:
    """What is done stays as it is: the first one is not restarted, and all images are there."""
    site.lab.shell(f"rm -r {DROP_IN} && systemctl daemon-reload", "second")
    first = site.lab.shell(STATE)
    site.play("upgrade", NEW)
    assert site.releases() == [NEW] * 3
    assert site.lab.shell(STATE) == first
    for host in HOSTS:
        with site.lab.session(host) as session:
            found = session.get(site.lab.url("/instances", host), timeout=30).json()
            assert session.get(site.lab.url(f"/instances/{found[0]}/file", host), timeout=30).content == image(1)
    recap = site.play("upgrade", NEW).rpartition("PLAY RECAP")[2]
    assert recap.count("changed=0") == recap.count("changed=") == len(site.lab.address)


# Which packages a host has, and which process serves.
PACKAGES = "dpkg-query --show orthanc; systemctl show orthanc --property InvocationID,ActiveState"


def test_packages_of_one_host_after_the_other(site: Site) -> None:
    """The same by apt: the second one goes back to its packages, and has the new ones once they work there."""
    site.method, newer = "apt", "1.12.8"
    site.play("site", "")
    for host in HOSTS:
        site.lab.shell(f"set -- {newer} {'bad' if host == 'second' else 'good'}\n{OFFER}", host)
    third = site.lab.shell(PACKAGES, "third")
    printed = site.play("upgrade", newer, check=False)
    assert "Stopped at second:" in printed
    assert "This stand-in does not work" in printed
    assert "Orthanc serves with it" in printed
    assert "Done are pacs; not touched yet are third." in printed
    assert site.releases() == [newer, NEW, NEW]
    assert site.lab.shell(PACKAGES, "third") == third
    first = site.lab.shell(PACKAGES)
    site.lab.shell(f"set -- {newer} good\n{OFFER}", "second")
    site.play("upgrade", newer)
    assert site.releases() == [newer] * 3
    assert site.lab.shell(PACKAGES) == first
    for host in HOSTS:
        with site.lab.session(host) as session:
            found = session.get(site.lab.url("/instances", host), timeout=30).json()
            assert session.get(site.lab.url(f"/instances/{found[0]}/file", host), timeout=30).content == image(1)

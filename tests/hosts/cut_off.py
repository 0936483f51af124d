"""Runs that are cut off after each of their tasks, or killed: ``make test-cut-off``, too long for each change.

A run ends after the first task that changed something, so that one host goes through all of them.
"""

from __future__ import annotations

import concurrent.futures
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts.conftest import ENVIRONMENT, QUICKSTART, ROOT, Lab
from tests.hosts.cuts import KILLABLE, Host, changes, open_ports, restart, welcome

SINGLE = ROOT / "inventories" / "single"
CUT = {
    "ANSIBLE_CALLBACK_PLUGINS": str(pathlib.Path(__file__).parent / "callback"),
    "ANSIBLE_CALLBACKS_ENABLED": "cut_off",
}
# Which ports are open to others, once what is to hold them was started.
PORTS = {4242: "Write Orthanc's files, run it", 80: "Write the site", 443: "Write the site"}


def cut(lab: Lab, inventory: pathlib.Path, monkeypatch: pytest.MonkeyPatch, **variables: object) -> Iterator[str]:
    """Run again and again, each time until the first task that changes something. Yield that task."""
    with monkeypatch.context() as cutting:
        for name, value in CUT.items():
            cutting.setitem(ENVIRONMENT, name, value)
        while (ended := lab.play(variables=variables, inventory=inventory, check=False)).returncode == 99:
            found = re.search("CUT OFF AFTER (.*)", ended.stdout)
            assert found, ended.stdout
            yield found[1]
    assert ended.returncode == 0, ended.stdout


@pytest.fixture
def lab(release: str, inventory: pathlib.Path) -> Iterator[Lab]:
    made = Lab(f"cut-off-{inventory.name}-{release}", pacs=release)
    yield made
    made.destroy()


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
@pytest.mark.parametrize("inventory", [QUICKSTART, SINGLE], ids=lambda path: str(path.name))
def test_cut_off(lab: Lab, inventory: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for ended in cut(lab, inventory, monkeypatch):
        done.append(ended)
        assert len(done) < 40, done
        restart(lab)
        allowed = {22} | {port for port, task in PORTS.items() if any(task in name for name in done)}
        assert open_ports(lab) <= allowed, done
        assert not welcome(lab), done
    print("\n".join(done))
    assert len(done) > 3
    assert not re.search(r" changed=[1-9]", lab.play(inventory=inventory).stdout)
    with lab.session() as session:
        assert session.get(lab.url("/system"), timeout=30).status_code == 200
    # The host goes on running now: what reads a file has to hear of it, whichever run has written it.
    for number in (5, 6):
        print("\n".join(cut(lab, inventory, monkeypatch, nginx_ban_after=number)))
        assert lab.shell("fail2ban-client get orthanc maxretry") == f"{number}\n"
    list(cut(lab, inventory, monkeypatch))
    # With nothing but its own rules Debian 12's ends at once.
    assert "orthanc" not in lab.shell("fail2ban-client status", check=False)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    hosts: dict[str, Any] = {"pacs": {"release": "trixie-installed", "vars": KILLABLE}}
    lab = Lab("cut-off", **hosts)
    made = Host(lab, inventory=SINGLE)
    made.deploy(changes(lab)[0])
    made.upload()
    yield made
    lab.destroy()


def ended_well(host: Host, state: dict[str, Any]) -> None:
    host.deploy(state)
    host.well()
    assert not re.search(r" changed=[1-9]", host.deploy(state))


@pytest.mark.parametrize("number", [1, 0])
def test_change_that_is_cut_off(host: Host, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Of passwords, certificates and plugins, after each task; the host goes on running, with a new login in sight."""
    states = changes(host.lab)
    done = []
    for ended in cut(host.lab, SINGLE, monkeypatch, **states[number]):
        done.append(ended)
        host.answers(*(state["orthanc_proxy_password"] for state in states))
    print("\n".join(done))
    assert len(done) > 2
    ended_well(host, states[number])


@pytest.mark.parametrize("module", ["database_service", "postgresql_databases", "orthanc_service", "nginx_service"])
@pytest.mark.parametrize("goes", ["control node", "host"])
def test_change_that_is_killed(host: Host, monkeypatch: pytest.MonkeyPatch, module: str, goes: str) -> None:
    """The process on the control node with -9, or the host itself, while a module is at work."""
    lab, states = host.lab, changes(host.lab)
    old = int("second" in lab.shell("cat /etc/pacs/orthanc/credentials.json"))
    lab.shell("rm -rf /run/cut; mkdir -m 700 /run/cut")
    end = "kill -9 $run" if goes == "control node" else f"sleep 0.5; docker kill {lab.container()}; wait $run || true"
    there = f"docker exec {lab.container()} sh -c 'ls /run/cut/*.{module}.1'"
    script = f'"$@" & run=$!; until {there}; do sleep 0.1; kill -0 $run || exit 98; done; {end}; exit 99'
    monkeypatch.setattr(lab, "through", ("sh", "-euc", script, "sh"))
    ended = lab.play(variables=states[1 - old], inventory=SINGLE, check=False)
    assert ended.returncode == 99, ended.stdout
    monkeypatch.undo()
    if goes == "host":
        restart(lab)
        assert open_ports(lab) <= {22, 80, 443, 4242}
    else:
        host.answers(*(state["orthanc_proxy_password"] for state in states))
    ended_well(host, states[1 - old])


def test_two_runs_at_once(host: Host) -> None:
    """They take turns; where they want different things, the site works with one of them, or as before."""
    states = changes(host.lab)
    old = int("second" in host.lab.shell("cat /etc/pacs/orthanc/credentials.json"))
    for other in (1 - old, old):
        wanted = [("-e", json.dumps(state)) for state in (states[1 - old], states[other])]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            said = list(pool.map(lambda given: host.lab.play(arguments=given, inventory=SINGLE, check=False), wanted))
        if other != old:
            assert [done.returncode for done in said] == [0, 0], [done.stdout for done in said]
        host.answers(*(state["orthanc_proxy_password"] for state in states))
        ended_well(host, states[1 - old])


@pytest.mark.parametrize("status", ["half-installed", "half-configured"])
def test_dpkg_that_is_killed(status: str) -> None:
    """While it unpacks Orthanc's package, and while it configures it; the host is restarted then."""
    lab = Lab(f"cut-off-{status}", pacs="trixie")
    kill = f"grep -q -m 1 'orthanc: {status}' && kill -9 $(grep -lx dpkg /proc/[0-9]*/comm | cut -d / -f 3)"
    lab.shell(
        f"cat > /root/kill <<'END'\n#!/bin/sh\n{kill}\ncat > /dev/null\nEND\nchmod 755 /root/kill;"
        " echo status-logger=/root/kill > /etc/dpkg/dpkg.cfg.d/kill"
    )
    assert lab.play(check=False).returncode
    lab.shell("rm /etc/dpkg/dpkg.cfg.d/kill")
    restart(lab)
    assert open_ports(lab) <= {22}
    said = lab.play(check=False)
    if said.returncode:
        assert "`dpkg --configure -a`" in " ".join(said.stdout.split()), said.stdout
        lab.shell("dpkg --configure -a")
        assert open_ports(lab) <= {22}
        lab.play()
    assert not re.search(r" changed=[1-9]", lab.play().stdout)
    with lab.session() as session:
        assert session.get(lab.url("/system"), timeout=30).status_code == 200
    lab.destroy()

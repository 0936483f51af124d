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
from tests.hosts.test_lsb import upstream

SINGLE = ROOT / "inventories" / "single"
CUT = {
    "ANSIBLE_CALLBACK_PLUGINS": str(pathlib.Path(__file__).parent / "callback"),
    "ANSIBLE_CALLBACKS_ENABLED": "cut_off",
}
# Which ports are open to others, once what is to hold them was started.
PORTS = {4242: "Write Orthanc's files, run it", 80: "Write the site", 443: "Write the site"}


def cut(
    lab: Lab, inventory: pathlib.Path, monkeypatch: pytest.MonkeyPatch, playbook: str = "site", **variables: object
) -> Iterator[str]:
    """Run again and again, each time until the first task that changes something. Yield that task.

    One that would do so each time, such as a reload, is let go after the first time.
    """
    last, number = "", 1
    with monkeypatch.context() as cutting:
        for name, value in CUT.items():
            cutting.setitem(ENVIRONMENT, name, value)
        while True:
            cutting.setitem(ENVIRONMENT, "CUT_OFF_AFTER", str(number))
            ended = lab.play(playbook, variables, inventory=inventory, check=False)
            if ended.returncode != 99:
                break
            found = re.search("CUT OFF AFTER (.*)", ended.stdout)
            assert found, ended.stdout
            number += found[1] == last
            last = found[1]
            yield last
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
    """The processes on the control node with -9, or the host itself, while a module is at work."""
    lab, states = host.lab, changes(host.lab)
    old = int("second" in lab.shell("cat /etc/pacs/orthanc/credentials.json"))
    lab.shell("rm -rf /run/cut; mkdir -m 700 /run/cut")
    # Its workers would finish what they are at.
    end = "kill -9 $(ps -o pid= --ppid $run) $run"
    if goes == "host":
        end = f"sleep 0.5; docker kill {lab.container()}; wait $run || true"
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


def test_removal_that_is_cut_off(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host restarted after each task; in the end nothing is left that serves, and the image comes back."""
    done = []
    for ended in cut(host.lab, SINGLE, monkeypatch, "remove", remove=["service of pacs"]):
        done.append(ended)
        assert len(done) < 40, done
        restart(host.lab)
        assert open_ports(host.lab) <= {22, 80, 443, 4242}, done
    print("\n".join(done))
    assert len(done) > 3
    assert open_ports(host.lab) <= {22, 80}
    assert not welcome(host.lab)
    left = "/etc/pacs/orthanc /etc/pacs/nginx /etc/nginx/conf.d/orthanc.conf"
    assert host.lab.shell(f"ls -d {left} 2> /dev/null; true") == ""
    ended_well(host, changes(host.lab)[0])


# What dpkg says to its logger when it is killed; and who is killed with it: nobody, so that apt hears of it, or all
# that the run has there, as where the host goes down.
STEPS = {"unpack": "status: {}: half-installed", "configure": "processing: configure: {}$"}
WITH_IT = {"dpkg": "dpkg", "run": "dpkg|apt-get|python3"}


def kill_dpkg(lab: Lab, step: str, package: str, goes: str) -> None:
    """Have dpkg killed while it unpacks or configures a package."""
    killed = f"$(grep -lxE '{WITH_IT[goes]}' /proc/[0-9]*/comm | cut -d / -f 3)"
    lab.shell(
        f"cat > /root/kill <<'END'\n#!/bin/sh\ngrep -q -m 1 '{STEPS[step].format(package)}' && kill -9 {killed}\n"
        "cat > /dev/null\nEND\nchmod 755 /root/kill; echo status-logger=/root/kill > /etc/dpkg/dpkg.cfg.d/kill"
    )


def after_dpkg(lab: Lab, goes: str, **options: Any) -> None:
    """Deploy once more. What apt could tell the run of, a person has to mend first: that is said, and opens nothing."""
    ports = open_ports(lab)
    said = lab.play(check=False, **options)
    if said.returncode:
        assert goes == "dpkg", said.stdout
        assert "`dpkg --configure -a`" in " ".join(said.stdout.split()), said.stdout
        lab.shell("dpkg --configure -a")
        assert open_ports(lab) <= ports
        lab.play(**options)
    assert not re.search(r" changed=[1-9]", lab.play(**options).stdout)
    assert lab.shell("ls /usr/sbin/policy-rc.d 2> /dev/null; true") == "", "packages would restart nothing any more"


def test_two_first_runs_at_once() -> None:
    """Ansible's apt puts back what it has found: the second one the file by which the first one had nothing start.

    The next run takes it away.
    """
    lab = Lab("cut-off-twice", pacs="trixie")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda _number: lab.play(check=False), range(2)))
    assert [done.returncode for done in said] == [0, 0], [done.stdout for done in said]
    lab.play()
    assert lab.shell("ls /usr/sbin/policy-rc.d 2> /dev/null; true") == ""
    assert not re.search(r" changed=[1-9]", lab.play().stdout)
    lab.destroy()


@pytest.mark.parametrize("step, goes", [("unpack", "dpkg"), ("configure", "dpkg"), ("configure", "run")])
def test_dpkg_that_is_killed(step: str, goes: str) -> None:
    """While it unpacks Orthanc's package, and while it configures it; the host is restarted then."""
    lab = Lab(f"cut-off-{step}-{goes}", pacs="trixie")
    kill_dpkg(lab, step, "orthanc", goes)
    assert lab.play(check=False).returncode
    lab.shell("rm /etc/dpkg/dpkg.cfg.d/kill")
    restart(lab)
    assert open_ports(lab) <= {22}
    after_dpkg(lab, goes)
    with lab.session() as session:
        assert session.get(lab.url("/system"), timeout=30).status_code == 200
    lab.destroy()


@pytest.fixture(scope="module")
def packaged() -> Iterator[Host]:
    """A host with an image, beside the stand-in of the makers' packages."""
    lab = Lab("cut-off-packages", pacs="lsb", mirror="lsb-mirror")
    lab.play("../lab/stand-in/prepare")
    made = Host(lab)
    made.deploy({})
    made.upload()
    yield made
    lab.destroy()


def packaged_as_before(host: Host) -> None:
    """Have Debian's own release again, without the package that comes with a plugin."""
    host.lab.shell(
        "rm -f /etc/apt/sources.list.d/orthanc.sources; apt-get update -q; apt-get remove -y -q orthanc-gdcm;"
        " apt-get install -y -q --allow-downgrades orthanc/trixie"
    )
    host.deploy({})


@pytest.mark.parametrize(
    "change, step, goes",
    [
        ("release", "configure", "dpkg"),
        ("release", "configure", "run"),
        ("package", "configure", "dpkg"),
        ("package", "unpack", "run"),
    ],
)
def test_change_whose_dpkg_is_killed(packaged: Host, change: str, step: str, goes: str) -> None:
    """Of another release, and of a package that comes with a plugin; Orthanc goes on serving, and takes a restart."""
    lab = packaged.lab
    state = {"release": upstream(lab), "package": {"orthanc_plugins": ["dicomweb", "gdcm"]}}[change]
    package = {"release": "orthanc", "package": "orthanc-gdcm"}[change]
    packaged_as_before(packaged)
    kill_dpkg(lab, step, package, goes)
    assert lab.play(variables=state, check=False).returncode
    lab.shell("rm /etc/dpkg/dpkg.cfg.d/kill")
    if step == "configure":
        lab.shell("systemctl restart orthanc")
    packaged.answers()
    after_dpkg(lab, goes, variables=state)
    packaged.well()


def test_upgrade_that_is_cut_off(packaged: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of playbooks/upgrade.yml, after each task."""
    lab, state = packaged.lab, upstream(packaged.lab)
    packaged_as_before(packaged)
    done = []
    for ended in cut(lab, QUICKSTART, monkeypatch, "upgrade", **state):
        done.append(ended)
        packaged.answers()
    print("\n".join(done))
    assert len(done) > 1
    assert "standin" in lab.shell("dpkg-query --show --showformat '${Version}' orthanc")
    packaged.well()
    assert not re.search(r" changed=[1-9]", packaged.deploy(state))

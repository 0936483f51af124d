"""A first run that is cut off, the host then restarted: ``make test-cut-off``, too long for each change.

Each run ends after the first task that changed something, so that one host goes through all of them.
"""

from __future__ import annotations

import contextlib
import http.client
import pathlib
import re
import socket
import time
from collections.abc import Iterator

import pytest

from tests.hosts.conftest import ENVIRONMENT, QUICKSTART, ROOT, Lab, run

SINGLE = ROOT / "inventories" / "single"
CUT = {
    "ANSIBLE_CALLBACK_PLUGINS": str(pathlib.Path(__file__).parent / "callback"),
    "ANSIBLE_CALLBACKS_ENABLED": "cut_off",
}
# Which ports are open to others, once what is to hold them was started.
PORTS = {4242: "Write Orthanc's files, run it", 80: "Write the site", 443: "Write the site"}


def open_ports(lab: Lab) -> set[int]:
    """Return the ports that answer from outside; a listening one may have a packet filter before it."""
    listening = {int(line.split()[3].rpartition(":")[2]) for line in lab.shell("ss -Hltn").splitlines()}
    found = set()
    for port in listening:
        with contextlib.suppress(OSError), socket.create_connection((lab.address["pacs"], port), timeout=10):
            found.add(port)
    return found


def welcome(lab: Lab) -> bool:
    """Tell whether the page of nginx's package is served, under a name that none of ours has."""
    with (
        contextlib.suppress(OSError),
        contextlib.closing(http.client.HTTPConnection(lab.address["pacs"], timeout=10)) as asked,
    ):
        asked.request("GET", "/", headers={"Host": "elsewhere.example"})
        return asked.getresponse().status == 200
    return False


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


def restart(lab: Lab) -> None:
    run("docker", "restart", lab.container())
    deadline = time.monotonic() + 120
    # Until nothing is left to start: before, an open port may still be to come.
    while lab.shell("systemctl is-system-running", check=False).strip() not in ("running", "degraded"):
        assert time.monotonic() < deadline, lab.shell("systemctl list-jobs", check=False)
        time.sleep(0.5)


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

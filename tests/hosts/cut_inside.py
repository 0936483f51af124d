"""Modules that are killed on the host before each of their steps: ``make test-cut-inside``, too long for each change.

A change goes to and fro, killed one step later each time. After each the site works, and the next run ends well. The
modules are those of real runs, which are kept on the host and called again there.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.hosts.conftest import QUICKSTART, ROOT, Lab
from tests.hosts.cuts import KILLABLE, Host, Point, changes, open_ports, restart, welcome

SINGLE = ROOT / "inventories" / "single"
Variables = dict[str, Any]
# A site that does not answer, or not as it should.
WRONG = (AssertionError, pytest.fail.Exception, OSError, LookupError, ValueError)
WORDS = ("the first one", "the second one")
# What a first run makes, or starts: what there was before comes back.
FRESH = """
mkdir -p /root/fresh; cd /root/fresh
case $1 in
keep)
    tar -cf fresh.tar --exclude etc/hosts --exclude etc/hostname --exclude etc/resolv.conf \
        -C / etc var/lib/postgresql var/lib/orthanc var/log/nginx
    find /etc -xdev | sort > before ;;
back)
    systemctl stop orthanc nginx 'postgresql*' 2> /dev/null
    find /etc -xdev | sort | comm -13 before - | tac | while read -r path; do
        if [ -d "$path" ] && [ ! -L "$path" ]; then rmdir "$path"; else rm "$path"; fi; done
    rm -rf /var/lib/pacs /var/log/pacs /var/lib/postgresql /var/lib/orthanc
    tar -xf fresh.tar -C / --unlink-first
    systemctl daemon-reload; systemctl restart systemd-journald ;;
esac
"""


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    kind = "lsb" if name == "release" else "trixie-installed"
    hosts: Variables = {"pacs": {"release": kind, "vars": KILLABLE}} | (
        {"mirror": "lsb-mirror"} if kind == "lsb" else {}
    )
    made = Lab(f"inside-{name}", **hosts)
    yield made
    made.destroy()


@pytest.fixture
def host(lab: Lab) -> Host:
    return Host(lab, inventory=SINGLE)


class Cuts:
    """Tries every point, and goes on where one is wrong."""

    def __init__(self, host: Host, passwords: Sequence[str] = ()) -> None:
        self.host, self.passwords = host, passwords
        self.tried = 0
        self.wrong: list[str] = []

    def at(self, name: str, step: Point | None, then: Callable[[], None] = lambda: None) -> None:
        """Kill a run at a step, and see that the site works, and that the next run ends well.

        :param then: what is looked at while nobody has run it again.
        """
        try:
            killed = self.host.cut(name, step, *self.passwords, then=then)
            self.tried += killed
            print(f"to {name}{'' if killed else ', not reached'}: {step}", flush=True)
        except WRONG as error:
            self.wrong.append(f"to {name}, {step}: {error!r}"[:2000])
            print(f"WRONG: {self.wrong[-1]}", flush=True)
            self.host.again(name)

    def between(
        self,
        states: list[Variables],
        alike: bool = False,
        before: str = "true",
        also: str = "-",
        module: str = "",
    ) -> None:
        """Go to and fro between two states, killed a step later each time.

        :param alike: whether both ways have the same steps, so that every second one of each is enough.
        :param before: what is done on the host before each.
        :param also: a call besides the usual ones, before which modules are killed too.
        :param module: the only one that is killed.
        """
        host, last = self.host, "0"
        host.deploy(states[0])
        host.upload()
        for name in ("1", "0"):
            host.lab.shell(before)
            host.keep(name, states[int(name)])
        ways: dict[str, list[Point]] = {}
        for name in ("1", "0"):
            host.lab.shell(before)
            ways[name] = [step for step in host.points(name, also) if step.module.startswith(module)]
        print({name: len(steps) for name, steps in ways.items()}, flush=True)
        for number in range(max(map(len, ways.values()))):
            for name, steps in ways.items():
                if not alike or (number % 2 == 0) == (name == "1"):
                    host.lab.shell(before)
                    self.at(name, steps[number] if number < len(steps) else None)
                    last = name
        print(f"{self.tried} killed, {len(self.wrong)} wrong")
        assert not self.wrong, "\n".join(self.wrong)
        assert not re.search(r" changed=[1-9]", host.deploy(states[int(last)]))


def part(host: Host, names: str) -> list[Variables]:
    """Return two states that differ in these variables only."""
    return [{name: value for name, value in state.items() if re.search(names, name)} for state in changes(host.lab)]


def test_password(host: Host) -> None:
    """The database's and the proxy's: what logs in, and what asks for it, change together."""
    Cuts(host, WORDS).between(part(host, "password"), alike=True)


def test_certificate(host: Host) -> None:
    """Of the proxy, of the database and of DICOM over TLS, each with its key."""
    Cuts(host).between(part(host, "tls"), alike=True)


def test_plugin(host: Host) -> None:
    """One that comes with files of its own, and limits of the journal, which another service reads."""
    Cuts(host).between(part(host, "plugins|journal"))


class Told(Host):
    """Also sees that the running Orthanc has the modalities, peers and servers that its file has."""

    def well(self) -> None:
        super().well()
        # Those with secrets have a file of their own.
        kept: Variables = {}
        for name in self.lab.shell("ls /etc/pacs/orthanc/*.json").split():
            kept |= json.loads(self.lab.shell(f"cat {name}"))
        with self.lab.session() as session:
            for path, entries in {
                "/modalities": kept["DicomModalities"],
                "/peers": kept["OrthancPeers"],
                "/dicom-web/servers": kept["DicomWeb"]["Servers"],
            }.items():
                told = session.get(self.lab.url(f"{path}?expand"), timeout=30).json()
                assert told.keys() == entries.keys(), f"{path}: {told}"
                for name, entry in entries.items():
                    where = entry.keys() & {"Url", "Host", "Port"}
                    assert {key: told[name][key] for key in where} == {key: entry[key] for key in where}


def test_entries(lab: Lab) -> None:
    """Modalities, peers and DICOMweb servers, which the running Orthanc is told one after the other."""
    states = [
        {
            "orthanc_modalities": lab.modalities
            | {name: {"AET": name, "Host": f"192.0.2.{number}", "Port": 104} for name in ("STAYS", f"ONLY{number}")},
            "orthanc_peers": {
                name: {"Url": f"https://192.0.2.{number}/", "Username": "peer", "Password": f"word {number}"}
                for name in ("stays", f"only{number}")
            },
            "orthanc_settings": {
                "DicomWeb": {"Servers": {"stays": {"Url": f"https://192.0.2.{number}/dicom-web/"}}},
            },
        }
        for number in (1, 2)
    ]
    # By which it is told, and asked.
    Cuts(Told(lab, inventory=SINGLE)).between(states, alike=True, also="sendto", module="orthanc_service")


def test_release(lab: Lab) -> None:
    """LSB binaries of two releases, downloaded each time."""
    host = Host(lab, inventory=QUICKSTART)
    lab.play("../lab/stand-in/prepare")
    states = [{"orthanc_install_method": "lsb", "orthanc_version": release} for release in ("1.10.1", "1.12.7")]
    for state in states:
        lab.play("lsb_lock", state)
    other = "cd /opt/orthanc && ls -d 1.* | grep -vxF $(readlink current) | xargs -r rm -r"
    Cuts(host).between(states, before=other)


@pytest.mark.parametrize("half", [0, 1])
def test_first(host: Host, half: int) -> None:
    """A first run, after each of which the host is restarted: nothing may be open that nobody has configured."""
    lab = host.lab
    lab.shell(f"cat > /root/fresh.sh <<'END'\n{FRESH}\nEND\nsh /root/fresh.sh keep")
    # What a task makes only where it is missing would be made again and again.
    state = part(host, "postgresql_tls")[0]
    host.keep("first", state)
    lab.shell("sh /root/fresh.sh back")
    steps = host.points("first")
    print(f"{len(steps)} steps", flush=True)
    cuts = Cuts(host)
    served = next(number for number, step in enumerate(steps) if step.module == "nginx_service.1")
    runs = next(number for number, step in enumerate(steps) if step.module == "orthanc_service.1")

    def closed(number: int) -> None:
        restart(lab)
        allowed = {22} | ({4242} if number >= runs else set()) | ({80, 443} if number >= served else set())
        assert open_ports(lab) <= allowed
        assert not welcome(lab)

    for number, step in list(enumerate(steps))[half::2]:
        lab.shell("sh /root/fresh.sh back")
        host.instance = ""
        cuts.at("first", step, functools.partial(closed, number))
        try:
            host.upload()
            host.well()
        except WRONG as error:
            cuts.wrong.append(f"{step}, with an image: {error!r}"[:2000])
    print(f"{cuts.tried} killed, {len(cuts.wrong)} wrong")
    assert not cuts.wrong, "\n".join(cuts.wrong)
    assert not re.search(r" changed=[1-9]", host.deploy(state))

"""One address before two Orthancs, of which parts are killed while clients use it: ``make test-cluster``.

Eight clients send images by way of the address, others read by it and call by DICOM. The database's primary is on the
host without an Orthanc: what its loss costs, tests/hosts/cluster.py tells.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.breakages.address import ADDRESS as BREAKAGES
from tests.breakages.address import CHECKS
from tests.breakages.hosts import Breakage
from tests.checks import outcomes
from tests.hosts import raw
from tests.hosts.broken import Site, wrong
from tests.hosts.cluster import CLUSTER, MAIN, PATIENCE, Cluster
from tests.hosts.conftest import RELEASE, Lab, run
from tests.hosts.senders import Senders
from tests.hosts.test_site import changed

NAMES = ("pacs", "pacs2", "pacs3")
# The hosts that may have the address, and the one that has the primary.
PAIR, APART = NAMES[:2], NAMES[2]
# How long reading and calling may wait for the next answer, in seconds: what is promised, and that on a busy machine.
PROMISED = 5
BUSY = 3 * PROMISED
# How long a client waits for an answer before it asks again.
EACH = 2.0


class Balanced(Cluster):
    """The shipped inventory, as clients know it by its address."""

    def __init__(self, lab: Lab) -> None:
        self.authority = lab.folder.with_name(f"{lab.name}-authority.crt")
        super().__init__(lab)
        self.authority.write_text(lab.shell("cat /etc/pacs/etcd/authority.crt"), encoding="utf-8")

    def holders(self) -> list[str]:
        """Return the hosts that have the address, of those that run."""
        asked = f"ip -o address show to {self.address}"
        found = []
        for name in PAIR:
            with contextlib.suppress(pytest.fail.Exception):
                found += [name] if self.lab.shell(asked, name).strip() else []
        return found

    def out(self, host: str) -> list[str]:
        """Return what a balancer does not take for working."""
        script = (
            "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/pacs-haproxy.sock');"
            " s.sendall(b'show stat\\n'); print(b''.join(iter(lambda: s.recv(65536), b'')).decode())"
        )
        rows = [line.split(",") for line in self.lab.shell(f'python3 -c "{script}"', host).splitlines()]
        return [f"{row[0]}/{row[1]}" for row in rows if row[0] in ("https", "dicom") and row[17].split()[0] == "DOWN"]

    def serves(self, holder: str) -> str:
        """Return the host of the Orthanc to which this machine's requests go."""
        assert Users(self).read()
        told = "journalctl -u haproxy --no-pager | grep -o 'https -> [a-z0-9]*' | tail -n 1"
        end, found = time.monotonic() + PATIENCE, ""
        while not found:
            assert time.monotonic() < end, "the balancer does not tell"
            found = self.lab.shell(told, holder).strip().rpartition(" ")[2]
        return found

    def wait_until_balanced(self, within: float = 300) -> str:
        """Wait until one host has the address, and both balancers take both Orthancs for working; return that host."""
        self.wait_until_whole(within)
        end = time.monotonic() + within
        while True:
            with contextlib.suppress(pytest.fail.Exception):
                if len(self.holders()) == 1 and not any(self.out(name) for name in PAIR):
                    return self.holders()[0]
            assert time.monotonic() < end, (self.holders(), [self.out(name) for name in PAIR])
            time.sleep(1)

    def move_primary(self) -> None:
        """Have the host without an Orthanc be primary."""
        self.wait_until_whole()
        primary = self.primary()
        if primary == APART:
            return
        unit = "$(systemctl list-units --all --plain --no-legend 'patroni@*-main.service' | cut -d ' ' -f 1)"
        (other,) = {*NAMES} - {primary, APART}
        self.lab.shell(f"systemctl stop {unit}", other)
        end = time.monotonic() + PATIENCE
        while self.members(other)[APART]["Role"] != "Sync Standby":
            assert time.monotonic() < end, self.members(other)
            time.sleep(1)
        self.lab.shell(
            f"patronictl -c /etc/patroni/*-main.yml switchover --leader {primary} --candidate {APART} --force", APART
        )
        self.lab.shell(f"systemctl start {unit}", other)
        self.wait_until_whole()

    def senders_by_address(self) -> Senders:
        password = self.lab.secrets["vault_orthanc_admin_password"]
        return Senders(self.address, str(self.authority), password, patience=EACH * PROMISED)


class Users:
    """One that reads and one that calls by DICOM, each again and again; and for how long neither got an answer."""

    def __init__(self, cluster: Balanced) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._context = ssl.create_default_context(cafile=str(cluster.authority))
        self.answered: dict[str, list[float]] = {"read": [], "called": []}
        self._headers = {"Authorization": login(cluster)}

    def read(self) -> bool:
        connection = http.client.HTTPSConnection(self._cluster.address, timeout=EACH, context=self._context)
        try:
            connection.request("GET", "/changes?last", headers=self._headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def call(self) -> bool:
        entity = AE(ae_title="VERIFIER")
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = EACH
        entity.add_requested_context(Verification)
        opened = entity.associate(self._cluster.address, 104, ae_title="ORTHANC")
        if not opened.is_established:
            return False
        status = opened.send_c_echo().get("Status")
        opened.release()
        return bool(status == 0)

    def _again(self, what: str, ask: Callable[[], bool]) -> None:
        while not self._stop.is_set():
            if ask():
                self.answered[what].append(time.monotonic())
            time.sleep(0.05)

    def __enter__(self) -> Users:
        asks = {"read": self.read, "called": self.call}
        self._threads = [threading.Thread(target=self._again, args=one) for one in asks.items()]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def longest(self, what: str, since: float) -> float:
        """Return for how long there was no answer, at most, since then."""
        times = [since, *(when for when in self.answered[what] if when >= since)]
        return max((later - sooner for sooner, later in itertools.pairwise(times)), default=time.monotonic() - since)


def login(cluster: Cluster) -> str:
    """The header of a login."""
    secret = cluster.lab.secrets["vault_orthanc_admin_password"]
    return f"Basic {base64.b64encode(f'admin:{secret}'.encode()).decode()}"


def told(senders: Senders, users: Users, since: float) -> str:
    """Say what clients have felt since then."""
    return (
        f"{len(senders.acknowledged)} images acknowledged, none for {senders.longest_wait(since):.1f} s; not read for"
        f" {users.longest('read', since):.1f} s, not called for {users.longest('called', since):.1f} s;"
        f" clients were told: {senders.told()}"
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Balanced]:
    lab = Lab(f"balancer-{RELEASE}", **dict.fromkeys(NAMES, RELEASE))
    yield Balanced(lab)
    if not os.environ.get("PACS_KEEP_LABS"):
        lab.destroy()


def test_second_run_changes_nothing(cluster: Balanced) -> None:
    cluster.wait_until_balanced()
    assert not changed(cluster.play())
    assert not changed(cluster.play("--check"))


def test_client_keeps_its_address(cluster: Balanced) -> None:
    """In the audit trail of the proxy, and towards DICOM in the balancer's log."""
    lab, holder = cluster.lab, cluster.wait_until_balanced()
    context = ssl.create_default_context(cafile=str(cluster.authority))
    for _ in range(2):
        connection = http.client.HTTPSConnection(cluster.address, timeout=30, context=context)
        connection.request("GET", "/changes?last&mark=here", headers={"Authorization": login(cluster)})
        assert connection.getresponse().status == 200
        connection.close()
    context.set_alpn_protocols(["h2"])
    wanted = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/system")]
    wanted += [(b":authority", cluster.address.encode()), (b"authorization", login(cluster).encode())]
    assert raw.send2(cluster.address, [(wanted, b"")], context) == [200]
    gateway = str(lab.modalities["verifier"]["Host"])
    audit = "".join(lab.shell("tail -n 20 /var/log/pacs/audit.log", name) for name in PAIR)
    seen = [json.loads(line) for line in audit.splitlines()]
    for resource in ("/changes", "/system"):
        assert gateway in {line["address"] for line in seen if line["resource"] == resource}
    assert not {line["address"] for line in seen} & {lab.address[name] for name in PAIR}
    users = Users(cluster)
    assert users.call()
    assert f"{gateway}:" in lab.shell("journalctl -u haproxy --no-pager | grep 'dicom -> pacs' | tail -n 1", holder)
    # What a client of a DICOMweb server gets leads to where it has asked.
    redirected = http.client.HTTPConnection(cluster.address, timeout=30)
    redirected.request("GET", "/app/explorer.html?x=y")
    answer = redirected.getresponse()
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{cluster.address}/app/explorer.html?x=y")


def test_stranger_gets_nothing(cluster: Balanced) -> None:
    """Neither with a title of its own, nor from another address with one that is known, nor past the balancer."""
    lab = cluster.lab
    cluster.wait_until_balanced()
    entity = AE(ae_title="STRANGER")
    entity.acse_timeout = entity.network_timeout = entity.connection_timeout = 30
    entity.add_requested_context(Verification)
    opened = entity.associate(cluster.address, 104, ae_title="ORTHANC")
    assert not opened.is_established
    # An association request of DICOM: what it is, its length, version, and both titles.
    ask = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10);"
        " body = b'\\0\\1\\0\\0' + b'ORTHANC'.ljust(16) + b'VERIFIER'.ljust(16) + bytes(32);"
        " s.sendall(b'\\1\\0' + len(body).to_bytes(4, 'big') + body); s.settimeout(10); print(len(s.recv(10)))"
    )
    for place in (f"{cluster.address} 104", f"{lab.address['pacs']} 4242", f"{lab.address['pacs2']} 4242"):
        said = lab.shell(f'python3 -c "{ask}" {place} 2>&1', APART, check=False)
        assert said.strip() == "0" or "reset by peer" in said or "refused" in said, (place, said)
    health = "curl -s -o /dev/null -w '%{http_code}' http://" + f"{lab.address['pacs']}:8445/alive"
    assert lab.shell(health, APART) == "403"
    assert lab.shell(health, NAMES[1]) == "204"
    # One that names another address is not believed.
    forged = (
        "import socket, ssl, sys; s = socket.create_connection((sys.argv[1], 8444), 10);"
        " s.sendall(b'PROXY TCP4 203.0.113.7 203.0.113.8 1 2\\r\\n'); c = ssl._create_unverified_context();"
        " t = c.wrap_socket(s); t.sendall(b'GET /forged HTTP/1.0\\r\\n\\r\\n'); print(t.recv(12))"
    )
    assert "401" in lab.shell(f'python3 -c "{forged}" {lab.address["pacs"]}', APART)
    trail = lab.shell("grep forged /var/log/pacs/audit.log")
    assert lab.address[APART] in trail
    assert "203.0.113.7" not in trail
    for name in PAIR:
        assert "ip saddr !=" in lab.shell("nft list table inet pacs_keepalived", name)
        listening = lab.shell("ss -Hltnp | grep haproxy | awk '{ print $4 }'", name).split()
        ports = [f"{cluster.address}:{port}" for port in (104, 443, 80)]
        assert sorted(set(listening)) == sorted([*ports, "127.0.0.1:8446"])


INDEX = "tcp dport 5432 meta skuid orthanc drop"
# What is done, on which host (that with the address, the other, or that of the Orthanc which serves the clients of this
# machine), and how it is made good, where nobody does it by itself.
FAULTS = {
    "Orthanc is killed": ("serves", MAIN.format("orthanc"), ""),
    "Orthanc stays away": ("serves", "systemctl stop orthanc", "systemctl start orthanc"),
    "Orthanc loses its index": (
        "serves",
        f"nft 'table inet cut {{ chain o {{ type filter hook output priority -10; {INDEX}; }}; }}'",
        "nft delete table inet cut",
    ),
    "nginx stays away": ("serves", "systemctl stop nginx", "systemctl start nginx"),
    "HAProxy is killed": ("has", "pkill -9 haproxy", ""),
    "HAProxy stays away": ("has", "systemctl stop haproxy", "systemctl start haproxy"),
    "keepalived is killed": ("has", "pkill -9 keepalived", ""),
    "keepalived stays away": ("has", "systemctl stop keepalived", "systemctl start keepalived"),
    "the host of an Orthanc is gone": ("waits", "host", ""),
    "the host with the address is gone": ("has", "host", ""),
}


@pytest.mark.parametrize("what", FAULTS)
def test_address_goes_on(cluster: Balanced, what: str) -> None:
    """Whatever becomes of a part, nobody is needed, and nothing is lost of what was acknowledged."""
    cluster.move_primary()
    holder = cluster.wait_until_balanced()
    where, do, undo = FAULTS[what]
    (other,) = {*PAIR} - {holder}
    host = {"has": holder, "waits": other}.get(where) or cluster.serves(holder)
    senders = cluster.senders_by_address()
    with senders, Users(cluster) as users:
        senders.more(50, within=240)
        when = time.monotonic()
        if do == "host":
            run("docker", "kill", cluster.lab.container(host))
        else:
            cluster.lab.shell(do, host)
        senders.more(100, within=300)
        # Long enough for all of it to be noticed.
        time.sleep(max(0.0, when + BUSY - time.monotonic()))
        gone = time.monotonic()
        if do == "host":
            run("docker", "start", cluster.lab.container(host))
        elif undo:
            cluster.lab.shell(undo, host)
        senders.more(50, within=300)
        cluster.wait_until_balanced()
        back = {one: users.longest(one, gone) for one in users.answered}
    waits = {one: users.longest(one, when) for one in users.answered}
    lost = senders.lost()
    print(
        f"{what} ({host}, and {holder} had the address): {told(senders, users, when)}; when it came back"
        f" {back['read']:.1f} and {back['called']:.1f} s; {cluster.holders()} has it now"
    )
    assert not senders.wrong
    assert not lost
    assert max(waits.values()) < BUSY
    assert senders.longest_wait(when) < PATIENCE


def test_change_is_not_felt(cluster: Balanced) -> None:
    """Of Orthanc's settings, which takes a restart of each, one after the other; what is wrong changes neither."""
    cluster.move_primary()
    cluster.wait_until_balanced()
    senders = cluster.senders_by_address()
    senders.rest = 0.2
    settings = {"OverwriteInstances": True, "LimitFindResults": 999}
    with senders, Users(cluster) as users:
        senders.more(50, within=240)
        when = time.monotonic()
        cluster.play(orthanc_settings=settings, haproxy_timeout=3000)
        senders.more(50, within=240)
    waits = {one: users.longest(one, when) for one in users.answered}
    lost = senders.lost()
    print(f"change: {told(senders, users, when)}")
    assert not senders.wrong
    assert not lost
    assert max(waits.values()) < BUSY


def test_address_that_is_taken_is_told(cluster: Balanced) -> None:
    """Before anything changes: of another machine, of another network, and of one host alone."""
    cluster.wait_until_balanced()
    other = cluster.lab.address[APART].rpartition(".")[0] + ".201"
    cluster.lab.shell(f"ip address add {other}/32 dev eth0", APART)
    try:
        said = " ".join(cluster.play(check=False, keepalived_address=other, playbook="site").split())
    finally:
        cluster.lab.shell(f"ip address delete {other}/32 dev eth0", APART)
    assert f"keepalived_address: {other} is taken by another machine, with the hardware address" in said
    assert said.count("changed=0") == len(NAMES)
    said = " ".join(cluster.play(check=False, keepalived_address="198.51.100.9").split())
    assert "keepalived_address: 198.51.100.9 is not in" in said
    assert said.count("changed=0") == len(NAMES)


@pytest.fixture(scope="module")
def described(cluster: Balanced, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site as the role describes it to the verification."""
    made = object.__new__(Site)
    made.lab, made.inventory, made.described = cluster.lab, CLUSTER, tmp_path_factory.mktemp("described") / "sites"
    copy = ["cp", "-r", "{{ __verification_folder.path }}", str(made.described)]
    cluster.play(playbook="verify", __verification_command=copy)
    return made


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.what)
def test_breakage_is_noticed(cluster: Balanced, described: Site, breakage: Breakage) -> None:
    """By the checks that are about it, and by no others."""
    holder = cluster.wait_until_balanced()
    (part,) = breakage.hosts
    hosts = {"has": [holder], "waits": [name for name in PAIR if name != holder], "both": list(PAIR)}[part]
    try:
        for host in hosts:
            cluster.lab.shell(breakage.do, host)
        end, found = time.monotonic() + PATIENCE, described.run(CHECKS, holder)
        # Balancers notice it a bit later.
        while wrong(found, breakage.checks) and time.monotonic() < end:
            found = described.run(CHECKS, holder)
    finally:
        for host in hosts:
            cluster.lab.shell(breakage.undo, host)
    assert not wrong(found, breakage.checks)


def test_verification(cluster: Balanced, tmp_path: Any) -> None:
    holder = cluster.wait_until_balanced()
    cluster.play()
    said = cluster.play(playbook="verify", verification_report_dir=str(tmp_path))
    found = outcomes(tmp_path / "junit.xml", "test_address")
    assert len(found) == len(CHECKS) * 2
    assert set(found.values()) == {"passed"}
    assert f"ADDRESS of pacs, pacs2: {holder}: has it; https to pacs: UP, https to pacs2: UP" in " ".join(said.split())
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Host with a balancer" in report
    assert "HAProxy" in report


def test_taken_off(cluster: Balanced) -> None:
    """A host that is taken off lets go of the address, and site.yml brings all of it back."""
    holder = cluster.wait_until_balanced()
    (other,) = {*PAIR} - {holder}
    words: dict[str, Any] = {"remove": f"service of {holder}"}
    cluster.play("--limit", holder, playbook="remove", **words)
    assert cluster.holders() == [other]
    said = cluster.play("--limit", holder, playbook="remove", **words)
    assert " changed=0 " in said
    left = cluster.lab.shell(
        "systemctl is-active haproxy keepalived; nft list tables; ls /etc/pacs", holder, check=False
    )
    assert "active" not in left.replace("inactive", "")
    assert "keepalived" not in left
    cluster.play()
    cluster.wait_until_balanced()
    assert not changed(cluster.play())

"""Two Orthancs on one database of three servers, which are killed while images arrive: ``make test-cluster``.

Every image that got 200 has to be served bit for bit, and all comes back without a person. A killed container is a
crash of the host. Primary is whoever is: an Orthanc on another host takes the images.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import pathlib
import random
import re
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import yaml

from tests.breakages.cluster import CHECKS, STOP, UNIT
from tests.breakages.cluster import CLUSTER as BREAKAGES
from tests.breakages.hosts import Breakage
from tests.checks import outcomes
from tests.hosts.broken import Site, wrong
from tests.hosts.conftest import RELEASE, ROOT, Lab, run
from tests.hosts.senders import Senders
from tests.hosts.test_site import changed

CLUSTER = ROOT / "inventories" / "cluster"
NAMES = ("pacs", "pacs2", "pacs3")
# How long clients may wait for the next answer, in seconds: what is promised, and that on a busy machine.
PROMISED = 30
PATIENCE = 3 * PROMISED
ETCD = "cd /etc/pacs/etcd; ETCDCTL_API=3 etcdctl --cacert authority.crt --cert member.crt --key member.key --endpoints "
POSTMASTER = "kill -9 $(head -n 1 /var/lib/postgresql/*/main/postmaster.pid)"
MAIN = "kill -9 $(systemctl show '{}' --property MainPID --value)"
CUT = (
    "nft 'table inet cut { chain i { type filter hook input priority -10; iif != lo drop; };"
    " chain o { type filter hook output priority -10; oif != lo drop; }; }'"
)


class Cluster:
    """The shipped inventory on three hosts, and what its parts say of themselves."""

    sent = 0

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        # An address of the lab's own network, of which Docker gives the first ones.
        self.address = str(ipaddress.ip_network(f"{lab.address['pacs']}/24", strict=False)[200])
        (lab.folder / "group_vars" / "all").mkdir(parents=True, exist_ok=True)
        told = json.dumps({"keepalived_address": self.address})
        (lab.folder / "group_vars" / "all" / "address.json").write_text(told, encoding="utf-8")
        lab.play("certificates", inventory=CLUSTER)
        self.first = self.play("--check", "--diff")
        self.play()

    def play(
        self,
        *arguments: str,
        playbook: str = "site",
        check: bool = True,
        inventory: pathlib.Path = CLUSTER,
        **variables: Any,
    ) -> str:
        return self.lab.play(playbook, variables, arguments, inventory, check=check, timeout=1800).stdout

    def renew(self, name: str, release: str) -> None:
        """Have another host in place of one, or one more, with nothing on it."""
        folder = self.lab.folder / "hosts.yml"
        known = yaml.safe_load(folder.read_text(encoding="utf-8"))
        host = {"lab_name": self.lab.name, "lab_hosts": [{"name": name, "release": release}]}
        given = json.dumps(host | {"lab_vars": self.lab.secrets, "lab_fresh": True})
        run("ansible-playbook", ROOT / "lab" / "create.yml", "-e", given)
        known["all"]["hosts"] |= yaml.safe_load(folder.read_text(encoding="utf-8"))["all"]["hosts"]
        folder.write_text(yaml.safe_dump(known), encoding="utf-8")
        self.lab.address[name] = known["all"]["hosts"][name]["ansible_host"]

    def members(self, without: str = "") -> dict[str, dict[str, Any]]:
        """Return what Patroni knows of each server, on any host but one."""
        for name in self.lab.address.keys() - {without}:
            listed = "patronictl -c /etc/patroni/*-main.yml list --format json 2> /dev/null"
            with contextlib.suppress(ValueError, pytest.fail.Exception):
                return {one["Member"]: one for one in json.loads(self.lab.shell(listed, name))}
        raise AssertionError("no host tells of the cluster")

    def roles(self) -> list[str]:
        running = {"running", "streaming"}
        return sorted(one["Role"] for one in self.members().values() if one.get("State") in running)

    def primary(self, without: str = "") -> str:
        return next(name for name, one in self.members(without).items() if one["Role"] == "Leader")

    def wait_until_whole(self, within: float = 300) -> None:
        """Wait until one is primary, and both others have what it has."""
        end = time.monotonic() + within
        while self.roles() != ["Leader", "Replica", "Sync Standby"]:
            assert time.monotonic() < end, self.members()
            time.sleep(1)

    def have_first_be_neither(self) -> None:
        """Have another one be primary than the first that the inventory names, and another one in step."""
        tool = "patronictl -c /etc/patroni/*-main.yml"
        if self.primary() == NAMES[0]:
            self.lab.shell(f"{tool} switchover $(basename /etc/patroni/*-main.yml .yml) --leader {NAMES[0]} --force")
            self.wait_until_whole()
        if self.members()[NAMES[0]]["Role"] == "Sync Standby":
            # Another one takes its place there meanwhile, and keeps it.
            self.stop_servers(NAMES[0])
            end = time.monotonic() + PATIENCE
            while self.roles() != ["Leader", "Sync Standby"]:
                assert time.monotonic() < end, self.members()
                time.sleep(1)
            self.lab.shell("systemctl start $(cat /root/unit)")
            self.wait_until_whole()

    def stop_servers(self, *names: str) -> None:
        """Stop them one after the other, a primary last."""
        primary = self.primary()
        for name in sorted(names, key=lambda name: name == primary):
            self.lab.shell(f"{UNIT}; {STOP}", name)

    def rows(self) -> list[str]:
        """Return what each server has of images, once all have what the primary has."""
        count = "select count(*), max(internalid) from resources"
        asked, end = f"runuser -u postgres -- psql -d orthanc -Atc '{count}'", time.monotonic() + PATIENCE
        found: list[str] = []
        while len(set(found)) != 1 and time.monotonic() < end:
            found = [self.lab.shell(asked, name).strip() for name in NAMES]
        return found

    def etcd_members(self, host: str) -> list[list[str]]:
        listed = self.lab.shell(f"{ETCD} https://{self.lab.address[host]}:2379 member list", host)
        return [line.split(", ") for line in listed.splitlines()]

    def senders(self, host: str) -> Senders:
        with self.lab.session(host) as session:
            certificate = str(session.verify)
        made = Senders(self.lab.address[host], certificate, self.lab.secrets["vault_orthanc_admin_password"])
        self.sent += 100_000
        made.begin_at(self.sent)
        return made


class Readers:
    """Clients that read what was acknowledged, each image again and again until they have it."""

    def __init__(self, cluster: Cluster, host: str, senders: Senders) -> None:
        self._lab, self._host, self._senders = cluster.lab, host, senders
        self._stop = threading.Event()
        self.read, self.longest = 0, 0.0
        self.failed: list[str] = []

    def _read(self) -> None:
        with self._lab.session(self._host) as session:
            while not self._stop.is_set():
                name, begin, status = random.choice(list(self._senders.acknowledged)), time.monotonic(), 0
                while status != 200 and time.monotonic() < begin + PATIENCE:
                    with contextlib.suppress(requests.RequestException):
                        url = self._lab.url(f"/instances/{name}/file", self._host)
                        status = session.get(url, timeout=PATIENCE).status_code
                    if status != 200:
                        time.sleep(0.2)
                self.longest = max(self.longest, time.monotonic() - begin)
                self.read += 1
                self.failed += [f"{name}: {status}"] if status != 200 else []

    def __enter__(self) -> Readers:
        self._threads = [threading.Thread(target=self._read) for _ in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    lab = Lab(f"cluster-{RELEASE}", **dict.fromkeys(NAMES, RELEASE))
    yield Cluster(lab)
    if not os.environ.get("PACS_KEEP_LABS"):
        lab.destroy()


def test_second_run_changes_nothing(cluster: Cluster) -> None:
    cluster.wait_until_whole()
    assert not changed(cluster.play())
    assert {member[1] for member in cluster.etcd_members("pacs")} == {"started"}
    assert len(cluster.etcd_members("pacs")) == 3


def test_what_one_has_taken_the_other_one_serves(cluster: Cluster) -> None:
    senders = cluster.senders("pacs")
    with senders:
        senders.more(50, within=240)
    (name, *_) = senders.acknowledged
    with cluster.lab.session(NAMES[1]) as session:
        assert session.get(cluster.lab.url(f"/instances/{name}/file", NAMES[1]), timeout=60).status_code == 200
    assert not senders.lost()


def test_who_is_nobody_gets_nothing(cluster: Cluster) -> None:
    """Neither without a certificate, nor from another address with one."""
    lab = cluster.lab
    asked = {
        "2379": "/version",
        "8008": "/patroni",
    }
    for port, path in asked.items():
        url = f"https://{lab.address['pacs']}:{port}{path}"
        script = f"import ssl, urllib.request as u; u.urlopen('{url}', context=ssl._create_unverified_context())"
        said = lab.shell(f'python3 -c "{script}" 2>&1', NAMES[1], check=False)
        # What was sent may meet a connection that is closed already.
        words = ("certificate required", "alert", "eof occurred", "reset by peer")
        assert any(word in said.lower() for word in words), said
    listening = lab.shell("ss -Hltn | awk '{ print $4 }'")
    for port in ("2379", "2380", "5432", "8008"):
        places = {line.rpartition(":")[0] for line in listening.split() if line.endswith(f":{port}")}
        assert places <= {lab.address["pacs"], "127.0.0.1", "[::1]"}, (port, places)
    for host in NAMES:
        rules = lab.shell("nft list table inet pacs_etcd", host)
        assert all(address in rules for address in lab.address.values())
    # Not by whoever loads the host's own rules again either.
    for verb in ("start", "reload", "restart", "stop"):
        lab.shell(f"systemctl {verb} nftables; nft list table inet pacs_etcd", NAMES[1])
    # With a restart comes back what the engine had in that packet filter.
    run("docker", "restart", lab.container(NAMES[1]))
    cluster.wait_until_whole()


def strike(cluster: Cluster, what: str, primary: str) -> None:
    if what == "host":
        run("docker", "kill", cluster.lab.container(primary))
    elif what == "all hosts":
        run("docker", "kill", *map(cluster.lab.container, NAMES))
    elif what == "etcd elsewhere":
        for name in set(NAMES) - {primary}:
            cluster.lab.shell("systemctl stop etcd", name)
        # Until nobody has a claim in it.
        time.sleep(PROMISED)
    else:
        script = {"network": CUT, "server": POSTMASTER, "patroni": MAIN.format("patroni@*-main.service")}
        cluster.lab.shell(script.get(what, MAIN.format(what)), primary)


def mend(cluster: Cluster, what: str, primary: str) -> None:
    """What a machine does by itself, or the network's people do."""
    if what in ("host", "all hosts"):
        # In the order in which they got their addresses.
        run(
            "docker",
            "start",
            *(map(cluster.lab.container, NAMES) if what == "all hosts" else [cluster.lab.container(primary)]),
        )
    elif what == "network":
        cluster.lab.shell("nft delete table inet cut", primary)
    elif what == "etcd elsewhere":
        for name in set(NAMES) - {primary}:
            cluster.lab.shell("systemctl start etcd", name)


@pytest.mark.parametrize("what", ["server", "patroni", "etcd", "etcd elsewhere", "host", "network", "all hosts"])
def test_what_was_acknowledged_stays(cluster: Cluster, what: str) -> None:
    """Whatever becomes of the primary; and there are never two of them."""
    cluster.wait_until_whole()
    primary = cluster.primary()
    # One whose host stays.
    senders = cluster.senders(NAMES[1] if primary == "pacs" else "pacs")
    begin = time.monotonic()
    with senders:
        senders.more(50, within=240)
        when = time.monotonic()
        strike(cluster, what, primary)
        if what == "all hosts":
            mend(cluster, what, primary)
        senders.more(100, within=300)
        wait = senders.longest_wait(when)
        if what in ("host", "network"):
            assert cluster.primary(primary) != primary
        if what == "network":
            writable = "runuser -u postgres -- psql -Atc 'select pg_is_in_recovery()' || true"
            assert cluster.lab.shell(writable, primary).strip() != "f", "two primaries"
        mend(cluster, what, primary)
        senders.more(50, within=300)
    cluster.wait_until_whole()
    lost = senders.lost(lambda acknowledged: acknowledged >= begin)
    print(
        f"{what}: {len(senders.acknowledged)} images acknowledged, {len(lost)} lost, nothing taken for {wait:.1f} s;"
        f" clients were told: {senders.told()}; primary was {primary}, is {cluster.primary()}"
    )
    assert not senders.wrong
    assert not lost
    # Hosts take their time to boot.
    assert wait < PATIENCE * (3 if what == "all hosts" else 1)


def test_frozen_primary_takes_nothing_back(cluster: Cluster) -> None:
    """Its host stands still, as a virtual machine that is paused, and another one is primary when it goes on.

    By SQL: the kernel of such a host answers here, so that an Orthanc waits for it.
    """
    cluster.wait_until_whole()
    frozen, now, end = cluster.primary(), "", time.monotonic() + PATIENCE
    run("docker", "pause", cluster.lab.container(frozen))
    try:
        while now in ("", frozen):
            assert time.monotonic() < end, cluster.members(frozen)
            time.sleep(1)
            # For a while there may be none.
            now = next((name for name, one in cluster.members(frozen).items() if one["Role"] == "Leader"), "")
        asked = "runuser -u postgres -- psql -v ON_ERROR_STOP=1 -Atc"
        cluster.lab.shell(f"{asked} 'create table frozen (number int); insert into frozen values (4711)'", now)
    finally:
        run("docker", "unpause", cluster.lab.container(frozen))
    # For as long as it may take its claim back.
    time.sleep(2 * PROMISED)
    cluster.wait_until_whole()
    assert cluster.primary() == now
    for name in NAMES:
        assert cluster.lab.shell(f"{asked} 'select number from frozen'", name).strip() == "4711"
    cluster.lab.shell(f"{asked} 'drop table frozen'", now)


def test_member_of_etcd_that_has_lost_its_data(cluster: Cluster) -> None:
    """The same playbook has the others take it in again."""
    cluster.wait_until_whole()
    cluster.lab.shell("systemctl stop etcd; rm -rf /var/lib/etcd/pacs /var/lib/pacs/etcd /etc/pacs/etcd", NAMES[2])
    before = {member[0] for member in cluster.etcd_members("pacs")}
    cluster.play()
    after = cluster.etcd_members(NAMES[2])
    assert len(before & {member[0] for member in after}) == 2
    assert {member[1] for member in after} == {"started"}
    assert not changed(cluster.play())


def test_server_that_has_lost_its_data(cluster: Cluster) -> None:
    """It has it from the primary, without a run."""
    cluster.wait_until_whole()
    name = next(name for name, one in cluster.members().items() if one["Role"] != "Leader")
    cluster.lab.shell("systemctl stop 'patroni@*-main.service'; rm -rf /var/lib/postgresql/*/main", name)
    cluster.play()
    cluster.wait_until_whole()


# What a standby lacks that is away meanwhile, and its primary does not keep.
FORGETFUL = {"wal_keep_size": "64MB", "max_slot_wal_keep_size": "64MB"}
MUCH = "select pg_logical_emit_message(false, 'filler', repeat('x', 1000000)) from generate_series(1, 300)"


def test_all_servers_stand_still_one_for_long(cluster: Cluster) -> None:
    """The first that the inventory names may not be primary, and lacks what nobody keeps.

    And a run was cut off that had all of them agree on what no server starts with.
    """
    cluster.wait_until_whole()
    cluster.play(postgresql_settings=FORGETFUL)
    cluster.have_first_be_neither()
    cluster.stop_servers("pacs")
    senders = cluster.senders(NAMES[1])
    with senders:
        senders.more(50, within=240)
    primary = cluster.primary("pacs")
    for said in (MUCH, "checkpoint", "select pg_switch_wal()", MUCH, "checkpoint"):
        cluster.lab.shell(f'runuser -u postgres -- psql -Atqc "{said}" > /dev/null', primary)
    tool = "patronictl -c /etc/patroni/*-main.yml"
    agreed = yaml.safe_load(cluster.lab.shell(f"{tool} show-config", primary))
    numbers = agreed["postgresql"]["parameters"] | {"max_locks_per_transaction": 20_000_000}
    bad = agreed | {"pacs_before": agreed, "postgresql": agreed["postgresql"] | {"parameters": numbers}}
    cluster.lab.shell(f"echo '{json.dumps(bad)}' | {tool} edit-config --force --quiet --replace -", primary)
    cluster.stop_servers(*NAMES[1:])
    # What a flush by hand takes away is put back, too.
    cluster.lab.shell("nft delete table inet pacs_etcd", NAMES[1])
    said = cluster.play(postgresql_settings=FORGETFUL)
    cluster.lab.shell("nft list table inet pacs_etcd", NAMES[1])
    assert "pacs gets all data anew" in said
    assert "agree again on what they did before" in said
    assert yaml.safe_load(cluster.lab.shell(f"{tool} show-config", primary)) == agreed
    cluster.wait_until_whole()
    assert cluster.primary() != "pacs"
    assert not senders.lost()
    assert len(set(cluster.rows())) == 1
    assert not changed(cluster.play(postgresql_settings=FORGETFUL))


def test_etcd_that_has_lost_what_it_knew(cluster: Cluster) -> None:
    """Then nobody knows which server has all that was acknowledged, and the run does not have one guess."""
    cluster.wait_until_whole()
    cluster.have_first_be_neither()
    cluster.stop_servers("pacs")
    senders = cluster.senders(NAMES[1])
    with senders:
        senders.more(50, within=240)
    for name in NAMES:
        cluster.lab.shell("systemctl stop etcd; rm -rf /var/lib/etcd/pacs", name)
    said = " ".join(cluster.play(check=False).split())
    assert "Stop Patroni where it runs (pacs2, pacs3)" in said
    assert said.count("changed=0") == len(NAMES)
    for name in NAMES[1:]:
        cluster.lab.shell(f"{UNIT}; {STOP}", name)
    said = " ".join(cluster.play(check=False).split())
    assert said.count("changed=0") == len(NAMES)
    found = set(re.findall(r"(pacs\d?): timeline (\d+), at ([0-9A-F]+)/([0-9A-F]+), [a-z ]+ \((/[^)]+)\)", said))
    reached = {name: (int(timeline), int(high, 16), int(low, 16)) for name, timeline, high, low, _ in found}
    assert reached.keys() == set(NAMES)
    newest = max(reached, key=lambda name: reached[name])
    assert newest != "pacs"
    for name, *_, folder in found:
        if name != newest:
            cluster.lab.shell(f"mv {folder} {folder}.before", name)
    cluster.play()
    cluster.wait_until_whole()
    assert not senders.lost()
    assert len(set(cluster.rows())) == 1
    assert not changed(cluster.play())
    for name in NAMES:
        cluster.lab.shell("rm -rf /var/lib/postgresql/*/main.before", name)


def test_setting_that_takes_a_restart(cluster: Cluster) -> None:
    """The standbys first, then one of them takes the place of the primary; what is alike on all of them too."""
    cluster.wait_until_whole()
    primary = cluster.primary()
    senders = cluster.senders("pacs")
    # A run takes its time, and each image is asked for in the end.
    senders.rest = 0.5
    with senders:
        senders.more(50, within=240)
        when = time.monotonic()
        with Readers(cluster, NAMES[1], senders) as readers:
            cluster.play(postgresql_settings={"max_connections": 77, "wal_buffers": "8MB"})
            senders.more(50, within=240)
    cluster.wait_until_whole()
    lost, wait = senders.lost(), senders.longest_wait(when)
    print(
        f"restart: {len(senders.acknowledged)} images acknowledged, {len(lost)} lost, nothing taken for {wait:.1f} s;"
        f" {readers.read} read, the slowest in {readers.longest:.1f} s; clients were told: {senders.told()};"
        f" primary was {primary}, is {cluster.primary()}"
    )
    for name in NAMES:
        asked = "show max_connections; show wal_buffers"
        assert cluster.lab.shell(f"runuser -u postgres -- psql -Atc '{asked}'", name).split() == ["77", "8MB"]
    assert not senders.wrong
    assert not lost
    assert not readers.failed
    assert readers.read
    assert wait < PATIENCE


@pytest.mark.parametrize(
    "settings", [{"wal_sync_method": "nonsense"}, {"shared_preload_libraries": "no_such_library"}], ids=str
)
def test_wrong_setting_goes_no_further_than_the_first(cluster: Cluster, settings: dict[str, str]) -> None:
    """Be it that PostgreSQL does not read it, or that it does not start with it."""
    cluster.wait_until_whole()
    primary = cluster.primary()
    said = cluster.play(check=False, postgresql_settings=settings)
    assert "failed=1" in said
    cluster.wait_until_whole()
    assert cluster.primary() == primary
    for name in NAMES:
        assert str(*settings.values()) not in cluster.lab.shell("cat /etc/pacs/postgresql/pacs.conf", name)


def test_clocks_are_held_against_each_other(cluster: Cluster) -> None:
    said = " ".join(cluster.play(check=False, __etcd_clocks={"pacs": 0, "pacs2": 1, "pacs3": -40}).split())
    assert "apart by 41 seconds" in said
    assert "pacs: 0, pacs2: 1, pacs3: -40" in said
    assert "changed=0" in said


@pytest.fixture(scope="module")
def described(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site as the role describes it to the verification."""
    made = object.__new__(Site)
    made.lab, made.inventory, made.described = cluster.lab, CLUSTER, tmp_path_factory.mktemp("described") / "sites"
    made.describe()
    return made


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.what)
def test_breakage_is_noticed(cluster: Cluster, described: Site, breakage: Breakage) -> None:
    """By the checks that are about it, and by no others."""
    cluster.wait_until_whole()
    primary = cluster.primary()
    standbys = [name for name in NAMES if name != primary]
    (part,) = breakage.hosts
    hosts = {"primary": [primary], "standby": standbys[:1], "standbys": standbys}[part]
    try:
        for host in hosts:
            cluster.lab.shell(breakage.do, host)
        end, found = time.monotonic() + PATIENCE, described.run(CHECKS)
        # Patroni tells of what has become of others some seconds later.
        while wrong(found, breakage.checks) and time.monotonic() < end:
            found = described.run(CHECKS)
    finally:
        for host in hosts:
            cluster.lab.shell(breakage.undo, host)
    assert not wrong(found, breakage.checks)


def test_verification(cluster: Cluster, tmp_path: Any) -> None:
    cluster.wait_until_whole()
    cluster.play()
    said = cluster.play(playbook="verify", verification_report_dir=str(tmp_path))
    found = outcomes(tmp_path / "junit.xml", "test_cluster")
    assert len(found) == len(CHECKS) * 2
    assert set(found.values()) == {"passed"}
    assert set(outcomes(tmp_path / "junit.xml", "").values()) <= {"passed", "skipped"}
    primary = cluster.primary()
    assert f"CLUSTER of pacs, pacs2: {primary}: primary, running, timeline" in " ".join(said.split())
    assert "Host of the cluster" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_host_that_is_lost_for_good(cluster: Cluster) -> None:
    """The others are served without it, and a new one of that name gets all that it had."""
    cluster.wait_until_whole()
    lost = NAMES[2]
    run("docker", "rm", "--force", cluster.lab.container(lost))
    said = " ".join(cluster.play(check=False).split())
    assert f"--limit '!{lost}'" in said
    assert said.count("changed=0") == len(NAMES)
    said = cluster.play("--limit", f"!{lost}", postgresql_settings={"work_mem": "5MB"})
    assert f"this run leaves {lost} out" in " ".join(said.split())
    for name in NAMES[:2]:
        assert cluster.lab.shell("runuser -u postgres -- psql -Atc 'show work_mem'", name).strip() == "5MB"
    other = {"bookworm": "trixie", "trixie": "bookworm"}[RELEASE]
    cluster.renew(lost, other)
    said = " ".join(cluster.play(check=False).split())
    assert "have several releases (pacs: debian-" in said
    assert said.count("changed=0") == len(NAMES)
    cluster.renew(lost, RELEASE)
    said = " ".join(cluster.play("--limit", lost, check=False).split())
    assert "Run for pacs and pacs2 as well, or for one that works" in said
    cluster.play()
    cluster.wait_until_whole()
    assert not changed(cluster.play())
    assert {member[1] for member in cluster.etcd_members("pacs")} == {"started"}


def test_most_hosts_are_lost_for_good(cluster: Cluster) -> None:
    """The one that is left is all of etcd then, and the others come one after the other."""
    cluster.wait_until_whole()
    left = cluster.primary()
    first, second = (name for name in NAMES if name != left)
    senders = cluster.senders(left if left != NAMES[2] else first)
    with senders:
        senders.more(50, within=240)
    run("docker", "rm", "--force", cluster.lab.container(first), cluster.lab.container(second))
    (way,) = re.findall(r"(?s)```sh\n(echo ETCD_FORCE.*?)```", (ROOT / "docs" / "cluster.md").read_text("utf-8"))
    cluster.lab.shell(way, left)
    cluster.renew(first, RELEASE)
    cluster.play("--limit", f"!{second}")
    assert cluster.members()[first]["Role"] == "Sync Standby"
    cluster.renew(second, RELEASE)
    cluster.play()
    cluster.wait_until_whole()
    assert {member[1] for member in cluster.etcd_members("pacs")} == {"started"}
    assert len(cluster.etcd_members("pacs")) == len(NAMES)
    assert len(set(cluster.rows())) == 1
    assert not senders.lost()


def test_another_host_takes_its_place(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    """Taken off with the exact words, and out of the inventory; the new one has another name and address."""
    cluster.wait_until_whole()
    gone, new = NAMES[2], "pacs4"
    senders = cluster.senders("pacs")
    senders.rest = 0.5
    with senders:
        senders.more(50, within=240)
        words: dict[str, Any] = {"remove": f"service of {gone}"}
        refused: dict[str, Any] = {"remove": [f"service of {name}" for name in NAMES[1:]]}
        said = cluster.play("--limit", ",".join(NAMES[1:]), playbook="remove", check=False, **refused)
        assert "less than most of its members" in " ".join(said.split())
        assert len(cluster.members()) == len(NAMES)
        cluster.play("--limit", gone, playbook="remove", **words)
        # Another server may have had to take its place.
        senders.more(50, within=240)
        again = cluster.play("--limit", gone, playbook="remove", **words)
        assert re.search(rf"(?m)^{gone} +:.* changed=0 ", again)
        left = "systemctl is-active etcd 'patroni@*' postgresql; nft list tables; ls /etc/pacs /etc/patroni; ss -Hltn"
        found = cluster.lab.shell(left, gone, check=False)
        assert "active\n" not in found.replace("inactive", "")
        assert not [word for word in ("pacs_etcd", ":2379", ":5432", ":8008", "main.yml") if word in found], found
        inventory = tmp_path / "inventory"
        shutil.copytree(CLUSTER, inventory)
        hosts = (inventory / "hosts.yml").read_text(encoding="utf-8").replace(f"{gone}:", f"{new}:")
        (inventory / "hosts.yml").write_text(hosts, encoding="utf-8")
        cluster.renew(new, RELEASE)
        # Else the lab's inventory would bring the other one along.
        run("docker", "stop", cluster.lab.container(gone))
        cluster.play(playbook="certificates", inventory=inventory)
        cluster.play("--limit", f"!{gone}", inventory=inventory)
        senders.more(50, within=240)
    assert not senders.lost()
    assert {member[2] for member in cluster.etcd_members("pacs")} == {"pacs", NAMES[1], new}
    cluster.wait_until_whole()
    assert set(cluster.members()) == {"pacs", NAMES[1], new}
    assert not changed(cluster.play("--limit", f"!{gone}", inventory=inventory))

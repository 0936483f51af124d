"""Three hosts that know each other by names, or have IPv6 only: part of ``make test-as-they-are``."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import yaml

from tests.hosts.conftest import ROOT, Lab, run

SPLIT = ROOT / "inventories" / "split"
RELEASES = {
    "names": {"pacs": "bookworm", "db": "trixie", "proxy": "bookworm"},
    "ipv6": {"pacs": "trixie", "db": "bookworm", "proxy": "trixie"},
}
# As Debian's installer writes it: for the host itself its name is an address that nobody else reaches.
OWN_NAME = "{ echo 127.0.0.1 localhost; echo 127.0.1.1 $(hostname); } > /etc/hosts"


class Numbered(Lab):
    """Hosts with addresses of IPv6."""

    ipv6 = True


class Site:
    """Proxy, Orthanc and database on three hosts."""

    def __init__(self, kind: str, folder: pathlib.Path) -> None:
        self.lab = {"names": Lab, "ipv6": Numbered}[kind](f"addresses-{kind}", **RELEASES[kind])
        self.folder = folder
        (self.lab.folder / "host_vars").mkdir()
        for host in self.lab.address:
            variables = self.named(host) if kind == "names" else self.numbered(host)
            (self.lab.folder / "host_vars" / f"{host}.json").write_text(json.dumps(variables), encoding="utf-8")
        if kind == "names":
            known = pathlib.Path("/etc/hosts").read_text("utf-8")
            known += "".join(f"{address} {host}\n" for host, address in self.lab.address.items())
            (folder / "hosts").write_text(known, encoding="utf-8")
            # This machine knows them as well, and nobody else on it sees that.
            script = f'mount --bind {folder / "hosts"} /etc/hosts && exec "$@"'
            self.lab.through = ("unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh")

    def named(self, host: str) -> dict[str, Any]:
        self.lab.shell(OWN_NAME, host)
        return {"ansible_host": host}

    def numbered(self, host: str) -> dict[str, Any]:
        asked = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}"
        address = run("docker", "inspect", "--format", asked, self.lab.container(host)).stdout.strip()
        variables = {"ansible_host": address, "verification_dicom_address": self.lab.address[host]}
        self.lab.address[host] = f"[{address}]"
        return variables

    def deploy(self, engine: str) -> str:
        inventory = self.folder / engine
        if not inventory.exists():
            inventory.mkdir()
            (inventory / "group_vars").symlink_to(SPLIT / "group_vars")
            groups = {"orthanc": "pacs", "nginx": "proxy", engine: "db"}
            hosts = {group: {"hosts": {host: None}} for group, host in groups.items()}
            (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")
        return self.play("site", engine)

    def play(self, playbook: str, engine: str, check: bool = True, **variables: Any) -> str:
        given = {"orthanc_database": engine, **variables}
        done = self.lab.play(playbook, given, inventory=self.folder / engine, check=check, timeout=900)
        return " ".join(done.stdout.split())

    def unchanged(self, engine: str) -> None:
        said = self.deploy(engine)
        assert set(re.findall(r" changed=(\d+) ", said)) == {"0"}, said

    def prove(self, engine: str) -> None:
        """Deploy, see that nothing more is to be done then, and verify."""
        self.deploy(engine)
        self.unchanged(engine)
        said = self.play("verify", engine)
        assert re.search(r"\(conform\): as wanted\.", said), said
        print(engine, re.findall(r"\d+ passed, 0 failed.*? s'", said))


@pytest.fixture(scope="module", params=RELEASES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(request.param, tmp_path_factory.mktemp("addresses"))
    yield made
    made.lab.destroy()


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_hosts_know_each_other(site: Site, engine: str) -> None:
    site.prove(engine)


def test_names_that_a_host_does_not_know(site: Site) -> None:
    if not site.lab.through:
        pytest.skip("no names")
    site.lab.shell("echo nameserver 127.0.0.1 > /etc/resolv.conf", "db")
    said = site.play("site", "mysql", check=False)
    assert "Nothing was changed" in said
    assert "mysql_clients: this host does not know the name pacs" in said
    said = site.play("site", "postgresql", check=False)
    assert "postgresql_clients: this host does not know the name pacs" in said


def test_hosts_without_ipv4(site: Site) -> None:
    """All but DICOM, which Orthanc has over IPv4 only; that is said."""
    if site.lab.through:
        pytest.skip("they have it")
    for host in site.lab.address:
        site.lab.shell("ip -4 address flush dev eth0", host)
    site.unchanged("mysql")
    with site.lab.session("proxy") as session:
        answer: requests.Response = session.get(site.lab.url("/system", "proxy"), timeout=20)
    assert answer.json()["Name"] == "pacs"
    said = site.play("verify", "mysql", check=False, verification_dicom_address="{{ ansible_host }}")
    assert "verification_dicom_address: Orthanc has no DICOM over IPv6" in said

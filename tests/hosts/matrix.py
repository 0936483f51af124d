"""Every inventory with every install method on every release: ``make test-matrix``, too long for each change."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from tests.hosts.conftest import ROOT, Lab

# Of a cluster `make test-cluster` has the hosts.
INVENTORIES = sorted({path.parent.name for path in ROOT.glob("inventories/*/hosts.yml")} - {"cluster"})
# The stand-ins of LSB binaries run on Debian 13 alone, with libraries that the hosts of that name carry.
WAYS = [("apt", "bookworm"), ("apt", "trixie"), ("docker", "bookworm"), ("docker", "trixie"), ("lsb", "lsb")]
METHODS = {
    "apt": {},
    "docker": {"orthanc_install_method": "docker", "orthanc_docker_image": "registry:5000/orthancteam/orthanc:1.13.0"},
    "lsb": {"orthanc_install_method": "lsb", "orthanc_version": "1.12.7"},
}
BESIDES = {"docker": {"registry": "trixie"}, "lsb": {"mirror": "lsb-mirror"}}


def hosts(inventory: str) -> list[str]:
    groups = yaml.safe_load((ROOT / "inventories" / inventory / "hosts.yml").read_text(encoding="utf-8"))
    return sorted({host for group in groups.values() for host in group["hosts"]})


@pytest.fixture
def lab(inventory: str, method: str, release: str) -> Iterator[Lab]:
    """Hosts for the inventory, and what the method needs beside them."""
    # A registry's images need a file system that can be laid over another.
    volumes = ["/var/lib/docker"] if method == "docker" else []
    each = {"release": release, "volumes": volumes, "vars": METHODS[method]}
    made = Lab(
        f"matrix-{inventory}-{method}-{release}", **dict.fromkeys(hosts(inventory), each), **BESIDES.get(method, {})
    )
    if method == "lsb":
        made.play("../lab/stand-in/prepare", inventory=ROOT / "inventories" / inventory)
    yield made
    made.destroy()


@pytest.mark.parametrize("method, release", WAYS)
@pytest.mark.parametrize("inventory", INVENTORIES)
def test_matrix(lab: Lab, inventory: str, method: str) -> None:
    path = ROOT / "inventories" / inventory
    if inventory == "pair":
        lab.play("certificates", inventory=path)
    lab.play(inventory=path, arguments=["--check", "--diff"])
    lab.play(inventory=path)
    again = lab.play(inventory=path).stdout
    assert set(re.findall(r" changed=(\d+) ", again)) == {"0"}, again
    verified = lab.play("verify", inventory=path).stdout
    found = re.search(r"(\d+) passed.*", verified)
    assert found, verified
    print(f"{inventory}, {method}, {release_of(lab)}: {found[0]}")


def release_of(lab: Lab) -> str:
    return lab.shell(". /etc/os-release; echo $PRETTY_NAME").strip()

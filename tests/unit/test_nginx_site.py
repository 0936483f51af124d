"""The sites of nginx, as a host gets them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.repository import ROOT, evaluated

SITES = ["orthanc", "orthanc-relay"]


def site(name: str, found: dict[str, Any]) -> str:
    """Render a site for a host on which that was found."""
    loader = DataLoader()
    internal = loader.load_from_file(str(ROOT / "roles/nginx/vars/main.yml"), trusted_as_template=True)
    # A test of the collection, which is not installed here.
    internal |= {"__nginx_relay_clients": []}
    variables = {**evaluated(), **internal, "site_found": found, "ansible_managed": "Ansible"}
    text = (ROOT / f"templates/etc/nginx/conf.d/{name}.conf.j2").read_text(encoding="utf-8")
    return str(Templar(loader=loader, variables=variables).template(trust_as_template(text)))


@pytest.mark.parametrize("name", SITES)
def test_without_ipv6(name: str) -> None:
    """Booted with ipv6.disable=1, a host has no such address to listen on."""
    usual = site(name, {}).splitlines()
    assert site(name, {"ipv6": True}).splitlines() == usual
    removed = [line.strip() for line in usual if "[::]" in line]
    assert removed
    assert site(name, {"ipv6": False}).splitlines() == [line for line in usual if line.strip() not in removed]

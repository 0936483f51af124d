"""What the roles etcd and postgresql decide about a cluster, by what was seen of its hosts."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.repository import ROOT

AT = "timeline 2, at 0/{}, shut down (/var/lib/postgresql/17/main)"
OLD, NEW = AT.format("5001C508"), AT.format("50030B48")
RUNS = "runs: Patroni"


def read(path: str) -> Any:
    return DataLoader().load_from_file(str(ROOT / path), trusted_as_template=True)


def evaluated(wanted: Any, *files: str, **known: Any) -> Any:
    """Return a value of a role, with what is known in place of what it would look for."""
    variables: dict[str, Any] = {}
    for file in files:
        variables |= read(file)
    return Templar(loader=DataLoader(), variables=variables | known).template(wanted)


@pytest.mark.parametrize(
    "said, refused",
    [
        (("", "", ""), ()),
        (("", f"data: {NEW}", ""), ()),
        ((f"data: {OLD}", f"data: {NEW}", ""), (f"pacs: {OLD}; pacs2: {NEW}.", "move that folder away")),
        ((f"data: {OLD}", f"data: {NEW}\n{RUNS}", RUNS), ("Stop Patroni where it runs (pacs2, pacs3)",)),
        # It would make a database of its own.
        (("", f"data: {NEW}", RUNS), ("Stop Patroni where it runs (pacs3)",)),
        ((f"data: {OLD}\ndata: {NEW}", "", ""), ()),
    ],
)
def test_etcd_does_not_begin_with_several_databases(said: tuple[str, ...], refused: tuple[str, ...]) -> None:
    (task,) = [one for one in read("roles/etcd/tasks/look.yml") if one["name"].startswith("Have one database")]
    asked = task["ansible.builtin.assert"]
    results = [{"item": f"pacs{number or ''}", "stdout": out} for number, out in zip(("", 2, 3), said, strict=True)]
    known = {"__etcd_looked": {"results": results}}
    file = "roles/etcd/vars/main.yml"
    good = evaluated(trust_as_template("{{ " + asked["that"] + " }}"), file, **known)
    assert good is not bool(refused)
    message = str(evaluated(asked["fail_msg"], file, **known))
    assert all(part in message for part in refused), message


SERVER = ("roles/postgresql/vars/main/cluster.yml", "roles/postgresql/vars/main/server.yml")


def rule(beginning: str, **known: Any) -> tuple[bool, str]:
    """Return whether a rule of the role postgresql refuses, and what it says."""
    (found,) = [one for one in read(SERVER[1])["__postgresql_checks"] if beginning in one["say"]]
    return evaluated(found["wrong"], *SERVER, **known), str(evaluated(found["say"], *SERVER, **known))


def test_new_server_comes_in_a_run_with_one_that_works() -> None:
    """Also while another one is away."""
    host: dict[str, Any] = {"cluster": "", "patroni": False}
    known: dict[str, Any] = {
        "postgresql_etcd": ["192.0.2.1:2379"],
        "postgresql_servers": dict.fromkeys(("pacs", "pacs2", "pacs3")),
        "__postgresql_before": {"host": host},
    }

    def told(**packages: list[str] | None) -> tuple[bool, str]:
        seen = {
            name: {} if has is None else {"inventory_hostname": name, "site_found": {"release": "13", "packages": has}}
            for name, has in packages.items()
        }
        return rule("this host has no server yet", **known, hostvars=seen)

    assert not told(pacs=["patroni"], pacs2=[], pacs3=None)[0]
    assert not told(pacs=[], pacs2=[], pacs3=[])[0]
    refused, said = told(pacs=None, pacs2=[], pacs3=None)
    assert refused
    assert "Run for pacs and pacs3 as well, or for one that works" in said


@pytest.mark.parametrize("etcd, told", [([], "Set this to true"), (["192.0.2.1:2379"], "for Orthanc alone: take")])
def test_others_on_a_server_are_told_what_helps(etcd: list[str], told: str) -> None:
    known = {"postgresql_etcd": etcd, "postgresql_shared": False, "__postgresql_others": ["databases wiki"]}
    refused, said = rule("others use this server", **known)
    assert refused
    assert told in said
    assert ("Set this to true" in said) is not bool(etcd)


@pytest.mark.parametrize(
    "release, store, second",
    [
        ("debian-12", "etcd", True),
        ("ubuntu-24.04", "etcd", True),
        ("debian-13", "etcd3", None),
        # None that comes has the second interface any more.
        ("debian-14", "etcd3", None),
    ],
)
def test_claim_is_kept_by_an_interface_with_conditions(release: str, store: str, second: bool | None) -> None:
    """Patroni 3 writes over the claim of another one by etcd's third interface."""
    known = {"site_found": {"release": release}, "postgresql_etcd": ["192.0.2.1:2379"]}
    asked = trust_as_template("{{ __postgresql_patroni.keys() | select('match', 'etcd') | list }}")
    known |= {"__postgresql_patroni_base": {}, "postgresql_watchdog": ""}
    assert evaluated(asked, SERVER[0], **known) == [store]
    asked = trust_as_template("{{ __etcd_base['enable-v2'] }}")
    etcd = {"etcd_members": {"pacs": "192.0.2.1"}, "etcd_peer_port": 2380, "etcd_client_port": 2379}
    here = {"etcd_address": "192.0.2.1", "inventory_hostname": "pacs"}
    assert evaluated(asked, "roles/etcd/vars/main.yml", **known, **etcd, **here) is second


@pytest.mark.parametrize("device", ["", "/dev/watchdog0"])
def test_patroni_has_a_watchdog_where_there_is_one(device: str) -> None:
    """By itself it would take one that it may open; its user may open that one alone."""
    known: dict[str, Any] = {"site_found": {"release": "debian-13"}, "postgresql_watchdog": device}
    known |= {"__postgresql_patroni_base": {}, "__postgresql_patroni_etcd": {}}
    found = evaluated(trust_as_template("{{ __postgresql_patroni }}"), SERVER[0], **known)
    assert found.get("watchdog") == ({"mode": "required", "device": device} if device else None)
    unit = (ROOT / "templates/etc/systemd/system/patroni@.service.d/pacs.conf.j2").read_text("utf-8")
    said = evaluated(trust_as_template(unit), SERVER[0], ansible_managed="", **known)
    assert (f"ExecStartPre=+/usr/bin/chown postgres {device}" in said.splitlines()) is bool(device)


@pytest.mark.parametrize(
    "release, found, refused",
    [
        ("debian-12", "second", False),
        ("debian-12", "third", True),
        ("debian-13", "third", False),
        ("debian-13", "second", True),
        # Taken off, with its data left there.
        ("debian-13", "", False),
    ],
)
def test_interface_of_a_cluster_does_not_change(release: str, found: str, refused: bool) -> None:
    (task,) = [one for one in read("roles/etcd/tasks/look.yml") if one["name"].startswith("Leave alone what is")]
    known: dict[str, Any] = {"site_found": {"release": release}, "etcd_members": {"pacs": "192.0.2.1"}}
    known |= {"etcd_peer_port": 2380, "etcd_client_port": 2379, "etcd_address": "192.0.2.1", "etcd_settings": {}}
    known |= {"inventory_hostname": "pacs", "__etcd_found": {"stdout_lines": ["/var/lib/etcd/pacs/member", found]}}
    asked, file = task["ansible.builtin.assert"], "roles/etcd/vars/main.yml"
    assert evaluated(trust_as_template("{{ " + asked["that"] + " }}"), file, **known) is not refused
    assert "pacs has another release than when its cluster was made" in evaluated(asked["fail_msg"], file, **known)

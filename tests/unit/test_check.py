"""``make check``: an inventory is held against the toolkit without reaching for a host."""

from __future__ import annotations

import pathlib
import re
import resource
import shutil
from typing import Any

import pytest
import yaml

from tests.repository import ROOT, run

HOSTS = [f"pacs{number}" for number in range(50)]
SECRETS = {f"vault_orthanc_{name}_password": "a long one" for name in ("admin", "proxy", "database")}


def check(folder: pathlib.Path, *names: str, **hosts: dict[str, Any]) -> tuple[int, str]:
    """Check the shipped ``single`` with these hosts, at addresses that nobody answers."""
    shutil.copytree(ROOT / "inventories" / "single" / "group_vars", folder / "group_vars")
    known = {name: {"ansible_host": f"192.0.2.{number}"} for number, name in enumerate(names)}
    groups: dict[str, Any] = {group: {"hosts": dict.fromkeys(names)} for group in ("orthanc", "nginx", "postgresql")}
    groups["all"] = {"vars": SECRETS, "hosts": {name: known[name] | hosts.get(name, {}) for name in names}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
    done = run("ansible-playbook", "-i", str(folder), "playbooks/check.yml")
    return done.returncode, " ".join(done.stdout.split())


def test_good_inventory_of_fifty_hosts(tmp_path: pathlib.Path) -> None:
    before = used()
    assert check(tmp_path / "one", "pacs")[0] == 0
    begin = used()
    one = begin - before
    # One of them with a truth as text, as -e gives it.
    options = {"postgresql_shared": "false", "postgresql_settings": {"work_mem": "8MB"}}
    status, output = check(tmp_path / "fifty", *HOSTS, pacs0=options)
    assert status == 0, output
    assert output.count("failed=0") == len(HOSTS)
    # Goal: seconds, not minutes. Beside one of them, since the machine may be slow, or do other things too.
    assert used() - begin < 30 * one


def used() -> float:
    """Return the seconds of the processor that all processes have taken that were started here."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def test_proxy_without_orthanc_and_roles_that_are_not_there(tmp_path: pathlib.Path) -> None:
    variables = {"orthanc_users": {"a": "long enough"}, "mysql_port": 70000, "orthanc_plugins": 7}
    groups = {"nginx": {"hosts": {"web": None}}, "orthanc": {"hosts": {}}, "all": {"vars": SECRETS | variables}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
    done = run("ansible-playbook", "-i", str(tmp_path), "playbooks/check.yml")
    output = " ".join(done.stdout.split())
    assert done.returncode != 0
    for words in (
        "the group nginx has this host, and the group orthanc is empty",
        "mysql_port: 70000 is not a TCP port",
        "orthanc_plugins: it has to be of type list, not int.",
    ):
        assert words in output


def test_everything_wrong_is_told_at_once(tmp_path: pathlib.Path) -> None:
    status, output = check(
        tmp_path,
        *("pacs2", "pacs3", "pacs41", "pacs7"),
        pacs3={"orthanc_dicomport": 104, "orthanc_settings": {"StableAge": "60"}},
        pacs41={"orthanc_plugins": ["dicomwep"]},
        pacs7={
            "nginx_tls_private_key": "{{ vault_pacs7_private_key }}",
            "orthanc_users": {"a": "{{ vault_a_password }}"},
        },
    )
    assert status != 0
    for words in (
        "wrong for host pacs3: - orthanc_dicomport: no such variable. Did you mean 'orthanc_dicom_port'?",
        "orthanc_settings.StableAge: Orthanc wants a value of type int",
        "nginx_tls_private_key: it needs vault_pacs7_private_key, which is not defined; add it with `ansible-vault",
        "orthanc_users: it needs vault_a_password, which is not defined; run `make secrets INVENTORY=",
        "wrong for host pacs41: - orthanc_plugins: there is no plugin 'dicomwep'. Did you mean 'dicomweb'?",
    ):
        assert words in output
    assert len(re.findall(r"failed=1", output)) == 3


@pytest.mark.parametrize(
    "orthancs, proxies, words",
    [
        (["pacs"], ["front"], ""),
        (["pacs"], ["front", "other"], ""),
        (["pacs", "other"], ["front", "other"], ""),
        (
            ["pacs"],
            ["front", "pacs"],
            "front would stand before the Orthanc of pacs, which has the proxy pacs beside it",
        ),
        (["pacs", "other"], ["front"], "the Orthanc of other would be at or below https://[2001:db8::1]/, which is"),
        (
            ["pacs", "other"],
            ["front", "third"],
            "front and third would each stand before the Orthancs of pacs and other.",
        ),
        (["pacs", "narrow"], ["narrow", "front"], ""),
        (
            ["narrow"],
            ["front"],
            "nginx_allowed_clients: it is set for narrow, and front before its Orthanc has another value",
        ),
    ],
)
def test_who_stands_before_whom(tmp_path: pathlib.Path, orthancs: list[str], proxies: list[str], words: str) -> None:
    """What nobody has made would be broken in silence, or let in whom one of the hosts shuts out."""
    shutil.copytree(ROOT / "inventories" / "quickstart" / "group_vars", tmp_path / "group_vars")
    known: dict[str, dict[str, Any]] = {
        host: {"ansible_host": f"2001:db8::{number}"}
        for number, host in enumerate(("pacs", "front", "other", "third", "narrow"))
    }
    known["narrow"]["nginx_allowed_clients"] = ["192.0.2.0/24"]
    hosts = {"orthanc": {"hosts": dict.fromkeys(orthancs)}, "nginx": {"hosts": dict.fromkeys(proxies)}}
    text = yaml.safe_dump(hosts | {"all": {"vars": SECRETS, "hosts": known}}, sort_keys=False)
    (tmp_path / "hosts.yml").write_text(text, encoding="utf-8")
    done = run("ansible-playbook", "-i", str(tmp_path), "playbooks/check.yml")
    assert words in " ".join(done.stdout.split())
    assert (done.returncode == 0) == (not words), done.stdout


def test_cluster_needs_certificates_and_three_members(tmp_path: pathlib.Path) -> None:
    shutil.copytree(ROOT / "inventories" / "cluster", tmp_path, dirs_exist_ok=True)
    (tmp_path / "secrets.yml").write_text(yaml.safe_dump({"all": {"vars": SECRETS}}), encoding="utf-8")
    groups = yaml.safe_load((tmp_path / "hosts.yml").read_text(encoding="utf-8"))
    hosts = list(groups["etcd"]["hosts"])

    def said() -> dict[str, str]:
        done = run("ansible-playbook", "-i", str(tmp_path), "playbooks/check.yml")
        output = " ".join(done.stdout.split())
        return dict(re.findall(r"wrong for host (\w+): - (.*?)(?=Origin:|fatal:|PLAY RECAP)", output))

    (tmp_path / "group_vars" / "all" / "certificates.yml").unlink(missing_ok=True)
    found = said()
    assert set(found) == set(hosts)
    for words in found.values():
        assert "etcd_tls_certificate: the hosts of a cluster know each other by certificates; run `make cert" in words
        assert "postgresql_tls_certificate: " in words
    del groups["etcd"]["hosts"][hosts[-1]]
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
    assert "the group 'etcd' has 2 hosts" in said()[hosts[0]]

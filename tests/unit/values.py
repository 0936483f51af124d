"""Wrong values by generation, all of them: no crash, a sentence with the variable for the host, and nothing done there.

Each is held against the preflight as playbooks/site.yml calls it, and every tenth against the program itself.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from ansible_collections.dicom.orthanc.plugins.action.preflight import ActionModule
from ansible_collections.dicom.orthanc.plugins.module_utils.probe import archive

from tests.repository import run
from tests.unit.good_host import LSB, PROBE, SOURCE
from tests.unit.one_process import Site
from tests.unit.wrong_values import Case, cases

# No host here is one of a cluster, where alone they are read: tests/unit/test_preflight_cluster.py judges them, and
# tests/unit/test_preflight_address.py.
OF_CLUSTERS = ("etcd_", "haproxy_", "keepalived_")
CASES = [dataclasses.replace(one, wrong=False) if one.variable.startswith(OF_CLUSTERS) else one for one in cases()]
ALL: Mapping[str, Any] = {
    # The command line says so otherwise.
    "ansible_connection": "local",
    "ansible_become_method": "sudo",
    "orthanc_users": {"admin": "a long one"},
    "orthanc_proxy_password": "another one",
    "orthanc_database_password": "a third one",
    "orthanc_plugins": ["dicomweb"],
    "backup_repository": "/srv/backup",
    "backup_password": "the key of the backups",
}
# Hosts on which, taken together, every variable counts.
ALONE: Mapping[str, Mapping[str, Any]] = {
    "apt": {"ansible_host": "192.0.2.1", "orthanc_database": "postgresql"},
    "docker": {"ansible_host": "192.0.2.2", "orthanc_database": "mysql", "orthanc_install_method": "docker"},
    "lsb": {"ansible_host": "192.0.2.3", **LSB},
    "source": {"ansible_host": "192.0.2.5", **SOURCE},
    "upstream": {"ansible_host": "192.0.2.4", "orthanc_apt_source": "upstream"},
}
GROUPS = {"postgresql": "apt", "mysql": "docker", "backup": "upstream"}
SPLIT: Mapping[str, str] = {"orthanc": "pacs", "nginx": "web", "postgresql": "db"}
# What the name of a variable has in it, and the host on which it counts, where that is not the first one.
WHERE = {
    "orthanc_lsb": "lsb",
    "orthanc_source": "source",
    "orthanc_docker": "docker",
    "docker_engine": "docker",
    "mysql": "docker",
    "backup": "upstream",
    "orthanc_apt": "upstream",
    "nginx_relay": "pacs",
    "certificates": "localhost",
}
ENGINE = {"problem": "", "options": {}, "ours": {}, "others": [], "cut_off": False}
FOUND = {
    "packages": [],
    "services": [],
    "masked": [],
    "apt_lists": True,
    "withheld": [],
    "apt_upstream": False,
    "policy": "",
    "engine": ENGINE,
}


def where(case: Case) -> str:
    """Return the host on which it counts."""
    return next((host for words, host in WHERE.items() if words in case.id), "apt")


def inventory(hosts: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]]) -> dict[str, Any]:
    members = {group: {"hosts": dict.fromkeys(names)} for group, names in groups.items()}
    return members | {"all": {"vars": dict(ALL), "hosts": {name: dict(given) for name, given in hosts.items()}}}


def alone(hosts: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Make an inventory of hosts like those above, each with some variables besides."""
    groups = {group: list(hosts) for group in ("orthanc", "nginx")}
    groups |= {group: [name for name, (like, _) in hosts.items() if like == host] for group, host in GROUPS.items()}
    return inventory({name: {**ALONE[like], **given} for name, (like, given) in hosts.items()}, groups)


class Sites:
    """The sites with the hosts above."""

    def __init__(self, folder: pathlib.Path) -> None:
        def site(name: str, hosts: dict[str, Any], playbook: str = "site") -> Site:
            (folder / name).mkdir()
            return Site(folder / name, hosts, playbook)

        self.alone = site("alone", alone({name: (name, {}) for name in ALONE}))
        addresses = {name: {"ansible_host": f"192.0.2.{number}"} for number, name in enumerate(SPLIT.values(), 1)}
        split = inventory(addresses, {group: [name] for group, name in SPLIT.items()})
        split["all"]["vars"]["orthanc_database"] = "postgresql"
        self.split = site("split", split)
        self.certificates = site("certificates", inventory({}, {}), "certificates")

    def of(self, host: str) -> Site:
        return self.alone if host in ALONE else self.split if host in SPLIT.values() else self.certificates

    def say(self, case: Case) -> tuple[str, dict[str, Any]]:
        """Return the host on which a value counts, and what is said of it."""
        host = where(case)
        return host, self.of(host).preflight(host, **{case.variable: case.value})


def look(_self: Any, module_name: str, module_args: dict[str, Any], **_others: Any) -> dict[str, Any]:
    """Stand in for the host: its folders are those of this machine, and the rest of it is new and good."""
    assert module_name == "dicom.orthanc.site_probe", "something else than a look was taken at the host"
    here = {
        "storage_dir": "/var/lib",
        "config_dir": "/etc/pacs",
        "index_dir": "/var/lib",
        "state": "/nowhere",
        "release": "",
    }
    database = {"database": "sqlite", "files": "", "database_host": "", "database_name": ""}
    return PROBE | FOUND | archive.look(here | database | module_args, lambda *_words: "")


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(ActionModule, "_execute_module", look)
        # An Orthanc that runs on this machine is none of ours.
        patch.setattr(archive, "started_with", lambda _run: ("", "", ""))
        yield Sites(pathlib.Path(folder))


def untold(cases: list[Case], folder: pathlib.Path) -> list[str]:
    """Return what ``make check`` does not tell of hosts that have a wrong value each, all of them in one inventory."""
    hosts = {f"w{number}": (where(case), {case.variable: case.value}) for number, case in enumerate(cases)}
    (folder / "hosts.yml").write_text(yaml.safe_dump(alone(hosts)), encoding="utf-8")
    done = run("ansible-playbook", "-i", str(folder), "playbooks/check.yml")
    output = done.stdout + done.stderr
    assert done.returncode == 2, output
    assert unclear(output) == []
    recap = dict(re.findall(r"(?m)^(w\d+) +: .* (failed=\d)", output))
    assert recap == dict.fromkeys(hosts, "failed=1")
    pattern = r"The inventory is wrong for host (w\d+): (.*?)(?=Nothing was changed|fatal: |PLAY RECAP)"
    said = dict(re.findall(pattern, " ".join(output.split())))
    # A host that cannot be looked at, since it reads what is wrong with another one, is told so first.
    told = {case.id: said.get(host, "") for host, case in zip(hosts, cases, strict=True)}
    return [case.id for case in cases if case.variable not in told[case.id] and " of w" not in told[case.id]]


def unclear(text: str) -> list[str]:
    """Return what is in a text that no reader of it should see."""
    return re.findall(
        r"Traceback|Unexpected failure|exception|\bNoneType\b|\bNone\b|<class|<function|object at 0x", text
    )


def hold(case: Case, host: str, result: Mapping[str, Any]) -> None:
    """Hold what is said of a host with a value against what has to be said of it."""
    assert result.get("changed") is False
    if not result.get("failed"):
        assert not case.wrong, "it is taken"
        return
    head, *lines = result["msg"].split("\n- ")
    assert head == f"Nothing was changed. The inventory is wrong for host {host}:", result["msg"]
    assert [line for line in lines if re.search(rf"\b{case.variable}\b", line)], result["msg"]
    for line in lines:
        assert line.endswith((".", "?"))
        assert line.isprintable()
        assert len(line) <= 1000
        assert unclear(line) == []


@pytest.mark.parametrize("host", [*ALONE, *SPLIT.values(), "localhost"])
def test_nothing_wrong(sites: Sites, host: str) -> None:
    result = sites.of(host).preflight(host)
    assert not result.get("failed"), result["msg"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_value(sites: Sites, case: Case) -> None:
    hold(case, *sites.say(case))


@pytest.mark.parametrize("case", [case for case in CASES if case.is_one_of(8)], ids=lambda case: case.id)
def test_value_on_another_host(sites: Sites, case: Case) -> None:
    """Proxy, Orthanc and database know each other: what is wrong with one may stop the others, and crashes none."""
    at = next((host for group, host in SPLIT.items() if case.variable.startswith(f"{group}_")), "pacs")
    for host in {*SPLIT.values()} - {at}:
        result = sites.split.preflight(host, on=at, **{case.variable: case.value})
        assert result.get("changed") is False
        if result.get("failed"):
            assert result["msg"].startswith(f"Nothing was changed. The inventory is wrong for host {host}:\n- ")
            assert unclear(result["msg"]) == []


# What a program can be asked of all at once; half of a character makes no YAML, of which Ansible tells the line.
ASKED = [case for case in CASES if case.wrong and where(case) in ALONE and "half_a_character" not in case.id]
TENTH = [case for case in ASKED if case.is_one_of(10)]


@pytest.mark.parametrize("first", range(0, len(TENTH), 50))
def test_command(first: int, tmp_path: pathlib.Path) -> None:
    assert untold(TENTH[first : first + 50], tmp_path) == []


# Of those that are for `make certificates`, which is a program of its own.
CERTIFICATES = [case for case in CASES if case.wrong and where(case) == "localhost" and "half_a" not in case.id]


@pytest.mark.parametrize("case", [case for case in CERTIFICATES if case.is_one_of(60)], ids=lambda case: case.id)
def test_command_for_certificates(case: Case, tmp_path: pathlib.Path) -> None:
    given = {"all": {"vars": {case.variable: case.value}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(given), encoding="utf-8")
    done = run("ansible-playbook", "-i", str(tmp_path), "playbooks/certificates.yml")
    assert done.returncode == 2, done.stdout
    assert unclear(done.stdout + done.stderr) == []
    assert re.search(rf"The inventory is wrong for host localhost:\s+- {case.variable}\b", done.stdout)
    assert [path.name for path in tmp_path.rglob("*")] == ["hosts.yml"]

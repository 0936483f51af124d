"""The action preflight on inventories of files, with a stand-in for what the host itself would answer."""

from __future__ import annotations

import gc
import os
import pathlib
import types
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleConnectionFailure
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.task import Task
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.dicom.orthanc.plugins.action.preflight import ActionModule

from tests.repository import ROOT, SITE
from tests.unit.good_host import PROBE

FOUND: dict[str, Any] = {"packages": ["bash"], "services": ["docker"], "masked": ["nginx"]}
FOUND |= {"apt_lists": True, "apt_upstream": False, "policy": ""}
BOTH = {"orthanc": ["pacs"], "nginx": ["pacs"]}
SECRETS = {"vault_orthanc_admin_password": "a long one", "vault_orthanc_proxy_password": "another one"}
USERS = {"admin": "{{ vault_orthanc_admin_password }}"}
GOOD = SECRETS | {
    "orthanc_users": USERS,
    "orthanc_proxy_password": "{{ vault_orthanc_proxy_password }}",
    "nginx_server_name": "pacs.example.org",
    # The stand-in for the host offers an old release, and no file here is encrypted.
    "orthanc_accepted_risks": ["known-vulnerabilities", "plain-secret"],
}


class Site:
    """An inventory, and what is asked of its hosts."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.probe: dict[str, Any] = PROBE | FOUND
        self.silent = False

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def check(
        self,
        groups: dict[str, list[str]] | None = None,
        played: tuple[str, ...] = ("pacs",),
        without: tuple[str, ...] = (),
        reach: bool = True,
        source: str = "",
        **variables: Any,
    ) -> dict[str, Any]:
        """Return what the preflight says of the host pacs."""
        given = {name: value for name, value in (GOOD | variables).items() if name not in without}
        hosts = groups or BOTH
        members = {group: {"hosts": dict.fromkeys(names)} for group, names in hosts.items()}
        self.write("hosts.yml", yaml.safe_dump(members | {"all": {"hosts": {"pacs": None}}}))
        self.write("group_vars/all/main.yml", yaml.safe_dump(given))
        loader = DataLoader()
        loader.set_basedir(str(ROOT / "playbooks"))
        inventory = InventoryManager(loader=loader, sources=[str(self.folder / source)])
        known = HostVars(inventory, VariableManager(loader=loader, inventory=inventory), loader)
        seen: dict[str, Any] = {**known.raw_get("pacs"), "hostvars": known, "ansible_play_hosts_all": list(played)}
        seen["ansible_inventory_sources"] = [str(self.folder / source)]
        seen |= loader.load_from_file(str(ROOT / SITE), trusted_as_template=True)
        task = Task()
        task.args = {"reach": reach}
        # Nothing goes over it.
        connection = types.SimpleNamespace(_shell=types.SimpleNamespace(tmpdir=str(self.folder)))
        action = ActionModule(task, connection, None, loader, Templar(loader=loader, variables=seen), None)

        def execute(name: str, arguments: dict[str, Any], **_more: Any) -> dict[str, Any]:
            assert not gc.isenabled()
            self.asked.append((name, arguments))
            if self.silent:
                raise AnsibleConnectionFailure("No route to host.")
            return self.probe

        action._execute_module = execute
        self.asked.clear()
        said: dict[str, Any] = action.run(None, seen)
        # It turns it off, since its process ends with it.
        gc.enable()
        return said

    def wrong(self, *arguments: Any, **variables: Any) -> list[str]:
        """Return what stops the run, a sentence for each."""
        said = self.check(*arguments, **variables)
        if "failed" not in said:
            return []
        head, *lines = str(said["msg"]).split("\n- ")
        assert head == "Nothing was changed. The inventory is wrong for host pacs:"
        assert not said["changed"]
        assert not {"found", "expected"} & said.keys()
        return lines


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Site:
    return Site(tmp_path / "site")


@pytest.mark.parametrize(
    "groups, way",
    [
        (BOTH, ""),
        ({"etcd": ["pacs"], "postgresql": ["pacs"]}, " The rest of its cluster can do without: --limit '!pacs'; .*"),
        ({"etcd": ["pacs2"], "postgresql": ["pacs"]}, " The rest of its cluster can do without: --limit '!pacs'; .*"),
        ({"postgresql": ["pacs"]}, ""),
    ],
)
def test_host_of_a_cluster_that_does_not_answer(site: Site, groups: dict[str, list[str]], way: str) -> None:
    site.silent = True
    with pytest.raises(AnsibleConnectionFailure, match=rf"^No route to host. Nothing was changed.{way}$"):
        site.check(groups)


@pytest.mark.parametrize("source", ["", "hosts.yml"])
@pytest.mark.parametrize("name", ["group_vars/all.yml", "host_vars/pacs.json"])
def test_file_that_is_not_read_beside_a_folder(site: Site, name: str, source: str) -> None:
    """`make secrets` makes group_vars/all/vault.yml, and what an operator has in group_vars/all.yml is lost by that."""
    site.write("host_vars/pacs/main.yml", "{}")
    site.write("group_vars/nginx.yml", "{}")
    assert site.wrong(source=source) == []
    site.write(name, "{}")
    (said,) = site.wrong(source=source)
    assert f"{name}: Ansible does not read it, since there is a folder " in said
    assert said.endswith(f"/{name.partition('.')[0]}/main.yml.")


def test_good_host(site: Site) -> None:
    said = site.check()
    assert "msg" not in said, said["msg"]
    assert (said["changed"], said["warnings"]) == (False, [])
    assert said["found"] == FOUND | {
        "ipv6": True,
        "clock_off": 0,
        "release": "debian-13",
        "nginx": PROBE["nginx"],
        "storage_mark": "",
        "viewer": False,
        "orthanc": {"command": ["/usr/sbin/Orthanc"], "version": "", "options": {}},
        "image": "",
        "account": [],
    }
    assert said["expected"]["orthanc"]["version"] == "1.12.7"
    assert {"nginx", "orthanc"} < set(said["expected"]["packages"])
    ((name, asked),) = site.asked
    assert name == "dicom.orthanc.site_probe"
    assert (asked["nginx"], asked["config_dir"]) == (True, "/etc/pacs/orthanc")


def test_host_is_not_asked_where_that_is_not_wanted_or_of_no_use(site: Site) -> None:
    said = site.check(reach=False)
    assert (site.asked, "failed" in said) == ([], False)
    assert not {"found", "expected"} & said.keys()
    assert site.wrong(orthanc_http_port="many")
    assert site.asked == [], "the types are wrong"
    assert site.wrong(orthanc_nmae="x")
    assert site.asked == [], "a name is wrong"
    # Numbers are compared with what is there.
    assert site.wrong(orthanc_http_port=0)
    assert len(site.asked) == 1


@pytest.mark.parametrize("state", ["failed", "unreachable"])
def test_host_that_does_not_answer(site: Site, state: str) -> None:
    site.probe = {state: True, "msg": "why"}
    said = site.check()
    assert said == {state: True, "msg": "why"}
    site.probe = {state: False} | PROBE | FOUND
    assert "failed" not in site.check()


def test_what_was_found_wrong(site: Site) -> None:
    site.probe |= {"systemd": False, "interrupted": True}
    said = site.wrong(nginx_ban_after=-1, orthanc_accepted_risks=[])
    assert [line.partition(":")[0] for line in said] == ["nginx_ban_after", "ansible_host", "ansible_host"]


def test_types_are_looked_at_before_anything_else(site: Site) -> None:
    site.probe |= {"systemd": False}
    (said,) = site.wrong(nginx_ban_after="many", orthanc_http_port=0)
    assert said == "nginx_ban_after: it has to be of type int, not str."
    told = site.check(orthanc_users=["admin"], orthanc_accepted_risks=[])
    assert "\n- orthanc_users: it has to be of type dict, not list." in told["msg"]
    assert told["warnings"] == []


def test_same_is_told_once(site: Site) -> None:
    """A password that two variables have from a third one, by that which the inventory has."""
    (said,) = site.wrong(without=("vault_orthanc_proxy_password",))
    assert said.startswith("orthanc_proxy_password: it needs vault_orthanc_proxy_password, which is not defined; ")
    assert said.endswith(f"run `make secrets INVENTORY={os.path.relpath(site.folder)}`.")
    (said,) = site.wrong(nginx_tls_certificate="x", nginx_tls_private_key="{{ vault_site_private_key }}")
    assert "add it with `ansible-vault edit" in said
    assert "/group_vars/all/vault.yml`." in said
    both = site.wrong(without=tuple(SECRETS))
    assert sorted(line.partition(":")[0] for line in both) == ["orthanc_proxy_password", "orthanc_users"]


def test_what_cannot_be_evaluated(site: Site) -> None:
    (said,) = site.wrong(orthanc_aet="{{ nothing_of_that_name }}")
    assert said.startswith("orthanc_aet: it cannot be evaluated: ")
    assert "nothing_of_that_name" in said


@pytest.mark.parametrize("value", ["false", "no", "off", "0"])
def test_truth_that_is_written_as_a_text(site: Site, value: str) -> None:
    """As -e gives it; to Jinja the text "false" would be true."""
    assert site.wrong(orthanc_database="postgresql", orthanc_database_password="long enough") != []
    assert site.wrong(orthanc_database_storage="true") != [], "SQLite holds no DICOM files"
    assert site.wrong(orthanc_database_storage=value) == []
    (said,) = site.wrong(orthanc_database_storage="maybe")
    assert said.startswith("orthanc_database_storage: it has to be of type bool, not str; ")


@pytest.mark.parametrize(
    "name, told",
    [
        ("orthanc_nmae", "no such variable."),
        ("nginx_prefx", "no such variable. Did you mean 'nginx_prefix'?"),
        ("othanc_version", "no such variable. Did you mean 'orthanc_version'?"),
        ("site_nothing", "no such variable."),
        ("ansible_orthanc_aet", ""),
        ("vault_orthanc_aet", ""),
        ("lab_orthanc_aet", ""),
        ("__orthanc_aet", ""),
        ("hospital", ""),
    ],
)
def test_names(site: Site, name: str, told: str) -> None:
    said = site.wrong(**{name: "x"})
    assert {line.startswith(f"{name}: {told}") for line in said} == ({True} if told else set())


@pytest.mark.parametrize(
    "file, text, told",
    [
        ("group_vars/all/more.yml", "site_proxied: true\n", True),
        ("group_vars/orthanc.yaml", "  site_proxied : true\n", True),
        ("host_vars/pacs/a/b.json", '{"x": 1,\nsite_proxied: 1}', True),
        ("host_vars/pacs", "site_proxied: true\n", True),
        ("group_vars/all/more.yml", "# site_proxied: true\nx: site_proxied\n", False),
        ("group_vars/all/.more.yml.swp", "site_proxied: true\n", False),
        ("group_vars/all/notes.txt", "site_proxied: true\n", False),
        ("notes.md", "site_proxied: true\n", False),
        ("group_vars/all/more.yml", "site_of_ours: true\n", False),
    ],
)
def test_derived_names_in_the_files_of_the_inventory(site: Site, file: str, text: str, told: bool) -> None:
    """They would be overridden in silence."""
    site.write(file, text)
    said = [line for line in site.wrong() if "derived" in line]
    assert [line.startswith("site_proxied: this name is derived; ") for line in said] == ([True] if told else [])


def test_inventory_that_is_a_file(site: Site) -> None:
    """Of its folder, the variables are read, and nothing that only lies beside it."""
    site.write("other.yml", "site_proxied: true\n")
    assert site.wrong(source="hosts.yml") == []
    assert len(site.wrong()) == 1, "in a folder, all of them are the inventory"
    site.write("group_vars/all/more.yml", "site_relayed: true\n")
    (said,) = site.wrong(source="hosts.yml")
    assert said.startswith("site_relayed: ")
    said = site.check(source="hosts.yml", without=("vault_orthanc_proxy_password",))["msg"]
    assert f"{site.folder.name}`." in said, "what make secrets is given is the folder"


def test_secret_that_stands_in_a_file(site: Site) -> None:
    known: dict[str, Any] = {"orthanc_accepted_risks": ["known-vulnerabilities"]}
    told = site.check(orthanc_proxy_password="a long one, in plain text", **known)["warnings"]
    assert [line.partition(" ")[0] for line in told] == ["orthanc_proxy_password", *sorted(SECRETS)]


def test_risk_stops_the_run_unless_it_is_accepted(site: Site) -> None:
    opened: dict[str, Any] = {"orthanc_settings": {"RestApiWriteToFileSystemEnabled": True}}
    (said,) = site.wrong(**opened)
    assert "RestApiWriteToFileSystemEnabled" in said
    assert "add write-files to orthanc_accepted_risks" in said
    assert site.wrong(**opened, orthanc_accepted_risks=["write-files"]) == []
    told = site.check(orthanc_accepted_risks=["plain-secret"])
    assert ("failed" in told, len(told["warnings"])) == (False, 1), "an old release is only told"
    told = site.check(orthanc_accepted_risks=["plain-secret"], orthanc_aet="")
    assert (told["failed"], len(told["warnings"])) == (True, 1)


def test_notices_are_for_a_host_with_nothing_wrong(site: Site) -> None:
    noticed: dict[str, Any] = {"orthanc_settings_unchecked": {"NoSuchOption": 1}}
    told = site.check(**noticed)["warnings"]
    assert told
    said = site.check(**noticed, orthanc_aet="")
    assert (said["failed"], said["warnings"]) == (True, [])


def test_run_without_a_host_of_the_toolkit(site: Site) -> None:
    assert site.wrong(played=("pacs", "other")) == []
    (said,) = site.wrong(played=("other",))
    assert said.startswith("no host of this run is in a group of the toolkit")


def test_role_that_a_host_does_not_have_is_looked_at_too(site: Site) -> None:
    """Others may read its variables."""
    alone = {"orthanc": ["pacs"]}
    assert site.wrong(alone, nginx_https_port=443) == []
    (said,) = site.wrong(alone, nginx_https_port=0)
    assert said == "nginx_https_port: 0 is not a TCP port; choose one from 1 to 65535."
    (said,) = site.wrong(alone, nginx_https_port="many")
    assert said == "nginx_https_port: it has to be of type int, not str."
    assert site.wrong(alone, postgresql_port=5433, mysql_port="{{ nothing_of_that_name }}") == []


def test_role_that_comes_along(site: Site) -> None:
    """Docker has no group of its own here, and its rules hold all the same."""
    site.probe |= {"engine": {"problem": "", "options": {}, "ours": {}, "others": [], "cut_off": False}}
    said = site.check(orthanc_install_method="docker")
    assert "msg" not in said, said["msg"]
    assert "docker.io" in said["expected"]["packages"]
    assert said["found"]["engine"] is True
    assert site.asked[0][1]["engine"] is True
    (told,) = site.wrong(orthanc_install_method="docker", docker_engine_registry_mirrors=["mirror"])
    assert told.startswith("docker_engine_registry_mirrors: ")


def test_part_of_a_role(site: Site) -> None:
    """Before an Orthanc whose proxy is another host there is a relay; the site's own variables are that host's."""
    split = {"orthanc": ["pacs"], "nginx": ["web"]}
    said = site.check(split, nginx_acme_email="nothing")
    assert "msg" not in said, said["msg"]
    assert "nginx" in said["expected"]["packages"]
    (told,) = site.wrong(split, nginx_relay_port=0)
    assert told == "nginx_relay_port: 0 is not a TCP port; choose one from 1 to 65535."
    assert site.wrong(nginx_acme_email="nothing") != [], "beside it is the site"


def test_what_is_installed_already_is_not_expected(site: Site) -> None:
    expected = site.check()["expected"]
    assert set(expected["masked"]) == {"/etc/systemd/system/nginx.service", "/etc/systemd/system/orthanc.service"}
    site.probe |= {"packages": [*expected["packages"], "bash"], "orthanc": "1.12.7"}
    assert site.check()["expected"] == {"packages": [], "masked": {}}
    site.probe |= {"packages": ["nginx"]}
    again = site.check()["expected"]
    assert "nginx" not in again["packages"]
    assert again["masked"] == {"/etc/systemd/system/orthanc.service": "/usr/sbin/Orthanc"}

"""The actions in a real run of Ansible, on hosts of which a stand-in for the module site_probe tells."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import pytest
import yaml
from ansible_collections.dicom.orthanc.plugins.action.preflight import ActionModule
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host

from tests.repository import ROOT, run
from tests.unit.good_host import PROBE

# A module in Ansible's oldest form: it tells what it was asked, and says what stands in a file.
STAND_IN = """#!{python}
# WANT_JSON
import json, pathlib, sys
here = pathlib.Path("{folder}")
asked = json.loads(pathlib.Path(sys.argv[1]).read_text())
name = asked["config_dir"].rpartition("/")[2]
(here / f"asked-{{name}}.json").write_text(json.dumps(asked))
print((here / f"{{name}}.json").read_text())
"""
SECRETS = {"vault_orthanc_admin_password": "a long one", "vault_orthanc_proxy_password": "another one"}
FOUND: dict[str, Any] = {"packages": ["bash", "orthanc-dicomweb"], "services": [], "masked": []}
FOUND |= {"apt_lists": True, "apt_upstream": False, "policy": ""}


class Site:
    """An inventory, and a copy of the collection with another module in it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        collection = folder / "collections" / "ansible_collections" / "dicom" / "orthanc"
        (collection / "plugins" / "modules").mkdir(parents=True)
        for inner in (".", "plugins", "plugins/modules"):
            for path in (ROOT / inner).iterdir():
                if not path.name.startswith(".") and not (collection / inner / path.name).exists():
                    (collection / inner / path.name).symlink_to(path)
        probe = collection / "plugins" / "modules" / "site_probe.py"
        probe.unlink()
        probe.write_text(STAND_IN.format(python=sys.executable, folder=folder), "utf-8")
        (folder / "playbooks").mkdir()
        (folder / "playbooks" / "group_vars").symlink_to(ROOT / "playbooks" / "group_vars")

    def play(self, hosts: dict[str, dict[str, Any]], groups: dict[str, list[str]], *tasks: Any) -> tuple[int, str]:
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        known = {name: here | {"orthanc_config_dir": f"/etc/{name}"} | given for name, given in hosts.items()}
        inventory = {group: {"hosts": dict.fromkeys(members)} for group, members in groups.items()}
        quickstart = yaml.safe_load((ROOT / "inventories/quickstart/group_vars/all/main.yml").read_text("utf-8"))
        (self.folder / "hosts.yml").write_text(
            yaml.safe_dump(inventory | {"all": {"vars": SECRETS | quickstart, "hosts": known}}), "utf-8"
        )
        play = [{"hosts": "all", "gather_facts": False, "tasks": list(tasks)}]
        (self.folder / "playbooks" / "play.yml").write_text(yaml.safe_dump(play, sort_keys=False), "utf-8")
        done = run(
            *("ansible-playbook", "-i", str(self.folder / "hosts.yml"), str(self.folder / "playbooks" / "play.yml")),
            env={"ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections")},
        )
        return done.returncode, done.stdout + done.stderr

    def read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        return found

    def preflight(self, hosts: dict[str, dict[str, Any]], groups: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
        """Return what the preflight says of each host."""
        look = {"dicom.orthanc.preflight": {}, "register": "seen", "ignore_errors": True}
        keep = {
            "ansible.builtin.copy": {
                "content": "{{ seen | to_json }}",
                "dest": f"{self.folder}/seen-{{{{ inventory_hostname }}}}.json",
            }
        }
        code, output = self.play(hosts, groups, look, keep)
        assert code == 0, output
        return {name: self.read(f"seen-{name}") for name in hosts}

    def probe(self, name: str, **found: Any) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(PROBE | FOUND | found), "utf-8")


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Site:
    return Site(tmp_path)


def test_what_was_found_and_what_will_be_installed(site: Site) -> None:
    site.probe("new")
    binary = {"version": "1.12.7", "options": {"HttpPort": "int"}}
    packages = ["nginx", "orthanc", "orthanc-dicomweb", "python3-docker"]
    site.probe("there", orthanc="1.12.7", binary=binary, packages=packages)
    site.probe("box", engine={"problem": "", "options": {}, "ours": {}, "others": [], "cut_off": False})
    database = {
        "orthanc_database": "postgresql",
        "orthanc_database_host": "db.example.org",
        "orthanc_database_password": "a third one",
        "orthanc_index_dir": "/data/index",
    }
    hosts: dict[str, dict[str, Any]] = {"new": {}, "there": database, "box": {"orthanc_install_method": "docker"}}
    said = site.preflight(hosts, {"orthanc": list(hosts), "nginx": list(hosts)})
    for name in hosts:
        assert (said[name]["failed"], said[name]["changed"]) == (False, False), said[name]["msg"]
        assert said[name]["found"]["release"] == "debian-13"
        assert said[name]["found"]["nginx"] == PROBE["nginx"]
        assert said[name]["found"]["ipv6"] is True
    found = {name: said[name]["found"]["orthanc"] for name in hosts}
    assert found["new"] == {"command": ["/usr/sbin/Orthanc"], "version": "", "options": {}}
    assert found["there"] == {"command": ["/usr/sbin/Orthanc"], **binary}
    assert found["box"]["command"] == []
    assert said["there"]["found"]["packages"] == packages
    expected = {name: said[name]["expected"] for name in hosts}
    # Of what is offered the options are known; what is there is asked.
    assert (expected["new"]["orthanc"]["version"], expected["new"]["orthanc"]["options"]["HttpPort"]) == (
        "1.12.7",
        "int",
    )
    assert "orthanc" not in expected["there"]
    assert "orthanc" not in expected["box"]
    assert {"nginx", "orthanc"} < set(expected["new"]["packages"])
    assert not {"bash", "orthanc-dicomweb"} & set(expected["new"]["packages"])
    assert expected["new"]["packages"] == sorted(expected["new"]["packages"])
    units = "/etc/systemd/system"
    nginx = {f"{units}/nginx.service": "/usr/sbin/nginx"}
    assert expected["new"]["masked"] == {f"{units}/orthanc.service": "/usr/sbin/Orthanc", **nginx}
    assert "orthanc-postgresql" in expected["there"]["packages"]
    assert expected["there"]["masked"] == {}
    assert "docker.io" in expected["box"]["packages"]
    assert expected["box"]["masked"] == nginx
    asked = {name: site.read(f"asked-{name}") for name in hosts}
    assert [asked[name].get("engine", False) for name in hosts] == [False, False, True]
    assert [asked[name]["server"] for name in hosts] == [[], ["db.example.org", "5432"], []]
    assert [asked[name]["database"] for name in hosts] == ["sqlite", "postgresql", "sqlite"]
    assert [asked[name]["files"] for name in hosts] == ["", "", ""]
    assert [asked[name]["index_dir"] for name in hosts] == [
        "/var/lib/orthanc/db-v6",
        "/data/index",
        "/var/lib/orthanc/db-v6",
    ]
    assert [asked[name]["program"] for name in hosts] == ["/usr/sbin/Orthanc"] * 2 + [""]
    assert [asked[name]["nginx"] for name in hosts] == [True] * 3
    assert asked["new"]["offers"] is False


def test_wrong_host_and_one_that_cannot_be_looked_at(site: Site) -> None:
    site.probe("old", release="11", free=2**20)
    site.probe("dpkg", interrupted=True)
    (site.folder / "closed.json").write_text('{"failed": true, "msg": "why"}', "utf-8")
    upstream = {"orthanc_version": "1.12.9", "orthanc_apt_source": "upstream"}
    site.probe("upstream", offered=[])
    hosts: dict[str, dict[str, Any]] = {
        "old": {"nginx_timeout": 0, "orthanc_storage_minimum_free_gb": 1},
        "dpkg": {},
        "closed": {},
        "upstream": upstream,
        "typed": {"orthanc_index_dir": "{{ nothing_of_that_name }}"},
    }
    said = site.preflight(hosts, {"orthanc": list(hosts), "nginx": list(hosts)})
    assert said["old"]["msg"].startswith("Nothing was changed. The inventory is wrong for host old:\n- ")
    for words in ("runs debian 11", "nginx_timeout: ", "0.0 GiB are free at /var/lib/orthanc/db-v6"):
        assert words in said["old"]["msg"]
    assert "expected" not in said["old"]
    assert "`dpkg --configure -a`" in said["dpkg"]["msg"]
    assert (said["closed"]["failed"], said["closed"]["msg"]) == (True, "why")
    assert said["upstream"]["failed"] is False, said["upstream"]["msg"]
    assert "orthanc" not in said["upstream"]["expected"]["packages"], "apt has to be told its version too"
    assert site.read("asked-upstream")["offers"] is True
    assert "orthanc_index_dir: it cannot be evaluated: " in said["typed"]["msg"]
    assert not (site.folder / "asked-typed.json").exists(), "the inventory is wrong already"


@pytest.mark.parametrize(
    "probe, expected",
    [
        (
            {"msg": "deserialization", "module_stderr": "banner\nsorry, you must have a tty\n"},
            "a tty Set ansible_pipelining",
        ),
        ({"msg": "deserialization", "module_stderr": "a terminal is required"}, "required Set ansible_pipelining"),
        ({"msg": "deserialization", "module_stderr": "not in the sudoers file"}, "run there: not in the sudoers file"),
        ({"msg": "deserialization", "module_stderr": " "}, "deserialization"),
        ({"msg": "deserialization"}, "deserialization"),
        ({"msg": "other", "module_stderr": "tty"}, "other"),
    ],
)
def test_host_that_lets_nothing_run(probe: dict[str, Any], expected: str) -> None:
    said: str = ActionModule._not_reached(dict(probe))["msg"]
    assert expected in said
    assert said.startswith("Nothing was changed. The host refuses what is to be run there: ") == (said != probe["msg"])
    assert said.count("Set ansible_pipelining to false for this host.") == expected.count("Set")


def test_templates_are_rendered_for_the_module(site: Site) -> None:
    """In check mode: what would be written."""
    templates = site.folder / "playbooks" / "templates"
    templates.mkdir()
    (templates / "a.j2").write_text("# {{ ansible_managed }}\n{{ word }} {{ inventory_hostname }} \\n\n", "utf-8")
    (templates / "b.j2").write_text("{{ 'key ' ~ word }}\n", "utf-8")
    path = site.folder / "secret"
    path.write_text("key other\n", "utf-8")
    file = {"owner": "{{ lookup('pipe', 'id -un') }}", "group": "{{ lookup('pipe', 'id -gn') }}"}
    write = {
        "dicom.orthanc.write_files": {
            "template_vars": {"word": "ours"},
            "files": [
                file | {"path": f"{site.folder}/a", "template": "a.j2"},
                file | {"path": str(path), "secret_template": "b.j2"},
                file | {"path": f"{site.folder}/c", "content": "{{ word | default('theirs') }}"},
            ],
        },
        "register": "seen",
        "check_mode": True,
    }
    keep = {"ansible.builtin.copy": {"content": "{{ seen | to_json }}", "dest": f"{site.folder}/seen.json"}}
    nothing = {"dicom.orthanc.write_files": {"absent": [f"{site.folder}/none"]}, "check_mode": True}
    code, output = site.play({"pacs": {}}, {"orthanc": ["pacs"]}, write, keep, nothing)
    assert code == 0, output
    diffs = {pathlib.Path(diff["after_header"]).name: diff["after"] for diff in site.read("seen")["diff"]}
    assert diffs == {
        "a": "# Ansible managed\nours pacs \\n\n",
        "secret": "(new secret content)\n",
        "c": "theirs",
    }
    (templates / "b.j2").write_text("{{ 'key ' ~ 'other' }}\n", "utf-8")
    code, output = site.play({"pacs": {}}, {"orthanc": ["pacs"]}, write, keep)
    assert code == 0, output
    assert not [diff for diff in site.read("seen")["diff"] if "secret" in diff["after_header"]]


def test_variable_is_worked_out_once_for_all_that_mentions_it(site: Site) -> None:
    count = "{{ lookup('pipe', 'echo x >> ' ~ playbook_dir ~ '/count; wc -l < ' ~ playbook_dir ~ '/count') | int }}"
    variables = {
        "count": count,
        "next": "{{ count + 1 }}",
        "wanted": [
            {"path": f"{site.folder}/{{{{ count }}}}", "content": "{{ count }} {{ next }} {{ other }}", "mode": "0600"}
            | {"owner": "{{ lookup('pipe', 'id -un') }}", "group": "{{ lookup('pipe', 'id -gn') }}"},
        ],
        "other": "{{ count }}",
        "nowhere": [f"{site.folder}/none"],
    }
    write = {
        "dicom.orthanc.write_files": {
            "once": ["count", "next"],
            "by_name": {"files": "wanted", "absent": "nowhere"},
        },
        "vars": variables,
        "register": "seen",
        "check_mode": True,
    }
    keep = {"ansible.builtin.copy": {"content": "{{ seen | to_json }}", "dest": f"{site.folder}/seen.json"}}
    code, output = site.play({"pacs": {}}, {"orthanc": ["pacs"]}, write, keep)
    assert code == 0, output
    assert [(diff["after_header"], diff["after"]) for diff in site.read("seen")["diff"]] == [
        (f"{site.folder}/1", "1 2 1")
    ]
    assert (site.folder / "playbooks" / "count").read_text("utf-8") == "x\n"


@pytest.mark.parametrize(
    "groups, played, words",
    [
        ({"all": ["pacs"]}, ["pacs"], "which has none of them."),
        ({"orthanc": ["pacs"], "nginx": []}, ["other"], "which has nginx, orthanc."),
        ({"orthanc": ["pacs"]}, ["other", "pacs"], ""),
        ({"orthanc": ["pacs"]}, None, "which has orthanc."),
    ],
)
def test_run_in_which_nothing_would_be_done(groups: dict[str, list[str]], played: list[str] | None, words: str) -> None:
    action = ActionModule.__new__(ActionModule)
    action._variables = {} if played is None else {"ansible_play_hosts_all": played}
    said = list(action._groups(Host(roles=[], variables={}, groups=groups)))
    assert [sentence.endswith(words) for sentence in said] == ([True] if words else [])

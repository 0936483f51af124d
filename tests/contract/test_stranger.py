"""A stranger adds a role, and a plugin of Orthanc: what has to be touched is what CONTRIBUTING.md says, and no more."""

from __future__ import annotations

import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.repository import ROOT, files, run

NUMBERS = {"none": 0, "one": 1, "two": 2, "three": 3}
# The role: a service with a port, a secret, a file and a rule.
ROLE = {
    "roles/example/defaults/main.yml": """\
---
# The port of the example, the secret that it asks for, for how many days it keeps what it has, and its greeting.
example_port: 8765
example_days: 30
example_greeting: Hello
""",
    "roles/example/meta/argument_specs.yml": """\
---
argument_specs:
  main:
    short_description: An example
    description:
      - Writes a file.
    author: A stranger
    options:
      example_port:
        description: TCP port of the service, 1 to 65535.
        type: int
      example_days:
        description: For how many days it keeps what it has, 1 to 365.
        type: int
      example_greeting:
        description: What it says.
        type: str
      example_password:
        description: The secret that it asks for.
        type: str
        required: true
        no_log: true
""",
    "roles/example/tasks/main.yml": """\
---
- name: Write the configuration
  dicom.orthanc.write_files:
    files: "{{ __example_files }}"
""",
    "roles/example/vars/main.yml": """\
---
__example_files:
  - path: /etc/example.conf
    secret_template: etc/example.conf.j2
    mode: "0600"
""",
    "templates/etc/example.conf.j2": """\
{{ ansible_managed | comment }}
port = {{ example_port | int }}
password = {{ example_password }}
""",
}
RULES = {
    "plugins/plugin_utils/preflight/example.py": """\
\"\"\"What the role example asks of an inventory.\"\"\"

RANGES = {"example_days": (1, 365)}
PROGRAMS = ("example",)


def problems(host):
    if not host.variables["example_greeting"]:
        yield "example_greeting: it is empty; say something."
""",
}
PLAY = "\n- {name: Example, hosts: example, gather_facts: false, become: true, roles: [dicom.orthanc.example]}\n"
PLUGIN = """
  example:
    package: orthanc-example
    library: libOrthancExample.so
    id: example
    settings: {Example: {Enable: true}}
    lacking: *images_only
    source: https://example.org/
"""


class Clone:
    """A copy of the repository, in which some files were added or changed beside the role's own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.touched: set[str] = set()
        for file in files():
            target = folder / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        for role in (folder / "roles").iterdir():
            (role / "templates").symlink_to("../../templates")
        link = folder / ".cache/collections/ansible_collections/dicom/orthanc"
        link.parent.mkdir(parents=True)
        link.symlink_to(folder)

    def write(self, name: str, text: str, own: bool = False) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")
        if not own:
            self.touched.add(name)

    def change(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text("utf-8")
        assert old in text
        self.write(name, text.replace(old, new, 1))

    def run(self, program: str, *arguments: str) -> tuple[int, str]:
        done = run(program, *arguments, cwd=self.folder, env={"ANSIBLE_CONFIG": str(self.folder / "ansible.cfg")})
        return done.returncode, " ".join((done.stdout + done.stderr).split())


def promised(what: str) -> int:
    """Return how many files CONTRIBUTING.md says are to be touched for something."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    found = re.search(rf"(?m)^\| {what} \| (\w+)\b", text)
    assert found, what
    return NUMBERS[found[1].lower()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("clone"))
    for name, text in ROLE.items():
        made.write(name, text, own=True)
    (made.folder / "roles/example/templates").symlink_to("../../templates")
    for name, text in RULES.items():
        made.write(name, text)
    end = (made.folder / "playbooks/site.yml").read_text("utf-8").splitlines()[-1]
    made.change("playbooks/site.yml", f"{end}\n", f"{end}\n{PLAY}")
    return made


HOSTS: Mapping[str, tuple[dict[str, Any], str]] = {
    "good": ({}, ""),
    "clash": ({"example_port": 8042}, "orthanc_http_port: port 8042 is the one of example_port already"),
    "far": ({"example_days": 0}, "example_days: 0 is out of range; choose a number from 1 to 365."),
    "type": ({"example_port": "many"}, "example_port: "),
    "name": ({"example_prot": 1}, "example_prot: no such variable. Did you mean 'example_port'?"),
    "secret": (
        {"example_password": "{{ vault_example_password }}"},
        "example_password: it needs vault_example_password, which is not defined; run `make secrets INVENTORY=",
    ),
    "rule": ({"example_greeting": ""}, "example_greeting: it is empty; say something."),
}


def inventory(folder: pathlib.Path, *groups: str, **hosts: dict[str, Any]) -> str:
    """Write an inventory of hosts that are in all groups, with the variables of the shipped ``quickstart``."""
    shutil.copytree(ROOT / "inventories/quickstart/group_vars", folder / "group_vars")
    known: dict[str, Any] = {group: {"hosts": hosts} for group in groups}
    secrets = {f"vault_orthanc_{name}_password": "a long one" for name in ("admin", "proxy")}
    known["all"] = {"vars": secrets}
    (folder / "hosts.yml").write_text(yaml.safe_dump(known), encoding="utf-8")
    return str(folder)


def test_role(clone: Clone, tmp_path: pathlib.Path) -> None:
    """The preflight finds what is wrong with its port, its numbers, names and secret, and by its rule."""
    hosts = {name: {"example_password": "a long one"} | variables for name, (variables, _) in HOSTS.items()}
    site = inventory(tmp_path / "site", "orthanc", "nginx", "example", **hosts)
    status, said = clone.run("ansible-playbook", "-i", site, "playbooks/check.yml")
    assert status != 0
    wrong = dict(re.findall(r"wrong for host (\w+): - (.*?)(?=Origin:|fatal:|PLAY RECAP)", said))
    assert set(wrong) == set(HOSTS) - {"good"}, said
    for name, text in wrong.items():
        assert HOSTS[name][1] in text
    # A site of nothing else, whose group is known too.
    alone = inventory(tmp_path / "alone", "example", pacs={"example_password": "a long one"})
    status, said = clone.run("ansible-playbook", "-i", alone, "playbooks/check.yml")
    assert status == 0, said
    status, said = clone.run("ansible-playbook", "-i", alone, "playbooks/site.yml", "--list-tasks")
    assert "example : Write the configuration" in said, said
    assert len(clone.touched) == promised("a role")


def test_role_keeps_the_rules_of_the_house(clone: Clone) -> None:
    clone.run("git", "init", "--quiet")
    clone.run("git", "add", "--all", "--force", *ROLE)
    status, said = clone.run("pytest", "-q", "tests/contract/test_roles.py", "-k", "example")
    assert status == 0, said
    assert " passed" in said
    status, said = clone.run("pytest", "-q", "tests/contract/test_variables.py", "-k", "example")
    assert status == 0, said
    assert " passed" in said


def test_plugin(tmp_path: pathlib.Path) -> None:
    clone = Clone(tmp_path / "clone")
    clone.change("roles/orthanc/vars/main/plugins.yml", "\n  volview:\n", f"{PLUGIN}  volview:\n")
    clone.change("roles/orthanc/meta/argument_specs.yml", "C(volview)", "C(example), C(volview)")
    good = {"orthanc_plugins": ["example"], "orthanc_install_method": "docker"}
    site = inventory(tmp_path / "site", "orthanc", pacs=good, wrong={"orthanc_plugins": ["example"]})
    _, said = clone.run("ansible-playbook", "-i", site, "playbooks/check.yml")
    assert "wrong for host pacs" not in said
    assert "'example' is not to be had with the distribution's packages: neither Debian" in said
    assert len(clone.touched) == promised("a plugin of Orthanc")

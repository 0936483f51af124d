"""What the tests look at: the files of this repository, and the programs beside the Python that runs them."""

import functools
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROLES = sorted(path.parents[1].name for path in ROOT.glob("roles/*/meta/argument_specs.yml"))
# What crosses roles.
SITE = "playbooks/group_vars/all.yml"


class Loader(yaml.SafeLoader):
    """Reads YAML with Ansible's own tags, whose values matter to no test here."""


Loader.add_multi_constructor("!", lambda _loader, suffix, _node: f"!{suffix}")


@functools.cache
def load(path: str) -> Any:
    """Return the content of a YAML file of the repository, an empty dictionary if there is none."""
    file = ROOT / path
    return yaml.load(file.read_text(encoding="utf-8"), Loader) or {} if file.exists() else {}


def options(role: str) -> dict[str, dict[str, Any]]:
    """Return the public variables of a role as its argument spec describes them."""
    found: dict[str, dict[str, Any]] = load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"][
        "options"
    ]
    return found


def defaults(role: str) -> dict[str, Any]:
    """Return the defaults of a role, as they are written."""
    found: dict[str, Any] = load(f"roles/{role}/defaults/main.yml")
    return found


def constants(role: str) -> dict[str, Any]:
    """Return the internal variables of a role, as they are written."""
    # As files, since the unit tests run where there is no git too.
    parts = sorted((ROOT / "roles" / role / "vars" / "main").glob("*.yml"))
    paths = [f"roles/{role}/vars/main.yml", *(part.relative_to(ROOT).as_posix() for part in parts)]
    return {name: value for path in paths for name, value in load(path).items()}


@functools.cache
def evaluated() -> dict[str, Any]:
    """Return all defaults as a host sees them whose inventory sets nothing."""
    loader = DataLoader()
    loader.set_basedir(str(ROOT / "playbooks"))
    inventory = InventoryManager(loader=loader, sources=["pacs,"])
    for role in ROLES:
        inventory.add_group(role)
        inventory.add_host("pacs", group=role)
    hosts = HostVars(inventory, VariableManager(loader=loader, inventory=inventory), loader)
    variables: dict[str, Any] = {**hosts.raw_get("pacs"), "hostvars": hosts}
    for path in [SITE, *(f"roles/{role}/defaults/main.yml" for role in ROLES)]:
        variables |= loader.load_from_file(str(ROOT / path), trusted_as_template=True)
    templar = Templar(loader=loader, variables=variables)
    names = {name for name in variables if name.startswith(("site_", *ROLES))}
    return {**variables, **{name: templar.template(variables[name]) for name in names}}


@functools.cache
def plain() -> dict[str, str]:
    """Return the environment without what a hook of git is told of the repository that it was called for."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def files() -> list[pathlib.Path]:
    """Return the files of the repository, those included that are about to be added."""
    # A clone may belong to another user than the one who tests it.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, env=plain(), capture_output=True, text=True, check=True).stdout
    names = sorted(set(listed.split("\0")) - {""})
    return [ROOT / name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]


def names(*folders: str, suffix: str = "") -> list[str]:
    """Return the files below some folders, by their paths in the repository."""
    relative = [path.relative_to(ROOT).as_posix() for path in files()]
    return [name for name in relative if name.startswith(folders) and name.endswith(suffix)]


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Return every dictionary of a YAML document, at any depth."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from mappings(inner)


def run(
    program: str, *arguments: str, cwd: pathlib.Path = ROOT, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of the Python environment with the configuration of the repository."""
    folder = pathlib.Path(sys.executable).parent
    environment = {
        **plain(),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "NO_COLOR": "1",
        **(env or {}),
    }
    command = [shutil.which(program, path=f"{folder}:{os.environ['PATH']}") or program, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

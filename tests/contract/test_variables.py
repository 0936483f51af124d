"""Variables: what roles offer, what inventories set, and what crosses roles."""

import re
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from tests.repository import ROLES, ROOT, SITE, defaults, evaluated, load, mappings, names, options

PUBLIC = {name for role in ROLES for name in options(role)}
PREFIXES = tuple(f"{role}_" for role in ROLES)
TYPES = {"bool": bool, "dict": dict, "float": float, "int": int, "list": list, "path": str, "str": str}


def yaml_files(*folders: str) -> list[str]:
    return [name for name in names(*folders, suffix=".yml") if not name.endswith("vault.yml")]


def keys(path: str) -> set[str]:
    return {str(key) for mapping in mappings(load(path)) for key in mapping}


def is_of_type(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_required_are_the_specification(role: str) -> None:
    required = {name for name, option in options(role).items() if option.get("required")}
    assert not required & set(defaults(role)), "what is required has no default"
    assert required | set(defaults(role)) == set(options(role))


@pytest.mark.parametrize("role, name", [(role, name) for role in ROLES for name in options(role)])
def test_option_is_complete(role: str, name: str) -> None:
    option = options(role)[name]
    assert name.startswith(f"{role}_")
    assert option.get("description")
    assert option.get("type") in TYPES
    assert option["type"] != "list" or option.get("elements") in TYPES
    assert not [found for found in mappings(option) if "default" in found], "it stands in defaults/main.yml only"


@pytest.mark.parametrize("role, name", [(role, name) for role in ROLES for name in defaults(role)])
def test_default_passes_its_own_specification(role: str, name: str) -> None:
    # Stricter than Ansible, which lets "8042" pass for a number and hands on the text.
    option, value = options(role)[name], evaluated()[name]
    assert is_of_type(value, option["type"])
    elements = value if isinstance(value, list) else []
    for chosen in elements if option["type"] == "list" else [value]:
        assert chosen in option.get("choices", [chosen])
    assert all(is_of_type(element, option["elements"]) for element in elements)


@pytest.mark.parametrize("path", yaml_files("inventories/", "lab/", "molecule/", "playbooks/"))
def test_role_variables_exist(path: str) -> None:
    assert {key for key in keys(path) if key.startswith(PREFIXES)} <= PUBLIC


@pytest.mark.parametrize(
    "path", yaml_files("inventories/", "lab/", "molecule/", "playbooks/", "roles/", "verification/")
)
def test_derived_names_are_defined_in_one_place(path: str) -> None:
    derived = {key for key in keys(path) if key.startswith("site_")}
    assert not derived if path != SITE else derived == set(load(SITE))


def test_derived_names_read_known_variables() -> None:
    names_used = set(re.findall(rf"(?<![\w./-])(?:{'|'.join(PREFIXES)})\w+", str(list(load(SITE).values()))))
    assert names_used
    assert names_used <= PUBLIC


def test_derived_names_repeat_no_default() -> None:
    """They are taken from the roles by a filter."""
    pattern = re.compile(rf"\b(?:{'|'.join(PREFIXES)})\w+ *\| *default\(")
    assert not pattern.findall(str(list(load(SITE).values())))


@pytest.mark.parametrize("role", ROLES)
def test_derived_names_that_a_role_uses_exist(role: str) -> None:
    used = {
        name
        for path in names(f"roles/{role}/")
        for name in re.findall(r"\bsite_(?!check|probe)\w+", (ROOT / path).read_text(encoding="utf-8"))
    }
    assert used <= set(load(SITE))


@pytest.mark.parametrize(
    "installed, packages",
    [({}, ["here"]), ({"__site_packages": {"skipped": True}}, ["here"]), ({"__site_packages": {}}, ["here", "new"])],
)
def test_packages_that_will_be_installed_are_not_there_yet(installed: dict[str, Any], packages: list[str]) -> None:
    seen = {"found": {"packages": ["here"]}, "expected": {"packages": ["new"]}}
    loader = DataLoader()
    site = loader.load_from_file(str(ROOT / SITE), trusted_as_template=True)
    variables = site | installed | {"__site_preflight": seen}
    assert Templar(loader, variables).template(site["site_packages"]) == packages


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, False),
        ({"orthanc_version": "1.12.7"}, True),
        ({"orthanc_apt_source": "upstream"}, True),
        ({"__orthanc_packages": ["orthanc", "new"]}, True),
        ({"site_found": {"apt_upstream": True}}, True),
        ({"site_found": {}}, True),
        ({"orthanc_version": "1.12.7", "__orthanc_packages": ["new"]}, True),
    ],
)
def test_tasks_that_install_packages_are_left_out_where_they_have_nothing_to_do(
    changes: dict[str, Any], expected: bool
) -> None:
    loader = DataLoader()
    condition = loader.load_from_file(str(ROOT / "roles/orthanc/vars/apt.yml"), trusted_as_template=True)
    given: dict[str, Any] = {"orthanc_apt_source": "distribution", "orthanc_version": "", "site_packages": ["orthanc"]}
    given |= {"__orthanc_packages": ["orthanc"], "site_found": {"apt_upstream": False}}
    found = Templar(loader, given | changes).template(condition["__orthanc_installs"])
    # A text that says neither yes nor no counts as no.
    assert found is expected


@pytest.mark.parametrize(
    "found, expected",
    [({}, True), ({"site_found": {"packages": ["orthanc"]}}, True), ({"site_found": {"packages": ["nginx"]}}, False)],
)
def test_packages_are_kept_where_nothing_was_looked_at_too(found: dict[str, Any], expected: bool) -> None:
    loader = DataLoader()
    tasks = loader.load_from_file(str(ROOT / "roles/orthanc/tasks/install_apt.yml"), trusted_as_template=True)
    (condition,) = [task["when"] for task in tasks if "dicom.orthanc.apt_keep" in task]
    given = {"__orthanc_new_source": False, "orthanc_version": "1.12.8", "__orthanc_found": {"version": "1.12.7"}}
    assert Templar(loader, given | found).evaluate_conditional(condition) is expected


def test_lsb_release_of_any_folder_is_found_before_an_install() -> None:
    """An import finds it by the link, as the preflight does, whose answers hold for as long as that release runs."""
    loader, given = DataLoader(), {"orthanc_lsb_dir": "/opt/orthanc", "orthanc_version": "1.12.7"}
    for path in ("main/programs.yml", "lsb.yml"):
        given |= loader.load_from_file(str(ROOT / "roles/orthanc/vars" / path), trusted_as_template=True)
    looked = Templar(loader, given)
    (command,) = looked.template(given["__orthanc_command"])
    assert command == looked.template(given["__orthanc_anonymizer"]) == "/opt/orthanc/current/Orthanc"
    found: dict[str, Any] = {"orthanc": {"command": [command], "version": "1.12.7", "options": {"Name": "str"}}}
    seen = given | {"site_found": found, "site_expected": {"packages": []}}
    for changed in (False, True):
        installed = Templar(loader, seen | {"__orthanc_install": {"name": "1.12.7-0123abcd", "changed": changed}})
        assert installed.template(given["__orthanc_command"]) == ["/opt/orthanc/1.12.7-0123abcd/Orthanc"]
        assert installed.template(given["__orthanc_anonymizer"]) == command
        assert installed.template(given["__orthanc_unseen"]) is changed


def test_packages_that_go_back_are_those_that_the_role_may_install() -> None:
    """And no package of a hospital that is called in the same way."""
    loader = DataLoader()
    load = [
        loader.load_from_file(str(ROOT / f"roles/orthanc/vars/{name}.yml"), trusted_as_template=True)
        for name in ("apt", "main/plugins", "main/database")
    ]
    variables = {name: value for one in load for name, value in one.items()}
    names = Templar(loader, variables | {"orthanc_public_prefix": "/"}).template(load[0]["__orthanc_kept_packages"])
    plugins = {plugin["package"] for plugin in variables["__orthanc_plugins"].values()}
    databases = {package for one in variables["__orthanc_databases"].values() for package in one["packages"]}
    assert set(names) == {"orthanc"} | plugins | databases
    assert not [name for name in names if "*" in name]

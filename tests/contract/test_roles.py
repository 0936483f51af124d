"""The shape of the roles, as the house style has it."""

import collections
import fnmatch
import pathlib
import re
from collections.abc import Iterator

import pytest

from tests.repository import ROLES, ROOT, constants, defaults, load, mappings, names, options

YAML = names("roles/", suffix=".yml")
TASKS = [path for path in YAML if re.search(r"/(tasks|handlers)/", path)]
TEMPLATES = names("templates/", suffix=".j2")
METHODS = [
    (role, method) for role in ROLES for method in options(role).get(f"{role}_install_method", {}).get("choices", [])
]
# Of what begins with ansible_ everything is a fact of the host but these.
MAGIC = re.compile(
    r"ansible_(facts|managed|host|user|port|connection|check_mode|diff_mode|version|inventory_sources|playbook_python"
    r"|python_interpreter|collections|config_file|ssh_\w+|become\w*|play_\w+|run_tags|skip_tags|loop\w*|index_var"
    r"|role_names?|failed_result|failed_task|parent_role_\w+|search_path|limit|verbosity|forks)\b"
)


def code(path: str) -> str:
    """Return the text of a file without its comments."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.sub(r"(?s)\{#.*?#\}", "", text) if path.endswith(".j2") else re.sub(r"(?m)(^|\s)#.*$", "", text)


def rendered() -> Iterator[tuple[str, str, str]]:
    """Return each template that a role renders, where it goes, and the role."""
    for path in YAML:
        role = path.split("/")[1]
        for item in mappings(load(path)):
            source = item.get("template", item.get("secret_template"))
            if isinstance(source, str) and "path" in item:
                yield source, literal(role, item["path"]), role
            if "src" in item and "dest" in item and str(item["src"]).endswith(".j2"):
                yield str(item["src"]), literal(role, item["dest"]), role


def literal(role: str, text: str) -> str:
    """Put the role's own constants into a path."""
    known = defaults(role) | constants(role)
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: str(known.get(found[1], found[0])), text)


def users(template: str) -> set[str]:
    """Tell which roles render a template."""
    return {role for source, _, role in rendered() if f"templates/{source}" == template}


def owners() -> Iterator[tuple[str, str]]:
    """Return what is part of a role's code, each with the role."""
    for path in names("roles/"):
        if re.fullmatch(r"roles/\w+/(defaults|handlers|tasks|vars)/.*", path):
            yield path.split("/")[1], path
    for path in TEMPLATES:
        for role in users(path):
            yield role, path


@pytest.mark.parametrize("role, path", sorted(owners()))
def test_no_role_names_the_variable_of_another(role: str, path: str) -> None:
    others = "|".join(other for other in ROLES if other != role)
    # After a dot it is a module of this collection, after a dollar sign a variable of nginx.
    assert not re.findall(rf"(?<![\w.$/-])_*(?:{others})_\w+", code(path))


@pytest.mark.parametrize("path", [*YAML, *TEMPLATES])
def test_no_role_names_an_inventory_group(path: str) -> None:
    assert not re.findall(r"\bgroups\s*(?:\[|\||\.\w)|\bgroup_names\b", code(path))


@pytest.mark.parametrize("path", YAML)
def test_no_fact_is_a_variable_of_its_own(path: str) -> None:
    assert [name for name in re.findall(r"(?<![\w.])ansible_\w+", code(path)) if not MAGIC.fullmatch(name)] == []


@pytest.mark.parametrize("path", names("lab/", "molecule/", "playbooks/", "roles/", suffix=".yml"))
def test_tasks(path: str) -> None:
    for task in mappings(load(path)):
        assert not {"ignore_errors", "set_fact", "ansible.builtin.set_fact"} & set(task)
        assert not str(task.get("tasks_from", "")).endswith((".yml", ".yaml")), "the argument spec would be skipped"


def test_variables_are_checked_before_a_role_that_does_not() -> None:
    """The preflight of site.yml is before all playbooks that it imports, and no other has to look as closely."""
    preflight, *others = load("playbooks/site.yml")
    assert "dicom.orthanc.preflight" in preflight["tasks"][0]
    key = "ansible.builtin.import_playbook"
    imported = {f"playbooks/{play[key]}" for play in others if key in play}
    playbooks = names("playbooks/", "roles/", suffix=".yml")
    assert {path for path in playbooks if "rolespec_validate" in code(path)} == imported


@pytest.mark.parametrize("role, skipped", [("nginx", "ready"), ("orthanc", "prepare")])
def test_tasks_that_are_skipped_together_are_not_skipped_for_too_much(role: str, skipped: str) -> None:
    """Where one of them has something to do, none of the others' conditions keeps it from that."""
    (include,) = [
        task
        for task in load(f"roles/{role}/tasks/main.yml")
        if task.get("ansible.builtin.include_tasks") == f"{skipped}.yml"
    ]
    together = include["when"].split(" or ")
    each = [task["when"].split(" and ")[0].strip() for task in load(f"roles/{role}/tasks/{skipped}.yml")]
    assert sorted(dict.fromkeys(each)) == sorted(one.strip() for one in together)


@pytest.mark.parametrize("path", TASKS)
def test_task_file_is_short(path: str) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= 70


@pytest.mark.parametrize("role", ROLES)
def test_no_variable_is_made_twice(role: str) -> None:
    """Of several files in vars/main the last one would win, and of one the last line."""
    folder = ROOT / "roles" / role / "vars"
    files = [*sorted((folder / "main").glob("*.yml")), folder / "main.yml"]
    texts = [file.read_text(encoding="utf-8") for file in files if file.exists()]
    made = collections.Counter(name for text in texts for name in re.findall(r"(?m)^(\w+):", text))
    assert [name for name, count in made.items() if count > 1] == []


@pytest.mark.parametrize("role", ROLES)
def test_templates_are_the_common_tree(role: str) -> None:
    link = ROOT / "roles" / role / "templates"
    if link.is_symlink() or link.exists() or any(role in users(path) for path in TEMPLATES):
        assert link.readlink() == pathlib.Path("../../templates")


@pytest.mark.parametrize("role, method", METHODS)
def test_install_method_is_complete(role: str, method: str) -> None:
    assert (ROOT / f"roles/{role}/tasks/install_{method}.yml").exists()
    assert set(load(f"roles/{role}/vars/{method}.yml")) == set(load(f"roles/{role}/vars/{METHODS[0][1]}.yml"))
    assert load(f"roles/{role}/vars/{method}.yml")


def test_every_install_method_is_a_choice() -> None:
    found = [(path.split("/")[1], path[:-4].rpartition("install_")[2]) for path in TASKS if "/tasks/install_" in path]
    assert sorted(found) == sorted(METHODS)


@pytest.mark.parametrize("source, target", sorted({(source, target) for source, target, _ in rendered()}))
def test_template_mirrors_the_host(source: str, target: str) -> None:
    assert f"templates/{source}" in TEMPLATES
    assert "{{" in target or target == f"/{source.removesuffix('.j2')}"


@pytest.mark.parametrize("path", TEMPLATES)
def test_template_is_used(path: str) -> None:
    assert users(path)


def test_plugins_are_the_documented_ones() -> None:
    described = " ".join(options("orthanc")["orthanc_plugins"]["description"])
    plugins = load("roles/orthanc/vars/main/plugins.yml")["__orthanc_plugins"]
    assert sorted(re.findall(r"C\(([^)]+)\)", described)) == sorted(plugins)
    for plugin in plugins.values():
        assert {"package", "library", "id", "settings"} <= set(plugin)


def test_apt_waits_and_takes_nothing_away() -> None:
    """Unattended upgrades hold dpkg's lock for minutes; a MySQL in use would make room for a MariaDB."""
    asked = [
        item["ansible.builtin.apt"] for path in YAML for item in mappings(load(path)) if "ansible.builtin.apt" in item
    ]
    assert len(asked) > 7
    assert {options.get("lock_timeout") for options in asked} == {600}
    assert {options.get("fail_on_autoremove") for options in asked} == {True}


@pytest.mark.parametrize(
    "version, other",
    [("1.12.1+dfsg-2", "1.12.10+dfsg-2"), ("1.12.1-1~bookworm", "1.12.11-1"), ("1.12.1~rc1-1", "11.12.1-1")],
)
def test_release_is_no_beginning_of_another(version: str, other: str) -> None:
    text = (ROOT / "roles/orthanc/tasks/install_apt.yml").read_text("utf-8")
    pattern = re.search(r"orthanc_version ~ '([^']+)'", text)
    assert pattern
    assert fnmatch.fnmatch(version, f"1.12.1{pattern[1]}")
    assert not fnmatch.fnmatch(other, f"1.12.1{pattern[1]}")


@pytest.mark.parametrize("path", [*TASKS, "playbooks/site.yml", "playbooks/tasks/packages.yml"])
def test_lists_of_packages_are_read_where_there_are_none(path: str) -> None:
    """They may be empty and new, as in images of clouds; and what will be installed is not there yet."""
    for task in mappings(load(path)):
        told = task.get("ansible.builtin.apt", {})
        if told.get("update_cache"):
            assert "site_apt_valid" in told["cache_valid_time"]
        assert "site_found.packages" not in str(task)
        assert "pacs_packages" not in str(task)


def test_programs_on_hosts_have_the_python_of_the_system() -> None:
    """In /usr/local/bin there may be somebody's own."""
    found = [
        (path, line.strip())
        for path in names("roles/", "verification/", "templates/")
        for line in (ROOT / path).read_text("utf-8").splitlines()
        if re.search(r"(?<![/\w-])python3['\"]?,? +['\"]?-|^ +- python3$|env python3", line)
    ]
    assert not found

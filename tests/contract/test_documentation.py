"""What people read about the plugins and the variables is there, and true."""

import importlib
import json
import re
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from tests.repository import ROLES, ROOT, Loader, defaults, names, options, run

MODULES = sorted(path.stem for path in ROOT.glob("plugins/modules/*.py"))
FILTERS = sorted(path.stem for path in ROOT.glob("plugins/filter/*.yml"))
TESTS = sorted(path.stem for path in ROOT.glob("plugins/test/*.yml"))
LOOKUPS = sorted(path.stem for path in ROOT.glob("plugins/lookup/*.py"))
DOCUMENTS = names("", suffix=".md")


def python(name: str) -> Any:
    return importlib.import_module(f"ansible_collections.dicom.orthanc.plugins.{name}")


@pytest.mark.parametrize(
    "kind, plugins", [("module", MODULES), ("filter", FILTERS), ("test", TESTS), ("lookup", LOOKUPS)]
)
def test_ansible_doc_renders(kind: str, plugins: list[str]) -> None:
    done = run("ansible-doc", "--type", kind, *(f"dicom.orthanc.{name}" for name in plugins))
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr, done.stderr
    for name in plugins:
        assert f"dicom.orthanc.{name}" in done.stdout


@pytest.mark.parametrize("name", MODULES)
def test_module_has_examples_of_itself(name: str) -> None:
    module = python(f"modules.{name}")
    assert yaml.safe_load(module.DOCUMENTATION)["module"] == name
    assert any(f"dicom.orthanc.{name}" in task for task in yaml.safe_load(module.EXAMPLES))


def spec(options: dict[str, Any]) -> dict[str, Any]:
    """Return what a module documents as it would check it."""
    kept = ("type", "required", "choices", "elements", "aliases", "default")
    return {
        name: {key: option[key] for key in kept if key in option}
        | ({"options": spec(option["suboptions"])} if "suboptions" in option else {})
        for name, option in options.items()
    }


def test_examples_are_what_the_modules_take() -> None:
    """Each option is one, of its type and among its choices, and none that is needed is left out."""
    names = [f"dicom.orthanc.{name}" for name in MODULES]
    documented = json.loads(run("ansible-doc", "--json", "--type", "module", *names).stdout)
    wrong: dict[str, list[str]] = {}
    for name in names:
        taken = spec(documented[name]["doc"].get("options", {}))
        for task in yaml.safe_load(documented[name]["examples"]):
            if name not in task:
                continue
            given = task[name] or {}
            # Whatever an expression comes to.
            known = {option: value for option, value in given.items() if not str(value).startswith("{{")}
            asked = {option: one for option, one in taken.items() if option in known or option not in given}
            found = (
                ArgumentSpecValidator(asked).validate(known | dict.fromkeys(given.keys() - taken.keys())).error_messages
            )
            wrong |= {f"{name}: {task['name']}": found} if found else {}
    assert not wrong


def test_every_filter_and_test_is_documented() -> None:
    filters = [
        name
        for path in ROOT.glob("plugins/filter/*.py")
        for name in python(f"filter.{path.stem}").FilterModule().filters()
    ]
    tests = [
        name for path in ROOT.glob("plugins/test/*.py") for name in python(f"test.{path.stem}").TestModule().tests()
    ]
    assert (sorted(filters), sorted(tests)) == (FILTERS, TESTS)


def test_variables_reference_is_up_to_date() -> None:
    printed = run("python", "tools/variables.py")
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == (ROOT / "docs" / "variables.md").read_text(encoding="utf-8"), "run `make docs`"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"))
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert not [link for link in links if not ((ROOT / name).parent / link).exists()]
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text):
        target = (ROOT / name).parent / link if link else ROOT / name
        headings = re.findall(r"(?m)^#+ (.*)$", target.read_text(encoding="utf-8"))
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors


GUIDES = [name for name in DOCUMENTS if name not in ("CHANGELOG.md", "docs/variables.md")]


def code(name: str) -> list[str]:
    """Return the code of a document: its blocks of commands, and what stands in its lines as code."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = re.sub(r"(?ms)^```.*?^```", "", text)
    return [*re.findall(r"(?ms)^```sh$(.*?)^```", text), *re.findall(r"`([^`]+)`", lines)]


@pytest.mark.parametrize("name", GUIDES)
def test_commands_are_there(name: str) -> None:
    """Targets of make and files of this repository; what a reader makes is called hospital."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?m)^([\w./-]+):", makefile))
    # Some routes of Orthanc look like files of ours.
    routes = defaults("nginx")["nginx_refused_routes"]
    for text in code(name):
        assert set(re.findall(r"(?m)^make ([\w./-]+)", text)) <= targets
        files = re.findall(r"(?<![\w./~-])(?:inventories|lab|playbooks|plugins|roles|tools)/[\w./-]*\w(?![\w<*])", text)
        assert not [
            name for name in files if "hospital" not in name and name not in routes and not (ROOT / name).exists()
        ]


def test_every_shard_is_described() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shards = re.search(r"(?m)^SHARDS := (.*)$", makefile)
    assert shards
    described = code("CONTRIBUTING.md")
    assert not [shard for shard in shards[1].split() if f"make {shard}" not in described]


@pytest.mark.parametrize("name", GUIDES)
def test_variables_of_examples_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    known = {variable for role in ROLES for variable in options(role)} | {*ROLES, "ansible_user"}
    for block in re.findall(r"(?ms)^```yaml$(.*?)^```", text):
        assert set(yaml.load(block, Loader)) <= known


def test_each_document_is_found_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150, "what a reader needs later has its place in docs/"
    assert not [name for name in names("docs/", suffix=".md") if f"]({name})" not in text]

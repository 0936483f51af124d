"""What people read about the plugins and the variables is there, and true."""

import importlib
import re
from typing import Any

import pytest
import yaml
from ansible.module_utils import basic

from tests.repository import ROOT, names, run

MODULES = sorted(path.stem for path in ROOT.glob("plugins/modules/*.py"))
FILTERS = sorted(path.stem for path in ROOT.glob("plugins/filter/*.yml"))
TESTS = sorted(path.stem for path in ROOT.glob("plugins/test/*.yml"))
DOCUMENTS = names("", suffix=".md")
# How documentation and argument spec call the same thing.
FACETS: dict[str, Any] = {
    "type": "str",
    "elements": None,
    "default": None,
    "required": False,
    "choices": None,
    "suboptions": {},
}


class Asked(Exception):
    """Ends a module as soon as it has told its arguments."""


def python(name: str) -> Any:
    return importlib.import_module(f"ansible_collections.dicom.orthanc.plugins.{name}")


@pytest.mark.parametrize("kind, plugins", [("module", MODULES), ("filter", FILTERS), ("test", TESTS)])
def test_ansible_doc_renders(kind: str, plugins: list[str]) -> None:
    done = run("ansible-doc", "--type", kind, *(f"dicom.orthanc.{name}" for name in plugins))
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr, done.stderr
    for name in plugins:
        assert f"dicom.orthanc.{name}" in done.stdout


@pytest.mark.parametrize("name", MODULES)
def test_documented_options_are_the_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = python(f"modules.{name}")
    asked: dict[str, Any] = {}

    def ask(_module: Any, argument_spec: dict[str, Any], **_more: Any) -> None:
        asked.update(argument_spec)
        raise Asked

    # A module without a program documents an action.
    if hasattr(module, "main"):
        monkeypatch.setattr(basic.AnsibleModule, "__init__", ask)
        with pytest.raises(Asked):
            module.main()
    else:
        asked = python(f"action.{name}").ActionModule.ARGUMENTS
    documentation = yaml.safe_load(module.DOCUMENTATION)
    documented = documentation.get("options", {})
    if "extends_documentation_fragment" in documentation:
        _, _, fragment = documentation["extends_documentation_fragment"].rpartition(".")
        documented |= yaml.safe_load(python(f"doc_fragments.{fragment}").ModuleDocFragment.DOCUMENTATION)["options"]
    assert facets(documented, "suboptions") == facets(asked, "options")


def facets(options: dict[str, dict[str, Any]], inner: str) -> dict[str, Any]:
    found = {}
    for name, option in options.items():
        found[name] = {facet: option.get(facet, default) for facet, default in FACETS.items()}
        found[name]["suboptions"] = facets(option.get(inner, {}), inner)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_module_has_examples_of_itself(name: str) -> None:
    module = python(f"modules.{name}")
    assert yaml.safe_load(module.DOCUMENTATION)["module"] == name
    assert any(f"dicom.orthanc.{name}" in task for task in yaml.safe_load(module.EXAMPLES))


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


def test_each_document_is_found_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150, "what a reader needs later has its place in docs/"
    assert not [name for name in names("docs/", suffix=".md") if f"]({name})" not in text]

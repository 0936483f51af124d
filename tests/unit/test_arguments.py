"""What the modules take: as their documentation says, masked where it is a secret, and in check mode too."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.plugins.loader import fragment_loader
from ansible.utils.plugin_docs import get_docstring

from tests.repository import ROOT

MODULES = sorted(path.stem for path in ROOT.glob("plugins/modules/*.py"))
# How documentation and argument spec call the same thing.
FACETS: dict[str, Any] = {
    "type": "str",
    "elements": None,
    "default": None,
    "required": False,
    "choices": None,
    "suboptions": {},
}
# What no output and no log may show.
FILES = {"files.secret"}
ENTRY = {"certificate_key_password", "http_headers", "password", "url_password"}
SECRETS = {
    "database_check": {"password"},
    "database_login": {"passwords"},
    "database_service": FILES,
    "nginx_service": FILES,
    "orthanc_import": {"password", "from_password", "patients"},
    "orthanc_service": FILES,
    "postgresql_databases": {"passwords"},
    "orthanc_dicomweb_server": ENTRY,
    "orthanc_modality": {"url_password"},
    "orthanc_peer": ENTRY,
    "write_files": FILES,
}


class Asked(Exception):
    """Ends a module as soon as it has told its arguments."""


def python(name: str) -> Any:
    return importlib.import_module(f"ansible_collections.dicom.orthanc.plugins.{name}")


def documentation(name: str) -> dict[str, Any]:
    """Return what a module says of itself, with the fragments that it shares with others, as Ansible reads it."""
    file = python(f"modules.{name}").__file__
    found = get_docstring(file, fragment_loader, collection_name="dicom.orthanc", plugin_type="module")[0]
    return {"options": {}} | dict(found)


def asked(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what a module tells Ansible of itself. One without a program documents an action."""
    module, told = python(f"modules.{name}"), dict[str, Any]()
    if not hasattr(module, "main"):
        return {"argument_spec": python(f"action.{name}").ActionModule.ARGUMENTS}

    def ask(_module: Any, **options: Any) -> None:
        told.update(options)
        raise Asked

    monkeypatch.setattr(basic.AnsibleModule, "__init__", ask)
    with pytest.raises(Asked):
        module.main()
    return told


def facets(options: dict[str, dict[str, Any]], inner: str) -> dict[str, Any]:
    found = {}
    for name, option in options.items():
        found[name] = {facet: option.get(facet, default) for facet, default in FACETS.items()}
        found[name]["suboptions"] = facets(option.get(inner, {}), inner)
    return found


def secrets(spec: dict[str, dict[str, Any]], above: str = "") -> Iterator[str]:
    for name, option in spec.items():
        if option.get("no_log"):
            yield above + name
        yield from secrets(option.get("options", {}), f"{above}{name}.")


@pytest.mark.parametrize("name", MODULES)
def test_documented_options_are_the_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = asked(name, monkeypatch)["argument_spec"]
    assert facets(documentation(name)["options"], "suboptions") == facets(spec, "options")


@pytest.mark.parametrize("name", MODULES)
def test_secrets_are_masked_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is masked, no message can speak."""
    assert set(secrets(asked(name, monkeypatch)["argument_spec"])) == SECRETS.get(name, set())


@pytest.mark.parametrize("name", MODULES)
def test_check_mode_is_known_where_it_is_documented(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible skips a module that does not know it, and the dry run would tell of no change."""
    told = asked(name, monkeypatch)
    full = documentation(name)["attributes"]["check_mode"]["support"] == "full"
    assert told.get("supports_check_mode", full) == full

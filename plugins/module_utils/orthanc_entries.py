# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running Orthanc knows of others (modalities, peers and DICOMweb servers), by its REST API."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import fetch_url, url_argument_spec

NAME = re.compile(r"[A-Za-z0-9_-]+")
# What Orthanc keeps to itself. Of headers it tells the names.
SECRETS = ("Password", "CertificateKeyFile", "CertificateKeyPassword")
# Of one that is reached by HTTP: by the modules' options, what Orthanc calls each, and what is taken for it.
WEB: dict[str, tuple[str, dict[str, Any]]] = {
    "address": ("Url", {"type": "str"}),
    "username": ("Username", {"type": "str"}),
    "password": ("Password", {"type": "str", "no_log": True}),
    "http_headers": ("HttpHeaders", {"type": "dict", "no_log": True}),
    "certificate_file": ("CertificateFile", {"type": "path"}),
    "certificate_key_file": ("CertificateKeyFile", {"type": "path", "no_log": False}),
    "certificate_key_password": ("CertificateKeyPassword", {"type": "str", "no_log": True}),
}


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the fields that an entry does not have as wanted, of those that Orthanc tells."""
    return [name for name, value in wanted.items() if name not in SECRETS and not _same(found.get(name), value)]


def _same(told: Any, value: Any) -> bool:
    if isinstance(told, list) and isinstance(value, Mapping):
        return sorted(told) == sorted(value)
    # The plugin for DICOMweb keeps its own fields as texts.
    if isinstance(told, str) and isinstance(value, (bool, int)):
        return told == str(int(value))
    return bool(told == value) or (told in (None, "") and value == "")


class Entries:
    """The entries of one kind in an Orthanc that runs."""

    def __init__(self, module: AnsibleModule, path: str) -> None:
        self._module, self._url = module, f"{module.params['url'].rstrip('/')}/{path.strip('/')}"

    def find(self, name: str) -> dict[str, Any] | None:
        """Return what Orthanc tells of an entry."""
        entries = json.loads(self._ask("GET", "?expand"))
        found: dict[str, Any] | None = entries.get(name) if isinstance(entries, dict) else None
        return found

    def put(self, name: str, entry: Mapping[str, Any]) -> None:
        self._ask("PUT", f"/{name}", json.dumps(entry))

    def delete(self, name: str) -> None:
        self._ask("DELETE", f"/{name}")

    def _ask(self, method: str, path: str, body: str | None = None) -> str:
        params = self._module.params
        url = f"{self._url}{path}"
        answer, info = fetch_url(
            self._module, url, data=body, method=method, ca_path=params["ca_path"], headers={"Expect": ""}, timeout=30
        )
        if info["status"] != 200:
            try:
                details = json.loads(info.get("body") or "{}")
                said = details.get("Details") or details.get("Message") or ""
            except (ValueError, AttributeError):
                said = ""
            self._module.fail_json(f"{method} {url}: {' '.join(filter(None, (info['msg'], said)))}")
        text = str(answer.read().decode())
        if method == "GET" and not text.startswith("{"):
            self._module.fail_json(f"{method} {url}: this is no Orthanc, or one without the plugin for it.")
        return text


def run(path: str, fields: Mapping[str, tuple[str, dict[str, Any]]], needed: tuple[str, ...]) -> None:
    """Run a module that has one entry there, or has none.

    :param path: of the entries of that kind, below the URL of Orthanc.
    :param fields: by the module's options: what Orthanc calls each, and what the module takes for it.
    :param needed: the options without which there can be no entry.
    """
    secret = any(field in SECRETS for field, _argument in fields.values())
    module = AnsibleModule(
        argument_spec=url_argument_spec()
        | {
            "url": {"type": "str", "required": True},
            "ca_path": {"type": "path"},
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "options": {"type": "dict", "default": {}},
        }
        | ({"update_secrets": {"type": "bool", "default": False, "no_log": False}} if secret else {})
        | {option: argument for option, (_field, argument) in fields.items()},
        supports_check_mode=True,
    )
    params = module.params
    params["force_basic_auth"] = True
    given = {field: params[option] for option, (field, _argument) in fields.items() if params[option] is not None}
    if "@" in params["url"]:
        module.fail_json("url: it has no login; give url_username and url_password.")
    if not NAME.fullmatch(params["name"]):
        module.fail_json(f"name: '{params['name']}' has something else than letters, digits, '-' and '_'.")
    # Where they are given otherwise, secrets are not masked.
    for field in sorted({field for field, _argument in fields.values()} & params["options"].keys()):
        module.fail_json(f"options: {field} has an option of its own.")
    # As Orthanc keeps it.
    if "Url" in given:
        given["Url"] = f"{given['Url'].rstrip('/')}/"
    entries, wanted = Entries(module, path), given | params["options"]
    found = entries.find(params["name"])
    missing = [option for option in needed if fields[option][0] not in wanted]
    if params["state"] == "present" and found is None and missing:
        module.fail_json(f"{params['name']}: Orthanc does not know it yet; give {', '.join(missing)}.")
    if params["state"] == "absent":
        after, changed = {}, found is not None
    else:
        hidden = params.get("update_secrets") and _hidden(wanted)
        after, changed = wanted, found is None or bool(differing(found, wanted) or hidden)
        if found and changed:
            lost = sorted(_hidden(found) - wanted.keys())
            if lost:
                module.fail_json(
                    f"{params['name']}: Orthanc does not tell what it has of {', '.join(lost)}; give it too."
                )
            # Of headers it has told the names alone: there are none, or they are given.
            told = {field: value for field, value in found.items() if value is not None and field != "HttpHeaders"}
            after = told | wanted
    if changed and not module.check_mode:
        if after:
            entries.put(params["name"], after)
            lost = differing(entries.find(params["name"]) or {}, wanted)
            if lost:
                module.fail_json(
                    f"{params['name']}: Orthanc has it now, but not with {', '.join(lost)} as given: there is no such"
                    " field, not in this release, or it takes no such value."
                )
        else:
            entries.delete(params["name"])
    before, now = (_shown(entry) for entry in (found or {}, after if changed else found or {}))
    module.exit_json(changed=changed, entry=now, diff={"before": before, "after": now})


def _hidden(entry: Mapping[str, Any]) -> set[str]:
    """Return the fields of an entry that Orthanc keeps to itself."""
    return {field for field in (*SECRETS, "HttpHeaders") if entry.get(field) or (field in SECRETS and field in entry)}


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an entry may be seen."""
    names = {"HttpHeaders": sorted(entry["HttpHeaders"])} if "HttpHeaders" in entry else {}
    return {field: value for field, value in sorted(entry.items()) if field not in SECRETS} | names

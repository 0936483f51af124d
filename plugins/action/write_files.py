# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render the templates of a role, then run the module of this name, which writes its files."""

from __future__ import annotations

import gc
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

# What a template is rendered to.
RENDERED = {"template": "content", "secret_template": "secret"}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible carries no types
    """Renders on the control node: all templates with one set of variables, which each lookup would copy anew."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        # This process ends with the task, and would look for garbage in all that Ansible has loaded.
        gc.disable()
        given = {"ansible_managed": "Ansible managed"} | (task_vars or {})
        super().run(tmp, given)
        arguments = dict(self._task.args)
        known = given | arguments.pop("template_vars", {})
        templar = self._templar.copy_with_new_env(available_variables=known)
        for name in arguments.pop("once", []):
            known |= {name: templar.template(known[name])}
            templar.available_variables = known
        arguments |= {option: templar.template(known[name]) for option, name in arguments.pop("by_name", {}).items()}
        arguments["files"] = [self._file(templar, dict(file)) for file in arguments.get("files", [])]
        return dict(self._execute_module(self._task.action, arguments, task_vars=given))

    def _file(self, templar: Any, file: dict[str, Any]) -> dict[str, Any]:
        """Return a file as the module takes it."""
        if "item" in file:
            known = {**templar.available_variables, "item": file.pop("item")}
            templar = templar.copy_with_new_env(available_variables=known)
        return {RENDERED.get(name, name): self._render(templar, name, value) for name, value in file.items()}

    def _render(self, templar: Any, name: str, value: Any) -> Any:
        """Return the value of an option as the module takes it."""
        if name not in RENDERED:
            return value
        text = self._loader.get_text_file_contents(self._find_needle("templates", value))
        # As the template module does it: a backslash is a backslash.
        return str(templar.template(trust_as_template(text), escape_backslashes=False))

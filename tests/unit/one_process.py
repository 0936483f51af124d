"""The preflight as a run calls it for one host after another, without the start of a program for each."""

from __future__ import annotations

import gc
import pathlib
from collections.abc import Mapping
from typing import Any

import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook import Playbook
from ansible.playbook.play_context import PlayContext
from ansible.plugins import loader as plugins
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

from tests.repository import ROOT


class Site:
    """An inventory, and the first task of a playbook, which is the preflight."""

    def __init__(self, folder: pathlib.Path, inventory: Mapping[str, Any], playbook: str = "site") -> None:
        path = folder / "hosts.yml"
        path.write_text(yaml.safe_dump(inventory), encoding="utf-8")
        self._loader = DataLoader()
        self._loader.set_basedir(str(ROOT / "playbooks"))
        self._inventory = InventoryManager(loader=self._loader, sources=[str(path)])
        self._manager = VariableManager(loader=self._loader, inventory=self._inventory)
        # Makes itself known to the manager.
        HostVars(self._inventory, self._manager, self._loader)
        file = str(ROOT / "playbooks" / f"{playbook}.yml")
        self._play = Playbook.load(file, variable_manager=self._manager, loader=self._loader).get_plays()[0]
        self._task = self._play.get_tasks()[0][0]

    def preflight(self, name: str, on: str = "", **variables: Any) -> dict[str, Any]:
        """Return what is said of a host that has some variables besides its own, or while another one has them."""
        host, other = (self._inventory.get_host(known) for known in (name, on or name))
        before = dict(other.vars)
        other.vars.update(trusted(variables))
        try:
            seen = self._manager.get_vars(play=self._play, host=host, task=self._task)
            context, templar = PlayContext(play=self._play), Templar(loader=self._loader, variables=seen)
            # What is between a playbook and its action differs from release to release of Ansible; this does not.
            action = plugins.action_loader.get(
                self._task.action,
                task=self._task,
                connection=plugins.connection_loader.get("local", context),
                play_context=context,
                loader=self._loader,
                templar=templar,
                shared_loader_obj=plugins,
            )
            return dict(action.run(task_vars=seen))
        finally:
            other.vars = before
            # The action turns it off, since its process ends with it.
            gc.enable()


def trusted(value: Any) -> Any:
    """Return a value with the templates in it as an inventory has them."""
    if isinstance(value, dict):
        return {key: trusted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [trusted(inner) for inner in value]
    return trust_as_template(value) if isinstance(value, str) else value

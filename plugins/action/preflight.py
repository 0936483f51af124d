# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the variables of a host and the host itself; documented in plugins/modules/preflight.py."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.dicom.orthanc.plugins.plugin_utils import preflight
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general, secrets, values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host

ROOT = preflight.ROOT


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Return an exception, and what it comes from."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible carries no types
    """Runs on the control node, and on the host once, to read what it brings."""

    TRANSFERS_FILES = False
    ARGUMENTS: ClassVar = {"reach": {"type": "bool", "default": True}, "role": {"type": "str", "default": ""}}
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        # This process ends with the task, and would look for garbage in all that Ansible has loaded.
        gc.disable()
        self._variables: dict[str, Any] = task_vars or {}
        result: dict[str, Any] = super().run(tmp, self._variables)
        _, arguments = self.validate_argument_spec(self.ARGUMENTS)
        options = {role: self._options(role) for role in preflight.ROLES}
        texts = self._texts()
        host = Host(
            roles=[role for role in preflight.ROLES if role in [*self._variables["group_names"], arguments["role"]]],
            variables={},
            internal=lambda role, name: self._internal(host, role, name),
            site=lambda name: self._templar.template(self._variables[name]),
            groups=self._variables["groups"],
            name=self._variables["inventory_hostname"],
            inventory=self._inventory(),
            plain_secrets=frozenset().union(*map(secrets.plain, texts)),
        )
        wrong = self._read(host, options)
        problems = [*self._names(options, texts)]
        problems += [] if arguments["role"] else [*self._groups(host), *self._unread()]
        for role in host.roles:
            problems += preflight.ask(role, "inventory", host, ())
        if arguments["reach"] and not problems + wrong:
            asked = [preflight.ask(role, "look", host, {}) for role in host.constants]
            look = {key: value for options in asked for key, value in options.items()}
            begin = time.time()
            try:
                probe = self._execute_module("dicom.orthanc.site_probe", look, task_vars=self._variables)
            except AnsibleConnectionFailure as error:
                ways = [preflight.ask(role, "away", host, "") for role in host.roles]
                said = " ".join(filter(None, [str(error), "Nothing was changed.", *ways]))
                # Ansible would say the cause once more.
                raise AnsibleConnectionFailure(said) from None
            end = time.time()
            if probe.get("failed") or probe.get("unreachable"):
                return self._not_reached(dict(probe))
            # By so many seconds at least the clock of the host is not that of this machine.
            clock = probe.get("clock", begin)
            host.probe = probe | {"clock_off": clock - min(max(clock, begin), end)}
        # What is not what its spec says cannot be looked at more closely.
        problems += wrong or general.problems(host)
        warnings: list[str] = []
        for role in [] if wrong else host.roles:
            refused, told = preflight.ask(role, "risks", host, ((), ()))
            problems += refused
            warnings += told
        result["warnings"] = warnings if problems else [*warnings, *general.notices(host)]
        if problems:
            lines = "".join(f"\n- {general.told(problem)}" for problem in dict.fromkeys(problems))
            result.update(failed=True, msg=f"Nothing was changed. The inventory is wrong for host {host.name}:{lines}")
        elif host.probe:
            result["found"] = self._found(host)
            result["expected"] = self._expected(host, result["found"])
        result["changed"] = False
        return result

    def _read(self, host: Host, options: Mapping[str, Any]) -> list[str]:
        """Evaluate the variables of all roles that the host has, and return what is wrong with their types."""
        wrong: list[str] = []
        doubtful: list[str] = []
        values: dict[str, Any] = {}
        constants: dict[str, Any] = {}
        host.variables, host.constants = values, constants

        def read(role: str, spec: Mapping[str, Any]) -> None:
            found, failed = self._evaluate(role, spec)
            known = {name: option for name, option in spec.items() if name not in failed}
            mistakes = [*itertools.chain(*failed.values()), *general.arguments(known, found)]
            wrong.extend(mistakes)
            values.update(found)
            constants[role] = self._constants(role, {} if mistakes else values)
            # Some bring others along, which the loop below comes to.
            for other in () if mistakes else preflight.ask(role, "comes_with", host, ()):
                if other not in host.roles:
                    host.roles.append(other)

        def of(role: str) -> Callable[[str], bool] | None:
            everything: Callable[[str], bool] | None = (lambda _name: True) if role in host.roles else None
            part: Callable[[str], bool] | None = preflight.ask(role, "part", host, everything)
            return part

        for role in host.roles:
            part = of(role)
            if part:
                read(role, {name: option for name, option in options[role].items() if part(name)})
        # Of some a host has a part without being in their group; and other hosts may read what it sets of the rest.
        for role in preflight.ROLES:
            part = None if role in constants else of(role)
            if part:
                read(role, {name: option for name, option in options[role].items() if part(name)})
        for role in preflight.ROLES:
            if role not in constants:
                mistakes, undefined = self._elsewhere(role, options[role])
                wrong += mistakes
                doubtful += undefined
        # What the inventory does not set is wrong by something else, here or on another host.
        return self._once(self._set(wrong) or self._set(doubtful if wrong else []) or wrong)

    def _set(self, sentences: list[str]) -> list[str]:
        """Return the sentences about variables that the inventory sets for this host."""
        return [sentence for sentence in sentences if re.match(r"\w*", sentence)[0] in self._variables]  # type: ignore[index]

    def _once(self, wrong: list[str]) -> list[str]:
        """Tell of each missing secret once, by a variable of the inventory rather than by a derived one."""
        told: dict[str, str] = {}
        for sentence in wrong:
            found = re.match(r"(\w+): it needs (vault_\w+),", sentence)
            key = found[2] if found else sentence
            if key not in told or (found and found[1] in self._variables):
                told[key] = sentence
        return list(told.values())

    def _names(self, options: Mapping[str, Any], texts: list[str]) -> Iterator[str]:
        """Find misspelled names, and derived ones in the inventory's files, which would be overridden in silence."""
        derived = set(self._load(ROOT / "playbooks" / "group_vars" / "all.yml"))
        given = {name for name in self._variables if not name.startswith(("ansible_", "vault_", "lab_", "__"))}
        known = {name for spec in options.values() for name in spec} | derived
        yield from general.misspelled(given, known, set(), {f"{role}_" for role in options})
        written = {name for text in texts for name in re.findall(r"(?m)^\s*(site_\w+)\s*:", text)}
        yield from general.misspelled(written, set(), derived, set())

    def _groups(self, host: Host) -> Iterator[str]:
        """See whether there is something to do."""
        served = [name for name in preflight.served() if name in host.groups]
        played = self._variables.get("ansible_play_hosts_all", [])
        if not any(name in host.groups[group] for group in served for name in played):
            yield (
                "no host of this run is in a group of the toolkit, so nothing would be done; see --limit, and the names"
                f" of the groups in the inventory, which has {', '.join(served) or 'none of them'}."
            )

    def _unread(self) -> Iterator[str]:
        """Find files of variables that Ansible passes over for a folder of that name, as one of ``make secrets``."""
        for source in map(pathlib.Path, self._variables.get("ansible_inventory_sources") or []):
            base = source if source.is_dir() else source.parent
            for path in sorted([*base.glob("group_vars/*.*"), *base.glob("host_vars/*.*")]):
                folder = path.with_suffix("")
                if path.suffix in constants.YAML_FILENAME_EXTENSIONS and path.is_file() and folder.is_dir():
                    yield (
                        f"{os.path.relpath(path)}: Ansible does not read it, since there is a folder {folder.name}"
                        f" beside it; move it to {os.path.relpath(folder / 'main.yml')}."
                    )

    @staticmethod
    def _not_reached(probe: dict[str, Any]) -> dict[str, Any]:
        """Say what the host's sudo wants, if that is why nothing has come back."""
        said = str(probe.get("module_stderr", "")).strip()
        if "deserialization" in str(probe.get("msg", "")) and said:
            way = " Set ansible_pipelining to false for this host." if "tty" in said or "terminal" in said else ""
            last = said.splitlines()[-1]
            probe["msg"] = f"Nothing was changed. The host refuses what is to be run there: {last}{way}"
        return probe

    def _elsewhere(self, role: str, options: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Look at what the inventory sets of a role that this host does not have: other hosts may read it.

        :return: what is wrong, and what is if nothing but this host has what is not defined here.
        """
        given = {name: option for name, option in options.items() if name in self._variables}
        found, failed = self._evaluate(role, given)
        said = list(itertools.chain(*failed.values()))
        undefined = [text for text in said if re.search(r"\b(undefined|not defined)\b", text)]
        wrong = [text for text in said if text not in undefined]
        wrong += general.arguments({name: given[name] for name in found}, found)
        return wrong or general.numbers(Host(roles=[], variables=found)), undefined

    def _load(self, path: pathlib.Path) -> dict[str, Any]:
        """Load a file of the collection; the loader keeps it for all hosts, with its templates trusted or not."""
        # "Unsafe" is what it keeps itself, which nobody changes here: to copy it all takes longer than to check it.
        loaded: dict[str, Any] = self._loader.load_from_file(str(path), unsafe=True, trusted_as_template=True) or {}
        return loaded

    def _options(self, role: str) -> dict[str, Any]:
        spec: dict[str, Any] = self._load(ROOT / "roles" / role / "meta" / "argument_specs.yml")
        options: dict[str, Any] = spec["argument_specs"]["main"].get("options", {})
        return options

    def _constants(self, role: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what stands in the folder vars of a role, that of its install method included."""
        folder = ROOT / "roles" / role / "vars"
        files = [folder / "main.yml", *sorted(folder.glob("main/*.yml"))]
        if f"{role}_install_method" in values:
            files.append(folder / f"{values[f'{role}_install_method']}.yml")
        return {name: value for file in files if file.exists() for name, value in self._load(file).items()}

    def _texts(self) -> list[str]:
        """Return the texts of the inventory's files."""
        files = {
            file
            for source in map(pathlib.Path, self._variables.get("ansible_inventory_sources") or [])
            for folder in [source if source.is_dir() else source.parent]
            for file in [*folder.glob("*_vars/**/*"), *([source] if source.is_file() else folder.glob("*"))]
            if os.access(file, os.R_OK)
            and file.is_file()
            and file.suffix in ("", ".yml", ".yaml", ".json")
            and not file.name.startswith(".")
        }
        return [file.read_text("utf-8", errors="replace") for file in sorted(files)]

    def _evaluate(self, role: str, spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """Template the role's variables as the role would see them, and tell why some of them cannot be."""
        file = ROOT / "roles" / role / "defaults" / "main.yml"
        defaults = self._load(file) if file.exists() else {}
        found: dict[str, Any] = {}
        failed: dict[str, list[str]] = {}
        templar = self._templar.copy_with_new_env(available_variables={**defaults, **self._variables})
        for name in spec:
            if name not in self._variables and name not in defaults:
                continue
            try:
                found[name] = templar.template(self._variables.get(name, defaults.get(name)))
                if spec[name]["type"] == "bool":
                    # As the roles read it: the text "false" is no truth. What is neither is told by its type.
                    with contextlib.suppress(TypeError):
                        found[name] = boolean(found[name])
            except AnsibleError as error:
                secret = re.search(r"\bvault_\w+", str(error))
                several = next((one.problems for one in _causes(error) if isinstance(one, values.Wrong)), ())
                if several:
                    failed[name] = [f"{name}: {problem}" for problem in several]
                elif not secret:
                    failed[name] = [f"{name}: it cannot be evaluated: {str(error).rstrip('.')}."]
                else:
                    inventory = self._inventory()
                    # Nobody else can make the key of a certificate.
                    own = f"add it with `ansible-vault edit {inventory}/group_vars/all/vault.yml`"
                    way = own if secret[0].endswith("_private_key") else f"run `make secrets INVENTORY={inventory}`"
                    failed[name] = [f"{name}: it needs {secret[0]}, which is not defined; {way}."]
        return found, failed

    def _internal(self, host: Host, role: str, name: str, found: Mapping[str, Any] | None = None) -> Any:
        """Evaluate an internal variable of a role as the role would see it; nothing if it has no such variable."""
        constants = host.constants[role]
        if name not in constants:
            return None
        seen = {"__site_preflight": {"found": found}} if found else {}
        available = {**host.variables, **self._variables, **constants, **seen}
        return self._templar.copy_with_new_env(available_variables=available).template(constants[name])

    @staticmethod
    def _found(host: Host) -> dict[str, Any]:
        """Return what was seen of the host, so that no role has to ask again, which costs half a second for each."""
        probe: Mapping[str, Any] = host.probe or {}
        names = ("packages", "services", "masked", "apt_lists", "apt_upstream", "policy", "ipv6", "clock_off")
        found = {name: probe[name] for name in names}
        found["release"] = f"{probe['distribution']}-{probe['release']}"
        for role in host.constants:
            found |= preflight.ask(role, "found", host, {})
        return found

    def _expected(self, host: Host, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return what playbooks/site.yml is going to install in one go, and what of it is not to start until then."""
        wanted = {
            package
            for role in host.constants
            for name in [preflight.ask(role, "packages", host, "")]
            for package in (self._internal(host, role, name, found) if name else ())
        }
        missing = sorted(wanted - set(found["packages"]))
        masked = {unit: path for role in host.constants for unit, path in preflight.of(role, "MASKED", {}).items()}
        expected: dict[str, Any] = {
            "packages": missing,
            "masked": {f"/etc/systemd/system/{unit}.service": path for unit, path in masked.items() if unit in missing},
        }
        for role in host.constants:
            expected |= preflight.ask(role, "expected", host, {})
        return expected

    def _inventory(self) -> str:
        sources = self._variables.get("ansible_inventory_sources") or ["inventories/<site>"]
        path = pathlib.Path(sources[0])
        return os.path.relpath(path.parent if path.is_file() else path)

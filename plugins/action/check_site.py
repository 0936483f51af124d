# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the variables of a host and the host itself; documented in plugins/modules/check_site.py."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.dicom.orthanc.plugins.plugin_utils import security_check, site_check

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The roles whose packages playbooks/site.yml installs in one go. Those of the databases hold the inventory
# against the host themselves before they change it.
INSTALLED_TOGETHER = ("orthanc", "docker_engine", "nginx")
RELAY = "nginx_relay_"


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible carries no types
    """Runs on the control node, and on the host once, to read what it brings."""

    TRANSFERS_FILES = False
    ARGUMENTS: ClassVar = {"reach": {"type": "bool", "default": True}}
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables: dict[str, Any] = task_vars or {}
        self._missing: set[str] = set()
        result: dict[str, Any] = super().run(tmp, variables)
        _, arguments = self.validate_argument_spec(self.ARGUMENTS)
        specs = {path.parts[-3]: self._load(path) for path in ROOT.glob("roles/*/meta/argument_specs.yml")}
        options = {role: spec["argument_specs"]["main"]["options"] for role, spec in specs.items()}
        roles = [role for role in options if role in variables["group_names"]]
        if "orthanc" in roles:
            roles.append("verification")
            # The method brings the engine along, whatever the groups are.
            method, _ = self._evaluate("orthanc", {"orthanc_install_method": {}}, variables)
            if method.get("orthanc_install_method") == "docker" and "docker_engine" not in roles:
                roles.append("docker_engine")

        problems = list(
            site_check.misspelled(
                {name for name in variables if not name.startswith(("ansible_", "vault_", "lab_", "__"))},
                {name for spec in options.values() for name in spec} | self._derived(),
                set(),
                {f"{role}_" for role in options},
            )
        ) + self._set_by_inventory(variables)
        problems += self._groups(roles, variables)

        values: dict[str, Any] = {}
        wrong: list[str] = []
        relayed = "orthanc" in roles and self._templar.template(variables["site_relayed"])
        # Of the role nginx a host has the site, or the relay for a proxy elsewhere.
        parts = [*roles, "nginx"] if relayed else roles
        for role in parts:
            relay = relayed and role == "nginx"
            spec = {name: option for name, option in options[role].items() if name.startswith(RELAY) == relay}
            found, failed = self._evaluate(role, spec, variables)
            wrong += failed or site_check.arguments(spec, found)
            values |= found
        elsewhere = self._elsewhere(set(options) - set(parts), options, variables)
        wrong += elsewhere
        if "nginx" in roles and not wrong:
            upstream = values["nginx_upstream_server"], self._templar.template(variables["site_upstream_proxy"])
            problems += site_check.proxies(variables["inventory_hostname"], *upstream)
        if "orthanc" in roles:
            groups = variables["groups"]
            elsewhere = [name for name in groups.get("nginx", []) if name not in groups["orthanc"]]
            proxy = str(self._templar.template(variables["site_proxy"]))
            problems += site_check.unproxied(variables["inventory_hostname"], proxy, elsewhere)
        host = self._host(roles, values)
        host.inventory = self._inventory(variables)
        host.plain_secrets = frozenset().union(*map(security_check.plain_secrets, self._texts(variables)))
        if arguments["reach"] and not problems + wrong:
            server = (values["orthanc_database_host"], values["orthanc_database_port"]) if host.foreign_database else ()
            probe = self._execute_module(
                "dicom.orthanc.site_probe",
                {
                    "storage_dir": values.get("orthanc_storage_dir", "/var/lib"),
                    "config_dir": values.get("orthanc_config_dir", "/etc/pacs/orthanc"),
                    "database": values["orthanc_database"] if values.get("orthanc_database_index") else "sqlite",
                    "files": values["orthanc_database"] if values.get("orthanc_database_storage") else "",
                    "database_host": values.get("orthanc_database_host", "127.0.0.1"),
                    "database_name": values.get("orthanc_database_name", "orthanc"),
                    "server": list(map(str, server)),
                    "program": self._program(roles, values, variables),
                    "engine": "docker_engine" in roles,
                    "offers": bool(values.get("orthanc_version")) and values.get("orthanc_install_method") == "apt",
                    "index_dir": values.get("orthanc_index_dir") or values.get("orthanc_storage_dir", "/var/lib"),
                },
                task_vars=variables,
            )
            if probe.get("failed") or probe.get("unreachable"):
                return self._not_reached(dict(probe))
            host.probe = probe
        # What is not of its type cannot be looked at more closely.
        problems += wrong or site_check.problems(host)
        if "orthanc" in roles and not wrong:
            refusals, result["warnings"] = security_check.findings(host)
            problems += refusals
        if not problems:
            result["warnings"] = [*result.get("warnings", []), *site_check.notices(host)]
        if problems:
            name = variables["inventory_hostname"]
            lines = "".join(f"\n- {problem}" for problem in dict.fromkeys(problems))
            result.update(failed=True, msg=f"Nothing was changed. The inventory is wrong for host {name}:{lines}")
        elif host.probe:
            result["ansible_facts"] = self._facts(parts, values, variables, host)
        result["changed"] = False
        return result

    @staticmethod
    def _groups(roles: list[str], variables: dict[str, Any]) -> list[str]:
        """See whether there is something to do, and whether a proxy has something behind it."""
        groups, hosts = variables["groups"], variables.get("ansible_play_hosts_all", [])
        served = [name for name in groups if (ROOT / "playbooks" / f"{name}.yml").exists()]
        problems = []
        if not any(host in groups[name] for name in served for host in hosts):
            problems.append(
                "no host of this run is in a group of the toolkit, so nothing would be done; see --limit, and the names"
                f" of the groups in the inventory, which has {', '.join(served) or 'none of them'}."
            )
        if "nginx" in roles and not groups.get("orthanc"):
            problems.append("the group nginx has this host, and the group orthanc is empty: nothing to serve.")
        return problems

    @staticmethod
    def _not_reached(probe: dict[str, Any]) -> dict[str, Any]:
        """Say what the host's sudo wants, if that is why nothing has come back."""
        said = str(probe.get("module_stderr", "")).strip()
        if "deserialization" in str(probe.get("msg", "")) and said:
            way = " Set ansible_pipelining to false for this host." if "tty" in said or "terminal" in said else ""
            last = said.splitlines()[-1]
            probe["msg"] = f"Nothing was changed. The host refuses what is to be run there: {last}{way}"
        return probe

    def _elsewhere(self, roles: set[str], options: dict[str, Any], variables: dict[str, Any]) -> list[str]:
        """Look at what the inventory sets of roles that this host does not have: other hosts may read it."""
        problems: list[str] = []
        for role in sorted(roles):
            given = {name: option for name, option in options[role].items() if name in variables}
            found, _ = self._evaluate(role, given, variables)
            wrong = list(site_check.arguments({name: given[name] for name in found}, found))
            problems += wrong or site_check.numbers(site_check.Host(roles=[], variables=found))
        return problems

    def _load(self, path: pathlib.Path) -> dict[str, Any]:
        """Load a file of the collection; the loader keeps it for all hosts, with its templates trusted or not."""
        # "Unsafe" is what it keeps itself, which nobody changes here: to copy it all takes longer than to check it.
        loaded: dict[str, Any] = self._loader.load_from_file(str(path), unsafe=True, trusted_as_template=True) or {}
        return loaded

    def _derived(self) -> set[str]:
        return set(self._load(ROOT / "playbooks" / "group_vars" / "all.yml"))

    def _set_by_inventory(self, variables: dict[str, Any]) -> list[str]:
        """Find derived names in the inventory's files, where they would be overridden in silence."""
        names = {name for text in self._texts(variables) for name in re.findall(r"(?m)^\s*(site_\w+)\s*:", text)}
        return list(site_check.misspelled(names, set(), self._derived(), set()))

    @staticmethod
    def _texts(variables: dict[str, Any]) -> list[str]:
        """Return the texts of the inventory's files."""
        files = {
            file
            for source in map(pathlib.Path, variables.get("ansible_inventory_sources") or [])
            for folder in [source if source.is_dir() else source.parent]
            for file in [*folder.glob("*_vars/**/*"), *([source] if source.is_file() else folder.glob("*"))]
            if os.access(file, os.R_OK)
            and file.is_file()
            and file.suffix in ("", ".yml", ".yaml", ".json")
            and not file.name.startswith(".")
        }
        return [file.read_text("utf-8", errors="replace") for file in sorted(files)]

    def _evaluate(self, role: str, spec: dict[str, Any], variables: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Template the role's variables as the role would see them."""
        defaults = self._load(ROOT / "roles" / role / "defaults" / "main.yml")
        values: dict[str, Any] = {}
        failed: list[str] = []
        templar = self._templar.copy_with_new_env(available_variables={**defaults, **variables})
        for name in spec:
            if name not in variables and name not in defaults:
                continue
            try:
                values[name] = templar.template(variables.get(name, defaults.get(name)))
            except AnsibleError as error:
                secret = re.search(r"\bvault_\w+", str(error))
                if not secret:
                    failed.append(f"{name}: it cannot be evaluated: {error}.")
                elif secret[0] not in self._missing:
                    self._missing.add(secret[0])
                    inventory = self._inventory(variables)
                    # Nobody else can make the key of a certificate.
                    own = f"add it with `ansible-vault edit {inventory}/group_vars/all/vault.yml`"
                    way = own if secret[0].endswith("_private_key") else f"run `make secrets INVENTORY={inventory}`"
                    failed.append(f"{name}: it needs {secret[0]}, which is not defined; {way}.")
        return values, failed

    def _facts(
        self, roles: list[str], values: dict[str, Any], variables: dict[str, Any], host: site_check.Host
    ) -> dict[str, Any]:
        """Return what was seen of the host, so that no role has to ask again, which costs half a second for each."""
        probe: Mapping[str, Any] = host.probe or {}
        facts = {"pacs_release": f"{probe['distribution']}-{probe['release']}", "pacs_packages": probe["packages"]}
        variables["ansible_facts"] = variables.get("ansible_facts", {}) | facts
        missing = sorted(self._packages(roles, values, variables) - set(probe["packages"]))
        return facts | {
            "pacs_services": probe["services"],
            "pacs_masked_services": probe["masked"],
            "pacs_missing_packages": missing,
            "pacs_apt_lists": probe["apt_lists"],
            "pacs_apt_upstream": probe["apt_upstream"],
            "pacs_orthanc": {"command": [self._program(roles, values, variables)], **self._binary(host, probe)},
        }

    @staticmethod
    def _binary(host: site_check.Host, probe: Mapping[str, Any]) -> dict[str, Any]:
        """Return version and options of the binary that is there, or of the one that apt is going to install."""
        offered = next(iter(probe["offered"]), "")
        if not probe["orthanc"] and host.installs_what_is_offered and offered in host.tables:
            return {"version": offered, "options": host.tables[offered], "expected": True}
        return {**probe["binary"], "expected": False}

    def _program(self, roles: list[str], values: dict[str, Any], variables: dict[str, Any]) -> str:
        """Return the path of the Orthanc binary on the host, or nothing where there is no such file."""
        if "orthanc" not in roles:
            return ""
        constants = self._load(ROOT / "roles" / "orthanc" / "vars" / f"{values['orthanc_install_method']}.yml")
        templar = self._templar.copy_with_new_env(
            available_variables={**values, **variables, **constants, "__orthanc_docker_id": ""}
        )
        command: list[str] = templar.template(constants["__orthanc_command"])
        return command[0] if command else ""

    def _packages(self, roles: list[str], values: dict[str, Any], variables: dict[str, Any]) -> set[str]:
        """Return what the roles install without looking at the host first, and without asking for a release."""
        names: set[str] = set()
        for role in roles:
            # Packages that are not just the ones on offer: apt has to be told more, in the role.
            chosen = values.get(f"{role}_version") or values.get(f"{role}_apt_source") == "upstream"
            if role in INSTALLED_TOGETHER and not (chosen and values.get(f"{role}_install_method", "apt") == "apt"):
                files = ["main"] + [values[name] for name in [f"{role}_install_method"] if name in values]
                constants: dict[str, Any] = {}
                for file in files:
                    constants |= self._load(ROOT / "roles" / role / "vars" / f"{file}.yml")
                templar = self._templar.copy_with_new_env(available_variables={**values, **variables, **constants})
                # Of the relay for a proxy elsewhere no more is known here than what it needs.
                part = "nginx_relay" if role == "nginx" and "nginx_server_name" not in values else role
                names |= set(templar.template(constants[f"__{part}_packages"]))
        return names

    @staticmethod
    def _inventory(variables: dict[str, Any]) -> str:
        sources = variables.get("ansible_inventory_sources") or ["inventories/<site>"]
        path = pathlib.Path(sources[0])
        return os.path.relpath(path.parent if path.is_file() else path)

    def _host(self, roles: list[str], values: dict[str, Any]) -> site_check.Host:
        constants = self._load(ROOT / "roles" / "orthanc" / "vars" / "main.yml")
        files = ROOT / "roles" / "orthanc" / "files"
        tables, plugin_tables = (
            json.loads((files / f"{name}_options.json").read_text("utf-8")) for name in ("known", "plugin")
        )
        return site_check.Host(
            roles=roles,
            variables=values,
            plugins=constants["__orthanc_plugins"],
            tables=tables,
            plugin_tables=plugin_tables,
            distribution_versions=constants["__orthanc_distribution_versions"],
            databases=constants["__orthanc_databases"],
            lsb_versions=constants["__orthanc_lsb_versions"],
        )

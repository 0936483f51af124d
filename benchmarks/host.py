"""One host of the lab, reached over SSH like any other, and the shipped playbook for it."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECRETS: dict[str, str] = yaml.safe_load((ROOT / "lab" / "secrets.yml").read_text(encoding="utf-8"))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(*command: str, given: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
    """Run a command and return what it printed; end with the output if it fails."""
    done = subprocess.run(
        command,
        input=given,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")} | dict(environment or {}),
        cwd=ROOT,
        capture_output=True,
        # So long that a command has to hang: a build takes half an hour on a quiet machine.
        timeout=7200,
        check=False,
    )
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace")[-6000:]
        sys.exit(f"{output}\n{shlex.join(command)} ended with {done.returncode}")
    return done.stdout


class Host:
    """The host ``pacs`` of a lab of its own.

    :param name: of the lab.
    :param inventory: the shipped one, of the folder ``inventories``.
    :param variables: what the host has beyond it; passwords at least.
    :param release: what it is made of, as in lab/lab.yml.
    :param helpers: further hosts that it has something from: name and release.
    """

    def __init__(
        self,
        name: str,
        inventory: str,
        variables: Mapping[str, Any],
        release: str = "trixie",
        helpers: Mapping[str, str] | None = None,
    ) -> None:
        self.inventory = inventory
        self.folder = ROOT / ".cache" / "lab" / name
        self.definition = {
            "lab_name": name,
            "lab_fresh": True,
            "lab_hosts": [
                # An engine needs a file system beneath its own.
                {"name": "pacs", "release": release, "volumes": ["/var/lib/docker"]},
                *({"name": helper, "release": made_of} for helper, made_of in (helpers or {}).items()),
            ],
            "lab_vars": dict(variables),
        }

    def _lab(self, playbook: str) -> None:
        run("ansible-playbook", f"lab/{playbook}.yml", "--extra-vars", json.dumps(self.definition))

    def create(self) -> None:
        self._lab("create")

    def destroy(self) -> None:
        self._lab("destroy")

    @property
    def variables(self) -> dict[str, Any]:
        """What the lab's inventory says of the host."""
        hosts = yaml.safe_load((self.folder / "hosts.yml").read_text(encoding="utf-8"))
        found: dict[str, Any] = hosts["all"]["hosts"]["pacs"]
        return found

    def run(self, script: str, given: bytes = b"") -> bytes:
        """Run a script as root on the host, over SSH like the playbook."""
        host = self.variables
        options = shlex.split(host["ansible_ssh_common_args"])
        login = f"{host['ansible_user']}@{host['ansible_host']}"
        key = host["ansible_ssh_private_key_file"]
        return run("ssh", "-i", key, *options, login, f"sudo sh -c {shlex.quote(script)}", given=given)

    def play(self, playbook: str, *arguments: str, **environment: str) -> bytes:
        """Run a playbook with the shipped inventory, over a connection that is new each time."""
        with tempfile.TemporaryDirectory() as folder:
            environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = folder
            inventories = ("--inventory", f"inventories/{self.inventory}", "--inventory", str(self.folder))
            return run("ansible-playbook", *inventories, playbook, *arguments, environment=environment)

    def deploy(self, variables: Mapping[str, Any] | None = None, **environment: str) -> bytes:
        """Run the shipped playbook on the host."""
        given = ("--limit", "pacs", "--extra-vars", json.dumps(dict(variables or {})))
        return self.play("playbooks/site.yml", *given, **environment)

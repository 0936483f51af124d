"""What the code on a host uses of Ansible's module, without a host."""

from __future__ import annotations

import getpass
import grp
import os
import subprocess
from collections.abc import Callable
from typing import Any

OWNER = {"owner": getpass.getuser(), "group": grp.getgrgid(os.getegid()).gr_name}
FILE = {
    "content": None,
    "link": None,
    "made_by": None,
    "secret": None,
    "mode": "0644",
    "validate": None,
    "unless": None,
}


class Failed(Exception):
    """The module ended, with this message, and with these results."""

    def __init__(self, message: str, **results: Any) -> None:
        super().__init__(message)
        self.results = results


class Module:
    """Runs its commands for real, unless it is given something else that does."""

    check_mode = False

    def __init__(self, run: Callable[[list[str]], tuple[int, str, str]] | None = None, **params: Any) -> None:
        given = {"folders": [], "files": [], "purge": [], "absent": [], "restart": {}} | params
        given["folders"] = [OWNER | {"mode": "0755", "marked": False} | folder for folder in given["folders"]]
        given["files"] = [OWNER | FILE | file for file in given["files"]]
        self.params = given
        self._run = run
        self.commands: list[list[str]] = []
        self.inputs: list[str] = []
        self.warnings: list[str] = []

    def fail_json(self, message: str, **results: Any) -> None:
        raise Failed(message, **results)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def run_command(self, command: list[str], data: str = "", **_options: Any) -> tuple[int, str, str]:
        self.commands.append(command)
        self.inputs.append(data)
        if self._run:
            return self._run(command)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

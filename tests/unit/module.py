"""What the code on a host uses of Ansible's module, without a host."""

from __future__ import annotations

import fcntl
import getpass
import grp
import itertools
import json
import os
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dicom.orthanc.plugins.module_utils import files

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


def run(module: Any, capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    """Run a module with arguments, as Ansible does, and return what it says."""
    by_others = locked()
    with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
        module.main()
    # All that the module had is still there, as where one process on the host runs all modules.
    assert locked() == by_others, ended
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def locked() -> bool:
    """Tell whether a module keeps others off this host."""
    if not os.access(files.LOCK, os.R_OK | os.W_OK):
        return False
    with open(files.LOCK, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def killed(call: Callable[[], Any], step: int) -> bool:
    """Have a call end before its n-th step, as a process that is killed. Tell whether it came to that."""
    child = os.fork()
    if not child:
        steps = itertools.count(1)

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def called(*words: Any, **options: Any) -> Any:
                if next(steps) == step:
                    os._exit(9)
                return real(*words, **options)

            return called

        for name in ("replace", "unlink", "fchmod", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        AnsibleModule.run_command = counted(AnsibleModule.run_command)
        try:
            call()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


# A unit with the programs of systemd: whether it is ``active`` and ``enabled``, and ``broken``, stands in files; and
# whether it is ``generated``, for a service that starts several.
SYSTEMCTL = """
cd "$(dirname "$0")"
echo "$*" >> calls
case $1 in
is-active) [ -e active ] ;;
is-system-running) [ ! -e stopping ] || { echo stopping; exit 1; } ;;
is-enabled)
    if [ -e generated ] && [ "$2" != "${2%@*}" ]; then echo enabled-runtime; else [ -e enabled ] && echo enabled; fi ;;
enable) rm -f generated; touch enabled ;;
stop) case $2 in *-trial) ;; *) rm -f active ;; esac ;;
disable) rm -f enabled ;;
start | restart | reload-or-restart)
    rm -f active
    python3 -c 'import time; print(int(1e6 * time.monotonic()))' > started
    if sh -e works; then touch active; else exit 1; fi ;;
show)
    [ -e active ] && state=active || state=failed
    [ -e enabled ] && file=enabled || file=disabled
    printf 'ActiveState=%s\nSubState=running\nUnitFileState=%s\n' $state $file
    printf 'ExecMainStartTimestampMonotonic=%s\nMainPID=%s\n' "$(cat started)" "$(cat pid)" ;;
esac
"""

# The journal is a file, of which no more lines are told than were asked for.
JOURNALCTL = r"""
number=$(echo "$*" | sed -n 's/.*--lines \([0-9]*\).*/\1/p')
tail -n "$number" "$(dirname "$0")/journal"
"""


class Systemd:
    """Stands in for systemd with one unit, which starts as long as the program ``works`` ends well."""

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        self.program("systemctl", SYSTEMCTL)
        self.program("journalctl", JOURNALCTL)
        for name, text in {"works": "true", "journal": "", "pid": "0", "started": "0"}.items():
            self.write(name, text)

    def write(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text, "utf-8")

    def program(self, name: str, text: str) -> None:
        self.write(name, f"#!/bin/sh\n{text}\n")
        (self.folder / name).chmod(0o755)

    def calls(self) -> list[str]:
        """Return what was asked of systemctl since it was asked last, without the questions."""
        file = self.folder / "calls"
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line for line in lines if not line.startswith(("is-", "show"))]

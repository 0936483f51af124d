"""Run commands as root on a host of the site, as its inventory has it reached.

What SSH, sudo and the login shells of a host say by themselves is not what a command says: each command's output
stands between two marks that nobody else knows, and only what is between them is read.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import getpass
import hashlib
import json
import os
import pathlib
import re
import secrets
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import testinfra  # type: ignore[import-untyped]
from testinfra.utils.ansible_runner import get_ansible_config, get_ansible_host  # type: ignore[import-untyped]

from verification.expect import Unexpected, expect

# Asks for a connection, as a modality would.
KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()"
# What testinfra's own connections do not do, or do with a password on a command line.
NEEDS_ANSIBLE = ("_pass", "_password", "_become_method", "_become_exe", "_become_flags", "_pipelining", "_tty")
# Programs of an administrator, which `su` and some settings of sudo leave out; and words that can be read by a program.
SURROUNDINGS = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin LC_ALL=C.UTF-8; export PATH LC_ALL"
# How ssh says that a host did not let it in at this moment (MaxStartups of sshd, or sshd is started again), and for how
# many seconds to wait then before it is tried again. The suite asks one host for one thing at a time.
BUSY = re.compile(r"exchange_identification|Connection (closed|reset|refused)", re.IGNORECASE)
PAUSES = (1.0, 2.0, 4.0)
# None of the suite's commands takes a tenth of this; one on a disk that is gone would never end.
DEADLINE = 300.0
# What a socket's path may have at most, less the ending that ssh gives it meanwhile.
LONGEST_SOCKET = 104 - 18
SEE = "ansible_host, ansible_user, ansible_become and the others by which the inventory has this host reached"


@dataclass(frozen=True)
class Result:
    """What came of a command."""

    rc: int
    stdout: str
    stderr: str


def framed(command: str, mark: str) -> str:
    """Put a command between marks, as one line that no shell on the way reads anything into."""
    script = (
        f"{SURROUNDINGS}; echo {mark}; echo {mark} >&2; (\n{command}\n); code=$?;"
        f' echo; echo "{mark} $code"; echo >&2; echo {mark} >&2'
    )
    return f'eval "$(echo {base64.b64encode(script.encode()).decode()} | base64 -d)"'


def unframed(mark: str, stdout: str, stderr: str) -> Result | None:
    """Return what is between the marks; nothing if the command was not run."""
    # A terminal on the way ends lines in its own manner.
    out, error = (text.replace("\r\n", "\n") for text in (stdout, stderr))
    _, begun, rest = out.partition(f"{mark}\n")
    said, ended, code = rest.partition(f"\n{mark} ")
    if not begun or not ended:
        return None
    complaint = error.partition(f"{mark}\n")[2].partition(f"\n{mark}")[0]
    return Result(int(code.split()[0]), said, complaint)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Do something for as long as the deadline lets it.

    :raises TimeoutError: if it goes on then.
    """

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Host:
    """A host, as root.

    :param described: the variables of Ansible by which the inventory has it reached.
    :param private: a folder for what belongs to the connection.
    """

    def __init__(self, name: str, described: dict[str, Any], private: pathlib.Path) -> None:
        self.name = name
        connection = dict(described)
        local = connection.get("ansible_connection") == "local"
        user = getpass.getuser() if local else connection.get("ansible_user")
        connection["ansible_become"] = user != "root"
        folder = private / name
        folder.mkdir(0o700, exist_ok=True)
        special = any(key.endswith(NEEDS_ANSIBLE) for key in connection)
        config = get_ansible_config()
        if connection.get("ansible_connection", "ssh") in ("ssh", "smart"):
            self._share(connection, config, private)
        inventory = {"_meta": {"hostvars": {name: connection}}, "all": {"hosts": [name]}}
        made = None if special else get_ansible_host(config, inventory, name)
        self._ansible = made is None
        if made is None:
            file = folder / "hosts.json"
            file.touch(0o600)
            file.write_text(json.dumps({"all": {"hosts": {name: connection}}}), "utf-8")
            made = testinfra.get_host(f"ansible://{name}", ansible_inventory=str(file), force_ansible=True)
        self._backend: Any = made.backend
        # Else it would ask the host, and ask again in order to read a complaint about that in another language.
        self._backend._encoding = "utf-8"
        self._gone = ""

    def _share(self, connection: dict[str, Any], config: configparser.ConfigParser, private: pathlib.Path) -> None:
        """Have one connection for all commands, which ends where the host is silent for long.

        ssh takes the first that it is told: what the inventory says, then this, then Ansible's configuration.
        """
        given = config.get("ssh_connection", "ssh_args", fallback="", raw=True)
        words = [connection.pop("ansible_ssh_common_args", ""), "-o ServerAliveInterval=15 -o ServerAliveCountMax=3"]
        socket_path = private / hashlib.sha256(self.name.encode()).hexdigest()[:8]
        if len(os.fsencode(socket_path)) <= LONGEST_SOCKET:
            words.append(f"-o ControlMaster=auto -o ControlPersist=10s -o ControlPath={socket_path}")
        words.append(connection.get("ansible_ssh_args", given))
        # One of them is for testinfra, the other for Ansible.
        config.read_dict({"ssh_connection": {"ssh_args": " ".join(words).strip().replace("%", "%%")}})
        connection["ansible_ssh_args"] = " ".join(words).strip()

    def run(self, command: str, *arguments: str) -> Result:
        """Run a command of the shell, whose arguments are quoted where it has ``%s``.

        :raises Unexpected: if it could not be run, and from then on at once.
        """
        mark = f"--{secrets.token_hex(12)}--"
        script = framed(command % tuple(map(shlex.quote, arguments)) if arguments else command, mark)
        result = None if self._gone else self._tried(script, mark)
        if not result:
            raise Unexpected(f"a command as root on {self.name}: expected its output, got {self._gone}; see {SEE}")
        return result

    def _tried(self, script: str, mark: str) -> Result | None:
        """Run a script, several times if the host does not let ssh in; if it was not run, note why."""
        for tried, pause in enumerate((*PAUSES, None), 1):
            try:
                with ending():
                    stdout, stderr = self._by_ansible(script) if self._ansible else self._directly(script)
            except TimeoutError:
                self._gone = f"none for {DEADLINE:.0f} s (a disk of that host may hang)"
                return None
            result = unframed(mark, stdout, stderr)
            if result:
                return result
            # What sudo or ssh complain of comes last.
            lines = [line.strip() for line in (stdout + "\n" + stderr).splitlines() if line.strip()]
            self._gone = (repr(lines[-1]) if lines else "nothing") + (f" (tried {tried} times)" if tried > 1 else "")
            # What was begun is not begun again.
            if pause is None or mark in stdout or not BUSY.search(self._gone):
                break
            time.sleep(pause)
        return None

    def check_output(self, command: str, *arguments: str) -> str:
        """Run a command that has to succeed, and return its output without the line's end."""
        result = self.run(command, *arguments)
        complaint = result.stderr.strip().rpartition("\n")[2]
        expect(f"exit code of `{command.partition(chr(10))[0][:60]}` ({complaint})", 0, result.rc)
        return result.stdout.rstrip("\r\n")

    def _directly(self, script: str) -> tuple[str, str]:
        try:
            done = self._backend.run(script)
        except RuntimeError as error:
            # So it says that ssh itself has failed.
            done = error.args[0]
        return done.stdout_bytes.decode("utf-8", "replace"), done.stderr_bytes.decode("utf-8", "replace")

    def _by_ansible(self, script: str) -> tuple[str, str]:
        done = self._backend.run_ansible("shell", module_args=script, check=False)
        # Where the module was not even begun with there is a message alone.
        complaint = done.get("stderr") or done.get("module_stderr") or done.get("msg", "")
        return f"{done.get('stdout', '')}\n", f"{complaint}\n"


def expect_open(what: str, host: str, port: int, see: str, seconds: float = 5) -> None:
    """See whether a TCP port answers at all: a firewall that drops would have each check wait for its own time-out."""
    got = "an answer"
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except TimeoutError:
        got = f"silence for {seconds:.0f} s"
    except OSError as error:
        got = error.strerror or str(error)
    hint = "a firewall between this machine and that port drops what is sent; " if "silence" in got else ""
    expect(f"TCP port {port} of {host}, {what}", "an answer", got, f"{hint}{see}")

"""Hosts of the lab for tests that deploy on them."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import requests
import yaml

from tests.repository import plain

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "inventories" / "quickstart"
# Of the hosts of those tests that take too long to go through on both releases at each change; `make test-matrix` has
# them on the other one.
RELEASE = os.environ.get("PACS_RELEASE", "trixie")
# Waits on a host until Orthanc answers there, be it that it asks for a login.
ANSWERS = "for i in $(seq 600); do ! curl --silent --output /dev/null http://127.0.0.1:8042/ || break; sleep 0.2; done"
ENVIRONMENT = plain() | {
    "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    # Any text is a password.
    "PACS_VAULT_PASSWORD_FILE": str(ROOT / "lab" / "secrets.yml"),
    # On a busy machine sudo may take its time to ask.
    "ANSIBLE_TIMEOUT": "30",
}


def run(
    *command: str | pathlib.Path, timeout: int = 1800, check: bool = True, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command from the project's folder and return what it printed, both streams together.

    :param timeout: seconds after which the test fails: so many that a command has to hang, on a busy machine too.
    :param check: whether an exit code other than 0 fails the test, with the end of the output.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=options.pop("cwd", ROOT),
        env=ENVIRONMENT | options.pop("env", {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )
    if check and done.returncode:
        pytest.fail(
            f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-6000:]}", pytrace=False
        )
    return done


class Lab:
    """A lab with its hosts and the inventory that deploys on them.

    A host is given by its Debian release, or by a dictionary with more about it, as in lab/lab.yml.
    """

    # Whether the hosts have addresses of IPv6 too.
    ipv6 = False

    # What a playbook is started by, where this machine is to be another one for it.
    through: tuple[str | pathlib.Path, ...] = ()

    def __init__(self, name: str, **hosts: str | dict[str, Any]) -> None:
        self.name = name
        self.folder = ROOT / ".cache" / "lab" / name
        self.secrets: dict[str, str] = yaml.safe_load((ROOT / "lab" / "secrets.yml").read_text(encoding="utf-8"))
        definition = {
            "lab_name": name,
            "lab_hosts": [
                {"name": host, **(given if isinstance(given, dict) else {"release": given})}
                for host, given in hosts.items()
            ],
            "lab_vars": self.secrets,
            "lab_fresh": True,
            "lab_ipv6": self.ipv6,
        }
        run("ansible-playbook", ROOT / "lab" / "create.yml", "-e", json.dumps(definition))
        made = yaml.safe_load((self.folder / "hosts.yml").read_text(encoding="utf-8"))["all"]["hosts"]
        self.address: dict[str, str] = {host: variables["ansible_host"] for host, variables in made.items()}
        self.prefix: str = made["pacs"]["lab_prefix"]
        self.modalities: dict[str, Any] = made["pacs"]["orthanc_modalities"]

    def destroy(self) -> None:
        run(ROOT / "lab" / "destroy", self.prefix, self.folder)

    def play(
        self,
        playbook: str = "site",
        variables: Mapping[str, Any] | None = None,
        arguments: Sequence[str] = (),
        inventory: pathlib.Path = QUICKSTART,
        check: bool = True,
        timeout: int = 900,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shipped playbook with a shipped inventory on the lab's hosts."""
        file = self.folder.with_suffix(".json")
        file.write_text(json.dumps(variables or {}), encoding="utf-8")
        given = ("-i", str(inventory), "-i", str(self.folder), "-e", f"@{file}", *arguments)
        command = ("ansible-playbook", *given, f"playbooks/{playbook}.yml")
        return run(*self.through, *command, check=check, timeout=timeout)

    def url(self, path: str, host: str = "pacs") -> str:
        """Return the URL of a path on the proxy of a host."""
        return f"https://{self.address[host]}{path}"

    def session(self, host: str = "pacs", user: str = "admin", password: str | None = None) -> requests.Session:
        """Return a session that trusts the certificate in use on a host alone, and logs in.

        :param password: that of the first user, if it is not given.
        """
        used = "sed -n 's/.*ssl_certificate \\(.*\\);/\\1/p' /etc/nginx/conf.d/orthanc.conf | xargs cat"
        certificate = self.folder.with_name(f"{self.name}-{host}.crt")
        # Other threads read it meanwhile.
        written = certificate.with_suffix(f".{threading.get_ident()}")
        written.write_text(self.shell(used, host), encoding="utf-8")
        written.replace(certificate)
        made = requests.Session()
        made.trust_env = False
        made.verify = str(certificate)
        secret = self.secrets["vault_orthanc_admin_password"] if password is None else password
        # As bytes, since the password is no Latin.
        made.auth = (user.encode(), secret.encode())  # type: ignore[assignment]
        return made

    def container(self, host: str = "pacs") -> str:
        """Return the name of a host's container."""
        return f"{self.prefix}-{host}"

    def shell(self, script: str, host: str = "pacs", check: bool = True, timeout: int = 600) -> str:
        """Run a shell script as root on a host and return what it printed."""
        command = ("docker", "exec", self.container(host), "sh", "-c", script)
        return run(*command, check=check, timeout=timeout, errors="replace").stdout

    def kill(self, unit: str, answer: str) -> None:
        """Kill the main process of a unit, and see that another one answers within seconds.

        :param answer: a command that ends with 0 if it got an answer.
        """
        pid = f"$(systemctl show '{unit}' --property MainPID --value)"
        self.shell(
            f"first={pid}; [ \"${{first:-0}}\" -gt 1 ] || {{ systemctl status '{unit}'; exit 1; }};"
            f' kill -9 $first; for i in $(seq 300); do sleep 0.2; now={pid}; [ "${{now:-0}}" -gt 1 ] || continue;'
            f" [ $now = $first ] || ! {answer} || exit 0; done; systemctl status '{unit}'; exit 1"
        )


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab that the module asks for in its ``LAB``: its name and the release of each host.

    The tests of a module share it, so they run on one worker, one after the other (--dist loadfile).
    """
    made = Lab(**request.module.LAB)
    yield made
    if not os.environ.get("PACS_KEEP_LABS"):
        made.destroy()


@pytest.fixture(scope="session")
def logs() -> pathlib.Path:
    """Where long outputs go."""
    folder = ROOT / ".cache" / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The files that a clone would have, with what is not committed yet, in a folder of its own."""
    folder = tmp_path_factory.mktemp("clone") / "pacs"
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines():
        source, target = ROOT / name, folder / name
        if source.exists() or source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return folder

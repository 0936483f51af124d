#!/usr/bin/env python3
"""Measure a deployment against a plain shell script that does the same, on one host of the lab.

Usage: deploy.py [ROUNDS]     (three by default; `make bench` runs it)

Prints Markdown on standard output, and what it is doing on standard error.
"""

import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import ansible_mitogen  # type: ignore[import-untyped]
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAB = ROOT / ".cache" / "lab" / "bench"
SECRETS = yaml.safe_load((ROOT / "lab" / "secrets.yml").read_text(encoding="utf-8"))
DEFINITION = {"lab_name": "bench", "lab_fresh": True, "lab_vars": SECRETS}
# What the playbook writes; that it is all of it is checked.
WRITTEN = "etc/pacs etc/orthanc/README.pacs etc/nginx/conf.d/orthanc.conf etc/systemd/system/orthanc.service"
# All packages, and all of /etc but what differs from one start of a host to the next.
STATE = r"""
dpkg-query --show --showformat '${Package} ${Version} ${Status}\n'
find /etc -xdev -type f ! -name machine-id ! -name hosts ! -name hostname ! -name resolv.conf ! -name ld.so.cache |
    sort | xargs --delimiter '\n' stat --format '%n %a %U %G' -- | sort
find /etc -xdev -type f ! -name machine-id ! -name hosts ! -name hostname ! -name resolv.conf ! -name ld.so.cache |
    sort | xargs --delimiter '\n' sha256sum --
systemctl is-active orthanc nginx
systemctl is-enabled orthanc nginx
"""
MITOGEN = {
    "ANSIBLE_STRATEGY": "mitogen_linear",
    "ANSIBLE_STRATEGY_PLUGINS": str(pathlib.Path(ansible_mitogen.__file__).parent / "plugins" / "strategy"),
}
SHELL, FIRST, AGAIN = "shell script", "first deployment", "run that changes nothing"
FIRST_FASTER, AGAIN_FASTER = f"{FIRST} with mitogen", f"{AGAIN}, with mitogen"
# A ratio: above, below, and the goal.
RATIOS = [(FIRST, SHELL, 1.5), (FIRST_FASTER, SHELL, 1.5), (AGAIN, FIRST, 0.25), (AGAIN_FASTER, FIRST_FASTER, 0.25)]


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
        timeout=600,
        check=False,
    )
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace")[-6000:]
        sys.exit(f"{output}\n{shlex.join(command)} ended with {done.returncode}")
    return done.stdout


def lab(playbook: str) -> None:
    run("ansible-playbook", f"lab/{playbook}.yml", "--extra-vars", json.dumps(DEFINITION))


def on_host(script: str, given: bytes = b"") -> bytes:
    """Run a script as root on the host, over SSH like the playbook."""
    hosts = yaml.safe_load((LAB / "hosts.yml").read_text(encoding="utf-8"))
    host: dict[str, Any] = hosts["all"]["hosts"]["pacs"]
    options = shlex.split(host["ansible_ssh_common_args"])
    login = f"{host['ansible_user']}@{host['ansible_host']}"
    key = host["ansible_ssh_private_key_file"]
    return run("ssh", "-i", key, *options, login, f"sudo sh -c {shlex.quote(script)}", given=given)


def script(name: str) -> str:
    return (pathlib.Path(__file__).parent / name).read_text(encoding="utf-8")


def deploy(**environment: str) -> bytes:
    """Run the shipped playbook with the shipped inventory, over a connection that is new each time."""
    with tempfile.TemporaryDirectory() as folder:
        environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = folder
        inventories = ("--inventory", "inventories/quickstart", "--inventory", str(LAB))
        return run("ansible-playbook", *inventories, "playbooks/site.yml", environment=environment)


def measure(seconds: dict[str, list[float]], what: str, action: Any, *arguments: Any, **options: Any) -> None:
    start = time.monotonic()
    output: bytes = action(*arguments, **options)
    seconds.setdefault(what, []).append(time.monotonic() - start)
    say(f"  {what}: {seconds[what][-1]:.1f} s")
    if what in (AGAIN, AGAIN_FASTER) and b"changed=0" not in output:
        sys.exit(f"The {what} changed something:\n{output.decode()}")


def same(expected: str, found: str) -> None:
    """End if the two hosts are not alike."""
    different = sorted(set(expected.splitlines()) ^ set(found.splitlines()))
    if different:
        sys.exit("The script does not do what the playbook does:\n" + "\n".join(different))


def row(name: str, values: list[float], form: str) -> str:
    """Make the row of a table: the name, the median, the single values."""
    return f"| {name} | {statistics.median(values):{form}} | {', '.join(f'{value:{form}}' for value in values)} |"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seconds: dict[str, list[float]] = {}
    try:
        say("Before: a deployment that does not count, for its files")
        lab("create")
        deploy()
        state = on_host(STATE).decode()
        files = on_host(f"tar --create --directory / {WRITTEN}")
        for number in range(1, rounds + 1):
            say(f"Round {number} of {rounds}")
            lab("create")
            on_host("cat > /tmp/files.tar", given=files)
            measure(seconds, SHELL, on_host, script("deploy.sh"))
            same(state, on_host(STATE).decode())
            lab("create")
            measure(seconds, FIRST, deploy)
            measure(seconds, AGAIN, deploy)
            lab("create")
            measure(seconds, FIRST_FASTER, deploy, **MITOGEN)
            measure(seconds, AGAIN_FASTER, deploy, **MITOGEN)
        say("Requests per second through the proxy, by the hashes of the passwords")
        rates = [line.split("\t") for line in on_host(script("logins.sh")).decode().splitlines()]
    finally:
        lab("destroy")

    print("| Seconds | Median | In each round |\n| --- | ---: | --- |")
    for what, values in seconds.items():
        print(row(what, values, ".1f"))
    print("\n| Ratio | Median | In each round | Goal |\n| --- | ---: | --- | --- |")
    for above, below, goal in RATIOS:
        ratios = [one / other for one, other in zip(seconds[above], seconds[below], strict=True)]
        print(row(f"{above} : {below}", ratios, ".2f"), f"at most {goal} |")
    print("\n| Passwords hashed with | Requests per second | Ratio to none |\n| --- | ---: | ---: |")
    for rate, name in sorted(rates, key=lambda row: -float(row[0])):
        print(f"| {name} | {float(rate):.0f} | {float(rate) / float(rates[-1][0]):.3f} |")


if __name__ == "__main__":
    main()

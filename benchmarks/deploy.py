"""Measure a deployment against a plain shell script that does the same, on one host of the lab.

Usage: python -m benchmarks.deploy [ROUNDS]     (three by default; `make bench` runs it)

Prints Markdown on standard output, and what it is doing on standard error.
"""

import pathlib
import statistics
import sys
import time
from typing import Any

import ansible_mitogen  # type: ignore[import-untyped]

from benchmarks.host import SECRETS, Host, say

# What the playbook writes; that it is all of it is checked.
WRITTEN = (
    "etc/pacs etc/orthanc/README.pacs etc/nginx/conf.d/orthanc.conf etc/logrotate.d/pacs"
    " etc/systemd/system/orthanc.service etc/systemd/system/nftables.service.d etc/systemd/system/nginx.service.d"
)
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


def script(name: str) -> str:
    return (pathlib.Path(__file__).parent / name).read_text(encoding="utf-8")


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
    host = Host("bench", "quickstart", SECRETS)
    try:
        say("Before: a deployment that does not count, for its files")
        host.create()
        host.deploy()
        state = host.run(STATE).decode()
        files = host.run(f"tar --create --directory / {WRITTEN}")
        for number in range(1, rounds + 1):
            say(f"Round {number} of {rounds}")
            host.create()
            host.run("cat > /tmp/files.tar", given=files)
            measure(seconds, SHELL, host.run, script("deploy.sh"))
            same(state, host.run(STATE).decode())
            host.create()
            measure(seconds, FIRST, host.deploy)
            measure(seconds, AGAIN, host.deploy)
            host.create()
            measure(seconds, FIRST_FASTER, host.deploy, **MITOGEN)
            measure(seconds, AGAIN_FASTER, host.deploy, **MITOGEN)
        say("Requests per second through the proxy, by the hashes of the passwords")
        rates = [line.split("\t") for line in host.run(script("logins.sh")).decode().splitlines()]
    finally:
        host.destroy()

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

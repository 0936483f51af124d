"""Measure backups: a restore beside a copy, images that come beside a backup, and a backup of what has not changed.

Usage: python -m benchmarks.backup [ROUNDS] [WHAT ...]     (five, of all; `make bench-backup` runs it)

Prints Markdown on standard output, and what it is doing on standard error.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import images
from benchmarks.host import SECRETS, say
from tests.hosts.conftest import Lab, run
from tests.hosts.drills import ARCHIVE, BACKUP, REPOSITORY, Site

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB", "sftp": "SQLite, by SFTP"}
# How many pixels are at a side of what is restored, as of a CT, of what comes meanwhile, and of what is many.
SIDES = {"ct": 512, "slice": 256, "small": 16}
RESTORED, COME, MANY, CLIENTS = 5000, 1600, 20_000, 8
# How much the first of them are together, without what describes them.
BYTES = RESTORED * 2 * SIDES["ct"] ** 2
# How often images come beside a backup for each round of the rest, since what else the machine does is felt more there.
OFTEN = 4
# What is to be reached: how much slower images come, how much longer a restore takes, and a backup's seconds.
SLOWER, LONGER, SECONDS = 0.15, 1.5, 10
# A minute after its last image, the DICOMweb plugin goes through each series, and whatever is measured then is slower.
QUIET = {"orthanc_settings": {"StableAge": 86400}}
# Another repository, in which there is nothing yet.
ANEW = f"systemctl stop pacs-backup; rm -rf {REPOSITORY}* /var/lib/pacs/backup/*.json; {BACKUP} prepare"
# The unit of the server, and where it has its data.
SERVERS = {"postgresql": ("postgresql@17-main", "/var/lib/postgresql"), "mariadb": ("mariadb", "/var/lib/mysql")}
SUMS = f"cd {ARCHIVE}; find ?? -type f -exec md5sum {{}} + > /root/sums"
COPY = "mkdir /srv/copy; cp -a {data} /srv/copy; sync"
# From where backups by SFTP are, which is the host itself.
SFTP = "-q -b - -i /etc/pacs/backup/sftp.key -o UserKnownHostsFile=/etc/pacs/backup/known_hosts"
COPY_BY_SFTP = f"mkdir /srv/copy; echo get -r {ARCHIVE} /srv/copy | sftp {SFTP} root@{{address}} > /dev/null; sync"
# The rest of what a restore does.
PROVED = "cd /srv/copy/db-v6; md5sum --check --quiet /root/sums"
ANSWERS = "until curl -s -o /dev/null http://127.0.0.1:8042/changes?last; do sleep 0.1; done"
REMOVED = f"rm -rf /srv/copy {ARCHIVE}/.pacs-before-* /var/lib/postgresql/*/.pacs-before-*"


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds something takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


class Bench:
    """An Orthanc of the lab with backups, and what was measured with it."""

    def __init__(self, what: str, folder: pathlib.Path) -> None:
        self.sent = 0
        self.lab = Lab(f"bench-backup-{what}", pacs="trixie-installed")
        address = self.lab.address["pacs"]
        self.server, data = SERVERS.get(what, ("", ""))
        self.copying = COPY.format(data=f"{ARCHIVE} {data}")
        variables = dict[str, Any](QUIET)
        if what == "sftp":
            host_key = self.lab.shell("ssh-keygen -y -f /etc/ssh/lab_host_key").strip()
            self.copying = COPY_BY_SFTP.format(address=address)
            variables |= {
                "backup_repository": f"sftp:root@{address}:{REPOSITORY}",
                "backup_sftp_private_key": (self.lab.folder.parent / "keys" / "user").read_text(encoding="utf-8"),
                "backup_sftp_known_hosts": f"{address} {host_key}",
            }
        self.site = Site("sqlite" if what == "sftp" else what, self.lab, folder, variables)
        (folder / "bench").mkdir()
        for name, side in SIDES.items():
            (folder / "bench" / name).write_bytes(images.ct_slice(side))
        run("docker", "cp", folder / "bench", f"{self.lab.container()}:/root/bench")
        run("docker", "cp", pathlib.Path(__file__).with_name("load.py"), f"{self.lab.container()}:/root/bench")

    def send(self, number: int, kind: str) -> float:
        """Send images by eight clients on the host; return how many it took in a second."""
        login = f"proxy:{SECRETS['vault_orthanc_proxy_password']}"
        task = {"images": number, "clients": CLIENTS, "first": self.sent, "queries": 0, "login": login}
        command = ["docker", "exec", "-i", self.lab.container(), "sh", "-c", 'python3 /root/bench/load.py "$(cat)"']
        given = json.dumps(task | {"image": f"/root/bench/{kind}"})
        done = json.loads(subprocess.run(command, input=given, check=True, capture_output=True, text=True).stdout)
        assert not done["failed"]
        # Of another study than the next ones.
        self.sent += (number + 99) // 100 * 100
        return float(number / done["seconds"])

    def backup(self) -> float:
        """Make a backup, which has to be good; return the seconds."""
        return timed(lambda: self.lab.shell("systemctl start pacs-backup"))

    def restore(self) -> tuple[float, float]:
        """Restore. Return the seconds of its files alone, until they are on the disk, and until Orthanc serves them."""
        began = time.monotonic()
        told = json.loads(self.lab.shell(f"{BACKUP} restore --over").splitlines()[-1])
        seconds = time.monotonic() - began
        self.lab.shell(REMOVED)
        return float(told["files_seconds"]), seconds

    def copy(self) -> tuple[float, float]:
        """Copy what a restore restores, at rest. Return the seconds of that alone, and with the rest of a restore."""
        stopped = timed(lambda: self.lab.shell(f"systemctl stop orthanc {self.server}"))
        copied = timed(lambda: self.lab.shell(self.copying))
        rest = timed(lambda: self.lab.shell(f"{PROVED}; systemctl start {self.server} orthanc; {ANSWERS}"))
        self.lab.shell(REMOVED)
        return copied, stopped + copied + rest

    def beside(self, times: int) -> Iterator[tuple[float, float]]:
        """Return how many images come in a second beside a first backup of all, and while that stands still."""
        written = f"$(du -sm {REPOSITORY}/data 2> /dev/null | cut -f 1)"
        begun = f"systemctl start --no-block pacs-backup; until [ {written} -gt 32 ]; do sleep 0.1; done"
        done = 0
        while done < times:
            # It has written some of the files, and will not be through with them.
            self.lab.shell(f"systemctl kill --signal CONT pacs-backup; {ANEW}; {begun}")
            while done < times and int(self.lab.shell(f"echo {written}")) < BYTES // 2 >> 20:
                rates = {}
                # Each comes first once, since the archive grows.
                for signal in ("CONT", "STOP") if done % 2 else ("STOP", "CONT"):
                    self.lab.shell(f"systemctl kill --signal {signal} pacs-backup")
                    rates[signal] = self.send(COME, "slice")
                done += 1
                yield rates["CONT"], rates["STOP"]
        self.lab.shell("systemctl kill --signal CONT pacs-backup; systemctl stop pacs-backup")


def told(values: list[float], form: str = ".2f") -> str:
    """Return the median of what was measured, and all of it."""
    return f"{statistics.median(values):{form}} ({', '.join(f'{value:{form}}' for value in values)})"


def measure(what: str, rounds: int, folder: pathlib.Path) -> list[tuple[str, str, str]]:
    """Return the rows of a database, or of a way to the repository: what, how much, and the goal."""
    say(f"{what}: deploying, and {RESTORED} images")
    bench = Bench(what, folder)
    bench.send(RESTORED, "ct")
    first = bench.backup()
    bench.lab.shell(SUMS)
    files, restored, copied, proved = [], [], [], []
    for number in range(rounds):
        say(f"{what}: restore and copy, round {number + 1}")
        there, served = bench.restore()
        files.append(there)
        restored.append(served)
        plain, whole = bench.copy()
        copied.append(plain)
        proved.append(whole)
    say(f"{what}: {MANY} images")
    bench.send(MANY - bench.sent, "small")
    bench.lab.shell(ANEW)
    every = bench.backup()
    unchanged = [bench.backup() for _ in range(rounds)]
    # They come on top of those.
    say(f"{what}: images beside a backup")
    rates = list(bench.beside(OFTEN * rounds))
    costs = [100 - 100 * beside / alone for beside, alone in rates]
    bench.lab.destroy()

    def ratios(ones: list[float], others: list[float]) -> list[float]:
        return [one / other for one, other in zip(ones, others, strict=True)]

    return [
        (f"restore of {RESTORED:,} images until its files are on the disk, s", told(files, ".1f"), ""),
        ("copy of the same, s", told(copied, ".1f"), ""),
        ("restore of the files : copy", told(ratios(files, copied)), f"at most {LONGER}"),
        ("restore until it is proved and served, s", told(restored, ".1f"), ""),
        ("that : copy", told(ratios(restored, copied)), ""),
        ("that : copy that is read against MD5 and served", told(ratios(restored, proved)), f"at most {LONGER}"),
        ("images in a second without a backup", told([alone for _, alone in rates], ".0f"), ""),
        ("fewer of them beside a first backup, %", told(costs, ".0f"), f"at most {SLOWER:.0%}"),
        (f"first backup of {RESTORED:,} images, s", f"{first:.0f}", ""),
        (f"first backup of {MANY:,} images, s", f"{every:.0f}", ""),
        (f"backup of {MANY:,} images without a change, s", told(unchanged, ".1f"), f"under {SECONDS}"),
    ]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for what in sys.argv[2:] or NAMES:
        with contextlib.ExitStack() as cleaning:
            folder = pathlib.Path(cleaning.enter_context(tempfile.TemporaryDirectory()))
            rows = measure(what, rounds, folder)
        print(f"| {NAMES[what]} | Median (each round) | Goal |\n| --- | ---: | --- |")
        print("\n".join(f"| {' | '.join(row)} |" for row in rows), "\n", flush=True)


if __name__ == "__main__":
    main()

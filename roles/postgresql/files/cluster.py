"""Change a cluster of PostgreSQL that Patroni runs, one server after the other. Runs on one of its hosts, as root.

Usage: /usr/bin/python3 -c "$(cat cluster.py)" CONFIGURATION CLUSTER NAME reload UNIT
       /usr/bin/python3 -c "$(cat cluster.py)" CONFIGURATION CLUSTER NAME agree [look] < WANTED

``reload`` has this server, whose name is given, read its files. It ends with 0 if that was enough, with 1 if it has to
be restarted, which does no harm any more then, and with 2 if it must not be. ``agree`` has all servers agree on what is
read, and restarts those for which that takes a restart; where one does not come back it goes no further, and they agree
on what they did before. It says whether it has changed something.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Members = dict[str, dict[str, Any]]
GOOD = ("running", "streaming")
# A server comes back within seconds; after a crash it reads its log first. And how often to look, in seconds.
PATIENCE, PAUSE = 180.0, 1.0


class Stuck(Exception):
    """What does not go on."""


def run(*command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


class Cluster:
    """The servers, as Patroni sees them."""

    def __init__(self, configuration: str, cluster: str) -> None:
        self._tool, self._cluster = ("patronictl", "-c", configuration), cluster

    def tell(self, *words: str, given: str | None = None) -> str:
        """Give a command to Patroni. :raises Stuck: if it does not take it."""
        done = run(*self._tool, *words, given=given)
        if done.returncode:
            lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise Stuck(f"patronictl {words[0]}: {lines[-1] if lines else 'no word'}")
        return done.stdout

    @property
    def members(self) -> Members:
        return {one["Member"]: one for one in json.loads(self.tell("list", "--format", "json"))}

    @property
    def agreement(self) -> Any:
        """What they agree on: Patroni prints it as YAML, in which its own library reads it."""
        import yaml  # type: ignore[import-untyped]

        return yaml.safe_load(self.tell("show-config"))

    def agree(self, wanted: Any) -> None:
        self.tell("edit-config", "--force", "--quiet", "--replace", "-", given=json.dumps(wanted))

    def wait(self, what: str, reached: Callable[[Members], bool], seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        members: Members = {}
        while True:
            # Who changes its part says nothing for a moment.
            with contextlib.suppress(Stuck):
                members = self.members
                if reached(members):
                    return
            if time.monotonic() > end:
                told = ", ".join(f"{name}: {one['Role']}, {one['State']}" for name, one in members.items())
                raise Stuck(f"{what} in {seconds:.0f} s ({told}).")
            time.sleep(PAUSE)

    def switch_over(self) -> bool:
        """Have a standby that has all, and waits for no restart, take the primary's place; False if there is none."""
        members = self.members
        leader = primary(members)
        ready = [name for name, one in members.items() if one["Role"] == "Sync Standby" and good(one) and not due(one)]
        if not leader or not ready:
            return False
        self.tell("switchover", self._cluster, "--leader", leader, "--candidate", ready[0], "--force")
        self.wait(
            f"{ready[0]} has not taken the place of {leader}, which follows it",
            lambda now: primary(now) == ready[0] and good(now.get(leader)),
        )
        # The next one may be taken only once there is another one that has all.
        self.wait(f"no standby has all that {ready[0]} has", lambda now: "Sync Standby" in roles(now))
        return True

    def restart(self, name: str) -> None:
        self.tell("restart", self._cluster, name, "--force", "--pending")
        self.wait(f"{name} has not come back", lambda now: good(now.get(name)))
        if len(self.members) > 1:
            self.wait("no standby has all that the primary has", lambda now: "Sync Standby" in roles(now))

    def restart_all(self) -> None:
        """Restart those for which it takes a restart: the standbys, then the primary as one of them."""
        self.restart_standbys()
        members = self.members
        leader = primary(members)
        if due(members.get(leader)):
            # A lower number a standby takes only after its primary: then that is restarted as it is.
            self.switch_over()
            self.restart(leader)
            self.restart_standbys()

    def restart_standbys(self) -> None:
        for name, one in self.members.items():
            if one["Role"] != "Leader" and due(one):
                self.restart(name)


def primary(members: Members) -> str:
    return next((name for name, one in members.items() if one["Role"] == "Leader"), "")


def roles(members: Members) -> list[str]:
    return [one["Role"] for one in members.values() if good(one)]


def good(one: dict[str, Any] | None) -> bool:
    return bool(one) and one["State"] in GOOD


def due(one: dict[str, Any] | None) -> bool:
    """Whether it waits for a restart."""
    return bool(one and one.get("Pending restart"))


def ask(cluster: str, question: str) -> str:
    return run("runuser", "-u", "postgres", "--", "psql", "--cluster", cluster, "-XAtqwc", question).stdout.strip()


def reload(cluster: Cluster, name: str, unit: str) -> int:
    """Have this server read its files, and its place taken where it is primary and has to be restarted."""
    here = unit.partition("@")[2].replace("-", "/", 1)
    before = ask(here, "select pg_conf_load_time()")
    if not before or run("systemctl", "reload", unit).returncode:
        return 1
    end = time.monotonic() + 10
    while ask(here, f"select pg_conf_load_time() > '{before}'") != "t" and time.monotonic() < end:
        time.sleep(0.1)
    # What a standby was told about its primary is of no use to one that has taken the place.
    if ask(here, "select count(*) from pg_settings where pending_restart and name !~ '^(recovery|primary)_'") == "0":
        return 0
    if primary(cluster.members) == name:
        cluster.switch_over()
    return 1


def agree(cluster: Cluster, wanted: Any, look: bool) -> None:
    """Have all servers agree on something, or leave them as they are."""
    before = cluster.agreement
    if before == wanted and not any(map(due, cluster.members.values())):
        return
    print("changed")
    if look:
        return
    try:
        if before != wanted:
            cluster.agree(wanted)
            # Each says what it has to be restarted for when it looks the next time; of what takes no restart none does.
            time.sleep(2 * int(before.get("loop_wait", 10)))
        cluster.restart_all()
    except Stuck as stuck:
        if before == wanted:
            raise
        cluster.agree(before)
        time.sleep(2 * int(before.get("loop_wait", 10)))
        cluster.restart_all()
        raise Stuck(f"{stuck} All servers agree on what they did before.") from stuck


def main() -> int:
    configuration, cluster, name, verb, *more = sys.argv[1:]
    try:
        if verb == "reload":
            return reload(Cluster(configuration, cluster), name, more[0])
        agree(Cluster(configuration, cluster), json.load(sys.stdin), more == ["look"])
        return 0
    except Stuck as stuck:
        print(stuck, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

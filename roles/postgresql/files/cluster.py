"""Change a cluster of PostgreSQL that Patroni runs, one server after the other. Runs on one of its hosts, as root.

Usage: /usr/bin/python3 -c "$(cat cluster.py)" CONFIGURATION CLUSTER NAME reload UNIT
       /usr/bin/python3 -c "$(cat cluster.py)" CONFIGURATION CLUSTER NAME follow UNIT LOGIN [look]
       /usr/bin/python3 -c "$(cat cluster.py)" CONFIGURATION CLUSTER NAME agree [look] < WANTED

``reload`` has this server, whose name is given, read its files. It ends with 0 if that was enough, with 1 if it has to
be restarted, which does no harm any more then, and with 2 if it must not be. ``follow`` starts this server, waits until
it follows its primary, or is it, and has it get all data anew where the primary has not kept what it lacks, as it sees
by the login. It ends with 1 where the server does neither in time, and says what it has changed. ``agree`` has all
servers agree on what is read, and restarts those for which that takes a restart; where one does not come back it goes
no further, and they agree on what they did before, as they do after a run that was cut off. It says whether it has
changed something.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Members = dict[str, dict[str, Any]]
GOOD = ("running", "streaming")
# What takes as long as a server has data, or has to read of its log; and how often it is waited for so long.
MAKING = ("creating", "starting", "initializing", "running custom")
FOLLOWS = "select not pg_is_in_recovery() or exists (select from pg_stat_wal_receiver where status = 'streaming')"
REACHED = "select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
# Whether a primary is past a place and has nothing of its log there any more, on whatever timeline.
FORGOTTEN = (
    "select pg_current_wal_lsn() > '{0}' and not exists (select from pg_ls_dir('pg_wal', true, false) as name"
    " where length(name) = 24 and substr(name, 9) = substr(pg_walfile_name('{0}'::pg_lsn + 1), 9))"
)
# The key beside all that the servers agree on under which is kept what they did before, until it is proved.
BEFORE = "pacs_before"
TIMES = 3
# A server comes back within seconds; after a crash it reads its log first. How long one stays where it is that asks for
# what its primary does not have; it asks every five seconds. And how often to look, all in seconds.
PATIENCE, STILL, PAUSE = 180.0, 20.0, 1.0


class Stuck(Exception):
    """What does not go on."""


def run(*command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


class Cluster:
    """The servers, as Patroni sees them."""

    def __init__(self, configuration: str, cluster: str) -> None:
        self.configuration, self.name = configuration, cluster

    def tell(self, *words: str, given: str | None = None) -> str:
        """Give a command to Patroni. :raises Stuck: if it does not take it."""
        done = run("patronictl", "-c", self.configuration, *words, given=given)
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

    def go_back(self) -> None:
        """Have them agree on what they did before a run that was cut off, and say so."""
        found = self.agreement or {}
        if BEFORE in found:
            self.agree(found[BEFORE])
            print("The servers agree again on what they did before a run that was cut off.")

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
        self.tell("switchover", self.name, "--leader", leader, "--candidate", ready[0], "--force")
        self.wait(
            f"{ready[0]} has not taken the place of {leader}, which follows it",
            lambda now: primary(now) == ready[0] and good(now.get(leader)),
        )
        # The next one may be taken only once there is another one that has all.
        self.wait(f"no standby has all that {ready[0]} has", lambda now: "Sync Standby" in roles(now))
        return True

    def restart(self, name: str) -> None:
        self.tell("restart", self.name, name, "--force", "--pending")
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


def active(unit: str) -> bool:
    return run("systemctl", "is-active", "--quiet", unit).returncode == 0


def ask(cluster: str, question: str, elsewhere: str = "") -> str:
    where = ("-d", elsewhere) if elsewhere else ("--cluster", cluster)
    return run("runuser", "-u", "postgres", "--", "psql", *where, "-XAtqwc", question).stdout.strip()


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


def follow(cluster: Cluster, name: str, unit: str, login: str, look: bool) -> int:
    """Have this server follow its primary, or be it, as long as it runs."""
    here = unit.partition("@")[2].replace("-", "/", 1)
    if not look:
        with contextlib.suppress(Stuck):
            cluster.go_back()
        # One that was stopped may have been so for long.
        if not active(unit) and os.path.exists(cluster.configuration):
            print(f"{name} was started.")
            run("systemctl", "start", unit)
    end, place, since, anew = time.monotonic() + PATIENCE, "", 0.0, False
    making, times = False, 0
    while active(unit):
        if ask(here, FOLLOWS) == "t":
            return 0
        now, reached = time.monotonic(), ask(here, REACHED)
        if reached != place:
            place, since = reached, now
        with contextlib.suppress(Stuck):
            one = cluster.members.get(name, {"State": ""})
            before, making = making, one["State"].startswith(MAKING)
            times += making and not before
            # That may fail each time, as on a full disk.
            if making and times <= TIMES:
                end, since = now + PATIENCE, now
            elif place and not anew and now - since >= STILL and forgotten(here, place, login):
                print(f"{name} gets all data anew: its primary has not kept what it lacks.")
                if look:
                    return 0
                cluster.tell("reinit", cluster.name, name, "--force")
                end, anew = now + PATIENCE, True
        if now > end:
            return 1
        time.sleep(PAUSE)
    return 0


def forgotten(here: str, place: str, login: str) -> bool:
    """Whether the primary of a standby has no more what comes after a place in the log."""
    told = ask(here, "show primary_conninfo")
    there = f"{told} connect_timeout=5 dbname=postgres user={login}"
    return bool(told) and ask(here, FORGOTTEN.format(place), there) == "t"


def agree(cluster: Cluster, wanted: Any, look: bool) -> None:
    """Have all servers agree on something, or leave them as they are."""
    found = cluster.agreement
    if found == wanted and not any(map(due, cluster.members.values())):
        return
    print("changed")
    if look:
        return
    before = found.get(BEFORE, found)
    try:
        if found != wanted:
            # A run that is cut off leaves to the next one what to go back to.
            cluster.agree(wanted if before == wanted else {**wanted, BEFORE: before})
            # Each says what it has to be restarted for when it looks the next time; of what takes no restart none does.
            time.sleep(2 * int(before.get("loop_wait", 10)))
        cluster.restart_all()
        if found != wanted and before != wanted:
            cluster.agree(wanted)
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
        if verb == "follow":
            return follow(Cluster(configuration, cluster), name, more[0], more[1], more[2:] == ["look"])
        agree(Cluster(configuration, cluster), json.load(sys.stdin), more == ["look"])
        return 0
    except Stuck as stuck:
        print(stuck, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

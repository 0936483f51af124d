"""Another release that raises the schema of the index, with each database: dumped, kept closed, gone back, proved."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests.hosts.conftest import ANSWERS, QUICKSTART, ROOT, Lab
from tests.hosts.cuts import restart
from tests.hosts.test_database import image
from tests.hosts.test_lsb import NEW, OLD, STATE, Watch

pytestmark = pytest.mark.later
SINGLE = {"postgresql": ROOT / "inventories" / "single", "mysql": ROOT / "inventories" / "single-mysql"}
DUMPS = "/var/lib/pacs/orthanc/dumps"
# What the new release alone has in its index.
LABELS = {
    # While Orthanc runs, it keeps everybody else off it.
    "sqlite": 'systemctl stop orthanc; python3 -c "import sqlite3; print(*sqlite3.connect('
    "'/var/lib/orthanc/db-v6/index').execute('SELECT name FROM sqlite_master'))\"; systemctl start orthanc; " + ANSWERS,
    "postgresql": "runuser -u postgres -- psql -At orthanc -c '\\dt'",
    "mysql": "mariadb orthanc -N -e 'SHOW TABLES'",
}
# The unit takes the new release for one that ended: after it has raised the schema and answers, to root alone.
DROP_IN = "/etc/systemd/system/orthanc.service.d"
UNTIL_IT_ANSWERS = "until curl --silent --output /dev/null http://127.0.0.1:8042/; do sleep 0.5; done"
ONLY_OLD = f"ExecStartPost=+/bin/sh -c '{UNTIL_IT_ANSWERS}; test $$(readlink /opt/orthanc/current) = {OLD}'"


class Site:
    """One Orthanc with its proxy, its database, and images with metadata and an attachment."""

    def __init__(self, lab: Lab, inventory: pathlib.Path, database: str) -> None:
        self.lab, self._inventory, self.database = lab, inventory, database

    def play(self, playbook: str, release: str, check: bool = True, **variables: Any) -> str:
        asked = {"orthanc_install_method": "lsb", "orthanc_version": release} | variables
        return " ".join(self.lab.play(playbook, asked, inventory=self._inventory, check=check).stdout.split())

    def archive(self) -> dict[str, Any]:
        """Return all that the archive has, without what Orthanc makes up when it is asked."""
        with self.lab.session() as session:

            def get(path: str) -> requests.Response:
                answer = session.get(self.lab.url(path), timeout=30)
                assert answer.status_code == 200, f"{path}: {answer.text}"
                return answer

            found: dict[str, Any] = {}
            for name in get("/instances").json():
                here = f"/instances/{name}"
                metadata = get(f"{here}/metadata?expand").json()
                found[name] = {
                    "file": hashlib.sha256(get(f"{here}/file").content).hexdigest(),
                    "metadata": metadata,
                    "attachments": {
                        kind: hashlib.sha256(get(f"{here}/attachments/{kind}/data").content).hexdigest()
                        for kind in get(f"{here}/attachments").json()
                    },
                }
            return found

    def sql(self, statements: str) -> str:
        """Run statements in the database as its administrator."""
        program = "runuser -u postgres -- psql -qAt" if self.database == "postgresql" else "mariadb"
        return self.lab.shell(f"{program} orthanc <<'END'\n{statements};\nEND")

    @contextlib.contextmanager
    def at_labels(self, body: str) -> Iterator[None]:
        """Have PostgreSQL do something more when a release makes something there, of which the name is known."""
        self.sql(
            "CREATE FUNCTION public.more() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE name text; BEGIN"
            f" FOR name IN SELECT object_identity FROM pg_event_trigger_ddl_commands() LOOP {body} END LOOP; END $$;"
            " CREATE EVENT TRIGGER more ON ddl_command_end EXECUTE FUNCTION public.more()"
        )
        try:
            yield
        finally:
            self.sql("DROP EVENT TRIGGER more; DROP FUNCTION public.more()")

    def release(self) -> str:
        with self.lab.session() as session:
            return str(session.get(self.lab.url("/system"), timeout=30).json()["Version"])

    def schema(self) -> str:
        return self.lab.shell(LABELS[self.database]).lower()


def begin(lab: Lab, database: str) -> Site:
    """Deploy the old release, with some images; the new one is known, too."""
    inventory = SINGLE.get(database, QUICKSTART)
    lab.play("../lab/stand-in/prepare", inventory=inventory)
    made = Site(lab, inventory, database)
    for release in (NEW, OLD):
        made.play("lsb_lock", release)
    made.play("site", OLD)
    fill(made)
    return made


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """On the old release, with some images."""
    database = request.param
    lab = Lab(f"schema-{database}", mirror="lsb-mirror", pacs="lsb")
    made = begin(lab, database)
    yield made
    if not os.environ.get("PACS_KEEP_LABS"):
        lab.destroy()


def fill(site: Site) -> None:
    with site.lab.session() as session:
        for number in range(8):
            answer = session.post(site.lab.url("/instances"), data=image(number), timeout=30)
            here = site.lab.url(f"/instances/{answer.json()['ID']}")
            assert session.put(f"{here}/metadata/1024", data=f"of {number}", timeout=30).status_code == 200
            assert session.put(f"{here}/attachments/1025", data=b"note" * number, timeout=30).status_code == 200


class Clients:
    """Send images all the time, by the proxy and by DICOM, and keep what was answered."""

    def __init__(self, site: Site) -> None:
        self.stored: list[str] = []
        # With how long to wait, where the proxy says so.
        self.codes: set[tuple[int, str]] = set()
        self._site, self._stop = site, threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        with self._site.lab.session() as session:
            for number in range(100, 900):
                if self._stop.wait(0.1):
                    break
                with contextlib.suppress(requests.RequestException):
                    answer = session.post(self._site.lab.url("/instances"), data=image(number), timeout=30)
                    self.codes.add((answer.status_code, answer.headers.get("Retry-After", "")))
                    if answer.status_code == 200:
                        self.stored.append(answer.json()["ID"])

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()


def test_schema_change_that_fails_half_way(site: Site) -> None:
    """PostgreSQL takes all of it back by itself, and the release of before serves again."""
    if site.database != "postgresql":
        pytest.skip("only PostgreSQL has event triggers")
    before, schema = site.archive(), site.schema()
    with site.at_labels("IF name LIKE '%labelsindex2%' THEN RAISE EXCEPTION 'half way'; END IF;"):
        printed = site.play("site", NEW, check=False)
    assert "PostgreSQL error: ERROR: half way" in printed, printed
    assert "The configuration that worked last is back, and Orthanc serves with it." in printed
    assert "is as it was dumped" not in printed, "nothing was to come back"
    assert (site.release(), site.archive(), site.schema()) == (OLD, before, schema)


def test_release_that_ends_after_it_raised_the_schema_goes_back(site: Site) -> None:
    """Nobody reaches it meanwhile, and nothing that was acknowledged before or after is lost."""
    before, schema = site.archive(), site.schema()
    assert "labels" not in schema
    site.lab.shell(f"mkdir {DROP_IN}; cat > {DROP_IN}/test.conf <<'END'\n[Service]\n{ONLY_OLD}\nEND")
    with Clients(site) as clients:
        printed = site.play("site", NEW, check=False)
    site.lab.shell(f"rm -r {DROP_IN} && systemctl daemon-reload")
    assert "The configuration that worked last is back, and Orthanc serves with it." in printed, printed
    assert f"is as it was dumped to {DUMPS}/" in printed
    assert site.release() == OLD
    assert site.schema() == schema
    archive = site.archive()
    assert {name: archive[name] for name in before} == before
    assert clients.stored
    assert clients.codes == {(200, ""), (503, "10")}
    # More than that are those of which nobody heard, since Orthanc was stopped.
    assert set(clients.stored) <= set(archive)
    assert "orthanc_proof" not in site.lab.shell("nft list tables")


# A new release that hangs, and hears of no end.
HANGS = rf"""
mkdir -p /opt/hangs {DROP_IN}
printf '#!/bin/sh\ntrap "" TERM\nwhile :; do sleep 1; done\n' > /opt/hangs/Orthanc
printf '#!/bin/sh\n[ $(readlink /opt/orthanc/current) = {OLD} ] || exec /opt/hangs/Orthanc\n%s\n' \
    'exec /opt/orthanc/current/Orthanc /etc/pacs/orthanc' > /opt/hangs/start
printf '[Service]\nExecStart=\nExecStart=/opt/hangs/start\n' > {DROP_IN}/test.conf
chmod 755 /opt/hangs/*
"""


def test_release_that_hangs_goes_back(site: Site) -> None:
    """Within twice the time-out, and what a killed process may take to end."""
    if site.database != "sqlite":
        pytest.skip("it does not depend on the database")
    before = site.archive()
    site.lab.shell(HANGS)
    with Watch(site.lab) as watch:
        printed = site.play("site", NEW, check=False, orthanc_ready_timeout=20)
    print(f"{watch.gap:.0f} s")
    site.lab.shell(f"rm -r {DROP_IN} && systemctl daemon-reload")
    assert "Orthanc is not ready after" in printed, printed
    assert "The configuration that worked last is back, and Orthanc serves with it." in printed
    assert "is as it was dumped" not in printed
    assert watch.gap < 120
    assert (site.release(), site.archive()) == (OLD, before)


def test_release_is_dumped_before_and_proved(site: Site) -> None:
    """Also where the change takes longer than an answer may."""
    before = site.archive()
    slow = site.at_labels("IF name = 'public.labels' THEN PERFORM pg_sleep(40); END IF;")
    with slow if site.database == "postgresql" else contextlib.nullcontext():
        printed = site.play("site", NEW, orthanc_ready_timeout=20)
    assert "is to take the place of" in printed
    assert "Before another release runs," in printed
    if site.database == "postgresql":
        told = site.lab.shell("journalctl --output cat --grep 'is worked on'")
        assert "Orthanc does not answer yet, and the database orthanc on 127.0.0.1 is worked on: for 00:00:" in told
    assert site.release() == NEW
    after = site.archive()
    assert {name: one["file"] for name, one in after.items()} == {name: one["file"] for name, one in before.items()}
    for name, one in before.items():
        assert one["metadata"].items() <= after[name]["metadata"].items()
        assert one["attachments"].items() <= after[name]["attachments"].items()
    dumps = site.lab.shell(f"ls {DUMPS}").split()
    assert len(dumps) == 1
    assert site.lab.shell(f"find {DUMPS} -perm /077 -o ! -user root").strip() == ""
    assert site.lab.shell(f"cat {DUMPS}/*/current").strip() == OLD
    assert "RegisteredUsers" in site.lab.shell(f"cat {DUMPS}/*/credentials.json")
    recap = site.play("site", NEW).rpartition("PLAY RECAP")[2]
    assert "changed=0" in recap


def test_release_that_does_not_read_the_index_is_refused(site: Site) -> None:
    if site.database == "sqlite":
        pytest.skip("every release reads it")
    if site.database == "postgresql":
        site.sql("UPDATE globalproperties SET value = '2' WHERE property = 4")
    state = site.lab.shell(STATE)
    printed = site.play("site", OLD, check=False)
    assert "reads an index up to revision" in printed
    assert "Nothing was changed." in printed
    assert site.lab.shell(STATE) == state
    assert site.release() == NEW


# The module that changes the host holds its lock.
KILL = "kill -9 $(sed 's/.* process \\([0-9]*\\),.*/\\1/' /run/pacs.lock)"


@pytest.mark.parametrize("what", ["the module", "the host", "the host in order"])
def test_run_that_is_killed_before_the_proof_leaves_the_release_running(site: Site, what: str) -> None:
    """Nobody reached it until then. Others do now, so that nothing goes back any more, and the next run ends well.

    A host that goes down ends the release before the module, which must not take that for its own end.
    """
    if site.database != "sqlite":
        pytest.skip("it does not depend on the database")
    lab = site.lab
    site.play("site", OLD)
    held = "ExecStartPost=/bin/sh -c 'while [ -e /run/held ]; do sleep 0.2; done'"
    lab.shell(f"touch /run/held; mkdir {DROP_IN}; cat > {DROP_IN}/test.conf <<'END'\n[Service]\n{held}\nEND")
    run = threading.Thread(target=site.play, args=("site", NEW, False))
    run.start()
    try:
        wait(lambda: "orthanc_proof" in lab.shell("nft list tables"))
        wait(
            lambda: lab.shell("readlink /proc/$(pidof -s Orthanc)/exe", check=False) == f"/opt/orthanc/{NEW}/Orthanc\n"
        )
        with lab.session() as session:
            answer = session.get(lab.url("/system"), timeout=30)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((lab.address["pacs"], 4242), timeout=10)
        lab.shell(f"rm -r {DROP_IN}; systemctl daemon-reload")
        if what == "the module":
            lab.shell(f"{KILL}; rm /run/held")
        else:
            restart(lab, *(["stop", "--time=60"] if what == "the host in order" else []))
    finally:
        run.join()
    wait(lambda: "orthanc_proof" not in lab.shell("nft list tables"))
    with lab.session() as session:
        wait(lambda: session.get(lab.url("/system"), timeout=30).status_code == 200)
        acknowledged = session.post(lab.url("/instances"), data=image(1000 + len(what)), timeout=30).json()["ID"]
    assert site.release() == NEW
    # Whichever release the next run asks for.
    release = OLD if what == "the module" else NEW
    printed = site.play("site", release)
    assert "is as it was dumped" not in printed
    assert site.release() == release
    assert acknowledged in site.archive()
    assert "orthanc_proof" not in lab.shell("nft list tables")
    assert "upgrade.json" not in lab.shell("ls /var/lib/pacs/orthanc")


def wait(there: Callable[[], bool]) -> None:
    """Wait until it is so, for so long that a busy machine is no reason why it is not."""
    deadline = time.monotonic() + 600
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.5)

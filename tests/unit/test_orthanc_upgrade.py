"""Another release: its index is dumped, it is kept closed until its proof, and what it did to the index goes back."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import pathlib
import sqlite3
import stat
import subprocess
import time
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import orthanc_upgrade
from ansible_collections.dicom.orthanc.plugins.module_utils.files import MARK, Refused, Writer
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_index import Sqlite
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_upgrade import ports, same_plugin
from ansible_collections.dicom.orthanc.plugins.modules import orthanc_service

from tests.unit import test_orthanc_service_runs as runs
from tests.unit.module import OWNER, Systemd, killed

# Fixtures.
START = runs.START[3]
call, port, systemd, told = runs.call, runs.port, runs.systemd, runs.told

# The packet filter with the table before the proof, as a file; it takes no words but those that it is given here.
NFT = """
cd "$(dirname "$0")"
case "$*" in
"list table inet orthanc_proof") [ -e closed ] ;;
"list "*) exit 1 ;;
"delete table inet orthanc_proof") echo open >> gate; rm closed ;;
"--check table inet orthanc_proof; "*) [ ! -e filtered ] || { echo why >&2; exit 1; } ;;
"table inet orthanc_proof; delete table inet orthanc_proof; table "*)
    [ ! -e refuses ] || { echo why >&2; exit 1; }; echo "$*" > rules; echo closed >> gate; touch closed ;;
*) exit 2 ;;
esac
"""


class Site:
    """An Orthanc whose second release raises the schema of its index as soon as it is started."""

    def __init__(self, folder: pathlib.Path, systemd: Systemd, call: runs.Call) -> None:
        self.folder, self.systemd, self._call = folder, systemd, call
        self.index, self.dumps = folder / "db" / "index", folder / "dumps"
        self.index.parent.mkdir()
        made = [folder / name for name in ("first", "raised")]
        for number, path in enumerate(made):
            with sqlite3.connect(path) as connection:
                connection.execute("CREATE TABLE GlobalProperties (property INTEGER PRIMARY KEY, value TEXT)")
                connection.execute("INSERT INTO GlobalProperties VALUES (1, '6')")
                if number:
                    connection.execute("CREATE TABLE Labels (id INTEGER)")
            connection.close()
        self.before, self.raised = (path.read_bytes() for path in made)
        self.index.write_bytes(self.before)
        systemd.program("nft", NFT)
        # Keeps what it is given, for the test to run it.
        systemd.program("systemd-run", 'for last; do true; done; echo "$last" > "$(dirname "$0")/watch"')
        # Whether it is closed is looked at while it starts. It does not answer where it is not to work.
        systemd.write(
            "works",
            f"if grep -q /2/ {folder}/units/orthanc.service; then cp {folder}/raised {self.index};"
            f" [ -e {systemd.folder}/closed ] || touch {systemd.folder}/reached; [ ! -e {systemd.folder}/bad ]; fi",
        )

    def call(self, release: int, **more: Any) -> dict[str, Any]:
        return self._call(
            json.dumps({"StorageDirectory": str(self.index.parent), "DicomPort": 11112}),
            start=f"/opt/{release}/Orthanc",
            **{"dump_dir": str(self.dumps)} | more,
        )

    def is_closed(self) -> bool:
        return (self.systemd.folder / "closed").exists()

    def kept(self) -> bool:
        return (self.folder / "state" / "upgrade.json").exists()

    def dumped(self) -> bool:
        """Tell whether a call that was killed has made a whole dump."""
        if not self.kept():
            return False
        folder, schema, _back = json.loads((self.folder / "state" / "upgrade.json").read_text("utf-8"))["upgrade"]
        return bool(schema and (pathlib.Path(folder) / "index").read_bytes() == self.before)


@pytest.fixture
def site(
    tmp_path: pathlib.Path,
    systemd: Systemd,
    call: runs.Call,
    monkeypatch: pytest.MonkeyPatch,
) -> Site:
    monkeypatch.setattr(orthanc_upgrade, "NFT", str(systemd.folder / "nft"))
    made = Site(tmp_path, systemd, call)
    assert made.call(1)["changed"]
    assert not made.dumps.exists(), "a first start changes nothing that was there"
    return made


def test_index_is_dumped_and_nobody_reaches_the_release_until_it_is_proved(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    port: int,
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    site.systemd.calls()
    assert site.call(2)["changed"]
    assert site.systemd.calls() == ["stop orthanc.service", "daemon-reload", "stop orthanc.service", START]
    (dump,) = site.dumps.iterdir()
    assert warnings == [f"Before another release runs, the index in {site.index.parent} was dumped to {dump}, in 0 s."]
    assert (dump / "index").read_bytes() == site.before
    assert site.index.read_bytes() == site.raised
    assert "/opt/1/Orthanc" in (dump / "orthanc.service").read_text("utf-8")
    assert "secret" in (dump / "credentials.json").read_text("utf-8")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (site.dumps, dump)} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in dump.iterdir()} == {0o600}
    assert (site.systemd.folder / "gate").read_text("utf-8") == "closed\nclosed\nopen\n"
    rules = (site.systemd.folder / "rules").read_text("utf-8")
    assert rules.count(f"tcp dport {{ {', '.join(map(str, sorted([port, 11112])))} }} reject with tcp reset") == 2
    assert not (site.systemd.folder / "reached").exists()
    assert not site.kept()
    assert site.call(2)["changed"] is False


def test_links_of_one_name_of_two_install_methods_are_both_told(site: Site) -> None:
    kept = site.folder / "state" / "last.json"
    links = {f"/opt/{name}/current": [f"{name}-1"] for name in ("orthanc", "orthanc-source")}
    kept.write_text(json.dumps(json.loads(kept.read_text("utf-8")) | links), "utf-8")
    assert site.call(2)["changed"]
    (dump,) = site.dumps.iterdir()
    told = {path.name: path.read_text("utf-8") for path in dump.iterdir() if path.name.endswith("current")}
    assert told == {"opt_orthanc_current": "orthanc-1", "opt_orthanc-source_current": "orthanc-source-1"}


def test_one_dump_is_kept(site: Site) -> None:
    for name in ("20200101T000000.000000", "20200102T000000.000000", "mine"):
        (site.dumps / name).mkdir(parents=True)
        (site.dumps / name / "index").touch()
    (site.dumps / "20200101T000000.000000" / MARK).touch()
    site.call(2)
    left = sorted(os.listdir(site.dumps))
    assert (len(left), left[0], left[2]) == (3, "20200102T000000.000000", "mine"), "what has no mark is of others"


def test_release_that_runs_already_is_no_other(site: Site) -> None:
    """The host was restarted before it was proved, and has started it: a dump now would be of what it has made."""
    killed_behind_the_gate(site)
    (site.systemd.folder / "closed").unlink()
    dumps = os.listdir(site.dumps)
    subprocess.run(["systemctl", "restart", "orthanc.service"], check=True)
    site.systemd.calls()
    assert "failed" not in site.call(2)
    assert site.systemd.calls() == ["daemon-reload"]
    assert os.listdir(site.dumps) == dumps


def test_files_that_cannot_be_written_leave_the_release_of_before(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def purge(*_words: Any) -> None:
        raise Refused("there is no room.")

    monkeypatch.setattr(Writer, "purge", purge)
    said = site.call(2)["msg"]
    assert said == "there is no room. Orthanc runs as before, and its files are those of before."
    assert (site.systemd.folder / "active").exists()
    assert "/opt/1/" in (site.folder / "units" / "orthanc.service").read_text("utf-8")
    assert site.index.read_bytes() == site.before
    assert (site.is_closed(), site.kept()) == (False, False)


def test_dumps_of_before_stay_while_no_release_works(site: Site) -> None:
    """They may be the only ones that an older release reads."""
    (site.dumps / "20200101T000000.000000").mkdir(parents=True)
    (site.dumps / "20200101T000000.000000" / MARK).touch()
    site.systemd.write("works", "false")
    assert "does not work any more either" in site.call(2)["msg"]
    assert len(os.listdir(site.dumps)) == 2


def test_release_that_does_not_work_goes_back_with_its_index(site: Site) -> None:
    site.systemd.write("bad")
    said = site.call(2)
    assert "The configuration that worked last is back, and Orthanc serves with it." in said["msg"]
    assert site.index.read_bytes() == site.before
    assert "/opt/1/" in (site.folder / "units" / "orthanc.service").read_text("utf-8")
    assert (site.is_closed(), site.kept()) == (False, False)
    assert not (site.systemd.folder / "reached").exists()
    (site.systemd.folder / "bad").unlink()
    assert site.call(1)["changed"] is False


@pytest.mark.parametrize("first", ["a link", "none"])
def test_release_of_another_method_goes_back_with_its_index(site: Site, port: int, first: str) -> None:
    """From what a link leads to, to what has none, such as a container; and from that to what has one."""
    links = site.folder / "opt"
    for release in ("1", "2"):
        (links / release).mkdir(parents=True)
        (links / release / "Orthanc").touch()

    def call(release: int, link: bool) -> dict[str, Any]:
        start = f"{links}/current/Orthanc --as=/{release}/x" if link else f"/opt/{release}/Orthanc"
        wanted = [
            {
                "path": f"{site.folder}/orthanc/orthanc.json",
                "content": json.dumps({"StorageDirectory": str(site.index.parent)}),
            },
            {
                "path": f"{site.folder}/orthanc/credentials.json",
                "content": json.dumps({"HttpPort": port, "RegisteredUsers": {"admin": "secret"}}),
            },
            {"path": f"{site.folder}/units/orthanc.service", "content": f"ExecStart={start} {site.folder}/orthanc\n"},
        ] + [{"path": f"{links}/current", "link": str(release)}] * link
        programs = [f"{links}/{release}/Orthanc"] if link else []
        return site.call(release, files=[OWNER | item for item in wanted], programs=programs)

    linked = first == "a link"
    assert "failed" not in call(1, linked)
    site.systemd.write("bad")
    said = call(2, not linked)["msg"]
    assert "The configuration that worked last is back, and Orthanc serves with it." in said
    assert site.index.read_bytes() == site.before
    assert (links / "current").is_symlink() is linked
    (site.systemd.folder / "bad").unlink()
    assert call(1, linked)["changed"] is False
    assert "failed" not in call(2, not linked)
    assert call(2, not linked)["changed"] is False
    assert len(os.listdir(site.dumps)) == 1


def test_host_that_goes_down_meanwhile_goes_back_nowhere(site: Site) -> None:
    """The release ends with it. Half a way back would leave an older one on an index that it may not read."""
    site.systemd.write("bad")
    works = (site.systemd.folder / "works").read_text("utf-8")
    site.systemd.write("works", f"touch {site.systemd.folder}/stopping; {works}")
    assert "This host is going down meanwhile" in site.call(2)["msg"]
    assert "/opt/2/" in (site.folder / "units" / "orthanc.service").read_text("utf-8")
    assert site.index.read_bytes() == site.raised
    (dump,) = site.dumps.iterdir()
    # The host has started it again.
    for name in ("bad", "stopping"):
        (site.systemd.folder / name).unlink()
    site.systemd.write("works", works)
    subprocess.run(["systemctl", "restart", "orthanc.service"], check=True)
    assert "failed" not in site.call(2)
    assert (dump / "index").read_bytes() == site.before
    assert (site.is_closed(), site.kept()) == (False, False)


def test_index_that_was_not_changed_is_left_alone(site: Site) -> None:
    site.systemd.write("bad")
    site.systemd.write("works", f"! grep -q /2/ {site.folder}/units/orthanc.service")
    before = site.index.stat().st_mtime_ns
    assert "Orthanc serves with it" in site.call(2)["msg"]
    assert site.index.stat().st_mtime_ns == before


@pytest.mark.parametrize("what", ["filter", "room", "no filter"])
def test_what_is_missing_is_told_before_anything_is_changed(
    site: Site, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    site.systemd.calls()
    if what == "filter":
        site.systemd.write("filtered")
    elif what == "room":
        monkeypatch.setattr(orthanc_upgrade, "free_bytes", lambda _path: 2**20)
        os.truncate(site.index, 2**21)
    else:
        monkeypatch.setattr(orthanc_upgrade, "NFT", "/none")
    said = site.call(2)["msg"]
    words = {
        "filter": "cannot keep others off until the proof: why.",
        "room": "takes up to 2 MiB to dump before another release changes it, and",
        "no filter": "cannot keep others off until the proof: it is not installed.",
    }
    assert words[what] in said
    assert said.endswith("Orthanc runs as before, and its configuration is as it was.")
    assert "/opt/1/" in (site.folder / "units" / "orthanc.service").read_text("utf-8")
    assert site.systemd.calls() == []


def test_index_that_does_not_come_back_is_tried_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call does so, though the host was restarted meanwhile; Orthanc is not started on half an index."""
    site.systemd.write("bad")
    real = Sqlite.restore

    def half(_index: Sqlite, _folder: str) -> None:
        site.index.write_bytes(b"half")
        raise Refused("there is no room.")

    monkeypatch.setattr(Sqlite, "restore", half)
    said = site.call(2)["msg"]
    assert f"the index in {site.index.parent} does not come back from {site.dumps}/" in said
    assert ": there is no room. The next run tries it again; until then Orthanc stays stopped." in said
    folder = site.systemd.folder
    assert [(folder / name).exists() for name in ("active", "enabled", "closed")] == [False, False, True]
    (folder / "closed").unlink()
    monkeypatch.setattr(Sqlite, "restore", real)
    assert site.call(1)["changed"]
    assert site.index.read_bytes() == site.before
    assert [(folder / name).exists() for name in ("active", "enabled", "closed")] == [True, True, False]
    assert not site.kept()


def test_release_is_not_started_where_others_would_reach_it(site: Site) -> None:
    site.systemd.write("refuses")
    site.systemd.calls()
    said = site.call(2)["msg"]
    assert "cannot keep others off until the proof: why. " in said
    assert "Orthanc runs as before, and its configuration is as it was." in said
    assert "stop orthanc.service" not in site.systemd.calls()
    assert site.index.read_bytes() == site.before
    assert not site.kept()


def test_dump_that_fails_leaves_no_half(site: Site) -> None:
    site.index.chmod(0o600)
    site.index.write_bytes(b"spoilt" * 100)
    said = site.call(2)["msg"]
    assert "cannot be read: file is not a database" in said
    assert said.endswith("Orthanc runs as before, and its configuration is as it was.")
    assert (site.systemd.folder / "active").exists()
    assert "/opt/1/" in (site.folder / "units" / "orthanc.service").read_text("utf-8")
    assert not site.dumps.exists() or not os.listdir(site.dumps)
    assert (site.is_closed(), site.kept()) == (False, False)


@pytest.mark.parametrize("bad", [False, True])
def test_call_that_is_killed_is_finished_or_put_back_by_the_next_one(site: Site, bad: bool) -> None:
    """Whichever the next one asks for, the index is the one that its release has made or found."""
    # A few of the steps; STEPS=1 tries each.
    for step in itertools.count(1 + bad, int(os.environ.get("STEPS", "9"))):
        site.call(1)
        site.index.write_bytes(site.before)
        if bad:
            site.systemd.write("bad")
        alive = not killed(lambda: site.call(2), step)
        (site.systemd.folder / "bad").unlink(missing_ok=True)
        # From then on it serves, and images may have come.
        proved = "/opt/2/" in (site.folder / "state" / "last.json").read_text("utf-8")
        unit = (site.folder / "units" / "orthanc.service").read_text("utf-8")
        assert site.dumped() or proved or "/opt/1/" in unit, "a restart of the host would start it without a dump"
        release = 1 + step % 2
        said = site.call(release)
        assert "failed" not in said, (step, said)
        assert site.index.read_bytes() == (site.before if release == 1 and not proved else site.raised), step
        assert (site.is_closed(), site.kept()) == (False, False), step
        # Of an older one the rest is removed with the next release.
        newest = sorted(site.dumps.glob("*"))[-1:]
        assert all({MARK, "index"} <= set(os.listdir(dump)) for dump in newest), step
        if alive:
            break
    assert step > 40


def test_call_that_is_killed_leaves_orthanc_running(site: Site) -> None:
    """The host sees to that by itself. Others reach it then, so that nothing is taken back any more."""
    for step in itertools.count(2, int(os.environ.get("STEPS", "11"))):
        site.call(1)
        site.index.write_bytes(site.before)
        (site.systemd.folder / "watch").unlink(missing_ok=True)
        alive = not killed(lambda: site.call(2), step)
        watch = site.systemd.folder / "watch"
        if watch.exists():
            subprocess.run(["sh", watch], check=True)
        assert (site.systemd.folder / "active").exists(), step
        assert not site.is_closed(), step
        index, release = site.index.read_bytes(), 1 + step % 2
        said = site.call(release)
        assert "failed" not in said, (step, said)
        assert site.index.read_bytes() == (index if release == 1 else site.raised), step
        assert (site.is_closed(), site.kept()) == (False, False), step
        if alive:
            break
    assert step > 40


def killed_behind_the_gate(site: Site) -> None:
    """Have a call killed after it has started another release."""
    for step in itertools.count(30, 2):
        site.call(1)
        site.index.write_bytes(site.before)
        assert killed(lambda: site.call(2), step)
        if site.is_closed() and site.index.read_bytes() == site.raised:
            break


def test_call_that_is_killed_leaves_no_gate_to_one_that_dumps_nothing(site: Site) -> None:
    killed_behind_the_gate(site)
    assert "failed" not in site.call(2, dump_dir="")
    assert (site.is_closed(), site.kept()) == (False, False)
    assert site.index.read_bytes() == site.raised


def test_release_that_others_have_reached_takes_nothing_back(site: Site) -> None:
    """The host was restarted after a call was killed: the packet filter has no table of ours any more."""
    killed_behind_the_gate(site)
    (site.systemd.folder / "closed").unlink()
    site.call(1)
    assert site.index.read_bytes() == site.raised


def test_release_that_others_have_reached_meanwhile_takes_nothing_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reloads the packet filter's rules takes ours out, while the release is waited for."""
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    site.systemd.write("bad")
    works = (site.systemd.folder / "works").read_text("utf-8")
    site.systemd.write("works", f"rm -f {site.systemd.folder}/closed; {works}")
    site.call(2)
    assert site.index.read_bytes() == site.raised
    assert "others may have reached the release" in warnings[-1]
    assert "/opt/1/" in (site.folder / "units" / "orthanc.service").read_text("utf-8")


def test_orthanc_that_is_started_during_the_dump(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the restart of its database, say. What it has stored since would be lost by a way back."""
    dump = Sqlite.dump

    def started(index: Sqlite, folder: str) -> None:
        dump(index, folder)
        assert site.is_closed(), "nobody sends to it"
        subprocess.run(["systemctl", "restart", "orthanc.service"], check=True)

    monkeypatch.setattr(Sqlite, "dump", started)
    said = site.call(2)["msg"]
    assert "Orthanc was started while its index was dumped." in said
    assert site.index.read_bytes() == site.before
    assert (site.is_closed(), os.listdir(site.dumps)) == (False, [])
    assert "/opt/1/" in (site.folder / "units" / "orthanc.service").read_text("utf-8")


def test_package_that_was_upgraded_is_another_release_until_it_is_started(site: Site) -> None:
    program = site.folder / "Orthanc"
    program.touch()
    subprocess.run(["systemctl", "restart", "orthanc.service"], check=True)
    assert "failed" not in site.call(1, programs=[str(program)])
    (site.systemd.folder / "enabled").unlink()
    assert site.call(1, programs=[str(program)])["changed"]
    assert not site.dumps.exists(), "the package has started it itself"
    # The times of files are those of the kernel's last tick.
    time.sleep(0.05)
    program.chmod(0o755)
    assert site.call(1, programs=[str(program)])["changed"]
    assert len(os.listdir(site.dumps)) == 1


def test_ports_of_all_tenants_are_closed() -> None:
    assert ports({}) == [4242, 8042]
    assert ports({"DicomServerEnabled": False}) == [8042], "another program may have the other one"
    tenants = {"MultitenantDicom": {"Servers": [{"Port": 4243}, {"AET": "x"}]}}
    assert ports({"HttpPort": 80, "DicomPort": 104} | tenants) == [80, 104, 4243]


def test_plugin_that_is_loaded_is_known_by_its_content(tmp_path: pathlib.Path) -> None:
    library, other = tmp_path / "libOrthancMySQLIndex.so", tmp_path / "new" / "libOrthancMySQLIndex.so"
    other.parent.mkdir()
    process = str(os.getpid())
    for path in (library, other):
        path.write_bytes(b"x" * 8192)
    assert not same_plugin([str(other)], process), "it is not loaded"
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert same_plugin(["/usr/sbin/Orthanc", str(other)], process)
        library.unlink()
        assert same_plugin([str(other)], process), "an upgrade has put another one in its place"
        other.write_bytes(b"y" * 8192)
        assert not same_plugin([str(other)], process)
        assert not same_plugin(["/usr/sbin/Orthanc"], process), "SQLite has no plugin"
    assert not same_plugin([str(other)], "0")


PROGRAM = "/opt/FILES/FILE/Orthanc"


class Trial:
    """A module that tries a release, and an index on a server."""

    where = "the database orthanc on db"

    def __init__(self, database: str, said: str, **more: Any) -> None:
        self.params = {"database": database, "programs": [], "trial": [PROGRAM, "--at=FILE:FILE:ro", "FILE"]} | more
        self.said, self.ran, self.asked = said, [], {}  # type: ignore[var-annotated]
        self.found: int | None = 1

    def run_command(self, command: list[str], **_options: Any) -> tuple[int, str, str]:
        self.ran = command
        self.asked = json.loads(pathlib.Path(command[-1]).read_text("utf-8"))
        assert stat.S_IMODE(os.stat(command[-1]).st_mode) == 0o644
        return 255, "", self.said

    def revision(self) -> int:
        if self.found is None:
            raise Refused("it does not answer.")
        return self.found


REGISTERS = "W1129 20:17:06.9 MAIN PluginsManager.cpp:287] Registering plugin 'x-index' (version {})\nE1129 Stopped"
ORTHANC = "W1129 20:17:06.9 main.cpp:2000] Orthanc version: {}\nE1129 Stopped"
POSTGRESQL = {"Plugins": ["/plugins/libOrthancDicomWeb.so", "/plugins/libOrthancPostgreSQLIndex.so"]}


@pytest.fixture
def trials(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(orthanc_upgrade, "TRIALS", str(tmp_path))
    monkeypatch.setattr(orthanc_upgrade, "index_of", lambda module, _database, _settings: module)
    return tmp_path


def test_plugin_that_does_not_read_the_index_is_known_by_what_it_says(trials: pathlib.Path) -> None:
    trial = Trial("postgresql", REGISTERS.format("5.0"))
    trial.found = 2
    with pytest.raises(orthanc_upgrade.Unread) as told:
        orthanc_upgrade.readable(trial, POSTGRESQL)
    assert "libOrthancPostgreSQLIndex.so 5.0, which comes with the Orthanc that is asked for, reads an" in str(
        told.value
    )
    assert "an index up to revision 1 of the schema, and the database orthanc on db has 2. Stay with" in str(told.value)
    (*timeout, program, mount, file), left = trial.ran, list(trials.iterdir())
    assert (program, mount, left) == (PROGRAM, f"--at={file}:{file}:ro", [])
    # One that hangs may not hear that it is to end.
    assert timeout == ["timeout", "--kill-after=10", "60"]
    # It has neither a section for the plugin, nor an index of its own, nor a port.
    assert set(trial.asked) == {
        *("Plugins", "StorageDirectory", "IndexDirectory", "HttpServerEnabled", "DicomServerEnabled"),
    }
    assert trial.asked["Plugins"] == ["/plugins/libOrthancPostgreSQLIndex.so"]
    assert not os.path.exists(trial.asked["IndexDirectory"])


@pytest.mark.usefixtures("trials")
def test_release_that_cannot_write_to_an_index_in_sqlite_is_known_by_what_it_says() -> None:
    """An image of the operator's own, say: Orthanc 1.10 opens the index, answers, and refuses every image."""
    trial = Trial("sqlite", ORTHANC.format("1.10.1"))
    with pytest.raises(orthanc_upgrade.Unread, match="would refuse every image") as told:
        orthanc_upgrade.readable(trial, {"StorageDirectory": "/srv/dicom"})
    assert str(told.value).startswith("orthanc_version, orthanc_docker_image: Orthanc 1.10.1 would")
    assert trial.asked["Plugins"] == []


@pytest.mark.parametrize(
    "database, said, found, more",
    [
        ("postgresql", REGISTERS.format("6.0"), 2, {}),
        ("postgresql", "nothing", 2, {}),
        ("postgresql", REGISTERS.format("5.0"), 1, {}),
        ("postgresql", REGISTERS.format("5.0"), None, {}),
        ("postgresql", REGISTERS.format("5.0"), 2, {"trial": []}),
        ("mysql", REGISTERS.format("5.0"), 7, {"programs": ["/opt/libOrthancMySQLIndex.so"]}),
        ("sqlite", ORTHANC.format("1.12.7"), 1, {}),
        ("sqlite", ORTHANC.format("1.10.1"), 0, {}),
        ("sqlite", ORTHANC.format("1.10.1"), None, {}),
        ("sqlite", "nothing", 1, {}),
    ],
)
@pytest.mark.usefixtures("trials")
def test_plugin_that_reads_the_index_or_may_do_so(
    database: str, said: str, found: int | None, more: dict[str, Any]
) -> None:
    """One of which nothing is known tells it itself."""
    trial = Trial(database, said, **more)
    trial.found = found
    orthanc_upgrade.readable(trial, POSTGRESQL)
    assert bool(trial.ran) is bool(trial.params["trial"] and (found or 0) > (0 if database == "sqlite" else 1))
    # Where the release is beside the one that runs, the link that the configuration names leads to that.
    expected = [*more.get("programs", []), *POSTGRESQL["Plugins"]]
    assert (
        not trial.ran
        or trial.asked["Plugins"] == [path for path in expected if "SQLIndex" in path and database != "sqlite"][:1]
    )


def test_release_that_does_not_read_the_index_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with a dump nor without one, and a dry run says it too; what is asked for besides is no part of it."""

    def refuse(_module: AnsibleModule, settings: dict[str, Any]) -> None:
        assert settings["DicomPort"] == 11112
        raise orthanc_upgrade.Unread("It does not read the index.")

    monkeypatch.setattr(orthanc_service, "readable", refuse)
    site.systemd.calls()
    for more in ({}, {"dump_dir": ""}, {"_ansible_check_mode": True}):
        said = site.call(2, **more)["msg"]
        assert said == "It does not read the index. Orthanc runs as before, and its configuration is as it was."
    assert site.systemd.calls() == []
    assert "/opt/1/" in (site.folder / "units" / "orthanc.service").read_text("utf-8")
    assert site.call(1)["changed"] is False

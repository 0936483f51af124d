"""The module site_probe from its call to its end, on hosts in states that are rare or bad."""

from __future__ import annotations

import builtins
import hashlib
import http.server
import json
import os
import pathlib
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from ansible_collections.dicom.orthanc.plugins.module_utils import docker_daemon
from ansible_collections.dicom.orthanc.plugins.module_utils.probe import packages
from ansible_collections.dicom.orthanc.plugins.modules import site_probe

from tests.repository import ROOT
from tests.unit.module import Systemd, run

Call = Callable[..., dict[str, Any]]
UNITS = ("fail2ban", "docker", "nginx")
# In the order in which systemd was asked.
STATE = "LoadState={}\nActiveState={}\nUnitFileState={}\n"


@pytest.fixture
def programs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    """A host without a package, on which no program says anything, and no process runs."""
    made = Systemd(tmp_path / "bin", monkeypatch)
    for name in ("dpkg-query", "apt-cache", "ss", "systemctl", "docker"):
        made.program(name, "true")
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [] if path == "/proc" else listdir(path))
    return made


@pytest.fixture
def call(tmp_path: pathlib.Path, programs: Systemd, capsys: pytest.CaptureFixture[str]) -> Call:
    def called(**more: Any) -> dict[str, Any]:
        names = {"config_dir": "config", "storage_dir": "storage", "index_dir": "index", "state": "last.json"}
        return run(site_probe, capsys, **({name: str(tmp_path / path) for name, path in names.items()} | more))

    return called


def test_watchdog_is_a_device(call: Call, tmp_path: pathlib.Path) -> None:
    (tmp_path / "watchdog").touch()
    for path, there in {"": False, tmp_path / "none": False, tmp_path / "watchdog": False, "/dev/null": True}.items():
        assert call(watchdog=str(path))["watchdog"] is there


def test_whom_orthanc_trusts(call: Call, tmp_path: pathlib.Path) -> None:
    assert call()["trusted"] == ""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "dicom-trusted.crt").write_text("certificate\n", "utf-8")
    assert call()["trusted"] == hashlib.sha256(b"certificate").hexdigest()


class Running(http.server.BaseHTTPRequestHandler):
    """An Orthanc that tells its release."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"Version": "1.10.1"}')

    def log_message(self, *_arguments: Any) -> None:
        pass


def test_index_is_looked_at_where_another_release_is_asked_for(call: Call, tmp_path: pathlib.Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index").write_bytes(b"x" * 100)
    assert call(release="1.12.7")["index"] == {}, "nothing is configured"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Running) as server:
        settings = {"HttpPort": server.server_port, "IndexDirectory": str(tmp_path / "index")}
        (tmp_path / "config" / "a.json").write_text(json.dumps(settings), "utf-8")
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        assert call()["index"] == {}
        assert call(release="1.10.1")["index"] == {}
        found = call(release="1.12.7", dump_dir=str(tmp_path / "none" / "dumps"))["index"]
        server.shutdown()
    space = os.statvfs(tmp_path)
    assert abs(found.pop("free") - space.f_bavail * space.f_frsize) < space.f_blocks * space.f_frsize / 4
    expected = {"running": "1.10.1", "where": f"the index in {tmp_path}/index", "size": 100, "revision": 0}
    assert found == expected
    stopped = call(release="1.12.7")["index"]
    assert (stopped["running"], stopped["free"]) == ("", -1)
    assert call(release="1.12.7", database="postgresql")["index"] == {}, "it is configured for another database"


@pytest.fixture
def elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str | None], None]:
    """Have a file of this host read as another one, or as none."""
    real = builtins.open
    places: dict[str, str | None] = {}

    def opened(path: Any, *more: Any, **options: Any) -> Any:
        other = places.get(path, path) if isinstance(path, str) else path
        return real(tmp_path / "none" if other is None else other, *more, **options)

    monkeypatch.setattr(builtins, "open", opened)
    return lambda path, other: places.update({path: other})


def units(programs: Systemd, **states: tuple[str, str, str]) -> None:
    """Say of each unit how it is loaded, whether it runs, and whether it is started at boot."""
    texts = [STATE.format(*states.get(name, ("not-found", "inactive", ""))) for name in UNITS]
    programs.write("units", "\n".join(texts))
    programs.program("systemctl", f'[ "$1" = show ] && [ "$2" != orthanc ] && cat {programs.folder}/units')


def test_binary_that_is_half_of_one(call: Call, tmp_path: pathlib.Path) -> None:
    """The run puts it right; the look at the host is no reason to stop."""
    program = tmp_path / "Orthanc"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    assert call(program=str(program))["binary"] == {"version": "", "options": {}}


def test_host_that_has_none_of_the_programs(call: Call, programs: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container without systemd; what is asked of them is answered by nothing."""
    for name in ("dpkg-query", "apt-cache", "ss", "systemctl", "docker"):
        (programs.folder / name).unlink()
    monkeypatch.setenv("PATH", str(programs.folder))
    found = call(image="orthanc:1", offers=True, server=[])
    assert [found[name] for name in ("packages", "offered", "services", "masked")] == [[], [], [], []]
    assert (found["listening"], found["image"], found["orthanc"]) == ({}, "", "")


@pytest.mark.parametrize(
    "state, service, masked",
    [
        (("loaded", "active", "enabled"), True, False),
        (("loaded", "inactive", "enabled"), False, False),
        (("loaded", "active", "disabled"), False, False),
        (("masked", "inactive", "masked"), False, True),
        (("not-found", "inactive", ""), False, False),
    ],
)
def test_services(call: Call, programs: Systemd, state: tuple[str, str, str], service: bool, masked: bool) -> None:
    for name in UNITS:
        units(programs, **{name: state})
        found = call()
        assert (found["services"], found["masked"]) == ([name] * service, [name] * masked)


def test_packages_are_those_that_are_installed(call: Call, programs: Systemd) -> None:
    states = ("install ok installed", "install ok half-configured", "deinstall ok config-files", "hold ok installed")
    lines = [f"echo p{number} 1 {state}" for number, state in enumerate(states)]
    programs.program("dpkg-query", "; ".join(lines))
    assert call()["packages"] == ["p0", "p3"], "one that is held is there as well"


@pytest.mark.parametrize(
    "version, installed",
    [("1.12.7", "1.12.7"), ("1:1.9.3+dfsg-2", "1.9.3"), ("12:1.12.10-1~bpo", "1.12.10"), ("mainline", "")],
)
def test_release_of_a_package(call: Call, programs: Systemd, version: str, installed: str) -> None:
    programs.program("dpkg-query", f"echo 'orthanc {version} install ok installed'")
    programs.program("apt-cache", "echo 'orthanc | 2:1.13.0-1 | x'")
    found = call()
    assert found["orthanc"] == installed
    assert found["offered"] == ([] if installed else ["1.13.0"])


POLICY = """orthanc:
  Installed: 1.12.8-1
  Candidate: (none)
  Version table:
     1:1.12.9+dfsg-1 -1
        500 https://packages.example.org trixie/main amd64 Packages
 *** 1.12.8-1 100
        100 /var/lib/dpkg/status
     1.12.7+dfsg-4 -10
        -10 https://packages.example.org trixie/main amd64 Packages
     1.12.6-1 -10
        -10 https://packages.example.org trixie/main amd64 Packages
     1.12.6+dfsg-1 500
        500 https://mirror.example.org trixie/main amd64 Packages
"""


def test_releases_that_apt_is_kept_from(call: Call, programs: Systemd) -> None:
    programs.program("apt-cache", f"[ $1 = madison ] || cat <<'END'\n{POLICY}END")
    assert call(offers=True)["withheld"] == ["1.12.9", "1.12.7"]
    assert call()["withheld"] == []


def test_ports_and_who_has_them(call: Call, programs: Systemd) -> None:
    lines = [
        f'LISTEN 0 1 127.0.0.1:8042 0.0.0.0:* users:(("Orthanc",pid={os.getpid()},fd=3))',
        'LISTEN 0 1 [::1]:4242 [::]:* users:(("Orthanc",pid=4194399,fd=3))',
        "LISTEN 0 1 *:5432 *:*",
    ]
    programs.write("ports", "\n".join(lines) + "\n")
    programs.program("ss", f'[ "$*" = -Hltnp ] && cat {programs.folder}/ports')
    listening = call()["listening"]
    assert (listening["4242"], listening["5432"]) == ("Orthanc", "another program"), "a process that has ended"
    # This very process is in whatever the tests were started by.
    unit = pathlib.Path("/proc/self/cgroup").read_text("ascii").strip().rpartition("/")[2]
    place = " in the container" if re.search("[0-9a-f]{64}", unit) else " of" if unit else ""
    assert listening["8042"].startswith(f"Orthanc{place}")


class Handler(http.server.BaseHTTPRequestHandler):
    """Orthanc, of which a file has the statistics."""

    folder: pathlib.Path

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/statistics" else 404)
        self.end_headers()
        self.wfile.write((self.folder / "statistics").read_bytes())

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def port(tmp_path: pathlib.Path) -> Iterator[int]:
    handler = type("Of", (Handler,), {"folder": tmp_path})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server.server_port
        server.shutdown()


def index(folder: pathlib.Path, images: int) -> None:
    folder.mkdir(exist_ok=True)
    with sqlite3.connect(folder / "index") as connection:
        connection.execute("CREATE TABLE Resources (resourceType INTEGER)")
        connection.executemany("INSERT INTO Resources VALUES (?)", [(4,)] * images)
    connection.close()


@pytest.mark.parametrize(
    "statistics, images",
    [
        ('{"CountInstances": 7}', 7),
        ('{"CountInstances": "7"}', 7),
        ('{"CountInstances": "many"}', 2),
        ('{"CountInstances": null}', 2),
        ('{"CountPatients": 7}', 2),
        ("[]", 2),
        ("7", 2),
        ("{", 2),
    ],
)
def test_images_are_counted_by_the_orthanc_that_runs(
    tmp_path: pathlib.Path, call: Call, port: int, statistics: str, images: int
) -> None:
    """Where it does not tell, by what is in its index."""
    (tmp_path / "config").mkdir()
    settings = {"HttpPort": port, "StorageDirectory": str(tmp_path / "storage"), "IndexDirectory": str(tmp_path / "i")}
    (tmp_path / "config" / "orthanc.json").write_text(json.dumps(settings), "utf-8")
    (tmp_path / "statistics").write_text(statistics, "utf-8")
    index(tmp_path / "i", 2)
    assert call(database="postgresql")["images"] == images
    assert call(index_dir=str(tmp_path / "i"))["images"] == -1, "nothing changes, so nobody counts"
    assert call(index_dir=str(tmp_path / "i"), files="mysql")["images"] == images


@pytest.mark.parametrize(
    "sections, database, files",
    [
        ({}, "", ""),
        ({"PostgreSQL": {"EnableIndex": True}}, "postgresql", ""),
        ({"MySQL": {"EnableIndex": True, "EnableStorage": True}}, "mysql", "mysql"),
        ({"PostgreSQL": {"EnableIndex": False, "EnableStorage": True}}, "", "postgresql"),
        ({"PostgreSQL": {"EnableIndex": False}, "MySQL": {"EnableIndex": True}}, "mysql", ""),
        ({"PostgreSQL": None, "MySQL": []}, "", ""),
    ],
)
def test_database_by_the_configuration(
    tmp_path: pathlib.Path, call: Call, sections: dict[str, Any], database: str, files: str
) -> None:
    (tmp_path / "config").mkdir()
    settings = {"HttpPort": 9, "StorageDirectory": str(tmp_path / "other"), "IndexDirectory": str(tmp_path / "index")}
    (tmp_path / "config" / "orthanc.json").write_text(json.dumps(settings | sections), "utf-8")
    (tmp_path / "other" / "00").mkdir(parents=True)
    found = call()
    assert (found["database"], found["files"]) == (database, files)
    # Files in a database are in no folder.
    assert found["elsewhere"] == ({} if files else {"storage": str(tmp_path / "other")})
    assert found["images"] == (-1 if database else 0)
    assert found["configuration"] == ""
    index(tmp_path / "index", 0)
    assert call()["database"] == (database or "sqlite")


def test_images_of_an_orthanc_whose_users_make_no_sense(tmp_path: pathlib.Path, call: Call) -> None:
    (tmp_path / "config").mkdir()
    settings = {"HttpPort": 9, "RegisteredUsers": ["admin"], "IndexDirectory": str(tmp_path / "i")}
    (tmp_path / "config" / "orthanc.json").write_text(json.dumps(settings), "utf-8")
    index(tmp_path / "i", 2)
    assert call(database="mysql")["images"] == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[1]", "7", '{"a.json": null}', '{"a.json": [null]}', '{"a.json": ["["]}']
)
def test_spoilt_note_of_what_worked_last(tmp_path: pathlib.Path, call: Call, text: str) -> None:
    (tmp_path / "last.json").write_text(text, "utf-8")
    found = call()
    assert (found["database"], found["elsewhere"], found["lost"]) == ("", {}, [])


def test_process_that_has_just_ended(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: ["4194399", "self"] if path == "/proc" else listdir(path))
    assert call()["configuration"] == ""


def worked(folder: pathlib.Path, **settings: Any) -> None:
    (folder / "last.json").write_text(
        json.dumps({"/x/orthanc.json": [json.dumps({"HttpPort": 9} | settings)]}), "utf-8"
    )


def test_disks_that_are_missing(tmp_path: pathlib.Path, call: Call) -> None:
    """Each of them is told once, the one with the mark is not."""
    storage, place = str(tmp_path / "storage"), str(tmp_path / "index")
    worked(tmp_path, StorageDirectory=storage, IndexDirectory=place)
    assert call()["lost"] == sorted([storage, place])
    assert call()["images"] == -1
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / ".pacs").touch()
    assert call()["lost"] == [storage]
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "0f").mkdir()
    found = call()
    assert (found["lost"], found["images"]) == ([], 0)
    worked(tmp_path, StorageDirectory=str(tmp_path / "none"), IndexDirectory=str(tmp_path / "none"))
    assert call()["lost"] == [str(tmp_path / "none")]


def test_folder_that_root_may_not_look_into(
    tmp_path: pathlib.Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS: something was put there, and nothing is known of it."""
    storage = str(tmp_path / "nfs")
    (tmp_path / "nfs").mkdir()
    worked(tmp_path, StorageDirectory=storage, IndexDirectory=str(tmp_path / "index"))
    index(tmp_path / "index", 1)
    listdir = os.listdir

    def closed(path: str) -> list[str]:
        if path == storage:
            raise PermissionError(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", closed)
    found = call(storage_dir=str(tmp_path / "new"))
    assert (found["elsewhere"], found["lost"]) == ({"storage": storage}, [])
    # Where it is asked for, it may be what was taken there.
    worked(tmp_path, StorageDirectory=str(tmp_path / "old"), IndexDirectory=str(tmp_path / "index"))
    (tmp_path / "old" / "00").mkdir(parents=True)
    assert call(storage_dir=storage)["elsewhere"] == {}


@pytest.mark.parametrize("names, filled", [(["0f"], True), (["0F"], False), (["0f0"], False), (["lost+found"], False)])
def test_folder_in_which_images_are(tmp_path: pathlib.Path, call: Call, names: list[str], filled: bool) -> None:
    """Orthanc's own folders have two digits; the archive of before is only missing where they are not."""
    worked(tmp_path, StorageDirectory=str(tmp_path / "old"), IndexDirectory=str(tmp_path / "index"))
    index(tmp_path / "index", 1)
    for name in ("old/00", *(f"storage/{name}" for name in names)):
        (tmp_path / name).mkdir(parents=True)
    assert call()["elsewhere"] == ({} if filled else {"storage": str(tmp_path / "old")})


@pytest.mark.parametrize(
    "name, value, there",
    [("StorageDirectory", "archive", True), ("IndexDirectory", "archive", True), ("Name", "archive", False)],
)
def test_orthanc_of_others_by_its_unit(
    tmp_path: pathlib.Path, call: Call, programs: Systemd, name: str, value: str, there: bool
) -> None:
    """It does not run; its relative paths start where its unit says."""
    theirs = tmp_path / "theirs"
    index(tmp_path / "theirs", 0)
    (theirs / "c.json").write_text(json.dumps({"HttpPort": 9, name: value}), "utf-8")
    (theirs / "archive" / "00").mkdir(parents=True)
    (theirs / "index").rename(theirs / "archive" / "index")
    shown = f"WorkingDirectory={theirs}\nExecStart={{ path=/opt/Orthanc ; argv[]=/opt/Orthanc c.json ; x=y }}"
    programs.program("systemctl", f"[ \"$2\" = orthanc ] && echo '{shown}'")
    found = call()
    assert found["configuration"] == str(theirs / "c.json")
    assert (str(theirs / "archive") in found["elsewhere"].values()) is there
    programs.program("systemctl", "true")
    assert (call()["configuration"], call()["elsewhere"]) == ("", {})


def test_server_of_others_is_compared_with_the_one_that_is_asked_for(
    tmp_path: pathlib.Path, call: Call, programs: Systemd
) -> None:
    theirs = tmp_path / "c.json"
    shown = f"ExecStart={{ path=/opt/Orthanc ; argv[]=/opt/Orthanc {theirs} ; x=y }}"
    programs.program("systemctl", f"[ \"$2\" = orthanc ] && echo '{shown}'")

    def other(section: str, asked: str, host: str = "127.0.0.1", **given: Any) -> list[str]:
        theirs.write_text(json.dumps({"HttpPort": 9, section: {"EnableIndex": True} | given}), "utf-8")
        found: list[str] = call(database=asked, database_host=host, database_name="orthanc")["other_server"]
        return found

    for section in ("PostgreSQL", "MySQL"):
        for here in ("", "localhost", "127.0.0.1", "::1"):
            assert other(section, section.lower(), Host=here, Database="orthanc") == []
            assert other(section, section.lower(), here, Host="db", Database="orthanc") == ["db", "orthanc"]
        assert other(section, section.lower(), "db", Host="db", Database="orthanc") == []
        assert other(section, section.lower(), "db", Host="db", Database="wiki") == ["db", "wiki"]
        assert other(section, section.lower(), "db", Database="orthanc") == ["", "orthanc"]
        uri = "postgresql://u:p@db:5432/orthanc"
        assert other(section, section.lower(), "db", ConnectionUri=uri, Host="other", Database="other") == []
        assert other(section, section.lower(), ConnectionUri=uri) == ["db", "orthanc"]
    # With our own configuration, another server is what the inventory wants.
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mysql.json").write_text('{"HttpPort": 9, "MySQL": {"EnableIndex": true}}', "utf-8")
    assert other("MySQL", "mysql", Host="db") == []


@pytest.mark.parametrize(
    "updates, held, expected",
    [([], False, False), (["tmp.i"], False, False), (["0001"], False, True), (["7"], True, False)],
)
def test_interrupted_dpkg(
    tmp_path: pathlib.Path,
    call: Call,
    elsewhere: Callable[[str, str | None], None],
    monkeypatch: pytest.MonkeyPatch,
    updates: list[str],
    held: bool,
    expected: bool,
) -> None:
    """One that runs is in the middle of something, and was not interrupted."""
    (tmp_path / "lock").touch()
    elsewhere("/var/lib/dpkg/lock", str(tmp_path / "lock"))
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: updates if path == "/var/lib/dpkg/updates" else listdir(path))
    take = f"import fcntl; file = open({str(tmp_path / 'lock')!r}, 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); "
    script = f"{take if held else ''}print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dpkg:
        assert dpkg.stdout
        dpkg.stdout.readline()
        assert call()["interrupted"] is expected
        dpkg.communicate(b"\n")


@pytest.mark.parametrize(
    "text, who",
    [
        (packages.OURS, "ours"),
        ("#!/bin/sh\nexit 101\n", "others"),
        ('#!/bin/sh\n[ "$2" = start ] || exit 101\n', "others"),
        ('#!/bin/sh\necho 104\n[ "$2" = start ] && exit 101\nexit 104\n', ""),
        ("#!/bin/sh\nexit 0\n", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_who_keeps_packages_from_restarting(
    tmp_path: pathlib.Path, call: Call, monkeypatch: pytest.MonkeyPatch, text: str | None, who: str
) -> None:
    file = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "POLICY", str(file))
    if text is not None:
        file.write_text(text, "utf-8")
        file.chmod(0o755)
    assert call()["policy"] == who


def test_policy_is_no_to_every_shell(tmp_path: pathlib.Path) -> None:
    """What Ansible writes by the number of the playbooks is known, and means 101."""
    names = yaml.safe_load((ROOT / "playbooks" / "group_vars" / "all.yml").read_text("utf-8"))
    assert f"#!/bin/sh\nexit {names['site_policy_rc_d']}\n" == packages.OURS
    (tmp_path / "policy").write_text(packages.OURS, "utf-8")
    for shell in ("sh", "bash", "dash"):
        assert subprocess.run([shell, str(tmp_path / "policy")], check=False).returncode == 101


def test_host_without_dpkg(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir

    def without(path: str) -> list[str]:
        if path == "/var/lib/dpkg/updates":
            raise FileNotFoundError(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", without)
    assert call()["interrupted"] is False


def test_image_is_looked_for_where_the_engine_runs(tmp_path: pathlib.Path, call: Call, programs: Systemd) -> None:
    """To ask one that does not would start it."""
    programs.program("docker", '[ "$1 $2" = "image inspect" ] || exit 1; echo "$*" >> "$0.asked"; echo " sha256:1 "')
    answers = tmp_path / "answers.json"
    told = {"asked": ["docker", "run", "sha256:1"], "told": ["1.12.7", {"Name": "str"}, []]}
    answers.write_text(json.dumps(told), "utf-8")
    given = {"image": "orthanc:1", "answers": str(answers)}
    units(programs, docker=("loaded", "inactive", "enabled"))
    found = call(**given)
    assert (found["image"], found["asked"], found["binary"]["version"]) == ("", [], "")
    assert not (programs.folder / "docker.asked").exists()
    units(programs, docker=("loaded", "active", "disabled"))
    found = call(**given)
    assert (found["image"], found["asked"]) == ("sha256:1", told["asked"])
    assert found["binary"] == {"version": "1.12.7", "options": {"Name": "str"}}
    assert (programs.folder / "docker.asked").read_text("utf-8").split()[-1] == "orthanc:1"
    assert call(answers=str(answers))["image"] == ""
    answers.write_text(json.dumps(told | {"told": ["1.12.7"]}), "utf-8")
    assert call(**given)["asked"] == [], "half an answer is none"


def test_engine(tmp_path: pathlib.Path, call: Call, programs: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAEMON", "OURS", "BEFORE"):
        monkeypatch.setattr(docker_daemon, name, str(tmp_path / f"{name}.json"))
    there, exists = set[str](), os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path in there if path == "/run/docker.sock" else exists(path))
    assert call()["engine"] == {}
    nothing = {"problem": "", "options": {}, "ours": {}, "cut_off": False, "others": []}
    assert call(engine=True)["engine"] == nothing
    programs.program("systemctl", '[ "$1" = is-active ] && echo active')
    programs.program(
        "docker",
        f"""case "$*" in
info*) cat {programs.folder}/restore ;;
*label=orthanc.service*) echo pacs ;;
ps*) printf 'wiki\\npacs\\nmail\\n' ;;
esac""",
    )
    programs.write("restore", "false\n")
    assert call(engine=True)["engine"]["others"] == [], "it does not run"
    there.add("/run/docker.sock")
    assert call(engine=True)["engine"] == nothing | {"others": ["mail", "wiki"]}
    programs.write("restore", "true\n")
    assert call(engine=True)["engine"]["others"] == [], "they go on while it is away"
    programs.program("systemctl", '[ "$1" = is-active ] && echo inactive')
    programs.write("restore", "false\n")
    assert call(engine=True)["engine"]["others"] == []
    (tmp_path / "DAEMON.json").write_text('{"debug": true, "bip": "x"}', "utf-8")
    (tmp_path / "OURS.json").write_text('{"debug": true}', "utf-8")
    (tmp_path / "BEFORE.json").touch()
    found = call(engine=True)["engine"]
    assert (found["options"], found["ours"], found["cut_off"]) == ({"debug": True, "bip": "x"}, {"debug": True}, True)
    (tmp_path / "OURS.json").write_text("{", "utf-8")
    assert call(engine=True)["engine"]["problem"].startswith(f"{tmp_path}/OURS.json: ")


def test_server_that_does_not_answer(call: Call) -> None:
    assert call(server=["127.0.0.1", "9"])["no_way"] == "port Connection refused"
    assert call(server=["nowhere.invalid", "9"])["no_way"].startswith("name ")
    assert call()["no_way"] == ""

"""What the modules postgresql_info and mysql_info make of a host."""

import getpass
import os
import pathlib
import stat
import subprocess
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.database_host import (
    addresses,
    certified,
    cores,
    free,
    memory,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State
from ansible_collections.dicom.orthanc.plugins.modules import mysql_info, postgresql_info
from ansible_collections.dicom.orthanc.plugins.modules.postgresql_info import chosen, rules

from tests.repository import ROOT
from tests.unit.module import Module

MAIN = "17 main 5432 online postgres /var/lib/postgresql/17/main /var/log/postgresql/x.log\n"
WIKI = "15 wiki 5433 down   postgres /srv/wiki /var/log/postgresql/y.log\n"


@pytest.mark.parametrize(
    "listed, port, expected",
    [
        ("", 5432, []),
        (MAIN, 5432, ["17", "main", "5432"]),
        # The only one is meant, at whatever port it is: it will be at ours.
        (MAIN, 5999, ["17", "main", "5432"]),
        (MAIN + WIKI, 5433, ["15", "wiki", "5433"]),
        (MAIN + WIKI, 5999, ["several"]),
        (MAIN + WIKI.replace("5433", "5432"), 5432, ["several"]),
    ],
)
def test_cluster_that_is_meant(listed: str, port: int, expected: list[str]) -> None:
    assert chosen(listed, port)[:3] == expected


def test_folder_of_the_cluster() -> None:
    assert chosen(WIKI, 5433)[5] == "/srv/wiki"


def test_rules_are_those_of_our_part(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pg_hba.conf"
    assert rules(str(path)) == []
    path.write_text("host wiki wiki all trust\n", encoding="utf-8")
    assert rules(str(path)) == []
    part = "# Begin of what dicom.orthanc manages\nlocal all postgres peer\nhost a a x\nhostssl b b y\n"
    end = "# End of what dicom.orthanc manages.\n"
    path.write_text(f"host c c z\n{part}{end}host wiki wiki all trust\n", encoding="utf-8")
    assert rules(str(path)) == ["host a a x", "hostssl b b y"]
    path.write_text(part, encoding="utf-8")
    assert rules(str(path)) == ["host a a x", "hostssl b b y"]


def test_databases_of_anybody(tmp_path: pathlib.Path) -> None:
    assert not postgresql_info.filled(str(tmp_path))
    for name in ("1", "5", "16383", "pgsql_tmp"):
        (tmp_path / "base" / name).mkdir(parents=True)
    assert not postgresql_info.filled(str(tmp_path))
    (tmp_path / "base" / "16384").mkdir()
    assert postgresql_info.filled(str(tmp_path))


def test_cluster_that_is_going_to_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the newest programs, whatever the order of their folders."""
    found = ["/usr/lib/postgresql/9/bin/postgres", "/usr/lib/postgresql/17/bin/postgres"]
    monkeypatch.setattr("glob.glob", lambda _pattern: found)
    assert postgresql_info.made_soon("main") == ["17", "main", "/var/lib/postgresql/17/main"]
    assert postgresql_info.made_soon("") == []
    found.clear()
    assert postgresql_info.made_soon("main") == []


def test_databases_of_anybody_in_mariadb(tmp_path: pathlib.Path) -> None:
    assert not mysql_info.filled(str(tmp_path / "none"))
    for name in ("mysql", "performance_schema", "sys", "test", "#rocksdb", ".cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "ibdata1").touch()
    (tmp_path / "test" / "db.opt").touch()
    assert not mysql_info.filled(str(tmp_path))
    (tmp_path / "test" / "wiki.frm").touch()
    assert mysql_info.filled(str(tmp_path))
    (tmp_path / "test" / "wiki.frm").unlink()
    (tmp_path / "wiki").mkdir()
    assert mysql_info.filled(str(tmp_path))


def test_socket_of_mariadb_is_the_one_that_its_configuration_names() -> None:
    """What ours names is not there any more once the inventory takes it out."""

    class Host(Module):
        def get_bin_path(self, name: str) -> str:
            return name

    def found(everything: str, ours: str = "") -> tuple[dict[str, str], str]:
        def run(command: list[str]) -> tuple[int, str, str]:
            assert command[0] == "my_print_defaults"
            assert command[-1] == "--mysqld"
            return 0, ours if "--defaults-file=ours" in command else everything, ""

        return mysql_info.places(Host(run), "ours")

    usual = "/run/mysqld/mysqld.sock"
    assert found("--port=3306\n") == ({"datadir": "/var/lib/mysql", "socket": usual}, usual)
    place, socket = found("--socket=/a\n--datadir=/srv/wiki\n--socket=wiki.sock\n--port=3306\n")
    assert (place["datadir"], place["socket"], socket) == ("/srv/wiki", "/srv/wiki/wiki.sock", "/srv/wiki/wiki.sock")
    place, socket = found("--socket=/a\n--socket=/ours\n--datadir=/srv/wiki\n", "--socket=/ours\n")
    assert (place["socket"], socket) == ("/ours", "/a")


def make(folder: pathlib.Path, address: str, kind: str, owner: str = getpass.getuser()) -> None:
    program = (ROOT / "roles/postgresql/files/self_signed.sh").read_text("utf-8")
    command = ["sh", "-euc", program, "sh", str(folder), address, kind, owner, str(folder.parent / "state")]
    subprocess.run(command, check=True, capture_output=True)


class Host(Module):
    """A host with openssl."""

    def get_bin_path(self, name: str) -> str:
        return name


@pytest.mark.parametrize(
    "address, kind, other",
    [("db.example.org", "DNS", "example.org"), ("192.0.2.1", "IP", "192.0.2.2"), ("2001:db8::1", "IP", "2001:db8::2")],
)
def test_certificate_is_made_for_the_address(tmp_path: pathlib.Path, address: str, kind: str, other: str) -> None:
    folder = tmp_path / "etc" / "pacs"
    make(folder, address, kind)
    path = str(folder / "server.crt")
    assert certified(Host(), path, address, 86400)
    assert not certified(Host(), path, other, 86400)
    assert not certified(Host(), path, address, 3651 * 86400)
    assert not certified(Host(), str(folder / "none.crt"), address, 0)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes == {"server.key": 0o600, "server.crt": 0o644}
    # The server has to read it, and the next run has it do so if this one goes no further.
    state = State(str(folder.parent / "state" / "before.json"))
    assert (state.kept, state.read(), stat.S_IMODE((folder.parent / "state").stat().st_mode)) == (True, {}, 0o700)


def test_certificate_that_cannot_be_made_leaves_the_one_that_is_there(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "db.example.org", "DNS")
    before = (tmp_path / "server.crt").read_bytes()
    with pytest.raises(subprocess.CalledProcessError):
        make(tmp_path, "db.example.org", "DNS", "nobody-of-that-name")
    assert (tmp_path / "server.crt").read_bytes() == before


def test_long_name_is_no_common_name(tmp_path: pathlib.Path) -> None:
    name = ".".join(["a" * 40, "b" * 40, "example.org"])
    make(tmp_path, name, "DNS")
    assert certified(Host(), str(tmp_path / "server.crt"), name, 0)


def test_figures_of_the_host() -> None:
    figures = {
        line.split(":")[0]: line.split()[1] for line in pathlib.Path("/proc/meminfo").read_text("utf-8").splitlines()
    }
    assert memory() == int(figures["MemTotal"]) * 1024
    assert str(cores()) == subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()


def test_room_for_a_database(tmp_path: pathlib.Path) -> None:
    """In MiB, with what other programs may write meanwhile."""
    for path, disk in ((tmp_path, tmp_path), (tmp_path / "none", pathlib.Path("/var/lib"))):
        found = os.statvfs(disk)
        assert abs(free(str(path)) - found.f_bavail * found.f_frsize / 2**20) < 1024


@pytest.mark.parametrize("pending, reload, rc", [("0", 0, 0), ("1", 0, 1), ("0", 1, 1)])
def test_reload_that_was_enough(tmp_path: pathlib.Path, pending: str, reload: int, rc: int) -> None:
    programs: dict[str, Any] = {
        "runuser": f'case "$*" in *pending*) echo {pending};; *">"*) echo t;; *) echo 2026-11-28;; esac',
        "systemctl": f"exit {reload}",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    program = (ROOT / "roles/postgresql/files/reload.py").read_text("utf-8")
    command = ["python3", "-c", program, "17/main", "postgresql@17-main"]
    done = subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == rc


def test_clients_are_found_as_the_host_finds_them() -> None:
    found = addresses(["192.0.2.1", "::1", "localhost", "nowhere.invalid"])
    assert found["192.0.2.1"] == ["192.0.2.1"]
    assert found["::1"] == ["::1"]
    assert "127.0.0.1" in found["localhost"]
    assert len(found["localhost"]) == len(set(found["localhost"]))
    assert found["nowhere.invalid"] == []

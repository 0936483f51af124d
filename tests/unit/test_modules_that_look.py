"""The modules that look at a host, from their call to their end, with stand-ins for the programs that they ask."""

from __future__ import annotations

import functools
import http.server
import json
import os
import pathlib
import platform
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import database_postgresql
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import (
    ask_binary,
    fits,
    sample_options,
    takes,
    unfit,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.probe import archive, ports
from ansible_collections.dicom.orthanc.plugins.modules import (
    apt_offer,
    database_check,
    mysql_info,
    orthanc_info,
    postgresql_databases,
    postgresql_info,
    site_probe,
    write_files,
)

from tests.unit.module import OWNER, Systemd, run

ORTHANC = """
case $1 in
--version) echo 'Orthanc {version}' ;;
--config=-) printf '{{\\n  "Name" : "x",\\n  "HttpPort" : 8042\\n}}\\n' ;;
--advanced-config=-) printf '{{\\n  "Advanced" : true\\n}}\\n' ;;
*) exit 1 ;;
esac
"""
BASIC = {"Name": "str", "HttpPort": "int"}
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def programs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    return Systemd(tmp_path / "bin", monkeypatch)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: told.append(text))
    return told


@pytest.mark.parametrize(
    "version, options",
    [
        ("1.12.10", BASIC),
        ("1.13.0", BASIC | {"Advanced": "bool"}),
        ("1.13", BASIC | {"Advanced": "bool"}),
        ("2.0.0", BASIC | {"Advanced": "bool"}),
        ("mainline", BASIC | {"Advanced": "bool"}),
        ("mainline-2", BASIC),
        ("a-fork", BASIC),
    ],
)
def test_binary_is_asked_for_what_it_knows(
    programs: Systemd, capsys: Capture, version: str, options: dict[str, str]
) -> None:
    program = programs.folder / "Orthanc"
    programs.program("Orthanc", ORTHANC.format(version=version))
    said = run(orthanc_info, capsys, command=[str(program)])
    assert (said["installed"], said["version"], said["options"]) == (True, version, options)


def test_binary_that_says_nothing_is_asked_nothing_else() -> None:
    asked: list[str] = []

    def answer(argument: str) -> str:
        asked.append(argument)
        return "Usage:"

    assert (ask_binary(answer), asked) == (("", {}), ["--version"])


def test_options_that_a_binary_does_not_know() -> None:
    known = {"Name": "str", "Gain": "float", "OverwriteInstances": "str"}
    here = "Orthanc 1.12.7 on this host"
    assert unfit({"Name": "str", "Gain": "int", "OverwriteInstances": "bool"}, known, "1.12.7") == []
    assert unfit({"Naem": "str", "Gain": "str", "OverwriteInstances": "int"}, known, "1.12.7") == [
        f"orthanc_settings.Naem: {here} does not know this option. Did you mean 'Name'? Correct it or take it out.",
        f"orthanc_settings.Gain: {here} wants a value of type float, not str.",
        f"orthanc_settings.OverwriteInstances: {here} wants a value of type str, not int.",
    ]
    assert unfit({"Name": "bool"}, known, "1.12.7") == [
        f"orthanc_settings.Name: {here} wants a value of type str, not bool."
    ]
    kinds = ("bool", "int", "float", "str", "list", "dict", "nothing")
    taken = [(kind, given) for kind in kinds for given in kinds if kind != given and takes(kind, given)]
    assert (taken, all(takes(kind, kind) for kind in kinds)) == ([("float", "int")], True)
    assert [fits(1, "float"), fits(True, "int"), fits(None, "dict")] == [True, False, False]


def test_orthanc_that_is_not_what_was_asked_for(programs: Systemd, capsys: Capture) -> None:
    program = str(programs.folder / "Orthanc")
    programs.program("Orthanc", ORTHANC.format(version="1.12.7"))
    call: dict[str, Any] = {"command": [program], "list_command": ["ls"]}
    assert run(orthanc_info, capsys, **call, version="1.12.7")["version"] == "1.12.7"
    said = run(orthanc_info, capsys, **call, version="1.12.8")
    assert said["msg"].startswith("orthanc_version: 1.12.8 is asked for, and Orthanc 1.12.7 is what was installed;")
    assert run(orthanc_info, capsys, **call, version="1.12.8", _ansible_check_mode=True)["version"] == "1.12.7"
    there, none = str(programs.folder), "/none/libX.so"
    assert "msg" not in run(orthanc_info, capsys, **call, libraries=[program])
    said = run(orthanc_info, capsys, **call, libraries=[program, none], asked_options={"Nam": "str"})
    assert said["msg"].startswith("orthanc_settings.Nam: ")
    assert f"orthanc_plugins: {none} is missing; Orthanc 1.12.7 of this host does not bring that plugin." in said["msg"]
    assert there not in said["msg"]
    assert "msg" not in run(orthanc_info, capsys, **call, libraries=[none], _ansible_check_mode=True)
    programs.program("Orthanc", "echo " + "x" * 300)
    said = run(orthanc_info, capsys, **call)
    assert said["msg"] == f"{program} --version does not print an Orthanc version but: {'x' * 200}"


@pytest.mark.parametrize(
    "policy, expected",
    [("Candidate: 1.12.7+dfsg-4", "1.12.7"), ("Candidate: 2:1.10.1", "1.10.1"), ("Candidate: (none)", "")],
)
def test_orthanc_that_is_not_there_yet(programs: Systemd, capsys: Capture, policy: str, expected: str) -> None:
    programs.program("apt-cache", f'[ "$*" = "policy orthanc" ] && [ "$LC_ALL" = C ] && echo "  {policy}"')
    for command in (["/none/Orthanc"], [str(programs.folder / "journal")], []):
        said = run(orthanc_info, capsys, command=command)
        assert (said["installed"], said["version"], said["options"]) == (False, expected, {})
    assert run(orthanc_info, capsys, command=["/none"], version="1.13.0")["version"] == "1.13.0"


KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ==\n-----END PGP PUBLIC KEY BLOCK-----"
APT = """
here={here}
for word; do case $word in --option=Dir::Etc::SourceList=*) cp "${{word#*SourceList=}}" $here/source ;; esac; done
key=$(sed -n 's/^Signed-By: //p' $here/source)
cp "$key" $here/key.${{key##*.}}
stat -c %a "$(dirname "$key")" > $here/mode
[ -d "$(dirname "$key")/lists/partial" ] || exit 9
"""


def test_offer_of_a_source(programs: Systemd, capsys: Capture, tmp_path: pathlib.Path) -> None:
    programs.program("apt-get", APT.format(here=tmp_path))
    programs.program(
        "apt-cache",
        "echo '   orthanc | 1.13.0-1 | https://x y/main'; echo ' orthanc-dev | 1 | x'; echo 'orthanc | 1.12.7 | z'",
    )
    said = run(apt_offer, capsys, key=KEY, url="https://apt.example.org/debian", suite="trixie")
    assert said["versions"] == ["1.13.0-1", "1.12.7"]
    assert (said["url"], said["suite"]) == ("https://apt.example.org/debian", "trixie")
    lines = (tmp_path / "source").read_text("utf-8").splitlines()
    assert lines[:4] == ["Types: deb", "URIs: https://apt.example.org/debian", "Suites: trixie", "Components: main"]
    assert (tmp_path / "key.asc").read_text("utf-8") == KEY + "\n"
    assert (tmp_path / "mode").read_text("utf-8") == "755\n"
    said = run(apt_offer, capsys, key=KEY)
    system = platform.freedesktop_os_release()
    assert said["url"] == f"https://orthanc.uclouvain.be/{system['ID']}"
    assert said["suite"] == system.get("VERSION_CODENAME", "")
    assert run(apt_offer, capsys, key=KEY, package="other")["msg"].endswith(
        "there is no other; see orthanc_apt_url and orthanc_apt_suite."
    )


@pytest.mark.parametrize(
    "said, meaning",
    [
        ("W: The repository is not signed", "it is not signed with orthanc_apt_key"),
        ("E: 404  Not Found", "it has no such suite; see orthanc_apt_url and orthanc_apt_suite"),
        ("E: Certificate is not trusted", "its certificate is not trusted by this host; see orthanc_apt_url"),
        ("E: Could not resolve", "it does not answer; see orthanc_apt_url"),
    ],
)
def test_source_that_cannot_be_had(programs: Systemd, capsys: Capture, said: str, meaning: str) -> None:
    programs.program("apt-get", f"echo 'N: nothing' >&2; echo '{said}' >&2; exit 100")
    told = run(apt_offer, capsys, key=KEY, url="https://x", suite="y")["msg"]
    assert (
        told == f"The packages of https://x y are not to be had, and nothing has changed: {meaning}. apt says: {said}"
    )
    programs.program("apt-get", f"echo '{said} {'x' * 2000}' >&2; exit 100")
    told = run(apt_offer, capsys, key=KEY)["msg"]
    assert len(told.partition("apt says: ")[2]) == 1000
    programs.program("apt-get", f"echo '{said}'; exit 100")
    assert run(apt_offer, capsys, key=KEY)["msg"].endswith(f"{meaning}. apt says: {said}\n")


def test_key_of_a_source_that_cannot_be_had(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    said = run(apt_offer, capsys, key="http://127.0.0.1:9/key", url="https://x", suite="y")["msg"]
    assert said.startswith("The packages of https://x y are not to be had, and nothing has changed: http://127.0.0.1:9")
    assert "orthanc_apt_key" in said


@pytest.mark.parametrize("key, suffix", [(KEY.encode(), "asc"), (b"\x99\x01\x0d\x04", "gpg")])
def test_key_that_has_an_address(
    programs: Systemd,
    capsys: Capture,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    key: bytes,
    suffix: str,
) -> None:
    """apt tells by the name of its file whether it is armoured."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "key").write_bytes(key)
    programs.program("apt-get", APT.format(here=tmp_path))
    programs.program("apt-cache", "echo 'orthanc | 1.13.0 | x'")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        said = run(apt_offer, capsys, key=f"http://127.0.0.1:{server.server_port}/key", url="https://x", suite="y")
        server.shutdown()
    assert said["versions"] == ["1.13.0"]
    assert (tmp_path / f"key.{suffix}").read_bytes() == key


INFO = {"address": "192.0.2.1", "certificate": "/none", "clients": ["192.0.2.7"]}


def test_mariadb(programs: Systemd, capsys: Capture, tmp_path: pathlib.Path) -> None:
    call = INFO | {"ours": str(tmp_path / "ours.cnf")}
    # Its databases and its socket lie elsewhere, and none of that stands in our file.
    places = f"--datadir={tmp_path}/data --socket=/run/x.sock"
    programs.program("my_print_defaults", f'[ "$*" = --mysqld ] && printf "%s\\n" {places}')
    programs.program(
        "mariadb", f'echo "$1 $2 $3 $4 $5" > {tmp_path}/asked; echo \'{{"databases": ["a"], "set": null}}\''
    )
    host = run(mysql_info, capsys, **call)["host"]
    assert (host["running"], host["inside"], host["hidden"]) == (True, {"databases": ["a"]}, False)
    assert (host["addresses"], host["certificate"]) == ({"192.0.2.7": ["192.0.2.7"]}, False)
    assert host["memory"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1048576
    words = (tmp_path / "asked").read_text("utf-8").strip()
    assert words == "--socket=/run/x.sock --batch --raw --skip-column-names --execute"
    programs.program("mariadb", "exit 1")
    host = run(mysql_info, capsys, **call)["host"]
    assert (host["running"], host["inside"], host["hidden"]) == (False, {}, False)
    # A server that does not answer, or the databases of one.
    programs.write("active")
    assert run(mysql_info, capsys, **call)["host"]["hidden"]
    (programs.folder / "active").unlink()
    (tmp_path / "data" / "wiki").mkdir(parents=True)
    assert run(mysql_info, capsys, **call)["host"]["hidden"]
    (tmp_path / "ours.cnf").touch()
    assert not run(mysql_info, capsys, **call)["host"]["hidden"]


def test_postgresql(programs: Systemd, capsys: Capture, tmp_path: pathlib.Path) -> None:
    call = INFO | {"port": 5433, "databases": ["orthanc", "wiki"]}
    programs.program("pg_lsclusters", ":")
    host = run(postgresql_info, capsys, **call)["host"]
    assert [host[name] for name in ("version", "cluster", "port", "running", "hidden")] == ["", "", 5433, False, False]
    clusters = f"17 main 5434 online postgres {tmp_path} x"
    programs.program("pg_lsclusters", f'[ "$*" = -h ] && echo "{clusters}"')
    programs.program(
        "runuser",
        f'echo "$*" | head -1 >> {tmp_path}/asked\n'
        "case $* in *json_build_object*) echo '{\"max_connections\": 7}' ;; *'-d orthanc '*) echo 1 ;; esac",
    )
    host = run(postgresql_info, capsys, **call)["host"]
    assert [host[name] for name in ("version", "cluster", "port", "data")] == ["17", "main", 5434, str(tmp_path)]
    assert (host["running"], host["inside"], host["orthancs"]) == (True, {"max_connections": 7}, ["orthanc"])
    first = (tmp_path / "asked").read_text("utf-8").splitlines()[0].split()
    assert first == ["-u", "postgres", "--", "psql", "--cluster", "17/main", "-XAtqw", "-c"]
    programs.program("runuser", "exit 1")
    host = run(postgresql_info, capsys, **call)["host"]
    assert (host["running"], host["hidden"], host["orthancs"]) == (False, False, [])
    (tmp_path / "base" / "16384").mkdir(parents=True)
    assert run(postgresql_info, capsys, **call)["host"]["hidden"]
    programs.program("pg_lsclusters", f"echo '{clusters}'; echo '{clusters.replace('17', '15')}'")
    host = run(postgresql_info, capsys, **call)["host"]
    assert (host["version"], host["cluster"], host["running"]) == ("several", "", False)


def test_databases_are_made(programs: Systemd, capsys: Capture, tmp_path: pathlib.Path) -> None:
    programs.program("psql", f"cat >> {tmp_path}/said")
    call = {"command": ["psql"], "passwords": {"o": "a word"}, "owners": {"d": "o"}, "comment": "ours"}
    said = run(postgresql_databases, capsys, **call)
    assert (said["changed"], len(said["statements"])) == (True, 6)
    assert 'create database "d"' in (tmp_path / "said").read_text("utf-8")
    assert "a word" not in str(said)


def test_files_are_written(capsys: Capture, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.dicom.orthanc.plugins.module_utils.files.LOCK", str(tmp_path / "lock"))
    path = str(tmp_path / "a")
    call = {"files": [OWNER | {"path": path, "content": "x"}]}
    assert run(write_files, capsys, **call, _ansible_check_mode=True)["changed"]
    assert not os.path.exists(path)
    said = run(write_files, capsys, **call)
    assert (said["changed"], said["paths"], said["diff"][0]["after"]) == (True, [path], "x")
    assert run(write_files, capsys, **call)["changed"] is False


# A driver as PEP 249 has it, whose server is a table of answers in a file.
DRIVER = """
import json, pathlib, types
HERE = pathlib.Path(__file__).parent


class Error(Exception):
    pass


class OperationalError(Error):
    pass


class Connection:
    ssl, server_capabilities = True, 0

    def __init__(self, **given):
        self.server = json.loads((HERE / "server").read_text())
        given = {name: str(value) for name, value in given.items()}
        (HERE / "given").write_text(json.dumps(given))
        self.ssl, self.server_capabilities = given.get("ssl") != "None", self.server.get("capabilities", 2048)
        self._request_authentication()
        if "refuses" in self.server:
            raise OperationalError(*self.server["refuses"])

    def _request_authentication(self):
        pass

    def set_session(self, readonly):
        assert readonly

    def cursor(self):
        return self

    def execute(self, question, values):
        self.answer = next((rows for words, rows in self.server["answers"].items() if words in question), None)
        if self.answer is None:
            raise OperationalError(f"no answer to {question}")

    def fetchall(self):
        return self.answer

    def close(self):
        (HERE / "closed").touch()


connect = Connection
connections = types.SimpleNamespace(Connection=Connection)
constants = types.SimpleNamespace(CLIENT=types.SimpleNamespace(SSL=2048))
"""


@pytest.fixture
def driver(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    folder = tmp_path / "drivers"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    kept = {name: sys.modules.pop(name, None) for name in ("psycopg2", "pymysql")}
    for name in kept:
        (folder / f"{name}.py").write_text(DRIVER, "utf-8")
    # Only libpq itself tells the numbers.
    monkeypatch.setattr(database_postgresql, "numbered", lambda *_: "")
    yield folder
    for name, module in kept.items():
        sys.modules.pop(name, None)
        if module:
            sys.modules[name] = module


CHECK: dict[str, Any] = {"host": "db.example.org", "port": 5432, "name": "d", "user": "u", "password": "a wörd"}
GRANTS = [["GRANT ALL PRIVILEGES ON `d`.* TO `u`@`%`"]]
VARIABLES = {"max_allowed_packet": "16777216", "log_bin": "OFF"}


def mysql(folder: pathlib.Path, variables: dict[str, str] | None = None, **answers: Any) -> None:
    known = {
        "CURRENT_USER()": [["u@192.0.2.%"]],
        "CURRENT_ROLE()": [[None]],
        "SHOW GRANTS": GRANTS,
        "SHOW GLOBAL VARIABLES": list((VARIABLES | (variables or {})).items()),
        "information_schema.TABLES": [["GlobalProperties"]],
        "FROM GlobalProperties": [[1, "6"], [4, 6]],
    }
    # The longer question first: another one has the shorter in it.
    server = {
        "SHOW GRANTS FOR CURRENT_USER() USING": None,
        **answers,
        **{k: v for k, v in known.items() if k not in answers},
    }
    (folder / "server").write_text(json.dumps({"answers": {k: v for k, v in server.items() if v is not None}}), "utf-8")


def test_mysql_of_others(driver: pathlib.Path, capsys: Capture, warnings: list[str]) -> None:
    mysql(driver)
    assert "msg" not in run(database_check, capsys, engine="mysql", **CHECK)
    given = json.loads((driver / "given").read_text("utf-8"))
    assert given["password"] == str("a wörd".encode())
    assert (given["host"], given["port"], given["database"], given["ssl_disabled"]) == (
        "db.example.org",
        "5432",
        "d",
        "False",
    )
    assert (driver / "closed").exists()
    assert warnings == []
    run(database_check, capsys, engine="mysql", tls=False, **CHECK)
    given = json.loads((driver / "given").read_text("utf-8"))
    assert (given["ssl"], given["ssl_disabled"]) == ("None", "True")
    assert given["connect_timeout"] == "10", "in seconds, as with PostgreSQL"


@pytest.mark.parametrize(
    "variables, storage, told",
    [
        ({}, True, ["max_allowed_packet"]),
        ({}, False, []),
        ({"max_allowed_packet": "1073741824"}, True, []),
        ({"max_allowed_packet": "1073741823"}, True, ["more than 1023 MiB"]),
    ],
)
def test_mysql_that_takes_small_files_only(
    driver: pathlib.Path,
    capsys: Capture,
    warnings: list[str],
    variables: dict[str, str],
    storage: bool,
    told: list[str],
) -> None:
    mysql(driver, variables)
    assert "msg" not in run(database_check, capsys, engine="mysql", storage=storage, **CHECK)
    assert len(warnings) == len(told)
    assert all(words in warning for words, warning in zip(told, warnings, strict=True))
    if not variables and storage:
        assert "more than 16 MiB" in warnings[0]


@pytest.mark.parametrize(
    "grants, told",
    [
        ([*GRANTS, ["GRANT USAGE ON *.* TO `u`@`%`"]], 0),
        ([["GRANT ALL PRIVILEGES ON *.* TO `u`@`%`"]], 1),
        ([*GRANTS, ["GRANT PROCESS ON *.* TO `u`@`%`"]], 1),
    ],
)
def test_login_that_may_more_than_it_needs(
    driver: pathlib.Path, capsys: Capture, warnings: list[str], grants: list[list[str]], told: int
) -> None:
    mysql(driver, None, **{"SHOW GRANTS": grants})
    assert "msg" not in run(database_check, capsys, engine="mysql", **CHECK)
    assert len(warnings) == told


@pytest.mark.parametrize("role, asked", [("`r`@`%`", True), ("r", False)])
def test_rights_that_come_with_a_role(driver: pathlib.Path, capsys: Capture, role: str, asked: bool) -> None:
    """MySQL names the rights of its roles where it is asked for them, MariaDB in any case."""
    question = f"SHOW GRANTS FOR CURRENT_USER() USING {role.replace('%', '%%')}"
    mysql(
        driver,
        None,
        **{"CURRENT_ROLE()": [[role]], question: GRANTS, "SHOW GRANTS": [["GRANT USAGE ON *.* TO `u`@`%`"]]},
    )
    assert ("lacks rights" in run(database_check, capsys, engine="mysql", **CHECK).get("msg", "")) is not asked


@pytest.mark.parametrize(
    "variables, answers, words",
    [
        ({"log_bin": "ON", "log_bin_trust_function_creators": "OFF"}, {"information_schema.TABLES": []}, "binary log"),
        ({"log_bin": "ON"}, {"information_schema.TABLES": []}, ""),
        ({"log_bin": "OFF", "log_bin_trust_function_creators": "OFF"}, {"information_schema.TABLES": []}, ""),
        ({"innodb_snapshot_isolation": "ON"}, {}, "innodb_snapshot_isolation"),
        ({"innodb_snapshot_isolation": "OFF"}, {}, ""),
        ({}, {"FROM GlobalProperties": [[1, "5"]]}, "schema 5"),
        ({}, {"SHOW GRANTS": [["GRANT SELECT ON `d`.* TO `u`@`%`"]]}, "lacks rights in d: ALTER, ALTER ROUTINE,"),
        ({}, {"SHOW GRANTS": [["GRANT INSERT ON `d`.* TO `u`@`%`"]], "FROM GlobalProperties": [[1, "5"]]}, "SELECT"),
        (
            {},
            {"information_schema.TABLES": [["wiki"]], "FROM GlobalProperties": [[1, "5"]]},
            "tables of something else",
        ),
        ({}, {"CURRENT_USER()": None}, "the server does not tell what is in d: no answer to"),
    ],
)
def test_mysql_that_is_not_ready(
    driver: pathlib.Path, capsys: Capture, variables: dict[str, str], answers: dict[str, Any], words: str
) -> None:
    mysql(driver, variables, **answers)
    said = run(database_check, capsys, engine="mysql", **CHECK)
    assert words in said.get("msg", "")
    assert said.get("failed", False) == bool(words)
    assert "schema 5" not in said.get("msg", "") or words == "schema 5", "what it may not read it does not judge"
    if words:
        assert "The database server db.example.org:5432, run by others, is not ready for Orthanc:\n- " in said["msg"]


@pytest.mark.parametrize(
    "server, words",
    [
        ({"refuses": [1045, "Access denied for user 'u'@'192.0.2.7'"]}, "refuses the login"),
        ({"refuses": [2003, "Can't connect", "to  it\n"]}, "does not let Orthanc in: Can't connect to it."),
        ({"capabilities": 0}, "the server offers no TLS"),
        ({"capabilities": 1024}, "the server offers no TLS"),
    ],
)
def test_mysql_that_refuses(driver: pathlib.Path, capsys: Capture, server: dict[str, Any], words: str) -> None:
    (driver / "server").write_text(json.dumps(server), "utf-8")
    assert words in run(database_check, capsys, engine="mysql", **CHECK)["msg"]


def postgresql(folder: pathlib.Path, powerful: bool = False, tables: Any = (), properties: Any = ()) -> None:
    answers = {
        "pg_encoding_to_char": [["UTF8", True, powerful, True, True, False]],
        "FROM pg_class": list(tables),
        "FROM globalproperties": list(properties),
    }
    (folder / "server").write_text(json.dumps({"answers": answers}), "utf-8")


def test_postgresql_of_others(
    driver: pathlib.Path, capsys: Capture, warnings: list[str], tmp_path: pathlib.Path
) -> None:
    postgresql(driver)
    call: dict[str, Any] = {"engine": "postgresql", **CHECK}
    assert "msg" not in run(database_check, capsys, storage=True, **call)
    given = json.loads((driver / "given").read_text("utf-8"))
    assert (given["sslmode"], given["sslrootcert"]) == ("verify-full", database_check.SYSTEM_CA)
    assert given["connect_timeout"] == "10"
    assert warnings == []
    postgresql(driver, powerful=True, tables=[["globalproperties", True]], properties=[[1, "6"], [4, 2]])
    library = tmp_path / "libX.so.5.0"
    library.touch()
    run(database_check, capsys, tls=False, ca="x", **call)
    given = json.loads((driver / "given").read_text("utf-8"))
    assert given["sslmode"] == "disable"
    assert given["sslrootcert"] != database_check.SYSTEM_CA
    assert warnings == ["orthanc_database_user: u may do more on the database server than Orthanc needs."]
    said = run(database_check, capsys, library=str(library), **call)["msg"]
    assert "(revision 2 of the schema); the one on this host reads 1." in said
    # Of tables that the login may not read, nothing is asked.
    postgresql(driver, tables=[["globalproperties", False]], properties=[[1, "5"]])
    said = run(database_check, capsys, **call)["msg"]
    assert "belong to another role than u" in said
    assert "schema 5" not in said
    (driver / "server").write_text(json.dumps({"refuses": ["timeout  expired\n"]}), "utf-8")
    assert "does not let Orthanc in: timeout expired." in run(database_check, capsys, **call)["msg"]


def test_login_that_postgresql_refuses_is_not_tried_twice(
    driver: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgresql(driver)
    monkeypatch.setattr(database_postgresql, "numbered", lambda *_: "failed: FATAL: 28P01: Passwort")
    assert "refuses the login" in run(database_check, capsys, engine="postgresql", **CHECK)["msg"]
    assert not (driver / "given").exists()


def test_driver_that_is_not_there(driver: pathlib.Path, capsys: Capture) -> None:
    (driver / "pymysql.py").write_text("raise ImportError('none')", "utf-8")
    said = run(database_check, capsys, engine="mysql", **CHECK)
    assert said["msg"] == "This host has no pymysql for mysql: none"
    said = run(database_check, capsys, engine="mysql", **CHECK, _ansible_check_mode=True)
    assert (said["skipped"], said["msg"]) == (True, "Check mode does not install pymysql.")


PROBED = {
    "dpkg-query": "printf 'orthanc 2:1.12.7+dfsg-4 install ok installed\\nbash 5 install ok installed\\n"
    "gone 1 deinstall ok config-files\\nhalf 1 install ok half-configured\\n'",
    "apt-cache": "echo 'orthanc | 1.13.0-1 | x'; echo 'orthanc | 1:1.12.7 | y'; echo 'orthanc | 1.13.0-1 | z'",
    "systemctl": "printf 'LoadState=loaded\\nActiveState=active\\nUnitFileState=enabled\\n\\n"
    "LoadState=loaded\\nActiveState=inactive\\nUnitFileState=enabled\\n\\n"
    "LoadState=masked\\nActiveState=inactive\\nUnitFileState=masked\\n'",
    "ss": "echo 'LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:((\"sshd\",pid=1,fd=3))';"
    "echo 'LISTEN 0 128 [::]:8042 [::]:*'; echo 'LISTEN 0 1 127.0.0.1:80 *:* users:((\"a b\",pid=4194399,fd=3))'",
    "nginx": "exit 1",
}


@pytest.fixture
def probed(programs: Systemd) -> Systemd:
    for name, text in PROBED.items():
        programs.program(name, text)
    return programs


def test_host_is_looked_at(probed: Systemd, capsys: Capture, tmp_path: pathlib.Path) -> None:
    call = {
        "storage_dir": str(tmp_path / "none" / "below"),
        "config_dir": str(tmp_path),
        "state": str(tmp_path / "none"),
    }
    found = run(site_probe, capsys, **call)
    assert (found["packages"], found["orthanc"], found["offered"]) == (["bash", "orthanc"], "1.12.7", [])
    assert (found["services"], found["masked"]) == (["fail2ban"], ["nginx"])
    assert found["listening"] == {"22": "sshd", "8042": "another program", "80": "a b"}
    assert (found["binary"], found["no_way"], found["engine"]) == ({"version": "", "options": {}}, "", {})
    system = platform.freedesktop_os_release()
    assert (found["distribution"], found["release"]) == (system["ID"], system.get("VERSION_ID", ""))
    assert (found["machine"], found["nginx_refusal"]) == (platform.machine(), "")
    assert found["memory"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found["systemd"] == os.path.isdir("/run/systemd/system")
    space = os.statvfs(tmp_path)
    assert abs(found["free"] - space.f_bavail * space.f_frsize) < space.f_blocks * space.f_frsize / 4
    assert found["ipv6"] == os.path.exists("/proc/net/if_inet6")
    assert run(site_probe, capsys, **call, offers=True)["offered"] == ["1.13.0", "1.12.7"]
    probed.program("dpkg-query", "echo 'orthanc-dicomweb 1 install ok installed'")
    found = run(site_probe, capsys, **call)
    assert (found["orthanc"], found["offered"]) == ("", ["1.13.0", "1.12.7"])


def test_program_and_server_are_asked_where_they_are_named(
    probed: Systemd, capsys: Capture, tmp_path: pathlib.Path
) -> None:
    probed.program("Orthanc", ORTHANC.format(version="1.12.7"))
    call: dict[str, Any] = {"config_dir": str(tmp_path), "state": str(tmp_path / "none")}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        found = run(site_probe, capsys, **call, program=str(probed.folder / "Orthanc"), server=["127.0.0.1", port])
    assert (found["binary"], found["no_way"]) == ({"version": "1.12.7", "options": BASIC}, "")
    found = run(site_probe, capsys, **call, program="/none/Orthanc", server=["127.0.0.1", port])
    assert found["binary"]["version"] == ""
    assert found["no_way"] == "port Connection refused"
    assert ports.no_way("nowhere.invalid", "5432").startswith("name ")


@pytest.mark.skipif(os.path.exists("/usr/sbin/nginx"), reason="it would be asked instead")
def test_nginx_is_asked_what_it_says_of_its_files(probed: Systemd, capsys: Capture, tmp_path: pathlib.Path) -> None:
    call: dict[str, Any] = {"config_dir": str(tmp_path), "state": str(tmp_path / "none"), "nginx": True}
    assert run(site_probe, capsys, **call)["nginx_refusal"] == "", "it is kept from starting"
    probed.program("systemctl", PROBED["systemctl"].replace("masked", "enabled"))
    probed.program("nginx", '[ "$*" = "-t -q" ] && echo " why" >&2; exit 1')
    assert run(site_probe, capsys, **call)["nginx_refusal"] == "why"
    assert run(site_probe, capsys, **call | {"nginx": False})["nginx_refusal"] == ""
    probed.program("nginx", "echo warning >&2")
    assert run(site_probe, capsys, **call)["nginx_refusal"] == ""


def test_index_that_cannot_be_counted(tmp_path: pathlib.Path) -> None:
    assert archive.indexed(str(tmp_path)) == -1
    with sqlite3.connect(tmp_path / "index") as connection:
        connection.execute("CREATE TABLE Resources (resourceType INTEGER)")
        connection.executemany("INSERT INTO Resources VALUES (?)", [(3,), (4,), (4,), (5,)])
    connection.close()
    assert archive.indexed(str(tmp_path)) == 2


@pytest.mark.parametrize(
    "engine, library, newest",
    [
        ("postgresql", "4.0", 1),
        ("postgresql", "5.0", 1),
        ("mysql", "4.3", 6),
        ("mysql", "5.0", 7),
        ("mysql", "5.2", None),
        ("mysql", "6.0", None),
        ("mysql", "3.9", None),
    ],
)
def test_newest_schema_that_a_plugin_reads(
    tmp_path: pathlib.Path, engine: str, library: str, newest: int | None
) -> None:
    (tmp_path / f"libX.so.{library}").touch()
    (tmp_path / "libX.so").symlink_to(f"libX.so.{library}")
    assert database_check.newest_revision(engine, str(tmp_path / "libX.so")) == newest


def test_option_that_stands_commented_out_opens_nothing() -> None:
    """Its brace is never closed as far as the text goes."""
    text = (
        '{\n  // "Dictionary" : {\n  "Name" : "x { [ // y", // {\n  "List" : [\n    "Inner", {}\n  ],\n  "Last" : 1\n}'
    )
    assert sample_options(text) == {"Dictionary": "dict", "Name": "str", "List": "list", "Last": "int"}


@pytest.mark.parametrize("name", ["Apache", "nginx", "OrthancX", "Orthan"])
def test_port_of_anything_else(name: str) -> None:
    assert ports.holder(name, "0::/system.slice/pacs.service\n", lambda *_command: "") == name

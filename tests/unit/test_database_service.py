"""What the module database_service makes of a file of others."""

import pathlib
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.files import Refused
from ansible_collections.dicom.orthanc.plugins.module_utils.way_back import Wrong
from ansible_collections.dicom.orthanc.plugins.modules.database_service import Server, text_of, with_part

from tests.unit.module import Module

THEIRS = "# PostgreSQL Client Authentication\nlocal all postgres peer\nhost wiki wiki 192.0.2.7/32 scram-sha-256\n"


def test_part_stands_at_the_head_and_the_rest_stays() -> None:
    made = with_part(THEIRS, "host orthanc orthanc 127.0.0.1/32 scram-sha-256\n")
    assert made.endswith(THEIRS)
    assert made.index("host orthanc") < made.index("host wiki")
    assert with_part(made, "host orthanc orthanc 127.0.0.1/32 scram-sha-256") == made


def test_part_is_replaced_where_it_is_and_taken_out() -> None:
    made = with_part(THEIRS, "host a a 127.0.0.1/32 scram-sha-256")
    assert with_part(made, "host b b 127.0.0.1/32 scram-sha-256").count("host ") == 2
    assert with_part(made, "") == THEIRS
    # What somebody has put above it stays too.
    assert with_part("# mine\n" + made, "") == "# mine\n" + THEIRS


def test_part_without_its_end_takes_nothing_along() -> None:
    broken = with_part(THEIRS, "host a a 127.0.0.1/32 scram-sha-256").replace("# End of", "# end of")
    assert with_part(broken, "x").endswith(broken)


FORMER = """#
# Ansible managed
#
# The role postgresql of dicom.orthanc owns this file.
# Lines for databases of others: postgresql_foreign_databases in the inventory.
local all postgres peer
host "orthanc" "orthanc" 127.0.0.1/32 scram-sha-256
hostssl "former" "former" 192.0.2.9/32 scram-sha-256
"""


def test_file_that_an_earlier_release_wrote_as_a_whole_is_replaced() -> None:
    """Else whoever left the inventory since is still let in."""
    part = 'local all postgres peer\nhost "orthanc" "orthanc" 127.0.0.1/32 scram-sha-256\n'
    made = with_part(FORMER, part)
    assert "former" not in made
    assert made == with_part("", part)
    # So it is where a release in between has put its part above it.
    between = made + FORMER + "host monitor monitor 192.0.2.7/32 scram-sha-256\n"
    assert with_part(between, part) == made + "host monitor monitor 192.0.2.7/32 scram-sha-256\n"
    # On a server of others, root's own way in is not ours to take.
    assert with_part(FORMER, "x").endswith(FORMER)


@pytest.mark.parametrize("lets_in, works", [(3, True), (9, False)])
def test_server_that_reads_its_log_is_waited_for(lets_in: int, works: bool) -> None:
    """By an exit code, since its words are in its own language; the third question comes after the time is up."""
    asked = {"ready": 0, "starting": 0}

    def run(command: list[str]) -> tuple[int, str, str]:
        if command[0] not in asked:
            return 0, "ActiveState=active\nUnitFileState=enabled\n", ""
        asked[command[0]] += 1
        if command[0] == "starting":
            # 2: it does not answer at all.
            return (1 if works else 2), "", ""
        return (0 if asked["ready"] >= lets_in else 2), "", "FATAL:  das Datenbanksystem startet"

    params: dict[str, Any] = {"enabled": [], "ready": ["ready"], "starting": ["starting"], "timeout": 0}
    server = Server(Module(run, unit="postgresql@17-main", **params))
    if works:
        server.prove(before=False)
    else:
        with pytest.raises(Wrong):
            server.prove(before=False)
    assert asked["ready"] == (lets_in if works else 1)


@pytest.mark.parametrize("starting", [[], ["false"]])
def test_server_that_does_not_answer_at_once_is_waited_for(starting: list[str]) -> None:
    asked: list[str] = []

    def run(command: list[str]) -> tuple[int, str, str]:
        if command[0] == "ready":
            asked.append("ready")
            return int(len(asked) < 3), "", "no socket"
        return int(command == ["false"]), "", ""

    Server(Module(run, unit="mariadb", ready=["ready"], starting=starting, timeout=60, enabled=[])).prove(before=True)
    assert len(asked) == 3


def test_server_that_never_answers_is_given_up() -> None:
    """It runs, and says nothing in its journal either."""

    def run(command: list[str]) -> tuple[int, str, str]:
        return int(command == ["ready"]), "", " no socket\n" if command == ["ready"] else ""

    given = {"unit": "mariadb", "ready": ["ready"], "starting": [], "enabled": []}
    with pytest.raises(Wrong, match=r"^mariadb does not work\.$") as wrong:
        Server(Module(run, **given, timeout=0.3)).prove(before=True)
    assert wrong.value.log == "It says:\nno socket"
    with pytest.raises(Wrong, match=r"^mariadb does not work with its new settings\.$"):
        Server(Module(run, **given, timeout=0)).prove(before=False)


def test_file_of_others_that_is_a_link_is_not_read(tmp_path: pathlib.Path) -> None:
    """The user of the server owns the folder, and gets the file that is made of it."""
    (tmp_path / "key").write_text("secret", "utf-8")
    assert text_of(str(tmp_path / "key")) == "secret"
    assert text_of(str(tmp_path / "none" / "pg_hba.conf")) == text_of(str(tmp_path / "none")) == ""
    (tmp_path / "pg_hba.conf").symlink_to("key")
    with pytest.raises(Refused, match=r"pg_hba\.conf: it is a link, which is not followed"):
        text_of(str(tmp_path / "pg_hba.conf"))

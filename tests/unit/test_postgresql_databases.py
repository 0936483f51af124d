"""What the module postgresql_databases says to a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.modules.postgresql_databases import Databases

from tests.unit.module import Failed, Module
from tests.unit.test_database_login import SCRAM

MADE = {"owner": "o", "encoding": "UTF8", "comment": "ours", "open": False}


class Server(Module):
    """A server that has this login, this database and perhaps the extension in it."""

    def __init__(self, login: dict[str, Any] | None, database: dict[str, Any] | None, extension: bool) -> None:
        super().__init__(command=["psql"])
        self.answers = {
            "from pg_authid": json.dumps(login) if login else "",
            "from pg_database": json.dumps(database) if database else "",
            "from pg_extension": "1" if extension else "",
        }

    def run_command(self, command: list[str], data: str = "", **_options: Any) -> tuple[int, str, str]:
        self.commands.append(command)
        self.inputs.append(data)
        return 0, next((answer for question, answer in self.answers.items() if question in data), ""), ""


def said(server: Server, password: str = "pencil") -> list[str]:
    databases = Databases(server)
    databases.login("o", password)
    databases.database("d", "o", "ours")
    return databases.statements


def test_nothing_is_there() -> None:
    server = Server(None, None, extension=False)
    words = ["create role", "alter role", "create database", "comment on", "revoke connect", "create extension"]
    statements = said(server)
    assert [statement.startswith(word) for statement, word in zip(statements, words, strict=True)] == [True] * 6
    assert server.commands[-1] == ["psql", "-d", "d"]


def test_everything_is_there() -> None:
    assert said(Server({"password": SCRAM["pencil"], "rights": True}, MADE, extension=True)) == []


@pytest.mark.parametrize("stored", [None, "md5a3556571e93b0d20722ba62be61e8c2d", SCRAM["pencil"]])
def test_password_is_stored_as_our_rule_asks_for(stored: str | None) -> None:
    server = Server({"password": stored, "rights": True}, MADE, extension=True)
    assert said(server, "it's \\n") == ['alter role "o" password …']
    (statement,) = (data for data in server.inputs if "alter role" in data)
    assert "set password_encryption = 'scram-sha-256';" in statement
    assert statement.endswith("alter role \"o\" password E'it''s \\\\n';\n")
    assert "it's" not in str(server.commands)


@pytest.mark.parametrize(
    "differs, statement",
    [
        ({"owner": "postgres"}, 'alter database "d" owner to "o"'),
        ({"comment": ""}, "comment on database \"d\" is 'ours'"),
        ({"open": True}, 'revoke connect on database "d" from public'),
    ],
)
def test_database_is_put_right(differs: dict[str, Any], statement: str) -> None:
    assert said(Server({"password": SCRAM["pencil"], "rights": True}, MADE | differs, extension=True)) == [statement]


def test_login_that_may_more_is_put_right() -> None:
    (statement,) = said(Server({"password": SCRAM["pencil"], "rights": False}, MADE, extension=True))
    assert "nosuperuser" in statement


def test_other_encoding_is_told() -> None:
    with pytest.raises(Failed, match=r"orthanc_database_name: .* LATIN1"):
        said(Server(None, MADE | {"encoding": "LATIN1"}, extension=True))


def test_database_that_is_made_with_the_extension_in_it() -> None:
    """As where the template of the server has it."""
    server = Server({"password": SCRAM["pencil"], "rights": True}, None, extension=True)
    assert [statement.split(" ")[0] for statement in said(server)] == ["create", "comment", "revoke"]
    assert "create database" in said(server)[0]


@pytest.mark.parametrize("extension", [True, False])
def test_dry_run_looks_into_a_database_that_is_there(extension: bool) -> None:
    server = Server({"password": SCRAM["pencil"], "rights": True}, MADE, extension)
    server.check_mode = True
    assert said(server) == ([] if extension else ["create extension if not exists pg_trgm"])


def test_dry_run_says_nothing_to_the_server() -> None:
    server = Server(None, None, extension=False)
    server.check_mode = True
    assert len(said(server)) == 6
    assert not [data for data in server.inputs if "create role" in data or "create database" in data]

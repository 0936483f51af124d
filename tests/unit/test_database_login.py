"""What a database server has stored of a password goes back, or is forgotten, and is told to nobody."""

import json
import pathlib
import stat
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import files
from ansible_collections.dicom.orthanc.plugins.module_utils.database_host import QUIET, Sql, changing, user_of, verifies
from ansible_collections.dicom.orthanc.plugins.modules import database_login

from tests.unit.module import Failed, Module

# Of RFC 7677, in the form of PostgreSQL; and of MariaDB.
SCRAM = {
    "pencil": "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
}
NATIVE = {"password": "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"}


def test_password_is_known_by_what_is_stored() -> None:
    for password, stored in (SCRAM | NATIVE).items():
        assert verifies(stored, password)
        assert not verifies(stored, f"{password} ")
    for stored in ("", "None", "md5a3556571e93b0d20722ba62be61e8c2d", "SCRAM-SHA-256$x:y$z:z", "$A$005$xyz"):
        assert not verifies(stored, "password")
    assert not verifies(SCRAM["pencil"].replace("SHA-256", "SHA-512"), "pencil")


@pytest.mark.parametrize("login, user", [("orthanc", "orthanc"), ("orthanc@192.0.2.1", "orthanc"), ("a@b@%", "a@b")])
def test_user_of_a_login(login: str, user: str) -> None:
    assert user_of(login) == user


class Server(Module):
    """A server with logins, by what it has stored of them; it ends badly at the word ``broken``."""

    def __init__(self, stored: dict[str, str]) -> None:
        super().__init__()
        self.stored = stored

    def run_command(self, command: list[str], data: str = "", **options: Any) -> tuple[int, str, str]:
        super().run_command(["true"], data, **options)
        self.commands[-1] = command
        if "broken" in data:
            return 3, "", data
        name = data.split("'")[-2] if "rolname" in data else ""
        return 0, json.dumps(["scram", self.stored[name]]) if name in self.stored else "", ""


def test_what_changes() -> None:
    server = Server({"same": SCRAM["pencil"], "other": SCRAM["pencil"]})
    asked = {"same": "pencil", "other": "another", "new": "x"}
    assert changing(Sql(server, "postgresql", ["psql"]), asked) == ["other"]


def test_statements_are_no_arguments() -> None:
    server = Server({})
    Sql(server, "postgresql", ["psql"]).store("orthanc", ["scram", "SCRAM-SHA-256$x"])
    Sql(server, "mysql", ["mariadb"]).store("o'c@192.0.2.1", ["mysql_native_password", "*AB"])
    Sql(server, "mysql", ["mariadb"]).stored("orthanc@192.0.2.1")
    Sql(server, "postgresql", ["psql"]).store("nobody", [])
    assert server.commands == [["psql"], ["mariadb"], ["mariadb"]]
    assert server.inputs == [
        f"{QUIET}alter role \"orthanc\" password 'SCRAM-SHA-256$x';\n",
        "ALTER USER 'o''c'@'192.0.2.1' IDENTIFIED VIA mysql_native_password USING '*AB';\n",
        "SELECT JSON_ARRAY(plugin, authentication_string) FROM mysql.user WHERE User = 'orthanc' AND"
        " Host = '192.0.2.1';\n",
    ]


def test_statement_that_fails_is_not_told() -> None:
    with pytest.raises(Failed) as failed:
        Sql(Server({}), "postgresql", ["runuser", "psql"]).store("broken", ["scram", "SCRAM-SHA-256$x"])
    assert str(failed.value) == "runuser … psql ends with 3 at a question for logins."


class Done(Exception):
    """The module ended well, with this result."""


class Host(Server):
    """A server, and what the module is called with."""

    def __init__(self, folder: pathlib.Path, stored: dict[str, str]) -> None:
        super().__init__(stored)
        self.folder = folder

    def exit_json(self, **result: Any) -> None:
        raise Done(result)

    @property
    def kept(self) -> pathlib.Path:
        return self.folder / "postgresql" / "logins.json"

    def call(self, state: str, check: bool = False, **params: Any) -> tuple[bool, list[str], bool]:
        """Call the module; return what was changed, which logins, and whether something is still kept."""
        given = {"engine": "postgresql", "state": state, "passwords": {}, "users": [], "command": ["psql"]}
        self.params = given | {"state_dir": str(self.folder)} | params
        self.check_mode = check
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "LOCK", str(self.folder / "lock"))
            patch.setattr(database_login, "AnsibleModule", lambda **_spec: self)
            with pytest.raises(Done) as done:
                database_login.main()
        result = done.value.args[0]
        return result["changed"], result["logins"], result["ansible_facts"]["pacs_logins_kept"]


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path, {"a": SCRAM["pencil"], "b": SCRAM["pencil"]})


NEW = {"a": "another", "b": "pencil", "c": "x"}


def test_what_is_stored_is_kept_before_it_changes(host: Host) -> None:
    assert host.call("kept", check=True, passwords=NEW) == (False, ["a"], False)
    assert host.call("kept", passwords=NEW) == (False, ["a"], True)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (host.kept.parent, host.kept)] == [0o700, 0o600]
    assert json.loads(host.kept.read_text("utf-8")) == {"": ["psql"], "a": ["scram", SCRAM["pencil"]]}
    # What was never proved is not what worked.
    host.stored["a"] = SCRAM["pencil"].replace("W22Z", "X22Z")
    assert host.call("kept", passwords=NEW) == (False, [], True)
    assert json.loads(host.kept.read_text("utf-8"))["a"] == ["scram", SCRAM["pencil"]]


def test_nothing_is_kept_without_need(host: Host) -> None:
    assert host.call("kept", passwords={"b": "pencil"}) == (False, [], False)
    assert not host.kept.exists()


def test_kept_goes_back_once(host: Host) -> None:
    host.call("kept", passwords=NEW)
    assert host.call("back", users=["b"]) == (False, [], True)
    assert host.call("back", check=True, users=["a"]) == (True, ["a"], True)
    host.inputs.clear()
    assert host.call("back", users=["a"]) == (True, ["a"], False)
    assert [f"alter role \"a\" password '{SCRAM['pencil']}'" in text for text in host.inputs] == [True]
    assert host.call("back", users=["a"]) == (False, [], False)


def test_proved_is_forgotten_for_each_user(host: Host) -> None:
    host.call("kept", passwords={"a": "1", "b": "2"})
    host.inputs.clear()
    assert host.call("proved", users=["a"]) == (False, ["a"], True)
    assert set(json.loads(host.kept.read_text("utf-8"))) == {"", "b"}
    assert host.call("proved", users=["b"]) == (False, ["b"], False)
    assert (host.inputs, host.kept.exists()) == ([], False)

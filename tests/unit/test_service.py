"""What the module orthanc_service finds different from what was asked for, and what it goes back to."""

import json
import os
import pathlib
import re
import time
import types
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import files
from ansible_collections.dicom.orthanc.plugins.module_utils.files import MARK
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import Files, State, put_back
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_answers import MEANINGS, differences, meaning
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_client import Unready
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_kept import (
    STARTED,
    Kept,
    keep_unit,
    newest,
    with_login,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_packages import Packages
from ansible_collections.dicom.orthanc.plugins.module_utils.way_back import Undecided, WayBack, Wrong
from ansible_collections.dicom.orthanc.plugins.modules import orthanc_service
from ansible_collections.dicom.orthanc.plugins.modules.orthanc_service import Service, Starting, beside, wait

from tests.unit.module import Failed, Module

ASKED = {"version": "1.12.7", "plugins": ["dicom-web"], "database": "sqlite", "storage": ""}
SYSTEM = {"Version": "1.12.7", "DatabaseBackendPlugin": None}


@pytest.mark.parametrize(
    "asked, system, plugins",
    [
        ({}, {}, ["dicom-web"]),
        ({}, {}, ["dicom-web", "explorer.js"]),
        ({"version": ""}, {"Version": "1.13.0"}, ["dicom-web"]),
        ({"plugins": []}, {}, []),
        ({"database": "postgresql"}, {"DatabaseBackendPlugin": "/x/libOrthancPostgreSQLIndex.so"}, ["dicom-web"]),
        (
            {"database": "mysql", "storage": "mysql"},
            {
                "DatabaseBackendPlugin": "/x/libOrthancMySQLIndex.so.5.0",
                "StorageAreaPlugin": "/x/libOrthancMySQLStorage.so",
            },
            ["dicom-web"],
        ),
        (
            {"storage": "libDelayedDeletion"},
            {"StorageAreaPlugin": "/usr/lib/orthanc/libDelayedDeletion.so.1.12.7"},
            ["dicom-web"],
        ),
    ],
)
def test_no_difference(asked: dict[str, Any], system: dict[str, Any], plugins: list[str]) -> None:
    assert differences(ASKED | asked, SYSTEM | system, plugins) == []


@pytest.mark.parametrize(
    "asked, system, plugins, expected",
    [
        ({}, {"Version": "1.10.1"}, ["dicom-web"], ["orthanc_version asks for 1.12.7, but 1.10.1 runs"]),
        ({}, {}, ["gdcm"], ["did not load: dicom-web"]),
        ({"plugins": ["a", "b"]}, {}, [], ["did not load: a", "did not load: b"]),
        (
            {},
            {"DatabaseBackendPlugin": "/x/libOrthancOther.so"},
            ["dicom-web"],
            ["DatabaseBackendPlugin is /x/libOrthancOther.so"],
        ),
        # Older releases run on SQLite when the plugin of the database is missing.
        (
            {"database": "postgresql"},
            {},
            ["dicom-web"],
            ["asks for postgresql, but DatabaseBackendPlugin is the built-in one"],
        ),
        (
            {"storage": "mysql", "database": "mysql"},
            {"DatabaseBackendPlugin": "MySQL"},
            ["dicom-web"],
            ["StorageAreaPlugin"],
        ),
        ({"storage": "libDelayedDeletion"}, {}, ["dicom-web"], ["StorageAreaPlugin is the built-in one"]),
        ({}, {"StorageAreaPlugin": "/x/libDelayedDeletion.so"}, ["dicom-web"], ["asks for the file system"]),
    ],
)
def test_difference(asked: dict[str, Any], system: dict[str, Any], plugins: list[str], expected: list[str]) -> None:
    found = differences(ASKED | asked, SYSTEM | system, plugins)
    assert len(found) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    "line, variable",
    [
        (
            'E1120 PostgreSQL error: FATAL:  password authentication failed for user "orthanc"',
            "orthanc_database_password",
        ),
        ("E1120 MySQL error: Access denied for user 'orthanc'@'127.0.0.1'", "orthanc_database_password"),
        ("E1120 The PostgreSQL database is locked by another instance of Orthanc", "second site"),
        ("E1120 permission denied for schema public", "own the database"),
        ("E1120 remaining connection slots are reserved", "max_connections"),
        ('E1120 FATAL:  database "pacs" does not exist', "orthanc_database_name"),
        ("E1120 connection to server failed: Connection refused", "orthanc_database_host"),
    ],
)
def test_meaning(line: str, variable: str) -> None:
    assert variable in meaning(line)


def test_no_meaning() -> None:
    assert meaning("E1120 Parameter out of range") == ""


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a configuration folder with a file in it, beside a unit."""
    made = tmp_path / "orthanc"
    made.mkdir()
    (made / "orthanc.json").write_text('{"Name": "old ü\\u0024"}', "utf-8")
    (made / "orthanc.json").chmod(0o640)
    (made / MARK).touch()
    (tmp_path / "orthanc.service").write_text("[Unit]\n", "utf-8")
    return made


def state(folder: pathlib.Path) -> State:
    return State(str(folder.parent / "state" / "last.json"), lasting=True)


def kept(folder: pathlib.Path) -> Kept:
    return Kept(state(folder), str(folder), str(folder.parent / "orthanc.service"))


def restore(found: Kept) -> list[str]:
    """Go the first way back."""
    return [path for way in found.ways("")[:1] for path in put_back(way)]


def test_what_worked_comes_back_whole(folder: pathlib.Path) -> None:
    before = (folder / "orthanc.json").read_bytes()
    kept(folder).keep("boot 1")
    (folder / "orthanc.json").write_text("{", "utf-8")
    (folder / "orthanc.json").chmod(0o600)
    (folder / "mysql.json").write_text("{}", "utf-8")
    (folder.parent / "orthanc.service").unlink()
    assert restore(kept(folder))
    assert (folder / "orthanc.json").read_bytes() == before
    assert (folder / "orthanc.json").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(folder)) == [MARK, "orthanc.json"]
    assert (folder.parent / "orthanc.service").read_text("utf-8") == "[Unit]\n"


def test_nothing_of_others_goes_on_the_way_back(folder: pathlib.Path) -> None:
    """As it would where orthanc_config_dir names a folder that the toolkit does not know."""
    kept(folder).keep("boot 1")
    other = folder.parent / "other"
    other.mkdir()
    (other / "passwd").touch()
    restore(Kept(state(folder), str(other), str(folder.parent / "orthanc.service")))
    assert (other / "passwd").exists()


def test_unit_of_others_is_kept(folder: pathlib.Path) -> None:
    unit, copy = folder.parent / "orthanc.service", folder.parent / "state" / "orthanc.service.found"
    unit.write_text("[Service]\nExecStart=/opt/Orthanc Configuration.json\n", "utf-8")
    module = Module(unit=str(unit), config_dir=str(folder))
    module.check_mode = True
    keep_unit(module, state(folder))
    assert (len(module.warnings), copy.exists()) == (1, False)
    module.check_mode = False
    keep_unit(module, state(folder))
    assert module.warnings[1] == f"{unit} is of others, and is replaced. As it was, it is kept as {copy}."
    assert copy.read_text("utf-8") == unit.read_text("utf-8")
    unit.write_text(f"[Service]\nExecStart=/opt/Orthanc {folder}\n", "utf-8")
    keep_unit(module, state(folder))
    unit.unlink()
    unit.symlink_to("/dev/null")
    keep_unit(module, state(folder))
    unit.unlink()
    keep_unit(module, state(folder))
    assert len(module.warnings) == 2


def test_release_comes_back_with_its_configuration(folder: pathlib.Path) -> None:
    link = folder.parent / "current"
    link.symlink_to("1.10.1")
    links = [str(link)]
    Kept(state(folder), str(folder), "/none", links).keep("boot 1")
    link.unlink()
    link.symlink_to("1.12.7")
    assert restore(Kept(state(folder), str(folder), "/none", links)) == links
    assert link.readlink() == pathlib.Path("1.10.1")


def test_nothing_comes_back_where_nothing_worked_or_nothing_changed(folder: pathlib.Path) -> None:
    assert not restore(kept(folder))
    kept(folder).keep("boot 1")
    assert not restore(kept(folder))


def test_same_options_in_other_words_are_no_change(folder: pathlib.Path) -> None:
    kept(folder).keep("boot 1")
    (folder / "orthanc.json").write_text('{\n  "Name":"old \\u00fc$"}\n', "utf-8")
    assert kept(folder).runs("boot 1")
    assert not kept(folder).runs("boot 2"), "of another process nobody knows what it read"
    (folder / "more.json").write_text('{"HttpPort": 8042}', "utf-8")
    assert not kept(folder).runs("boot 1")
    (folder / "more.json").unlink()
    (folder.parent / "orthanc.service").write_text("[Unit]\n\n", "utf-8")
    assert not kept(folder).runs("boot 1")
    (folder / "orthanc.json").write_text("{", "utf-8")
    assert not kept(folder).runs("boot 1")


def test_what_worked_is_for_root_alone(folder: pathlib.Path) -> None:
    kept(folder).keep("boot 1")
    file = pathlib.Path(state(folder).path)
    assert [path.stat().st_mode & 0o777 for path in (file.parent, file)] == [0o700, 0o600]


def test_newest_is_a_change_that_counts(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file, program = folder / "orthanc.json", tmp_path / "Orthanc"
    program.touch()
    for path in (file, program):
        os.utime(path, (1000, 1000))
    assert newest([str(file), str(folder / "none")], []) == 1000
    file.chmod(0o600)
    assert newest([str(file)], []) == 1000, "another mode is not another configuration"
    assert newest([], [str(program), str(tmp_path / "none")]) > 1000, "a program that was put in place is a new one"


URI = "postgresql://orthanc:{}@{}:5432/orthanc?sslmode=disable"


@pytest.mark.parametrize(
    "last, new, expected",
    [
        (
            {"PostgreSQL": {"ConnectionUri": URI.format("old", "db1"), "Lock": True}},
            {"PostgreSQL": {"ConnectionUri": URI.format("ne%40w", "db2"), "Lock": False}},
            {"PostgreSQL": {"ConnectionUri": URI.format("ne%40w", "db1"), "Lock": True}},
        ),
        (
            {"MySQL": {"Username": "orthanc", "Password": "old", "Host": "db1"}},
            {"MySQL": {"Username": "orthanc", "Password": "${HOME}", "Host": "db2"}},
            {"MySQL": {"Username": "orthanc", "Password": "${HOME}", "Host": "db1"}},
        ),
        ({"MySQL": {"Password": "old"}}, {"PostgreSQL": {"Password": "new"}}, {"MySQL": {"Password": "old"}}),
    ],
)
def test_login_of_another_configuration(last: dict[str, Any], new: dict[str, Any], expected: dict[str, Any]) -> None:
    text = with_login(json.dumps(last), json.dumps(new))
    assert json.loads(text) == expected
    assert "$" not in text, "Orthanc would look for a variable of that name"
    # As the templates write it.
    written = json.dumps(last, indent=4)
    assert with_login(written, json.dumps(last)) == written
    assert with_login(written, json.dumps(new)) == json.dumps(expected, indent=4).replace("$", "\\u0024")


class Unit:
    """A unit of which Orthanc serves with the texts that ``works`` takes."""

    def __init__(self, folder: pathlib.Path, works: Any) -> None:
        self.name, self.ended, self.starts = "orthanc.service", False, 0
        self.log_lines: list[str] = []
        self._folder, self._works = folder, works

    def tell(self, verb: str) -> None:
        assert verb == "restart"
        self.starts += 1
        self.ended = not self._works(self._folder)

    @property
    def active(self) -> bool:
        return not self.ended

    def reload_files(self) -> None:
        pass

    def enable(self) -> None:
        pass

    def show(self) -> dict[str, str]:
        return {"ExecMainStartTimestampMonotonic": str(self.starts)}

    def log(self, _lines: int, _since: float = 0.0) -> list[str]:
        return self.log_lines

    def get(self, path: str) -> Any:
        if self.ended:
            raise Unready("it does not answer")
        return SYSTEM if path == "/system" else ["dicom-web"]


def service(folder: pathlib.Path, unit: Unit, **params: Any) -> tuple[WayBack, Service]:
    given = {"config_dir": str(folder), "unit": os.devnull, "programs": [], "timeout": 1, "guard": "", "reload": []}
    module = Module(None, **ASKED | given | {"login_goes_back": False} | params)
    made = Service(module, kept(folder), unit, [], Packages(module, "", []))  # type: ignore[arg-type]
    way = WayBack(module, "Orthanc", state(folder), made.apply, made.prove)
    way.ways, way.resort = made._kept.ways, made._kept.resort()
    made.restart = True
    return way, made


def rotated(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, taken: str, bad: bool = True) -> Unit:
    """A site whose run brought another password, maybe with a setting that Orthanc does not take."""
    monkeypatch.setattr(files, "LOCK", str(folder.parent / "lock"))
    (folder / "credentials.json").write_text('{"HttpPort": 1, "RegisteredUsers": {"a": "b"}}', "utf-8")
    (folder / "mysql.json").write_text('{"MySQL": {"Password": "old"}}', "utf-8")
    kept(folder).keep("boot 1")
    (folder / "mysql.json").write_text('{"MySQL": {"Password": "new"}}', "utf-8")
    if bad:
        (folder / "orthanc.json").write_text('{"Name": "bad"}', "utf-8")
    unit = Unit(folder, lambda folder: password(folder) == taken and "old" in (folder / "orthanc.json").read_text())
    monkeypatch.setattr(orthanc_service, "Orthanc", lambda _settings: unit)
    return unit


def test_who_presents_the_login_reads_it(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the Orthanc that asked for another one is gone. The one of before too, where Orthanc goes back to that."""
    unit = rotated(folder, monkeypatch, "old")
    told: list[str] = []

    def other(_module: Module, name: str) -> Any:
        def tell(verb: str) -> bool:
            told.append(f"{verb} {name}, {password(folder)}, {unit.starts}")
            return True

        return types.SimpleNamespace(tell=tell)

    monkeypatch.setattr(orthanc_service, "Unit", other)
    with pytest.raises(Failed):
        service(folder, unit, reload=["nginx"])[0].run()
    # With the new password, with that in what worked last, and with what worked last.
    assert told == [f"try-reload-or-restart nginx, {found}" for found in ("new, 1", "new, 2", "old, 3")]


def test_who_presents_the_login_cannot_read_it(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = rotated(folder, monkeypatch, "new", bad=False)
    (folder / "orthanc.json").write_text('{"Name": "old"}', "utf-8")
    monkeypatch.setattr(orthanc_service, "Unit", lambda *_: types.SimpleNamespace(tell=lambda _verb: False))
    with pytest.raises(Failed, match="It cannot be reloaded, and presents a login to Orthanc: nginx"):
        service(folder, unit, reload=["nginx"])[0].run()
    service(folder, unit)[0].run()


def test_reason_is_of_this_start_alone(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier Orthanc may have ended for another reason."""
    unit, begin = rotated(folder, monkeypatch, "none"), time.time()
    asked: list[float] = []

    def log(_lines: int, since: float = 0.0) -> list[str]:
        asked.append(since)
        return ["E0101 Connection refused"]

    monkeypatch.setattr(unit, "log", log)
    with pytest.raises(Failed):
        service(folder, unit)[0].run()
    assert asked
    assert min(asked) >= begin


def password(folder: pathlib.Path) -> str:
    found: str = json.loads((folder / "mysql.json").read_text("utf-8"))["MySQL"]["Password"]
    return found


@pytest.mark.parametrize("taken", ["new", "old"])
def test_bad_setting_goes_back_and_the_password_that_the_server_takes_stays(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    unit = rotated(folder, monkeypatch, taken)
    with pytest.raises(Failed, match=r"^Orthanc ended after 0 s\. The conf.* Orthanc serves with it\.\nIts journal"):
        service(folder, unit)[0].run()
    assert (password(folder), unit.ended) == (taken, False)
    assert '"old' in (folder / "orthanc.json").read_text("utf-8")
    # And it is what the next bad change goes back to.
    (folder / "orthanc.json").write_text('{"Name": "worse"}', "utf-8")
    restore(kept(folder))
    assert password(folder) == taken


def test_what_worked_last_keeps_its_password_where_the_database_will_take_it_again(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = rotated(folder, monkeypatch, "new")
    way, _made = service(folder, unit, login_goes_back=True)
    with pytest.raises(Failed, match="Orthanc serves with it"):
        way.run()
    assert password(folder) == "new", "for the moment"
    # By now the database does.
    monkeypatch.setattr(unit, "_works", lambda folder: password(folder) == "old")
    way, _made = service(folder, unit)
    way.ways = lambda _problem: kept(folder).login()
    assert way.again() == [str(folder / "mysql.json")]
    assert (password(folder), unit.ended) == ("old", False)
    assert way.again() == []


def test_password_that_the_server_refuses_goes_back_at_once(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = rotated(folder, monkeypatch, "old", bad=False)
    unit.log_lines = ["E1120 password authentication failed"]
    with pytest.raises(Failed, match=re.escape(MEANINGS[0][1])):
        service(folder, unit)[0].run()
    assert (password(folder), unit.starts) == ("old", 2)


def test_new_password_stays_while_nothing_works(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the database is away: its server knows the new one, and Orthanc is started again and again."""
    unit = rotated(folder, monkeypatch, "another")
    with pytest.raises(Failed, match="does not work any more either: Orthanc ended"):
        service(folder, unit)[0].run()
    assert password(folder) == "new"
    assert '"old' in (folder / "orthanc.json").read_text("utf-8")


def test_what_was_asked_for_is_compared_and_what_worked_last_is_not(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = rotated(folder, monkeypatch, "new", bad=False)
    _way, made = service(folder, unit, plugins=["gdcm"])
    with pytest.raises(Wrong, match="did not load: gdcm"):
        made.prove(False)
    assert made.prove(True)["version"] == "1.12.7"


def test_another_release_that_is_not_ready_is_left_to_it(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be changing its database, for as long as that takes; what worked last is not waited for like this."""
    unit = rotated(folder, monkeypatch, "new", bad=False)
    monkeypatch.setattr(orthanc_service, "SCHEMA", 0)

    def busy(_path: str) -> None:
        raise Unready("it does not answer")

    monkeypatch.setattr(unit, "get", busy)
    way, made = service(folder, unit, timeout=0)
    made._other = True
    with pytest.raises(Failed, match="It was left running: another release may be changing its database"):
        way.run()
    assert password(folder) == "new"
    with pytest.raises(Wrong) as wrong:
        made.prove(True)
    assert not isinstance(wrong.value, Undecided)


def upgraded(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Unit:
    """A site whose run brought another image."""
    start = folder.parent / "orthanc.service"
    start.write_text("[Service]\nExecStart=docker run orthanc:1 /etc/pacs/orthanc\n", "utf-8")
    unit = rotated(folder, monkeypatch, "new")
    start.write_text("[Service]\nExecStart=docker run orthanc:2 /etc/pacs/orthanc\n", "utf-8")
    monkeypatch.setattr(unit, "_works", lambda _folder: "orthanc:2" in start.read_text("utf-8"))
    return unit


def test_release_that_has_opened_the_database_stays(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before would not read it any more, and be down for good."""
    unit = upgraded(folder, monkeypatch)
    with pytest.raises(Failed, match=r"did not load: gdcm.* It was left running: this release has opened the database"):
        service(folder, unit, plugins=["gdcm"])[0].run()
    assert (unit.starts, unit.ended, password(folder)) == (1, False, "new")
    assert "orthanc:2" in (folder.parent / "orthanc.service").read_text("utf-8")


def test_release_with_the_plugin_of_before_goes_back(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has changed nothing in the database, whether it answers or hangs, and is not waited for."""
    unit = upgraded(folder, monkeypatch)
    monkeypatch.setattr(unit, "_works", lambda _folder: True)
    start = folder.parent / "orthanc.service"
    asked = start.read_text("utf-8")
    for problem in ("did not load: gdcm", "is not ready after 0 s"):
        start.write_text(asked, "utf-8")
        way, made = service(folder, unit, plugins=["gdcm"], timeout=0)
        made._other = made.same = True
        with pytest.raises(Failed, match=problem) as failed:
            way.run()
        assert "left running" not in str(failed.value)
        assert "orthanc:1" in start.read_text("utf-8")

        def get(_path: str) -> Any:
            raise Unready("it does not answer")

        monkeypatch.setattr(unit, "get", get)


@pytest.mark.parametrize("answer, stays", [("401 Unauthorized", True), ("404 Not Found", True), ("500 Error", False)])
def test_release_that_answers_has_opened_the_database(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, answer: str, stays: bool
) -> None:
    """Be it that it refuses the login: the index is opened before the port is."""
    unit = upgraded(folder, monkeypatch)
    start = folder.parent / "orthanc.service"

    def get(_path: str) -> Any:
        raise Unready(f"http://127.0.0.1:1/changes?last answers {answer}")

    monkeypatch.setattr(unit, "get", get)
    with pytest.raises(Failed) as failed:
        service(folder, unit, timeout=0)[0].run()
    assert ("It was left running: this release has opened the database" in str(failed.value)) is stays
    assert ("orthanc:2" in start.read_text("utf-8")) is stays


def test_release_by_the_link_that_leads_to_it(folder: pathlib.Path) -> None:
    link = folder.parent / "current"
    link.symlink_to("1.10.1")
    (folder / "mysql.json").write_text("{}", "utf-8")
    unit = folder.parent / "orthanc.service"
    unit.write_text(f"ExecStart={link}/Orthanc {folder}\n", "utf-8")

    def now() -> Kept:
        return Kept(state(folder), str(folder), str(unit), [str(link)])

    now().keep("boot 1")
    assert not now().crosses()
    link.unlink()
    link.symlink_to("1.12.7")
    assert now().crosses()
    (folder / "mysql.json").unlink()
    assert not now().crosses(), "SQLite's file is no server that another release may have changed"
    (folder / "mysql.json").write_text("{}", "utf-8")
    unit.write_text(f"ExecStart=docker run orthanc:1 {folder}\n", "utf-8")
    now().keep("boot 2")
    link.unlink()
    assert not now().crosses(), "it is left of another method"


def test_password_goes_back_and_the_release_does_not(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = upgraded(folder, monkeypatch)
    way, _made = service(folder, unit)
    way.ways = lambda _problem: kept(folder).login()
    assert way.again() == [str(folder / "mysql.json")]
    assert password(folder) == "old"


def test_release_is_the_same_where_only_its_options_are_others(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgraded(folder, monkeypatch)
    assert kept(folder).crosses()
    start = folder.parent / "orthanc.service"
    start.write_text("[Service]\nExecStart=docker run --volume=/a orthanc:1 /etc/pacs/orthanc\n", "utf-8")
    assert not kept(folder).crosses()


@pytest.mark.parametrize("before", ["1", "2"])
def test_database_that_the_release_before_does_not_read_gets_the_newer_one_again(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """The newer one ended after it had changed its database, or did so in a run before."""
    unit = upgraded(folder, monkeypatch)
    start = folder.parent / "orthanc.service"
    asked = start.read_text("utf-8")
    if before == "1":
        start.write_text(asked.replace("orthanc:2", "orthanc:1"), "utf-8")
    monkeypatch.setattr(unit, "_works", lambda _folder: False)
    unit.log_lines = ["E1120 MySQL plugin is incompatible with database schema revision: 9"]
    way, made = service(folder, unit)
    start.write_text(asked, "utf-8")
    (folder / "more.json").write_text("{}", "utf-8")
    way.resort = made._kept.resort()
    with pytest.raises(Failed, match=r"last does not work any more either: .* was started again\.\nIts journal"):
        way.run()
    assert "orthanc:2" in start.read_text("utf-8")
    assert (unit.starts, password(folder)) == (4, "new")
    assert (folder / "more.json").exists() == (before == "1"), "what was there before, or what was asked for"


def test_nothing_is_restarted_without_need(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = rotated(folder, monkeypatch, "new", bad=False)
    way, made = service(folder, unit)
    made.restart = False
    assert way.run()["plugins"] == ["dicom-web"]
    assert unit.starts == 0


def test_what_lives_and_what_ended_are_told_apart(folder: pathlib.Path) -> None:
    """Of the first, nobody knows whether it is changing its database."""
    unit = Unit(folder, lambda _folder: True)

    def busy(_path: str) -> None:
        raise Unready("it does not answer")

    orthanc = types.SimpleNamespace(get=busy)
    with pytest.raises(Starting):
        wait(orthanc, unit, 0)  # type: ignore[arg-type]
    unit.ended = True
    with pytest.raises(Unready, match="Orthanc ended") as ended:
        wait(orthanc, unit, 0)  # type: ignore[arg-type]
    assert not isinstance(ended.value, Starting)


def test_what_works_is_waited_for(folder: pathlib.Path) -> None:
    """However long that takes: the time-out begins anew whenever it is seen to."""
    unit, times = Unit(folder, lambda _folder: True), 8
    asked: list[float] = []

    def answer(_path: str) -> None:
        if len(asked) < times:
            raise Unready("it does not answer")

    def works() -> bool:
        asked.append(time.monotonic())
        return len(asked) < times

    orthanc = types.SimpleNamespace(get=answer)
    assert wait(orthanc, unit, 1, works) > 1.5  # type: ignore[arg-type]
    asked.clear()
    times = 99
    with pytest.raises(Starting):
        wait(orthanc, unit, 1, lambda: len(asked) < 3 and not asked.append(0.0))  # type: ignore[arg-type, func-returns-value]


def test_what_answers_before_its_unit_ends_it_does_not_work(folder: pathlib.Path) -> None:
    """One that is started again and again is heard now and then."""
    states = iter([(False, False), (False, False), (False, True)])
    unit = types.SimpleNamespace(name="orthanc.service", active=False, ended=False)

    def answer(_path: str) -> None:
        unit.active, unit.ended = next(states)

    with pytest.raises(Unready, match="ended after"):
        wait(types.SimpleNamespace(get=answer), unit, 20)  # type: ignore[arg-type]
    states = iter([(False, False), (True, False)])
    assert wait(types.SimpleNamespace(get=answer), unit, 20) > 0  # type: ignore[arg-type]


def test_another_release_is_known_by_its_program_and_by_what_is_started(folder: pathlib.Path) -> None:
    program, unit = folder.parent / "Orthanc", folder.parent / "orthanc.service"
    assert not kept(folder).another([str(program)]), "nothing worked yet"
    program.touch()
    kept(folder).keep("boot 1")
    os.utime(folder.parent / "state" / "last.json", (2**32, 2**32))
    assert not kept(folder).another([str(program)])
    unit.write_text("[Unit]\n[Service]\nExecStart=docker run orthanc:2\n", "utf-8")
    assert kept(folder).another([str(program)])
    unit.write_text("[Unit]\nDescription=x\n", "utf-8")
    assert not kept(folder).another([str(program)])
    os.utime(folder.parent / "state" / "last.json", (1, 1))
    assert kept(folder).another([str(program)])


def test_spoilt_login_is_left_as_it_was(folder: pathlib.Path) -> None:
    (folder / "mysql.json").write_text('{"MySQL": {"Password": "old"}}', "utf-8")
    kept(folder).keep("boot 1")
    (folder / "mysql.json").write_text('{"MySQL": {', "utf-8")
    (way,) = kept(folder).ways("")
    assert (way[str(folder / "mysql.json")] or [""])[0] == '{"MySQL": {"Password": "old"}}'


def test_program_that_a_link_leads_to(folder: pathlib.Path) -> None:
    """A link that was made anew is another program, however old the one is that it leads to."""
    program, link = folder.parent / "old", folder.parent / "Orthanc"
    program.touch()
    link.symlink_to("old")
    assert newest([], [str(link)]) == max(link.lstat().st_ctime, program.stat().st_ctime)
    time.sleep(0.02)
    program.chmod(0o755)
    assert newest([], [str(link)]) == program.stat().st_ctime > link.lstat().st_ctime
    time.sleep(0.02)
    link.unlink()
    link.symlink_to("old")
    assert newest([], [str(link)]) == link.lstat().st_ctime > program.stat().st_ctime


def test_truncated_state_says_nothing(folder: pathlib.Path) -> None:
    kept(folder).keep("boot 1")
    file = folder.parent / "state" / "last.json"
    file.write_text(file.read_text("utf-8")[:40], "utf-8")
    assert not restore(kept(folder))
    assert not kept(folder).runs("boot 1")
    kept(folder).keep("boot 2")
    assert kept(folder).runs("boot 2")


def test_folder_without_a_configuration_of_ours(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = rotated(folder, monkeypatch, "new")
    (folder / "credentials.json").write_text('{"HttpPort": 1}', "utf-8")
    with pytest.raises(Wrong, match="no configuration of ours"):
        service(folder, unit)[1].prove(False)


def test_call_that_goes_back_knows_links_and_other_units_by_what_worked_last(folder: pathlib.Path) -> None:
    """It is given no files; what it did not know would be removed by the next way back."""
    link, drop_in = str(folder.parent / "current"), "/etc/systemd/system/nftables.service.d/pacs.conf"
    other = "/zzz/orthanc/current"
    worked: Files = {
        str(folder / "orthanc.json"): ["{}", 0, 0, 0o640],
        link: ["1.12.7"],
        drop_in: ["[Unit]", 0, 0, 0o644],
        other: ["1.12.7"],
    }
    state(folder).keep(worked | {STARTED: ["boot 1"]})
    params = {"config_dir": str(folder), "unit": "/etc/systemd/system/orthanc.service", "files": [], "absent": []}
    assert beside(params | {"back": True}, state(folder)) == [link, drop_in, other]
    files = [{"path": params["unit"]}, {"path": drop_in}, {"path": str(folder / "orthanc.json")}]
    absent = ["/etc/systemd/system/other.service", "/etc/orthanc/x"]
    assert beside(params | {"back": False, "files": files, "absent": absent}, state(folder)) == [
        drop_in,
        "/etc/systemd/system/other.service",
        link,
        other,
    ]

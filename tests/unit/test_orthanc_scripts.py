"""Scripts are tried before Orthanc has them, with a stand-in for it that ends or does not."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import orthanc_scripts
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_scripts import configuration, scripts_of
from ansible_collections.dicom.orthanc.plugins.modules import orthanc_service

from tests.unit import test_orthanc_service_runs as runs
from tests.unit.module import Systemd

# Fixtures.
call, port, systemd, told = runs.call, runs.port, runs.systemd, runs.told

# Runs what comes after its own options, without what they stand for.
SYSTEMD_RUN = """
echo "$*" >> "$(dirname "$0")/tried"
while case $1 in -*) true ;; *) false ;; esac; do shift; done
exec "$@"
"""
# Orthanc, which finds the scripts where its configuration says, and ends as they want it to.
ORTHANC = r"""
import json, pathlib, sys
options = json.loads(pathlib.Path(sys.argv[1], "orthanc.json").read_text("utf-8"))
assert options["HttpServerEnabled"] is options["DicomServerEnabled"] is False
print("W1129 00:00:00.000000 main.cpp:1] Orthanc version: 1.10.1")
# As in an image without locales.
print("E1129 00:00:00.000000 Toolbox.cpp:1] Cannot set global locale to en_US.UTF-8")
for path in options.get("LuaScripts", []) + options.get("PacsPythonScripts", []):
    what = "Installing the Lua scripts from" if path.endswith(".lua") else "Running the Python script"
    print(f"I1129 00:00:00.000000 LuaScripting.cpp:1] {what}: {path}", flush=True)
    exec(pathlib.Path(path).read_text("utf-8"))
print("W1129 00:00:00.000000             MAIN main.cpp:1] Orthanc has started", flush=True)
if "after" in globals():
    after()
"""
WRONG = """print('''E1129 00:00:00.000000 A.cpp:1] Cannot: [string "line"]:2: why in %s/x
  File "{path}", line 1
W1129 00:00:00.000000 A.cpp:1] other
E1129 00:00:00.000000 main.cpp:2] Uncaught exception, stopping now'''.replace("{path}", path)); sys.exit(255)"""


@pytest.fixture
def tried(tmp_path: pathlib.Path, systemd: Systemd, call: runs.Call, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what calls with scripts, by their names, in this order."""
    monkeypatch.setattr(orthanc_scripts, "TRIALS", str(tmp_path))
    systemd.program("systemd-run", SYSTEMD_RUN)
    program = tmp_path / "Orthanc"
    program.write_text(ORTHANC, encoding="utf-8")
    folder = tmp_path / "orthanc"

    def called(scripts: dict[str, str], **more: Any) -> dict[str, Any]:
        lua, python = ([f"{folder}/{name}" for name in scripts if name.endswith(end)] for end in (".lua", ".py"))
        options = {"LuaScripts": lua} | ({"PacsPythonScripts": python} if python else {})
        files = {f"{folder}/{name}": text for name, text in scripts.items()}
        return call(json.dumps(options), scripts=files, **{"trial": ["python3", str(program), "FILE"]} | more)

    return called


def times(systemd: Systemd) -> int:
    """Return how many trials there were."""
    file = systemd.folder / "tried"
    return len(file.read_text("utf-8").splitlines()) if file.exists() else 0


def test_is_tried_once(tmp_path: pathlib.Path, systemd: Systemd, tried: Any) -> None:
    assert tried({})["changed"]
    assert times(systemd) == 0
    good = {"b.lua": "pass", "a.lua": "pass"}
    assert str(tmp_path / "orthanc" / "b.lua") in tried(good)["paths"]
    assert times(systemd) == 1
    assert not tried(good)["changed"]
    assert times(systemd) == 1
    words = (systemd.folder / "tried").read_text("utf-8")
    for limit in (
        "RuntimeMaxSec=60",
        "LimitDATA=1536M",
        "PrivateNetwork=yes",
        "TemporaryFileSystem=/tmp:mode=1777,size=256M",
    ):
        assert f"--property={limit} " in words
    # Another order is another script, and so is one that is left out.
    for number, names in ((2, ["a.lua", "b.lua"]), (3, ["a.lua"])):
        assert tried({name: good[name] for name in names})["changed"]
        assert times(systemd) == number
    assert tried({})["changed"]
    assert times(systemd) == 3
    assert not list(tmp_path.glob("pacs-*"))


def test_is_tried_in_check_mode_where_an_orthanc_is(systemd: Systemd, tried: Any) -> None:
    tried({"a.lua": "sys.exit(1)"}, _ansible_check_mode=True)
    assert times(systemd) == 0
    tried({})
    said = tried({"a.lua": "sys.exit(1)"}, _ansible_check_mode=True)
    assert "a.lua was tried" in said["msg"]
    assert tried({"a.lua": "pass"}, _ansible_check_mode=True)["changed"]
    assert times(systemd) == 2


@pytest.mark.parametrize(
    "scripts, told",
    [
        (
            {"a.lua": "pass", "b.lua": WRONG},
            'b.lua was tried, apart from the site, and Orthanc ends. It says: Cannot: [string "line"]:2: why in',
        ),
        ({"a.lua": WRONG}, '\n  File "a.lua", line 1 Orthanc runs as before'),
        (
            {"b.py": "sys.exit(0)", "a.lua": "pass"},
            "b.py was tried, apart from the site, and Orthanc ends. It says noth",
        ),
        ({"a.py": "print('Killed', flush=True); sys.exit(1)"}, "Orthanc ends. It says: Killed Orthanc runs"),
        (
            {"a.py": "import time; time.sleep(3)"},
            "has not started after 1 s (orthanc_ready_timeout, at least 0 s), and was ended: a loop, or something",
        ),
        (
            {"a.py": "print('Lua says: Orthanc has started', flush=True); sys.exit(0)"},
            "Orthanc ends. It says: Lua says: ",
        ),
        ({"a.py": "after = lambda: sys.exit(3)"}, "Orthanc does not end as it should (code 3). It says nothing."),
    ],
)
def test_one_with_which_it_ends_changes_nothing(
    tmp_path: pathlib.Path,
    systemd: Systemd,
    tried: Any,
    monkeypatch: pytest.MonkeyPatch,
    scripts: dict[str, str],
    told: str,
) -> None:
    first = tried({"a.lua": WRONG}, programs=[])["msg"]
    assert "Orthanc was not started, and its configuration is as it was" in first
    assert tried({"a.lua": "pass"})["changed"]
    if "sleep" in str(scripts):
        monkeypatch.setattr(orthanc_scripts, "SECONDS", 0)
        monkeypatch.setattr(orthanc_scripts, "STOP_SECONDS", 0.2)
    systemd.calls()
    before = {path.name: path.read_text("utf-8") for path in (tmp_path / "orthanc").iterdir()}
    said = tried(scripts)
    assert said["failed"]
    assert told in said["msg"]
    assert "its configuration is as it was" in said["msg"]
    assert "orthanc_dump_dir" not in said["msg"]
    assert {path.name: path.read_text("utf-8") for path in (tmp_path / "orthanc").iterdir()} == before
    assert not [words for words in systemd.calls() if words != "stop pacs-orthanc-trial"]
    assert not list(tmp_path.glob("pacs-*"))


def test_another_release_is_tried_with_the_scripts_that_there_are(
    tmp_path: pathlib.Path, systemd: Systemd, tried: Any
) -> None:
    """By its own binary: what worked in the one of before says nothing of it."""
    program = tmp_path / "Orthanc"
    given = {"programs": [str(program)]}
    assert tried({"a.lua": "pass"}, **given)["changed"]
    assert not tried({"a.lua": "pass"}, **given)["changed"]
    assert times(systemd) == 1
    before = {path.name: path.read_text("utf-8") for path in (tmp_path / "orthanc").iterdir()}
    program.write_text(ORTHANC.replace('if "after"', 'sys.exit(3)\nif "after"'), encoding="utf-8")
    assert not tried({"a.lua": "pass"}, **given, _ansible_check_mode=True).get("failed")
    assert times(systemd) == 1, "in check mode it is not there yet"
    systemd.calls()
    assert "a.lua was tried, apart from the site, and Orthanc does not end" in tried({"a.lua": "pass"}, **given)["msg"]
    assert {path.name: path.read_text("utf-8") for path in (tmp_path / "orthanc").iterdir()} == before
    assert not [words for words in systemd.calls() if words != "stop pacs-orthanc-trial"]
    # One that works is started with them.
    program.write_text(ORTHANC, encoding="utf-8")
    assert tried({"a.lua": "pass"}, **given)["changed"]
    assert (times(systemd), "restart orthanc.service" in systemd.calls()) == (3, True)
    assert not tried({"a.lua": "pass"}, **given)["changed"]
    assert times(systemd) == 3


def test_release_that_does_not_run_at_all_goes_back(
    tmp_path: pathlib.Path, systemd: Systemd, tried: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As others have brought it at night: it is not left as it is for a script."""
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    program = tmp_path / "Orthanc"
    given = {"programs": [str(program)]}
    assert tried({"a.lua": "pass"}, **given)["changed"]
    program.write_text("import sys; sys.exit(3)", encoding="utf-8")
    (systemd.folder / "active").unlink()
    systemd.calls()
    for scripts, trials in (({"a.lua": "pass"}, 1), ({"a.lua": "pass", "b.lua": "pass"}, 2)):
        assert tried(scripts, **given)["changed"]
        assert times(systemd) == trials
        assert "restart orthanc.service" in systemd.calls()
        (systemd.folder / "active").unlink()
        program.write_text("import sys; sys.exit(4)", encoding="utf-8")
    assert "Another release is started all the same" in warnings[0]


@pytest.mark.parametrize("at_hand", [True, False])
def test_release_of_apt_makes_way_where_scripts_do_not_work_with_it(
    systemd: Systemd, tried: Any, monkeypatch: pytest.MonkeyPatch, at_hand: bool
) -> None:
    """The one that runs goes on, and could not be started again by what apt has brought."""
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    assert tried({"a.lua": "pass"})["changed"]
    monkeypatch.setattr(orthanc_service, "replaced", lambda _process: True)
    asked: list[Any] = []

    def go_back(*given: Any) -> bool:
        asked.append(given)
        return at_hand

    monkeypatch.setattr(orthanc_service, "packages_go_back", go_back)
    systemd.calls()
    said = tried({"a.lua": "sys.exit(1)"}, _ansible_check_mode=True)
    assert "a.lua was tried" in said["msg"]
    assert not asked, "nothing is changed in check mode"
    said = tried({"a.lua": "sys.exit(1)"})
    assert len(asked) == 1
    if at_hand:
        assert "a.lua was tried" in said["msg"]
        assert "Orthanc runs as before" in said["msg"]
        assert "restart orthanc.service" not in systemd.calls()
        assert not warnings
    else:
        assert "restart orthanc.service" in systemd.calls()
        assert warnings[0].startswith(
            "Another release is started all the same, since the one of before cannot be: orth"
        )


class Packages:
    """Those of before, as files."""

    def __init__(self, folder: pathlib.Path, *missing: str) -> None:
        self.path, self.installs, self._missing = str(folder / "installed"), 0, list(missing)

    def noted(self) -> str:
        return pathlib.Path(self.path).read_text("utf-8")

    def missing(self, _wanted: str) -> list[str]:
        return self._missing

    def install(self) -> None:
        assert self.noted() == "orthanc 1\n"
        self.installs += 1


@pytest.mark.parametrize(
    "last, missing, back",
    [("orthanc 1\n", (), True), ("orthanc 1\n", ("orthanc 1",), False), ("orthanc 2\n", (), False), ("", (), False)],
)
def test_packages_go_back_where_they_are_at_hand(
    tmp_path: pathlib.Path, last: str, missing: tuple[str, ...], back: bool
) -> None:
    packages, state = Packages(tmp_path, *missing), State(str(tmp_path / "last.json"), lasting=True)
    pathlib.Path(packages.path).write_text("orthanc 2\n", "utf-8")
    if last:
        state.keep({packages.path: [last, os.geteuid(), os.getegid(), 0o600]})
    assert orthanc_service.packages_go_back(packages, state) is back  # type: ignore[arg-type]
    assert (packages.installs, packages.noted()) == ((1, "orthanc 1\n") if back else (0, "orthanc 2\n"))


def test_what_it_says_later_is_told(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    later = "after = lambda: print('E1129 00:00:00.000000 A.cpp:1] init fails', flush=True)"
    said = tried({"a.lua": later})
    assert said["changed"]
    assert warnings == ["orthanc_scripts: in its trial, Orthanc starts with them, and says: init fails"]


def test_it_may_take_as_long_as_on_the_site(systemd: Systemd, tried: Any) -> None:
    assert tried({"a.lua": "pass"}, timeout=900)["changed"]
    assert "--property=RuntimeMaxSec=900 " in (systemd.folder / "tried").read_text("utf-8")


def test_what_a_call_that_was_killed_has_left_goes(tmp_path: pathlib.Path, systemd: Systemd, tried: Any) -> None:
    """Its options have passwords in them."""
    (tmp_path / "pacs-orthanc-trial").mkdir()
    (tmp_path / "pacs-orthanc-trial" / "orthanc.json").write_text("{}", "utf-8")
    (tmp_path / "pacs-orthanc-trial" / "old.lua").write_text("", "utf-8")
    assert tried(
        {"a.lua": "assert sorted(p.name for p in pathlib.Path(path).parent.iterdir()) == ['a.lua', 'orthanc.json']"}
    )["changed"]
    assert not list(tmp_path.glob("pacs-*"))
    # Where this one is killed, systemd removes it.
    assert "--property=RuntimeDirectory=pacs-orthanc-trial " in (systemd.folder / "tried").read_text("utf-8")


def test_archive_is_out_of_reach(systemd: Systemd, tried: Any, call: runs.Call, tmp_path: pathlib.Path) -> None:
    options = {"LuaScripts": [f"{tmp_path}/orthanc/a.lua"], "StorageDirectory": "/srv/dicom", "IndexDirectory": "/a b"}
    scripts = {f"{tmp_path}/orthanc/a.lua": "pass"}
    call(json.dumps(options), scripts=scripts, trial=["python3", f"{tmp_path}/Orthanc", "FILE"])
    words = (systemd.folder / "tried").read_text("utf-8")
    assert "--property=InaccessiblePaths=-/srv/dicom " in words
    assert "/a b" not in words


def test_python_is_tried_in_check_mode_where_its_plugin_is(
    tmp_path: pathlib.Path, systemd: Systemd, tried: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    tried({})
    plugin, check = tmp_path / "libOrthancPython.so", {"_ansible_check_mode": True}
    bad = {"a.py": "sys.exit(1)"}
    for programs in ([], [str(plugin)]):
        assert tried(bad, programs=programs, **check)["changed"]
        assert warnings.pop().startswith("orthanc_scripts: those in Python are tried in the run")
    assert times(systemd) == 0
    # Those in Lua are tried all the same.
    assert "b.lua was tried" in tried(bad | {"b.lua": "sys.exit(1)"}, programs=[str(plugin)], **check)["msg"]
    warnings.clear()
    plugin.touch()
    assert "a.py was tried" in tried(bad, programs=[str(plugin)], **check)["msg"]
    # In an image it may be where the host has nothing.
    systemd.program("docker", f'shift; exec python3 {tmp_path}/Orthanc "$@"')
    container = {"trial": ["docker", "run", "FILE"], "programs": []}
    assert "a.py was tried" in tried(bad, **container, **check)["msg"]
    assert not warnings


def test_container_is_removed(tmp_path: pathlib.Path, systemd: Systemd, tried: Any) -> None:
    systemd.program("docker", f'shift; exec python3 {tmp_path}/Orthanc "$@"')
    assert tried({"a.lua": "pass"}, trial=["docker", "run", "FILE"])["changed"]
    words = (systemd.folder / "tried").read_text("utf-8")
    assert "--property=ExecStopPost=-docker kill pacs-orthanc-trial " in words


def test_configuration_has_nothing_of_the_site() -> None:
    site: dict[str, Any] = {
        "Name": "Site",
        "RegisteredUsers": {"admin": "secret"},
        "Plugins": ["/usr/lib/libOrthancPostgreSQLIndex.so", "/usr/lib/libOrthancPython.so"],
        "PostgreSQL": {"Password": "secret"},
        "DicomTlsEnabled": True,
        "HttpsCACertificates": "/run/orthanc/https-ca.crt",
        "HttpPort": 8042,
        "StorageDirectory": "/srv",
        "IndexDirectory": "/srv",
        "LuaScripts": ["/etc/pacs/orthanc/a.lua"],
        "PythonScript": "/etc/pacs/orthanc/pacs_scripts.py",
        "PacsPythonScripts": ["/etc/pacs/orthanc/a.py"],
        "Mine": {"Key": 1},
    }
    scripts = [*site["LuaScripts"], site["PythonScript"], *site["PacsPythonScripts"]]
    assert configuration(site, "/lib/libOrthancPython.so", scripts, "/run/x") == {
        "Name": "Site",
        "Plugins": ["/lib/libOrthancPython.so"],
        "HttpPort": 8042,
        "HttpServerEnabled": False,
        "DicomServerEnabled": False,
        "StorageDirectory": "/tmp",
        "IndexDirectory": "/tmp",
        "LuaScripts": ["/run/x/a.lua"],
        "PythonScript": "/run/x/pacs_scripts.py",
        "PacsPythonScripts": ["/run/x/a.py"],
        "Mine": {"Key": 1},
    }
    assert configuration({}, "", scripts, "/run/x")["Plugins"] == []
    # One that the site has put elsewhere by itself.
    own = {"LuaScripts": ["/srv/a.lua"], "PythonScript": "/srv/pacs_scripts.py"}
    assert configuration(own, "", scripts, "/run/x").items() >= own.items()


def test_scripts_of_a_spoilt_configuration_are_others() -> None:
    files = {"/etc/a.lua": ["x"], "/etc/gone.lua": None, "/etc/orthanc.json": ["{"], "/etc/other/b.lua": ["y"]}
    assert scripts_of(files, "/etc") == {"/etc/a.lua": "x", "": "[null, null, null, null]"}
    assert scripts_of({"/etc/orthanc.json": ["{}"]}, "/etc") == {}

"""A Docker engine that others use too: what is asked for is added to what they have, or refused."""

import json
import os
import pathlib
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import docker_daemon as options
from ansible_collections.dicom.orthanc.plugins.module_utils import files
from ansible_collections.dicom.orthanc.plugins.module_utils.docker_daemon import Broken, merge, problems, read
from ansible_collections.dicom.orthanc.plugins.modules import docker_daemon

from tests.unit.module import Failed, Module

THEIRS = {"data-root": "/srv/docker", "insecure-registries": ["wiki:5000"]}
MIRROR = {"registry-mirrors": ["https://mirror.example.org"]}
POOLS = {"default-address-pools": [{"base": "10.99.0.0/16", "size": 24}]}
SEEN: dict[str, Any] = {"problem": "", "options": THEIRS, "ours": {}, "others": ["wiki"]}


def test_nothing_asked_for_changes_nothing() -> None:
    assert merge(THEIRS, {}, {}).options == THEIRS


def test_what_others_have_stays() -> None:
    merged = merge(THEIRS, {}, MIRROR)
    assert merged.options == THEIRS | MIRROR
    assert (merged.ours, merged.conflicts, merged.restart) == (MIRROR, {}, [])
    assert list(problems(SEEN, merged)) == []


def test_what_is_not_asked_for_any_more_goes() -> None:
    assert merge(THEIRS | MIRROR, MIRROR, {}).options == THEIRS
    # Somebody else has taken it over.
    changed = THEIRS | {"registry-mirrors": ["https://other.example.org"]}
    assert merge(changed, MIRROR, {}).options == changed


def test_what_others_have_already_is_theirs() -> None:
    merged = merge(THEIRS | MIRROR, {}, MIRROR)
    assert merged.options == THEIRS | MIRROR
    assert merged.ours == {}


def test_another_value_of_others_is_refused() -> None:
    (said,) = problems(SEEN, merge(THEIRS, {}, {"data-root": "/data"}))
    assert said.startswith('docker_engine_settings.data-root: /etc/docker/daemon.json has "/srv/docker"')
    (said,) = problems(SEEN, merge(MIRROR, {}, {"registry-mirrors": ["https://a.example.org"]}))
    assert said.startswith("docker_engine_registry_mirrors: ")


def test_a_restart_that_would_take_others_along_is_refused() -> None:
    merged = merge(THEIRS, {}, POOLS)
    (said,) = problems(SEEN, merged)
    assert said.startswith("docker_engine_address_pools: ")
    assert "wiki" in said
    assert list(problems(SEEN | {"others": []}, merged)) == []


def test_broken_file_is_refused(tmp_path: pathlib.Path) -> None:
    assert read(str(tmp_path / "missing.json")) == {}
    for text in (b'{"data-root": ', b"[]", b"\xff"):
        (tmp_path / "daemon.json").write_bytes(text)
        with pytest.raises(Broken, match=r"daemon\.json: "):
            read(str(tmp_path / "daemon.json"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(Broken, match=r"/folder: .*Is a directory"):
        read(str(tmp_path / "folder"))
    (tmp_path / "daemon.json").write_text(" \n", encoding="utf-8")
    assert read(str(tmp_path / "daemon.json")) == {}
    (tmp_path / "daemon.json").write_text(json.dumps(THEIRS), encoding="utf-8")
    assert read(str(tmp_path / "daemon.json")) == THEIRS
    assert [said for said in problems(SEEN | {"problem": "x: broken"}, merge({}, {}, {})) if "x: broken" in said]


@pytest.mark.parametrize("empty", [[], {}, "", None])
def test_what_is_empty_is_nobodys(empty: Any) -> None:
    """As an earlier release of ours wrote it, which kept no note of what was its own."""
    merged = merge({"registry-mirrors": empty}, {}, MIRROR)
    assert (merged.options, merged.ours, merged.conflicts) == (MIRROR, MIRROR, {})
    assert merge({"debug": False}, {}, {"debug": True}).conflicts == {"debug": False}


def test_engine_that_has_not_heard_of_its_options_is_still_restarted() -> None:
    assert merge(THEIRS | POOLS, POOLS, POOLS).restart == []
    assert merge(THEIRS | POOLS, POOLS, POOLS, THEIRS).restart == ["default-address-pools"]


class Cut(BaseException):
    """The run is cut off."""


class Done(Exception):
    """The module ended well, with this result."""


class Host(Module):
    """An engine that reads its options at a start, restart or reload, and does not run with an option ``broken``."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        self.file = folder / "etc" / "daemon.json"
        self.active, self.read, self.verbs, self.others = True, dict[str, Any](), list[str](), ""
        self.cut = False

    def get_bin_path(self, name: str) -> str:
        return name

    def exit_json(self, **result: Any) -> None:
        raise Done(result)

    def run_command(self, command: list[str], data: str = "", **_options: Any) -> tuple[int, str, str]:
        verb = command[1]
        if command[0] == "sh":
            tried = json.loads(pathlib.Path(command[3]).read_text("utf-8"))
            # It is told these two by flags.
            return int(bool({"refused", "hosts", "pidfile"} & tried.keys())), "unable to configure", ""
        if command[:2] == ["docker", "ps"]:
            return 0, "" if "--filter" in command else self.others, ""
        if command[0] == "journalctl":
            return 0, "\n".join("123456789"[-int(command[command.index("--lines") + 1]) :]), ""
        if command[0] != "systemctl":
            return 0, "", ""
        if verb == "show":
            return 0, f"ActiveState={'active' if self.active else 'failed'}\nUnitFileState=enabled\n", ""
        if verb == "is-active":
            return int(not self.active), "active", ""
        if verb in ("start", "restart", "reload"):
            if self.cut:
                raise Cut
            self.verbs.append(verb)
            found = json.loads(self.file.read_text("utf-8")) if self.file.exists() else {}
            good = "broken" not in found
            self.active = good or (verb == "reload" and self.active)
            self.read = found if good else self.read
            return int(not good), "", ""
        return 0, "", ""


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    if os.geteuid():
        pytest.skip("writes files of root's")
    made = Host(tmp_path)
    state = tmp_path / "state"
    for module in (docker_daemon, options):
        monkeypatch.setattr(module, "DAEMON", str(made.file))
        monkeypatch.setattr(module, "OURS", str(state / "daemon.json"))
    monkeypatch.setattr(docker_daemon, "BEFORE", str(state / "before.json"))
    monkeypatch.setattr(files, "LOCK", str(tmp_path / "lock"))
    return made


def call(host: Host, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, Any]:
    """Call the module with settings, maybe in a dry run (``check``), and return its result."""
    host.check_mode, host.verbs = settings.pop("check", False), []
    host.params = {"log_options": {}, "registry_mirrors": [], "address_pools": [], "settings": settings}
    monkeypatch.setattr(docker_daemon, "AnsibleModule", lambda **_spec: host)
    with pytest.raises(Done) as done:
        docker_daemon.main()
    return dict(done.value.args[0])


def test_engine_is_restarted_reloaded_and_left_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(host, monkeypatch, check=True, **THEIRS)["changed"]
    assert (host.read, host.verbs, host.file.exists()) == ({}, [], False)
    result = call(host, monkeypatch, **THEIRS)
    assert (result["changed"], result["restarted"], host.read, host.verbs) == (True, True, THEIRS, ["restart"])
    result = call(host, monkeypatch, **THEIRS)
    assert (result["changed"], result["restarted"], host.verbs) == (False, False, [])
    result = call(host, monkeypatch, **THEIRS, debug=True)
    assert (result["changed"], result["restarted"], host.verbs) == (True, False, ["reload"])
    host.active = False
    assert call(host, monkeypatch, **THEIRS, debug=True)["changed"]
    assert host.verbs == ["start"]
    assert sorted(path.name for path in (host.file.parent.parent / "state").iterdir()) == ["daemon.json"]


def test_restart_that_was_cut_off_is_made_up_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file had what was asked for by then, so nothing seemed to be left to do."""
    call(host, monkeypatch, **THEIRS)
    host.cut = True
    with pytest.raises(Cut):
        call(host, monkeypatch, **THEIRS, bip="192.0.2.1/24")
    host.cut = False
    assert host.read == THEIRS
    assert call(host, monkeypatch, check=True, **THEIRS, bip="192.0.2.1/24")["changed"]
    result = call(host, monkeypatch, **THEIRS, bip="192.0.2.1/24")
    assert (result["changed"], host.verbs, host.read["bip"]) == (True, ["restart"], "192.0.2.1/24")
    assert not call(host, monkeypatch, **THEIRS, bip="192.0.2.1/24")["changed"]


@pytest.mark.parametrize("kept", ["{", '{"other": null}', '{"FILE": ["{"]}', '{"FILE": ["[]"]}'])
def test_nothing_is_known_of_before_a_run_that_was_cut_off(
    host: Host, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """Then what the file has counts as what the engine runs with."""
    call(host, monkeypatch, **THEIRS)
    before = host.file.parent.parent / "state" / "before.json"
    before.write_text(kept.replace("FILE", str(host.file)), "utf-8")
    assert call(host, monkeypatch, **THEIRS)["changed"]
    assert (host.verbs, host.read, before.exists()) == (["reload"], THEIRS, False)


def cut_off_and_finished(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut a run off before its restart; the next one does it."""
    host.cut = True
    with pytest.raises(Cut):
        call(host, monkeypatch, **THEIRS)
    host.cut = False
    assert call(host, monkeypatch, **THEIRS)["restarted"]
    assert host.read == THEIRS


def test_engine_had_no_options_before_a_run_that_was_cut_off(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off_and_finished(host, monkeypatch)


def test_option_that_was_taken_out_by_a_run_that_was_cut_off(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    call(host, monkeypatch, **THEIRS, bip="192.0.2.1/24")
    cut_off_and_finished(host, monkeypatch)


def test_cut_off_and_then_not_to_be_restarted(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers of others came up meanwhile: what was before is back."""
    call(host, monkeypatch, **THEIRS)
    host.cut = True
    with pytest.raises(Cut):
        call(host, monkeypatch, **THEIRS, bip="192.0.2.1/24")
    host.cut, host.others = False, "wiki"
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/run/docker.sock" or os.path.lexists(path))
    with pytest.raises(Failed, match=r"would go down with it: wiki.*The configuration that worked last is back"):
        call(host, monkeypatch, **THEIRS, bip="192.0.2.1/24")
    assert json.loads(host.file.read_text("utf-8")) == THEIRS
    assert "restart" not in host.verbs


@pytest.mark.parametrize("active", [True, False])
def test_engine_that_does_not_start_gets_its_options_back(
    host: Host, monkeypatch: pytest.MonkeyPatch, active: bool
) -> None:
    call(host, monkeypatch, **THEIRS)
    host.active = active
    verb = "restart" if active else "start"
    with pytest.raises(Failed) as failed:
        call(host, monkeypatch, **THEIRS, broken=True)
    told, *lines = str(failed.value).splitlines()
    assert told.startswith(f"Docker does not {verb} (docker_engine_settings")
    assert told.endswith(" is back, and Docker serves with it.")
    assert lines == ["It says:", *"56789"]
    assert (host.active, host.read, host.verbs) == (True, THEIRS, [verb, "start"])
    assert read(str(host.file)) == THEIRS
    assert not call(host, monkeypatch, **THEIRS)["changed"]


def test_options_that_the_engine_refuses_are_not_put_in_place(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    call(host, monkeypatch, **THEIRS)
    with pytest.raises(Failed, match="the new content is refused and was not put in place: unable to configure"):
        call(host, monkeypatch, **THEIRS, refused=True)
    assert (read(str(host.file)), host.verbs) == (THEIRS, [])


@pytest.mark.parametrize("check", [True, False])
def test_what_others_have_otherwise_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch, check: bool) -> None:
    host.file.parent.mkdir()
    host.file.write_text(json.dumps(THEIRS), "utf-8")
    with pytest.raises(
        Failed, match=r"^Nothing was changed\. docker_engine_settings\.data-root: .* out there, if nobody"
    ):
        call(host, monkeypatch, check=check, **{"data-root": "/data"})
    assert (read(str(host.file)), host.verbs) == (THEIRS, [])


def test_diff_has_the_options_of_before_and_after(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(host, monkeypatch, check=True)["diff"]["after"] == ""
    first = call(host, monkeypatch, debug=True)["diff"]
    assert (first["before"], first["after"]) == ("", '{\n    "debug": true\n}\n')
    second = call(host, monkeypatch, check=True)["diff"]
    assert (json.loads(second["before"]), second["after"]) == ({"debug": True}, "")


def test_addresses_of_others_do_not_keep_the_engine_from_being_tried(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {"hosts": ["unix:///run/docker.sock"], "pidfile": "/run/docker.pid"}
    host.file.parent.mkdir()
    host.file.write_text(json.dumps(theirs), "utf-8")
    call(host, monkeypatch, debug=True)
    assert read(str(host.file)) == theirs | {"debug": True}

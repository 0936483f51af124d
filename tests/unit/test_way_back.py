"""What a service goes back to, from wherever a call ends."""

from __future__ import annotations

import os
import pathlib
import stat
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import files, kept, way_back
from ansible_collections.dicom.orthanc.plugins.module_utils.files import Refused
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State, found, put_back
from ansible_collections.dicom.orthanc.plugins.module_utils.way_back import Undecided, WayBack, Wrong

from tests.unit.module import Failed, Module, Systemd

BACK = "The configuration that worked last is back, and nginx serves with it."
EITHER = "The configuration that worked last is back, and does not work any more either: "


@pytest.fixture(autouse=True)
def systemd(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setattr(files, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.3)
    return Systemd(tmp_path / "bin", monkeypatch)


class Service:
    """A service that reads its file when it is told to, and takes certain texts only."""

    def __init__(self, folder: pathlib.Path, *takes: str) -> None:
        self.file, self.state = folder / "service.conf", State(str(folder / "state" / "before.json"))
        self._takes = takes
        self.read: list[str] = []
        self.asked: list[bool] = []

    def apply(self) -> None:
        self.read.append(self.file.read_text("utf-8") if self.file.exists() else "")

    def prove(self, before: bool) -> str:
        self.asked.append(before)
        if self.read[-1] not in self._takes:
            raise Wrong(f"It does not take {self.read[-1]!r}.", "Its log says no.")
        return "proved"

    def way(self, text: str = "new", check: bool = False) -> WayBack:
        module = Module(files=[{"path": str(self.file), "content": text}])
        module.check_mode = check
        self.paths = [str(self.file)]
        return WayBack(module, "nginx", self.state, self.apply, self.prove)


@pytest.fixture
def service(tmp_path: pathlib.Path) -> Service:
    made = Service(tmp_path, "old", "new")
    made.file.write_text("old", encoding="utf-8")
    return made


def cut(service: Service, text: str) -> None:
    """Have a call that ended after it wrote, and before it applied."""
    way = service.way(text)
    way.keep(service.paths)
    way.write()


def test_files_are_found_as_they_are(tmp_path: pathlib.Path) -> None:
    file, link, folder = (tmp_path / name for name in ("file", "link", "folder"))
    # Not a byte of it is another one afterwards, be it text or not.
    file.write_bytes(b"a\r\nb\xff")
    file.chmod(0o4640)
    link.symlink_to("file")
    folder.mkdir()
    made = found(map(str, (file, link, folder, tmp_path / "none")))
    assert made == {
        str(file): ["a\r\nb\udcff", os.geteuid(), file.stat().st_gid, 0o4640],
        str(link): ["file"],
        str(tmp_path / "none"): None,
    }


def test_files_come_back_as_they_were(tmp_path: pathlib.Path) -> None:
    names = ("same", "other", "mode", "link", "new", "gone", "below/gone", "dangling")
    same, other, mode, link, new, gone, below, dangling = (tmp_path / name for name in names)
    below.parent.mkdir()
    for path in (same, other, mode, gone, below):
        path.write_bytes(b"a\r\n\xff")
        path.chmod(0o640)
    link.symlink_to("same")
    dangling.symlink_to("none")
    before = found(str(tmp_path / name) for name in names)
    assert put_back(before) == []
    inode = same.stat().st_ino
    other.write_text("b", encoding="utf-8")
    mode.chmod(0o600)
    for path in (gone, below, link, dangling):
        path.unlink()
    below.parent.rmdir()
    link.write_text("a file", encoding="utf-8")
    new.write_text("new", encoding="utf-8")
    assert put_back(before) == [str(path) for path in (other, mode, link, new, gone, below, dangling)]
    assert found(before) == before
    assert same.stat().st_ino == inode, "what is as it was stays"
    assert stat.S_IMODE(below.parent.stat().st_mode) == 0o755


def test_folder_where_nothing_was_stays(tmp_path: pathlib.Path) -> None:
    before = found([str(tmp_path / "images")])
    (tmp_path / "images").mkdir()
    assert put_back(before) == []
    assert (tmp_path / "images").is_dir()


def test_state_is_for_root_alone_and_survives(tmp_path: pathlib.Path) -> None:
    state = State(str(tmp_path / "a" / "b" / "before.json"))
    assert not state.kept
    assert state.read() == {}
    state.forget()
    known: kept.Files = {"/x": ["\udcff\r\n", 1, 2, 0o640], "/y": None, "/z": ["x"]}
    state.keep(known)
    assert (state.kept, state.read()) == (True, known)
    made = pathlib.Path(state.path)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (made.parent, made)] == [0o700, 0o600]
    for text in (made.read_text("utf-8")[:9], "[]"):
        made.write_text(text, encoding="utf-8")
        assert state.read() == {}
    state.forget()
    assert (state.kept, made.exists()) == (False, False)
    lasting = State(str(made), lasting=True)
    lasting.keep(known)
    lasting.forget()
    assert lasting.kept


def test_what_works_is_in_place_and_nothing_is_kept(service: Service) -> None:
    way = service.way()
    assert not way.cut_off
    assert way.change(service.paths).paths == service.paths
    assert (service.read, service.asked, service.state.kept) == (["new"], [False], False)


def test_what_was_before_is_kept_until_the_proof(service: Service) -> None:
    seen = []
    prove = service.prove

    def look(before: bool) -> str:
        seen.append(service.state.read()[str(service.file)])
        return prove(before)

    service.prove = look  # type: ignore[method-assign]
    service.way().change(service.paths)
    assert [file[0] for file in seen if file] == ["old"]


def test_what_is_left_to_do_is_made_up_for(service: Service) -> None:
    def cut_off() -> None:
        raise KeyboardInterrupt

    way = service.way()
    with pytest.raises(KeyboardInterrupt):
        way.change(service.paths, cut_off)
    assert service.state.kept
    assert service.way().cut_off


def test_what_does_not_work_goes_back(service: Service) -> None:
    with pytest.raises(Failed) as failed:
        service.way("bad").change(service.paths)
    assert str(failed.value) == f"It does not take 'bad'. {BACK}\nIts log says no."
    assert (service.read, service.asked) == (["bad", "old"], [False, True])
    assert not service.state.kept


@pytest.mark.parametrize("systemctl", ["echo stopping; exit 1", "echo Connection refused >&2; exit 1"])
def test_host_that_goes_down_is_left_to_the_next_call(service: Service, systemd: Systemd, systemctl: str) -> None:
    systemd.program("systemctl", systemctl)
    with pytest.raises(Failed, match=r"It does not take 'bad'\. This host is going down meanwhile"):
        service.way("bad").change(service.paths)
    assert (service.file.read_text("utf-8"), service.read, service.state.kept) == ("bad", ["bad"], True)
    systemd.program("systemctl", "echo degraded; exit 1")
    with pytest.raises(Failed, match=BACK):
        service.way("bad").change(service.paths)
    assert service.file.read_text("utf-8") == "old"


def test_neither_works(tmp_path: pathlib.Path) -> None:
    service = Service(tmp_path, "new")
    service.file.write_text("old", encoding="utf-8")
    with pytest.raises(Failed) as failed:
        service.way("bad").change(service.paths)
    assert str(failed.value) == (
        f"It does not take 'bad'. {EITHER}It does not take 'old'. Its log says no.\nIts log says no."
    )
    assert service.file.read_text("utf-8") == "old"
    assert service.state.kept, "the next run has it to do"


def test_what_names_another_is_never_there_without_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever going back is cut off: it goes from the last that was written to the first."""
    paths = [str(tmp_path / name) for name in ("defines", "between", "reads")]
    before, gone = found(paths), list[str]()
    for path in paths:
        pathlib.Path(path).write_text("new", encoding="utf-8")
    monkeypatch.setattr(kept, "remove", gone.append)
    put_back(before)
    assert gone == paths[::-1]


def test_nothing_to_go_back_to(tmp_path: pathlib.Path) -> None:
    """As where only its certificate has changed, or it was not asked to change."""
    service = Service(tmp_path)
    service.file.write_text("old", encoding="utf-8")
    with pytest.raises(Failed) as failed:
        service.way("old").change([])
    assert str(failed.value) == "It does not take 'old'.\nIts log says no."
    assert service.read == ["old"]


@pytest.mark.parametrize("error", [Refused("systemd says no"), Wrong("systemd says no")])
def test_what_cannot_be_applied_goes_back(service: Service, error: Exception) -> None:
    apply, calls = service.apply, iter([error])

    def once() -> None:
        apply()
        for first in calls:
            raise first

    service.apply = once  # type: ignore[method-assign]
    with pytest.raises(Failed, match=f"^systemd says no {BACK}$"):
        service.way("bad").change(service.paths)


def test_mistake_of_ours_goes_back(service: Service) -> None:
    def broken(before: bool) -> str:
        if not before:
            raise KeyError("Version")
        return ""

    service.prove = broken  # type: ignore[method-assign]
    with pytest.raises(Failed, match=rf"^This is a mistake of the toolkit: KeyError\('Version'\)\. {BACK}$"):
        service.way("bad").change(service.paths)
    assert service.file.read_text("utf-8") == "old"


def test_who_may_be_changing_its_data_is_left_to_it(service: Service) -> None:
    def busy(before: bool) -> str:
        raise Undecided("It is not ready.", "Its log says: schema.")

    service.prove = busy  # type: ignore[method-assign]
    with pytest.raises(Failed) as failed:
        service.way("bad").change(service.paths)
    assert str(failed.value) == "It is not ready.\nIts log says: schema."
    assert failed.value.results == {"undecided": True}, "by which the role leaves the database as it is"
    assert service.file.read_text("utf-8") == "bad"
    assert service.state.kept, "what worked is not forgotten"


def test_half_of_a_change_is_none(service: Service) -> None:
    way = service.way("bad")
    way._module.params["files"].append(way._module.params["files"][0] | {"path": "/none/of/it"})
    with pytest.raises(Failed) as failed:
        way.change(service.paths)
    assert str(failed.value) == (
        "/none/of/it: its folder is missing. nginx runs as before, and its files are those of before."
    )
    assert (service.file.read_text("utf-8"), service.read, service.state.kept) == ("old", [], False)


FULL = OSError(28, "No space left on device", "/etc/service.conf")


@pytest.mark.parametrize("error", [FULL, Refused("/etc/service.conf: No space left on device.")])
def test_half_of_a_change_on_a_full_disk(service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(_files: kept.Files) -> list[str]:
        raise error

    monkeypatch.setattr(way_back, "put_back", full)
    way = service.way("bad")
    way._module.params["files"].append(way._module.params["files"][0] | {"path": "/none/of/it"})
    with pytest.raises(Failed, match=r"cannot be put back, which the next run tries again: .*No space left on device"):
        way.change(service.paths)
    assert service.state.kept, "the next call has what to put back"


def test_half_of_a_change_with_nothing_known_of_before(service: Service) -> None:
    way = service.way("bad")
    way._module.params["files"].append(way._module.params["files"][0] | {"path": "/none/of/it"})
    way.ways = lambda _problem: []
    with pytest.raises(Failed, match=r"^/none/of/it: its folder is missing\.$"):
        way.write()


def test_cut_off_is_finished_by_the_next(service: Service) -> None:
    cut(service, "new")
    way = service.way("new")
    assert way.cut_off
    way.change([])
    assert (service.read, service.state.kept) == (["new"], False)


def test_cut_off_goes_back_to_what_the_first_found(service: Service) -> None:
    cut(service, "bad")
    with pytest.raises(Failed, match=BACK):
        service.way("worse").change(service.paths)
    assert service.file.read_text("utf-8") == "old"


def test_cut_off_and_refused(service: Service) -> None:
    cut(service, "bad")
    with pytest.raises(Failed, match=f"^No. {BACK}$"):
        service.way("worse").refuse("No.")
    assert (service.file.read_text("utf-8"), service.read) == ("old", ["old"])


def test_refused_at_once(service: Service) -> None:
    with pytest.raises(Failed, match=r"^No\.$"):
        service.way().refuse("No.")
    assert service.read == []


def test_cut_off_and_then_half_of_a_change(service: Service) -> None:
    """The service may have been told of the first one."""
    cut(service, "bad")
    way = service.way("worse")
    way._module.params["files"].append(way._module.params["files"][0] | {"path": "/none/of/it"})
    with pytest.raises(Failed, match=f"^/none/of/it: its folder is missing. {BACK}$"):
        way.change(service.paths)
    assert (service.file.read_text("utf-8"), service.read) == ("old", ["old"])


def test_lasting_state_is_no_sign_of_a_cut(service: Service) -> None:
    service.state.lasting = True
    service.state.keep({})
    assert not service.way().cut_off


def ways(service: Service, *texts: str) -> WayBack:
    way = service.way("bad")
    _content, *rest = found(service.paths)[str(service.file)] or []
    way.ways = lambda _problem: [{str(service.file): [text, *rest]} for text in texts]
    return way


def test_first_way_that_works_is_taken(tmp_path: pathlib.Path) -> None:
    service = Service(tmp_path, "c", "d")
    service.file.write_text("old", encoding="utf-8")
    with pytest.raises(Failed, match=f"^It does not take 'bad'. {BACK}"):
        ways(service, "bad", "a", "c", "d").change(service.paths)
    assert service.read == ["bad", "a", "c"]


def test_first_way_stays_where_none_works(tmp_path: pathlib.Path) -> None:
    service = Service(tmp_path)
    service.file.write_text("old", encoding="utf-8")
    with pytest.raises(Failed, match=f"{EITHER}It does not take 'b'"):
        ways(service, "a", "b").change(service.paths)
    assert service.read == ["bad", "a", "b", "a"]
    assert service.file.read_text("utf-8") == "a"


def test_ways_are_told_what_is_wrong(service: Service) -> None:
    told: list[str] = []
    way = service.way("bad")

    def take(problem: str) -> list[kept.Files]:
        told.append(problem)
        return []

    way.ways = take
    with pytest.raises(Failed):
        way.change(service.paths)
    assert told == ["It does not take 'bad'. Its log says no."]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "/x"), Refused("/x: No space left on device.")]
)
def test_what_cannot_be_put_back_is_left_to_the_next_run(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_anything: Any) -> None:
        raise error

    way = service.way("bad")
    way.keep(service.paths)
    way.write()
    monkeypatch.setattr(kept, "put", full)
    with pytest.raises(
        Failed, match=r"cannot be put back, which the next run tries again: /x: No space left on device\."
    ):
        way.run()
    assert service.state.kept


def test_nothing_is_changed_that_cannot_be_kept(service: Service) -> None:
    service.state.path = "/proc/none/before.json"
    with pytest.raises(Failed, match=r"^/proc/none: .*\. Nothing was changed\.$"):
        service.way("bad").change(service.paths)
    assert service.file.read_text("utf-8") == "old"


def test_nothing_is_changed_that_may_not_be_kept(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the folder for it is on storage that comes from elsewhere."""

    def refuse(*_anything: Any) -> None:
        raise Refused("/x: root may not.")

    monkeypatch.setattr(service.state, "keep", refuse)
    with pytest.raises(Failed, match=r"^/x: root may not\. Nothing was changed\.$"):
        service.way("bad").change(service.paths)
    assert service.file.read_text("utf-8") == "old"


def test_what_was_before_cannot_be_applied_any_more(service: Service) -> None:
    apply = service.apply

    def refuse() -> None:
        apply()
        if service.read[-1] == "old":
            raise Refused("systemd says no")

    service.apply = refuse  # type: ignore[method-assign]
    with pytest.raises(Failed) as failed:
        service.way("bad").change(service.paths)
    assert str(failed.value) == f"It does not take 'bad'. {EITHER}systemd says no\nIts log says no."
    assert service.state.kept


def test_full_disk_is_no_mistake(service: Service) -> None:
    def full(before: bool) -> str:
        if not before:
            raise OSError(28, "No space left on device", "/x")
        return ""

    service.prove = full  # type: ignore[method-assign]
    with pytest.raises(Failed, match=rf"^/x: No space left on device\. {BACK}$"):
        service.way("bad").change(service.paths)


def test_dry_run_puts_nothing_back(service: Service) -> None:
    service.file.write_text("bad", encoding="utf-8")
    way = service.way("bad", check=True)
    way.ways = lambda _problem: [{str(service.file): ["old", 0, 0, 0o644]}]
    with pytest.raises(Failed, match=r"^It does not take 'bad'\.\nIts log says no\.$"):
        way.run()
    assert service.file.read_text("utf-8") == "bad"


def test_proof_is_returned(service: Service) -> None:
    assert service.way().run() == "proved"

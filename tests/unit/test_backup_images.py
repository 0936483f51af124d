"""Single patients and studies of a backup come into an archive that works, with stand-ins for Orthanc and restic."""

from __future__ import annotations

import hashlib
import http.server
import json
import pathlib
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.test_backup import ARCHIVE, Backed, Host, backed, host, orthanc, program  # noqa: F401

STUDY, PATIENT = "1.2.840.113619.2.55", "PAT 4711 *"


def md5(text: str | bytes) -> str:
    return hashlib.md5(text.encode() if isinstance(text, str) else text, usedforsecurity=False).hexdigest()


def owner(number: int) -> str:
    return "-".join([f"{number:08x}"] * 5)


class Archive(http.server.ThreadingHTTPServer):
    """Stands in for Orthanc: has images, and stores what it is sent."""

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        # Of each image by its MD5, as which Orthanc knows it; and what it has.
        self.names, self.images = names, dict[str, bytes]()
        self.refuses, self.changes, self.hangs_up = False, b"", False


class Handler(http.server.BaseHTTPRequestHandler):
    server: Archive

    def log_message(self, *_said: Any) -> None:
        pass

    def give(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        assert self.headers["Authorization"]
        _, level, name, *file = self.path.split("/")
        image = self.server.images.get(name) if level == "instances" else None
        self.give(404 if image is None else 200, (image or b"") if file else b"{}")

    def do_POST(self) -> None:
        if self.server.hangs_up:
            self.connection.close()
            return
        image = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.refuses:
            self.server.images[self.server.names[md5(image)]] = image + self.server.changes
        self.give(200, json.dumps({"Status": "FilteredOut" if self.server.refuses else "Success"}).encode())


@pytest.fixture
def site(backed: Backed, tmp_path: pathlib.Path) -> Iterator[Archive]:  # noqa: F811
    """An archive of which the backup has a patient with five images, among others."""
    names = {}
    with backed.host.program.opened(backed.index, "rw") as index:
        index.execute("ALTER TABLE Resources ADD COLUMN parentId INTEGER")
        index.execute("CREATE TABLE MainDicomTags(id INTEGER, tagGroup INTEGER, tagElement INTEGER, value TEXT)")
        index.executemany(
            "INSERT INTO Resources VALUES (?, ?, ?, ?)",
            [(1000, 1, owner(1000), None), (1001, 2, owner(1001), 1000), (1002, 3, owner(1002), 1001)],
        )
        tags = [(1000, 16, 32, PATIENT), (1001, 32, 13, STUDY), (1001, 8, 80, PATIENT)]
        index.executemany("INSERT INTO MainDicomTags VALUES (?, ?, ?, ?)", tags)
        for number in range(1, 6):
            index.execute(
                "UPDATE Resources SET publicId = ?, parentId = 1002 WHERE internalId = ?", (owner(number), number)
            )
            names[md5(str(number))] = owner(number)
        # What Orthanc keeps beside an image.
        index.execute("INSERT INTO AttachedFiles SELECT id, 3, '', 1, '', '' FROM AttachedFiles WHERE id = 1")
        index.commit()
    made = Archive(names)
    (tmp_path / "credentials.json").write_text('{"RegisteredUsers": {"admin": "secret"}}', "utf-8")
    backed.host.settings |= {"config_dir": str(tmp_path), "http_port": made.server_address[1]}
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def bring(backed: Backed, asked: dict[str, list[str]], wanted: str = "latest") -> list[dict[str, Any]]:  # noqa: F811
    program = backed.host.program  # noqa: F811
    found = program.brought(program.Images(backed.backup), asked, wanted)
    assert not (backed.host.archive / ".pacs-restore-images").exists()
    assert json.loads((backed.host.state / "brought.json").read_text("utf-8"))["found"] == found["found"]
    assert found["wrong"] == any(one["wrong"] for one in found["found"])
    result: list[dict[str, Any]] = found["found"]
    return result


@pytest.mark.parametrize("asked", [{"study": [STUDY]}, {"patient": [PATIENT]}])
def test_what_the_archive_lacks_is_brought(backed: Backed, site: Archive, asked: dict[str, list[str]]) -> None:  # noqa: F811
    site.images = {owner(2): b"2", owner(3): b"another one, since"}
    (found,) = bring(backed, asked)
    counts = [found[name] for name in ("images", "brought", "there", "missing", "refused", "changed", "wrong")]
    assert counts == [5, 3, 2, [], [], [], ""]
    assert found["other"] == [owner(3)]
    # What is there stays.
    assert site.images == {owner(n): str(n).encode() for n in (1, 2, 4, 5)} | {owner(3): b"another one, since"}
    wanted = [call for call in backed.restic.calls if call[0] == "restore" and call[3].startswith("files-")]
    (files,) = wanted
    assert sum(word == "--include" for word in files) == 3
    assert bring(backed, asked)[0]["brought"] == 0


def test_each_comes_from_the_newest_backup_that_has_it(
    backed: Backed,  # noqa: F811
    site: Archive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = backed.host.program  # noqa: F811
    known, looked = program.Images.known, []

    def gone_since(self: Any, snapshot: dict[str, Any], asked: list[tuple[str, str]]) -> Any:
        looked.append(str(snapshot["id"]))
        found = known(self, snapshot, asked)
        return found if snapshot["id"] == "1" else {one: [] for one in found}

    monkeypatch.setattr(program.Images, "known", gone_since)
    (study, other) = bring(backed, {"study": [STUDY], "patient": ["nobody"]})
    assert (study["snapshot"], study["brought"]) == ("1", 5)
    assert other == {"patient": "nobody", "wrong": "no backup has it"}
    assert looked == ["2", "1"]
    site.images.clear()
    assert bring(backed, {"study": [STUDY]}, "2") == [{"study": STUDY, "wrong": "no backup has it"}]
    with pytest.raises(program.Failed, match="has no backup '7' of pacs"):
        bring(backed, {"study": [STUDY]}, "7")


def test_what_a_backup_lacks_or_orthanc_refuses_is_told(backed: Backed, site: Archive) -> None:  # noqa: F811
    (name,) = (name for name, text in backed.files.items() if text == "1")
    backed.files[name] = "d"
    (found,) = bring(backed, {"study": [STUDY]})
    assert (found["brought"], found["missing"], found["wrong"]) == (4, [owner(1)], "1 missing")
    site.images.clear()
    site.refuses = True
    (found,) = bring(backed, {"study": [STUDY]})
    assert found["wrong"] == "1 missing; 4 refused"
    assert found["refused"][0] == f"{owner(2)}: Orthanc says FilteredOut"
    site.refuses, site.changes = False, b" by a rule of the site"
    (found,) = bring(backed, {"study": [STUDY]})
    assert (found["brought"], found["changed"]) == (4, [owner(n) for n in (2, 3, 4, 5)])


def test_image_comes_from_an_older_backup_if_the_newest_misses_its_file(backed: Backed, site: Archive) -> None:  # noqa: F811
    """As where it was lost before that backup was made: it knows it, and does not have it."""
    backed.lost = {name for name, text in backed.files.items() if text == "1"}
    (found,) = bring(backed, {"study": [STUDY]})
    assert (found["snapshot"], found["brought"], found["missing"]) == ("2", 5, [])


def test_orthanc_that_hangs_up_is_told(backed: Backed, site: Archive) -> None:  # noqa: F811
    site.hangs_up = True
    (found,) = bring(backed, {"study": [STUDY]})
    assert found["wrong"] == "5 refused"
    assert "Orthanc hangs up" in found["refused"][0]


def test_index_is_not_fetched_without_room(backed: Backed, site: Archive, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    backed.told["index_bytes"] = 1 << 60
    with pytest.raises(backed.host.program.Failed, match="Nothing was brought; make room"):
        backed.host.program.brought(backed.host.program.Images(backed.backup), {"study": [STUDY]}, "latest")
    assert not [call for call in backed.restic.calls if call[0] == "restore"]


def test_images_that_orthanc_has_compressed(backed: Backed, site: Archive, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    program = backed.host.program  # noqa: F811
    path = backed.host.archive.with_name("compressed")
    path.write_bytes((7).to_bytes(8, "little") + zlib.compress(b"content"))
    with program.plain(path, md5("content")) as image:
        assert image.read() == b"content"
    assert program.plain(path, md5("other")) is None
    path.write_bytes(b"")
    assert program.plain(path, md5("content")) is None
    assert program.plain(path.with_name("none"), md5("content")) is None


def test_link_in_a_backup_leads_nowhere(backed: Backed, site: Archive) -> None:  # noqa: F811
    """Else whoever had taken Orthanc over would have root read any file, and hand it out."""
    path = backed.host.archive.with_name("secret")
    path.write_text("root's own", "utf-8")
    link = backed.host.archive.with_name("link")
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        backed.host.program.plain(link, "")


def test_names_are_restored_for_themselves_alone(program: Any) -> None:  # noqa: F811
    assert program.escaped("/srv/[a]*?\\b") == r"/srv/\[a]\*\?\\b"


def test_it_waits_for_a_restore_that_was_cut_off(backed: Backed, site: Archive) -> None:  # noqa: F811
    (backed.host.state / "moves.json").write_text("{}", "utf-8")
    with pytest.raises(backed.host.program.Failed, match="A restore was cut off"):
        backed.host.program.brought(backed.host.program.Images(backed.backup), {"study": [STUDY]}, "latest")


def test_list_without_patients(backed: Backed) -> None:  # noqa: F811
    backed.host.settings |= {"config_dir": "/nowhere", "http_port": 1}
    with pytest.raises(backed.host.program.Failed, match="does not list patients and studies"):
        bring(backed, {"study": [STUDY]})


def test_images_in_the_database(backed: Backed, site: Archive) -> None:  # noqa: F811
    with backed.host.program.opened(backed.index, "rw") as index:
        index.execute("UPDATE AttachedFiles SET uuid = 'database:' || uuid")
        index.commit()
    with pytest.raises(backed.host.program.Failed, match="has its images in the database"):
        bring(backed, {"study": [STUDY]})


# ---- Files that are gone or damaged.


@pytest.fixture
def lost(backed: Backed, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> list[pathlib.Path]:  # noqa: F811
    """Two files of the archive, of which the one is gone, and the other damaged, as was found a minute ago."""
    backed.host.archive.joinpath(".pacs-archive").write_text(f"{ARCHIVE}\n", "utf-8")
    paths = [backed.host.program.place(backed.host.archive, name) for name in sorted(backed.files)[:2]]
    report: dict[str, Any] = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "missing": [], "cut off": [], "damaged": []}
    for kind, path in zip(("missing", "damaged"), paths, strict=True):
        text = backed.files[path.name]
        report[kind] = [{"uuid": path.name, "owner": "x", "kind": 1, "size": len(text), "md5": md5(text)}]
    paths[0].unlink()
    paths[1].write_text("damaged", "utf-8")
    (tmp_path / "reconcile.json").write_text(json.dumps(report), "utf-8")
    monkeypatch.setattr(backed.host.program, "FOUND", tmp_path / "reconcile.json")
    backed.host.settings |= {"config_dir": "/nowhere", "http_port": 1}
    monkeypatch.setattr(backed.host.program.Orthanc, "knows", lambda _self, owner: owner == "x")
    return paths


def again(backed: Backed, count: int) -> dict[str, Any]:  # noqa: F811
    program = backed.host.program  # noqa: F811
    found: dict[str, Any] = program.found_again(program.Missing(backed.backup), count)
    assert not (backed.host.archive / ".pacs-restore-files").exists()
    return found


def test_files_come_from_the_newest_backup_that_has_them(backed: Backed, lost: list[pathlib.Path]) -> None:  # noqa: F811
    backed.lost = {lost[0].name}
    assert again(backed, 2) == {"brought": 2, "deleted since": 0, "left": []}
    assert [path.read_text("utf-8") for path in lost] == [backed.files[path.name] for path in lost]
    (kept,) = backed.host.archive.glob(".pacs-before-*/*")
    assert (kept.name, kept.read_text("utf-8")) == (lost[1].name, "damaged")


def test_file_that_no_backup_has_as_it_was(backed: Backed, lost: list[pathlib.Path]) -> None:  # noqa: F811
    backed.files[lost[1].name] = "damaged as well"
    assert again(backed, 2) == {"brought": 1, "deleted since": 0, "left": [f"{lost[1].name} of x"]}
    assert lost[1].read_text("utf-8") == "damaged"
    assert not list(backed.host.archive.glob(".pacs-before-*"))


def test_file_of_what_was_deleted_since_stays_away(
    backed: Backed,  # noqa: F811
    lost: list[pathlib.Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backed.host.program.Orthanc, "knows", lambda _self, _owner: False)
    assert again(backed, 2) == {"brought": 0, "deleted since": 2, "left": []}
    assert not lost[0].exists()


def test_what_is_damaged_stays_where_no_file_can_take_its_place(
    backed: Backed,  # noqa: F811
    lost: list[pathlib.Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_given: Any, **_more: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(backed.host.program.os, "link", refused)
    monkeypatch.setattr(backed.host.program, "copy_file", refused)
    with pytest.raises(OSError, match="no room"):
        again(backed, 2)
    assert lost[1].read_text("utf-8") == "damaged"


def test_files_are_as_many_as_was_told_today(backed: Backed, lost: list[pathlib.Path]) -> None:  # noqa: F811
    program = backed.host.program  # noqa: F811
    with pytest.raises(program.Failed, match="has found 2 such files, and not 3; nothing was done"):
        again(backed, 3)
    report = json.loads(program.FOUND.read_text("utf-8"))
    program.FOUND.write_text(json.dumps(report | {"time": "2026-01-01T00:00:00+0000"}), "utf-8")
    with pytest.raises(program.Failed, match="Nobody has held files and index against one another today"):
        again(backed, 2)
    program.FOUND.unlink()
    with pytest.raises(program.Failed, match="Nobody has held"):
        again(backed, 2)
    assert not lost[0].exists()


def test_folder_of_the_archive_that_is_a_link_is_not_followed(backed: Backed, lost: list[pathlib.Path]) -> None:  # noqa: F811
    """Whoever had taken Orthanc over would have root write elsewhere."""
    elsewhere = backed.host.archive.with_name("elsewhere")
    lost[0].parent.rename(elsewhere)
    lost[0].parent.symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        again(backed, 2)
    assert lost[0].name not in [path.name for path in elsewhere.iterdir()]

"""Where images come from: real archives of every kind, and of every kind of damage."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pydicom
import pytest
import zstandard
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import sources as module
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import import streams
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.content import Changed, Content
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.sources import Item, Sources
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.repository import ROOT

FILES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
IMAGE = (FILES / "CT_small.dcm").read_bytes()
TEXT = b"This is no image.\n" * 100
PYTHONS = [path for path in (pathlib.Path("/usr/bin/python3"), pathlib.Path(sys.executable)) if path.exists()]
MEMBERS = {"DIR/IM0001": IMAGE, "DIR/IM0002": IMAGE[:-2] + b"ab", "readme.txt": TEXT, "empty": b""}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def tar(members: dict[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Taken:
    """What came out of sources, as an import sees it."""

    def __init__(self, spool: pathlib.Path, *paths: str | bytes | pathlib.Path, size: int = 1 << 26) -> None:
        self.sources = Sources(str(spool), size, 1 << 26)
        self.images: dict[str, bytes] = {}
        self.fates: dict[str, tuple[str, str]] = {}
        for item in self.sources.walk([os.fsencode(path) for path in paths]):
            self._take(item)
        for item in self.sources.late():
            self._take(item)

    def _take(self, item: Item) -> None:
        name = os.fsdecode(item.name)
        content = item.content if item.fate or item.content else self.sources.read(item)
        if not content:
            if item.fate:
                self.fates[name] = (item.fate, item.reason)
            return
        body = content.body()
        data = body if isinstance(body, bytes) else body.read(-1)
        assert content.md5() == Content(data).md5()
        assert len(data) == content.size == item.size
        content.close()
        self.images[name] = data

    def fate(self, name: str) -> tuple[str, str]:
        """Return the fate of the one file whose name ends so."""
        (found,) = [fate for path, fate in self.fates.items() if path.endswith(name)]
        return found


@pytest.fixture
def spool(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def put(folder: pathlib.Path, name: str, data: bytes) -> pathlib.Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def check_members(taken: Taken, prefix: str) -> None:
    images = {name: data for name, data in MEMBERS.items() if data[:128] == IMAGE[:128]}
    assert taken.images == {f"{prefix}/{name}": data for name, data in images.items()}
    assert taken.fates[f"{prefix}/readme.txt"] == ("no DICOM", "")
    assert taken.fates[f"{prefix}/empty"] == ("no DICOM", "it is empty")


def test_folder(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    for name, data in MEMBERS.items():
        put(tmp_path / "in", name, data)
    taken = Taken(spool, tmp_path / "in")
    check_members(taken, f"{tmp_path}/in")
    assert len(taken.fates) == 2


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("named", [True, False])
def test_tar(tmp_path: pathlib.Path, spool: pathlib.Path, ending: str, named: bool) -> None:
    """Also in a folder, under a name that tells nothing."""
    put(tmp_path / "in", f"a.tar{ending}" if named else "backup", COMPRESS[ending](tar(MEMBERS)))
    path = tmp_path / "in" / (f"a.tar{ending}" if named else "backup")
    for taken in (Taken(spool, path), Taken(spool, path.parent)):
        check_members(taken, str(path))
        assert taken.fates[str(path)] == ("archive", "")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_of_a_method_that_is_not_bounded(tmp_path: pathlib.Path, spool: pathlib.Path, method: int) -> None:
    """The library inflates it as a whole, whatever comes out."""
    path = put(tmp_path, "a.zip", zipped({"IM": IMAGE}, method))
    assert Taken(spool, path).fate("/IM") == ("rejected", module.METHOD)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip(tmp_path: pathlib.Path, spool: pathlib.Path, method: int) -> None:
    path = put(tmp_path, "a.zip", zipped(MEMBERS, method))
    check_members(Taken(spool, path), str(path))


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_image_that_is_compressed_alone(tmp_path: pathlib.Path, spool: pathlib.Path, ending: str) -> None:
    path = put(tmp_path, f"IM1.dcm{ending}", COMPRESS[ending](IMAGE))
    assert Taken(spool, path).images == {f"{path}/IM1.dcm": IMAGE}


def test_archives_in_archives(tmp_path: pathlib.Path, spool: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of them goes where temporary files are by default, which may be memory."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    inner = {"a.zip": zipped({"b.tar.gz": gzip.compress(tar({"c.zip": zipped({"IM": IMAGE})}))})}
    path = put(tmp_path, "outer.tar", tar(inner))
    assert Taken(spool, path).images == {f"{path}/a.zip/b.tar.gz/c.zip/IM": IMAGE}
    assert os.listdir(spool) == []


@pytest.mark.parametrize("form", ["tar", "zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_several(tmp_path: pathlib.Path, spool: pathlib.Path, form: str) -> None:
    names = ["IM", "IM#2", "IM", "IM", "b.zip", "b.zip/IM"]
    images = [IMAGE[:-2] + b"%02d" % number for number in range(len(names))]
    members = list(zip(names, images, strict=True))
    members[4] = ("b.zip", zipped({"IM": images[4]}))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    path = put(tmp_path, "a", tar(members) if form == "tar" else buffer.getvalue())
    named = ["IM", "IM#2", "IM#3", "IM#4", "b.zip/IM", "b.zip/IM#2"]
    assert Taken(spool, path).images == {f"{path}/{name}": data for name, data in zip(named, images, strict=True)}


def test_large_image_goes_through_the_spool(
    tmp_path: pathlib.Path, spool: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL", 1000)
    put(tmp_path / "in", "IM", IMAGE)
    put(tmp_path / "in", "a.zip", zipped({"IM": IMAGE}))
    put(tmp_path / "in", "b.tar.xz", lzma.compress(tar({"IM": IMAGE})))
    taken = Taken(spool, tmp_path / "in")
    assert list(taken.images.values()) == [IMAGE] * 3
    assert os.listdir(spool) == []


def test_spool_is_bounded(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    inner = zipped({"IM": IMAGE, "noise": random.Random(1).randbytes(100_000)})
    path = put(tmp_path, "outer.tar", tar({"a.zip": inner, "IM": IMAGE}))
    taken = Taken(spool, path, size=50_000)
    assert taken.images == {f"{path}/IM": IMAGE}
    fate, reason = taken.fate("a.zip")
    assert (fate, "spool" in reason) == ("rejected", True)
    assert taken.sources._spool.used == 0


def test_dicomdir_names_what_is_imported(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    medium = tmp_path / "cd"
    shutil.copytree(FILES / "dicomdirtests", medium)
    put(medium, "AUTORUN.INF", TEXT)
    taken = Taken(spool, medium / "DICOMDIR")
    assert len(taken.images) == 31
    assert not taken.fates
    everything = Taken(spool, medium)
    assert set(taken.images) <= set(everything.images)
    assert everything.fate("AUTORUN.INF") == ("no DICOM", "")


def test_medium_with_other_names_and_a_missing_file(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    medium = tmp_path / "cd"
    shutil.copytree(FILES / "dicomdirtests", medium)
    (medium / "77654033").rename(medium / "renamed")
    (medium / "renamed").rename(medium / "77654033.")
    gone = next(path for path in sorted((medium / "98892001").rglob("*")) if path.is_file())
    gone.unlink()
    taken = Taken(spool, medium / "DICOMDIR")
    assert len(taken.images) == 30
    assert taken.fate(gone.name) == ("unreadable", "a DICOMDIR names it, and it is not there")
    assert Taken(spool, medium).fate(gone.name)[0] == "unreadable"


def test_dicomdir_does_not_lead_outside(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    medium = tmp_path / "cd"
    shutil.copytree(FILES / "dicomdirtests", medium)
    data = (medium / "DICOMDIR").read_bytes()
    put(tmp_path, "CT1", IMAGE)
    # Of the same length.
    assert b"77654033\\CR1\\6154" in data
    put(medium, "DICOMDIR", data.replace(b"77654033\\CR1\\6154", b"..\\CT1" + b" " * 11))
    taken = Taken(spool, medium / "DICOMDIR")
    assert ("rejected", module.OUTSIDE) in taken.fates.values()
    assert f"{tmp_path}/CT1" not in {os.path.normpath(name) for name in taken.images}


def test_links_on_a_medium_do_not_lead_outside(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    medium, outside = tmp_path / "cd", tmp_path / "outside"
    shutil.copytree(FILES / "dicomdirtests", outside)
    shutil.copytree(FILES / "dicomdirtests", medium)
    shutil.rmtree(medium / "77654033")
    (medium / "77654033").symlink_to(outside / "77654033")
    (medium / "98892001").rename(medium / "other")
    (medium / "98892001").symlink_to("other")
    (tmp_path / "named").symlink_to(medium)
    for folder in (medium, tmp_path / "named"):
        taken = Taken(spool, folder / "DICOMDIR")
        assert len(taken.images) == 31 - 7
        assert list(taken.fates.values()) == [("rejected", module.OUTSIDE)] * 7
    assert ("rejected", module.OUTSIDE) in Taken(spool, medium).fates.values()


def test_names_that_are_not_utf8(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    name = b"\xe9tude \xff\n.dcm"
    folder = os.fsencode(tmp_path) + b"/\xe4"
    os.mkdir(folder)
    with open(folder + b"/" + name, "wb") as file:
        file.write(IMAGE)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("étude")
        info.size = len(IMAGE)
        archive.addfile(info, io.BytesIO(IMAGE))
    put(tmp_path, "a.tar", buffer.getvalue())
    # In the code page of DOS, as old programs wrote it.
    put(tmp_path, "b.zip", zipped({"aaa": IMAGE}).replace(b"aaa", b"\x82\xff."))
    taken = Taken(spool, tmp_path)
    assert {os.fsencode(name) for name in taken.images} == {
        folder + b"/" + name,
        os.fsencode(tmp_path) + b"/a.tar/\xe9tude",
        os.fsencode(tmp_path) + b"/b.zip/\x82\xff.",
    }


def test_links_are_not_followed(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    outside = put(tmp_path, "outside/IM", IMAGE)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "file").symlink_to(outside)
    (folder / "folder").symlink_to(outside.parent)
    (folder / "loop").symlink_to(folder)
    (folder / "archive.zip").symlink_to(put(tmp_path, "a.zip", zipped(MEMBERS)))
    taken = Taken(spool, folder)
    assert not taken.images
    assert {os.path.basename(name): fate for name, fate in taken.fates.items()} == dict.fromkeys(
        ("file", "folder", "loop", "archive.zip"), ("left out", module.LINK)
    )
    # What is named is followed.
    assert Taken(spool, folder / "folder").images == {f"{folder}/folder/IM": IMAGE}
    assert Taken(spool, folder / "file").images == {f"{folder}/file": IMAGE}
    assert len(Taken(spool, folder / "archive.zip").images) == 2


def test_link_that_came_after_the_look_is_not_followed(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    path = put(tmp_path, "in/IM", IMAGE)
    sources = Sources(str(spool), 1 << 20, 1 << 20)
    (item,) = sources.walk([os.fsencode(path.parent)])
    path.unlink()
    path.symlink_to(put(tmp_path, "secret", IMAGE))
    assert sources.read(item) is None
    assert item.fate == "unreadable"


def test_links_and_ways_out_of_archives(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    """An image is taken whatever its name, since nothing is written under it; a link leads nowhere."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, target in (
            ("link", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard", tarfile.LNKTYPE, "../../etc/passwd"),
            ("pipe", tarfile.FIFOTYPE, ""),
            ("device", tarfile.CHRTYPE, ""),
            ("folder", tarfile.DIRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for name in ("../../../tmp/pacs-import-escape", "/tmp/pacs-import-escape"):
            info = tarfile.TarInfo(name)
            info.size = len(IMAGE)
            archive.addfile(info, io.BytesIO(IMAGE))
    path = put(tmp_path, "a.tar", buffer.getvalue())
    escape = put(tmp_path, "b.zip", zipped({"../../../tmp/pacs-import-escape": IMAGE}))
    before = set(tmp_path.rglob("*"))
    taken = Taken(spool, path, escape)
    assert len(taken.images) == 3
    assert taken.fate("/link") == taken.fate("/hard") == ("left out", "a link in an archive")
    assert taken.fate("/pipe")[0] == taken.fate("/device")[0] == "no DICOM"
    assert set(tmp_path.rglob("*")) == before
    assert not pathlib.Path("/tmp/pacs-import-escape").exists()


def test_what_is_no_file_is_not_waited_for(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.zip")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    taken = Taken(spool, tmp_path)
    listening.close()
    assert {fate for fate, _ in taken.fates.values()} == {"no DICOM"}
    assert len(taken.fates) == 3


def test_unreadable_file_and_folder(spool: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        folder.chmod(0o755)
        put(folder, "closed/IM", IMAGE).parent.chmod(0)
        put(folder, "IM", IMAGE).chmod(0)
        put(folder, "a.zip", zipped(MEMBERS)).chmod(0)
        me = os.geteuid()
        if me == 0:
            # Who reads everything; for a moment as somebody who does not.
            os.seteuid(65534)
        try:
            taken = Taken(spool, folder)
        finally:
            os.seteuid(me)
            (folder / "closed").chmod(0o700)
    assert set(taken.fates.values()) == {("unreadable", "Permission denied")}
    assert len(taken.fates) == 3


def test_source_that_is_not_there(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    assert Taken(spool, tmp_path / "none").fates == {f"{tmp_path}/none": ("unreadable", "No such file or directory")}


def test_disk_that_fails_under_one_file_does_not_hide_the_others(
    tmp_path: pathlib.Path, spool: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        put(tmp_path, f"in/{number}.tar", tar({"IM": IMAGE}))
    real = module._first

    def first(file: Any) -> bytes:
        if os.readlink(f"/proc/self/fd/{file.fileno()}").endswith("/2.tar"):
            raise OSError(5, "Input/output error")
        return real(file)

    monkeypatch.setattr(module, "_first", first)
    taken = Taken(spool, tmp_path / "in")
    assert len(taken.images) == 4
    assert taken.fate("/2.tar") == ("unreadable", "Input/output error")


def test_file_that_vanishes(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    path = put(tmp_path, "in/IM", IMAGE)
    sources = Sources(str(spool), 1 << 20, 1 << 20)
    (item,) = sources.walk([os.fsencode(path.parent)])
    path.unlink()
    assert sources.read(item) is None
    assert (item.fate, item.reason) == ("unreadable", "No such file or directory")


@pytest.mark.parametrize("times, taken", [(1, True), (99, False)])
def test_file_that_changes_while_it_is_read(
    tmp_path: pathlib.Path, spool: pathlib.Path, monkeypatch: pytest.MonkeyPatch, times: int, taken: bool
) -> None:
    """It is read again; one that does not come to rest is given up."""
    path = put(tmp_path, "in/IM", IMAGE)
    real, calls = os.fstat, 0

    def fstat(number: int) -> Any:
        nonlocal calls
        found = real(number)
        calls += 1
        if calls <= times:
            with path.open("ab") as file:
                file.write(b"more")
        return found

    sources = Sources(str(spool), 1 << 20, 1 << 20)
    (item,) = sources.walk([os.fsencode(path.parent)])
    monkeypatch.setattr(os, "fstat", fstat)
    content = sources.read(item)
    if taken:
        assert content
        assert content.body() == path.read_bytes()
        assert item.size == len(IMAGE) + 4
    else:
        assert content is None
        assert (item.fate, item.reason) == ("unreadable", "it changes while it is read")


def test_large_file_that_becomes_shorter(tmp_path: pathlib.Path, spool: pathlib.Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "SMALL", 1000)
    path = put(tmp_path, "in/IM", IMAGE)
    sources = Sources(str(spool), 1 << 20, 1 << 20)
    (item,) = sources.walk([os.fsencode(path.parent)])
    content = sources.read(item)
    assert content
    os.truncate(path, 20_000)
    body = content.body()
    assert not isinstance(body, bytes)
    with pytest.raises(Changed, match="shorter"):
        list(iter(lambda: body.read(4096), b""))
    content.close()


ENCRYPTED = zipped({"IM": IMAGE})
# The flag in the local header and in the directory.
ENCRYPTED = ENCRYPTED[:6] + b"\x01" + ENCRYPTED[7:]
PLACE = ENCRYPTED.index(b"PK\x01\x02") + 8
ENCRYPTED = ENCRYPTED[:PLACE] + b"\x01" + ENCRYPTED[PLACE + 1 :]


def test_encrypted_zip(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    assert Taken(spool, put(tmp_path, "a.zip", ENCRYPTED)).fate("/IM") == ("rejected", "it is encrypted")


@pytest.mark.parametrize(
    "head, told",
    [
        (b"7z\xbc\xaf\x27\x1c" + TEXT, "7z"),
        (b"Rar!\x1a\x07" + TEXT, "RAR"),
        (b"\x1f\x9d\x90" + TEXT, "compress"),
        (b"\x04\x22\x4d\x18" + TEXT, "lz4"),
        (b"LZIP\x01" + TEXT, "lzip"),
        (b"MSCF\0\0\0\0" + TEXT, "cabinet"),
        (b"070701" + TEXT, "cpio"),
        (b"-lh" + TEXT, ""),
    ],
)
def test_archive_of_another_kind_is_no_silent_loss(
    tmp_path: pathlib.Path, spool: pathlib.Path, head: bytes, told: str
) -> None:
    taken = Taken(spool, put(tmp_path, "in/a", head).parent, put(tmp_path, "b.zip", zipped({"b": head})))
    for fate, reason in (taken.fate("/a"), taken.fate("/b")):
        assert (fate, told in reason) == ("rejected" if told else "no DICOM", True)


def test_image_of_a_disc_is_no_silent_loss(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    data = b"\0" * 32769 + b"CD001" + b"\0" * 2000
    path = put(tmp_path, "in/cd.iso", data)
    for name, archive in (("a.zip", zipped({"IM": IMAGE, "b.iso": data})), ("c.tar.gz", tar({"e.iso": data}))):
        put(tmp_path, f"in/{name}", archive)
    taken = Taken(spool, path.parent)
    for name in ("cd.iso", "b.iso", "e.iso"):
        assert taken.fate(name) == ("rejected", module.IMAGE_OF_DISC)


@pytest.mark.parametrize("head", [b"MZ" + TEXT, b"PK\x07\x08", b"PK00"])
@pytest.mark.parametrize("name", ["a.exe", "a.zip"])
def test_zip_that_begins_with_something_else(
    tmp_path: pathlib.Path, spool: pathlib.Path, head: bytes, name: str
) -> None:
    """As one that unpacks itself, or one that was made in parts and became one."""
    path = put(tmp_path, f"in/{name}", head + zipped({"IM": IMAGE}))
    put(tmp_path, "in/text", TEXT + b"PK\x05\x06" + TEXT)
    for source in (path, path.parent):
        taken = Taken(spool, source)
        assert taken.images == {f"{path}/IM": IMAGE}
        assert taken.fates[str(path)] == ("archive", "")
    assert taken.fate("/text") == ("no DICOM", "")


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("part", [0.35, 0.6, 0.95])
def test_truncated_tar(tmp_path: pathlib.Path, spool: pathlib.Path, ending: str, part: float) -> None:
    """What came before the damage is imported, and the archive is told."""
    members = {f"IM{number}": IMAGE[:-3] + b"%03d" % number for number in range(5)}
    data = COMPRESS[ending](tar(members))
    path = put(tmp_path, f"a.tar{ending}", data[: int(len(data) * part)])
    taken = Taken(spool, path)
    assert set(taken.images.items()) <= {(f"{path}/{name}", data) for name, data in members.items()}
    fate, reason = taken.fates[str(path)]
    assert (fate, "damaged" in reason) == ("rejected", True)


def test_tar_with_a_damaged_block_in_the_middle_is_no_silent_loss(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    """The library ends there without a word."""
    data = bytearray(tar({"IM0": IMAGE, "IM1": IMAGE, "IM2": IMAGE}))
    place = data.index(b"IM1")
    data[place] ^= 1
    path = put(tmp_path, "a.tar", bytes(data))
    taken = Taken(spool, path)
    assert list(taken.images) == [f"{path}/IM0"]
    assert "damaged" in taken.fates[str(path)][1]
    with tarfile.open(path) as archive:
        assert len(archive.getnames()) == 1


@pytest.mark.parametrize("ending", COMPRESS)
def test_what_comes_after_the_end_of_a_tar_is_no_silent_loss(
    tmp_path: pathlib.Path, spool: pathlib.Path, ending: str
) -> None:
    """Two that were joined, or zeros in the place of a head, at which the library takes it for complete."""
    first, second = tar({"IM0": IMAGE, "IM1": IMAGE}), tar({"IM2": IMAGE})
    zeros = bytearray(first + b"\0" * (3 << 20))
    place = zeros.index(b"IM1")
    zeros[place : place + 512] = bytes(512)
    for data, number in ((first + second, 2), (bytes(zeros), 1)):
        path = put(tmp_path, f"a.tar{ending}", COMPRESS[ending](data))
        taken = Taken(spool, path)
        assert len(taken.images) == number
        assert taken.fates[str(path)] == ("rejected", f"the archive is damaged: {streams.AFTER}")
    path = put(tmp_path, f"b.tar{ending}", COMPRESS[ending](first + b"\0" * (3 << 20)))
    assert Taken(spool, path).fates[str(path)] == ("archive", "")


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2", ".zst"])
def test_sum_at_the_end_of_a_compressed_tar_is_held_against_it(
    tmp_path: pathlib.Path, spool: pathlib.Path, ending: str
) -> None:
    if ending == ".zst":
        compress: Callable[[bytes], bytes] = zstandard.ZstdCompressor(write_checksum=True).compress
    else:
        compress = (lambda data: gzip.compress(data, 0)) if ending == ".gz" else COMPRESS[ending]
    # With more at its end than what is read ahead, as some fill it up to a block of a tape.
    data = bytearray(compress(tar({"IM0": IMAGE, "IM1": IMAGE}) + bytes(1 << 20)))
    data[{".gz": -8, ".xz": -30, ".bz2": -3, ".zst": -2}[ending]] ^= 255
    path = put(tmp_path, f"a.tar{ending}", bytes(data))
    assert Taken(spool, path).fates[str(path)][0] == "rejected"


def test_every_cut_of_zstd_is_told(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    """Frames of every form: with a sum or without, of known size or not, and one that is skipped."""
    noise = random.Random(1).randbytes(140_000)
    whole = [IMAGE + noise, b"\0" * 300_000, noise[:100]]
    frames = [zstandard.ZstdCompressor(write_checksum=bool(one % 2)).compress(part) for one, part in enumerate(whole)]
    maker = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    frames[2] = maker.compress(whole[2]) + maker.flush()
    frames.insert(1, b"\x5a\x2a\x4d\x18\x07\0\0\0ignored")
    data = b"".join(frames)
    ends = {sum(map(len, frames[:number])) for number in range(1, 5)}
    assert Taken(spool, put(tmp_path, "IM.dcm.zst", data)).images == {f"{tmp_path}/IM.dcm.zst/IM.dcm": b"".join(whole)}
    edges = [place + more for place in ends for more in range(-15, 15) if place + more < len(data)]
    for cut in {*edges, *range(1, len(data), 9999)} - ends:
        path = put(tmp_path, "IM.dcm.zst", data[:cut])
        taken = Taken(spool, path)
        assert not taken.images
        assert taken.fates[str(path)][0] in ("rejected", "no DICOM" if cut < 4 else ""), cut


def test_zstd_that_begins_with_what_is_skipped(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    """As pzstd writes it."""
    data = b"\x50\x2a\x4d\x18\x04\0\0\0\x10\0\0\0" + COMPRESS[".zst"](tar({"IM0": IMAGE}))
    path = put(tmp_path, "in/a", data)
    assert Taken(spool, path.parent).images == {f"{path}/IM0": IMAGE}


# Distributions mend their own Pythons, and not all in the same way.
@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_each_damaged_block_of_a_tar_is_told(python: pathlib.Path) -> None:
    whole = tar({f"IM{number}": TEXT for number in range(9)})
    program = (
        "import io, sys; from pacs_import.streams import members\n"
        "data = bytearray(sys.stdin.buffer.read()); data[data.index(sys.argv[1].encode())] ^= 1\n"
        "for _, info in members(io.BytesIO(data)): print(info.name)"
    )
    for number in (1, 4, 8):
        done = subprocess.run(
            [python, "-B", "-c", program, f"IM{number}"],
            input=whole,
            env={"PYTHONPATH": str(ROOT / "plugins" / "module_utils")},
            capture_output=True,
            check=False,
        )
        assert len(done.stdout.splitlines()) == number
        assert b"EOFError: what follows is damaged or missing" in done.stderr


def test_tar_without_its_end(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    whole = tar({"IM0": IMAGE})
    path = put(tmp_path, "a.tar", whole[: 512 + (len(IMAGE) + 511) // 512 * 512])
    taken = Taken(spool, path)
    assert list(taken.images) == [f"{path}/IM0"]
    assert taken.fates[str(path)][0] == "rejected"


def test_archives_that_are_odd_do_not_hide_others(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    """At which the library raises what it raises nowhere else."""
    newer = bytearray(zipped({"IM": IMAGE}))
    newer[newer.rindex(b"PK\x01\x02") + 6] = 99
    put(tmp_path, "in/newer.zip", bytes(newer))
    huge = tarfile.TarInfo("IM")
    huge.size = 2**70
    put(tmp_path, "in/huge.tar", huge.tobuf(tarfile.GNU_FORMAT) + IMAGE)
    data = zipped({"A": IMAGE})
    middle, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    local = data[:26] + bytes(2) + data[28:30] + data[31:middle]
    central = data[middle : middle + 28] + bytes(2) + data[middle + 30 : middle + 46] + data[middle + 47 : end]
    sizes = struct.pack("<II", len(central), len(local))
    put(tmp_path, "in/nameless.zip", local + central + data[end : end + 12] + sizes + data[end + 20 :])
    put(tmp_path, "in/x", IMAGE)
    taken = Taken(spool, tmp_path / "in")
    assert set(taken.images) == {f"{tmp_path}/in/x", f"{tmp_path}/in/nameless.zip/"}
    assert taken.fate("/newer.zip")[0] == taken.fate("/huge.tar")[0] == "rejected"


@pytest.mark.parametrize("cut", [10, 2000, -1, -30])
def test_truncated_zip(tmp_path: pathlib.Path, spool: pathlib.Path, cut: int) -> None:
    path = put(tmp_path, "a.zip", zipped(MEMBERS)[:cut])
    taken = Taken(spool, path)
    assert not taken.images
    assert "damaged" in str(taken.fates)


def test_zip_with_a_damaged_member(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    data = bytearray(zipped({"IM0": IMAGE, "IM1": IMAGE, "IM2": IMAGE}, zipfile.ZIP_STORED))
    second = data.index(b"IM1") + 20_000
    data[second] ^= 1
    path = put(tmp_path, "a.zip", bytes(data))
    taken = Taken(spool, path)
    assert sorted(taken.images) == [f"{path}/IM0", f"{path}/IM2"]
    assert taken.fate("/IM1")[0] == "rejected"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["zip", *COMPRESS]), place=st.floats(0, 1, exclude_max=True), flipped=st.integers(1, 255))
def test_any_flipped_byte_is_survived(tmp_path: pathlib.Path, kind: str, place: float, flipped: int) -> None:
    """Each image comes out as it was, or it or its archive is told; a tar has no sums by which its content is held."""
    spool = tmp_path / "spool"
    spool.mkdir(exist_ok=True)
    members = {"IM0": IMAGE[:3000], "IM1": IMAGE[:4000]}
    data = bytearray(zipped(members) if kind == "zip" else COMPRESS[kind](tar(members)))
    data[int(place * len(data))] ^= flipped
    path = put(tmp_path, "a.bin", bytes(data))
    taken = Taken(spool, path)
    whole = {data for data in taken.images.values() if data in members.values()}
    if kind not in ("", ".zst"):
        assert len(whole) == 2 or set(taken.fates.values()) != {("archive", "")}
    assert taken.sources._memory.used == taken.sources._spool.used == 0


class TestBombs:
    """Archives that are made to harm."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "FLOOR", 1 << 20)
        monkeypatch.setattr(module, "RATIO", 20)

    @pytest.mark.parametrize("ending", COMPRESS)
    def test_tar(self, tmp_path: pathlib.Path, spool: pathlib.Path, ending: str) -> None:
        """Of zeros: what is no image is not even inflated as a whole where that can be helped."""
        members = {"IM0": IMAGE, "zeros": b"\0" * (6 << 20), "IM1": IMAGE}
        path = put(tmp_path, "a.tar", COMPRESS[ending](tar(members)))
        taken = Taken(spool, path)
        assert f"{path}/IM0" in taken.images
        if ending:
            assert "made to harm" in taken.fates[str(path)][1]

    def test_zip_member_that_is_no_image_is_not_inflated(self, tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
        path = put(tmp_path, "a.zip", zipped({"zeros": b"\0" * (6 << 20), "IM": IMAGE}))
        taken = Taken(spool, path)
        assert list(taken.images) == [f"{path}/IM"]
        assert taken.fate("/zeros") == ("no DICOM", "")

    def test_zip_member_that_says_it_is_an_image(self, tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
        path = put(tmp_path, "a.zip", zipped({"bomb": IMAGE[:400] + b"\0" * (6 << 20), "IM": IMAGE}))
        taken = Taken(spool, path)
        assert "bomb" not in str(list(taken.images))
        assert any(fate == "rejected" for fate, _ in taken.fates.values())
        assert taken.sources._spool.used == 0

    def test_holes_in_a_tar(self, tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
        """Of which it has no bytes, and an image would have many."""
        info = tarfile.TarInfo("bomb")
        info.type, info.size = tarfile.GNUTYPE_SPARSE, len(IMAGE)
        head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        for place, numbers in ((386, (0, len(IMAGE))), (410, (6 << 20, 0)), (483, (6 << 20,))):
            for one, number in enumerate(numbers):
                head[place + 12 * one : place + 12 * one + 12] = b"%011o\0" % number
        head[148:156] = b"%06o\0 " % sum(head[:148] + b" " * 8 + head[156:])
        path = put(tmp_path, "a.tar", bytes(head) + IMAGE + bytes(-len(IMAGE) % 512) + tar({"IM": IMAGE}))
        taken = Taken(spool, path)
        assert not taken.images
        assert "made to harm" in taken.fates[str(path)][1]

    def test_archives_that_lie_in_one_another(self, tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
        data = zipped({"IM": IMAGE})
        for _ in range(module.DEEPEST):
            data = zipped({"deeper.zip": data})
        taken = Taken(spool, put(tmp_path, "a.zip", data))
        assert not taken.images
        assert "without end" in str(taken.fates)

    def test_name_without_end(
        self, tmp_path: pathlib.Path, spool: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The library reads it into memory, whatever its size."""
        monkeypatch.setattr(module, "FLOOR", 1 << 30)
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
        path = put(tmp_path, "a.tar.gz", gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * (8 << 20)))
        assert "a name in it" in str(Taken(spool, path).fates)

    def test_dictionary_of_xz(
        self, tmp_path: pathlib.Path, spool: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streams, "DICTIONARY", 1 << 20)
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 23}]
        path = put(tmp_path, "a.tar.xz", lzma.compress(tar({"IM": IMAGE}), filters=filters))
        taken = Taken(spool, path)
        assert not taken.images
        assert "damaged" in str(taken.fates)
        assert "emory" in str(taken.fates)


def in_time(*work: Callable[[], Any]) -> None:
    """Run them side by side; they must not wait for one another for ever."""
    threads = [threading.Thread(target=one, daemon=True) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_image_that_is_larger_than_the_spool(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    path = put(tmp_path, "a.tar", tar({"IM0": IMAGE + bytes(20 << 20), "IM1": IMAGE}))
    taken: list[Taken] = []
    in_time(lambda: taken.append(Taken(spool, path, size=12 << 20)))
    assert list(taken[0].images) == [f"{path}/IM1"]
    fate, reason = taken[0].fate("/IM0")
    assert (fate, "or more of a spool of 12 MB" in reason) == ("rejected", True)
    assert taken[0].sources._spool.used == 0


def test_spool_that_is_not_there(tmp_path: pathlib.Path) -> None:
    path = put(tmp_path, "a.tar", tar({"a.zip": zipped({"IM": IMAGE}), "IM": IMAGE}))
    taken = Taken(tmp_path / "none", path)
    assert list(taken.images) == [f"{path}/IM"]
    assert taken.fate("/a.zip")[1] == f"the spool cannot be written: No such file or directory: {tmp_path}/none"


@pytest.mark.parametrize("small", [0, 60, 1000])
def test_images_that_together_are_larger_than_the_spool(
    spool: pathlib.Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    """Neither waits for what the other one has, before it is complete."""
    monkeypatch.setattr(module, "SMALL", small)
    sources = Sources(str(spool), 100, 100)
    both = threading.Barrier(2)

    def spooled() -> None:
        def parts() -> Iterator[bytes]:
            for number in range(8):
                if number == 5:
                    with contextlib.suppress(threading.BrokenBarrierError):
                        both.wait(0.5)
                yield b"x" * 10

        with sources.spooled(parts()) as file:
            assert len(file.read()) == 80

    in_time(spooled, spooled)
    assert sources._spool.used == 0


def test_room_is_given_back_and_waited_for() -> None:
    room = streams.Room(10)
    room.take(6)
    with pytest.raises(streams.Refused):
        room.take(11)
    room.give(6)
    room.take(10, keep=True)
    with pytest.raises(streams.Refused):
        room.take(1)
    room.give(10, kept=True)
    assert (room.used, room.kept) == (0, 0)


@pytest.mark.parametrize("name, data", [("a.zip", zipped(MEMBERS)), ("b.tar.gz", gzip.compress(tar(MEMBERS)))])
def test_known_members_are_not_read(tmp_path: pathlib.Path, spool: pathlib.Path, name: str, data: bytes) -> None:
    path = put(tmp_path, name, data)
    asked = []

    def known(name: bytes, size: int, changed: int) -> bool:
        asked.append((name, size, changed))
        return name.endswith(b"IM0001")

    items = list(Sources(str(spool), 1 << 20, 1 << 20, known).walk([os.fsencode(path)]))
    assert (os.fsencode(path) + b"/DIR/IM0001", len(IMAGE), path.stat().st_mtime_ns) in asked
    assert [item.name.rpartition(b"/")[2] for item in items if item.content] == [b"IM0002"]


def test_what_was_gone_through_adds_up(tmp_path: pathlib.Path, spool: pathlib.Path) -> None:
    put(tmp_path, "in/a.zip", zipped(MEMBERS))
    put(tmp_path, "in/b.tar.gz", gzip.compress(tar(MEMBERS)))
    put(tmp_path, "in/IM", IMAGE)
    items = list(Sources(str(spool), 1 << 20, 1 << 20).walk([os.fsencode(tmp_path / "in")]))
    assert sum(item.weight for item in items) == sum(path.stat().st_size for path in (tmp_path / "in").iterdir())

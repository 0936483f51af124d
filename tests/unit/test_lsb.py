"""Downloads: whole, right and all of them, or none."""

import fcntl
import functools
import hashlib
import http.server
import itertools
import os
import pathlib
import re
import ssl
import stat
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import files as files_of_host
from ansible_collections.dicom.orthanc.plugins.module_utils import lsb, releases
from ansible_collections.dicom.orthanc.plugins.modules import lsb_lock, lsb_release
from hypothesis import given
from hypothesis import strategies as st

from tests.repository import load
from tests.unit.good_host import pair
from tests.unit.module import killed, run

VERSIONS = load("roles/orthanc/vars/main/programs.yml")["__orthanc_lsb_versions"]
PLUGINS = load("roles/orthanc/vars/main/plugins.yml")["__orthanc_plugins"]


class Handler(http.server.SimpleHTTPRequestHandler):
    """A mirror, with files that do not come as they should."""

    def do_GET(self) -> None:
        if self.path.endswith("/truncated"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"short")
        elif self.path.endswith("/broken"):
            self.send_error(500)
        elif self.path.endswith("/cut"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"9\r\nab")
        elif self.path.endswith("/garbage"):
            self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        elif self.path.endswith("/slow"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"short")
            self.wfile.flush()
            # Until the other side has gone.
            self.rfile.read()
        elif self.path.endswith("/unmeasured"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"all of it")
        else:
            super().do_GET()

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def lock(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(files_of_host, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(files_of_host, "LOCK_SECONDS", 0.3)
    return tmp_path / "lock"


@pytest.fixture
def mirror(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "mirror" / "orthanc" / "1.12.8"
    folder.mkdir(parents=True)
    (folder / "Orthanc").write_text("#!/bin/sh\necho Orthanc 1.12.8\n", encoding="utf-8")
    (folder / "libX.so").write_bytes(bytes(3 << 20))
    handler = functools.partial(Handler, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def sums(folder: pathlib.Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    "name, part",
    [
        ("orthanc/1.12.8/truncated", "came truncated, 5 of 1000 bytes"),
        ("orthanc/1.12.8/broken", "answers 500"),
        ("orthanc/1.12.9/Orthanc", "answers 404: the mirror does not have it; see orthanc_version"),
    ],
)
def test_fetch_that_fails(mirror: str, tmp_path: pathlib.Path, name: str, part: str) -> None:
    with pytest.raises(lsb.MirrorError, match=part):
        lsb.fetch_all(mirror, "", {name: str(tmp_path / "file")})


def test_fetch_that_breaks_off(mirror: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsb, "_PATIENCE", 0.3)
    for name in ("cut", "slow"):
        with pytest.raises(lsb.MirrorError, match=rf"[0-9]/{name} broke off: .*; run again, or see orthanc_lsb_url\.$"):
            lsb.fetch_all(f"{mirror}//", "", {name: str(tmp_path / "file")})


def test_fetch_of_unknown_length(mirror: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    assert lsb.fetch_all(mirror, "", {"unmeasured": str(path)}) == {"unmeasured": lsb.digest(str(path))}
    assert path.read_bytes() == b"all of it"


def test_fetch_to_where_nothing_can_be_written(mirror: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        lsb.MirrorError, match=r"cannot be written to /none: No such file or directory; make room there"
    ):
        lsb.fetch_all(mirror, "", {"orthanc/1.12.8/Orthanc": "/none/file"})


def test_fetch_of_something_else(mirror: str, tmp_path: pathlib.Path) -> None:
    """A message names the variable that the address is from."""
    with pytest.raises(lsb.MirrorError, match=r"answers 404: see orthanc_apt_key\.$"):
        lsb.fetch(f"{mirror}/none", lsb.trust(""), str(tmp_path / "file"), "orthanc_apt_key")
    with pytest.raises(lsb.MirrorError, match=r"answers 500: see orthanc_lsb_url\.$"):
        lsb.fetch(f"{mirror}/broken", lsb.trust(""), str(tmp_path / "file"))


@pytest.fixture
def closed(mirror: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """The same mirror over TLS, with its certificate, which nobody else vouches for."""
    certificate, key = pair(("127.0.0.1",))
    (tmp_path / "pem").write_text(key + certificate, "utf-8")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "pem")
    handler = functools.partial(Handler, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"https://127.0.0.1:{server.server_port}", certificate
        server.shutdown()


def test_mirror_is_known_by_the_authority_that_is_given(closed: tuple[str, str], tmp_path: pathlib.Path) -> None:
    (url, certificate), targets = closed, {"orthanc/1.12.8/Orthanc": str(tmp_path / "file")}
    assert lsb.fetch_all(url, certificate, targets)
    for authority in ("", pair(("other.example.org",))[0]):
        with pytest.raises(
            lsb.MirrorError, match=r"does not answer: .*CERTIFICATE_VERIFY_FAILED.*; see orthanc_lsb_ca\.$"
        ):
            lsb.fetch_all(url, authority, targets)
    with pytest.raises(lsb.MirrorError, match=r"CERTIFICATE_VERIFY_FAILED.*; see orthanc_apt_key\.$"):
        lsb.fetch(url, lsb.trust(""), str(tmp_path / "file"), "orthanc_apt_key")


def test_authority_as_hospitals_make_them() -> None:
    """Without what Pythons from 3.13 on want to see in it."""
    assert not lsb.trust("").verify_flags & ssl.VERIFY_X509_STRICT
    assert lsb.trust("").verify_mode == ssl.CERT_REQUIRED


def test_digest_of_nothing(tmp_path: pathlib.Path) -> None:
    assert lsb.digest(str(tmp_path / "none")) == ""


def test_fetch_from_nowhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(lsb.MirrorError, match=r"does not answer: .*refused.*; see orthanc_lsb_url"):
        lsb.fetch_all("http://127.0.0.1:9", "", {"x": str(tmp_path / "file")})
    with pytest.raises(lsb.MirrorError, match=r"^mirror/x does not answer: unknown url type.*; see orthanc_lsb_url"):
        lsb.fetch_all("mirror", "", {"x": str(tmp_path / "file")})


def test_fetch_from_what_is_no_web_server(mirror: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(lsb.MirrorError, match=r"(?s)/garbage does not answer: SSH-2\.0.*; see orthanc_lsb_url"):
        lsb.fetch_all(mirror, "", {"garbage": str(tmp_path / "file")})


def test_wrong_authority() -> None:
    with pytest.raises(lsb.MirrorError, match="orthanc_lsb_ca: this is no certificate"):
        lsb.trust("nothing")


def test_release(mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, here = tmp_path / "mirror", tmp_path / "opt"
    arguments = {"url": f"{mirror}/", "path": str(here), "release": "1.12.8", "files": sums(there)}
    dry = run(lsb_release, capsys, **arguments, _ansible_check_mode=True)
    assert dry["changed"]
    assert not here.exists()
    first = run(lsb_release, capsys, **arguments)
    assert sorted(first["downloaded"]) == ["orthanc/1.12.8/Orthanc", "orthanc/1.12.8/libX.so"]
    assert set(sums(here / "1.12.8").values()) == set(sums(there).values())
    assert os.access(here / "1.12.8" / "Orthanc", os.X_OK)
    assert not os.access(here / "1.12.8" / "libX.so", os.X_OK)
    assert not run(lsb_release, capsys, **arguments)["changed"]
    # Only what is not there.
    (here / "1.12.8" / "libX.so").unlink()
    assert run(lsb_release, capsys, **arguments)["downloaded"] == ["orthanc/1.12.8/libX.so"]
    assert sorted(path.name for path in here.iterdir()) == [".pacs", "1.12.8"]


def test_no_file_makes_way_for_another_one(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A release with another version of a plugin has a folder beside, and the way back leads to the one before."""
    here, plugin = tmp_path / "opt", tmp_path / "mirror" / "orthanc" / "1.12.8" / "libX.so"
    first = {"url": mirror, "path": str(here), "release": "1.12.8", "files": sums(tmp_path / "mirror")}
    assert run(lsb_release, capsys, **first)["name"] == "1.12.8"
    (here / "current").symlink_to("1.12.8")
    before = sums(here / "1.12.8")
    plugin.write_bytes(b"another version")
    second = first | {"files": sums(tmp_path / "mirror")}
    dry = run(lsb_release, capsys, **second, _ansible_check_mode=True)
    said = run(lsb_release, capsys, **second)
    assert dry["name"] == said["name"]
    assert re.fullmatch(r"1\.12\.8-[0-9a-f]{8}", said["name"])
    # The rest is on the host already.
    assert dry["downloaded"] == said["downloaded"] == ["orthanc/1.12.8/libX.so"]
    assert sums(here / "1.12.8") == before
    assert sums(here / said["name"])["libX.so"] == sums(tmp_path / "mirror")["orthanc/1.12.8/libX.so"]
    assert os.access(here / said["name"] / "Orthanc", os.X_OK)
    again = run(lsb_release, capsys, **second)
    assert (again["changed"], again["name"]) == (False, said["name"])
    # Also where it runs by now, and what was there before is asked for again.
    (here / "current").unlink()
    (here / "current").symlink_to(said["name"])
    again = run(lsb_release, capsys, **second)
    assert (again["changed"], again["name"]) == (False, said["name"])
    again = run(lsb_release, capsys, **first)
    assert (again["changed"], again["name"]) == (False, "1.12.8")
    # Nor is a file that is spoilt changed below what runs.
    spoilt = here / said["name"] / "libX.so"
    spoilt.write_bytes(b"spoilt")
    mended = run(lsb_release, capsys, **second)
    assert re.fullmatch(r"1\.12\.8-[0-9a-f]{8}", mended["name"])
    assert mended["name"] != said["name"]
    assert spoilt.read_bytes() == b"spoilt"
    assert sums(here / mended["name"]) == sums(here / said["name"]) | {
        "libX.so": sums(tmp_path / "mirror")["orthanc/1.12.8/libX.so"]
    }
    again = run(lsb_release, capsys, **second)
    assert (again["changed"], again["name"]) == (False, mended["name"])


@pytest.mark.parametrize("change", [{"orthanc/1.12.8/libX.so": "0" * 64}, {"orthanc/1.12.8/truncated": "0" * 64}])
def test_all_or_nothing(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], change: dict[str, str]
) -> None:
    here = tmp_path / "opt"
    files = sums(tmp_path / "mirror") | change
    said = run(lsb_release, capsys, url=mirror, path=str(here), release="1.12.8", files=files)
    assert said["failed"]
    assert "nothing has changed" in said["msg"]
    assert list(here.iterdir()) == []


def test_binary_that_is_another(mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sums(tmp_path / "mirror")
    said = run(lsb_release, capsys, url=mirror, path=str(tmp_path / "opt"), release="1.12.9", files=files)
    assert "does not run on this host, or is another release: Orthanc 1.12.8" in said["msg"]
    # Half of a file.
    (tmp_path / "mirror/orthanc/1.12.8/Orthanc").write_bytes(b"\x7fELF")
    files = sums(tmp_path / "mirror")
    said = run(lsb_release, capsys, url=mirror, path=str(tmp_path / "opt"), release="1.12.8", files=files)
    assert "does not run on this host, or is another release: Exec format error." in said["msg"]
    assert os.listdir(tmp_path / "opt") == []


def test_download_that_was_killed_leaves_nothing(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in itertools.count(1):
        path = tmp_path / str(step)
        files = sums(tmp_path / "mirror")
        given = {"url": mirror, "path": str(path), "release": "1.12.8", "files": files}
        if not killed(lambda given=given: run(lsb_release, capsys, **given), step):  # type: ignore[misc]
            break
        assert "msg" not in run(lsb_release, capsys, **given)
        assert sorted(os.listdir(path)) == [".pacs", "1.12.8"], step
        assert set(sums(path / "1.12.8").values()) == set(files.values())
    assert step > 5


@pytest.mark.parametrize("code, words", [(0, "Orthanc mainline"), (1, "Orthanc 1.12.8")])
def test_binary_that_does_not_run(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], code: int, words: str
) -> None:
    """For another processor, for one: it is not put in place, and what it says is told in part."""
    program = tmp_path / "mirror" / "orthanc" / "1.12.8" / "Orthanc"
    program.write_text(f"#!/bin/sh\necho {words} {'x' * 600}; exit {code}\n", "utf-8")
    files = sums(tmp_path / "mirror")
    said = run(lsb_release, capsys, url=mirror, path=str(tmp_path / "opt"), release="1.12.8", files=files)
    assert said["msg"].endswith(f" release: {words} {'x' * (499 - len(words))}.")
    assert os.listdir(tmp_path / "opt") == []
    program.write_text("#!/bin/sh\necho ' why ' >&2; exit 1\n", "utf-8")
    files = sums(tmp_path / "mirror")
    said = run(lsb_release, capsys, url=mirror, path=str(tmp_path / "opt"), release="1.12.8", files=files)
    assert said["msg"].endswith(" release: why.")


def test_release_is_open_to_all_whatever_the_umask_is(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, before = tmp_path / "opt", os.umask(0o077)
    try:
        run(lsb_release, capsys, url=mirror, path=str(here), release="1.12.8", files=sums(tmp_path / "mirror"))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (here, *here.rglob("[!.]*"))}
    assert modes == {"opt": 0o755, "1.12.8": 0o755, "Orthanc": 0o755, "libX.so": 0o644}


def test_folder_of_others_is_left_alone(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Old releases are removed where the toolkit's mark is, its link, or nothing was before."""
    here = tmp_path / "opt"
    arguments = {"url": mirror, "path": str(here), "release": "1.12.8", "files": sums(tmp_path / "mirror"), "keep": 1}
    for age, name in enumerate(("1.9.7", "1.10.1")):
        (here / name).mkdir(parents=True)
        os.utime(here / name, (age, age))
    assert run(lsb_release, capsys, **arguments)["removed"] == []
    assert not (here / ".pacs").exists()
    (here / "current").symlink_to("1.10.1")
    dry = run(lsb_release, capsys, **arguments, _ansible_check_mode=True)
    assert (dry["changed"], dry["removed"], (here / "1.9.7").exists()) == (True, ["1.9.7"], True)
    said = run(lsb_release, capsys, **arguments)
    assert (said["changed"], said["downloaded"], said["removed"]) == (True, [], ["1.9.7"])
    assert (here / ".pacs").read_text("utf-8") == files_of_host.MARK_TEXT
    assert sorted(path.name for path in here.iterdir()) == [".pacs", "1.10.1", "1.12.8", "current"]
    assert not run(lsb_release, capsys, **arguments)["changed"]


def test_link_beside_the_releases_is_not_followed(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a call that was cut off has left is a folder, and goes."""
    here, other = tmp_path / "opt", tmp_path / "other"
    arguments = {"url": mirror, "path": str(here), "release": "1.12.8", "files": sums(tmp_path / "mirror")}
    run(lsb_release, capsys, **arguments)
    for folder in (other, here / f"{releases.NEW}left"):
        folder.mkdir()
        (folder / "Orthanc").touch()
    (here / f"{releases.NEW}link").symlink_to(other)
    run(lsb_release, capsys, **arguments)
    assert os.listdir(other) == ["Orthanc"]
    assert not (here / f"{releases.NEW}left").exists()


def test_release_that_is_asked_for_again_is_the_latest(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the time of its folder, unless it is the one that runs."""
    here = tmp_path / "opt"
    arguments = {"url": mirror, "path": str(here), "release": "1.12.8", "files": sums(tmp_path / "mirror")}
    run(lsb_release, capsys, **arguments)
    (here / "current").symlink_to("1.12.8")
    for touched in (False, True):
        os.utime(here / "1.12.8", (7, 7))
        assert run(lsb_release, capsys, **arguments)["changed"] is False
        assert ((here / "1.12.8").stat().st_mtime > 7) is touched
        (here / "current").unlink(missing_ok=True)


def test_folder_that_cannot_be_made(mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sums(tmp_path / "mirror")
    said = run(lsb_release, capsys, url=mirror, path="/proc/none/orthanc", release="1.12.8", files=files)
    assert said["msg"].startswith("Orthanc 1.12.8 is not in place, and nothing has changed: ")
    assert said["msg"].endswith("(orthanc_lsb_dir).")


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("file", ["opt", "opt/1.12.8"])
def test_folder_below_a_file(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], file: str, check: bool
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    given = {"path": str(tmp_path / "opt"), "release": "1.12.8", "files": sums(tmp_path / "mirror")}
    said = run(lsb_release, capsys, url=mirror, **given, _ansible_check_mode=check)
    assert f"{tmp_path / file} is no folder" in said["msg"]
    assert "orthanc_lsb_dir" in said["msg"]
    assert (tmp_path / file).read_text() == "mine"


def test_folder_where_a_file_of_the_release_belongs(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "opt" / "1.12.8" / "Orthanc" / "mine").mkdir(parents=True)
    given = {"path": str(tmp_path / "opt"), "release": "1.12.8", "files": sums(tmp_path / "mirror")}
    said = run(lsb_release, capsys, url=mirror, **given)
    assert said["msg"].startswith("Orthanc 1.12.8 is not in place")
    assert said["msg"].endswith("(orthanc_lsb_dir).")
    assert (tmp_path / "opt" / "1.12.8" / "Orthanc" / "mine").is_dir()


def test_two_runs_take_turns(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], lock: pathlib.Path
) -> None:
    arguments = {"url": mirror, "path": str(tmp_path / "opt"), "release": "1.12.8", "files": sums(tmp_path / "mirror")}
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "Another run has been changing this host" in run(lsb_release, capsys, **arguments)["msg"]
        assert run(lsb_release, capsys, **arguments, _ansible_check_mode=True)["changed"]
    assert run(lsb_release, capsys, **arguments)["downloaded"]


def test_old_releases_go_and_the_one_that_runs_stays(tmp_path: pathlib.Path) -> None:
    for age, name in enumerate(["1.13.0", "1.12.9", "1.12.8", "1.12.7", "1.10.1"]):
        (tmp_path / name).mkdir()
        for file in ("Orthanc", "OrthancRecoverCompressedFile", "libOrthancDicomWeb.so"):
            (tmp_path / name / file).touch()
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "notes").mkdir()
    (tmp_path / "current").symlink_to("1.10.1")
    assert releases.outdated(str(tmp_path), "1.13.0", 100) == []
    assert releases.outdated(str(tmp_path), "1.13.0", 2) == ["1.12.8", "1.12.7"]
    assert releases.outdated(str(tmp_path), "1.13.0", 1) == ["1.12.9", "1.12.8", "1.12.7"]
    assert releases.outdated(str(tmp_path), "1.10.1", 1) == ["1.12.9", "1.12.8", "1.12.7"]
    # What is more than a release is somebody's.
    (tmp_path / "1.12.8" / "notes").touch()
    os.utime(tmp_path / "1.12.8", (1_000_000 - 2, 1_000_000 - 2))
    assert releases.outdated(str(tmp_path), "1.13.0", 1) == ["1.12.9", "1.12.7"]


def test_folder_of_others_keeps_what_is_in_it(
    mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where its name is like that of a download that was cut off."""
    path = tmp_path / "opt"
    for name in (".new-x", "other"):
        (path / name).mkdir(parents=True)
        (path / name / "file").touch()
    given = {"url": mirror, "path": str(path), "release": "1.12.8", "files": sums(tmp_path / "mirror")}
    assert run(lsb_release, capsys, **given)["changed"]
    assert sorted(os.listdir(path)) == [".new-x", "1.12.8", "other"]
    assert (path / ".new-x" / "file").exists()


def test_lock(mirror: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest, there = tmp_path / "group_vars" / "all" / "lock.yml", sums(tmp_path / "mirror")
    files = sorted(there)
    assert run(lsb_lock, capsys, url=mirror, files=files[:1], dest=str(dest))["added"] == files[:1]
    assert run(lsb_lock, capsys, url=mirror, files=files, dest=str(dest))["added"] == files[1:]
    assert not run(lsb_lock, capsys, url="http://127.0.0.1:9", files=files, dest=str(dest))["changed"]
    assert load_yaml(dest) == {"orthanc_lsb_checksums": there}
    before = dest.read_text(encoding="utf-8")
    assert "Nothing was written" in run(lsb_lock, capsys, url=mirror, files=["none"], dest=str(dest))["msg"]
    assert dest.read_text(encoding="utf-8") == before


def load_yaml(path: pathlib.Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


@given(st.sampled_from(sorted(VERSIONS)), st.sets(st.sampled_from(sorted(PLUGINS))))
def test_paths_of_any_release(release: str, names: set[str]) -> None:
    wanted = {name: PLUGINS[name] for name in names}
    unknown = {name for name in names if not lsb.version_of(name, wanted[name]["package"], release, VERSIONS, {})}
    named = dict.fromkeys(unknown, "9.9")
    found = lsb.paths(release, wanted, VERSIONS, named)
    assert len(found) == len(set(found)) == 2 + len(names)
    assert all(path.count("/") == 2 for path in found)
    if unknown:
        with pytest.raises(lsb.MirrorError, match="orthanc_lsb_plugin_versions"):
            lsb.paths(release, wanted, VERSIONS, {})


@pytest.mark.parametrize("release", ["", "1.12", "latest", "../1.12.7"])
def test_paths_of_no_release(release: str) -> None:
    with pytest.raises(lsb.MirrorError, match="is no release"):
        lsb.paths(release, {}, VERSIONS, {})


@pytest.mark.parametrize("package", ["a-plugin", "orthanc-gdcm", "zzz"])
def test_version_of_a_component_of_its_own(package: str) -> None:
    table = {"1.12.8": {package: "1.9"}}
    assert lsb.version_of("x", package, "1.12.8", table, {}) == "1.9"
    assert lsb.version_of("x", package, "1.12.9", table, {}) == lsb.version_of("x", "other", "1.12.8", table, {}) == ""
    assert lsb.version_of("x", "orthanc", "1.12.9", table, {}) == "1.12.9"


def test_named_version_wins() -> None:
    assert lsb.version_of("dicomweb", "orthanc-dicomweb", "1.12.7", VERSIONS, {"dicomweb": "1.21"}) == "1.21"

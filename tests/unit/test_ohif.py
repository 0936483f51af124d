"""The viewer: what is made of a package, what is written of it on a host, and what goes again."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pathlib
import re
import tarfile
import types
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.dicom.orthanc.plugins.action import ohif_release as action
from ansible_collections.dicom.orthanc.plugins.module_utils import ohif
from ansible_collections.dicom.orthanc.plugins.modules import ohif_release
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.module import run

SCRIPT = '<script>window.PUBLIC_URL="/"</script>'
PAGE = (
    f'<head>{SCRIPT}<link rel="manifest" href="/manifest.json">'
    + "".join(f'<link rel="icon" href="/assets/{number}.png">' for number in range(31))
    + f'<script src="/app.bundle.0123456789abcdef.js"></script>{SCRIPT}</head>'
)
FILES: dict[str, str] = {
    "index.html": PAGE,
    "app.bundle.css": "@font-face{src:url(/a.woff2)}" * 5,
    "app.bundle.0123456789abcdef.js": '__webpack_require__.p = "/"; fetch("/elsewhere")',
    **{f"{number}.bundle.js": '__webpack_require__.p = "/";' for number in range(7)},
    "plain.js": "1",
    "assets/images/a.png": "picture",
}
LEFT_OUT = ("ort/ort.wasm", "ort/esm/ort.js", "1.bundle.js.map", "app-config.js", "google.js", "sw.js", "manifest.json")


def package(files: dict[str, str] = FILES, *more: str, inside: str = "package/dist/") -> bytes:
    """Return a package of these files, and of more that nobody is to see."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, text in {**files, **dict.fromkeys(more, "x")}.items():
            member = tarfile.TarInfo(inside + name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        for name, kind in (("package/package.json", tarfile.REGTYPE), (f"{inside}link", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    return gzip.compress(made.getvalue(), mtime=0)


def made(path: str = "/a/ohif/", **changes: str) -> dict[str, bytes]:
    return ohif.adapted(ohif.unpacked(package(FILES | changes)), path)


def test_what_is_not_served_is_left_out() -> None:
    assert set(ohif.unpacked(package(FILES, *LEFT_OUT))) == set(FILES)


@pytest.mark.parametrize("path", ["/ohif/", "/orthanc/ohif/", "/a/b/c/"])
def test_every_reference_leads_to_the_path(path: str) -> None:
    files = {name: content.decode() for name, content in made(path).items()}
    assert "manifest" not in files["index.html"]
    assert set(re.findall(r'="(/[^"]*/)', files["index.html"])) == {path, f"{path}assets/"}
    assert set(re.findall(r"url\(([^)]*)\)", files["app.bundle.css"])) == {f"{path}a.woff2"}
    bundles = {name for name, text in files.items() if f'__webpack_require__.p = "{path}"' in text}
    assert len(bundles) == 8
    # Nothing but what is counted.
    assert files["app.bundle.0123456789abcdef.js"].endswith('fetch("/elsewhere")')
    assert {name: files[name] for name in ("plain.js", "assets/images/a.png")} == {
        name: FILES[name] for name in ("plain.js", "assets/images/a.png")
    }


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"index.html": PAGE.replace("manifest.json", "site.json")}, "0 links to a manifest"),
        ({"index.html": PAGE + '<img src="/x">'}, "35 references to / in index.html, where 34 are known"),
        ({"index.html": PAGE.replace("PUBLIC_URL", "BASE", 1)}, "1 PUBLIC_URL"),
        ({"index.html": PAGE + "<script>1</script>"}, "3 scripts"),
        ({"index.html": ""}, "0 references to / in index.html, where 34 are known, 0 PUBLIC_URL"),
        ({"plain.js": '__webpack_require__.p = "/"'}, "9 files with the path of webpack, where 8 are known"),
        ({"1.bundle.js": '__webpack_require__.p = "auto"'}, "7 files with the path of webpack"),
        ({"app.bundle.css": "url(/a)"}, "1 references to / in app.bundle.css, where 5 are known"),
    ],
)
def test_release_that_is_built_in_another_way_is_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ohif.LayoutError, match=re.escape(said)):
        made(**changes)


@pytest.mark.parametrize("name", ["../../etc/x", "a/../../x", "/etc/x", "a b", ".hidden", "a/.hidden/x", "a//b", "ä"])
def test_name_that_is_none_for_a_served_file(name: str) -> None:
    with pytest.raises(ohif.LayoutError, match="no name for a file that is served"):
        ohif.unpacked(package(FILES | {name: "x"}))


@given(st.binary(max_size=200))
def test_what_is_no_package(content: bytes) -> None:
    with pytest.raises(ohif.LayoutError):
        ohif.adapted(ohif.unpacked(content), "/ohif/")


def test_package_that_is_cut_short() -> None:
    with pytest.raises(ohif.LayoutError, match="it cannot be unpacked"):
        ohif.unpacked(package()[:-200])
    with pytest.raises(ohif.LayoutError):
        ohif.adapted(ohif.unpacked(package(inside="package/build/")), "/ohif/")


def test_package_that_is_spoilt_inside() -> None:
    whole = package()
    with pytest.raises(ohif.LayoutError, match="it cannot be unpacked"):
        ohif.unpacked(whole[:30] + b"\xff" * 40 + whole[70:])
    with pytest.raises(ohif.LayoutError, match="is no text"):
        ohif.adapted({"index.html": b"\xff"}, "/ohif/")


def test_integrity_is_as_registries_have_it() -> None:
    # printf x | openssl dgst -sha512 -binary | base64
    assert ohif.integrity(b"x") == (
        "sha512-pKvURIxJVi2CgRXROh/M6pJ/UrTVRZKX+LQ+QtqJI4vBNibkPcs43bCCSIkn7JBPtCBXRDmD6IWFF51QVRr+Yg=="
    )


def test_viewer_at_the_root_of_a_name(tmp_path: pathlib.Path) -> None:
    """Its list lies among its files then."""
    with tarfile.open(fileobj=io.BytesIO(ohif.packed(made("/"), "/"))) as archive:
        archive.extractall(tmp_path, filter="data")
    known = ohif.sums(str(tmp_path))
    assert {"index.html", "assets/images/a.png", "plain.js.gz"} <= set(known)
    assert ohif_release.whole(str(tmp_path))
    assert ohif_release.page(str(tmp_path), "/") == (tmp_path / "index.html").read_text("utf-8")
    ohif_release.remove_release(str(tmp_path))
    assert not tmp_path.exists()


def test_scripts_are_those_that_stand_in_the_page() -> None:
    # printf 1 | openssl dgst -sha256 -binary | base64
    assert ohif.scripts('<script src="/x"></script><script>1</script><script type="module" src="y"></script>') == [
        "'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='"
    ]


class Host:
    """The module on a host, with the action's archive."""

    def __init__(self, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.archive, self._capsys = folder / "viewer", folder / "archive", capsys

    def have(self, name: str = "", url: str = "/a/ohif/", archive: bool = True, **options: Any) -> dict[str, Any]:
        if archive and name:
            self.archive.write_bytes(ohif.packed(made(url), url))
        given = {"path": str(self.path), "name": name, "url": url} | options
        return run(ohif_release, self._capsys, archive=str(self.archive) if archive and name else "", **given)

    def there(self) -> set[str]:
        return {str(path.relative_to(self.path)) for path in self.path.rglob("*") if not path.is_dir()}


@pytest.fixture
def host(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Host:
    # The lock is root's.
    monkeypatch.setattr(ohif_release, "lock", lambda _module: contextlib.nullcontext())
    return Host(tmp_path, capsys)


def test_release_is_written_once(host: Host) -> None:
    asked = host.have("1-a", archive=False)
    assert (asked["missing"], asked["changed"], asked["scripts"]) == (True, True, [])
    assert not host.path.exists()
    said = host.have("1-a")
    texts = {f"1-a/a/ohif/{name}.gz" for name in FILES if name.endswith((".js", ".css"))}
    assert host.there() == {".pacs", "1-a/sums", *(f"1-a/a/ohif/{name}" for name in FILES), *texts}
    page = (host.path / "1-a/a/ohif/index.html").read_text("utf-8")
    assert said["scripts"] == ohif.scripts(page)
    assert len(said["scripts"]) == 2
    bundle = host.path / "1-a/a/ohif/app.bundle.css"
    assert gzip.decompress(bundle.with_name("app.bundle.css.gz").read_bytes()) == bundle.read_bytes()
    assert {oct(path.stat().st_mode)[-3:] for path in host.path.rglob("*")} == {"644", "755"}
    again = host.have("1-a", archive=False)
    assert (again["missing"], again["changed"], again["scripts"]) == (False, False, said["scripts"])


@pytest.mark.parametrize("spoilt", ["a/ohif/index.html", "a/ohif/assets/images/a.png", "sums", "a/ohif/plain.js.gz"])
@pytest.mark.parametrize("how", ["gone", "empty", "other"])
def test_what_is_spoilt_comes_back(host: Host, spoilt: str, how: str) -> None:
    host.have("1-a")
    before = {name: (host.path / name).read_bytes() for name in host.there()}
    file = host.path / "1-a" / spoilt
    file.unlink() if how == "gone" else file.write_text("" if how == "empty" else "other\n", "utf-8")
    assert host.have("1-a", archive=False)["missing"] is True
    host.have("1-a")
    assert {name: (host.path / name).read_bytes() for name in host.there()} == before


@pytest.mark.parametrize("path", ["", "sums", "a", "a/ohif/assets", "a/ohif/index.html", "a/ohif/plain.js.gz"])
@pytest.mark.parametrize("mode", [0o600, 0o700, 0o777])
def test_what_nginx_cannot_read_or_others_may_change_is_set_right(host: Host, path: str, mode: int) -> None:
    """Without the package, which may be gone."""
    host.have("1-a")
    spoilt = host.path / "1-a" / path
    right = spoilt.stat().st_mode
    spoilt.chmod(mode)
    dry = host.have("1-a", archive=False, _ansible_check_mode=True)
    assert (dry["changed"], dry["missing"], oct(spoilt.stat().st_mode)[-3:]) == (True, False, oct(mode)[-3:])
    assert host.have("1-a", archive=False)["changed"] is True
    assert spoilt.stat().st_mode == right
    assert host.have("1-a", archive=False)["changed"] is False


def test_link_in_the_place_of_a_file_is_none(host: Host, tmp_path: pathlib.Path) -> None:
    host.have("1-a")
    file = host.path / "1-a/a/ohif/plain.js"
    (tmp_path / "plain.js").write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(tmp_path / "plain.js")
    assert host.have("1-a", archive=False)["missing"] is True
    host.have("1-a")
    assert not file.is_symlink()


def test_half_of_a_release_is_none(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it was cut off, the next call does the rest, and what is taken off goes to the last file."""
    real, left = os.replace, 5

    def replace(source: str, target: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            host.have("1-a")
    assert host.have("1-a", archive=False)["missing"] is True
    assert host.have("1-b", others="go")["others"] == ["1-a"]
    assert not (host.path / "1-a").exists()
    assert host.have("", others="go")["changed"] is True
    assert not host.path.exists()


def test_others_go_and_what_is_somebody_elses_stays(host: Host) -> None:
    host.have("1-a")
    (host.path / "notes").mkdir()
    (host.path / "notes/sums").write_text("total: 3\n", "utf-8")
    (host.path / "1-a/a/ohif/assets/mine.png").write_text("mine", "utf-8")
    before = host.there()
    told = host.have("1-b", others="go", _ansible_check_mode=True)
    assert (told["changed"], told["others"], host.there()) == (True, ["1-a"], before)
    assert host.have("1-b")["others"] == ["1-a"]
    assert before < host.there()
    host.have("1-b", archive=False, others="go")
    kept = {".pacs", "notes/sums", "1-a/a/ohif/assets/mine.png"}
    assert {name for name in host.there() if not name.startswith("1-b/")} == kept
    host.have("", others="go")
    assert host.there() == kept


def test_list_that_leads_elsewhere_removes_nothing_there(host: Host, tmp_path: pathlib.Path) -> None:
    (tmp_path / "image").write_text("image", "utf-8")
    host.have("1-b")
    (host.path / "1-a").mkdir()
    (host.path / "1-a/sums").write_text(f"{'0' * 64}  ../../image\n", "utf-8")
    assert host.have("1-b", archive=False, others="go")["others"] == []
    assert (tmp_path / "image").exists()


def test_file_of_others_in_the_way(host: Host) -> None:
    host.path.write_text("mine", "utf-8")
    assert "Nothing that is served has changed" in host.have("1-a")["msg"]
    assert host.path.read_text("utf-8") == "mine"


WANTED = {"version": "3.13.2", "url": "/ohif/", "integrity": ohif.integrity(package())}


def test_package_of_the_operator(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.tgz").write_bytes(package())
    assert action.made(WANTED | {"source": str(tmp_path / "app.tgz")}) == ohif.packed(made("/ohif/"), "/ohif/")
    (tmp_path / "app.tgz").write_bytes(package(FILES | {"plain.js": "2"}))
    with pytest.raises(AnsibleActionFail, match=r"ohif_integrity: the package of OHIF 3.13.2 has sha512-"):
        action.made(WANTED | {"source": str(tmp_path / "app.tgz")})
    with pytest.raises(AnsibleActionFail, match=r"ohif_archive: .* cannot be read: No such file or directory"):
        action.made(WANTED | {"source": str(tmp_path / "none.tgz")})

    def refused(*_arguments: Any, **_more: Any) -> None:
        raise OSError("refused")

    monkeypatch.setattr(action, "open_url", refused)
    with pytest.raises(AnsibleActionFail, match=r"ohif_archive: http://mirror/app.tgz cannot be fetched: refused"):
        action.made(WANTED | {"source": "http://mirror/app.tgz"})
    other = package(FILES | {"app.bundle.css": ""})
    (tmp_path / "app.tgz").write_bytes(other)
    with pytest.raises(AnsibleActionFail, match=r"ohif_version: .* built in another way .* 0 references to / in app"):
        action.made(WANTED | {"source": str(tmp_path / "app.tgz"), "integrity": ohif.integrity(other)})


def test_host_does_not_learn_where_the_package_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[dict[str, Any]]()
    made = object.__new__(action.ActionModule)
    made._task = types.SimpleNamespace(action="x", args=WANTED | {"source": "https://mirror"}, check_mode=False)
    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})

    def execute(_name: str, given: dict[str, Any], **_more: Any) -> dict[str, Any]:
        told.append(given)
        return {"missing": False}

    monkeypatch.setattr(made, "_execute_module", execute)
    made.run()
    assert told == [WANTED]


def test_npm_fetches_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched for one host, or was spoilt since, is known by its hash."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(
        AnsibleActionFail, match=r"ohif_archive: npm fetches the viewer, and this machine does not have"
    ):
        action.made(WANTED)
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    (tmp_path / "app.tgz").write_bytes(package())
    calls, file = tmp_path / "calls", tmp_path / "app.tgz"
    npm.write_text(f'#!/bin/sh\necho "$1 $2 $3" >> {calls}; exec /bin/cp {file} "$4/ohif-app-3.13.2.tgz"\n', "utf-8")
    npm.chmod(0o755)
    for _ in range(2):
        assert action.made(WANTED) == ohif.packed(made("/ohif/"), "/ohif/")
    (tmp_path / "dicom.orthanc/ohif-app-3.13.2.tgz").write_text("spoilt", "utf-8")
    assert action.made(WANTED)
    assert calls.read_text("utf-8").splitlines() == ["pack @ohif/app@3.13.2 --pack-destination"] * 2
    npm.write_text("#!/bin/sh\necho 'npm error code ETARGET' >&2; exit 1\n", "utf-8")
    with pytest.raises(AnsibleActionFail, match=r"ohif_version: npm cannot fetch OHIF 9\.9\.9: npm error code ETARGET"):
        action.made(WANTED | {"version": "9.9.9"})

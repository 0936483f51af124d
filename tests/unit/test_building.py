"""Orthanc from its sources: what is built, when it is the same, and what a tarball has to have in it."""

import hashlib
import io
import itertools
import os
import pathlib
import stat
import subprocess
import tarfile
from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import building
from ansible_collections.dicom.orthanc.plugins.module_utils import files as files_of_host
from ansible_collections.dicom.orthanc.plugins.modules import source_build, source_release

from tests.repository import load
from tests.unit.module import Module, killed, run

BUILDING = load("roles/orthanc/vars/main/building.yml")
PLUGINS = load("roles/orthanc/vars/main/plugins.yml")["__orthanc_plugins"]
DATABASES = load("roles/orthanc/vars/main/database.yml")["__orthanc_databases"]
PLATFORM = "debian-13-x86_64"
SUM = "0123456789abcdef" * 4
PAGE = '<script src="libs/jquery.min.js"></script><link href="libs/date.css">'
CORE = {
    "OrthancServer/CMakeLists.txt": "",
    "OrthancServer/OrthancExplorer/explorer.html": PAGE,
    "OrthancServer/OrthancExplorer/libs/jquery.min.js": "",
    "OrthancServer/OrthancExplorer/libs/date.css": "",
    "OrthancFramework/Resources/CMake/OrthancFrameworkParameters.cmake": 'set(ORTHANC_VERSION "1.12.7")\n',
}


def targets(release: str = "1.12.7", plugins: tuple[str, ...] = (), database: str = "sqlite") -> dict[str, list[str]]:
    return building.targets(release, plugins, DATABASES[database], PLUGINS)


def builds(tarballs: Mapping[str, Any], *plugins: str, database: str = "sqlite", **others: Any) -> list[dict[str, Any]]:
    """Name what is built, as the filter does."""
    given = {
        "table": BUILDING["__orthanc_tarballs"],
        "options": BUILDING["__orthanc_tarball_options"],
        "plugin_options": BUILDING["__orthanc_plugin_options"],
    }
    wanted = targets(plugins=plugins, database=database)
    return building.builds(building.good(tarballs), wanted, **(given | others))


def tarball(path: pathlib.Path, files: Mapping[str, str], top: str = "Orthanc-1.12.7") -> dict[str, str]:
    """Make a tarball as releases are, the same at any time, and return what the inventory says of it."""
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return {"from": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_what_a_release_has_is_built_whole() -> None:
    """Another of its plugins takes no other build of Orthanc itself."""
    assert targets()["orthanc"] == targets(plugins=("worklists",))["orthanc"]
    assert targets() == {
        "orthanc": [
            *("Orthanc", "OrthancRecoverCompressedFile", "DelayedDeletion", "Housekeeper", "MultitenantDicom"),
            *("ServeFolders", "ModalityWorklists"),
        ]
    }
    assert targets("1.10.1")["orthanc"] == [*building.PROGRAMS, "ServeFolders", "ModalityWorklists"]


def test_tarballs_of_database_and_plugins() -> None:
    found = targets(plugins=("dicomweb", "unknown", "gdcm"), database="postgresql")
    assert list(found) == ["orthanc", "orthanc-postgresql", "orthanc-dicomweb", "orthanc-gdcm"]
    assert found["orthanc-postgresql"] == ["OrthancPostgreSQLIndex", "OrthancPostgreSQLStorage"]
    assert found["orthanc-dicomweb"] == ["OrthancDicomWeb"]
    assert list(map(building.file_of, ("Orthanc", "OrthancDicomWeb"))) == ["Orthanc", "libOrthancDicomWeb.so"]


def test_options_of_the_inventory_win() -> None:
    given = {"orthanc": {"options": {"CMAKE_BUILD_TYPE": "Debug", "ALLOW_DOWNLOADS": True, "LEVEL": 3}}}
    core, plugin = builds(given, "dicomweb")
    assert core["options"]["CMAKE_BUILD_TYPE"] == "Debug"
    assert (core["options"]["ALLOW_DOWNLOADS"], core["options"]["LEVEL"]) == ("ON", "3")
    assert core["options"]["BUILD_CONNECTIVITY_CHECKS"] == "OFF"
    assert plugin["options"]["ORTHANC_FRAMEWORK_SOURCE"] == "path"
    assert "ORTHANC_FRAMEWORK_SOURCE" not in core["options"]


def test_key_is_that_of_all_that_makes_a_difference() -> None:
    one = {"from": "https://a/x.tar.gz", "sha256": SUM}
    given = {"orthanc": one, "orthanc-dicomweb": one}

    def keys(**changes: Any) -> list[str]:
        return [build["key"] for build in builds(given | changes, "dicomweb")]

    core, plugin = keys()
    assert keys(orthanc=one | {"from": "/srv/y.tar.gz", "sha256": SUM.upper(), "packages": ["x"]}) == [core, plugin]
    # Orthanc's own sources are in its plugins.
    changed = keys(orthanc=one | {"sha256": "0" * 64})
    assert (changed[0] == core, changed[1] == plugin) == (False, False)
    changed = keys(orthanc=one | {"also": [one]})
    assert (changed[0] == core, changed[1] == plugin) == (False, True)
    changed = keys(orthanc=one | {"options": {"X": "1"}})
    assert (changed[0] == core, changed[1] == plugin) == (False, True)
    changed = keys(**{"orthanc-dicomweb": one | {"folder": "Sources"}})
    assert (changed[0] == core, changed[1] == plugin) == (True, False)


@pytest.mark.parametrize("value", [7, [], {"from": 7, "sha256": []}, {"also": 7}, {"also": ["x"]}, {"options": 7}])
def test_what_the_preflight_refuses_breaks_nothing_before(value: Any) -> None:
    (build,) = builds({"orthanc": value})
    assert build["sources"] == [{"from": "", "sha256": ""}]


CMAKE = """#!/bin/sh
[ "$1" = --build ] || { echo configured; exit 0; }
mkdir -p build && cat ../given > build/Orthanc && cp build/Orthanc build/libX.so.1 && ln -s libX.so.1 build/libX.so
"""
LDD = """#!/bin/sh
echo 'libz.so.1 => /lib/x/libz.so.1 (0x01)'
cat ../../missing 2> /dev/null || true
"""
DPKG = """#!/bin/sh
for path; do [ "$path" != /usr/lib/x/libz.so.1 ] || echo 'zlib1g:amd64: /usr/lib/x/libz.so.1'; done; exit 1
"""

SYSTEMCTL = """#!/bin/sh
printf 'ActiveState=%s\\nDescription=x\\n' "$(cat "$0.state" 2> /dev/null || echo inactive)"
"""


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Folders for what is built here, and programs that stand in for those of a compiler."""
    for name in ("bin", "cache", "unit"):
        (tmp_path / name).mkdir()
    programs = {"cmake": CMAKE, "ldd": LDD, "dpkg-query": DPKG, "strip": "#!/bin/sh\n", "systemctl": SYSTEMCTL}
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text, "utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "unit"))
    monkeypatch.setattr(building, "FOLDER", str(tmp_path / "cache"))
    monkeypatch.setattr(building, "WORK", str(tmp_path / "work"))
    monkeypatch.setattr(building, "platform", lambda: PLATFORM)
    for module in (source_build, source_release):
        if hasattr(module, "platform"):
            monkeypatch.setattr(module, "platform", lambda: PLATFORM)
    monkeypatch.setattr(source_build, "available", lambda: 8 << 30)
    monkeypatch.setattr(source_build, "CACHE", str(tmp_path / "unit"))
    monkeypatch.setattr(source_build, "LOG", str(tmp_path / "cache" / "build.log"))
    monkeypatch.setattr(files_of_host, "LOCK", str(tmp_path / "lock"))
    (tmp_path / "given").write_text("#!/bin/sh\necho Orthanc 1.12.7\n", "utf-8")
    return tmp_path


def small(host: pathlib.Path) -> dict[str, Any]:
    """Return the build of something small, whose tarball is where it would be."""
    given = tarball(host / "core.tar", CORE)
    (host / "cache" / given["sha256"]).write_bytes((host / "core.tar").read_bytes())
    (build,) = building.builds({"orthanc": given}, {"orthanc": ["Orthanc", "X"]}, {}, {"A": "b c"}, {})
    return build


def build_it(build: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    text = building.script(build, PLATFORM, 2)
    return subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False)


def test_script_leaves_an_archive(host: pathlib.Path) -> None:
    build = small(host)
    done = build_it(build)
    assert done.returncode == 0, done.stderr
    name = building.stem(build, PLATFORM)
    assert os.listdir(host / "unit") == [f"{name}.tar.gz"]
    with tarfile.open(host / "unit" / f"{name}.tar.gz") as tar:
        assert sorted(tar.getnames()) == sorted(["Orthanc", "libX.so", f"{name}.packages", f"{name}.sums"])
        packages = tar.extractfile(f"{name}.packages")
        assert packages
        assert packages.read() == b"zlib1g\n"


def test_script_of_what_lacks_a_library(host: pathlib.Path) -> None:
    build = small(host)
    (host / "missing").write_text("libpq.so.5 => not found\n", "utf-8")
    done = build_it(build)
    assert done.returncode == 1
    assert "libpq.so.5 => not found" in done.stdout
    assert os.listdir(host / "unit") == []


def test_script_quotes_what_comes_from_the_inventory() -> None:
    one = {"from": "https://a/x", "sha256": SUM}
    _, plugin = builds({"orthanc-postgresql": one | {"options": {"X": "$(id)"}}}, database="postgresql")
    text = building.script(plugin, PLATFORM, 3)
    assert "'-DX=$(id)'" in text
    assert '\nexport CMAKE_INCLUDE_PATH="$(pg_config --includedir-server)"\n' in text
    assert f"-DORTHANC_FRAMEWORK_ROOT={building.WORK}/framework/OrthancFramework/Sources" in text
    assert " --parallel 3 --target OrthancPostgreSQLIndex OrthancPostgreSQLStorage\n" in text
    assert " -S source/PostgreSQL -B build " in text


# Of a build that was good.
GOOD_LOG = """-- Could NOT find Doxygen (missing: DOXYGEN_EXECUTABLE)
Doxygen not found. The documentation will not be built.
-- Looking for mg_start in civetweb - not found
[ 48%] Building CXX object CMakeFiles/X.dir/Error.cpp.o
"""


@pytest.mark.parametrize(
    "line",
    [
        "a.cpp:1:2: error: x",
        "a.cpp:1:2: fatal error: x.h: No such file or directory",
        "c++: fatal error: Killed signal terminated program cc1plus",
        "CMake Error at CMakeLists.txt:1 (find_package):",
        "/usr/bin/ld: cannot find -lpq: No such file or directory",
        "x.cpp:(.text+0x1): undefined reference to `y'",
        "tar: x: Cannot write: No space left on device",
        "/bin/sh: 6: pg_config: not found",
        # Where /var/tmp is mounted noexec.
        "/bin/sh: 1: ./protoc: Permission denied",
        "\tlibpq.so.5 => not found",
        "make: *** No rule to make target 'X'.  Stop.",
    ],
)
def test_failure_is_told_from_its_first_line(line: str) -> None:
    good = [*GOOD_LOG.splitlines(), *(f"[ {number}%] Building {number}" for number in range(50))]
    assert building.failure("\n".join([*good, line, "make: *** y"])) == f"[ 49%] Building 49\n{line}\nmake: *** y"


def test_failure_that_has_no_such_line() -> None:
    assert building.failure("\n".join(map(str, range(40)))).splitlines() == [str(number) for number in range(24, 40)]
    assert building.failure("") == ""
    assert building.failure("x\nCMake Error at y\n" + "z\n" * 50).count("\n") == 15


def test_progress() -> None:
    assert building.progress("-- Configuring\n") == "0%"
    assert building.progress("[  7%] Building x\n[ 12%] Building y\n") == "12%"


@pytest.mark.parametrize(
    "files, release, part",
    [
        ({}, "1.12.7", ""),
        ({}, "1.12.8", "this is Orthanc 1.12.7, and orthanc_version asks for 1.12.8"),
        (
            {"OrthancServer/OrthancExplorer/libs/date.css": None},
            "1.12.7",
            "lacks OrthancServer/.*/libs/date.css, without",
        ),
        (
            dict.fromkeys([name for name in CORE if "libs" in name]),
            "1.12.7",
            "lacks OrthancServer/OrthancExplorer/libs/date.css and 1 more, without which",
        ),
        ({"OrthancServer/CMakeLists.txt": None}, "1.12.7", "no OrthancServer/CMakeLists.txt in it"),
        (
            {"OrthancFramework/Resources/CMake/OrthancFrameworkParameters.cmake": None},
            "1.12.7",
            "Orthanc of an unknown release",
        ),
    ],
)
def test_look_into_the_tarball_of_orthanc(
    tmp_path: pathlib.Path, files: dict[str, Any], release: str, part: str
) -> None:
    inside = {name: text for name, text in (CORE | files).items() if text is not None}
    given = tarball(tmp_path / "x.tar", inside)
    (build,) = builds({"orthanc": given})
    if part:
        with pytest.raises(building.BuildError, match=f"^orthanc_source_tarballs.orthanc: .*{part}"):
            building.look_into(build, [given["from"]], release)
        return
    building.look_into(build, [given["from"]], release)


def test_what_a_tarball_lacks_may_be_in_another(tmp_path: pathlib.Path) -> None:
    libs = {name: text for name, text in CORE.items() if "/libs/" in name}
    rest = {name: text for name, text in CORE.items() if "/libs/" not in name}
    given, other = tarball(tmp_path / "x.tar", rest), tarball(tmp_path / "y.tar", libs, "top")
    (build,) = builds({"orthanc": given | {"also": [other]}})
    building.look_into(build, [given["from"], other["from"]], "1.12.7")


def test_look_into_what_is_no_tarball(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x").write_text("<html>Not found</html>", "utf-8")
    (build,) = builds({"orthanc": {"from": "https://a/x", "sha256": SUM}})
    with pytest.raises(building.BuildError, match="what is at https://a/x is no tarball"):
        building.look_into(build, [str(tmp_path / "x")], "1.12.7")


def prepared(host: pathlib.Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> dict[str, Any]:
    given = tarball(host / "core.tar", CORE)
    asked = {
        "builds": builds({"orthanc": given | changes.pop("source", {})}),
        "release": "1.12.7",
        "platform": PLATFORM,
        "received": {given["sha256"]: given["from"]},
    }
    return run(source_build, capsys, **(asked | changes))


def test_prepare(host: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (host / "cache" / ("1" * 64)).touch()
    said = prepared(host, capsys)
    assert said["needed"] == ["orthanc"], said
    # What an earlier build has left is gone.
    (left,) = os.listdir(host / "cache")
    assert stat.S_IMODE((host / "cache" / left).stat().st_mode) == 0o644
    assert hashlib.sha256((host / "cache" / left).read_bytes()).hexdigest() == left
    assert prepared(host, capsys, received={})["needed"] == ["orthanc"]


def test_build_that_ended_after_the_run_is_taken(host: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepared(host, capsys)["needed"] == ["orthanc"]
    (build,) = builds({"orthanc": tarball(host / "core.tar", CORE)})
    name = f"{building.stem(build, PLATFORM)}.tar.gz"
    (host / "unit").mkdir(exist_ok=True)
    (host / "unit" / name).write_text("built", "utf-8")
    assert prepared(host, capsys)["needed"] == []
    assert (host / "cache" / name).read_text("utf-8") == "built"
    assert os.listdir(host / "unit") == []


def test_prepare_refuses(
    host: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(**changes: Any) -> str:
        said = prepared(host, capsys, **changes)
        assert said["msg"].startswith("Nothing of Orthanc was changed: ")
        assert os.listdir(host / "cache") == []
        return str(said["msg"])

    assert "this host is debian-13-x86_64, and what it is to build is for debian-12-x86_64" in says(
        platform="debian-12-x86_64"
    )
    there = tarball(host / "core.tar", CORE)
    wrong = says(source={"sha256": SUM}, received={SUM: there["from"]})
    assert f"has the SHA-256 {there['sha256']}, and orthanc_source_tarballs.orthanc says {SUM}" in wrong
    monkeypatch.setattr(source_build, "available", lambda: building.JOB_MEMORY * 3 - 1)
    assert "3.0 GiB of memory are free, and to compile 3 at a time takes 3.0; see orthanc_source_jobs" in says(jobs=3)
    monkeypatch.setattr(building, "BUILD_DISK", 1 << 60)
    assert "a build takes 1073741824; make room, or name another orthanc_source_build_host" in says(jobs=2)
    # A run comes back to a build, which has its memory and room.
    (host / "bin" / "systemctl.state").write_text("active", "utf-8")
    assert prepared(host, capsys, jobs=3)["needed"] == ["orthanc"]


def test_compilers_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    for memory, jobs in ((0, 1), (2, 2), (9, 4)):
        monkeypatch.setattr(source_build, "available", lambda memory=memory: building.JOB_MEMORY * memory)
        assert source_build.processes(0) == jobs
    assert source_build.processes(7) == 7
    monkeypatch.undo()
    assert source_build.available() > 1 << 20


def module(state: str, description: str, **params: Any) -> Module:
    """Return a module on a host where the unit is in a state."""
    shown = f"ActiveState={state}\nDescription={description}\n"
    made = Module(lambda command: (0, shown if command[1] == "show" else "", ""), jobs=2, **params)
    made.get_bin_path = lambda name: f"/usr/bin/{name}"  # type: ignore[attr-defined]
    return made


def test_start(host: pathlib.Path) -> None:
    build = small(host)
    fresh = module("inactive", "pacs-build.service")
    assert source_build.start(fresh, build) == {"changed": True, "busy": False}
    command = fresh.commands[-1]
    assert command[:5] == [
        *("systemd-run", "--quiet", "--collect", "--unit=pacs-build"),
        f"--description={building.stem(build, PLATFORM)}",
    ]
    assert command[-1].count("$$") == command[-1].count("$") / 2 > 1
    assert {
        "--property=DynamicUser=yes",
        "--property=PrivateTmp=yes",
        "--property=PrivateNetwork=yes",
        "--property=Nice=19",
    } <= set(command)
    for option, value in {"ALLOW_DOWNLOADS": "ON", "STATIC_BUILD": "yes"}.items():
        source_build.start(fresh, build | {"options": {option: value}})
        assert "--property=PrivateNetwork=no" in fresh.commands[-1]
    # A run that was cut off has left it.
    same = module("active", building.stem(build, PLATFORM))
    assert source_build.start(same, build) == {"changed": False, "busy": False}
    other = module("deactivating", "orthanc-0123-debian-13-x86_64")
    assert source_build.start(other, build) == {"changed": False, "busy": True}
    assert [made.commands[1:] for made in (same, other)] == [[], []]
    with pytest.raises(building.BuildError, match="systemd does not answer"):
        source_build.start(Module(lambda _command: (0, "", "")), build)
    fresh.get_bin_path = lambda name: name if name == "make" else None  # type: ignore[attr-defined]
    with pytest.raises(building.BuildError, match=r"there is no cmake and no c\+\+ on this host"):
        source_build.start(fresh, build)


def test_wait(host: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = small(host)
    monkeypatch.setattr(source_build, "WAIT", 0)
    (host / "cache" / "build.log").write_text("[ 42%] Building x\n", "utf-8")
    assert source_build.wait(module("active", "x"), build) == {"changed": False, "running": "42%"}
    (host / "cache" / "build.log").write_text("x.cpp:7: error: y\n", "utf-8")
    with pytest.raises(
        building.BuildError, match=r"(?s)^orthanc cannot be built; all of it is in .*\nx.cpp:7: error: y"
    ):
        source_build.wait(module("inactive", ""), build)
    build_it(build)
    done = source_build.wait(module("inactive", ""), build)
    assert done["sha256"] == hashlib.sha256(pathlib.Path(done["archive"]).read_bytes()).hexdigest()
    assert os.listdir(host / "unit") == []
    # Also for a run that comes back to it.
    assert source_build.start(module("inactive", ""), build) == {"changed": False, "busy": False}
    assert source_build.wait(module("inactive", ""), build) == done


def test_link_among_what_was_built_is_not_followed(host: pathlib.Path) -> None:
    build = small(host)
    (host / "cache" / "build.log").touch()
    (host / "unit" / f"{building.stem(build, PLATFORM)}.tar.gz").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        source_build.wait(module("inactive", ""), build)


@pytest.fixture
def built(host: pathlib.Path) -> dict[str, Any]:
    """Arguments of a release that was built."""
    build = small(host)
    done = build_it(build)
    assert done.returncode == 0, done.stderr
    name = building.stem(build, PLATFORM)
    return {
        "path": str(host / "opt"),
        "name": "1.12.7-0123abcd",
        "release": "1.12.7",
        "builds": [build],
        "archives": [str(host / "unit" / f"{name}.tar.gz")],
    }


def test_release(built: dict[str, Any], host: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    looked = run(source_release, capsys, **(built | {"archives": []}))
    assert (looked["missing"], looked["changed"], looked["platform"]) == (True, True, PLATFORM)
    assert not (host / "opt").exists()
    assert run(source_release, capsys, **built, _ansible_check_mode=True)["changed"]
    assert not (host / "opt").exists()
    assert run(source_release, capsys, **built)["changed"]
    folder = host / "opt" / built["name"]
    assert os.access(folder / "Orthanc", os.X_OK)
    assert not os.access(folder / "libX.so", os.X_OK)
    looked = run(source_release, capsys, **(built | {"archives": []}))
    assert (looked["missing"], looked["changed"]) == (False, False)
    assert sorted(path.name for path in (host / "opt").iterdir()) == [".pacs", built["name"]]
    # One that was changed since is not what was built.
    (folder / "libX.so").write_text("x", "utf-8")
    assert run(source_release, capsys, **(built | {"archives": []}))["missing"]
    run(source_release, capsys, **built)
    assert not run(source_release, capsys, **(built | {"archives": []}))["missing"]


def test_old_releases_go(built: dict[str, Any], host: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(source_release, capsys, **built)
    for age, name in enumerate(("1.12.6-00000000", "1.12.6-11111111", "1.12.6-22222222")):
        (host / "opt" / name).mkdir()
        (host / "opt" / name / "orthanc-0-debian-13-x86_64.sums").touch()
        os.utime(host / "opt" / name, (age, age))
    (host / "opt" / "1.12.6-0" / "x").mkdir(parents=True)
    assert run(source_release, capsys, **(built | {"archives": []}))["removed"] == ["1.12.6-00000000"]
    again = run(source_release, capsys, **(built | {"archives": [], "keep": 1}))
    assert again["removed"] == ["1.12.6-11111111"]


@pytest.mark.parametrize(
    "change, part",
    [
        ({"release": "1.12.6"}, "does not run on this host, or is another release: Orthanc 1.12.7."),
        ({"builds": "more"}, "lacks libY.so; build it again."),
    ],
)
def test_all_or_nothing(
    built: dict[str, Any], host: pathlib.Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], part: str
) -> None:
    if change.get("builds"):
        change = {"builds": [built["builds"][0] | {"targets": ["Orthanc", "X", "Y"]}]}
    said = run(source_release, capsys, **(built | change))
    assert said["msg"].startswith(
        f"Orthanc {built['release'] if 'builds' in change else '1.12.6'} is not in place, and"
    )
    assert said["msg"].endswith(part)
    assert os.listdir(host / "opt") == []


@pytest.mark.parametrize("file", ["opt", "opt/1.12.7-0123abcd"])
def test_folder_below_a_file(
    built: dict[str, Any], host: pathlib.Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    """It is told before half an hour is spent on a build."""
    (host / file).parent.mkdir(exist_ok=True)
    (host / file).write_text("mine", "utf-8")
    said = run(source_release, capsys, **(built | {"archives": []}))
    assert f"{host / file} is no folder" in said["msg"]
    assert "orthanc_source_dir" in said["msg"]


def test_call_that_was_killed_leaves_nothing(
    built: dict[str, Any], host: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in itertools.count(1):
        given = built | {"path": str(host / f"opt{step}")}
        if not killed(lambda given=given: run(source_release, capsys, **given), step):  # type: ignore[misc]
            break
        assert "msg" not in run(source_release, capsys, **given)
        assert sorted(os.listdir(given["path"])) == [".pacs", built["name"]], step
        assert not run(source_release, capsys, **(given | {"archives": []}))["missing"]
    assert step > 5

"""What the preflight says of an inventory that has Orthanc built from its sources."""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils import building
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import product, source

from tests.unit.good_host import POSTGRESQL, PROBE, SOURCE, SUM, host, one_problem, problems

ONE = {"from": "https://mirror/orthanc.tar.gz", "sha256": SUM}
HERE = "orthanc_source_tarballs.orthanc"


def given(**changes: Any) -> dict[str, Any]:
    """Return variables in which something of Orthanc's own tarball is another."""
    return {"orthanc_source_tarballs": SOURCE["orthanc_source_tarballs"] | {"orthanc": ONE | changes}}


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """What was built for this machine's user does not count."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dicom.orthanc"


@pytest.mark.parametrize(
    "changes, variable, part",
    [
        ({"orthanc_version": ""}, "orthanc_version", "needs a release, such as '1.12.7'"),
        ({"orthanc_version": "latest"}, "orthanc_version", "is no release"),
        (
            {"orthanc_source_tarballs": {}},
            "orthanc_source_tarballs",
            "no tarball of orthanc and none of orthanc-dicomweb; na",
        ),
        (
            {"orthanc_source_tarballs": {"orthanc": ONE}},
            "orthanc_source_tarballs",
            "no tarball of orthanc-dicomweb; name it, as in {orthanc-dicomweb: {from",
        ),
        (
            {"orthanc_source_tarballs": SOURCE["orthanc_source_tarballs"] | {"orthanc-postgres": ONE}},
            "orthanc_source_tarballs",
            "nothing named 'orthanc-postgres' to build. Did you mean 'orthanc-postgresql'?",
        ),
        (
            {"orthanc_source_tarballs": SOURCE["orthanc_source_tarballs"] | {"orthanc": "x"}},
            HERE,
            "has to be a dictionary with from and sha256",
        ),
        (given(sha256="x"), f"{HERE}.sha256", "no SHA-256 of 64 hexadecimal digits"),
        (given(sha265=SUM), HERE, "no field 'sha265' in it. Did you mean 'sha256'?"),
        (given(**{"from": "mirror/x"}), f"{HERE}.from", "neither an address (https://, http://) nor an absolute path"),
        (given(**{"from": "ftp://mirror/x"}), f"{HERE}.from", "neither an address"),
        (given(**{"from": "/nowhere/x"}), f"{HERE}.from", "no file /nowhere/x on the machine that runs the playbook"),
        (given(**{"from": "/"}), f"{HERE}.from", "no file / on the machine"),
        (given(**{"from": "/etc/hostname"}), f"{HERE}.sha256", "/etc/hostname has "),
        (given(**{"from": 7}), f"{HERE}.from", "has to be a text"),
        (given(also=ONE), f"{HERE}.also", "has to be a list"),
        (given(also=["x"]), HERE, "has to be a dictionary with from and sha256"),
        (given(also=[ONE, ONE | {"sha256": ""}]), f"{HERE}.also[1].sha256", "no SHA-256"),
        (given(also=[ONE | {"folder": "x"}]), HERE, "no field 'folder' in it."),
        (given(folder="/etc"), f"{HERE}.folder", "'/etc' is no folder in a tarball, such as PostgreSQL"),
        (given(folder="x/../../y"), f"{HERE}.folder", "is no folder in a tarball"),
        (given(packages=["g++", "x y"]), f"{HERE}.packages", "'x y' is no name of a package"),
        (given(packages=[7]), f"{HERE}.packages", "'7' is no name of a package"),
        (given(options={"A B": 1}), f"{HERE}.options.A B", "an option of CMake is a name, and a text, a number or"),
        (given(options={"A": ["x"]}), f"{HERE}.options.A", "an option of CMake is"),
        (given(options={"A": "x\ny"}), f"{HERE}.options.A", "an option of CMake is"),
        (
            {"orthanc_plugins": ["connectivity-checks"]},
            "orthanc_plugins",
            "'connectivity-checks' is not to be had with orthanc_install_method source: its pages have",
        ),
        ({"orthanc_source_dir": "/opt/orthanc/"}, "orthanc_source_dir", "write '/opt/orthanc/' as /opt/orthanc"),
        (
            {"orthanc_source_dir": "/etc/pacs/orthanc"},
            "orthanc_source_dir",
            "is /etc/pacs/orthanc (orthanc_config_dir)",
        ),
        ({"orthanc_source_keep": 0}, "orthanc_source_keep", "from 1 to 100"),
        ({"orthanc_source_jobs": 257, "memory": 1 << 40}, "orthanc_source_jobs", "from 0 to 256"),
        (
            {"memory": 1 << 29},
            "orthanc_source_jobs",
            "has 0.5 GiB of memory, and to compile 1 at a time takes 1.0; choose fewer, or name an orthanc_source_b",
        ),
        (
            {"memory": 2 << 30, "orthanc_source_jobs": 3},
            "orthanc_source_jobs",
            "2.0 GiB of memory, and to compile 3 at a time takes 3.0",
        ),
        (
            {"free_build": 1 << 30},
            "orthanc_source_build_host",
            "1.0 GiB are free in /var/tmp of this host, and a build",
        ),
    ],
)
def test_problems(changes: dict[str, Any], variable: str, part: str) -> None:
    one_problem(SOURCE | changes, variable, part)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        POSTGRESQL | {"database": ""},
        given(
            sha256=SUM.upper(), also=[ONE], folder="OrthancServer", packages=["libx-dev"], options={"A": 1, "B": True}
        ),
        {"orthanc_source_jobs": 256, "memory": 1 << 39, "free_build": building.BUILD_DISK},
        # What is there is not built, and what another host builds does not take this one's memory.
        {"memory": 1 << 29, "binary": {"version": "1.12.8", "options": {}}},
        {"memory": 1 << 29, "orthanc_source_build_host": "builder"},
    ],
)
def test_good(changes: dict[str, Any]) -> None:
    assert problems(**SOURCE | changes) == []


def test_file_of_this_machine(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "x.tar.gz"
    file.write_bytes(b"x")
    sha256 = hashlib.sha256(b"x").hexdigest()
    assert problems(**SOURCE | given(**{"from": str(file), "sha256": sha256.upper()})) == []
    file.write_bytes(b"changed since")
    one_problem(SOURCE | given(**{"from": str(file), "sha256": sha256}), f"{HERE}.sha256", f"{file} has ")


def test_what_was_built_takes_no_room(cache: pathlib.Path) -> None:
    """It is carried there."""
    poor = PROBE | {"memory": 1 << 29}
    asked = host(("orthanc",), SOURCE, poor)
    builds = [{"name": "orthanc", "key": "0123"}, {"name": "orthanc-dicomweb", "key": "4567"}]
    asked.internal = lambda _role, name: builds if name == "__orthanc_builds" else None

    def said() -> list[str]:
        return list(source.problems(product.Orthanc(asked)))

    assert len(said()) == 1
    cache.mkdir()
    (cache / "orthanc-0123-debian-13-x86_64.tar.gz").touch()
    assert len(said()) == 1
    (cache / "orthanc-dicomweb-4567-debian-13-x86_64.tar.gz").touch()
    assert said() == []

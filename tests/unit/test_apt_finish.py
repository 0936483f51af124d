"""What is done with what apt had begun when a run was cut off, and what is left alone."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.probe import packages
from ansible_collections.dicom.orthanc.plugins.modules import apt_finish

from tests.unit.module import Systemd, run

OTHERS = "#!/bin/sh\nexit 101\n"


class Place:
    """A host whose run was cut off long ago, and a dpkg that tells what it is called with."""

    def __init__(self, folder: pathlib.Path, call: Callable[..., dict[str, Any]]) -> None:
        self.folder, self.finish = folder, call
        self.programs: Systemd
        self.policy, self.frontend = folder / "policy-rc.d", folder / "lock-frontend"

    def write(self, text: str, age: float = 60) -> None:
        self.policy.write_text(text, "utf-8")
        self.policy.chmod(0o755)
        os.utime(self.policy, (time.time() - age,) * 2)

    def aside(self, text: str, name: str = "ansible1234", mode: int = 0o700) -> pathlib.Path:
        """Have a file that Ansible's apt put aside."""
        (self.folder / name).mkdir(mode=mode)
        (self.folder / name / "policy-rc.d").write_text(text, "utf-8")
        (self.folder / name / "policy-rc.d").chmod(0o750)
        return self.folder / name / "policy-rc.d"


@pytest.fixture
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    made = Place(tmp_path, lambda **more: run(apt_finish, capsys, **more))
    for module in (packages, apt_finish):
        monkeypatch.setattr(module, "POLICY", str(made.policy))
    monkeypatch.setattr(apt_finish, "FRONTEND", str(made.frontend))
    monkeypatch.setattr(apt_finish, "PATIENCE", 0.3)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    programs = made.programs = Systemd(tmp_path / "bin", monkeypatch)
    programs.program("dpkg", 'echo "$* $DEBIAN_FRONTEND $DPKG_FRONTEND_LOCKED"; sh -e "$(dirname "$0")/works"')
    programs.program("dpkg-query", f"cat {tmp_path}/states")
    (tmp_path / "states").write_text("ii  orthanc\nrc  orthanc-gdcm\n", "utf-8")
    monkeypatch.setenv("PATH", f"{programs.folder}:/usr/bin:/bin")
    return made


def test_what_a_run_has_left_is_finished(place: Place) -> None:
    place.write(packages.OURS)
    (place.folder / "bin" / "works").write_text('case "$PATH" in *:/usr/sbin:/sbin) ;; *) exit 1 ;; esac', "utf-8")
    assert place.finish(_ansible_check_mode=True)["changed"]
    assert place.policy.exists()
    said = place.finish()
    assert said["changed"]
    assert "warnings" not in said
    assert said["said"] == "--force-confdef --force-confold --configure --pending noninteractive 1\n"
    assert not place.policy.exists()
    assert not place.finish()["changed"]
    assert not place.finish(_ansible_check_mode=True)["changed"]


def test_what_dpkg_cannot_do_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, warning: told.append(warning))
    place.write(packages.OURS)
    (place.folder / "bin" / "works").write_text("echo why >&2; exit 1", "utf-8")
    assert place.finish()["changed"]
    assert told == ["Not all that a run which was cut off has left could be finished: why"]
    assert not place.policy.exists()


def test_what_was_half_unpacked_is_installed_again(place: Place) -> None:
    place.write(packages.OURS)
    place.programs.program("apt-get", 'echo "$*"')
    (place.folder / "states").write_text("iHR orthanc-gdcm\nii  orthanc\niFR libgdcm3.0t64:amd64\n", "utf-8")
    # dpkg cannot do all of it before.
    (place.folder / "bin" / "works").write_text("exit 1", "utf-8")
    done = place.finish()
    assert "warnings" not in done
    said = done["said"].splitlines()[1]
    assert said.startswith("--option=Dpkg::Options::=--force-confdef ")
    assert said.endswith(" --reinstall install orthanc-gdcm libgdcm3.0t64:amd64")


def test_file_of_others_stays(place: Place) -> None:
    place.write(OTHERS)
    assert not place.finish()["changed"]
    assert place.policy.read_text("utf-8") == OTHERS


def test_file_of_others_comes_back(place: Place) -> None:
    """Where a run was cut off twice, the second one has put the file of the first one aside too."""
    place.write(packages.OURS)
    for name, text in {"ansible1": "older", "ansible2": OTHERS, "ansible3": packages.OURS}.items():
        place.aside(text, name)
        time.sleep(0.02)
    assert place.finish()["changed"]
    assert (place.policy.read_text("utf-8"), place.policy.stat().st_mode & 0o777) == (OTHERS, 0o750)
    assert not list(place.folder.glob("ansible*"))


def test_folder_that_anybody_could_have_made_is_not_trusted(place: Place) -> None:
    place.write(packages.OURS)
    evil = place.aside("#!/bin/sh\nrm /\n", mode=0o755)
    (place.folder / "ansible2").symlink_to(place.aside("#!/bin/sh\nrm /\n", name="elsewhere").parent)
    place.finish()
    assert not place.policy.exists()
    assert evil.exists()


def test_run_that_is_at_work_is_left_alone(place: Place) -> None:
    """It has written its file just now, or has the lock, or waits for it."""
    place.write(packages.OURS, age=0)
    assert not place.finish()["changed"]
    place.write(packages.OURS)
    place.frontend.touch()
    take = f"import fcntl; file = open({str(place.frontend)!r}, 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); "
    waits = "import pathlib; pathlib.Path('/proc/self/comm').write_text('apt-get'); "
    for does in (take, waits):
        script = f"{does}print(flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as apt:
            assert apt.stdout
            apt.stdout.readline()
            assert not place.finish()["changed"]
            apt.communicate(b"\n")
        assert place.policy.exists()
    assert place.finish()["changed"]


def test_clock_that_went_back_is_no_run_at_work(place: Place) -> None:
    place.write(packages.OURS, age=-7200)
    assert place.finish()["changed"]

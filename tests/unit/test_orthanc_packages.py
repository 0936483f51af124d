"""Packages of before: how they are kept, and how they come back where Orthanc does not work with others."""

from __future__ import annotations

import json
import os
import pathlib
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils import orthanc_packages
from ansible_collections.dicom.orthanc.plugins.module_utils.files import Refused, put
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_packages import Packages, starting_nothing
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_upgrade import Unread
from ansible_collections.dicom.orthanc.plugins.module_utils.probe import packages as probe
from ansible_collections.dicom.orthanc.plugins.modules import apt_keep, orthanc_service

from tests.unit import test_orthanc_service_runs as runs
from tests.unit import test_orthanc_upgrade as upgrades
from tests.unit.module import Module, Systemd, killed, run

call, port, site, systemd, told = runs.call, runs.port, upgrades.site, runs.systemd, runs.told
NAMES = ["orthanc*"]
# A package is a file with its name and its version in it.
DPKG_DEB = """
for last; do true; done
[ "$1" = --show ] || ! grep -q cut "$last" || { echo "E: unexpected end of file" >&2; exit 2; }
printf %s "$(head -n 1 "$last")"
"""
APT = """
here=$(dirname "$0")
echo "$*" > "$here/asked"
[ ! -e "$here/away" ] || { echo "W: never mind" >&2; echo "E: away" >&2; exit 100; }
for word; do case $word in
--download-only) exit 0 ;;
download) what=download ;;
install) what=install ;;
dpkg-repack) cp "$here/repack" "$here/dpkg-repack"; echo repack >> "$here/apt" ;;
*.deb) [ ! -e "$here/full" ] || { echo "E: full" >&2; exit 100; }
    read -r name version < "$word"
    grep -v " $name " "$here/states" > "$here/new"; echo "ii  $name $version" >> "$here/new"
    mv "$here/new" "$here/states"
    echo "$word $(cat "$here/policy-rc.d" | tail -n 1)" >> "$here/apt"
    touch "$here/Orthanc" ;;
*=*) [ "$what" = download ] || continue
    grep -qx "${word%%=*} ${word##*=}" "$here/offers" || { echo "E: not found" >&2; exit 100; }
    echo "${word%%=*} ${word##*=}" > "${word%%=*}_${word##*=}.deb"; echo "$word" >> "$here/apt" ;;
esac; done
"""
REPACK = 'here=$(dirname "$0"); sed -n "s/^ii  $1 /$1 /p" "$here/states" > "$1_made.deb"'


class Host:
    """A host with dpkg and apt: what is installed stands in ``states``, and what is on offer in ``offers``."""

    def __init__(self, folder: pathlib.Path, programs: Systemd) -> None:
        self.folder, self.bin, self.state = folder, programs.folder, folder / "state"
        self.archives = folder / "archives"
        self.archives.mkdir()
        self.kept = self.state / "packages"
        self.policy, self.program = self.bin / "policy-rc.d", self.bin / "Orthanc"
        self.info = folder / "info"
        self.info.mkdir()
        for path in (self.program, self.info / "orthanc.list", self.info / "orthanc-webviewer:amd64.list"):
            path.touch()
        self.have("ii  orthanc 1", "rc  orthanc-gdcm 1", "ii  orthanc-webviewer 1")
        self.offer()

    def have(self, *lines: str) -> None:
        (self.bin / "states").write_text("".join(f"{line}\n" for line in lines), "utf-8")

    def offer(self, *lines: str) -> None:
        (self.bin / "offers").write_text("".join(f"{line}\n" for line in lines), "utf-8")

    def upgrade(self, version: int) -> None:
        """Do what apt does."""
        # The times of files are those of the kernel's last tick.
        time.sleep(0.05)
        self.have(f"ii  orthanc {version}", "ii  orthanc-webviewer 1")
        self.program.touch()
        (self.info / "orthanc.list").touch()

    def files(self) -> list[str]:
        return sorted(path.read_text("utf-8").strip() for path in self.kept.glob("*.deb"))

    def asked(self) -> list[str]:
        """Return the words that apt was called with last."""
        return (self.bin / "asked").read_text("utf-8").split()

    def apt(self) -> list[str]:
        """Return what apt has done since this was asked last."""
        file = self.bin / "apt"
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def host(tmp_path: pathlib.Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> Host:
    for name, script in (
        ("dpkg-query", 'cat "$(dirname "$0")/states"'),
        ("dpkg-deb", DPKG_DEB),
        ("apt-get", APT),
        ("repack", REPACK),
    ):
        systemd.program(name, script)
    monkeypatch.setenv("PATH", f"{systemd.folder}:{os.environ['PATH']}")
    made = Host(tmp_path, systemd)
    monkeypatch.setattr(orthanc_packages, "ARCHIVES", str(made.archives))
    monkeypatch.setattr(orthanc_packages, "SOURCE", str(tmp_path / "orthanc.sources"))
    monkeypatch.setattr(orthanc_packages, "INFO", str(made.info))
    monkeypatch.setattr(probe, "POLICY", str(made.policy))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return made


@pytest.fixture
def keep(host: Host, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    given = {
        "packages": NAMES,
        "state_dir": str(host.state),
        "config_dir": str(host.folder / "orthanc"),
    }
    return lambda **more: run(apt_keep, capsys, **given, **more)


Keep = Callable[..., dict[str, Any]]


def test_packages_are_kept_for_root_alone(host: Host, keep: Keep) -> None:
    """As apt has kept it, as it is on offer still, or made of what is there."""
    (host.archives / "orthanc_1_amd64.deb").write_text("orthanc 1\n", "utf-8")
    (host.archives / "orthanc_2_amd64.deb").write_text("orthanc 2\n", "utf-8")
    assert keep(_ansible_check_mode=True)["changed"]
    assert not host.state.exists()
    done = keep()
    assert "failed" not in done, done
    assert (done["changed"], done["kept"]) == (True, ["orthanc 1", "orthanc-webviewer 1"])
    assert host.files() == ["orthanc 1", "orthanc-webviewer 1"]
    assert host.apt() == ["repack"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in host.kept.glob("*.deb")} == {0o600}
    folders = (host.state, host.kept, host.kept / "new")
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert not host.policy.exists()
    assert (keep()["changed"], host.apt()) == (False, [])
    # One set of them.
    host.offer("orthanc 3")
    host.upgrade(3)
    assert keep()["kept"] == ["orthanc 3"]
    assert (host.files(), host.apt()) == (["orthanc 3", "orthanc-webviewer 1"], ["orthanc=3"])


def test_package_that_is_not_to_be_had(host: Host, keep: Keep) -> None:
    (host.bin / "away").touch()
    done = keep()
    assert done["failed"]
    assert "E: away" in done["msg"]
    assert "never mind" not in done["msg"]
    assert 'set orthanc_dump_dir to ""' in done["msg"]
    (host.bin / "away").unlink()
    # Half of one, of a call that was cut off.
    (host.kept / "new" / "half.deb").write_text("orthanc 1\n", "utf-8")
    assert keep()["kept"] == ["orthanc 1", "orthanc-webviewer 1"]
    assert os.listdir(host.kept / "new") == [".pacs"]


def test_package_that_a_loss_of_power_cut_short_is_not_taken(host: Host, keep: Keep) -> None:
    """Its head still says which one it is."""
    (host.archives / "orthanc_1_amd64.deb").write_text("orthanc 1\ncut", "utf-8")
    assert keep()["kept"] == ["orthanc 1", "orthanc-webviewer 1"]
    assert host.files() == ["orthanc 1", "orthanc-webviewer 1"]


def test_what_a_dpkg_repack_that_was_killed_has_left_goes(host: Host, keep: Keep) -> None:
    """It has copies of what is in /etc."""
    secret = host.kept / "new" / "dpkg-repack.orthanc.x" / "etc" / "secret"
    secret.parent.mkdir(parents=True)
    secret.touch()
    (secret.parent / "link").symlink_to(host.info)
    there = os.listdir(host.info)
    keep()
    assert os.listdir(host.kept / "new") == [".pacs"]
    assert os.listdir(host.info) == there


@pytest.fixture
def orthanc(host: Host, site: upgrades.Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """An Orthanc from packages, of which the second raises the schema of its index and ends."""
    site.systemd.write(
        "works",
        f"if grep -q 'orthanc 2' {host.bin}/states; then cp {site.folder}/raised {site.index}; [ ! -e {host.bin}/bad ];"
        f" else ! grep -q bad {site.folder}/orthanc/orthanc.json; fi",
    )
    (host.bin / "bad").touch()
    given = {"packages": NAMES, "programs": [str(host.program)]}
    return lambda **more: site.call(1, **given | more)


def test_release_that_does_not_work_goes_back_with_its_packages(
    host: Host, site: upgrades.Site, orthanc: Keep, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    assert "failed" not in orthanc()
    keep()
    host.upgrade(2)
    host.apt()
    source = host.folder / "orthanc.sources"
    source.touch()
    os.utime(source, (1, 1))
    site.systemd.calls()
    done = orthanc()
    assert "The configuration that worked last is back, and Orthanc serves with it." in done["msg"]
    assert [line.rpartition("/")[2] for line in host.apt()] == ["orthanc_made.deb exit 13413"]
    assert site.index.read_bytes() == site.before
    assert warnings[-1].startswith("Packages are those of before: orthanc 1.")
    assert {"--allow-change-held-packages", "--no-remove", "--no-install-recommends"} <= set(host.asked())
    assert not host.policy.exists()
    assert not site.kept()
    assert source.stat().st_mtime > 1, "the next run takes what is on offer again"
    again = orthanc()
    assert ("failed" in again, again["changed"]) == (False, False)
    # Called off, and tried again.
    host.upgrade(2)
    assert "Orthanc serves with it." in orthanc()["msg"]
    (host.bin / "bad").unlink()
    host.upgrade(2)
    assert orthanc()["changed"]
    assert host.files() == ["orthanc 1", "orthanc-webviewer 1"]


def test_packages_are_gone(host: Host, site: upgrades.Site, orthanc: Keep, keep: Keep) -> None:
    """Nothing is stopped for those that cannot come back."""
    orthanc()
    keep()
    for path in host.kept.glob("*.deb"):
        path.unlink()
    host.upgrade(2)
    host.apt()
    done = orthanc()
    assert "does not work any more either: There is no file of the package orthanc in version 1" in done["msg"]
    assert host.apt() == []


@pytest.mark.parametrize("what", ["away", "full", "policy"])
def test_packages_that_apt_does_not_take(
    host: Host, site: upgrades.Site, orthanc: Keep, keep: Keep, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What did not work is not open to all on the index of before, and the next run has both back."""
    orthanc()
    keep()
    host.upgrade(2)

    def full(path: str, *words: Any) -> None:
        if what == "policy" and path == str(host.policy):
            raise OSError(28, "no space left", path)
        put(path, *words)

    with monkeypatch.context() as patched:
        patched.setattr(f"{orthanc_packages.__name__}.put", full)
        (host.bin / what).touch()
        done = orthanc()
    assert "The next run tries it again; until then Orthanc stays stopped." in done["msg"]
    assert {"away": "E: away", "full": "E: full", "policy": "no space left"}[what] in done["msg"]
    assert (site.index.read_bytes(), site.is_closed(), site.kept()) == (site.before, True, True)
    assert not {"active", "enabled"} & set(os.listdir(host.bin))
    (host.bin / what).unlink(missing_ok=True)
    assert "Orthanc serves with it." in orthanc()["msg"]
    assert "orthanc 1" in (host.bin / "states").read_text("utf-8")
    assert (site.index.read_bytes(), site.is_closed(), site.kept()) == (site.before, False, False)
    assert {"active", "enabled"} <= set(os.listdir(host.bin))


@pytest.mark.parametrize("what, told", [("away", ["start"]), ("full", ["stop", "start"])])
def test_packages_that_apt_does_not_take_without_a_dump(
    host: Host, site: upgrades.Site, orthanc: Keep, keep: Keep, what: str, told: list[str]
) -> None:
    """The index is as the release has it, so that this serves as far as it can. Where apt tells, it is not stopped."""
    orthanc()
    keep()
    host.upgrade(2)
    (host.bin / what).touch()
    site.systemd.calls()
    done = orthanc(dump_dir="")
    assert f"does not work any more either: install {host.kept}" in done["msg"]
    calls = [call.split()[0] for call in site.systemd.calls()]
    assert calls[calls.index("restart") + 1 :] == ["daemon-reload", *told]
    assert (host.bin / "watch").exists() == (what == "full"), "should it be killed, Orthanc is started again"
    assert (host.bin / "enabled").exists()


def test_setting_goes_back_before_packages_that_others_have_upgraded(
    host: Host, site: upgrades.Site, orthanc: Keep, keep: Keep
) -> None:
    orthanc()
    keep()
    (host.bin / "bad").unlink()
    host.upgrade(2)
    host.apt()
    subprocess.run(["systemctl", "restart", "orthanc.service"], check=True)
    site.systemd.write("works", f"! grep -q Alias {site.folder}/units/orthanc.service")
    done = orthanc(install="Alias=pacs.service")
    assert "Since it worked last, orthanc 1 has become orthanc 2." in done["msg"]
    assert "Orthanc serves with it." in done["msg"]
    assert host.apt() == []
    # By then that is what worked last.
    assert keep()["kept"] == ["orthanc 2"]
    assert host.files() == ["orthanc 2", "orthanc-webviewer 1"]


def test_packages_that_others_have_upgraded_go_back(host: Host, site: upgrades.Site, orthanc: Keep, keep: Keep) -> None:
    """Those that worked last are kept until others do."""
    orthanc()
    keep()
    host.upgrade(2)
    subprocess.run(["systemctl", "restart", "orthanc.service"], check=False)
    assert keep()["changed"] is False
    done = orthanc()
    assert "Since it worked last, orthanc 1 has become orthanc 2." in done["msg"]
    assert "Orthanc serves with it." in done["msg"]
    assert "orthanc 1" in (host.bin / "states").read_text("utf-8")
    assert site.index.read_bytes() == site.raised, "it was not dumped before"


def test_packages_that_run_are_those_that_are_kept(host: Host, orthanc: Keep, keep: Keep) -> None:
    (host.bin / "bad").unlink()
    orthanc()
    keep()
    host.upgrade(2)
    subprocess.run(["systemctl", "restart", "orthanc.service"], check=True)
    assert keep()["kept"] == ["orthanc 2"]
    last = json.loads((host.state / "last.json").read_text("utf-8"))
    assert last[str(host.kept / "installed")][0] == "orthanc 2\northanc-webviewer 1\n"


def test_plugin_that_was_never_started_is_not_what_is_kept(host: Host, orthanc: Keep, keep: Keep) -> None:
    """Debian's plugins restart nothing when they are upgraded, and what answers is the process of before."""
    (host.bin / "bad").unlink()
    orthanc()
    keep()
    kept, last = host.files(), (host.state / "last.json").read_text("utf-8")
    time.sleep(0.05)
    host.have("ii  orthanc 1", "ii  orthanc-webviewer 2")
    (host.info / "orthanc-webviewer:amd64.list").touch()
    assert keep()["kept"] == []
    assert (host.files(), (host.state / "last.json").read_text("utf-8")) == (kept, last)
    subprocess.run(["systemctl", "restart", "orthanc.service"], check=True)
    before = os.stat(host.state / "last.json").st_mtime_ns
    assert keep()["kept"] == ["orthanc-webviewer 2"]
    assert os.stat(host.state / "last.json").st_mtime_ns == before, "nothing was proved by that"


def test_packages_of_before_that_are_not_to_be_had_leave_those_that_are_there(
    host: Host, orthanc: Keep, keep: Keep
) -> None:
    """Somebody has stopped Orthanc, which says nothing against what is installed."""
    (host.bin / "bad").unlink()
    orthanc()
    host.upgrade(2)
    subprocess.run(["systemctl", "stop", "orthanc.service"], check=True)
    assert keep()["kept"] == ["orthanc 2", "orthanc-webviewer 1"]
    assert host.files() == ["orthanc 2", "orthanc-webviewer 1"]
    last = json.loads((host.state / "last.json").read_text("utf-8"))
    assert last[str(host.kept / "installed")][0] == "orthanc 2\northanc-webviewer 1\n"


@pytest.mark.parametrize("step", range(2, 80, 6))
def test_way_back_that_is_killed_is_finished_by_the_next_one(
    host: Host, site: upgrades.Site, orthanc: Keep, keep: Keep, step: int
) -> None:
    orthanc()
    keep()
    host.upgrade(2)
    if not killed(orthanc, step):
        return
    # As apt_finish does it first.
    if probe.left():
        probe.go_back()
    done = orthanc()
    assert "failed" not in done or "Orthanc serves with it" in done["msg"]
    assert "orthanc 1" in (host.bin / "states").read_text("utf-8")
    assert not site.is_closed()
    assert not host.policy.exists()


def test_dpkg_that_was_killed_alone_is_left_to_the_next_run(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """By that file apt_finish knows of it; without, the next run refuses the host."""
    monkeypatch.setattr(probe, "interrupted", lambda: True)
    with pytest.raises(Refused), starting_nothing():
        raise Refused("dpkg was killed")
    assert probe.left()


def test_file_of_others_comes_back(host: Host) -> None:
    host.policy.write_text("#!/bin/sh\nexit 101\n", "utf-8")
    with starting_nothing():
        assert host.policy.read_text("utf-8") == probe.OURS
    assert host.policy.read_text("utf-8") == "#!/bin/sh\nexit 101\n"
    assert not list(host.folder.glob("ansible*"))


def replaced_by_another(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """Have apt put another release in the place of the one that runs, which does not read the index if that is why."""

    def readable(*_words: Any) -> None:
        if "read" in why:
            raise Unread(f"{why}.")

    monkeypatch.setattr(orthanc_service, "replaced", lambda _process: True)
    monkeypatch.setattr(orthanc_service, "readable", readable)


@pytest.mark.parametrize("why", ["cannot keep others off until the proof", "It does not read the index"])
def test_index_that_cannot_be_dumped_or_read_leaves_the_packages_of_before(
    host: Host, site: upgrades.Site, orthanc: Keep, keep: Keep, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    replaced_by_another(monkeypatch, why)
    orthanc()
    keep()
    host.upgrade(2)
    (site.systemd.folder / "filtered").touch()
    site.systemd.calls()
    done = orthanc()
    assert why in done["msg"]
    assert "orthanc 1" in (host.bin / "states").read_text("utf-8")
    assert site.systemd.calls() == []


@pytest.mark.parametrize(
    "why, told",
    [
        ("cannot keep others off until the proof", "The index is not dumped before another release runs: "),
        ("It does not read the index", "Another release is started all the same, since the one of before cannot be: "),
    ],
)
def test_index_that_cannot_be_dumped_or_read_where_no_packages_are_kept(
    host: Host, site: upgrades.Site, orthanc: Keep, monkeypatch: pytest.MonkeyPatch, why: str, told: str
) -> None:
    replaced_by_another(monkeypatch, why)
    orthanc()
    host.upgrade(2)
    (site.systemd.folder / "filtered").touch()
    (host.bin / "bad").unlink()
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    orthanc()
    assert [one for one in warnings if why in one and one.startswith(told)], warnings


def test_of_nothing_but_packages(host: Host) -> None:
    packages = Packages(Module(), str(host.state), [])
    packages.note()
    assert (packages.path, packages.noted(), packages.differ()) == ("", "", False)
    assert not host.state.exists()
    with pytest.raises(Refused, match="no file of the package orthanc in version 7"):
        Packages(Module(), str(host.state), NAMES).have("orthanc 7\n")

"""A site from one source after the other: Debian's packages, LSB binaries of two releases, the makers' packages.

It is given wrong ones too, and keeps its image through all of it.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests
import yaml

from tests.hosts.conftest import Lab
from tests.hosts.cuts import KILLABLE, Host, Point
from tests.hosts.test_database import image

LAB = {"name": "lsb-switch", "pacs": {"release": "lsb", "vars": KILLABLE}, "mirror": "lsb-mirror"}
OLD, NEW = "1.10.1", "1.12.7"
# What of a site a failed run must leave as it was.
STATE = r"""
exec 2> /dev/null
find /opt/orthanc | sort; readlink /opt/orthanc/current; cat /opt/orthanc/current/* | sha256sum
cat /etc/pacs/orthanc/* /etc/systemd/system/orthanc.service | sha256sum
systemctl show orthanc --property InvocationID,ActiveState,NeedDaemonReload
"""
MIRROR = "/srv/mirror/lsb"
# Where a switch is killed, by the release that it goes to; `make test-cut-inside` has all steps.
KILLED = (
    (NEW, Point("lsb_release.1", "rename", 2)),
    (OLD, Point("orthanc_service.1", "rename", 1)),
    (NEW, Point("orthanc_service.1", "fsync", 2)),
)


class Site:
    """The site on the host ``pacs``, with the image that was uploaded first of all."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.file = lab.folder / "group_vars" / "all" / "lsb-lock.yml"
        self.file.unlink(missing_ok=True)
        self.killable = Host(lab)

    @property
    def instance(self) -> str:
        """The image's number."""
        return self.killable.instance

    def deploy(self, release: str = "", variables: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Deploy a release of the LSB binaries, or what apt has."""
        asked = {"orthanc_install_method": "lsb", "orthanc_version": release} if release else {}
        return self.lab.play(variables=asked | dict(variables or {}), **options).stdout

    def lock(self, release: str, variables: Mapping[str, Any] | None = None) -> None:
        asked = {"orthanc_install_method": "lsb", "orthanc_version": release} | dict(variables or {})
        self.lab.play("lsb_lock", asked)

    @property
    def sums(self) -> dict[str, str]:
        """What the command wrote into the inventory."""
        found: dict[str, str] = yaml.safe_load(self.file.read_text(encoding="utf-8"))["orthanc_lsb_checksums"]
        return found

    def runs(self, release: str) -> None:
        """Hold the release that runs, and the image in it, against what they should be."""
        with self.lab.session() as session:
            assert session.get(self.lab.url("/system"), timeout=30).json()["Version"] == release
            assert "dicom-web" in session.get(self.lab.url("/plugins"), timeout=30).json()
            assert session.get(self.lab.url(f"/instances/{self.instance}/file"), timeout=30).content == image(1)
            assert len(session.get(self.lab.url("/dicom-web/studies"), timeout=30).json()) == 1


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    """A site from Debian's packages with an image, beside a mirror of the download site."""
    made = Site(lab)
    lab.play("../lab/stand-in/prepare")
    made.deploy()
    made.killable.upload()
    made.runs(NEW)
    return made


class Watch:
    """Asks again and again while something happens; ``gap`` is the longest time without an answer, in seconds."""

    def __init__(self, lab: Lab) -> None:
        self.gap = 0.0
        self._lab = lab
        self._session = lab.session()
        self._stop = threading.Event()
        self._last = 0.0
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._stop.wait(0.02):
            with contextlib.suppress(requests.RequestException):
                asked = time.monotonic()
                if self._session.get(self._lab.url("/changes?last"), timeout=30).status_code == 200:
                    now = time.monotonic()
                    self.gap, self._last = max(self.gap, now - self._last), asked

    def __enter__(self) -> Watch:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        # What ended last is answered too before the watch ends.
        end = time.monotonic()
        while self._last < end and time.monotonic() < end + 300:
            time.sleep(0.02)
        self._stop.set()
        self._thread.join()


def test_nothing_is_taken_without_a_checksum(site: Site) -> None:
    state = site.lab.shell(STATE, check=False)
    printed = " ".join(site.deploy(NEW, check=False).split())
    assert "no SHA-256 of orthanc/1.12.7/Orthanc and 2 more; run `make lsb-lock INVENTORY=inventories/quick" in printed
    assert site.lab.shell(STATE, check=False) == state


def test_lock_adds_what_is_missing_and_nothing_else(site: Site) -> None:
    site.lock(NEW)
    first, text = site.sums, site.file.read_text("utf-8")
    site.file.write_text(text.replace(first["orthanc/1.12.7/Orthanc"], "0" * 64), encoding="utf-8")
    site.lock(OLD)
    assert len(first) == 3
    assert len(site.sums) == 6
    assert site.sums["orthanc/1.12.7/Orthanc"] == "0" * 64, "a checksum that stood there was changed"
    text = site.file.read_text("utf-8")
    site.file.write_text(text.replace("0" * 64, first["orthanc/1.12.7/Orthanc"]), encoding="utf-8")


def test_from_packages_to_another_release(site: Site) -> None:
    """The same storage and the same index, one release down; the packages stay and are not used."""
    site.deploy(OLD)
    site.runs(OLD)
    assert site.lab.shell("readlink /opt/orthanc/current").strip() == OLD
    assert site.lab.shell("readlink /proc/$(pidof -s Orthanc)/exe").strip() == f"/opt/orthanc/{OLD}/Orthanc"


def test_switch_up_and_down(site: Site) -> None:
    with Watch(site.lab) as plain:
        site.lab.shell("systemctl restart orthanc")
    gaps = []
    for release in (NEW, OLD):
        with Watch(site.lab) as watch:
            site.killable.keep(release, {"orthanc_install_method": "lsb", "orthanc_version": release})
        gaps.append(watch.gap)
        site.runs(release)
    print(f"Seconds without an answer: {plain.gap:.1f} at a restart, {gaps} at a switch")
    # What is promised is measured by `make bench-methods`; on a busy machine both take as many times as long.
    assert max(gaps) < 3 * plain.gap + 5
    assert site.lab.shell("ls /opt/orthanc").split() == [OLD, NEW, "current"]
    # Downloaded before: a dry run can ask the binary itself.
    assert changed(site.deploy(NEW, arguments=["--check"]))
    site.runs(OLD)


def test_switch_that_is_killed(site: Site) -> None:
    """On the host, by the modules of the switches before; the run after it ends well."""
    for release, step in KILLED:
        site.lab.shell(f"rm -rf /opt/orthanc/{release}")
        assert site.killable.cut(release, step, idle=release == OLD), step
        site.runs(release)
    assert site.lab.shell("ls -A /opt/orthanc").split() == [".pacs", OLD, NEW, "current"]
    site.killable.again(OLD)
    site.runs(OLD)


@pytest.fixture
def gone(site: Site) -> Iterator[None]:
    """The newer release is on the mirror only, and what a test does there is undone."""
    site.lab.shell(f"rm -rf /opt/orthanc/{NEW}")
    site.lab.shell(f"cp -a {MIRROR} /root/lsb", host="mirror")
    yield
    site.lab.shell(f"rm -rf {MIRROR} && mv /root/lsb {MIRROR}", host="mirror")


WRONG: dict[str, tuple[str, str, dict[str, Any], list[str]]] = {
    "another file": (
        "",
        f"echo >> {MIRROR}/orthanc/{NEW}/Orthanc",
        {},
        ["orthanc/1.12.7/Orthanc has the SHA-256", "orthanc_lsb_checksums says"],
    ),
    "a truncated file": (
        "",
        f"truncate --size 100000 {MIRROR}/orthanc-dicomweb/1.20/libOrthancDicomWeb.so",
        {},
        ["orthanc-dicomweb/1.20/libOrthancDicomWeb.so has the SHA-256"],
    ),
    "a missing file": (
        "",
        f"rm {MIRROR}/orthanc-dicomweb/1.20/libOrthancDicomWeb.so",
        {},
        ["libOrthancDicomWeb.so answers 404", "orthanc_lsb_plugin_versions"],
    ),
    "no mirror": ("", "", {"orthanc_lsb_url": "https://mirror:444/lsb"}, ["does not answer", "orthanc_lsb_url"]),
    "a mirror that is not trusted": ("", "", {"orthanc_lsb_ca": ""}, ["does not answer", "orthanc_lsb_ca"]),
    "a full disk": (
        "mkdir -p /srv/small && mount -t tmpfs -o size=1m tmpfs /srv/small",
        "",
        {"orthanc_lsb_dir": "/srv/small"},
        ["cannot be written to /srv/small", "No space left on device"],
    ),
}


@pytest.mark.parametrize("name", list(WRONG))
@pytest.mark.usefixtures("gone")
def test_wrong_release_leaves_the_one_that_runs(site: Site, name: str) -> None:
    on_host, on_mirror, variables, words = WRONG[name]
    state = site.lab.shell(STATE)
    site.lab.shell(f"{on_host}\ntrue")
    site.lab.shell(f"{on_mirror}\ntrue", host="mirror")
    asked = {"orthanc_install_method": "lsb", "orthanc_version": NEW} | variables
    done = site.lab.play("orthanc", asked, check=False)
    printed = " ".join(done.stdout.split())
    assert "failed=1" in printed
    assert "nothing has changed" in printed
    assert not [word for word in words if word not in printed], printed
    assert site.lab.shell(STATE) == state
    site.runs(OLD)


@pytest.mark.parametrize(
    "change",
    [
        f"cp {MIRROR}/orthanc/{OLD}/Orthanc {MIRROR}/orthanc/{NEW}/Orthanc",
        pytest.param(f"truncate --size 1000000 {MIRROR}/orthanc/{NEW}/Orthanc", marks=pytest.mark.later),
    ],
    ids=["another release", "broken"],
)
@pytest.mark.usefixtures("gone")
def test_binary_that_is_not_the_one(site: Site, change: str) -> None:
    """The mirror has had it for long, so that its checksum was written down."""
    state = site.lab.shell(STATE)
    site.lab.shell(change, host="mirror")
    found = site.lab.shell(f"sha256sum {MIRROR}/orthanc/{NEW}/Orthanc", host="mirror").split()[0]
    sums = site.sums | {f"orthanc/{NEW}/Orthanc": found}
    asked = {"orthanc_install_method": "lsb", "orthanc_version": NEW, "orthanc_lsb_checksums": sums}
    printed = " ".join(site.lab.play("orthanc", asked, check=False).stdout.split())
    assert "does not run on this host, or is another release" in printed
    assert site.lab.shell(STATE) == state


@pytest.mark.usefixtures("gone")
def test_release_that_does_not_start_goes_back(site: Site) -> None:
    """Orthanc itself is right, and a plugin of the release is no plugin: only its start can tell."""
    plugin = f"{MIRROR}/orthanc-dicomweb/1.20/libOrthancDicomWeb.so"
    site.lab.shell(f"echo nothing > {plugin}", host="mirror")
    found = site.lab.shell(f"sha256sum {plugin}", host="mirror").split()[0]
    sums = site.sums | {"orthanc-dicomweb/1.20/libOrthancDicomWeb.so": found}
    printed = " ".join(site.deploy(NEW, {"orthanc_lsb_checksums": sums}, check=False).split())
    assert "The configuration that worked last is back, and Orthanc serves with it." in printed
    assert site.lab.shell("readlink /opt/orthanc/current").strip() == OLD
    site.runs(OLD)


@pytest.mark.later
def test_another_version_of_a_plugin_leaves_the_one_of_before(site: Site) -> None:
    """For the release that runs: one that it cannot load makes way for that of before, and one that it can stays."""
    # What a test before has put there is not right.
    site.lab.shell(f"rm -rf /opt/orthanc/{NEW}")
    files = f"cd /opt/orthanc && sha256sum {OLD}/*"
    before = site.lab.shell(files)
    printed = " ".join(site.deploy(OLD, {"orthanc_lsb_plugin_versions": {"dicomweb": "1.20"}}, check=False).split())
    assert "The configuration that worked last is back, and Orthanc serves with it." in printed, printed
    assert "undefined symbol" in printed
    assert site.lab.shell(files) == before
    assert site.lab.shell("readlink /opt/orthanc/current").strip() == OLD
    site.runs(OLD)
    assert not changed(site.deploy(OLD))
    # A stand-in: the same one, and more at its end.
    folder = f"{MIRROR}/orthanc-dicomweb"
    site.lab.shell(f"cp -a {folder}/1.20 {folder}/1.21 && echo >> {folder}/1.21/libOrthancDicomWeb.so", host="mirror")
    later = {"orthanc_lsb_plugin_versions": {"dicomweb": "1.21"}}
    site.lock(NEW, later)
    site.deploy(NEW)
    site.deploy(NEW, later)
    folder = site.lab.shell("readlink /opt/orthanc/current").strip()
    assert re.fullmatch(rf"{re.escape(NEW)}-[0-9a-f]{{8}}", folder)
    site.runs(NEW)
    assert not changed(site.deploy(NEW, later))
    site.deploy(NEW)
    assert site.lab.shell("readlink /opt/orthanc/current").strip() == NEW
    site.runs(NEW)


@pytest.mark.later
def test_scripts_are_tried_by_the_release_that_is_asked_for(site: Site, tmp_path: pathlib.Path) -> None:
    script = tmp_path / "newer.lua"
    variables = {"orthanc_scripts": [{"file": str(script)}]}
    site.deploy(OLD)
    start = "systemctl show orthanc --property InvocationID; readlink /opt/orthanc/current"
    before = site.lab.shell(start)
    script.write_text("function broken(", encoding="utf-8")
    printed = " ".join(site.deploy(NEW, variables, check=False).split())
    assert "newer.lua was tried, apart from the site, and Orthanc ends." in printed
    # The newer release is beside it by now.
    assert site.lab.shell(start) == before
    site.runs(OLD)
    script.write_text('print("The script runs.")', encoding="utf-8")
    site.deploy(NEW, variables)
    assert "Lua says: The script runs." in site.lab.shell("journalctl -u orthanc --output cat")
    site.runs(NEW)


def test_back_to_the_packages(site: Site) -> None:
    site.deploy()
    site.runs(NEW)
    assert site.lab.shell("readlink /proc/$(pidof -s Orthanc)/exe").strip() == "/usr/sbin/Orthanc"


@pytest.mark.later
def test_plugin_of_another_release_goes_back(site: Site) -> None:
    """The real DICOMweb of 1.12.7, which 1.10.1 cannot load: back to the packages, which serve as before."""
    printed = " ".join(site.deploy(OLD, {"orthanc_lsb_plugin_versions": {"dicomweb": "1.20"}}, check=False).split())
    assert "The configuration that worked last is back, and Orthanc serves with it." in printed, printed
    assert "undefined symbol" in printed
    site.runs(NEW)
    assert site.lab.shell("readlink /proc/$(pidof -s Orthanc)/exe").strip() == "/usr/sbin/Orthanc"


SOURCES = "cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null; ls /etc/apt/*"
VERSION = "dpkg-query --show --showformat '${Version}' orthanc"


def upstream(lab: Lab, key: str = "archive") -> dict[str, Any]:
    """Variables for the stand-in of the makers' packages, signed with a key."""
    text = lab.shell(f"cat /srv/mirror/debian/{key}.key", host="mirror")
    return {"orthanc_apt_source": "upstream", "orthanc_apt_url": "http://mirror/debian", "orthanc_apt_key": text}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"key": "other"}, ["not signed with orthanc_apt_key", "nothing has changed"]),
        ({"orthanc_apt_suite": "buster"}, ["no such suite", "orthanc_apt_suite", "nothing has changed"]),
        pytest.param(
            {"orthanc_apt_url": "http://mirror:81/debian"},
            ["does not answer", "orthanc_apt_url", "nothing has changed"],
            marks=pytest.mark.later,
        ),
        pytest.param(
            {"orthanc_apt_key": "http://mirror/debian/no.key"},
            ["answers 404", "orthanc_apt_key", "nothing has changed"],
            marks=pytest.mark.later,
        ),
    ],
)
def test_wrong_source_changes_nothing(site: Site, changes: dict[str, Any], words: list[str]) -> None:
    before = site.lab.shell(f"{SOURCES}; {VERSION}")
    asked = upstream(site.lab, changes.pop("key", "archive")) | changes
    printed = " ".join(site.lab.play("orthanc", asked, check=False).stdout.split())
    assert not [word for word in words if word not in printed], printed
    assert site.lab.shell(f"{SOURCES}; {VERSION}") == before


@pytest.mark.later
def test_packages_of_the_makers_and_back(site: Site) -> None:
    site.deploy(variables=upstream(site.lab), arguments=["--check"])
    assert "standin" not in site.lab.shell(f"{SOURCES}; {VERSION}")
    site.deploy(variables=upstream(site.lab))
    assert site.lab.shell(VERSION) == f"{NEW}+standin-1"
    site.runs(NEW)
    assert not changed(site.deploy(variables=upstream(site.lab)))
    # Packages are not taken back unless a release is asked for.
    site.deploy()
    assert "orthanc" not in site.lab.shell(SOURCES)
    site.runs(NEW)


CLOSED = (
    "sha256sum /etc/pacs/orthanc/* /etc/systemd/system/orthanc.service; stat --format '%n %a %U:%G' /etc/pacs/orthanc"
    " /var/lib/orthanc/db-v6; systemctl show orthanc --property FragmentPath,UnitFileState,ActiveState;"
    " ss --no-header --listening --numeric --tcp | awk '{print $4}' | sort"
)


@pytest.mark.later
def test_upgrade_by_the_administrator(site: Site) -> None:
    """What apt, or an upgrade at night, does without the playbook opens nothing and leaves a run nothing to do."""
    site.deploy(variables=upstream(site.lab))
    source = site.lab.shell("cat /etc/apt/sources.list.d/orthanc.sources")
    site.deploy()
    site.lab.shell("apt-get update -q; apt-get install -y -q --allow-downgrades orthanc/trixie")
    site.deploy()
    before = site.lab.shell(CLOSED)
    assert "standin" not in site.lab.shell(VERSION)
    site.lab.shell(f"cat > /etc/apt/sources.list.d/orthanc.sources <<'END'\n{source.strip()}\nEND\napt-get update -q")
    site.lab.shell("DEBIAN_FRONTEND=noninteractive apt-get upgrade -y -q")
    assert site.lab.shell(VERSION) == f"{NEW}+standin-1"
    done = site.deploy(variables=upstream(site.lab))
    assert not changed(done), done
    assert site.lab.shell(CLOSED) == before
    site.runs(NEW)
    site.deploy()


def changed(output: str) -> bool:
    """Tell from the end of a run whether it changed the site, or would."""
    return re.search(r"(?m)^pacs +:.* changed=0 ", output) is None

"""Orthanc from its sources: ``make test-source``. Debian's tarballs are built for real, which takes half an hour.

They stand in for those of Orthanc's makers, which are not within reach of the tests, and the host ``mirror`` for their
download site. What they lack of Orthanc Explorer is in the package that they come with.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.hosts.conftest import ENVIRONMENT, ROOT, Lab, run
from tests.hosts.test_database import image
from tests.hosts.test_lsb import changed

LAB = {
    "name": "source",
    # The stand-ins of LSB binaries run there.
    "pacs": {"release": "lsb", "volumes": ["/var/lib/docker"]},
    "other": "trixie",
    "mirror": "lsb-mirror",
    "registry": "trixie",
}
RELEASE = "1.12.7"
LSB = {"orthanc_install_method": "lsb", "orthanc_version": RELEASE}
DOCKER = {
    "orthanc_install_method": "docker",
    "orthanc_docker_image": f"registry:5000/orthancteam/orthanc:{RELEASE}",
}
# Where the mirror has the tarballs, by what the inventory calls them.
NAMES = {
    "orthanc": f"orthanc_{RELEASE}+dfsg.orig.tar.xz",
    "orthanc-postgresql": "orthanc-postgresql_5.0+dfsg.orig.tar.xz",
    "orthanc-mysql": "orthanc-mysql_5.0+dfsg.orig.tar.xz",
    "explorer": "explorer.tar.gz",
    "broken": "broken.tar.gz",
}
# It takes half the time, and is the same code.
QUICK = {"CMAKE_CXX_FLAGS_RELEASE": "-O0 -DNDEBUG"}
COLLECT = """
set -eu
mkdir -p /srv/mirror/sources && cd /srv/mirror/sources
sed 's/^deb /deb-src /' /etc/apt/sources.list > /etc/apt/sources.list.d/sources.list
apt-get update -q
apt-get install -y -q --no-install-recommends xz-utils
apt-get source -q --download-only orthanc
for package in orthanc-postgresql orthanc-mysql; do apt-get source -q --download-only --tar-only $package; done
libraries=top/OrthancServer/OrthancExplorer/libs
mkdir -p $libraries top/OrthancFramework/Sources
tar -x -f orthanc_*.debian.tar.xz
cd debian/JS
cp jquery-1.7.2.js ../../$libraries/jquery.min.js
cp jquery.mobile-1.1.0/jquery.mobile-1.1.0.js ../../$libraries/jquery.mobile.min.js
cp jquery.mobile-1.1.0/jquery.mobile-1.1.0.css ../../$libraries/jquery.mobile.min.css
cat DateJs/src/globalization/en-US.js DateJs/src/core-debug.js DateJs/src/sugarpak-debug.js \
    DateJs/src/parser-debug.js > ../../$libraries/date.js
cp -r jquery.mobile-1.1.0/images ../../$libraries
cd ../..
# By its checksum it is known what was built, so that it has to be the same each time.
tar -c --sort=name --mtime=@0 --owner=0 --group=0 --mode=go=rX top/OrthancServer | gzip -n > explorer.tar.gz
echo '#error broken on purpose' > top/OrthancFramework/Sources/ChunkedBuffer.cpp
tar -c -z -f broken.tar.gz top
chmod a+r *
"""
# What of a host a run that fails must leave as it was.
STATE = r"""
exec 2> /dev/null
find /opt/orthanc-source /etc/pacs/orthanc | sort; readlink /opt/orthanc-source/current
cat /etc/pacs/orthanc/* /etc/systemd/system/orthanc.service | sha256sum
systemctl show orthanc --property InvocationID,ActiveState,NeedDaemonReload
"""
PACKAGES = "dpkg-query --show"


class Site:
    """Two hosts with an Orthanc each, one with PostgreSQL and one with MariaDB, and an image in both."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.folder, self.inventory = lab, folder, folder / "inventory"
        self.inventory.mkdir()
        lab.shell(COLLECT, host="mirror")
        sums = lab.shell("cd /srv/mirror/sources && sha256sum *.tar.*", host="mirror").split()
        self.sums = dict(zip(sums[1::2], sums[::2], strict=True))
        # One is a file of the machine that runs the playbook.
        run("docker", "cp", f"{lab.container('mirror')}:/srv/mirror/sources/{NAMES['orthanc-mysql']}", folder)
        # What was built in an earlier run of the tests must not count.
        self.cache = {"XDG_CACHE_HOME": str(folder / "cache")}
        hosts = {"pacs": {"orthanc_database": "postgresql"}, "other": {"orthanc_database": "mysql"}}
        groups: dict[str, Any] = {group: {"hosts": dict.fromkeys(hosts)} for group in ("orthanc", "nginx")}
        groups |= {"postgresql": {"hosts": {"pacs": None}}, "mysql": {"hosts": {"other": None}}}
        general = yaml.safe_load((ROOT / "inventories/single/group_vars/all/main.yml").read_text("utf-8"))
        general |= {"orthanc_plugins": ["worklists"]}
        del general["orthanc_database"]
        groups["all"] = {"vars": general, "hosts": hosts}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
        self.instances: dict[str, str] = {}

    def tarball(self, name: str) -> dict[str, Any]:
        file = NAMES[name]
        return {"from": f"http://mirror/sources/{file}", "sha256": self.sums[file]}

    @property
    def asked(self) -> dict[str, Any]:
        """What the inventory says for a build."""
        names = ("orthanc", "orthanc-postgresql", "orthanc-mysql")
        tarballs = {name: self.tarball(name) | {"options": QUICK} for name in names}
        tarballs["orthanc"]["also"] = [self.tarball("explorer")]
        tarballs["orthanc-mysql"]["from"] = str(self.folder / NAMES["orthanc-mysql"])
        return {
            "orthanc_install_method": "source",
            "orthanc_version": RELEASE,
            "orthanc_source_tarballs": tarballs,
        }

    def deploy(self, variables: Mapping[str, Any] | None = None, playbook: str = "site", **options: Any) -> str:
        return self.lab.play(playbook, variables, inventory=self.inventory, timeout=7200, **options).stdout

    def program(self, host: str) -> str:
        """Return what runs there, after a look at the image, the database and the plugins."""
        with self.lab.session(host) as session:
            told = session.get(self.lab.url("/system", host), timeout=30).json()
            assert told["Version"] == RELEASE
            database = {"pacs": "PostgreSQL", "other": "MySQL"}[host]
            assert database.lower() in told["DatabaseBackendPlugin"].lower()
            assert "worklists" in session.get(self.lab.url("/plugins", host), timeout=30).json()
            path = f"/instances/{self.instances[host]}/file"
            assert session.get(self.lab.url(path, host), timeout=30).content == image(1)
        return self.lab.shell("readlink /proc/$(pidof -s Orthanc)/exe", host).strip()


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Both from Debian's packages, with an image each."""
    made = Site(lab, tmp_path_factory.mktemp("site"))
    ENVIRONMENT.update(made.cache)
    lab.play("../lab/stand-in/prepare")
    made.deploy()
    for host in ("pacs", "other"):
        with lab.session(host) as session:
            answer = session.post(lab.url("/instances", host), data=image(1), timeout=30)
        made.instances[host] = answer.json()["ID"]
        assert made.program(host) == "/usr/sbin/Orthanc"
    return made


def test_wrong_tarball_changes_nothing(site: Site) -> None:
    """It is found out before a compiler is installed."""
    good = site.asked["orthanc_source_tarballs"]
    other = good["orthanc-mysql"]
    wrong: dict[str, tuple[dict[str, Any], list[str]]] = {
        "checksum": (good["orthanc"] | {"sha256": "0" * 64}, ["has the SHA-256", "tarballs.orthanc says 0000"]),
        "none there": (good["orthanc"] | {"from": "http://mirror/sources/none"}, ["answers 404", "tarballs.orthanc"]),
        "of a distribution": (site.tarball("orthanc"), ["lacks OrthancServer/OrthancExplorer/libs/date.js", "`also`"]),
        "another": (other, ["no OrthancServer/CMakeLists.txt", "name the right tarball"]),
    }
    state = site.lab.shell(f"{STATE}{PACKAGES}")
    for name, (tarball, words) in wrong.items():
        asked = site.asked | {"orthanc_source_tarballs": good | {"orthanc": tarball}}
        said = " ".join(site.deploy(asked, "orthanc", check=False, arguments=["--limit", "pacs"]).split())
        assert "Nothing of Orthanc was changed" in said, (name, said)
        assert not [word for word in words if word not in said], (name, said)
    asked = site.asked | {"orthanc_version": "1.12.6"}
    said = " ".join(site.deploy(asked, "orthanc", check=False, arguments=["--limit", "pacs"]).split())
    assert "this is Orthanc 1.12.7, and orthanc_version asks for 1.12.6" in said
    assert site.lab.shell(f"{STATE}{PACKAGES}") == state


LACKING = "printf 'Package: {}\nPin: version *\nPin-Priority: -1\n' > /etc/apt/preferences.d/lacking"


def test_what_a_build_takes_and_the_host_has_not(site: Site) -> None:
    """A compiler, a library or memory: found out before anything is installed."""
    state = site.lab.shell(f"{STATE}{PACKAGES}")
    only = ["--limit", "pacs"]
    for package in ("cmake", "libdcmtk-dev"):
        site.lab.shell(LACKING.format(package))
        said = " ".join(site.deploy(site.asked, "orthanc", check=False, arguments=only).split())
        site.lab.shell("rm /etc/apt/preferences.d/lacking")
        assert "Nothing of Orthanc was changed: a compiler or library that the build takes cannot be installed" in said
        assert package in said.partition("orthanc_source_build_host. ")[2]
        assert site.lab.shell(f"{STATE}{PACKAGES}") == state
    said = " ".join(site.deploy(site.asked | {"orthanc_source_jobs": 200}, check=False, arguments=only).split())
    assert "orthanc_source_jobs: this host has" in said
    assert "to compile 200 at a time takes 200.0" in said
    assert site.lab.shell(f"{STATE}{PACKAGES}") == state
    site.program("pacs")


def test_build_that_fails_leaves_what_runs(site: Site) -> None:
    """The compiler's lines are told."""
    state = site.lab.shell(STATE)
    asked = site.asked
    asked["orthanc_source_tarballs"]["orthanc"]["also"].append(site.tarball("broken"))
    said = " ".join(site.deploy(asked, "orthanc", check=False, arguments=["--limit", "pacs"]).split())
    assert "ChunkedBuffer.cpp:1:2: error: #error broken on purpose" in said
    assert "orthanc cannot be built; all of it is in /var/cache/pacs/build.log" in said
    assert site.lab.shell(STATE) == state
    assert site.lab.shell("ls /var/tmp/systemd-private-*pacs-build* 2> /dev/null", check=False) == ""
    site.program("pacs")


def test_build_outlives_the_run(site: Site) -> None:
    """A run that is killed while it builds leaves the build, and the next one comes back to it."""
    file = site.lab.folder.with_suffix(".json")
    file.write_text(yaml.safe_dump(site.asked), encoding="utf-8")
    given = ("-i", str(site.inventory), "-i", str(site.lab.folder), "-e", f"@{file}", "--limit", "pacs")
    command = ["ansible-playbook", *given, "playbooks/orthanc.yml"]
    # With all of its processes; Ansible's workers have sessions of their own.
    kill = ["pkill", "--signal", "KILL", "--full", "--", f"-e @{file}"]
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT):
        until(site, "systemctl is-active --quiet pacs-build")
        run(*kill)
    first = site.lab.shell("systemctl show pacs-build --property InvocationID")
    log = site.folder / "second.log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=output) as started,
    ):
        # It tells how far the build is that it has come back to.
        for _ in range(1800):
            if "builds orthanc: " in log.read_text("utf-8") or started.poll() is not None:
                break
            time.sleep(1)
        run(*kill, check=False)
    assert "builds orthanc: " in log.read_text("utf-8")
    assert site.lab.shell("systemctl show pacs-build --property InvocationID") == first
    # On the disk, as nobody of the host, beside whom images come first.
    until(site, "ls -d /var/tmp/systemd-private-*pacs-build*/tmp/orthanc/build")
    status = site.lab.shell("cat /proc/$(pgrep -f 'cmake --build' | head -n 1)/status")
    assert int(re.findall(r"Uid:\s+(\d+)", status)[0]) >= 61184


def until(site: Site, condition: str) -> None:
    """Wait for half an hour at most: what a build takes is installed first."""
    site.lab.shell(f"for i in $(seq 1800); do ! {condition} || exit 0; sleep 1; done; exit 1", timeout=2400)


def test_built_once_for_both(site: Site) -> None:
    """The other one gets Orthanc, and a plugin of its own, without a compiler."""
    said = site.deploy(site.asked | {"orthanc_source_build_host": "pacs"})
    for host in ("pacs", "other"):
        assert re.fullmatch(rf"/opt/orthanc-source/{RELEASE}-[0-9a-f]{{8}}/Orthanc", site.program(host))
    with_compiler = [host for host in ("pacs", "other") if site.lab.shell("command -v cmake", host, check=False)]
    assert with_compiler == ["pacs"], said
    with site.lab.session() as session:
        page = session.get(site.lab.url("/app/libs/jquery.min.js"), timeout=30)
        assert page.status_code == 200
    assert re.search(r"\d+ passed", site.deploy(playbook="verify", variables=site.asked))


def test_second_run_builds_nothing(site: Site) -> None:
    assert not changed(site.deploy(site.asked))
    # Not even where nobody knows what was built.
    cache = pathlib.Path(site.cache["XDG_CACHE_HOME"]) / "dicom.orthanc"
    for path in cache.iterdir():
        path.unlink()
    assert not changed(site.deploy(site.asked))


def test_from_one_method_to_another(site: Site) -> None:
    """With the same data, configuration, ports and rights."""
    only = ["--limit", "pacs"]
    look = (
        "stat --format '%n %a %U:%G' /etc/pacs/orthanc/* /var/lib/orthanc /var/lib/orthanc/*;"
        # Docker's engine has others.
        " ss -Hltn 'sport = 80 or sport = 443 or sport = 4242 or sport = 8042' | awk '{print $4}' | sort"
    )
    site.deploy(arguments=only)
    before = site.lab.shell(look)
    site.lab.play("lsb_lock", LSB, inventory=site.inventory, arguments=only)
    for asked, program in (
        (DOCKER, "/usr/local/bin/Orthanc"),
        (LSB, f"/opt/orthanc/{RELEASE}/Orthanc"),
        (site.asked, "/opt/orthanc-source/"),
        ({}, "/usr/sbin/Orthanc"),
    ):
        site.deploy(asked, arguments=only)
        assert site.program("pacs").startswith(program)
        assert site.lab.shell(look) == before
        assert not changed(site.deploy(asked, arguments=only))


# Of a service that was removed.
LEFT = """
pgrep -x Orthanc; docker ps --quiet; ss -Hltn 'sport = 4242 or sport = 8042'; nft list tables | grep orthanc
ls -d /etc/systemd/system/orthanc.service /etc/pacs/orthanc /etc/systemd/system/*.wants/orthanc.service 2> /dev/null
"""


def test_each_method_is_removed_and_comes_back(site: Site) -> None:
    """With its images. What it came from stays on the host, and runs no more."""
    only = ["--limit", "pacs"]
    site.lab.play("lsb_lock", LSB, inventory=site.inventory, arguments=only)
    for asked in (DOCKER, LSB, site.asked, {}):
        site.deploy(asked, arguments=only)
        site.deploy(asked | {"remove": "service of pacs"}, "remove", arguments=only)
        assert site.lab.shell(LEFT, check=False) == ""
        site.deploy(asked, arguments=only)
        site.program("pacs")

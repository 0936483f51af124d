"""Orthanc in a container: other images, a tag that moves, images that cannot be had, the way to apt and back."""

from __future__ import annotations

import io
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.checks import left_out
from tests.hosts.certificates import pem
from tests.hosts.conftest import Lab, run
from tests.hosts.test_verification import ELSEWHERE, LACKING

LAB = {"name": "docker-host", "pacs": {"release": "trixie", "volumes": ["/var/lib/docker"]}, "registry": "trixie"}
ORTHANC = "registry:5000/orthancteam/orthanc"
STABLE = {
    "orthanc_install_method": "docker",
    "orthanc_docker_image": f"{ORTHANC}:stable",
    "orthanc_docker_pull": "always",
    "orthanc_docker_memory": "1g",
    "orthanc_docker_cpus": 1.5,
    "orthanc_https_ca": pem("ca")[0],
    # All that the suite can make use of, of what the stand-ins have.
    "orthanc_plugins": ["dicomweb", "worklists"],
    "orthanc_settings": {"DefaultEncoding": "Utf8"},
}


class Site:
    """The site of the inventory ``quickstart`` in a container, with one image in its archive."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        # The oldest release first, since an index is carried upwards.
        self.deploy(
            {"orthanc_docker_image": "registry:5000/jodogne/orthanc-plugins:1.10.1", "orthanc_version": "1.10.1"}
        )
        self.session = lab.session()
        file = get_testdata_file("MR_small.dcm", download=False)
        assert isinstance(file, str)
        with open(file, "rb") as image:
            answer = self.session.post(self.lab.url("/instances"), data=image, timeout=30)
        self.instance = answer.json()["ID"]

    def deploy(self, variables: Mapping[str, Any], check: bool = True) -> str:
        given = {"orthanc_install_method": "docker"} | dict(variables)
        return re.sub(r"\s+", " ", self.lab.play(variables=given, check=check).stdout)

    def wait(self, condition: str) -> None:
        """Wait until a condition of the host's shell is true."""
        self.lab.shell(f"for i in $(seq 120); do ! {condition} || exit 0; sleep 0.5; done; exit 1")

    def release(self) -> str:
        """Return the release that runs, after a look at the image that was uploaded to the first one."""
        self.wait("ss -Hltn | grep -q :8042")
        assert self.session.get(self.lab.url(f"/instances/{self.instance}/file"), timeout=30).status_code == 200
        return str(self.session.get(self.lab.url("/system"), timeout=30).json()["Version"])

    def state(self) -> str:
        """Tell one start of Orthanc from another, and one configuration from another."""
        return self.lab.shell(
            "systemctl show orthanc --property InvocationID;"
            " find /etc/pacs/orthanc /etc/systemd/system -type f | sort | xargs sha256sum"
        )

    def tag(self, release: str) -> None:
        """Let the tag ``stable`` of the registry be another release."""
        images = f"docker://{ORTHANC}:{release} docker://{ORTHANC}:stable"
        self.lab.shell(f"skopeo copy --quiet {images}", host="registry")


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    return Site(lab)


def test_image_of_another_family_and_release(site: Site) -> None:
    assert site.release() == "1.10.1"
    site.tag("1.13.0")
    site.deploy(STABLE | {"orthanc_version": "1.13.0"})
    assert site.release() == "1.13.0"


def test_container_is_closed(site: Site) -> None:
    status = site.lab.shell("cat /proc/$(pgrep -x Orthanc)/status")
    uid = site.lab.shell("id -u orthanc").strip()
    assert re.search(rf"(?m)^Uid:\s+{uid}\s+{uid}\s+{uid}\s+{uid}$", status)
    assert set(re.findall(r"(?m)^Cap\w+:\s+(\w+)$", status)) == {"0" * 16}
    assert re.search(r"(?m)^NoNewPrivs:\s+1$", status)
    denied = site.lab.shell("docker exec orthanc sh -c 'echo > /usr/x; echo > /etc/pacs/orthanc/x.json' 2>&1; true")
    assert denied.count("Read-only file system") == 2
    each = "{{range .Mounts}}{{.Destination}}={{.RW}} {{end}}"
    mounts = dict(mount.split("=") for mount in site.lab.shell(f"docker inspect --format '{each}' orthanc").split())
    assert {path for path, writable in mounts.items() if writable == "true"} == {
        "/tmp",
        "/var/lib/orthanc",
        "/var/lib/orthanc/db-v6",
    }
    assert set(mounts) - {path for path, writable in mounts.items() if writable == "true"} == {
        "/etc/localtime",
        "/etc/ssl/certs",
        "/etc/pacs/orthanc",
        "/run/orthanc",
    }
    # The host's own authorities, and the one that was given.
    assert int(site.lab.shell("docker exec orthanc cat /run/orthanc/https-ca.crt | grep -c BEGIN")) > 100
    shown = "{{.HostConfig.NetworkMode}} {{.HostConfig.LogConfig.Type}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}"
    shown += " {{.Path}} {{.Config.Healthcheck.Test}}"
    told = site.lab.shell(f"docker inspect --format '{shown}' orthanc")
    assert told.split() == ["host", "none", str(1 << 30), "1500000000", "Orthanc", "[NONE]"]


def test_newest_release_is_as_wanted(site: Site, tmp_path: pathlib.Path) -> None:
    """The whole verification; what is left out is just what takes another topology."""
    assert site.release() == "1.13.0"
    site.lab.play("verify", STABLE | {"verification_report_dir": str(tmp_path)})
    # Of its process in the container another check tells.
    container = {"test_hardening::test_sandbox_is_tight"}
    assert left_out(tmp_path / "junit.xml", "pacs") == ELSEWHERE | LACKING["1.13.0"] | container


def test_no_secret_is_told(site: Site) -> None:
    told = site.lab.shell(
        "docker inspect orthanc; ps -ef; cat /etc/systemd/system/orthanc.service; journalctl -u orthanc"
    )
    # By the letters at their end, which look the same in every encoding.
    assert [name for name, secret in site.lab.secrets.items() if secret[-12:] in told] == []
    modes = site.lab.shell("stat --format '%a %U' /etc/pacs/docker /etc/pacs/docker/config.json")
    assert modes.split() == ["700", "root", "600", "root"]


def test_stop_is_clean_and_survivors_are_ended(site: Site) -> None:
    # Docker's command dies, and leaves Orthanc behind; the unit ends that one before it starts another.
    first = site.lab.shell("docker ps --quiet")
    site.lab.shell("kill -9 $(systemctl show orthanc --property MainPID --value)")
    site.wait(f"[ $(docker ps --quiet) != {first.strip()} ]")
    assert site.release() == "1.13.0"
    site.lab.shell("systemctl restart docker")
    assert site.release() == "1.13.0"
    site.lab.shell("systemctl stop docker docker.socket; systemctl start docker")
    site.wait("systemctl is-active orthanc")
    assert site.release() == "1.13.0"
    site.lab.shell("systemctl stop orthanc")
    assert "Orthanc has stopped" in site.lab.shell("journalctl --unit orthanc --lines 5 --output cat")
    assert site.lab.shell("systemctl show orthanc --property Result --value").strip() == "success"
    assert site.lab.shell("docker ps --all --quiet; docker volume ls --quiet") == ""
    site.lab.shell("systemctl start orthanc")


@pytest.mark.later
def test_patients_are_taken_out_of_what_is_imported(site: Site, tmp_path: pathlib.Path) -> None:
    """By an Orthanc of the same image, which has no network and is gone in the end."""
    site.deploy(STABLE)
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    image.PatientName, image.PatientID = "Doe^Jane", "Q4711"
    image.save_as(tmp_path / "IM1")
    run("docker", "cp", tmp_path, f"{site.lab.container()}:/srv/cd")
    wanted = STABLE | {
        "orthanc_import_from": "host",
        "orthanc_import_sources": ["/srv/cd"],
        "orthanc_import_anonymize": True,
        "orthanc_import_verify": True,
    }
    before = set(site.session.get(site.lab.url("/instances"), timeout=30).json())
    assert "1 stored" in site.lab.play("import", wanted, ("--limit", "pacs")).stdout
    (new,) = set(site.session.get(site.lab.url("/instances"), timeout=30).json()) - before
    stored = site.session.get(site.lab.url(f"/instances/{new}/file"), timeout=30).content
    assert not [word for word in (b"Doe", b"Q4711") if word in stored]
    assert pydicom.dcmread(io.BytesIO(stored)).PatientIdentityRemoved == "YES"
    assert site.lab.shell("docker ps --all --quiet | wc -l").strip() == "1"
    assert "1 already there" in site.lab.play("import", wanted, ("--limit", "pacs")).stdout


@pytest.mark.parametrize(
    "variables, words",
    [
        (
            {"orthanc_docker_image": f"{ORTHANC}:1.12.7", "orthanc_docker_registry_password": "another"},
            ["orthanc_docker_registry_password", "refuses the login"],
        ),
        ({"orthanc_docker_image": f"{ORTHANC}:9.9.9"}, ["correct orthanc_docker_image", "no such image or tag"]),
        ({"orthanc_docker_image": "registry:5999/orthanc:1.12.7"}, ["the registry does not answer"]),
        ({"orthanc_docker_image": f"{ORTHANC}:1.12.7"}, ["/var/lib/docker is full"]),
        (STABLE | {"docker_engine_settings": {"live-restre": True}}, ["live-restre", "was not put in place"]),
        # It can be had, and is not what is asked for.
        (STABLE | {"orthanc_version": "1.12.9"}, ["orthanc_version: 1.12.9 is asked for", "1.13.0 is what was"]),
        (STABLE | {"orthanc_plugins": ["neuro"]}, ["libOrthancNeuro.so is missing", "orthanc_plugins"]),
    ],
)
def test_image_that_cannot_be_had(site: Site, variables: dict[str, Any], words: list[str]) -> None:
    full = "full" in words[0]
    before = site.state()
    try:
        if full:
            site.lab.shell("mount -t tmpfs -o size=1m tmpfs /var/lib/docker/tmp")
        printed = site.deploy(variables, check=False)
    finally:
        if full:
            site.lab.shell("umount /var/lib/docker/tmp")
    assert [word for word in [*words, "failed=1"] if word not in printed] == []
    assert site.state() == before
    assert site.release() == "1.13.0"


def test_moved_tag(site: Site) -> None:
    before = site.state()
    site.tag("1.12.7")
    site.deploy(STABLE)
    assert site.release() == "1.12.7"
    after = site.state()
    assert after != before
    assert " changed=0 " in site.deploy(STABLE).split("pacs :")[1].split("registry :")[0]
    assert site.state() == after


@pytest.mark.later
def test_scripts_are_tried_in_a_container_of_their_own(site: Site, tmp_path: pathlib.Path) -> None:
    script = tmp_path / "route.lua"
    variables = STABLE | {"orthanc_scripts": [{"file": str(script)}], "orthanc_ready_timeout": 60}
    before = site.state()
    for text, told in (
        ("function broken(", "Orthanc ends. It says: Cannot execute a Lua command"),
        ("while true do end", "Orthanc has not started after 60 s (orthanc_ready_timeout, at least 60 s), and was"),
        ('local t = {} while true do t[#t + 1] = string.rep("x", 2^20) .. #t end', "not enough memory"),
    ):
        script.write_text(text, encoding="utf-8")
        printed = site.deploy(variables, check=False)
        assert "route.lua was tried, apart from the site, and Orthanc" in printed, printed[-3000:]
        assert told in printed
        assert site.state() == before
        assert site.lab.shell("docker ps --all --format '{{.Names}}'").split() == ["orthanc"]
    script.write_text('print("The script runs.")', encoding="utf-8")
    site.deploy(variables)
    assert "Lua says: The script runs." in site.lab.shell("journalctl -u orthanc --output cat")
    assert " changed=0 " in site.deploy(variables).split("pacs :")[1].split("registry :")[0]


@pytest.mark.later
def test_to_packages_and_back(site: Site) -> None:
    site.deploy({"orthanc_install_method": "apt"})
    assert site.release() == "1.12.7"
    assert "docker" not in site.lab.shell("systemctl show orthanc --property Requires,ExecStart,WantedBy")
    assert site.lab.shell("ls /etc/pacs/docker") == ""
    site.deploy({"orthanc_docker_image": f"{ORTHANC}:1.12.7"})
    assert site.release() == "1.12.7"
    assert site.lab.shell("docker ps --quiet")
    # It goes with the engine, and comes back with it.
    site.lab.shell("systemctl stop docker.socket docker; systemctl start docker")
    assert site.release() == "1.12.7"

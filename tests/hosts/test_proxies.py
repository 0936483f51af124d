"""Two proxies before one Orthanc, each on a host of its own."""

from __future__ import annotations

import pathlib

import pytest
import requests
import yaml

from tests.hosts.conftest import QUICKSTART, Lab
from tests.hosts.test_site import changed

pytestmark = pytest.mark.later
LAB = {"name": "two-proxies", "pacs": "trixie-installed", "front": "bookworm-installed", "other": "trixie-installed"}
PROXIES = ("front", "other")
PREFIX = "/orthanc/"


@pytest.fixture(scope="module")
def inventory(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("proxies")
    (folder / "group_vars").symlink_to(QUICKSTART / "group_vars")
    users = {"admin": "{{ vault_orthanc_admin_password }}", "ward": "a password of the ward"}
    variables = {"nginx_prefix": PREFIX, "orthanc_users": users, "nginx_readonly_users": ["ward"]}
    # Each has something of its own.
    hosts = {"front": {"nginx_ban_after": 20}, "other": {"nginx_refused_routes": ["tools/shutdown", "jobs/*/none"]}}
    groups = {"orthanc": {"hosts": {"pacs": variables}}, "nginx": {"hosts": hosts, "vars": variables}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(groups, sort_keys=False), encoding="utf-8")
    lab.play(inventory=folder)
    return folder


def ask(lab: Lab, host: str, path: str, method: str = "GET", user: str = "admin") -> requests.Response:
    password = None if user == "admin" else "a password of the ward"
    with lab.session(host, user, password) as session:
        return session.request(method, lab.url(path, host), timeout=20)


def test_both_serve_it(lab: Lab, inventory: pathlib.Path) -> None:
    for host in PROXIES:
        assert ask(lab, host, f"{PREFIX}system").json()["Name"] == "pacs"
        assert ask(lab, host, f"{PREFIX}dicom-web/studies").status_code == 200
    relay = lab.shell("cat /etc/nginx/conf.d/orthanc-relay.conf")
    for host in PROXIES:
        assert f"allow {lab.address[host]};" in relay
    assert not changed(lab.play(inventory=inventory).stdout)


def test_each_judges_what_it_passes_on(lab: Lab, inventory: pathlib.Path) -> None:
    for host in PROXIES:
        assert ask(lab, host, f"{PREFIX}patients/none", "DELETE").status_code == 404
        assert ask(lab, host, f"{PREFIX}patients/none", "DELETE", "ward").status_code == 403
        assert ask(lab, host, f"{PREFIX}system", user="ward").status_code == 200
        trail = lab.shell("cat /var/log/pacs/audit.log", host)
        assert '"user":"ward","method":"DELETE","resource":"/orthanc/patients/none","status":403' in trail
    assert [ask(lab, host, f"{PREFIX}jobs/1/none").status_code for host in PROXIES] == [404, 403]


def test_either_goes_on_without_the_other(lab: Lab, inventory: pathlib.Path) -> None:
    for host, rest in (PROXIES, PROXIES[::-1]):
        lab.shell("systemctl stop nginx", host)
        assert ask(lab, rest, f"{PREFIX}system").status_code == 200
        lab.shell("systemctl start nginx", host)


def test_each_is_proved(lab: Lab, inventory: pathlib.Path) -> None:
    said = lab.play("verify", inventory=inventory).stdout
    assert "pacs (conform), pacs by other (conform): as wanted" in " ".join(said.split())
    # One that is down is a finding of that one alone.
    lab.shell("systemctl stop nginx", "other")
    said = lab.play("verify", {"verification_level": "probe"}, inventory=inventory, check=False).stdout
    lab.shell("systemctl start nginx", "other")
    assert "FAILED on pacs by other: " in said
    assert "FAILED on pacs: " not in said

"""Two Orthancs behind one proxy, by prefix and by name: who gets to which, and as whom."""

from __future__ import annotations

import json
import pathlib
import socket
import ssl
from typing import Any

import pytest
import requests
import yaml

from tests.hosts import raw
from tests.hosts.conftest import QUICKSTART, Lab
from tests.hosts.test_attacks import IMAGE, PATIENT
from tests.hosts.test_site import changed

pytestmark = pytest.mark.later
LAB = {"name": "two-orthancs", "pacs": "trixie-installed", "other": "bookworm-installed", "proxy": "trixie-installed"}
WARD, OTHER = "a password of the ward", "a password of the other's"
NAMES = {name: f"{name}.example.org" for name in ("pacs", "other")}


class Site:
    """The quickstart twice, with users and a login of the proxy of their own, and one proxy."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory = lab, folder
        (folder / "group_vars").symlink_to(QUICKSTART / "group_vars")

    def deploy(self, orthancs: dict[str, dict[str, Any]], *proxies: str) -> str:
        users = {
            "pacs": {"admin": "{{ vault_orthanc_admin_password }}", "ward": WARD},
            "other": {"admin": OTHER, "ward": WARD},
        }
        hosts = {name: {"orthanc_users": users[name]} | more for name, more in orthancs.items()}
        if "other" in hosts:
            hosts["other"]["orthanc_proxy_password"] = "what the proxy has for the other"
        before = {"proxy": {"nginx_ban_after": 20}, **dict.fromkeys(proxies)}
        groups = {"orthanc": {"hosts": hosts}, "nginx": {"hosts": before}}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(groups, sort_keys=False), encoding="utf-8")
        return self.lab.play(inventory=self.inventory).stdout

    def ask(self, path: str, method: str = "GET", user: str = "admin", password: str | None = None) -> Any:
        with self.lab.session("proxy", user, password) as session:
            return session.request(method, self.lab.url(path, "proxy"), timeout=20)


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("two"))
    made.deploy(
        {"pacs": {"nginx_prefix": "/pacs/", "nginx_readonly_users": ["ward"]}, "other": {"nginx_prefix": "/o/"}}
    )
    return made


def test_each_has_its_prefix(site: Site) -> None:
    assert site.ask("/pacs/system").json()["Name"] == "pacs"
    assert site.ask("/o/system", password=OTHER).json()["Name"] == "other"
    # DICOMweb's answers lead back to the one that was asked.
    for path, password in (("/pacs/", None), ("/o/", OTHER)):
        assert site.ask(f"{path}dicom-web/studies", password=password).status_code == 200
    assert [site.ask(path).status_code for path in ("/", "/system", "/other/system")] == [404, 404, 404]
    said = site.lab.play(inventory=site.inventory).stdout
    assert not changed(said)


def test_users_of_one_are_none_of_the_other(site: Site) -> None:
    assert site.ask("/pacs/system", password=OTHER).status_code == 401
    refused = site.ask("/o/system")
    # By another name, since a browser would send the login of the one to the other, where it counts as a wrong one.
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, 'Basic realm="Orthanc /o/"')


def test_images_of_one_are_none_of_the_other(site: Site) -> None:
    with site.lab.session("proxy") as session:
        session.post(site.lab.url("/pacs/instances", "proxy"), IMAGE.read_bytes(), timeout=20).raise_for_status()
    for path in (f"/o/patients/{PATIENT}", f"/o/pacs/patients/{PATIENT}", f"/o/pacs/dicom-web/patients/{PATIENT}"):
        for method in ("GET", "DELETE"):
            assert site.ask(path, method, password=OTHER).status_code == 404
    assert site.ask("/o/patients", password=OTHER).json() == []
    assert site.ask("/pacs/patients").json() == [PATIENT]


def test_reader_of_one_may_write_to_the_other(site: Site) -> None:
    def ward(path: str, method: str = "GET") -> requests.Response:
        answer: requests.Response = site.ask(path, method, "ward", WARD)
        return answer

    assert [ward(f"{path}system").status_code for path in ("/pacs/", "/o/")] == [200, 200]
    assert ward("/pacs/patients/none", "DELETE").status_code == 403
    assert ward("/o/patients/none", "DELETE").status_code == 404
    assert ward("/pacs/dicom-web/studies", "POST").status_code == 403
    # What reads though it is sent by POST.
    assert ward("/pacs/tools/find", "POST").status_code == 400
    for path in ("/pacs/", "/o/"):
        assert ward(f"{path}tools/shutdown", "POST").status_code == 403
    trail = [json.loads(line) for line in site.lab.shell("cat /var/log/pacs/audit.log", "proxy").splitlines()]
    seen = [(line["orthanc"], line["status"]) for line in trail if (line["user"], line["method"]) == ("ward", "DELETE")]
    assert seen == [("pacs", 403), ("other", 404)]


def test_what_is_judged_at_one_gets_to_no_other(site: Site) -> None:
    """By none of the ways on which nginx and Orthanc read a request differently."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    login = raw.basic("ward", WARD)

    def status(target: bytes, *more: bytes) -> int:
        asked = raw.request(target, login, *more)
        return raw.status(raw.send(site.lab.address["proxy"], asked, 443, context))

    for target in (b"/o/../pacs/system", b"/o/%2e%2e/pacs/system", b"/o//pacs/system", b"/o/#/../pacs/system"):
        assert status(target) == 400
    assert status(b"/pacs/patients/none?_method=DELETE") == 403
    # As a GET, since nobody hands the other method on.
    assert status(b"/pacs/patients/none", b"X-HTTP-Method-Override: DELETE\r\n") == 404
    assert status(b"/pacs/tools/find", b"X-HTTP-Method-Override: DELETE\r\n") in (404, 405)


def test_each_relay_is_known_by_its_own_certificate(site: Site) -> None:
    """One in the place of the other gets no password."""
    change = "sed -i 's/upstream-{}.crt/upstream-{}.crt/' /etc/pacs/nginx/upstream-other.conf; systemctl restart nginx"
    site.lab.shell(change.format("other", "pacs"), "proxy")
    assert site.ask("/o/system", password=OTHER).status_code == 502
    site.lab.shell(change.format("pacs", "other"), "proxy")
    assert site.ask("/o/system", password=OTHER).status_code == 200


def test_each_is_proved(site: Site) -> None:
    said = " ".join(site.lab.play("verify", inventory=site.inventory).stdout.split())
    assert "other (conform), pacs (conform): as wanted" in said


def test_by_name(site: Site) -> None:
    site.deploy({name: {"nginx_server_name": NAMES[name]} for name in NAMES})
    files = site.lab.shell("ls /etc/pacs/nginx", "proxy").split()
    assert {"htpasswd-pacs", "htpasswd-other", "upstream-pacs.conf", "upstream-other.conf"} <= set(files)
    used = "sed -n 's/.*ssl_certificate \\(.*\\);/\\1/p' /etc/nginx/conf.d/orthanc.conf | sort -u | xargs cat"
    # One for both names, which is verified here.
    context = ssl.create_default_context(cadata=site.lab.shell(used, "proxy"))

    def ask(name: str, password: str, line: str = "GET /system", origin: str = "") -> tuple[int, bytes]:
        login = raw.basic("admin", password).decode()
        more = f"Origin: https://{NAMES[origin]}\r\n" if origin else ""
        asked = f"{line} HTTP/1.1\r\nHost: {NAMES[name]}\r\n{login}{more}Connection: close\r\n\r\n"
        with (
            socket.create_connection((site.lab.address["proxy"], 443), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname=NAMES[name]) as secured,
        ):
            secured.sendall(asked.encode())
            answer = b"".join(iter(lambda: secured.recv(65536), b""))
        return raw.status(answer), answer

    first = site.lab.secrets["vault_orthanc_admin_password"]
    assert b'"Name" : "pacs"' in ask("pacs", first)[1]
    assert b'"Name" : "other"' in ask("other", OTHER)[1]
    assert ask("other", first)[0] == 401
    # A page of the one is foreign to the other.
    assert ask("other", OTHER, "DELETE /patients/none", "other")[0] == 404
    assert ask("other", OTHER, "DELETE /patients/none", "pacs")[0] == 403


def test_one_gets_a_proxy_of_its_own(site: Site) -> None:
    """Behind the common one there is one again, at the place that the proxy says."""
    site.deploy({"pacs": {}, "other": {}}, "other")
    assert site.ask("/system").json()["Name"] == "pacs"
    with site.lab.session("other", password=OTHER) as session:
        assert session.get(site.lab.url("/system", "other"), timeout=20).json()["Name"] == "other"
    files = site.lab.shell("ls /etc/pacs/nginx", "proxy").split()
    assert not [name for name in files if "-other" in name]

"""A proxy on a host of its own: whom it trusts, and what stays behind when it moves."""

from __future__ import annotations

import json
import pathlib
import ssl
import threading

import pytest
import requests
import yaml

from tests.hosts import raw
from tests.hosts.certificates import pem
from tests.hosts.conftest import QUICKSTART, ROOT, Lab
from tests.hosts.test_site import changed
from tests.repository import load

LAB = {"name": "split-site", "pacs": "bookworm-installed", "proxy": "bookworm-installed"}
RELAY = "/etc/pacs/nginx/relay-pacs"


class Site:
    """The quickstart with its proxy on a host of its own."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab = lab
        self.inventory = folder
        (folder / "group_vars").symlink_to(QUICKSTART / "group_vars")
        hosts = {"orthanc": {"hosts": {"pacs": None}}, "nginx": {"hosts": {"proxy": None}}}
        (folder / "hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")

    def get(self, path: str, host: str = "proxy") -> requests.Response:
        with self.lab.session(host) as session:
            return session.get(self.lab.url(path, host), timeout=20)


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("split"))
    lab.play(inventory=made.inventory)
    return made


def test_options_of_later_releases_are_left_out(site: Site) -> None:
    """The role sets some that the release at hand does not know, and would not say so."""
    wanted = load("roles/orthanc/vars/main/configuration.yml")["__orthanc_base"]
    written = json.loads(site.lab.shell("cat /etc/pacs/orthanc/orthanc.json"))
    known = json.loads((ROOT / "roles/orthanc/files/known_options.json").read_text(encoding="utf-8"))["1.10.1"]
    later = set(wanted) - set(known)
    assert later, "the role sets none any more"
    assert not later & set(written)
    elsewhere = {"OrthancPeers", "RegisteredUsers"}
    assert set(wanted) & set(known) - set(written) == elsewhere, "what may hold secrets is in credentials.json"


def test_prefix_is_the_one_of_the_proxy(site: Site) -> None:
    # And the proxy may be one whose address is not known.
    changes = {"nginx_prefix": "/orthanc/", "nginx_relay_clients": ["proxy.hospital.example"]}
    site.lab.play(inventory=site.inventory, variables=changes)
    assert site.get("/orthanc/system").json()["Name"] == "pacs"
    assert site.get("/orthanc/dicom-web/studies").status_code == 200


def test_relay_serves_the_proxy_alone(site: Site, tmp_path: pathlib.Path) -> None:
    """By its certificate, also where its address is not known; and what is not in normal form gets nowhere."""
    assert "allow" not in site.lab.shell("cat /etc/nginx/conf.d/orthanc-relay.conf")
    login = raw.basic("proxy", site.lab.secrets["vault_orthanc_proxy_password"])

    def ask(target: bytes, certificate: str = "") -> int:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if certificate:
            file = tmp_path / "shown.pem"
            file.write_text(certificate, encoding="ascii")
            context.load_cert_chain(file)
        return raw.status(raw.send(site.lab.address["pacs"], raw.request(target, login), 8043, context))

    own = site.lab.shell(f"cat {RELAY}-client.crt {RELAY}-client.key")
    assert ask(b"/system", own) == 200
    assert ask(b"/dicom-web/#/../system", own) == 400
    assert ask(b"/system") == 400
    # Of the same name, and the relay's own.
    assert ask(b"/system", "".join(pem("Proxy"))) == 400
    assert ask(b"/system", site.lab.shell(f"cat {RELAY}.crt {RELAY}.key")) == 400
    assert site.lab.shell("stat --format '%a %U' /etc/pacs/nginx/upstream-client.key", "proxy") == "600 root\n"
    site.lab.play(inventory=site.inventory)
    assert site.get("/system").status_code == 200
    assert f"allow {site.lab.address['proxy']};" in site.lab.shell("cat /etc/nginx/conf.d/orthanc-relay.conf")


def test_firewall_before_the_relay(site: Site) -> None:
    proxy = site.lab.address["proxy"]
    rule = f"ip saddr {proxy} tcp dport 8043 drop"
    site.lab.shell(f"nft 'table inet closed {{ chain i {{ type filter hook input priority 0; {rule}; }}; }}'")
    try:
        said = site.lab.play(inventory=site.inventory, check=False).stdout
    finally:
        site.lab.shell("nft delete table inet closed")
    assert "The relay on pacs does not answer this proxy (proxy) at https://" in " ".join(said.split())


def test_bad_setting_with_a_new_password_of_the_proxy(site: Site) -> None:
    """Orthanc goes back to the old one, and the run goes on at the proxy with the new one."""
    bad = {"orthanc_settings_unchecked": {"DefaultEncoding": "Klingon"}}
    variables = {"orthanc_proxy_password": "a new one", **bad}
    said = site.lab.play(inventory=site.inventory, variables=variables, check=False).stdout
    assert "The configuration that worked last is back, and Orthanc serves with it." in " ".join(said.split())
    assert site.get("/system").status_code == 200
    site.lab.play(inventory=site.inventory, variables={"orthanc_proxy_password": "a new one"})
    assert site.get("/system").status_code == 200


def open_relay(site: Site) -> None:
    """Have both hosts as a release left them whose relay asked for no certificate, and left logins to Orthanc."""
    site.lab.shell(
        "sed -i '/ssl_client_certificate/d; /ssl_verify_client/d; /orthanc_login/d'"
        f" /etc/nginx/conf.d/orthanc-relay.conf; rm {RELAY}-client.*; nginx -t -q; systemctl restart nginx"
    )
    site.lab.shell(
        "sed -i '/proxy_ssl_certificate/d' /etc/pacs/nginx/upstream.conf; rm /etc/pacs/nginx/upstream-client.*;"
        " nginx -t -q; systemctl restart nginx",
        "proxy",
    )


@pytest.mark.later
def test_site_of_before_the_relay_asked_for_a_certificate(site: Site) -> None:
    """The proxy has it first; until then the relay stays as it was, also where the run goes no further."""
    site.lab.play(inventory=site.inventory)
    open_relay(site)
    assert site.get("/system").status_code == 200
    said = site.lab.play(inventory=site.inventory, arguments=("--limit", "pacs")).stdout
    assert "The relay on pacs stays as it was" in " ".join(said.split())
    assert "run playbooks/site.yml for both hosts" in " ".join(said.split())
    assert site.get("/system").status_code == 200
    assert "ssl_verify_client" not in site.lab.shell("cat /etc/nginx/conf.d/orthanc-relay.conf")

    got: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            got.append(site.get("/system").status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        site.lab.play(inventory=site.inventory)
    finally:
        over.set()
        asking.join()
    assert len(got) > 3
    assert set(got) == {200}
    assert "ssl_verify_client on;" in site.lab.shell("cat /etc/nginx/conf.d/orthanc-relay.conf")
    assert not changed(site.lab.play(inventory=site.inventory).stdout)


def test_impostor_gets_no_password(site: Site) -> None:
    """Somebody in Orthanc's place has no certificate that the proxy knows, whatever name it bears."""
    subject = "-subj /CN=Orthanc -addext subjectAltName=DNS:pacs,DNS:localhost"
    site.lab.shell(
        f"cp -p {RELAY}.crt {RELAY}.key /root; "
        f"openssl req -x509 -newkey rsa:2048 -noenc {subject} -keyout {RELAY}.key -out {RELAY}.crt 2> /dev/null; "
        "systemctl restart nginx; truncate --size 0 /var/log/nginx/access.log"
    )
    try:
        assert site.get("/system").status_code == 502
        assert "certificate verify error" in site.lab.shell("cat /var/log/nginx/error.log", "proxy")
        assert "/system" not in site.lab.shell("cat /var/log/nginx/access.log")
    finally:
        site.lab.shell(f"cp -p /root/{RELAY.rpartition('/')[2]}.* /etc/pacs/nginx; systemctl restart nginx")
    assert site.get("/system").status_code == 200


def test_relay_goes_when_the_proxy_moves_in(site: Site) -> None:
    # The shipped inventory has the proxy beside Orthanc, and knows nothing of the other host.
    hosts = ("--limit", "pacs")
    site.lab.play(arguments=hosts)
    assert site.get("/system", "pacs").status_code == 200
    assert ":8043 " not in site.lab.shell("ss -Hltn")
    site.lab.play(inventory=site.inventory)
    assert site.get("/system").status_code == 200
    assert ":443 " not in site.lab.shell("ss -Hltn"), "the public site is still on Orthanc's host"

"""Certificates: of an authority of one's own for all that needs one, and of an authority that is asked over ACME."""

from __future__ import annotations

import json
import pathlib
import re
import socket
import ssl
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import yaml
from cryptography import x509
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.hosts.certificates import pem
from tests.hosts.conftest import ENVIRONMENT, QUICKSTART, Lab, run
from tests.hosts.cuts import restart
from tests.hosts.test_site import changed

# Where a certificate is not what is tested, it is not looked at.
pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
LAB = {"name": "certificates", "pacs": "trixie-installed", "old": "bookworm-installed", "db": "trixie-installed"}
NAMES = {"pacs": "pacs.hospital.example", "old": "old.hospital.example"}
# Each has its database on the third host.
PORTS = {"pacs": ("postgresql", 5432), "old": ("mysql", 3306)}


class Site:
    """Two archives with certificates of their own authority."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.folder, self.inventory = lab, folder, folder / "inventory"
        self.all = self.inventory / "group_vars" / "all"
        self.all.mkdir(parents=True)
        for file in (QUICKSTART / "group_vars" / "all").iterdir():
            (self.all / file.name).symlink_to(file)
        names = {host: {"nginx_server_name": NAMES[host], "orthanc_database": PORTS[host][0]} for host in NAMES}
        password = {"orthanc_database_password": "{{ vault_orthanc_database_password }}"}
        (self.inventory / "hosts.yml").write_text(
            yaml.safe_dump(
                {"orthanc": {"hosts": names, "vars": password}, "nginx": {"hosts": dict.fromkeys(NAMES)}}
                | {engine: {"hosts": {"db": None}} for engine, _ in PORTS.values()}
            ),
            encoding="utf-8",
        )

    def make(self, *arguments: str, check: bool = True, **variables: Any) -> str:
        """Call what `make certificates` calls."""
        where = ("-i", str(self.lab.folder), "-i", str(self.inventory))
        given = ("-e", json.dumps({"certificates_machines": ["ct-1"]} | variables))
        done = run("ansible-playbook", *where, *given, *arguments, "playbooks/certificates.yml", check=check)
        assert check or done.returncode
        return done.stdout

    def made(self) -> dict[str, Any]:
        found = yaml.safe_load(run("ansible-vault", "view", self.all / "certificates.yml").stdout)
        return dict(found)

    def deploy(self, **variables: Any) -> str:
        return self.lab.play(variables=variables, inventory=self.inventory).stdout

    def served(self, host: str, authority: str) -> x509.Certificate:
        """Connect to the site as its users do, and return the certificate by which it is known."""
        context = ssl.create_default_context(cadata=authority)
        address = (self.lab.address[host], 443)
        with (
            socket.create_connection(address, timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=NAMES[host]) as secure,
        ):
            return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("certificates")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PACS_VAULT_PASSWORD_FILE", str(folder / "password"))
        made = Site(lab, folder)
        refused = made.make(check=False)
        assert "make a new one with: make secrets" in refused
        assert not (made.all / "certificates.yml").exists()
        (folder / "password").write_text("a password for tests\n", encoding="utf-8")
        made.make()
        yield made


@pytest.fixture(scope="module")
def own(site: Site) -> Site:
    """The site with all that the authority's certificates are for."""
    authority = "{{ certificates_authority }}"
    site.deploy(
        orthanc_dicom_tls_certificate="{{ site_certificate }}",
        orthanc_dicom_tls_private_key="{{ site_private_key }}",
        orthanc_dicom_tls_trusted=authority,
        nginx_client_ca=authority,
        nginx_client_names=["ct-1"],
    )
    return site


@pytest.mark.parametrize("host", NAMES)
def test_site_is_known_by_the_authority(own: Site, host: str) -> None:
    found = own.served(host, own.made()["certificates_authority"])
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {NAMES[host], host}
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [own.lab.address[host]]
    with pytest.raises(ssl.SSLCertVerificationError):
        own.served(host, pem("Authority of this Orthanc site")[0])


@pytest.mark.parametrize("host", NAMES)
def test_database_is_known_by_the_authority(own: Site, host: str) -> None:
    """Orthanc verifies it too, else the deployment would have ended."""
    (engine, port), address = PORTS[host], own.lab.address["db"]
    ask = f"openssl s_client -starttls {'mysql' if engine == 'mysql' else 'postgres'}"
    own.lab.shell(
        f"{ask} -connect {address}:{port} -verify_return_error -verify_ip {address}"
        " -CAfile /etc/pacs/nginx/clients.crt < /dev/null",
        host,
    )
    other = f"{ask} -connect {address}:{port} -verify_return_error -CAfile /dev/null < /dev/null && echo taken; true"
    assert "taken" not in own.lab.shell(other, host)


@pytest.mark.parametrize("host", NAMES)
def test_machine_gets_in_with_its_certificate(own: Site, host: str) -> None:
    made = own.made()
    for file, text in {
        "ct-1.crt": made["certificates_made"]["ct-1"],
        "ct-1.key": made["certificates_private_keys"]["ct-1"],
        "ca.crt": made["certificates_authority"],
    }.items():
        (own.folder / file).write_text(text, encoding="utf-8")
    pair = (str(own.folder / "ct-1.crt"), str(own.folder / "ct-1.key"))
    with requests.Session() as session:
        session.trust_env, session.verify = False, False
        url = f"https://{own.lab.address[host]}/system"
        assert session.get(url, timeout=10).status_code == 401
        assert session.get(url, timeout=10, cert=pair).status_code == 200
    entity = AE("VERIFIER")
    entity.add_requested_context(Verification)
    context = ssl.create_default_context(cafile=str(own.folder / "ca.crt"))
    for certificates, expected in (((), False), (pair, True)):
        if certificates:
            context.load_cert_chain(*certificates)
        association = entity.associate(own.lab.address[host], 4242, ae_title="ORTHANC", tls_args=(context, NAMES[host]))
        assert association.is_established == expected
        association.release()


@pytest.mark.later
def test_verification_shows_a_certificate(own: Site) -> None:
    """Where nobody gets in without one: at the proxy, at the DICOM port, and when Orthanc sends."""
    own.make(certificates_machines=["ct-1", "verifier"])
    mutual = {
        # No server of names knows the others.
        "nginx_server_name": "{{ ansible_host }}",
        "nginx_client_ca": "{{ certificates_authority }}",
        "nginx_client_names": ["ct-1"],
        "nginx_client_certificate": "required",
        "orthanc_dicom_tls_certificate": "{{ site_certificate }}",
        "orthanc_dicom_tls_private_key": "{{ site_private_key }}",
        "orthanc_dicom_tls_trusted": "{{ certificates_authority }}",
        "orthanc_modalities": {name: entry | {"UseDicomTls": True} for name, entry in own.lab.modalities.items()},
        "verification_report_dir": str(own.folder / "report"),
        "verification_certificate": "{{ certificates_made.verifier }}",
        "verification_private_key": "{{ certificates_private_keys.verifier }}",
    }
    own.deploy(**mutual)
    out = own.lab.play("verify", variables=mutual, inventory=own.inventory).stdout
    assert re.search(r"[1-9]\d+ passed, 0 failed", out), out
    report = ElementTree.parse(own.folder / "report" / "junit.xml")
    left = {case.get("name", "") for case in report.iter("testcase") if case.find("skipped") is not None}
    for name in ("test_echo", "test_store", "test_store_one", "test_move", "test_query"):
        assert not {f"{name}[pacs]", f"{name}[old]"} & left, "DICOM is tried, not left out"
    without = mutual | {"verification_certificate": "", "verification_private_key": "", "verification_level": "probe"}
    refused = own.lab.play("verify", variables=without, inventory=own.inventory, check=False)
    assert refused.returncode
    own.make()


def test_second_run_changes_nothing(own: Site) -> None:
    before = (own.all / "certificates.yml").read_bytes()
    assert " changed=0 " in own.make()
    assert (own.all / "certificates.yml").read_bytes() == before


def test_what_is_written_is_encrypted_and_nothing_is_shown(own: Site) -> None:
    for name in ("certificates.yml", "authority.key"):
        assert (own.all / name).read_text(encoding="utf-8").startswith("$ANSIBLE_VAULT;")
        assert (own.all / name).stat().st_mode & 0o777 == 0o600
    # With one machine more there is a key to make and to write.
    shown = own.make("-vvv", "--diff", certificates_machines=["ct-1", "mr-1"])
    assert "PRIVATE KEY" not in shown
    assert "mr-1" in own.made()["certificates_private_keys"]


def test_new_certificate_before_the_end(own: Site) -> None:
    before = own.made()
    own.make(certificates_renew_days=398, certificates_days=500)
    after = own.made()
    assert after["certificates_authority"] == before["certificates_authority"]
    assert after["certificates_private_keys"]["pacs"] == before["certificates_private_keys"]["pacs"]
    assert after["certificates_made"]["pacs"] != before["certificates_made"]["pacs"]
    own.deploy()
    served = own.served("pacs", after["certificates_authority"])
    assert served == x509.load_pem_x509_certificate(after["certificates_made"]["pacs"].encode())


def test_authority_without_its_key_is_not_replaced(own: Site) -> None:
    key = own.all / "authority.key"
    text = key.read_text(encoding="utf-8")
    key.unlink()
    before = (own.all / "certificates.yml").read_bytes()
    assert "is missing while the inventory has certificates" in " ".join(own.make(check=False).split())
    assert (own.all / "certificates.yml").read_bytes() == before
    assert not key.exists()
    key.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "wrong",
    [
        {"certificates_days": 1},
        {"certificates_days": 826},
        {"certificates_renew_days": 0},
        {"certificates_renew_days": 397},
        {"certificates_machines": ["ct 1"]},
        {"certificates_machines": ["pacs"]},
        {"certificates_machines": ["ct-1", "ct-1"]},
        {"certificates_machines": 5},
    ],
    ids=str,
)
def test_wrong_values(site: Site, wrong: dict[str, Any]) -> None:
    before = (site.all / "certificates.yml").read_bytes()
    assert next(iter(wrong)) in site.make(check=False, **wrong)
    assert (site.all / "certificates.yml").read_bytes() == before


class Acme:
    """Pebble, a server of the ACME protocol for tests, on a host of its own."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        address = lab.address["db"]
        self.directory = f"https://{address}:14000/dir"
        self.certificate, key = pem(address)
        settings = {
            "listenAddress": "0.0.0.0:14000",
            "managementListenAddress": "0.0.0.0:15000",
            "certificate": "/root/acme.crt",
            "privateKey": "/root/acme.key",
            "httpPort": 80,
            "tlsPort": 443,
        }
        files = {"acme.crt": self.certificate, "acme.key": key, "acme.json": json.dumps({"pebble": settings})}
        for name, text in files.items():
            lab.shell(f"cat > /root/{name} <<'END'\n{text}\nEND", "db")
        lab.shell(
            "apt-get install -y -q --no-install-recommends pebble;"
            f"echo '{lab.address['pacs']} {NAMES['pacs']}' >> /etc/hosts;"
            "systemd-run --unit pebble --setenv PEBBLE_VA_NOSLEEP=1 --setenv PEBBLE_WFE_NONCEREJECT=0"
            " pebble -config /root/acme.json;"
            "for i in $(seq 50); do ss -ltn | grep -q :15000 && exit; sleep .1; done; exit 1",
            "db",
        )

    def root(self) -> str:
        with requests.Session() as session:
            session.trust_env, session.verify = False, False
            return session.get(f"https://{self.lab.address['db']}:15000/roots/0", timeout=10).text


@pytest.fixture(scope="module")
def acme(own: Site) -> Acme:
    """The site of one host, which takes its certificate from Pebble."""
    return Acme(own.lab)


def from_acme(acme: Acme, **variables: Any) -> dict[str, Any]:
    return {
        "nginx_acme_directory": acme.directory,
        "nginx_acme_ca": acme.certificate,
        "nginx_acme_email": "pacs@hospital.example",
    } | variables


ONLY = ("--limit", "pacs")


# The key's turn is the second one.
KILL = """#!/bin/sh
case "$1" in *.key.new) kill -9 $PPID; exit ;; esac
exec /usr/bin/mv "$@"
"""


def cut_off_before_the_key(own: Site, acme: Acme) -> None:
    """A certificate has come and its key has not, and the host goes down: it comes up with those of before."""
    lab = own.lab
    before = own.served("pacs", acme.root())
    lab.shell(f"cat > /usr/local/sbin/mv <<'END'\n{KILL}END\nchmod 755 /usr/local/sbin/mv")
    lab.shell("sed -i 's/-q renew/-q renew --force-renewal/' /usr/lib/systemd/system/certbot.service")
    lab.shell("systemctl daemon-reload; ! systemctl start certbot.service")
    lab.shell("rm /usr/local/sbin/mv; ! nginx -t")
    restart(lab)
    # Its second start is the good one.
    lab.shell("for i in $(seq 100); do systemctl is-active -q nginx && exit; sleep .1; done; exit 1")
    assert own.served("pacs", acme.root()) == before
    lab.shell("sed -i 's/ --force-renewal//' /usr/lib/systemd/system/certbot.service; systemctl daemon-reload")
    lab.shell("systemctl start certbot.service; sleep 1")
    assert own.served("pacs", acme.root()) != before


@pytest.mark.later
def test_certificate_comes_from_acme_and_is_renewed(own: Site, acme: Acme) -> None:
    lab = own.lab
    lab.play(variables=from_acme(acme), inventory=own.inventory, arguments=ONLY)
    first = own.served("pacs", acme.root())
    again = lab.play(variables=from_acme(acme), inventory=own.inventory, arguments=ONLY).stdout
    assert not changed(again), again
    assert own.served("pacs", acme.root()) == first
    # As the timer does it, but now.
    assert lab.shell("systemctl is-active certbot.timer").strip() == "active"
    lab.shell("sed -i 's/-q renew/-q renew --force-renewal/' /usr/lib/systemd/system/certbot.service")
    lab.shell("systemctl daemon-reload; systemctl start certbot.service")
    lab.shell("sleep 1")
    renewed = own.served("pacs", acme.root())
    # One that nginx does not take when it comes is taken at the next run, which gets none.
    lab.shell("echo wrong > /etc/nginx/conf.d/wrong.conf; ! systemctl start certbot.service")
    assert own.served("pacs", acme.root()) == renewed
    lab.shell("sed -i 's/ --force-renewal//' /usr/lib/systemd/system/certbot.service; systemctl daemon-reload")
    lab.shell("rm /etc/nginx/conf.d/wrong.conf; systemctl start certbot.service; sleep 1")
    assert own.served("pacs", acme.root()) != renewed
    assert renewed.serial_number != first.serial_number
    cut_off_before_the_key(own, acme)
    assert not changed(lab.play(variables=from_acme(acme), inventory=own.inventory, arguments=ONLY).stdout)
    assert (
        lab.shell("find /etc/pacs /etc/letsencrypt -name '*.key' -perm /077; stat -c %a /etc/pacs/nginx/*.key")
        == "600\n"
    )


@pytest.mark.later
def test_site_goes_on_when_acme_does_not(own: Site, acme: Acme) -> None:
    before = own.served("pacs", acme.root())
    gone = from_acme(acme, nginx_acme_directory=acme.directory.replace("14000", "14001"))
    done = own.lab.play(variables=gone, inventory=own.inventory, arguments=ONLY, check=False)
    assert done.returncode
    assert "nginx_acme_directory" in done.stdout
    assert own.served("pacs", acme.root()) == before

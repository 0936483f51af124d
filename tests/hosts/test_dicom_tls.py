"""DICOM over TLS on both releases: who gets in, with which certificate, and how Orthanc sends."""

from __future__ import annotations

import json
import pathlib
import ssl
from typing import Any

import pytest
import yaml
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.hosts.certificates import pem
from tests.hosts.conftest import QUICKSTART, Lab

# The old versions are what it is about. That only a certificate lets in, test_certificates.py sees at each change.
pytestmark = [pytest.mark.later, pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")]
LAB = {"name": "dicom-tls", "pacs": "trixie-installed", "old": "bookworm-installed"}
HOSTS = ("pacs", "old")
# Two of one name, of which no library knows both, and one of another.
AUTHORITY, FOREIGN, OTHER = pem("Clinic"), pem("Clinic"), pem("Other clinic")
PAIRS = {
    "pacs": pem("pacs", by=AUTHORITY),
    # The older release speaks TLS 1.2 with RSA only.
    "old": pem("old", by=AUTHORITY, old=True),
    "ct": pem("ct", by=AUTHORITY),
    "foreign": pem("ct", by=FOREIGN),
    "other": pem("ct", by=OTHER),
}
TLS = {
    "pairs": PAIRS,
    "orthanc_dicom_tls_certificate": "{{ pairs[inventory_hostname][0] }}",
    "orthanc_dicom_tls_private_key": "{{ pairs[inventory_hostname][1] }}",
    "orthanc_dicom_tls_trusted": AUTHORITY[0],
}


class Site:
    """An Orthanc of each release, each a modality of the other."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.folder, self.inventory = lab, folder, folder / "inventory"
        self.inventory.mkdir()
        (self.inventory / "group_vars").symlink_to(QUICKSTART / "group_vars")
        (self.inventory / "hosts.yml").write_text(
            yaml.safe_dump({"orthanc": {"hosts": {"pacs": None, "old": {"orthanc_aet": "OLD"}}}}), encoding="utf-8"
        )
        others = {"pacs": "ORTHANC", "old": "OLD"}
        self.modalities = lab.modalities | {
            name: {"AET": title, "Host": lab.address[name], "Port": 4242, "UseDicomTls": True}
            for name, title in others.items()
        }
        for name, (certificate, key) in PAIRS.items():
            (folder / f"{name}.crt").write_text(certificate, encoding="utf-8")
            (folder / f"{name}.key").write_text(key, encoding="utf-8")

    def deploy(self, **variables: Any) -> str:
        return self.lab.play(variables=variables, inventory=self.inventory).stdout

    def echo(self, host: str, certificate: str = "", newest: ssl.TLSVersion | None = ssl.TLSVersion.TLSv1_3) -> bool:
        """Tell whether a C-ECHO from here is answered; without a newest TLS it is plain DICOM."""
        entity = AE("VERIFIER")
        entity.add_requested_context(Verification)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 10
        secured = None
        if newest:
            context = ssl.create_default_context(cadata=AUTHORITY[0])
            context.check_hostname = False
            # Else this side would refuse an old version by itself.
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = newest
            if certificate:
                context.load_cert_chain(self.folder / f"{certificate}.crt", self.folder / f"{certificate}.key")
            secured = (context, "orthanc")
        title = "ORTHANC" if host == "pacs" else "OLD"
        association = entity.associate(self.lab.address[host], 4242, ae_title=title, tls_args=secured)
        if not association.is_established:
            return False
        status = association.send_c_echo()
        association.release()
        return "Status" in status and status.Status == 0

    def echoscu(self, host: str, arguments: str) -> bool:
        """The same by dcmtk, from the other host."""
        sender = "old" if host == "pacs" else "pacs"
        titles = "-aet OLD -aec ORTHANC" if host == "pacs" else "-aet ORTHANC -aec OLD"
        command = f"cd /root/tls; timeout 20 echoscu -to 10 {titles} {arguments} {host} 4242 > echo.log 2>&1; echo $?"
        return self.lab.shell(command, sender) == "0\n"


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("dicom-tls"))
    made.deploy(
        orthanc_modalities=made.modalities | {name: made.modalities[name] | {"UseDicomTls": False} for name in HOSTS}
    )
    for host in HOSTS:
        texts = {
            f"{name}.{end}": text
            for name, pair in PAIRS.items()
            for end, text in zip(("crt", "key"), pair, strict=True)
        }
        for name, text in (texts | {"ca.crt": AUTHORITY[0]}).items():
            lab.shell(f"mkdir -p /root/tls; cat > /root/tls/{name} <<'END'\n{text}END", host)
    for host in HOSTS:
        assert made.echo(host, newest=None), "in plain DICOM, so that its refusal later means something"
        assert made.echoscu(host, "")
    made.deploy(**TLS, orthanc_modalities=made.modalities)
    return made


@pytest.mark.parametrize("host", HOSTS)
def test_certificates(site: Site, host: str) -> None:
    assert site.echo(host, "ct")
    assert site.echo(host, "ct", ssl.TLSVersion.TLSv1_2)
    assert not site.echo(host, "ct", ssl.TLSVersion.TLSv1_1)
    assert not site.echo(host, "foreign")
    assert not site.echo(host)
    assert not site.echo(host, newest=None)


@pytest.mark.parametrize("host", HOSTS)
def test_certificates_by_dcmtk(site: Site, host: str) -> None:
    assert site.echoscu(host, "+tls ct.key ct.crt +cf ca.crt")
    assert not site.echoscu(host, "+tls foreign.key foreign.crt +cf ca.crt")
    assert not site.echoscu(host, "+tla +cf ca.crt")
    assert not site.echoscu(host, "")


@pytest.mark.parametrize("host, other", [HOSTS, HOSTS[::-1]])
def test_orthanc_sends_over_tls(site: Site, host: str, other: str) -> None:
    login = f"user = {json.dumps('admin:' + site.lab.secrets['vault_orthanc_admin_password'], ensure_ascii=False)}"
    ask = f"curl --silent --fail --config - --data '' http://127.0.0.1:8042/modalities/{other}/echo"
    assert site.lab.shell(f"{ask} <<'END'\n{login}\nEND\necho $?", host).endswith("0\n")


@pytest.mark.parametrize("host", HOSTS)
def test_key_is_for_orthanc_only(site: Site, host: str) -> None:
    found = site.lab.shell("stat --format %a,%U:%G /etc/pacs/orthanc/dicom-*", host)
    assert set(found.split()) == {"640,root:orthanc"}


def test_newest_version_only(site: Site) -> None:
    site.lab.play(
        variables=TLS | {"orthanc_modalities": site.modalities, "orthanc_dicom_tls_minimum_version": "1.3"},
        inventory=site.inventory,
        arguments=["--limit", "pacs"],
    )
    assert site.echo("pacs", "ct")
    assert not site.echo("pacs", "ct", ssl.TLSVersion.TLSv1_2)
    assert site.echoscu("pacs", "+tls ct.key ct.crt +cf ca.crt +py")
    done = site.lab.play(
        variables=TLS | {"orthanc_dicom_tls_minimum_version": "1.3"},
        inventory=site.inventory,
        arguments=["--limit", "old"],
        check=False,
    )
    assert "cannot be told so" in done.stdout


def test_old_versions_are_within_reach_of_these_tests(site: Site) -> None:
    """Orthanc left alone takes them."""
    certificate, key = PAIRS["old"]
    own = {"orthanc_dicom_tls_certificate": certificate, "orthanc_dicom_tls_private_key": key}
    alone = {"orthanc_settings": {"DicomTlsMinimumProtocolVersion": 0, "DicomTlsCiphersAccepted": []}}
    site.lab.play(variables=TLS | own | alone, inventory=site.inventory, arguments=["--limit", "pacs"])
    assert site.echo("pacs", "ct", ssl.TLSVersion.TLSv1_1)


def test_another_trust_anchor_is_announced(site: Site) -> None:
    """Orthanc reads it at its start, which ends associations; all else of a modality takes none."""
    asked = TLS | {"orthanc_modalities": site.modalities}
    site.deploy(**asked)
    announced = "orthanc_dicom_tls_trusted: it is another one than on the host"
    assert [site.echo(host, "other") for host in HOSTS] == [False, False]
    asked["orthanc_dicom_tls_trusted"] = AUTHORITY[0] + OTHER[0]
    assert announced in " ".join(site.deploy(**asked).split())
    assert [site.echo(host, name) for host in HOSTS for name in ("other", "ct")] == [True] * 4
    assert announced not in " ".join(site.deploy(**asked).split())

"""Two Orthancs of two releases that send to and ask each other, one of which lets nobody in without a certificate."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from tests.checks import outcomes
from tests.hosts.conftest import ROOT, Lab

pytestmark = pytest.mark.later
LAB = {"name": "peers", "pacs": "trixie-installed", "archive": "bookworm-installed"}
PAIR = ROOT / "inventories" / "pair"
VERIFIER = {
    "verification_certificate": "{{ certificates_made.verifier }}",
    "verification_private_key": "{{ certificates_private_keys.verifier }}",
}
# What the shipped inventory has with a password, with a certificate here.
HOSTS: dict[str, dict[str, Any]] = {
    "pacs": {
        "orthanc_client_certificate": "{{ site_certificate }}",
        "orthanc_client_private_key": "{{ site_private_key }}",
        "orthanc_peers": {
            "archive": {
                "Url": "https://{{ hostvars['archive'].ansible_host }}/",
                "CertificateFile": "/etc/pacs/orthanc/client.crt",
                "CertificateKeyFile": "/etc/pacs/orthanc/client.key",
            }
        },
    },
    "archive": {
        "nginx_client_ca": "{{ certificates_authority }}",
        "nginx_client_names": ["pacs"],
        "nginx_client_certificate": "required",
    },
}


@pytest.fixture(scope="module")
def pair(lab: Lab) -> Lab:
    (lab.folder / "host_vars").mkdir()
    for host, variables in HOSTS.items():
        (lab.folder / "host_vars" / f"{host}.json").write_text(json.dumps(variables | VERIFIER), encoding="utf-8")
    lab.play("certificates", {"certificates_machines": ["verifier"]}, inventory=PAIR)
    lab.play(inventory=PAIR)
    return lab


def test_peers_know_each_other_by_their_certificates(pair: Lab, tmp_path: pathlib.Path) -> None:
    script = "import ssl, sys, urllib.request as u; u.urlopen(sys.argv[1], context=ssl._create_unverified_context())"
    refused = pair.shell(f"python3 -c '{script}' https://{pair.address['archive']}/system", check=False)
    assert "HTTP Error 400" in refused, "the certificate is not asked for"
    pair.play("verify", {"verification_report_dir": str(tmp_path)}, inventory=PAIR)
    found = outcomes(tmp_path / "junit.xml", "test_pair")
    assert {name.rpartition("[")[2].partition("-")[0].rstrip("]") for name in found} == set(pair.address)
    assert len(found) == 18
    assert set(found.values()) == {"passed"}, found
    trail = pair.shell("cat /var/log/pacs/audit.log", "archive")
    stored = [entry for entry in map(json.loads, trail.splitlines()) if entry["method"] == "POST"]
    assert ("pacs", "/instances", 200) in {(entry["user"], entry["resource"], entry["status"]) for entry in stored}


def test_authorities_of_the_system_stay(pair: Lab) -> None:
    """Peers elsewhere are known by those; and in the one file that Orthanc reads the inventory's own comes last."""
    both = "cat /etc/ssl/certs/ca-certificates.crt /etc/pacs/orthanc/https-ca.crt"
    for host in pair.address:
        pair.shell(f"{both} | cmp - /run/orthanc/https-ca.crt", host)
        assert int(pair.shell("grep -c BEGIN /run/orthanc/https-ca.crt", host)) > 100

"""Two Orthancs that send to and ask each other, of two releases, as the shipped inventory has them."""

from __future__ import annotations

import pathlib
import xml.etree.ElementTree as ElementTree

import pytest

from tests.hosts.certificates import pem
from tests.hosts.conftest import ROOT, Lab

LAB = {"name": "pair", "pacs": "trixie", "archive": "bookworm"}
PAIR = ROOT / "inventories" / "pair"
# A site for machines, who show a certificate and no password.
MACHINES = """
server {
    listen 8443 ssl;
    ssl_certificate CERTIFICATE.crt;
    ssl_certificate_key CERTIFICATE.key;
    ssl_client_certificate /etc/pacs/machines.crt;
    ssl_verify_client on;
    client_max_body_size 0;
    include /etc/pacs/nginx/upstream.conf;
    location / { proxy_pass http://127.0.0.1:8042/; }
}
"""


@pytest.fixture(scope="module")
def pair(lab: Lab) -> Lab:
    lab.play(inventory=PAIR)
    for host, other in (("pacs", "archive"), ("archive", "pacs")):
        lab.trust(host, other)
    return lab


def write(lab: Lab, host: str, path: str, content: str) -> None:
    """Write a file that Orthanc and nginx may read."""
    lab.shell(f"cat > {path} <<'END'\n{content.strip()}\nEND\nchmod 0644 {path}", host)


def verified(lab: Lab, folder: pathlib.Path) -> dict[str, str]:
    """Verify both, and tell how each check on the two of them has ended."""
    lab.play("verify", {"verification_report_dir": str(folder)}, inventory=PAIR)
    found = {}
    for case in ElementTree.parse(folder / "junit.xml").iter("testcase"):
        if case.get("classname") == "test_pair":
            found[str(case.get("name"))] = next((child.tag for child in case if child.tag != "properties"), "passed")
    return found


def test_each_sends_to_and_asks_the_other(pair: Lab, tmp_path: pathlib.Path) -> None:
    found = verified(pair, tmp_path)
    assert {name.rpartition("[")[2].partition("-")[0].rstrip("]") for name in found} == set(pair.address)
    assert len(found) == 18
    assert set(found.values()) == {"passed"}, found


def test_peer_with_a_client_certificate(pair: Lab, tmp_path: pathlib.Path) -> None:
    certificate, key = pem("pacs")
    server = pair.shell("ls /etc/pacs/nginx/self-signed-*.crt", "archive").strip().removesuffix(".crt")
    write(pair, "archive", "/etc/pacs/machines.crt", certificate)
    write(pair, "archive", "/etc/nginx/conf.d/machines.conf", MACHINES.replace("CERTIFICATE", server))
    pair.shell("systemctl reload nginx", "archive")
    url = f"https://{pair.address['archive']}:8443/"
    ask = f"curl --silent --output /dev/null --write-out '%{{http_code}}' {url}system"
    pair.shell("apt-get install -y -q --no-install-recommends curl")
    assert pair.shell(ask) == "400", "the certificate is not asked for"
    write(pair, "pacs", "/etc/pacs/machine.crt", certificate)
    write(pair, "pacs", "/etc/pacs/machine.key", key)
    files = {"CertificateFile": "/etc/pacs/machine.crt", "CertificateKeyFile": "/etc/pacs/machine.key"}
    peers = {"orthanc_peers": {"machine": {"Url": url} | files}}
    pair.play(variables=peers, arguments=("--limit", "pacs"), inventory=PAIR)
    try:
        assert set(verified(pair, tmp_path).values()) == {"passed"}
        assert "/instances HTTP" in pair.shell("grep -h 'POST' /var/log/nginx/access.log | tail -50", "archive")
    finally:
        pair.shell("rm /etc/nginx/conf.d/machines.conf; systemctl reload nginx", "archive")
        pair.play(arguments=("--limit", "pacs"), inventory=PAIR)

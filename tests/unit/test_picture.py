"""A site as a list of connections, and as a picture."""

from __future__ import annotations

import json
import pathlib
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.dicom.orthanc.plugins.plugin_utils.picture import connections, picture

from tests.repository import ROOT, run

SVG = "{http://www.w3.org/2000/svg}"
Site = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Site:
    """Makes an inventory of groups, and of hosts with their variables, and returns its connections."""

    def make(hosts: dict[str, dict[str, Any]] | None = None, **groups: list[str]) -> list[dict[str, Any]]:
        content: dict[str, Any] = {name: {"hosts": dict.fromkeys(members)} for name, members in groups.items()}
        content["all"] = {"hosts": hosts or {}}
        file = tmp_path / "hosts.yml"
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        loader = DataLoader()
        loader.set_basedir(str(ROOT / "playbooks"))
        inventory = InventoryManager(loader=loader, sources=[str(file)])
        hostvars = HostVars(inventory, VariableManager(loader=loader, inventory=inventory), loader)
        return connections(hostvars, inventory.get_groups_dict())

    return make


def told(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["source"], row["target"], row["port"], row["spoken"], row["protection"]) for row in rows]


BOTH = "TLS, certificates of both sides"
USERS = [
    ("users", "pacs/nginx", 443, "HTTPS", "TLS, password"),
    ("users", "pacs/nginx", 80, "HTTP", "nothing but a redirection to HTTPS"),
]


def test_one_host(site: Site) -> None:
    assert told(site(orthanc=["pacs"], nginx=["pacs"])) == [
        *USERS,
        ("pacs/nginx", "pacs/Orthanc", 8042, "HTTP", "within the host"),
        ("modalities", "pacs/Orthanc", 4242, "DICOM", "plain DICOM"),
    ]


def test_three_hosts(site: Site) -> None:
    rows = site({"pacs": {"orthanc_database": "postgresql"}}, orthanc=["pacs"], nginx=["proxy"], postgresql=["db"])
    assert told(rows)[2:] == [
        ("proxy/nginx", "pacs/Orthanc", 8043, "HTTPS", BOTH),
        ("modalities", "pacs/Orthanc", 4242, "DICOM", "plain DICOM"),
        ("pacs/Orthanc", "db/PostgreSQL", 5432, "PostgreSQL", "TLS, password"),
    ]


def test_several_behind_one_proxy(site: Site) -> None:
    rows = told(site(orthanc=["one", "two"], nginx=["proxy"]))
    assert [row[:3] for row in rows if row[0] == "proxy/nginx"] == [
        ("proxy/nginx", "one/Orthanc", 8043),
        ("proxy/nginx", "two/Orthanc", 8043),
    ]


def test_certificates_and_tls(site: Site) -> None:
    host = {
        "nginx_client_ca": "PEM",
        "nginx_client_certificate": "required",
        "orthanc_dicom_tls_certificate": "PEM",
        "orthanc_database": "mysql",
        "orthanc_database_host": "db.example.org",
        "orthanc_database_tls": True,
    }
    rows = told(site({"pacs": host}, orthanc=["pacs"], nginx=["pacs"]))
    assert rows[0][-1] == "TLS, certificate and password"
    assert rows[3] == ("modalities", "pacs/Orthanc", 4242, "DICOM", BOTH)
    assert rows[4] == ("pacs/Orthanc", "database of others", 3306, "MariaDB", "TLS, password")


OTHERS = {
    "orthanc_modalities": {
        "CT1": ["CT1", "192.0.2.50", 104],
        "MR1": {"AET": "MR1", "Host": "mr1", "UseDicomTls": True},
    },
    "orthanc_peers": {"north": ["https://north.example.org/", "somebody", "a-secret"], "south": ["http://south:8042/"]},
    "orthanc_settings": {"DicomWeb": {"Servers": {"web": ["https://u:a-secret@web.example.org:8443/dicom-web"]}}},
    "orthanc_webhooks": [{"url": "https://ris.example.org/hook", "token": "a-secret"}],
}


def test_whom_it_sends_to(site: Site) -> None:
    rows = site({"pacs": OTHERS}, orthanc=["pacs"])
    assert "a-secret" not in str(rows)
    assert [(row["target"], row["name"], row["port"], row["protection"]) for row in rows[1:]] == [
        ("other modalities", "CT1 (CT1 at 192.0.2.50)", 104, "plain DICOM"),
        ("other modalities", "MR1 (MR1 at mr1)", 104, "TLS"),
        ("peers", "north (north.example.org)", 443, "TLS"),
        ("peers", "south (south)", 8042, "nothing"),
        ("DICOMweb servers", "web (web.example.org)", 8443, "TLS"),
        ("webhooks", "ris.example.org", 443, "TLS"),
    ]


def test_balancer_before_two(site: Site) -> None:
    """Its lines go past no other service, and those that go past it are in the list alone."""
    hosts = {name: {"ansible_host": f"192.0.2.{number}"} for number, name in enumerate(("pacs", "pacs2"), 1)}
    hosts["pacs"]["keepalived_address"] = "192.0.2.9"
    both = {group: ["pacs", "pacs2"] for group in ("orthanc", "nginx", "haproxy", "keepalived")}
    rows = site(hosts, **both)
    assert told(rows)[:7] == [
        ("users", "pacs/HAProxy", 443, "HTTPS", "TLS, up to the proxy"),
        ("users", "pacs/HAProxy", 80, "HTTP", "nothing but a redirection to HTTPS"),
        ("modalities", "pacs/HAProxy", 104, "DICOM", "plain DICOM"),
        ("pacs/HAProxy", "pacs/nginx", 8444, "HTTPS", "TLS, from the client"),
        ("pacs/HAProxy", "pacs/Orthanc", 4242, "DICOM", "plain DICOM"),
        ("pacs/HAProxy", "pacs2/nginx", 8444, "HTTPS", "TLS, from the client"),
        ("pacs/HAProxy", "pacs2/Orthanc", 4242, "DICOM", "plain DICOM"),
    ]
    assert ("users", "pacs/nginx", 443, "HTTPS", "TLS, password") in told(rows)
    texts, lines = drawn(rows)
    assert texts.count("HAProxy") == 2
    assert "HTTPS 443" in texts
    # Two to each balancer, four from each, one from each proxy, and one to each Orthanc.
    assert len([line for line in lines if line.get("marker-end")]) == 16


def drawn(rows: list[dict[str, Any]]) -> tuple[list[str], list[ET.Element]]:
    """Return what is written in a picture, and its lines."""
    hosts = {end.partition("/")[0] for row in rows for end in (row["source"], row["target"])}
    tree = ET.fromstring(picture(rows, {host: [host, "192.0.2.1"] for host in hosts}))
    return [str(text.text) for text in tree.iter(f"{SVG}text")], list(tree.findall(f"{SVG}path"))


def test_picture_has_all_of_it(site: Site) -> None:
    """What nothing protects is dashed, and each line begins and ends at another place than any other one."""
    rows = site({"pacs": OTHERS | {"orthanc_database": "mysql"}}, orthanc=["pacs"], nginx=["pacs"], mysql=["pacs"])
    words, lines = drawn(rows)
    assert {"pacs (192.0.2.1)", "users", "nginx", "Orthanc", "MariaDB", "HTTPS 443", "HTTP 80", "DICOM, 2 of them"} < {
        *words
    }
    assert len(lines) == len({(row["source"], row["target"]) for row in rows}) == len({line.get("d") for line in lines})
    dashed = [line for line in lines if line.get("stroke-dasharray")]
    # Those who send, the modalities, and the peers, of which one is not asked over HTTPS.
    assert len(dashed) == 3
    assert "dashed: not encrypted on its way" in words


def test_names_are_no_markup(site: Site) -> None:
    rows = site({"pacs": {"ansible_host": "<b>"}}, orthanc=["pacs"])
    assert "&lt;b&gt;" in picture(rows, {"pacs": ["pacs", "<b>"]})


def test_nothing_to_draw() -> None:
    with pytest.raises(AnsibleError, match="nothing to draw"):
        picture([], {})


def test_inventory_is_still_one_with_its_picture(tmp_path: pathlib.Path) -> None:
    """Ansible reads every file in its folder."""
    shutil.copytree(ROOT / "inventories" / "split", tmp_path / "site")
    secrets = ("admin_password", "proxy_password", "database_password", "viewer_password")
    given = json.dumps({f"vault_orthanc_{name}": "longer-than-that" for name in secrets})
    for changed in (1, 0):
        done = run(
            "ansible-playbook", "-i", str(tmp_path / "site"), "-e", given, str(ROOT / "playbooks" / "picture.yml")
        )
        assert done.returncode == 0, done.stdout
        assert f"ok=2    changed={changed}" in done.stdout
    page = (tmp_path / "site.html").read_text("utf-8")
    assert "<td>proxy: nginx</td><td>pacs: Orthanc</td><td>8043</td><td>HTTPS</td>" in page
    assert "longer-than-that" not in page


def test_pictures_of_the_documents_are_those_of_the_inventories(tmp_path: pathlib.Path) -> None:
    done = run("python", str(ROOT / "tools" / "pictures.py"), str(tmp_path))
    assert done.returncode == 0, done.stderr
    made = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text("utf-8") for path in (ROOT / "docs" / "pictures").glob("*.svg")}
    assert made

"""Who talks to whom, out of inventories of several hosts."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.dicom.orthanc.plugins.filter.topology import defaults, topology, variable_of

from tests.repository import ROOT

Ask = Callable[[str, str], Any]
PASSWORDS = {"orthanc_users": {"admin": "{{ word }}"}, "orthanc_proxy_password": "{{ word }}", "word": "a word"}


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Callable[..., Ask]:
    """Makes an inventory of groups, and of hosts with their variables, and returns what asks a host of it."""

    def make(hosts: dict[str, dict[str, Any]] | None = None, **groups: list[str]) -> Ask:
        content: dict[str, Any] = {name: {"hosts": dict.fromkeys(members)} for name, members in groups.items()}
        content["all"] = {"vars": PASSWORDS, "hosts": hosts or {}}
        file = tmp_path / "hosts.yml"
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        loader = DataLoader()
        loader.set_basedir(str(ROOT / "playbooks"))
        inventory = InventoryManager(loader=loader, sources=[str(file)])
        hostvars = HostVars(inventory, VariableManager(loader=loader, inventory=inventory), loader)
        return lambda name, part: topology(hostvars, inventory.get_groups_dict(), name, part)

    return make


def test_one_host_has_all(site: Callable[..., Ask]) -> None:
    ask = site({"pacs": {"ansible_host": "192.0.2.1"}}, orthanc=["pacs"], nginx=["pacs"])
    assert ask("pacs", "orthanc") == "pacs"
    assert ask("pacs", "proxies") == ["pacs"]
    assert ask("pacs", "upstream") == "http://127.0.0.1:8042"
    assert ask("pacs", "url") == "https://192.0.2.1/"
    assert ask("pacs", "users") == {"admin": "a word"}
    assert ask("pacs", "authorization") == "Basic cHJveHk6YSB3b3Jk"
    assert ask("pacs", "names") == {"pacs": ["192.0.2.1", "pacs"]}
    assert ask("pacs", "database_server") == ask("pacs", "database_address") == ""
    assert ask("pacs", "database_sharers") == ask("pacs", "database_clients") == []


def test_values_by_a_lookup(site: Callable[..., Ask], tmp_path: pathlib.Path) -> None:
    """As the README has a certificate of one's own."""
    (tmp_path / "pacs.crt").write_text("PEM", encoding="utf-8")
    own = {"nginx_tls_certificate": f"{{{{ lookup('ansible.builtin.file', '{tmp_path}/pacs.crt') }}}}"}
    ask = site({"pacs": own}, orthanc=["pacs"], nginx=["pacs"])
    assert ask("pacs", "face")["certificate"] == "/etc/pacs/nginx/site.crt"


def test_what_is_no_number_is_told_elsewhere(site: Callable[..., Ask]) -> None:
    ask = site({"pacs": {"nginx_https_port": "44x", "orthanc_http_port": None}}, orthanc=["pacs"], nginx=["pacs"])
    assert ask("pacs", "url") == "https://pacs:0/"
    assert ask("pacs", "upstream") == "http://127.0.0.1:0"


def test_group_that_is_called_as_an_engine_without_a_server(site: Callable[..., Ask]) -> None:
    ask = site(orthanc=["pacs"], sqlite=["pacs"])
    assert ask("pacs", "database_server") == ""
    assert not ask("pacs", "database_of_others")


def test_no_proxy(site: Callable[..., Ask]) -> None:
    ask = site(orthanc=["pacs"])
    assert ask("pacs", "proxies") == ask("pacs", "relay_clients") == []


def test_no_orthanc(site: Callable[..., Ask]) -> None:
    """The preflight refuses it, and has to be able to say so."""
    ask = site(nginx=["web"])
    assert ask("web", "orthanc") == ""
    assert ask("web", "upstream") == "http://127.0.0.1:8042"


def test_proxy_elsewhere(site: Callable[..., Ask]) -> None:
    given = {
        "pacs": {"ansible_host": "2001:db8::1", "nginx_relay_port": "9043", "nginx_prefix": "/none/"},
        "web": {"ansible_host": "{{ address }}", "address": "192.0.2.2", "nginx_prefix": "/o/", "word": "another"},
    }
    ask = site(given, orthanc=["pacs"], nginx=["web"])
    assert ask("pacs", "proxies") == ask("web", "proxies") == ask("web", "upstream_proxies") == ["web"]
    assert ask("pacs", "relay_clients") == ["192.0.2.2"]
    assert ask("web", "upstream") == "https://[2001:db8::1]:9043"
    assert ask("pacs", "url") == ask("web", "url") == "https://192.0.2.2/o/"
    # As Orthanc's host evaluates it.
    assert ask("web", "users") == {"admin": "a word"}
    assert ask("web", "authorization") == ask("pacs", "authorization") == "Basic cHJveHk6YSB3b3Jk"


def test_each_with_a_proxy_of_its_own(site: Callable[..., Ask]) -> None:
    ask = site(orthanc=["pacs", "other"], nginx=["web", "other"])
    assert ask("pacs", "proxies") == ["web"]
    assert ask("other", "proxies") == ["other"]
    assert ask("other", "upstream") == "http://127.0.0.1:8042"
    assert ask("web", "upstream") == "https://pacs:8043"


def test_face(site: Callable[..., Ask]) -> None:
    given = {"pacs": {"ansible_host": "192.0.2.1", "nginx_https_port": "8443", "nginx_ban_after": "7"}}
    face = {"host": "192.0.2.1", "http_port": 80, "https_port": 8443, "prefix": "/", "ban_after": 7}
    own = "/etc/pacs/nginx/self-signed-192.0.2.1.crt"
    groups = {"orthanc": ["pacs"], "nginx": ["pacs"]}
    ask = site(given, **groups)
    assert ask("pacs", "face") == face | {"certificate": own}
    assert ask("pacs", "url") == "https://192.0.2.1:8443/"
    named = {"nginx_server_name": "pacs.example.org"}
    acme = site({"pacs": named | {"nginx_acme_directory": "https://acme.example.org/d"}}, **groups)
    assert acme("pacs", "face")["certificate"] == "/etc/pacs/nginx/acme-pacs.example.org.crt"
    given_one = site({"pacs": named | {"nginx_tls_certificate": "PEM"}}, **groups)
    assert given_one("pacs", "face")["certificate"] == "/etc/pacs/nginx/site.crt"


def test_made_certificates(site: Callable[..., Ask]) -> None:
    made = {"certificates_made": {"web": "W"}, "certificates_private_keys": {"web": "K"}, "certificates_authority": "A"}
    ask = site({"web": made, "pacs": made, "asked": made}, orthanc=["pacs"], nginx=["web"])
    assert [ask("web", part) for part in ("certificate", "private_key", "web_certificate")] == ["WA", "K", "WA"]
    # It is what the default of nginx_tls_certificate refers to.
    assert ask("pacs", "face")["certificate"] == "/etc/pacs/nginx/site.crt"
    assert [ask("pacs", part) for part in ("certificate", "private_key")] == ["", ""]
    acme = site({"web": made | {"nginx_acme_directory": "https://acme.example.org/d"}}, orthanc=["web"], nginx=["web"])
    assert acme("web", "certificate") == "WA"
    assert acme("web", "web_certificate") == acme("web", "web_private_key") == ""


def test_names_of_all_hosts(site: Callable[..., Ask]) -> None:
    given = {"web": {"nginx_server_name": "pacs.example.org", "ansible_host": "192.0.2.2"}}
    ask = site(given, orthanc=["pacs"], nginx=["web"])
    # As for `make certificates`, which runs on none of them.
    names = ask("localhost", "names")
    assert names == {"web": ["pacs.example.org", "web", "192.0.2.2"], "pacs": ["pacs"]}


def test_databases(site: Callable[..., Ask]) -> None:
    own = {"orthanc_database": "postgresql", "orthanc_database_password": "{{ word }}"}
    given = {
        "beside": own | {"orthanc_database_name": "two", "orthanc_database_storage": "true"},
        "first": own | {"ansible_host": "192.0.2.3", "orthanc_database_connections": "3"},
        "second": own | {"orthanc_database": "mysql"},
        "db": {"ansible_host": "192.0.2.9", "postgresql_port": 5433},
    }
    ask = site(given, orthanc=["beside", "first", "second", "plain"], postgresql=["db", "beside"])
    asked = ("server", "address", "port", "of_others", "closed_port")
    found = {name: [ask(name, f"database_{part}") for part in asked] for name in ("beside", "first", "second")}
    assert found == {
        "beside": ["beside", "127.0.0.1", 5432, False, 5432],
        "first": ["db", "192.0.2.9", 5433, False, 0],
        # Run by somebody else.
        "second": ["", "", 3306, False, 0],
    }
    client = {"engine": "postgresql", "server": "db", "address": "192.0.2.3", "name": "orthanc"}
    assert ask("db", "database_clients") == [client | {"user": "orthanc", "password": "a word", "connections": 3}]
    (beside,) = ask("beside", "database_clients")
    assert (beside["address"], beside["name"], beside["connections"]) == ("127.0.0.1", "two", 2)
    assert ask("plain", "database_clients") == ask("plain", "database_sharers") == []


def test_database_that_several_share(site: Callable[..., Ask]) -> None:
    given: dict[str, dict[str, Any]] = {name: {"orthanc_database": "mysql"} for name in ("a", "b", "c")}
    given["c"]["orthanc_database_name"] = "other"
    ask = site(given, orthanc=["a", "b", "c", "plain"], mysql=["a"])
    assert ask("a", "database_sharers") == ask("b", "database_sharers") == ["a", "b"]
    assert ask("c", "database_sharers") == ["c"]
    assert [client["connections"] for client in ask("a", "database_clients")] == [2, 2, 2]
    assert ask("a", "database_closed_port") == 0


@pytest.mark.parametrize(
    "more, port",
    [({}, 3307), ({"mysql_shared": "true"}, 0), ({"mysql_listen_addresses": ["*"]}, 0), ({"mysql_shared": "no"}, 3307)],
)
def test_port_that_nobody_else_is_to_hear(site: Callable[..., Ask], more: dict[str, Any], port: int) -> None:
    given = {"pacs": {"orthanc_database": "mysql", "mysql_port": "3307"} | more}
    assert site(given, orthanc=["pacs"], mysql=["pacs"])("pacs", "database_closed_port") == port


def test_secret_that_is_missing_elsewhere(site: Callable[..., Ask]) -> None:
    """It matters to whom it matters, and there by its name."""
    given = {"pacs": {"orthanc_proxy_password": "{{ vault_orthanc_proxy_password }}"}}
    ask = site(given, orthanc=["pacs"], nginx=["web"])
    assert ask("web", "users") == {"admin": "a word"}
    with pytest.raises(AnsibleError, match="'vault_orthanc_proxy_password' is undefined"):
        ask("web", "authorization")


def test_part_that_is_none(site: Callable[..., Ask]) -> None:
    ask = site(orthanc=["pacs"])
    for part in ("proxis", "_own", "__init__"):
        with pytest.raises(AnsibleError, match=f"no '{part}'"):
            ask("pacs", part)


def test_defaults_are_those_of_the_roles(site: Callable[..., Ask]) -> None:
    assert (defaults()["orthanc_http_port"], defaults()["nginx_relay_port"]) == (8042, 8043)
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=["pacs,"])
    hostvars = HostVars(inventory, VariableManager(loader=loader, inventory=inventory), loader)
    assert variable_of(hostvars, "pacs", "orthanc_name") == "pacs"

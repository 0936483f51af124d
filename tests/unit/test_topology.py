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
from ansible.utils.collection_loader._collection_finder import _get_collection_role_path
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.dicom.orthanc.plugins.filter.topology import (
    FILES,
    certificate_name,
    defaults,
    topology,
    variable_of,
)
from ansible_collections.dicom.orthanc.plugins.plugin_utils import preflight

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
    assert [face["url"] for face in ask("pacs", "faces")] == ["https://192.0.2.1/"]
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
    assert ask("pacs", "faces")[0]["certificate"] == "/etc/pacs/nginx/site.crt"


def test_what_is_no_number_is_told_elsewhere(site: Callable[..., Ask]) -> None:
    ask = site({"pacs": {"nginx_https_port": "44x", "orthanc_http_port": None}}, orthanc=["pacs"], nginx=["pacs"])
    assert ask("pacs", "faces")[0]["url"] == "https://pacs:0/"
    assert ask("pacs", "upstream") == "http://127.0.0.1:0"


def test_group_that_is_called_as_an_engine_without_a_server(site: Callable[..., Ask]) -> None:
    ask = site(orthanc=["pacs"], sqlite=["pacs"])
    assert ask("pacs", "database_server") == ""
    assert not ask("pacs", "database_of_others")


def test_no_proxy(site: Callable[..., Ask]) -> None:
    ask = site(orthanc=["pacs"])
    assert ask("pacs", "proxies") == ask("pacs", "relay_clients") == ask("pacs", "unserved") == []
    (face,) = ask("pacs", "faces")
    assert (face["proxy"], face["prefix"]) == ("", "/")


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
    assert ask("pacs", "proxies") == ask("web", "proxies") == ["web"]
    assert ask("pacs", "relay_clients") == ["192.0.2.2"]
    assert ask("web", "upstream") == "https://[2001:db8::1]:9043"
    assert ask("pacs", "faces") == ask("web", "faces")
    (face,) = ask("pacs", "faces")
    assert (face["proxy"], face["url"]) == ("web", "https://192.0.2.2/o/")
    # As Orthanc's host evaluates it.
    assert ask("web", "users") == {"admin": "a word"}
    assert ask("web", "authorization") == ask("pacs", "authorization") == "Basic cHJveHk6YSB3b3Jk"


@pytest.mark.parametrize("orthancs", [["pacs", "other"], ["other", "pacs"]])
def test_each_with_a_proxy_of_its_own(site: Callable[..., Ask], orthancs: list[str]) -> None:
    ask = site(orthanc=orthancs, nginx=["web", "other"])
    assert ask("pacs", "proxies") == ["web"]
    assert ask("other", "proxies") == ["other"]
    assert ask("other", "upstream") == "http://127.0.0.1:8042"
    assert ask("web", "upstream") == "https://pacs:8043"
    assert [ask(name, "unserved") for name in ("web", "other", "pacs")] == [[], [], []]


def test_two_proxies_before_one_orthanc(site: Callable[..., Ask]) -> None:
    given = {
        "front": {"ansible_host": "192.0.2.2", "nginx_server_name": "pacs.example.org", "nginx_ban_after": 3},
        "other": {"ansible_host": "192.0.2.3", "nginx_https_port": 8443},
    }
    ask = site(given, orthanc=["pacs"], nginx=["front", "other"])
    assert ask("pacs", "proxies") == ["front", "other"]
    assert ask("pacs", "relay_clients") == ["192.0.2.2", "192.0.2.3"]
    assert ask("front", "upstream") == ask("other", "upstream") == "https://pacs:8043"
    # Others are told the first one.
    faces = [(face["proxy"], face["url"], face["ban_after"]) for face in ask("pacs", "faces")]
    assert faces == [("front", "https://pacs.example.org/", 3), ("other", "https://192.0.2.3:8443/", 0)]
    assert [face["url"] for face in ask("other", "faces")] == ["https://192.0.2.3:8443/"]
    assert [ask(name, "unserved") for name in ("pacs", "front", "other")] == [[], [], []]


def test_two_proxies_with_two_prefixes(site: Callable[..., Ask]) -> None:
    given = {"front": {"nginx_prefix": "/a/"}}
    ask = site(given, orthanc=["pacs"], nginx=["front", "other"])
    assert ask("pacs", "unserved") == ask("front", "unserved") == []
    # What one of them has is not in vain.
    assert (
        site(given | {"pacs": {"nginx_prefix": "/"}}, orthanc=["pacs"], nginx=["front", "other"])("pacs", "unserved")
        == []
    )
    (said,) = ask("other", "unserved")
    assert said.startswith("nginx_prefix: other and front stand before one Orthanc, ")
    assert "they have / and /a/; give both the same." in said


def test_proxy_beside_and_elsewhere(site: Callable[..., Ask]) -> None:
    ask = site(orthanc=["pacs"], nginx=["front", "pacs"])
    assert ask("pacs", "unserved") == []
    (said,) = ask("front", "unserved")
    assert said.startswith("nginx_upstream_server: front would stand before the Orthanc of pacs, which has the proxy ")
    assert "pacs beside it" in said
    assert "take front or pacs out of the group 'nginx'" in said


def two(**more: Any) -> dict[str, dict[str, Any]]:
    """Two Orthancs for one proxy, each with a prefix of its own."""
    given: dict[str, dict[str, Any]] = {
        "a": {"ansible_host": "192.0.2.1", "nginx_prefix": "/a/", "nginx_readonly_users": ["ward"]},
        "b": {"ansible_host": "192.0.2.2", "nginx_prefix": "/b/", "orthanc_proxy_user": "p", "nginx_relay_port": 9043},
        "web": {"ansible_host": "192.0.2.3", "nginx_readonly_users": ["guest"]},
    }
    return {name: variables | more.get(name, {}) for name, variables in given.items()}


TWO = {"orthanc": ["a", "b"], "nginx": ["web"]}


def test_two_orthancs_behind_one_proxy(site: Callable[..., Ask]) -> None:
    users = {"orthanc_users": {"another": "a word"}}
    ask = site(two(b=users), **TWO)
    assert ask("a", "proxies") == ask("b", "proxies") == ["web"]
    assert ask("a", "upstreams") == ask("b", "upstreams") == []
    upstreams = ask("web", "upstreams")
    keys = ("orthanc", "server", "url", "server_name", "prefix", "readonly_users", "upstream", "users_file")
    assert [[upstream[key] for key in keys] for upstream in upstreams] == [
        ["a", "a", "https://192.0.2.1:8043", "192.0.2.3", "/a/", ["ward"], "orthanc_1", f"{FILES}/htpasswd-a"],
        ["b", "b", "https://192.0.2.2:9043", "192.0.2.3", "/b/", ["guest"], "orthanc_2", f"{FILES}/htpasswd-b"],
    ]
    logins = ask("web", "upstream_logins")
    assert logins["a"] == {"users": {"admin": "a word"}, "authorization": "Basic cHJveHk6YSB3b3Jk"}
    assert logins["b"] == {"users": {"another": "a word"}, "authorization": "Basic cDphIHdvcmQ="}
    assert "word" not in str(upstreams)
    faces = {name: ask(name, "faces") for name in ("a", "b", "web")}
    assert [face["url"] for face in faces["web"]] == ["https://192.0.2.3/a/", "https://192.0.2.3/b/"]
    assert faces["web"] == faces["a"] + faces["b"]
    # A relay that asks for no certificate yet looks there for what the proxy can show.
    assert faces["b"][0]["client_file"] == upstreams[1]["client_file"] == f"{FILES}/upstream-client-b.crt"
    assert [ask(name, "unserved") for name in ("a", "b", "web")] == [[], [], []]


def test_what_the_proxy_alone_can_have(site: Callable[..., Ask]) -> None:
    """Of who may enter: set for one Orthanc, it would let in whom that one shuts out."""
    narrow = {"nginx_allowed_clients": ["192.0.2.0/24"], "nginx_users": {"desk": "a word"}, "nginx_timeout": 60}
    ask = site(two(a=narrow), **TWO)
    said = ask("a", "unserved")
    assert [sentence.split(":")[0] for sentence in said] == ["nginx_allowed_clients", "nginx_users"]
    assert "a word" not in str(said)
    assert ask("b", "unserved") == ask("web", "unserved") == []
    assert site(two(a=narrow, web=narrow), **TWO)("a", "unserved") == []


def test_users_of_the_proxy_are_those_of_each(site: Callable[..., Ask]) -> None:
    ask = site(two(web={"nginx_users": {"all": "a word"}}), **TWO)
    assert [login["users"] for login in ask("web", "upstream_logins").values()] == [{"all": "a word"}] * 2


def test_two_orthancs_by_their_names(site: Callable[..., Ask]) -> None:
    given = {
        "a": {"nginx_server_name": "a.example.org"},
        "b": {"nginx_server_name": "b.example.org"},
        "web": {"ansible_host": "192.0.2.3", "nginx_prefix": "/o/"},
    }
    ask = site(given, **TWO)
    assert [face["url"] for face in ask("web", "faces")] == ["https://a.example.org/o/", "https://b.example.org/o/"]
    # One certificate, for other names another one.
    (certificate,) = {face["certificate"] for face in ask("web", "faces")}
    assert certificate.startswith("/etc/pacs/nginx/self-signed-a.example.org-")
    assert ask("localhost", "names")["web"] == ["a.example.org", "b.example.org", "web", "192.0.2.3"]
    assert ask("web", "unserved") == []
    other = site(given | {"b": {"nginx_server_name": "c.example.org"}}, **TWO)
    assert other("web", "faces")[0]["certificate"] != certificate


def test_names_in_capitals_are_the_same(site: Callable[..., Ask]) -> None:
    """Of a second server block of one name nginx would take no notice."""
    names = {"a": {"nginx_server_name": "Images.x"}, "b": {"nginx_server_name": "images.X"}}
    ask = site(two(**names), **TWO)
    assert ask("web", "unserved") == []
    assert {upstream["server_name"] for upstream in ask("web", "upstreams")} == {"images.x"}
    faces = ask("web", "faces")
    assert [face["url"] for face in faces] == ["https://images.x/a/", "https://images.x/b/"]
    assert {face["certificate"] for face in faces} == {f"{FILES}/self-signed-images.x.crt"}
    assert ask("web", "names")["web"] == ["images.x", "web", "192.0.2.3"]
    (alone,) = site({"web": names["a"]}, orthanc=["web"], nginx=["web"])("web", "faces")
    assert (alone["host"], alone["certificate"]) == ("images.x", f"{FILES}/self-signed-images.x.crt")


def test_one_orthanc_has_what_the_proxy_has(site: Callable[..., Ask]) -> None:
    """What its own host says is for several alone, and refused: else whom it has read alone may write."""
    ask = site(two(), orthanc=["a"], nginx=["web"])
    said = ask("a", "unserved")
    assert [sentence.split(":")[0] for sentence in said] == ["nginx_readonly_users"]
    assert all("set it for web instead, or alike" in sentence for sentence in said)
    assert ask("web", "upstreams") == []
    assert ask("web", "upstream_logins") == {}
    assert [face["url"] for face in ask("a", "faces")] == ["https://192.0.2.3/"]


@pytest.mark.parametrize("variable, value", [("server_name", "{{ inventory_hostname }}.org"), ("prefix", "/a/")])
def test_name_and_prefix_let_nobody_in(site: Callable[..., Ask], variable: str, value: str) -> None:
    """As in the variables of all hosts: the Orthanc's host has another name than its proxy, and loses nothing by it."""
    ask = site({"a": {f"nginx_{variable}": value}}, orthanc=["a"], nginx=["web"])
    assert ask("a", "unserved") == ask("web", "unserved") == []


@pytest.mark.parametrize(
    "more, words",
    [
        ({"b": {"nginx_prefix": "/a/"}}, "the Orthanc of b would be at or below https://192.0.2.3/a/, which is"),
        ({"b": {"nginx_prefix": "/"}}, "the Orthanc of a would be at or below https://192.0.2.3/, which is"),
        ({"b": {"nginx_prefix": "/a/b/"}}, "the Orthanc of b would be at or below https://192.0.2.3/a/, which is"),
        (
            {"a": {"nginx_server_name": "x.org"}, "b": {"nginx_server_name": "X.org", "nginx_prefix": "/a/"}},
            "the Orthanc of b would be at or below https://x.org/a/, which is",
        ),
        ({"web": {"nginx_upstream": "http://x"}}, "nginx_upstream: this proxy stands before the Orthancs of a and b,"),
        ({"web": {"nginx_upstream_ca": "PEM"}}, "nginx_upstream_ca: this proxy stands before the Orthancs of a and b,"),
    ],
)
def test_two_orthancs_that_one_proxy_cannot_have(
    site: Callable[..., Ask], more: dict[str, dict[str, Any]], words: str
) -> None:
    said = site(two(**more), **TWO)("web", "unserved")
    assert any(words in sentence for sentence in said)


def test_names_that_differ_alone(site: Callable[..., Ask]) -> None:
    """At names of their own, two may have one prefix; from one ACME directory comes one name."""
    apart = {"b": {"nginx_prefix": "/a/", "nginx_server_name": "b.example.org"}}
    assert site(two(**apart), **TWO)("web", "unserved") == []
    acme = {"web": {"nginx_acme_directory": "https://acme.example.org/d"}}
    (said,) = site(two(**apart, **acme), **TWO)("web", "unserved")
    assert said.startswith("nginx_acme_directory: the Orthancs of a and b have several names")
    assert site(two(**acme), **TWO)("web", "unserved") == []


def test_two_proxies_before_two_orthancs(site: Callable[..., Ask]) -> None:
    ask = site(two(), orthanc=["a", "b"], nginx=["web", "other"])
    for name in ("a", "b", "web", "other"):
        (said,) = ask(name, "unserved")
        assert said.startswith("nginx_upstream_server: the proxies web and other would each stand before the Orthancs")
        assert "of a and b. One proxy may have several Orthancs, or one Orthanc several proxies" in said


def test_viewer_with_a_name_of_its_own(site: Callable[..., Ask]) -> None:
    """It is one of the names of its proxy alone, and of what certificates are made for."""
    groups = {"orthanc": ["pacs"], "nginx": ["front"]}
    own = {"ohif_server_name": "Viewer.x", "nginx_https_port": 8443, "nginx_server_name": "pacs.x"}
    off = site({"front": own}, **groups)
    (face,) = off("pacs", "faces")
    assert (face["viewer"], face["viewer_site"], off("front", "viewer_name")) == ("", "https://pacs.x:8443", "")
    assert face["certificate"] == f"{FILES}/self-signed-pacs.x.crt"
    ask = site({"front": own | {"ohif_enabled": True}, "pacs": own | {"ohif_enabled": True}}, **groups)
    (face,) = ask("pacs", "faces")
    assert (face["url"], face["viewer"], face["viewer_site"]) == ("https://pacs.x:8443/", "/", "https://viewer.x:8443")
    assert face["certificate"] == f"{FILES}/self-signed-{certificate_name(['pacs.x', 'viewer.x'])}.crt"
    assert [ask(name, "viewer_name") for name in ("front", "pacs")] == ["viewer.x", ""]
    assert ask("front", "names") == {"pacs": ["pacs.x", "pacs"], "front": ["pacs.x", "viewer.x", "front"]}


def test_face(site: Callable[..., Ask]) -> None:
    given = {"pacs": {"ansible_host": "192.0.2.1", "nginx_https_port": "8443", "nginx_ban_after": "7"}}
    groups = {"orthanc": ["pacs"], "nginx": ["pacs"]}
    assert site(given, **groups)("pacs", "faces") == [
        {
            "proxy": "pacs",
            "host": "192.0.2.1",
            "http_port": 80,
            "prefix": "/",
            "url": "https://192.0.2.1:8443/",
            "ban_after": 7,
            "viewer": "",
            "viewer_site": "https://192.0.2.1:8443",
            "certificate": "/etc/pacs/nginx/self-signed-192.0.2.1.crt",
            "users_file": "/etc/pacs/nginx/htpasswd",
            "upstream_file": "/etc/pacs/nginx/upstream.conf",
            "ca_file": "/etc/pacs/nginx/upstream.crt",
            "client_file": "/etc/pacs/nginx/upstream-client.crt",
            "client_key_file": "/etc/pacs/nginx/upstream-client.key",
        }
    ]
    named = {"nginx_server_name": "pacs.example.org"}
    (acme,) = site({"pacs": named | {"nginx_acme_directory": "https://acme.example.org/d"}}, **groups)("pacs", "faces")
    assert acme["certificate"] == "/etc/pacs/nginx/acme-pacs.example.org.crt"
    (given_one,) = site({"pacs": named | {"nginx_tls_certificate": "PEM"}}, **groups)("pacs", "faces")
    assert given_one["certificate"] == "/etc/pacs/nginx/site.crt"
    (sixth,) = site({"pacs": {"ansible_host": "2001:db8::1"}}, **groups)("pacs", "faces")
    assert sixth["url"] == "https://[2001:db8::1]/"


def test_made_certificates(site: Callable[..., Ask]) -> None:
    made = {"certificates_made": {"web": "W"}, "certificates_private_keys": {"web": "K"}, "certificates_authority": "A"}
    ask = site({"web": made, "pacs": made, "asked": made}, orthanc=["pacs"], nginx=["web"])
    assert [ask("web", part) for part in ("certificate", "private_key", "web_certificate")] == ["WA", "K", "WA"]
    # It is what the default of nginx_tls_certificate refers to.
    assert ask("pacs", "faces")[0]["certificate"] == "/etc/pacs/nginx/site.crt"
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


def test_repository_of_backups_that_several_have(site: Callable[..., Ask]) -> None:
    places = {"a": "sftp:x@nas:/pacs", "b": "sftp:x@nas:/pacs/", "c": "sftp:x@nas:/other", "d": "/srv/b", "e": "/srv/b"}
    ask = site({name: {"backup_repository": place} for name, place in places.items()}, backup=list(places))
    assert {name: ask(name, "repository_sharers") for name in places} == {
        "a": ["b"],
        "b": ["a"],
        "c": [],
        "d": [],
        "e": [],
    }


def test_hosts_of_a_cluster_have_their_backups_together(site: Callable[..., Ask]) -> None:
    """One place is theirs, whichever of them makes them; what is not alike is told."""
    own = {"orthanc_database": "postgresql", "backup_repository": "s3:https://s3/x", "backup_keep": {"last": 3}}
    given = {name: own | {"ansible_host": f"192.0.2.{number}"} for number, name in enumerate("abcde", 1)}
    given["d"] |= {"orthanc_database": "sqlite"}
    groups = {"orthanc": ["a", "b", "d"], "postgresql": ["a", "b", "c"], "etcd": ["a", "b", "c"]}
    ask = site(given, backup=["a", "b", "c", "d"], **groups)
    for name in "abc":
        assert ask(name, "archive_members") == {"a": True, "b": True, "c": False}
        assert ask(name, "archive_unlike") == []
        assert ask(name, "repository_sharers") == ["d"]
    assert ask("d", "archive_members") == ask("e", "archive_members") == {}
    assert ask("d", "repository_sharers") == ["a", "b", "c"]
    given["c"] |= {"backup_keep": {"last": 4}, "backup_password": "another one of it"}
    assert site(given, backup=["a", "b", "c"], **groups)("a", "archive_unlike") == ["backup_password", "backup_keep"]
    # Who is not among them has no part in it.
    assert site(given, backup=["a", "b"], **groups)("a", "archive_unlike") == []


def test_database_on_several_servers(site: Callable[..., Ask]) -> None:
    """They agree by etcd, each lets every Orthanc in by its own address, and an Orthanc looks for the primary."""
    own = {"orthanc_database": "postgresql", "orthanc_database_password": "{{ word }}"}
    given = {name: own | {"ansible_host": f"192.0.2.{number}"} for number, name in enumerate("abcde", 1)}
    given["d"] |= {"orthanc_database": "mysql"}
    given["e"] |= {"ansible_host": "2001:db8::5"}
    groups = {"orthanc": ["a", "b", "d"], "postgresql": ["a", "b", "c"]}
    ask = site(given, etcd=["c", "d", "e"], **groups)
    servers = {"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3"}
    assert ask("a", "etcd_members") == {"c": "192.0.2.3", "d": "192.0.2.4", "e": "2001:db8::5"}
    assert ask("a", "etcd") == ["192.0.2.3:2379", "192.0.2.4:2379", "[2001:db8::5]:2379"]
    assert ask("e", "etcd_clients") == ["192.0.2.3", "192.0.2.4", "2001:db8::5", "192.0.2.1", "192.0.2.2"]
    for name in "ab":
        assert ask(name, "database_servers") == servers
        assert ask(name, "database_clustered")
        assert ask(name, "database_server") == "a"
        assert ask(name, "database_address") == "192.0.2.1,192.0.2.2,192.0.2.3"
        assert not ask(name, "database_beside")
        assert not ask(name, "database_of_others")
        assert ask(name, "database_closed_port") == 0
        assert ask(name, "database_sharers") == ["a", "b"]
    assert [ask(name, "verification_level") for name in "abd"] == ["conform", "probe", "conform"]
    for name in "abc":
        assert [client["address"] for client in ask(name, "database_clients")] == ["192.0.2.1", "192.0.2.2"]
    assert not ask("d", "database_clustered")
    alone = site(given, **groups)
    assert ask("d", "database_clients") == alone("c", "database_clients") == []
    assert alone("a", "database_servers") == {}
    assert alone("a", "database_address") == "127.0.0.1"
    assert alone("a", "database_beside")
    assert alone("a", "etcd") == alone("a", "etcd_clients") == []


BALANCED: dict[str, dict[str, Any]] = {
    "a": {"ansible_host": "192.0.2.1", "keepalived_address": "192.0.2.9", "haproxy_server_name": "PACS.example.org"},
    "b": {"ansible_host": "192.0.2.2", "orthanc_dicom_port": "11112"},
    "c": {"ansible_host": "192.0.2.3"},
}


def test_address_before_several_orthancs(site: Callable[..., Ask]) -> None:
    for name in "abc":
        BALANCED[name] |= {"orthanc_database": "postgresql", "orthanc_modalities": {"ct": ["CT", "192.0.2.7", 104]}}
    of_two = {"mr": {"AET": "MR", "Host": "192.0.2.8", "Port": 104}}
    given = BALANCED | {"b": BALANCED["b"] | {"orthanc_modalities": BALANCED["b"]["orthanc_modalities"] | of_two}}
    groups = {"orthanc": ["a", "b"], "nginx": ["a", "b"], "postgresql": ["c"]}
    ask = site(given, haproxy=["a", "c"], keepalived=["a", "c"], **groups)
    for name in "abc":
        assert ask(name, "virtual_address") == "192.0.2.9"
        assert ask(name, "balancers") == ask(name, "vrrp_members") == {"a": "192.0.2.1", "c": "192.0.2.3"}
        assert ask(name, "senders") == [{"aet": "CT", "address": "192.0.2.7"}, {"aet": "MR", "address": "192.0.2.8"}]
        assert ask(name, "senders_checked")
        assert not ask(name, "senders_encrypt")
        assert ask(name, "balanced_apart") == []
        assert ask(name, "balancer") == {
            "address": "192.0.2.9",
            "name": "PACS.example.org",
            "https_port": 443,
            "dicom_port": 104,
        }
    assert [(one["name"], one["dicom_port"]) for one in ask("c", "balanced_servers")] == [("a", 4242), ("b", 11112)]
    assert [ask(name, "balanced") for name in "abc"] == [True, True, False]
    # A balancer beside it has the same ports.
    assert [ask(name, "own_addresses") for name in "abc"] == [["192.0.2.1"], [], ["192.0.2.3"]]
    assert [ask(name, "balanced_names") for name in "bc"] == [["pacs.example.org", "192.0.2.9"], []]
    assert ask("b", "names") == {
        "a": ["192.0.2.1", "pacs.example.org", "192.0.2.9", "a"],
        "b": ["192.0.2.2", "pacs.example.org", "192.0.2.9", "b"],
        "c": ["192.0.2.3", "c"],
    }
    apart = site(given | {"b": given["b"] | {"orthanc_database_name": "other"}}, haproxy=["a"], **groups)
    assert apart("a", "balanced_apart") == ["b"]
    assert apart("a", "virtual_address") == ""
    assert apart("a", "own_addresses") == []
    assert apart("a", "balancer")["address"] == "192.0.2.1"
    other = given | {"a": given["a"] | {"haproxy_https_port": 8443, "orthanc_dicom_tls_certificate": "PEM"}}
    other["b"] |= {"orthanc_settings": {"DicomCheckModalityHost": False}}
    ask = site(other, haproxy=["a"], keepalived=["a"], **groups)
    assert ask("b", "balanced_names") == ["pacs.example.org:8443", "192.0.2.9:8443"]
    assert ask("b", "senders_encrypt")
    assert not ask("b", "senders_checked")


def test_no_address_before_an_orthanc(site: Callable[..., Ask]) -> None:
    ask = site(BALANCED, orthanc=["a", "b"], nginx=["a"])
    assert not ask("a", "balanced")
    assert ask("a", "balancers") == ask("a", "vrrp_members") == {}
    assert ask("a", "balanced_servers") == ask("a", "balanced_names") == ask("a", "own_addresses") == []
    assert ask("a", "balancer")["address"] == ask("a", "virtual_address") == ""
    assert ask("a", "names")["a"] == ["192.0.2.1", "a"]


def test_database_that_several_share(site: Callable[..., Ask]) -> None:
    given: dict[str, dict[str, Any]] = {name: {"orthanc_database": "mysql"} for name in ("a", "b", "c")}
    given["c"]["orthanc_database_name"] = "other"
    given["b"]["orthanc_routes"] = [{"to": "ct"}]
    given["c"]["orthanc_webhooks"] = [{"url": "https://ris.example.org/"}]
    ask = site(given, orthanc=["a", "b", "c", "plain"], mysql=["a"])
    assert ask("a", "database_sharers") == ask("b", "database_sharers") == ["a", "b"]
    assert ask("c", "database_sharers") == ["c"]
    assert ask("a", "routers") == ask("b", "routers") == ["b"]
    assert ask("c", "routers") == ["c"]
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
    loader = DataLoader()
    assert (defaults(loader)["orthanc_http_port"], defaults(loader)["nginx_relay_port"]) == (8042, 8043)
    inventory = InventoryManager(loader=loader, sources=["pacs,"])
    hostvars = HostVars(inventory, VariableManager(loader=loader, inventory=inventory), loader)
    assert variable_of(hostvars, "pacs", "orthanc_name") == "pacs"


def test_roles_are_read_from_where_ansible_reads_them() -> None:
    """By another path, as behind a link into the collections, each task would read all of them anew."""
    assert _get_collection_role_path("dicom.orthanc.nginx")[1] == str(preflight.ROOT / "roles" / "nginx")


def test_what_several_orthancs_have_in_common(site: Callable[..., Ask]) -> None:
    server = {"orthanc_database": "postgresql"}
    mounted = server | {"orthanc_storage_mount": "/srv/dicom", "orthanc_storage_mark": "hospital"}
    given: dict[str, dict[str, Any]] = {
        "a": mounted | {"orthanc_plugins": ["housekeeper"]},
        "b": mounted
        | {"orthanc_storage_mount": "/mnt", "orthanc_storage_dir": "/mnt/x", "orthanc_database_lock": "yes"}
        | {"orthanc_settings": {"DatabaseServerIdentifier": "a"}},
        "c": server | {"orthanc_database_storage": "true", "orthanc_database_name": "other"},
        "d": {},
    }
    ask = site(given, orthanc=list("abcd"), postgresql=["e"])
    found = ask("a", "sharers")
    assert ask("b", "sharers") == found
    assert found["a"] == {"identifier": "a", "locks": False, "housekeeper": True, "storage": "hospital:."}
    assert found["b"] == {"identifier": "a", "locks": True, "housekeeper": False, "storage": "hospital:x"}
    assert {name: one["storage"] for name, one in ask("c", "sharers").items()} == {"c": "database"}
    assert ask("d", "sharers") == {}

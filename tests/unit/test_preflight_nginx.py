"""What the role nginx asks of an inventory."""

import string
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.good_host import ACME, MACHINES, PROBE, host, one_problem, pair, problems, tls

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"nginx_users": {"admin": ""}}, "nginx_users", "is empty or no text"),
    ({"nginx_users": {"admin": "long enough\n"}}, "nginx_users", "has a line break"),
    ({"nginx_users": {"a:b": "text"}}, "nginx_users", "colon or white space"),
    ({"nginx_users": {"a b": "text"}}, "nginx_users", "colon or white space"),
    ({"nginx_users": {"": "text"}}, "nginx_users", "colon or white space"),
    ({"nginx_users": {"a\n": "text"}}, "nginx_users", "colon or white space"),
    ({"nginx_server_name": "pacs_1"}, "nginx_server_name", "neither a host name nor an address"),
    ({"nginx_server_name": "-pacs.example.org"}, "nginx_server_name", "neither a host name nor an address"),
    ({"nginx_server_name": "pacs.example.org;"}, "nginx_server_name", "neither a host name nor an address"),
    ({"nginx_server_name": ".".join(["a" * 60] * 5)}, "nginx_server_name", "neither a host name nor an address"),
    ({"nginx_server_name": ""}, "nginx_server_name", "neither a host name nor an address"),
    ({"nginx_prefix": "orthanc"}, "nginx_prefix", "begin and end with a slash"),
    ({"nginx_prefix": "/orthanc"}, "nginx_prefix", "begin and end with a slash"),
    ({"nginx_prefix": "/or thanc/"}, "nginx_prefix", "begin and end with a slash"),
    ({"nginx_prefix": "//"}, "nginx_prefix", "begin and end with a slash"),
    ({"nginx_prefix": "/a/./"}, "nginx_prefix", "begin and end with a slash"),
    ({"nginx_prefix": "/../"}, "nginx_prefix", "begin and end with a slash"),
    ({"nginx_prefix": "/a./"}, "nginx_prefix", "no part of it with a dot"),
    ({"nginx_prefix": "/.a/"}, "nginx_prefix", "no part of it with a dot"),
    ({"nginx_prefix": ""}, "nginx_prefix", "begin and end with a slash"),
    ({"nginx_tls_certificate": pair()[0]}, "nginx_tls_private_key", "it is missing"),
    ({"nginx_tls_private_key": pair()[1]}, "nginx_tls_certificate", "it is missing"),
    (tls() | {"nginx_tls_certificate": "/etc/ssl/site.crt"}, "nginx_tls_certificate", "no certificate in PEM form"),
    (tls() | {"nginx_tls_private_key": "/etc/ssl/site.key"}, "nginx_tls_private_key", "no private key in PEM form"),
    (tls() | {"nginx_tls_private_key": pair(("other.example.org",))[1]}, "nginx_tls_private_key", "does not belong"),
    (tls(("pacs.example.org",), -9, -2), "nginx_tls_certificate", "it expired on"),
    (tls(("pacs.example.org",), 2, 9), "nginx_tls_certificate", "it is not valid before"),
    (tls(("other.example.org",)), "nginx_tls_certificate", "it is for other.example.org, not for"),
    (tls(("*.org",)), "nginx_tls_certificate", "it is for *.org, not for"),
    (tls(()), "nginx_tls_certificate", "it is for no name"),
    ({"nginx_acme_directory": "http://acme.example.org/directory"}, "nginx_acme_directory", "begins with https://"),
    ({"nginx_acme_directory": "https://acme.example.org"}, "nginx_acme_directory", "begins with https://"),
    (ACME | {"nginx_server_name": "192.0.2.7"}, "nginx_server_name", "needs a name that the public knows"),
    (ACME | tls(), "nginx_acme_directory", "there is a certificate as well"),
    ({"nginx_acme_email": "somebody"}, "nginx_acme_email", "no address of e-mail"),
    ({"nginx_acme_ca": "/etc/ssl/ca.crt"}, "nginx_acme_ca", "no certificate in PEM form"),
    ({"nginx_readonly_users": ["admin"]}, "nginx_readonly_users", "every user is in it"),
    (MACHINES | {"nginx_readonly_users": ["admin", "ct 1.a_b-c"]}, "nginx_readonly_users", "every user is in it"),
    ({"nginx_readonly_users": ["admni"]}, "nginx_readonly_users", "Did you mean 'admin'?"),
    ({"nginx_allowed_clients": ["clinic.example.org"]}, "nginx_allowed_clients", "like 192.0.2.7 or 192.0.2.0/24"),
    *(
        ({"nginx_allowed_origins": [origin]}, "nginx_allowed_origins", "like https://viewer.example.org")
        for origin in (
            *("*", "null", "viewer.example.org", "https://*.example.org", "https://viewer.example.org/", "https://"),
            *("https://viewer.example.org:443", "http://viewer.example.org:80", "https://Viewer.example.org"),
            *("https://viewer.example.org:70000", "https://a b", "https://2001:db8::9", "https://user@example.org"),
            *("ftp://example.org", 'https://a";}', "https://viewer.example.org\n", "https://viewer.example.org?x"),
        )
    ),
    ({"nginx_settings": {"merge_slashes": "off"}}, "nginx_settings.merge_slashes", "read the same request differently"),
    ({"nginx_server_directives": {"auth_basic": "off"}}, "nginx_server_directives.auth_basic", "set nginx_users"),
    ({"nginx_refused_routes": ["/tools/reset"]}, "nginx_refused_routes", "without a slash at either end"),
    ({"nginx_refused_routes": ["tools/re*"]}, "nginx_refused_routes", "with * for one part of it"),
    ({"nginx_allowed_clients": ["192.0.2.7/24"]}, "nginx_allowed_clients", "has host bits set"),
    (MACHINES | {"nginx_client_ca": "/etc/ssl/ca.crt"}, "nginx_client_ca", "no certificate in PEM form"),
    (MACHINES | {"nginx_client_ca": pair(("ca.example.org",), -9, -2)[0]}, "nginx_client_ca", "expired on"),
    (MACHINES | {"nginx_client_ca": pair(("ca.example.org",), 2, 9)[0]}, "nginx_client_ca", "is not valid before"),
    (MACHINES | {"nginx_client_ca": ""}, "nginx_client_ca", "while nginx_client_names lets certificates in"),
    (MACHINES | {"nginx_client_names": []}, "nginx_client_names", "would let nobody in"),
    (MACHINES | {"nginx_client_names": ['ct"1']}, "nginx_client_names", "no common name of a machine"),
    (MACHINES | {"nginx_client_names": ["admin"]}, "nginx_client_names", "is a user as well"),
    ({"nginx_client_certificate": "required"}, "nginx_client_ca", "while nginx_client_certificate is required"),
    ({"nginx_ban_after": -1}, "nginx_ban_after", "out of range"),
    ({"nginx_ban_after": 1001}, "nginx_ban_after", "out of range"),
    ({"nginx_audit_days": 0}, "nginx_audit_days", "out of range"),
]


@pytest.mark.parametrize("changes, variable, part", WRONG)
def test_one_thing_wrong(changes: dict[str, Any], variable: str, part: str) -> None:
    one_problem(changes, variable, part)


@pytest.mark.parametrize("before", [[], ["store"]])
def test_proxy_of_this_orthanc(before: list[str]) -> None:
    assert problems(proxied=before, nginx_upstream_server="store") == []


@pytest.mark.parametrize("kind, what, file", [("proxied", "proxy", "orthanc"), ("relayed", "relay", "orthanc-relay")])
def test_proxy_or_relay_of_another_inventory(kind: str, what: str, file: str) -> None:
    found: dict[str, Any] = {kind: ["clinic"]}
    (problem,) = problems(nginx_upstream_server="store", **found)
    assert problem.startswith(f"nginx_upstream_server: this host is the {what} of clinic, ")
    assert "and store would take its place" in problem
    assert f"rm /etc/nginx/conf.d/{file}.conf" in problem


def test_relay_on_a_host_whose_nginx_others_use() -> None:
    """It has a part of the role alone; what it was itself, and what this inventory has, makes room."""

    def found(**probe: Any) -> list[str]:
        relay = host(("orthanc", "verification"), {}, PROBE | probe)
        relay.name, relay.groups = "pacs", {"orthanc": ["pacs", "store"]}
        relay.constants = {**relay.constants, "nginx": {}}
        return list(general.problems(relay))

    assert found() == found(proxied=["pacs"]) == found(proxied=["store"]) == []
    (problem,) = found(proxied=["clinic"])
    assert problem.startswith("nginx_relay_port: this host is the proxy of clinic, ")
    assert "run `rm /etc/nginx/conf.d/orthanc.conf`" in problem
    (problem,) = found(nginx_refusal="nginx: [emerg] unknown directive in /etc/nginx/conf.d/wiki.conf:1")
    assert problem.startswith("ansible_host: nginx on this host refuses a file that is not of this toolkit")


def test_proxy_of_another_orthanc_of_this_inventory() -> None:
    found = host(("nginx",), {"nginx_upstream_server": "store"}, PROBE | {"proxied": ["clinic"]})
    found.groups = {"orthanc": ["store", "clinic"]}
    assert list(general.problems(found)) == []


def test_each_of_several_orthancs() -> None:
    """What its own host says of it is looked at like what the proxy says."""
    shared = {"server_name": "pacs.example.org", "readonly_users": []}
    upstreams = [
        {"orthanc": "a", "prefix": "/a/"} | shared,
        {"orthanc": "b", "prefix": "b"} | shared | {"readonly_users": ["warden"]},
    ]
    logins = {name: {"users": {"ward": "long enough", "admin": "long enough"}} for name in ("a", "b")}
    found = host(("nginx",), {})
    given: dict[str, Any] = {"site_upstreams": upstreams, "site_upstream_logins": logins}
    found.site = given.get
    told = list(general.problems(found))
    assert [said.split(":")[0] for said in told] == ["nginx_prefix", "nginx_readonly_users"]
    assert "'b' has to begin and end with a slash" in told[0]
    assert "there is no user 'warden'. Did you mean 'ward'?" in told[1]
    logins["a"]["users"] = {}
    assert any("nginx_users: no user is named" in said for said in general.problems(found))


def test_good_proxy_alone() -> None:
    assert problems(("nginx",)) == []


@pytest.mark.parametrize(
    "changes",
    [
        MACHINES,
        MACHINES | {"nginx_readonly_users": ["ct 1.a_b-c"], "nginx_client_certificate": "required"},
        MACHINES | {"nginx_readonly_users": ["admin"]},
        MACHINES | {"nginx_client_ca": pair(("a",))[0] + pair(("b",))[0]},
        MACHINES | {"nginx_client_names": [], "nginx_client_certificate": "required"},
        {
            "nginx_allowed_origins": [
                "https://viewer.example.org",
                "http://192.0.2.7:3000",
                "https://[2001:db8::9]:8443",
            ]
        },
        {"nginx_allowed_clients": ["192.0.2.7", "192.0.2.0/24", "2001:db8::/32"], "nginx_ban_after": 10},
    ],
)
def test_good_entry(changes: dict[str, Any]) -> None:
    assert problems(**changes) == []


@given(st.lists(st.text(string.ascii_letters + string.digits + "-_.~", min_size=1)))
def test_any_good_prefix(parts: list[str]) -> None:
    assume(not any(part[0] == "." or part[-1] == "." for part in parts))
    assert problems(nginx_prefix="".join(f"/{part}" for part in parts) + "/") == []


@given(st.text("/a .;{}$\n"))
def test_any_prefix(prefix: str) -> None:
    good = bool(prefix) and prefix[0] == prefix[-1] == "/" and "//" not in prefix and set(prefix) <= set("/a.")
    good = good and "/." not in prefix and "./" not in prefix
    assert bool(problems(nginx_prefix=prefix)) == (not good)

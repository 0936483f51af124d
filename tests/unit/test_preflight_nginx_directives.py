"""Directives of nginx that an inventory gives: which pass, and which are refused by name."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.nginx import directives
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.nginx.directives import SERVER, SETTINGS

from tests.repository import load

GOOD: dict[str, Any] = {
    "client_body_timeout": "30s",
    "client_max_body_size": 0,
    "proxy_buffering": True,
    "gzip_types": "application/json application/dicom+json",
    "limit_rate_after": "500k",
    "limit_req": ["zone=clients burst=20 nodelay", "zone=all"],
    "add_header": [
        "Content-Security-Policy \"default-src 'self'; img-src *\" always",
        'X-Quoted "a \\" b"',
        "X-Clinic a",
    ],
    "proxy_set_header": "X-Clinic 'north # wing'",
    "ssl_stapling": "on",
    "auth_delay": "1s",
    "proxy_hide_header": "Server",
}


def problems(variable: str, **given: Any) -> list[str]:
    return list(directives.problems(variable, given))


def test_good() -> None:
    assert problems(SERVER, **GOOD) == []
    zone = {"limit_req_zone": "$binary_remote_addr zone=clients:10m rate=10r/s", "server_names_hash_bucket_size": 128}
    assert problems(SETTINGS, **zone, keepalive_requests=500) == []


def test_own_ones_are_those_of_the_role() -> None:
    assert set(directives.OWN) == set(load("roles/nginx/vars/main.yml")["__nginx_transfer"])


@pytest.mark.parametrize("variable", [SERVER, SETTINGS])
@pytest.mark.parametrize(
    "name",
    [
        *("auth_basic", "auth_basic_user_file", "auth_request", "auth_jwt", "satisfy", "allow", "deny"),
        *("set_real_ip_from", "real_ip_header", "ssl_verify_client", "ssl_protocols", "ssl_ciphers", "ssl_early_data"),
        *(
            "ssl_conf_command",
            "ssl_client_certificate",
            "ssl_session_tickets",
            "proxy_ssl_verify",
            "listen",
            "expires",
            "http2",
            "server_name",
        ),
        *("merge_slashes", "underscores_in_headers", "ignore_invalid_headers", "access_log", "error_log"),
        *("set", "set_by_lua", "map", "geo", "location", "server", "upstream", "if", "include", "types"),
        *("root", "alias", "return", "rewrite", "try_files", "error_page", "internal", "autoindex"),
        *("proxy_pass", "fastcgi_pass", "grpc_pass", "mirror", "post_action", "proxy_method", "proxy_set_body"),
        *(
            "proxy_pass_request_headers",
            "dav_methods",
            "ssi",
            "sub_filter",
            "add_before_body",
            "perl_set",
            "js_content",
        ),
        *("access_by_lua", "content_by_lua_file", "proxy_cache", "proxy_store", "client_body_in_file_only"),
        *("more_set_input_headers", "server_tokens", "stub_status"),
    ],
)
def test_what_protects_is_not_undone(variable: str, name: str) -> None:
    (said,) = problems(variable, **{name: "a"})
    assert said.startswith(f"{variable}.{name}: ")
    assert re.search(r"since .*\. Take it out\.$|; set nginx_\w+\.$", said), "the reason and the way out"


@pytest.mark.parametrize(
    "value",
    [
        *(
            "30s; auth_basic off",
            "30s;",
            "a {",
            "}",
            "a # b",
            'a "b',
            "a'b",
            "a\nauth_basic off",
            "a\\",
            "",
            " a",
            "\ta",
        ),
        *('"a\n"', '"a\\"', '"a" "', None, {"a": 1}, "${a}", 'x"a;b"'),
    ],
)
def test_no_value_is_more_than_parameters(value: Any) -> None:
    assert "is not a valid value" in problems(SERVER, gzip=value)[0]
    assert "is not a valid value" in problems(SERVER, gzip=["on", value])[0]


@pytest.mark.parametrize("name", ["Gzip", "gzip on; auth_basic", "", "gzip\n", 7])
def test_no_name_of_a_directive(name: Any) -> None:
    found = list(directives.problems(SERVER, {name: "on"}))
    assert found == [
        f"nginx_server_directives.{name}: this is no name of a directive; write it like client_body_timeout."
    ]


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("add_header", "x-frame-options ALLOWALL", "browsers would have it twice"),
        ("add_header", "'Vary' Cookie", "browsers would have it twice"),
        ("add_header", "Cache-Control private", "browsers would have it twice"),
        ("add_header", "Access-Control-Allow-Origin *", "set nginx_allowed_origins."),
        ("add_header", "$http_x y", "Take it out."),
        ("proxy_set_header", "authorization $http_authorization", "Orthanc would have it twice"),
        ("proxy_set_header", '"Host" x', "Orthanc would have it twice"),
        ("proxy_set_header", "Transfer-Encoding chunked", "Orthanc would have it twice"),
        ("proxy_set_header", "X-HTTP-Method-Override $http_x_http_method_override", "Orthanc would have it twice"),
    ],
)
def test_headers_of_the_role(name: str, value: str, words: str) -> None:
    found = problems(SERVER, **{name: ["X-Mine a", value]})
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize("name", ["client_body_timeout", "add_header", "proxy_set_header"])
def test_what_would_be_for_others_alone(name: str) -> None:
    found = problems(SETTINGS, **{name: "X-Clinic a"})
    assert found == [
        f"nginx_settings.{name}: the site has its own, so this would be for others alone;"
        f" set nginx_server_directives.{name}."
    ]

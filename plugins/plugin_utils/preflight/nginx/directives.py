# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directives of nginx that an inventory gives: their form, and those that would undo what protects the site.

What nginx itself has against them, nginx says, which tries all before it is put in place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

SETTINGS, SERVER = "nginx_settings", "nginx_server_directives"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Words and quoted texts; no block, no end of a directive, no comment and no second line outside of quotes.
_WORD = r"[^\s\"';{}#\\\x00-\x1f\x7f]+"
_QUOTED = r"\"(?:[^\"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*\"|'(?:[^'\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*'"
_VALUE = re.compile(rf"(?:{_WORD}|{_QUOTED})(?: +(?:{_WORD}|{_QUOTED}))*")

# What the role sets as the site needs it, by the variable that changes it.
_OF_VARIABLES = {
    "listen": "nginx_https_port",
    "server_name": "nginx_server_name",
    "ssl_certificate": "nginx_tls_certificate",
    "ssl_certificate_key": "nginx_tls_private_key",
    "ssl_client_certificate": "nginx_client_ca",
    "ssl_verify_client": "nginx_client_certificate",
    "auth_basic": "nginx_users",
    "auth_basic_user_file": "nginx_users",
    "allow": "nginx_allowed_clients",
    "deny": "nginx_allowed_clients",
    "proxy_pass": "nginx_upstream",
    "http2": "nginx_http2",
    "expires": "nginx_browser_cache",
}
# What the site has of its own, and SERVER may give another value: __nginx_transfer of the role.
OWN = (
    *(
        "client_body_timeout",
        "client_max_body_size",
        "proxy_buffer_size",
        "proxy_buffering",
        "proxy_buffers",
        "proxy_busy_buffers_size",
        "proxy_max_temp_file_size",
        "proxy_read_timeout",
        "proxy_request_buffering",
    ),
    *("proxy_send_timeout", "send_timeout"),
)
# Patterns of whole names, and what they would do.
_REFUSED = {
    "auth_(?!delay$).*|satisfy.*|access_by.*": "it decides who gets in, as the role does already",
    "(set_)?real_ip.*": "whoever is trusted there names any address, for the audit trail and for nginx_allowed_clients",
    "ssl_(?!stapling|crl$|ocsp|buffer_size$).*": "it can weaken TLS or the certificates that are asked for",
    "proxy_ssl_.*|proxy_http_version": "it can weaken how the proxy knows Orthanc's host",
    "merge_slashes|underscores_in_headers|ignore_invalid_headers|msie_.*": (
        "nginx and Orthanc would then read the same request differently"
    ),
    "access_log|error_log|log_subrequest|open_log_file_cache|rewrite_log": (
        "the audit trail has to have each request, and no other log names of patients or logins"
    ),
    "set|set_.*|map|geo|split_clients|keyval.*|userid.*": ("it can change what the role's own rules look at"),
    "location|server|upstream|if|limit_except|types|include|load_module": (
        "it opens something beside the site's own rules"
    ),
    "root|alias|.*index|autoindex.*|try_files|internal|return|rewrite|break|(recursive_)?error_pages?": (
        "it answers in Orthanc's place, or sends a request past the site's rules"
    ),
    ".*_pass|mirror.*|post_action|proxy_pass_request_.*|proxy_method|proxy_set_body|dav_.*|create_full_put_path": (
        "it changes which request Orthanc gets, or gives it to others too"
    ),
    "ssi.*|addition_.*|add_(before|after)_body|xslt_.*|sub_filter.*|perl.*|js_.*|lua_.*|.*_by_lua.*": (
        "it makes something of what passes, which may be what somebody has stored"
    ),
    "proxy_(cache|store|temp|max_temp).*|client_body_in_file_only": "it keeps images on the proxy's disk",
    "more_.*": "add_header and proxy_set_header are looked at; this is not",
    "server_tokens|stub_status|status.*|api": "it tells others about the server",
}
# Headers that the role sets, or that are part of how a request is read.
_ANSWERED = re.compile(
    "x-content-type-options|x-frame-options|referrer-policy|strict-transport-security|cache-control|expires|vary"
    "|content-length|transfer-encoding|connection|location|www-authenticate",
    re.IGNORECASE,
)
_ASKED = re.compile(
    "authorization|host|upgrade|connection|x-real-ip|x-forwarded.*|forwarded|x-http-method.*|content-length"
    "|transfer-encoding|te|trailer|expect|keep-alive|origin|proxy-.*",
    re.IGNORECASE,
)


def problems(variable: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Find what is wrong with directives.

    :param variable: the variable that has them.
    :param given: the directives, each with its parameters; several under one name as a list.
    """
    for name, value in given.items():
        here = f"{variable}.{name}"
        if not _NAME.fullmatch(str(name)):
            yield f"{here}: this is no name of a directive; write it like client_body_timeout."
            continue
        for one in value if isinstance(value, list) else [value]:
            text = str(one)
            if isinstance(one, Mapping) or one is None or not _VALUE.fullmatch(text):
                yield (
                    f"{here}: '{text}' is not a valid value; write it like 30s, without the semicolon at the end, and"
                    " put quotes around a text with a semicolon, a brace, a backslash, a quote or '#' in it."
                )
            else:
                yield from _header(here, str(name), text)
        reason = next((why for pattern, why in _REFUSED.items() if re.fullmatch(pattern, str(name))), "")
        if name in _OF_VARIABLES:
            yield f"{here}: the role sets it; set {_OF_VARIABLES[name]}."
        elif reason:
            yield f"{here}: this is refused, since {reason}. Take it out."
        elif variable == SETTINGS and name in (*OWN, "add_header", "proxy_set_header"):
            yield f"{here}: the site has its own, so this would be for others alone; set {SERVER}.{name}."


def _header(here: str, name: str, text: str) -> Iterator[str]:
    """Headers that the role sets itself."""
    header = text.partition(" ")[0].strip("\"'")
    if name == "add_header" and header.lower().startswith("access-control-"):
        yield f"{here}: {header} is the role's; set nginx_allowed_origins."
    elif name == "add_header" and (_ANSWERED.fullmatch(header) or "$" in header):
        yield f"{here}: {header} is the role's, and browsers would have it twice. Take it out."
    elif name == "proxy_set_header" and (_ASKED.fullmatch(header) or "$" in header):
        yield f"{here}: {header} is the role's, and Orthanc would have it twice or read on past it. Take it out."

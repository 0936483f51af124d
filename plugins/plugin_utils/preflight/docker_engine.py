# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role docker_engine asks of an inventory, and of an engine that is there already."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils import docker_daemon
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host
from cryptography import x509


def packages(_host: Host) -> str:
    return "__docker_engine_packages"


def look(_host: Host) -> dict[str, Any]:
    return {"engine": True}


def problems(host: Host) -> Iterator[str]:
    """What the engine is told of registries and networks."""
    variables = host.variables
    for name, pattern, like in (("max-size", r"[1-9]\d*[kmg]", "10m"), ("max-file", r"[1-9]\d*", "3")):
        value = variables["docker_engine_log_options"].get(name, like)
        if not re.fullmatch(pattern, str(value)):
            yield f"docker_engine_log_options.{name}: '{value}' is not like {like}."
    for mirror in variables["docker_engine_registry_mirrors"]:
        if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", mirror):
            yield f"docker_engine_registry_mirrors: '{mirror}' is no URL like https://mirror.example.org."
    for name, certificate in variables["docker_engine_registry_certificates"].items():
        if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", str(name)):
            yield f"docker_engine_registry_certificates: '{name}' is no host with its port, as in registry.local:5000."
        try:
            x509.load_pem_x509_certificates(str(certificate).encode())
        except ValueError:
            yield f"docker_engine_registry_certificates.{name}: this is no certificate in PEM form."
    for pool in variables["docker_engine_address_pools"]:
        try:
            network = ipaddress.ip_network(str(pool["base"]))
            good = set(pool) == {"base", "size"} and network.prefixlen <= int(pool["size"]) <= network.max_prefixlen
        except (KeyError, TypeError, ValueError):
            good = False
        if not good:
            yield f"docker_engine_address_pools: {pool} is no pool; write it like {{base: 10.99.0.0/16, size: 24}}."
    for name in variables["docker_engine_settings"]:
        if name in docker_daemon.VARIABLES:
            own = docker_daemon.variable(name)
            yield f"docker_engine_settings.{name}: this option has a variable of its own; set {own}."
    seen = (host.probe or {}).get("engine")
    if seen:
        yield from docker_daemon.problems(seen, _merged(host, seen))


def _merged(host: Host, seen: Mapping[str, Any]) -> docker_daemon.Merged:
    names = (*docker_daemon.VARIABLES.values(), "settings")
    options = docker_daemon.options(**{name: host.variables[f"docker_engine_{name}"] for name in names})
    return docker_daemon.merge(seen["options"], seen["ours"], options)


def found(host: Host) -> dict[str, Any]:
    """Whether the engine has what it is to have."""
    seen = (host.probe or {})["engine"]
    merged = _merged(host, seen)
    return {"engine": not seen["cut_off"] and (merged.options, merged.ours) == (seen["options"], seen["ours"])}

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who talks to whom, out of the groups; the documentation of the filters stands in the YAML files beside."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.dicom.orthanc.plugins.plugin_utils import preflight

SERVERS = ("postgresql", "mysql")
HERE = "127.0.0.1"


@functools.cache
def defaults() -> dict[str, Any]:
    """Return the defaults of all roles, as they are written."""
    loader = DataLoader()
    found: dict[str, Any] = {}
    for role in preflight.ROLES:
        file = preflight.ROOT / "roles" / role / "defaults" / "main.yml"
        found |= loader.load_from_file(str(file), trusted_as_template=True) if file.exists() else {}
    return found


class Host:
    """A host's variables, as its roles see them; each is evaluated when it is asked for."""

    def __init__(self, hostvars: Any, name: str) -> None:
        self.given: Mapping[str, Any] = hostvars.raw_get(name)
        self._variables = {**defaults(), **self.given, "hostvars": hostvars}
        # With the loader of the run, by which a lookup finds its files.
        self._templar = Templar(loader=hostvars._loader, variables=self._variables)

    def __getitem__(self, variable: str) -> Any:
        return self._templar.template(self._variables[variable])

    @property
    def address(self) -> str:
        return str(self["ansible_host"] if "ansible_host" in self.given else self["inventory_hostname"])


def number(value: Any) -> int:
    """Return a number, and 0 for what is none: the preflight tells of that by the variable's name."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def netloc(address: str) -> str:
    """Return an address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


class Topology:
    """What one host has to know of the others. Nothing is asked of a host before it is needed."""

    def __init__(self, hostvars: Any, groups: Mapping[str, list[str]], name: str) -> None:
        self._groups, self._name = groups, name
        self._host: Callable[[str], Host] = functools.cache(functools.partial(Host, hostvars))
        self._own = self._host(name)

    def _group(self, name: str) -> list[str]:
        return list(self._groups.get(name, []))

    @property
    def address(self) -> str:
        return self._own.address

    @property
    def netloc(self) -> str:
        return netloc(self.address)

    @property
    def orthanc(self) -> str:
        """The Orthanc on this host, else the first one of the inventory; empty if there is none."""
        return self._name if self._name in self._group("orthanc") else next(iter(self._group("orthanc")), "")

    def _proxies(self, name: str) -> list[str]:
        """The proxies before an Orthanc: beside it, else the first one elsewhere, for the first Orthanc."""
        if name in self._group("nginx"):
            return [name]
        elsewhere = [proxy for proxy in self._group("nginx") if proxy not in self._group("orthanc")]
        return elsewhere[:1] if name == next(iter(self._group("orthanc")), "") else []

    @property
    def proxies(self) -> list[str]:
        """The proxy on this host, or those before its Orthanc."""
        return self._proxies(self._name)

    @property
    def relay_clients(self) -> list[str]:
        return [self._host(name).address for name in self.proxies]

    @property
    def upstream_proxies(self) -> list[str]:
        """The proxies that the Orthanc behind this one has."""
        return self._proxies(self.orthanc)

    @property
    def upstream(self) -> str:
        """Where a proxy reaches its Orthanc."""
        if self.orthanc in ("", self._name):
            return f"http://{HERE}:{number(self._own['orthanc_http_port'])}"
        other = self._host(self.orthanc)
        return f"https://{netloc(other.address)}:{number(other['nginx_relay_port'])}"

    @property
    def face(self) -> dict[str, Any]:
        """What the public sees of the proxy on this host, or of the one before its Orthanc."""
        return self._face(next(iter(self.proxies), self._name))

    def _face(self, name: str) -> dict[str, Any]:
        proxy = self._host(name)
        host, kind = proxy["nginx_server_name"], "acme" if proxy["nginx_acme_directory"] else "self-signed"
        return {
            "host": host,
            "http_port": number(proxy["nginx_http_port"]),
            "https_port": number(proxy["nginx_https_port"]),
            "prefix": proxy["nginx_prefix"],
            "ban_after": number(proxy["nginx_ban_after"]),
            # Where it keeps its public certificate, beside the private key.
            "certificate": f"/etc/pacs/nginx/{'site' if proxy['nginx_tls_certificate'] else f'{kind}-{host}'}.crt",
        }

    @property
    def certificate(self) -> str:
        """What `make certificates` made for this host, with the authority's; empty where it was not called."""
        made = self._own["certificates_made"]
        return f"{made[self._name]}{self._own['certificates_authority']}" if self._name in made else ""

    @property
    def private_key(self) -> str:
        return str(self._own["certificates_private_keys"].get(self._name, ""))

    @property
    def web_certificate(self) -> str:
        """Of that, what the proxy takes: none where another authority is asked."""
        return "" if self._own["nginx_acme_directory"] else self.certificate

    @property
    def web_private_key(self) -> str:
        return "" if self._own["nginx_acme_directory"] else self.private_key

    @property
    def url(self) -> str:
        face = self.face
        port = "" if face["https_port"] == 443 else f":{face['https_port']}"
        return f"https://{netloc(face['host'])}{port}{face['prefix']}"

    @property
    def users(self) -> dict[str, str]:
        """Who may log in, as it is set for Orthanc."""
        users: dict[str, str] = self._host(self.orthanc or self._name)["orthanc_users"]
        return users

    @property
    def authorization(self) -> str:
        """The login of the proxy, as Orthanc asks for it."""
        host = self._host(self.orthanc or self._name)
        login = f"{host['orthanc_proxy_user']}:{host['orthanc_proxy_password']}"
        return f"Basic {base64.b64encode(login.encode()).decode()}"

    def _names(self, name: str) -> list[str]:
        return list(dict.fromkeys([self._host(name)["nginx_server_name"], name, self._host(name).address]))

    @property
    def names(self) -> dict[str, list[str]]:
        """All hosts, each with the names under which others reach it."""
        return {name: self._names(name) for name in self._group("all")}

    @property
    def database_server(self) -> str:
        """The host of this Orthanc's database: beside it, or of the group that bears its name; empty if of others."""
        return self._server(self._name)

    def _server(self, name: str) -> str:
        engine = self._host(name)["orthanc_database"]
        servers = self._group(engine) if engine in SERVERS else []
        return name if name in servers else next(iter(servers), "")

    @property
    def database_address(self) -> str:
        server = self.database_server
        return HERE if server == self._name else self._host(server).address if server else ""

    @property
    def database_port(self) -> Any:
        # SQLite has none, and nobody asks for it then.
        engine = self._own["orthanc_database"]
        return self._host(self.database_server or self._name)[f"{engine if engine in SERVERS else SERVERS[0]}_port"]

    @property
    def database_of_others(self) -> bool:
        """Whether others use the server beside its Orthanc as well."""
        engine = self._own["orthanc_database"]
        return self.database_server == self._name and bool(boolean(self._own[f"{engine}_shared"]))

    @property
    def database_closed_port(self) -> int:
        """The port of a server beside its Orthanc that nobody else is to hear; 0 where others may."""
        if self.database_server != self._name or self.database_of_others:
            return 0
        if "mysql_listen_addresses" in self._own.given or any(name != self._name for name in self._clients):
            return 0
        return number(self.database_port)

    @property
    def _clients(self) -> list[str]:
        return [name for name in self._group("orthanc") if self._server(name) == self._name]

    @property
    def database_clients(self) -> list[dict[str, Any]]:
        """What the database server on this host has to know of each Orthanc that uses it."""
        return [self._client(name) for name in self._clients]

    def _client(self, name: str) -> dict[str, Any]:
        orthanc = self._host(name)
        return {
            "engine": orthanc["orthanc_database"],
            "server": self._name,
            "address": HERE if name == self._name else orthanc.address,
            "name": orthanc["orthanc_database_name"],
            "user": orthanc["orthanc_database_user"],
            "password": orthanc["orthanc_database_password"],
            # One more where the DICOM files go into the database too.
            "connections": number(orthanc["orthanc_database_connections"])
            + bool(boolean(orthanc["orthanc_database_storage"])),
        }

    @property
    def database_sharers(self) -> list[str]:
        """The Orthancs that have the very database of this one, itself included."""

        def database(name: str) -> list[Any]:
            host = self._host(name)
            return [host["orthanc_database"], self._server(name), host["orthanc_database_name"]]

        wanted = database(self._name)
        return [] if wanted[0] == "sqlite" else [n for n in self._group("orthanc") if database(n) == wanted]


def topology(hostvars: Any, groups: Mapping[str, list[str]], name: str, part: str) -> Any:
    """Return a part of what a host has to know of the others."""
    if part.startswith("_") or not isinstance(getattr(Topology, part, None), property):
        raise AnsibleFilterError(f"There is no '{part}' in the topology.")
    return getattr(Topology(hostvars, groups, name), part)


def variable_of(hostvars: Any, name: str, variable: str) -> Any:
    """Return a public variable of a host, by the default of its role where the inventory does not set it."""
    return Host(hostvars, name)[variable]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"topology": topology, "variable_of": variable_of}

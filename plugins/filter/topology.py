# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who talks to whom, out of the groups; the documentation of the filters stands in the YAML files beside."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleError, AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import by_field
from ansible_collections.dicom.orthanc.plugins.plugin_utils import preflight, rules
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import storage

SERVERS = ("postgresql", "mysql")
HERE = "127.0.0.1"
FILES = "/etc/pacs/nginx"
# Of what tells who may do what behind a proxy: what the proxy alone has, and what each of several Orthancs may have of
# its own, as it may a name and a prefix, which let nobody in.
OF_ALL = {
    f"nginx_{name}"
    for name in (
        *("users", "allowed_clients", "allowed_origins", "refused_routes"),
        *("client_ca", "client_names", "client_certificate"),
    )
}
OF_EACH = {"nginx_readonly_users"}
# What the role nginx takes for the only Orthanc behind a proxy.
ONE_UPSTREAM = {f"nginx_upstream{end}" for end in ("", "_ca", "_server", "_server_certificate", "_authorization")}


@functools.cache
def defaults(loader: DataLoader) -> dict[str, Any]:
    """Return the defaults of all roles, as they are written; the loader of the run has read most of them already."""
    files = [preflight.ROOT / "roles" / role / "defaults" / "main.yml" for role in preflight.ROLES]
    found: dict[str, Any] = {}
    for file in filter(pathlib.Path.exists, files):
        # "Unsafe" is what the loader keeps itself, which nobody changes here.
        found |= loader.load_from_file(str(file), unsafe=True, trusted_as_template=True) or {}
    return found


class Host:
    """A host's variables, as its roles see them; each is evaluated when it is asked for."""

    def __init__(self, hostvars: Any, name: str) -> None:
        self.given: Mapping[str, Any] = hostvars.raw_get(name)
        # By the loader of the run a lookup finds its files, too.
        loader = hostvars._loader
        self._variables = {**defaults(loader), **self.given, "hostvars": hostvars}
        self._templar = Templar(loader=loader, variables=self._variables)
        self._name = name

    def __getitem__(self, variable: str) -> Any:
        try:
            return self._templar.template(self._variables[variable])
        except AnsibleError as error:
            # What reads it has another name, and may be on another host.
            raise AnsibleFilterError(f"{variable} of {self._name}: {error}") from None

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


def certificate_name(names: list[str]) -> str:
    """Return what the file of a certificate for these names is called: other names get another one."""
    return names[0] + (f"-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:8]}" if len(names) > 1 else "")


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
    def _elsewhere(self) -> list[str]:
        """The proxies without an Orthanc beside them."""
        return [name for name in self._group("nginx") if name not in self._group("orthanc")]

    @property
    def _alone(self) -> list[str]:
        """The Orthancs without a proxy beside them, which have those elsewhere."""
        return [name for name in self._group("orthanc") if name not in self._group("nginx")]

    @property
    def orthanc(self) -> str:
        """The Orthanc on this host, or the first one that may be behind its proxy; empty if there is none."""
        own = [self._name] if self._name in self._group("orthanc") else []
        return next(iter([*own, *self._alone, *self._group("orthanc")]), "")

    def _proxies(self, name: str) -> list[str]:
        """The proxy on a host, or those before its Orthanc."""
        if name in self._group("nginx"):
            return [name]
        return self._elsewhere if name in self._alone else []

    def _orthancs(self, proxy: str) -> list[str]:
        """The Orthancs behind a proxy: beside it, or all that have no proxy beside them."""
        if proxy in self._group("orthanc"):
            return [proxy]
        return self._alone if proxy in self._elsewhere else []

    def _set_for(self, orthanc: str, proxy: str, variable: str) -> Any:
        """What the site of an Orthanc has of the proxy's; where there are several, each host may set its own."""
        several = len(self._orthancs(proxy)) > 1 and variable in self._host(orthanc).given
        return self._host(orthanc if several else proxy)[variable]

    def _server_name(self, orthanc: str, proxy: str) -> str:
        """Its name as nginx has it, to which one in capitals is the same."""
        return str(self._set_for(orthanc, proxy, "nginx_server_name")).lower()

    def _server_names(self, proxy: str) -> list[str]:
        orthancs = self._orthancs(proxy) or [proxy]
        names = [*(self._server_name(name, proxy) for name in orthancs), self._viewer_name(proxy)]
        return [name for name in dict.fromkeys(names) if name]

    def _viewer_name(self, proxy: str) -> str:
        """The name that the viewer of a proxy has of its own; empty if it has none."""
        host = self._host(proxy)
        served = proxy in self._group("nginx") and boolean(host["ohif_enabled"], strict=False)
        return str(host["ohif_server_name"]).lower() if served else ""

    @property
    def viewer_name(self) -> str:
        return self._viewer_name(self._name)

    @property
    def proxies(self) -> list[str]:
        """The proxy on this host, or those before its Orthanc, of which others are told the first one."""
        return self._proxies(self._name)

    @property
    def relay_clients(self) -> list[str]:
        return [self._host(name).address for name in self.proxies]

    @property
    def upstream(self) -> str:
        """Where a proxy reaches its Orthanc."""
        if self.orthanc in ("", self._name):
            return f"http://{HERE}:{number(self._own['orthanc_http_port'])}"
        return self._relay(self.orthanc)

    @property
    def upstreams(self) -> list[dict[str, Any]]:
        """The Orthancs behind the proxy on this host, where there are several; nothing of it is secret."""
        orthancs = self._orthancs(self._name)
        return [
            {
                "orthanc": name,
                "server": name,
                "server_certificate": f"{FILES}/relay-{name}.crt",
                "url": self._relay(name),
                "server_name": self._server_name(name, self._name),
                "prefix": self._set_for(name, self._name, "nginx_prefix"),
                "readonly_users": self._set_for(name, self._name, "nginx_readonly_users"),
                # Not every name of a host may be one of those.
                "upstream": f"orthanc_{place}",
            }
            | self._files(self._name, name)
            for place, name in enumerate(orthancs, 1)
            if len(orthancs) > 1
        ]

    @property
    def upstream_logins(self) -> dict[str, dict[str, Any]]:
        """Who may log in to each of them, and with what the proxy does."""
        names = [upstream["orthanc"] for upstream in self.upstreams]
        own = "nginx_users" in self._own.given
        return {
            name: {
                "users": self._own["nginx_users"] if own else self._host(name)["orthanc_users"],
                "authorization": self._authorization(name),
            }
            for name in names
        }

    def _relay(self, orthanc: str) -> str:
        other = self._host(orthanc)
        return f"https://{netloc(other.address)}:{number(other['nginx_relay_port'])}"

    @property
    def faces(self) -> list[dict[str, Any]]:
        """What the public sees of the proxy on this host, or of each one before its Orthanc."""
        orthancs = self._orthancs(self._name) or [self._name]
        return [self._face(proxy, orthanc) for proxy in self.proxies or [self._name] for orthanc in orthancs]

    def _face(self, name: str, orthanc: str) -> dict[str, Any]:
        proxy, names = self._host(name), self._server_names(name)
        host, prefix = self._server_name(orthanc, name), self._set_for(orthanc, name, "nginx_prefix")
        https_port, kind = number(proxy["nginx_https_port"]), "acme" if proxy["nginx_acme_directory"] else "self-signed"
        port = "" if https_port == 443 else f":{https_port}"
        made = "site" if proxy["nginx_tls_certificate"] else f"{kind}-{certificate_name(names)}"
        return {
            "proxy": name if name in self._group("nginx") else "",
            "host": host,
            "http_port": number(proxy["nginx_http_port"]),
            "prefix": prefix,
            "url": f"https://{netloc(host)}{port}{prefix}",
            "ban_after": number(proxy["nginx_ban_after"]),
            # The path of the viewer, if it has one, and whose that is.
            "viewer": proxy["ohif_path"] if boolean(proxy["ohif_enabled"], strict=False) else "",
            "viewer_site": f"https://{netloc(self._viewer_name(name) or host)}{port}",
            # Where it keeps its public certificate, beside the private key.
            "certificate": f"{FILES}/{made}.crt",
        } | self._files(name, orthanc)

    def _files(self, proxy: str, orthanc: str) -> dict[str, str]:
        """Where a proxy keeps what it has of an Orthanc: its users, the way to it, and who is who on that way."""
        end = f"-{orthanc}" if len(self._orthancs(proxy)) > 1 else ""
        return {
            "users_file": f"{FILES}/htpasswd{end}",
            "upstream_file": f"{FILES}/upstream{end}.conf",
            "ca_file": f"{FILES}/upstream{end}.crt",
            "client_file": f"{FILES}/upstream-client{end}.crt",
            "client_key_file": f"{FILES}/upstream-client{end}.key",
        }

    @property
    def unserved(self) -> list[str]:
        """What this host would be part of, and nobody has made: sentences with the way out."""
        apart = "or have an inventory for each Orthanc, with another proxy host."
        elsewhere, alone, first = self._elsewhere, self._alone, next(iter(self._group("orthanc")), "")
        if self._name in elsewhere and first and not alone and self._own["nginx_upstream_server"]:
            return [
                f"nginx_upstream_server: {self._name} would stand before the Orthanc of {first}, which has the proxy"
                f" {first} beside it, and cannot have one elsewhere as well; take {self._name} or {first} out of the"
                f" group 'nginx', {apart}"
            ]
        if len(elsewhere) > 1 and len(alone) > 1 and self._name in elsewhere + alone:
            return [
                f"nginx_upstream_server: the proxies {' and '.join(elsewhere)} would each stand before the Orthancs of"
                f" {' and '.join(alone)}. One proxy may have several Orthancs, or one Orthanc several proxies; leave"
                f" one of either in the groups 'nginx' and 'orthanc', {apart}"
            ]
        if self._name in alone:
            return list(self._set_in_vain())
        if self._name not in elsewhere:
            return []
        return [*self._prefixes_that_differ(), *self._places_that_clash()]

    def _set_in_vain(self) -> Iterator[str]:
        """What this Orthanc's host sets, and no proxy of it has: it would let in whom the host shuts out."""
        proxies, several = self.proxies, len(self._alone) > 1
        for variable in sorted((OF_ALL if several else OF_ALL | OF_EACH) & set(self._own.given)):
            if proxies and self._own[variable] not in [self._host(proxy)[variable] for proxy in proxies]:
                name = " and ".join(proxies)
                yield (
                    f"{variable}: it is set for {self._name}, and {name} before its Orthanc has another value, which is"
                    f" the one that holds; set it for {name} instead, or alike."
                )

    def _prefixes_that_differ(self) -> Iterator[str]:
        # DICOMweb's answers carry it, and the Orthanc has one.
        first, own = self._elsewhere[0], self._own["nginx_prefix"]
        other = self._host(first)["nginx_prefix"]
        if self._alone and other != own:
            yield (
                f"nginx_prefix: {self._name} and {first} stand before one Orthanc, whose answers carry one prefix, and"
                f" they have {own} and {other}; give both the same."
            )

    def _places_that_clash(self) -> Iterator[str]:
        """Two Orthancs behind this proxy at one place, and what goes with one Orthanc or one name alone."""
        upstreams = self.upstreams
        names = " and ".join(upstream["orthanc"] for upstream in upstreams)
        for one, other in itertools.permutations(upstreams, 2):
            if one["server_name"] == other["server_name"] and str(other["prefix"]).startswith(str(one["prefix"])):
                place = f"https://{netloc(one['server_name'])}{one['prefix']}"
                yield (
                    f"nginx_prefix: the Orthanc of {other['orthanc']} would be at or below {place}, which is the place"
                    f" of {one['orthanc']}; give each host of the two a nginx_prefix, such as /{one['orthanc']}/, or a"
                    " nginx_server_name of its own."
                )
        for variable in sorted(ONE_UPSTREAM & set(self._own.given)) if upstreams else []:
            yield f"{variable}: this proxy stands before the Orthancs of {names}, and this is for one; take it out."
        if upstreams and len(self._server_names(self._name)) > 1 and self._own["nginx_acme_directory"]:
            yield (
                f"nginx_acme_directory: the Orthancs of {names} have several names, and this authority is asked for"
                " one; give each a nginx_prefix instead of a nginx_server_name, or set nginx_tls_certificate."
            )

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
    def users(self) -> dict[str, str]:
        """Who may log in, as it is set for Orthanc."""
        users: dict[str, str] = self._host(self.orthanc or self._name)["orthanc_users"]
        return users

    @property
    def authorization(self) -> str:
        """The login of the proxy, as Orthanc asks for it."""
        return self._authorization(self.orthanc or self._name)

    def _authorization(self, name: str) -> str:
        host = self._host(name)
        login = f"{host['orthanc_proxy_user']}:{host['orthanc_proxy_password']}"
        return f"Basic {base64.b64encode(login.encode()).decode()}"

    def _names(self, name: str) -> list[str]:
        balanced = self._balanced_names if name in self._behind else []
        return list(dict.fromkeys([*self._server_names(name), *balanced, name, self._host(name).address]))

    @property
    def names(self) -> dict[str, list[str]]:
        """All hosts, each with the names under which others reach it."""
        return {name: self._names(name) for name in self._group("all")}

    @property
    def virtual_address(self) -> str:
        """The address that the hosts of the group keepalived have, one at a time; empty without that group."""
        first = next(iter(self._group("keepalived")), "")
        return str(self._host(first)["keepalived_address"]) if first else ""

    @property
    def vrrp_members(self) -> dict[str, str]:
        """These hosts, each with its own address."""
        return {name: self._host(name).address for name in self._group("keepalived")}

    @property
    def balancers(self) -> dict[str, str]:
        """The hosts from which Orthancs are reached by way of a balancer, each with its own address."""
        return {name: self._host(name).address for name in self._group("haproxy")}

    @property
    def _behind(self) -> list[str]:
        """The Orthancs behind the balancers: those that have their proxy beside them."""
        return [name for name in self._group("orthanc") if name in self._group("nginx")] if self.balancers else []

    @property
    def balanced(self) -> bool:
        """Whether this Orthanc is behind a balancer."""
        return self._name in self._behind

    @property
    def balancer(self) -> dict[str, Any]:
        """What clients know of the balancers."""
        first = self._host(next(iter(self.balancers), self._name))
        return {
            "address": str(first["haproxy_address"]) if self.balancers else "",
            "name": str(first["haproxy_server_name"]) if self.balancers else "",
            "https_port": number(first["haproxy_https_port"]),
            "dicom_port": number(first["haproxy_dicom_port"]),
        }

    @property
    def balanced_servers(self) -> list[dict[str, Any]]:
        """What a balancer has to know of each Orthanc."""
        return [
            {
                "name": name,
                "address": host.address,
                "https_port": number(host["nginx_balanced_port"]),
                "health_port": number(host["nginx_health_port"]),
                "dicom_port": number(host["orthanc_dicom_port"]),
            }
            for name in self._behind
            for host in [self._host(name)]
        ]

    @property
    def _balanced_names(self) -> list[str]:
        first = self._host(next(iter(self._group("haproxy"))))
        return list(dict.fromkeys([str(first["haproxy_server_name"]).lower(), str(first["haproxy_address"])]))

    @property
    def balanced_names(self) -> list[str]:
        """The names under which clients ask for this Orthanc by way of a balancer, with the port if it is not 443."""
        if not self.balanced:
            return []
        port = number(self._host(next(iter(self._group("haproxy"))))["haproxy_https_port"])
        return [netloc(name) + ("" if port == 443 else f":{port}") for name in self._balanced_names]

    @property
    def own_addresses(self) -> list[str]:
        """Where nginx listens, if a balancer beside it has the same ports at another address; else empty."""
        return [self.address] if self._name in self.balancers and self.virtual_address else []

    @property
    def balanced_apart(self) -> list[str]:
        """Those behind the balancers that do not share the database of the first one."""
        sharers = self._sharers(self._behind[0]) if self._behind else []
        return [name for name in self._behind[1:] if name not in sharers]

    @property
    def senders_checked(self) -> bool:
        """Whether a sender's address has to be the one that its title has, as Orthanc does by itself."""
        settings = [self._host(name)["orthanc_settings"] for name in self._behind]
        return all(one.get("DicomCheckModalityHost", True) for one in settings)

    @property
    def senders(self) -> list[dict[str, str]]:
        """The modalities that the Orthancs behind the balancers know, by title and address."""
        found = [
            {"aet": str(entry.get("AET")), "address": str(entry.get("Host"))}
            for name in self._behind
            for given in self._host(name)["orthanc_modalities"].values()
            for entry in [by_field(given, ("AET", "Host", "Port", "Manufacturer"))]
        ]
        return [one for place, one in enumerate(found) if one not in found[:place]]

    @property
    def senders_encrypt(self) -> bool:
        """Whether they send over TLS, in which nobody between sees a title."""
        return any(
            self._host(name)["orthanc_dicom_tls_certificate"]
            and self._host(name)["orthanc_settings"].get("DicomTlsEnabled", True)
            for name in self._behind
        )

    @property
    def etcd_members(self) -> dict[str, str]:
        """The members of etcd, each with its address."""
        return {name: str(self._host(name)["etcd_address"]) for name in self._group("etcd")}

    @property
    def etcd_clients(self) -> list[str]:
        """Who asks etcd: its members, and the servers of the database that agree by it."""
        return list(dict.fromkeys([*self.etcd_members.values(), *self.database_servers.values()]))

    @property
    def _database_cluster(self) -> list[str]:
        """The servers of PostgreSQL of which one is primary: all, where there is etcd to agree by."""
        return self._group("postgresql") if self._group("etcd") else []

    @property
    def etcd(self) -> list[str]:
        """Where the servers of the database on this host's cluster find etcd."""
        port = {name: number(self._host(name)["etcd_client_port"]) for name in self.etcd_members}
        return [f"{netloc(address)}:{port[name]}" for name, address in self.etcd_members.items()]

    @property
    def database_servers(self) -> dict[str, str]:
        """The servers of a cluster, each with its address."""
        return {name: self._host(name).address for name in self._database_cluster}

    @property
    def database_clustered(self) -> bool:
        """Whether the database of this Orthanc is on several servers, whichever is primary."""
        return self._clustered(self._name)

    def _clustered(self, name: str) -> bool:
        return bool(self._database_cluster) and self._host(name)["orthanc_database"] == "postgresql"

    @property
    def database_beside(self) -> bool:
        """Whether it is on this very host, and nothing travels."""
        return self.database_server == self._name and not self.database_clustered

    @property
    def database_server(self) -> str:
        """The host of this Orthanc's database: beside it, or of the group that bears its name; empty if of others."""
        return self._server(self._name)

    def _server(self, name: str) -> str:
        engine = self._host(name)["orthanc_database"]
        servers = self._group(engine) if engine in SERVERS else []
        # In a cluster each has the same, of whom the first stands for all.
        alone = name in servers and not self._clustered(name)
        return name if alone else next(iter(servers), "")

    @property
    def database_address(self) -> str:
        server = self.database_server
        if self.database_clustered:
            # As libpq has it: each is tried until one is primary.
            return ",".join(self.database_servers.values())
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
        return self.database_beside and bool(boolean(self._own[f"{engine}_shared"]))

    @property
    def database_closed_port(self) -> int:
        """The port of a server beside its Orthanc that nobody else is to hear; 0 where others may."""
        if not self.database_beside or self.database_of_others:
            return 0
        if "mysql_listen_addresses" in self._own.given or any(name != self._name for name in self._clients):
            return 0
        return number(self.database_port)

    @property
    def _clients(self) -> list[str]:
        clustered = self._name in self._database_cluster
        return [
            name
            for name in self._group("orthanc")
            if (self._clustered(name) if clustered else self._server(name) == self._name)
        ]

    @property
    def database_clients(self) -> list[dict[str, Any]]:
        """What the database server on this host has to know of each Orthanc that uses it."""
        return [self._client(name) for name in self._clients]

    def _client(self, name: str) -> dict[str, Any]:
        orthanc = self._host(name)
        return {
            "engine": orthanc["orthanc_database"],
            "server": self._name,
            # In a cluster it comes to its own host as to the others.
            "address": HERE if name == self._name and not self._clustered(name) else orthanc.address,
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
        return self._sharers(self._name)

    def _sharers(self, orthanc: str) -> list[str]:
        def database(name: str) -> list[Any]:
            host = self._host(name)
            return [host["orthanc_database"], self._server(name), host["orthanc_database_name"]]

        wanted = database(orthanc)
        return [] if wanted[0] == "sqlite" else [n for n in self._group("orthanc") if database(n) == wanted]

    @property
    def sharers(self) -> dict[str, dict[str, Any]]:
        """Of those, what each has to have for itself, and what has to be alike."""
        return {name: self._sharer(self._host(name)) for name in self.database_sharers}

    @staticmethod
    def _sharer(host: Host) -> dict[str, Any]:
        settings = {**host["orthanc_settings"], **host["orthanc_settings_unchecked"]}
        in_database = boolean(host["orthanc_database_storage"], strict=False)
        place = [host[f"orthanc_storage_{one}"] for one in ("mount", "mark", "dir")]
        return {
            "identifier": str(settings.get("DatabaseServerIdentifier") or host["inventory_hostname"]),
            "locks": boolean(host["orthanc_database_lock"], strict=False),
            "housekeeper": "housekeeper" in host["orthanc_plugins"],
            "storage": "database" if in_database else storage.shared_folder(*place),
        }

    @property
    def verification_level(self) -> str:
        """Of several Orthancs with one index one tries it with images, which the others would remove meanwhile."""
        return "probe" if self._name in self.database_sharers[1:] else "conform"

    @property
    def routers(self) -> list[str]:
        """Of those, the ones that send studies on, or tell of them."""
        sharers = [(name, self._host(name)) for name in self.database_sharers]
        return [name for name, host in sharers if host["orthanc_routes"] or host["orthanc_webhooks"]]

    @property
    def rule_scripts(self) -> list[str]:
        """The scripts of its role that it runs for the rules of the inventory."""
        host = self._host(self._name)
        return rules.scripts({variable: host[variable] for variable in rules.OPTIONS})

    @property
    def archive_members(self) -> dict[str, bool]:
        """The hosts with one archive in a cluster, and whether each has an Orthanc; empty where it is of one host."""
        orthancs = [name for name in self._group("orthanc") if self._clustered(name)]
        members = list(dict.fromkeys([*self._database_cluster, *orthancs]))
        return {name: name in orthancs for name in members} if self._name in members else {}

    @property
    def archive_unlike(self) -> list[str]:
        """What these hosts have to have alike for their backups, and have not: the variables."""
        names = ("repository", "password", "keep", "s3_key", "s3_secret", "s3_region")
        members = [self._host(name) for name in self.archive_members if name in self._group("backup")]
        return [f"backup_{name}" for name in names if len({repr(one[f"backup_{name}"]) for one in members}) > 1]

    @property
    def repository_sharers(self) -> list[str]:
        """The other hosts whose backups go to the very place where those of this one go, with another archive."""

        def place(name: str) -> str:
            return str(self._host(name)["backup_repository"]).rstrip("/")

        # A folder is of each host, as far as can be seen.
        mine = place(self._name)
        there = [] if mine.startswith("/") else self._group("backup")
        own = {self._name, *self.archive_members}
        return [name for name in there if name not in own and place(name) == mine]


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
        return {"certificate_name": certificate_name, "topology": topology, "variable_of": variable_of}

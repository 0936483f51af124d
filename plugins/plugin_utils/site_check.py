# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the variables of one host, found without touching it.

Every function takes the host's variables, already templated, and yields one sentence per problem,
which names the variable and the remedy; the caller adds the host.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import ipaddress
import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.dicom.orthanc.plugins.module_utils import docker_daemon
from ansible_collections.dicom.orthanc.plugins.module_utils import lsb as site_of_lsb
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import nearest, version_tuple
from ansible_collections.dicom.orthanc.plugins.plugin_utils import settings_check
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

Variables = Mapping[str, Any]
Check = Callable[["Host"], Iterator[str]]

# The oldest releases of the distributions that the roles are made for.
DISTRIBUTIONS = {"debian": "12", "ubuntu": "22.04"}
RANGES = {
    "orthanc_database_connections": (1, 100),
    "nginx_audit_days": (1, 36_500),
    "nginx_ban_after": (0, 1000),
    "nginx_timeout": (1, 86400),
    "orthanc_journal_days": (0, 36_500),
    "orthanc_journal_mb": (0, 1_000_000),
    "orthanc_lsb_keep": (1, 100),
    "mysql_reserved_connections": (1, 10_000),
    "postgresql_reserved_connections": (5, 10_000),
    "orthanc_ready_timeout": (1, 3600),
    "orthanc_storage_minimum_free_gb": (0, 1_000_000),
}
# Folders that are nobody's alone, ...
SYSTEM_FOLDERS = (
    *("/", "/bin", "/dev", "/etc", "/etc/pacs", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root"),
    *("/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/lib", "/usr/local", "/usr/share", "/var", "/var/cache"),
    *("/var/lib", "/var/log", "/var/spool", "/var/tmp"),
)
# ... those in which Orthanc cannot see what is there, or which are gone at the next boot, ...
CLOSED_FOLDERS = ("/boot", "/dev", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/var/run", "/var/tmp")
# ... and those of others.
TAKEN_FOLDERS = (
    *(
        "/etc/docker",
        "/etc/mysql",
        "/etc/nginx",
        "/etc/orthanc",
        "/etc/pacs/docker",
        "/etc/pacs/mysql",
        "/etc/pacs/nginx",
    ),
    *("/etc/pacs/postgresql", "/etc/postgresql", "/etc/systemd", "/usr/lib/orthanc", "/usr/share/orthanc"),
    *("/var/lib/docker", "/var/lib/mysql", "/var/lib/pacs", "/var/lib/postgresql", "/var/log"),
)
# What the values of YAML are, in the words of an argument spec; a truth is a number to Python.
KINDS = ((bool, "bool"), (int, "int"), (float, "float"), (str, "str"), (list, "list"), (dict, "dict"))
# The programs that may hold the ports of the roles already.
PROGRAMS = {
    "orthanc": ("Orthanc",),
    "nginx": ("nginx",),
    "postgresql": ("postgres",),
    "mysql": ("mariadbd", "mysqld"),
}
# Settings of a database server that the role has from elsewhere, and the variable for it, if there is one.
SERVER_SETTINGS = {
    "postgresql": {
        "listen_addresses": "postgresql_address",
        "port": "postgresql_port",
        "ssl_cert_file": "postgresql_tls_certificate",
        "ssl_key_file": "postgresql_tls_private_key",
        **dict.fromkeys(("config_file", "data_directory", "external_pid_file", "hba_file", "ident_file", "ssl"), ""),
        "unix_socket_directories": "",
    },
    "mysql": {
        "bind_address": "mysql_listen_addresses",
        "port": "mysql_port",
        "ssl_cert": "mysql_tls_certificate",
        "ssl_key": "mysql_tls_private_key",
        **dict.fromkeys(("datadir", "pid_file", "skip_grant_tables", "skip_networking", "skip_ssl", "ssl", "user"), ""),
    },
}
# What the servers call their own.
SERVER_NAMES = re.compile(
    "postgres|template[01]|public|none|all|sameuser|samerole|replication|pg_.*"
    "|root|mysql|sys|test|information_schema|performance_schema|mariadb.sys|debian-sys-maint",
    re.IGNORECASE,
)
_RELEASE = r"\d+\.\d+\.\d+"
_URL = r"https?://[^\s/]+(/\S*)?"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
# Registry, path, and the tag or digest without which it would be whatever is newest.
_IMAGE = re.compile(
    r"([A-Za-z0-9.-]+(:\d+)?/)?[a-z0-9._-]+(/[a-z0-9._-]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|(:[\w.-]+)?@sha256:[0-9a-f]{64})"
)
_ROUTE_PART = r"(\*|[A-Za-z0-9._~-]+)"
_PREFIX = re.compile(r"/((?!\.\.?/)[A-Za-z0-9._~-]+/)*")


@dataclasses.dataclass
class Host:
    """One host: its roles, its variables and what was found on it.

    ``probe`` is what the module ``site_probe`` returned, or nothing if the host was not asked.
    ``plain_secrets`` names the variables whose secret can be read in the inventory's files.
    ``tables`` maps each known Orthanc release to the names and types of its options, ``plugin_tables`` to those of each
    section of a plugin, ``lsb_versions`` to the versions of the plugins that go with it. ``inventory`` is its path, for
    commands that an error names.
    """

    roles: list[str]
    variables: Variables
    plugins: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    plugin_tables: Mapping[str, Mapping[str, Mapping[str, str]]] = dataclasses.field(default_factory=dict)
    distribution_versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    databases: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    lsb_versions: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    inventory: str = "inventories/<site>"
    probe: Mapping[str, Any] | None = None
    plain_secrets: frozenset[str] = frozenset()

    def has(self, role: str) -> bool:
        return role in self.roles

    @property
    def foreign_database(self) -> bool:
        """Whether its Orthanc uses a database server that somebody else runs."""
        variables = self.variables
        return (
            self.has("orthanc")
            and variables["orthanc_database"] != "sqlite"
            and not variables["orthanc_database_server"]
            and bool(variables["orthanc_database_host"])
        )

    @property
    def method(self) -> str:
        """How Orthanc is installed."""
        return str(self.variables.get("orthanc_install_method", "apt"))

    @property
    def upstream(self) -> bool:
        """Whether the packages are those of Orthanc's makers, of which nothing is known before they are asked."""
        return self.method == "apt" and self.variables.get("orthanc_apt_source") == "upstream"

    @property
    def installs_what_is_offered(self) -> bool:
        """Whether it is the release that the distribution offers now."""
        asked = self.variables.get("orthanc_version")
        return self.has("orthanc") and self.method == "apt" and not self.upstream and not asked

    @property
    def orthanc_version(self) -> str:
        """The release that this host has, or will get; empty if that is not known."""
        asked = str(self.variables.get("orthanc_version") or "")
        if asked or not self.probe or self.method != "apt" or self.upstream:
            return asked
        return str(
            self.probe["orthanc"]
            or next(iter(self.probe["offered"]), "")
            or self.distribution_versions.get(f"{self.probe['distribution']}-{self.probe['release']}", "")
        )

    @property
    def settings(self) -> dict[str, Any]:
        """All options that the inventory sets, looked at or not."""
        return {**self.variables["orthanc_settings"], **self.variables["orthanc_settings_unchecked"]}

    @property
    def asked(self) -> settings_check.Asked:
        """What its Orthanc is to have."""
        variables, release = self.variables, self.orthanc_version
        # Images and upstream's packages have plugins of their own age.
        of_debian = self.method == "lsb" or (self.method == "apt" and not self.upstream)
        return settings_check.Asked(release, variables["orthanc_plugins"], variables["orthanc_database"], of_debian)

    @property
    def known(self) -> settings_check.Known:
        """What is known of the options; the very binary on the host knows best."""
        binary = (self.probe or {}).get("binary") or {"options": {}}
        tables = {**self.tables, binary["version"]: binary["options"]} if binary["options"] else self.tables
        return settings_check.Known(tables, self.plugin_tables, self.plugins)


def misspelled(names: set[str], known: set[str], derived: set[str], prefixes: set[str]) -> Iterator[str]:
    """Find the names that look like variables of the toolkit and are none.

    :param names: the names that the inventory gives this host.
    :param known: the public variables of all roles.
    :param derived: the ``site_*`` names, which are not for an inventory to set.
    :param prefixes: the prefixes of the roles, such as ``orthanc_``.
    """
    for name in sorted(names - known):
        if name in derived:
            yield f"{name}: this name is derived; set the role's variable that it comes from, see docs/variables.md."
        elif name.startswith((*prefixes, "site_")) or difflib.get_close_matches(name, known, n=1, cutoff=0.85):
            yield f"{name}: no such variable.{nearest(name, known)}"


def arguments(spec: Mapping[str, Mapping[str, Any]], variables: Variables) -> Iterator[str]:
    """Hold the variables against the argument spec of a role: type, choices, required."""
    # Ansible's own check would turn a number into a list of one, and leave the role with the number.
    for name, kind in (("list", list), ("dict", dict)):
        for wrong in (key for key in spec if spec[key]["type"] == name and key in variables):
            if not isinstance(variables[wrong], kind):
                yield f"'{wrong}' has to be a {name}, not {_kind(variables[wrong])}."
                variables = {key: value for key, value in variables.items() if key != wrong}
    for wrong in [key for key, value in variables.items() if key in spec and _has_nothing(value, spec[key]["type"])]:
        yield f"'{wrong}' has an entry that is empty (null); write it out, or take it out."
        variables = {key: value for key, value in variables.items() if key != wrong}
    keys = ("type", "elements", "choices", "required", "no_log", "options")
    result = ArgumentSpecValidator(
        {name: {key: option[key] for key in keys if key in option} for name, option in spec.items()}
    ).validate({name: variables[name] for name in spec if name in variables})
    yield from (message.replace("argument '", "'") + "." for message in result.error_messages)


def _kind(value: Any) -> str:
    """Name the type of a value as an inventory's writer would."""
    if value is None:
        return "null"
    return next((name for kind, name in KINDS if isinstance(value, kind)), "something else")


def _has_nothing(value: Any, kind: str) -> bool:
    return kind == "list" and isinstance(value, list) and None in value


def _no_ports(host: Host) -> Iterator[str]:
    for name in sorted(name for name in host.variables if name.endswith("_port")):
        if not 1 <= int(host.variables[name]) <= 65535:
            yield f"{name}: {host.variables[name]} is not a TCP port; choose one from 1 to 65535."


def ports(host: Host) -> Iterator[str]:
    """Ports out of range, asked for twice, or taken by another program."""
    seen: dict[int, str] = {}
    yield from _no_ports(host)
    for name in sorted(name for name in host.variables if name.endswith("_port")):
        value = int(host.variables[name])
        if name == "orthanc_database_port":
            # The port of the server, which may be this host and have a role of its own.
            continue
        if value in seen:
            yield f"{name}: port {value} is the one of {seen[value]} already; choose another."
        seen.setdefault(value, name)
        holder = (host.probe or {}).get("listening", {}).get(str(value))
        if holder and holder not in PROGRAMS[name.split("_")[0]]:
            yield f"{name}: port {value} is taken on this host by {holder}; choose another or stop that program."


def ranges(host: Host) -> Iterator[str]:
    for name, (low, high) in RANGES.items():
        if name in host.variables and not low <= int(host.variables[name]) <= high:
            yield f"{name}: {host.variables[name]} is out of range; choose a number from {low} to {high}."


def numbers(host: Host) -> list[str]:
    """Ports and other numbers that are out of range, of roles that the host does not have."""
    return [*ranges(host), *_no_ports(host)]


def users(host: Host) -> Iterator[str]:
    """Logins without which nobody gets in, or with which anybody does."""
    for variable in ("orthanc_users", "nginx_users"):
        logins = host.variables.get(variable, {})
        for name, password in logins.items():
            if not isinstance(password, str) or not password:
                yield f"{variable}: the password of '{name}' is empty or no text; {_SECRETS}"
            elif _CONTROL.search(password):
                yield f"{variable}: the password of '{name}' has a line break or another control character; {_SECRETS}"
            if not name or re.search(r"[:\s\x00-\x1f]", str(name)):
                yield f"{variable}: the user name '{name}' has a colon or white space in it; choose another."
    for variable in ("orthanc_proxy_password", "orthanc_database_password", "orthanc_docker_registry_password"):
        if _CONTROL.search(str(host.variables.get(variable) or "")):
            yield f"{variable}: it has a line break or another control character; {_SECRETS}"
    if host.has("nginx") and not host.variables["nginx_users"]:
        yield f"orthanc_users: no user is named, so nobody could log in; name one, and {_SECRETS}"
    if host.has("orthanc"):
        if host.variables["orthanc_proxied"]:
            if not host.variables["orthanc_proxy_password"]:
                yield f"orthanc_proxy_password: it is empty; {_SECRETS}"
        elif not host.variables["orthanc_users"]:
            yield f"orthanc_users: no user is named, so nobody could log in; name one, and {_SECRETS}"


# No form, no header and no file of ours takes them; a block of YAML (|) ends with one.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SECRETS = "take it from a vault_* variable, and let `make secrets INVENTORY=inventories/<site>` write what is missing."


def orthanc(host: Host) -> Iterator[str]:
    """The variables of the role orthanc that stand on their own."""
    variables = host.variables
    aet = variables["orthanc_aet"]
    if not _is_aet(aet):
        yield (
            f"orthanc_aet: '{aet}' is no application entity title;"
            " it has 1 to 16 printable ASCII characters, no backslash."
        )
    if variables["orthanc_version"] and not re.fullmatch(_RELEASE, str(variables["orthanc_version"])):
        yield f"orthanc_version: '{variables['orthanc_version']}' is no release; write it like 1.12.7, with quotes."


def folders(host: Host) -> Iterator[str]:
    """Folders that are not the toolkit's alone: it sets their owner, and removes files in that of the configuration."""
    found = {name: str(host.variables[name]) for name in ("orthanc_config_dir", "orthanc_storage_dir")}
    if host.variables["orthanc_index_dir"]:
        found["orthanc_index_dir"] = str(host.variables["orthanc_index_dir"])
    if host.method == "lsb":
        found["orthanc_lsb_dir"] = str(host.variables["orthanc_lsb_dir"])
    for name, value in list(found.items()):
        normal = "/" + posixpath.normpath(value).lstrip("/")
        if not re.fullmatch(r"/[^\s:%\\\"']*", value):
            yield f"{name}: '{value}' is not an absolute path without white space, quotes, colon or percent sign."
        elif name == "orthanc_config_dir" and normal == "/etc/orthanc":
            yield f"{name}: /etc/orthanc belongs to the packages, whose files collide with ours; choose another."
        elif normal != value:
            yield f"{name}: write '{value}' as {normal}."
        elif value in SYSTEM_FOLDERS or value.startswith(tuple(f"{folder}/" for folder in CLOSED_FOLDERS)):
            yield f"{name}: {value} is a folder of the system or of its users; choose one for Orthanc alone."
        else:
            continue
        del found[name]
    seen: dict[str, str] = {}
    for name, value in found.items():
        others = {folder: other for folder, other in seen.items() if {name, other} != _IMAGES}
        others |= dict.fromkeys(TAKEN_FOLDERS, "what others have there")
        seen.setdefault(value, name)
        if name == "orthanc_config_dir":
            others["/var/lib/orthanc"] = "the service's own folder"
        for folder, whose in others.items():
            common = posixpath.commonpath([value, folder])
            if common in (value, folder):
                where = "is" if value == folder else "holds" if common == value else "is in"
                yield f"{name}: {value} {where} {folder} ({whose}); choose a folder apart from it."


# Files and index may share a folder, however they lie: nothing is removed from either.
_IMAGES = {"orthanc_storage_dir", "orthanc_index_dir"}


def container(host: Host) -> Iterator[str]:
    """The image of Orthanc and what its container gets of the host."""
    variables = host.variables
    if host.method != "docker":
        return
    image = str(variables["orthanc_docker_image"])
    if not _IMAGE.fullmatch(image):
        yield (
            f"orthanc_docker_image: '{image}' is no image with its tag or digest;"
            " write it like orthancteam/orthanc:26.8.1 or registry.example.org:5000/orthanc:26.8.1."
        )
    elif image.endswith(":latest"):
        yield f"orthanc_docker_image: '{image}' may be another Orthanc tomorrow; name a tag that says which."
    user, password = variables["orthanc_docker_registry_user"], variables["orthanc_docker_registry_password"]
    if bool(user) != bool(password):
        given, other = ("user", "password") if user else ("password", "user")
        yield f"orthanc_docker_registry_{other}: it is empty while orthanc_docker_registry_{given} is given."
    if ":" in str(user):
        yield f"orthanc_docker_registry_user: '{user}' has a colon in it, which no registry takes."
    folder = str(variables["orthanc_docker_plugin_dir"])
    if not re.fullmatch(r"/[^\s:%\\\"'$]+", folder):
        yield f"orthanc_docker_plugin_dir: '{folder}' is not an absolute path without white space, quotes or colon."
    for volume in variables["orthanc_docker_volumes"]:
        if not re.fullmatch(r"/[^\s:%\\\"'$]*:/[^\s:%\\\"'$]+(:(ro|rw))?", volume):
            yield f"orthanc_docker_volumes: '{volume}' is not like /srv/scripts:/srv/scripts:ro."
    memory = str(variables["orthanc_docker_memory"])
    if not re.fullmatch(r"0|[1-9]\d*[mg]", memory):
        yield f"orthanc_docker_memory: '{memory}' is no amount of memory; write it like 512m or 8g, or 0 for no limit."
    if float(variables["orthanc_docker_cpus"]) < 0:
        yield f"orthanc_docker_cpus: {variables['orthanc_docker_cpus']} is out of range; choose 0 (no limit) or more."


def engine(host: Host) -> Iterator[str]:
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
        options = docker_daemon.options(
            **{name: variables[f"docker_engine_{name}"] for name in (*docker_daemon.VARIABLES.values(), "settings")}
        )
        yield from docker_daemon.problems(seen, docker_daemon.merge(seen["options"], seen["ours"], options))


def plugins(host: Host) -> Iterator[str]:
    """Plugins that do not exist, or not for this host."""
    source = host.method if host.method != "apt" else "upstream" if host.upstream else "distribution"
    files_in_database = host.variables["orthanc_database"] != "sqlite" and host.variables["orthanc_database_storage"]
    yield from settings_check.plugins(host.asked, host.known, source, bool(files_in_database))
    if _weak_gdcm(host) and host.settings.get("IngestTranscoding"):
        yield (
            "orthanc_plugins: gdcm of Debian's packages ends Orthanc when it transcodes, which"
            " orthanc_settings.IngestTranscoding has it do; leave gdcm out, since all but JPEG 2000 needs no plugin."
        )


def _weak_gdcm(host: Host) -> bool:
    """Whether the plugin gdcm is one that was seen to end Orthanc by a segmentation fault: Debian 12's and 13's."""
    return "gdcm" in host.variables["orthanc_plugins"] and host.method == "apt" and not host.upstream


def upstream(host: Host) -> Iterator[str]:
    """The source of packages of Orthanc's makers."""
    url, key = str(host.variables["orthanc_apt_url"]), str(host.variables["orthanc_apt_key"])
    if url and not re.fullmatch(_URL, url):
        yield f"orthanc_apt_url: '{url}' is no address of a site; it begins with https:// or http://."
    if not re.fullmatch(r"[A-Za-z0-9._/-]*", str(host.variables["orthanc_apt_suite"])):
        yield f"orthanc_apt_suite: '{host.variables['orthanc_apt_suite']}' is no suite, such as trixie."
    if not re.fullmatch(_URL, key) and not key.strip().startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----"):
        yield "orthanc_apt_key: this is neither a URL nor a public key in ASCII armour."


def lsb(host: Host) -> Iterator[str]:
    """What the download of LSB binaries needs."""
    variables, release = host.variables, host.orthanc_version
    url = str(variables["orthanc_lsb_url"])
    if not re.fullmatch(_URL, url):
        yield f"orthanc_lsb_url: '{url}' is no address of a site; it begins with https:// or http://."
    if variables["orthanc_lsb_ca"]:
        try:
            x509.load_pem_x509_certificates(str(variables["orthanc_lsb_ca"]).encode())
        except ValueError:
            yield "orthanc_lsb_ca: this is no certificate in PEM form."
    sums = variables["orthanc_lsb_checksums"]
    for path in sorted(path for path, value in sums.items() if not re.fullmatch(r"[0-9a-fA-F]{64}", str(value))):
        yield f"orthanc_lsb_checksums: that of {path} is no SHA-256 of 64 hexadecimal digits."
    machine = (host.probe or {}).get("machine", "x86_64")
    if machine != "x86_64":
        yield f"orthanc_install_method: the LSB binaries are for x86_64, and this host is {machine}; take apt."
    if not release:
        yield "orthanc_version: it is empty, and orthanc_install_method lsb needs a release, such as '1.12.7'."
        return
    if next(plugins(host), "") or not re.fullmatch(_RELEASE, release):
        # That has been told; which files they would need is of no interest.
        return
    wanted = {name: host.plugins[name] for name in variables["orthanc_plugins"]}
    database = host.databases.get(variables["orthanc_database"], {})
    if database.get("packages"):
        libraries = [
            *(database["index"] if variables["orthanc_database_index"] else []),
            *(database["storage"] if variables["orthanc_database_storage"] else []),
        ]
        wanted[variables["orthanc_database"]] = {"package": database["packages"][0], "library": libraries}
    known = [*wanted, *(name for name, other in host.databases.items() if other["packages"]), *host.plugins]
    for name in variables["orthanc_lsb_plugin_versions"]:
        if name not in known:
            yield f"orthanc_lsb_plugin_versions: there is no plugin '{name}'.{nearest(name, known)}"
    try:
        paths = site_of_lsb.paths(release, wanted, host.lsb_versions, variables["orthanc_lsb_plugin_versions"])
    except site_of_lsb.MirrorError as error:
        yield str(error)
        return
    missing = [path for path in paths if path not in sums]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        yield (
            f"orthanc_lsb_checksums: there is no SHA-256 of {missing[0]}{more};"
            f" run `make lsb-lock INVENTORY={host.inventory}`."
        )


def settings(host: Host) -> Iterator[str]:
    """Options that Orthanc would ignore in silence, or end on."""
    yield from settings_check.problems(host.variables["orthanc_settings"], host.asked, host.known)
    for name in host.variables["orthanc_settings_unchecked"]:
        # Others read these too, so that there is no way around the variable.
        if name in settings_check.OWN_VARIABLE:
            yield (
                f"orthanc_settings_unchecked.{name}: this option has a variable of its own;"
                f" set {settings_check.OWN_VARIABLE[name]}."
            )
        elif name in host.variables["orthanc_settings"]:
            yield f"orthanc_settings_unchecked.{name}: it stands in orthanc_settings as well; leave one of them."


def peers(host: Host) -> Iterator[str]:
    """Other Orthanc servers that this one could not talk to, or that would end it."""
    yield from settings_check.peers(host.variables["orthanc_peers"])
    if host.variables["orthanc_https_ca"]:
        yield from _pem("orthanc_https_ca", str(host.variables["orthanc_https_ca"]))
    yield from _pair("orthanc_client", host.variables)


def notices(host: Host) -> Iterator[str]:
    """What nobody has looked at, or what is not what it seems to be."""
    if host.has("orthanc"):
        variables = host.variables
        yield from settings_check.notices(
            variables["orthanc_settings"], variables["orthanc_settings_unchecked"], host.asked, host.known
        )
        if _weak_gdcm(host) and host.settings.get("TranscodeDicomProtocol") is not False:
            yield (
                "orthanc_plugins: gdcm of Debian's packages ends Orthanc when JPEG 2000 goes to a modality that does"
                " not take it; orthanc_settings.TranscodeDicomProtocol: false has that transfer fail instead."
            )
        if variables["orthanc_dicom_tls_certificate"]:
            yield from _dicom_tls_notices(host)
            yield from _ending("orthanc_dicom_tls_certificate", host.variables)
        if variables["orthanc_client_certificate"]:
            yield from _ending("orthanc_client_certificate", host.variables)
    for role in filter(host.has, ("nginx", "postgresql", "mysql")):
        if host.variables[f"{role}_tls_certificate"]:
            yield from _ending(f"{role}_tls_certificate", host.variables)


def _ending(name: str, variables: Variables) -> Iterator[str]:
    """Certificates that end within a month: they are good, but somebody has to see to the next one."""
    end = x509.load_pem_x509_certificate(str(variables[name]).encode()).not_valid_after_utc
    days = (end - datetime.datetime.now(datetime.UTC)).days
    if days < 30:
        yield f"{name}: it expires in {days} days, on {end:%Y-%m-%d}; get a new one, or call make certificates."


def _dicom_tls_notices(host: Host) -> Iterator[str]:
    variables, release = host.variables, host.asked.release
    if not release or version_tuple(release) >= (1, 12, 4):
        return
    required = "orthanc_dicom_tls_remote_certificate_required"
    if not variables[required]:
        yield (
            f"{required}: Orthanc {release} takes false for 'verify a certificate if there is one';"
            " from 1.12.4 on it is 'ask for none'."
        )
    if host.method != "apt":
        yield (
            f"orthanc_dicom_tls_minimum_version: Orthanc {release} of these binaries cannot be told, and may take"
            " TLS 1.0; use 1.12.4 or newer."
        )
    try:
        key = serialization.load_pem_private_key(str(variables["orthanc_dicom_tls_private_key"]).encode(), None)
    except (ValueError, TypeError):
        return
    # Seen with 1.10.1: all of its ciphers for 1.2 are for RSA.
    if not isinstance(key, rsa.RSAPrivateKey):
        yield (
            f"orthanc_dicom_tls_private_key: with a key other than RSA Orthanc {release} takes TLS 1.3 only, and"
            " modalities that know no more than 1.2 stay outside."
        )


def database(host: Host) -> Iterator[str]:
    """The way to the database."""
    variables = host.variables
    engine = variables["orthanc_database"]
    if engine == "sqlite":
        if variables["orthanc_database_storage"]:
            yield "orthanc_database_storage: SQLite holds no DICOM files; take it out or change orthanc_database."
        return
    if not variables["orthanc_database_index"] and not variables["orthanc_database_storage"]:
        yield (
            f"orthanc_database_index: neither the index nor the DICOM files would be in {engine}; set this or"
            " orthanc_database_storage to true, or orthanc_database to sqlite."
        )
    if not variables["orthanc_database_password"]:
        yield f"orthanc_database_password: it is empty; {_SECRETS}"
    server = str(variables["orthanc_database_host"])
    if not server:
        yield (
            f"orthanc_database_host: no host of the inventory is in the group '{engine}' and none is named here;"
            " put a host into that group, or name the server that somebody else runs."
        )
    elif not _is_address(server) and not _HOST_NAME.fullmatch(server):
        yield f"orthanc_database_host: '{server}' is neither a host name nor an address."
    elif host.probe and host.probe["no_way"]:
        yield _no_way(server, int(variables["orthanc_database_port"]), host.probe["no_way"])
    if "-----BEGIN CERTIFICATE-----" not in str(variables["orthanc_database_ca"] or "-----BEGIN CERTIFICATE-----"):
        yield "orthanc_database_ca: this is no certificate in PEM form; give its text, not its path."
    for name in ("orthanc_database_name", "orthanc_database_user"):
        # What every server and both plugins take without quotes.
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,31}", str(variables[name])):
            yield f"{name}: '{variables[name]}' is no plain name; use up to 32 letters, digits and underscores."
        elif SERVER_NAMES.fullmatch(str(variables[name])):
            yield f"{name}: '{variables[name]}' is a name of the server's own; choose another, such as orthanc."


def _no_way(server: str, port: int, reason: str) -> str:
    kind, _, words = reason.partition(" ")
    if kind == "name":
        return (
            f"orthanc_database_host: this host does not know the name '{server}' ({words});"
            " correct it, or give the address."
        )
    return (
        f"orthanc_database_port: nothing answers this host at '{server}', port {port} ({words}); correct this and"
        " orthanc_database_host, or have the server listen there and the firewalls on the way let this host through."
    )


def modalities(host: Host) -> Iterator[str]:
    """Modalities that Orthanc would refuse, or that it would never let in."""
    check_host = host.settings.get("DicomCheckModalityHost", True)
    seen: dict[tuple[str, str], tuple[str, Mapping[str, Any]]] = {}
    for name, modality in host.variables["orthanc_modalities"].items():
        here = f"orthanc_modalities.{name}"
        if not settings_check.NAME.fullmatch(str(name)):
            yield f"{here}: a name has letters, digits, '-' and '_' only."
        if isinstance(modality, list) and len(modality) in (3, 4):
            modality = dict(zip(("AET", "Host", "Port"), modality, strict=False))
        if not isinstance(modality, dict) or not {"AET", "Host", "Port"} <= set(modality):
            yield f"{here}: give AET, Host and Port, as Orthanc's DicomModalities does."
            continue
        if not _is_aet(modality["AET"]):
            yield f"{here}: '{modality['AET']}' is no application entity title of 1 to 16 printable ASCII characters."
        if (
            isinstance(modality["Port"], bool)
            or not isinstance(modality["Port"], int)
            or not 1 <= modality["Port"] <= 65535
        ):
            yield f"{here}: {modality['Port']!r} is not a TCP port; choose a number from 1 to 65535, without quotes."
        if check_host and not _is_address(modality["Host"]):
            yield (
                f"{here}: Orthanc compares Host with the address of the sender, and '{modality['Host']}' is a name;"
                " give the address, or set orthanc_settings.DicomCheckModalityHost to false."
            )
        elif check_host and ":" in modality["Host"]:
            yield f"{here}: Orthanc has no DICOM over IPv6; give an address of IPv4, and not {modality['Host']}."
        yield from settings_check.modality(here, modality)
        first, other = seen.setdefault((str(modality["AET"]), str(modality["Host"])), (str(name), modality))
        if first != name and (modality["Port"] == other["Port"] or _rights(modality) != _rights(other)):
            yield (
                f"{here}: title and address are those of orthanc_modalities.{first}, and Orthanc would take one for the"
                " other; leave one of them, or give both the same rights (AllowStore and others) and another Port each."
            )


def _rights(modality: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in modality.items() if field.startswith("Allow")}


def dicom_tls(host: Host) -> Iterator[str]:
    """What encrypted DICOM needs, on this side and for the modalities that are sent to."""
    variables = host.variables
    certificate, trusted = (variables[f"orthanc_dicom_tls_{name}"] for name in ("certificate", "trusted"))
    yield from _pair("orthanc_dicom_tls", variables)
    if trusted:
        yield from _pem("orthanc_dicom_tls_trusted", str(trusted))
    for name, modality in variables["orthanc_modalities"].items():
        if isinstance(modality, dict) and modality.get("UseDicomTls") and not (certificate and trusted):
            yield (
                f"orthanc_modalities.{name}: UseDicomTls needs orthanc_dicom_tls_certificate, and"
                " orthanc_dicom_tls_trusted to know the modality by."
            )
    if certificate and not trusted and variables["orthanc_dicom_tls_remote_certificate_required"]:
        yield (
            "orthanc_dicom_tls_trusted: it is empty, so no modality could get in; give the certificates to know them"
            " by, or set orthanc_dicom_tls_remote_certificate_required to false."
        )
    newest = variables["orthanc_dicom_tls_minimum_version"] == "1.3"
    if newest and host.orthanc_version and version_tuple(host.orthanc_version) < (1, 12, 4):
        yield (
            f"orthanc_dicom_tls_minimum_version: Orthanc {host.orthanc_version} cannot be told so, which came with"
            " 1.12.4; set it to '1.2'."
        )


def proxies(name: str, orthanc: str, proxy: str) -> Iterator[str]:
    """A proxy before an Orthanc that has another one.

    :param name: the host of the proxy.
    :param orthanc: the host that it would stand before, if that is another one.
    :param proxy: the host of the proxy that this Orthanc has.
    """
    if orthanc and proxy != name:
        beside = " beside it" if proxy == orthanc else ""
        yield (
            f"nginx_upstream_server: {name} would stand before the Orthanc of {orthanc}, which has the proxy {proxy}"
            f"{beside}, and one is what it can have; take {name} or {proxy} out of the group 'nginx', or have an"
            " inventory for each Orthanc."
        )


def unproxied(name: str, proxy: str, elsewhere: Collection[str]) -> Iterator[str]:
    """An Orthanc that has no proxy while one is elsewhere, which serves another Orthanc.

    :param name: the host of the Orthanc.
    :param proxy: the host of its proxy, if it has one.
    :param elsewhere: the proxies on hosts without an Orthanc.
    """
    if elsewhere and not proxy:
        yield (
            f"orthanc_proxied: the proxy {next(iter(elsewhere))} stands before the inventory's first Orthanc alone, and"
            f" that of {name} would have none; put {name} into the group 'nginx' as well, for a proxy beside it, or"
            " have an inventory for each Orthanc."
        )


def site(host: Host) -> Iterator[str]:
    """The public face: name, prefix and certificate."""
    variables = host.variables
    name = str(variables["nginx_server_name"])
    if not _is_address(name) and not _HOST_NAME.fullmatch(name):
        yield f"nginx_server_name: '{name}' is neither a host name nor an address."
    if not _PREFIX.fullmatch(str(variables["nginx_prefix"])):
        yield f"nginx_prefix: '{variables['nginx_prefix']}' has to begin and end with a slash, as in /orthanc/."
    yield from _pair("nginx_tls", variables)
    yield from _names("nginx_tls_certificate", "nginx_server_name", variables)
    directory, mail = (str(variables[f"nginx_acme_{option}"]) for option in ("directory", "email"))
    if directory:
        if not re.fullmatch(r"https://[^\s/?#]+/\S*", directory):
            yield f"nginx_acme_directory: '{directory}' is no URL that begins with https:// and has a path."
        if _is_address(name):
            yield f"nginx_server_name: '{name}' is an address; nginx_acme_directory needs a name that the public knows."
        if variables["nginx_tls_certificate"]:
            yield (
                "nginx_acme_directory: there is a certificate as well; leave nginx_tls_certificate and"
                " nginx_tls_private_key empty (''), or take this out."
            )
    if mail and not re.fullmatch(r"[^\s@]+@[^\s@]+\.[^\s@]+", mail):
        yield f"nginx_acme_email: '{mail}' is no address of e-mail."
    if variables["nginx_acme_ca"]:
        yield from _pem("nginx_acme_ca", str(variables["nginx_acme_ca"]))


def entry(host: Host) -> Iterator[str]:
    """Who may enter the site, from where, and with what."""
    variables = host.variables
    machines, users = variables["nginx_client_names"], variables["nginx_users"]
    for name in variables["nginx_readonly_users"]:
        if name not in [*users, *machines]:
            yield f"nginx_readonly_users: there is no user '{name}'.{nearest(str(name), [*map(str, users), *machines])}"
    if users and not {*users, *machines} - {*variables["nginx_readonly_users"]}:
        yield (
            "nginx_readonly_users: every user is in it, so nobody could store, correct or delete anything over the"
            " proxy; leave one out."
        )
    for client in variables["nginx_allowed_clients"]:
        try:
            ipaddress.ip_network(client)
        except ValueError as error:
            yield f"nginx_allowed_clients: {error}; write it like 192.0.2.7 or 192.0.2.0/24."
    for route in variables["nginx_refused_routes"]:
        if not re.fullmatch(rf"{_ROUTE_PART}(/{_ROUTE_PART})*", route):
            yield (
                f"nginx_refused_routes: '{route}' is no route; write it without a slash at either end, and with * for"
                " one part of it, as in instances/*/export."
            )
    authority = str(variables["nginx_client_ca"])
    if authority:
        yield from _pem("nginx_client_ca", authority)
    for name in machines:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}", name):
            yield (
                f"nginx_client_names: '{name}' is no common name of a machine;"
                " it has up to 64 letters, digits, blanks, '.', '_' and '-'."
            )
        if name in users:
            yield f"nginx_client_names: '{name}' is a user as well, and the audit trail could not tell them apart."
    if machines and not authority:
        yield "nginx_client_ca: it is empty while nginx_client_names lets certificates in; give the authority's."
    if authority and not machines and variables["nginx_client_certificate"] == "optional":
        yield (
            "nginx_client_names: it is empty, so certificates of nginx_client_ca would let nobody in;"
            " name machines, or set nginx_client_certificate to required."
        )
    if not authority and variables["nginx_client_certificate"] == "required":
        yield "nginx_client_ca: it is empty while nginx_client_certificate is required; give the authority's."


def _pem(variable: str, text: str) -> Iterator[str]:
    """Certificates that are no PEM text or not valid today."""
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        yield f"{variable}: this is no certificate in PEM form; give its text, not its path."
        return
    now = datetime.datetime.now(datetime.UTC)
    for certificate in found:
        whose = certificate.subject.rfc4514_string()
        if certificate.not_valid_after_utc < now:
            yield f"{variable}: that of '{whose}' expired on {certificate.not_valid_after_utc:%Y-%m-%d}; get a new one."
        if certificate.not_valid_before_utc > now:
            yield f"{variable}: that of '{whose}' is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}."


def _pair(prefix: str, variables: Variables) -> Iterator[str]:
    """A certificate and its private key, which are a pair, in form and valid, or are both left out."""
    certificate, key = (str(variables[f"{prefix}_{name}"]) for name in ("certificate", "private_key"))
    if bool(certificate) != bool(key):
        given, missing = ("certificate", "private_key") if certificate else ("private_key", "certificate")
        yield f"{prefix}_{missing}: it is missing while {prefix}_{given} is given; give both or neither."
        return
    if not certificate:
        return
    try:
        leaf = x509.load_pem_x509_certificates(certificate.encode())[0]
    except ValueError:
        yield f"{prefix}_certificate: this is no certificate in PEM form."
        return
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError):
        yield f"{prefix}_private_key: this is no private key in PEM form without a pass phrase."
        return
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        yield f"{prefix}_private_key: it does not belong to {prefix}_certificate; give the pair."
    now = datetime.datetime.now(datetime.UTC)
    if leaf.not_valid_after_utc < now:
        yield f"{prefix}_certificate: it expired on {leaf.not_valid_after_utc:%Y-%m-%d}; get a new one."
    if leaf.not_valid_before_utc > now:
        yield f"{prefix}_certificate: it is not valid before {leaf.not_valid_before_utc:%Y-%m-%d}."


def server(host: Host) -> Iterator[str]:
    """The certificate of a database server."""
    for engine in filter(host.has, ("postgresql", "mysql")):
        yield from _pair(f"{engine}_tls", host.variables)
        yield from _names(f"{engine}_tls_certificate", f"{engine}_address", host.variables)
        for name in host.variables[f"{engine}_settings"]:
            plain = str(name).lower().replace("-", "_").removeprefix("loose_")
            if plain in SERVER_SETTINGS[engine]:
                own = SERVER_SETTINGS[engine][plain]
                way = f"this setting has a variable of its own; set {own}." if own else "the role needs it as it is."
                yield f"{engine}_settings.{name}: {way if own else way + ' Take it out.'}"


def _names(certificate: str, address: str, variables: Variables) -> Iterator[str]:
    """A certificate that is for another name than the one by which its server is reached."""
    name = str(variables[address])
    try:
        leaf = x509.load_pem_x509_certificates(str(variables[certificate]).encode())[0]
    except ValueError:
        return
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [
            *alternative.get_values_for_type(x509.DNSName),
            *map(str, alternative.get_values_for_type(x509.IPAddress)),
        ]
    except x509.ExtensionNotFound:
        names = []
    if not {name.lower(), "*." + name.lower().partition(".")[2]} & {known.lower() for known in names}:
        yield f"{certificate}: it is for {', '.join(names) or 'no name'}, not for {address} '{name}'."


def verification(host: Host) -> Iterator[str]:
    name = host.variables.get("verification_modality")
    known = host.variables["orthanc_modalities"]
    if name and name not in known:
        yield f"verification_modality: '{name}' is not in orthanc_modalities.{nearest(name, map(str, known))}"
    address = str(host.variables["verification_dicom_address"])
    if not _is_address(address) and not _HOST_NAME.fullmatch(address):
        yield f"verification_dicom_address: '{address}' is neither a host name nor an address."
    yield from _pair("verification", host.variables)


def machine(host: Host) -> Iterator[str]:
    """What was found on the host itself."""
    probe = host.probe
    if not probe:
        return
    oldest = DISTRIBUTIONS.get(probe["distribution"])
    if oldest is None or version_tuple(probe["release"]) < version_tuple(oldest):
        yield (
            f"ansible_host: this host runs {probe['distribution'] or 'an unknown system'} {probe['release']};"
            " the roles are made for Debian from 12 and Ubuntu from 22.04."
        )
        return
    if probe["interrupted"]:
        yield (
            "ansible_host: dpkg was interrupted on this host, and no package can be installed. Run"
            " `dpkg --configure -a` there; what is not configured yet stays closed."
        )
    if not probe["systemd"]:
        yield "ansible_host: systemd does not run on this host, and the service is a systemd unit."
    if host.has("orthanc"):
        asked, offered = str(host.variables["orthanc_version"] or ""), probe["offered"]
        from_distribution = host.method == "apt" and not host.upstream
        if from_distribution and asked and offered and asked not in offered and asked != probe["orthanc"]:
            yield f"orthanc_version: {asked} is not on offer here; the package sources have {', '.join(offered)}."
        yield from _left_behind(host.variables, probe)
        wanted = int(host.variables["orthanc_storage_minimum_free_gb"])
        free = probe["free"] / 2**30
        if free < wanted:
            yield (
                f"orthanc_storage_dir: {free:.1f} GiB are free at {host.variables['orthanc_storage_dir']},"
                f" and orthanc_storage_minimum_free_gb asks for {wanted}. Make room or choose another folder."
            )


def _left_behind(variables: Variables, probe: Mapping[str, Any]) -> Iterator[str]:
    """Find that a host with images would start with an empty archive in another database, or in another folder."""
    database = variables["orthanc_database"]
    for path in probe["unread"]:
        yield (
            f"ansible_host: an Orthanc runs here that others set up, and what it runs with cannot be read: {path} is no"
            " JSON. Mend that file, or move it away."
        )
    if probe["images"]:
        for folder in probe["lost"]:
            name = "index" if variables["orthanc_index_dir"] == folder else "storage"
            yield (
                f"orthanc_{name}_dir: {folder} had the archive of this host when Orthanc worked last, and is missing or"
                f" empty. Mount its disk; or, if it is right like this, `mkdir -p {folder} && touch {folder}/.pacs`."
            )
    whose = f" of {probe['configuration']}" if probe["configuration"] else ""
    if probe["images"] and not variables["orthanc_database_leave_images_behind"]:
        for kind, folder in probe["elsewhere"].items():
            if kind == "storage" or not (variables["orthanc_database_index"] and database != "sqlite"):
                yield (
                    f"orthanc_{kind}_dir: the Orthanc{whose} on this host has its {_KINDS[kind]} in {folder}. Set it to"
                    f" {folder}, or stop that Orthanc and take everything there to the new folder first."
                )
        if probe["other_server"] and probe["database"] == database:
            there, name = probe["other_server"]
            yield (
                f"orthanc_database_host: the Orthanc{whose} on this host has its index in the database '{name}' of"
                f" {there or 'this host'}. Set it and orthanc_database_name to that; or set"
                " orthanc_database_leave_images_behind to true, to start with an empty archive."
            )
    found, asked = probe["database"], database if variables["orthanc_database_index"] else "sqlite"
    if not found or not probe["images"]:
        return
    count = f"{probe['images']} images" if probe["images"] > 0 else "an unknown number of images"
    if found == asked:
        files, wanted = probe["files"], database if variables["orthanc_database_storage"] else ""
        if files != wanted:
            here, there = (name or variables["orthanc_storage_dir"] for name in (files, wanted))
            yield (
                f"orthanc_database_storage: the files of {count} are in {here}, and Orthanc would look for them in"
                f" {there}. Set it back; or export them, delete them in Orthanc, and import them after the change."
            )
        return
    if variables["orthanc_database_leave_images_behind"]:
        return
    yield (
        f"orthanc_database: this host has {count} in {found}, and with {asked} it would start with none."
        f" Set it back to {found}, or export them first and then set orthanc_database_leave_images_behind to true;"
        " files and old index stay where they are."
    )


_KINDS = {"storage": "DICOM files", "index": "index"}


def _is_aet(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", value)) and bool(value.strip())


def _is_address(value: Any) -> bool:
    if not isinstance(value, str):
        return False  # The library takes a number for an address.
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def problems(host: Host) -> Iterator[str]:
    """All that is wrong with a host whose variables have the right types."""
    checks: list[Check] = [ports, ranges, users, server]
    if host.has("orthanc"):
        checks += [orthanc, folders, container, database, plugins, settings, modalities, dicom_tls, peers, verification]
        checks += [lsb] if host.method == "lsb" else [upstream] if host.upstream else []
    if host.has("nginx"):
        checks += [site, entry]
    if host.has("docker_engine"):
        checks.append(engine)
    for check in [*checks, machine]:
        yield from check(host)

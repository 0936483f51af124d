# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What rules of several roles look at: names, addresses, passwords and certificates."""

from __future__ import annotations

import datetime
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host
from ansible_collections.dicom.orthanc.plugins.test.ip_address import ip_address
from cryptography import x509
from cryptography.hazmat.primitives import serialization

Variables = Mapping[str, Any]
is_address = ip_address
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
URL = r"https?://[^\s/]+(/\S*)?"
# Orthanc's web server does away with dots at either end of a part.
_PREFIX = re.compile(r"/((?!\.)[A-Za-z0-9._~-]+(?<!\.)/)*")
# Folders that are nobody's alone.
SYSTEM_FOLDERS = (
    *("/", "/bin", "/boot", "/dev", "/etc", "/etc/pacs", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc"),
    *("/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/usr/sbin"),
    *("/usr/share", "/var", "/var/cache", "/var/lib", "/var/log", "/var/run", "/var/spool", "/var/tmp"),
)
SECRETS = "take it from a vault_* variable, and let `make secrets INVENTORY=inventories/<site>` write what is missing."


class Wrong(AnsibleError):  # type: ignore[misc]  # Ansible carries no types
    """A value of which several things are wrong, each told by a sentence of its own."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def is_folder(path: str) -> bool:
    """Tell whether this is the absolute path of a folder, in normal form."""
    parts = path.split("/")
    return path == "/" + posixpath.normpath(path).lstrip("/") and all(len(part.encode()) <= 255 for part in parts)


def pem(variable: str, text: str) -> Iterator[str]:
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


def pair(prefix: str, variables: Variables) -> Iterator[str]:
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


def names(certificate: str, address: str, variables: Variables) -> Iterator[str]:
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


def among(prefix: str, address: str, host: Host) -> Iterator[str]:
    """What hosts of a cluster know each other by: a certificate each, of one authority."""
    if not (host.variables[f"{prefix}_certificate"] and host.variables[f"{prefix}_authority"]):
        yield (
            f"{prefix}_certificate: the hosts of a cluster know each other by certificates; run `make certificates"
            f" INVENTORY={host.inventory}`."
        )
        return
    yield from pair(prefix, host.variables)
    yield from names(f"{prefix}_certificate", address, host.variables)


def without(host: Host) -> str:
    """What to do where a host of a cluster does not answer."""
    return f"The rest of its cluster can do without: --limit '!{host.name}'; docs/cluster.md tells more."


def ending(name: str, variables: Variables) -> Iterator[str]:
    """Certificates that end within a month: they are good, but somebody has to see to the next one."""
    end = x509.load_pem_x509_certificate(str(variables[name]).encode()).not_valid_after_utc
    days = (end - datetime.datetime.now(datetime.UTC)).days
    if days < 30:
        yield f"{name}: it expires in {days} days, on {end:%Y-%m-%d}; get a new one, or call make certificates."


def prefix(variable: str, variables: Variables) -> Iterator[str]:
    """A path of the site, as nginx and Orthanc both read it."""
    if not _PREFIX.fullmatch(str(variables[variable])):
        yield (
            f"{variable}: '{variables[variable]}' has to begin and end with a slash, and no part of it with a dot, as"
            " in /orthanc/."
        )


def of_inventory(variable: str, host: Host) -> Iterator[str]:
    """A host that is derived from the inventory, and has to be in it."""
    name = host.variables[variable]
    if name and name not in host.groups.get("all", [name]):
        yield f"{variable}: '{name}' is no host of the inventory; leave it to be derived, or name one."


def clients(variable: str, host: Host) -> Iterator[str]:
    """Addresses of Orthancs that no rule of a database server can name."""
    for client in host.variables[variable]:
        yield from reached_at(variable, client["address"])


def reached_at(variable: str, address: str) -> Iterator[str]:
    """What ansible_host is, or may be: a name of the SSH client's too."""
    if not re.fullmatch(r"[A-Za-z0-9_.:%-]+", address):
        yield f"{variable}: '{address}' is neither a host name nor an address."


def logins(variable: str, variables: Variables) -> Iterator[str]:
    """Logins without which nobody gets in, or with which anybody does."""
    for name, password in variables[variable].items():
        if not isinstance(password, str) or not password:
            yield f"{variable}: the password of '{name}' is empty or no text; {SECRETS}"
        elif re.search(r"[\x00-\x1f]", password):
            yield (
                f"{variable}: the password of '{name}' has a line break or another control character, which no form"
                " takes; a block of YAML (|) ends with one."
            )
        if not name or re.search(r"[:\s\x00-\x1f]", str(name)):
            yield f"{variable}: the user name '{name}' has a colon or white space in it; choose another."


def settings(variable: str, variables: Variables, own: Mapping[str, str]) -> Iterator[str]:
    """Settings of a server that the role has from elsewhere.

    :param own: such settings, and the variable for it, if there is one.
    """
    for name, value in variables[variable].items():
        if any(re.search(r"[\r\n]", str(one)) for one in (value if isinstance(value, list) else [value])):
            yield f"{variable}.{name}: it has a line break, behind which the server would read another setting."
        plain = str(name).lower().replace("-", "_").removeprefix("loose_")
        if plain in own:
            way = (
                f"this setting has a variable of its own; set {own[plain]}."
                if own[plain]
                else "the role needs it as it is. Take it out."
            )
            yield f"{variable}.{name}: {way}"


def shared(variable: str, variables: Variables, clients: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A database server of others, and an Orthanc of this inventory on another host."""
    if variables[variable] and any(client["address"] != "127.0.0.1" for client in clients):
        yield (
            f"{variable}: an Orthanc on another host would need other settings of this server; take the host out of the"
            " group, name the server with the Orthanc as one that others run, and the run tells its administrator what"
            " is missing."
        )

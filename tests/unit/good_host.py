"""A host with nothing wrong, what may be changed of it, and what the preflight says then."""

import datetime
import functools
import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.repository import ROLES, constants, defaults, evaluated, load

CONSTANTS = constants("orthanc")


PACKAGED = [
    name for name, plugin in CONSTANTS["__orthanc_plugins"].items() if "distribution" not in plugin.get("lacking", {})
]


# With no balancer before it.
ALONE: dict[str, list[str]] = {
    name: [] for name in ("nginx_addresses", "nginx_balancers", "nginx_balanced_names", "orthanc_balancers")
}
GOOD = {name: evaluated()[name] for role in ROLES for name in defaults(role)} | {
    # One server that stays alone.
    "postgresql_etcd": [],
    **ALONE,
    "nginx_server_name": "pacs.example.org",
    "nginx_users": {"admin": "long enough"},
    "orthanc_users": {"admin": "long enough"},
    "orthanc_proxy_password": "long enough",
    "orthanc_proxied": True,
    "orthanc_plugins": ["dicomweb"],
    "orthanc_modalities": {"ct": {"AET": "CT1", "Host": "192.0.2.7", "Port": 104}},
    "orthanc_settings": {"OverwriteInstances": True},
    "verification_modality": "ct",
    "verification_dicom_address": "192.0.2.1",
}


PROBE = {
    "distribution": "debian",
    "release": "13",
    "systemd": True,
    "orthanc": "",
    "image": "",
    "account": [],
    "asked": [],
    "packages": [],
    "offered": ["1.12.7"],
    "withheld": [],
    "database": "sqlite",
    "files": "",
    "images": 0,
    "elsewhere": {},
    "lost": [],
    "index": {},
    "foreign": {},
    "other_server": [],
    "unread": [],
    "configuration": "",
    "theirs": "",
    "binary": {"version": "", "options": {}},
    "no_way": "",
    "silent": [],
    "trusted": "",
    "watchdog": False,
    "interrupted": False,
    "policy": "",
    "engine": {},
    "proxied": [],
    "relayed": [],
    "nginx_version": "1.26.3",
    "nginx": {"user": "www-data", "group": "www-data"},
    "ipv6": True,
    "viewer": False,
    "viewed": "",
    "viewer_path": "",
    "viewer_release": "",
    "nginx_refusal": "",
    "machine": "x86_64",
    "memory": 8 << 30,
    "free": 50 * 2**30,
    "storage": {},
    "free_run": 1 * 2**30,
    "free_index": 50 * 2**30,
    "free_build": 50 * 2**30,
    "address": {},
    "listening": {"22": "sshd", "8042": "Orthanc", "443": "nginx"},
}


def problems(
    roles: tuple[str, ...] = ("orthanc", "docker_engine", "nginx", "verification"), **changes: Any
) -> list[str]:
    """Return what is wrong with a good host after some changes to its variables or to what was found on it."""
    probe = {name: changes.pop(name, value) for name, value in PROBE.items()}
    return list(general.problems(host(roles, changes, probe)))


def as_read(value: Any) -> Any:
    """Return a value as it comes from an inventory, where no text is the very one that the code has."""
    if isinstance(value, dict):
        return {as_read(key): as_read(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_read(inner) for inner in value]
    return "".join(list(value)) if isinstance(value, str) else value


def host(roles: Iterable[str], changes: dict[str, Any], probe: dict[str, Any] | None = None) -> Host:
    """Return a good host after some changes to its variables."""
    variables: dict[str, Any] = as_read(GOOD | changes)
    method = load(f"roles/orthanc/vars/{variables['orthanc_install_method']}.yml")
    return Host(
        roles=list(roles),
        variables=variables,
        constants={"orthanc": CONSTANTS | method},
        inventory="inventories/hospital",
        probe=as_read(probe),
    )


@functools.cache
def pair(
    names: tuple[str, ...] = ("pacs.example.org",), first: int = -1, last: int = 60, old: bool = False
) -> tuple[str, str]:
    """Make a certificate for some names, valid between two days from now, and its key, of RSA if it is old."""
    key = rsa.generate_private_key(65537, 2048) if old else ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(first))
        .not_valid_after(now + datetime.timedelta(last))
    )
    if names:
        general = [
            x509.DNSName(name) if name[-1].isalpha() else x509.IPAddress(ipaddress.ip_address(name)) for name in names
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.decode(), key.private_bytes(*form).decode()


def tls(*arguments: Any) -> dict[str, str]:
    return dict(zip(("nginx_tls_certificate", "nginx_tls_private_key"), pair(*arguments), strict=True))


ACME = {"nginx_acme_directory": "https://acme.example.org/directory"}


def dicom_tls(*arguments: Any, old: bool = True) -> dict[str, str]:
    certificate, key = pair(*arguments, old=old)
    given = {"certificate": certificate, "private_key": key, "trusted": pair(("ca.example.org",))[0]}
    return {f"orthanc_dicom_tls_{name}": text for name, text in given.items()}


def modality(**changes: Any) -> dict[str, Any]:
    return {"orthanc_modalities": {"ct": {"AET": "CT1", "Host": "192.0.2.7", "Port": 104} | changes}}


def setting(name: str, value: Any, part: str, host: dict[str, Any] | None = None) -> tuple[dict[str, Any], str, str]:
    """Make the case of one wrong option."""
    return (host or {}) | {"orthanc_settings": {name: value}}, f"orthanc_settings.{name}", part


def inner(
    section: str, name: str, value: Any, part: str, host: dict[str, Any] | None = None
) -> tuple[dict[str, Any], str, str]:
    """Make the case of something wrong inside of an option."""
    return setting(section, {name: value}, part, host)[0], f"orthanc_settings.{section}.{name}", part


def peer(value: Any, variable: str, part: str) -> tuple[dict[str, Any], str, str]:
    return {"orthanc_peers": {"other": value}}, variable, part


def notices(**changes: Any) -> list[str]:
    found = {name: changes.pop(name) for name in PROBE.keys() & changes.keys()}
    return list(general.notices(host(("orthanc", "nginx"), changes, PROBE | found if found else None)))


POSTGRESQL: dict[str, Any] = {
    "orthanc_database": "postgresql",
    "orthanc_database_password": "secret",
    "orthanc_database_host": "127.0.0.1",
    "orthanc_database_port": 5432,
}


# What the distribution offers does not matter.
UPSTREAM: dict[str, Any] = {"orthanc_apt_source": "upstream", "orthanc_version": "1.13.0"}


SUM = "0123456789abcdef" * 4


LSB: dict[str, Any] = {
    "orthanc_install_method": "lsb",
    "orthanc_version": "1.12.8",
    "orthanc_lsb_checksums": dict.fromkeys(
        [
            "orthanc/1.12.8/Orthanc",
            "orthanc/1.12.8/OrthancRecoverCompressedFile",
            "orthanc-dicomweb/1.20/libOrthancDicomWeb.so",
            "orthanc-postgresql/5.0/libOrthancPostgreSQLIndex.so",
        ],
        SUM,
    ),
}


SOURCE: dict[str, Any] = {
    "orthanc_install_method": "source",
    "orthanc_version": "1.12.8",
    "orthanc_source_tarballs": {
        name: {"from": f"https://mirror/{name}.tar.gz", "sha256": SUM}
        for name in ("orthanc", "orthanc-dicomweb", "orthanc-postgresql")
    },
}


MACHINES: dict[str, Any] = {"nginx_client_ca": pair(("ca.example.org",))[0], "nginx_client_names": ["ct 1.a_b-c"]}


DOCKER: dict[str, Any] = {"orthanc_install_method": "docker"}


def one_problem(changes: dict[str, Any], variable: str, part: str) -> None:
    """See that a good host with some changes has one problem, which is told of a variable."""
    (problem,) = problems(**changes)
    assert re.match(rf"{re.escape(variable)}\b[.:]", problem)
    assert part in problem
    assert problem.endswith((".", "?"))

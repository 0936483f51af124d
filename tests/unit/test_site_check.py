"""Each thing that can be wrong with a host is found, said with the variable's name, and said alone."""

import datetime
import functools
import importlib
import ipaddress
import json
import re
import string
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils import settings_check, site_check
from ansible_collections.dicom.orthanc.plugins.plugin_utils.settings_check import OWN_VARIABLE
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary

from tests.repository import ROLES, ROOT, defaults, evaluated, load, options

TABLES, PLUGIN_TABLES = (
    json.loads((ROOT / f"roles/orthanc/files/{name}_options.json").read_text(encoding="utf-8"))
    for name in ("known", "plugin")
)
CONSTANTS = load("roles/orthanc/vars/main.yml")
PACKAGED = [
    name for name, plugin in CONSTANTS["__orthanc_plugins"].items() if "distribution" not in plugin.get("lacking", {})
]
GOOD = {name: evaluated()[name] for role in ROLES for name in defaults(role)} | {
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
    "offered": ["1.12.7"],
    "database": "sqlite",
    "files": "",
    "images": 0,
    "elsewhere": {},
    "lost": [],
    "other_server": [],
    "unread": [],
    "configuration": "",
    "binary": {"version": "", "options": {}},
    "no_way": "",
    "interrupted": False,
    "engine": {},
    "machine": "x86_64",
    "memory": 8 << 30,
    "free": 50 * 2**30,
    "listening": {"22": "sshd", "8042": "Orthanc", "443": "nginx"},
}


def problems(
    roles: tuple[str, ...] = ("orthanc", "docker_engine", "nginx", "verification"), **changes: Any
) -> list[str]:
    """Return what is wrong with a good host after some changes to its variables or to what was found on it."""
    probe = {name: changes.pop(name, value) for name, value in PROBE.items()}
    host = site_check.Host(
        roles=list(roles),
        variables=GOOD | changes,
        plugins=CONSTANTS["__orthanc_plugins"],
        tables=TABLES,
        plugin_tables=PLUGIN_TABLES,
        distribution_versions=CONSTANTS["__orthanc_distribution_versions"],
        databases=CONSTANTS["__orthanc_databases"],
        lsb_versions=CONSTANTS["__orthanc_lsb_versions"],
        inventory="inventories/hospital",
        probe=probe,
    )
    return list(site_check.problems(host))


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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"orthanc": "1.12.7", "offered": []},
        {"distribution": "debian", "release": "12", "offered": ["1.10.1"]},
        {"distribution": "ubuntu", "release": "22.04", "offered": ["1.10.0"]},
        {"orthanc_version": "1.12.7"},
        {"orthanc_version": "1.12.6", "orthanc": "1.12.6"},
        {"orthanc_plugins": PACKAGED},
        {"orthanc_settings": {"DicomWeb": {"StudiesMetadata": "Full"}}},
        {"orthanc_settings_unchecked": {"OptionOfTomorrow": {"Deep": [1]}, "DicomWeb": {"Tomorrow": 1}}},
        {"orthanc_peers": {"other": ["https://pacs2.example.org/orthanc/"]}},
        {"orthanc_peers": {"other": ["https://pacs2.example.org:8443", "user", "password"]}},
        {"orthanc_peers": {"other": {"Url": "http://192.0.2.9:8042/", "HttpHeaders": {"Token": "x"}, "Timeout": 5}}},
        {"orthanc_index_dir": "/data/index", "orthanc_storage_dir": "/data/dicom"},
        {"orthanc_settings": {"DicomCheckModalityHost": False}, **modality(Host="ct.example.org")},
        {"orthanc_modalities": {"ct": ["CT1", "192.0.2.7", 104]}},
        {"orthanc_modalities": {"ct": ["CT1", "192.0.2.7", 104, "Generic"]}},
        modality(AllowStore=True),
        {"nginx_prefix": "/orthanc/"},
        {"nginx_server_name": "192.0.2.1"},
        tls(),
        tls(("*.example.org",)),
        {"nginx_server_name": "PACS.example.org", **tls()},
        {"nginx_server_name": "192.0.2.1", **tls(("192.0.2.1",))},
        dicom_tls() | modality(UseDicomTls=True) | {"orthanc_dicom_tls_minimum_version": "1.3"},
        dicom_tls() | {"orthanc_dicom_tls_trusted": "", "orthanc_dicom_tls_remote_certificate_required": False},
        {"verification_modality": ""},
        {"free": 2**30},
    ],
)
def test_good_host(changes: dict[str, Any]) -> None:
    assert problems(**changes) == []


def notices(**changes: Any) -> list[str]:
    host = site_check.Host(
        roles=["orthanc", "nginx"],
        variables=GOOD | changes,
        plugins=CONSTANTS["__orthanc_plugins"],
        tables=TABLES,
        plugin_tables=PLUGIN_TABLES,
    )
    return list(site_check.notices(host))


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"orthanc_settings": {"StoneWebViewer": {"DateFormat": "DD.MM.YYYY"}}}, "are not checked; https://orthanc."),
        ({"orthanc_install_method": "docker", "orthanc_settings": {"DicomWeb": {"New": 1}}}, "New is nothing that"),
        ({"orthanc_settings_unchecked": {"New": 1, "Newer": 2}}, "New, Newer is passed on without a check"),
        (
            dicom_tls() | {"orthanc_version": "1.10.1", "orthanc_dicom_tls_remote_certificate_required": False},
            "verify a certificate if there is one",
        ),
        (
            dicom_tls(old=False) | {"orthanc_version": "1.10.1"},
            "with a key other than RSA Orthanc 1.10.1 takes TLS 1.3",
        ),
        (
            dicom_tls() | {"orthanc_version": "1.10.1", "orthanc_install_method": "lsb"},
            "cannot be told, and may take TLS 1.0",
        ),
        ({"orthanc_version": "1.13.0", "orthanc_settings": {"ZipLoaderThreads": 4}}, "does not use it any more"),
        (tls(("pacs.example.org",), -1, 20), "it expires in 19 days, on "),
        (dicom_tls(("pacs",), -1, 20), "it expires in 19 days, on "),
        ({"orthanc_plugins": ["gdcm"]}, "gdcm of Debian's packages ends Orthanc when JPEG 2000"),
        ({"orthanc_client_certificate": pair(("pacs",), -1, 20)[0]}, "it expires in 19 days, on "),
    ],
)
def test_notice(changes: dict[str, Any], part: str) -> None:
    (notice,) = notices(**changes)
    assert notice.startswith(
        ("orthanc_settings", "orthanc_dicom_tls", "orthanc_client", "orthanc_plugins", "nginx_tls")
    )
    assert part in notice


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
@pytest.mark.parametrize(
    "changes, name, message",
    [
        ({"private_key": ""}, "private_key", "it is missing"),
        ({"certificate": ""}, "certificate", "it is missing"),
        ({"certificate": "/etc/ssl/db.crt"}, "certificate", "no certificate in PEM form"),
        ({"private_key": pair(("other",))[1]}, "private_key", "does not belong"),
        (
            dict(zip(("certificate", "private_key"), pair(("other",)), strict=True)),
            "certificate",
            "it is for other, not",
        ),
        (dict(zip(("certificate", "private_key"), pair(("db",), -9, -2), strict=True)), "certificate", "it expired on"),
    ],
)
def test_certificate_of_a_database_server(engine: str, changes: dict[str, str], name: str, message: str) -> None:
    given = dict(zip(("certificate", "private_key"), pair(("db",)), strict=True))
    common: dict[str, Any] = {f"{engine}_address": "db", f"{engine}_port": 5555}

    def found(values: dict[str, str]) -> list[str]:
        return problems((engine,), **common | {f"{engine}_tls_{part}": text for part, text in values.items()})

    assert found(given) == []
    (problem,) = found(given | changes)
    assert problem.startswith(f"{engine}_tls_{name}: ")
    assert message in problem


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_settings_of_a_database_server_that_the_role_has_from_elsewhere(engine: str) -> None:
    def found(**settings: Any) -> list[str]:
        return problems((engine,), **{f"{engine}_settings": settings, "free": 50 * 2**30})

    assert found(max_connections=50) == []
    for name, own in site_check.SERVER_SETTINGS[engine].items():
        (problem,) = found(**{name: "x"})
        assert problem.startswith(f"{engine}_settings.{name}: ")
        assert own in problem
        assert not own or own in GOOD
    for name in ("Port", "loose-port"):
        assert f"set {engine}_port." in found(**{name: 1})[0]


def test_engine_that_others_use() -> None:
    """Before anything changes; what they have is added to, and refused where it is another one."""
    seen = {"problem": "", "options": {"data-root": "/srv/docker"}, "ours": {}, "others": ["wiki"]}
    assert problems(engine=seen, docker_engine_registry_mirrors=["https://mirror.example.org"]) == []
    (problem,) = problems(engine=seen, docker_engine_settings={"data-root": "/data"})
    assert problem.startswith("docker_engine_settings.data-root: ")
    (problem,) = problems(engine=seen, docker_engine_address_pools=[{"base": "10.99.0.0/16", "size": 24}])
    assert problem.startswith("docker_engine_address_pools: ")
    (problem,) = problems(engine=seen | {"problem": "/etc/docker/daemon.json: broken"})
    assert problem.startswith("docker_engine_settings: /etc/docker/daemon.json: broken")


def test_nothing_to_notice() -> None:
    assert notices() == []
    lax = {"orthanc_dicom_tls_remote_certificate_required": False}
    assert notices(orthanc_version="1.12.7", **dicom_tls(), **lax) == []
    assert notices(orthanc_version="1.10.1", **lax) == []
    assert notices(orthanc_version="1.12.4", **dicom_tls(old=False)) == []
    assert notices(orthanc_settings={"DicomWeb": {"New": 1}}) == []


def test_the_binary_on_the_host_knows_best() -> None:
    """A release that no table has, with an option that no table has."""
    binary = {"version": "1.12.10", "options": {"Tomorrow": "int", "HttpTimeout": "str"}}
    host: dict[str, Any] = {"orthanc": "1.12.10", "binary": binary}
    assert problems(**host, orthanc_settings={"Tomorrow": 1, "HttpTimeout": "60"}) == []
    (problem,) = problems(**host, orthanc_settings={"HttpTimeout": 60})
    assert "wants a value of type str" in problem
    (problem,) = problems(**host, orthanc_settings={"StableAge": 60})
    assert "Orthanc 1.12.10 does not know this option" in problem


def test_good_host_without_proxy() -> None:
    assert problems(("orthanc", "verification"), orthanc_proxied=False, orthanc_proxy_password="") == []


def test_good_proxy_alone() -> None:
    assert problems(("nginx",)) == []


def test_good_host_that_was_not_asked() -> None:
    host = site_check.Host(["orthanc", "nginx"], GOOD, CONSTANTS["__orthanc_plugins"], TABLES)
    assert host.orthanc_version == ""
    assert list(site_check.problems(host)) == []


POSTGRESQL: dict[str, Any] = {
    "orthanc_database": "postgresql",
    "orthanc_database_password": "secret",
    "orthanc_database_host": "127.0.0.1",
    "orthanc_database_port": 5432,
}


def test_good_host_with_a_database() -> None:
    assert problems(("orthanc", "nginx"), **POSTGRESQL, database="") == []
    assert problems(("orthanc", "nginx"), **POSTGRESQL, database="postgresql", images=5) == []
    assert problems(("orthanc", "nginx"), **POSTGRESQL, database="sqlite", images=0) == []
    both = POSTGRESQL | {"orthanc_database_storage": True}
    assert problems(**both, database="postgresql", files="postgresql", images=5) == []
    assert problems(**both, orthanc_database_index=False, files="postgresql", images=5) == []
    assert problems(**POSTGRESQL, images=5, orthanc_database_leave_images_behind=True) == []
    assert problems(**POSTGRESQL, orthanc_settings={"PostgreSQL": {"Lock": False}}) == []


# What the distribution offers does not matter.
UPSTREAM: dict[str, Any] = {"orthanc_apt_source": "upstream", "orthanc_version": "1.13.0"}


def test_good_host_with_packages_of_upstream() -> None:
    assert problems(**UPSTREAM) == []
    assert problems(**UPSTREAM, orthanc_settings={"OverwriteInstances": "Always"}) == []
    assert problems(**UPSTREAM | {"orthanc_version": "", "orthanc_plugins": ["housekeeper"], "orthanc": "1.10.1"}) == []


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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        POSTGRESQL | {"database": ""},
        # What the distribution has does not matter.
        {"offered": [], "release": "12"},
        {"orthanc_lsb_url": "http://mirror/lsb", "orthanc_lsb_dir": "/srv/orthanc", "orthanc_lsb_ca": pair()[0]},
        {
            "orthanc_plugins": ["gdcm"],
            "orthanc_lsb_plugin_versions": {"gdcm": "1.9"},
            "orthanc_lsb_checksums": LSB["orthanc_lsb_checksums"] | {"orthanc-gdcm/1.9/libOrthancGdcm.so": SUM.upper()},
        },
    ],
)
def test_good_host_with_lsb(changes: dict[str, Any]) -> None:
    assert problems(**LSB | changes) == []


def test_options_of_plugins_are_reached() -> None:
    settings = {"PythonScript": "/srv/route.py", "ServeFolders": {"/doc": "/srv"}}
    assert problems(orthanc_settings=settings, orthanc_plugins=["python", "serve-folders"]) == []


MACHINES: dict[str, Any] = {"nginx_client_ca": pair(("ca.example.org",))[0], "nginx_client_names": ["ct 1.a_b-c"]}


@pytest.mark.parametrize(
    "changes",
    [
        MACHINES,
        MACHINES | {"nginx_readonly_users": ["ct 1.a_b-c"], "nginx_client_certificate": "required"},
        MACHINES | {"nginx_readonly_users": ["admin"]},
        MACHINES | {"nginx_client_ca": pair(("a",))[0] + pair(("b",))[0]},
        MACHINES | {"nginx_client_names": [], "nginx_client_certificate": "required"},
        {"nginx_allowed_clients": ["192.0.2.7", "192.0.2.0/24", "2001:db8::/32"], "nginx_ban_after": 10},
    ],
)
def test_good_entry(changes: dict[str, Any]) -> None:
    assert problems(**changes) == []


DOCKER: dict[str, Any] = {"orthanc_install_method": "docker"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"orthanc_docker_image": "jodogne/orthanc-plugins:1.12.11"},
        {"orthanc_docker_image": "registry.example.org:5000/a/b/orthanc:26.8.1-full"},
        {"orthanc_docker_image": f"localhost/orthanc@sha256:{'0a' * 32}"},
        {"orthanc_docker_registry_user": "reader", "orthanc_docker_registry_password": "with:a colon"},
        {"orthanc_docker_memory": "512m", "orthanc_docker_cpus": 1.5},
        {"orthanc_docker_volumes": ["/srv/scripts:/srv/scripts:ro", "/srv/worklists:/srv/worklists"]},
        # What apt offers is of no interest.
        {"orthanc_version": "1.13.0", "offered": ["1.12.7"]},
        {"orthanc_plugins": ["housekeeper"], "offered": ["1.10.1"]},
        {"docker_engine_registry_mirrors": ["https://mirror.example.org", "http://192.0.2.1:5000/hub"]},
        {"docker_engine_registry_certificates": {"registry.example.org:5000": pair()[0]}},
        {"docker_engine_address_pools": [{"base": "10.99.0.0/16", "size": 24}, {"base": "fd00::/56", "size": 64}]},
        {"docker_engine_settings": {"debug": True}, "docker_engine_log_options": {"max-size": "1g", "max-file": 2}},
    ],
)
def test_good_container(changes: dict[str, Any]) -> None:
    assert problems(**DOCKER | changes) == []


WRONG: list[tuple[dict[str, Any], str, str]] = [
    setting("PythonScript", True, "wants a value of type str", {"orthanc_plugins": ["python"]}),
    setting("ServeFolders", "/srv", "is a dictionary", {"orthanc_plugins": ["serve-folders"]}),
    # database
    (POSTGRESQL | {"orthanc_database_password": ""}, "orthanc_database_password", "make secrets"),
    (POSTGRESQL | {"orthanc_database_host": ""}, "orthanc_database_host", "in the group 'postgresql'"),
    (POSTGRESQL | {"orthanc_database_host": "my host"}, "orthanc_database_host", "neither a host name"),
    (POSTGRESQL | {"orthanc_database_port": 99999}, "orthanc_database_port", "is not a TCP port"),
    (POSTGRESQL | {"orthanc_database_name": "o'rthanc"}, "orthanc_database_name", "no plain name"),
    (POSTGRESQL | {"orthanc_database_user": ""}, "orthanc_database_user", "no plain name"),
    *(
        (POSTGRESQL | {f"orthanc_database_{kind}": name}, f"orthanc_database_{kind}", "a name of the server's own")
        for kind in ("name", "user")
        for name in ("postgres", "template1", "pg_monitor", "all", "mysql", "root", "information_schema", "Sys")
    ),
    (POSTGRESQL | {"orthanc_database_connections": 0}, "orthanc_database_connections", "from 1 to 100"),
    (POSTGRESQL | {"orthanc_settings": {"MySQL": {}}}, "orthanc_settings.MySQL", "orthanc_database is postgresql"),
    (POSTGRESQL | {"database": "sqlite", "images": 7}, "orthanc_database", "has 7 images in sqlite"),
    (POSTGRESQL | {"database": "mysql", "images": -1}, "orthanc_database", "an unknown number of images in mysql"),
    ({"database": "postgresql", "images": 1}, "orthanc_database", "with sqlite it would start with none"),
    ({"orthanc_database_storage": True}, "orthanc_database_storage", "SQLite holds no DICOM files"),
    (POSTGRESQL | {"orthanc_database_index": False}, "orthanc_database_index", "neither the index nor"),
    (
        POSTGRESQL | {"database": "postgresql", "files": "postgresql", "images": 3},
        "orthanc_database_storage",
        "Set it back",
    ),
    (
        POSTGRESQL | {"database": "postgresql", "images": 3, "orthanc_database_storage": True},
        "orthanc_database_storage",
        "the files of 3 images are in /var/lib/orthanc/db-v6, and Orthanc would look for them in postgresql",
    ),
    (POSTGRESQL | {"orthanc_database_ca": "/etc/ca.crt"}, "orthanc_database_ca", "give its text"),
    (POSTGRESQL | {"no_way": "name Name or service not known"}, "orthanc_database_host", "does not know the name"),
    (POSTGRESQL | {"no_way": "port Connection refused"}, "orthanc_database_port", "port 5432 (Connection refused)"),
    # apt
    (UPSTREAM | {"orthanc_apt_url": "/srv/mirror"}, "orthanc_apt_url", "is no address of a site"),
    (UPSTREAM | {"orthanc_apt_suite": "trixie main"}, "orthanc_apt_suite", "is no suite"),
    (UPSTREAM | {"orthanc_apt_key": "/etc/apt/key.asc"}, "orthanc_apt_key", "neither a URL nor a public key"),
    # lsb
    (LSB | {"orthanc_version": ""}, "orthanc_version", "needs a release"),
    (LSB | {"orthanc_version": "latest"}, "orthanc_version", "is no release"),
    (
        LSB | {"orthanc_version": "1.12.7"},
        "orthanc_lsb_checksums",
        "no SHA-256 of orthanc/1.12.7/Orthanc and 1 more; run",
    ),
    (LSB | {"orthanc_lsb_checksums": {}}, "orthanc_lsb_checksums", "make lsb-lock INVENTORY=inventories/hospital"),
    (LSB | POSTGRESQL | {"database": "", "orthanc_database_storage": True}, "orthanc_lsb_checksums", "SQLStorage.so;"),
    (
        LSB | {"orthanc_lsb_checksums": LSB["orthanc_lsb_checksums"] | {"a": "1"}},
        "orthanc_lsb_checksums",
        "that of a is",
    ),
    (
        LSB | {"orthanc_plugins": ["gdcm"]},
        "orthanc_lsb_plugin_versions",
        "which version of 'gdcm' goes with Orthanc 1.12.8",
    ),
    (LSB | {"orthanc_version": "1.99.0"}, "orthanc_lsb_plugin_versions", "which version of 'dicomweb' goes with"),
    (
        LSB | {"orthanc_lsb_plugin_versions": {"dicomwep": "1"}},
        "orthanc_lsb_plugin_versions",
        "Did you mean 'dicomweb'?",
    ),
    (
        LSB | {"orthanc_plugins": ["python"]},
        "orthanc_plugins",
        "'python' is not to be had with orthanc_install_method lsb: its",
    ),
    (
        LSB | {"orthanc_plugins": ["housekeeper"], "orthanc_version": "1.10.1"},
        "orthanc_plugins",
        "came with Orthanc 1.11.0",
    ),
    (LSB | {"orthanc_lsb_url": "mirror/lsb"}, "orthanc_lsb_url", "is no address of a site"),
    (LSB | {"orthanc_lsb_url": "ftp://mirror/lsb"}, "orthanc_lsb_url", "is no address of a site"),
    (LSB | {"orthanc_lsb_ca": "/etc/ssl/ca.crt"}, "orthanc_lsb_ca", "no certificate in PEM form"),
    (LSB | {"orthanc_lsb_dir": "opt"}, "orthanc_lsb_dir", "not an absolute path"),
    (LSB | {"orthanc_lsb_dir": "/home/orthanc"}, "orthanc_lsb_dir", "of the system or of its users"),
    (LSB | {"orthanc_lsb_keep": 0}, "orthanc_lsb_keep", "from 1 to 100"),
    (LSB | {"machine": "aarch64"}, "orthanc_install_method", "this host is aarch64"),
    # ports
    ({"orthanc_http_port": 0}, "orthanc_http_port", "is not a TCP port"),
    ({"orthanc_dicom_port": 65536}, "orthanc_dicom_port", "is not a TCP port"),
    ({"nginx_http_port": -1}, "nginx_http_port", "is not a TCP port"),
    ({"orthanc_http_port": 4242}, "orthanc_http_port", "is the one of orthanc_dicom_port already"),
    ({"nginx_https_port": "80"}, "nginx_https_port", "is the one of nginx_http_port already"),
    ({"orthanc_dicom_port": 22}, "orthanc_dicom_port", "is taken on this host by sshd"),
    ({"listening": {"443": "apache2"}}, "nginx_https_port", "is taken on this host by apache2"),
    ({"listening": {"80": "another program"}}, "nginx_http_port", "by another program"),
    # ranges
    ({"nginx_timeout": 0}, "nginx_timeout", "out of range"),
    ({"nginx_timeout": 86401}, "nginx_timeout", "out of range"),
    ({"orthanc_ready_timeout": 0}, "orthanc_ready_timeout", "out of range"),
    ({"orthanc_ready_timeout": 3601}, "orthanc_ready_timeout", "out of range"),
    ({"orthanc_storage_minimum_free_gb": -1}, "orthanc_storage_minimum_free_gb", "out of range"),
    # users
    ({"orthanc_users": {"admin": ""}}, "orthanc_users", "is empty or no text"),
    ({"orthanc_users": {"admin": None}}, "orthanc_users", "is empty or no text"),
    ({"orthanc_users": {"admin": 1234}}, "orthanc_users", "is empty or no text"),
    ({"nginx_users": {"admin": ""}}, "nginx_users", "is empty or no text"),
    ({"nginx_users": {"a:b": "text"}}, "nginx_users", "colon or white space"),
    ({"nginx_users": {"a b": "text"}}, "nginx_users", "colon or white space"),
    ({"nginx_users": {"": "text"}}, "nginx_users", "colon or white space"),
    ({"nginx_users": {"a\n": "text"}}, "nginx_users", "colon or white space"),
    ({"nginx_users": {}}, "orthanc_users", "nobody could log in"),
    ({"orthanc_proxied": False, "orthanc_users": {}}, "orthanc_users", "nobody could log in"),
    ({"orthanc_proxy_password": ""}, "orthanc_proxy_password", "make secrets"),
    # orthanc
    ({"orthanc_aet": ""}, "orthanc_aet", "no application entity title"),
    ({"orthanc_aet": "SEVENTEEN_LETTERS"}, "orthanc_aet", "no application entity title"),
    ({"orthanc_aet": "BACK\\SLASH"}, "orthanc_aet", "no application entity title"),
    ({"orthanc_aet": "GRÖSSE"}, "orthanc_aet", "no application entity title"),
    ({"orthanc_aet": "   "}, "orthanc_aet", "no application entity title"),
    ({"orthanc_config_dir": ""}, "orthanc_config_dir", "not an absolute path"),
    ({"orthanc_config_dir": "etc/pacs"}, "orthanc_config_dir", "not an absolute path"),
    ({"orthanc_config_dir": "/etc/orthanc"}, "orthanc_config_dir", "belongs to the packages"),
    ({"orthanc_config_dir": "/etc/orthanc/"}, "orthanc_config_dir", "belongs to the packages"),
    ({"orthanc_storage_dir": "/my data"}, "orthanc_storage_dir", "not an absolute path"),
    ({"orthanc_storage_dir": "/data:1"}, "orthanc_storage_dir", "not an absolute path"),
    ({"orthanc_index_dir": "index"}, "orthanc_index_dir", "not an absolute path"),
    *(
        ({f"orthanc_{name}_dir": folder}, f"orthanc_{name}_dir", "a folder of the system or of its users")
        for name in ("config", "storage", "index")
        for folder in (
            "/",
            "/etc",
            "/etc/pacs",
            "/opt",
            "/usr",
            "/var",
            "/var/lib",
            "/home",
            "/home/pacs",
            "/tmp/pacs",
            "/mnt",
        )
    ),
    ({"orthanc_config_dir": "/srv/pacs/"}, "orthanc_config_dir", "write '/srv/pacs/' as /srv/pacs"),
    ({"orthanc_storage_dir": "//data/../images"}, "orthanc_storage_dir", "write '//data/../images' as /images"),
    (
        {"orthanc_config_dir": "/srv/orthanc", "orthanc_storage_dir": "/srv/orthanc/data/images"},
        "orthanc_storage_dir",
        "is in /srv/orthanc (orthanc_config_dir)",
    ),
    (
        {"orthanc_config_dir": "/srv/orthanc/etc", "orthanc_index_dir": "/srv/orthanc"},
        "orthanc_index_dir",
        "holds /srv/orthanc/etc (orthanc_config_dir)",
    ),
    ({"orthanc_config_dir": "/etc/nginx/pacs"}, "orthanc_config_dir", "is in /etc/nginx"),
    ({"orthanc_config_dir": "/var/lib/orthanc/etc"}, "orthanc_config_dir", "the service's own folder"),
    ({"orthanc_storage_dir": "/var/lib/postgresql"}, "orthanc_storage_dir", "is /var/lib/postgresql"),
    (LSB | {"orthanc_config_dir": "/opt/orthanc"}, "orthanc_lsb_dir", "is /opt/orthanc (orthanc_config_dir)"),
    (LSB | {"orthanc_storage_dir": "/opt/orthanc/images"}, "orthanc_lsb_dir", "holds /opt/orthanc/images"),
    ({"orthanc_version": "1.12", "offered": []}, "orthanc_version", "is no release"),
    ({"orthanc_version": "latest", "offered": []}, "orthanc_version", "is no release"),
    ({"orthanc_version": "1.12.6"}, "orthanc_version", "is not on offer here; the package sources have 1.12.7"),
    # container
    (DOCKER | {"orthanc_docker_image": "orthancteam/orthanc"}, "orthanc_docker_image", "no image with its tag"),
    (DOCKER | {"orthanc_docker_image": "Orthanc Team:1"}, "orthanc_docker_image", "no image with its tag"),
    (DOCKER | {"orthanc_docker_image": "a/orthanc:latest"}, "orthanc_docker_image", "another Orthanc tomorrow"),
    (DOCKER | {"orthanc_docker_image": "a/orthanc@sha256:1234"}, "orthanc_docker_image", "no image with its tag"),
    (DOCKER | {"orthanc_docker_registry_user": "a"}, "orthanc_docker_registry_password", "is empty while"),
    (DOCKER | {"orthanc_docker_registry_password": "a"}, "orthanc_docker_registry_user", "is empty while"),
    (
        DOCKER | {"orthanc_docker_registry_user": "a:b", "orthanc_docker_registry_password": "c"},
        "orthanc_docker_registry_user",
        "has a colon in it",
    ),
    (DOCKER | {"orthanc_docker_plugin_dir": "plugins"}, "orthanc_docker_plugin_dir", "not an absolute path"),
    (DOCKER | {"orthanc_docker_volumes": ["/srv/scripts"]}, "orthanc_docker_volumes", "is not like"),
    (DOCKER | {"orthanc_docker_volumes": ["data:/data"]}, "orthanc_docker_volumes", "is not like"),
    (DOCKER | {"orthanc_docker_memory": "much"}, "orthanc_docker_memory", "no amount of memory"),
    (DOCKER | {"orthanc_docker_memory": "8 GiB"}, "orthanc_docker_memory", "no amount of memory"),
    (DOCKER | {"orthanc_docker_cpus": -1.0}, "orthanc_docker_cpus", "out of range"),
    # engine
    ({"docker_engine_log_options": {"max-size": "much"}}, "docker_engine_log_options.max-size", "is not like 10m"),
    ({"docker_engine_log_options": {"max-file": 0}}, "docker_engine_log_options.max-file", "is not like 3"),
    ({"docker_engine_registry_mirrors": ["mirror.example.org"]}, "docker_engine_registry_mirrors", "is no URL"),
    ({"docker_engine_registry_mirrors": ["https://me:pw@x"]}, "docker_engine_registry_mirrors", "is no URL"),
    (
        {"docker_engine_registry_certificates": {"https://a": pair()[0]}},
        "docker_engine_registry_certificates",
        "no host",
    ),
    ({"docker_engine_registry_certificates": {"a:5000": "/ca.crt"}}, "docker_engine_registry_certificates", "PEM form"),
    ({"docker_engine_address_pools": [{"base": "10.99.0.0/16"}]}, "docker_engine_address_pools", "is no pool"),
    ({"docker_engine_address_pools": [{"base": "10.0.0.0/16", "size": 8}]}, "docker_engine_address_pools", "no pool"),
    ({"docker_engine_settings": {"log-opts": {}}}, "docker_engine_settings.log-opts", "variable of its own"),
    # plugins
    ({"orthanc_plugins": ["imagej"]}, "orthanc_plugins", "extends ImageJ"),
    ({"orthanc_plugins": ["orthanc-imagej"]}, "orthanc_plugins", "extends ImageJ"),
    ({"orthanc_plugins": ["dicom-web"]}, "orthanc_plugins", "Did you mean 'dicomweb'?"),
    ({"orthanc_plugins": ["zzz"]}, "orthanc_plugins", "there is no plugin 'zzz'."),
    ({"orthanc_plugins": ["housekeeper"], "offered": ["1.10.1"]}, "orthanc_plugins", "came with Orthanc 1.11.0"),
    ({"orthanc_plugins": ["housekeeper"], "release": "12", "offered": []}, "orthanc_plugins", "this host has 1.10.1"),
    # settings
    ({"orthanc_settings": {"SslEnabled": True}}, "orthanc_settings.SslEnabled", "does not fit OpenSSL 3"),
    ({"nginx_relay_port": 70000}, "nginx_relay_port", "70000 is not a TCP port"),
    ({"orthanc_settings": {"DicomWeb": True}}, "orthanc_settings.DicomWeb", "is a dictionary"),
    ({"orthanc_settings": {"HttpTimeot": 1}}, "orthanc_settings.HttpTimeot", "Did you mean 'HttpTimeout'?"),
    ({"orthanc_settings": {"Zzzzzz": 1}}, "orthanc_settings.Zzzzzz", "no Orthanc release knows this option."),
    ({"orthanc_settings": {"ZipUseUtf8": True}}, "orthanc_settings.ZipUseUtf8", "first seen in 1.13.0"),
    ({"orthanc_settings": {"HttpTimeout": "60"}}, "orthanc_settings.HttpTimeout", "of type int, not '60' (str)"),
    ({"orthanc_settings": {"HttpTimeout": True}}, "orthanc_settings.HttpTimeout", "of type int, not True (bool)"),
    ({"orthanc_settings": {"OverwriteInstances": 1}}, "orthanc_settings.OverwriteInstances", "knows true and false"),
    setting("OverwriteInstances", "Always", "Orthanc 1.12.7 knows true and false only"),
    setting("OverwriteInstances", "Perhaps", "none of Never, Always and IfChanged", UPSTREAM),
    setting("HttpTimeout", -1, "choose a number of 0 or more"),
    setting("HttpThreadsCount", 0, "from 1 to"),
    setting("DicomThreadsCount", 0, "from 1 to"),
    setting("DicomLossyTranscodingQuality", 101, "from 1 to 100"),
    setting("MaximumPduLength", 100, "from 4096 to 131072"),
    setting("StorageAccessOnFind", "Sometimes", "none of Always, Answers, Never"),
    setting("MaximumStorageMode", "Keep", "none of Recycle, Reject"),
    setting("BuiltinDecoderTranscoderOrder", "Never", "none of Before"),
    setting("DicomDefaultRetrieveMethod", "C-GOT", "none of C-MOVE"),
    setting("DefaultEncoding", "utf-8", "none of Ascii, Utf8"),
    setting("IngestTranscoding", "JPEG", "no transfer syntax"),
    setting("DicomScuPreferredTransferSyntax", "x", "no transfer syntax"),
    setting("LuaScripts", ["route.lua"], "'route.lua' is not the absolute path"),
    setting("LuaScripts", [3], "its items are texts, not 3"),
    setting("ExternalDictionaries", ["private.dic"], "is not the absolute path"),
    setting("AcceptedTransferSyntaxes", [1], "its items are texts, not 1"),
    inner("UserMetadata", "Reviewer", 5, "no number from 1024 to 65535"),
    inner("UserContentType", "Report", "text", "no number from 1024 to 65535"),
    inner("Warnings", "W001_TagsBeingReadFromStorage", "no", "neither true nor false"),
    inner("ExtraMainDicomTags", "Pat", ["PatientName"], "none of the levels"),
    inner("ExtraMainDicomTags", "Study", "StudyDate", "list of names"),
    inner("JobsEngineThreadsCount", "ResourceModification", 0, "no number of 1 or more"),
    inner("Dictionary", "zz", ["DA", "X", 1, 1], "no DICOM tag"),
    inner("Dictionary", "0011,1010", "DA", "is not like"),
    inner("DicomWeb", "StudyMetadata", "Full", "Did you mean 'StudiesMetadata'?"),
    inner("DicomWeb", "StudiesMetadata", "All", "none of Full"),
    inner("DicomWeb", "QidoCaseSensitive", "yes", "of type bool"),
    inner("DicomWeb", "EnablePerformanceLogs", True, "first seen with 1.13.0"),
    inner("DicomWeb", "EnableMetadataCache", True, "first seen with 1.12.7", {"orthanc": "1.10.1"}),
    inner(
        "PostgreSQL", "HousekeepingInterval", 1, "the plugin does not know this option.", POSTGRESQL | {"database": ""}
    ),
    setting("Worklists", {"LimitAnswers": 3}, "add worklists to orthanc_plugins"),
    setting("PythonScript", "/srv/route.py", "add python to orthanc_plugins"),
    (
        {"orthanc_settings_unchecked": {"HttpPort": 8043}},
        "orthanc_settings_unchecked.HttpPort",
        "set orthanc_http_port",
    ),
    (
        {"orthanc_settings": {"StableAge": 1}, "orthanc_settings_unchecked": {"StableAge": 2}},
        "orthanc_settings_unchecked.StableAge",
        "stands in orthanc_settings as well",
    ),
    # plugins
    ({"orthanc_plugins": ["ohif"]}, "orthanc_plugins", "neither Debian nor Ubuntu has a package of it"),
    (DOCKER | {"orthanc_plugins": ["stone-webviewer"]}, "orthanc_plugins", "needs 'dicomweb'; add it"),
    ({"orthanc_plugins": ["dicomweb", "dicomweb"]}, "orthanc_plugins", "'dicomweb' stands there twice"),
    (
        {"orthanc_plugins": ["gdcm"], "orthanc_settings": {"IngestTranscoding": "1.2.840.10008.1.2.1"}},
        "orthanc_plugins",
        "gdcm of Debian's packages ends Orthanc",
    ),
    ({"orthanc_plugins": ["libOrthancGdcm.so"]}, "orthanc_plugins", "Did you mean 'gdcm'?"),
    ({"orthanc_plugins": ["postgresql"]}, "orthanc_plugins", "comes with orthanc_database"),
    (
        DOCKER | {"orthanc_plugins": ["aws-s3", "delayed-deletion"]},
        "orthanc_plugins",
        "each want to keep the DICOM files",
    ),
    (
        POSTGRESQL | {"database": "", "orthanc_database_storage": True, "orthanc_plugins": ["delayed-deletion"]},
        "orthanc_plugins",
        "delayed-deletion and orthanc_database_storage",
    ),
    (
        UPSTREAM | {"orthanc_plugins": ["advanced-storage"]},
        "orthanc_plugins",
        "Orthanc's makers ship it in their images",
    ),
    # peers
    peer({"Url": "ftp://x"}, "orthanc_peers.other.Url", "is not like https://"),
    peer({"Url": "https://me:secret@pacs2"}, "orthanc_peers.other.Url", "a login has fields of its own"),
    peer({"Username": "me"}, "orthanc_peers.other", "give Url"),
    peer("https://pacs2", "orthanc_peers.other", "give Url"),
    peer(["https://pacs2", "me"], "orthanc_peers.other", "give Url"),
    peer({"Url": "https://pacs2", "UserName": "me"}, "orthanc_peers.other.UserName", "Did you mean 'Username'?"),
    peer({"Url": "https://pacs2", "Username": "me"}, "orthanc_peers.other.Password", "it is missing"),
    peer({"Url": "https://pacs2", "Timeout": "5"}, "orthanc_peers.other.Timeout", "of type int"),
    ({"orthanc_peers": {"o r": ["https://pacs2"]}}, "orthanc_peers.o r", "letters, digits"),
    # modalities
    (
        {"orthanc_modalities": {"c t": modality()["orthanc_modalities"]["ct"]}, "verification_modality": ""},
        "orthanc_modalities.c t",
        "letters, digits",
    ),
    (
        {"orthanc_modalities": {"ct": {"AET": "CT1", "Host": "192.0.2.7"}}},
        "orthanc_modalities.ct",
        "give AET, Host and Port",
    ),
    ({"orthanc_modalities": {"ct": "192.0.2.7"}}, "orthanc_modalities.ct", "give AET, Host and Port"),
    ({"orthanc_modalities": {"ct": ["CT1", "192.0.2.7"]}}, "orthanc_modalities.ct", "give AET, Host and Port"),
    (modality(AET="A" * 17), "orthanc_modalities.ct", "no application entity title"),
    (modality(AET=1), "orthanc_modalities.ct", "no application entity title"),
    (modality(Port=0), "orthanc_modalities.ct", "is not a TCP port"),
    (modality(Port=65536), "orthanc_modalities.ct", "is not a TCP port"),
    (modality(Port="104"), "orthanc_modalities.ct", "is not a TCP port"),
    (modality(Port=True), "orthanc_modalities.ct", "is not a TCP port"),
    (modality(Host="ct.example.org"), "orthanc_modalities.ct", "is a name"),
    (modality(Host=7), "orthanc_modalities.ct", "compares Host"),
    (modality(Host="2001:db8::7"), "orthanc_modalities.ct", "no DICOM over IPv6"),
    (modality(Manufacturer="Acme"), "orthanc_modalities.ct.Manufacturer", "none of Generic"),
    (modality(AllowStore="yes"), "orthanc_modalities.ct.AllowStore", "of type bool"),
    (modality(AllowStores=True), "orthanc_modalities.ct.AllowStores", "Did you mean 'AllowStore'?"),
    (modality(RetrieveMethod="GET"), "orthanc_modalities.ct.RetrieveMethod", "none of C-MOVE"),
    # site
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
    # verification
    ({"verification_certificate": pair()[0]}, "verification_private_key", "it is missing"),
    ({"verification_private_key": pair()[1]}, "verification_certificate", "it is missing"),
    (
        {"verification_certificate": pair()[0], "verification_private_key": pair(("other",))[1]},
        "verification_private_key",
        "does not belong",
    ),
    # peers
    ({"orthanc_https_ca": "/etc/ssl/ca.crt"}, "orthanc_https_ca", "no certificate in PEM form"),
    ({"orthanc_https_ca": pair(("ca.example.org",), -9, -2)[0]}, "orthanc_https_ca", "expired on"),
    ({"orthanc_client_certificate": pair()[0]}, "orthanc_client_private_key", "it is missing"),
    # dicom_tls
    (dicom_tls() | {"orthanc_dicom_tls_private_key": ""}, "orthanc_dicom_tls_private_key", "it is missing"),
    (dicom_tls() | {"orthanc_dicom_tls_certificate": ""}, "orthanc_dicom_tls_certificate", "it is missing"),
    (dicom_tls() | {"orthanc_dicom_tls_certificate": "/a.crt"}, "orthanc_dicom_tls_certificate", "no certificate in"),
    (dicom_tls() | {"orthanc_dicom_tls_private_key": "/a.key"}, "orthanc_dicom_tls_private_key", "no private key in"),
    (dicom_tls() | {"orthanc_dicom_tls_private_key": pair(("b",))[1]}, "orthanc_dicom_tls_private_key", "not belong"),
    (dicom_tls(("pacs",), -9, -2), "orthanc_dicom_tls_certificate", "it expired on"),
    (dicom_tls(("pacs",), 2, 9), "orthanc_dicom_tls_certificate", "it is not valid before"),
    (dicom_tls() | {"orthanc_dicom_tls_trusted": "/ca.crt"}, "orthanc_dicom_tls_trusted", "no certificate in PEM form"),
    (dicom_tls() | {"orthanc_dicom_tls_trusted": pair(("b",), -9, -2)[0]}, "orthanc_dicom_tls_trusted", "expired on"),
    (dicom_tls() | {"orthanc_dicom_tls_trusted": ""}, "orthanc_dicom_tls_trusted", "no modality could get in"),
    (modality(UseDicomTls=True), "orthanc_modalities.ct", "UseDicomTls needs orthanc_dicom_tls_certificate"),
    (
        dicom_tls() | {"orthanc_dicom_tls_minimum_version": "1.3", "orthanc": "1.10.1"},
        "orthanc_dicom_tls_minimum_version",
        "Orthanc 1.10.1 cannot be told so",
    ),
    # entry
    ({"nginx_readonly_users": ["admin"]}, "nginx_readonly_users", "every user is in it"),
    (MACHINES | {"nginx_readonly_users": ["admin", "ct 1.a_b-c"]}, "nginx_readonly_users", "every user is in it"),
    *(
        ({"orthanc_users": {"admin": f"long{letter}enough"}}, "orthanc_users", "password of 'admin' has a line break")
        for letter in "\n\r\0\t\x7f"
    ),
    ({"orthanc_proxy_password": "long enough\n"}, "orthanc_proxy_password", "it has a line break"),
    ({"orthanc_database_password": "long enough\0"}, "orthanc_database_password", "it has a line break"),
    # modalities that are one
    (
        {
            "orthanc_modalities": {
                "ct": ["CT1", "192.0.2.7", 104],
                "mr": {"AET": "CT1", "Host": "192.0.2.7", "Port": 104},
            }
        },
        "orthanc_modalities.mr",
        "those of orthanc_modalities.ct",
    ),
    (
        {
            "orthanc_modalities": {
                "ct": ["CT1", "192.0.2.7", 104],
                "mr": {"AET": "CT1", "Host": "192.0.2.7", "Port": 105, "AllowStore": False},
            }
        },
        "orthanc_modalities.mr",
        "give both the same rights",
    ),
    (
        {"orthanc_settings": {"IngestTranscoding": "1.2.840.10008.1.2.4.99"}},
        "orthanc_settings.IngestTranscoding",
        "no transfer syntax of DICOM",
    ),
    ({"nginx_readonly_users": ["admni"]}, "nginx_readonly_users", "Did you mean 'admin'?"),
    ({"nginx_allowed_clients": ["clinic.example.org"]}, "nginx_allowed_clients", "like 192.0.2.7 or 192.0.2.0/24"),
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
    ({"orthanc_journal_days": -1}, "orthanc_journal_days", "out of range"),
    ({"orthanc_journal_mb": -1}, "orthanc_journal_mb", "out of range"),
    # verification
    ({"verification_modality": "cta"}, "verification_modality", "Did you mean 'ct'?"),
    ({"verification_dicom_address": "http://pacs"}, "verification_dicom_address", "neither a host name nor an address"),
    # the host itself
    ({"distribution": "debian", "release": "11"}, "ansible_host", "runs debian 11"),
    ({"distribution": "ubuntu", "release": "20.04"}, "ansible_host", "runs ubuntu 20.04"),
    ({"distribution": "fedora", "release": "43"}, "ansible_host", "runs fedora 43"),
    ({"distribution": "debian", "release": ""}, "ansible_host", "runs debian"),
    ({"distribution": "", "release": ""}, "ansible_host", "runs an unknown system"),
    ({"systemd": False}, "ansible_host", "systemd does not run"),
    (
        {"elsewhere": {"index": "/data/dicom"}, "images": 3, "configuration": "/etc/orthanc"},
        "orthanc_index_dir",
        "the Orthanc of /etc/orthanc on this host has its index in /data/dicom. Set it to /data/dicom",
    ),
    (
        {"elsewhere": {"storage": "/data/dicom"}, "images": -1},
        "orthanc_storage_dir",
        "the Orthanc on this host has its DICOM files in /data/dicom",
    ),
    (
        {"lost": ["/var/lib/orthanc/db-v6"], "images": -1},
        "orthanc_storage_dir",
        "`mkdir -p /var/lib/orthanc/db-v6 && touch /var/lib/orthanc/db-v6/.pacs`",
    ),
    ({"unread": ["/etc/orthanc/a.json"], "images": 3}, "ansible_host", "/etc/orthanc/a.json is no JSON"),
    ({"interrupted": True}, "ansible_host", "`dpkg --configure -a`"),
    ({"free": 2**29}, "orthanc_storage_dir", "0.5 GiB are free at /var/lib/orthanc/db-v6"),
    ({"orthanc_storage_minimum_free_gb": 51}, "orthanc_storage_dir", "asks for 51"),
]


@pytest.mark.parametrize("changes, variable, part", WRONG)
def test_one_thing_wrong(changes: dict[str, Any], variable: str, part: str) -> None:
    (problem,) = problems(**changes)
    assert re.match(rf"{re.escape(variable)}\b[.:]", problem)
    assert part in problem
    assert problem.endswith((".", "?"))


@pytest.mark.parametrize("option, variable", OWN_VARIABLE.items())
def test_option_with_a_variable_of_its_own(option: str, variable: str) -> None:
    section, _, name = option.rpartition(".")
    settings = {section: {name: 1}} if section else {option: 1}
    database = POSTGRESQL | {"database": "", "orthanc_database": section.lower()} if "SQL" in section else {}
    (problem,) = problems(orthanc_settings=settings, **database)
    assert problem == f"orthanc_settings.{option}: this option has a variable of its own; set {variable}."
    assert variable.split()[0] in options("orthanc") | options("nginx")


@pytest.mark.parametrize(
    "name, part",
    [
        ("orthanc_htp_port", "Did you mean 'orthanc_http_port'?"),
        ("orthanc_zzzzzzzzzzzzzzzz", "no such variable."),
        ("orthnc_http_port", "Did you mean 'orthanc_http_port'?"),
        ("site_zzz", "no such variable."),
        ("site_url", "this name is derived"),
    ],
)
def test_misspelled(name: str, part: str) -> None:
    names = {name, "orthanc_http_port", "my_own", "app_http_port"}
    (problem,) = site_check.misspelled(names, {"orthanc_http_port"}, {"site_url"}, {"orthanc_"})
    assert problem.startswith(f"{name}: ")
    assert part in problem


@pytest.mark.parametrize(
    "name, value",
    [
        ("orthanc_http_port", "eighty"),
        ("orthanc_http_port", 1.5),
        ("orthanc_proxied", "perhaps"),
        ("orthanc_users", ["admin"]),
        ("orthanc_users", "admin"),
        ("orthanc_plugins", 3),
        ("orthanc_plugins", "dicomweb"),
        ("orthanc_settings", []),
        ("orthanc_install_method", "rpm"),
        ("orthanc_apt_source", "backports"),
        ("orthanc_lsb_checksums", "none"),
        ("orthanc_database", "oracle"),
        ("orthanc_docker_pull", "sometimes"),
        ("orthanc_docker_cpus", "two"),
        ("orthanc_docker_volumes", "/srv:/srv"),
        ("docker_engine_log_options", ["max-size=1m"]),
        ("orthanc_dicom_tls_remote_certificate_required", "perhaps"),
        ("orthanc_dicom_tls_minimum_version", "1.1"),
        ("nginx_readonly_users", "guest"),
        ("nginx_allowed_clients", "192.0.2.0/24"),
        ("nginx_client_names", "ct1"),
        ("nginx_client_certificate", "perhaps"),
        ("nginx_ban_after", "ten"),
        ("nginx_audit_query", "perhaps"),
        ("nginx_audit_days", "year"),
        ("orthanc_journal_days", "month"),
        ("orthanc_journal_mb", "2G"),
        ("verification_level", "smoke"),
        ("verification_accepted_risks", ["lua"]),
    ],
)
def test_wrong_type_or_choice(name: str, value: Any) -> None:
    role = next(role for role in ROLES if name.startswith(f"{role}_"))
    (problem,) = site_check.arguments(options(role), {name: value})
    assert name in problem
    assert problem.endswith(".")


def test_null_in_a_list() -> None:
    (problem,) = site_check.arguments(options("orthanc"), GOOD | {"orthanc_plugins": ["dicomweb", None]})
    assert problem == "'orthanc_plugins' has an entry that is empty (null); write it out, or take it out."


@pytest.mark.parametrize("value, kind", [(None, "null"), ("x", "str"), (True, "bool"), (7, "int"), ([], "list")])
def test_wrong_type_goes_by_the_name_that_it_has_in_an_inventory(value: Any, kind: str) -> None:
    (problem,) = site_check.arguments(options("orthanc"), GOOD | {"orthanc_users": value})
    assert problem == f"'orthanc_users' has to be a dict, not {kind}."


def test_numbers_of_roles_that_are_not_there() -> None:
    host = site_check.Host([], {"nginx_timeout": 0, "mysql_port": 70000, "postgresql_port": 5432})
    assert [problem.partition(":")[0] for problem in site_check.numbers(host)] == ["nginx_timeout", "mysql_port"]


def test_arguments_of_a_good_host() -> None:
    for role in ("docker_engine", "nginx", "orthanc", "verification"):
        assert list(site_check.arguments(options(role), GOOD)) == []


def test_missing_argument() -> None:
    (problem,) = site_check.arguments({"a": {"type": "str", "required": True}}, {})
    assert "a" in problem


@given(st.integers())
def test_any_port(port: int) -> None:
    assume(str(port) not in PROBE["listening"] and port not in (80, 443, 4242))  # type: ignore[operator]
    assert bool(problems(orthanc_http_port=port)) == (not 0 < port < 2**16)


TITLE = "".join(set(string.printable) - set("\t\n\r\v\f\\"))


@given(st.text(TITLE, min_size=1, max_size=16))
def test_any_good_title(title: str) -> None:
    assume(title.strip())
    assert problems(orthanc_aet=title, **modality(AET=title)) == []


@given(st.text())
def test_any_title(title: str) -> None:
    good = len(title) in range(1, 17) and set(title) <= set(TITLE) and not title.isspace()
    assert bool(problems(orthanc_aet=title)) == (not good)


@given(st.lists(st.text(string.ascii_letters + string.digits + "-_.~", min_size=1)))
def test_any_good_prefix(parts: list[str]) -> None:
    assume("." not in parts and ".." not in parts)
    assert problems(nginx_prefix="".join(f"/{part}" for part in parts) + "/") == []


@given(st.text("/a .;{}$\n"))
def test_any_prefix(prefix: str) -> None:
    good = bool(prefix) and prefix[0] == prefix[-1] == "/" and "//" not in prefix and set(prefix) <= set("/a.")
    good = good and not {".", ".."} & set(prefix.split("/"))
    assert bool(problems(nginx_prefix=prefix)) == (not good)


def sections(plugin: dict[str, Any]) -> set[str]:
    return {*plugin["settings"], *plugin.get("sections", [])}


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "dict": st.dictionaries(st.text(), st.integers(), max_size=2),
    "float": st.floats() | st.integers(),
    "int": st.integers(0),
    "list": st.lists(st.text().map(lambda text: f"/{text}"), max_size=2),
    "str": st.text(),
}


def good(option: str, kind: str) -> st.SearchStrategy[Any]:
    """Return values that an option takes."""
    if option in settings_check.CHOICES:
        return st.sampled_from(settings_check.CHOICES[option].split())
    if option in settings_check.RANGES:
        return st.integers(*settings_check.RANGES[option])
    if option in settings_check.UIDS:
        return st.sampled_from(SYNTAXES)
    return st.just({}) if option in settings_check.INNER else VALUES[kind]


# With those that pynetdicom adds (JPEG XL), as soon as anything imports it.
importlib.import_module("pynetdicom")
# Without those that are no encoding of a file: of time and video over networks, of XML, and a papyrus's.
SYNTAXES = [
    uid
    for uid, (_, kind, *_) in UID_dictionary.items()
    if kind == "Transfer Syntax" and not re.match(r"1\.2\.840\.10008\.1\.(20|2\.[67])", uid)
]


def test_every_transfer_syntax_is_known() -> None:
    for uid in SYNTAXES:
        assert problems(orthanc_settings={"DicomScuPreferredTransferSyntax": uid}) == []
    for uid in ("1.2.840.10008.1.2.4", "1.2.840.10008.1.2.3", "1.2.840.10008.1.2.1.1", "1.2.840.10008.1.1", "2.25.1"):
        assert problems(orthanc_settings={"DicomScuPreferredTransferSyntax": uid})


SETTINGS = [
    (release, option, kind)
    for release, table in TABLES.items()
    for option, kind in table.items()
    if option not in {*OWN_VARIABLE, "OverwriteInstances"}
]
OWNERS = {section: name for name, plugin in CONSTANTS["__orthanc_plugins"].items() for section in sections(plugin)}
PLUGIN_SETTINGS = [
    (release, section, option, kind)
    for release, table in PLUGIN_TABLES.items()
    for section, known in table.items()
    for option, kind in known.items()
    if f"{section}.{option}" not in OWN_VARIABLE and section in OWNERS
]


@given(st.sampled_from(SETTINGS), st.data())
def test_any_setting_of_the_right_type(setting: tuple[str, str, str], data: st.DataObject) -> None:
    release, option, kind = setting
    assume(option not in ("DicomCheckModalityHost", "SslEnabled"))
    assert problems(orthanc=release, orthanc_settings={option: data.draw(good(option, kind))}) == []


@given(st.sampled_from(SETTINGS), st.data())
def test_any_setting_of_a_wrong_type(setting: tuple[str, str, str], data: st.DataObject) -> None:
    release, option, kind = setting
    wrong = data.draw(st.sampled_from(sorted(set(VALUES) - {kind, "float"}))) if kind != "int" else "float"
    value = data.draw(st.floats() if wrong == "float" else VALUES[wrong])
    found = problems(orthanc=release, orthanc_settings={option: value})
    assert [problem for problem in found if problem.startswith(f"orthanc_settings.{option}: Orthanc wants")]


@given(st.sampled_from(PLUGIN_SETTINGS), st.data())
def test_any_option_of_a_plugin(setting: tuple[str, str, str, str], data: st.DataObject) -> None:
    release, section, option, kind = setting
    host: dict[str, Any] = {"orthanc": release, "orthanc_plugins": [OWNERS[section]]}
    value = data.draw(good(f"{section}.{option}", kind))
    assert problems(**host, orthanc_settings={section: {option: value}}) == []
    wrong = data.draw(VALUES[data.draw(st.sampled_from(sorted(set(VALUES) - {kind, "float"})))])
    (problem,) = problems(**host, orthanc_settings={section: {option: wrong}})
    assert problem.startswith(f"orthanc_settings.{section}.{option}: the plugin wants a value of type {kind}")


@given(st.sampled_from(SETTINGS), st.integers(0, 30), st.sampled_from(string.ascii_letters))
def test_any_misspelled_setting(setting: tuple[str, str, str], place: int, letter: str) -> None:
    release, option, _ = setting
    name = option[:place] + letter + option[place + 1 :]
    assume(all(name not in table for table in TABLES.values()))
    (problem,) = problems(orthanc=release, orthanc_settings={name: 1})
    assert problem.startswith(f"orthanc_settings.{name}: no Orthanc release knows this option. Did you mean '")


@given(st.sampled_from(sorted(settings_check.RANGES)), st.integers())
def test_any_number(option: str, number: int) -> None:
    low, high = settings_check.RANGES[option]
    found = problems(orthanc="1.13.0", orthanc_settings={option: number})
    assert bool(found) == (not low <= number <= high)

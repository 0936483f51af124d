"""Wrong inventories: each stops before the first change, with a sentence that says what to do."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.hosts.certificates import pem
from tests.hosts.conftest import QUICKSTART, Lab

LAB = {"name": "bad", "pacs": "trixie"}
# What a run that changes nothing leaves as it was.
STATE = r"""
find /etc -xdev \( -type f -o -type l \) ! -name os-release ! -name ld.so.cache | sort | xargs sha256sum 2> /dev/null
stat --format '%n %a %U %G' /etc/* /var/lib/*
systemctl list-unit-files --no-pager
dpkg-query --show --showformat '${Package} ${Version} ${Status}\n'
"""


CERTIFICATE, KEY = pem("pacs.example.org")
MODALITY = {"AET": "CT1", "Host": "192.0.2.7", "Port": 104}


@dataclasses.dataclass
class Case:
    """Variables, and the words that the error has to have besides the host's name."""

    variables: dict[str, Any]
    words: list[str]
    # Whether it takes a look at the host; else `make check` says so too.
    look: bool = False


SERVER = {
    "orthanc_database": "postgresql",
    "orthanc_database_host": "192.0.2.7",
    "orthanc_database_password": "long enough",
}
DOCKER = {"orthanc_install_method": "docker"}
CASES = {
    "a port that is text": Case({"orthanc_http_port": "many"}, ["orthanc_http_port", "int"]),
    "a list that is a number": Case({"orthanc_plugins": 7}, ["orthanc_plugins", "list"]),
    "a truth that is none": Case({"orthanc_proxied": "perhaps"}, ["orthanc_proxied", "bool"]),
    "users as a list": Case({"orthanc_users": ["admin"]}, ["orthanc_users", "dict"]),
    "an origin that is a page": Case(
        {"nginx_allowed_origins": ["https://viewer.example.org/app"]}, ["nginx_allowed_origins", "without a path"]
    ),
    "every origin": Case({"nginx_allowed_origins": ["*"]}, ["nginx_allowed_origins", "'*' is no origin"]),
    "a directive that lets everybody in": Case(
        {"nginx_server_directives": {"satisfy": "any"}}, ["nginx_server_directives.satisfy", "who gets in"]
    ),
    "a directive that is two": Case(
        {"nginx_settings": {"keepalive_timeout": "5s; auth_basic off"}},
        ["nginx_settings.keepalive_timeout", "semicolon"],
    ),
    "a server that is shared perhaps": Case({"postgresql_shared": "perhaps"}, ["postgresql_shared", "bool"]),
    "a server that is shared with somebody": Case({"mysql_shared": "wiki"}, ["mysql_shared", "bool"]),
    "patients that are taken out, and no Orthanc where the images are": Case(
        {"orthanc_import_anonymize": True}, ["orthanc_import_anonymize", "set orthanc_import_from to host"]
    ),
    "a login in the address of what is imported": Case(
        {"orthanc_import_sources": ["https://jane:secret@old.example.org/"]},
        ["orthanc_import_sources", "see orthanc_import_source_user"],
    ),
    "patients that are numbers": Case(
        {"orthanc_import_patients": {"0815": 815}}, ["orthanc_import_patients", "in quotes"]
    ),
    "an unknown install method": Case({"orthanc_install_method": "snap"}, ["orthanc_install_method", "apt"]),
    "tarballs without a release": Case({"orthanc_install_method": "source"}, ["orthanc_version", "'1.12.7'"]),
    "no tarball": Case(
        {"orthanc_install_method": "source", "orthanc_version": "1.12.7"},
        ["orthanc_source_tarballs", "no tarball of orthanc and none of orthanc-dicomweb"],
    ),
    "a tarball with a wrong checksum": Case(
        {
            "orthanc_install_method": "source",
            "orthanc_version": "1.12.7",
            "orthanc_source_tarballs": {"orthanc": {"from": __file__, "sha256": "0" * 64}},
        },
        ["orthanc_source_tarballs.orthanc.sha256", "test_bad_input.py has "],
    ),
    "more compilers than there is memory for": Case(
        {
            "orthanc_install_method": "source",
            "orthanc_version": "1.12.7",
            "orthanc_plugins": [],
            "orthanc_source_tarballs": {"orthanc": {"from": "http://192.0.2.7/x", "sha256": "0" * 64}},
            "orthanc_source_jobs": 256,
        },
        ["orthanc_source_jobs", "256 at a time takes 256.0"],
        look=True,
    ),
    "a build host that nobody knows": Case(
        {"orthanc_install_method": "source", "orthanc_source_build_host": "builder"},
        ["orthanc_source_build_host", "'builder' is no host of the inventory"],
    ),
    "binaries without a release": Case({"orthanc_install_method": "lsb"}, ["orthanc_version", "'1.12.7'"]),
    "binaries without checksums": Case(
        {"orthanc_install_method": "lsb", "orthanc_version": "1.12.7"},
        ["orthanc_lsb_checksums", "orthanc/1.12.7/Orthanc", "make lsb-lock INVENTORY="],
    ),
    "binaries of a release that nobody knows": Case(
        {"orthanc_install_method": "lsb", "orthanc_version": "1.99.0"},
        ["orthanc_lsb_plugin_versions", "'dicomweb'", "1.99.0"],
    ),
    "a plugin that there is no binary of": Case(
        {"orthanc_install_method": "lsb", "orthanc_version": "1.12.7", "orthanc_plugins": ["python"]},
        ["orthanc_plugins", "'python'", "lsb"],
    ),
    "a key that is a path": Case(
        {"orthanc_apt_source": "upstream", "orthanc_apt_key": "/etc/apt/orthanc.asc"},
        ["orthanc_apt_key", "ASCII armour"],
    ),
    "an unknown database": Case({"orthanc_database": "oracle"}, ["orthanc_database", "sqlite"]),
    "a misspelled variable": Case({"orthanc_dicomport": 4242}, ["orthanc_dicomport", "'orthanc_dicom_port'"]),
    "a misspelled prefix": Case({"ortanc_users": {}}, ["ortanc_users", "'orthanc_users'"]),
    "a misspelled variable of the proxy": Case({"nginx_timout": 5}, ["nginx_timout", "'nginx_timeout'"]),
    "an unknown plugin": Case({"orthanc_plugins": ["dicomwep"]}, ["orthanc_plugins", "'dicomweb'"]),
    "a plugin for workstations": Case({"orthanc_plugins": ["orthanc-imagej"]}, ["orthanc_plugins", "ImageJ"]),
    "a port out of range": Case({"orthanc_dicom_port": 70000}, ["orthanc_dicom_port", "70000", "65535"]),
    "a port used twice": Case({"orthanc_http_port": 443}, ["orthanc_http_port", "443", "nginx_https_port"]),
    "a port that sshd has": Case({"orthanc_dicom_port": 22}, ["orthanc_dicom_port", "22", "sshd"], look=True),
    "an empty password": Case({"orthanc_users": {"admin": ""}}, ["orthanc_users", "'admin'", "make secrets"]),
    "an empty password of the proxy": Case({"orthanc_proxy_password": ""}, ["orthanc_proxy_password", "make secrets"]),
    "no user at all": Case({"orthanc_users": {}}, ["orthanc_users", "nobody"]),
    "a colon in a user name": Case({"orthanc_users": {"a:b": "long enough"}}, ["orthanc_users", "a:b", "colon"]),
    "a certificate without its key": Case({"nginx_tls_certificate": CERTIFICATE}, ["nginx_tls_private_key", "missing"]),
    "a key without its certificate": Case({"nginx_tls_private_key": KEY}, ["nginx_tls_certificate", "missing"]),
    "a certificate with another key": Case(
        {"nginx_tls_certificate": CERTIFICATE, "nginx_tls_private_key": pem("x")[1]},
        ["nginx_tls_private_key", "belong"],
    ),
    "a certificate for another name": Case(
        {"nginx_tls_certificate": CERTIFICATE, "nginx_tls_private_key": KEY},
        ["nginx_tls_certificate", "pacs.example.org"],
    ),
    "an expired certificate": Case(
        dict(zip(("nginx_tls_certificate", "nginx_tls_private_key"), pem("old.example.org", -1), strict=True))
        | {"nginx_server_name": "old.example.org"},
        ["nginx_tls_certificate", "expired"],
    ),
    "a certificate that is none": Case(
        {"nginx_tls_certificate": "none", "nginx_tls_private_key": KEY}, ["nginx_tls_certificate", "PEM"]
    ),
    "a prefix without its slash": Case({"nginx_prefix": "/orthanc"}, ["nginx_prefix", "/orthanc/"]),
    "a viewer where Orthanc answers": Case(
        {"ohif_enabled": True, "ohif_path": "/studies/"}, ["ohif_path", "Orthanc itself answers at /studies/"]
    ),
    "a viewer that reads elsewhere": Case(
        {"ohif_data_source": {"qidoRoot": "https://demo.example.org"}}, ["ohif_data_source.qidoRoot", "another host"]
    ),
    "a viewer without DICOMweb": Case(
        {"ohif_enabled": True, "orthanc_plugins": []}, ["ohif_enabled", "add dicomweb to orthanc_plugins"]
    ),
    "a name with a space in it": Case({"nginx_server_name": "my pacs"}, ["nginx_server_name", "my pacs"]),
    "a time-out of nothing": Case({"nginx_timeout": 0}, ["nginx_timeout", "86400"]),
    "a title that is too long": Case({"orthanc_aet": "A-TITLE-THAT-IS-TOO-LONG"}, ["orthanc_aet", "16"]),
    "a relative folder": Case({"orthanc_storage_dir": "images"}, ["orthanc_storage_dir", "absolute"]),
    "the packages' own folder": Case({"orthanc_config_dir": "/etc/orthanc"}, ["orthanc_config_dir", "packages"]),
    "a release that is none": Case({"orthanc_version": "newest"}, ["orthanc_version", "1.12.7"]),
    "a release that is not on offer": Case(
        {"orthanc_version": "1.9.7"}, ["orthanc_version", "1.9.7", "1.12.7"], look=True
    ),
    "an image without its tag": Case(
        DOCKER | {"orthanc_docker_image": "orthancteam/orthanc"}, ["orthanc_docker_image", "tag", "26.8.1"]
    ),
    "a user of a registry without a password": Case(
        DOCKER | {"orthanc_docker_registry_user": "reader"}, ["orthanc_docker_registry_password", "empty"]
    ),
    "an unknown pull policy": Case(DOCKER | {"orthanc_docker_pull": "daily"}, ["orthanc_docker_pull", "always"]),
    "an engine's option that has a variable": Case(
        DOCKER | {"docker_engine_settings": {"log-opts": {}}}, ["docker_engine_log_options"]
    ),
    "too little disk": Case(
        {"orthanc_storage_minimum_free_gb": 900000}, ["orthanc_storage_minimum_free_gb", "GiB"], look=True
    ),
    "a folder of others": Case({"orthanc_storage_dir": "/etc/ssh"}, ["orthanc_storage_dir", "others"], look=True),
    "a file system that is not mounted": Case(
        {"orthanc_storage_mount": "/srv/dicom", "orthanc_storage_mark": "hospital"},
        ["orthanc_storage_mount", "nothing is mounted at /srv/dicom"],
        look=True,
    ),
    "dumps among the images": Case(
        {"orthanc_dump_dir": "/var/lib/orthanc/db-v6/dumps"}, ["orthanc_dump_dir", "orthanc_storage_dir"]
    ),
    "an index among others": Case({"orthanc_index_dir": "/etc/apt"}, ["orthanc_index_dir", "others"], look=True),
    "a configuration among others": Case(
        {"orthanc_config_dir": "/etc/ssh"}, ["orthanc_config_dir", "others"], look=True
    ),
    "a folder that is a file": Case(
        {"orthanc_storage_dir": "/etc/hosts"}, ["orthanc_storage_dir", "others"], look=True
    ),
    "a server at no port": Case(
        SERVER | {"orthanc_database_port": 70000}, ["orthanc_database_port", "70000"], look=True
    ),
    "a server with no name": Case(SERVER | {"orthanc_database_host": "a..b"}, ["orthanc_database_host"], look=True),
    "a version of TLS that is a number": Case(
        {"orthanc_dicom_tls_minimum_version": 1.3}, ["orthanc_dicom_tls_minimum_version", "float", "quotes"]
    ),
    "a peer without anything": Case({"orthanc_peers": {"other": []}}, ["orthanc_peers.other", "give Url"]),
    "a port that is nothing": Case({"orthanc_http_port": None}, ["orthanc_http_port", "null"]),
    "a route that is a number": Case({"nginx_refused_routes": [7]}, ["nginx_refused_routes[0]", "str"]),
    "a name with the end of a line": Case({"orthanc_name": "pacs\n"}, ["orthanc_name", "line break"]),
    "a template that leads nowhere": Case(
        {"orthanc_storage_dir": "{{ nowhere.to.be }}"}, ["orthanc_storage_dir", "'nowhere' is undefined"]
    ),
    "a modality by name": Case(
        {"orthanc_modalities": {"ct": MODALITY | {"Host": "ct.example.org"}}}, ["orthanc_modalities.ct", "address"]
    ),
    "a modality without its port": Case(
        {"orthanc_modalities": {"ct": {"AET": "CT1", "Host": "192.0.2.7"}}}, ["orthanc_modalities.ct", "Port"]
    ),
    "a modality with a text for a port": Case(
        {"orthanc_modalities": {"ct": MODALITY | {"Port": "104"}}}, ["orthanc_modalities.ct", "'104'"]
    ),
    "a DICOM port at a URL": Case({"verification_dicom_address": "dicom://pacs:4242"}, ["verification_dicom_address"]),
    "a verifier that nobody knows": Case({"verification_modality": "verifer"}, ["verification_modality", "'verifier'"]),
    "an option that does not exist": Case(
        {"orthanc_settings": {"HttpThreadCount": 50}}, ["orthanc_settings.HttpThreadCount", "'HttpThreadsCount'"]
    ),
    "an option with a wrong type": Case(
        {"orthanc_settings": {"StableAge": "60"}}, ["orthanc_settings.StableAge", "int"]
    ),
    "an option of a later release": Case(
        {"orthanc_settings": {"MaximumRequestBodySizeMB": 1}},
        ["orthanc_settings.MaximumRequestBodySizeMB", "1.13.0"],
        look=True,
    ),
    "a password that everybody tries": Case({"orthanc_users": {"jane": "changeme"}}, ["'jane'", "known-password"]),
    "storing by anyone": Case(
        {"orthanc_settings": {"DicomAlwaysAllowStore": True}}, ["DicomAlwaysAllowStore", "orthanc_accepted_risks"]
    ),
    "Orthanc's own HTTPS": Case({"orthanc_settings": {"SslEnabled": True}}, ["orthanc_settings.SslEnabled", "nginx"]),
    "an option that has a variable": Case(
        {"orthanc_settings": {"HttpPort": 80}}, ["orthanc_settings", "orthanc_http_port"]
    ),
}


@pytest.fixture(scope="module")
def state(lab: Lab) -> str:
    """The state of the host before anything was tried on it, with the package lists as they came."""
    return lab.shell(STATE)


def ended(lab: Lab, state: str, **options: Any) -> str:
    """Run the playbook, which has to end before it changes anything, and return what it said, as one line."""
    done = lab.play(check=False, **options)
    assert done.returncode != 0, f"the run went through:\n{done.stdout}"
    assert "PLAY [Orthanc]" not in done.stdout, "the run went on to the roles"
    assert lab.shell(STATE) == state, "the run has changed the host"
    return re.sub(r"\s+", " ", done.stdout)


def refused(lab: Lab, state: str, words: list[str], **options: Any) -> None:
    """Hold what a run ends with against what it should say."""
    message = ended(lab, state, **options)
    missing = [word for word in words if word not in message]
    assert not missing, f"the error does not say {missing}:\n{message}"


@pytest.fixture(scope="module")
def refusals(lab: Lab, state: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of a site whose hosts have a wrong value each; all are the same machine, to save time."""
    real = yaml.safe_load((lab.folder / "hosts.yml").read_text(encoding="utf-8"))["all"]["hosts"]["pacs"]
    said = ""
    for playbook, look in (("check", False), ("site", True)):
        site = pathlib.Path(shutil.copytree(QUICKSTART, tmp_path_factory.mktemp("wrong") / "site"))
        cases = {f"wrong{number}": case for number, case in enumerate(CASES.values()) if case.look == look}
        hosts = {"hosts": {host: real | case.variables for host, case in cases.items()}}
        groups = {"orthanc": hosts, "nginx": hosts}
        (site / "hosts.yml").write_text(yaml.safe_dump(groups, allow_unicode=True), encoding="utf-8")
        # Of more logins that begin at a time, the one machine's sshd turns some away.
        said += ended(lab, state, playbook=playbook, inventory=site, arguments=("--forks", "8"), timeout=1800)
    return dict(re.findall(r"is wrong for host (\w+): (.*?)(?=Nothing was changed|fatal:|$)", said))


@pytest.mark.parametrize("number, name", list(enumerate(CASES)), ids=CASES)
def test_wrong_value(refusals: dict[str, str], number: int, name: str) -> None:
    said = refusals[f"wrong{number}"]
    missing = [word for word in CASES[name].words if word not in said]
    assert not missing, f"the error does not say {missing}: {said}"


@pytest.fixture
def inventory(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the shipped inventory, to be spoilt."""
    return pathlib.Path(shutil.copytree(QUICKSTART, tmp_path / "site"))


def test_key_given_twice(lab: Lab, state: str, inventory: pathlib.Path) -> None:
    file = inventory / "group_vars" / "all" / "main.yml"
    file.write_text(file.read_text("utf-8") + "orthanc_plugins: []\n", encoding="utf-8")
    refused(lab, state, ["orthanc_plugins", "uplicate"], inventory=inventory)


def test_derived_name(lab: Lab, state: str, inventory: pathlib.Path) -> None:
    (inventory / "group_vars" / "all" / "other.yml").write_text("---\nsite_url: https://x/\n", encoding="utf-8")
    refused(lab, state, ["host pacs", "site_url", "derived"], inventory=inventory)


def test_missing_secret(lab: Lab, state: str, inventory: pathlib.Path) -> None:
    (inventory / "group_vars" / "all" / "users.yml").write_text(
        "---\nnginx_users: {guest: '{{ vault_guest }}'}\n", encoding="utf-8"
    )
    refused(lab, state, ["host pacs", "nginx_users", "vault_guest", "make secrets INVENTORY="], inventory=inventory)


@pytest.fixture
def release(lab: Lab) -> Iterator[None]:
    """A host that says it is an older Debian."""
    lab.shell("cp --preserve /usr/lib/os-release /root/; sed -i s/VERSION_ID=.*/VERSION_ID=11/ /usr/lib/os-release")
    yield
    lab.shell("mv /root/os-release /usr/lib/os-release")


@pytest.mark.usefixtures("release")
def test_old_distribution(lab: Lab, state: str) -> None:
    refused(lab, state, ["host pacs", "debian 11", "Debian from 12"])

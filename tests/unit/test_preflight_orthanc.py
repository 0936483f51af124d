"""What the role orthanc asks of an inventory and a host, but for the options."""

import hashlib
import string
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import database, look
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.good_host import (
    DOCKER,
    LSB,
    POSTGRESQL,
    SUM,
    UPSTREAM,
    dicom_tls,
    host,
    modality,
    notices,
    one_problem,
    pair,
    peer,
    problems,
)

# A release that is older than the one that runs, and what of its index was found.
OLDER = {
    "orthanc_database": "mysql",
    "orthanc_database_host": "127.0.0.1",
    "orthanc_database_password": "Z8nQ2mK4",
    "orthanc_version": "1.10.1",
    "offered": ["1.10.1"],
}
INDEX = {"running": "1.12.7", "where": "the database orthanc on 127.0.0.1", "size": 2**20, "free": 2**20, "revision": 6}

WRONG: list[tuple[dict[str, Any], str, str]] = [
    (POSTGRESQL | {"orthanc_database_password": ""}, "orthanc_database_password", "make secrets"),
    ({"orthanc_import_sources": ["images"]}, "orthanc_import_sources", "neither an absolute path"),
    ({"orthanc_import_sources": ["dicom:nobody"]}, "orthanc_import_sources", "no entry of orthanc_modalities"),
    *(
        ({"orthanc_import_sources": [source]}, "orthanc_import_sources", told)
        for source, told in (
            ("ftp://old.example.org/", "nor a URL"),
            ("https://", "no URL of an archive"),
            ("https://old.example.org/?a=b", "no URL of an archive"),
            ("https://old.example.org:99999/", "no URL of an archive"),
            ("https://[::1/", "no URL of an archive"),
            ("https://jane:Z8nQ2mK4@old.example.org/", "a login is no part of a URL"),
        )
    ),
    *(
        ({"orthanc_import_patients": patients}, "orthanc_import_patients", told)
        for patients, told in (
            ({815: "HOSPITAL-0815"}, "in quotes"),
            ({"0815": 815}, "in quotes"),
            ({"": "A"}, "no PatientID of plain letters"),
            ({"0815": ""}, "no PatientID of plain letters"),
            ({"0815": "Zoë"}, "no PatientID of plain letters"),
            ({"0815": "A\\B"}, "no PatientID of plain letters"),
            ({"0815": "A" * 65}, "no PatientID of plain letters"),
        )
    ),
    *(
        (
            {"orthanc_import_sources": ["dicom:ct"], "orthanc_import_from": "host", **given},
            "orthanc_import_sources",
            "sends its images itself",
        )
        for given in ({"orthanc_import_patients": {"0815": "A"}}, {"orthanc_import_anonymize": True})
    ),
    ({"orthanc_import_anonymize": True}, "orthanc_import_anonymize", "set orthanc_import_from to host"),
    *(
        (
            {"orthanc_import_sources": ["/srv"], "orthanc_import_certificate_file": file},
            "orthanc_import_certificate_file",
            "no file of the control node",
        )
        for file in ("/nowhere.crt", "import.crt", "/etc", pair()[0])
    ),
    ({"orthanc_import_key_file": __file__}, "orthanc_import_certificate_file", "is missing"),
    (
        {"orthanc_import_certificate_file": __file__, "orthanc_import_from": "host"},
        "orthanc_import_certificate_file",
        "goes past the proxy",
    ),
    ({"orthanc_import_source_ca": "/etc/ca.crt"}, "orthanc_import_source_ca", "give its text"),
    ({"orthanc_import_source_password": "Z8nQ2mK4"}, "orthanc_import_source_user", "is missing"),
    ({"orthanc_import_report_dir": "report"}, "orthanc_import_report_dir", "no absolute path"),
    *(
        (
            {"orthanc_import_from": "host", "orthanc_import_report_dir": f"{folder}/"},
            "orthanc_import_report_dir",
            "for the report alone",
        )
        for folder in ("/etc/pacs/orthanc", "/var/lib/orthanc/db-v6")
    ),
    *(
        ({f"orthanc_import_{name}": day}, f"orthanc_import_{name}", "no day")
        for name in ("since", "until")
        for day in ("2026", "20260231", "1.1.2026", "2026010a")
    ),
    ({"orthanc_import_since": "20260102", "orthanc_import_until": "20260101"}, "orthanc_import_since", "later than"),
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
    (UPSTREAM | {"orthanc_apt_url": "/srv/mirror"}, "orthanc_apt_url", "is no address of a site"),
    (UPSTREAM | {"orthanc_apt_suite": "trixie main"}, "orthanc_apt_suite", "is no suite"),
    (UPSTREAM | {"orthanc_apt_key": "/etc/apt/key.asc"}, "orthanc_apt_key", "neither a URL nor a public key"),
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
    ({"orthanc_ready_timeout": 0}, "orthanc_ready_timeout", "out of range"),
    ({"orthanc_ready_timeout": 3601}, "orthanc_ready_timeout", "out of range"),
    ({"orthanc_storage_minimum_free_gb": -1}, "orthanc_storage_minimum_free_gb", "out of range"),
    ({"orthanc_users": {"admin": ""}}, "orthanc_users", "is empty or no text"),
    ({"orthanc_users": {"admin": None}}, "orthanc_users", "is empty or no text"),
    ({"orthanc_users": {"admin": 1234}}, "orthanc_users", "is empty or no text"),
    ({"nginx_users": {}}, "nginx_users", "nobody could log in"),
    ({"orthanc_proxied": False, "orthanc_users": {}}, "orthanc_users", "nobody could log in"),
    ({"orthanc_proxy_password": ""}, "orthanc_proxy_password", "make secrets"),
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
    ({"orthanc_dump_dir": "dumps"}, "orthanc_dump_dir", "not an absolute path"),
    ({"orthanc_dump_dir": "/var/lib/pacs/orthanc"}, "orthanc_dump_dir", "is in /var/lib/pacs (what others have there)"),
    (
        {"orthanc_dump_dir": "/var/lib/orthanc/db-v6/dumps"},
        "orthanc_dump_dir",
        "is in /var/lib/orthanc/db-v6 (orthanc_storage_dir)",
    ),
    *(
        ({f"orthanc_{name}_dir": folder}, f"orthanc_{name}_dir", "a folder of the system or of its users")
        for name in ("config", "storage", "index", "dump")
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
    ({"orthanc_config_dir": "/etc/pacs/ohif"}, "orthanc_config_dir", "is /etc/pacs/ohif (what others have there)"),
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
    ({"orthanc_version": "1.12.7", "withheld": ["1.12.7"]}, "orthanc_version", "a pin below 0 has apt never install"),
    ({"orthanc_version": "1.12.6"}, "orthanc_version", "is not on offer here; the package sources have 1.12.7"),
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
    ({"orthanc_plugins": ["imagej"]}, "orthanc_plugins", "extends ImageJ"),
    ({"orthanc_plugins": ["orthanc-imagej"]}, "orthanc_plugins", "extends ImageJ"),
    ({"orthanc_plugins": ["dicom-web"]}, "orthanc_plugins", "Did you mean 'dicomweb'?"),
    ({"orthanc_plugins": ["zzz"]}, "orthanc_plugins", "there is no plugin 'zzz'."),
    ({"orthanc_plugins": ["housekeeper"], "offered": ["1.10.1"]}, "orthanc_plugins", "came with Orthanc 1.11.0"),
    ({"orthanc_plugins": ["housekeeper"], "release": "12", "offered": []}, "orthanc_plugins", "this host has 1.10.1"),
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
    peer({"Url": "ftp://x"}, "orthanc_peers.other.Url", "is not like https://"),
    peer({"Url": "https://me:secret@pacs2"}, "orthanc_peers.other.Url", "a login has fields of its own"),
    peer({"Username": "me"}, "orthanc_peers.other", "give Url"),
    peer("https://pacs2", "orthanc_peers.other", "give Url"),
    peer(["https://pacs2", "me"], "orthanc_peers.other.Password", "it is missing while Username is given"),
    peer(["https://pacs2", "me", "secret", "more"], "orthanc_peers.other", "give Url"),
    peer({"Url": "https://pacs2", "UserName": "me"}, "orthanc_peers.other.UserName", "Did you mean 'Username'?"),
    peer({"Url": "https://pacs2", "Username": "me"}, "orthanc_peers.other.Password", "it is missing"),
    peer({"Url": "https://pacs2", "Password": "me"}, "orthanc_peers.other.Username", "missing while Password is given"),
    peer({"Url": "https://pacs2", "Username": "me", "Password": ""}, "orthanc_peers.other.Password", "it is missing"),
    peer({"Url": "https://pacs2", "Timeout": "5"}, "orthanc_peers.other.Timeout", "of type int"),
    ({"orthanc_peers": {"o r": ["https://pacs2"]}}, "orthanc_peers.o r", "letters, digits"),
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
    (modality(Host="ct.example.org"), "orthanc_modalities.ct", "is a name"),
    (modality(Host=7), "orthanc_modalities.ct", "compares Host"),
    (modality(Host="2001:db8::7"), "orthanc_modalities.ct", "no DICOM over IPv6"),
    (modality(Manufacturer="Acme"), "orthanc_modalities.ct.Manufacturer", "none of Generic"),
    (modality(AllowStore="yes"), "orthanc_modalities.ct.AllowStore", "of type bool"),
    (modality(AllowStores=True), "orthanc_modalities.ct.AllowStores", "Did you mean 'AllowStore'?"),
    (modality(RetrieveMethod="GET"), "orthanc_modalities.ct.RetrieveMethod", "none of C-MOVE"),
    ({"orthanc_https_ca": "/etc/ssl/ca.crt"}, "orthanc_https_ca", "no certificate in PEM form"),
    ({"orthanc_https_ca": pair(("ca.example.org",), -9, -2)[0]}, "orthanc_https_ca", "expired on"),
    ({"orthanc_client_certificate": pair()[0]}, "orthanc_client_private_key", "it is missing"),
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
    ({"orthanc_journal_days": -1}, "orthanc_journal_days", "out of range"),
    ({"orthanc_journal_mb": -1}, "orthanc_journal_mb", "out of range"),
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
    (
        {"theirs": "1.10.1", "images": -1, "configuration": "/etc/orthanc"},
        "orthanc_version",
        "the Orthanc of /etc/orthanc on this host is 1.10.1, which others set up, and 1.12.7 would open its index with"
        ' no way back. Take it over as it is first, with orthanc_version: "1.10.1"',
    ),
    (
        {"theirs": "1.12.7", "images": 3, "orthanc_install_method": "docker", "orthanc_docker_image": "pacs:1"},
        "orthanc_version",
        "and what orthanc_install_method docker brings would open its index",
    ),
    ({"unread": ["/etc/orthanc/a.json"], "images": 3}, "ansible_host", "/etc/orthanc/a.json is no JSON"),
    (
        OLDER | {"index": INDEX | {"revision": 7}},
        "orthanc_version",
        "Orthanc 1.10.1 comes with orthanc-mysql 4.3, which reads an index up to revision 6 of the schema, and the"
        " database orthanc on 127.0.0.1 has 7. Stay with a newer one",
    ),
    (
        OLDER
        | {"index": INDEX | {"revision": 7}, "orthanc_install_method": "docker"}
        | {"orthanc_docker_image": "registry:5000/jodogne/orthanc-plugins:1.10.1"},
        "orthanc_version",
        "comes with orthanc-mysql 4.3, which reads an index up to revision 6",
    ),
    (
        OLDER | {"orthanc_database": "sqlite", "index": INDEX | {"revision": 1, "where": "the index in /srv/index"}},
        "orthanc_version",
        "Orthanc 1.10.1 would refuse every image, since the index in /srv/index has columns that Orthanc adds from"
        " 1.12.8 on. Stay with 1.12.7 or newer, or have the dump back",
    ),
    (
        OLDER | {"index": INDEX | {"free": 2**20 - 1}},
        "orthanc_dump_dir",
        "which takes up to 1 MiB, and /var/lib/pacs/orthanc/dumps has 1 free. Make room there",
    ),
    ({"free": 2**29}, "orthanc_storage_dir", "0.5 GiB are free at /var/lib/orthanc/db-v6"),
    ({"orthanc_storage_minimum_free_gb": 51}, "orthanc_storage_dir", "asks for 51"),
    (
        {"orthanc_index_dir": "/srv/index", "free_index": 2**29},
        "orthanc_index_dir",
        "0.5 GiB are free at /srv/index",
    ),
]


@pytest.mark.parametrize(
    "changes",
    [
        OLDER | {"index": INDEX},
        # Others decide, and where it is to go.
        OLDER | {"index": INDEX | {"free": 0}, "orthanc_database_lock": False},
        OLDER | {"index": INDEX | {"free": -1}, "orthanc_dump_dir": ""},
        # Of the plugins in other images nobody knows the version.
        OLDER
        | {"index": INDEX | {"revision": 7}, "orthanc_install_method": "docker", "orthanc_docker_image": "pacs:1"},
        OLDER | {"index": INDEX | {"revision": 7}, "orthanc_version": "1.12.7", "offered": ["1.12.7"]},
        OLDER | {"orthanc_database": "sqlite", "index": INDEX | {"revision": 0}},
        OLDER
        | {"orthanc_database": "sqlite", "index": INDEX | {"revision": 1}}
        | {"orthanc_version": "1.12.7", "offered": ["1.12.7"]},
        # One of others that is empty, is the same, is another archive, or is dumped by whoever runs it.
        {"theirs": "1.10.1"},
        {"theirs": "1.12.7", "images": 3},
        {"theirs": "1.10.1", "images": 3, "orthanc_dump_dir": ""},
        {"theirs": "1.10.1", "images": 3, "database": "mysql", "orthanc_database_leave_images_behind": True},
    ],
)
def test_another_release_that_may_come(changes: dict[str, Any]) -> None:
    assert problems(**changes) == []


def test_dump_is_told_beforehand() -> None:
    def told(**changes: Any) -> str:
        asked = {name: value for name, value in (OLDER | changes).items() if name.startswith("orthanc_")}
        return "".join(database.dumped(Orthanc(host(("orthanc",), asked)), INDEX | changes))

    assert told().startswith(
        "orthanc_version: Orthanc 1.10.1 is to take the place of 1.12.7. Before that, the database"
    )
    assert "(1 MiB) is dumped to /var/lib/pacs/orthanc/dumps if its schema may change, in about 1 s; to come" in told()
    there, back = database.SECONDS["mysql"]
    assert f"in about {there * 3} s; to come back would take it about {back * 3} s more." in told(size=3 * 2**30)
    assert "take the place of a stopped one" in told(running="")
    assert not told(orthanc_dump_dir="") + told(orthanc_database_lock=False) + told(size=0)


def test_plugin_that_keeps_the_files_while_the_database_has_the_index_alone() -> None:
    given = POSTGRESQL | {"database": "", "orthanc_plugins": ["delayed-deletion"]}
    assert problems(**given) == []
    assert len(problems(**given, orthanc_database_storage=True)) == 1


@pytest.mark.parametrize(
    "kind, folder, fate",
    [
        ("config", "/etc/pacs/orthanc", "if all that is in it may be removed, `touch /etc/pacs/orthanc/.pacs`"),
        ("storage", "/var/lib/orthanc/db-v6", "if all that is in it may become Orthanc's, `touch /var/lib/orthanc/"),
        ("index", "/index", "may become Orthanc's, `touch /index/.pacs`"),
    ],
)
def test_folder_in_which_others_have_something(kind: str, folder: str, fate: str) -> None:
    """It is told where that very folder is asked for, and may have been changed since it was looked at."""
    (problem,) = problems(orthanc_index_dir="/index", foreign={kind: folder})
    assert problem.startswith(f"orthanc_{kind}_dir: others have something in {folder} on this host, and it would be")
    assert fate in problem
    for other in ("/a", f"{folder}0", "/zzz", ""):
        assert problems(orthanc_index_dir="/index", foreign={kind: other}) == []


@pytest.mark.parametrize("changes, variable, part", WRONG)
def test_one_thing_wrong(changes: dict[str, Any], variable: str, part: str) -> None:
    one_problem(changes, variable, part)


def test_good_host_without_proxy() -> None:
    assert problems(("orthanc", "verification"), orthanc_proxied=False, orthanc_proxy_password="") == []


def test_good_host_that_was_not_asked() -> None:
    good = host(("orthanc", "nginx"), {})
    assert Orthanc(good).release == ""
    assert list(general.problems(good)) == []


def test_good_host_with_a_database() -> None:
    assert problems(("orthanc", "nginx"), **POSTGRESQL, database="") == []
    assert problems(("orthanc", "nginx"), **POSTGRESQL, database="postgresql", images=5) == []
    assert problems(("orthanc", "nginx"), **POSTGRESQL, database="sqlite", images=0) == []
    both = POSTGRESQL | {"orthanc_database_storage": True}
    assert problems(**both, database="postgresql", files="postgresql", images=5) == []
    assert problems(**both, orthanc_database_index=False, files="postgresql", images=5) == []
    assert problems(**POSTGRESQL, images=5, orthanc_database_leave_images_behind=True) == []
    assert problems(**POSTGRESQL, orthanc_settings={"PostgreSQL": {"Lock": False}}) == []


def test_good_host_with_packages_of_upstream() -> None:
    assert problems(**UPSTREAM) == []
    assert problems(**UPSTREAM, orthanc_settings={"OverwriteInstances": "Always"}) == []
    assert problems(**UPSTREAM | {"orthanc_version": "", "orthanc_plugins": ["housekeeper"], "orthanc": "1.10.1"}) == []


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


FAR: dict[str, Any] = {
    "orthanc_modalities": {f"m{n}": [f"CT{n}", f"192.0.2.{n}", 104] for n in range(7)},
    "orthanc_peers": {"archive": {"Url": "https://archive.example.org/"}},
    "verification_modality": "",
}


def test_who_is_out_of_reach_is_told() -> None:
    """And does not stop the run: scanners are off at night."""
    away = ["192.0.2.1 104", "archive.example.org 443"]
    assert problems(**FAR, silent=away) == []
    one, other = notices(**FAR, silent=away)
    assert one.startswith("orthanc_modalities: nothing takes a connection from this host at m1 (192.0.2.1:104). ")
    assert other.startswith("orthanc_peers: nothing takes a connection from this host at archive (archive.example.org:")
    (many,) = notices(**FAR, silent=[f"192.0.2.{n} 104" for n in range(7)])
    assert "m4 (192.0.2.4:104) and 2 more." in many
    assert notices(**FAR, silent=["192.0.2.1 105"]) == []


def test_another_trust_anchor_is_announced() -> None:
    """Everything else of a modality takes no start."""
    certificate, key = pair()
    asked = {"orthanc_dicom_tls_certificate": certificate, "orthanc_dicom_tls_private_key": key}
    asked["orthanc_dicom_tls_trusted"] = f"{certificate}\n"
    same = hashlib.sha256(certificate.strip().encode()).hexdigest()
    for there, told in (("", 0), (same, 0), ("0" * 64, 1)):
        found = [
            text for text in notices(**asked, trusted=there) if text.startswith("orthanc_dicom_tls_trusted: it is an")
        ]
        assert len(found) == told
    assert len(notices(trusted=same)) == 1, "none at all is another one"


def test_titles_of_several_are_told() -> None:
    """Orthanc lets each of them in by its address, and does not know which one is meant by its title."""
    both = {name: {"AET": "WS", "Host": f"192.0.2.{n}", "Port": 104} for n, name in enumerate(("b", "a"))}
    assert problems(orthanc_modalities=both, verification_modality="") == []
    (notice,) = notices(orthanc_modalities=both | {"c": ["C", "192.0.2.9", 104]})
    assert notice.startswith("orthanc_modalities: several have one title (WS is that of a, b). ")
    many = {f"m{n:02}": [f"T{n // 2}", f"192.0.2.{n}", 104] for n in range(14)}
    (notice,) = notices(orthanc_modalities=many)
    assert "T4 is that of m08, m09 and 2 more)" in notice


def test_whom_the_host_is_to_reach() -> None:
    """This machine listens during a verification alone, and where a proxy is asked for peers the host needs no way."""

    def asked(**changes: Any) -> list[str]:
        meant = host(("orthanc",), FAR | changes)
        meant.internal = lambda _role, _name: ["/usr/sbin/Orthanc"]
        found: list[str] = look(meant)["others"]
        return found

    assert asked(verification_modality="m0") == [*(f"192.0.2.{n} 104" for n in range(1, 7)), "archive.example.org 443"]
    assert asked(orthanc_modalities={}, orthanc_settings={"HttpProxy": "192.0.2.9:3128"}) == []
    spoilt = {"orthanc_modalities": {"ct": 7}, "orthanc_peers": {"a": {"Url": "https://a:x/"}, "b": 7}}
    assert asked(**spoilt) == ["None None"]


TITLE = "".join(set(string.printable) - set("\t\n\r\v\f\\"))


@given(st.text(TITLE, min_size=1, max_size=16))
def test_any_good_title(title: str) -> None:
    assume(title.strip())
    assert problems(orthanc_aet=title, **modality(AET=title)) == []


@given(st.text())
def test_any_title(title: str) -> None:
    good = len(title) in range(1, 17) and set(title) <= set(TITLE) and not title.isspace()
    assert bool(problems(orthanc_aet=title)) == (not good)

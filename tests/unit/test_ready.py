"""What the module orthanc_ready finds different from what was asked for."""

from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.modules.orthanc_ready import differences, meaning

ASKED = {"version": "1.12.7", "plugins": ["dicom-web"], "database": "sqlite", "storage": ""}
SYSTEM = {"Version": "1.12.7", "DatabaseBackendPlugin": None}


@pytest.mark.parametrize(
    "asked, system, plugins",
    [
        ({}, {}, ["dicom-web"]),
        ({}, {}, ["dicom-web", "explorer.js"]),
        ({"version": ""}, {"Version": "1.13.0"}, ["dicom-web"]),
        ({"plugins": []}, {}, []),
        ({"database": "postgresql"}, {"DatabaseBackendPlugin": "/x/libOrthancPostgreSQLIndex.so"}, ["dicom-web"]),
        (
            {"database": "mysql", "storage": "mysql"},
            {
                "DatabaseBackendPlugin": "/x/libOrthancMySQLIndex.so.5.0",
                "StorageAreaPlugin": "/x/libOrthancMySQLStorage.so",
            },
            ["dicom-web"],
        ),
    ],
)
def test_no_difference(asked: dict[str, Any], system: dict[str, Any], plugins: list[str]) -> None:
    assert differences(ASKED | asked, SYSTEM | system, plugins) == []


@pytest.mark.parametrize(
    "asked, system, plugins, expected",
    [
        ({}, {"Version": "1.10.1"}, ["dicom-web"], ["orthanc_version asks for 1.12.7, but 1.10.1 runs"]),
        ({}, {}, ["gdcm"], ["did not load: dicom-web"]),
        ({"plugins": ["a", "b"]}, {}, [], ["did not load: a", "did not load: b"]),
        (
            {},
            {"DatabaseBackendPlugin": "/x/libOrthancOther.so"},
            ["dicom-web"],
            ["DatabaseBackendPlugin is /x/libOrthancOther.so"],
        ),
        # Older releases run on SQLite when the plugin of the database is missing.
        (
            {"database": "postgresql"},
            {},
            ["dicom-web"],
            ["asks for postgresql, but DatabaseBackendPlugin is the built-in one"],
        ),
        (
            {"storage": "mysql", "database": "mysql"},
            {"DatabaseBackendPlugin": "MySQL"},
            ["dicom-web"],
            ["StorageAreaPlugin"],
        ),
    ],
)
def test_difference(asked: dict[str, Any], system: dict[str, Any], plugins: list[str], expected: list[str]) -> None:
    found = differences(ASKED | asked, SYSTEM | system, plugins)
    assert len(found) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    "line, variable",
    [
        (
            'E1120 PostgreSQL error: FATAL:  password authentication failed for user "orthanc"',
            "orthanc_database_password",
        ),
        ("E1120 MySQL error: Access denied for user 'orthanc'@'127.0.0.1'", "orthanc_database_password"),
        ("E1120 The PostgreSQL database is locked by another instance of Orthanc", "second site"),
        ("E1120 permission denied for schema public", "own the database"),
        ("E1120 remaining connection slots are reserved", "max_connections"),
        ('E1120 FATAL:  database "pacs" does not exist', "orthanc_database_name"),
        ("E1120 connection to server failed: Connection refused", "orthanc_database_host"),
    ],
)
def test_meaning(line: str, variable: str) -> None:
    assert variable in meaning(line)


def test_no_meaning() -> None:
    assert meaning("E1120 Parameter out of range") == ""

"""What is just right, and what just is not: on both sides of each limit of the preflight."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils import preflight
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general, values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import database, opened
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc

from tests.repository import options
from tests.unit.good_host import (
    POSTGRESQL,
    PROBE,
    UPSTREAM,
    dicom_tls,
    host,
    inner,
    modality,
    notices,
    one_problem,
    pair,
    problems,
    setting,
    tls,
)

LIMITS = [(name, *limit) for role in preflight.ROLES for name, limit in preflight.of(role, "RANGES", {}).items()]


@pytest.mark.parametrize("name, low, high", LIMITS)
def test_number_of_a_role(name: str, low: int, high: int) -> None:
    def said(value: Any) -> list[str]:
        variable, _, field = name.partition(".")
        return list(general.ranges(Host(roles=[], variables={variable: [{field: value}] if field else value})))

    for value in (low, high, str(low)):
        assert said(value) == []
    for value in (low - 1, high + 1):
        assert said(value) == [f"{name}: {value} is out of range; choose a number from {low} to {high}."]


@pytest.mark.parametrize("name, low, high", LIMITS)
def test_number_of_a_role_is_documented(name: str, low: int, high: int) -> None:
    variable, _, field = name.partition(".")
    option = options(preflight.role_of(variable))[variable]
    text = str((option["options"][field] if field else option)["description"])
    assert re.search(rf"\b{low} to {high}\b", text)


@pytest.mark.parametrize("port", [1, 2, 65534, 65535])
def test_port_that_there_is(port: int) -> None:
    assert problems(orthanc_http_port=port) == []
    assert problems(**modality(Port=port)) == []
    assert list(general.ports(Host([], {"mysql_port": port}))) == []


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_port_that_there_is_not(port: int) -> None:
    assert len(list(general.ports(Host([], {"mysql_port": port})))) == 1
    assert len(problems(**modality(Port=port))) == 1


@pytest.mark.parametrize(
    "section, name, value",
    [
        *(("UserMetadata", "Mine", value) for value in (1024, 65535, [1024, "text/plain"], [65535])),
        *(("UserContentType", "Mine", value) for value in (1024, 65535, [1024, "text/plain"])),
        *(("JobsEngineThreadsCount", "ResourceModification", value) for value in (1, 2)),
        *(("Dictionary", tag, ["DA", "Name"]) for tag in ("0011,1010", "00111010", "ffff,FFFF")),
        *(("Dictionary", "0011,1010", ["DA", "Name", *more]) for more in ([1], [1, 1], [1, 1, "Creator"])),
        *(("ExtraMainDicomTags", level, ["A", "B"]) for level in ("Patient", "Study", "Series", "Instance")),
        ("ExtraMainDicomTags", "Study", []),
        *(("Warnings", "W001_TagsBeingReadFromStorage", value) for value in (True, False)),
    ],
)
def test_inner_value_that_orthanc_takes(section: str, name: str, value: Any) -> None:
    assert problems(orthanc_settings={section: {name: value}}) == []


@pytest.mark.parametrize(
    "changes, variable, part",
    [
        *(
            inner("UserMetadata", "Mine", value, f"{value!r} is no number")
            for value in (1023, 65536, True, "1024", 1024.0, [], ["1024"], [1023], None)
        ),
        *(
            inner("JobsEngineThreadsCount", "ResourceModification", value, f"{value!r} is no number of 1 or more")
            for value in (-1, True, "1", 1.0)
        ),
        *(inner("Dictionary", tag, ["DA", "Name"], "no DICOM tag") for tag in ("0011,101", "0011,10101", "0011:1010")),
        *(
            inner("Dictionary", "0011,1010", value, "is not like [LO")
            for value in ([], ["DA"], ["DA", "Name", 1, 1, "Creator", 1], ["DA", 1], [1, "Name"], {"DA": 1, "Name": 2})
        ),
        *(inner("ExtraMainDicomTags", "Study", value, "list of names") for value in (["A", 1], [1, "A"], {"A": 1})),
        *(inner("Warnings", "W001_TagsBeingReadFromStorage", value, "neither true nor") for value in (0, 1, None)),
        setting("HttpThreadsCount", 10_001, "from 1 to 10000"),
        setting("DicomThreadsCount", 1001, "from 1 to 1000"),
        setting("MaximumPduLength", 4095, "from 4096 to 131072"),
        setting("MaximumPduLength", 131_073, "from 4096 to 131072"),
        setting("SslMinimumProtocolVersion", 6, "from 0 to 5"),
        setting("DicomTlsMinimumProtocolVersion", 6, "from 0 to 5"),
    ],
)
def test_inner_value_that_orthanc_does_not_take(changes: dict[str, Any], variable: str, part: str) -> None:
    one_problem(changes, variable, part)


@pytest.mark.parametrize(
    "settings",
    [
        {"HttpTimeout": 0},
        {"SslEnabled": False},
        {"HttpThreadsCount": 1, "DicomThreadsCount": 1000, "MaximumPduLength": 4096, "KeepAliveTimeout": 10},
        {"HttpThreadsCount": 10_000, "DicomThreadsCount": 1, "MaximumPduLength": 131_072},
        {"DicomLossyTranscodingQuality": 1},
        {"DicomLossyTranscodingQuality": 100},
        {"LuaScripts": [], "AcceptedTransferSyntaxes": ["*"]},
        {"OverwriteInstances": False},
    ],
)
def test_setting_that_orthanc_takes(settings: dict[str, Any]) -> None:
    assert problems(orthanc_settings=settings) == []


def test_connections_that_no_proxy_keeps() -> None:
    assert problems(("orthanc",), orthanc_settings={"KeepAliveTimeout": 1}, orthanc_proxied=False) == []


@pytest.mark.parametrize(
    "release, text, part",
    [
        ("1.13.0", "IfChanged", ""),
        ("1.13.0", True, ""),
        ("1.13.1", "Never", ""),
        ("", "Always", ""),
        ("1.12.99", "Always", "Orthanc 1.12.99 knows true and false only, not 'Always'; the texts came with 1.13.0."),
        ("1.13.0", "always", "'always' is none of Never, Always and IfChanged."),
        ("", 1, "1 is none of Never, Always and IfChanged."),
    ],
)
def test_option_that_became_a_text(release: str, text: Any, part: str) -> None:
    found = problems(**UPSTREAM | {"orthanc_version": release}, orthanc_settings={"OverwriteInstances": text})
    assert found == ([f"orthanc_settings.OverwriteInstances: {part}"] if part else [])


@pytest.mark.parametrize(
    "letters, length, good",
    [("a", 1, True), ("a", 32, True), ("a", 33, False), ("_", 32, True), ("1", 1, False), ("ä", 1, False)],
)
@pytest.mark.parametrize("name", ["orthanc_database_name", "orthanc_database_user"])
def test_plain_name(name: str, letters: str, length: int, good: bool) -> None:
    assert (problems(**POSTGRESQL | {"database": "", name: letters * length}) == []) == good


@pytest.mark.parametrize(
    "distribution, release, good",
    [
        ("debian", "12", True),
        ("debian", "14", True),
        ("debian", "11.9", False),
        ("ubuntu", "22.04", True),
        ("ubuntu", "22.10", True),
        ("ubuntu", "21.10", False),
        ("ubuntu", "9.10", False),
    ],
)
def test_release_of_the_distribution(distribution: str, release: str, good: bool) -> None:
    found = general.machine(Host([], {}, probe=PROBE | {"distribution": distribution, "release": release}))
    assert (list(found) == []) == good
    assert list(general.machine(Host([], {}))) == []


@pytest.mark.parametrize(
    "kind, last, told", [("nginx_tls", 30, True), ("nginx_tls", 31, False), ("orthanc_dicom_tls", 31, False)]
)
def test_certificate_that_ends_within_a_month(kind: str, last: int, told: bool) -> None:
    given = tls(("pacs.example.org",), -1, last) if kind == "nginx_tls" else dicom_tls(("pacs",), -1, last)
    assert bool(notices(**given)) == told


def test_certificate_comes_before_the_one_of_its_authority() -> None:
    """The first of several is the server's own."""
    (mine, key), (other, _key) = pair(("pacs.example.org",)), pair(("other.example.org",), -9, -2)
    both: dict[str, Any] = {"nginx_tls_certificate": mine + other, "nginx_tls_private_key": key}
    assert problems(**both) == []
    found = problems(**both | {"nginx_tls_certificate": other + mine})
    assert any("does not belong to nginx_tls_certificate" in problem for problem in found)
    assert any("it is for other.example.org, not for" in problem for problem in found)
    assert any("nginx_tls_certificate: it expired on" in problem for problem in found)
    # Of those that are trusted each one counts.
    said = list(values.pem("x", mine + other))
    assert len(said) == 1
    assert "expired on" in said[0]
    (said_of_first,) = values.pem("x", other + mine)
    assert said_of_first == said[0]
    (early,) = values.pem("x", pair(("pacs",), 2, 9)[0])
    assert "is not valid before" in early
    (early,) = values.pair("nginx_tls", tls(("pacs",), 2, 9))
    assert "is not valid before" in early


@pytest.mark.parametrize(
    "names, name, good",
    [
        (("*.example.org",), "pacs.example.org", True),
        (("*.example.org",), "a.pacs.example.org", False),
        (("*.example.org",), "example.org", False),
        (("PACS.example.org",), "pacs.EXAMPLE.org", True),
        ((), "pacs.example.org", False),
    ],
)
def test_name_that_a_certificate_is_for(names: tuple[str, ...], name: str, good: bool) -> None:
    variables = tls(names) | {"nginx_server_name": name}
    said = list(values.names("nginx_tls_certificate", "nginx_server_name", variables))
    assert (said == []) == good
    if not names:
        assert said == [f"nginx_tls_certificate: it is for no name, not for nginx_server_name '{name}'."]
    assert list(values.names("a", "b", {"a": "none", "b": name})) == []


@pytest.mark.parametrize("release, told", [("1.12.3", True), ("1.12.4", False), ("", False), ("1.13.0", False)])
def test_tls_that_a_release_cannot_be_told(release: str, told: bool) -> None:
    given = UPSTREAM | dicom_tls() | {"orthanc_version": release, "orthanc_dicom_tls_minimum_version": "1.3"}
    assert bool(problems(**given)) == told
    lax = given | {"orthanc_dicom_tls_remote_certificate_required": False, "orthanc_dicom_tls_minimum_version": "1.2"}
    assert any("if there is one" in notice for notice in notices(**lax)) == told


@pytest.mark.parametrize("name", ["LoaderThreads", "ZipLoaderThreads"])
@pytest.mark.parametrize("release, told", [("1.12.9", False), ("1.13.0", True), ("1.14.0", True)])
def test_option_that_is_not_used_any_more(name: str, release: str, told: bool) -> None:
    found = notices(orthanc_version=release, orthanc_settings={name: 4})
    assert any(f"Orthanc {release} does not use it any more" in notice for notice in found) == told


def risks(**changes: Any) -> list[str]:
    refused, told = opened.findings(Orthanc(host(("orthanc",), {"orthanc_version": "1.13.0"} | changes)))
    return [*refused, *told]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"orthanc_users": {"jane": "8letters"}}, False),
        ({"orthanc_users": {"jane": "letters"}}, True),
        ({"orthanc_users": {"jane": "passw0rd!"}}, True),
        ({"orthanc_users": {"JaneDoe99": "janedoe99"}}, True),
        ({"orthanc_users": {"jane": ""}}, False),
        ({"orthanc_version": "1.13.1"}, False),
        ({"orthanc_version": "2.0.0"}, False),
        ({"orthanc_version": "1.12.99"}, True),
        ({"orthanc_settings": {"LimitFindResults": False}}, False),
        ({"orthanc_settings": {"LimitFindResults": 1}}, False),
        ({"orthanc_settings": {"WebDavEnabled": 1}}, False),
        ({"orthanc_peers": {"far": ["http://8.8.8.8/", "https", "x"]}}, True),
        ({"orthanc_peers": {"far": {"Url": "https://8.8.8.8/"}}}, False),
        ({"orthanc_peers": {"named": ["http://example.org/"]}}, False),
        ({"orthanc_modalities": {"far": ["FAR", "10.0.0.1", 104]}}, False),
    ],
)
def test_what_opens_and_what_does_not(changes: dict[str, Any], told: bool) -> None:
    assert bool(risks(**changes)) == told


LEFT: dict[str, Any] = {"orthanc_database_leave_images_behind": False, "orthanc_database_storage": False} | {
    "orthanc_database_index": True,
    "orthanc_database": "sqlite",
    "orthanc_index_dir": "",
    "orthanc_storage_dir": "/data",
}


def left(variables: dict[str, Any], **probe: Any) -> list[str]:
    """Return the variables that are told, with a word for the folder or server."""
    found = database.left_behind(LEFT | variables, PROBE | {"images": 3, "database": "sqlite"} | probe)
    return [sentence.partition(":")[0] for sentence in found]


ELSEWHERE = {"storage": "/old", "index": "/old/index"}
SERVER = {"orthanc_database": "postgresql"}
BEHIND = {"orthanc_database_leave_images_behind": True}


@pytest.mark.parametrize(
    "variables, probe, told",
    [
        ({}, {}, []),
        ({}, {"elsewhere": ELSEWHERE}, ["orthanc_storage_dir", "orthanc_index_dir"]),
        ({}, {"elsewhere": ELSEWHERE, "images": -1}, ["orthanc_storage_dir", "orthanc_index_dir"]),
        ({}, {"elsewhere": ELSEWHERE, "images": 0}, []),
        (BEHIND, {"elsewhere": ELSEWHERE}, []),
        # The index is in the database then.
        (SERVER, {"elsewhere": ELSEWHERE, "database": "postgresql"}, ["orthanc_storage_dir"]),
        (
            SERVER | {"orthanc_database_index": False, "orthanc_database_storage": True},
            {"elsewhere": {"index": "/old/index"}, "files": "postgresql"},
            ["orthanc_index_dir"],
        ),
        ({}, {"lost": ["/data"]}, ["orthanc_storage_dir"]),
        ({}, {"lost": ["/data"], "images": 0}, []),
        ({"orthanc_index_dir": "/index"}, {"lost": ["/index", "/data"]}, ["orthanc_index_dir", "orthanc_storage_dir"]),
        (BEHIND, {"lost": ["/data"]}, ["orthanc_storage_dir"]),
        (SERVER, {"database": "postgresql", "other_server": ["", "wiki"]}, ["orthanc_database_host"]),
        (SERVER, {"database": "mysql", "other_server": ["", "wiki"]}, ["orthanc_database"]),
        (SERVER | BEHIND, {"database": "mysql", "other_server": ["", "wiki"]}, []),
        (SERVER | BEHIND, {"database": "postgresql", "other_server": ["", "wiki"]}, []),
        ({}, {"unread": ["/etc/a", "/etc/b"], "images": 0}, ["ansible_host", "ansible_host"]),
        ({}, {"database": ""}, []),
        ({}, {"database": "postgresql"}, ["orthanc_database"]),
        ({}, {"database": "postgresql", "images": 0}, []),
        ({}, {"files": "mysql"}, ["orthanc_database_storage"]),
        (BEHIND, {"files": "mysql"}, ["orthanc_database_storage"]),
        (SERVER | {"orthanc_database_index": False}, {}, []),
    ],
)
def test_images_that_would_be_left_behind(variables: dict[str, Any], probe: dict[str, Any], told: list[str]) -> None:
    assert left(variables, **probe) == told


@pytest.mark.parametrize("images, words", [(1, "has 1 images in mysql"), (-1, "has an unknown number of images in")])
def test_how_many_images(images: int, words: str) -> None:
    (said,) = database.left_behind(LEFT, PROBE | {"images": images, "database": "mysql"})
    assert words in said

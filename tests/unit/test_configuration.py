"""Reading Orthanc's sample configuration, and the filters over a configuration."""

import json
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.filter.configuration import FilterModule, options_for, secret_sections
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import nearest, sample_options, version_tuple
from ansible_collections.dicom.orthanc.plugins.test import ip_address

from tests.repository import ROOT

TABLES = json.loads((ROOT / "roles/orthanc/files/known_options.json").read_text(encoding="utf-8"))
SAMPLE = """
/** Options of
 *  "NotAnOption": the name is not at the start
 **/
{
  // The name. See "HttpPort": it is another option.
  "Name" : "My {Orthanc} // [really]",
  "HttpPort" : 8042,
  "Ratio" : 1.5,
  "Offset" : -1,
  "AuthenticationEnabled" : true,
  // "Commented" : false,
  /* This is a comment
  "InBlock" : "text",
  */
  "Plugins" : [
  ],
  "DicomModalities" : {
    /**
     * "sample" : [ "SAMPLE", "127.0.0.1", 2000 ]
     **/
    "Nested" : { "Deeper" : 1 },
    // "NestedComment" : 3
  },
  "UserMetadata" :
  {
    // "sample" : 1024
  },
  /**
   * "Starred" : 10
   **/
  "Last" : {}
}
"""


def test_sample_options() -> None:
    assert sample_options(SAMPLE) == {
        "Name": "str",
        "HttpPort": "int",
        "Ratio": "float",
        "Offset": "int",
        "AuthenticationEnabled": "bool",
        "Commented": "bool",
        "InBlock": "str",
        "Plugins": "list",
        "DicomModalities": "dict",
        "UserMetadata": "dict",
        "Starred": "int",
        "Last": "dict",
    }


def test_sample_options_of_two_files() -> None:
    assert sample_options('{\n"First" : 1\n}\n{\n"Second" : "2",\n"First" : "x"\n}\n') == {
        "First": "int",
        "Second": "str",
    }


@pytest.mark.parametrize("sample", ["", "{}", "no JSON at all", "\n\n"])
def test_sample_options_of_nothing(sample: str) -> None:
    assert sample_options(sample) == {}


@pytest.mark.parametrize("release", TABLES)
def test_sample_options_finds_again_what_the_tables_hold(release: str) -> None:
    values = {"bool": "true", "dict": "{\n}", "float": "0.5", "int": "1", "list": "[\n]", "str": '"text"'}
    lines = [f'"{name}" : {values[kind]},' for name, kind in TABLES[release].items()]
    assert sample_options("\n".join(["{", *lines, "}"])) == TABLES[release]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1.12.7", (1, 12, 7)),
        ("13", (13,)),
        ("22.04", (22, 4)),
        ("1.12.7+dfsg-3", (1, 12, 7)),
        ("1.13.0-rc1", (1, 13, 0)),
        ("1.13.0~beta2", (1, 13, 0)),
        ("mainline", ()),
        ("mainline-2024", ()),
        ("", ()),
    ],
)
def test_version_tuple(text: str, expected: tuple[int, ...]) -> None:
    assert version_tuple(text) == expected


@pytest.mark.parametrize(
    "name, expected",
    [("HttpPrt", " Did you mean 'HttpPort'?"), ("httpport", " Did you mean 'HttpPort'?"), ("Zzz", ""), ("", "")],
)
def test_nearest(name: str, expected: str) -> None:
    assert nearest(name, ["DicomAet", "HttpPort"]) == expected


@pytest.mark.parametrize(
    "version, release",
    [("1.10.1", "1.10.1"), ("1.12.6", "1.10.1"), ("1.12.7", "1.12.7"), ("1.12.10", "1.12.7"), ("2.0", "1.13.0")],
)
def test_options_for_takes_the_newest_that_is_not_newer(version: str, release: str) -> None:
    assert options_for(TABLES, version) is TABLES[release]


@pytest.mark.parametrize("version", ["1.9.0", "", "mainline"])
def test_options_for_an_unknown_release_takes_the_oldest(version: str) -> None:
    assert options_for(TABLES, version) is TABLES["1.10.1"]


@pytest.mark.parametrize(
    "section, value",
    [
        ("RegisteredUsers", {}),
        ("OrthancPeers", {"other": ["http://192.0.2.1/", "user", "text"]}),
        ("PostgreSQL", {"Password": "text"}),
        ("Anything", {"At": [{"Depth": {"ApiToken": "text"}}]}),
        ("DicomWeb", {"Servers": {"other": ["http://192.0.2.1/", "user", "text"]}}),
        ("AwsS3Storage", {"SecretKey": "text"}),
        ("AzureBlobStorage", {"AccountKey": "text"}),
        ("SslPassphrase", "text"),
        ("HttpProxy", "user:text@192.0.2.1:3128"),
        ("PostgreSQL", {"ConnectionUri": "postgresql://192.0.2.1/"}),
        ("Anything", ["https://user:text@example.org/"]),
    ],
)
def test_section_is_secret(section: str, value: Any) -> None:
    assert secret_sections({"Name": "PACS", section: value}) == [section]


@pytest.mark.parametrize(
    "section, value",
    [
        ("DicomWeb", {"Enable": True, "Root": "/dicom-web/"}),
        ("DicomModalities", {"a": {"AET": "A", "Host": "192.0.2.1", "Port": 104}}),
        ("PasswordPolicy", {"Password": True}),
        ("Plugins", ["/usr/lib/libToken.so"]),
        ("KeepAlive", True),
        ("HttpProxy", "192.0.2.1:3128"),
        ("OrthancExplorer2", {"Contact": "it@example.org"}),
    ],
)
def test_section_is_no_secret(section: str, value: Any) -> None:
    assert secret_sections({section: value}) == []


def test_filters_are_named() -> None:
    assert set(FilterModule().filters()) == {"option_types", "options_for", "secret_sections"}


@pytest.mark.parametrize(
    "value, expected",
    [
        ("192.0.2.1", True),
        ("2001:db8::1", True),
        ("::", True),
        ("192.0.2.256", False),
        ("192.0.2.1/24", False),
        ("192.0.2.1\n", False),
        ("pacs.example.org", False),
        ("", False),
        (104, False),
        (True, False),
        (None, False),
    ],
)
def test_ip_address(value: Any, expected: bool) -> None:
    assert ip_address.TestModule().tests()["ip_address"](value) is expected

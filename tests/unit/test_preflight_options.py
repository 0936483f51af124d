"""Options of Orthanc and its plugins that it would refuse, misunderstand or ignore."""

import importlib
import re
import string
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import options as known_options
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import product
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.options import IN_DATABASE, OWN_VARIABLE
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary

from tests.repository import options
from tests.unit.good_host import CONSTANTS, POSTGRESQL, UPSTREAM, inner, one_problem, problems, setting

TABLES, PLUGIN_TABLES = (product.tables(name) for name in ("known", "plugin"))
WRONG: list[tuple[dict[str, Any], str, str]] = [
    setting("PythonScript", True, "wants a value of type str", {"orthanc_plugins": ["python"]}),
    setting("ServeFolders", "/srv", "is a dictionary", {"orthanc_plugins": ["serve-folders"]}),
    (POSTGRESQL | {"orthanc_settings": {"MySQL": {}}}, "orthanc_settings.MySQL", "orthanc_database is postgresql"),
    ({"orthanc_settings": {"SslEnabled": True}}, "orthanc_settings.SslEnabled", "does not fit OpenSSL 3"),
    ({"orthanc_settings": {"DicomWeb": True}}, "orthanc_settings.DicomWeb", "is a dictionary"),
    ({"orthanc_settings": {"HttpTimeot": 1}}, "orthanc_settings.HttpTimeot", "Did you mean 'HttpTimeout'?"),
    ({"orthanc_settings": {"Zzzzzz": 1}}, "orthanc_settings.Zzzzzz", "no Orthanc release knows this option."),
    ({"orthanc_settings": {"ZipUseUtf8": True}}, "orthanc_settings.ZipUseUtf8", "first seen in 1.13.0"),
    ({"orthanc_settings": {"HttpTimeout": "60"}}, "orthanc_settings.HttpTimeout", "of type int, not '60' (str)"),
    ({"orthanc_settings": {"HttpTimeout": True}}, "orthanc_settings.HttpTimeout", "of type int, not True (bool)"),
    ({"orthanc_settings": {"OverwriteInstances": 1}}, "orthanc_settings.OverwriteInstances", "knows true and false"),
    setting("OverwriteInstances", "Always", "Orthanc 1.12.7 knows true and false only"),
    setting("OverwriteInstances", "Perhaps", "none of Never, Always and IfChanged", UPSTREAM),
    setting("DicomModalitiesInDatabase", True, "would know nothing of orthanc_modalities any more. Take it out"),
    setting("OrthancPeersInDatabase", True, "would know nothing of orthanc_peers any more"),
    inner("DicomWeb", "ServersInDatabase", True, "would know nothing of orthanc_settings.DicomWeb.Servers any more"),
    (
        {"orthanc_settings_unchecked": {"DicomModalitiesInDatabase": True}},
        "orthanc_settings_unchecked.DicomModalitiesInDatabase",
        "would know nothing of orthanc_modalities any more",
    ),
    setting("HttpTimeout", -1, "choose a number of 0 or more"),
    setting("HttpThreadsCount", 0, "from 1 to"),
    setting("DicomThreadsCount", 0, "from 1 to"),
    setting("KeepAliveTimeout", 9, "from 10 to 86400"),
    setting("KeepAliveTimeout", -1, "of 0 or more", {"orthanc_proxied": False}),
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
    (
        {"orthanc_settings": {"IngestTranscoding": "1.2.840.10008.1.2.4.99"}},
        "orthanc_settings.IngestTranscoding",
        "no transfer syntax of DICOM",
    ),
]


@pytest.mark.parametrize("changes, variable, part", WRONG)
def test_one_thing_wrong(changes: dict[str, Any], variable: str, part: str) -> None:
    one_problem(changes, variable, part)


def test_the_binary_on_the_host_knows_best() -> None:
    """A release that no table has, with an option that no table has."""
    binary = {"version": "1.12.10", "options": {"Tomorrow": "int", "HttpTimeout": "str"}}
    host: dict[str, Any] = {"orthanc": "1.12.10", "binary": binary}
    assert problems(**host, orthanc_settings={"Tomorrow": 1, "HttpTimeout": "60"}) == []
    (problem,) = problems(**host, orthanc_settings={"HttpTimeout": 60})
    assert "wants a value of type str" in problem
    (problem,) = problems(**host, orthanc_settings={"StableAge": 60})
    assert "Orthanc 1.12.10 does not know this option" in problem


def test_options_of_plugins_are_reached() -> None:
    settings = {"PythonScript": "/srv/route.py", "ServeFolders": {"/doc": "/srv"}}
    assert problems(orthanc_settings=settings, orthanc_plugins=["python", "serve-folders"]) == []


@pytest.mark.parametrize("option, variable", OWN_VARIABLE.items())
def test_option_with_a_variable_of_its_own(option: str, variable: str) -> None:
    section, _, name = option.rpartition(".")
    settings = {section: {name: 1}} if section else {option: 1}
    database = POSTGRESQL | {"database": "", "orthanc_database": section.lower()} if "SQL" in section else {}
    (problem,) = problems(orthanc_settings=settings, **database)
    assert problem == f"orthanc_settings.{option}: this option has a variable of its own; set {variable}."
    assert variable.split()[0] in options("orthanc") | options("nginx")


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


# The host of these tests is behind a proxy.
RANGES = known_options.RANGES | known_options.RANGES_PROXIED


def good(option: str, kind: str) -> st.SearchStrategy[Any]:
    """Return values that an option takes."""
    if option in known_options.CHOICES:
        return st.sampled_from(known_options.CHOICES[option].split())
    if option in RANGES:
        return st.integers(*RANGES[option])
    if option in known_options.UIDS:
        return st.sampled_from(SYNTAXES)
    return st.just({}) if option in known_options.INNER else VALUES[kind]


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
    if option not in {*OWN_VARIABLE, *IN_DATABASE, "OverwriteInstances"}
]


OWNERS = {section: name for name, plugin in CONSTANTS["__orthanc_plugins"].items() for section in sections(plugin)}


PLUGIN_SETTINGS = [
    (release, section, option, kind)
    for release, table in PLUGIN_TABLES.items()
    for section, known in table.items()
    for option, kind in known.items()
    if f"{section}.{option}" not in {*OWN_VARIABLE, *IN_DATABASE} and section in OWNERS
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


@given(st.sampled_from(sorted(known_options.RANGES)), st.integers())
def test_any_number(option: str, number: int) -> None:
    low, high = known_options.RANGES[option]
    found = problems(orthanc="1.13.0", orthanc_settings={option: number})
    assert bool(found) == (not low <= number <= high)

"""What an inventory opens is told, with the reason, and may be accepted by name."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import secrets
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import opened
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc

from tests.repository import options
from tests.unit.good_host import host

# For each rule what breaks it, and a word of what is said then.
BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("known-password", {"orthanc_users": {"orthanc": "Orthanc"}}, "'orthanc'"),
    ("known-password", {"orthanc_users": {"jane": "jane"}}, "'jane'"),
    ("known-password", {"orthanc_proxy_password": "changeme"}, "'proxy'"),
    ("known-password", {"orthanc_database_password": "my_password"}, "'orthanc'"),
    ("short-password", {"orthanc_users": {"jane": "x"}}, "'jane'"),
    ("short-password", {"orthanc_proxy_password": "1234567"}, "'proxy' has less than 8 characters"),
    ("no-authentication", {"orthanc_settings": {"AuthenticationEnabled": False}}, "AuthenticationEnabled"),
    ("remote-http", {"orthanc_settings": {"RemoteAccessAllowed": True}}, "RemoteAccessAllowed"),
    ("lua", {"orthanc_settings": {"ExecuteLuaEnabled": True}}, "ExecuteLuaEnabled"),
    ("write-files", {"orthanc_settings": {"RestApiWriteToFileSystemEnabled": True}}, "RestApiWriteToFileSystem"),
    ("store-from-anyone", {"orthanc_settings": {"DicomAlwaysAllowStore": True}}, "DicomAlwaysAllowStore"),
    ("query-by-anyone", {"orthanc_settings": {"DicomAlwaysAllowFind": True}}, "DicomAlwaysAllowFind"),
    ("query-by-anyone", {"orthanc_settings": {"DicomAlwaysAllowMove": True}}, "DicomAlwaysAllowMove"),
    ("webdav", {"orthanc_settings": {"WebDavEnabled": True}}, "WebDavEnabled"),
    ("called-title", {"orthanc_settings": {"DicomCheckCalledAet": False}}, "DicomCheckCalledAet"),
    ("modality-address", {"orthanc_settings": {"DicomCheckModalityHost": False}}, "DicomCheckModalityHost"),
    ("unlimited-answers", {"orthanc_settings": {"LimitFindResults": 0}}, "LimitFindResults"),
    ("unlimited-answers", {"orthanc_settings": {"LimitFindInstances": 0}}, "LimitFindInstances"),
    ("plain-dicom", {"orthanc_modalities": {"far": {"AET": "FAR", "Host": "8.8.8.8", "Port": 104}}}, "8.8.8.8"),
    ("plain-dicom", {"orthanc_modalities": {"far": ["FAR", "2600::1", 104]}}, "2600::1"),
    ("unverified-peers", {"orthanc_settings": {"HttpsVerifyPeers": False}}, "HttpsVerifyPeers"),
    ("plain-peers", {"orthanc_peers": {"far": {"Url": "http://8.8.8.8:8042/"}}}, "http:// at 8.8.8.8"),
    ("plain-peers", {"orthanc_peers": {"far": ["http://[2600::1]/", "user", "key"]}}, "2600::1"),
    ("names-in-logs", {"orthanc_settings": {"DeidentifyLogs": False}}, "DeidentifyLogs"),
    ("names-in-logs", {"orthanc_settings": {"HttpVerbose": True}}, "HttpVerbose"),
    ("recycling", {"orthanc_settings": {"MaximumStorageSize": 100}}, "MaximumStorageSize is 100"),
    ("recycling", {"orthanc_settings": {"MaximumPatientCount": 9, "MaximumStorageMode": "Recycle"}}, "PatientCount"),
    ("unsynced-storage", {"orthanc_settings": {"SyncStorageArea": False}}, "SyncStorageArea"),
    ("known-vulnerabilities", {"orthanc_version": "1.12.7"}, "orthanc_apt_source"),
]
RULES = {rule.name: rule for rule in opened.RULES}


def findings(**changes: Any) -> tuple[list[str], list[str]]:
    plain = changes.pop("plain_secrets", frozenset())
    good = host(("orthanc", "nginx"), {"orthanc_version": "1.13.0"} | changes)
    good.plain_secrets = plain
    return opened.findings(Orthanc(good))


def test_good_site_breaks_no_rule() -> None:
    assert findings() == ([], [])


@pytest.mark.parametrize("name, changes, word", BROKEN)
def test_rule(name: str, changes: dict[str, Any], word: str) -> None:
    found = dict(zip((True, False), findings(**changes), strict=True))
    assert len(found[RULES[name].refused]) == 1
    assert found[not RULES[name].refused] == []
    message = found[RULES[name].refused][0]
    assert word in message
    assert f"add {name} to orthanc_accepted_risks" in message
    assert findings(**changes, orthanc_accepted_risks=[name]) == ([], [])


def test_secret_in_plain_text() -> None:
    refusals, warnings = findings(plain_secrets=frozenset({"orthanc_proxy_password"}))
    assert refusals == []
    assert "orthanc_proxy_password" in warnings[0]


def test_dicom_with_tls_may_come_from_afar() -> None:
    far = {"orthanc_modalities": {"far": ["FAR", "8.8.8.8", 104]}}
    assert findings(**far, orthanc_dicom_tls_certificate="PEM") == ([], [])
    assert findings(**far, orthanc_dicom_tls_certificate="PEM", orthanc_settings={"DicomTlsEnabled": False})[1]


@pytest.mark.parametrize(
    "changes",
    [
        {
            "orthanc_peers": {
                "far": {"Url": "https://8.8.8.8/"},
                "near": ["http://192.168.1.9/"],
                "named": ["http://b/"],
            }
        },
        {"orthanc_settings": {"MaximumStorageSize": 100, "MaximumStorageMode": "Reject"}},
        {"orthanc_settings": {"MaximumStorageSize": 0, "DeidentifyLogs": True, "SyncStorageArea": True}},
    ],
)
def test_what_breaks_no_rule(changes: dict[str, Any]) -> None:
    assert findings(**changes) == ([], [])


def test_every_rule_can_be_accepted_and_is_tried() -> None:
    assert options("orthanc")["orthanc_accepted_risks"]["choices"] == list(RULES)
    assert {name for name, _, _ in BROKEN} | {"plain-secret"} == set(RULES)


@pytest.mark.parametrize(
    "text, names",
    [
        ("orthanc_proxy_password: plain", {"orthanc_proxy_password"}),
        ("all: {hosts: {pacs: {vault_x: 'a b'}}}", {"vault_x"}),
        ("orthanc_users: {jane: plain}", {"orthanc_users.jane"}),
        (
            "orthanc_proxy_password: '{{ vault_orthanc_proxy_password }}'\northanc_users: {jane: '{{ vault_jane }}'}",
            set(),
        ),
        ("orthanc_proxy_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162", set()),
        ("orthanc_proxy_password: ''", set()),
        ("$ANSIBLE_VAULT;1.1;AES256\n6162", set()),
        ("orthanc_name: plain", set()),
        ("a: b: c", set()),
    ],
)
def test_plain_secrets(text: str, names: set[str]) -> None:
    assert secrets.plain(text) == names

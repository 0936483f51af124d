# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an inventory opens that should be closed, each with its reason and a way to accept it knowingly."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import by_field, version_tuple
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import dicom, peers
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc

# The first release without a known hole: CVE-2026-10528 was closed in it.
SAFE_RELEASE = "1.13.0"
# Shorter ones are guessed, whatever they are made of.
SHORTEST = 8
# Logins of Orthanc's samples, of its documentation and of the usual recipes.
WELL_KNOWN = {
    "admin",
    "alicepassword",
    "changeme",
    "demo",
    "my_password",
    "orthanc",
    "orthancpass",
    "orthanctest",
    "pacs",
    "passw0rd!",
    "password",
    "postgres",
    "root",
    "secret",
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """What should not be.

    ``broken`` yields the variables with their values that break the rule. What is refused stops a run,
    anything else is a warning; ``orthanc_accepted_risks`` with the rule's name silences either.
    """

    name: str
    refused: bool
    why: str
    broken: Callable[[Orthanc], Iterator[str]]


def _option(name: str, *bad: Any) -> Callable[[Orthanc], Iterator[str]]:
    """Look at an option that the role has closed and the inventory opens."""

    def broken(orthanc: Orthanc) -> Iterator[str]:
        value = orthanc.settings.get(name)
        if any(value == wrong and type(value) is type(wrong) for wrong in bad):
            yield f"orthanc_settings.{name} is {str(value).lower()}"

    return broken


def _any(*checks: Callable[[Orthanc], Iterator[str]]) -> Callable[[Orthanc], Iterator[str]]:
    def broken(orthanc: Orthanc) -> Iterator[str]:
        for check in checks:
            yield from check(orthanc)

    return broken


def _passwords(orthanc: Orthanc) -> Iterator[tuple[str, str, bool]]:
    """Yield whose password it is, the password, and whether that is one that everybody tries."""
    given = [("orthanc_users", *login) for login in orthanc.variables["orthanc_users"].items()]
    for name in ("orthanc_proxy", "orthanc_database"):
        user, password = (orthanc.variables[f"{name}_{part}"] for part in ("user", "password"))
        given.append((f"{name}_password", user, password))
    for variable, user, password in given:
        if password:
            known = str(password).lower() in WELL_KNOWN | {str(user).lower()}
            yield f"{variable}: the password of '{user}'", str(password), known


def _well_known_password(orthanc: Orthanc) -> Iterator[str]:
    for whose, _, known in _passwords(orthanc):
        if known:
            yield f"{whose} is one that everybody tries"


def _short_password(orthanc: Orthanc) -> Iterator[str]:
    for whose, password, known in _passwords(orthanc):
        if len(password) < SHORTEST and not known:
            yield f"{whose} has less than {SHORTEST} characters"


def _plain_dicom(orthanc: Orthanc) -> Iterator[str]:
    if orthanc.settings.get("DicomTlsEnabled", bool(orthanc.variables["orthanc_dicom_tls_certificate"])):
        return
    for name, modality in orthanc.variables["orthanc_modalities"].items():
        address = by_field(modality, dicom.FIELDS).get("Host")
        if _is_far(address):
            yield f"orthanc_modalities.{name} is at {address}, which is no local network"


def _plain_peers(orthanc: Orthanc) -> Iterator[str]:
    for name, peer in orthanc.variables["orthanc_peers"].items():
        address = re.match(r"http://(\[[^\s/\]]*\]|[^\s/:]*)", str(by_field(peer, peers.FIELDS).get("Url")))
        if address and _is_far(address[1].strip("[]")):
            yield f"orthanc_peers.{name} is http:// at {address[1]}, which is no local network"


def _is_far(address: object) -> bool:
    """Tell whether this is an address beyond the local networks; of a name nobody knows."""
    try:
        return ipaddress.ip_address(str(address)).is_global
    except ValueError:
        return False


def _recycling(orthanc: Orthanc) -> Iterator[str]:
    # Orthanc takes what it does not know for Recycle.
    if orthanc.settings.get("MaximumStorageMode") != "Reject":
        for name in ("MaximumStorageSize", "MaximumPatientCount"):
            if orthanc.settings.get(name):
                yield f"orthanc_settings.{name} is {orthanc.settings[name]}"


def _old_release(orthanc: Orthanc) -> Iterator[str]:
    release = orthanc.release
    if release and version_tuple(release) < version_tuple(SAFE_RELEASE):
        yield f"Orthanc {release} has known vulnerabilities, which {SAFE_RELEASE} closes"


def _plain_secrets(orthanc: Orthanc) -> Iterator[str]:
    for name in sorted(orthanc.host.plain_secrets):
        yield f"{name} stands in a file of the inventory that is not encrypted"


RULES = (
    Rule(
        "known-password",
        True,
        "Take it from a vault_* variable, and let `make secrets` write one",
        _well_known_password,
    ),
    Rule(
        "short-password",
        True,
        "It is guessed in no time; take it from a vault_* variable, and let `make secrets` write one",
        _short_password,
    ),
    Rule(
        "no-authentication",
        True,
        "Every process on the host, and what can be made to send a request there, reads and deletes images",
        _option("AuthenticationEnabled", False),
    ),
    Rule(
        "remote-http",
        True,
        "Passwords and images travel in plain text, past the proxy",
        _option("RemoteAccessAllowed", True),
    ),
    Rule(
        "lua",
        True,
        "Whoever has a login runs programs on the host",
        _option("ExecuteLuaEnabled", True),
    ),
    Rule(
        "write-files",
        True,
        "Whoever has a login writes to the host's files (CVE-2023-33466)",
        _option("RestApiWriteToFileSystemEnabled", True),
    ),
    Rule(
        "store-from-anyone",
        True,
        "Any machine that reaches the DICOM port fills the archive",
        _option("DicomAlwaysAllowStore", True),
    ),
    Rule(
        "query-by-anyone",
        True,
        "Any machine that reaches the DICOM port reads the archive",
        _any(*(_option(f"DicomAlwaysAllow{operation}", True) for operation in ("Find", "FindWorklist", "Get", "Move"))),
    ),
    Rule(
        "unverified-peers",
        True,
        "Whoever is on the way to a peer reads the images and the password",
        _option("HttpsVerifyPeers", False),
    ),
    Rule(
        "webdav",
        False,
        "WebDAV takes and gives images past the rules of the REST API",
        _option("WebDavEnabled", True),
    ),
    Rule(
        "called-title",
        False,
        "A machine that was set up for another server is served as well",
        _option("DicomCheckCalledAet", False),
    ),
    Rule(
        "modality-address",
        False,
        "A title is no secret: who claims that of a modality gets in from any address",
        _option("DicomCheckModalityHost", False),
    ),
    Rule(
        "unlimited-answers",
        False,
        "One query without a filter walks through the whole archive",
        _any(_option("LimitFindResults", 0), _option("LimitFindInstances", 0)),
    ),
    Rule(
        "plain-dicom",
        False,
        "DICOM without TLS can be read on the way; see orthanc_dicom_tls_certificate",
        _plain_dicom,
    ),
    Rule(
        "plain-peers",
        False,
        "Images and the password travel in plain text; give a URL that begins with https://",
        _plain_peers,
    ),
    Rule(
        "names-in-logs",
        False,
        "Names of patients, or what goes over HTTP with its passwords, end up in the journal",
        _any(_option("DeidentifyLogs", False), _option("HttpVerbose", True)),
    ),
    Rule(
        "recycling",
        False,
        "Orthanc deletes the oldest patients once it is full; MaximumStorageMode Reject takes no new ones instead",
        _recycling,
    ),
    Rule(
        "unsynced-storage",
        False,
        "Images that a modality was told are stored, and has deleted, are lost when the power fails",
        _option("SyncStorageArea", False),
    ),
    Rule(
        "plain-secret",
        False,
        "Whoever reads the inventory has it; put it into the vault with `ansible-vault edit`",
        _plain_secrets,
    ),
    Rule(
        "known-vulnerabilities",
        False,
        "Distributions do not mend it; orthanc_apt_source upstream is the way to a current one",
        _old_release,
    ),
)


def findings(orthanc: Orthanc) -> tuple[list[str], list[str]]:
    """Return what stops a run, and what is a warning; what the inventory accepts is in neither."""
    refusals: list[str] = []
    warnings: list[str] = []
    for rule in RULES:
        if rule.name in orthanc.variables["orthanc_accepted_risks"]:
            continue
        for what in rule.broken(orthanc):
            (refusals if rule.refused else warnings).append(
                f"{what}. {rule.why}. If that is meant, add {rule.name} to orthanc_accepted_risks."
            )
    return refusals, warnings

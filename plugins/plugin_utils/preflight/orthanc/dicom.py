# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modalities, and DICOM over TLS."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import by_field, version_tuple
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.entries import NAME, entry, silent
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

MANUFACTURERS = "Generic GenericNoWildcardInDates GenericNoUniversalWildcard Vitrea GE SiemensSyngoCT"
FIELDS = ("AET", "Host", "Port", "Manufacturer")
MODALITY = {
    "AET": "str",
    "Host": "str",
    "Port": "int",
    "Manufacturer": "str",
    "AllowEcho": "bool",
    "AllowFind": "bool",
    "AllowFindWorklist": "bool",
    "AllowGet": "bool",
    "AllowMove": "bool",
    "AllowStore": "bool",
    "AllowStorageCommitment": "bool",
    "AllowNAction": "bool",
    "AllowNEventReport": "bool",
    "AllowTranscoding": "bool",
    "UseDicomTls": "bool",
    "LocalAet": "str",
    "Timeout": "int",
    "RetrieveMethod": "str",
}


def is_aet(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", value)) and bool(value.strip())


def modalities(orthanc: Orthanc) -> Iterator[str]:
    """Modalities that Orthanc would refuse, or that it would never let in."""
    given = orthanc.variables["orthanc_modalities"].items()
    listed = [(f"orthanc_modalities.{name}", str(name), modality) for name, modality in given]
    yield from entries(listed, orthanc.settings.get("DicomCheckModalityHost", True))
    if orthanc.variables["orthanc_balancers"]:
        yield from _balanced(orthanc)


def _balanced(orthanc: Orthanc) -> Iterator[str]:
    """What Orthanc cannot tell apart where all senders have the address of a balancer."""
    for address in orthanc.variables["orthanc_balancers"]:
        if not values.is_address(str(address)):
            yield f"orthanc_balancers: '{address}' is no IP address; give that host an ansible_host that is one."
    if orthanc.settings.get("DicomCheckModalityHost") is True:
        yield (
            "orthanc_settings.DicomCheckModalityHost: behind a balancer every sender has its address, and Orthanc would"
            " refuse them all. Take it out: the balancer compares the addresses then."
        )
    seen: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name, given in orthanc.variables["orthanc_modalities"].items():
        modality = by_field(given, FIELDS)
        first, other = seen.setdefault(str(modality.get("AET")), (name, modality))
        if _rights(modality) != _rights(other):
            yield (
                f"orthanc_modalities.{name}: its title is the one of {first}, and behind a balancer Orthanc knows them"
                " by their titles alone; give both the same rights (AllowStore and others), or a title each."
            )


def entries(given: Iterable[tuple[str, str, Any]], check_host: bool) -> Iterator[str]:
    """The same of a list, of each entry where it stands, its name and what it says.

    :param check_host: whether Orthanc compares their addresses with those of senders.
    """
    seen: dict[tuple[str, str], tuple[str, Mapping[str, Any]]] = {}
    for here, name, modality in given:
        if not NAME.fullmatch(name):
            yield f"{here}: a name has letters, digits, '-' and '_' only."
        modality = by_field(modality, FIELDS)
        if not {"AET", "Host", "Port"} <= set(modality):
            yield f"{here}: give AET, Host and Port, as Orthanc's DicomModalities does."
            continue
        if not is_aet(modality["AET"]):
            yield f"{here}: '{modality['AET']}' is no application entity title of 1 to 16 printable ASCII characters."
        if (
            isinstance(modality["Port"], bool)
            or not isinstance(modality["Port"], int)
            or not 1 <= modality["Port"] <= 65535
        ):
            yield f"{here}: {modality['Port']!r} is not a TCP port; choose a number from 1 to 65535, without quotes."
        if check_host and not values.is_address(modality["Host"]):
            yield (
                f"{here}: Orthanc compares Host with the address of the sender, and '{modality['Host']}' is a name;"
                " give the address, or set orthanc_settings.DicomCheckModalityHost to false."
            )
        elif check_host and ":" in modality["Host"]:
            yield f"{here}: Orthanc has no DICOM over IPv6; give an address of IPv4, and not {modality['Host']}."
        yield from _modality(here, modality)
        first, other = seen.setdefault((str(modality["AET"]), str(modality["Host"])), (here, modality))
        if first != here and (modality["Port"] == other["Port"] or _rights(modality) != _rights(other)):
            yield (
                f"{here}: title and address are those of {first}, and Orthanc would take one for the"
                " other; leave one of them, or give both the same rights (AllowStore and others) and another Port each."
            )


def _rights(modality: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in modality.items() if field.startswith("Allow")}


def _modality(here: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Check what goes beyond title, address and port of a modality."""
    # Those three have been looked at more closely.
    yield from entry(here, {key: value for key, value in given.items() if key not in ("AET", "Host", "Port")}, MODALITY)
    for field, choices in (("Manufacturer", MANUFACTURERS), ("RetrieveMethod", "C-MOVE C-GET SystemDefault")):
        if isinstance(given.get(field), str) and given[field] not in choices.split():
            yield f"{here}.{field}: {given[field]!r} is none of {', '.join(choices.split())}."


def tls(orthanc: Orthanc) -> Iterator[str]:
    """What encrypted DICOM needs, on this side and for the modalities that are sent to."""
    variables = orthanc.variables
    certificate, trusted = (variables[f"orthanc_dicom_tls_{name}"] for name in ("certificate", "trusted"))
    yield from values.pair("orthanc_dicom_tls", variables)
    if trusted:
        yield from values.pem("orthanc_dicom_tls_trusted", str(trusted))
    for name, modality in variables["orthanc_modalities"].items():
        if isinstance(modality, dict) and modality.get("UseDicomTls") and not (certificate and trusted):
            yield (
                f"orthanc_modalities.{name}: UseDicomTls needs orthanc_dicom_tls_certificate, and"
                " orthanc_dicom_tls_trusted to know the modality by."
            )
    if certificate and not trusted and variables["orthanc_dicom_tls_remote_certificate_required"]:
        yield (
            "orthanc_dicom_tls_trusted: it is empty, so no modality could get in; give the certificates to know them"
            " by, or set orthanc_dicom_tls_remote_certificate_required to false."
        )
    newest = variables["orthanc_dicom_tls_minimum_version"] == "1.3"
    if newest and orthanc.release and version_tuple(orthanc.release) < (1, 12, 4):
        yield (
            f"orthanc_dicom_tls_minimum_version: Orthanc {orthanc.release} cannot be told so, which came with"
            " 1.12.4; set it to '1.2'."
        )


def places(orthanc: Orthanc) -> dict[str, str]:
    """Return address and port of each modality but this machine, which does not listen all the time."""
    given = {name: by_field(one, FIELDS) for name, one in orthanc.variables["orthanc_modalities"].items()}
    given.pop(str(orthanc.variables.get("verification_modality")), None)
    return {name: f"{one.get('Host')} {one.get('Port')}" for name, one in given.items()}


def _shared_titles(orthanc: Orthanc) -> Iterator[str]:
    """Titles that several modalities have: who calls is known by the address, whom to call is not."""
    names: dict[str, list[str]] = {}
    for name, modality in sorted(orthanc.variables["orthanc_modalities"].items()):
        names.setdefault(str(by_field(modality, FIELDS).get("AET")), []).append(str(name))
    shared = [f"{title} is that of {', '.join(found)}" for title, found in names.items() if len(found) > 1]
    if shared:
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        yield (
            f"orthanc_modalities: several have one title ({'; '.join(shared[:5])}{more}). What is asked for by C-MOVE"
            " to such a title goes to the first of them by name; give each its own, if they fetch from here."
        )


def notices(orthanc: Orthanc) -> Iterator[str]:
    """Modalities that are not within reach, and what releases before 1.12.4 make of TLS."""
    variables, release = orthanc.variables, orthanc.release
    yield from silent("orthanc_modalities", places(orthanc), (orthanc.probe or {}).get("silent", ()))
    yield from _shared_titles(orthanc)
    there = (orthanc.probe or {}).get("trusted", "")
    wanted = hashlib.sha256(str(variables["orthanc_dicom_tls_trusted"]).strip().encode()).hexdigest()
    if there and there != wanted:
        yield (
            "orthanc_dicom_tls_trusted: it is another one than on the host, and Orthanc reads it at its start alone."
            " This run starts it anew, after all else that it does with it; associations of that moment end, and what"
            " they were to send is to be sent again."
        )
    if not variables["orthanc_dicom_tls_certificate"]:
        return
    yield from values.ending("orthanc_dicom_tls_certificate", variables)
    if not release or version_tuple(release) >= (1, 12, 4):
        return
    required = "orthanc_dicom_tls_remote_certificate_required"
    if not variables[required]:
        yield (
            f"{required}: Orthanc {release} takes false for 'verify a certificate if there is one';"
            " from 1.12.4 on it is 'ask for none'."
        )
    if not orthanc.source["openssl_of_host"]:
        yield (
            f"orthanc_dicom_tls_minimum_version: Orthanc {release} of these binaries cannot be told, and may take"
            " TLS 1.0; use 1.12.4 or newer."
        )
    try:
        key = serialization.load_pem_private_key(str(variables["orthanc_dicom_tls_private_key"]).encode(), None)
    except (ValueError, TypeError):
        return
    # Seen with 1.10.1: all of its ciphers for 1.2 are for RSA.
    if not isinstance(key, rsa.RSAPrivateKey):
        yield (
            f"orthanc_dicom_tls_private_key: with a key other than RSA Orthanc {release} takes TLS 1.3 only, and"
            " modalities that know no more than 1.2 stay outside."
        )

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Orthanc and its plugins would refuse, misunderstand or ignore in silence of their options.

Each limit that stands here ends a real Orthanc of 1.10.1, 1.12.7 or 1.13.0, or is ignored by it without a word.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import fits, nearest, type_of, version_tuple
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Asked, Known, Orthanc

# Options that have a variable of their own, which other parts read too.
OWN_VARIABLE = {
    "DicomAet": "orthanc_aet",
    "DicomModalities": "orthanc_modalities",
    "DicomPort": "orthanc_dicom_port",
    "DicomTlsCertificate": "orthanc_dicom_tls_certificate",
    "DicomTlsPrivateKey": "orthanc_dicom_tls_private_key",
    "DicomTlsRemoteCertificateRequired": "orthanc_dicom_tls_remote_certificate_required",
    "DicomTlsTrustedCertificates": "orthanc_dicom_tls_trusted",
    "DicomWeb.Enable": "orthanc_plugins",
    "DicomWeb.Root": "nginx_prefix",
    "HttpPort": "orthanc_http_port",
    "IndexDirectory": "orthanc_index_dir",
    "MySQL.Database": "orthanc_database_name",
    "MySQL.EnableIndex": "orthanc_database_index",
    "MySQL.EnableSsl": "orthanc_database_tls",
    "MySQL.EnableStorage": "orthanc_database_storage",
    "MySQL.Host": "orthanc_database_host",
    "MySQL.IndexConnectionsCount": "orthanc_database_connections",
    "MySQL.Password": "orthanc_database_password",
    "MySQL.Port": "orthanc_database_port",
    "MySQL.Username": "orthanc_database_user",
    "Name": "orthanc_name",
    "OrthancPeers": "orthanc_peers",
    "Plugins": "orthanc_plugins",
    "PostgreSQL.ConnectionUri": "orthanc_database_host and the others",
    "PostgreSQL.Database": "orthanc_database_name",
    "PostgreSQL.EnableIndex": "orthanc_database_index",
    "PostgreSQL.EnableSsl": "orthanc_database_tls",
    "PostgreSQL.EnableStorage": "orthanc_database_storage",
    "PostgreSQL.Host": "orthanc_database_host",
    "PostgreSQL.IndexConnectionsCount": "orthanc_database_connections",
    "PostgreSQL.Password": "orthanc_database_password",
    "PostgreSQL.Port": "orthanc_database_port",
    "PostgreSQL.Username": "orthanc_database_user",
    "RegisteredUsers": "orthanc_users",
    "StorageDirectory": "orthanc_storage_dir",
}
# With these Orthanc forgets what the inventory says of whom it talks to, and knows only what its database has of them.
IN_DATABASE = {
    "DicomModalitiesInDatabase": "orthanc_modalities",
    "OrthancPeersInDatabase": "orthanc_peers",
    "DicomWeb.ServersInDatabase": "orthanc_settings.DicomWeb.Servers",
}
DATABASE_SECTIONS = {"PostgreSQL": "postgresql", "MySQL": "mysql"}
ENCODINGS = (
    "Ascii Utf8 Latin1 Latin2 Latin3 Latin4 Latin5 Cyrillic Windows1251 Arabic Greek Hebrew Thai Japanese Chinese"
    " JapaneseKanji Korean SimplifiedChinese"
)
_METADATA = "Full MainDicomTags Extrapolate"
CHOICES = {
    "BuiltinDecoderTranscoderOrder": "Before After Disabled",
    "DefaultEncoding": ENCODINGS,
    "DicomDefaultRetrieveMethod": "C-MOVE C-GET",
    "DicomWeb.SeriesMetadata": _METADATA,
    "DicomWeb.StudiesMetadata": _METADATA,
    "Housekeeper.LimitMainDicomTagsReconstructLevel": "Patient Study Series Instance",
    "MaximumStorageMode": "Recycle Reject",
    "StorageAccessOnFind": "Always Answers Never",
}
# The lowest is 0 where nothing stands here.
RANGES = {
    "DicomLossyTranscodingQuality": (1, 100),
    "DicomThreadsCount": (1, 1000),
    "DicomTlsMinimumProtocolVersion": (0, 5),
    "HttpThreadsCount": (1, 10_000),
    "MaximumPduLength": (4096, 131_072),
    "SslMinimumProtocolVersion": (0, 5),
}
# Much longer than nginx keeps an idle connection: where both end it in the same moment, an upload gets 502.
RANGES_PROXIED = {"KeepAliveTimeout": (10, 86_400)}
UIDS = ("DicomScuPreferredTransferSyntax", "IngestTranscoding")
# Lists of texts that are files of the host, and lists that hold anything else than texts.
FILES = ("LuaScripts", "ExternalDictionaries")
# The transfer syntaxes of DICOM, below 1.2.840.10008.1.2, of those that are for files and associations.
_SYNTAX = re.compile(
    r"1\.2\.840\.10008\.1\.2(\.(1(\.9[89])?|2|5|8\.1"
    r"|4\.(5\d|6[0-6]|70|8[01]|9[0-5]|10[0-6](\.1)?|10[78]|11[0-2]|20[1-5])))?"
)


def problems(orthanc: Orthanc) -> Iterator[str]:
    """Options that Orthanc would ignore in silence, or end on."""
    settings, asked, known = orthanc.variables["orthanc_settings"], orthanc.asked, orthanc.known
    if orthanc.variables["orthanc_worklists_table"]:
        # Its script reads what that plugin reads.
        asked = dataclasses.replace(asked, plugins=[*asked.plugins, "worklists"])
    for name, value in settings.items():
        here = f"orthanc_settings.{name}"
        if name in OWN_VARIABLE:
            yield _own(here, name)
        elif name == "SslEnabled" and value is True:
            yield (
                f"{here}: HTTPS is served by nginx; with the distribution's packages the first such"
                " connection would end Orthanc, whose web server does not fit OpenSSL 3. Take it out."
            )
        elif DATABASE_SECTIONS.get(name, asked.database) != asked.database:
            yield f"{here}: orthanc_database is {asked.database}; take it out."
        elif name in DATABASE_SECTIONS or known.readers(name):
            yield from _of_plugin(name, value, asked, known)
        else:
            yield from _of_orthanc(name, value, asked, known)
    for variable in ("orthanc_settings", "orthanc_settings_unchecked"):
        yield from _in_database(variable, orthanc.variables[variable])
    for name in orthanc.variables["orthanc_settings_unchecked"]:
        # Others read these too, so that there is no way around the variable.
        if name in OWN_VARIABLE:
            yield _own(f"orthanc_settings_unchecked.{name}", name)
        elif name in settings:
            yield f"orthanc_settings_unchecked.{name}: it stands in orthanc_settings as well; leave one of them."


def notices(orthanc: Orthanc) -> Iterator[str]:
    """Options that nobody has looked at, or that are not what they seem to be."""
    settings, unchecked = (orthanc.variables[f"orthanc_settings{part}"] for part in ("", "_unchecked"))
    asked, known = orthanc.asked, orthanc.known
    for name, value in settings.items():
        table = _table(known.plugin_options, asked.release, name)
        if not isinstance(value, Mapping) or (name not in DATABASE_SECTIONS and not known.readers(name)):
            continue
        sources = [
            known.plugins[plugin]["source"] for plugin in known.readers(name) if "source" in known.plugins[plugin]
        ]
        if sources and value:
            yield f"orthanc_settings.{name}: its options are not checked; {sources[0]} describes them."
        elif known.tried(name) and not asked.debian_plugins:
            strange = [option for option in value if option not in table]
            if strange:
                yield (
                    f"orthanc_settings.{name}: {', '.join(strange)} is nothing that the plugin of Debian's packages"
                    " knows; another release of it may, so it is passed on without a check."
                )
    if unchecked:
        yield f"orthanc_settings_unchecked: {', '.join(unchecked)} is passed on without a check."
    release = version_tuple(asked.release)
    for name in ("LoaderThreads", "ZipLoaderThreads"):
        if name in settings and release >= (1, 13):
            yield f"orthanc_settings.{name}: Orthanc {asked.release} does not use it any more; take it out."


def _in_database(variable: str, settings: Mapping[str, Any]) -> Iterator[str]:
    for path, entries in IN_DATABASE.items():
        section, _, name = path.rpartition(".")
        options = settings.get(section) if section else settings
        if isinstance(options, Mapping) and options.get(name) is True:
            yield (
                f"{variable}.{path}: Orthanc would know nothing of {entries} any more. Take it out; what the"
                f" database has of them goes to {entries}, which takes effect without a restart too."
            )


def _own(here: str, name: str) -> str:
    return f"{here}: this option has a variable of its own; set {OWN_VARIABLE[name]}."


def _table(tables: Mapping[str, Any], release: str, section: str) -> Mapping[str, str]:
    """Return the options of a section in a release; of all releases together where that one is not known."""
    chosen = [tables[release]] if release in tables else tables.values()
    return {option: kind for table in chosen for option, kind in table.get(section, {}).items()}


def _first(tables: Mapping[str, Mapping[str, Any]], name: str) -> str:
    return next(release for release in sorted(tables, key=version_tuple) if name in tables[release])


def _of_orthanc(name: str, value: Any, asked: Asked, known: Known) -> Iterator[str]:
    here, release = f"orthanc_settings.{name}", asked.release
    types = {option: kind for table in known.options.values() for option, kind in table.items()}
    if name not in types:
        yield f"{here}: no Orthanc release knows this option.{nearest(name, types)}"
    elif release in known.options and name not in known.options[release]:
        yield (
            f"{here}: Orthanc {release} does not know this option;"
            f" it was first seen in {_first(known.options, name)}. Take it out."
        )
    else:
        kind = known.options.get(release, {}).get(name, types[name])
        if name == "OverwriteInstances":
            yield from _overwrite(here, value, release)
        else:
            ranges = RANGES | RANGES_PROXIED if asked.proxied else RANGES
            yield from _value(here, name, value, kind, "Orthanc", ranges)


def _of_plugin(name: str, value: Any, asked: Asked, known: Known) -> Iterator[str]:
    here, readers = f"orthanc_settings.{name}", known.readers(name)
    if readers and not set(readers) & set(asked.plugins):
        yield f"{here}: no plugin that is switched on reads this; add {readers[0]} to orthanc_plugins, or take it out."
        return
    top = _table(known.plugin_options, asked.release, "").get(name)
    if top:
        yield from _value(here, name, value, top, "the plugin")
        return
    if not isinstance(value, Mapping):
        yield f"{here}: a plugin's section is a dictionary, not {value!r}."
        return
    if not known.tried(name):
        return
    table = _table(known.plugin_options, asked.release, name)
    tables = {release: known_then.get(name, {}) for release, known_then in known.plugin_options.items()}
    every = {option for options in tables.values() for option in options}
    for option, inner in value.items():
        path = f"{name}.{option}"
        if path in OWN_VARIABLE:
            yield _own(f"orthanc_settings.{path}", path)
        elif option in table:
            yield from _value(f"orthanc_settings.{path}", path, inner, table[option], "the plugin")
        elif not asked.debian_plugins:
            continue
        elif option in every:
            yield (
                f"orthanc_settings.{path}: the plugin that goes with Orthanc {asked.release} does not know this option;"
                f" it was first seen with {_first(tables, option)}. Take it out."
            )
        else:
            yield f"orthanc_settings.{path}: the plugin does not know this option.{nearest(option, every)}"


def _overwrite(here: str, value: Any, release: str) -> Iterator[str]:
    """Check the option that was a truth up to 1.12 and is a text from 1.13 on, where the truth is still read."""
    if isinstance(value, bool):
        return
    if release and version_tuple(release) < (1, 13):
        yield f"{here}: Orthanc {release} knows true and false only, not {value!r}; the texts came with 1.13.0."
    elif value not in ("Never", "Always", "IfChanged"):
        yield f"{here}: {value!r} is none of Never, Always and IfChanged."


def _value(
    here: str, name: str, value: Any, kind: str, reader: str, ranges: Mapping[str, tuple[int, int]] = RANGES
) -> Iterator[str]:
    """Check the type of a value, and what else is known of it."""
    if not fits(value, kind):
        yield f"{here}: {reader} wants a value of type {kind}, not {value!r} ({type_of(value)})."
        return
    if kind in ("int", "float"):
        low, high = ranges.get(name, (0, float("inf")))
        if not low <= value <= high:
            to = f"from {low} to {high}" if name in ranges else "of 0 or more"
            yield f"{here}: {value} is out of range; choose a number {to}."
    elif name in CHOICES and value not in CHOICES[name].split():
        yield f"{here}: {value!r} is none of {', '.join(CHOICES[name].split())}."
    elif name in UIDS and not _SYNTAX.fullmatch(value):
        yield f"{here}: {value!r} is no transfer syntax of DICOM; write its UID, such as 1.2.840.10008.1.2.1."
    elif kind == "list":
        for item in value:
            if not isinstance(item, str):
                yield f"{here}: its items are texts, not {item!r}."
            elif name in FILES and not item.startswith("/"):
                yield f"{here}: '{item}' is not the absolute path of a file on the host."
    elif name in INNER:
        for key, inner in value.items():
            reason = INNER[name](str(key), inner)
            if reason:
                yield f"{here}.{key}: {reason}"


def _number_of_own(_key: str, value: Any) -> str:
    number = value[0] if isinstance(value, list) and value else value
    if type_of(number) == "int" and 1024 <= number <= 65535:
        return ""
    return f"{value!r} is no number from 1024 to 65535, which are free for a site's own."


def _truth(_key: str, value: Any) -> str:
    return "" if isinstance(value, bool) else f"{value!r} is neither true nor false."


def _count(_key: str, value: Any) -> str:
    return "" if type_of(value) == "int" and value > 0 else f"{value!r} is no number of 1 or more."


def _level(key: str, value: Any) -> str:
    levels = ("Patient", "Study", "Series", "Instance")
    if key not in levels:
        return f"it is none of the levels {', '.join(levels)}."
    good = isinstance(value, list) and all(isinstance(tag, str) for tag in value)
    return "" if good else f"its value is a list of names of DICOM tags, not {value!r}."


def _tag(key: str, value: Any) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{4},?[0-9a-fA-F]{4}", key):
        return "it is no DICOM tag; write it like '0011,1010'."
    good = isinstance(value, list) and 2 <= len(value) <= 5 and all(isinstance(text, str) for text in value[:2])
    return (
        ""
        if good
        else f"{value!r} is not like [LO, NameOfTheTag, 1, 1]: the type, the name, how many at least and at most."
    )


# What is checked inside of a dictionary: from its key and its value to what is wrong with them.
INNER: Mapping[str, Callable[[str, Any], str]] = {
    "Dictionary": _tag,
    "ExtraMainDicomTags": _level,
    "JobsEngineThreadsCount": _count,
    "UserContentType": _number_of_own,
    "UserMetadata": _number_of_own,
    "Warnings": _truth,
}

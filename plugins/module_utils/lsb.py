# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orthanc's download site, or a mirror of it: which files a release needs, and how they are fetched."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

_CHUNK = 1 << 20
# Of silence, in seconds, until a mirror counts as gone.
_PATIENCE = 30


class MirrorError(Exception):
    """What was asked for cannot be had; the message is a sentence that names the variable and the way out."""


def version_of(name: str, package: str, release: str, table: Mapping[str, Mapping[str, str]], named: Any) -> str:
    """Return which version of a plugin goes with a release of Orthanc, or an empty string if that is not known.

    :param name: the plugin as the inventory names it.
    :param package: the component of the download site that it belongs to; those of ``orthanc`` have its version.
    :param table: what is known, by release and component.
    :param named: what the inventory says, by plugin; it wins.
    """
    known = release if package == "orthanc" else table.get(release, {}).get(package, "")
    return str(named.get(name) or known)


def paths(
    release: str, wanted: Mapping[str, Mapping[str, Any]], table: Mapping[str, Mapping[str, str]], named: Any
) -> list[str]:
    """Return the paths below the site's root, ``component/version/file``, of all that a release needs.

    :param wanted: plugins by name, each with its ``package`` and its ``library`` or list of them.
    :raises MirrorError: if that is no release, or it is not known which version of a plugin goes with it.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", release):
        raise MirrorError(f"orthanc_version: '{release}' is no release; the LSB binaries need one, such as '1.12.7'.")
    found = [f"orthanc/{release}/{program}" for program in ("Orthanc", "OrthancRecoverCompressedFile")]
    for name, plugin in wanted.items():
        version = version_of(name, plugin["package"], release, table, named)
        if not version:
            raise MirrorError(
                f"orthanc_lsb_plugin_versions: which version of '{name}' goes with Orthanc {release} is not known here;"
                f" name it, as in {{{name}: '1.0'}}."
            )
        libraries = [plugin["library"]] if isinstance(plugin["library"], str) else plugin["library"]
        found += [f"{plugin['package']}/{version}/{library}" for library in libraries]
    return found


def digest(path: str) -> str:
    """Return the SHA-256 of a file in hexadecimal digits, or an empty string if none can be read."""
    sha256 = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                sha256.update(chunk)
    except OSError:
        return ""
    return sha256.hexdigest()


def trust(ca: str) -> ssl.SSLContext:
    """Return what a mirror is verified by: one authority, in PEM form, or those of the operating system."""
    try:
        context = ssl.create_default_context(cadata=ca or None)
    except (ssl.SSLError, ValueError) as error:
        raise MirrorError("orthanc_lsb_ca: this is no certificate in PEM form.") from error
    # From Python 3.13 on, authorities as hospitals make them would not do: without a key usage, for example.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def fetch(url: str, context: ssl.SSLContext, target: str, variable: str = "orthanc_lsb_url") -> str:
    """Download a file and return its SHA-256 in hexadecimal digits.

    :param target: where to write it.
    :param variable: what of the inventory the address comes from.
    :raises MirrorError: if it does not come, not whole, or does not fit on the disk.
    """
    see = f"see {variable}"
    try:
        answer = urllib.request.urlopen(url, timeout=_PATIENCE, context=context)
    except urllib.error.HTTPError as error:
        if error.code == 404 and variable == "orthanc_lsb_url":
            see = "the mirror does not have it; see orthanc_version and orthanc_lsb_plugin_versions"
        raise MirrorError(f"{url} answers {error.code}: {see}.") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError) and variable == "orthanc_lsb_url":
            see = "see orthanc_lsb_ca"
        raise MirrorError(f"{url} does not answer: {reason}; {see}.") from error
    sha256, size = hashlib.sha256(), 0
    with answer:
        length = answer.headers.get("Content-Length")
        try:
            with open(target, "wb") as file:
                while chunk := _read(answer, url, see):
                    sha256.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
                os.fsync(file.fileno())
        except OSError as error:
            raise MirrorError(
                f"{url} cannot be written to {os.path.dirname(target)}: {error.strerror}; make room there."
            ) from error
    if length and size != int(length):
        raise MirrorError(f"{url} came truncated, {size} of {length} bytes; run again, or {see}.")
    return sha256.hexdigest()


def _read(answer: Any, url: str, see: str) -> bytes:
    try:
        chunk: bytes = answer.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise MirrorError(f"{url} broke off: {error!r}; run again, or {see}.") from error
    return chunk


def fetch_all(url: str, ca: str, targets: Mapping[str, str]) -> dict[str, str]:
    """Download files side by side; return the SHA-256 of each path.

    :param url: the root of the site.
    :param targets: where to write what is at each path.
    :raises MirrorError: for the first that fails.
    """
    context = trust(ca)
    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        sums = pool.map(lambda path: fetch(f"{url.rstrip('/')}/{path}", context, targets[path]), targets)
        return dict(zip(targets, sums, strict=True))

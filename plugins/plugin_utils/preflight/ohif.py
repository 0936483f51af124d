# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role ohif asks of an inventory: a place behind a proxy, and a configuration that leads nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host

# Where Orthanc and its plugins answer, by the first part of a path. The plugin ohif has a viewer of its own there.
ROUTES = {
    *("app", "changes", "exports", "instances", "jobs", "modalities", "patients", "peers", "plugins", "queries"),
    *("series", "statistics", "storage-commitment", "studies", "system", "tools", "worklists"),
    *(
        "auth",
        "dicom-web",
        "education",
        "neuro",
        "osimis-viewer",
        "stl",
        "stone-webviewer",
        "transfers",
        "ui",
        "volview",
    ),
    *("connectivity-checks", "housekeeper", "tcia", "wado", "web-viewer", "webdav", "wsi"),
}
_SETTINGS = ("ohif_settings", "ohif_data_source")
# As browsers read it, for which a backslash is a slash, and white space before it nothing.
_ELSEWHERE = re.compile(r"(?i)([a-z][a-z0-9+.-]*:)?//\S|(blob|file|ftp|https?|javascript|wss?):\S")
_SECRET = re.compile(r"(?i).*(passw|secret|token|authorization|credential|api_?key).*|auth")


def part(host: Host) -> Callable[[str], bool] | None:
    """Tell which variables count: it comes along with a proxy. On Orthanc's host it may be set in vain."""
    return (lambda _name: True) if host.has("nginx") or host.has("orthanc") else None


def of_part(host: Host) -> Iterator[str]:
    variables = host.variables
    yield from values.prefix("ohif_path", variables)
    name = str(variables["ohif_server_name"])
    if name and not values.is_address(name) and not values.HOST_NAME.fullmatch(name):
        yield f"ohif_server_name: '{name}' is neither a host name nor an address; write it like viewer.example.org."
    yield from _package(variables)
    for name in _SETTINGS:
        yield from _told(name, variables[name], set(map(str, variables.get("nginx_users", {}).values())))
    # nginx is told of Orthanc's path first, and has the viewer at its own until then.
    path = (host.probe or {}).get("viewed", "")
    if path and path == variables.get("nginx_prefix"):
        yield (
            f"nginx_prefix: {path} is where this host has the viewer until now; first run site.yml with the"
            " nginx_prefix of before and another ohif_path."
        )
    if variables["ohif_enabled"]:
        yield from _served(host) if host.has("nginx") else _in_vain(host)


def _served(host: Host) -> Iterator[str]:
    """A proxy that is to serve it."""
    if host.site("site_upstreams"):
        names = " and ".join(upstream["orthanc"] for upstream in host.site("site_upstreams"))
        yield (
            f"ohif_enabled: {host.name} stands before the Orthancs of {names}, and a viewer for several is not served"
            " yet; set it to false, or have a proxy for each."
        )
        return
    if not host.site("site_dicomweb"):
        yield "ohif_enabled: the viewer reads images over DICOMweb; add dicomweb to orthanc_plugins."
    yield from _named(host) if host.variables["ohif_server_name"] else _place(host)
    yield from _headers(host.variables.get("nginx_server_directives", {}))
    archive, version = (str(host.variables[f"ohif_{name}"]) for name in ("archive", "version"))
    probe = host.probe or {}
    # Once it is served, nobody asks for the package again.
    if (
        probe.get("viewer_release", "").rpartition("-")[0] == version
        and probe["viewer_path"] == host.variables["ohif_path"]
    ):
        return
    if archive and "://" not in archive and not os.path.isfile(os.path.expanduser(archive)):
        yield f"ohif_archive: there is no file '{archive}' on the machine that runs this; name one, or a URL."


def _headers(directives: Mapping[str, Any]) -> Iterator[str]:
    """What the viewer says itself, and a browser would have twice."""
    given = directives.get("add_header", [])
    names = [str(one).partition(" ")[0].strip("\"'") for one in (given if isinstance(given, list) else [given])]
    for name in names:
        if name.lower() == "content-security-policy":
            yield (
                f"nginx_server_directives.add_header: the viewer has its own {name}, and browsers would have both; take"
                " it out, or set ohif_enabled to false."
            )


def _in_vain(host: Host) -> Iterator[str]:
    """An Orthanc whose proxy does not have the viewer, or that has no proxy."""
    proxies = host.site("site_proxies")
    if not proxies:
        yield (
            "ohif_enabled: the viewer is served by a proxy, and no host of the group 'nginx' stands before this"
            f" Orthanc; put {host.name} or another host there, or take this out."
        )
    elif not any(face["viewer"] for face in host.site("site_faces")):
        name = " and ".join(proxies)
        yield f"ohif_enabled: it is set for {host.name}, whose proxy would serve the viewer; set it for {name} as well."


def _named(host: Host) -> Iterator[str]:
    """A name that is the viewer's alone, with the DICOMweb of the site beside it."""
    variables = host.variables
    name, path = str(variables["ohif_server_name"]), str(variables["ohif_path"])
    if name.lower() == str(variables["nginx_server_name"]).lower():
        yield (
            f"ohif_server_name: '{name}' is the name of Orthanc itself (nginx_server_name); choose another, or leave it"
            " empty (''), and the viewer is at ohif_path there."
        )
    if path.startswith(f"{variables['nginx_prefix']}dicom-web/"):
        yield f"ohif_path: {path} is where DICOMweb answers at {name} as well; leave it out, and the viewer is at /."
    if variables["nginx_balancers"]:
        yield (
            "ohif_server_name: a viewer with a name of its own is not served behind a balancer yet; leave it empty"
            " (''), and it is at ohif_path of each Orthanc's site."
        )
    if variables["nginx_acme_directory"]:
        yield (
            "ohif_server_name: the authority in nginx_acme_directory is asked for a certificate of one name, and the"
            " viewer has another; set nginx_tls_certificate to one for both, or leave this empty ('')."
        )
    elif variables["nginx_tls_certificate"]:
        yield from values.names("nginx_tls_certificate", "ohif_server_name", variables)


def _place(host: Host) -> Iterator[str]:
    """A path that is the viewer's alone."""
    path, prefix = str(host.variables["ohif_path"]), str(host.variables["nginx_prefix"])
    if prefix.startswith(path):
        yield (
            f"ohif_path: {path} is the path of Orthanc (nginx_prefix), or has it below; choose one beside it or below"
            f" it, such as {prefix}ohif/."
        )
    elif path.startswith(prefix):
        route = path.removeprefix(prefix).split("/")[0]
        folders = (host.site("site_behind_settings") or {}).get("ServeFolders") or {}
        folders = folders.get("Folders") or folders if isinstance(folders, dict) else {}
        own = {str(name).strip("/").split("/")[0] for name in folders}
        if "ohif" in (host.site("site_behind_plugins") or ()):
            own.add("ohif")
        if route in ROUTES | own:
            yield f"ohif_path: Orthanc itself answers at {prefix}{route}/; choose another, such as {prefix}viewer/."


def _package(variables: values.Variables) -> Iterator[str]:
    """A package that is known, and where it may be."""
    version, integrity, archive = (str(variables[f"ohif_{name}"]) for name in ("version", "integrity", "archive"))
    if not re.fullmatch(r"\d+\.\d+\.\d+(-[a-z0-9.]+)?", version):
        yield f"ohif_version: '{version}' is no release; write it like 3.13.2."
    if not re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", integrity):
        yield (
            f"ohif_integrity: '{integrity}' is no hash like sha512-WZdx...EA==; `npm view @ohif/app@{version}"
            " dist.integrity` tells it."
        )
    if "://" in archive and not re.fullmatch(values.URL, archive):
        yield f"ohif_archive: '{archive}' is no URL that begins with https:// or http://."
    elif "://" in archive and ("@" in archive or "?" in archive):
        yield (
            "ohif_archive: a login or a token in a URL ends up in logs, and it has '@' or '?' in it; name a URL"
            " without, or fetch the file and name that."
        )


def _told(where: str, value: Any, secrets: set[str]) -> Iterator[str]:
    """What every user would read and should not, and what would lead a browser, with what it knows, to others."""
    if isinstance(value, dict):
        for name, inner in value.items():
            here = f"{where}.{name}"
            if _SECRET.fullmatch(str(name)) and inner:
                yield f"{here}: every user can read it, so it may hold no secret. Take it out."
            else:
                yield from _told(here, inner, secrets)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _told(f"{where}.{number}", inner, secrets)
    elif isinstance(value, str):
        if _ELSEWHERE.match(re.sub(r"[\t\n\r]|^[\x00-\x20]+", "", value).replace("\\", "/")):
            yield (
                f"{where}: it leads to another host, to which the viewer of this site goes for nothing; name a path of"
                " this site, such as /dicom-web."
            )
        if any(secret == value or (len(secret) > 7 and secret in value) for secret in secrets):
            yield f"{where}: this is a password of nginx_users, and every user could read it. Take it out."


def found(host: Host) -> dict[str, Any]:
    """Whether a viewer is there, which may have to go."""
    return {"viewer": (host.probe or {})["viewer"]}

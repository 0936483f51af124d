# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes that lead nowhere, in a circle, or fit nothing."""

from __future__ import annotations

import importlib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import by_field, nearest
from ansible_collections.dicom.orthanc.plugins.module_utils.probe.ports import of_url
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import dicom, peers, scripts
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc

# What has no text that could be compared.
NO_TEXT = ("SQ", "OB", "OW", "OD", "OF", "OL", "OV", "UN", "OB or OW", "AT")


def problems(orthanc: Orthanc) -> Iterator[str]:
    """Find what is wrong with where studies are sent on to."""
    routes = orthanc.variables["orthanc_routes"]
    yield from _webhooks(orthanc)
    if not routes:
        return
    yield from scripts.of_role(orthanc, "orthanc_routes")
    yield from _shared(orthanc, "orthanc_routes")
    for number, route in enumerate(routes):
        here = f"orthanc_routes: entry {number + 1}, to '{route['to']}'"
        yield from _destination(orthanc, here, str(route["to"]))
        yield from conditions(here, route)
        if route in routes[:number]:
            yield f"{here}: it stands there twice; take one out."


def notices(orthanc: Orthanc) -> Iterator[str]:
    """Tell of circles that nobody sees and that would never end."""
    variables = orthanc.variables
    if not variables["orthanc_routes"] or orthanc.settings.get("OverwriteInstances") not in (True, "Always"):
        return
    # Who has sent an image is known by title and address; a peer has neither, and a name is no address.
    hosts = {name: by_field(one, dicom.FIELDS).get("Host") for name, one in variables["orthanc_modalities"].items()}
    unknown = sorted({str(one["to"]) for one in variables["orthanc_routes"] if not _is_address(hosts.get(one["to"]))})
    if unknown:
        yield (
            f"orthanc_routes: with OverwriteInstances a circle over {', '.join(unknown)} would never end, since what"
            " comes back by a peer, or a modality that is given by a name, is taken for new. See that nothing comes"
            " back from there, or leave OverwriteInstances out."
        )


def _is_address(host: Any) -> bool:
    try:
        return bool(ipaddress.ip_address(str(host)))
    except ValueError:
        return False


def _webhooks(orthanc: Orthanc) -> Iterator[str]:
    if not orthanc.variables["orthanc_webhooks"]:
        return
    yield from scripts.of_role(orthanc, "orthanc_webhooks")
    yield from _shared(orthanc, "orthanc_webhooks")
    for number, hook in enumerate(orthanc.variables["orthanc_webhooks"], 1):
        here, url = f"orthanc_webhooks: entry {number}", str(hook["url"])
        if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", url) or not of_url(url) or not url.isascii():
            yield f"{here}: '{url}' is no URL like https://ris.example.org/orthanc; a token has a field of its own."
        elif url.startswith("http:") and not _is_here(orthanc, of_url(url).rpartition(" ")[0]):
            yield f"{here}: '{url}' would have what is told, and a token, pass for all to read; take https."
        if not re.fullmatch(r"[\x21-\x7e]*", str(hook.get("token") or "")):
            yield f"{here}: token has blanks or other characters that no request can have."
        others = [one for one in orthanc.variables["orthanc_webhooks"] if one["url"] == url]
        if any((one.get("token") or "") != (hook.get("token") or "") for one in others):
            yield f"{here}: '{url}' stands there with another token too; give one."
        yield from conditions(here, hook)


def _shared(orthanc: Orthanc, variable: str) -> Iterator[str]:
    name = orthanc.host.name
    sharers = [one for one in orthanc.host.site("site_routers") or () if one != name]
    if sharers:
        yield (
            f"{variable}: {name} and {' and '.join(sharers)} have one database, and each would send or tell what any of"
            " them gets; have it on one of them."
        )


def _destination(orthanc: Orthanc, here: str, name: str) -> Iterator[str]:
    modalities, others = (orthanc.variables[f"orthanc_{kind}"] for kind in ("modalities", "peers"))
    if name in modalities and name in others:
        yield f"{here}: orthanc_modalities and orthanc_peers both have it; give one of them another name."
    elif name in modalities:
        given = by_field(modalities[name], dicom.FIELDS)
        port = orthanc.variables["orthanc_dicom_port"]
        if _is_here(orthanc, given.get("Host")) and str(given.get("Port")) == str(port):
            yield f"{here}: that is this Orthanc itself ({given.get('Host')}:{port}); send it to another one."
    elif name in others:
        url = by_field(others[name], peers.FIELDS).get("Url")
        place = of_url(url) if isinstance(url, str) else ""
        own = [of_url(str(face["url"])) for face in orthanc.host.site("site_faces") or ()]
        own.append(f"127.0.0.1 {orthanc.variables['orthanc_http_port']}")
        address, _, port = place.rpartition(" ")
        if place in own or (_is_here(orthanc, address) and port in [one.rpartition(" ")[2] for one in own]):
            yield f"{here}: that is this Orthanc itself ({url}); send it to another one."
    else:
        yield (
            f"{here}: neither orthanc_modalities nor orthanc_peers has it; add it there."
            f"{nearest(name, [*modalities, *others])}"
        )


def _is_here(orthanc: Orthanc, address: Any) -> bool:
    host = orthanc.host
    names = (host.site("site_hosts") or {}).get(host.name, [])
    try:
        return ipaddress.ip_address(str(address)).is_loopback or address in names
    except ValueError:
        return address == "localhost" or address in names


def conditions(here: str, rule: Mapping[str, Any]) -> Iterator[str]:
    """Look at the tags by which images are chosen."""
    for name in ("when", "unless"):
        for tag, wanted in (rule.get(name) or {}).items():
            if vr(tag) in NO_TEXT:
                yield f"{here}: {tag} has no text that could be compared; name another tag, such as Modality."
            yield from keyword(here, tag)
            if vr(tag) and importlib.import_module("pydicom.datadict").dictionary_is_retired(tag_of(tag)):
                yield f"{here}: {tag} is retired, and Orthanc has another name for it; name another tag."
            texts = wanted if isinstance(wanted, list) else [wanted]
            if not texts or not all(isinstance(text, str) for text in texts):
                yield f"{here}: {tag} has to be a text or a list of texts, with quotes where they look like numbers."


def vr(tag: Any) -> str:
    """Return what DICOM has under a keyword; nothing where it knows none."""
    number = tag_of(tag)
    return "" if number is None else str(importlib.import_module("pydicom.datadict").dictionary_VR(number))


def tag_of(tag: Any) -> int | None:
    """Return the number of a keyword; nothing where DICOM knows none."""
    # Its dictionary takes its time to load.
    number: int | None = importlib.import_module("pydicom.datadict").tag_for_keyword(str(tag))
    return number


def keyword(here: str, tag: Any) -> Iterator[str]:
    if not vr(tag):
        known = importlib.import_module("pydicom.datadict").keyword_dict
        yield f"{here}: DICOM knows no keyword '{tag}'.{nearest(str(tag), known)}"

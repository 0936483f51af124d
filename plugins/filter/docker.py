# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over what Docker says; their documentation stands in the YAML files beside."""

from __future__ import annotations

import re
from collections.abc import Callable

# What Docker says when it cannot have an image, and what it means in the terms of the inventory.
MEANINGS = (
    (
        r"no space left",
        "the disk that holds /var/lib/docker is full; make room, for example with `docker image prune --all`.",
    ),
    (
        r"unauthorized|denied|no basic auth credentials|authentication required",
        "the registry refuses the login, or shows this image to nobody without one; see orthanc_docker_registry_user,"
        " orthanc_docker_registry_password and the name in orthanc_docker_image.",
    ),
    (
        r"manifest unknown|manifest for \S+ not found|name unknown|invalid reference",
        "the registry has no such image or tag; correct orthanc_docker_image.",
    ),
    (
        r"x509|certificate|server gave HTTP response",
        "the registry's certificate is not trusted; see docker_engine_registry_certificates.",
    ),
    (
        r"dial tcp|no such host|refused|time-?out|deadline|unreachable|EOF|misbehaving",
        "the registry does not answer; see orthanc_docker_image, and docker_engine_registry_mirrors where the host has"
        " no way to the internet.",
    ),
)


def image_problem(said: str) -> str:
    """Say in the terms of the inventory why Docker cannot have an image, or nothing if that is not known."""
    return next((meaning for pattern, meaning in MEANINGS if re.search(pattern, said, re.IGNORECASE)), "")


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"image_problem": image_problem}

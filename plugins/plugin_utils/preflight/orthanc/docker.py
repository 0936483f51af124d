# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orthanc in a container."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc

# Registry, path, and the tag or digest without which it would be whatever is newest.
_IMAGE = re.compile(
    r"([A-Za-z0-9.-]+(:\d+)?/)?[a-z0-9._-]+(/[a-z0-9._-]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|(:[\w.-]+)?@sha256:[0-9a-f]{64})"
)


def look(orthanc: Orthanc) -> dict[str, str]:
    if orthanc.variables["orthanc_docker_pull"] == "always":
        # It may be another one by then.
        return {}
    answers = str(orthanc.host.internal("orthanc", "__orthanc_answers"))
    return {"image": str(orthanc.variables["orthanc_docker_image"]), "answers": answers}


def problems(orthanc: Orthanc) -> Iterator[str]:
    """The image of Orthanc and what its container gets of the host."""
    variables = orthanc.variables
    image = str(variables["orthanc_docker_image"])
    if not _IMAGE.fullmatch(image):
        yield (
            f"orthanc_docker_image: '{image}' is no image with its tag or digest;"
            " write it like orthancteam/orthanc:26.8.1 or registry.example.org:5000/orthanc:26.8.1."
        )
    elif image.endswith(":latest"):
        yield f"orthanc_docker_image: '{image}' may be another Orthanc tomorrow; name a tag that says which."
    user, password = variables["orthanc_docker_registry_user"], variables["orthanc_docker_registry_password"]
    if bool(user) != bool(password):
        given, other = ("user", "password") if user else ("password", "user")
        yield f"orthanc_docker_registry_{other}: it is empty while orthanc_docker_registry_{given} is given."
    if ":" in str(user):
        yield f"orthanc_docker_registry_user: '{user}' has a colon in it, which no registry takes."
    folder = str(variables["orthanc_docker_plugin_dir"])
    if not re.fullmatch(r"/[^\s:%\\\"'$]+", folder):
        yield f"orthanc_docker_plugin_dir: '{folder}' is not an absolute path without white space, quotes or colon."
    for volume in variables["orthanc_docker_volumes"]:
        if not re.fullmatch(r"/[^\s:%\\\"'$]*:/[^\s:%\\\"'$]+(:(ro|rw))?", volume):
            yield f"orthanc_docker_volumes: '{volume}' is not like /srv/scripts:/srv/scripts:ro."
    memory = str(variables["orthanc_docker_memory"])
    if not re.fullmatch(r"0|[1-9]\d*[mg]", memory):
        yield f"orthanc_docker_memory: '{memory}' is no amount of memory; write it like 512m or 8g, or 0 for no limit."

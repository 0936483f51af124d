# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role certificates asks of an inventory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host

RANGES = {"certificates_days": (2, 825), "certificates_renew_days": (1, 824)}
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,62}[A-Za-z0-9])?")


def problems(host: Host) -> Iterator[str]:
    variables = host.variables
    if int(variables["certificates_renew_days"]) >= int(variables["certificates_days"]):
        yield "certificates_renew_days: it has to be less than certificates_days, else each run would make all anew."
    machines, hosts = variables["certificates_machines"], variables["certificates_hosts"]
    for name in machines:
        if not _NAME.fullmatch(name):
            yield f"certificates_machines: '{name}' is no address, and no name of letters, digits, dots and hyphens."
        elif name in hosts or machines.count(name) > 1:
            yield f"certificates_machines: '{name}' stands there twice, or is a host of the inventory."
    for name, others in hosts.items():
        if not isinstance(others, list) or not all(
            isinstance(other, str) and re.fullmatch(r"\S+", other) for other in others
        ):
            yield f"certificates_hosts.{name}: it has to be a list of names and addresses."
    for variable in ("certificates_made", "certificates_private_keys"):
        for name, text in variables[variable].items():
            if not isinstance(text, str) or "-----BEGIN " not in text:
                yield f"{variable}.{name}: this is no PEM text; `make certificates` writes it, and nobody else."

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses a database server; the documentation of the filter stands in the YAML file beside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Client = Mapping[str, Any]


def at_addresses(clients: Iterable[Client], found: Mapping[str, list[str]]) -> list[Client]:
    """Return each client once for each of its addresses, where those of its name are known."""
    return [
        {**client, "address": address}
        for client in clients
        for address in found.get(str(client["address"])) or [client["address"]]
    ]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., list[Client]]]:
        return {"at_addresses": at_addresses}

"""The disks, and the storage folder held against the index."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from verification.expect import expect
from verification.reach import Host
from verification.risks import MEGABYTES
from verification.site import Site

FILES = (pathlib.Path(__file__).parents[1] / "plugins" / "module_utils" / "archive_files.py").read_text("utf-8")
# A probe must not take minutes.
MOST = 200_000


def named(found: dict[str, Any]) -> list[str]:
    names: list[str] = found["first"]
    more = found["count"] - len(names)
    return [*names, f"and {more} more"] if more else names


def test_inside_disks_have_room(inside: dict[str, Any]) -> None:
    full = {path: free // 2**20 for path, free in inside["room"].items() if free < MEGABYTES << 20}
    expect(f"folders with less than {MEGABYTES} MB free, with what they have", {}, full, "df; docs/operations.md")


def test_inside_every_file_is_there(site: Site, host: Host, inside: dict[str, Any], facts: dict[str, str]) -> None:
    if site.database_storage or inside["system"].get("StorageAreaPlugin"):
        pytest.skip("a plugin keeps the DICOM files")
    engine = site.database if site.database_index else "sqlite"
    arguments = ("/usr/bin/python3 -c %s %s %s %s %s", FILES, site.config_dir, site.storage_dir, engine, str(MOST))
    found: dict[str, Any] = json.loads(host.check_output(*arguments))
    missing, orphans = found["missing"], found["orphans"]
    if found["reason"]:
        facts["Orphans"] = f"not counted: {found['reason']}"
    elif orphans["count"]:
        names = ", ".join(named(orphans))
        facts["Orphans"] = f"{orphans['count']} files with {found['bytes']} bytes that the index does not know: {names}"
    else:
        facts["Orphans"] = "none"
    see = f"{site.storage_dir}; docs/operations.md, which tells how to send them again"
    expect("resources of which a file is missing or cut off in the storage folder", [], named(missing), see)

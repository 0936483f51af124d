# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Worklists that nobody would get."""

from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils import preflight
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import scripts
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.folders import CLOSED_FOLDERS
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc

FOLDER, TABLE = "orthanc_worklists_dir", "orthanc_worklists_table"
DEFAULT = "/var/lib/orthanc/worklists"
# Options of the plugin worklists that hold with a table too.
HEEDED = ("FilterIssuerAet", "LimitAnswers")
# So many lines are told; the rest is counted.
TOLD = 5


def problems(orthanc: Orthanc) -> Iterator[str]:
    """Find what is wrong with where worklists come from."""
    variables = orthanc.variables
    folder, table = str(variables[FOLDER]), str(variables[TABLE])
    misplaced = list(_place(FOLDER, folder))
    yield from misplaced
    if folder != DEFAULT and not misplaced:
        if "worklists" not in variables["orthanc_plugins"] and not table:
            yield f"{FOLDER}: the plugin worklists answers with what is in it; add it to orthanc_plugins."
        for name in ("orthanc_settings", "orthanc_settings_unchecked"):
            given = variables[name].get("Worklists")
            if isinstance(given, dict) and {"Database", "Directory"} & given.keys():
                yield f"{name}.Worklists: it names a folder too, and {FOLDER} has another one; leave one of them out."
    if not table:
        return
    yield from scripts.of_role(orthanc, TABLE)
    unchecked = variables["orthanc_settings_unchecked"].get("Worklists")
    if unchecked is not None:
        yield (
            f"orthanc_settings_unchecked.Worklists: the script that reads {TABLE} knows {' and '.join(HEEDED)}, and"
            " would pass over the rest; have them in orthanc_settings.Worklists."
        )
    given = variables["orthanc_settings"].get("Worklists")
    for name in given if isinstance(given, dict) else ():
        if name not in HEEDED:
            yield (
                f"orthanc_settings.Worklists.{name}: the script that reads {TABLE} knows {' and '.join(HEEDED)} alone;"
                " take it out."
            )
    if "worklists" in variables["orthanc_plugins"]:
        yield (
            f"{TABLE}: Orthanc asks one plugin for worklists, and the script that reads the table answers with those of"
            f" {FOLDER} as well; take worklists out of orthanc_plugins."
        )
    if variables[f"{TABLE}_from"] == "host":
        yield from _place(TABLE, table)
    else:
        yield from _read(orthanc, table)[0]


def notices(orthanc: Orthanc) -> Iterator[str]:
    """Tell of lines that are left out, since the others are answered all the same."""
    table = str(orthanc.variables[TABLE])
    if table and orthanc.variables[f"{TABLE}_from"] == "control":
        wrong = _read(orthanc, table)[1]
        for line, why in sorted(wrong.items())[:TOLD]:
            yield f"{TABLE}: line {line} is left out: {why}."
        if len(wrong) > TOLD:
            yield f"{TABLE}: {len(wrong) - TOLD} more lines are left out."


def _place(variable: str, path: str) -> Iterator[str]:
    if not re.fullmatch(r"/[^\s:%\\\"']*", path) or not values.is_folder(path) or path == "/":
        yield f"{variable}: '{path}' is not an absolute path without white space, quotes, colon or percent sign."
    elif path.startswith(tuple(f"{folder}/" for folder in CLOSED_FOLDERS)):
        yield f"{variable}: Orthanc does not see what is in {path}; choose a place such as /srv/worklists."


def _read(orthanc: Orthanc, table: str) -> tuple[list[str], dict[int, str]]:
    """Return what is wrong with a table of the control node as a whole, and with its lines."""
    file = os.path.expanduser(table)
    if not os.path.isabs(file) or not os.path.isfile(file) or not os.access(file, os.R_OK):
        return [f"{TABLE}: '{table}' is no file of the control node that can be read, by its absolute path."], {}
    script, content = _script(), pathlib.Path(file).read_bytes()
    try:
        content.decode("utf-8")
        encoding = str(orthanc.variables["orthanc_settings"].get("DefaultEncoding") or "Latin1")
        return [], script.rows(content, encoding)[1]
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return [f"{TABLE}: '{table}' is no text in UTF-8, by its line {line}; save it as UTF-8."], {}
    except script.Problem as error:
        return [f"{TABLE}: '{table}': {error}."], {}


@functools.cache
def _script() -> Any:
    """Load what reads it on the host."""
    file = preflight.ROOT / "roles" / "orthanc" / "files" / "pacs_worklist_table.py"
    spec = importlib.util.spec_from_file_location("pacs_worklist_table", file)
    if not spec or not spec.loader:
        raise ImportError(str(file))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

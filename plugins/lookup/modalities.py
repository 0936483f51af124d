# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modalities out of a table."""

from __future__ import annotations

DOCUMENTATION = r"""
name: modalities
short_description: The modalities of a CSV file, for orthanc_modalities
version_added: 0.2.0
author: The dicom.orthanc authors (!UNKNOWN)
description:
  - Reads a table with a line for each modality, as it comes out of a spreadsheet, and checks it as a whole. All that is
    wrong with it is told at once, each with its line.
  - Its first line names the columns, with C(Name) for what Orthanc is to call a modality, and the others as in
    Orthanc's C(DicomModalities), such as C(AET), C(Host), C(Port), C(Manufacturer) and C(AllowFind). C(Comment) is for
    people. Their order does not matter.
  - An empty field is as if it were not given; so is a line of empty fields. Rights are C(true) or C(false).
  - Columns are divided by commas, semicolons or tabs.
options:
  _terms:
    description:
      - The file, by its absolute path, or by its path from the folder of the inventory. Put it into C(group_vars)
        there, where Ansible does not take it for an inventory.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Have hundreds of modalities (a line of group_vars/all/main.yml)
  vars:
    orthanc_modalities: "{{ lookup('dicom.orthanc.modalities', 'group_vars/all/modalities.csv') }}"

- name: Those of a table, and one more that is not in it
  vars:
    orthanc_modalities: >-
      {{ lookup('dicom.orthanc.modalities', 'group_vars/all/modalities.csv')
         | combine({'verifier': {'AET': 'VERIFIER', 'Host': '192.0.2.10', 'Port': 11112}}) }}
"""

RETURN = r"""
_raw:
  description: For each file its modalities, by their names, as the variable C(orthanc_modalities) takes them.
  type: list
  elements: dict
  sample: [{ct1: {AET: CT1, Host: 192.0.2.7, Port: 104, AllowFind: false}}]
"""

import contextlib
import csv
import io
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import nearest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import dicom
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.values import Wrong

NAME = "Name"
COMMENT = "Comment"
COLUMNS = (NAME, *dicom.MODALITY, COMMENT)
NEEDED = (NAME, "AET", "Host", "Port")


def _typed(field: str, text: str) -> Any:
    """Return what the text of a field means; the text itself where that is nothing of the field's type."""
    kind = dicom.MODALITY[field]
    if kind == "int" and re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    return {"true": True, "false": False}.get(text.lower(), text) if kind == "bool" else text


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Return the rows of a table that have something in them, each with the number of its first line."""
    head = text.lstrip("\ufeff\r\n").partition("\n")[0]
    divider = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=divider, strict=True)
    line = 1
    for row in reader:
        if any(cell.strip() for cell in row):
            yield line, [cell.strip() for cell in row]
        line = reader.line_num + 1


def _header(columns: list[str]) -> Iterator[str]:
    for column in dict.fromkeys(columns):
        if column not in COLUMNS:
            yield f"there is no column '{column}'.{nearest(column, COLUMNS)}"
        elif columns.count(column) > 1:
            yield f"the column {column} is there {columns.count(column)} times."
    for column in NEEDED:
        if column not in columns:
            yield f"the column {column} is missing; it is in the first line."


def read(file: str, text: str, check_host: bool) -> dict[str, dict[str, Any]]:
    """Return the modalities of a table.

    :param file: what it is called.
    :param check_host: whether Orthanc compares the addresses of modalities with those of senders.
    :raises Wrong: for all that is wrong with it.
    """
    if "\0" in text:
        raise Wrong([f"{file}: this is no CSV, or in UTF-16; save it as CSV in UTF-8."])
    try:
        rows = list(_rows(text))
    except csv.Error as error:
        raise Wrong([f"{file}: this is no CSV; {error}."]) from None
    if not rows:
        raise Wrong([f"{file}: it is empty."])
    (first, columns), *rest = rows
    while columns[-1] == "":
        # What a spreadsheet adds.
        columns.pop()
    problems = [f"{file}, line {first}: {problem}" for problem in _header(columns)]
    if problems:
        raise Wrong(problems)
    found: list[tuple[str, str, dict[str, Any]]] = []
    lines: dict[str, int] = {}
    for line, row in rest:
        given = dict(zip(columns, row, strict=False))
        # A row may be shorter than the first one.
        name, here = given.get(NAME, ""), f"{file}, line {line}"
        if any(row[len(columns) :]):
            problems.append(f"{here}: it has {len(row)} fields, and the first line has {len(columns)} columns.")
        elif not name:
            problems.append(f"{here}: it has no {NAME}.")
        elif name in lines:
            problems.append(f"{here}: the name '{name}' is that of line {lines[name]} already.")
        else:
            fields = {field: _typed(field, cell) for field, cell in given.items() if cell and field in dicom.MODALITY}
            found.append((f"{here}, {name}", name, fields))
            lines[name] = line
    problems += dicom.entries(found, check_host)
    if problems:
        raise Wrong(sorted(problems, key=lambda problem: int(re.findall(r"\d+", problem.removeprefix(file))[0])))
    return {name: fields for _, name, fields in found}


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible carries no types
    """The lookup of this file."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        self.set_options(var_options=variables, direct=kwargs)
        known = variables or {}
        check_host = True
        for name in ("orthanc_settings", "orthanc_settings_unchecked"):
            settings = self._templar.template(known.get(name))
            # What is none has a sentence of its own.
            if isinstance(settings, dict):
                check_host = settings.get("DicomCheckModalityHost", check_host)
        paths = [self._path(str(term), known.get("ansible_inventory_sources") or []) for term in terms]
        return [read(path.name, self._text(path), check_host) for path in paths]

    @staticmethod
    def _path(term: str, sources: list[str]) -> pathlib.Path:
        """Find a file, from the folder of each inventory that this run has."""
        folders = [path if path.is_dir() else path.parent for path in map(pathlib.Path, sources)]
        for folder in folders or [pathlib.Path()]:
            if (folder / term).is_file():
                return folder / term
        where = f" in {' or '.join(map(str, folders))}" if folders and not term.startswith("/") else ""
        raise Wrong([f"there is no file {term}{where}."])

    def _text(self, path: pathlib.Path) -> str:
        """Return the text of a file, be it in UTF-8 or as older spreadsheets write it: what Orthanc reads is ASCII."""
        text = str(self._loader.get_text_file_contents(str(path), encoding="latin-1"))
        with contextlib.suppress(UnicodeError):
            return text.encode("latin-1").decode("utf-8")
        return text

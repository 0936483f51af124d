# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts that are not there, that nobody could run, or that would get in the way of others."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dicom.orthanc.plugins.plugin_utils import rules
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc

LARGEST = 2**20
# Of the role: what runs the others, and what its rules ask for.
OWN = (rules.LOADER, *rules.SCRIPTS)
# By what ends the name, the option of Orthanc that is made of them.
OPTIONS = {".lua": "LuaScripts", ".py": "PythonScript"}

# What a requirements file may say besides: where the wheels come from.
PIP_OPTIONS = (
    "--extra-index-url",
    "--find-links",
    "--index-url",
    "--no-index",
    "--only-binary",
    "--prefer-binary",
    "-f",
    "-i",
)
# With these the image is known as the verification's.
OWN_TAGS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def problems(orthanc: Orthanc) -> Iterator[str]:
    """Find what can be found without the host; the rest Orthanc says itself, in the trial."""
    paths = [str(entry["file"]) for entry in orthanc.variables["orthanc_scripts"]]
    names = [os.path.basename(path) for path in paths]
    for path in paths:
        yield from _file(path)
    for entry in orthanc.variables["orthanc_scripts"]:
        if entry.get("test"):
            yield from _test(entry["test"])
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"orthanc_scripts: '{name}' stands there twice; on the host they are in one folder. Rename one."
    yield from _requirements(orthanc, names)
    kinds = {os.path.splitext(name)[1] for name in names}
    python = [name for name in names if name.endswith(".py")]
    if python:
        yield from lacks_python(orthanc, f"orthanc_scripts: {', '.join(python)}", " Write it in Lua, or")
    for kind in sorted(kinds & OPTIONS.keys()):
        option = OPTIONS[kind]
        for variable in ("orthanc_settings", "orthanc_settings_unchecked"):
            if option in orthanc.variables[variable]:
                yield (
                    f"{variable}.{option}: orthanc_scripts has scripts of this kind, and Orthanc takes one list; add"
                    " yours to orthanc_scripts, and take this out."
                )


def _file(path: str) -> Iterator[str]:
    here, name = f"orthanc_scripts: '{path}'", os.path.basename(path)
    stem, kind = os.path.splitext(name)
    file = os.path.expanduser(path)
    if kind not in OPTIONS:
        yield f"{here} is neither .lua nor .py, by which its language is known."
    elif not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", stem):
        yield f"{here}: name the file with letters, digits, - and _, since Orthanc's host gets it under that name."
    elif kind == ".py" and (name in OWN or stem == "orthanc" or stem in sys.stdlib_module_names):
        yield f"{here}: a module of Python or of Orthanc is called {stem} too; rename the file."
    if not os.path.isabs(file) or not os.path.isfile(file) or not os.access(file, os.R_OK):
        yield f"{here} is no file of the control node that can be read, by its absolute path; see inventory_dir."
        return
    if os.path.getsize(file) > LARGEST:
        yield f"{here} has more than 1 MiB; a script is a text, and what it works with belongs on the host."
        return
    with open(file, "rb") as opened:
        content = opened.read()
    if content.startswith(b"$ANSIBLE_VAULT"):
        yield (
            f"{here} is encrypted, and would be shown in plain text on each change. Leave the script in plain text, and"
            " have it read its secret from a section of its own in orthanc_settings_unchecked."
        )
    try:
        if "\0" in content.decode("utf-8"):
            yield f"{here} has a zero byte in it, and is no text."
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield f"{here} is no text in UTF-8, by its line {line}; save it as UTF-8."


def _test(test: Mapping[str, Any]) -> Iterator[str]:
    here, path = "orthanc_scripts.test", str(test["send"])
    file, tags = os.path.expanduser(path), test.get("tags") or {}
    if not os.path.isabs(file) or not os.path.isfile(file) or not os.access(file, os.R_OK):
        yield f"{here}: '{path}' is no file of the control node that can be read, by its absolute path."
    else:
        with open(file, "rb") as opened:
            if opened.read(132)[128:] != b"DICM":
                yield f"{here}: '{path}' is no DICOM file; take one with its preamble, as a modality exports it."
    if tags and test.get("stored") is False:
        yield f"{here}: tags has no meaning for what is not stored; take it out, or stored."
    # Its dictionary takes its time to load.
    dictionary = importlib.import_module("pydicom.datadict") if tags else None
    for tag, value in tags.items():
        if tag in OWN_TAGS or (dictionary and dictionary.tag_for_keyword(str(tag)) is None):
            why = "the verification gives its own" if tag in OWN_TAGS else "DICOM knows no such keyword"
            yield f"{here}: '{tag}': {why}; name another tag, such as InstitutionName."
        elif not isinstance(value, str):
            yield f"{here}: the value of {tag} has to be a text, as Orthanc tells it; put it in quotes."


def lacks_python(orthanc: Orthanc, what: str, way_out: str) -> Iterator[str]:
    """Tell of what needs the plugin for Python, and has none."""
    if "python" in orthanc.variables["orthanc_plugins"]:
        return
    lacking = orthanc.known.plugins["python"].get("lacking", {}).get(orthanc.from_where)
    if lacking:
        yield (
            f"{what} takes the plugin python, which is not to be had with {orthanc.source['name']}: {lacking}."
            f"{way_out} choose another install method."
        )
    else:
        yield f"{what} takes the plugin python; add it to orthanc_plugins."


def of_role(orthanc: Orthanc, variable: str) -> Iterator[str]:
    """Tell what is in the way of a rule of the role, which is a script too."""
    yield from lacks_python(orthanc, f"{variable}: it", " Take it out, or")
    others = any(str(entry["file"]).endswith(".py") for entry in orthanc.variables["orthanc_scripts"])
    for settings in ("orthanc_settings", "orthanc_settings_unchecked"):
        # Of scripts beside them it is told already.
        if "PythonScript" in orthanc.variables[settings] and not others:
            yield (
                f"{settings}.PythonScript: {variable} is a script too, and Orthanc takes one; add yours to"
                " orthanc_scripts, and take this out."
            )


def _requirements(orthanc: Orthanc, names: list[str]) -> Iterator[str]:
    path, here = str(orthanc.variables["orthanc_python_requirements"]), "orthanc_python_requirements"
    if not path:
        return
    file = os.path.expanduser(path)
    if not orthanc.source["of_distribution"]:
        yield (
            f"{here}: with {orthanc.source['name']} it is not known which Python the plugin has; leave it out, and"
            " bring the modules as that has them."
        )
    elif not any(name.endswith(".py") for name in names):
        yield f"{here}: orthanc_scripts has no script in Python, so nothing would import them; leave it out."
    if not os.path.isabs(file) or not os.path.isfile(file) or not os.access(file, os.R_OK):
        yield f"{here}: '{path}' is no file of the control node that can be read, by its absolute path."
        return
    with open(file, "rb") as opened:
        content = opened.read()
    try:
        lines = content.decode("utf-8").replace("\\\n", " ").splitlines()
    except UnicodeDecodeError:
        yield f"{here}: '{path}' is no text in UTF-8."
        return
    asked = [line.partition(" #")[0].strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for line in asked:
        first = line.split()[0].partition("=")[0]
        if first.startswith("-") and first not in PIP_OPTIONS:
            yield f"{here}: '{first}' leads to files that the host does not have, or past the hashes; take it out."
        elif re.search(r"://[^/\s]*@", line):
            yield f"{here}: a login belongs into /etc/pip.conf on the host; take it out."
        elif not first.startswith("-") and "--hash=sha256:" not in line:
            yield f"{here}: '{line.split()[0]}' has no hash; make the file with `pip-compile --generate-hashes`."
    if not any(not line.startswith("-") for line in asked):
        yield f"{here}: '{path}' asks for nothing; leave it out."

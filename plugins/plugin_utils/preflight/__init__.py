# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with an inventory and its hosts, found before a run changes anything.

The rules of a role stand in the file, or the folder, that bears its name; a role without rules has none. Every name in
it that this table has is found there, and all of them may be left out:

====================  ==================================================================================================
``RANGES``            Numbers: the variable, or the field of a list's entries (``postgresql_clients.connections``), and
                      the lowest and highest value that it takes.
``NULL``              Dictionaries in which null has a meaning of its own.
``PROGRAMS``          The programs of the role, which may hold its ports already.
``PORTS_ELSEWHERE``   Variables whose port is the one of a server, which may be another host.
``MASKED``            Units that a package would start too early, each with the program that it runs.
``part(host)``        Tells which of the role's variables count on this host, or None if it does not have the role.
``comes_with(host)``  The roles that come along without a group of their own.
``packages(host)``    The internal variable with the packages that site.yml installs together with those of others.
``inventory(host)``   What is wrong with the groups, and makes it useless to look at the host.
``look(host)``        Options of the module ``site_probe``.
``away(host)``        What to do where the host does not answer: a sentence.
``problems(host)``    What stops a run: sentences that name the variable and the remedy.
``of_part(host)``     The same, of a host that has a part of the role only.
``notices(host)``     What is told.
``risks(host)``       What stops a run, and what is told, unless the inventory accepts it by name: two lists.
``found(host)``       What is on the host, for ``site_found``.
``expected(host)``    What site.yml is going to install there, for ``site_expected``.
====================  ==================================================================================================

The other files are for all: ``general`` has the rules that hold for every role, ``spec`` what their argument specs say,
``values`` what rules look at.
"""

from __future__ import annotations

import functools
import importlib
import pathlib
import re
from types import ModuleType
from typing import Any

# As Ansible's loader knows it, links not followed: what that has read of the roles it does not read again.
ROOT = pathlib.Path(__file__).parents[3]
ROLES = tuple(sorted(path.parts[-3] for path in ROOT.glob("roles/*/meta/argument_specs.yml")))


@functools.cache
def rules(role: str) -> ModuleType | None:
    """Return the rules of a role, if it has some."""
    here = pathlib.Path(__file__).parent
    if (here / f"{role}.py").exists() or (here / role / "__init__.py").exists():
        return importlib.import_module(f"{__name__}.{role}")
    return None


def of(role: str, name: str, default: Any) -> Any:
    """Return what the rules of a role have under one of the names above."""
    return getattr(rules(role), name, default)


def ask(role: str, name: str, host: Any, default: Any) -> Any:
    """Return what a function of the rules of a role says of a host."""
    function = of(role, name, None)
    return function(host) if function else default


def served() -> list[str]:
    """Return the roles that a playbook runs on the hosts of the group that bears their name."""
    text = "".join(path.read_text("utf-8") for path in (ROOT / "playbooks").glob("*.yml"))
    return [role for role in ROLES if re.search(rf"hosts: {role}(?![\w:])", text)]


def role_of(variable: str) -> str:
    """Return the role that a variable belongs to by its prefix, or nothing."""
    return max((role for role in ROLES if variable.startswith(f"{role}_")), key=len, default="")

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts a playbook is for; the documentation of the filter stands in the YAML file beside."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from ansible import context
from ansible.errors import AnsibleFilterError
from ansible_collections.dicom.orthanc.plugins.plugin_utils import preflight


def hosts_of_site(groups: Mapping[str, list[str]], role: str = "") -> str:
    """Return the pattern of all hosts, once it is sure that something would be done with some of them."""
    arguments = context.CLIARGS
    if arguments.get("syntax") or arguments.get("listhosts"):
        return "all"
    if set(arguments.get("tags") or ["all"]) != {"all"}:
        raise AnsibleFilterError("--tags: nothing here has a tag, so nothing would be done. Take it out; see --limit.")
    if arguments.get("start_at_task"):
        raise AnsibleFilterError(
            "--start-at-task: what comes first looks at the hosts, and the rest needs what was seen. Take it out: what"
            " is done already is not done again."
        )
    ours = preflight.served()
    for name, hosts in groups.items():
        meant = [] if name in ours else difflib.get_close_matches(name, ours, n=1, cutoff=0.8)
        if meant and not set(hosts) <= set(groups.get(meant[0], [])):
            raise AnsibleFilterError(
                f"The inventory has a group '{name}', which is none of the toolkit's. Did you mean '{meant[0]}'?"
                " If not, give it a name that is less like it."
            )
    wanted = [role] if role else ours
    if not any(groups.get(name) for name in wanted):
        raise AnsibleFilterError(
            f"No host of the inventory is in the group{'s' if wanted[1:] else ''} {', '.join(wanted)}, so nothing would"
            " be done. Put hosts there, and name the inventory with -i (make: INVENTORY=inventories/<site>)."
        )
    return "all"


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"hosts_of_site": hosts_of_site}

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nginx on a host: whose Orthancs it serves, as whom it runs, and what it says of its files."""

from __future__ import annotations

import contextlib
import re

from ansible.module_utils.basic import AnsibleModule

# What nginx serves of ours, and where it says whose Orthanc that is.
SITES = {
    "proxied": ("/etc/nginx/conf.d/orthanc.conf", r"(?m)^# The Orthanc of (\S+)$"),
    "relayed": ("/etc/nginx/conf.d/orthanc-relay.conf", r"(?m)^    server_name (\S+);$"),
}


def served(file: str, line: str) -> list[str]:
    """Return the hosts whose Orthancs this host's nginx serves, as the role has noted them down."""
    try:
        with open(file, encoding="utf-8") as opened:
            return re.findall(line, opened.read())
    except OSError:
        return []


def workers(file: str = "/etc/nginx/nginx.conf") -> dict[str, str]:
    """Return the user and the group of nginx's workers."""
    found = None
    with contextlib.suppress(OSError), open(file, encoding="utf-8", errors="replace") as opened:
        found = re.search(r"(?m)^\s*user\s+([^\s;]+)(?:\s+([^\s;]+))?\s*;", opened.read())
    user = found[1] if found else "www-data"
    return {"user": user, "group": (found and found[2]) or user}


def refusal(module: AnsibleModule) -> str:
    """Return what nginx says against its configuration; empty if it takes it, or is not installed."""
    nginx = module.get_bin_path("nginx", opt_dirs=["/usr/sbin"])
    rc, _out, err = module.run_command([nginx, "-t", "-q"]) if nginx else (0, "", "")
    return str(err).strip() if rc else ""

#!/usr/bin/python
# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the files of nginx, have it serve them, and prove that it does."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_service
short_description: Write nginx's files and have them served
version_added: 0.1.0
description:
  - Writes the files, then reloads nginx, or starts it where it does not run, if any of them has changed, if a run
    before was cut off in between, or if nginx does not answer as asked for.
  - In one call, since each costs about half a second per host.
  - Fails with the newest lines of nginx's log if the answer is another one in the end. What was written stays, since
    each file that nginx reads has been tried beforehand.
author: The dicom.orthanc authors
options:
  url:
    description: What is asked for on this host, past any proxy that the environment names.
    type: str
    required: true
  server_name:
    description: What the request says which site it wants. Empty for the name in O(url).
    type: str
    default: ""
  ca:
    description: The certificates by which the one of an C(https) address is verified, as a file on this host.
    type: path
  status:
    description: The status code that has to come.
    type: int
    required: true
  timeout:
    description: How long to wait for it, in seconds.
    type: int
    default: 10
extends_documentation_fragment: dicom.orthanc.files
attributes:
  check_mode:
    description: Tells what would be written and whether nginx would be reloaded or started.
    support: full
"""

EXAMPLES = r"""
- name: Serve the site
  dicom.orthanc.nginx_service:
    files:
      - path: /etc/nginx/conf.d/orthanc.conf
        template: etc/nginx/conf.d/orthanc.conf.j2
    url: http://127.0.0.1/
    server_name: pacs.example.org
    status: 301
"""

RETURN = r"""
paths:
  description: What was changed, made or removed.
  type: list
  elements: str
  returned: always
"""

import http.client
import pathlib
import ssl
import time
import urllib.parse

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import ARGUMENTS, QuietModule, write

UNIT = "nginx"
# Is there from before the first file is written until nginx has served it.
UNSERVED = pathlib.Path("/run/pacs-nginx-unserved")


def answer(url: str, server_name: str, ca: str | None) -> str:
    """Ask, and return the status code or why there is none."""
    parts = urllib.parse.urlsplit(url)
    try:
        connection = (
            http.client.HTTPSConnection(parts.netloc, timeout=5, context=ssl.create_default_context(cafile=ca))
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.netloc, timeout=5)
        )
        try:
            connection.request("GET", parts.path, headers={"Host": server_name} if server_name else {})
            return str(connection.getresponse().status)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def runs(module: AnsibleModule) -> bool:
    """Tell whether nginx runs, and is started at boot."""
    shown = module.run_command(["systemctl", "show", "--property=ActiveState,UnitFileState", UNIT])[1]
    return {"ActiveState=active", "UnitFileState=enabled"} <= set(shown.split())


def main() -> None:
    module = QuietModule(
        argument_spec=ARGUMENTS
        | {
            "url": {"type": "str", "required": True},
            "server_name": {"type": "str", "default": ""},
            "ca": {"type": "path"},
            "status": {"type": "int", "required": True},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    params = module.params
    asked = (params["url"], params["server_name"], params["ca"])
    wanted = str(params["status"])
    cut_off = UNSERVED.exists()
    if not module.check_mode:
        UNSERVED.touch()
    written = write(module)
    changed = bool(written.paths) or cut_off or not runs(module) or answer(*asked) != wanted
    if changed and not module.check_mode:
        module.run_command(["systemctl", "enable", "--quiet", UNIT], check_rc=True)
        # What keeps it from starting is in its log. A start is over when nginx listens; a reload goes on after that.
        module.run_command(["systemctl", "reload-or-restart", UNIT])
        deadline = time.monotonic() + params["timeout"]
        while (got := answer(*asked)) != wanted:
            if time.monotonic() > deadline:
                log = module.run_command(["journalctl", "--unit", UNIT, "--lines", "5", "--output", "cat"])[1]
                module.fail_json(
                    f"nginx does not serve what was written: {params['url']} answers {got} instead of {wanted}."
                    f" Its log (journalctl -u {UNIT}) says:\n{log}"
                )
            time.sleep(0.1)
    if not module.check_mode:
        UNSERVED.unlink()
    module.exit_json(changed=changed, paths=written.paths, diff=written.diffs)


if __name__ == "__main__":
    main()

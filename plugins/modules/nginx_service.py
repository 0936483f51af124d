#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the files of nginx, have it serve them, and prove that it does."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_service
short_description: Write nginx's files and have them served
version_added: 0.1.0
description:
  - Has nginx try the files, in a mount namespace of their own, before one of them is put in place.
  - Writes the files, then reloads nginx, or starts it where it does not run, if any of them has changed, if a run
    before was cut off in between, or if nginx does not answer as asked for.
  - In one call, since each costs about half a second per host.
  - Waits until nginx answers, and until no process with the configuration of before takes requests any more. Fails with
    the newest lines of nginx's logs if that does not come, and puts back what was there before.
author: The dicom.orthanc authors (!UNKNOWN)
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
  variables:
    description: Which variable a file comes from, for what nginx says of that file.
    type: dict
    default: {}
  status:
    description: The status code that has to come.
    type: int
    required: true
  readers:
    description:
      - Services that read a file of these too, by the path of that file. Where it runs, each is restarted as nginx is
        reloaded, once nginx answers, if its file has changed or a run before was cut off in between.
    type: dict
    default: {}
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

import contextlib
import http.client
import os
import pathlib
import shutil
import ssl
import tempfile
import time
import urllib.parse

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import (
    ARGUMENTS,
    QuietModule,
    make_folders,
    put,
    remove,
    write,
)

UNIT = "nginx"
ERRORS = pathlib.Path("/var/log/nginx/error.log")
# Is there from before the first file is written until nginx has served it.
UNSERVED = pathlib.Path("/run/pacs-nginx-unserved")
CONFIGURATION = "/etc/nginx"


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


def workers(module: AnsibleModule) -> set[str]:
    """Return the processes of nginx that take requests, without those that only bring theirs to an end."""
    master = module.run_command(["systemctl", "show", "--property=MainPID", "--value", UNIT])[1].strip()
    found: set[str] = set()
    children = pathlib.Path(f"/proc/{master}/task/{master}/children")
    for pid in children.read_text(encoding="ascii").split() if children.exists() else []:
        # One that has just ended takes none either.
        with contextlib.suppress(OSError):
            if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().strip(b"\0 ") == b"nginx: worker process":
                found.add(pid)
    return found


def planned(module: AnsibleModule) -> list[str]:
    """Return what is to be written, made or removed."""
    real, module.check_mode = module.check_mode, True
    try:
        return write(module).paths
    finally:
        module.check_mode = real


def refusal(module: AnsibleModule) -> str:
    """Return what nginx says against the files as they are to be; empty if it takes them."""
    params = module.params
    # nginx opens its logs.
    for folder in params["folders"]:
        make_folders(folder["path"])
    tried, commands = [CONFIGURATION, *params["purge"]], []
    below = tuple(f"{folder}/" for folder in tried)
    # In memory, and for root alone, since a private key is among them.
    with tempfile.TemporaryDirectory(prefix="pacs-nginx-", dir="/run") as top:
        for folder in tried:
            make_folders(folder)
            shutil.copytree(folder, top + folder, symlinks=True)
            commands.append(f"mount --bind '{top}{folder}' '{folder}'")
        for item in params["files"]:
            path, content = item["path"], item["content"] if item["secret"] is None else item["secret"]
            if item["made_by"] is not None:
                commands += [f"[ -e '{path}' ] || {{ {item['made_by']}; }}"] if path.startswith(below) else []
            elif path.startswith(below):
                with open(top + path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                    file.write(content)
        for path in params["absent"]:
            if path.startswith(below) and os.path.lexists(top + path):
                remove(top + path)
        rc, out, err = module.run_command(["unshare", "--mount", "sh", "-euc", "\n".join([*commands, "nginx -t -q"])])
    said = (err or out).strip()
    names = [name for path, name in params["variables"].items() if path in said]
    return f"{said}{' See ' + ', '.join(names) + '.' if names else ''}" if rc else ""


Kept = dict[str, tuple[str, os.stat_result] | None]


def kept(paths: list[str]) -> Kept:
    """Return the files as they are, with nothing for those that are not there; folders stay."""
    found: Kept = {}
    for path in map(pathlib.Path, paths):
        if not path.exists():
            found[str(path)] = None
        elif path.is_file():
            found[str(path)] = (path.read_bytes().decode(errors="surrogateescape"), path.stat())
    return found


def restore(files: Kept) -> str:
    """Put files back as they were, and say so."""
    for path, file in files.items():
        if file:
            put(path, file[0], (file[1].st_uid, file[1].st_gid), file[1].st_mode & 0o7777)
        elif os.path.isfile(path):
            remove(path)
    return "nginx runs as before, and its files are those of before."


def logged(module: AnsibleModule) -> str:
    """Return the newest lines of what systemd and nginx itself say of it."""
    journal = module.run_command(["journalctl", "--unit", UNIT, "--lines", "6", "--output", "cat"])[1]
    # Nothing where it never started.
    return str(journal + module.run_command(["tail", "--lines", "3", str(ERRORS)])[1])


def main() -> None:
    module = QuietModule(
        argument_spec=ARGUMENTS
        | {
            "url": {"type": "str", "required": True},
            "server_name": {"type": "str", "default": ""},
            "ca": {"type": "path"},
            "status": {"type": "int", "required": True},
            "timeout": {"type": "int", "default": 10},
            "variables": {"type": "dict", "default": {}},
            "readers": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params
    asked = (params["url"], params["server_name"], params["ca"])
    wanted = str(params["status"])
    cut_off = UNSERVED.exists()
    before: Kept = {}
    if not module.check_mode:
        paths = planned(module)
        said = refusal(module) if paths else ""
        if said:
            module.fail_json(f"nginx refuses what was to be written, and it was not put in place: {said}")
        made = {item["path"] for item in params["files"] if item["made_by"] is not None}
        before = kept([path for path in paths if path not in made])
        UNSERVED.touch()
    written = write(module, lambda: restore(before))
    enabled = module.run_command(["systemctl", "is-enabled", UNIT])[1].strip() == "enabled"
    changed = bool(written.paths) or cut_off or not enabled or answer(*asked) != wanted
    if changed and not module.check_mode:
        if cut_off or any(path.startswith("/etc/systemd/") for path in written.paths):
            module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        # The package may have done so. With its script for init, Debian's systemctl then reads all units twice more.
        if not enabled:
            # Until now it was kept from starting.
            module.run_command(["systemctl", "unmask", "--quiet", UNIT], check_rc=True)
            module.run_command(["systemctl", "enable", "--quiet", UNIT], check_rc=True)
        old = workers(module)
        # What keeps it from starting is in its log. A start is over when nginx listens; a reload goes on after that.
        module.run_command(["systemctl", "reload-or-restart", UNIT])
        deadline = time.monotonic() + params["timeout"]
        while (got := answer(*asked)) != wanted or old & workers(module):
            if time.monotonic() > deadline:
                found = "it goes on as before" if got == wanted else f"{params['url']} gives {got} instead of {wanted}"
                words = f"Its logs (journalctl -u {UNIT}, {ERRORS}) say:\n{logged(module)}"
                if before:
                    restore(before)
                    module.run_command(["systemctl", "reload-or-restart", UNIT])
                    found += ". What was there before is back"
                module.fail_json(f"nginx does not serve what was written: {found}. {words}")
            time.sleep(0.05)
        for path, unit in params["readers"].items():
            runs = module.run_command(["systemctl", "is-active", "--quiet", unit])[0] == 0
            if runs and (cut_off or path in written.paths):
                module.run_command(["systemctl", "restart", unit], check_rc=True)
    if not module.check_mode:
        UNSERVED.unlink(missing_ok=True)
    module.exit_json(changed=changed, paths=written.paths, diff=written.diffs)


if __name__ == "__main__":
    main()

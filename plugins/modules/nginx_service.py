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
  spare:
    description:
      - Files that others of the toolkit write, and write anew. Where nginx refuses all because of them, and takes it
        without them, they are removed, and a warning tells of it.
    type: list
    elements: path
    default: []
  timeout:
    description: How long to wait for it, in seconds.
    type: int
    default: 10
  state_dir:
    description: Folder, for root alone, that keeps the files of before until nginx serves the new ones.
    type: path
    default: /var/lib/pacs/nginx
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
import glob
import http.client
import os
import pathlib
import re
import shutil
import ssl
import tempfile
import time
import urllib.parse
from collections.abc import Collection

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import (
    ARGUMENTS,
    QuietModule,
    lock,
    make_folders,
    plan,
    remove,
)
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import State
from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import Unit
from ansible_collections.dicom.orthanc.plugins.module_utils.way_back import WayBack, Wrong

ERRORS = pathlib.Path("/var/log/nginx/error.log")
CONFIGURATION = "/etc/nginx"
MEMORY = "/run"


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


def workers(unit: Unit) -> set[str]:
    """Return the processes of nginx that take requests, without those that only bring theirs to an end."""
    master = unit.show()["MainPID"]
    found: set[str] = set()
    children = pathlib.Path(f"/proc/{master}/task/{master}/children")
    for pid in children.read_text(encoding="ascii").split() if children.exists() else []:
        # One that has just ended takes none either.
        with contextlib.suppress(OSError):
            if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().strip(b"\0 ") == b"nginx: worker process":
                found.add(pid)
    return found


def refusal(module: AnsibleModule, without: Collection[str] = ()) -> str:
    """Return what nginx says against the files as they are to be; empty if it takes them.

    :param without: files that are there, and are to go as well.
    """
    params = module.params
    # nginx opens its logs.
    for folder in params["folders"]:
        make_folders(folder["path"])
    tried, commands = [CONFIGURATION, *params["purge"]], []
    below = tuple(f"{folder}/" for folder in tried)
    tried += sorted({os.path.dirname(path) for path in without if not path.startswith(below)})
    below = tuple(f"{folder}/" for folder in tried)
    # In memory, and for root alone, since a private key is among them.
    with tempfile.TemporaryDirectory(prefix="pacs-nginx-", dir=MEMORY) as top:
        # What a call that was cut off has left goes with it.
        for left in set(glob.glob(f"{MEMORY}/pacs-nginx-*")) - {top}:
            os.rename(left, os.path.join(top, os.path.basename(left)))
        for folder in tried:
            make_folders(folder)
            shutil.copytree(folder, top + folder, symlinks=True)
            commands.append(f"mount --bind '{top}{folder}' '{folder}'")
        for item in params["files"]:
            path, content = item["path"], item["content"] if item["secret"] is None else item["secret"]
            if item["made_by"] is not None:
                there = f"[ -e '{path}' ] && {(item['validate'] or 'true').replace('%s', path)} > /dev/null 2>&1"
                commands += [f"{{ {there}; }} || {{ {item['made_by']}; }}"] if path.startswith(below) else []
            elif path.startswith(below):
                with open(top + path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                    file.write(content)
        for path in [*params["absent"], *without]:
            if path.startswith(below) and os.path.lexists(top + path):
                remove(top + path)
        rc, out, err = module.run_command(["unshare", "--mount", "sh", "-euc", "\n".join([*commands, "nginx -t -q"])])
    said = (err or out).strip()
    names = [name for path, name in params["variables"].items() if path in said]
    return f"{said}{' See ' + ', '.join(names) + '.' if names else ''}" if rc else ""


class Server:
    """nginx, which is to serve what was written."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._params = module.params
        self.unit = Unit(module, "nginx")
        self._old: set[str] = set()

    def answer(self) -> str:
        """Ask what is asked for, and return the status code or why there is none."""
        return answer(self._params["url"], self._params["server_name"], self._params["ca"])

    @property
    def wanted(self) -> str:
        return str(self._params["status"])

    def apply(self) -> None:
        """Have it read its files. Whether it serves them is seen afterwards."""
        units = any(item["path"].startswith("/etc/systemd/") for item in self._params["files"])
        if not self.unit.enable() and units:
            self.unit.reload_files()
        self._old = workers(self.unit)
        # What keeps it from starting is in its log. A start is over when nginx listens; a reload goes on after that.
        self.unit.tell("restart" if self._in_its_own_way() else "reload-or-restart")

    def _in_its_own_way(self) -> bool:
        """Whether it has a port at all addresses that it is to have at some, or the other way round."""
        asked = re.compile(r"(?m)^\s*listen\s+(?:(\S+):)?(\d+)[ ;]")
        wanted: dict[str, set[bool]] = {}
        for path in glob.glob(f"{CONFIGURATION}/conf.d/orthanc*.conf"):
            for address, port in asked.findall(pathlib.Path(path).read_text(encoding="utf-8", errors="replace")):
                wanted.setdefault(port, set()).add(address in ("", "[::]"))
        rc, listening, _ = self._module.run_command(["ss", "-Hltnp"])
        for line in listening.splitlines() if rc == 0 else []:
            address, _, port = line.split()[3].rpartition(":")
            if '("nginx"' in line and (address in ("0.0.0.0", "*", "[::]")) not in wanted.get(port, {True, False}):
                return True
        return False

    def prove(self, before: bool) -> None:
        """Wait until it serves what is there now, and nothing else. :raises Wrong: if it does not."""
        deadline = time.monotonic() + self._params["timeout"]
        while not self._serves(before):
            if time.monotonic() > deadline:
                got = self.answer()
                found = "it goes on as before" if got == self.wanted else f"{self._params['url']} gives {got}"
                found += "" if got == self.wanted else f" instead of {self.wanted}"
                log = f"Its logs (journalctl -u {self.unit.name}, {ERRORS}) say:\n{self._logged()}"
                raise Wrong(f"nginx does not serve what was written: {found}.", log)
            time.sleep(0.05)

    def _serves(self, before: bool) -> bool:
        # What was asked for before is not known; and where it never took what was written, it goes on as it did.
        if before:
            return self.unit.active
        return self.answer() == self.wanted and not self._old & workers(self.unit)

    def _logged(self) -> str:
        """Return the newest lines of what systemd and nginx itself say of it."""
        # Nothing where it never started.
        lines = str(self._module.run_command(["tail", "--lines", "3", str(ERRORS)])[1])
        return "\n".join([*self.unit.log(6), lines])


def restart_readers(module: AnsibleModule, written: list[str], cut_off: bool) -> None:
    """Restart the services that read what was written too, or what a run that was cut off may have written."""
    for path, name in module.params["readers"].items():
        unit = Unit(module, name)
        if (cut_off or path in written) and unit.active and not unit.tell("restart"):
            lines = "\n".join(unit.log(6))
            module.fail_json(f"{name} does not start with {path}. Its log (journalctl -u {name}) says:\n{lines}")


def serve(module: AnsibleModule) -> None:
    """Write nginx's files and serve with them, or go back to those of before."""
    server = Server(module)
    state = State(os.path.join(module.params["state_dir"], "before.json"))
    way = WayBack(module, "nginx", state, server.apply, server.prove)
    written = plan(module)
    changed = bool(written.paths) or way.cut_off or not server.unit.enabled or server.answer() != server.wanted
    if changed and not module.check_mode:
        try:
            spare = [path for path in module.params["spare"] if os.path.lexists(path)]
            said = refusal(module) if written.paths or spare else ""
            if said and spare:
                others = refusal(module, spare)
                if not others:
                    module.warn(f"{', '.join(spare)}: removed, since nginx refuses the site with it: {said}")
                    module.params["absent"] += spare
                    written = plan(module)
                said = others
        except OSError as error:
            way.refuse(
                f"What was to be written cannot be tried, for which nginx's files are copied to {MEMORY}: {error}"
            )
        if said:
            way.refuse(f"nginx refuses what was to be written, and it was not put in place: {said}")
        # What was made for good stays: a certificate and its key.
        made = {item["path"] for item in module.params["files"] if item["made_by"] is not None}
        paths = written.paths
        written = way.change(
            (path for path in paths if path not in made), lambda: restart_readers(module, paths, way.cut_off)
        )
    module.exit_json(changed=changed, paths=written.paths, diff=written.diffs)


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
            "spare": {"type": "list", "elements": "path", "default": []},
            "state_dir": {"type": "path", "default": "/var/lib/pacs/nginx"},
        },
        supports_check_mode=True,
    )
    with lock(module):
        serve(module)


if __name__ == "__main__":
    main()

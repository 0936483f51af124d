# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts that Orthanc is to run are tried first: by that very binary, apart from the site, with limits."""

from __future__ import annotations

import collections
import grp
import json
import os
import re
import select
import subprocess
import time
from collections.abc import Container, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import read_text
from ansible_collections.dicom.orthanc.plugins.module_utils.files import Refused, plain_files, remove
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import Files
from ansible_collections.dicom.orthanc.plugins.module_utils.orthanc_upgrade import FILE, TRIALS

SCRIPTS = (".lua", ".py")
# The unit, the container and the folder of the trial.
UNIT = "pacs-orthanc-trial"
# How long Orthanc may take to start with them at least, and to end, in seconds.
SECONDS, STOP_SECONDS = 60, 15
# Orthanc in its sandbox, further from everything: without a network, and nothing of it lasts.
PROPERTIES = (
    # What a script asks for beyond this it does not get, and Orthanc says so.
    "LimitDATA=1536M",
    # All of its processes together, with the files that it writes: beyond this it is killed without a word.
    "MemoryMax=2G",
    "MemorySwapMax=0",
    # Libraries that calculate would ask for memory for each core.
    "Environment=OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1",
    "OOMScoreAdjust=1000",
    "TasksMax=256",
    "Nice=10",
    "PrivateNetwork=yes",
    "PrivateDevices=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "ProtectKernelTunables=yes",
    "ProtectControlGroups=yes",
    "MemoryDenyWriteExecute=yes",
    "NoNewPrivileges=yes",
    # In memory, open to who is nobody; the service's own data is not there.
    *(f"TemporaryFileSystem={path}:mode=1777,size=256M" for path in ("/tmp", "/dev/shm", "/var/lib/orthanc")),
    # It goes with the unit, also where the call was killed that has made it.
    f"RuntimeDirectory={UNIT}",
    "RuntimeDirectoryMode=0750",
)
# The last thing that Orthanc does at its start; a script may say so too.
WORKS = re.compile(r"W\d{4} .*\bmain\.cpp:\d+\] Orthanc has started")
# Which script is next: by Orthanc itself, and by our own pacs_scripts.py.
NEXT = re.compile(r"(?:Installing the Lua scripts from|Running the Python script): (\S+)")
ERROR = re.compile(r"E\d{4} .*?\] (.*)")
# What follows from an error, and is none of its own.
FOLLOWS = ("INTERNAL ERROR", "Uncaught exception", "Error while initializing plugin")
# Options that name the scripts.
MOVED = ("LuaScripts", "PythonScript", "PacsPythonScripts")
# Options that lead to files and ports of the site, and no script reads.
LEFT_OUT = re.compile(r"(DicomTls|Ssl|Https|Pkcs11).*|MySQL|PostgreSQL|TemporaryDirectory|ReadOnly|RegisteredUsers")
# Folders of the archive that need no quotes for systemd.
PLAIN = re.compile(r"/[\w./-]+")


class Unfit(Refused):
    """A script with which Orthanc does not start."""


def settings_of(files: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return the options that the files of Orthanc's folder have together."""
    found: dict[str, Any] = {}
    for path, file in files.items():
        if file and os.path.dirname(path) == folder and path.endswith(".json"):
            found |= read_text(file[0])
    return found


def scripts_of(files: Mapping[str, Any], folder: str) -> dict[str, str]:
    """Return the texts of the scripts by their paths, and, under no path, what tells their order."""
    found = {
        path: str(file[0])
        for path, file in files.items()
        if file and os.path.dirname(path) == folder and path.endswith(SCRIPTS)
    }
    try:
        settings = settings_of(files, folder) if found else {}
    except ValueError:
        settings = {}
    order = [settings.get(name) for name in (*MOVED, "PacsPythonPackages")]
    return found | ({"": json.dumps(order)} if found else {})


def configuration(settings: Mapping[str, Any], plugin: str, scripts: Container[str], folder: str) -> dict[str, Any]:
    """Return the options of the trial: those of the site, without its data, its ports and its other plugins.

    :param plugin: path of the plugin for Python; empty without one.
    :param scripts: paths of those that are tried. Others of the site stay where they are.
    :param folder: where they are tried.
    """

    def there(path: Any) -> Any:
        if isinstance(path, list):
            return list(map(there, path))
        return os.path.join(folder, os.path.basename(path)) if isinstance(path, str) and path in scripts else path

    moved = {name: there(settings[name]) for name in MOVED if name in settings}
    none = {
        "HttpServerEnabled": False,
        "DicomServerEnabled": False,
        "StorageDirectory": "/tmp",
        "IndexDirectory": "/tmp",
    }
    kept = {name: value for name, value in settings.items() if not LEFT_OUT.fullmatch(name)}
    return kept | moved | none | {"Plugins": [plugin] if plugin else []}


def try_scripts(module: AnsibleModule, files: Files, scripts: Mapping[str, str]) -> None:
    """Start the Orthanc that is asked for with the scripts that are asked for.

    :param files: what is asked for.
    :param scripts: of that, the texts of the scripts by their paths.
    :raises Unfit: if it does not start, and end, with them.
    """
    params = module.params
    settings = settings_of(files, params["config_dir"])
    paths = [*params["programs"], *settings.get("Plugins", [])]
    plugin = next((path for path in paths if "OrthancPython" in os.path.basename(path)), "")
    container = os.path.basename(params["trial"][0]) == "docker"
    if module.check_mode and not container and not os.path.exists(plugin):
        # It comes with the run. Without it, Orthanc passes over them.
        if any(path.endswith(".py") for path in scripts):
            module.warn("orthanc_scripts: those in Python are tried in the run, since their plugin is not there yet.")
        plugin, scripts = "", {path: text for path, text in scripts.items() if not path.endswith(".py")}
        settings = {name: value for name, value in settings.items() if "Python" not in name}
        if not any(scripts):
            return
    # Of a call that was cut off.
    module.run_command(["systemctl", "stop", UNIT])
    folder = os.path.join(TRIALS, UNIT)
    _remove(folder)
    try:
        texts = {os.path.basename(path): text for path, text in scripts.items() if path}
        texts["orthanc.json"] = json.dumps(configuration(settings, plugin, scripts, folder))
        # As they are going to be on the host.
        group = next(grp.getgrnam(file[2]).gr_gid for path, file in files.items() if file and path in scripts)
        os.mkdir(folder, 0o700)
        for name, text in texts.items():
            path = os.path.join(folder, name)
            with open(path, "x", encoding="utf-8", opener=lambda to, flags: os.open(to, flags, 0o640)) as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o640)
                os.fchown(file.fileno(), -1, group)
        os.chown(folder, -1, group)
        os.chmod(folder, 0o750)
        # What systemd makes of that folder when it starts the unit.
        properties = [*PROPERTIES, f"Group={group}"]
        archive = {str(settings.get(name, "")) for name in ("StorageDirectory", "IndexDirectory")}
        properties += [f"InaccessiblePaths=-{path}" for path in sorted(filter(PLAIN.fullmatch, archive))]
        properties += [f"ExecStopPost=-{params['trial'][0]} kill {UNIT}"] if container else []
        _try(module, [FILE.sub(folder, word) for word in params["trial"]], folder, properties)
    finally:
        _remove(folder)


def _remove(folder: str) -> None:
    for path in plain_files(folder):
        remove(path)
    if os.path.isdir(folder):
        os.rmdir(folder)


def _try(module: AnsibleModule, command: list[str], folder: str, properties: list[str]) -> None:
    # As long as it may take on the site.
    seconds = max(SECONDS, module.params["timeout"])
    properties = [f"RuntimeMaxSec={seconds}", f"TimeoutStopSec={STOP_SECONDS}", *properties]
    unit = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={UNIT}"]
    words = [*unit, *(f"--property={one}" for one in properties), *command, "--verbose"]
    began = time.monotonic()
    # Of what it prints without end, the last.
    lines, later = (collections.deque[str](maxlen=400) for _ in range(2))
    started, rest, deadline = False, b"", began + seconds + 2 * STOP_SECONDS
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
    ) as process:
        out = process.stdout.fileno() if process.stdout else -1
        # systemd ends it before.
        while select.select([out], [], [], max(0.0, deadline - time.monotonic()))[0]:
            read = os.read(out, 65536)
            if not read:
                break
            *whole, rest = (rest[-65536:] + read).split(b"\n")
            for line in whole:
                (later if started else lines).append(line.decode(errors="replace"))
                if not started and WORKS.fullmatch(lines[-1]):
                    started = True
                    module.run_command(["systemctl", "stop", UNIT])
        else:
            process.kill()
    took = time.monotonic() - began
    module.run_command(["systemctl", "stop", UNIT])
    if started and process.returncode == 0:
        if any(ERROR.match(line) for line in later):
            module.warn(
                f"orthanc_scripts: in its trial, Orthanc starts with them, and says: {_said(list(later), folder)}"
            )
        return
    # An error before the scripts is none that ends Orthanc.
    names = [(number, found[1]) for number, line in enumerate(lines) for found in [NEXT.search(line)] if found]
    number, name = names[-1] if names else (0, "what is asked for")
    whose, said = os.path.basename(name), _said([*lines, *later][number:], folder)
    how = "ends"
    if started:
        how = f"does not end as it should (code {process.returncode})"
    elif took >= seconds:
        limit = f"orthanc_ready_timeout, at least {SECONDS} s"
        how = f"has not started after {seconds} s ({limit}), and was ended: a loop, or something that waits"
    raise Unfit(
        f"orthanc_scripts: {whose} was tried, apart from the site, and Orthanc {how}."
        f" {f'It says: {said}' if said else 'It says nothing.'}"
    )


def _said(lines: list[str], folder: str) -> str:
    """Return the first error, with the lines that belong to it; what was said last where nothing is marked so."""
    text: list[str] = []
    for line in lines:
        error = ERROR.match(line)
        if error and (text or error[1].startswith(FOLLOWS)):
            break
        if error or (text and not re.match(r"[IWE]\d{4} ", line)):
            text.append(error[1] if error else line.rstrip())
        elif text:
            break
    plain = [line for line in lines if line.strip() and not re.match(r"[IW]\d{4} ", line)]
    return "\n".join(filter(None, text or plain[-5:])).replace(f"{folder}/", "")

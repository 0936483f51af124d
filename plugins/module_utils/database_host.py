# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that look at a database server have in common."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import os
import socket
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# What is asked of a server on this host; documented in plugins/doc_fragments/database_server.py.
LOOK: dict[str, Any] = {
    "address": {"type": "str", "required": True},
    "certificate": {"type": "path", "required": True},
    "certificate_days": {"type": "int", "default": 0},
    "clients": {"type": "list", "elements": "str", "default": []},
}


def memory() -> int:
    """Return the memory of the host, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free(path: str) -> int:
    """Return what is free on the disk of a folder, in MiB; of one that is not there yet, on that of its data."""
    found = os.statvfs(path if os.path.isdir(path) else "/var/lib")
    return found.f_bavail * found.f_frsize // 2**20


def addresses(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the addresses of each name, as this host finds them.

    By its name a client is known only where its address has one in the DNS too, which is rare.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        try:
            entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError:
            entries = []
        found[name] = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    return found


def cores() -> int:
    """Return how many cores there are for programs."""
    return len(os.sched_getaffinity(0))


def certified(module: AnsibleModule, path: str, address: str, seconds: int) -> bool:
    """Tell whether a certificate is for this address, and will be for so many seconds."""
    try:
        ipaddress.ip_address(address)
        check = "-checkip"
    except ValueError:
        check = "-checkhost"
    openssl = module.get_bin_path("openssl")
    if not openssl or not os.path.isfile(path):
        return False
    command = [openssl, "x509", "-noout", "-in", path]
    if module.run_command([*command, "-checkend", str(seconds)])[0]:
        return False
    return "does match" in module.run_command([*command, check, address])[1]


# Statements stay out of the log of PostgreSQL, and it stores of passwords what our lines of pg_hba.conf ask for.
QUIET = (
    "set log_statement = 'none'; set log_min_duration_statement = -1; set log_min_error_statement = 'panic';"
    " set password_encryption = 'scram-sha-256';\n"
)
# What is stored of passwords that are not proved yet.
LOGINS = "logins.json"


def user_of(login: str) -> str:
    """Return the user of a login, which with MySQL is that of a host."""
    return login.rpartition("@")[0] or login


def verifies(stored: str, password: str) -> bool:
    """Tell whether a password is the one that a server has stored this of; where it is not known how, it is not."""
    if stored.startswith("*"):
        once = hashlib.sha1(password.encode()).digest()  # what MariaDB's mysql_native_password is
        return stored[1:].lower() == hashlib.sha1(once).hexdigest()
    try:
        kind, rounds_salt, keys = stored.split("$")
        rounds, salt = rounds_salt.split(":")
        # What PostgreSQL makes of what is not ASCII, for all that people type.
        text = unicodedata.normalize("NFKC", password).encode()
        salted = hashlib.pbkdf2_hmac("sha256", text, base64.b64decode(salt), int(rounds))
        client = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
        return kind == "SCRAM-SHA-256" and base64.b64decode(keys.split(":")[0]) == client
    except ValueError:
        return False


class Sql:
    """A server that is asked as its administrator. Statements go in by the input: others see arguments."""

    def __init__(self, module: AnsibleModule, engine: str, command: list[str]) -> None:
        self._module, self._engine, self._command = module, engine, command

    def run(self, statement: str) -> str:
        """Return what a statement prints. It does not get into the server's log, nor into a message."""
        text = f"{QUIET if self._engine == 'postgresql' else ''}{statement};\n"
        rc, out, _err = self._module.run_command(self._command, data=text, cwd="/")
        if rc:
            self._module.fail_json(f"{self._command[0]} … {self._command[-1]} ends with {rc} at a question for logins.")
        return str(out).strip()

    def stored(self, login: str) -> list[str]:
        """Return what the server verifies the password of a login by, and how; nothing where there is no such login."""
        if self._engine == "postgresql":
            where = f"rolname = {quoted(login)}"
            out = self.run(f"select json_build_array('scram', rolpassword) from pg_authid where {where}")
        else:
            where = f"User = {quoted(user_of(login))} AND Host = {quoted(login.rpartition('@')[2])}"
            out = self.run(f"SELECT JSON_ARRAY(plugin, authentication_string) FROM mysql.user WHERE {where}")
        found: list[str] = json.loads(out) if out else []
        return found

    def store(self, login: str, stored: list[str]) -> None:
        """Have the server verify a login by what it verified it by before."""
        if not stored or not stored[1]:
            return
        how, what = stored
        if self._engine == "postgresql":
            self.run(f'alter role "{login}" password {quoted(what)}')
        else:
            user, _, host = login.rpartition("@")
            self.run(f"ALTER USER {quoted(user)}@{quoted(host)} IDENTIFIED VIA {how} USING {quoted(what)}")


def quoted(text: str) -> str:
    """Return a text as it stands in a statement: names of logins, and what servers store, have no backslash in them."""
    return "'" + text.replace("'", "''") + "'"


def changing(sql: Sql, passwords: Mapping[str, str]) -> list[str]:
    """Return the logins that are there, and have another password than they are to have."""
    stored = {login: sql.stored(login) for login in passwords}
    return [login for login, found in stored.items() if found and not verifies(str(found[1]), passwords[login])]

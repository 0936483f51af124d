"""Set one point of the sweep on this host, with an empty archive: standard library only, since it runs there.

Usage: point.py remember                    (once, when the shipped playbook is through)
       point.py '{"database": "mysql", …}'  (see Point in benchmarks/database.py)

Every point starts from the files as they were deployed. The one with the defaults has Debian's configuration and
unit of Orthanc, Debian's configuration of the database server, and the plugin's own options.
"""

from __future__ import annotations

import base64
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

HERE = pathlib.Path(__file__).parent
SHIPPED, DEBIAN = pathlib.Path("/etc/pacs/orthanc"), pathlib.Path("/etc/orthanc")
STORAGE = pathlib.Path("/var/lib/orthanc/db-v6")
UNIT = pathlib.Path("/etc/systemd/system/orthanc.service")
SECTIONS = {"postgresql": "PostgreSQL", "mysql": "MySQL"}
FOLDERS = {"postgresql": "/etc/postgresql", "mysql": "/etc/mysql"}
UNITS = {"postgresql": "postgresql@*", "mysql": "mariadb"}
# Lets the login in from wherever a point connects; the roles let in what they need.
RESET = {
    "postgresql": """
        cd / && runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 \\
          -c 'drop database if exists orthanc with (force)' \\
          -c "create database orthanc owner orthanc template template0 encoding utf8
              lc_collate 'C.UTF-8' lc_ctype 'C.UTF-8'" \\
          -c '\\connect orthanc' -c 'create extension pg_trgm' -c checkpoint""",
    "mysql": """
        mariadb --execute "
          drop database if exists orthanc;
          create database orthanc character set utf8mb4 collate utf8mb4_unicode_ci;
          create user if not exists orthanc@localhost identified by '$PASSWORD';
          grant all on orthanc.* to orthanc@localhost" """,
}


def shell(script: str, **environment: str) -> None:
    subprocess.run(["sh", "-euc", script], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}, check=True)


def remember() -> None:
    folders = [
        str(SHIPPED),
        str(DEBIAN),
        str(UNIT),
        *(path for path in FOLDERS.values() if pathlib.Path(path).exists()),
    ]
    shell(f"tar --create --absolute-names --file {HERE}/shipped.tar {' '.join(folders)}")


def restore(database: str) -> None:
    folders = [SHIPPED, DEBIAN, *([pathlib.Path(FOLDERS[database])] if database in FOLDERS else [])]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    shell(f"tar --extract --absolute-names --same-owner --preserve-permissions --file {HERE}/shipped.tar")


def without_comments(text: str) -> str:
    """Return JSON as Orthanc reads it without the comments in it."""
    return re.sub(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', lambda found: found[1] or "", text, flags=re.S)


def change(path: pathlib.Path, changes: dict[str, Any], section: str = "") -> None:
    """Change options at the root of a file of Orthanc, or in a section of it; null removes one."""
    content = json.loads(without_comments(path.read_text(encoding="utf-8")))
    options = content[section] if section else content
    options.update(changes)
    for name in [name for name, value in changes.items() if value is None]:
        del options[name]
    path.write_text(json.dumps(content), encoding="utf-8")


def configure(task: dict[str, Any]) -> None:
    database, defaults = task["database"], task["defaults"]
    folder = DEBIAN if defaults else SHIPPED
    if defaults:
        UNIT.unlink()
        # Without this nobody could look for images, and the plugin would not be used.
        change(folder / "orthanc.json", {"DicomModalities": {"bench": ["BENCH", "127.0.0.1", 11112]}})
        if database in SECTIONS:
            login = {"EnableIndex": True, "Database": "orthanc", "Username": "orthanc", "Password": task["password"]}
            change(folder / f"{database}.json", login, SECTIONS[database])
    if task["orthanc"]:
        change(folder / "orthanc.json", task["orthanc"])
    if task["plugin"]:
        change(folder / f"{database}.json", task["plugin"], SECTIONS[database])


def configure_server(task: dict[str, Any]) -> None:
    settings = "".join(f"{name} = {value}\n" for name, value in task["server"].items())
    if task["database"] == "postgresql":
        (etc,) = pathlib.Path("/etc/postgresql").glob("*/main")
        if task["defaults"]:
            (etc / "conf.d/pacs.conf").unlink()
        (etc / "conf.d/zz-bench.conf").write_text(settings, encoding="utf-8")
        with (etc / "pg_hba.conf").open("a", encoding="utf-8") as rules:
            rules.write("local all all scram-sha-256\nhost all all ::1/128 scram-sha-256\n")
    else:
        etc = pathlib.Path("/etc/mysql/mariadb.conf.d")
        if task["defaults"]:
            (etc / "99-pacs.cnf").unlink()
        (etc / "zz-bench.cnf").write_text(f"[mysqld]\n{settings}", encoding="utf-8")


def wait(login: str) -> None:
    """Wait until Orthanc answers out of its database."""
    asked = urllib.request.Request("http://127.0.0.1:8042/changes?last")
    asked.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(asked, timeout=30):
                return
        except (OSError, urllib.error.URLError):
            if time.monotonic() > deadline:
                sys.exit("Orthanc does not answer")
            time.sleep(0.1)


def main() -> None:
    if sys.argv[1] == "remember":
        return remember()
    task = json.loads(sys.argv[1])
    # What is in the archive is thrown away: no need to wait until Orthanc has closed it.
    shell("systemctl kill --signal KILL orthanc 2> /dev/null || :; systemctl stop orthanc")
    restore(task["database"])
    shell(f"find {STORAGE} -mindepth 1 -delete")
    configure(task)
    if task["database"] in UNITS:
        configure_server(task)
        shell(f"systemctl restart '{UNITS[task['database']]}'")
        shell(RESET[task["database"]], PASSWORD=task["password"])
    shell("systemctl daemon-reload; systemctl start orthanc")
    return wait(task["login"])


if __name__ == "__main__":
    main()

"""Say which settings of our file are not in force, since something else wins over them.

Usage: /usr/bin/python3 -c "$(cat overridden.py)" FILE SOCKET
"""

import re
import subprocess
import sys

ours, socket = sys.argv[1:]


def printed(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout


def settings(*where: str) -> dict[str, str]:
    """Return what MariaDB reads; of a setting that stands twice the last one counts."""
    lines = printed("my_print_defaults", *where, *groups).splitlines()
    pairs = (line.removeprefix("--").removeprefix("loose-").partition("=") for line in lines)
    return {name.replace("-", "_").lower(): value for name, _, value in pairs}


found = re.search(r"following groups are read: (.*)", printed("mariadbd", "--help", "--verbose"))
groups = found[1].split() if found else ["mysqld", "server", "mariadb", "mariadbd"]
wanted, effective = settings(f"--defaults-file={ours}"), settings()
wrong = [f"{name} = {effective.get(name, '')}" for name, value in wanted.items() if effective.get(name) != value]
if wrong:
    print(
        f"mysql_settings: other files of /etc/mysql come after {ours} and set {', '.join(wrong)}. Take that out there,"
        " or give it in mysql_settings, mysql_listen_addresses and the like; see my_print_defaults mysqld mariadbd."
    )
else:
    live = dict(
        line.split("\t", 1)
        for line in printed(
            *("mariadb", f"--socket={socket}", "--batch", "--raw", "--skip-column-names", "--execute"),
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('bind_address', 'port', 'max_connections')",
        ).splitlines()
    )
    wrong = [f"{name} = {live[name]}" for name in sorted(live) if name in wanted and live[name] != wanted[name]]
    if wrong:
        print(f"mysql_settings: the server runs with {', '.join(wrong)}, not with what {ours} says. Restart mariadb.")

"""Have PostgreSQL read its files. Ends with 0 if that was enough, with 1 if a setting waits for a restart.

Usage: /usr/bin/python3 -c "$(cat reload.py)" VERSION/CLUSTER UNIT
"""

import subprocess
import sys
import time

cluster, unit = sys.argv[1:]


def ask(question: str) -> str:
    command = ["runuser", "-u", "postgres", "--", "psql", "--cluster", cluster, "-XAtqwc", question]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


before = ask("select pg_conf_load_time()")
if not before or subprocess.run(["systemctl", "reload", unit], check=False).returncode:
    sys.exit(1)
deadline = time.monotonic() + 10
while ask(f"select pg_conf_load_time() > '{before}'") != "t" and time.monotonic() < deadline:
    time.sleep(0.1)
sys.exit(ask("select count(*) from pg_settings where pending_restart") != "0")

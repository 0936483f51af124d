"""Say what MariaDB does not understand in a candidate for its settings, and where it could not listen.

Usage: /usr/bin/python3 -c "$(cat try_settings.py)" FILE ADDRESS...
"""

import re
import socket
import subprocess
import sys

file, *addresses = sys.argv[1:]
wrong = []
for address in addresses:
    try:
        found = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(*found[:3]) as tried:
            tried.bind(found[4])
    except OSError as error:
        wrong.append(f"mysql_listen_addresses: this host cannot listen on {address} ({error.strerror})")
command = ["mariadbd", f"--defaults-file={file}", "--user=mysql", "--help", "--verbose"]
done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
# It ends with 0 in spite of errors that keep InnoDB from starting.
wrong += re.findall(r"\[ERROR\] (?:Buffered error: )?(?:mariadbd: )?(.*)", done.stderr)
sys.exit("; ".join(wrong) or done.returncode)

"""Ask each modality whether it is there, from where Orthanc is.

Runs on the host, as root, with what Debian's Python has. Arguments: the configuration folder, the port, and the names
of modalities that are not asked. The login is read where Orthanc reads it. Prints JSON: of each modality that Orthanc
knows, what it knows, when it was seen last and by what, and what became of a C-ECHO to it. Nothing of any image is read
but which title has sent its series.
"""

import base64
import calendar
import concurrent.futures
import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

folder, port, *spared = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# Scanners are off at night: all of them are knocked at side by side, and only who opens is asked for more. In seconds.
KNOCKS, KNOCK = 256, 3
ECHOS, ECHO = 8, 5
LIMIT = 30
# How many of the newest series are asked for their sender, and in how many changes they are looked for where a release
# cannot list series alone.
SERIES, CHANGES = 200, 5000

with open(f"{folder}/credentials.json", encoding="utf-8") as file:
    login = ":".join(next(iter(json.load(file)["RegisteredUsers"].items())))


def ask(path: str, body: object = None) -> object:
    """Return Orthanc's answer; of a refusal what it says."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data)
    request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with opener.open(request, timeout=15) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with contextlib.suppress(ValueError):
            said = json.load(error)
            return str(said.get("Details") or said.get("Message"))
        return f"status {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error)


def sent() -> dict[str, float]:
    """Return when each title has sent one of the newest series, in seconds since 1970."""
    system, newest = ask("/system"), ask("/changes?last")
    if not isinstance(system, dict) or not isinstance(newest, dict):
        return {}
    last = int(newest.get("Last") or 0)
    listed = system.get("Capabilities", {}).get("HasExtendedChanges")
    how = f"type=NewSeries&to={last}&limit={SERIES}" if listed else f"since={max(0, last - CHANGES)}&limit={CHANGES}"
    found = ask(f"/changes?{how}")
    series = [
        change["ID"]
        for change in (found.get("Changes", []) if isinstance(found, dict) else [])
        if change["ChangeType"] == "NewSeries"
    ]
    times: dict[str, float] = {}
    for one in reversed(series[-SERIES:]):
        if time.monotonic() > end - LIMIT / 2:
            break
        told = ask(f"/series/{one}/metadata?expand")
        # It may be gone by now.
        if isinstance(told, dict) and told.get("RemoteAET") and told.get("LastUpdate"):
            # Orthanc has it in UTC.
            when = calendar.timegm(time.strptime(told["LastUpdate"][:15], "%Y%m%dT%H%M%S"))
            times[told["RemoteAET"]] = max(when, times.get(told["RemoteAET"], 0))
    return times


def logged() -> dict[tuple[str, str], float]:
    """Return when each title at its address has asked for an association, as far as Orthanc's log has that."""
    # The newest come first, so that what a huge log has no time for is what is old.
    command = ("timeout", "10", "journalctl", "--unit=orthanc", "--output=short-unix", "--no-pager", "--reverse")
    done = subprocess.run((*command, "--grep=Association Received from AET"), capture_output=True, check=False)
    times: dict[tuple[str, str], float] = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        found = re.match(r"([\d.]+) .*Association Received from AET (.*) on IP (\S+)", line)
        if found:
            times.setdefault((found[2], found[3]), float(found[1]))
    return times


def opens(modality: dict[str, object]) -> str:
    """Say why nothing takes a connection there; nothing if something does, which may be no modality."""
    if time.monotonic() > end:
        return f"not asked: {LIMIT} s were over"
    try:
        socket.create_connection((str(modality["Host"]), int(str(modality["Port"]))), timeout=KNOCK).close()
    except TimeoutError:
        return f"no answer within {KNOCK} s"
    except (OSError, ValueError, OverflowError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""


def echo(name: str) -> str:
    """Have Orthanc ask it by C-ECHO, and say what went wrong."""
    if time.monotonic() > end:
        return f"not asked: {LIMIT} s were over"
    answer = ask(f"/modalities/{name}/echo", {"Timeout": ECHO})
    return "" if isinstance(answer, dict) else re.sub(r'^DicomAssociation - [^"]*"[^"]*": ', "", str(answer))


end = time.monotonic() + LIMIT
known = ask("/modalities?expand")
if not isinstance(known, dict):
    raise SystemExit(f"/modalities?expand: {known}")
series, associations = sent(), logged()
asked = {name: modality for name, modality in known.items() if name not in spared}
with concurrent.futures.ThreadPoolExecutor(KNOCKS) as pool:
    closed = dict(zip(asked, pool.map(opens, asked.values()), strict=True))
open_ = [name for name, why in closed.items() if not why]
with concurrent.futures.ThreadPoolExecutor(ECHOS) as pool:
    refused = dict(zip(open_, pool.map(echo, open_), strict=True))

print(
    json.dumps(
        {
            name: {
                **{key: modality.get(key) for key in ("AET", "Host", "Port")},
                "sent": series.get(modality["AET"], 0),
                "associated": associations.get((modality["AET"], modality["Host"]), 0),
                "asked": name in asked,
                # Why it cannot be reached, or why it does not answer there.
                "closed": closed.get(name, ""),
                "refused": refused.get(name, ""),
            }
            for name, modality in known.items()
        }
    )
)

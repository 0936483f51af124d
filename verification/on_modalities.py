"""Ask each modality and each DICOMweb server whether it is there, from where Orthanc is.

Runs on the host, as root, with what Debian's Python has. Arguments: the configuration folder, the port, and the names
of modalities that are not asked. The login is read where Orthanc reads it. Prints JSON: of each modality that Orthanc
knows, what it knows, when it was seen last and by what, and what became of a C-ECHO to it; of each DICOMweb server,
what became of a search for a study that nobody has. Nothing of any image is read but which title has sent its series.
"""

import base64
import calendar
import concurrent.futures
import glob
import http.client
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
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
NOBODY = "2.25.0"

with open(f"{folder}/credentials.json", encoding="utf-8") as file:
    login = ":".join(next(iter(json.load(file)["RegisteredUsers"].items())))


def call(path: str, body: object = None) -> tuple[int, str]:
    """Return Orthanc's answer; status 0, and why, where there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data)
    request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with opener.open(request, timeout=15) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


def ask(path: str, body: object = None) -> object:
    """Return what Orthanc answers; of a refusal what it says."""
    status, text = call(path, body)
    try:
        said = json.loads(text)
    except ValueError:
        return f"status {status}" if status else text
    if status == 200 or not isinstance(said, dict):
        return said if status == 200 else f"status {status}"
    return str(said.get("Details") or said.get("Message"))


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


def opens(place: tuple[object, object]) -> str:
    """Say why nothing takes a connection there; nothing if something does, which may be no modality."""
    if time.monotonic() > end:
        return f"not asked: {LIMIT} s were over"
    try:
        socket.create_connection((str(place[0]), int(str(place[1]))), timeout=KNOCK).close()
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


def web() -> dict[str, dict[str, str]]:
    """Return each DICOMweb server, and what went wrong when Orthanc asked it."""
    options: dict[str, object] = {}
    for name in glob.glob(f"{folder}/*.json"):
        with open(name, encoding="utf-8") as file:
            options.update(json.load(file))
    section = options.get("DicomWeb")
    root = str(section.get("Root") or "/dicom-web/" if isinstance(section, dict) else "/dicom-web/").strip("/")
    # Without the plugin there is nothing at that path.
    found = ask(f"/{root}/servers?expand")
    servers = {name: str(one["Url"]) for name, one in found.items()} if isinstance(found, dict) else {}
    closed = [""] * len(servers)
    if not options.get("HttpProxy"):
        with concurrent.futures.ThreadPoolExecutor(KNOCKS) as pool:
            closed = list(pool.map(opens, map(place_of, servers.values())))
    return {
        name: {
            "Url": re.sub("//[^/@]*@", "//", url),
            "wrong": why or search(f"/{root}/servers/{urllib.parse.quote(name, safe='')}"),
        }
        for (name, url), why in zip(servers.items(), closed, strict=True)
    }


def place_of(url: str) -> tuple[object, object]:
    """Return host and port of a URL."""
    split = urllib.parse.urlsplit(url)
    try:
        return split.hostname, split.port or {"http": 80}.get(split.scheme, 443)
    except ValueError:
        return split.hostname, "no port"


def search(server: str) -> str:
    """Have Orthanc ask a DICOMweb server for a study that nobody has, and say what went wrong."""
    if time.monotonic() > end:
        return f"not asked: {LIMIT} s were over"
    asked = {"StudyInstanceUID": NOBODY, "limit": "1"}
    headers = {"Accept": "application/dicom+json"}
    status, text = call(f"{server}/get", {"Uri": "/studies", "Arguments": asked, "HttpHeaders": headers})
    try:
        said = json.loads(text or "[]")
    except ValueError:
        return "it answers no list of studies" if status == 200 else f"status {status}" if status else text
    if status == 200:
        return "" if isinstance(said, list) else "it answers no list of studies"
    if status != 500:
        return f"it answers {status} ({said.get('HttpError')})"
    # What it was Orthanc tells its log alone.
    command = ("journalctl", "--unit=orthanc", "--lines=50", "--output=cat", "--no-pager")
    log = subprocess.run(command, capture_output=True, check=False).stdout.decode("utf-8", "replace")
    told = re.findall(r"libCURL error: (.*?)(?: while accessing .*)?$", log, re.MULTILINE)
    return f"libCURL error: {told[-1]}" if told else str(said.get("Details") or said.get("Message"))


end = time.monotonic() + LIMIT
known = ask("/modalities?expand")
if not isinstance(known, dict):
    raise SystemExit(f"/modalities?expand: {known}")
series, associations = sent(), logged()
asked = {name: modality for name, modality in known.items() if name not in spared}
with concurrent.futures.ThreadPoolExecutor(KNOCKS) as pool:
    places = [(modality["Host"], modality["Port"]) for modality in asked.values()]
    closed = dict(zip(asked, pool.map(opens, places), strict=True))
open_ = [name for name, why in closed.items() if not why]
with concurrent.futures.ThreadPoolExecutor(ECHOS) as pool:
    refused = dict(zip(open_, pool.map(echo, open_), strict=True))

modalities = {
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
# Hundreds of modalities may have taken all of the time.
end = time.monotonic() + LIMIT
print(json.dumps({"modalities": modalities, "servers": web()}))

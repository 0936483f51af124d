"""Kills what a run does on a host at any of its steps, and looks at what is left."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import http.client
import json
import re
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.hosts.certificates import pem
from tests.hosts.conftest import Lab, run
from tests.hosts.test_database import image

# By which Ansible starts its modules on a host; a lab's host has it as a variable.
PYTHON = "/usr/local/sbin/cut-off-python"
KILLABLE = {"ansible_python_interpreter": PYTHON}
# What a module is killed at: before it, so that what came before is done. A fork is what runs a program.
FORKS = ("fork", "vfork", "clone", "clone3")
CALLS = ("rename", "renameat", "renameat2", "unlink", "unlinkat", "chmod", "fchmod", "fchmodat", "fsync", "fdatasync")
# Modules come by the input. Where /run/cut is, they are kept; the one that is named there is killed.
WRAPPER = """#!/bin/sh
cut=/run/cut
[ -d $cut ] && [ $# -eq 0 ] && [ "$(id -u)" = 0 ] || exec /usr/bin/python3 "$@"
cat > $cut/module
name=$(grep -o 'modules\\.[a-z_]*' $cut/module | head -n 1)
number=$(ls $cut | grep -c "[.]${name#modules.}[.]")
name=${name#modules.}.$((number + 1))
payload=$cut/$(date +%s%N).$name
mv $cut/module "$payload"
[ ! -e $cut/at ] || read -r module call at < $cut/at
if [ "$name" = "$module" ]; then
    exec strace -qq -e "trace=$call" -e "inject=$call:signal=KILL:when=$at" -o $cut/killed /usr/bin/python3 < "$payload"
fi
exec /usr/bin/python3 < "$payload"
"""
# Runs the modules of a run once more, as they were kept, to the first that fails: in a twentieth of the time.
AGAIN = f"""
import json, pathlib, subprocess, sys
folder, what, module, call, at = sys.argv[1:]
more = "," + call if what == "trace" and call != "-" else ""
traced = ["-f", "-y", "-s", "300", "-e", "trace={",".join(f"?{call}" for call in FORKS + CALLS)},execve" + more]
killed = ["-e", f"trace={{call}}", "-e", f"inject={{call}}:signal=KILL:when={{at}}"]
for payload in sorted(pathlib.Path(folder).iterdir()):
    name = payload.name.partition(".")[2]
    trace = pathlib.Path("/run/trace")
    trace.unlink(missing_ok=True)
    how = traced if what == "trace" else killed if name == module else []
    before = ["strace", "-qq", "-e", "signal=none", "-o", trace, *how] if how else []
    with payload.open() as file:
        done = subprocess.run([*before, "/usr/bin/python3"], stdin=file, capture_output=True, text=True)
    said = json.loads(done.stdout) if done.stdout.lstrip().startswith("{{") else {{"msg": done.stderr[-2000:]}}
    told = trace.read_text(errors="replace") if how else ""
    failed = bool(done.returncode or said.get("failed"))
    print(json.dumps({{"name": name, "failed": failed, "changed": said.get("changed", False), "trace": told,
                      "msg": str(said.get("msg", "")), "killed": done.returncode in (-9, 137)}}))
    if failed:
        break
"""
LINE = re.compile(r"(\d+) +(\w+)\((.*)")
CHILD = re.compile(r"(\d+) +(?:<\.\.\. )?(?:fork|vfork|clone|clone3)\b.*= (\d+)$")
# Ansible's own.
TEMPORARY = re.compile(r'[</"](tmp|\.ansible)/')
# Asks Orthanc itself for an image, with whichever of the passwords is the one of its only user.
ASK = """
import base64, hashlib, json, pathlib, sys, time, urllib.request
instance, *passwords = sys.argv[1:]
said, end = "", time.monotonic() + 60
while time.monotonic() < end:
    for password in passwords:
        login = base64.b64encode(f"proxy:{password}".encode()).decode()
        url = f"http://127.0.0.1:8042/instances/{instance}/file"
        try:
            asked = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
            print(hashlib.sha256(urllib.request.urlopen(asked, timeout=30).read()).hexdigest())
            sys.exit()
        except OSError as error:
            said = error
    time.sleep(0.3)
sys.exit(f"Orthanc does not answer: {said}")
"""
# What no run may leave behind, and no service that has not read what is there.
LEFT = (
    r"find /etc /opt /run /var/lib/pacs /usr/sbin/policy-rc.d -xdev \( -name '.*.new' -o -name '*.service.new'"
    r" -o -name '.new-*' -o -name 'pacs-nginx-*' -o -name before.json -o -name logins.json -o -name policy-rc.d \)"
    r" 2> /dev/null; for unit in orthanc nginx 'postgresql@*' mariadb docker nftables systemd-journald; do"
    r" systemctl show $unit --property NeedDaemonReload,Id | paste -s | grep =yes; done; true"
)


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a module is killed: before the n-th of its calls of a name. ``write_files.2`` is a run's second."""

    module: str
    call: str
    at: int
    what: str = ""

    def __str__(self) -> str:
        return f"{self.module} before {self.call} {self.at} ({self.what})"


def points(module: str, trace: str) -> list[Point]:
    """Return where a module can be killed, out of its trace; of what it repeats, the first and the last."""
    lines = trace.splitlines()
    # What a child ran first.
    programs: dict[str, str] = {}
    for line in lines:
        found = LINE.match(line)
        if found and found[2] == "execve" and line.endswith(" = 0"):
            programs.setdefault(found[1], " ".join(re.findall(r'"([^"]*)"', found[3])[1:])[:120])
    main = lines[0].split()[0]
    children = [found[2] for line in lines if (found := CHILD.match(line)) and found[1] == main]
    counted: dict[str, int] = {}
    made = []
    for line in lines:
        found = LINE.match(line)
        if not found or found[1] != main or found[2] == "execve":
            continue
        call = found[2]
        counted[call] = counted.get(call, 0) + 1
        if call in FORKS:
            child = children.pop(0) if children else ""
            what = programs.get(child, "")
        elif TEMPORARY.search(line):
            continue
        else:
            # A file, or what Orthanc is asked.
            paths = re.findall(r'[<"](/[^>"]*)[>"]', line) or re.findall(r'"([A-Z]+ /\S*) HTTP', line)
            what = paths[-1] if paths else ""
        # Names that are made up.
        what = re.sub(r"\.\w{8}\.new$", ".new", re.sub("/run/pacs-nginx-.*", "/run/pacs-nginx", what))
        made.append(Point(module, call, counted[call], what))
    kept: list[Point] = []
    for point in made:
        # What only waits, and the copy of nginx's files that is tried.
        waits = re.match(r"systemctl (show|is-)|/run/pacs-nginx|GET /", point.what)
        if waits and len(kept) > 1 and {kept[-1].what, kept[-2].what} == {point.what}:
            kept.pop()
        kept.append(point)
    return kept


def open_ports(lab: Lab) -> set[int]:
    """Return the ports that answer from outside; a listening one may have a packet filter before it."""
    listening = {int(line.split()[3].rpartition(":")[2]) for line in lab.shell("ss -Hltn").splitlines()}
    found = set()
    for port in listening:
        with contextlib.suppress(OSError), socket.create_connection((lab.address["pacs"], port), timeout=10):
            found.add(port)
    return found


def welcome(lab: Lab) -> bool:
    """Tell whether the page of nginx's package is served, under a name that none of ours has."""
    with (
        contextlib.suppress(OSError),
        contextlib.closing(http.client.HTTPConnection(lab.address["pacs"], timeout=10)) as asked,
    ):
        asked.request("GET", "/", headers={"Host": "elsewhere.example"})
        return asked.getresponse().status == 200
    return False


def restart(lab: Lab, *end: str) -> None:
    """Kill a host, start it, and wait until nothing is left to start: before, an open port may still be to come.

    :param end: by which words of Docker it ends, if it is not killed.
    """
    run("docker", *(end or ["kill"]), lab.container(), check=False)
    run("docker", "start", lab.container())
    deadline = time.monotonic() + 120
    while lab.shell("systemctl is-system-running", check=False).strip() not in ("running", "degraded"):
        assert time.monotonic() < deadline, lab.shell("systemctl list-jobs", check=False)
        time.sleep(0.5)


@functools.cache
def changes(lab: Lab) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two states of a site with a database, with other passwords, certificates and plugins each."""
    made = []
    for word, plugins in (("the first one", []), ("the second one", ["worklists"])):
        site, dicom = pem(lab.address["pacs"]), pem("pacs", old=True)
        made.append(
            {
                "orthanc_database_password": word,
                "orthanc_proxy_password": word,
                "nginx_tls_certificate": site[0],
                "nginx_tls_private_key": site[1],
                "postgresql_tls_certificate": site[0],
                "postgresql_tls_private_key": site[1],
                "orthanc_dicom_tls_certificate": dicom[0],
                "orthanc_dicom_tls_private_key": dicom[1],
                "orthanc_dicom_tls_trusted": dicom[0],
                "orthanc_plugins": ["dicomweb", *plugins],
                "orthanc_journal_mb": 64 * len(plugins),
            }
        )
    return made[0], made[1]


class Host:
    """A host whose runs are cut off, with one image in its archive."""

    def __init__(self, lab: Lab, **options: Any) -> None:
        """:param options: of each run."""
        self.lab, self._options = lab, options
        self.instance = ""
        self._states: dict[str, Mapping[str, Any]] = {}
        lab.shell(
            f"cat > {PYTHON} <<'END'\n{WRAPPER}END\nchmod 755 {PYTHON};"
            " command -v strace || { apt-get update -q; apt-get install -y -q strace; }"
        )

    def deploy(self, variables: Mapping[str, Any], check: bool = True) -> str:
        return self.lab.play(variables=variables, check=check, **self._options).stdout

    def upload(self) -> None:
        with self.lab.session() as session:
            self.instance = session.post(self.lab.url("/instances"), data=image(1), timeout=30).json()["ID"]

    def keep(self, name: str, variables: Mapping[str, Any]) -> None:
        """Deploy, and keep the modules that did it."""
        self.lab.shell("rm -rf /run/cut; mkdir -m 700 /run/cut")
        self.deploy(variables)
        self._states[name] = variables
        self.lab.shell(f"mkdir -p -m 700 /root/cut; rm -rf /root/cut/{name}; mv /run/cut /root/cut/{name}")

    def again(self, name: str, at: Point | None = None, what: str = "run") -> list[dict[str, Any]]:
        """Have the modules that were kept run once more. Return what each of them says."""
        point = at or Point("-", "-", 0)
        words = f"/root/cut/{name} {what} {point.module} {point.call} {point.at}"
        said = self.lab.shell(f"python3 - {words} <<'END'\n{AGAIN}\nEND")
        return [json.loads(line) for line in said.splitlines()]

    def points(self, name: str, also: str = "-") -> list[Point]:
        """Run the modules that were kept, and return where they could have been killed.

        :param also: a call besides the usual ones.
        """
        found = []
        for said in self.again(name, Point("-", also, 0), what="trace"):
            steps = points(said["name"], said["trace"])
            # One that changes nothing may be killed anywhere.
            found += steps if said["changed"] or any(step.call not in FORKS for step in steps) else []
        return found

    def cut(
        self,
        name: str,
        at: Point | None,
        *passwords: str,
        then: Callable[[], None] = lambda: None,
        idle: bool = True,
    ) -> bool:
        """Kill a run there, and see that the site works, and that the next run ends well, and leaves nothing to do.

        :param then: what is looked at before the next run.
        :param idle: whether the run after it is tried too.
        :returns: whether it came to that.
        """
        killed = bool(self.again(name, at)[-1]["killed"])
        then()
        if self.instance:
            self.answers(*passwords)
        wrong = [module for module in self.again(name) if module["failed"]]
        assert not wrong, f"the next run fails: {wrong}"
        # A login that was made and has no password yet counts as one whose password changes, and is proved by a task
        # that was none of the run that was kept.
        if "logins.json" in self.lab.shell(LEFT):
            self.deploy(self._states[name])
        self.well()
        wrong = [module for module in self.again(name) if module["failed"] or module["changed"]] if idle else []
        assert not wrong, f"the run after it is not idle: {wrong}"
        return killed

    def kill(self, variables: Mapping[str, Any], at: Point) -> str:
        """Deploy, with a module killed there, and return what was said."""
        where = f"{at.module} {at.call} {at.at}"
        self.lab.shell(f"rm -rf /run/cut; mkdir -m 700 /run/cut; echo '{where}' > /run/cut/at")
        said = self.deploy(variables, check=False)
        assert "SIGKILL" in self.lab.shell("cat /run/cut/killed; rm -r /run/cut", check=False), said
        return said

    def answers(self, *passwords: str) -> None:
        """See that Orthanc has the image, be it the old one or the new one, and that nothing else is open."""
        ports = open_ports(self.lab)
        assert ports <= {22, 80, 443, 4242}, f"open: {ports}"
        words = shlex.join(passwords or [self.lab.secrets["vault_orthanc_proxy_password"]])
        sha = self.lab.shell(f"python3 - {self.instance} {words} <<'END'\n{ASK}\nEND").strip()
        assert sha == hashlib.sha256(image(1)).hexdigest(), sha

    def well(self) -> None:
        """See that the site serves the image, and that nothing is left of a run that was cut off."""
        left = self.lab.shell(LEFT)
        assert not left, f"left: {left}"
        if not self.instance:
            return
        with self.lab.session() as session:
            answer = session.get(self.lab.url(f"/instances/{self.instance}/file"), timeout=30)
            assert answer.content == image(1), f"the proxy answers {answer.status_code}"

"""What real runs remove on a host, told by the kernel: nothing but files of the toolkit, wherever a run takes it."""

from __future__ import annotations

import posixpath
import re
from typing import Any

import pytest

from tests.hosts.conftest import Lab
from tests.hosts.test_database import image

pytestmark = pytest.mark.later
LAB = {"name": "removals", "pacs": "lsb", "mirror": "lsb-mirror"}
OLDEST, OLD, NEW = "1.9.7", "1.10.1", "1.12.7"
# All that one does who comes by SSH, to the last program that sudo starts.
TRACE = (
    "apt-get update -q; apt-get install -y -q strace; systemd-run --quiet --unit trace strace -f -qq -y -s 4096"
    " -e trace=unlink,unlinkat,rmdir,rename,renameat,renameat2,clone,clone3,fork,vfork,execve -e signal=none"
    " -o /root/trace -p $(systemctl show ssh --property MainPID --value); sleep 1; systemctl is-active trace"
)
# Of somebody else, in the very folders that the toolkit writes to.
FOREIGN = (
    *(
        "/etc/nginx/conf.d/other.conf",
        "/etc/nginx/other.crt",
        "/etc/systemd/system/other.service",
        "/opt/orthanc/notes",
    ),
    *("/var/lib/orthanc/db-v6/notes", "/etc/orthanc/other.json", "/etc/systemd/journald.conf.d/other.conf"),
)
# Packages do with theirs what they have to, below dpkg; and apt with its lists.
PACKAGES = re.compile(r"/(usr/bin/(dpkg|apt|apt-get|apt-key|gpgv)|usr/lib/apt/methods/\w+)$")
LISTS = re.compile(r"/var/(lib|cache)/apt/|/etc/apt/sources\.list\.d/orthanc\.sources$|/tmp/(apt|file)|/var/lib/dpkg/")
# What programs write for themselves, and what a run keeps until it has ended.
PASSING = re.compile(
    r"/(home/deploy|root)/\.ansible/tmp/|/tmp/|/var/tmp/|/run/(pacs|systemd|sudo|user|faillock|utmp)|/proc/"
    r"|/etc/g?(passwd|shadow|group)(\.\d+|\.lock)$|/usr/sbin/policy-rc\.d$|/opt/orthanc/\.new-"
    r"|/(root|home/deploy)/\.cache/|/var/lib/systemd/|/etc/systemd/system/[\w.-]+\.wants/|/var/lib/fail2ban/"
)
# Outside of marked folders a removed file is one of these, by its whole name.
NAMED = {
    "/etc/fail2ban/jail.d/orthanc.conf",
    "/etc/nginx/sites-enabled/default",
    "/etc/systemd/journald.conf.d/pacs.conf",
    "/etc/systemd/system/nginx.service",
    "/etc/systemd/system/orthanc.service",
    # The way back of a call that has ended well.
    "/var/lib/pacs/nginx/before.json",
}
CALL = re.compile(r"^(\d+) +(\w+)\((.*?)(?:\) += +(-?\d+).*|<unfinished \.\.\.>|)$")
RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>.*?\) += +(-?\d+)")
PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"([^"]*)"')


def removed(trace: str) -> list[str]:
    """Return the absolute paths that something other than the packages' programs has removed, or moved away."""
    packaging: set[str] = set()
    pending: dict[tuple[str, str], str] = {}
    found = []
    for line in trace.splitlines():
        call, resumed = CALL.match(line), RESUMED.match(line)
        if call and call[4] is None:
            pending[call[1], call[2]] = call[3]
            continue
        if call:
            process, name, arguments, result = call.groups()
        elif resumed:
            process, name, result = resumed.groups()
            arguments = pending.pop((process, name), "")
        else:
            continue
        if name in ("clone", "clone3", "fork", "vfork") and int(result) > 0:
            if process in packaging:
                packaging.add(result)
        elif name == "execve" and result == "0":
            program = PATH.match(arguments)
            if program and PACKAGES.search(program[2]):
                packaging.add(process)
        elif result == "0" and process not in packaging:
            paths = [posixpath.join(folder or "", path) for folder, path in PATH.findall(arguments)]
            # What takes the place of a file of the same name, written beside it, is a change.
            moved = name.startswith("rename") and posixpath.dirname(paths[0]) == posixpath.dirname(paths[-1])
            found += [] if moved else paths[:1]
    return found


def test_only_what_is_ours_is_removed(lab: Lab) -> None:
    lab.play("../lab/stand-in/prepare")
    lab.shell(TRACE)
    for path in FOREIGN:
        text = "server { listen 8081; }" if path.endswith("conf.d/other.conf") and "nginx" in path else "# not ours"
        lab.shell(f"mkdir -p {posixpath.dirname(path)}; echo '{text}' > {path}")
    # As the preflight says where that may be shared with what is there.
    lab.shell("touch /var/lib/orthanc/db-v6/.pacs")
    foreign = f"sha256sum {' '.join(FOREIGN)}"
    before = lab.shell(foreign)

    def deploy(check: bool = True, **variables: Any) -> str:
        return lab.play(variables=variables, check=check).stdout

    deploy()
    with lab.session() as session:
        instance = session.post(lab.url("/instances"), data=image(1), timeout=30).json()["ID"]
    # With all that comes and goes, ...
    deploy(orthanc_journal_mb=64, nginx_ban_after=10, orthanc_plugins=["dicomweb", "worklists"])
    deploy()
    # ... releases that are kept no longer, ...
    for release in (OLD, NEW):
        asked: dict[str, Any] = {"orthanc_install_method": "lsb", "orthanc_version": release}
        lab.play("lsb_lock", asked)
        deploy(**asked, orthanc_lsb_keep=1)
        lab.shell(f"cp -a /opt/orthanc/{OLD} /opt/orthanc/{OLDEST}; touch --date 2020-01-01 /opt/orthanc/{OLDEST}")
    deploy(**asked, orthanc_lsb_keep=1)
    assert lab.shell("ls /opt/orthanc").split() == [OLD, NEW, "current", "notes"]
    # ... and a change that Orthanc does not take.
    wrong = {"orthanc_settings_unchecked": {"DefaultEncoding": "Klingon"}}
    assert "that worked last is back" in " ".join(deploy(**asked, **wrong, check=False).split())

    lab.shell("systemctl stop trace")
    paths = removed(lab.shell("cat /root/trace"))
    marked = set(lab.shell("find / -xdev -name .pacs -type f -printf '%h\\n'").split()) | {
        f"/opt/orthanc/{OLDEST}",
        "/opt/orthanc",
    }
    wrong_ones = [
        path
        for path in paths
        if not (PASSING.match(path) or LISTS.match(path) or path in NAMED or posixpath.dirname(path) in marked)
    ]
    assert wrong_ones == []
    # The trace has what is known to have happened.
    assert f"/opt/orthanc/{OLDEST}/Orthanc" in paths
    assert "/etc/systemd/journald.conf.d/pacs.conf" in paths
    assert lab.shell(foreign) == before
    with lab.session() as session:
        assert session.get(lab.url(f"/instances/{instance}/file"), timeout=30).content == image(1)

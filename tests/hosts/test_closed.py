"""No secret of a site can be found where others look, and nothing opens again by itself."""

from __future__ import annotations

import base64
import json
import pathlib
import re
import socket
import time
from typing import Any

import pytest

from tests.hosts.certificates import pem
from tests.hosts.conftest import RELEASE, ROOT, Lab, run

LAB = {"name": "closed", "pacs": RELEASE}
SINGLE = ROOT / "inventories" / "single"
AUTHORITY = pem("Clinic")
SITE, DICOM = pem("pacs.example.org", by=AUTHORITY), pem("pacs", by=AUTHORITY, old=True)
VARIABLES = {
    "nginx_server_name": "pacs.example.org",
    "nginx_tls_certificate": SITE[0],
    "nginx_tls_private_key": SITE[1],
    "nginx_ban_after": 100,
    "orthanc_dicom_tls_certificate": DICOM[0],
    "orthanc_dicom_tls_private_key": DICOM[1],
    "orthanc_dicom_tls_trusted": AUTHORITY[0],
    "orthanc_peers": {"other": ["https://192.0.2.9/", "peer", "Peer-2026-uX4vRt8wQz1K"]},
}
# Looks at every process there is, again and again, and notes which secrets its words and its environment hold.
WATCH = """
import json, pathlib, sys, time
needles = json.loads(pathlib.Path("/root/watch/needles").read_text())
found = set()
while not pathlib.Path("/root/watch/stop").exists():
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                text = (process / name).read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            found |= {f"{who} in {name} of {text[:40]!r}" for who, what in needles.items() if what in text}
    time.sleep(0.02)
pathlib.Path("/root/watch/found").write_text(json.dumps(sorted(found)))
"""


class Site:
    """A site with all kinds of secrets, and what of each looks the same in every encoding."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.needles = {name: secret[-12:] for name, secret in lab.secrets.items() if "registry" not in name}
        self.needles["peer"] = "uX4vRt8wQz1K"
        for name, user in {"vault_orthanc_admin_password": "admin", "vault_orthanc_proxy_password": "proxy"}.items():
            self.needles[f"header of {user}"] = base64.b64encode(f"{user}:{lab.secrets[name]}".encode()).decode()[8:40]
        for name, key in {"key of the site": SITE[1], "key for DICOM": DICOM[1]}.items():
            self.needles[name] = key.splitlines()[1]

    def play(self, *arguments: str, **variables: Any) -> str:
        return self.lab.play(variables=VARIABLES | variables, inventory=SINGLE, arguments=arguments).stdout

    def found_in(self, text: str) -> list[str]:
        return [name for name, needle in self.needles.items() if needle in text]

    def watch(self) -> None:
        self._write("/root/watch/needles", json.dumps(self.needles))
        self._write("/root/watch/watch.py", WATCH)
        self.lab.shell("cd /root/watch; rm -f stop found; nohup python3 watch.py > log 2>&1 &")

    def watched(self) -> list[str]:
        self.lab.shell(
            "cd /root/watch; touch stop; for i in $(seq 100); do [ -e found ] && exit; sleep 0.1; done; exit 1"
        )
        found: list[str] = json.loads(self.lab.shell("cat /root/watch/found"))
        return found

    def logs(self) -> str:
        """Return all that the host has written down."""
        logs = "journalctl --all --no-pager --output verbose; find /var/log -type f -name '*log*' -exec cat {} +"
        return self.lab.shell(f"({logs}) | LC_ALL=C tr -cd '\\11\\12\\40-\\176'")

    def public(self) -> list[str]:
        """Return the files that anybody on the host can read and that hold a secret."""
        self._write("/run/needles/list", "\n".join(self.needles.values()))
        search = (
            "find / -xdev '(' -path /proc -o -path /sys ')' -prune -o -type f -readable -size -4096k -print0"
            " | xargs -0 grep -lF -f /dev/fd/3"
        )
        # The pattern comes through a door that is open already, since nobody else may read it.
        found = self.lab.shell(
            f'cd /; setpriv --reuid nobody --clear-groups sh -c "{search}" 3< /run/needles/list 2> /dev/null',
            check=False,
        )
        return found.split()

    def _write(self, path: str, text: str) -> None:
        file = self.lab.folder.with_suffix(".text")
        file.write_text(text, encoding="utf-8")
        self.lab.shell(f"install -d -m 700 {pathlib.PurePosixPath(path).parent}")
        run("docker", "exec", self.lab.container(), "true")
        run("sh", "-c", f"docker exec -i {self.lab.container()} sh -c 'cat > {path}' < {file}")

    def ports(self) -> str:
        return self.lab.shell("ss -Hltn | awk '{print $4}' | grep -v ^127.0.0.11 | sort")

    def is_open(self, port: int) -> bool:
        with socket.socket() as tried:
            tried.settimeout(5)
            return tried.connect_ex((self.lab.address["pacs"], port)) == 0


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    return Site(lab)


def test_no_secret_leaks(site: Site, tmp_path: pathlib.Path) -> None:
    site.watch()
    printed = site.play("-vvv", "--diff")
    # What was changed shows in differences, and a dry run tells of them too.
    other = {"orthanc_peers": {}, "orthanc_database_connections": 2, "nginx_users": {"second": "Second-uX4vRt8wQz1K"}}
    printed += site.play("-vvv", "--diff", "--check", **other)
    printed += site.play("-vvv", "--diff", **other)

    assert site.watched() == []
    assert "orthanc.json" in printed
    # From here the site has another name, so that the report tells of failures too.
    verify = VARIABLES | {"verification_report_dir": str(tmp_path)}
    printed += site.lab.play("verify", verify, ("-vvv", "--diff"), SINGLE, check=False).stdout
    reports = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert reports.keys() == {"junit.xml", "report.html"}
    assert site.found_in(" ".join(reports.values())) == []
    assert site.found_in(printed) == []
    assert site.found_in(site.logs()) == []
    assert site.public() == []


def test_a_leak_would_be_found(site: Site) -> None:
    """Each way of looking, at a secret that lies in its way."""
    secret = site.lab.secrets["vault_orthanc_admin_password"]
    site.watch()
    planted = f"secret=$(cat <<'END'\n{secret}\nEND\n)"
    site.lab.shell(f'{planted}\nSECRET="$secret" sleep 1; sh -c \'sleep 1; true\' "$secret"')
    site.lab.shell(
        f'{planted}\nlogger -- "$secret"; printf %s "$secret" > /srv/note; printf %s "$secret" > /var/log/x.log'
    )
    found = " ".join(site.watched())
    assert "vault_orthanc_admin_password in cmdline" in found
    assert "vault_orthanc_admin_password in environ" in found
    assert sorted(site.public()) == ["/srv/note", "/var/log/x.log"]
    site.lab.shell("chmod 600 /srv/note /var/log/x.log")
    assert site.public() == []
    assert site.found_in(site.logs()) == ["vault_orthanc_admin_password"]
    assert site.found_in(site.lab.shell("journalctl --all --no-pager")) == ["vault_orthanc_admin_password"]
    site.lab.shell("rm /srv/note /var/log/x.log")


@pytest.mark.later
def test_nothing_opens_again(site: Site) -> None:
    """Not by packages that are installed again, and not by a restart of the host."""
    state = (
        "stat --format '%n %a %U:%G' /etc/pacs /etc/pacs/*/* /var/lib/orthanc /etc/nginx/sites-enabled/* 2> /dev/null;"
        " systemctl show orthanc nginx --property FragmentPath,UnitFileState,ActiveState"
    )
    site.play()
    before, ports = site.lab.shell(state), site.ports()
    assert site.is_open(443)
    assert not site.is_open(8042)
    site.lab.shell(
        "DEBIAN_FRONTEND=noninteractive apt-get install -y -q --reinstall orthanc orthanc-postgresql orthanc-dicomweb"
        " nginx nginx-common fail2ban $(dpkg-query -W -f '${db:Status-Status} ${Package}\\n' 'postgresql-1*'"
        " | sed -n 's/^installed //p')"
    )
    settle(site)
    assert (site.lab.shell(state), site.ports()) == (before, ports)
    assert not site.is_open(8042)
    assert re.findall(r" changed=(\d+) ", site.play()) == ["0"]
    # Not by whoever loads the host's own rules again either; a flush by hand is mended by the next run.
    for verb in ("start", "reload", "restart", "stop"):
        site.lab.shell(f"systemctl {verb} nftables")
        assert not site.is_open(8042), verb
    site.lab.shell("nft flush ruleset")
    assert site.is_open(8042), "this release binds to the host itself, so the test says nothing"
    assert re.findall(r" changed=(\d+) ", site.play("--check")) == ["1"]
    assert re.findall(r" changed=(\d+) ", site.play()) == ["1"]
    assert not site.is_open(8042)
    # With a restart come back what Docker had in that packet filter, and ours.
    run("docker", "restart", site.lab.container())
    settle(site)
    assert (site.lab.shell(state), site.ports()) == (before, ports)
    assert site.is_open(443)
    assert not site.is_open(8042)
    assert re.findall(r" changed=(\d+) ", site.play()) == ["0"]


def settle(site: Site) -> None:
    """Wait until the host is up and Orthanc serves DICOM."""
    deadline = time.monotonic() + 90
    while not (site.is_open(22) and site.is_open(443) and site.is_open(4242)):
        assert time.monotonic() < deadline, site.lab.shell("systemctl --failed; journalctl -u orthanc -n 20")
        time.sleep(0.5)
    site.lab.shell("for i in $(seq 60); do systemctl is-active -q orthanc nginx && exit; sleep 0.5; done; exit 1")

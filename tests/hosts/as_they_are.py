"""Hosts as they are in hospitals: what is in force there before anybody deploys; ``make test-as-they-are``."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.hosts.conftest import QUICKSTART, Lab

PASSWORD = "sudo's own p\"assword ü"
# What is the same on both hosts: a banner, login shells that talk, words in German, a /tmp that nothing is run in,
# a package that is held, and no list of packages.
PECULIAR = r"""
echo 'For authorised use only.' > /etc/issue.net; echo 'Banner /etc/issue.net' > /etc/ssh/sshd_config.d/banner.conf
for home in /root /home/deploy; do sed -i '1i echo Willkommen; echo Vorsicht >&2; umask 077' $home/.bashrc; done
apt-get update -q; apt-get install -y -q locales > /dev/null
sed -i 's/# de_DE.UTF-8/de_DE.UTF-8/' /etc/locale.gen; locale-gen > /dev/null
for file in /etc/default/locale /etc/environment; do echo 'LANG=de_DE.UTF-8' >> $file; done
mount -t tmpfs -o noexec,nosuid,nodev none /tmp; mount -t tmpfs -o noexec,nosuid,nodev none /var/tmp
apt-mark hold openssl ca-certificates
rm -rf /var/lib/apt/lists/*; systemctl reload ssh
"""
# How one becomes root: what sudo is told, and what the inventory says of it.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    # With a password; each file that root makes is for root alone, and what runs has a terminal of its own.
    "password": (
        "Defaults umask=0077, umask_override, use_pty\ndeploy ALL=(ALL) ALL\n",
        {"ansible_become_password": PASSWORD},
    ),
    # From a terminal only.
    "terminal": (
        "Defaults requiretty, umask=0077, umask_override\ndeploy ALL=(ALL) NOPASSWD: ALL\n",
        {"ansible_pipelining": False},
    ),
    # Without sudo: by the password of root, who has no folders for the system's programs in the path then.
    "su": ("", {"ansible_become_method": "su", "ansible_become_password": PASSWORD}),
}


class Site:
    """Two hosts and the inventory by which they are reached."""

    def __init__(self, lab: Lab, folder: pathlib.Path, reached: dict[str, dict[str, Any]]) -> None:
        self.lab, self.inventory = lab, folder
        (folder / "group_vars").symlink_to(QUICKSTART / "group_vars")
        hosts = {"hosts": dict.fromkeys(lab.address)}
        (folder / "hosts.yml").write_text(yaml.safe_dump({"orthanc": hosts, "nginx": hosts}), encoding="utf-8")
        (lab.folder / "host_vars").mkdir()
        for host, variables in reached.items():
            (lab.folder / "host_vars" / f"{host}.json").write_text(json.dumps(variables), encoding="utf-8")

    def prove(self) -> None:
        """Deploy, see that nothing more is to be done then, and verify."""
        self.lab.play(inventory=self.inventory, timeout=900)
        again = self.lab.play(inventory=self.inventory, timeout=900).stdout
        assert set(re.findall(r" changed=(\d+) ", again)) == {"0"}, again
        said = " ".join(self.lab.play("verify", inventory=self.inventory, timeout=900).stdout.split())
        assert re.search(r"\(conform\): as wanted\.", said), said
        for host in self.lab.address:
            print(host, re.findall(r"\d+ passed, 0 failed.*? s'", said))


@pytest.fixture(
    scope="module",
    params=[
        {"pacs": ("bookworm", "password"), "other": ("trixie", "terminal")},
        {"pacs": ("trixie", "password"), "other": ("bookworm", "su")},
    ],
    ids=["sudo", "su"],
)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    hosts: dict[str, tuple[str, str]] = request.param
    lab = Lab(f"as-they-are-{hosts['other'][1]}", **{host: release for host, (release, _) in hosts.items()})
    for host, (_, way) in hosts.items():
        lab.shell(PECULIAR, host)
        passwords = f"chpasswd <<'END'\ndeploy:{PASSWORD}\nroot:{PASSWORD}\nEND\n"
        lab.shell(f"{passwords}cat > /etc/sudoers.d/deploy <<'END'\n{WAYS[way][0]}END", host)
    made = Site(lab, tmp_path_factory.mktemp("as-they-are"), {host: WAYS[way][1] for host, (_, way) in hosts.items()})
    yield made
    lab.destroy()


def test_hosts_as_they_are(site: Site) -> None:
    # Somebody else installs something just now, for as long as unattended upgrades may take.
    lock = "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, 2); time.sleep(40)"
    for host in site.lab.address:
        site.lab.shell(f'systemd-run --quiet python3 -c "{lock}"', host)
    site.prove()
    # What was held stays held.
    assert "openssl" in site.lab.shell("apt-mark showhold")

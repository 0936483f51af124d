"""Studies that are sent on to a real Orthanc, as a modality and as a peer, out of a container and out of PostgreSQL.

The destination is away while they come, and the senders are killed on the way; in the end it has all of them, as they
are.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pathlib
import subprocess
from typing import Any

import pydicom
import pytest
import requests
import yaml

from tests.hosts.conftest import ROOT, Lab
from tests.hosts.test_rules import image, wait
from tests.hosts.test_scripts import SEVERAL, START
from tests.hosts.test_worklists import HEAD
from tests.hosts.test_worklists import ROWS as WORKLISTS

pytestmark = pytest.mark.later
LAB = {
    "name": "routes",
    "pacs": {"release": "trixie", "volumes": ["/var/lib/docker"]},
    "old": "bookworm-installed",
    "archive": "trixie-installed",
}
SENDERS = ["pacs", "old"]
STUDIES = 12
TRIALS = "journalctl --unit pacs-orthanc-trial --output cat --quiet | grep -c ^Started; true"
# An image as a site has it made: with a plugin that the public ones have, and the stand-ins of the lab have not.
LAB_IMAGE = os.environ.get("PACS_LAB_IMAGE") or "pacs-lab"
OWN = f"{LAB_IMAGE}-standin:own"
DOCKERFILE = f"""
FROM {LAB_IMAGE}:trixie-installed
RUN apt-get update -q && apt-get install -y -q --no-install-recommends orthanc-python python3-pydicom && apt-get clean
"""
PAIR = ROOT / "inventories" / "pair"
SITE: dict[str, Any] = {
    **yaml.safe_load((PAIR / "group_vars" / "all" / "main.yml").read_text(encoding="utf-8")),
    "verification_level": "probe",
    "verification_modality": "",
}
# What the container sees of the host besides.
TABLE = "/srv/ris/today.csv"
ROUTES = [{"to": "archive", "when": {"Modality": "CT"}}, {"to": "archive-web", "when": {"Modality": "MR"}}]


class Site:
    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory = lab, folder / "inventory"
        self.inventory.mkdir()
        hosts = {"hosts": dict.fromkeys(lab.address)}
        groups = {"orthanc": hosts, "nginx": hosts, "postgresql": {"hosts": {"old": None}}}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
        address = lab.address["archive"]
        # Both are one Orthanc: it is known as a modality and as a peer.
        sender: dict[str, Any] = {
            "orthanc_modalities": lab.modalities | {"archive": {"AET": "ARCHIVE", "Host": address, "Port": 4242}},
            "orthanc_peers": {
                "archive-web": {
                    "Url": f"https://{address}/",
                    "Username": "peer",
                    "Password": "{{ vault_orthanc_peer_password }}",
                }
            },
            "orthanc_plugins": ["dicomweb", "python"],
            "orthanc_routes": ROUTES,
            "orthanc_settings": {"StableAge": 3, "JobsHistorySize": 1},
        }
        own: dict[str, dict[str, Any]] = {
            "pacs": sender
            | {
                "orthanc_install_method": "docker",
                "orthanc_docker_image": OWN,
                "orthanc_docker_plugin_dir": "/usr/share/orthanc/plugins",
                "orthanc_worklists_table": TABLE,
            },
            "old": sender
            | {
                "orthanc_database": "postgresql",
                "orthanc_database_password": "{{ vault_orthanc_database_password }}",
            },
            "archive": {
                "orthanc_modalities": lab.modalities
                | {name: {"AET": name.upper(), "Host": lab.address[name], "Port": 4242} for name in SENDERS}
            },
        }
        (lab.folder / "host_vars").mkdir()
        for name, variables in own.items():
            content = json.dumps(SITE | {"orthanc_aet": name.upper()} | variables)
            (lab.folder / "host_vars" / f"{name}.json").write_text(content, encoding="utf-8")
        self.sessions: dict[str, requests.Session] = {}

    def bring_image(self) -> None:
        """Have the image on the host, as one that was made there: no registry has it."""
        subprocess.run(["docker", "build", "--quiet", "--tag", OWN, "-"], input=DOCKERFILE, text=True, check=True)
        install = "DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends"
        self.lab.shell(f"apt-get update -q && {install} docker.io docker-cli && systemctl start docker")
        load = ["docker", "exec", "-i", self.lab.container(), "docker", "load"]
        with subprocess.Popen(["docker", "save", OWN], stdout=subprocess.PIPE) as saved:
            subprocess.run(load, stdin=saved.stdout, check=True)

    def play(self, playbook: str = "site", check: bool = True, **variables: Any) -> str:
        return self.lab.play(playbook, variables, inventory=self.inventory, check=check).stdout

    def ask(self, host: str, method: str, path: str, data: bytes | None = None) -> requests.Response | None:
        """Ask an Orthanc, which may have been killed; nothing where it does not answer well."""
        if host not in self.sessions:
            self.sessions[host] = self.lab.session(host)
        with contextlib.suppress(requests.RequestException):
            answer = self.sessions[host].request(method, self.lab.url(path, host), data=data, timeout=60)
            return answer if answer.ok else None
        return None

    def told(self, host: str) -> dict[str, Any]:
        found: dict[str, Any] = wait(lambda: self.ask(host, "GET", "/pacs/routes")).json()
        return found

    def kill(self, host: str) -> None:
        self.lab.shell("pkill -9 -x Orthanc", host)

    def there(self, uid: str) -> bytes:
        """Return the file that the archive has of an image; nothing where it has none."""
        found = self.ask("archive", "POST", "/tools/lookup", uid.encode())
        for one in found.json() if found else []:
            file = self.ask("archive", "GET", f"/instances/{one['ID']}/file")
            return file.content if file else b""
        return b""


def read(content: bytes) -> pydicom.Dataset:
    found = pydicom.dcmread(io.BytesIO(content))
    # What pads a file does not travel by DICOM, and the head is that of whoever writes it.
    found.pop(0xFFFCFFFC, None)
    return pydicom.Dataset(found)


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("routes"))
    made.bring_image()
    made.lab.shell(f"mkdir -p {TABLE.rpartition('/')[0]}; echo '{HEAD}' > {TABLE}")
    made.play("certificates")
    made.play()
    return made


def test_it_is_proved_and_stays(site: Site) -> None:
    assert ": as wanted." in " ".join(site.play("verify").split())
    for host in SENDERS:
        told = site.told(host)
        assert (told["Problem"], sorted(told["Destinations"])) == ("", ["archive", "archive-web"])
    assert site.lab.shell("docker ps --format '{{.Image}}'").strip()


@pytest.mark.parametrize("host", SENDERS)
def test_every_study_arrives(site: Site, host: str) -> None:
    studies: dict[str, bytes] = {}
    for study in range(STUDIES):
        kind = "MR_small.dcm" if study % 3 == 2 else "CT_small.dcm"
        studies.update(image(host, study, number, kind) for number in range(3))
    foreign = dict([image(host, 100, 0, "CT_small.dcm", Modality="OT")])
    site.lab.shell("systemctl stop orthanc", "archive")
    for number, content in enumerate((*studies.values(), *foreign.values())):
        wait(functools.partial(site.ask, host, "POST", "/instances", content))
        if number == len(studies) // 2:
            site.kill(host)
    wait(lambda: sum(one["Failed"] for one in site.told(host)["Destinations"].values()) > 1)
    site.kill(host)
    wait(lambda: site.ask(host, "GET", "/system"))
    site.lab.shell("systemctl start orthanc", "archive")
    wait(lambda: site.ask("archive", "GET", "/system"))
    assert wait(lambda: site.ask(host, "POST", "/pacs/routes"))
    wait(lambda: len(wait(lambda: site.ask("archive", "GET", "/instances")).json()) > 5)
    # In the middle of it the destination is killed, and then the sender.
    site.kill("archive")
    site.kill(host)
    wait(lambda: site.ask("archive", "GET", "/system"))
    wait(lambda: (told := site.told(host)) and not told["Waiting"] and not told["Arriving"], 600)
    for uid, content in studies.items():
        found = read(wait(functools.partial(site.there, uid)))
        assert found == read(content)
    assert not site.there(next(iter(foreign)))


def test_container_reads_the_table_of_worklists(site: Site) -> None:
    for number in (1, 2):
        rows = [HEAD, *WORKLISTS[:number]]
        script = f"cat > {TABLE}.new <<'END'\n{chr(10).join(rows)}\nEND\nmv {TABLE}.new {TABLE}"
        site.lab.shell(f"mkdir -p {TABLE.rpartition('/')[0]}; {script}")
        told = wait(lambda: site.ask("pacs", "GET", "/pacs/worklists")).json()
        assert (told["Steps"], told["Problem"], told["LeftOut"]) == (number, "", [])


def test_scripts_of_ones_own_run_in_the_container(site: Site, tmp_path: pathlib.Path) -> None:
    """They are tried in a container of that image, and run beside those of the role."""
    file = site.lab.folder / "host_vars" / "pacs.json"
    before = file.read_text(encoding="utf-8")

    def deploy(scripts: dict[str, str], check: bool = True) -> str:
        for name, text in scripts.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        asked = json.loads(before) | {"orthanc_scripts": [{"file": str(tmp_path / name)} for name in scripts]}
        file.write_text(json.dumps(asked), encoding="utf-8")
        done = site.lab.play("site", {}, ("--limit", "pacs"), site.inventory, check=check)
        return " ".join(done.stdout.replace("\\n", " ").split())

    def state() -> tuple[str, str]:
        return site.lab.shell(START), site.lab.shell("sha256sum /etc/pacs/orthanc/*")

    tried = int(site.lab.shell(TRIALS))
    deploy(SEVERAL)
    assert int(site.lab.shell(TRIALS)) == tried + 1
    _uid, content = image("pacs", 200, 0, "CT_small.dcm", Modality="OT")
    stored = wait(lambda: site.ask("pacs", "POST", "/instances", content)).json()
    assert wait(lambda: site.ask("pacs", "GET", f"/instances/{stored['ID']}/metadata/3000")).text == "by Python"
    assert site.ask("pacs", "DELETE", f"/instances/{stored['ID']}")
    assert sorted(site.told("pacs")["Destinations"]) == ["archive", "archive-web"]
    log = site.lab.shell("journalctl -u orthanc --output cat")
    assert "throws.py: Traceback (most recent call last)" in log
    assert "changed=0 " in deploy(SEVERAL)
    assert int(site.lab.shell(TRIALS)) == tried + 1
    now = state()
    for text, expected in (
        ("import not_there_at_all\n", "ModuleNotFoundError"),
        ("import os\nos._exit(0)\n", "and Orthanc ends."),
        ("x = []\nwhile True: x.append(b'x' * 2**20)\n", "MemoryError"),
        (
            "import urllib.request\nurllib.request.urlopen('http://192.0.2.1/', timeout=9)\n",
            "Network is unreachable",
        ),
    ):
        said = deploy(SEVERAL | {"bad.py": text}, check=False)
        assert "failed=1" in said
        assert "orthanc_scripts: bad.py was tried, apart from the site, and Orthanc" in said
        assert expected in said
        assert state() == now
        assert not site.lab.shell("docker ps --all --filter name=trial --quiet; ls -d /run/pacs-?* 2> /dev/null; true")
    deploy({})
    assert not site.lab.shell("ls /etc/pacs/orthanc | grep -E '^(seen|throws)'; true")
    file.write_text(before, encoding="utf-8")


def test_what_comes_later_follows(site: Site) -> None:
    """A peer and a modality, without a kill: within seconds."""
    for host in SENDERS:
        late = dict(image(host, 0, number, "CT_small.dcm") for number in (7, 8))
        for content in late.values():
            assert site.ask(host, "POST", "/instances", content)
        for uid, content in late.items():
            assert read(wait(functools.partial(site.there, uid))) == read(content)
        assert site.told(host)["Problem"] == ""

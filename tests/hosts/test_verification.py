"""The verification itself: on good sites of two releases, and on bad ones of many kinds."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests
import yaml
from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1

from tests.checks import left_out, rows
from tests.hosts.certificates import pem
from tests.hosts.conftest import ENVIRONMENT, QUICKSTART, ROOT, Lab
from verification.patient import CT, transfer_syntaxes

LAB = {"name": "verification", "pacs": "trixie-installed", "old": "bookworm-installed"}
# All that the suite can make use of.
WANTED = {"orthanc_plugins": ["dicomweb", "gdcm", "worklists"], "orthanc_settings": {"DefaultEncoding": "Utf8"}}
PROXY = "/etc/nginx/conf.d/orthanc.conf"


def answers(port: int = 8042) -> str:
    """Return a command that waits until somebody answers at a port of the host."""
    ask = f"curl --silent --output /dev/null --max-time 5 http://127.0.0.1:{port}/"
    return f"for i in $(seq 600); do {ask} && break; sleep 0.2; done"


# What hosts of hospitals say before, and login shells beside what they are asked.
NOISE = """
echo 'For authorised use only.' > /etc/issue.net; echo 'Banner /etc/issue.net' > /etc/ssh/sshd_config.d/banner.conf
for home in /root /home/deploy; do sed -i '1i echo Welcome; echo Mind the gap >&2' $home/.bashrc; done
systemctl reload ssh
"""
# What needs another topology than a single host with SQLite, the viewer, or rules, whatever its release.
ELSEWHERE = {
    "test_access::test_relay_is_for_the_proxy_only",
    "test_address::test_address_lets_no_stranger_in",
    "test_address::test_address_serves",
    "test_address::test_address_takes_dicom",
    "test_address::test_balancers_take_all_for_working",
    "test_address::test_one_host_has_the_address",
    "test_backup::test_last_backup_is_good_and_new",
    "test_cluster::test_all_others_follow_it",
    "test_cluster::test_another_server_could_take_its_place",
    "test_cluster::test_etcd_has_all_its_members",
    "test_cluster::test_one_server_is_primary",
    "test_cluster::test_what_is_acknowledged_is_on_two_hosts",
    "test_database::test_connection_to_another_host_is_encrypted",
    "test_database::test_database_is_closed_to_this_machine",
    "test_database::test_files_are_in_the_database",
    "test_database::test_login_has_no_power_over_the_server",
    "test_database::test_login_stays_out_of_other_databases",
    "test_database::test_plain_connection_from_another_host_is_refused",
    "test_database::test_settings_are_in_force",
    "test_database::test_study_is_in_the_database",
    "test_database::test_wrong_password_is_refused",
    "test_hardening::test_database_is_for_this_host_alone",
    "test_dicom::test_worklists_of_the_table_are_found",
    "test_ingest::test_images_for_research_have_no_patient",
    "test_ingest::test_images_become_what_the_entries_say",
    "test_ingest::test_modalities_are_told_what_is_refused",
    "test_modalities::test_dicomweb_servers_answer",
    "test_modalities::test_modalities_take_us_for_one",
    "test_pair::test_image_is_fetched_from_the_modality",
    "test_pair::test_modality_takes_several",
    "test_pair::test_modality_takes_them_by_a_job",
    "test_pair::test_peer_gets_images_alone",
    "test_pair::test_peer_takes_one",
    "test_pair::test_peer_takes_several",
    "test_pair::test_peer_takes_them_by_a_job",
    "test_remote::test_peers_answer",
    "test_viewer::test_browsers_keep_of_the_viewer_what_never_changes",
    "test_viewer::test_files_of_the_viewer_are_as_deployed",
    "test_viewer::test_page_of_the_viewer_has_all_its_parts",
    "test_viewer::test_viewer_is_for_users_alone",
    "test_viewer::test_viewer_knows_no_other_host",
    "test_viewer::test_viewer_reads_images_of_this_site",
    "test_viewer::test_viewer_says_what_its_page_may_do",
}
# What a release cannot do: all that the newer ones can, and 1.10.1 cannot.
LACKING = {
    "1.13.0": set[str](),
    "1.12.7": set[str](),
    "1.10.1": {
        "test_anonymisation::test_study_is_given_to_another_patient",
        "test_dicomweb::test_wado_gives_an_uncompressed_image",
        "test_pictures::test_array_of_a_series",
        "test_pictures::test_array_of_an_image",
        "test_rest::test_find_gives_requested_tags",
    },
}


class Site:
    """Two hosts of two releases, and how they are verified."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab = lab
        self.inventory, self.report = folder / "inventory", folder / "report"
        self.inventory.mkdir()
        (self.inventory / "group_vars").symlink_to(QUICKSTART / "group_vars")
        hosts = {"hosts": {"pacs": None, "old": None}}
        text = yaml.safe_dump({"orthanc": hosts, "nginx": hosts})
        (self.inventory / "hosts.yml").write_text(text, encoding="utf-8")

    def deploy(self, variables: Mapping[str, Any] | None = None) -> None:
        self.lab.play(variables=WANTED | dict(variables or {}), inventory=self.inventory)

    def verify(self, variables: Mapping[str, Any] | None = None, hosts: str = "pacs", good: bool = True) -> str:
        """Verify, and return what was said, each blank one space."""
        given = WANTED | {"verification_report_dir": str(self.report)} | dict(variables or {})
        done = self.lab.play("verify", given, ("--limit", hosts), inventory=self.inventory, check=good)
        assert good or done.returncode, "a bad site passes"
        for secret in self.lab.secrets.values():
            assert secret not in done.stdout
        # In YAML, a quote inside of a quoted text is doubled.
        return " ".join(done.stdout.split()).replace("''", "'")

    def cases(self) -> Iterator[tuple[str, str, str, ElementTree.Element]]:
        """Read the JUnit report: host, name, outcome and the rest of each check."""
        for case in ElementTree.parse(self.report / "junit.xml").iter("testcase"):
            test, _, parameters = str(case.get("name")).partition("[")
            host = next((name for name in self.lab.address if re.match(rf"{name}\b", parameters)), "")
            outcome = next((child.tag for child in case if child.tag != "properties"), "passed")
            yield host, f"{case.get('classname')}::{test}", outcome, case

    def seconds(self, host: str) -> float:
        """Tell how long the checks on a host took."""
        return sum(float(str(case.get("time"))) for name, _, _, case in self.cases() if name == host)

    def ask(self, method: str, path: str, host: str = "pacs", data: bytes = b"") -> requests.Response:
        """Ask a site, with a client that may do anything."""
        certificate = self.lab.folder.with_suffix(".crt")
        certificate.write_text(self.lab.shell("cat /etc/pacs/nginx/self-signed-*.crt", host), encoding="utf-8")
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(certificate)
            session.auth = (b"admin", self.lab.secrets["vault_orthanc_admin_password"].encode())  # type: ignore[assignment]
            return session.request(method, f"https://{self.lab.address[host]}{path}", data=data, timeout=20)

    def images(self, host: str = "pacs") -> int:
        """Count the images on a host."""
        return int(self.ask("GET", "/statistics", host).json()["CountInstances"])


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("verification"))
    for host in lab.address:
        lab.shell(NOISE, host)
    made.deploy()
    return made


def test_two_releases(site: Site) -> None:
    """What is left out is just what is known; each call of the documentation is made; nothing stays."""
    assert ": as wanted." in site.verify(hosts="pacs,old")
    calls: dict[tuple[str, str], set[str]] = defaultdict(set)
    for host, name, _, case in site.cases():
        calls[host, name] |= {str(one.get("value")) for one in case.iter("property") if one.get("name") == "call"}
    for host in site.lab.address:
        release = site.ask("GET", "/system", host).json()["Version"]
        assert left_out(site.report / "junit.xml", host) == ELSEWHERE | LACKING[release]
        assert site.images(host) == 0
        # A minute or less where the machine does nothing else.
        assert site.seconds(host) < 600
    for row in rows():
        name = f"{pathlib.Path(row.file).stem}::{row.test}"
        if row.on_site and row.call and name not in ELSEWHERE:
            assert row.call in calls["pacs", name], f"{name} does not call {row.call}"


def test_probe_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # What somebody has for tests of their own is nothing to it.
    monkeypatch.setitem(ENVIRONMENT, "PYTEST_ADDOPTS", "-p none.of.ours")
    before = site.ask("GET", "/changes?last").json()["Last"]
    assert "pacs (probe): as wanted." in site.verify({"verification_level": "probe"})
    assert site.ask("GET", "/changes?last").json()["Last"] == before
    # Seconds where the machine does nothing else.
    assert site.seconds("pacs") < 150


def test_logs_are_cleared(site: Site) -> None:
    """What the verification of a site in use must not do, and its guard refuses."""
    path = site.ask("POST", "/instances", data=CT.content).json()["Path"]
    assert site.ask("GET", "/changes").json()["Changes"]
    for log, key in (("/changes", "Changes"), ("/exports", "Exports")):
        assert site.ask("DELETE", log).status_code == 200
        assert site.ask("GET", log).json()[key] == []
    assert site.ask("DELETE", path).status_code == 200


def bad(site: Site, break_it: str, words: str, **variables: Any) -> None:
    """Break the site by a script, see what the verification makes of it, and put the proxy right again."""
    site.lab.shell(f"cp -p {PROXY} /root/proxy.conf; {break_it}")
    begin = time.monotonic()
    try:
        said = site.verify(variables, good=False)
    finally:
        site.lab.shell(f"cp -p /root/proxy.conf {PROXY}; systemctl start orthanc; systemctl reload nginx")
    assert words in said
    assert "NOT AS WANTED" in said
    # Of a busy machine too; a run that hangs takes an hour.
    assert time.monotonic() - begin < 900


def proxied_to(port: int) -> str:
    return f"sed -i 's|server 127.0.0.1:[0-9]*|server 127.0.0.1:{port}|' {PROXY}; systemctl reload nginx"


LOOSE = """
[Service]
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
AmbientCapabilities=CAP_NET_BIND_SERVICE
NoNewPrivileges=false
ProtectSystem=false
ProtectHome=false
PrivateDevices=false
PrivateUsers=false
RestrictNamespaces=false
SystemCallFilter=
"""


def test_host_that_was_opened_by_hand(site: Site) -> None:
    """Its sandbox is loose, its packet filter gone, and nobody keeps its clock."""
    drop_in, virtual = "/etc/systemd/system/orthanc.service.d", "/usr/local/bin/systemd-detect-virt"
    start = f"systemctl daemon-reload; systemctl restart orthanc; {answers()}"
    loosen = f"mkdir {drop_in}; cat > {drop_in}/loose.conf <<'END'\n{LOOSE}END\n{start}; nft delete table inet orthanc;"
    probe: dict[str, Any] = {"verification_level": "probe"}
    try:
        # It says that this is no container, whose clock would be that of its host.
        site.lab.shell(f"{loosen} printf '#!/bin/sh\nexit 1\n' > {virtual}; chmod 755 {virtual}")
        said = site.verify(probe, good=False)
        assert "the clock is synchronised: expected True, got False; see timedatectl" in said
        assert "port 8042 is closed to other hosts: expected True, got False" in said
        assert re.search(r"what Orthanc's process may do: .* got {'root': 'no', 'capabilities': '400'", said)
        assert re.search(r"exposure \d\.\d is at most 1.5: expected True, got False", said)
    finally:
        site.lab.shell(f"rm -r {drop_in}; {start}")
    try:
        accepted = probe | {"verification_accepted_risks": ["clock"]}
        assert ": as wanted." in site.verify(accepted)
    finally:
        site.lab.shell(f"rm {virtual}")
    page = (site.report / "report.html").read_text(encoding="utf-8")
    for told in ("4242/tcp on 0.0.0.0", "packet filter refuses other hosts", "not synchronised, 0."):
        assert told in page


def test_firewall_that_drops_is_told_once(site: Site) -> None:
    """Each port that is silent costs its time once, and is named, with its host."""
    wall = "add table inet wall; add chain inet wall i { type filter hook input priority -10; }"
    site.lab.shell(f"nft '{wall}; add rule inet wall i tcp dport {{ 443, 4242 }} drop'")
    try:
        said = site.verify({"verification_level": "probe"}, good=False)
    finally:
        site.lab.shell("nft delete table inet wall")
    address = site.lab.address["pacs"]
    for port, what in ((443, "which is the proxy's"), (4242, "which takes DICOM")):
        found = f"TCP port {port} of {address}, {what}: expected 'an answer', got 'silence for 5 s'; see a firewall"
        assert said.count(found) == 1, said
    # Nothing else waits for an answer.
    assert re.search(r"TimeoutError|timed out|no answer", said) is None


@pytest.mark.later
def test_site_that_does_not_answer_in_time(site: Site) -> None:
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 9999)); time.sleep(600)"
    slow = f'systemd-run --quiet --unit slow python3 -c "{listen}"; {proxied_to(9999)}'
    try:
        bad(site, slow, "expected 'an answer within 15 s', got 'none'; see load of the host")
    finally:
        site.lab.shell("systemctl stop slow")


def test_site_without_orthanc(site: Site) -> None:
    cause = "Orthanc does not run behind the proxy, or does not reach its database; systemctl status orthanc"
    bad(site, "systemctl stop orthanc", cause)


def test_site_with_another_certificate(site: Site) -> None:
    certificate, key = pem(site.lab.address["pacs"])
    files = f"cat > /root/other.crt <<'END'\n{certificate}END\ncat > /root/other.key <<'END'\n{key}END\n"
    use = "sed -i -E 's,(ssl_certificate(_key)?) .*[.](crt|key);,\\1 /root/other.\\3;,' "
    bad(
        site,
        f"{files}{use} {PROXY}; systemctl reload nginx",
        "expected 'the certificate in /etc/pacs/nginx/self-signed-",
    )


def test_site_with_an_expired_certificate(site: Site) -> None:
    certificate, key = pem(site.lab.address["pacs"], -1)
    own = site.lab.shell("ls /etc/pacs/nginx/self-signed-*.crt").strip().removesuffix(".crt")
    site.lab.shell(f"cp -p {own}.crt {own}.key /root")
    files = f"cat > {own}.crt <<'END'\n{certificate}END\ncat > {own}.key <<'END'\n{key}END\nsystemctl reload nginx"
    try:
        bad(site, files, "got 'certificate has expired'; see nginx_tls_certificate")
    finally:
        site.lab.shell(f"cp -p /root/{own.rpartition('/')[2]}.* /etc/pacs/nginx; systemctl restart nginx")


@pytest.mark.later
def test_another_orthanc_behind_the_proxy(site: Site) -> None:
    impostor = (
        'mkdir -p /root/other; cd /root/other; jq \'{RegisteredUsers, Name: "other", HttpPort: 8055,'
        ' DicomServerEnabled: false, StorageDirectory: "/root/other"}\' /etc/pacs/orthanc/credentials.json > o.json;'
        f" systemd-run --quiet --unit other Orthanc /root/other/o.json; {answers(8055)}; {proxied_to(8055)}"
    )
    site.lab.shell("apt-get install -y -q --no-install-recommends jq")
    try:
        bad(site, impostor, "which is that of the Orthanc on pacs: expected {'Name': 'pacs'")
    finally:
        site.lab.shell("systemctl stop other")


@pytest.fixture
def options(site: Site) -> Iterator[Any]:
    """Say something else in Orthanc's configuration, which is read without Orthanc being started again."""
    file = "/etc/pacs/orthanc/orthanc.json"
    before = json.loads(site.lab.shell(f"cat {file}"))

    def change(more: dict[str, Any]) -> None:
        site.lab.shell(f"cat > {file} <<'END'\n{json.dumps(before | more)}\nEND\n")

    yield change
    change({})


def start(site: Site) -> subprocess.Popen[bytes]:
    """Begin to verify in the background, and wait until images are there."""
    assert site.images() == 0
    given = site.lab.folder.with_suffix(".json")
    given.write_text(json.dumps(WANTED | {"verification_report_dir": str(site.report)}), encoding="utf-8")
    command = ["ansible-playbook", "-i", str(site.inventory), "-i", str(site.lab.folder), "-e", f"@{given}"]
    running = subprocess.Popen(
        [*command, "--limit", "pacs", "playbooks/verify.yml"],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 300
    while not (found := site.images()) and running.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    assert found, "the run wrote nothing, so there is nothing to interrupt"
    return running


def suite(parent: int) -> int:
    """Find the process of the suite, among those that a process has started."""
    for child in pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split():
        command = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        found = int(child) if command[1:3] == [b"-m", b"pytest"] else suite(int(child))
        if found:
            return found
    return 0


def private(running: subprocess.Popen[bytes]) -> pathlib.Path:
    """Return the folder in which passwords are handed to the suite of a run; others have theirs beside it."""
    command = pathlib.Path(f"/proc/{suite(running.pid)}/cmdline").read_text(encoding="utf-8")
    (sites,) = re.findall(r"--sites=([^\0]+)", command)
    return pathlib.Path(sites)


def test_interrupted_run_leaves_nothing(site: Site) -> None:
    running = start(site)
    made = private(running)
    os.killpg(running.pid, signal.SIGINT)
    running.wait(600)
    end = time.monotonic() + 600
    # The suite does not hear of it, and ends as always.
    while made.exists() and time.monotonic() < end:
        time.sleep(0.5)
    assert not made.exists()
    assert site.images() == 0


def test_leftovers_are_removed_by_the_next_run(site: Site, options: Any) -> None:
    """Of a run that was killed; and the next one does not begin where the site would lose or forward images."""
    running = start(site)
    os.kill(suite(running.pid), signal.SIGKILL)
    assert running.wait(600)
    left = site.images()
    assert left
    options({"MaximumPatientCount": 3, "LuaScripts": ["/usr/local/share/route.lua"]})
    said = site.verify(good=False)
    assert "MaximumPatientCount is 3" in said
    assert "or add recycling to verification_accepted_risks" in said
    assert "LuaScripts: scripts of the site may send our images on" in said
    assert "or add routing to verification_accepted_risks" in said
    assert site.images() == left, "it has written, or removed, what it was not to"
    assert ": as wanted." in site.verify({"verification_accepted_risks": ["recycling", "routing"]})
    assert site.images() == 0


STORAGE = "/var/lib/orthanc/db-v6"


@pytest.mark.parametrize(
    "size, words",
    [
        ("size=40M", "MB are free at /var/lib/orthanc/db-v6, 100 are needed; see orthanc_storage_dir, df"),
        # Room enough, and no new file: it fills up under our hands.
        pytest.param("size=400M,nr_inodes=30", "df, journalctl -u orthanc", marks=pytest.mark.later),
    ],
    ids=["before", "meanwhile"],
)
def test_full_disk(site: Site, size: str, words: str) -> None:
    mount = f"mount -t tmpfs -o {size},mode=0750,uid=$(id -u orthanc),gid=$(id -g orthanc) none {STORAGE}"
    site.lab.shell(f"systemctl stop orthanc; {mount}; systemctl start orthanc; {answers()}")
    try:
        bad(site, "true", words)
        assert site.images() == 0
    finally:
        site.lab.shell(f"systemctl stop orthanc; umount {STORAGE}; systemctl start orthanc; {answers()}")


# What each keeps images as, without the plugin gdcm.
KEPT = {"pacs": JPEGLosslessSV1, "old": ExplicitVRLittleEndian}
TRANSCODING = {
    "orthanc_plugins": ["dicomweb", "worklists"],
    "orthanc_settings": {
        "DefaultEncoding": "Utf8",
        "IngestTranscoding": f"{{{{ '{KEPT['old']}' if inventory_hostname == 'old' else '{KEPT['pacs']}' }}}}",
    },
}


@pytest.mark.later
def test_sites_that_transcode(site: Site) -> None:
    """Nothing more is left out, and what the suite takes for kept in another way really is."""
    site.deploy(TRANSCODING)
    assert ": as wanted." in site.verify(TRANSCODING, hosts="pacs,old")
    for host, syntax in KEPT.items():
        release = site.ask("GET", "/system", host).json()["Version"]
        assert left_out(site.report / "junit.xml", host) == ELSEWHERE | LACKING[release]
        assert site.images(host) == 0
        path = site.ask("POST", "/instances", host, transfer_syntaxes()["MR, RLE"].content).json()["Path"]
        assert site.ask("GET", f"{path}/metadata/TransferSyntax", host).text == syntax
        assert site.ask("DELETE", path, host).status_code == 200

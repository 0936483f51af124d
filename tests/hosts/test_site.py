"""A deployed site in use: seen from another host, changed, and given wrong things."""

from __future__ import annotations

import concurrent.futures
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
import requests
import yaml
from ansible_collections.dicom.orthanc.plugins.modules import orthanc_dicomweb_server, orthanc_modality, orthanc_peer
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.hosts.certificates import pem
from tests.hosts.conftest import Lab, run

LAB = {"name": "site", "pacs": "trixie-installed", "other": "trixie-installed"}


class Site:
    """The site on the host ``pacs`` of the lab, with what was last asked of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.users = {"admin": lab.secrets["vault_orthanc_admin_password"]}
        # The other host is a modality, so that it can be shown to get in where a stranger does not.
        self.modalities = lab.modalities | {"other": {"AET": "OTHER", "Host": lab.address["other"], "Port": 104}}

    def deploy(self, variables: Mapping[str, Any] | None = None, **options: Any) -> str:
        return self.lab.play(
            variables={"orthanc_modalities": self.modalities} | dict(variables or {}), **options
        ).stdout

    def get(self, path: str, user: str = "admin", password: str | None = None) -> requests.Response:
        with self.lab.session(user=user, password=self.users[user] if password is None else password) as session:
            return session.get(self.lab.url(path), timeout=20, allow_redirects=False)

    def invocation(self) -> str:
        """Tell one start of Orthanc from another."""
        return self.lab.shell("systemctl show orthanc --property=InvocationID --value").strip()


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    made = Site(lab)
    made.deploy()
    return made


def test_rest_port_is_closed_to_other_hosts(site: Site) -> None:
    port = "http://pacs:8042"
    password = site.lab.secrets["vault_orthanc_proxy_password"]
    ask = "curl --silent --output /tmp/body --write-out '%{http_code}' --max-time 10"
    # The very same request is answered on the host itself, so that a refusal means something.
    login = f"--user {_quoted('proxy:' + password)}"
    assert site.lab.shell(f"{ask} {login} http://127.0.0.1:8042/system") == "200"
    for request in (f"{ask} {port}/system", f"{ask} {login} {port}/system", f"{ask} {port}/instances"):
        answer = site.lab.shell(request + "; true", host="other")
        assert answer in ("000", "401", "403"), f"{request.split('--user')[0]} gave {answer}"
        assert "Version" not in site.lab.shell("cat /tmp/body 2>/dev/null; true", host="other")


def test_dicom_port_serves_declared_modalities_only(site: Site) -> None:
    def echo(calling: str, called: str = "ORTHANC") -> bool:
        answer = site.lab.shell(
            f"timeout 20 echoscu -aet {calling} -aec {called} pacs 4242 > /tmp/echo 2>&1; echo $?", host="other"
        )
        return answer.strip() == "0"

    assert echo("OTHER"), "the declared modality was refused, so a refusal would mean nothing"
    assert not echo("STRANGER"), "a title that nobody declared got in"
    assert not echo("VERIFIER"), "a title got in from an address that is not its own"
    assert not echo("OTHER", "ELSEWHERE"), "an association for another title was accepted"


def test_modalities_come_and_go_without_a_restart(site: Site) -> None:
    """An association goes on, and so do the requests; the file and the running Orthanc say the same, now and later."""
    site.deploy()
    before = site.invocation()
    own = {
        "orthanc_modalities": site.modalities | {"new": {"AET": "NEW", "Host": site.lab.address["other"], "Port": 105}},
        "orthanc_peers": {"new": {"Url": "https://192.0.2.9/", "Username": "peer", "Password": "p$e{e}r"}},
        "orthanc_settings": {"DicomWeb": {"Servers": {"new": {"Url": "https://192.0.2.9/dicom-web/"}}}},
    }

    def known() -> dict[str, Any]:
        return {path: site.get(f"{path}?expand").json() for path in ("/modalities", "/peers", "/dicom-web/servers")}

    entity = AE("VERIFIER")
    entity.add_requested_context(Verification)
    association = entity.associate(site.lab.address["pacs"], 4242, ae_title="ORTHANC")
    assert association.is_established
    answers: set[tuple[int, int]] = set()
    stop = threading.Event()

    def ask() -> None:
        with site.lab.session() as session:
            while not stop.wait(0.05):
                echo = association.send_c_echo()
                answers.add((session.get(site.lab.url("/system"), timeout=20).status_code, echo.get("Status", -1)))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        without = known()
        assert "new" not in str(without)
        assert changed(site.deploy(own))
        told = known()
        assert told["/modalities"]["new"]["Port"] == 105
        assert told["/peers"]["new"]["Url"] == "https://192.0.2.9/"
        assert told["/dicom-web/servers"]["new"]["Url"] == "https://192.0.2.9/dicom-web/"
        assert not changed(site.deploy(own))
        assert site.invocation() == before
    finally:
        stop.set()
        asking.join()
    assert association.is_established
    association.release()
    assert answers == {(200, 0)}
    # From its own address the new title gets in.
    echo = "timeout 20 echoscu -aet NEW -aec ORTHANC pacs 4242"
    site.lab.shell(echo, host="other")
    site.lab.shell("systemctl restart orthanc")
    deadline = time.monotonic() + 60
    while site.get("/changes?last").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert known() == told
    restarted = site.invocation()
    # That others have started it makes no difference.
    site.deploy()
    assert known() == without
    assert site.invocation() == restarted
    assert "1" in site.lab.shell(f"{echo} > /dev/null 2>&1; echo $?", host="other")


def test_examples_of_the_modules_for_entries(site: Site) -> None:
    """They have an entry each, and have it no more, through the proxy."""
    site.deploy()
    with site.lab.session() as session:
        certificate = {"src": str(session.verify), "dest": "/etc/ssl/certs/pacs.crt", "mode": "0644"}
    tasks: list[dict[str, Any]] = [{"name": "Trust the site", "ansible.builtin.copy": certificate}]
    for module in (orthanc_modality, orthanc_peer, orthanc_dicomweb_server):
        # The one that makes an entry has nothing to do a second time.
        made, gone = yaml.safe_load(module.EXAMPLES)
        again = made | {"failed_when": "again.changed", "register": "again"}
        ((name, given),) = ((key, value) for key, value in made.items() if key != "name")
        other = {"name": "Change it", name: given | {"options": {"Timeout": 7}}}
        tasks += [made, again, other, other | again | {name: other[name]}, gone]
    secret = site.lab.secrets["vault_orthanc_admin_password"]
    variables = {"orthanc_url": site.lab.url("/"), "orthanc_password": secret, "archive_password": "of another"}
    play = {"hosts": "pacs", "become": True, "gather_facts": False, "vars": variables, "tasks": tasks}
    playbook = site.lab.folder.with_name("entries.yml")
    playbook.write_text(yaml.safe_dump([play]), encoding="utf-8")
    printed = run("ansible-playbook", "--diff", "-i", site.lab.folder, playbook).stdout
    assert re.search(r"pacs +: ok=16 +changed=10 ", printed), printed
    assert "of another" not in printed


def test_no_restart_without_a_change(site: Site) -> None:
    before = site.invocation()
    assert not changed(site.deploy())
    assert site.invocation() == before


def test_any_option_reaches_orthanc(site: Site) -> None:
    before = site.invocation()
    site.deploy({"orthanc_settings": {"StableAge": 17, "DicomWeb": {"StudiesMetadata": "MainDicomTags"}}})
    assert site.invocation() != before
    written = site.lab.shell("cat /etc/pacs/orthanc/*.json")
    assert '"StableAge": 17' in written
    # Merged into the section that the role itself writes.
    assert '"StudiesMetadata": "MainDicomTags"' in written
    assert '"Root": "/dicom-web/"' in written
    site.deploy()
    assert "StableAge" not in site.lab.shell("cat /etc/pacs/orthanc/*.json")


def test_users_come_and_go(site: Site) -> None:
    site.users = {"admin": site.users["admin"], "guest": "a guest's password"}
    site.deploy({"orthanc_users": site.users})
    assert site.get("/system", "guest").status_code == 200
    assert site.get("/system", "guest", "another password").status_code == 401
    before = site.invocation()
    site.deploy()
    assert site.get("/system", "guest").status_code == 401, "who was taken out still gets in"
    assert site.get("/system").status_code == 200
    assert site.invocation() == before, "Orthanc was restarted though only the proxy's users changed"


def test_journal_keeps_to_its_limits(site: Site) -> None:
    before = site.invocation()
    said = "journalctl --boot --unit systemd-journald --output cat --lines 5"
    site.deploy({"orthanc_journal_mb": 64, "orthanc_journal_days": 30})
    assert "max 64M" in site.lab.shell(said)
    assert "MaxRetentionSec=30day" in site.lab.shell("systemd-analyze cat-config systemd/journald.conf")
    site.deploy()
    assert "max 64M" not in site.lab.shell(said).splitlines()[-1]
    assert site.invocation() == before, "Orthanc was restarted"


def test_foreign_file_in_the_configuration_is_removed(site: Site) -> None:
    # Orthanc ends when a key stands in two files.
    site.lab.shell("""echo '{"Name": "twice"}' > /etc/pacs/orthanc/old.json""")
    assert changed(site.deploy())
    assert site.lab.shell("ls /etc/pacs/orthanc").split() == ["credentials.json", "orthanc.json", "proxy.conf"]
    assert site.get("/system").json()["Name"] == "pacs"


def test_packages_may_be_configured_again(site: Site) -> None:
    """Debian's maintainer scripts touch /etc/orthanc and restart the service, which must stay ours."""
    site.lab.shell("apt-get install --reinstall -y -q orthanc orthanc-dicomweb")
    assert not changed(site.deploy())
    assert site.get("/system").json()["DicomAet"] == "ORTHANC"


def test_other_site_stays_and_a_broken_one_stops_the_run(site: Site) -> None:
    other = "server { listen 8081; location / { return 200 other; } }"
    try:
        site.lab.shell(f"echo '{other}' > /etc/nginx/conf.d/other.conf; systemctl reload nginx")
        site.deploy({"nginx_prefix": "/orthanc/"})
        assert site.get("/orthanc/system").status_code == 200
        assert site.get("/system").status_code == 404
        assert site.lab.shell("curl --silent http://127.0.0.1:8081/") == "other"
        assert other in site.lab.shell("cat /etc/nginx/conf.d/other.conf")
        # Somebody breaks the other site by hand; our next change must not be put on top of it, nor before Orthanc.
        site.lab.shell("echo 'server { listen 8081' > /etc/nginx/conf.d/other.conf")
        before = site.lab.shell(
            "sha256sum /etc/nginx/conf.d/orthanc.conf /etc/pacs/nginx/server.conf /etc/pacs/orthanc/*.json"
        )
        changes = {"nginx_timeout": 77, "orthanc_proxy_password": "another-password"}
        said = " ".join(site.lab.play(variables=changes, check=False).stdout.split())
        assert "refuses a file that is not of this toolkit" in said
        assert "/etc/nginx/conf.d/other.conf:" in said
        assert "changed=0" in said
        assert (
            site.lab.shell(
                "sha256sum /etc/nginx/conf.d/orthanc.conf /etc/pacs/nginx/server.conf /etc/pacs/orthanc/*.json"
            )
            == before
        )
        assert site.get("/orthanc/system").status_code == 200
    finally:
        site.lab.shell("rm -f /etc/nginx/conf.d/other.conf")
        site.deploy()


def answers_of_a_busy_proxy(lab: Lab) -> set[int]:
    """Send queries one after the other while nginx stands still now and then, as on a machine without time."""
    workers = "pkill -$1 -x -P $(cat /run/nginx.pid) nginx"
    hold = f"stop() {{ {workers}; }}; for i in 1 2 3 4; do sleep 1; stop STOP; sleep 1.7; stop CONT; done"

    def ask() -> set[int]:
        found = set()
        with lab.session() as session:
            while not held.done():
                found.add(session.post(lab.url("/tools/lookup"), data="1", timeout=20).status_code)
        return found

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        held = pool.submit(lab.shell, hold)
        return set().union(*(asked.result() for asked in [pool.submit(ask) for _ in range(3)]))


def test_busy_proxy_loses_no_request(site: Site) -> None:
    site.deploy()
    assert answers_of_a_busy_proxy(site.lab) == {200}


def test_nginx_that_goes_on_as_before(site: Site) -> None:
    """A reload ends without a word where nginx cannot have a port, which its own test does not see either."""
    site.deploy()
    site.lab.shell("systemd-run --quiet --unit squatter python3 -m http.server 8099")
    try:
        site.lab.shell("echo 'server { listen 8099; }' > /etc/nginx/conf.d/other.conf")
        before = site.lab.shell("sha256sum /etc/nginx/conf.d/orthanc.conf /etc/pacs/nginx/server.conf")
        said = " ".join(site.lab.play("nginx", variables={"nginx_timeout": 77}, check=False).stdout.split())
        assert (
            "nginx does not serve what was written: it goes on as before. The configuration that worked last is back,"
            in said
        )
        assert site.lab.shell("sha256sum /etc/nginx/conf.d/orthanc.conf /etc/pacs/nginx/server.conf") == before
        assert "bind() to 0.0.0.0:8099 failed" in said
    finally:
        site.lab.shell("rm /etc/nginx/conf.d/other.conf; systemctl stop squatter")
    # What it could not do is still to be done, though the files are there.
    assert "changed=1" in site.lab.play("nginx", variables={"nginx_timeout": 77}).stdout
    assert "changed=0" in site.lab.play("nginx", variables={"nginx_timeout": 77}).stdout


def test_nginx_that_does_not_start(site: Site) -> None:
    """The run says why, and the next one does what this one could not."""
    site.deploy()
    override = "/run/systemd/system/nginx.service.d"
    wrong = '[Service]\\nExecStartPre=sh -c "echo out of luck; false"'
    site.lab.shell(f"mkdir -p {override}; printf '{wrong}' > {override}/wrong.conf; systemctl daemon-reload")
    try:
        site.lab.shell("systemctl stop nginx")
        said = " ".join(site.lab.play("nginx", check=False).stdout.split())
        assert "nginx does not serve what was written: http://127.0.0.1:80/ gives" in said
        assert "Connection refused instead of 301" in said
        assert "out of luck" in said
    finally:
        site.lab.shell(f"rm -r {override}; systemctl daemon-reload")
    site.lab.shell("systemctl start nginx")
    assert "changed=1" in site.lab.play("nginx", arguments=["--check"]).stdout
    assert "changed=1" in site.lab.play("nginx").stdout
    assert "changed=0" in site.lab.play("nginx").stdout
    assert site.get("/system").status_code == 200


def test_certificate_of_the_site(site: Site) -> None:
    certificate, key = pem(site.lab.address["pacs"])
    site.deploy({"nginx_tls_certificate": certificate, "nginx_tls_private_key": key})
    answer = site.get("/system")
    used = site.lab.folder.with_name("site-pacs.crt").read_text(encoding="utf-8")
    assert used.strip() == certificate.strip()
    assert answer.status_code == 200
    assert "max-age" in answer.headers["Strict-Transport-Security"]
    assert site.lab.shell("stat --format '%a %U' /etc/pacs/nginx/site.key").split() == ["600", "root"]
    # One of a key that is too short for nginx, which nobody but nginx finds wrong.
    name = f"-subj /CN=x -addext subjectAltName=IP:{site.lab.address['pacs']}"
    site.lab.shell(f"openssl req -x509 -newkey rsa:1024 -noenc {name} -keyout /root/k -out /root/c 2> /dev/null")
    wrong = {name: site.lab.shell(f"cat /root/{name}") for name in "ck"}
    files = "cd /etc; sha256sum pacs/nginx/* nginx/conf.d/*; ls -l pacs/nginx"
    before = site.lab.shell(files)
    bad = {"nginx_tls_certificate": wrong["c"], "nginx_tls_private_key": wrong["k"], "nginx_timeout": 78}
    said = " ".join(site.lab.play("nginx", variables=bad, check=False).stdout.split())
    assert "key too small" in said
    assert "See nginx_tls_certificate." in said
    assert site.lab.shell(files) == before
    assert site.lab.shell("nginx -t 2>&1; ls /run | grep pacs-nginx-; true").count("successful") == 1
    assert site.get("/system").status_code == 200
    site.deploy()
    assert site.get("/system").status_code == 200


# Values that only Orthanc itself can find wrong, by what is said of them.
BAD: dict[str, dict[str, Any]] = {
    "Parameter out of range": {"orthanc_settings_unchecked": {"DefaultEncoding": "Klingon"}},
    # It ends by a signal, since it asks a text for a number.
    "Orthanc ended": {"orthanc_settings_unchecked": {"UserMetadata": {"Marker": "1024"}}},
    # It may be asked last a little later than the time-out.
    r"is not ready after 2\d s": {"orthanc_settings": {"LuaScripts": ["/usr/local/share/hang.lua"]}},
}


def test_bad_change_leaves_the_last_one_that_worked(site: Site) -> None:
    site.deploy()
    site.lab.shell("echo 'while true do end' > /usr/local/share/hang.lua")
    files = "sha256sum /etc/pacs/orthanc/* /etc/systemd/system/orthanc.service"
    before = site.lab.shell(files)
    for words, wrong in BAD.items():
        bad = {"orthanc_ready_timeout": 20, "orthanc_modalities": site.modalities} | wrong
        done = site.lab.play(variables=bad, check=False)
        assert done.returncode != 0
        said = " ".join(done.stdout.split())
        assert re.search(words, said), said
        assert "The configuration that worked last is back, and Orthanc serves with it." in said
        assert site.lab.shell(files) == before
        assert site.get("/system").status_code == 200
    # Nothing lingers: the next good run has nothing to do.
    assert not changed(site.deploy())


def test_new_login_of_the_proxy_in_a_run_that_is_cut_off(site: Site) -> None:
    """The proxy's turn never comes, and it presents what Orthanc asks for: the new login, or the one of before."""
    given = {"orthanc_modalities": site.modalities}
    site.lab.play("orthanc", variables=given | {"orthanc_proxy_password": "another one"})
    assert site.get("/system").status_code == 200
    bad = {"orthanc_proxy_password": "a third one", "orthanc_settings_unchecked": {"DefaultEncoding": "Klingon"}}
    done = site.lab.play("orthanc", variables=given | bad, check=False)
    assert "The configuration that worked last is back, and Orthanc serves with it." in " ".join(done.stdout.split())
    assert site.get("/system").status_code == 200
    site.deploy()
    assert site.get("/system").status_code == 200


def test_half_of_a_change_is_none(site: Site) -> None:
    """The disk is full after the first of several files."""
    site.deploy()
    folder = "/etc/pacs/orthanc"
    # The folder in a file system of its own, too small for what is to come second.
    site.lab.shell(f"cp --archive {folder} /root/small; mount -t tmpfs -o size=64k,mode=0750 tmpfs {folder}")
    site.lab.shell(f"cp --archive /root/small/. {folder}; rm -r /root/small")
    try:
        before = site.lab.shell(f"cd {folder} && sha256sum *")
        peers = {f"other{number}": ["https://192.0.2.9/", "peer", "p" * 4000] for number in range(25)}
        big = {"orthanc_name": "NEW", "orthanc_peers": peers}
        said = " ".join(site.lab.play(variables=big, check=False).stdout.split())
        assert "No space left on device. Orthanc runs as before, and its files are those of before." in said
        assert site.lab.shell(f"cd {folder} && sha256sum *") == before
        assert site.get("/system").json()["Name"] != "NEW"
    finally:
        site.lab.shell(f"umount --lazy {folder}")
    assert not changed(site.deploy())


def test_port_of_another_program(site: Site) -> None:
    """Seen before anything changes; and where it comes up in between, Orthanc goes back to its own."""
    site.deploy()
    site.lab.shell("systemd-run --quiet --unit squatter python3 -m http.server 8099")
    wanted = {"orthanc_http_port": 8099, "orthanc_modalities": site.modalities}
    said = " ".join(site.lab.play(variables=wanted, check=False).stdout.split())
    assert "Nothing was changed." in said
    assert "orthanc_http_port: port 8099 is taken on this host by python3" in said
    # This playbook alone does not look beforehand.
    said = " ".join(site.lab.play("orthanc", variables=wanted, check=False).stdout.split())
    assert "The configuration that worked last is back, and Orthanc serves with it." in said
    assert site.get("/system").status_code == 200
    site.lab.shell("systemctl stop squatter")
    assert not changed(site.deploy())


def changed(output: str) -> bool:
    """Tell from the end of a run whether it changed the site."""
    return re.search(r"(?m)^pacs +:.* changed=0 ", output) is None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"

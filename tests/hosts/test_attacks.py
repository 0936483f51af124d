"""Attacks from a second host. Each is first seen to succeed against a site as the usual recipes leave it."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import pathlib
import re
import time
from typing import Any
from xml.etree import ElementTree

import pydicom.data
import pytest
import requests

from tests.hosts.conftest import RELEASE, Lab, run

pytestmark = [pytest.mark.later, pytest.mark.filterwarnings("ignore:Unverified HTTPS request")]
LAB = {"name": "attacks", "pacs": f"{RELEASE}-installed", "weak": RELEASE, "attacker": "trixie"}
IMAGE = pathlib.Path(str(pydicom.data.get_testdata_file("CT_small.dcm")))
READER = {"ward": "r'ead0nly-Ward-2026"}
# The identifiers that Orthanc gives to that image; others of a path are made up.
PATIENT = "fa558bce-587a86d3-ad0da9b3-9d043d9d-4f5c5718"
LEVELS = ("patients", "studies", "series", "instances")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "TRACE")
REFUSED = {301, 400, 401, 403, 405, 414}
PATHS = [
    r"//system",
    r"/./system",
    r"/x/../system",
    r"/%2e%2e/system",
    r"/%2e/system",
    r"/..%2fsystem",
    r"/%2fsystem",
    r"/%73ystem",
    r"/SYSTEM",
    r"/System",
    r"/system/",
    r"/system?x=1",
    r"/system#x",
    r"/system;x=1",
    r"/system%00",
    r"/system%20",
    r"/system%0d%0aX:%20y",
    r"/\system",
    r"/..;/system",
    r"/orthanc",
    r"/orthancsystem",
    r"/orthanc../system",
    r"/orthanc/../system",
    r"/orthanc//system",
    r"/orthanc/%2e%2e/system",
    r"/orthanc..;/system",
    r"/dicom-web/studies",
    r"/orthanc/dicom-web/../system",
    r"/wado?requestType=WADO",
    r"/.may",
    r"/orthanc/.may",
    r"http://127.0.0.1:8042/system",
    r"https://{host}/system",
    r"http://{host}:8042/system",
    r"*",
    r"system",
]
HOST_NAMES = ["localhost", "127.0.0.1", "127.0.0.1:8042", "orthanc", "", "{host}\r\nHost: 127.0.0.1", "x" * 300]
HEADERS = [
    *(f"{name}: 127.0.0.1" for name in ("X-Forwarded-For", "X-Real-IP", "X-Client-IP", "X-Forwarded-Host")),
    *(f"{name}: /system" for name in ("X-Original-URL", "X-Rewrite-URL", "X-Accel-Redirect")),
    *("Forwarded: for=127.0.0.1", "X-Remote-User: admin", "X-HTTP-Method-Override: GET", "Upgrade: h2c"),
    *(f"X-Long: {'x' * 70000}", f"Authorization: Basic {'A' * 9000}", "Authorization: Basic\r\n Og=="),
]
# Debian's Orthanc, opened to the network, and an nginx before it that takes what was usual long ago.
WEAK = """
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends curl nginx openssl orthanc orthanc-dicomweb orthanc-gdcm orthanc-neuro \
    orthanc-webviewer orthanc-wsi
sed -i 's/"RemoteAccessAllowed" : false/"RemoteAccessAllowed" : true, "AuthenticationEnabled" : false/' \
    /etc/orthanc/orthanc.json
openssl req -x509 -newkey rsa:2048 -noenc -days 9 -subj /CN=weak -keyout /etc/nginx/weak.key -out /etc/nginx/weak.crt
cat > /etc/nginx/sites-enabled/default <<'END'
server {
    listen 80;
    return 301 https://$http_host$request_uri;
}
server {
    listen 443 ssl;
    ssl_certificate /etc/nginx/weak.crt;
    ssl_certificate_key /etc/nginx/weak.key;
    ssl_protocols TLSv1 TLSv1.1 TLSv1.2;
    ssl_ciphers ALL:@SECLEVEL=0;
    location / {
        proxy_pass http://127.0.0.1:8042;
    }
}
END
systemctl stop orthanc
# What it would look up elsewhere goes without.
unshare --net Orthanc --openapi=/root/routes.json > /root/routes.log 2>&1
Orthanc --verbose /etc/orthanc > /root/plugins.log 2>&1 &
for i in $(seq 600); do grep -q 'Orthanc has started' /root/plugins.log && break; sleep 0.2; done
kill $!; wait $! || true
systemctl restart orthanc nginx
"""


class Attacker:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        run("docker", "cp", str(pathlib.Path(__file__).with_name("attack.py")), f"{lab.container('attacker')}:/root/")
        run("docker", "cp", str(IMAGE), f"{lab.container('attacker')}:/root/image.dcm")
        lab.shell(
            "apt-get update -q && apt-get install -y -q --no-install-recommends curl dcmtk nmap slowhttptest sslscan",
            "attacker",
        )

    def _run(self, host: str, wish: dict[str, Any]) -> Any:
        file = self.lab.folder.with_suffix(".wish")
        file.write_text(json.dumps(wish), encoding="utf-8")
        run("docker", "cp", str(file), f"{self.lab.container('attacker')}:/root/wish.json")
        return json.loads(self.lab.shell(f"python3 /root/attack.py {host} < /root/wish.json", "attacker"))

    def ask(self, host: str, wish: list[tuple[str, str, str]]) -> list[tuple[int, str]]:
        """Send requests (method, path, Authorization) and return the status and the body of each answer."""
        return [(status, body) for status, body in self._run(host, {"requests": wish})]

    def send(self, host: str, texts: list[str]) -> list[str]:
        """Send texts, each over a connection of its own, and return what comes back."""
        found: list[str] = self._run(host, {"texts": texts})
        return found

    def shell(self, script: str) -> str:
        return self.lab.shell(script, "attacker", check=False)


class Admin(requests.Session):
    """One who may do everything, from the machine that runs the tests."""

    def __init__(self, lab: Lab, host: str = "pacs", prefix: str = "/") -> None:
        super().__init__()
        self.trust_env = self.verify = False
        self.auth = (b"admin", lab.secrets["vault_orthanc_admin_password"].encode())  # type: ignore[assignment]
        self.base = f"https://{lab.address[host]}{prefix}".rstrip("/")

    def state(self) -> dict[str, Any]:
        """Return what a change would show in."""
        paths = ["/statistics", "/changes?last", "/modalities?expand", "/peers?expand", "/jobs", "/tools/log-level"]
        paths += [f"/{level}" for level in LEVELS]
        return {path: self.get(f"{self.base}{path}", timeout=30).text for path in paths}


@pytest.fixture(scope="module")
def attacker(lab: Lab) -> Attacker:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        weak = pool.submit(lab.shell, WEAK, "weak")
        ours = pool.submit(deploy, lab)
        made = Attacker(lab)
        weak.result()
        ours.result()
    made.shell("for i in $(seq 100); do curl -skf https://weak/system > /dev/null && exit; sleep 0.2; done")
    made.shell("curl -sk --data-binary @/root/image.dcm https://weak/instances")
    with Admin(lab) as admin:
        admin.post(f"{admin.base}/instances", data=IMAGE.read_bytes(), timeout=30).raise_for_status()
    return made


def deploy(lab: Lab, **variables: Any) -> None:
    plugins = ["dicomweb", "gdcm", "neuro", "webviewer", "wsi"]
    users = {"admin": lab.secrets["vault_orthanc_admin_password"]} | READER
    # That a patient has become stable is a change as well, if nobody's.
    settings = {"StableAge": 86400}
    lab.play(variables={"orthanc_plugins": plugins, "orthanc_users": users, "orthanc_settings": settings} | variables)


@pytest.fixture(scope="module")
def routes(attacker: Attacker) -> list[str]:
    with Admin(attacker.lab) as admin:
        return served(attacker.lab, admin)


def served(lab: Lab, admin: Admin) -> list[str]:
    """What Orthanc and its plugins say they serve, with the identifiers of the image that is there."""
    documented = list(json.loads(lab.shell("cat /root/routes.json", "weak"))["paths"])
    # Of these it would have shown an example from elsewhere.
    documented += re.findall(r"without API documentation: \w+ (/\S*)", lab.shell("cat /root/routes.log", "weak"))
    plugins = re.findall(r"registered a REST callback.* on: (/\S+)", lab.shell("cat /root/plugins.log", "weak"))
    assert len(set(documented)) > 200
    assert len(set(plugins)) > 40
    known = {level: admin.get(f"{admin.base}/{level}", timeout=30).json()[0] for level in LEVELS}
    filled = [re.sub(r"\([^)]*\)", "1", route).replace("\\", "") for route in plugins]
    for route in documented:
        own = route.replace("{id}", known.get(route.split("/")[1], "1"), 1)
        filled.append(re.sub(r"\{[^}]*\}", "1", own))
    return sorted(set(filled))


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


def is_nginx(method: str, status: int, body: str) -> bool:
    """Tell whether an answer is a page of nginx's own; Orthanc leaves it empty, or says something else."""
    return body.startswith(f"<html>\r\n<head><title>{status} ") or (method == "HEAD" and not body)


def every(routes: list[str], login: str, methods: tuple[str, ...] = METHODS) -> list[tuple[str, str, str]]:
    disguised = [("GET", f"{route}?_method=DELETE", login) for route in routes]
    return [(method, route, login) for route in routes for method in methods] + disguised


def test_weak_site_gives_all_away(attacker: Attacker, routes: list[str]) -> None:
    """What would end it is left out."""
    kept = [route for route in routes if route not in ("/tools/shutdown", "/tools/reset")]
    # In the order of harm: reading first.
    asked = [one for method in ("GET", "POST", "PUT", "DELETE") for one in every(kept, "", (method,))[: len(kept)]]
    got = attacker.ask("weak", asked)
    successes = dict.fromkeys(METHODS, 0)
    for (method, _, _), (status, _) in zip(asked, got, strict=True):
        successes[method] += status // 100 == 2
    assert successes["GET"] > 100
    assert min(successes[method] for method in ("POST", "DELETE")) > 3, successes
    # Of 1.10.1 no route takes a PUT that says nothing.
    put = """curl -sk -o /dev/null -w '%{http_code}' -X PUT -d '["A", "192.0.2.1", 104]' https://weak/modalities/new"""
    assert attacker.shell(put) == "200"
    assert sum(not is_nginx(method, *answer) for (method, _, _), answer in zip(asked, got, strict=True)) > 0.9 * len(
        got
    )
    with Admin(attacker.lab) as admin:
        (image,) = admin.get(f"{admin.base}/instances", timeout=30).json()
    assert ("GET", f"/instances/{image}/file", "") in asked
    assert image not in attacker.shell("curl -sk https://weak/instances"), "it was deleted"


@pytest.mark.parametrize("login", ["", basic("admin:wrong"), basic("orthanc:orthanc"), "Basic !", "Bearer x"])
def test_no_route_without_the_login(attacker: Attacker, routes: list[str], login: str) -> None:
    with Admin(attacker.lab) as admin:
        before = admin.state()
        asked = every(routes, login)
        got = attacker.ask("pacs", asked)
        assert [(a, g) for a, g in zip(asked, got, strict=True) if g[0] not in REFUSED or not is_nginx(a[0], *g)] == []
        assert admin.state() == before


def test_readers_change_nothing(attacker: Attacker, routes: list[str]) -> None:
    deploy(attacker.lab, nginx_readonly_users=list(READER))
    login = basic(":".join(*READER.items()))
    reading = ("/tools/find", "/tools/lookup", "/tools/count-resources", "/tools/bulk-content")
    with Admin(attacker.lab) as admin:
        before = admin.state()
        asked = every(routes, login, ("POST", "PUT", "DELETE", "PATCH", "PROPFIND"))
        got = attacker.ask("pacs", asked)
        passed = {route for (_, route, _), (status, _) in zip(asked, got, strict=True) if status not in REFUSED}
        assert passed <= set(reading)
        assert admin.state() == before
        # Reading an archive leaves a job behind.
        read = attacker.ask("pacs", every(routes, login, ("GET",))[: len(routes)])
        assert sum(status == 200 for status, _ in read) > 100, "reading is what they are there for"
        assert admin.state() | {"/jobs": ""} == before | {"/jobs": ""}


@pytest.mark.parametrize("prefix", ["/", "/orthanc/"])
def test_no_way_around_the_login(attacker: Attacker, prefix: str) -> None:
    deploy(attacker.lab, nginx_prefix=prefix, nginx_readonly_users=list(READER))
    usual = "Host: {host}\r\nConnection: close\r\n"
    texts = [f"GET {path} HTTP/1.1\r\n{usual}\r\n" for path in [*PATHS, f"/{'x' * 70000}"]]
    texts += [f"GET /system HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n" for name in HOST_NAMES]
    texts += [f"GET /system HTTP/1.1\r\n{usual}{header}\r\n\r\n" for header in HEADERS]
    texts += ["GET /system\r\n", "GET /system HTTP/1.0\r\n\r\n", "GET /system HTTP/9.9\r\n\r\n", "\x16\x03\x01\r\n\r\n"]
    texts += ["get /system HTTP/1.1\r\n\r\n", "\r\n\r\nGET /system HTTP/1.0\r\n\r\n"]
    texts += smuggled("GET /system HTTP/1.1\r\n" + usual + "\r\n", "Authorization: Basic eDp5\r\n")
    weak = attacker.send("weak", [text.replace("{host}", "weak") for text in texts])
    ours = attacker.send("pacs", [text.replace("{host}", "pacs") for text in texts])
    assert sum('"ApiVersion"' in answer for answer in weak) > 30, "the shapes are such that a server answers"
    assert [(t[:90], o) for t, o in zip(texts, ours, strict=True) if "ApiVersion" in o or " 200 OK" in o] == []
    # One who may read smuggles a change.
    login = f"Authorization: {basic(':'.join(*READER.items()))}\r\n"
    gone = f"DELETE {prefix}patients/{PATIENT} HTTP/1.1\r\nHost: pacs\r\n{login}Connection: close\r\n\r\n"
    answers = attacker.send("pacs", smuggled(gone, login, f"{prefix}tools/find"))
    with Admin(attacker.lab) as admin:
        assert admin.get(f"{admin.base}{prefix}patients", timeout=30).json() == [PATIENT], answers


def smuggled(inner: str, login: str, path: str = "/tools/find") -> list[str]:
    """Put a request where two servers may differ on whether it is one."""
    start = f"POST {path} HTTP/1.1\r\nHost: x\r\n{login}"
    chunk = f"{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
    both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [
        f"{start}Content-Length: 0\r\n\r\n{inner}",
        f"{start}Content-Length: 2\r\n\r\n{{}}{inner}",
        f"{start}{both}0\r\n\r\n{inner}",
        f"{start}{both}{chunk}",
        f"{start}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
        f"{start}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{inner}",
        f"{start}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}",
        f"{start}Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{inner}",
        f"{start}Content-Length: 2\r\nContent-Length: {2 + len(inner)}\r\n\r\n{{}}{inner}",
        f"{start}Content-Length: +2\r\n\r\n{{}}{inner}",
        f"{start}X: y\n{inner}",
    ]


def test_redirect_goes_to_this_site_only(attacker: Attacker) -> None:
    ask = "curl --silent --header 'Host: elsewhere.example' --output /dev/null --write-out '%{redirect_url}' http://"
    assert attacker.shell(f"{ask}weak/system") == "https://elsewhere.example/system"
    assert attacker.shell(f"{ask}pacs/system") == f"https://{attacker.lab.address['pacs']}/system"


def test_old_tls_is_refused(attacker: Attacker) -> None:
    def scan(host: str) -> tuple[set[str], set[str]]:
        tree = ElementTree.fromstring(attacker.shell(f"sslscan --xml=- {host}"))
        versions = {p.attrib["version"] for p in tree.iter("protocol") if p.attrib["enabled"] == "1"}
        return versions, {cipher.attrib["cipher"] for cipher in tree.iter("cipher")}

    versions, ciphers = scan("weak")
    assert {"1.0", "1.1"} <= versions
    assert "AES128-SHA" in ciphers
    versions, ciphers = scan("pacs")
    assert versions == {"1.2", "1.3"}
    assert ciphers
    assert [name for name in ciphers if not re.fullmatch(r"(TLS_AES|TLS_CHACHA20|ECDHE).*(GCM|POLY1305).*", name)] == []


def test_only_declared_ports_are_open(attacker: Attacker) -> None:
    def scan(host: str) -> set[int]:
        report = attacker.shell(f"nmap -n -Pn -p- --min-rate 5000 -oG - {host}")
        return {int(port) for port in re.findall(r"(\d+)/open/", report)}

    assert scan("weak") == {22, 80, 443, 4242, 8042}
    assert scan("pacs") == {22, 80, 443, 4242}


@pytest.mark.parametrize("command", ["echoscu", "storescu", "findscu"])
def test_strangers_get_no_association(attacker: Attacker, command: str) -> None:
    what = {"echoscu": "", "storescu": "/root/image.dcm", "findscu": "-k PatientID=1CT1"}[command]

    def associate(host: str, title: str) -> bool:
        call = f"{command} -v -S" if command == "findscu" else f"{command} -v"
        said = attacker.shell(f"timeout 20 {call} -aet {title} -aec ORTHANC {host} 4242 {what} 2>&1")
        return "Association Accepted" in said

    if command != "findscu":
        assert associate("weak", "STRANGER")
    assert not associate("pacs", "STRANGER")
    # A title that is known, from another address.
    assert not associate("pacs", "VERIFIER")


def test_slow_clients_do_not_keep_others_out(attacker: Attacker) -> None:
    def during(attack: str, url: str, seconds: int) -> int:
        attacker.shell(f"nohup slowhttptest {attack} -c 400 -r 400 -i 5 -l 60 > /root/slow.log 2>&1 &")
        time.sleep(4)
        ask = f"curl -sk --max-time {seconds} --output /dev/null --write-out '%{{http_code}}' {url}"
        answered = [attacker.shell(ask).strip() for _ in range(2)]
        attacker.shell("pkill slowhttptest; sleep 0.5")
        return sum(status in ("200", "401") for status in answered)

    deploy(attacker.lab)
    assert during("-H -u http://weak:8042/", "http://weak:8042/system", 4) < 2
    for attack in ("-H -u https://pacs/", "-B -u https://pacs/tools/find", "-X -u https://pacs/app/explorer.html"):
        assert during(attack, "https://pacs/system", 15) == 2, attack
    with Admin(attacker.lab) as admin:
        assert admin.get(f"{admin.base}/system", timeout=5).status_code == 200

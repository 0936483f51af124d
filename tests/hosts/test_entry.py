"""Who enters a site through its proxy, from where and with what, and what the audit trail says of it."""

from __future__ import annotations

import json
import pathlib
import re
import time
import warnings
from typing import Any

import pydicom.data
import pytest
import requests

from tests.hosts import raw
from tests.hosts.certificates import pem
from tests.hosts.conftest import Lab
from tests.hosts.test_site import answers_of_a_busy_proxy, changed

LAB = {"name": "entry", "pacs": "bookworm-installed", "other": "trixie"}
# What a user may be called, and what nginx could take for something else.
READER = 'ré"a$1\\t.x'
USERS = {READER: "a reader's password", "réXa$1\\t.x": "that of another"}
IMAGE = pathlib.Path(str(pydicom.data.get_testdata_file("CT_small.dcm"))).read_bytes()
PATIENT = "fa558bce-587a86d3-ad0da9b3-9d043d9d-4f5c5718"
AUTHORITY, FOREIGN = pem("Clinic"), pem("Clinic")


class Site:
    """The site with two users more, and a session with it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.admin = {"admin": lab.secrets["vault_orthanc_admin_password"]}

    def deploy(self, **variables: Any) -> str:
        return self.lab.play(variables={"orthanc_users": self.admin | USERS} | variables).stdout

    def ask(self, method: str, path: str, user: str = "admin", **options: Any) -> int:
        """Return the status of an answer; 0 if there is none."""
        try:
            return self.answer(method, path, user, **options).status_code
        except (requests.ConnectionError, requests.Timeout):
            return 0

    def answer(self, method: str, path: str, user: str = "admin", **options: Any) -> requests.Response:
        with requests.Session() as session, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session.trust_env = False
            # Who the server is, others test.
            session.verify = False
            login = {**self.admin, **USERS}.get(user, "wrong")
            session.auth = (user.encode(), login.encode()) if user else None  # type: ignore[assignment]
            return session.request(method, f"https://{self.lab.address['pacs']}{path}", timeout=10, **options)

    def audit(self) -> list[dict[str, Any]]:
        lines = self.lab.shell("cat /var/log/pacs/audit.log").splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    made = Site(lab)
    made.deploy()
    return made


@pytest.fixture
def patient(site: Site) -> str:
    """The path of a patient who is there."""
    assert site.ask("POST", "/instances", data=IMAGE) == 200
    return f"/patients/{PATIENT}"


def test_readers_change_nothing(site: Site, patient: str) -> None:
    search = {"data": json.dumps({"Level": "Patient", "Query": {"PatientID": "*"}})}
    allowed = [
        ("GET", patient, {}),
        ("POST", "/tools/find", search),
        ("POST", "/tools/lookup", {"data": "1CT1"}),
        ("GET", "/dicom-web/studies", {}),
    ]
    forbidden: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/instances", {"data": IMAGE}),
        ("POST", "/dicom-web/studies", {"data": b""}),
        ("PUT", "/modalities/new", {"data": '["A", "192.0.2.1", 104]'}),
        ("POST", "/tools/find/", search),
        ("POST", "/tools/find/../../instances", {"data": IMAGE}),
        ("POST", "/tools/reset", {}),
        ("PROPFIND", "/webdav/", {}),
        ("DELETE", patient, {}),
    ]
    asked = [(method, path) for method, path, _ in [*allowed, *forbidden]]
    expected = [200] * len(allowed) + [403] * len(forbidden)
    site.deploy()
    weapon = site.ask("DELETE", patient, READER)
    assert weapon == 200, "without being a reader only, this user deletes"
    assert site.ask("POST", "/instances", data=IMAGE) == 200
    site.deploy(nginx_readonly_users=[READER])
    got = [site.ask(method, path, READER, **more) for method, path, more in [*allowed, *forbidden]]
    assert dict(zip(asked, got, strict=True)) == dict(zip(asked, expected, strict=True))
    assert site.ask("GET", patient) == 200
    assert site.ask("DELETE", patient, "réXa$1\\t.x") == 200, "a name is no pattern"
    # Whose password is wrong does not learn that there is such a reader.
    assert site.ask("DELETE", patient, "nobody") == 401


@pytest.mark.parametrize("key", ["_method", "a=b&_method"])
def test_no_get_is_a_delete(site: Site, patient: str, key: str) -> None:
    direct = f"curl --silent --config - 'http://127.0.0.1:8042{patient}?{key}=DELETE'"
    header = {"X-HTTP-Method-Override": "DELETE"}
    assert site.ask("GET", f"{patient}?{key}=DELETE") == 403
    assert site.ask("GET", f"{patient}?{key.replace('_', '%5f')}=DELETE") == 403
    assert site.ask("GET", patient, headers=header) == 200
    assert site.ask("GET", patient) == 200
    # Orthanc itself does as it is told.
    login = f"user = {json.dumps('proxy:' + site.lab.secrets['vault_orthanc_proxy_password'], ensure_ascii=False)}"
    site.lab.shell(f"{direct} <<'END'\n{login}\nEND")
    assert site.ask("GET", patient) == 404


@pytest.fixture(scope="module")
def prefixed(site: Site) -> str:
    """The path of a patient who is there, on the site under a prefix and with a reader."""
    site.deploy(nginx_prefix="/orthanc/", nginx_readonly_users=[READER])
    assert site.ask("POST", "/orthanc/instances", data=IMAGE) == 200
    return f"/orthanc/patients/{PATIENT}"


def test_one_reading_of_a_request(site: Site, prefixed: str) -> None:
    """What nginx judges is what Orthanc gets; `make test-requests` tries thousands."""
    address, login = site.lab.address["pacs"], raw.basic(READER, USERS[READER])
    got = {}
    for target in raw.of(raw.TRICKS, "/orthanc/", PATIENT):
        for disguise in (b"", b"?_method=DELETE"):
            got[target + disguise] = raw.status(raw.send(address, raw.request(target + disguise, login)))
    assert {target: status for target, status in got.items() if status != 400} == {}
    for target in raw.of(raw.USUAL, "/orthanc/", PATIENT):
        assert raw.status(raw.send(address, raw.request(target, login))) in (200, 404), target
    for key in (b"%5f%6dethod", b"x=%26&_%4DETHOD", b"x=&&_method", b"%5Vmethod", b"x=%"):
        target = f"{prefixed}?".encode() + key + b"=DELETE"
        assert raw.status(raw.send(address, raw.request(target, login))) == 403, target
    # Orthanc's web server drops dots before a slash and at the end, as if files on Windows were asked for.
    admin = raw.basic("admin", site.admin["admin"])
    for route in (b"tools./shutdown", b"tools/shutdown.", b"tools../shutdown..", b"tools/shutdown./"):
        weapon = raw.request(b"/orthanc/" + route, admin, b"Content-Length: 0\r\n", method=b"POST")
        assert raw.status(raw.send(address, weapon)) == 400, route
    assert site.ask("GET", prefixed) == 200


FOREIGN_PAGES: list[dict[str, str]] = [
    {"Origin": "https://elsewhere.example"},
    {"Origin": "null"},
    {"Origin": "https://{host}.elsewhere.example"},
    {"Origin": "https://{host}:8443"},
    {"Origin": "http://{host}"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://{host}", "Sec-Fetch-Site": "cross-site"},
]
OWN_PAGES: list[dict[str, str]] = [
    {"Origin": "https://{host}", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://pacs.hospital.example", "Host": "pacs.hospital.example", "Sec-Fetch-Site": "same-origin"},
    # A proxy before this one may ask it by another name.
    {"Origin": "https://{host}", "Host": "pacs"},
    {"Sec-Fetch-Site": "none"},
    {},
]


def test_pages_of_other_sites_change_nothing(site: Site, prefixed: str) -> None:
    search = {"data": json.dumps({"Level": "Patient", "Query": {}})}
    for page in FOREIGN_PAGES + OWN_PAGES:
        headers = {name: value.replace("{host}", site.lab.address["pacs"]) for name, value in page.items()}
        own = page in OWN_PAGES
        assert site.ask("POST", "/orthanc/tools/find", headers=headers, **search) == (200 if own else 403), page
        assert site.ask("DELETE", f"{prefixed}x", headers=headers) == (404 if own else 403), page
        # Anybody may link to an image.
        assert site.ask("GET", prefixed, headers=headers) == 200


TRUSTED = ("https://viewer.example.org", "http://[2001:db8::9]:3000")
UNTRUSTED = (
    *("https://viewer.example.org.evil.example", "https://xviewer.example.org", "https://viewer-example.org"),
    *("http://viewer.example.org", "https://viewer.example.org:8443", "http://[2001:db8::9]", "null"),
)


def allowed(answer: requests.Response) -> dict[str, str]:
    """What a browser is told of who may read it."""
    told = {name.lower().removeprefix("access-control-allow-"): value for name, value in answer.headers.items()}
    return {name: told[name] for name in ("origin", "credentials", "methods", "headers") if name in told}


def test_pages_of_a_viewer_elsewhere(site: Site) -> None:
    """They may do what their user may, and their browsers are told so; those of others may not."""
    site.deploy(nginx_allowed_origins=list(TRUSTED), nginx_readonly_users=[READER], nginx_prefix="/orthanc/")
    search = json.dumps({"Level": "Patient", "Query": {}})
    planned = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    for origin in TRUSTED + UNTRUSTED:
        mine, page = origin in TRUSTED, {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
        told = {"origin": origin, "credentials": "true"} if mine else {}
        found = site.answer("POST", "/orthanc/tools/find", headers=page, data=search)
        assert (found.status_code, allowed(found)) == (200 if mine else 403, told), origin
        assert found.headers["Vary"] == "Origin"
        removed = site.answer("DELETE", "/orthanc/patients/x", headers=page)
        assert (removed.status_code, allowed(removed)) == (404 if mine else 403, told), origin
        read = site.answer("GET", "/orthanc/system", headers=page)
        assert (read.status_code, allowed(read)) == (200, told), origin
        # Without a login, as browsers ask.
        asked = site.answer("OPTIONS", "/orthanc/instances", "", headers=page | planned)
        may = told | {"methods": "GET, HEAD, POST, PUT, DELETE", "headers": "authorization,content-type"}
        assert (asked.status_code, allowed(asked)) == ((204, may) if mine else (401, {})), origin
        assert site.ask("GET", "/orthanc/system", "nobody", headers=page) == 401
        assert site.ask("OPTIONS", "/orthanc/system", "", headers=page) == 401, "that is no browser's question"
        assert site.ask("DELETE", "/orthanc/patients/x", READER, headers=page) == 403
    assert allowed(site.answer("GET", "/orthanc/system")) == {}


def addressed(site: Site) -> None:
    """Where the site's name is an address of IPv6, it stands in brackets wherever a URL has it."""
    plain = f"http://{site.lab.address['pacs']}/system"
    assert requests.get(plain, allow_redirects=False, timeout=10).headers["Location"] == "https://[2001:db8::7]/system"
    answer = site.lab.shell(
        "curl --silent --globoff --insecure --config - --connect-to ::127.0.0.1:443"
        f" 'https://[2001:db8::7]/dicom-web/studies' <<'END'\n{_login(site)}\nEND"
    )
    assert json.loads(answer)[0]["00081190"]["Value"][0].startswith("https://[2001:db8::7]/dicom-web/studies/")
    origin = {"Origin": "https://[2001:db8::7]"}
    assert site.ask("POST", "/tools/lookup", headers=origin) == 200


def _login(site: Site) -> str:
    return f"user = {json.dumps('admin:' + site.admin['admin'], ensure_ascii=False)}"


def test_nobody_ends_orthanc(site: Site, prefixed: str) -> None:
    started = "systemctl show orthanc --property=InvocationID --value"
    before = site.lab.shell(started)
    for route in ("tools/shutdown", "tools/shutdown/", "tools/reset", "instances/x/export"):
        assert site.ask("POST", f"/orthanc/{route}", data="/tmp/written") == 403, route
    assert site.lab.shell(started) == before
    # Who may end it does not leave it down.
    site.deploy(nginx_refused_routes=[], nginx_server_name="2001:db8::7")
    before = site.lab.shell(started)
    assert site.ask("POST", "/tools/shutdown") == 200
    deadline = time.monotonic() + 60
    while site.lab.shell(started) == before or site.ask("GET", "/changes") != 200:
        assert time.monotonic() < deadline, "Orthanc stays down"
        time.sleep(0.5)
    addressed(site)


def test_directives_of_the_inventory(site: Site) -> None:
    """Those of the site take the place of the role's, or stand beside them; what nginx refuses is not put in place."""
    limit = {"limit_req_zone": "$binary_remote_addr zone=clients:1m rate=1r/m", "limit_req_status": 429}
    own = {
        "client_body_timeout": "2s",
        "add_header": ["X-Clinic north", "Content-Security-Policy \"frame-ancestors 'self'; base-uri 'self'\" always"],
        "proxy_set_header": "X-Clinic north",
        "proxy_request_buffering": False,
        "limit_req": "zone=clients burst=20 nodelay",
    }
    site.deploy(nginx_settings=limit, nginx_server_directives=own)
    address, login = site.lab.address["pacs"], raw.basic("admin", site.admin["admin"])
    begin = time.monotonic()
    # A body that does not come. The role would wait for an hour.
    raw.send(address, raw.request(b"/instances", login, b"Content-Length: 10\r\n", method=b"POST"), wait=600)
    assert time.monotonic() - begin < 300
    found = site.answer("GET", "/system")
    assert found.status_code == 200
    assert found.headers["X-Clinic"] == "north"
    assert found.headers["Content-Security-Policy"] == "frame-ancestors 'self'; base-uri 'self'"
    assert found.headers["X-Frame-Options"] == "SAMEORIGIN", "nginx inherits none where there is one"
    got = [site.ask("GET", "/system") for _ in range(40)]
    assert got[0] == 200
    assert got[-1] == 429
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("nginx_settings", {"keepalive_timeout": "soon"}),
        ("nginx_server_directives", {"client_body_timeot": "2s"}),
    ]
    for name, directives in wrong:
        said = site.lab.play(variables={name: directives}, check=False)
        assert said.returncode
        words = " ".join(said.stdout.split())
        assert "nginx refuses what was to be written, and it was not put in place" in words
        assert f"{next(iter(directives))}" in words
        assert f"See {name}." in words
    site.deploy()
    assert site.answer("GET", "/system").headers.get("X-Clinic") is None
    assert {site.ask("GET", "/system") for _ in range(40)} == {200}


def test_audit_trail(site: Site, patient: str) -> None:
    site.deploy(nginx_readonly_users=[READER])
    assert site.ask("GET", "/patients?name=Secret", READER) == 200
    assert site.ask("DELETE", f"{patient}?name=Secret", READER) == 403
    assert site.ask("GET", "/system", "nobody") == 401
    read, denied, failed = site.audit()[-3:]
    assert (read["user"], read["method"], read["resource"], read["status"]) == (READER, "GET", "/patients", 200)
    assert (denied["user"], denied["method"], denied["resource"], denied["status"]) == (READER, "DELETE", patient, 403)
    assert (failed["user"], failed["status"]) == ("nobody", 401)
    assert read["sent"] > 0
    assert read["address"] == site.lab.modalities["verifier"]["Host"]
    assert "Secret" not in site.lab.shell("cat /var/log/nginx/*.log /var/log/pacs/*.log")
    assert site.lab.shell("stat --format %a,%U:%G /var/log/pacs/audit.log") == "640,www-data:adm\n"
    site.deploy(nginx_audit_query=True)
    assert site.ask("GET", "/patients?name=Secret") == 200
    assert site.audit()[-1]["query"] == "name=Secret"


def test_audit_trail_is_kept(site: Site) -> None:
    """Each day has a file of its own, as long as was asked for."""
    site.deploy(nginx_audit_days=2)
    assert site.ask("GET", "/patients") == 200
    rotate = "rm -f /var/lib/logrotate/status; logrotate --force /etc/logrotate.conf"
    site.lab.shell(f"cd /var/log/pacs; touch -d '3 days ago' audit.log-20200101.gz; {rotate}")
    kept = site.lab.shell("ls /var/log/pacs").split()
    assert kept[0] == "audit.log"
    assert re.fullmatch(r"audit\.log-20[2-9]\d{5}", kept[1]), kept
    assert kept[2:] == []
    assert '"resource":"/patients"' in site.lab.shell(f"cat /var/log/pacs/{kept[1]}")
    assert site.ask("GET", "/studies") == 200
    assert [line["resource"] for line in site.audit()] == ["/studies"]
    assert site.lab.shell("stat --format %a,%U:%G /var/log/pacs/audit.log") == "640,www-data:adm\n"
    assert site.lab.shell("systemctl is-enabled logrotate.timer") == "enabled\n"


def test_certificates_of_machines(site: Site, tmp_path: pathlib.Path) -> None:
    files = {}
    for name, pair in {
        "gateway": pem("gateway", by=AUTHORITY),
        "unknown": pem("unknown", by=AUTHORITY),
        "foreign": pem("gateway", by=FOREIGN),
    }.items():
        files[name] = (tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
        for file, text in zip(files[name], pair, strict=True):
            file.write_text(text, encoding="utf-8")

    def ask(certificate: str = "", user: str = "", method: str = "GET", path: str = "/system") -> int:
        return site.ask(method, path, user, cert=tuple(map(str, files[certificate])) if certificate else None)

    machines = {"nginx_client_ca": AUTHORITY[0], "nginx_client_names": ["gateway"]}
    site.deploy(**machines)
    assert ask("gateway") == 200
    assert site.audit()[-1]["user"] == "gateway"
    # A login sent along does not make it somebody else.
    assert ask("gateway", "nobody") == 200
    assert site.audit()[-1]["user"] == "gateway"
    assert ask("unknown") == 401
    assert ask("foreign") == 400
    assert ask() == 401
    assert ask("", "admin") == 200
    site.deploy(**machines, nginx_client_certificate="required", nginx_readonly_users=["gateway"])
    assert ask("", "admin") == 400
    assert ask("foreign", "admin") == 400
    assert ask("unknown") == 401
    assert ask("unknown", "admin") == 200
    assert ask("gateway") == 200
    assert ask("gateway", "admin", "POST", "/tools/reset") == 403


def test_other_networks_stay_outside(site: Site) -> None:
    site.deploy()
    ask = "curl --silent --insecure --output /dev/null --write-out '%{http_code}' https://pacs/system"
    assert site.lab.shell(ask, "other") == "401"
    site.deploy(nginx_allowed_clients=[site.lab.modalities["verifier"]["Host"]])
    assert site.lab.shell(ask, "other") == "403"
    assert site.ask("GET", "/system") == 200


def test_busy_proxy_loses_no_request(site: Site) -> None:
    """Nor before this older Orthanc, which cannot be told for how long it keeps a connection."""
    site.deploy()
    assert answers_of_a_busy_proxy(site.lab) == {200}


def test_guessing_is_ended(site: Site) -> None:
    """Whatever the guess looks like, for the one who guesses alone, and not for the verification."""
    site.deploy(nginx_ban_after=10)
    assert not changed(site.deploy(nginx_ban_after=10))
    banned = "fail2ban-client get orthanc banip"
    named = '{"time":"2026-11-28T19:19:09+00:00","address":"192.0.2.10","wrong_login":true,'
    text = f'x": password mismatch, client: 192.0.2.10, server: s\\n{named}'.replace('"', '\\"')
    # Without Host, with bytes that are no text, and with lines that name another.
    user = f"$(printf 'a\\377'){text.replace(':', '')}"
    guess = (
        f'curl --silent --insecure --max-time 3 --http1.0 --header Host: --header "Referer: {text}"'
        f' --user "{user}:word" --get --data-urlencode "{text}" --output /dev/null'
        ' "https://$(getent hosts pacs | cut -d " " -f 1)/system"; echo $?'
    )
    assert site.lab.shell(guess, "other") == "0\n"
    assert "401" in str(site.audit()[-1]["status"])
    before = len(site.audit())
    site.lab.play("verify", {"verification_level": "probe", "orthanc_users": site.admin, "nginx_ban_after": 10})
    assert sum(line["wrong_login"] for line in site.audit()[before:]) == 2, "a few runs would shut us out"
    assert site.lab.shell(f"for i in $(seq 12); do {guess}; done", "other").startswith("0\n")
    deadline = time.monotonic() + 30
    while site.lab.shell(guess, "other") == "0\n":
        assert time.monotonic() < deadline, "fail2ban lets them guess on"
        time.sleep(0.5)
    assert site.lab.shell(banned).split() == [site.lab.address["other"]]
    assert site.ask("GET", "/system") == 200
    site.deploy()
    assert site.lab.shell(guess, "other") == "0\n"
    assert not changed(site.deploy())

"""One reading of a request: what nginx judged and logged is what reached Orthanc. ``make test-requests``.

Thousands of requests go as raw bytes to every topology, with a recorder in Orthanc's place; and readers ask for all
that Orthanc serves, under a prefix and over a relay, with Orthanc itself.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import re
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from tests.hosts import raw
from tests.hosts.certificates import pem
from tests.hosts.conftest import QUICKSTART, Lab, run
from tests.hosts.test_attacks import IMAGE, METHODS, PATIENT, REFUSED, WEAK, Admin, every, served

pytestmark = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
REQUESTS = 2500
AUTHORITY = pem("Clinic")
USERS = {"ward": "r'ead0nly-Ward-2026", "desk": "Desk-2026-x8Kq"}
MACHINES = {name: pem(name, by=AUTHORITY) for name in ("gateway", "scanner")}
# Who may only read: a person and a machine.
VARIABLES: dict[str, Any] = {
    "nginx_users": USERS,
    "nginx_readonly_users": ["ward", "gateway"],
    "nginx_client_ca": AUTHORITY[0],
    "nginx_client_names": list(MACHINES),
}
READERS, WRITERS = {"ward", "gateway"}, {"desk", "scanner"}
SEARCHES = {"/tools/find", "/tools/lookup", "/tools/count-resources", "/tools/bulk-content"}
RECORDER = r"""
import json, socketserver, sys

class Handler(socketserver.StreamRequestHandler):
    # Takes a request for what it says, letter by letter, and keeps the connection as Orthanc does.
    def handle(self):
        while self.one():
            pass

    def one(self):
        line = self.rfile.readline()
        if not line:
            return False
        headers = []
        while (header := self.rfile.readline()) not in (b"\r\n", b""):
            headers.append(header.decode("latin-1").rstrip("\r\n"))
        named = {h.partition(":")[0].lower(): h.partition(":")[2].strip() for h in headers}
        if named.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(named.get("content-length", 0)))
        with open("/root/received", "a") as file:
            file.write(json.dumps({"line": line.decode("latin-1"), "headers": headers}) + "\n")
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        self.wfile.write(answer if line.startswith(b"HEAD") else answer + b"{}")
        return named.get("connection", "") != "close"

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128

Server(("127.0.0.1", 8042), Handler).serve_forever()
"""
PROBE = (
    'log_format probe escape=json \'{"id":"$http_x_id","method":"$request_method","uri":"$uri",'
    '"args":"$args","user":"$orthanc_user","origin":"$http_origin","status":"$status","passed":"$upstream_status",'
    '"request":"$request"}\';'
)


@dataclasses.dataclass
class Way:
    """A way to Orthanc: the host of the proxy, the one of Orthanc, and the prefix.

    Equal are all users where there are no readers, and no certificates either. Another Orthanc may be behind that
    proxy, at another prefix or under another name: there those may write who are readers at the first one, and nobody
    else. Over a connection of HTTP/2 a client then asks for both in turn.
    """

    proxy: str
    orthanc: str
    prefix: str
    equal: bool = False
    http2: bool = False
    other: str = ""
    other_prefix: str = ""
    other_name: str = "x"

    @property
    def places(self) -> dict[str, tuple[str, str, set[str]]]:
        """The prefix, the name and the writers of each Orthanc."""
        found = {self.orthanc: (self.prefix, "x", set(USERS) if self.equal else WRITERS)}
        return found | ({self.other: (self.other_prefix, self.other_name, READERS)} if self.other else {})

    def __str__(self) -> str:
        kinds = ["relay" if self.proxy != self.orthanc else "beside", self.prefix]
        kinds += [f"and {self.other_prefix} of {self.other_name}"] * bool(self.other)
        return " ".join(kinds + ["equal"] * self.equal + ["http2"] * self.http2)


WAYS = [
    Way("pacs", "pacs", "/"),
    Way("pacs", "pacs", "/", equal=True),
    Way("pacs", "pacs", "/", http2=True),
    Way("pacs", "pacs", "/", equal=True, http2=True),
    Way("pacs", "pacs", "/orthanc/"),
    Way("pacs", "pacs", "/orthanc/", http2=True),
    Way("front", "store", "/"),
    Way("front", "store", "/", http2=True),
    Way("front", "store", "/orthanc/"),
    Way("front", "store", "/orthanc/", equal=True),
    Way("front", "store", "/orthanc/", other="pacs", other_prefix="/studies/"),
    Way("front", "store", "/", other="pacs", other_prefix="/", other_name="y"),
    Way("front", "store", "/", http2=True, other="pacs", other_prefix="/", other_name="y"),
]
EQUAL: dict[str, Any] = {"nginx_readonly_users": [], "nginx_client_ca": "", "nginx_client_names": []}
AUDIT = "/var/log/pacs/audit.log"


class Site:
    def __init__(self, release: str, folder: pathlib.Path) -> None:
        self.lab = Lab(f"requests-{release}", pacs=release, store=release, front=release, weak=release)
        self.inventory = folder
        (folder / "group_vars").symlink_to(QUICKSTART / "group_vars")
        # The proxy elsewhere is before the first one.
        groups = {"orthanc": ["store", "pacs"], "nginx": ["front", "pacs"]}
        hosts = {group: {"hosts": dict.fromkeys(names)} for group, names in groups.items()}
        (folder / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False), encoding="utf-8")

        self.deploy("/")

    def deploy(self, prefix: str, playbook: str = "site", **variables: Any) -> None:
        self.play(self.inventory, playbook, VARIABLES | {"nginx_prefix": prefix} | variables)

    def deploy_both(self, way: Way) -> None:
        """Two Orthancs behind that proxy."""
        # Beside the other one, which would have what stands below it too.
        folder = self.inventory.with_suffix(".both")
        folder.mkdir(exist_ok=True)
        orthancs = {
            host: {
                "nginx_prefix": prefix,
                "nginx_server_name": name,
                "nginx_readonly_users": sorted((READERS | WRITERS) - writers),
            }
            for host, (prefix, name, writers) in way.places.items()
        }
        groups = {"orthanc": {"hosts": orthancs}, "nginx": {"hosts": {way.proxy: None}}}
        (folder / "hosts.yml").write_text(yaml.safe_dump(groups, sort_keys=False), encoding="utf-8")
        if not (folder / "group_vars").exists():
            (folder / "group_vars").symlink_to(QUICKSTART / "group_vars")
        for host in way.places:
            self.lab.shell("systemctl stop recorder; true", host)
        self.play(folder, "site", {name: VARIABLES[name] for name in VARIABLES if name != "nginx_readonly_users"})

    def play(self, inventory: pathlib.Path, playbook: str, variables: dict[str, Any]) -> None:
        users = {"admin": self.lab.secrets["vault_orthanc_admin_password"]} | USERS
        for host in ("pacs", "front"):
            self.lab.shell("cd /etc/nginx/conf.d 2> /dev/null && rm -f 00-probe.conf || true", host)
        given = variables | {"orthanc_users": users, "nginx_users": users}
        self.lab.play(playbook, given, inventory=inventory)

    def record(self, host: str) -> None:
        """Put the recorder in the place of Orthanc."""
        file = self.lab.folder.with_suffix(".recorder")
        file.write_text(RECORDER, encoding="utf-8")
        run("docker", "cp", file, f"{self.lab.container(host)}:/root/recorder.py")
        self.lab.shell(
            "systemctl stop orthanc; systemctl is-active --quiet recorder"
            " || systemd-run --quiet --unit recorder python3 /root/recorder.py; rm -f /root/received;"
            " for i in $(seq 100); do ss -Hltn | grep -q 127.0.0.1:8042 && exit; sleep 0.1; done; exit 1",
            host,
        )

    def probe(self, way: Way) -> None:
        """Have nginx log what it made of each request, beside the audit trail."""
        file = self.lab.folder.with_suffix(".probe")
        text = PROBE.replace("$orthanc_user", "$remote_user") if way.equal else PROBE
        text = text.replace('"user"', '"orthanc":"$orthanc_site","user"') if way.other else text
        file.write_text(text, encoding="utf-8")
        run("docker", "cp", file, f"{self.lab.container(way.proxy)}:/etc/nginx/conf.d/00-probe.conf")
        own = "/etc/nginx/conf.d/orthanc.conf"
        self.lab.shell(
            f"grep -q probe.log {own} || sed -i '/pacs_audit;/a access_log /var/log/nginx/probe.log probe;' {own};"
            f" rm -f /var/log/nginx/probe.log; truncate --size 0 {AUDIT}; systemctl restart nginx",
            way.proxy,
        )

    def lines(self, path: str, host: str) -> list[dict[str, Any]]:
        """Read lines of JSON, each byte of a text one letter."""
        file = self.lab.folder.with_suffix(".lines")
        run("docker", "cp", f"{self.lab.container(host)}:{path}", file)
        return [json.loads(line.decode("latin-1")) for line in file.read_bytes().splitlines()]


@pytest.fixture(scope="module", params=["trixie", "bookworm"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(request.param, tmp_path_factory.mktemp("requests"))
    yield made
    if not os.environ.get("PACS_KEEP_LABS"):
        made.lab.destroy()


PARTS = [
    *(b"patients", PATIENT.encode(), b"dicom-web", b"studies", b"instances", b"export", b"tools", b"find", b"reset"),
    *(b"shutdown", b"system", b"orthanc", b".may", b"wado", b"", b".", b"..", b"...", b"..find", b"..;", b"%2e%2e"),
    *(b"patients.", b"shutdown.", PATIENT.encode() + b".", b"find.."),
    *(b".%2e", b"%2E", b"%252e%252e", b"%c0%ae", b"\\", b"%5c", b"..\\..", b"#", b"%23", b"?", b"%3f", b"%00", b"\0"),
    *(b"%0d%0a", b"\t", b" ", b"%20", b"%7f", b"%25", b"%zz", b"%", b"\xff", b"%ff", b"M%C3%BCller%5E", b"a^b[c]|{d}"),
    *(b"%66ind", b"f%69nd", b"FIND", b";x=1", b"*", b"~", b"&", b"="),
]
BETWEEN = [b"/"] * 12 + [b"//", b"\\", b"%2f", b"%2F", b"%5c", b"/./", b"/../", b"/%2e/", b"/.;/", b"#", b"?", b"%252f"]
QUERIES = [
    *([b""] * 4),
    *(b"?_method=DELETE", b"?%5fmethod=DELETE", b"?_%6d%65thod=PUT", b"?x=1&_method=DELETE", b"?x=1;_method=DELETE"),
    *(b"?%5Vmethod=DELETE", b"?x=1&%5vmethod=DELETE", b"?x=%zz"),
    *(b"?_METHOD=DELETE", b"?_method", b"?&&_method=delete", b"?#_method=DELETE", b"#?_method=DELETE", b"?x=%23%00&y"),
    *(
        b"?%255fmethod=DELETE",
        b"?_method%00=DELETE",
        b"?\0_method=DELETE",
        b"?x?_method=DELETE",
        b"?/../../x",
        b"?x=\xff",
    ),
    *(
        b"?_method=GET&_method=DELETE",
        b"?+_method=DELETE",
        b"?x=%",
        b'?x=a^b[c]|{d}"<e>',
        b"?limit=5&PatientName=M%C3%BC*",
    ),
]
VERBS = [b"GET"] * 6 + [name.encode() for name in METHODS] + [b"get", b"_GET", b"G\0ET", b"", b"MOVE", b"GETX"]
VERSIONS = [b" HTTP/1.1"] * 12 + [
    b" HTTP/1.0",
    b"",
    b" HTTP/0.9",
    b" HTTP/2.0",
    b" HTTP/1.1x",
    b"  HTTP/1.1",
    b" http/1.1",
]
HEADERS = [
    *(b"X-HTTP-Method-Override: DELETE", b"x-http-method-override : DELETE", b"X_HTTP_Method_Override: DELETE"),
    *(b"X-HTTP-Method-Override:\0DELETE", b"X-HTTP-Method-Override: GET\r\nX-HTTP-Method-Override: DELETE"),
    *(b"Host: y", b"Host: 127.0.0.1:8042", b"Content-Length: 0", b"Content-Length: 0\r\nContent-Length: 5"),
    *(b"Content-Length: +0", b"Content-Length: 0x0", b"Content-Length : 0", b"Transfer-Encoding: chunked"),
    *(b"Transfer-Encoding: chunked\r\nContent-Length: 4", b"Transfer-Encoding: x", b"Transfer-Encoding:\x0bchunked"),
    *(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"Transfer-Encoding : chunked", b"TE: chunked"),
    *(b"Origin: https://elsewhere.example", b"Origin: null", b"Origin: https://x", b"Sec-Fetch-Site: cross-site"),
    *(b"X-Original-URL: /patients", b"X-Rewrite-URL: /patients", b"Upgrade: h2c", b"Upgrade: websocket"),
    *(
        b"Connection: Upgrade, X-Id",
        b"Connection: close, Authorization",
        b"Expect: 100-continue",
        b" folded: x",
        b"bad",
    ),
    *(b"X: y\nX-HTTP-Method-Override: DELETE", b"X: y\rZ: z", b"X-Forwarded-For: 127.0.0.1", b"Range: bytes=0-"),
    *(b"Authorization: Basic", b"Authorization: Bearer x", b"Proxy-Authorization: Basic eDp5"),
]
# Of HTTP/2 alone, where lengths and not line breaks say where something ends.
PSEUDO = [
    (b":method", b"GET {}patients HTTP/1.1\r\nX: y\r\n\r\nDELETE"),
    *((b":method", name) for name in (b"DELETE {}patients/x", b"delete", b"G\0ET", b"CONNECT", b"")),
    (b":path", b"{}patients HTTP/1.1\r\nHost: x\r\n\r\nDELETE {}patients/x"),
    *(
        (b":path", b"{}patients" + end)
        for end in (b" HTTP/1.1", b"\r\nX: y", b"\nX: y", b"\0", b"?\r\n", b"?x\0", b"#")
    ),
    *(
        (b":path", path)
        for path in (b"", b"*", b"patients", b"http://x{}patients", b"?_method=DELETE", b"//x{}patients")
    ),
    *((b":scheme", scheme) for scheme in (b"http", b"file", b"https://x{}patients?", b"", b"https\r\nX: y")),
    *(
        (b":authority", name)
        for name in (b"", b"x{}patients?", b"x\r\nX: y", b"a@x", b"x:0", b"127.0.0.1:8042", b"x\0")
    ),
]
FIELDS: list[raw.Fields] = [
    *(
        [(name, b"DELETE")]
        for name in (b"x-http-method-override", b"X-HTTP-Method-Override", b"x-http-method-override ")
    ),
    *([(name, b"DELETE")] for name in (b"x_http_method_override", b"x\r\nX-HTTP-Method-Override", b":method", b"")),
    *([(b"x", b"y" + end + b"X-HTTP-Method-Override: DELETE")] for end in (b"\r\n", b"\n", b"\r", b"\0")),
    [(b"x", b"y\r\n\r\nDELETE {}patients/x HTTP/1.1\r\nHost: x\r\n\r\n")],
    *([(b":path", path)] for path in (b"{}system", b"{}patients/x?_method=DELETE")),
    *([(b"content-length", size)] for size in (b"0", b"5", b"+5", b"-1", b"0x5", b"99999999999999999999")),
    [(b"content-length", b"0"), (b"content-length", b"5")],
    *([(b"transfer-encoding", kind)] for kind in (b"chunked", b"identity", b"chunked, identity")),
    *(
        [(name, value)]
        for name, value in ((b"host", b"y"), (b"te", b"chunked"), (b"connection", b"x-id"), (b":x", b"y"))
    ),
    [(b"connection", b"Upgrade, HTTP2-Settings"), (b"upgrade", b"h2c"), (b"http2-settings", b"AAMAAABkAAQAAP__")],
    [(b"cookie", b"a=b"), (b"cookie", b"c=d\r\nX: y")],
    [(b"authorization", b"Basic eDp5")],
]
WHO = ["ward"] * 4 + ["gateway", "gateway", "", "wrong", "desk", "desk", "scanner", "scanner"]
# What each request has one or two odd things of, since of more nothing gets far.
ODD = ["start", "parts", "bytes", "query", "verb", "version", "header", "header", "body", "body"]
PLAIN_PARTS = [
    *(
        b"patients",
        PATIENT.encode(),
        b"dicom-web",
        b"studies",
        b"instances",
        b"x",
        b"export",
        b"tools",
        b"find",
        b"reset",
    ),
    *(b"shutdown", b"system", b"orthanc", b"wado", b"a%20b", b"M%C3%BCller%5E", b"a^b[c]|{d}", b"%66ind", b"~", b"&="),
]


@st.composite
def targets(draw: st.DrawFn, odd: set[str]) -> bytes:
    if "start" in odd and draw(st.booleans()):
        text = draw(st.sampled_from(raw.TRICKS + raw.USUAL)).replace(b"ID", PATIENT.encode())
    else:
        starts = [b"/", b"//", b"", b"http://x{}", b"https://x/", b"\\", b"/.{}", b"*", b"{}dicom-web/", b"{}tools/"]
        text = draw(st.sampled_from(starts)) if "start" in odd else b"{}"
        parts, between = (PARTS, BETWEEN) if "parts" in odd else (PLAIN_PARTS, [b"/"])
        for number, part in enumerate(draw(st.lists(st.sampled_from(parts), min_size=0, max_size=4))):
            text += (draw(st.sampled_from(between)) if number else b"") + part
    if "bytes" in odd:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(min_size=1, max_size=2)) + text[at:]
    return text + (draw(st.sampled_from(QUERIES)) if "query" in odd else b"")


@st.composite
def single(draw: st.DrawFn, who: str, last: bool, inner: bool = False) -> bytes:
    """One request, with a number of its own that both sides note down."""
    odd = set(draw(st.lists(st.sampled_from(ODD), max_size=2)))
    verb = draw(st.sampled_from(VERBS if "verb" in odd else [b"GET", b"GET", b"POST", b"PUT", b"DELETE", b"HEAD"]))
    version = draw(st.sampled_from(VERSIONS)) if "version" in odd else b" HTTP/1.1"
    line = verb + b" " + draw(targets(odd)) + version
    headers = [b"Host: x", b"X-Id: {id}"]
    if who in ("ward", "desk", "wrong"):
        headers.append(raw.basic(who, USERS.get(who, "wrong")).rstrip())
    if "header" in odd:
        headers.insert(draw(st.integers(0, len(headers))), draw(st.sampled_from(HEADERS)))
    body = b""
    if "body" in odd and not inner:
        # Something that one of two servers could take for a request of its own.
        body = draw(single(who, True, inner=True))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            headers.append(b"Content-Length: %d" % len(body))
        elif kind == 1:
            headers.append(b"Transfer-Encoding: chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        elif kind == 2:
            headers += [b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(body)]
            body = b"0\r\n\r\n" + body
        elif kind == 3:
            headers += [b"Content-Length: 0", b"Content-Length: %d" % len(body)]
    if last:
        headers.append(b"Connection: close")
    return b"\r\n".join([line, *headers, b"", body])


@st.composite
def connections(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    who = draw(st.sampled_from(WHO))
    count = draw(st.sampled_from([1] * 6 + [2, 3]))
    return who, [draw(single(who, number == count - 1)) for number in range(count)]


def generated() -> list[tuple[str, list[bytes], bool]]:
    """The same connections in each run, with all requests numbered."""
    found: list[tuple[str, list[bytes], bool]] = []

    @hypothesis.settings(
        max_examples=REQUESTS,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(connections())
    def collect(one: tuple[str, list[bytes]]) -> None:
        found.append((*one, False))

    collect()
    login = {who: raw.basic(who, password).rstrip() for who, password in USERS.items()}
    for target in raw.TRICKS + raw.USUAL:
        for query in (b"", b"?_method=DELETE"):
            lines = [b"GET " + target + query + b" HTTP/1.1", b"Host: x", b"X-Id: {id}", login["ward"]]
            found.append(("ward", [b"\r\n".join([*lines, b"Connection: close", b"", b""])], True))
    return found


@pytest.fixture(scope="module")
def sent() -> list[tuple[str, list[bytes], bool]]:
    return generated()


def contexts(folder: pathlib.Path) -> dict[str, ssl.SSLContext]:
    """Return how each machine introduces itself."""
    made = {}
    for name, (certificate, key) in MACHINES.items():
        file = folder / f"{name}.pem"
        file.write_text(certificate + key, encoding="ascii")
        made[name] = ssl.create_default_context()
        made[name].check_hostname = False
        made[name].verify_mode = ssl.CERT_NONE
        made[name].load_cert_chain(file)
    return made


def second(request: bytes, name: bytes = b"x") -> tuple[raw.Fields, bytes]:
    """Return what a request is in HTTP/2, as nearly as it can be said there."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    method, _, target = line.partition(b" ")
    target = re.sub(rb" +[^ ]*$", b"", target)
    fields = [(b":method", method), (b":scheme", b"https"), (b":path", target), (b":authority", name)]
    for header in headers:
        field, _, value = header.partition(b":")
        if header not in (b"Host: " + name, b"Connection: close"):
            fields.append((field.lower(), value.strip(b" ")))
    return fields, body


def planted() -> list[tuple[raw.Fields, bytes]]:
    """What only HTTP/2 can say, by one who may read."""
    target, login = b"{}patients/" + PATIENT.encode(), raw.basic("ward", USERS["ward"]).partition(b": ")[2].rstrip()
    usual = {b":method": b"GET", b":scheme": b"https", b":path": target, b":authority": b"x"}
    last = [(b"x-id", b"{id}"), (b"authorization", login)]
    found: list[tuple[raw.Fields, bytes]] = []
    for body in (b"", b"DELETE " + target + b" HTTP/1.1\r\nHost: x\r\nX-Id: {id}\r\n\r\n"):
        found += [([*(usual | {name: value}).items(), *last], body) for name, value in PSEUDO]
        found += [([*usual.items(), *last, *fields], body) for fields in FIELDS]
        found += [([*list(usual.items())[:left], *last], body) for left in range(4)]
    return found


def normal(path: bytes) -> bool:
    """Tell whether a path, as Orthanc's web server decodes it, says one thing only."""
    return path.startswith(b"/") and not re.search(rb"//|/\.|\.(/|$)|[\\\x00-\x1f\x7f]|%[0-9a-fA-F]{2}", path)


def filled(text: bytes, prefix: str, name: str, number: Iterator[int]) -> bytes:
    """Put in the way to Orthanc, and for each request a number of its own."""
    text = text.replace(b"{}", prefix.encode()).replace(b"Host: x", b"Host: " + name.encode())
    return re.sub(rb"\{id\}", lambda _: str(next(number)).encode(), text)


def deliver(site: Site, way: Way, sent: list[tuple[str, list[bytes], bool]], folder: pathlib.Path) -> list[int]:
    """Send all over that way, and return the status of the first answer of each connection."""
    machines, address, number = contexts(folder), site.lab.address[way.proxy], itertools.count()
    nobody = ssl.create_default_context()
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE

    places = [(prefix, name) for prefix, name, _ in way.places.values()]

    def one(prefix: str, name: str, who: str, requests: list[bytes], whole: bool) -> Callable[[], int]:
        context = machines.get(who, nobody)
        if way.http2:
            # The first as asked for, and each further one of the next Orthanc.
            turn = places.index((prefix, name))
            turns = itertools.cycle(places[turn:] + places[:turn])
            asked = [
                second(filled(request, *place, number), place[1].encode())
                for request, place in zip(requests, turns, strict=False)
            ]
            return functools.partial(two, who, asked)
        texts = [filled(request, prefix, name, number) for request in requests]
        # Of what may be half a request there may be no answer to wait for.
        wait = 30 if whole else 2
        return lambda: raw.status(raw.send(address, b"".join(texts), context=context, wait=wait))

    def two(who: str, requests: list[tuple[raw.Fields, bytes]]) -> int:
        return raw.send2(address, requests, machines.get(who, nobody))[0]

    calls = [one(prefix, name, *connection) for prefix, name in places for connection in sent]
    if way.http2:
        for context in (nobody, *machines.values()):
            context.set_alpn_protocols(["h2"])
        for fields, body in planted():
            fill = functools.partial(filled, prefix=way.prefix, name="x", number=number)
            named = [(fill(name), fill(value)) for name, value in fields]
            calls.append(functools.partial(two, "ward", [(named, fill(body))]))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda call: call(), calls))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_nginx_judged_is_what_orthanc_got(
    site: Site, way: Way, sent: list[tuple[str, list[bytes], bool]], tmp_path: pathlib.Path
) -> None:
    if way.other:
        site.deploy_both(way)
    else:
        # Orthanc itself need not run.
        site.deploy(way.prefix, "nginx", **(EQUAL if way.equal else {}))
    for host in way.places:
        site.record(host)
    site.probe(way)
    begin = time.monotonic()
    answers = deliver(site, way, sent, tmp_path)
    seconds = time.monotonic() - begin
    # It ends what it has begun, and has logged all then.
    site.lab.shell("systemctl stop nginx", way.proxy)
    judged = site.lines("/var/log/nginx/probe.log", way.proxy)
    got = [(host, line) for host in way.places for line in site.lines("/root/received", host)]
    audit = site.lines(AUDIT, way.proxy)
    site.lab.shell("systemctl start nginx", way.proxy)

    known_users = set(USERS) if way.equal else READERS | WRITERS
    passed = collections.defaultdict(list)
    for line in judged:
        if line["passed"]:
            passed[line["id"]].append(line)
    wrong: list[tuple[Any, ...]] = []
    for host, one in got:
        prefix, name, writers = way.places[host]
        verb, target, version = one["line"].rstrip("\r\n").encode("latin-1").split(b" ")
        path, _, query = target.partition(b"?")
        headers = collections.defaultdict(list)
        for header in one["headers"]:
            field, _, value = header.partition(":")
            headers[field.lower()].append(value.strip())
        ids = headers["x-id"] or [""]
        known = passed[ids[0]].pop() if len(ids) == 1 and passed[ids[0]] else None
        if known is None:
            wrong.append(("nginx knows nothing of it", one))
            continue
        uri = known["uri"].encode("latin-1")
        rest = b"/" + uri[len(prefix) :]
        expected = uri if prefix != "/" and rest.startswith(b"/dicom-web/") else rest
        writes = verb not in (b"GET", b"HEAD", b"OPTIONS") and rest.decode("latin-1") not in SEARCHES
        faults = {
            "another Orthanc": known.get("orthanc", host) != host or not uri.startswith(prefix.encode()),
            "another method": verb != known["method"].encode(),
            "another path": unquote_to_bytes(path) != expected,
            "another query": query != known["args"].encode("latin-1"),
            "two readings": not normal(unquote_to_bytes(path)) or b"#" in target or version != b"HTTP/1.1",
            # Releases up to 1.9.7 take any two letters after a percent sign for a code.
            "a disguise": re.search(rb"%(?![0-9a-fA-F]{2})", query) is not None
            or re.search(rb"_method", unquote_to_bytes(query), re.IGNORECASE) is not None
            or bool(headers["x-http-method-override"]),
            "a write of a reader": writes and known["user"] not in writers,
            "a write from elsewhere": verb not in (b"GET", b"HEAD", b"OPTIONS")
            and (
                known["origin"] not in ("", f"https://{name}")
                or bool({"cross-site", "same-site"} & set(headers["sec-fetch-site"]))
            ),
            "what nobody gets": re.search(rb"^/(tools/(reset|shutdown)|instances/[^/]+/export)/*$", rest) is not None,
            "nobody": known["user"] not in known_users,
            "another login": len(headers["authorization"]) != 1 or headers["authorization"][0] in _logins(),
            "two lengths": len(headers["content-length"]) + len(headers["transfer-encoding"]) > 1,
        }
        wrong += [(fault, one["line"], known) for fault, found in faults.items() if found]
    counted = collections.Counter(answers)
    unsafe = sum(one["line"].split(" ")[0] in ("POST", "PUT", "DELETE") for _, one in got)
    print(
        f"{way}: {len(answers)} connections, {len(judged)} requests judged, {len(got)} passed on ({unsafe} unsafe),"
        f" {len(wrong)} mismatches, in {seconds:.0f} s; first answers: {dict(counted)}"
    )
    assert wrong == []
    left = [line for lines in passed.values() for line in lines if line["passed"] == "200"]
    assert left == [], "nginx says that it passed on what never came"
    trail = collections.Counter((one["user"], one["method"], one["resource"], one["status"]) for one in audit)
    assert trail == collections.Counter((one["user"], one["method"], one["uri"], int(one["status"])) for one in judged)
    # Else the test would say nothing.
    assert len(judged) > 2000
    assert len(got) > 200
    assert counted[400] > 500
    assert unsafe > 5
    usual = tuple(b"GET " + target + b" HTTP/1.1\r\n" for target in raw.USUAL)
    # What only HTTP/2 can say comes after them.
    legitimate = [
        (text, status)
        for (_, (text, *_), whole), status in zip(sent * len(way.places), answers, strict=False)
        if whole and text.startswith(usual)
    ]
    assert len(legitimate) == len(usual) * len(way.places)
    assert [one for one in legitimate if one[1] != 200] == []


def _logins() -> set[str]:
    return {raw.basic(who, password).decode().partition(":")[2].strip() for who, password in USERS.items()}


def test_readers_change_nothing_anywhere(site: Site) -> None:
    """All that Orthanc and its plugins serve, under a prefix, beside Orthanc and over a relay."""
    lab, prefix = site.lab, "/orthanc/"
    lab.shell(WEAK, "weak", timeout=1800)
    for host in ("pacs", "store"):
        lab.shell("systemctl stop recorder; true", host)
    plugins = ["dicomweb", "gdcm", "neuro", "webviewer", "wsi"]
    # That a patient has become stable is a change as well, if nobody's.
    site.deploy(prefix, orthanc_plugins=plugins, orthanc_settings={"StableAge": 86400})
    for host in ("pacs", "front"):
        with Admin(lab, host, prefix) as admin:
            admin.post(f"{admin.base}/instances", data=IMAGE.read_bytes(), timeout=30).raise_for_status()
            routes = served(lab, admin)
            asked = [
                (method, route)
                for method, route, _ in every(routes, "", ("POST", "PUT", "DELETE", "PATCH", "PROPFIND"))
            ]
            before = admin.state()
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                got = list(pool.map(lambda one: ask(lab.address[host], prefix.rstrip("/"), *one), asked))  # noqa: B023
            let = {route for (_, route), status in zip(asked, got, strict=True) if status not in REFUSED}
            print(f"{host}: {len(asked)} requests of a reader, answered: {dict(collections.Counter(got))}")
            assert let <= SEARCHES
            assert admin.state() == before
            asked = [(method, route) for method in ("GET", "HEAD", "OPTIONS", "TRACE") for route in routes]
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                got = list(pool.map(lambda one: ask(lab.address[host], prefix.rstrip("/"), *one), asked))  # noqa: B023
            # Reading an archive leaves a job behind.
            assert admin.state() | {"/jobs": ""} == before | {"/jobs": ""}
            assert got[: len(routes)].count(200) > 100, "reading is what they are there for"


def ask(address: str, prefix: str, method: str, route: str) -> int:
    """Ask as a reader, and return the status."""
    headers = raw.basic("ward", USERS["ward"]) + (b"" if method == "GET" else b"Content-Length: 2\r\n")
    body = b"" if method == "GET" else b"{}"
    target = f"{prefix}{route}".replace(" ", "%20").encode()
    return raw.status(raw.send(address, raw.request(target, headers, method=method.encode()) + body, wait=30))

"""Measure the viewer and the proxy beside a minimal site that is written by hand, on one host of the lab.

Usage: python -m benchmarks.viewer [ROUNDS [KIND…]]     (five by default; `make bench-viewer` runs it)

The kinds are `viewer` and `proxy`. Prints Markdown on standard output, and what it is doing on standard error.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import pathlib
import shutil
import ssl
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pydicom
import requests
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.host import ROOT, SECRETS, Host, say
from benchmarks.images import ct_slice
from benchmarks.load import FIRST, SERIES, STUDY, UID
from tests.hosts.browser import STACK, Browser, install

CACHE = ROOT / ".cache"
SLICES, SIDE = 300, 512
OURS, MINIMAL, OPEN = "ours", "minimal", "minimal, no login"
PORTS = {OURS: 443, MINIMAL: 8443, OPEN: 8444}
# With `nginx_browser_cache`.
KEPT = "ours, frames kept"
# What is at most of the minimal site's, and at least of its rate.
COLD_GOAL, WARM_GOAL, RATE_GOAL = 1.0, 0.5, 0.95
# How many requests are sent of each kind.
NUMBER = {"upload": 200, "download of files": 300, "WADO-RS": 300}
# As OHIF's own recipe for nginx and Orthanc has it, and TLS, a login, and Orthanc's own.
SITE = """
server {
    listen %(port)s ssl;
    ssl_certificate %(certificate)s.crt;
    ssl_certificate_key %(certificate)s.key;
    %(login)s
    gzip on;
    gzip_types text/css application/javascript application/json image/svg+xml;
    gzip_comp_level 9;
    client_max_body_size 0;
    location /pacs/ {
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header Authorization "%(authorization)s";
        expires 0;
        add_header Cache-Control private;
        proxy_pass http://127.0.0.1:8042/;
    }
    location / {
        root /srv/minimal;
        index index.html;
        try_files $uri $uri/ /index.html;
        add_header Cache-Control "no-store, no-cache, must-revalidate";
        add_header Cross-Origin-Opener-Policy same-origin always;
        add_header Cross-Origin-Embedder-Policy require-corp always;
    }
}
"""
CONFIGURATION: dict[str, Any] = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 3,
    "maxNumRequests": {"interaction": 100, "thumbnail": 5, "prefetch": 25},
    "defaultDataSourceName": "orthanc",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "orthanc",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "Orthanc",
                "wadoUriRoot": "/pacs/wado",
                "qidoRoot": "/pacs/dicom-web",
                "wadoRoot": "/pacs/dicom-web",
                "qidoSupportsIncludeField": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}
UNPACK = (
    "set -e; mkdir -p /srv/minimal; cd /srv/minimal;"
    " tar --extract --gzip --no-same-owner --strip-components 2 --exclude '*.map' --exclude '*/ort' package/dist;"
    " chmod -R a+rX ."
)
# In hundredths of a second, as Linux counts them.
TAKEN = "cat $(pgrep -x nginx | sed 's,.*,/proc/&/stat,') | awk '{ sum += $14 + $15 } END { print sum }'"
# Notes down when the first image is drawn, then has the viewer load all others, as its own tools do for a volume.
WATCH = (
    STACK
    + """
const watch = setInterval(async () => {
    const view = globalThis.stack();
    if (!view) return;
    clearInterval(watch);
    globalThis.first = performance.now();
    // One that the viewer had begun to load, and has left off, is loaded again.
    const load = id => cornerstone.imageLoader.loadAndCacheImage(id)
        .catch(() => new Promise(done => setTimeout(done, 20)).then(() => load(id)));
    await Promise.all(view.getImageIds().map(load));
    globalThis.last = performance.now();
}, 5);
"""
)


class Measured(Browser):
    """It counts what came from the server; requests do not wait for this program."""

    def __init__(self, folder: pathlib.Path, login: str, key: str) -> None:
        self.sizes: list[int] = []
        self.cached = 0
        # Known by its key, since of a server with a wrong certificate nothing is kept.
        super().__init__(folder, key=key)
        self("Fetch.disable")
        self("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {login}"})
        self("Page.addScriptToEvaluateOnNewDocument", source=WATCH)

    def _hear(self, method: str, said: dict[str, Any]) -> None:
        super()._hear(method, said)
        if method == "Network.loadingFinished":
            self.sizes.append(int(said["encodedDataLength"]))
        elif method == "Network.responseReceived":
            self.cached += bool(said["response"].get("fromDiskCache"))

    def open(self, url: str) -> dict[str, float]:
        """Open a study; return the seconds until its first and its last image, and what was sent for them."""
        self("Page.navigate", url=url)
        first, last = self.wait("globalThis.last && [globalThis.first, globalThis.last]", 600)
        assert self.value("stack().getImageIds().length") == SLICES
        while self._receive(0.5):
            pass
        return {
            "first image, s": first / 1000,
            "last image, s": last / 1000,
            "requests": len(self.sizes) - self.cached,
            "MB": sum(self.sizes) / 1e6,
        }

    def end(self) -> None:
        """Have it write down what it knows."""
        self("Browser.close")
        self._process.wait(60)


class Bench:
    """A host with both sites, which have one Orthanc and one file of users."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.deploy()
        self.address = host.variables["ansible_host"]
        self.login = f"admin:{SECRETS['vault_orthanc_admin_password']}"
        self.coded = base64.b64encode(self.login.encode()).decode()
        self._minimal()
        shown = x509.load_pem_x509_certificate(ssl.get_server_certificate((self.address, 443)).encode())
        key = shown.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key = base64.b64encode(hashlib.sha256(key).digest()).decode()
        for name in ("load.py", "through.py"):
            host.run(f"cat > /root/{name}", (ROOT / "benchmarks" / name).read_bytes())
        host.run("cat > /root/image", ct_slice(SIDE))
        self.sent = 0

    def deploy(self, kept: bool = False) -> None:
        given = {"ohif_enabled": True, "nginx_browser_cache": 86_400 * kept}
        self.host.deploy(given, XDG_CACHE_HOME=str(CACHE))

    def _minimal(self) -> None:
        package = max((CACHE / "dicom.orthanc").glob("ohif-app-*.tgz"))
        self.host.run(UNPACK, package.read_bytes())
        self.host.run("cat > /srv/minimal/app-config.js", f"window.config = {json.dumps(CONFIGURATION)};".encode())
        own = self.host.run("cat /etc/nginx/conf.d/orthanc.conf /etc/pacs/nginx/upstream.conf").decode()
        certificate = own.partition("ssl_certificate ")[2].partition(".crt;")[0]
        authorization = own.partition('$orthanc_login "')[2].partition('"')[0]
        login = "auth_basic Minimal; auth_basic_user_file /etc/pacs/nginx/htpasswd;"
        given = {"certificate": certificate, "authorization": authorization}
        sites = [given | {"port": PORTS[MINIMAL], "login": login}, given | {"port": PORTS[OPEN], "login": ""}]
        text = "".join(SITE % site for site in sites)
        self.host.run("cat > /etc/nginx/conf.d/minimal.conf; nginx -t -q; systemctl reload nginx", text.encode())

    def url(self, site: str, path: str) -> str:
        return f"https://{self.address}:{PORTS.get(site, 443)}{path}"

    def store(self) -> None:
        """Store the study that is opened."""
        dataset = pydicom.dcmread(io.BytesIO(ct_slice(SIDE)))
        with requests.Session() as session:
            session.verify = session.trust_env = False
            for number in range(SLICES):
                dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(
                    f"{UID}{FIRST + number}"
                )
                dataset.InstanceNumber, dataset.ImagePositionPatient = number + 1, [0, 0, number]
                buffer = io.BytesIO()
                dataset.save_as(buffer, enforce_file_format=True)
                answer = session.post(self.url(OPEN, "/pacs/instances"), data=buffer.getvalue(), timeout=60)
                assert answer.status_code == 200, answer.text
            found = session.get(self.url(OPEN, "/pacs/instances"), timeout=60).json()
            self.files = [f"/instances/{one}/file" for one in found]
        series = f"/dicom-web/studies/{STUDY}{FIRST}/series/{SERIES}{FIRST}"
        self.frames = [f"{series}/instances/{UID}{FIRST + number}/frames/1" for number in range(SLICES)]

    def seen(self, site: str, folder: pathlib.Path) -> dict[str, float]:
        """Open the study with a browser that has what is in that folder."""
        viewer = "/viewer" if site == MINIMAL else "/ohif/viewer"
        browser = Measured(folder, self.coded, self.key)
        try:
            return browser.open(self.url(site, f"{viewer}?StudyInstanceUIDs={STUDY}{FIRST}"))
        finally:
            with contextlib.suppress(Exception):
                browser.end()
            browser.close()

    def taken(self) -> float:
        """Return how many milliseconds of a processor nginx has taken."""
        return 10.0 * int(self.host.run(TAKEN))

    def passed(self, site: str, kind: str, clients: int) -> tuple[float, float]:
        """Return how many requests pass in a second, and how many milliseconds of a processor each costs nginx."""
        number, below = NUMBER[kind], "" if site == OURS else "/pacs"
        paths = {"upload": ["/instances"], "download of files": self.files, "WADO-RS": self.frames}[kind]
        task = {
            "port": PORTS[site],
            "login": self.login,
            "clients": clients,
            "number": number,
            "paths": [below + path for path in paths],
            "image": "/root/image" if kind == "upload" else "",
            # Each image is another one, of other studies than the one that is opened.
            "first": 10_000 + self.sent,
        }
        self.sent += number if kind == "upload" else 0
        self.host.run("cat > /root/task", json.dumps(task).encode())
        before = self.taken()
        seconds = float(self.host.run('cd /root && python3 through.py "$(cat task)"'))
        return number / seconds, (self.taken() - before) / number


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def median(values: list[float]) -> float:
    return statistics.median(values)


def viewer(bench: Bench, rounds: int) -> Iterator[str]:
    """Open the study at both sites, in turn, with a browser that knows nothing and with one that has seen it."""
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for number in range(rounds):
        for site in (KEPT, OURS, MINIMAL) if number % 2 else (MINIMAL, OURS, KEPT):
            if site != MINIMAL:
                bench.deploy(site == KEPT)
            with tempfile.TemporaryDirectory() as folder:
                for state in ("cold", "warm"):
                    found[site, state].append(bench.seen(site, pathlib.Path(folder)))
                    say(f"round {number + 1}: {site}, {state}: {found[site, state][-1]}")
    yield row("", "", "Ours", "Minimal", "Ratio", "In each round", "Goal")
    yield row("---", "---", "---:", "---:", "---:", "---", "---")
    for site, state, goal in ((OURS, "cold", COLD_GOAL), (OURS, "warm", WARM_GOAL), (KEPT, "warm", WARM_GOAL)):
        for what in found[site, state][0]:
            ours, minimal = ([one[what] for one in found[where, state]] for where in (site, MINIMAL))
            ratios = [one / other for one, other in zip(ours, minimal, strict=True)]
            yield row(
                f"{state}{', frames kept' if site == KEPT else ''}",
                what,
                f"{median(ours):.1f}",
                f"{median(minimal):.1f}",
                f"{median(ratios):.2f}",
                ", ".join(f"{one:.2f}" for one in ratios),
                f"at most {goal}" if what.endswith(", s") else "",
            )


def proxy(bench: Bench, rounds: int) -> Iterator[str]:
    """Send and fetch by both, in turn, and by one that asks for no login."""
    found: dict[tuple[str, str, int], list[tuple[float, float]]] = defaultdict(list)
    for number in range(rounds):
        for kind in NUMBER:
            for clients in (1, 8):
                for site in list(PORTS)[number % 3 :] + list(PORTS)[: number % 3]:
                    found[site, kind, clients].append(bench.passed(site, kind, clients))
                said = ", ".join(
                    "{} {:.0f}/s {:.2f} ms".format(site, *found[site, kind, clients][-1]) for site in PORTS
                )
                say(f"round {number + 1}: {kind}, {clients}: {said}")
    yield row(
        "", "Clients", "Ours, 1/s", "Minimal", "Ratio", "In each round", "Goal", "nginx, ms", "Minimal", "no login"
    )
    yield row("---", "---:", "---:", "---:", "---:", "---", "---", "---:", "---:", "---:")
    for kind in NUMBER:
        for clients in (1, 8):
            ours, minimal = ([rate for rate, _ in found[site, kind, clients]] for site in (OURS, MINIMAL))
            ratios = [one / other for one, other in zip(ours, minimal, strict=True)]
            yield row(
                kind,
                str(clients),
                f"{median(ours):.0f}",
                f"{median(minimal):.0f}",
                f"{median(ratios):.2f}",
                ", ".join(f"{one:.2f}" for one in ratios),
                f"at least {RATE_GOAL}",
                *(f"{median([cost for _, cost in found[site, kind, clients]]):.2f}" for site in PORTS),
            )


def main() -> None:
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    kinds = sys.argv[2:] or ["viewer", "proxy"]
    host = Host("bench-viewer", "quickstart", SECRETS, "trixie-installed")
    if not shutil.which("chromium"):
        install()
    with contextlib.ExitStack() as cleaning:
        say("deploying")
        host.create()
        cleaning.callback(host.destroy)
        bench = Bench(host)
        bench.store()
        for kind in kinds:
            print("\n".join({"viewer": viewer, "proxy": proxy}[kind](bench, rounds)), "\n")


if __name__ == "__main__":
    main()

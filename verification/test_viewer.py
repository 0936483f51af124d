"""The viewer that the proxy serves: its files, whom it lets in, what its pages may do, and where it reads images."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from verification.client import Client
from verification.expect import expect
from verification.reach import Host, expect_open
from verification.site import Site
from verification.test_access import SECURITY_HEADERS

LINK = "viewer?StudyInstanceUIDs=1.2.3"
# Of which there is one: beside Orthanc, or with a name of its own.
SITES, CONFIGURATION = "/etc/pacs/ohif/site.conf /etc/pacs/ohif/named.conf", "app-config.js"
SEE = "ohif_enabled; playbooks/site.yml"
# What is wrong with the files of the release that nginx serves: another content, none, or one of somebody else.
LOOK = f"""
folder=$(sed -n 's/^ *root \\(.*\\);$/\\1/p' {SITES} 2> /dev/null)
[ -n "$folder" ] && cd "$folder" || {{ echo 'no release is there'; exit; }}
sha256sum --quiet --check sums 2>&1
{{ find . -type f ! -path ./sums -printf '%P\\n'; cut --characters 67- sums; }} | sort | uniq --unique
find . $(ls {SITES} 2> /dev/null) '(' ! -user root -o -perm /022 -o ! -perm -444 ')' -print
find "${{PWD%/*}}" -prune '(' ! -user root -o -perm /022 ')' -print
"""


@pytest.fixture(scope="session")
def viewed(proxied: Site) -> Site:
    """The site, if it has a viewer."""
    if not proxied.viewer:
        pytest.skip(f"ohif_enabled is not set for {proxied.proxy}")
    return proxied


@pytest.fixture(scope="session")
def address(viewed: Site, public: Site) -> str:
    """The root of the site that has the viewer: it may be beside Orthanc's own path, or have a name of its own."""
    parts = urlsplit(viewed.viewer_site)
    if parts.hostname != public.host:
        see = "ohif_server_name; whoever answers for that name in DNS"
        expect_open("which is the viewer's", str(parts.hostname), parts.port or 443, see)
    return viewed.viewer_site


@pytest.fixture(scope="session")
def visitor(address: str, public: Site, client: Client) -> Client:
    """The first user there."""
    return Client(address, public.trust(), public.login, writes=False)


def page(visitor: Client, viewed: Site, path: str = "") -> str:
    """Return a page of the viewer."""
    answer = visitor.get(viewed.viewer + path)
    expect(f"GET {viewed.viewer}{path}", 200, answer.status_code, SEE)
    expect(f"type of {viewed.viewer}{path}", "text/html", answer.headers.get("Content-Type"), SEE)
    return str(answer.text)


def configuration(visitor: Client, viewed: Site) -> dict[str, Any]:
    """Return what the viewer is configured with."""
    answer = visitor.get(viewed.viewer + CONFIGURATION)
    expect(f"GET {viewed.viewer}{CONFIGURATION}", 200, answer.status_code, SEE)
    found = re.search(r"(?s)^window\.config = (\{.*\});\s*$", answer.text[answer.text.find("window.") :])
    expect(f"{CONFIGURATION} is one dictionary", True, found is not None, "ohif_settings")
    told: dict[str, Any] = json.loads(found[1]) if found else {}
    return told


def policy_of(answer: requests.Response) -> dict[str, set[str]]:
    """Return the sources that an answer names in its policy, by what they are for."""
    words = [part.split() for part in answer.headers.get("Content-Security-Policy", "").split(";") if part.strip()]
    return {name: set(sources) for name, *sources in words}


@pytest.mark.parametrize("path", ["", LINK, CONFIGURATION], ids=["page", "link", "configuration"])
def test_viewer_is_for_users_alone(viewed: Site, address: str, public: Site, path: str) -> None:
    anonymous = Client(address, public.trust(), writes=False)
    where = viewed.viewer + path
    expect(f"GET {where} without a login", 401, anonymous.get(where).status_code, "nginx_users")


def test_files_of_the_viewer_are_as_deployed(viewed: Site, proxy_host: Host) -> None:
    done = proxy_host.run(LOOK)
    expect("what is wrong with the viewer's files", "", done.stdout.strip() or done.stderr.strip(), SEE)


def test_page_of_the_viewer_has_all_its_parts(viewed: Site, visitor: Client) -> None:
    text = page(visitor, viewed)
    expect("a link to a study leads to the page of the viewer", text, page(visitor, viewed, LINK), SEE)
    parts = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"]+\.(?:js|css))"', text)
    expect("scripts and styles of the page", True, len(parts) > 2, SEE)
    for part in parts:
        expect(f"GET {part}", 200, visitor.get(part).status_code, SEE)


def test_viewer_says_what_its_page_may_do(viewed: Site, visitor: Client) -> None:
    """Only the scripts that are there, and nothing to or from another host."""
    answer = visitor.get(viewed.viewer)
    got = {name: answer.headers.get(name) for name in SECURITY_HEADERS}
    expect(f"headers of GET {viewed.viewer}", SECURITY_HEADERS, got)
    policy = policy_of(answer)
    inside = re.findall(r"(?s)<script>(.*?)</script>", answer.text)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in inside}
    expect("default-src", {"'none'"}, policy.get("default-src"), SEE)
    expect("script-src", hashes | {"'self'", "'wasm-unsafe-eval'"}, policy.get("script-src"), SEE)
    known = {"'none'", "'self'", "'wasm-unsafe-eval'", "'unsafe-inline'", "blob:", "data:", *hashes}
    strange = {f"{name} {source}" for name, sources in policy.items() for source in sources - known}
    expect("sources in the policy that lead elsewhere", set(), strange, SEE)
    # What decodes JPEG 2000 and JPEG-LS is a worker, whose policy is that of its script.
    scripts = re.findall(r'<script[^>]* src="([^"]+\.js)"', answer.text)
    expect("the page has scripts of its own", True, len(scripts) > 0, SEE)
    worker = policy_of(visitor.get(scripts[-1]))
    expect("script-src of a worker", {"'self'", "'unsafe-eval'"}, worker.get("script-src"), SEE)
    expect("what a worker may beside", policy | {"script-src": worker["script-src"]}, worker, SEE)


def test_browsers_keep_of_the_viewer_what_never_changes(viewed: Site, visitor: Client) -> None:
    bundle = re.search(r'src="([^"]*/app\.bundle\.[0-9a-f]{16}\.js)"', page(visitor, viewed))
    expect("the page has a script whose name tells its content", True, bundle is not None, SEE)
    never = str(bundle[1] if bundle else "")
    expected: dict[str, str | None] = {viewed.viewer: "no-cache", viewed.viewer + CONFIGURATION: "no-cache"}
    expected |= {never: "max-age=31536000, immutable", f"{viewed.prefix}dicom-web/studies?limit=1": "no-store"}
    got = {path: visitor.get(path).headers.get("Cache-Control") for path in expected}
    expect("Cache-Control", expected, got, SEE)
    expect(f"encoding of {never}", "gzip", visitor.get(never).headers.get("Content-Encoding"), SEE)


def test_viewer_knows_no_other_host(viewed: Site, visitor: Client) -> None:
    text = json.dumps(configuration(visitor, viewed))
    elsewhere = r'(?i)"\s*((?:[a-z][a-z0-9+.-]*:)?//[^"]+|(?:blob|file|ftp|https?|javascript|wss?):[^\s"][^"]*)"'
    expect(f"other hosts in {CONFIGURATION}", [], re.findall(elsewhere, text), "ohif_settings")


def test_viewer_reads_images_of_this_site(viewed: Site, visitor: Client) -> None:
    told = configuration(visitor, viewed)
    sources = {one.get("sourceName"): one.get("configuration", {}) for one in told.get("dataSources", [])}
    name = told.get("defaultDataSourceName")
    expect(f"one of dataSources is defaultDataSourceName, {name}", True, name in sources, "ohif_settings")
    for root in ("qidoRoot", "wadoRoot"):
        path = f"{sources[name].get(root)}/studies?limit=1"
        answer = visitor.get(path, headers={"Accept": "application/dicom+json"})
        expect(f"GET {path} ({root})", 200, answer.status_code, "ohif_data_source, orthanc_plugins")
        expect(f"a list at {path} ({root})", True, isinstance(answer.json(), list), "ohif_data_source")

"""The viewer OHIF on real hosts, seen in a real browser: ``make test-viewer``.

npm fetches its package once, to ``.cache``.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import pathlib
import re
import socket
import struct
import zlib
from typing import Any

import pydicom
import pydicom.data
import pytest
import requests
import yaml
from ansible_collections.dicom.orthanc.plugins.module_utils import ohif

from tests.hosts import raw
from tests.hosts.browser import opened
from tests.hosts.certificates import pem
from tests.hosts.conftest import QUICKSTART, ROOT, Lab
from tests.hosts.test_site import changed
from verification.test_access import SECURITY_HEADERS

FETCHED = ("env", f"XDG_CACHE_HOME={ROOT / '.cache'}")
# What the viewer is called, where it has a name of its own.
NAME = "viewer.example.org"
NAMED: dict[str, Any] = {"ohif_server_name": NAME}
READER = "a password of the ward"
CT = pathlib.Path(str(pydicom.data.get_testdata_file("CT_small.dcm")))
STUDY = str(pydicom.dcmread(CT).StudyInstanceUID)
LAB = {"name": "viewer", "pacs": "trixie-installed"}
AUTHORITY, STATION = pem("Authority of the clinic"), "station of the ward"
# By the status of each for a user.
PATHS = {
    b"/ohif": 301,
    b"/ohif/": 200,
    b"/ohif/viewer": 200,
    b"/ohif/viewer/?StudyInstanceUIDs=../../etc/passwd": 200,
    b"/ohif/assets/": 200,
    b"/ohif/sums": 200,
    b"/ohif/app-config.js": 200,
    b"/ohif/app-config.js/x": 200,
    b"/ohif/none.js": 404,
    b"/ohif/0123456789abcdef.js": 404,
    b"/ohif/../system": 400,
    b"/ohif/../../etc/passwd": 400,
    b"/ohif/%2e%2e/system": 400,
    b"/ohif/..%2f..%2fsums": 400,
    b"/ohif//index.html": 400,
    b"//ohif/": 400,
    b"/ohif/%2findex.html": 400,
    b"/ohif/./index.html": 400,
    b"/ohif/.hidden": 400,
    b"/ohif/index.html%00.js": 400,
    b"/ohif/\\..\\sums": 400,
    b"/%6fhif/": 200,
    b"/ohif/INDEX.HTML": 404,
    b"/OHIF/": 404,
}
# What is at its own name: by the beginning of the answer to a user. Of Orthanc there is DICOMweb alone.
PAGE, DICOMWEB = "text/html", "application/dicom+json"
OWN = {
    "/": (200, PAGE),
    "/viewer?StudyInstanceUIDs=1.2.3": (200, PAGE),
    "/dicom-web/studies?limit=1": (200, DICOMWEB),
    "/system": (200, PAGE),
    "/instances": (200, PAGE),
    "/dicom-web": (301, PAGE),
    "/sums": (200, PAGE),
    "/app/explorer.html": (404, PAGE),
    "/ohif/app-config.js": (404, PAGE),
    "/app-config.js": (200, "application/javascript"),
    "/tools/reset": (403, PAGE),
    "/dicom-web/../system": (400, PAGE),
    "//system": (400, PAGE),
    "/dicom-web/..%2fsystem": (400, PAGE),
    "/dicom-web//studies": (400, PAGE),
}
# How many grey levels the greatest of its canvases shows.
GREYS = """
(() => {
    const [canvas] = [...document.querySelectorAll("canvas")].sort((a, b) => b.width * b.height - a.width * a.height);
    if (!canvas || canvas.width < 200) return 0;
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
    copy.drawImage(canvas, 0, 0);
    const {data} = copy.getImageData(0, 0, canvas.width, canvas.height);
    return new Set(data.filter((_, place) => place % 4 == 0)).size;
})()
"""
# What a host has of the viewer, and nginx of it.
LOOK = (
    "find /etc/pacs/ohif /var/lib/pacs/viewer /var/lib/pacs/ohif /etc/nginx/conf.d/orthanc-ohif.conf -type f"
    " 2> /dev/null | sort"
)


PLUGINS: dict[str, Any] = {"orthanc_plugins": ["dicomweb", "webviewer", "wsi"]}
# A slide that the plugin's own program makes out of a picture: its files, one to a line.
SLIDE = """
cd "$(mktemp -d)"
base64 --decode > picture.png << 'END'
{}
END
OrthancWSIDicomizer picture.png --folder . > log 2>&1 || {{ cat log >&2; exit 1; }}
for file in *.dcm; do base64 --wrap 0 $file; echo; done
"""
# All that is written for the site and the viewer, by what is in it. A certificate that the host makes is another
# one each time.
WRITTEN = "find /etc/pacs /etc/nginx /var/lib/pacs/viewer -type f"
TRACES = f"{WRITTEN} | sort; {WRITTEN} ! -name 'self-signed-*' | sort | xargs sha256sum"
RULES = {
    "stored": 200,
    "stored from its pages": 200,
    "stored by a reader": 403,
    "stored from elsewhere": 403,
    "stored from Orthanc's pages": 403,
    "in Orthanc from its pages": 403,
    "past DICOMweb": 405,
    "deleted past DICOMweb": 405,
    "by a reader past DICOMweb": 403,
    "disguised": 403,
}


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    made = Site(lab)
    # A dry run before there is anything.
    told = made.deploy("--check", "--diff")
    assert "/etc/pacs/ohif/site.conf" in told
    assert made.there() == []
    made.deploy()
    return made


class Site:
    """A site with the viewer.

    :param host: that of its proxy.
    """

    def __init__(self, lab: Lab, host: str = "pacs", inventory: pathlib.Path = QUICKSTART) -> None:
        self.lab, self.host, self.inventory = lab, host, inventory
        # This machine knows its name as well, and nobody else on it sees that.
        hosts = lab.folder.with_suffix(".names")
        hosts.write_text(f"{pathlib.Path('/etc/hosts').read_text('utf-8')}{lab.address[host]} {NAME}\n", "utf-8")
        script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
        lab.through = ("unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *FETCHED)
        self.users = {"admin": lab.secrets["vault_orthanc_admin_password"], "ward": READER}

    def deploy(self, *arguments: str, playbook: str = "site", check: bool = True, **variables: Any) -> str:
        given = {"ohif_enabled": True, "orthanc_users": self.users, "nginx_readonly_users": ["ward"]} | variables
        return self.lab.play(playbook, given, arguments, self.inventory, check).stdout

    def url(self, path: str) -> str:
        return self.lab.url(path, self.host)

    def session(self, user: str = "admin") -> requests.Session:
        return self.lab.session(self.host, user, self.users[user])

    def get(self, path: str, user: str = "admin") -> Any:
        with self.session(user) as session:
            return session.get(self.url(path), timeout=60, allow_redirects=False)

    def there(self) -> list[str]:
        return self.lab.shell(LOOK, self.host, check=False).splitlines()

    def release(self) -> str:
        """Return the folder of the release that is served."""
        return self.lab.shell("sed -n 's/^ *root \\(.*\\);/\\1/p' /etc/pacs/ohif/*.conf", self.host).strip()


def proved(site: Site, folder: pathlib.Path, **variables: Any) -> None:
    """See that the verification finds all as it is wanted, the viewer included."""
    report: dict[str, Any] = {"verification_report_dir": str(folder), "verification_level": "probe"}
    said = site.deploy(playbook="verify", **variables, **report)
    assert ": as wanted." in " ".join(said.split())
    assert "ohif_enabled" not in said


def stored(site: Site, prefix: str = "/") -> None:
    """Store the image that is to be seen."""
    with site.session() as session:
        assert session.post(site.url(f"{prefix}instances"), data=CT.read_bytes()).status_code == 200


def seen(
    site: Site, folder: pathlib.Path, path: str, user: str, name: str = "", shows: tuple[str, str] | None = None
) -> None:
    """Open a study by its link, and see its image: nothing is asked of others, and nothing is complained of.

    :param user: who logs in; empty if the browser has a certificate instead.
    :param name: the name of its own, if it has one.
    :param shows: the certificate of the browser, and its key.
    """
    home = f"https://{name}{path}" if name else site.url(path)
    knows = f"{name} {site.lab.address[site.host]}" if name else ""
    folder.mkdir(exist_ok=True)
    with opened(folder, (user, site.users[user]) if user else None, knows, shows) as browser:
        browser("Page.navigate", url=f"{home}viewer?StudyInstanceUIDs={STUDY}")
        browser.wait(f"{GREYS} > 20")
        assert browser.errors == []
        assert browser.hosts == {name or site.lab.address[site.host]}
        assert not {url for url, answer in browser.answers.items() if answer["status"] >= 400}
        frames = [url for url in browser.answers if re.search(r"/dicom-web/studies/.*/frames/1$", url)]
        assert frames, sorted(browser.answers)
        # Its pages are one page, which the study list is as well.
        browser("Page.navigate", url=home)
        browser.wait("document.body?.innerText.includes('CompressedSamples')")
        assert browser.errors == []


def test_nobody_sees_it_without_a_login(site: Site, tmp_path: pathlib.Path) -> None:
    with opened(tmp_path) as browser:
        browser("Page.navigate", url=site.url(f"/ohif/viewer?StudyInstanceUIDs={STUDY}"))
        browser.wait("document.body?.innerText.includes('401')")
        assert [answer["status"] for answer in browser.answers.values()] == [401]


@pytest.mark.parametrize("user", ["admin", "ward"])
def test_image_is_seen(site: Site, tmp_path: pathlib.Path, user: str) -> None:
    """By who may change things, and by who may only read."""
    stored(site)
    seen(site, tmp_path, "/ohif/", user)


def test_by_a_certificate(site: Site, tmp_path: pathlib.Path) -> None:
    """Everybody needs one: persons besides their password, and a station of the inventory in place of it."""
    stored(site)
    needed: dict[str, Any] = {
        "nginx_client_ca": AUTHORITY[0],
        "nginx_client_certificate": "required",
        "nginx_client_names": [STATION],
        "nginx_readonly_users": ["ward", STATION],
    }
    person, station = (pem(name, by=AUTHORITY) for name in ("A Person", STATION))
    site.deploy(**needed)
    for folder, login in (("nobody", None), ("password", ("ward", READER))):
        (tmp_path / folder).mkdir()
        with opened(tmp_path / folder, login) as browser:
            browser("Page.navigate", url=site.url("/ohif/"))
            browser.wait("document.body?.innerText.includes('400')")
            assert [answer["status"] for answer in browser.answers.values()] == [400]
    seen(site, tmp_path / "person", "/ohif/", "ward", shows=person)
    seen(site, tmp_path / "station", "/ohif/", "", shows=station)
    assert viewers(site) >= {"ward", STATION}
    site.deploy(**needed, **NAMED)
    seen(site, tmp_path / "person-named", "/", "ward", NAME, person)
    seen(site, tmp_path / "station-named", "/", "", NAME, station)
    site.deploy()


def test_viewers_of_orthanc(site: Site, tmp_path: pathlib.Path) -> None:
    """Debian's packages of them: its web viewer, and the one for whole slides."""
    site.deploy(**PLUGINS)
    assert not changed(site.deploy(**PLUGINS))
    others_seen(site, tmp_path, "/")
    proved(site, tmp_path / "report", **PLUGINS)
    site.deploy()


def picture() -> bytes:
    """Make a picture of many colours, in PNG."""
    rows = b"".join(
        b"\0" + bytes(n for x in range(1024) for n in (x // 64 * 16, y // 64 * 16, 99)) for y in range(1024)
    )
    head = struct.pack(">IIBBBBB", 1024, 1024, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    whole = [
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def others_seen(site: Site, folder: pathlib.Path, prefix: str) -> None:
    """See a CT in the one and a slide in the other as a reader, who changes nothing. Without a login nobody does."""
    with site.session() as session:
        made = session.post(site.url(f"{prefix}instances"), data=CT.read_bytes()).json()
        series = {"web-viewer": made["ParentSeries"]}
        for file in site.lab.shell(SLIDE.format(base64.b64encode(picture()).decode()), site.host).split():
            made = session.post(site.url(f"{prefix}instances"), data=base64.b64decode(file)).json()
            series["wsi"] = made["ParentSeries"]
    pages = {name: f"{prefix}{name}/app/viewer.html?series={series[name]}" for name in series}
    for name, page in pages.items():
        answer = site.get(page, "ward")
        assert answer.status_code == 200
        assert answer.headers.items() >= SECURITY_HEADERS.items()
        assert answer.headers["Cache-Control"] == "no-store"
        assert requests.get(site.url(page), verify=False, timeout=60).status_code == 401
        with site.session("ward") as ward:
            for method in ("POST", "PUT", "DELETE"):
                for path in (page, f"{prefix}{name}/series/{series[name]}", f"{prefix}series/{series[name]}"):
                    assert ward.request(method, site.url(path), timeout=60).status_code == 403
        (folder / name).mkdir(parents=True)
        with opened(folder / name, ("ward", READER)) as browser:
            browser("Page.navigate", url=site.url(page))
            browser.wait(f"{GREYS} > 20")
            # Browsers ask for it at the root, where Orthanc may not be.
            assert [error for error in browser.errors if "/favicon.ico" not in error] == []
            assert browser.hosts == {site.lab.address[site.host]}
    trail = [json.loads(line) for line in site.lab.shell("cat /var/log/pacs/audit.log", site.host).splitlines()]
    told = {line["resource"] for line in trail if line["user"] == "ward" and line["status"] == 200}
    assert [path for path in told if path.startswith(f"{prefix}web-viewer/instances/")]
    assert [path for path in told if path.startswith(f"{prefix}wsi/tiles/{series['wsi']}/")]


def viewers(site: Site) -> set[str]:
    """Return who has asked for images by now."""
    trail = map(json.loads, site.lab.shell("cat /var/log/pacs/audit.log").splitlines())
    return {line["user"] for line in trail if line["resource"].endswith("/frames/1") and line["status"] == 200}


@pytest.mark.parametrize("link", ["accession=A-42", "mrn=RIS-42"])
def test_link_of_a_ris(site: Site, tmp_path: pathlib.Path, link: str) -> None:
    """It leads to the studies of an order or of a patient, and to those of nobody else; for users alone."""
    with site.session() as session:
        for number, name in ((42, "Linked^One"), (43, "Nextdoor^Two")):
            dataset = pydicom.dcmread(CT)
            dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = name, f"RIS-{number}", f"A-{number}"
            for level in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(dataset, level, f"{dataset[level].value}.{number}")
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            content = io.BytesIO()
            dataset.save_as(content)
            stored = session.post(site.url("/instances"), data=content.getvalue(), timeout=60)
            assert stored.status_code == 200, stored.text
    url = site.url(f"/ohif/?{link}")
    assert requests.get(url, verify=False, timeout=60).status_code == 401
    with opened(tmp_path, ("ward", READER)) as browser:
        browser("Page.navigate", url=url)
        browser.wait("document.body?.innerText.includes('Linked')")
        assert not browser.value("document.body.innerText.includes('Nextdoor')")
        assert browser.errors == []
        browser.picture("viewer-list")


def test_verification_proves_it(site: Site, tmp_path: pathlib.Path) -> None:
    proved(site, tmp_path)


def test_second_run_changes_nothing(site: Site) -> None:
    assert not changed(site.deploy())
    assert not changed(site.deploy("--check", "--diff"))


def test_paths_in_every_form(site: Site) -> None:
    """None leads out of the viewer's folder, and none past the login."""
    login = raw.basic("admin", site.users["admin"])
    for path, status in PATHS.items():
        for head, wanted in ((login, status), (b"", 400 if status == 400 else 401)):
            request = b"GET %s HTTP/1.1\r\nHost: x\r\n%sConnection: close\r\n\r\n" % (path, head)
            answer = raw.send(site.lab.address["pacs"], request)
            wanted = 301 if status == 301 else wanted
            assert answer.startswith(b"HTTP/1.1 %d " % wanted), (path, head, answer[:200])
            assert b"root:" not in answer
    for method in ("POST", "PUT", "DELETE"):
        for user, status in (("admin", 405), ("ward", 403)):
            with site.session(user) as session:
                assert session.request(method, site.url("/ohif/index.html"), timeout=20).status_code == status


def test_another_configuration_is_there_at_once(site: Site, tmp_path: pathlib.Path) -> None:
    release = site.release()
    more: dict[str, Any] = {
        "ohif_settings": {"showStudyList": False, "whiteLabeling": {"name": "Größe </script>"}},
        "ohif_data_source": {"friendlyName": "Hospital"},
    }
    said = site.deploy("--diff", **more)
    assert re.findall(r"(?m)^changed: \[pacs\]", said) == ["changed: [pacs]"]
    assert '+            "friendlyName": "Hospital"'.replace(" ", "") in said.replace(" ", "")
    text = site.get("/ohif/app-config.js").text
    told = json.loads(text[text.index("= ") + 2 : text.rindex(";")])
    assert (told["showStudyList"], told["whiteLabeling"]["name"]) == (False, "Größe </script>")
    assert told["dataSources"][0]["configuration"]["qidoRoot"] == "/dicom-web"
    assert told["dataSources"][0]["configuration"]["friendlyName"] == "Hospital"
    assert site.release() == release
    proved(site, tmp_path, **more)
    site.deploy()


def test_another_path_takes_the_place_of_the_first(site: Site, tmp_path: pathlib.Path) -> None:
    before = site.release()
    site.deploy(ohif_path="/see/")
    assert site.get("/ohif/").status_code == 404
    assert site.get("/see/viewer").status_code == 200
    assert site.lab.shell("ls /var/lib/pacs/viewer").split() == [site.release().rpartition("/")[2]]
    assert site.release() != before
    proved(site, tmp_path, ohif_path="/see/")
    assert not changed(site.deploy(ohif_path="/see/"))
    site.deploy()
    assert site.release() == before


@pytest.fixture
def known(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process knows the viewer's own name."""
    resolve, address = socket.getaddrinfo, site.lab.address[site.host]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *args, **kw: resolve(address if host == NAME else host, *args, **kw)
    )


@pytest.mark.usefixtures("known")
def test_name_of_its_own(site: Site, tmp_path: pathlib.Path) -> None:
    """The same proxy with the same rules, where DICOMweb is beside the viewer; and back again, without a trace."""
    stored(site)
    before, release = site.lab.shell(TRACES), site.release()
    assert changed(site.deploy("--check", "--diff", **NAMED))
    assert site.lab.shell(TRACES) == before
    site.deploy(**NAMED)
    assert not changed(site.deploy(**NAMED))
    assert not changed(site.deploy("--check", "--diff", **NAMED))
    assert site.lab.shell("ls /etc/pacs/ohif; ls /var/lib/pacs/viewer").split() == [
        *("app-config.js", "named.conf", site.release().rpartition("/")[2])
    ]
    assert site.release() != release
    # Both names are in its certificate, by which alone it is known here.
    with site.session() as admin, site.session("ward") as ward, site.session() as nobody:
        nobody.auth = None
        assert admin.get(site.url("/system")).json()["Version"]
        assert admin.get(site.url("/ohif/")).status_code == 404
        moved = admin.get(f"http://{NAME}/x?a=b", allow_redirects=False)
        assert (moved.status_code, moved.headers["Location"]) == (301, f"https://{NAME}/x?a=b")
        for path, (status, kind) in OWN.items():
            request = requests.Request("GET", f"https://{NAME}{path}")
            for session in (admin, ward, nobody):
                prepared = session.prepare_request(request)
                prepared.url = request.url
                answer = session.send(prepared, allow_redirects=False, verify=session.verify, timeout=60)
                wanted = status if session is not nobody or status in (301, 400, 403) else 401
                assert answer.status_code == wanted, (path, answer.text)
                assert answer.headers["Content-Type"].startswith(kind if session is not nobody else PAGE), path
        found = ward.get(f"https://{NAME}/dicom-web/studies").json()
        assert found
        # Links lead to where they were asked for.
        assert {one["00081190"]["Value"][0].partition("/studies")[0] for one in found} == {f"https://{NAME}/dicom-web"}
        assert rules(admin, ward, site) == RULES
    trail = site.lab.shell("tail -n 500 /var/log/pacs/audit.log").splitlines()
    told = {(line["user"], line["resource"]) for line in map(json.loads, trail)}
    assert {("ward", "/index.html"), ("ward", "/dicom-web/studies"), ("admin", "/app-config.js")} <= told
    seen(site, tmp_path / "browser", "/", "ward", NAME)
    proved(site, tmp_path / "report", **NAMED)
    assert changed(site.deploy("--check", "--diff"))
    site.deploy()
    assert site.lab.shell(TRACES) == before
    assert not changed(site.deploy())


def rules(admin: requests.Session, ward: requests.Session, site: Site) -> dict[str, int]:
    """Return what the proxy says to those who would change something at the viewer's own name, or from its pages."""
    own, stow = f"https://{NAME}", f"https://{NAME}/dicom-web/studies"
    boundary = "x" * 20
    part = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = part + CT.read_bytes() + f"\r\n--{boundary}--".encode()
    sent = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'}
    asked: dict[str, Any] = {
        "stored": (admin, "POST", stow, sent),
        "stored from its pages": (admin, "POST", stow, sent | {"Origin": own}),
        "stored by a reader": (ward, "POST", stow, sent),
        "stored from elsewhere": (admin, "POST", stow, sent | {"Origin": "https://elsewhere.example.org"}),
        "stored from Orthanc's pages": (admin, "POST", stow, sent | {"Origin": site.url("")}),
        "in Orthanc from its pages": (admin, "POST", site.url("/instances"), {"Origin": own}),
        "past DICOMweb": (admin, "POST", f"{own}/instances", {}),
        "deleted past DICOMweb": (admin, "DELETE", f"{own}/studies/1", {}),
        "by a reader past DICOMweb": (ward, "POST", f"{own}/tools/find", {}),
        "disguised": (admin, "GET", f"{stow}?_method=delete", {}),
    }
    return {
        what: session.request(method, url, headers=headers, data=body, timeout=60).status_code
        for what, (session, method, url, headers) in asked.items()
    }


@pytest.mark.parametrize("what", ["another package", "another layout", "no package"])
def test_what_is_no_release_changes_nothing(site: Site, tmp_path: pathlib.Path, what: str) -> None:
    there = site.lab.shell(f"{LOOK} | xargs sha256sum")
    other = gzip.compress(b"x" * 5000)
    package = {"another package": other, "another layout": other, "no package": b""}[what]
    (tmp_path / "app.tgz").write_bytes(package)
    given: dict[str, Any] = {"ohif_path": "/other/", "ohif_archive": str(tmp_path / "app.tgz")}
    if what == "another layout":
        given["ohif_integrity"] = ohif.integrity(package)
    if what == "no package":
        given["ohif_archive"] += "x"
    said = " ".join(site.deploy(check=False, **given).split())
    assert {
        "another package": "ohif_integrity: the package",
        "another layout": "ohif_version: ",
        "no package": "no file",
    }[what] in said
    assert site.lab.shell(f"{LOOK} | xargs sha256sum") == there
    assert site.get("/ohif/").status_code == 200


def test_what_was_cut_off_or_spoilt_is_mended(site: Site, tmp_path: pathlib.Path) -> None:
    """Half of another release, files of the one that is served, and something of others, which stays."""
    site.lab.shell(
        f"cd {site.release()}; rm ohif/index.html; : > ohif/app-config.js; echo x >> ohif/app.bundle.css;"
        " mkdir -p ../3.0.0-00000000/ohif ../notes; cp sums ../3.0.0-00000000; "
        " echo x > ../3.0.0-00000000/ohif/index.html.new;"
        " echo mine > ../notes/mine; echo mine > /etc/pacs/ohif/mine"
    )
    assert changed(site.deploy("--check"))
    assert changed(site.deploy())
    assert not changed(site.deploy())
    here = site.lab.shell(f"ls {site.release()}/..").split()
    assert sorted(here) == sorted([site.release().rpartition("/")[2], "notes"])
    # In a folder of ours is what the inventory has.
    assert site.lab.shell("cat /var/lib/pacs/viewer/notes/mine; ls /etc/pacs/ohif").split() == [
        *("mine", "app-config.js", "site.conf")
    ]
    site.lab.shell(f"rm {site.release()}/ohif/app-config.js")
    proved(site, tmp_path)


@pytest.mark.parametrize(
    "how", ["rm /etc/nginx/conf.d/orthanc-ohif.conf", "echo 'bad;' >> /etc/pacs/ohif/site.conf"], ids=["maps", "site"]
)
def test_site_comes_up_whatever_became_of_it(site: Site, how: str) -> None:
    """The viewer's files are written after the site's, which nginx would not take with them."""
    site.lab.shell(f"{how}; ! nginx -t && systemctl stop nginx")
    site.deploy()
    assert site.get("/system").status_code == 200
    assert site.get("/ohif/").status_code == 200
    assert not changed(site.deploy())


def test_taken_off_again(site: Site) -> None:
    """By the inventory, and by playbooks/remove.yml; what others have stays."""
    site.lab.shell("cd /var/lib/pacs/viewer; mkdir -p notes; echo mine > notes/mine")
    told = site.deploy("--check", "--diff", ohif_enabled=False)
    assert changed(told)
    assert site.get("/ohif/").status_code == 200
    site.deploy(ohif_enabled=False)
    assert site.get("/ohif/").status_code == 404
    assert site.there() == ["/var/lib/pacs/viewer/.pacs", "/var/lib/pacs/viewer/notes/mine"]
    site.lab.shell("rm -r /var/lib/pacs/viewer")
    assert not changed(site.deploy(ohif_enabled=False))
    # With a name of its own as well, of which nothing stays; the removal is not told of it.
    site.deploy(**NAMED)
    site.deploy(**NAMED, ohif_enabled=False)
    assert site.there() == []
    assert NAME not in site.lab.shell("nginx -T 2> /dev/null; ls /etc/pacs/nginx")
    assert not changed(site.deploy(**NAMED, ohif_enabled=False))
    site.deploy(**NAMED)
    assert site.get("/ohif/").status_code == 404
    # One that nginx does not load goes as well.
    site.lab.shell("echo 'bad;' >> /etc/nginx/conf.d/orthanc.conf")
    site.deploy(playbook="remove", remove="service of pacs")
    assert site.there() == []


def test_below_a_path_on_another_release(tmp_path: pathlib.Path) -> None:
    lab = Lab("viewer-bookworm", pacs="bookworm-installed")
    site = Site(lab)
    try:
        site.deploy(nginx_prefix="/orthanc/")
        assert site.get("/ohif/").status_code == 404
        assert not changed(site.deploy(nginx_prefix="/orthanc/"))
        proved(site, tmp_path / "report", nginx_prefix="/orthanc/")
        below = PLUGINS | {"nginx_prefix": "/orthanc/"}
        site.deploy(**below)
        others_seen(site, tmp_path / "others", "/orthanc/")
        stored(site, "/orthanc/")
        seen(site, tmp_path / "browser", "/orthanc/ohif/", "ward")
        named = NAMED | {"nginx_prefix": "/orthanc/"}
        site.deploy(**named)
        assert not changed(site.deploy(**named))
        proved(site, tmp_path / "named", **named)
        seen(site, tmp_path / "another", "/", "ward", NAME)
    finally:
        if not os.environ.get("PACS_KEEP_LABS"):
            lab.destroy()


def test_on_the_host_of_the_proxy(tmp_path: pathlib.Path) -> None:
    """Which is not Orthanc's. Set for Orthanc's host alone, it is refused."""
    lab = Lab("viewer-split", pacs="trixie-installed", front="trixie-installed")
    inventory = tmp_path / "site"
    inventory.mkdir()
    (inventory / "group_vars").symlink_to(QUICKSTART / "group_vars")
    hosts: dict[str, Any] = {"pacs": {"ohif_enabled": True}}
    site = Site(lab, "front", inventory)
    try:
        for front in (False, True):
            if front:
                # Of when Orthanc's host was the proxy.
                lab.shell("mkdir -p /etc/pacs/ohif; cd /etc/pacs/ohif; touch .pacs site.conf")
            groups = {"orthanc": {"hosts": hosts}, "nginx": {"hosts": {"front": {"ohif_enabled": front}}}}
            (inventory / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
            users = {"orthanc_users": site.users}
            ended = lab.play(variables=users, inventory=inventory, check=front)
            if not front:
                assert ended.returncode != 0
                assert "set it for front as well" in " ".join(ended.stdout.split())
        assert not lab.shell(LOOK, "pacs", check=False)
        assert any(path.endswith("/ohif/index.html") for path in site.there())
        said = lab.play("verify", users | {"verification_report_dir": str(tmp_path / "report")}, inventory=inventory)
        assert ": as wanted." in " ".join(said.stdout.split())
        stored(site)
        seen(site, tmp_path / "browser", "/ohif/", "admin")
        # DICOMweb is on the other host, and beside the viewer all the same.
        groups["nginx"]["hosts"]["front"] = {"ohif_enabled": True, **NAMED}
        (inventory / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
        lab.play(variables=users, inventory=inventory)
        assert not changed(lab.play(variables=users, inventory=inventory).stdout)
        seen(site, tmp_path / "named", "/", "admin", NAME)
    finally:
        if not os.environ.get("PACS_KEEP_LABS"):
            lab.destroy()

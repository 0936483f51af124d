"""Fixtures: the site under test, its host, a client and the disposable patient."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import json
import pathlib
import shutil
import signal
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from pydicom.uid import UID

from verification.actions import sweep, upload
from verification.client import Client
from verification.expect import Unexpected, expect
from verification.patient import CT, NAMED, SERIES, Image, transfer_syntaxes, zipped
from verification.reach import KNOCK, Host, expect_open
from verification.receiver import Receiver
from verification.report import LEFT_OUT
from verification.risks import risks
from verification.side_by_side import SIGNALS, stop_once
from verification.site import Site
from verification.transcoding import kept_syntax
from verification.versions import lacking

pytest_plugins = ["verification.report", "verification.side_by_side"]

# Where Debian's servers have their databases.
DATABASES = {"postgresql": "/var/lib/postgresql", "mysql": "/var/lib/mysql"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sites", type=pathlib.Path, help="private folder with one JSON description per host; goes away")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "since(feature): needs what verification/versions.py has under that name")
    if config.getoption("--sites"):
        # It holds passwords, and whoever made it may have been interrupted; then even the end has nowhere to print to.
        atexit.register(shutil.rmtree, config.getoption("--sites"), ignore_errors=True)
    # Whoever ends the run politely gets the patient removed.
    stop_once()


@functools.cache
def _sites(folder: pathlib.Path | None) -> list[Site]:
    return [site for path in sorted(folder.glob("*.json")) for site in Site.read(path)] if folder else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "site" in metafunc.fixturenames:
        sites = _sites(metafunc.config.getoption("--sites"))
        metafunc.parametrize("site", sites, ids=[site.label for site in sites], scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what writes, on hosts that are only to be probed, and through a further proxy what needs none."""
    left: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        site = getattr(item, "callspec", None) and item.callspec.params.get("site")  # type: ignore[attr-defined]
        fixtures = getattr(item, "fixturenames", ())
        if isinstance(site, Site) and site.further and "proxied" not in fixtures:
            continue
        probed = isinstance(site, Site) and site.level == "probe"
        left[probed and "patient" in fixtures].append(item)
    config.stash[LEFT_OUT] = len(left[True])
    config.hook.pytest_deselected(items=left[True])
    items[:] = left[False]


@pytest.fixture(scope="session")
def host(site: Site, pytestconfig: pytest.Config) -> Host:
    """The host of Orthanc."""
    return Host(site.name, site.connection, pytestconfig.getoption("--sites"))


@pytest.fixture(scope="session")
def proxy_host(proxied: Site, host: Host, pytestconfig: pytest.Config) -> Host:
    """The host of its proxy, which may be the same."""
    if proxied.proxy == proxied.name:
        return host
    return Host(proxied.proxy, proxied.proxy_connection, pytestconfig.getoption("--sites"))


@pytest.fixture(scope="session")
def proxied(site: Site) -> Site:
    """The site, where a proxy stands in front of Orthanc."""
    if not site.proxied:
        pytest.skip(f"{site.name} has no proxy: no host of the group nginx stands in front of it")
    return site


@pytest.fixture(scope="session")
def inside(site: Site, host: Host, facts: dict[str, str]) -> dict[str, Any]:
    """What Orthanc answers on the host itself."""
    found = _inside(site, host)
    system, held = found["system"], found["statistics"]
    facts["Host"] = found["distribution"]
    facts["Orthanc"] = f"{system.get('Version')}, title {system.get('DicomAet')}"
    engine = site.database if site.database_index else "sqlite"
    facts["Index"] = f"{engine}, schema {system.get('DatabaseVersion')}"
    free, size = (f"{found[key] / 2**30:.1f}" for key in ("free", "size"))
    facts["Storage"] = f"{'database' if site.database_storage else site.storage_dir}, {free} of {size} GiB free"
    counts = (f"{held.get(f'Count{level}')} {level.lower()}" for level in ("Patients", "Studies", "Instances"))
    facts["Held before"] = ", ".join(counts)
    if found["worklists"]:
        facts["Worklists"] = counted(found["worklists"]["Steps"], "step", "steps")
    for name, waits in found["routes"].get("Destinations", {}).items():
        facts[f"Sent on to {name}"] = waiting(waits)
    return found


def waiting(told: dict[str, int]) -> str:
    """Say what waits to be sent on to a destination."""
    if not told["Studies"]:
        return "nothing waits"
    hours = told["Seconds"] / 3600
    studies, images = counted(told["Studies"], "study", "studies"), counted(told["Images"], "image", "images")
    waits = "waits" if told["Studies"] == 1 else "wait"
    vain = "tried in vain so far" if told["Failed"] == told["Studies"] else f"{told['Failed']} tried in vain so far"
    return f"{studies} {waits}, {images}, the first for {hours:.1f} h" + (f"; {vain}" if told["Failed"] else "")


def counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _inside(site: Site, host: Host) -> dict[str, Any]:
    script = pathlib.Path(__file__).with_name("on_host.py").read_text("utf-8")
    database = DATABASES.get(site.database, "") if site.database_beside else ""
    arguments = (site.config_dir, str(site.http_port), site.storage_dir, database)
    result = host.run("/usr/bin/python3 -c %s %s %s %s %s", script, *arguments)
    complaint = result.stderr.strip().rpartition("\n")[2] if result.rc else ""
    expect("complaint of the script that asks Orthanc on the host", "", complaint, "journalctl -u orthanc")
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.fixture(scope="session")
def others(site: Site, pytestconfig: pytest.Config) -> dict[str, tuple[Site, dict[str, Any]]]:
    """The other hosts of this run that may be written to as well, with what their Orthanc says of itself."""
    folder, found = pytestconfig.getoption("--sites"), {}
    for other in _sites(folder):
        if other.name == site.name or other.further or other.level != "conform" or not other.proxied:
            continue
        # One that is down has findings of its own.
        with contextlib.suppress(Unexpected, OSError):
            inside = _inside(other, Host(other.name, other.connection, folder))
            if not risks(other, inside):
                found[other.name] = (other, inside["system"])
    return found


@pytest.fixture(scope="session")
def public(proxied: Site) -> Site:
    """The same, where its port can be reached from here and leads to its Orthanc: else each test would wait."""
    expect_open("which is the proxy's", proxied.host, proxied.port, "nginx_https_port; systemctl status nginx")
    where = f"GET {proxied.url}system"
    try:
        answer = Client(proxied.url, proxied.trust(), proxied.login, writes=False).get("/system", timeout=15)
    except requests.exceptions.SSLError as error:
        reason = error
        while isinstance(reason.__context__, Exception) and not isinstance(reason, ssl.SSLError):
            reason = reason.__context__  # type: ignore[assignment]
        expected = f"the certificate in {proxied.certificate_file} on {proxied.proxy}"
        see = "nginx_tls_certificate, nginx_server_name; systemctl reload nginx"
        expect(where, expected, getattr(reason, "verify_message", "") or str(reason), see)
        raise
    except requests.Timeout:
        expect(where, "an answer within 15 s", "none", "load of the host; journalctl -u orthanc, journalctl -u nginx")
        raise
    expect(where, 200, answer.status_code)
    return proxied


@pytest.fixture(scope="session")
def client(public: Site, inside: dict[str, Any]) -> Client:
    """The first user of the site, through the proxy, once it is sure that it leads to the Orthanc of this host."""
    made = Client(public.url, public.trust(), public.login, writes=public.level == "conform")
    here, there = inside["system"], made.json_at("/system")
    same = {name: here.get(name) for name in ("Name", "DicomAet", "DatabaseServerIdentifier", "Version")}
    got = {name: there.get(name) for name in same}
    expect(f"/system at {public.url}, which is that of the Orthanc on {public.name}", same, got, "site.yml; nginx")
    made.modalities = {public.modality_name} - {""}
    return made


@pytest.fixture(scope="session")
def running(inside: dict[str, Any]) -> dict[str, str]:
    """The versions of Orthanc and its plugins, by their names."""
    versions = {name: str(version) for name, version in inside["versions"].items()}
    return {**versions, "orthanc": str(inside["system"].get("Version", ""))}


@pytest.fixture(scope="session")
def kept(inside: dict[str, Any], running: dict[str, str], facts: dict[str, str]) -> Callable[[Image], UID]:
    """In which transfer syntax the site keeps an image."""
    if inside["options"]["IngestTranscoding"]:
        facts["Transcodes to"] = UID(inside["options"]["IngestTranscoding"]).name
    return functools.partial(kept_syntax, options=inside["options"], gdcm="gdcm" in running)


@pytest.fixture(autouse=True)
def _able(request: pytest.FixtureRequest) -> None:
    """Leave out what the running release cannot do, by the table alone."""
    for mark in request.node.iter_markers("since"):
        reason = lacking(mark.args[0], request.getfixturevalue("running"))
        if reason:
            pytest.skip(reason)


@pytest.fixture(autouse=True)
def _told(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write into the JUnit report what a check has asked of the site."""
    Client.sent.clear()
    yield
    if "site" in request.fixturenames:
        request.node.user_properties += [("call", call) for call in dict.fromkeys(Client.sent)]


@pytest.fixture(scope="session")
def anonymous(public: Site) -> Client:
    """Somebody without a login."""
    return Client(public.url, public.trust(), writes=public.level == "conform")


@pytest.fixture(scope="session")
def patient(client: Client, site: Site, inside: dict[str, Any]) -> Iterator[Client]:
    """The client with a disposable patient who has one CT image, removed at the end whatever happens.

    Leftovers of a run that was killed go first.
    """
    if risks(site, inside):
        pytest.skip("conform was not begun, see test_conform_may_begin")
    sweep(client)
    try:
        code = client.post("/instances", data=CT.content).status_code
        if site.cluster and code == 503:
            # Orthanc's connection for the files does not know yet that another server is primary.
            code = client.post("/instances", data=CT.content).status_code
        expect("upload of a CT image", 200, code)
        yield client
    finally:
        # Who asks for the end gets it when the patient is gone.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # A site that fell silent gets one more chance, so that nothing stays there.
        client.recover()
        sweep(client)


@pytest.fixture(scope="session")
def series(patient: Client) -> list[Image]:
    """A CT series of the disposable patient, on the site."""
    upload(patient, zipped(SERIES))
    return SERIES


@pytest.fixture(scope="session")
def stored(patient: Client) -> dict[str, Image]:
    """Real images of many kinds, on the site."""
    images = transfer_syntaxes() | NAMED
    upload(patient, zipped(list(images.values())))
    return images


@pytest.fixture(scope="session")
def scp(site: Site) -> Site:
    """The site, where it listens for DICOM."""
    if not site.settings.get("DicomServerEnabled", True):
        pytest.skip("orthanc_settings.DicomServerEnabled is false")
    if site.dicom_certificate and site.dicom_asks and not site.identity:
        pytest.skip("verification_certificate is empty, and the DICOM port of this site asks for one")
    see = "orthanc_dicom_port; systemctl status orthanc"
    if ":" in site.dicom_address:
        see = "verification_dicom_address: Orthanc has no DICOM over IPv6, so give the host's address of IPv4"
    expect_open("which takes DICOM", site.dicom_address, site.dicom_port, see)
    return site


@pytest.fixture(scope="session")
def modality(scp: Site) -> str:
    """The title of this machine, if it is a modality of the site."""
    if not scp.calling_aet:
        pytest.skip("verification_modality is empty: this machine is a stranger, and only its refusal is checked")
    return scp.calling_aet


@pytest.fixture(scope="module")
def receiver(scp: Site, modality: str, host: Host, pytestconfig: pytest.Config) -> Iterator[Receiver]:
    """This machine as a modality that listens, and that the site reaches; each host of the run in its turn."""
    if scp.encrypts and not scp.identity:
        pytest.skip("verification_certificate is empty, and Orthanc encrypts what it sends to this machine")
    address, port = scp.receiver
    orthanc = (scp.aet, scp.dicom_address, scp.dicom_port)
    listening = scp.dicom(server=True) if scp.encrypts else None
    with (pytestconfig.getoption("--sites") / f"port-{port}").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with Receiver((modality, address, port), orthanc, scp.dicom(), listening).listening() as made:
            knocked = host.run("/usr/bin/python3 -c %s %s %s", KNOCK, address, str(port))
            complaint = knocked.stderr.strip().rpartition("\n")[2] if knocked.rc else ""
            see = "a firewall on the way to this machine; orthanc_modalities (Host, Port)"
            expect(f"port {port} of {address}, which is this machine, asked by {scp.name}", "", complaint, see)
            yield made

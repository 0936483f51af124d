"""What the suite says in the end: one line, each finding once, and one HTML file for people."""

from __future__ import annotations

import base64
import datetime
import pathlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from verification.expect import Unexpected
from verification.site import Site

# How many checks were not run since a site is only probed.
LEFT_OUT = pytest.StashKey[int]()
# From good to bad, in the words of a reader. A check that was begun with and never ended has not run.
WORDS = {"not run": "not run", "passed": "passed", "skipped": "left out", "failed": "failed"}
REPORT = pytest.StashKey["Report"]()


@dataclass
class Check:
    """One check on one host."""

    group: str
    name: str
    site: str = ""
    outcome: str = "not run"
    message: str = ""
    seconds: float = 0.0

    def add(self, report: pytest.TestReport) -> None:
        """Count a phase of it: what goes wrong before or after it is its failure too."""
        self.seconds += report.duration
        if list(WORDS).index(report.outcome) > list(WORDS).index(self.outcome):
            skip = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            self.outcome, self.message = report.outcome, skip.removeprefix("Skipped: ")


@dataclass
class Exhibit:
    """A picture that Orthanc rendered of one of our own images."""

    site: str
    caption: str
    picture: bytes
    kind: str = "png"

    @property
    def source(self) -> str:
        """The picture as it stands in a page."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.picture).decode()}"


@dataclass(frozen=True)
class Modality:
    """What is known of a modality, and whether it answers: one that does not may be a scanner that is off at night."""

    name: str
    title: str
    address: str
    seen: str
    answer: str
    silent: bool


@dataclass(frozen=True)
class Server:
    """A peer or a DICOMweb server, and why it does not answer; nothing where it does."""

    name: str
    kind: str
    url: str
    wrong: str


@dataclass(frozen=True)
class Member:
    """A host of a cluster: what its server does, how far behind the primary it is, and its part in etcd."""

    name: str
    address: str
    part: str
    state: str
    timeline: str
    behind: str
    etcd: str

    @property
    def words(self) -> str:
        """Say it in a line."""
        timeline = self.timeline and f"timeline {self.timeline}"
        behind = self.behind and f"{self.behind} behind"
        server = ", ".join(filter(None, (self.part, self.state, timeline, behind)))
        return f"{self.name}: {server}" + (f"; etcd: {self.etcd}" if self.etcd else "")


@dataclass(frozen=True)
class Balancer:
    """A host with a balancer: whether it has the address, and what it says of the Orthancs behind it."""

    name: str
    address: str
    part: str
    servers: dict[str, str]
    problem: str

    @property
    def words(self) -> str:
        """Say it in a line."""
        told = ", ".join(f"{name}: {status}" for name, status in self.servers.items())
        return f"{self.name}: {self.part}" + (f"; {told}" if told else "")


@dataclass
class Report:
    """Collects what the checks say."""

    secrets: list[str] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    checks: dict[str, Check] = field(default_factory=dict)
    exhibits: list[Exhibit] = field(default_factory=list)
    facts: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    # Host, port, process, users and protection, by site.
    listening: dict[str, list[tuple[str, str, str, str, str]]] = field(default_factory=lambda: defaultdict(list))
    modalities: dict[str, list[Modality]] = field(default_factory=lambda: defaultdict(list))
    servers: dict[str, list[Server]] = field(default_factory=lambda: defaultdict(list))
    # Of the database, where it is on several servers.
    clusters: dict[str, list[Member]] = field(default_factory=dict)
    # Before several Orthancs.
    balancers: dict[str, list[Balancer]] = field(default_factory=dict)
    began: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    clock: float = field(default_factory=time.monotonic)

    def know(self, site: Site) -> None:
        """Take a site in, with all that must never be written."""
        if site not in self.sites:
            self.sites.append(site)
            self.secrets += [form for forms in site.secrets.values() for form in forms if form]

    def clean(self, text: str) -> str:
        """Take secrets out; none is expected, and none must get through."""
        for secret in self.secrets:
            text = text.replace(secret, "•••").replace(repr(secret)[1:-1], "•••")
        return text

    def count(self, outcome: str, site: str = "") -> int:
        """Count the checks that ended so."""
        return sum(check.outcome == outcome and site in ("", check.site) for check in self.checks.values())

    @property
    def verdict(self) -> str:
        """Whether all is as the inventory wants it."""
        bad = self.count("failed") or self.count("not run") or not self.count("passed")
        return "NOT AS WANTED" if bad else "as wanted"

    @property
    def state(
        self,
    ) -> tuple[
        dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], list[Exhibit]
    ]:
        """What is told beside the checks."""
        return (
            dict(self.facts),
            dict(self.listening),
            dict(self.modalities),
            dict(self.servers),
            self.clusters,
            self.balancers,
            self.exhibits,
        )

    def add(
        self,
        facts: dict[str, Any],
        listening: dict[str, Any],
        modalities: dict[str, Any],
        servers: dict[str, Any],
        clusters: dict[str, list[Member]],
        balancers: dict[str, list[Balancer]],
        exhibits: list[Exhibit],
    ) -> None:
        """Take in what another process has seen."""
        for site, told in facts.items():
            self.facts[site] |= told
        for site, ports in listening.items():
            self.listening[site] += ports
        for site, rows in modalities.items():
            self.modalities[site] += rows
        for site, some in servers.items():
            self.servers[site] += some
        self.clusters |= clusters
        self.balancers |= balancers
        self.exhibits += exhibits

    def members(self) -> list[str]:
        """Say how each cluster is, and the address before it, once for all that have it."""
        lines = []
        seen: dict[str, Mapping[str, Sequence[Member | Balancer]]]
        seen = {"CLUSTER": self.clusters, "ADDRESS": self.balancers}
        for what, told in seen.items():
            found: dict[tuple[str, ...], list[str]] = defaultdict(list)
            for site, rows in sorted(told.items()):
                found[tuple(row.words for row in rows)].append(site)
            lines += [f"{what} of {', '.join(sites)}: {line}" for some, sites in found.items() for line in some]
        return lines

    def silent(self) -> list[str]:
        """Say which modalities do not answer, a line for each site."""
        lines = []
        for site, rows in sorted(self.modalities.items()):
            told = [f"{one.name} ({one.answer})" for one in rows if one.silent]
            more = f" and {len(told) - 5} more" if len(told) > 5 else ""
            if told:
                counted = f"{len(told)} of {len(rows)} modalities do not answer Orthanc now"
                lines.append(f"NOTICE on {site}: {counted}, which may be as it should: {', '.join(told[:5])}{more}")
        return lines

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a phase of a check in."""
        self.checks[report.nodeid].add(report)

    def line(self, left_out: int) -> str:
        """Say it in one line."""
        names = ", ".join(f"{site.label} ({site.level})" for site in self.sites) or "no host"
        counts = ", ".join(f"{self.count(outcome)} {WORDS[outcome]}" for outcome in ("passed", "failed", "skipped"))
        probed = f", {left_out} only with verification_level: conform" if left_out else ""
        return f"{names}: {self.verdict}. {counts}{probed}, {time.monotonic() - self.clock:.0f} s"

    def grouped(self, outcome: str) -> dict[str, list[Check]]:
        """Return what is said of the checks that ended so, each thing once."""
        found: dict[str, list[Check]] = defaultdict(list)
        for check in self.checks.values():
            if check.outcome == outcome:
                found[check.message].append(check)
        return found

    def html(self, left_out: int) -> str:
        """Make the page."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        groups: dict[str, list[Check]] = defaultdict(list)
        for check in self.checks.values():
            groups[check.group].append(check)
        page = environment.get_template("report.html.j2").render(
            report=self,
            groups=groups,
            words=WORDS,
            left_out=left_out,
            seconds=time.monotonic() - self.clock,
            certificates={site.label: certificate(site) for site in self.sites},
        )
        return self.clean(page)


def certificate(site: Site) -> dict[str, str]:
    """Tell what a reader wants to know of a site's certificate; nothing if there is none."""
    if not site.certificate:
        return {}
    found = x509.load_pem_x509_certificate(site.certificate.encode())
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        alternative = ", ".join(str(name.value) for name in names)
    except x509.ExtensionNotFound:
        alternative = "none"
    own = found.issuer == found.subject
    left = (found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days
    return {
        "Certificate for": alternative,
        "Issued by": "itself (self-signed)" if own else found.issuer.rfc4514_string(),
        "Valid": f"{found.not_valid_before_utc:%Y-%m-%d} to {found.not_valid_after_utc:%Y-%m-%d}, {left} days left",
        "SHA-256 of the certificate": found.fingerprint(hashes.SHA256()).hex(":"),
    }


def readable(item: pytest.Item) -> str:
    """Name a check as people would."""
    words = re.sub(r"^test_|\[.*$", "", item.name).replace("_", " ")
    words = words[:1].upper() + words[1:]
    site = getattr(item, "callspec", None) and item.callspec.params.get("site")  # type: ignore[attr-defined]
    parameters = re.sub(r"^.*?\[|\]$", "", item.name) if "[" in item.name else ""
    if isinstance(site, Site):
        parameters = re.sub(rf"(?:^|-){re.escape(site.label)}(?:-|$)", "", parameters, count=1)
    return f"{words} ({parameters})" if parameters else words


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", type=pathlib.Path, help="file for the HTML report")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()
    config.pluginmanager.register(config.stash[REPORT], "report of the verification")
    config.stash.setdefault(LEFT_OUT, 0)


def pytest_collection_finish(session: pytest.Session) -> None:
    report = session.config.stash[REPORT]
    for item in session.items:
        site = getattr(item, "callspec", None) and item.callspec.params.get("site")  # type: ignore[attr-defined]
        module = getattr(item, "module", None)
        group = (getattr(module, "__doc__", "") or "").strip().partition("\n")[0].rstrip(".")
        check = Check(group, readable(item))
        if isinstance(site, Site):
            report.know(site)
            check.site = site.label
        report.checks[item.nodeid] = check


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a finding by its message alone: no reader of a playbook's output needs the code around it."""
    report = yield
    if report.failed and call.excinfo:
        told = isinstance(call.excinfo.value, (Unexpected, OSError))
        text = call.excinfo.exconly() if told else report.longreprtext
        report.longrepr = item.config.stash[REPORT].clean(text.removeprefix("verification.expect.Unexpected: "))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    report, left_out = config.stash[REPORT], config.stash[LEFT_OUT]
    for outcome, word in (("skipped", "LEFT OUT"), ("not run", "NOT RUN"), ("failed", "FAILED")):
        for message, checks in report.grouped(outcome).items():
            names = sorted({check.name for check in checks})
            hosts = ", ".join(sorted({check.site for check in checks} - {""}))
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            terminalreporter.write_line(f"{word} on {hosts or 'none'}: {'; '.join(names[:3])}{more}: {message}")
    for line in [*report.members(), *report.silent()]:
        terminalreporter.write_line(report.clean(line))
    terminalreporter.write_line(report.line(left_out))
    file = config.getoption("--report")
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(report.html(left_out), encoding="utf-8")
        terminalreporter.write_line(f"Report: {file}")


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    """What is told in the end."""
    return pytestconfig.stash[REPORT]


@pytest.fixture(scope="session")
def facts(pytestconfig: pytest.Config, site: Site) -> dict[str, str]:
    """What the report says of the site beside the checks."""
    return pytestconfig.stash[REPORT].facts[site.label]


@pytest.fixture
def exhibit(pytestconfig: pytest.Config, site: Site) -> Callable[[str, bytes], None]:
    """Put a picture of one of our own images into the report."""

    def show(caption: str, picture: bytes) -> None:
        kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
        pytestconfig.stash[REPORT].exhibits.append(Exhibit(site.label, caption, picture, kind))

    return show

"""Hardening: what listens, what Orthanc's process may do, and the time by which all of it is written down."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from verification.expect import expect
from verification.hardening import ASK_CLOCK, LOOK, Clock, Listener, listeners, privileges, protection
from verification.reach import Host
from verification.report import Report
from verification.site import Site

# What systemd-analyze gives a unit of ours at most, of 10; Debian's own has 9.2.
EXPOSURE = 1.5


@pytest.fixture(scope="session")
def listening(site: Site, host: Host, inside: dict[str, Any], report: Report) -> list[Listener]:
    """What listens on Orthanc's host."""
    return look(site, host, inside, report, site.name)


@pytest.fixture(scope="session")
def proxy_listening(
    proxied: Site, proxy_host: Host, inside: dict[str, Any], report: Report, listening: list[Listener]
) -> list[Listener]:
    """What listens on the host of its proxy, which may be the same."""
    return listening if proxied.proxy == proxied.name else look(proxied, proxy_host, inside, report, proxied.proxy)


def look(site: Site, host: Host, inside: dict[str, Any], report: Report, name: str) -> list[Listener]:
    """See what listens on a host, and tell it in the report."""
    found = listeners(host.check_output(LOOK))
    told = [(one, protection(site, one, inside["options"], name == site.proxy)) for one in found]
    report.listening[site.label] += [(name, one.where, one.process, ", ".join(one.users), how) for one, how in told]
    return found


@pytest.fixture(scope="session")
def process(site: Site, host: Host, listening: list[Listener], facts: dict[str, str]) -> dict[str, str]:
    """What Orthanc's process may do, be it in a container or not."""
    pids = [pid for one in listening if one.port == site.http_port and one.process == "Orthanc" for pid in one.pids]
    expect(f"processes of Orthanc that listen on port {site.http_port}", 1, len(pids), "orthanc_http_port")
    found = privileges(host.check_output("cat /proc/%s/status", str(pids[0])))
    found["pid"] = str(pids[0])
    bound = "no capabilities" if found["capabilities"] == "0" else f"capabilities {found['capabilities']}"
    facts["Orthanc's process"] = f"root: {found['root']}, {bound}, system calls: {found['system calls']}"
    return found


def test_ports_listen(site: Site, listening: list[Listener]) -> None:
    ports = {"orthanc_http_port": site.http_port}
    if site.settings.get("DicomServerEnabled", True):
        ports["orthanc_dicom_port"] = site.dicom_port
    expect_ports(listening, "Orthanc", ports)
    if site.relay_port:
        expect_ports(listening, "nginx", {"nginx_relay_port": site.relay_port})


def test_ports_of_the_proxy_listen(proxied: Site, proxy_listening: list[Listener]) -> None:
    expect_ports(proxy_listening, "nginx", {"nginx_http_port": proxied.plain_port, "nginx_https_port": proxied.port})


def expect_ports(found: list[Listener], process: str, ports: dict[str, int]) -> None:
    own = {one.port for one in found if one.process == process and one.protocol == "tcp"}
    for variable, port in ports.items():
        expect(f"TCP port {port} of {process} listens", True, port in own, variable)


def test_rest_api_is_for_this_host_alone(site: Site, listening: list[Listener], inside: dict[str, Any]) -> None:
    if inside["options"].get("RemoteAccessAllowed"):
        pytest.skip("RemoteAccessAllowed is true: other hosts may ask Orthanc itself")
    (rest,) = (one for one in listening if one.port == site.http_port)
    guarded = rest.local or rest.filtered
    expect(f"port {site.http_port} is closed to other hosts", True, guarded, "playbooks/orthanc.yml; nft list ruleset")


def test_database_is_for_this_host_alone(site: Site, listening: list[Listener]) -> None:
    if not site.database_closed_port:
        pytest.skip("no database server that is this Orthanc's alone runs on its host")
    heard = [one.where for one in listening if one.port == site.database_closed_port and not one.local]
    expect("where other hosts hear the database", [], heard, "postgresql_settings; mysql_settings; ss -ltnp")


def test_orthanc_has_no_power(process: dict[str, str]) -> None:
    expected = {"root": "no", "capabilities": "0", "may gain privileges": "no", "system calls": "filtered"}
    got = {name: process[name] for name in expected}
    expect("what Orthanc's process may do", expected, got, "systemctl cat orthanc; playbooks/orthanc.yml")


def test_sandbox_is_tight(host: Host, process: dict[str, str], facts: dict[str, str]) -> None:
    if host.check_output("systemctl show orthanc --property=MainPID --value") != process["pid"]:
        pytest.skip("Orthanc runs in a container: not the unit is its sandbox, and its process was looked at instead")
    said = host.check_output("systemd-analyze security orthanc.service --no-pager")
    exposure = float(re.findall(r"exposure level for orthanc.service: ([\d.]+)", said)[0])
    facts["Exposure"] = f"{exposure} of 10 (systemd-analyze security)"
    expect(f"exposure {exposure} is at most {EXPOSURE}", True, exposure <= EXPOSURE, "systemctl cat orthanc")


def test_clock_is_right(site: Site, host: Host, facts: dict[str, str]) -> None:
    # The first command pays for the connection.
    host.run("true")
    asked = time.time()
    clock = Clock.read(host.run(ASK_CLOCK).stdout, asked)
    facts["Clock"] = str(clock)
    see = "timedatectl; systemd-timesyncd or chrony on the host and on the verifying machine"
    expect("the clock is within 5 s of that of the verifying machine", True, clock.apart < 5, see)
    if not clock.contained and "clock" not in site.accepted_risks:
        see += "; if another way keeps it right, add clock to verification_accepted_risks"
        expect("the clock is synchronised", True, clock.synchronised, see)

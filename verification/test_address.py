"""The address before several Orthancs: that it serves, who has it, and whom the balancers take for working."""

from __future__ import annotations

import csv
import dataclasses
import http.client
import json
from collections.abc import Mapping

import pytest

from verification.expect import Unexpected, expect
from verification.reach import Host
from verification.report import Balancer, Report
from verification.site import Site
from verification.test_dicom import association, expect_outcome

SEE = "journalctl -u keepalived -u haproxy; docs/cluster.md"
# What HAProxy tells of each server behind it, for root alone.
ASK = """import socket
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect("/run/pacs-haproxy.sock")
    asked.sendall(b"show stat\\n")
    print(b"".join(iter(lambda: asked.recv(65536), b"")).decode())
"""
PARTS = ("https", "dicom")


@pytest.fixture(scope="session")
def balancers(site: Site, pytestconfig: pytest.Config, report: Report) -> Mapping[str, Balancer]:
    """What each host with a balancer says of itself."""
    if not site.balancers:
        pytest.skip("no host is in the group haproxy: clients come to each Orthanc by its own address")
    found = {}
    for name, connection in site.balancer_connections.items():
        try:
            host = Host(name, connection, pytestconfig.getoption("--sites"))
            shown = host.run("ip -json address show").stdout
            said = host.run("/usr/bin/python3 -c %s", ASK)
        except Unexpected as error:
            found[name] = Balancer(name, site.balancers[name], "does not answer", {}, str(error))
            continue
        own = {one["local"] for link in json.loads(shown) for one in link["addr_info"]}
        problem = said.stderr.strip().rpartition("\n")[2] if said.rc else ""
        found[name] = Balancer(
            name, site.balancers[name], "has it" if site.shared_address in own else "waits", works(said.stdout), problem
        )
    report.balancers[site.label] = list(found.values())
    return found


def works(told: str) -> dict[str, str]:
    """Return what a balancer says of each server, by part and name."""
    rows = list(csv.DictReader(told.removeprefix("# ").splitlines()))
    return {
        f"{row['pxname']} to {row['svname']}": row["status"].split()[0]
        for row in rows
        if row["pxname"] in PARTS and row["svname"] not in ("FRONTEND", "BACKEND")
    }


def test_one_host_has_the_address(balancers: Mapping[str, Balancer]) -> None:
    has = [one.name for one in balancers.values() if one.part == "has it"]
    expect("how many hosts have the address", 1, len(has), SEE)
    away = [one.name for one in balancers.values() if one.part == "does not answer"]
    expect("hosts with a balancer that do not answer", [], away, SEE)


def test_balancers_take_all_for_working(site: Site, balancers: Mapping[str, Balancer]) -> None:
    problems = {one.name: one.problem for one in balancers.values() if one.problem}
    expect("balancers that tell nothing", {}, problems, SEE)
    wanted = {f"{part} to {name}": "UP" for part in PARTS for name in site.behind}
    told = {name: one.servers for name, one in balancers.items()}
    expect("what the balancers say of the Orthancs behind them", dict.fromkeys(balancers, wanted), told, SEE)


def test_address_serves(site: Site, balancers: Mapping[str, Balancer]) -> None:
    assert balancers
    name, password = site.login
    connection = http.client.HTTPSConnection(site.shared_name, site.shared_https_port, timeout=30, context=site.trust())
    try:
        connection.request("GET", f"{site.prefix}changes?last", headers={"Authorization": site.basic(name, password)})
        status = connection.getresponse().status
    except OSError as error:
        raise Unexpected(f"GET {site.prefix}changes?last at {site.shared_name}: {error}; see {SEE}") from error
    finally:
        connection.close()
    expect(f"GET {site.prefix}changes?last at {site.shared_name}", 200, status, SEE)


def test_address_takes_dicom(scp: Site, modality: str, balancers: Mapping[str, Balancer]) -> None:
    assert balancers
    there = dataclasses.replace(scp, dicom_address=scp.shared_address, dicom_port=scp.shared_dicom_port)
    with association(there, modality, scp.aet) as opened:
        expect_outcome(there, opened, "accepted", f"orthanc_modalities (AET, Host); {SEE}")
        expect(f"status of C-ECHO as {modality}", 0, opened.send_c_echo().get("Status"), SEE)


def test_address_lets_no_stranger_in(scp: Site, balancers: Mapping[str, Balancer]) -> None:
    """Whatever the Orthanc behind it would say: it does not see who it is."""
    assert balancers
    if not scp.senders_checked:
        pytest.skip("orthanc_settings.DicomCheckModalityHost is false: everybody gets to the DICOM port")
    there = dataclasses.replace(scp, dicom_address=scp.shared_address, dicom_port=scp.shared_dicom_port)
    with association(there, "PACS-STRANGER", scp.aet) as opened:
        outcome = "accepted" if opened.is_established else "rejected" if opened.is_rejected else "no answer"
    # By title it is rejected, and where that is encrypted by Orthanc.
    wanted = "no answer" if not scp.dicom_certificate else outcome if outcome != "accepted" else "rejected"
    expect(f"association of a stranger at {scp.shared_address}:{scp.shared_dicom_port}", wanted, outcome, SEE)

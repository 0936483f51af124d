"""Modalities and DICOMweb servers: Orthanc knows those of the inventory, and which of them answer it now."""

from __future__ import annotations

import datetime
import json
import pathlib
from typing import Any

import pytest

from verification.expect import expect
from verification.reach import Host
from verification.report import Modality, Report, Server
from verification.site import Site

KNOWN = "orthanc_modalities; run playbooks/site.yml; who has changed them by the REST API"
SERVERS = (
    "orthanc_settings.DicomWeb.Servers (Url; Username and Password for 401; for certificates orthanc_https_ca,"
    " CertificateFile)"
)
REACH = "AET, Host and Port in orthanc_modalities; what the modality itself knows of this Orthanc"


@pytest.fixture(scope="module")
def asked(site: Site, host: Host, inside: dict[str, Any], report: Report) -> dict[str, Any]:
    """What Orthanc knows of each, whether it answers, and when it was seen last; all of it goes into the report."""
    script = pathlib.Path(__file__).with_name("on_modalities.py").read_text("utf-8")
    # This machine does not listen all the time.
    spared = [site.modality_name] if site.modality_name else []
    arguments = (site.config_dir, str(site.http_port), *spared)
    result = host.run(f"/usr/bin/python3 -c %s{' %s' * len(arguments)}", script, *arguments)
    complaint = result.stderr.strip().rpartition("\n")[2] if result.rc else ""
    expect("complaint of the script that asks for modalities on the host", "", complaint, "journalctl -u orthanc")
    found: dict[str, Any] = json.loads(result.stdout)
    report.modalities[site.label] += [row(name, one) for name, one in sorted(found["modalities"].items())]
    report.servers[site.label] += [
        Server(name, "DICOMweb", one["Url"], one["wrong"]) for name, one in sorted(found["servers"].items())
    ]
    return found


@pytest.fixture(scope="module")
def modalities(asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = asked["modalities"]
    return found


def row(name: str, found: dict[str, Any]) -> Modality:
    """Say what is known of a modality."""
    seen = max((found["associated"], "association"), (found["sent"], "series"))
    when = datetime.datetime.fromtimestamp(seen[0], datetime.UTC)
    problem = found["closed"] or found["refused"]
    return Modality(
        name,
        found["AET"],
        f"{found['Host']}:{found['Port']}",
        f"{when:%Y-%m-%d %H:%M} UTC, by {seen[1]}" if seen[0] else "not seen",
        problem or ("answers" if found["asked"] else "this machine"),
        bool(problem),
    )


def declared(modality: Any) -> tuple[str, str, int]:
    """Return title, address and port of an entry of the inventory, whichever form it has."""
    fields = modality[:3] if isinstance(modality, list) else [modality[name] for name in ("AET", "Host", "Port")]
    return str(fields[0]), str(fields[1]), int(fields[2])


def test_modalities_are_those_of_the_inventory(site: Site, modalities: dict[str, dict[str, Any]]) -> None:
    """One that others have declared in the running Orthanc, for a day perhaps, is in the report alone."""
    wanted = {name: declared(one) for name, one in site.modalities.items()}
    got = {name: declared(one) for name, one in modalities.items() if name in wanted}
    different = sorted(name for name in wanted if got.get(name) != wanted[name])
    expect("modalities that Orthanc does not know as the inventory has them", [], different[:10], KNOWN)


def test_modalities_take_us_for_one(site: Site, modalities: dict[str, dict[str, Any]]) -> None:
    """Who is off is told in the report. Who is there and does not answer by C-ECHO is no modality of this Orthanc."""
    if not any(one["asked"] for one in modalities.values()):
        pytest.skip("orthanc_modalities has none but this machine")
    refused = {name: one["refused"] for name, one in modalities.items() if one["refused"] and name in site.modalities}
    if site.level == "conform":
        expect("modalities that are there and do not answer a C-ECHO of Orthanc", {}, refused, REACH)


def test_dicomweb_servers_answer(site: Site, asked: dict[str, Any]) -> None:
    """Each that the inventory has, by a search for a study that nobody has. What others have declared is told alone."""
    wanted = (site.settings.get("DicomWeb") or {}).get("Servers") or {}
    if not wanted:
        pytest.skip("orthanc_settings.DicomWeb.Servers is empty")
    unknown = {"wrong": "Orthanc does not know it"}
    problems = {name: asked["servers"].get(name, unknown)["wrong"] for name in wanted}
    wrong = {name: problem for name, problem in problems.items() if problem}
    expect("DICOMweb servers that do not answer Orthanc", {}, wrong, SERVERS)

"""Each check of the verification is broken once on purpose, and has to fail: ``make test-broken``.

tests/breakages has what is broken for which check. It is something of a host, or a lie: a program between nginx and
Orthanc, or on the way to Orthanc's DICOM port, gives another answer than Orthanc did.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import yaml
from pydicom.data import get_testdata_file

from tests.breakages.hosts import BREAKAGES, Breakage
from tests.breakages.lies import LIES, Lie
from tests.breakages.names import HONEST, LIAR_PORT, SAMPLE, covered
from tests.hosts.conftest import ROOT, Lab, run
from tests.hosts.viewer import FETCHED

SUITE, LIAR = ROOT / "verification", ROOT / "tests" / "breakages" / "liar.py"
PROXIES = "$(ls /etc/nginx/conf.d/orthanc.conf /etc/nginx/conf.d/orthanc-relay.conf 2> /dev/null)"
LIE = f"""
systemd-run --quiet --unit liar python3 /srv/liar.py {LIAR_PORT}
sed -i 's/server 127.0.0.1:8042/server 127.0.0.1:{LIAR_PORT}/' {PROXIES}; systemctl reload nginx; sleep 1
"""
HONESTY = f"sed -i 's/:{LIAR_PORT}/:8042/' {PROXIES}; systemctl reload nginx; sleep 1; systemctl stop liar"

# An Orthanc with all beside it, and one whose proxy and database are elsewhere; each is a peer and a modality of the
# other.
HOSTS = {"pacs": "trixie-installed", "far": "trixie-installed", "front": "trixie-installed"}
GROUPS = {"orthanc": ["far", "pacs"], "nginx": ["front", "pacs"], "postgresql": ["front", "pacs"]}
SITE: dict[str, Any] = {
    "orthanc_users": {"admin": "{{ vault_orthanc_admin_password }}", "peer": "{{ vault_orthanc_peer_password }}"},
    "orthanc_proxy_password": "{{ vault_orthanc_proxy_password }}",
    "orthanc_database_password": "{{ vault_orthanc_database_password }}",
    "orthanc_database": "postgresql",
    "orthanc_plugins": ["dicomweb", "gdcm", "worklists"],
    "orthanc_settings": {"DefaultEncoding": "Utf8"},
}
# For images that no other check sends.
INGEST = [
    {"when": {"StationName": "VERIFY-0815"}, "refuse": True},
    {"when": {"InstitutionName": "Old name*"}, "set": {"InstitutionName": "New name"}, "remove": ["PatientComments"]},
]
WORKLISTS = """PatientID,PatientName,AccessionNumber,Modality,ScheduledStationAETitle,ScheduledProcedureStepStartDate,\
ScheduledProcedureStepStartTime
4711,Doe^Jane,A-1,CT,STATION,2026-12-01,14:30
"""


class Site:
    """The hosts, their inventory, and how they are described to the verification."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory, self.described = lab, folder / "inventory", folder / "sites"
        self.inventory.mkdir()
        groups = {group: {"hosts": dict.fromkeys(hosts)} for group, hosts in GROUPS.items()}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
        (lab.folder / "host_vars").mkdir()
        script = folder / "nothing.lua"
        script.write_text("-- It changes nothing.\n", encoding="utf-8")
        for name, other, front in (("pacs", "far", "front"), ("far", "pacs", "pacs")):
            variables = SITE | {
                "orthanc_aet": name.upper(),
                # Whose proxy is beside it.
                "ohif_enabled": name == "pacs",
                # The other one has its files in a folder.
                "orthanc_database_storage": name == "pacs",
                "orthanc_peers": {
                    other: {
                        "Url": f"https://{lab.address[front]}/",
                        "Username": "peer",
                        "Password": "{{ vault_orthanc_peer_password }}",
                    }
                },
                "orthanc_modalities": lab.modalities
                | {other: {"AET": other.upper(), "Host": lab.address[other], "Port": 4242}},
            }
            web = variables["orthanc_peers"][other] | {"Url": f"https://{lab.address[front]}/dicom-web/"}
            variables["orthanc_settings"] = SITE["orthanc_settings"] | {"DicomWeb": {"Servers": {"web": web}}}
            if name == "pacs":
                test = {"send": str(get_testdata_file("CT_small.dcm")), "tags": {"Modality": "CT"}}
                variables["orthanc_scripts"] = [{"file": str(script), "test": test}]
                variables["verification_accepted_risks"] = ["routing"]
                # The other one has the plugin worklists.
                variables["orthanc_plugins"] = ["dicomweb", "gdcm", "python"]
                variables["orthanc_ingest"] = INGEST
                variables["orthanc_deidentify"] = [{"when": {"StationName": "VERIFY-0816"}}]
                variables["orthanc_deidentify_secret"] = "{{ vault_orthanc_admin_password * 2 }}"
                table = folder / "worklists.csv"
                table.write_text(WORKLISTS, encoding="utf-8")
                variables |= {"orthanc_worklists_table": str(table), "orthanc_worklists_table_from": "control"}
            (lab.folder / "host_vars" / f"{name}.json").write_text(json.dumps(variables), encoding="utf-8")

    def describe(self) -> None:
        """Have the role describe the hosts to the suite, as ever, and keep what it hands over."""
        copy = ["cp", "-r", "{{ __verification_folder.path }}", str(self.described)]
        self.lab.play("verify", {"__verification_command": copy}, inventory=self.inventory)

    def run(self, checks: Iterable[str], host: str = "pacs", *options: str) -> list[dict[str, str]]:
        """Run checks of the suite as the role does, and return what came of each."""
        with tempfile.TemporaryDirectory() as folder:
            sites, only, outcomes = (pathlib.Path(folder) / name for name in ("sites", "only", "outcomes"))
            shutil.copytree(self.described, sites)
            only.write_text(json.dumps({"site": host, "checks": list(checks)}), encoding="utf-8")
            done = run(
                *(sys.executable, "-m", "pytest", "-p", "tests.breakages.plugin"),
                *(f"--config-file={SUITE}/pytest.ini", f"--sites={sites}", f"--only={only}", f"--outcomes={outcomes}"),
                *options,
                SUITE,
                check=False,
                env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
            )
            assert outcomes.exists(), done.stdout[-6000:]
            return [json.loads(line) for line in outcomes.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    lab = Lab("broken", **HOSTS)
    lab.through = FETCHED
    made = Site(lab, tmp_path_factory.mktemp("broken"))
    lab.play("certificates", inventory=made.inventory)
    lab.play(inventory=made.inventory)
    made.describe()
    yield made
    if not os.environ.get("PACS_KEEP_LABS"):
        lab.destroy()


@pytest.fixture(scope="module")
def told(site: Site) -> list[dict[str, str]]:
    """What came of the checks under all lies, told between nginx and Orthanc of both hosts."""
    for host in GROUPS["orthanc"]:
        site.lab.shell(f"cat > /srv/liar.py <<'END'\n{LIAR.read_text(encoding='utf-8')}END\n{LIE}", host)
    checks = {name for lie in LIES for name in lie.checks} | set(SAMPLE)
    found = site.run(checks, "pacs", "--lies")
    for host in GROUPS["orthanc"]:
        site.lab.shell(HONESTY, host)
    return found


def wrong(found: list[dict[str, str]], checks: Iterable[str]) -> list[str]:
    """Say which checks did not do what they have to do: those that are broken to fail, and all others to pass."""
    missing = [f"{name}: is not run" for name in checks if not any(covered(one["check"], [name]) for one in found)]
    return missing + [
        f"{one['check']}: {one['outcome']} ({one['when']}) {one['said']}"
        for one in found
        if (one["when"], one["outcome"]) != ("call", "failed" if covered(one["check"], checks) else "passed")
    ]


@pytest.mark.parametrize("step", HONEST)
def test_checks_pass_without_lies(told: list[dict[str, str]], step: str) -> None:
    assert not wrong([one for one in told if one["step"] == step], [])


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.what)
def test_lie_is_noticed(told: list[dict[str, str]], lie: Lie) -> None:
    """By the checks that are about it, and by no others."""
    assert not wrong([one for one in told if one["step"] == lie.what], lie.checks)


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.what)
def test_breakage_is_noticed(site: Site, breakage: Breakage) -> None:
    """By the checks that are about it, and by no others."""
    others = set(SAMPLE) - {name for name in SAMPLE if covered(name, breakage.spoils)}
    hosts = breakage.hosts or (breakage.site,)
    keep = "; ".join(f"[ ! -e {path} ] || cp -a --parents {path} /root/kept" for path in breakage.paths)
    try:
        for host in hosts:
            site.lab.shell(f"rm -rf /root/kept; mkdir /root/kept; {keep}\n{breakage.do}\n{breakage.after}", host)
        found = site.run({*breakage.checks, *others}, breakage.site)
    finally:
        for host in hosts:
            site.lab.shell(f"cp -a /root/kept/. /\n{breakage.undo}\n{breakage.after}", host)
    assert not wrong(found, breakage.checks)


def test_site_is_as_wanted_again(site: Site, tmp_path: pathlib.Path) -> None:
    """All that was broken is mended, and no check is one that fails anyway."""
    said = site.lab.play("verify", {"verification_report_dir": str(tmp_path)}, inventory=site.inventory).stdout
    assert ": as wanted." in " ".join(said.split())

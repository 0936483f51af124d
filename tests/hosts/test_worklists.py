"""Worklists out of a table and out of a folder, on both releases: found as they change, without a start of Orthanc."""

from __future__ import annotations

import pathlib
import re
import runpy
from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ModalityWorklistInformationFind  # type: ignore[attr-defined]

from tests.hosts.conftest import QUICKSTART, ROOT, Lab, run

pytestmark = pytest.mark.later
LAB = {"name": "worklists", "pacs": "trixie-installed", "old": "bookworm-installed"}
HOSTS = ["pacs", "old"]
START = "systemctl show orthanc --property=InvocationID --value"
HEAD = (
    "PatientID;PatientName;AccessionNumber;Modality;ScheduledStationAETitle;ScheduledProcedureStepStartDate;"
    "ScheduledProcedureStepStartTime;ScheduledProcedureStepDescription"
)
ROWS = (
    "4711;M\u00fcller^Anna;A-1;CT;CT1;2026-12-01;08:30;Thorax",
    "4712;Doe^Jane;A-2;CT;CT2;2026-12-02;09:00;Head",
    "4713;\u7530\u4e2d^\u82b1\u5b50;B-1;MR;MR1;2026-12-03;10:15:30;Knee",
)
TABLE = "/srv/ris/today.csv"
# What makes a file of a line.
STEPS = runpy.run_path(str(ROOT / "roles" / "orthanc" / "files" / "pacs_worklist_table.py"))


class Site:
    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory, self.folder = lab, folder / "inventory", folder
        self.inventory.mkdir()
        (self.inventory / "group_vars").symlink_to(QUICKSTART / "group_vars")
        both = {"hosts": dict.fromkeys(lab.address)}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump({"orthanc": both, "nginx": both}), encoding="utf-8")
        self.machine: dict[str, Any] = lab.modalities["verifier"]

    def play(self, playbook: str = "site", *arguments: str, check: bool = True, **more: Any) -> str:
        given: dict[str, Any] = {"orthanc_settings": {"DefaultEncoding": "Utf8"}}
        given |= {"orthanc_plugins": ["dicomweb", "python"], "orthanc_worklists_table": TABLE}
        return self.lab.play(playbook, given | more, arguments, self.inventory, check).stdout

    def write(self, host: str, *rows: str, path: str = TABLE) -> None:
        """Put another table in the place of the one that is there, as a RIS does."""
        text = "\n".join([HEAD, *rows, ""])
        script = f"mkdir -p {path.rpartition('/')[0]}; cat > {path}.new <<'END'\n{text}END\nmv {path}.new {path}"
        self.lab.shell(script, host)

    def find(
        self,
        host: str,
        number: str = "",
        station: str = "",
        date: str = "",
        modality: str = "",
        complete: bool = True,
    ) -> list[Dataset]:
        step, query = Dataset(), Dataset()
        step.ScheduledStationAETitle, step.ScheduledProcedureStepStartDate, step.Modality = station, date, modality
        step.ScheduledProcedureStepStartTime = step.ScheduledProcedureStepDescription = ""
        query.SpecificCharacterSet = "ISO_IR 192"
        query.PatientName, query.PatientID, query.AccessionNumber, query.StudyInstanceUID = "", "", number, ""
        query.ScheduledProcedureStepSequence = [step]
        entity = AE(ae_title=self.machine["AET"])
        entity.add_requested_context(ModalityWorklistInformationFind)
        association = entity.associate(self.lab.address[host], 4242, ae_title="ORTHANC")
        assert association.is_established
        *found, (status, _) = association.send_c_find(query, ModalityWorklistInformationFind)
        association.release()
        assert status.Status == (0 if complete else 0xFE00), status
        return [answer for _status, answer in found if answer]

    def numbers(self, host: str, **asked: Any) -> list[str]:
        return sorted(str(one.AccessionNumber) for one in self.find(host, **asked))

    def told(self, host: str) -> dict[str, Any]:
        with self.lab.session(host) as session:
            found: dict[str, Any] = session.get(self.lab.url("/pacs/worklists", host), timeout=60).json()
            return found


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("worklists"))
    for host in HOSTS:
        made.write(host, *ROWS)
    made.play()
    return made


def test_it_is_idempotent(site: Site) -> None:
    assert re.findall(r" changed=(\d+) ", site.play()) == ["0", "0"]


@pytest.mark.parametrize("host", HOSTS)
def test_steps_are_found(site: Site, host: str) -> None:
    everything = ["A-1", "A-2", "B-1"]
    asked: Sequence[tuple[dict[str, str], list[str]]] = [
        ({}, everything),
        ({"number": "A-*"}, ["A-1", "A-2"]),
        ({"number": "?-1"}, ["A-1", "B-1"]),
        ({"station": "CT1"}, ["A-1"]),
        ({"station": "CT*"}, ["A-1", "A-2"]),
        ({"station": "CT"}, []),
        ({"date": "20261202"}, ["A-2"]),
        ({"date": "20261202-"}, ["A-2", "B-1"]),
        ({"date": "20261130-20261202"}, ["A-1", "A-2"]),
        ({"date": "20261204-20261231"}, []),
        ({"modality": "MR"}, ["B-1"]),
        ({"modality": "CT", "date": "20261201-20261202", "station": "?T2"}, ["A-2"]),
    ]
    assert [site.numbers(host, **one) for one, _ in asked] == [expected for _, expected in asked]
    first, japanese = site.find(host, "A-1")[0], site.find(host, "B-1")[0]
    assert (str(first.PatientName), first.PatientID) == ("M\u00fcller^Anna", "4711")
    assert str(japanese.PatientName) == "\u7530\u4e2d^\u82b1\u5b50"
    (step,) = first.ScheduledProcedureStepSequence
    assert (step.ScheduledProcedureStepStartTime, step.ScheduledProcedureStepDescription) == ("0830", "Thorax")
    assert first.StudyInstanceUID.startswith("2.25.")


@pytest.mark.parametrize("host", HOSTS)
def test_changes_are_found_at_once(site: Site, host: str) -> None:
    before = site.lab.shell(START, host)
    for rows, expected in (
        ((ROWS[0], "4714;Roe^Richard;C-1;US;US1;2026-12-04;11:00;Neck"), ["A-1", "C-1"]),
        # Bad lines are told, and take none away.
        ((ROWS[0], "4714;Roe;C-1;US;US1;4.12.2026;11:00;Neck", '"', ROWS[2]), ["A-1", "B-1"]),
        ((), []),
        (ROWS, ["A-1", "A-2", "B-1"]),
    ):
        site.write(host, *rows)
        assert site.numbers(host) == expected
    site.write(host, ROWS[1], "4715;Doe;A-9;ct;CT1;2026-12-01;08:30;x")
    assert site.numbers(host) == ["A-2"]
    told = site.told(host)
    assert (told["Steps"], told["Problem"]) == (1, "")
    assert told["LeftOut"] == [{"Line": 3, "Problem": "Modality: it is no code in capitals"}]
    log = site.lab.shell("journalctl -u orthanc --output cat", host)
    assert "orthanc_worklists_table: line 3 is left out: ScheduledProcedureStepStartDate: it is no date" in log
    assert "Roe" not in log
    # While it is away, or no table at all, those of before are answered.
    site.lab.shell(f"mv {TABLE} {TABLE}.away", host)
    assert site.numbers(host) == ["A-2"]
    site.lab.shell(f"echo nonsense > {TABLE}", host)
    assert site.numbers(host) == ["A-2"]
    assert "is no keyword of DICOM" in site.told(host)["Problem"]
    site.write(host, *ROWS)
    assert site.numbers(host) == ["A-1", "A-2", "B-1"]
    assert site.lab.shell(START, host) == before, "nobody has started Orthanc"


@pytest.mark.parametrize("host", HOSTS)
def test_files_of_the_folder_are_found_beside_them(site: Site, host: str) -> None:
    made = site.folder / "one.wl"
    made.write_bytes(
        STEPS["answer"](dict(zip(HEAD.split(";"), ROWS[0].replace("A-1", "FILE-1").split(";"), strict=True)))
    )
    folder = "/var/lib/orthanc/worklists"
    run("docker", "cp", made, f"{site.lab.container(host)}:{folder}/one.wl")
    site.lab.shell(f"chown orthanc {folder}/one.wl; echo nonsense > {folder}/bad.wl; chmod 644 {folder}/bad.wl", host)
    assert site.numbers(host) == ["A-1", "A-2", "B-1", "FILE-1"]
    site.lab.shell(f"rm {folder}/one.wl {folder}/bad.wl", host)
    assert site.numbers(host) == ["A-1", "A-2", "B-1"]


def test_options_of_the_plugin_hold(site: Site) -> None:
    """A modality gets the steps of its own title alone, and no more of all than it is told to."""
    own = ROWS[1].replace("CT2", site.machine["AET"]).replace("A-2", "OWN-1")
    for host in HOSTS:
        site.write(host, *ROWS, own)
    site.play(orthanc_settings={"DefaultEncoding": "Utf8", "Worklists": {"FilterIssuerAet": True}})
    assert [site.numbers(host) for host in HOSTS] == [["OWN-1"]] * 2
    site.play(orthanc_settings={"DefaultEncoding": "Utf8", "Worklists": {"LimitAnswers": 2}})
    assert [len(site.find(host, complete=False)) for host in HOSTS] == [2, 2]
    for host in HOSTS:
        site.write(host, *ROWS)
    site.play()
    assert [site.numbers(host) for host in HOSTS] == [["A-1", "A-2", "B-1"]] * 2


def test_verification_finds_them(site: Site, tmp_path: pathlib.Path) -> None:
    command = ["{{ ansible_playbook_python }}", "-m", "pytest", "-rA", "-k", "worklists or scripts"]
    command += ["--config-file={{ __verification_suite }}/pytest.ini", "--sites={{ __verification_folder.path }}"]
    asked: dict[str, Any] = {"verification_level": "probe"}
    asked |= {"__verification_command": [*command, "{{ __verification_suite }}"]}
    said = site.play("verify", "-v", **asked)
    for check in (
        "test_host.py::test_inside_worklists_are_read",
        "test_dicom.py::test_worklists_of_the_table_are_found",
    ):
        assert {*re.findall(rf"PASSED \S*{re.escape(check)}\[(\w+)\]", said)} == {*HOSTS}, said[-4000:]
    site.write("old", *ROWS, "bad")
    said = " ".join(site.play("verify", "-v", check=False, **asked).split())
    assert "lines of it that are left out: expected [], got [{''Line'': 5" in said or "got [{'Line': 5" in said, said[
        -4000:
    ]
    site.write("old", *ROWS)


def test_table_of_the_inventory(site: Site) -> None:
    """It is copied without a start, and a change is found."""
    file = site.folder / "table.csv"
    given: dict[str, Any] = {"orthanc_worklists_table": str(file), "orthanc_worklists_table_from": "control"}
    file.write_text("\n".join([HEAD, ROWS[0], ""]), encoding="utf-8")
    site.play("site", **given)
    before = {host: site.lab.shell(START, host) for host in HOSTS}
    assert [site.numbers(host) for host in HOSTS] == [["A-1"]] * 2
    assert site.lab.shell("stat --format '%a %U:%G' /etc/pacs/worklists/table.csv").strip() == "640 root:orthanc"
    file.write_text("\n".join([HEAD, *ROWS[:2], "4716;Poe^Edgar;bad", ""]), encoding="utf-8")
    said = site.play("site", "--check", "--diff", **given)
    assert "Poe" not in said
    assert "Jane" not in said
    assert re.findall(r" changed=(\d+) ", said) == ["1", "1"]
    assert [site.numbers(host) for host in HOSTS] == [["A-1"]] * 2
    said = " ".join(site.play("site", **given).split())
    assert "orthanc_worklists_table: line 4 is left out" in said
    assert [site.numbers(host) for host in HOSTS] == [["A-1", "A-2"]] * 2
    assert {host: site.lab.shell(START, host) for host in HOSTS} == before
    file.write_text("\n".join([HEAD.replace("Modality", "Mod"), ROWS[0], ""]), encoding="utf-8")
    said = " ".join(site.play("site", check=False, **given).split())
    assert "of its first line is no keyword of DICOM for a text" in said
    assert [site.numbers(host) for host in HOSTS] == [["A-1", "A-2"]] * 2


def test_without_it_nothing_is_left(site: Site) -> None:
    site.play(orthanc_worklists_table="", orthanc_plugins=["dicomweb", "python", "worklists"])
    for host in HOSTS:
        assert not site.lab.shell("ls /etc/pacs/orthanc | grep py$; ls /etc/pacs/worklists/* 2> /dev/null; true", host)
        assert site.numbers(host) == []

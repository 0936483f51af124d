"""Modalities by the hundred, and others that do not answer: what a run does with them, and what a report says."""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import json
import pathlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import pydicom
import pydicom.data
import pytest
import yaml
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelMove as Move  # type: ignore[attr-defined]

from tests.hosts.conftest import QUICKSTART, Lab, run
from tests.hosts.senders import Senders

pytestmark = pytest.mark.later
LAB = {"name": "modalities", "pacs": "trixie-installed", "other": "bookworm-installed"}
TABLE = "group_vars/all/modalities.csv"
SINCE = "systemctl show orthanc --property ExecMainStartTimestampMonotonic --property NRestarts"
LOOKUP = f"lookup('dicom.orthanc.modalities', '{TABLE}')"


class Site:
    """Two hosts, of which the second one knows the first, and is known by it under two titles."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory, self.report = lab, folder / "inventory", folder / "report"
        # At the far end of the lab's own network nobody is; what becomes of other addresses is the machine's affair.
        asked = ("docker", "network", "inspect", "--format={{(index .IPAM.Config 0).Subnet}}", lab.prefix)
        last = int(ipaddress.ip_network(run(*asked).stdout.strip())[-2])
        self.silent = [f"m{n},M{n},{ipaddress.ip_address(last - n)},104,false,\n" for n in range(300)]
        (self.inventory / TABLE).parent.mkdir(parents=True)
        for file in (QUICKSTART / "group_vars").rglob("*.yml"):
            (self.inventory / "group_vars" / file.relative_to(QUICKSTART / "group_vars")).write_bytes(file.read_bytes())
        both = {"hosts": dict.fromkeys(lab.address)}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump({"orthanc": both, "nginx": both}), encoding="utf-8")
        self.table()
        us = {"pacs": {"AET": "ORTHANC", "Host": lab.address["pacs"], "Port": 4242}}
        lab.play(variables={"orthanc_modalities": lab.modalities | us}, inventory=self.inventory)
        self.play()

    def table(self, *rows: str) -> None:
        """Have these modalities, and one that answers."""
        one = f"other,ORTHANC,{self.lab.address['other']},4242,,Known to the other\n"
        text = "".join(("Name,AET,Host,Port,AllowFind,Comment\n", one, *rows))
        (self.inventory / TABLE).write_text(text, encoding="utf-8")

    def play(self, playbook: str = "site", good: bool = True, **variables: Any) -> str:
        """Run a playbook for the first host, and return what it said, each blank one space."""
        given = f"{{{{ {LOOKUP} | combine({json.dumps(self.lab.modalities)}) }}}}"
        more = {"orthanc_modalities": given, "verification_report_dir": str(self.report)} | variables
        done = self.lab.play(playbook, more, ("--limit", "pacs"), self.inventory, check=good)
        assert good or done.returncode, "a bad site passes"
        return " ".join(done.stdout.split()).replace("''", "'")

    def known(self) -> set[str]:
        """Return the modalities that the running Orthanc knows, without this machine."""
        found: list[str] = self.lab.session().get(self.lab.url("/modalities"), timeout=30).json()
        return set(found) - {"verifier"}


@contextlib.contextmanager
def load(site: Site) -> Iterator[None]:
    """Eight clients send images by the REST API meanwhile, and a modality by C-STORE, and none of them is failed."""
    lab, stop, told = site.lab, threading.Event(), collections.Counter[int]()
    admin = lab.secrets["vault_orthanc_admin_password"]
    senders = Senders(lab.address["pacs"], str(lab.session().verify), admin)
    entity = AE("VERIFIER")
    entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate(lab.address["pacs"], 4242, ae_title="ORTHANC")
    assert association.is_established
    image = pydicom.dcmread(str(pydicom.data.get_testdata_file("CT_small.dcm")))
    image.PatientID = "LOAD"

    def store() -> None:
        while not stop.wait(0.02):
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.77{told.total()}")
            told[association.send_c_store(image).get("Status", -1)] += 1

    storing = threading.Thread(target=store)
    with senders:
        storing.start()
        try:
            senders.more(20, within=120)
            yield
            senders.more(20, within=120)
        finally:
            stop.set()
            storing.join()
    assert association.is_established
    association.release()
    assert (senders.refused.total(), senders.wrong, senders.lost()) == (0, [], {}), senders.told()
    assert told.keys() == {0}, told
    assert told.total() > 20


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(lab, tmp_path_factory.mktemp("modalities"))


def test_hundreds_come_and_go_without_a_restart(site: Site) -> None:
    """While images come all the time."""
    before = site.lab.shell(SINCE)
    assert site.known() == {"other"}
    names = {row.partition(",")[0] for row in site.silent}
    with load(site):
        site.table(*site.silent)
        assert "changed=1 " in site.play()
        assert site.known() == names | {"other"}
        assert "changed=0 " in site.play()
        site.table(*site.silent[:-1])
        assert "changed=1 " in site.play()
        assert site.known() == names - {"m299"} | {"other"}
    assert site.lab.shell(SINCE) == before


def test_wrong_table_changes_nothing(site: Site) -> None:
    known = site.known()
    site.table("m1,M1,10.255.0.2,104,,\n", "m2,M1,10.255.0.2,104,,\n", "m1,M3,10.255.0.4,0,,\n")
    said = site.play(good=False)
    assert (
        "orthanc_modalities: modalities.csv, line 4, m2: title and address are those of modalities.csv, line 3" in said
    )
    assert "orthanc_modalities: modalities.csv, line 5: the name 'm1' is that of line 3 already." in said
    assert site.known() == known


def test_silent_modalities_are_told_and_wrong_servers_are_findings(site: Site) -> None:
    """Those that are off cost seconds, all of them together."""
    refuses = f"refuses,NOBODY,{site.lab.address['other']},4242,,\n"
    site.table(refuses, *site.silent)
    admin = site.lab.secrets["vault_orthanc_admin_password"]
    peers: dict[str, dict[str, Any]] = {
        "password": {"Url": "http://127.0.0.1:8042/", "Username": "proxy", "Password": "it is another one"},
        "certificate": {"Url": site.lab.url("/", "other"), "Username": "admin", "Password": admin},
        "path": {"Url": "http://127.0.0.1:8042/pacs/", "Username": "proxy", "Password": "{{ orthanc_proxy_password }}"},
        "off": {"Url": f"http://{site.lab.address['other']}:81/"},
        "right": {"Url": "http://127.0.0.1:8042/", "Username": "proxy", "Password": "{{ orthanc_proxy_password }}"},
    }
    web = {name: peers[name] | {"Url": "http://127.0.0.1:8042/dicom-web/"} for name in ("password", "right")}
    web["certificate"] = peers["certificate"] | {"Url": site.lab.url("/dicom-web/", "other")}
    asked: dict[str, Any] = {"orthanc_peers": peers, "orthanc_settings": {"DicomWeb": {"Servers": web}}}
    asked["verification_level"] = "probe"
    site.play(**asked)
    said = site.play("verify", good=False, **asked)
    told = re.findall(r"DICOMweb servers that do not answer Orthanc: expected \{\}, got (\{.*?\});", said)
    assert len(told) == 1, said
    assert re.fullmatch(
        r"\{'password': 'it answers 401 \(Unauthorized\)', 'certificate': 'libCURL error: SSL peer cert.*'\}", told[0]
    ), told
    assert "'password': 'it answers 401 (Unauthorized)'" in said.replace(told[0], "")
    assert re.search(r"'certificate': 'libCURL error: SSL peer certificate or SSH remote key was not OK", said)
    assert "'path': 'it answers 404 (Not Found)'" in said
    assert "'off': 'ConnectionRefusedError: [Errno 111] Connection refused'" in said
    assert "'right'" not in said
    assert admin not in said
    assert "NOTICE on pacs: 301 of 303 modalities do not answer Orthanc now, which may be as it should" in said
    assert re.search(r"2 failed, \d+ left out", said), "a modality that is off, or refuses, is no finding of a probe"
    page = (site.report / "report.html").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r"<tr[^>]*><td>(\w+)</td><td>[\w-]+</td><td>[\d.:]+</td><td>.*?</td><td>(.*?)</td></tr>", page)
    )
    assert (rows["other"], rows["verifier"], rows["refuses"]) == ("answers", "this machine", "DUL Association Rejected")
    assert len(rows) == 303
    servers = re.findall(r"<td>(\w+)</td><td>(peer|DICOMweb)</td><td>(.*?)</td><td>(.*?)</td></tr>", page)
    assert ("right", "DICOMweb", "http://127.0.0.1:8042/dicom-web/", "answers") in servers
    assert ("password", "DICOMweb", "http://127.0.0.1:8042/dicom-web/", "it answers 401 (Unauthorized)") in servers
    assert ("right", "peer", "http://127.0.0.1:8042/", "answers") in servers
    assert len(servers) == len(peers) + len(web)
    cases = (site.report / "junit.xml").read_text(encoding="utf-8")
    (took,) = re.findall(r'name="test_modalities_are_those_of_the_inventory\[pacs\]" time="([\d.]+)"', cases)
    # One after the other they would take a quarter of an hour.
    assert float(took) < 120


def test_modality_that_refuses_is_a_finding_of_conform(site: Site) -> None:
    site.table(f"refuses,NOBODY,{site.lab.address['other']},4242,,\n", *site.silent[:1])
    site.play()
    with site.lab.session() as session:
        level = site.lab.url("/tools/log-level-dicom")
        assert session.put(level, data="verbose", timeout=30).ok
        site.lab.shell("timeout 20 echoscu -aet ORTHANC -aec ORTHANC pacs 4242", host="other")
        assert session.put(level, data="default", timeout=30).ok
    said = site.play("verify", good=False)
    told = re.findall(
        r"modalities that are there and do not answer a C-ECHO of Orthanc: expected \{\}, got (.*?);", said
    )
    assert told == ["{'refuses': 'DUL Association Rejected'}"]
    page = (site.report / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<td>other</td><td>ORTHANC</td><td>[\d.:]+</td><td>[\d :-]+ UTC, by association</td>", page)
    assert re.search(r"<td>VERIFIER</td><td>[\d.:]+</td><td>\d{4}-\d\d-\d\d \d\d:\d\d UTC, by series</td>", page)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_first_by_name_gets_what_is_moved_to_a_title_of_two(site: Site, names: tuple[str, str]) -> None:
    """As the preflight says, in both orders of the inventory."""
    image = pathlib.Path(str(pydicom.data.get_testdata_file("CT_small.dcm")))
    assert site.lab.session().post(site.lab.url("/instances"), data=image.read_bytes(), timeout=30).ok
    taken: list[str] = []

    def take(event: evt.Event) -> int:
        taken.append(event.dataset.PatientID)
        return 0

    entity = AE("WS")
    entity.add_supported_context(CTImageStorage)
    address = site.lab.modalities["verifier"]["Host"]
    listening = entity.start_server((address, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    assert listening
    try:
        port = listening.server_address[1]
        entries = dict(zip(names, (f"WS,{address},{port}", f"WS,{site.lab.address['other']},4"), strict=True))
        site.table(*(f"{name},{entry},,\n" for name, entry in entries.items()))
        assert "several have one title (WS is that of a, b)" in site.play()
        asking = AE("VERIFIER")
        asking.add_requested_context(Move)
        association = asking.associate(site.lab.address["pacs"], 4242, ae_title="ORTHANC")
        assert association.is_established
        query = Dataset()
        query.QueryRetrieveLevel, query.PatientID = "PATIENT", "1CT1"
        list(association.send_c_move(query, "WS", Move))
        association.release()
    finally:
        listening.shutdown()
    assert taken == (["1CT1"] if names[0] == "a" else [])


def test_modality_that_others_took_out_is_a_finding(site: Site) -> None:
    site.table(*site.silent[:1])
    site.play()
    assert site.lab.session().delete(site.lab.url("/modalities/m0"), timeout=30).status_code == 200
    said = site.play("verify", good=False, verification_level="probe")
    assert "modalities that Orthanc does not know as the inventory has them: expected [], got ['m0']" in said

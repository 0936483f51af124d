"""What the verification tells of the address before several Orthancs, and what HAProxy is told of senders."""

from __future__ import annotations

import base64
import types
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.repository import ROOT, evaluated
from verification import test_address as checks
from verification.expect import Unexpected
from verification.report import Balancer, Report

STAT = """\
# pxname,svname,qcur,status
health,FRONTEND,,OPEN
https,pacs,0,UP
https,pacs2,0,DOWN 1/2
https,BACKEND,0,UP
https_anyway,pacs,0,no check
dicom,pacs,0,UP

"""
SITE: Any = types.SimpleNamespace(behind=["a", "b"])
UP = {f"{part} to {name}": "UP" for part in checks.PARTS for name in "ab"}


def two(**changes: dict[str, Any]) -> dict[str, Balancer]:
    """Return two balancers as they have to be, but for some changes."""
    known = {"a": ("has it", UP, ""), "b": ("waits", UP, "")}
    made = {}
    for name, (part, servers, problem) in known.items():
        given: dict[str, Any] = {"part": part, "servers": servers, "problem": problem} | changes.get(name, {})
        made[name] = Balancer(name, "192.0.2.1", **given)
    return made


def test_what_a_balancer_says() -> None:
    assert checks.works(STAT) == {"https to pacs": "UP", "https to pacs2": "DOWN", "dicom to pacs": "UP"}
    assert checks.works("") == {}


def test_address_as_it_has_to_be() -> None:
    checks.test_one_host_has_the_address(two())
    checks.test_balancers_take_all_for_working(SITE, two())
    report = Report(balancers={"a": list(two().values()), "b": list(two().values())})
    assert report.members() == [
        "ADDRESS of a, b: a: has it; https to a: UP, https to b: UP, dicom to a: UP, dicom to b: UP",
        "ADDRESS of a, b: b: waits; https to a: UP, https to b: UP, dicom to a: UP, dicom to b: UP",
    ]
    other = Report()
    other.add(*report.state)
    assert other.members() == report.members()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"b": {"part": "has it"}}, "how many hosts have the address: expected 1, got 2"),
        ({"a": {"part": "waits"}}, "how many hosts have the address: expected 1, got 0"),
        ({"b": {"part": "does not answer"}}, "hosts with a balancer that do not answer"),
    ],
)
def test_address_that_nobody_or_everybody_has(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Unexpected, match=words):
        checks.test_one_host_has_the_address(two(**changes))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"b": {"servers": UP | {"dicom to b": "DOWN"}}}, "'dicom to b': 'DOWN'"),
        ({"b": {"servers": {}}}, "expected"),
        ({"a": {"problem": "refused"}}, "balancers that tell nothing: .*refused"),
    ],
)
def test_orthanc_that_is_left_out(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Unexpected, match=words):
        checks.test_balancers_take_all_for_working(SITE, two(**changes))


def configuration(**given: Any) -> str:
    """Return what HAProxy is told."""
    loader = DataLoader()
    internal = loader.load_from_file(str(ROOT / "roles/haproxy/vars/main.yml"), trusted_as_template=True)
    server = {"name": "pacs", "address": "192.0.2.1", "https_port": 8444, "health_port": 8445, "dicom_port": 4242}
    known = {
        "haproxy_address": "192.0.2.9",
        "haproxy_servers": [server, server | {"name": "pacs2", "address": "192.0.2.2"}],
        "haproxy_senders": [
            {"aet": "CT", "address": "192.0.2.7"},
            {"aet": "CT", "address": "192.0.2.8"},
            {"aet": "it's {odd}", "address": "192.0.2.8"},
        ],
        "haproxy_senders_checked": True,
        "haproxy_senders_encrypt": False,
    }
    text = (ROOT / "templates/etc/pacs/haproxy/haproxy.cfg.j2").read_text(encoding="utf-8")
    variables = {**evaluated(), **internal, "ansible_managed": "Ansible", **known, **given}
    return str(Templar(loader=loader, variables=variables).template(trust_as_template(text)))


def test_senders_are_known_by_title_and_address() -> None:
    told = [line.strip() for line in configuration().splitlines() if "tcp-request content" in line]
    ct, odd = (base64.b64encode(title.encode()).decode() for title in ("CT", "it's {odd}"))
    ask = "tcp-request content accept if { req.payload(26,16),rtrim(' '),base64 -m str "
    assert told == [
        f"{ask}{ct} }} {{ src 192.0.2.7 192.0.2.8 }}",
        f"{ask}{odd} }} {{ src 192.0.2.8 }}",
        "tcp-request content reject if { req.len ge 42 } || WAIT_END",
    ]
    nobody = configuration(haproxy_senders=[])
    assert "content accept" not in nobody
    assert "content reject" in nobody


def test_senders_over_tls_are_known_by_address() -> None:
    told = configuration(haproxy_senders_encrypt=True)
    assert "payload" not in told
    assert "connection reject unless { src 127.0.0.1 192.0.2.7 192.0.2.8 192.0.2.8 }" in told
    assert "tcp-request" not in configuration(haproxy_senders_checked=False)


def test_dicom_goes_to_the_first_that_works() -> None:
    backend = configuration().rpartition("backend dicom")[2]
    assert [line.split()[1] for line in backend.splitlines() if line.endswith(" backup")] == ["pacs2"]
    assert "bind 192.0.2.9:104 transparent" in configuration()
    assert "bind [2001:db8::9]:443 transparent" in configuration(haproxy_address="2001:db8::9")
    assert "redirect scheme https" in configuration()
    assert "redirect prefix https://x:8443" in configuration(haproxy_https_port=8443, haproxy_server_name="x")


def guard(**given: Any) -> tuple[str, str]:
    """Return what the packet filter is told before an Orthanc's ports, and by what that is found again."""
    loader = DataLoader()
    internal = loader.load_from_file(str(ROOT / "roles/orthanc/vars/main/files.yml"), trusted_as_template=True)
    known = {
        "orthanc_http_port": 8042,
        "orthanc_dicom_port": 4242,
        "orthanc_balancers": ["192.0.2.1", "192.0.2.2"],
        "orthanc_modalities": {"ct": {"AET": "CT", "Host": "192.0.2.7", "Port": 104}, "mr": ["MR", "192.0.2.8", 104]},
        "orthanc_settings": {},
        "__orthanc_options": {"HttpBindAddresses": "list"},
        "__orthanc_configuration": {"RemoteAccessAllowed": False},
    }
    templar = Templar(loader=loader, variables={**internal, **known, **given})
    return templar.template(internal["__orthanc_guard_wanted"]), templar.template(internal["__orthanc_guard_rule"])


def test_dicom_port_behind_a_balancer_is_closed_to_others() -> None:
    told, found_by = guard()
    rule = "iif != lo ip saddr != { 192.0.2.1, 192.0.2.2, 192.0.2.7, 192.0.2.8 } tcp dport 4242 reject with tcp reset"
    assert f"input priority 0; {rule} comment pacs_" in told
    assert found_by.startswith("tcp dport 4242 reject with tcp reset comment pacs_")
    # Another address is another rule.
    assert guard(orthanc_modalities={})[1] != found_by
    assert "8042" not in told
    both, again = guard(__orthanc_options={})
    assert f"priority 0; iif != lo tcp dport 8042 reject with tcp reset; {rule}" in both
    assert again == found_by


def test_dicom_port_that_is_open_to_all() -> None:
    assert guard(orthanc_balancers=[])[0] == ""
    assert guard(orthanc_settings={"DicomCheckModalityHost": False})[0] == ""
    told, found_by = guard(orthanc_balancers=[], __orthanc_options={})
    assert "4242" not in told
    assert found_by == "iif != lo tcp dport 8042 reject with tcp reset"

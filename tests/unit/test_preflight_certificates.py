"""What the role certificates asks of an inventory."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import certificates
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host

PEM = "-----BEGIN CERTIFICATE-----\n"
GOOD: dict[str, Any] = {
    "certificates_days": 397,
    "certificates_renew_days": 30,
    "certificates_machines": ["ct-1", "192.0.2.7", "2001:db8::7", "a", "a" * 64],
    "certificates_hosts": {"pacs": ["pacs.example.org", "192.0.2.1"], "web": []},
    "certificates_made": {"pacs": PEM},
    "certificates_private_keys": {"pacs": PEM},
}


def said(**changes: Any) -> list[str]:
    return list(certificates.problems(Host(roles=["certificates"], variables=GOOD | changes)))


def test_nothing_wrong() -> None:
    assert said() == []
    assert said(certificates_days="31", certificates_renew_days="30") == []


@pytest.mark.parametrize("days", [30, 29, "30"])
def test_certificates_that_would_be_made_anew_each_time(days: Any) -> None:
    (problem,) = said(certificates_days=days)
    assert problem.startswith("certificates_renew_days: it has to be less than certificates_days")


@pytest.mark.parametrize("name", ["", "-ct", "ct-", "ct_1", "c t", "a" * 65, ".a", "a\n"])
def test_machine_without_a_name(name: str) -> None:
    (problem,) = said(certificates_machines=["ct-1", name])
    assert problem.startswith(f"certificates_machines: '{name}' is no address")


@pytest.mark.parametrize("names", [["pacs"], ["ct-1", "ct-2", "ct-1"]])
def test_machine_that_stands_there_twice(names: list[str]) -> None:
    problems = said(certificates_machines=names)
    assert {problem.partition(": ")[2].partition("' ")[2] for problem in problems} == {
        "stands there twice, or is a host of the inventory."
    }
    assert len(problems) == names.count(names[0])


@pytest.mark.parametrize("names", ["pacs", None, {"pacs": 1}, [7], ["pacs", "a b"], [""], ["a\n"]])
def test_names_of_a_host(names: Any) -> None:
    assert said(certificates_hosts={"web": ["web"], "pacs": names}) == [
        "certificates_hosts.pacs: it has to be a list of names and addresses."
    ]


@pytest.mark.parametrize("variable", ["certificates_made", "certificates_private_keys"])
@pytest.mark.parametrize("text", ["", "/etc/pacs.crt", None, 7, ["-----BEGIN "]])
def test_what_was_made_by_hand(variable: str, text: Any) -> None:
    (problem,) = said(**{variable: {"web": PEM, "pacs": text}})
    assert problem.startswith(f"{variable}.pacs: this is no PEM text; ")

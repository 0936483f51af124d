"""Fixtures: the site under test, its host, a client and the disposable patient."""

from __future__ import annotations

import functools
import getpass
import json
import pathlib
import socket
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import testinfra  # type: ignore[import-untyped]

from verification.client import Client
from verification.expect import Unexpected, expect
from verification.patient import CT, PATIENT_ID, PATIENT_NAME
from verification.site import Site

# What testinfra's own SSH connection does not do, or does with a password on a command line.
NEEDS_ANSIBLE = ("_pass", "_password", "_become_method", "_become_exe", "_become_flags")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sites", type=pathlib.Path, help="folder with one JSON description per host")


@functools.cache
def _sites(folder: pathlib.Path | None) -> list[Site]:
    return [Site.read(path) for path in sorted(folder.glob("*.json"))] if folder else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "site" in metafunc.fixturenames:
        sites = _sites(metafunc.config.getoption("--sites"))
        metafunc.parametrize("site", sites, ids=[site.name for site in sites], scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a finding by its message alone: no reader of a playbook's output needs the code around it."""
    report = yield
    if call.excinfo and isinstance(call.excinfo.value, Unexpected):
        report.longrepr = str(call.excinfo.value)
    elif call.excinfo and isinstance(call.excinfo.value, OSError):
        report.longrepr = call.excinfo.exconly()
    return report


@pytest.fixture(scope="session")
def host(site: Site, pytestconfig: pytest.Config) -> Any:
    """The host of Orthanc."""
    return _reach(site.name, site.connection, pytestconfig.getoption("--sites"))


@pytest.fixture(scope="session")
def proxy_host(proxied: Site, host: Any, pytestconfig: pytest.Config) -> Any:
    """The host of its proxy, which may be the same."""
    if proxied.proxy == proxied.name:
        return host
    return _reach(proxied.proxy, proxied.proxy_connection, pytestconfig.getoption("--sites"))


def _reach(name: str, described: dict[str, Any], private: pathlib.Path) -> Any:
    """Reach a host over the connection that the inventory describes, as root."""
    connection = dict(described)
    local = connection.get("ansible_connection") == "local"
    user = getpass.getuser() if local else connection.get("ansible_user")
    connection["ansible_become"] = user != "root"
    # Inside the private folder, which the role removes.
    folder = private / name
    folder.mkdir(0o700, exist_ok=True)
    if connection.get("ansible_connection", "ssh") in ("ssh", "smart"):
        # One connection for all commands.
        shared = f"-o ControlMaster=auto -o ControlPersist=10s -o ControlPath={folder}/ssh"
        connection["ansible_ssh_common_args"] = f"{connection.get('ansible_ssh_common_args', '')} {shared}".strip()
    inventory = folder / "hosts.json"
    inventory.touch(0o600)
    inventory.write_text(json.dumps({"all": {"hosts": {name: connection}}}), "utf-8")
    return testinfra.get_host(
        f"ansible://{name}",
        ansible_inventory=str(inventory),
        force_ansible=any(name.endswith(NEEDS_ANSIBLE) for name in connection),
    )


@pytest.fixture(scope="session")
def proxied(site: Site) -> Site:
    """The site, where a proxy stands in front of Orthanc."""
    if not site.proxied:
        pytest.skip(f"{site.name} has no proxy: no host of the group nginx stands in front of it")
    return site


@pytest.fixture(scope="session")
def public(proxied: Site) -> Site:
    """The same, where its port can be reached from here: else each test would wait for an answer."""
    socket.create_connection((proxied.host, proxied.port), timeout=10).close()
    return proxied


@pytest.fixture(scope="session")
def client(public: Site) -> Client:
    """The first user of the site, through the proxy."""
    return Client(public.url, public.trust(), public.login)


@pytest.fixture(scope="session")
def anonymous(public: Site) -> Client:
    """Somebody without a login."""
    return Client(public.url, public.trust())


@pytest.fixture(scope="session")
def patient(client: Client) -> Iterator[Client]:
    """The client with a disposable patient who has one CT image, removed at the end whatever happens.

    Leftovers of a run that was killed go first.
    """
    _remove(client)
    try:
        expect("upload of a CT image", 200, client.post("/instances", data=CT.content).status_code)
        yield client
    finally:
        _remove(client)
        expect("the disposable patient in the end", 404, client.get(f"/patients/{CT.patient}").status_code)


def _remove(client: Client) -> None:
    """Remove the disposable patient, if it is there and bears our mark."""
    answer = client.get(f"/patients/{CT.patient}")
    if answer.status_code == 404:
        return
    expect("GET of the disposable patient", 200, answer.status_code, "orthanc_users")
    name = answer.json()["MainDicomTags"].get("PatientName")
    # If it is somebody else's, the name is not for a report.
    expect(f"patient {PATIENT_ID}, whose ID this suite needs, is {PATIENT_NAME}", True, name == PATIENT_NAME)
    client.own.add(CT.patient)
    expect("DELETE of the disposable patient", 200, client.delete(f"/patients/{CT.patient}").status_code)

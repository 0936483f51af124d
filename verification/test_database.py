"""The database of Orthanc: it has the index, and its login can do nothing else."""

from __future__ import annotations

import json
import pathlib
import shlex
import socket
from typing import Any

import pytest

from verification.client import Client
from verification.expect import expect
from verification.patient import CT
from verification.site import Site

ON_DATABASE = (pathlib.Path(__file__).parent / "on_database.py").read_text("utf-8")
PORTS = {"postgresql": 5432, "mysql": 3306}


@pytest.fixture(scope="session")
def database(site: Site, host: Any, patient: Client) -> dict[str, Any]:
    """What the database says while the disposable patient is in it."""
    del patient
    if site.database == "sqlite":
        pytest.skip("orthanc_database is sqlite: there is no server to ask")
    arguments = " ".join(map(shlex.quote, (site.config_dir, site.database, CT.dataset.StudyInstanceUID)))
    found: dict[str, Any] = json.loads(host.check_output(f"python3 -c {shlex.quote(ON_DATABASE)} {arguments}"))
    return found


def test_study_is_in_the_database(database: dict[str, Any]) -> None:
    expect("rows of the uploaded study", 1, database["rows"], "orthanc_database")


def test_login_has_no_power_over_the_server(database: dict[str, Any]) -> None:
    expect("rights beyond its own database", 0, database["powers"], "orthanc_database_user")


def test_login_stays_out_of_other_databases(database: dict[str, Any]) -> None:
    expect("refusal at the server's own database", True, bool(database["elsewhere"]), "orthanc_database_user")


def test_wrong_password_is_refused(database: dict[str, Any]) -> None:
    expect("refusal of a wrong password", True, bool(database["wrong password"]), "orthanc_database_password")


def test_settings_are_in_force(database: dict[str, Any]) -> None:
    expect("settings that wait for a restart", [], database["pending"])


def test_plain_connection_from_another_host_is_refused(site: Site, database: dict[str, Any]) -> None:
    if site.database_beside:
        pytest.skip("the database is on the same host: nothing travels")
    expect("refusal of a connection without TLS", True, bool(database["plain"]), "orthanc_database_tls")


def test_database_is_closed_to_this_machine(site: Site, database: dict[str, Any]) -> None:
    del database
    if site.connection.get("ansible_connection") == "local":
        pytest.skip("this machine is the host itself")
    if not site.database_beside:
        pytest.skip("the server listens for other hosts; whom it lets in, its own rules say")
    with socket.socket() as connection:
        connection.settimeout(5)
        code = connection.connect_ex((site.address, PORTS[site.database]))
    expect("a connection to the database from here", True, code != 0)

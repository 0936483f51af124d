"""The database of Orthanc: it has the index, and its login can do nothing else."""

from __future__ import annotations

import json
import pathlib
import shlex
import socket
from typing import Any

import psycopg2  # type: ignore[import-untyped]
import pytest

from verification.client import Client
from verification.expect import expect
from verification.patient import CT
from verification.reach import Host
from verification.site import Site

ON_DATABASE = (pathlib.Path(__file__).parent / "on_database.py").read_text("utf-8")


@pytest.fixture(scope="session")
def database(site: Site, host: Host, patient: Client) -> dict[str, Any]:
    """What the database says while the disposable patient is in it."""
    del patient
    if site.database == "sqlite":
        pytest.skip("orthanc_database is sqlite: there is no server to ask")
    arguments = " ".join(map(shlex.quote, (site.config_dir, site.database, CT.dataset.StudyInstanceUID)))
    found: dict[str, Any] = json.loads(host.check_output(f"/usr/bin/python3 -c {shlex.quote(ON_DATABASE)} {arguments}"))
    return found


@pytest.fixture
def ours(site: Site, database: dict[str, Any]) -> dict[str, Any]:
    """The same, of a server of the inventory."""
    if not site.database_server:
        pytest.skip("the server is run by others, who set its rules")
    return database


def test_study_is_in_the_database(site: Site, database: dict[str, Any]) -> None:
    if not site.database_index:
        pytest.skip("orthanc_database_index is false: the index is in SQLite")
    expect("rows of the uploaded study", 1, database["rows"], "orthanc_database")


def test_files_are_in_the_database(site: Site, database: dict[str, Any]) -> None:
    if not site.database_storage:
        pytest.skip("orthanc_database_storage is false: the files are in a folder")
    expect("files in the database", True, database["files"], "orthanc_database_storage")


def test_login_has_no_power_over_the_server(database: dict[str, Any]) -> None:
    expect("rights beyond its own database", 0, database["powers"], "orthanc_database_user")


def test_login_stays_out_of_other_databases(ours: dict[str, Any]) -> None:
    expect("refusal at the server's own database", True, bool(ours["elsewhere"]), "orthanc_database_user")


def test_wrong_password_is_refused(database: dict[str, Any]) -> None:
    expect("refusal of a wrong password", True, bool(database["wrong password"]), "orthanc_database_password")


def test_settings_are_in_force(site: Site, ours: dict[str, Any]) -> None:
    if site.database_of_others:
        pytest.skip("others use the server too, and restart it when they want")
    expect("settings that wait for a restart", [], ours["pending"])


def test_connection_to_another_host_is_encrypted(site: Site, database: dict[str, Any]) -> None:
    if site.database_beside:
        pytest.skip("the database is on the same host: nothing travels")
    if not site.database_encrypted:
        pytest.skip("orthanc_database_tls is false")
    expect("an encrypted connection", True, database["encrypted"], "orthanc_database_tls")


def test_plain_connection_from_another_host_is_refused(site: Site, ours: dict[str, Any]) -> None:
    if site.database_beside:
        pytest.skip("the database is on the same host: nothing travels")
    expect("refusal of a connection without TLS", True, bool(ours["plain"]), "orthanc_database_tls")


def test_database_is_closed_to_this_machine(site: Site, ours: dict[str, Any]) -> None:
    if site.connection.get("ansible_connection") == "local":
        pytest.skip("this machine is the host itself")
    if site.database_of_others:
        pytest.skip("others use the server too, and let in whom they want")
    server = ours["server"]
    if site.database_beside:
        server = server | {"host": site.address}
    outcome = refusal(site.database, server)
    # Beside its Orthanc it need not listen, and may for others.
    expect(
        f"what the database says to this machine: {outcome}",
        True,
        outcome in ("this machine is not listed", "no connection"),
    )


def refusal(engine: str, server: dict[str, Any]) -> str:
    """Knock at a database server from here, without a password, and tell how it refuses."""
    try:
        with socket.create_connection((server["host"], int(server["port"])), timeout=5) as connection:
            if engine == "mysql":
                # It greets whoever is listed, and sends others an error, which 255 marks.
                return (
                    "this machine is not listed" if connection.recv(5)[4:] == b"\xff" else "a question for the password"
                )
    except OSError:
        return "no connection"
    try:
        psycopg2.connect(**server, password="none", sslmode="require", connect_timeout=5).close()
    except psycopg2.Error as error:
        return "this machine is not listed" if "pg_hba.conf" in str(error) else "a question for the password"
    return "a connection"

"""A site on PostgreSQL in use: the database goes away, is asked for wrongly, or is about to be left."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import time
from collections.abc import Mapping
from typing import Any

import pydicom
import pytest
import requests
from pydicom.data import get_testdata_file
from pydicom.uid import UID

from tests.hosts.conftest import ROOT, Lab

LAB = {"name": "database", "pacs": "trixie-installed"}
SINGLE = ROOT / "inventories" / "single"


class Site:
    """The site of the inventory ``single``, and images to upload."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def deploy(self, variables: Mapping[str, Any] | None = None, check: bool = True) -> str:
        return self.lab.play(variables=variables, inventory=SINGLE, check=check).stdout


def image(number: int) -> bytes:
    """Make an image of a patient of its own out of one that comes with pydicom."""
    file = get_testdata_file("MR_small.dcm", download=False)
    assert isinstance(file, str)
    dataset = pydicom.dcmread(file)
    dataset.PatientID = f"RESTART-{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"2.25.1{number:03}", f"2.25.2{number:03}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.3{number:03}")
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    made = Site(lab)
    made.deploy()
    return made


def test_restart_of_the_database_is_survived(site: Site) -> None:
    """What was acknowledged is there, whatever happens in between, and later uploads succeed."""
    acknowledged: list[str] = []

    def upload(number: int) -> None:
        with site.lab.session() as session:
            try:
                answer = session.post(site.lab.url("/instances"), data=image(number), timeout=120)
            except requests.ConnectionError:
                return
            if answer.status_code == 200:
                acknowledged.append(answer.json()["ID"])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(upload, number) for number in range(80)]
        time.sleep(0.5)
        site.lab.shell("systemctl restart postgresql")
        for task in tasks:
            task.result()
    upload(900)
    assert len(acknowledged) > 40, "hardly any upload went through"
    with site.lab.session() as session:
        deadline = time.monotonic() + 60
        while session.get(site.lab.url("/changes?last"), timeout=30).status_code != 200:
            assert time.monotonic() < deadline, "Orthanc does not come back after the database has"
            time.sleep(1)
        upload(901)
        stored = set(session.get(site.lab.url("/instances"), timeout=30).json())
        lost = set(acknowledged) - stored
        assert not lost, f"{len(lost)} images that were acknowledged are gone"
        for instance in acknowledged:
            assert session.get(site.lab.url(f"/instances/{instance}/file"), timeout=30).status_code == 200
    assert acknowledged[-1] in stored, "an upload after the restart was not accepted"


def test_killed_servers_come_back(site: Site) -> None:
    """systemd said active of all of them, while PostgreSQL or nginx stayed dead."""
    site.lab.kill("postgresql@*-main.service", "runuser -u postgres -- psql -Atqc 'SELECT 1'")
    site.lab.kill("nginx", "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 443))'")
    with site.lab.session() as session:
        deadline = time.monotonic() + 120
        answer = 0
        while answer != 200:
            assert time.monotonic() < deadline, f"Orthanc does not come back after the database has: {answer}"
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                answer = session.get(site.lab.url("/changes?last"), timeout=30).status_code
            time.sleep(0.2)


def test_upgrade_of_the_server_leaves_it_running(site: Site) -> None:
    """Also on a host that had `postgresql.service` disabled, as this one had."""
    site.lab.shell(
        "DEBIAN_FRONTEND=noninteractive apt-get install -y -q --reinstall $(dpkg-query -W -f"
        " '${db:Status-Status} ${Package}\\n' 'postgresql-1*' | sed -n 's/^installed //p')"
    )
    site.lab.shell("runuser -u postgres -- psql -Atqc 'SELECT 1'")


def test_settings_that_the_server_does_not_start_with_go_back(site: Site) -> None:
    state = "cd /etc && find pacs postgresql -type f | sort | xargs sha256sum"
    before = site.lab.shell(state)
    wrong = {"postgresql_settings": {"shared_preload_libraries": "missing"}}
    printed = " ".join(site.lab.play("postgresql", wrong, inventory=SINGLE, check=False).stdout.split())
    assert "The configuration that worked last is back, and " in printed, printed
    assert 'could not access file "missing"' in printed
    assert site.lab.shell(state) == before
    site.lab.shell("runuser -u postgres -- psql -Atqc 'SELECT 1'")


def test_server_that_others_use_too_is_not_taken_over(site: Site) -> None:
    state = "cd /etc && find pacs postgresql -type f | sort | xargs sha256sum; cat /run/postgresql/*.pid"
    site.lab.shell("runuser -u postgres -- psql -c 'CREATE ROLE wiki LOGIN' -c 'CREATE DATABASE wiki OWNER wiki'")
    before = site.lab.shell(state)
    try:
        printed = " ".join(site.lab.play("postgresql", inventory=SINGLE, check=False).stdout.split())
        assert "postgresql_shared: others use this server (databases wiki; logins wiki)" in printed, printed
        assert site.lab.shell(state) == before
    finally:
        site.lab.shell("runuser -u postgres -- psql -c 'DROP DATABASE wiki' -c 'DROP ROLE wiki'")


def test_tables_in_the_database_that_everybody_has_are_of_others(site: Site) -> None:
    site.lab.shell("runuser -u postgres -- psql -c 'CREATE TABLE wiki (page int)'")
    try:
        printed = " ".join(site.lab.play("postgresql", inventory=SINGLE, check=False).stdout.split())
        assert "others use this server (tables in the database postgres, wiki)" in printed, printed
    finally:
        site.lab.shell("runuser -u postgres -- psql -c 'DROP TABLE wiki'")


def test_server_that_others_reach_is_not_narrowed(site: Site) -> None:
    site.lab.shell("cd /etc/postgresql/*/main/conf.d && echo \"listen_addresses = '*'\" > zz-wide.conf")
    site.lab.shell("systemctl restart postgresql; runuser -u postgres -- psql -c 'CREATE ROLE monitor LOGIN'")
    try:
        printed = " ".join(site.lab.play("postgresql", inventory=SINGLE, check=False).stdout.split())
        assert "the server listens on * and others log in to it (monitor)" in printed, printed
    finally:
        site.lab.shell("runuser -u postgres -- psql -c 'DROP ROLE monitor'")
        site.lab.shell("rm /etc/postgresql/*/main/conf.d/zz-wide.conf; systemctl restart postgresql")


def test_login_for_monitoring_stops_nothing(site: Site) -> None:
    site.lab.shell("runuser -u postgres -- psql -c 'CREATE ROLE monitor LOGIN' -c 'GRANT pg_monitor TO monitor'")
    try:
        printed = " ".join(site.lab.play("postgresql", inventory=SINGLE).stdout.split())
        assert "without a database of their own: monitor. They stay." in printed, printed
    finally:
        site.lab.shell("runuser -u postgres -- psql -c 'DROP ROLE monitor'")


def test_login_is_set_as_our_rule_asks_for(site: Site) -> None:
    """The rule says scram-sha-256, and the server has another default."""
    site.lab.shell("runuser -u postgres -- psql -c 'ALTER DATABASE postgres SET password_encryption = md5'")
    site.lab.shell("runuser -u postgres -- psql -c \"ALTER ROLE orthanc PASSWORD 'of-before'\"")
    try:
        printed = site.lab.play("postgresql", {"postgresql_shared": True}, inventory=SINGLE).stdout
        stored = "runuser -u postgres -- psql -XAtqc \"select rolpassword from pg_authid where rolname = 'orthanc'\""
        assert site.lab.shell(stored).startswith("SCRAM-SHA-256$"), printed
        again = site.lab.play("postgresql", {"postgresql_shared": True}, inventory=SINGLE).stdout
        assert "changed=0" in again, again
    finally:
        site.lab.shell("runuser -u postgres -- psql -c 'ALTER DATABASE postgres RESET password_encryption'")


def test_orthanc_with_its_former_address(site: Site) -> None:
    """Nobody is cut off, and the message has the way out."""
    rule = 'hostssl "orthanc" "orthanc" 192.0.2.9/32 scram-sha-256'
    hba = "/etc/postgresql/*/main/pg_hba.conf"
    site.lab.shell(f"sed -i '/^host \"orthanc\"/a {rule}' {hba}")
    printed = " ".join(site.lab.play("postgresql", inventory=SINGLE, check=False).stdout.split())
    assert "where it is this Orthanc with its former address or user, take that line out" in printed, printed
    site.lab.shell(f"sed -i /192.0.2.9/d {hba}")
    site.lab.play("postgresql", inventory=SINGLE)


def test_switch_to_another_database_is_refused_while_there_are_images(site: Site) -> None:
    before = site.lab.shell("cat /etc/pacs/orthanc/*.json | sha256sum")
    printed = " ".join(site.deploy({"orthanc_database": "sqlite"}, check=False).split())
    assert "images in postgresql, and with sqlite it would start with none" in printed
    assert "orthanc_database_leave_images_behind" in printed
    assert site.lab.shell("cat /etc/pacs/orthanc/*.json | sha256sum") == before
    with site.lab.session() as session:
        assert session.get(site.lab.url("/system"), timeout=30).json()["DatabaseBackendPlugin"]


def test_orthanc_without_its_database_gives_way(site: Site) -> None:
    """One that answers, with an empty archive in a file of its own, since the plugin was told to leave the index."""
    alone = {"orthanc_settings_unchecked": {"PostgreSQL": {"EnableIndex": False}}}
    with site.lab.session() as session:
        images = session.get(site.lab.url("/instances"), timeout=30).json()
        assert images
        printed = " ".join(site.deploy(alone, check=False).split())
        assert "orthanc_database asks for postgresql, but DatabaseBackendPlugin is the built-in one." in printed
        assert "The configuration that worked last is back, and Orthanc serves with it." in printed
        assert session.get(site.lab.url("/instances"), timeout=30).json() == images
    # What that Orthanc made of nothing, and nobody reads.
    site.lab.shell("rm /var/lib/orthanc/db-v6/index*")


@pytest.mark.parametrize(
    "variables, words",
    [
        ({"postgresql_settings": {"shared_buffers": "4TB"}}, ["postgresql_settings", "shared_buffers"]),
        ({"postgresql_settings": {"max_connections": 3}}, ["max_connections"]),
        ({"orthanc_database_name": "o'rthanc"}, ["orthanc_database_name"]),
        ({"orthanc_database_password": ""}, ["orthanc_database_password", "make secrets"]),
        ({"orthanc_database_connections": 1000}, ["orthanc_database_connections", "1 to 100"]),
    ],
)
def test_wrong_value_changes_nothing(site: Site, variables: dict[str, Any], words: list[str]) -> None:
    state = (
        "cd /etc && find pacs postgresql -type f | sort | xargs sha256sum;"
        " systemctl show postgresql orthanc --property InvocationID"
    )
    before = site.lab.shell(state)
    printed = " ".join(site.deploy(variables, check=False).split())
    assert "failed=1" in printed
    assert not [word for word in words if word not in printed]
    assert site.lab.shell(state) == before


def test_wrong_address_is_told_in_plain_words(site: Site) -> None:
    printed = site.deploy({"orthanc_database_port": 5999, "orthanc_ready_timeout": 10}, check=False)
    assert "The database does not answer: see orthanc_database_host" in " ".join(printed.split())
    site.deploy()


def test_wrong_password_is_told_in_plain_words(site: Site) -> None:
    # Changed on the server behind our back, and put right by the next whole run.
    site.lab.shell("runuser -u postgres -- psql -c \"ALTER ROLE orthanc PASSWORD 'something else'\"")
    done = site.lab.play("orthanc", {"orthanc_ready_timeout": 10, "orthanc_name": "new"}, inventory=SINGLE, check=False)
    assert "The database refuses the login" in " ".join(done.stdout.split())
    site.deploy()
    with site.lab.session() as session:
        assert session.get(site.lab.url("/statistics"), timeout=30).json()["CountInstances"] > 40


def test_new_password_goes_back_with_a_bad_setting(site: Site) -> None:
    """On the server too: by what it had stored, since nobody knows the old one there."""
    stored = "runuser -u postgres -- psql -Atc \"SELECT rolpassword FROM pg_authid WHERE rolname = 'orthanc'\""
    before, password = site.lab.shell(stored), site.lab.secrets["vault_orthanc_database_password"]
    bad = {"orthanc_settings_unchecked": {"DefaultEncoding": "Klingon"}}
    said = " ".join(site.deploy({"orthanc_database_password": "a new one"} | bad, check=False).split())
    assert "The configuration that worked last is back, and Orthanc serves with it." in said
    assert "The database takes the password of before again." in said
    assert site.lab.shell(stored) == before
    # By the letters at its end, which look the same in every encoding.
    assert password[-10:] not in site.lab.shell("cat /var/lib/pacs/postgresql/*", check=False)
    wait_for_the_index(site)
    # What was a good one stays, and nothing is kept of the other.
    site.deploy({"orthanc_database_password": "a new one"})
    assert site.lab.shell(stored) != before
    assert "logins.json" not in site.lab.shell("ls -a /var/lib/pacs/postgresql")
    wait_for_the_index(site)
    site.deploy()


def wait_for_the_index(site: Site) -> None:
    """Restart Orthanc, which has to get into its database."""
    site.lab.shell("systemctl restart orthanc")
    with site.lab.session() as session:
        deadline = time.monotonic() + 60
        while session.get(site.lab.url("/changes?last"), timeout=30).status_code != 200:
            assert time.monotonic() < deadline, "Orthanc does not get into its database"
            time.sleep(1)


def test_lost_plugin_opens_no_empty_archive(site: Site) -> None:
    library = "/usr/share/orthanc/plugins/libOrthancPostgreSQLIndex.so"
    site.lab.shell(f"mv {library} {library}.lost")
    done = site.lab.play("orthanc", {"orthanc_ready_timeout": 10, "orthanc_name": "new"}, inventory=SINGLE, check=False)
    assert done.returncode
    assert "libOrthancPostgreSQLIndex.so" in done.stdout
    assert "not found" in site.lab.shell("ls /var/lib/orthanc/db-v6/index || echo not found"), "no index of SQLite"
    site.lab.shell(f"mv {library}.lost {library}")
    site.deploy()
    with site.lab.session() as session:
        assert session.get(site.lab.url("/statistics"), timeout=30).json()["CountInstances"] > 40

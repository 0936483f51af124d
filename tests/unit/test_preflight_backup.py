"""What the role backup asks of an inventory."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils import preflight
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import backup, general

from tests.unit.good_host import PROBE, host, pair

GOOD: dict[str, Any] = {"backup_repository": "/srv/backup/pacs", "backup_password": "sixteen letters!"}
SFTP: dict[str, Any] = {
    "backup_repository": "sftp:backup@nas.example.org:/srv/pacs",
    "backup_sftp_private_key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "backup_sftp_known_hosts": "nas.example.org ssh-ed25519 AAAA",
}
S3: dict[str, Any] = {
    "backup_repository": "s3:https://s3.example.org/pacs",
    "backup_s3_key": "key",
    "backup_s3_secret": "secret",
}


def found(changes: dict[str, Any], roles: tuple[str, ...] = ("orthanc", "backup")) -> Any:
    made = host(roles, GOOD | changes, PROBE)
    made.name = "pacs"
    made.constants = {**made.constants, "backup": {}}
    made.internal = lambda _role, name: changes.get(name, "")
    return made


def problems(changes: dict[str, Any]) -> list[str]:
    return list(general.problems(found(changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        SFTP,
        SFTP | {"backup_repository": "sftp://backup@[fd00::1]:2222//srv/pacs"},
        SFTP | {"backup_repository": "rclone:backup@nas.example.org:/srv/pacs"},
        SFTP | {"backup_repository": "rclone://backup@nas.example.org:2222//srv/pacs"},
        S3,
        S3 | {"backup_s3_region": "eu-central-1", "backup_s3_proxy": "http://proxy.example.org:3128"},
        S3 | {"backup_repository": "s3:http://192.0.2.7:9000/pacs/main", "backup_ca": pair(("s3.example.org",))[0]},
        {"backup_calendar": "Mon..Fri *-*-* 22:30 Europe/Berlin"},
        {"backup_calendar": "daily"},
        {"backup_keep": {"last": 3}},
        {"backup_keep": {}},
        {"backup_drill_folder": "/srv/drill"},
    ],
)
def test_good_ones(changes: dict[str, Any]) -> None:
    assert problems(changes) == []


@pytest.mark.parametrize(
    "changes, variable, part",
    [
        ({"backup_repository": ""}, "backup_repository", "Say where the backups of pacs go"),
        ({"backup_repository": "srv/backup"}, "backup_repository", "is no absolute path"),
        ({"backup_repository": "rest:https://x/"}, "backup_repository", "are not served yet"),
        ({"backup_repository": "/srv/../etc"}, "backup_repository", "in normal form"),
        ({"backup_repository": "/srv/a b"}, "backup_repository", "white space"),
        ({"backup_repository": "/srv"}, "backup_repository", "of the system"),
        ({"backup_repository": "/home/backup"}, "backup_repository", "of the system"),
        ({"backup_repository": "/var/lib/orthanc/db-v6/backup"}, "backup_repository", "lie in one another"),
        ({"backup_repository": "/var/lib/orthanc"}, "backup_repository", "(orthanc_storage_dir) lie in one another"),
        ({"backup_repository": "/etc/pacs/backup"}, "backup_repository", "lie in one another"),
        (SFTP | {"backup_repository": "sftp:nas:/x"}, "backup_repository", "is not like sftp:USER@HOST:/FOLDER"),
        (SFTP | {"backup_repository": "sftp:-o@nas:/x"}, "backup_repository", "is not like sftp:"),
        (SFTP | {"backup_sftp_private_key": ""}, "backup_sftp_private_key", "logs in there"),
        (SFTP | {"backup_sftp_known_hosts": " "}, "backup_sftp_known_hosts", "knows that server"),
        (S3 | {"backup_repository": "s3:s3.example.org/x"}, "backup_repository", "is not like s3:https://"),
        (S3 | {"backup_repository": "s3:https://a:b@s3.example.org/x"}, "backup_repository", "is not like s3:"),
        (SFTP | {"backup_repository": "rclone:nas:/x"}, "backup_repository", "is not like rclone:USER@HOST:/FOLDER"),
        (S3 | {"backup_s3_region": "Frankfurt am Main"}, "backup_s3_region", "is no region, such as eu-central-1"),
        (S3 | {"backup_s3_proxy": "proxy:3128"}, "backup_s3_proxy", "is not like http://proxy.example.org:3128"),
        (S3 | {"backup_s3_proxy": "http://a:b@proxy"}, "backup_s3_proxy", "without a login"),
        (S3 | {"backup_s3_secret": ""}, "backup_s3_secret", "lets nobody in"),
        ({"backup_password": ""}, "backup_password", "it is empty"),
        ({"backup_password": "fifteen letters"}, "backup_password", "shorter than 16"),
        ({"backup_calendar": ""}, "backup_calendar", "OnCalendar"),
        ({"backup_calendar": "daily; rm"}, "backup_calendar", "OnCalendar"),
        ({"backup_drill_folder": "srv/drill"}, "backup_drill_folder", "in normal form"),
        ({"backup_drill_folder": "/usr"}, "backup_drill_folder", "of the system"),
        ({"backup_drill_folder": "/var/lib/orthanc/db-v6/drill"}, "backup_drill_folder", "lie in one another"),
        ({"backup_keep": {"dayly": 3}}, "backup_keep", "'dayly' is none of restic's names"),
        ({"backup_keep": {"daily": 0}}, "backup_keep.daily", "'0' is no number of backups"),
        ({"backup_keep": {"daily": "14"}}, "backup_keep.daily", "'14' is no number of backups"),
        ({"backup_keep": {"daily": True}}, "backup_keep.daily", "is no number of backups"),
        ({"backup_upload_mib": -1}, "backup_upload_mib", "choose a number from 0 to 10000"),
        ({"backup_pause_seconds": 0}, "backup_pause_seconds", "choose a number from 1 to 120"),
        ({"backup_ca": "/etc/ssl/ca.crt"}, "backup_ca", "give its text, not its path"),
        ({"__orthanc_storage_library": "libOrthancAwsS3Storage"}, "orthanc_plugins", "are not backed up yet"),
    ],
)
def test_wrong_ones(changes: dict[str, Any], variable: str, part: str) -> None:
    (problem,) = problems(changes)
    assert problem.startswith(f"{variable}: ")
    assert part in problem


BESIDE: dict[str, Any] = {
    "site_database_beside": True,
    "site_database_server": "pacs",
    "site_database_of_others": False,
    "site_database_clients": [{"name": "orthanc"}],
}


def with_postgresql(changes: dict[str, Any], site: dict[str, Any]) -> list[str]:
    """Return what the role backup has against a host with PostgreSQL."""
    given = {"orthanc_database": "postgresql", "orthanc_database_password": "long enough", "postgresql_settings": {}}
    made = found(given | changes)
    made.site = (BESIDE | site).get
    made.probe = PROBE | {name: changes[name] for name in ("release",) if name in changes}
    return list(backup.problems(made))


def test_postgresql_beside_its_only_orthanc() -> None:
    assert with_postgresql({}, {}) == []
    assert with_postgresql(S3, {}) == []
    assert with_postgresql(SFTP, {}) == []
    assert with_postgresql({"postgresql_settings": {"max_wal_size": "8GB"}}, {}) == []


@pytest.mark.parametrize(
    "changes, site, start, part",
    [
        ({}, {"site_database_beside": False, "site_database_server": "db"}, "orthanc_database", "on db, which is not"),
        ({}, {"site_database_beside": False, "site_database_server": ""}, "orthanc_database", "on a host of others"),
        ({}, {"site_database_of_others": True}, "postgresql_shared", "taken back with a restore"),
        (
            {},
            {"site_database_clients": [{"name": "orthanc"}, {"name": "research"}]},
            "orthanc_database",
            "several Orthancs (orthanc, research)",
        ),
        ({"orthanc_database_index": False}, {}, "orthanc_database_index", "its index is in SQLite"),
        ({"postgresql_settings": {"wal_level": "minimal"}}, {}, "postgresql_settings", "wal_level is what"),
        ({"postgresql_settings": {"archive_command": "true"}}, {}, "postgresql_settings", "archive_command is what"),
        ({"backup_keep": {}}, {}, "backup_keep", "of which this host alone forgets what is old"),
        (
            SFTP | {"backup_repository": "rclone:backup@nas.example.org:/srv/pacs"},
            {},
            "backup_repository",
            "does not go to rclone",
        ),
        (SFTP | {"release": "12"}, {}, "backup_repository", "pgBackRest of Debian 12 does not know SFTP"),
        (S3 | {"backup_repository": "s3:http://192.0.2.7/pacs"}, {}, "backup_repository", "by https alone"),
        (S3 | {"backup_s3_proxy": "http://proxy:3128"}, {}, "backup_s3_proxy", "without a proxy"),
        ({"backup_database_full_days": 0}, {}, "backup_database_full_days", "choose a number from 1 to 366"),
    ],
)
def test_postgresql_that_is_not_backed_up_yet(
    changes: dict[str, Any], site: dict[str, Any], start: str, part: str
) -> None:
    found_problems = with_postgresql(changes, site) or problems(changes)
    (problem,) = found_problems
    assert problem.startswith(f"{start}: ")
    assert part in problem


MEMBERS: dict[str, Any] = {
    "site_database_beside": False,
    "site_archive_members": {"pacs": True, "pacs2": True, "pacs3": False},
    "site_archive_unlike": [],
    "site_database_servers": {"pacs": "192.0.2.1", "pacs2": "192.0.2.2", "pacs3": "192.0.2.3"},
    "site_database_clients": [{"name": "orthanc"}, {"name": "orthanc"}],
}


def in_cluster(
    changes: dict[str, Any], site: dict[str, Any], group: tuple[str, ...] = ("pacs", "pacs2", "pacs3")
) -> list[str]:
    """Return what the role backup has against a host whose database is on several servers."""
    given = S3 | {"orthanc_database": "postgresql", "orthanc_database_storage": True, "postgresql_settings": {}}
    made = found(given | changes)
    made.site, made.groups = (MEMBERS | site).get, {"backup": list(group)}
    made.probe = PROBE | {name: changes[name] for name in ("release",) if name in changes}
    return list(backup.problems(made))


def test_cluster_whose_hosts_are_all_there() -> None:
    assert in_cluster({}, {}) == []
    assert in_cluster({"release": "12"}, {}) == []
    assert in_cluster(SFTP, {}) == []
    # One that has a server alone.
    made = found(S3, ("postgresql", "backup"))
    made.site, made.groups = MEMBERS.get, {"backup": ["pacs", "pacs2", "pacs3"]}
    assert [*backup.inventory(made), *backup.problems(made)] == []


@pytest.mark.parametrize(
    "changes, site, start, part",
    [
        ({}, {"group": ("pacs", "pacs2")}, "the group 'backup'", "not pacs3"),
        (
            {},
            {"site_archive_members": MEMBERS["site_archive_members"] | {"pacs4": True}},
            "orthanc_database",
            "pacs4 has an Orthanc, and no server",
        ),
        ({}, {"site_archive_unlike": ["backup_keep"]}, "backup_keep", "do not have it alike"),
        (GOOD, {}, "backup_repository", "is not there for the others"),
        ({"orthanc_database_storage": False}, {}, "orthanc_database_storage", "is not backed up yet"),
        ({}, {"site_database_clients": [{"name": "a"}, {"name": "b"}]}, "orthanc_database_name", "several archives"),
        ({}, {"site_database_clients": [{"name": "a" * 41}]}, "orthanc_database_name", "more than 40 characters"),
        ({"postgresql_settings": {"archive_command": "true"}}, {}, "postgresql_settings", "archive_command is what"),
        ({"backup_keep": {}}, {}, "backup_keep", "forgets what is old"),
        (SFTP | {"release": "12"}, {}, "backup_repository", "does not know SFTP"),
    ],
)
def test_cluster_that_is_not_backed_up(changes: dict[str, Any], site: dict[str, Any], start: str, part: str) -> None:
    (problem,) = in_cluster(changes, site, site.get("group", ("pacs", "pacs2", "pacs3", "pacs4")))
    assert problem.startswith(f"{start}")
    assert part in problem


def with_mariadb(changes: dict[str, Any], site: dict[str, Any]) -> list[str]:
    """Return what the role backup has against a host with MariaDB."""
    made = found({"orthanc_database": "mysql", "orthanc_database_password": "long enough"} | changes)
    made.site = (BESIDE | {"site_database_shared": False} | site).get
    return list(backup.problems(made))


def test_mariadb_beside_its_orthanc() -> None:
    assert with_mariadb({}, {}) == []
    # Its dump goes wherever the files do.
    assert with_mariadb(SFTP, {}) == []
    # Those of others stay as they are.
    assert with_mariadb({}, {"site_database_clients": [{"name": "orthanc"}, {"name": "research"}]}) == []


@pytest.mark.parametrize(
    "changes, site, start, part",
    [
        ({}, {"site_database_beside": False, "site_database_server": "db"}, "orthanc_database", "on db, which is not"),
        ({}, {"site_database_beside": False, "site_database_server": ""}, "orthanc_database", "on a host of others"),
        ({}, {"site_database_shared": True}, "orthanc_database_name", "several Orthancs have one index"),
        ({"orthanc_database_storage": True}, {}, "orthanc_database_storage", "its DICOM files are in MariaDB"),
        ({"orthanc_database_index": False}, {}, "orthanc_database_index", "its index is in SQLite"),
    ],
)
def test_mariadb_that_is_not_backed_up(changes: dict[str, Any], site: dict[str, Any], start: str, part: str) -> None:
    (problem,) = with_mariadb(changes, site)
    assert problem.startswith(f"{start}: ")
    assert part in problem


def test_repository_of_two_hosts() -> None:
    made = found(SFTP)
    made.site = lambda name: ["other"] if name == "site_backup_sharers" else None
    (problem,) = general.problems(made)
    assert problem.startswith("backup_repository: the backups of pacs and of other go to the same place")
    assert "sftp:backup@nas.example.org:/srv/pacs/{{ inventory_hostname }}" in problem


def test_host_without_an_orthanc() -> None:
    (problem,) = preflight.ask("backup", "inventory", found({}, roles=("backup",)), ())
    assert problem.startswith("the group 'backup' has pacs, which has no Orthanc")
    assert not list(preflight.ask("backup", "inventory", found({}), ()))


def test_backups_on_the_same_host_are_told() -> None:
    assert [one for one in general.notices(found({})) if "of the same host" in one]
    assert not [one for one in general.notices(found(SFTP)) if "of the same host" in one]

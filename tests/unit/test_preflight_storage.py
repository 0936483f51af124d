"""What the role orthanc asks of storage on a file system of others, and of several Orthancs with one index."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.storage import shared_folder

from tests.unit.good_host import DOCKER, POSTGRESQL, PROBE, host

MOUNTED: dict[str, Any] = {
    "orthanc_storage_mount": "/srv/dicom",
    "orthanc_storage_mark": "hospital",
    "orthanc_storage_dir": "/srv/dicom",
    "orthanc_index_dir": "/var/lib/orthanc/db-v6",
}
SEEN = {
    "kind": "nfs4",
    "source": "nas:/dicom",
    "options": ["hard", "rw"],
    "mark": "hospital 1234",
    "used": True,
    "owner": [105, 110],
    "root": True,
    "orthanc": True,
}
EMPTY = SEEN | {"mark": "", "used": False, "owner": [0, 0]}
ONE = {"identifier": "pacs", "locks": False, "housekeeper": False, "storage": "hospital:."}
OTHER = ONE | {"identifier": "pacs2"}
TWO = {"pacs": ONE, "pacs2": OTHER}
ROLES = ("orthanc", "docker_engine", "nginx", "verification")


def told(
    site: dict[str, Any] | None = None, probe: dict[str, Any] | None = None, more: tuple[str, ...] = (), **changes: Any
) -> list[str]:
    """Return what is wrong with a host whose storage is mounted."""
    found = PROBE | {"storage": SEEN, "account": ["105", "110", "", "", ""]} | (probe or {})
    made = host(ROLES + more, MOUNTED | changes, found)
    return list(general.problems(dataclasses.replace(made, site=(site or {}).get, name="pacs")))


def test_good_storage() -> None:
    assert told() == []
    assert told(**DOCKER, orthanc_version="1.12.7", probe={"packages": ["docker.io"]}) == []
    assert told(orthanc_storage_dir="/srv/dicom/images/a") == []
    assert told(orthanc_storage_mount="/srv/a-b.c_d", orthanc_storage_dir="/srv/a-b.c_d/e") == []
    assert told(probe={"storage": EMPTY}) == []
    assert told({"site_sharers": TWO}, **POSTGRESQL) == []
    assert told({"site_sharers": TWO, "site_database_clustered": True}, **POSTGRESQL) == []
    both = {"site_sharers": TWO, "ansible_play_hosts_all": ["pacs", "pacs2", "pacs3"]}
    assert told(both, {"storage": EMPTY}, **POSTGRESQL) == []


@pytest.mark.parametrize(
    "changes, variable, part",
    [
        ({"orthanc_storage_mount": "srv/dicom"}, "orthanc_storage_mount", "'srv/dicom' is no absolute path"),
        ({"orthanc_storage_mount": "/srv/my dicom"}, "orthanc_storage_mount", "is no absolute path"),
        ({"orthanc_storage_mount": "/srv/dicom/"}, "orthanc_storage_mount", "is no absolute path"),
        ({"orthanc_storage_mount": "/srv/../dicom"}, "orthanc_storage_mount", "is no absolute path"),
        ({"orthanc_storage_mount": "/srv/büro"}, "orthanc_storage_mount", "is no absolute path"),
        ({"orthanc_storage_mount": "/"}, "orthanc_storage_mount", "is no absolute path"),
        ({"orthanc_storage_mount": "/home"}, "orthanc_storage_mount", "is a folder of the system"),
        ({"orthanc_storage_mount": "/tmp/dicom"}, "orthanc_storage_mount", "is a folder of the system"),
        ({"orthanc_storage_dir": "/srv/dicom2"}, "orthanc_storage_dir", "is not on what is mounted at /srv/dicom"),
        ({"orthanc_storage_mark": ""}, "orthanc_storage_mark", "'' is no word"),
        ({"orthanc_storage_mark": "the hospital"}, "orthanc_storage_mark", "'the hospital' is no word"),
        ({"orthanc_storage_mark": "a" * 65}, "orthanc_storage_mark", "is no word of up to 64"),
        ({"orthanc_index_dir": ""}, "orthanc_index_dir", "is of one host alone"),
        ({"orthanc_index_dir": "/srv/dicom/index"}, "orthanc_index_dir", "is of one host alone"),
        (POSTGRESQL | {"orthanc_database_storage": True}, "orthanc_database_storage", "take one of both out"),
        ({"orthanc_storage_mount": ""}, "orthanc_storage_mark", "orthanc_storage_mount names none"),
    ],
)
def test_wrong_storage(changes: dict[str, Any], variable: str, part: str) -> None:
    said = told(**changes)
    assert [one for one in said if one.startswith(f"{variable}: ") and part in one], said


@pytest.mark.parametrize(
    "probe, variable, part",
    [
        ({"storage": {}}, "orthanc_storage_mount", "nothing is mounted at /srv/dicom on this host"),
        ({"storage": SEEN | {"mark": "clinic 1"}}, "orthanc_storage_mark", "another site"),
        ({"storage": SEEN | {"mark": ""}}, "orthanc_storage_mark", "`echo hospital > /srv/dicom/.pacs-storage`"),
        ({"storage": SEEN | {"owner": [7, 8]}}, "orthanc_storage_mount", "the numbers 7 and 8 of user and group"),
        ({"storage": SEEN | {"root": False, "orthanc": False}}, "orthanc_storage_mount", "lets neither root nor"),
        ({"storage": SEEN | {"options": ["rw", "soft"]}}, "orthanc_storage_mount", "with the option soft"),
        (
            {"storage": EMPTY, "database": "sqlite", "images": 7, "lost": ["/srv/dicom"]},
            "orthanc_storage_dir",
            "had the",
        ),
    ],
)
def test_storage_that_is_not_as_it_has_to_be(probe: dict[str, Any], variable: str, part: str) -> None:
    (problem,) = told(probe=probe)
    assert problem.startswith(f"{variable}: ")
    assert part in problem
    # Nobody asks for it then.
    assert told(probe={"storage": {}}, orthanc_storage_mount="", orthanc_storage_mark="") == []


def test_backup_takes_the_rights_of_root() -> None:
    squashed = {"storage": SEEN | {"root": False}}
    assert told(probe=squashed) == []
    said = [one for one in told(probe=squashed, more=("backup",)) if one.startswith("orthanc_storage_mount: ")]
    assert "nas:/dicom leaves root on this host no rights" in said[0]
    assert not [one for one in told(more=("backup",)) if one.startswith("orthanc_storage_mount: ")]


def test_empty_storage_is_begun_by_all_hosts_alone() -> None:
    site = {"site_sharers": TWO, "ansible_play_hosts_all": ["pacs", "pacs3"]}
    (problem,) = told(site, {"storage": EMPTY}, **POSTGRESQL)
    assert problem.startswith("orthanc_storage_mount: /srv/dicom of nas:/dicom is empty and without a mark, and pacs2 ")
    assert told(site, **POSTGRESQL) == [], "its mark is there"


ALONE = {"orthanc_storage_mount": "", "orthanc_storage_mark": "", "orthanc_index_dir": ""}


@pytest.mark.parametrize(
    "other, clustered, variable, part",
    [
        ({"storage": "clinic:."}, False, "orthanc_storage_mark", "pacs: hospital:.; pacs2: clinic:."),
        ({"storage": "hospital:images"}, False, "orthanc_storage_mark", "pacs2: hospital:images"),
        ({"storage": ""}, False, "orthanc_storage_mark", "pacs2: on its own disk"),
        ({"storage": "database"}, True, "orthanc_storage_mark", "pacs2: in the database"),
        (
            {"identifier": "pacs"},
            False,
            "orthanc_settings.DatabaseServerIdentifier",
            "'pacs' is the one of pacs2 as well",
        ),
    ],
)
def test_several_orthancs_that_do_not_fit(other: dict[str, Any], clustered: bool, variable: str, part: str) -> None:
    site = {"site_sharers": {"pacs": ONE, "pacs2": OTHER | other}, "site_database_clustered": clustered}
    (problem,) = told(site, **POSTGRESQL)
    assert problem.startswith(f"{variable}: ")
    assert part in problem


@pytest.mark.parametrize("storages, refused", [(("", ""), True), (("database",) * 2, False), (("", "database"), True)])
def test_several_orthancs_with_a_disk_each(storages: tuple[str, str], refused: bool) -> None:
    sharers = {name: one | {"storage": storage} for (name, one), storage in zip(TWO.items(), storages, strict=True)}
    changes = ALONE | POSTGRESQL | {"orthanc_storage_dir": "/data"}
    said = told({"site_sharers": sharers, "site_database_clustered": True}, **changes)
    assert [one for one in said if "none serves what another one has taken" in one] == said
    assert len(said) == refused


def test_what_one_of_several_does() -> None:
    keepers = {name: one | {"housekeeper": True} for name, one in TWO.items()}
    (problem,) = told({"site_sharers": keepers}, **POSTGRESQL, orthanc_plugins=["dicomweb", "housekeeper"])
    assert problem.startswith("orthanc_plugins: pacs and pacs2 have one index, ")
    assert told({"site_sharers": keepers | {"pacs": ONE}}, **POSTGRESQL) == []
    locked = {"site_sharers": TWO | {"pacs": ONE | {"locks": True}}}
    (problem,) = told(locked, **POSTGRESQL)
    assert problem.startswith("orthanc_database_lock: pacs2 share this database, ")


def test_identifier_has_room() -> None:
    (problem,) = told(**POSTGRESQL, orthanc_settings={"DatabaseServerIdentifier": "ü" * 33})
    assert "is longer than 64 bytes" in problem
    assert told(**POSTGRESQL, orthanc_settings={"DatabaseServerIdentifier": "ü" * 32}) == []
    assert told(orthanc_settings={"DatabaseServerIdentifier": "ü" * 33}) == [], "in SQLite it has"


def test_folder_that_hosts_have_in_common() -> None:
    assert shared_folder("", "", "/var/lib/orthanc/db-v6") == ""
    assert shared_folder("/srv/a", "x", "/srv/a") == shared_folder("/mnt/b", "x", "/mnt/b") == "x:."
    assert shared_folder("/srv/a", "x", "/srv/a/i/j") == "x:i/j"

"""One archive from 1.10.1 by 1.12.7 to 1.13.0 in a container, with each database: what it has stays, bit for bit."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pydicom
import pytest

from tests.hosts.conftest import Lab
from tests.hosts.test_lsb import NEW, OLD, STATE
from tests.hosts.test_schema import DROP_IN, DUMPS, UNTIL_IT_ANSWERS, Clients, Site, begin

pytestmark = pytest.mark.later
FILES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
# By Docker, from stand-ins for the makers' images.
NEWEST = "1.13.0"
IMAGES = "registry:5000/"
CONTAINER: dict[str, Any] = {
    "orthanc_install_method": "docker",
    "orthanc_docker_image": f"{IMAGES}orthancteam/orthanc:{NEWEST}",
}
OLD_CONTAINER = CONTAINER | {"orthanc_docker_image": f"{IMAGES}jodogne/orthanc-plugins:{OLD}"}
# One of the operator's own, of which nothing is known but what it says itself.
OWN_CONTAINER = CONTAINER | {
    "orthanc_docker_image": f"{IMAGES}hospital/orthanc:old",
    "orthanc_docker_plugin_dir": "/usr/local/share/orthanc/plugins",
    "orthanc_version": "",
}
# The unit takes a container for one that ended: after it has raised the schema and answers.
NO_CONTAINER = f"ExecStartPost=+/bin/sh -c '{UNTIL_IT_ANSWERS}; ! grep -q docker /etc/systemd/system/orthanc.service'"
HAD: dict[str, dict[str, Any]] = {}


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """On the oldest release, with made and with real images."""
    database = request.param
    pacs = {"release": "lsb", "volumes": ["/var/lib/docker"]}
    lab = Lab(f"chain-{database}", mirror="lsb-mirror", registry="trixie", pacs=pacs)
    made = begin(lab, database)
    with lab.session() as session:
        codes = [
            session.post(lab.url("/instances"), data=path.read_bytes(), timeout=60).status_code
            for path in sorted(FILES.glob("*.dcm"))
        ]
    assert codes.count(200) > 50, "the others are no files that Orthanc takes"
    HAD[database] = made.archive()
    yield made
    if not os.environ.get("PACS_KEEP_LABS"):
        lab.destroy()


def keeps(site: Site, release: str) -> None:
    """See that all of it is there, as the oldest release had it."""
    assert site.release() == release
    after = site.archive()
    assert after.keys() == HAD[site.database].keys()
    for name, one in HAD[site.database].items():
        assert after[name]["file"] == one["file"], name
        assert one["metadata"].items() <= after[name]["metadata"].items(), name
        assert one["attachments"].items() <= after[name]["attachments"].items(), name


def test_container_that_ends_after_it_raised_the_schema_goes_back(site: Site) -> None:
    """To the binaries of before and to their index, past a release; and nothing that was acknowledged is lost."""
    schema = site.schema()
    site.lab.shell(f"mkdir {DROP_IN}; cat > {DROP_IN}/test.conf <<'END'\n[Service]\n{NO_CONTAINER}\nEND")
    with Clients(site) as clients:
        printed = site.play("site", NEWEST, check=False, **CONTAINER)
    site.lab.shell(f"rm -r {DROP_IN} && systemctl daemon-reload")
    assert "The configuration that worked last is back, and Orthanc serves with it." in printed, printed
    assert f"is as it was dumped to {DUMPS}/" in printed
    assert site.schema() == schema
    assert clients.codes == {(200, ""), (503, "10")}
    archive = site.archive()
    assert set(clients.stored) <= set(archive)
    assert site.lab.shell("docker ps --quiet") == ""
    with site.lab.session() as session:
        for name in archive.keys() - HAD[site.database].keys():
            assert session.delete(site.lab.url(f"/instances/{name}"), timeout=30).status_code == 200
    keeps(site, OLD)


def test_archive_goes_up_by_each_release(site: Site) -> None:
    site.play("site", NEW)
    keeps(site, NEW)
    printed = site.play("site", NEWEST, **CONTAINER)
    assert f"Orthanc {NEWEST} is to take the place of {NEW}." in printed
    assert "Before another release runs," in printed
    keeps(site, NEWEST)
    assert site.lab.shell("docker ps --quiet")
    assert len(site.lab.shell(f"ls {DUMPS}").split()) == 1
    assert site.lab.shell("nft list tables | grep orthanc_proof", check=False) == ""
    recap = site.play("site", NEWEST, **CONTAINER).rpartition("PLAY RECAP")[2].rpartition("pacs :")[2]
    assert "changed=0" in recap.partition("registry :")[0]


@pytest.mark.parametrize("method", [{}, OLD_CONTAINER, OWN_CONTAINER], ids=["lsb", "docker", "own image"])
def test_way_down_that_the_index_does_not_take_is_refused(site: Site, method: dict[str, Any]) -> None:
    if site.database == "postgresql":
        # As a plugin from 6.0 on does, of which there is none here.
        site.sql("UPDATE globalproperties SET value = '2' WHERE property = 4")
    if method == OWN_CONTAINER:
        images = f"docker://{OLD_CONTAINER['orthanc_docker_image']} docker://{OWN_CONTAINER['orthanc_docker_image']}"
        site.lab.shell(f"skopeo copy --quiet {images}", "registry")
    state = site.lab.shell(STATE)
    printed = site.play("site", OLD, check=False, **method)
    if site.database == "postgresql":
        site.sql("UPDATE globalproperties SET value = '1' WHERE property = 4")
    assert ("refuse every image" if site.database == "sqlite" else "reads an index up to revision") in printed, printed
    assert ("Orthanc runs as before" if method == OWN_CONTAINER else "Nothing was changed.") in printed
    assert site.lab.shell(STATE) == state
    keeps(site, NEWEST)


def test_archive_goes_down_where_the_index_is_read(site: Site) -> None:
    """And written to: a release may open an index, answer, and refuse each image."""
    release = OLD if site.database == "postgresql" else NEW
    site.play("site", release)
    keeps(site, release)
    dataset = pydicom.dcmread(FILES / "CT_small.dcm")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    opened = io.BytesIO()
    dataset.save_as(opened)
    with site.lab.session() as session:
        told = session.post(site.lab.url("/instances"), data=opened.getvalue(), timeout=60).json()
        assert told["Status"] == "Success", told
        back = session.get(site.lab.url(f"/instances/{told['ID']}/file"), timeout=60).content
    assert back == opened.getvalue()

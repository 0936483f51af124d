"""An archive in use is held against its index by the shipped playbook, with each database, and mended with words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts.conftest import ROOT, Lab
from tests.hosts.test_database import image

pytestmark = pytest.mark.later
STORAGE, REPORT = "/var/lib/orthanc/db-v6", "/var/lib/pacs/orthanc/reconcile.json"
# By database: the inventory, and the release of Debian.
SITES = {
    "sqlite": ("quickstart", "bookworm-installed"),
    "postgresql": ("single", "trixie-installed"),
    "mariadb": ("single-mysql", "trixie-installed"),
}
FILES = f"find {STORAGE}/??/?? -type f -printf '%s %P %f\\n' | sort"


def reconcile(lab: Lab, inventory: str, mend: str = "", check: bool = True, **more: Any) -> str:
    """Run the playbook. Return what it says, in one line."""
    done = lab.play("reconcile", {"mend": mend, **more}, inventory=ROOT / "inventories" / inventory, check=check)
    return " ".join(re.sub(r'\\"', '"', done.stdout).split())


class Site:
    """A deployed site with some images, by their numbers."""

    def __init__(self, lab: Lab, inventory: str) -> None:
        self.lab, self._inventory = lab, inventory
        lab.play(inventory=ROOT / "inventories" / inventory)
        self.instances = {number: self.store(number) for number in range(1, 7)}

    def store(self, number: int) -> str:
        with self.lab.session() as session:
            answer = session.post(self.lab.url("/instances"), data=image(number), timeout=30)
        assert answer.json()["Status"] == "Success"
        return str(answer.json()["ID"])

    def served(self, number: int) -> bool:
        with self.lab.session() as session:
            answer = session.get(self.lab.url(f"/instances/{self.instances[number]}/file"), timeout=30)
        return answer.content == image(number)

    def path(self, number: int) -> str:
        """Return where an image is, by its content."""
        with self.lab.session() as session:
            url = self.lab.url(f"/instances/{self.instances[number]}/attachments/dicom/md5")
            digest = session.get(url, timeout=30).text
        found = self.lab.shell(f"md5sum {STORAGE}/??/??/* | grep ^{digest}").split()
        return found[1]

    def reconcile(self, mend: str = "", check: bool = True, **more: Any) -> str:
        return reconcile(self.lab, self._inventory, mend, check, **more)

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.lab.shell(f"cat {REPORT}"))
        return found


@pytest.fixture(scope="module", params=SITES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    inventory, release = SITES[request.param]
    lab = Lab(f"reconcile-{request.param}", pacs=release)
    yield Site(lab, inventory)
    lab.destroy()


def test_archive_is_as_it_was(site: Site) -> None:
    told = site.reconcile()
    assert "All of them are there as they were." in told
    assert "changed=0" in told
    assert site.report()["found"]["files"] == site.report()["found"]["read"] >= len(site.instances)
    assert site.lab.shell(f"stat -c '%U %a' {REPORT}").strip() == "root 600"


def test_what_is_lost_is_told(site: Site) -> None:
    """And a file that is put back is no loss any more."""
    missing, cut, damaged = (site.path(number) for number in (1, 2, 3))
    site.lab.shell(f"cp -p {missing} /1; cp -p {cut} /2; cp -p {damaged} /3; rm {missing}; truncate -s 100 {cut}")
    site.lab.shell(f"printf X | dd of={damaged} bs=1 seek=400 conv=notrunc 2> /dev/null")
    told = site.reconcile(check=False)
    assert "1 of them are missing, 1 are cut off, and 1 have another content" in told
    assert all(f"2.25.1{number:03}" in told for number in (1, 2, 3))
    assert "failed=1" in told
    told = site.reconcile(check=False, percent=0)
    assert "1 of them are missing, 1 are cut off, and 0 have another content" in told
    site.lab.shell(f"cp -p /1 {missing}; cp -p /2 {cut}; cp -p /3 {damaged}; chown orthanc: {missing}")
    assert "All of them are there as they were." in site.reconcile()
    assert site.served(1)


def test_orphans_are_mended_with_the_words(site: Site) -> None:
    """An image that the index has lost comes back, what Orthanc has is removed, and what is young stays."""
    lost, here = site.path(4), site.path(5)
    site.lab.shell(f"cp -p {lost} /4")
    with site.lab.session() as session:
        session.delete(site.lab.url(f"/instances/{site.instances[4]}"), timeout=30).raise_for_status()
    site.lab.shell(
        f"set -e; cd {STORAGE}; mkdir -p 01/23 ab/cd $(dirname {lost}); cp -p /4 {lost}; touch ab/cd/notes.txt\n"
        f"cp -p {here} 01/23/01230000-0000-0000-0000-000000000001\n"
        f"cp -p {here} 01/23/01230000-0000-0000-0000-000000000002\n"
        "head -c 5000 01/23/01230000-0000-0000-0000-000000000001 > 01/23/01230000-0000-0000-0000-000000000003\n"
        "touch 01/23/01230000-0000-0000-0000-000000000004\n"
        f"touch -d '2 hours ago' {lost} ab/cd/notes.txt 01/23/*[134]; touch 01/23/*2"
    )
    assert not site.served(4)
    told = site.reconcile()
    assert '{"mend": "import 1 files of pacs"}' in told
    assert '"discard 1 files of pacs"' in told
    assert '{"mend": "remove 3 files of pacs"}' in told
    before = site.lab.shell(FILES)
    told = site.reconcile("import 2 files of pacs", check=False)
    assert "There are 1 files to import, and not 2; nothing was changed." in told
    assert "Nothing was done by mend='import one'" in site.reconcile("import one", check=False)
    assert site.lab.shell(FILES) == before
    told = site.reconcile("import 1 files of pacs")
    assert "1 files were mended." in told
    assert "import" not in told.partition("1 files were mended.")[2]
    assert site.served(4)
    assert site.lab.shell(f"test -e {lost} || echo gone").strip() == "gone"
    assert "3 files were mended." in site.reconcile("remove 3 files of pacs")
    left = site.lab.shell(f"ls {STORAGE}/01/23 {STORAGE}/ab/cd")
    assert "000000000002" in left
    assert "notes.txt" in left
    assert not re.search("00000000000[134]", left)
    assert all(site.served(number) for number in site.instances)
    assert "All of them are there as they were." in site.reconcile()

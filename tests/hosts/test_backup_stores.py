"""Backups of SQLite and PostgreSQL that go to a store which speaks S3, by TLS: what is had again, and what goes wrong.

The store is a stand-in for that of a hospital: SeaweedFS, on a host of the lab, with a certificate of an authority that
nobody else knows.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import pytest
import yaml

from tests.hosts.conftest import ENVIRONMENT, ROOT, Lab, run
from tests.hosts.test_backup import ARCHIVE, PASSWORD
from tests.hosts.test_backup_postgresql import LOST, Databases
from tests.hosts.test_site import changed

pytestmark = pytest.mark.later
# PostgreSQL with pgBackRest of both releases, and SQLite.
HOSTS = {"pacs": "1.12.7", "old": "1.10.1", "plain": "1.12.7"}
LAB = {
    "name": "backup-stores",
    "pacs": "trixie-installed",
    "old": "bookworm-installed",
    "plain": "trixie-installed",
    "store": "trixie",
}
SECRET = "the secret of a store in a test"
STORE = """set -e
mkdir -p /etc/store /srv/store; cd /etc/store
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj '/CN=Authority of a test' -keyout ca.key -out ca.crt
openssl req -newkey rsa:2048 -nodes -subj /CN=store -keyout store.key -out store.csr
echo subjectAltName=DNS:store > names
openssl x509 -req -in store.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile names -out store.crt
cat > s3.json <<'END'
IDENTITIES
END
cat > /etc/systemd/system/store.service <<'END'
[Service]
ExecStart=/usr/local/bin/weed server -dir=/srv/store -ip=store -ip.bind=0.0.0.0 -master.telemetry=false \\
  -master.volumeSizeLimitMB=64 -volume.max=0 -s3 -s3.port.https=443 -s3.cert.file=/etc/store/store.crt \\
  -s3.key.file=/etc/store/store.key -s3.config=/etc/store/s3.json -s3.autoCreateBucket=false \\
  -s3.port.iceberg=0 -s3.port.lance=0
END
systemctl daemon-reload; systemctl start store
until curl --silent --cacert ca.crt --output /dev/null https://store/; do sleep 0.5; done
"""
ALLOWED = ("Read", "Write", "List", "Tagging")
RESTIC, REST = "/etc/pacs/backup", "/etc/pacs/pgbackrest"
# A backup, while somebody looks at what all processes are told.
WATCHED = """systemctl start --no-block pacs-backup
while systemctl show pacs-backup --property=ActiveState | grep -q activating
do cat /proc/[0-9]*/cmdline 2> /dev/null | grep -a -F -o 'the secret of' || true; done"""
# A host that has lost its archive, and all that knew of it.
LOST_FILES = f"""systemctl stop nginx orthanc pacs-backup.timer
rm -rf /etc/pacs /var/lib/pacs /var/cache/pacs-backup {ARCHIVE}
rm -f /etc/nginx/conf.d/orthanc* /etc/systemd/system/orthanc.service"""
# What goes wrong with a file of restic's or of pgBackRest's, and what is told.
OTHER = "cat $(ls /usr/share/ca-certificates/mozilla/*.crt | head -n 1) > ca.crt"
FAULTS = {
    "secret": (RESTIC, "s3.json", "sed -i 's/the secret/no secret/' s3.json", "does not let us in"),
    "bucket": (RESTIC, "settings.json", "sed -i 's,//store/[a-z]*,//store/nowhere,' settings.json", "is not there"),
    "authority": (RESTIC, "ca.crt", OTHER, "cannot be reached"),
    "secret of the database": (
        REST,
        "pgbackrest.conf",
        "sed -i 's/the secret/no secret/' *.conf",
        "does not let us in",
    ),
    "bucket of the database": (REST, "pgbackrest.conf", "sed -i 's/bucket=.*/bucket=nowhere/' *.conf", "is not there"),
    "authority of the database": (REST, "ca.crt", OTHER, "cannot be reached"),
}


class Stores(Databases):
    """Orthancs whose backups go to a bucket each."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory = lab, folder / "inventory"
        self.inventory.mkdir()
        groups = {group: {"hosts": dict.fromkeys(HOSTS)} for group in ("orthanc", "nginx", "backup")}
        groups["postgresql"] = {"hosts": dict.fromkeys(("pacs", "old"))}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
        (self.inventory / "group_vars").symlink_to(ROOT / "inventories" / "single" / "group_vars")
        (lab.folder / "host_vars").mkdir(exist_ok=True)
        sqlite = json.dumps({"orthanc_database": "sqlite"})
        (lab.folder / "host_vars" / "plain.json").write_text(sqlite, encoding="utf-8")
        identities = [
            {
                "name": host,
                "credentials": [{"accessKey": host.upper(), "secretKey": f"{SECRET}: {host}"}],
                "actions": [f"{action}:{host}" for action in ALLOWED],
            }
            for host in HOSTS
        ]
        weed = shutil.which("weed", path=ENVIRONMENT["PATH"])
        assert weed, "The store is not installed: make .venv/done-test"
        run("docker", "cp", weed, f"{lab.container('store')}:/usr/local/bin/weed")
        lab.shell(STORE.replace("IDENTITIES", json.dumps({"identities": identities})), "store")
        self.keeper(*(f"s3.bucket.create -name {host}" for host in HOSTS))
        self.variables: dict[str, Any] = {
            "backup_repository": "s3:https://store/{{ inventory_hostname }}/of/it",
            "backup_s3_key": "{{ inventory_hostname | upper }}",
            "backup_s3_secret": f"{SECRET}: {{{{ inventory_hostname }}}}",
            "backup_ca": lab.shell("cat /etc/store/ca.crt", "store"),
            "backup_password": PASSWORD,
            # Of one day, too.
            "backup_keep": {"last": 30},
            "orthanc_settings": {"OverwriteInstances": True},
        }

    def keeper(self, *commands: str) -> str:
        """Have the keeper of the store do something."""
        said = "\n".join(("lock", *commands, "unlock"))
        return self.lab.shell(f"echo '{said}' | weed shell -master=store:9333 2>&1", "store")


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    made = Stores(lab, tmp_path_factory.mktemp("backup"))
    for host in ("pacs", "old"):
        # The file system of a lab's host renames no folder that is in its image.
        lab.shell("cd /var/lib/postgresql/*; cp -a main copy; rm -r main; mv copy main", host)
    made.play()
    return made


def test_second_run_changes_nothing(site: Stores) -> None:
    for arguments in ([], ["--check", "--diff"]):
        done = site.lab.play("site", site.variables, arguments, site.inventory).stdout
        assert not changed(done)
        assert PASSWORD not in done
        assert SECRET not in done


@pytest.mark.parametrize("host", HOSTS)
def test_secret_is_in_no_other_place(site: Stores, host: str) -> None:
    lab, files = site.lab, {f"{RESTIC}/s3.json": "600 root root"}
    if host != "plain":
        files[f"{REST}/pgbackrest.conf"] = "640 root postgres"
    site.send(range(1, 41), host)
    assert lab.shell(WATCHED, host) == ""
    assert site.wrong(host) == ""
    found = f"grep -rlF '{SECRET}' /etc /var/lib/pacs /var/log /var/cache /run 2> /dev/null | grep -v ^/run/secrets"
    assert sorted(lab.shell(found, host, check=False).split()) == sorted(files)
    assert lab.shell(f"stat --format '%a %U %G' {' '.join(files)}", host).splitlines() == list(files.values())
    assert lab.shell(f"journalctl --no-pager | grep -F '{SECRET}'", host, check=False) == ""


@pytest.mark.parametrize("host", HOSTS)
def test_drill(site: Stores, host: str) -> None:
    said = site.play("drill", limit=host)
    success = site.status(host)["success"]
    assert f"and Orthanc {HOSTS[host]}, started on it, has all {success['instances']} images" in said


@pytest.mark.parametrize("host", HOSTS)
def test_restore_onto_a_host_that_has_lost_all(site: Stores, host: str) -> None:
    """With inventory, vault and store alone: first the site, then its archive, every image bit for bit."""
    lab, numbers = site.lab, range(300, 310)
    site.send(numbers, host)
    assert "Backed up" in site.play("backup", limit=host)
    before = site.status(host)["success"]
    lab.shell(LOST if host != "plain" else LOST_FILES, host)
    site.play(limit=host)
    assert "is of another archive than the one on this host" in site.play("backup", limit=host, check=False)
    said = site.play("restore", limit=host)
    assert f"Orthanc serves its {before['instances']} images" in said
    site.has(numbers, host)
    lab.shell(f"rm -rf /var/lib/postgresql/*/.pacs-before-* {ARCHIVE}/.pacs-before-*", host)
    assert "Backed up" in site.play("backup", limit=host)


def test_as_it_was_at_a_moment(site: Stores) -> None:
    """The log of the database comes out of the store, too."""
    count, moment = site.images(), site.moment()
    site.send(range(400, 403))
    site.play("backup", limit="pacs")
    said = site.play("restore", limit="pacs", at=moment, restore="archive of pacs")
    assert f"Orthanc serves its {count} images" in said
    site.lab.shell(f"rm -rf /var/lib/postgresql/*/.pacs-before-* {ARCHIVE}/.pacs-before-*")
    assert "Backed up" in site.play("backup", limit="pacs")


@pytest.mark.parametrize("host", ["old", "pacs"])
@pytest.mark.parametrize("fault", FAULTS)
def test_store_that_is_not_the_one(site: Stores, host: str, fault: str) -> None:
    """It is told by its cause, and what there was is there."""
    folder, file, change, words = FAULTS[fault]
    before = site.status(host)["success"]
    site.lab.shell(f"cd {folder}; cp -a {file} /root/; {change}", host)
    try:
        said = site.play("backup", limit=host, check=False)
    finally:
        site.lab.shell(f"cp -a /root/{file} {folder}/", host)
    assert "failed=1" in said
    assert words in site.wrong(host)
    assert SECRET not in said
    assert site.status(host)["success"] == before

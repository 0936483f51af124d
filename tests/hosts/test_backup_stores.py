"""Backups of SQLite and PostgreSQL that go to a store which speaks S3, by TLS: what is had again, and what goes wrong.

The store is a stand-in for that of a hospital: SeaweedFS, on a host of the lab, with a certificate of an authority that
nobody else knows.
"""

from __future__ import annotations

import json
import pathlib
import re
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
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj '/CN=Authority of a test' \\
  -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.crt
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
# No more than it takes.
ALLOWED = ("Read", "Write", "List")
RESTIC, REST = "/etc/pacs/backup", "/etc/pacs/pgbackrest"
# A backup, while somebody looks at what all processes are told.
WATCHED = """systemctl start --no-block pacs-backup
while systemctl show pacs-backup --property=ActiveState | grep -q activating
do cat /proc/[0-9]*/cmdline 2> /dev/null | grep -a -o 'the secret o[f]' || true; done"""
# A host that has lost its archive, and all that knew of it.
LOST_FILES = f"""systemctl stop nginx orthanc pacs-backup.timer
rm -rf /etc/pacs /var/lib/pacs /var/cache/pacs-backup {ARCHIVE}
rm -f /etc/nginx/conf.d/orthanc* /etc/systemd/system/orthanc.service"""
# What goes wrong with a file of restic's or of pgBackRest's, and what is told.
OTHER = "cat $(ls /usr/share/ca-certificates/mozilla/*.crt | head -n 1) > ca.crt"
REFUSED = "it does not let us in"
FAULTS = {
    "secret": (RESTIC, "s3.json", "sed -i 's/the secret/no secret/' s3.json", REFUSED),
    "bucket of others": (RESTIC, "settings.json", "sed -i 's,//store/[a-z]*,//store/plain,' settings.json", REFUSED),
    "authority": (RESTIC, "ca.crt", OTHER, "its certificate is not trusted"),
    "secret for the database": (REST, "pgbackrest.conf", "sed -i 's/the secret/no secret/' *.conf", REFUSED),
    "bucket of others for the database": (
        REST,
        "pgbackrest.conf",
        "sed -i 's/bucket=.*/bucket=plain/' *.conf",
        REFUSED,
    ),
    "authority for the database": (REST, "ca.crt", OTHER, "its certificate is not trusted"),
}


# Where a repository may have few MiB, and all of them taken.
SMALL = "mkdir -p {at}; mount -t tmpfs -o size={size}m tmpfs {at}; chmod 755 {at}"
FILLED = "head -c 2G /dev/zero > {at}/filler || true; sync; ! echo x > {at}/more; rm -f {at}/more"
# The log of a database on a disk of its own, which is full but for less than a twentieth.
LOGGED = """cd /var/lib/postgresql/*/main; systemctl stop orthanc postgresql
mkdir -p /srv/wal; mount -t tmpfs -o size=1300m tmpfs /srv/wal; cp -a pg_wal/. /srv/wal/; chown postgres: /srv/wal
chmod 700 /srv/wal; mv pg_wal pg_wal.before; ln -s /srv/wal pg_wal; systemctl start postgresql; systemctl start orthanc
"""
WRITES = """cd /; while [ "$(df --output=avail --block-size=1M /srv/wal | tail -n 1)" -gt 60 ]
do runuser -u postgres -- psql -Xqc "select pg_logical_emit_message(false, 'x', 'x'); select pg_switch_wal()"; done
until [ -e /var/lib/pacs/pgbackrest/dropped ]; do sleep 1; done"""


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
                "actions": [f"{action}:{bucket}" for action in ALLOWED for bucket in (host, f"locked-{host}")],
            }
            for host in HOSTS
        ]
        keeper = {"accessKey": "KEEPER", "secretKey": f"{SECRET}: keeper"}
        identities.append({"name": "keeper", "credentials": [keeper], "actions": ["Admin"]})
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

    def listed(self, host: str = "pacs") -> set[str]:
        """Return the numbers of the backups that there are."""
        script = (
            "import sys; sys.path.insert(0, '/etc/pacs/backup'); from pacs_backup.common import HERE, read;"
            " from pacs_backup.repository import Repository;"
            " print(*(one['id'] for one in Repository(read(HERE / 'settings.json')).snapshots()))"
        )
        return set(self.lab.shell(f'python3 -B -c "{script}"', host).split())

    def ask(self, verb: str, key: str, *words: str, host: str = "store") -> str:
        """Have somebody ask the store, by his key."""
        ask, authority = pathlib.Path(__file__).with_name("ask_store.py"), self.variables["backup_ca"]
        run("docker", "cp", ask, f"{self.lab.container(host)}:/root/ask_store.py")
        given = f"{verb} {key.upper()} '{SECRET}: {key}' {' '.join(words)}"
        return self.lab.shell(f"echo '{authority}' | python3 -B /root/ask_store.py {given}", host)

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


def test_store_that_is_away_for_a_while(site: Stores) -> None:
    """In the middle of a backup, which waits for it."""
    lab = site.lab
    site.send(range(500, 510), "plain")
    lab.shell(
        "systemctl start --no-block pacs-backup; until pgrep -f 'restic .* backup '; do sleep 0.01; done", "plain"
    )
    lab.shell("systemctl stop store; sleep 5; systemctl start store", "store")
    assert "Backed up" in site.play("backup", limit="plain")
    assert "is whole" in site.play("drill", limit="plain")


def test_store_that_is_full(site: Stores) -> None:
    """It takes nothing more, and what it has is there."""
    before, numbers = site.status("old")["success"], site.listed("old")
    site.keeper("s3.bucket.quota -name old -op set -sizeMB 1", "s3.bucket.quota.enforce -apply")
    try:
        assert "failed=1" in site.play("backup", limit="old", check=False)
        assert "look whether it is full" in site.wrong("old")
        assert site.status("old")["success"] == before
    finally:
        site.keeper("s3.bucket.quota -name old -op remove", "s3.bucket.quota.enforce -apply")
    assert "Backed up" in site.play("backup", limit="old")
    assert numbers < site.listed("old")
    assert site.wrong("old") == ""


def test_folder_that_is_full(site: Stores) -> None:
    """With SQLite: in the middle of a backup, of which nothing stays that does harm."""
    lab = site.lab
    given: dict[str, Any] = {"backup_repository": "/srv/small/pacs"}
    lab.shell(SMALL.format(at="/srv/small", size=32), "plain")
    site.play(limit="plain", **given)
    assert "Backed up" in site.play("backup", limit="plain", **given)
    before, numbers = site.status("plain")["success"], site.listed("plain")
    lab.shell(FILLED.format(at="/srv/small"), "plain")
    site.send(range(600, 640), "plain")
    assert "failed=1" in site.play("backup", limit="plain", check=False, **given)
    assert "it is full" in site.wrong("plain")
    assert site.status("plain")["success"] == before
    lab.shell("rm /srv/small/filler", "plain")
    assert "Backed up" in site.play("backup", limit="plain", **given)
    assert numbers < site.listed("plain")
    assert "is whole" in site.play("drill", limit="plain", **given)
    site.play(limit="plain")


def test_server_of_sftp_that_is_full(site: Stores) -> None:
    """With PostgreSQL, whose database goes there as well."""
    lab, given = site.lab, site.server("nas", host="store")
    lab.shell(f"{SMALL.format(at='/home/nas/small', size=64)}; chown nas: /home/nas/small", "store")
    given["backup_repository"] = f"sftp:nas@{lab.address['store']}:/home/nas/small/{{{{ inventory_hostname }}}}"
    said = site.play(limit="old", check=False, **given)
    assert "pgBackRest of Debian 12 does not know SFTP" in said
    site.play(limit="pacs", **given)
    assert lab.shell(f"stat --format '%a %U %G' {REST}/sftp.key") == "640 root postgres\n"
    assert "Backed up" in site.play("backup", limit="pacs", **given)
    assert "is whole" in site.play("drill", limit="pacs", **given)
    before, numbers = site.status()["success"], site.listed()
    lab.shell(FILLED.format(at="/home/nas/small"), "store")
    site.send(range(600, 640))
    assert "failed=1" in site.play("backup", limit="pacs", check=False, **given)
    assert "it is full" in site.wrong()
    assert site.status()["success"] == before
    lab.shell("rm /home/nas/small/filler", "store")
    assert "Backed up" in site.play("backup", limit="pacs", **given)
    assert numbers < site.listed()
    count, moment = site.images(), site.moment()
    site.send(range(640, 642))
    said = site.play("restore", limit="pacs", at=moment, restore="archive of pacs", **given)
    assert f"Orthanc serves its {count} images" in said
    site.has(range(600, 640))
    lab.shell(f"rm -rf /var/lib/postgresql/*/.pacs-before-* {ARCHIVE}/.pacs-before-*")
    site.play(limit="pacs")


def test_log_that_has_no_room_anywhere(site: Stores) -> None:
    """It is given up before it stops the database, and the backup after that tells which moments cannot be had."""
    lab = site.lab
    given: dict[str, Any] = {"backup_repository": "/srv/small/pacs"}
    lab.shell(SMALL.format(at="/srv/small", size=96), "old")
    site.play(limit="old", **given)
    assert "Backed up" in site.play("backup", limit="old", **given)
    lab.shell(LOGGED + FILLED.format(at="/srv/small"), "old")
    lab.shell(WRITES, "old")
    wrong = site.wrong("old")
    assert "pieces of it were given up" in wrong
    site.send(range(700, 702), "old")
    assert "failed=1" in site.play("backup", limit="old", check=False, **given)
    assert "it is full" in site.wrong("old")
    lab.shell("rm /srv/small/filler", "old")
    said = site.play("backup", limit="old", **given)
    assert re.search(r"cannot be had as it was between [-0-9: ]+ and [-0-9: ]+: [1-9]\d* pieces of its log", said)
    assert site.wrong("old") == ""
    assert len(site.status("old")["gaps"]) == 1
    assert "cannot be had" not in site.play("backup", limit="old", **given)
    assert "is whole" in site.play("drill", limit="old", **given)


def test_root_cannot_delete_what_the_store_locks(site: Stores) -> None:
    """Neither by what has the key of the host nor by restic, which works as ever; the keeper has it as it was."""
    lab, host = site.lab, "plain"
    site.keeper(f"s3.bucket.create -name locked-{host} -withLock")
    site.ask("lock", "keeper", f"locked-{host}", "1")
    variables: dict[str, Any] = {"backup_repository": "s3:https://store/locked-{{ inventory_hostname }}"}
    variables["backup_keep"] = {"last": 1}
    site.play(limit=host, **variables)
    for _time in range(2):
        assert "Backed up" in site.play("backup", limit=host, **variables)
    assert site.wrong(host) == ""
    (kept,) = site.listed(host)
    moment = lab.shell("sleep 2; date --utc +%FT%TZ; sleep 2", host).strip()
    codes, there = site.ask("attack", host, f"locked-{host}", host=host).splitlines()
    assert set(codes.split()) <= {"403", "409"}
    assert there == "True"
    assert "is not there any more" in site.play("backup", limit=host, check=False, **variables)
    packages = "apt-get update -q && apt-get install -y -q --no-install-recommends rclone"
    lab.shell(f"which rclone || {{ {packages}; }} > /root/apt 2>&1", host)
    names = {"type": "s3", "provider": "Other", "endpoint": "https://store", "access_key_id": "KEEPER"}
    names |= {"secret_access_key": f"{SECRET}: keeper"}
    environment = " ".join(f"RCLONE_CONFIG_STORE_{name.upper()}='{value}'" for name, value in names.items())
    copied = (
        f"--config /dev/null --ca-cert {RESTIC}/ca.crt copy --s3-version-at {moment} store:locked-{host} /root/back"
    )
    said = lab.shell(
        f"{environment} rclone {copied}; export RESTIC_PASSWORD_FILE={RESTIC}/password;"
        " restic --no-cache -r /root/back check --read-data; restic --no-cache -r /root/back snapshots --json",
        host,
    )
    assert "no errors were found" in said
    assert kept in said
    lab.shell("rm -r /root/back", host)
    site.play(limit=host)

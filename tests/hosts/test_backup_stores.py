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
from tests.hosts.test_backup import PASSWORD
from tests.hosts.test_backup_postgresql import Databases

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

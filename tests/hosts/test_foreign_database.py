"""A database server that somebody else runs: it is looked at and left alone, and its administrator hears what to do."""

from __future__ import annotations

import pathlib
import re
import shlex
import shutil
from typing import Any

import pytest

from tests.hosts.certificates import pem
from tests.hosts.conftest import QUICKSTART, Lab

LAB = {"name": "foreign", "pacs": "trixie", "db": "trixie-installed"}
CERTIFICATE, KEY = pem("db")
GERMAN = """
set -e
apt-get update -q
apt-get install -y -q locales > /dev/null
sed -i 's/# de_DE.UTF-8/de_DE.UTF-8/' /etc/locale.gen
locale-gen > /dev/null
echo 'LANG=de_DE.UTF-8' >> /etc/default/locale
"""
# As an administrator with other habits than ours may do it, who forgets to switch TLS on.
SET_UP = f"""{GERMAN}
apt-get install -y -q --no-install-recommends postgresql
cd /etc/postgresql/*/main
echo {shlex.quote(CERTIFICATE)} > /var/lib/postgresql/db.crt
echo {shlex.quote(KEY)} > /var/lib/postgresql/db.key
chown postgres: /var/lib/postgresql/db.*
chmod 0600 /var/lib/postgresql/db.key
cat > conf.d/hospital.conf << END
listen_addresses = '*'
ssl = off
ssl_cert_file = '/var/lib/postgresql/db.crt'
ssl_key_file = '/var/lib/postgresql/db.key'
lc_messages = 'de_DE.UTF-8'
END
echo 'host all all all reject' >> pg_hba.conf
systemctl restart postgresql
"""


class Site:
    """A site with Orthanc on the host ``pacs``, and a database at a server that no group names."""

    def __init__(self, lab: Lab, engine: str, administrator: str) -> None:
        self.lab = lab
        self._administrator = administrator
        self.variables = {
            "orthanc_database": engine,
            "orthanc_database_host": "db",
            "orthanc_database_ca": CERTIFICATE,
            "orthanc_database_password": "{{ vault_orthanc_database_password }}",
        }

    def play(self, playbook: str = "site", *arguments: str, check: bool = True, **changes: Any) -> str:
        return self.lab.play(playbook, self.variables | changes, arguments, check=check).stdout

    def refused(self, *words: str, **changes: Any) -> str:
        """Deploy in vain, see that nothing was configured, and return the message."""
        state = "find /etc/pacs /etc/systemd/system -name '*orthanc*' -type f -exec sha256sum {} + 2> /dev/null"
        before = self.lab.shell(state, check=False)
        printed = self.play(check=False, **changes)
        message = printed.partition("[ERROR]: ")[2].partition("\nOrigin: ")[0]
        assert not [word for word in ("Nothing was c", *words) if word not in message], printed
        assert self.lab.shell(state, check=False) == before
        # By its end, which looks the same in every encoding.
        assert self.lab.secrets["vault_orthanc_database_password"][-10:] not in printed
        return message

    def administrate(self, message: str, doubled: str) -> None:
        """Run on the server exactly what the message says."""
        password = self.lab.secrets["vault_orthanc_database_password"]
        for character in doubled:
            password = password.replace(character, character * 2)
        statements = message.partition("then this run is repeated:\n")[2].partition("\nPASSWORD stands")[0]
        assert statements
        sql = shlex.quote(statements.replace("'PASSWORD'", f"'{password}'"))
        self.lab.shell(f"printf '%s\\n' {sql} | {self._administrator}", host="db")


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    lab.shell(GERMAN)
    lab.shell(SET_UP, host="db")
    return Site(lab, "postgresql", "runuser -u postgres -- psql -v ON_ERROR_STOP=1")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"orthanc_database_host": "nowhere.invalid"}, ["orthanc_database_host", "'nowhere.invalid'", "name"]),
        ({"orthanc_database_port": 5999}, ["orthanc_database_port", "port 5999", "refused"]),
        ({"orthanc_database_ca": "/etc/ca.crt"}, ["orthanc_database_ca", "text"]),
    ],
)
def test_wrong_way_is_told_before_anything_changes(site: Site, changes: dict[str, Any], words: list[str]) -> None:
    site.refused(*words, **changes)
    assert "psycopg2" not in site.lab.shell("dpkg --get-selections")


def test_dry_run_on_a_new_host(site: Site) -> None:
    assert "failed=0" in site.play("site", "--check")


def test_server_without_tls(site: Site) -> None:
    site.administrate(site.refused("orthanc_database_tls", "the server offers no TLS"), "'")


def test_certificate_that_is_not_trusted(site: Site) -> None:
    site.refused("orthanc_database_ca", "not trusted", orthanc_database_ca="")
    # The certificate is not for the address.
    site.refused("orthanc_database_host", "not trusted", orthanc_database_host=site.lab.address["db"])


def test_host_that_is_not_listed(site: Site) -> None:
    message = site.refused("pg_hba.conf", site.lab.address["pacs"])
    found = re.search(r"in its pg_hba\.conf, above any that rejects it: (.*?)\.\n", message)
    assert found
    site.lab.shell(f"sed -i '1i {found[1]}' /etc/postgresql/*/main/pg_hba.conf", host="db")
    site.administrate(message, "'")
    assert site.lab.address["pacs"] in site.refused("set orthanc_database_tls to true", orthanc_database_tls=False)


def test_login_that_is_refused(site: Site) -> None:
    """Once: some servers count."""
    count = "cat /var/log/postgresql/*.log | grep -c 'orthanc@orthanc FATAL'"
    before = int(site.lab.shell(count, host="db", check=False))
    site.refused("orthanc_database_password", "refuses the login")
    assert int(site.lab.shell(count, host="db")) == before + 1
    site.administrate(site.refused("orthanc_database_password", "refuses the login"), "'")


def test_database_that_belongs_to_somebody_else(site: Site) -> None:
    wrong = """
        ALTER DATABASE orthanc OWNER TO postgres;
        GRANT CONNECT ON DATABASE orthanc TO orthanc;
        REVOKE ALL ON SCHEMA public FROM orthanc;
        DROP EXTENSION pg_trgm;
    """
    site.lab.shell(f"runuser -u postgres -- psql -d orthanc -c {shlex.quote(wrong)}", host="db")
    site.administrate(site.refused("has to own the database", "pg_trgm"), "'")


def test_site_works_with_what_was_asked_for(site: Site) -> None:
    """The DICOM files go into the database too."""
    everything: dict[str, Any] = {"orthanc_database_storage": True}
    assert "failed=0" in site.play(**everything)
    assert "changed=0" in site.play("site", "--check", **everything).rpartition("pacs ")[2]
    printed = site.play("verify", **everything)
    assert re.search(r"\d+ passed, 0 failed", printed)


def test_database_of_a_newer_plugin(site: Site) -> None:
    change = "runuser -u postgres -- psql -d orthanc -c 'UPDATE globalproperties SET value = {} WHERE property = 4'"
    site.lab.shell(change.format(9), host="db")
    site.refused("newer release of the plugin (revision 9", orthanc_database_storage=True)
    site.lab.shell(change.format(1), host="db")


def test_second_site_on_the_same_database(site: Site, tmp_path: pathlib.Path) -> None:
    inventory = pathlib.Path(shutil.copytree(QUICKSTART, tmp_path / "second"))
    hosts = inventory / "hosts.yml"
    hosts.write_text(hosts.read_text("utf-8").replace("pacs:", "db:"), encoding="utf-8")
    line = f"hostssl orthanc orthanc {site.lab.address['db']}/32 scram-sha-256"
    site.lab.shell(f"sed -i '1i {line}' /etc/postgresql/*/main/pg_hba.conf; systemctl reload postgresql", host="db")
    printed = site.lab.play(variables=site.variables, inventory=inventory, check=False).stdout
    assert "orthanc_database_name is in use by a second site" in " ".join(printed.split())
    # The first one does not mind.
    assert site.lab.shell("systemctl is-active orthanc") == "active\n"


def test_index_in_sqlite_and_files_in_the_database(site: Site) -> None:
    files_only: dict[str, Any] = {"orthanc_database_index": False, "orthanc_database_storage": True}
    site.play(**files_only)
    printed = site.play("verify", **files_only)
    assert re.search(r"\d+ passed", printed)

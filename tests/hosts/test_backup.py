"""An archive is backed up while images come and go; what was backed up is proved, damaged, and kept by a new host."""

from __future__ import annotations

import base64
import json
import pathlib
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.hosts.conftest import ANSWERS, QUICKSTART, Lab, run
from tests.hosts.test_database import image
from tests.hosts.test_site import changed

pytestmark = pytest.mark.later
LAB = {
    "name": "backup",
    "pacs": "trixie-installed",
    "old": "bookworm-installed",
    "box": {"release": "trixie", "volumes": ["/var/lib/docker"]},
    # The server of SFTP as well.
    "registry": "trixie",
}
PASSWORD = "the key of backups in a test"
REPOSITORY = "/srv/backup/pacs"
# For how long an upload may take at most while a backup is made, in seconds: Orthanc may be stopped for ten.
SLOWEST = 30
# Of each, the Orthanc that it has.
HOSTS = {"pacs": "1.12.7", "old": "1.10.1", "box": "1.13.0"}
ARCHIVE, KEPT = "/var/lib/orthanc/db-v6", "/var/lib/pacs/backup"
# Of the host on which it is a folder of its own.
INDEX = "/srv/index"
STATE = "systemctl show orthanc --property=InvocationID,NRestarts,ActiveState"
# As root has it, by hand.
RESTIC = f"RESTIC_PASSWORD_FILE=/etc/pacs/backup/password RESTIC_REPOSITORY={REPOSITORY} restic --no-cache"
# A program that stops at a call, for as long as it takes to kill it.
HANGS = f"""cat > /usr/local/bin/{{program}} <<'END'
#!/bin/sh
case "$*" in *"{{call}}"*) touch {KEPT}/hangs; exec sleep 600 ;; esac
exec /usr/bin/{{program}} "$@"
END
chmod 755 /usr/local/bin/{{program}}; rm -f {KEPT}/hangs; systemctl start --no-block pacs-backup
until [ -e {KEPT}/hangs ]; do sleep 0.1; done; ps --no-headers -o state -C Orthanc
"""
KILLED = f"""systemctl kill --signal KILL pacs-backup
while systemctl show pacs-backup --property=ActiveState | grep -q activating; do sleep 0.1; done
rm /usr/local/bin/{{program}} {KEPT}/hangs
"""
# The second file from the end of a repository has its middle changed.
DAMAGE = """file=$(find /srv/backup/pacs/data -type f -size +20k | sort | head -n 1); cp -a $file /root/kept
python3 - $file <<'END'
import os, sys
with open(sys.argv[1], "rb") as file:
    content = bytearray(file.read())
content[len(content) // 2] ^= 1
os.unlink(sys.argv[1])
with open(sys.argv[1], "wb") as file:
    file.write(content)
END
echo $file > /root/damaged
"""
# What root tries on a host, by restic and by what the server of its backups understands, on a way of its own.
ATTACK = """cat > /root/attack.py <<'END'
import json, os, pathlib, socket, subprocess, sys
sys.path.insert(0, "/etc/pacs/backup")
from pacs_backup.common import HERE, read
from pacs_backup.repository import Repository
made = Repository(read(HERE / "settings.json"))
def listed():
    return {one["id"] for tag in ("pacs", "pacs-files") for one in made.snapshots(tag)}
before, found = listed(), {}
made.run("unlock")
made.run("forget", *before)
found["forgotten"] = listed() != before
made.run("forget", "--keep-last", "1", "--group-by", "", "--prune")
found["pruned"] = listed() != before
pathlib.Path("/root/way").unlink(missing_ok=True)
ssh = ["ssh", "-F/dev/null", f"-i{HERE}/sftp.key", f"-oUserKnownHostsFile={HERE}/known_hosts", "ADDRESS", "rm -rf ."]
server = socket.socket(socket.AF_UNIX)
server.bind("/root/way")
server.listen()
if os.fork() == 0:
    while True:
        one, _ = server.accept()
        subprocess.run(ssh, stdin=one, stdout=one)
        one.close()
def ask(method, path):
    asked = ["curl", "--silent", "--http2-prior-knowledge", "--unix-socket", "/root/way", "--request", method]
    asked += ["--max-time", "60", "--output", "/dev/null", "--write-out", "%{http_code}"]
    asked += ["--data-binary", "junk"] if method == "POST" else []
    return subprocess.run([*asked, f"http://localhost/{path}"], capture_output=True, text=True).stdout
first = sorted(before)[0]
key = json.loads(made.ask("--no-lock", "--json", "key", "list"))[0]["id"]
found["read"] = ask("GET", f"snapshots/{first}")
# restic's own way for its locks.
lock = "0" * 64
ask("POST", f"locks/{lock}")
found["locks"] = ask("DELETE", f"locks/{lock}")
found["codes"] = [ask(method, path) for method in ("DELETE", "POST") for path in (f"snapshots/{first}", "config")]
found["codes"] += [ask("DELETE", path) for path in (f"keys/{key}", f"data/{first}", f"index/{first}")]
print(json.dumps(found), flush=True)
subprocess.run(["pkill", "-P", str(os.getpid())])
END
python3 -B /root/attack.py
"""


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has to come."""
    for _ in range(300):
        if condition():
            return
        time.sleep(1)
    pytest.fail("it does not come")


class Site:
    """Orthancs of both releases and one in a container, with SQLite, whose backups go to a folder each."""

    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.inventory = lab, folder / "inventory"
        self.inventory.mkdir()
        groups = {group: {"hosts": dict.fromkeys(HOSTS)} for group in ("orthanc", "nginx", "backup")}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
        (self.inventory / "group_vars").symlink_to(QUICKSTART / "group_vars")
        image = {"orthanc_docker_image": "registry:5000/orthancteam/orthanc:1.13.0", "orthanc_install_method": "docker"}
        # Nobody is there to send to.
        routes = {"orthanc_plugins": ["dicomweb", "python"], "orthanc_routes": [{"to": "verifier"}]}
        (lab.folder / "host_vars").mkdir(exist_ok=True)
        for host, given in {"box": image, "pacs": routes, "old": {"orthanc_index_dir": INDEX}}.items():
            (lab.folder / "host_vars" / f"{host}.json").write_text(json.dumps(given), encoding="utf-8")
        self.variables: dict[str, Any] = {
            "backup_repository": REPOSITORY,
            "backup_password": PASSWORD,
            "orthanc_settings": {"OverwriteInstances": True},
        }

    def play(self, playbook: str = "site", check: bool = True, limit: str = "", **changes: Any) -> str:
        only = ["--limit", limit] if limit else []
        done = self.lab.play(playbook, self.variables | changes, only, self.inventory, check=check)
        return " ".join(done.stdout.split())

    def status(self, host: str = "pacs") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.lab.shell(f"cat {KEPT}/status.json", host))
        return found

    def wrong(self, host: str = "pacs") -> str:
        return str(json.loads(self.lab.shell("python3 /etc/pacs/backup/backup.py report", host))["wrong"])

    def send(self, numbers: range, host: str = "pacs") -> int:
        with self.lab.session(host) as session:
            answers = [session.post(self.lab.url("/instances", host), data=image(one), timeout=60) for one in numbers]
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        return len(answers)

    def queue(self) -> tuple[int, set[str]]:
        """Return how far the log of changes was read, and the images that are still to be sent."""
        waiting = "SELECT instance FROM arrived UNION SELECT instance FROM images"
        script = f"import sqlite3, json; base = sqlite3.connect('file:{ARCHIVE}/.pacs-routes?mode=ro', uri=True)"
        asked = f"[base.execute(one).fetchall() for one in ('SELECT change FROM position', '{waiting}')]"
        position, images = json.loads(self.lab.shell(f'python3 -c "{script}; print(json.dumps({asked}))"'))
        return position[0][0], {one for (one,) in images}

    def server(self, user: str, restricted: str = "", host: str = "registry") -> dict[str, Any]:
        """Have a server that a key lets in, and return by what it is reached, but for the place.

        :param restricted: what sshd lets that key do alone.
        """
        address = self.lab.address[host]
        self.lab.shell(
            f"useradd --create-home --shell /bin/sh {user}; install -d -m 700 -o {user} ~{user}/.ssh;"
            " [ -e /root/key ] || ssh-keygen -q -N '' -t ed25519 -f /root/key;"
            f" {{ printf '{restricted} '; cat /root/key.pub; }} > ~{user}/.ssh/authorized_keys;"
            " sed -i 's,^AuthorizedKeysFile .*,AuthorizedKeysFile /etc/ssh/lab_user_key.pub .ssh/authorized_keys,'"
            " /etc/ssh/sshd_config.d/lab.conf; systemctl reload ssh",
            host,
        )
        server = self.lab.shell("ssh-keygen -y -f /etc/ssh/lab_host_key", host).strip()
        return {
            "backup_sftp_private_key": self.lab.shell("cat /root/key", host),
            "backup_sftp_known_hosts": f"{address} {server}",
        }

    def goes_on(self, host: str = "pacs") -> None:
        assert "T" not in self.lab.shell("ps --no-headers -o state -C Orthanc", host)
        with self.lab.session(host) as session:
            assert session.get(self.lab.url("/changes?last", host), timeout=30).status_code == 200


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("backup"))
    made.play()
    return made


def test_second_run_changes_nothing(site: Site) -> None:
    for arguments in ([], ["--check", "--diff"]):
        done = site.lab.play("site", site.variables, arguments, site.inventory).stdout
        assert not changed(done)
        assert PASSWORD not in done


def test_key_is_for_root_alone(site: Site) -> None:
    modes = "stat --format '%a %U' /etc/pacs/backup /etc/pacs/backup/password"
    found = f"grep -rlF '{PASSWORD}' /etc /var/lib/pacs /var/log || true"
    for host in HOSTS:
        assert site.lab.shell(modes, host).splitlines() == ["700 root", "600 root"]
        assert site.lab.shell(found, host).split() == ["/etc/pacs/backup/password"]


def test_nothing_yet_is_a_failure(site: Site) -> None:
    assert "There is no backup yet; run playbooks/backup.yml" in site.wrong()


@pytest.mark.parametrize("host", HOSTS)
def test_backup_while_images_come_and_go(site: Site, host: str) -> None:
    """Every image that was acknowledged before it began is in it, though each is replaced now and then."""
    lab, over, slowest = site.lab, threading.Event(), [0.0]
    sent = site.send(range(1, 41), host)

    def come_and_go() -> None:
        number = 100
        with lab.session(host) as session:
            while not over.is_set():
                number += 1
                for data in (image(number), image(number), image(1 + number % 40)):
                    began = time.monotonic()
                    assert session.post(lab.url("/instances", host), data=data, timeout=60).status_code == 200
                    slowest[0] = max(slowest[0], time.monotonic() - began)

    before = lab.shell(STATE, host)
    client = threading.Thread(target=come_and_go)
    client.start()
    try:
        said = site.play("backup", limit=host)
    finally:
        over.set()
        client.join()
    found = re.search(r"Backed up (\d+) images of (\w+) .* Orthanc stood still for (\d+) ms", said)
    assert found, said
    print(f"{host}: {found[0]}; the slowest upload took {slowest[0]:.2f} s")
    assert int(found[1]) >= sent
    assert slowest[0] < SLOWEST
    assert found[2] == host
    assert site.status(host)["success"]["missing"] == 0
    assert 0 < int(found[3]) < 10_000
    assert site.wrong(host) == ""
    assert lab.shell(STATE, host) == before
    site.goes_on(host)


@pytest.mark.parametrize("host", HOSTS)
def test_drill(site: Site, host: str) -> None:
    """Of what was backed up while images came and went, by the very Orthanc of the host, which nobody reaches."""
    lab = site.lab
    before = lab.shell(f"{STATE}; ss -ltn | sort", host)
    said = site.play("drill", limit=host)
    success, version = site.status(host)["success"], HOSTS[host]
    assert f"is whole: {success['files']} files (100 % of the archive)" in said
    assert f"and Orthanc {version}, started on it, has all {success['instances']} images" in said
    assert lab.shell(f"{STATE}; ss -ltn | sort", host) == before
    assert ".pacs-drill" not in lab.shell(f"ls -a {ARCHIVE}", host)
    report = json.loads(lab.shell(f"cat $(ls {KEPT}/drills/*.json | tail -n 1)", host))
    assert (report["wrong"], report["missing"], report["damaged"], report["damage"]) == ("", [], [], [])
    site.goes_on(host)


def test_byte_changed_in_the_repository_is_found(site: Site) -> None:
    lab = site.lab
    lab.shell(DAMAGE)
    try:
        said = site.play("drill", limit="pacs", check=False)
        assert "failed=1" in said
        assert "is not whole" in said or "it is damaged" in said
        assert site.status()["drill"]["wrong"]
        assert ".pacs-drill" not in lab.shell(f"ls -a {ARCHIVE}")
    finally:
        lab.shell("cp -a --remove-destination /root/kept $(cat /root/damaged)")
    assert "is whole" in site.play("drill", limit="pacs")


def test_killed_while_orthanc_stands_still(site: Site) -> None:
    assert "T" in site.lab.shell((HANGS + KILLED).format(program="cp", call="index-wal"))
    site.goes_on()
    assert "ended from outside" in site.wrong()
    assert site.lab.shell("systemctl is-failed pacs-backup", check=False) == "failed\n"
    assert "index" not in site.lab.shell(f"ls {ARCHIVE}/.pacs-backup")
    assert "Backed up" in site.play("backup", limit="pacs")
    assert site.wrong() == ""


def test_host_that_goes_down_while_orthanc_stands_still(site: Site) -> None:
    """It comes up with an Orthanc that works, which nothing stops again, and makes the next backup."""
    lab = site.lab
    assert "T" in lab.shell(HANGS.format(program="cp", call="index-wal"))
    run("docker", "kill", lab.container())
    run("docker", "start", lab.container())
    lab.shell(f"rm /usr/local/bin/cp {KEPT}/hangs; until systemctl is-active nginx ssh; do sleep 0.5; done; {ANSWERS}")
    site.goes_on()
    site.send(range(50, 52))
    assert "was cut off, as by a loss of power" in site.wrong()
    assert "Backed up" in site.play("backup", limit="pacs")
    assert site.wrong() == ""
    site.goes_on()


def test_killed_while_restic_is_at_work(site: Site) -> None:
    """Its lock does not keep the next one from its work."""
    assert "T" not in site.lab.shell((HANGS + KILLED).format(program="restic", call=" backup "))
    assert "ended from outside" in site.wrong()
    site.lab.shell(f"sleep 600 | {RESTIC} backup --host x --stdin & sleep 3; kill -9 $(pgrep -x restic); pkill sleep")
    assert site.lab.shell(f"{RESTIC} list locks --no-lock --quiet").strip()
    assert "Backed up" in site.play("backup", limit="pacs")
    assert not site.lab.shell(f"{RESTIC} list locks --no-lock --quiet").strip()
    assert site.status()["success"]["not_tidied"] == ""


@pytest.mark.parametrize(
    "do, undo, words",
    [
        ("mv /srv/backup /srv/away", "mv /srv/away /srv/backup", "is not there any more. Is its disk mounted"),
        (
            "cp -a /etc/pacs/backup/password /root/; echo of others > /etc/pacs/backup/password",
            "cp -a /root/password /etc/pacs/backup/",
            "another key than backup_password",
        ),
    ],
    ids=["gone", "wrong key"],
)
def test_repository_that_is_not_the_one(site: Site, do: str, undo: str, words: str) -> None:
    site.lab.shell(do)
    try:
        said = site.play("backup", limit="pacs", check=False)
        assert "failed=1" in said
        assert words in said
        assert words in site.wrong()
    finally:
        site.lab.shell(undo)
    assert "Backed up" in site.play("backup", limit="pacs")


def test_archive_that_was_lost_keeps_its_backups(site: Site) -> None:
    """A host without its archive makes no backup of an empty one, by its timer neither."""
    lab, before = site.lab, site.status()["success"]["snapshot"]
    empty = f"mv {ARCHIVE} {ARCHIVE}.lost; install -d -o orthanc -g orthanc {ARCHIVE}"
    lab.shell(f"systemctl stop orthanc; {empty}; touch {ARCHIVE}/.pacs; systemctl start orthanc")
    try:
        site.play(limit="pacs")
        said = site.play("backup", limit="pacs", check=False)
        assert "is of another archive than the one on this host" in said
        assert site.status()["success"]["snapshot"] == before
    finally:
        lab.shell(f"systemctl stop orthanc; rm -r {ARCHIVE}; mv {ARCHIVE}.lost {ARCHIVE}; systemctl start orthanc")
    assert "Backed up" in site.play("backup", limit="pacs")


@pytest.mark.parametrize(
    "do, undo, words",
    [
        (f"rm {ARCHIVE}/.pacs", f"touch {ARCHIVE}/.pacs", "Is its disk mounted"),
        (
            f"cd {ARCHIVE}; level=$(ls -d ?? | head -n 1); mv $level /srv/level; ln -s /srv/level $level",
            f"cd {ARCHIVE}; level=$(find . -maxdepth 1 -type l); rm $level; mv /srv/level $level",
            "is a link, of which restic would keep the link alone",
        ),
    ],
    ids=["not mounted", "link"],
)
def test_archive_that_is_not_all_there(site: Site, do: str, undo: str, words: str) -> None:
    """No backup of less takes the place of what there is."""
    count = f"ls {REPOSITORY}/snapshots | wc -l"
    before = site.lab.shell(count)
    site.lab.shell(do)
    try:
        said = site.play("backup", limit="pacs", check=False)
        assert words in said
        assert site.lab.shell(count) == before
    finally:
        site.lab.shell(undo)
    assert "Backed up" in site.play("backup", limit="pacs")


def test_files_that_went_are_told_until_they_are_given_up(site: Site) -> None:
    lab = site.lab
    path = lab.shell(f"find {ARCHIVE}/[0-9a-f][0-9a-f] -type f | sort | head -n 1").strip()
    lab.shell(f"mv {path} /srv/kept")
    try:
        said = site.play("backup", limit="pacs", check=False)
        assert "1 files that the index knows are not there (0 were not before)" in said
        assert pathlib.Path(path).name in site.wrong()
        assert "1 files were missing, and not 2" in site.play(
            "backup", limit="pacs", check=False, lost="2 files of pacs"
        )
        assert "1 files that the index knows were not there" in site.play(
            "backup", limit="pacs", lost="1 files of pacs"
        )
        assert "is whole" in site.play("drill", limit="pacs")
    finally:
        lab.shell(f"mv /srv/kept {path}")
    assert "Backed up" in site.play("backup", limit="pacs")


def test_restore_onto_a_host_that_has_lost_all(site: Site) -> None:
    """With inventory, vault and repository alone: first the site, then its archive, every image bit for bit."""
    lab, numbers = site.lab, range(300, 330)
    site.send(numbers)
    with lab.session() as session:
        last = session.get(lab.url("/changes?last"), timeout=30).json()["Last"]
    until(lambda: site.queue()[0] >= last)
    site.play("backup", limit="pacs")
    before, waiting = site.status()["success"], site.queue()[1]
    assert len(waiting) >= len(numbers)
    gone = f"/etc/pacs /etc/nginx/conf.d/orthanc* /var/lib/pacs {ARCHIVE} /etc/systemd/system/orthanc.service"
    lab.shell(f"systemctl stop nginx orthanc pacs-backup.timer; rm -r {gone} /var/cache/pacs-backup")
    site.play(limit="pacs")
    said = site.play("restore", limit="pacs")
    assert f"Orthanc serves its {before['instances']} images, and handed out 20 of them as they were" in said
    # What was to be sent then still is, and nothing else: the log of changes goes on from there.
    assert site.queue()[1] == waiting
    with lab.session() as session:
        assert site.queue()[0] <= session.get(lab.url("/changes?last"), timeout=30).json()["Last"]
        found = session.post(lab.url("/tools/lookup"), data="RESTART-300", timeout=30).json()
        assert [one["Type"] for one in found] == ["Patient"]
        for number in numbers:
            (patient,) = session.post(lab.url("/tools/lookup"), data=f"RESTART-{number}", timeout=30).json()
            (one,) = session.get(lab.url(f"{patient['Path']}/instances"), timeout=30).json()
            assert session.get(lab.url(f"/instances/{one['ID']}/file"), timeout=30).content == image(number)
    assert "Backed up" in site.play("backup", limit="pacs")
    assert site.status()["success"]["instances"] == before["instances"]
    site.send(range(330, 332))
    assert not changed(site.lab.play("site", site.variables, ["--limit", "pacs"], site.inventory).stdout)


def test_restore_asks_for_words_and_keeps_what_is_there(site: Site) -> None:
    lab, before = site.lab, site.status()["success"]["instances"]
    site.send(range(400, 405))
    state = f"{STATE}; find {ARCHIVE} -name '*-*-*-*' | sort | md5sum"
    seen = lab.shell(state)
    said = site.play("restore", limit="pacs", check=False)
    assert "Nothing was restored, since" in said
    assert '{"restore": "archive of pacs"}' in said
    assert "Nothing was restored" in site.play("restore", check=False, limit="pacs", restore="archive")
    assert "One archive is restored at a time" in site.play("restore", check=False)
    assert lab.shell(state) == seen
    said = site.play("restore", limit="pacs", restore="archive of pacs")
    assert f"Orthanc serves its {before} images" in said
    (aside,) = re.findall(rf"{ARCHIVE}/\.pacs-before-[\w-]+", said)
    assert int(lab.shell(f"find {aside} -name '*-*-*-*' | wc -l")) > before
    site.goes_on()
    lab.shell(f"rm -r {aside}")


def test_restore_that_was_cut_off_goes_on(site: Site) -> None:
    """In the middle of what it moves."""
    lab, before = site.lab, site.status()["success"]["instances"]
    lab.shell(
        "python3 -B - <<'END'\nimport os, sys\n"
        "sys.path.insert(0, '/etc/pacs/backup')\n"
        "from pacs_backup.backup import Backup\n"
        "from pacs_backup.common import HERE, read\n"
        "from pacs_backup.restore import Restore\n"
        "made, rename = Restore(Backup(read(HERE / 'settings.json'))), os.rename\n"
        "seen = []\n"
        "def cut(source, target, **folders):\n"
        "    seen.append(source)\n"
        "    if len(seen) == 40: os._exit(0)\n"
        "    rename(source, target, **folders)\n"
        "os.rename = cut\n"
        "made.run('latest', True)\nEND"
    )
    # Nor does anybody start it on half of an archive.
    lab.shell("systemctl start orthanc", check=False)
    assert lab.shell("systemctl is-active orthanc", check=False) == "inactive\n"
    assert "A restore was cut off" in site.wrong()
    said = site.play("restore", limit="pacs")
    assert f"Orthanc serves its {before} images" in said
    site.send(range(440, 442))
    site.goes_on()


def test_restore_onto_the_other_release(site: Site) -> None:
    """A backup of Orthanc 1.12.7 on Debian 13, in an Orthanc 1.10.1 on Debian 12."""
    lab, before = site.lab, site.status()["success"]
    lab.shell(f"rm -rf {REPOSITORY}.pacs", "old")
    archive = lab.shell("tar -C /srv/backup -c pacs | base64 -w 0")
    file = lab.folder.with_suffix(".tar")
    file.write_bytes(base64.b64decode(archive))
    run("docker", "cp", file, f"{lab.container('old')}:/root/repository.tar")
    lab.shell(
        "rm -r /srv/backup/pacs; tar -C /srv/backup -xf /root/repository.tar; rm /var/lib/pacs/backup/*.json", "old"
    )
    said = site.play("restore", limit="old", restore="archive of old", snapshot=before["snapshot"][:8])
    assert f"Orthanc serves its {before['instances']} images" in said
    site.goes_on("old")
    # Its index is a folder of its own.
    lab.shell(f"test -f {INDEX}/index && test ! -e {ARCHIVE}/index", "old")
    assert f"{INDEX}/.pacs-before-" in said
    assert "Backed up" in site.play("backup", limit="old")


def test_sftp(site: Site) -> None:
    """The server is known by its host key alone, and its user by the key in the vault."""
    lab, given = site.lab, site.server("nas")
    address = lab.address["registry"]
    given["backup_repository"] = f"sftp:nas@{address}:/home/nas/{{{{ inventory_hostname }}}}"
    other = lab.shell("ssh-keygen -y -f /root/key", "registry").strip()
    said = site.play(limit="pacs", check=False, **given | {"backup_sftp_known_hosts": f"{address} {other}"})
    assert "cannot be reached" in said
    site.play(limit="pacs", **given)
    said = site.play("backup", limit="pacs", **given)
    assert "Backed up" in said
    assert "PRIVATE KEY" not in said
    assert "is whole" in site.play("drill", limit="pacs", **given)
    site.play(limit="pacs")


@pytest.mark.parametrize("host", ["pacs", "old"])
def test_root_cannot_delete_what_the_server_lets_it_add_alone(site: Site, host: str) -> None:
    """With restic of both releases: neither by restic nor by what the server understands; its own locks go."""
    lab, user = site.lab, f"keep-{host}"
    only = f'restrict,command="rclone serve restic --stdio --append-only /home/{user}/pacs"'
    given = site.server(user, only)
    packages = "apt-get install -y -q --no-install-recommends rclone"
    lab.shell(f"which rclone || {{ apt-get update -q && {packages}; }} > /root/apt 2>&1", "registry")
    address = lab.address["registry"]
    given |= {"backup_repository": f"rclone:keep-{{{{ inventory_hostname }}}}@{address}:/pacs", "backup_keep": {}}
    site.play(limit=host, **given)
    try:
        for _time in range(2):
            assert "Backed up" in site.play("backup", limit=host, **given)
        assert site.wrong(host) == ""
        files = f"cd /home/{user}/pacs && find . -type f ! -path './locks/*' -exec sha256sum {{}} + | sort"
        before = lab.shell(files, "registry")
        assert before.count("./snapshots/") == 4
        assert not lab.shell(f"find /home/{user}/pacs/locks -type f", "registry")
        told = lab.shell(ATTACK.replace("ADDRESS", f"{user}@{address}"), host)
        found = json.loads(told.splitlines()[-1])
        # A way in that does not work shows nothing.
        assert found.pop("read") == "200"
        assert found.pop("locks") == "200"
        assert set(found.pop("codes")) == {"403"}
        assert found == {"forgotten": False, "pruned": False}
        # It may add, and what there was is there.
        assert set(before.splitlines()) <= set(lab.shell(files, "registry").splitlines())
        assert "is whole" in site.play("drill", limit=host, **given)
    finally:
        site.play(limit=host)


def test_removal(site: Site) -> None:
    """The repository stays, and is told of what restores have kept."""
    site.play("backup", limit="old")
    said = site.play("remove", limit="old", remove="service of old")
    assert f"which goes by hand: {INDEX}/.pacs-before-" in said
    left = "find /etc /var/lib /var/cache -name '*pacs-backup*' -o -name '*pacs-drill*' -o -path '*pacs/backup*'"
    assert site.lab.shell(left, "old") == ""
    assert site.lab.shell(f"ls {REPOSITORY}/snapshots", "old").strip()

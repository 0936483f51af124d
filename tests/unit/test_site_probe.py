"""Which archive is found on a host, whoever set it up and whatever happened to it since."""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import read_files, read_folder, read_text
from ansible_collections.dicom.orthanc.plugins.module_utils.probe import archive, nginx, ports, viewer
from ansible_collections.dicom.orthanc.plugins.modules import site_probe

from tests.repository import ROOT

HAND_MADE = """
{
  // The disk of 2019
  "StorageDirectory" : "%s", /* "StorageDirectory": "/elsewhere", */
  "Name" : "http://pacs // no comment"
}
"""


def index(folder: pathlib.Path, images: int) -> None:
    """Make an index of SQLite."""
    folder.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(folder / "index") as connection:
        connection.execute("CREATE TABLE Resources (resourceType INTEGER)")
        connection.executemany("INSERT INTO Resources VALUES (?)", [(4,)] * images)
    connection.close()


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A host whose Orthanc, if there is one, reads /etc/orthanc and does not run."""
    monkeypatch.setattr(archive, "started_with", lambda _run: (str(tmp_path / "etc/orthanc"),) * 2 + ("/bin/Orthanc",))
    (tmp_path / "etc/orthanc").mkdir(parents=True)
    return tmp_path


def look(
    host: pathlib.Path, run: Callable[..., str] = lambda *_command: "exe 1.12.7 (x)", **asked: str
) -> dict[str, Any]:
    params = {
        "config_dir": str(host / "etc/pacs/orthanc"),
        "storage_dir": str(host / "db-v6"),
        "state": str(host / "last.json"),
        "database": "sqlite",
        "files": "",
        "database_host": "127.0.0.1",
        "database_name": "orthanc",
        "release": "",
    } | asked
    # No port of an Orthanc of this machine.
    return archive.look({"index_dir": params["storage_dir"]} | params, run)


def worked(host: pathlib.Path, **settings: Any) -> None:
    """Note what worked last, as the module orthanc_service does."""
    kept = {"/etc/pacs/orthanc/orthanc.json": [json.dumps({"HttpPort": 9} | settings), 0, 0, 416], "started": ["x"]}
    (host / "last.json").write_text(json.dumps(kept), encoding="utf-8")


def hand_made(host: pathlib.Path, text: str, name: str = "orthanc.json") -> None:
    (host / "etc/orthanc/http.json").write_text('{"HttpPort": 9}', encoding="utf-8")
    (host / "etc/orthanc" / name).write_text(text, encoding="utf-8")


def test_new_host(host: pathlib.Path) -> None:
    found = look(host)
    assert (found["database"], found["images"]) == ("", 0)
    assert [found[name] for name in ("elsewhere", "lost", "other_server", "unread")] == [{}, [], [], []]


def test_folder_of_others(host: pathlib.Path) -> None:
    """It would become Orthanc's, as would the rules of sshd with it."""
    folder = host / "db-v6"
    assert look(host)["foreign"] == {}
    folder.mkdir()
    (folder / "lost+found").mkdir()
    (folder / ".snapshot").mkdir()
    assert look(host)["foreign"] == {}, "that is an empty disk"
    (folder / "sshd_config").touch()
    assert look(host)["foreign"] == {"storage": str(folder), "index": str(folder)}
    assert look(host, index_dir=str(host / "index"))["foreign"] == {"storage": str(folder)}
    (host / "file").touch()
    below = str(host / "file" / "index")
    assert look(host, index_dir=below)["foreign"] == {"storage": str(folder), "index": below}, "nothing is below a file"
    assert look(host, storage_dir=str(folder / "sshd_config"), index_dir="/nowhere")["foreign"] != {}
    assert look(host, config_dir=str(folder))["foreign"] != {}
    (folder / ".pacs").touch()
    assert look(host, config_dir=str(folder))["foreign"] == {}, "somebody has said so"
    (folder / ".pacs").unlink()
    (folder / "3f").mkdir()
    assert look(host)["foreign"] == {}, "these are images"
    (folder / "3f").rmdir()
    index(folder, 0)
    assert look(host)["foreign"] == {}, "that is an index"


def test_folder_that_is_of_orthanc_already(host: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (host / "db-v6").mkdir()
    (host / "db-v6" / "attachment").touch()
    assert set(look(host)["foreign"]) == {"storage", "index"}
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: pwd.getpwuid(os.getuid()))
    assert look(host)["foreign"] == {}


@pytest.mark.parametrize(
    "server, port", [("127.0.0.1", "70000"), ("127.0.0.1", "None"), ("a..b", "5432"), ("x" * 64, "5432")]
)
def test_server_that_cannot_be_asked(server: str, port: str) -> None:
    assert ports.no_way(server, port).startswith(("name ", "port "))


def test_who_takes_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those whom the Orthanc that is there does not know yet."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as ended:
        opened, closed = (f"127.0.0.1 {one.getsockname()[1]}" for one in (listening, ended))
        ended.close()
        assert ports.silent([closed, opened, "no.such.name.invalid 104", " "], {}) == [
            " ",
            closed,
            "no.such.name.invalid 104",
        ]
        port = int(closed.rpartition(" ")[2])
        for known in (
            {"DicomModalities": {"ct": ["CT1", "127.0.0.1", port]}},
            {"DicomModalities": {"ct": {"AET": "CT1", "Host": "127.0.0.1", "Port": port}}},
            {"OrthancPeers": {"b": [f"http://127.0.0.1:{port}/", "a", "b"]}},
            {"OrthancPeers": {"b": {"Url": f"http://127.0.0.1:{port}/"}}},
        ):
            assert ports.silent([closed, opened], known) == []
        spoilt = {"DicomModalities": {"ct": 7, "us": []}, "OrthancPeers": ["x"]}
        assert ports.silent([closed, opened], spoilt) == [closed]
        monkeypatch.setattr(ports, "PATIENCE", -1)
        assert ports.silent([closed], {}) == [], "it had no turn"


@pytest.mark.parametrize(
    "url, place",
    [
        ("https://a.example.org/", "a.example.org 443"),
        ("http://192.0.2.7/x", "192.0.2.7 80"),
        ("https://[2001:db8::7]:8443/", "2001:db8::7 8443"),
        ("https://a:99999/", ""),
        ("nothing", ""),
    ],
)
def test_where_a_url_leads(url: str, place: str) -> None:
    assert ports.of_url(url) == place


def test_hand_made_archive_in_another_folder(host: pathlib.Path) -> None:
    hand_made(host, HAND_MADE % (host / "data"))
    index(host / "data", 3)
    found = look(host)
    assert found["elsewhere"] == {"storage": str(host / "data"), "index": str(host / "data")}
    assert (found["database"], found["images"]) == ("sqlite", 3)
    assert found["configuration"] == str(host / "etc/orthanc")
    assert not look(host, storage_dir=str(host / "data"))["elsewhere"]
    # Debian's package has made an index of its own.
    index(host / "db-v6", 0)
    assert set(look(host)["elsewhere"]) == {"storage", "index"}
    # Nothing is in the way of whoever took it there.
    (host / "db-v6/index").unlink()
    index(host / "db-v6", 3)
    (host / "db-v6/0f").mkdir()
    assert not look(host)["elsewhere"]


def test_hand_made_archive_where_it_is_asked_for(host: pathlib.Path) -> None:
    (host / "link").symlink_to("db-v6")
    hand_made(host, HAND_MADE % (host / "link"))
    index(host / "db-v6", 3)
    found = look(host, release="1.12.7")
    assert (found["elsewhere"], found["images"], found["theirs"]) == ({}, -1, "1.12.7")
    # Another release would change it.
    assert look(host, release="1.12.8")["images"] == look(host)["images"] == 3


def test_program_of_others_is_asked_as_nobody(host: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody on the host may have called it Orthanc."""
    hand_made(host, "{}")
    # Where nobody gets to.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = pathlib.Path(folder) / "Orthanc"
        program.write_text("#!/bin/sh\necho Orthanc 1.$(id -u).$(id -G)\n", "utf-8")
        program.chmod(0o755)
        monkeypatch.setattr(archive, "started_with", lambda _run: (str(host / "etc/orthanc"),) * 2 + (str(program),))

        def run(*command: str) -> str:
            return subprocess.run(command, check=False, capture_output=True, text=True).stdout

        assert look(host, run)["theirs"] == ("1.65534.65534" if os.geteuid() == 0 else "")
        program.write_text("#!/bin/sh\nexec sleep 300\n", "utf-8")
        monkeypatch.setattr(archive, "AS_NOBODY", (archive.AS_NOBODY[0], "0.5", *archive.AS_NOBODY[2:]))
        assert look(host, run)["theirs"] == ""


def test_hand_made_archive_beside_its_configuration(host: pathlib.Path) -> None:
    """Where Orthanc keeps it unless it is told."""
    hand_made(host, "{}")
    index(host / "etc/orthanc/OrthancStorage", 2)
    assert set(look(host)["elsewhere"].values()) == {str(host / "etc/orthanc/OrthancStorage")}


@pytest.mark.parametrize(
    "words, configuration, folder",
    [
        (["-", "Configuration.json"], "Configuration.json", ""),
        (["-", "../etc/main.json"], "../etc/main.json", "../etc"),
        (["-", "conf.d"], "conf.d", "conf.d"),
        ([], "", ""),
    ],
)
def test_hand_made_archive_by_paths_that_start_where_it_was_started(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, words: list[str], configuration: str, folder: str
) -> None:
    """No Orthanc, but a process of that name, which waits for what it is given."""
    started = tmp_path / "started"
    (started / "conf.d").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    program = started / "Orthanc"
    shutil.copy(shutil.which("cat") or "", program)
    for name in ("Configuration.json", "conf.d/a.json", "../etc/main.json"):
        (started / name).write_text('{"HttpPort": 9, "StorageDirectory": "store"}', "utf-8")
    store = (started / folder).resolve() / ("store" if configuration else "OrthancStorage")
    index(store, 4)
    listdir = os.listdir
    with subprocess.Popen([program, *words], cwd=started, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            # Of this machine's processes that one alone: an Orthanc may run on it.
            monkeypatch.setattr(os, "listdir", lambda path: [str(process.pid)] if path == "/proc" else listdir(path))
            while process.poll() is None and not pathlib.Path(f"/proc/{process.pid}/cmdline").read_bytes():
                time.sleep(0.01)
            found = look(tmp_path)
            program.unlink()
            assert look(tmp_path) == found, "an upgrade has replaced its program"
        finally:
            process.kill()
    assert found["configuration"] == (str((started / configuration).resolve()) if configuration else "")
    assert (found["images"], found["elsewhere"]) == (4, {"storage": str(store), "index": str(store)})


def test_hand_made_unit() -> None:
    shown = "WorkingDirectory=/srv/pacs\nExecStart={ path=/opt/Orthanc ; argv[]=/opt/Orthanc --verbose c.json ; a=b }\n"
    assert archive.started_by(shown) == [(["/opt/Orthanc", "--verbose", "c.json"], "/srv/pacs")]
    assert archive.started_by(shown.replace("/srv/pacs", "")) == [(["/opt/Orthanc", "--verbose", "c.json"], "/")]
    assert archive.started_by("WorkingDirectory=\n") == []


@pytest.mark.parametrize(
    "group, containers, expected",
    [
        ("0::/system.slice/orthanc.service\n", {}, "Orthanc"),
        ("12:pids:/\n1:name=systemd:/system.slice/pacs.service\n", {}, "Orthanc of pacs.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", {}, "Orthanc of session-3.scope"),
        (f"0::/system.slice/docker-{'0f' * 32}.scope\n", {"label": "orthanc"}, "Orthanc"),
        (f"0::/system.slice/docker-{'0f' * 32}.scope\n", {"": "archive"}, "Orthanc in the container archive"),
        (f"0::/machine.slice/libpod-{'0f' * 32}.scope\n", {}, "Orthanc in the container 0f0f0f0f0f0f"),
    ],
)
def test_port_of_an_orthanc_of_others(group: str, containers: dict[str, str], expected: str) -> None:
    def run(*command: str) -> str:
        return containers.get("label" if command[-1].startswith("label=") else "", "")

    assert ports.holder("Orthanc", group, run) == expected
    assert ports.holder("nginx", group, run) == "nginx"


@pytest.mark.parametrize(
    "section, server",
    [
        ({"Host": "localhost", "Database": "orthanc"}, []),
        ({"Host": "localhost", "Database": "archive"}, ["", "archive"]),
        ({"ConnectionUri": "postgresql://u:p@db.example.org:5432/orthanc"}, ["db.example.org", "orthanc"]),
    ],
)
def test_hand_made_index_in_a_database(host: pathlib.Path, section: dict[str, Any], server: list[str]) -> None:
    hand_made(host, json.dumps({"PostgreSQL": {"EnableIndex": True} | section}), "postgresql.json")
    found = look(host)
    assert (found["database"], found["images"]) == ("postgresql", -1)
    assert look(host, database="postgresql")["other_server"] == server


def test_hand_made_configuration_that_cannot_be_read(host: pathlib.Path) -> None:
    hand_made(host, "{", "dicomweb.json")
    assert look(host)["unread"] == [str(host / "etc/orthanc/dicomweb.json")]


def test_disk_that_is_not_mounted(host: pathlib.Path) -> None:
    worked(host, StorageDirectory=str(host / "db-v6"), IndexDirectory=str(host / "db-v6"))
    for _ in range(2):
        assert look(host)["lost"] == [str(host / "db-v6")]
        assert look(host)["images"] == -1
        (host / "db-v6").mkdir(exist_ok=True)
    (host / "db-v6/.pacs").touch()
    assert not look(host)["lost"]
    (host / "db-v6/.pacs").unlink()
    index(host / "db-v6", 1)
    assert not look(host)["lost"]


def test_folder_of_images_is_changed(host: pathlib.Path) -> None:
    worked(host, StorageDirectory=str(host / "db-v6"), IndexDirectory=str(host / "index"))
    index(host / "index", 5)
    (host / "db-v6/00").mkdir(parents=True)
    found = look(host, storage_dir=str(host / "new"), index_dir=str(host / "index"))
    assert (found["elsewhere"], found["images"]) == ({"storage": str(host / "db-v6")}, 5)
    assert found["configuration"] == ""


def test_spoilt_file_stops_nothing(host: pathlib.Path) -> None:
    """What it said when it worked last is known."""
    worked(host, PostgreSQL={"EnableIndex": True, "ConnectionUri": "postgresql://u:p@127.0.0.1:1/orthanc"})
    folder = host / "etc/pacs/orthanc"
    folder.mkdir(parents=True)
    (folder / "orthanc.json").write_text('{"HttpPort": 9} // by hand', encoding="utf-8")
    (folder / "postgresql.json").write_text('{"Postg', encoding="utf-8")
    assert read_folder(str(folder)) == {"HttpPort": 9}
    assert look(host)["database"] == "postgresql"
    (host / "last.json").write_text('{"/etc/pacs/orth', encoding="utf-8")
    assert look(host)["database"] == ""


def test_comments() -> None:
    assert read_text('{"a": "/* b */ \\" // c" /* d \n */ } // e') == {"a": '/* b */ " // c'}
    with pytest.raises(ValueError, match="no object"):
        read_text("[]")
    assert read_files("/none") == ({}, [])


def test_what_cannot_be_read_is_told(tmp_path: pathlib.Path) -> None:
    for name, text in {"a.json": b'{"Name": "a"}', "b.json": b"\xff", "c.json": b"{", "d.conf": b"{"}.items():
        (tmp_path / name).write_bytes(text)
    (tmp_path / "e.json").mkdir()
    assert read_files(str(tmp_path)) == ({"Name": "a"}, [str(tmp_path / f"{name}.json") for name in "bce"])
    assert read_files(str(tmp_path / "a.json")) == ({"Name": "a"}, [])
    assert read_files(str(tmp_path / "d.conf")) == ({}, [str(tmp_path / "d.conf")])


def test_image_that_was_asked_before(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "image.json"
    asked = ["docker", "run", "sha256:1", "docker", "ls", "sha256:1", "/p/a.so"]
    file.write_text(json.dumps({"asked": asked, "told": ["1.12.7", {"HttpPort": "int"}, []]}), encoding="utf-8")
    assert site_probe.said_of("sha256:1", str(file)) == (asked, ("1.12.7", {"HttpPort": "int"}))
    nothing: Any = ([], ("", {}))
    for image, name in (("sha256:2", file), ("", file), ("sha256:1", tmp_path / "none"), ("sha256:1", "")):
        assert site_probe.said_of(image, str(name)) == nothing
    file.write_text('{"asked": ["sha256:1"]', encoding="utf-8")
    assert site_probe.said_of("sha256:1", str(file)) == nothing


def test_account() -> None:
    assert site_probe.account("root")[:2] == ["0", "0"]
    assert site_probe.account("nobody-of-that-name") == []


@pytest.mark.parametrize("kind, variable", [("proxied", "{{ site.orthanc }}"), ("relayed", "{{ inventory_hostname }}")])
def test_whom_nginx_serves(tmp_path: pathlib.Path, kind: str, variable: str) -> None:
    """Of what the role's own templates say."""
    path, line = nginx.SITES[kind]
    template = (ROOT / f"templates{path}.j2").read_text(encoding="utf-8")
    file = tmp_path / "site.conf"
    assert nginx.served(str(file), line) == []
    file.write_text(template.replace(variable, "store-1.example.org"), encoding="utf-8")
    assert nginx.served(str(file), line) == ["store-1.example.org"]
    # What a release of before has written says nothing of it.
    file.write_text(template.replace("# The Orthanc of", "# Of").replace("    server_name", "    name"), "utf-8")
    assert nginx.served(str(file), line) == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", ("www-data", "www-data")),
        ("# user nobody;\nworker_processes auto;\n", ("www-data", "www-data")),
        ("user www-data;\n", ("www-data", "www-data")),
        ("\nuser  nginx;\n", ("nginx", "nginx")),
        ("  user web  staff ;\n", ("web", "staff")),
    ],
)
def test_who_the_workers_are(tmp_path: pathlib.Path, text: str, expected: tuple[str, str]) -> None:
    file = tmp_path / "nginx.conf"
    assert nginx.workers(str(file)) == {"user": "www-data", "group": "www-data"}
    file.write_text(text, encoding="utf-8")
    assert tuple(nginx.workers(str(file)).values()) == expected


NAMED_CONF = "location / {\n    root /var/lib/pacs/viewer/3.13.2-0f6159c6;\n    location = /sums {\n}\n}\n"
SITE_CONF = "location = /see {\n}\n\nlocation /see/ {\n    root /var/lib/pacs/viewer/3.13.2-0f6159c5;\n}\n"


@pytest.mark.parametrize(
    "file, text, there",
    [
        ("etc/pacs/ohif/orthanc.json", "{}", False),
        ("var/lib/pacs/viewer/notes/sums", "total: 3\n", False),
        ("etc/pacs/ohif/.pacs", "", True),
        ("etc/pacs/ohif/app-config.js", "", True),
        ("etc/nginx/conf.d/orthanc-ohif.conf", "", True),
        ("var/lib/pacs/viewer/1-a/sums", f"{'0' * 64}  ohif/index.html\n", True),
        ("etc/pacs/ohif/site.conf", SITE_CONF, True),
        ("etc/pacs/ohif/named.conf", NAMED_CONF, True),
    ],
)
def test_viewer_is_known_by_what_is_its_own(tmp_path: pathlib.Path, file: str, text: str, there: bool) -> None:
    """A folder of its name may be somebody else's, and would be emptied."""
    assert viewer.look(str(tmp_path)) == {"viewer": False, "viewed": "", "viewer_path": "", "viewer_release": ""}
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text, "utf-8")
    site = {SITE_CONF: ("/see/", "/see/", "3.13.2-0f6159c5"), NAMED_CONF: ("", "/", "3.13.2-0f6159c6")}.get(
        text, ("",) * 3
    )
    assert tuple(viewer.look(str(tmp_path)).values()) == (there, *site)
    if not there:
        (tmp_path / file).with_name(".pacs").write_text("", "utf-8")
        assert viewer.look(str(tmp_path))["viewer"] is False

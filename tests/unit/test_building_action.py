"""What is built once and carried to all, in a real run of Ansible; a stand-in for the module tells that it builds."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import pytest
import yaml

from tests.repository import ROOT, run

# A module in Ansible's oldest form. What it "builds" is an archive with the list of packages in it.
STAND_IN = """#!{python}
# WANT_JSON
import hashlib, io, json, os, pathlib, sys, tarfile, time
here = pathlib.Path("{folder}")
asked = json.loads(pathlib.Path(sys.argv[1]).read_text())
build, step = asked["builds"][0], asked["step"]
with (here / "calls").open("a") as file:
    file.write(step + " " + ",".join(one["name"] for one in asked["builds"]) + "\\n")
if step == "prepare":
    received = {{key: os.path.exists(path) for key, path in asked["received"].items()}}
    (here / "received.json").write_text(json.dumps(received))
    print(json.dumps({{"changed": False, "needed": []}}))
elif step == "start":
    print(json.dumps({{"changed": True, "busy": False}}))
elif (here / "fails").exists():
    print(json.dumps({{"failed": True, "msg": "x.cpp:1: error: y"}}))
else:
    time.sleep(0.5)
    path = here / (build["name"] + ".tar.gz")
    with tarfile.open(path, "w:gz") as tar:
        member, text = tarfile.TarInfo(build["name"] + ".packages"), b"libc6 lib" + build["name"].encode()
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if not (here / "cut").exists() else "0"
    print(json.dumps({{"changed": True, "running": "", "archive": str(path), "sha256": sha256}}))
"""


class Site:
    """Two hosts that need the same, and a copy of the collection with another module in it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        collection = folder / "collections" / "ansible_collections" / "dicom" / "orthanc"
        (collection / "plugins" / "modules").mkdir(parents=True)
        for inner in (".", "plugins", "plugins/modules"):
            for path in (ROOT / inner).iterdir():
                if not path.name.startswith(".") and not (collection / inner / path.name).exists():
                    (collection / inner / path.name).symlink_to(path)
        module = collection / "plugins" / "modules" / "source_build.py"
        module.unlink()
        module.write_text(STAND_IN.format(python=sys.executable, folder=folder), "utf-8")
        (folder / "tarball").write_text("x", "utf-8")

    def build(self, *arguments: str, **changes: Any) -> tuple[int, str, dict[str, Any]]:
        """Have two hosts ask for it at once. Return the exit code, the output and what the first one is told."""
        local = [{"from": str(self.folder / "tarball"), "sha256": "11"}]
        far = [{"from": "https://mirror/x", "sha256": "22"}]
        builds = [
            {"name": "orthanc", "key": "01", "packages": [], "sources": local, "framework": []},
            {"name": "orthanc-mysql", "key": "02", "packages": [], "sources": far, "framework": local},
        ]
        asked = {"builds": builds, "release": "1.12.7", "platform": "debian-13-x86_64"} | changes
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = {"all": {"hosts": {"one": here, "two": here}}}
        keep = {"content": "{{ said | to_json }}", "dest": f"{self.folder}/said-{{{{ inventory_hostname }}}}.json"}
        tasks: list[dict[str, Any]] = [
            {"dicom.orthanc.source_build": asked, "register": "said"},
            {"ansible.builtin.copy": keep, "check_mode": False},
        ]
        play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
        for name, text in {"hosts.yml": hosts, "play.yml": play}.items():
            (self.folder / name).write_text(yaml.safe_dump(text, sort_keys=False), "utf-8")
        paths = {"ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"), "XDG_CACHE_HOME": str(self.folder)}
        done = run("ansible-playbook", "-i", "hosts.yml", "play.yml", *arguments, cwd=self.folder, env=paths)
        file = self.folder / "said-one.json"
        said: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
        return done.returncode, done.stdout + done.stderr, said

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Site:
    return Site(tmp_path)


ONCE = ["prepare orthanc,orthanc-mysql", "start orthanc", "wait orthanc", "start orthanc-mysql", "wait orthanc-mysql"]


def test_built_once(site: Site) -> None:
    code, output, said = site.build("--check")
    assert (code, said["changed"], site.calls()) == (0, True, []), output
    code, output, said = site.build()
    assert code == 0, output
    assert "waits for another host or run, which has something built for debian-13-x86_64." in output
    assert site.calls() == ONCE
    assert json.loads((site.folder / "received.json").read_text("utf-8")) == {"11": True}
    cache = site.folder / "dicom.orthanc"
    archives = [f"{name}-debian-13-x86_64.tar.gz" for name in ("orthanc-01", "orthanc-mysql-02")]
    assert said["archives"] == [str(cache / name) for name in archives]
    assert sorted(path.name for path in cache.iterdir()) == sorted([*archives, "debian-13-x86_64.lock"])
    assert said["packages"] == ["libc6", "liborthanc", "liborthanc-mysql"]
    code, output, said = site.build()
    assert (code, said["changed"], said["built"], site.calls()) == (0, False, [], []), output
    # What is missing alone.
    (cache / archives[1]).unlink()
    code, output, said = site.build()
    assert (code, site.calls()) == (0, ["prepare orthanc-mysql", *ONCE[3:]]), output


def test_failure_is_told_to_all_who_wait(site: Site) -> None:
    (site.folder / "fails").touch()
    code, output, _ = site.build()
    assert code != 0
    assert output.count("x.cpp:1: error: y") >= 2
    assert site.calls() == ONCE[:3]
    # The next run tries again.
    (site.folder / "fails").unlink()
    code, output, _ = site.build()
    assert (code, site.calls()) == (0, ONCE), output


def test_archive_that_was_cut_off_is_not_kept(site: Site) -> None:
    (site.folder / "cut").touch()
    code, output, _ = site.build()
    assert code != 0
    assert "What was built of orthanc did not come whole; run again." in output
    assert [path.name for path in (site.folder / "dicom.orthanc").glob("*.tar.gz")] == []

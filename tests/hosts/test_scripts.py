"""Scripts of the site: tried by the very Orthanc, run in order, and taken back where they fail later."""

from __future__ import annotations

import hashlib
import io
import pathlib
import re
import zipfile
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from tests.hosts.conftest import RELEASE, Lab, run

LAB = {"name": "scripts", "pacs": f"{RELEASE}-installed"}
START = "systemctl show orthanc --property=InvocationID --value"
TRIALS = "journalctl --unit pacs-orthanc-trial --output cat --quiet | grep -c ^Started; true"
# What it has seen stands in the metadata of the image.
SEEN = """
-- {{ and {%% are Lua as well.
local names = {{"x"}}
function OnStoredInstance(instance, tags, metadata, origin)
    RestApiPut("/instances/" .. instance .. "/metadata/3000", "%s")
end
"""
GOOD = {"seen.lua": SEEN % "by Lua"}
BAD = {
    "syntax": ("function broken(\n", "ends. It says: Cannot execute a Lua command: [string"),
    "ends": ("os.exit(3)\n", "and Orthanc ends."),
    "memory": ('local t = {}\nwhile true do t[#t + 1] = string.rep("x", 2^20) .. #t end\n', "not enough memory"),
    "loop": ("while true do end\n", "has not started after 60 s (orthanc_ready_timeout, at least 60 s), and was ended"),
}


class Site:
    def __init__(self, lab: Lab, folder: pathlib.Path) -> None:
        self.lab, self.folder = lab, folder

    def deploy(self, scripts: dict[str, str], *arguments: str, check: bool = True, **variables: Any) -> str:
        """Deploy with scripts, by their names."""
        for name, text in scripts.items():
            (self.folder / name).write_text(text, encoding="utf-8")
        asked = {"orthanc_scripts": [{"file": str(self.folder / name)} for name in scripts]} | variables
        return self.lab.play(variables=asked, arguments=arguments, check=check).stdout

    def refused(self, scripts: dict[str, str], **variables: Any) -> str:
        """Deploy what does not work, and return what is said, in one line."""
        done = self.deploy(scripts, check=False, **variables)
        assert "failed=1" in done, done
        return " ".join(done.replace("\\n", " ").replace('\\"', '"').split())

    def state(self) -> tuple[str, str]:
        """Return which process it is, and what it reads."""
        return self.lab.shell(START), self.lab.shell(
            "cd /etc/pacs/orthanc && sha256sum * && stat --format '%n %a %U:%G' *"
        )

    def metadata(self) -> str:
        """Store an image anew, and return what a script has said of it."""
        with self.lab.session() as session:
            image = pathlib.Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
            stored = session.post(self.lab.url("/instances"), data=image, timeout=60).json()
            try:
                # The script hears of it a moment later.
                curl = 'curl --silent --fail --user "$(sed -n \'s/^set .orthanc_login "Basic \\(.*\\)";/\\1/p\''
                curl += ' /etc/pacs/nginx/upstream.conf | base64 -d)"'
                path = f"http://127.0.0.1:8042/instances/{stored['ID']}/metadata/3000"
                return self.lab.shell(f"for i in $(seq 50); do {curl} {path} && break; sleep 0.2; done")
            finally:
                session.delete(self.lab.url(f"/instances/{stored['ID']}"), timeout=60)


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(lab, tmp_path_factory.mktemp("scripts"))
    made.deploy(GOOD)
    return made


def test_runs_and_is_for_orthanc_alone(site: Site) -> None:
    assert site.metadata() == "by Lua"
    assert "seen.lua 640 root:orthanc" in site.state()[1]
    tried = site.lab.shell(TRIALS)
    assert int(tried) > 0
    assert re.findall(r" changed=(\d+) ", site.deploy(GOOD)) == ["0"]
    assert site.lab.shell(TRIALS) == tried, "what worked is not tried again"


def test_check_mode_tells_and_a_change_takes_a_start(site: Site) -> None:
    before = site.state()
    changed = {"seen.lua": SEEN % "anew"}
    printed = site.deploy(changed, "--check", "--diff")
    assert '+    RestApiPut("/instances/" .. instance .. "/metadata/3000", "anew")' in printed
    assert re.findall(r" changed=(\d+) ", printed) == ["1"]
    assert site.state() == before
    site.deploy(changed)
    assert site.metadata() == "anew"
    assert site.state()[0] != before[0]


@pytest.mark.parametrize(
    "what", ["syntax", *(pytest.param(what, marks=pytest.mark.later) for what in ("ends", "memory", "loop"))]
)
def test_bad_one_changes_nothing(site: Site, what: str) -> None:
    text, expected = BAD[what]
    before = site.state()
    said = site.refused(GOOD | {"bad.lua": text}, **SOON)
    assert "orthanc_scripts: bad.lua was tried, apart from the site, and Orthanc" in said
    assert expected in said
    assert "Orthanc runs as before, and its configuration is as it was." in said
    assert site.state() == before
    assert not site.lab.shell(
        "ls -d /run/pacs-?* 2> /dev/null; systemctl list-units --all --plain 'pacs-orthanc*' --no-legend; true"
    )


def test_one_that_fails_later_goes_back(site: Site) -> None:
    site.deploy(GOOD)
    _, before = site.state()
    late = 'if GetOrthancConfiguration().HttpServerEnabled ~= false then error("on this site only") end\n'
    said = site.refused(GOOD | {"late.lua": late})
    assert "on this site only" in said
    assert "The configuration that worked last is back, and Orthanc serves with it." in said
    assert site.state()[1] == before
    assert site.metadata() == "by Lua"


# A loop is waited for as long as for Orthanc.
SOON = {"orthanc_ready_timeout": 60}
PYTHON: dict[str, Any] = {"orthanc_plugins": ["dicomweb", "python"]}
SEVERAL = {
    "seen.lua": "",
    "throws.py": """
import orthanc

def changed(change, level, resource):
    raise RuntimeError("not my day")

orthanc.RegisterOnChangeCallback(changed)
""",
    "seen.py": """
import orthanc
import throws

def changed(change, level, resource):
    if change == orthanc.ChangeType.NEW_INSTANCE:
        orthanc.RestApiPut(f"/instances/{resource}/metadata/3000", b"by Python")

orthanc.RegisterOnChangeCallback(changed)
""",
}


def test_several_in_python(site: Site) -> None:
    """Each registers what Orthanc takes once, which would end it."""
    site.deploy(SEVERAL, **PYTHON)
    assert site.metadata() == "by Python"
    log = site.lab.shell("journalctl -u orthanc --output cat")
    assert "throws.py: Traceback (most recent call last)" in log
    assert "RuntimeError: not my day" in log
    # The verification knows them, and that the Orthanc which runs has read them.
    proof = {"orthanc_scripts": [{"file": str(site.folder / name)} for name in SEVERAL], "verification_level": "probe"}
    site.lab.play("verify", PYTHON | proof)
    assert re.findall(r" changed=(\d+) ", site.deploy(SEVERAL, **PYTHON)) == ["0"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("import orthanc\nimport not_there_at_all\n", "ModuleNotFoundError"),
        pytest.param("def broken(\n", "SyntaxError", marks=pytest.mark.later),
        pytest.param("import os\nos._exit(0)\n", "and Orthanc ends.", marks=pytest.mark.later),
        pytest.param("import os\nos.kill(os.getpid(), 11)\n", "and Orthanc ends.", marks=pytest.mark.later),
        pytest.param("x = []\nwhile True: x.append(b'x' * 2**20)\n", "MemoryError", marks=pytest.mark.later),
        pytest.param("import time\ntime.sleep(99)\n", "has not started after 60 s", marks=pytest.mark.later),
        pytest.param(
            "import urllib.request\nurllib.request.urlopen('http://192.0.2.1/', timeout=9)\n",
            "Network is unreachable",
            marks=pytest.mark.later,
        ),
        pytest.param("open('/var/lib/pacs/x', 'w')\n", "Read-only file system", marks=pytest.mark.later),
        pytest.param(
            "for path in ('/var/tmp/x', '/dev/shm/x', '/tmp/x'):\n"
            "    try: open(path, 'wb').write(bytes(300 * 2**20))\n"
            "    except OSError as error: print(path, error.strerror, flush=True)\n"
            "import os, sys\nsys.stdout.flush()\nos._exit(1)\n",
            "/var/tmp/x Read-only file system /dev/shm/x No space left on device /tmp/x No space left on device",
            marks=pytest.mark.later,
        ),
    ],
)
def test_bad_one_in_python_changes_nothing(site: Site, text: str, expected: str) -> None:
    before = site.state()
    said = site.refused(SEVERAL | {"bad.py": text}, **PYTHON, **SOON)
    assert "orthanc_scripts: bad.py was tried, apart from the site, and Orthanc" in said
    assert expected in said
    assert site.state() == before


# One that takes something out of an image before it is stored, and one that refuses images.
TESTED: dict[str, tuple[str, dict[str, Any]]] = {
    "institution.py": (
        """
import orthanc

def received(image, origin):
    return orthanc.ReceivedInstanceAction.MODIFY, image.replace(b"JFK IMAGING CENTER", b"Some other place  ")

orthanc.RegisterReceivedInstanceCallback(received)
""",
        {
            "send": "CT_small.dcm",
            "tags": {"InstitutionName": "Some other place", "Modality": "CT", "OtherPatientNames": ""},
        },
    ),
    "refuse.lua": (
        'function ReceivedInstanceFilter(dicom, origin, info) return dicom.Modality ~= "MR" end\n',
        {"send": "MR_small.dcm", "stored": False},
    ),
}


@pytest.mark.later
def test_verification_holds_scripts_to_their_tests(site: Site, tmp_path: pathlib.Path) -> None:
    scripts: list[dict[str, Any]] = []
    for name, (text, test) in TESTED.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        scripts.append(
            {"file": str(tmp_path / name), "test": test | {"send": str(get_testdata_file(str(test["send"])))}}
        )
    command = ["{{ ansible_playbook_python }}", "-m", "pytest", "-rA", "-k", "scripts"]
    command += ["--config-file={{ __verification_suite }}/pytest.ini", "--sites={{ __verification_folder.path }}"]
    asked = PYTHON | {"orthanc_scripts": scripts, "verification_accepted_risks": ["routing"]}
    asked["__verification_command"] = [*command, "{{ __verification_suite }}"]
    site.lab.play(variables=asked)
    held = r"PASSED \S*test_scripts\.py::test_scripts_do_what_their_tests_say"
    printed = site.lab.play("verify", asked | {"verification_level": "conform"}, arguments=["-v"]).stdout
    assert re.search(held, printed), printed[-4000:]
    with site.lab.session() as session:
        assert session.get(site.lab.url("/statistics"), timeout=60).json()["CountInstances"] == 0
    for number, wrong, told in (
        (0, {"tags": {"InstitutionName": "JFK IMAGING CENTER"}}, "'Some other place'"),
        (1, {"stored": True}, "'FilteredOut'"),
    ):
        before = dict(scripts[number]["test"])
        scripts[number]["test"].update(wrong)
        done = site.lab.play("verify", asked, arguments=["-v"], check=False)
        assert done.returncode
        assert told in done.stdout
        assert f"orthanc_scripts: {list(TESTED)[number]}" in done.stdout
        scripts[number]["test"] = before


def wheel() -> bytes:
    """Make a package with one module."""
    made, info = io.BytesIO(), "pacs_probe-1.0.dist-info"
    files = {
        "pacs_probe.py": 'SAID = b"by a wheel"\n',
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: pacs-probe\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made.getvalue()


@pytest.mark.later
def test_requirements_are_those_that_were_locked(site: Site, tmp_path: pathlib.Path) -> None:
    content, name = wheel(), "pacs_probe-1.0-py3-none-any.whl"
    (tmp_path / name).write_bytes(content)
    site.lab.shell("mkdir -p /srv/wheels")
    run("docker", "cp", tmp_path / name, f"{site.lab.container()}:/srv/wheels/")
    file = tmp_path / "requirements.txt"
    lines = "--no-index\n--find-links /srv/wheels\npacs-probe==1.0 --hash=sha256:"
    file.write_text(f"{lines}{hashlib.sha256(content).hexdigest()}\n", encoding="utf-8")
    asked = PYTHON | {"orthanc_python_requirements": str(file)}
    script = SEVERAL["seen.py"].replace("import throws", "import pacs_probe").replace('b"by Python"', "pacs_probe.SAID")
    site.deploy({"seen.py": script}, **asked)
    assert site.metadata() == "by a wheel"
    assert re.findall(r" changed=(\d+) ", site.deploy({"seen.py": script}, **asked)) == ["0"]
    before, made = site.state(), site.lab.shell("ls /opt/orthanc-python")
    file.write_text(f"{lines}{'0' * 64}\n", encoding="utf-8")
    said = site.refused({"seen.py": script}, **asked)
    assert "orthanc_python_requirements: they cannot be installed, and Orthanc runs as before: ERROR" in said
    assert "HASH" in said
    assert site.state() == before
    assert site.metadata() == "by a wheel"
    assert set(made.split()) < set(site.lab.shell("ls /opt/orthanc-python").split())


def test_without_scripts_nothing_is_left(site: Site) -> None:
    site.deploy({})
    assert not site.lab.shell("ls /etc/pacs/orthanc | grep -E '(lua|py)$'; true")


@pytest.mark.later
def test_removal_takes_all_of_it(site: Site) -> None:
    site.deploy(SEVERAL, **PYTHON)
    site.lab.play("remove", {"remove": "service of pacs"})
    assert not site.lab.shell("ls -d /etc/pacs/orthanc /opt/orthanc-python 2> /dev/null; true")

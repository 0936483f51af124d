"""All plugins that Debian has, at once, on each release; and the options that our tables say they have."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pydicom
import pytest
import requests
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import ask_binary, version_tuple
from pydicom.data import get_testdata_file
from pynetdicom import AE

from tests.hosts.conftest import Lab, run
from tests.repository import ROOT, load

RELEASES = {"bookworm": "1.10.1", "trixie": "1.12.7"}
REGISTRY = load("roles/orthanc/vars/main/plugins.yml")["__orthanc_plugins"]
TABLES = json.loads((ROOT / "roles/orthanc/files/plugin_options.json").read_text(encoding="utf-8"))
# Of the others a wrong value shows only after a while; all of them take the tool some minutes.
QUICK = {
    "libModalityWorklists.so": "Worklists",
    "libOrthancGdcm.so": "Gdcm",
    "libDelayedDeletion.so": "DelayedDeletion",
}


@pytest.fixture(scope="module", params=[pytest.param("bookworm", marks=pytest.mark.later), "trixie"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(f"plugins-{request.param}", pacs=request.param)
    # Where apt reads new lists, another release may be on offer than was: only then is the binary asked. The lists are
    # as old as the host's image, whose age is nothing to rely on.
    old_lists = request.param == "bookworm"
    made.shell(f"touch --date '{'3 days ago' if old_lists else 'now'}' /var/lib/apt/lists")
    printed = made.play(variables=wanted(RELEASES[request.param])).stdout
    asked = re.search(r"Read from the installed binary which options it knows\] \*+\n(\w+): ", printed)
    # Where it has nothing to do, it may be skipped together with others.
    assert (asked[1] if asked else "skipping") == ("ok" if old_lists else "skipping"), printed
    yield made
    made.destroy()


@pytest.fixture
def version(lab: Lab) -> str:
    return RELEASES[lab.name.partition("-")[2]]


def wanted(version: str) -> dict[str, Any]:
    """Ask for all plugins that a release has as a package, each with an option of its own where it has one."""
    names = [
        name
        for name, plugin in REGISTRY.items()
        if "distribution" not in plugin.get("lacking", {})
        and version_tuple(str(plugin.get("since", "0"))) <= version_tuple(version)
    ]
    settings: dict[str, Any] = {
        "Gdcm": {"Throttling": 2},
        "Worklists": {"LimitAnswers": 5},
        "WebViewer": {"CacheSize": 9},
    }
    if version != "1.10.1":
        settings |= {"Housekeeper": {"ThrottleDelay": 3}, "DicomWeb": {"EnableMetadataCache": False}}
    return {"orthanc_plugins": names, "orthanc_settings": settings}


def test_all_of_them_work_together(lab: Lab, version: str) -> None:
    """That each is loaded, the deployment itself has made sure of."""
    again = lab.play(variables=wanted(version)).stdout
    assert re.findall(r" changed=(\d+) ", again) == ["0"], again
    found = json.loads(lab.shell("cat /etc/pacs/orthanc/orthanc.json"))
    assert len(found["Plugins"]) == len(wanted(version)["orthanc_plugins"]) > 7


def test_known_options_are_those_of_the_binary(lab: Lab, version: str) -> None:
    """A first deployment takes the table's word for it."""
    known = json.loads((ROOT / "roles/orthanc/files/known_options.json").read_text(encoding="utf-8"))
    assert ask_binary(lambda argument: lab.shell(f"/usr/sbin/Orthanc {argument}")) == (version, known[version])


@pytest.mark.parametrize("library, section", QUICK.items())
def test_options_are_those_of_the_table(lab: Lab, version: str, library: str, section: str) -> None:
    """The very tool that made the table finds the same on a host of ours."""
    if library == "libDelayedDeletion.so" and version == "1.10.1":
        pytest.skip("Orthanc 1.10.1 does not have this plugin")
    image = get_testdata_file("CT_small.dcm")
    for file in (ROOT / "tools/plugin_options.py", image):
        run("docker", "cp", str(file), f"{lab.container()}:/root/")
    out = lab.shell(f"python3 /root/plugin_options.py /root/CT_small.dcm {library} 2> /dev/null")
    assert json.loads(out) == {version: {section: TABLES[version][section]}}


def test_what_the_plugin_does_not_know_changes_nothing(lab: Lab, version: str) -> None:
    strange = {"orthanc_settings": {"DicomWeb": {"EnablePerformanceLogs": True}}}
    refused = lab.play(variables=wanted(version) | strange, check=False)
    assert refused.returncode != 0
    said = f"the plugin that goes with Orthanc {version} does not know this option; it was first seen with 1.13.0"
    assert said in " ".join(refused.stdout.split())
    # The knowing way around it.
    around = {"orthanc_settings": {}, "orthanc_settings_unchecked": {"DicomWeb": {"EnablePerformanceLogs": True}}}
    passed = " ".join(lab.play(variables=wanted(version) | around).stdout.split())
    assert "orthanc_settings_unchecked: DicomWeb is passed on without a check." in passed
    found = json.loads(lab.shell("cat /etc/pacs/orthanc/orthanc.json"))["DicomWeb"]
    assert found["EnablePerformanceLogs"] is True
    assert found["Enable"] is True


def test_other_words_are_no_reason_to_restart(lab: Lab, version: str) -> None:
    lab.play(variables=wanted(version))
    start = "systemctl show orthanc --property=InvocationID --value"
    before = lab.shell(start)
    lab.shell(
        'python3 -c \'import json, pathlib; path = pathlib.Path("/etc/pacs/orthanc/orthanc.json");'
        " path.write_text(json.dumps(json.loads(path.read_text())))'"
    )
    out = lab.play(variables=wanted(version)).stdout
    assert re.findall(r" changed=(\d+) ", out) == ["1"], "the file is ours again"
    assert lab.shell(start) == before
    # An option that is another one is a reason.
    lab.play(variables=wanted(version) | {"orthanc_name": "Renamed"})
    assert lab.shell(start) != before


# What a script may do inside the sandbox: call C with a function of its own, and start a process; and what it may not.
SCRIPT = """
import ctypes, json, mmap, pathlib, subprocess
import orthanc

def attempt(action):
    try:
        return action()
    except OSError as error:
        return type(error).__name__

def answer(output, uri, **request):
    both = mmap.PROT_WRITE | mmap.PROT_EXEC
    tried = {
        "callback": lambda: ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: number + 1)(1),
        "process": lambda: subprocess.run(["id", "-un"], capture_output=True, text=True).stdout,
        "code": lambda: mmap.mmap(-1, 4096, prot=both) and "made",
        "configuration": lambda: pathlib.Path("/etc/pacs/orthanc/new.json").write_text("{}"),
        "others": lambda: sorted(p.name for p in pathlib.Path("/proc").glob("1")),
    }
    output.AnswerBuffer(json.dumps({name: attempt(action) for name, action in tried.items()}), "application/json")

orthanc.RegisterRestCallback("/tried", answer)
"""


def test_sandbox(lab: Lab, version: str) -> None:
    """None of the plugins needs an exception, and all that they do goes on."""
    exposure = "systemd-analyze security --no-pager"
    score = r"exposure level for orthanc.service: ([\d.]+)"
    # Debian's own unit, so that the figure means something.
    (before,) = re.findall(score, lab.shell(f"{exposure} --offline=true /usr/lib/systemd/system/orthanc.service"))
    (now,) = re.findall(score, lab.shell(f"{exposure} orthanc.service"))
    assert float(before) > 8
    assert float(now) <= 1.5

    lab.shell(f"cat > /etc/orthanc/tried.py <<'END'\n{SCRIPT}\nEND\nchmod 644 /etc/orthanc/tried.py")
    asked = wanted(version)
    asked["orthanc_settings"] |= {"PythonScript": "/etc/orthanc/tried.py"}
    lab.play(variables=asked)
    with requests.Session() as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session.trust_env = session.verify = False
        session.auth = (b"admin", lab.secrets["vault_orthanc_admin_password"].encode())  # type: ignore[assignment]
        site = f"https://{lab.address['pacs']}"
        assert session.get(f"{site}/tried", timeout=30).json() == {
            "callback": 2,
            "process": "orthanc\n",
            "code": "PermissionError",
            "configuration": "OSError",
            "others": [],
        }
        # Decoded by DCMTK, and by GDCM alone.
        for name in ("CT_small.dcm", "JPEG2000.dcm"):
            image = pydicom.dcmread(str(get_testdata_file(name)))
            send(lab, image)
            found = session.post(f"{site}/tools/lookup", data=image.SOPInstanceUID, timeout=30).json()
            preview = session.get(f"{site}{found[0]['Path']}/preview", timeout=30)
            assert (preview.status_code, preview.content[:4]) == (200, b"\x89PNG")
        assert len(session.get(f"{site}/dicom-web/studies", timeout=30).json()) == 2


def send(lab: Lab, image: pydicom.Dataset) -> None:
    entity = AE("VERIFIER")
    entity.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    association = entity.associate(lab.address["pacs"], 4242, ae_title="ORTHANC")
    assert association.is_established
    assert association.send_c_store(image).Status == 0
    association.release()

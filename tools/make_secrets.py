"""Write the secrets that an inventory names and does not have yet into its vault file.

Usage: make_secrets.py INVENTORY [OVERLAY]

Every `vault_*` name that the inventory's files use is looked up in group_vars/all/vault.yml of the
inventory, or of the overlay if one is given. Missing ones are generated and the file is encrypted
again; those that are there already are kept. Nothing else of the inventory is read or written.
A private key (`vault_*_private_key`) belongs to a certificate, so it is asked for instead.
"""

import os
import pathlib
import re
import secrets
import string
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = re.compile(r"\bvault_\w+")
# What Ansible leaves aside in an inventory, beside hidden files.
IGNORED = ("~", ".bak", ".cfg", ".md", ".orig", ".pyc", ".pyo", ".retry", ".rpm", ".rst", ".swp", ".txt")
ALPHABET = string.ascii_letters + string.digits


def password_file(vault_file: pathlib.Path) -> pathlib.Path:
    """Return the file that tools/vault-password reads, made if it is missing and nothing is encrypted."""
    config = os.environ.get("XDG_CONFIG_HOME") or pathlib.Path.home() / ".config"
    path = pathlib.Path(os.environ.get("PACS_VAULT_PASSWORD_FILE", pathlib.Path(config, "pacs", "vault-password")))
    if not path.exists():
        # A new password would open nothing, and hide that the right one is missing.
        if is_encrypted(vault_file):
            sys.exit(f"{vault_file} is encrypted, and there is no {path}. Copy it from the machine where it was made.")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        print(f"Vault password: made {path}. Keep a copy: without it the secrets are lost.")
    return path


def is_encrypted(file: pathlib.Path) -> bool:
    return file.exists() and file.read_text(encoding="utf-8").startswith("$ANSIBLE_VAULT")


def vault(*arguments: str, text: str | None = None, way: str = "") -> str:
    """Run ansible-vault with the project's configuration and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "vault", *arguments],
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        sys.exit(f"ansible-vault {arguments[0]}: {done.stderr.strip()}{way}")
    return done.stdout


def main() -> None:
    if len(sys.argv) not in (2, 3) or not all(pathlib.Path(argument).is_dir() for argument in sys.argv[1:]):
        nowhere = "".join(f"There is no folder {name}. " for name in sys.argv[1:] if not pathlib.Path(name).is_dir())
        sys.exit(f"{nowhere}Give the inventory's folder: make secrets INVENTORY=inventories/<site>")
    inventory = pathlib.Path(sys.argv[1]).resolve()
    file = pathlib.Path(sys.argv[-1]).resolve() / "group_vars" / "all" / "vault.yml"
    wanted = {
        name
        for path in sorted(inventory.rglob("*"))
        if path.is_file() and path.name != file.name and not path.name.endswith(IGNORED)
        if not any(part.startswith(".") for part in path.relative_to(inventory).parts)
        for name in NAME.findall(re.sub(r"(?m)(^|\s)#.*$", "", path.read_text(encoding="utf-8", errors="replace")))
    }
    password = password_file(file)
    text, plain = "---\n", False
    if is_encrypted(file):
        text = vault("view", str(file), way=f" Is {password} the one by which it was encrypted?")
    elif file.exists():
        text, plain = file.read_text(encoding="utf-8"), True
    # As text: what somebody wrote there stays to the letter, tags and comments too.
    missing = sorted(wanted - set(re.findall(r"(?m)^(vault_\w+)[ \t]*:", text)))
    keys = [name for name in missing if name.endswith("_private_key")]
    if keys:
        print(f"Secrets: {', '.join(keys)} belong to certificates; add them with: ansible-vault edit {file}")
    missing = [name for name in missing if name not in keys]
    if not missing and not plain:
        print(f"Secrets: {file} has all {len(wanted) - len(keys)} that can be made.")
        return
    lines = [f"{name}: {''.join(secrets.choice(ALPHABET) for _ in range(32))}\n" for name in missing]
    encrypted = vault("encrypt", "--output", "-", text=text.rstrip("\n") + "\n" + "".join(lines))
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    with open(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as target:
        target.write(encrypted)
    new.replace(file)
    print(f"Secrets: wrote {', '.join(missing) or 'what was there'} to {file} (encrypted).")


if __name__ == "__main__":
    main()

"""What `make certificates` has written before outlasts what ansible-vault would do to it."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import yaml

from tests.repository import ROOT, run

HOSTS = '{"orthanc": {"hosts": {"pacs": {"nginx_server_name": "pacs.example.org"}}}, "nginx": {"hosts": {"pacs": {}}}}'


def test_ansible_vault_itself_writes_no_file(tmp_path: pathlib.Path) -> None:
    """It overwrites a file before it writes it anew, and does not tell that only half fits. Here it has no room."""
    folder = tmp_path / "site" / "group_vars" / "all"
    shutil.copytree(ROOT / "inventories" / "quickstart" / "group_vars" / "all", folder)
    (tmp_path / "site" / "hosts.yml").write_text(HOSTS, encoding="utf-8")
    (tmp_path / "password").write_text("text\n", encoding="utf-8")
    environment = {"PACS_VAULT_PASSWORD_FILE": str(tmp_path / "password")}

    def make(*machines: str, **more: str) -> dict[str, Any]:
        given = ("-i", str(tmp_path / "site"), "-e", json.dumps({"certificates_machines": machines}))
        done = run("ansible-playbook", *given, "playbooks/certificates.yml", env=environment | more)
        assert done.returncode == 0, done.stdout
        shown = run("ansible-vault", "view", str(folder / "certificates.yml"), env=environment)
        assert shown.returncode == 0, shown.stderr
        return dict(yaml.safe_load(shown.stdout)["certificates_private_keys"])

    before = make("ct-1")
    program = tmp_path / "bin" / "ansible-vault"
    program.parent.mkdir()
    real = shutil.which("ansible-vault")
    program.write_text(f'#!/bin/sh\nulimit -f 1\nexec {real} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    after = make("ct-1", "mr-1", PATH=f"{program.parent}:{pathlib.Path(str(real)).parent}:/usr/bin:/bin")
    assert after == before | {"mr-1": after["mr-1"]}
    assert sorted(path.name for path in folder.glob("*cert*")) == ["certificates.yml"]
    assert (folder / "certificates.yml").stat().st_mode & 0o777 == 0o600

"""The README's first command, from a bare clone."""

from __future__ import annotations

import pathlib
import re

import pytest
import requests

from tests.hosts.conftest import run

# Images and hosts of its own, so that nothing is there yet and no other demo is touched.
APART = {"PACS_LAB_IMAGE": "pacs-lab-demo-test", "PACS_DEMO": "demo-test"}


@pytest.fixture(scope="module")
def clone(copy: pathlib.Path) -> pathlib.Path:
    return copy


def test_demo_twice_and_clean(clone: pathlib.Path) -> None:
    first = run("make", "demo", cwd=clone, env=APART, timeout=1200)
    assert "installs" in first.stdout.split("PLAY")[0], "it does not say beforehand what it will install"
    assert " passed" in first.stdout

    url = re.search(r"URL +(https://\S+)", first.stdout)
    show = re.search(r"Password +(.*?)\n +DICOM", first.stdout.replace("\\\n", ""), re.DOTALL)
    assert url
    assert show
    secrets = run("sh", "-c", " ".join(show[1].split()), cwd=clone).stdout
    password = re.search(r"vault_orthanc_admin_password: (\S+)", secrets)
    assert password
    # No password in what a user sees, or copies into a ticket.
    assert password[1] not in first.stdout
    certificate = clone / "site.crt"
    container = re.search(r"docker exec -it (\S+)-pacs bash", first.stdout)
    assert container
    shell = ("docker", "exec", f"{container[1]}-pacs", "sh", "-c")
    certificate.write_text(run(*shell, "cat /etc/pacs/nginx/self-signed-*.crt").stdout, encoding="utf-8")
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(certificate)
        answer = session.get(f"{url[1]}system", auth=("admin", password[1]), timeout=20)
    assert answer.json()["Version"] == "1.12.7"

    again = run("make", "demo", cwd=clone, env=APART, timeout=600)
    recaps = re.findall(r"changed=(\d+)", again.stdout)
    # The verification uploads its own patient and removes it, on the control node's account.
    assert set(recaps) == {"0"}, f"the second run changes something: {recaps}"

    run("make", "clean", cwd=clone, env=APART)
    assert not (clone / ".venv").exists()
    assert not (clone / ".cache").exists()
    assert not run("docker", "ps", "--all", "--quiet", "--filter", f"name={container[1]}").stdout
    assert not run("docker", "image", "ls", "--quiet", APART["PACS_LAB_IMAGE"]).stdout

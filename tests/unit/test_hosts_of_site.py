"""A run in which nothing would be done is no success."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from ansible import context
from ansible.errors import AnsibleFilterError
from ansible_collections.dicom.orthanc.plugins.filter.site import hosts_of_site

from tests.repository import run

GOOD = {"all": ["pacs", "db"], "ungrouped": [], "orthanc": ["pacs"], "postgresql": ["db"]}


@pytest.fixture(autouse=True)
def arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    given: dict[str, Any] = {"tags": ("all",), "syntax": False}
    monkeypatch.setattr(context, "CLIARGS", given)
    return given


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"nginx": []},
        {"europe": ["pacs"], "orthanc_old": ["pacs"], "proxies": ["pacs"]},
        # What is nearly ours, and has nobody who is not there.
        {"orthancs": ["pacs"]},
    ],
)
def test_there_is_something_to_do(more: dict[str, list[str]]) -> None:
    assert hosts_of_site(GOOD | more) == "all"
    assert hosts_of_site(GOOD | more, "orthanc") == "all"


@pytest.mark.parametrize(
    "groups, role, words",
    [
        (
            {"all": [], "ungrouped": []},
            "",
            "in the groups backup, etcd, haproxy, keepalived, mysql, nginx, orthanc, postgresql, so nothing would be",
        ),
        ({"all": ["pacs"], "ungrouped": ["pacs"]}, "", "No host of the inventory"),
        ({"all": ["pacs"], "orthank": ["pacs"]}, "", "a group 'orthank', .* Did you mean 'orthanc'"),
        (GOOD | {"ngnix": ["pacs"]}, "", "Did you mean 'nginx'"),
        (GOOD | {"orthancs": ["other"]}, "", "Did you mean 'orthanc'"),
        ({"all": ["pacs"], "orthanc": [], "nginx": ["pacs"]}, "orthanc", "in the group orthanc, so nothing"),
    ],
)
def test_nothing_would_be_done(groups: dict[str, list[str]], role: str, words: str) -> None:
    with pytest.raises(AnsibleFilterError, match=words):
        hosts_of_site(groups, role)


@pytest.mark.parametrize("option, value", [("tags", ("orthanc",)), ("start_at_task", "Nginx")])
def test_arguments_by_which_nothing_would_be_done(arguments: dict[str, Any], option: str, value: Any) -> None:
    arguments[option] = value
    with pytest.raises(AnsibleFilterError, match=f"--{option.replace('_', '-')}: "):
        hosts_of_site(GOOD)


@pytest.mark.parametrize(
    "playbook, arguments, words",
    [
        ("check", ["-i", "{wrong}"], "Did you mean 'orthanc'"),
        ("site", ["-i", "{wrong}"], "Did you mean 'orthanc'"),
        ("verify", ["-i", "{wrong}"], "Did you mean 'orthanc'"),
        ("verify", ["-i", "{good}", "--limit", "web"], "None of the hosts of this run is in the group orthanc"),
        ("check", ["-i", "{good}", "--limit", "other"], "no host of this run is in a group of the toolkit"),
    ],
)
def test_playbooks_do_not_end_well(tmp_path: pathlib.Path, playbook: str, arguments: list[str], words: str) -> None:
    good = "orthanc: {hosts: {pacs: }}\nnginx: {hosts: {web: }}\nx: {hosts: {other: }}"
    files = {"wrong": "orthank: {hosts: {pacs: }}", "good": good}
    for name, text in files.items():
        (tmp_path / f"{name}.yml").write_text(f"---\n{text}\n", encoding="utf-8")
    paths = {name: str(tmp_path / f"{name}.yml") for name in files}
    done = run("ansible-playbook", *(argument.format(**paths) for argument in arguments), f"playbooks/{playbook}.yml")
    assert done.returncode != 0
    assert words in " ".join((done.stdout + done.stderr).split())

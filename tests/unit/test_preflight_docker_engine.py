"""What the role docker_engine asks of an inventory, and of an engine that is there."""

from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import docker_engine

from tests.unit.good_host import PROBE, host, one_problem, pair, problems

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"docker_engine_log_options": {"max-size": "much"}}, "docker_engine_log_options.max-size", "is not like 10m"),
    ({"docker_engine_log_options": {"max-file": 0}}, "docker_engine_log_options.max-file", "is not like 3"),
    ({"docker_engine_registry_mirrors": ["mirror.example.org"]}, "docker_engine_registry_mirrors", "is no URL"),
    ({"docker_engine_registry_mirrors": ["https://me:pw@x"]}, "docker_engine_registry_mirrors", "is no URL"),
    (
        {"docker_engine_registry_certificates": {"https://a": pair()[0]}},
        "docker_engine_registry_certificates",
        "no host",
    ),
    ({"docker_engine_registry_certificates": {"a:5000": "/ca.crt"}}, "docker_engine_registry_certificates", "PEM form"),
    ({"docker_engine_address_pools": [{"base": "10.99.0.0/16"}]}, "docker_engine_address_pools", "is no pool"),
    ({"docker_engine_address_pools": [{"base": "10.0.0.0/16", "size": 8}]}, "docker_engine_address_pools", "no pool"),
    ({"docker_engine_settings": {"log-opts": {}}}, "docker_engine_settings.log-opts", "variable of its own"),
]


@pytest.mark.parametrize("changes, variable, part", WRONG)
def test_one_thing_wrong(changes: dict[str, Any], variable: str, part: str) -> None:
    one_problem(changes, variable, part)


def test_engine_that_others_use() -> None:
    """Before anything changes; what they have is added to, and refused where it is another one."""
    seen = {"problem": "", "options": {"data-root": "/srv/docker"}, "ours": {}, "others": ["wiki"]}
    assert problems(engine=seen, docker_engine_registry_mirrors=["https://mirror.example.org"]) == []
    (problem,) = problems(engine=seen, docker_engine_settings={"data-root": "/data"})
    assert problem.startswith("docker_engine_settings.data-root: ")
    (problem,) = problems(engine=seen, docker_engine_address_pools=[{"base": "10.99.0.0/16", "size": 24}])
    assert problem.startswith("docker_engine_address_pools: ")
    (problem,) = problems(engine=seen | {"problem": "/etc/docker/daemon.json: broken"})
    assert problem.startswith("docker_engine_settings: /etc/docker/daemon.json: broken")


@pytest.mark.parametrize(
    "seen, expected",
    [
        ({}, True),
        ({"options": {"debug": True, "data-root": "/srv"}}, True),
        ({"options": {}}, False),
        # It is of others, and stays.
        ({"ours": {}}, True),
        ({"ours": {"debug": True, "labels": ["a"]}}, False),
        ({"cut_off": True}, False),
        ({"options": {"debug": True, "labels": ["a"]}, "ours": {"debug": True, "labels": ["a"]}}, False),
    ],
)
def test_engine_that_has_what_it_is_to_have(seen: dict[str, Any], expected: bool) -> None:
    """The role does not ask it again then."""
    there = {"problem": "", "options": {"debug": True}, "ours": {"debug": True}, "cut_off": False, "others": []}
    found = host(("docker_engine",), {"docker_engine_settings": {"debug": True}}, PROBE | {"engine": there | seen})
    assert docker_engine.found(found) == {"engine": expected}

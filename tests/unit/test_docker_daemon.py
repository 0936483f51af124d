"""A Docker engine that others use too: what is asked for is added to what they have, or refused."""

import json
import pathlib
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.module_utils.docker_daemon import Broken, merge, problems, read

THEIRS = {"data-root": "/srv/docker", "insecure-registries": ["wiki:5000"]}
MIRROR = {"registry-mirrors": ["https://mirror.example.org"]}
POOLS = {"default-address-pools": [{"base": "10.99.0.0/16", "size": 24}]}
SEEN: dict[str, Any] = {"problem": "", "options": THEIRS, "ours": {}, "others": ["wiki"]}


def test_nothing_asked_for_changes_nothing() -> None:
    assert merge(THEIRS, {}, {}).options == THEIRS


def test_what_others_have_stays() -> None:
    merged = merge(THEIRS, {}, MIRROR)
    assert merged.options == THEIRS | MIRROR
    assert (merged.ours, merged.conflicts, merged.restart) == (MIRROR, {}, [])
    assert list(problems(SEEN, merged)) == []


def test_what_is_not_asked_for_any_more_goes() -> None:
    assert merge(THEIRS | MIRROR, MIRROR, {}).options == THEIRS
    # Somebody else has taken it over.
    changed = THEIRS | {"registry-mirrors": ["https://other.example.org"]}
    assert merge(changed, MIRROR, {}).options == changed


def test_what_others_have_already_is_theirs() -> None:
    merged = merge(THEIRS | MIRROR, {}, MIRROR)
    assert merged.options == THEIRS | MIRROR
    assert merged.ours == {}


def test_another_value_of_others_is_refused() -> None:
    (said,) = problems(SEEN, merge(THEIRS, {}, {"data-root": "/data"}))
    assert said.startswith('docker_engine_settings.data-root: /etc/docker/daemon.json has "/srv/docker"')
    (said,) = problems(SEEN, merge(MIRROR, {}, {"registry-mirrors": ["https://a.example.org"]}))
    assert said.startswith("docker_engine_registry_mirrors: ")


def test_a_restart_that_would_take_others_along_is_refused() -> None:
    merged = merge(THEIRS, {}, POOLS)
    (said,) = problems(SEEN, merged)
    assert said.startswith("docker_engine_address_pools: ")
    assert "wiki" in said
    assert list(problems(SEEN | {"others": []}, merged)) == []


def test_broken_file_is_refused(tmp_path: pathlib.Path) -> None:
    assert read(str(tmp_path / "missing.json")) == {}
    for text in ('{"data-root": ', "[]"):
        (tmp_path / "daemon.json").write_text(text, encoding="utf-8")
        with pytest.raises(Broken, match=r"daemon\.json: "):
            read(str(tmp_path / "daemon.json"))
    (tmp_path / "daemon.json").write_text(json.dumps(THEIRS), encoding="utf-8")
    assert read(str(tmp_path / "daemon.json")) == THEIRS
    assert [said for said in problems(SEEN | {"problem": "x: broken"}, merge({}, {}, {})) if "x: broken" in said]

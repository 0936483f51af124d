"""Each check of the verification is broken on purpose by `make test-broken`; a new one needs a breakage too."""

import dataclasses
import json
import pathlib
from typing import Any

from tests.breakages.address import ADDRESS
from tests.breakages.cluster import CLUSTER
from tests.breakages.hosts import BREAKAGES
from tests.breakages.lies import LIES
from tests.breakages.names import SAMPLE, covered, named
from tests.repository import run
from verification.site import Site


def test_every_check_has_a_breakage(tmp_path: pathlib.Path) -> None:
    face = dict.fromkeys(
        (
            *("proxy", "url", "http_port", "ban_after", "viewer", "viewer_site"),
            *("certificate", "users_file", "upstream_file"),
        ),
        "",
    )
    of_face = {*face, "plain_port", "proxy_connection", "certificate_file", "further"} - {"url", "http_port"}
    site: dict[str, Any] = dict.fromkeys({field.name for field in dataclasses.fields(Site)} - of_face, "")
    site |= {"name": "pacs", "users": {}, "faces": [face], "proxy_connections": [{}], "certificates": [""]}
    (tmp_path / "pacs.json").write_text(json.dumps(site), encoding="utf-8")
    suite = ["--config-file=verification/pytest.ini", f"--sites={tmp_path}", "--collect-only", "verification"]
    done = run("python", "-m", "pytest", *suite, env={"PYTEST_ADDOPTS": ""})
    checks = {named(line) for line in done.stdout.splitlines() if "::" in line}
    assert len(checks) > 250, done.stdout
    broken = {name for lie in LIES for name in lie.checks} | {
        name for one in (*BREAKAGES, *CLUSTER, *ADDRESS) for name in one.checks
    }
    assert not {check for check in checks if not covered(check, broken)}, "tests/breakages has nothing for these"
    gone = {name for name in (*broken, *SAMPLE) if not any(covered(check, [name]) for check in checks)}
    assert not gone, "what tests/breakages is for, and is no check"


def test_each_has_a_name_of_its_own() -> None:
    for names in ([lie.what for lie in LIES], [one.what for one in (*BREAKAGES, *CLUSTER, *ADDRESS)]):
        assert len(names) == len(set(names))

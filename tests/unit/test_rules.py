"""Which scripts of the role run for which variables, and what the verification says of those on a host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.rules import LOADER, OPTIONS, SCRIPTS, options, scripts

from tests.repository import ROOT
from verification.expect import Unexpected
from verification.site import Site
from verification.test_host import test_inside_scripts_are_those_of_the_inventory as compared

FOLDER = "/etc/pacs/orthanc"


def asked(**given: Any) -> dict[str, Any]:
    return dict.fromkeys(OPTIONS, ()) | given


def test_scripts_are_there_for_what_asks_for_them() -> None:
    assert scripts(asked()) == []
    assert scripts(asked(orthanc_ingest=[{}])) == ["pacs_tags.py", "pacs_ingest.py"]
    assert (
        scripts(asked(orthanc_webhooks=[{}]))
        == scripts(asked(orthanc_routes=[{}]))
        == ["pacs_tags.py", "pacs_routes.py"]
    )
    assert options(asked(orthanc_routes=[{"to": "a"}])) == {"PacsRoutes": [{"to": "a"}]}
    files = {file.name for file in (ROOT / "roles" / "orthanc" / "files").glob("pacs_*.py")}
    assert files == {LOADER, *SCRIPTS}


class Host:
    """Says what the scripts on it are."""

    def __init__(self, **sums: str) -> None:
        self.sums = {name.replace("_py", ".py"): digest for name, digest in sums.items()}

    def check_output(self, command: str, _folder: str) -> str:
        return "" if "-newermt" in command else "\n".join(f"{one}  ./{name}" for name, one in self.sums.items())


def compare(host: Host, **options: Any) -> None:
    site: Any = Site.__new__(Site)
    rules = {LOADER: "1", "pacs_tags.py": "2", "pacs_ingest.py": "3"}
    vars(site).update(scripts={"own.py": "4"}, rule_scripts=rules, config_dir=FOLDER)
    vars(site).update(ingest=[{"refuse": True}], deidentify=[])
    paths = [f"{FOLDER}/{name}" for name in ("own.py", "pacs_tags.py", "pacs_ingest.py")]
    inside = {"LuaScripts": None, "PacsPythonScripts": paths, "PacsIngest": [{"refuse": True}], "PacsDeidentify": None}
    inside |= options
    there: Any = host
    compared(site, there, {"options": inside})


GOOD = {"pacs_scripts_py": "1", "pacs_tags_py": "2", "pacs_ingest_py": "3", "own_py": "4"}


def test_those_of_the_inventory_pass() -> None:
    compare(Host(**GOOD))


@pytest.mark.parametrize(
    "sums, options, told",
    [
        (GOOD | {"pacs_ingest_py": "x"}, {}, "{'pacs_ingest.py': 'has another text'}"),
        (GOOD | {"pacs_routes_py": "x"}, {}, "{'pacs_routes.py': 'is not of the inventory'}"),
        ({name: one for name, one in GOOD.items() if one != "1"}, {}, "{'pacs_scripts.py': 'is missing'}"),
        ({name: one for name, one in GOOD.items() if one != "4"}, {}, "{'own.py': 'is missing'}"),
        (GOOD, {"PacsPythonScripts": [f"{FOLDER}/own.py"]}, "PacsPythonScripts"),
        (GOOD, {"PacsIngest": None}, "PacsIngest"),
        (GOOD, {"PacsDeidentify": [{}]}, "PacsDeidentify"),
    ],
)
def test_others_are_told_by_their_names(sums: dict[str, str], options: dict[str, Any], told: str) -> None:
    with pytest.raises(Unexpected) as found:
        compare(Host(**sums), **options)
    assert told in str(found.value)

"""The verification does what its documentation says that it does."""

import ast
import re

import pytest

from tests.checks import Row, rows
from tests.repository import ROOT
from verification.versions import SINCE

# Every call of the Orthanc Book's page on the REST API, as commands for curl have it there.
RESOURCES = ("patients", "studies", "series", "instances")
OF_AN_INSTANCE = (
    "content content/{tag} content/{tag}/0/{tag}/0/{tag} file frames/0/raw image-int16 image-uint16 image-uint8 numpy"
    " preview simplified-tags tags"
)
PAGE = {
    "POST /instances",
    *(f"GET /{level}" for level in RESOURCES),
    *(f"{method} /{level}/{{id}}" for level in RESOURCES for method in ("GET", "DELETE")),
    *(f"GET /instances/{{id}}/{name}" for name in OF_AN_INSTANCE.split()),
    "GET /instances/{id}/numpy?rescale",
    "GET /series/{id}/numpy",
    "GET /series/{id}/numpy?compress",
    "GET /studies/{id}/archive",
    "GET /studies/{id}/media",
    *(f"GET /{kind}?expand" for kind in ("peers", "modalities")),
    *(f"{method} /{kind}/{{name}}" for kind in ("peers", "modalities") for method in ("PUT", "DELETE")),
    "GET /peers/{name}/system",
    "POST /peers/{name}/store",
    *(f"POST /modalities/{{name}}/{verb}" for verb in ("echo", "move", "query", "store")),
    *(f"GET /queries/{{id}}/{part}" for part in ("level", "modality", "query", "answers", "answers/0/content")),
    "POST /queries/{id}/retrieve",
    "POST /queries/{id}/answers/0/retrieve",
    "POST /tools/find",
    "POST /tools/bulk-delete",
    "GET /changes",
    "GET /changes?limit",
    "GET /changes?limit&since",
    "DELETE /changes",
    "GET /exports",
    "DELETE /exports",
}


def test_every_row_is_read() -> None:
    text = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.match(r"\| (?!What \||---)", line)]
    assert len(rows()) == len(lines)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.what)
def test_check_exists(row: Row) -> None:
    tree = ast.parse((ROOT / row.file).read_text(encoding="utf-8"))
    assert row.test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row.file


def test_every_call_of_the_page_has_its_check() -> None:
    assert {row.call for row in rows() if row.section.startswith("The Orthanc Book")} >= PAGE


def test_every_feature_of_the_table_of_versions_is_asked_for() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("verification/test_*.py"))
    asked = re.findall(r'(?:mark\.since|lacking)\("([^"]+)"', text)
    assert set(asked) == set(SINCE)

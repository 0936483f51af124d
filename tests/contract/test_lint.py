"""The linters find nothing to say about the tree."""

import pytest

from tests.repository import run

LINTERS = ["ansible-lint -q", "yamllint --strict .", "ruff check .", "ruff format --check .", "mypy"]


@pytest.mark.parametrize("command", LINTERS)
def test_lint(command: str) -> None:
    done = run(*command.split())
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

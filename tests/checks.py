"""The table of docs/checks.md: which check makes which call."""

import dataclasses
import re

from tests.repository import ROOT

ROW = re.compile(r"^\| (?P<what>[^|]+) \| (?:`(?P<call>[^`]+)` )?\| `(?P<check>[^`]+)` \|$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table. ``call`` is empty for what is no call."""

    section: str
    what: str
    call: str
    file: str
    test: str

    @property
    def on_site(self) -> bool:
        """Whether the verification of a site makes it, and not a test of this repository."""
        return self.file.startswith("verification/")


def rows() -> list[Row]:
    """Read the table."""
    found = []
    for part in (ROOT / "docs" / "checks.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        section = part.partition("\n")[0]
        for match in ROW.finditer(part):
            file, _, test = match["check"].partition("::")
            path = file if "/" in file else f"verification/{file}.py"
            found.append(Row(section, match["what"], match["call"] or "", path, test))
    return found

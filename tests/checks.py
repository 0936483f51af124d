"""The table of docs/checks.md: which check makes which call; and how the checks of a run have ended."""

import dataclasses
import pathlib
import re
import xml.etree.ElementTree as ElementTree

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


def outcomes(report: pathlib.Path, module: str) -> dict[str, str]:
    """Tell from a JUnit report how each check of a module has ended."""
    return {
        str(case.get("name")): next((child.tag for child in case if child.tag != "properties"), "passed")
        for case in ElementTree.parse(report).iter("testcase")
        if case.get("classname") == module
    }


def left_out(report: pathlib.Path, host: str) -> set[str]:
    """Name the checks that were left out on a host, by their module; all others have to have passed."""
    found = {
        (f"{case.get('classname')}::{test}", next((child.tag for child in case if child.tag != "properties"), "passed"))
        for case in ElementTree.parse(report).iter("testcase")
        for test, _, parameters in [str(case.get("name")).partition("[")]
        if re.match(rf"{host}\b", parameters)
    }
    assert {outcome for _, outcome in found} <= {"passed", "skipped"}
    return {name for name, outcome in found if outcome == "skipped"}

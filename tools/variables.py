"""Print the reference of all variables in Markdown, out of the roles' argument specs and defaults.

Usage: variables.py > docs/variables.md
"""

import json
import pathlib
import re
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEAD = """\
# Variables

This file is generated: `make docs` writes it from `roles/*/meta/argument_specs.yml`, `roles/*/defaults/main.yml` and
`playbooks/group_vars/all.yml`.
"""
# Ansible's markup for code, option, value, module and plain emphasis.
MARKUP = re.compile(r"\b[BCIMOV]\(([^)]*)\)")


def load(path: pathlib.Path) -> Any:
    """Return the content of a YAML file, an empty dictionary if there is none."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}


def text(description: str | list[str]) -> str:
    """Turn a description into one line of Markdown."""
    paragraphs = [description] if isinstance(description, str) else description
    return MARKUP.sub(r"`\1`", " ".join(" ".join(paragraphs).split()))


def kind(option: dict[str, Any]) -> str:
    """Tell the type of an option and what it may be."""
    name = f"{option['type']} of {option['elements']}" if "elements" in option else str(option["type"])
    return f"{name}: {', '.join(f'`{choice}`' for choice in option['choices'])}" if "choices" in option else name


def code(value: Any) -> str:
    """Write a value as it would stand in an inventory."""
    plain = value if isinstance(value, str) and value else json.dumps(value)
    return f"`{' '.join(plain.split())}`"


def row(*cells: str) -> str:
    """Make the row of a table, in which a bar would end the cell even inside of code."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def role(folder: pathlib.Path) -> str:
    """Make the section of a role."""
    spec = load(folder / "meta" / "argument_specs.yml")["argument_specs"]["main"]
    defaults = load(folder / "defaults" / "main.yml")
    lines = [f"## {folder.name}", "", f"{text(spec['short_description'])}. {text(spec.get('description', ''))}", ""]
    lines += [row("Variable", "Type", "Default", "Description"), row("---", "---", "---", "---")]
    for name, option in spec["options"].items():
        default = code(defaults[name]) if name in defaults else "required"
        lines.append(row(f"`{name}`", kind(option), default, text(option["description"])))
    return "\n".join(lines) + "\n"


def derived(path: pathlib.Path) -> str:
    """Make the list of the names that are derived from others, with the comments that stand above them."""
    values = load(path)
    comments: list[str] = []
    entries: list[str] = []
    above: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        name = line.partition(":")[0]
        if line.startswith("#"):
            above.append(line.removeprefix("#").strip())
        elif name in values:
            if not entries:
                comments, above = above, []
            entries.append(" ".join([f"- `{name}`: {code(values[name])}", *above]))
            above = []
    return "\n".join(["## Derived names", "", *comments, "", *entries]) + "\n"


def main() -> None:
    sections = [role(path.parents[1]) for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))]
    print("\n".join([HEAD, *sections, derived(ROOT / "playbooks" / "group_vars" / "all.yml")]), end="")


if __name__ == "__main__":
    main()

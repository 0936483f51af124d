"""Whether an image is one of those that a rule of the inventory is for."""

import fnmatch
from typing import Any

# The threads that store an image which another one has just become, and which all rules have seen.
STORING: set[int] = set()


def matches(value: Any, patterns: Any) -> bool:
    """Tell whether a tag, or one of its values, is as one of the patterns says; empty stands for what is not there."""
    text = value if isinstance(value, str) else ""
    values = [one.strip() for one in (text, *text.split("\\"))]
    wanted = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(one, pattern.replace("[", "[[]")) for one in values for pattern in wanted)


def fits(rule: dict[str, Any], tags: dict[str, Any]) -> bool:
    """Tell whether all tags are as the rule's ``when`` says, and not all as its ``unless`` does.

    :param tags: those of an image, by their keywords, as Orthanc simplifies them.
    """
    when, unless = ({} if rule.get(name) is None else rule[name] for name in ("when", "unless"))
    excepted = unless and all(matches(tags.get(tag), wanted) for tag, wanted in unless.items())
    return not excepted and all(matches(tags.get(tag), wanted) for tag, wanted in when.items())

"""One way to fail: what was looked at, what was expected, what came, and where to look."""

from __future__ import annotations


class Unexpected(AssertionError):
    """What came is not what was expected; the message says all that a reader needs."""


def expect(what: str, expected: object, got: object, see: str = "") -> None:
    """Compare what came with what was expected.

    :param what: what was looked at, such as ``GET /system``.
    :param see: the variable, or the command, that helps when it is not as expected.
    :raises Unexpected: if the two are not equal.
    """
    if got != expected:
        raise Unexpected(f"{what}: expected {expected!r}, got {got!r}" + (f"; see {see}" if see else ""))

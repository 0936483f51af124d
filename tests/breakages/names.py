"""Names of checks: module, function, and in brackets which case."""

from __future__ import annotations

import re
from collections.abc import Iterable


def named(node: str) -> str:
    """Name a check by its node, without the site that it is about.

    >>> named("verification/test_rest.py::test_find[pacs-list]")
    'test_rest::test_find[list]'
    """
    file, _, rest = node.partition(".py::")
    module, (test, _, case) = file.rpartition("/")[2], rest.partition("[")
    case = re.sub(r"^(pacs|far)-?", "", case.removesuffix("]"))
    return f"{module}::{test}" + (f"[{case}]" if case else "")


def covered(name: str, checks: Iterable[str]) -> bool:
    """Tell whether a check is among those that are named; one without brackets stands for all of its cases."""
    return bool({name, name.partition("[")[0]} & set(checks))


# On which port the liar listens, on each host with an Orthanc.
LIAR_PORT = 9042
# What is run before and after all lies.
HONEST = ("before", "after")
# One of each kind, by which a breakage is seen to be no other than it says.
SAMPLE = (
    "test_access::test_every_user_gets_in",
    "test_dicom::test_echo",
    "test_dicomweb::test_qido_finds_the_instance",
    "test_pictures::test_pixels_as_pam[image-uint16]",
    "test_remote::test_peers_answer",
    "test_rest::test_explorer_is_there",
    "test_rest::test_file_comes_back_bit_for_bit",
    "test_rest::test_metadata_come_and_go[study]",
    "test_transfer_syntaxes::test_tags_are_right[MR, RLE]",
)
# Of these, what needs the disposable patient.
WRITES = SAMPLE[2:4] + SAMPLE[6:]

"""Lets the tests import the collection, from where `make setup` links this clone, and repeats them alike."""

import sys

from hypothesis import settings

from tests.repository import ROOT

sys.path.insert(0, str(ROOT / ".cache" / "collections"))
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts pacs_backup, which lies beside it."""

import runpy
import sys

# In that folder is what the role has put there, and nothing else.
sys.dont_write_bytecode = True
runpy.run_module("pacs_backup", run_name="__main__")

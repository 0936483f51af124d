# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render the templates for the module of the same name, which writes them."""

from ansible_collections.dicom.orthanc.plugins.action.write_files import ActionModule

__all__ = ["ActionModule"]

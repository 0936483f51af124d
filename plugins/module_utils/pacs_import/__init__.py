# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Existing images into an archive: what `pacs-import` and the module `orthanc_import` both do.

Needs nothing but Python itself, so that it runs on a host as it is. Names of files are bytes, since those on old disks
are in any encoding.
"""

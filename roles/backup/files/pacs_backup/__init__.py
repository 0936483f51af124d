# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back up the Orthanc of this host by restic, and prove that what was backed up can be had again.

Runs on the host, as root, with what Debian's Python has: by its units, and by the playbooks. What it is told stands
beside it, in settings.json. docs/backup.md says what it promises.
"""

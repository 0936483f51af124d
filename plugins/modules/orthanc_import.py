#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Import images that lie on a machine into an Orthanc."""

from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_import
short_description: Import images that lie on a machine into an Orthanc
version_added: 0.2.0
description:
  - Sends every image in folders, archives and DICOMDIRs to an Orthanc, unless it is there already.
  - Fails where an image was not taken, or where none was found. What was taken stays, and the next call goes on.
  - Does the same as the command C(pacs-import), and needs nothing but Python; C(python3-zstandard) for C(.tar.zst).
author: The dicom.orthanc authors (!UNKNOWN)
options:
  sources:
    description: >-
      Folders, zip and tar archives (gz, bz2, xz, zst), DICOMDIRs or files on the machine that runs this;
      C(dicom:NAME), all that a modality of this Orthanc has, by C-FIND and C-MOVE; or the URL of another Orthanc or of
      DICOMweb.
    type: list
    elements: path
    required: true
  report:
    description: >-
      Folder for the journal, by which the next call goes on, C(summary.json), and C(files.csv) with the fate of each
      file. For its owner alone, since they name patients.
    type: path
    required: true
  url:
    description: Of the Orthanc, or of the proxy before it.
    type: str
    default: http://127.0.0.1:8042/
  user:
    description: To log in as. Empty for none.
    type: str
    default: ""
  password:
    description: Its password.
    type: str
    default: ""
  ca:
    description: >-
      What the server is trusted by: its certificate or that of its authority, as PEM text or as a file. Empty for what
      the machine trusts.
    type: str
    default: ""
  certificate:
    description: File with a client certificate, where the server asks for one.
    type: path
    default: ""
  key:
    description: File with its private key, where that is another one.
    type: path
    default: ""
  from_user:
    description: To log in to the archive as that a URL among the sources leads to. Empty for none.
    type: str
    default: ""
  from_password:
    description: Its password.
    type: str
    default: ""
  from_ca:
    description: What that archive is trusted by, as C(ca).
    type: str
    default: ""
  patients:
    description: PatientIDs, and those that their images come in with.
    type: dict
    default: {}
  anonymize:
    description: >-
      Whether the patient is taken out of each image on its way, by Orthanc's own profile, by a second Orthanc on the
      machine that runs this. What identifiers become is told by C(anonymize.key) in the report's folder.
    type: bool
    default: false
  orthanc:
    description: >-
      The binary of that one, or C(docker:IMAGE) for the one in an image that Docker has there. Empty for the binary in
      C($PATH) or in C(/usr/sbin).
    type: path
    default: ""
  connections:
    description: How many images are sent at the same time. 0 for one, which leaves half of the time to others.
    type: int
    default: 0
  modalities:
    description: Only images of these modalities. Empty for all.
    type: list
    elements: str
    default: []
  since:
    description: Only studies of this day, such as C(20260131), or later.
    type: str
    default: ""
  until:
    description: Only studies of this day or earlier.
    type: str
    default: ""
  verify:
    description: Whether each image is compared with what Orthanc serves afterwards.
    type: bool
    default: false
  settings:
    description: >-
      Of Orthanc's options those that tell whether images would be sent on or transcoded, or older ones removed:
      C(LuaScripts), C(PythonScript), C(IngestTranscoding), C(MaximumStorageSize), C(MaximumStorageMode),
      C(MaximumPatientCount). Without them, only what Orthanc tells of itself is known.
    type: dict
  accepted_risks:
    description: >-
      C(recycling), to begin all the same where Orthanc would remove older images for the new ones, and C(routing),
      where it may send them on.
    type: list
    elements: str
    choices: [recycling, routing]
    default: []
  patience:
    description: For how many seconds an Orthanc is waited for that does not answer.
    type: int
    default: 600
  spool:
    description: Folder on a disk for what is too large for memory. Empty for that of the report.
    type: path
    default: ""
attributes:
  check_mode:
    description: Sends nothing, and tells what would be stored.
    support: full
"""

EXAMPLES = r"""
- name: Import a folder that lies on Orthanc's host
  dicom.orthanc.orthanc_import:
    sources: [/srv/old-pacs]
    report: /var/lib/pacs/import
    user: admin
    password: "{{ vault_orthanc_admin_password }}"
"""

RETURN = r"""
told:
  description: The summary for people, line by line.
  type: list
  elements: str
  returned: when it could begin
files:
  description: How many files had which fate.
  type: dict
  returned: when it could begin
  sample: {stored: 5120, already there: 12, no DICOM: 3}
images:
  description: How many patients, studies, series and instances the archive has by it.
  type: dict
  returned: when it could begin
  sample: {patients: 3, studies: 4, series: 20, instances: 5132}
wrong:
  description: Files that were not taken, each with its fate and the reason; the first thousand of each fate.
  type: list
  elements: dict
  returned: when it could begin
studies_of_several_patients:
  description: Studies that more than one patient has.
  type: list
  elements: dict
  returned: when it could begin
report:
  description: The folder of the report.
  type: str
  returned: when it could begin
"""

import os
import sqlite3

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.client import Ended
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.connect import PATIENT
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.fates import NEW, STORED
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.journal import Busy
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.load import Import, Options
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.modality import day
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.progress import Progress
from ansible_collections.dicom.orthanc.plugins.module_utils.pacs_import.verdict import GOOD, NO_REPORT, exit_code, told


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sources": {"type": "list", "elements": "path", "required": True},
            "report": {"type": "path", "required": True},
            "url": {"type": "str", "default": "http://127.0.0.1:8042/"},
            "user": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
            "ca": {"type": "str", "default": ""},
            "certificate": {"type": "path", "default": ""},
            "key": {"type": "path", "default": "", "no_log": False},
            "from_user": {"type": "str", "default": ""},
            "from_password": {"type": "str", "default": "", "no_log": True},
            "from_ca": {"type": "str", "default": ""},
            # The system's log, where arguments go, is no place for them.
            "patients": {"type": "dict", "default": {}, "no_log": True},
            "anonymize": {"type": "bool", "default": False},
            "orthanc": {"type": "path", "default": ""},
            "connections": {"type": "int", "default": 0},
            "modalities": {"type": "list", "elements": "str", "default": []},
            "since": {"type": "str", "default": ""},
            "until": {"type": "str", "default": ""},
            "verify": {"type": "bool", "default": False},
            "settings": {"type": "dict"},
            "accepted_risks": {
                "type": "list",
                "elements": "str",
                "choices": ["recycling", "routing"],
                "default": [],
            },
            "patience": {"type": "int", "default": 600},
            "spool": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    for name in ("since", "until"):
        try:
            day(params[name] or "20260131")
        except ValueError:
            module.fail_json(f"{name}: '{params[name]}' is no day such as 20260131.")
    patients = {str(old): str(new) for old, new in params["patients"].items()}
    # No log has them by now. Masked, they would be missing in what is told, and so would each number with one in it.
    module.no_log_values -= {*patients, *patients.values()} - {params["password"], params["from_password"]}
    params["patients"] = {}
    for old, new in patients.items():
        if not PATIENT.fullmatch(new):
            module.fail_json(f"patients: what '{old}' is to become is no PatientID of plain letters.")
    options = Options(
        sources=[os.fsencode(source) for source in params["sources"]],
        url=params["url"],
        report=params["report"],
        login=(params["user"], params["password"]),
        from_login=(params["from_user"], params["from_password"]),
        from_authority=params["from_ca"],
        authority=params["ca"],
        certificate=params["certificate"],
        key=params["key"],
        connections=params["connections"] or 1,
        gentle=not params["connections"],
        spool=params["spool"],
        patience=params["patience"],
        dry_run=module.check_mode,
        verify=params["verify"],
        modalities=frozenset(map(str.upper, params["modalities"])),
        since=params["since"],
        until=params["until"],
        patients=patients,
        anonymize=params["anonymize"],
        orthanc=params["orthanc"],
        accepted=frozenset(params["accepted_risks"]),
        settings=params["settings"],
    )
    try:
        made = Import(options, Progress(None))
    except (Busy, Ended, OSError) as error:
        module.fail_json(f"Nothing was imported: {error}")
    try:
        summary = made.run()
    except (OSError, sqlite3.Error) as error:
        module.fail_json(f"{NO_REPORT}: {error}")
    lines = told(summary)
    result = {name: summary[name] for name in ("files", "images", "wrong", "studies_of_several_patients", "report")}
    result |= {"told": lines, "changed": bool(summary["files"].get(STORED) or summary["files"].get(NEW))}
    if exit_code(summary) != GOOD:
        module.fail_json("\n".join(lines), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()

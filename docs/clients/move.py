"""Fetch studies from another archive by C-MOVE: python move.py archive PatientID=4711 StudyDate=20260101-

The archive is an entry of orthanc_modalities, and has to know this Orthanc by title and address. What it has found goes
to this Orthanc; to another modality with --to=TITLE.
"""

from __future__ import annotations

import sys

from connect import done, site, tags
from pyorthanc import Job, Modality

name, *pairs = (argument for argument in sys.argv[1:] if not argument.startswith("--to="))
target = next((argument.removeprefix("--to=") for argument in sys.argv if argument.startswith("--to=")), "")

with site() as client:
    archive = Modality(client, name)
    if not archive.echo():
        sys.exit(f"{name} does not answer C-ECHO; see orthanc_modalities, and whether it knows this Orthanc")
    # What is to be told of each is asked for by an empty value.
    found = archive.find({"Level": "Study", "Query": {"StudyInstanceUID": "", "StudyDescription": "", **tags(pairs)}})
    for answer in found["answers"]:
        print(answer.get("StudyInstanceUID", ""), answer.get("StudyDescription", ""), sep="\t")
    if found["answers"]:
        job = archive.move(found["ID"], {"TargetAet": target or client.get_system()["DicomAet"], "Synchronous": False})
        done(Job(job["ID"], client))

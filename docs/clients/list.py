"""List the studies of a site, a page at a time: python list.py"""

from __future__ import annotations

import itertools

from connect import site

PAGE = 100

with site() as client:
    for since in itertools.count(0, PAGE):
        studies = client.get_studies({"expand": "", "since": since, "limit": PAGE})
        for study in studies:
            tags = {**study["PatientMainDicomTags"], **study["MainDicomTags"]}
            shown = (tags.get(name, "") for name in ("PatientID", "PatientName", "StudyDate", "StudyDescription"))
            print(study["ID"], *shown, sep="\t")
        if len(studies) < PAGE:
            break

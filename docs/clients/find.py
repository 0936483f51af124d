"""Find studies: python find.py 'PatientName=Doe*' StudyDate=20260101-20261231 ModalitiesInStudy=CT"""

from __future__ import annotations

import sys

from connect import site, tags
from pyorthanc import find_studies

with site() as client:
    for study in find_studies(client, query=tags(sys.argv[1:])):
        modalities = {series.modality for series in study.series}
        print(study.id_, study.patient_information.get("PatientID", ""), *sorted(modalities), study.uid, sep="\t")

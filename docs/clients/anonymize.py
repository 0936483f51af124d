"""Have a copy of a study that tells nothing of its patient: python anonymize.py ID PatientID=T-7 PatientName=T-7

It is done by the rules of DICOM PS3.15 as Orthanc knows them. What is burnt into the pixels stays: look at the images.
"""

from __future__ import annotations

import sys

from connect import done, site, tags
from pyorthanc import Study

study, *pairs = sys.argv[1:]

with site() as client:
    # PatientID is one of those that are replaced by force alone.
    job = Study(study, client).anonymize_as_job(replace=tags(pairs), force=True)
    print(done(job).content["ID"])

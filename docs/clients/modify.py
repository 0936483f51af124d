"""Have a corrected copy of a study: python modify.py ID StudyDescription=Thorax AccessionNumber=4711

The copy gets UIDs of its own, as DICOM wants it, and the study stays as it is. With --instead it goes.
"""

from __future__ import annotations

import sys

from connect import done, site, tags
from pyorthanc import Study

study, *pairs = (argument for argument in sys.argv[1:] if argument != "--instead")

with site() as client:
    job = Study(study, client).modify_as_job(replace=tags(pairs), keep_source="--instead" not in sys.argv)
    print(done(job).content["ID"])

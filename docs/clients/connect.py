"""How the programs beside log in to a site, and read what they are asked for.

PACS_URL is the site, such as https://pacs.example.org/, PACS_USER the user, and PACS_CA a file with the certificate of
the site or of its authority, where the operating system does not trust it. The password is in PACS_PASSWORD, or asked
for: on a command line others could read it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import ssl
import sys
from collections.abc import Iterator

import httpx
import pydicom.datadict
from pyorthanc import Job, Orthanc
from pyorthanc.jobs import State

# In seconds. The library's own is 5, and the first byte of a big archive takes longer.
PATIENCE = 300


@contextlib.contextmanager
def site() -> Iterator[Orthanc]:
    """Log in, and end the program with one line where the site refuses something."""
    try:
        url, user = os.environ["PACS_URL"], os.environ["PACS_USER"]
    except KeyError as missing:
        sys.exit(f"set {missing.args[0]}; {__doc__}")
    password = os.environ.get("PACS_PASSWORD") or getpass.getpass(f"Password of {user}: ")
    trust = ssl.create_default_context(cafile=os.environ.get("PACS_CA"))
    # Newer Pythons would hold a site's own certificate to rules that it was not made by.
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        with Orthanc(url.rstrip("/"), user, password, verify=trust, timeout=PATIENCE, trust_env=False) as client:
            yield client
    except httpx.HTTPError as error:
        sys.exit(f"{url}: {error}")


def tags(pairs: list[str]) -> dict[str, str]:
    """Return what stands in arguments such as PatientID=4711. Orthanc would ignore what is no tag of DICOM."""
    found = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    for pair in pairs:
        name = pair.partition("=")[0]
        if name not in found or pydicom.datadict.tag_for_keyword(name) is None:
            sys.exit(f"'{pair}' is not like PatientID=4711, with the name of a tag of DICOM")
    return found


def done(job: Job) -> Job:
    """Wait for a job, and end the program where it fails."""
    job.wait_until_completion(time_interval=1)
    if job.state is not State.success:
        sys.exit(f"job {job.id_} has ended with {job.state.value}: {job.error_details or job.error.name}")
    return job

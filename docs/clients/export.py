"""Write a study into a ZIP archive with a DICOMDIR, as for a disc: python export.py ID FILE.zip"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import zipfile

from connect import site

study, path = sys.argv[1:]

# Nobody else may read it, and half an archive is never taken for one.
with site() as client, tempfile.NamedTemporaryFile(dir=os.path.dirname(path) or ".", prefix=".", delete=False) as file:
    try:
        # Study.download of the library would write what the site says of an error into the file.
        with client.stream("GET", f"{client.url}/studies/{study}/media?extended") as answer:
            answer.raise_for_status()
            for block in answer.iter_bytes():
                file.write(block)
        file.flush()
        with zipfile.ZipFile(file.name) as archive:
            spoilt = archive.testzip()
            images = [name for name in archive.namelist() if name != "DICOMDIR"]
        if spoilt:
            sys.exit(f"{spoilt} has not come whole")
        os.replace(file.name, path)
        print(path, len(images), sep="\t")
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file.name)

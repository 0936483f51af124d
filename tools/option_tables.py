"""Write the options that known Orthanc releases accept, from the samples that their binaries print.

Usage: option_tables.py VERSION=FILE[,FILE] ... > roles/orthanc/files/known_options.json

where each FILE holds what `Orthanc --config=-` (and, from 1.13.0, `Orthanc --advanced-config=-`) printed.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / ".cache" / "collections"))
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import sample_options

tables: dict[str, dict[str, str]] = {}
for argument in sys.argv[1:]:
    version, _, files = argument.partition("=")
    tables[version] = {}
    for file in files.split(","):
        tables[version] |= sample_options(pathlib.Path(file).read_text(encoding="utf-8"))
json.dump(tables, sys.stdout, indent=1, sort_keys=True)
print()

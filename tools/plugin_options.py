"""Find out which options the plugins of this host's Orthanc read, and of which type, by giving them wrong ones.

Usage: python3 plugin_options.py IMAGE.dcm [LIBRARY ...]     (on a host with Debian's packages; Python 3.11 or newer)

No plugin prints a sample of its options, but each complains of a value that is not of the type that it expects. So each
name that is documented for any release is tried with values of three types. An option that no value was complained
of is left out, be it that the release does not know it or that the plugin takes anything for it.

Prints {release: {section: {option: type}}} as JSON. What several hosts print is merged by hand into
roles/orthanc/files/plugin_options.json, with options of ANY_TYPE as they are documented.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

FOLDER = "/usr/share/orthanc/plugins"
# For each library its section, what it needs to go on reading, and the names to try. Those of the section "" stand at
# the top level.
_DATABASE = "Host Port Database Username Password EnableSsl Lock MaximumConnectionRetries ConnectionRetryInterval "
_DATABASE += "IndexConnectionsCount EnableIndex EnableStorage "
TRIED: dict[str, list[tuple[str, dict[str, object], str]]] = {
    "libDelayedDeletion.so": [("DelayedDeletion", {"Enable": True, "Path": "/tmp"}, "Enable ThrottleDelayMs Path")],
    "libHousekeeper.so": [
        (
            "Housekeeper",
            {"Enable": True},
            "Enable GlobalPropertyId Force ForceReconstructFiles ThrottleDelay Schedule Triggers"
            " LimitMainDicomTagsReconstructLevel",
        )
    ],
    "libModalityWorklists.so": [
        (
            "Worklists",
            {"Enable": True, "Database": "/tmp", "Directory": "/tmp"},
            "Enable Database FilterIssuerAet LimitAnswers Directory SaveInOrthancDatabase DeleteWorklistsOnStableStudy"
            " HousekeepingInterval DeleteWorklistsDelay SetStudyInstanceUidIfMissing",
        )
    ],
    "libMultitenantDicom.so": [("MultitenantDicom", {}, "Servers")],
    "libOrthancDicomWeb.so": [
        (
            "DicomWeb",
            {"Enable": True, "StudiesMetadata": "MainDicomTags", "SeriesMetadata": "Full"},
            "Enable Root EnableWado WadoRoot Ssl Host PublicRoot QidoCaseSensitive StudiesMetadata SeriesMetadata"
            " EnableMetadataCache MetadataWorkerThreadsCount WadoRsLoaderThreadsCount EnablePerformanceLogs"
            " OtherBinaryMode Servers ServersInDatabase",
        )
    ],
    "libOrthancGdcm.so": [("Gdcm", {"Enable": True}, "Enable Throttling RestrictTransferSyntaxes")],
    "libOrthancMySQLIndex.so": [
        (
            "MySQL",
            {"EnableIndex": True, "Database": "orthanc"},
            _DATABASE + "UnixSocket SslVerifyServerCertificates SslCACertificates",
        )
    ],
    "libOrthancMySQLStorage.so": [("MySQL", {"EnableStorage": True, "Database": "orthanc"}, "EnableStorage")],
    "libOrthancNeuro.so": [("Neuro", {}, "Enable")],
    "libOrthancPostgreSQLIndex.so": [
        (
            "PostgreSQL",
            {"EnableIndex": True},
            _DATABASE + "ConnectionUri TransactionMode EnableVerboseLogs HousekeepingInterval"
            " AllowInconsistentChildCounts UseDynamicConnectionPool Schema ApplicationName",
        )
    ],
    "libOrthancPostgreSQLStorage.so": [("PostgreSQL", {"EnableStorage": True}, "EnableStorage")],
    "libOrthancPython.so": [
        ("", {"PythonScript": "/tmp/empty.py"}, "PythonScript PythonVerbose"),
        ("Python", {}, "Path Verbose AllowThreads DisplayMemoryUsage Script"),
    ],
    "libOrthancWSI.so": [
        ("WholeSlideImaging", {}, "EnableIIIF OrthancPublicIIIFUrl ServeMirador ServeOpenSeadragon Threads")
    ],
    "libOrthancWebViewer.so": [("WebViewer", {}, "CachePath CacheSize Threads")],
    # Any other key is a path of a URI, which a text belongs to.
    "libServeFolders.so": [("ServeFolders", {"Folders": {}}, "Folders AllowCache GenerateETag Extensions")],
}
KINDS = (
    ("Boolean", "bool"),
    ("list of strings", "list"),
    ("associative", "dict"),
    ("dictionary", "dict"),
    ("array", "list"),
    ("integer", "int"),
    ("string", "str"),
)
PORT = 18042


def ask(image: bytes) -> None:
    """Upload an image and ask for it, since some options are read only then."""
    base = f"http://127.0.0.1:{PORT}"
    for path, body in (("/instances", image), ("/dicom-web/studies", None), ("/dicom-web/series", None)):
        try:
            with urllib.request.urlopen(urllib.request.Request(base + path, body), timeout=5) as answer:
                answer.read()
        except OSError:
            pass
    try:
        with urllib.request.urlopen(base + "/studies?expand", timeout=5) as answer:
            uid = json.load(answer)[0]["MainDicomTags"]["StudyInstanceUID"]
        for path in ("metadata", "series", "", "rendered"):
            urllib.request.urlopen(f"{base}/dicom-web/studies/{uid}/{path}".rstrip("/"), timeout=5).close()
    except (OSError, LookupError):
        pass


def start(library: str, options: dict[str, object], image: bytes) -> str:
    """Start Orthanc with one plugin, end it, and return what it logged."""
    with tempfile.TemporaryDirectory() as folder:
        configuration = {
            "StorageDirectory": folder,
            "Plugins": [f"{FOLDER}/{library}"],
            "HttpPort": PORT,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            **options,
        }
        path, log = pathlib.Path(folder, "orthanc.json"), pathlib.Path(folder, "log")
        path.write_text(json.dumps(configuration))
        with log.open("wb") as output:
            process = subprocess.Popen(["Orthanc", "--verbose", str(path)], stdout=output, stderr=output)
            end = time.monotonic() + 5
            while time.monotonic() < end and process.poll() is None:
                if b"database from plugins" in log.read_bytes():
                    break
                if b"Orthanc has started" in log.read_bytes():
                    ask(image)
                    break
                time.sleep(0.02)
            process.kill()
            process.wait()
        return log.read_text(errors="replace")


def expected(name: str, log: str) -> str:
    """Return the type that the log says an option has to have, or nothing."""
    found = re.search(rf'"(?:[^"]*\.)?{name}" (?:is not|must be) (.*)', log)
    return next((kind for words, kind in KINDS if words in found[1]), found[1]) if found else ""


def main() -> None:
    image, libraries = pathlib.Path(sys.argv[1]).read_bytes(), sys.argv[2:] or sorted(TRIED)
    pathlib.Path("/tmp/empty.py").touch()
    version = subprocess.run(["Orthanc", "--version"], capture_output=True, text=True, check=True).stdout
    table: dict[str, dict[str, str]] = {}
    for library in libraries:
        for section, needed, names in TRIED[library] if os.path.exists(f"{FOLDER}/{library}") else []:
            options = table.setdefault(section, {})
            for name in names.split():
                values: tuple[object, ...] = ({}, "x", 7)
                for wrong in values:
                    given = {**needed, name: wrong}
                    kind = expected(name, start(library, {section: given} if section else dict(given), image))
                    if kind:
                        options[name] = kind
                        break
            print(library, section, options, file=sys.stderr, flush=True)
    json.dump({re.findall(r"Orthanc (\S+)", version)[0]: table}, sys.stdout, indent=1, sort_keys=True)


if __name__ == "__main__":
    main()

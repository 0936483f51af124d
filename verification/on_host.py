"""Ask the Orthanc of this host past the proxy. Runs on the host, as root, with what Debian's Python has.

Arguments: the configuration folder, the port, the storage folder, and the folder of the database if it is on this
host. The login is read where Orthanc reads it, so that no command line shows it. Prints JSON: the status of each
request, and what Orthanc says of itself.
"""

import base64
import glob
import http.client
import json
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request

folder, port, storage, database = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(path: str, login: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if login:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except (OSError, http.client.HTTPException):
        # It does not run, or waits for its database. What else is known of the host is told all the same.
        return 0, b""


with open(f"{folder}/credentials.json", encoding="utf-8") as file:
    right = ":".join(next(iter(json.load(file)["RegisteredUsers"].items())))

options = {}
for name in glob.glob(f"{folder}/*.json"):
    if not name.endswith("credentials.json"):
        with open(name, encoding="utf-8") as file:
            options.update(json.load(file))
server = options.get("PostgreSQL", {})
if "," in str(server.get("ConnectionUri", "")):
    # Where another one is primary since, each connection answers one request with 503, and then finds it.
    for _ in range(server.get("IndexConnectionsCount", 1)):
        ask("/changes?last", right)
disk = shutil.disk_usage(storage)
plugins = json.loads(ask("/plugins", right)[1] or "[]")

print(
    json.dumps(
        {
            # What removes, forwards or rewrites images by itself, in which letters it answers, and whom.
            "options": {
                name: options.get(name)
                for name in (
                    "AuthenticationEnabled",
                    "DefaultEncoding",
                    "DicomAlwaysAllowFind",
                    "DicomAlwaysAllowGet",
                    "DicomAlwaysAllowMove",
                    "DicomAlwaysAllowStore",
                    "DicomCheckModalityHost",
                    "IngestTranscoding",
                    "IngestTranscodingOfCompressed",
                    "IngestTranscodingOfUncompressed",
                    "LuaScripts",
                    "MaximumPatientCount",
                    "MaximumStorageMode",
                    "MaximumStorageSize",
                    "PacsDeidentify",
                    "PacsIngest",
                    "PacsPythonScripts",
                    "PacsRoutes",
                    "PythonScript",
                    "RemoteAccessAllowed",
                    "TranscodeDicomProtocol",
                )
            },
            "distribution": platform.freedesktop_os_release()["PRETTY_NAME"],
            # By folder, where there has to be some for images to be taken.
            "room": {
                path: shutil.disk_usage(path).free
                for path in (storage, options.get("IndexDirectory"), database)
                if path and os.path.isdir(path)
            },
            "free": disk.free,
            "size": disk.total,
            "statistics": json.loads(ask("/statistics", right)[1] or "{}"),
            "none": ask("/system", "")[0],
            "default": ask("/system", "orthanc:orthanc")[0],
            "wrong": ask("/system", right + " ")[0],
            "index": ask("/changes?last", right)[0],
            "system": json.loads(ask("/system", right)[1] or "{}"),
            "plugins": plugins,
            # What modalities ask for, and what waits to be sent on; nothing where no script does it.
            "worklists": json.loads(ask("/pacs/worklists", right)[1] or "{}"),
            "routes": json.loads(ask("/pacs/routes", right)[1] or "{}"),
            "versions": {
                name: json.loads(ask(f"/plugins/{name}", right)[1] or "{}").get("Version", "")
                for name in plugins
                # The list also has the script of the plugins for the explorer.
                if not name.endswith(".js")
            },
        }
    )
)

"""What makes a site one where not even a disposable patient should be put without being asked."""

from __future__ import annotations

from typing import Any

from verification.site import Site
from verification.transcoding import KNOWN

# More than the patients and megabytes that the suite uploads.
PATIENTS, MEGABYTES = 10, 100


def risks(site: Site, inside: dict[str, Any]) -> list[str]:
    """Tell why conform is not begun, each reason with what would change that; nothing if it may be.

    :param inside: what Orthanc's host says of it, see ``on_host.py``.
    """
    found = {"recycling": _recycling(inside["options"], inside["statistics"]), "routing": _routing(inside)}
    hint = "; set verification_level: probe, or add {} to verification_accepted_risks"
    reasons = [text + hint.format(name) for name, text in found.items() if text and name not in site.accepted_risks]
    free = int(inside["free"]) // 2**20
    if free < MEGABYTES:
        # What the last megabytes are needed for is not for us to decide, so nobody can accept this.
        reasons.append(f"{free} MB are free at {site.storage_dir}, {MEGABYTES} are needed; see orthanc_storage_dir, df")
    syntax = inside["options"].get("IngestTranscoding") or ""
    if syntax and syntax not in KNOWN:
        # A lossy one gives images other UIDs, by which we would not find them again.
        text = "IngestTranscoding is {}, and this suite knows only what comes of those without loss, except RLE"
        reasons.append(f"{text.format(syntax)}; set verification_level: probe")
    return reasons


def _recycling(options: dict[str, Any], statistics: dict[str, Any]) -> str:
    """Tell whether our images would have Orthanc remove others."""
    if options.get("MaximumStorageMode") == "Reject":
        return ""
    held = {
        "MaximumStorageSize": (statistics.get("TotalDiskSizeMB"), MEGABYTES),
        "MaximumPatientCount": (statistics.get("CountPatients"), PATIENTS),
    }
    for option, (now, more) in held.items():
        limit = int(options.get(option) or 0)
        if not limit:
            continue
        if now is None:
            return f"{option} is {limit}, and Orthanc does not tell what is used"
        if int(now) + more > limit:
            return f"{option} is {limit}, {now} are used: Orthanc would remove old images to make room for ours"
    return ""


def _routing(inside: dict[str, Any]) -> str:
    """Tell whether scripts of the site could do something with our images."""
    active = [option for option in ("LuaScripts", "PythonScript") if inside["options"].get(option)]
    # What it runs stands in a section of its own, with names that are its own.
    active += ["the plugin java"] if "java" in inside["plugins"] else []
    return f"{' and '.join(active)}: scripts of the site may send our images on" if active else ""

"""What the verification decides before it writes, and how it names what it did."""

from __future__ import annotations

import base64
import json
import ssl
from typing import Any

import pytest
import requests
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from verification.client import Client
from verification.conftest import waiting
from verification.expect import Unexpected
from verification.patient import CT, transfer_syntaxes
from verification.risks import risks
from verification.site import Site
from verification.test_host import test_inside_plugins_are_loaded as plugins_are_loaded
from verification.test_host import test_inside_routes_deliver as routes_deliver
from verification.transcoding import kept_syntax
from verification.versions import lacking

ROOM = 10 * 2**30


def told(accepted: list[str], free: int = ROOM, statistics: dict[str, Any] | None = None, **options: Any) -> list[str]:
    site = Site.__new__(Site)
    vars(site).update(accepted_risks=accepted, storage_dir="/srv/dicom")
    plugins = options.pop("plugins", [])
    return risks(site, {"options": options, "plugins": plugins, "statistics": statistics or {}, "free": free})


@pytest.mark.parametrize(
    "options, statistics",
    [
        ({}, {}),
        ({"MaximumStorageSize": 0, "MaximumPatientCount": 0}, {"CountPatients": 9, "TotalDiskSizeMB": 9}),
        ({"MaximumStorageSize": 1000}, {"TotalDiskSizeMB": 900}),
        ({"MaximumPatientCount": 100}, {"CountPatients": 90}),
        # Nothing is recycled then: what is too much is refused.
        ({"MaximumStorageSize": 10, "MaximumStorageMode": "Reject"}, {"TotalDiskSizeMB": 9}),
        ({"LuaScripts": [], "PythonScript": ""}, {}),
    ],
)
def test_conform_may_begin(options: dict[str, Any], statistics: dict[str, Any]) -> None:
    assert told([], statistics=statistics, **options) == []


@pytest.mark.parametrize(
    "risk, options, statistics",
    [
        ("recycling", {"MaximumStorageSize": 1000}, {"TotalDiskSizeMB": 901}),
        ("recycling", {"MaximumPatientCount": 100}, {"CountPatients": 91}),
        ("recycling", {"MaximumStorageSize": 1000}, {}),
        ("recycling", {"MaximumPatientCount": 100}, {}),
        ("routing", {"LuaScripts": ["/srv/route.lua"]}, {}),
        ("routing", {"PythonScript": "/srv/route.py"}, {}),
    ],
)
def test_conform_may_not_begin_unless_it_is_accepted(
    risk: str, options: dict[str, Any], statistics: dict[str, Any]
) -> None:
    (reason,) = told([], statistics=statistics, **options)
    assert next(iter(options)) in reason
    assert f"add {risk} to verification_accepted_risks" in reason
    assert told([risk], statistics=statistics, **options) == []


def test_program_of_a_plugin_may_route() -> None:
    (reason,) = told([], plugins=["dicom-web", "java"])
    assert reason.startswith("the plugin java: scripts of the site may send our images on")
    assert told(["routing"], plugins=["java"]) == []


WAITS = {"Studies": 3, "Images": 12, "Failed": 1, "Seconds": 5400}
NOTHING = {"Studies": 0, "Images": 0, "Failed": 0, "Seconds": 0}


def routed(asked: list[str], waits: dict[str, Any], problem: str = "", wanted: tuple[str, ...] = ("A", "B")) -> None:
    site = Site.__new__(Site)
    vars(site).update(routes=[{"to": name} for name in wanted if name != "C"], webhooks=[n for n in wanted if n == "C"])
    routes = {"Problem": problem, "Destinations": waits} if waits else {}
    inside = {"options": {"PacsRoutes": [{"to": name} for name in asked] or None}, "routes": routes}
    routes_deliver(site, inside)


def test_routes_deliver() -> None:
    routed([], {}, wanted=())
    routed(["B", "A", "A"], {"A": WAITS, "B": NOTHING})
    routed(["A"], {"A": WAITS, "C": NOTHING}, wanted=("A", "C"))


@pytest.mark.parametrize(
    "asked, waits, problem, told",
    [
        (["A"], {"A": WAITS}, "", "destinations in orthanc_config_dir"),
        (["A", "B"], {}, "", "destinations that are sent to"),
        (["A", "B"], {"A": WAITS, "B": NOTHING}, "disk is full", "disk is full"),
        (["A", "B"], {"A": WAITS | {"Seconds": 90_000}, "B": NOTHING}, "", "'A': 3"),
    ],
)
def test_routes_that_do_not_deliver(asked: list[str], waits: dict[str, Any], problem: str, told: str) -> None:
    with pytest.raises(Unexpected, match=told):
        routed(asked, waits, problem)


def test_report_tells_what_waits() -> None:
    assert waiting(NOTHING) == "nothing waits"
    assert waiting(WAITS) == "3 studies wait, 12 images, the first for 1.5 h; 1 tried in vain so far"
    one = {"Studies": 1, "Images": 1, "Failed": 1, "Seconds": 0}
    assert waiting(one) == "1 study waits, 1 image, the first for 0.0 h; tried in vain so far"
    assert waiting(one | {"Failed": 0}) == "1 study waits, 1 image, the first for 0.0 h"


def test_every_plugin_is_known_by_what_orthanc_reports() -> None:
    """Else a site that has it would fail."""
    site = Site.__new__(Site)
    vars(site).update(plugins=["explorer-2", "aws-s3", "azure-blob", "google-storage", "dicomweb"])
    reported = ["orthanc-explorer-2", "aws-s3-storage", "azure-blob-storage", "google-cloud-storage", "dicom-web"]
    plugins_are_loaded(site, {"plugins": reported})
    with pytest.raises(Unexpected, match="'aws-s3'"):
        plugins_are_loaded(site, {"plugins": [name for name in reported if name != "aws-s3-storage"]})


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000, RLELossless])
def test_images_that_would_not_be_found_again_cannot_be_accepted(syntax: UID) -> None:
    (reason,) = told(["recycling", "routing"], IngestTranscoding=syntax)
    assert reason.startswith(f"IngestTranscoding is {syntax}")
    assert reason.endswith("set verification_level: probe")


def test_full_disk_cannot_be_accepted() -> None:
    (reason,) = told(["recycling", "routing"], free=99 * 2**20)
    assert reason.startswith("99 MB are free at /srv/dicom")


@pytest.mark.parametrize(
    "running, able",
    [
        ({"orthanc": "1.10.1"}, False),
        ({"orthanc": "1.11.0"}, True),
        ({"orthanc": "1.12.7"}, True),
        ({"orthanc": "mainline"}, True),
        ({}, False),
    ],
)
def test_release_is_compared_by_its_numbers(running: dict[str, str], able: bool) -> None:
    assert (lacking("arrays for numpy", running) == "") == able


@pytest.mark.parametrize(
    "path, name",
    [
        ("/changes?limit=2&since=3", "GET /changes?limit&since"),
        (f"/instances/{CT.instance}/content/0042,0011", "GET /instances/{id}/content/{tag}"),
        ("/queries/01234567-89ab-cdef-0123-456789abcdef/answers/0/content", "GET /queries/{id}/answers/0/content"),
        ("/modalities/ct1/store", "GET /modalities/{name}/store"),
        ("/dicom-web/studies/1.2.3/metadata", "GET /dicom-web/studies/{uid}/metadata"),
        ("/storage-commitment/2.25.42", "GET /storage-commitment/{uid}"),
    ],
)
def test_call_is_named_without_what_differs(path: str, name: str) -> None:
    client = Client("https://site.invalid/orthanc/", ssl.create_default_context())
    request = client.prepare_request(requests.Request("GET", client.base + path))
    assert client.call(request) == name


# Images that have something special about them, and an ordinary one.
ORDINARY, NEVER, READ_BY_GDCM = "MR, RLE", "Video", "MR, JPEG 2000"
ONE_BIT, WIDE, NO_PIXELS = "Segmentation, one bit", "Dose, 15 frames", "Structured report"


@pytest.mark.parametrize(
    "wanted, gdcm, changed, unchanged",
    [
        (None, False, [], [ORDINARY, READ_BY_GDCM, NEVER, NO_PIXELS]),
        (ImplicitVRLittleEndian, False, [ORDINARY, ONE_BIT, NO_PIXELS], [READ_BY_GDCM, NEVER]),
        (ExplicitVRLittleEndian, True, [ORDINARY, WIDE, READ_BY_GDCM], [NEVER]),
        (JPEGLosslessSV1, False, [ORDINARY, NO_PIXELS], [READ_BY_GDCM, NEVER, ONE_BIT, WIDE]),
        (JPEGLSLossless, False, [ORDINARY, NO_PIXELS], [READ_BY_GDCM, NEVER, ONE_BIT, WIDE]),
        (JPEG2000Lossless, False, [], [ORDINARY, NEVER, NO_PIXELS]),
        (JPEG2000Lossless, True, [ORDINARY, WIDE], [ONE_BIT, NEVER, NO_PIXELS]),
    ],
)
def test_syntax_in_which_an_image_is_kept(
    wanted: UID | None, gdcm: bool, changed: list[str], unchanged: list[str]
) -> None:
    images = transfer_syntaxes()
    options = {"IngestTranscoding": wanted}
    assert [kept_syntax(images[name], options, gdcm) for name in changed] == [wanted] * len(changed)
    kept = [kept_syntax(images[name], options, gdcm) for name in unchanged]
    assert kept == [images[name].syntax for name in unchanged]


@pytest.mark.parametrize(
    "option, name",
    [("IngestTranscodingOfCompressed", "MR, RLE"), ("IngestTranscodingOfUncompressed", "MR, explicit big endian")],
)
def test_part_that_is_kept_as_it_came(option: str, name: str) -> None:
    image, wanted = transfer_syntaxes()[name], JPEGLosslessSV1
    assert kept_syntax(image, {"IngestTranscoding": wanted, option: True}, gdcm=False) == wanted
    assert kept_syntax(image, {"IngestTranscoding": wanted, option: False}, gdcm=False) == image.syntax


@pytest.mark.parametrize("password", ["plain", 's$cret"ü-long', "back\\slash"])
def test_password_is_found_in_any_form(password: str) -> None:
    site = Site.__new__(Site)
    vars(site).update(users={"admin": password}, inner_authorization="")
    # As Orthanc's configuration has it, and as a header does.
    written = json.dumps({"RegisteredUsers": {"admin": password}}).replace("$", "\\u0024")
    header = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()
    for text in (written, header, f"password={password}"):
        assert any(form in text for form in site.secrets["admin"])

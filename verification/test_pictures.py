"""Pictures, arrays, archives and documents out of the images that were sent."""

from __future__ import annotations

import io
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from numpy.typing import NDArray
from PIL import Image as Picture
from pydicom import dcmread
from pydicom.fileset import FileSet

from verification.actions import expect_array, expect_pixels, finished
from verification.client import Client
from verification.expect import expect
from verification.patient import CT, DOCUMENT, FILM, PDF, VIDEO, Image

PIXELS: NDArray[Any] = CT.dataset.pixel_array
PATH = f"/instances/{CT.instance}"


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_preview_is_a_picture(patient: Client, kind: str) -> None:
    answer = patient.get(f"{PATH}/preview", headers={"Accept": f"image/{kind}"})
    expect(f"preview as {kind}", 200, answer.status_code)
    with Picture.open(io.BytesIO(answer.content)) as picture:
        low, high = picture.convert("L").getextrema()
        expect("preview", (kind.upper(), (CT.dataset.Columns, CT.dataset.Rows)), (picture.format, picture.size))
    expect("preview has light and shade", True, low != high)


@pytest.mark.parametrize("route, most", [("image-uint8", 255), ("image-uint16", 65535)])
def test_pixels_as_png(patient: Client, route: str, most: int) -> None:
    answer = patient.get(f"{PATH}/{route}")
    expect(f"GET …/{route}", 200, answer.status_code)
    with Picture.open(io.BytesIO(answer.content)) as picture:
        expect_array(f"…/{route}", PIXELS.clip(0, most).astype(int), numpy.array(picture).astype(int))


@pytest.mark.parametrize("route", ["image-uint16", "image-int16"])
def test_pixels_as_pam(patient: Client, route: str) -> None:
    expect_pixels("the CT image", patient, CT, route)


def scaled(image: Image) -> NDArray[Any]:
    """Return the values that the image stands for."""
    slope, intercept = float(image.dataset.RescaleSlope), float(image.dataset.RescaleIntercept)
    return (image.dataset.pixel_array * slope + intercept).astype(numpy.float32)


@pytest.mark.since("arrays for numpy")
def test_array_of_an_image(patient: Client) -> None:
    whole = numpy.load(io.BytesIO(patient.get(f"{PATH}/numpy").content))
    expect_array("…/numpy", scaled(CT)[None, :, :, None], whole)
    raw = numpy.load(io.BytesIO(patient.get(f"{PATH}/numpy?rescale=0").content))
    expect_array("…/numpy?rescale=0", PIXELS[None, :, :, None].astype(int), raw.astype(int))


@pytest.mark.since("arrays for numpy")
def test_array_of_a_series(patient: Client, series: list[Image]) -> None:
    stack = numpy.stack([scaled(image) for image in series])[..., None]
    expect_array(
        "/series/…/numpy", stack, numpy.load(io.BytesIO(patient.get(f"/series/{series[0].series}/numpy").content))
    )
    answer = patient.get(f"/series/{series[0].series}/numpy?compress=1")
    (name,) = (archive := numpy.load(io.BytesIO(answer.content))).files
    expect("name in …/numpy?compress=1", "arr_0", name)
    expect_array("/series/…/numpy?compress=1", stack, archive[name])


@pytest.mark.parametrize("level", ["patients", "studies", "series"])
def test_archive_holds_the_files(patient: Client, series: list[Image], level: str) -> None:
    identifier = {"patients": series[0].patient, "studies": series[0].study, "series": series[0].series}[level]
    answer = patient.get(f"/{level}/{identifier}/archive")
    expect(f"GET /{level}/…/archive", 200, answer.status_code, "nginx_timeout")
    missing = {str(image.dataset.SOPInstanceUID) for image in series} - set(uids(answer.content))
    expect(f"images that are not in /{level}/…/archive", set(), missing)


def uids(content: bytes) -> list[str]:
    """Return the UIDs of the images in a ZIP archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = [archive.read(name) for name in archive.namelist() if not name.endswith("DICOMDIR")]
    return [str(dcmread(io.BytesIO(file), stop_before_pixels=True).SOPInstanceUID) for file in files]


@pytest.mark.parametrize("level", ["studies", "series"])
def test_media_have_a_dicomdir(patient: Client, series: list[Image], level: str, tmp_path: pathlib.Path) -> None:
    identifier = {"studies": series[0].study, "series": series[0].series}[level]
    answer = patient.get(f"/{level}/{identifier}/media")
    expect(f"GET /{level}/…/media", 200, answer.status_code, "nginx_timeout")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        archive.extractall(tmp_path)
    found = {str(entry.SOPInstanceUID) for entry in FileSet(tmp_path / "DICOMDIR")}
    expect("images that the DICOMDIR names", {str(image.dataset.SOPInstanceUID) for image in series}, found)


def test_archive_by_a_job(patient: Client, series: list[Image]) -> None:
    answer = patient.post(f"/studies/{series[0].study}/archive", json={"Asynchronous": True})
    expect("POST /studies/…/archive", 200, answer.status_code)
    job = answer.json()["ID"]
    state = finished(patient, job)
    expect("Type and Progress of the job", ("Archive", 100), (state["Type"], state["Progress"]))
    got = sorted(uids(patient.get(f"/jobs/{job}/archive").content))
    expect("images in /jobs/…/archive", sorted(str(image.dataset.SOPInstanceUID) for image in series), got)


def test_archive_of_several(patient: Client, series: list[Image]) -> None:
    answer = patient.post("/tools/create-archive", json={"Resources": [series[0].instance, CT.study]})
    expected = sorted(str(image.dataset.SOPInstanceUID) for image in (series[0], CT))
    expect("images of /tools/create-archive", expected, sorted(uids(answer.content)))


def test_document_comes_out(patient: Client, stored: dict[str, Image]) -> None:
    del stored
    for tag in ("0042,0011", "0042-0011"):
        got = patient.get(f"/instances/{DOCUMENT.instance}/content/{tag}").content
        expect(f"the PDF in …/content/{tag}", True, got.rstrip(b"\0") == PDF)


def test_video_comes_out(patient: Client, stored: dict[str, Image]) -> None:
    del stored
    got = patient.get(f"/instances/{FILM.instance}/frames/0/raw").content
    expect("the video in …/frames/0/raw", True, got.rstrip(b"\0") == VIDEO.rstrip(b"\0"))


def test_previews_for_the_report(
    patient: Client, stored: dict[str, Image], exhibit: Callable[[str, bytes], None], running: dict[str, str]
) -> None:
    for name, image in stored.items():
        if unseen(image, running):
            continue
        answer = patient.get(f"/instances/{image.instance}/preview")
        expect(f"preview of {name}", 200, answer.status_code, "orthanc_plugins: gdcm")
        with Picture.open(io.BytesIO(answer.content)) as picture:
            expect(f"size of the preview of {name}", (image.dataset.Columns, image.dataset.Rows), picture.size)
            picture.thumbnail((200, 200))
            small = io.BytesIO()
            picture.save(small, "PNG")
        exhibit(name, small.getvalue())


def unseen(image: Image, running: dict[str, str]) -> bool:
    """Tell whether there is nothing to see in an image, or nothing on the site that could."""
    if "Rows" not in image.dataset or image is FILM or image.dataset.BitsAllocated > 16:
        return True
    return image.syntax.name.startswith("JPEG 2000") and "gdcm" not in running

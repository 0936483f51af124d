"""What the viewer shows of images of every kind, and what its tools do, in a real browser: ``make test-viewer``."""

from __future__ import annotations

import base64
import contextlib
import io
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import get_nr_frames, pixel_array

from tests.hosts.browser import STACK, Browser, opened
from tests.hosts.conftest import Lab
from tests.hosts.viewer import Site
from verification.patient import DOCUMENT, PDF, Image, image, transfer_syntaxes

LAB = {"name": "images", "pacs": "trixie-installed"}
# By how many grey levels two decoders may differ. What is lost already is not decoded alike.
# The one file of 12 bits has a fault in the header of its scan, and decoders begin at other values.
LOSSY = {"Colour, JPEG": 1, "Colour, 30 frames, JPEG": 1, "12 bits, JPEG": 16}
# Of these there is no picture, or the viewer needs another one beside it.
WITHOUT = {
    *("Segmentation, one bit", "Treatment plan", "Structured report", "Electrocardiogram", "Encapsulated PDF", "Video"),
}
PICTURES = {name: one for name, one in transfer_syntaxes().items() if name not in WITHOUT}
REPORT = image("reportsi.dcm", "a report that can be read")
# What it has of each of its images, as it came from the decoder.
FRAMES = """
(async () => {
    if (!stack()) return null;
    const found = [];
    for (const id of stack().getImageIds()) {
        const values = (await cornerstone.imageLoader.loadAndCacheImage(id)).getPixelData();
        const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
        let text = "";
        for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
        found.push({type: values.constructor.name, bytes: btoa(text)});
    }
    return found;
})()
"""
TYPES = {
    "Uint8Array": "u1",
    "Uint8ClampedArray": "u1",
    "Int16Array": "<i2",
    "Uint16Array": "<u2",
    "Uint32Array": "<u4",
    "Float32Array": "<f4",
}
# Draws an image as it is: one of its pixels is one of the canvas, and nothing in between is made up.
AS_IT_IS = """
(async () => {
    const view = stack(), image = view.getCornerstoneImage(), half = [0.5, 0.5];
    const nearest = cornerstone.Enums.InterpolationType.NEAREST;
    view.setProperties({interpolationType: nearest, voiRange: {lower: %s, upper: %s}});
    view.setDisplayArea({type: "SCALE", scale: 1, imageCanvasPoint: {imagePoint: half, canvasPoint: half}});
    view.render();
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    const from = view.canvas, copy = new OffscreenCanvas(from.width, from.height).getContext("2d");
    copy.drawImage(from, 0, 0);
    const {data} = copy.getImageData(0, 0, from.width, from.height);
    return {rows: from.height, columns: from.width, greys: [...data.filter((_, place) => place %% 4 == 0)]};
})()
"""


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    made = Site(lab)
    made.deploy()
    return made


@contextlib.contextmanager
def study(site: Site, folder: pathlib.Path, *images: Image) -> Iterator[Browser]:
    """Open the study of some images by its link, as a reader does."""
    with site.session() as session:
        for one in images:
            assert session.post(site.url("/instances"), data=one.content, timeout=60).status_code == 200
    with opened(folder, ("ward", site.users["ward"])) as browser:
        browser("Page.addScriptToEvaluateOnNewDocument", source=STACK)
        browser("Page.navigate", url=site.url(f"/ohif/viewer?StudyInstanceUIDs={images[0].dataset.StudyInstanceUID}"))
        yield browser
        assert browser.errors == []
        assert browser.hosts == {site.lab.address["pacs"]}


def shown(browser: Browser) -> list[Any]:
    """Return the values of each image of the stack that is seen."""
    return [
        numpy.frombuffer(base64.b64decode(one["bytes"]), TYPES[one["type"]]).astype(float)
        for one in browser.wait(FRAMES)
    ]


def wanted(site: Site, one: Image) -> Any:
    """Return what each frame of an image has to be, decoded by another program than the viewer."""
    dataset = pydicom.dcmread(io.BytesIO(one.content))
    frames = get_nr_frames(dataset)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return numpy.asarray(apply_color_lut(pixel_array(dataset), dataset) >> 8).reshape(frames, -1)
    try:
        values = numpy.asarray(pixel_array(dataset)).reshape(frames, -1).astype(float)
    except RuntimeError:
        # Python has no decoder for it; Orthanc's is DCMTK.
        with site.session() as session:
            (known,) = session.post(site.url("/tools/lookup"), data=str(dataset.SOPInstanceUID), timeout=60).json()
            answer = session.get(site.url(f"{known['Path']}/numpy?rescale=false&compress=false"), timeout=60)
        values = numpy.load(io.BytesIO(answer.content)).reshape(frames, -1).astype(float)
    # The viewer has values of CT in Hounsfield units.
    scaled = dataset.Modality == "CT"
    return values * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept) if scaled else values


@pytest.mark.parametrize("name", PICTURES)
def test_image_is_shown_as_it_is(site: Site, tmp_path: pathlib.Path, name: str) -> None:
    """Every value of every frame, of every kind of image."""
    with study(site, tmp_path, PICTURES[name]) as browser:
        got = shown(browser)
    expected = wanted(site, PICTURES[name])
    assert len(got) == len(expected)
    for number, (values, right) in enumerate(zip(got, expected, strict=True)):
        assert values.shape == right.shape, number
        assert numpy.abs(values - right).max() <= LOSSY.get(name, 0), number


@pytest.mark.parametrize("name", ["MR, JPEG 2000", "MR, JPEG-LS", "Colour, JPEG"])
def test_frame_travels_as_it_is_stored(site: Site, tmp_path: pathlib.Path, name: str) -> None:
    """What a browser can decode, Orthanc need not: by the words with which the viewer asks for it."""
    one = PICTURES[name]
    with study(site, tmp_path, one) as browser:
        shown(browser)
        (asked, *_) = [request for request in browser.requests if request["url"].endswith("/frames/1")]
    accept = {name.lower(): value for name, value in asked["headers"].items()}["accept"]
    with site.session("ward") as session:
        answer = session.get(asked["url"], headers={"Accept": accept}, timeout=60)
    assert answer.status_code == 200
    assert get_frame(one.dataset.PixelData, 0, number_of_frames=1) in answer.content
    assert f"transfer-syntax={one.dataset.file_meta.TransferSyntaxUID}".encode() in answer.content


def test_canvas_has_each_pixel(site: Site, tmp_path: pathlib.Path) -> None:
    """With a window that most of its values are in."""
    low, high = -1024, 1024
    with study(site, tmp_path, PICTURES["CT, explicit little endian"]) as browser:
        browser.wait("Boolean(stack())")
        drawn = browser.value(AS_IT_IS % (low, high))
    canvas = numpy.array(drawn["greys"]).reshape(drawn["rows"], drawn["columns"])
    dataset = PICTURES["CT, explicit little endian"].dataset
    values = wanted(site, PICTURES["CT, explicit little endian"]).reshape(dataset.Rows, dataset.Columns)
    greys = numpy.clip((values - low) / (high - low), 0, 1) * 255
    top, left = ((size - part) // 2 for size, part in zip(canvas.shape, greys.shape, strict=True))
    # Where its middle is between two pixels of the canvas it may be drawn on either side.
    differences = [
        numpy.abs(canvas[top + y : top + y + dataset.Rows, left + x : left + x + dataset.Columns] - greys).max()
        for y in (0, 1)
        for x in (0, 1)
    ]
    assert min(differences) <= 1, differences


def test_document_is_shown(site: Site, tmp_path: pathlib.Path) -> None:
    read = "(async () => {const one = document.querySelector('object'); if (!one?.data) return null;"
    with study(site, tmp_path, DOCUMENT) as browser:
        got = browser.wait(f"{read} return btoa(await (await fetch(one.data)).text())}})()")
    assert base64.b64decode(got).rstrip(b"\0") == PDF


def test_report_is_shown(site: Site, tmp_path: pathlib.Path) -> None:
    texts: list[str] = []

    def gather(dataset: Dataset) -> None:
        for item in dataset.get("ContentSequence", []):
            texts.extend([str(item.TextValue)] if "TextValue" in item else [])
            gather(item)

    gather(REPORT.dataset)
    assert texts
    with study(site, tmp_path, REPORT) as browser:
        browser.wait("document.body?.innerText.includes('Studies')")
        for text in texts:
            browser.wait(f"document.body.innerText.includes({text!r})", 60)


SLICES = 300


def cut(number: int) -> Image:
    """Return one of the slices of a volume; each has other values."""

    def change(dataset: Dataset) -> None:
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [0, 0, number]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.SliceThickness, dataset.SliceLocation = 1, number
        dataset.PixelData = (dataset.pixel_array + number).tobytes()

    return image("CT_small.dcm", "a volume", number, change=change)


@pytest.fixture(scope="module")
def volume() -> list[Image]:
    return [cut(number) for number in range(1, SLICES + 1)]


def test_tools_work(site: Site, tmp_path: pathlib.Path, volume: list[Image]) -> None:
    """Scroll through all of a volume, window, zoom, measure and reformat it, by mouse."""
    known = {str(one.dataset.SOPInstanceUID): one for one in volume}
    with study(site, tmp_path, *volume) as browser:
        browser.wait(f"stack()?.getImageIds().length == {SLICES}")
        for text in ("Skip all", "Confirm and hide"):
            button = f"[...document.querySelectorAll('button')].find(one => one.innerText.trim() == {text!r})"
            browser.wait(f"{button} ? ({button}.click(), false) : true")
        x, y = browser.value(
            "(() => {const box = stack().element.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]})()"
        )
        uids = [re.search(r"/instances/([^/]+)/", one)[1] for one in browser.value("stack().getImageIds()")]  # type: ignore[index]
        (first, last) = (wanted(site, known[uids[place]])[0] for place in (0, -1))
        here = "stack().getCurrentImageIdIndex()"
        values = "[...stack().getCornerstoneImage().getPixelData()]"
        assert browser.wait(f"{here} == 0 && {values}") == list(first)
        for place in range(1, SLICES):
            browser.wheel((x, y), 1)
            browser.wait(f"{here} == {place}")
        assert browser.value(values) == list(last)

        window = browser.value("stack().getProperties().voiRange")
        browser.mouse((x, y), (x + 40, y), (x + 80, y + 40))
        assert browser.value("stack().getProperties().voiRange") != window
        zoom = browser.value("stack().getZoom()")
        browser.mouse((x, y), (x, y + 30), (x, y + 60), button="right")
        assert browser.value("stack().getZoom()") != zoom

        browser.value("document.querySelector('button[data-cy=Length], [data-cy=Length] button').click()")
        browser.mouse((x - 60, y), (x - 20, y), (x + 60, y))
        (told, points) = browser.wait(
            "(() => {const all = cornerstoneTools.annotation.state.getAllAnnotations();"
            " const one = all.find(one => one.metadata.toolName == 'Length');"
            " const [stats] = Object.values(one?.data.cachedStats ?? {});"
            " return stats?.length && [stats.length, one.data.handles.points]})()"
        )
        assert told == pytest.approx(numpy.linalg.norm(numpy.subtract(*points)), abs=0.01)
        # As long as the mouse went: it is drawn where the mouse was.
        drawn = browser.value(
            "(() => {const view = stack(); const [a, b] = "
            f"{[[x - 60, y], [x + 60, y]]}.map(([x, y]) => {{const box = view.element.getBoundingClientRect();"
            " return view.canvasToWorld([x - box.x, y - box.y])});"
            " return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2])})()"
        )
        assert told == pytest.approx(drawn, abs=0.5)

        browser.picture("viewer-study")
        browser.value("commandsManager.run('toggleHangingProtocol', {protocolId: 'mpr'})")
        planes = "cornerstone.getRenderingEngines().flatMap(one => one.getViewports())"
        browser.wait(f"{planes}.filter(one => one.type == 'orthographic').length == 3")
        at = "(k => cornerstone.cache.getVolumes()[0]?.voxelManager.getAtIJK(5, 7, k))"
        for slice_, image_ in ((0, first), (SLICES - 1, last)):
            places = [slice_, SLICES - 1 - slice_]
            browser.wait(f"{places}.map({at}).includes({image_[7 * 128 + 5]})")

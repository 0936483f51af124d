"""The DICOM port: the modality that this machine is may store, strangers may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityWorklistInformationFind,
    MRImageStorage,
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from verification.actions import expect_array, unwritable, upload
from verification.client import Client
from verification.expect import expect
from verification.patient import NAMED, PATIENT_ID, SENT, Image, identifiers, uid
from verification.receiver import PENDING, Receiver
from verification.site import Site

STRANGER = "PACS-STRANGER"
ALLOWED = "orthanc_modalities (AllowStore, AllowFind, AllowGet, AllowMove)"
FIND, GET, MOVE = (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
)
# One of each way to write pixels down.
SYNTAXES = [
    "CT, explicit little endian",
    "MR, implicit little endian",
    "MR, explicit big endian",
    "MR, RLE",
    "MR, JPEG-LS",
    "MR, JPEG 2000",
    "Colour, JPEG",
    "Colour, lossless JPEG",
    "Deflated",
    "Structured report",
    "Video",
]


@contextmanager
def association(
    site: Site,
    calling: str,
    called: str,
    contexts: Sequence[PresentationContext] = (),
    **options: Any,
) -> Iterator[Association]:
    """Ask for an association, and release it in the end."""
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 10
    entity.add_requested_context(Verification)
    entity.requested_contexts = [*entity.requested_contexts, *contexts]
    encrypted = site.dicom()
    if encrypted:
        options["tls_args"] = (encrypted, None)
    # Orthanc hangs up right after a rejection; pynetdicom may see the one before the other, and calls
    # that no answer. A server that really gives none does so each time.
    for _ in range(5):
        opened = entity.associate(site.dicom_address, site.dicom_port, ae_title=called, **options)
        if opened.is_established or opened.is_rejected:
            break
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def expect_outcome(site: Site, opened: Association, expected: str, see: str) -> None:
    """Say how the request for an association has ended."""
    outcome = "accepted" if opened.is_established else "rejected" if opened.is_rejected else "no answer"
    calling, called = opened.requestor.ae_title, opened.acceptor.ae_title
    expect(f"association of {calling} with {called} at {site.dicom_address}:{site.dicom_port}", expected, outcome, see)


def test_echo(scp: Site, modality: str) -> None:
    with association(scp, modality, scp.aet) as opened:
        expect_outcome(scp, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        expect(f"status of C-ECHO as {modality}", 0, opened.send_c_echo().get("Status"))


def test_store(scp: Site, modality: str, patient: Client) -> None:
    patient.own.update(identifiers(SENT.dataset))
    with association(scp, modality, scp.aet, [build_context(MRImageStorage, ExplicitVRLittleEndian)]) as opened:
        expect_outcome(scp, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        status = opened.send_c_store(SENT.dataset).get("Status")
    expect(f"status of C-STORE as {modality}", 0, status, "orthanc_modalities (AllowStore)")
    answer = patient.get(f"/instances/{SENT.instance}/metadata/RemoteAET")
    expect("RemoteAET of the image that was sent", (200, modality), (answer.status_code, answer.text))


def accepts(opened: Association, wanted: PresentationContext) -> bool:
    """Tell whether what was asked for was granted."""
    return any(granted.abstract_syntax == wanted.abstract_syntax for granted in opened.accepted_contexts)


@pytest.fixture
def gone(patient: Client, stored: dict[str, Image], name: str) -> Iterator[Image]:
    """An image that is not on the site, and comes back as it was."""
    image = stored[name]
    expect("DELETE of an image", 200, patient.delete(f"/instances/{image.instance}").status_code)
    yield image
    patient.delete(f"/instances/{image.instance}")
    upload(patient, image.content)


@pytest.mark.parametrize("name", SYNTAXES)
def test_store_in_every_transfer_syntax(
    scp: Site, modality: str, patient: Client, gone: Image, kept: Callable[[Image], UID], name: str
) -> None:
    image = gone
    context = build_context(str(image.dataset.SOPClassUID), image.syntax)
    with association(scp, modality, scp.aet, [context]) as opened:
        expect_outcome(scp, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        see = "orthanc_settings.AcceptedTransferSyntaxes, AcceptedSopClasses"
        expect(f"{image.syntax.name} is accepted", True, accepts(opened, context), see)
        expect("status of C-STORE", 0, opened.send_c_store(image.dataset).get("Status"), ALLOWED)
    got = patient.get(f"/instances/{image.instance}/metadata/TransferSyntax").text
    expect("transfer syntax that it has in Orthanc", str(kept(image)), got, "orthanc_settings.IngestTranscoding")


def ask(site: Site, modality: str, model: Any, level: str, **keys: str) -> list[Dataset]:
    """Ask by C-FIND."""
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    found = []
    with association(site, modality, site.aet, [build_context(model)]) as opened:
        expect_outcome(site, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        for status, answer in opened.send_c_find(query, model):
            if status.get("Status") in (PENDING, 0xFF01):
                found.append(answer)
            else:
                expect(f"last status of C-FIND at {level}", 0, status.get("Status"), ALLOWED)
    return [answer for answer in found if answer]


@pytest.mark.parametrize(
    "level, keyword, count",
    [
        ("PATIENT", "PatientID", 1),
        ("STUDY", "StudyInstanceUID", 1),
        ("SERIES", "SeriesInstanceUID", 1),
        ("IMAGE", "SOPInstanceUID", 3),
    ],
)
def test_find(scp: Site, modality: str, series: list[Image], level: str, keyword: str, count: int) -> None:
    one = series[0].dataset
    # From the patient down, each level names the one above.
    above = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    keys = {name: str(one[name].value) for name in above[: above.index(keyword)]}
    asked = {"PATIENT": PATIENT_ID}.get(level, "") or (str(one.StudyInstanceUID) if level == "STUDY" else "")
    found = ask(scp, modality, FIND, level, **keys, **{keyword: asked})
    expected = {str(image.dataset[keyword].value) for image in series}
    see = "orthanc_settings.LimitFindResults, LimitFindInstances"
    expect(f"C-FIND at {level}", expected, {str(answer[keyword].value) for answer in found}, see)
    expect(f"answers of C-FIND at {level}", count, len(found))


def test_find_with_wildcard_and_range(scp: Site, modality: str, series: list[Image]) -> None:
    asked = {"PatientName": "Verif*", "PatientID": PATIENT_ID, "StudyDate": "20180323-20180325"}
    found = ask(scp, modality, FIND, "STUDY", StudyInstanceUID="", ModalitiesInStudy="", **asked)
    expected = [(series[0].dataset.StudyInstanceUID, "CT")]
    expect("C-FIND", expected, [(answer.StudyInstanceUID, answer.ModalitiesInStudy) for answer in found])


@pytest.mark.parametrize("language", NAMED)
def test_name_in_other_letters(
    scp: Site, modality: str, stored: dict[str, Image], inside: dict[str, Any], language: str
) -> None:
    image = stored[language].dataset
    unwritable(image, inside)
    found = ask(scp, modality, FIND, "PATIENT", PatientID=str(image.PatientID), PatientName="")
    expect("PatientName by C-FIND", [str(image.PatientName)], [str(answer.PatientName) for answer in found])


@contextmanager
def fetching(site: Site, modality: str, image: Image) -> Iterator[tuple[Association, list[Dataset]]]:
    """Open an association over which images come back, without compression."""
    came: list[Dataset] = []

    def store(event: evt.Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        came.append(dataset)
        return 0

    storage = str(image.dataset.SOPClassUID)
    contexts = [build_context(GET), build_context(storage, ExplicitVRLittleEndian)]
    options = {"ext_neg": [build_role(storage, scp_role=True)], "evt_handlers": [(evt.EVT_C_STORE, store)]}
    with association(site, modality, site.aet, contexts, **options) as opened:
        expect_outcome(site, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        yield opened, came


@pytest.mark.parametrize("name", ["CT, explicit little endian", "MR, RLE", "Colour, JPEG"])
def test_get(
    scp: Site,
    modality: str,
    stored: dict[str, Image],
    kept: Callable[[Image], UID],
    inside: dict[str, Any],
    name: str,
) -> None:
    image = stored[name]
    if kept(image).is_compressed and inside["options"]["TranscodeDicomProtocol"] is False:
        pytest.skip("orthanc_settings.TranscodeDicomProtocol is false")
    with fetching(scp, modality, image) as (opened, came):
        *_, (status, _) = opened.send_c_get(request(image), GET)
        expect("last status of C-GET", 0, status.get("Status"), ALLOWED)
    expect("images that have come", [str(image.dataset.SOPInstanceUID)], [str(one.SOPInstanceUID) for one in came])
    size = int(image.dataset.Rows) * int(image.dataset.Columns) * int(image.dataset.SamplesPerPixel)
    expect("bytes of pixels that came", size * int(image.dataset.BitsAllocated) // 8, len(came[0].PixelData))
    if not image.syntax.is_compressed or "Lossless" in image.syntax.name:
        expect_array("the pixels that came", image.dataset.pixel_array, came[0].pixel_array)


def request(image: Image) -> Dataset:
    """Name an image to C-GET or C-MOVE."""
    asked = Dataset()
    asked.QueryRetrieveLevel = "IMAGE"
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(asked, keyword, str(image.dataset[keyword].value))
    return asked


def test_move(scp: Site, modality: str, series: list[Image], receiver: Receiver) -> None:
    receiver.received.clear()
    asked = request(series[0])
    asked.QueryRetrieveLevel = "SERIES"
    del asked.SOPInstanceUID
    with association(scp, modality, scp.aet, [build_context(MOVE)]) as opened:
        expect_outcome(scp, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        *_, (status, _) = opened.send_c_move(asked, modality, MOVE)
        see = f"{ALLOWED}, Host and Port of this machine, its firewall"
        expect("last status of C-MOVE", 0, status.get("Status"), see)
    came = {str(dataset.SOPInstanceUID) for dataset in receiver.received}
    expect("images that have come", {str(image.dataset.SOPInstanceUID) for image in series}, came)


def test_move_to_a_stranger_is_refused(scp: Site, modality: str, series: list[Image]) -> None:
    with association(scp, modality, scp.aet, [build_context(MOVE)]) as opened:
        expect_outcome(scp, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        *_, (status, _) = opened.send_c_move(request(series[0]), STRANGER, MOVE)
    expect(f"C-MOVE to {STRANGER} succeeds", False, status.get("Status") == 0, "orthanc_modalities")


def test_storage_is_committed(scp: Site, modality: str, series: list[Image], receiver: Receiver) -> None:
    """Orthanc is asked for it, and tells so over an association of its own."""
    wanted, item = Dataset(), Dataset()
    item.ReferencedSOPClassUID = series[0].dataset.SOPClassUID
    item.ReferencedSOPInstanceUID = series[0].dataset.SOPInstanceUID
    wanted.TransactionUID, wanted.ReferencedSOPSequence = uid("transaction"), [item]
    receiver.promised.pop(str(wanted.TransactionUID), None)
    with association(scp, modality, scp.aet, [build_context(StorageCommitmentPushModel)]) as opened:
        expect_outcome(scp, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        status, _ = opened.send_n_action(wanted, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        expect("status of N-ACTION", 0, status.get("Status"), "orthanc_modalities (AllowStorageCommitment)")
    told = receiver.wait(lambda: receiver.promised.get(str(wanted.TransactionUID)), 20)
    expect("a report of Orthanc has come", True, told is not None, "orthanc_modalities (Host, Port), firewall")
    failed = [str(one.ReferencedSOPInstanceUID) for one in told.get("FailedSOPSequence", [])]
    expect("images that Orthanc does not keep", [], failed)


def test_worklists_answer(scp: Site, modality: str) -> None:
    if "worklists" not in scp.plugins and not scp.worklists:
        pytest.skip("orthanc_plugins does not have worklists, and orthanc_worklists_table is empty")
    step, query = Dataset(), Dataset()
    step.ScheduledStationAETitle, step.Modality = modality, "CT"
    query.PatientID, query.ScheduledProcedureStepSequence = PATIENT_ID, [step]
    with association(scp, modality, scp.aet, [build_context(ModalityWorklistInformationFind)]) as opened:
        expect_outcome(scp, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        *_, (status, _) = opened.send_c_find(query, ModalityWorklistInformationFind)
    expect("last status of C-FIND in worklists", 0, status.get("Status"), "orthanc_modalities (AllowFindWorklist)")


# PS3.4, C.4.1.1.4: there are more, and they are not told.
INCOMPLETE = 0xFE00


def steps(site: Site, modality: str, station: str, dates: str, number: str) -> list[Dataset]:
    """Ask for worklists, and return the answers."""
    step, query = Dataset(), Dataset()
    step.ScheduledStationAETitle, step.ScheduledProcedureStepStartDate = station, dates
    query.AccessionNumber, query.ScheduledProcedureStepSequence = number, [step]
    with association(site, modality, site.aet, [build_context(ModalityWorklistInformationFind)]) as opened:
        expect_outcome(site, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        *pending, (status, _) = opened.send_c_find(query, ModalityWorklistInformationFind)
    code = status.get("Status")
    if code == INCOMPLETE and (site.settings.get("Worklists") or {}).get("LimitAnswers"):
        code = 0
    expect("last status of C-FIND in worklists", 0, code, "orthanc_modalities (AllowFindWorklist)")
    return [answer for _status, answer in pending if answer]


def test_worklists_of_the_table_are_found(scp: Site, modality: str, client: Client) -> None:
    """Neither names nor numbers of patients are for a report."""
    if not scp.worklists:
        pytest.skip("orthanc_worklists_table is empty")
    # Others may write into it meanwhile.
    for _ in range(5):
        before = client.json_at("/pacs/worklists")["Steps"]
        found = steps(scp, modality, "*", "19000101-99991231", "*")
        if before == client.json_at("/pacs/worklists")["Steps"]:
            break
    heeded = scp.settings.get("Worklists") or {}
    wanted = 0 if heeded.get("FilterIssuerAet") else min(before, heeded.get("LimitAnswers") or before)
    # Those that are files come with them.
    expect("all steps of the table are found", True, len(found) >= wanted, "orthanc_worklists_table")
    expect("steps of a station that there is not", 0, len(steps(scp, modality, "PACS-NOBODY", "", "")))
    for answer in found[:1]:
        (step,) = answer.ScheduledProcedureStepSequence
        date, number = str(step.ScheduledProcedureStepStartDate), str(answer.AccessionNumber)
        again = steps(scp, modality, f"{step.ScheduledStationAETitle[:3]}*", f"{date}-{date}", f"{number[:-1]}?")
        expect("the first step is found again", True, number in [one.AccessionNumber for one in again])
        expect("it is none of another day", 0, len(steps(scp, modality, "*", "19000101-19000102", number)))


def test_stranger_is_refused(scp: Site) -> None:
    if any(allowed for option, allowed in scp.settings.items() if option.startswith("DicomAlwaysAllow")):
        pytest.skip("orthanc_settings.DicomAlwaysAllow… lets strangers in")
    with association(scp, STRANGER, scp.aet) as opened:
        expect_outcome(scp, opened, "rejected", "orthanc_modalities")


def test_wrong_called_aet_is_refused(scp: Site) -> None:
    if not scp.settings.get("DicomCheckCalledAet", True):
        pytest.skip("orthanc_settings.DicomCheckCalledAet is false")
    with association(scp, scp.calling_aet or STRANGER, f"NOT-{scp.aet}"[:16]) as opened:
        expect_outcome(scp, opened, "rejected", "orthanc_aet")

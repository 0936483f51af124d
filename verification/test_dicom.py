"""The DICOM port: the modality that this machine is may store, strangers may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import MRImageStorage, Verification  # type: ignore[attr-defined]

from verification.client import Client
from verification.expect import expect
from verification.patient import SENT
from verification.site import Site

STRANGER = "PACS-STRANGER"


@contextmanager
def association(site: Site, calling: str, called: str) -> Iterator[Association]:
    """Ask for an association, and release it in the end."""
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 10
    entity.add_requested_context(Verification)
    entity.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    # Orthanc hangs up right after a rejection; pynetdicom may see the one before the other, and calls
    # that no answer. A server that really gives none does so each time.
    for _ in range(5):
        opened = entity.associate(site.address, site.dicom_port, ae_title=called)
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
    expect(f"association of {calling} with {called} at {site.netloc(site.dicom_port)}", expected, outcome, see)


def test_echo(scp: Site, modality: str) -> None:
    with association(scp, modality, scp.aet) as opened:
        expect_outcome(scp, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        expect(f"status of C-ECHO as {modality}", 0, opened.send_c_echo().get("Status"))


def test_store(scp: Site, modality: str, patient: Client) -> None:
    patient.own.add(SENT.patient)
    with association(scp, modality, scp.aet) as opened:
        expect_outcome(scp, opened, "accepted", "orthanc_modalities (AET, Host), orthanc_dicom_port")
        status = opened.send_c_store(SENT.dataset).get("Status")
    expect(f"status of C-STORE as {modality}", 0, status, "orthanc_modalities (AllowStore)")
    answer = patient.get(f"/instances/{SENT.instance}/metadata/RemoteAET")
    expect("RemoteAET of the image that was sent", (200, modality), (answer.status_code, answer.text))


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

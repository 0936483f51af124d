"""A modality on this machine: it takes images, answers queries, and commits to what it was sent."""

from __future__ import annotations

import contextlib
import errno
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from verification.expect import expect
from verification.patient import Image, image

# What the receiver offers to those that ask it.
OFFERED = image("MR_small.dcm", "fetched")
PENDING, SUCCESS = 0xFF00, 0x0000


class Receiver:
    """Listens where the site's inventory says that this machine is a modality.

    :param entity: title, address and port of this machine.
    :param orthanc: title, address and port of the site's Orthanc, to which images that it fetches go.
    :param sending: how associations with it are encrypted; nothing where it speaks plain DICOM.
    :param listening: how those are that it opens.
    """

    def __init__(
        self,
        entity: tuple[str, str, int],
        orthanc: tuple[str, str, int],
        sending: ssl.SSLContext | None = None,
        listening: ssl.SSLContext | None = None,
    ) -> None:
        self._sending: dict[str, Any] = {"tls_args": (sending, None)} if sending else {}
        self._listening = listening
        self._title, self._host, self._port = entity
        self._orthanc = orthanc
        self.received: list[Dataset] = []
        self.asked: list[Dataset] = []
        self.echoed = 0
        # Storage commitment: the UIDs that we were asked to keep.
        self.entrusted: list[str] = []
        # Storage commitment: what Orthanc promised us, by transaction.
        self.promised: dict[str, Dataset] = {}
        self.entity = AE(ae_title=self._title)
        self.entity.acse_timeout = self.entity.dimse_timeout = self.entity.network_timeout = 15
        for context in AllStoragePresentationContexts:
            self.entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        for service in (
            Verification,
            PatientRootQueryRetrieveInformationModelFind,
            PatientRootQueryRetrieveInformationModelMove,
            StudyRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelMove,
        ):
            self.entity.add_supported_context(service)
        self.entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        # Of this machine's own associations with Orthanc while it serves one of those above.
        self.entity.add_requested_context(OFFERED.dataset.SOPClassUID, OFFERED.syntax)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Receiver]:
        """Listen, and stop in the end."""
        handlers: list[tuple[Any, Callable[[evt.Event], Any]]] = [
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_MOVE, self._move),
            (evt.EVT_N_ACTION, self._commit),
            (evt.EVT_N_EVENT_REPORT, self._promise),
        ]
        try:
            self._start(self._host, handlers)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                see = "another verification that runs; orthanc_modalities (Port)"
                expect(f"port {self._port} of this machine, which is modality {self._title}", "free", "in use", see)
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            # The address is one that the site sees and this machine does not have: a router stands between.
            self._start("", handlers)
        try:
            yield self
        finally:
            self.entity.shutdown()

    def _start(self, host: str, handlers: Any) -> None:
        where = (host, self._port)
        self.entity.start_server(where, block=False, evt_handlers=handlers, ssl_context=self._listening)

    @staticmethod
    def wait(found: Callable[[], Any], seconds: float = 10) -> Any:
        """Wait until something has come; return it, or nothing."""
        end = time.monotonic() + seconds
        while not (what := found()) and time.monotonic() < end:
            time.sleep(0.02)
        return what

    def took(self, wanted: Image) -> Dataset | None:
        """Return an image if it has come."""
        uid = wanted.dataset.SOPInstanceUID
        return next((dataset for dataset in self.received if dataset.SOPInstanceUID == uid), None)

    def _echo(self, event: evt.Event) -> int:
        self.echoed += 1
        return SUCCESS

    def _store(self, event: evt.Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.received.append(dataset)
        return SUCCESS

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked = event.identifier
        self.asked.append(asked)
        answer = Dataset()
        for element in asked:
            answer.add_new(element.tag, element.VR, OFFERED.dataset.get(element.keyword, ""))
        answer.QueryRetrieveLevel = asked.QueryRetrieveLevel
        answer.RetrieveAETitle = self._title
        yield PENDING, answer
        yield SUCCESS, None

    def _move(self, event: evt.Event) -> Iterator[Any]:
        title, host, port = self._orthanc
        if event.move_destination != title:
            yield None, None
            return
        yield host, port, self._sending
        yield 1
        yield PENDING, OFFERED.dataset

    def _commit(self, event: evt.Event) -> tuple[int, Dataset | None]:
        wanted = event.action_information
        self.entrusted += [str(one.ReferencedSOPInstanceUID) for one in wanted.ReferencedSOPSequence]
        threading.Timer(0.2, self._report, (wanted,)).start()
        return SUCCESS, None

    def _report(self, wanted: Dataset) -> None:
        """Tell Orthanc that we keep what it asked for."""
        title, host, port = self._orthanc
        kept = Dataset()
        kept.TransactionUID, kept.ReferencedSOPSequence = wanted.TransactionUID, wanted.ReferencedSOPSequence
        entity = AE(ae_title=self._title)
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        opened = entity.associate(host, port, ae_title=title, ext_neg=[role], **self._sending)
        if opened.is_established:
            opened.send_n_event_report(kept, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
            opened.release()

    def _promise(self, event: evt.Event) -> int:
        told = event.event_information
        self.promised[str(told.TransactionUID)] = told
        return SUCCESS

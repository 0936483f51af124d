"""Lies: what is told instead of Orthanc's answer, and the checks that have to fail then.

A lie is told while its checks run, one after the other, and not when their fixtures are made.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from typing import Any

from PIL import Image as Picture

from verification.patient import (
    BIG,
    COPY_NAME,
    CT,
    DELETED,
    DOCUMENT,
    FILM,
    LENT,
    NAMED,
    OTHER,
    PATIENT_ID,
    PATIENT_NAME,
    ROOT,
    SENT,
    SERIES,
    STOWED,
    TOGETHER,
    ZIPPED,
    transfer_syntaxes,
)
from verification.receiver import OFFERED


@dataclass(frozen=True)
class Lie:
    """One lie. A check without brackets stands for all of its cases, each of which has to fail.

    :param rules: what is done with requests to Orthanc, see ``rule``.
    :param wire: what is replaced on the way to Orthanc's DICOM port (``in``) and back (``out``).
    """

    what: str
    checks: tuple[str, ...]
    rules: tuple[dict[str, Any], ...] = ()
    wire: tuple[tuple[str, bytes, bytes], ...] = field(default=())


def rule(match: str, **what: Any) -> dict[str, Any]:
    """Say what is done with requests that match.

    :param match: method and path, as Orthanc gets them.
    :param what: ``holding``, a pattern that the body has to have as well. ``sent``, what is replaced in the body, and
        ``asked``, in the path. ``swallow``: Orthanc does not get it. ``after``: what is deleted behind its back.
        Of the answer: ``body``, ``change``, which is replaced in it, ``flip``, the place of a byte in which a bit turns
        over, ``status``, and ``kind``, its Content-Type.
    """
    return {"match": match, **what}


def blank(kind: str) -> str:
    """Make a picture of the size of the CT image with nothing on it."""
    buffer = io.BytesIO()
    Picture.new("L", (CT.dataset.Columns, CT.dataset.Rows)).save(buffer, kind)
    return buffer.getvalue().decode("latin-1")


def swallowed(match: str, body: Any = None, **what: Any) -> dict[str, Any]:
    """Say that it is done, and do nothing."""
    return rule(match, swallow=True, body=json.dumps(body if body is not None else {}), **what)


def status(number: int, text: bytes) -> bytes:
    """Make a pattern for the status of an answer.

    :param number: that of the kind of answer: C-STORE-RSP is 0x8001.
    """
    kind = re.escape(number.to_bytes(2, "little"))
    return rb"(?s)(\x00\x00\x00\x01\x02\x00\x00\x00" + kind + rb".*?\x00\x00\x00\x09\x02\x00\x00\x00)" + text


# Of a DICOM answer, as patterns and what takes their place.
FAILED, SUCCEEDED = b"\\1\x00\xa7", b"\\1\x00\x00"
NOTHING, ANY = rb"\x00\x00", rb".."
SLICE = SERIES[0]
STUDY, IMAGE = f"/studies/{SLICE.study}", f"/instances/{CT.instance}"
WEB = f"/dicom-web/studies/{CT.dataset.StudyInstanceUID}"
WEB_SERIES = f"{WEB}/series/{CT.dataset.SeriesInstanceUID}"
WEB_IMAGE = f"{WEB_SERIES}/instances/{CT.dataset.SOPInstanceUID}"
WEB_STACK = f"/dicom-web/studies/{SLICE.dataset.StudyInstanceUID}"
NOBODY = "-".join(["00000000"] * 5)
# Another root of the same length.
FOREIGN = ROOT[:-1] + ("1" if ROOT[-1] != "1" else "2")
LEFT = re.escape(ROOT).encode(), FOREIGN.encode()
SYNTAXES = transfer_syntaxes()
FIND = "POST /tools/find"


def lie(what: str, checks: str | tuple[str, ...], *rules: dict[str, Any], wire: Any = ()) -> Lie:
    """Make a lie; several checks are separated by line breaks or given one by one."""
    return Lie(what, (checks,) if isinstance(checks, str) else checks, rules, tuple(wire))


REST = [
    lie(
        "another title in /system",
        "test_rest::test_system_names_the_server",
        rule("GET /system", change=['("DicomAet" : ")', r"\1X"]),
    ),
    lie(
        "the explorer is no page",
        "test_rest::test_explorer_is_there",
        rule("GET /app/explorer.html", kind="text/plain"),
    ),
    lie(
        "the answer to an upload names another study",
        "test_rest::test_identifiers_follow_their_definition",
        rule("POST /instances", change=['("ParentStudy" : ")[^"]*', rf"\g<1>{NOBODY}"]),
    ),
    lie(
        "a file has one bit less right",
        "test_rest::test_file_comes_back_bit_for_bit",
        rule(f"GET {IMAGE}/file", flip=-20),
    ),
    lie(
        "a big file has one bit less right",
        "test_rest::test_big_file_passes_the_proxy",
        rule(f"GET /instances/{BIG.instance}/file", flip=2**21),
    ),
    lie(
        "an upload is acknowledged, and not kept",
        "test_rest::test_upload_asks_first_or_not",
        rule(
            "POST /instances",
            swallow=True,
            body=json.dumps({"ID": DELETED.instance, "ParentStudy": DELETED.study, "Status": "Success"}),
        ),
    ),
    lie(
        "an archive's last image is not told",
        "test_rest::test_archive_is_unpacked",
        rule("POST /instances", change=[f'"ID" : "{ZIPPED[1].instance}"', f'"ID" : "{NOBODY}"']),
    ),
    lie(
        "an archive's last image is acknowledged, and lost",
        "test_rest::test_archive_is_unpacked",
        rule("POST /instances", after=f"/instances/{ZIPPED[1].instance}"),
    ),
    lie(
        "one of several uploads at a time is refused",
        "test_rest::test_images_of_several_clients_at_a_time_are_accepted",
        rule("POST /instances", holding=str(TOGETHER[5].dataset.SOPInstanceUID), swallow=True, status=503),
    ),
    lie(
        "one of several uploads at a time is acknowledged, and lost",
        "test_rest::test_images_of_several_clients_at_a_time_are_accepted",
        rule(
            "POST /instances",
            holding=str(TOGETHER[5].dataset.SOPInstanceUID),
            after=f"/instances/{TOGETHER[5].instance}",
        ),
    ),
    lie(
        "resources have other relatives",
        "test_rest::test_resource_knows_its_family",
        rule(
            "GET /(patients|studies|series|instances)/[^/]+",
            change=[f'({CT.patient}|{CT.study}|{CT.series}|{CT.instance})(?="[,\\s]*("|\\]))', NOBODY],
        ),
    ),
    lie(
        "an image has another series",
        "test_rest::test_ancestors_of_an_image_are_reached",
        rule(f"GET {IMAGE}/series", change=[CT.series, NOBODY]),
    ),
    lie(
        "a value among the tags by name is wrong",
        "test_rest::test_tags_are_those_of_the_image",
        rule(f"GET {IMAGE}/simplified-tags", change=['("Rows" : ")', r"\g<1>1"]),
    ),
    lie(
        "a value among the tags by number is wrong",
        "test_rest::test_tags_are_those_of_the_image",
        rule(f"GET {IMAGE}/tags", change=[PATIENT_ID, "SOMEBODY"]),
    ),
    lie(
        "a single tag is wrong",
        "test_rest::test_tags_are_those_of_the_image",
        rule(f"GET {IMAGE}/content/0010-0020", body="SOMEBODY"),
    ),
    lie(
        "a tag is not listed",
        "test_rest::test_tags_are_listed",
        rule(f"GET {IMAGE}/content", change=["0010-0010", "0010-0011"]),
    ),
    lie(
        "the patient has another name",
        "test_rest::test_tags_are_listed",
        rule(f"GET {IMAGE}/content/0010-0010", body="Somebody^Else"),
    ),
    lie(
        "a tag inside of sequences is wrong",
        "test_rest::test_sequences_are_reached",
        rule(f"GET /instances/{SLICE.instance}/content/0054-0410/.*", body="prone"),
    ),
    lie(
        "a tag inside of sequences is wrong among the others",
        "test_rest::test_sequences_are_reached",
        rule(f"GET /instances/{SLICE.instance}/simplified-tags", change=["supine", "prone"]),
    ),
    lie(
        "a private tag is empty",
        "test_rest::test_private_tags_are_kept",
        rule(f"GET /instances/{SLICE.instance}/content/0099-1001", body=""),
    ),
    lie(
        "a page is larger than what was asked for",
        "test_rest::test_resources_are_listed",
        rule("GET /(patients|studies|series|instances).since=0&limit=1", body=json.dumps([NOBODY, CT.study])),
    ),
    lie(
        "our own is not listed",
        "test_rest::test_resources_are_listed",
        rule(
            "GET /(patients|studies|series|instances)",
            change=[f"{CT.patient}|{CT.study}|{CT.series}|{CT.instance}", NOBODY],
        ),
    ),
    lie(
        "nothing is found",
        tuple(
            f"test_rest::test_find[{case}]"
            for case in ("wildcard", "part", "from", "range", "until", "one", "list", "instance")
        ),
        rule(FIND, body="[]"),
    ),
    lie(
        "dates and lists of a query are not looked at",
        ("test_rest::test_find[elsewhen]", "test_rest::test_find[none]"),
        rule(FIND, sent=['"(StudyDate|DeviceSerialNumber)": "[^"]*"', r'"\1": ""']),
    ),
    lie(
        "more is found than was asked for",
        "test_rest::test_find_expands_and_limits",
        rule(FIND, sent=['"Limit": 2', '"Limit": 0']),
    ),
    lie(
        "what is found has another accession number",
        "test_rest::test_find_expands_and_limits",
        rule(FIND, change=["VERIFY-0815", "VERIFY-0816"]),
    ),
    lie(
        "a requested tag is wrong",
        "test_rest::test_find_gives_requested_tags",
        rule(FIND, change=['("NumberOfStudyRelatedSeries" : )"1"', r'\1"2"']),
    ),
    lie("a lookup finds nothing", "test_rest::test_lookup_by_dicom_identifier", rule("POST /tools/lookup", body="[]")),
    lie(
        "a new image is not among the changes",
        "test_rest::test_changes_tell_of_an_upload",
        rule("GET /changes.since.*", change=["NewInstance", "NewSeries"]),
    ),
    lie(
        "a page of changes is larger than what was asked for",
        "test_rest::test_changes_tell_of_an_upload",
        rule("GET /changes.since.*", asked=["limit=2", "limit=20"]),
    ),
    lie(
        "the first changes are too many",
        "test_rest::test_changes_begin_at_the_first",
        rule("GET /changes.limit=1", asked=["limit=1", "limit=2"]),
    ),
    lie(
        "there are no changes",
        "test_rest::test_changes_begin_at_the_first",
        rule("GET /changes", body=json.dumps({"Changes": [], "Done": True, "Last": 0})),
    ),
    lie(
        "exports do not tell whether that is all",
        "test_rest::test_exports_are_listed",
        rule("GET /exports", change=['"Done"', '"Ended"']),
    ),
    lie(
        "a deletion is acknowledged, and not done",
        tuple(f"test_rest::test_deletion_is_complete[{level}]" for level in ("study", "series", "instance")),
        swallowed("DELETE /(studies|series|instances)/[^/]+", {"RemainingAncestor": {"ID": DELETED.patient}}),
    ),
    lie(
        "a patient's deletion is acknowledged, and not done",
        "test_rest::test_deletion_is_complete[patient]",
        swallowed("DELETE /patients/.*", {"RemainingAncestor": None}),
    ),
    lie(
        "a lookup still finds what was deleted",
        "test_rest::test_deletion_is_complete",
        rule("POST /tools/lookup", body=json.dumps([{"ID": NOBODY, "Type": "Instance", "Path": "/instances/x"}])),
    ),
    lie(
        "only one of two is deleted",
        "test_rest::test_bulk_delete",
        rule("POST /tools/bulk-delete", sent=[f', "{OTHER.instance}"', ""]),
    ),
    lie(
        "an image of a script's test has another tag",
        "test_scripts::test_scripts_do_what_their_tests_say",
        rule(r"GET /instances/[^/]+/tags\?simplify", change=['"CT"', '"XX"']),
    ),
    lie(
        "a file that ends too early is taken",
        "test_rest::test_bad_file_is_refused",
        swallowed("POST /instances", {"ID": CT.instance, "Status": "Success"}),
    ),
    lie(
        "images of a study are counted wrong",
        "test_rest::test_statistics_count_what_was_sent",
        rule(f"GET {STUDY}/statistics", change=['"CountInstances" : 3', '"CountInstances" : 2']),
    ),
    lie(
        "images of all are counted wrong",
        "test_rest::test_statistics_count_what_was_sent",
        rule("GET /statistics", change=['"CountInstances" : [0-9]+', '"CountInstances" : 2']),
    ),
    lie(
        "metadata are taken, and not kept",
        "test_rest::test_metadata_come_and_go",
        swallowed("PUT /.*/metadata/1024"),
    ),
    lie(
        "metadata are not deleted",
        "test_rest::test_metadata_come_and_go",
        swallowed("DELETE /.*/metadata/1024"),
    ),
    lie(
        "an attachment has one bit less right",
        "test_rest::test_attachments_come_and_go",
        rule(f"GET /studies/{CT.study}/attachments/1024/data", flip=100),
    ),
    lie(
        "an attachment's checksum is that of something else",
        "test_rest::test_attachments_come_and_go",
        rule(f"GET /studies/{CT.study}/attachments/1024/md5", body="0" * 32),
    ),
    lie(
        "an attachment is not deleted",
        "test_rest::test_attachments_come_and_go",
        swallowed(f"DELETE /studies/{CT.study}/attachments/1024"),
    ),
    lie(
        "there are no metrics",
        "test_rest::test_system_routes_answer",
        rule("GET /tools/metrics-prometheus", body="orthanc_up 1 1\n"),
    ),
    lie(
        "a plugin has another name",
        "test_rest::test_system_routes_answer",
        rule("GET /plugins/dicom-web", change=['"dicom-web"', '"dicom-net"']),
    ),
]

KINDS = [
    lie(
        "files have one bit less right",
        "test_transfer_syntaxes::test_image_is_kept",
        rule(f"GET /instances/(?!{CT.instance})[^/]+/file", flip=-1),
    ),
    lie(
        "images are kept in another transfer syntax",
        "test_transfer_syntaxes::test_image_is_kept",
        rule("GET /instances/[^/]+/metadata.expand", change=['("TransferSyntax" : ")[^"]*', r"\g<1>1.2.3"]),
    ),
    lie(
        "descriptions are wrong",
        "test_transfer_syntaxes::test_tags_are_right",
        rule("GET /instances/[^/]+/simplified-tags", change=['("StudyDescription" : ")', r"\1X"]),
    ),
    lie(
        "names are wrong",
        "test_transfer_syntaxes::test_tags_are_right",
        rule("GET /instances/[^/]+/simplified-tags", change=['("PatientName" : ")', r"\1X"]),
    ),
    lie(
        "there are no frames",
        "test_transfer_syntaxes::test_frames_are_all_there",
        rule("GET /instances/[^/]+/frames", body="[]"),
    ),
    lie(
        "a name in other letters is not found",
        "test_transfer_syntaxes::test_patient_is_found_by_the_name",
        rule(FIND, body="[]"),
    ),
]

PICTURES = [
    *(
        lie(
            f"the preview is blank, as {kind}",
            f"test_pictures::test_preview_is_a_picture[{kind}]",
            rule(f"GET {IMAGE}/preview", body=blank(kind), kind=f"image/{kind}"),
        )
        for kind in ("png", "jpeg")
    ),
    lie(
        "pixels are not cut off at 255",
        "test_pictures::test_pixels_as_png[image-uint8-255]",
        rule(f"GET {IMAGE}/image-uint8", asked=["uint8", "uint16"]),
    ),
    lie(
        "pixels are cut off at 255",
        ("test_pictures::test_pixels_as_png[image-uint16-65535]", "test_pictures::test_pixels_as_pam[image-uint16]"),
        rule(f"GET {IMAGE}/image-uint16", asked=["uint16", "uint8"]),
    ),
    lie("a pixel is wrong", "test_pictures::test_pixels_as_pam", rule(f"GET {IMAGE}/image-u?int16", flip=-5)),
    lie("a value of an array is wrong", "test_pictures::test_array_of_an_image", rule(f"GET {IMAGE}/numpy", flip=-2)),
    lie(
        "the rescale slope cannot be left out",
        "test_pictures::test_array_of_an_image",
        rule(f"GET {IMAGE}/numpy.rescale=0", asked=[r"\?rescale=0", ""]),
    ),
    lie(
        "a value of a series as an array is wrong",
        "test_pictures::test_array_of_a_series",
        rule(f"GET /series/{SLICE.series}/numpy", flip=-2),
    ),
    lie(
        "an array is not compressed",
        "test_pictures::test_array_of_a_series",
        rule(f"GET /series/{SLICE.series}/numpy.compress=1", asked=[r"\?compress=1", ""]),
    ),
    lie(
        "an archive has images of another study",
        "test_pictures::test_archive_holds_the_files",
        rule("GET /.*/archive", asked=["/.*/", f"/studies/{CT.study}/"]),
    ),
    lie(
        "a DICOMDIR has images of another study",
        "test_pictures::test_media_have_a_dicomdir",
        rule("GET /.*/media", asked=["/.*/", f"/studies/{CT.study}/"]),
    ),
    lie(
        "a job archives another study",
        "test_pictures::test_archive_by_a_job",
        rule(f"POST {STUDY}/archive", asked=[SLICE.study, CT.study]),
    ),
    lie(
        "an archive of several lacks one",
        "test_pictures::test_archive_of_several",
        rule("POST /tools/create-archive", sent=[f', "{CT.study}"', ""]),
    ),
    lie(
        "a document has one bit less right",
        "test_pictures::test_document_comes_out",
        rule(f"GET /instances/{DOCUMENT.instance}/content/.*", flip=20),
    ),
    lie(
        "a video has one bit less right",
        "test_pictures::test_video_comes_out",
        rule(f"GET /instances/{FILM.instance}/frames/0/raw", flip=100),
    ),
    lie(
        "a preview is that of another image",
        "test_pictures::test_previews_for_the_report",
        rule(
            f"GET /instances/{SYNTAXES['MR, RLE'].instance}/preview", asked=[SYNTAXES["MR, RLE"].instance, CT.instance]
        ),
    ),
]

COPIES = [
    lie(
        "an anonymised copy keeps the institution",
        (
            "test_anonymisation::test_anonymized_copy_tells_nothing",
            "test_anonymisation::test_anonymized_file_tells_nothing",
        ),
        rule("POST /.*/anonymize", sent=['("Force": true)', r'\1, "Keep": ["InstitutionName"]']),
    ),
    lie(
        "an anonymised copy keeps private tags",
        (
            "test_anonymisation::test_anonymized_copy_tells_nothing",
            "test_anonymisation::test_anonymized_file_tells_nothing",
        ),
        rule("POST /.*/anonymize", sent=['("Force": true)', r'\1, "KeepPrivateTags": true']),
    ),
    lie(
        "a job anonymises another study",
        "test_anonymisation::test_anonymization_by_a_job",
        rule(f"POST {STUDY}/anonymize", asked=[SLICE.study, CT.study]),
    ),
    lie(
        "what is to be removed stays",
        "test_anonymisation::test_modified_copy_has_uids_of_its_own",
        rule(f"POST {STUDY}/modify", sent=['"InstitutionName"', ""]),
    ),
    lie(
        "a copy keeps the UIDs of its images",
        "test_anonymisation::test_modified_copy_has_uids_of_its_own",
        rule(f"POST {STUDY}/modify", sent=['("Replace")', r'"Keep": ["SOPInstanceUID"], "Force": true, \1']),
    ),
    lie(
        "a study given away has the name of before",
        "test_anonymisation::test_study_is_given_to_another_patient",
        rule(f"POST {STUDY}/modify", sent=[re.escape(COPY_NAME), PATIENT_NAME]),
    ),
    lie(
        "a series has another description than what was asked for",
        "test_anonymisation::test_modified_series_keeps_the_patient",
        rule(f"POST /series/{SLICE.series}/modify", sent=["modified", "as before"]),
    ),
    lie(
        "a modified series is another patient's",
        "test_anonymisation::test_modified_series_keeps_the_patient",
        rule("GET /series/[^/]+/patient", asked=["/series/.*", f"/instances/{NAMED['unicode'].instance}/patient"]),
    ),
    lie(
        "a file is not modified",
        "test_anonymisation::test_modified_file_is_only_returned",
        rule(f"POST /instances/{SLICE.instance}/modify", sent=['"modified"', '"else"']),
    ),
    lie(
        "a file is modified in place",
        "test_anonymisation::test_modified_file_is_only_returned",
        rule(f"GET /instances/{SLICE.instance}/simplified-tags", change=['("StudyID" : ")[^"]*', r"\1modified"]),
    ),
]

WADO = [
    lie(
        "QIDO-RS finds nothing",
        tuple(
            f"test_dicomweb::test_qido_{what}"
            for what in ("finds_the_study", "finds_the_instance", "finds_the_series", "pages_and_ranges")
        ),
        rule("GET /dicom-web/studies.*", body="[]"),
    ),
    lie(
        "links are for inside",
        "test_dicomweb::test_qido_finds_the_study",
        rule("GET /dicom-web/studies.*", change=["https://[^/]+/", "http://127.0.0.1:8042/"]),
    ),
    lie(
        "an instance has another UID",
        "test_dicomweb::test_qido_finds_the_instance",
        rule(f"GET {WEB_SERIES}/instances.*", change=[str(CT.dataset.SOPInstanceUID), f"{ROOT}.1"]),
    ),
    lie(
        "a series has another UID",
        "test_dicomweb::test_qido_finds_the_series",
        rule(f"GET {WEB}/series.*", change=[str(CT.dataset.SeriesInstanceUID), f"{ROOT}.1"]),
    ),
    lie(
        "the second page is the first one",
        "test_dicomweb::test_qido_pages_and_ranges",
        rule("GET /dicom-web/.*offset=2.*", asked=["offset=2", "offset=0"]),
    ),
    lie(
        "a range of dates is not looked at",
        "test_dicomweb::test_qido_pages_and_ranges",
        rule("GET /dicom-web/studies.*StudyDate.*", asked=["StudyDate=[^&]*", ""]),
    ),
    lie(
        "metadata are those of somebody else",
        "test_dicomweb::test_wado_metadata_has_tags_and_links",
        rule(f"GET {WEB}/metadata.*", change=[f'"{PATIENT_ID}"', '"SOMEBODY"']),
    ),
    lie(
        "links of metadata are for inside",
        "test_dicomweb::test_wado_metadata_has_tags_and_links",
        rule(f"GET {WEB}/metadata.*", change=["https://[^/]+/", "http://127.0.0.1:8042/"]),
    ),
    lie(
        "what metadata link to has one bit less right",
        "test_dicomweb::test_wado_metadata_has_tags_and_links",
        rule("GET /dicom-web/.*/bulk/.*", flip=1000),
    ),
    lie(
        "an image has one bit less right",
        "test_dicomweb::test_wado_gives_the_image",
        rule(f"GET {WEB_IMAGE}", flip=-2000),
    ),
    lie(
        "a name is wrong by QIDO-RS",
        "test_dicomweb::test_name_in_other_letters",
        rule("GET /dicom-web/studies.PatientID.*", change=[r'("Alphabetic"\s*:\s*")', r"\1X"]),
    ),
    lie(
        "a name is wrong in metadata",
        "test_dicomweb::test_name_in_other_letters",
        rule("GET /dicom-web/studies/[^/]+/metadata.*", change=[r'("Alphabetic"\s*:\s*")', r"\1X"]),
    ),
    lie(
        "a series comes with one image alone",
        "test_dicomweb::test_wado_gives_a_whole_series",
        rule(f"GET {WEB_STACK}/series/[^/]+", asked=["$", f"/instances/{SLICE.dataset.SOPInstanceUID}"]),
    ),
    lie(
        "a frame has one bit less right",
        "test_dicomweb::test_wado_gives_frames",
        rule("GET /dicom-web/.*/frames/.*", flip=1000),
    ),
    lie(
        "the second frame is the first one again",
        "test_dicomweb::test_wado_gives_frames[Colour, two frames, RLE]",
        rule("GET /dicom-web/.*/frames/.*", asked=["/frames/.*", "/frames/1,1"]),
    ),
    lie(
        "an uncompressed image has one bit less right",
        "test_dicomweb::test_wado_gives_an_uncompressed_image",
        rule("GET /dicom-web/studies/.*", flip=-1000),
    ),
    *(
        lie(
            f"what is rendered is blank, as {kind}",
            f"test_dicomweb::test_wado_renders[{kind}]",
            rule(f"GET {WEB_IMAGE}/rendered.*", body=blank(kind), kind=f"image/{kind}"),
        )
        for kind in ("png", "jpeg")
    ),
    lie(
        "WADO-URI gives an image with one bit less right",
        "test_dicomweb::test_wado_uri[application/dicom]",
        rule("GET /wado.*", flip=-2000),
    ),
    lie(
        "WADO-URI gives a blank picture",
        "test_dicomweb::test_wado_uri[image/jpeg]",
        rule("GET /wado.*", body=blank("jpeg")),
    ),
    lie(
        "an unknown study has metadata",
        "test_dicomweb::test_unknown_study_is_not_found",
        rule("GET /dicom-web/studies/.*/metadata", status=200, body="[]"),
    ),
    lie(
        "QIDO-RS finds what is not there",
        "test_dicomweb::test_dicomweb_answers",
        rule("GET /dicom-web/studies\\?.*", status=200, body="[{}]"),
    ),
    lie(
        "STOW-RS gives a link for inside",
        "test_dicomweb::test_stow_stores_an_image",
        rule("POST /dicom-web/studies", change=["https://[^/]+/", "http://127.0.0.1:8042/"]),
    ),
    lie(
        "STOW-RS acknowledges, and does not keep",
        "test_dicomweb::test_stow_stores_an_image",
        rule("POST /dicom-web/studies", after=f"/instances/{STOWED.instance}"),
    ),
]

TO_OTHERS = [
    lie("C-ECHO is said to have been sent", "test_remote::test_echo", swallowed("POST /modalities/verifier/echo")),
    lie(
        "images are said to have been sent",
        ("test_remote::test_store_one", "test_remote::test_store_several"),
        swallowed("POST /modalities/verifier/store", {"FailedInstancesCount": 0}),
    ),
    lie(
        "one of several is not sent",
        "test_remote::test_store_several",
        rule("POST /modalities/verifier/store", sent=[f', "{CT.instance}"', ""]),
    ),
    lie(
        "a job sends another image",
        "test_remote::test_store_by_a_job",
        rule("POST /modalities/verifier/store", sent=[CT.instance, SLICE.instance]),
    ),
    lie(
        "storage is not committed",
        "test_remote::test_storage_is_committed",
        rule("GET /storage-commitment/.*", change=['"Success"', '"Failure"']),
    ),
    lie(
        "storage is said to be committed, and nobody was asked",
        "test_remote::test_storage_is_committed",
        swallowed("POST /modalities/verifier/storage-commitment", {"ID": "2.25.1"}),
        swallowed("GET /storage-commitment/.*", {"Status": "Success"}),
    ),
    lie(
        "another study is asked for",
        "test_remote::test_query",
        rule("POST /modalities/verifier/query", sent=[r"\*fetched\*", "*elsewhere*"]),
    ),
    lie(
        "an answer of a query is about somebody else",
        "test_remote::test_query",
        rule("GET /queries/.*/answers/0/content.*", change=[PATIENT_ID, "SOMEBODY"]),
    ),
    lie(
        "a query has no answers",
        "test_remote::test_query",
        rule("GET /queries/.*/answers", body="[]"),
    ),
    lie(
        "a query is normalised always",
        "test_remote::test_query_is_normalized[as it is]",
        rule("POST /modalities/verifier/query", sent=['"Normalize": false', '"Normalize": true']),
    ),
    lie(
        "a query is never normalised",
        "test_remote::test_query_is_normalized[normalized]",
        rule("POST /modalities/verifier/query", sent=['"Normalize": true', '"Normalize": false']),
    ),
    lie(
        "an image is said to have been fetched",
        ("test_remote::test_retrieve", "test_remote::test_move"),
        swallowed("POST /queries/.*/retrieve"),
        swallowed("POST /modalities/verifier/move"),
    ),
    lie(
        "a job has fetched an image, which is not there",
        "test_remote::test_retrieve_by_a_job",
        rule(f"GET /instances/{OFFERED.instance}", status=404),
    ),
    lie(
        "a declaration is taken, and not kept",
        "test_remote::test_declared_for_a_moment",
        swallowed("PUT /(modalities|peers)/pacs-verification"),
    ),
    lie(
        "a declaration is not removed",
        "test_remote::test_declared_for_a_moment",
        swallowed("DELETE /(modalities|peers)/pacs-verification"),
    ),
    lie(
        "a peer answers with something else than an Orthanc would",
        "test_remote::test_peers_answer",
        swallowed("GET /peers/far/system"),
    ),
    lie(
        "images are said to have been sent to a peer",
        tuple(f"test_pair::test_peer_{what}" for what in ("takes_one", "takes_several", "gets_images_alone")),
        swallowed("POST /peers/far/store"),
    ),
    lie(
        "a job sends another study to a peer",
        "test_pair::test_peer_takes_them_by_a_job",
        rule("POST /peers/far/store", sent=[SLICE.study, CT.study]),
    ),
    lie(
        "a peer has what is told about an image",
        "test_pair::test_peer_gets_images_alone",
        rule(f"GET {IMAGE}/metadata/1025", status=200, body="ours"),
    ),
    lie(
        "images are said to have been sent to a modality",
        "test_pair::test_modality_takes_several",
        swallowed("POST /modalities/far/store", {"FailedInstancesCount": 0}),
    ),
    lie(
        "a job sends another series to a modality",
        "test_pair::test_modality_takes_them_by_a_job",
        rule("POST /modalities/far/store", sent=[SLICE.series, CT.series]),
    ),
    lie(
        "an image that was fetched has a wrong pixel",
        "test_pair::test_image_is_fetched_from_the_modality",
        rule(f"GET /instances/{LENT.instance}/image-int16", flip=-5),
    ),
    lie(
        "an image is said to have been fetched from a modality",
        tuple(f"test_pair::test_image_is_fetched_from_the_modality[{way}]" for way in ("query", "move")),
        swallowed("POST /queries/.*/retrieve"),
        swallowed("POST /modalities/far/move"),
    ),
]

LETTERS = [
    ("out", before.encode(), after.encode())
    for before, after in (("Wang", "Wong"), ("Yamada", "Yamado"), ("قباني", "قباند"), ("Müller", "Möller"))
]
PIXELS = re.escape(CT.dataset.PixelData[4000:4016])
ASKED = str(SLICE.dataset.SOPInstanceUID).encode()
PROTOCOL = [
    lie("C-ECHO fails", "test_dicom::test_echo", wire=[("out", status(0x8030, NOTHING), FAILED)]),
    lie(
        "C-STORE fails",
        ("test_dicom::test_store", "test_dicom::test_store_in_every_transfer_syntax"),
        wire=[("out", status(0x8001, NOTHING), FAILED)],
    ),
    lie(
        "C-STORE succeeds, and stores something else",
        ("test_dicom::test_store", "test_dicom::test_store_in_every_transfer_syntax"),
        wire=[("in", *LEFT)],
    ),
    lie(
        "an image that was sent is from somebody else",
        "test_dicom::test_store",
        rule(f"GET /instances/{SENT.instance}/metadata/RemoteAET", body="SOMEBODY"),
    ),
    lie(
        "an image that was sent has another transfer syntax",
        "test_dicom::test_store_in_every_transfer_syntax",
        rule("GET /instances/.*/metadata/TransferSyntax", body="1.2.3"),
    ),
    lie(
        "C-FIND gives other identifiers",
        ("test_dicom::test_find", "test_dicom::test_find_with_wildcard_and_range"),
        wire=[("out", *LEFT), ("out", PATIENT_ID.encode(), b"PACS-WERIFICATION")],
    ),
    lie(
        "C-FIND gives another modality",
        "test_dicom::test_find_with_wildcard_and_range",
        wire=[("out", rb"(?s)(\x08\x00\x61\x00.{4})CT", rb"\1MR")],
    ),
    lie("C-FIND gives other names", "test_dicom::test_name_in_other_letters", wire=LETTERS),
    lie("C-GET brings another image", "test_dicom::test_get", wire=[("out", *LEFT)]),
    lie("C-GET fails", "test_dicom::test_get", wire=[("out", status(0x8010, NOTHING), FAILED)]),
    lie(
        "C-GET brings a wrong pixel",
        "test_dicom::test_get[CT, explicit little endian]",
        wire=[("out", PIXELS, bytes(16))],
    ),
    lie("C-MOVE moves nothing", "test_dicom::test_move", wire=[("in", *LEFT)]),
    lie(
        "C-MOVE to a stranger succeeds",
        "test_dicom::test_move_to_a_stranger_is_refused",
        wire=[("out", status(0x8021, ANY), SUCCEEDED)],
    ),
    lie(
        "storage of another image is asked for",
        "test_dicom::test_storage_is_committed",
        wire=[("in", ASKED, ASKED.replace(ROOT.encode(), FOREIGN.encode()))],
    ),
    lie(
        "worklists fail",
        ("test_dicom::test_worklists_answer", "test_dicom::test_worklists_of_the_table_are_found"),
        wire=[("out", status(0x8020, NOTHING), FAILED)],
    ),
]

LIES = [*REST, *KINDS, *PICTURES, *COPIES, *WADO, *TO_OTHERS, *PROTOCOL]

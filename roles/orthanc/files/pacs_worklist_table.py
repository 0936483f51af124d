"""Worklists out of a table: a line is a step that is scheduled, its columns are DICOM's keywords."""

import csv
import datetime
import hashlib
import io
import re
import uuid
import warnings
from typing import Any

import pydicom
import pydicom.datadict
import pydicom.dataset
import pydicom.uid

# What is wrong with a value is for nobody's log.
warnings.filterwarnings("ignore", module="pydicom")

NEEDED = (
    *("PatientID", "PatientName", "AccessionNumber", "Modality", "ScheduledStationAETitle"),
    *("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"),
)
# What every answer has, whether the table has it or not: what modalities ask for, and Orthanc leaves out otherwise.
ALWAYS = (
    *("PatientBirthDate", "PatientSex", "ReferringPhysicianName", "RequestedProcedureDescription"),
    "ScheduledProcedureStepDescription",
)
TEXTS = ("AE", "AS", "CS", "DA", "DS", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT")
# PS3.5, 6.2: how many letters a value may have.
LONGEST = {"AE": 16, "CS": 16, "DS": 16, "IS": 12, "LO": 64, "PN": 64, "SH": 16, "ST": 1024, "LT": 10240, "UI": 64}
# Of the step, which stands in a sequence of its own.
STEP = re.compile(r"Scheduled(?!ProcedureStepSequence).*|Modality|PreMedication|RequestedContrastAgent")


class Problem(Exception):
    """What is wrong with a table as a whole."""


# How Python calls what Orthanc calls so (DefaultEncoding).
ENCODINGS = {
    **{f"Latin{number}": f"iso8859-{number}" for number in (1, 2, 3, 4)},
    "Ascii": "ascii",
    "Latin5": "iso8859-9",
    "Cyrillic": "iso8859-5",
    "Windows1251": "cp1251",
    "Arabic": "iso8859-6",
    "Greek": "iso8859-7",
    "Hebrew": "iso8859-8",
    "Thai": "tis-620",
    "Japanese": "shift_jis",
    "JapaneseKanji": "iso2022_jp",
    "Chinese": "gb18030",
    "Korean": "euc_kr",
    "SimplifiedChinese": "gb2312",
}


def rows(content: bytes, encoding: str = "Utf8") -> tuple[list[bytes], dict[int, str]]:
    """Return an answer for each good line, and by their numbers what is wrong with the others.

    :param encoding: that of Orthanc's answers, which leave out what it has not.
    :raises Problem: if the first line does not say which columns there are.
    """
    # What is no UTF-8 is told by its line.
    text = content.decode("utf-8-sig", "surrogateescape")
    head = text.lstrip("\r\n").partition("\n")[0]
    divider = max(",;\t", key=head.count)
    columns: list[str] = []
    found, wrong = [], {}
    # Each line by itself, lest a quotation mark swallow those that follow.
    for number, line in enumerate(text.split("\n"), 1):
        try:
            fields = [
                field.strip() for field in next(csv.reader([line.rstrip("\r")], delimiter=divider, strict=True), [])
            ]
        except csv.Error as error:
            wrong[number] = f"it cannot be read: {error}"
            continue
        if not any(fields):
            continue
        if not columns:
            columns = named(fields)
            continue
        try:
            if len(fields) > len(columns) and any(fields[len(columns) :]):
                raise ValueError(f"it has {len(fields)} fields, and there are {len(columns)} columns")
            given = dict(zip(columns, fields, strict=False))
            step = answer(given)
            written(given, encoding)
            found.append(step)
        except ValueError as error:
            wrong[number] = str(error)
        except Exception as error:
            # What it says may have the value in it.
            wrong[number] = f"it cannot be written ({type(error).__name__})"
    if not columns:
        raise Problem("it is empty; its first line names the columns")
    return found, wrong


def written(fields: dict[str, str], encoding: str) -> None:
    """See whether Orthanc can answer with these letters."""
    for column, value in fields.items():
        try:
            value.encode(ENCODINGS.get(encoding, "utf-8"))
        except UnicodeEncodeError:
            why = (
                f"Orthanc answers in {encoding}, which has not its letters; set orthanc_settings.DefaultEncoding: Utf8"
            )
            raise ValueError(f"{column}: {why}") from None


def named(columns: list[str]) -> list[str]:
    """Return the columns, which have to be DICOM's keywords."""
    for place, column in enumerate(columns, 1):
        if not column:
            continue
        tag = pydicom.datadict.tag_for_keyword(column)
        if tag is None or pydicom.datadict.dictionary_VR(tag) not in TEXTS:
            # Where the first line is missing, it is a patient's.
            raise Problem(f"column {place} of its first line is no keyword of DICOM for a text, as PatientID is")
        if columns.count(column) > 1:
            raise Problem(f"the column {column} is there twice")
    missing = [column for column in NEEDED if column not in columns]
    if missing:
        raise Problem(f"its first line does not name the columns {', '.join(missing)}")
    return columns


def answer(fields: dict[str, str]) -> bytes:
    """Make what a modality gets for a line.

    :raises ValueError: if it would not do.
    """
    empty = [column for column in NEEDED if not fields.get(column)]
    if empty:
        raise ValueError(f"{', '.join(empty)}: there is nothing")
    fields = {column: checked(column, value) for column, value in fields.items() if column}
    known = fields["PatientID"], fields["AccessionNumber"]
    digest = hashlib.sha256("\0".join(known).encode()).digest()
    fields = {
        # The same each time, so that all images of a procedure come together.
        "StudyInstanceUID": f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}",
        "RequestedProcedureID": known[1],
        "ScheduledProcedureStepID": known[1],
        **dict.fromkeys(ALWAYS, ""),
        **{column: value for column, value in fields.items() if value},
    }
    dataset, step = pydicom.Dataset(), pydicom.Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for column, value in fields.items():
        try:
            setattr(step if STEP.fullmatch(column) else dataset, column, value)
        except ValueError:
            # What pydicom says has the value in it.
            raise ValueError(f"{column}: DICOM has no such value there") from None
    dataset.ScheduledProcedureStepSequence = [step]
    meta = pydicom.dataset.FileMetaDataset()
    meta.FileMetaInformationGroupLength, meta.FileMetaInformationVersion = 0, b"\0\1"
    # Modality Worklist Information Model.
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.31"
    meta.MediaStorageSOPInstanceUID = f"2.25.{uuid.UUID(bytes=digest[16:], version=5).int}"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.ImplementationClassUID = pydicom.uid.PYDICOM_IMPLEMENTATION_UID
    buffer = io.BytesIO()
    pydicom.dataset.FileDataset(buffer, dataset, bytes(128), meta, is_implicit_VR=False, is_little_endian=True).save_as(
        buffer
    )
    return buffer.getvalue()


def checked(column: str, value: str) -> str:
    """Return a value as DICOM writes it."""
    vr = pydicom.datadict.dictionary_VR(pydicom.datadict.tag_for_keyword(column) or 0)
    if re.search(r"[\ud800-\udfff]", value):
        raise ValueError(f"{column}: it is not written in UTF-8")
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError(f"{column}: there is a control character in it")
    if "\\" in value:
        raise ValueError(f"{column}: a backslash divides values in DICOM; take it out")
    if not value:
        return value
    if vr == "DA":
        value = value.replace("-", "")
        if not re.fullmatch(r"[0-9]{8}", value) or not is_date(value):
            raise ValueError(f"{column}: it is no date like 2026-12-31")
    if vr == "TM":
        value = value.replace(":", "")
        if not re.fullmatch(r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9])?)?", value):
            raise ValueError(f"{column}: it is no time like 14:30")
    if vr == "PN" and (value.count("=") > 2 or max(map(len, value.split("="))) > LONGEST[vr]):
        raise ValueError(f"{column}: it is no name like Surname^First name")
    if vr == "UI" and not re.fullmatch(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+", value):
        raise ValueError(f"{column}: it is no UID")
    if vr == "CS" and not re.fullmatch(r"[A-Z0-9_ ]+", value):
        raise ValueError(f"{column}: it is no code in capitals")
    if (vr == "AE" and not value.isascii()) or len(value) > LONGEST.get(vr, 1024):
        raise ValueError(
            f"{column}: it is longer than {LONGEST.get(vr, 1024)} letters, or has some that it may not have"
        )
    return value


def is_date(value: str) -> bool:
    try:
        return bool(datetime.datetime.strptime(value, "%Y%m%d"))
    except ValueError:
        return False


def told(wrong: dict[int, str]) -> list[dict[str, Any]]:
    return [{"Line": line, "Problem": why} for line, why in sorted(wrong.items())]

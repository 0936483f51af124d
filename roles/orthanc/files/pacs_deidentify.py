"""Takes the patient out of images as they come, as orthanc_deidentify says; what cannot be done so is refused.

Orthanc's own anonymisation works on what is stored already, and would store an image as it came. So the profile of the
standard is applied here, before Orthanc has it. Pseudonyms are calculated with a secret: the same patient, study or
image gets the same ones whenever it comes, and no table says who is who.
"""

import base64
import datetime
import hashlib
import hmac
import io
import json
import re
import threading
import unicodedata
import uuid
import warnings
from typing import Any

import orthanc
import pydicom
import pydicom.charset
import pydicom.datadict
import pydicom.dataset
import pydicom.multival
import pydicom.uid
from pacs_profile import EMPTIED, FILLED, KEEPABLE, REMOVED
from pacs_tags import STORING, fits, matches

OPTIONS = json.loads(orthanc.GetConfiguration())
RULES, SECRET = OPTIONS["PacsDeidentify"], OPTIONS["PacsDeidentifySecret"].encode()
# Who sends is known of a C-STORE alone, and only when Orthanc is about to store it.
BY_SENDER = any(rule.get("from") for rule in RULES)
# PS3.7, C.5: refused, not authorized. PS3.4, B.2-1: stored, with other data elements.
REFUSED, COERCED = 0x0124, 0xB000
# What Orthanc itself refuses, whatever the way in.
NOTHING = b"Refused by orthanc_deidentify"

STANDARD = "1.2.840.10008."
STORAGE = f"{STANDARD}5.1.4.1.1."
# Texts that people wrote: reports and encapsulated documents.
TEXTS = tuple(STORAGE + kind for kind in ("88.", "104."))
# Pictures into which text is drawn as a rule: secondary captures, ultrasound, and what cameras take.
DRAWN = tuple(STORAGE + kind for kind in ("3.", "6.", "7.", "77.1."))
# By a part of ImageType: pages of a scanner's protocol or dose, which are of the kind of its images.
PAGES = ("SCREEN", "SAVE", "DOSE", "PROT")
# Others are known by their description, or, as in the rules of CTP, by what only they have.
DESCRIBED = ("DOSE REPORT", "DOSE INFO", "PATIENT PROTOCOL")
OF_CT = (("SIEMENS", "Rows", 860), ("TOSHIBA", "WindowWidth", 1))
# UIDs that say what something is, not which one.
KINDS = ("SOPClassUID", "SOPClassesInStudy", "SOPClassesSupported", "TransferSyntaxUID", "CodingSchemeUID")
LETTERS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
# What is done with these depends on the type, which a file may say otherwise than the standard.
TOLD_APART = {"DA", "DT", "PN", "SQ", "TM", "UI"}
DATES = ("DA", "DT", "TM")
DUMMIES = {
    "DA": "19000101",
    "TM": "000000",
    "DT": "19000101000000",
    "AS": "000Y",
    "DS": "0",
    "IS": "0",
    "CS": "REMOVED",
}
# Group of what is about the patient, whose dates are never kept.
PATIENTS = 0x0010
# What may stand in texts in passing, too.
NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "OtherPatientIDs", "AccessionNumber")
NAMED = ("PatientName", "OtherPatientNames", "PatientBirthName")
# From so many letters on it is no chance: as a word of a text, and anywhere in bytes.
WORD, LONG = 3, 6
# Where two letters may be a name; they are none in codes.
FREE = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
# Of writings that have no space between words.
UNDIVIDED = re.compile("[\u0e00-\u0fff\u1000-\u11ff\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]")
# Without these Orthanc refuses an image, and writes its PatientID into the log.
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
# PS3.3, C.12.1, and PS3.16, CID 7050.
MODIFIED = {"remove": ("REMOVED",), "shift": ("MODIFIED", "113107"), "keep": ("UNMODIFIED", "113106")}
MEANINGS = {
    "113100": "Basic Application Confidentiality Profile",
    "113106": "Retain Longitudinal Temporal Information Full Dates Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
    "113112": "Retain Institution Identity Option",
}

# What is wrong with a value is for nobody's log.
warnings.filterwarnings("ignore", module="pydicom")


class Refusal(Exception):
    """Why an image cannot be taken, in words without anything of the patient."""


def secret_of(kind: str, text: str) -> bytes:
    return hmac.new(SECRET, f"{kind}\0{text}".encode(), hashlib.sha256).digest()


def patient_of(identifier: str) -> str:
    return base64.b32encode(secret_of("patient", identifier)).decode()[:16]


def uid_of(identifier: str) -> str:
    """Return another UID; those of the standard say what something is, and stay."""
    if pydicom.uid.UID(identifier).name != identifier:
        return identifier
    return f"2.25.{uuid.UUID(bytes=secret_of('uid', identifier)[:16], version=5).int}"


def days_of(identifier: str) -> int:
    """Return by how many days a patient's dates go back: one month to five years."""
    return 30 + int.from_bytes(secret_of("days", identifier)[:8], "big") % 1797


def plain(value: Any) -> str:
    """Return a value's bytes, whatever its letters are, without what pads it."""
    text = value.decode("latin-1") if isinstance(value, bytes) else "" if value is None else str(value)
    return text.strip(" \0")


def raw(dataset: Any, keyword: str) -> Any:
    """Return a value as it is written; nothing where it is not there."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    return dataset.get_item(tag).value if tag in dataset else None


def encodings_of(dataset: Any, otherwise: list[str]) -> list[str]:
    """Return how texts are written, as Python calls it."""
    said = dataset.get("SpecificCharacterSet")
    return list(pydicom.charset.convert_encodings(said)) if said else otherwise


def spelled(value: Any, encodings: list[str]) -> str:
    """Return a value in letters, whatever they are written in, without their accents."""
    values = value if isinstance(value, list | pydicom.multival.MultiValue) else [value]
    texts = [
        pydicom.charset.decode_bytes(one, encodings, set()) if isinstance(one, bytes) else plain(one) for one in values
    ]
    letters = unicodedata.normalize("NFKD", "\\".join(texts))
    return unicodedata.normalize("NFC", "".join(one for one in letters if not unicodedata.combining(one))).strip(" \0")


def parts_of(text: str) -> set[str]:
    """Return what a name or a number is made of."""
    parts = set(re.split(r"[\\^=, ]", text))
    return parts.union(*(re.split(r"[-_.']", part) for part in parts))


def short_of(text: str) -> set[str]:
    """Return the names of two letters in that of a person, as they are written in a text: with a capital."""
    # Titles and what follows a name are no names.
    given = [part for one in re.split(r"[\\=]", text) for part in one.split("^")[:3]]
    parts = {part for one in given for part in re.split(r"[-_.', ]", one) if len(part) == 2 and part.isalpha()}
    return {form for part in parts for form in (part.upper(), part.capitalize())}


def searched(names: set[str], flags: int = 0) -> re.Pattern[str]:
    """Return what finds any of these names in a text."""
    found = []
    for name in sorted(names, key=len, reverse=True):
        word = re.escape(name)
        # As a word, of which _ is no letter; a long one anywhere.
        anywhere = len(name) >= LONG or (len(name) > 1 and UNDIVIDED.search(name))
        found.append(word if anywhere else rf"(?<![^\W_]){word}(?![^\W_])")
    return re.compile("|".join(found) or r"(?!)", flags)


def listed(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list | pydicom.multival.MultiValue) else [value]) if one]


def shifted(value: str, days: int) -> str:
    """Return a date, with or without a time, so many days earlier; nothing where it is none."""
    text = re.sub(r"^(\d{4})\.(\d\d)\.(\d\d)$", r"\1\2\3", value.strip(" \0"))
    try:
        date = datetime.datetime.strptime(text[:8], "%Y%m%d").date() - datetime.timedelta(days)
    except (OverflowError, ValueError):
        return ""
    return date.strftime("%Y%m%d").rjust(8, "0") + text[8:]


def judge(dataset: Any, burned_in: str) -> None:
    """Refuse what nobody can take the patient out of."""
    kind = plain(raw(dataset, "SOPClassUID"))
    said = plain(raw(dataset, "BurnedInAnnotation")).upper()
    if not kind.startswith(STANDARD):
        raise Refusal("its kind is none of the standard, and what is in it is not known")
    if kind.startswith(TEXTS):
        raise Refusal("it is a report or a document, which people wrote")
    if said == "YES":
        raise Refusal("it says of itself that something is drawn into its pixels (BurnedInAnnotation)")
    for group in range(0x6000, 0x6020, 2):
        # Overlay Bit Position and Overlay Data: without the latter it is in bits of the pixels that nothing else needs.
        if (group, 0x0102) in dataset and (group, 0x3000) not in dataset:
            raise Refusal("an overlay is drawn into its pixels")
    if said == "NO" or burned_in == "said":
        return
    drawn = f"{kind}.".startswith(DRAWN) or is_page(dataset)
    if drawn or burned_in == "unless_denied":
        raise Refusal("it does not say that nothing is drawn into its pixels (BurnedInAnnotation NO)")


def is_page(dataset: Any) -> bool:
    """Tell whether it is a page of a scanner's dose or protocol, or of a screen."""
    image_type, description, maker, modality = (
        plain(raw(dataset, keyword)).upper()
        for keyword in ("ImageType", "SeriesDescription", "Manufacturer", "Modality")
    )
    if any(word in image_type for word in PAGES) or any(word in description for word in DESCRIBED):
        return True
    secondary = modality == "CT" and "SECONDARY" in image_type
    return secondary and any(one in maker and dataset.get(keyword) == number for one, keyword, number in OF_CT)


class Patient:
    """Takes the patient out of an image."""

    def __init__(self, dataset: Any, rule: dict[str, Any]) -> None:
        self.dates, self.keep = rule.get("dates") or "remove", set(rule.get("keep") or [])
        identifier = plain(raw(dataset, "PatientID"))
        if not identifier:
            raise Refusal("it has no PatientID, by which others of this patient could be known")
        self.new, self.days = patient_of(identifier), days_of(identifier)
        # What nobody is to read any more: as it is written in this image, and as people read it.
        encodings = encodings_of(dataset, [pydicom.charset.default_encoding])
        names, known = {identifier}, set()
        for keyword in ("PatientID", *NAMES):
            value = raw(dataset, keyword)
            names |= parts_of(plain(value))
            text = spelled(value, encodings)
            known |= {text, *parts_of(text)} if keyword == "PatientID" else parts_of(text)
            # Surname and first name, as they are read.
            known |= {re.sub(r"\^", "", one) for one in text.split("=") if UNDIVIDED.search(one)}
        # How another character set is chosen is no name.
        known |= {name for name in names if "\x1b" not in name}
        self.known = searched(
            {name for name in known if len(name) >= WORD or UNDIVIDED.search(name)}, flags=re.IGNORECASE
        )
        self.short = searched(
            {form for keyword in NAMED for form in short_of(spelled(raw(dataset, keyword), encodings))}
        )
        anywhere = {*names, identifier, plain(raw(dataset, "PatientBirthDate"))}
        self.anywhere = [name.encode("latin-1") for name in anywhere if len(name) >= LONG and len(set(name)) > 2]

    def clean(self, dataset: Any, otherwise: list[str] | None = None) -> None:
        """Go through all elements, and those of sequences.

        :param otherwise: how texts are written where it does not say so.
        """
        encodings = encodings_of(dataset, otherwise or [pydicom.charset.default_encoding])
        for tag in list(dataset.keys()):
            keyword = pydicom.datadict.keyword_for_tag(tag)
            element = dataset.get_item(tag)
            vr = element.VR or (pydicom.datadict.dictionary_VR(tag) if keyword else "UN")
            due = pydicom.datadict.dictionary_VR(tag) if keyword else "UN"
            if vr != due and TOLD_APART & {vr, due}:
                # What is written as something else is nothing that is known.
                vr = "UN"
            # Curves and overlays are drawn, what follows the pixels is anything, and lengths are others now.
            if tag.is_private or not keyword or vr == "UN" or tag.group >> 8 in (0x50, 0x60, 0xFF) or not tag.element:
                del dataset[tag]
            elif keyword == "PatientID":
                dataset.PatientID = patient_of(plain(element.value))
            elif keyword == "PatientName":
                dataset.PatientName = self.new
            elif vr in DATES and tag.group != PATIENTS and self.dates != "remove":
                self._move(dataset, tag, vr)
            elif keyword in REMOVED - self.keep:
                del dataset[tag]
            elif keyword in EMPTIED - self.keep:
                dataset[tag] = pydicom.DataElement(tag, vr, "")
            elif keyword in FILLED - self.keep:
                dataset[tag] = pydicom.DataElement(tag, vr, DUMMIES.get(vr, "REMOVED"))
            elif vr in DATES or vr == "PN":
                del dataset[tag]
            elif vr == "UI" and not keyword.endswith(KINDS):
                new = [uid_of(one) for one in listed(dataset[tag].value)]
                dataset[tag] = pydicom.DataElement(tag, vr, new[0] if len(new) == 1 else new or "")
            elif vr == "SQ":
                for inner in dataset[tag].value:
                    self.clean(inner, encodings)
            else:
                self._read(dataset, tag, vr, element.value, encodings)

    def _move(self, dataset: Any, tag: Any, vr: str) -> None:
        if self.dates == "shift" and vr != "TM":
            new = [shifted(one, self.days) for one in listed(dataset[tag].value)]
            dataset[tag] = pydicom.DataElement(tag, vr, new if all(new) else "")

    def _read(self, dataset: Any, tag: Any, vr: str, value: Any, encodings: list[str]) -> None:
        """Take out of what stays what names the patient in passing."""
        if vr in LETTERS:
            written = "\\".join(map(plain, value if isinstance(value, list) else [value]))
            text = spelled(value, encodings)
            if any(map(self.known.search, (written, text))) or (vr in FREE and self.short.search(text)):
                dataset[tag] = pydicom.DataElement(tag, vr, "")
        elif isinstance(value, bytes) and vr.startswith("O") and any(name in value for name in self.anywhere):
            raise Refusal("something of the patient is written into its pixels or other bytes")


def deidentified(image: bytes, rule: dict[str, Any]) -> tuple[bytes, str]:
    """Return an image without its patient, and its new UID.

    :raises Refusal: if it cannot be done.
    """
    dataset = pydicom.dcmread(io.BytesIO(image))
    judge(dataset, rule.get("burned_in") or "usual")
    patient = Patient(dataset, rule)
    patient.clean(dataset)
    # Also where it was written as what nobody knows (UN), and went.
    dataset.PatientID = dataset.PatientName = patient.new
    dates = rule.get("dates") or "remove"
    dataset.PatientIdentityRemoved, dataset.DeidentificationMethod = "YES", "dicom.orthanc: PS3.15 Basic Profile"
    dataset.LongitudinalTemporalInformationModified = MODIFIED[dates][0]
    codes = ["113100", *MODIFIED[dates][1:]]
    codes += [code for code, words in KEEPABLE.items() if code and words.intersection(rule.get("keep") or [])]
    dataset.DeidentificationMethodCodeSequence = [coded(code) for code in codes]
    # Nothing of the old one: it has titles, and a preamble has room for anything.
    meta = pydicom.dataset.FileMetaDataset()
    meta.FileMetaInformationGroupLength, meta.FileMetaInformationVersion = 0, b"\0\1"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = pydicom.uid.PYDICOM_IMPLEMENTATION_UID
    dataset.file_meta, dataset.preamble = meta, bytes(128)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue(), str(dataset.SOPInstanceUID)


def coded(code: str) -> Any:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", MEANINGS[code]
    return item


def tags_of(dicom: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dicom.GetInstanceSimplifiedJson())
    return found


def tried(image: bytes, rule: dict[str, Any], tags: dict[str, Any]) -> tuple[bytes, str] | None:
    """Return what becomes of an image; nothing, and a line in the log, where it has to be refused."""
    try:
        return deidentified(image, rule)
    except Refusal as error:
        why = str(error)
    except BaseException as error:
        # What it says may be the patient's name.
        why = f"it cannot be read ({type(error).__name__})"
    orthanc.LogWarning(f"orthanc_deidentify: image {tags.get('SOPInstanceUID')} is refused: {why}")
    return None


# By their threads: the UID of what has just been made, which the next call is about.
made: dict[int, str] = {}


def titled(title: str) -> str:
    """Return a title as Orthanc compares it (StrictAetComparison)."""
    return title if OPTIONS.get("StrictAetComparison") else title.upper()


def rule_for(tags: dict[str, Any], sender: str | None = None) -> dict[str, Any] | None:
    """Return the first rule that is for an image.

    :param sender: its title; empty where nobody has one, and nothing where it is not known yet.
    """
    for rule in RULES:
        senders = rule.get("from")
        named = sender and senders and matches(titled(sender), [titled(one) for one in senders])
        if fits(rule, tags) and (not senders or sender is None or named):
            return rule
    return None


def received(image: bytes, origin: Any) -> tuple[Any, bytes | None]:
    thread = threading.get_ident()
    made.pop(thread, None)
    by_modality = origin == orthanc.InstanceOrigin.DICOM_PROTOCOL
    if thread in STORING:
        return orthanc.ReceivedInstanceAction.KEEP_AS_IS, None
    try:
        tags = tags_of(orthanc.CreateDicomInstance(image))
        rule = rule_for(tags, None if by_modality else "")
        if rule is not None and not all(tags.get(keyword) for keyword in NEEDED):
            orthanc.LogWarning("orthanc_deidentify: an image is refused: it has not all UIDs that an image has")
            return orthanc.ReceivedInstanceAction.MODIFY, NOTHING
        # Where it depends on who sends it, it is decided below.
        if rule is None or (by_modality and rule.get("from")):
            return orthanc.ReceivedInstanceAction.KEEP_AS_IS, None
        done = tried(image, rule, tags)
    except BaseException as error:
        orthanc.LogError(f"orthanc_deidentify: an image is refused, since it cannot be read: {type(error).__name__}")
        return orthanc.ReceivedInstanceAction.MODIFY, NOTHING
    if not done:
        return orthanc.ReceivedInstanceAction.MODIFY, NOTHING
    if by_modality:
        made[thread] = done[1]
    return orthanc.ReceivedInstanceAction.MODIFY, done[0]


def stored(dicom: Any) -> int:
    """Store another one instead of an image, where that depends on who sends it."""
    thread, tags = threading.get_ident(), tags_of(dicom)
    # Orthanc may have given it another UID since, where it transcodes.
    if made.pop(thread, None):
        return 0
    rule = rule_for(tags, dicom.GetInstanceRemoteAet())
    if rule is None:
        return 0
    done = tried(dicom.GetInstanceData(), rule, tags)
    if not done:
        return REFUSED
    STORING.add(thread)
    try:
        answer = json.loads(orthanc.RestApiPost("/instances", done[0]))
    finally:
        STORING.discard(thread)
    return COERCED if answer["Status"] in ("Success", "AlreadyStored") else REFUSED


orthanc.RegisterReceivedInstanceCallback(received)
if BY_SENDER:
    orthanc.RegisterIncomingCStoreInstanceFilter(stored)

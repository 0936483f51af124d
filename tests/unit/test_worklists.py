"""Worklists out of a table: what becomes of each line, and what is told of it."""

from __future__ import annotations

import io
import json
import os
import pathlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import pydicom
import pytest

from tests.repository import ROOT
from tests.unit.good_host import LSB, one_problem, problems

FILES = ROOT / "roles" / "orthanc" / "files"
HEAD = (
    "PatientID,PatientName,AccessionNumber,Modality,ScheduledStationAETitle,ScheduledProcedureStepStartDate,"
    "ScheduledProcedureStepStartTime,ScheduledProcedureStepDescription"
)
GOOD = "4711,M\u00fcller^Anna,A-1,CT,CT1,2026-12-01,14:30,Thorax"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FILES))
    module = __import__("pacs_worklist_table")
    yield module
    sys.modules.pop("pacs_worklist_table", None)


def table(*lines: str, head: str = HEAD) -> bytes:
    return "\n".join([head, *lines, ""]).encode()


def test_a_line_is_a_step(read: Any) -> None:
    (content,), wrong = read.rows(table(GOOD))
    assert wrong == {}
    dataset = pydicom.dcmread(io.BytesIO(content))
    assert (str(dataset.PatientName), dataset.PatientID, dataset.AccessionNumber) == ("M\u00fcller^Anna", "4711", "A-1")
    assert dataset.RequestedProcedureID == "A-1"
    assert (dataset.PatientSex, dataset.PatientBirthDate, dataset.SpecificCharacterSet) == ("", "", "ISO_IR 192")
    (step,) = dataset.ScheduledProcedureStepSequence
    assert (step.Modality, step.ScheduledStationAETitle, step.ScheduledProcedureStepID) == ("CT", "CT1", "A-1")
    assert (step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime) == ("20261201", "1430")
    assert step.ScheduledProcedureStepDescription == "Thorax"
    assert "Modality" not in dataset
    assert read.rows(table(GOOD))[0] == [content], "the UIDs are the same each time"
    other = pydicom.dcmread(io.BytesIO(read.rows(table(GOOD.replace("A-1", "A-2")))[0][0]))
    assert other.StudyInstanceUID != dataset.StudyInstanceUID
    pydicom.dcmwrite(io.BytesIO(), dataset, enforce_file_format=True)


@pytest.mark.parametrize(
    "content",
    [
        table(GOOD).replace(b",", b";"),
        table(GOOD).replace(b",", b"\t"),
        b"\xef\xbb\xbf" + table(GOOD),
        table(GOOD).replace(b"\n", b"\r\n"),
        table("", ",,,,,,,", GOOD, ";", " "),
        table(GOOD + ",,"),
        table('4711,"M\u00fcller^Anna",A-1,CT,CT1,20261201,143000,"Thorax, ap"'),
        table(GOOD, head="\n" + HEAD),
        table(GOOD[:-7]),
    ],
)
def test_tables_of_all_kinds(read: Any, content: bytes) -> None:
    steps, wrong = read.rows(content)
    assert len(steps) == 1
    assert set(wrong) <= {5}, "a line of a semicolon is none"


@pytest.mark.parametrize(
    "line, part",
    [
        (GOOD.replace("4711", ""), "PatientID: there is nothing"),
        (GOOD.replace("CT1,2026-12-01", ","), "ScheduledStationAETitle, ScheduledProcedureStepStartDate: there is"),
        (GOOD.replace("2026-12-01", "2026-02-30"), "ScheduledProcedureStepStartDate: it is no date like 2026-12-31"),
        (GOOD.replace("2026-12-01", "1.12.2026"), "it is no date"),
        (GOOD.replace("14:30", "25:00"), "ScheduledProcedureStepStartTime: it is no time like 14:30"),
        (GOOD.replace(",CT,", ",ct,"), "Modality: it is no code in capitals"),
        (GOOD.replace("CT1", "x" * 17), "ScheduledStationAETitle: it is longer than 16 letters"),
        (GOOD.replace("CT1", "C\u00d61"), "ScheduledStationAETitle: it is longer than 16 letters, or has some that"),
        (GOOD.replace("A-1", "A" * 17), "AccessionNumber: it is longer than 16 letters"),
        (GOOD.replace("Thorax", "a\\b"), "ScheduledProcedureStepDescription: a backslash divides values"),
        (GOOD.replace("Thorax", "a\x07b"), "ScheduledProcedureStepDescription: there is a control character in it"),
        (GOOD + ",more", "it has 9 fields, and there are 8 columns"),
        ('"' + GOOD, "it cannot be read"),
        (GOOD.replace("Anna", "Anna=a=b=c=d"), "PatientName: it is no name like"),
    ],
)
def test_a_bad_line_takes_no_other_away(read: Any, line: str, part: str) -> None:
    steps, wrong = read.rows(table(GOOD, line, GOOD.replace("A-1", "A-2")))
    assert len(steps) == 2
    assert list(wrong) == [3]
    assert part in wrong[3]
    assert "Anna" not in wrong[3]
    assert "4711" not in wrong[3]


def test_what_is_no_utf_8_is_told_by_its_line(read: Any) -> None:
    steps, wrong = read.rows(table(GOOD) + GOOD.encode("latin-1"))
    assert len(steps) == 1
    assert wrong == {3: "PatientName: it is not written in UTF-8"}


@pytest.mark.parametrize(
    "head, part",
    [
        ("", "it is empty; its first line names the columns"),
        (HEAD.replace("PatientID", "Patient"), "column 1 of its first line is no keyword of DICOM for a text"),
        (HEAD.replace("PatientID", "PixelData"), "column 1 of its first line is no keyword of DICOM for a text"),
        (HEAD.replace("PatientID,", ""), "its first line does not name the columns PatientID"),
        (HEAD + ",Modality", "the column Modality is there twice"),
    ],
)
def test_bad_first_lines(read: Any, head: str, part: str) -> None:
    with pytest.raises(read.Problem) as found:
        read.rows(table(*([GOOD] if head else []), head=head))
    assert part in str(found.value)


class Query:
    def __init__(self, wanted: str) -> None:
        self.wanted = wanted

    def WorklistIsMatch(self, step: bytes) -> bool:
        return bool(pydicom.dcmread(io.BytesIO(step)).AccessionNumber == self.wanted)


class Answers(list[bytes]):
    complete = True

    def WorklistMarkIncomplete(self) -> None:
        self.complete = False

    def WorklistAddAnswer(self, _query: Query, step: bytes) -> None:
        self.append(step)


class Output:
    def __init__(self) -> None:
        self.told: Any = None

    def AnswerBuffer(self, text: str, _kind: str) -> None:
        self.told = json.loads(text)

    def SendMethodNotAllowed(self, allowed: str) -> None:
        self.told = allowed


@pytest.fixture
def orthanc(tmp_path: pathlib.Path, read: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made: Any = types.ModuleType("orthanc")
    made.said, made.file = [], tmp_path / "table.csv"
    (tmp_path / "folder").mkdir()
    asked = {"Table": str(made.file), "Folder": str(tmp_path / "folder")}
    made.options = {"PacsWorklists": asked}
    made.GetConfiguration = lambda: json.dumps(made.options)
    made.OrthancException = RuntimeError
    made.RegisterWorklistCallback = lambda callback: setattr(made, "found", callback)
    made.RegisterRestCallback = lambda _path, callback: setattr(made, "answer", callback)
    made.LogError = made.LogWarning = made.said.append
    monkeypatch.setitem(sys.modules, "orthanc", made)
    __import__("pacs_worklists")
    yield made
    sys.modules.pop("pacs_worklists", None)


def ask(orthanc: Any, wanted: str) -> int:
    answers = Answers()
    orthanc.found(answers, Query(wanted), "CT1", "ORTHANC")
    return len(answers)


def state(orthanc: Any) -> dict[str, Any]:
    output = Output()
    orthanc.answer(output, "/pacs/worklists", method="GET")
    found: dict[str, Any] = output.told
    return found


def test_changes_are_answered_at_once(orthanc: Any) -> None:
    assert ask(orthanc, "A-1") == 0
    assert "No such file or directory; what it had before is answered" in orthanc.said.pop()
    orthanc.file.write_bytes(table(GOOD))
    assert ask(orthanc, "A-1") == 1
    orthanc.file.write_bytes(table(GOOD, GOOD.replace("A-1", "A-2"), GOOD.replace(",CT,", ",,")))
    assert [ask(orthanc, wanted) for wanted in ("A-1", "A-2", "A-3")] == [1, 1, 0]
    assert orthanc.said == ["orthanc_worklists_table: line 4 is left out: Modality: there is nothing"]
    told = state(orthanc)
    assert told == {
        "Table": str(orthanc.file),
        "Steps": 2,
        "Problem": "",
        "LeftOut": [{"Line": 4, "Problem": "Modality: there is nothing"}],
    }
    # Another file in its place, of the same size and time.
    before = orthanc.file.stat()
    other = orthanc.file.with_name("new")
    other.write_bytes(orthanc.file.read_bytes().replace(b"A-2", b"A-3"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(orthanc.file)
    assert [ask(orthanc, wanted) for wanted in ("A-1", "A-2", "A-3")] == [1, 0, 1]
    assert len(orthanc.said) == 1, "what is known is not told again"


def test_a_table_that_cannot_be_read_takes_nothing_away(orthanc: Any) -> None:
    orthanc.file.write_bytes(table(GOOD))
    assert ask(orthanc, "A-1") == 1
    for content, part in (
        (b"", "it is empty"),
        (table(GOOD, head=HEAD.replace("Modality", "Mod")), "of its first line is no keyword"),
        # As Excel writes it, and a letter that is no UTF-8; and a line of a patient where the first one is missing.
        (table(GOOD).decode().encode("utf-16"), "of its first line is no keyword"),
        (f"{HEAD},Ger\u00e4t".encode("latin-1"), "of its first line is no keyword"),
        (GOOD.encode(), "of its first line is no keyword"),
    ):
        orthanc.file.write_bytes(content)
        assert ask(orthanc, "A-1") == ask(orthanc, "A-1") == 1
        assert part in orthanc.said.pop()
        assert part in state(orthanc)["Problem"]
        assert orthanc.said == []
    orthanc.file.unlink()
    assert ask(orthanc, "A-1") == 1
    orthanc.file.write_bytes(table(GOOD.replace("A-1", "A-2")))
    assert [ask(orthanc, "A-1"), ask(orthanc, "A-2")] == [0, 1]
    assert state(orthanc)["Problem"] == ""


def test_files_are_found_beside_them(orthanc: Any, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    orthanc.file.write_bytes(table(GOOD))
    folder = orthanc.file.with_name("folder")
    (folder / "one.wl").write_bytes(read.rows(table(GOOD.replace("A-1", "F-1")))[0][0])
    (folder / "gone.wl").symlink_to(folder / "nowhere")
    (folder / "other.txt").write_bytes(b"x")
    assert [ask(orthanc, wanted) for wanted in ("A-1", "F-1")] == [1, 1]
    (folder / "a.wl").write_bytes(b"bad")
    before = Query.WorklistIsMatch

    def match(query: Query, step: bytes) -> bool:
        if step == b"bad":
            raise RuntimeError("Bad file format")
        return before(query, step)

    monkeypatch.setattr(Query, "WorklistIsMatch", match)
    assert [ask(orthanc, wanted) for wanted in ("A-1", "F-1")] == [1, 1]
    assert orthanc.said.pop() == "orthanc_worklists_dir: a file is no worklist: Bad file format"


@pytest.mark.parametrize(
    "options, sender, expected, complete",
    [
        ({}, "CT1", ["A-1", "A-2", "A-3", "F-1"], True),
        ({"FilterIssuerAet": False, "LimitAnswers": 0}, "CT1", ["A-1", "A-2", "A-3", "F-1"], True),
        ({"FilterIssuerAet": True}, "CT1", ["A-1", "F-1"], True),
        ({"FilterIssuerAet": True}, "CT2", ["A-2", "A-3"], True),
        ({"FilterIssuerAet": True}, "CT", [], True),
        ({"LimitAnswers": 4}, "CT1", ["A-1", "A-2", "A-3", "F-1"], True),
        ({"LimitAnswers": 3}, "CT1", ["A-1", "A-2", "A-3"], False),
        ({"FilterIssuerAet": True, "LimitAnswers": 1}, "CT2", ["A-2"], False),
    ],
)
def test_options_of_the_plugin_hold_with_a_table(
    orthanc: Any,
    read: Any,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    sender: str,
    expected: list[str],
    complete: bool,
) -> None:
    orthanc.options["Worklists"] = options
    sys.modules.pop("pacs_worklists", None)
    __import__("pacs_worklists")
    other = GOOD.replace("CT1", "CT2")
    orthanc.file.write_bytes(table(GOOD, other.replace("A-1", "A-2"), other.replace("A-1", "A-3")))
    (orthanc.file.with_name("folder") / "one.wl").write_bytes(read.rows(table(GOOD.replace("A-1", "F-1")))[0][0])
    monkeypatch.setattr(Query, "WorklistIsMatch", lambda *_given: True)
    answers = Answers()
    orthanc.found(answers, Query(""), sender, "ORTHANC")
    assert [pydicom.dcmread(io.BytesIO(step)).AccessionNumber for step in answers] == expected
    assert answers.complete is complete


def test_letters_that_orthanc_would_leave_out(read: Any, orthanc: Any) -> None:
    japanese = GOOD.replace("M\u00fcller", "\u7530\u4e2d")
    assert [len(read.rows(table(GOOD, japanese), encoding)[0]) for encoding in ("Utf8", "Latin1", "Ascii")] == [2, 1, 0]
    # Orthanc's own, if nothing else is asked for.
    orthanc.file.write_bytes(table(GOOD, japanese))
    assert ask(orthanc, "A-1") == 1
    assert "line 3 is left out: PatientName: Orthanc answers in Latin1, which has not its letters" in orthanc.said.pop()


def test_it_is_only_told(orthanc: Any) -> None:
    output = Output()
    orthanc.answer(output, "/pacs/worklists", method="POST")
    assert output.told == "GET"


PYTHON: dict[str, Any] = {"orthanc_plugins": ["dicomweb", "python"]}
FOLDER, TABLE = "orthanc_worklists_dir", "orthanc_worklists_table"


def test_good_places_pass(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(table(GOOD, "bad"))
    assert problems(**PYTHON | {FOLDER: "/srv/worklists", TABLE: "/mnt/ris/today.csv"}) == []
    assert problems(**PYTHON | {TABLE: str(file), f"{TABLE}_from": "control"}) == []
    heeded = {"orthanc_settings": {"Worklists": {"FilterIssuerAet": True, "LimitAnswers": 50}}}
    assert problems(**PYTHON | heeded | {TABLE: "/mnt/ris/today.csv"}) == []


@pytest.mark.parametrize(
    "given, variable, part",
    [
        ({"orthanc_settings": {"Worklists": {"HideStuff": True}}}, "orthanc_settings.Worklists.HideStuff", "alone"),
        ({"orthanc_settings": {"Worklists": {"LimitAnswers": "3"}}}, "orthanc_settings.Worklists.LimitAnswers", "type"),
        ({"orthanc_settings": {"Worklists": {"LimitAnswers": -1}}}, "orthanc_settings.Worklists.LimitAnswers", "range"),
        ({"orthanc_settings": {"Worklists": 3}}, "orthanc_settings.Worklists", "dictionary"),
        ({"orthanc_settings_unchecked": {"Worklists": {"LimitAnswers": 3}}}, "orthanc_settings_unchecked", "pass over"),
    ],
)
def test_options_that_the_table_does_not_have(given: dict[str, Any], variable: str, part: str) -> None:
    found = [text for text in problems(**PYTHON | given | {TABLE: "/srv/today.csv"}) if text.startswith(variable)]
    assert [text for text in found if part in text], found


def test_table_of_the_inventory_has_to_be_utf_8(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "table.csv"
    for content, line in ((table(GOOD) + GOOD.encode("latin-1"), 3), (table(GOOD).decode().encode("utf-16"), 1)):
        file.write_bytes(content)
        one_problem(
            PYTHON | {TABLE: str(file), f"{TABLE}_from": "control"}, TABLE, f"is no text in UTF-8, by its line {line}"
        )


@pytest.mark.parametrize(
    "given, variable, part",
    [
        ({FOLDER: "worklists"}, FOLDER, "is not an absolute path"),
        ({FOLDER: "/home/ris/worklists"}, FOLDER, "Orthanc does not see what is in /home/ris/worklists"),
        ({FOLDER: "/srv/worklists", "orthanc_plugins": []}, FOLDER, "add it to orthanc_plugins"),
        (
            {TABLE: "/srv/today.csv", "orthanc_plugins": ["python", "worklists"]},
            TABLE,
            "take worklists out of orthanc_plugins",
        ),
        (
            {
                FOLDER: "/srv/worklists",
                "orthanc_plugins": ["worklists"],
                "orthanc_settings": {"Worklists": {"Database": "/srv/x"}},
            },
            "orthanc_settings",
            "it names a folder too",
        ),
        ({TABLE: "today.csv"}, TABLE, "is not an absolute path"),
        ({TABLE: "/tmp/today.csv"}, TABLE, "Orthanc does not see"),
        ({TABLE: "/srv/today.csv", "orthanc_plugins": []}, TABLE, "it takes the plugin python"),
        ({TABLE: "/nowhere.csv", f"{TABLE}_from": "control"}, TABLE, "is no file of the control node"),
        ({TABLE: "/etc/hostname", f"{TABLE}_from": "control"}, TABLE, "is no keyword of DICOM"),
    ],
)
def test_bad_places(given: dict[str, Any], variable: str, part: str) -> None:
    one_problem(PYTHON | given, variable, part)


def test_it_takes_python() -> None:
    assert [
        text
        for text in problems(**{TABLE: "/srv/today.csv"} | LSB)
        if text.startswith(TABLE) and "not to be had" in text
    ]


@pytest.mark.parametrize(
    "head, line",
    [
        (",InstanceNumber", ",1e400"),
        (",InstanceNumber", ",inf"),
        (",PatientAge", ",\u0663\u0663Y"),
        (",PatientSize", ",\u0663"),
        ("", ""),
    ],
)
def test_a_cell_that_nobody_expects_takes_no_other_line_away(orthanc: Any, head: str, line: str) -> None:
    strange = GOOD.replace("A-1", "A-2") + line if head else GOOD.replace("A-1", "A-2").replace("14:30", "0\u0668:30")
    orthanc.file.write_bytes(table(GOOD + "," * bool(head), strange, head=HEAD + head))
    assert [ask(orthanc, "A-1"), ask(orthanc, "A-2")] == [1, 0]
    (left,) = state(orthanc)["LeftOut"]
    assert left["Line"] == 3
    assert (line.strip(",") or "\u0668") not in left["Problem"]


def test_a_pipe_is_waited_for_by_nobody(orthanc: Any) -> None:
    orthanc.file.write_bytes(table(GOOD))
    os.mkfifo(orthanc.file.with_name("folder") / "pipe.wl")
    assert ask(orthanc, "A-1") == 1
    orthanc.file.unlink()
    os.mkfifo(orthanc.file)
    assert ask(orthanc, "A-1") == 1
    assert "it is no file of at most" in state(orthanc)["Problem"]

"""Modalities out of a table, as people have it from a spreadsheet."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.dicom.orthanc.plugins.lookup import modalities

from tests.unit.test_preflight_action import Site

TABLE = "group_vars/all/modalities.csv"
LOOKUP = f"{{{{ lookup('dicom.orthanc.modalities', '{TABLE}') }}}}"
HEAD = "Name,AET,Host,Port,AllowFind,Manufacturer,Comment\n"
CT = "ct,CT1,192.0.2.7,104,,,\n"


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Site:
    return Site(tmp_path / "site")


def wrong(site: Site, table: str, **variables: object) -> list[str]:
    site.write(TABLE, table)
    given = {"orthanc_modalities": LOOKUP, "verification_modality": ""}
    return site.wrong(**given | variables)


def test_table_is_as_good_as_a_dictionary(site: Site) -> None:
    table = HEAD + CT + ',,,\n\nmr_2,"MR, 2",192.0.2.8, 11112 ,FALSE,GE,"by the\nstairs"\n'
    assert modalities.read("x.csv", table, check_host=True) == {
        "ct": {"AET": "CT1", "Host": "192.0.2.7", "Port": 104},
        "mr_2": {"AET": "MR, 2", "Host": "192.0.2.8", "Port": 11112, "AllowFind": False, "Manufacturer": "GE"},
    }
    assert wrong(site, table, verification_modality="mr_2") == []


@pytest.mark.parametrize("divider", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_table_is_read_as_spreadsheets_write_it(divider: str, ending: str, mark: str) -> None:
    lines = ["Port,Name,Host,AET,,", "104,ct,192.0.2.7,CT1,,", ",,,,,"]
    table = mark + "".join(line.replace(",", divider) + ending for line in lines)
    assert modalities.read("x.csv", table, True) == {"ct": {"AET": "CT1", "Host": "192.0.2.7", "Port": 104}}


@pytest.mark.parametrize(
    "table, said",
    [
        ("", ["modalities.csv: it is empty."]),
        (HEAD + 'ct,"CT1"x,,\n', ["modalities.csv: this is no CSV; "]),
        (
            "Name,AET,Hosts,Port,AET\n" + CT,
            [
                "modalities.csv, line 1: the column AET is there 2 times.",
                "modalities.csv, line 1: there is no column 'Hosts'. Did you mean 'Host'?",
                "modalities.csv, line 1: the column Host is missing",
            ],
        ),
        (HEAD + CT + ",CT2,192.0.2.8,104,,,\n", ["modalities.csv, line 3: it has no Name."]),
        ("AET,Host,Port,Name\nCT1,192.0.2.7\n", ["modalities.csv, line 2: it has no Name."]),
        (HEAD + f"c2,CT2,192.0.2.8,{'9' * 5000},,,\n", ["modalities.csv, line 2, c2: '999"]),
        (HEAD + CT + "c 2,CT2,192.0.2.8,104,,,\n", ["modalities.csv, line 3, c 2: a name has letters"]),
        (HEAD + CT + "c2,CT2,192.0.2.8\n", ["modalities.csv, line 3, c2: give AET, Host and Port"]),
        (HEAD + CT + "c2,CT2,192.0.2.8,104,,,,104\n", ["modalities.csv, line 3: it has 8 fields, and the first line"]),
        (HEAD + CT + "c2,CT2,192.0.2.8,dicom,,,\n", ["modalities.csv, line 3, c2: 'dicom' is not a TCP port"]),
        (HEAD + CT + "c2,CT2,192.0.2.8,١٠٤,,,\n", ["modalities.csv, line 3, c2: '١٠٤' is not a TCP port"]),
        (HEAD + CT + "c2,CT2,192.0.2.8,104,no,,\n", ["modalities.csv, line 3, c2.AllowFind: Orthanc wants a value"]),
        (HEAD + CT + "c2,CT2,192.0.2.8,104,,Acme,\n", ["modalities.csv, line 3, c2.Manufacturer: 'Acme' is none of"]),
        (HEAD + CT + "c2,CT2,ct2.local,104,,,\n", ["modalities.csv, line 3, c2: Orthanc compares Host"]),
        # One that goes on over two lines.
        (HEAD + 'ct,CT1,192.0.2.7,104,,,"a\nb"\n' + CT, ["modalities.csv, line 4: the name 'ct' is that of line 2"]),
        (
            HEAD + CT + CT.replace("ct", "c2"),
            ["modalities.csv, line 3, c2: title and address are those of modalities.c"],
        ),
    ],
)
def test_wrong_table(site: Site, table: str, said: list[str]) -> None:
    got = wrong(site, table)
    assert len(got) == len(said)
    for sentence, beginning in zip(got, said, strict=True):
        assert sentence.startswith(f"orthanc_modalities: {beginning}")


def test_all_of_hundreds_is_told_at_once(site: Site) -> None:
    rows = [f"m{n},M{n},10.0.{n // 200}.{n % 200 + 1},104,,,\n" for n in range(300)]
    assert wrong(site, HEAD + "".join(rows)) == []
    rows[9] = "m9,TITLE-OF-TOO-MANY-LETTERS,10.0.0.10,104,,,\n"
    rows[99] = rows[0]
    rows[199] = rows[50].replace("m50", "m199")
    rows[299] = "m299,M299,,104,,,\n"
    told = wrong(site, HEAD + "".join(rows))
    begin = [sentence.removeprefix("orthanc_modalities: modalities.csv, line ") for sentence in told]
    assert [sentence.split(" ")[0] for sentence in begin] == ["11,", "101:", "201,", "301,"]
    assert "that of line 2 already" in begin[1]
    assert "those of modalities.csv, line 52, m50" in begin[2]


def test_names_are_addresses_where_orthanc_does_not_compare(site: Site) -> None:
    table = HEAD + "ct,CT1,ct1.local,104,,,\n"
    settings = {"DicomCheckModalityHost": "{{ false }}"}
    assert wrong(site, table, orthanc_settings=settings) == []


def test_settings_that_are_none_are_told_as_such(site: Site) -> None:
    (told,) = wrong(site, HEAD + CT, orthanc_settings=["StableAge"])
    assert told.startswith("orthanc_settings: it has to be of type dict")


def test_file_that_is_not_there(site: Site) -> None:
    (told,) = site.wrong(orthanc_modalities=LOOKUP, verification_modality="")
    assert told == f"orthanc_modalities: there is no file {TABLE} in {site.folder}."


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_comments_are_in_any_letters(site: Site, encoding: str) -> None:
    site.write(TABLE, "")
    (site.folder / TABLE).write_bytes(HEAD.encode() + "ct,CT1,192.0.2.7,104,,,Röntgen\nü,U,,,,,".encode(encoding))
    told = site.wrong(orthanc_modalities=LOOKUP, verification_modality="")
    assert [sentence.partition(":")[2] for sentence in told] == [
        " modalities.csv, line 3, ü: a name has letters, digits, '-' and '_' only.",
        " modalities.csv, line 3, ü: give AET, Host and Port, as Orthanc's DicomModalities does.",
    ]


def test_file_that_is_another_thing(site: Site) -> None:
    site.write(TABLE, "")
    (site.folder / TABLE).write_bytes((HEAD + CT).encode("utf-16"))
    (told,) = site.wrong(orthanc_modalities=LOOKUP, verification_modality="")
    assert told == "orthanc_modalities: modalities.csv: this is no CSV, or in UTF-16; save it as CSV in UTF-8."

"""What the module database_service makes of a file of others, and how files of before come back."""

import pathlib

from ansible_collections.dicom.orthanc.plugins.modules.database_service import found, put_back, with_part

THEIRS = "# PostgreSQL Client Authentication\nlocal all postgres peer\nhost wiki wiki 192.0.2.7/32 scram-sha-256\n"


def test_part_stands_at_the_head_and_the_rest_stays() -> None:
    made = with_part(THEIRS, "host orthanc orthanc 127.0.0.1/32 scram-sha-256\n")
    assert made.endswith(THEIRS)
    assert made.index("host orthanc") < made.index("host wiki")
    assert with_part(made, "host orthanc orthanc 127.0.0.1/32 scram-sha-256") == made


def test_part_is_replaced_where_it_is_and_taken_out() -> None:
    made = with_part(THEIRS, "host a a 127.0.0.1/32 scram-sha-256")
    assert with_part(made, "host b b 127.0.0.1/32 scram-sha-256").count("host ") == 2
    assert with_part(made, "") == THEIRS
    # What somebody has put above it stays too.
    assert with_part("# mine\n" + made, "") == "# mine\n" + THEIRS


def test_part_without_its_end_takes_nothing_along() -> None:
    broken = with_part(THEIRS, "host a a 127.0.0.1/32 scram-sha-256").replace("# End of", "# end of")
    assert with_part(broken, "x").endswith(broken)


def test_files_of_before_come_back(tmp_path: pathlib.Path) -> None:
    old, new = tmp_path / "old.conf", tmp_path / "new.conf"
    old.write_text("a", encoding="utf-8")
    old.chmod(0o640)
    before = found([str(old), str(new)])
    old.write_text("b", encoding="utf-8")
    old.chmod(0o600)
    new.write_text("c", encoding="utf-8")
    put_back(before)
    assert old.read_text("utf-8") == "a"
    assert old.stat().st_mode & 0o777 == 0o640
    assert sorted(tmp_path.iterdir()) == [old]

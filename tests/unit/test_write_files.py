"""How files are written, where a host could make it behave otherwise."""

import os
import pathlib
import stat

from ansible_collections.dicom.orthanc.plugins.module_utils.files import make_folders


def test_umask_of_the_host_closes_no_folder(tmp_path: pathlib.Path) -> None:
    before = os.umask(0o077)
    try:
        make_folders(str(tmp_path / "etc" / "pacs" / "nginx"))
    finally:
        os.umask(before)
    for folder in ("etc", "etc/pacs", "etc/pacs/nginx"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o755
    make_folders(str(tmp_path / "etc" / "pacs" / "nginx"))

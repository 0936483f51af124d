"""What the verification finds on the host of an Orthanc that does not answer."""

from __future__ import annotations

import json
import pathlib
import socket
import sys

from tests.repository import ROOT, run


def test_orthanc_that_does_not_run_leaves_the_rest_to_tell(tmp_path: pathlib.Path) -> None:
    (tmp_path / "credentials.json").write_text('{"RegisteredUsers": {"admin": "long enough"}}', encoding="utf-8")
    (tmp_path / "orthanc.json").write_text('{"LuaScripts": ["/srv/route.lua"]}', encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    script = (ROOT / "verification" / "on_host.py").read_text("utf-8")
    done = run(sys.executable, "-c", script, str(tmp_path), port, str(tmp_path), "")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["room"].keys() == {str(tmp_path)}
    assert found["options"]["LuaScripts"] == ["/srv/route.lua"]
    assert (found["index"], found["none"], found["wrong"], found["system"], found["plugins"]) == (0, 0, 0, {}, [])

"""The modules that tell a running Orthanc of others, with a stand-in for it."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from ansible_collections.dicom.orthanc.plugins.modules import orthanc_dicomweb_server, orthanc_modality, orthanc_peer

from tests.unit.module import run

Call = Callable[..., dict[str, Any]]
CT = {"name": "ct", "aet": "CT1", "host": "192.0.2.7", "port": 104}
PEER = {"name": "b", "address": "https://b/", "username": "u", "password": "secret1"}


class Handler(http.server.BaseHTTPRequestHandler):
    """Keeps what it is told, and shows it as Orthanc 1.12.7 does."""

    kept: dict[str, dict[str, Any]]
    told: list[str]
    # Fields that there are none of.
    ignored: tuple[str, ...] = ()

    def do_GET(self) -> None:
        login = base64.b64encode(b"admin:w0rd").decode()
        if self.headers["Authorization"] != f"Basic {login}":
            return self._answer(401, b"<html>")
        section, _, name = self.path.removeprefix("/pacs").removesuffix("?expand").rpartition("/")
        if self.path.endswith("?expand"):
            section, name = f"{section}/{name}", ""
        entries = self.kept.get(section)
        if entries is None:
            return self._answer(404, b"")
        if self.command != "GET":
            self.told.append(f"{self.command} {section}/{name}")
        if self.command == "PUT":
            entry = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if entry.get("Port") == 0 or not isinstance(entry.get("HttpHeaders", {}), dict):
                return self._answer(400, b'{"Message": "Bad file format", "Details": "no port"}')
            entries[unquote(name)] = {field: value for field, value in entry.items() if field not in self.ignored}
        elif self.command == "DELETE":
            del entries[name]
        return self._answer(200, json.dumps({name: shown(entry) for name, entry in entries.items()}).encode())

    do_PUT = do_DELETE = do_GET

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        pass


def shown(entry: dict[str, Any]) -> dict[str, Any]:
    found = {"Manufacturer": "Generic", "AllowFind": True} if "AET" in entry else {"Pkcs11": False, "Timeout": 0}
    found |= {key: str(int(value)) if key in ("HasDelete", "Depth") else value for key, value in entry.items()}
    if "Username" in entry:
        found["Password"] = None
    if "CertificateFile" in entry:
        found |= {"CertificateKeyFile": None, "CertificateKeyPassword": None}
    if "Url" in entry:
        found["HttpHeaders"] = list(entry.get("HttpHeaders", {}))
    return found


@pytest.fixture
def orthanc() -> Iterator[type[Handler]]:
    kept: dict[str, Any] = {"/modalities": {}, "/peers": {}, "/dicom-web/servers": {}}
    handler = type("Of", (Handler,), {"kept": kept, "told": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        handler.port = server.server_port  # type: ignore[attr-defined]
        yield handler
        server.shutdown()


@pytest.fixture
def call(orthanc: Any, capsys: pytest.CaptureFixture[str]) -> Call:
    def called(module: Any, **arguments: Any) -> dict[str, Any]:
        given = {"url": f"http://127.0.0.1:{orthanc.port}/pacs/", "url_username": "admin", "url_password": "w0rd"}
        return run(module, capsys, **(given | arguments))

    return called


def test_modality_comes_changes_and_goes(orthanc: type[Handler], call: Call) -> None:
    dry = call(orthanc_modality, **CT, _ansible_check_mode=True)
    assert (dry["changed"], dry["entry"]["AET"], orthanc.told) == (True, "CT1", [])
    assert call(orthanc_modality, **CT)["changed"]
    assert orthanc.kept["/modalities"] == {"ct": {"AET": "CT1", "Host": "192.0.2.7", "Port": 104}}
    said = call(orthanc_modality, **CT)
    assert (said["changed"], said["entry"]["Manufacturer"]) == (False, "Generic")
    said = call(orthanc_modality, name="ct", options={"AllowFind": False})
    assert said["changed"]
    assert (said["diff"]["before"]["AllowFind"], said["diff"]["after"]["AllowFind"]) == (True, False)
    # What was not given is as it was.
    assert orthanc.kept["/modalities"]["ct"]["Port"] == 104
    assert not call(orthanc_modality, **CT)["changed"]
    assert call(orthanc_modality, name="ct", state="absent", _ansible_check_mode=True)["changed"]
    said = call(orthanc_modality, name="ct", state="absent")
    assert (said["changed"], said["entry"], orthanc.kept["/modalities"]) == (True, {}, {})
    assert not call(orthanc_modality, name="ct", state="absent")["changed"]
    assert orthanc.told == ["PUT /modalities/ct", "PUT /modalities/ct", "DELETE /modalities/ct"]


@pytest.mark.parametrize("module", [orthanc_peer, orthanc_dicomweb_server])
def test_secrets_are_told_and_never_shown(orthanc: type[Handler], call: Call, module: Any) -> None:
    secrets = PEER | {"http_headers": {"Token": "secret2"}}
    said = call(module, **secrets)
    assert said["changed"]
    (entries,) = [entries for entries in orthanc.kept.values() if entries]
    assert entries == {
        "b": {"Url": "https://b/", "Username": "u", "Password": "secret1", "HttpHeaders": {"Token": "secret2"}}
    }
    assert said["entry"]["HttpHeaders"] == ["Token"]
    everything = [said, call(module, **secrets)]
    assert not everything[-1]["changed"]
    # Nobody can see another one.
    secrets["password"] = "secret3"
    everything.append(call(module, **secrets))
    assert not everything[-1]["changed"]
    everything.append(call(module, **secrets, update_secrets=True))
    assert (everything[-1]["changed"], entries["b"]["Password"]) == (True, "secret3")
    everything.append(call(module, **(secrets | {"address": "https://c/"})))
    assert (everything[-1]["changed"], entries["b"]["Password"], entries["b"]["Url"]) == (True, "secret3", "https://c/")
    # It would be lost.
    everything.append(call(module, name="b", options={"Timeout": 7}))
    assert everything[-1]["msg"] == "b: Orthanc does not tell what it has of HttpHeaders, Password; give it too."
    assert entries["b"]["Timeout"] == 0
    assert not call(module, name="b", state="present")["changed"]
    for said in everything:
        said.pop("invocation", None)
        assert not any(secret in str(said) for secret in ("secret1", "secret2", "secret3"))


def test_peer_without_headers_changes(orthanc: type[Handler], call: Call) -> None:
    assert call(orthanc_peer, **PEER)["changed"]
    assert call(orthanc_peer, **PEER, options={"Timeout": 7})["changed"]
    assert orthanc.kept["/peers"]["b"]["Timeout"] == 7
    # As Orthanc writes it.
    assert not call(orthanc_peer, **(PEER | {"address": "https://b"}))["changed"]


def test_certificate_of_a_peer(orthanc: type[Handler], call: Call) -> None:
    files = {"certificate_file": "/etc/c.crt", "certificate_key_file": "/etc/c.key", "certificate_key_password": "k"}
    wanted = {"name": "b", "address": "https://b/"} | files
    assert call(orthanc_peer, **wanted)["changed"]
    assert not call(orthanc_peer, **wanted)["changed"]
    said = call(orthanc_peer, name="b", options={"Timeout": 7})
    assert "what it has of CertificateKeyFile, CertificateKeyPassword; give it too." in said["msg"]
    assert call(orthanc_peer, **wanted, options={"Timeout": 7})["changed"]
    assert orthanc.kept["/peers"]["b"]["CertificateKeyFile"] == "/etc/c.key"


def test_fields_that_the_plugin_keeps_as_texts(call: Call) -> None:
    wanted = PEER | {"options": {"HasDelete": True, "Depth": 3}}
    assert call(orthanc_dicomweb_server, **wanted)["changed"]
    assert not call(orthanc_dicomweb_server, **wanted)["changed"]
    assert call(orthanc_dicomweb_server, **(PEER | {"options": {"HasDelete": False}}))["changed"]


@pytest.mark.parametrize(
    "module, arguments, words",
    [
        (orthanc_modality, CT | {"name": "a/b"}, "name: 'a/b' has something else than letters"),
        (orthanc_modality, CT | {"options": {"Port": 5}}, "options: Port has an option of its own."),
        (
            orthanc_peer,
            {"name": "b", "options": {"Password": "secret1"}},
            "options: Password has an option of its own.",
        ),
        (orthanc_modality, {"name": "ct", "aet": "CT1"}, "ct: Orthanc does not know it yet; give host, port."),
        (orthanc_peer, PEER | {"url": "https://admin:w0rd@b/"}, "url: it has no login; give url_username"),
        (orthanc_peer, {"name": "b"}, "b: Orthanc does not know it yet; give address."),
        (orthanc_modality, CT | {"port": 0}, "HTTP Error 400: Bad Request no port"),
        (orthanc_modality, CT | {"url_password": "another"}, "HTTP Error 401: Unauthorized"),
        (orthanc_modality, CT | {"url": "http://127.0.0.1:1/"}, "Connection refused"),
    ],
)
def test_what_cannot_be(call: Call, module: Any, arguments: dict[str, Any], words: str) -> None:
    said = call(module, **arguments)
    assert said["failed"]
    assert words in said["msg"]


def test_field_that_orthanc_ignores_is_told(orthanc: type[Handler], call: Call) -> None:
    orthanc.ignored = ("AllowFinds",)
    said = call(orthanc_modality, **CT, options={"AllowFinds": False})
    assert said["msg"].startswith("ct: Orthanc has it now, but not with AllowFinds as given: there is no such field")
    assert not call(orthanc_modality, **CT)["changed"]


def test_orthanc_without_the_plugin(orthanc: type[Handler], call: Call) -> None:
    del orthanc.kept["/dicom-web/servers"]
    said = call(orthanc_dicomweb_server, **PEER)
    assert "HTTP Error 404: Not Found" in said["msg"]

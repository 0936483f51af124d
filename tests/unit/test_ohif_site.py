"""How the viewer is configured and served, as a host gets it."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import subprocess
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.repository import ROOT, evaluated
from verification.test_viewer import LOOK, SITES

SCRIPTS = ["'sha256-a+b/c='", "'sha256-d='"]


def rendered(name: str, **given: Any) -> str:
    """Render a template as the role would, with some variables in place of the role's."""
    loader = DataLoader()
    internal = loader.load_from_file(str(ROOT / "roles/ohif/vars/main.yml"), trusted_as_template=True)
    seen = {"ansible_managed": "Ansible", "__ohif_there": {"scripts": SCRIPTS}, "site_prefix": "/"}
    text = (ROOT / f"templates/{name}.j2").read_text(encoding="utf-8")
    variables = {**evaluated(), **internal} | seen | given
    return str(Templar(loader=loader, variables=variables).template(trust_as_template(text)))


def configured(**given: Any) -> dict[str, Any]:
    text = rendered("etc/pacs/ohif/app-config.js", **given)
    found = re.fullmatch(r"(?s)//\n// Ansible\n//\nwindow\.config = (\{.*\});\n?", text)
    assert found, text
    told: dict[str, Any] = json.loads(found[1])
    return told


def test_configuration_of_the_toolkit() -> None:
    told = configured()
    (source,) = told["dataSources"]
    assert told["defaultDataSourceName"] == source["sourceName"]
    roots = {name: source["configuration"][name] for name in ("qidoRoot", "wadoRoot", "wadoUriRoot")}
    assert roots == {"qidoRoot": "/dicom-web", "wadoRoot": "/dicom-web", "wadoUriRoot": "/wado"}
    assert "//" not in json.dumps(told)
    (below,) = configured(site_prefix="/orthanc/")["dataSources"]
    assert below["configuration"]["qidoRoot"] == "/orthanc/dicom-web"
    # Readers view, and nobody changes anything by it.
    assert [source["configuration"][name] for name in ("supportsReject", "dicomUploadEnabled")] == [False, False]


def test_name_of_its_own() -> None:
    """What is not of the viewer there is DICOMweb's, which has its own headers; it asks for nothing else of Orthanc."""
    own = {"ohif_server_name": "viewer.example.org", "site_prefix": "/a.b/"}
    (source,) = configured(**own)["dataSources"]
    roots = {name: value for name, value in source["configuration"].items() if "Root" in name}
    assert roots == {"qidoRoot": "/a.b/dicom-web", "wadoRoot": "/a.b/dicom-web"}
    text = rendered("etc/nginx/conf.d/orthanc-ohif.conf", ohif_path="/", **own)
    for table in text.split("\nmap ")[1:]:
        rules = re.findall(r'^    "~([^"]+)" (.*);$', table, re.MULTILINE)
        paths = ("/", "/a.b/dicom-web/studies", "/axb/dicom-web/studies", "/a.b/dicom-webx", "/index.html")
        said = {path: next(value for pattern, value in rules if re.search(pattern, path)) for path in paths}
        assert [path for path, value in said.items() if value == '""'] == ["/a.b/dicom-web/studies"]
    site = rendered("etc/pacs/ohif/site.conf", ohif_path="/", **own)
    assert re.findall(r"(?m)^ *location (.*) \{$", site) == ["/", r"~ \.[^/]*$", "= /app-config.js", "= /sums"]


def test_every_key_is_reached() -> None:
    settings = {"showStudyList": False, "a": {"b": [1, None]}, "maxNumberOfWebWorkers": 7}
    told = configured(ohif_settings=settings, ohif_data_source={"bulkDataURI": {"x": 1}, "friendlyName": "</script>ß"})
    assert {name: told[name] for name in settings} == settings
    source = told["dataSources"][0]["configuration"]
    assert (source["bulkDataURI"], source["friendlyName"]) == ({"enabled": True, "x": 1}, "</script>ß")
    assert source["qidoRoot"] == "/dicom-web"
    # A list takes the place of the toolkit's.
    assert configured(ohif_settings={"dataSources": [{"sourceName": "mine"}]})["dataSources"] == [
        {"sourceName": "mine"}
    ]


def test_policy_has_the_scripts_of_the_page_and_no_other_host() -> None:
    text = rendered("etc/nginx/conf.d/orthanc-ohif.conf", ohif_path="/ohif/")
    found = re.search(r'"~\^/ohif/" "(default-src [^"]+)";', text)
    assert found, text
    policy = {name: set(sources) for name, *sources in (part.split() for part in found[1].split("; "))}
    assert policy["default-src"] == {"'none'"}
    assert policy["script-src"] == {"'self'", "'wasm-unsafe-eval'", *SCRIPTS}
    known = {"'none'", "'self'", "'unsafe-inline'", "'wasm-unsafe-eval'", "blob:", "data:", *SCRIPTS}
    assert set().union(*policy.values()) <= known
    assert [name for name, sources in policy.items() if "'unsafe-inline'" in sources] == ["style-src"]


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/a.b/ohif/", "no-cache"),
        ("/a.b/ohif/index.html", "no-cache"),
        ("/a.b/ohif/app.bundle.css", "no-cache"),
        ("/a.b/ohif/app.bundle.0f6159c501addfe9.js", "max-age=31536000, immutable"),
        ("/a.b/ohif/5130ccb17e3f3f5b.wasm", "max-age=31536000, immutable"),
        # A name that only looks so, such as one of a folder.
        ("/a.b/ohif/0f6159c501addfe9.js/x", "no-cache"),
        ("/a.b/ohif/0f6159c501addfe.js", "no-cache"),
        ("/axb/ohif/app.bundle.0f6159c501addfe9.js", ""),
        ("/instances/0f6159c501addfe9.js", ""),
    ],
)
def test_what_browsers_keep(path: str, expected: str) -> None:
    text = rendered("etc/nginx/conf.d/orthanc-ohif.conf", ohif_path="/a.b/ohif/")
    rules = re.findall(r'^    "~([^"]+)" "?([^";]+)"?;$', text[text.index("$ohif_caching") :], re.MULTILINE)
    assert len(rules) == 2
    assert next((value for pattern, value in rules if re.search(pattern, path)), "") == expected


def test_another_path_or_package_is_another_release() -> None:
    def folder(**given: Any) -> str:
        found = re.search(r"root (\S+);", rendered("etc/pacs/ohif/site.conf", **given))
        assert found
        return found[1]

    folders = [folder(), folder(ohif_path="/see/"), folder(ohif_integrity="sha512-x"), folder(ohif_version="3.13.3")]
    assert len(set(folders)) == 4
    assert re.fullmatch(r"/var/lib/pacs/viewer/3\.13\.2-[0-9a-f]{8}", folders[0])


def looked(site: pathlib.Path, folder: pathlib.Path) -> str:
    """Return what the verification finds wrong with a release, from a folder that is none."""
    script = LOOK.replace(SITES, str(site)).replace("-user root", f"-user {os.geteuid()}")
    done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout


def test_verification_looks_at_the_release_alone(tmp_path: pathlib.Path) -> None:
    site, elsewhere, release = tmp_path / "site.conf", tmp_path / "root", tmp_path / "viewer/1-a"
    for folder in (elsewhere, release / "ohif"):
        folder.mkdir(parents=True)
    (elsewhere / "notes").touch()
    assert looked(site, elsewhere) == "no release is there\n"
    page = release / "ohif/index.html"
    page.write_text("page", "utf-8")
    (release / "sums").write_text(f"{hashlib.sha256(b'page').hexdigest()}  ohif/index.html\n", "utf-8")
    site.write_text(f"location /ohif/ {{\n    root {release};\n}}\n", "utf-8")
    assert looked(site, elsewhere) == ""
    page.chmod(0o600)
    assert looked(site, elsewhere) == "./ohif/index.html\n"
    page.chmod(0o644)
    (release / "mine").touch()
    assert looked(site, elsewhere) == "mine\n"
    page.unlink()
    assert "ohif/index.html: FAILED open or read" in looked(site, elsewhere)

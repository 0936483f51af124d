"""What the role ohif asks of an inventory."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general

from tests.unit.good_host import ACME, PROBE, host, tls

SITE: dict[str, Any] = {
    "site_upstreams": [],
    "site_dicomweb": True,
    "site_behind_plugins": ["dicomweb"],
    "site_proxies": ["pacs"],
    "site_faces": [{"viewer": "/ohif/"}],
}


def problems(
    changes: dict[str, Any], site: dict[str, Any] | None = None, roles: tuple[str, ...] = ("orthanc", "nginx")
) -> list[str]:
    """Return what is wrong with a good host that has the viewer, after some changes."""
    found = host(roles, {"ohif_enabled": True, "ohif_path": "/ohif/"} | changes, PROBE)
    found.name, found.site = "pacs", (SITE | (site or {})).get
    found.constants = {**found.constants, "ohif": {}}
    return [one for one in general.problems(found) if one.startswith("ohif_")]


def test_good_ones(tmp_path: pathlib.Path) -> None:
    (tmp_path / "app.tgz").touch()
    good: list[dict[str, Any]] = [
        {},
        {"ohif_path": "/orthanc/viewer/", "nginx_prefix": "/orthanc/"},
        {"ohif_path": "/ohif/", "nginx_prefix": "/orthanc/"},
        # Orthanc answers at /orthanc/studies.
        {"ohif_path": "/studies/", "nginx_prefix": "/orthanc/"},
        {"ohif_archive": str(tmp_path / "app.tgz")},
        {"ohif_archive": "https://mirror.example.org/app-3.13.2.tgz"},
        {"ohif_settings": {"whiteLabeling": {"logo": "/ohif/assets/logo.svg"}, "hotkeys": [], "tokens": None}},
        {"ohif_data_source": {"supportsFuzzyMatching": True, "staticWado": False}},
        {"ohif_settings": {"a": "data:image/png;base64,x", "b": "C: or D:", "c": "blob: none"}},
        {"ohif_version": "3.14.0-beta.6"},
    ]
    for changes in good:
        assert problems(changes) == []


@pytest.mark.parametrize(
    "path", ["ohif", "/ohif", "ohif/", "//", "/a//b/", "/../", "/.x/", "/a b/", "/a;b/", "/a\n/", ""]
)
def test_path_in_another_form(path: str) -> None:
    for enabled in (True, False):
        assert "has to begin and end with a slash" in problems({"ohif_path": path, "ohif_enabled": enabled})[0]


@pytest.mark.parametrize(
    "path, prefix, said",
    [
        ("/", "/", "is the path of Orthanc"),
        ("/", "/orthanc/", "is the path of Orthanc (nginx_prefix), or has it below"),
        ("/orthanc/", "/orthanc/", "beside it or below it, such as /orthanc/ohif/"),
        ("/pacs/", "/pacs/orthanc/", "or has it below"),
        ("/studies/", "/", "Orthanc itself answers at /studies/"),
        ("/app/ohif/", "/", "Orthanc itself answers at /app/"),
        (
            "/orthanc/dicom-web/",
            "/orthanc/",
            "answers at /orthanc/dicom-web/; choose another, such as /orthanc/viewer/",
        ),
        ("/wsi/", "/", "Orthanc itself answers"),
    ],
)
def test_path_of_orthanc(path: str, prefix: str, said: str) -> None:
    (problem,) = problems({"ohif_path": path, "nginx_prefix": prefix})
    assert problem.startswith("ohif_path: ")
    assert said in problem


def test_path_that_the_viewer_has_until_now() -> None:
    """Also where it is to go."""
    for enabled in (True, False):
        found = host(("nginx",), {"ohif_enabled": enabled, "nginx_prefix": "/a/"}, PROBE | {"viewed": "/a/"})
        found.name, found.site = "pacs", SITE.get
        found.constants = {**found.constants, "ohif": {}}
        (problem,) = [one for one in general.problems(found) if one.startswith("nginx_prefix: ")]
        assert problem.endswith("with the nginx_prefix of before and another ohif_path.")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, []),
        ({"ohif_path": "/see/"}, []),
        # Orthanc answers at another name.
        ({"ohif_path": "/studies/"}, []),
        ({"ohif_server_name": "2001:db8::7"}, []),
        ({"nginx_prefix": "/orthanc/", "ohif_path": "/orthanc/"}, []),
        (tls(("pacs.example.org", "viewer.example.org")), []),
        (tls(("*.example.org",)), []),
        (tls(), ["nginx_tls_certificate: it is for pacs.example.org, not for ohif_server_name 'viewer.example.org'."]),
        (tls() | {"ohif_enabled": False}, []),
        ({"ohif_server_name": "my viewer"}, ["ohif_server_name: 'my viewer' is neither a host name nor an address"]),
        (
            {"ohif_server_name": "my viewer", "ohif_enabled": False},
            ["ohif_server_name: 'my viewer' is neither a host name nor an address"],
        ),
        (
            {"ohif_server_name": "PACS.example.org"},
            ["ohif_server_name: 'PACS.example.org' is the name of Orthanc itself"],
        ),
        (
            {"ohif_path": "/dicom-web/"},
            ["ohif_path: /dicom-web/ is where DICOMweb answers at viewer.example.org as well"],
        ),
        (
            {"ohif_path": "/a/dicom-web/x/", "nginx_prefix": "/a/"},
            ["ohif_path: /a/dicom-web/x/ is where DICOMweb answers at viewer.example.org as well"],
        ),
        (ACME, ["ohif_server_name: the authority in nginx_acme_directory is asked for a certificate of one name"]),
        (
            tls(("pacs.example.org", "viewer.example.org", "192.0.2.8")) | {"nginx_balancers": ["192.0.2.9"]},
            ["ohif_server_name: a viewer with a name of its own is not served behind a balancer yet"],
        ),
    ],
)
def test_name_of_its_own(changes: dict[str, Any], said: list[str]) -> None:
    own = {"ohif_server_name": "viewer.example.org", "ohif_path": "/"}
    found = host(("orthanc", "nginx"), {"ohif_enabled": True} | own | changes, PROBE)
    found.name, found.site = "pacs", SITE.get
    found.constants = {**found.constants, "ohif": {}}
    problems = list(general.problems(found))
    assert len(problems) == len(said), problems
    assert all(problem.startswith(part) for problem, part in zip(problems, said, strict=True)), problems


def test_plugin_of_the_same_name() -> None:
    (problem,) = problems({}, {"site_behind_plugins": ["dicomweb", "ohif"]})
    assert problem.startswith("ohif_path: Orthanc itself answers at /ohif/")
    assert problems({"ohif_path": "/viewer/"}, {"site_behind_plugins": ["dicomweb", "ohif"]}) == []


def test_orthanc_without_dicomweb() -> None:
    (problem,) = problems({}, {"site_dicomweb": False})
    assert problem.endswith("add dicomweb to orthanc_plugins.")


def test_several_orthancs() -> None:
    several = {"orthanc": "a", "prefix": "/a/", "server_name": "a", "readonly_users": []}
    found = host(("nginx",), {"ohif_enabled": True, "ohif_path": "/ohif/"}, PROBE)
    logins = {"a": {"users": {"admin": "long enough"}}}
    site = SITE | {"site_upstreams": [several, several], "site_upstream_logins": logins}
    found.name, found.site = "pacs", site.get
    found.constants = {**found.constants, "ohif": {}}
    (problem,) = general.problems(found)
    assert problem.startswith("ohif_enabled: pacs stands before the Orthancs of a and a, and a viewer for several is")


@pytest.mark.parametrize(
    "site, said",
    [
        (
            {"site_proxies": []},
            "no host of the group 'nginx' stands before this Orthanc; put pacs or another host there",
        ),
        (
            {"site_proxies": ["web"], "site_faces": [{"viewer": ""}]},
            "it is set for pacs, whose proxy would serve the viewer; set it for web as well.",
        ),
        ({"site_proxies": ["web"], "site_faces": [{"viewer": "/ohif/"}]}, ""),
    ],
)
def test_orthanc_whose_proxy_is_elsewhere(site: dict[str, Any], said: str) -> None:
    found = problems({}, site, ("orthanc",))
    assert len(found) == bool(said)
    assert said in "".join(found)
    assert problems({"ohif_enabled": False}, site, ("orthanc",)) == []


@pytest.mark.parametrize(
    "changes, variable, said",
    [
        ({"ohif_version": "latest"}, "ohif_version", "write it like 3.13.2"),
        ({"ohif_version": "3.13"}, "ohif_version", "write it like 3.13.2"),
        ({"ohif_version": "3.13.2; reboot"}, "ohif_version", "write it like 3.13.2"),
        ({"ohif_integrity": ""}, "ohif_integrity", "`npm view @ohif/app@3.13.2 dist.integrity` tells it"),
        ({"ohif_integrity": "sha256-" + "0" * 64}, "ohif_integrity", "no hash like sha512-"),
        ({"ohif_archive": "/nowhere/app.tgz"}, "ohif_archive", "there is no file '/nowhere/app.tgz'"),
        ({"ohif_archive": "/tmp"}, "ohif_archive", "there is no file '/tmp'"),
        ({"ohif_archive": "ftp://mirror/app.tgz"}, "ohif_archive", "no URL that begins with https://"),
        ({"ohif_archive": "https://u:p@mirror/app.tgz"}, "ohif_archive", "a login or a token in a URL"),
        ({"ohif_archive": "https://mirror/app.tgz?token=x"}, "ohif_archive", "a login or a token in a URL"),
        ({"ohif_archive": "file:///etc/passwd"}, "ohif_archive", "no URL that begins with https://"),
        (
            {"ohif_settings": {"dataSources": [{"configuration": {"qidoRoot": "https://demo.example.org/dicomweb"}}]}},
            "ohif_settings.dataSources.0.configuration.qidoRoot",
            "it leads to another host",
        ),
        (
            {"ohif_settings": {"whiteLabeling": {"logo": "//cdn.example.org/x.svg"}}},
            "ohif_settings.whiteLabeling.logo",
            "other",
        ),
        *(
            ({"ohif_settings": {"a": {"logo": url}}}, "ohif_settings.a.logo", "it leads to another host")
            for url in (
                " https://x",
                "/\\x",
                "\\\\x",
                "https:x",
                "HTTPS://x",
                "blob:https://x",
                "javascript:x",
                "/\t/x",
            )
        ),
        ({"ohif_settings": {"name": "it is long enough"}}, "ohif_settings.name", "this is a password of nginx_users"),
        ({"ohif_data_source": {"wadoRoot": "wss://x"}}, "ohif_data_source.wadoRoot", "it leads to another host"),
        (
            {"ohif_data_source": {"requestOptions": {"auth": "u:p"}}},
            "ohif_data_source.requestOptions.auth",
            "no secret",
        ),
        ({"ohif_settings": {"oidc": [{"client_secret": "x"}]}}, "ohif_settings.oidc.0.client_secret", "no secret"),
        ({"ohif_settings": {"name": "long enough"}}, "ohif_settings.name", "this is a password of nginx_users"),
    ],
)
def test_one_thing_wrong(changes: dict[str, Any], variable: str, said: str) -> None:
    (problem,) = problems(changes)
    assert problem.startswith(f"{variable}: ")
    assert said in problem


def test_place_of_the_orthanc_behind_it() -> None:
    """Also one that is on another host."""
    for roles in (("orthanc", "nginx"), ("nginx",)):
        for name in ("/pictures", "pictures/more"):
            for folders in ({name: "/srv"}, {"Folders": {name: "/srv"}}):
                site = {"site_behind_settings": {"ServeFolders": folders}}
                (problem,) = problems({"ohif_path": "/pictures/"}, site, roles)
                assert problem.startswith("ohif_path: Orthanc itself answers at /pictures/")
        (problem,) = problems({}, {"site_behind_plugins": ["dicomweb", "ohif"]}, roles)
        assert problem.startswith("ohif_path: Orthanc itself answers at /ohif/")


def test_package_is_asked_for_until_it_is_served() -> None:
    given = {"ohif_enabled": True, "ohif_path": "/ohif/", "ohif_archive": "/nowhere/app.tgz"}
    for release, path, asked in (
        ("", "", True),
        ("3.13.2-0f6159c5", "/ohif/", False),
        ("3.13.20-0f6159c5", "/ohif/", True),
        ("3.13.2-0f6159c5", "/see/", True),
    ):
        found = host(("nginx",), given, PROBE | {"viewer_release": release, "viewer_path": path})
        found.name, found.site = "pacs", SITE.get
        found.constants = {**found.constants, "ohif": {}}
        assert any("there is no file" in one for one in general.problems(found)) == asked, release


@pytest.mark.parametrize(
    "directives",
    [{"add_header": "content-security-policy x"}, {"add_header": ["X-A b", "'Content-Security-Policy' x"]}],
)
def test_header_that_the_viewer_has(directives: dict[str, Any]) -> None:
    for enabled in (True, False):
        given = {"ohif_enabled": enabled, "ohif_path": "/ohif/", "nginx_server_directives": directives}
        found = host(("nginx",), given, PROBE)
        found.name, found.site = "pacs", SITE.get
        found.constants = {**found.constants, "ohif": {}}
        said = [one for one in general.problems(found) if "the viewer has its own" in one]
        assert len(said) == enabled
        assert all(one.startswith("nginx_server_directives.") for one in said)

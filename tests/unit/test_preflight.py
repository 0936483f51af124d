"""What holds for every role: each thing that can be wrong is found, said with the variable's name, and said alone."""

from typing import Any

import pytest
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import general
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.repository import ROLES, options
from tests.unit.good_host import GOOD, PACKAGED, PROBE, dicom_tls, modality, notices, one_problem, pair, problems, tls

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"orthanc_http_port": 0}, "orthanc_http_port", "is not a TCP port"),
    ({"orthanc_dicom_port": 65536}, "orthanc_dicom_port", "is not a TCP port"),
    ({"nginx_http_port": -1}, "nginx_http_port", "is not a TCP port"),
    ({"orthanc_http_port": 4242}, "orthanc_http_port", "is the one of orthanc_dicom_port already"),
    ({"nginx_https_port": "80"}, "nginx_https_port", "is the one of nginx_http_port already"),
    ({"orthanc_dicom_port": 22}, "orthanc_dicom_port", "is taken on this host by sshd"),
    ({"listening": {"443": "apache2"}}, "nginx_https_port", "is taken on this host by apache2"),
    (
        {"listening": {"8042": "Orthanc of pacs.service"}},
        "orthanc_http_port",
        "on this host by Orthanc of pacs.service",
    ),
    ({"listening": {"80": "another program"}}, "nginx_http_port", "by another program"),
    ({"nginx_timeout": 0}, "nginx_timeout", "out of range"),
    ({"nginx_timeout": 86401}, "nginx_timeout", "out of range"),
    ({"nginx_browser_cache": -1}, "nginx_browser_cache", "out of range"),
    ({"nginx_relay_port": 70000}, "nginx_relay_port", "70000 is not a TCP port"),
    (modality(Port=0), "orthanc_modalities.ct", "is not a TCP port"),
    (modality(Port=65536), "orthanc_modalities.ct", "is not a TCP port"),
    (modality(Port="104"), "orthanc_modalities.ct", "is not a TCP port"),
    (modality(Port=True), "orthanc_modalities.ct", "is not a TCP port"),
    ({"distribution": "debian", "release": "11"}, "ansible_host", "runs debian 11"),
    ({"distribution": "ubuntu", "release": "20.04"}, "ansible_host", "runs ubuntu 20.04"),
    ({"distribution": "fedora", "release": "43"}, "ansible_host", "runs fedora 43"),
    ({"distribution": "debian", "release": ""}, "ansible_host", "runs debian"),
    ({"distribution": "", "release": ""}, "ansible_host", "runs an unknown system"),
    ({"systemd": False}, "ansible_host", "systemd does not run"),
    ({"interrupted": True}, "ansible_host", "`dpkg --configure -a`"),
    ({"free_run": 19 * 2**20}, "ansible_host", "/run of this host has 19 MiB free"),
]


@pytest.mark.parametrize(
    "path, refused",
    [
        ("/etc/nginx/conf.d/other.conf", True),
        ("/etc/nginx/nginx.conf", True),
        ("/etc/nginx/conf.d/orthanc.conf", False),
        ("/etc/nginx/conf.d/orthanc-relay.conf", False),
        ("/etc/pacs/nginx/upstream.conf", False),
        # The role takes them out where nginx refuses them.
        ("/etc/pacs/ohif/site.conf", False),
        ("/etc/nginx/conf.d/orthanc-ohif.conf", False),
        ("/etc/pacs/other/site.conf", True),
    ],
)
def test_file_that_nginx_refuses(path: str, refused: bool) -> None:
    """A run with a new password would get as far as Orthanc, and leave nginx with the one of before."""
    said = f'nginx: [emerg] unexpected end of file, expecting ";" or "}}" in {path}:3'
    found = problems(nginx_refusal=f"{said}\nnginx: configuration file /etc/nginx/nginx.conf test failed")
    assert [said in problem for problem in found] == [True] * refused
    assert problems(nginx_refusal="nginx: [emerg] no certificate of ours") == []


@pytest.mark.parametrize("changes, variable, part", WRONG)
def test_one_thing_wrong(changes: dict[str, Any], variable: str, part: str) -> None:
    one_problem(changes, variable, part)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"orthanc": "1.12.7", "offered": []},
        {"distribution": "debian", "release": "12", "offered": ["1.10.1"]},
        {"distribution": "ubuntu", "release": "22.04", "offered": ["1.10.0"]},
        {"orthanc_version": "1.12.7"},
        {"orthanc_version": "1.12.6", "orthanc": "1.12.6"},
        {"orthanc_plugins": PACKAGED},
        {"orthanc_settings": {"DicomWeb": {"StudiesMetadata": "Full"}}},
        {"orthanc_settings_unchecked": {"OptionOfTomorrow": {"Deep": [1]}, "DicomWeb": {"Tomorrow": 1}}},
        {"orthanc_peers": {"other": ["https://pacs2.example.org/orthanc/"]}},
        {"orthanc_peers": {"other": ["https://pacs2.example.org:8443", "user", "password"]}},
        {"orthanc_peers": {"other": {"Url": "http://192.0.2.9:8042/", "HttpHeaders": {"Token": "x"}, "Timeout": 5}}},
        {"orthanc_index_dir": "/data/index", "orthanc_storage_dir": "/data/dicom"},
        {"orthanc_settings": {"DicomCheckModalityHost": False}, **modality(Host="ct.example.org")},
        {"orthanc_modalities": {"ct": ["CT1", "192.0.2.7", 104]}},
        {"orthanc_modalities": {"ct": ["CT1", "192.0.2.7", 104, "Generic"]}},
        modality(AllowStore=True),
        {"nginx_prefix": "/orthanc/"},
        {"nginx_server_name": "192.0.2.1"},
        tls(),
        tls(("*.example.org",)),
        {"nginx_server_name": "PACS.example.org", **tls()},
        {"nginx_server_name": "192.0.2.1", **tls(("192.0.2.1",))},
        dicom_tls() | modality(UseDicomTls=True) | {"orthanc_dicom_tls_minimum_version": "1.3"},
        dicom_tls() | {"orthanc_dicom_tls_trusted": "", "orthanc_dicom_tls_remote_certificate_required": False},
        {"verification_modality": ""},
        {"free": 2**30},
    ],
)
def test_good_host(changes: dict[str, Any]) -> None:
    assert problems(**changes) == []


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"orthanc_settings": {"StoneWebViewer": {"DateFormat": "DD.MM.YYYY"}}}, "are not checked; https://orthanc."),
        ({"orthanc_install_method": "docker", "orthanc_settings": {"DicomWeb": {"New": 1}}}, "New is nothing that"),
        ({"orthanc_settings_unchecked": {"New": 1, "Newer": 2}}, "New, Newer is passed on without a check"),
        (
            dicom_tls() | {"orthanc_version": "1.10.1", "orthanc_dicom_tls_remote_certificate_required": False},
            "verify a certificate if there is one",
        ),
        (
            dicom_tls(old=False) | {"orthanc_version": "1.10.1"},
            "with a key other than RSA Orthanc 1.10.1 takes TLS 1.3",
        ),
        (
            dicom_tls() | {"orthanc_version": "1.10.1", "orthanc_install_method": "lsb"},
            "cannot be told, and may take TLS 1.0",
        ),
        ({"orthanc_version": "1.13.0", "orthanc_settings": {"ZipLoaderThreads": 4}}, "does not use it any more"),
        (tls(("pacs.example.org",), -1, 20), "it expires in 19 days, on "),
        (dicom_tls(("pacs",), -1, 20), "it expires in 19 days, on "),
        ({"orthanc_plugins": ["gdcm"]}, "gdcm of Debian's packages ends Orthanc when JPEG 2000"),
        ({"orthanc_client_certificate": pair(("pacs",), -1, 20)[0]}, "it expires in 19 days, on "),
    ],
)
def test_notice(changes: dict[str, Any], part: str) -> None:
    (notice,) = notices(**changes)
    assert notice.startswith(
        ("orthanc_settings", "orthanc_dicom_tls", "orthanc_client", "orthanc_plugins", "nginx_tls")
    )
    assert part in notice


def test_packages_that_restart_nothing() -> None:
    """What a run of ours has left is not told, since this one takes it away, and does what it had begun."""
    (notice,) = notices(policy="others")
    assert "has /usr/sbin/policy-rc.d, which keeps packages from restarting" in notice
    assert notices(policy="ours") == []
    assert problems(interrupted=True, policy="ours") == []
    assert problems(interrupted=True, policy="others")


def test_nothing_to_notice() -> None:
    assert notices() == []
    lax = {"orthanc_dicom_tls_remote_certificate_required": False}
    assert notices(orthanc_version="1.12.7", **dicom_tls(), **lax) == []
    assert notices(orthanc_version="1.10.1", **lax) == []
    assert notices(orthanc_version="1.12.4", **dicom_tls(old=False)) == []
    assert notices(orthanc_settings={"DicomWeb": {"New": 1}}) == []


@pytest.mark.parametrize(
    "name, part",
    [
        ("orthanc_htp_port", "Did you mean 'orthanc_http_port'?"),
        ("orthanc_zzzzzzzzzzzzzzzz", "no such variable."),
        ("orthnc_http_port", "Did you mean 'orthanc_http_port'?"),
        ("site_zzz", "no such variable."),
        ("site_url", "this name is derived"),
    ],
)
def test_misspelled(name: str, part: str) -> None:
    names = {name, "orthanc_http_port", "my_own", "app_http_port"}
    (problem,) = general.misspelled(names, {"orthanc_http_port"}, {"site_url"}, {"orthanc_"})
    assert problem.startswith(f"{name}: ")
    assert part in problem


@pytest.mark.parametrize(
    "name, value",
    [
        ("orthanc_http_port", "eighty"),
        ("orthanc_http_port", 1.5),
        ("orthanc_proxied", "perhaps"),
        ("orthanc_users", ["admin"]),
        ("orthanc_users", "admin"),
        ("orthanc_plugins", 3),
        ("orthanc_plugins", "dicomweb"),
        ("orthanc_settings", []),
        ("orthanc_install_method", "rpm"),
        ("orthanc_apt_source", "backports"),
        ("orthanc_lsb_checksums", "none"),
        ("orthanc_database", "oracle"),
        ("orthanc_docker_pull", "sometimes"),
        ("orthanc_docker_cpus", "two"),
        ("orthanc_docker_volumes", "/srv:/srv"),
        ("docker_engine_log_options", ["max-size=1m"]),
        ("orthanc_dicom_tls_remote_certificate_required", "perhaps"),
        ("orthanc_dicom_tls_minimum_version", "1.1"),
        ("nginx_readonly_users", "guest"),
        ("nginx_allowed_clients", "192.0.2.0/24"),
        ("nginx_settings", ["gzip on"]),
        ("nginx_server_directives", "gzip on"),
        ("nginx_allowed_origins", "https://viewer.example.org"),
        ("nginx_client_names", "ct1"),
        ("nginx_client_certificate", "perhaps"),
        ("nginx_ban_after", "ten"),
        ("nginx_audit_query", "perhaps"),
        ("nginx_http2", "perhaps"),
        ("nginx_audit_days", "year"),
        ("orthanc_journal_days", "month"),
        ("orthanc_journal_mb", "2G"),
        ("verification_level", "smoke"),
        ("verification_accepted_risks", ["lua"]),
    ],
)
def test_wrong_type_or_choice(name: str, value: Any) -> None:
    role = next(role for role in ROLES if name.startswith(f"{role}_"))
    (problem,) = general.arguments(options(role), {name: value})
    assert name in problem
    assert problem.endswith(".")


def test_null_in_a_list() -> None:
    (problem,) = general.arguments(options("orthanc"), GOOD | {"orthanc_plugins": ["dicomweb", None]})
    assert problem == "orthanc_plugins[1]: it has to be of type str, not null; write it out, or take it out."


@pytest.mark.parametrize("value, kind", [(None, "null"), ("x", "str"), (True, "bool"), (7, "int"), ([], "list")])
def test_wrong_type_goes_by_the_name_that_it_has_in_an_inventory(value: Any, kind: str) -> None:
    (problem,) = general.arguments(options("orthanc"), GOOD | {"orthanc_users": value})
    way = "; write it out, or take it out" if value is None else ""
    assert problem == f"orthanc_users: it has to be of type dict, not {kind}{way}."


def test_numbers_of_roles_that_are_not_there() -> None:
    other = Host([], {"nginx_timeout": 0, "mysql_port": 70000, "postgresql_port": 5432})
    assert [problem.partition(":")[0] for problem in general.numbers(other)] == ["nginx_timeout", "mysql_port"]


def test_arguments_of_a_good_host() -> None:
    for role in ("docker_engine", "nginx", "orthanc", "verification"):
        assert list(general.arguments(options(role), GOOD)) == []


def test_missing_argument() -> None:
    (problem,) = general.arguments({"a": {"type": "str", "required": True}}, {})
    assert "a" in problem


@given(st.integers())
def test_any_port(port: int) -> None:
    assume(str(port) not in PROBE["listening"] and port not in (80, 443, 4242))  # type: ignore[operator]
    assert bool(problems(orthanc_http_port=port)) == (not 0 < port < 2**16)

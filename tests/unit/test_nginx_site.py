"""The sites of nginx, as a host gets them."""

from __future__ import annotations

import itertools
import pathlib
import re
import shlex
import ssl
import subprocess
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.repository import ROOT, evaluated
from tests.unit.good_host import ALONE

MAKE = ROOT / "roles/nginx/files/make_certificate.sh"
SITES = ["orthanc", "orthanc-relay"]


def rendered(text: str, **given: Any) -> Any:
    """Render a text as the role would, with some variables in place of the role's."""
    loader = DataLoader()
    internal = loader.load_from_file(str(ROOT / "roles/nginx/vars/main.yml"), trusted_as_template=True)
    # They ask a test of the collection, which is not installed here.
    internal |= {"__nginx_relay_clients": [], "__nginx_san": "DNS:pacs.example.org"}
    # Nor are lookups.
    internal["__nginx_make"] = f"sh -euc {shlex.quote(MAKE.read_text('utf-8'))} sh"
    variables = {**evaluated(), **ALONE, **internal, "ansible_managed": "Ansible"} | given
    return Templar(loader=loader, variables=variables).template(trust_as_template(text))


def site(name: str, found: dict[str, Any]) -> str:
    """Render a site for a host on which that was found."""
    text = (ROOT / f"templates/etc/nginx/conf.d/{name}.conf.j2").read_text(encoding="utf-8")
    return str(rendered(text, site_found=found))


def test_name_in_capitals_is_what_others_are_told_of_it() -> None:
    """By dicom.orthanc.topology, which has the path of the certificate too."""
    assert rendered("{{ __nginx_tls }} {{ __nginx_host }}", nginx_server_name="Images.x") == (
        "/etc/pacs/nginx/self-signed-images.x images.x"
    )


@pytest.mark.parametrize("name", ["__nginx_files_self_signed", "__nginx_relay_certificates"])
def test_certificates_that_a_loss_of_power_spoilt(tmp_path: pathlib.Path, name: str) -> None:
    """Each half is known to be spoilt, and made again together with the other."""
    items = rendered(f"{{{{ {name} }}}}", __nginx_dir=str(tmp_path))
    pairs = [(crt, key) for crt, key in itertools.pairwise(items) if crt["path"].endswith(".crt")]
    assert len(pairs) * 2 == len(items)
    for pair in pairs:
        for spoilt in (None, *pair):
            if spoilt:
                pathlib.Path(spoilt["path"]).write_text("", encoding="utf-8")
                assert not takes(spoilt)
            subprocess.run(["sh", "-euc", pair[0]["made_by"]], check=True, capture_output=True)
            assert all(map(takes, pair))
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*(item["path"] for item in pair))
    assert sorted(map(str, tmp_path.iterdir())) == sorted(item["path"] for item in items)


def test_certificate_that_was_received_before_is_at_hand(tmp_path: pathlib.Path) -> None:
    received = tmp_path / "live"
    given = {"__nginx_dir": str(tmp_path), "__nginx_acme_made": str(received), "__nginx_acme": True}
    item = rendered("{{ __nginx_files_self_signed }}", **given)[0]
    subprocess.run(["sh", "-euc", item["made_by"]], check=True, capture_output=True)
    assert takes(item)
    received.mkdir()
    # Half of it is none.
    (received / "fullchain.pem").write_text("first", encoding="utf-8")
    subprocess.run(["sh", "-euc", item["made_by"]], check=True, capture_output=True)
    assert takes(item)
    (received / "privkey.pem").write_text("key", encoding="utf-8")
    subprocess.run(["sh", "-euc", item["made_by"]], check=True, capture_output=True)
    assert pathlib.Path(item["path"]).read_text("utf-8") == "first"
    assert pathlib.Path(item["path"]).with_suffix(".key").read_text("utf-8") == "key"


def takes(item: dict[str, Any]) -> bool:
    command = item["validate"].replace("%s", item["path"]).split()
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def renewed(folder: pathlib.Path) -> str:
    """Return the program that certbot calls, for a certificate in a folder."""
    text = (ROOT / "templates/etc/pacs/nginx/acme-renewed.j2").read_text(encoding="utf-8")
    paths = {"__nginx_acme_made": str(folder / "live"), "__nginx_tls": str(folder / "site")}
    return str(rendered(text, **paths, ansible_managed="Ansible"))


def test_renewal_that_is_cut_off(tmp_path: pathlib.Path) -> None:
    """Before each program that it calls: nginx starts with one of both, and the next run of certbot ends well."""
    programs, calls, shell = (tmp_path / name for name in ("bin", "calls", "shell"))
    programs.mkdir()
    kill = f'echo >> {calls}; [ "$(wc -l < {calls})" != "$KILL" ] || {{ kill -9 $(cat {shell}); exit; }}'
    writes = {name: f'exec /usr/bin/{name} "$@"' for name in ("install", "ln", "mv", "rm")}
    for name, does in {"nginx": "", "systemctl": "", **writes}.items():
        (programs / name).write_text(f"#!/bin/sh\n{kill}\n{does}\n", encoding="utf-8")
        (programs / name).chmod(0o755)

    def run(*arguments: str, at: int = 0) -> int:
        calls.write_text("", encoding="utf-8")
        environment = {"PATH": f"{programs}:/usr/bin:/bin", "KILL": str(at)}
        script = f"echo $$ > {shell}\n{renewed(tmp_path)}"
        return subprocess.run(["sh", "-c", script, "sh", *arguments], env=environment, check=False).returncode

    def pair() -> set[str]:
        return {(tmp_path / f"site.{kind}").read_text("utf-8") for kind in ("crt", "key")}

    (tmp_path / "live").mkdir()
    mixed = 0
    for step in itertools.count(1):
        for kind in ("crt", "key"):
            (tmp_path / f"site.{kind}").write_text("first", encoding="utf-8")
        for name in ("fullchain", "privkey"):
            (tmp_path / "live" / f"{name}.pem").write_text("second", encoding="utf-8")
        killed = run(at=step) == -9
        mixed += len(pair()) > 1
        # What puts the pair of before back is cut off too.
        assert [run("back", at=at) for at in (1, 2, 3, 0)][-1] == 0
        assert pair() in ({"first"}, {"second"}), step
        assert run() == 0
        assert pair() == {"second"}
        assert sorted(path.name for path in tmp_path.glob("site*")) == ["site.crt", "site.key"]
        if not killed:
            break
    assert step > 9
    assert mixed


def test_certificate_that_nginx_did_not_take_is_tried_again(tmp_path: pathlib.Path) -> None:
    """At the next run of certbot, and not at its next renewal, when the one that is served has expired."""
    made, told = tmp_path / "live", tmp_path / "told"
    hook = renewed(tmp_path)
    programs = {"nginx": f"! [ -e {tmp_path}/broken ]", "systemctl": f"echo >> {told}; ! [ -e {tmp_path}/stuck ]"}
    for name, program in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)

    def run(*lineage: str) -> tuple[int, str]:
        told.write_text("", encoding="utf-8")
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"} | dict(zip(["RENEWED_LINEAGE"], lineage, strict=False))
        done = subprocess.run(["sh", "-c", hook], env=environment, check=False, capture_output=True)
        return done.returncode, told.read_text("utf-8")

    def renew(name: str) -> None:
        made.mkdir(exist_ok=True)
        (made / "fullchain.pem").write_text(name, encoding="utf-8")
        (made / "privkey.pem").write_text(name, encoding="utf-8")

    def served() -> list[str]:
        return [(tmp_path / f"site.{kind}").read_text("utf-8") for kind in ("crt", "key")]

    for kind in ("crt", "key"):
        (tmp_path / f"site.{kind}").write_text("self-signed", encoding="utf-8")
    assert run() == (0, "")
    renew("first")
    assert run(str(made)) == (0, "\n")
    assert served() == ["first", "first"]
    assert run() == (0, "")
    renew("second")
    assert run(str(tmp_path / "of others")) == (0, "")
    (tmp_path / "broken").touch()
    assert run(str(made)) == (1, "")
    assert served() == ["first", "first"]
    assert run() == (1, "")
    (tmp_path / "broken").unlink()
    (tmp_path / "stuck").touch()
    assert run() == (1, "\n")
    (tmp_path / "stuck").unlink()
    assert run() == (0, "\n")
    assert served() == ["second", "second"]
    assert run() == (0, "")
    assert sorted(path.name for path in tmp_path.glob("site*")) == ["site.crt", "site.key"]


@pytest.mark.parametrize("name", SITES)
def test_without_ipv6(name: str) -> None:
    """Booted with ipv6.disable=1, a host has no such address to listen on."""
    usual = site(name, {}).splitlines()
    assert site(name, {"ipv6": True}).splitlines() == usual
    removed = [line.strip() for line in usual if "[::]" in line]
    assert removed
    assert site(name, {"ipv6": False}).splitlines() == [line for line in usual if line.strip() not in removed]


def several(name: str) -> dict[str, Any]:
    """What the topology says of one of several Orthancs behind a proxy."""
    return {
        "orthanc": name,
        "server": name,
        "server_certificate": f"/etc/pacs/nginx/relay-{name}.crt",
        "url": f"https://{name}:8043",
        "server_name": "pacs.example.org",
        "prefix": f"/{name}/",
        "readonly_users": ["ward"] if name == "a" else [],
        "upstream": f"orthanc_{name}",
        "ca_file": f"/etc/pacs/nginx/upstream-{name}.crt",
        "client_file": f"/etc/pacs/nginx/upstream-client-{name}.crt",
        "client_key_file": f"/etc/pacs/nginx/upstream-client-{name}.key",
        "users_file": f"/etc/pacs/nginx/htpasswd-{name}",
        "upstream_file": f"/etc/pacs/nginx/upstream-{name}.conf",
    }


def test_whose_a_request_is_says_its_location_alone() -> None:
    """What is set for the whole server is set anew for the question whether a reader may."""
    text = (ROOT / "templates/etc/nginx/conf.d/orthanc.conf.j2").read_text(encoding="utf-8")
    given = {"site_upstreams": [several("a"), several("b")], "nginx_refused_routes": ["tools/reset"]}
    found = str(rendered(text, **given))
    server, *locations = found.rpartition("listen 443")[2].split("\n    location ")
    assert "set $orthanc_site" not in server
    assert "htpasswd-$orthanc_site;" in server
    passed = [location for location in locations if "proxy_pass" in location]
    assert len(passed) == 2 * (2 + 4)
    for location in passed:
        name = location.removeprefix("= ")[1]
        assert f"include /etc/pacs/nginx/upstream-{name}.conf;" in location
        # Each with a path: what was judged is what Orthanc gets.
        assert f"proxy_pass https://orthanc_{name}/" in location
    # In the words of a regular expression, a blank may be quoted.
    assert [line.replace("\\", "").strip() for line in found.splitlines() if '"~^a' in line] == ['"~^a ward$" 1;']
    assert '"~^b' not in found
    # Where nobody is, nobody is asked for.
    assert [location.split("return ")[1][:3] for location in locations[-2:]] == ["404", "404"]


def test_way_to_each_of_several() -> None:
    logins = {name: {"authorization": f"Basic {name}", "users": {}} for name in ("a", "b")}
    given: dict[str, Any] = {"site_upstreams": [several("a"), several("b")], "site_upstream_logins": logins}
    given |= {"__nginx_upstream_known": True}
    text = (ROOT / "templates/etc/pacs/nginx/upstream.conf.j2").read_text(encoding="utf-8")
    files = rendered("{{ __nginx_files_way }}", **given)
    assert [file["path"] for file in files] == ["/etc/pacs/nginx/upstream-a.conf", "/etc/pacs/nginx/upstream-b.conf"]
    for name, file in zip(logins, files, strict=True):
        found = str(rendered(text, item=file["item"], **given)).splitlines()
        assert {
            f'set $orthanc_site "{name}";',
            f'set $orthanc_prefix "/{name}/";',
            f'set $orthanc_login "Basic {name}";',
            f"proxy_ssl_name {name};",
            f"proxy_ssl_trusted_certificate /etc/pacs/nginx/upstream-{name}.crt;",
            f"proxy_ssl_certificate_key /etc/pacs/nginx/upstream-client-{name}.key;",
            "proxy_ssl_verify on;",
        } <= set(found)


def test_site_beside_a_balancer() -> None:
    """It listens at its own address, believes the balancers alone, and tells them whether Orthanc works."""
    given = {
        "nginx_addresses": ["192.0.2.1", "2001:db8::1"],
        "nginx_balancers": ["192.0.2.1", "192.0.2.2"],
        "nginx_balanced_names": ["pacs.example.org:8443", "192.0.2.9"],
        "nginx_server_name": "192.0.2.1",
        "site_found": {"ipv6": True},
    }
    text = (ROOT / "templates/etc/nginx/conf.d/orthanc.conf.j2").read_text(encoding="utf-8")
    told = rendered(text, **given)
    for port in ("80", "443 ssl http2", "8444 ssl http2 proxy_protocol", "8445"):
        for place in ("127.0.0.1", "192.0.2.1", "[2001:db8::1]"):
            assert f"    listen {place}:{port};\n" in told
    assert told.count("listen ") == 12
    assert told.count("server_name 192.0.2.1 pacs.example.org 192.0.2.9;") == 2
    assert "    set_real_ip_from 192.0.2.1;\n    set_real_ip_from 192.0.2.2;\n" in told
    assert "    pacs.example.org:8443 pacs.example.org:8443;\n    192.0.2.9 192.0.2.9;\n" in told
    assert "    allow 192.0.2.1;\n    allow 192.0.2.2;\n    deny all;\n\n    location = /alive {" in told
    assert 'proxy_set_header Forwarded "host=$orthanc_authority;proto=https";' in told


def test_site_without_a_balancer() -> None:
    told = site("orthanc", {"ipv6": True})
    assert re.findall(r"listen (.*);", told) == ["80", "[::]:80", "443 ssl http2", "[::]:443 ssl http2"]
    assert "proxy_protocol" not in told
    assert "$orthanc_authority" not in told


@pytest.mark.parametrize("prefix", ["/", "/orthanc/"])
@pytest.mark.parametrize("more", [{}, {"nginx_readonly_users": ["ward"]}])
def test_viewer_with_a_name_of_its_own(prefix: str, more: dict[str, Any]) -> None:
    """All that holds at the one name holds at the other; of Orthanc it has DICOMweb there, and nothing else."""
    text = (ROOT / "templates/etc/nginx/conf.d/orthanc.conf.j2").read_text(encoding="utf-8")
    given: dict[str, Any] = {
        "nginx_server_name": "Pacs.x",
        "site_viewer_name": "viewer.x",
        "nginx_prefix": prefix,
        "nginx_allowed_clients": ["192.0.2.0/24"],
        "nginx_allowed_origins": ["https://other.x"],
        "nginx_client_ca": "PEM",
        "nginx_client_certificate": "required",
        "nginx_client_names": ["ct"],
        "nginx_browser_cache": 7,
        "nginx_tls_certificate": "PEM",
    } | more
    told = str(rendered(text, **given))
    servers = [server.partition("\n}\n")[0] for server in told.split("\nserver {\n")[1:]]
    assert [re.findall("server_name (.*);", server) for server in servers] == [["pacs.x"]] * 2 + [["viewer.x"]] * 2
    plain, secured, own_plain, own = servers
    assert own_plain == plain.replace("pacs.x", "viewer.x")
    mine, _, others = own.partition("    # What else is served here")
    assert mine == secured.partition("    # What else is served here")[0].replace("pacs.x", "viewer.x")
    assert "include /etc/pacs/ohif/named*.conf;" in others
    locations = re.findall(r"location (\S+ ?\S*) \{", others)
    assert locations == (["= /.may"] if more else []) + [f"{prefix}dicom-web/"]
    assert f"proxy_pass http://orthanc{prefix}dicom-web/;" in others
    assert "include /etc/pacs/ohif/site*.conf;" in secured
    # Without it the site is what it was.
    before = str(rendered(text, **given | {"site_viewer_name": ""}))
    assert told.replace(" (?!viewer\\.x(:|$))", " ").startswith(before.rstrip())
    table = told[told.index("$orthanc_foreign {") :].partition("\n}\n")[0]
    rules = re.findall(r'^    "~\*?([^"]+)" (.*);$', table, re.MULTILINE)
    asked = {
        ("https://pacs.x", "pacs.x"): "$orthanc_elsewhere",
        ("https://viewer.x", "viewer.x"): "$orthanc_elsewhere",
        ("https://viewer.x", "pacs.x"): None,
        ("https://pacs.x", "viewer.x"): None,
        ("https://pacs.x", "viewer.x:443"): None,
        # As another one before it has it.
        ("https://pacs.x", "inner"): "$orthanc_elsewhere",
    }
    for (origin, name), expected in asked.items():
        fits = (value for pattern, value in rules if re.search(pattern, f"{origin} {name}"))
        assert next(fits, None) == expected, (origin, name)


def test_certificate_of_both_names() -> None:
    own = {"nginx_server_name": "pacs.x", "site_viewer_name": "viewer.x"}
    assert re.fullmatch(r"/etc/pacs/nginx/self-signed-pacs\.x-[0-9a-f]{8}", rendered("{{ __nginx_tls }}", **own))
    assert rendered("{{ __nginx_called }}", **own) == ["pacs.x", "viewer.x"]
    assert rendered("{{ __nginx_called }}", nginx_server_name="pacs.x") == ["pacs.x"]


def test_balancer_is_told_of_the_storage() -> None:
    """What others provide has to answer, beside the index; else the index alone."""
    text = (ROOT / "templates/etc/nginx/conf.d/orthanc.conf.j2").read_text(encoding="utf-8")
    known = {"site_found": {}, "nginx_balancers": ["192.0.2.1"]}
    alone = str(rendered(text, **known)).partition("location @alive {")[2].partition("}")[0]
    assert alone.split() == ["return", "204;"]
    watched = str(rendered(text, **known, nginx_health_storage="/run/pacs-storage/alive"))
    location = watched.partition("location @alive {")[2].partition("}")[0]
    assert location.split()[-2:] == ["proxy_pass", "http://unix:/run/pacs-storage/alive;"]
    assert "auth_request /.index;" in watched


@pytest.mark.parametrize(
    "found, told",
    [
        ({"nginx_version": "1.22.1"}, "port"),
        ({"nginx_version": "1.25.0"}, "port"),
        ({"nginx_version": "1.25.1"}, "server"),
        ({"nginx_version": "1.18.0", "distribution": "debian", "release": "13"}, "port"),
        ({"nginx_version": "", "distribution": "debian", "release": "12"}, "port"),
        ({"nginx_version": "", "distribution": "debian", "release": "13"}, "server"),
        ({"nginx_version": "", "distribution": "ubuntu", "release": "24.04"}, "port"),
        ({"nginx_version": "", "distribution": "ubuntu", "release": "24.10"}, "server"),
        ({"nginx_version": "", "distribution": "linuxmint", "release": "22"}, "port"),
        ({}, "port"),
    ],
)
def test_http2_in_the_words_of_that_nginx(found: dict[str, Any], told: str) -> None:
    text = (ROOT / "templates/etc/nginx/conf.d/orthanc.conf.j2").read_text(encoding="utf-8")
    for balancers in ([], ["192.0.2.1"]):
        given = {"site_found": found, "nginx_balancers": balancers, "nginx_balanced_names": []}
        for wanted, asked in ((told, True), ("none", False)):
            lines = [line.strip() for line in rendered(text, nginx_http2=asked, **given).splitlines()]
            assert lines.count("http2 on;") == (wanted == "server")
            secured = [line for line in lines if line.startswith("listen ") and " ssl" in line]
            assert len(secured) == (4 if balancers else 2)
            assert {" http2" in line for line in secured} == {wanted == "port"}


@pytest.mark.parametrize("seconds", [0, 600])
def test_what_browsers_keep_of_what_orthanc_answers(seconds: int) -> None:
    text = (ROOT / "templates/etc/nginx/conf.d/orthanc.conf.j2").read_text(encoding="utf-8")
    told = rendered(text, nginx_browser_cache=seconds, nginx_prefix="/a.b/")
    table = told[told.index("$orthanc_caching {") :].partition("\n}\n")[0]
    rules = re.findall(r'^    "~([^"]+)" "?([^";]+)"?;$', table, re.MULTILINE)
    # Of patterns the first that fits.
    frames = "private, max-age=600" if seconds else "no-store"
    series = "/a.b/dicom-web/studies/1.2/series/3.4"
    for what, expected in {
        f"200 {series}/instances/5.6/frames/1": frames,
        f"404 {series}/instances/5.6/frames/1": "no-store",
        f"206 {series}/instances/5.6/frames/1": "no-store",
        f"200 {series}/instances/5.6/frames/1/rendered": "no-store",
        f"200 {series}/metadata": "no-store",
        "200 /dicom-web/studies/1.2/series/3.4/instances/5.6/frames/1": "no-store",
        "502, 200 /a.b/system": "no-store",
        "200 /a.b/app/explorer.html": "$upstream_http_cache_control",
        "200 /axb/app/explorer.html": "no-store",
        "200 /a.b/instances/x/preview": "no-store",
        # Not Orthanc's, such as the viewer.
        " /a.b/ohif/": "",
    }.items():
        assert next((value for pattern, value in rules if re.search(pattern, what)), "") == expected, what
    assert ("add_header Vary $orthanc_varies;" in told) == bool(seconds)

"""The host: services, ports, files and their modes, and what Orthanc answers there."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import yaml

from verification.expect import expect
from verification.reach import Host
from verification.site import Site

UNIT = "/etc/systemd/system/orthanc.service"
# What runs those in Python, by an option of its own.
LOADER = "pacs_scripts.py"
# For how long a destination may be away, in seconds.
PATIENCE = 24 * 3600
# What the role knows of plugins: under which name Orthanc reports what the inventory has another one for.
PLUGINS = yaml.safe_load(
    (pathlib.Path(__file__).parents[1] / "roles" / "orthanc" / "vars" / "main" / "plugins.yml").read_text("utf-8")
)["__orthanc_plugins"]


def modes(host: Host, *paths: str) -> dict[str, str]:
    """Return ``mode owner:group`` of each path that is there."""
    found = host.run("stat --format='%%n %%a %%U:%%G' " + " ".join(["%s"] * len(paths)), *paths).stdout
    return dict(line.split(" ", 1) for line in found.splitlines())


def test_orthanc_runs_now_and_at_boot(host: Host) -> None:
    expect_service(host, "orthanc")


def test_proxy_runs_now_and_at_boot(proxy_host: Host) -> None:
    expect_service(proxy_host, "nginx")


def expect_service(host: Host, service: str) -> None:
    state = host.run(f"systemctl is-active {service}; systemctl is-enabled {service}").stdout.split()
    expect(f"{service}.service", ["active", "enabled"], state, f"journalctl -u {service}")


def test_unit_is_ours(site: Site, host: Host) -> None:
    shown = host.check_output("systemctl show orthanc --property=FragmentPath,MainPID")
    unit = dict(line.split("=", 1) for line in shown.splitlines())
    expect("file of orthanc.service", UNIT, unit["FragmentPath"])
    words = host.run("ps --no-headers -o user:32,args -p %s", unit["MainPID"]).stdout.split()
    expect("user of orthanc.service", ["orthanc"], words[:1], "systemctl status orthanc")
    expect("last argument of orthanc.service", [site.config_dir], words[-1:], "orthanc_config_dir")


def test_configuration_is_for_orthanc_only(site: Site, host: Host) -> None:
    names = host.check_output("ls -A %s", site.config_dir).split()
    missing = {"orthanc.json", "credentials.json"} - set(names)
    expect(f"what {site.config_dir} does not have", set(), missing, "playbooks/site.yml")
    # Of all that is there, the mark of the toolkit alone may be read by everybody.
    files = {f"{site.config_dir}/{name}": "640 root:orthanc" for name in names if name != ".pacs"}
    expected = {site.config_dir: "750 root:orthanc", **files}
    expect("modes of orthanc_config_dir", expected, modes(host, *expected))


def test_storage_is_for_orthanc_only(site: Site, host: Host) -> None:
    expected = {site.storage_dir: "750 orthanc:orthanc"}
    expect("mode of orthanc_storage_dir", expected, modes(host, *expected))


def test_secrets_of_the_proxy_are_not_public(proxied: Site, proxy_host: Host) -> None:
    certificate = pathlib.PurePosixPath(proxied.certificate_file)
    # Its workers read it, whose group depends on where nginx is from.
    shown = proxy_host.check_output("ps --no-headers -o group:32,args -C nginx")
    group = next((line.split()[0] for line in shown.splitlines() if "worker process" in line), "of a worker")
    expected = {
        str(certificate): "644 root:root",
        str(certificate.with_suffix(".key")): "600 root:root",
        proxied.users_file: f"640 root:{group}",
        proxied.upstream_file: "600 root:root",
    }
    expect("modes of the proxy's files", expected, modes(proxy_host, *expected))


def test_no_public_file_of_orthanc_holds_a_password(site: Site, host: Host) -> None:
    expect_no_password(site, host)


def test_no_public_file_of_the_proxy_holds_a_password(proxied: Site, proxy_host: Host) -> None:
    expect_no_password(proxied, proxy_host)


def expect_no_password(site: Site, host: Host) -> None:
    # What anybody there can read may travel; the passwords stay here. Not every host has all of the folders.
    public = host.run("find /etc/pacs /etc/orthanc /etc/nginx %s -type f -perm -o=r -exec cat {} +", UNIT).stdout
    expect("public files are found", True, bool(public))
    leaks = [user for user, forms in site.secrets.items() if any(form in public for form in forms)]
    expect("users whose password anybody on the host can read", [], leaks, "grep -r in /etc/pacs and /etc/nginx")


def test_log_is_in_the_journal(host: Host) -> None:
    # Of Orthanc itself: systemd's own lines about the unit are there whatever becomes of its output.
    lines = host.check_output("journalctl _SYSTEMD_UNIT=orthanc.service --lines 1 --output cat --quiet")
    expect("journalctl -u orthanc has lines", True, bool(lines))


def test_inside_system_is_what_was_asked_for(site: Site, inside: dict[str, Any]) -> None:
    expected = {"DicomAet": site.aet, "DicomPort": site.dicom_port, "HttpPort": site.http_port}
    if site.version:
        expected["Version"] = site.version
    got = {key: inside["system"].get(key) for key in expected}
    expect("/system on the host", expected, got, "orthanc_aet, orthanc_dicom_port, orthanc_http_port, orthanc_version")


def test_inside_data_is_where_it_was_asked_for(site: Site, inside: dict[str, Any]) -> None:
    expected = {
        "DatabaseBackendPlugin": site.database if site.database_index else "",
        "StorageAreaPlugin": site.database if site.database_storage else "",
    }
    paths = {field: str(inside["system"].get(field) or "") for field in expected}
    got = {field: site.database if site.database in path.lower() else path for field, path in paths.items()}
    if not site.database_storage and got["StorageAreaPlugin"] != site.database:
        # A plugin among orthanc_plugins may keep the files; the run that deployed it has compared that.
        got["StorageAreaPlugin"] = ""
    expect("/system on the host", expected, got, "orthanc_database, orthanc_database_index, orthanc_database_storage")


def test_inside_index_answers(inside: dict[str, Any]) -> None:
    expect("/changes?last on the host", 200, inside["index"], "journalctl -u orthanc")


def test_inside_plugins_are_loaded(site: Site, inside: dict[str, Any]) -> None:
    missing = [name for name in site.plugins if PLUGINS[name]["id"] not in inside["plugins"]]
    expect("plugins that Orthanc did not load", [], missing, "orthanc_plugins, journalctl -u orthanc")


def test_inside_scripts_are_those_of_the_inventory(site: Site, host: Host, inside: dict[str, Any]) -> None:
    files = "find . -maxdepth 1 '(' -name '*.lua' -o -name '*.py' ')'"
    sums = host.check_output(f"cd %s && {files} -exec sha256sum {{}} +", site.config_dir).splitlines()
    found = {path.removeprefix("./"): digest for digest, path in (line.split() for line in sums)}
    # Those that the rules of the inventory bring are known by their texts, too.
    wanted = site.scripts | site.rule_scripts
    wrong = dict.fromkeys(found.keys() - wanted.keys(), "is not of the inventory")
    wrong |= dict.fromkeys(wanted.keys() - found.keys(), "is missing")
    wrong |= {name: "has another text" for name in wanted.keys() & found.keys() if wanted[name] != found[name]}
    expect("scripts in orthanc_config_dir", {}, wrong, "orthanc_scripts, orthanc_ingest; playbooks/site.yml")
    ours = [f"{site.config_dir}/{name}" for name in wanted if name != LOADER]
    for option, end in (("LuaScripts", ".lua"), ("PacsPythonScripts", ".py")):
        paths = [path for path in ours if path.endswith(end)]
        # The inventory may name others of the host.
        if paths:
            expect(option, paths, inside["options"][option], "orthanc_scripts, orthanc_ingest, orthanc_routes")
    for option, rules in (("PacsIngest", site.ingest), ("PacsDeidentify", site.deidentify)):
        expect(option, rules, inside["options"][option] or [], "orthanc_ingest, orthanc_deidentify; playbooks/site.yml")
    start = "$(systemctl show orthanc --property=ExecMainStartTimestamp --timestamp=us+utc --value)"
    unread = host.check_output(f'cd %s && {files} -newermt "{start}"', site.config_dir).split()
    expect("scripts that are newer than the Orthanc that runs", [], unread, "systemctl restart orthanc")


def test_inside_worklists_are_read(site: Site, inside: dict[str, Any]) -> None:
    told, see = inside["worklists"], "orthanc_worklists_table; journalctl -u orthanc"
    expect("table of worklists", site.worklists, told.get("Table", ""), see)
    expect("why it cannot be read", "", told.get("Problem", ""), see)
    expect("lines of it that are left out", [], told.get("LeftOut", []), see)


def test_inside_routes_deliver(site: Site, inside: dict[str, Any]) -> None:
    """A destination may be off at night. What waits now is in the report."""
    wanted, told = sorted({route["to"] for route in site.routes}), inside["routes"]
    asked = sorted({route["to"] for route in inside["options"]["PacsRoutes"] or []})
    expect("destinations in orthanc_config_dir", wanted, asked, "orthanc_routes, playbooks/site.yml")
    wanted = sorted({*wanted, *site.webhooks})
    expect("destinations that are sent to", wanted, sorted(told.get("Destinations", {})), "journalctl -u orthanc")
    expect("what keeps all of it from being sent", "", told.get("Problem", ""), "journalctl -u orthanc")
    late = {name: one["Studies"] for name, one in told.get("Destinations", {}).items() if one["Seconds"] > PATIENCE}
    expect(
        "studies that wait, the first for more than a day",
        {},
        late,
        "GET /pacs/routes tells why, POST /pacs/routes/drop ends it",
    )


@pytest.mark.parametrize("login", ["none", "default", "wrong"])
def test_inside_refuses_without_the_login(inside: dict[str, Any], login: str) -> None:
    expect(f"Orthanc on the host, login: {login}", 401, inside[login], "orthanc_settings, orthanc_proxy_password")

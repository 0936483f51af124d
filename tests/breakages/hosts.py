"""What is broken on a host, and the checks that have to fail then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.breakages.names import WRITES

CONFIGURATION, PROXY = "/etc/pacs/orthanc", "/etc/nginx/conf.d/orthanc.conf"
RELAY = "/etc/nginx/conf.d/orthanc-relay.conf"
UNIT = "/etc/systemd/system/orthanc.service"
DROP_IN = f"{UNIT}.d"
POSTGRESQL = "/etc/postgresql/17/main"
RELOAD = "nginx -t -q && systemctl reload nginx && sleep 1"
# Orthanc opens its port after it has read its index.
START = (
    "systemctl daemon-reload; systemctl restart orthanc; for i in $(seq 300); do curl --silent --output /dev/null"
    " http://127.0.0.1:8042/ && break; sleep 0.2; done"
)
SQL = "runuser -u postgres -- psql --quiet -v ON_ERROR_STOP=1 orthanc -c"


@dataclass(frozen=True)
class Breakage:
    """What is done to a host, and how that is undone: the paths come back as they were, and then ``after`` is run.

    :param checks: those that have to fail; one without brackets stands for all of its cases.
    :param spoils: those of the sample that fail in consequence.
    :param do: what is broken, by a script; ``after`` is run then, too.
    :param site: the host whose checks are run.
    :param hosts: those that are broken, where it is not that one alone.
    :param undo: what else has to be undone.
    """

    what: str
    checks: tuple[str, ...]
    do: str
    paths: tuple[str, ...] = ()
    after: str = "true"
    site: str = "pacs"
    hosts: tuple[str, ...] = ()
    undo: str = "true"
    spoils: tuple[str, ...] = ()


def proxy(what: str, checks: tuple[str, ...], do: str, path: str = PROXY, **more: Any) -> Breakage:
    """Break a file of nginx."""
    return Breakage(what, checks, do, (path,), RELOAD, **more)


def options(what: str, checks: tuple[str, ...], change: str, file: str = "orthanc", **more: Any) -> Breakage:
    """Tell Orthanc something else.

    :param change: what Python does to ``known``, the options of a file, or of its only section.
    """
    path = f"{CONFIGURATION}/{file}.json"
    # Orthanc takes a dollar sign for the name of a variable, but as an escape.
    script = (
        f"import json; path = '{path}'; file = json.load(open(path));"
        f" known = file if len(file) > 1 else next(iter(file.values())); {change};"
        " open(path, 'w').write(json.dumps(file).replace(chr(36), chr(92) + 'u0024'))"
    )
    paths, do = more.pop("paths", ()), more.pop("do", "true")
    return Breakage(what, checks, f'python3 -c "{script}"; {do}', (path, *paths), START, **more)


def unit(what: str, checks: tuple[str, ...], lines: str, before: str = "true", **more: Any) -> Breakage:
    """Run Orthanc otherwise than its unit says."""
    do = f"{before}; mkdir -p {DROP_IN}; cat > {DROP_IN}/broken.conf <<END\n[Service]\n{lines}\nEND\n"
    return Breakage(what, checks, do, (), START, undo=f"rm -r {DROP_IN}", **more)


def database(what: str, checks: tuple[str, ...], do: str, undo: str = "true", **more: Any) -> Breakage:
    """Break PostgreSQL, or what it lets in."""
    settings = {
        "paths": (f"{POSTGRESQL}/pg_hba.conf",),
        "after": "systemctl reload postgresql@17-main && sleep 1",
    } | more
    return Breakage(what, checks, do, undo=undo, **settings)


def fake(what: str, check: str, program: str, script: str, more: str = "true") -> Breakage:
    """Have a program say something else."""
    path = f"/usr/local/bin/{program}"
    do = f"printf '#!/bin/sh\\n{script}\\n' > {path}; chmod 755 {path}; {more}"
    return Breakage(what, (check,), do, undo=f"rm {path}")


ACCESS = [
    proxy(
        "nginx asks nobody for a login",
        (
            "test_access::test_nobody_gets_in_without_a_login",
            "test_access::test_nobody_gets_in_with_a_wrong_login",
            "test_access::test_login_of_the_proxy_is_not_for_the_public",
            "test_access::test_nobody_uploads_or_deletes_without_a_login",
        ),
        f"sed -i 's/^    auth_basic .*;/    auth_basic off;/' {PROXY}",
    ),
    proxy(
        "nginx tells who deletes without a login that it is done",
        ("test_access::test_nobody_uploads_or_deletes_without_a_login",),
        'sed -i -e \'1i map "$request_method $http_authorization" $unasked { default 0; "DELETE " 1; }\''
        f" -e 's/^    include .*normal.conf;/&\\n    if ($unasked) {{ return 200; }}/' {PROXY}",
    ),
    proxy(
        "nginx lets the proxy's own login in",
        ("test_access::test_login_of_the_proxy_is_not_for_the_public",),
        "login=$(sed -n 's/^set .orthanc_login \"Basic \\(.*\\)\";/\\1/p' /etc/pacs/nginx/upstream.conf | base64 -d);"
        ' echo "${login%%:*}:$(openssl passwd -6 "${login#*:}")" >> /etc/pacs/nginx/htpasswd',
        "/etc/pacs/nginx/htpasswd",
    ),
    proxy(
        "a user is missing",
        ("test_access::test_every_user_gets_in",),
        "sed -i '/^peer:/d' /etc/pacs/nginx/htpasswd",
        "/etc/pacs/nginx/htpasswd",
    ),
    proxy(
        "HTTP leads elsewhere",
        ("test_access::test_http_leads_to_https",),
        f"sed -i 's,return 301 https://[^$]*,return 301 https://elsewhere.example,' {PROXY}",
    ),
    proxy(
        "a security header is missing",
        ("test_access::test_answers_carry_security_headers",),
        f"sed -i '/X-Frame-Options/d' {PROXY}",
    ),
    proxy(
        "a security header is missing in errors",
        ("test_access::test_answers_carry_security_headers[/no-such-route-404]",),
        f"sed -i 's/\\(X-Frame-Options SAMEORIGIN\\) always/\\1/' {PROXY}",
    ),
    proxy(
        "nginx tells its version",
        ("test_access::test_answers_carry_security_headers",),
        f"sed -i 's/server_tokens off/server_tokens on/' {PROXY}",
    ),
    proxy(
        "TLS 1.1 is spoken",
        ("test_access::test_tls_version[1.1]",),
        "sed -i -e 's/^ssl_protocols .*/ssl_protocols TLSv1.1 TLSv1.2 TLSv1.3;/'"
        " -e 's/^ssl_ciphers .*/ssl_ciphers ALL:@SECLEVEL=0;/' /etc/pacs/nginx/tls.conf",
        "/etc/pacs/nginx/tls.conf",
    ),
    *(
        proxy(
            f"TLS {version} is not spoken",
            (f"test_access::test_tls_version[{version}]",),
            f"sed -i 's/^ssl_protocols .*/ssl_protocols TLSv{other};/' /etc/pacs/nginx/tls.conf",
            "/etc/pacs/nginx/tls.conf",
        )
        for version, other in (("1.2", "1.3"), ("1.3", "1.2"))
    ),
    proxy(
        "the relay asks for no certificate",
        ("test_access::test_relay_is_for_the_proxy_only",),
        f"sed -i -e 's/ssl_verify_client on/ssl_verify_client off/' -e '/deny all/d' {RELAY}",
        RELAY,
        site="far",
    ),
    proxy(
        "who asks first whether an upload is welcome is sent away",
        ("test_rest::test_upload_asks_first_or_not[asking first]",),
        f"sed -i 's/^    include .*normal.conf;/&\\n    if ($http_expect) {{ return 417; }}/' {PROXY}",
    ),
    proxy(
        "a big file does not pass",
        ("test_rest::test_big_file_passes_the_proxy",),
        "sed -i 's/client_max_body_size .*;/client_max_body_size 2800k;/' /etc/pacs/nginx/server.conf",
        "/etc/pacs/nginx/server.conf",
    ),
    options(
        "Orthanc asks nobody for a login",
        (
            "test_access::test_http_port_of_orthanc_is_closed_from_here",
            "test_host::test_inside_refuses_without_the_login",
        ),
        "known.update(AuthenticationEnabled=False, RemoteAccessAllowed=True)",
        do=f"sed -i '/nft/d' {UNIT}; nft delete table inet orthanc",
        paths=(UNIT,),
    ),
]

VIEWER, POLICY = "/etc/pacs/ohif/site.conf", "/etc/nginx/conf.d/orthanc-ohif.conf"
CONFIG = "/etc/pacs/ohif/app-config.js"
FILES = "/var/lib/pacs/viewer/*/ohif"
VIEWERS = [
    proxy(
        "nginx asks nobody for a login to the viewer",
        ("test_viewer::test_viewer_is_for_users_alone",),
        f"sed -i 's,^    root ,    auth_basic off;\\n&,' {VIEWER}",
        VIEWER,
    ),
    *(
        Breakage(
            f"a file of the viewer {what}", ("test_viewer::test_files_of_the_viewer_are_as_deployed",), do, undo=undo
        )
        for what, do, undo in (
            (
                "is another one",
                f"cp -a {FILES}/assets/favicon.ico /root/icon; truncate --size 5 {FILES}/assets/favicon.ico",
                f"cp -a /root/icon {FILES}/assets/favicon.ico",
            ),
            ("is gone", f"mv {FILES}/assets/favicon.ico /root/icon", f"mv /root/icon {FILES}/assets/favicon.ico"),
            ("is somebody else's", f"touch $(echo {FILES})/mine", f"rm {FILES}/mine"),
            ("is open to others", f"chmod 666 {FILES}/app.bundle.css", f"chmod 644 {FILES}/app.bundle.css"),
        )
    ),
    *(
        proxy(
            f"nginx does not serve {what} of the viewer",
            ("test_viewer::test_page_of_the_viewer_has_all_its_parts",),
            f"sed -i 's,^location = /ohif .*,location {where} {{ return 404; }}\\n&,' {VIEWER}",
            VIEWER,
        )
        for what, where in (("a style", "= /ohif/app.bundle.css"), ("the links", "= /ohif/viewer"))
    ),
    *(
        proxy(
            f"the viewer {what}",
            ("test_viewer::test_viewer_says_what_its_page_may_do",),
            f"sed -i '{how}' {POLICY}",
            POLICY,
        )
        for what, how in (
            ("may ask others", "s/connect-src /&https: /"),
            ("may run any script", "s/script-src /&\\x27unsafe-inline\\x27 /"),
            ("may not run its own scripts", "s/sha256-[^ ;]*//"),
            ("may not decode JPEG 2000", "s/\\x27unsafe-eval\\x27//"),
            ("has no policy", "/default-src/d"),
        )
    ),
    *(
        proxy(
            f"browsers {what}",
            ("test_viewer::test_browsers_keep_of_the_viewer_what_never_changes",),
            f"sed -i '{how}' {path}",
            path,
        )
        for what, how, path in (
            ("ask for all of the viewer anew", "s/, immutable//", POLICY),
            ("keep the page of the viewer", "s/no-cache/max-age=600/", POLICY),
            ("keep what Orthanc answers", "s/no-store/max-age=600/", PROXY),
            ("get the viewer uncompressed", "s/gzip_static on/gzip_static off/", VIEWER),
        )
    ),
    Breakage(
        "the viewer knows another host",
        ("test_viewer::test_viewer_knows_no_other_host",),
        f'sed -i \'s,"friendlyName": .*,"friendlyName": "https://demo.example.org/"\\,,\' {CONFIG}',
        (CONFIG,),
    ),
    *(
        Breakage(
            f"the viewer has another {root}",
            ("test_viewer::test_viewer_reads_images_of_this_site",),
            f'sed -i \'s,"{root}": .*,"{root}": "/dicom-wob"\\,,\' {CONFIG}',
            (CONFIG,),
        )
        for root in ("qidoRoot", "wadoRoot")
    ),
]

LOOSE = (
    "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\nNoNewPrivileges=false\n"
    "ProtectSystem=false\nProtectHome=false\nPrivateDevices=false\nPrivateUsers=false\nRestrictNamespaces=false\n"
    "SystemCallFilter="
)
HARDENING = [
    options(
        "DICOM is taken at another port",
        ("test_hardening::test_ports_listen", "test_host::test_inside_system_is_what_was_asked_for"),
        "known.update(DicomPort=4243)",
        spoils=("test_dicom::test_echo",),
    ),
    proxy(
        "HTTP is taken at another port",
        ("test_hardening::test_ports_of_the_proxy_listen", "test_access::test_http_leads_to_https"),
        f"sed -i -E 's/listen (.*)\\b80;/listen \\181;/' {PROXY}",
    ),
    Breakage(
        "the packet filter is gone",
        ("test_hardening::test_rest_api_is_for_this_host_alone",),
        "nft delete table inet orthanc",
        undo=START,
    ),
    unit(
        "the sandbox is loose",
        ("test_hardening::test_orthanc_has_no_power", "test_hardening::test_sandbox_is_tight"),
        LOOSE,
    ),
    fake(
        "nobody keeps the clock",
        "test_hardening::test_clock_is_right",
        "systemd-detect-virt",
        "exit 1",
    ),
    fake("the clock is wrong", "test_hardening::test_clock_is_right", "date", "echo 1700000000.0"),
]

HOST = [
    Breakage(
        "Orthanc does not start with the host",
        ("test_host::test_orthanc_runs_now_and_at_boot",),
        "systemctl disable orthanc",
        undo="systemctl enable orthanc",
    ),
    Breakage(
        "nginx does not start with the host",
        ("test_host::test_proxy_runs_now_and_at_boot",),
        "systemctl disable nginx",
        undo="systemctl enable nginx",
    ),
    unit(
        "Orthanc reads another folder",
        ("test_host::test_unit_is_ours",),
        "ExecStart=\n$line",
        f"cp -a {CONFIGURATION} /etc/pacs/other;"
        f" line=$(grep ^ExecStart= {UNIT} | sed 's,{CONFIGURATION}$,/etc/pacs/other,')",
    ),
    Breakage(
        "everybody may read the configuration",
        ("test_host::test_configuration_is_for_orthanc_only",),
        f"chmod 644 {CONFIGURATION}/orthanc.json",
        undo=f"chmod 640 {CONFIGURATION}/orthanc.json",
    ),
    Breakage(
        "everybody may read the images",
        ("test_host::test_storage_is_for_orthanc_only",),
        "chmod 755 /var/lib/orthanc/db-v6",
        undo="chmod 750 /var/lib/orthanc/db-v6",
    ),
    Breakage(
        "everybody may read who may log in",
        ("test_host::test_secrets_of_the_proxy_are_not_public",),
        "chmod 644 /etc/pacs/nginx/htpasswd",
        undo="chmod 640 /etc/pacs/nginx/htpasswd",
    ),
    *(
        Breakage(
            f"somebody has left a password {where}",
            (f"test_host::test_no_public_file_of_{whose}_holds_a_password",),
            f"cp {secret} /etc/pacs/note; chmod 644 /etc/pacs/note",
            undo="rm /etc/pacs/note",
            site="far",
            hosts=(host,),
        )
        for where, whose, host, secret in (
            ("beside Orthanc", "orthanc", "far", f"{CONFIGURATION}/credentials.json"),
            ("beside the proxy", "the_proxy", "front", "/etc/pacs/nginx/upstream.conf"),
        )
    ),
    unit(
        "Orthanc's log goes nowhere",
        ("test_host::test_log_is_in_the_journal",),
        "StandardOutput=null\nStandardError=null",
        "systemctl stop orthanc; journalctl --quiet --rotate; journalctl --quiet --vacuum-size=1",
    ),
    options(
        "the title is another one",
        ("test_host::test_inside_system_is_what_was_asked_for", "test_rest::test_system_names_the_server"),
        "known.update(DicomAet='OTHER')",
        spoils=("test_dicom::test_echo",),
    ),
    options(
        "images go into the folder",
        ("test_host::test_inside_data_is_where_it_was_asked_for", "test_database::test_files_are_in_the_database"),
        "known.update(EnableStorage=False)",
        file="postgresql",
    ),
    options(
        "the index is in SQLite",
        ("test_host::test_inside_data_is_where_it_was_asked_for", "test_database::test_study_is_in_the_database"),
        "known.update(EnableIndex=False)",
        file="postgresql",
    ),
    options(
        "a plugin is not loaded",
        ("test_host::test_inside_plugins_are_loaded", "test_dicom::test_worklists_answer"),
        "known.update(Plugins=[name for name in known['Plugins'] if 'Worklists' not in name])",
        site="far",
    ),
    Breakage(
        "somebody has left a script",
        ("test_host::test_inside_scripts_are_those_of_the_inventory",),
        f"cp -p {CONFIGURATION}/orthanc.json {CONFIGURATION}/left.lua",
        undo=f"rm {CONFIGURATION}/left.lua",
    ),
    *(
        Breakage(
            f"a script of the role {what}",
            ("test_host::test_inside_scripts_are_those_of_the_inventory",),
            do,
            tuple(f"{CONFIGURATION}/{name}" for name in ("pacs_ingest.py", "pacs_tags.py")),
            undo=f"rm -f {CONFIGURATION}/pacs_routes.py",
        )
        for what, do in (
            # None of it is newer than the Orthanc that runs.
            (
                "is another one",
                f"cd {CONFIGURATION}; echo '#' >> pacs_ingest.py; touch -d 2020-01-01 pacs_ingest.py",
            ),
            ("is gone", f"rm {CONFIGURATION}/pacs_tags.py"),
            ("is there for no rule", f"cp -p {CONFIGURATION}/pacs_ingest.py {CONFIGURATION}/pacs_routes.py"),
        )
    ),
    options(
        "somebody has changed what is refused",
        (
            "test_host::test_inside_scripts_are_those_of_the_inventory",
            "test_ingest::test_images_become_what_the_entries_say",
            "test_ingest::test_modalities_are_told_what_is_refused",
        ),
        "known.update(PacsIngest=[{'when': {'StationName': 'OTHER'}, 'refuse': True}])",
    ),
    options(
        "somebody has changed which images are for research",
        (
            "test_host::test_inside_scripts_are_those_of_the_inventory",
            "test_ingest::test_images_for_research_have_no_patient",
        ),
        "known.update(PacsDeidentify=[{'when': {'StationName': 'OTHER'}}])",
    ),
    Breakage(
        "a line of the worklists is wrong",
        ("test_host::test_inside_worklists_are_read",),
        "echo 4712,Doe >> /etc/pacs/worklists/table.csv",
        ("/etc/pacs/worklists/table.csv",),
    ),
    options(
        "somebody has left a route",
        ("test_host::test_inside_routes_deliver",),
        "known.update(PacsRoutes=[{'to': 'far'}])",
    ),
    database(
        "the log of changes cannot be read",
        ("test_host::test_inside_index_answers",),
        f"{SQL} 'REVOKE SELECT ON Changes FROM orthanc'",
        f"{SQL} 'GRANT SELECT ON Changes TO orthanc'",
        # Nothing can be deleted then.
        spoils=WRITES,
    ),
    options(
        "the site removes old images",
        ("test_level::test_conform_may_begin",),
        "known.update(MaximumPatientCount=3)",
        # Nothing is written then.
        spoils=WRITES,
    ),
    options(
        "strangers may come in",
        ("test_dicom::test_stranger_is_refused",),
        "known.update(DicomAlwaysAllowEcho=True)",
    ),
    options(
        "a caller need not know the title",
        ("test_dicom::test_wrong_called_aet_is_refused",),
        "known.update(DicomCheckCalledAet=False)",
    ),
]

# Asks Orthanc on the host, with the login that it has.
ASK = (
    "login=$(python3 -c \"import json; known = json.load(open('/etc/pacs/orthanc/credentials.json'));"
    " print(':'.join(next(iter(known['RegisteredUsers'].items()))))\"); curl --silent --user \"$login\""
)
# An image that Orthanc makes, and its end.
MADE = f'{ASK} --data \'{{"Tags": {{"PatientID": "broken"}}}}\' http://127.0.0.1:8042/tools/create-dicom > /root/made'
UNMADE = f'{ASK} --request DELETE http://127.0.0.1:8042$(sed -n \'s/.*"Path" : "\\(.*\\)".*/\\1/p\' /root/made)'
STORAGE = [
    Breakage(
        "the disk of the database is nearly full",
        ("test_storage::test_inside_disks_have_room",),
        # The server goes on in the folder below it.
        "mount -t tmpfs -o size=40M none /var/lib/postgresql",
        undo="umount /var/lib/postgresql",
    ),
    *(
        Breakage(
            f"the file of an image is {what}",
            ("test_storage::test_inside_every_file_is_there",),
            f"{MADE}; find /var/lib/orthanc/db-v6 -type f -name '*-*-*' -exec {how} {{}} +",
            undo=UNMADE,
            site="far",
        )
        for what, how in (("gone", "rm"), ("empty", "truncate --size 0"))
    ),
]

DATABASE = [
    database(
        "the login may make databases",
        ("test_database::test_login_has_no_power_over_the_server",),
        f"{SQL} 'ALTER ROLE orthanc CREATEDB'",
        f"{SQL} 'ALTER ROLE orthanc NOCREATEDB'",
    ),
    database(
        "the login gets into another database",
        ("test_database::test_login_stays_out_of_other_databases",),
        f"sed -i '1i host postgres orthanc 127.0.0.1/32 scram-sha-256' {POSTGRESQL}/pg_hba.conf;"
        f" {SQL} 'GRANT CONNECT ON DATABASE postgres TO orthanc'",
        f"{SQL} 'REVOKE CONNECT ON DATABASE postgres FROM orthanc'",
    ),
    database(
        "any password will do",
        ("test_database::test_wrong_password_is_refused",),
        f"sed -i '1i host orthanc orthanc 127.0.0.1/32 trust' {POSTGRESQL}/pg_hba.conf",
    ),
    database(
        "a setting waits for a restart",
        ("test_database::test_settings_are_in_force",),
        f"echo 'max_connections = 234' > {POSTGRESQL}/conf.d/zz.conf",
        f"rm {POSTGRESQL}/conf.d/zz.conf",
    ),
    database(
        "the database listens to other hosts",
        (
            "test_hardening::test_database_is_for_this_host_alone",
            "test_database::test_database_is_closed_to_this_machine",
        ),
        f"echo \"listen_addresses = '*'\" > {POSTGRESQL}/conf.d/zz.conf;"
        f" echo 'host all all 0.0.0.0/0 scram-sha-256' >> {POSTGRESQL}/pg_hba.conf;"
        f" sed -i '/reject/d' {POSTGRESQL}/pg_hba.conf",
        f"rm {POSTGRESQL}/conf.d/zz.conf",
        # Orthanc's first upload after a restart of its database is refused, and the next one taken.
        after=f"systemctl restart postgresql@17-main; {START}",
    ),
    database(
        "the database takes connections without TLS",
        ("test_database::test_plain_connection_from_another_host_is_refused",),
        f"sed -i 's/^hostssl/host/' {POSTGRESQL}/pg_hba.conf",
        site="far",
        hosts=("front",),
    ),
    database(
        "Orthanc talks to its database without TLS",
        (
            "test_database::test_connection_to_another_host_is_encrypted",
            "test_database::test_plain_connection_from_another_host_is_refused",
        ),
        f"file={CONFIGURATION}/postgresql.json; if [ -e $file ]; then"
        " sed -i -E 's/sslmode=verify-full[^\"]*/sslmode=disable/' $file;"
        f" else sed -i 's/^hostssl/host/' {POSTGRESQL}/pg_hba.conf; fi",
        site="far",
        hosts=("front", "far"),
        paths=(f"{POSTGRESQL}/pg_hba.conf", f"{CONFIGURATION}/postgresql.json"),
        after=f"if [ -e {POSTGRESQL} ]; then systemctl reload postgresql@17-main; sleep 1; else {START}; fi",
    ),
]

MODALITIES = [
    options(
        "a modality is at another port",
        ("test_modalities::test_modalities_are_those_of_the_inventory",),
        "known['DicomModalities']['far']['Port'] = 4",
    ),
    options(
        "a modality does not know us any more",
        ("test_modalities::test_modalities_take_us_for_one",),
        "known['DicomModalities'].pop('pacs')",
        hosts=("far",),
    ),
    options(
        "a DICOMweb server is at another path",
        ("test_modalities::test_dicomweb_servers_answer",),
        "known['DicomWeb']['Servers']['web']['Url'] += 'elsewhere/'",
        file="credentials",
    ),
]

BACKUPS = [
    # Of a host without any it is not asked.
    Breakage(
        "the last backup has failed",
        ("test_backup::test_last_backup_is_good_and_new",),
        "mkdir /etc/pacs/backup; cat > /etc/pacs/backup/backup.py <<'END'\n"
        'print(\'{"success": null, "age_seconds": null, "wrong": "The repository cannot be reached."}\')\nEND',
        undo="rm -r /etc/pacs/backup",
    ),
]

BREAKAGES = [*ACCESS, *VIEWERS, *HARDENING, *HOST, *STORAGE, *DATABASE, *MODALITIES, *BACKUPS]

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role backup asks of an inventory: an Orthanc that it can back up, and a place that lets it in."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import version_tuple
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight import values
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.host import Host
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.folders import CLOSED_FOLDERS

RANGES = {
    "backup_database_full_days": (1, 366),
    "backup_drill_percent": (1, 100),
    "backup_pause_seconds": (1, 120),
    "backup_upload_mib": (0, 10_000),
}
KEEP = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_HOST = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])"
_SFTP = re.compile(rf"sftp:([a-z_][\w.-]*@{_HOST}:/[^\s:]+|//[a-z_][\w.-]*@{_HOST}(:\d+)?//[^\s:]+)")
_RCLONE = re.compile(_SFTP.pattern.replace("sftp", "rclone"))
_S3 = re.compile(rf"s3:https?://{_HOST}(:\d+)?(/[\w.-]+)+/?")
_PROXY = re.compile(rf"https?://{_HOST}(:\d+)?/?")
_REGION = re.compile(r"[a-z0-9-]+")
_OUT = "Take the host out of that group, and back up database and files in another way."
# Since when pgBackRest there knows SFTP (2.46).
_SFTP_SINCE = {"debian": (13,), "ubuntu": (24, 4)}
# How many characters the name of a database has at most, to which a restore adds when it was.
_NAME = 40
# Of PostgreSQL's settings, those without which its log is not kept.
_LOGGED = ("archive_mode", "archive_command", "archive_library", "wal_level", "summarize_wal")


def packages(_host: Host) -> str:
    return "__backup_packages"


def inventory(host: Host) -> Iterator[str]:
    # Each server of a cluster sends its log, when it is primary.
    if not host.has("orthanc") and not host.site("site_archive_members"):
        yield (
            f"the group 'backup' has {host.name}, which has no Orthanc: it is for hosts of the group 'orthanc' whose"
            " archive is backed up. Take it out; where the backups go is told by backup_repository."
        )


def problems(host: Host) -> Iterator[str]:
    variables = host.variables
    yield from _archive(host)
    others = host.site("site_backup_sharers")
    if others:
        yield (
            f"backup_repository: the backups of {host.name} and of {', '.join(others)} go to the same place, where each"
            " could read and delete those of the other. Give each a repository of its own, as in"
            f" {str(host.variables['backup_repository']).rstrip('/')}/{{{{ inventory_hostname }}}}."
        )
    yield from _place(host, str(variables["backup_repository"]))
    password = str(variables["backup_password"])
    if not password:
        yield f"backup_password: it is empty, and nothing is backed up that others could read; {values.SECRETS}"
    elif len(password) < 16:
        yield f"backup_password: it is shorter than 16 characters, which can be tried out; {values.SECRETS}"
    calendar = str(variables["backup_calendar"])
    if not re.fullmatch(r"[A-Za-z0-9*,./:~_ -]*[A-Za-z0-9*][A-Za-z0-9*,./:~_ -]*", calendar):
        yield f"backup_calendar: '{calendar}' is no time as systemd has it in OnCalendar, such as *-*-* 02:00:00."
    yield from _keep(variables["backup_keep"])
    if variables["backup_drill_folder"]:
        yield from _folder(host, "backup_drill_folder", str(variables["backup_drill_folder"]))
    if variables["backup_ca"]:
        yield from values.pem("backup_ca", str(variables["backup_ca"]))


def _archive(host: Host) -> Iterator[str]:
    """What can be backed up: all of an archive that is in files."""
    if host.site("site_archive_members"):
        yield from _cluster(host)
        return
    engine = host.variables["orthanc_database"]
    plugin = "" if engine != "sqlite" else host.internal("orthanc", "__orthanc_storage_library")
    if engine == "postgresql":
        yield from _postgresql(host)
    elif engine == "mysql":
        yield from _mariadb(host)
    elif plugin:
        yield (
            f"orthanc_plugins: {host.name} is in the group 'backup', and {plugin} keeps its DICOM files, which are not"
            " backed up yet: those in orthanc_storage_dir alone are. Take the host out of that group."
        )


def _beside(host: Host, what: str) -> Iterator[str]:
    """A server on the host of its Orthanc, which has the index."""
    group = f"{host.name} is in the group 'backup', and"
    if not host.site("site_database_beside"):
        server = host.site("site_database_server") or "a host of others"
        yield (
            f"orthanc_database: {group} its database is on {server}, which is not backed up yet: {what} on the same"
            f" host is. {_OUT}"
        )
    elif not host.variables["orthanc_database_index"]:
        yield f"orthanc_database_index: {group} its index is in SQLite while its files are in {what}. {_OUT}"


def _mariadb(host: Host) -> Iterator[str]:
    """A database that is dumped, together with the files of its only Orthanc."""
    group = f"{host.name} is in the group 'backup', and"
    yield from _beside(host, "MariaDB")
    if host.variables["orthanc_database_storage"]:
        yield (
            f"orthanc_database_storage: {group} its DICOM files are in MariaDB, whose dump would have all of them each"
            f" time; files in orthanc_storage_dir are backed up. {_OUT}"
        )
    if host.site("site_database_shared"):
        yield (
            f"orthanc_database_name: {group} several Orthancs have one index there, of which one alone would be"
            f" stopped at a restore. {_OUT}"
        )


def _cluster(host: Host) -> Iterator[str]:
    """Servers of one database, whichever is primary, and the Orthancs that have it."""
    members, group = host.site("site_archive_members"), host.groups.get("backup", [])
    what = f"the database of {host.name} is on {', '.join(host.site('site_database_servers'))}"
    if missing := [name for name in members if name not in group]:
        yield (
            f"the group 'backup' has {host.name}, and not {' and '.join(missing)}: {what}, each of which may be primary"
            " and sends its log then, and all their Orthancs stand still at a restore. Put all of them into the group."
        )
    if apart := [name for name in members if name not in host.site("site_database_servers")]:
        yield (
            f"orthanc_database: {' and '.join(apart)} has an Orthanc, and no server of its database beside it, which"
            f" is not backed up yet: {what}. Put it into the groups 'postgresql' too, or take 'backup' out."
        )
    if unlike := host.site("site_archive_unlike"):
        yield (
            f"{unlike[0]}: {', '.join(members)} have one archive, whose backups go to one place, whichever of them"
            f" makes them, and they do not have it alike. Set it for all of them."
        )
    if str(host.variables["backup_repository"]).startswith("/"):
        yield (
            f"backup_repository: {what}, and a folder of one host is not there for the others. Take S3, or an SFTP"
            " server where pgBackRest knows it."
        )
    if host.has("orthanc") and not host.variables["orthanc_database_storage"]:
        yield (
            f"orthanc_database_storage: {host.name} is in the group 'backup', and its DICOM files are on a file system"
            " that several hosts have, which is not backed up yet. Have backups of it made where it is, and take the"
            " group out; or have the files in the database."
        )
    names = sorted({str(client["name"]) for client in host.site("site_database_clients")})
    if len(names) > 1:
        yield (
            "orthanc_database_name: the servers have the databases of several archives, which would be taken back"
            f" together. {_OUT}"
        )
    if [name for name in names if len(name) > _NAME]:
        yield (
            f"orthanc_database_name: '{names[0]}' has more than {_NAME} characters, and a restore keeps what was there"
            " by a longer one, of which PostgreSQL takes 63. Take a shorter one, or 'backup' out."
        )
    yield from _logged(host)


def _postgresql(host: Host) -> Iterator[str]:
    """A server that is backed up and restored as a whole, together with the files of its only Orthanc."""
    group = f"{host.name} is in the group 'backup', and"
    clients = [str(client["name"]) for client in host.site("site_database_clients")]
    yield from _beside(host, "PostgreSQL")
    if host.site("site_database_beside") and host.site("site_database_of_others"):
        yield f"postgresql_shared: {group} others use its server, who would be taken back with a restore. {_OUT}"
    elif len(clients) > 1:
        yield (
            f"orthanc_database: {group} its server has the databases of several Orthancs ({', '.join(clients)}), which"
            f" would be taken back together. {_OUT}"
        )
    yield from _logged(host)


def _logged(host: Host) -> Iterator[str]:
    """What keeps the log of PostgreSQL from going to a repository of pgBackRest's."""
    group, variables = f"{host.name} is in the group 'backup', and", host.variables
    repository = str(variables["backup_repository"])
    wrong = [name for name in _LOGGED if name in variables.get("postgresql_settings", {})]
    if wrong:
        yield (f"postgresql_settings: {group} {wrong[0]} is what its database's log is kept by; take it out.")
    if not variables["backup_keep"]:
        yield (
            f"backup_keep: {group} its database is PostgreSQL, of which this host alone forgets what is old; say how"
            " many backups are kept."
        )
    system, release = (str((host.probe or {}).get(name, "")) for name in ("distribution", "release"))
    if repository.startswith("rclone:"):
        yield (
            f"backup_repository: {group} its database is PostgreSQL, which does not go to rclone; take sftp:, a folder,"
            " such as one that a NAS gives by NFS, or S3."
        )
    elif repository.startswith("sftp:") and system in _SFTP_SINCE and version_tuple(release) < _SFTP_SINCE[system]:
        yield (
            f"backup_repository: {group} its database is PostgreSQL, and pgBackRest of {system.title()} {release} does"
            " not know SFTP; take a folder, such as one that a NAS gives by NFS, or S3, or a newer release of it."
        )
    if repository.startswith("s3:http:"):
        yield f"backup_repository: {group} its database is PostgreSQL, which goes to S3 by https alone; take that."
    if repository.startswith("s3:") and variables["backup_s3_proxy"]:
        yield f"backup_s3_proxy: {group} its database is PostgreSQL, which goes to S3 without a proxy; have it let in."


def _place(host: Host, repository: str) -> Iterator[str]:
    variables = host.variables
    if not repository:
        yield (
            f"backup_repository: it is empty. Say where the backups of {host.name} go: a folder on another disk,"
            " sftp:USER@HOST:/FOLDER, rclone:USER@HOST:/FOLDER, or s3:https://HOST/BUCKET."
        )
    elif repository.startswith("/"):
        yield from _folder(host, "backup_repository", repository)
    elif repository.startswith(("sftp:", "rclone:")):
        kind, pattern = ("sftp", _SFTP) if repository.startswith("sftp:") else ("rclone", _RCLONE)
        if not pattern.fullmatch(repository):
            yield (
                f"backup_repository: '{repository}' is not like {kind}:USER@HOST:/FOLDER or, with a port,"
                f" {kind}://USER@HOST:PORT//FOLDER."
            )
        for name, what in (("private_key", "logs in there"), ("known_hosts", "knows that server")):
            if not str(variables[f"backup_sftp_{name}"]).strip():
                yield f"backup_sftp_{name}: it is empty, and nothing else is there by which {host.name} {what}."
    elif repository.startswith("s3:"):
        if not _S3.fullmatch(repository):
            yield f"backup_repository: '{repository}' is not like s3:https://HOST/BUCKET/FOLDER."
        for name in ("key", "secret"):
            if not variables[f"backup_s3_{name}"]:
                yield f"backup_s3_{name}: it is empty, and S3 lets nobody in without it."
        region, proxy = str(variables["backup_s3_region"]), str(variables["backup_s3_proxy"])
        if region and not _REGION.fullmatch(region):
            yield f"backup_s3_region: '{region}' is no region, such as eu-central-1."
        if proxy and not _PROXY.fullmatch(proxy):
            yield f"backup_s3_proxy: '{proxy}' is not like http://proxy.example.org:3128, without a login."
    else:
        yield (
            f"backup_repository: '{repository}' is no absolute path, and begins with none of sftp:, rclone: and s3:;"
            " other places that restic knows are not served yet."
        )


def _folder(host: Host, variable: str, folder: str) -> Iterator[str]:
    """A folder of this host, which is none of those that are backed up."""
    if not re.fullmatch(r"/[^\s:%\\\"']*", folder) or not values.is_folder(folder):
        yield (
            f"{variable}: '{folder}' is no absolute path in normal form, without white space, quotes, colon or"
            " percent sign."
        )
        return
    if folder in values.SYSTEM_FOLDERS or folder.startswith(tuple(f"{closed}/" for closed in CLOSED_FOLDERS)):
        yield f"{variable}: {folder} is a folder of the system or of its users; choose one on another disk."
        return
    names = ("orthanc_storage_dir", "orthanc_index_dir", "orthanc_config_dir", "orthanc_dump_dir")
    others: dict[str, Any] = {str(host.variables[name]): name for name in names if host.variables.get(name)}
    for other, name in {**others, "/etc/pacs": "the toolkit's own", "/var/lib/pacs": "the toolkit's own"}.items():
        if posixpath.commonpath([folder, other]) in (folder, other):
            yield f"{variable}: {folder} and {other} ({name}) lie in one another; choose one on another disk."
            return


def _keep(keep: dict[str, Any]) -> Iterator[str]:
    strange = [str(name) for name in keep if name not in KEEP]
    if strange:
        yield f"backup_keep: '{strange[0]}' is none of restic's names, which are {', '.join(KEEP)}."
    for name, count in keep.items():
        if name in KEEP and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 10_000):
            yield f"backup_keep.{name}: '{count}' is no number of backups; choose one from 1 to 10000, or leave it out."


def notices(host: Host) -> Iterator[str]:
    if str(host.variables["backup_repository"]).startswith("/"):
        yield (
            f"backup_repository: the backups of {host.name} go to a folder of the same host. Whoever takes it over, and"
            " what burns it down, takes them as well; docs/backup.md tells of other places."
        )

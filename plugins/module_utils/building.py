# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orthanc and its plugins from their tarballs: what is built, by which commands, and what comes out of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils import distro
from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import version_tuple

# Tarballs and what came out of them, on the host that builds; root's.
FOLDER = "/var/cache/pacs"
# In a folder of the unit's own, which systemd removes when the unit ends, however it ends. On the disk, as /tmp is not.
WORK = "/var/tmp/orthanc"
CORE = "orthanc"
PROGRAMS = ("Orthanc", "OrthancRecoverCompressedFile")
# What a compiler takes for one file of Orthanc, and what a build takes on the disk beside the compiler.
JOB_MEMORY = 1 << 30
BUILD_DISK = 2 << 30
# What is told of a failure, in lines.
_TOLD = 16
# CMake tells of much that it has not found and does not need.
_FAILURE = re.compile(
    r"(?i)\berror: |^CMake Error|: not found$|=> not found|no space left|permission denied|cannot find -l"
    r"|undefined reference|\*\*\* "
)


class BuildError(Exception):
    """Something cannot be built; the message is a sentence that names the variable and the way out."""


def file_of(target: str) -> str:
    """Return the name of the file that a target of CMake makes: all of Orthanc's plugins are named alike."""
    return target if target in PROGRAMS else f"lib{target}.so"


def _target(library: str) -> str:
    return library.removeprefix("lib").removesuffix(".so")


def _flag(value: Any) -> str:
    return ("ON" if value else "OFF") if isinstance(value, bool) else str(value)


def targets(
    release: str, plugins: Iterable[str], database: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Return the targets of CMake by tarball.

    What Orthanc's own tarball has is built whole, since another of its plugins would take another build of everything.
    """
    own = [
        _target(plugin["library"])
        for plugin in known.values()
        if plugin["package"] == CORE
        and not plugin.get("lacking")
        and version_tuple(str(plugin.get("since", ""))) <= version_tuple(release)
    ]
    found = {CORE: [*PROGRAMS, *own]}
    for package in database["packages"]:
        found[package] = [_target(library) for library in (*database["index"], *database["storage"])]
    for name in plugins:
        package = known.get(name, {}).get("package", CORE)
        if package != CORE:
            found.setdefault(package, []).append(_target(known[name]["library"]))
    return found


def builds(
    tarballs: Mapping[str, Mapping[str, Any]],
    wanted: Mapping[str, list[str]],
    table: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any],
    plugin_options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return what is to be built, Orthanc itself first, each with the key by which it is known while it is the same.

    :param tarballs: what the inventory says of each.
    :param table: what is known of each.
    """
    core = dict(tarballs.get(CORE, {}))
    found = []
    for name, names in wanted.items():
        row, given = table.get(name, {}), tarballs.get(name, {})
        all_options = {**options, **({} if name == CORE else plugin_options)}
        all_options.update({**row.get("options", {}), **given.get("options", {})})
        build: dict[str, Any] = {
            "name": name,
            "targets": names,
            "folder": str(given.get("folder", row.get("folder", "."))),
            "before": str(row.get("before", "")),
            "options": {key: _flag(value) for key, value in sorted(all_options.items())},
            "sources": [source(given), *map(source, given.get("also", []))],
            # The parts of Orthanc that a plugin has in it.
            "framework": [] if name == CORE else [source(core)],
        }
        what = {**build, "sources": _sums(build["sources"]), "framework": _sums(build["framework"])}
        build["key"] = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
        build["packages"] = [*row.get("packages", []), *given.get("packages", [])]
        found.append(build)
    return found


# What the inventory may say of a tarball, and of one that is laid over it.
FIELDS: Mapping[str, type] = {
    "from": str,
    "sha256": str,
    "also": list,
    "folder": str,
    "options": dict,
    "packages": list,
}
ALSO = ("from", "sha256")


def good(tarballs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return of what the inventory says of tarballs what has the right form; the rest the preflight refuses."""
    found = {
        name: {key: given[key] for key, kind in FIELDS.items() if isinstance(given.get(key), kind)}
        for name, given in tarballs.items()
        if isinstance(given, Mapping)
    }
    for given in found.values():
        given["also"] = [one for one in given.get("also", []) if isinstance(one, Mapping)]
    return found


def source(given: Mapping[str, Any]) -> dict[str, str]:
    return {"from": str(given.get("from", "")), "sha256": str(given.get("sha256", "")).lower()}


def _sums(sources: list[dict[str, str]]) -> list[str]:
    return [one["sha256"] for one in sources]


def platform() -> str:
    """Return what a build is for: its libraries are those of the distribution's release."""
    return "-".join((distro.os_release_attr("id"), distro.os_release_attr("version_id"), os.uname().machine))


def cache() -> str:
    """Return the folder on the control node of what was built."""
    return os.path.join(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "dicom.orthanc")


def stem(build: Mapping[str, Any], platform: str) -> str:
    """Return what the archive of a build is called, and the two lists in it."""
    return f"{build['name']}-{build['key']}-{platform}"


def script(build: Mapping[str, Any], platform: str, jobs: int) -> str:
    """Return the shell script that builds, as a user that may write into WORK and ``$CACHE_DIRECTORY`` alone.

    At its end an archive is in the latter, whole or not at all: the programs and plugins, their SHA-256, and the
    packages with the libraries that they need.
    """
    name = stem(build, platform)
    files = [file_of(target) for target in build["targets"]]

    def unpack(one: Mapping[str, str], folder: str) -> str:
        words = f"--file={FOLDER}/{one['sha256']}", "--strip-components=1", "--no-same-owner", f"--directory={folder}"
        return shlex.join(("tar", "--extract", *words))

    options = dict(build["options"])
    if build["framework"]:
        options.setdefault("ORTHANC_FRAMEWORK_ROOT", f"{WORK}/framework/OrthancFramework/Sources")
    flags = [f"-D{key}={value}" for key, value in options.items()]
    lines = [
        "set -eu",
        f"mkdir {WORK} && cd {WORK} && mkdir source framework result",
        *(unpack(one, "source") for one in build["sources"]),
        *(unpack(one, "framework") for one in build["framework"]),
        build["before"],
        shlex.join(("cmake", "-Wno-dev", "-S", os.path.join("source", build["folder"]), "-B", "build", *flags)),
        shlex.join(("cmake", "--build", "build", "--parallel", str(jobs), "--target", *build["targets"])),
        "cd build",
        shlex.join(("cp", "--dereference", "--target-directory=../result", *files)),
        "cd ../result",
        "strip --strip-unneeded *",
        "ldd * > ../libraries",
        "if grep 'not found' ../libraries; then exit 1; fi",
        f"sha256sum * > ../{name}.sums",
        # dpkg knows some of them without /usr, and some with it.
        "sed -n 's/.* => \\(\\/[^ ]*\\) .*/\\1/p' ../libraries | sort -u | while read -r path; do",
        '    dpkg-query --search "$path" "/usr$path" "${path#/usr}" 2> /dev/null || true',
        f"done | sed 's/:.*//' | sort -u > ../{name}.packages",
        f"mv ../{name}.* .",
        'tar --create --gzip --file="$CACHE_DIRECTORY/.new" *',
        f'mv "$CACHE_DIRECTORY/.new" "$CACHE_DIRECTORY/{name}.tar.gz"',
    ]
    return "\n".join(line for line in lines if line)


def failure(log: str) -> str:
    """Return the lines of a log that say why a build failed: from the first that looks like it."""
    lines = [line[:300] for line in log.splitlines()]
    first = next((number for number, line in enumerate(lines) if _FAILURE.search(line)), len(lines) - _TOLD + 1)
    start = max(first - 1, 0)
    return "\n".join(lines[start : start + _TOLD])


def progress(log: str) -> str:
    """Return how far a build has come, as CMake tells it."""
    found = re.findall(r"(?m)^\[ *(\d+%)\]", log)
    return found[-1] if found else "0%"


def look_into(build: Mapping[str, Any], paths: list[str], release: str) -> None:
    """See whether tarballs are what they are said to be, before a quarter of an hour is spent on them.

    :param paths: of the tarball itself and of those that are laid over it.
    :raises BuildError: if one is no tarball, of something else, or of another release.
    """
    variable = f"orthanc_source_tarballs.{build['name']}"
    names: set[str] = set()
    for path, one in zip(paths, build["sources"], strict=True):
        try:
            with tarfile.open(path) as tar:
                inside = {member.name.removeprefix("./").partition("/")[2]: member for member in tar}
                names |= set(inside)
                if build["name"] == CORE and path == paths[0]:
                    explorer = _read(tar, inside, "OrthancServer/OrthancExplorer/explorer.html")
                    parameters = _read(tar, inside, "OrthancFramework/Resources/CMake/OrthancFrameworkParameters.cmake")
        except (OSError, tarfile.TarError, EOFError) as error:
            raise BuildError(f"{variable}: what is at {one['from']} is no tarball: {error}.") from error
    main = os.path.normpath(os.path.join(build["folder"], "CMakeLists.txt"))
    if main not in names:
        raise BuildError(f"{variable}: there is no {main} in it; name the right tarball, or set its folder.")
    if build["name"] != CORE:
        return
    found = re.search(r'(?i)set\(ORTHANC_VERSION "([^"]+)"\)', parameters)
    if not found or found[1] != release:
        raise BuildError(
            f"{variable}: this is Orthanc {found[1] if found else 'of an unknown release'}, and orthanc_version asks"
            f" for {release}; name the right tarball."
        )
    pages = [f"OrthancServer/OrthancExplorer/{page}" for page in re.findall(r'(?:src|href)="(libs/[^"]+)"', explorer)]
    missing = sorted(set(pages) - names)
    if missing:
        raise BuildError(
            f"{variable}: it lacks {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}, without which"
            " Orthanc Explorer shows nothing; tarballs of distributions leave it out. Name the one of Orthanc's makers,"
            " or under `also` a tarball with what is missing."
        )


def _read(tar: tarfile.TarFile, inside: Mapping[str, tarfile.TarInfo], name: str) -> str:
    file = tar.extractfile(inside[name]) if name in inside else None
    return file.read().decode("utf-8", errors="replace") if file else ""

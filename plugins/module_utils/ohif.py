# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ready build of the OHIF viewer: what of it is served, and how it is made fit for a path of its own."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping

# What the package of a release has: everything is below one folder, and what is served is in another one there.
_SERVED = "package/dist/"
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*")
# AI models, source maps, examples of a configuration, and what is for other web servers or for signing in at others.
_LEFT_OUT = re.compile(
    r"ort/.*|.*\.map|(app-config|google|sw)\.js|silent-refresh\.html|(manifest|serve)\.json|_(headers|redirects)"
)
# A browser would ask for it without a login.
_MANIFEST = '<link rel="manifest" href="/manifest.json">'
_BASE = '__webpack_require__.p = "/"'
# What a release has of each kind of reference to the root of its host: those of 3.13.
COUNTS = {
    "links to a manifest in index.html": 1,
    "references to / in index.html": 34,
    "PUBLIC_URL in index.html": 2,
    "scripts in index.html": 2,
    "files with the path of webpack": 8,
    "references to / in app.bundle.css": 5,
}
# What is worth to be compressed beforehand.
_TEXT = re.compile(r".*\.(css|js|svg|wasm)")
# The list of what was written, as sha256sum has it. No request leads to it: it is above the path of the viewer,
# or nginx is told so.
SUMS = "sums"


class LayoutError(Exception):
    """A package is not what is known; the message says in what."""


def integrity(content: bytes) -> str:
    """Return by what a package is known, as package registries have it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def unpacked(package: bytes) -> dict[str, bytes]:
    """Return the files of a package that are served, by their names.

    :raises LayoutError: if it is no such package.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix(_SERVED)
                if not member.isreg() or name == member.name or _LEFT_OUT.fullmatch(name):
                    continue
                if not _NAME.fullmatch(name):
                    raise LayoutError(f"it has a file {name!r}, which is no name for a file that is served")
                given = archive.extractfile(member)
                files[name] = given.read() if given else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise LayoutError(f"it cannot be unpacked: {error}") from error
    return files


def scripts(page: str) -> list[str]:
    """Return the hash of each script that stands in a page itself, as a Content-Security-Policy names it."""
    texts = re.findall(r"(?s)<script>(.*?)</script>", page)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]


def adapted(files: Mapping[str, bytes], path: str) -> dict[str, bytes]:
    """Return the files of a build as they are for a path, which begins and ends with a slash.

    :raises LayoutError: if what is to be changed is not there as often as is known.
    """
    try:
        page, style = (files.get(name, b"").decode() for name in ("index.html", "app.bundle.css"))
    except UnicodeDecodeError as error:
        raise LayoutError("index.html or app.bundle.css is no text") from error
    bundles = {name: content for name, content in files.items() if name.endswith(".js") and _BASE.encode() in content}
    bare = page.replace(_MANIFEST, "")
    found = {
        "links to a manifest in index.html": page.count(_MANIFEST),
        "references to / in index.html": bare.count('="/'),
        "PUBLIC_URL in index.html": bare.count('PUBLIC_URL="/"'),
        "scripts in index.html": len(scripts(bare)),
        "files with the path of webpack": len(bundles),
        "references to / in app.bundle.css": style.count("url(/"),
    }
    wrong = [f"{found[kind]} {kind}, where {count} are known" for kind, count in COUNTS.items() if found[kind] != count]
    if wrong:
        raise LayoutError(f"it has {', '.join(wrong)}")
    changed = {
        name: content.replace(_BASE.encode(), _BASE.replace("/", path).encode()) for name, content in bundles.items()
    }
    changed["index.html"] = bare.replace('="/', f'="{path}').encode()
    changed["app.bundle.css"] = style.replace("url(/", f"url({path}").encode()
    return {**files, **changed}


def packed(files: Mapping[str, bytes], path: str) -> bytes:
    """Return an archive of all that a host has of a release: files, those of text compressed as well, and a list."""
    placed: dict[str, bytes] = {}
    for name, content in sorted(files.items()):
        placed[path[1:] + name] = content
        if _TEXT.fullmatch(name):
            placed[path[1:] + name + ".gz"] = gzip.compress(content, 6, mtime=0)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in placed.items())
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        # First, so that whatever was unpacked is known by it.
        for name, content in {SUMS: sums.encode(), **placed}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(made.getvalue(), 1, mtime=0)


def sums(folder: str) -> dict[str, str]:
    """Return the SHA-256 of each file that a folder of a release is to have; nothing if it is none."""
    try:
        with open(os.path.join(folder, SUMS), encoding="utf-8") as file:
            lines = [re.fullmatch(rf"([0-9a-f]{{64}})  ({_NAME.pattern})", line) for line in file.read().splitlines()]
    except OSError:
        return {}
    return {line[2]: line[1] for line in lines if line} if all(lines) else {}


def above(names: Mapping[str, str]) -> Iterator[str]:
    """Return the folders of files, from the inside out."""
    folders = {name.rpartition("/")[0] for name in names}
    folders |= {
        "/".join(parts[:depth]) for parts in (name.split("/") for name in folders) for depth in range(1, len(parts))
    }
    yield from sorted(folders - {""}, key=lambda name: name.count("/"), reverse=True)

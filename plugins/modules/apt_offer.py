#!/usr/bin/python
# Copyright the dicom.orthanc authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prove a source of packages and its key, without telling the host of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_offer
short_description: Which versions of a package a source offers, proved by its key
version_added: 0.1.0
description:
  - Lets apt read a source of packages in a folder of its own, and fails with the reason if apt does not accept it.
    A source that apt refuses, once in place, would stop every other update of the host too.
  - Changes nothing, in check mode or otherwise.
author: The dicom.orthanc authors (!UNKNOWN)
options:
  url:
    description: Address of the source. Empty takes the one of Orthanc's makers for this distribution.
    type: str
    default: ""
  suite:
    description: Suite of the source. Empty takes the code name of this distribution's release.
    type: str
    default: ""
  component:
    description: Component of the source.
    type: str
    default: main
  key:
    description: The key that the source is signed with, in ASCII armour, or a URL of it.
    type: str
    required: true
  package:
    description: The package that it has to offer.
    type: str
    default: orthanc
attributes:
  check_mode:
    description: Works as usual, since it only reads.
    support: full
"""

EXAMPLES = r"""
- name: Prove the source
  dicom.orthanc.apt_offer:
    key: https://orthanc.uclouvain.be/debian/archive.key
  register: offer
"""

RETURN = r"""
url:
  description: Address of the source.
  type: str
  returned: always
suite:
  description: Suite of the source.
  type: str
  returned: always
versions:
  description: The versions of the package on offer, best first.
  type: list
  elements: str
  returned: success
waits:
  description:
    - Whether the source is in place, offers a newer package and nothing of it was installed since, as where a run was
      cut off in between.
  type: bool
  returned: success
"""

import os
import re
import tempfile

from ansible.module_utils import distro
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.lsb import MirrorError, fetch, trust

# What apt says, and what it means in the terms of the inventory.
MEANINGS = (
    (r"NO_PUBKEY|not signed|public key|verif|signature|Sub-process .*sqv", "it is not signed with orthanc_apt_key"),
    (r"404|does not have a Release file", "it has no such suite; see orthanc_apt_url and orthanc_apt_suite"),
    (r"[Cc]ertificate", "its certificate is not trusted by this host; see orthanc_apt_url"),
    (r"", "it does not answer; see orthanc_apt_url"),
)


# Where the role orthanc puts it in place.
SOURCE = "/etc/apt/sources.list.d/orthanc.sources"


def waits(module: AnsibleModule, package: str, best: str) -> bool:
    """Tell whether what the source offers was to be installed when a run was cut off.

    :param best: the newest version that is on offer.
    """
    try:
        if os.stat(SOURCE).st_mtime < os.stat(f"/var/lib/dpkg/info/{package}.list").st_mtime:
            return False
    except FileNotFoundError:
        return False
    _rc, version, _err = module.run_command(["dpkg-query", "--show", "--showformat", "${Version}", package])
    newer: int = module.run_command(["dpkg", "--compare-versions", best, "gt", version])[0]
    return newer == 0


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": ""},
            "suite": {"type": "str", "default": ""},
            "component": {"type": "str", "default": "main"},
            "key": {"type": "str", "required": True, "no_log": False},
            "package": {"type": "str", "default": "orthanc"},
        },
        supports_check_mode=True,
    )
    key, package = module.params["key"], module.params["package"]
    url = module.params["url"] or f"https://orthanc.uclouvain.be/{distro.os_release_attr('id') or 'debian'}"
    suite = module.params["suite"] or distro.os_release_attr("version_codename")
    failed = f"The packages of {url} {suite} are not to be had, and nothing has changed: "
    with tempfile.TemporaryDirectory() as folder:
        # apt reads it as somebody else.
        os.chmod(folder, 0o755)
        armoured = os.path.join(folder, "key.asc")
        if re.match(r"https?://", key):
            try:
                fetch(key, trust(""), armoured, "orthanc_apt_key")
            except MirrorError as error:
                module.fail_json(failed + str(error))
            with open(armoured, "rb") as file:
                plain = b"-----BEGIN PGP" in file.read(4096)
            if not plain:
                os.rename(armoured, armoured := os.path.join(folder, "key.gpg"))
        else:
            with open(armoured, "w", encoding="ascii") as file:
                file.write(key.strip() + "\n")
        source = os.path.join(folder, "orthanc.sources")
        with open(source, "w", encoding="utf-8") as file:
            file.write(f"Types: deb\nURIs: {url}\nSuites: {suite}\nComponents: {module.params['component']}\n")
            file.write(f"Signed-By: {armoured}\n")
        os.makedirs(os.path.join(folder, "lists", "partial"))
        options = {
            "Dir::Etc::SourceList": source,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": os.path.join(folder, "lists"),
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Update::Error-Mode": "any",
            "APT::Sandbox::User": "root",
            "Acquire::Retries": "0",
        }
        given = [f"--option={name}={value}" for name, value in options.items()]
        english = {"LC_ALL": "C"}
        rc, out, err = module.run_command(["apt-get", "update", *given], environ_update=english)
        if rc:
            said = " ".join(line for line in err.splitlines() if line.startswith(("E:", "W:"))) or out
            meaning = next(meaning for pattern, meaning in MEANINGS if re.search(pattern, said))
            module.fail_json(f"{failed}{meaning}. apt says: {said[:1000]}")
        _rc, out, _err = module.run_command(["apt-cache", "madison", package, *given], environ_update=english)
    versions = re.findall(rf"(?m)^\s*{re.escape(package)} \| (\S+)", out)
    if not versions:
        module.fail_json(f"{failed}there is no {package}; see orthanc_apt_url and orthanc_apt_suite.")
    module.exit_json(url=url, suite=suite, versions=versions, waits=waits(module, package, versions[0]))


if __name__ == "__main__":
    main()

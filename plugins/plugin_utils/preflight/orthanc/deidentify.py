# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules for research that would let an image in as it comes, or that nobody could repeat."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from ansible_collections.dicom.orthanc.plugins.module_utils.configuration import by_field
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc import dicom, scripts
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.product import Orthanc
from ansible_collections.dicom.orthanc.plugins.plugin_utils.preflight.orthanc.routes import conditions

# Plugins by which images get into the index past all scripts.
ADOPTING = {"advanced-storage", "indexer"}
# As many letters as nobody tries out.
SHORTEST = 32


def problems(orthanc: Orthanc) -> Iterator[str]:
    """Find what is wrong with them."""
    rules = orthanc.variables["orthanc_deidentify"]
    if not rules:
        return
    yield from scripts.of_role(orthanc, "orthanc_deidentify")
    if len(str(orthanc.variables["orthanc_deidentify_secret"])) < SHORTEST:
        yield (
            f"orthanc_deidentify_secret: pseudonyms are made by it, so it needs at least {SHORTEST} letters; give it"
            ' "{{ vault_orthanc_deidentify_secret }}", and call make secrets.'
        )
    titles = [
        str(by_field(one, dicom.FIELDS).get("AET", "")) for one in orthanc.variables["orthanc_modalities"].values()
    ]
    settings = orthanc.variables["orthanc_settings"] | orthanc.variables["orthanc_settings_unchecked"]
    strict = bool(settings.get("StrictAetComparison"))
    titles = titles if strict else [title.upper() for title in titles]
    for plugin in sorted(ADOPTING.intersection(orthanc.variables["orthanc_plugins"])):
        yield (
            f"orthanc_plugins: {plugin} takes in files as they lie somewhere, with the patient, and no script is asked;"
            " take it out, or have orthanc_deidentify on another Orthanc."
        )
    for number, rule in enumerate(rules, 1):
        here = f"orthanc_deidentify: entry {number}"
        yield from conditions(here, rule)
        for sender in rule.get("from") or []:
            # Its images would be stored as they come, under the title that it really has.
            wanted = (sender if strict else sender.upper()).replace("[", "[[]")
            if not fnmatch.filter(titles, wanted) and not settings.get("DicomAlwaysAllowStore"):
                yield (
                    f"{here}: no entry of orthanc_modalities has the title '{sender}', and of others nothing is taken;"
                    " correct it, or add the modality."
                )
        if not any(rule.get(name) for name in ("from", "when", "unless")) and number < len(rules):
            yield f"{here}: it is for all images, so those after it never count; put it at the end."


def notices(orthanc: Orthanc) -> Iterator[str]:
    """Tell where the patient may stay in an image, which may be meant so."""
    rules = orthanc.variables["orthanc_deidentify"]
    if rules and any(rules[-1].get(name) for name in ("from", "when", "unless")):
        yield (
            "orthanc_deidentify: no entry is for all images, so those that none fits are stored as they come, with the"
            " patient. If this Orthanc is for research alone, put one without from, when and unless at the end."
        )

"""Draw the sites of the shipped inventories for the documents.

Usage: pictures.py FOLDER
"""

import pathlib
import sys

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = ("single", "split")


def drawn(name: str) -> str:
    """Return the picture of a shipped inventory."""
    from ansible_collections.dicom.orthanc.plugins.plugin_utils.picture import connections, picture

    loader = DataLoader()
    loader.set_basedir(str(ROOT / "playbooks"))
    inventory = InventoryManager(loader=loader, sources=[str(ROOT / "inventories" / name)])
    hostvars = HostVars(inventory, VariableManager(loader=loader, inventory=inventory), loader)
    hosts = {host: [host, str(hostvars.raw_get(host).get("ansible_host", host))] for host in hostvars}
    return picture(connections(hostvars, inventory.get_groups_dict()), hosts) + "\n"


def main(folder: str) -> None:
    init_plugin_loader()
    for name in NAMES:
        (pathlib.Path(folder) / f"{name}.svg").write_text(drawn(name), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])

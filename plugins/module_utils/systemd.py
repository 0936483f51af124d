# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A unit of systemd, for the modules that run a service."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import STARTED, Refused

PROPERTIES = f"ActiveState,SubState,UnitFileState,{STARTED},MainPID"
# For a package's script for init, systemctl would read the files of all units once more, and again.
NO_INIT = {"SYSTEMCTL_SKIP_SYSV": "1"}


def going_down(module: AnsibleModule) -> bool:
    """Tell whether the host is shut down, or killed: what a service does meanwhile tells nothing of it."""
    rc, out, _err = module.run_command(["systemctl", "is-system-running"])
    # Without a word where systemd itself has gone already.
    return bool(rc) and str(out).strip() in ("", "stopping", "unknown")


class Unit:
    """A systemd unit. What cannot be started or reloaded shows by what it does afterwards."""

    def __init__(self, module: AnsibleModule, name: str) -> None:
        self._module = module
        self.name = name

    def tell(self, verb: str, *words: str) -> bool:
        """Run ``systemctl VERB WORDS NAME``, and tell whether it ended well."""
        return bool(self._module.run_command(["systemctl", verb, *words, self.name])[0] == 0)

    def must(self, *words: str) -> None:
        """Run ``systemctl WORDS``. :raises Refused: if that fails."""
        rc, _out, err = self._module.run_command(["systemctl", *words], environ_update=NO_INIT)
        if rc:
            raise Refused(f"systemctl {' '.join(words)} fails: {err.strip()}")

    def show(self) -> dict[str, str]:
        """Return its state, and in microseconds of the monotonic clock when its process was started."""
        command = ["systemctl", "show", self.name, f"--property={PROPERTIES}"]
        lines = str(self._module.run_command(command, check_rc=True)[1]).splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def active(self) -> bool:
        return self.tell("is-active", "--quiet")

    @property
    def enabled(self) -> bool:
        """Whether it is started at boot."""
        rc, out, _err = self._module.run_command(["systemctl", "is-enabled", self.name])
        whole, instance, _ = self.name.partition("@")
        if instance and str(out).strip() == "enabled-runtime":
            # A cluster of PostgreSQL, by Debian's generator: postgresql.service starts it, unless that is disabled.
            return Unit(self._module, whole).enabled
        return bool(rc == 0)

    @property
    def ended(self) -> bool:
        """Whether its process ended by itself, be it to be started again or not."""
        state = self.show()
        return state["ActiveState"] in ("failed", "inactive") or state["SubState"] == "auto-restart"

    def reload_files(self) -> None:
        """Have systemd read the files of all units."""
        self.must("daemon-reload")

    def enable(self) -> bool:
        """Have it started at boot, be it kept from starting until now.

        :returns: whether that was to be done. If so, systemd has read the files of all units.
        """
        if self.enabled:
            return False
        for verb in ("unmask", "enable"):
            self.must(verb, "--quiet", "--no-reload", self.name)
        self.reload_files()
        return True

    def log(self, lines: int, since: float = 0.0) -> list[str]:
        """Return the last lines of its journal that say something.

        :param since: in seconds since 1970.
        """
        command = ["journalctl", "--unit", self.name, "--lines", str(lines), "--output", "cat", "--no-pager"]
        command += [f"--since=@{since:.6f}"] if since else []
        return [line for line in str(self._module.run_command(command)[1]).splitlines() if line.strip()]

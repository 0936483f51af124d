# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the archives to the module of the same name, which unpacks them."""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible carries no types
    """Carries what was built from the control node to the host."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        archives = [] if self._task.check_mode else arguments.get("archives", [])
        if archives and not self._connection._shell.tmpdir:
            self._make_tmp_path()
        shell = self._connection._shell
        there = {path: shell.join_path(shell.tmpdir, os.path.basename(path)) for path in archives}
        brought = [self._transfer_file(path, remote) for path, remote in there.items()]
        return dict(self._execute_module(self._task.action, arguments | {"archives": brought}, task_vars=task_vars))

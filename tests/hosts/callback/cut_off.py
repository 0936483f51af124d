"""Ends a run at once after a task that changed a host, as a control node does that loses its power.

It is the first one, or the one that CUT_OFF_AFTER gives by its number.
"""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible carries no types
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "cut_off"
    left = int(os.environ.get("CUT_OFF_AFTER", "1"))

    def v2_runner_on_ok(self, result: Any) -> None:
        self.left -= bool(result.result.get("changed"))
        if not self.left:
            print(f"CUT OFF AFTER {result.task.get_name()}", flush=True)
            os._exit(99)

"""Ends a run at once after the first task that changed a host, as a control node does that loses its power."""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible carries no types
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "cut_off"

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.result.get("changed"):
            print(f"CUT OFF AFTER {result.task.get_name()}", flush=True)
            os._exit(99)

# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back of a service: write its files, apply, prove, or put back what worked. docs/design.md tells of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dicom.orthanc.plugins.module_utils.files import Refused, Writer, bring, told
from ansible_collections.dicom.orthanc.plugins.module_utils.kept import Files, State, found, put_back
from ansible_collections.dicom.orthanc.plugins.module_utils.systemd import going_down


class Wrong(Exception):
    """The service does not work: in what, and what its log says."""

    def __init__(self, problem: str, log: str = "") -> None:
        super().__init__(problem)
        self.log = log


class Undecided(Wrong):
    """The service keeps running: it may be changing its data, or has changed it, so that going back is not safe."""


class WayBack:
    """What a call writes, applies and proves. The module holds the lock from before it decides until it ends.

    :ivar cut_off: whether a call before did not get to its end. What it found is what this one goes back to.
    :ivar ways: what to go back to, by what is wrong: the first that works. Without one of its own, what was before.
    :ivar resort: what to run if none of them works, and why; without one, the first of them.
    """

    def __init__(
        self,
        module: AnsibleModule,
        service: str,
        state: State,
        apply: Callable[[], None],
        prove: Callable[[bool], Any],
    ) -> None:
        """:param prove: raises what is wrong; it is told whether what was before has to work, or what is asked for."""
        self._module, self._service, self._state = module, service, state
        self._apply, self._prove = apply, prove
        self.cut_off = state.kept and not state.lasting
        self.ways: Callable[[str], list[Files]] = lambda _problem: [state.read()]
        self.resort: Callable[[], tuple[Files, str]] = lambda: ({}, "")

    def change(self, paths: Iterable[str], then: Callable[[], None] = lambda: None) -> Writer:
        """Write the files of the module, apply and prove, or go back and fail.

        :param paths: what is to be as before then.
        :param then: what is left to do with what is proved, be it by this call or by the next one.
        """
        self.keep(paths)
        written = self.write()
        self.run()
        then()
        self._state.forget()
        return written

    def keep(self, paths: Iterable[str]) -> None:
        """Keep what is there, until it is proved that something else works."""
        try:
            # A call that was cut off has changed it since.
            self._state.keep(found(paths) | self._state.read())
        except (OSError, Refused) as error:
            self._fail(f"{told(error)} Nothing was changed.")

    def write(self) -> Writer:
        """Write the files of the module, or have those of before and fail: half of a change is none."""
        return bring(self._module, self._unwritten)

    def run(self) -> Any:
        """Apply what was written and return what its proof tells, or go back and fail."""
        try:
            self._apply()
            return self._prove(False)
        except Undecided as error:
            self._fail(str(error), error.log, undecided=True)
        except (Wrong, Refused) as error:
            log = getattr(error, "log", "")
            self._fail(f"{error} {self.back(f'{error} {log}')}", log)
        except Exception as error:
            self._fail(f"{told(error)} {self.back(told(error))}")

    def refuse(self, problem: str) -> None:
        """Fail before anything is written, with what a call that was cut off has left put back."""
        self._fail(f"{problem} {self.back(problem) if self.cut_off else ''}")

    def again(self) -> list[str]:
        """Put back what worked last and return what was otherwise, or fail."""
        changed = [path for files in self.ways("") for path in put_back(files)]
        if changed:
            said = self._again()
            if said:
                self._fail(f"The configuration that worked last is back, and {said}")
        return changed

    def back(self, problem: str) -> str:
        """Go back, and say how it went; say nothing where nothing is otherwise."""
        said, ways = "", self.ways(problem)
        if self._module.check_mode:
            return ""
        if going_down(self._module):
            return "This host is going down meanwhile, so that this tells nothing: the next run does the rest."
        try:
            for files in ways:
                # What is there already is what does not work.
                if not put_back(files):
                    continue
                said = self._again()
                if not said:
                    self._state.forget()
                    return f"The configuration that worked last is back, and {self._service} serves with it."
            files, why = self.resort() if said else ({}, "")
            if said and put_back(files or ways[0]):
                self._apply()
        except (OSError, Refused) as error:
            return (
                f"The configuration that worked last cannot be put back, which the next run tries again: {told(error)}"
            )
        if why:
            return f"The configuration that worked last {said} {why}"
        return f"The configuration that worked last is back, and {said}" if said else ""

    def _again(self) -> str:
        """Apply what was put back, and say what is wrong with it; nothing if it works."""
        try:
            self._apply()
            self._prove(True)
        except (Wrong, Refused) as error:
            log = getattr(error, "log", "")
            return f"does not work any more either: {error} {log}".strip()
        return ""

    def _unwritten(self) -> str:
        """Go back from files of which the service has not heard yet."""
        if self.cut_off:
            return self.back("")
        ways = self.ways("")
        if not ways or not ways[0]:
            return ""
        try:
            put_back(ways[0])
        except (OSError, Refused) as error:
            return f"The files of before cannot be put back, which the next run tries again: {told(error)}"
        self._state.forget()
        return f"{self._service} runs as before, and its files are those of before."

    def _fail(self, problem: str, log: str = "", **results: bool) -> None:
        self._module.fail_json("\n".join(filter(None, (problem.strip(), log.strip()))), **results)

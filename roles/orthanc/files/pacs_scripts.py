"""Runs the Python scripts of the inventory, in its order: Orthanc takes one script, and most callbacks once.

A callback that throws is logged with the name of its script, and the others are called all the same.
"""

import importlib
import json
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any

import orthanc

# Which script runs, and by the name of their registration who has registered which callbacks.
running = ""
registered: dict[str, list[tuple[str, Callable[..., Any]]]] = {}


def failed(script: str) -> None:
    orthanc.LogError(f"{script}: {traceback.format_exc()}")


def tell(callbacks: list[tuple[str, Callable[..., Any]]], *given: Any, **named: Any) -> None:
    for script, callback in callbacks:
        try:
            callback(*given, **named)
        except BaseException:
            failed(script)


def permit(callbacks: list[tuple[str, Callable[..., Any]]], *given: Any, **named: Any) -> bool:
    """All have to let it in."""
    for script, callback in callbacks:
        try:
            if not callback(*given, **named):
                return False
        except BaseException:
            failed(script)
            return False
    return True


def take(callbacks: list[tuple[str, Callable[..., Any]]], *given: Any) -> int:
    """All have to take an image, by the status of DICOM 0. Whoever sends it keeps it where one throws."""
    for script, callback in callbacks:
        try:
            status = callback(*given)
        except BaseException:
            failed(script)
            return 0x0110
        if status:
            return int(status)
    return 0


def change(callbacks: list[tuple[str, Callable[..., Any]]], image: bytes, origin: Any) -> tuple[Any, Any]:
    """Each gets what the one before has made of an image. One that throws has made nothing of it, as without us."""
    result: tuple[Any, Any] = (orthanc.ReceivedInstanceAction.KEEP_AS_IS, None)
    for script, callback in callbacks:
        try:
            said = callback(image, origin)
            # Also without a second value: an image that a script wants gone is not to stay for that.
            action, changed = said if isinstance(said, tuple) else (said, None)
            if action == orthanc.ReceivedInstanceAction.MODIFY and not isinstance(changed, bytes):
                raise TypeError(f"MODIFY takes the image as bytes, not {type(changed).__name__}")
        except BaseException:
            failed(script)
            continue
        if action == orthanc.ReceivedInstanceAction.DISCARD:
            return action, None
        if action == orthanc.ReceivedInstanceAction.MODIFY:
            image, result = changed, (action, changed)
    return result


# What Orthanc takes once, and how several share it.
SHARED: dict[str, Callable[..., Any]] = {
    "RegisterOnChangeCallback": tell,
    "RegisterOnStoredInstanceCallback": tell,
    "RegisterIncomingHttpRequestFilter": permit,
    "RegisterIncomingCStoreInstanceFilter": take,
    "RegisterReceivedInstanceCallback": change,
}
# What it takes once, and only one can answer.
ALONE = (
    "RegisterFindCallback",
    "RegisterMoveCallback",
    "RegisterMoveCallback2",
    "RegisterStorageArea",
    "RegisterStorageCommitmentScpCallback",
    "RegisterWorklistCallback",
)


def shared(name: str, share: Callable[..., Any]) -> Callable[[Callable[..., Any]], None]:
    register = getattr(orthanc, name)

    def add(callback: Callable[..., Any]) -> None:
        callbacks = registered.setdefault(name, [])
        callbacks.append((running or callback.__module__, callback))
        if len(callbacks) == 1:
            register(lambda *given, **named: share(callbacks, *given, **named))

    return add


def alone(name: str) -> Callable[..., None]:
    register = getattr(orthanc, name)

    def add(*callbacks: Callable[..., Any]) -> None:
        if name in registered:
            raise RuntimeError(f"{registered[name][0][0]} has called {name} already, which Orthanc takes once")
        registered[name] = [(running, callbacks[0])]
        register(*callbacks)

    return add


for one, way in SHARED.items():
    setattr(orthanc, one, shared(one, way))
for one in ALONE:
    if hasattr(orthanc, one):
        setattr(orthanc, one, alone(one))
# Two texts of one size within one second would be taken for the same.
sys.dont_write_bytecode = True
options = json.loads(orthanc.GetConfiguration())
if "PacsPythonPackages" in options:
    # Before what the distribution has of the same, and after Python's own.
    places = [number for number, place in enumerate(sys.path) if place.endswith("dist-packages")]
    sys.path.insert(min(places, default=len(sys.path)), options["PacsPythonPackages"])
for path in options["PacsPythonScripts"]:
    running = pathlib.PurePath(path).name
    orthanc.LogInfo(f"Running the Python script: {path}")
    importlib.import_module(pathlib.PurePath(path).stem)
running = ""

"""The register of classes that travel by value, such as those of `__main__`.

cloudpickle gives each of these classes an id. A process that meets the id again takes the class that it has. Ray has a
copy of cloudpickle, with another register. Without this module, a class that leaves by one pickler and returns by the
other would be two classes, and an `except` clause with the first would not catch the second.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import cloudpickle.cloudpickle as _own

_RAYS: Final = "ray.cloudpickle.cloudpickle"
_BY_CLASS, _BY_ID, _LOCK = (f"_DYNAMIC_CLASS_TRACKER_{name}" for name in ("BY_CLASS", "BY_ID", "LOCK"))


def share_class_register() -> None:
    """Let Ray's pickler, if this process has loaded Ray, use the register of cloudpickle; the second time is free."""
    rays: Any = sys.modules.get(_RAYS)  # not imported: most processes do not use Ray
    if rays is None or getattr(rays, _LOCK, None) is getattr(_own, _LOCK):
        return
    if not all(hasattr(rays, name) for name in (_BY_CLASS, _BY_ID, _LOCK)):
        return  # Ray is still being imported
    with getattr(_own, _LOCK), getattr(rays, _LOCK):
        for name in (_BY_CLASS, _BY_ID):
            ours = getattr(_own, name)
            for key, value in list(getattr(rays, name).items()):
                ours.setdefault(key, value)
            setattr(rays, name, ours)
        setattr(rays, _LOCK, getattr(_own, _LOCK))
